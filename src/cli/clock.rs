//! The clocks that commands read, and pacing by them.

use rustix::thread::ClockId;
use rustix::time::Timespec;
use std::time::Duration;

/// How early a pacing thread is woken, in nanoseconds: the system may wake it this much too late.
const WAKE_EARLY_NANOS: u64 = 100_000;

/// `CLOCK_MONOTONIC` in nanoseconds: the same in all processes of one host, as message times are given.
pub(super) fn monotonic_nanos() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).expect("a monotonic clock starts at zero");
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).expect("nanoseconds are never negative")
}

/// Waits until `CLOCK_MONOTONIC` shows `nanos`: asleep for the most part, then by looking again and again,
/// so that a message leaves at its time and not when a timer happened to wake the thread.
pub(super) fn wait_until(nanos: u64) {
    loop {
        let left = nanos.saturating_sub(monotonic_nanos());
        if left == 0 {
            return;
        }
        if left <= 2 * WAKE_EARLY_NANOS {
            std::thread::yield_now();
            continue;
        }
        let wake = nanos - WAKE_EARLY_NANOS;
        let seconds = i64::try_from(wake / 1_000_000_000).unwrap_or(i64::MAX);
        let at = Timespec { tv_sec: seconds, tv_nsec: (wake % 1_000_000_000).cast_signed() };
        // A signal ends the wait early; the loop looks at the clock again.
        let _ = rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &at);
    }
}

/// A span of time as an argument says it.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// When the next of several evenly spaced things is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    began: u64,
    per_second: f64,
}

impl Pace {
    /// The first is due at `began` (nanoseconds of `CLOCK_MONOTONIC`); `per_second` is above zero.
    pub(super) const fn new(began: u64, per_second: f64) -> Self {
        Self { began, per_second }
    }

    /// When the thing with this number, counted from 0, is due.
    pub(super) fn due(&self, number: u64) -> u64 {
        let after = Duration::try_from_secs_f64(number as f64 / self.per_second);
        let after = after.ok().and_then(|after| u64::try_from(after.as_nanos()).ok());
        self.began.saturating_add(after.unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_no_earlier_than_asked() {
        let until = monotonic_nanos() + 1_000_000;
        wait_until(until);
        assert!(monotonic_nanos() >= until);
        wait_until(0);
    }

    #[test]
    fn due_times_are_even_and_do_not_drift() {
        let pace = Pace::new(100, 1000.0);
        assert_eq!(
            [0, 1, 2, 1_000_000].map(|number| pace.due(number)),
            [100, 1_000_100, 2_000_100, 1_000_000_000_100]
        );
        assert_eq!(Pace::new(1, 1e-300).due(1), u64::MAX);
    }
}
