//! Consuming from a queue: jobs that wait in this process, and what becomes of each.
//!
//! A [`Job`] is settled once; one that is dropped without goes back to its queue. What a connection was given is gone with
//! it: the broker gives it to others, so a job of an earlier connection cannot be settled any more.
//!
//! Acknowledgements of jobs that are done within a millisecond travel together, and before this consumer waits.

use crate::client::Client;
use crate::clock::deadline_after;
use crate::error::{End, Error, Result};
use crate::handle::Handle;
use crate::message::Message;
use crate::reactor::lock;
use crate::session::{Answer, Session};
use crate::shared::Shared;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tramline_wire::{Code, Consume, ToBroker, Verdict};

/// How many jobs a consumer is given before it has settled the first, unless it says otherwise.
const PREFETCH: u32 = 16;

/// How long acknowledgements may be gathered.
const GATHER: Duration = Duration::from_millis(1);

/// Tags of jobs that were taken away that are remembered.
const LOST_MAX: usize = 1 << 16;

/// What a consumer asks for, kept to ask again after a reconnect.
#[derive(Debug, Clone)]
pub(crate) struct ConsumeWish {
    pub(crate) queue: Box<str>,
    pub(crate) prefetch: u32,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
}

/// A job that waits in this process.
pub(crate) struct Waiting {
    pub(crate) message: Message,
    pub(crate) tag: u64,
    pub(crate) attempt: u32,
    pub(crate) priority: u8,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// The connection that the jobs came on.
    epoch: u64,
    /// Tags that the broker took away.
    lost: BTreeSet<u64>,
    /// Acknowledged and not yet told: from the first to the last.
    acked: Option<(u64, u64)>,
    told: Option<Instant>,
    fault: Option<Error>,
    closed: Option<End>,
}

/// A consumer as the leader and its owner share it.
pub(crate) struct JobBox {
    pub(crate) id: u32,
    pub(crate) wish: ConsumeWish,
    state: Mutex<State>,
    /// Whether something is there: a look that takes no lock.
    filled: AtomicBool,
}

impl JobBox {
    pub(crate) fn new(id: u32, wish: ConsumeWish) -> Self {
        Self { id, wish, state: Mutex::default(), filled: AtomicBool::new(false) }
    }

    /// Jobs have come, in this order.
    pub(crate) fn extend(&self, jobs: &mut Vec<Waiting>) {
        lock(&self.state).waiting.extend(jobs.drain(..));
        self.filled.store(true, Ordering::Release);
    }

    /// The broker took a job away, or says that it cannot be settled.
    pub(crate) fn lost(&self, tag: u64) {
        let mut state = lock(&self.state);
        state.waiting.retain(|job| job.tag != tag);
        state.lost.insert(tag);
        // The broker also says so of what was settled too late; those stand first.
        if state.lost.len() > LOST_MAX {
            state.lost.pop_first();
        }
    }

    /// Jobs from now on come on this connection.
    pub(crate) fn begin(&self, epoch: u64) {
        let mut state = lock(&self.state);
        state.waiting.clear();
        state.lost.clear();
        (state.epoch, state.acked) = (epoch, None);
    }

    /// The program should know this.
    pub(crate) fn fail(&self, error: Error) {
        lock(&self.state).fault.get_or_insert(error);
        self.filled.store(true, Ordering::Release);
    }

    /// Nothing more will come.
    pub(crate) fn close(&self, end: End) {
        lock(&self.state).closed.get_or_insert(end);
        self.filled.store(true, Ordering::Release);
    }

    /// The next job, if there is one; with the connection it came on, and whether acknowledgements have been gathered for
    /// long enough.
    fn take(&self) -> Result<Option<(Waiting, u64, bool)>> {
        if !self.filled.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut state = lock(&self.state);
        if let Some(job) = state.waiting.pop_front() {
            let due = state.acked.is_some() && state.told.is_none_or(|told| told.elapsed() >= GATHER);
            return Ok(Some((job, state.epoch, due)));
        }
        if let Some(fault) = state.fault.take() {
            return Err(fault);
        }
        match &state.closed {
            Some(end) => Err(end.error()),
            None => {
                self.filled.store(false, Ordering::Release);
                Ok(None)
            }
        }
    }
}

/// Asks for a consumer.
pub(crate) fn ask(req: u32, jobs: &JobBox) -> ToBroker<'_> {
    let ConsumeWish { queue, prefetch, weight, priority } = &jobs.wish;
    ToBroker::Consume(Consume {
        req,
        consumer: jobs.id,
        queue,
        credit: *prefetch,
        refill: true,
        weight: *weight,
        priority: *priority,
    })
}

