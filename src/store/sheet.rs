//! Many messages under one key: those that came together for one shelf, with consecutive numbers. One entry in the tree for
//! all of them is what makes a group cost little more than its bytes.
//!
//! ```text
//! sheet:     messages as in `record.rs`, one behind the other, each with its own key's checksum
//!            4 the end of each · 4 how many · 1 version · 8 checksum over these and the sheet's key
//! done:      1 version · a bit for each message · 8 checksum
//! ```
//! A bit that flips costs one message at most: if it lies in what stands behind the messages, they are found by their own
//! lengths and checksums.

use super::record::{self, CHECKSUM_BYTES, Kind, Wrong, checksum};

/// Longest sheet in bytes: with its key it fills a page of the tree whose size is a power of two.
pub(super) const SHEET_BYTES_MAX: usize = (64 << 10) - 64;
/// Most messages on a sheet.
pub(super) const SHEET_MESSAGES_MAX: usize = 1024;
/// Fewer messages stand by themselves.
pub(super) const SHEET_MESSAGES_MIN: usize = 8;

const VERSION: u8 = 1;
/// What stands behind the messages and their ends.
const FOOT_BYTES: usize = 4 + 1 + CHECKSUM_BYTES;

/// How long a sheet with so many messages of so many bytes becomes.
pub(super) fn sheet_bytes(messages: usize, bytes: usize) -> usize {
    bytes + 4 * messages + FOOT_BYTES
}

/// Puts behind messages that end here what makes them a sheet.
pub(super) fn finish(key: u128, ends: &[u32], out: &mut Vec<u8>) {
    let from = out.len();
    for end in ends {
        out.extend_from_slice(&end.to_le_bytes());
    }
    out.extend_from_slice(&u32::try_from(ends.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.push(VERSION);
    let sum = checksum(Kind::Sheet, &key.to_le_bytes(), &out[from..]);
    out.extend_from_slice(&sum);
}

/// Where the ends begin, of bytes that stand before the checksum, by the count that they name.
fn ends_at(body: &[u8]) -> Result<usize, Wrong> {
    let (rest, _) = body.split_last_chunk::<1>().ok_or(Wrong::Length)?;
    let (rest, count) = rest.split_last_chunk::<4>().ok_or(Wrong::Length)?;
    let count = usize::try_from(u32::from_le_bytes(*count)).map_err(|_| Wrong::Length)?;
    if count == 0 || count > SHEET_MESSAGES_MAX {
        return Err(Wrong::Length);
    }
    rest.len().checked_sub(4 * count).ok_or(Wrong::Length)
}

/// Puts a right checksum behind what would be a sheet, if it names a count that can be.
pub(super) fn seal(key: u128, out: &mut Vec<u8>) -> Option<()> {
    let sum = checksum(Kind::Sheet, &key.to_le_bytes(), &out[ends_at(out).ok()?..]);
    out.extend_from_slice(&sum);
    Some(())
}

/// The ends of the messages.
fn ends(key: u128, bytes: &[u8]) -> Result<Vec<u32>, Wrong> {
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Wrong::Length)?;
    let at = ends_at(body)?;
    if checksum(Kind::Sheet, &key.to_le_bytes(), &body[at..]) != *sum {
        return Err(Wrong::Checksum);
    }
    match body.last() {
        Some(&VERSION) => {}
        version => return Err(Wrong::Version(version.copied().unwrap_or(0))),
    }
    let (written, _) = body[at..body.len() - 5].as_chunks::<4>();
    let ends: Vec<u32> = written.iter().map(|end| u32::from_le_bytes(*end)).collect();
    let last = u64::try_from(at).map_err(|_| Wrong::Length)?;
    // A number behind the last one there is would be another shelf's.
    let fits = key.checked_add(ends.len() as u128 - 1).is_some_and(|last| last >> 64 == key >> 64);
    if !ends.is_sorted() || ends.last().map(|end| u64::from(*end)) != Some(last) || !fits {
        return Err(Wrong::Value);
    }
    Ok(ends)
}

/// The ends of messages that vouch for themselves, when nothing else says where they are. What lies between two of them is one
/// that does not.
fn search(key: u128, bytes: &[u8]) -> Vec<u32> {
    let (mut ends, mut good, mut at) = (Vec::new(), 0, 0);
    while ends.len() < SHEET_MESSAGES_MAX
        && let Some(rest) = bytes.get(at..)
        && let Some(length) = record::length_of(rest)
        && let Some(key) = key.checked_add(ends.len() as u128)
        && let Ok(end) = u32::try_from(at + length)
    {
        ends.push(end);
        if record::view(key, &rest[..length]).is_ok() {
            good = ends.len();
        }
        at += length;
    }
    ends.truncate(good);
    ends
}

/// A sheet as it lies in the file; nothing is copied but where its messages end.
#[derive(Debug)]
pub(super) struct Sheet<'a> {
    key: u128,
    bytes: &'a [u8],
    ends: Vec<u32>,
    /// What is wrong with the sheet itself. Its messages are those that were found then.
    pub(super) wrong: Option<Wrong>,
}

impl<'a> Sheet<'a> {
    /// Reads a sheet, however it is.
    pub(super) fn read(key: u128, bytes: &'a [u8]) -> Self {
        match ends(key, bytes) {
            Ok(ends) => Self { key, bytes, ends, wrong: None },
            Err(wrong) => Self { key, bytes, ends: search(key, bytes), wrong: Some(wrong) },
        }
    }

    /// How many messages it has or had.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// The key of the last message, if there is one.
    pub(super) fn last(&self) -> Option<u128> {
        Some(self.key + (self.ends.len() as u128).checked_sub(1)?)
    }

