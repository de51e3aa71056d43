//! Pushing to queues: aliases, numbers, and what the broker says of each message.
//!
//! Every push is answered. Whoever does not wait for the answer is told of a refusal by the next call, as with a publish.

use crate::client::Client;
use crate::clock::{deadline_after, monotonic_nanos};
use crate::draft::{Draft, Outgoing};
use crate::error::{Error, Result};
use crate::reactor::lock;
use crate::shared::Shared;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tramline_wire::limits::{ALIASES_MAX, MESSAGE_ID_BYTES_MAX, PRIORITY_DEFAULT, PRIORITY_MAX};
use tramline_wire::{Encoding, LimitInfo, Message, Push, ToBroker};

/// Bytes of pushes that are gathered before they are written out.
const GATHER_BYTES: usize = 32 * 1024;

/// A queue that this client pushes to.
struct PushQueue {
    name: Box<str>,
    alias: u32,
    /// The connection that knows the alias.
    epoch: u64,
    next_seq: u64,
}

/// What this client pushes to, and whose answers are awaited.
#[derive(Default)]
pub(crate) struct Pushes {
    queues: Vec<PushQueue>,
    by_name: HashMap<Box<str>, usize>,
    /// The queue of the last push, most often that of the next.
    last: usize,
    /// Pushes that somebody waits for, by alias and number.
    awaited: HashMap<(u32, u64), Option<Result<()>>>,
}

impl Pushes {
    fn queue(&mut self, name: &str) -> Result<&mut PushQueue> {
        if self.queues.get(self.last).is_none_or(|last| *last.name != *name) {
            self.last = match self.by_name.get(name) {
                Some(place) => *place,
                None => self.begin(name)?,
            };
        }
        Ok(&mut self.queues[self.last])
    }

    fn begin(&mut self, name: &str) -> Result<usize> {
        let (place, most) = (self.queues.len(), ALIASES_MAX as usize);
        let alias = u32::try_from(place).ok().filter(|alias| *alias < ALIASES_MAX);
        let alias = alias.ok_or_else(|| Error::over("queues_per_client_max", most, place + 1))?;
        self.queues.push(PushQueue { name: name.into(), alias, epoch: 0, next_seq: 1 });
        self.by_name.insert(name.into(), place);
        Ok(place)
    }

    /// These pushes were taken. Whether somebody waits for one of them.
    pub(crate) fn taken(&mut self, alias: u32, first: u64, last: u64) -> bool {
        let mut found = false;
        for (_, answer) in
            self.awaited.iter_mut().filter(|((of, seq), _)| *of == alias && (first..=last).contains(seq))
        {
            *answer = Some(Ok(()));
            found = true;
        }
        found
    }

    /// This push was not taken. The error comes back if nobody waits for it.
    fn refused(&mut self, alias: u32, seq: u64, error: Error) -> Option<Error> {
        match self.awaited.get_mut(&(alias, seq)) {
            Some(answer) => {
                *answer = Some(Err(error));
                None
            }
            None => Some(error),
        }
    }

    /// The connection is lost: nobody will ever say what became of them.
    pub(crate) fn disconnected(&mut self, reason: &Option<Box<str>>) {
        for answer in self.awaited.values_mut().filter(|answer| answer.is_none()) {
            *answer = Some(Err(Error::Disconnected(reason.clone())));
        }
    }
}

/// How a message is to be queued.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queued<'a> {
    pub(crate) queue: &'a str,
    pub(crate) priority: u8,
    pub(crate) delay_millis: u32,
    pub(crate) ttl_millis: u32,
    pub(crate) id: &'a [u8],
}

