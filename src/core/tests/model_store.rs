//! A store in memory that does what a store must, in as few words as possible.

use crate::core::durable::{Change, QueueNumber, Record, Shelf, Stock, StoredQueue};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default, Clone)]
pub(super) struct ModelStore {
    queues: BTreeMap<QueueNumber, (Arc<str>, Arc<[u8]>)>,
    pub(super) messages: BTreeMap<(QueueNumber, Shelf, u64), Arc<Record>>,
    seen: BTreeMap<(QueueNumber, u32, Arc<[u8]>), i64>,
    positions: BTreeMap<(QueueNumber, u64), u64>,
}

impl ModelStore {
    pub(super) fn commit(&mut self, changes: &[Change]) {
        for change in changes.iter().cloned() {
            match change {
                Change::Queue { queue, name, settings } => {
                    self.queues.insert(queue, (name, settings));
                }
                Change::Forget { queue } => {
                    self.queues.remove(&queue);
                    self.messages.retain(|(of, ..), _| *of != queue);
                    self.seen.retain(|(of, ..), _| *of != queue);
                    self.positions.retain(|(of, _), _| *of != queue);
                }
                Change::Put { queue, shelf, number, record } => {
                    assert!(self.queues.contains_key(&queue), "a message of a queue that is not there");
                    self.messages.insert((queue, shelf, number), record);
                }
                Change::Remove { queue, shelf, number } => {
                    self.messages.remove(&(queue, shelf, number));
                }
                Change::RemoveRange { queue, shelf, first, last } => {
                    self.messages.retain(|(of, on, number), _| {
                        (*of, *on) != (queue, shelf) || !(first..=last).contains(number)
                    });
                }
                Change::Seen { queue, uid, id, until_millis } => {
                    self.seen.insert((queue, uid, id), until_millis);
                }
                Change::Position { queue, stream, seq } => {
                    self.positions.insert((queue, stream), seq);
                }
                Change::ForgetPosition { queue, stream } => {
                    self.positions.remove(&(queue, stream));
                }
            }
        }
    }

    pub(super) fn load(
        &self,
        (queue, shelf): (QueueNumber, Shelf),
        after: u64,
        messages_max: usize,
        bytes_max: usize,
    ) -> Vec<(u64, Record)> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for ((.., number), record) in
            self.messages.range((queue, shelf, after + 1)..=(queue, shelf, u64::MAX)).take(messages_max)
        {
            if bytes >= bytes_max && !found.is_empty() {
                break;
            }
            bytes += record.bytes.len();
            found.push((*number, (**record).clone()));
        }
        found
    }

    pub(super) fn open(&self) -> Vec<StoredQueue> {
        self.queues.iter().map(|(number, (name, settings))| self.queue(*number, name, settings)).collect()
    }

    fn queue(&self, number: QueueNumber, name: &Arc<str>, settings: &Arc<[u8]>) -> StoredQueue {
        let mut queue = StoredQueue {
            queue: number,
            name: name.clone(),
            settings: settings.clone(),
            ..StoredQueue::default()
        };
        let mut by_user: BTreeMap<u32, Stock> = BTreeMap::new();
        for ((of, shelf, number), record) in &self.messages {
            if *of != queue.queue {
                continue;
            }
            let stock = match shelf {
                Shelf::Waiting(priority) => &mut queue.waiting[usize::from(*priority)],
                Shelf::Delayed => &mut queue.delayed,
                Shelf::Dead => &mut queue.dead,
            };
            for stock in [stock, by_user.entry(record.from.uid).or_default()] {
                stock.messages += 1;
                stock.bytes += record.bytes.len() as u64;
                stock.last = stock.last.max(*number);
            }
        }
        queue.by_user = by_user.into_iter().collect();
        let seen = self.seen.iter().filter(|((of, ..), _)| *of == number);
        queue.seen = seen.map(|((_, uid, id), until)| (*uid, id.clone(), *until)).collect();
        let positions = self.positions.iter().filter(|((of, _), _)| *of == number);
        queue.positions = positions.map(|((_, stream), seq)| (*stream, *seq)).collect();
        queue
    }
}
