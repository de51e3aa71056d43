//! What must be reached on any machine, as ratios to the limits of the same run, beside what was reached.
//!
//! Absolute figures of one machine say little about another; a ratio says how much is left. A row is there when both its
//! sides were measured in this run.

use super::baseline::{Baseline, FANOUT_BYTES, FANOUT_READERS, Kind as Limit, LARGE_BYTES, SMALL_BYTES};
use super::disk::OnDisk;
use super::measure::{Case, Kind};
use super::pin::Pin;
use super::report::Measurement;
use super::roles::{Path, Wait};
use crate::cli::size;
use crate::cli::table::Table;
use serde::Serialize;

/// Longest median round trip over a ring with the adaptive wait, in nanoseconds.
const ADAPTIVE_NANOS_MAX: f64 = 5_000.0;

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Goal {
    /// What is measured.
    pub(super) what: String,
    /// What it is divided by.
    pub(super) by: String,
    /// Whether the ratio must be at least `bound`; at most otherwise.
    pub(super) at_least: bool,
    /// The ratio to be reached.
    pub(super) bound: f64,
    /// The ratio that was.
    pub(super) reached: f64,
    /// Whether that is enough.
    pub(super) met: bool,
}

/// What was found in one run.
struct Found<'a> {
    measurements: &'a [Measurement],
    baselines: &'a [Baseline],
    goals: Vec<Goal>,
}

/// All rows for which both sides were measured.
pub(super) fn compare(
    measurements: &[Measurement],
    baselines: &[Baseline],
    on_disk: Option<OnDisk>,
) -> Vec<Goal> {
    let mut found = Found { measurements, baselines, goals: Vec::new() };
    found.rings();
    found.sockets();
    found.services();
    if let Some(OnDisk { confirmed, synced_each, synced_groups, .. }) = on_disk {
        let what = "queue on disk 1 KiB, 64 producers, confirmed, messages/s";
        found.at_least(what, "a sync for each message", Some(confirmed), Some(synced_each), 50.0);
        found.at_least(
            what,
            "the same groups appended and synced",
            Some(confirmed),
            Some(synced_groups),
            0.6,
        );
    }
    found.goals
}

/// The rows for people.
pub(super) fn table(goals: &[Goal]) -> Table {
    let mut table = Table::new(&["figure", "divided by", ">must be", ">reached", ""]);
    for goal in goals {
        let bound =
            if goal.at_least { format!("≥ {:.2}", goal.bound) } else { format!("≤ {:.2}", goal.bound) };
        let met = if goal.met { "yes" } else { "NO" };
        table.row([
            goal.what.clone(),
            goal.by.clone(),
            bound,
            format!("{:.2}", goal.reached),
            met.to_owned(),
        ]);
    }
    table
}

