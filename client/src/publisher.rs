//! A declared publisher: one stream, all of whose messages go through its ring.

use crate::clock::{deadline_after, monotonic_nanos};
use crate::draft::Draft;
use crate::error::{Error, Full, Result};
use crate::handle::Handle;
use crate::loan::Loan;
use crate::reactor::{Wants, lock};
use crate::rings::RingWish;
use crate::signal::Signal;
use crate::stream::Stream;
use crate::topics;
use rustix::event::epoll;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tramline_ring::Meta;
use tramline_wire::{Encoding, GatedBy, MessageFlags};

/// What a publisher does when a subscriber that may hold it up leaves no room in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFull {
    /// Wait until there is room.
    #[default]
    Wait,
    /// Wait for at most this long, then fail with [`Error::Full`].
    Timeout(Duration),
    /// Fail with [`Error::Full`] at once.
    Fail,
    /// Do not publish this message. Its number is used up, so subscribers see that it is missing.
    Drop,
}

/// A publisher about to be opened; made by [`Client::publisher`](crate::Client::publisher).
#[must_use = "nothing happens before open()"]
#[derive(Debug)]
pub struct PublisherBuilder {
    pub(crate) handle: Arc<Handle>,
    pub(crate) topic: String,
    pub(crate) wish: RingWish,
    pub(crate) on_full: OnFull,
}

impl PublisherBuilder {
    pub(crate) fn new(handle: Arc<Handle>, topic: &str) -> Self {
        let wish = RingWish { capacity: None, history: None, gated_by: GatedBy::OwnUid, implicit: false };
        Self { handle, topic: topic.to_owned(), wish, on_full: OnFull::Wait }
    }

    /// Room for `messages` messages of up to `message_bytes` bytes each, headers included. They are kept
    /// for subscribers that come late or fall behind. Without it the ring has the size that the broker
    /// suggests for the topic, usually 256 small messages in 256 KiB.
    pub fn capacity(mut self, message_bytes: usize, messages: u32) -> Self {
        self.wish.capacity = Some((message_bytes as u64, messages));
        self
    }

    /// What to do when there is no room; [`OnFull::Wait`] unless set.
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.on_full = on_full;
        self
    }

    /// How many past messages a subscriber that comes late can ask for, at least. A larger number than the
    /// capacity's makes the ring larger by descriptors, not by bytes.
    pub fn history(mut self, messages: u32) -> Self {
        self.wish.history = Some(messages);
        self
    }

    /// Whose subscribers may hold this publisher up; [`GatedBy::OwnUid`] unless set. Others read lossily.
    pub fn gated_by(mut self, who: GatedBy) -> Self {
        self.wish.gated_by = who;
        self
    }

    /// Makes the ring and declares it. Returns when the subscribers that are present have been admitted,
    /// or did not answer within the broker's attach timeout; so whatever is sent from then on reaches them,
    /// even if this process ends right after. Blocks for that, and while the memory is filled.
    ///
    /// # Errors
    /// [`Error::PublisherExists`], a refusal by the broker, or failing memory.
    pub fn open(self) -> Result<Publisher> {
        let shared = &self.handle.shared;
        shared.check_process()?;
        let topic = shared.topics.get(&self.topic)?;
        let deadline = deadline_after(shared.options.request_timeout);
        loop {
            if let Some(stream) = shared.open_ring(&topic, self.wish)? {
                return Ok(Publisher::new(Arc::clone(&self.handle), stream, self.on_full));
            }
            // Another thread opens a ring for a large payload on the same topic: let it, then replace it.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Error::PublisherExists(topic.name.clone()));
            }
            shared.wait_until(deadline, || {
                let opening = matches!(lock(&topic.state).route, topics::Route::Opening);
                Ok((!opening).then_some(()))
            })?;
        }
    }
}

/// What sending needs; shared by a publisher and its loans.
pub(crate) struct Sender {
    pub(crate) handle: Arc<Handle>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) on_full: OnFull,
}

