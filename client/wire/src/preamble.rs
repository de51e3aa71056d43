//! The eight bytes that open a native connection, each way.
//!
//! ```text
//! offset  client → broker                    broker → client
//! 0       0x93                               0x93
//! 1..5    "TRAM"                             "TRAM"
//! 5       lowest version the client speaks   the version chosen, 0 if there is none in common
//! 6       highest version it speaks          lowest version the broker speaks
//! 7       0                                  highest version the broker speaks
//! ```
//!
//! The first byte is no letter and no `{`, so one socket can serve this, JSON lines and HTTP.

/// First byte of a native connection.
pub const FIRST_BYTE: u8 = 0x93;

/// Length of the preamble, each way, in bytes.
pub const PREAMBLE_BYTES: usize = 8;

/// The lowest protocol version this crate speaks.
pub const VERSION_MIN: u8 = 1;

/// The highest protocol version this crate speaks.
pub const VERSION_MAX: u8 = 1;

const MAGIC: [u8; 5] = [FIRST_BYTE, b'T', b'R', b'A', b'M'];

/// Why a preamble was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// The first five bytes are not those of this protocol.
    #[error("not a Tramline connection: the preamble does not start with 93 54 52 41 4d")]
    Magic,
    /// Byte 7 of a client's preamble is reserved and must be 0, or its versions are out of order.
    #[error("a malformed preamble: versions {min} to {max}, reserved byte {reserved}")]
    Malformed {
        /// Lowest version as claimed.
        min: u8,
        /// Highest version as claimed.
        max: u8,
        /// The reserved byte.
        reserved: u8,
    },
    /// No version in common.
    #[error(
        "no common protocol version: the broker speaks {min} to {max}, this client {VERSION_MIN} to {VERSION_MAX}"
    )]
    NoCommonVersion {
        /// Lowest version the broker speaks.
        min: u8,
        /// Highest version the broker speaks.
        max: u8,
    },
}

/// What the client sends first.
#[must_use]
pub const fn request() -> [u8; PREAMBLE_BYTES] {
    [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], MAGIC[4], VERSION_MIN, VERSION_MAX, 0]
}

/// The broker's answer to `request`, and the version chosen (0: none in common, close after sending).
///
/// # Errors
/// When the bytes are no preamble of this protocol.
pub fn answer(request: [u8; PREAMBLE_BYTES]) -> Result<([u8; PREAMBLE_BYTES], u8), PreambleError> {
    if request[..5] != MAGIC {
        return Err(PreambleError::Magic);
    }
    let (min, max, reserved) = (request[5], request[6], request[7]);
    if min == 0 || min > max || reserved != 0 {
        return Err(PreambleError::Malformed { min, max, reserved });
    }
    let highest = max.min(VERSION_MAX);
    let chosen = if highest >= min.max(VERSION_MIN) { highest } else { 0 };
    let bytes = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], MAGIC[4], chosen, VERSION_MIN, VERSION_MAX];
    Ok((bytes, chosen))
}

/// The version that the broker's `answer` chose.
///
/// # Errors
/// When the bytes are no answer of this protocol, or the broker found no version in common.
pub fn accept(answer: [u8; PREAMBLE_BYTES]) -> Result<u8, PreambleError> {
    if answer[..5] != MAGIC {
        return Err(PreambleError::Magic);
    }
    let (chosen, min, max) = (answer[5], answer[6], answer[7]);
    if chosen == 0 || !(VERSION_MIN..=VERSION_MAX).contains(&chosen) {
        return Err(PreambleError::NoCommonVersion { min, max });
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_chosen() {
        let (bytes, chosen) = answer(request()).unwrap();
        assert_eq!(chosen, VERSION_MAX);
        assert_eq!(accept(bytes), Ok(VERSION_MAX));
        let newer = [0x93, b'T', b'R', b'A', b'M', 1, 200, 0];
        assert_eq!(answer(newer).unwrap().1, VERSION_MAX);
    }

    #[test]
    fn without_a_common_version_both_sides_say_so() {
        let (bytes, chosen) = answer([0x93, b'T', b'R', b'A', b'M', 100, 200, 0]).unwrap();
        assert_eq!(chosen, 0);
        assert_eq!(accept(bytes), Err(PreambleError::NoCommonVersion { min: VERSION_MIN, max: VERSION_MAX }));
    }

    #[test]
    fn what_is_not_a_preamble_is_refused() {
        assert_eq!(answer(*b"GET / HT"), Err(PreambleError::Magic));
        assert!(answer([0x93, b'T', b'R', b'A', b'M', 2, 1, 0]).is_err());
        assert!(answer([0x93, b'T', b'R', b'A', b'M', 1, 1, 9]).is_err());
        assert!(answer([0x93, b'T', b'R', b'A', b'M', 0, 1, 0]).is_err());
    }
}
