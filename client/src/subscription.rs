//! A subscription: what its owner calls.

use crate::clock::deadline_after;
use crate::consumer::{Consumer, NextMessage, PublisherEvent};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::inbox::{Inbox, REACTOR_TOKEN, Wish};
use crate::message::{Message, MessageRef, Parts, Source};
use crate::reactor::lock;
use crate::reading::Alone;
use crate::run::InRun;
use crate::session::Answer;
use crate::shared::{Bed, Shared};
use rustix::event::epoll;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tramline_ring::{Packed, Spinner};
use tramline_wire::limits::SUBSCRIPTION_ID_MAX;
use tramline_wire::{Filter, Mode, SlowPolicy, Subscribe, ToBroker};

/// How long publishers on the socket wait for a slow subscriber unless it says otherwise, in milliseconds.
const BLOCK_MILLIS: u32 = 1_000;

/// A subscription about to be opened; made by [`Client::subscription`](crate::Client::subscription).
#[must_use = "nothing happens before open()"]
#[derive(Debug)]
pub struct SubscriptionBuilder {
    pub(crate) handle: Arc<Handle>,
    pub(crate) wish: Wish,
}

impl SubscriptionBuilder {
    pub(crate) fn new(handle: Arc<Handle>, filter: &str) -> Self {
        let wish = Wish {
            filter: filter.into(),
            mode: Mode::Gated,
            gated_only: false,
            rings: true,
            history: 0,
            slow: SlowPolicy::Block { millis: BLOCK_MILLIS },
            backlog_bytes_max: 0,
            in_place: None,
        };
        Self { handle, wish }
    }

    /// Publishers never wait for this subscription; what it misses is counted. For viewers and tools.
    /// On the socket it drops the oldest, unless [`on_slow`](Self::on_slow) says otherwise after this.
    pub fn lossy(mut self) -> Self {
        self.wish.mode = Mode::Lossy;
        self.wish.gated_only = false;
        self.wish.slow = SlowPolicy::DropOldest;
        self
    }

    /// Publishers wait for this subscription, so that it loses nothing: the default. A publisher may
    /// refuse that to other users; it is then read lossily, and so it is for a while after it was held up for
    /// longer than the broker's `limits.gate_budget_millis_max`. [`Subscription::events`] tells of both.
    pub fn gated(mut self) -> Self {
        self.wish.mode = Mode::Gated;
        self.wish.slow = SlowPolicy::Block { millis: BLOCK_MILLIS };
        self
    }

    /// As [`gated`](Self::gated), and rather nothing than a ring read lossily: [`open`](Self::open) is refused with
    /// [`Code::GateRefused`](crate::Code::GateRefused) if a publisher does not let this subscription hold it up, and one
    /// that comes later is not read and told as such an error by [`Subscription::recv`].
    pub fn gated_only(self) -> Self {
        let mut builder = self.gated();
        builder.wish.gated_only = true;
        builder
    }

    /// Begins with up to this many past messages of each stream, as far as they are still in its ring.
    pub fn history(mut self, messages: u32) -> Self {
        self.wish.history = messages;
        self
    }

    /// Bytes that may wait for this subscription in the broker before [`on_slow`](Self::on_slow) applies;
    /// the broker's default unless set.
    pub fn backlog_bytes(mut self, bytes: u32) -> Self {
        self.wish.backlog_bytes_max = bytes;
        self
    }

    /// What the broker does when that is not enough.
    pub fn on_slow(mut self, policy: SlowPolicy) -> Self {
        self.wish.slow = policy;
        self
    }

    /// With `false` this subscription reads no rings: the broker reads them and delivers by socket.
    pub fn rings(mut self, rings: bool) -> Self {
        self.wish.rings = rings;
        self
    }

    /// Whether large payloads are read where they were published. Unless set, that is done for
    /// publishers whom the broker vouches for (own user and root): a publisher could change bytes after
    /// publishing. With `false` every payload is copied and checked to be whole.
    pub fn in_place(mut self, in_place: bool) -> Self {
        self.wish.in_place = Some(in_place);
        self
    }

