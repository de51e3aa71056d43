//! A new store that takes what was found in a broken one.

use crate::core::durable::Change;
use crate::store::{OpenError, Store, StoreOptions, place};
use std::io;
use std::path::{Path, PathBuf};

/// How much is written at once, in entries and bytes.
const BATCH_MAX: usize = 4096;
const BATCH_BYTES_MAX: u64 = 16 << 20;

pub(super) struct Salvage {
    path: PathBuf,
    store: Store,
    batch: Vec<Change>,
    bytes: u64,
    saved: u64,
}

impl Salvage {
    /// Makes the new file, which must not be there.
    pub(super) fn begin(path: &Path) -> Result<Self, OpenError> {
        let (store, _) = Store::create(path, &StoreOptions::default())?;
        Ok(Self { path: path.to_owned(), store, batch: Vec::new(), bytes: 0, saved: 0 })
    }

    pub(super) fn add(&mut self, change: Change) -> Result<(), OpenError> {
        self.bytes += crate::store::open::bytes_of(&change);
        self.batch.push(change);
        if self.batch.len() >= BATCH_MAX || self.bytes >= BATCH_BYTES_MAX {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), OpenError> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        self.saved += batch.len() as u64;
        let failed = |error: String| place::refused("write", &self.path, io::Error::other(error));
        self.store.commit(&batch).map(|_| ()).map_err(|failure| failed(failure.message))
    }

    /// Writes the rest. Says how much was saved.
    pub(super) fn end(mut self) -> Result<u64, OpenError> {
        self.write()?;
        Ok(self.saved)
    }
}
