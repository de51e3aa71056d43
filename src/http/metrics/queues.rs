//! The metrics of queues.

use super::rows::Rows;
use super::{LABELLED_MAX, Moment, Page, count};
use crate::core::snapshot::QueueStatus;
use std::fmt;

impl Moment {
    pub(super) fn queues(&self, page: &mut Page<'_>) -> fmt::Result {
        let shown = &self.0.queues[..self.0.queues.len().min(LABELLED_MAX)];
        let rows = Rows { shown, label: "queue", name: |queue: &QueueStatus| &queue.queue };
        type Value<N> = fn(&QueueStatus) -> N;
        let gauges: [(&str, &str, Value<u64>); 10] = [
            ("queue_ready_messages", "Messages that could be given out now.", |queue| queue.ready),
            ("queue_delayed_messages", "Messages that are not due yet.", |queue| queue.delayed),
            ("queue_in_flight_messages", "Messages that consumers have.", |queue| queue.in_flight),
            ("queue_held_bytes", "What a queue's messages are counted for.", |queue| queue.bytes),
            ("queue_dead_letters", "Dead letters that are kept.", |queue| queue.dead_letters),
            ("queue_dead_bytes", "What they are counted for.", |queue| queue.dead_bytes),
            ("queue_consumers", "Consumers.", |queue| count(queue.consumers.len())),
            ("queue_paused", "1 while it gives nothing out.", |queue| queue.paused.into()),
            ("queue_durable", "1 if it is kept on disk.", |queue| (queue.durability == "disk").into()),
            ("queue_storing_messages", "Messages on their way to the disk.", |queue| queue.storing),
        ];
        rows.gauges(page, gauges)?;
        let oldest: Value<f64> = |queue| queue.oldest_seconds.unwrap_or(0.0);
        rows.gauges(page, [("queue_oldest_seconds", "Age of the oldest of those that come first.", oldest)])?;
        let counters: [(&str, &str, Value<u64>); 14] = [
            ("queue_pushed_messages", "Taken in.", |queue| queue.counts.pushed),
            ("queue_duplicate_messages", "Confirmed and not queued again.", |queue| queue.counts.duplicates),
            ("queue_refused_messages", "Not taken in for want of room.", |queue| queue.counts.refused),
            ("queue_lost_messages", "Lost in rings before they could be taken in.", |queue| {
                queue.counts.lost
            }),
            ("queue_delivered_messages", "Given out; each attempt counts.", |queue| queue.counts.delivered),
            ("queue_acked_messages", "Acknowledged.", |queue| queue.counts.acked),
            ("queue_nacked_messages", "Given back by consumers.", |queue| queue.counts.nacked),
            ("queue_rejected_messages", "Rejected by consumers.", |queue| queue.counts.rejected),
            ("queue_timed_out_messages", "Not settled in time.", |queue| queue.counts.timed_out),
            ("queue_returned_messages", "Come back from consumers that had gone.", |queue| {
                queue.counts.returned
            }),
            ("queue_expired_messages", "Waited longer than they might.", |queue| queue.counts.expired),
            ("queue_dropped_messages", "Dropped because the queue was full.", |queue| queue.counts.dropped),
            ("queue_dead_messages", "Become dead letters.", |queue| queue.counts.dead),
            ("queue_dead_dropped_messages", "Dead letters dropped for want of room.", |queue| {
                queue.counts.dead_dropped
            }),
        ];
        rows.counters(page, counters)?;
        let left_out = self.0.queues.len() - shown.len();
        page.gauge("queues_left_out", "Queues without series of their own here.", count(left_out))
    }
}
