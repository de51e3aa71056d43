//! The metrics of services.

use super::rows::Rows;
use super::took::Took;
use super::{LABELLED_MAX, Moment, Page, count};
use crate::core::snapshot::ServiceStatus;
use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::MetricType;
use std::fmt;

impl Moment {
    pub(super) fn services(&self, page: &mut Page<'_>) -> fmt::Result {
        let shown = &self.0.services[..self.0.services.len().min(LABELLED_MAX)];
        let rows = Rows { shown, label: "service", name: |service: &ServiceStatus| &service.service };
        type Value = fn(&ServiceStatus) -> u64;
        let gauges: [(&str, &str, Value); 4] = [
            ("service_instances", "Who provides a service.", |service| count(service.instances.len())),
            ("service_ejected_instances", "Those of them that are left out for a while.", |service| {
                count(service.instances.iter().filter(|instance| instance.state == "ejected").count())
            }),
            ("service_outstanding_requests", "Requests without an outcome.", |service| service.outstanding),
            ("service_waiting_requests", "Those of them that wait for an instance.", |service| {
                service.waiting
            }),
        ];
        rows.gauges(page, gauges)?;
        let counters: [(&str, &str, Value); 15] = [
            ("service_requests", "Requests taken.", |service| service.counts.requests),
            ("service_attempts", "Requests given to instances; each attempt counts.", |service| {
                service.counts.given
            }),
            ("service_replies", "Answers passed on.", |service| service.counts.replies),
            ("service_errors", "Errors of the application passed on.", |service| service.counts.errors),
            ("service_unanswered_requests", "Requests taken that had no answer.", |service| {
                service.counts.unanswered
            }),
            ("service_timed_out_requests", "Requests whose time was over.", |service| {
                service.counts.timed_out
            }),
            ("service_without_instance_requests", "Requests for which there was no instance.", |service| {
                service.counts.no_instance
            }),
            ("service_refused_requests", "Requests that a limit did not let in.", |service| {
                service.counts.refused
            }),
            ("service_cancelled_requests", "Requests whose callers gave up or went.", |service| {
                service.counts.cancelled
            }),
            ("service_retries", "Times a request was to go to another instance.", |service| {
                service.counts.retries
            }),
            ("service_failures", "Times an instance said that it could not.", |service| {
                service.counts.failed
            }),
            ("service_deserted_requests", "Requests at an instance when that went.", |service| {
                service.counts.deaths
            }),
            ("service_ejections", "Times an instance was left out for a while.", |service| {
                service.counts.ejections
            }),
            ("service_late_replies", "Replies that nobody waited for any more.", |service| {
                service.counts.late_replies
            }),
            ("service_dropped_replies", "Answers dropped because their callers did not read.", |service| {
                service.counts.replies_dropped
            }),
        ];
        rows.counters(page, counters)?;
        let help = "From when a request was taken to when its answer was passed on.";
        let mut family =
            page.0.encode_descriptor("service_latency_seconds", help, None, MetricType::Histogram)?;
        for service in shown {
            Took(&service.latency).encode(family.encode_family(&[("service", service.service.as_str())])?)?;
        }
        let left_out = self.0.services.len() - shown.len();
        page.gauge("services_left_out", "Services without series of their own here.", count(left_out))
    }
}
