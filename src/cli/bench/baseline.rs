//! The limits that Tramline is compared with, measured in the same run by the same means: two or three
//! processes, whole payloads written and read, counts at the receiver.
//!
//! This process is one end of each measurement; the other ends are actors in the roles of
//! [`bare`](super::bare). Each measurement is repeated and the best round counts, since whatever else runs
//! on the machine can only make it slower. A limit that still comes out far below what this kind of machine
//! is known for was disturbed, and the report says that its ratio does not count.

mod memory;

mod sockets;

use super::bare::Drained;
use super::payload::Touch;
use super::pin::Pin;
use crate::cli::Failure;
use crate::cli::clock::monotonic_nanos;
use crate::cli::histogram::{Latencies, Percentiles};
use crate::cli::role::READY;
use crate::cli::scene::{ActorNumber, Heard, Scene};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Bytes of a small message in all baselines.
pub(super) const SMALL_BYTES: usize = 64;
/// Messages written at once where a stream is batched.
pub(super) const BATCH: usize = 128;
/// Sizes at which memory is measured.
pub(super) const LARGE_BYTES: [usize; 3] = [64 << 10, 1 << 20, 8 << 20];
/// Where memory is measured with several readers.
pub(super) const FANOUT_BYTES: usize = 1 << 20;
/// How many these are.
pub(super) const FANOUT_READERS: usize = 8;
/// Fewest slots of a pass through memory: one being written, one being read, one on its way.
const SLOTS_MIN: usize = 3;
/// Below this part of the figure known for such machines, a baseline was disturbed.
const DISTURBED_BELOW: f64 = 0.7;
/// How much longer than its duration one round may take before its processes are given up.
const ROUND_GRACE: Duration = Duration::from_secs(20);

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Two processes spinning on shared memory, round trip.
    SharedMemoryPingPong,
    /// A blocking Unix stream socket, round trip.
    UnixPingPong,
    /// Through the smallest blocking relay between two Unix stream sockets, round trip.
    RelayPingPong,
    /// Unix stream socket, many messages a write.
    UnixStream,
    /// The same through the smallest relay.
    RelayStream,
    /// One thread copies memory.
    Memcpy,
    /// One process copies to plain shared memory and another reads it.
    CopyAndRead,
    /// One process fills plain shared memory and others read it.
    FillAndRead,
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    /// Less is better.
    Nanoseconds,
    /// More is better.
    MessagesPerSecond,
    /// More is better; 10⁹ bytes.
    GigabytesPerSecond,
}

/// One measured limit.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Baseline {
    /// Which.
    pub(super) kind: Kind,
    /// Bytes of a message or pass.
    pub(super) bytes: usize,
    /// Where the processes ran.
    pub(super) pin: Pin,
    /// Processes that read.
    pub(super) readers: usize,
    /// What `value` counts.
    pub(super) unit: Unit,
    /// The best round.
    pub(super) value: f64,
    /// All rounds.
    pub(super) rounds: Vec<f64>,
    /// The figure known for the machines this was first measured on.
    pub(super) known: Option<f64>,
    /// Too far from that figure to compare with.
    pub(super) disturbed: bool,
    /// Of the best round, where latency was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency: Option<Percentiles>,
}

/// How the baselines are measured.
pub(super) struct Plan<'a> {
    /// The cores that may be used.
    pub(super) cores: &'a [usize],
    /// How long one round takes.
    pub(super) duration: Duration,
    /// Called before each measurement.
    pub(super) progress: &'a dyn Fn(&str),
}

/// One round's value, and its latencies if that is what it measured.
type Round = (f64, Option<Percentiles>);

/// One limit to be measured.
#[derive(Debug, Clone, Copy)]
struct Limit {
    kind: Kind,
    bytes: usize,
    pin: Pin,
    readers: usize,
}