/// Milliseconds, as many as there can be.
pub(crate) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl Shared {
    pub(crate) fn push_refused(
        &self,
        alias: u32,
        seq: u64,
        (code, message): (u16, &str),
        limit: Option<LimitInfo<'_>>,
    ) {
        let mut session = lock(&self.session);
        if let Some(error) = session.pushes.refused(alias, seq, Error::refused(code, message, limit)) {
            session.fault.get_or_insert(error);
            self.faulty.store(true, Ordering::Relaxed);
        }
        drop(session);
        self.reactor.changed();
    }

    /// Tries to send once; `None`: there is no room now.
    pub(crate) fn step_push(
        &self,
        queued: &Queued<'_>,
        message: &Outgoing<'_>,
        awaited: bool,
        flush: bool,
    ) -> Result<Option<(u32, u64)>> {
        if queued.priority > PRIORITY_MAX {
            return Err(Error::over("priority_max", PRIORITY_MAX.into(), queued.priority.into()));
        }
        if queued.id.len() > MESSAGE_ID_BYTES_MAX {
            return Err(Error::over("message_id_bytes_max", MESSAGE_ID_BYTES_MAX, queued.id.len()));
        }
        let bytes = message.payload.len() + message.head.len() + queued.id.len();
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
        let pushes = &mut session.pushes;
        let queue = pushes.queue(queued.queue)?;
        let epoch = outbound.epoch();
        if queue.epoch != epoch {
            queue.epoch = epoch;
            outbound.push(&ToBroker::OpenQueue { req: 0, alias: queue.alias, queue: queued.queue });
        }
        let Some(payload) = placed.tell(&mut outbound, message.payload) else { return Ok(None) };
        let (alias, seq) = (queue.alias, queue.next_seq);
        queue.next_seq += 1;
        if awaited {
            pushes.awaited.insert((alias, seq), None);
        }
        let meta = message.meta(monotonic_nanos());
        outbound.push_to_queue(&Push {
            queue: alias,
            priority: queued.priority,
            delay_millis: queued.delay_millis,
            ttl_millis: queued.ttl_millis,
            id: queued.id,
            message: Message {
                flags: message.flags,
                seq,
                time: meta.time,
                source_time: meta.source_time,
                after: None,
                head: message.head,
                payload,
            },
        });
        // When the socket takes more, whoever leads writes it.
        let full = outbound.waiting_bytes() >= GATHER_BYTES && !outbound.is_writing();
        if flush || full {
            self.write_out(&mut outbound);
        }
        drop(outbound);
        drop(session);
        Ok(Some((alias, seq)))
    }

    /// Sends, waiting for room if need be.
    fn push(
        &self,
        queued: &Queued<'_>,
        message: &Outgoing<'_>,
        awaited: bool,
        flush: bool,
    ) -> Result<(u32, u64)> {
        self.check_process()?;
        self.take_fault()?;
        if let Some(sent) = self.step_push(queued, message, awaited, flush)? {
            return Ok(sent);
        }
        let after = self.options.request_timeout;
        let sent =
            self.wait_until(deadline_after(after), || self.step_push(queued, message, awaited, flush))?;
        sent.ok_or(Error::TimedOut { what: "room on the broker's socket", after })
    }

    fn push_confirmed(&self, queued: &Queued<'_>, message: &Outgoing<'_>) -> Result<()> {
        let key = self.push(queued, message, true, true)?;
        let after = self.options.request_timeout;
        let found = self.wait_until(deadline_after(after), || self.take_push_answer(key));
        self.forget_push(key);
        found?.ok_or(Error::TimedOut { what: "confirmation by the broker", after })
    }

    pub(crate) fn take_push_answer(&self, key: (u32, u64)) -> Result<Option<()>> {
        lock(&self.session).pushes.awaited.get_mut(&key).and_then(Option::take).transpose()
    }

    pub(crate) fn forget_push(&self, key: (u32, u64)) {
        lock(&self.session).pushes.awaited.remove(&key);
    }
}

impl Client {
    /// A message for a queue; end with [`confirm`](PushBuilder::confirm) or [`send`](PushBuilder::send).
    pub fn push<'a>(&'a self, queue: &'a str, payload: &'a (impl AsRef<[u8]> + ?Sized)) -> PushBuilder<'a> {
        PushBuilder::new(self, queue, payload.as_ref())
    }
}

/// A message for a queue; made by [`Client::push`].
#[must_use = "nothing is sent before confirm() or send()"]
#[derive(Debug, Clone)]
pub struct PushBuilder<'a, C = Client> {
    pub(crate) client: &'a C,
    pub(crate) queued: Queued<'a>,
    pub(crate) payload: &'a [u8],
    pub(crate) draft: Draft<'a>,
}

impl<'a, C> PushBuilder<'a, C> {
    pub(crate) fn new(client: &'a C, queue: &'a str, payload: &'a [u8]) -> Self {
        let queued = Queued { queue, priority: PRIORITY_DEFAULT, delay_millis: 0, ttl_millis: 0, id: &[] };
        Self { client, queued, payload, draft: Draft::default() }
    }

    crate::draft::describes!();

    /// 0 to 9; a queue gives out higher ones first. 4 unless set.
    pub fn priority(mut self, priority: u8) -> Self {
        self.queued.priority = priority;
        self
    }

    /// It is not given out before so long from when the broker has it.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.queued.delay_millis = millis(delay);
        self
    }

    /// It becomes a dead letter if it waits for longer than this once it is due.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.queued.ttl_millis = millis(ttl).max(1);
        self
    }

    /// The same id for the same message, up to 64 bytes: if the queue has seen it lately, from this user, it confirms the
    /// message and does not queue it again. With one, a push whose confirmation did not come can be repeated.
    pub fn id(mut self, id: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.queued.id = id.as_ref();
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

impl PushBuilder<'_> {
    /// Sends it and blocks until the queue has it.
    ///
    /// # Errors
    /// [`Code::QueueFull`](crate::Code::QueueFull), [`Code::UnknownQueue`](crate::Code::UnknownQueue) and other refusals; a
    /// connection that is down, or was lost before the answer came: then the queue may have it or not.
    pub fn confirm(self) -> Result<()> {
        let head = self.draft.head()?;
        let message = self.draft.outgoing(&head, self.payload);
        self.client.handle.shared.push_confirmed(&self.queued, &message)
    }

    /// Sends it and does not wait for the answer: of a refusal the next call tells.
    ///
    /// # Errors
    /// A connection that is down, or the refusal of an earlier message.
    pub fn send(self) -> Result<()> {
        self.send_now(true)
    }

    /// As [`send`](Self::send), but written out with what follows, at the latest by
    /// [`Client::flush`](crate::Client::flush): for many at once.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_soon(self) -> Result<()> {
        self.send_now(false)
    }

    fn send_now(self, flush: bool) -> Result<()> {
        let head = self.draft.head()?;
        let message = self.draft.outgoing(&head, self.payload);
        self.client.handle.shared.push(&self.queued, &message, false, flush).map(|_| ())
    }
}
