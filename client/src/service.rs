//! Providing services: requests that wait in this process, and their answers.
//!
//! A [`Request`] is answered once; one that is dropped without is answered by saying that this instance could not. Every
//! call is answered, also one that nobody waits for any more: the answer says that there is room for another. What a
//! connection was given is gone with it, and its answers go nowhere.

use crate::client::Client;
use crate::clock::{deadline_after, monotonic_nanos};
use crate::draft::Outgoing;
use crate::error::{End, Error, Result};
use crate::handle::Handle;
use crate::message::Message;
use crate::reactor::lock;
use crate::session::{Answer, Session};
use crate::shared::Shared;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tramline_wire as wire;
use tramline_wire::limits::REPLY_TEXT_BYTES_MAX;
use tramline_wire::{Code, Encoding, ErrorReply, Outcome, Provide, ToBroker};

/// What an instance offers, kept to offer it again after a reconnect.
#[derive(Debug, Clone)]
pub(crate) struct ProvideWish {
    pub(crate) service: Box<str>,
    pub(crate) concurrency: u32,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
}

/// A request that waits in this process.
pub(crate) struct WaitingCall {
    pub(crate) message: Message,
    pub(crate) call: u64,
    pub(crate) attempt: u32,
    pub(crate) deadline: Instant,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<WaitingCall>,
    /// The connection that the requests came on.
    epoch: u64,
    /// Calls that nobody waits for any more and that are not answered yet.
    over: BTreeSet<u64>,
    closed: Option<End>,
}

/// An instance as the leader and its owner share it.
pub(crate) struct CallBox {
    pub(crate) id: u32,
    pub(crate) wish: ProvideWish,
    state: Mutex<State>,
    /// Whether something is there: a look that takes no lock.
    filled: AtomicBool,
}

impl CallBox {
    fn new(id: u32, wish: ProvideWish) -> Self {
        Self { id, wish, state: Mutex::default(), filled: AtomicBool::new(false) }
    }

    /// A request has come.
    pub(crate) fn push(&self, call: WaitingCall) {
        lock(&self.state).waiting.push_back(call);
        self.filled.store(true, Ordering::Release);
    }

    /// Nobody waits for the answer to a call any more. Whether nobody has begun with it either.
    pub(crate) fn over(&self, call: u64) -> bool {
        let mut state = lock(&self.state);
        let before = state.waiting.len();
        state.waiting.retain(|waiting| waiting.call != call);
        if state.waiting.len() < before {
            return true;
        }
        state.over.insert(call);
        false
    }

    /// Requests from now on come on this connection.
    pub(crate) fn begin(&self, epoch: u64) {
        let mut state = lock(&self.state);
        state.waiting.clear();
        state.over.clear();
        state.epoch = epoch;
    }

    /// Nothing more will come.
    pub(crate) fn close(&self, end: End) {
        lock(&self.state).closed.get_or_insert(end);
        self.filled.store(true, Ordering::Release);
    }

    fn take(&self) -> Result<Option<(WaitingCall, u64)>> {
        if !self.filled.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut state = lock(&self.state);
        if let Some(call) = state.waiting.pop_front() {
            return Ok(Some((call, state.epoch)));
        }
        match &state.closed {
            Some(end) => Err(end.error()),
            None => {
                self.filled.store(false, Ordering::Release);
                Ok(None)
            }
        }
    }
}

/// Asks to provide.
pub(crate) fn offer(req: u32, calls: &CallBox) -> ToBroker<'_> {
    let ProvideWish { service, concurrency, weight, priority } = &calls.wish;
    ToBroker::Provide(Provide {
        req,
        provider: calls.id,
        service,
        concurrency: *concurrency,
        weight: *weight,
        priority: *priority,
    })
}

/// What an instance says when there is nothing to say.
fn nothing() -> Outgoing<'static> {
    Outgoing::plain(Encoding::Binary, &[])
}

impl Session {
    /// Tells every instance that nothing more comes.
    pub(crate) fn close_providers(&self, end: &End) {
        for calls in self.providers.values() {
            calls.close(end.clone());
        }
    }
}

impl Shared {
    pub(crate) fn ask_to_provide(&self, wish: &ProvideWish) -> Result<(u32, Arc<CallBox>)> {
        self.check_process()?;
        let mut session = lock(&self.session);
        let mut outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        session.next_provider = session.next_provider.wrapping_add(1);
        let id = session.next_provider;
        let calls = Arc::new(CallBox::new(id, wish.clone()));
        calls.begin(outbound.epoch());
        session.providers.insert(id, Arc::clone(&calls));
        let req = session.begin();
        outbound.push(&offer(req, &calls));
        self.write_out(&mut outbound);
        Ok((req, calls))
    }

