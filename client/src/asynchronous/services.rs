//! Services on the tokio runtime: the same words, awaited.

use super::AsyncClient;
use super::driver::wait_until;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::message::Message;
use crate::request::RequestBuilder;
use crate::service::{CallBox, Request, ServiceBuilder, take};
use crate::session::Answer;
use crate::shared::Shared;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

impl AsyncClient {
    /// As [`Client::request`](crate::Client::request): end with `send().await`.
    pub fn request<'a>(
        &'a self,
        service: &'a str,
        payload: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> RequestBuilder<'a, Self> {
        RequestBuilder::new(self, service, payload.as_ref())
    }

    /// As [`Client::service`](crate::Client::service): end with `handle(…).await` or `start().await`.
    pub fn service(&self, service: &str) -> AsyncServiceBuilder {
        AsyncServiceBuilder(ServiceBuilder::new(Arc::clone(&self.handle), service))
    }
}

/// Cancels a request when its future is dropped.
struct Awaited<'a>(&'a Shared, u64);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.forget_request(self.1);
    }
}

impl RequestBuilder<'_, AsyncClient> {
    /// As [`RequestBuilder::send`] of a blocking client. Dropping the future cancels the request.
    ///
    /// # Errors
    /// As there.
    pub async fn send(self) -> Result<Message> {
        let shared = &self.client.handle.shared;
        shared.check_process()?;
        let head = self.draft.head()?;
        let message = self.draft.outgoing(&head, self.payload);
        let again_until = self.asking.again_until(shared);
        let mut asking = self.asking;
        loop {
            let room = again_until
                .map_or(shared.options.request_timeout, |end| end.saturating_duration_since(Instant::now()));
            let step = || shared.step_again(&asking, &message, again_until);
            let request = wait_until(shared, Some(room), "room on the broker's socket", step).await?;
            let awaited = Awaited(shared, request);
            let left = asking.deadline().map(|end| end.saturating_duration_since(Instant::now()));
            let answer =
                wait_until(shared, left, "word of the broker about a request", || shared.take_reply(request))
                    .await;
            drop(awaited);
            match (answer, again_until) {
                (Err(Error::Disconnected(_)), Some(end)) if Instant::now() < end => {
                    asking = asking.until(end)
                }
                (answer, _) => return answer,
            }
        }
    }
}

/// An instance of a service about to be started; made by [`AsyncClient::service`].
#[must_use = "nothing happens before handle() or start()"]
#[derive(Debug)]
pub struct AsyncServiceBuilder(ServiceBuilder);

impl AsyncServiceBuilder {
    /// As [`ServiceBuilder::concurrency`].
    pub fn concurrency(self, requests: u32) -> Self {
        Self(self.0.concurrency(requests))
    }

    /// As [`ServiceBuilder::weight`].
    pub fn weight(self, weight: u32) -> Self {
        Self(self.0.weight(weight))
    }

    /// As [`ServiceBuilder::failover_priority`].
    pub fn failover_priority(self, priority: u32) -> Self {
        Self(self.0.failover_priority(priority))
    }

    /// As [`ServiceBuilder::handle`], each request in a task of its own. Dropping the future ends the instance, and its
    /// tasks with it.
    ///
    /// # Errors
    /// As [`ServiceBuilder::handle`].
    pub async fn handle<E, F>(self, handler: impl Fn(Arc<Request>) -> F) -> Result<()>
    where
        E: Display + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let mut requests = self.start().await?;
        let mut tasks = JoinSet::new();
        loop {
            let request = match requests.recv().await {
                Ok(request) => Arc::new(request),
                Err(Error::Closed) => return Ok(()),
                Err(error) => return Err(error),
            };
            while tasks.try_join_next().is_some() {}
            let answered = handler(Arc::clone(&request));
            tasks.spawn(async move {
                let result = answered.await.map_err(|error| error.to_string());
                // What is told of an answer that cannot be given is told to whoever waits for it.
                let _ = match result {
                    _ if request.is_answered() => Ok(()),
                    Ok(()) => request.fail("the handler did not answer"),
                    Err(error) => request.reply_error(0, &error),
                };
            });
        }
    }

    /// As [`ServiceBuilder::start`].
    ///
    /// # Errors
    /// As [`ServiceBuilder::start`].
    pub async fn start(self) -> Result<AsyncRequests> {
        let ServiceBuilder { handle, wish } = self.0;
        let (req, calls) = handle.shared.ask_to_provide(&wish)?;
        // Dropped without an answer, it ends the instance again.
        let started = AsyncRequests { handle, calls };
        match started.handle.shared.answer_async(req, "answer to providing a service").await? {
            Answer::Done => Ok(started),
            other => Err(Error::Protocol(format!("{other:?} for an instance").into())),
        }
    }
}

/// As [`Requests`](crate::Requests), awaited.
pub struct AsyncRequests {
    handle: Arc<Handle>,
    calls: Arc<CallBox>,
}

impl AsyncRequests {
    /// The next request. May be dropped while it waits: no request is lost by that.
    ///
    /// # Errors
    /// As [`Requests::recv`](crate::Requests::recv).
    pub async fn recv(&mut self) -> Result<Request> {
        let shared = &self.handle.shared;
        wait_until(shared, None, "request", || take(&self.handle, &self.calls)).await
    }

    /// The next request, if one comes within `timeout`.
    ///
    /// # Errors
    /// As [`Requests::recv`](crate::Requests::recv).
    pub async fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Request>> {
        match tokio::time::timeout(timeout, self.recv()).await {
            Ok(request) => request.map(Some),
            Err(_) => Ok(None),
        }
    }
}

impl Drop for AsyncRequests {
    fn drop(&mut self) {
        self.handle.shared.end_providing(&self.calls);
    }
}

impl std::fmt::Debug for AsyncRequests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncRequests").field("service", &self.calls.wish.service).finish_non_exhaustive()
    }
}