impl Found<'_> {
    fn rings(&mut self) {
        let stream = self.limit(Limit::UnixStream, SMALL_BYTES, Pin::Split, 1);
        let bare = "a bare Unix stream that batches the same messages";
        let rate = self.throughput(Path::Ring, SMALL_BYTES, 1, Pin::Split, false);
        self.at_least("ring 64 B, one gated reader, messages/s", bare, rate, stream, 1.2);

        let ping_pong = self.limit(Limit::SharedMemoryPingPong, SMALL_BYTES, Pin::Split, 1);
        let spin = self.round_trip(SMALL_BYTES, Wait::Spin, Pin::Split, false);
        self.at_most("ring 64 B, spinning, round trip", "bare memory ping-pong", spin, ping_pong, 2.0);
        for pin in [Pin::Split, Pin::One] {
            let limit = self.limit(Limit::UnixPingPong, SMALL_BYTES, pin, 1);
            let park = self.round_trip(SMALL_BYTES, Wait::Park, pin, false);
            let what = format!("ring 64 B, parked, {}, round trip", place(pin));
            self.at_most(&what, "bare Unix-socket ping-pong", park, limit, 1.3);
        }
        let adaptive = self.round_trip(SMALL_BYTES, Wait::Adaptive, Pin::None, false);
        let what = "ring 64 B, adaptive wait, round trip at the median";
        self.at_most(what, "5 µs", adaptive, Some(ADAPTIVE_NANOS_MAX), 1.0);

        for bytes in LARGE_BYTES {
            let shown = size::readable(bytes as u64);
            let copied = self.throughput(Path::Ring, bytes, 1, Pin::Split, true);
            let limit = self.limit(Limit::CopyAndRead, bytes, Pin::Split, 1);
            let what = format!("ring {shown}, copied in, all read, GB/s");
            self.at_least(&what, "copy and read over plain memory", copied, limit, 0.8);
        }
        for bytes in LARGE_BYTES {
            let shown = size::readable(bytes as u64);
            let filled = self.throughput(Path::Ring, bytes, 1, Pin::Split, false);
            let limit = self.limit(Limit::FillAndRead, bytes, Pin::Split, 1);
            let what = format!("ring {shown}, filled in place, all read, GB/s");
            self.at_least(&what, "fill and read over plain memory", filled, limit, 0.9);
        }
        let large = self.round_trip(8 << 20, Wait::Spin, Pin::Split, true);
        let small = self.round_trip(SMALL_BYTES, Wait::Spin, Pin::Split, true);
        let what = "ring 8 MiB, loaned and sent untouched, round trip";
        self.at_most(what, "the same with 64 B", large, small, 1.2);

        let deliveries = self
            .throughput(Path::Ring, SMALL_BYTES, FANOUT_READERS, Pin::None, false)
            .map(|rate| rate * FANOUT_READERS as f64);
        self.at_least("ring 64 B to 8 readers, deliveries/s", bare, deliveries, stream, 0.8);
        let bytes = self.throughput(Path::Ring, FANOUT_BYTES, FANOUT_READERS, Pin::None, false);
        let limit = self.limit(Limit::FillAndRead, FANOUT_BYTES, Pin::None, FANOUT_READERS);
        self.at_least("ring 1 MiB to 8 readers, GB/s", "the same pass over plain memory", bytes, limit, 0.9);
    }

    fn sockets(&mut self) {
        let relay = self.limit(Limit::RelayStream, SMALL_BYTES, Pin::None, 1);
        let rate = self.throughput(Path::Socket, SMALL_BYTES, 1, Pin::None, false);
        self.at_least(
            "socket 64 B, 1 to 1, pipelined, messages/s",
            "a relay that batches",
            rate,
            relay,
            0.35,
        );
        let queue = self.throughput(Path::Queue, SMALL_BYTES, 1, Pin::None, false);
        let what = "queue in memory 64 B, 1 to 1, acknowledged, messages/s";
        self.at_least(what, "the plain publish path", queue, rate, 0.2);
        for (pin, bound) in [(Pin::One, 1.3), (Pin::None, 0.5)] {
            let relay = self.limit(Limit::RelayPingPong, SMALL_BYTES, pin, 1);
            let trip = self.latency(Path::Socket, SMALL_BYTES, Wait::Adaptive, pin, false);
            let what = format!("socket 64 B, {}, round trip", place(pin));
            self.at_most(&what, "the smallest blocking relay", trip, relay, bound);
        }
    }

    fn services(&mut self) {
        for pin in [Pin::One, Pin::None] {
            let relay = self.limit(Limit::RelayPingPong, SMALL_BYTES, pin, 1).map(|trip| 2.0 * trip);
            let trip = self.latency(Path::Service, SMALL_BYTES, Wait::Adaptive, pin, false);
            let what = format!("request and reply 64 B, {}", place(pin));
            self.at_most(&what, "two round trips over the smallest blocking relay", trip, relay, 1.3);
        }
    }

    fn limit(&self, kind: Limit, bytes: usize, pin: Pin, readers: usize) -> Option<f64> {
        let wanted = |limit: &&Baseline| {
            (limit.kind, limit.bytes, limit.pin, limit.readers) == (kind, bytes, pin, readers)
        };
        self.baselines.iter().find(wanted).map(|limit| limit.value)
    }

    fn measured(&self, wanted: impl Fn(&Case) -> bool) -> Option<f64> {
        let plain = |case: &Case| case.rate.is_none() && !case.lossy;
        let found = self.measurements.iter().find(|it| plain(&it.case) && wanted(&it.case))?;
        Some(found.case.value(&found.best))
    }

    fn throughput(&self, path: Path, bytes: usize, readers: usize, pin: Pin, copied: bool) -> Option<f64> {
        self.measured(|case| {
            let which = (case.kind, case.path, case.bytes, case.readers, case.pin, case.wait, case.copied);
            which == (Kind::Throughput, path, bytes, readers, pin, Wait::Adaptive, copied) && !case.untouched
        })
    }

    fn latency(&self, path: Path, bytes: usize, wait: Wait, pin: Pin, untouched: bool) -> Option<f64> {
        self.measured(|case| {
            let which = (case.kind, case.path, case.bytes, case.wait, case.pin, case.untouched);
            which == (Kind::Latency, path, bytes, wait, pin, untouched) && !case.copied
        })
    }

    fn round_trip(&self, bytes: usize, wait: Wait, pin: Pin, untouched: bool) -> Option<f64> {
        self.latency(Path::Ring, bytes, wait, pin, untouched)
    }

    fn at_least(&mut self, what: &str, by: &str, value: Option<f64>, limit: Option<f64>, bound: f64) {
        self.add(what, by, value, limit, bound, true);
    }

    fn at_most(&mut self, what: &str, by: &str, value: Option<f64>, limit: Option<f64>, bound: f64) {
        self.add(what, by, value, limit, bound, false);
    }

    fn add(
        &mut self,
        what: &str,
        by: &str,
        value: Option<f64>,
        limit: Option<f64>,
        bound: f64,
        at_least: bool,
    ) {
        let (Some(value), Some(limit)) = (value, limit) else { return };
        let reached = value / limit;
        let met = if at_least { reached >= bound } else { reached <= bound };
        self.goals.push(Goal { what: what.to_owned(), by: by.to_owned(), at_least, bound, reached, met });
    }
}

