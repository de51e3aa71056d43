//! The broker's state and rules: sessions, topics, routing, delivery, rings, access, quotas.
//!
//! Events come in with the time, actions come out. This module and all below it perform no I/O, read
//! no clock, start no thread and never wait, so that a whole broker runs inside a test under virtual
//! time. The shell around it owns sockets, descriptors, timers and files.
//!
//! # The conversation with the shell
//!
//! 1. The shell calls one of the `Core` methods that take an event (`connect`, `native_input`, …) with [`Now`].
//! 2. The core changes its state, appends to sessions' [`Outbox`]es and queues [`Action`]s.
//! 3. After each batch of events the shell carries out all actions ([`Core::next_action`]), then writes
//!    the outboxes of all sessions in [`Core::next_dirty`], and reports what was written
//!    ([`Core::written`]), which may let queued messages move up and blocked publishers go on.
//! 4. It sleeps until something arrives or [`Core::deadline`] passes, then calls [`Core::tick`].
//!
//! # Who closes a descriptor
//!
//! Every [`FdId`] that a frame, [`Bells`] or [`Core::proxy_accept`] hands to the core is closed by the shell when
//! [`Action::CloseFd`] names it, exactly once and only then: sending a descriptor does not use it up. Two
//! exceptions: the bells in [`Action::ProxyAttach`] become the shell's, and descriptors that the core did
//! not take out of the queue given to [`Core::native_input`] stay the shell's.

pub mod limits;

pub mod access;

mod quota;

pub mod strategy;

pub mod latency;

pub mod queues;

pub mod services;

pub mod routes;

mod health;

pub mod durable;

pub mod broker;

mod session;

mod ending;

mod native;

mod runs;
mod stretch;

mod json_session;

mod topics;

mod filters;

mod table;

mod subscription;

mod subscribe;

mod router;

mod delivery;

mod gaps;

mod sources;

pub mod outbox;

mod rings;

mod generations;

mod ids;

mod revocation;

mod attachment;

mod attachments;

mod handover;

mod adoption;

mod links;

mod gates;

mod bulk;

mod retained;

mod past;

mod proxies;

mod wholes;

mod events;

mod timers;

pub mod snapshot;

mod status;

#[cfg(test)]
mod tests;

pub use access::{Access, TopicSettings};
pub use broker::{Core, Refusal};
pub use latency::{BOUNDS_SECONDS, Latency};
pub use limits::Limits;
pub use outbox::{Chunk, Outbox};
pub use queues::{Durability, QueueSettings, WhenFull, Who};
pub(crate) use rings::ring_bytes;
pub use routes::tap_topic;
pub use services::ServiceSettings;
pub use snapshot::Snapshot;
pub use strategy::Strategy;

/// A connection, unique in one run of the broker. 0 is the broker itself.
pub type SessionId = u64;

/// A file descriptor that the shell keeps and the core only names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FdId(pub u64);

/// The time at which an event happened, given by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic: u64,
    /// Nanoseconds since 1970, UTC.
    pub unix: i64,
}

/// Which of the three languages a session speaks (HTTP requests ask for a [`Core::snapshot`] instead).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Frames.
    Native,
    /// JSON lines.
    Json,
}

/// Who is at the other end, as the kernel vouches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Process id at accept.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Whether the shell goes on reading from whoever caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Stop reading until [`Action::Resume`]: a slow subscriber holds this publisher up for a bounded time, or
    /// the session does not read its own answers. What was not consumed is given again then.
    Pause,
    /// The session ends: flush its outbox, then close. No more input is wanted.
    Close,
}

/// How far an input was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Bytes used up, whole frames only.
    pub consumed: usize,
    /// What to do next.
    pub flow: Flow,
}

/// The four ends of a link's two pipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bells {
    /// Subscriber's end of the doorbell.
    pub doorbell_read: FdId,
    /// Publisher's end of the doorbell.
    pub doorbell_write: FdId,
    /// Publisher's end of the space bell.
    pub space_read: FdId,
    /// Subscriber's end of the space bell.
    pub space_write: FdId,
}

