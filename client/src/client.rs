//! The blocking client.

use crate::batch::Batch;
use crate::builder::ClientBuilder;
use crate::draft::{Draft, Outgoing};
use crate::error::Result;
use crate::handle::Handle;
use crate::publish::How;
use crate::publisher::PublisherBuilder;
use crate::reactor::lock;
use crate::subscription::{Subscription, SubscriptionBuilder};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tramline_wire::{Encoding, ToBroker};

pub(crate) const NOW: How = How { confirm: false, flush: true };

/// A connection to the broker. Clones share it, between threads too; it is closed when the last clone, publisher
/// and subscription of it is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) handle: Arc<Handle>,
}

impl Client {
    /// Connects to the broker where it usually is, see [`ClientBuilder::socket`].
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub fn connect() -> Result<Self> {
        Self::builder().connect()
    }

    /// A client with a name, a socket or other settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Publishes bytes. Returns their sequence number on this topic.
    ///
    /// A small payload is written to the broker's socket from this thread before this returns, unless the
    /// socket is full: then it waits for its turn, and this call blocks once 256 KiB wait. A large one
    /// (see [`ClientBuilder::ring_payload_bytes_min`]) goes through a ring, as does every message on a topic
    /// with an open [`publisher`](Self::publisher) of this client. The bytes are copied.
    ///
    /// The broker does not answer; if it refuses (a topic that is not allowed, say), the next call says so.
    /// [`publish_confirmed`](Self::publish_confirmed) waits for it.
    ///
    /// # Errors
    /// A bad topic, a connection that is down, no room within the request timeout, or a refusal of an
    /// earlier publish.
    pub fn publish(&self, topic: &str, payload: impl AsRef<[u8]>) -> Result<u64> {
        self.publish_as(topic, Encoding::Binary, payload.as_ref())
    }

    fn publish_as(&self, topic: &str, encoding: Encoding, payload: &[u8]) -> Result<u64> {
        let message = Outgoing::plain(encoding, payload);
        self.handle.shared.publish(topic, &message, NOW).map(|sent| sent.seq)
    }

