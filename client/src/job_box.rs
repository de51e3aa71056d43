//! What waits in this process for one consumer of a queue, and what the broker is still to be told of it.
//!
//! The leader adds jobs, the consumer takes them one by one. Acknowledgements are gathered: they are told when there are
//! half as many as the consumer prefetches, when the clock that moves every few milliseconds has moved since the last were
//! told, with anything else that is told of a job, with a ping or flush, and before this consumer waits.
//!
//! Locks: `session`, then this state, then `outbound`.

use crate::clock::coarse_nanos;
use crate::error::{End, Error, Result};
use crate::job_run::Piece;
use crate::reactor::lock;
use crate::run::{SpareBuffers, Waiting};
use crate::session::Session;
use crate::shared::Shared;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tramline_wire::{Code, Consume, ToBroker, Verdict};

/// Tags of jobs that were taken away that are remembered.
const LOST_MAX: usize = 1 << 16;

/// What a consumer asks for, kept to ask again after a reconnect.
#[derive(Debug, Clone)]
pub(crate) struct ConsumeWish {
    pub(crate) queue: Box<str>,
    pub(crate) prefetch: u32,
    /// How many jobs it takes in all; none: as many as there are.
    pub(crate) at_most: Option<u64>,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Piece>,
    /// The connection that the jobs came on.
    epoch: u64,
    /// The last job of this connection that the program was given.
    seen: u64,
    /// How many it was given on all connections.
    handed: u64,
    /// How many more may be asked for once others are settled, where they are counted.
    left: u64,
    /// How many more are to be asked for with what is told next.
    more: u32,
    /// Tags that the broker took away.
    lost: BTreeSet<u64>,
    /// Acknowledged and not yet told: from the first to the last of each stretch.
    acked: Vec<(u64, u64)>,
    acks: u32,
    /// When something was told last.
    told: u64,
    fault: Option<Error>,
    closed: Option<End>,
}

impl State {
    /// The next job that is still this consumer's.
    fn next(&mut self, spare: &SpareBuffers) -> Option<Waiting> {
        loop {
            let job = match self.waiting.front_mut()? {
                Piece::Run(run) => run.next_job(),
                Piece::One(job) => job.take().map(|job| *job),
            };
            let Some(job) = job else {
                if let Some(Piece::Run(run)) = self.waiting.pop_front() {
                    run.give_back(spare);
                }
                continue;
            };
            self.seen = job.tag;
            if self.lost.remove(&job.tag) {
                // Nobody looked at it here. Said to be done with, so that this consumer is given another.
                self.ack(job.tag);
                continue;
            }
            self.handed += 1;
            return Some(job);
        }
    }

    fn ack(&mut self, tag: u64) {
        match self.acked.last_mut() {
            Some((_, last)) if *last + 1 == tag => *last = tag,
            _ => self.acked.push((tag, tag)),
        }
        self.acks += 1;
        self.settled();
    }

    /// One is done with: another may be asked for.
    fn settled(&mut self) {
        if self.left > 0 {
            self.left -= 1;
            self.more += 1;
        }
    }

    /// Whether acknowledgements have waited for long enough.
    fn is_due(&self) -> bool {
        self.acks > 0 && self.told != coarse_nanos()
    }
}

/// A consumer as the leader and its owner share it.
pub(crate) struct JobBox {
    pub(crate) id: u32,
    pub(crate) wish: ConsumeWish,
    state: Mutex<State>,
    /// Whether something is there: a look that takes no lock.
    filled: AtomicBool,
    /// With how much credit it begins on this connection.
    credit: AtomicU32,
}

impl JobBox {
    pub(crate) fn new(id: u32, wish: ConsumeWish) -> Self {
        let (filled, credit) = (AtomicBool::new(false), AtomicU32::new(0));
        Self { id, wish, state: Mutex::default(), filled, credit }
    }

    /// Jobs have come, in this order.
    pub(crate) fn extend(&self, jobs: &mut Vec<Piece>) {
        lock(&self.state).waiting.extend(jobs.drain(..));
        self.filled.store(true, Ordering::Release);
    }

    /// The broker took a job away, or says that it cannot be settled.
    pub(crate) fn lost(&self, tag: u64) {
        let mut state = lock(&self.state);
        state.lost.insert(tag);
        // The broker also says so of what was settled too late; those stand first.
        if state.lost.len() > LOST_MAX {
            state.lost.pop_first();
        }
    }

    /// Jobs from now on come on this connection.
    pub(crate) fn begin(&self, epoch: u64) {
        self.begin_with(&mut lock(&self.state), epoch);
    }

