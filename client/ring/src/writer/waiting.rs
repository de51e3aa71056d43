//! Waiting for room: readers are asked to ring when they have made some, in every generation that they may be in.

use super::Writer;
use crate::protocol::{self, note};

impl Writer {
    /// Says that the writer waits for room, so that readers ring their space bells. After this try again, and only
    /// then sleep on the links' space bells; once woken, drain them, call this again and try again.
    pub fn begin_wait(&mut self) {
        if self.wait_epoch.is_multiple_of(2) {
            self.waits += 1;
            note(&self.ring.header().counters.waits, self.waits);
        }
        // A new odd epoch each time: a reader rings once in each.
        self.wait_epoch += if self.wait_epoch.is_multiple_of(2) { 1 } else { 2 };
        let wanted = self.oldest + ((self.head - self.oldest) / 4).max(1);
        // A reader that is still in an earlier generation looks at that one's words.
        for header in self.headers() {
            protocol::await_room(header, self.wait_epoch, wanted);
        }
        step!("publish: waits");
    }

    /// Says that the writer waits no longer.
    pub fn end_wait(&mut self) {
        if !self.wait_epoch.is_multiple_of(2) {
            self.wait_epoch += 1;
            for header in self.headers() {
                protocol::stop_waiting(header, self.wait_epoch);
            }
        }
    }
}
