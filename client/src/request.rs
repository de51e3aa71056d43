//! Requests to services: numbers, and the answers that are awaited.
//!
//! The broker says what became of each request within its time. This side waits a little longer than that and then gives up
//! by itself: a broker that has stopped holds nobody up.

use crate::client::Client;
use crate::clock::{deadline_after, monotonic_nanos};
use crate::draft::{Draft, Outgoing};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::message::Message;
use crate::push::millis;
use crate::reactor::lock;
use crate::shared::Shared;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tramline_wire as wire;
use tramline_wire::limits::REQUEST_MILLIS_CEILING;
use tramline_wire::{Encoding, LimitInfo, ToBroker};

/// How much longer than the broker this side waits.
const GRACE: Duration = Duration::from_millis(250);

/// Requests whose answers are awaited, by number.
#[derive(Default)]
pub(crate) struct Asked {
    last: u64,
    awaited: HashMap<u64, Option<Result<Message>>>,
}

impl Asked {
    fn begin(&mut self) -> u64 {
        self.last += 1;
        self.awaited.insert(self.last, None);
        self.last
    }

    /// An answer, or why there is none. Whether somebody waits for it.
    pub(crate) fn answered(&mut self, request: u64, answer: Result<Message>) -> bool {
        let place = self.awaited.get_mut(&request);
        place.map(|place| *place = Some(answer)).is_some()
    }

    /// The connection is lost: what became of what was asked on it nobody will say.
    pub(crate) fn disconnected(&mut self, reason: &Option<Box<str>>) {
        for answer in self.awaited.values_mut().filter(|answer| answer.is_none()) {
            *answer = Some(Err(Error::Disconnected(reason.clone())));
        }
    }
}

/// What is asked of whom, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) service: &'a str,
    pub(crate) timeout: Option<Duration>,
    pub(crate) idempotent: bool,
}

impl Asking<'_> {
    /// When this side gives up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let ceiling = Duration::from_millis(REQUEST_MILLIS_CEILING.into());
        deadline_after(self.timeout.unwrap_or(ceiling).saturating_add(GRACE))
    }

    /// Until when it may be asked anew, if the connection was lost.
    pub(crate) fn again_until(&self, shared: &Shared) -> Option<Instant> {
        let may = self.idempotent && shared.options.reconnect;
        may.then(|| deadline_after(self.timeout.unwrap_or(shared.options.request_timeout))).flatten()
    }

    /// With what is left of its time.
    pub(crate) fn until(self, end: Instant) -> Self {
        let left = self.timeout.map(|_| end.saturating_duration_since(Instant::now()));
        Self { timeout: left, ..self }
    }

    pub(crate) fn timed_out(&self) -> Error {
        Error::TimedOut { what: "word of the broker about a request", after: self.timeout.unwrap_or(GRACE) }
    }
}

impl Shared {
    pub(crate) fn request_failed(
        &self,
        request: u64,
        (code, message): (u16, &str),
        limit: Option<LimitInfo<'_>>,
    ) {
        let error = Error::refused(code, message, limit);
        if lock(&self.session).asked.answered(request, Err(error)) {
            self.reactor.changed();
        }
    }

    /// Tries to send once; `None`: there is no room now.
    pub(crate) fn step_request(
        &self,
        asking: &Asking<'_>,
        message: &Outgoing<'_>,
        flush: bool,
    ) -> Result<Option<u64>> {
        let bytes = message.payload.len() + message.head.len() + asking.service.len();
        let Some(mut placed) = self.place_if_large(bytes, message.payload)? else { return Ok(None) };
        let mut session = lock(&self.session);
        let mut outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        if !outbound.has_room() {
            self.write_out(&mut outbound);
            if !outbound.has_room() {
                return Ok(None);
            }
        }
        let Some(payload) = placed.tell(&mut outbound, message.payload) else { return Ok(None) };
        let seq = session.asked.begin();
        let meta = message.meta(monotonic_nanos());
        outbound.push(&ToBroker::Request(wire::Request {
            service: asking.service,
            timeout_millis: asking.timeout.map_or(0, |timeout| millis(timeout).max(1)),
            idempotent: asking.idempotent,
            message: wire::Message {
                flags: message.flags,
                seq,
                time: meta.time,
                source_time: meta.source_time,
                after: None,
                head: message.head,
                payload,
            },
        }));
        if flush {
            self.write_out(&mut outbound);
        }
        drop(outbound);
        drop(session);
        Ok(Some(seq))
    }

    /// Sends, waiting for room if need be; `again_until`: and for the connection.
    fn begin_request(
        &self,
        asking: &Asking<'_>,
        message: &Outgoing<'_>,
        again_until: Option<Instant>,
    ) -> Result<u64> {
        self.check_process()?;
        let asked = self.step_again(asking, message, again_until)?;
        if let Some(request) = asked {
            return Ok(request);
        }
        let after = self.options.request_timeout;
        let deadline = again_until.or_else(|| deadline_after(after));
        let sent = self.wait_until(deadline, || self.step_again(asking, message, again_until))?;
        sent.ok_or(Error::TimedOut { what: "room on the broker's socket", after })
    }

    /// As [`Self::step_request`]; a connection that may come back in time is waited for.
    pub(crate) fn step_again(
        &self,
        asking: &Asking<'_>,
        message: &Outgoing<'_>,
        again_until: Option<Instant>,
    ) -> Result<Option<u64>> {
        match self.step_request(asking, message, true) {
            Err(error @ Error::Disconnected(_)) => match again_until {
                Some(end) if Instant::now() < end => Ok(None),
                _ => Err(error),
            },
            other => other,
        }
    }

