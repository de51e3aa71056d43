//! One measurement: a broker of its own, the processes in their roles, and what the receivers counted.

use super::baseline::{Unit, gigabytes_per_second};
use super::offenders::Offender;
use super::pin::Pin;
use super::roles::{BenchRole, Common, IN_PLACE_BYTES_MIN, Path, Tally, Wait};
use crate::cli::Failure;
use crate::cli::histogram::{Latencies, Percentiles};
use crate::cli::private_broker::PrivateBroker;
use crate::cli::role::{GO, READY};
use crate::cli::scene::{ActorNumber, Heard, Scene};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How much longer than its duration a measurement may take.
const GRACE: Duration = Duration::from_secs(30);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// There and back, one message at a time; or one way at a given rate.
    Latency,
    /// As much as goes.
    Throughput,
}

/// What to measure, and how.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Case {
    /// What.
    pub(super) kind: Kind,
    /// On which plane.
    pub(super) path: Path,
    /// Bytes of a message.
    pub(super) bytes: usize,
    /// Receiving processes.
    pub(super) readers: usize,
    /// How processes wait.
    pub(super) wait: Wait,
    /// Where they run.
    pub(super) pin: Pin,
    /// Messages handed over at once.
    pub(super) batch: usize,
    /// Messages a second that are due whatever happens; none: as fast as it goes.
    pub(super) rate: Option<f64>,
    /// Whether receivers may miss messages.
    pub(super) lossy: bool,
    /// Whether payloads are left alone but for their stamp.
    pub(super) untouched: bool,
    /// Whether large payloads are copied to where they are read, too.
    pub(super) copied: bool,
}

/// What the receivers of one round counted.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    /// Messages sent.
    pub(super) sent: u64,
    /// Messages received, by receiver.
    pub(super) received: Vec<u64>,
    /// Messages lost, by receiver, as its subscription said.
    pub(super) lost: Vec<u64>,
    /// Whether every message that arrived was intact and in order, and none is missing uncounted.
    pub(super) correct: bool,
    /// Messages a second at the slowest receiver.
    pub(super) messages_per_second: f64,
    /// 10⁹ bytes a second at the slowest receiver.
    pub(super) gigabytes_per_second: f64,
    /// Round trip, or one way from when a message was due.
    pub(super) latency: Option<Percentiles>,
}

impl Case {
    /// Whether large payloads are filled where they are read.
    pub(super) const fn in_place(&self) -> bool {
        matches!(self.path, Path::Ring) && self.bytes >= IN_PLACE_BYTES_MIN && !self.copied
    }

    /// What the outcome is compared by.
    pub(super) fn unit(&self) -> Unit {
        match self.kind {
            Kind::Latency => Unit::Nanoseconds,
            Kind::Throughput if self.bytes >= IN_PLACE_BYTES_MIN => Unit::GigabytesPerSecond,
            Kind::Throughput => Unit::MessagesPerSecond,
        }
    }

    /// The outcome in that unit.
    pub(super) fn value(&self, outcome: &Outcome) -> f64 {
        match self.unit() {
            Unit::Nanoseconds => outcome.latency.map_or(f64::INFINITY, |latency| latency.p50 as f64),
            Unit::MessagesPerSecond => outcome.messages_per_second,
            Unit::GigabytesPerSecond => outcome.gigabytes_per_second,
        }
    }

    /// Measures once, with the broker at `socket`, or one of its own.
    pub(super) fn run(
        &self,
        socket: Option<&PathBuf>,
        cores: &[usize],
        duration: Duration,
    ) -> Result<Outcome, Failure> {
        self.run_beside(socket, cores, duration, None)
    }

    /// The same beside somebody who behaves badly.
    pub(super) fn run_beside(
        &self,
        socket: Option<&PathBuf>,
        cores: &[usize],
        duration: Duration,
        offender: Option<Offender>,
    ) -> Result<Outcome, Failure> {
        let mut scene = Scene::open("bench")?;
        let socket = match socket {
            Some(socket) => socket.clone(),
            None => {
                let settings = match self.wait {
                    Wait::Spin => "wait: {spin_micros: 1000000}\n",
                    Wait::Adaptive => "{}\n",
                    Wait::Park => "wait: {spin_micros: 0}\n",
                };
                let core = self.pin.core(cores, cores.len().saturating_sub(1));
                PrivateBroker::start(&mut scene, core, settings)?.socket().clone()
            }
        };
        let common = |index| Common {
            socket: socket.clone(),
            path: self.path,
            wait: self.wait,
            bytes: self.bytes,
            untouched: self.untouched,
            copied: self.copied,
            core: self.pin.core(cores, index),
        };
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let mut play = Play { scene, deadline: Instant::now() + duration + GRACE, offenders: Vec::new() };
        for (name, arguments) in offender.into_iter().flat_map(|offender| offender.processes(&socket)) {
            let actor = play.start_with(&format!("offender {name}"), &arguments)?;
            play.offenders.push(actor);
        }
        let stopped = offender.is_some_and(Offender::is_stopped);
        if self.kind == Kind::Latency && self.rate.is_none() {
            let pong = play.start("pong", &BenchRole::Pong { common: common(1) })?;
            let ping = play.start("ping", &BenchRole::Ping { common: common(0), millis })?;
            let tallies = play.perform(&[pong, ping], &[pong, ping])?;
            return Ok(self.round_trips(&tallies[1], &tallies[0]));
        }
        let (lossy, timed) = (self.lossy, self.rate.is_some());
        let mut actors = Vec::new();
        for index in 0..self.readers {
            let role = BenchRole::Receive { common: common(1 + index), lossy, timed };
            actors.push(play.start(&format!("receiver {}", index + 1), &role)?);
        }
        let (readers, batch, rate) = (self.readers, self.batch, self.rate);
        let role = BenchRole::Send { common: common(0), millis, readers, batch, rate };
        let sender = play.start("sender", &role)?;
        actors.push(sender);
        if stopped {
            // Only now: it is attached to what is measured, as far as it subscribed to that.
            play.offenders.iter().try_for_each(|offender| play.scene.freeze(*offender))?;
        }
        let tallies = play.perform(&actors, &[sender])?;
        Ok(self.one_way(&tallies[self.readers], &tallies[..self.readers]))
    }

