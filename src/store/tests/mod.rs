//! A store by itself: what is kept comes back, what is damaged does not, and what a batch is.

mod basics;

mod model;

mod power;

mod records;

mod sheets;

use super::{Store, StoreOptions};
use crate::core::durable::{Change, Obituary, QueueNumber, Record, Sender, Shelf};
use std::sync::Arc;

/// A store's options with little cache, and a clock that stands at 1000.
fn options() -> StoreOptions {
    StoreOptions { cache_bytes: 1 << 20, clock: || 1000 }
}

fn record(text: &str) -> Record {
    Record {
        bytes: text.as_bytes().into(),
        priority: 4,
        attempts: 1,
        since_millis: 2,
        due_millis: 3,
        expires_millis: -4,
        from: Sender { name: "camera".into(), uid: 5, pid: 6 },
        topic: "".into(),
        dead: None,
    }
}

fn dead(text: &str, by: Option<Sender>) -> Record {
    let dead = Obituary { cause: "rejected".into(), reason: "too \u{e9}arly".into(), when: 7, by };
    Record { dead: Some(dead), topic: "a.b".into(), ..record(text) }
}

fn put(queue: QueueNumber, shelf: Shelf, number: u64, record: Record) -> Change {
    Change::Put { queue, shelf, number, record: Arc::new(record) }
}

fn named(queue: QueueNumber, name: &str) -> Change {
    Change::Queue { queue, name: name.into(), settings: Arc::from(&b"settings"[..]) }
}

fn remove(queue: QueueNumber, shelf: Shelf, number: u64) -> Change {
    Change::Remove { queue, shelf, number }
}

/// Texts and numbers of a shelf.
fn shelf(store: &Store, queue: QueueNumber, shelf: Shelf) -> Vec<(u64, String)> {
    let loaded = store.load(queue, shelf, None, usize::MAX, usize::MAX).expect("readable");
    assert!(loaded.damaged.is_empty());
    let text = |record: &Record| String::from_utf8(record.bytes.to_vec()).expect("text");
    loaded.records.iter().map(|(number, record)| (*number, text(record))).collect()
}
