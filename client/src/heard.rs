//! Up to which number a subscription has an account of each publisher, kept from one connection to the next.
//!
//! While a connection lasts the broker tells every loss, and nothing is compared. When it is lost, what the broker
//! had not handed on died with it; so the last number of each publisher and topic is remembered, and the first
//! message that comes again, on whichever plane, shows by its own number how many are missing. A publisher is the
//! same one if it says so *and* the kernel vouches for the same process, so nobody else can speak for it.

use crate::message::Source;
use std::collections::HashMap;

/// Publishers and topics remembered for one subscription; beyond it some are forgotten, and what was lost of them
/// while there was no connection is not noticed.
const REMEMBERED_MAX: usize = 4096;

/// A client on a topic.
type Key = (u64, u32, Box<str>);

/// Last numbers, a bounded number of them.
#[derive(Debug, Default)]
struct Numbers(HashMap<Key, u64>);

impl Numbers {
    fn note(&mut self, key: Key, last: u64) {
        if let Some(known) = self.0.get_mut(&key) {
            *known = last.max(*known);
            return;
        }
        if self.0.len() >= REMEMBERED_MAX
            && let Some(some) = self.0.keys().next().cloned()
        {
            self.0.remove(&some);
        }
        self.0.insert(key, last);
    }
}

/// What one subscription has heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Where the next message of these is to be compared.
    open: Numbers,
    /// Where rings ended that were read to their end.
    ended: Numbers,
}

fn key(source: &Source) -> Option<Key> {
    (source.client != 0).then(|| (source.client, source.pid, source.topic.as_str().into()))
}

impl Heard {
    /// A publisher's session is over for this subscription, after this number: what comes of it next is compared.
    pub(crate) fn left(&mut self, source: &Source, last: u64) {
        if let Some(key) = key(source) {
            self.open.note(key, last);
        }
    }

    /// A ring has ended, after this number. What follows may come by the same connection, without loss.
    pub(crate) fn ring_ended(&mut self, source: &Source, last: u64) {
        if let Some(key) = key(source) {
            self.ended.note(key, last);
        }
    }

    /// The connection is lost.
    pub(crate) fn cut(&mut self) {
        for (key, last) in self.ended.0.drain() {
            self.open.note(key, last);
        }
    }

    /// The broker tells a loss of a publisher that was not heard on this connection yet.
    pub(crate) fn told(&mut self, source: &Source, lost: u64) {
        if let Some(last) = key(source).and_then(|key| self.open.0.get_mut(&key)) {
            *last = last.saturating_add(lost);
        }
    }

    /// The first message of a publisher that comes by this connection, or by a ring attached on it, has this number:
    /// how many before it are accounted for by nobody. `in_ring` is how far a ring of it has been read.
    pub(crate) fn missing(&mut self, source: &Source, first: u64, in_ring: Option<u64>) -> u64 {
        let Some(key) = key(source) else { return 0 };
        let Some(last) = self.open.0.remove(&key) else { return 0 };
        let ended = self.ended.0.get(&key).copied().unwrap_or(0);
        first.saturating_sub(last.max(ended).max(in_ring.unwrap_or(0)).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(client: u64, pid: u32, topic: &str) -> Source {
        Source { topic: topic.to_owned(), name: String::new(), session: 1, uid: 1, pid, client }
    }

    #[test]
    fn what_died_in_between_is_missing_once() {
        let mut heard = Heard::default();
        let a = source(7, 1, "t");
        assert_eq!(heard.missing(&a, 5, None), 0, "nothing was heard before");
        heard.left(&a, 5);
        heard.cut();
        assert_eq!(heard.missing(&source(8, 1, "t"), 9, None), 0, "another client");
        assert_eq!(heard.missing(&source(7, 2, "t"), 9, None), 0, "another process");
        assert_eq!(heard.missing(&source(7, 1, "u"), 9, None), 0, "another topic");
        assert_eq!(heard.missing(&a, 9, None), 3);
        assert_eq!(heard.missing(&a, 20, None), 0, "the broker tells losses from here on");
    }

    #[test]
    fn what_was_told_or_read_in_a_ring_is_not_missing() {
        let mut heard = Heard::default();
        let a = source(7, 1, "t");
        heard.left(&a, 5);
        heard.told(&a, 2);
        assert_eq!(heard.missing(&a, 10, None), 2);
        heard.left(&a, 5);
        assert_eq!(heard.missing(&a, 10, Some(8)), 1);
        heard.ring_ended(&a, 12);
        assert_eq!(heard.missing(&a, 20, None), 0, "no connection was lost since");
        heard.cut();
        assert_eq!(heard.missing(&a, 20, None), 7);
        heard.left(&a, 15);
        heard.ring_ended(&a, 18);
        assert_eq!(heard.missing(&a, 19, None), 0);
    }

    #[test]
    fn who_has_no_number_of_its_own_is_not_compared_and_memory_is_bounded() {
        let mut heard = Heard::default();
        heard.left(&source(0, 1, "t"), 5);
        assert_eq!(heard.missing(&source(0, 1, "t"), 9, None), 0);
        for client in 1..=REMEMBERED_MAX as u64 + 10 {
            heard.left(&source(client, 1, "t"), 1);
        }
        assert_eq!(heard.open.0.len(), REMEMBERED_MAX);
    }
}
