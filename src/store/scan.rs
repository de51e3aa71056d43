//! Reads a whole store once: what there is, counted, and what is damaged, named.

use super::keys::{self, DONE, MESSAGES, POSITIONS, QUEUES, SEEN, SHEETS};
use super::record::{self, Wrong};
use super::sheet::Sheet;
use super::shelves::{done_of, taken};
use crate::core::durable::{QueueNumber, Shelf, Stock, StoredQueue};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, TableError};
use std::collections::BTreeMap;
use std::fmt;

/// How many damaged things are named; the rest is counted.
pub const DAMAGES_MAX: usize = 1000;

/// Something in the file that is not as it was written. It is left where it is and given to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What it is, or was.
    pub what: Kept,
    /// What is wrong.
    pub wrong: Wrong,
}

/// A thing in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// A message, with its queue, shelf and number.
    Message(QueueNumber, Shelf, u64),
    /// What says where the messages of a sheet are, which begins with this one. They were searched for.
    Sheet(QueueNumber, Shelf, u64),
    /// What says which messages of a sheet are done. None counts as done then.
    Done(QueueNumber, Shelf, u64),
    /// A queue's name and settings.
    Queue(QueueNumber),
    /// How far a stream was read for a queue.
    Position(QueueNumber, u64),
    /// An id that was seen.
    Seen(QueueNumber),
    /// Something whose key says nothing.
    Unknown(&'static str),
}

impl Kept {
    pub(super) fn sheet(key: u128) -> Self {
        keys::message_parts(key)
            .map_or(Self::Unknown("sheets"), |(queue, shelf, number)| Self::Sheet(queue, shelf, number))
    }

    pub(super) fn done(key: u128) -> Self {
        keys::message_parts(key)
            .map_or(Self::Unknown("done"), |(queue, shelf, number)| Self::Done(queue, shelf, number))
    }
}

/// Where a message is, in words.
struct Place(QueueNumber, Shelf, u64);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(queue, shelf, number) = self;
        match shelf {
            Shelf::Waiting(priority) => write!(f, "message {number} of priority {priority} in queue {queue}"),
            Shelf::Delayed => write!(f, "delayed message {number} of queue {queue}"),
            Shelf::Dead => write!(f, "dead letter {number} of queue {queue}"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Kept::Message(queue, shelf, number) => Place(*queue, *shelf, *number).fmt(f)?,
            Kept::Sheet(queue, shelf, number) => {
                write!(f, "the sheet that begins with {}", Place(*queue, *shelf, *number))?;
            }
            Kept::Done(queue, shelf, number) => {
                write!(f, "what is done of the sheet that begins with {}", Place(*queue, *shelf, *number))?;
            }
            Kept::Queue(queue) => write!(f, "name and settings of queue {queue}")?,
            Kept::Position(queue, stream) => write!(f, "position of queue {queue} in stream {stream:016x}")?,
            Kept::Seen(queue) => write!(f, "an id that queue {queue} has seen")?,
            Kept::Unknown(table) => write!(f, "an entry of the table {table}")?,
        }
        write!(f, ": {}", self.wrong)
    }
}

/// What a store holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) queues: BTreeMap<QueueNumber, StoredQueue>,
    pub(super) damaged: Vec<Damage>,
    /// How much is damaged, named or not.
    pub(super) damages: u64,
    /// How many bytes the messages take in the file at least.
    pub(super) live_bytes: u64,
}

impl Scan {
    fn damage(&mut self, what: Kept, wrong: Wrong) {
        self.damages += 1;
        if self.damaged.len() < DAMAGES_MAX {
            self.damaged.push(Damage { what, wrong });
        }
    }

    fn queue(&mut self, queue: QueueNumber) -> &mut StoredQueue {
        self.queues.entry(queue).or_insert_with(|| StoredQueue { queue, ..StoredQueue::default() })
    }
}

