//! Instances that fail are left out for a while, and come back on trial.
//!
//! What counts as a failure: a call that was not answered in time, and one that the instance says it could not carry out. An
//! error of the application is an answer like any other. The death of an instance is none either: who has died is given
//! nothing any more, and who comes in its place is another. Ejection never leaves a service without an instance: the last
//! one stays, and if all others go, those that were left out are back on trial at once.

use super::MILLI;
use super::service::Service;
use crate::core::strategy::Seat;

/// Whether an instance is given requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Trust {
    #[default]
    Whole,
    /// Not before this time.
    None { until: u64 },
    /// One at a time, until one has been answered; by the number of the call that it has.
    Trial { call: Option<u64> },
}

/// How an instance has done lately.
#[derive(Debug, Default)]
pub(super) struct Health {
    trust: Trust,
    /// Failures, one after the other.
    failures: u32,
    /// How often it was left out, less the times it has done well for long enough since.
    times: u32,
    /// Since when it has done well.
    since: u64,
}

impl Health {
    pub(super) fn is_ejected(&self) -> bool {
        matches!(self.trust, Trust::None { .. })
    }

    pub(super) fn is_on_trial(&self) -> bool {
        matches!(self.trust, Trust::Trial { .. })
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it may be given another request now.
    pub(super) fn lets_another(&self) -> bool {
        matches!(self.trust, Trust::Whole | Trust::Trial { call: None })
    }

    pub(super) fn gave(&mut self, number: u64) {
        if let Trust::Trial { call } = &mut self.trust {
            *call = Some(number);
        }
    }

    /// A call has an outcome, or nobody waits for it any more.
    pub(super) fn done(&mut self, number: u64) {
        if let Trust::Trial { call } = &mut self.trust
            && *call == Some(number)
        {
            *call = None;
        }
    }
}

impl Service {
    /// An instance has answered in time.
    pub(super) fn went_well(&mut self, seat: Seat, now: u64) {
        let step = u64::from(self.settings.eject_millis) * MILLI;
        self.change(seat, |instance| {
            let health = &mut instance.health;
            health.failures = 0;
            if health.is_on_trial() {
                health.trust = Trust::Whole;
                health.since = now;
            } else if health.times > 0 && now.saturating_sub(health.since) >= step {
                health.times -= 1;
                health.since = now;
            }
        });
    }

    /// An instance has failed. Whether it is left out for that.
    pub(super) fn went_wrong(&mut self, seat: Seat, now: u64) -> bool {
        let most = self.settings.eject_failures;
        let Some(Some(instance)) = self.instances.get_mut(seat as usize) else { return false };
        instance.health.failures = instance.health.failures.saturating_add(1);
        let due = instance.health.is_on_trial() || instance.health.failures >= most;
        if most == 0 || !due || instance.health.is_ejected() || !self.may_eject(seat) {
            return false;
        }
        let (base, longest) = (self.settings.eject_millis, self.settings.eject_millis_max);
        self.change(seat, |instance| {
            let health = &mut instance.health;
            health.times = health.times.saturating_add(1);
            health.failures = 0;
            let millis = u64::from(base).saturating_mul(health.times.into()).min(longest.into());
            health.trust = Trust::None { until: now + millis * MILLI };
        });
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
            let trust = self.instance(seat).map(|instance| instance.health.trust);
            if let Some(Trust::None { until }) = trust
                && (until <= now || !somebody)
            {
                self.change(seat, |instance| instance.health.trust = Trust::Trial { call: None });
            }
        }
    }

    /// When the next one is to be put on trial.
    pub(super) fn next_back(&self) -> Option<u64> {
        let ejected = self.instances.iter().flatten().filter_map(|instance| match instance.health.trust {
            Trust::None { until } => Some(until),
            Trust::Whole | Trust::Trial { .. } => None,
        });
        ejected.min()
    }
}
