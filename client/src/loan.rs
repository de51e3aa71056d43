//! Room for a message, to be filled in place.
//!
//! Usually it lies in the ring, and sending it copies nothing. When the ring had no room and the
//! publisher does not wait, it lies in this process's memory and is copied into the ring when sent.

use crate::clock::monotonic_nanos;
use crate::error::{Error, Full, Result};
use crate::publisher::Sender;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use tramline_ring::Meta;
use tramline_wire::MessageFlags;

enum Room {
    InRing(tramline_ring::Loan),
    Own(Vec<u8>),
}

/// Room for one message of a [`Publisher`](crate::Publisher): write to it as to a `&mut [u8]`, then
/// [`send`](Self::send). All of its bytes are initialised. Dropping it unsent gives the room back.
///
/// It does not borrow from its publisher, so several may be held and filled at a time, also on other
/// threads; the order of messages is that of sending.
pub struct Loan {
    room: Option<Room>,
    sender: Arc<Sender>,
    head: Vec<u8>,
    flags: MessageFlags,
    source_time: i64,
}

impl Loan {
    pub(crate) fn in_ring(sender: Arc<Sender>, loan: tramline_ring::Loan) -> Self {
        Self::new(sender, Room::InRing(loan))
    }

    pub(crate) fn own(sender: Arc<Sender>, bytes: usize) -> Self {
        Self::new(sender, Room::Own(vec![0; bytes]))
    }

    fn new(sender: Arc<Sender>, room: Room) -> Self {
        Self { room: Some(room), sender, head: Vec::new(), flags: MessageFlags::default(), source_time: 0 }
    }

    pub(crate) fn describe(mut self, head: Vec<u8>, flags: MessageFlags, source_time: i64) -> Self {
        (self.head, self.flags, self.source_time) = (head, flags, source_time);
        self
    }

    /// Whether it lies in the ring, so that sending it copies nothing.
    #[must_use]
    pub fn in_place(&self) -> bool {
        matches!(self.room, Some(Room::InRing(_)))
    }

    /// Publishes all of it. Returns its sequence number. Does not block when it lies [in the
    /// ring](Self::in_place).
    ///
    /// # Errors
    /// [`Error::Closed`] after the publisher was closed. A loan in own memory is sent as by
    /// [`Publisher::send`](crate::Publisher::send), and [`Error::Full`] gives it back.
    pub fn send(self) -> Result<u64> {
        let used = self.len();
        self.send_len(used)
    }

    /// Publishes its first `used` bytes. Returns the sequence number.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Panics
    /// When `used` is more than there are.
    pub fn send_len(mut self, used: usize) -> Result<u64> {
        self.sender.handle.shared.check_process()?;
        assert!(used <= self.len(), "a loan of {} bytes has no {used} to send", self.len());
        let meta = Meta { flags: self.flags.bits(), time: monotonic_nanos(), source_time: self.source_time };
        match self.room.take() {
            Some(Room::InRing(loan)) => self.sender.stream.commit(loan, used, meta, &self.head),
            Some(Room::Own(bytes)) => {
                let on_full = self.sender.on_full;
                let result = self.sender.send(on_full, meta, &self.head, &bytes[..used]);
                self.room = Some(Room::Own(bytes));
                match result {
                    Err(Error::Full(Full { topic, holder, growing, .. })) => {
                        Err(Error::Full(Full { topic, holder, loan: Some(Box::new(self)), growing }))
                    }
                    other => other,
                }
            }
            None => Err(Error::Closed),
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // A fork's copy of a loan is no room at all, and the parent's locks are not to be waited for.
        if self.sender.handle.shared.check_process().is_err() {
            return;
        }
        if let Some(Room::InRing(loan)) = self.room.take() {
            self.sender.stream.cancel(loan);
            self.sender.handle.shared.reactor.changed();
        }
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.room {
            Some(Room::InRing(loan)) => loan.bytes(),
            Some(Room::Own(bytes)) => bytes,
            None => &[],
        }
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.room {
            Some(Room::InRing(loan)) => loan.bytes_mut(),
            Some(Room::Own(bytes)) => bytes,
            None => &mut [],
        }
    }
}

impl AsMut<[u8]> for Loan {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan")
            .field("bytes", &self.len())
            .field("in_place", &self.in_place())
            .finish_non_exhaustive()
    }
}
