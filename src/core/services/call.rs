//! A request, from when it is taken until its outcome is told.

use super::MILLI;
use crate::core::Now;
use crate::core::queues::Origin;
use crate::core::strategy::Seat;
use crate::core::table::Key;
use std::sync::Arc;
use tramline_wire::{Call as CallFrame, Code, Message};

/// How the caller knows its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asker {
    /// By its number.
    Native,
    /// By the `id` of its line.
    Json(Option<Box<str>>),
    /// A leg of a route.
    Leg(Key),
}

/// A request without an outcome.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) service: Key,
    /// The session.
    pub(super) caller: Key,
    /// Its number there.
    pub(super) request: u64,
    pub(super) asker: Asker,
    /// From whom.
    pub(super) origin: Origin,
    /// The message as it travels.
    pub(super) bytes: Arc<[u8]>,
    pub(super) idempotent: bool,
    /// When it was taken.
    pub(super) taken: u64,
    /// When it must have an outcome.
    pub(super) deadline: u64,
    /// When its timer is set.
    pub(super) timer_at: u64,
    /// Its place among those that wait; kept when it waits again.
    pub(super) order: u64,
    /// Who has it, and under which number.
    pub(super) at: Option<(Seat, u64)>,
    /// Who has been given it, by the numbers of instances.
    pub(super) tried: Vec<u64>,
    /// How the last of them failed.
    pub(super) failure: Option<(Code, String)>,
}

/// A request on its way to an instance by ring.
#[derive(Debug)]
pub(in crate::core) struct Giving {
    pub(super) provider: u32,
    /// Its number there.
    pub(super) call: u64,
    pub(super) attempt: u32,
    pub(super) deadline: u64,
    pub(super) origin: Origin,
    pub(super) bytes: Arc<[u8]>,
}

impl Giving {
    pub(in crate::core) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    pub(in crate::core) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// As the instance is told of it.
    pub(in crate::core) fn frame<'a>(&self, source: u32, message: Message<'a>, now: Now) -> CallFrame<'a> {
        let left = self.deadline.saturating_sub(now.monotonic).div_ceil(MILLI);
        let timeout_millis = u32::try_from(left).unwrap_or(u32::MAX);
        let Self { provider, call, attempt, .. } = *self;
        CallFrame { provider, source, call, attempt, timeout_millis, message }
    }
}