    /// Nobody waits for the answer to a call any more. One that nobody has begun with is answered at once.
    pub(crate) fn call_over(&self, provider: u32, call: u64) {
        let calls = lock(&self.session).providers.get(&provider).cloned();
        if calls.is_some_and(|calls| calls.over(call)) {
            self.give_back(provider, call, "nobody waited for it any more");
        }
    }

    /// Says of a call that nobody will begin with it.
    pub(crate) fn give_back(&self, provider: u32, call: u64, text: &str) {
        self.push_reply(provider, call, Outcome::Failed { text }, &nothing());
    }

    fn push_reply(&self, provider: u32, call: u64, outcome: Outcome<'_>, message: &Outgoing<'_>) {
        // What is not large is always sent, or goes nowhere.
        let _ = self.step_reply(provider, call, outcome, message);
    }

    /// Tries to send once; `None`: there is no room for a large answer now.
    fn step_reply(
        &self,
        provider: u32,
        call: u64,
        outcome: Outcome<'_>,
        message: &Outgoing<'_>,
    ) -> Result<Option<()>> {
        let words = message.head.len() + REPLY_TEXT_BYTES_MAX;
        let placed = self.place_if_large(message.payload.len() + words, message.payload)?;
        let Some(mut placed) = placed else { return Ok(None) };
        let mut outbound = lock(&self.outbound);
        if !outbound.open {
            return Ok(Some(()));
        }
        let Some(payload) = placed.tell(&mut outbound, message.payload) else { return Ok(Some(())) };
        let meta = message.meta(monotonic_nanos());
        // There is at most one for each call, so what waits is bounded by what the instance offers.
        outbound.push(&ToBroker::Reply(wire::Reply {
            provider,
            call,
            outcome,
            message: wire::Message {
                flags: message.flags,
                seq: call,
                time: meta.time,
                source_time: meta.source_time,
                after: None,
                head: message.head,
                payload,
            },
        }));
        self.write_out(&mut outbound);
        Ok(Some(()))
    }

    pub(crate) fn end_providing(&self, calls: &CallBox) {
        if self.check_process().is_err() {
            return;
        }
        let waiting = std::mem::take(&mut lock(&calls.state).waiting);
        let mut session = lock(&self.session);
        if session.providers.remove(&calls.id).is_none() {
            return;
        }
        let req = session.request_number();
        let mut outbound = lock(&self.outbound);
        if !outbound.open {
            return;
        }
        outbound.push(&ToBroker::EndProvide { req, provider: calls.id });
        drop((outbound, session));
        for call in waiting {
            self.give_back(calls.id, call.call, "the instance ends");
        }
        self.write_out(&mut lock(&self.outbound));
    }
}

impl Client {
    /// Provides a service; end with [`handle`](ServiceBuilder::handle) or [`start`](ServiceBuilder::start).
    pub fn service(&self, service: &str) -> ServiceBuilder {
        ServiceBuilder::new(Arc::clone(&self.handle), service)
    }
}

/// An instance of a service about to be started; made by [`Client::service`].
#[must_use = "nothing happens before handle() or start()"]
#[derive(Debug)]
pub struct ServiceBuilder {
    pub(crate) handle: Arc<Handle>,
    pub(crate) wish: ProvideWish,
}

impl ServiceBuilder {
    pub(crate) fn new(handle: Arc<Handle>, service: &str) -> Self {
        let wish = ProvideWish { service: service.into(), concurrency: 1, weight: 1, priority: 0 };
        Self { handle, wish }
    }

    /// How many requests it works on at a time; 1 unless set.
    pub fn concurrency(mut self, requests: u32) -> Self {
        self.wish.concurrency = requests.max(1);
        self
    }

    /// Its share where the service goes in turn or balances load.
    pub fn weight(mut self, weight: u32) -> Self {
        self.wish.weight = weight;
        self
    }

    /// Its place where the service fails over; the lowest is first.
    pub fn failover_priority(mut self, priority: u32) -> Self {
        self.wish.priority = priority;
        self
    }