/// All limits, in the order of the report.
fn limits(cores: usize) -> Vec<Limit> {
    let of = |kind, bytes, pin, readers| Limit { kind, bytes, pin, readers };
    let mut all = vec![of(Kind::SharedMemoryPingPong, SMALL_BYTES, Pin::Split, 1)];
    for pin in [Pin::One, Pin::Split, Pin::None] {
        for kind in [Kind::UnixPingPong, Kind::RelayPingPong, Kind::UnixStream, Kind::RelayStream] {
            all.push(of(kind, SMALL_BYTES, pin, 1));
        }
    }
    for kind in [Kind::Memcpy, Kind::CopyAndRead, Kind::FillAndRead] {
        let pin = if kind == Kind::Memcpy { Pin::One } else { Pin::Split };
        all.extend(LARGE_BYTES.map(|bytes| of(kind, bytes, pin, 1)));
    }
    all.push(of(Kind::FillAndRead, FANOUT_BYTES, Pin::None, FANOUT_READERS));
    // Processes that spin, or are to have a core each, need two; on one there is no such limit.
    all.retain(|limit| limit.pin != Pin::Split && limit.readers == 1 || cores > 1);
    all
}

/// All limits, and the rounds of each as far as they were measured.
pub(super) struct Rounds(Vec<(Limit, Vec<Round>)>);

impl Rounds {
    /// None yet.
    pub(super) fn new(cores: usize) -> Self {
        Self(limits(cores).into_iter().map(|limit| (limit, Vec::new())).collect())
    }

    /// How many limits there are.
    pub(super) fn limits(&self) -> usize {
        self.0.len()
    }

    /// Measures one more round of each.
    pub(super) fn measure(&mut self, plan: &Plan<'_>) -> Result<(), Failure> {
        for (limit, rounds) in &mut self.0 {
            (plan.progress)(limit.kind.title());
            rounds.push(limit.round(plan)?);
        }
        Ok(())
    }

    /// The best of each.
    pub(super) fn best(&self) -> Vec<Baseline> {
        self.0.iter().map(|(limit, rounds)| limit.best(rounds)).collect()
    }
}

impl Limit {
    fn round(self, plan: &Plan<'_>) -> Result<Round, Failure> {
        let Self { kind, bytes, pin, readers } = self;
        match kind {
            Kind::SharedMemoryPingPong => memory::ping_pong(plan),
            Kind::UnixPingPong => sockets::unix_ping_pong(plan, pin, false),
            Kind::RelayPingPong => sockets::unix_ping_pong(plan, pin, true),
            Kind::UnixStream => sockets::unix_stream(plan, pin, false),
            Kind::RelayStream => sockets::unix_stream(plan, pin, true),
            Kind::Memcpy => memory::memcpy(plan, bytes),
            Kind::CopyAndRead => memory::write_and_read(plan, bytes, readers, Touch::Copied),
            Kind::FillAndRead => memory::write_and_read(plan, bytes, readers, Touch::All),
        }
    }

    fn best(self, rounds: &[Round]) -> Baseline {
        let Self { kind, bytes, pin, readers } = self;
        let unit = kind.unit();
        let better = |a: f64, b: f64| if unit == Unit::Nanoseconds { a < b } else { a > b };
        let (value, latency) = rounds
            .iter()
            .copied()
            .reduce(|best, next| if better(next.0, best.0) { next } else { best })
            .expect("there is at least one round");
        let known = known(kind, bytes, pin);
        let disturbed = known.is_some_and(|known| is_disturbed(unit, value, known));
        let rounds = rounds.iter().map(|round| round.0).collect();
        Baseline { kind, bytes, pin, readers, unit, value, rounds, known, disturbed, latency }
    }
}

/// The figure that two-core virtual machines of the kind used in development reach when nothing else runs.
fn known(kind: Kind, bytes: usize, pin: Pin) -> Option<f64> {
    Some(match (kind, pin, bytes) {
        (Kind::SharedMemoryPingPong, ..) => 300.0,
        (Kind::UnixPingPong, Pin::One, _) => 7_300.0,
        (Kind::RelayPingPong, Pin::One, _) => 13_400.0,
        (Kind::UnixStream, Pin::None, _) => 13.9e6,
        (Kind::RelayStream, Pin::None, _) => 9.9e6,
        (Kind::Memcpy, _, 0x1_0000) => 36.0,
        (Kind::Memcpy, _, 0x10_0000) => 22.0,
        (Kind::Memcpy, _, 0x80_0000) => 13.0,
        (Kind::FillAndRead, _, 0x80_0000) => 17.0,
        _ => return None,
    })
}

impl Kind {
    /// Whether nothing that moves the same bytes between two processes can be faster.
    pub(super) const fn is_bound(self) -> bool {
        matches!(self, Self::SharedMemoryPingPong | Self::CopyAndRead | Self::FillAndRead)
    }