    /// Subscribes. Returns when every matching stream is attached, or did not answer within the broker's
    /// attach timeout.
    ///
    /// # Errors
    /// [`Error::Topic`] for a bad filter, or a refusal by the broker.
    pub fn open(self) -> Result<Subscription> {
        let (subscription, request) = Subscription::begin(self)?;
        let answer = subscription.handle.shared.wait_for_answer(request, "answer to a subscription");
        let answer = subscription.answered(answer)?;
        if answer == Answer::Subscribed {
            return Ok(subscription);
        }
        Err(Error::Protocol(format!("{answer:?} for a subscription").into()))
    }
}

/// What arrives on the topics that one filter selects, in order per publisher and topic.
///
/// It is an iterator that waits for the next message, and ends only when the client was closed or the
/// connection is lost for good. Unsubscribed when dropped.
pub struct Subscription {
    pub(crate) handle: Arc<Handle>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) consumer: Consumer,
    /// The program waits by itself: the epoll tells of the socket, too, and emptiness arms.
    watched: AtomicBool,
}

impl Subscription {
    /// Registers and asks; the answer is to be waited for.
    pub(crate) fn begin(builder: SubscriptionBuilder) -> Result<(Self, u32)> {
        let SubscriptionBuilder { handle, wish } = builder;
        Filter::parse(&wish.filter).map_err(|source| Error::Topic { text: wish.filter.clone(), source })?;
        let shared = &handle.shared;
        shared.check_process()?;
        let mut session = lock(&shared.session);
        if session.next_subscription >= SUBSCRIPTION_ID_MAX {
            let max = SUBSCRIPTION_ID_MAX as usize;
            return Err(Error::over("subscription_id_max", max, max));
        }
        let id = session.next_subscription;
        let inbox = Arc::new(Inbox::new(id, wish, Arc::clone(&shared.inbox_bytes))?);
        let mut outbound = lock(&shared.outbound);
        shared.check_open(&outbound)?;
        session.next_subscription += 1;
        session.subscriptions.insert(id, Arc::clone(&inbox));
        let req = session.begin();
        let wish = &inbox.wish;
        outbound.push(&ToBroker::Subscribe(Subscribe {
            req,
            sub: id,
            filter: &wish.filter,
            mode: wish.mode,
            rings: wish.rings,
            history: wish.history,
            slow: wish.slow,
            backlog_bytes_max: wish.backlog_bytes_max,
            gated_only: wish.gated_only,
        }));
        shared.write_out(&mut outbound);
        drop(outbound);
        drop(session);
        let consumer = Consumer::new(Spinner::new(shared.options.spin));
        Ok((Self { handle, inbox, consumer, watched: AtomicBool::new(false) }, req))
    }

    /// Notes the answer to the request: what was refused does not exist, and is not to be ended.
    pub(crate) fn answered(&self, answer: Result<Answer>) -> Result<Answer> {
        if matches!(answer, Err(Error::Refused { .. } | Error::Limit { .. })) {
            self.inbox.unsubscribed.store(true, Ordering::Release);
        }
        answer
    }

    /// The filter it was made with.
    #[must_use]
    pub fn filter_str(&self) -> &str {
        &self.inbox.wish.filter
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// The next message. Blocks until there is one.
    ///
    /// # Errors
    /// [`Error::Closed`] or [`Error::Disconnected`] at the end. Any other error concerns one stream or one
    /// moment (a publisher's ring was not what it must be), and the subscription goes on.
    pub fn recv(&mut self) -> Result<Message> {
        let mut one = One(None);
        loop {
            self.recv_into(None, &mut one)?;
            if let Some(message) = one.0.take() {
                return Ok(message);
            }
        }
    }

    /// The next message, or `None` when there is none within `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message>> {
        self.recv_until(deadline_after(timeout))
    }

    fn recv_until(&mut self, deadline: Option<Instant>) -> Result<Option<Message>> {
        let mut one = One(None);
        self.recv_into(deadline, &mut one)?;
        Ok(one.0)
    }

    /// As `recv_until`; what comes is put where it stays, since moving a message costs as much as reading a small one.
    fn recv_into(&mut self, deadline: Option<Instant>, one: &mut One) -> Result<()> {
        let Self { handle, inbox, consumer, .. } = self;
        let shared = &handle.shared;
        // Before any ring is touched: a fork has none mapped.
        shared.check_process()?;
        if consumer.take_one(shared, one)? {
            return Ok(());
        }
        one.0 = consumer.take(shared, inbox)?;
        if one.0.is_some() || (consumer.glance() && consumer.take_one(shared, one)?) {
            return Ok(());
        }
        let bed = Bed { signal: &inbox.signal, fd: inbox.epoll.as_fd(), changes: false };
        one.0 = shared.wait(&mut NextMessage { consumer, shared, inbox }, &bed, deadline)?;
        Ok(())
    }

