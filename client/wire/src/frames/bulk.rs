//! What frames about bulk rings carry: where the payload of the next frame lies when it is too large for one.
//!
//! The order of fields is the format, as in [`frames`](super). The same three travel in both directions: a ring's
//! memory is told by who writes it, a payload too, and a place is given back by who reads it.

use bincode::{BorrowDecode, Encode};

/// The ring in which the payloads of this sender lie from here on; its memory comes with it. Without memory: there is
/// none any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct BulkRing {
    /// Its number, higher than that of the one before.
    pub ring: u32,
    /// Its size: whole pages; 0 without memory.
    pub bytes: u64,
    /// Descriptors with this frame: 1, or 0 without memory.
    pub fds: u8,
}

/// The payload of the next frame, whose own is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct BulkPayload {
    /// In which ring, which is the last that was told.
    pub ring: u32,
    /// Where it begins, a multiple of 64.
    pub offset: u64,
    /// How long it is; not 0.
    pub length: u64,
}

/// A payload is read no more: its place may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct BulkFree {
    /// In which ring.
    pub ring: u32,
    /// Where it began.
    pub offset: u64,
}
