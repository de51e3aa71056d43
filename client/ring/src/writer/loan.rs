//! Loans: room that is filled in place, without holding the writer meanwhile, and then published or given back.

use super::{Meta, SendError, Writer, block_bytes};
use crate::arena::{Arena, Block};
use crate::layout::UNIT_BYTES;
use crate::view::Ring;
use std::sync::Arc;

/// What the writer knows of a loan that has not come back. After growth the loan still lies in the generation it was
/// taken from, and its room in the current one is kept for it.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// Address of the generation it lies in, which stays mapped as long as the loan lives.
    ring: usize,
    /// Where it lies there.
    start: u32,
    /// Its room in the current generation.
    pub(super) block: Block,
}

impl Outstanding {
    /// Takes as much room for it in the arena of a generation to come.
    pub(super) fn reserve(&self, arena: &mut Arena) -> Option<Block> {
        arena.take_apart(self.block.units())
    }
}

fn address(ring: &Arc<Ring>) -> usize {
    Arc::as_ptr(ring).addr()
}

impl Writer {
    /// Takes room for a payload that is filled in place, without holding the writer meanwhile.
    ///
    /// # Errors
    /// When there is no room now, or never will be.
    pub fn try_loan(&mut self, payload_bytes: usize, head_bytes: usize) -> Result<Loan, SendError> {
        let block = self.place(block_bytes(payload_bytes, head_bytes).max(1))?;
        self.loans.push(Outstanding { ring: address(&self.ring), start: block.start(), block });
        step!("publish: loaned");
        Ok(Loan { ring: Arc::clone(&self.ring), block, bytes: payload_bytes, head_bytes })
    }

    /// Publishes a loan's first `used` bytes and wakes sleeping readers. Never full: the loan has its room and its
    /// descriptor reserved, also in a generation that began meanwhile, to which its bytes are then copied. Returns the
    /// sequence number.
    ///
    /// # Panics
    /// When `used` or `head` is longer than what was taken, or the loan is another stream's.
    pub fn commit(&mut self, loan: Loan, used: usize, meta: Meta, head: &[u8]) -> u64 {
        assert!(used <= loan.bytes && head.len() <= loan.head_bytes, "a loan does not grow");
        let block = self.take_loan(&loan);
        if !Arc::ptr_eq(&loan.ring, &self.ring) {
            let bytes = loan.ring.bytes(u64::from(loan.block.start()) * UNIT_BYTES, used);
            self.ring.copy_in(u64::from(block.start()) * UNIT_BYTES, bytes);
        }
        step!("publish: loan filled");
        let fields = self.write_head(block, used, head);
        let seq = self.publish(block, fields, meta);
        self.flush();
        seq
    }

    /// Gives a loan's room back.
    ///
    /// # Panics
    /// When the loan is another stream's.
    pub fn cancel(&mut self, loan: Loan) {
        let block = self.take_loan(&loan);
        self.arena.give(block);
    }

    /// The room that is kept for a loan in the current generation.
    fn take_loan(&mut self, loan: &Loan) -> Block {
        let (ring, start) = (address(&loan.ring), loan.block.start());
        let place = self.loans.iter().position(|known| known.ring == ring && known.start == start);
        let place = place.expect("a loan goes back to the stream it came from");
        self.loans.swap_remove(place).block
    }
}

/// Room in a ring that belongs to this process until it is committed or cancelled. Dropping it instead keeps the room
/// taken for the life of the ring.
#[derive(Debug)]
pub struct Loan {
    ring: Arc<Ring>,
    block: Block,
    bytes: usize,
    head_bytes: usize,
}

impl Loan {
    /// The payload's bytes, all initialised: zeros, or old bytes of this stream. Aligned to 64. None in a fork, which
    /// does not inherit them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.ring.is_foreign() {
            return &mut [];
        }
        let address = self.ring.loan_address(u64::from(self.block.start()) * UNIT_BYTES, self.bytes);
        // SAFETY: the block lies within the arena, is initialised, and belongs to this loan alone until it is given
        // back; the ring stays mapped as long as the loan lives. Other processes cannot write it.
        unsafe { std::slice::from_raw_parts_mut(address.as_ptr(), self.bytes) }
    }

    /// The payload's bytes as filled so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.ring.bytes(u64::from(self.block.start()) * UNIT_BYTES, self.bytes)
    }

    /// How many bytes the payload may have.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether that is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}
