//! Giving room back to the disk: a file only grows by itself, and what is free in it is used again but not given back.

use super::Store;
use super::failure::guarded;
use crate::core::durable::StoreFailure;
use std::time::{Duration, Instant};

/// How much must be free in the file before it is worth moving what is not, in bytes.
pub const COMPACT_FREE_BYTES_MIN: u64 = 64 << 20;
/// How much may be moved at most, in bytes: all of it is written anew, and nothing else is kept meanwhile.
pub const COMPACT_LIVE_BYTES_MAX: u64 = 256 << 20;
/// Of the file at most one in so many bytes may be in use; freshly written pages are little more than half full.
const LIVE_SHARE: u64 = 4;

/// What compacting came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// What the file took on the disk before, in bytes.
    pub before_bytes: u64,
    /// What it takes now.
    pub after_bytes: u64,
    /// How long it took.
    pub took: Duration,
}

impl Store {
    /// How many bytes the kept messages take in the file at least.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Whether compacting is worth it by now: at least [`COMPACT_FREE_BYTES_MIN`] and three quarters of the file are free, and
    /// what is left to move is at most [`COMPACT_LIVE_BYTES_MAX`]. Asks the system for the file's size and no more.
    #[must_use]
    pub fn wants_compaction(&self) -> bool {
        let disk_bytes = self.size().map_or(0, |size| size.disk_bytes);
        self.trouble.is_none()
            && self.live_bytes <= COMPACT_LIVE_BYTES_MAX
            && self.live_bytes.saturating_mul(LIVE_SHARE) < disk_bytes
            && disk_bytes - self.live_bytes >= COMPACT_FREE_BYTES_MIN
    }

    /// Moves what is kept to the front of the file and gives the rest back to the disk. It takes as long as writing all of it
    /// a few times over; a power cut meanwhile loses nothing.
    ///
    /// # Errors
    /// As [`Store::commit`], and when the store refuses batches already.
    pub fn compact(&mut self) -> Result<Compacted, StoreFailure> {
        if let Some(trouble) = &self.trouble {
            return Err(trouble.clone());
        }
        let begun = Instant::now();
        let before_bytes = self.size()?.disk_bytes;
        let database = self.database.as_mut();
        let compacted = guarded(|| {
            database.ok_or(redb::Error::DatabaseClosed)?.compact()?;
            Ok(())
        });
        if let Err(error) = compacted {
            self.failed(&error)?;
        }
        Ok(Compacted { before_bytes, after_bytes: self.size()?.disk_bytes, took: begun.elapsed() })
    }
}
