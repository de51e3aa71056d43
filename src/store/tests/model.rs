//! A store said in the plainest way, and batches made up by dice.

use super::*;
use crate::core::durable::Stock;
use crate::store::faults::Dice;
use crate::store::{Opened, Store};
use std::collections::BTreeMap;

/// What a store holds.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Model {
    queues: BTreeMap<QueueNumber, (Arc<str>, Arc<[u8]>)>,
    pub(super) messages: BTreeMap<(QueueNumber, Shelf, u64), Record>,
    positions: BTreeMap<(QueueNumber, u64), u64>,
    seen: BTreeMap<(QueueNumber, u32, Arc<[u8]>), i64>,
}

/// Briefly: messages may be long.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let messages: Vec<_> = self
            .messages
            .iter()
            .map(|(place, record)| (place, record.bytes.len(), record.bytes.first()))
            .collect();
        write!(f, "{:?} {messages:?} {:?} {:?}", self.queues, self.positions, self.seen)
    }
}

impl Model {
    pub(super) fn apply(&mut self, batch: &[Change]) {
        for change in batch.iter().cloned() {
            match change {
                Change::Queue { queue, name, settings } => {
                    self.queues.insert(queue, (name, settings));
                }
                Change::Forget { queue } => {
                    self.queues.remove(&queue);
                    self.messages.retain(|(of, ..), _| *of != queue);
                    self.positions.retain(|(of, _), _| *of != queue);
                    self.seen.retain(|(of, ..), _| *of != queue);
                }
                Change::Put { queue, shelf, number, record } => {
                    self.messages.insert((queue, shelf, number), (*record).clone());
                }
                Change::Remove { queue, shelf, number } => {
                    self.messages.remove(&(queue, shelf, number));
                }
                Change::RemoveRange { queue, shelf, first, last } => {
                    self.messages.retain(|(of, on, number), _| {
                        (*of, *on) != (queue, shelf) || *number < first || *number > last
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

    /// Everything that a store has, as it gives it out; what opening counted is compared with it.
    pub(super) fn of(store: &Store, opened: &Opened) -> Self {
        let mut model = Self::default();
        assert_eq!(opened.report.damaged, []);
        for found in &opened.queues {
            let queue = found.queue;
            model.queues.insert(queue, (found.name.clone(), found.settings.clone()));
            model.positions.extend(found.positions.iter().map(|(stream, seq)| ((queue, *stream), *seq)));
            let seen = found.seen.iter().map(|(uid, id, until)| ((queue, *uid, id.clone()), *until));
            model.seen.extend(seen);
            let mut users: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            let shelves = (0..10).map(Shelf::Waiting).chain([Shelf::Delayed, Shelf::Dead]);
            for (shelf, stock) in shelves.zip(found.stocks()) {
                let loaded = store.load(queue, shelf, None, usize::MAX, usize::MAX).expect("readable");
                assert_eq!(loaded.damaged, []);
                let counted = Stock {
                    messages: loaded.records.len() as u64,
                    bytes: loaded.records.iter().map(|(_, record)| record.bytes.len() as u64).sum(),
                    last: loaded.records.last().map_or(0, |(number, _)| *number),
                };
                assert_eq!(*stock, counted, "{queue} {shelf:?}");
                for (number, record) in loaded.records {
                    let user = users.entry(record.from.uid).or_default();
                    *user = (user.0 + 1, user.1 + record.bytes.len() as u64);
                    model.messages.insert((queue, shelf, number), record);
                }
            }
            let counted: Vec<_> =
                found.by_user.iter().map(|(uid, stock)| (*uid, (stock.messages, stock.bytes))).collect();
            assert_eq!(counted, users.into_iter().collect::<Vec<_>>());
        }
        model
    }

    /// A batch as a core could make it.
    pub(super) fn batch(&self, dice: &mut Dice, bytes_max: u64) -> Vec<Change> {
        let mut batch = Vec::new();
        let mut so_far = self.clone();
        if self.queues.is_empty() {
            batch.push(named(1, "first"));
            so_far.apply(&batch);
        }
        for _ in 0..=dice.below(12) {
            if dice.below(6) == 0 {
                let run = so_far.run(dice, bytes_max);
                so_far.apply(&run);
                batch.extend(run);
            }
            let change = so_far.change(dice, bytes_max);
            // Only queues with names have anything.
            let of = match &change {
                Change::Put { queue, .. } | Change::Seen { queue, .. } | Change::Position { queue, .. } => {
                    *queue
                }
                _ => 1,
            };
            if so_far.queues.contains_key(&of) {
                so_far.apply(std::slice::from_ref(&change));
                batch.push(change);
            }
        }
        batch
    }

    /// Messages as they come together: some make a sheet, or two, and some of their numbers may be taken.
    fn run(&self, dice: &mut Dice, bytes_max: u64) -> Vec<Change> {
        let shelf = Shelf::Waiting(u8::try_from(dice.below(2)).expect("small"));
        let first = dice.below(4) * 40;
        let length = usize::try_from(dice.below(1 + bytes_max / 8)).expect("small");
        let byte = u8::try_from(dice.below(256)).expect("a byte");
        let record = Record { bytes: vec![byte; length].into(), ..record("") };
        (first..first + 1 + dice.below(40)).map(|number| put(1, shelf, number, record.clone())).collect()
    }

    fn change(&self, dice: &mut Dice, bytes_max: u64) -> Change {
        let queue = u32::try_from(1 + dice.below(3)).expect("small");
        let shelf = match dice.below(5) {
            0 => Shelf::Delayed,
            1 => Shelf::Dead,
            _ => Shelf::Waiting(u8::try_from(dice.below(10)).expect("small")),
        };
        match dice.below(20) {
            0 => Change::Queue {
                queue,
                name: format!("q{}", dice.below(9)).into(),
                settings: Arc::from([1, 2]),
            },
            1 if queue > 1 => Change::Forget { queue },
            2 => {
                let first = dice.below(150);
                let (queue, shelf) = if dice.below(2) == 0 { (1, Shelf::Waiting(0)) } else { (queue, shelf) };
                Change::RemoveRange { queue, shelf, first, last: first + dice.below(60) }
            }
            3..=7 => {
                let chosen = usize::try_from(dice.below(self.messages.len() as u64)).expect("small");
                match self.messages.keys().nth(chosen) {
                    Some(&(queue, shelf, number)) => Change::Remove { queue, shelf, number },
                    None => Change::Remove { queue, shelf, number: 1 },
                }
            }
            8 => Change::Position { queue, stream: dice.below(4), seq: dice.below(100) },
            9 => Change::ForgetPosition { queue, stream: dice.below(4) },
            10 => {
                let id = Arc::from(dice.below(1000).to_le_bytes());
                // Later each time, as the core's clock goes.
                let until_millis = 2000 + self.seen.len() as i64;
                Change::Seen { queue, uid: 7, id, until_millis }
            }
            _ => {
                let length = usize::try_from(dice.below(bytes_max)).expect("small");
                let byte = u8::try_from(dice.below(256)).expect("a byte");
                let uid = u32::try_from(dice.below(3)).expect("small");
                let from = Sender { name: "dice".into(), uid, pid: 1 };
                let record = if shelf == Shelf::Dead { dead("", None) } else { record("") };
                let record = Record { bytes: vec![byte; length].into(), from, ..record };
                put(queue, shelf, dice.below(40), record)
            }
        }
    }
}
