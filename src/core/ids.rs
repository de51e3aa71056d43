//! Ids of attachments: unique across runs of the broker, and nobody's to guess.
//!
//! An attachment is taken over by the next broker if both of its ends name it, so its id must be known to nobody else.
//! Ids are a count behind a keyed permutation (four Feistel rounds): none occurs twice, whether a number was
//! ever given away can be said without a table, and whoever knows some of them knows no other. Without a
//! secret they are the count itself, as tests like it.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Rounds of the permutation.
const ROUNDS: u32 = 4;

/// The ids that were given away.
#[derive(Debug, Default)]
pub(super) struct Ids {
    secret: Option<[u64; 2]>,
    pub(super) last: u64,
}

impl Ids {
    /// Makes ids depend on a secret that is random for each run.
    pub(super) fn hide(&mut self, secret: [u64; 2]) {
        self.secret = Some(secret);
    }

    /// An id that was never given away.
    pub(super) fn next(&mut self) -> u64 {
        loop {
            self.last += 1;
            let id = self.permuted(self.last);
            if id != 0 {
                return id;
            }
        }
    }

    /// Whether this id was given away in this run.
    pub(super) fn was(&self, id: u64) -> bool {
        let count = self.restored(id);
        id != 0 && count > 0 && count <= self.last
    }

    fn permuted(&self, count: u64) -> u64 {
        (0..ROUNDS).fold(count, |block, round| {
            let (left, right) = halves(block);
            join(right, left ^ self.mixed(round, right))
        })
    }

    fn restored(&self, id: u64) -> u64 {
        (0..ROUNDS).rev().fold(id, |block, round| {
            let (left, right) = halves(block);
            join(right ^ self.mixed(round, left), left)
        })
    }

    fn mixed(&self, round: u32, half: u32) -> u32 {
        // Without a secret an even number of rounds that mix nothing in leaves each number as it is.
        let Some(secret) = self.secret else { return 0 };
        let mut hasher = DefaultHasher::new();
        (secret, round, half).hash(&mut hasher);
        halves(hasher.finish()).1
    }
}

fn halves(block: u64) -> (u32, u32) {
    let half = |shift: u32| u32::try_from(block >> shift & u64::from(u32::MAX)).expect("a masked half");
    (half(32), half(0))
}

fn join(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_lead_back_to_their_count_and_differ_between_runs() {
        let runs = [[1, 2], [1, 3]].map(|secret| {
            let mut ids = Ids::default();
            ids.hide(secret);
            let given: BTreeSet<u64> = (0..10_000).map(|_| ids.next()).collect();
            assert_eq!(given.len(), 10_000);
            assert!(given.iter().all(|id| ids.was(*id)));
            assert!((1..10_000).all(|guess| !ids.was(guess) || given.contains(&guess)));
            let next = ids.permuted(ids.last + 1);
            assert!(!ids.was(next));
            given
        });
        assert!(runs[0].is_disjoint(&runs[1]));
    }

    #[test]
    fn without_a_secret_they_count() {
        let mut ids = Ids::default();
        assert_eq!([ids.next(), ids.next(), ids.next()], [1, 2, 3]);
        assert!(ids.was(3) && !ids.was(4) && !ids.was(0));
    }
}