impl Sender {
    /// Repeats `act` as `on_full` says; [`Error::Full`] when that is to fail, or to drop. `announce`: readers
    /// are to tell of room although nobody waits here.
    fn insist<T>(
        &self,
        on_full: OnFull,
        announce: bool,
        mut act: impl FnMut(bool) -> Result<T>,
    ) -> Result<T> {
        let waits = announce || !matches!(on_full, OnFull::Fail | OnFull::Drop);
        let mut full = match act(waits) {
            Err(full @ Error::Full(_)) => full,
            done => return done,
        };
        let deadline = match on_full {
            OnFull::Wait => None,
            OnFull::Timeout(timeout) => deadline_after(timeout),
            OnFull::Fail | OnFull::Drop => {
                // What is said by a bell may just not have been looked at.
                self.handle.shared.poke()?;
                return act(announce);
            }
        };
        loop {
            let until = self.until(&full, deadline);
            match self.handle.shared.wait_until(until, || again(&mut full, act(true)))? {
                Some(Ok(value)) => return Ok(value),
                Some(Err(changed)) => full = changed,
                None => return Err(self.in_vain(full, deadline)),
            }
        }
    }

    /// Until when to wait before looking at the clock: readers may take their time, the broker, which makes a ring grow, may
    /// not.
    pub(crate) fn until(&self, full: &Error, deadline: Option<Instant>) -> Option<Instant> {
        let answer_by =
            if is_growing(full) { deadline_after(self.handle.shared.options.request_timeout) } else { None };
        deadline.into_iter().chain(answer_by).min()
    }

    /// Why nothing came of waiting.
    pub(crate) fn in_vain(&self, full: Error, deadline: Option<Instant>) -> Error {
        if is_growing(&full) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let after = self.handle.shared.options.request_timeout;
            return Error::TimedOut { what: "answer to the growth of a ring", after };
        }
        full
    }

    pub(crate) fn try_send(&self, wait: bool, meta: Meta, head: &[u8], payload: &[u8]) -> Result<u64> {
        let shared = &self.handle.shared;
        let sent = self.stream.try_send(wait, meta, head, payload);
        shared.tell_left(&self.stream);
        sent.map_err(|error| shared.or_grow(&self.stream, error))
    }

    pub(crate) fn try_loan(
        &self,
        wait: bool,
        bytes: usize,
        head_bytes: usize,
    ) -> Result<tramline_ring::Loan> {
        let loan = self.stream.try_loan(wait, bytes, head_bytes);
        loan.map_err(|error| self.handle.shared.or_grow(&self.stream, error))
    }

    pub(crate) fn send(&self, on_full: OnFull, meta: Meta, head: &[u8], payload: &[u8]) -> Result<u64> {
        self.send_or_announce(on_full, false, meta, head, payload)
    }

    fn send_or_announce(
        &self,
        on_full: OnFull,
        announce: bool,
        meta: Meta,
        head: &[u8],
        payload: &[u8],
    ) -> Result<u64> {
        self.handle.shared.check_process()?;
        match self.insist(on_full, announce, |wait| self.try_send(wait, meta, head, payload)) {
            Err(Error::Full(_)) if on_full == OnFull::Drop => Ok(self.stream.skip()),
            result => result,
        }
    }

    fn loan(
        self: &Arc<Self>,
        on_full: OnFull,
        announce: bool,
        bytes: usize,
        head_bytes: usize,
    ) -> Result<Loan> {
        self.handle.shared.check_process()?;
        match self.insist(on_full, announce, |wait| self.try_loan(wait, bytes, head_bytes)) {
            Ok(loan) => Ok(Loan::in_ring(Arc::clone(self), loan)),
            Err(Error::Full(_)) if on_full == OnFull::Drop => Ok(Loan::own(Arc::clone(self), bytes)),
            Err(Error::Full(Full { topic, holder, growing, .. })) => {
                let loan = Some(Box::new(Loan::own(Arc::clone(self), bytes)));
                Err(Error::Full(Full { topic, holder, loan, growing }))
            }
            Err(error) => Err(error),
        }
    }
}

fn is_growing(error: &Error) -> bool {
    matches!(error, Error::Full(full) if full.is_growing())
}

