//! Programs that behave badly, for `tramline bench isolation`: what they do must stay their own affair.
//!
//! Each prints [`READY`] when it has begun to misbehave and goes on until it is ended. Where somebody else has to
//! publish for it to misbehave, a second process does; none of them publishes what is measured.

use crate::cli::Failure;
use crate::cli::clock::{Pace, monotonic_nanos, wait_until};
use crate::cli::role::{READY, say};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tramline_client::{Client, SlowPolicy};

/// Bytes of a frame that the slow viewer looks at.
const FRAME_BYTES: usize = 8 << 20;
/// Frames a second.
const FRAMES_PER_SECOND: f64 = 20.0;
/// Bytes of the messages that the gated reader holds up.
const SMALL_BYTES: usize = 64;
/// How long slow readers rest between two reads.
const REST: Duration = Duration::from_millis(50);
/// Bytes that the slow viewer reads at a time.
const SIP_BYTES: usize = 4096;
/// Bytes that one that keeps up reads at a time.
const HEED_BYTES: usize = 256 << 10;
/// What the offenders' own publishers publish to.
const FRAMES: &str = "offence.frames";
const HELD: &str = "offence.held";

/// A part in an offence.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Offend {
    #[arg(long)]
    socket: PathBuf,
    #[arg(value_enum)]
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Reads everything, until it is stopped from outside
    Watch,
    /// Publishes large frames in place
    Film,
    /// Looks at them as JSON, slowly
    View,
    /// Publishes through a ring as fast as it may
    Pour,
    /// Holds that up: takes one message now and then
    Sip,
    /// Subscribes to everything and reads nothing
    Ignore,
    /// Subscribes to everything as JSON and reads it
    Heed,
    /// Connects, greets, goes, and connects again
    Knock,
    /// Burns a core and talks to nobody
    Burn,
}

/// Who misbehaves beside a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Offender {
    /// `tramline sub '>'`, stopped by a signal.
    StoppedWatcher,
    /// A slow JSON reader of large frames.
    SlowViewer,
    /// A gated reader that takes one message now and then.
    GatedSipper,
    /// A client that never reads its socket.
    Ignorer,
    /// One that connects in a loop.
    Knocker,
    /// No offender, as those that follow: a process that takes a core from everybody, for comparison.
    Burner,
    /// `tramline sub '>'` that reads.
    Watcher,
    /// A JSON client that reads everything.
    Heeder,
    /// The publisher of large frames alone.
    Filmer,
    /// The publisher that the gated reader holds up, alone.
    Pourer,
}

impl Offender {
    /// All of them, in the order of the report: what each is compared with, then itself.
    pub(super) const ALL: [Self; 10] = [
        Self::Watcher,
        Self::StoppedWatcher,
        Self::Heeder,
        Self::Ignorer,
        Self::Filmer,
        Self::SlowViewer,
        Self::Pourer,
        Self::GatedSipper,
        Self::Burner,
        Self::Knocker,
    ];

    /// Who costs what this one may: the same who behaves well. `None`: it is what others are compared with.
    pub(super) const fn fair(self) -> Option<Self> {
        match self {
            Self::StoppedWatcher => Some(Self::Watcher),
            Self::Ignorer => Some(Self::Heeder),
            Self::SlowViewer => Some(Self::Filmer),
            Self::GatedSipper => Some(Self::Pourer),
            Self::Knocker => Some(Self::Burner),
            Self::Burner | Self::Watcher | Self::Heeder | Self::Filmer | Self::Pourer => None,
        }
    }

    /// What it does, for people.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::StoppedWatcher => "stopped sub '>'",
            Self::SlowViewer => "slow JSON viewer of 8 MiB frames",
            Self::GatedSipper => "gated reader, one message now and then",
            Self::Ignorer => "reads nothing",
            Self::Knocker => "connects in a loop",
            Self::Burner => "(burns a core, talks to nobody)",
            Self::Watcher => "(sub '>' that reads)",
            Self::Heeder => "(JSON reader of everything)",
            Self::Filmer => "(publisher of 8 MiB frames alone)",
            Self::Pourer => "(publisher at full speed alone)",
        }
    }

    /// Whether it is stopped once everybody is attached.
    pub(super) const fn is_stopped(self) -> bool {
        matches!(self, Self::StoppedWatcher)
    }

    /// The command lines of its processes, in the order in which they start.
    pub(super) fn processes(self, socket: &Path) -> Vec<(&'static str, Vec<String>)> {
        let parts: &[&'static str] = match self {
            Self::StoppedWatcher => &["watch"],
            Self::SlowViewer => &["film", "view"],
            Self::GatedSipper => &["sip", "pour"],
            Self::Ignorer => &["ignore"],
            Self::Knocker => &["knock"],
            Self::Burner => &["burn"],
            Self::Watcher => &["watch"],
            Self::Heeder => &["heed"],
            Self::Filmer => &["film"],
            Self::Pourer => &["pour"],
        };
        let command = |part: &&'static str| {
            let mut arguments = crate::cli::role::prefix();
            arguments.extend([
                "offend".to_owned(),
                format!("--socket={}", socket.display()),
                (*part).to_owned(),
            ]);
            (*part, arguments)
        };
        parts.iter().map(command).collect()
    }
}

