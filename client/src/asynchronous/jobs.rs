//! Queues on the tokio runtime: the same words, awaited.

use super::AsyncClient;
use super::driver::wait_until;
use crate::declare::QueueBuilder;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::jobs::{ConsumeBuilder, Worker};
use crate::push::PushBuilder;
use crate::session::Answer;
use crate::shared::Shared;
use std::sync::Arc;
use std::time::Duration;

impl AsyncClient {
    /// As [`Client::push`](crate::Client::push): end with `confirm().await` or `send().await`.
    pub fn push<'a>(
        &'a self,
        queue: &'a str,
        payload: &'a (impl AsRef<[u8]> + ?Sized),
    ) -> PushBuilder<'a, Self> {
        PushBuilder::new(self, queue, payload.as_ref())
    }

    /// As [`Client::queue`](crate::Client::queue): end with `declare().await`.
    pub fn queue<'a>(&'a self, queue: &'a str) -> QueueBuilder<'a, Self> {
        QueueBuilder::new(self, queue)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// As [`Client::consume`](crate::Client::consume): end with `start().await`.
    pub fn consume(&self, queue: &str) -> AsyncConsumeBuilder {
        AsyncConsumeBuilder(ConsumeBuilder::new(Arc::clone(&self.handle), queue))
    }
}

/// Forgets a push when its future is dropped.
struct Pushing<'a>(&'a Shared, (u32, u64));

impl Drop for Pushing<'_> {
    fn drop(&mut self) {
        self.0.forget_push(self.1);
    }
}

impl PushBuilder<'_, AsyncClient> {
    /// As [`PushBuilder::confirm`] of a blocking client.
    ///
    /// # Errors
    /// As there.
    pub async fn confirm(self) -> Result<()> {
        let shared = &self.client.handle.shared;
        let key = self.push(true).await?;
        let _pushing = Pushing(shared, key);
        let timeout = Some(shared.options.request_timeout);
        wait_until(shared, timeout, "confirmation by the broker", || shared.take_push_answer(key)).await
    }

    /// As [`PushBuilder::send`] of a blocking client.
    ///
    /// # Errors
    /// As there.
    pub async fn send(self) -> Result<()> {
        self.push(false).await.map(|_| ())
    }

    async fn push(&self, awaited: bool) -> Result<(u32, u64)> {
        let shared = &self.client.handle.shared;
        shared.check_process()?;
        shared.take_fault()?;
        let head = self.draft.head()?;
        let message = self.draft.outgoing(&head, self.payload);
        let step = || shared.step_push(&self.queued, &message, awaited, true);
        wait_until(shared, Some(shared.options.request_timeout), "room on the broker's socket", step).await
    }
}

/// A consumer about to be started; made by [`AsyncClient::consume`].
#[must_use = "nothing happens before start()"]
#[derive(Debug)]
pub struct AsyncConsumeBuilder(ConsumeBuilder);

impl AsyncConsumeBuilder {
    /// As [`ConsumeBuilder::prefetch`].
    pub fn prefetch(self, jobs: u32) -> Self {
        Self(self.0.prefetch(jobs))
    }

    /// As [`ConsumeBuilder::at_most`].
    pub fn at_most(self, jobs: u64) -> Self {
        Self(self.0.at_most(jobs))
    }

    /// As [`ConsumeBuilder::weight`].
    pub fn weight(self, weight: u32) -> Self {
        Self(self.0.weight(weight))
    }

    /// As [`ConsumeBuilder::failover_priority`].
    pub fn failover_priority(self, priority: u32) -> Self {
        Self(self.0.failover_priority(priority))
    }

    /// As [`ConsumeBuilder::start`].
    ///
    /// # Errors
    /// As [`ConsumeBuilder::start`].
    pub async fn start(self) -> Result<AsyncJobs> {
        let ConsumeBuilder { handle, wish } = self.0;
        let (req, jobs) = handle.shared.ask_to_consume(&wish)?;
        // Dropped without an answer, it ends the consumer again.
        let started = AsyncJobs { worker: Arc::new(Worker { handle, jobs }) };
        match started.worker.handle.shared.answer_async(req, "answer to consuming").await? {
            Answer::Consuming => Ok(started),
            other => Err(Error::Protocol(format!("{other:?} for a consumer").into())),
        }
    }
}

/// As [`Jobs`](crate::Jobs), awaited.
#[derive(Debug)]
pub struct AsyncJobs {
    worker: Arc<Worker>,
}

impl AsyncJobs {
    /// The next job. May be dropped while it waits: no job is lost by that.
    ///
    /// # Errors
    /// As [`Jobs::recv`](crate::Jobs::recv).
    pub async fn recv(&mut self) -> Result<Job> {
        let shared = &self.worker.handle.shared;
        shared.check_process()?;
        if let Some(job) = self.worker.take()? {
            return Ok(job);
        }
        shared.flush_acks(&self.worker.jobs);
        wait_until(shared, None, "job", || self.worker.take()).await
    }

    /// The next job, if one comes within `timeout`.
    ///
    /// # Errors
    /// As [`Jobs::recv`](crate::Jobs::recv).
    pub async fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Job>> {
        match tokio::time::timeout(timeout, self.recv()).await {
            Ok(job) => job.map(Some),
            Err(_) => Ok(None),
        }
    }
}

impl Drop for AsyncJobs {
    fn drop(&mut self) {
        self.worker.handle.shared.end_consuming(&self.worker.jobs);
    }
}
