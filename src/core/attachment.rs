//! One attachment: what it joins, how far it is, what it was granted, and what it has yet to be given.
//!
//! This file holds the record only. Its way from step to step is in `attachments`, its memory's in `handover` and
//! `generations`.

use super::generations::Share;
use super::retained::Memory;
use super::session::Identity;
use super::table::Key;
use std::sync::Arc;
use tramline_wire::Mode;

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The subscriber was asked.
    Offered,
    /// Waits for its link's pipes.
    Piping,
    /// `Admit` is to be sent.
    Admission,
    /// The publisher was asked.
    Admitting,
    /// `Attach` is to be sent.
    Handover,
    /// The subscriber maps the memory.
    Attaching,
    /// The subscriber reads.
    Attached,
    /// The stream has ended and the broker reads the rest on the subscriber's behalf.
    Draining,
}

impl Stage {
    /// Whether messages may come, or be on their way, through the ring.
    pub(super) fn is_reading(self) -> bool {
        matches!(self, Self::Handover | Self::Attaching | Self::Attached | Self::Draining)
    }

    /// Whether the publisher knows of it.
    pub(super) fn is_known_to_publisher(self) -> bool {
        !matches!(self, Self::Offered | Self::Piping | Self::Admission)
    }

    /// The stage as people read it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Piping | Self::Admission | Self::Admitting => "admitting",
            Self::Handover | Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Draining => "draining",
        }
    }
}

/// One attachment.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) stream: u64,
    pub(super) topic: Key,
    pub(super) subscription: Key,
    pub(super) publisher: Key,
    pub(super) subscriber: Key,
    pub(super) link: u64,
    pub(super) slot: Option<u32>,
    /// As it was granted, and as it is: a publisher waits for nobody for ever.
    pub(super) granted: Mode,
    pub(super) mode: Mode,
    /// Whether the shell reads in the subscriber's place.
    pub(super) proxy: bool,
    pub(super) stage: Stage,
    /// Whether `StreamOpened` and `Subscribed` wait for it.
    pub(super) awaited_by_stream: bool,
    pub(super) awaited_by_subscription: bool,
    pub(super) start: u64,
    pub(super) start_seq: u64,
    pub(super) share: Share,
    /// The memory, where it is the copy of what a gone publisher sent.
    pub(super) copy: Option<Memory>,
    /// The last message that a proxy has read or knows lost.
    pub(super) last_seq: u64,
    /// Descriptors in flight to publisher and subscriber.
    pub(super) publisher_fds: u32,
    pub(super) subscriber_fds: u32,
    /// The stream has ended with this code before all of its memory was handed over.
    pub(super) ended: Option<u16>,
    /// Who publishes, for messages that the broker reads on a subscriber's behalf.
    pub(super) from: Arc<Identity>,
}

impl Attachment {
    /// One that nobody has spoken about yet, lossy and without a link.
    pub(super) fn new(
        stream: u64,
        topic: Key,
        subscription: Key,
        (publisher, subscriber): (Key, Key),
        from: Arc<Identity>,
    ) -> Self {
        Self {
            stream,
            topic,
            subscription,
            publisher,
            subscriber,
            link: 0,
            slot: None,
            granted: Mode::Lossy,
            mode: Mode::Lossy,
            proxy: false,
            stage: Stage::Offered,
            awaited_by_stream: false,
            awaited_by_subscription: false,
            start: 0,
            start_seq: 0,
            share: Share::default(),
            copy: None,
            last_seq: 0,
            publisher_fds: 0,
            subscriber_fds: 0,
            ended: None,
            from,
        }
    }
}
