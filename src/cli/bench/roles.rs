//! The processes between which messages travel in a benchmark: clients like any other.
//!
//! Each prints [`READY`] when it is connected, begins when it is told [`GO`], and prints what it counted as
//! one JSON object. The last message of a sender carries the time 0.

use super::payload::{self, Touch};
use super::pin::pin_to;
use crate::cli::Failure;
use crate::cli::clock::{Pace, monotonic_nanos, wait_until};
use crate::cli::histogram::{Counts, Latencies};
use crate::cli::role::{READY, begin, say};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use tramline_client::{Batch, Client, MessageRef, Publisher, SlowPolicy, Subscription};

/// Payloads from this size on are filled where subscribers read them.
pub(super) const IN_PLACE_BYTES_MIN: usize = 4096;
/// Room in a ring, in messages.
const RING_MESSAGES_MAX: usize = 4096;
const RING_MESSAGES_MIN: usize = 3;
/// Messages taken at once by a receiver.
const TAKE_MESSAGES_MAX: usize = 256;
/// Messages sent between two looks at the clock.
const MESSAGES_PER_LOOK: u64 = 64;
/// How long a publisher waits for its subscribers.
const SUBSCRIBERS_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a slow subscriber on the socket may hold its publisher up, in milliseconds.
const SLOW_MILLIS: u32 = 10_000;

/// What the queue of a benchmark may hold, and how many jobs its consumer has at hand.
const QUEUE_MESSAGES_MAX: u64 = 4_000_000;
const QUEUE_BYTES_MAX: u64 = 1 << 30;
const PREFETCH: u32 = 2048;

/// How far the producer of a queue may be ahead of its consumer, in messages, and how often it hears of that.
const QUEUE_AHEAD_MAX: u64 = 65_536;
const QUEUE_TOLD_EVERY: u64 = 8_192;

const FORTH: &str = "bench.forth";
const BACK: &str = "bench.back";

/// What the consumer of a queue says each time it has taken [`QUEUE_TOLD_EVERY`] messages.
const TAKEN: &[u8] = b"taken";

/// On which plane messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Path {
    /// In shared memory
    Ring,
    /// Through the broker
    Socket,
    /// Through a queue, acknowledged
    Queue,
    /// A request and its answer, by a service
    Service,
}

/// How a process waits for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Wait {
    /// Looks again and again
    Spin,
    /// Looks again for a while after traffic, then sleeps
    Adaptive,
    /// Sleeps
    Park,
}

impl Path {
    /// The word on the command line.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Socket => "socket",
            Self::Queue => "queue",
            Self::Service => "service",
        }
    }
}

impl Wait {
    /// The word on the command line.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Park => "park",
        }
    }
}

/// What all roles of a measurement share.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Common {
    #[arg(long)]
    pub(super) socket: PathBuf,
    #[arg(long)]
    pub(super) path: Path,
    #[arg(long)]
    pub(super) wait: Wait,
    #[arg(long)]
    pub(super) bytes: usize,
    #[arg(long)]
    pub(super) untouched: bool,
    #[arg(long)]
    pub(super) copied: bool,
    #[arg(long)]
    pub(super) core: Option<usize>,
}

/// An end of a measurement.
#[derive(Debug, Clone, clap::Subcommand)]
pub(in crate::cli) enum BenchRole {
    /// Sends a message, waits for it to come back, and so on
    Ping {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        millis: u64,
    },
    /// Sends every message back
    Pong {
        #[command(flatten)]
        common: Common,
    },
    /// Sends messages, at a rate or as fast as it can
    Send {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        millis: u64,
        #[arg(long)]
        readers: usize,
        #[arg(long)]
        batch: usize,
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Counts messages
    Receive {
        #[command(flatten)]
        common: Common,
        #[arg(long)]
        lossy: bool,
        /// Whether messages say when they were to be sent
        #[arg(long)]
        timed: bool,
    },
}

/// What a role counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Messages sent, or received.
    pub(super) messages: u64,
    /// Of those received: with the bytes that belong to their number.
    pub(super) intact: u64,
    /// Of those received: with the number that was due, losses counted.
    pub(super) in_order: u64,
    /// Lost, as the subscription was told.
    pub(super) lost: u64,
    /// From the first to the last.
    pub(super) nanos: u64,
    /// Latencies, where they were measured.
    pub(super) latencies: Counts,
}

