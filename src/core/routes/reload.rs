//! The routes of a configuration: put in the place of those before, all at once.
//!
//! What is under way goes on by the routes that took it. Counts go on by the names of routes.

use super::intake::PREFETCH;
use super::report::Account;
use super::set::Set;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::latency::Latency;
use crate::core::snapshot::RouteCounts;
use crate::core::subscription::Sink;
use crate::core::table::Key;
use crate::routes::Routes;
use crate::routes::settings::Intake;
use std::collections::BTreeSet;
use std::sync::Arc;
use tramline_wire::Code;

impl Core {
    /// The operator's routes, in the place of those before. The queues that they name are there.
    ///
    /// # Errors
    /// When a limit does not allow what they need; then those before stay.
    pub fn change_routes(&mut self, routes: Arc<Routes>, now: Now) -> Result<(), (Code, String)> {
        let taken = self.take_from_topics(&routes, now);
        if let Err(refused) = taken {
            self.settle(now);
            return Err((refused.code, refused.message));
        }
        let before = self.routing.set.clone();
        let mut keys = Vec::with_capacity(routes.routes().len());
        for place in 0..routes.routes().len() {
            let account = self.open_account(&routes.routes()[place].settings().name);
            let state = self.new_route(&routes, place, account);
            keys.push(self.routing.table.insert(state));
        }
        self.routing.limits = routes.limits().clone();
        let workers = if routes.routes().is_empty() { 0 } else { self.routing.limits.worker_threads };
        self.routing.hands.grow(workers);
        let set = Set::new(routes, keys, &self.routing.subscriptions);
        self.routing.set = Arc::new(set);
        self.routing.forget_candidates();
        self.routing.retired.push(before.keys.clone());
        drop(before);
        self.forget_routes();
        self.leave_topics();
        self.take_from_queues(now);
        self.answer_services(now);
        self.close_accounts();
        self.make_room_for_routes();
        self.settle(now);
        Ok(())
    }

    /// Subscribes to what these routes take from; those that are there already stay.
    fn take_from_topics(&mut self, routes: &Routes, now: Now) -> crate::core::quota::Checked<()> {
        let mut fresh = Vec::new();
        for filter in filters(routes) {
            if self.routing.subscriptions.contains_key(filter) {
                continue;
            }
            match self.own_subscription(filter, Sink::Routes, now) {
                Ok(Some(key)) => {
                    self.routing.subscriptions.insert(filter.into(), key);
                    fresh.push(filter);
                }
                Ok(None) => {}
                Err(refused) => {
                    for filter in fresh {
                        if let Some(key) = self.routing.subscriptions.remove(filter) {
                            self.end_subscription(key, 0);
                        }
                    }
                    return Err(refused);
                }
            }
        }
        Ok(())
    }

    /// Ends subscriptions that no route needs any more.
    fn leave_topics(&mut self) {
        let set = self.routing.set.clone();
        let wanted: BTreeSet<&str> = filters(&set.routes).collect();
        let ended: Vec<Box<str>> = self
            .routing
            .subscriptions
            .keys()
            .filter(|filter| !wanted.contains(&***filter))
            .cloned()
            .collect();
        for filter in ended {
            if let Some(key) = self.routing.subscriptions.remove(&filter) {
                self.routing.held.retain(|held| *held != key);
                self.end_subscription(key, 0);
            }
        }
    }

    /// Consumes from the queues that routes take from, and from no others any more.
    fn take_from_queues(&mut self, now: Now) {
        let set = self.routing.set.clone();
        let wanted: BTreeSet<Arc<str>> = set.queues().cloned().collect();
        for queue in &wanted {
            if self.routing.consumers.contains_key(queue) {
                continue;
            }
            match self.consume_for_routes(queue, PREFETCH, now) {
                Ok(place) => {
                    self.routing.consumers.insert(queue.clone(), place);
                }
                Err(refused) => {
                    tracing::error!(
                        "routes take nothing from queue {queue}: {}: {}",
                        refused.code,
                        refused.message
                    );
                }
            }
        }
        let gone: Vec<Arc<str>> =
            self.routing.consumers.keys().filter(|queue| !wanted.contains(*queue)).cloned().collect();
        for queue in gone {
            if let Some(place) = self.routing.consumers.remove(&queue) {
                self.routing.blocked.retain(|blocked| *blocked != place);
                self.consume_no_more(place, now);
            }
        }
    }

    /// Provides the services that routes answer, and no others any more.
    fn answer_services(&mut self, now: Now) {
        let set = self.routing.set.clone();
        let wanted: BTreeSet<Arc<str>> = set.services().cloned().collect();
        for service in &wanted {
            if self.routing.provided.contains_key(service) {
                continue;
            }
            match self.provide_for_routes(service, PREFETCH, now) {
                Ok(place) => {
                    self.routing.provided.insert(service.clone(), place);
                }
                Err(refused) => {
                    tracing::error!(
                        "routes do not provide service {service}: {}: {}",
                        refused.code,
                        refused.message
                    );
                }
            }
        }
        let gone: Vec<Arc<str>> =
            self.routing.provided.keys().filter(|service| !wanted.contains(*service)).cloned().collect();
        for service in gone {
            if let Some(place) = self.routing.provided.remove(&service) {
                self.routing.blocked_calls.retain(|blocked| *blocked != place);
                self.provide_no_more(place, now);
            }
        }
    }

    /// The account of a route of this name.
    fn open_account(&mut self, name: &str) -> Key {
        if let Some(known) = self.routing.accounts.get(name) {
            return *known;
        }
        let name: Arc<str> = name.into();
        let (counts, latency) = (RouteCounts::default(), Latency::default());
        let key = self.routing.books.insert(Account {
            name: name.clone(),
            counts,
            latency,
            tapped: Default::default(),
        });
        self.routing.accounts.insert(name, key);
        key
    }

    /// Forgets what was counted of routes that are no more.
    fn close_accounts(&mut self) {
        let used: BTreeSet<Key> = self.routing.table.iter().map(|(_, state)| state.account).collect();
        let ended: Vec<(Arc<str>, Key)> = self
            .routing
            .accounts
            .iter()
            .filter(|(_, key)| !used.contains(key))
            .map(|(name, key)| (name.clone(), *key))
            .collect();
        for (name, key) in ended {
            self.routing.accounts.remove(&name);
            self.routing.books.remove(key);
        }
    }
}

/// The filters that routes take from, some more than once.
fn filters(routes: &Routes) -> impl Iterator<Item = &str> {
    routes.routes().iter().flat_map(|route| &route.settings().from).filter_map(|from| match from {
        Intake::Filter(filter) => Some(filter.as_str()),
        Intake::Queue(_) | Intake::Service(_) => None,
    })
}