    pub(crate) fn take_reply(&self, request: u64) -> Result<Option<Message>> {
        let mut session = lock(&self.session);
        let awaited = &mut session.asked.awaited;
        if awaited.get(&request).is_some_and(Option::is_none) {
            return Ok(None);
        }
        awaited.remove(&request).flatten().transpose()
    }

    /// Nobody waits for this answer any more; the broker is told, unless there is one.
    pub(crate) fn forget_request(&self, request: u64) {
        if self.check_process().is_err() {
            return;
        }
        let Some(None) = lock(&self.session).asked.awaited.remove(&request) else { return };
        let mut outbound = lock(&self.outbound);
        if outbound.open {
            outbound.push(&ToBroker::CancelRequest { request });
            self.write_out(&mut outbound);
        }
    }
}

impl Client {
    /// A request to a service; end with [`send`](RequestBuilder::send) or [`start`](RequestBuilder::start).
    pub fn request<'a>(
        &'a self,
        service: &'a str,
        payload: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> RequestBuilder<'a> {
        RequestBuilder::new(self, service, payload.as_ref())
    }
}

/// A request to a service; made by [`Client::request`], and by `AsyncClient::request`.
#[must_use = "nothing is sent before send() or start()"]
#[derive(Debug, Clone)]
pub struct RequestBuilder<'a, C = Client> {
    pub(crate) client: &'a C,
    pub(crate) asking: Asking<'a>,
    pub(crate) payload: &'a [u8],
    pub(crate) draft: Draft<'a>,
}

impl<'a, C> RequestBuilder<'a, C> {
    pub(crate) fn new(client: &'a C, service: &'a str, payload: &'a [u8]) -> Self {
        let asking = Asking { service, timeout: None, idempotent: false };
        Self { client, asking, payload, draft: Draft::default() }
    }

    crate::draft::describes!();

    /// How long the answer may take; unless set, as long as the service's configuration says.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.asking.timeout = Some(timeout);
        self
    }

    /// It may be carried out more than once: another instance is asked when one has failed, and the broker anew after a loss
    /// of the connection, as long as there is time.
    pub fn idempotent(mut self) -> Self {
        self.asking.idempotent = true;
        self
    }

    /// It is text, in UTF-8.
    pub fn text(mut self) -> Self {
        self.draft.encoding = Encoding::Text;
        self
    }

    /// It is JSON.
    pub fn json(mut self) -> Self {
        self.draft.encoding = Encoding::Json;
        self
    }
}

impl RequestBuilder<'_> {
    /// Sends it and blocks until the answer is there.
    ///
    /// # Errors
    /// [`Error::Reply`] when the service answers with an error of its own. [`Code::NoInstance`](crate::Code::NoInstance),
    /// [`Code::OutcomeUnknown`](crate::Code::OutcomeUnknown) when the instance died,
    /// [`Code::InstanceFailed`](crate::Code::InstanceFailed), [`Code::TimedOut`](crate::Code::TimedOut), limits and missing
    /// rights. A connection that was lost before the answer came: then it may have been carried out or not.
    pub fn send(self) -> Result<Message> {
        let shared = &self.client.handle.shared;
        let head = self.draft.head()?;
        let message = self.draft.outgoing(&head, self.payload);
        let again_until = self.asking.again_until(shared);
        let mut asking = self.asking;
        loop {
            let pending = self.client.begin(&asking, &message, again_until)?;
            match (pending.wait(), again_until) {
                (Err(Error::Disconnected(_)), Some(end)) if Instant::now() < end => {
                    asking = asking.until(end)
                }
                (answer, _) => return answer,
            }
        }
    }

    /// Sends it, and does not wait for the answer yet. Many requests can be under way at a time.
    ///
    /// # Errors
    /// A connection that is down.
    pub fn start(self) -> Result<PendingReply> {
        let head = self.draft.head()?;
        let message = self.draft.outgoing(&head, self.payload);
        self.client.begin(&self.asking, &message, None)
    }
}

impl Client {
    fn begin(
        &self,
        asking: &Asking<'_>,
        message: &Outgoing<'_>,
        again_until: Option<Instant>,
    ) -> Result<PendingReply> {
        let deadline = asking.deadline();
        let request = self.handle.shared.begin_request(asking, message, again_until)?;
        let timed_out = asking.timed_out();
        Ok(PendingReply { handle: Arc::clone(&self.handle), request, deadline, timed_out: Some(timed_out) })
    }
}

/// An answer that is to come; made by [`RequestBuilder::start`]. Dropping it cancels the request.
pub struct PendingReply {
    handle: Arc<Handle>,
    request: u64,
    deadline: Option<Instant>,
    timed_out: Option<Error>,
}

impl PendingReply {
    /// Blocks until the answer is there.
    ///
    /// # Errors
    /// As [`RequestBuilder::send`].
    pub fn wait(mut self) -> Result<Message> {
        let shared = &self.handle.shared;
        let found = shared.wait_until(self.deadline, || shared.take_reply(self.request))?;
        found.ok_or_else(|| self.timed_out.take().unwrap_or(Error::Closed))
    }

    /// The answer, if it has come. It is given once.
    ///
    /// # Errors
    /// As [`RequestBuilder::send`].
    pub fn try_wait(&mut self) -> Result<Option<Message>> {
        let shared = &self.handle.shared;
        if let Some(message) = shared.take_reply(self.request)? {
            return Ok(Some(message));
        }
        shared.poke()?;
        shared.take_reply(self.request)
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        self.handle.shared.forget_request(self.request);
    }
}

impl std::fmt::Debug for PendingReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingReply").field("request", &self.request).finish_non_exhaustive()
    }
}
