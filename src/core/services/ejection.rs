//! Instances that fail are left out for a while, and come back on trial.
//!
//! What counts as a failure: a call that was not answered in time, and one that the instance says it could not carry out. An
//! error of the application is an answer like any other. The death of an instance is none either: who has died is given
//! nothing any more, and who comes in its place is another. Ejection never leaves a service without an instance: the last
//! one stays, and if all others go, those that were left out are back on trial at once.

use super::MILLI;
use super::service::Service;
use crate::core::strategy::Seat;

impl Service {
    /// An instance has answered in time.
    pub(super) fn went_well(&mut self, seat: Seat, now: u64) {
        let step = u64::from(self.settings.eject_millis) * MILLI;
        self.change(seat, |instance| instance.health.went_well(step, now));
    }

    /// An instance has failed. Whether it is left out for that.
    pub(super) fn went_wrong(&mut self, seat: Seat, now: u64) -> bool {
        let most = self.settings.eject_failures;
        let Some(Some(instance)) = self.instances.get_mut(seat as usize) else { return false };
        if !instance.health.went_wrong(most) || !self.may_eject(seat) {
            return false;
        }
        let step = u64::from(self.settings.eject_millis) * MILLI;
        let longest = u64::from(self.settings.eject_millis_max) * MILLI;
        self.change(seat, |instance| instance.health.eject(step, longest, now));
        self.counts.ejections += 1;
        true
    }

    fn may_eject(&self, seat: Seat) -> bool {
        let all = self.instances.iter().flatten().filter(|instance| !instance.ending);
        let (count, ejected) = all.fold((0, 0), |(count, ejected), instance| {
            (count + 1, ejected + u64::from(instance.health.is_ejected()))
        });
        let most = (count * u64::from(self.settings.eject_percent_max) / 100).max(1);
        let ends = self.instance(seat).is_some_and(|instance| instance.ending);
        !ends && ejected < most && count - ejected > 1
    }

    /// Puts those on trial whose time is over; if there is nobody else, all that were left out.
    pub(super) fn let_back(&mut self, now: u64) {
        let somebody = self.could_take(&[]);
        for seat in 0..self.instances.len() {
            let Ok(seat) = Seat::try_from(seat) else { break };
            let until = self.instance(seat).and_then(|instance| instance.health.until());
            if until.is_some_and(|until| until <= now || !somebody) {
                self.change(seat, |instance| instance.health.try_again());
            }
        }
    }

    /// When the next one is to be put on trial.
    pub(super) fn next_back(&self) -> Option<u64> {
        self.instances.iter().flatten().filter_map(|instance| instance.health.until()).min()
    }
}
