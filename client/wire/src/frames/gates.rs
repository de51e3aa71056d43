//! What frames about holding a publisher up carry: how long a reader may, and that it was evicted or is waited for again.
//!
//! The order of fields is the format, as in [`frames`](super).

use super::Mode;
use bincode::{BorrowDecode, Encode};

/// How long gated readers may hold a publisher up; kept by the publisher, by its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct GateLimits {
    /// One reader, within one window, in milliseconds.
    pub budget_millis: u32,
    /// All readers of a publisher together, within one window, in milliseconds.
    pub publisher_millis: u32,
    /// A window begins with the first time that a reader is in the way, and lasts this long, in milliseconds.
    pub window_millis: u32,
    /// How long a reader is lossy whose budget was spent, in milliseconds.
    pub cooldown_millis: u32,
    /// Bytes that one reader may hold in place while the publisher has no room for as long as `budget_millis`; 0 for a quarter
    /// of the ring's arena.
    pub held_bytes_max: u64,
}

/// A publisher no longer waits for a reader, or does again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct ModeChanged {
    /// The attachment.
    pub attach: u64,
    /// How it reads from now on; gated again only if it was granted that.
    pub mode: Mode,
    /// For how long the reader held the publisher up, in milliseconds, if that is why.
    pub blocked_millis: u32,
}

/// A subscription is told that it reads a stream in another mode than it asked for or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct ModeTold {
    /// The attachment; one that this client was not offered if the broker reads in its place. 0: none was made, because
    /// the subscription wants to be gated or nothing and the publisher does not let it.
    pub attach: u64,
    /// The subscription.
    pub sub: u32,
    /// Publisher and topic, see [`ToClient::Source`](super::ToClient::Source).
    pub source: u32,
    /// How it reads from now on.
    pub mode: Mode,
    /// For how long it held the publisher up, in milliseconds, if that is why.
    pub blocked_millis: u32,
}