    const fn unit(self) -> Unit {
        match self {
            Self::SharedMemoryPingPong | Self::UnixPingPong | Self::RelayPingPong => Unit::Nanoseconds,
            Self::UnixStream | Self::RelayStream => Unit::MessagesPerSecond,
            Self::Memcpy | Self::CopyAndRead | Self::FillAndRead => Unit::GigabytesPerSecond,
        }
    }

    /// What was measured, for people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::SharedMemoryPingPong => "shared-memory ping-pong, spinning",
            Self::UnixPingPong => "Unix-socket ping-pong, blocking",
            Self::RelayPingPong => "the same through a relay",
            Self::UnixStream => "Unix stream, 128 messages a write",
            Self::RelayStream => "the same through a relay",
            Self::Memcpy => "memcpy, one thread",
            Self::CopyAndRead => "copy and read, between processes",
            Self::FillAndRead => "fill and read, between processes",
        }
    }
}

impl Plan<'_> {
    fn core(&self, pin: Pin, index: usize) -> Option<usize> {
        pin.core(self.cores, index)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.duration + ROUND_GRACE
    }
}

fn is_disturbed(unit: Unit, value: f64, known: f64) -> bool {
    let reached = if unit == Unit::Nanoseconds { known / value } else { value / known };
    reached < DISTURBED_BELOW
}

fn median(latencies: &Latencies) -> Round {
    let percentiles = latencies.percentiles();
    (percentiles.p50 as f64, Some(percentiles))
}

/// 10⁹ bytes a second, which is bytes a nanosecond.
pub(super) fn gigabytes_per_second(bytes: u64, nanos: u64) -> f64 {
    bytes as f64 / nanos.max(1) as f64
}

fn nanos_from_now(duration: Duration) -> u64 {
    monotonic_nanos().saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

fn ready(scene: &mut Scene, actor: ActorNumber, deadline: Instant) -> Result<(), Failure> {
    match scene.expect_line(actor, deadline)?.as_str() {
        READY => Ok(()),
        other => {
            Err(Failure::software(format!("{} said {other:?} instead of being ready", scene.name(actor))))
        }
    }
}

/// The receivers' own counts, in their order.
fn drained(scene: &mut Scene, actors: &[ActorNumber], deadline: Instant) -> Result<Vec<Drained>, Failure> {
    let mut counts = vec![None; actors.len()];
    while let Some(missing) = counts.iter().position(Option::is_none) {
        let place = |actor| actors.iter().position(|known| *known == actor);
        match scene.listen(deadline)? {
            Heard::Line(actor, line) => {
                let Some(place) = place(actor) else { continue };
                counts[place] = Some(serde_json::from_str(&line).map_err(|error| {
                    Failure::software(format!("{} reported {line:?}: {error}", scene.name(actor)))
                })?);
            }
            // A relay ends when its sender has finished, a receiver when it has reported.
            Heard::Ended(actor, status)
                if status.success() && place(actor).is_none_or(|place| counts[place].is_some()) => {}
            Heard::Ended(actor, status) => return Err(scene.ended(actor, status)),
            Heard::Silence => return Err(gone(scene, actors[missing])),
        }
    }
    Ok(counts.into_iter().flatten().collect())
}

fn gone(scene: &Scene, actor: ActorNumber) -> Failure {
    Failure::timed_out(format!("{} (pid {}) does not answer", scene.name(actor), scene.pid(actor)))
}

fn memory_refused(error: std::io::Error) -> Failure {
    Failure::system(format!("no shared memory for a baseline: {error}"))
}

fn no_socket(error: std::io::Error) -> Failure {
    Failure::system(format!("no socket for a baseline: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_far_from_the_known_figure_is_disturbed() {
        assert!(!is_disturbed(Unit::Nanoseconds, 400.0, 300.0));
        assert!(is_disturbed(Unit::Nanoseconds, 430.0, 300.0));
        assert!(!is_disturbed(Unit::MessagesPerSecond, 10e6, 13.9e6));
        assert!(is_disturbed(Unit::GigabytesPerSecond, 9.0, 13.0));
        assert_eq!(known(Kind::UnixPingPong, SMALL_BYTES, Pin::None), None);
        assert_eq!(
            LARGE_BYTES.map(|bytes| known(Kind::Memcpy, bytes, Pin::One)),
            [36.0, 22.0, 13.0].map(Some)
        );
    }
}
