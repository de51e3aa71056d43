//! A native client reduced to its socket: it sends the frames it is told to, and any bytes, and hands out
//! what comes back, so that a test can say both sides of a conversation, rude ones included.
//!
//! It knows `tramline-wire` and nothing of `tramline-client`. Every read has a watchdog: silence ends the test.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod publisher;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tramline_wire::codec::{Framed, split_frame};
use tramline_wire::{
    Code, Encoding, Message, MessageFlags, Mode, SlowPolicy, Subscribe, ToBroker, ToClient, preamble,
};

/// How long silence may last before a test counts as hung.
const WATCHDOG: Duration = Duration::from_secs(60);

/// One native connection.
pub(crate) struct Raw {
    socket: UnixStream,
    received: Vec<u8>,
    /// Descriptors that came and have not been taken.
    pub(crate) fds: VecDeque<OwnedFd>,
}

impl Raw {
    /// Connects, and says nothing yet.
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        socket.set_read_timeout(Some(WATCHDOG)).unwrap();
        Self { socket, received: Vec::new(), fds: VecDeque::new() }
    }

    /// Connects, agrees on the version, and is welcomed under `name`. Returns the session's id as well.
    pub(crate) fn open(path: &Path, name: &str) -> (Self, u64) {
        let mut raw = Self::connect(path);
        raw.write(&preamble::request());
        raw.send(&ToBroker::Hello { name, client: 0 });
        let mut answer = [0; preamble::PREAMBLE_BYTES];
        raw.read_exact(&mut answer);
        assert_eq!(preamble::accept(answer), Ok(preamble::VERSION_MAX));
        let body = raw.body();
        let Ok(ToClient::Welcome(welcome)) = ToClient::decode(&body) else { panic!("{}", shown(&body)) };
        let session = welcome.session;
        assert_ne!(session, 0);
        (raw, session)
    }

    /// Sends any bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, frame: &ToBroker<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.write(&bytes);
    }

    /// Sends a frame with descriptors.
    pub(crate) fn send_with(&mut self, frame: &ToBroker<'_>, fds: &[BorrowedFd<'_>]) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.write_with(&bytes, fds);
    }

    /// Sends any bytes with descriptors.
    pub(crate) fn write_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        let sent =
            sendmsg(self.socket.as_fd(), &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
        self.write(&bytes[sent..]);
    }

    /// Sends bytes with descriptors if the connection is still there and takes them.
    pub(crate) fn try_write_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        let flags = SendFlags::NOSIGNAL;
        sendmsg(self.socket.as_fd(), &[IoSlice::new(bytes)], &mut ancillary, flags) == Ok(bytes.len())
    }

    /// Sends a frame again and again, and reads nothing, until the other side takes no more.
    pub(crate) fn flood(&mut self, frame: &ToBroker<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let many = bytes.repeat(1024);
        let mut pending = 0;
        // Full at once may mean that the broker has not come to it yet; full for as long as it takes to ask it
        // something else many times means that it does not read.
        while pending < 100 {
            match rustix::net::send(self.socket.as_fd(), &many, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => pending = 0,
                Err(rustix::io::Errno::AGAIN) => {
                    pending += 1;
                    rustix::thread::sched_yield();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Takes bytes that are no frame.
    pub(crate) fn read_exact(&mut self, bytes: &mut [u8]) {
        while self.received.len() < bytes.len() {
            assert!(self.more(), "the broker closed the connection");
        }
        bytes.copy_from_slice(&self.received[..bytes.len()]);
        self.received.drain(..bytes.len());
    }

    /// Waits for more bytes; `false` at the end of the connection.
    fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let result = recvmsg(
            self.socket.as_fd(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        match result {
            Ok(received) => {
                self.received.extend_from_slice(&bytes[..received.bytes]);
                received.bytes > 0
            }
            Err(rustix::io::Errno::CONNRESET) => false,
            Err(error) => panic!("nothing came in {WATCHDOG:?}: {error}"),
        }
    }

    /// Whether something has come that was not read yet.
    pub(crate) fn has_more(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !self.received.is_empty() || poll(&mut polled, Some(&now)) == Ok(1)
    }

    /// The next frame's body.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        self.try_body().expect("another frame, but the broker closed the connection")
    }

    /// The next frame's body, or `None` at the end of the connection.
    pub(crate) fn try_body(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Framed::Whole { body, consumed } = split_frame(&self.received, usize::MAX).unwrap() {
                let body = body.to_vec();
                self.received.drain(..consumed);
                return Some(body);
            }
            if !self.more() {
                assert!(self.received.is_empty(), "the connection ended in the middle of a frame");
                return None;
            }
        }
    }

    /// The next frame must be exactly this one, byte for byte.
    pub(crate) fn expect(&mut self, frame: &ToClient<'_>) {
        let body = self.body();
        let mut expected = Vec::new();
        frame.encode(&mut expected);
        assert_eq!(&expected[4..], body, "expected {frame:?}, got {}", shown(&body));
    }

    /// The next frame must be an error with this code for this request; returns its sentence.
    pub(crate) fn expect_error(&mut self, request: u32, expected: Code) -> String {
        let body = self.body();
        let Ok(ToClient::Error { req, code, message, .. }) = ToClient::decode(&body) else {
            panic!("expected an error {expected}, got {}", shown(&body))
        };
        assert_eq!((req, Code::from_number(code)), (request, Some(expected)), "{message}");
        assert!(message.contains(' '), "not a sentence: {message:?}");
        message.to_owned()
    }

    /// What is left of the session must be a `Close` with this code (errors before it are skipped), then
    /// the end of the connection; returns its sentence.
    pub(crate) fn expect_close(&mut self, expected: Code) -> String {
        loop {
            let body = self.try_body().unwrap_or_else(|| panic!("closed without Close({expected})"));
            match ToClient::decode(&body) {
                Ok(ToClient::Close { code, message }) => {
                    assert_eq!(Code::from_number(code), Some(expected), "{message}");
                    assert!(message.contains(' '), "not a sentence: {message:?}");
                    assert_eq!(self.try_body(), None, "something came behind Close");
                    return message.to_owned();
                }
                Ok(ToClient::Error { .. }) => {}
                other => panic!("expected Close({expected}), got {other:?}"),
            }
        }
    }

    /// Asks for `Pong` and returns the bodies of all that came before it.
    pub(crate) fn settle(&mut self) -> Vec<Vec<u8>> {
        const MARK: u32 = 0xfeed;
        self.send(&ToBroker::Ping { req: MARK });
        let mut before = Vec::new();
        loop {
            let body = self.body();
            if ToClient::decode(&body) == Ok(ToClient::Pong { req: MARK }) {
                return before;
            }
            before.push(body);
        }
    }

    /// Subscribes without rings and waits for `Subscribed`; nothing else may come before that.
    pub(crate) fn subscribe(&mut self, sub: u32, filter: &str) {
        self.send(&ToBroker::Subscribe(subscription(sub, filter)));
        self.expect(&ToClient::Subscribed { req: sub, sub, streams: 0, pending: 0 });
    }

    /// Lets the connection end from this side, for writing only.
    pub(crate) fn finish(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Reads to the end of the connection. (A reset is one: the broker had not read all of what was sent.)
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.received)
    }
}

/// A subscription over the socket, with request number = its own, dropping the oldest when slow.
pub(crate) fn subscription(sub: u32, filter: &str) -> Subscribe<'_> {
    Subscribe {
        req: sub,
        sub,
        filter,
        mode: Mode::Lossy,
        rings: false,
        history: 0,
        slow: SlowPolicy::DropOldest,
        backlog_bytes_max: 0,
        gated_only: false,
    }
}

/// A message with this number and payload and nothing special about it.
pub(crate) fn message(seq: u64, payload: &[u8]) -> Message<'_> {
    let flags = MessageFlags::new(Encoding::Binary);
    Message { flags, seq, time: 1_000 + seq, source_time: 0, after: None, head: &[], payload }
}

/// A body for people.
pub(crate) fn shown(body: &[u8]) -> String {
    match ToClient::decode(body) {
        Ok(frame) => format!("{frame:?}"),
        Err(error) => format!("{error} in {body:02x?}"),
    }
}
