//! What a benchmark prints: tables for people, or one JSON object; each figure with its ratios to the limits
//! that were measured in the same run.

use super::baseline::{Baseline, Kind as Limit, Unit};
use super::disk::OnDisk;
use super::goals::{self, Goal};
use super::measure::{Case, Kind, Outcome};
use super::pin::Pin;
use super::roles::Path;
use crate::cli::histogram::{Percentiles, readable};
use crate::cli::output::Output;
use crate::cli::table::Table;
use crate::cli::{Failure, size};
use serde::Serialize;

/// A finished measurement.
#[derive(Debug, Serialize)]
pub(super) struct Measurement {
    /// What was measured, and how.
    #[serde(flatten)]
    pub(super) case: Case,
    /// Whether payloads were filled where they were read.
    pub(super) in_place: bool,
    /// The best round.
    #[serde(flatten)]
    pub(super) best: Outcome,
    /// What counts of each round, in nanoseconds, messages a second or 10⁹ bytes a second.
    pub(super) rounds: Vec<f64>,
    /// How it compares.
    pub(super) ratios: Vec<Ratio>,
}

impl Measurement {
    /// What several rounds, at least one, came to.
    pub(super) fn best(case: Case, outcomes: Vec<Outcome>, baselines: &[Baseline]) -> Self {
        let rounds = outcomes.iter().map(|outcome| case.value(outcome)).collect();
        let better = |next: &Outcome, best: &Outcome| {
            let (next, best) = (case.value(next), case.value(best));
            if case.kind == Kind::Latency { next < best } else { next > best }
        };
        let best = outcomes
            .into_iter()
            // A wrong outcome is never passed over for a better figure.
            .reduce(
                |best, next| {
                    if best.correct && (!next.correct || better(&next, &best)) { next } else { best }
                },
            )
            .expect("there is at least one round");
        let ratios = ratios(&case, case.value(&best), &best, baselines);
        Self { in_place: case.in_place(), case, best, rounds, ratios }
    }
}

/// A figure beside a limit.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ratio {
    /// Which limit.
    pub(super) to: Limit,
    /// Bytes of the limit's message or pass.
    pub(super) bytes: usize,
    /// Where the limit's processes ran.
    pub(super) pin: Pin,
    /// Processes that read there.
    pub(super) readers: usize,
    /// The figure divided by the limit: of times (1 or more, less is better) or of rates (more is better).
    pub(super) ratio: f64,
    /// Whether it counts; not if the limit was disturbed, or is a bound and was beaten.
    pub(super) counts: bool,
}

/// Everything one run found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The program's version.
    pub(super) version: &'static str,
    /// Whether the program was built without optimisation, which makes its figures worthless.
    pub(super) debug_build: bool,
    /// The kernel's release.
    pub(super) kernel: String,
    /// Cores that were used.
    pub(super) cores: Vec<usize>,
    /// Length of one round, in seconds.
    pub(super) duration_seconds: f64,
    /// The limits.
    pub(super) baselines: Vec<Baseline>,
    /// The measurements.
    pub(super) measurements: Vec<Measurement>,
    /// A queue on disk, if it was measured.
    pub(super) on_disk: Option<OnDisk>,
    /// What must be reached, beside what was, as far as it was measured.
    pub(super) goals: Vec<Goal>,
}

/// How an outcome compares with each limit that it belongs to.
pub(super) fn ratios(case: &Case, value: f64, outcome: &Outcome, baselines: &[Baseline]) -> Vec<Ratio> {
    let belongs = |baseline: &&Baseline| belongs(case, baseline);
    let ratio = |baseline: &Baseline| {
        let value = match baseline.unit {
            Unit::Nanoseconds => value,
            Unit::MessagesPerSecond => outcome.messages_per_second,
            Unit::GigabytesPerSecond => outcome.gigabytes_per_second,
        };
        let ratio = value / baseline.value;
        let beaten = if baseline.unit == Unit::Nanoseconds { ratio < 1.0 } else { ratio > 1.0 };
        // What beats a bound shows that the bound was measured badly.
        let wrong = beaten && baseline.kind.is_bound();
        let counts = !baseline.disturbed && !wrong;
        Ratio {
            to: baseline.kind,
            bytes: baseline.bytes,
            pin: baseline.pin,
            readers: baseline.readers,
            ratio,
            counts,
        }
    };
    baselines.iter().filter(belongs).map(ratio).collect()
}

fn belongs(case: &Case, baseline: &Baseline) -> bool {
    let same_pin = case.pin == baseline.pin;
    let same_size = case.bytes == baseline.bytes;
    match (case.kind, case.path, baseline.kind) {
        // What is due at a given rate measures the system at that rate; no limit here does the same.
        _ if case.rate.is_some() => false,
        (Kind::Latency, Path::Ring, Limit::SharedMemoryPingPong) => same_size && case.pin != Pin::One,
        (Kind::Latency, Path::Ring, Limit::UnixPingPong) => same_size && same_pin,
        (Kind::Latency, Path::Socket | Path::Service, Limit::UnixPingPong | Limit::RelayPingPong) => {
            same_size && same_pin
        }
        (Kind::Throughput, Path::Ring, Limit::UnixStream) => same_size && same_pin,
        (Kind::Throughput, Path::Socket, Limit::UnixStream | Limit::RelayStream) => same_size && same_pin,
        (Kind::Throughput, Path::Ring, Limit::Memcpy) => same_size,
        (Kind::Throughput, Path::Ring, Limit::CopyAndRead) => {
            same_size && case.copied && case.readers == baseline.readers
        }
        (Kind::Throughput, Path::Ring, Limit::FillAndRead) => {
            same_size && !case.copied && case.readers == baseline.readers
        }
        _ => false,
    }
}

