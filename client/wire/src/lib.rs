//! The words of Tramline's native protocol.
//!
//! This crate owns what both ends of a socket must agree on: [`Topic`]s and [`Filter`]s, the
//! [`preamble`], every frame ([`ToBroker`], [`ToClient`]) with its encoder and its bounded decoder,
//! the [`HeaderBlock`] that carries a message's type and headers on both planes, the [`limits`], and the
//! stable [`Code`]s of errors. `docs/protocol.md` says the same byte by byte.
//!
//! It performs no I/O, holds no state and has no unsafe code. Nothing in it allocates by a length that
//! a peer claimed: decoded frames borrow from the bytes they were decoded from.
//!
//! # Layout
//!
//! * [`topic`]: names and filters, and which filter matches which name.
//! * [`limits`]: the numbers both ends rely on.
//! * [`preamble`]: the eight bytes before the first frame, and the choice of a version.
//! * [`headers`]: type and headers of a message as one block of bytes.
//! * [`message`]: flags, numbers and times of a message, and its bytes.
//! * [`frames`]: every frame.
//! * [`codec`]: frames to bytes and back; the only file that knows bincode's configuration.
//!   `plain` is its short cut for the frames that messages travel in.
//! * [`bulk`]: the account of a bulk ring's bytes, as its writer keeps it.
//! * [`codes`]: why something was refused or closed.
//! * [`path`]: where the broker's socket is.

pub mod topic;

pub mod limits;

pub mod preamble;

pub mod headers;

pub mod message;

pub mod frames;

pub mod codec;

mod plain;

pub mod bulk;

pub mod codes;

pub mod path;

pub use bulk::BulkRoom;
pub use codec::{DecodeError, FRAME_PREFIX_BYTES, Framed, split_frame};
pub use codes::Code;
pub use frames::{
    Accept, Admit, Adopted, Attach, BulkFree, BulkPayload, BulkRing, Call, Consume, DeclareQueue, Deliver,
    ErrorReply, GateLimits, GatedBy, Geometry, GrowStream, Job, LimitInfo, Mode, ModeChanged, ModeTold,
    Offer, OpenStream, Outcome, PageDeclaration, Provide, Publish, Push, Replied, Reply, Request, SlowPolicy,
    Source, StillAdmits, StillReads, Strategy, Subscribe, Successor, ToBroker, ToClient, TopicSettings,
    Verdict, Welcome, WhenFull,
};
pub use headers::HeaderBlock;
pub use message::{After, Encoding, Message, MessageFlags};
pub use topic::{Filter, Topic, TopicError};