impl BenchRole {
    /// The command line that starts a process in this role.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = crate::cli::role::prefix();
        let (name, common) = match self {
            Self::Ping { common, .. } => ("ping", common),
            Self::Pong { common } => ("pong", common),
            Self::Send { common, .. } => ("send", common),
            Self::Receive { common, .. } => ("receive", common),
        };
        arguments.extend(["bench".to_owned(), name.to_owned()]);
        arguments.push(format!("--socket={}", common.socket.display()));
        arguments.push(format!("--path={}", common.path.as_str()));
        arguments.push(format!("--wait={}", common.wait.as_str()));
        arguments.push(format!("--bytes={}", common.bytes));
        arguments.extend(common.core.map(|core| format!("--core={core}")));
        arguments.extend(common.untouched.then(|| "--untouched".to_owned()));
        arguments.extend(common.copied.then(|| "--copied".to_owned()));
        match self {
            Self::Ping { millis, .. } => arguments.push(format!("--millis={millis}")),
            Self::Pong { .. } => {}
            Self::Send { millis, readers, batch, rate, .. } => {
                arguments.push(format!("--millis={millis}"));
                arguments.push(format!("--readers={readers}"));
                arguments.push(format!("--batch={batch}"));
                arguments.extend(rate.map(|rate| format!("--rate={rate}")));
            }
            Self::Receive { lossy, timed, .. } => {
                arguments.extend(lossy.then(|| "--lossy".to_owned()));
                arguments.extend(timed.then(|| "--timed".to_owned()));
            }
        }
        arguments
    }

    /// Plays the role to its end.
    pub(in crate::cli) fn run(self) -> Result<(), Failure> {
        let tally = match self {
            Self::Ping { common, millis } if common.path == Path::Service => {
                super::service::ping(&common, Duration::from_millis(millis))?
            }
            Self::Pong { common } if common.path == Path::Service => super::service::pong(&common)?,
            Self::Ping { common, millis } => ping(&common, Duration::from_millis(millis))?,
            Self::Pong { common } => pong(&common)?,
            Self::Send { common, millis, readers, batch, rate } => {
                send(&common, Duration::from_millis(millis), readers, batch, rate)?
            }
            Self::Receive { common, lossy, timed } => receive(&common, lossy, timed)?,
        };
        let report = serde_json::to_string(&tally).map_err(Failure::software)?;
        say(&report)
    }
}

impl Common {
    pub(super) fn touch(&self) -> Touch {
        match (self.untouched, self.copied) {
            (true, _) => Touch::StampOnly,
            (false, true) => Touch::Copied,
            (false, false) => Touch::All,
        }
    }

    /// Room to write messages in that are not filled in place.
    pub(super) fn room(&self, messages: usize) -> Vec<u8> {
        let mut room = vec![0; self.bytes * messages];
        room.chunks_exact_mut(self.bytes).for_each(payload::prepare);
        room
    }

    pub(super) fn connect(&self, name: &str) -> Result<Client, Failure> {
        if let Some(core) = self.core {
            pin_to(core)?;
        }
        let builder = Client::builder().name(name).socket(&self.socket).reconnect(false);
        let builder = match self.wait {
            Wait::Spin => builder.spin(Duration::MAX),
            Wait::Adaptive => builder,
            Wait::Park => builder.spin(Duration::ZERO),
        };
        let builder = match self.path {
            Path::Ring | Path::Queue | Path::Service => builder,
            // However large: what is measured is the way through the broker.
            Path::Socket => builder.ring_payload_bytes_min(usize::MAX),
        };
        Ok(builder.connect()?)
    }

    fn subscribe(&self, client: &Client, topic: &str, lossy: bool) -> Result<Subscription, Failure> {
        let subscription = client.subscription(topic);
        let subscription = if lossy {
            subscription.lossy().on_slow(SlowPolicy::DropOldest)
        } else {
            subscription.gated().on_slow(SlowPolicy::Block { millis: SLOW_MILLIS })
        };
        Ok(subscription.open()?)
    }

    fn outlet(&self, client: &Client, topic: &'static str) -> Result<Outlet, Failure> {
        match self.path {
            Path::Ring => {
                // Untouched messages of all sizes take the same way: through a ring for few.
                let most = if self.untouched { RING_MESSAGES_MIN } else { RING_MESSAGES_MAX };
                let messages = payload::slots(self.bytes).clamp(RING_MESSAGES_MIN, most);
                let messages = u32::try_from(messages).expect("clamped to a small number");
                Ok(Outlet::Ring(client.publisher(topic).capacity(self.bytes, messages).open()?))
            }
            Path::Queue => {
                let told = Box::new(self.subscribe(client, BACK, false)?);
                Ok(Outlet::Queue { client: client.clone(), told, taken: 0 })
            }
            Path::Socket | Path::Service => {
                Ok(Outlet::Socket { client: client.clone(), batch: client.batch(), topic })
            }
        }
    }
}

