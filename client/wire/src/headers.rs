//! A message's type and headers as one block of bytes, the same on the socket and in a ring.
//!
//! ```text
//! empty                                       no type, no headers
//! u8 type length │ type │ header*             type length 0: no type
//! header = u8 name length (1..) │ name │ u16 LE value length │ value
//! ```
//!
//! Names are UTF-8 and unique; values are any bytes. A block is checked once, when it becomes a
//! [`HeaderBlock`]; after that it is read without further checks failing.

use crate::limits::{HEADER_BLOCK_BYTES_MAX, HEADERS_MAX, TYPE_BYTES_MAX};

/// Why a block of type and headers was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Longer than [`HEADER_BLOCK_BYTES_MAX`].
    #[error("type and headers take {0} bytes; at most {HEADER_BLOCK_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// More than [`HEADERS_MAX`].
    #[error("more than {HEADERS_MAX} headers")]
    TooMany,
    /// A length points past the end, a name is empty, or trailing bytes are left.
    #[error("the header block is cut short or malformed at byte {0}")]
    Malformed(usize),
    /// A type or header name is not UTF-8.
    #[error("a type or header name is not UTF-8, at byte {0}")]
    NotText(usize),
    /// Two headers have the same name.
    #[error("a header's name stands a second time, at byte {0}")]
    Repeated(usize),
    /// The type is longer than [`TYPE_BYTES_MAX`].
    #[error("the message type has {0} bytes; at most {TYPE_BYTES_MAX} are allowed")]
    TypeTooLong(usize),
    /// A header name is empty or longer than 255 bytes, or a value longer than 65,535 bytes.
    #[error("a header name of {name} and value of {value} bytes; names have 1 to 255, values up to 65535")]
    Length {
        /// Bytes of the name.
        name: usize,
        /// Bytes of the value.
        value: usize,
    },
}

/// A checked block of type and headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeaderBlock<'a>(&'a [u8]);

impl<'a> HeaderBlock<'a> {
    /// No type, no headers.
    pub const EMPTY: Self = Self(&[]);

    /// Checks `bytes`.
    ///
    /// # Errors
    /// When the block is too long or malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        if bytes.is_empty() {
            return Ok(Self::EMPTY);
        }
        if bytes.len() > HEADER_BLOCK_BYTES_MAX {
            return Err(HeaderError::TooLong(bytes.len()));
        }
        let type_length = usize::from(bytes[0]);
        if type_length > TYPE_BYTES_MAX {
            return Err(HeaderError::TypeTooLong(type_length));
        }
        let type_bytes = bytes.get(1..1 + type_length).ok_or(HeaderError::Malformed(0))?;
        std::str::from_utf8(type_bytes).map_err(|_| HeaderError::NotText(1))?;
        let first = 1 + type_length;
        let (mut at, mut count) = (first, 0);
        while at < bytes.len() {
            let (name, _, next) = header_at(bytes, at).ok_or(HeaderError::Malformed(at))?;
            std::str::from_utf8(name).map_err(|_| HeaderError::NotText(at))?;
            count += 1;
            if count > HEADERS_MAX {
                return Err(HeaderError::TooMany);
            }
            if names(bytes, first).take(count - 1).any(|known| known == name) {
                return Err(HeaderError::Repeated(at));
            }
            at = next;
        }
        Ok(Self(bytes))
    }

    /// The block as it travels.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there is neither type nor header.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The message's type, if it has one.
    #[must_use]
    pub fn message_type(self) -> Option<&'a str> {
        let length = usize::from(*self.0.first()?);
        let text = std::str::from_utf8(self.0.get(1..1 + length)?).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// The headers in the order they were given: name and value.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let mut at = self.0.first().map_or(0, |length| 1 + usize::from(*length));
        std::iter::from_fn(move || {
            let (name, value, next) = header_at(self.0, at)?;
            at = next;
            Some((std::str::from_utf8(name).ok()?, value))
        })
    }

    /// The value of the header called `name`.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.iter().find_map(|(key, value)| (key == name).then_some(value))
    }
}

/// The names of headers from the one at `at` on.
fn names(bytes: &[u8], mut at: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (name, _, next) = header_at(bytes, at)?;
        at = next;
        Some(name)
    })
}

