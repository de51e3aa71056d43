//! The routes of a configuration, and which of them a message is for.
//!
//! The filters of all routes stand in one tree, so finding those of a topic costs what fits, not what there is. What was
//! found is kept ready by topic and type, up to `cache_size` lists.

use super::Routing;
use crate::core::filters::Filters;
use crate::core::table::Key;
use crate::routes::Routes;
use crate::routes::settings::Intake;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use tramline_wire::{Filter, Topic};

/// The routes of one configuration.
#[derive(Debug, Default)]
pub(super) struct Set {
    pub(super) routes: Arc<Routes>,
    /// Their states, by their places.
    pub(super) keys: Arc<[Key]>,
    filters: Filters,
    /// The subscriptions of all their filters.
    sources: Filters,
    by_queue: BTreeMap<Arc<str>, Arc<Candidates>>,
    by_service: BTreeMap<Arc<str>, Arc<Candidates>>,
}

/// The routes that look at a message, in order.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// By their places.
    pub(super) places: Arc<[usize]>,
    /// Whether none of them that can be come to needs to know what is in it.
    pub(super) forward: bool,
}

/// The routes of a topic.
#[derive(Debug, Clone)]
pub(super) struct OfTopic {
    /// The subscription that takes messages for all of them: several may match.
    pub(super) by: Key,
    pub(super) candidates: Arc<Candidates>,
}

#[derive(Debug)]
struct Entry {
    by: Key,
    /// The types that these routes name.
    names: HashSet<Box<str>>,
    typed: HashMap<Box<str>, Arc<Candidates>>,
    /// For every type that none of them names.
    others: Option<Arc<Candidates>>,
}

/// What was found lately.
#[derive(Debug, Default)]
pub(super) struct Cache {
    by_topic: HashMap<Key, Entry, foldhash::fast::FixedState>,
    order: VecDeque<Key>,
    lists: usize,
}

impl Set {
    /// `subscriptions` are those of the filters of all routes.
    pub(super) fn new(routes: Arc<Routes>, keys: Vec<Key>, subscriptions: &BTreeMap<Box<str>, Key>) -> Self {
        let (mut filters, mut sources) = (Filters::default(), Filters::default());
        let (mut queues, mut services) = (BTreeMap::new(), BTreeMap::new());
        for (place, (route, key)) in routes.routes().iter().zip(&keys).enumerate() {
            for from in &route.settings().from {
                match from {
                    Intake::Filter(filter) => {
                        if let Ok(filter) = Filter::parse(filter) {
                            filters.insert(filter, *key);
                        }
                    }
                    Intake::Queue(queue) => put(&mut queues, queue, place),
                    Intake::Service(service) => put(&mut services, service, place),
                }
            }
        }
        for (filter, key) in subscriptions {
            if let Ok(filter) = Filter::parse(filter) {
                sources.insert(filter, *key);
            }
        }
        let (by_queue, by_service) = (ready(queues), ready(services));
        Self { routes, keys: keys.into(), filters, sources, by_queue, by_service }
    }

    /// The queues that routes take from.
    pub(super) fn queues(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_queue.keys()
    }

    /// The services that routes provide.
    pub(super) fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_service.keys()
    }

    /// The routes that look at messages of a queue, of this type.
    pub(super) fn of_queue(&self, queue: &str, message_type: &str) -> Arc<Candidates> {
        self.among(self.by_queue.get(queue), message_type)
    }

    /// The routes that look at requests to a service, of this type.
    pub(super) fn of_service(&self, service: &str, message_type: &str) -> Arc<Candidates> {
        self.among(self.by_service.get(service), message_type)
    }

    fn among(&self, all: Option<&Arc<Candidates>>, message_type: &str) -> Arc<Candidates> {
        let Some(all) = all else { return Arc::default() };
        let fits = |place: &usize| self.is_for(*place, message_type);
        if all.places.iter().all(fits) {
            return all.clone();
        }
        let places = all.places.iter().copied().filter(fits).collect();
        Arc::new(Candidates { places, forward: false })
    }

    fn is_for(&self, place: usize, message_type: &str) -> bool {
        let types = &self.routes.routes()[place].settings().message_types;
        types.is_empty() || types.iter().any(|known| known == message_type)
    }

    /// Of these routes those that look at messages of this type.
    fn of_type(&self, places: &[usize], message_type: &str) -> Arc<Candidates> {
        let places: Arc<[usize]> =
            places.iter().copied().filter(|place| self.is_for(*place, message_type)).collect();
        let mut forward = true;
        for place in &*places {
            let route = &self.routes.routes()[*place];
            forward &= !route.reads();
            // One that does not read takes whatever it looks at.
            if forward && !route.settings().goes_on {
                break;
            }
        }
        Arc::new(Candidates { places, forward })
    }
}

