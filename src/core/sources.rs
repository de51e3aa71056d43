//! The short numbers under which one receiving session knows publishers' topics ([`tramline_wire::Source`]).
//!
//! The table holds [`ALIASES_MAX`] numbers; when all are taken, the one defined longest ago is given a new
//! meaning, by a new definition that travels before its first use. A publisher that has gone is told once
//! nothing of it waits any more.

use super::SessionId;
use super::table::Key;
use foldhash::fast::FixedState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tramline_wire::limits::ALIASES_MAX;

/// Publishers of new aliases that are remembered until somebody looks. One message and what was lost before it define
/// fewer than half as many.
const FRESH_MAX: usize = 256;

/// Source aliases of one receiving session.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Keys are the broker's own numbers, so no client can choose colliding ones.
    aliases: HashMap<(SessionId, Key), u32, FixedState>,
    defined: Vec<Option<(SessionId, Key)>>,
    free: Vec<u32>,
    next: u32,
    /// How many aliases each publisher has.
    publishers: BTreeMap<SessionId, u32>,
    /// Publishers that have ended while messages of theirs may still wait here.
    gone: BTreeSet<SessionId>,
    last: Option<(SessionId, Key, u32)>,
    /// Publishers of aliases defined since the last look.
    fresh: Vec<SessionId>,
}

impl Sources {
    /// The alias of this publisher and topic, if it has one.
    pub(super) fn find(&mut self, publisher: SessionId, topic: Key) -> Option<u32> {
        if let Some((last_publisher, last_topic, alias)) = self.last
            && last_publisher == publisher
            && last_topic == topic
        {
            return Some(alias);
        }
        let alias = *self.aliases.get(&(publisher, topic))?;
        self.last = Some((publisher, topic, alias));
        Some(alias)
    }

    /// Gives this publisher and topic an alias; the caller tells the session.
    pub(super) fn define(&mut self, publisher: SessionId, topic: Key) -> u32 {
        self.last = None;
        let alias = self.free.pop().unwrap_or_else(|| {
            let alias = self.next;
            self.next = (self.next + 1) % ALIASES_MAX;
            alias
        });
        if self.defined.len() <= alias as usize {
            self.defined.resize(alias as usize + 1, None);
        }
        if let Some(old) = self.defined[alias as usize].replace((publisher, topic)) {
            self.aliases.remove(&old);
            self.count_down(old.0);
        }
        *self.publishers.entry(publisher).or_default() += 1;
        self.aliases.insert((publisher, topic), alias);
        if self.fresh.last() != Some(&publisher) {
            // Most are defined for a publisher that is just publishing, and nobody looks.
            if self.fresh.len() == FRESH_MAX {
                self.fresh.drain(..FRESH_MAX / 2);
            }
            self.fresh.push(publisher);
        }
        alias
    }

    /// Publishers of the aliases that were defined since the last call.
    pub(super) fn take_fresh(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.fresh)
    }

    fn count_down(&mut self, publisher: SessionId) {
        if let Some(count) = self.publishers.get_mut(&publisher) {
            *count -= 1;
            if *count == 0 {
                self.publishers.remove(&publisher);
            }
        }
    }

    /// Notes that a publisher has ended, if it has an alias here.
    pub(super) fn publisher_gone(&mut self, publisher: SessionId) {
        if self.publishers.contains_key(&publisher) {
            self.gone.insert(publisher);
        }
    }

    pub(super) fn any_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Forgets the aliases of all publishers that have ended, and returns them.
    pub(super) fn forget_gone(&mut self) -> Vec<u32> {
        let gone = std::mem::take(&mut self.gone);
        self.last = None;
        let mut forgotten = Vec::new();
        for (alias, entry) in (0..).zip(&mut self.defined) {
            if entry.is_some_and(|(publisher, _)| gone.contains(&publisher)) {
                self.aliases.remove(&entry.take().expect("it was just looked at"));
                forgotten.push(alias);
            }
        }
        self.publishers.retain(|publisher, _| !gone.contains(publisher));
        self.free.extend(&forgotten);
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::table::Table;

    #[test]
    fn the_table_is_bounded_and_the_oldest_is_replaced() {
        let mut keys = Table::default();
        let topic = keys.insert(());
        let mut sources = Sources::default();
        for publisher in 0..u64::from(ALIASES_MAX) {
            assert_eq!(u64::from(sources.define(publisher, topic)), publisher);
        }
        assert_eq!(sources.find(0, topic), Some(0));
        assert_eq!(sources.define(9_999, topic), 0);
        assert_eq!(sources.find(0, topic), None);
        assert_eq!(sources.find(9_999, topic), Some(0));
        assert_eq!(sources.aliases.len(), ALIASES_MAX as usize);
    }

    #[test]
    fn who_has_gone_is_forgotten_with_all_its_topics() {
        let mut keys = Table::default();
        let (a, b) = (keys.insert(()), keys.insert(()));
        let mut sources = Sources::default();
        sources.define(1, a);
        sources.define(2, a);
        sources.define(1, b);
        sources.publisher_gone(1);
        assert_eq!(sources.forget_gone(), [0, 2]);
        assert!(!sources.any_gone());
        assert_eq!((sources.find(1, a), sources.find(2, a)), (None, Some(1)));
        assert_eq!(sources.define(3, b), 2);
    }
}
