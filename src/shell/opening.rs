//! The first bytes of a connection: which language it speaks, and whether it is let in.
//!
//! The first byte is looked at without taking it, because HTTP is handed to another thread with all its
//! bytes. Whoever says nothing is let go when `limits.first_byte_timeout_millis` have passed. Whoever is refused
//! gets the reason in the language it speaks.

use super::accept::Place;
use super::broker::Shell;
use super::session::{Session, converse};
use super::{clock, peer, socket_io};
use crate::core::{Language, Peer, Refusal};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tramline_wire::preamble::{self, PREAMBLE_BYTES};
use tramline_wire::{Code, ToClient};

/// What somebody is told who speaks none of the languages.
const UNKNOWN_LANGUAGE: &[u8] =
    b"This is a Tramline broker. It speaks JSON lines (try {\"op\":\"help\"}), HTTP (GET /status), and its own frames.\n";

/// What a connection's first byte says about its language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// A preamble, then frames.
    Native,
    /// JSON lines.
    Json,
    /// A request of HTTP.
    Http,
    /// No language that is spoken here.
    Other(u8),
}

/// The language that begins with this byte.
#[must_use]
pub const fn first(byte: u8) -> First {
    match byte {
        preamble::FIRST_BYTE => First::Native,
        b'{' | b' ' | b'\t' | b'\r' | b'\n' => First::Json,
        letter if letter.is_ascii_alphabetic() => First::Http,
        other => First::Other(other),
    }
}

/// Finds out who connected and what it speaks, and serves it until it has ended.
pub(super) async fn open(shell: Rc<Shell>, connection: UnixStream, _place: Place) {
    let open_by =
        Instant::now() + Duration::from_millis(shell.settings.limits.first_byte_timeout_millis.into());
    let peer = match peer::peer(&connection, !shell.state.borrow().core.access().groups.is_empty()) {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!("a connection without credentials was closed: {error}"),
    };
    let socket = connection;
    let first = tokio::time::timeout_at(open_by, first_byte(&socket)).await.unwrap_or(None);
    match first {
        Some(First::Native) => native(&shell, peer, socket, open_by).await,
        Some(First::Json) => serve(&shell, peer, socket, Language::Json, open_by).await,
        Some(First::Http) => http(&shell, &peer, socket),
        Some(First::Other(byte)) => {
            tracing::debug!(
                pid = peer.pid,
                uid = peer.uid,
                byte,
                "a connection in an unknown language was closed"
            );
            say_last(&shell, &socket, UNKNOWN_LANGUAGE);
        }
        None => {
            tracing::debug!(pid = peer.pid, uid = peer.uid, "a connection without a first byte was closed");
        }
    }
}

