//! A disk for tests that does what disks do at the worst moment: it forgets what was not synced (all of it, or some, in any
//! order, torn at sectors), has no room, fails a write or a sync, and flips bits.

use super::open::Medium;
use super::{OpenError, Opened, Store, StoreOptions};
use redb::StorageBackend;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: u64 = 4096;

/// Numbers that look like chance and come again with the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}

/// What was done to the disk.
#[derive(Debug, Clone)]
enum Done {
    Write(usize, Arc<[u8]>),
    Resize(usize),
    Sync,
}

#[derive(Debug, Default)]
struct State {
    /// As the process sees it.
    now: Vec<u8>,
    /// What it was when recording began, and everything since then.
    before: Vec<u8>,
    done: Vec<Done>,
    /// Which blocks take room.
    blocks: BTreeSet<u64>,
    capacity_bytes: Option<u64>,
    /// How many more writes and syncs go well.
    writes_left: Option<u64>,
    syncs_left: Option<u64>,
    /// How many calls are in progress or done, whatever came of them.
    syncs: u64,
    writes: u64,
}

/// A disk in memory, with one file. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Platter(Arc<Mutex<State>>);

impl Platter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A disk with this on it, all of it synced.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let platter = Self::new();
        {
            let mut state = platter.state();
            state.blocks = (0..(bytes.len() as u64).div_ceil(BLOCK_BYTES)).collect();
            state.before.clone_from(&bytes);
            state.now = bytes;
        }
        platter
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the store on it. Nobody holds a lock: a disk outlives its machine.
    pub(crate) fn open(&self, options: &StoreOptions) -> Result<(Store, Opened), OpenError> {
        let made = self.state().now.is_empty();
        Store::open_on(Medium::Platter(self.clone()), options, made)
    }

    pub(super) fn backend(&self) -> Box<dyn StorageBackend> {
        Box::new(self.clone())
    }

    /// Has no more room than this.
    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// How much room there is, if it ends.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let state = self.state();
        Some(state.capacity_bytes?.saturating_sub(state.blocks.len() as u64 * BLOCK_BYTES))
    }

    /// How much room is taken.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.state().blocks.len() as u64 * BLOCK_BYTES
    }

    /// After so many more writes they fail, until it is told otherwise.
    pub(crate) fn fail_writes_after(&self, writes: Option<u64>) {
        self.state().writes_left = writes;
    }

    /// After so many more syncs one fails; what was not synced by then stays as it is for who reads it, and is never written,
    /// as with kernels that forget what they could not write.
    pub(crate) fn fail_syncs_after(&self, syncs: Option<u64>) {
        self.state().syncs_left = syncs;
    }

    /// How much was done to it since it was made or recording began anew.
    pub(crate) fn steps(&self) -> usize {
        self.state().done.len()
    }

    /// Begins recording anew with what is certainly there: everything, as far as the process sees.
    pub(crate) fn settle(&self) {
        let mut state = self.state();
        state.before = state.now.clone();
        state.done.clear();
    }

    /// How many writes and syncs it was asked for.
    pub(crate) fn calls(&self) -> (u64, u64) {
        let state = self.state();
        (state.writes, state.syncs)
    }

    /// Everything as the process sees it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state().now.clone()
    }

    /// The disk after the power went: after so many steps, what was synced by then is there, and of the rest whatever the
    /// dice say.
    pub(crate) fn power_cut(&self, steps: usize, dice: &mut Dice) -> Self {
        let state = self.state();
        let done = &state.done[..steps];
        let firm = done.iter().rposition(|done| matches!(done, Done::Sync)).map_or(0, |at| at + 1);
        let mut image = state.before.clone();
        for done in &done[..firm] {
            apply(&mut image, done);
        }
        Self::of(cut(image, &done[firm..], dice))
    }

    /// Disks for a power cut after each step in turn, by `each`, with dice that begin at a seed of the step.
    pub(crate) fn power_cut_everywhere(&self, seed: u64, mut each: impl FnMut(usize, Self)) {
        let state = self.state();
        let mut image = state.before.clone();
        let mut firm = 0;
        for steps in 0..=state.done.len() {
            let mut dice = Dice::new(seed ^ (steps as u64) << 20);
            each(steps, Self::of(cut(image.clone(), &state.done[firm..steps], &mut dice)));
            if let Some(Done::Sync) = state.done.get(steps) {
                for done in &state.done[firm..steps] {
                    apply(&mut image, done);
                }
                firm = steps + 1;
            }
        }
    }
}

