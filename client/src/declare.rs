//! Wanting a queue to be there.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::reactor::lock;
use crate::session::Answer;
use crate::shared::Shared;
use std::time::Duration;
use tramline_wire::{DeclareQueue, Strategy, ToBroker, WhenFull};

/// A queue that is to be there, with the broker's defaults where nothing is said; made by [`Client::queue`].
#[must_use = "nothing happens before declare()"]
#[derive(Debug, Clone)]
pub struct QueueBuilder<'a, C = Client> {
    client: &'a C,
    wanted: Wanted<'a>,
}

#[derive(Debug, Clone)]
pub(crate) struct Wanted<'a> {
    queue: &'a str,
    bind: String,
    strategy: Strategy,
    when_full: WhenFull,
    messages_max: u64,
    bytes_max: u64,
    ack_timeout_millis: u32,
    attempts_max: u16,
    ttl_millis: u32,
    durable: bool,
}

impl<'a, C> QueueBuilder<'a, C> {
    pub(crate) fn new(client: &'a C, queue: &'a str) -> Self {
        let wanted = Wanted {
            queue,
            bind: String::new(),
            strategy: Strategy::RoundRobin,
            when_full: WhenFull::Refuse,
            messages_max: 0,
            bytes_max: 0,
            ack_timeout_millis: 0,
            attempts_max: 0,
            ttl_millis: 0,
            durable: false,
        };
        Self { client, wanted }
    }

    /// Messages published on topics that this filter selects land in it, too. May be given again.
    pub fn bind(mut self, filter: &str) -> Self {
        if !self.wanted.bind.is_empty() {
            self.wanted.bind.push(' ');
        }
        self.wanted.bind.push_str(filter);
        self
    }

    /// Who gets the next message.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.wanted.strategy = strategy;
        self
    }

    /// What happens to a message for which there is no room.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.wanted.when_full = when_full;
        self
    }

    /// Messages it may hold.
    pub fn messages_max(mut self, messages: u64) -> Self {
        self.wanted.messages_max = messages;
        self
    }

    /// Bytes it may hold; each message counts with 150 more.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.wanted.bytes_max = bytes;
        self
    }

    /// How long a consumer may keep a message before it goes to another.
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.wanted.ack_timeout_millis = crate::push::millis(timeout).max(1);
        self
    }

    /// How often a message is given out before it becomes a dead letter.
    pub fn attempts_max(mut self, attempts: u16) -> Self {
        self.wanted.attempts_max = attempts;
        self
    }

    /// How long a message may wait.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.wanted.ttl_millis = crate::push::millis(ttl).max(1);
        self
    }

    /// It and its messages are kept on disk, and are there again when the broker is: a push is confirmed when the disk has
    /// it. Needs a permission of its own, `allow.declare_durable_queues`.
    pub fn durable(mut self) -> Self {
        self.wanted.durable = true;
        self
    }
}

impl Shared {
    fn ask_for_queue(&self, wanted: &Wanted<'_>) -> Result<u32> {
        self.check_process()?;
        let mut session = lock(&self.session);
        let mut outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        let req = session.begin();
        outbound.push(&ToBroker::DeclareQueue(DeclareQueue {
            req,
            queue: wanted.queue,
            bind: &wanted.bind,
            strategy: wanted.strategy,
            when_full: wanted.when_full,
            messages_max: wanted.messages_max,
            bytes_max: wanted.bytes_max,
            ack_timeout_millis: wanted.ack_timeout_millis,
            attempts_max: wanted.attempts_max,
            ttl_millis: wanted.ttl_millis,
            durable: wanted.durable,
        }));
        self.write_out(&mut outbound);
        Ok(req)
    }
}

fn declared(answer: Answer) -> Result<()> {
    match answer {
        Answer::Done => Ok(()),
        other => Err(Error::Protocol(format!("{other:?} for a queue").into())),
    }
}

const WHAT: &str = "answer to a queue";

impl QueueBuilder<'_> {
    /// Blocks until the queue is there. A queue that was declared lasts as long as its broker runs, unless it is
    /// [`durable`](Self::durable); it is not declared again by itself when there is another broker.
    ///
    /// # Errors
    /// [`Code::Denied`](crate::Code::Denied) unless this user is the broker's own, root or named by
    /// `allow.declare_queues`; [`Code::QueueExists`](crate::Code::QueueExists) if there is one with other settings; a
    /// limit; a connection that is down.
    pub fn declare(self) -> Result<()> {
        let shared = &self.client.handle.shared;
        let req = shared.ask_for_queue(&self.wanted)?;
        declared(shared.wait_for_answer(req, WHAT)?)
    }
}

#[cfg(feature = "tokio")]
impl QueueBuilder<'_, crate::AsyncClient> {
    /// As [`QueueBuilder::declare`] of a blocking client.
    ///
    /// # Errors
    /// As there.
    pub async fn declare(self) -> Result<()> {
        let shared = self.client.shared();
        let req = shared.ask_for_queue(&self.wanted)?;
        declared(shared.answer_async(req, WHAT).await?)
    }
}

impl Client {
    /// A queue that is to be there; end with [`declare`](QueueBuilder::declare).
    pub fn queue<'a>(&'a self, queue: &'a str) -> QueueBuilder<'a> {
        QueueBuilder::new(self, queue)
    }
}
