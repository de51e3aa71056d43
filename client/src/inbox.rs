//! What waits in this process for one subscription, between the thread that leads and its consumer.
//!
//! The leader appends, the consumer takes everything at once. The order of items is the order of
//! reading: a ring's reader stands behind the socket messages that came before it, so a topic that
//! moves from the socket to a ring keeps its order without further rules.

use crate::error::{End, Error, Result};
use crate::message::{Message, Source};
use crate::reactor::lock;
use crate::run::Run;
use crate::signal::Signal;
use rustix::event::epoll;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tramline_ring::{Reader, ReaderLink, Successor};
use tramline_wire::{After, Mode, SlowPolicy};

/// Token of the inbox's signal in a subscription's epoll; doorbells have tokens above.
pub(crate) const SIGNAL_TOKEN: u64 = 0;

/// Token of the reactor in a subscription's epoll, once the program waits by itself.
pub(crate) const REACTOR_TOKEN: u64 = 1;

/// What a subscription asks for, kept to ask again after a reconnect.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) filter: Box<str>,
    pub(crate) mode: Mode,
    /// Rather nothing than lossy.
    pub(crate) gated_only: bool,
    pub(crate) rings: bool,
    pub(crate) history: u32,
    pub(crate) slow: SlowPolicy,
    pub(crate) backlog_bytes_max: u32,
    /// Whether to read in place: as the broker advises, or as the program insists.
    pub(crate) in_place: Option<bool>,
}

/// A stream that this subscription reads from now on.
pub(crate) struct NewStream {
    pub(crate) attach: u64,
    /// The attachment's number in this client, see `Reading`.
    pub(crate) token: u64,
    pub(crate) stream: u64,
    /// Number of the first message that this attachment brings.
    pub(crate) first_seq: u64,
    pub(crate) reader: Reader,
    /// The same memory, for a reader of an earlier connection that waits for this generation.
    pub(crate) carry: Option<Successor>,
    pub(crate) source: Arc<Source>,
    /// As it was granted.
    pub(crate) mode: Mode,
    /// What a publisher left that has gone; it is read before anything else.
    pub(crate) retained: bool,
    pub(crate) link: Arc<ReaderLink>,
    pub(crate) link_token: u64,
}

pub(crate) enum Item {
    Message(Message),
    /// Several small messages of one source.
    Run(Run),
    /// The next message comes after that of a ring.
    After(After),
    /// Lost before the next message.
    Gap(u64),
    /// Of these, among others, that gap was; the publisher was not heard on this connection before.
    GapOf(Arc<Source>, u64),
    /// The next message of the socket is the first of this publisher on this connection, and has this number.
    First(Arc<Source>, u64),
    /// These publishers are not heard on their sessions any more, after these numbers.
    Cut(Vec<(Arc<Source>, u64)>),
    /// The connection was lost.
    Lost,
    Stream(Box<NewStream>),
    /// A later generation for the attachment with this token.
    Successor(u64, Box<Successor>),
    /// The stream with this token goes on under a new session of its publisher.
    Adopted {
        token: u64,
        source: Arc<Source>,
    },
    /// No more is published to the attachment with this token; what the ring holds is still to be read. `gone`: the
    /// publisher's session is over, but perhaps not the publisher.
    Detached {
        token: u64,
        gone: bool,
    },
    /// The stream with this token, if this client reads it itself, is read in another mode from now on; for how long it
    /// held its publisher up.
    Mode {
        token: Option<u64>,
        source: Arc<Source>,
        mode: Mode,
        blocked: Duration,
    },
    /// There is a connection again, after one that was lost.
    Restored,
    Appeared(Arc<Source>),
    Left(Arc<Source>),
    /// Something the program should know; the subscription goes on.
    Fault(Box<Error>),
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// The consumer sleeps, or may: raise the signal when something is added.
    armed: bool,
    /// Nothing more will come, because of this.
    closed: Option<End>,
}

