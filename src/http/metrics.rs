//! A snapshot as metrics: names, help, labels, and the two texts that scrapers read.
//!
//! Names start with `tramline_` and end in their base unit. The broker counts for itself; here the counts of one
//! moment are written down, so nothing is kept between scrapes. prometheus-client writes OpenMetrics; the older
//! text format 0.0.4, which scrapers get unless they ask otherwise, differs in few lines and is made from it.
//!
//! How many series there are is bounded: one per limit, and one per topic, stream, queue and service up to
//! [`LABELLED_MAX`] each, the first by name. What is left out is counted in
//! `tramline_topics_left_out` and its like; `/status` shows all.

mod rows;

mod queues;

mod services;

mod routes;

mod took;

use crate::core::Snapshot;
use crate::core::snapshot::{StoreStatus, StreamStatus, TopicStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, text::encode,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::time::Duration;

/// Topics, streams, queues, and services, that get series of their own.
pub const LABELLED_MAX: usize = 256;

/// A format that scrapers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Prometheus,
    /// OpenMetrics text 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that these `Accept` headers like best; Prometheus text where they do not care.
    #[must_use]
    pub fn accepted<'h>(accept: impl Iterator<Item = &'h str>) -> Self {
        let (mut open, mut plain) = (0.0_f32, 0.0_f32);
        for range in accept.flat_map(|header| header.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let weight =
                parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse().ok()).unwrap_or(1.0);
            match kind {
                "application/openmetrics-text" => open = open.max(weight),
                "text/plain" => plain = plain.max(weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The metrics of one moment.
#[must_use]
pub fn text(snapshot: Snapshot, format: Format) -> String {
    let mut registry = Registry::with_prefix("tramline");
    registry.register_collector(Box::new(Moment(snapshot)));
    let mut open = String::new();
    encode(&mut open, &registry).expect("a String takes every character");
    match format {
        Format::OpenMetrics => open,
        Format::Prometheus => prometheus(&open),
    }
}

/// OpenMetrics names a counter's family without `_total`, has `# UNIT` and ends in `# EOF`; 0.0.4 does not.
fn prometheus(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let (word, rest) = comment.split_once(' ').unwrap_or((comment, ""));
        let (name, what) = rest.split_once(' ').unwrap_or((rest, ""));
        let counter = match word {
            "HELP" => {
                lines.peek().is_some_and(|next| next.starts_with("# TYPE ") && next.ends_with(" counter"))
            }
            "TYPE" => what == "counter",
            _ => continue,
        };
        let total = if counter { "_total" } else { "" };
        text.push_str(&format!("# {word} {name}{total} {what}\n"));
    }
    text
}

#[derive(Debug)]
struct Moment(Snapshot);

/// One series: its labels and value.
type Series<'s, const LABELS: usize, N> = ([(&'static str, &'s str); LABELS], N);

struct Page<'e>(DescriptorEncoder<'e>);

impl Page<'_> {
    fn counters<'s, const L: usize, N: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = Series<'s, L, N>>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges<'s, const L: usize, N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = Series<'s, L, N>>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counter<N: EncodeCounterValue>(&mut self, name: &str, help: &str, value: N) -> fmt::Result {
        let family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(family)
    }

    fn gauge<N: EncodeGaugeValue>(&mut self, name: &str, help: &str, value: N) -> fmt::Result {
        let family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(family)
    }
}

impl Collector for Moment {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.broker(&mut page)?;
        self.totals(&mut page)?;
        self.topics(&mut page)?;
        self.streams(&mut page)?;
        self.store(&mut page)?;
        self.queues(&mut page)?;
        self.services(&mut page)?;
        self.routes(&mut page)
    }
}

fn count(number: usize) -> u64 {
    number as u64
}

