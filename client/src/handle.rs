//! What keeps a client alive: held by the client, its publishers and its subscriptions. When the last of
//! them goes, what waits is written out, the connection is closed and the background thread ends.

use crate::background;
use crate::builder::Options;
use crate::clock::deadline_after;
use crate::error::{Error, Result};
use crate::reactor::lock;
use crate::shared::Shared;
use crate::socket::Socket;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the last handle waits for the broker to take what was published.
const LINGER: Duration = Duration::from_secs(2);

pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    /// Connects and waits until the session is open; then a thread of its own drives it.
    pub(crate) fn connect(options: Options, candidates: &[PathBuf]) -> Result<Arc<Self>> {
        let (path, socket) = find(candidates, |path| Socket::connect_within(path, options.request_timeout))?;
        Self::open(options, path, socket)
    }

    /// As [`Self::connect`], on a socket that is connected already.
    #[cfg(test)]
    pub(crate) fn over(options: Options, socket: Socket) -> Result<Arc<Self>> {
        Self::open(options, PathBuf::new(), socket)
    }

    fn open(options: Options, path: PathBuf, socket: Socket) -> Result<Arc<Self>> {
        let shared = Shared::new(options)?;
        Self::greet(&shared, path, socket)?;
        let timeout = shared.options.request_timeout;
        let opened = shared.wait_until(deadline_after(timeout), || opened(&shared))?;
        opened.ok_or(Error::TimedOut { what: "greeting from the broker", after: timeout })?;
        let thread = background::spawn(&shared)?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// As [`Self::connect`], up to the greeting and without a thread: somebody else drives.
    #[cfg(feature = "tokio")]
    pub(crate) fn begin(options: Options, candidates: &[PathBuf]) -> Result<Arc<Self>> {
        let shared = Shared::new(options)?;
        let (path, socket) = find(candidates, Socket::connect)?;
        Self::greet(&shared, path, socket)?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(None) }))
    }

    fn greet(shared: &Shared, path: PathBuf, socket: Socket) -> Result<()> {
        *lock(&shared.path) = path;
        shared.begin(&mut lock(&shared.inbound), socket)
    }
}

/// Whether the session is open, or why it will not be.
pub(crate) fn opened(shared: &Shared) -> Result<Option<()>> {
    let mut session = lock(&shared.session);
    if session.greeting.is_some() {
        return Ok(Some(()));
    }
    session.failure.take().map_or(Ok(None), Err)
}

/// Connects to the first candidate at which somebody listens.
fn find(
    candidates: &[PathBuf],
    connect: impl Fn(&Path) -> std::io::Result<Socket>,
) -> Result<(PathBuf, Socket)> {
    let mut last = None;
    for path in candidates {
        match connect(path) {
            Ok(socket) => return Ok((path.clone(), socket)),
            // Denied, or too many wait already: a broker is there, and another one further down is not meant.
            Err(source) if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::WouldBlock) => {
                return Err(Error::Connect { path: path.clone(), source });
            }
            Err(source) => last = Some((path.clone(), source)),
        }
    }
    match (last, candidates.len()) {
        (Some((path, source)), 1) => Err(Error::Connect { path, source }),
        _ => Err(Error::NoBroker { tried: candidates.to_vec() }),
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let shared = &self.shared;
        if shared.check_process().is_err() {
            // The parent's connection is not this process's to close, and its rings are not mapped here.
            std::mem::forget(Arc::clone(shared));
            return;
        }
        let thread = lock(&self.thread).take();
        let has_thread = thread.is_some();
        if has_thread {
            // Without a thread this is an async client's, which must not wait here.
            let _ = shared.wait_until(deadline_after(LINGER), || {
                let mut outbound = lock(&shared.outbound);
                shared.write_out(&mut outbound);
                Ok((!outbound.open || outbound.waiting_bytes() == 0).then_some(()))
            });
        }
        shared.closing.store(true, Ordering::Release);
        shared.reactor.background.raise();
        shared.reactor.kick();
        shared.reactor.changed();
        if let Some(thread) = thread {
            // It ends at the next look; a panic in it was reported when it happened.
            let _ = thread.join();
        }
        if has_thread {
            shared.lost(&mut lock(&shared.inbound), Error::Closed);
        } else {
            // The driving task writes out what is left, and then does the same.
            shared.flush_now();
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}