fn place(pin: Pin) -> &'static str {
    match pin {
        Pin::None => "free on all cores",
        Pin::Split => "a core each",
        Pin::One => "one core",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::baseline::Unit;
    use crate::cli::bench::measure::Outcome;

    fn measured(kind: Kind, bytes: usize, readers: usize, pin: Pin, per_second: f64) -> Measurement {
        let case = Case {
            kind,
            path: Path::Ring,
            bytes,
            readers,
            wait: Wait::Adaptive,
            pin,
            batch: 1,
            rate: None,
            lossy: false,
            untouched: false,
            copied: false,
        };
        let best = Outcome {
            sent: 1,
            received: vec![1; readers],
            lost: vec![0; readers],
            correct: true,
            messages_per_second: per_second,
            gigabytes_per_second: per_second,
            latency: None,
        };
        Measurement { in_place: case.in_place(), case, best, rounds: Vec::new(), ratios: Vec::new() }
    }

    #[test]
    fn a_row_needs_both_its_sides_and_says_whether_it_is_met() {
        let stream = Baseline {
            kind: Limit::UnixStream,
            bytes: SMALL_BYTES,
            pin: Pin::Split,
            readers: 1,
            unit: Unit::MessagesPerSecond,
            value: 10.0,
            rounds: vec![10.0],
            known: None,
            disturbed: false,
            latency: None,
        };
        let one = measured(Kind::Throughput, SMALL_BYTES, 1, Pin::Split, 13.0);
        let eight = measured(Kind::Throughput, SMALL_BYTES, FANOUT_READERS, Pin::None, 0.5);
        assert!(compare(std::slice::from_ref(&one), &[], None).is_empty());
        let on_disk = OnDisk { confirmed: 60.0, group: 9, synced_each: 1.0, synced_groups: 120.0 };
        let goals = compare(&[one, eight], &[stream], Some(on_disk));
        let seen: Vec<(f64, bool)> = goals.iter().map(|goal| (goal.reached, goal.met)).collect();
        assert_eq!(seen, [(1.3, true), (0.4, false), (60.0, true), (0.5, false)]);
        assert!(table(&goals).to_string().contains("NO"));
    }
}