fn apply(image: &mut Vec<u8>, done: &Done) {
    match done {
        Done::Write(at, bytes) => {
            if image.len() < at + bytes.len() {
                image.resize(at + bytes.len(), 0);
            }
            image[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        Done::Resize(length) => image.resize(*length, 0),
        Done::Sync => {}
    }
}

/// What is left of steps that nobody had synced: each sector as it was or as any of them left it, and a length that is one of
/// those it had.
fn cut(mut image: Vec<u8>, unsynced: &[Done], dice: &mut Dice) -> Vec<u8> {
    // One in four: nothing of it, or all of it.
    let all = match dice.below(8) {
        0 => return image,
        1 => true,
        _ => false,
    };
    let mut lengths = vec![image.len()];
    for done in unsynced {
        match done {
            Done::Resize(length) => {
                lengths.push(*length);
                image.resize(image.len().max(*length), 0);
            }
            Done::Write(at, bytes) => {
                let whole = all || dice.below(2) == 0;
                let torn = !whole && dice.below(2) == 0;
                if image.len() < at + bytes.len() {
                    image.resize(at + bytes.len(), 0);
                }
                for (sector, piece) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if whole || torn && dice.below(2) == 0 {
                        let at = at + sector * SECTOR_BYTES;
                        image[at..at + piece.len()].copy_from_slice(piece);
                    }
                }
            }
            Done::Sync => {}
        }
    }
    let last = lengths.len() as u64 - 1;
    let chosen = if all { last } else { dice.below(last + 1) };
    image.resize(lengths[usize::try_from(chosen).unwrap_or(0)], 0);
    image
}

fn no_room() -> io::Error {
    rustix::io::Errno::NOSPC.into()
}

fn broken() -> io::Error {
    rustix::io::Errno::IO.into()
}

/// Counts down. Whether it goes well still.
fn goes_well(left: &mut Option<u64>) -> bool {
    match left {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}

impl StorageBackend for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let there = state.now.get(from..from.saturating_add(out.len()));
        out.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let length = usize::try_from(len).map_err(|_| no_room())?;
        // Holes take no room.
        state.now.resize(length, 0);
        let end = len.div_ceil(BLOCK_BYTES);
        state.blocks.retain(|block| *block < end);
        state.done.push(Done::Resize(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.syncs += 1;
        if !goes_well(&mut state.syncs_left) {
            state.syncs_left = None;
            // What nobody wrote is forgotten, and the next sync knows nothing of it.
            let firm = state.done.iter().rposition(|done| matches!(done, Done::Sync)).map_or(0, |at| at + 1);
            state.done.truncate(firm);
            return Err(broken());
        }
        state.done.push(Done::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.writes += 1;
        if !goes_well(&mut state.writes_left) {
            return Err(broken());
        }
        let at = usize::try_from(offset).map_err(|_| no_room())?;
        let blocks = offset / BLOCK_BYTES..(offset + bytes.len() as u64).div_ceil(BLOCK_BYTES);
        let more = blocks.clone().filter(|block| !state.blocks.contains(block)).count() as u64;
        if let Some(capacity) = state.capacity_bytes
            && (state.blocks.len() as u64 + more) * BLOCK_BYTES > capacity
        {
            // What fits is written, as `pwrite` does.
            if state.blocks.contains(&blocks.start) {
                let fits = bytes.len().min(SECTOR_BYTES);
                let done = Done::Write(at, bytes[..fits].into());
                apply(&mut state.now, &done);
                state.done.push(done);
            }
            return Err(no_room());
        }
        state.blocks.extend(blocks);
        let done = Done::Write(at, bytes.into());
        apply(&mut state.now, &done);
        state.done.push(done);
        Ok(())
    }
}