    fn round_trips(&self, ping: &Tally, pong: &Tally) -> Outcome {
        let mut latencies = Latencies::new();
        latencies.merge(&ping.latencies);
        let whole = |tally: &Tally| tally.intact == tally.messages && tally.in_order == tally.messages;
        Outcome {
            // The last message says that it is over, and is not sent back.
            sent: ping.messages + 1,
            received: vec![pong.messages, ping.messages],
            lost: vec![pong.lost, ping.lost],
            correct: whole(ping) && whole(pong) && pong.messages == ping.messages + 1,
            messages_per_second: per_second(ping),
            gigabytes_per_second: gigabytes_per_second(ping.messages * self.bytes as u64, ping.nanos),
            latency: Some(latencies.percentiles()),
        }
    }

    fn one_way(&self, sender: &Tally, receivers: &[Tally]) -> Outcome {
        let mut latencies = Latencies::new();
        for receiver in receivers {
            latencies.merge(&receiver.latencies);
        }
        let correct = |receiver: &Tally| {
            receiver.intact == receiver.messages
                && receiver.in_order == receiver.messages
                && receiver.messages + receiver.lost == sender.messages
                && (self.lossy || receiver.lost == 0)
        };
        let slowest = receivers.iter().map(per_second).fold(f64::INFINITY, f64::min);
        Outcome {
            sent: sender.messages,
            received: receivers.iter().map(|receiver| receiver.messages).collect(),
            lost: receivers.iter().map(|receiver| receiver.lost).collect(),
            correct: receivers.iter().all(correct),
            messages_per_second: slowest,
            gigabytes_per_second: slowest * self.bytes as f64 / 1e9,
            latency: self.rate.map(|_| latencies.percentiles()),
        }
    }
}

fn per_second(tally: &Tally) -> f64 {
    tally.messages as f64 * 1e9 / tally.nanos.max(1) as f64
}

/// The processes of one measurement and the time they have.
struct Play {
    scene: Scene,
    deadline: Instant,
    /// Processes that report nothing, and must not end.
    offenders: Vec<ActorNumber>,
}

impl Play {
    /// Starts a process and waits until it is ready.
    fn start(&mut self, name: &str, role: &BenchRole) -> Result<ActorNumber, Failure> {
        self.start_with(name, &role.arguments())
    }

    fn start_with(&mut self, name: &str, arguments: &[String]) -> Result<ActorNumber, Failure> {
        let actor = self.scene.start(name, arguments, None)?;
        match self.scene.expect_line(actor, self.deadline)?.as_str() {
            READY => Ok(actor),
            other => Err(Failure::software(format!("{name} said {other:?} instead of being ready"))),
        }
    }

    /// Lets `begin` begin and hears the tallies of all `actors`, in their order.
    fn perform(mut self, actors: &[ActorNumber], begin: &[ActorNumber]) -> Result<Vec<Tally>, Failure> {
        for actor in begin {
            self.scene.tell(*actor, GO)?;
        }
        let mut tallies = vec![None; actors.len()];
        while tallies.iter().any(Option::is_none) {
            match self.scene.listen(self.deadline)? {
                Heard::Line(actor, line) => {
                    let place = actors.iter().position(|known| *known == actor);
                    let tally: Tally = serde_json::from_str(&line).map_err(|error| {
                        Failure::software(format!("{} reported {line:?}: {error}", self.scene.name(actor)))
                    })?;
                    let place = place.ok_or_else(|| Failure::software("a process reported out of turn"))?;
                    tallies[place] = Some(tally);
                }
                Heard::Ended(actor, status) => {
                    let reported =
                        actors.iter().zip(&tallies).any(|(known, tally)| *known == actor && tally.is_some());
                    if !reported || !status.success() {
                        return Err(self.scene.ended(actor, status));
                    }
                }
                Heard::Silence => {
                    let missing = actors.iter().zip(&tallies).find(|(_, tally)| tally.is_none());
                    let name = missing.map_or("nobody", |(actor, _)| self.scene.name(*actor));
                    return Err(Failure::timed_out(format!("{name} did not finish in time")));
                }
            }
        }
        Ok(tallies.into_iter().flatten().collect())
    }
}
