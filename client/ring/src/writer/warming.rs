//! A writer that has not published for a while is cold: asking for all that its next message touches at once.

use super::Writer;
use crate::ahead;
use crate::layout::UNIT_BYTES;

impl Writer {
    /// Asks for the cache lines that the next message needs, all at once. Worth it where this writer has not published
    /// for a while; it changes nothing.
    #[inline]
    pub fn look_ahead(&self) {
        ahead::to_write(&raw const self.ring.header().counters);
        ahead::to_write(self.ring.descriptor(self.head));
        if self.kept >= self.depth {
            ahead::to_write(self.ring.descriptor(self.oldest));
            ahead::to_write(self.ring.descriptor(self.oldest + 1));
        }
        if let (Some(first), Some(last)) = (self.entries.front(), self.entries.back()) {
            ahead::to_write(first);
            ahead::to_write(last);
        }
        self.ring.look_ahead(u64::from(self.arena.next().unwrap_or(0)) * UNIT_BYTES);
        for reader in &self.readers {
            reader.slot.get().look_ahead();
        }
    }
}
