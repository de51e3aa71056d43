//! One connection whose language is known: reading from it in turns, and giving what came to the core.
//!
//! A turn takes what the socket has, up to a bound, so that one busy client does not keep the others
//! waiting. What is not yet a whole frame or line waits in the session; everything else is handed to the core
//! from a buffer that all sessions share. Writing is `settle`'s affair; this file only waits until the socket
//! takes more. It does not know what frames and lines mean.

use super::broker::{Shell, State};
use super::watch::{self, Room, Writing};
use super::{clock, peer, socket_io};
use crate::core::{Core, FdId, Flow, Language, Now, SessionId, Taken};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::unix::AsyncFdReadyGuard;
use tokio::time::Instant;
use tramline_wire::{Code, Framed};

/// Most bytes taken from one session before the others have their turn.
pub(super) const TURN_BYTES_MAX: usize = 128 * 1024;

/// Up to this much of an unfinished frame is copied in front of what follows it; a longer one is completed where
/// it is.
const JOIN_BYTES_MAX: usize = 16 * 1024;

/// Size of the buffer that all sessions read into.
pub(super) const BUFFER_BYTES: usize = JOIN_BYTES_MAX + TURN_BYTES_MAX;

/// Room for unfinished input that an idle session keeps.
const IDLE_BYTES_MAX: usize = 4 * 1024;

/// After how long the writing side is watched again when there was no descriptor for that.
const WATCH_RETRY: Duration = Duration::from_millis(10);

/// What the shell knows of one session.
pub(super) struct Session {
    pub(super) socket: Arc<OwnedFd>,
    language: Language,
    /// Received and not yet taken by the core.
    unread: Vec<u8>,
    /// How much of `unread` is known to hold no line end.
    scanned: usize,
    /// The rest of a line that was too long is to be thrown away.
    skipping: bool,
    /// Received with what is in `unread`.
    fds: VecDeque<FdId>,
    reading: Reading,
    /// The core has taken something.
    opened: bool,
    /// The socket took less than there was.
    pub(super) blocked: bool,
    /// Nothing more is read, and the end follows when the outbox is written.
    pub(super) closing: bool,
    /// Nothing can be written any more: what is meant for it is thrown away.
    pub(super) mute: bool,
    /// The process that connected has ended, although another one may hold its socket.
    process_ended: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// As soon as something arrives.
    On,
    /// Not until the core says so.
    Paused,
    /// What is in `unread` first, then as ever.
    Resumed,
    /// The peer writes no more.
    Ended,
}

/// What a session's task does next.
enum Step<'a> {
    Gone,
    Retake,
    /// The writing side is to be watched from here on.
    Watch,
    Read(AsyncFdReadyGuard<'a, Arc<OwnedFd>>),
    Write(AsyncFdReadyGuard<'a, OwnedFd>),
    HungUp,
    ProcessEnded,
}

/// How a turn ended.
pub(super) enum Turn {
    /// The socket had no more.
    Empty,
    /// There may be more.
    More,
    /// The core wants no more of it.
    Close,
    /// The session ends now, for this reason.
    End(String),
}

impl Session {
    pub(super) fn new(socket: Arc<OwnedFd>, language: Language) -> Self {
        Self {
            socket,
            language,
            unread: Vec::new(),
            scanned: 0,
            skipping: false,
            fds: VecDeque::new(),
            reading: Reading::On,
            opened: language == Language::Json,
            blocked: false,
            closing: false,
            mute: false,
            process_ended: false,
            waker: None,
        }
    }

    /// Reads on after a pause.
    pub(super) fn resume(&mut self) {
        if self.reading == Reading::Paused {
            self.reading = Reading::Resumed;
            self.wake();
        }
    }

    /// Whether what arrives is to be read.
    pub(super) fn reads(&self) -> bool {
        self.reading == Reading::On && !self.closing
    }

    /// Whether room for writing is waited for, or, after the end of input, the news that the peer is gone.
    fn watches_writing(&self) -> bool {
        !self.mute && (self.blocked || self.reading == Reading::Ended)
    }

    /// Lets the session's task look at its state again.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Descriptors that the core has not taken.
    pub(super) fn take_fds(&mut self) -> VecDeque<FdId> {
        std::mem::take(&mut self.fds)
    }

    /// The peer takes nothing more. What it wrote before is still read, unless it said that this was all.
    pub(super) fn mute(&mut self) {
        self.mute = true;
        self.blocked = false;
        self.closing |= self.reading == Reading::Ended;
    }

    /// Keeps what the core has not taken of `received`, which is not in `unread`.
    fn keep(&mut self, rest: &[u8]) {
        self.unread.clear();
        self.unread.shrink_to(IDLE_BYTES_MAX);
        self.unread.extend_from_slice(rest);
    }

    /// How much more makes a whole frame, as far as that is known.
    fn wanted(&self) -> usize {
        let needed = match (self.language, tramline_wire::split_frame(&self.unread, usize::MAX)) {
            (Language::Native, Ok(Framed::Incomplete { needed })) => needed.saturating_sub(self.unread.len()),
            _ => TURN_BYTES_MAX,
        };
        needed.clamp(1, TURN_BYTES_MAX)
    }
}

/// Ends a session whose task ends first: should the broker fail at one client, the others do not notice.
struct LastWord<'a>(&'a Shell, SessionId);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        if let Ok(state) = self.0.state.try_borrow()
            && state.sessions.contains_key(&self.1)
        {
            drop(state);
            self.0.end(self.1, "the broker failed at it");
        }
    }
}

