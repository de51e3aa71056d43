//! After events: carrying out what the core wants, then writing each outbox once.
//!
//! Whoever gave the core an event calls [`Shell::settle_soon`]; the task here runs behind everything that is
//! ready by then, so that events of many sessions share one write to each destination. It also lets the core
//! know when time has passed that it waits for. No timer runs while the core waits for none.

use super::broker::{Shell, State};
use super::descriptors::Descriptors;
use super::session::{Session, step_aside};
use super::workers::Verification;
use super::{clock, socket_io};
use crate::core::{Action, Bells, Chunk, SessionId};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Sleep;
use tramline_ring::{RingIdentity, step};

/// Rounds of carrying out and writing before other tasks have their turn.
const ROUNDS_MAX: u32 = 8;

/// How long a session that is being closed may take to read its last bytes.
const CLOSING_TIME_MAX: Duration = Duration::from_secs(1);

/// After how long a write is tried again for which too many descriptors were on their way.
const DESCRIPTORS_RETRY: Duration = Duration::from_millis(10);

/// What writing to a session came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Nothing,
    Some,
    /// Too many descriptors are on their way.
    Later,
}

/// Settles whenever it is wanted and whenever the core waits for a time that has come. Never returns.
pub(super) async fn settle_always(shell: Rc<Shell>) {
    // There is none while the core waits for no time, so that an idle broker is not woken by one that was cancelled.
    let mut timer: Option<(u64, Pin<Box<Sleep>>)> = None;
    let mut is_due = false;
    loop {
        let due = async {
            match &mut timer {
                // A timer moves in steps of a millisecond; what is due already only lets others have their turn first.
                _ if is_due => step_aside().await,
                Some((_, sleep)) => sleep.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shell.settling.notified(), if !is_due => {}
            () = due => {
                timer = None;
                shell.state.borrow_mut().core.tick(clock::now());
            }
        }
        shell.settle();
        let deadline = shell.state.borrow().core.deadline();
        is_due = deadline.is_some_and(|due| due <= clock::now().monotonic);
        if deadline != timer.as_ref().map(|(due, _)| *due) {
            timer = deadline.map(|due| (due, Box::pin(tokio::time::sleep_until(clock::instant(due)))));
        }
    }
}

impl Shell {
    /// Closes descriptors that nobody wants, on another thread.
    pub(super) fn close_all(&self, fds: Vec<OwnedFd>) {
        fds.into_iter().for_each(|fd| self.workers.close(fd.into()));
    }

    /// Carries out and writes what the core wants, behind everything else that is ready.
    pub(super) fn settle_soon(&self) {
        self.settling.notify_one();
    }

    pub(super) fn settle(self: &Rc<Self>) {
        for _ in 0..ROUNDS_MAX {
            let mut progress = false;
            while let Some(action) = self.next_action() {
                self.carry_out(action);
                progress = true;
            }
            while let Some(id) = self.next_dirty() {
                progress |= self.write(id);
            }
            if !progress {
                return;
            }
        }
        self.settle_soon();
    }

    fn next_action(&self) -> Option<Action> {
        self.state.borrow_mut().core.next_action()
    }

    fn next_dirty(&self) -> Option<SessionId> {
        self.state.borrow_mut().core.next_dirty()
    }

    fn carry_out(self: &Rc<Self>, action: Action) {
        match action {
            Action::VerifyRing { stream, memory, generation, geometry } => {
                let tramline_wire::Geometry { descriptors, arena_bytes } = geometry;
                let identity = RingIdentity { stream, generation, descriptors, arena_bytes };
                let mut state = self.state.borrow_mut();
                step!("check: asked");
                match state.descriptors.get(memory).cloned() {
                    Some(memory) => self.workers.verify(Verification { memory, identity }),
                    None => {
                        let gone = Err("its memory is gone".to_owned());
                        state.core.ring_verified(stream, generation, gone, clock::now());
                    }
                }
            }
            Action::Retain { stream, memory, generation, geometry, messages, bytes_max } => {
                let wanted = super::retain::Wanted { messages, bytes_max };
                self.retain(stream, memory, (generation, geometry), wanted);
            }
            Action::MakePipes { link } => self.make_pipes(link),
            Action::CountRing { stream, topic, part } => {
                let mut state = self.state.borrow_mut();
                let State { core, counters, descriptors, .. } = &mut *state;
                core.ring_counted(stream, &topic, &part, counters.count(stream, &part, descriptors));
            }
            Action::CloseFd(fd) => {
                let mut state = self.state.borrow_mut();
                state.counters.forget(fd);
                if let Some(fd) = state.descriptors.take(fd) {
                    self.workers.close(fd);
                }
            }
            Action::Resume(id) => {
                if let Some(session) = self.state.borrow_mut().sessions.get_mut(&id) {
                    session.resume();
                }
            }
            Action::CloseSession(id) => self.close_session(id),
            Action::Status { session, request } => {
                let mut state = self.state.borrow_mut();
                let snapshot = self.snapshot(&mut state);
                state.core.status_filled(session, request.as_deref(), &snapshot, clock::now());
            }
            Action::ProxyOffer { attach, link, stream } => self.proxy_offer(attach, link, stream),
            Action::ProxyAttach { attach, memory, generation, geometry, start, start_seq, bells, stored } => {
                let ring = super::proxy::Ring { memory, generation, geometry, start, start_seq, stored };
                self.proxy_attach(attach, ring, bells);
            }
            Action::ProxyStored { attach, seq } => self.proxy_stored(attach, seq),
            Action::ProxySuccessor { attach, memory, generation, geometry } => {
                self.proxy_successor(attach, memory, generation, geometry);
            }
            Action::ProxyDetach { attach, drain } => self.proxy_detach(attach, drain),
            Action::Work(task) => self.pool.work(task),
            action @ (Action::Store { .. } | Action::Load { .. }) => self.ask_store(action),
            action @ (Action::FetchBulk { .. }
            | Action::ForgetBulk { .. }
            | Action::MakeBulk { .. }
            | Action::PlaceBulk { .. }
            | Action::DropBulk { .. }) => self.move_bulk(action),
            Action::ProxyResume { attach } => self.proxy_resume(attach),
            Action::ProxyLinkEnded { link } => self.proxy_link_ended(link),
        }
    }

    fn make_pipes(&self, link: u64) {
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let made = pipe_with(flags).and_then(|doorbell| Ok((doorbell, pipe_with(flags)?)));
        let mut state = self.state.borrow_mut();
        let State { core, descriptors, .. } = &mut *state;
        let result = made
            .map(|((doorbell_read, doorbell_write), (space_read, space_write))| Bells {
                doorbell_read: descriptors.insert(doorbell_read),
                doorbell_write: descriptors.insert(doorbell_write),
                space_read: descriptors.insert(space_read),
                space_write: descriptors.insert(space_write),
            })
            .map_err(|error| format!("no pipes for a link: {error}"));
        core.pipes_made(link, result, clock::now());
    }

    /// Writes what waits for a session, as far as its socket takes it. Whether anything was written.
    fn write(self: &Rc<Self>, id: SessionId) -> bool {
        let mut state = self.state.borrow_mut();
        if state.sessions.get(&id).is_none_or(|session| session.blocked) {
            return false;
        }
        let written = state.write(id);
        if written == Written::Some {
            state.core.written(id, clock::now());
        }
        let done = state.is_done(id);
        drop(state);
        if done {
            self.end(id, "closed by the broker");
        } else if written == Written::Later {
            self.retry_later(id);
        }
        written == Written::Some
    }

    /// A socket takes more again. Whether it took anything.
    pub(super) fn write_turn(self: &Rc<Self>, id: SessionId) -> bool {
        if let Some(session) = self.state.borrow_mut().sessions.get_mut(&id) {
            session.blocked = false;
        }
        let progress = self.write(id);
        self.settle_soon();
        progress
    }

    /// The kernel lets a user have only so many descriptors on their way at a time; others must read first.
    fn retry_later(self: &Rc<Self>, id: SessionId) {
        let shell = Rc::clone(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(DESCRIPTORS_RETRY).await;
            shell.write_turn(id);
        });
    }

    /// Ends a session as soon as its outbox is written, or the time for that is up.
    pub(super) fn close_session(self: &Rc<Self>, id: SessionId) {
        match self.state.borrow_mut().sessions.get_mut(&id) {
            Some(session) if !session.closing => {
                session.closing = true;
                session.wake();
            }
            _ => return,
        }
        self.write(id);
        if self.state.borrow_mut().is_done(id) {
            self.end(id, "closed by the broker");
        } else if self.state.borrow().sessions.contains_key(&id) {
            let shell = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(CLOSING_TIME_MAX).await;
                shell.end(id, "it did not read its last bytes in time");
            });
        }
    }

    /// Forgets a session and tells the core. Its task closes the socket.
    pub(super) fn end(&self, id: SessionId, reason: &str) {
        let mut state = self.state.borrow_mut();
        let Some(mut session) = state.sessions.remove(&id) else { return };
        for fd in session.take_fds() {
            if let Some(fd) = state.descriptors.take(fd) {
                self.workers.close(fd);
            }
        }
        session.wake();
        state.core.disconnected(id, reason, clock::now());
        if state.sessions.is_empty() {
            self.all_gone.notify_one();
        }
        drop(state);
        self.settle_soon();
    }
}

