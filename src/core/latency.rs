//! How long answers took, and the disk, in a few fixed steps.

use serde::Serialize;

/// Upper ends of the steps, in seconds; what took longer than the last is in one step more.
pub const BOUNDS_SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// The same in nanoseconds.
const BOUNDS: [u64; 16] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// How long things of one kind took, by steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// How many took so long, by the steps of [`BOUNDS_SECONDS`] and one more.
    pub steps: [u64; 17],
    /// All together, in nanoseconds.
    pub sum_nanos: u64,
}

impl Latency {
    /// One more took so long.
    pub(super) fn note(&mut self, nanos: u64) {
        let step = BOUNDS.partition_point(|bound| *bound < nanos);
        self.steps[step] += 1;
        self.sum_nanos = self.sum_nanos.saturating_add(nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_falls_into_the_step_that_ends_behind_it() {
        let mut latency = Latency::default();
        for nanos in [0, 50_000, 50_001, 10_000_000_000, 10_000_000_001, u64::MAX] {
            latency.note(nanos);
        }
        assert_eq!((latency.steps[0], latency.steps[1]), (2, 1));
        assert_eq!((latency.steps[15], latency.steps[16]), (1, 2));
        assert_eq!(latency.sum_nanos, u64::MAX);
        for (seconds, nanos) in BOUNDS_SECONDS.iter().zip(BOUNDS) {
            assert_eq!(std::time::Duration::from_secs_f64(*seconds).as_nanos(), u128::from(nanos));
        }
    }
}