    fn begin_with(&self, state: &mut State, epoch: u64) {
        state.waiting.clear();
        state.lost.clear();
        state.acked.clear();
        (state.epoch, state.seen, state.acks, state.more) = (epoch, 0, 0, 0);
        let prefetch = self.wish.prefetch;
        let wanted = self.wish.at_most.map(|most| most.saturating_sub(state.handed));
        let credit =
            wanted.map_or(prefetch, |wanted| u32::try_from(wanted).unwrap_or(u32::MAX).min(prefetch));
        state.left = wanted.map_or(0, |wanted| wanted - u64::from(credit));
        self.credit.store(credit, Ordering::Relaxed);
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

    /// Asks for this consumer.
    pub(crate) fn ask(&self, req: u32) -> ToBroker<'_> {
        let ConsumeWish { queue, at_most, weight, priority, .. } = &self.wish;
        ToBroker::Consume(Consume {
            req,
            consumer: self.id,
            queue,
            credit: self.credit.load(Ordering::Relaxed),
            refill: at_most.is_none(),
            weight: *weight,
            priority: *priority,
        })
    }
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
    /// The next job, if there is one, with the connection it came on. Acknowledgements that have waited for long enough go
    /// first.
    pub(crate) fn take_job(&self, jobs: &JobBox) -> Result<Option<(Waiting, u64)>> {
        if !jobs.filled.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut state = lock(&jobs.state);
        if let Some(job) = state.next(&self.spare_buffers) {
            if state.is_due() {
                // A connection that is down has nothing left to acknowledge.
                let _ = self.tell(jobs, &mut state, None);
            }
            return Ok(Some((job, state.epoch)));
        }
        if let Some(fault) = state.fault.take() {
            return Err(fault);
        }
        if jobs.wish.at_most.is_some_and(|most| state.handed >= most) {
            return Err(Error::Closed);
        }
        match &state.closed {
            Some(end) => Err(end.error()),
            None => {
                jobs.filled.store(false, Ordering::Release);
                Ok(None)
            }
        }
    }

    /// Says what became of a job, after the acknowledgements that wait.
    pub(crate) fn settle(&self, jobs: &JobBox, tag: u64, epoch: u64, verdict: Verdict<'_>) -> Result<()> {
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
            state.ack(tag);
            if state.acks < jobs.wish.prefetch / 2 && !state.is_due() {
                return Ok(());
            }
            return self.tell(jobs, &mut state, None);
        }
        if !matches!(verdict, Verdict::Extend { .. }) {
            state.settled();
        }
        let settle = ToBroker::Settle { req: 0, consumer: jobs.id, first: tag, last: tag, verdict };
        self.tell(jobs, &mut state, Some(&settle))?;
        if late {
            let message = "the job was not settled in time: it is given to another";
            return Err(Error::refused(Code::TooLate.number(), message, None));
        }
        Ok(())
    }

    /// Tells what waits to be told, and this behind it.
    fn tell(&self, jobs: &JobBox, state: &mut State, then: Option<&ToBroker<'_>>) -> Result<()> {
        let consumer = jobs.id;
        let mut outbound = lock(&self.outbound);
        let open = self.check_open(&outbound);
        for (first, last) in state.acked.drain(..).filter(|_| open.is_ok()) {
            outbound.push(&ToBroker::Settle { req: 0, consumer, first, last, verdict: Verdict::Ack });
        }
        state.acks = 0;
        open?;
        if let Some(frame) = then {
            outbound.push(frame);
        }
        let more = std::mem::take(&mut state.more);
        if more > 0 {
            outbound.push(&ToBroker::Credit { consumer, more });
        }
        state.told = coarse_nanos();
        self.write_out(&mut outbound);
        Ok(())
    }

    /// Tells what waits to be told of this consumer.
    pub(crate) fn flush_acks(&self, jobs: &JobBox) {
        let mut state = lock(&jobs.state);
        if state.acks > 0 || state.more > 0 {
            // A connection that is down has nothing left to acknowledge.
            let _ = self.tell(jobs, &mut state, None);
        }
    }

    /// The same for all consumers of this client.
    pub(crate) fn flush_all_acks(&self) {
        let consumers: Vec<Arc<JobBox>> = lock(&self.session).consumers.values().cloned().collect();
        consumers.iter().for_each(|jobs| self.flush_acks(jobs));
    }

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
        outbound.push(&jobs.ask(req));
        self.write_out(&mut outbound);
        Ok((req, jobs))
    }

    pub(crate) fn forget_consumer(&self, id: u32) {
        lock(&self.session).consumers.remove(&id);
    }

    /// Ends a consumer in good order: what the program was not given does not count as an attempt.
    pub(crate) fn end_consuming(&self, jobs: &JobBox) {
        if self.check_process().is_err() {
            return;
        }
        let mut session = lock(&self.session);
        let mut state = lock(&jobs.state);
        if session.consumers.remove(&jobs.id).is_some() {
            let req = session.request_number();
            let (consumer, seen) = (jobs.id, state.seen);
            state.more = 0;
            // The broker ends it by itself when the connection is down.
            let _ = self.tell(jobs, &mut state, Some(&ToBroker::EndConsume { req, consumer, seen }));
        }
        jobs.begin_with(&mut state, u64::MAX);
    }
}
