//! The store on a thread of its own: what the core wants to have kept or read, in the order in which it asked.
//!
//! There is a file, and a thread, once a queue is to be kept on disk, and not before. It is opened when the broker starts
//! if the configuration has such a queue, or the file is there; else when the first such queue is declared. Nothing here
//! knows what a queue is.

use super::broker::{Shell, State};
use super::{ServeError, clock};
use crate::config::Config;
use crate::core::durable::{Change, QueueNumber, Record, Shelf, StoreFailure, StoredQueue, Written};
use crate::core::{Action, Durability, Snapshot};
use crate::store::{Compacted, Opened, Store, StoreOptions};
use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// The file's name where only a folder is known.
const FILE: &str = "queues.store";

/// After how long without anything to do the file is looked at, and compacted if that is worth it.
const QUIET: Duration = Duration::from_secs(30);

/// What the thread is to do.
#[derive(Debug)]
enum Job {
    Store { batch: u64, changes: Vec<Change> },
    Load { load: u64, queue: QueueNumber, shelf: Shelf, after: u64, messages_max: usize, bytes_max: usize },
}

/// The number of a job.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Store(u64),
    Load(u64),
}

impl Job {
    fn name(&self) -> Asked {
        match self {
            Self::Store { batch, .. } => Asked::Store(*batch),
            Self::Load { load, .. } => Asked::Load(*load),
        }
    }
}

/// What it has done.
#[derive(Debug)]
pub(super) enum Done {
    Stored { batch: u64, result: Result<Written, StoreFailure> },
    Loaded { load: u64, result: Result<Vec<(u64, Record)>, StoreFailure> },
}

/// The thread, or where its file would be.
#[derive(Debug)]
pub(super) struct Keeper {
    path: Result<PathBuf, String>,
    jobs: RefCell<Option<(mpsc::Sender<Job>, JoinHandle<()>)>>,
    done: UnboundedSender<Done>,
}

impl Keeper {
    /// Opens the store if there is something to be kept, or was; with what it holds.
    ///
    /// # Errors
    /// When a queue is to be kept and the file cannot be opened.
    pub(super) fn start(
        settings: &Config,
        done: UnboundedSender<Done>,
    ) -> Result<(Self, Vec<StoredQueue>, QueueNumber), ServeError> {
        let needed = settings.queues.iter().any(|queue| queue.durability == Durability::Disk);
        let path = place(settings.store.path.as_deref(), |name| std::env::var_os(name));
        let mut keeper = Self { path, jobs: RefCell::new(None), done };
        let there = keeper.path.as_ref().is_ok_and(|path| path.exists());
        if !needed && !there {
            return Ok((keeper, Vec::new(), 0));
        }
        let path = keeper.path.clone().map_err(ServeError::Store)?;
        let (store, opened) = match open(&path) {
            Ok(opened) => opened,
            Err(message) if needed || settings.store.path.is_some() => {
                return Err(ServeError::Store(message));
            }
            Err(message) => {
                // It may be that of another broker of this user.
                tracing::warn!("{message}; there are no queues on disk");
                keeper.path = Err(message);
                return Ok((keeper, Vec::new(), 0));
            }
        };
        let Opened { queues, last_queue, report } = opened;
        tracing::info!("{report}");
        for damage in &report.damaged {
            tracing::error!("{}: {damage}", path.display());
        }
        keeper.run(move || Ok(store)).map_err(|error| ServeError::System("start its threads", error))?;
        Ok((keeper, queues, last_queue))
    }

    fn run(
        &self,
        store: impl FnOnce() -> Result<Store, String> + Send + 'static,
    ) -> Result<(), std::io::Error> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let done = self.done.clone();
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            let mut store = store();
            loop {
                let job = match jobs.recv_timeout(QUIET) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        compact(&mut store);
                        // Nothing more to do until somebody asks.
                        let Ok(job) = jobs.recv() else { return };
                        job
                    }
                };
                let asked = job.name();
                // Whoever waits for an answer gets one.
                let worked = std::panic::catch_unwind(AssertUnwindSafe(|| work(&mut store, job)));
                let answer = worked.unwrap_or_else(|_| {
                    let message = "the store failed; the broker's log says more".to_owned();
                    store = Err(message.clone());
                    failed(asked, message)
                });
                if done.send(answer).is_err() {
                    return;
                }
            }
        })?;
        *self.jobs.borrow_mut() = Some((sender, thread));
        Ok(())
    }

    fn ask(&self, job: Job) {
        if self.jobs.borrow().is_none() {
            let path = self.path.clone();
            let opened = self.run(move || {
                let (store, opened) = open(&path?)?;
                tracing::info!("{}", opened.report);
                Ok(store)
            });
            if let Err(error) = opened {
                tracing::error!("the store has no thread: {error}");
                let message = format!("there is no thread for the store: {error}");
                let failed = failed(job.name(), message);
                let _ = self.done.send(failed);
                return;
            }
        }
        if let Some((jobs, _)) = &*self.jobs.borrow() {
            jobs.send(job).expect("the store's thread lives as long as its sender");
        }
    }

    /// The file, as it is shown.
    pub(super) fn shown(&self) -> Option<String> {
        let open = self.jobs.borrow().is_some();
        self.path.as_ref().ok().filter(|_| open).map(|path| path.display().to_string())
    }

    /// Lets the store end. Blocks until the file is closed.
    pub(super) fn end(&self) {
        if let Some((jobs, thread)) = self.jobs.borrow_mut().take() {
            drop(jobs);
            if thread.join().is_err() {
                tracing::error!("the store's thread failed");
            }
        }
    }
}

