//! How the bare sockets tell messages apart: each stands behind its length, as on any stream that carries messages.

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;

/// A message with its length.
pub(super) const fn framed_bytes(payload: usize) -> usize {
    LENGTH_BYTES + payload
}

/// Writes the length of a message that fills `frame`, and returns the room for its payload.
pub(super) fn begin(frame: &mut [u8]) -> &mut [u8] {
    let (length, payload) = frame.split_at_mut(LENGTH_BYTES);
    let bytes = u32::try_from(payload.len()).expect("messages of a benchmark are below 64 MiB");
    length.copy_from_slice(&bytes.to_le_bytes());
    payload
}

/// The first message in `bytes` and what follows it, if it is there whole.
pub(super) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_where_they_were_put() {
        let mut stream = vec![9; framed_bytes(3) + framed_bytes(0) + 5];
        begin(&mut stream[..framed_bytes(3)]).copy_from_slice(b"abc");
        assert!(begin(&mut stream[framed_bytes(3)..][..framed_bytes(0)]).is_empty());
        let (first, rest) = split(&stream).unwrap();
        assert_eq!(first, b"abc");
        let (second, rest) = split(rest).unwrap();
        assert_eq!((second, rest), (&b""[..], &[9; 5][..]));
        assert_eq!(split(rest), None, "a length of which not everything has come");
        assert_eq!(split(&stream[..3]), None);
    }
}
