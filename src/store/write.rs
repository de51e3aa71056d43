//! Writing a batch: one transaction, its changes in the order in which they come.

use super::Store;
use super::failure::guarded;
use super::keys::{self, DONE, MESSAGES, META, POSITIONS, QUEUES, SEEN, SHEETS};
use super::record::{self, RECORD_BYTES_MAX};
use super::shelves::{Shelves, Taken};
use crate::core::durable::{Change, StoreFailure};
use redb::{ReadableTable, WriteTransaction};

/// How many ids whose time is over are forgotten in one batch at most, beyond as many as it brings.
const FORGOTTEN_MAX: usize = 64;

impl Store {
    /// Writes a batch. Without an error it is on disk.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), redb::Error> {
        let Self { database, options, commits, live_bytes, coming_live_bytes, scratch, .. } = self;
        guarded(|| {
            let writing = database.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_write()?;
            let change = fill(&writing, changes, *commits + 1, (options.clock)(), scratch)?;
            *coming_live_bytes = (*live_bytes + change.more).saturating_sub(change.less);
            writing.commit()?;
            Ok(())
        })
    }

    /// Says in a new file what it is.
    pub(super) fn begin(&mut self, format: u64) -> Result<(), redb::Error> {
        let database = self.database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let writing = database.begin_write()?;
        record::encode_number(keys::META_FORMAT, format, &mut self.scratch);
        writing.open_table(META)?.insert(keys::META_FORMAT, self.scratch.as_slice())?;
        // So that they are there to be read.
        writing.open_table(MESSAGES)?;
        writing.open_table(SHEETS)?;
        writing.open_table(DONE)?;
        writing.open_table(QUEUES)?;
        writing.open_table(POSITIONS)?;
        writing.open_table(SEEN)?;
        writing.commit()?;
        Ok(())
    }

    /// What a batch holds that no file could.
    pub(super) fn too_large(&self, changes: &[Change]) -> Option<StoreFailure> {
        let largest = changes
            .iter()
            .filter_map(|change| match change {
                Change::Put { record, .. } => Some(record::encoded_bytes(record)),
                Change::Queue { name, settings, .. } => Some(name.len() + settings.len()),
                _ => None,
            })
            .max()?;
        (largest > RECORD_BYTES_MAX).then(|| {
            self.failure(
                false,
                &format!("a message of {largest} bytes is too large; it takes {RECORD_BYTES_MAX}"),
            )
        })
    }
}

fn fill(
    writing: &WriteTransaction,
    changes: &[Change],
    number: u64,
    now_millis: i64,
    scratch: &mut Vec<u8>,
) -> Result<Taken, redb::Error> {
    let mut shelves = Shelves::open(writing)?;
    let mut queues = writing.open_table(QUEUES)?;
    let mut positions = writing.open_table(POSITIONS)?;
    let mut seen = writing.open_table(SEEN)?;
    let mut brought = 0;
    for change in changes {
        match change {
            Change::Queue { queue, name, settings } => {
                let key = u128::from(*queue);
                record::encode_queue(key, name, settings, scratch);
                queues.insert(key, scratch.as_slice())?;
            }
            Change::Forget { queue } => {
                queues.remove(u128::from(*queue))?;
                shelves.forget(*queue)?;
                positions.retain_in(keys::positions_of(*queue), |_, _| false)?;
                seen.retain(|key, _| keys::seen_parts(key).is_none_or(|(_, of, ..)| of != *queue))?;
            }
            Change::Put { queue, shelf, number, record } => {
                shelves.put(keys::message(*queue, *shelf, *number), record)?;
            }
            Change::Remove { queue, shelf, number } => {
                shelves.remove(keys::message(*queue, *shelf, *number))?;
            }
            Change::RemoveRange { queue, shelf, first, last } => {
                if first <= last {
                    let [first, last] = [first, last].map(|number| keys::message(*queue, *shelf, *number));
                    shelves.remove_range(first..=last)?;
                }
            }
            Change::Seen { queue, uid, id, until_millis } => {
                let key = keys::seen(*until_millis, *queue, *uid, id);
                record::encode_seen(&key, scratch);
                seen.insert(key.as_slice(), scratch.as_slice())?;
                brought += 1;
            }
            Change::Position { queue, stream, seq } => {
                let key = keys::position(*queue, *stream);
                record::encode_number(key, *seq, scratch);
                positions.insert(key, scratch.as_slice())?;
            }
            Change::ForgetPosition { queue, stream } => {
                positions.remove(keys::position(*queue, *stream))?;
            }
        }
    }
    for _ in 0..brought + FORGOTTEN_MAX {
        let over = seen.first()?.is_some_and(|(key, _)| {
            keys::seen_parts(key.value()).is_none_or(|(until, ..)| until <= now_millis)
        });
        if !over {
            break;
        }
        seen.pop_first()?;
    }
    record::encode_number(keys::META_COMMITS, number, scratch);
    writing.open_table(META)?.insert(keys::META_COMMITS, scratch.as_slice())?;
    shelves.end()
}