impl Offend {
    /// Misbehaves until it is ended.
    pub(in crate::cli) fn run(self) -> Result<(), Failure> {
        match self.part {
            Part::Watch => watch(&self.client("offender watch")?),
            Part::Film => film(&self.client("offender film")?),
            Part::View => view(&self.socket),
            Part::Pour => pour(&self.client("offender pour")?),
            Part::Sip => sip(&self.client("offender sip")?),
            Part::Ignore => ignore(&self.socket),
            Part::Heed => heed(&self.socket),
            Part::Knock => knock(&self.socket),
            Part::Burn => burn(),
        }
    }

    fn client(&self, name: &str) -> Result<Client, Failure> {
        Ok(Client::builder().name(name).socket(&self.socket).reconnect(false).connect()?)
    }
}

fn watch(client: &Client) -> Result<(), Failure> {
    let mut everything = client.subscription(">").lossy().on_slow(SlowPolicy::DropOldest).open()?;
    say(READY)?;
    loop {
        everything.recv_each(usize::MAX, |_| ())?;
    }
}

fn film(client: &Client) -> Result<(), Failure> {
    let mut frames = client.publisher(FRAMES).capacity(FRAME_BYTES, 3).open()?;
    say(READY)?;
    let pace = Pace::new(monotonic_nanos(), FRAMES_PER_SECOND);
    for number in 0.. {
        wait_until(pace.due(number));
        frames.loan(FRAME_BYTES)?.send()?;
    }
    Ok(())
}

/// Subscribes as JSON and waits until that was answered.
fn subscribe(socket: &Path, filter: &str) -> Result<BufReader<UnixStream>, Failure> {
    let lost = |error: std::io::Error| Failure::unavailable(format!("{}: {error}", socket.display()));
    let mut stream = UnixStream::connect(socket).map_err(lost)?;
    writeln!(stream, "{{\"op\":\"sub\",\"topic\":\"{filter}\"}}").map_err(lost)?;
    let mut reader = BufReader::with_capacity(SIP_BYTES, stream);
    reader.read_line(&mut String::new()).map_err(lost)?;
    say(READY)?;
    Ok(reader)
}

fn view(socket: &Path) -> Result<(), Failure> {
    let mut reader = subscribe(socket, FRAMES)?;
    let mut sip = [0; SIP_BYTES];
    while reader.get_mut().read(&mut sip).is_ok_and(|bytes| bytes > 0) {
        std::thread::park_timeout(REST);
    }
    Err(Failure::unavailable("the viewer was disconnected"))
}

fn pour(client: &Client) -> Result<(), Failure> {
    let mut held = client.publisher(HELD).capacity(SMALL_BYTES, 64).open()?;
    say(READY)?;
    loop {
        held.send([0; SMALL_BYTES])?;
    }
}

fn sip(client: &Client) -> Result<(), Failure> {
    let mut subscription = client.subscription(HELD).gated().open()?;
    say(READY)?;
    loop {
        subscription.recv()?;
        std::thread::park_timeout(REST);
    }
}

fn ignore(socket: &Path) -> Result<(), Failure> {
    let _unread = subscribe(socket, ">")?;
    loop {
        std::thread::park();
    }
}

fn heed(socket: &Path) -> Result<(), Failure> {
    let mut reader = subscribe(socket, ">")?;
    let mut lines = vec![0; HEED_BYTES];
    while reader.get_mut().read(&mut lines).is_ok_and(|bytes| bytes > 0) {}
    Err(Failure::unavailable("the reader was disconnected"))
}

fn knock(socket: &Path) -> Result<(), Failure> {
    say(READY)?;
    loop {
        // Turned away or not: it comes again.
        if let Ok(mut stream) = UnixStream::connect(socket) {
            let _ = stream.write_all(&tramline_wire::preamble::request());
        }
    }
}

fn burn() -> Result<(), Failure> {
    say(READY)?;
    loop {
        std::hint::spin_loop();
    }
}
