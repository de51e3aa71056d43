//! What the benchmark sends: every byte written by the sender, every byte read by the receiver.
//!
//! ```text
//! word 0     number of the message
//! word 1     when it was to be sent, nanoseconds of CLOCK_MONOTONIC
//! the rest   one word derived from the number, again and again
//! ```
//!
//! The receiver adds up the rest and compares it with the sum that the number promises, so a message that
//! was torn, cut or mixed with another is noticed. Both passes are plain loops over words that the compiler
//! turns into vector code; the baselines use the same ones, so that like is compared with like.

/// Bytes of number and time, the smallest message of a benchmark.
pub(super) const STAMP_BYTES: usize = 16;

/// How much of each payload is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// Every byte is written and read.
    All,
    /// Only number and time are.
    StampOnly,
    /// Number and time are written, the rest was before ([`prepare`]) and is the same in all; every byte is read. For
    /// messages that are copied, where writing them is not what is measured.
    Copied,
}

/// Payloads wait in this many bytes of memory where they are large, in a ring as in the limits: more than fits the
/// writing core's own cache, from which another core reads slowly.
const WAITING_BYTES: usize = 4 << 20;

/// How many payloads of this size fit in there.
pub(super) const fn slots(bytes: usize) -> usize {
    WAITING_BYTES / bytes
}

/// What a receiver found in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Number of the message.
    pub(super) number: u64,
    /// When it was to be sent, nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) time: u64,
    /// Whether its bytes are those that belong to the number.
    pub(super) intact: bool,
}

/// Writes message `number` into `bytes`, which hold at least [`STAMP_BYTES`].
pub(super) fn write(bytes: &mut [u8], number: u64, time: u64, touch: Touch) {
    let (stamp, rest) = bytes.split_at_mut(STAMP_BYTES);
    stamp[..8].copy_from_slice(&number.to_le_bytes());
    stamp[8..].copy_from_slice(&time.to_le_bytes());
    if touch == Touch::All {
        fill(rest, word_of(number));
    }
}

/// Writes the rest of messages of which [`write`] with [`Touch::Copied`] then only writes the stamp.
pub(super) fn prepare(bytes: &mut [u8]) {
    fill(&mut bytes[STAMP_BYTES..], word_of(0));
}

fn fill(bytes: &mut [u8], word: u64) {
    let word = word.to_le_bytes();
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        chunk.copy_from_slice(&word);
    }
    for byte in words.into_remainder() {
        *byte = word[0];
    }
}

/// Reads a message; `None` when it is shorter than [`STAMP_BYTES`].
pub(super) fn read(bytes: &[u8], touch: Touch) -> Option<Stamp> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let number = u64::from_le_bytes(*number);
    let intact = touch == Touch::StampOnly || {
        let word = word_of(if touch == Touch::Copied { 0 } else { number });
        let (words, tail) = rest.as_chunks::<8>();
        let sum = words.iter().fold(0_u64, |sum, chunk| sum.wrapping_add(u64::from_le_bytes(*chunk)));
        let expected = word.wrapping_mul(words.len() as u64);
        sum == expected && tail.iter().all(|byte| *byte == word.to_le_bytes()[0])
    };
    Some(Stamp { number, time: u64::from_le_bytes(*time), intact })
}

/// The word that fills message `number`: odd multiples are distinct for distinct numbers.
const fn word_of(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_every_changed_byte_is_noticed() {
        for length in [16, 17, 24, 64, 1000, 1001] {
            let mut bytes = vec![0; length];
            write(&mut bytes, 5, 77, Touch::All);
            assert_eq!(read(&bytes, Touch::All), Some(Stamp { number: 5, time: 77, intact: true }));
            for at in STAMP_BYTES..length {
                bytes[at] ^= 1;
                assert!(!read(&bytes, Touch::All).unwrap().intact, "byte {at} of {length}");
                bytes[at] ^= 1;
            }
        }
        assert_eq!(read(&[0; 15], Touch::All), None);
    }

    #[test]
    fn a_prepared_payload_is_read_whole() {
        let mut bytes = [9; 64];
        prepare(&mut bytes);
        write(&mut bytes, 7, 2, Touch::Copied);
        assert_eq!(read(&bytes, Touch::Copied), Some(Stamp { number: 7, time: 2, intact: true }));
        bytes[40] ^= 1;
        assert!(!read(&bytes, Touch::Copied).unwrap().intact);
    }

    #[test]
    fn an_untouched_payload_has_only_its_stamp() {
        let mut bytes = [9; 64];
        write(&mut bytes, 1, 2, Touch::StampOnly);
        assert_eq!(bytes[16..], [9; 48]);
        assert!(read(&bytes, Touch::StampOnly).unwrap().intact);
        assert!(!read(&bytes, Touch::All).unwrap().intact);
    }
}
