//! Messages in a batch that is being written: by themselves, or many on a sheet.
//!
//! A message is in one place. On a sheet it counts until it is marked as done; what takes its number then stands by itself. A
//! sheet goes when all of it is done, and what is left of one moves out when that is less than a quarter.

use super::keys::{self, DONE, MESSAGES, SHEETS};
use super::record::{self, Wrong};
use super::sheet::{self, Done, SHEET_BYTES_MAX, SHEET_MESSAGES_MAX, SHEET_MESSAGES_MIN, Sheet};
use crate::core::durable::{QueueNumber, Record};
use redb::{ReadableTable, Table, WriteTransaction};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// What is left of a sheet moves out when it is less than one in so many bytes.
const SPARSE: usize = 4;

/// By how much a batch changes what messages take.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) more: u64,
    pub(super) less: u64,
}

/// What a value takes in the file at least, with its key and its place in a page.
pub(super) fn taken(value: &[u8]) -> u64 {
    value.len() as u64 + 24
}

/// What of a sheet is done. If what says so is damaged, that is what stands by itself instead: the rest happens again.
pub(super) fn done_of(
    key: u128,
    sheet: &Sheet<'_>,
    done: &impl ReadableTable<u128, &'static [u8]>,
    messages: &impl ReadableTable<u128, &'static [u8]>,
) -> Result<(Done, Option<Wrong>), redb::Error> {
    let Some(value) = done.get(key)? else { return Ok((Done::none(sheet.count()), None)) };
    // A damaged sheet may not know how many it had.
    let count = sheet.wrong.is_none().then(|| sheet.count());
    match Done::read(key, count, value.value()) {
        Ok(done) => Ok((done, None)),
        Err(wrong) => {
            let mut done = Done::none(sheet.count());
            if let Some(last) = sheet.last() {
                for entry in messages.range(key..=last)? {
                    if let Some(index) = sheet.index(entry?.0.value()) {
                        done.mark(index);
                    }
                }
            }
            Ok((done, Some(wrong)))
        }
    }
}

/// A sheet that this batch has looked at.
#[derive(Debug)]
struct Open {
    count: usize,
    done: Done,
    is_changed: bool,
}

/// Messages with consecutive numbers that came one behind the other.
#[derive(Debug)]
struct Run<'a> {
    first: u128,
    records: Vec<&'a Record>,
}

impl Run<'_> {
    fn end(&self) -> u128 {
        self.first + self.records.len() as u128
    }
}

/// The tables of messages, and what is not written to them yet.
#[derive(Debug)]
pub(super) struct Shelves<'db, 'a> {
    messages: Table<'db, u128, &'static [u8]>,
    sheets: Table<'db, u128, &'static [u8]>,
    done: Table<'db, u128, &'static [u8]>,
    /// By the shelf's first key.
    runs: BTreeMap<u128, Run<'a>>,
    open: BTreeMap<u128, Open>,
    taken: Taken,
    scratch: Vec<u8>,
}

