//! Runs: what waits for a subscription that does not read, many messages as one entry of its queue.
//!
//! A subscription whose outbox is full and that drops its oldest messages takes nothing for as long as its client does
//! not read. What came for it in one stretch is one copy, one entry, and, when newer messages need the room, one loss,
//! instead of as many: whoever stops reading costs the others next to nothing. What waits, what is dropped and what
//! is counted are the same as message by message; a test holds both ways to that.

use super::gaps::Gap;
use super::session::Identity;
use super::stretch::Piece;
use super::subscription::{Entry, Subscription, Waiting, cost};
use super::table::Key;
use std::sync::Arc;
use tramline_wire::SlowPolicy;

/// Messages of one publisher on one topic that came behind each other.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) from: Arc<Identity>,
    pub(super) topic: Key,
    pub(super) name: Arc<str>,
    /// The frames they came in, shared by all subscriptions that they wait for.
    pub(super) bytes: Arc<[u8]>,
    /// Where in these bytes the messages are.
    pub(super) pieces: Arc<[Piece]>,
    /// The first of them that still waits.
    pub(super) next: usize,
}

impl Run {
    fn waiting(&self) -> &[Piece] {
        &self.pieces[self.next..]
    }

    /// How many messages wait.
    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    /// What they count for in a queue.
    pub(super) fn cost(&self) -> usize {
        self.waiting().iter().map(|piece| cost(piece.message_bytes())).sum()
    }

    /// What the oldest of them counts for.
    pub(super) fn front_cost(&self) -> usize {
        self.waiting().first().map_or(0, |piece| cost(piece.message_bytes()))
    }

    /// Takes the oldest of them out.
    pub(super) fn take_front(&mut self) -> Option<Waiting> {
        let piece = *self.waiting().first()?;
        self.next += 1;
        Some(Waiting {
            from: self.from.clone(),
            topic: self.topic,
            name: self.name.clone(),
            bytes: piece.message(&self.bytes).into(),
            payload_length: piece.payload_bytes as u64,
        })
    }

    /// Drops messages until that frees `excess`; says how many, and what they counted for.
    pub(super) fn drop_front(&mut self, excess: usize) -> (u64, usize) {
        let (mut dropped, mut freed) = (0, 0);
        while freed < excess && self.len() > 0 {
            freed += self.front_cost();
            self.next += 1;
            dropped += 1;
        }
        (dropped, freed)
    }
}

impl Subscription {
    /// Whether nothing leads from its queue to its client for now, and whatever comes is simply queued: then a stretch
    /// may be queued as a run. `outbox_is_full`: so is the session's.
    pub(super) fn stalls(&self, outbox_is_full: bool) -> bool {
        outbox_is_full
            && self.slow == SlowPolicy::DropOldest
            && self.held.is_empty()
            && self.proxies == 0
            && self.retained_pending == 0
            && self.is_told()
    }

    /// Queues a run and drops what is too much, the oldest first. Says how many were dropped.
    pub(super) fn queue_run(&mut self, mut run: Run) -> u64 {
        let mut dropped = 0;
        let cost = run.cost();
        if cost > self.backlog_bytes_max {
            // Everything before it, and its own beginning. The last message is taken whatever it costs.
            while let lost @ 1.. = self.drop_oldest(usize::MAX) {
                dropped += lost;
            }
            let mut left = cost;
            let mut own = 0;
            while left > self.backlog_bytes_max && run.len() > 1 {
                left -= run.front_cost();
                run.next += 1;
                own += 1;
            }
            if own > 0 {
                dropped += own;
                let Run { from, topic, name, .. } = run.clone();
                self.lose(Gap { from, topic, name, lost: own });
            }
        } else {
            dropped += self.make_room(cost);
        }
        self.backlog_bytes += run.cost();
        self.queue.push_back(Entry::Run(run));
        dropped
    }
}
