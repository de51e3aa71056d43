//! Who works on what: each source's messages stay with one worker while any of them is in work, so they stay in order.
//!
//! A worker is given a few jobs at a time, and none while too much of what was made before is still to be delivered;
//! the rest waits here, bounded by what the routes may have in all.

use super::task::Job;
use crate::core::SessionId;
use crate::core::table::Key;
use std::collections::{HashMap, VecDeque};

/// Whose messages are kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// A publisher, on one topic.
    Topic(SessionId, Key),
    /// A queue.
    Queue(Key),
    /// A caller of a service.
    Caller(SessionId, Key),
}

#[derive(Debug, Default)]
struct Hand {
    waiting: VecDeque<Job>,
    /// Jobs about what is being delivered already, which are first.
    endings: VecDeque<Job>,
    has: u32,
}

impl Hand {
    /// Those that wait for the worker.
    fn jobs(&self) -> usize {
        self.waiting.len() + self.endings.len()
    }
}

/// The workers, as the core knows them.
#[derive(Debug, Default)]
pub(super) struct Hands {
    hands: Vec<Hand>,
    /// Sources with something in work: at which worker, and how much.
    sources: HashMap<Source, (usize, u32), foldhash::fast::FixedState>,
    /// Jobs that workers have.
    has: u32,
}

impl Hands {
    /// There are at least so many workers.
    pub(super) fn grow(&mut self, workers: usize) {
        if self.hands.len() < workers {
            self.hands.resize_with(workers, Hand::default);
        }
    }

    pub(super) fn is_in_work(&self, source: Source) -> bool {
        !self.sources.is_empty() && self.sources.contains_key(&source)
    }

    /// The worker for the next message of this source.
    pub(super) fn begin(&mut self, source: Source) -> usize {
        if let Some((worker, count)) = self.sources.get_mut(&source) {
            *count += 1;
            return *worker;
        }
        let worker = self.idlest();
        self.sources.insert(source, (worker, 1));
        worker
    }

    /// A message of this source is out of work.
    pub(super) fn end(&mut self, source: Source) {
        if let Some((_, count)) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// The worker with the least to do.
    pub(super) fn idlest(&self) -> usize {
        let load = |hand: &Hand| hand.jobs() + hand.has as usize;
        (0..self.hands.len()).min_by_key(|worker| load(&self.hands[*worker])).unwrap_or(0)
    }

    pub(super) fn put(&mut self, worker: usize, job: Job) {
        if let Some(hand) = self.hands.get_mut(worker) {
            hand.waiting.push_back(job);
        }
    }

    /// A job without which something that is there already does not end. At which worker it is.
    pub(super) fn put_ending(&mut self, job: Job) -> usize {
        let worker = self.idlest();
        if let Some(hand) = self.hands.get_mut(worker) {
            hand.endings.push_back(job);
        }
        worker
    }

    /// The next job for this worker, if it has less than `most`; only one that ends something if there is `too_much`.
    pub(super) fn take(&mut self, worker: usize, most: usize, too_much: bool) -> Option<Job> {
        let hand = self.hands.get_mut(worker).filter(|hand| (hand.has as usize) < most)?;
        let begins = |hand: &mut Hand| if too_much { None } else { hand.waiting.pop_front() };
        let job = hand.endings.pop_front().or_else(|| begins(hand))?;
        hand.has += 1;
        self.has += 1;
        Some(job)
    }

    pub(super) fn done(&mut self, worker: usize) {
        if let Some(hand) = self.hands.get_mut(worker) {
            hand.has = hand.has.saturating_sub(1);
            self.has = self.has.saturating_sub(1);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.hands.len()
    }

    /// Whether no worker has anything.
    pub(super) fn is_idle(&self) -> bool {
        self.has == 0
    }

    /// Jobs that workers have, and those that wait for one.
    pub(super) fn jobs(&self) -> usize {
        self.has as usize + self.hands.iter().map(Hand::jobs).sum::<usize>()
    }
}