/// What one more attempt came to, which is waited for after `full`: nothing yet, or what ended the wait. That may be that the
/// ring is full for another reason, so that others are waited for.
pub(crate) fn again<T>(full: &mut Error, attempt: Result<T>) -> Result<Option<Result<T>>> {
    match attempt {
        Ok(value) => Ok(Some(Ok(value))),
        Err(error @ Error::Full(_)) if is_growing(&error) == is_growing(full) => {
            *full = error;
            Ok(None)
        }
        Err(error @ Error::Full(_)) => Ok(Some(Err(error))),
        Err(error) => Err(error),
    }
}

/// An open publisher of one topic. Closed when dropped: its subscribers read to the end and are told.
///
/// While it waits for room it keeps serving its client: subscribers come and go meanwhile, also when they
/// are in this same process.
pub struct Publisher {
    pub(crate) sender: Arc<Sender>,
    watch: OnceLock<Watch>,
}

/// What [`Publisher::as_fd`] returns: a signal for room, and the reactor, in one epoll.
struct Watch {
    epoll: OwnedFd,
    signal: Arc<Signal>,
    entry: u64,
}

impl Publisher {
    pub(crate) fn new(handle: Arc<Handle>, stream: Arc<Stream>, on_full: OnFull) -> Self {
        Self { sender: Arc::new(Sender { handle, stream, on_full }), watch: OnceLock::new() }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.sender.stream.topic.name
    }

    /// Copies a message into the ring. Returns its sequence number. When there is no room it waits, fails
    /// or drops as [`on_full`](PublisherBuilder::on_full) says; a dropped message's number is returned too,
    /// and [`dropped`](Self::dropped) counts it.
    ///
    /// A message larger than the ring makes the ring grow: its subscribers read on in a larger one, and nothing
    /// is lost or reordered. That takes a moment, in which this waits, fails or drops as for a subscriber.
    ///
    /// # Errors
    /// [`Error::Full`] (of which [`Full::is_growing`] says that the ring grows meanwhile); a refusal that names
    /// the limit if it may not grow so far; [`Error::BrokerDown`] while the broker cannot be reached, when
    /// smaller messages go on; [`Error::TooLarge`] if it can never fit.
    pub fn send(&mut self, payload: impl AsRef<[u8]>) -> Result<u64> {
        self.sender.send(self.sender.on_full, plain(Encoding::Binary), &[], payload.as_ref())
    }

