//! The metrics of routes.

use super::rows::Rows;
use super::took::Took;
use super::{LABELLED_MAX, Moment, Page, count};
use crate::core::snapshot::{DestinationStatus, RouteStatus};
use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::MetricType;
use std::fmt;

impl Moment {
    pub(super) fn routes(&self, page: &mut Page<'_>) -> fmt::Result {
        let shown = &self.0.routes[..self.0.routes.len().min(LABELLED_MAX)];
        type Value = fn(&RouteStatus) -> u64;
        let rows = Rows { shown, label: "route", name: |route: &RouteStatus| &route.route };
        let gauges: [(&str, &str, Value); 3] = [
            ("route_in_flight_messages", "Messages that are being delivered.", |route| {
                route.counts.in_flight
            }),
            ("route_waiting_deliveries", "Deliveries that wait for others to be over.", |route| {
                route.waiting
            }),
            ("route_retrying_deliveries", "Deliveries under way that were tried before.", |route| {
                route.retrying
            }),
        ];
        rows.gauges(page, gauges)?;
        let counters: [(&str, &str, Value); 14] = [
            ("route_received_messages", "Messages that a route looked at.", |route| route.counts.received),
            ("route_passed_messages", "Those that were not for it.", |route| route.counts.passed),
            ("route_dropped_messages", "Those that it dropped by its configuration.", |route| {
                route.counts.dropped
            }),
            ("route_invalid_messages", "Those that were not valid.", |route| route.counts.invalid),
            ("route_delivered_messages", "Those of which everything was delivered.", |route| {
                route.counts.delivered
            }),
            ("route_dead_messages", "Those of which something could not be delivered.", |route| {
                route.counts.dead
            }),
            ("route_retries", "Tries after the first.", |route| route.counts.retries),
            ("route_refused_retries", "Deliveries given up since so many others were retried.", |route| {
                route.counts.retries_refused
            }),
            ("route_late_deliveries", "Deliveries given up since their time in all was over.", |route| {
                route.counts.too_late
            }),
            ("route_parts", "Messages that it made.", |route| route.counts.parts),
            ("route_invalid_parts", "Those of them that were not valid.", |route| route.counts.parts_invalid),
            ("route_replies", "Replies that its rules made something else of.", |route| route.counts.replies),
            ("route_invalid_replies", "Replies that were not valid.", |route| route.counts.replies_invalid),
            ("route_lost_messages", "What could be brought nowhere.", |route| route.counts.lost),
        ];
        rows.counters(page, counters)?;
        let reasons = shown.iter().flat_map(|route| {
            let counts = route.counts;
            let missing = ("missing", counts.passed_missing);
            [missing, ("trouble", counts.passed_trouble)]
                .map(|(reason, value)| ([("route", route.route.as_str()), ("reason", reason)], value))
        });
        page.counters(
            "route_conditions_failed",
            "Messages passed since `when` asked for a missing field, or could not be computed.",
            reasons,
        )?;
        let help = "From when a message was taken to when it was delivered.";
        let mut family =
            page.0.encode_descriptor("route_latency_seconds", help, None, MetricType::Histogram)?;
        for route in shown {
            Took(&route.latency).encode(family.encode_family(&[("route", route.route.as_str())])?)?;
        }
        self.destinations(page, shown)?;
        let left_out = self.0.routes.len() - shown.len();
        page.gauge("routes_left_out", "Routes without series of their own here.", count(left_out))?;
        self.routing(page)
    }

    fn destinations(&self, page: &mut Page<'_>, routes: &[RouteStatus]) -> fmt::Result {
        type Value = fn(&DestinationStatus) -> u64;
        let series = |value: Value| {
            let all =
                routes.iter().flat_map(|route| route.destinations.iter().map(move |place| (route, place)));
            all.take(LABELLED_MAX).map(move |(route, place)| {
                ([("route", route.route.as_str()), ("destination", place.destination.as_str())], value(place))
            })
        };
        let gauges: [(&str, &str, Value); 2] = [
            ("route_destination_ejected", "1 while a destination is left out.", |place| {
                u64::from(place.state == "ejected")
            }),
            ("route_destination_consecutive_failures", "Failures, one after the other.", |place| {
                place.consecutive_failures
            }),
        ];
        for (name, help, value) in gauges {
            page.gauges(name, help, series(value))?;
        }
        let reasons =
            routes.iter().flat_map(|route| route.destinations.iter().map(move |place| (route, place)));
        let reasons = reasons.take(LABELLED_MAX).flat_map(|(route, place)| {
            let labels = [("route", route.route.as_str()), ("destination", place.destination.as_str())];
            let [of, to] = labels;
            place.counts.failures_by.named().map(|(reason, value)| ([of, to, ("reason", reason)], value))
        });
        page.counters("route_destination_failures", "Tries that failed, by reasons.", reasons)?;
        let counters: [(&str, &str, Value); 3] = [
            ("route_destination_tries", "How often a destination was tried.", |place| place.counts.tries),
            ("route_destination_delivered", "How often that went well.", |place| place.counts.delivered),
            ("route_destination_ejections", "How often it was left out for a while.", |place| {
                place.counts.ejections
            }),
        ];
        for (name, help, value) in counters {
            page.counters(name, help, series(value))?;
        }
        Ok(())
    }

    /// What all routes share.
    fn routing(&self, page: &mut Page<'_>) -> fmt::Result {
        let routing = &self.0.routing;
        page.gauge("routing_messages", "Messages that routes have.", routing.messages)?;
        page.gauge("routing_messages_max", "At most so many.", routing.messages_max)?;
        page.gauge("routing_bytes", "What they are counted for.", routing.bytes)?;
        page.gauge("routing_bytes_max", "At most so much.", routing.bytes_max)?;
        page.gauge("routing_jobs", "What workers have to do.", routing.jobs)?;
        page.gauge("routing_workers", "How many workers there are.", routing.workers)?;
        let counts = &routing.counts;
        let reasons = [
            ("full", counts.refused),
            ("type", counts.unmatched),
            ("hops", counts.stopped),
            ("too_large", counts.too_large),
            ("lost_in_rings", counts.lost_in_rings),
            ("worker", counts.failed),
        ];
        let series = reasons.into_iter().map(|(reason, value)| ([("reason", reason)], value));
        page.counters("routing_not_taken_messages", "Messages that routes did not take.", series)?;
        let help = "Messages that were too large to be copied to the topic of a tap.";
        page.counter("routing_not_tapped_messages", help, counts.not_tapped)
    }
}