/// `None`: it has ended before it began.
async fn first_byte(socket: &UnixStream) -> Option<First> {
    let mut byte = [0_u8];
    loop {
        socket.readable().await.ok()?;
        match recv(socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return None,
            Ok(_) => return Some(first(byte[0])),
            Err(Errno::AGAIN) => not_ready(socket),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Takes the preamble, answers it, and goes on with frames.
async fn native(shell: &Rc<Shell>, peer: Peer, socket: UnixStream, open_by: Instant) {
    let mut fds = Vec::new();
    let taken = tokio::time::timeout_at(open_by, preamble_of(&socket, &mut fds)).await;
    let came = fds.len();
    shell.close_all(fds);
    let Ok(Some(request)) = taken else { return };
    let (answer, version) = match preamble::answer(request) {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(pid = peer.pid, uid = peer.uid, "a connection was closed: {error}");
            return say_last(shell, &socket, UNKNOWN_LANGUAGE);
        }
    };
    say(&socket, &answer);
    if version != 0 && came > 0 {
        let message = "file descriptors came with the preamble; they travel with the first byte of the frame that declares them";
        let (pid, uid) = (peer.pid, peer.uid);
        tracing::warn!(pid, uid, "a connection was closed: {came} {message}");
        return refuse(shell, &socket, Language::Native, Code::BadDescriptor, message);
    }
    if version != 0 {
        serve(shell, peer, socket, Language::Native, open_by).await;
    }
}

/// The first eight bytes, and no more. What comes along as descriptors is appended to `fds`.
async fn preamble_of(socket: &UnixStream, fds: &mut Vec<OwnedFd>) -> Option<[u8; PREAMBLE_BYTES]> {
    let (mut bytes, mut length) = ([0; PREAMBLE_BYTES], 0);
    while length < PREAMBLE_BYTES {
        socket.readable().await.ok()?;
        match socket_io::read(socket, &mut bytes[length..], fds) {
            Ok(read) if read.bytes == 0 => return None,
            Ok(read) => length += read.bytes,
            Err(Errno::AGAIN) => not_ready(socket),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(bytes)
}

async fn serve(shell: &Rc<Shell>, peer: Peer, socket: UnixStream, language: Language, open_by: Instant) {
    let (pid, uid) = (peer.pid, peer.uid);
    let connected = shell.state.borrow_mut().core.connect(peer, language, clock::now());
    match connected {
        Ok(id) => {
            // From here on it is watched in another way.
            let Ok(socket) = socket.into_std() else {
                return shell.state.borrow_mut().core.disconnected(
                    id,
                    "its socket cannot be watched",
                    clock::now(),
                );
            };
            let socket = Arc::new(OwnedFd::from(socket));
            let session = Session::new(Arc::clone(&socket), language);
            shell.state.borrow_mut().sessions.insert(id, session);
            shell.settle_soon();
            converse(Rc::clone(shell), id, socket, open_by).await;
        }
        Err(Refusal { code, message }) => {
            tracing::warn!(pid, uid, code = code.as_str(), "a connection was refused: {message}");
            refuse(shell, &socket, language, code, &message);
        }
    }
}

fn refuse(shell: &Shell, socket: &UnixStream, language: Language, code: Code, message: &str) {
    let mut last = Vec::new();
    match language {
        Language::Native => ToClient::Close { code: code.number(), message }.encode(&mut last),
        Language::Json => crate::json::write_close(&mut last, code, message),
    }
    say_last(shell, socket, &last);
}

/// Hands a connection to the thread that serves HTTP, which has a limit of its own.
fn http(shell: &Rc<Shell>, peer: &Peer, socket: UnixStream) {
    let allowed = shell.state.borrow().core.access().connect(peer);
    if let Err((code, message)) = allowed {
        tracing::warn!(pid = peer.pid, uid = peer.uid, code = code.as_str(), "HTTP was refused: {message}");
        return say_last(shell, &socket, http_refusal("403 Forbidden", &message).as_bytes());
    }
    let Ok(stream) = socket.into_std() else { return };
    if let Err(stream) = shell.http.serve(stream) {
        let busy = http_refusal(
            "503 Service Unavailable",
            "too many HTTP connections wait to be served; try again later",
        );
        let _ = socket_io::write(&stream, busy.as_bytes(), &[]);
    }
}

fn http_refusal(status: &str, sentence: &str) -> String {
    let length = sentence.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\n\r\n{sentence}\n"
    )
}

/// Lets the runtime wait until the kernel says again that there is something to read.
fn not_ready(socket: &UnixStream) {
    let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(std::io::ErrorKind::WouldBlock.into()));
}

/// Most bytes that are read away before a connection is closed.
const FAREWELL_BYTES_MAX: usize = 64 * 1024;

/// Says why a connection is closed. What the other side has sent so far is read away first: a socket that is closed with
/// bytes unread is reset, and the other side would meet an error behind the sentence.
fn say_last(shell: &Shell, socket: &UnixStream, bytes: &[u8]) {
    let (mut away, mut fds, mut total) = ([0; 4096], Vec::new(), 0);
    while total < FAREWELL_BYTES_MAX
        && let Ok(read) = socket_io::read(socket, &mut away, &mut fds)
        && read.bytes > 0
    {
        total += read.bytes;
    }
    shell.close_all(fds);
    say(socket, bytes);
}

/// Writes a few bytes to a fresh connection, whose buffer is empty: it takes them or is gone.
fn say(socket: &UnixStream, bytes: &[u8]) {
    let _ = socket_io::write(socket, bytes, &[]);
}
