//! What was in the store before: queues with their messages, and who sent these.
//!
//! Nothing is loaded here but numbers: how many messages there are, of which size and whose. Messages are loaded as any
//! that are not in memory.

use super::keeping::{cannot_be_in_memory, is_left_over};
use super::kept::Kept;
use super::origins::Origin;
use super::settings::Durability;
use super::{Queue, QueueSettings};
use crate::core::broker::Core;
use crate::core::durable::{Change, QueueNumber, Record, Sender, Shelf, StoredQueue};
use crate::core::quota::Checked;
use crate::core::session::Identity;
use crate::core::strategy::Strategy;
use crate::core::table::Key;
use crate::core::{Now, WhenFull};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Senders of stored messages that are known at a time; who comes again after that is taken for another connection.
const SENDERS_MAX: usize = 1024;

/// Senders of messages that were stored, each with the topic it published on, as consumers are told of them: as
/// connections that have gone.
#[derive(Debug, Default)]
pub(in crate::core) struct Senders {
    known: HashMap<(Sender, Arc<str>), Arc<Identity>>,
}

/// What is written down of a queue that a client declared.
#[derive(Debug, Serialize, Deserialize)]
struct Declared {
    bind: Vec<String>,
    strategy: String,
    when_full: String,
    messages_max: u64,
    bytes_max: u64,
    ack_timeout_millis: u32,
    attempts_max: u16,
    ttl_millis: u32,
}

impl Declared {
    fn of(settings: &QueueSettings) -> Self {
        Self {
            bind: settings.bind.clone(),
            strategy: settings.strategy.as_str().to_owned(),
            when_full: settings.when_full.as_str().to_owned(),
            messages_max: settings.messages_max,
            bytes_max: settings.bytes_max,
            ack_timeout_millis: settings.ack_timeout_millis,
            attempts_max: settings.attempts_max,
            ttl_millis: settings.ttl_millis,
        }
    }

    fn settings(self, name: &str) -> Option<QueueSettings> {
        let strategies = [Strategy::RoundRobin, Strategy::LoadBalance, Strategy::Failover];
        let policies = [WhenFull::Refuse, WhenFull::DropOldest, WhenFull::DeadLetter];
        Some(QueueSettings {
            name: name.to_owned(),
            bind: self.bind,
            durability: Durability::Disk,
            strategy: strategies.into_iter().find(|each| each.as_str() == self.strategy)?,
            when_full: policies.into_iter().find(|each| each.as_str() == self.when_full)?,
            messages_max: self.messages_max,
            bytes_max: self.bytes_max,
            ack_timeout_millis: self.ack_timeout_millis,
            attempts_max: self.attempts_max,
            ttl_millis: self.ttl_millis,
            ..QueueSettings::default()
        })
    }
}

fn messages(found: &StoredQueue) -> u64 {
    found.waiting.iter().chain([&found.delayed, &found.dead]).map(|stock| stock.messages).sum()
}

impl Core {
    /// What a store holds, as it was opened, and the highest number that a queue has in it: before any queue is made, and
    /// anybody is connected.
    pub fn restore(&mut self, found: Vec<StoredQueue>, last_queue: QueueNumber) {
        self.queues.ledger.knows_queue(last_queue);
        for queue in found {
            self.queues.ledger.knows_queue(queue.queue);
            self.queues.ledger.found.insert(queue.name.clone(), queue);
        }
    }

    /// All queues of the configuration were made: makes those that clients had declared. What is in the store of queues that
    /// are not there any more stays there, and is told.
    pub fn restored(&mut self, now: Now) {
        let mut left = BTreeMap::new();
        for (name, found) in std::mem::take(&mut self.queues.ledger.found) {
            let count = messages(&found);
            if found.settings.is_empty() {
                tracing::warn!(
                    "{count} messages are stored of queue {name}, which the configuration does not have any more: they stay \
                     in the store until the broker is started with it again"
                );
                left.insert(name, found);
                continue;
            }
            let declared = serde_json::from_slice::<Declared>(&found.settings).ok();
            let Some(settings) = declared.and_then(|declared| declared.settings(&name)) else {
                tracing::error!(
                    "the settings of queue {name} in the store are not understood; its {count} messages stay there"
                );
                left.insert(name, found);
                continue;
            };
            self.queues.ledger.found.insert(name.clone(), found.clone());
            if let Err(refused) = self.make_queue(settings, true, now) {
                self.queues.ledger.found.remove(&name);
                left.insert(name.clone(), found);
                tracing::error!(
                    "queue {name} of the store is not made: {}; its {count} messages stay there",
                    refused.message
                );
            }
        }
        self.queues.ledger.found = left;
        self.queues.ledger.is_restored = true;
        self.arm_store(now);
        self.settle(now);
    }

