//! Latencies: recorded where they are measured, merged and printed by the process that was started.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest latency that is told apart, in nanoseconds; longer ones count as this.
const NANOS_MAX: u64 = 100_000_000_000;

/// Counts of latencies in nanoseconds, exact to three digits.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Latencies(Histogram<u64>);

/// The percentiles that reports show, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(in crate::cli) struct Percentiles {
    /// How many were measured.
    pub(in crate::cli) count: u64,
    /// Half were at most this.
    pub(in crate::cli) p50: u64,
    /// 90 of 100 were at most this.
    pub(in crate::cli) p90: u64,
    /// 99 of 100 were at most this.
    pub(in crate::cli) p99: u64,
    /// 999 of 1000 were at most this.
    pub(in crate::cli) p99_9: u64,
    /// The longest.
    pub(in crate::cli) max: u64,
}

impl Percentiles {
    /// Nothing was measured.
    pub(in crate::cli) const NONE: Self = Self { count: 0, p50: 0, p90: 0, p99: 0, p99_9: 0, max: 0 };
}

impl Latencies {
    /// Nothing measured yet.
    pub(in crate::cli) fn new() -> Self {
        Self(
            Histogram::new_with_bounds(1, NANOS_MAX, 3)
                .expect("the bounds are constants that the type takes"),
        )
    }

    /// Counts one latency.
    pub(in crate::cli) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// Counts all that another process measured.
    pub(in crate::cli) fn merge(&mut self, counts: &Counts) {
        for (nanos, count) in &counts.0 {
            self.0.saturating_record_n(*nanos, *count);
        }
    }

    /// What another process needs to merge these.
    pub(in crate::cli) fn counts(&self) -> Counts {
        Counts(self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect())
    }

    /// The percentiles.
    pub(in crate::cli) fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.0.len(),
            p50: self.0.value_at_quantile(0.5),
            p90: self.0.value_at_quantile(0.9),
            p99: self.0.value_at_quantile(0.99),
            p99_9: self.0.value_at_quantile(0.999),
            max: self.0.max(),
        }
    }
}

/// Latencies as they travel between the processes of a benchmark: nanoseconds and how often.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::cli) struct Counts(Vec<(u64, u64)>);

/// Nanoseconds in a form for people: three digits and a unit.
pub(in crate::cli) fn readable(nanos: u64) -> String {
    let nanos_f = Duration::from_nanos(nanos).as_secs_f64() * 1e9;
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..10_000 => format!("{:.2} µs", nanos_f / 1e3),
        10_000..100_000 => format!("{:.1} µs", nanos_f / 1e3),
        100_000..1_000_000 => format!("{:.0} µs", nanos_f / 1e3),
        1_000_000..10_000_000 => format!("{:.2} ms", nanos_f / 1e6),
        10_000_000..1_000_000_000 => format!("{:.1} ms", nanos_f / 1e6),
        _ => format!("{:.2} s", nanos_f / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_counts_give_the_percentiles_of_all() {
        let (mut low, mut high) = (Latencies::new(), Latencies::new());
        (1..=900).for_each(|nanos| low.record(nanos));
        (901..=1000).for_each(|nanos| high.record(nanos));
        low.merge(&high.counts());
        let all = low.percentiles();
        assert_eq!((all.count, all.p50, all.p90, all.p99, all.max), (1000, 500, 900, 990, 1000));
        low.record(u64::MAX);
        assert!(low.percentiles().max >= NANOS_MAX);
    }

    #[test]
    fn durations_are_readable() {
        let shown = [999, 7_300, 14_460, 64_000_000, 2_500_000_000].map(readable);
        assert_eq!(shown, ["999 ns", "7.30 µs", "14.5 µs", "64.0 ms", "2.50 s"]);
    }
}
