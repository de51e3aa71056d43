//! The client on the tokio runtime: the same calls, awaited. No thread of its own.
//!
//! Waiting never blocks the runtime's threads. What may block for a moment (filling the memory of a
//! ring) runs on the runtime's blocking pool.

mod driver;
mod jobs;
mod publisher;
mod services;
mod subscription;

use crate::builder::ClientBuilder;
use crate::client::NOW;
use crate::draft::{Draft, Outgoing};
use crate::error::{Error, Result};
use crate::handle::{Handle, opened};
use crate::publish::{How, Sent, Step};
use crate::reactor::lock;
use crate::rings::{Opening, RingWish};
use crate::session::Answer;
use crate::shared::Shared;
use crate::stream::Stream;
use crate::topics::Topic;
use driver::wait_until;
pub use jobs::{AsyncConsumeBuilder, AsyncJobs};
pub use publisher::{AsyncPublisher, AsyncPublisherBuilder, AsyncPublisherMessage};
pub use services::{AsyncRequests, AsyncServiceBuilder};
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use subscription::{AsyncSubscription, AsyncSubscriptionBuilder};
use tramline_wire::Encoding;

/// A connection to the broker, driven by a task on the tokio runtime that it was made on (which must have I/O
/// and time enabled). Clones share it.
#[derive(Debug, Clone)]
pub struct AsyncClient {
    handle: Arc<Handle>,
}

/// Pause before connecting again where too many wait to be accepted.
const CROWD_PAUSE: Duration = Duration::from_millis(5);

impl ClientBuilder {
    /// As [`connect`](Self::connect), on the tokio runtime this is called on.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_async(self) -> Result<AsyncClient> {
        self.options.check()?;
        let candidates = self.options.candidates();
        let timeout = self.options.request_timeout;
        let began = Instant::now();
        let handle = loop {
            match Handle::begin(self.options.clone(), &candidates) {
                // As many as may wait to be accepted do so already; the kernel does not say when that changes.
                Err(Error::Connect { source, .. })
                    if source.kind() == std::io::ErrorKind::WouldBlock && began.elapsed() < timeout =>
                {
                    tokio::time::sleep(CROWD_PAUSE).await;
                }
                result => break result?,
            }
        };
        driver::spawn(&handle.shared)?;
        let shared = &handle.shared;
        wait_until(shared, Some(timeout), "greeting from the broker", || opened(shared)).await?;
        Ok(AsyncClient { handle })
    }
}

impl AsyncClient {
    /// Connects to the broker where it usually is, see [`ClientBuilder::socket`].
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect() -> Result<Self> {
        ClientBuilder::default().connect_async().await
    }

    /// A client with a name, a socket or other settings; end with
    /// [`connect_async`](ClientBuilder::connect_async).
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// As [`Client::publish`](crate::Client::publish); waits without blocking.
    ///
    /// # Errors
    /// As [`Client::publish`](crate::Client::publish).
    pub async fn publish(&self, topic: &str, payload: impl AsRef<[u8]>) -> Result<u64> {
        self.send(topic, &Outgoing::plain(Encoding::Binary, payload.as_ref())).await
    }

    /// As [`Client::publish_text`](crate::Client::publish_text).
    ///
    /// # Errors
    /// As [`Client::publish`](crate::Client::publish).
    pub async fn publish_text(&self, topic: &str, text: impl AsRef<str>) -> Result<u64> {
        self.send(topic, &Outgoing::plain(Encoding::Text, text.as_ref().as_bytes())).await
    }

    /// As [`Client::publish_json`](crate::Client::publish_json).
    ///
    /// # Errors
    /// As [`Client::publish_json`](crate::Client::publish_json).
    #[cfg(feature = "serde")]
    pub async fn publish_json<T: serde::Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<u64> {
        let payload = crate::payload::to_json(value)?;
        self.send(topic, &Outgoing::plain(Encoding::Json, &payload)).await
    }

    /// As [`Client::publish_bincode`](crate::Client::publish_bincode).
    ///
    /// # Errors
    /// As [`Client::publish_bincode`](crate::Client::publish_bincode).
    #[cfg(feature = "serde")]
    pub async fn publish_bincode<T: serde::Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<u64> {
        let payload = crate::payload::to_bincode(value)?;
        self.send(topic, &Outgoing::plain(Encoding::Binary, &payload)).await
    }

    /// As [`Client::publish_confirmed`](crate::Client::publish_confirmed).
    ///
    /// # Errors
    /// As [`Client::publish_confirmed`](crate::Client::publish_confirmed).
    pub async fn publish_confirmed(&self, topic: &str, payload: impl AsRef<[u8]>) -> Result<u32> {
        let message = Outgoing::plain(Encoding::Binary, payload.as_ref());
        self.handle.shared.confirmed_async(topic, &message).await
    }

    /// A message with type, headers, encoding or source time.
    pub fn message<'a>(&'a self, topic: &'a str) -> AsyncMessageBuilder<'a> {
        AsyncMessageBuilder { client: self, topic, draft: Draft::default() }
    }

    async fn send(&self, topic: &str, message: &Outgoing<'_>) -> Result<u64> {
        self.handle.shared.publish_async(topic, message, NOW).await.map(|sent| sent.seq)
    }

    /// A publisher, to be opened by `.await`: `client.publisher("cam").capacity(8 << 20, 4).await?`.
    pub fn publisher(&self, topic: &str) -> AsyncPublisherBuilder {
        AsyncPublisherBuilder::new(Arc::clone(&self.handle), topic)
    }

