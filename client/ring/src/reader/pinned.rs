//! A message held in place: as long as it lives its reader's slot says so, and the writer steps around its bytes.

use super::Shared;
use crate::protocol;
use std::sync::Arc;

/// A message that is held in place: its bytes stay where they are until this is dropped. At most 16 per reader are
/// held at a time; further messages are copied.
#[derive(Debug)]
pub struct Pinned {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) payload: (u64, usize),
    pub(super) head: (u64, usize),
}

impl Pinned {
    /// The payload, where it was published. Copies nothing. Empty in a fork, which does not inherit it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.shared.ring.bytes(self.payload.0, self.payload.1)
    }

    /// Type and headers, where they were published.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.shared.ring.bytes(self.head.0, self.head.1)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.shared.ring.is_foreign() {
            return;
        }
        step!("release: asked");
        protocol::unpin(self.shared.slot.get(), self.index);
        step!("release: unpinned");
        self.shared.tell_writer(u64::MAX);
    }
}
