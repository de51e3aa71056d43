//! The two clocks that the core is told: the only place of the broker that reads them.

use crate::core::Now;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;
use tokio::time::Instant;

/// What the clocks say.
pub(super) fn now() -> Now {
    let monotonic = clock_gettime(ClockId::Monotonic);
    let unix = clock_gettime(ClockId::Realtime);
    Now { monotonic: u64::try_from(nanoseconds(monotonic)).unwrap_or(0), unix: nanoseconds(unix) }
}

fn nanoseconds(time: rustix::time::Timespec) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// The runtime's time for a monotonic time of the core.
pub(super) fn instant(monotonic: u64) -> Instant {
    Instant::now() + Duration::from_nanos(monotonic.saturating_sub(now().monotonic))
}