    /// Whether what was found of a queue of this name lets it have these settings.
    pub(super) fn may_be_made(&mut self, settings: &QueueSettings) -> Checked<()> {
        let Some(found) = self.queues.ledger.found.get(settings.name.as_str()) else { return Ok(()) };
        let (is_kept, is_late) = (settings.durability == Durability::Disk, self.queues.ledger.is_restored);
        if is_kept && !is_late {
            return Ok(());
        }
        let count = messages(found);
        if count > 0 {
            let refused = if is_kept { is_left_over } else { cannot_be_in_memory };
            return Err(refused(settings, count));
        }
        if let Some(found) = self.queues.ledger.found.remove(settings.name.as_str()) {
            self.queues.ledger.add(&mut vec![Change::Forget { queue: found.queue }]);
        }
        Ok(())
    }

    /// Has a new queue kept, beginning with what was found of it. Its number, if nothing was.
    pub(super) fn keep_queue(&mut self, queue: &mut Queue, declared: bool, now: Now) -> Option<QueueNumber> {
        let found = self.queues.ledger.found.remove(&queue.name);
        let settings: Arc<[u8]> = if declared {
            serde_json::to_vec(&Declared::of(&queue.settings)).unwrap_or_default().into()
        } else {
            Arc::from([].as_slice())
        };
        let is_new = found.is_none();
        let is_known = found.as_ref().is_some_and(|found| found.settings == settings);
        let found = found.unwrap_or_else(|| StoredQueue {
            queue: self.queues.ledger.next_queue(),
            name: queue.name.clone(),
            ..StoredQueue::default()
        });
        let number = found.queue;
        let kept = Kept::new(number, settings, self.limits.queue_cache_bytes_max);
        queue.keep(kept, &found, now, &mut self.queues.charges);
        if !is_known {
            let mut row = queue.row().into_iter().collect();
            self.queues.ledger.add(&mut row);
        }
        is_new.then_some(number)
    }

    /// Who sent a message that is loaded, as a connection that has gone.
    fn restored_sender(&mut self, from: &Sender, topic: &Arc<str>) -> Arc<Identity> {
        let key = (from.clone(), topic.clone());
        if let Some(known) = self.queues.senders.known.get(&key) {
            return known.clone();
        }
        if self.queues.senders.known.len() >= SENDERS_MAX {
            self.queues.senders.known.clear();
        }
        self.last_session += 1;
        let identity = Arc::new(Identity {
            session: self.last_session,
            name: from.name.to_string(),
            uid: from.uid,
            pid: from.pid,
            client: 0,
            hops: 0,
        });
        self.queues.senders.known.insert(key, identity.clone());
        identity
    }

    /// Puts a message that was loaded into its queue.
    pub(super) fn take_loaded(&mut self, key: Key, (shelf, number): (Shelf, u64), record: &Record, now: Now) {
        let from = self.restored_sender(&record.from, &record.topic);
        let origin = Origin { from, topic: Key::NOBODY, name: record.topic.clone() };
        let by = record.dead.as_ref().and_then(|dead| dead.by.clone());
        let by = by.map(|by| self.restored_sender(&by, &self.nameless.clone()));
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(key) else { return };
        match shelf {
            Shelf::Dead => queue.take_loaded_dead(number, record, (origin, by), &mut queues.charges),
            _ => queue.take_loaded((shelf, number), record, &origin, now, &mut queues.charges),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kept::sender;
    use super::*;

    #[test]
    fn what_a_client_declared_is_read_as_it_was_written() {
        let settings = QueueSettings {
            name: "jobs".to_owned(),
            bind: vec!["a.>".to_owned()],
            durability: Durability::Disk,
            strategy: Strategy::Failover,
            when_full: WhenFull::DropOldest,
            messages_max: 7,
            ttl_millis: 9,
            ..QueueSettings::default()
        };
        let written = serde_json::to_vec(&Declared::of(&settings)).unwrap();
        let read: Declared = serde_json::from_slice(&written).unwrap();
        assert_eq!(read.settings("jobs"), Some(settings));
        let from = Identity { session: 4, name: "n".to_owned(), uid: 1, pid: 2, client: 3, hops: 0 };
        assert_eq!(sender(&from), Sender { name: "n".into(), uid: 1, pid: 2 });
    }
}
