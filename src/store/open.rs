//! Opening a store: the file below it, what is found in it, and what is said about that.

use super::disk::{Disk, Firm, Watch, Watched};
use super::keys::{self, META};
use super::overlay::Overlay;
use super::scan::{self, Damage};
use super::{OpenError, Size, Store, place, record};
use crate::core::durable::{Change, QueueNumber, StoredQueue};
use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, TableError};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The version of everything in the file but redb's own.
const FORMAT: u64 = 1;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// How much of the file is kept in memory, in bytes.
    pub cache_bytes: usize,
    /// Tells the time, in milliseconds since 1970, by which ids are forgotten.
    pub clock: fn() -> i64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, clock: system_millis }
    }
}

fn system_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What was found in a store.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// Every queue whose name is known, by its number.
    pub queues: Vec<StoredQueue>,
    /// The highest number that a queue has in the file, also if its name is damaged; 0 if there is none.
    pub last_queue: QueueNumber,
    /// The same in figures.
    pub report: Report,
}

/// What opening a store found, as told to an operator by its `Display`.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Whether there was none.
    pub made: bool,
    /// How many queues it holds.
    pub queues: u64,
    /// How many messages, dead letters included.
    pub messages: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// Whether it was not closed the last time, and its trees were read and checked for that.
    pub repaired: bool,
    /// What is damaged, at most [`DAMAGES_MAX`](super::DAMAGES_MAX).
    pub damaged: Vec<Damage>,
    /// How much is damaged.
    pub damages: u64,
    /// How large the file is.
    pub size: Size,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queues, messages, bytes, .. } = self;
        let path = self.path.display();
        if self.made {
            return write!(f, "the store {path} is new");
        }
        write!(f, "the store {path} has {queues} queues with {messages} messages of {bytes} bytes")?;
        if self.repaired {
            f.write_str("; it was not closed the last time and has been checked")?;
        }
        if self.damages > 0 {
            write!(
                f,
                "; {} entries are damaged and left out, see `tramline store check {path}`",
                self.damages
            )?;
        }
        write!(f, "; opened in {} ms", self.took.as_millis())
    }
}

/// Opens the same file again and again, for as long as its lock is held.
pub(super) struct Medium {
    path: PathBuf,
    open: Box<dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send>,
    /// The file itself, unless it is one of a test's.
    file: Option<File>,
}

impl fmt::Debug for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Medium({})", self.path.display())
    }
}

impl Medium {
    /// A file that is locked already. The lock ends with the last of its descriptors.
    pub(super) fn of_file(path: &Path, file: File) -> Self {
        let kept = file.try_clone().ok();
        let open = move || Ok(Box::new(Disk(file.try_clone()?)) as Box<dyn StorageBackend>);
        Self { path: path.to_owned(), open: Box::new(open), file: kept }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn size(&self) -> io::Result<Size> {
        let Some(file) = &self.file else {
            let bytes = (self.open)()?.len()?;
            return Ok(Size { file_bytes: bytes, disk_bytes: bytes });
        };
        let stat = file.metadata()?;
        Ok(Size { file_bytes: stat.len(), disk_bytes: stat.blocks() * 512 })
    }

    /// How much room the disk has.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(self.file.as_ref()?).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    /// Opens the file to be written. The last says whether it had not been closed and was repaired.
    pub(super) fn open(&self, options: &StoreOptions) -> Result<(Database, Watch, bool), DatabaseError> {
        let (watched, watch) = Watched::new((self.open)()?)?;
        let (database, repaired) = database(watched, options)?;
        Ok((database, watch, repaired))
    }

    /// Opens the file as it was when it was last whole on disk, to be read only.
    pub(super) fn as_it_was(&self, firm: &Firm, options: &StoreOptions) -> Result<Database, DatabaseError> {
        Ok(database(Overlay::as_it_was((self.open)()?, firm)?, options)?.0)
    }
}

fn database(backend: impl StorageBackend, options: &StoreOptions) -> Result<(Database, bool), DatabaseError> {
    let repaired = Arc::new(AtomicBool::new(false));
    let note = repaired.clone();
    let database = Builder::new()
        .set_cache_size(options.cache_bytes)
        .set_repair_callback(move |_| note.store(true, Ordering::Relaxed))
        .create_with_backend(backend)?;
    Ok((database, repaired.load(Ordering::Relaxed)))
}

/// A number that the file says of itself.
pub(super) fn number(database: &Database, key: u128) -> Result<Option<u64>, redb::Error> {
    let meta = match database.begin_read()?.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(value) = meta.get(key)? else { return Ok(None) };
    let number = record::number(key, value.value());
    number.map(Some).map_err(|wrong| redb::Error::Corrupted(format!("what it says of itself: {wrong}")))
}

/// How many bytes a change brings.
pub(super) fn bytes_of(change: &Change) -> u64 {
    match change {
        Change::Put { record, .. } => record::encoded_bytes(record) as u64,
        _ => 0,
    }
}

impl Store {
    /// Opens what is on a medium, which is empty if it was just `made`.
    pub(super) fn open_on(
        medium: Medium,
        options: &StoreOptions,
        made: bool,
    ) -> Result<(Self, Opened), OpenError> {
        let begun = Instant::now();
        let path = medium.path.clone();
        let damaged =
            |error: &dyn fmt::Display| OpenError::Damaged { path: path.clone(), error: error.to_string() };
        let (database, watch, repaired) = match medium.open(options) {
            Ok(opened) => opened,
            // An error that redb made up says that the file is none of its own.
            Err(DatabaseError::Storage(redb::StorageError::Io(error))) if error.raw_os_error().is_some() => {
                return Err(place::refused("open", &path, error));
            }
            Err(error) => return Err(damaged(&error)),
        };
        let format = number(&database, keys::META_FORMAT).map_err(|error| damaged(&error))?;
        if let Some(found) = format.filter(|found| *found != FORMAT) {
            return Err(OpenError::Format { path, found, known: FORMAT });
        }
        let commits = number(&database, keys::META_COMMITS).map_err(|error| damaged(&error))?;
        let reading = database.begin_read().map_err(|error| damaged(&error))?;
        let scan = scan::scan(&reading, (options.clock)()).map_err(|error| damaged(&error))?;
        drop(reading);
        let mut store = Self {
            medium,
            options: options.clone(),
            database: Some(database),
            watch,
            trouble: None,
            commits: commits.unwrap_or(0),
            scratch: Vec::new(),
        };
        if format.is_none() {
            store.begin(FORMAT).map_err(|error| {
                let error = io::Error::other(error.to_string());
                place::refused("begin", &path, error)
            })?;
        }
        let last_queue = scan.queues.last_key_value().map_or(0, |(number, _)| *number);
        let queues: Vec<_> = scan.queues.into_values().filter(|queue| !queue.name.is_empty()).collect();
        let report = Report {
            made,
            queues: queues.len() as u64,
            messages: queues.iter().flat_map(StoredQueue::stocks).map(|stock| stock.messages).sum(),
            bytes: queues.iter().flat_map(StoredQueue::stocks).map(|stock| stock.bytes).sum(),
            repaired,
            damaged: scan.damaged,
            damages: scan.damages,
            size: store.medium.size().unwrap_or_default(),
            took: begun.elapsed(),
            path,
        };
        Ok((store, Opened { queues, last_queue, report }))
    }
}