/// Reads from a session, and waits for its socket, until it has ended.
pub(super) async fn converse(shell: Rc<Shell>, id: SessionId, socket: Arc<OwnedFd>, open_by: Instant) {
    let _last_word = LastWord(&shell, id);
    let reading = match watch::reading(&socket) {
        Ok(reading) => reading,
        Err(error) => return shell.end(id, &format!("its socket cannot be watched: {error}")),
    };
    let mut writing = None;
    let mut process = shell.watch_process(id, &socket);
    loop {
        if !shell.watches_writing(id) {
            writing = None;
        }
        let next = poll_fn(|cx| next_step(&shell, id, &reading, writing.as_ref(), process.as_ref(), cx));
        let step = if shell.is_opened(id) {
            next.await
        } else if let Ok(step) = tokio::time::timeout_at(open_by, next).await {
            step
        } else {
            shell.state.borrow_mut().core.timed_out(id, clock::now());
            shell.settle_soon();
            shell.mark_opened(id);
            continue;
        };
        match step {
            Step::Gone => break,
            Step::Retake => {
                if shell.retake(id) == Flow::Close {
                    shell.close_session(id);
                }
            }
            Step::Watch => match Writing::new(&socket) {
                Ok(watched) => writing = Some(watched),
                Err(_) => {
                    tokio::time::sleep(WATCH_RETRY).await;
                    shell.write_turn(id);
                }
            },
            Step::Read(mut ready) => match shell.read_turn(id, &socket) {
                Turn::Empty => ready.clear_ready(),
                Turn::More => step_aside().await,
                Turn::Close => shell.close_session(id),
                Turn::End(reason) => shell.end(id, &reason),
            },
            Step::Write(mut room) => {
                if !shell.write_turn(id) {
                    room.clear_ready();
                }
            }
            Step::HungUp => shell.hang_up(id),
            Step::ProcessEnded => {
                process = None;
                shell.process_ended(id, &socket);
            }
        }
    }
    drop((reading, writing, process));
    shell.workers.close(socket);
}

/// Lets every other task that can run do so once.
pub(super) async fn step_aside() {
    let mut stepped = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut stepped, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn next_step<'a>(
    shell: &Shell,
    id: SessionId,
    reading: &'a watch::Reading,
    writing: Option<&'a Writing>,
    process: Option<&'a watch::Process>,
    cx: &mut Context<'_>,
) -> Poll<Step<'a>> {
    let mut state = shell.state.borrow_mut();
    let Some(session) = state.sessions.get_mut(&id) else { return Poll::Ready(Step::Gone) };
    if session.reading == Reading::Resumed && !session.closing {
        return Poll::Ready(Step::Retake);
    }
    if session.watches_writing() {
        let Some(writing) = writing else { return Poll::Ready(Step::Watch) };
        while let Poll::Ready(room) = writing.poll(cx) {
            match room {
                Room::HungUp => return Poll::Ready(Step::HungUp),
                Room::Some(room) if session.blocked => return Poll::Ready(Step::Write(room)),
                Room::Some(mut room) => room.clear_ready(),
            }
        }
    }
    if session.reads()
        && let Poll::Ready(ready) = reading.poll_read_ready(cx)
    {
        return Poll::Ready(ready.map_or(Step::HungUp, Step::Read));
    }
    if let Some(process) = process
        && process.poll_read_ready(cx).is_ready()
    {
        return Poll::Ready(Step::ProcessEnded);
    }
    if !session.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        session.waker = Some(cx.waker().clone());
    }
    Poll::Pending
}

