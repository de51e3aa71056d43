//! Who owns which bytes of a ring's arena, in the writer's private memory.
//!
//! The arena is handed out in units of 64 bytes. Large blocks are cut from free extents, the most recently
//! freed place first, because those bytes are still in the cache. Small blocks are cut one after another from
//! chunks; a chunk is free again when its last block is. Nothing here is shared: what peers write cannot
//! reach these tables.

use crate::layout::low;
use std::collections::BTreeMap;

/// Chunks have between these numbers of units, a sixteenth of the arena in between.
const CHUNK_UNITS_MIN: u32 = 16;
/// See [`CHUNK_UNITS_MIN`]: 64 KiB.
const CHUNK_UNITS_MAX: u32 = 1024;

/// Blocks up to this part of a chunk are small.
const SMALL_PART: u32 = 4;

/// How many recently freed places are remembered.
const RECENT_MAX: usize = 32;

/// How many extents are kept as they were given back. Messages are retired up to 64 at a time.
const SPARES_MAX: usize = 64;

/// Marks a block that is an extent of its own.
const NO_CHUNK: u32 = u32::MAX;

/// Units of the arena that belong to somebody.
///
/// Two whole words, not three halves: a block passes through memory on the way of every message, and a load that
/// spans two smaller stores has to wait for both to leave the processor's store buffer, behind stores to shared lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// The first unit in the lower half, the number of units in the upper.
    extent: u64,
    chunk: u64,
}

impl Block {
    /// No units at all: a message that needs no arena.
    pub(crate) const NONE: Self = Self::new(0, 0, NO_CHUNK);

    const fn new(start: u32, units: u32, chunk: u32) -> Self {
        Self { extent: start as u64 | (units as u64) << 32, chunk: chunk as u64 }
    }

    pub(crate) const fn start(self) -> u32 {
        low(self.extent)
    }

    pub(crate) const fn units(self) -> u32 {
        low(self.extent >> 32)
    }

    const fn chunk(self) -> u32 {
        low(self.chunk)
    }
}

#[derive(Debug)]
struct Chunk {
    start: u32,
    units: u32,
    used: u32,
    live: u32,
}

/// The writer's account of its arena.
#[derive(Debug)]
pub(crate) struct Arena {
    free: BTreeMap<u32, u32>,
    /// What was given back last, all of one size and not in `free` yet: messages of that size take it as it is, the last
    /// one first. Cutting and merging extents costs more than publishing.
    spares: Vec<u32>,
    /// Units of each of them.
    spare_units: u32,
    recent: Vec<u32>,
    chunks: Vec<Chunk>,
    spare_chunks: Vec<u32>,
    current: Option<u32>,
    chunk_units: u32,
}

impl Arena {
    pub(crate) fn new(units: u32) -> Self {
        Self {
            free: BTreeMap::from([(0, units)]),
            spares: Vec::new(),
            spare_units: 0,
            recent: Vec::new(),
            chunks: Vec::new(),
            spare_chunks: Vec::new(),
            current: None,
            chunk_units: (units / 16).clamp(CHUNK_UNITS_MIN, CHUNK_UNITS_MAX).min(units),
        }
    }

    /// A block of this many units, if there is one in one piece.
    ///
    /// The usual case, a small block from the current chunk, is inlined into whoever publishes: its result then stays in
    /// registers. Passed through memory it would be loaded right after stores to shared lines that are still on their
    /// way, and wait for them.
    #[inline]
    pub(crate) fn take(&mut self, units: u32) -> Option<Block> {
        if units == 0 {
            return Some(Block::NONE);
        }
        if let Some(index) = self.current
            && let Some(chunk) = self.chunks.get_mut(index as usize)
            && units <= self.chunk_units / SMALL_PART
            && chunk.units - chunk.used >= units
        {
            let start = chunk.start + chunk.used;
            chunk.used += units;
            chunk.live += 1;
            return Some(Block::new(start, units, index));
        }
        self.take_elsewhere(units)
    }