/// Whether messages in a ring are filled where they are read.
pub(super) fn in_place(bytes: usize, touch: Touch) -> bool {
    match touch {
        // Whether a small one that nobody fills is copied would be all that is measured.
        Touch::StampOnly => true,
        Touch::All => bytes >= IN_PLACE_BYTES_MIN,
        Touch::Copied => false,
    }
}

/// Where messages leave this process.
enum Outlet {
    Ring(Publisher),
    Socket {
        client: Client,
        batch: Batch,
        topic: &'static str,
    },
    /// How many its consumer has taken as far as it told.
    Queue {
        client: Client,
        told: Box<Subscription>,
        taken: u64,
    },
}

impl Outlet {
    fn wait_for_subscribers(&self, count: usize) -> Result<(), Failure> {
        match self {
            Self::Ring(publisher) => Ok(publisher.wait_for_subscribers(count, SUBSCRIBERS_WAIT_MAX)?),
            // Whoever says it is ready has its subscription confirmed by the broker.
            Self::Socket { .. } | Self::Queue { .. } => Ok(()),
        }
    }

    /// Sends messages `first..first + count` of `room.len() / count` bytes, written into `room` or, if large, in place.
    fn send(
        &mut self,
        room: &mut [u8],
        first: u64,
        count: usize,
        time: u64,
        touch: Touch,
    ) -> Result<(), Failure> {
        let bytes = room.len() / count;
        match self {
            Self::Ring(publisher) if in_place(bytes, touch) => {
                for number in (first..).take(count) {
                    let mut loan = publisher.loan(bytes)?;
                    payload::write(&mut loan, number, time, touch);
                    loan.send()?;
                }
                return Ok(());
            }
            _ => {
                for (message, number) in room.chunks_exact_mut(bytes).zip(first..) {
                    payload::write(message, number, time, touch);
                }
            }
        }
        match self {
            Self::Ring(publisher) if count == 1 => drop(publisher.send(&*room)?),
            Self::Ring(publisher) => drop(publisher.send_batch(room.chunks_exact(bytes))?),
            Self::Queue { client, told, taken } => {
                while first.saturating_sub(*taken) > QUEUE_AHEAD_MAX {
                    *taken += QUEUE_TOLD_EVERY * u64::from(told.recv()?.payload() == TAKEN);
                }
                for message in room.chunks_exact(bytes) {
                    client.push(FORTH, message).send_soon()?;
                }
            }
            Self::Socket { client, topic, .. } if count == 1 => drop(client.publish(topic, &*room)?),
            Self::Socket { batch, topic, .. } => {
                for message in room.chunks_exact(bytes) {
                    batch.publish(topic, message)?;
                }
                batch.send()?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Ring(publisher) => Ok(publisher.close()?),
            Self::Socket { client, .. } | Self::Queue { client, .. } => Ok(client.flush()?),
        }
    }
}

fn ping(common: &Common, duration: Duration) -> Result<Tally, Failure> {
    let touch = common.touch();
    let client = common.connect("bench ping")?;
    let mut back = common.subscribe(&client, BACK, false)?;
    let mut forth = common.outlet(&client, FORTH)?;
    begin()?;
    forth.wait_for_subscribers(1)?;
    let mut room = common.room(1);
    let (mut tally, mut latencies) = (Tally::default(), Latencies::new());
    let began = monotonic_nanos();
    let end = began.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let mut before = began;
    while before < end {
        forth.send(&mut room, tally.messages, 1, before, touch)?;
        let message = back.recv()?;
        tally.count(message.by_ref(), touch)?;
        drop(message);
        let now = monotonic_nanos();
        // The first round trip may have waited for the other process to attach.
        if tally.messages > 1 {
            latencies.record(now - before);
        }
        before = now;
    }
    tally.nanos = before - began;
    tally.latencies = latencies.counts();
    forth.send(&mut room, tally.messages, 1, 0, touch)?;
    forth.finish()?;
    Ok(tally)
}

fn pong(common: &Common) -> Result<Tally, Failure> {
    let touch = common.touch();
    let client = common.connect("bench pong")?;
    let mut forth = common.subscribe(&client, FORTH, false)?;
    let mut back = common.outlet(&client, BACK)?;
    begin()?;
    back.wait_for_subscribers(1)?;
    let mut room = common.room(1);
    let mut tally = Tally::default();
    loop {
        let message = forth.recv()?;
        let stamp = tally.count(message.by_ref(), touch)?;
        drop(message);
        if stamp.time == 0 {
            return Ok(tally);
        }
        back.send(&mut room, stamp.number, 1, stamp.time, touch)?;
    }
}

fn send(
    common: &Common,
    duration: Duration,
    readers: usize,
    batch: usize,
    rate: Option<f64>,
) -> Result<Tally, Failure> {
    let touch = common.touch();
    let client = common.connect("bench send")?;
    let mut outlet = common.outlet(&client, FORTH)?;
    begin()?;
    outlet.wait_for_subscribers(readers)?;
    let batch = if rate.is_some() { 1 } else { batch.max(1) };
    let mut room = common.room(batch);
    let began = monotonic_nanos();
    let end = began.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let pace = rate.map(|rate| Pace::new(began, rate));
    let (mut number, mut now) = (0, began);
    loop {
        if let Some(pace) = &pace {
            // Whatever held the last message up, this one's time runs from when it was due.
            now = pace.due(number);
            if now < end {
                wait_until(now);
            }
        } else if batch as u64 >= MESSAGES_PER_LOOK
            || common.bytes >= IN_PLACE_BYTES_MIN
            || number.is_multiple_of(MESSAGES_PER_LOOK)
        {
            now = monotonic_nanos();
        }
        if now >= end {
            break;
        }
        outlet.send(&mut room, number, batch, now, touch)?;
        number += batch as u64;
    }
    outlet.send(&mut room[..common.bytes], number, 1, 0, touch)?;
    let nanos = monotonic_nanos() - began;
    outlet.finish()?;
    Ok(Tally { messages: number + 1, nanos, ..Tally::default() })
}

fn receive(common: &Common, lossy: bool, timed: bool) -> Result<Tally, Failure> {
    let touch = common.touch();
    let client = common.connect("bench receive")?;
    if common.path == Path::Queue {
        return consume(&client, touch);
    }
    let mut subscription = common.subscribe(&client, FORTH, lossy)?;
    say(READY)?;
    let (mut tally, mut latencies) = (Tally::default(), Latencies::new());
    let (mut began, mut ended, mut failed) = (None, false, None);
    while !ended {
        subscription.recv_each(TAKE_MESSAGES_MAX, |message| {
            let began = *began.get_or_insert_with(monotonic_nanos);
            match tally.count(message, touch) {
                Ok(stamp) if stamp.time == 0 => {
                    tally.nanos = monotonic_nanos() - began;
                    ended = true;
                }
                Ok(stamp) if timed => latencies.record(monotonic_nanos().saturating_sub(stamp.time)),
                Ok(_) => {}
                Err(failure) => failed = Some(failure),
            }
        })?;
        if let Some(failure) = failed {
            return Err(failure);
        }
    }
    tally.latencies = latencies.counts();
    Ok(tally)
}

fn consume(client: &Client, touch: Touch) -> Result<Tally, Failure> {
    client.queue(FORTH).messages_max(QUEUE_MESSAGES_MAX).bytes_max(QUEUE_BYTES_MAX).declare()?;
    let mut jobs = client.consume(FORTH).prefetch(PREFETCH).start()?;
    say(READY)?;
    let mut tally = Tally::default();
    let mut began = None;
    loop {
        let job = jobs.recv()?;
        let began = *began.get_or_insert_with(monotonic_nanos);
        let stamp = tally.count(job.by_ref(), touch)?;
        job.ack()?;
        if tally.messages.is_multiple_of(QUEUE_TOLD_EVERY) {
            client.publish(BACK, TAKEN)?;
        }
        if stamp.time == 0 {
            tally.nanos = monotonic_nanos() - began;
            drop(jobs);
            client.flush()?;
            return Ok(tally);
        }
    }
}

impl Tally {
    pub(super) fn count(&mut self, message: MessageRef<'_>, touch: Touch) -> Result<payload::Stamp, Failure> {
        let stamp = payload::read(message.payload(), touch).ok_or_else(|| {
            Failure::software(format!("a message of {} bytes in a benchmark", message.payload().len()))
        })?;
        self.lost += message.lost_before();
        self.intact += u64::from(stamp.intact);
        self.in_order += u64::from(stamp.number == self.messages + self.lost);
        self.messages += 1;
        Ok(stamp)
    }
}