impl Report {
    /// Writes it all out.
    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        let mut output = Output::new();
        if json {
            output.line(serde_json::to_string(self).map_err(Failure::software)?)?;
        } else {
            output.write(self.text().as_bytes())?;
        }
        output.flush()
    }

    fn text(&self) -> String {
        let mut text = format!(
            "tramline {}, Linux {}, {} core{}; the best of several rounds of {} s each\n",
            self.version,
            self.kernel,
            self.cores.len(),
            if self.cores.len() == 1 { "" } else { "s" },
            self.duration_seconds
        );
        if self.debug_build {
            text.push_str("This is a debug build: its figures say nothing.\n");
        }
        if !self.baselines.is_empty() {
            text.push_str("\nLimits of this machine, without Tramline\n");
            text.push_str(&self.baseline_table().to_string());
        }
        let latency = self.latency_table();
        if !latency.is_empty() {
            text.push_str("\nLatency: there and back, or one way from the time a message was due where a rate is given\n");
            text.push_str(&latency.to_string());
        }
        let throughput = self.throughput_table();
        if !throughput.is_empty() {
            text.push_str("\nThroughput, counted at the slowest receiver\n");
            text.push_str(&throughput.to_string());
        }
        if let Some(OnDisk { confirmed, group, synced_each, synced_groups }) = self.on_disk {
            text.push_str(&format!(
                "\nA queue on disk, 1 KiB, 64 producers: {confirmed:.0}/s confirmed, in groups of {group}; appended to a file \
                 and synced one by one {synced_each:.0}/s, in such groups {synced_groups:.0}/s\n"
            ));
        }
        if !self.goals.is_empty() {
            text.push_str("\nWhat must be reached, and what was\n");
            text.push_str(&goals::table(&self.goals).to_string());
        }
        if self.measurements.iter().any(|measurement| measurement.case.untouched) {
            text.push_str(
                "\nUntouched payloads were neither written nor read: only 16 bytes of each were.\n",
            );
        }
        if self.measurements.iter().flat_map(|measurement| &measurement.ratios).any(|ratio| !ratio.counts) {
            text.push_str(
                "\n(A ratio in brackets does not count: its limit was disturbed while it was measured.)\n",
            );
        }
        text
    }

    fn baseline_table(&self) -> Table {
        let mut table = Table::new(&[
            "limit",
            ">size",
            "cores",
            ">readers",
            ">result",
            ">p99",
            ">known for such machines",
            "",
        ]);
        for baseline in &self.baselines {
            let shown = |value| readable_value(baseline.unit, value);
            table.row([
                baseline.kind.title().to_owned(),
                size::readable(baseline.bytes as u64),
                baseline.pin.as_str().to_owned(),
                baseline.readers.to_string(),
                shown(baseline.value),
                baseline.latency.map(|latency| readable(latency.p99)).unwrap_or_default(),
                baseline.known.map(shown).unwrap_or_default(),
                if baseline.disturbed { "disturbed".to_owned() } else { String::new() },
            ]);
        }
        table
    }

    fn latency_table(&self) -> Table {
        let columns = [
            "path",
            ">size",
            "wait",
            "cores",
            ">readers",
            ">rate",
            ">p50",
            ">p90",
            ">p99",
            ">p99.9",
            ">max",
            ">received",
            ">lost",
            "compared",
        ];
        let mut table = Table::new(&columns);
        for measurement in self.measurements.iter().filter(|measurement| measurement.best.latency.is_some()) {
            let Measurement { case, best, .. } = measurement;
            let latency = best.latency.unwrap_or(Percentiles::NONE);
            let [p50, p90, p99, p99_9, max] =
                [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max].map(readable);
            let rate = case.rate.map(|rate| format!("{rate}/s")).unwrap_or_default();
            let head = measurement.head();
            let readers = case.readers.to_string();
            let tail =
                [rate, p50, p90, p99, p99_9, max, counts(best), measurement.lost(), measurement.compared()];
            table.row(head.into_iter().chain([readers]).chain(tail));
        }
        table
    }

    fn throughput_table(&self) -> Table {
        let columns = [
            "path",
            ">size",
            "wait",
            "cores",
            ">readers",
            ">batch",
            ">messages/s",
            ">GB/s",
            ">sent",
            ">received",
            ">lost",
            "compared",
        ];
        let mut table = Table::new(&columns);
        for measurement in
            self.measurements.iter().filter(|measurement| measurement.case.kind == Kind::Throughput)
        {
            let Measurement { case, best, .. } = measurement;
            let [readers, batch] = [case.readers, case.batch].map(|number| number.to_string());
            let rate = readable_value(Unit::MessagesPerSecond, best.messages_per_second);
            let bytes = format!("{:.2}", best.gigabytes_per_second);
            let tail = [
                readers,
                batch,
                rate,
                bytes,
                best.sent.to_string(),
                counts(best),
                measurement.lost(),
                measurement.compared(),
            ];
            table.row(measurement.head().into_iter().chain(tail));
        }
        table
    }
}