    /// Answers requests on this thread, and on as many more as are worked on at a time, until the client is closed.
    ///
    /// The handler answers by [`Request::reply`] and its like. An error that it returns is the answer, as by
    /// [`Request::reply_error`] with number 0. If it panics or does not answer, the request counts as failed by this instance,
    /// as by [`Request::fail`].
    ///
    /// # Errors
    /// As [`start`](Self::start), and a refusal to provide after a reconnect.
    pub fn handle<E: Display>(self, handler: impl Fn(&Request) -> Result<(), E> + Sync) -> Result<()> {
        let threads = self.wish.concurrency;
        let requests = self.start()?;
        let serve = || loop {
            match requests.next_within(None) {
                Ok(Some(request)) => answer(&request, &handler),
                Ok(None) | Err(Error::Closed) => return Ok(()),
                Err(error) => return Err(error),
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(serve)).collect();
            let first = serve();
            others.into_iter().fold(first, |result, other| result.and(other.join().unwrap_or(Ok(()))))
        })
    }

    /// Starts providing; blocks until the broker has agreed. Requests are then taken from what this returns.
    ///
    /// # Errors
    /// A missing right, a limit, or a connection that is down.
    pub fn start(self) -> Result<Requests> {
        let shared = &self.handle.shared;
        let (req, calls) = shared.ask_to_provide(&self.wish)?;
        match shared.wait_for_answer(req, "answer to providing a service") {
            Ok(Answer::Done) => Ok(Requests { handle: self.handle, calls }),
            other => {
                lock(&shared.session).providers.remove(&calls.id);
                Err(other.err().unwrap_or_else(|| Error::Protocol("an answer to something else".into())))
            }
        }
    }
}

/// Has a request answered by a handler.
fn answer<E: Display>(request: &Request, handler: &impl Fn(&Request) -> Result<(), E>) {
    // What is told of an answer that cannot be given is told to whoever waits for it.
    let _ = match catch_unwind(AssertUnwindSafe(|| handler(request))) {
        _ if request.is_answered() => Ok(()),
        Ok(Ok(())) => request.fail("the handler did not answer"),
        Ok(Err(error)) => request.reply_error(0, &error.to_string()),
        Err(_) => request.fail("the handler panicked"),
    };
}

/// The requests of a service, one after the other; made by [`ServiceBuilder::start`]. After a loss of the connection it goes on
/// with the next one. Dropping it ends the instance; requests that are held can still be answered.
pub struct Requests {
    pub(crate) handle: Arc<Handle>,
    pub(crate) calls: Arc<CallBox>,
}

impl Requests {
    /// The next request; blocks until there is one.
    ///
    /// # Errors
    /// A client that was closed, or a refusal to provide after a reconnect.
    pub fn recv(&mut self) -> Result<Request> {
        self.next_within(None)?.ok_or(Error::Closed)
    }

    /// The next request, if one comes within `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Request>> {
        self.next_within(deadline_after(timeout))
    }

    /// The next request, if one has come.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Request>> {
        self.handle.shared.check_process()?;
        if let Some(request) = take(&self.handle, &self.calls)? {
            return Ok(Some(request));
        }
        self.handle.shared.poke()?;
        take(&self.handle, &self.calls)
    }

    fn next_within(&self, deadline: Option<Instant>) -> Result<Option<Request>> {
        let shared = &self.handle.shared;
        shared.check_process()?;
        if let Some(request) = take(&self.handle, &self.calls)? {
            return Ok(Some(request));
        }
        shared.wait_until(deadline, || take(&self.handle, &self.calls))
    }
}

/// The next request of an instance, if one is here.
pub(crate) fn take(handle: &Arc<Handle>, calls: &Arc<CallBox>) -> Result<Option<Request>> {
    let Some((waiting, epoch)) = calls.take()? else { return Ok(None) };
    let WaitingCall { message, call, attempt, deadline } = waiting;
    Ok(Some(Request {
        handle: Arc::clone(handle),
        calls: Arc::clone(calls),
        message,
        call,
        epoch,
        attempt,
        deadline,
        answered: AtomicBool::new(false),
    }))
}

impl Iterator for Requests {
    type Item = Result<Request>;

    /// The next request; blocks until there is one. Ends when the client is closed.
    fn next(&mut self) -> Option<Self::Item> {
        match self.recv() {
            Err(Error::Closed) => None,
            other => Some(other),
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.handle.shared.end_providing(&self.calls);
    }
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("service", &self.calls.wish.service).finish_non_exhaustive()
    }
}

