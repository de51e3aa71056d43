//! `tramline bench isolation`: what somebody who behaves badly costs those who have nothing to do with it.
//!
//! A publisher and a gated subscriber are measured, on each plane, without and with each offender, in turns, so that
//! whatever else the machine does meets all of them. What is printed is the ratio to the turn without one, beside
//! how much those turns differ among themselves, and the tails of latency at a modest rate. The subscriber's
//! delivery must be whole in every turn.

use super::measure::{Case, Kind, Outcome};
use super::offenders::Offender;
use super::pin::Pin;
use super::roles::{Path, Wait};
use crate::cli::histogram::{Percentiles, readable};
use crate::cli::output::Output;
use crate::cli::table::Table;
use crate::cli::{Failure, size};
use serde::Serialize;
use std::time::Duration;

/// Bytes of a message.
const BYTES: usize = 64;
/// Messages handed over at once at full speed.
const BATCH: usize = 128;
/// Messages a second where latency is measured.
const RATE: f64 = 2000.0;

/// What one offender did to one plane.
#[derive(Debug, Serialize)]
struct Finding {
    path: Path,
    /// None: nobody misbehaved.
    offender: Option<Offender>,
    /// Messages a second, by round.
    messages_per_second: Vec<f64>,
    /// Median of the rounds' ratios to the same round without an offender.
    ratio: f64,
    /// Median of the rounds' ratios to the same round beside the same who behaves well, where there is one.
    fair_ratio: Option<f64>,
    /// The lowest and the highest of those ratios; without an offender, of the rounds to their median.
    range: [f64; 2],
    /// Messages received in all rounds, at full speed and at the modest rate.
    received: u64,
    /// Messages lost in all rounds.
    lost: u64,
    /// Whether every message arrived, intact and in order.
    whole: bool,
    /// One way, from when a message was due, over all rounds the round with the median p99.
    latency: Percentiles,
}

/// Measures and prints; fails if a delivery was not whole.
pub(super) fn run(
    paths: &[Path],
    cores: &[usize],
    duration: Duration,
    rounds: u32,
    json: bool,
    step: &dyn Fn(&str),
) -> Result<(), Failure> {
    let mut findings = Vec::new();
    for path in paths {
        findings.extend(on_plane(*path, cores, duration, rounds, step)?);
    }
    let mut output = Output::new();
    if json {
        let report =
            serde_json::json!({ "isolation": findings, "cores": cores, "rate": RATE, "bytes": BYTES });
        output.line(report)?;
    } else {
        output.write(table(&findings).as_bytes())?;
    }
    output.flush()?;
    if findings.iter().all(|finding| finding.whole) {
        Ok(())
    } else {
        Err(Failure::software("a delivery was not whole beside an offender"))
    }
}

fn on_plane(
    path: Path,
    cores: &[usize],
    duration: Duration,
    rounds: u32,
    step: &dyn Fn(&str),
) -> Result<Vec<Finding>, Failure> {
    let full = Case {
        kind: Kind::Throughput,
        path,
        bytes: BYTES,
        readers: 1,
        wait: Wait::Adaptive,
        pin: Pin::None,
        batch: BATCH,
        rate: None,
        lossy: false,
        untouched: false,
        copied: false,
    };
    let paced = Case { batch: 1, rate: Some(RATE), ..full.clone() };
    let whom: Vec<Option<Offender>> = std::iter::once(None).chain(Offender::ALL.map(Some)).collect();
    let mut outcomes: Vec<Vec<(Outcome, Outcome)>> = whom.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (offender, outcomes) in whom.iter().zip(&mut outcomes) {
            let who = offender.map_or("nobody", Offender::describe);
            step(&format!("{}: {who}", path.as_str()));
            let fast = full.run_beside(None, cores, duration, *offender)?;
            let slow = paced.run_beside(None, cores, duration, *offender)?;
            outcomes.push((fast, slow));
        }
    }
    let rates = |place: usize| -> Vec<f64> {
        outcomes[place].iter().map(|(fast, _)| fast.messages_per_second).collect()
    };
    let alone = rates(0);
    let usual = median(&alone);
    let finding = |(place, offender): (usize, &Option<Offender>)| {
        let messages_per_second = rates(place);
        let ratios: Vec<f64> = match offender {
            None => alone.iter().map(|rate| rate / usual).collect(),
            Some(_) => messages_per_second.iter().zip(&alone).map(|(rate, alone)| rate / alone).collect(),
        };
        let both = || outcomes[place].iter().flat_map(|(fast, slow)| [fast, slow]);
        let mut latencies: Vec<Percentiles> =
            outcomes[place].iter().filter_map(|(_, slow)| slow.latency).collect();
        latencies.sort_by_key(|latency| latency.p99);
        Finding {
            path,
            offender: *offender,
            ratio: median(&ratios),
            fair_ratio: offender.and_then(Offender::fair).and_then(|fair| {
                let place = whom.iter().position(|whom| *whom == Some(fair))?;
                let fair = rates(place);
                let ratios: Vec<f64> =
                    messages_per_second.iter().zip(&fair).map(|(rate, fair)| rate / fair).collect();
                Some(median(&ratios))
            }),
            range: [
                ratios.iter().copied().fold(f64::INFINITY, f64::min),
                ratios.iter().copied().fold(0.0, f64::max),
            ],
            messages_per_second,
            received: both().flat_map(|outcome| &outcome.received).sum(),
            lost: both().flat_map(|outcome| &outcome.lost).sum(),
            whole: both().all(|outcome| outcome.correct),
            latency: latencies.get(latencies.len() / 2).copied().unwrap_or(Percentiles::NONE),
        }
    };
    Ok(whom.iter().enumerate().map(finding).collect())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn table(findings: &[Finding]) -> String {
    let mut table = Table::new(&[
        "path",
        "beside",
        ">messages/s",
        ">ratio",
        ">range",
        ">fairly",
        ">p50",
        ">p99",
        ">p99.9",
        ">max",
        ">received",
        ">lost",
        "whole",
    ]);
    for finding in findings {
        let Finding { latency, range, .. } = finding;
        table.row([
            finding.path.as_str().to_owned(),
            finding.offender.map_or("nobody", Offender::describe).to_owned(),
            format!("{:.2} M", median(&finding.messages_per_second) / 1e6),
            format!("{:.2}", finding.ratio),
            format!("{:.2}–{:.2}", range[0], range[1]),
            finding.fair_ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            readable(latency.p50),
            readable(latency.p99),
            readable(latency.p99_9),
            readable(latency.max),
            finding.received.to_string(),
            finding.lost.to_string(),
            if finding.whole { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    format!(
        "A publisher and a gated subscriber of {} messages beside somebody who behaves badly: at full speed, and latency\n\
         from when a message was due at {RATE} a second. Ratios are to the same round beside nobody; `fairly`, to the one\n\
         beside the same who behaves well, which stands above in brackets.\n\n{table}",
        size::readable(BYTES as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_not_moved_by_one_bad_round() {
        assert_eq!(median(&[5.0, 1.0, 4.0]), 4.0);
        assert_eq!(median(&[]), 0.0);
    }
}
