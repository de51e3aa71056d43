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

/// What a connection begins with.
enum First {
    Native,
    Json,
    Http,
    Other(u8),
    Nothing,
}

/// Finds out who connected and what it speaks, and serves it until it has ended.
pub(super) async fn open(shell: Rc<Shell>, connection: UnixStream, _place: Place) {
    let open_by =
        Instant::now() + Duration::from_millis(shell.settings.limits.first_byte_timeout_millis.into());
    let peer = match peer::peer(&connection, !shell.access.groups.is_empty()) {
        Ok(peer) => peer,
        Err(error) => return tracing::warn!("a connection without credentials was closed: {error}"),
    };
    let socket = connection;
    let first = tokio::time::timeout_at(open_by, first_byte(&socket)).await.unwrap_or(First::Nothing);
    match first {
        First::Native => native(&shell, peer, socket, open_by).await,
        First::Json => serve(&shell, peer, socket, Language::Json, open_by).await,
        First::Http => http(&shell, &peer, socket),
        First::Other(byte) => {
            tracing::debug!(
                pid = peer.pid,
                uid = peer.uid,
                byte,
                "a connection in an unknown language was closed"
            );
            say_last(&socket, UNKNOWN_LANGUAGE);
        }
        First::Nothing => {
            tracing::debug!(pid = peer.pid, uid = peer.uid, "a connection without a first byte was closed");
        }
    }
}

async fn first_byte(socket: &UnixStream) -> First {
    let mut byte = [0_u8];
    loop {
        if socket.readable().await.is_err() {
            return First::Nothing;
        }
        match recv(socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return First::Nothing,
            Ok(_) => break,
            Err(Errno::AGAIN) => not_ready(socket),
            Err(Errno::INTR) => {}
            Err(_) => return First::Nothing,
        }
    }
    match byte[0] {
        preamble::FIRST_BYTE => First::Native,
        b'{' | b' ' | b'\t' | b'\r' | b'\n' => First::Json,
        letter if letter.is_ascii_alphabetic() => First::Http,
        other => First::Other(other),
    }
}

/// Takes the preamble, answers it, and goes on with frames.
async fn native(shell: &Rc<Shell>, peer: Peer, socket: UnixStream, open_by: Instant) {
    let Ok(Some(request)) = tokio::time::timeout_at(open_by, preamble_of(&socket)).await else { return };
    let (answer, version) = match preamble::answer(request) {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(pid = peer.pid, uid = peer.uid, "a connection was closed: {error}");
            return say_last(&socket, UNKNOWN_LANGUAGE);
        }
    };
    say(&socket, &answer);
    if version != 0 {
        serve(shell, peer, socket, Language::Native, open_by).await;
    }
}

/// The first eight bytes, and no more.
async fn preamble_of(socket: &UnixStream) -> Option<[u8; PREAMBLE_BYTES]> {
    let (mut bytes, mut length) = ([0; PREAMBLE_BYTES], 0);
    while length < PREAMBLE_BYTES {
        socket.readable().await.ok()?;
        match recv(socket, &mut bytes[length..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return None,
            Ok((_, count)) => length += count,
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
            refuse(&socket, language, code, &message);
        }
    }
}

fn refuse(socket: &UnixStream, language: Language, code: Code, message: &str) {
    let mut last = Vec::new();
    match language {
        Language::Native => ToClient::Close { code: code.number(), message }.encode(&mut last),
        Language::Json => crate::json::write_close(&mut last, code, message),
    }
    say_last(socket, &last);
}

/// Hands a connection to the thread that serves HTTP, which has a limit of its own.
fn http(shell: &Rc<Shell>, peer: &Peer, socket: UnixStream) {
    if let Err((code, message)) = shell.access.connect(peer) {
        tracing::warn!(pid = peer.pid, uid = peer.uid, code = code.as_str(), "HTTP was refused: {message}");
        return say_last(&socket, http_refusal("403 Forbidden", &message).as_bytes());
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
fn say_last(socket: &UnixStream, bytes: &[u8]) {
    let (mut away, mut total) = ([0; 4096], 0);
    while total < FAREWELL_BYTES_MAX
        && let Ok((_, count)) = recv(socket, &mut away[..], RecvFlags::DONTWAIT)
        && count > 0
    {
        total += count;
    }
    say(socket, bytes);
}

/// Writes a few bytes to a fresh connection, whose buffer is empty: it takes them or is gone.
fn say(socket: &UnixStream, bytes: &[u8]) {
    let _ = socket_io::write(socket, bytes, &[]);
}
