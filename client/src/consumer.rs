//! The consuming half of a subscription: the inbox's items and the rings' messages as one sequence.

use crate::error::{End, Error, Result};
use crate::heard::Heard;
use crate::inbox::{Inbox, Item, SIGNAL_TOKEN};
use crate::message::{Message, Source};
use crate::reading::{Failed, Found, Rings};
use crate::run::{InRun, Run};
use crate::shared::{Shared, Waiting, glance};
use crate::subscription::{One, Take};
use rustix::event::{Timespec, epoll};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tramline_ring::Spinner;
use tramline_wire::{After, Mode};

/// Appearing and leaving publishers remembered for [`Subscription::events`](crate::Subscription::events).
const EVENTS_MAX: usize = 1024;

/// Messages from rings in a row before the inbox is looked at.
const INBOX_EVERY: u32 = 32;

/// Messages in a row before the doorbells of idle streams are looked at.
const BELLS_EVERY: u32 = 64;

/// Messages in a row that are waited for at the rings alone. Then the socket has its turn.
const ALONE_MAX: u32 = 64;

/// Links whose doorbells are looked at in one go.
const READY_MAX: usize = 32;

/// A publisher of a subscription's topics came or went, or waits for it no longer or again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublisherEvent {
    /// Its ring is read from now on, or its first message came by socket.
    Appeared(Arc<Source>),
    /// It closed, or its process ended; everything it sent was read before.
    Left(Arc<Source>),
    /// It does not let this subscription hold it up, which asked for that: its ring is read lossily.
    Lossy(Arc<Source>),
    /// This subscription held it up for longer than it may: it is read lossily for a while.
    Evicted {
        /// Whom.
        source: Arc<Source>,
        /// For how long it was held up.
        blocked: Duration,
    },
    /// It waits for this subscription again.
    Gated(Arc<Source>),
}

pub(crate) struct Consumer {
    queue: VecDeque<Item>,
    /// Messages that come before those in `queue`.
    run: Option<Run>,
    pub(crate) rings: Rings,
    /// The socket message at the front of the queue comes after this.
    after: Option<After>,
    /// Lost before the next message.
    gap: u64,
    pub(crate) lost: u64,
    pub(crate) events: VecDeque<PublisherEvent>,
    /// Publishers heard by socket.
    by_socket: Vec<Arc<Source>>,
    /// Up to which numbers publishers have been heard on earlier connections.
    heard: Heard,
    spinner: Spinner,
    taken: u32,
    /// Messages in a row that were waited for at the rings alone.
    alone: u32,
    closed: Option<End>,
}

impl Consumer {
    pub(crate) fn new(spinner: Spinner) -> Self {
        Self {
            queue: VecDeque::new(),
            run: None,
            rings: Rings::default(),
            after: None,
            gap: 0,
            lost: 0,
            events: VecDeque::new(),
            by_socket: Vec::new(),
            heard: Heard::default(),
            spinner,
            taken: 0,
            alone: 0,
            closed: None,
        }
    }

    /// The next message, if there is one here or in a hot ring.
    pub(crate) fn take(&mut self, shared: &Shared, inbox: &Inbox) -> Result<Option<Message>> {
        self.taken = self.taken.wrapping_add(1);
        if self.rings.has_idle() && self.taken.is_multiple_of(BELLS_EVERY) {
            self.look_at_bells(inbox)?;
        }
        // Both planes have their turns: the queue when it is due or the rings have nothing.
        let due = self.taken.is_multiple_of(INBOX_EVERY) || !self.rings.has_hot();
        let queue_first = due && !self.rings.has_past();
        if queue_first && let Some(message) = self.take_queued(shared, inbox)? {
            return Ok(Some(message));
        }
        if let Some(message) = self.take_from_rings(shared)? {
            return Ok(Some(message));
        }
        if !queue_first && let Some(message) = self.take_queued(shared, inbox)? {
            return Ok(Some(message));
        }
        // What was queued may have been a new ring.
        if queue_first && self.rings.has_hot() {
            return self.take_from_rings(shared);
        }
        match &self.closed {
            Some(_) if self.rings.len() > 0 || !self.queue.is_empty() => Ok(None),
            Some(end) => Err(end.error()),
            None => Ok(None),
        }
    }

    /// The next message of the ring whose turn it is, unless something else is to be minded: then there may be one all the
    /// same, and [`take`](Self::take) finds it. A message is moved less often on this way.
    #[inline]
    pub(crate) fn take_one(&mut self, shared: &Shared, into: &mut One) -> Result<bool> {
        let next = self.taken.wrapping_add(1);
        if next.is_multiple_of(INBOX_EVERY) || !self.rings.has_hot() || self.take_each(shared, 1, into)? == 0
        {
            return Ok(false);
        }
        self.taken = next;
        Ok(true)
    }