impl State {
    /// Whether a session only waited for its outbox to be written.
    fn is_done(&mut self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|session| session.closing)
            && self.core.outbox(id).is_none_or(|outbox| outbox.is_empty())
    }

    fn write(&mut self, id: SessionId) -> Written {
        let Self { core, sessions, descriptors, .. } = self;
        let Some(session) = sessions.get_mut(&id) else { return Written::Nothing };
        let mut result = Written::Nothing;
        let Some(outbox) = core.outbox(id) else { return Written::Nothing };
        while !outbox.is_empty() {
            let chunk = outbox.chunk();
            let length = chunk.bytes.len();
            // Nobody reads it any more, but what the peer wrote before it went is still taken.
            let outcome = if session.mute { Ok(length) } else { send(session, chunk, descriptors) };
            match outcome {
                Ok(count) => {
                    result = Written::Some;
                    outbox.advance(count);
                    session.blocked = count < length;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => session.blocked = true,
                Err(Errno::TOOMANYREFS) => {
                    session.blocked = true;
                    return Written::Later;
                }
                Err(_) => session.mute(),
            }
            if session.blocked {
                session.wake();
                break;
            }
        }
        result
    }
}

fn send(session: &Session, chunk: Chunk<'_>, descriptors: &Descriptors) -> Result<usize, Errno> {
    if chunk.fds.is_empty() {
        return socket_io::write(&session.socket, chunk.bytes, &[]);
    }
    let fds = chunk.fds.iter().filter_map(|&fd| descriptors.get(fd)).map(|fd| fd.as_fd());
    let fds = fds.collect::<Vec<BorrowedFd<'_>>>();
    step!("pass: about to be written");
    let written = socket_io::write(&session.socket, chunk.bytes, &fds);
    step!("pass: written");
    written
}