/// Gives room back to the disk, if there is much of it.
fn compact(store: &mut Result<Store, String>) {
    let Ok(store) = store else { return };
    if !store.wants_compaction() {
        return;
    }
    match store.compact() {
        Ok(Compacted { before_bytes, after_bytes, took }) => {
            tracing::info!("the store was compacted from {before_bytes} to {after_bytes} bytes in {took:?}");
        }
        Err(failure) => tracing::error!("the store was not compacted: {}", failure.message),
    }
}

fn work(store: &mut Result<Store, String>, job: Job) -> Done {
    let store = match store {
        Ok(store) => store,
        Err(message) => return failed(job.name(), message.clone()),
    };
    match job {
        Job::Store { batch, changes } => {
            let result = store.commit(&changes).map(|committed| Written {
                nanos: u64::try_from(committed.fsync.as_nanos()).unwrap_or(u64::MAX),
                file_bytes: store.size().map_or(0, |size| size.file_bytes),
            });
            Done::Stored { batch, result }
        }
        Job::Load { load, queue, shelf, after, messages_max, bytes_max } => {
            let result = store.load(queue, shelf, Some(after), messages_max, bytes_max.max(1));
            let result = result.map(|loaded| {
                for damage in &loaded.damaged {
                    tracing::error!("{damage}");
                }
                loaded.records
            });
            Done::Loaded { load, result }
        }
    }
}

fn failed(asked: Asked, message: String) -> Done {
    let failure = StoreFailure { full: false, message };
    match asked {
        Asked::Store(batch) => Done::Stored { batch, result: Err(failure) },
        Asked::Load(load) => Done::Loaded { load, result: Err(failure) },
    }
}

/// The variable by which a service manager names a folder for state.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// Where the file is: as configured, or in the folder for state that is named first.
fn place(configured: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, String> {
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    let named = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // A service may have several, with a colon between them.
    let own = named(STATE_DIRECTORY).and_then(|all| {
        let first = all.to_str()?.split(':').next()?.to_owned();
        Some(PathBuf::from(first))
    });
    let user = named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")));
    own.or_else(|| Some(user?.join("tramline"))).map(|folder| folder.join(FILE)).ok_or_else(|| {
        "there is no place for queues on disk: store.path names one, or STATE_DIRECTORY, XDG_STATE_HOME or HOME do"
            .to_owned()
    })
}

fn open(path: &Path) -> Result<(Store, Opened), String> {
    if let Some(folder) = path.parent().filter(|folder| folder.ends_with("tramline") && !folder.exists()) {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| format!("cannot make the folder {} for the store: {error}", folder.display()))?;
    }
    Store::open(path, &StoreOptions::default()).map_err(|error| error.to_string())
}

impl Shell {
    /// What the broker is doing, with what only the shell knows.
    pub(super) fn snapshot(&self, state: &mut State) -> Snapshot {
        let mut snapshot = state.snapshot();
        snapshot.store.file = self.keeper.shown();
        snapshot
    }

    /// Has the store do something.
    pub(super) fn ask_store(&self, action: Action) {
        match action {
            Action::Store { batch, changes } => self.keeper.ask(Job::Store { batch, changes }),
            Action::Load { load, queue, shelf, after, messages_max, bytes_max } => {
                self.keeper.ask(Job::Load { load, queue, shelf, after, messages_max, bytes_max });
            }
            _ => {}
        }
    }

    /// Gives the core what the store has done. Never returns before the broker ends.
    pub(super) async fn take_stored(self: Rc<Self>, mut done: UnboundedReceiver<Done>) {
        while let Some(done) = done.recv().await {
            let mut state = self.state.borrow_mut();
            match done {
                Done::Stored { batch, result } => state.core.stored(batch, result, clock::now()),
                Done::Loaded { load, result } => state.core.loaded(load, result, clock::now()),
            }
            drop(state);
            self.settle_soon();
            self.all_gone.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_where_it_was_said_or_in_the_first_folder_for_state_that_is_named() {
        let with = |named: &'static [(&str, &str)]| {
            move |name: &str| named.iter().find(|(of, _)| *of == name).map(|(_, value)| value.into())
        };
        let found = |configured, named| place(configured, with(named)).map(|path| path.display().to_string());
        const ALL: &[(&str, &str)] =
            &[("STATE_DIRECTORY", "/s:/t"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(found(Some(Path::new("/a/b")), ALL), Ok("/a/b".to_owned()));
        assert_eq!(found(None, ALL), Ok("/s/queues.store".to_owned()));
        assert_eq!(found(None, &ALL[1..]), Ok("/x/tramline/queues.store".to_owned()));
        assert_eq!(found(None, &ALL[2..]), Ok("/h/.local/state/tramline/queues.store".to_owned()));
        assert!(found(None, &[("HOME", "relative")]).unwrap_err().contains("store.path"));
    }
}
