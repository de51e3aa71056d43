//! What frames about a session as a whole carry: its opening, who its publishers are, what refused something.
//!
//! The order of fields is the format, as in [`frames`](super).

use super::{GateLimits, Geometry};
use bincode::{BorrowDecode, Encode};

/// The broker's answer to [`ToBroker::Hello`](super::ToBroker::Hello).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Welcome<'a> {
    /// This session's id; unique in one run of the broker.
    pub session: u64,
    /// The broker's run, chosen at random at its start.
    pub instance: u64,
    /// The broker's version, for people.
    pub version: &'a str,
    /// The largest frame body it takes, in bytes.
    pub frame_bytes_max: u32,
    /// How long it waits for the other side of an attachment, in milliseconds.
    pub attach_timeout_millis: u32,
    /// The most subscriptions this session may have.
    pub subscriptions_max: u32,
    /// The most streams this session may have open.
    pub streams_max: u32,
    /// The largest ring it grants, in bytes.
    pub ring_bytes_max: u64,
    /// Descriptors and arena of a ring for this client's topics unless it asks for another size.
    pub ring_default: Geometry,
    /// How long readers may hold a publisher up.
    pub gate: GateLimits,
}

/// How rings on some topics are made unless their publisher asks for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct TopicSettings<'a> {
    /// Which topics.
    pub filter: &'a str,
    /// Descriptors and arena, if set; otherwise as [`Welcome::ring_default`].
    pub ring: Option<Geometry>,
    /// How many messages are kept for late readers, if set.
    pub history: Option<u32>,
    /// How many messages the broker keeps readable after their publisher has gone: a publisher keeps at least as many for
    /// late readers.
    pub retain: u32,
}

/// Who publishes what: the meaning of a source alias from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Source<'a> {
    /// The alias, below [`ALIASES_MAX`](crate::limits::ALIASES_MAX); defining it again replaces it.
    pub alias: u32,
    /// The topic.
    pub topic: &'a str,
    /// The publishing session; 0 is the broker itself.
    pub session: u64,
    /// The publisher's name as it gave it.
    pub name: &'a str,
    /// Its uid, as the kernel vouches.
    pub uid: u32,
    /// Its process id, as the kernel vouches.
    pub pid: u32,
    /// The number that the publisher says is its own on all its connections; 0: none. With the same process id, its
    /// messages on one topic are one sequence, whichever session they come from.
    pub client: u64,
}

/// Which limit refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct LimitInfo<'a> {
    /// The configuration key.
    pub name: &'a str,
    /// Its value.
    pub value: u64,
    /// What is used of it, or what was asked for.
    pub used: u64,
}