impl Shell {
    fn is_opened(&self, id: SessionId) -> bool {
        self.state.borrow().sessions.get(&id).is_none_or(|session| session.opened)
    }

    fn watches_writing(&self, id: SessionId) -> bool {
        self.state.borrow().sessions.get(&id).is_some_and(Session::watches_writing)
    }

    fn mark_opened(&self, id: SessionId) {
        if let Some(session) = self.state.borrow_mut().sessions.get_mut(&id) {
            session.opened = true;
        }
    }

    /// Begins to watch the process that connected.
    fn watch_process(&self, id: SessionId, socket: &OwnedFd) -> Option<watch::Process> {
        let why = match peer::process(&socket) {
            peer::Process::Runs(process) => match watch::process(process) {
                Ok(process) => return Some(process),
                Err(error) => error.to_string(),
            },
            peer::Process::Ended => {
                self.process_ended(id, socket);
                return None;
            }
            peer::Process::Unknown => "the kernel does not say which it is".to_owned(),
        };
        tracing::debug!(session = id, "its process is not watched, only its socket: {why}");
        None
    }

    /// The process that connected has ended: the session ends behind what it had written. A child that has inherited
    /// the socket is told so by it.
    fn process_ended(&self, id: SessionId, socket: &OwnedFd) {
        // What has arrived stays; then the end is read as if the socket had been closed.
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
        let mut state = self.state.borrow_mut();
        if let Some(session) = state.sessions.get_mut(&id) {
            session.process_ended = true;
        }
        state.core.process_ended(id);
        drop(state);
        self.hang_up(id);
        self.settle_soon();
    }

    /// The peer is gone: what it wrote is read to the end, and nothing is written any more.
    fn hang_up(&self, id: SessionId) {
        let mut state = self.state.borrow_mut();
        let Some(session) = state.sessions.get_mut(&id) else { return };
        session.mute();
        if session.closing {
            drop(state);
            self.end(id, "the client has gone");
        }
    }

    /// Gives the core again what it had not taken when it paused the session.
    fn retake(&self, id: SessionId) -> Flow {
        let mut state = self.state.borrow_mut();
        let State { core, sessions, .. } = &mut *state;
        let Some(session) = sessions.get_mut(&id) else { return Flow::Continue };
        let mut unread = std::mem::take(&mut session.unread);
        session.reading = Reading::On;
        session.scanned = 0;
        let taken = give(core, id, session, &unread, self.settings.limits.frame_bytes_max as usize);
        unread.drain(..taken.consumed);
        session.unread = unread;
        drop(state);
        self.settle_soon();
        taken.flow
    }

