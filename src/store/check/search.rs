//! Searches the bytes of a file that redb does not open for messages and queues. Pages with entries say how many they have
//! and where each value ends; whether one is a message, its own checksum says.

use super::{Check, Salvage, good};
use crate::core::durable::Change;
use crate::store::sheet::Sheet;
use crate::store::{OpenError, RECORD_BYTES_MAX, keys, place, record};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const PAGE_BYTES: usize = 4096;
/// Pages lie together in powers of two; none is larger than what holds the largest value.
const PAGES_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX;
/// What a page with entries begins with.
const LEAF: u8 = 1;
const KEY_BYTES: usize = 16;

/// Finds what there is.
pub(super) fn search(
    file: &File,
    path: &Path,
    check: &mut Check,
    salvage: &mut Option<Salvage>,
) -> Result<(), OpenError> {
    let refused = |error| place::refused("read", path, error);
    let length = file.metadata().map_err(refused)?.len();
    let mut known = BTreeSet::new();
    let mut page = vec![0; PAGE_BYTES];
    let mut at = 0;
    while at < length {
        let there = usize::try_from((length - at).min(PAGE_BYTES as u64)).unwrap_or(PAGE_BYTES);
        page.truncate(PAGE_BYTES);
        page[there..].fill(0);
        file.read_exact_at(&mut page[..there], at).map_err(refused)?;
        if let Some(end) = entries_end(&page) {
            if end > PAGE_BYTES && (end as u64) <= length - at {
                page.resize(end, 0);
                file.read_exact_at(&mut page, at).map_err(refused)?;
            }
            for (key, value) in entries(&page) {
                entry(key, value, &mut known, check, salvage)?;
            }
        }
        page.resize(PAGE_BYTES, 0);
        at += PAGE_BYTES as u64;
    }
    Ok(())
}

fn entry(
    key: u128,
    value: &[u8],
    known: &mut BTreeSet<u128>,
    check: &mut Check,
    salvage: &mut Option<Salvage>,
) -> Result<(), OpenError> {
    if message(key, value, known, check, salvage)? {
        return Ok(());
    }
    if let (Ok(queue), Ok((name, settings))) = (u32::try_from(key), record::queue(key, value)) {
        if known.insert(key) {
            return good(check, salvage, Change::Queue { queue, name, settings });
        }
    } else if key == keys::META_FORMAT
        && let Ok(format) = record::number(key, value)
    {
        check.format = Some(format);
    } else if keys::message_parts(key).is_some() {
        // What of a sheet is done is not looked for: it may belong to one that is not there any more.
        for (key, value) in Sheet::read(key, value).messages() {
            message(key, value, known, check, salvage)?;
        }
    }
    Ok(())
}

/// Whether this is a message.
fn message(
    key: u128,
    value: &[u8],
    known: &mut BTreeSet<u128>,
    check: &mut Check,
    salvage: &mut Option<Salvage>,
) -> Result<bool, OpenError> {
    let (Some((queue, shelf, number)), Ok(view)) = (keys::message_parts(key), record::view(key, value))
    else {
        return Ok(false);
    };
    // Pages are copied when they change, so most entries are there more than once.
    if known.insert(key) {
        let record = Arc::new(view.to_record());
        good(check, salvage, Change::Put { queue, shelf, number, record })?;
    }
    Ok(true)
}

fn u32_at(page: &[u8], at: usize) -> Option<usize> {
    let bytes = page.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

/// How many entries a page says to have, if it can be one with entries.
fn count(page: &[u8]) -> Option<usize> {
    let count = usize::from(u16::from_le_bytes([*page.get(2)?, *page.get(3)?]));
    (page[0] == LEAF && count > 0 && 4 + count * (4 + KEY_BYTES) <= PAGE_BYTES).then_some(count)
}

/// Where the last entry ends, if it can be a page with entries.
fn entries_end(page: &[u8]) -> Option<usize> {
    let end = u32_at(page, 4 * count(page)?)?;
    (end <= PAGES_BYTES_MAX).then_some(end)
}

/// Keys and values as far as the page has them.
fn entries(page: &[u8]) -> impl Iterator<Item = (u128, &[u8])> {
    let count = count(page).unwrap_or(0);
    let keys_at = 4 + 4 * count;
    let values_at = keys_at + KEY_BYTES * count;
    (0..count).filter_map(move |index| {
        let key = page.get(keys_at + index * KEY_BYTES..)?.first_chunk()?;
        let from = if index == 0 { values_at } else { u32_at(page, 4 * index)? };
        let value = page.get(from..u32_at(page, 4 + 4 * index)?)?;
        Some((u128::from_le_bytes(*key), value))
    })
}
