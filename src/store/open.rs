//! Opening a store: the file below it, what is found in it, and what is said about that.

use super::disk::{Disk, Firm, Watch, Watched};
use super::failure::guarded;
use super::gather::Gather;
use super::keys::{self, META};
use super::overlay::Overlay;
use super::scan::{self, Damage};
use super::{OpenError, Size, Store, place, record};
use crate::core::durable::{Change, QueueNumber, StoredQueue};
use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError, TableError};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The version of everything in the file but redb's own.
pub(super) const FORMAT: u64 = 2;

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
    /// How many more there are in queues whose name is damaged, so that nobody can ask for them.
    pub nameless: u64,
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
        if self.nameless > 0 {
            write!(f, "; {} more are in queues whose name is damaged", self.nameless)?;
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

/// What the store lies on, opened again and again for as long as its lock is held.
#[derive(Debug)]
pub(super) enum Medium {
    /// A file that is locked already. The lock ends with the last of its descriptors.
    File(PathBuf, File),
    /// A disk of a test.
    #[cfg(test)]
    Platter(super::faults::Platter),
}

impl Medium {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(path, _) => path,
            #[cfg(test)]
            Self::Platter(_) => Path::new("/a/test's/disk"),
        }
    }

    fn backend(&self) -> io::Result<Box<dyn StorageBackend>> {
        match self {
            Self::File(_, file) => Ok(Box::new(Disk(file.try_clone()?))),
            #[cfg(test)]
            Self::Platter(platter) => Ok(platter.backend()),
        }
    }

    pub(super) fn size(&self) -> io::Result<Size> {
        match self {
            Self::File(_, file) => {
                let stat = file.metadata()?;
                Ok(Size { file_bytes: stat.len(), disk_bytes: stat.blocks() * 512 })
            }
            #[cfg(test)]
            Self::Platter(platter) => {
                Ok(Size { file_bytes: platter.len()?, disk_bytes: platter.taken_bytes() })
            }
        }
    }

    /// How much room the disk has, if anybody knows.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        match self {
            Self::File(_, file) => {
                let stat = rustix::fs::fstatvfs(file).ok()?;
                stat.f_bavail.checked_mul(stat.f_frsize)
            }
            #[cfg(test)]
            Self::Platter(platter) => platter.free_bytes(),
        }
    }

    /// Opens the file to be written. The last says whether it had not been closed and was repaired.
    pub(super) fn open(&self, options: &StoreOptions) -> Result<(Database, Watch, bool), DatabaseError> {
        let (watched, watch) = Watched::new(self.backend()?)?;
        let (database, repaired) = database(Gather::new(watched), options)?;
        Ok((database, watch, repaired))
    }

    /// Opens the file as it was when it was last whole on disk, to be read only.
    pub(super) fn as_it_was(&self, firm: &Firm, options: &StoreOptions) -> Result<Database, DatabaseError> {
        Ok(database(Overlay::as_it_was(self.backend()?, firm)?, options)?.0)
    }
}

/// Opens a file over memory that takes what is written.
pub(super) fn looked_at(file: File, verified: bool) -> Result<Database, DatabaseError> {
    let over = Overlay::new(Box::new(Disk(file)))?;
    Builder::new()
        .set_cache_size(StoreOptions::default().cache_bytes)
        .set_check_integrity_on_open(verified)
        .create_with_backend(over)
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
        let path = medium.path().to_owned();
        let damaged =
            |error: &dyn fmt::Display| OpenError::Damaged { path: path.clone(), error: error.to_string() };
        let mut fault = None;
        let opened = guarded(|| {
            let opened = medium.open(options);
            Ok(match opened {
                // An error that redb made up says that the file is none of its own.
                Err(DatabaseError::Storage(StorageError::Io(error))) if error.raw_os_error().is_some() => {
                    fault = Some(error);
                    None
                }
                opened => Some(opened?),
            })
        });
        let (database, watch, repaired) = match (opened, fault) {
            (_, Some(error)) => return Err(place::refused("open", &path, error)),
            (Ok(Some(opened)), _) => opened,
            (Ok(None), _) => return Err(damaged(&"no reason given")),
            (Err(error), _) => return Err(damaged(&error)),
        };
        let read = guarded(|| {
            let [format, commits] = [keys::META_FORMAT, keys::META_COMMITS].map(|key| number(&database, key));
            let (format, commits) = (format?, commits?);
            let known = format.is_none_or(|format| format == FORMAT);
            let scan = known.then(|| scan::scan(&database.begin_read()?, (options.clock)())).transpose()?;
            Ok((format, commits, scan))
        });
        let (format, commits, scan) = read.map_err(|error| damaged(&error))?;
        let Some(scan) = scan else {
            return Err(OpenError::Format { path, found: format.unwrap_or(0), known: FORMAT });
        };
        let mut store = Self {
            medium,
            options: options.clone(),
            database: Some(database),
            watch,
            trouble: None,
            commits: commits.unwrap_or(0),
            live_bytes: scan.live_bytes,
            coming_live_bytes: scan.live_bytes,
            scratch: Vec::new(),
        };
        if format.is_none() {
            store.begin(FORMAT).map_err(|error| {
                let error = io::Error::other(error.to_string());
                place::refused("begin", &path, error)
            })?;
        }
        let last_queue = scan.queues.last_key_value().map_or(0, |(number, _)| *number);
        let (queues, nameless): (Vec<_>, Vec<_>) =
            scan.queues.into_values().partition(|queue| !queue.name.is_empty());
        let messages = |queues: &[StoredQueue]| -> u64 {
            queues.iter().flat_map(StoredQueue::stocks).map(|stock| stock.messages).sum()
        };
        let report = Report {
            made,
            queues: queues.len() as u64,
            messages: messages(&queues),
            nameless: messages(&nameless),
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