impl Session {
    /// Tells every consumer that nothing more comes.
    pub(crate) fn close_consumers(&self, end: &End) {
        for jobs in self.consumers.values() {
            jobs.close(end.clone());
        }
    }
}

impl Shared {
    pub(crate) fn ask_to_consume(&self, wish: &ConsumeWish) -> Result<(u32, Arc<JobBox>)> {
        self.check_process()?;
        let mut session = lock(&self.session);
        let mut outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        session.next_consumer = session.next_consumer.wrapping_add(1);
        let id = session.next_consumer;
        let jobs = Arc::new(JobBox::new(id, wish.clone()));
        jobs.begin(outbound.epoch());
        session.consumers.insert(id, Arc::clone(&jobs));
        let req = session.begin();
        outbound.push(&ask(req, &jobs));
        outbound.flush();
        Ok((req, jobs))
    }

    pub(crate) fn forget_consumer(&self, id: u32) {
        lock(&self.session).consumers.remove(&id);
    }

    /// Says what became of a job, after the acknowledgements that wait.
    fn settle(&self, jobs: &JobBox, tag: u64, epoch: u64, verdict: Verdict<'_>) -> Result<()> {
        let mut state = lock(&jobs.state);
        if state.epoch != epoch {
            let message =
                "the connection or consumer through which the job came has ended: it is given to another";
            return Err(Error::refused(Code::TooLate.number(), message, None));
        }
        let late = if matches!(verdict, Verdict::Extend { .. }) {
            state.lost.contains(&tag)
        } else {
            // Told all the same, so that the broker gives this consumer another.
            state.lost.remove(&tag)
        };
        if matches!(verdict, Verdict::Ack) && !late {
            match &mut state.acked {
                Some((_, last)) if *last + 1 == tag => *last = tag,
                _ => {
                    self.tell_acked(jobs, &mut state)?;
                    state.acked = Some((tag, tag));
                }
            }
            let gathered = state.acked.map_or(0, |(first, last)| last - first + 1);
            let soon = state.told.is_some_and(|told| told.elapsed() < GATHER);
            if soon && gathered < u64::from(jobs.wish.prefetch / 2) {
                return Ok(());
            }
            return self.tell_acked(jobs, &mut state);
        }
        self.tell_acked(jobs, &mut state)?;
        self.send_settle(&ToBroker::Settle { req: 0, consumer: jobs.id, first: tag, last: tag, verdict })?;
        if late {
            let message = "the job was not settled in time: it is given to another";
            return Err(Error::refused(Code::TooLate.number(), message, None));
        }
        Ok(())
    }

    fn tell_acked(&self, jobs: &JobBox, state: &mut State) -> Result<()> {
        let Some((first, last)) = state.acked.take() else { return Ok(()) };
        state.told = Some(Instant::now());
        let settle = ToBroker::Settle { req: 0, consumer: jobs.id, first, last, verdict: Verdict::Ack };
        self.send_settle(&settle)
    }

    fn send_settle(&self, frame: &ToBroker<'_>) -> Result<()> {
        let mut outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        outbound.push(frame);
        let freed = outbound.flush();
        drop(outbound);
        if freed {
            self.reactor.changed();
        }
        Ok(())
    }

    /// Tells the acknowledgements that wait.
    fn flush_acks(&self, jobs: &JobBox) {
        // A connection that is down has nothing left to acknowledge.
        let _ = self.tell_acked(jobs, &mut lock(&jobs.state));
    }

    pub(crate) fn end_consuming(&self, jobs: &JobBox) {
        if self.check_process().is_err() {
            return;
        }
        self.flush_acks(jobs);
        let mut session = lock(&self.session);
        jobs.begin(u64::MAX);
        if session.consumers.remove(&jobs.id).is_some() {
            let req = session.request_number();
            let mut outbound = lock(&self.outbound);
            if outbound.open {
                outbound.push(&ToBroker::EndConsume { req, consumer: jobs.id });
                outbound.flush();
            }
        }
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
        let wish = ConsumeWish { queue: queue.into(), prefetch: PREFETCH, weight: 1, priority: 0 };
        Self { handle, wish }
    }

    /// How many jobs it may have at a time, settled ones not counted; 16 unless set.
    pub fn prefetch(mut self, jobs: u32) -> Self {
        self.wish.prefetch = jobs.max(1);
        self
    }

    /// Its share where the queue balances load.
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
            Ok(Answer::Consuming) => Ok(Jobs { handle: self.handle, jobs }),
            other => {
                shared.forget_consumer(jobs.id);
                Err(other.err().unwrap_or_else(|| Error::Protocol("an answer to something else".into())))
            }
        }
    }
}

