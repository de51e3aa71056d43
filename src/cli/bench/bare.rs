//! The other ends of the baselines: processes that know nothing of Tramline.
//!
//! Each takes its socket or memory as standard input, so that nothing but the measured path is between the
//! processes, and ends when its input does or when its parent does.

use super::baseline::gigabytes_per_second;
use super::framing;
use super::payload::{self, Touch};
use super::pin::pin_to;
use crate::cli::Failure;
use crate::cli::clock::monotonic_nanos;
use crate::cli::role::READY;
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use tramline_ring::baseline::Exchange;

/// How much a stream's receiver and relay take at once, in bytes.
const READ_BYTES: usize = 256 << 10;

/// One end of a baseline.
#[derive(Debug, Clone, clap::Subcommand)]
pub(in crate::cli) enum BareRole {
    /// Passes shared memory back as soon as it gets it
    EchoExchange {
        #[arg(long)]
        core: Option<usize>,
    },
    /// Reads what is written to shared memory
    DrainExchange {
        /// Whether messages are copied in and alike but for their stamps
        #[arg(long)]
        copied: bool,
        #[arg(long)]
        core: Option<usize>,
    },
    /// Sends each message back
    EchoStream {
        #[arg(long)]
        bytes: usize,
        #[arg(long)]
        core: Option<usize>,
    },
    /// Reads messages to the end
    DrainStream {
        #[arg(long)]
        core: Option<usize>,
    },
    /// Carries one message there and one back in turn, from standard input to standard output
    RelayTurns {
        #[arg(long)]
        bytes: usize,
        #[arg(long)]
        core: Option<usize>,
    },
    /// Carries all bytes from standard input to standard output
    RelayStream {
        #[arg(long)]
        core: Option<usize>,
    },
}

/// What a receiver counted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Drained {
    /// Whole messages.
    pub(super) messages: u64,
    /// Of these, with the number and bytes that were due.
    pub(super) intact: u64,
    /// Nanoseconds from the first to the last.
    pub(super) nanos: u64,
}

impl Drained {
    /// Whether everything that was sent arrived intact and in order.
    pub(super) fn check(&self, sent: u64) -> Result<(), Failure> {
        if self.messages == sent && self.intact == sent {
            return Ok(());
        }
        let Self { messages, intact, .. } = self;
        Err(Failure::software(format!(
            "of {sent} messages of a baseline {messages} arrived, {intact} intact"
        )))
    }

    /// Messages a second.
    pub(super) fn messages_per_second(&self) -> f64 {
        self.messages as f64 * 1e9 / self.nanos.max(1) as f64
    }

    /// 10⁹ bytes a second.
    pub(super) fn gigabytes_per_second(&self, bytes: usize) -> f64 {
        gigabytes_per_second(self.messages * bytes as u64, self.nanos)
    }
}

impl BareRole {
    /// The role's name on the command line and in messages.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::EchoExchange { .. } => "echo-exchange",
            Self::DrainExchange { .. } => "drain-exchange",
            Self::EchoStream { .. } => "echo-stream",
            Self::DrainStream { .. } => "drain-stream",
            Self::RelayTurns { .. } => "relay-turns",
            Self::RelayStream { .. } => "relay-stream",
        }
    }

    /// The command line that starts a process in this role.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = crate::cli::role::prefix();
        arguments.extend(["bare".to_owned(), self.name().to_owned()]);
        if let Self::EchoStream { bytes, .. } | Self::RelayTurns { bytes, .. } = self {
            arguments.push(format!("--bytes={bytes}"));
        }
        if matches!(self, Self::DrainExchange { copied: true, .. }) {
            arguments.push("--copied".to_owned());
        }
        arguments.extend(self.core().map(|core| format!("--core={core}")));
        arguments
    }

    const fn core(&self) -> Option<usize> {
        match self {
            Self::EchoExchange { core }
            | Self::DrainExchange { core, .. }
            | Self::EchoStream { core, .. }
            | Self::DrainStream { core }
            | Self::RelayTurns { core, .. }
            | Self::RelayStream { core } => *core,
        }
    }

    /// Plays the role to its end.
    pub(in crate::cli) fn run(self) -> Result<(), Failure> {
        if let Some(core) = self.core() {
            pin_to(core)?;
        }
        let played = match self {
            Self::EchoExchange { .. } => echo_exchange(),
            Self::DrainExchange { copied, .. } => drain_exchange(copied),
            Self::EchoStream { bytes, .. } => echo_stream(bytes),
            Self::DrainStream { .. } => drain_stream(),
            Self::RelayTurns { bytes, .. } => relay_turns(bytes),
            Self::RelayStream { .. } => relay_stream(),
        };
        match played {
            // The other side has finished.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                Ok(())
            }
            result => result.map_err(|error| Failure::system(format!("a baseline's far end: {error}"))),
        }
    }
}

