//! The broker's outside: sockets, descriptors, timers, signals and files around the core.
//!
//! The shell turns what the kernel reports into events for the core, carries out the core's actions, and
//! decides nothing that a client could notice as a rule. One thread owns the core and all sockets;
//! what could keep it waiting happens on others.
//!
//! # Layout
//!
//! * [`serve`] starts and ends a broker; `broker` puts its parts together.
//! * [`socket`]: the path, the lock and the listening socket; `systemd`: those that a service manager made.
//! * `accept`, `opening`: taking connections in, and finding out what they speak; `peer`: who they are.
//! * `session`: reading; `watch`: what sockets are watched for; `settle`: carrying out actions and writing; `socket_io`: one `recvmsg`, one `sendmsg`.
//! * `proxy`: reading rings for those who cannot; `counters`: what rings say about themselves.
//! * `store`: queues on disk. `routes`: workers of routes.
//! * `wait`, `signals`, `clock`, `workers`, `descriptors`, `open_files`: as they are called.

pub mod socket;

mod systemd;

mod bulk;

mod broker;

mod accept;

mod opening;

mod peer;

mod session;

mod watch;

mod settle;

mod socket_io;

mod proxy;

mod counters;

mod wait;

mod signals;

mod clock;

mod workers;

mod retain;

mod store;

mod routes;

mod descriptors;

mod open_files;

pub use opening::{First, first};

use crate::config::{Config, Overrides};
use crate::routes::Routes;
use socket::{Access, BoundSocket, SocketError};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::{Builder, LocalOptions};

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no socket to listen on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The service manager passed something that the broker cannot listen on.
    #[error("{0}")]
    Activation(String),
    /// This kernel lacks something that rings need.
    #[error("this kernel, or the sandbox around this process, lacks {0}; Tramline needs Linux 5.5 or later")]
    Kernel(String),
    /// The broker met a state that it holds to be impossible; what it said before tells more.
    #[error("the broker failed and ends")]
    Failed,
    /// Queues are to be kept on disk, and cannot be.
    #[error("queues cannot be kept on disk: {0}")]
    Store(String),
    /// A queue of the configuration cannot be made.
    #[error("queue {0}")]
    Queue(String),
    /// Routes of the configuration cannot be carried out.
    #[error("routes cannot be carried out: {0}")]
    Routes(String),
    /// A service of the configuration cannot be.
    #[error("a service cannot be: {0}")]
    Service(String),
    /// The system refused something.
    #[error("the broker cannot {0}: {1}")]
    System(&'static str, std::io::Error),
}

/// Runs a broker until it is asked to stop (SIGTERM or SIGINT). On SIGHUP it reads the configuration again, as `overrides`
/// say where it is; what that may change are `allow`, `topics`, `queues` and routes. `listening` is called with the socket's path as soon as
/// clients can connect to it.
///
/// Blocks. Takes over the signals of this process.
///
/// # Errors
/// When it cannot start.
pub fn serve(
    config: Config,
    routes: Arc<Routes>,
    overrides: Overrides,
    listening: impl FnOnce(&Path),
) -> Result<(), ServeError> {
    let missing = tramline_ring::missing_features();
    if !missing.is_empty() {
        return Err(ServeError::Kernel(missing.join(", ")));
    }
    open_files::raise_limit(config.limits.connections_max);
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())
        .map_err(|error| ServeError::System("start its event loop", error))?;
    let (bound, listener) = listener(&config)?;
    let address = listener.local_addr().ok();
    let ready = || {
        if let Some(path) = address.as_ref().and_then(|address| address.as_pathname()) {
            listening(path);
        }
    };
    let ended = runtime.block_on(broker::serve((config, routes), overrides, listener, ready));
    drop(bound);
    ended
}

/// The socket that the service manager passed, or else one of the broker's own.
fn listener(config: &Config) -> Result<(Option<BoundSocket>, UnixListener), ServeError> {
    if let Some(listener) = systemd::activated().map_err(ServeError::Activation)? {
        return Ok((None, listener));
    }
    let runtime_directory = std::env::var_os(tramline_wire::path::RUNTIME_DIRECTORY_VARIABLE);
    let candidates = tramline_wire::path::candidates(
        config.socket.path.as_deref(),
        None,
        runtime_directory.as_deref().map(Path::new),
        rustix::process::geteuid().as_raw(),
    );
    let access = Access { mode: config.socket.mode, group: config.socket.group };
    let (bound, listener) = BoundSocket::bind(&candidates, access)?;
    Ok((Some(bound), listener))
}
