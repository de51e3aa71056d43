//! Copying the last messages of rings whose publishers have gone, on a thread of its own.
//!
//! The copy becomes the broker's own memory, counted by the core before anybody is given it. What the old ring says is a
//! claim, and the ring crate reads it as one. Nothing here decides what is worth keeping.

use super::broker::Shell;
use super::clock;
use crate::core::{FdId, RetainedCopy};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tramline_ring::{Retained, RingIdentity};
use tramline_wire::Geometry;

/// How much is to be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) messages: u32,
    pub(super) bytes_max: u64,
}

/// A ring to be copied.
#[derive(Debug)]
pub(super) struct Retaining {
    memory: Arc<OwnedFd>,
    identity: RingIdentity,
    wanted: Wanted,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Made {
    stream: u64,
    result: Result<Option<Retained>, String>,
}

impl Retaining {
    /// Does the work. Blocks.
    pub(super) fn run(self) -> Made {
        let Self { memory, identity, wanted } = self;
        let made = tramline_ring::retain(memory.as_fd(), &identity, wanted.messages, wanted.bytes_max);
        Made { stream: identity.stream, result: made.map_err(|error| error.to_string()) }
    }
}

impl Shell {
    /// Has a ring's last messages copied.
    pub(super) fn retain(&self, stream: u64, memory: FdId, size: (u32, Geometry), wanted: Wanted) {
        let (generation, Geometry { descriptors, arena_bytes }) = size;
        let identity = RingIdentity { stream, generation, descriptors, arena_bytes };
        let mut state = self.state.borrow_mut();
        match state.descriptors.get(memory).cloned() {
            Some(memory) => self.workers.retain(Retaining { memory, identity, wanted }),
            None => state.core.ring_retained(stream, Err("its memory is gone".to_owned()), clock::now()),
        }
    }

    /// Gives the core the copies that were made. Never returns before the broker ends.
    pub(super) async fn take_retained(self: Rc<Self>, mut retained: UnboundedReceiver<Made>) {
        while let Some(Made { stream, result }) = retained.recv().await {
            let mut state = self.state.borrow_mut();
            let result = result.map(|made| {
                made.map(|Retained { memory, identity, memory_bytes, seqs }| RetainedCopy {
                    memory: state.descriptors.insert(memory),
                    generation: identity.generation,
                    geometry: Geometry {
                        descriptors: identity.descriptors,
                        arena_bytes: identity.arena_bytes,
                    },
                    bytes: memory_bytes,
                    seqs,
                })
            });
            state.core.ring_retained(stream, result, clock::now());
            drop(state);
            self.settle_soon();
        }
    }
}
