//! A file that can be looked at as if it could be written: what is written stays in memory. With it a file is checked
//! without a byte of it being changed, and read when it may not be written any more.

use super::disk::Firm;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

const BLOCK_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Overlay {
    below: Box<dyn StorageBackend>,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    len: u64,
    /// Up to here the file below counts.
    below_len: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

impl Overlay {
    /// Lies over a file as it is.
    pub(super) fn new(below: Box<dyn StorageBackend>) -> io::Result<Self> {
        let len = below.len()?;
        let over = Over { len, below_len: len, blocks: BTreeMap::new() };
        Ok(Self { below, over: Mutex::new(over) })
    }

    /// Lies over a file and shows it as it was when it was last whole on disk.
    pub(super) fn as_it_was(below: Box<dyn StorageBackend>, firm: &Firm) -> io::Result<Self> {
        let overlay = Self::new(below)?;
        overlay.write(0, &firm.head)?;
        overlay.set_len(firm.len)?;
        Ok(overlay)
    }

    fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of the file below, with zeros behind its end.
    fn block_below(&self, block: u64, below_len: u64) -> io::Result<Box<[u8; BLOCK_BYTES]>> {
        let mut bytes = Box::new([0; BLOCK_BYTES]);
        let start = block * BLOCK_BYTES as u64;
        let there = below_len.saturating_sub(start).min(BLOCK_BYTES as u64);
        if let Ok(there) = usize::try_from(there)
            && there > 0
        {
            self.below.read(start, &mut bytes[..there])?;
        }
        Ok(bytes)
    }
}

/// The blocks that these bytes lie in: of each its number, where in it they begin, and how many.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let within = usize::try_from(at % BLOCK_BYTES as u64).unwrap_or(0);
        let count = (BLOCK_BYTES - within).min(length - done);
        done += count;
        Some((at / BLOCK_BYTES as u64, within, count))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > over.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = out;
        for (block, within, count) in pieces(offset, rest.len()) {
            let (piece, behind) = rest.split_at_mut(count);
            rest = behind;
            match over.blocks.get(&block) {
                Some(bytes) => piece.copy_from_slice(&bytes[within..within + count]),
                None => {
                    let bytes = self.block_below(block, over.below_len)?;
                    piece.copy_from_slice(&bytes[within..within + count]);
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut over = self.over();
        if len < over.len {
            over.below_len = over.below_len.min(len);
            let first_gone = len.div_ceil(BLOCK_BYTES as u64);
            over.blocks.retain(|block, _| *block < first_gone);
            if let Some(last) = over.blocks.get_mut(&(len / BLOCK_BYTES as u64)) {
                let within = usize::try_from(len % BLOCK_BYTES as u64).unwrap_or(0);
                last[within..].fill(0);
            }
        }
        over.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        let below_len = over.below_len;
        let mut rest = bytes;
        for (block, within, count) in pieces(offset, bytes.len()) {
            let (piece, behind) = rest.split_at(count);
            rest = behind;
            let there = match over.blocks.entry(block) {
                std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(self.block_below(block, below_len)?)
                }
            };
            there[within..within + count].copy_from_slice(piece);
        }
        over.len = over.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.below.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::InMemoryBackend;

    /// A file of `length` bytes, each of them 7.
    fn sevens(length: usize) -> Box<dyn StorageBackend> {
        let below = InMemoryBackend::new();
        below.set_len(length as u64).expect("room");
        below.write(0, &vec![7; length]).expect("room");
        Box::new(below)
    }

    fn all(of: &impl StorageBackend) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(of.len().expect("a length")).expect("small")];
        of.read(0, &mut bytes).expect("readable");
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_the_file_below_stays_as_it_is() {
        let mut model = vec![7; 9000];
        let overlay = Overlay::new(sevens(9000)).expect("a file");
        for (at, length) in [(0, 1), (4090, 20), (8999, 1), (100, 8300), (9000, 5000)] {
            overlay.write(at as u64, &vec![1; length]).expect("room");
            model.resize(model.len().max(at + length), 0);
            model[at..at + length].fill(1);
            assert_eq!(all(&overlay), model);
        }
        for length in [8000, 8100, 5, 20_000] {
            overlay.set_len(length as u64).expect("room");
            model.resize(length, 0);
            assert_eq!(all(&overlay), model, "{length}");
        }
        assert!(overlay.read(19_999, &mut [0; 2]).is_err(), "behind the end");
        let mut below = vec![0; 9000];
        overlay.below.read(0, &mut below).expect("readable");
        assert!(below.iter().all(|byte| *byte == 7));
    }
}