fn header_at(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8], usize)> {
    let name_length = usize::from(*bytes.get(at)?);
    let name_end = at + 1 + name_length;
    let name = bytes.get(at + 1..name_end)?;
    let length = bytes.get(name_end..name_end + 2)?;
    let value_length = usize::from(u16::from_le_bytes([length[0], length[1]]));
    let value = bytes.get(name_end + 2..name_end + 2 + value_length)?;
    (name_length > 0).then_some((name, value, name_end + 2 + value_length))
}

/// Writes a block: the type (empty: none), then the headers. Appends nothing when both are absent.
///
/// # Errors
/// When something is longer than the block can say; `out` is then as it was.
pub fn encode<'h>(
    out: &mut Vec<u8>,
    message_type: &str,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> Result<(), HeaderError> {
    let start = out.len();
    let result = encode_into(out, message_type, headers, start);
    if result.is_err() || out.len() == start + 1 {
        // An error leaves nothing behind, and neither does a block that would say nothing.
        out.truncate(start);
    }
    result
}

fn encode_into<'h>(
    out: &mut Vec<u8>,
    message_type: &str,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    start: usize,
) -> Result<(), HeaderError> {
    let type_length = u8::try_from(message_type.len())
        .ok()
        .filter(|length| usize::from(*length) <= TYPE_BYTES_MAX)
        .ok_or(HeaderError::TypeTooLong(message_type.len()))?;
    out.push(type_length);
    out.extend_from_slice(message_type.as_bytes());
    for (count, (name, value)) in headers.into_iter().enumerate() {
        let fault = HeaderError::Length { name: name.len(), value: value.len() };
        if count >= HEADERS_MAX {
            return Err(HeaderError::TooMany);
        }
        if names(&out[start..], 1 + message_type.len()).any(|known| known == name.as_bytes()) {
            return Err(HeaderError::Repeated(out.len() - start));
        }
        out.push(u8::try_from(name.len()).ok().filter(|length| *length > 0).ok_or(fault)?);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&u16::try_from(value.len()).map_err(|_| fault)?.to_le_bytes());
        out.extend_from_slice(value);
        if out.len() - start > HEADER_BLOCK_BYTES_MAX {
            return Err(HeaderError::TooLong(out.len() - start));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_takes_no_bytes() {
        let mut out = vec![7];
        encode(&mut out, "", []).unwrap();
        assert_eq!(out, [7]);
        assert!(HeaderBlock::parse(&[]).unwrap().is_empty());
    }

    #[test]
    fn type_and_headers_come_back() {
        let mut out = Vec::new();
        encode(&mut out, "fix", [("a", b"1".as_slice()), ("trace", b"")]).unwrap();
        let block = HeaderBlock::parse(&out).unwrap();
        assert_eq!(block.message_type(), Some("fix"));
        assert_eq!(block.iter().collect::<Vec<_>>(), [("a", b"1".as_slice()), ("trace", b"")]);
        assert_eq!(block.get("trace"), Some(b"".as_slice()));
        assert_eq!(block.get("b"), None);
    }

    #[test]
    fn a_refused_block_leaves_nothing_behind() {
        let mut out = vec![1];
        assert!(encode(&mut out, &"t".repeat(128), []).is_err());
        assert!(encode(&mut out, "", [("", b"".as_slice())]).is_err());
        let long = vec![0; HEADER_BLOCK_BYTES_MAX];
        assert!(matches!(encode(&mut out, "", [("a", long.as_slice())]), Err(HeaderError::TooLong(_))));
        let names: Vec<String> = (0..=HEADERS_MAX).map(|n| n.to_string()).collect();
        assert_eq!(
            encode(&mut out, "", names.iter().map(|n| (n.as_str(), &[][..]))),
            Err(HeaderError::TooMany)
        );
        let twice = [("a", b"1".as_slice()), ("b", b""), ("a", b"2")];
        assert_eq!(encode(&mut out, "t", twice), Err(HeaderError::Repeated(11)));
        assert_eq!(out, [1]);
        assert_eq!(HeaderBlock::parse(b"\0\x01a\0\0\x01a\0\0"), Err(HeaderError::Repeated(5)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_readable(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(block) = HeaderBlock::parse(&bytes) {
                let mut again = Vec::new();
                encode(&mut again, block.message_type().unwrap_or(""), block.iter()).unwrap();
                // A lone 0 says "no type, no headers" in one byte instead of none.
                prop_assert!(again == bytes || bytes == [0]);
            }
        }
    }
}