    /// Takes what the socket has, up to [`TURN_BYTES_MAX`], to the core.
    pub(super) fn read_turn(&self, id: SessionId, socket: &OwnedFd) -> Turn {
        let mut state = self.state.borrow_mut();
        let State { core, sessions, descriptors, buffer, .. } = &mut *state;
        let Some(session) = sessions.get_mut(&id) else { return Turn::Empty };
        let frame_bytes_max = self.settings.limits.frame_bytes_max as usize;
        let mut received = Vec::new();
        let kept = session.unread.len();
        let joined = kept <= JOIN_BYTES_MAX;
        let room = if joined { TURN_BYTES_MAX } else { session.wanted() };
        let target = if joined {
            buffer[..kept].copy_from_slice(&session.unread);
            &mut buffer[kept..kept + room]
        } else {
            session.unread.resize(kept + room, 0);
            &mut session.unread[kept..]
        };
        let outcome = socket_io::read(socket, target, &mut received);
        if !joined {
            session.unread.truncate(kept + outcome.map_or(0, |read| read.bytes));
        }
        let read = match outcome {
            Ok(read) => read,
            Err(Errno::AGAIN) => return Turn::Empty,
            Err(Errno::INTR) => return Turn::More,
            Err(error) => return Turn::End(format!("reading from it failed: {error}")),
        };
        match session.language {
            Language::Native => session.fds.extend(received.into_iter().map(|fd| descriptors.insert(fd))),
            Language::Json => received.into_iter().for_each(|fd| self.workers.close(fd.into())),
        }
        let most = self.settings.limits.session_fds_in_flight_max;
        let flood = if read.fds_cut_off && read.fds < socket_io::READ_FDS_MAX {
            let message = "its file descriptors did not arrive: the broker has no more free (LimitNOFILE=, `ulimit -n`)";
            Some((Code::NoResources, message.to_owned()))
        } else if read.fds_cut_off {
            let most = socket_io::READ_FDS_MAX;
            Some((Code::BadDescriptor, format!("more than {most} file descriptors at once")))
        } else if session.fds.len() > most as usize {
            let message =
                format!("more than {most} file descriptors ahead (limits.session_fds_in_flight_max)");
            Some((Code::BadDescriptor, message))
        } else {
            None
        };
        if let Some((code, message)) = flood {
            core.descriptors_missing(id, code, &message, clock::now());
            drop(state);
            self.settle_soon();
            return Turn::Close;
        }
        if read.bytes == 0 {
            drop(state);
            return self.input_ended(id);
        }
        let taken = if joined {
            let data = &buffer[..kept + read.bytes];
            let taken = give(core, id, session, data, frame_bytes_max);
            session.keep(&data[taken.consumed..]);
            taken
        } else {
            let mut unread = std::mem::take(&mut session.unread);
            let taken = give(core, id, session, &unread, frame_bytes_max);
            if taken.consumed > 0 {
                unread = unread.split_off(taken.consumed);
            }
            session.unread = unread;
            taken
        };
        drop(state);
        self.wait.heard(id, read.bytes);
        self.settle_soon();
        // With descriptors the kernel ends a read early, although more may be there.
        match taken.flow {
            Flow::Close => Turn::Close,
            _ if read.bytes == room || read.fds > 0 => Turn::More,
            _ => Turn::Empty,
        }
    }

    /// The peer has shut down its writing side, or is gone.
    fn input_ended(&self, id: SessionId) -> Turn {
        let mut state = self.state.borrow_mut();
        let State { core, sessions, .. } = &mut *state;
        let Some(session) = sessions.get_mut(&id) else { return Turn::Empty };
        if session.language == Language::Native {
            let why =
                if session.process_ended { "its process has ended" } else { "it closed the connection" };
            return Turn::End(why.to_owned());
        }
        session.reading = Reading::Ended;
        let now = clock::now();
        let last = std::mem::take(&mut session.unread);
        // A last line need not end in a line feed.
        let whole = last.is_empty() || session.skipping || core.json_line(id, &last, now) != Flow::Close;
        // One that takes nothing more either has gone.
        let goes_on = !session.mute && core.half_closed(id, now) != Flow::Close && whole;
        drop(state);
        self.settle_soon();
        if goes_on { Turn::More } else { Turn::Close }
    }
}

/// Gives `data` to the core, which says how much of it is used up and how it goes on.
fn give(core: &mut Core, id: SessionId, session: &mut Session, data: &[u8], bytes_max: usize) -> Taken {
    let now = clock::now();
    let taken = match session.language {
        Language::Native => core.native_input(id, data, &mut session.fds, now),
        Language::Json => give_lines(core, id, session, data, bytes_max, now),
    };
    session.opened |= taken.consumed > 0;
    if taken.flow == Flow::Pause {
        session.reading = Reading::Paused;
    }
    taken
}

fn give_lines(
    core: &mut Core,
    id: SessionId,
    session: &mut Session,
    data: &[u8],
    bytes_max: usize,
    now: Now,
) -> Taken {
    let mut consumed = 0;
    let mut from = std::mem::take(&mut session.scanned);
    while let Some(length) = data[from..].iter().position(|&byte| byte == b'\n') {
        let line = &data[consumed..from + length];
        consumed = from + length + 1;
        from = consumed;
        let flow = if std::mem::take(&mut session.skipping) {
            Flow::Continue
        } else if line.len() > bytes_max {
            core.line_too_long(id, line.len(), now)
        } else {
            core.json_line(id, line, now)
        };
        if flow != Flow::Continue {
            return Taken { consumed, flow };
        }
    }
    let unfinished = data.len() - consumed;
    if session.skipping {
        return Taken { consumed: data.len(), flow: Flow::Continue };
    }
    if unfinished > bytes_max {
        session.skipping = true;
        return Taken { consumed: data.len(), flow: core.line_too_long(id, unfinished, now) };
    }
    session.scanned = unfinished;
    Taken { consumed, flow: Flow::Continue }
}
