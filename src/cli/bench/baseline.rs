//! The limits that Tramline is compared with, measured in the same run by the same means: two or three
//! processes, whole payloads written and read, counts at the receiver.
//!
//! This process is one end of each measurement; the other ends are actors in the roles of
//! [`bare`](super::bare). Each measurement is repeated and the best round counts, since whatever else runs
//! on the machine can only make it slower. A limit that still comes out far below what this kind of machine
//! is known for was disturbed, and the report says that its ratio does not count.

use super::bare::{BareRole, Drained};
use super::payload::{self, STAMP_BYTES, Touch};
use super::pin::{Pin, Pinned};
use crate::cli::Failure;
use crate::cli::clock::monotonic_nanos;
use crate::cli::histogram::{Latencies, Percentiles};
use crate::cli::role::READY;
use crate::cli::scene::{ActorNumber, Heard, Scene};
use serde::Serialize;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tramline_ring::baseline::{Exchange, SLOTS_MAX};

/// Bytes of a small message in all baselines.
pub(super) const SMALL_BYTES: usize = 64;
/// Messages written at once where a stream is batched.
pub(super) const BATCH: usize = 128;
/// Sizes at which memory is measured.
pub(super) const LARGE_BYTES: [usize; 3] = [64 << 10, 1 << 20, 8 << 20];
/// Fewest slots of the fill-and-read pass: one being filled, one being read, one on its way.
const SLOTS_MIN: usize = 3;
/// Where small slots are filled and read, so many that they do not all stay in the filling core's own cache,
/// from which another core reads slowly: this many bytes in all.
const SLOT_BYTES_TOTAL: usize = 4 << 20;
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
    /// One process fills plain shared memory and another reads it.
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
    /// How many rounds; the best counts.
    pub(super) rounds: u32,
    /// Called before each measurement.
    pub(super) progress: &'a dyn Fn(&str),
}

/// One round's value, and its latencies if that is what it measured.
type Round = (f64, Option<Percentiles>);

/// How many measurements [`measure_all`] makes, for a progress bar.
pub(super) const COUNT: u64 = 14;

/// Measures everything.
pub(super) fn measure_all(plan: &Plan<'_>) -> Result<Vec<Baseline>, Failure> {
    let mut all = Vec::new();
    if plan.cores.len() > 1 {
        // Two processes that spin need two cores; on one there is no such limit.
        let kind = Kind::SharedMemoryPingPong;
        all.push(plan.best(kind, SMALL_BYTES, Pin::Split, || shared_memory_ping_pong(plan))?);
    }
    for pin in [Pin::One, Pin::None] {
        all.push(plan.best(Kind::UnixPingPong, SMALL_BYTES, pin, || unix_ping_pong(plan, pin, false))?);
        all.push(plan.best(Kind::RelayPingPong, SMALL_BYTES, pin, || unix_ping_pong(plan, pin, true))?);
        all.push(plan.best(Kind::UnixStream, SMALL_BYTES, pin, || unix_stream(plan, pin, false))?);
        all.push(plan.best(Kind::RelayStream, SMALL_BYTES, pin, || unix_stream(plan, pin, true))?);
    }
    for bytes in LARGE_BYTES {
        all.push(plan.best(Kind::Memcpy, bytes, Pin::One, || memcpy(plan, bytes))?);
    }
    for bytes in LARGE_BYTES {
        if plan.cores.len() > 1 {
            all.push(plan.best(Kind::FillAndRead, bytes, Pin::Split, || fill_and_read(plan, bytes))?);
        }
    }
    Ok(all)
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
        matches!(self, Self::SharedMemoryPingPong | Self::FillAndRead)
    }

    const fn unit(self) -> Unit {
        match self {
            Self::SharedMemoryPingPong | Self::UnixPingPong | Self::RelayPingPong => Unit::Nanoseconds,
            Self::UnixStream | Self::RelayStream => Unit::MessagesPerSecond,
            Self::Memcpy | Self::FillAndRead => Unit::GigabytesPerSecond,
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
            Self::FillAndRead => "fill and read, two processes",
        }
    }
}

impl Plan<'_> {
    fn best(
        &self,
        kind: Kind,
        bytes: usize,
        pin: Pin,
        round: impl Fn() -> Result<Round, Failure>,
    ) -> Result<Baseline, Failure> {
        (self.progress)(kind.title());
        let rounds = (0..self.rounds.max(1)).map(|_| round()).collect::<Result<Vec<_>, _>>()?;
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
        Ok(Baseline { kind, bytes, pin, unit, value, rounds, known, disturbed, latency })
    }

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