/// A subscription as the leader and its consumer share it.
pub(crate) struct Inbox {
    pub(crate) id: u32,
    pub(crate) wish: Wish,
    pub(crate) signal: Arc<Signal>,
    /// Signal and doorbells, edge-triggered.
    pub(crate) epoll: OwnedFd,
    queue: Mutex<Queue>,
    /// Whether `queue` holds something: a look that takes no lock.
    filled: AtomicBool,
    /// The subscription was dropped: what still comes is dropped, too.
    gone: AtomicBool,
    /// Readers that are mapped: the consumer's, and those whose last message is still held.
    pub(crate) live_readers: AtomicUsize,
    /// `Unsubscribe` was sent.
    pub(crate) unsubscribed: AtomicBool,
    /// Bytes waiting in all inboxes of the client.
    total: Arc<AtomicUsize>,
}

impl Inbox {
    pub(crate) fn new(id: u32, wish: Wish, total: Arc<AtomicUsize>) -> Result<Self> {
        let signal = Arc::new(Signal::new().map_err(Error::io("making an eventfd"))?);
        let io = || Error::os("making an epoll descriptor");
        let epoll_fd = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io())?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll_fd, &*signal, epoll::EventData::new_u64(SIGNAL_TOKEN), flags).map_err(io())?;
        Ok(Self {
            id,
            wish,
            signal,
            epoll: epoll_fd,
            queue: Mutex::default(),
            filled: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            live_readers: AtomicUsize::new(0),
            unsubscribed: AtomicBool::new(false),
            total,
        })
    }

    /// Adds what one read brought, in order, and leaves `items` empty.
    pub(crate) fn extend(&self, items: &mut Vec<Item>) {
        let bytes: usize = items.iter().map(held_bytes).sum();
        let mut queue = lock(&self.queue);
        if self.is_gone() {
            drop(queue);
            items.clear();
            return;
        }
        queue.items.extend(items.drain(..));
        queue.bytes += bytes;
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.announce(&mut queue);
    }

    pub(crate) fn push(&self, item: Item) {
        let bytes = held_bytes(&item);
        let mut queue = lock(&self.queue);
        if self.is_gone() {
            drop(queue);
            return;
        }
        queue.items.push_back(item);
        queue.bytes += bytes;
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.announce(&mut queue);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The subscription was dropped. Items hold readers, whose end has consequences that take other locks, so
    /// none may be left behind here.
    pub(crate) fn abandon(&self) {
        let mut items = VecDeque::new();
        {
            let mut queue = lock(&self.queue);
            self.gone.store(true, Ordering::Release);
            std::mem::swap(&mut queue.items, &mut items);
            self.total.fetch_sub(std::mem::take(&mut queue.bytes), Ordering::Relaxed);
        }
        drop(items);
    }

    /// Nothing more will come.
    pub(crate) fn close(&self, end: End) {
        let mut queue = lock(&self.queue);
        queue.closed.get_or_insert(end);
        self.announce(&mut queue);
    }

    fn announce(&self, queue: &mut Queue) {
        self.filled.store(true, Ordering::Release);
        if std::mem::take(&mut queue.armed) {
            self.signal.raise();
        }
    }

    /// Whether [`Self::take`] would find something.
    pub(crate) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Takes everything into `items`, which is empty. Returns how many bytes they held, and why nothing
    /// more will come if that is so.
    pub(crate) fn take(&self, items: &mut VecDeque<Item>) -> (usize, Option<End>) {
        let mut queue = lock(&self.queue);
        std::mem::swap(&mut queue.items, items);
        let bytes = std::mem::take(&mut queue.bytes);
        // Being closed lasts: it is found again each time everything before it was read.
        self.filled.store(queue.closed.is_some(), Ordering::Release);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
        (bytes, queue.closed.clone())
    }

    /// Before sleeping: asks to be woken by the signal. `true`: something is there already.
    pub(crate) fn arm(&self) -> bool {
        let mut queue = lock(&self.queue);
        let filled = !queue.items.is_empty() || queue.closed.is_some();
        queue.armed = !filled;
        filled
    }
}

fn held_bytes(item: &Item) -> usize {
    match item {
        Item::Message(message) => message.held_bytes(),
        Item::Run(run) => size_of::<Item>() + run.held_bytes(),
        _ => size_of::<Item>(),
    }
}