/// What the core asks the shell to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Check a ring's memfd off the core's thread, then call [`Core::ring_verified`] with what its header has
    /// counted.
    VerifyRing {
        /// The stream it belongs to.
        stream: u64,
        /// The memory.
        memory: FdId,
        /// Generation it must carry.
        generation: u32,
        /// Size it must have.
        geometry: tramline_wire::Geometry,
    },
    /// Make a link's pipes (`O_CLOEXEC | O_NONBLOCK`), then call [`Core::pipes_made`].
    MakePipes {
        /// For this link.
        link: u64,
    },
    /// Copy the last messages of a stream that has ended, off the core's thread, then call [`Core::ring_retained`].
    Retain {
        /// The stream.
        stream: u64,
        /// Its memory; it stays the core's.
        memory: FdId,
        /// Generation of the memory.
        generation: u32,
        /// Its size.
        geometry: tramline_wire::Geometry,
        /// How many messages at most.
        messages: u32,
        /// How many bytes of memory the copy may take.
        bytes_max: u64,
    },
    /// Say what a generation that is over has counted, before its memory is closed: by [`Core::ring_counted`].
    CountRing {
        /// The stream.
        stream: u64,
        /// Its topic.
        topic: std::sync::Arc<str>,
        /// The generation.
        part: snapshot::RingPart,
    },
    /// Close a descriptor, off the core's thread.
    CloseFd(FdId),
    /// Read from this session again.
    Resume(SessionId),
    /// Write out what is in the outbox, then close the connection and call [`Core::disconnected`].
    CloseSession(SessionId),
    /// A subscription without rings: the shell itself takes this offer, in the subscriber's place
    /// (make a page if needed), then calls [`Core::proxy_accept`] or [`Core::proxy_refuse`].
    ProxyOffer {
        /// The attachment.
        attach: u64,
        /// The link it belongs to; slots of one link share pages.
        link: u64,
        /// The stream.
        stream: u64,
    },
    /// The memory for an accepted proxy attachment: map, begin to read, call [`Core::proxy_attached`], then
    /// [`Core::proxy_message`] for each message. The memory stays the core's (duplicate it before the next
    /// action); the bells become the shell's.
    ProxyAttach {
        /// The attachment.
        attach: u64,
        /// The ring.
        memory: FdId,
        /// Its generation.
        generation: u32,
        /// Its size.
        geometry: tramline_wire::Geometry,
        /// Position to begin at.
        start: u64,
        /// Sequence number of the first message from there on.
        start_seq: u64,
        /// Reading end of the doorbell and writing end of the space bell, when the link is new.
        bells: Option<(FdId, FdId)>,
        /// Whether the cursor is to follow what is stored, which is said by [`Action::ProxyStored`], and not what was read;
        /// and the number up to which all is stored already.
        stored: Option<u64>,
    },
    /// Messages up to this number are on disk: the cursor of this proxy attachment may pass them.
    ProxyStored {
        /// The attachment.
        attach: u64,
        /// The number.
        seq: u64,
    },
    /// The memory of a later generation for a proxy attachment that has, or is about to have, an earlier one: map it, go on
    /// in it where the earlier one ends, and say so by [`Core::proxy_went_on`]. The memory stays the core's.
    ProxySuccessor {
        /// The attachment.
        attach: u64,
        /// The ring.
        memory: FdId,
        /// Its generation.
        generation: u32,
        /// Its size.
        geometry: tramline_wire::Geometry,
    },
    /// The attachment has ended. With `drain`, read what is still there first; then call
    /// [`Core::proxy_ended`].
    ProxyDetach {
        /// The attachment.
        attach: u64,
        /// Whether the rest is to be read.
        drain: bool,
    },
    /// A JSON client asks for the status: take a [`Core::snapshot`], fill in what the rings say, and give it back with
    /// [`Core::status_filled`].
    Status {
        /// The session.
        session: SessionId,
        /// Its request's id, to be given back.
        request: Option<String>,
    },
    /// Have the store keep these changes, all or none, off the core's thread, then call [`Core::stored`]. There is no other
    /// before that.
    Store {
        /// Its number.
        batch: u64,
        /// In this order.
        changes: Vec<durable::Change>,
    },
    /// Read from the store, behind all batches so far, then call [`Core::loaded`].
    Load {
        /// Its number.
        load: u64,
        /// Of which queue.
        queue: durable::QueueNumber,
        /// From which shelf.
        shelf: durable::Shelf,
        /// Messages with higher numbers than this.
        after: u64,
        /// At most so many.
        messages_max: usize,
        /// No more once there are so many bytes; one in any case.
        bytes_max: usize,
    },
    /// Have a worker carry this out, off the core's thread, then call [`Core::worked`]. What is for one worker is carried out
    /// in this order.
    Work(routes::Task),
    /// Copy a payload out of a client's bulk ring, off the core's thread, then call [`Core::bulk_fetched`] with it behind
    /// `head`. The memory stays the core's (duplicate it before the next action).
    FetchBulk {
        /// The session.
        session: SessionId,
        /// Its ring.
        ring: u32,
        /// The ring's memory, not checked yet.
        memory: FdId,
        /// How large that must be.
        bytes: u64,
        /// Where the payload begins; it lies within as many bytes.
        offset: u64,
        /// How long it is.
        length: u64,
        /// What comes before it.
        head: Box<[u8]>,
    },
    /// Nothing more will be fetched from the ring that this session had.
    ForgetBulk {
        /// The session.
        session: SessionId,
    },
    /// Make memory for a bulk ring to this session, off the core's thread, then call [`Core::bulk_made`]. One that it had
    /// before is forgotten.
    MakeBulk {
        /// The session.
        session: SessionId,
        /// The ring's number.
        ring: u32,
        /// How large.
        bytes: u64,
    },
    /// Copy a payload into the bulk ring to this session, off the core's thread, then call [`Core::bulk_placed`].
    PlaceBulk {
        /// The session.
        session: SessionId,
        /// The ring.
        ring: u32,
        /// Where to.
        offset: u64,
        /// What: from `from` to the end.
        bytes: std::sync::Arc<[u8]>,
        /// Where the payload begins in it.
        from: usize,
    },
    /// The bulk ring to this session is over: its memory goes.
    DropBulk {
        /// The session.
        session: SessionId,
    },
    /// Read this paused proxy attachment again.
    ProxyResume {
        /// The attachment.
        attach: u64,
    },
    /// The link of a subscription without rings is over, because the subscription or the publishing session has
    /// ended: the shell drops its pages and bells. Attachments that still drain keep them until they have ended.
    ProxyLinkEnded {
        /// The link.
        link: u64,
    },
}