    /// Where a message of this key stands, if it stands here.
    pub(super) fn index(&self, key: u128) -> Option<usize> {
        let index = usize::try_from(key.checked_sub(self.key)?).ok()?;
        (index < self.ends.len()).then_some(index)
    }

    /// A message as it was written: its key and bytes.
    pub(super) fn message(&self, index: usize) -> (u128, &'a [u8]) {
        let end = |index: usize| usize::try_from(self.ends[index]).unwrap_or(usize::MAX);
        let from = index.checked_sub(1).map_or(0, end);
        // `ends` has checked them; none lies behind the bytes.
        (self.key + index as u128, self.bytes.get(from..end(index)).unwrap_or_default())
    }

    /// All messages that it has or had.
    pub(super) fn messages(&self) -> impl Iterator<Item = (u128, &'a [u8])> {
        (0..self.count()).map(|index| self.message(index))
    }

    /// The messages that are not done.
    pub(super) fn left(&self, done: &Done) -> impl Iterator<Item = (u128, &'a [u8])> {
        (0..self.count()).filter(|index| !done.has(*index)).map(|index| self.message(index))
    }

    /// The same written again from its parts.
    pub(super) fn write_again(&self) -> Vec<u8> {
        let mut out: Vec<u8> = self.messages().flat_map(|(_, bytes)| bytes).copied().collect();
        finish(self.key, &self.ends, &mut out);
        out
    }
}

/// Which messages of a sheet are done, or stand by themselves now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    bits: Vec<u8>,
}

impl Done {
    /// Of this many messages, none.
    pub(super) fn none(count: usize) -> Self {
        Self { bits: vec![0; count.div_ceil(8)] }
    }

    /// Reads what is done, of as many messages as the sheet has if that is known.
    pub(super) fn read(key: u128, count: Option<usize>, bytes: &[u8]) -> Result<Self, Wrong> {
        let bits = record::unseal(Kind::Done, &key.to_le_bytes(), bytes)?;
        if bits.len() > SHEET_MESSAGES_MAX / 8 || count.is_some_and(|count| bits.len() != count.div_ceil(8)) {
            return Err(Wrong::Length);
        }
        Ok(Self { bits: bits.to_vec() })
    }

    /// Writes it into `out`, which it empties first.
    pub(super) fn encode(&self, key: u128, out: &mut Vec<u8>) {
        out.clear();
        out.push(VERSION);
        out.extend_from_slice(&self.bits);
        record::seal(Kind::Done, &key.to_le_bytes(), out);
    }

    pub(super) fn has(&self, index: usize) -> bool {
        self.bits.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }

    /// Marks one. Whether it was not before.
    pub(super) fn mark(&mut self, index: usize) -> bool {
        let is_new = !self.has(index);
        if let Some(byte) = self.bits.get_mut(index / 8) {
            *byte |= 1 << (index % 8);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::durable::{Record, Sender};

    const KEY: u128 = (3 << 72) | (4 << 64) | 1000;

    fn sheet(count: u64) -> Vec<u8> {
        let (mut out, mut ends) = (Vec::new(), Vec::new());
        for number in 0..count {
            let record = Record {
                bytes: format!("message {number}").into_bytes().into(),
                priority: 4,
                attempts: 0,
                since_millis: 1,
                due_millis: 0,
                expires_millis: 0,
                from: Sender { name: "test".into(), uid: 1, pid: 2 },
                topic: "".into(),
                dead: None,
            };
            record::append(KEY + u128::from(number), &record, &mut out);
            ends.push(u32::try_from(out.len()).expect("small"));
        }
        finish(KEY, &ends, &mut out);
        out
    }

    fn good(bytes: &[u8]) -> usize {
        let sheet = Sheet::read(KEY, bytes);
        (0..sheet.count())
            .filter(|index| {
                let (key, bytes) = sheet.message(*index);
                record::view(key, bytes).is_ok()
            })
            .count()
    }

    #[test]
    fn any_flipped_bit_costs_one_message_at_most_and_is_noticed() {
        let bytes = sheet(20);
        assert_eq!((good(&bytes), Sheet::read(KEY, &bytes).wrong), (20, None));
        assert_eq!(Sheet::read(KEY, &bytes).write_again(), bytes);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (good, wrong) = (good(&flipped), Sheet::read(KEY, &flipped).wrong);
            assert!(good >= 19 && (good < 20 || wrong.is_some()), "bit {bit}: {good} {wrong:?}");
        }
    }

    #[test]
    fn a_sheet_that_was_cut_has_the_messages_before_the_cut() {
        let bytes = sheet(20);
        let sheet = Sheet::read(KEY, &bytes);
        let (_, third) = sheet.message(2);
        let end = third.as_ptr() as usize + third.len() - bytes.as_ptr() as usize;
        assert_eq!((good(&bytes[..end]), good(&bytes[..end - 1]), good(&[])), (3, 2, 0));
        assert_eq!(Sheet::read(KEY + 1, &bytes).count(), 0, "under another key it is nothing");
        assert_eq!(
            (sheet.last(), sheet.index(KEY + 19), sheet.index(KEY + 20)),
            (Some(KEY + 19), Some(19), None)
        );
    }

    #[test]
    fn what_is_done_comes_back_under_its_own_key() {
        let mut done = Done::none(20);
        assert!(done.mark(0) && done.mark(19) && !done.mark(19) && !done.has(18));
        let mut bytes = Vec::new();
        done.encode(KEY, &mut bytes);
        assert_eq!(Done::read(KEY, Some(20), &bytes), Ok(done.clone()));
        assert_eq!(Done::read(KEY, None, &bytes), Ok(done));
        assert_eq!(Done::read(KEY, Some(25), &bytes), Err(Wrong::Length));
        assert_eq!(Done::read(KEY + 1, Some(20), &bytes), Err(Wrong::Checksum));
    }
}
