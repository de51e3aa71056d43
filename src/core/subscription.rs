//! One subscription: what it asked for, what waits for it, and what it has yet to be told.
//!
//! Everything that waits is counted in bytes against `backlog_bytes_max`; each entry counts with a fixed
//! overhead, so that empty messages are not free. This file holds state and its small invariants; the
//! policies are in `delivery`.

use super::Language;
use super::gaps::{Gap, Gaps};
use super::runs::Run;
use super::session::Identity;
use super::table::Key;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use tramline_wire::{After, Mode, SlowPolicy};

/// What an entry of a queue costs besides its bytes.
const ENTRY_BYTES: usize = 64;

/// A message that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) from: Arc<Identity>,
    pub(super) topic: Key,
    pub(super) name: Arc<str>,
    /// The message as it travels, shared between all subscriptions it waits for.
    pub(super) bytes: Arc<[u8]>,
    pub(super) payload_length: u64,
}

impl Waiting {
    pub(super) fn cost(&self) -> usize {
        cost(self.bytes.len())
    }
}

/// What a message of this length counts for in a queue.
pub(super) fn cost(bytes: usize) -> usize {
    bytes + ENTRY_BYTES
}

/// An entry of a subscription's queue.
#[derive(Debug)]
pub(super) enum Entry {
    Message(Waiting),
    /// Several messages, all of which wait for the client to read.
    Run(Run),
    /// The memory of this attachment is to be handed over behind everything before it.
    Attach(u64),
    /// Lost in a ring behind what stands before it and ahead of what follows.
    Loss(Gap),
}

/// Where messages of a subscription of the broker's own go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sink {
    /// Into a queue.
    Queue(Key),
    /// To the routes.
    Routes,
}

/// Who waits for the answer to a request.
#[derive(Debug)]
pub(super) enum Asker {
    Native(u32),
    Json(Option<String>),
    /// The broker itself.
    Nobody,
}

/// A subscription that waits for its streams before it is confirmed.
#[derive(Debug)]
pub(super) struct Confirmation {
    pub(super) asker: Asker,
    pub(super) deadline: u64,
    /// Attachments that are still to come.
    pub(super) awaited: u32,
    /// Attachments that have come.
    pub(super) attached: u32,
}

/// One subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) session: Key,
    pub(super) language: Language,
    pub(super) number: u32,
    pub(super) filter: Box<str>,
    pub(super) mode: Mode,
    /// Whether it would rather not read a stream than read it lossily.
    pub(super) gated_only: bool,
    pub(super) rings: bool,
    pub(super) history: u32,
    pub(super) slow: SlowPolicy,
    pub(super) backlog_bytes_max: usize,
    pub(super) queue: VecDeque<Entry>,
    /// Socket messages that come behind ring messages which the broker is still reading on its behalf.
    pub(super) held: VecDeque<(Waiting, Option<After>)>,
    /// Cost of `queue` and `held` together.
    pub(super) backlog_bytes: usize,
    /// Whether it stands in its session's backlog.
    pub(super) in_backlog: bool,
    pub(super) gaps: Gaps,
    pub(super) confirmation: Option<Confirmation>,
    /// Publishers that are held up, and until when.
    pub(super) waiting: Vec<Key>,
    pub(super) block_until: Option<u64>,
    /// The time to hold publishers up is over: drop until half of the queue is free.
    pub(super) dropping: bool,
    pub(super) waiting_proxies: Vec<u64>,
    pub(super) attachments: BTreeSet<u64>,
    /// How many of them the broker reads on its behalf.
    pub(super) proxies: u32,
    /// Copies of what gone publishers sent that it is still to be given, before anything else.
    pub(super) retained_pending: u32,
    /// Attachments to live streams that wait for that.
    pub(super) behind_retained: Vec<u64>,
    /// Where its messages go in the broker, if it is the broker's own.
    pub(super) sink: Option<Sink>,
    pub(super) messages: u64,
    pub(super) lost: u64,
}

impl Subscription {
    /// Whether a message may go straight to the outbox, if that has room.
    pub(super) fn is_clear(&self) -> bool {
        self.queue.is_empty()
            && self.held.is_empty()
            && self.gaps.is_empty()
            && self.proxies == 0
            && self.retained_pending == 0
            && self.is_told()
    }

    /// A JSON client learns its subscription's number before the first message of it.
    pub(super) fn is_told(&self) -> bool {
        self.language == Language::Native || self.confirmation.is_none()
    }

    /// Whether an entry of this cost exceeds what may wait. One entry is taken whatever it costs.
    pub(super) fn is_full_for(&self, cost: usize) -> bool {
        self.backlog_bytes > 0 && self.backlog_bytes + cost > self.backlog_bytes_max
    }

    /// Whether publishers are to be held up for an entry of this cost.
    pub(super) fn holds_up(&self, cost: usize) -> bool {
        !self.dropping && matches!(self.slow, SlowPolicy::Block { millis: 1.. }) && self.is_full_for(cost)
    }

    /// Counts a loss that is told before the next message.
    pub(super) fn lose(&mut self, gap: Gap) {
        self.lost = self.lost.saturating_add(gap.lost);
        self.gaps.add(gap);
    }

    /// Counts a loss that is told behind everything that waits already. At the end of the queue there is at most one for
    /// each publisher and topic.
    pub(super) fn lose_behind(&mut self, gap: Gap) {
        if self.queue.is_empty() {
            return self.lose(gap);
        }
        self.lost = self.lost.saturating_add(gap.lost);
        for entry in self.queue.iter_mut().rev() {
            match entry {
                Entry::Loss(last) if last.is_with(&gap) => {
                    last.lost = last.lost.saturating_add(gap.lost);
                    return;
                }
                Entry::Loss(_) => {}
                _ => break,
            }
        }
        self.queue.push_back(Entry::Loss(gap));
    }

    /// Drops the oldest messages until an entry of this cost may wait; says how many.
    pub(super) fn make_room(&mut self, cost: usize) -> u64 {
        let mut dropped = 0;
        while self.is_full_for(cost)
            && let lost @ 1.. = self.drop_oldest(self.backlog_bytes + cost - self.backlog_bytes_max)
        {
            dropped += lost;
        }
        dropped
    }

    /// Drops the oldest message that waits, and of a run as many as free `excess`; says how many.
    pub(super) fn drop_oldest(&mut self, excess: usize) -> u64 {
        let is_message = |entry: &Entry| matches!(entry, Entry::Message(_) | Entry::Run(_));
        let place = self.queue.iter().position(is_message);
        let place = place.unwrap_or(self.queue.len());
        let lost;
        if let Some(Entry::Run(run)) = self.queue.get_mut(place) {
            let freed;
            (lost, freed) = run.drop_front(excess);
            self.backlog_bytes -= freed;
            let (from, topic, name) = (run.from.clone(), run.topic, run.name.clone());
            if run.len() == 0 {
                self.queue.remove(place);
            }
            self.lose(Gap { from, topic, name, lost });
        } else {
            let dropped = match self.queue.remove(place) {
                Some(Entry::Message(waiting)) => Some(waiting),
                _ => self.held.pop_front().map(|(waiting, _)| waiting),
            };
            let Some(waiting) = dropped else { return 0 };
            lost = 1;
            self.backlog_bytes -= waiting.cost();
            let Waiting { from, topic, name, .. } = waiting;
            self.lose(Gap { from, topic, name, lost });
        }
        while matches!(self.queue.front(), Some(Entry::Loss(_))) {
            if let Some(Entry::Loss(gap)) = self.queue.pop_front() {
                self.gaps.add(gap);
            }
        }
        lost
    }
}
