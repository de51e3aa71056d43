//! What is due when. The core has no clock: the shell asks for the next time and says when it has come.
//!
//! Whoever sets a timer keeps its time and takes the timer back when it is no longer wanted, so there are never
//! more timers than sessions, subscriptions, streams, queues, services, requests, and what routes deliver.

use super::table::Key;
use std::collections::BTreeSet;

/// Nanoseconds in a millisecond.
pub(super) const MILLI: u64 = 1_000_000;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A session should have been opened.
    Open(Key),
    /// A session should have read its answers.
    Answers(Key),
    /// Publishers were held up long enough for this subscription.
    Block(Key),
    /// A publisher was held up for as long as it may be.
    Patience(Key),
    /// A subscription is confirmed with what it has.
    Subscribed(Key),
    /// A stream is open with the readers it has.
    Stream(u64),
    /// A stream goes on in another generation with the readers that have it.
    Growth(u64),
    /// A client has been back long enough for the other sides of its attachments to be back, too.
    Grace(Key),
    /// Something is due in a queue.
    Queue(Key),
    /// A request has waited for long enough.
    Call(Key),
    /// An instance of a service comes back.
    Service(Key),
    /// A delivery ring is idle, or is tried again.
    Bulk(Key),
    /// Something waits to be written to the store.
    Store,
    /// Something that a route delivers is tried again.
    Leg(Key),
}

/// All timers, by time.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(u64, Timer)>);

impl Timers {
    pub(super) fn set(&mut self, at: u64, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(super) fn cancel(&mut self, at: u64, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub(super) fn next(&self) -> Option<u64> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The first timer that is due by `now`.
    pub(super) fn pop(&mut self, now: u64) -> Option<Timer> {
        self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
