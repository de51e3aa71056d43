//! What leaves for the broker: frames in order, their descriptors, and the topic aliases they use.
//!
//! Any thread writes here under one lock, and straight to the socket: there is no sending thread. What
//! the kernel does not take waits in a buffer; the reactor's leader writes it on when the socket has
//! room. The buffer is bounded by [`WAITING_BYTES_MAX`] for publishes; answers that the protocol demands
//! (`Accept`, `Admitted`, …) are taken above that, as each follows a frame of the broker's.

use crate::reactor::RETRY_TOKEN;
use crate::socket::{Moved, Socket};
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tramline_wire::limits::ALIASES_MAX;
use tramline_wire::{Publish, Push, ToBroker};

/// Bytes that may wait for the socket before a publish waits, too.
pub(crate) const WAITING_BYTES_MAX: usize = 256 * 1024;

/// After how long descriptors are sent once more of which there were too many on their way.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Epoll's token of the socket.
pub(crate) const SOCKET_TOKEN: u64 = 0;

pub(crate) struct Outbound {
    socket: Option<Arc<Socket>>,
    /// Counts connections: what was agreed on an earlier one (aliases) means nothing on a later one.
    epoch: u64,
    /// Whether the session is open, so that anything but `Hello` may be sent.
    pub(crate) open: bool,
    /// The largest frame body the broker takes, in bytes.
    pub(crate) frame_bytes_max: usize,
    /// Whether the socket's input is wanted.
    reading: bool,
    /// Whether the reactor waits until the socket takes more.
    writing: bool,
    /// Too many descriptors are on their way: it is tried again by the timer, and not when the socket takes bytes.
    crowded: bool,
    /// Made when it is first needed.
    timer: Option<OwnedFd>,
    epoll: Arc<OwnedFd>,
    buffer: Vec<u8>,
    /// Bytes at the beginning of `buffer` that are sent already.
    sent: usize,
    /// Descriptors that go along, with the place in `buffer` of their frame's first byte.
    fds: VecDeque<(usize, Vec<OwnedFd>)>,
    /// Who an alias belongs to: an index into nothing, only compared.
    alias_owners: Vec<u64>,
    next_alias: u32,
}