    /// As [`send`](Self::send), but fails at once with [`Error::Full`] when there is no room.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn try_send(&mut self, payload: impl AsRef<[u8]>) -> Result<u64> {
        let announce = self.arm_watch();
        self.sender.send_or_announce(OnFull::Fail, announce, plain(Encoding::Binary), &[], payload.as_ref())
    }

    /// As [`send`](Self::send), but waits for room for at most `timeout`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_timeout(&mut self, payload: impl AsRef<[u8]>, timeout: Duration) -> Result<u64> {
        self.sender.send(OnFull::Timeout(timeout), plain(Encoding::Binary), &[], payload.as_ref())
    }

    /// Copies many messages into the ring and wakes subscribers once: the cheapest way to send small ones.
    /// Returns the last one's sequence number (that before the first, if there were none). When there is
    /// no room, those before are published and the rest waits, fails or is dropped, one by one.
    ///
    /// # Errors
    /// As [`send`](Self::send); the messages before the one that failed are published.
    pub fn send_batch<I>(&mut self, payloads: I) -> Result<u64>
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        let stream = &self.sender.stream;
        self.sender.handle.shared.check_process()?;
        let mut meta = plain(Encoding::Binary);
        let mut payloads = payloads.into_iter();
        let mut last = None;
        loop {
            // As many as fit, under one lock and with one look at the readers.
            let (sent, rest) = stream.push_many(&mut payloads, &mut meta);
            last = sent.or(last);
            match rest {
                None => return Ok(last.unwrap_or_else(|| stream.next_seq() - 1)),
                Some(payload) => {
                    last = Some(self.sender.send(self.sender.on_full, meta, &[], payload.as_ref())?);
                }
            }
        }
    }

    /// Takes room for a message of up to `bytes` bytes, to be filled in place and then sent, without any
    /// copy. Waits for room as [`on_full`](PublisherBuilder::on_full) says. Under [`OnFull::Drop`] and
    /// without room the loan lies in this process's memory, and is dropped when sent if there is still none.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`Error::Full`] then holds such a loan in own memory.
    pub fn loan(&mut self, bytes: usize) -> Result<Loan> {
        self.sender.loan(self.sender.on_full, false, bytes, 0)
    }

    /// As [`loan`](Self::loan), but fails at once with [`Error::Full`] when there is no room.
    ///
    /// # Errors
    /// As [`loan`](Self::loan).
    pub fn try_loan(&mut self, bytes: usize) -> Result<Loan> {
        let announce = self.arm_watch();
        self.sender.loan(OnFull::Fail, announce, bytes, 0)
    }

    /// Fills room for one `T` in place: `fill` is given a `&mut T` in the ring, and then it is sent.
    /// Returns the sequence number.
    ///
    /// # Errors
    /// As [`loan`](Self::loan).
    #[cfg(feature = "zerocopy")]
    pub fn send_as<T>(&mut self, fill: impl FnOnce(&mut T)) -> Result<u64>
    where
        T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::KnownLayout + zerocopy::Immutable,
    {
        let mut loan = self.loan_as::<T>()?;
        fill(&mut loan);
        loan.send()
    }

    /// Room for one `T`, to be filled in place as a `&mut T` and then sent. It begins as some valid value,
    /// usually zeros.
    ///
    /// # Errors
    /// As [`loan`](Self::loan).
    #[cfg(feature = "zerocopy")]
    pub fn loan_as<T>(&mut self) -> Result<crate::LoanAs<T>>
    where
        T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::KnownLayout + zerocopy::Immutable,
    {
        crate::LoanAs::new(self.loan(size_of::<T>())?)
    }

    /// A message with type, headers, encoding or source time.
    pub fn message(&mut self) -> PublisherMessage<'_> {
        PublisherMessage { publisher: self, draft: Draft::default() }
    }

    /// How many subscriptions read this publisher's ring now. Costs a load.
    #[must_use]
    pub fn subscriber_count(&self) -> usize {
        self.sender.stream.reader_count()
    }

    /// Blocks until at least `count` subscriptions read this publisher's ring.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after `timeout`.
    pub fn wait_for_subscribers(&self, count: usize, timeout: Duration) -> Result<()> {
        let stream = &self.sender.stream;
        let look = || Ok((stream.reader_count() >= count).then_some(()));
        let found = self.sender.handle.shared.wait_until(deadline_after(timeout), look)?;
        found.ok_or(Error::TimedOut { what: "sufficient number of subscribers", after: timeout })
    }

    /// How many messages [`OnFull::Drop`] has dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.sender.stream.dropped()
    }

    /// The sequence number that the next message gets; 0 in a fork, where there is no next one.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        let forked = self.sender.handle.shared.check_process().is_err();
        if forked { 0 } else { self.sender.stream.next_seq() }
    }

    /// The largest message that fits without growth, payload and headers together, in bytes; 0 in a fork.
    #[must_use]
    pub fn message_bytes_max(&self) -> u64 {
        let forked = self.sender.handle.shared.check_process().is_err();
        if forked { 0 } else { self.sender.stream.message_bytes_max() }
    }

    /// Ends the stream, as dropping the publisher does, and blocks until the broker knows.
    ///
    /// # Errors
    /// When the broker does not answer. The stream is closed for its subscribers all the same.
    pub fn close(self) -> Result<()> {
        let shared = &self.sender.handle.shared;
        shared.check_process()?;
        match shared.close_publisher(&self.sender.stream, true) {
            Some(request) => shared.wait_for_answer(request, "answer to the closing of a ring").map(|_| ()),
            None => Ok(()),
        }
    }

    /// Before trying: what is signalled from now on is new. Says whether somebody watches for room.
    fn arm_watch(&self) -> bool {
        self.watch.get().map(|watch| watch.signal.clear()).is_some()
    }

    fn watch(&self) -> Result<Watch> {
        self.sender.handle.shared.check_process()?;
        let reactor = &self.sender.handle.shared.reactor;
        let io = || Error::os("making an epoll descriptor");
        let epoll_fd = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io())?;
        let signal = Arc::new(Signal::new().map_err(Error::io("making an eventfd"))?);
        let flags = epoll::EventFlags::IN;
        epoll::add(&epoll_fd, &*signal, epoll::EventData::new_u64(0), flags).map_err(io())?;
        epoll::add(&epoll_fd, reactor.fd(), epoll::EventData::new_u64(1), flags).map_err(io())?;
        let entry = reactor.enter(&signal, Wants { lead: false, changes: true });
        // Whoever was refused before this was not announced to the readers: let it try again.
        signal.raise();
        Ok(Watch { epoll: epoll_fd, signal, entry })
    }

    /// A descriptor that becomes readable when there may be room again: after [`try_send`](Self::try_send)
    /// or [`try_loan`](Self::try_loan) said that it is full, wait for it, then try again.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn room_fd(&self) -> Result<BorrowedFd<'_>> {
        if self.watch.get().is_none() {
            let made = self.watch()?;
            if let Err(unused) = self.watch.set(made) {
                self.sender.handle.shared.reactor.leave(unused.entry);
            }
        }
        self.watch.get().map(|watch| watch.epoll.as_fd()).ok_or(Error::Closed)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let shared = &self.sender.handle.shared;
        if shared.check_process().is_err() {
            std::mem::forget(Arc::clone(&self.sender.stream));
            return;
        }
        if let Some(watch) = self.watch.take() {
            shared.reactor.leave(watch.entry);
        }
        shared.close_publisher(&self.sender.stream, false);
    }
}

