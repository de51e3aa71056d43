//! Routes for the status, and what is counted for it. Changes nothing.

use crate::core::broker::Core;
use crate::core::latency::Latency;
use crate::core::snapshot::{DestinationStatus, RouteCounts, RouteStatus, RoutingStatus};
use std::sync::Arc;

/// What is counted of a route, by its name: the counts go on when the configuration is read again.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: Arc<str>,
    pub(super) counts: RouteCounts,
    pub(super) latency: Latency,
    /// How much of it is shown live.
    pub(super) tapped: super::tap::Pace,
}

impl Core {
    pub(in crate::core) fn route_status(&self) -> Vec<RouteStatus> {
        let routing = &self.routing;
        let states = routing.set.keys.iter().filter_map(|key| routing.table.get(*key));
        states
            .filter_map(|state| {
                let account = routing.books.get(state.account)?;
                let settings = state.settings();
                Some(RouteStatus {
                    route: account.name.to_string(),
                    from: settings.from.iter().map(ToString::to_string).collect(),
                    strategy: settings.deliver.strategy.name(),
                    priority: settings.priority,
                    counts: account.counts,
                    waiting: state.waiting() as u64,
                    retrying: state.retrying.into(),
                    latency: account.latency,
                    destinations: state
                        .destinations
                        .iter()
                        .map(|place| DestinationStatus {
                            destination: place.name.to_string(),
                            state: place.health.state(),
                            consecutive_failures: place.health.failures().into(),
                            counts: place.counts,
                        })
                        .collect(),
                })
            })
            .collect()
    }

    pub(in crate::core) fn routing_status(&self) -> RoutingStatus {
        let routing = &self.routing;
        RoutingStatus {
            messages: routing.items.len() as u64,
            messages_max: routing.limits.work_messages_max as u64,
            bytes: routing.bytes,
            bytes_max: routing.limits.work_bytes_max as u64,
            jobs: routing.hands.jobs() as u64,
            workers: routing.hands.len() as u64,
            counts: routing.counts,
        }
    }
}
