//! Every frame of the native protocol, version 1.
//!
//! The order of variants and fields is the format (see [`codec`](crate::codec)): a variant's place is
//! its number on the wire, so new frames are appended and nothing is reordered. Frames borrow from
//! the bytes they were decoded from.
//!
//! # How a stream reaches a subscription
//!
//! ```text
//! publisher P                    broker                      subscriber R
//! OpenStream + ring fd  ───────►   (checks seals, size, quota)
//!                                  Source, Offer  ─────────►   (makes or reuses a reader page)
//!                                  ◄──────────── Accept + page fd
//!   ◄──── Admit + page fd + bells
//! Admitted(start)       ───────►
//!                                  Attach + ring fd + bells ►   (maps the ring, verifies)
//!                                  ◄──────────── Attached
//!   ◄──── StreamOpened, once every subscriber present has been admitted or has timed out
//! ```
//!
//! A subscription made later enters at `Offer` for each stream it matches, and `Subscribed` follows
//! when all are attached or reported pending. From then on the broker is not on the way.

use crate::codes::Code;
use crate::message::Message;
use bincode::{BorrowDecode, Encode};

mod adoption;
mod bulk;
mod gates;
mod queues;
mod services;
mod sessions;
mod streams;

pub use adoption::{Adopted, StillAdmits, StillReads};
pub use bulk::{BulkFree, BulkPayload, BulkRing};
pub use gates::{GateLimits, ModeChanged, ModeTold};
pub use queues::{Consume, DeclareQueue, Job, Push, Strategy, Verdict, WhenFull};
pub use services::{Call, ErrorReply, Outcome, Provide, Replied, Reply, Request};
pub use sessions::{LimitInfo, Source, TopicSettings, Welcome};
pub use streams::{
    Accept, Admit, Attach, GatedBy, Geometry, GrowStream, Mode, Offer, OpenStream, PageDeclaration, Successor,
};

/// A message from a client, to the topic behind one of its aliases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Publish<'a> {
    /// Which topic, see [`ToBroker::Topic`].
    pub alias: u32,
    /// The message.
    pub message: Message<'a>,
}

/// A message for one subscription, from the publisher and topic behind one of the broker's aliases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Deliver<'a> {
    /// The subscription, as its owner numbered it.
    pub sub: u32,
    /// From whom and on what topic, see [`ToClient::Source`].
    pub source: u32,
    /// The payload's length as published. It exceeds `message.payload` when the payload was too large
    /// for a frame to this client, which then holds the first bytes only.
    pub payload_length: u64,
    /// The message.
    pub message: Message<'a>,
}

/// What happens when a subscriber on the socket does not keep up and its queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, BorrowDecode)]
pub enum SlowPolicy {
    /// Hold up the publishers, for at most `millis` milliseconds (and at most the broker's limit);
    /// after that, drop the oldest until the subscriber has caught up with half of its queue.
    Block {
        /// Longest wait, milliseconds.
        millis: u32,
    },
    /// Drop the oldest message of this subscription.
    DropOldest,
    /// Close the session with [`Code::SlowSubscriber`].
    Disconnect,
}

/// What a client asks for when it subscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Subscribe<'a> {
    /// Echoed in the answer; not 0.
    pub req: u32,
    /// The subscription's number, chosen by the client, unused so far.
    pub sub: u32,
    /// Which topics.
    pub filter: &'a str,
    /// Whether publishers wait for it, in rings.
    pub mode: Mode,
    /// Whether this client reads rings. If not, the broker reads them on its behalf and delivers by socket.
    pub rings: bool,
    /// How many past messages of each stream to begin with, as far as they are still there.
    pub history: u32,
    /// What happens when it does not keep up with the socket.
    pub slow: SlowPolicy,
    /// Bytes that may wait for it in the broker; 0 takes the broker's default.
    pub backlog_bytes_max: u32,
    /// Whether it would rather not read a stream than read it lossily: refused with [`Code::GateRefused`] where a
    /// publisher does not let it hold it up.
    pub gated_only: bool,
}

