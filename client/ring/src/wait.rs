//! Waiting in two steps: for a short while after traffic, look and yield in turn; then park.
//!
//! Waking a core that sleeps costs tens of microseconds, yielding costs less than one. A conversation that goes on
//! therefore never parks, and a silent one costs nothing. Where the process may use one core only, looking again
//! would only keep the other side from running: there it parks at once.
//!
//! A core that others want as well is no place for that either: the scheduler takes a yield for the whole of a slice, and
//! gives the core back when everybody else has had one. Whoever yields again and again then gets next to nothing of
//! what is its share. So a yield that takes long is followed by a time in which nothing is looked for.

use std::time::{Duration, Instant};

/// How long to look again after the last traffic unless told otherwise.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(100);

/// A yield that takes longer has given the core to somebody with work of its own, and not to the other side of a
/// conversation, which answers within microseconds.
const YIELD_MAX: Duration = Duration::from_millis(1);

/// For how many times as long as such a yield took nothing is looked for: what it may cost of the time.
const REST_FACTOR: u32 = 32;

/// The longest time for which nothing is looked for after one yield.
const REST_MAX: Duration = Duration::from_secs(1);

/// Decides whether to look again or to park.
#[derive(Debug, Clone)]
pub struct Spinner {
    spin: Duration,
    idle_since: Option<Instant>,
    spent: bool,
    /// Others want the core; until then they are not asked again whether they do.
    rests_until: Option<Instant>,
}

impl Spinner {
    /// `spin`: how long to go on after the last traffic. Zero, or a single core to run on, never spins;
    /// [`Duration::MAX`] is for who knows better, and spins for ever on any number of cores.
    #[must_use]
    pub fn new(spin: Duration) -> Self {
        let spin = if cores() > 1 || spin == Duration::MAX { spin } else { Duration::ZERO };
        Self { spin, idle_since: None, spent: true, rests_until: None }
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

    /// Nothing was there: yields and says `true` to look again, or `false` to park. Where a yield has just taken longer
    /// than a millisecond, because others have work for this core, it says `false` for up to a second.
    pub fn turn(&mut self) -> bool {
        self.turn_by(Instant::now, rustix::thread::sched_yield)
    }

    fn turn_by(&mut self, clock: impl Fn() -> Instant, give_core: impl FnOnce()) -> bool {
        if self.spent {
            return false;
        }
        let now = clock();
        let since = *self.idle_since.get_or_insert(now);
        let rests = self.rests_until.is_some_and(|until| now < until);
        if rests || now - since >= self.spin {
            self.spent = true;
            return false;
        }
        give_core();
        let back = clock();
        let took = back - now;
        if took > YIELD_MAX && self.spin != Duration::MAX {
            self.rests_until = Some(back + took.saturating_mul(REST_FACTOR).min(REST_MAX));
        }
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
    use std::cell::Cell;

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

    /// A turn on a machine where a yield takes so long.
    fn turn(spinner: &mut Spinner, now: &Cell<Instant>, takes: Duration) -> bool {
        spinner.turn_by(|| now.get(), || now.set(now.get() + takes))
    }

    fn on_two_cores(spin: Duration) -> Spinner {
        Spinner { spin, idle_since: None, spent: true, rests_until: None }
    }

    #[test]
    fn a_core_that_others_want_is_not_given_away_with_every_message() {
        let (quick, slow) = (Duration::from_micros(1), Duration::from_millis(12));
        let now = Cell::new(Instant::now());
        let mut spinner = on_two_cores(Duration::from_micros(50));
        spinner.busy();
        assert!(turn(&mut spinner, &now, slow), "it looks once more when it has the core again");
        let resting = now.get() + slow * REST_FACTOR;
        let mut messages = 0;
        while now.get() < resting {
            // Another message every millisecond.
            spinner.busy();
            assert!(!turn(&mut spinner, &now, slow), "after {messages} messages");
            now.set(now.get() + Duration::from_millis(1));
            messages += 1;
        }
        assert_eq!(messages, 12 * 32);
        spinner.busy();
        assert!(turn(&mut spinner, &now, quick) && turn(&mut spinner, &now, quick), "the others have gone");
    }

    #[test]
    fn it_rests_no_longer_than_a_second_and_not_where_it_is_to_spin_for_ever() {
        let now = Cell::new(Instant::now());
        let mut spinner = on_two_cores(Duration::from_micros(50));
        spinner.busy();
        assert!(turn(&mut spinner, &now, Duration::from_secs(5)));
        now.set(now.get() + REST_MAX);
        spinner.busy();
        assert!(turn(&mut spinner, &now, Duration::ZERO));
        let mut for_ever = on_two_cores(Duration::MAX);
        for_ever.busy();
        assert!((0..100).all(|_| turn(&mut for_ever, &now, Duration::from_secs(5))));
    }

    #[test]
    fn a_yield_to_the_other_side_of_a_conversation_costs_nothing() {
        let now = Cell::new(Instant::now());
        let mut spinner = on_two_cores(Duration::from_millis(5));
        for _ in 0..100 {
            spinner.busy();
            assert!(turn(&mut spinner, &now, YIELD_MAX));
        }
    }
}