impl Measurement {
    fn head(&self) -> [String; 4] {
        let Case { path, bytes, wait, pin, lossy, untouched, copied, .. } = &self.case;
        let place = match (self.in_place, untouched, copied) {
            (_, true, _) => ", untouched",
            (true, ..) => ", in place",
            (.., true) => ", copied",
            _ => "",
        };
        let mode = if *lossy { ", lossy" } else { "" };
        let path = format!("{}{place}{mode}", path.as_str());
        [path, size::readable(*bytes as u64), wait.as_str().to_owned(), pin.as_str().to_owned()]
    }

    fn lost(&self) -> String {
        let lost: u64 = self.best.lost.iter().sum();
        if self.best.correct { lost.to_string() } else { format!("{lost}, WRONG") }
    }

    fn compared(&self) -> String {
        let shown = self.ratios.iter().map(|ratio| {
            let name = match ratio.to {
                Limit::SharedMemoryPingPong => "bare memory",
                Limit::UnixPingPong | Limit::UnixStream => "bare socket",
                Limit::RelayPingPong | Limit::RelayStream => "relay",
                Limit::Memcpy => "memcpy",
                Limit::CopyAndRead => "copy and read",
                Limit::FillAndRead => "fill and read",
            };
            if ratio.counts {
                format!("{:.2} × {name}", ratio.ratio)
            } else {
                format!("({:.2} × {name})", ratio.ratio)
            }
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

/// The messages received: one number if it is the same for all receivers, else each.
fn counts(outcome: &Outcome) -> String {
    match outcome.received.split_first() {
        Some((first, rest)) if rest.iter().all(|other| other == first) => first.to_string(),
        _ => outcome.received.iter().map(u64::to_string).collect::<Vec<_>>().join("/"),
    }
}

pub(super) fn readable_value(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Nanoseconds if value < 1e3 => format!("{value:.0} ns"),
        Unit::Nanoseconds => format!("{:.2} µs", value / 1e3),
        Unit::MessagesPerSecond if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
        Unit::MessagesPerSecond => format!("{:.1} k/s", value / 1e3),
        Unit::GigabytesPerSecond => format!("{value:.1} GB/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::roles::Wait;

    fn case(kind: Kind, path: Path, bytes: usize, pin: Pin) -> Case {
        let (readers, wait, batch) = (1, Wait::Adaptive, 1);
        Case {
            kind,
            path,
            bytes,
            readers,
            wait,
            pin,
            batch,
            rate: None,
            lossy: false,
            untouched: false,
            copied: false,
        }
    }

    fn baseline(kind: Limit, bytes: usize, pin: Pin, unit: Unit, value: f64, disturbed: bool) -> Baseline {
        Baseline {
            kind,
            bytes,
            pin,
            readers: 1,
            unit,
            value,
            rounds: vec![value],
            known: None,
            disturbed,
            latency: None,
        }
    }

    #[test]
    fn figures_are_compared_with_limits_of_their_kind_size_and_place() {
        let limits = [
            baseline(Limit::RelayPingPong, 64, Pin::One, Unit::Nanoseconds, 10_000.0, false),
            baseline(Limit::RelayPingPong, 64, Pin::None, Unit::Nanoseconds, 20_000.0, true),
            baseline(Limit::Memcpy, 1 << 20, Pin::One, Unit::GigabytesPerSecond, 4.0, false),
            baseline(Limit::FillAndRead, 1 << 20, Pin::Split, Unit::GigabytesPerSecond, 4.0, false),
        ];
        let outcome = Outcome {
            sent: 1,
            received: vec![1],
            lost: vec![0],
            correct: true,
            messages_per_second: 1.0,
            gigabytes_per_second: 5.0,
            latency: None,
        };
        let compared = |case: &Case| ratios(case, 15_000.0, &outcome, &limits);
        let found = compared(&case(Kind::Latency, Path::Socket, 64, Pin::One));
        assert_eq!(found.len(), 1);
        assert!((found[0].ratio - 1.5).abs() < 1e-9 && found[0].counts);
        assert!(!compared(&case(Kind::Latency, Path::Socket, 64, Pin::None))[0].counts);
        assert!(compared(&case(Kind::Latency, Path::Socket, 65, Pin::One)).is_empty());
        let found = compared(&case(Kind::Throughput, Path::Ring, 1 << 20, Pin::None));
        assert!((found[0].ratio - 1.25).abs() < 1e-9 && found[0].counts);
        assert!((found[1].ratio - 1.25).abs() < 1e-9 && !found[1].counts, "a bound that is beaten");
    }
}