    /// Waits for about a microsecond, looking at nothing but the rings: whoever answers does so within that time.
    /// Whether something has come.
    #[inline]
    pub(crate) fn glance(&mut self) -> bool {
        let may = self.rings.has_hot() && self.spinner.spins() && self.alone < ALONE_MAX;
        if may && glance(|| self.rings.stir()) {
            self.alone += 1;
            self.spinner.busy();
            return true;
        }
        self.alone = 0;
        false
    }

    /// Hands over messages of one ring, if nothing is to be told before them; returns how many. What must be minded
    /// otherwise (the queue, ends, losses) is left to [`take`](Self::take).
    #[inline]
    pub(crate) fn take_each(&mut self, shared: &Shared, most: usize, into: &mut impl Take) -> Result<usize> {
        if self.gap > 0 || self.after.is_some() {
            return Ok(0);
        }
        let (count, lost, failed) = self.rings.take_each(most, into);
        self.lost = self.lost.saturating_add(lost);
        match failed {
            None => Ok(count),
            Some(failed) => Err(leave(shared, failed)),
        }
    }

    /// Shows messages that came by socket behind each other, if nothing is to be told before them; returns how many.
    /// What must be minded otherwise is left to [`take`](Self::take).
    #[inline]
    pub(crate) fn take_run(&mut self, most: usize, mut each: impl FnMut(InRun<'_>)) -> usize {
        let Some(run) = self.run.as_mut().filter(|_| self.gap == 0 && self.after.is_none()) else { return 0 };
        // The doorbells of idle streams have their turn all the same.
        let until_bells = (BELLS_EVERY - 1 - self.taken % BELLS_EVERY) as usize;
        let most = if self.rings.has_idle() { most.min(until_bells) } else { most };
        let mut count = 0;
        while count < most && run.show_next(&mut each) {
            count += 1;
        }
        self.taken = self.taken.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
        count
    }

    fn take_from_rings(&mut self, shared: &Shared) -> Result<Option<Message>> {
        loop {
            let found = self.rings.take();
            if matches!(found, Found::Nothing) {
                return Ok(None);
            }
            if let Some(message) = self.settle(shared, found)? {
                return Ok(Some(message));
            }
        }
    }

    /// Counts and remembers what was found; a message is passed on.
    fn settle(&mut self, shared: &Shared, found: Found) -> Result<Option<Message>> {
        match found {
            Found::Nothing => Ok(None),
            Found::Message(message) => Ok(Some(self.pass(message))),
            Found::Ended { source, lost, last, gone, cut_off } => {
                self.gap = self.gap.saturating_add(lost);
                if gone {
                    self.heard.left(&source, last);
                } else {
                    self.heard.ring_ended(&source, last);
                }
                // Where nothing comes any more, the reason for that says it.
                let cut_off = cut_off.filter(|_| self.closed.is_none()).map(|generation| Error::CutOff {
                    topic: source.topic.as_str().into(),
                    publisher: format!("{} (pid {})", source.name, source.pid).into(),
                    generation,
                });
                self.note(PublisherEvent::Left(source));
                cut_off.map_or(Ok(None), Err)
            }
            Found::Skipped(lost) => {
                self.gap = self.gap.saturating_add(lost);
                Ok(None)
            }
            Found::Failed(failed) => Err(leave(shared, failed)),
        }
    }

    /// Adds what was lost before it.
    fn pass(&mut self, mut message: Message) -> Message {
        if self.gap > 0 {
            message.add_lost(std::mem::take(&mut self.gap));
        }
        self.lost = self.lost.saturating_add(message.lost_before());
        message
    }

    fn note(&mut self, event: PublisherEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn take_queued(&mut self, shared: &Shared, inbox: &Inbox) -> Result<Option<Message>> {
        if let Some(message) = self.take_before_next(shared)? {
            return Ok(Some(message));
        }
        loop {
            if let Some(message) = self.run.as_mut().and_then(Run::next_message) {
                return Ok(Some(self.pass(message)));
            }
            if let Some(run) = self.run.take() {
                run.give_back(&shared.spare_buffers);
            }
            let Some(item) = self.queue.pop_front() else {
                if !inbox.is_filled() {
                    return Ok(None);
                }
                let (bytes, closed) = inbox.take(&mut self.queue);
                if bytes > 0 {
                    shared.resume_reading();
                }
                if closed.is_some() {
                    self.rings.no_more_generations();
                }
                self.closed = closed;
                if self.queue.is_empty() {
                    return Ok(None);
                }
                continue;
            };
            match item {
                Item::Message(message) => return Ok(Some(self.pass(message))),
                Item::Run(run) => self.run = Some(run),
                Item::After(after) => {
                    self.after = Some(after);
                    if let Some(message) = self.take_before_next(shared)? {
                        return Ok(Some(message));
                    }
                }
                Item::Gap(lost) => self.gap = self.gap.saturating_add(lost),
                Item::GapOf(source, lost) => self.heard.told(&source, lost),
                Item::First(source, seq) => {
                    let in_ring = self.rings.last_of(&source);
                    self.gap = self.gap.saturating_add(self.heard.missing(&source, seq, in_ring));
                }
                Item::Cut(numbers) => {
                    numbers.iter().for_each(|(source, last)| self.heard.left(source, *last));
                }
                Item::Lost => {
                    // Who is still there comes by the next connection anew.
                    self.by_socket.clear();
                    self.heard.cut();
                    self.rings.each_last(|source, last| self.heard.left(source, last));
                    self.rings.set_cut(true);
                }
                Item::Restored => self.rings.set_cut(false),
                Item::Stream(stream) => {
                    if !self.rings.reads(stream.stream) {
                        let missing = self.heard.missing(&stream.source, stream.first_seq, None);
                        self.gap = self.gap.saturating_add(missing);
                    }
                    self.note(PublisherEvent::Appeared(Arc::clone(&stream.source)));
                    if inbox.wish.mode == Mode::Gated && stream.mode == Mode::Lossy {
                        self.note(PublisherEvent::Lossy(Arc::clone(&stream.source)));
                    }
                    let retained = stream.retained;
                    self.rings.add(stream);
                    if retained && let Some(message) = self.take_from_rings(shared)? {
                        return Ok(Some(message));
                    }
                }
                Item::Successor(token, next) => {
                    if let Err(error) = self.rings.succeed(token, *next) {
                        return Err(error.into());
                    }
                }
                Item::Adopted { token, source } => self.rings.adopted(token, source),
                Item::Detached { token, gone } => self.rings.detached(token, gone),
                Item::Mode { token, source, mode, blocked } => {
                    if let Some(token) = token {
                        self.rings.set_mode(token, mode);
                    }
                    self.note(match mode {
                        Mode::Gated => PublisherEvent::Gated(source),
                        Mode::Lossy => PublisherEvent::Evicted { source, blocked },
                    });
                }
                Item::Appeared(source) => {
                    self.by_socket.push(Arc::clone(&source));
                    self.note(PublisherEvent::Appeared(source));
                }
                Item::Left(source) => {
                    self.by_socket.retain(|known| !Arc::ptr_eq(known, &source));
                    self.note(PublisherEvent::Left(source));
                }
                Item::Fault(error) => return Err(*error),
            }
        }
    }

    /// The ring's messages that belong before the next socket message.
    fn take_before_next(&mut self, shared: &Shared) -> Result<Option<Message>> {
        while let Some(after) = self.after {
            let found = self.rings.take_before(after);
            if matches!(found, Found::Nothing) {
                self.after = None;
            } else if let Some(message) = self.settle(shared, found)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Takes what the subscription's epoll has to tell, without waiting.
    pub(crate) fn look_at_bells(&mut self, inbox: &Inbox) -> Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut space = [std::mem::MaybeUninit::uninit(); READY_MAX];
        let ready = match epoll::wait(&inbox.epoll, &mut space, Some(&now)) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(Error::os("looking at the doorbells")(error)),
        };
        for event in ready {
            match event.data.u64() {
                SIGNAL_TOKEN => {
                    inbox.signal.clear();
                }
                token => self.rings.rang(token),
            }
        }
        Ok(())
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.by_socket.iter().chain(self.rings.sources())
    }
}

/// A stream failed: its reader is gone, and the broker is told why.
#[cold]
fn leave(shared: &Shared, failed: Failed) -> Error {
    let Failed { attach, token, error } = failed;
    shared.leave(attach, token, error.code().number());
    error
}

/// A consumer waiting for its next message.
pub(crate) struct NextMessage<'a> {
    pub(crate) consumer: &'a mut Consumer,
    pub(crate) shared: &'a Shared,
    pub(crate) inbox: &'a Inbox,
}

impl Waiting for NextMessage<'_> {
    type Output = Message;

    fn look(&mut self) -> Result<Option<Message>> {
        self.consumer.take(self.shared, self.inbox)
    }

    fn arm(&mut self, leading: bool) -> Result<bool> {
        if self.consumer.rings.arm() {
            return Ok(true);
        }
        if self.consumer.closed.is_some() {
            // Only rings have anything to tell any more.
            return Ok(false);
        }
        // A leader fills its inbox itself; nobody needs to wake it for that.
        Ok(if leading { self.inbox.is_filled() } else { self.inbox.arm() })
    }

    fn woken(&mut self) -> Result<()> {
        self.consumer.look_at_bells(self.inbox)
    }

    fn spins_on_memory(&self) -> bool {
        self.consumer.rings.has_hot()
    }

    fn stirs(&self) -> bool {
        self.consumer.rings.stir()
    }

    fn spinner(&mut self) -> &mut Spinner {
        &mut self.consumer.spinner
    }
}