    /// The next message if there is one now; never waits. Once the descriptor of [`AsFd`] is in use,
    /// `None` also asks to be told there of the next one.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Message>> {
        let watched = self.watched.load(Ordering::Relaxed);
        self.try_recv_with(watched)
    }

    /// As `try_recv`; emptiness arms.
    #[cfg(feature = "tokio")]
    pub(crate) fn try_recv_armed(&mut self) -> Result<Option<Message>> {
        self.try_recv_with(true)
    }

    fn try_recv_with(&mut self, watched: bool) -> Result<Option<Message>> {
        let Self { handle, inbox, consumer, .. } = self;
        let shared = &handle.shared;
        // Before any ring is touched: a fork has none mapped.
        shared.check_process()?;
        if let Some(message) = consumer.take(shared, inbox)? {
            return Ok(Some(message));
        }
        shared.poke()?;
        if watched || consumer.rings.has_idle() {
            consumer.look_at_bells(inbox)?;
        }
        loop {
            if let Some(message) = consumer.take(shared, inbox)? {
                return Ok(Some(message));
            }
            if !watched || !(consumer.rings.arm() | inbox.arm()) {
                return Ok(None);
            }
        }
    }

    /// Waits for a message, then takes what is there, up to `max` messages in all. Appends them to `into`
    /// and returns how many. Cheaper for each message than [`recv`](Self::recv).
    ///
    /// # Errors
    /// As [`recv`](Self::recv); none is returned once a message was taken.
    pub fn recv_batch(&mut self, into: &mut Vec<Message>, max: usize) -> Result<usize> {
        self.recv_many(max, &mut Collect(into))
    }

    /// Waits for a message, then shows what is there to `each` where it lies, up to `max` messages in all.
    /// Returns how many. Nothing is allocated or moved for a message of a ring: the cheapest way to
    /// receive at high rates.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); none is returned once a message was shown.
    ///
    /// ```no_run
    /// # fn main() -> tramline_client::Result<()> {
    /// # let mut subscription = tramline_client::Client::connect()?.subscribe("a.b")?;
    /// let mut bytes = 0;
    /// subscription.recv_each(1000, |message| bytes += message.payload().len())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn recv_each(&mut self, max: usize, each: impl FnMut(MessageRef<'_>)) -> Result<usize> {
        self.recv_many(max, &mut Show(each))
    }

    #[inline]
    fn recv_many(&mut self, max: usize, into: &mut impl Take) -> Result<usize> {
        if max == 0 {
            return Ok(0);
        }
        into.whole(self.recv()?);
        let mut count = 1;
        while count < max {
            let shared = &self.handle.shared;
            let Ok(taken) = self.consumer.take_each(shared, max - count, into) else {
                break;
            };
            count += taken;
            count += self.consumer.take_run(max - count, |message| into.in_run(message));
            if count == max {
                break;
            }
            // Now and then the way that minds everything.
            match self.consumer.take(shared, &self.inbox) {
                Ok(Some(message)) => into.whole(message),
                _ => break,
            }
            count += 1;
        }
        Ok(count)
    }

    /// The publishers that this subscription reads now: those whose ring it reads, and those whose
    /// messages came by socket and who have not left.
    #[must_use]
    pub fn publishers(&self) -> Vec<Arc<Source>> {
        self.consumer.sources().cloned().collect()
    }

    /// Publishers that appeared or left, wait no longer or again, as far as the messages were read, since the last call. The last
    /// 1,024 are remembered.
    pub fn events(&mut self) -> Vec<PublisherEvent> {
        self.consumer.events.drain(..).collect()
    }

    /// How many messages this subscription has lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.consumer.lost
    }

    /// How many streams it reads through rings now.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.consumer.rings.len()
    }

    /// The streams it reads through rings now: whose, and whether their publisher waits for it.
    #[must_use]
    pub fn streams(&self) -> Vec<(Arc<Source>, Mode)> {
        self.consumer.rings.modes().map(|(source, mode)| (Arc::clone(source), mode)).collect()
    }

    pub(crate) fn watch(&self) {
        // A fork has the epoll descriptor's number, but the thing itself is the parent's.
        if self.shared().check_process().is_err() || self.watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let token = epoll::EventData::new_u64(REACTOR_TOKEN);
        // Without it messages would still be noticed, by the background thread, only later.
        let _ = epoll::add(&self.inbox.epoll, self.shared().reactor.fd(), token, flags);
        // Until `try_recv` says that there is nothing, there may be something.
        self.inbox.signal.raise();
    }
}