fn put<'r>(all: &mut BTreeMap<&'r str, Vec<usize>>, name: &'r str, place: usize) {
    let places = all.entry(name).or_default();
    // It may be named twice.
    if places.last() != Some(&place) {
        places.push(place);
    }
}

/// What is to be settled or answered in any case is never just forwarded.
fn ready(all: BTreeMap<&str, Vec<usize>>) -> BTreeMap<Arc<str>, Arc<Candidates>> {
    let list = |places: Vec<usize>| Arc::new(Candidates { places: places.into(), forward: false });
    all.into_iter().map(|(name, places)| (name.into(), list(places))).collect()
}

impl Routing {
    /// The routes that look at a message on this topic, of this type. None if no route takes from the topic.
    pub(super) fn of_topic(&mut self, topic: Key, name: &str, message_type: &str) -> Option<OfTopic> {
        if let Some(entry) = self.cache.by_topic.get(&topic)
            && let Some(candidates) = entry.find(message_type)
        {
            return Some(OfTopic { by: entry.by, candidates: candidates.clone() });
        }
        let topic_name = Topic::parse(name).ok()?;
        let mut found = Vec::new();
        self.set.sources.matching(topic_name, &mut found);
        let by = found.iter().min().copied()?;
        found.clear();
        self.set.filters.matching(topic_name, &mut found);
        let mut places: Vec<usize> =
            found.iter().filter_map(|key| Some(self.table.get(*key)?.place)).collect();
        // Several filters of one route may match.
        places.sort_unstable();
        places.dedup();
        let candidates = self.set.of_type(&places, message_type);
        if self.limits.cache_size > 0 {
            let names = || {
                let types = places
                    .iter()
                    .flat_map(|place| &self.set.routes.routes()[*place].settings().message_types);
                types.map(|kind| kind.as_str().into()).collect()
            };
            self.cache.keep((topic, by), names, message_type, candidates.clone());
            self.cache.shrink(self.limits.cache_size);
        }
        Some(OfTopic { by, candidates })
    }

    pub(super) fn forget_candidates(&mut self) {
        self.cache = Cache::default();
    }
}

impl Entry {
    fn find(&self, message_type: &str) -> Option<&Arc<Candidates>> {
        match &self.others {
            Some(others) if !self.names.contains(message_type) => Some(others),
            _ => self.typed.get(message_type),
        }
    }
}

impl Cache {
    fn keep(
        &mut self,
        (topic, by): (Key, Key),
        names: impl FnOnce() -> HashSet<Box<str>>,
        message_type: &str,
        candidates: Arc<Candidates>,
    ) {
        let entry = self.by_topic.entry(topic).or_insert_with(|| {
            self.order.push_back(topic);
            Entry { by, names: names(), typed: HashMap::new(), others: None }
        });
        let is_new = if entry.names.contains(message_type) {
            entry.typed.insert(message_type.into(), candidates).is_none()
        } else {
            entry.others.replace(candidates).is_none()
        };
        self.lists += usize::from(is_new);
    }

    fn shrink(&mut self, most: usize) {
        while self.lists > most {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(entry) = self.by_topic.remove(&oldest) {
                self.lists -= entry.typed.len() + usize::from(entry.others.is_some());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::table::Table;

    #[test]
    fn no_more_lists_are_kept_than_may_be_and_the_oldest_topic_goes_first() {
        const MOST: usize = 4;
        let (mut topics, mut cache) = (Table::default(), Cache::default());
        let topics: Vec<Key> = (0..10).map(|_| topics.insert(())).collect();
        for topic in &topics {
            for kind in ["", "named", "unknown"] {
                let names = || HashSet::from(["named".into()]);
                cache.keep((*topic, topics[0]), names, kind, Arc::default());
                cache.shrink(MOST);
                let kept = |entry: &Entry| entry.typed.len() + usize::from(entry.others.is_some());
                assert_eq!(cache.lists, cache.by_topic.values().map(kept).sum::<usize>());
                assert!(cache.lists <= MOST && cache.order.len() == cache.by_topic.len());
                assert!(cache.by_topic[topic].find(kind).is_some());
            }
        }
        assert_eq!(cache.order, topics[8..].to_vec());
    }
}
