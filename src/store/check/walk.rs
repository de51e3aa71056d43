//! Reads trees as far as they can be read: forward up to what cannot, backward down to it, and then the middle of what is
//! left, until that is small.

use super::{Check, Salvage, bad, good};
use crate::core::durable::{Change, QueueNumber};
use crate::store::OpenError;
use crate::store::failure::guarded;
use crate::store::keys::{self, DONE, MESSAGES, POSITIONS, QUEUES, SEEN, SHEETS};
use crate::store::open::number;
use crate::store::record::{self, Wrong};
use crate::store::scan::Kept;
use crate::store::sheet::{Done, Sheet};
use crate::store::shelves::done_of;
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// How often a table is tried from another key on.
const TRIES_MAX: u32 = 20_000;

/// Reads everything that the trees lead to.
pub(super) fn walk(
    database: &Database,
    check: &mut Check,
    salvage: &mut Option<Salvage>,
) -> Result<(), OpenError> {
    check.format = guarded(|| number(database, keys::META_FORMAT)).ok().flatten();
    each(database, QUEUES, check, &mut |check, key, value| match (
        QueueNumber::try_from(key),
        record::queue(key, value),
    ) {
        (Err(_), _) => bad(check, Kept::Unknown("queues"), Wrong::Key),
        (Ok(queue), Err(wrong)) => bad(check, Kept::Queue(queue), wrong),
        (Ok(queue), Ok((name, settings))) => good(check, salvage, Change::Queue { queue, name, settings }),
    })?;
    // Before those that stand by themselves: what took the place of one on a sheet is written over it.
    each(database, SHEETS, check, &mut |check, key, value| sheet(database, check, salvage, key, value))?;
    each(database, MESSAGES, check, &mut |check, key, value| message(check, salvage, key, value))?;
    each(database, POSITIONS, check, &mut |check, key, value| match (
        keys::position_parts(key),
        record::number(key, value),
    ) {
        (None, _) => bad(check, Kept::Unknown("positions"), Wrong::Key),
        (Some((queue, stream)), Err(wrong)) => bad(check, Kept::Position(queue, stream), wrong),
        (Some((queue, stream)), Ok(seq)) => good(check, salvage, Change::Position { queue, stream, seq }),
    })?;
    seen(database, check, salvage)
}

fn message(
    check: &mut Check,
    salvage: &mut Option<Salvage>,
    key: u128,
    value: &[u8],
) -> Result<(), OpenError> {
    match (keys::message_parts(key), record::view(key, value)) {
        (None, _) => bad(check, Kept::Unknown("messages"), Wrong::Key),
        (Some((queue, shelf, number)), Err(wrong)) => bad(check, Kept::Message(queue, shelf, number), wrong),
        (Some((queue, shelf, number)), Ok(view)) => {
            let record = Arc::new(view.to_record());
            good(check, salvage, Change::Put { queue, shelf, number, record })
        }
    }
}

fn sheet(
    database: &Database,
    check: &mut Check,
    salvage: &mut Option<Salvage>,
    key: u128,
    value: &[u8],
) -> Result<(), OpenError> {
    let sheet = Sheet::read(key, value);
    if let Some(wrong) = sheet.wrong {
        bad(check, Kept::sheet(key), wrong)?;
    }
    let done = guarded(|| {
        let reading = database.begin_read()?;
        done_of(key, &sheet, &reading.open_table(DONE)?, &reading.open_table(MESSAGES)?)
    });
    let (done, wrong) = done.unwrap_or_else(|_| (Done::none(sheet.count()), None));
    if let Some(wrong) = wrong {
        bad(check, Kept::done(key), wrong)?;
    }
    sheet.left(&done).try_for_each(|(key, value)| message(check, salvage, key, value))
}

type Entry<'a> = &'a mut dyn FnMut(&mut Check, u128, &[u8]) -> Result<(), OpenError>;

