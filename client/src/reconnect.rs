//! The life of a connection: greeting, loss, backoff, and what is asked for again on the next one.
//!
//! All of it is driven by the leader, which never waits here. Rings are not touched by a loss: messages
//! go on flowing on those that are attached. On the next connection the attachments that are left are named
//! (`adoption`), subscriptions are made again and streams are opened again with the memory they have. A
//! subscription to which a stream that it reads is offered nevertheless goes over to the new attachment where the
//! old one's messages end, and drops the old one.

use crate::adoption::name_what_is_left;
use crate::error::{End, Error, Result};
use crate::inbound::Inbound;
use crate::inbox::Item;
use crate::reactor::lock;
use crate::service::offer;
use crate::session::Restoring;
use crate::shared::Shared;
use crate::socket::Socket;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tramline_wire::{Code, Subscribe, ToBroker};

/// The first pause before connecting again; each failure doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(20);

/// The longest pause before connecting again.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How far a connection is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// There has been none yet.
    Idle,
    /// The preamble is sent, and `Hello` after it.
    Preamble {
        until: Instant,
    },
    /// The preamble was answered.
    Greeting {
        until: Instant,
    },
    Open,
    /// The connection was lost; try again at this moment.
    Waiting {
        at: Instant,
    },
    /// For good.
    Closed,
}

impl Phase {
    pub(crate) fn timer(&self) -> Option<Instant> {
        match self {
            Self::Preamble { until } | Self::Greeting { until } => Some(*until),
            Self::Waiting { at } => Some(*at),
            Self::Idle | Self::Open | Self::Closed => None,
        }
    }

    pub(crate) fn awaits_preamble(&self) -> bool {
        matches!(self, Self::Preamble { .. })
    }

    pub(crate) fn preamble_came(&mut self) {
        if let Self::Preamble { until } = *self {
            *self = Self::Greeting { until };
        }
    }
}

impl Shared {
    /// Takes a connected socket into use and greets the broker.
    pub(crate) fn begin(&self, inbound: &mut Inbound, socket: Socket) -> Result<()> {
        let socket = Arc::new(socket);
        inbound.reset();
        lock(&self.session).topic_settings.clear();
        inbound.phase = Phase::Preamble { until: Instant::now() + self.options.request_timeout };
        inbound.socket = Some(Arc::clone(&socket));
        self.reading_paused.store(false, Ordering::SeqCst);
        let mut outbound = lock(&self.outbound);
        outbound.begin(socket).map_err(Error::io("watching the broker's socket"))?;
        outbound.push_bytes(&tramline_wire::preamble::request());
        outbound.push(&ToBroker::Hello { name: &self.options.name, client: self.number });
        self.write_out(&mut outbound);
        Ok(())
    }

    /// The connection is of no more use.
    pub(crate) fn lost(&self, inbound: &mut Inbound, error: Error) {
        lock(&self.outbound).end();
        inbound.cut();
        inbound.reset();
        let again = self.options.reconnect
            && inbound.was_open
            && !self.closing.load(Ordering::Acquire)
            && !is_final(error.code());
        let reason: Option<Box<str>> = match &error {
            Error::Disconnected(reason) => reason.clone(),
            other => Some(other.to_string().into()),
        };
        let mut session = lock(&self.session);
        session.disconnected(&reason);
        for inbox in session.subscriptions.values() {
            inbox.push(Item::Lost);
        }
        // What this connection was given, the broker gives to others.
        session.consumers.values().for_each(|jobs| jobs.begin(0));
        session.providers.values().for_each(|calls| calls.begin(0));
        if again {
            let pause = (inbound.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
            inbound.backoff = pause;
            // Up to a quarter earlier, so that a broker's clients do not come back all at once.
            let share = u32::try_from(crate::clock::random_id() % 256).unwrap_or(0);
            inbound.phase = Phase::Waiting { at: Instant::now() + pause - pause / 1024 * share };
        } else {
            inbound.phase = Phase::Closed;
            let end = End::of(&error);
            session.failure = Some(error);
            session.close_consumers(&end);
            session.close_providers(&end);
            let inboxes: Vec<_> = session.subscriptions.values().cloned().collect();
            drop(session);
            for inbox in inboxes {
                inbox.close(end.clone());
            }
        }
        self.reactor.changed();
    }

    /// What is due by time. Says whether anything was.
    pub(crate) fn on_timer(&self, inbound: &mut Inbound) -> bool {
        let due = inbound.timer().is_some_and(|at| Instant::now() >= at);
        if !due {
            return false;
        }
        match inbound.phase {
            Phase::Waiting { .. } => match self.connect_again(inbound) {
                Ok(()) => {}
                Err(error) => self.lost(inbound, error),
            },
            Phase::Preamble { .. } | Phase::Greeting { .. } => {
                let after = self.options.request_timeout;
                self.lost(inbound, Error::TimedOut { what: "greeting from the broker", after });
            }
            Phase::Idle | Phase::Open | Phase::Closed => {}
        }
        true
    }

    fn connect_again(&self, inbound: &mut Inbound) -> Result<()> {
        let path = lock(&self.path).clone();
        let socket = Socket::connect(&path).map_err(|source| Error::Connect { path, source })?;
        self.begin(inbound, socket)
    }

    /// Opens the session for use: asks for every subscription and stream that there is.
    pub(crate) fn restore(&self) -> Result<()> {
        let mut session = lock(&self.session);
        let epoch = lock(&self.outbound).epoch();
        session.consumers.values().for_each(|jobs| jobs.begin(epoch));
        session.providers.values().for_each(|calls| calls.begin(epoch));
        let mut outbound = lock(&self.outbound);
        outbound.open = true;
        name_what_is_left(&session, &mut outbound);
        let inboxes: Vec<_> = session.subscriptions.values().cloned().collect();
        for inbox in inboxes {
            inbox.push(Item::Restored);
            let req = session.request_number();
            session.restoring.insert(req, Restoring::Subscription(inbox.id));
            let wish = &inbox.wish;
            outbound.push(&ToBroker::Subscribe(Subscribe {
                req,
                sub: inbox.id,
                filter: &wish.filter,
                mode: wish.mode,
                rings: wish.rings,
                // What was there before the loss was read, or is being read, already.
                history: 0,
                slow: wish.slow,
                backlog_bytes_max: wish.backlog_bytes_max,
                gated_only: wish.gated_only,
            }));
        }
        let consumers: Vec<_> = session.consumers.values().cloned().collect();
        for jobs in consumers {
            let req = session.request_number();
            session.restoring.insert(req, Restoring::Consumer(jobs.id));
            outbound.push(&jobs.ask(req));
        }
        let providers: Vec<_> = session.providers.values().cloned().collect();
        for calls in providers {
            let req = session.request_number();
            session.restoring.insert(req, Restoring::Provider(calls.id));
            outbound.push(&offer(req, &calls));
        }
        let streams: Vec<_> = session.streams.values().cloned().collect();
        for stream in streams {
            let req = session.request_number();
            session.restoring.insert(req, Restoring::Stream(stream.id));
            let alias = outbound.define(0, &stream.topic.name);
            outbound.push_with(&ToBroker::OpenStream(stream.opening(req, alias)), vec![stream.memory()?]);
        }
        self.write_out(&mut outbound);
        Ok(())
    }
}

/// Whether asking again would only be refused again.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::Denied | Code::Version | Code::Malformed | Code::Unsupported | Code::OutOfOrder | Code::BadId
    )
}
