//! The ring's algorithm: every atomic access that two processes share, and why its order is enough.
//!
//! The model is a sequence lock per descriptor (H. Boehm, "Can seqlocks get along with programming language
//! memory models?", 2012) with hazard pointers beside it (M. Michael, 2004) for what is read in place.
//! Orders come in pairs; each side names the other:
//!
//! | writer | reader | what it gives |
//! |---|---|---|
//! | P1 `publish`: stamp Release | P1 `look`: stamp Acquire | whoever sees the stamp sees fields and bytes |
//! | P2 `retire`: stamp, then `fence_reuse` (SeqCst), then new bytes | P2 bytes, then `still`: fence Acquire, stamp | a copy that met new bytes sees that its stamp has changed |
//! | P3 `retire`, `fence_reuse` (SeqCst), `pinned` | P3 `pin`: pin, fence SeqCst, stamp | either the reader sees that it came too late or the writer sees the pin |
//! | P4 `pinned`, `cursor`: Acquire | P4 `unpin`, `move_cursor`: Release | what was read stays until it has been read |
//! | P5 stamp, `fence_wake` (SeqCst), sleep epoch | P5 `fall_asleep`: epoch, fence SeqCst, stamp | either the reader sees the message or the writer sees it asleep |
//! | P6 `await_room`: wait epoch, fence SeqCst, cursors and pins | P6 cursor or pin, fence SeqCst, `writer_waits` | either the writer sees the room or the reader sees it wait |
//! | P7 `finish`: state Release | P7 `ended`: state Acquire | whoever sees the end sees every message before it |
//!
//! Fences stand where one could use SeqCst accesses, because loom models the former exactly.
//! This file allocates nothing, decides nothing about room, and performs no system call.

use crate::layout::{Descriptor, Fields, Header, PINS_PER_SLOT, STATE_OPEN, Slot};
use crate::sync::{AtomicU64, Ordering, fence};

/// What the descriptor for a position says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Not published yet.
    NotYet,
    /// To be had. The fields are a claim until [`still`] has confirmed them.
    There(Fields),
    /// Was published and is gone.
    Overtaken,
}

const fn stamp_of(position: u64) -> u64 {
    (position + 1) * 2
}

/// Makes the message at `position` visible. Its bytes must have been written, and the descriptor's former
/// message retired and fenced, before.
#[inline]
pub(crate) fn publish(descriptor: &Descriptor, position: u64, fields: &Fields) {
    for (word, value) in descriptor.words.iter().zip(fields.0) {
        word.store(value, Ordering::Relaxed);
    }
    step!("publish: fields written");
    // P1, with `look`.
    descriptor.stamp.store(stamp_of(position), Ordering::Release);
    step!("publish: stamped");
}

/// Takes the message at `position` away from readers that have not begun with it. Its room may be used
/// again after [`fence_reuse`], unless [`pinned`].
pub(crate) fn retire(descriptor: &Descriptor, position: u64) {
    // P2 and P3: ordered before everything that follows by `fence_reuse`.
    descriptor.stamp.store(stamp_of(position) + 1, Ordering::Relaxed);
    step!("retire: stamped");
}

/// Between [`retire`] (of any number of messages) and looking at pins, cursors or writing over them.
pub(crate) fn fence_reuse() {
    // P2 with `still`, P3 with `pin`.
    fence(Ordering::SeqCst);
}

/// Whether a reader holds the message at `position`.
pub(crate) fn pinned(slot: &Slot, position: u64) -> bool {
    // P4: a pin that is gone was released after its last read.
    slot.pins.iter().take(pins_used(slot)).any(|pin| pin.load(Ordering::Acquire) == position + 1)
}

/// How many of its pins, from the first on, a reader has ever used: a claim.
pub(crate) fn pins_used(slot: &Slot) -> usize {
    // Stored before the pin and its fence (P3), so it is seen wherever that pin is.
    let used = slot.sleep.pins_used.load(Ordering::Acquire);
    usize::try_from(used).unwrap_or(PINS_PER_SLOT)
}

/// How far a reader claims to have read.
pub(crate) fn cursor(slot: &Slot) -> u64 {
    // P4: what lies below was read before the cursor moved.
    slot.cursor.position.load(Ordering::Acquire)
}

/// Between publishing (any number of messages) and asking readers whether they sleep.
pub(crate) fn fence_wake() {
    // P5, with `fall_asleep`.
    fence(Ordering::SeqCst);
}

/// The epoch in which a reader sleeps, if it does. It is to be rung once in each.
pub(crate) fn sleeps(slot: &Slot) -> Option<u64> {
    let epoch = slot.sleep.epoch.load(Ordering::Relaxed);
    (epoch % 2 == 1).then_some(epoch)
}

/// Says that the writer waits, in a new epoch, for a cursor to reach `wanted` or a pin to go. The writer
/// looks once more for room after this, and sleeps only then.
pub(crate) fn await_room(header: &Header, epoch: u64, wanted: u64) {
    debug_assert!(epoch % 2 == 1, "a waiting epoch is odd");
    header.wait.wanted.store(wanted, Ordering::Relaxed);
    header.wait.epoch.store(epoch, Ordering::Release);
    // P6, with `writer_waits`.
    fence(Ordering::SeqCst);
}

/// Says that the writer waits no longer.
pub(crate) fn stop_waiting(header: &Header, epoch: u64) {
    debug_assert!(epoch.is_multiple_of(2), "an epoch of no waiting is even");
    header.wait.epoch.store(epoch, Ordering::Release);
}

