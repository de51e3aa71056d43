//! The descriptors that the core names by [`FdId`].
//!
//! The core decides when each is closed; this table only keeps them. Numbers are never used again, so a
//! stale one leads nowhere. The table's size is bounded by the core's limits on streams, attachments and
//! descriptors in flight.

use crate::core::FdId;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Open descriptors by number.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    open: HashMap<FdId, Arc<OwnedFd>, foldhash::fast::RandomState>,
    last: u64,
}

impl Descriptors {
    /// Takes a descriptor in.
    pub(super) fn insert(&mut self, fd: OwnedFd) -> FdId {
        self.last += 1;
        let id = FdId(self.last);
        self.open.insert(id, Arc::new(fd));
        id
    }

    /// A descriptor, if it is still open.
    pub(super) fn get(&self, id: FdId) -> Option<&Arc<OwnedFd>> {
        self.open.get(&id)
    }

    /// Gives a descriptor away; its number is forgotten.
    pub(super) fn take(&mut self, id: FdId) -> Option<Arc<OwnedFd>> {
        self.open.remove(&id)
    }
}
