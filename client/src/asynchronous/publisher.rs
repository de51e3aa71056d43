//! A publisher that waits for room without blocking.

use super::driver::wait_until;
use crate::clock::deadline_after;
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::loan::Loan;
use crate::publisher::{OnFull, Publisher, PublisherBuilder, Sender, again};
use crate::reactor::lock;
use crate::topics;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tramline_ring::Meta;
use tramline_wire::GatedBy;

/// A publisher about to be opened, by `.await`.
#[must_use = "nothing happens before .await"]
#[derive(Debug)]
pub struct AsyncPublisherBuilder {
    inner: PublisherBuilder,
}

impl AsyncPublisherBuilder {
    pub(crate) fn new(handle: Arc<Handle>, topic: &str) -> Self {
        Self { inner: PublisherBuilder::new(handle, topic) }
    }

    /// As [`PublisherBuilder::capacity`].
    pub fn capacity(self, message_bytes: usize, messages: u32) -> Self {
        Self { inner: self.inner.capacity(message_bytes, messages) }
    }

    /// As [`PublisherBuilder::on_full`].
    pub fn on_full(self, on_full: OnFull) -> Self {
        Self { inner: self.inner.on_full(on_full) }
    }

    /// As [`PublisherBuilder::history`].
    pub fn history(self, messages: u32) -> Self {
        Self { inner: self.inner.history(messages) }
    }

    /// As [`PublisherBuilder::gated_by`].
    pub fn gated_by(self, who: GatedBy) -> Self {
        Self { inner: self.inner.gated_by(who) }
    }

    /// Opens the publisher; the same as `.await` on the builder. The memory is made on the runtime's
    /// blocking pool.
    ///
    /// # Errors
    /// As [`PublisherBuilder::open`].
    pub async fn open(self) -> Result<AsyncPublisher> {
        let PublisherBuilder { handle, topic, wish, on_full } = self.inner;
        let shared = &handle.shared;
        shared.check_process()?;
        let topic = shared.topics.get(&topic)?;
        let stream = loop {
            if let Some(stream) = shared.open_ring_async(&topic, wish).await? {
                break stream;
            }
            // Another task opens a ring for a large payload on the same topic: let it, then replace it.
            wait_until(shared, Some(shared.options.request_timeout), "end of another opening", || {
                let opening = matches!(lock(&topic.state).route, topics::Route::Opening);
                Ok((!opening).then_some(()))
            })
            .await?;
        };
        // Loans in own memory are sent without waiting, whoever sends them.
        let for_loans = if on_full == OnFull::Drop { OnFull::Drop } else { OnFull::Fail };
        Ok(AsyncPublisher { inner: Publisher::new(Arc::clone(&handle), stream, for_loans), on_full })
    }
}

impl IntoFuture for AsyncPublisherBuilder {
    type Output = Result<AsyncPublisher>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// An open publisher of one topic. Closed when dropped.
#[derive(Debug)]
pub struct AsyncPublisher {
    inner: Publisher,
    on_full: OnFull,
}

impl AsyncPublisher {
    fn sender(&self) -> &Arc<Sender> {
        &self.inner.sender
    }

