//! The numbers both ends of a connection rely on. Each is a fixed property of protocol version 1;
//! what an operator may change lives in the broker's configuration and arrives in
//! [`Welcome`](crate::Welcome).

/// Longest topic or filter, in bytes.
pub const TOPIC_BYTES_MAX: usize = 255;

/// Most tokens in one topic or filter: a 255-byte name of one-byte tokens.
pub const TOPIC_TOKENS_MAX: usize = 128;

/// Longest client name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 64;

/// Longest block of type and headers of one message, in bytes.
pub const HEADER_BLOCK_BYTES_MAX: usize = 16 * 1024;

/// Longest message type, in bytes.
pub const TYPE_BYTES_MAX: usize = 127;

/// Most headers on one message.
pub const HEADERS_MAX: usize = 64;

/// What a broker may not exceed when it announces the largest frame body it takes, in bytes.
pub const FRAME_BYTES_CEILING: usize = 16 * 1024 * 1024;

/// The largest frame body unless the broker announces another, in bytes.
pub const FRAME_BYTES_DEFAULT: usize = 1024 * 1024;

/// What a frame needs besides payload and header block, rounded up, in bytes: a payload of
/// `frame_bytes_max - FRAME_OVERHEAD_BYTES - header block` always fits.
pub const FRAME_OVERHEAD_BYTES: usize = 128;

/// Most topic aliases that a client may define, and most sources that a broker defines, per session.
pub const ALIASES_MAX: u32 = 4096;

/// Most [`TopicSettings`](crate::TopicSettings) that a broker sends.
pub const TOPIC_SETTINGS_MAX: usize = 1024;

/// Most generations of one stream that may be in use at a time.
pub const STREAM_GENERATIONS_MAX: u32 = 64;

/// Most file descriptors that one frame carries.
pub const FRAME_FDS_MAX: u8 = 3;

/// Most subscriptions a session may number: subscription ids are below this.
pub const SUBSCRIPTION_ID_MAX: u32 = 1 << 24;

/// Largest message in a ring, in bytes (lengths are 32 bits there).
pub const RING_MESSAGE_BYTES_MAX: u64 = u32::MAX as u64;

/// Payloads in a bulk ring begin at multiples of this many bytes.
pub const BULK_UNIT_BYTES: u64 = 64;

/// Longest id by which a producer names a message, in bytes.
pub const MESSAGE_ID_BYTES_MAX: usize = 64;

/// Longest reason for rejecting a job, in bytes.
pub const REJECT_REASON_BYTES_MAX: usize = 256;

/// The highest priority of a message in a queue; the lowest is 0.
pub const PRIORITY_MAX: u8 = 9;

/// The priority of a message that names none.
pub const PRIORITY_DEFAULT: u8 = 4;

/// Longest words of an error by which a service answers, in bytes.
pub const REPLY_TEXT_BYTES_MAX: usize = 1024;

/// The longest that the answer to a request may take, in milliseconds: an hour.
pub const REQUEST_MILLIS_CEILING: u32 = 3_600_000;
