//! What lies in the file of durable queues: any bytes are refused, or mean one thing, which is written the same way again.

use tramline::store;

/// Bytes as they are, and the same behind a right checksum, which a fuzzer would not guess.
pub(crate) fn stored(bytes: &[u8]) {
    if let Some((key, value)) = bytes.split_first_chunk() {
        let _ = store::readable(u128::from_le_bytes(*key), value);
    }
    if let Some((sealed, again)) = store::read_and_write(bytes) {
        assert_eq!(sealed, again);
        // One bit away from the truth is a lie.
        let key = bytes[1..17].try_into().expect("it was read");
        for bit in (0..sealed.len() * 8).step_by(7) {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!store::readable(u128::from_le_bytes(key), &flipped), "bit {bit}");
        }
    }
}