    /// Where the next small block will be, most likely.
    #[inline]
    pub(crate) fn next(&self) -> Option<u32> {
        let chunk = self.chunks.get(self.current? as usize)?;
        Some(chunk.start + chunk.used)
    }

    /// As [`take`](Self::take), never from a chunk: out of an empty arena, blocks of this kind fit as long as their sum does.
    pub(crate) fn take_apart(&mut self, units: u32) -> Option<Block> {
        let start = self.take_extent(units)?;
        Some(Block::new(start, units, NO_CHUNK))
    }

    #[cold]
    fn take_elsewhere(&mut self, units: u32) -> Option<Block> {
        if units <= self.chunk_units / SMALL_PART
            && let Some(block) = self.take_from_new_chunk(units)
        {
            return Some(block);
        }
        if let Some(start) = self.take_extent(units) {
            return Some(Block::new(start, units, NO_CHUNK));
        }
        // An empty chunk that waits for small blocks is room as well.
        self.release_idle_chunk()
            .then(|| self.take_extent(units))
            .flatten()
            .map(|start| Block::new(start, units, NO_CHUNK))
    }

    fn take_from_new_chunk(&mut self, units: u32) -> Option<Block> {
        let start = self.take_extent(self.chunk_units)?;
        self.release_idle_chunk();
        let chunk = Chunk { start, units: self.chunk_units, used: units, live: 1 };
        let index = match self.spare_chunks.pop() {
            Some(index) => {
                self.chunks[index as usize] = chunk;
                index
            }
            None => {
                self.chunks.push(chunk);
                u32::try_from(self.chunks.len() - 1).expect("there are fewer chunks than units")
            }
        };
        self.current = Some(index);
        Some(Block::new(start, units, index))
    }

    /// Gives the end of a block back, all but its first `units`, if it is the last that was cut from the current chunk.
    /// Returns what is left of it.
    #[inline]
    pub(crate) fn trim(&mut self, block: Block, units: u32) -> Block {
        if block.chunk() == NO_CHUNK || self.current != Some(block.chunk()) || units > block.units() {
            return block;
        }
        let chunk = &mut self.chunks[block.chunk() as usize];
        if chunk.start + chunk.used != block.start() + block.units() {
            return block;
        }
        chunk.used -= block.units() - units;
        Block::new(block.start(), units, block.chunk())
    }

    /// Gives a block back.
    pub(crate) fn give(&mut self, block: Block) {
        if block.units() == 0 {
            return;
        }
        if block.chunk() == NO_CHUNK {
            self.give_extent(block.start(), block.units());
            return;
        }
        let chunk = &mut self.chunks[block.chunk() as usize];
        chunk.live -= 1;
        if chunk.live > 0 {
            return;
        }
        if self.current == Some(block.chunk()) {
            // Begin again with the same, warm bytes.
            chunk.used = 0;
        } else {
            let (start, units) = (chunk.start, chunk.units);
            self.spare_chunks.push(block.chunk());
            self.give_extent(start, units);
        }
    }

    fn release_idle_chunk(&mut self) -> bool {
        let Some(index) = self.current.filter(|index| self.chunks[*index as usize].live == 0) else {
            return false;
        };
        self.current = None;
        let (start, units) = (self.chunks[index as usize].start, self.chunks[index as usize].units);
        self.spare_chunks.push(index);
        self.give_extent(start, units);
        true
    }

    fn take_extent(&mut self, units: u32) -> Option<u32> {
        if self.spare_units == units {
            if let Some(start) = self.spares.pop() {
                return Some(start);
            }
        } else {
            self.merge_spares();
        }
        while let Some(place) = self.recent.pop() {
            // The place may have been merged into a larger extent, or taken.
            let Some((&start, &length)) = self.free.range(..=place).next_back() else { continue };
            let end = start + length;
            if place < end && end - place >= units {
                self.cut(start, length, place, units);
                return Some(place);
            }
            if place < end && length >= units {
                self.cut(start, length, start, units);
                return Some(start);
            }
        }
        let (&start, &length) =
            self.free.iter().filter(|(_, length)| **length >= units).min_by_key(|(_, length)| **length)?;
        self.cut(start, length, start, units);
        Some(start)
    }