    /// Publishes text. As [`publish`](Self::publish), and says that it is UTF-8.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_text(&self, topic: &str, text: impl AsRef<str>) -> Result<u64> {
        self.publish_as(topic, Encoding::Text, text.as_ref().as_bytes())
    }

    /// Publishes a value as JSON.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and when the value has no JSON form.
    #[cfg(feature = "serde")]
    pub fn publish_json<T: serde::Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<u64> {
        self.publish_as(topic, Encoding::Json, &crate::payload::to_json(value)?)
    }

    /// Publishes a value as bincode, in that crate's standard configuration.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and when the value has no such form.
    #[cfg(feature = "serde")]
    pub fn publish_bincode<T: serde::Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<u64> {
        self.publish_as(topic, Encoding::Binary, &crate::payload::to_bincode(value)?)
    }

    /// Publishes bytes and blocks until the broker has handed them to every subscription's queue. Returns
    /// to how many; on a topic with a ring, how many read the ring.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and a refusal of this message.
    pub fn publish_confirmed(&self, topic: &str, payload: impl AsRef<[u8]>) -> Result<u32> {
        let message = Outgoing::plain(Encoding::Binary, payload.as_ref());
        self.handle.shared.publish_confirmed(topic, &message)
    }

    /// A message with type, headers, encoding or source time.
    pub fn message<'a>(&'a self, topic: &'a str) -> MessageBuilder<'a> {
        MessageBuilder { client: self, topic, draft: Draft::default() }
    }

    /// Collects many small messages to be written together.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.handle))
    }

    /// Declares a publisher: `open()` makes a ring, and all of this client's messages on that topic go
    /// through it. For high rates, large messages, and filling them in place.
    pub fn publisher(&self, topic: &str) -> PublisherBuilder {
        PublisherBuilder::new(Arc::clone(&self.handle), topic)
    }

    /// Subscribes to the topics that `filter` selects (`*` is one token, a last `>` one or more), gated: its
    /// publishers wait for it. As [`subscription`](Self::subscription)`(filter).open()`.
    ///
    /// # Errors
    /// As [`SubscriptionBuilder::open`].
    pub fn subscribe(&self, filter: &str) -> Result<Subscription> {
        self.subscription(filter).open()
    }

    /// A subscription with options: lossy, history, limits.
    pub fn subscription(&self, filter: &str) -> SubscriptionBuilder {
        SubscriptionBuilder::new(Arc::clone(&self.handle), filter)
    }

    /// Asks the broker for a sign of life; returns how long it took. Everything published before has been
    /// taken by the broker then, and what was acknowledged is.
    ///
    /// # Errors
    /// When the connection is down, or no answer comes within the request timeout.
    pub fn ping(&self) -> Result<Duration> {
        let shared = &self.handle.shared;
        shared.check_process()?;
        let begun = Instant::now();
        let request = shared.send_ping()?;
        shared.wait_for_answer(request, "answer to a ping")?;
        Ok(begun.elapsed())
    }

    /// Blocks until the broker has taken everything published on the socket so far.
    ///
    /// # Errors
    /// As [`ping`](Self::ping), and a refusal of something published before.
    pub fn flush(&self) -> Result<()> {
        self.ping()?;
        self.handle.shared.take_fault()
    }

    /// The socket it is connected to; empty in a fork.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        if self.handle.shared.check_process().is_err() {
            return PathBuf::new();
        }
        lock(&self.handle.shared.path).clone()
    }

    /// Whether the connection is up now; never in a fork, whose connection it is not.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let shared = &self.handle.shared;
        shared.check_process().is_ok() && lock(&shared.outbound).open
    }

    /// This client's session in the broker; another one after each reconnect. 0 in a fork.
    #[must_use]
    pub fn session(&self) -> u64 {
        if self.handle.shared.check_process().is_err() {
            return 0;
        }
        lock(&self.handle.shared.session).greeting.as_ref().map_or(0, |greeting| greeting.session)
    }

    /// The broker's version; empty in a fork.
    #[must_use]
    pub fn broker_version(&self) -> String {
        if self.handle.shared.check_process().is_err() {
            return String::new();
        }
        let session = lock(&self.handle.shared.session);
        session.greeting.as_ref().map(|greeting| greeting.version.clone()).unwrap_or_default()
    }
}

impl crate::shared::Shared {
    pub(crate) fn send_ping(&self) -> Result<u32> {
        self.flush_all_acks();
        let mut session = lock(&self.session);
        let mut outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        let req = session.begin();
        outbound.push(&ToBroker::Ping { req });
        self.write_out(&mut outbound);
        Ok(req)
    }
}

/// One message and what it says about itself; made by [`Client::message`].
#[must_use = "nothing is sent before publish()"]
#[derive(Debug, Clone)]
pub struct MessageBuilder<'a> {
    client: &'a Client,
    topic: &'a str,
    draft: Draft<'a>,
}

impl<'a> MessageBuilder<'a> {
    crate::draft::describes!();

    /// As [`Client::publish`].
    ///
    /// # Errors
    /// As [`Client::publish`], and [`Error::Header`](crate::Error::Header).
    pub fn publish(self, payload: impl AsRef<[u8]>) -> Result<u64> {
        let head = self.draft.head()?;
        let message = self.draft.outgoing(&head, payload.as_ref());
        self.client.handle.shared.publish(self.topic, &message, NOW).map(|sent| sent.seq)
    }

    /// As [`Client::publish_confirmed`].
    ///
    /// # Errors
    /// As [`Client::publish_confirmed`], and [`Error::Header`](crate::Error::Header).
    pub fn publish_confirmed(self, payload: impl AsRef<[u8]>) -> Result<u32> {
        let head = self.draft.head()?;
        let message = self.draft.outgoing(&head, payload.as_ref());
        self.client.handle.shared.publish_confirmed(self.topic, &message)
    }
}
