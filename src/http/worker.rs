//! The HTTP thread: takes connections over from the socket and from the loopback listener, serves a
//! limited number of them at a time, and ends those that take too long.
//!
//! It knows nothing of pages. A connection holds one of [`CONNECTIONS_MAX`] places; who gets none waits in the
//! listener's backlog, or is turned away by [`Worker::serve`].

use super::SnapshotSource;
use super::page::{self, Door};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// HTTP connections served at a time, from the socket and the port together.
pub const CONNECTIONS_MAX: usize = 16;

/// Connections from the socket that may wait for a place.
pub const CONNECTIONS_WAITING_MAX: usize = 16;

/// Longest request line and headers together, in bytes.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Most headers of a request.
pub const HEADERS_MAX: usize = 64;

/// How long a request's headers may take, and a connection may be idle, in milliseconds.
pub const HEADER_MILLIS_MAX: u64 = 10_000;

/// How long one connection may last in all, in milliseconds.
pub const CONNECTION_MILLIS_MAX: u64 = 60_000;

/// How long open requests may take to end when the broker stops, in milliseconds.
pub const STOP_MILLIS_MAX: u64 = 1_000;

/// How long the listener pauses after it could not accept, in milliseconds: out of descriptors passes.
const ACCEPT_PAUSE_MILLIS: u64 = 100;

/// The HTTP thread, as its owner sees it.
#[derive(Debug)]
pub struct Worker {
    handed: mpsc::Sender<UnixStream>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
    listens_on: Option<SocketAddr>,
}

impl Worker {
    /// Binds the loopback port, if one is given, and starts the thread.
    ///
    /// # Errors
    /// When the address is not loopback, is taken, or the thread cannot be made.
    pub fn start(listen: Option<SocketAddr>, source: SnapshotSource) -> io::Result<Self> {
        let listener = listen.map(bind).transpose()?;
        let listens_on = listener.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (handed, taken) = mpsc::channel(CONNECTIONS_WAITING_MAX);
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || runtime.block_on(run(taken, listener, source, stopped)))?;
        Ok(Self { handed, stop, thread, listens_on })
    }

    /// Takes over a connection, nothing of which has been read. Does not block.
    ///
    /// # Errors
    /// Gives the stream back when [`CONNECTIONS_WAITING_MAX`] are waiting already, or it cannot be used.
    pub fn serve(&self, stream: UnixStream) -> Result<(), UnixStream> {
        if stream.set_nonblocking(true).is_err() {
            return Err(stream);
        }
        self.handed.try_send(stream).map_err(|full| match full {
            mpsc::error::TrySendError::Full(stream) | mpsc::error::TrySendError::Closed(stream) => stream,
        })
    }

    /// The loopback address with its port as bound.
    #[must_use]
    pub fn listens_on(&self) -> Option<SocketAddr> {
        self.listens_on
    }

    /// Ends the thread: requests under way get [`STOP_MILLIS_MAX`]. Blocks for that long at most.
    pub fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the HTTP thread had ended in a panic");
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    if !address.ip().is_loopback() {
        let sentence = format!("http.listen is {address}, which is not a loopback address");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
    }
    let listener = std::net::TcpListener::bind(address)
        .map_err(|error| io::Error::new(error.kind(), format!("http.listen {address}: {error}")))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn run(
    mut taken: mpsc::Receiver<UnixStream>,
    listener: Option<std::net::TcpListener>,
    source: SnapshotSource,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = match listener.map(TcpListener::from_std).transpose() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the HTTP port cannot be served; the socket still is");
            None
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let arrived = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => break,
            arrived = arrive(&places, &mut taken, listener.as_ref()) => arrived,
        };
        match arrived {
            Arrived::Nothing => break,
            Arrived::Failed(error) => {
                tracing::warn!(%error, "an HTTP connection could not be taken; trying again");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MILLIS)).await;
            }
            Arrived::Socket(place, stream) => {
                let connection = serve_connection(stream, Door::Socket, source.clone(), stopped.clone());
                tokio::spawn(hold(place, connection));
            }
            Arrived::Port(place, stream) => {
                let connection = serve_connection(stream, Door::Port, source.clone(), stopped.clone());
                tokio::spawn(hold(place, connection));
            }
        }
    }
    // Every connection holds a place; all places back means that all have ended.
    let all = u32::try_from(CONNECTIONS_MAX).expect("a small number");
    drop(tokio::time::timeout(Duration::from_millis(STOP_MILLIS_MAX), places.acquire_many(all)).await);
}

enum Arrived {
    Socket(OwnedSemaphorePermit, tokio::net::UnixStream),
    Port(OwnedSemaphorePermit, TcpStream),
    Failed(io::Error),
    /// Nobody is left to hand connections over.
    Nothing,
}

/// Waits for a place, then for a connection to put there.
async fn arrive(
    places: &Arc<Semaphore>,
    taken: &mut mpsc::Receiver<UnixStream>,
    listener: Option<&TcpListener>,
) -> Arrived {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    tokio::select! {
        handed = taken.recv() => {
            let Some(stream) = handed else { return Arrived::Nothing };
            match tokio::net::UnixStream::from_std(stream) {
                Ok(stream) => Arrived::Socket(place, stream),
                Err(error) => Arrived::Failed(error),
            }
        }
        accepted = accept(listener) => match accepted {
            Ok(stream) => Arrived::Port(place, stream),
            Err(error) => Arrived::Failed(error),
        },
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// Keeps the place until the connection has ended.
async fn hold(place: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(place);
}

/// Serves one connection to its end. Runs on any tokio runtime with time; the worker calls it for each.
///
/// The connection ends when the client closes it, breaks a limit of this module, or `stopped` becomes true
/// and the request under way is answered.
pub async fn serve_connection<Io>(
    io: Io,
    door: Door,
    source: SnapshotSource,
    mut stopped: watch::Receiver<bool>,
) where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let answer = service_fn(|request: Request<Incoming>| {
        let source = source.clone();
        async move { Ok::<Response<Full<Bytes>>, Infallible>(page::answer(&request, door, &source).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEADER_MILLIS_MAX))
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(io), answer);
    let mut connection = std::pin::pin!(connection);
    let whole = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            _ = stopped.wait_for(|stop| *stop) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.as_mut().await
    };
    match tokio::time::timeout(Duration::from_millis(CONNECTION_MILLIS_MAX), whole).await {
        Ok(Ok(())) => {}
        // What clients do wrong is theirs; hyper has answered where an answer was possible.
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection ended early"),
        Err(_) => tracing::debug!("an HTTP connection lasted {CONNECTION_MILLIS_MAX} ms and was closed"),
    }
}