/// The copy of a stream's last messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedCopy {
    /// Its memory: a closed generation, positions from 0 on.
    pub memory: FdId,
    /// Its generation.
    pub generation: u32,
    /// Its size.
    pub geometry: tramline_wire::Geometry,
    /// The same in bytes.
    pub bytes: u64,
    /// Numbers of its messages, at least one.
    pub seqs: Vec<u64>,
}

/// What the shell does with a message that it found in a ring, before it is given to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Give it, or as much of its payload as fits into a frame.
    Give,
    /// Copy it whole on another thread, then ask again, and give it as [`RingMessage::whole`].
    Copy,
    /// There is no room for it: let go of its place in the ring, keep a copy, read nothing more, and ask again after
    /// [`Action::ProxyResume`].
    Keep,
    /// Others are copied: keep it where it is, read nothing more, and ask again after [`Action::ProxyResume`].
    Wait,
}

/// A message that the shell read from a ring on behalf of a subscription.
#[derive(Debug, Clone, Copy)]
pub struct RingMessage<'a> {
    /// Its number in the stream.
    pub seq: u64,
    /// How many were lost just before it.
    pub lost: u64,
    /// Flags as published (a claim).
    pub flags: u16,
    /// Monotonic time of publishing (a claim).
    pub time: u64,
    /// Source time (a claim).
    pub source_time: i64,
    /// Type and headers (a claim, not yet checked).
    pub head: &'a [u8],
    /// The payload, or its first bytes if it is larger than the subscriber can be given.
    pub payload: &'a [u8],
    /// The payload's whole length.
    pub payload_length: u64,
    /// The message as it travels, head and all of the payload, if it was to be copied whole ([`Found::Copy`]). `payload` is
    /// not looked at then.
    pub whole: Option<&'a std::sync::Arc<[u8]>>,
}
