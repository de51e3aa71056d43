//! For this project's tests only (feature `scribble`): a hostile peer, which writes nonsense over everything that the
//! protocol lets it write.
//!
//! The nonsense knows the layout: besides numbers at random there are stamps that are right with fields that are not,
//! cursors that go back, epochs that never rest, pins of everything, ends that come and go. What a scribbler
//! writes it writes through its owner's own mapping, as a hostile process would.

use crate::layout::{Fields, PINS_PER_SLOT, STATE_CLOSED, STATE_OPEN, STATE_SUCCEEDED, UNIT_BYTES, low};
use crate::link::{ReaderLink, SlotRef};
use crate::protocol::{note, peek};
use crate::sync::AtomicU64;
use crate::view::Ring;
use crate::writer::Writer;
use std::sync::Arc;

/// A generator of random numbers (splitmix64, S. Vigna 2015), so that a printed seed repeats a run's choices.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// With this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// With a seed from the clock, which is printed.
    #[must_use]
    pub fn seeded() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let seed = u64::from(now.subsec_nanos()) ^ now.as_secs() << 30;
        println!("seed {seed}");
        Self(seed)
    }

    /// Any number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// One of `bound` numbers from 0 on.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    /// A number that is likely to hurt, perhaps one around `near`.
    pub fn nasty(&mut self, near: u64) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => u64::MAX,
            2 => near,
            3 => near.wrapping_add(self.below(9)).wrapping_sub(4),
            4 => near.wrapping_mul(2).wrapping_add(self.below(5)),
            5 => low(self.word()).into(),
            6 => 1 << self.below(64),
            7 => (1_u64 << self.below(64)).wrapping_sub(1),
            8 => (1 << 62) - self.below(3),
            _ => self.word(),
        }
    }
}

/// Scribbles over a generation, in its writer's place.
#[derive(Debug)]
pub struct RingScribbler {
    ring: Arc<Ring>,
    /// Where the ring was when this began.
    origin: u64,
    /// Where readers may be: near it the nonsense is taken for something.
    near: u64,
    /// The generation that may follow.
    successor: u64,
}

impl RingScribbler {
    /// For this writer's generation. The writer itself may go on, or be forgotten.
    #[must_use]
    pub fn new(writer: &Writer) -> Self {
        let ring = writer.ring();
        let near = peek(&ring.header().counters.head);
        let successor = u64::from(writer.spec().generation) + 1;
        Self { ring, origin: near, near, successor }
    }

    /// One piece of nonsense.
    pub fn scribble(&mut self, rng: &mut Random) {
        match rng.below(17) {
            // A message that is there, and whose fields lie.
            0..=4 => self.false_message(rng),
            // A stamp that is not that of the descriptor's place, or goes back.
            5 | 6 => {
                let position = self.position(rng);
                let stamp = match rng.below(4) {
                    0 => 2 * (position + 1) + 1,
                    1 => 2 * position,
                    2 => 2 * (position + 1 + u64::from(self.ring.extent().descriptors)),
                    _ => rng.nasty(2 * position),
                };
                note(&self.ring.descriptor(position).stamp, stamp);
            }
            7 => {
                let position = self.position(rng);
                let word = usize::try_from(rng.below(7)).unwrap_or(0);
                note(&self.ring.descriptor(position).words[word], rng.nasty(position));
            }
            8 | 9 => self.counters(rng),
            10 => self.end(rng),
            11 => {
                // Always waiting, always a new epoch: readers are to ring for every message.
                let wait = &self.ring.header().wait;
                let epoch = if rng.below(2) == 0 { peek(&wait.epoch) | 1 } else { rng.nasty(self.near) };
                note(&wait.epoch, epoch.wrapping_add(2));
                note(&wait.wanted, rng.nasty(self.near));
            }
            12 => self.constants(rng),
            13 => {
                // What may be taken for the length of a packed message.
                let length = if rng.below(2) == 0 { rng.below(80) } else { rng.nasty(64) };
                let bytes = length.to_le_bytes();
                let units = self.ring.extent().arena_bytes / UNIT_BYTES;
                self.ring.copy_in(rng.below(units) * UNIT_BYTES, &bytes);
            }
            // Plausible for a while, so that readers come further.
            14 => {
                note(&self.ring.header().end.state, STATE_OPEN);
                self.near += 1;
            }
            15 => self.near += rng.below(4),
            _ => self.near = self.origin,
        }
    }

    fn position(&self, rng: &mut Random) -> u64 {
        let around = u64::from(self.ring.extent().descriptors) * 2;
        self.near.saturating_add(rng.below(around)).saturating_sub(around / 4).min((1 << 62) - 1)
    }

