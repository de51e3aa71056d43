//! A subscription whose messages are awaited.

use super::driver::register;
use crate::consumer::PublisherEvent;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::message::{Message, Source};
use crate::session::Answer;
use crate::subscription::{Subscription, SubscriptionBuilder};
use std::future::{Future, IntoFuture};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tramline_wire::SlowPolicy;

/// A subscription about to be opened, by `.await`.
#[must_use = "nothing happens before .await"]
#[derive(Debug)]
pub struct AsyncSubscriptionBuilder {
    inner: SubscriptionBuilder,
}

impl AsyncSubscriptionBuilder {
    pub(crate) fn new(handle: Arc<Handle>, filter: &str) -> Self {
        Self { inner: SubscriptionBuilder::new(handle, filter) }
    }

    /// As [`SubscriptionBuilder::lossy`].
    pub fn lossy(self) -> Self {
        Self { inner: self.inner.lossy() }
    }

    /// As [`SubscriptionBuilder::gated`].
    pub fn gated(self) -> Self {
        Self { inner: self.inner.gated() }
    }

    /// As [`SubscriptionBuilder::gated_only`].
    pub fn gated_only(self) -> Self {
        Self { inner: self.inner.gated_only() }
    }

    /// As [`SubscriptionBuilder::history`].
    pub fn history(self, messages: u32) -> Self {
        Self { inner: self.inner.history(messages) }
    }

    /// As [`SubscriptionBuilder::backlog_bytes`].
    pub fn backlog_bytes(self, bytes: u32) -> Self {
        Self { inner: self.inner.backlog_bytes(bytes) }
    }

    /// As [`SubscriptionBuilder::on_slow`].
    pub fn on_slow(self, policy: SlowPolicy) -> Self {
        Self { inner: self.inner.on_slow(policy) }
    }

    /// As [`SubscriptionBuilder::rings`].
    pub fn rings(self, rings: bool) -> Self {
        Self { inner: self.inner.rings(rings) }
    }

    /// As [`SubscriptionBuilder::in_place`].
    pub fn in_place(self, in_place: bool) -> Self {
        Self { inner: self.inner.in_place(in_place) }
    }

    /// Subscribes; the same as `.await` on the builder.
    ///
    /// # Errors
    /// As [`SubscriptionBuilder::open`].
    pub async fn open(self) -> Result<AsyncSubscription> {
        let (inner, request) = Subscription::begin(self.inner)?;
        let fd = register(inner.inbox.epoll.as_fd())?;
        let answer = inner.handle.shared.answer_async(request, "answer to a subscription").await;
        let answer = inner.answered(answer)?;
        if answer == Answer::Subscribed {
            return Ok(AsyncSubscription { inner, fd: Some(fd) });
        }
        Err(Error::Protocol(format!("{answer:?} for a subscription").into()))
    }
}

impl IntoFuture for AsyncSubscriptionBuilder {
    type Output = Result<AsyncSubscription>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// What arrives on the topics that one filter selects. Unsubscribed when dropped.
#[derive(Debug)]
pub struct AsyncSubscription {
    inner: Subscription,
    /// Until it is dropped.
    fd: Option<AsyncFd<OwnedFd>>,
}

impl Drop for AsyncSubscription {
    fn drop(&mut self) {
        // A fork would take it out of the parent's runtime, with which it shares the thing behind the descriptor.
        if self.inner.handle.shared.check_process().is_err() {
            std::mem::forget(self.fd.take());
        }
    }
}

impl AsyncSubscription {
    /// The next message; `None` when the client was closed. Cancel-safe: a future dropped before it was
    /// ready has taken nothing.
    pub async fn next(&mut self) -> Option<Result<Message>> {
        match self.recv().await {
            Err(Error::Closed) => None,
            result => Some(result),
        }
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// As [`Subscription::recv`].
    pub async fn recv(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.inner.try_recv_armed()? {
                return Ok(message);
            }
            let fd = self.fd.as_ref().expect("it is there until the subscription is dropped");
            fd.readable().await.map_err(Error::io("waiting on the runtime"))?.clear_ready();
        }
    }

    /// The next message if there is one now.
    ///
    /// # Errors
    /// As [`Subscription::recv`].
    pub fn try_recv(&mut self) -> Result<Option<Message>> {
        self.inner.try_recv()
    }

    /// As [`Subscription::filter_str`].
    #[must_use]
    pub fn filter_str(&self) -> &str {
        self.inner.filter_str()
    }

    /// As [`Subscription::publishers`].
    #[must_use]
    pub fn publishers(&self) -> Vec<Arc<Source>> {
        self.inner.publishers()
    }

    /// As [`Subscription::streams`].
    #[must_use]
    pub fn streams(&self) -> Vec<(Arc<Source>, tramline_wire::Mode)> {
        self.inner.streams()
    }

    /// As [`Subscription::events`].
    pub fn events(&mut self) -> Vec<PublisherEvent> {
        self.inner.events()
    }

    /// As [`Subscription::lost`].
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.inner.lost()
    }
}