impl Moment {
    fn broker(&self, page: &mut Page<'_>) -> fmt::Result {
        let now = &self.0;
        let build = [("version", now.version.as_str())];
        page.gauges(
            "build_info",
            "Always 1; the label says which version runs.",
            [(build, 1_u64)].into_iter(),
        )?;
        page.gauge("uptime_seconds", "Time since the broker started.", now.uptime_seconds)?;
        let languages = ["native", "json"].map(|language| {
            let sessions = now.sessions.iter().filter(|session| session.language == language).count();
            ([("language", language)], count(sessions))
        });
        page.gauges("sessions", "Connected clients.", languages.into_iter())?;
        let paused = now.sessions.iter().filter(|session| session.paused).count();
        page.gauge("sessions_paused", "Clients held up by a slow subscriber right now.", count(paused))?;
        let outbox: u64 = now.sessions.iter().map(|session| session.outbox_bytes).sum();
        page.gauge("outbox_bytes", "Bytes that wait to be written to clients.", outbox)?;
        let queued: u64 = now.sessions.iter().map(|session| session.backlog_bytes).sum();
        page.gauge("backlog_bytes", "Bytes that wait for subscriptions that do not keep up.", queued)?;
        page.gauge("subscriptions", "Subscriptions.", count(now.subscriptions.len()))?;
        page.gauge("topics", "Topics in use.", count(now.topics.len()))?;
        page.gauge("streams", "Open streams.", count(now.streams.len()))?;
        let memory: u64 = now.streams.iter().map(|stream| stream.memory_bytes).sum();
        page.gauge("ring_memory_bytes", "Shared memory of all rings.", memory)?;
        let limits = now.limits.iter().map(|limit| ([("limit", limit.name)], limit.value));
        page.gauges("limit", "The configured value of a limit.", limits)?;
        let used = now.limits.iter().filter_map(|limit| Some(([("limit", limit.name)], limit.used?)));
        page.gauges("limit_used", "What is used of a limit.", used)
    }

    fn totals(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = &self.0.totals;
        let traffic = &all.traffic;
        let counters: [(&str, &str, u64); 20] = [
            ("socket_messages_in", "Messages published by socket.", traffic.messages_in),
            ("socket_payload_bytes_in", "Bytes of payloads published by socket.", traffic.bytes_in),
            ("socket_messages_out", "Messages delivered by socket.", traffic.messages_out),
            ("socket_payload_bytes_out", "Bytes of payloads delivered by socket.", traffic.bytes_out),
            ("socket_messages_lost", "Messages dropped because a subscriber did not keep up.", traffic.lost),
            ("ring_messages", "Messages published in rings.", all.rings.messages),
            ("ring_payload_bytes", "Bytes of their payloads.", all.rings.bytes),
            ("wire_bytes_in", "Bytes taken from clients.", all.wire_bytes_in),
            ("wire_bytes_out", "Bytes written to clients.", all.wire_bytes_out),
            ("connections", "Connections accepted.", all.connections),
            ("connections_refused", "Connections refused.", all.connections_refused),
            ("requests_refused", "Requests refused.", all.requests_refused),
            ("protocol_violations", "Sessions closed for breaking the protocol.", all.violations),
            ("slow_disconnects", "Sessions closed for not reading.", all.slow_disconnects),
            ("publisher_pauses", "Times a publisher was held up by a slow subscriber.", all.pauses),
            (
                "reader_evictions",
                "Times a reader held a ring's publisher up for too long and became lossy.",
                all.evictions,
            ),
            ("streams_opened", "Streams opened.", all.streams_opened),
            ("attachments", "Readers attached to streams.", all.attachments),
            ("adoptions", "Attachments taken over from an earlier run of the broker.", all.adoptions),
            ("proxied_messages", "Ring messages delivered for clients without rings.", all.proxied_messages),
        ];
        counters.into_iter().try_for_each(|(name, help, value)| page.counter(name, help, value))
    }

    fn topics(&self, page: &mut Page<'_>) -> fmt::Result {
        let shown = &self.0.topics[..self.0.topics.len().min(LABELLED_MAX)];
        let series = |value: fn(&TopicStatus) -> u64| {
            shown.iter().map(move |topic| ([("topic", topic.topic.as_str())], value(topic)))
        };
        page.counters(
            "topic_socket_messages",
            "Messages published on a topic by socket.",
            series(|topic| topic.messages),
        )?;
        page.counters("topic_socket_payload_bytes", "Bytes of their payloads.", series(|topic| topic.bytes))?;
        page.counters(
            "topic_ring_messages",
            "Messages published on a topic in rings.",
            series(|topic| topic.rings.messages),
        )?;
        page.counters(
            "topic_ring_payload_bytes",
            "Bytes of their payloads.",
            series(|topic| topic.rings.bytes),
        )?;
        page.counters(
            "topic_ring_dropped_messages",
            "Messages that publishers dropped for want of room in a ring.",
            series(|topic| topic.rings.dropped),
        )?;
        page.gauges(
            "topic_subscriptions",
            "Subscriptions that match a topic.",
            series(|topic| u64::from(topic.subscriptions)),
        )?;
        let left_out = self.0.topics.len() - shown.len();
        page.gauge("topics_left_out", "Topics without series of their own here.", count(left_out))
    }

