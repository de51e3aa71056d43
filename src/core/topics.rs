//! The topics that the broker knows, and for each the subscriptions it reaches, kept ready.
//!
//! A topic is known while a publisher has an alias, a number or a stream on it; after that it may be
//! forgotten when room is needed. The list of subscriptions of a topic is computed when first needed and valid
//! for one version of the subscription table. How many topics and how many list entries are kept is
//! bounded; what falls out is computed again. Nothing here knows sessions or messages.

use super::filters::Filters;
use super::snapshot::RingCounts;
use super::table::{Key, Table};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tramline_wire::{Filter, Topic};

/// Most entries in all lists kept ready together.
const MATCHES_KEPT_MAX: usize = 1 << 20;

/// A topic.
#[derive(Debug)]
pub(super) struct TopicEntry {
    pub(super) name: Arc<str>,
    /// Messages published on it by socket.
    pub(super) messages: u64,
    /// Bytes of their payloads.
    pub(super) bytes: u64,
    /// What was published on it in rings that are over.
    pub(super) rings: RingCounts,
    /// Streams open on it.
    pub(super) streams: Vec<u64>,
    /// How many messages stay readable after their publisher, once somebody publishes.
    pub(super) retain: u32,
    /// Publishers' aliases, numbers and streams that refer to it.
    uses: u32,
    /// Whether it stands in `Topics::idle`.
    idle: bool,
    /// Version of the subscription table that `matches` is valid for.
    version: u64,
    matches: Vec<Key>,
    cached: bool,
}

/// All topics, and the filters of all subscriptions.
#[derive(Debug)]
pub(super) struct Topics {
    entries: Table<TopicEntry>,
    by_name: HashMap<Arc<str>, Key>,
    idle: VecDeque<Key>,
    filters: Filters,
    /// Grows with each change of `filters`.
    version: u64,
    cached: VecDeque<Key>,
    cached_matches: usize,
    topics_max: usize,
    cached_max: usize,
}

