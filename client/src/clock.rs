//! The clock that message times are taken from, and random numbers for stream ids.

use std::time::{Duration, Instant};

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of [`Message::time`](crate::Message::time). Does not block.
#[must_use]
pub fn monotonic_nanos() -> u64 {
    nanos(rustix::time::ClockId::Monotonic)
}

/// The same, as of a few milliseconds ago at most: it moves in steps, and costs next to nothing to read.
pub(crate) fn coarse_nanos() -> u64 {
    nanos(rustix::time::ClockId::MonotonicCoarse)
}

fn nanos(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// A random number that is not 0.
pub(crate) fn random_id() -> u64 {
    loop {
        let mut bytes = [0; 8];
        // A pool that is not yet filled (early boot) makes this wait; a signal makes it short: ask again.
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        let id = u64::from_ne_bytes(bytes);
        if filled == Ok(bytes.len()) && id != 0 {
            return id;
        }
    }
}

/// The moment `timeout` from now; `None` when that is too far away to be told, which is to say never.
pub(crate) fn deadline_after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// What `poll` takes: the time until the earlier of two moments, rounded up; `None` waits without end.
pub(crate) fn until(first: Option<Instant>, second: Option<Instant>) -> Option<rustix::event::Timespec> {
    let moment = match (first, second) {
        (Some(a), Some(b)) => a.min(b),
        (a, b) => a.or(b)?,
    };
    let left = moment.saturating_duration_since(Instant::now());
    Some(rustix::event::Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    })
}