impl<'db, 'a> Shelves<'db, 'a> {
    pub(super) fn open(writing: &'db WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            messages: writing.open_table(MESSAGES)?,
            sheets: writing.open_table(SHEETS)?,
            done: writing.open_table(DONE)?,
            runs: BTreeMap::new(),
            open: BTreeMap::new(),
            taken: Taken::default(),
            scratch: Vec::new(),
        })
    }

    /// Keeps a message under this key.
    pub(super) fn put(&mut self, key: u128, record: &'a Record) -> Result<(), redb::Error> {
        let shelf = keys::shelf_of_key(key);
        match self.runs.get_mut(&shelf) {
            Some(run) if key == run.end() => {
                run.records.push(record);
                return Ok(());
            }
            // One that comes back, while others come in.
            Some(run) if key < run.first => return self.put_single(key, record),
            Some(_) => self.end_run(shelf)?,
            None => {}
        }
        self.runs.insert(shelf, Run { first: key, records: vec![record] });
        Ok(())
    }

    /// Keeps the message of this key no more.
    pub(super) fn remove(&mut self, key: u128) -> Result<(), redb::Error> {
        self.end_run_with(key..=key)?;
        if !self.mark(key)?
            && let Some(before) = self.messages.remove(key)?
        {
            self.taken.less += taken(before.value());
        }
        Ok(())
    }

    /// Keeps none of these of one shelf any more.
    pub(super) fn remove_range(&mut self, range: RangeInclusive<u128>) -> Result<(), redb::Error> {
        self.end_run_with(range.clone())?;
        self.write_done()?;
        let (first, last) = (*range.start(), *range.end());
        self.drop_entries(range, |key, sheet| sheet.last().is_none_or(|end| key >= first && end <= last))?;
        // Those over either end.
        for at in [first, last] {
            if let Some(key) = self.covering(at)?
                && let Some(open) = self.open.get_mut(&key)
            {
                for index in 0..open.count {
                    if (first..=last).contains(&(key + index as u128)) {
                        open.is_changed |= open.done.mark(index);
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps nothing of a queue any more.
    pub(super) fn forget(&mut self, queue: QueueNumber) -> Result<(), redb::Error> {
        let all = keys::messages_of(queue);
        self.end_run_with(all.clone())?;
        self.write_done()?;
        self.done.retain_in(all.clone(), |_, _| false)?;
        self.drop_entries(all, |_, _| true)
    }

    /// Writes what is left to be written, and says by how much what messages take has changed.
    pub(super) fn end(mut self) -> Result<Taken, redb::Error> {
        while let Some(shelf) = self.runs.keys().next().copied() {
            self.end_run(shelf)?;
        }
        self.write_done()?;
        Ok(self.taken)
    }

    /// Removes messages by themselves, and those sheets that are to go.
    fn drop_entries(
        &mut self,
        range: RangeInclusive<u128>,
        goes: impl Fn(u128, &Sheet<'_>) -> bool,
    ) -> Result<(), redb::Error> {
        let less = &mut self.taken.less;
        self.messages.retain_in(range.clone(), |_, value| {
            *less += taken(value);
            false
        })?;
        let mut gone = Vec::new();
        self.sheets.retain_in(range, |key, value| {
            let goes = goes(key, &Sheet::read(key, value));
            if goes {
                *less += taken(value);
                gone.push(key);
            }
            !goes
        })?;
        for key in gone {
            self.done.remove(key)?;
        }
        Ok(())
    }

    /// The sheet on which this key has its place, looked at.
    fn covering(&mut self, key: u128) -> Result<Option<u128>, redb::Error> {
        let covers = |of: u128, count: usize| key - of < count as u128;
        if let Some((of, open)) = self.open.range(..=key).next_back()
            && covers(*of, open.count)
        {
            return Ok(Some(*of));
        }
        let from = keys::shelf_of_key(key).max(key.saturating_sub(SHEET_MESSAGES_MAX as u128 - 1));
        let Some(entry) = self.sheets.range(from..=key)?.next_back() else { return Ok(None) };
        let (of, value) = entry?;
        let of = of.value();
        let sheet = Sheet::read(of, value.value());
        if !covers(of, sheet.count()) || self.open.contains_key(&of) {
            return Ok(None);
        }
        let (done, wrong) = done_of(of, &sheet, &self.done, &self.messages)?;
        // What is damaged is written anew before something changes that it is made up from.
        self.open.insert(of, Open { count: sheet.count(), done, is_changed: wrong.is_some() });
        Ok(Some(of))
    }

    /// Marks a message as done if it is on a sheet and was not. Whether that was so.
    fn mark(&mut self, key: u128) -> Result<bool, redb::Error> {
        let Some(of) = self.covering(key)? else { return Ok(false) };
        let index = usize::try_from(key - of).unwrap_or(usize::MAX);
        let is_new = self.open.get_mut(&of).is_some_and(|open| {
            let is_new = open.done.mark(index);
            open.is_changed |= is_new;
            is_new
        });
        Ok(is_new)
    }

    fn put_single(&mut self, key: u128, record: &Record) -> Result<(), redb::Error> {
        self.mark(key)?;
        record::encode(key, record, &mut self.scratch);
        self.taken.more += taken(&self.scratch);
        if let Some(before) = self.messages.insert(key, self.scratch.as_slice())? {
            self.taken.less += taken(before.value());
        }
        Ok(())
    }

    /// Writes the run that has one of these keys, if there is one.
    fn end_run_with(&mut self, range: RangeInclusive<u128>) -> Result<(), redb::Error> {
        let is_in = |run: &Run<'_>| run.first <= *range.end() && *range.start() < run.end();
        let with: Vec<u128> =
            self.runs.iter().filter(|(_, run)| is_in(run)).map(|(shelf, _)| *shelf).collect();
        with.into_iter().try_for_each(|shelf| self.end_run(shelf))
    }

    fn end_run(&mut self, shelf: u128) -> Result<(), redb::Error> {
        let Some(Run { first, records }) = self.runs.remove(&shelf) else { return Ok(()) };
        let (mut key, mut rest) = (first, &records[..]);
        while !rest.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            for record in rest.iter().take(SHEET_MESSAGES_MAX) {
                bytes += record::encoded_bytes(record);
                if sheet::sheet_bytes(count + 1, bytes) > SHEET_BYTES_MAX {
                    break;
                }
                count += 1;
            }
            let (now, behind) = rest.split_at(count.max(1));
            if count < SHEET_MESSAGES_MIN || self.is_taken(key, key + now.len() as u128 - 1)? {
                for (record, key) in now.iter().zip(key..) {
                    self.put_single(key, record)?;
                }
            } else {
                self.put_sheet(key, now)?;
            }
            (key, rest) = (key + now.len() as u128, behind);
        }
        Ok(())
    }

    /// Whether something is, or has its place, between these two.
    fn is_taken(&mut self, first: u128, last: u128) -> Result<bool, redb::Error> {
        Ok(self.covering(first)?.is_some()
            || self.sheets.range(first..=last)?.next().is_some()
            || self.messages.range(first..=last)?.next().is_some())
    }

    fn put_sheet(&mut self, key: u128, records: &[&Record]) -> Result<(), redb::Error> {
        let out = &mut self.scratch;
        out.clear();
        let mut ends = Vec::with_capacity(records.len());
        for (record, key) in records.iter().zip(key..) {
            record::append(key, record, out);
            ends.push(u32::try_from(out.len()).unwrap_or(u32::MAX));
        }
        sheet::finish(key, &ends, out);
        self.taken.more += taken(out);
        self.sheets.insert(key, out.as_slice())?;
        Ok(())
    }

    /// Writes what was marked.
    fn write_done(&mut self) -> Result<(), redb::Error> {
        for (key, Open { done, is_changed, .. }) in std::mem::take(&mut self.open) {
            if is_changed && self.is_sparse(key, &done)? {
                if let Some(value) = self.sheets.remove(key)? {
                    self.taken.less += taken(value.value());
                }
                self.done.remove(key)?;
            } else if is_changed {
                done.encode(key, &mut self.scratch);
                self.done.insert(key, self.scratch.as_slice())?;
            }
        }
        Ok(())
    }

    /// Whether a sheet can go. What is left of it stands by itself then.
    fn is_sparse(&mut self, key: u128, done: &Done) -> Result<bool, redb::Error> {
        let Some(value) = self.sheets.get(key)? else { return Ok(false) };
        let sheet = Sheet::read(key, value.value());
        let left = || sheet.left(done);
        // One that is damaged may have more than was found.
        if sheet.wrong.is_some()
            || left().map(|(_, bytes)| bytes.len()).sum::<usize>() * SPARSE >= value.value().len()
        {
            return Ok(false);
        }
        for (key, bytes) in left() {
            self.taken.more += taken(bytes);
            if let Some(before) = self.messages.insert(key, bytes)? {
                self.taken.less += taken(before.value());
            }
        }
        Ok(true)
    }
}
