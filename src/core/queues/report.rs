//! Queues for the status. Changes nothing.

use crate::core::Now;
use crate::core::broker::Core;
use crate::core::snapshot::{ConsumerStatus, QueueCounts, QueueStatus, StoreStatus};
use std::time::Duration;

impl Core {
    pub(in crate::core) fn store_status(&self) -> StoreStatus {
        let ledger = &self.queues.ledger;
        StoreStatus {
            file: None,
            state: ledger.failure.as_ref().map_or("writable", |it| if it.full { "full" } else { "failed" }),
            reason: ledger.failure.as_ref().map(|failure| failure.message.clone()),
            waiting_bytes: ledger.waiting_bytes(),
            held_up: ledger.held.len() as u64,
            counts: ledger.counts,
        }
    }

    pub(in crate::core) fn queue_status(&self, now: Now) -> Vec<QueueStatus> {
        let queues = self.queues.by_name.values().filter_map(|key| self.queues.table.get(*key));
        queues
            .map(|queue| QueueStatus {
                queue: queue.name.to_string(),
                strategy: queue.settings.strategy.as_str(),
                durability: queue.settings.durability.as_str(),
                when_full: queue.settings.when_full.as_str(),
                bind: queue.settings.bind.clone(),
                paused: queue.paused,
                retiring: queue.retiring,
                pushed_per_second: 0.0,
                delivered_per_second: 0.0,
                messages: queue.messages(),
                ready: queue.messages() - queue.in_flight() - queue.delayed() - queue.storing(),
                delayed: queue.delayed(),
                in_flight: queue.in_flight(),
                storing: queue.storing(),
                bytes: queue.bytes,
                messages_max: queue.settings.messages_max,
                bytes_max: queue.settings.bytes_max,
                oldest_seconds: queue
                    .oldest_age(now.monotonic)
                    .map(|nanos| Duration::from_nanos(nanos).as_secs_f64()),
                dead_letters: queue.dead.len() as u64 + dead_behind(queue).0,
                dead_bytes: queue.dead.bytes + dead_behind(queue).1,
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

impl QueueCounts {
    /// Counts messages that were lost. How many a ring says is its publisher's claim: the sum has an end.
    pub(super) fn lose(&mut self, messages: u64) {
        self.lost = self.lost.saturating_add(messages);
    }
}

/// Dead letters that are not loaded yet: how many, and what they are counted for.
fn dead_behind(queue: &super::Queue) -> (u64, u64) {
    queue.kept.as_ref().map_or((0, 0), |kept| kept.dead_behind())
}