fn shared_memory_ping_pong(plan: &Plan<'_>) -> Result<Round, Failure> {
    let mut scene = Scene::open("bench")?;
    let mut exchange = Exchange::create(1, SMALL_BYTES).map_err(memory_refused)?;
    let memory = exchange.memory().try_clone_to_owned().map_err(memory_refused)?;
    let _pinned = Pinned::to(plan.core(Pin::Split, 0))?;
    let role = BareRole::EchoExchange { core: plan.core(Pin::Split, 1) };
    let echo =
        scene.start_with(role.name(), &role.arguments(), memory.into(), Stdio::piped(), Stdio::inherit())?;
    ready(&mut scene, echo, plan.deadline())?;
    let mut latencies = Latencies::new();
    let (end, give_up) = (nanos_from_now(plan.duration), plan.deadline());
    // The first turn is this side's; every further one ends a round trip.
    exchange.take(0, || false);
    let mut before = monotonic_nanos();
    while before < end {
        exchange.pass(0);
        if exchange.take(0, || Instant::now() > give_up).is_none() {
            return Err(gone(&scene, echo));
        }
        let now = monotonic_nanos();
        latencies.record(now - before);
        before = now;
    }
    Ok(median(&latencies))
}

fn fill_and_read(plan: &Plan<'_>, bytes: usize) -> Result<Round, Failure> {
    let mut scene = Scene::open("bench")?;
    let slots = (SLOT_BYTES_TOTAL / bytes).clamp(SLOTS_MIN, SLOTS_MAX);
    let mut exchange = Exchange::create(slots, bytes).map_err(memory_refused)?;
    let memory = exchange.memory().try_clone_to_owned().map_err(memory_refused)?;
    let _pinned = Pinned::to(plan.core(Pin::Split, 0))?;
    let role = BareRole::DrainExchange { core: plan.core(Pin::Split, 1) };
    let reader =
        scene.start_with(role.name(), &role.arguments(), memory.into(), Stdio::piped(), Stdio::inherit())?;
    ready(&mut scene, reader, plan.deadline())?;
    let (end, give_up) = (nanos_from_now(plan.duration), plan.deadline());
    let (mut number, mut last) = (0, false);
    while !last {
        let slot = usize::try_from(number % slots as u64).expect("below the number of slots");
        let Some(room) = exchange.take(slot, || Instant::now() > give_up) else {
            return Err(gone(&scene, reader));
        };
        let now = monotonic_nanos();
        last = now >= end;
        // A time of 0 says that this is the last one.
        payload::write(room, number, if last { 0 } else { now }, Touch::All);
        exchange.pass(slot);
        number += 1;
    }
    let drained = drained(&mut scene, reader, plan.deadline())?;
    drained.check(number)?;
    Ok((drained.gigabytes_per_second(bytes), None))
}

fn unix_ping_pong(plan: &Plan<'_>, pin: Pin, relayed: bool) -> Result<Round, Failure> {
    let mut scene = Scene::open("bench")?;
    let _pinned = Pinned::to(plan.core(pin, 0))?;
    let (mut here, there) = UnixStream::pair().map_err(no_socket)?;
    let far = if relayed { relay(&mut scene, plan, pin, there, true)? } else { there };
    let role = BareRole::EchoStream { bytes: SMALL_BYTES, core: plan.core(pin, 1) };
    let echo = scene.start_with(
        role.name(),
        &role.arguments(),
        OwnedFd::from(far).into(),
        Stdio::null(),
        Stdio::inherit(),
    )?;
    here.set_read_timeout(Some(plan.duration + ROUND_GRACE)).map_err(no_socket)?;
    let lost = |error| Failure::unavailable(format!("{} is lost: {error}", scene.name(echo)));
    let (mut message, mut latencies) = ([0; SMALL_BYTES], Latencies::new());
    let mut number = 0;
    let mut end = u64::MAX;
    let mut before = monotonic_nanos();
    while before < end {
        payload::write(&mut message, number, before, Touch::All);
        here.write_all(&message).map_err(lost)?;
        here.read_exact(&mut message).map_err(lost)?;
        let now = monotonic_nanos();
        if payload::read(&message, Touch::All).is_none_or(|stamp| !stamp.intact || stamp.number != number) {
            return Err(Failure::software("a message came back changed from a bare socket"));
        }
        if number == 0 {
            // The first round trip waited for the other processes to start.
            end = nanos_from_now(plan.duration);
        } else {
            latencies.record(now - before);
        }
        number += 1;
        before = now;
    }
    Ok(median(&latencies))
}

