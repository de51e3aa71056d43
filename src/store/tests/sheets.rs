//! Messages that came together and stand on one sheet: each goes its own way all the same.

use super::*;
use crate::core::durable::Stock;
use crate::store::keys::{self, DONE, MESSAGES, SHEETS};
use crate::store::sheet::{SHEET_MESSAGES_MAX, SHEET_MESSAGES_MIN};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};
use std::path::PathBuf;

const WAITING: Shelf = Shelf::Waiting(4);

fn text(number: u64) -> String {
    format!("message {number}")
}

fn puts(numbers: std::ops::RangeInclusive<u64>) -> Vec<Change> {
    numbers.map(|number| put(1, WAITING, number, record(&text(number)))).collect()
}

fn fresh() -> (tempfile::TempDir, PathBuf, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queues.redb");
    let (mut store, _) = Store::open(&path, &options()).expect("a store");
    store.commit(&[named(1, "jobs")]).expect("kept");
    (folder, path, store)
}

/// How many messages stand by themselves, how many sheets there are, and of how many something is done.
fn entries(store: &Store) -> (u64, u64, u64) {
    let reading = store.database.as_ref().expect("open").begin_read().expect("readable");
    let count = |table| reading.open_table(table).expect("there").len().expect("known");
    (count(MESSAGES), count(SHEETS), count(DONE))
}

fn numbers(store: &Store) -> Vec<u64> {
    let all = shelf(store, 1, WAITING);
    assert!(all.iter().all(|(number, is)| *is == text(*number)));
    all.into_iter().map(|(number, _)| number).collect()
}

fn check(store: Store, path: &std::path::Path, expected: &[u64]) -> Store {
    assert_eq!(numbers(&store), expected);
    drop(store);
    let (store, opened) = Store::open(path, &options()).expect("a store");
    let bytes = expected.iter().map(|number| text(*number).len() as u64).sum();
    let last = expected.last().copied().unwrap_or(0);
    let stock = Stock { messages: expected.len() as u64, bytes, last };
    assert_eq!((opened.queues[0].waiting[4], opened.report.damages), (stock, 0));
    assert_eq!(numbers(&store), expected);
    store
}

#[test]
fn what_comes_together_is_one_entry_and_few_or_large_ones_are_not() {
    let (_folder, path, mut store) = fresh();
    let many = SHEET_MESSAGES_MAX as u64 + 20;
    store.commit(&puts(1..=many)).expect("kept");
    assert_eq!(entries(&store), (0, 2, 0));
    let few = SHEET_MESSAGES_MIN as u64 - 1;
    store.commit(&puts(many + 1..=many + few)).expect("kept");
    assert_eq!(entries(&store), (few, 2, 0));
    let large: Vec<Change> = (1..=9)
        .map(|number| put(1, Shelf::Delayed, number, Record { bytes: vec![0; 20_000].into(), ..record("") }))
        .collect();
    store.commit(&large).expect("kept");
    assert_eq!(entries(&store), (few + 9, 2, 0));
    check(store, &path, &(1..=many + few).collect::<Vec<_>>());
}

#[test]
fn other_shelves_and_ids_between_them_do_not_part_what_came_together() {
    let (_folder, _, mut store) = fresh();
    let seen =
        |number: u64| Change::Seen { queue: 1, uid: 0, id: number.to_le_bytes().into(), until_millis: 5000 };
    let mut batch = Vec::new();
    for number in 1..=20 {
        batch.push(put(1, WAITING, number, record(&text(number))));
        batch.push(seen(number));
        batch.push(put(1, Shelf::Waiting(9), number, record("urgent")));
        batch.push(put(2, WAITING, number, record("another's")));
    }
    store.commit(&batch).expect("kept");
    assert_eq!(entries(&store), (0, 3, 0));
}

#[test]
fn each_is_removed_by_itself_and_the_sheet_with_the_last() {
    let (_folder, path, mut store) = fresh();
    store.commit(&puts(1..=20)).expect("kept");
    store.commit(&[remove(1, WAITING, 1), remove(1, WAITING, 7), remove(1, WAITING, 7)]).expect("kept");
    let left: Vec<u64> = (2..=20).filter(|number| *number != 7).collect();
    assert_eq!(entries(&store), (0, 1, 1));
    let mut store = check(store, &path, &left);
    // Most are done: what is left stands by itself.
    store.commit(&(2..=17).map(|number| remove(1, WAITING, number)).collect::<Vec<_>>()).expect("kept");
    assert_eq!(entries(&store), (3, 0, 0));
    let mut store = check(store, &path, &[18, 19, 20]);
    store.commit(&(18..=20).map(|number| remove(1, WAITING, number)).collect::<Vec<_>>()).expect("kept");
    assert_eq!((entries(&store), store.live_bytes()), ((0, 0, 0), 0));
    check(store, &path, &[]);
}

