//! Messages that a queue has given up: with their payload, why, when, how often and by whom they failed.
//!
//! There is a place for them by default, and it is bounded: when it is full the oldest is dropped, and counted.

use super::Cause;
use super::origins::Origin;
use crate::core::session::Identity;
use std::collections::VecDeque;
use std::sync::Arc;

/// A message that was given up.
#[derive(Debug, Clone)]
pub(in crate::core) struct Dead {
    /// Its number among the dead letters of its queue.
    pub(in crate::core) number: u64,
    /// The message as it travels.
    pub(in crate::core) bytes: Arc<[u8]>,
    pub(in crate::core) origin: Origin,
    pub(in crate::core) priority: u8,
    pub(in crate::core) cause: Cause,
    /// What the consumer said when it rejected it.
    pub(in crate::core) reason: Box<str>,
    /// When, in nanoseconds since 1970.
    pub(in crate::core) when: i64,
    /// How often it had been given out.
    pub(in crate::core) attempts: u16,
    /// Who had it last, if it was given out at all.
    pub(in crate::core) by: Option<Arc<Identity>>,
}

/// The dead letters of one queue.
#[derive(Debug, Default)]
pub(in crate::core) struct DeadLetters {
    letters: VecDeque<Dead>,
    last: u64,
    pub(in crate::core) bytes: u64,
}

impl DeadLetters {
    pub(in crate::core) fn len(&self) -> usize {
        self.letters.len()
    }

    pub(in crate::core) fn iter(&self) -> impl Iterator<Item = &Dead> {
        self.letters.iter()
    }

    /// Takes one in; its number is given here, and returned.
    pub(super) fn push(&mut self, mut dead: Dead) -> u64 {
        self.last += 1;
        dead.number = self.last;
        self.bytes += super::cost(dead.bytes.len());
        self.letters.push_back(dead);
        self.last
    }

    /// New ones have higher numbers than this.
    pub(super) fn begin_after(&mut self, last: u64) {
        self.last = last;
    }

    /// Takes in one that has a number already.
    pub(super) fn restore(&mut self, dead: Dead) {
        self.bytes += super::cost(dead.bytes.len());
        let place = self.letters.partition_point(|each| each.number < dead.number);
        self.letters.insert(place, dead);
    }

    /// Whether there are more of them, or more bytes, than may be.
    pub(super) fn is_over(&self, messages_max: u64, bytes_max: u64) -> bool {
        self.letters.len() as u64 > messages_max || self.bytes > bytes_max
    }

    pub(super) fn pop_oldest(&mut self) -> Option<Dead> {
        let dead = self.letters.pop_front()?;
        self.bytes -= super::cost(dead.bytes.len());
        Some(dead)
    }

    fn place(&self, number: u64) -> Option<usize> {
        self.letters.binary_search_by_key(&number, |dead| dead.number).ok()
    }

    pub(in crate::core) fn find(&self, number: u64) -> Option<&Dead> {
        self.letters.get(self.place(number)?)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Dead> {
        let dead = self.letters.remove(self.place(number)?)?;
        self.bytes -= super::cost(dead.bytes.len());
        Some(dead)
    }
}
