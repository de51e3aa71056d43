//! A job: a message of a queue in the hands of a program, to be settled once.
//!
//! One that is dropped unsettled goes back to its queue. What a connection was given is gone with it: the broker gives it to
//! others, so a job of an earlier connection cannot be settled any more.

use crate::error::Result;
use crate::jobs::Worker;
use crate::message::Message;
use std::sync::Arc;
use std::time::Duration;
use tramline_wire::Verdict;

/// A message of a queue, to be settled: [`ack`](Self::ack), [`nack`](Self::nack), [`reject`](Self::reject). Dropped without,
/// it is given back as by `nack`. It reads as the [`Message`] it holds.
pub struct Job {
    pub(crate) worker: Arc<Worker>,
    pub(crate) message: Message,
    pub(crate) tag: u64,
    /// The connection it came on.
    pub(crate) epoch: u64,
    pub(crate) attempt: u32,
    pub(crate) priority: u8,
    pub(crate) settled: bool,
}

impl Job {
    /// It is done, and never given out again. Acknowledgements are gathered for a few milliseconds, and told
    /// before this consumer waits, or by [`Client::flush`](crate::Client::flush).
    ///
    /// # Errors
    /// [`Code::TooLate`](crate::Code::TooLate) if it was taken away meanwhile; a connection that is down.
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
        self.tell(Verdict::Extend { millis: crate::push::millis(time) })
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
        self.tell(verdict)
    }

    fn tell(&self, verdict: Verdict<'_>) -> Result<()> {
        let Worker { handle, jobs } = &*self.worker;
        handle.shared.check_process()?;
        handle.shared.settle(jobs, self.tag, self.epoch, verdict)
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