    fn cut(&mut self, start: u32, length: u32, at: u32, units: u32) {
        self.free.remove(&start);
        if at > start {
            self.free.insert(start, at - start);
        }
        let rest = start + length - (at + units);
        if rest > 0 {
            self.free.insert(at + units, rest);
        }
    }

    fn give_extent(&mut self, start: u32, units: u32) {
        if self.spare_units != units || self.spares.len() == SPARES_MAX {
            self.merge_spares();
            self.spare_units = units;
        }
        self.spares.push(start);
    }

    /// In the order in which they came, so that the last one is the most recent place of all.
    fn merge_spares(&mut self) {
        for at in 0..self.spares.len() {
            self.merge(self.spares[at], self.spare_units);
        }
        self.spares.clear();
    }

    fn merge(&mut self, start: u32, units: u32) {
        let (mut from, mut to) = (start, start + units);
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            self.free.remove(&before);
            from = before;
        }
        if let Some(length) = self.free.remove(&to) {
            to += length;
        }
        self.free.insert(from, to - from);
        if self.recent.len() == RECENT_MAX {
            self.recent.remove(0);
        }
        self.recent.push(start);
    }

    /// Free units, idle chunks included.
    #[cfg(test)]
    fn free_units(&self) -> u32 {
        let idle = self.current.map(|index| &self.chunks[index as usize]).filter(|chunk| chunk.live == 0);
        let spare = u32::try_from(self.spares.len()).unwrap() * self.spare_units;
        self.free.values().sum::<u32>() + spare + idle.map_or(0, |chunk| chunk.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_most_recently_freed_place_is_used_again() {
        let mut arena = Arena::new(4096);
        let first = arena.take(1000).unwrap();
        let second = arena.take(1000).unwrap();
        arena.give(first);
        arena.give(second);
        assert_eq!(arena.take(1000).unwrap().start(), second.start());
        assert_eq!(arena.take(1000).unwrap().start(), first.start());
    }

    #[test]
    fn everything_is_one_piece_again_when_all_is_given_back() {
        let mut arena = Arena::new(64);
        let blocks: Vec<Block> = (0..16).map_while(|_| arena.take(3)).collect();
        assert!(blocks.len() > 10);
        for block in blocks {
            arena.give(block);
        }
        assert_eq!(arena.take(64).unwrap().start(), 0);
        assert_eq!(arena.take(1), None);
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_none_is_lost(
            units in 16_u32..5000,
            steps in proptest::collection::vec((any::<bool>(), 0_u32..600, 0_u32..600, any::<prop::sample::Index>()), 1..300),
        ) {
            let mut arena = Arena::new(units);
            let mut held: Vec<Block> = Vec::new();
            for (take, size, needed, index) in steps {
                if take {
                    if let Some(block) = arena.take(size) {
                        let kept = needed.min(size).max(1);
                        let block = arena.trim(block, kept);
                        prop_assert!(block.units() == size || block.units() == kept);
                        prop_assert!(block.start() + block.units() <= units);
                        for other in held.iter().filter(|other| other.units() > 0 && block.units() > 0) {
                            let apart = block.start() + block.units() <= other.start() || other.start() + other.units() <= block.start();
                            prop_assert!(apart, "{block:?} overlaps {other:?}");
                        }
                        held.push(block);
                    }
                } else if !held.is_empty() {
                    let index = index.index(held.len());
                    arena.give(held.swap_remove(index));
                }
            }
            for block in held.drain(..) {
                arena.give(block);
            }
            prop_assert_eq!(arena.free_units(), units);
            prop_assert!(arena.take(units).is_some());
        }
    }
}
