//! What the expressions of one message have used: steps, and time.
//!
//! Steps bound the cost whatever the machine; a step is a node evaluated, or 64 bytes copied or looked through.
//! The clock is looked at now and then only, so that a cheap expression does not pay for it.

use super::Trouble;
use crate::routes::limits::{Exceeded, Limits};
use std::time::{Duration, Instant};

/// Bytes that cost one step.
const STEP_BYTES: usize = 64;
/// Steps between two looks at the clock.
const CLOCK_STEPS: usize = 512;

/// The account of one message.
#[derive(Debug)]
pub struct Meter {
    steps: usize,
    look_at: usize,
    began: Option<Instant>,
    steps_max: usize,
    micros_max: usize,
    pub(super) result_bytes_max: usize,
}

impl Meter {
    /// An account with nothing used.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            steps: 0,
            look_at: CLOCK_STEPS.min(limits.steps_max.saturating_add(1)),
            began: None,
            steps_max: limits.steps_max,
            micros_max: limits.micros_max,
            result_bytes_max: limits.result_bytes_max,
        }
    }

    /// Steps used so far.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// One node, and `bytes` that it copies or looks through.
    #[inline]
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), Trouble> {
        self.steps += 1 + bytes / STEP_BYTES;
        if self.steps >= self.look_at { self.look() } else { Ok(()) }
    }

    #[cold]
    fn look(&mut self) -> Result<(), Trouble> {
        if self.steps > self.steps_max {
            let what = "the expressions take too many steps for one message";
            return Err(Trouble::Limit(Exceeded::new("steps_max", self.steps_max, what)));
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        if began.elapsed() > Duration::from_micros(self.micros_max as u64) {
            let what = "the expressions take too many microseconds for one message";
            return Err(Trouble::Limit(Exceeded::new("micros_max", self.micros_max, what)));
        }
        self.look_at = (self.steps + CLOCK_STEPS).min(self.steps_max.saturating_add(1));
        Ok(())
    }

    /// Room for a value of `bytes`, which is paid for.
    pub(super) fn room(&mut self, bytes: usize) -> Result<(), Trouble> {
        if bytes > self.result_bytes_max {
            let what = format!("a value of {bytes} bytes would be made");
            return Err(Trouble::Limit(Exceeded::new("result_bytes_max", self.result_bytes_max, what)));
        }
        self.charge(bytes)
    }
}