/// Takes the messages of a batch, from wherever each of them lies.
pub(crate) trait Take {
    /// One that owns what it shows.
    fn whole(&mut self, message: Message);
    /// One that lies in a ring by itself.
    fn alone(&mut self, message: Alone<'_>);
    /// One of a pack.
    fn packed(&mut self, source: &Arc<Source>, message: &Packed<'_>);
    /// One of those that came by socket behind each other.
    fn in_run(&mut self, message: InRun<'_>);
}

/// Keeps them.
struct Collect<'a>(&'a mut Vec<Message>);

impl Take for Collect<'_> {
    fn whole(&mut self, message: Message) {
        self.0.push(message);
    }

    fn alone(&mut self, message: Alone<'_>) {
        self.0.push(message.into_message());
    }

    fn packed(&mut self, source: &Arc<Source>, message: &Packed<'_>) {
        self.0.push(Message::from_ring(packed_parts(source, message), message.payload));
    }

    fn in_run(&mut self, message: InRun<'_>) {
        self.0.push(message.into_message());
    }
}

/// Keeps one.
pub(crate) struct One(pub(crate) Option<Message>);

impl Take for One {
    fn whole(&mut self, message: Message) {
        self.0 = Some(message);
    }

    #[inline]
    fn alone(&mut self, message: Alone<'_>) {
        self.0 = Some(message.into_message());
    }

    #[inline]
    fn packed(&mut self, source: &Arc<Source>, message: &Packed<'_>) {
        self.0 = Some(Message::from_ring(packed_parts(source, message), message.payload));
    }

    fn in_run(&mut self, message: InRun<'_>) {
        self.0 = Some(message.into_message());
    }
}

/// Shows them.
struct Show<F>(F);

impl<F: FnMut(MessageRef<'_>)> Take for Show<F> {
    fn whole(&mut self, message: Message) {
        (self.0)(message.by_ref());
    }

    fn alone(&mut self, message: Alone<'_>) {
        message.show(&mut self.0);
    }

    // The way of the smallest messages, of which there may be tens of millions in a second.
    #[inline(always)]
    fn packed(&mut self, source: &Arc<Source>, message: &Packed<'_>) {
        (self.0)(MessageRef::new(packed_parts(source, message), message.payload));
    }

    #[inline]
    fn in_run(&mut self, message: InRun<'_>) {
        message.show(&mut self.0);
    }
}

#[inline]
fn packed_parts<'a>(source: &'a Arc<Source>, message: &Packed<'a>) -> Parts<'a> {
    Parts { source, seq: message.seq, lost: message.lost, meta: message.meta, head: &[] }
}

impl Iterator for Subscription {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.recv() {
            Err(Error::Closed) => None,
            result => Some(result),
        }
    }
}

/// A descriptor for an event loop: when it is readable, call [`try_recv`](Subscription::try_recv) until it
/// returns `None`, which arms it again. Read nothing from it.
impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch();
        self.inbox.epoll.as_fd()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        if shared.check_process().is_err() {
            // In a fork: the parent's subscription, and rings that are not mapped here.
            std::mem::forget(std::mem::replace(
                &mut self.consumer,
                Consumer::new(Spinner::new(Duration::ZERO)),
            ));
            return;
        }
        lock(&shared.session).subscriptions.remove(&self.inbox.id);
        // Readers go first: what they still hold in place is released with the last message, and only
        // then may the broker let the publisher forget them.
        self.inbox.abandon();
        self.consumer = Consumer::new(Spinner::new(Duration::ZERO));
        shared.unsubscribe(&self.inbox);
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("filter", &self.filter_str()).finish_non_exhaustive()
    }
}