    fn false_message(&self, rng: &mut Random) {
        let position = self.position(rng);
        let units = low(self.ring.extent().arena_bytes / UNIT_BYTES);
        let fields = match rng.below(6) {
            // A pack that may be one, of messages that may be some.
            4 | 5 => {
                let length = low(rng.below(1200) * 8);
                Fields::packed(low(rng.below(units.into())), length, low(rng.below(80)))
            }
            0 => {
                // Within the arena: only the bytes are whatever they are.
                let offset = low(rng.below(units.into()));
                let length = rng.below((u64::from(units - offset) * UNIT_BYTES).min(20_000));
                Fields::placed(offset, low(length), 0)
            }
            1 => {
                // At its end, by one, or by more.
                let offset = units - low(rng.below(3));
                Fields::placed(offset, low(rng.nasty(UNIT_BYTES)), 0)
            }
            2 => {
                let head = u16::try_from(rng.below(1 << 15)).unwrap_or(0);
                Fields::placed(low(rng.nasty(units.into())), low(rng.nasty(64)), head)
            }
            _ => {
                let mut inline = Fields::inline(&[7; 20]);
                // A length that does not fit into a descriptor.
                inline.0[3] = rng.nasty(20) << 32;
                inline
            }
        };
        let seq = if rng.below(4) == 0 { rng.nasty(position) } else { position + 1 };
        let fields = fields.of(
            seq,
            rng.word(),
            rng.word().cast_signed(),
            u16::try_from(rng.below(1 << 16)).unwrap_or(0),
        );
        let descriptor = self.ring.descriptor(position);
        for (word, value) in descriptor.words.iter().zip(fields.0) {
            note(word, value);
        }
        note(&descriptor.stamp, 2 * (position + 1));
    }

    fn counters(&self, rng: &mut Random) {
        let counters = &self.ring.header().counters;
        let words: [&AtomicU64; 7] = [
            &counters.head,
            &counters.oldest,
            &counters.bytes,
            &counters.skipped,
            &counters.waits,
            &counters.messages,
            &counters.kept,
        ];
        note(words[usize::try_from(rng.below(7)).unwrap_or(0)], rng.nasty(self.near));
    }

    fn end(&self, rng: &mut Random) {
        let end = &self.ring.header().end;
        if rng.below(2) == 0 {
            // An end that may be one, behind which something follows that may be anything.
            let position = self.near.saturating_add(rng.below(8));
            note(&end.position, position);
            note(&end.next_seq, position.saturating_add(1));
            note(&end.successor, rng.nasty(self.successor));
            return note(&end.state, STATE_SUCCEEDED);
        }
        note(&end.position, rng.nasty(self.near));
        note(&end.next_seq, rng.nasty(self.near));
        note(&end.successor, rng.nasty(self.successor));
        let states = [STATE_OPEN, STATE_CLOSED, STATE_SUCCEEDED, rng.nasty(3)];
        note(&end.state, states[usize::try_from(rng.below(4)).unwrap_or(0)]);
    }

    /// What never changes once it was checked, changed.
    fn constants(&self, rng: &mut Random) {
        let header = self.ring.header();
        let words: [&AtomicU64; 8] = [
            &header.magic,
            &header.version,
            &header.stream,
            &header.generation,
            &header.descriptors,
            &header.arena_bytes,
            &header.first_position,
            &header.first_seq,
        ];
        note(words[usize::try_from(rng.below(8)).unwrap_or(0)], rng.nasty(self.near));
    }
}

/// Scribbles over one slot of a reader page, in its reader's place.
#[derive(Debug)]
pub struct SlotScribbler {
    slot: SlotRef,
    near: u64,
}

impl SlotScribbler {
    /// For a slot of this process's link; `None` if it has no such slot.
    #[must_use]
    pub fn new(link: &ReaderLink, slot: u32) -> Option<Self> {
        let slot = link.slot(slot)?;
        let near = peek(&slot.get().cursor.position);
        Some(Self { slot, near })
    }

    /// The stream's head: pins and cursors near it are taken for something.
    pub fn aim(&mut self, head: u64) {
        self.near = head;
    }

    /// One piece of nonsense.
    pub fn scribble(&mut self, rng: &mut Random) {
        let slot = self.slot.get();
        match rng.below(8) {
            // Ahead, back, and out of the world.
            0 | 1 => {
                self.near = self.near.wrapping_add(rng.below(3));
                note(&slot.cursor.position, rng.nasty(self.near));
                note(&slot.cursor.seq, rng.nasty(self.near));
            }
            // Asleep, in a new epoch each time: the writer is to ring for every message.
            2 | 3 => note(&slot.sleep.epoch, (peek(&slot.sleep.epoch) | 1).wrapping_add(2)),
            4 => note(&slot.sleep.epoch, rng.nasty(self.near)),
            5 => {
                note(&slot.sleep.lost, rng.nasty(self.near));
                note(&slot.sleep.pins_used, rng.nasty(PINS_PER_SLOT as u64));
            }
            // Everything around the head is held.
            6 => {
                note(&slot.sleep.pins_used, PINS_PER_SLOT as u64);
                let first = self.near.saturating_sub(rng.below(20));
                for (at, pin) in slot.pins.iter().enumerate() {
                    note(pin, first + at as u64);
                }
            }
            _ => {
                let pin = &slot.pins[usize::try_from(rng.below(slot.pins.len() as u64)).unwrap_or(0)];
                note(pin, rng.nasty(self.near));
            }
        }
    }
}
