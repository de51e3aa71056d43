//! How a client is to be: where its broker is, what it calls itself, how it waits.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::handle::Handle;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tramline_wire::limits::NAME_BYTES_MAX;
use tramline_wire::path::{Place, RUNTIME_DIRECTORY_VARIABLE, SOCKET_VARIABLE, candidates};

/// Payloads from this size on open a ring by themselves unless told otherwise.
const RING_PAYLOAD_BYTES_MIN: usize = 32 * 1024;

/// How long a request may take unless told otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) spin: Duration,
    pub(crate) ring_payload_bytes_min: usize,
    pub(crate) reconnect: bool,
    pub(crate) request_timeout: Duration,
}

impl Options {
    /// Where to look for the broker, best first.
    pub(crate) fn candidates(&self) -> Vec<PathBuf> {
        let variable = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
        let directory = std::env::var_os(RUNTIME_DIRECTORY_VARIABLE).map(PathBuf::from);
        let uid = rustix::process::geteuid().as_raw();
        let found = candidates(self.socket.as_deref(), variable.as_deref(), directory.as_deref(), uid);
        found
            .into_iter()
            .filter(|candidate| candidate.place != Place::Temporary || is_own_directory(&candidate.path, uid))
            .map(|candidate| candidate.path)
            .collect()
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.name.len() > NAME_BYTES_MAX {
            return Err(Error::over("name_bytes_max", NAME_BYTES_MAX, self.name.len()));
        }
        Ok(())
    }
}

/// Anybody can make a directory in /tmp: only one that is this user's alone is trusted.
fn is_own_directory(socket: &Path, uid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Some(directory) = socket.parent() else { return false };
    std::fs::symlink_metadata(directory)
        .is_ok_and(|it| it.is_dir() && it.uid() == uid && it.mode() & 0o077 == 0)
}

/// How a client is to be. Made by [`Client::builder`].
#[must_use = "nothing happens before connect()"]
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    pub(crate) options: Options,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        let name = std::env::current_exe()
            .ok()
            .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
            .map_or_else(|| "client".to_owned(), |name| name.chars().take(16).collect());
        let options = Options {
            name,
            socket: None,
            spin: tramline_ring::wait::SPIN_DEFAULT,
            ring_payload_bytes_min: RING_PAYLOAD_BYTES_MIN,
            reconnect: true,
            request_timeout: REQUEST_TIMEOUT,
        };
        Self { options }
    }
}

impl ClientBuilder {
    /// What the client calls itself, for people; up to 64 bytes. The program's name unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = name.into();
        self
    }

    /// The broker's socket. Unless set it is `TRAMLINE_SOCKET`, or the first of these at which a broker
    /// listens: `$XDG_RUNTIME_DIR/tramline/tramline.sock`, `/run/user/UID/tramline/tramline.sock`,
    /// `/run/tramline/tramline.sock`, `/tmp/tramline-UID/tramline.sock`.
    pub fn socket(mut self, path: impl AsRef<Path>) -> Self {
        self.options.socket = Some(path.as_ref().to_owned());
        self
    }

    /// How long a waiting thread looks again (yielding the core each time) after the last message before it
    /// sleeps: 100 µs unless set. Zero always sleeps; [`Duration::MAX`] never does. On a single core it
    /// always sleeps.
    pub fn spin(mut self, spin: Duration) -> Self {
        self.options.spin = spin;
        self
    }

    /// From how many bytes on a payload given to [`Client::publish`] goes through a ring that is opened for
    /// its topic by itself: 32 KiB unless set.
    pub fn ring_payload_bytes_min(mut self, bytes: usize) -> Self {
        self.options.ring_payload_bytes_min = bytes;
        self
    }

    /// Whether a lost connection is restored, with growing pauses of up to two seconds: yes unless set.
    /// Without it subscriptions end when the connection is lost.
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.options.reconnect = reconnect;
        self
    }

    /// How long a request to the broker, or room for a published message, is waited for: 10 s unless set.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// Connects. Blocks until the broker has greeted.
    ///
    /// # Errors
    /// [`Error::Connect`] or [`Error::NoBroker`] when nobody listens, a refusal by the broker, or no
    /// greeting within the request timeout.
    pub fn connect(self) -> Result<Client> {
        self.options.check()?;
        let candidates = self.options.candidates();
        Ok(Client { handle: Handle::connect(self.options, &candidates)? })
    }
}
