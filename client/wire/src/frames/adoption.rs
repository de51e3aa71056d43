//! What frames carry by which attachments outlive a broker.
//!
//! The order of fields is the format, as in [`frames`](super).

use super::Mode;
use bincode::{BorrowDecode, Encode};

/// A subscriber still reads a stream that it was attached to on an earlier connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct StillReads {
    /// The attachment, by the id that it had then.
    pub attach: u64,
    /// For which subscription, which is asked for behind this frame.
    pub sub: u32,
    /// The stream.
    pub stream: u64,
    /// The latest generation of it that the subscriber was given.
    pub generation: u32,
    /// Whether it reads in place because the broker said that the publisher is trusted.
    pub in_place: bool,
}

/// A publisher still has a reader that it admitted on an earlier connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct StillAdmits {
    /// The attachment, by the id that it had then.
    pub attach: u64,
    /// Which of its streams, which is opened again behind this frame.
    pub stream: u64,
    /// The reader's slot.
    pub slot: u32,
    /// Whether it is waited for now.
    pub mode: Mode,
}

/// An attachment of an earlier connection goes on under its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Adopted {
    /// The attachment.
    pub attach: u64,
    /// To its subscriber: publisher and topic, see [`ToClient::Source`](super::ToClient::Source). To its publisher: none.
    pub source: Option<u32>,
    /// Whether the reader is waited for from here on.
    pub mode: Mode,
}
