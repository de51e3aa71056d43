//! Consuming from a queue: the jobs that a program is given, one after the other.

use crate::client::Client;
use crate::clock::deadline_after;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::job::Job;
use crate::job_box::{ConsumeWish, JobBox};
use crate::run::Waiting;
use crate::session::Answer;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many jobs a consumer is given before it has settled the first, unless it says otherwise.
const PREFETCH: u32 = 16;

/// A consumer and what keeps its client alive: shared by all of its jobs.
pub(crate) struct Worker {
    pub(crate) handle: Arc<Handle>,
    pub(crate) jobs: Arc<JobBox>,
}

impl Worker {
    /// The next job, if one is here.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Option<Job>> {
        let Some((waiting, epoch)) = self.handle.shared.take_job(&self.jobs)? else { return Ok(None) };
        let Waiting { message, tag, attempt, priority } = waiting;
        Ok(Some(Job { worker: Arc::clone(self), message, tag, epoch, attempt, priority, settled: false }))
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("queue", &self.jobs.wish.queue).finish_non_exhaustive()
    }
}

impl Client {
    /// A consumer of a queue; end with [`start`](ConsumeBuilder::start).
    pub fn consume(&self, queue: &str) -> ConsumeBuilder {
        ConsumeBuilder::new(Arc::clone(&self.handle), queue)
    }
}

/// A consumer about to be started; made by [`Client::consume`].
#[must_use = "nothing happens before start()"]
#[derive(Debug)]
pub struct ConsumeBuilder {
    pub(crate) handle: Arc<Handle>,
    pub(crate) wish: ConsumeWish,
}

impl ConsumeBuilder {
    pub(crate) fn new(handle: Arc<Handle>, queue: &str) -> Self {
        let wish =
            ConsumeWish { queue: queue.into(), prefetch: PREFETCH, at_most: None, weight: 1, priority: 0 };
        Self { handle, wish }
    }

    /// How many jobs it may have at a time, settled ones not counted; 16 unless set.
    pub fn prefetch(mut self, jobs: u32) -> Self {
        self.wish.prefetch = jobs.max(1);
        self
    }

    /// Takes so many jobs and asks for no more: then the iterator ends, and [`Jobs::recv`] says
    /// [`Closed`](Error::Closed).
    pub fn at_most(mut self, jobs: u64) -> Self {
        self.wish.at_most = Some(jobs);
        self
    }

    /// Its share where the queue goes in turn or balances load.
    pub fn weight(mut self, weight: u32) -> Self {
        self.wish.weight = weight;
        self
    }

    /// Its place where the queue fails over; the lowest is first.
    pub fn failover_priority(mut self, priority: u32) -> Self {
        self.wish.priority = priority;
        self
    }

    /// Starts consuming; blocks until the broker has agreed.
    ///
    /// # Errors
    /// An unknown queue, a missing right, a limit, or a connection that is down.
    pub fn start(self) -> Result<Jobs> {
        let shared = &self.handle.shared;
        let (req, jobs) = shared.ask_to_consume(&self.wish)?;
        match shared.wait_for_answer(req, "answer to consuming") {
            Ok(Answer::Consuming) => Ok(Jobs { worker: Arc::new(Worker { handle: self.handle, jobs }) }),
            other => {
                shared.forget_consumer(jobs.id);
                Err(other.err().unwrap_or_else(|| Error::Protocol("an answer to something else".into())))
            }
        }
    }
}

/// The jobs of a queue, one after the other; made by [`ConsumeBuilder::start`]. After a loss of the connection it goes on
/// with the next one. Dropping it gives back all that is not settled, jobs that are still held included; what the program was
/// not given yet has not lost an attempt by that.
#[derive(Debug)]
pub struct Jobs {
    worker: Arc<Worker>,
}

impl Jobs {
    /// The next job; blocks until there is one.
    ///
    /// # Errors
    /// A client that was closed, a refusal to consume after a reconnect, or no more to come by
    /// [`at_most`](ConsumeBuilder::at_most).
    pub fn recv(&mut self) -> Result<Job> {
        let found = self.next_within(None)?;
        found.ok_or(Error::Closed)
    }

    /// The next job, if one comes within `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Job>> {
        self.next_within(deadline_after(timeout))
    }

    /// The next job, if one has come.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Job>> {
        let shared = &self.worker.handle.shared;
        shared.check_process()?;
        if let Some(job) = self.worker.take()? {
            return Ok(Some(job));
        }
        shared.flush_acks(&self.worker.jobs);
        shared.poke()?;
        self.worker.take()
    }

    fn next_within(&mut self, deadline: Option<Instant>) -> Result<Option<Job>> {
        let shared = &self.worker.handle.shared;
        shared.check_process()?;
        if let Some(job) = self.worker.take()? {
            return Ok(Some(job));
        }
        shared.flush_acks(&self.worker.jobs);
        shared.wait_until(deadline, || self.worker.take())
    }
}

impl Iterator for Jobs {
    type Item = Result<Job>;

    /// The next job; blocks until there is one. Ends when the client is closed.
    fn next(&mut self) -> Option<Self::Item> {
        match self.recv() {
            Err(Error::Closed) => None,
            other => Some(other),
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.worker.handle.shared.end_consuming(&self.worker.jobs);
    }
}
