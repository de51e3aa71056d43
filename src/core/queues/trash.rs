//! What was thrown away and is still to be freed: so much in each turn, however much it was.

use super::slots::{List, Slot};

/// The entries of a list or an index that a purge took away as a whole, of which some are messages.
type Entries = Box<dyn Iterator<Item = Option<Slot>> + Send>;

/// Messages that nobody sees any more.
#[derive(Default)]
pub(super) struct Trash {
    pub(super) list: List,
    others: Vec<Entries>,
    /// How many messages there are.
    pub(super) count: u64,
}

impl Trash {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.others.is_empty()
    }

    /// Throws away messages that stand in a list of their own kind, or entries (`None`) that only named some.
    pub(super) fn throw(&mut self, entries: impl Iterator<Item = Option<Slot>> + Send + 'static) {
        self.others.push(Box::new(entries));
    }

    /// The next entry of those; `Some(None)` was no message.
    pub(super) fn next_of_others(&mut self) -> Option<Option<Slot>> {
        loop {
            match self.others.last_mut()?.next() {
                Some(entry) => return Some(entry),
                None => drop(self.others.pop()),
            }
        }
    }
}

impl std::fmt::Debug for Trash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trash").field("count", &self.count).finish_non_exhaustive()
    }
}