/// A frame from a client to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
#[non_exhaustive]
pub enum ToBroker<'a> {
    /// First frame of a session (0).
    Hello {
        /// What the client calls itself, for people; up to 64 bytes.
        name: &'a str,
        /// A random number that the client keeps for all its connections; 0 if its numbers do not go on from one
        /// connection to the next. Subscribers are told it, see [`Source::client`].
        client: u64,
    },
    /// Defines what an alias means for this session's publishes from here on (1).
    Topic {
        /// Below [`ALIASES_MAX`](crate::limits::ALIASES_MAX); defining it again replaces it.
        alias: u32,
        /// The topic.
        topic: &'a str,
    },
    /// A message (2).
    Publish(Publish<'a>),
    /// Subscribes (3). Answered by `Subscribed` or `Error`.
    Subscribe(Subscribe<'a>),
    /// Ends a subscription (4). Answered by `Done`; nothing of it arrives after that.
    Unsubscribe {
        /// Echoed in the answer.
        req: u32,
        /// The subscription.
        sub: u32,
    },
    /// Declares a stream (5), 1 descriptor. Answered by `StreamOpened` or `Error`.
    OpenStream(OpenStream),
    /// Ends a stream (6). Its readers read to the end of it. Answered by `Done`.
    CloseStream {
        /// Echoed in the answer.
        req: u32,
        /// The stream.
        stream: u64,
        /// Its last sequence number (that before its first, if it had none).
        last_seq: u64,
    },
    /// The subscriber takes an offer (7), up to 1 descriptor.
    Accept(Accept),
    /// The publisher admitted a reader (8).
    Admitted {
        /// The attachment.
        attach: u64,
        /// The position the reader begins at.
        start: u64,
        /// Sequence number of the first message from there on.
        start_seq: u64,
        /// The generation in which that position lies.
        generation: u32,
    },
    /// The subscriber mapped what it was given last by `Attach` or `Successor` (9).
    Attached {
        /// The attachment.
        attach: u64,
    },
    /// Either side ends or refuses an attachment (10).
    Detach {
        /// The attachment.
        attach: u64,
        /// Why, a [`Code`] number; 0 for "no longer wanted".
        code: u16,
    },
    /// Asks for `Pong` (11).
    Ping {
        /// Echoed in the answer.
        req: u32,
    },
    /// Announces another generation of a stream (12), 1 descriptor. Answered by `StreamGrown` or `Error`.
    GrowStream(GrowStream),
    /// The subscriber reads in a later generation and holds nothing of this one any more (13).
    Released {
        /// The attachment.
        attach: u64,
        /// The generation.
        generation: u32,
    },
    /// The publisher holds nothing of an earlier generation any more (14).
    GenerationLeft {
        /// The stream.
        stream: u64,
        /// The generation.
        generation: u32,
    },
    /// The publisher does not wait for a reader any more, or does again (15).
    ModeChanged(ModeChanged),
    /// The subscriber still reads a stream from an earlier connection (16). Before that subscription is asked for.
    StillReads(StillReads),
    /// The publisher still has a reader from an earlier connection (17). Before that stream is opened again.
    StillAdmits(StillAdmits),
    /// Defines what a queue alias means for this session's pushes from here on (18). Answered by `Done` or `Error`, unless
    /// `req` is 0.
    OpenQueue {
        /// Echoed in the answer.
        req: u32,
        /// Below [`ALIASES_MAX`](crate::limits::ALIASES_MAX); defining it again replaces it.
        alias: u32,
        /// The queue's name.
        queue: &'a str,
    },
    /// A message for a queue (19). Answered by `Pushed` or `PushRefused`.
    Push(Push<'a>),
    /// Makes a queue, or finds that it is there as asked for (20). Answered by `Done` or `Error`.
    DeclareQueue(DeclareQueue<'a>),
    /// Takes messages from a queue from here on (21). Answered by `Consuming` or `Error`.
    Consume(Consume<'a>),
    /// Lets a consumer be given so many more messages (22). Refused by `Error` with request 0.
    Credit {
        /// The consumer.
        consumer: u32,
        /// How many more.
        more: u32,
    },
    /// Says what became of jobs (23): those of one consumer with tags from `first` to `last`. Answered by `Done` if `req`
    /// is not 0, after a `JobLost` for each that this consumer has not.
    Settle {
        /// Echoed in the answer; 0 wants none.
        req: u32,
        /// The consumer.
        consumer: u32,
        /// The first tag.
        first: u64,
        /// The last tag.
        last: u64,
        /// What became of them.
        verdict: Verdict<'a>,
    },
    /// Takes no more messages (24): what it has goes to others at once. Answered by `Done`.
    EndConsume {
        /// Echoed in the answer.
        req: u32,
        /// The consumer.
        consumer: u32,
        /// The last tag that somebody looked at. Jobs with higher ones go back as if they had never been given out.
        seen: u64,
    },
    /// Answers requests of a service from here on (25). Answered by `Done` or `Error`.
    Provide(Provide<'a>),
    /// Is given no more requests (26); those it has it may still answer. Answered by `Done`.
    EndProvide {
        /// Echoed in the answer.
        req: u32,
        /// The instance.
        provider: u32,
    },
    /// A request to a service (27). Answered by `Replied` or `RequestFailed`, once.
    Request(Request<'a>),
    /// The answer to a request is not wanted any more (28). One that is on its way may still come.
    CancelRequest {
        /// The request, by its number.
        request: u64,
    },
    /// What became of a call (29). Every call is answered once, also one that is over.
    Reply(Reply<'a>),
    /// The ring for this client's large payloads (30), 1 descriptor with memory.
    BulkRing(BulkRing),
    /// The payload of the next frame, a `Push`, `Request` or `Reply` (31).
    BulkPayload(BulkPayload),
    /// The client does not read a payload of the broker's any more (32).
    BulkFree(BulkFree),
}

/// A frame from the broker to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
#[non_exhaustive]
pub enum ToClient<'a> {
    /// The session is open (0).
    Welcome(Welcome<'a>),
    /// A request was refused, or (with `req` 0) something else went wrong (1).
    Error {
        /// The request, or 0.
        req: u32,
        /// A [`Code`] number.
        code: u16,
        /// What happened, for people.
        message: &'a str,
        /// The limit that was met, if it was one.
        limit: Option<LimitInfo<'a>>,
    },
    /// A request without a result was carried out (2).
    Done {
        /// The request.
        req: u32,
    },
    /// The broker took a publish that asked for it, after handing it to every subscriber's queue (3).
    Confirmed {
        /// The client's topic alias.
        alias: u32,
        /// Which message.
        seq: u64,
        /// How many subscriptions it was handed to.
        receivers: u32,
    },
    /// Defines a source alias (4).
    Source(Source<'a>),
    /// A publisher will not be heard of again under this alias (5): its session ended.
    SourceGone {
        /// The alias.
        alias: u32,
    },
    /// A message (6).
    Deliver(Deliver<'a>),
    /// Messages were dropped before the next one of this subscription (7).
    Gap {
        /// The subscription.
        sub: u32,
        /// On which topic; empty for several.
        topic: &'a str,
        /// How many.
        lost: u64,
        /// From whom, see [`ToClient::Source`]: the numbers that follow those received or told lost before. `None`
        /// for several, or for one that cannot be said.
        source: Option<u32>,
    },
    /// A subscription is active (8).
    Subscribed {
        /// The request.
        req: u32,
        /// The subscription.
        sub: u32,
        /// How many streams are attached to it now.
        streams: u32,
        /// How many more did not answer within the attach timeout, and are attached when they do.
        pending: u32,
    },
    /// A stream is open (9).
    StreamOpened {
        /// The request.
        req: u32,
        /// The stream.
        stream: u64,
        /// How many readers were admitted.
        readers: u32,
        /// How many more did not answer within the attach timeout.
        pending: u32,
    },
    /// A stream is offered to a subscription (10).
    Offer(Offer),
    /// A reader asks to be admitted to a stream (11), up to 3 descriptors.
    Admit(Admit<'a>),
    /// A stream's memory (12), 1 or 3 descriptors.
    Attach(Attach),
    /// An attachment has ended (13). A reader drains what the ring still holds.
    Detach {
        /// The attachment.
        attach: u64,
        /// Why, a [`Code`] number; 0 when the stream was closed or the reader left in good order.
        code: u16,
    },
    /// The answer to `Ping` (14).
    Pong {
        /// The request.
        req: u32,
    },
    /// The last frame of a session (15).
    Close {
        /// A [`Code`] number.
        code: u16,
        /// What happened, for people.
        message: &'a str,
    },
    /// What the operator set for some topics (16). All of them come before `Welcome`, which so completes
    /// the list; for a topic, the first whose filter matches counts.
    TopicSettings(TopicSettings<'a>),
    /// The stream goes on in the generation that was announced, from this frame on (17).
    StreamGrown {
        /// The request.
        req: u32,
        /// The stream.
        stream: u64,
        /// The generation.
        generation: u32,
    },
    /// The memory of a later generation (18), 1 descriptor. Confirmed by `Attached`.
    Successor(Successor),
    /// A stream is read in another mode than before, or than was asked for (19).
    ModeTold(ModeTold),
    /// An attachment of an earlier connection goes on (20).
    Adopted(Adopted),
    /// A reader of this stream has lost its access (21): the publisher is to go on in another generation, which that
    /// reader is not given.
    Renew {
        /// The stream.
        stream: u64,
    },
    /// Pushes were taken, or had been taken before under the same id (22).
    Pushed {
        /// The client's queue alias.
        queue: u32,
        /// Number of the first.
        first: u64,
        /// Number of the last.
        last: u64,
    },
    /// A push was not taken (23).
    PushRefused {
        /// The client's queue alias.
        queue: u32,
        /// Its number.
        seq: u64,
        /// A [`Code`] number.
        code: u16,
        /// What happened, for people.
        message: &'a str,
        /// The limit that was met, if it was one.
        limit: Option<LimitInfo<'a>>,
    },
    /// A consumer is there (24).
    Consuming {
        /// The request.
        req: u32,
        /// The consumer.
        consumer: u32,
        /// How long it may keep a message, in milliseconds.
        ack_timeout_millis: u32,
    },
    /// A message for a consumer (25).
    Job(Job<'a>),
    /// A consumer does not have this job, or not any more (26): its time is over, or it was settled before, or never given.
    JobLost {
        /// The consumer.
        consumer: u32,
        /// The job.
        tag: u64,
        /// A [`Code`] number.
        code: u16,
    },
    /// A request for an instance (27).
    Call(Call<'a>),
    /// An answer to a call goes nowhere any more (28): its time is over, or its caller has given up or gone. It keeps its
    /// place at the instance until it is answered all the same.
    CallOver {
        /// The instance.
        provider: u32,
        /// The call.
        call: u64,
        /// A [`Code`] number; 0 when the caller wants no answer any more.
        code: u16,
    },
    /// The answer to a request (29).
    Replied(Replied<'a>),
    /// There will be no answer to a request (30).
    RequestFailed {
        /// The request, by its number.
        request: u64,
        /// A [`Code`] number.
        code: u16,
        /// What happened, for people.
        message: &'a str,
        /// The limit that was met, if it was one.
        limit: Option<LimitInfo<'a>>,
    },
    /// The ring for large payloads to this client (31), 1 descriptor with memory.
    BulkRing(BulkRing),
    /// The payload of the next frame, a `Job`, `Call` or `Replied` (32).
    BulkPayload(BulkPayload),
    /// The broker has copied a payload of this client's, or does not need it (33).
    BulkFree(BulkFree),
}

impl ToBroker<'_> {
    /// How many file descriptors come with this frame, as it declares.
    #[must_use]
    pub const fn fds(&self) -> u8 {
        match self {
            Self::OpenStream(frame) => frame.fds,
            Self::Accept(frame) => frame.fds,
            Self::GrowStream(frame) => frame.fds,
            Self::BulkRing(frame) => frame.fds,
            _ => 0,
        }
    }

    /// Whether the declared number of descriptors is what the frame's other fields call for.
    #[must_use]
    pub const fn fds_fit(&self) -> bool {
        match self {
            Self::OpenStream(frame) => frame.fds == 1,
            Self::GrowStream(frame) => frame.fds == 1,
            Self::Accept(frame) => frame.fds == frame.page.is_some() as u8,
            Self::BulkRing(frame) => frame.fds == (frame.bytes > 0) as u8,
            _ => true,
        }
    }
}

impl ToClient<'_> {
    /// How many file descriptors come with this frame, as it declares.
    #[must_use]
    pub const fn fds(&self) -> u8 {
        match self {
            Self::Admit(frame) => frame.fds,
            Self::Attach(frame) => frame.fds,
            Self::Successor(frame) => frame.fds,
            Self::BulkRing(frame) => frame.fds,
            _ => 0,
        }
    }

    /// Whether the declared number of descriptors is what the frame's other fields call for.
    #[must_use]
    pub const fn fds_fit(&self) -> bool {
        match self {
            Self::Admit(frame) => frame.fds == frame.page.is_some() as u8 + 2 * frame.bells as u8,
            Self::Attach(frame) => frame.fds == 1 + 2 * frame.bells as u8,
            Self::Successor(frame) => frame.fds == 1,
            Self::BulkRing(frame) => frame.fds == (frame.bytes > 0) as u8,
            _ => true,
        }
    }

    /// An error frame.
    #[must_use]
    pub const fn error<'a>(req: u32, code: Code, message: &'a str) -> ToClient<'a> {
        ToClient::Error { req, code: code.number(), message, limit: None }
    }
}