    fn streams(&self, page: &mut Page<'_>) -> fmt::Result {
        let shown = &self.0.streams[..self.0.streams.len().min(LABELLED_MAX)];
        let sessions: Vec<String> = shown.iter().map(|stream| stream.session.to_string()).collect();
        let series = |value: fn(&StreamStatus) -> Option<u64>| {
            shown.iter().zip(&sessions).filter_map(move |(stream, session)| {
                let labels = [
                    ("topic", stream.topic.as_str()),
                    ("client", stream.name.as_str()),
                    ("session", session.as_str()),
                ];
                Some((labels, value(stream)?))
            })
        };
        page.counters(
            "stream_messages",
            "Messages published in a ring.",
            series(|stream| Some(stream.ring?.counts.messages)),
        )?;
        page.counters(
            "stream_payload_bytes",
            "Bytes of their payloads.",
            series(|stream| Some(stream.ring?.counts.bytes)),
        )?;
        page.counters(
            "stream_dropped_messages",
            "Messages that the publisher dropped for want of room.",
            series(|stream| Some(stream.ring?.counts.dropped)),
        )?;
        page.counters(
            "stream_waits",
            "Times the publisher waited for room.",
            series(|stream| Some(stream.ring?.counts.waits)),
        )?;
        page.gauges(
            "stream_depth_messages",
            "Messages still readable.",
            series(|stream| Some(stream.ring?.depth)),
        )?;
        page.gauges("stream_memory_bytes", "Memory of a ring.", series(|stream| Some(stream.memory_bytes)))?;
        page.gauges(
            "stream_readers",
            "Readers of a stream.",
            series(|stream| Some(count(stream.readers.len()))),
        )?;
        page.gauges(
            "stream_lag_messages",
            "Messages published and not yet read by the slowest reader.",
            series(|stream| stream.readers.iter().filter_map(|reader| reader.lag).max()),
        )?;
        page.gauges(
            "stream_lost_messages",
            "Messages lost to the readers attached now, all together.",
            series(|stream| Some(stream.readers.iter().filter_map(|reader| reader.lost).sum())),
        )?;
        let left_out = self.0.streams.len() - shown.len();
        page.gauge("streams_left_out", "Streams without series of their own here.", count(left_out))
    }

    fn store(&self, page: &mut Page<'_>) -> fmt::Result {
        let StoreStatus { file, state, waiting_bytes, held_up, counts, .. } = &self.0.store;
        if file.is_none() {
            return Ok(());
        }
        let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
        page.gauge(
            "store_writable",
            "1 while queues on disk take messages.",
            u64::from(*state == "writable"),
        )?;
        page.gauge("store_file_bytes", "How large the store's file is.", counts.file_bytes)?;
        page.gauge("store_waiting_bytes", "Bytes that wait to be written to the store.", *waiting_bytes)?;
        page.gauge("store_held_up", "Connections that are not read until less waits.", *held_up)?;
        page.counter("store_batches", "Batches that were written.", counts.batches)?;
        page.counter("store_changes", "Changes in them.", counts.changes)?;
        page.counter("store_failures", "Batches that could not be written.", counts.failures)?;
        let help = "How long it took until the disk had a batch.";
        let family = page.0.encode_descriptor("store_fsync_seconds", help, None, MetricType::Histogram)?;
        took::Took(&counts.fsync).encode(family)?;
        page.gauge("store_fsync_last_seconds", "The same of the last batch.", seconds(counts.nanos_last))?;
        page.gauge("store_fsync_most_seconds", "The same of the slowest.", seconds(counts.nanos_most))
    }
}
