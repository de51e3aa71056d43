//! Whether somebody who has failed lately is given more: one rule for instances of services, and for destinations of routes.
//!
//! Failures one after the other have somebody left out for a while, each time for longer; then they are on trial, with one
//! thing at a time, until that went well. What counts as a failure, and how many may be left out, is for others to say.

/// Whether somebody is given more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Trust {
    #[default]
    Whole,
    /// Not before this time.
    None { until: u64 },
    /// One at a time, until one went well; by the number of the one that is under way.
    Trial { has: Option<u64> },
}

/// How somebody has done lately.
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

    /// How it is, in a word for people.
    pub(super) fn state(&self) -> &'static str {
        if self.is_ejected() {
            "ejected"
        } else if self.is_on_trial() {
            "trial"
        } else {
            "healthy"
        }
    }

    /// Whether it may be given another now.
    pub(super) fn lets_another(&self) -> bool {
        matches!(self.trust, Trust::Whole | Trust::Trial { has: None })
    }

    pub(super) fn gave(&mut self, number: u64) {
        if let Trust::Trial { has } = &mut self.trust {
            *has = Some(number);
        }
    }

    /// What it was given has an outcome, or nobody waits for it any more.
    pub(super) fn done(&mut self, number: u64) {
        if let Trust::Trial { has } = &mut self.trust
            && *has == Some(number)
        {
            *has = None;
        }
    }

    /// Something went well. `step` is for how long it is left out the first time, in nanoseconds.
    pub(super) fn went_well(&mut self, step: u64, now: u64) {
        self.failures = 0;
        if self.is_on_trial() {
            self.trust = Trust::Whole;
            self.since = now;
        } else if self.times > 0 && now.saturating_sub(self.since) >= step {
            self.times -= 1;
            self.since = now;
        }
    }

    /// Something went wrong. Whether it is to be left out for that, if `most` failures are the limit; 0: never.
    pub(super) fn went_wrong(&mut self, most: u32) -> bool {
        self.failures = self.failures.saturating_add(1);
        let due = self.is_on_trial() || self.failures >= most;
        most > 0 && due && !self.is_ejected()
    }

    /// Leaves it out: for `step` nanoseconds the first time, and for so much longer each further time, up to `longest`.
    pub(super) fn eject(&mut self, step: u64, longest: u64, now: u64) {
        self.times = self.times.saturating_add(1);
        self.failures = 0;
        self.trust = Trust::None { until: now + step.saturating_mul(self.times.into()).min(longest) };
    }

    /// Until when it is left out, if it is.
    pub(super) fn until(&self) -> Option<u64> {
        match self.trust {
            Trust::None { until } => Some(until),
            Trust::Whole | Trust::Trial { .. } => None,
        }
    }

    /// Puts it on trial.
    pub(super) fn try_again(&mut self) {
        self.trust = Trust::Trial { has: None };
    }
}