    /// Repeats `act` until there is room, as `on_full` says.
    async fn insist<T>(&self, act: impl Fn(bool) -> Result<T>) -> Result<T> {
        let deadline = match self.on_full {
            OnFull::Wait => None,
            OnFull::Timeout(timeout) => deadline_after(timeout),
            OnFull::Fail | OnFull::Drop => return act(false),
        };
        let mut full = match act(true) {
            Err(error @ Error::Full(_)) => error,
            done => return done,
        };
        let sender = self.sender();
        loop {
            let until = sender.until(&full, deadline);
            let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
            let look = || again(&mut full, act(true));
            match wait_until(&sender.handle.shared, timeout, "room in the ring", look).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(changed)) => full = changed,
                Err(Error::TimedOut { .. }) => return Err(sender.in_vain(full, deadline)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Copies a message into the ring, as [`Publisher::send`].
    ///
    /// # Errors
    /// As [`Publisher::send`].
    pub async fn send(&mut self, payload: impl AsRef<[u8]>) -> Result<u64> {
        self.send_described(&Draft::default(), payload.as_ref()).await
    }

    async fn send_described(&self, draft: &Draft<'_>, payload: &[u8]) -> Result<u64> {
        let head = draft.head()?;
        let message = draft.outgoing(&head, payload);
        let sender = self.sender();
        sender.handle.shared.check_process()?;
        let meta: Meta = message.meta(crate::monotonic_nanos());
        match self.insist(|wait| sender.try_send(wait, meta, &head, payload)).await {
            Err(Error::Full(_)) if self.on_full == OnFull::Drop => Ok(sender.stream.skip()),
            result => result,
        }
    }

    /// As [`Publisher::try_send`].
    ///
    /// # Errors
    /// As [`Publisher::try_send`].
    pub fn try_send(&mut self, payload: impl AsRef<[u8]>) -> Result<u64> {
        self.inner.try_send(payload)
    }

    /// Takes room to be filled in place, as [`Publisher::loan`]. Sending the loan never waits: one in own
    /// memory fails with [`Error::Full`], which gives it back.
    ///
    /// # Errors
    /// As [`Publisher::loan`].
    pub async fn loan(&mut self, bytes: usize) -> Result<Loan> {
        let sender = self.sender();
        sender.handle.shared.check_process()?;
        match self.insist(|wait| sender.try_loan(wait, bytes, 0)).await {
            Ok(loan) => Ok(Loan::in_ring(Arc::clone(sender), loan)),
            Err(Error::Full(_)) => self.inner.loan(bytes),
            Err(error) => Err(error),
        }
    }

    /// A message with type, headers, encoding or source time.
    pub fn message(&mut self) -> AsyncPublisherMessage<'_> {
        AsyncPublisherMessage { publisher: self, draft: Draft::default() }
    }

    /// As [`Publisher::subscriber_count`].
    #[must_use]
    pub fn subscriber_count(&self) -> usize {
        self.inner.subscriber_count()
    }

    /// As [`Publisher::wait_for_subscribers`].
    ///
    /// # Errors
    /// As [`Publisher::wait_for_subscribers`].
    pub async fn wait_for_subscribers(&self, count: usize, timeout: Duration) -> Result<()> {
        let stream = &self.sender().stream;
        let look = || Ok((stream.reader_count() >= count).then_some(()));
        let what = "sufficient number of subscribers";
        wait_until(&self.sender().handle.shared, Some(timeout), what, look).await
    }

    /// As [`Publisher::dropped`].
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner.dropped()
    }

    /// Ends the stream and waits until the broker knows.
    ///
    /// # Errors
    /// When the broker does not answer. The stream is closed for its subscribers all the same.
    pub async fn close(self) -> Result<()> {
        let sender = self.sender();
        let shared = &sender.handle.shared;
        shared.check_process()?;
        match shared.close_publisher(&sender.stream, true) {
            Some(request) => {
                shared.answer_async(request, "answer to the closing of a ring").await.map(|_| ())
            }
            None => Ok(()),
        }
    }
}

/// One message of an async publisher, with what it says about itself.
#[must_use = "nothing is sent before send()"]
#[derive(Debug)]
pub struct AsyncPublisherMessage<'a> {
    publisher: &'a AsyncPublisher,
    draft: Draft<'a>,
}

impl<'a> AsyncPublisherMessage<'a> {
    crate::draft::describes!();

    /// As [`AsyncPublisher::send`].
    ///
    /// # Errors
    /// As [`AsyncPublisher::send`], and [`Error::Header`].
    pub async fn send(self, payload: impl AsRef<[u8]>) -> Result<u64> {
        self.publisher.send_described(&self.draft, payload.as_ref()).await
    }
}