/// A table, or nothing if nobody has written to it yet.
fn table<K: redb::Key, V: redb::Value>(
    reading: &ReadTransaction,
    definition: TableDefinition<'static, K, V>,
) -> Result<Option<ReadOnlyTable<K, V>>, redb::Error> {
    match reading.open_table(definition) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads everything. Ids that count no more at `now_millis` are left out.
pub(super) fn scan(reading: &ReadTransaction, now_millis: i64) -> Result<Scan, redb::Error> {
    let mut scan = Scan::default();
    if let Some(queues) = table(reading, QUEUES)? {
        for entry in queues.iter()? {
            let (key, value) = entry?;
            let key = key.value();
            let Ok(queue) = QueueNumber::try_from(key) else {
                scan.damage(Kept::Unknown("queues"), Wrong::Key);
                continue;
            };
            match record::queue(key, value.value()) {
                Ok((name, settings)) => {
                    let found = scan.queue(queue);
                    (found.name, found.settings) = (name, settings);
                }
                Err(wrong) => scan.damage(Kept::Queue(queue), wrong),
            }
        }
    }
    messages(reading, &mut scan)?;
    if let Some(positions) = table(reading, POSITIONS)? {
        for entry in positions.iter()? {
            let (key, value) = entry?;
            match (keys::position_parts(key.value()), record::number(key.value(), value.value())) {
                (None, _) => scan.damage(Kept::Unknown("positions"), Wrong::Key),
                (Some((queue, stream)), Ok(seq)) => scan.queue(queue).positions.push((stream, seq)),
                (Some((queue, stream)), Err(wrong)) => scan.damage(Kept::Position(queue, stream), wrong),
            }
        }
    }
    if let Some(seen) = table(reading, SEEN)? {
        for entry in seen.iter()? {
            let (key, value) = entry?;
            match (keys::seen_parts(key.value()), record::seen(key.value(), value.value())) {
                (None, _) => scan.damage(Kept::Unknown("seen"), Wrong::Key),
                (Some((until, queue, uid, id)), Ok(())) if until > now_millis => {
                    // That of a queue which is gone counts no more.
                    if let Some(found) = scan.queues.get_mut(&queue) {
                        found.seen.push((uid, id.into(), until));
                    }
                }
                (Some(_), Ok(())) => {}
                (Some((_, queue, ..)), Err(wrong)) => scan.damage(Kept::Seen(queue), wrong),
            }
        }
    }
    Ok(scan)
}

fn messages(reading: &ReadTransaction, scan: &mut Scan) -> Result<(), redb::Error> {
    let [messages, sheets, done] = [MESSAGES, SHEETS, DONE].map(|definition| table(reading, definition));
    let (Some(messages), Some(sheets), Some(done)) = (messages?, sheets?, done?) else { return Ok(()) };
    let mut users: BTreeMap<(QueueNumber, u32), Stock> = BTreeMap::new();
    for entry in messages.iter()? {
        let (key, value) = entry?;
        scan.live_bytes += taken(value.value());
        message(key.value(), value.value(), &mut users, scan);
    }
    for entry in sheets.iter()? {
        let (key, value) = entry?;
        scan.live_bytes += taken(value.value());
        let key = key.value();
        let sheet = Sheet::read(key, value.value());
        let (done, wrong) = done_of(key, &sheet, &done, &messages)?;
        if let Some(wrong) = sheet.wrong {
            scan.damage(Kept::sheet(key), wrong);
        }
        if let Some(wrong) = wrong {
            scan.damage(Kept::done(key), wrong);
        }
        for (key, value) in sheet.left(&done) {
            message(key, value, &mut users, scan);
        }
    }
    for ((queue, user), stock) in users {
        scan.queue(queue).by_user.push((user, stock));
    }
    Ok(())
}

fn message(key: u128, value: &[u8], users: &mut BTreeMap<(QueueNumber, u32), Stock>, scan: &mut Scan) {
    let Some((queue, shelf, number)) = keys::message_parts(key) else {
        return scan.damage(Kept::Unknown("messages"), Wrong::Key);
    };
    match record::view(key, value) {
        Ok(view) => {
            let bytes = view.bytes.len() as u64;
            let user = users.entry((queue, view.uid)).or_default();
            user.messages += 1;
            user.bytes += bytes;
            let stock = scan.queue(queue).stock_mut(shelf);
            stock.messages += 1;
            stock.bytes += bytes;
            stock.last = stock.last.max(number);
        }
        Err(wrong) => scan.damage(Kept::Message(queue, shelf, number), wrong),
    }
}
