//! What waits to be written to one session: contiguous bytes, and the descriptors that travel with them.
//!
//! The core appends whole frames or lines; the shell writes [`Outbox::chunk`]s and says how much went out.
//! Descriptors belong to the first byte of their frame, so a chunk never runs into the next frame
//! that carries some. The outbox performs no I/O and enforces no limit: whoever appends looks at
//! [`Outbox::len`] first (`delivery`).

use super::FdId;
use std::collections::VecDeque;

/// Room kept when everything is written, in bytes; more is given back.
const ROOM_KEPT_BYTES: usize = 512 * 1024;

/// Bytes for one write, with the descriptors that go with the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Descriptors to attach to this write. They are used up as soon as one byte was written.
    pub fds: &'a [FdId],
}

#[derive(Debug)]
struct Carried {
    /// Offset of the frame's first byte since the session began.
    position: u64,
    fds: Vec<FdId>,
}

/// What waits to be written to one session.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    start: usize,
    /// Offset of `bytes[start]` since the session began.
    position: u64,
    carried: VecDeque<Carried>,
    sent: Vec<FdId>,
}

impl Outbox {
    /// Everything that waits.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Number of bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where in [`Outbox::pending`] the next frame with descriptors begins, and which they are.
    #[must_use]
    pub fn next_fds(&self) -> Option<(usize, &[FdId])> {
        let next = self.carried.front()?;
        Some((self.relative(next), &next.fds))
    }

    /// What one `sendmsg` may take: up to the next frame that carries descriptors of its own.
    #[must_use]
    pub fn chunk(&self) -> Chunk<'_> {
        let pending = self.pending();
        let mut carried = self.carried.iter();
        let (fds, end) = match carried.next() {
            Some(first) if self.relative(first) == 0 => (first.fds.as_slice(), carried.next()),
            other => (&[][..], other),
        };
        let end = end.map_or(pending.len(), |next| self.relative(next));
        Chunk { bytes: &pending[..end], fds }
    }

    /// Says that the first `count` bytes were written, with their descriptors. Call [`super::Core::written`]
    /// afterwards.
    ///
    /// # Panics
    /// If `count` is more than waits.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "{count} bytes were written of {} that waited", self.len());
        self.start += count;
        self.position += count as u64;
        while self.carried.front().is_some_and(|next| next.position < self.position) {
            self.sent.extend(self.carried.pop_front().into_iter().flat_map(|next| next.fds));
        }
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(ROOM_KEPT_BYTES);
            self.start = 0;
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// How many bytes were written since the session began.
    pub(super) fn written_bytes(&self) -> u64 {
        self.position
    }

    fn relative(&self, carried: &Carried) -> usize {
        usize::try_from(carried.position - self.position).expect("what waits fits into memory")
    }

    /// The buffer to append whole frames or lines to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Says that the frame appended next carries these.
    pub(super) fn carry(&mut self, fds: Vec<FdId>) {
        if !fds.is_empty() {
            self.carried.push_back(Carried { position: self.position + self.len() as u64, fds });
        }
    }

    /// Descriptors that were sent since the last call.
    pub(super) fn take_sent(&mut self) -> Vec<FdId> {
        std::mem::take(&mut self.sent)
    }

    /// Descriptors that will never be sent, because the session has ended.
    pub(super) fn take_unsent(&mut self) -> Vec<FdId> {
        self.carried.drain(..).flat_map(|carried| carried.fds).chain(self.sent.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_go_with_the_first_byte_of_their_frame() {
        let mut outbox = Outbox::default();
        outbox.buffer().extend_from_slice(b"plain");
        outbox.carry(vec![FdId(1)]);
        outbox.buffer().extend_from_slice(b"one");
        outbox.carry(vec![FdId(2), FdId(3)]);
        outbox.buffer().extend_from_slice(b"two");
        assert_eq!(outbox.next_fds(), Some((5, &[FdId(1)][..])));
        assert_eq!(outbox.chunk(), Chunk { bytes: b"plain", fds: &[] });
        outbox.advance(2);
        assert_eq!(outbox.chunk(), Chunk { bytes: b"ain", fds: &[] });
        outbox.advance(3);
        assert_eq!(outbox.chunk(), Chunk { bytes: b"one", fds: &[FdId(1)] });
        outbox.advance(1);
        assert_eq!(outbox.take_sent(), [FdId(1)]);
        assert_eq!(outbox.chunk(), Chunk { bytes: b"ne", fds: &[] });
        outbox.advance(2);
        assert_eq!(outbox.chunk(), Chunk { bytes: b"two", fds: &[FdId(2), FdId(3)] });
        assert_eq!(outbox.take_unsent(), [FdId(2), FdId(3)]);
        outbox.advance(3);
        assert!(outbox.is_empty() && outbox.take_sent().is_empty());
    }

    #[test]
    fn what_is_appended_after_a_partial_write_stands_behind_it() {
        let mut outbox = Outbox::default();
        outbox.buffer().extend_from_slice(b"abcdef");
        outbox.advance(5);
        outbox.buffer().extend_from_slice(b"gh");
        assert_eq!(outbox.pending(), b"fgh");
    }
}