impl Topics {
    pub(super) fn new(topics_max: u32, match_cache_topics_max: u32) -> Self {
        Self {
            entries: Table::default(),
            by_name: HashMap::new(),
            idle: VecDeque::new(),
            filters: Filters::default(),
            version: 1,
            cached: VecDeque::new(),
            cached_matches: 0,
            topics_max: topics_max as usize,
            cached_max: match_cache_topics_max.max(1) as usize,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: Key) -> Option<&TopicEntry> {
        self.entries.get(key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut TopicEntry> {
        self.entries.get_mut(key)
    }

    pub(super) fn find(&self, topic: Topic<'_>) -> Option<Key> {
        self.by_name.get(topic.as_str()).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &TopicEntry)> {
        self.entries.iter()
    }

    /// The topic's key, with one more use of it; `None` when all topics that may be known are in use.
    pub(super) fn take(&mut self, topic: Topic<'_>) -> Option<Key> {
        if let Some(key) = self.find(topic) {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.uses += 1;
            }
            return Some(key);
        }
        if self.entries.len() >= self.topics_max && !self.forget_one() {
            return None;
        }
        let name: Arc<str> = topic.as_str().into();
        let key = self.entries.insert(TopicEntry {
            name: name.clone(),
            messages: 0,
            bytes: 0,
            rings: RingCounts::default(),
            streams: Vec::new(),
            retain: 0,
            uses: 1,
            idle: false,
            version: 0,
            matches: Vec::new(),
            cached: false,
        });
        self.by_name.insert(name, key);
        Some(key)
    }

    /// One use less.
    pub(super) fn release(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.uses = entry.uses.checked_sub(1).expect("each release has its take");
        if entry.uses == 0 && !entry.idle {
            entry.idle = true;
            self.idle.push_back(key);
        }
    }

    fn forget_one(&mut self) -> bool {
        while let Some(key) = self.idle.pop_front() {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            entry.idle = false;
            if entry.uses == 0
                && let Some(entry) = self.entries.remove(key)
            {
                self.cached_matches -= entry.matches.len();
                self.by_name.remove(&entry.name);
                return true;
            }
        }
        false
    }

    pub(super) fn add_filter(&mut self, filter: Filter<'_>, subscription: Key) {
        self.filters.insert(filter, subscription);
        self.version += 1;
    }

    pub(super) fn remove_filter(&mut self, filter: Filter<'_>, subscription: Key) {
        self.filters.remove(filter, subscription);
        self.version += 1;
    }

    /// Takes the list of subscriptions out, to be given back with [`Topics::give_back`] before the next is taken.
    pub(super) fn take_matches(&mut self, key: Key) -> Vec<Key> {
        let Some(entry) = self.entries.get_mut(key) else { return Vec::new() };
        if entry.version != self.version {
            self.refresh(key);
        }
        self.entries.get_mut(key).map(|entry| std::mem::take(&mut entry.matches)).unwrap_or_default()
    }

    pub(super) fn give_back(&mut self, key: Key, matches: Vec<Key>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.matches = matches;
        }
    }

    /// How many subscriptions the topic reaches.
    pub(super) fn count_matches(&self, topic: Topic<'_>) -> usize {
        let mut found = Vec::new();
        self.filters.matching(topic, &mut found);
        found.len()
    }

    fn refresh(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.cached_matches -= entry.matches.len();
        entry.matches.clear();
        if let Ok(topic) = Topic::parse(&entry.name) {
            self.filters.matching(topic, &mut entry.matches);
        }
        self.cached_matches += entry.matches.len();
        entry.version = self.version;
        if !entry.cached {
            entry.cached = true;
            self.cached.push_back(key);
        }
        while self.cached.len() > self.cached_max
            || (self.cached_matches > MATCHES_KEPT_MAX && self.cached.len() > 1)
        {
            let Some(oldest) = self.cached.pop_front() else { break };
            if oldest == key {
                self.cached.push_back(key);
                continue;
            }
            if let Some(entry) = self.entries.get_mut(oldest) {
                self.cached_matches -= entry.matches.len();
                entry.matches = Vec::new();
                entry.version = 0;
                entry.cached = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Topic<'_> {
        Topic::parse(text).unwrap()
    }

    #[test]
    fn only_topics_without_use_make_room() {
        let mut topics = Topics::new(2, 4);
        let a = topics.take(topic("a")).unwrap();
        topics.take(topic("b")).unwrap();
        assert_eq!(topics.take(topic("c")), None);
        assert_eq!(topics.take(topic("a")), Some(a));
        topics.release(a);
        assert_eq!(topics.take(topic("c")), None);
        topics.release(a);
        let c = topics.take(topic("c")).unwrap();
        assert_eq!((topics.len(), topics.find(topic("a")), topics.find(topic("c"))), (2, None, Some(c)));
        assert!(topics.get(a).is_none());
    }

    #[test]
    fn a_topic_taken_again_is_not_forgotten() {
        let mut topics = Topics::new(1, 4);
        let a = topics.take(topic("a")).unwrap();
        topics.release(a);
        topics.take(topic("a")).unwrap();
        assert_eq!(topics.take(topic("b")), None);
        topics.release(a);
        assert!(topics.take(topic("b")).is_some());
    }

    #[test]
    fn lists_follow_changes_and_their_number_is_bounded() {
        let mut topics = Topics::new(100, 3);
        let mut keys = Table::default();
        let all = keys.insert(());
        topics.add_filter(Filter::parse(">").unwrap(), all);
        let names: Vec<String> = (0..10).map(|n| format!("t.{n}")).collect();
        for name in names.iter().chain(&names) {
            let key = topics.take(topic(name)).unwrap();
            let matches = topics.take_matches(key);
            assert_eq!(matches, [all]);
            topics.give_back(key, matches);
            assert!(topics.cached.len() <= 3 && topics.cached_matches <= 3);
        }
        let one = keys.insert(());
        topics.add_filter(Filter::parse("t.3").unwrap(), one);
        let key = topics.find(topic("t.3")).unwrap();
        let matches = topics.take_matches(key);
        assert_eq!(matches.len(), 2);
        topics.give_back(key, matches);
        topics.remove_filter(Filter::parse(">").unwrap(), all);
        assert_eq!(topics.take_matches(key), [one]);
    }
}