#[test]
fn one_that_comes_back_takes_its_place_again_and_what_is_behind_it_comes_behind_it() {
    let (_folder, path, mut store) = fresh();
    store.commit(&puts(1..=20)).expect("kept");
    let again = Record { attempts: 7, ..record(&text(5)) };
    let mut batch = puts(21..=29);
    batch.insert(4, put(1, WAITING, 5, again.clone()));
    store.commit(&batch).expect("kept");
    assert_eq!(entries(&store), (1, 2, 1), "the run goes on");
    let loaded = store.load(1, WAITING, Some(4), 2, usize::MAX).expect("readable");
    assert_eq!(loaded.records, [(5, again), (6, record(&text(6)))]);
    let mut store = check(store, &path, &(1..=29).collect::<Vec<_>>());
    store.commit(&[remove(1, WAITING, 5)]).expect("kept");
    let mut store = check(store, &path, &(1..=29).filter(|number| *number != 5).collect::<Vec<_>>());
    // Over what is there, and over what was.
    store.commit(&puts(3..=22)).expect("kept");
    check(store, &path, &(1..=29).collect::<Vec<_>>());
}

#[test]
fn a_batch_may_remove_what_it_brings() {
    let (_folder, path, mut store) = fresh();
    let mut batch = puts(1..=20);
    batch.push(remove(1, WAITING, 3));
    batch.extend(puts(21..=40));
    batch.push(Change::RemoveRange { queue: 1, shelf: WAITING, first: 15, last: 25 });
    batch.extend(puts(15..=16));
    store.commit(&batch).expect("kept");
    let left: Vec<u64> = (1..=40).filter(|number| *number != 3 && !(17..=25).contains(number)).collect();
    let mut store = check(store, &path, &left);
    store.commit(&[Change::Forget { queue: 1 }, named(1, "jobs")]).expect("kept");
    assert_eq!((entries(&store), store.live_bytes()), ((0, 0, 0), 0));
    check(store, &path, &[]);
}

/// Changes the bytes that stand behind a key.
fn damage(path: &std::path::Path, sheets: bool, change: impl Fn(&mut [u8])) {
    let (store, _) = Store::open(path, &options()).expect("a store");
    let database = store.database.as_ref().expect("open");
    let writing = database.begin_write().expect("writable");
    {
        let mut table = writing.open_table(if sheets { SHEETS } else { DONE }).expect("there");
        let key = keys::message(1, WAITING, 1);
        let mut bytes = table.get(key).expect("readable").expect("there").value().to_vec();
        change(&mut bytes);
        table.insert(key, bytes.as_slice()).expect("written");
    }
    writing.commit().expect("written");
}

#[test]
fn what_says_where_messages_are_may_be_damaged_and_all_are_found() {
    let (_folder, path, mut store) = fresh();
    store.commit(&puts(1..=20)).expect("kept");
    store.commit(&[remove(1, WAITING, 20)]).expect("kept");
    drop(store);
    damage(&path, true, |bytes| *bytes.last_mut().expect("some") ^= 1);
    let (mut store, opened) = Store::open(&path, &options()).expect("a store");
    assert_eq!((opened.report.damages, opened.queues[0].waiting[4].messages), (1, 19));
    let named = opened.report.damaged[0].to_string();
    assert!(named.contains("the sheet that begins with message 1 of priority 4 in queue 1"), "{named}");
    assert_eq!(numbers(&store), (1..=19).collect::<Vec<_>>());
    let done: Vec<Change> = (1..=19).map(|number| remove(1, WAITING, number)).collect();
    store.commit(&done).expect("kept");
    assert_eq!(numbers(&store), [0; 0]);
}

#[test]
fn what_says_what_is_done_may_be_damaged_and_that_is_given_out_again_but_nothing_twice() {
    let (_folder, path, mut store) = fresh();
    store.commit(&puts(1..=20)).expect("kept");
    let again = put(1, WAITING, 5, record(&text(5)));
    store.commit(&[remove(1, WAITING, 2), again]).expect("kept");
    drop(store);
    damage(&path, false, |bytes| bytes[1] ^= 1);
    let (mut store, opened) = Store::open(&path, &options()).expect("a store");
    assert_eq!((opened.report.damages, opened.queues[0].waiting[4].messages), (1, 20));
    let named = opened.report.damaged[0].to_string();
    assert!(named.contains("what is done of the sheet that begins with message 1"), "{named}");
    assert_eq!(numbers(&store), (1..=20).collect::<Vec<_>>());
    store.commit(&[remove(1, WAITING, 5)]).expect("kept");
    let store = check(store, &path, &(1..=20).filter(|number| *number != 5).collect::<Vec<_>>());
    drop(store);
    let saved = path.with_extension("saved");
    let checked = crate::store::check(&path, Some(&saved)).expect("looked at");
    assert!(checked.is_whole() && checked.queues[&1].waiting == 19, "{checked:?}");
    let (store, _) = Store::open(&saved, &options()).expect("a store");
    assert_eq!(numbers(&store).len(), 19);
}
