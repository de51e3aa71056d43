//! Waiting in two steps: for a short while after traffic, look and yield in turn; then park.
//!
//! Waking a core that sleeps costs tens of microseconds, yielding costs less than one. A conversation that goes on
//! therefore never parks, and a silent one costs nothing. Where the process may use one core only, looking again
//! would only keep the other side from running: there it parks at once.

use std::time::{Duration, Instant};

/// How long to look again after the last traffic unless told otherwise.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(100);

/// Decides whether to look again or to park.
#[derive(Debug, Clone)]
pub struct Spinner {
    spin: Duration,
    idle_since: Option<Instant>,
    spent: bool,
}

impl Spinner {
    /// `spin`: how long to go on after the last traffic. Zero, or a single core to run on, never spins;
    /// [`Duration::MAX`] is for who knows better, and spins for ever on any number of cores.
    #[must_use]
    pub fn new(spin: Duration) -> Self {
        let spin = if cores() > 1 || spin == Duration::MAX { spin } else { Duration::ZERO };
        Self { spin, idle_since: None, spent: true }
    }

    /// Something arrived.
    pub fn busy(&mut self) {
        self.idle_since = None;
        self.spent = self.spin.is_zero();
    }

    /// Whether [`turn`](Self::turn) may still say to look again.
    #[must_use]
    pub const fn spins(&self) -> bool {
        !self.spent
    }

    /// Nothing was there: yields and says `true` to look again, or `false` to park.
    pub fn turn(&mut self) -> bool {
        if self.spent {
            return false;
        }
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        if now - since >= self.spin {
            self.spent = true;
            return false;
        }
        rustix::thread::sched_yield();
        true
    }
}

/// How many cores this thread may run on.
fn cores() -> u32 {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_traffic_it_parks_at_once() {
        assert!(!Spinner::new(Duration::from_secs(1)).turn());
        let mut never = Spinner::new(Duration::ZERO);
        never.busy();
        assert!(!never.turn());
    }

    #[test]
    fn after_traffic_it_looks_again_and_then_parks() {
        let mut spinner = Spinner::new(Duration::from_millis(5));
        spinner.busy();
        let mut turns = 0_u32;
        while spinner.turn() {
            turns += 1;
        }
        assert!(turns > 0 || cores() == 1);
        assert!(!spinner.turn());
    }
}
