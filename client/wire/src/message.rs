//! What one message says about itself on the socket, apart from who sends it where.
//!
//! [`Message`] stands at the end of a `Publish` and of a `Deliver` frame and passes through the broker as the bytes
//! it came in. As in [`frames`](crate::frames), the order of fields is the format.

use bincode::{BorrowDecode, Encode};

/// How a payload's bytes are to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// Any bytes.
    #[default]
    Binary,
    /// UTF-8 text.
    Text,
    /// One JSON value.
    Json,
}

/// What a message says about itself in one number: encoding in bits 0 and 1 (0 binary, 1 text, 2 JSON),
/// bit 2 "confirm this publish", bit 3 "the source time is set". Other bits are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, BorrowDecode)]
pub struct MessageFlags(u16);

impl MessageFlags {
    const ENCODING_MASK: u16 = 0b11;
    const CONFIRM: u16 = 0b100;
    const SOURCE_TIME: u16 = 0b1000;
    const KNOWN: u16 = 0b1111;

    /// Flags for a message of this encoding, without confirmation or source time.
    #[must_use]
    pub const fn new(encoding: Encoding) -> Self {
        Self(match encoding {
            Encoding::Binary => 0,
            Encoding::Text => 1,
            Encoding::Json => 2,
        })
    }

    /// The flags in this number, if it has only known bits and a known encoding.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::KNOWN != 0 || bits & Self::ENCODING_MASK == 3 { None } else { Some(Self(bits)) }
    }

    /// Flags as they came: whoever takes them in checks them with [`Self::from_bits`].
    pub(crate) const fn from_wire(bits: u16) -> Self {
        Self(bits)
    }

    /// The number.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The payload's encoding.
    #[must_use]
    pub const fn encoding(self) -> Encoding {
        match self.0 & Self::ENCODING_MASK {
            1 => Encoding::Text,
            2 => Encoding::Json,
            _ => Encoding::Binary,
        }
    }

    /// Whether the publisher asks for [`ToClient::Confirmed`](crate::ToClient::Confirmed).
    #[must_use]
    pub const fn confirm(self) -> bool {
        self.0 & Self::CONFIRM != 0
    }

    /// These flags with the wish to be confirmed.
    #[must_use]
    pub const fn with_confirm(self) -> Self {
        Self(self.0 | Self::CONFIRM)
    }

    /// Whether the message's source time means something.
    #[must_use]
    pub const fn has_source_time(self) -> bool {
        self.0 & Self::SOURCE_TIME != 0
    }

    /// These flags, saying that the source time is set.
    #[must_use]
    pub const fn with_source_time(self) -> Self {
        Self(self.0 | Self::SOURCE_TIME)
    }
}

/// After which ring message a socket message of the same publisher and topic comes: a subscriber that
/// reads that stream delivers the ring's messages up to `seq` first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct After {
    /// The stream.
    pub stream: u64,
    /// The last message in it.
    pub seq: u64,
}

/// A message as it travels on the socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Message<'a> {
    /// Encoding, confirmation, source time.
    pub flags: MessageFlags,
    /// Number among what this client published on this topic, on both planes together; the first is 1.
    pub seq: u64,
    /// When it was published: nanoseconds of `CLOCK_MONOTONIC` in the publisher.
    pub time: u64,
    /// When what it tells happened: nanoseconds since 1970 (UTC); 0 and meaningless unless flagged.
    pub source_time: i64,
    /// The ring message it follows, when the topic moved from a ring to the socket.
    pub after: Option<After>,
    /// Type and headers, see [`HeaderBlock`](crate::HeaderBlock).
    pub head: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}
