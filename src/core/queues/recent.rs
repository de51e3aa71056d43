//! Ids of messages that were queued lately, so that one sent again is confirmed and not queued twice.
//!
//! An id belongs to the user who sent it: nobody can keep another's message out by guessing its id. Ids are kept for a
//! window of time and up to a number; what falls out before its time is counted.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// A user, and an id of its own.
pub(super) type Id = (u32, Arc<[u8]>);

/// Ids seen within the window.
#[derive(Debug, Default)]
pub(super) struct RecentIds {
    known: HashSet<Id>,
    by_age: VecDeque<(u64, Id)>,
    /// Ids that were forgotten before their time, for want of room.
    pub(super) forgotten: u64,
}

impl RecentIds {
    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Forgets what is older than the window.
    pub(super) fn pass(&mut self, now: u64, window: u64) {
        while self.by_age.front().is_some_and(|(since, _)| since.saturating_add(window) <= now) {
            self.forget_oldest();
        }
    }

    pub(super) fn contains(&self, uid: u32, id: &[u8]) -> bool {
        self.known.contains(&(uid, id.into()))
    }

    pub(super) fn note(&mut self, uid: u32, id: &[u8], now: u64, most: usize) {
        let id: Id = (uid, id.into());
        if most == 0 || !self.known.insert(id.clone()) {
            return;
        }
        self.by_age.push_back((now, id));
        if self.by_age.len() > most {
            self.forget_oldest();
            self.forgotten += 1;
        }
    }

    /// Forgets ids whose messages were not queued after all.
    pub(super) fn forget(&mut self, ids: &HashSet<Id>) {
        self.known.retain(|id| !ids.contains(id));
        self.by_age.retain(|(_, id)| !ids.contains(id));
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_front() {
            self.known.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_for_its_time_by_its_user_and_within_the_number() {
        let mut recent = RecentIds::default();
        recent.note(1, b"a", 10, 2);
        assert!(recent.contains(1, b"a") && !recent.contains(2, b"a"));
        recent.pass(109, 100);
        assert!(recent.contains(1, b"a"));
        recent.pass(110, 100);
        assert!(!recent.contains(1, b"a"));
        for id in [b"x", b"y", b"z"] {
            recent.note(1, id, 200, 2);
        }
        assert_eq!((recent.contains(1, b"x"), recent.contains(1, b"z")), (false, true));
        assert_eq!((recent.len(), recent.known.len(), recent.forgotten), (2, 2, 1));
    }
}