    /// A subscription, to be opened by `.await`: `client.subscribe("cam.*").lossy().await?`.
    pub fn subscribe(&self, filter: &str) -> AsyncSubscriptionBuilder {
        AsyncSubscriptionBuilder::new(Arc::clone(&self.handle), filter)
    }

    /// As [`Client::ping`](crate::Client::ping).
    ///
    /// # Errors
    /// As [`Client::ping`](crate::Client::ping).
    pub async fn ping(&self) -> Result<Duration> {
        let begun = Instant::now();
        self.handle.shared.check_process()?;
        let request = self.handle.shared.send_ping()?;
        self.handle.shared.answer_async(request, "answer to a ping").await?;
        Ok(begun.elapsed())
    }

    /// As [`Client::flush`](crate::Client::flush).
    ///
    /// # Errors
    /// As [`Client::flush`](crate::Client::flush).
    pub async fn flush(&self) -> Result<()> {
        self.ping().await?;
        self.handle.shared.take_fault()
    }

    /// Whether the connection is up now; never in a fork, whose connection it is not.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let shared = &self.handle.shared;
        shared.check_process().is_ok() && lock(&shared.outbound).open
    }
}

/// Forgets a request when its future is dropped.
struct Asked<'a>(&'a Shared, u32);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        lock(&self.0.session).forget(self.1);
    }
}

/// Forgets a confirmation when its future is dropped.
struct Confirming<'a>(&'a Shared, (u32, u64));

impl Drop for Confirming<'_> {
    fn drop(&mut self) {
        lock(&self.0.session).confirmations.remove(&self.1);
    }
}

impl Shared {
    pub(crate) async fn answer_async(&self, request: u32, what: &'static str) -> Result<Answer> {
        let _asked = Asked(self, request);
        let look = || lock(&self.session).take_answer(request).transpose();
        wait_until(self, Some(self.options.request_timeout), what, look).await
    }

    async fn publish_async(&self, topic: &str, message: &Outgoing<'_>, how: How) -> Result<Sent> {
        self.check_process()?;
        self.take_fault()?;
        let topic = self.topics.get(topic)?;
        let mut step = self.step(&topic, message, how)?;
        loop {
            step = match step {
                Step::Sent(sent) => return Ok(sent),
                Step::Open(bytes) => {
                    let wish = self.implicit_wish(bytes)?;
                    self.open_ring_async(&topic, wish).await?;
                    self.step(&topic, message, how)?
                }
                Step::Wait(why) => {
                    let mut last = why;
                    let next = wait_until(self, Some(self.options.request_timeout), "room", || {
                        Ok(match self.step(&topic, message, how)? {
                            Step::Wait(error) => {
                                last = error;
                                None
                            }
                            step => Some(step),
                        })
                    });
                    match next.await {
                        // What was waited for says more than that it was waited for.
                        Err(Error::TimedOut { .. }) => return Err(last),
                        next => next?,
                    }
                }
            };
        }
    }

    async fn confirmed_async(&self, topic: &str, message: &Outgoing<'_>) -> Result<u32> {
        let sent = self.publish_async(topic, message, How { confirm: true, flush: true }).await?;
        let key = match sent.by {
            Ok(alias) => (alias, sent.seq),
            Err(readers) => return Ok(readers),
        };
        let _confirming = Confirming(self, key);
        let timeout = Some(self.options.request_timeout);
        wait_until(self, timeout, "confirmation by the broker", || self.take_confirmation(key)).await
    }

    /// As `open_ring`; the memory is made on the blocking pool.
    async fn open_ring_async(&self, topic: &Arc<Topic>, wish: RingWish) -> Result<Option<Arc<Stream>>> {
        let Some(opening) = Opening::begin(self, topic, wish)? else { return Ok(None) };
        let shared = self.weak.upgrade().ok_or(Error::Closed)?;
        let (for_topic, first_seq) = (Arc::clone(topic), opening.first_seq());
        let making = tokio::task::spawn_blocking(move || shared.make_stream(&for_topic, first_seq, wish));
        let stream = making.await.map_err(|_| Error::Closed)??;
        let request = self.announce_stream(&stream)?;
        let announced = opening.announced(&stream);
        match self.answer_async(request, "answer to the opening of a ring").await? {
            Answer::StreamOpened => Ok(Some(announced.opened())),
            other => Err(Error::Protocol(format!("{other:?} for an opened stream").into())),
        }
    }
}

/// One message and what it says about itself; made by [`AsyncClient::message`].
#[must_use = "nothing is sent before publish()"]
#[derive(Debug, Clone)]
pub struct AsyncMessageBuilder<'a> {
    client: &'a AsyncClient,
    topic: &'a str,
    draft: Draft<'a>,
}

impl<'a> AsyncMessageBuilder<'a> {
    crate::draft::describes!();

    /// As [`AsyncClient::publish`].
    ///
    /// # Errors
    /// As [`AsyncClient::publish`], and [`Error::Header`].
    pub async fn publish(self, payload: impl AsRef<[u8]>) -> Result<u64> {
        let head = self.draft.head()?;
        self.client.send(self.topic, &self.draft.outgoing(&head, payload.as_ref())).await
    }

    /// As [`AsyncClient::publish_confirmed`].
    ///
    /// # Errors
    /// As [`AsyncClient::publish_confirmed`], and [`Error::Header`].
    pub async fn publish_confirmed(self, payload: impl AsRef<[u8]>) -> Result<u32> {
        let head = self.draft.head()?;
        let message = self.draft.outgoing(&head, payload.as_ref());
        self.client.handle.shared.confirmed_async(self.topic, &message).await
    }
}