/// Ends a generation at `position`.
pub(crate) fn finish(header: &Header, state: u64, position: u64, next_seq: u64) {
    header.end.position.store(position, Ordering::Relaxed);
    header.end.next_seq.store(next_seq, Ordering::Relaxed);
    step!("close: end written");
    // P7, with `ended`.
    header.end.state.store(state, Ordering::Release);
}

/// Looks for the message at `position`.
#[inline]
pub(crate) fn look(descriptor: &Descriptor, position: u64) -> Look {
    let wanted = stamp_of(position);
    // P1, with `publish`.
    let stamp = descriptor.stamp.load(Ordering::Acquire);
    match stamp.cmp(&wanted) {
        std::cmp::Ordering::Less => Look::NotYet,
        std::cmp::Ordering::Greater => Look::Overtaken,
        std::cmp::Ordering::Equal => {
            Look::There(Fields(std::array::from_fn(|i| descriptor.words[i].load(Ordering::Relaxed))))
        }
    }
}

/// Cheap form of [`look`]: whether there is something to do at `position`.
#[inline]
pub(crate) fn stirs(descriptor: &Descriptor, position: u64) -> bool {
    descriptor.stamp.load(Ordering::Acquire) >= stamp_of(position)
}

/// Whether what was copied since [`look`], fields and bytes, is the message at `position`.
#[inline]
pub(crate) fn still(descriptor: &Descriptor, position: u64) -> bool {
    // P2, with `retire` and `fence_reuse`.
    fence(Ordering::Acquire);
    descriptor.stamp.load(Ordering::Relaxed) == stamp_of(position)
}

/// The first pin of a reader's own slot that holds nothing. Only the reader takes pins; its samples, on whatever thread,
/// let go of them.
pub(crate) fn free_pin(slot: &Slot) -> Option<usize> {
    slot.pins.iter().position(|pin| pin.load(Ordering::Acquire) == 0)
}

/// Holds the message at `position` in place, if it has not been retired: the fields are then confirmed and
/// its bytes stay until [`unpin`]. The cursor moves only after this: a writer that sees it behind the message may retire
/// it, and a reader that it waits for would find itself overtaken.
pub(crate) fn pin(slot: &Slot, index: usize, descriptor: &Descriptor, position: u64) -> Option<Fields> {
    // The writer looks at this line for each message: it is written only when it must be.
    if pins_used(slot) <= index {
        slot.sleep.pins_used.store(index as u64 + 1, Ordering::Relaxed);
    }
    slot.pins[index].store(position + 1, Ordering::Relaxed);
    step!("read: pin stored");
    // P3, with `retire` and `fence_reuse`.
    fence(Ordering::SeqCst);
    if let Look::There(fields) = look(descriptor, position) {
        // The descriptor may be reused although the bytes are held: the fields need P2 as well.
        if still(descriptor, position) {
            return Some(fields);
        }
    }
    unpin(slot, index);
    None
}

/// Lets a message go.
pub(crate) fn unpin(slot: &Slot, index: usize) {
    // P4, with `pinned`.
    slot.pins[index].store(0, Ordering::Release);
}

/// Says that everything below `position` has been read or pinned.
pub(crate) fn move_cursor(slot: &Slot, position: u64) {
    // P4, with `cursor`.
    slot.cursor.position.store(position, Ordering::Release);
}

/// After moving a cursor or dropping a pin: the epoch in which the writer waits, and the cursor it wants.
pub(crate) fn writer_waits(header: &Header) -> Option<(u64, u64)> {
    // P6, with `await_room`.
    fence(Ordering::SeqCst);
    let epoch = header.wait.epoch.load(Ordering::Acquire);
    (epoch % 2 == 1).then(|| (epoch, header.wait.wanted.load(Ordering::Relaxed)))
}

/// A hint without a fence: whether the writer waits, so that a cursor is better published at once.
pub(crate) fn writer_seems_to_wait(header: &Header) -> bool {
    header.wait.epoch.load(Ordering::Relaxed) % 2 == 1
}

/// Says that the reader sleeps, in a new epoch. It looks once more for messages after this, and parks only
/// then.
pub(crate) fn fall_asleep(slot: &Slot, epoch: u64) {
    debug_assert!(epoch % 2 == 1, "a sleeping epoch is odd");
    slot.sleep.epoch.store(epoch, Ordering::Relaxed);
    // P5, with `fence_wake`.
    fence(Ordering::SeqCst);
    step!("sleep: armed");
}

/// Says that the reader is awake.
pub(crate) fn wake_up(slot: &Slot, epoch: u64) {
    debug_assert!(epoch.is_multiple_of(2), "a waking epoch is even");
    slot.sleep.epoch.store(epoch, Ordering::Relaxed);
}

/// How a generation ended, if it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) state: u64,
    pub(crate) position: u64,
    pub(crate) next_seq: u64,
}

/// Whether the generation has ended, and where. Claims.
pub(crate) fn ended(header: &Header) -> Option<Ended> {
    // P7, with `finish`.
    let state = header.end.state.load(Ordering::Acquire);
    (state != STATE_OPEN).then(|| Ended {
        state,
        position: header.end.position.load(Ordering::Relaxed),
        next_seq: header.end.next_seq.load(Ordering::Relaxed),
    })
}

/// Loads a word that guards nothing: a counter, or a constant of the header.
pub(crate) fn peek(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Stores a word that guards nothing.
pub(crate) fn note(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Relaxed);
}

#[cfg(all(test, loom))]
#[path = "protocol_loom.rs"]
mod loom_tests;