fn each(
    database: &Database,
    definition: TableDefinition<'static, u128, &'static [u8]>,
    check: &mut Check,
    entry: Entry<'_>,
) -> Result<(), OpenError> {
    let table = match guarded(|| Ok(database.begin_read()?.open_table(definition)?)) {
        Ok(table) => table,
        Err(redb::Error::TableDoesNotExist(_)) if check.broken.is_none() => return Ok(()),
        Err(_) => {
            check.gaps += 1;
            return Ok(());
        }
    };
    let mut waiting = vec![0..=u128::MAX];
    let mut tries = 0;
    while let Some(range) = waiting.pop() {
        tries += 1;
        let (after, whole) = some(&table, range.clone(), false, check, entry)?;
        if whole {
            continue;
        }
        if tries == 1 {
            // Something is in the way, whatever can be read around it.
            check.gaps += 1;
        }
        let from = after.map_or(*range.start(), |key| key.saturating_add(1));
        let (before, _) = some(&table, from..=*range.end(), true, check, entry)?;
        let to = before.map_or(*range.end(), |key| key.saturating_sub(1));
        if tries < TRIES_MAX && from < to {
            // Halves of the key's bits, in which the queues, shelves and numbers of what is left lie.
            let middle = from + (to - from) / 2;
            waiting.push(middle + 1..=to);
            waiting.push(from..=middle);
        }
    }
    Ok(())
}

/// Reads from one end of a range. Gives the last key that could be read, and whether that was all.
fn some(
    table: &ReadOnlyTable<u128, &'static [u8]>,
    range: RangeInclusive<u128>,
    backward: bool,
    check: &mut Check,
    entry: Entry<'_>,
) -> Result<(Option<u128>, bool), OpenError> {
    let (first, end) = (*range.start(), *range.end());
    let mut last = None;
    let mut outcome = Ok(());
    if first > end {
        return Ok((None, true));
    }
    let whole = guarded(|| {
        let mut entries = table.range(first..=end)?;
        while let Some(next) = if backward { entries.next_back() } else { entries.next() } {
            let (key, value) = next?;
            let key = key.value();
            // Trees that are not whole may lead anywhere, in circles, too.
            let on = match last {
                None => true,
                Some(before) if backward => key < before,
                Some(before) => key > before,
            };
            if !on || key < first || key > end {
                return Err(redb::Error::Corrupted("keys out of order".to_owned()));
            }
            outcome = entry(check, key, value.value());
            if outcome.is_err() {
                break;
            }
            last = Some(key);
        }
        Ok(())
    });
    outcome?;
    Ok((last, whole.is_ok()))
}

fn seen(database: &Database, check: &mut Check, salvage: &mut Option<Salvage>) -> Result<(), OpenError> {
    let mut outcome = Ok(());
    let whole = guarded(|| {
        let table = match database.begin_read()?.open_table(SEEN) {
            Err(redb::TableError::TableDoesNotExist(_)) if check.broken.is_none() => return Ok(()),
            table => table?,
        };
        let mut last: Option<Vec<u8>> = None;
        for next in table.iter()? {
            let (key, value) = next?;
            let (key, value) = (key.value(), value.value());
            if last.as_deref().is_some_and(|last| last >= key) {
                return Err(redb::Error::Corrupted("keys out of order".to_owned()));
            }
            last = Some(key.to_vec());
            outcome = match (keys::seen_parts(key), record::seen(key, value)) {
                (None, _) => bad(check, Kept::Unknown("seen"), Wrong::Key),
                (Some((_, queue, ..)), Err(wrong)) => bad(check, Kept::Seen(queue), wrong),
                (Some((until_millis, queue, uid, id)), Ok(())) => {
                    good(check, salvage, Change::Seen { queue, uid, id: id.into(), until_millis })
                }
            };
            if outcome.is_err() {
                break;
            }
        }
        Ok(())
    });
    if whole.is_err() {
        check.gaps += 1;
    }
    outcome
}