/// The jobs of a queue, one after the other; made by [`ConsumeBuilder::start`]. After a loss of the connection it goes on
/// with the next one. Dropping it gives back all that is not settled, jobs that are still held included.
pub struct Jobs {
    pub(crate) handle: Arc<Handle>,
    pub(crate) jobs: Arc<JobBox>,
}

impl Jobs {
    /// The next job; blocks until there is one.
    ///
    /// # Errors
    /// A client that was closed, or a refusal to consume after a reconnect.
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
        self.handle.shared.check_process()?;
        if let Some(job) = take(&self.handle, &self.jobs)? {
            return Ok(Some(job));
        }
        self.handle.shared.poke()?;
        take(&self.handle, &self.jobs)
    }

    fn next_within(&mut self, deadline: Option<Instant>) -> Result<Option<Job>> {
        let shared = &self.handle.shared;
        shared.check_process()?;
        if let Some(job) = take(&self.handle, &self.jobs)? {
            return Ok(Some(job));
        }
        shared.flush_acks(&self.jobs);
        shared.wait_until(deadline, || take(&self.handle, &self.jobs))
    }
}

/// The next job of a consumer, if one is here. Acknowledgements that have been gathered for long enough go first.
pub(crate) fn take(handle: &Arc<Handle>, jobs: &Arc<JobBox>) -> Result<Option<Job>> {
    let Some((waiting, epoch, due)) = jobs.take()? else { return Ok(None) };
    if due {
        handle.shared.flush_acks(jobs);
    }
    let Waiting { message, tag, attempt, priority } = waiting;
    Ok(Some(Job {
        handle: Arc::clone(handle),
        jobs: Arc::clone(jobs),
        message,
        tag,
        epoch,
        attempt,
        priority,
        settled: false,
    }))
}

/// Tells what waits to be told before a consumer sleeps.
#[cfg(feature = "tokio")]
pub(crate) fn before_waiting(handle: &Handle, jobs: &JobBox) {
    handle.shared.flush_acks(jobs);
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
        self.handle.shared.end_consuming(&self.jobs);
    }
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("queue", &self.jobs.wish.queue).finish_non_exhaustive()
    }
}

/// A message of a queue, to be settled: [`ack`](Self::ack), [`nack`](Self::nack), [`reject`](Self::reject). Dropped without,
/// it is given back as by `nack`. It reads as the [`Message`] it holds.
pub struct Job {
    handle: Arc<Handle>,
    jobs: Arc<JobBox>,
    message: Message,
    tag: u64,
    epoch: u64,
    attempt: u32,
    priority: u8,
    settled: bool,
}

impl Job {
    /// It is done, and never given out again. Acknowledgements that follow each other within a millisecond travel together.
    ///
    /// # Errors
    /// [`Code::TooLate`] if it was taken away meanwhile; a connection that is down.
    pub fn ack(mut self) -> Result<()> {
        self.settle(Verdict::Ack)
    }

    /// It is to be given out again, when the queue's backoff says.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack(mut self) -> Result<()> {
        self.settle(Verdict::Nack { delay_millis: None })
    }

    /// It is to be given out again after this delay; `Duration::ZERO` is at once.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack_after(mut self, delay: Duration) -> Result<()> {
        self.settle(Verdict::Nack { delay_millis: Some(crate::push::millis(delay)) })
    }

    /// It is to go to the dead letters. `reason` is cut after 256 bytes.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn reject(mut self, reason: &str) -> Result<()> {
        let most = tramline_wire::limits::REJECT_REASON_BYTES_MAX.min(reason.len());
        let end = (0..=most).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        self.settle(Verdict::Reject { reason: &reason[..end] })
    }

    /// It is still being worked on, and may be kept for so long from now.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn extend(&self, time: Duration) -> Result<()> {
        let millis = crate::push::millis(time);
        self.handle.shared.settle(&self.jobs, self.tag, self.epoch, Verdict::Extend { millis })
    }

    /// How often it was given out, this time included.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// 0 to 9.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.priority
    }

    /// The message itself.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    fn settle(&mut self, verdict: Verdict<'_>) -> Result<()> {
        self.settled = true;
        self.handle.shared.check_process()?;
        self.handle.shared.settle(&self.jobs, self.tag, self.epoch, verdict)
    }
}

impl std::ops::Deref for Job {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.settled {
            // If that cannot be said any more, the broker gives it to others by itself.
            let _ = self.settle(Verdict::Nack { delay_millis: None });
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { message, tag, attempt, priority, .. } = self;
        f.debug_struct("Job")
            .field("tag", tag)
            .field("attempt", attempt)
            .field("priority", priority)
            .field("message", message)
            .finish()
    }
}
