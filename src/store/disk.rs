//! What lies below redb: a file, watched. The watch knows how long the last sync took, which call failed and why, and how
//! the file began when it was last known to be on disk, so that this state can still be read when writing has failed.

use redb::StorageBackend;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Everything by which redb tells which tree is the valid one lies in the first page; the rest is only ever written where
/// nothing valid is.
const HEAD_BYTES: usize = 4096;

/// A file as redb sees it. Locking is done when the file is opened, for as long as it is open.
#[derive(Debug)]
pub(super) struct Disk(pub(super) File);

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
}

/// What was being done when something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    Write,
    Resize,
    Sync,
}

/// The first failure since the file was opened.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) call: Call,
    pub(super) full: bool,
    pub(super) error: String,
}

/// How the file was when all of it was last known to be on disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Firm {
    pub(super) head: Vec<u8>,
    pub(super) len: u64,
}

#[derive(Debug, Default)]
struct Seen {
    firm: Firm,
    coming: Firm,
    fault: Option<Fault>,
    syncs: u64,
    syncing: Duration,
    written: u64,
}

/// What was seen of the calls to a file.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first failure since the file was opened, if there was one.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.seen().fault.clone()
    }

    /// How the file was when all of it was last known to be on disk.
    pub(super) fn firm(&self) -> Firm {
        self.seen().firm.clone()
    }

    /// How often and how long the file was synced, and how many bytes were written, since it was opened.
    pub(super) fn cost(&self) -> (u64, Duration, u64) {
        let seen = self.seen();
        (seen.syncs, seen.syncing, seen.written)
    }

    fn note<T>(&self, call: Call, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let full = matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT));
            let fault = Fault { call, full, error: error.to_string() };
            self.seen().fault.get_or_insert(fault);
        }
        result
    }
}

/// A file whose calls are watched.
#[derive(Debug)]
pub(super) struct Watched {
    below: Box<dyn StorageBackend>,
    watch: Watch,
}

impl Watched {
    /// Watches a file from now on, as it is now.
    pub(super) fn new(below: Box<dyn StorageBackend>) -> io::Result<(Self, Watch)> {
        let len = below.len()?;
        let mut head = vec![0; usize::try_from(len).unwrap_or(HEAD_BYTES).min(HEAD_BYTES)];
        below.read(0, &mut head)?;
        let firm = Firm { head, len };
        let seen = Seen { coming: firm.clone(), firm, ..Seen::default() };
        let watch = Watch(Arc::new(Mutex::new(seen)));
        Ok((Self { below, watch: watch.clone() }, watch))
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.watch.note(Call::Read, self.below.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.watch.note(Call::Read, self.below.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.watch.note(Call::Resize, self.below.set_len(len))?;
        self.watch.seen().coming.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let begun = Instant::now();
        self.watch.note(Call::Sync, self.below.sync_data())?;
        let mut seen = self.watch.seen();
        seen.firm = seen.coming.clone();
        seen.syncs += 1;
        seen.syncing += begun.elapsed();
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.watch.note(Call::Write, self.below.write(offset, bytes))?;
        let mut seen = self.watch.seen();
        seen.written += bytes.len() as u64;
        if let Some(from) = usize::try_from(offset).ok().filter(|from| *from < HEAD_BYTES) {
            let to = HEAD_BYTES.min(from + bytes.len());
            let head = &mut seen.coming.head;
            if head.len() < to {
                head.resize(to, 0);
            }
            head[from..to].copy_from_slice(&bytes[..to - from]);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.below.close()
    }
}
