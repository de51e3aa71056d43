//! What frames about streams, attachments and links carry.
//!
//! The order of fields is the format, as in [`frames`](super).

use bincode::{BorrowDecode, Encode};

/// Whether a reader may hold the writer up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, BorrowDecode)]
pub enum Mode {
    /// The writer waits for this reader: it loses nothing.
    Gated,
    /// The writer never waits: an overtaken reader is told how much it lost.
    Lossy,
}

/// Who may hold up a publisher's ring by reading it gated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, BorrowDecode)]
pub enum GatedBy {
    /// Whoever may subscribe.
    Anyone,
    /// Processes of the publisher's uid, and root.
    OwnUid,
    /// Nobody.
    Nobody,
}

/// The size of one generation of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, BorrowDecode)]
pub struct Geometry {
    /// Number of descriptors, a power of two.
    pub descriptors: u32,
    /// Bytes for payloads, a multiple of the page size.
    pub arena_bytes: u64,
}

/// A reader page that comes with a frame: slots `first_slot .. first_slot + slots` of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct PageDeclaration {
    /// Number of its first slot within the link.
    pub first_slot: u32,
    /// How many slots it has.
    pub slots: u32,
}

/// A publisher declares a stream; one descriptor, the ring's memory, comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct OpenStream {
    /// Echoed in the answer; not 0.
    pub req: u32,
    /// The topic, by alias.
    pub alias: u32,
    /// The stream's id, chosen at random by the publisher; not 0. The ring's header carries the same.
    pub stream: u64,
    /// Generation of the memory that comes with this frame; the first is 0.
    pub generation: u32,
    /// Its size.
    pub geometry: Geometry,
    /// The sequence number its first message will have.
    pub first_seq: u64,
    /// Who may gate it.
    pub gated_by: GatedBy,
    /// Descriptors with this frame: 1.
    pub fds: u8,
}

/// A stream is offered to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Offer {
    /// The attachment's id, by which all that follows refers to it.
    pub attach: u64,
    /// For which subscription.
    pub sub: u32,
    /// Publisher and topic, see [`ToClient::Source`](super::ToClient::Source).
    pub source: u32,
    /// The stream.
    pub stream: u64,
    /// What this subscription and that publishing session share.
    pub link: u64,
    /// Gated or lossy, as granted: a publisher need not let everyone gate it.
    pub mode: Mode,
    /// Whether the publisher is trusted not to change bytes after publishing; if not, the reader copies.
    pub in_place: bool,
    /// Whether this is what a publisher left that has gone: it comes before anything else of its topic, needs no
    /// publisher's admission, and ends with its last message.
    pub retained: bool,
}

/// The subscriber takes an offer and says which slot it will write its cursor to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Accept {
    /// The attachment.
    pub attach: u64,
    /// The slot within the link.
    pub slot: u32,
    /// A new reader page, which comes with this frame as one descriptor.
    pub page: Option<PageDeclaration>,
    /// Descriptors with this frame: 1 with a page, else 0.
    pub fds: u8,
}

/// The publisher is asked to admit a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Admit<'a> {
    /// The attachment.
    pub attach: u64,
    /// Which of the publisher's streams.
    pub stream: u64,
    /// The link; new to the publisher if `bells` is set.
    pub link: u64,
    /// The reader's slot within the link.
    pub slot: u32,
    /// Whether to wait for it.
    pub mode: Mode,
    /// How many past messages it wants to begin with.
    pub history: u32,
    /// How long to wait for it on when its link has hung up, in milliseconds, unless the stream is opened again; 0: not at
    /// all.
    pub keep_millis: u32,
    /// Session of the reader.
    pub session: u64,
    /// Its name, for people.
    pub name: &'a str,
    /// A new reader page, the first descriptor of this frame.
    pub page: Option<PageDeclaration>,
    /// Whether the link's bells come along, after the page: the end of the doorbell that is written to,
    /// then the end of the space bell that is read from.
    pub bells: bool,
    /// Descriptors with this frame: 1 for a page plus 2 for bells.
    pub fds: u8,
}

/// The subscriber gets the memory of a stream that admitted it. The first descriptor is the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Attach {
    /// The attachment.
    pub attach: u64,
    /// Generation of the memory.
    pub generation: u32,
    /// Its size.
    pub geometry: Geometry,
    /// Position to begin reading at.
    pub start: u64,
    /// Sequence number of the first message from there on.
    pub start_seq: u64,
    /// Whether the link's bells come along, after the ring: the end of the doorbell that is read from,
    /// then the end of the space bell that is written to.
    pub bells: bool,
    /// Descriptors with this frame: 1, plus 2 for bells.
    pub fds: u8,
}

/// A publisher wants to go on in another generation; one descriptor, its memory, comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct GrowStream {
    /// Echoed in the answer; not 0.
    pub req: u32,
    /// Which of the publisher's streams.
    pub stream: u64,
    /// The new generation, above all that were announced before.
    pub generation: u32,
    /// Its size.
    pub geometry: Geometry,
    /// Descriptors with this frame: 1.
    pub fds: u8,
}

/// The subscriber gets the memory of a later generation of a stream that it was attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Successor {
    /// The attachment.
    pub attach: u64,
    /// The generation.
    pub generation: u32,
    /// Its size.
    pub geometry: Geometry,
    /// Descriptors with this frame: 1.
    pub fds: u8,
}
