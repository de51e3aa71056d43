//! Payloads of queues and services that no frame holds: they lie in *bulk rings*, memory without anything but bytes.
//!
//! A client has one for what it sends, which the broker only reads, and is given one by the broker for what it receives,
//! which it only reads itself. Frames say where a payload lies and when its place is free again; copying is the shell's, off
//! the core's thread. Until a payload is there its session is not read on, so that order holds; nobody else waits for it.
//!
//! # Layout
//!
//! * `upward`: from clients: what is charged and refused before anything is copied.
//! * `delivery`: to clients: a ring is made, given room in, replaced by a larger one, and let go when it is idle.

mod delivery;

mod upward;

use super::broker::Core;
use super::queues::Given;
use super::services::{Giving, Held};
use super::table::Key;
use super::timers::Timer;
use super::{Action, FdId};
use std::collections::{BTreeMap, VecDeque};
use tramline_wire::{BulkPayload, BulkRoom};

/// A ring's memory consists of whole pages.
const PAGE_BYTES: u64 = 4096;

/// Size of a delivery ring unless a payload needs more: some room for the next while one is read.
const DELIVERY_BYTES: u64 = 4 * 1024 * 1024;

/// After how long without a payload a delivery ring is let go, and when one is tried again for which there was no memory.
const IDLE_MILLIS: u64 = 10_000;
const RETRY_MILLIS: u64 = 1_000;

/// What a message needs in the body of the frame that passes it on, besides itself, at most. More than that and it goes by
/// ring.
pub(super) const HEAD_BYTES: usize = 64;

/// Both rings of one session.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    pub(super) up: Upward,
    down: Delivery,
}

impl Bulk {
    /// Whether a job for this consumer is being copied.
    pub(super) fn is_given_to(&self, number: u32) -> bool {
        matches!(&self.down.placing, Some((_, Placing::Job { consumer, .. })) if *consumer == number)
    }
}

/// A client's own ring.
#[derive(Debug, Default)]
pub(super) struct Upward {
    ring: u32,
    bytes: u64,
    memory: Option<FdId>,
    /// Whether it counts as a ring's memory: before its first payload is taken.
    charged: bool,
    /// The payload of the next frame.
    pub(super) next: Option<BulkPayload>,
    fetching: Option<Fetching>,
}

/// A frame that waits for its payload.
#[derive(Debug)]
struct Fetching {
    body: Box<[u8]>,
    payload: BulkPayload,
    /// What its sender is charged for meanwhile.
    cost: u64,
}

/// The ring for what a client receives.
#[derive(Debug, Default)]
struct Delivery {
    ring: u32,
    stage: Stage,
    room: BulkRoom,
    /// What it is charged for.
    bytes: u64,
    /// What is being copied into it, and to where.
    placing: Option<(u64, Placing)>,
    /// Answers that wait for room in it.
    replies: VecDeque<Held>,
    /// When it is looked at again: it is idle, or there was no memory.
    timer_at: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    None,
    Making,
    Ready,
    /// There was no memory; not again before the timer.
    Failed,
}

/// A message on its way to a client.
#[derive(Debug)]
pub(super) enum Placing {
    Job { consumer: u32, given: Given },
    Call(Giving),
    Reply(Held),
}

/// What all delivery rings take.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    pub(super) bytes: u64,
    by_uid: BTreeMap<u32, u64>,
    /// Sessions for whose ring there was no room.
    waiting: VecDeque<Key>,
}

impl Core {
    /// Whether a message of so many bytes is passed on by ring to who has no frame large enough.
    pub(super) fn is_bulk(&self, bytes: usize) -> bool {
        bytes + HEAD_BYTES > self.limits.frame_bytes_max as usize
    }

    /// A session has ended: what it had of rings goes.
    pub(super) fn end_bulk(&mut self, key: Key) {
        self.drop_upward(key);
        self.drop_delivery(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let uid = session.identity.uid;
        let bulk = std::mem::take(&mut session.bulk);
        if let Some(fetching) = bulk.up.fetching {
            self.uncharge(uid, fetching.cost);
        }
        let unsent = bulk.down.placing.and_then(|(_, placing)| match placing {
            Placing::Reply(held) => Some(held),
            Placing::Job { .. } | Placing::Call(_) => None,
        });
        for held in bulk.down.replies.into_iter().chain(unsent) {
            self.uncharge(uid, held.cost());
        }
        if let Some(at) = bulk.down.timer_at {
            self.timers.cancel(at, Timer::Bulk(key));
        }
        self.deliveries.waiting.retain(|waiting| *waiting != key);
    }

    fn uncharge(&mut self, uid: u32, cost: u64) {
        self.queues.charges.release(super::queues::Account::Memory, uid, cost);
    }

    fn act_on(&mut self, key: Key, action: impl FnOnce(super::SessionId) -> Action) {
        if let Some(session) = self.sessions.get(key) {
            self.actions.push_back(action(session.id));
        }
    }
}