/// As [`room_fd`](Publisher::room_fd).
///
/// # Panics
/// When the process has no descriptors left.
impl AsFd for Publisher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.room_fd().expect("three more descriptors can be opened")
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("topic", &self.topic()).finish_non_exhaustive()
    }
}

fn plain(encoding: Encoding) -> Meta {
    Meta { flags: MessageFlags::new(encoding).bits(), time: monotonic_nanos(), source_time: 0 }
}

/// One message of a publisher, with what it says about itself.
#[must_use = "nothing is sent before send()"]
#[derive(Debug)]
pub struct PublisherMessage<'a> {
    publisher: &'a mut Publisher,
    draft: Draft<'a>,
}

impl<'a> PublisherMessage<'a> {
    crate::draft::describes!();

    fn meta(&self) -> Meta {
        let source_time = self.draft.source_time.unwrap_or(0);
        Meta { flags: self.draft.flags().bits(), time: monotonic_nanos(), source_time }
    }

    /// As [`Publisher::send`].
    ///
    /// # Errors
    /// As [`Publisher::send`], and [`Error::Header`].
    pub fn send(self, payload: impl AsRef<[u8]>) -> Result<u64> {
        let sender = &self.publisher.sender;
        sender.send(sender.on_full, self.meta(), &self.draft.head()?, payload.as_ref())
    }

    /// As [`Publisher::try_send`].
    ///
    /// # Errors
    /// As [`Publisher::try_send`], and [`Error::Header`].
    pub fn try_send(self, payload: impl AsRef<[u8]>) -> Result<u64> {
        let announce = self.publisher.arm_watch();
        let (meta, head) = (self.meta(), self.draft.head()?);
        self.publisher.sender.send_or_announce(OnFull::Fail, announce, meta, &head, payload.as_ref())
    }

    /// As [`Publisher::loan`].
    ///
    /// # Errors
    /// As [`Publisher::loan`], and [`Error::Header`].
    pub fn loan(self, bytes: usize) -> Result<Loan> {
        let head = self.draft.head()?;
        let sender = &self.publisher.sender;
        let loan = sender.loan(sender.on_full, false, bytes, head.len())?;
        Ok(loan.describe(head, self.draft.flags(), self.draft.source_time.unwrap_or(0)))
    }
}
