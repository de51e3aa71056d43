//! What a reader does where there is no message for it: when the writer has overtaken it, and at the end.

use super::{Next, Reader, SEQ_MAX};
use crate::error::{RingError, claim};
use crate::layout::{POSITION_MAX, STATE_SUCCEEDED};
use crate::protocol::{self, peek};

/// How often an overtaken reader tries to catch up within one call.
const CATCH_UP_TRIES: u64 = 8;

impl Reader {
    /// Moves an overtaken reader to a message that is still there. `false`: give up for now.
    pub(super) fn catch_up(&mut self, tries: u64) -> Result<bool, RingError> {
        let counters = &self.shared.ring.header().counters;
        let head = peek(&counters.head).min(POSITION_MAX);
        let oldest = peek(&counters.oldest).min(head);
        // The writer may retire the oldest while this reader gets there: each try aims further ahead.
        let ahead = (head - oldest) / CATCH_UP_TRIES * (tries - 1).min(CATCH_UP_TRIES);
        let target = oldest.saturating_add(ahead).min(POSITION_MAX - 1);
        self.position = target.max(self.position + 1).min(POSITION_MAX - 1);
        if tries < CATCH_UP_TRIES {
            return Ok(true);
        }
        // Whoever is overtaken again and again is overtaken by messages. Stamps that say so while nothing is published
        // would keep a reader busy for ever.
        claim(
            self.gave_up_at != Some(head),
            "the head of a ring",
            head,
            "it moves while readers are overtaken",
        )?;
        self.gave_up_at = Some(head);
        Ok(false)
    }

    /// What to say when the descriptor holds nothing yet; `None`: look again.
    pub(super) fn nothing_there(&mut self) -> Result<Option<Next>, RingError> {
        let ended = protocol::ended(self.shared.ring.header());
        if ended.is_none() && !self.writer_gone {
            return Ok(Some(Next::Empty));
        }
        // The end was seen after the last look at the descriptor: messages before the end may have come between.
        if protocol::stirs(self.shared.ring.descriptor(self.position), self.position) {
            return Ok(None);
        }
        self.publish_cursor();
        let Some(ended) = ended else {
            // The writer died. What it published whole has been read; what it had retired before this reader came to it
            // shows in its counters.
            let header = self.shared.ring.header();
            let published = peek(&header.counters.messages);
            let numbers = published.saturating_add(peek(&header.counters.skipped));
            let next_seq = peek(&header.first_seq).saturating_add(numbers);
            return Ok(Some(self.end_before(next_seq)));
        };
        claim(
            ended.position <= self.position,
            "the end of a stream",
            ended.position,
            "not past what was published",
        )?;
        if ended.state == STATE_SUCCEEDED {
            return self.go_on(ended);
        }
        Ok(Some(self.end_before(ended.next_seq)))
    }

    /// The end, at the number that the next message would have had (a claim).
    fn end_before(&mut self, next_seq: u64) -> Next {
        let lost = next_seq.min(SEQ_MAX).saturating_sub(self.last_seq + 1);
        self.last_seq += lost;
        self.count_lost(lost);
        Next::Ended { lost }
    }
}
