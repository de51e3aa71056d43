//! What a message says about itself besides its payload, before it is sent.

use crate::error::Result;
use tramline_wire::{Encoding, MessageFlags};

/// A message ready to be numbered.
pub(crate) struct Outgoing<'a> {
    pub(crate) flags: MessageFlags,
    pub(crate) source_time: i64,
    pub(crate) head: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Outgoing<'a> {
    pub(crate) fn plain(encoding: Encoding, payload: &'a [u8]) -> Self {
        Self { flags: MessageFlags::new(encoding), source_time: 0, head: &[], payload }
    }
}

/// What a message builder has collected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft<'a> {
    pub(crate) message_type: &'a str,
    pub(crate) headers: Vec<(&'a str, &'a [u8])>,
    pub(crate) encoding: Encoding,
    pub(crate) source_time: Option<i64>,
}

impl Draft<'_> {
    /// Type and headers as they travel.
    pub(crate) fn head(&self) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        if self.message_type.is_empty() && self.headers.is_empty() {
            return Ok(head);
        }
        tramline_wire::headers::encode(&mut head, self.message_type, self.headers.iter().copied())?;
        Ok(head)
    }

    pub(crate) fn flags(&self) -> MessageFlags {
        let flags = MessageFlags::new(self.encoding);
        if self.source_time.is_some() { flags.with_source_time() } else { flags }
    }

    pub(crate) fn outgoing<'b>(&self, head: &'b [u8], payload: &'b [u8]) -> Outgoing<'b> {
        Outgoing { flags: self.flags(), source_time: self.source_time.unwrap_or(0), head, payload }
    }
}

/// The methods that every builder of a message has, for a type with a field `draft` of lifetime `'a`.
macro_rules! describes {
    () => {
        /// Its type, up to 127 bytes.
        pub fn type_(mut self, message_type: &'a str) -> Self {
            self.draft.message_type = message_type;
            self
        }

        /// One more header; names are up to 255 bytes, values up to 65,535, all together up to 16 KiB.
        pub fn header(mut self, name: &'a str, value: &'a [u8]) -> Self {
            self.draft.headers.push((name, value));
            self
        }

        /// How its bytes are to be understood; binary unless set.
        pub fn encoding(mut self, encoding: tramline_wire::Encoding) -> Self {
            self.draft.encoding = encoding;
            self
        }

        /// When what it tells happened: nanoseconds since 1970, UTC.
        pub fn source_time(mut self, unix_nanos: i64) -> Self {
            self.draft.source_time = Some(unix_nanos);
            self
        }
    };
}
pub(crate) use describes;