fn unix_stream(plan: &Plan<'_>, pin: Pin, relayed: bool) -> Result<Round, Failure> {
    let mut scene = Scene::open("bench")?;
    let _pinned = Pinned::to(plan.core(pin, 0))?;
    let (mut here, there) = UnixStream::pair().map_err(no_socket)?;
    let far = if relayed { relay(&mut scene, plan, pin, there, false)? } else { there };
    let role = BareRole::DrainStream { bytes: SMALL_BYTES, core: plan.core(pin, 1) };
    let drain = scene.start_with(
        role.name(),
        &role.arguments(),
        OwnedFd::from(far).into(),
        Stdio::piped(),
        Stdio::inherit(),
    )?;
    ready(&mut scene, drain, plan.deadline())?;
    here.set_write_timeout(Some(plan.duration + ROUND_GRACE)).map_err(no_socket)?;
    let lost = |error| Failure::unavailable(format!("the receiver of a bare socket is lost: {error}"));
    let mut batch = [0; SMALL_BYTES * BATCH];
    let (mut number, end) = (0, nanos_from_now(plan.duration));
    loop {
        let now = monotonic_nanos();
        if now >= end {
            break;
        }
        for message in batch.chunks_exact_mut(SMALL_BYTES) {
            payload::write(message, number, now, Touch::All);
            number += 1;
        }
        here.write_all(&batch).map_err(lost)?;
    }
    here.shutdown(std::net::Shutdown::Write).map_err(lost)?;
    let drained = drained(&mut scene, drain, plan.deadline())?;
    drained.check(number)?;
    Ok((drained.messages_per_second(), None))
}

/// Starts a relay that takes `near`, and returns the socket at its other side.
fn relay(
    scene: &mut Scene,
    plan: &Plan<'_>,
    pin: Pin,
    near: UnixStream,
    alternate: bool,
) -> Result<UnixStream, Failure> {
    let (out, far) = UnixStream::pair().map_err(no_socket)?;
    let core = plan.core(pin, 1);
    let role = if alternate {
        BareRole::RelayTurns { bytes: SMALL_BYTES, core }
    } else {
        BareRole::RelayStream { core }
    };
    let (stdin, stdout) = (OwnedFd::from(near), OwnedFd::from(out));
    scene.start_with(role.name(), &role.arguments(), stdin.into(), stdout.into(), Stdio::inherit())?;
    Ok(far)
}

fn memcpy(plan: &Plan<'_>, bytes: usize) -> Result<Round, Failure> {
    let _pinned = Pinned::to(plan.core(Pin::One, 0))?;
    let (mut from, mut to) = (vec![1_u8; bytes], vec![0_u8; bytes]);
    let (start, end) = (monotonic_nanos(), nanos_from_now(plan.duration));
    let (mut now, mut copied) = (start, 0_u64);
    // Enough copies between two looks at the clock that the clock does not count.
    let copies = ((1 << 20) / bytes).max(1);
    while now < end {
        for _ in 0..copies {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&mut to);
        }
        copied += (copies * bytes) as u64;
        from[0] = from[0].wrapping_add(1);
        now = monotonic_nanos();
    }
    if to.len() < STAMP_BYTES {
        return Err(Failure::software("a copy too small to be measured"));
    }
    Ok((gigabytes_per_second(copied, now - start), None))
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

/// The receiver's own count.
fn drained(scene: &mut Scene, actor: ActorNumber, deadline: Instant) -> Result<Drained, Failure> {
    loop {
        match scene.listen(deadline)? {
            Heard::Line(number, line) if number == actor => {
                return serde_json::from_str(&line).map_err(|error| {
                    Failure::software(format!("{} reported {line:?}: {error}", scene.name(actor)))
                });
            }
            // A relay ends when its sender has finished.
            Heard::Ended(number, status) if number != actor && status.success() => {}
            Heard::Ended(number, status) => return Err(scene.ended(number, status)),
            Heard::Line(..) => {}
            Heard::Silence => return Err(gone(scene, actor)),
        }
    }
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