impl Outbound {
    pub(crate) fn new(epoll: Arc<OwnedFd>) -> Self {
        Self {
            socket: None,
            epoch: 0,
            open: false,
            frame_bytes_max: tramline_wire::limits::FRAME_BYTES_DEFAULT,
            reading: true,
            writing: false,
            crowded: false,
            timer: None,
            epoll,
            buffer: Vec::new(),
            sent: 0,
            fds: VecDeque::new(),
            alias_owners: Vec::new(),
            next_alias: 0,
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes a new connection into use.
    pub(crate) fn begin(&mut self, socket: Arc<Socket>) -> io::Result<()> {
        self.end();
        self.epoch += 1;
        let token = epoll::EventData::new_u64(SOCKET_TOKEN);
        epoll::add(&*self.epoll, &*socket, token, epoll::EventFlags::IN)?;
        (self.reading, self.writing, self.crowded) = (true, false, false);
        self.socket = Some(socket);
        Ok(())
    }

    /// Forgets the connection and all that waits for it.
    pub(crate) fn end(&mut self) {
        if let Some(socket) = self.socket.take() {
            // It is the only use of that descriptor, but a fork's copy would keep it registered.
            let _ = epoll::delete(&*self.epoll, &*socket);
        }
        self.open = false;
        self.buffer.clear();
        self.sent = 0;
        self.fds.clear();
        self.alias_owners.clear();
        self.next_alias = 0;
    }

    /// Whether a publish may be appended now.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting_bytes() <= WAITING_BYTES_MAX
    }

    /// Whether the socket took less than there was, and says when it takes more.
    pub(crate) fn is_writing(&self) -> bool {
        self.writing
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.buffer.len() - self.sent
    }

    pub(crate) fn push(&mut self, frame: &ToBroker<'_>) {
        frame.encode(&mut self.buffer);
    }

    pub(crate) fn publish(&mut self, message: &Publish<'_>) {
        message.encode(&mut self.buffer);
    }

    pub(crate) fn push_to_queue(&mut self, push: &Push<'_>) {
        push.encode(&mut self.buffer);
    }

    pub(crate) fn push_with(&mut self, frame: &ToBroker<'_>, fds: Vec<OwnedFd>) {
        self.fds.push_back((self.buffer.len(), fds));
        frame.encode(&mut self.buffer);
    }

    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// An alias for `topic`, told to the broker. `owner` says whose it is, for [`Self::owns`].
    pub(crate) fn define(&mut self, owner: u64, topic: &str) -> u32 {
        let alias = self.next_alias;
        self.next_alias = (alias + 1) % ALIASES_MAX;
        match self.alias_owners.get_mut(alias as usize) {
            Some(place) => *place = owner,
            None => self.alias_owners.push(owner),
        }
        self.push(&ToBroker::Topic { alias, topic });
        alias
    }

    /// Whether `alias`, defined in `epoch`, still means what `owner` defined.
    pub(crate) fn owns(&self, owner: u64, epoch: u64, alias: u32) -> bool {
        epoch == self.epoch && self.alias_owners.get(alias as usize) == Some(&owner)
    }

    /// Writes what the socket takes now. Says whether waiting publishes may go on because of it.
    ///
    /// A broken connection is not reported here: whoever reads the socket sees it, and what cannot be
    /// written is of no use then.
    #[must_use = "those who wait for room are to be told"]
    pub(crate) fn flush(&mut self) -> bool {
        let had_room = self.has_room();
        self.crowded = false;
        let Some(socket) = self.socket.clone() else { return false };
        while self.sent < self.buffer.len() {
            let moved = match self.fds.front() {
                Some((at, fds)) if *at == self.sent => {
                    let end = self.fds.get(1).map_or(self.buffer.len(), |(next, _)| *next);
                    socket.send_with(&self.buffer[self.sent..end], fds)
                }
                Some((at, _)) => socket.send(&self.buffer[self.sent..*at]),
                None => socket.send(&self.buffer[self.sent..]),
            };
            match moved {
                Ok(Moved::Bytes(bytes)) => {
                    if self.fds.front().is_some_and(|(at, _)| *at == self.sent) {
                        // They went with the first byte; the copies here are of no more use.
                        self.fds.pop_front();
                    }
                    self.sent += bytes;
                }
                Ok(Moved::WouldBlock) => break,
                Ok(Moved::Crowded) => {
                    // Where there is no timer the socket is asked again and again, which is better than never.
                    self.crowded = self.set_timer().is_ok();
                    break;
                }
                Ok(Moved::End) | Err(_) => {
                    self.sent = self.buffer.len();
                    self.fds.clear();
                }
            }
        }
        self.settle(&socket);
        !had_room && self.has_room()
    }

    fn set_timer(&mut self) -> rustix::io::Result<()> {
        if self.timer.is_none() {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
            // Each time it is set it is told of once.
            let token = epoll::EventData::new_u64(RETRY_TOKEN);
            epoll::add(&*self.epoll, &timer, token, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
            self.timer = Some(timer);
        }
        let Some(timer) = &self.timer else { return Ok(()) };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: RETRY };
        rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &once).map(drop)
    }

    /// After writing: moves what is left to the front once the sent part is the larger one, and asks the
    /// reactor to watch for room only while something is left.
    fn settle(&mut self, socket: &Socket) {
        if self.sent == self.buffer.len() {
            self.buffer.clear();
            self.sent = 0;
            if self.buffer.capacity() > 4 * WAITING_BYTES_MAX {
                self.buffer.shrink_to(WAITING_BYTES_MAX);
            }
        } else if self.sent > self.buffer.len() / 2 {
            self.buffer.drain(..self.sent);
            for (at, _) in &mut self.fds {
                *at -= self.sent;
            }
            self.sent = 0;
        }
        let writing = !self.buffer.is_empty() && !self.crowded;
        if writing != self.writing {
            self.writing = writing;
            self.watch(socket);
        }
    }

    /// Whether the socket's input is wanted from now on.
    pub(crate) fn set_reading(&mut self, reading: bool) {
        if reading != self.reading {
            self.reading = reading;
            if let Some(socket) = self.socket.clone() {
                self.watch(&socket);
            }
        }
    }

    fn watch(&self, socket: &Socket) {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.reading);
        flags.set(epoll::EventFlags::OUT, self.writing);
        // It fails only for a descriptor that is not registered, and this one is until `end`.
        let _ = epoll::modify(&*self.epoll, socket, epoll::EventData::new_u64(SOCKET_TOKEN), flags);
    }
}