/// A request to be answered, once: by [`reply`](Self::reply) and its like, [`reply_error`](Self::reply_error) or
/// [`fail`](Self::fail). Dropped without, it counts as failed by this instance. It reads as the [`Message`] it holds. Answering
/// does not block.
pub struct Request {
    handle: Arc<Handle>,
    calls: Arc<CallBox>,
    message: Message,
    call: u64,
    epoch: u64,
    attempt: u32,
    deadline: Instant,
    answered: AtomicBool,
}

impl Request {
    /// Answers with bytes.
    ///
    /// # Errors
    /// An answer that was given before, or is too large for a frame: then another may be given. [`Code::TooLate`] when nobody
    /// waits for it any more.
    pub fn reply(&self, payload: impl AsRef<[u8]>) -> Result<()> {
        self.reply_as(Encoding::Binary, payload)
    }

    /// Answers with bytes of this encoding.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn reply_as(&self, encoding: Encoding, payload: impl AsRef<[u8]>) -> Result<()> {
        self.answer(Outcome::Done, &Outgoing::plain(encoding, payload.as_ref()))
    }

    /// Answers with text.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn reply_text(&self, text: impl AsRef<str>) -> Result<()> {
        self.reply_as(Encoding::Text, text.as_ref())
    }

    /// Answers with a value as JSON.
    ///
    /// # Errors
    /// As [`reply`](Self::reply), and when the value has no JSON form.
    #[cfg(feature = "serde")]
    pub fn reply_json<T: serde::Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        self.reply_as(Encoding::Json, crate::payload::to_json(value)?)
    }

    /// Answers with an error of the application: its own number and words, which are cut after 1024 bytes. That is an answer
    /// like any other, and no failure of this instance.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn reply_error(&self, number: u32, text: &str) -> Result<()> {
        self.answer(Outcome::Error(ErrorReply { number, text: cut(text) }), &nothing())
    }

    /// Says that this instance could not do it, by a fault of its own: another may try, if the caller allows that.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn fail(&self, text: &str) -> Result<()> {
        self.answer(Outcome::Failed { text: cut(text) }, &nothing())
    }

    /// How often it was given out, this time included.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How much time is left; an answer after that goes nowhere.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether nobody waits for the answer any more: its time is over, or its caller has gone or given up.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let state = lock(&self.calls.state);
        state.epoch != self.epoch || state.over.contains(&self.call)
    }

    /// Whether it has been answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire)
    }

    /// The message itself.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    fn answer(&self, outcome: Outcome<'_>, message: &Outgoing<'_>) -> Result<()> {
        let shared = &self.handle.shared;
        shared.check_process()?;
        if self.answered.swap(true, Ordering::AcqRel) {
            return Err(Error::refused(Code::SettledTwice.number(), "the request was answered before", None));
        }
        let over = {
            let mut state = lock(&self.calls.state);
            if state.epoch != self.epoch {
                let gone = "the connection on which the request came has ended: its caller was told so";
                return Err(Error::refused(Code::TooLate.number(), gone, None));
            }
            state.over.remove(&self.call)
        };
        // Told all the same, so that the broker gives this instance another.
        let step = || shared.step_reply(self.calls.id, self.call, outcome, message);
        let sent = match step() {
            Ok(None) => shared.wait_until(Some(self.deadline), step),
            other => other,
        };
        match sent {
            Ok(Some(())) => {}
            Ok(None) => {
                // Its time is over. Said all the same, so that the broker gives this instance another.
                let text = "there was no room for the answer in time";
                shared.push_reply(self.calls.id, self.call, Outcome::Failed { text }, &nothing());
                return Err(Error::refused(Code::TooLate.number(), text, None));
            }
            Err(error) => {
                self.answered.store(false, Ordering::Release);
                return Err(error);
            }
        }
        if over {
            let message = "nobody waits for the answer any more";
            return Err(Error::refused(Code::TooLate.number(), message, None));
        }
        Ok(())
    }
}

/// The longest beginning that may travel with a reply.
fn cut(text: &str) -> &str {
    let most = REPLY_TEXT_BYTES_MAX.min(text.len());
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

impl std::ops::Deref for Request {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.is_answered() {
            // If that cannot be said any more, the caller knows already.
            let _ = self.fail("the request was dropped without an answer");
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { message, call, attempt, .. } = self;
        f.debug_struct("Request")
            .field("call", call)
            .field("attempt", attempt)
            .field("message", message)
            .finish_non_exhaustive()
    }
}
