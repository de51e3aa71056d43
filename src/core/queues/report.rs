//! Queues for the status. Changes nothing.

use crate::core::Now;
use crate::core::broker::Core;
use crate::core::snapshot::{ConsumerStatus, QueueStatus};
use std::time::Duration;

impl Core {
    pub(in crate::core) fn queue_status(&self, now: Now) -> Vec<QueueStatus> {
        let queues = self.queues.by_name.values().filter_map(|key| self.queues.table.get(*key));
        queues
            .map(|queue| QueueStatus {
                queue: queue.name.to_string(),
                strategy: queue.settings.strategy.as_str(),
                when_full: queue.settings.when_full.as_str(),
                bind: queue.settings.bind.clone(),
                paused: queue.paused,
                messages: queue.messages(),
                ready: queue.messages() - queue.in_flight() - queue.delayed(),
                delayed: queue.delayed(),
                in_flight: queue.in_flight(),
                bytes: queue.bytes,
                messages_max: queue.settings.messages_max,
                bytes_max: queue.settings.bytes_max,
                oldest_seconds: queue
                    .oldest_age(now.monotonic)
                    .map(|nanos| Duration::from_nanos(nanos).as_secs_f64()),
                dead_letters: queue.dead.len() as u64,
                dead_bytes: queue.dead.bytes,
                ids: queue.recent.len() as u64,
                ids_forgotten: queue.recent.forgotten,
                counts: queue.counts,
                consumers: queue
                    .consumers
                    .iter()
                    .flatten()
                    .map(|consumer| ConsumerStatus {
                        session: consumer.identity.session,
                        name: consumer.identity.name.clone(),
                        pid: consumer.identity.pid,
                        consumer: consumer.number,
                        in_flight: consumer.outstanding() as u64,
                        credit: consumer.credit.into(),
                        delivered: consumer.delivered,
                    })
                    .collect(),
            })
            .collect()
    }
}
