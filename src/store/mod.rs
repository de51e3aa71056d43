//! Keeps durable queues on disk: batches of [`Change`], each whole or not at all, in order, behind one sync each.
//!
//! It knows files and bytes, and nothing of sessions, consumers or time that passes; whoever calls it waits for the disk.
//! Below is redb; its name does not leave this folder. What the file promises is in docs/store.md.

mod check;

mod compact;

mod disk;

#[cfg(test)]
pub(crate) mod faults;

mod failure;

mod gather;

mod keys;

mod open;

mod overlay;

mod place;

mod record;

mod scan;

mod sheet;

mod shelf;

mod shelves;

mod write;

pub use check::{Check, Found, check};
pub use compact::{COMPACT_FREE_BYTES_MIN, COMPACT_LIVE_BYTES_MAX, Compacted};
pub use failure::OpenError;
pub use open::{Opened, Report, StoreOptions};
pub use record::{RECORD_BYTES_MAX, Wrong, read_and_write, readable};
pub use scan::{DAMAGES_MAX, Damage, Kept};

use crate::core::durable::{Change, QueueNumber, Record, Shelf, StoreFailure};
use disk::Watch;
use open::Medium;
use redb::{Database, ReadableDatabase};
use std::path::Path;
use std::time::Duration;

/// An open store. One process has a file at a time, and one thread a store.
#[derive(Debug)]
pub struct Store {
    medium: Medium,
    options: StoreOptions,
    /// Missing while there is nothing that could be read.
    database: Option<Database>,
    watch: Watch,
    trouble: Option<StoreFailure>,
    /// How many batches the file holds as far as is known.
    commits: u64,
    /// How many bytes what is kept takes in the file at least.
    live_bytes: u64,
    /// The same as it will be with the batch that is being written.
    coming_live_bytes: u64,
    /// Where values are put together.
    scratch: Vec<u8>,
}

/// What a batch cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// How long the disk took to say that it has everything.
    pub fsync: Duration,
    /// How many bytes went to the file.
    pub written_bytes: u64,
}

/// Messages of a shelf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Each with its number, in that order.
    pub records: Vec<(u64, Record)>,
    /// What lies between them and is not as it was written.
    pub damaged: Vec<Damage>,
}

/// How large the file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// As `ls -l` shows it.
    pub file_bytes: u64,
    /// What it takes on the disk.
    pub disk_bytes: u64,
}

impl Store {
    /// Opens a store, which is made if there is none, and reads it once.
    ///
    /// # Errors
    /// When the file cannot be had, when another process has it, or when it is not one of ours. Nothing is moved or
    /// replaced then.
    pub fn open(path: &Path, options: &StoreOptions) -> Result<(Self, Opened), OpenError> {
        Self::open_held(path, options, place::Way::Write)
    }

    /// Makes a store where there is none.
    ///
    /// # Errors
    /// As [`Store::open`], and when the file is there.
    pub fn create(path: &Path, options: &StoreOptions) -> Result<(Self, Opened), OpenError> {
        Self::open_held(path, options, place::Way::New)
    }

    fn open_held(path: &Path, options: &StoreOptions, way: place::Way) -> Result<(Self, Opened), OpenError> {
        let place::Held { file, made } = place::open(path, way)?;
        let opened = Self::open_on(Medium::File(path.to_owned(), file), options, made.is_some())?;
        if let Some(made) = made {
            place::give_name(&made, path)?;
        }
        Ok(opened)
    }

    /// Keeps a batch, in this order, as a whole. When this returns without an error it is on disk.
    ///
    /// # Errors
    /// When it was not kept; nothing of it was. After a failure that is not [`full`](StoreFailure::full) every further
    /// batch is refused, until the store has been opened again; what was kept before can be read still.
    pub fn commit(&mut self, changes: &[Change]) -> Result<Committed, StoreFailure> {
        if let Some(failure) = self.too_large(changes) {
            return Err(failure);
        }
        if let Some(trouble) = &self.trouble {
            if !trouble.full || !self.has_room(changes) {
                return Err(trouble.clone());
            }
            if self.watch.fault().is_some() || self.database.is_none() {
                self.reopen()?;
            }
        }
        let (_, syncing, written) = self.watch.cost();
        match self.write(changes) {
            Ok(()) => {}
            Err(error) => self.failed(&error)?,
        }
        self.trouble = None;
        self.commits += 1;
        self.live_bytes = self.coming_live_bytes;
        let (_, syncing_now, written_now) = self.watch.cost();
        Ok(Committed {
            fsync: syncing_now.saturating_sub(syncing),
            written_bytes: written_now.saturating_sub(written),
        })
    }

    /// Reads messages of a shelf in order of their number, from the first one behind `after` on: at most `messages_max`,
    /// and no further one once they have `bytes_max` bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn load(
        &self,
        queue: QueueNumber,
        shelf: Shelf,
        after: Option<u64>,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Loaded, StoreFailure> {
        let mut loaded = Loaded::default();
        let first = match after {
            None => 0,
            Some(u64::MAX) => return Ok(loaded),
            Some(after) => after + 1,
        };
        let range = keys::message(queue, shelf, first)..=keys::message(queue, shelf, u64::MAX);
        let (mut bytes, into) = (0, &mut loaded);
        let read = || -> Result<(), redb::Error> {
            let database = self.database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
            shelf::each(&database.begin_read()?, range, &mut |key, value| {
                if into.records.len() >= messages_max || bytes >= bytes_max {
                    return false;
                }
                let number = keys::message_parts(key).map_or(0, |(.., number)| number);
                match record::view(key, value) {
                    Ok(view) => {
                        bytes += view.bytes.len();
                        into.records.push((number, view.to_record()));
                    }
                    Err(wrong) => {
                        let what = Kept::Message(queue, shelf, number);
                        into.damaged.push(Damage { what, wrong });
                    }
                }
                true
            })
        };
        match failure::guarded(read) {
            Ok(()) => Ok(loaded),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    /// How large the file is.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn size(&self) -> Result<Size, StoreFailure> {
        self.medium.size().map_err(|error| self.failure(false, &format!("cannot look at the file: {error}")))
    }

    /// What stands in the way of the next batch, if something does.
    #[must_use]
    pub fn trouble(&self) -> Option<&StoreFailure> {
        self.trouble.as_ref()
    }
}

#[cfg(test)]
mod tests;
