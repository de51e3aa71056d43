//! Pages on their way to the file, written in the order of their places and as few calls as they lie together in. redb hands
//! them over one by one and in no order; a file that is written so takes two to three times as long to sync.

use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much waits before it is written without a sync, in bytes.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Most that goes into one call, in bytes.
const CALL_BYTES_MAX: usize = 1 << 20;

/// A file that is written when it is synced, or looked at where something waits. What could not be written waits on.
#[derive(Debug)]
pub(super) struct Gather<B> {
    below: B,
    waiting: Mutex<Waiting>,
}

/// Pieces by their place. No two overlap.
#[derive(Debug, Default)]
struct Waiting {
    pieces: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
    call: Vec<u8>,
}

impl Waiting {
    fn overlaps(&self, offset: u64, length: usize) -> bool {
        let before_end = self.pieces.range(..offset.saturating_add(length as u64)).next_back();
        before_end.is_some_and(|(at, piece)| at + piece.len() as u64 > offset)
    }

    fn write(&mut self, below: &impl StorageBackend) -> io::Result<()> {
        while let Some((&start, _)) = self.pieces.first_key_value() {
            self.call.clear();
            for (at, piece) in &self.pieces {
                let together = *at == start + self.call.len() as u64;
                if !together || !self.call.is_empty() && self.call.len() + piece.len() > CALL_BYTES_MAX {
                    break;
                }
                self.call.extend_from_slice(piece);
            }
            below.write(start, &self.call)?;
            self.bytes -= self.call.len();
            self.pieces = self.pieces.split_off(&(start + self.call.len() as u64));
        }
        Ok(())
    }
}

impl<B: StorageBackend> Gather<B> {
    pub(super) fn new(below: B) -> Self {
        Self { below, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: StorageBackend> StorageBackend for Gather<B> {
    fn len(&self) -> io::Result<u64> {
        self.waiting().write(&self.below)?;
        self.below.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut waiting = self.waiting();
        if waiting.overlaps(offset, out.len()) {
            waiting.write(&self.below)?;
        }
        drop(waiting);
        self.below.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.waiting().write(&self.below)?;
        self.below.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.waiting().write(&self.below)?;
        self.below.sync_data()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut waiting = self.waiting();
        if let Some(piece) = waiting.pieces.get_mut(&offset)
            && piece.len() == bytes.len()
        {
            piece.copy_from_slice(bytes);
            return Ok(());
        }
        if waiting.overlaps(offset, bytes.len()) || waiting.bytes + bytes.len() > WAITING_BYTES_MAX {
            waiting.write(&self.below)?;
        }
        waiting.bytes += bytes.len();
        waiting.pieces.insert(offset, bytes.to_vec());
        Ok(())
    }

    /// What waits still was never synced, so nobody was told that it is there.
    fn close(&self) -> io::Result<()> {
        self.below.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faults::{Dice, Platter};

    #[test]
    fn what_is_read_is_what_was_written_whatever_waits() {
        let mut dice = Dice::new(7);
        let gather = Gather::new(Platter::new());
        let mut model = vec![0_u8; 1 << 16];
        gather.set_len(model.len() as u64).expect("room");
        for round in 0..4000 {
            let at = usize::try_from(dice.below(15) * 4096).expect("small");
            let length =
                usize::try_from(1 + dice.below(2)).expect("small") * if round % 50 == 0 { 100 } else { 2048 };
            if dice.below(3) > 0 {
                let byte = u8::try_from(dice.below(256)).expect("a byte");
                gather.write(at as u64, &vec![byte; length]).expect("room");
                model[at..at + length].fill(byte);
            } else {
                let mut read = vec![0; length];
                gather.read(at as u64, &mut read).expect("there");
                assert_eq!(read, model[at..at + length]);
            }
        }
        gather.sync_data().expect("synced");
        assert_eq!(gather.below.bytes(), model);
    }

    #[test]
    fn neighbours_are_written_in_one_call_and_only_when_they_are_synced() {
        let platter = Platter::new();
        let gather = Gather::new(platter.clone());
        gather.set_len(1 << 20).expect("room");
        for page in [5_u64, 3, 9, 4, 8, 20] {
            gather.write(page * 4096, &[1; 4096]).expect("room");
        }
        assert_eq!(platter.calls(), (0, 0));
        gather.sync_data().expect("synced");
        assert_eq!(platter.calls(), (3, 1), "3 to 5, 8 and 9, 20");
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let platter = Platter::new();
        let gather = Gather::new(platter.clone());
        gather.set_len(1 << 20).expect("room");
        platter.fail_writes_after(Some(1));
        for page in [1_u64, 3, 5] {
            gather.write(page * 4096, &[7; 4096]).expect("it waits");
        }
        gather.sync_data().expect_err("one call went well");
        platter.fail_writes_after(None);
        gather.sync_data().expect("synced");
        for page in [1, 3, 5] {
            assert_eq!(platter.bytes()[page * 4096..][..4096], [7; 4096]);
        }
    }
}
