//! What goes wrong with a store: when it is opened, one kind of error for the person who starts the broker; later, one for
//! the core. And what a store does when it happened.

use super::disk::{Call, Fault};
use super::{Store, keys, open};
use crate::core::durable::{Change, StoreFailure};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store {} is in use ({}): stop that, or name another file", path.display(), who(*pid))]
    Taken {
        /// The file.
        path: PathBuf,
        /// The other process, as far as it is known.
        pid: Option<u32>,
    },
    /// The file or its directory is not as it must be.
    #[error("{} {wrong}: correct that, or name another file for the store", path.display())]
    Place {
        /// The file, or the directory.
        path: PathBuf,
        /// What is wrong with it, as the end of a sentence.
        wrong: &'static str,
    },
    /// There is no such directory.
    #[error("the directory {} for the store is missing: make it with: mkdir -m 700 {}", path.display(), path.display())]
    NoFolder {
        /// The directory.
        path: PathBuf,
    },
    /// A later program made it.
    #[error("the store {} has format {found}, and this program knows format {known}: use the program that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format in the file.
        found: u64,
        /// The latest one known here.
        known: u64,
    },
    /// It is no store, or too much of it is not as it was written.
    #[error(
        "the store {} cannot be opened ({error}): see what can be saved with `tramline store check {}`; to begin with an empty one, move the file away",
        path.display(), path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the words of whoever found it.
        error: String,
    },
    /// The system refused something.
    #[error("cannot {what} {}: {error}", path.display())]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
}

fn who(pid: Option<u32>) -> String {
    pid.map_or_else(|| "by a process that is not known".to_owned(), |pid| format!("by process {pid}"))
}

/// Runs what calls redb, which says of itself that it may panic on a file that somebody else has changed.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(redb::Error::Corrupted(format!("its pages are not as they were written ({text})")))
    })
}

/// What must be free besides a batch, in bytes: pages are written anew from the changed one up to the root.
const ROOM_BYTES: u64 = 1 << 20;

impl Store {
    pub(super) fn failure(&self, full: bool, what: &str) -> StoreFailure {
        StoreFailure { full, message: format!("the store {}: {what}", self.medium.path().display()) }
    }

    pub(super) fn unreadable(&self, error: &redb::Error) -> StoreFailure {
        let error = self.watch.fault().map_or_else(|| error.to_string(), |fault| fault.error);
        self.failure(false, &format!("cannot be read: {error}"))
    }

    /// Whether the disk has room for a batch by now.
    pub(super) fn has_room(&self, changes: &[Change]) -> bool {
        let bytes: u64 = changes.iter().map(open::bytes_of).sum();
        // If nobody knows, trying tells.
        self.medium.free_bytes().is_none_or(|free| free >= 2 * bytes + ROOM_BYTES)
    }

    /// Does what a failed batch calls for. Comes back without an error if the batch turns out to be there after all.
    pub(super) fn failed(&mut self, error: &redb::Error) -> Result<(), StoreFailure> {
        let Some(fault) = self.watch.fault() else {
            // Nothing happened to the file: what was asked cannot be, or redb is at odds with itself.
            let failure = self.failure(false, &format!("a batch cannot be written: {error}"));
            return Err(self.give_up(failure));
        };
        let Fault { call, full, error } = fault;
        let what = match call {
            Call::Read => "reading",
            Call::Write => "writing",
            Call::Resize => "making the file larger",
            Call::Sync => "fsync",
        };
        if full && call != Call::Sync {
            let failure = self.failure(true, &format!("the disk is full ({what} failed: {error})"));
            let before = self.commits;
            if self.reopen().is_ok() && self.commits > before {
                // The first write of the batch to fail came after the last that mattered.
                self.commits = before;
                return Ok(());
            }
            self.trouble = Some(failure.clone());
            return Err(failure);
        }
        // After a failed fsync the kernel may have dropped what it could not write and call the rest written: only what
        // was on disk before is certain.
        let after = "until it is opened again nothing is kept, and only what was kept before is read";
        let failure = self.failure(false, &format!("{what} failed: {error}; {after}"));
        Err(self.give_up(failure))
    }

    /// Takes no more batches, and reads only what was certainly on disk.
    fn give_up(&mut self, failure: StoreFailure) -> StoreFailure {
        self.database = None;
        self.database = self.medium.as_it_was(&self.watch.firm(), &self.options).ok();
        self.trouble = Some(failure.clone());
        failure
    }

    /// Opens the file anew after the disk was full.
    pub(super) fn reopen(&mut self) -> Result<(), StoreFailure> {
        self.database = None;
        let firm = self.watch.firm();
        let again = self.medium.open(&self.options);
        match again.map_err(|error| error.to_string()).and_then(|(database, watch, _)| {
            let commits = open::number(&database, keys::META_COMMITS).map_err(|error| error.to_string())?;
            Ok((database, watch, commits.unwrap_or(0)))
        }) {
            Ok((database, watch, commits)) => {
                (self.database, self.watch, self.commits) = (Some(database), watch, commits);
                Ok(())
            }
            Err(error) => {
                self.database = self.medium.as_it_was(&firm, &self.options).ok();
                Err(self.failure(true, &format!("cannot be opened again: {error}")))
            }
        }
    }
}