fn echo_exchange() -> std::io::Result<()> {
    let mut exchange = Exchange::join(std::io::stdin())?;
    say(READY)?;
    // Ended by whoever started it.
    while let Some(slot) = exchange.take(0, || false) {
        let stamp = payload::read(slot, Touch::All).ok_or(ErrorKind::InvalidData)?;
        if !stamp.intact {
            return Err(ErrorKind::InvalidData.into());
        }
        payload::write(slot, stamp.number, stamp.time, Touch::All);
        exchange.pass(0);
    }
    Ok(())
}

fn drain_exchange(copied: bool) -> std::io::Result<()> {
    let touch = if copied { Touch::Copied } else { Touch::All };
    let mut exchange = Exchange::join(std::io::stdin())?;
    let slots = exchange.slots();
    say(READY)?;
    let mut count = Count::default();
    for slot in (0..slots).cycle() {
        let Some(stamp) = exchange.take(slot, || false).and_then(|bytes| payload::read(bytes, touch)) else {
            break;
        };
        count.add(stamp);
        exchange.pass(slot);
        if stamp.time == 0 {
            break;
        }
    }
    count.report()
}

fn echo_stream(bytes: usize) -> std::io::Result<()> {
    let mut stream = socket(&std::io::stdin())?;
    let mut message = vec![0; bytes];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

fn drain_stream() -> std::io::Result<()> {
    let mut stream = socket(&std::io::stdin())?;
    let mut buffer = vec![0; READ_BYTES];
    let (mut filled, mut count) = (0, Count::default());
    say(READY)?;
    loop {
        let got = stream.read(&mut buffer[filled..])?;
        if got == 0 {
            return count.report();
        }
        filled += got;
        let mut rest = &buffer[..filled];
        while let Some((message, behind)) = framing::split(rest) {
            count.add(payload::read(message, Touch::All).ok_or(ErrorKind::InvalidData)?);
            rest = behind;
        }
        let left = rest.len();
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
    }
}

fn relay_turns(bytes: usize) -> std::io::Result<()> {
    let (mut near, mut far) = (socket(&std::io::stdin())?, socket(&std::io::stdout())?);
    let mut message = vec![0; bytes];
    loop {
        near.read_exact(&mut message)?;
        far.write_all(&message)?;
        far.read_exact(&mut message)?;
        near.write_all(&message)?;
    }
}

fn relay_stream() -> std::io::Result<()> {
    let (mut near, mut far) = (socket(&std::io::stdin())?, socket(&std::io::stdout())?);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let got = near.read(&mut buffer)?;
        if got == 0 {
            return far.shutdown(std::net::Shutdown::Write);
        }
        far.write_all(&buffer[..got])?;
    }
}

/// The socket behind a standard stream.
fn socket(stream: &impl AsFd) -> std::io::Result<UnixStream> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Counts at the receiver.
#[derive(Default)]
struct Count {
    messages: u64,
    intact: u64,
    began: Option<u64>,
}

impl Count {
    fn add(&mut self, stamp: payload::Stamp) {
        self.began.get_or_insert_with(monotonic_nanos);
        self.intact += u64::from(stamp.intact && stamp.number == self.messages);
        self.messages += 1;
    }

    fn report(self) -> std::io::Result<()> {
        let now = monotonic_nanos();
        let nanos = now - self.began.unwrap_or(now);
        say(&serde_json::to_string(&Drained { messages: self.messages, intact: self.intact, nanos })?)
    }
}
