//! Jobs on their way from the socket to their consumer: small ones that follow each other stay the bytes they came in, as
//! messages of a subscription do (`run`), and are handed over in one piece at the end of each read.

use crate::bulk::BulkBytes;
use crate::job_box::JobBox;
use crate::message::Source;
use crate::run::{RUN_BYTES_MAX, RUN_FRAME_BYTES_MAX, Run, SpareBuffers, Waiting};
use std::sync::Arc;
use tramline_wire::Job;

/// What a consumer is handed: several jobs, or one.
pub(crate) enum Piece {
    Run(Run),
    /// A large one, which is moved once and not twice.
    One(Option<Box<Waiting>>),
}

/// Frames of small jobs that follow each other where they were read.
struct Growing {
    alias: u32,
    source: Arc<Source>,
    start: usize,
    end: usize,
}

/// Jobs for one consumer since the last hand-over.
#[derive(Default)]
pub(crate) struct ArrivingJobs {
    to: Option<Arc<JobBox>>,
    pieces: Vec<Piece>,
    run: Option<Growing>,
}

impl ArrivingJobs {
    /// Whether these are jobs of this consumer.
    pub(crate) fn are_for(&self, consumer: u32) -> bool {
        self.to.as_ref().is_some_and(|to| to.id == consumer)
    }

    /// What follows is for this consumer; none: it has gone. What came for another must have been handed over.
    pub(crate) fn begin(&mut self, to: Option<Arc<JobBox>>) {
        self.to = to;
    }

    /// Takes the job whose frame is `start..end` of the buffer if it goes on with those before it.
    #[inline]
    pub(crate) fn goes_on(&mut self, job: &Job<'_>, start: usize, end: usize) -> bool {
        let Some(run) = self.run.as_mut() else { return false };
        let goes_on = self.to.as_ref().is_some_and(|to| to.id == job.consumer)
            && run.alias == job.source
            && run.end == start
            && end - start <= RUN_FRAME_BYTES_MAX
            && run.end - run.start <= RUN_BYTES_MAX - RUN_FRAME_BYTES_MAX;
        if goes_on {
            run.end = end;
        }
        goes_on
    }

    /// Takes a plain job, whose frame is `start..end` of the buffer, behind all before it.
    pub(crate) fn take_plain(&mut self, job: &Job<'_>, source: &Arc<Source>, start: usize, end: usize) {
        if end - start > RUN_FRAME_BYTES_MAX {
            self.take(job, source);
        } else if self.to.is_some() {
            self.run = Some(Growing { alias: job.source, source: Arc::clone(source), start, end });
        }
    }

    /// Takes a job by itself.
    pub(crate) fn take(&mut self, job: &Job<'_>, source: &Arc<Source>) {
        if self.to.is_some() {
            self.pieces.push(Piece::One(Some(Box::new(Waiting::new(job, source)))));
        }
    }

    /// Takes one whose payload lies in the broker's ring.
    pub(crate) fn take_bulk(&mut self, job: &Job<'_>, source: &Arc<Source>, bulk: BulkBytes) {
        if self.to.is_some() {
            self.pieces.push(Piece::One(Some(Box::new(Waiting::with_bulk(job, source, bulk)))));
        }
    }

    /// Nothing goes on with the last jobs any more. To be called before the buffer changes.
    pub(crate) fn end_run(&mut self, buffer: &[u8], spare: &SpareBuffers) {
        if let Some(Growing { source, start, end, .. }) = self.run.take() {
            self.pieces.push(Piece::Run(Run::new(&buffer[start..end], source, spare)));
        }
    }

    /// Gives the jobs to their consumer. Whether there were any.
    pub(crate) fn hand_out(&mut self) -> bool {
        let Some(to) = self.to.take() else { return false };
        let any = !self.pieces.is_empty();
        to.extend(&mut self.pieces);
        any
    }
}
