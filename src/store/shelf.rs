//! Messages of a shelf in the order of their numbers, whether they stand by themselves or on sheets.

use super::keys::{self, DONE, MESSAGES, SHEETS};
use super::sheet::Sheet;
use super::shelves::done_of;
use redb::ReadTransaction;
use std::ops::RangeInclusive;

/// Shows each message of one shelf whose key lies in the range, until one is refused.
pub(super) fn each(
    reading: &ReadTransaction,
    range: RangeInclusive<u128>,
    take: &mut dyn FnMut(u128, &[u8]) -> bool,
) -> Result<(), redb::Error> {
    let (first, last) = (*range.start(), *range.end());
    let messages = reading.open_table(MESSAGES)?;
    let sheets = reading.open_table(SHEETS)?;
    let done = reading.open_table(DONE)?;
    let mut singles = messages.range(range)?;
    let mut single = singles.next().transpose()?;
    // The sheet that begins before the first one may hold it.
    let before = sheets.range(keys::shelf_of_key(first)..=first)?.next_back().transpose()?;
    let from = before.map_or(first, |(key, _)| key.value());
    for entry in sheets.range(from..=last)? {
        let (key, value) = entry?;
        let key = key.value();
        let sheet = Sheet::read(key, value.value());
        let (done, _) = done_of(key, &sheet, &done, &messages)?;
        for (key, value) in sheet.left(&done).skip_while(|(key, _)| *key < first) {
            while let Some((of, bytes)) = single.take_if(|(of, _)| of.value() < key) {
                if !take(of.value(), bytes.value()) {
                    return Ok(());
                }
                single = singles.next().transpose()?;
            }
            if !take(key, value) {
                return Ok(());
            }
        }
    }
    while let Some((of, bytes)) = single {
        if !take(of.value(), bytes.value()) {
            return Ok(());
        }
        single = singles.next().transpose()?;
    }
    Ok(())
}
