//! Batches, shelves, what opening counts, and who may open.

use super::*;
use crate::core::durable::Stock;
use crate::store::{OpenError, RECORD_BYTES_MAX};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const WAITING: Shelf = Shelf::Waiting(4);

fn fresh() -> (tempfile::TempDir, std::path::PathBuf, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queues.redb");
    let (store, opened) = Store::open(&path, &options()).expect("a store");
    assert!(opened.report.made && opened.queues.is_empty() && opened.last_queue == 0);
    (folder, path, store)
}

#[test]
fn what_is_kept_comes_back_as_it_was_and_is_counted() {
    let (_folder, path, mut store) = fresh();
    let by = Sender { name: "worker".into(), uid: 8, pid: 9 };
    let letter = dead("late", Some(by));
    let committed = store
        .commit(&[
            named(3, "jobs"),
            named(9, "empty"),
            put(3, WAITING, 10, record("ten")),
            put(3, WAITING, 7, record("seven")),
            put(3, Shelf::Waiting(9), u64::MAX, Record { bytes: Arc::from([]), ..record("") }),
            put(
                3,
                Shelf::Delayed,
                1,
                Record { from: Sender { uid: 50, ..record("").from }, ..record("later") },
            ),
            put(3, Shelf::Dead, 2, letter.clone()),
            put(3, Shelf::Dead, 3, dead("nobody", None)),
            Change::Position { queue: 3, stream: u64::MAX, seq: 12 },
            Change::Seen { queue: 3, uid: 5, id: Arc::from(&b"id"[..]), until_millis: 1001 },
            Change::Seen { queue: 3, uid: 5, id: Arc::from(&b"old"[..]), until_millis: 1000 },
        ])
        .expect("kept");
    assert!(committed.written_bytes > 0);
    drop(store);
    let (store, opened) = Store::open(&path, &options()).expect("a store");
    assert!(!opened.report.made && !opened.report.repaired && opened.report.damages == 0);
    assert_eq!(
        (opened.report.queues, opened.report.messages, opened.report.bytes),
        (2, 6, 3 + 5 + 5 + 4 + 6)
    );
    assert_eq!(opened.last_queue, 9);
    let found = &opened.queues[0];
    assert_eq!((found.queue, &*found.name, &*found.settings), (3, "jobs", &b"settings"[..]));
    assert_eq!(found.waiting[4], Stock { messages: 2, bytes: 8, last: 10 });
    assert_eq!(found.waiting[9], Stock { messages: 1, bytes: 0, last: u64::MAX });
    assert_eq!(found.delayed, Stock { messages: 1, bytes: 5, last: 1 });
    assert_eq!(found.dead, Stock { messages: 2, bytes: 10, last: 3 });
    let users: Vec<_> =
        found.by_user.iter().map(|(uid, stock)| (*uid, stock.messages, stock.bytes)).collect();
    assert_eq!(users, [(5, 5, 18), (50, 1, 5)]);
    assert_eq!(found.positions, [(u64::MAX, 12)]);
    assert_eq!(found.seen, [(5, Arc::from(&b"id"[..]), 1001)], "what is over is not told");
    assert_eq!(shelf(&store, 3, WAITING), [(7, "seven".to_owned()), (10, "ten".to_owned())]);
    let letters = store.load(3, Shelf::Dead, None, 1, usize::MAX).expect("readable");
    assert_eq!(letters.records, [(2, letter)]);
    assert_eq!(opened.queues[1].name.as_ref(), "empty");
}

#[test]
fn a_shelf_is_read_in_portions_that_end_by_count_or_bytes() {
    let (_folder, _, mut store) = fresh();
    let batch: Vec<Change> = (1..=9).map(|number| put(1, WAITING, number, record("12345"))).collect();
    store.commit(&batch).expect("kept");
    store
        .commit(&[put(1, Shelf::Waiting(5), 1, record("x")), put(2, WAITING, 1, record("y"))])
        .expect("kept");
    let numbers = |after, messages, bytes| -> Vec<u64> {
        let loaded = store.load(1, WAITING, after, messages, bytes).expect("readable");
        loaded.records.iter().map(|(number, _)| *number).collect()
    };
    assert_eq!(numbers(None, 3, usize::MAX), [1, 2, 3]);
    assert_eq!(numbers(Some(3), 100, usize::MAX), [4, 5, 6, 7, 8, 9]);
    assert_eq!(numbers(Some(3), 100, 11), [4, 5, 6], "the one that goes past is the last");
    assert_eq!(numbers(Some(3), 100, 1), [4], "there is progress");
    assert_eq!(numbers(Some(3), 0, 100), [0; 0]);
    assert_eq!(numbers(Some(9), 100, usize::MAX), [0; 0]);
    assert_eq!(numbers(Some(u64::MAX), 100, usize::MAX), [0; 0]);
}

#[test]
fn changes_of_a_batch_take_effect_in_their_order() {
    let (_folder, path, mut store) = fresh();
    store
        .commit(&[
            named(1, "first"),
            put(1, WAITING, 1, record("a")),
            put(1, WAITING, 1, record("b")),
            put(1, WAITING, 2, record("c")),
            remove(1, WAITING, 2),
            remove(1, WAITING, 77),
            put(1, WAITING, 3, record("d")),
            remove(1, WAITING, 3),
            put(1, WAITING, 3, record("e")),
            named(1, "renamed"),
            Change::Position { queue: 1, stream: 4, seq: 5 },
            Change::Position { queue: 1, stream: 4, seq: 6 },
            Change::Position { queue: 1, stream: 7, seq: 6 },
            Change::ForgetPosition { queue: 1, stream: 7 },
        ])
        .expect("kept");
    assert_eq!(shelf(&store, 1, WAITING), [(1, "b".to_owned()), (3, "e".to_owned())]);
    drop(store);
    let (_, opened) = Store::open(&path, &options()).expect("a store");
    assert_eq!(&*opened.queues[0].name, "renamed");
    assert_eq!(opened.queues[0].positions, [(4, 6)]);
}

#[test]
fn a_range_is_removed_with_both_its_ends_and_nothing_beside_it() {
    let (_folder, _, mut store) = fresh();
    let batch: Vec<Change> = (1..=3000).map(|number| put(1, WAITING, number, record("x"))).collect();
    store.commit(&batch).expect("kept");
    store
        .commit(&[put(1, Shelf::Waiting(3), 5, record("y")), put(1, Shelf::Waiting(5), 5, record("z"))])
        .expect("kept");
    let range = |first, last| Change::RemoveRange { queue: 1, shelf: WAITING, first, last };
    store.commit(&[range(5, 4), range(2, 2998), range(4000, u64::MAX)]).expect("kept");
    let left: Vec<u64> = shelf(&store, 1, WAITING).iter().map(|(number, _)| *number).collect();
    assert_eq!(left, [1, 2999, 3000]);
    store.commit(&[range(0, u64::MAX)]).expect("kept");
    assert_eq!(shelf(&store, 1, WAITING), []);
    assert_eq!(shelf(&store, 1, Shelf::Waiting(3)).len() + shelf(&store, 1, Shelf::Waiting(5)).len(), 2);
}

#[test]
fn a_queue_is_forgotten_with_all_that_is_its_own_and_nothing_else() {
    let (_folder, path, mut store) = fresh();
    for queue in [1, 2, 3] {
        let id = Change::Seen { queue, uid: 0, id: Arc::from(&b"id"[..]), until_millis: 5000 };
        let position = Change::Position { queue, stream: 1, seq: 1 };
        let dead = put(queue, Shelf::Dead, u64::MAX, dead("x", None));
        store
            .commit(&[
                named(queue, "name"),
                put(queue, Shelf::Waiting(0), 0, record("x")),
                dead,
                id,
                position,
            ])
            .expect("kept");
    }
    store.commit(&[Change::Forget { queue: 2 }]).expect("kept");
    drop(store);
    let (mut store, opened) = Store::open(&path, &options()).expect("a store");
    let left: Vec<_> = opened.queues.iter().map(|queue| queue.queue).collect();
    assert_eq!(left, [1, 3]);
    for queue in &opened.queues {
        assert_eq!((queue.waiting[0].messages, queue.dead.messages), (1, 1));
        assert_eq!((queue.seen.len(), queue.positions.len()), (1, 1));
    }
    // The number is given to another: nothing of the old one is there.
    store.commit(&[named(2, "another")]).expect("kept");
    drop(store);
    let (_, opened) = Store::open(&path, &options()).expect("a store");
    let another = opened.queues.iter().find(|queue| queue.queue == 2).expect("it is there");
    assert!(another.seen.is_empty() && another.positions.is_empty() && another.by_user.is_empty());
}

#[test]
fn ids_are_forgotten_when_their_time_is_over() {
    let (_folder, path, mut store) = fresh();
    let id = |text: String, until_millis| Change::Seen {
        queue: 1,
        uid: 0,
        id: text.as_bytes().into(),
        until_millis,
    };
    let batch: Vec<Change> = (0..500).map(|number| id(format!("{number}"), 1000 - number)).collect();
    store.commit(&batch).expect("kept");
    store.commit(&[named(1, "name"), id("young".to_owned(), 1001)]).expect("kept");
    drop(store);
    let early = StoreOptions { clock: || 0, ..options() };
    let (_, opened) = Store::open(&path, &early).expect("a store");
    assert_eq!(opened.queues[0].seen, [(0, Arc::from(&b"young"[..]), 1001)]);
}

#[test]
fn a_message_that_no_file_could_hold_is_refused_and_the_store_goes_on() {
    let (_folder, _, mut store) = fresh();
    let bytes = Arc::from(vec![0; RECORD_BYTES_MAX]);
    let refusal = store.commit(&[put(1, WAITING, 1, Record { bytes, ..record("") })]).expect_err("too large");
    assert!(!refusal.full && refusal.message.contains("too large"), "{}", refusal.message);
    assert!(store.trouble().is_none());
    store.commit(&[put(1, WAITING, 1, record("small"))]).expect("kept");
    assert_eq!(shelf(&store, 1, WAITING).len(), 1);
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let (_folder, path, store) = fresh();
    match Store::open(&path, &options()) {
        Err(error @ OpenError::Taken { pid, .. }) => {
            assert_eq!(pid, Some(std::process::id()));
            assert!(error.to_string().contains(&path.display().to_string()));
        }
        other => panic!("{other:?}"),
    }
    drop(store);
    Store::open(&path, &options()).expect("it is free again");
}

#[test]
fn the_file_is_its_users_alone_or_not_used() {
    let (folder, path, store) = fresh();
    drop(store);
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    let set =
        |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("ours");
    assert_eq!(mode(&path), 0o600);
    let says = |path: &Path, what: &str| {
        let error = Store::open(path, &options()).expect_err("refused").to_string();
        assert!(error.contains(what) && error.contains(&folder.path().display().to_string()), "{error}");
    };
    set(&path, 0o640);
    says(&path, "0600");
    set(&path, 0o600);
    set(folder.path(), 0o770);
    says(&path, "written to by other users");
    set(folder.path(), 0o700);
    let link = folder.path().join("link");
    symlink(&path, &link).expect("a link");
    says(&link, "symbolic link");
    says(folder.path(), "");
    says(&folder.path().join("missing/queues.redb"), "mkdir");
    Store::open(&path, &options()).expect("all is well again");
}

#[test]
fn what_is_no_store_is_named_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queues.redb");
    assert!(Store::create(&path, &options()).is_ok());
    let error = Store::create(&path, &options()).expect_err("it is there");
    assert!(error.to_string().contains("there already"), "{error}");
    for content in [&b"x"[..], b"a letter to somebody, and no store", &[0; 5000], &[0xff; 70_000]] {
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("ours");
        let error = Store::open(&path, &options()).expect_err("no store");
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("tramline store check"), "{error}");
        assert_eq!(std::fs::read(&path).expect("it is there"), content);
    }
}

#[test]
fn what_dies_while_it_makes_a_store_leaves_none_and_the_next_one_makes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queues.redb");
    let half = folder.path().join("queues.redb.new");
    std::fs::write(&half, [0; 3000]).expect("written");
    std::fs::set_permissions(&half, PermissionsExt::from_mode(0o600)).expect("ours");
    let (store, opened) = Store::open(&path, &options()).expect("a store");
    assert!(opened.report.made && path.exists() && !half.exists());
    drop(store);
    let (_, opened) = Store::open(&path, &options()).expect("a store");
    assert!(!opened.report.made);
}

#[test]
fn a_store_of_another_format_is_named() {
    let (_folder, path, mut store) = fresh();
    store.begin(1).expect("written");
    drop(store);
    let error = Store::open(&path, &options()).expect_err("another format");
    assert!(matches!(error, OpenError::Format { found: 1, known: 2, .. }), "{error:?}");
}

#[test]
fn what_was_taken_is_counted_as_it_comes_and_goes() {
    let (_folder, path, mut store) = fresh();
    // Each stands by itself, as when there are others between them.
    let batch: Vec<Change> = (1..=50).map(|number| put(1, WAITING, 2 * number, record("12345"))).collect();
    store.commit(&[named(1, "jobs")]).expect("kept");
    store.commit(&batch).expect("kept");
    let all = store.live_bytes();
    assert!(all > 50 * 80, "{all}");
    store.commit(&[put(1, WAITING, 2, record("12345")), remove(1, WAITING, 51)]).expect("kept");
    assert_eq!(store.live_bytes(), all, "in place of what was there");
    store.commit(&[remove(1, WAITING, 2)]).expect("kept");
    let range = Change::RemoveRange { queue: 1, shelf: WAITING, first: 4, last: 50 };
    store.commit(&[range]).expect("kept");
    assert_eq!(store.live_bytes(), all / 2);
    drop(store);
    let (mut store, _) = Store::open(&path, &options()).expect("a store");
    assert_eq!(store.live_bytes(), all / 2);
    store.commit(&[Change::Forget { queue: 1 }]).expect("kept");
    assert_eq!(store.live_bytes(), 0);
    assert!(!store.wants_compaction(), "a small file is let alone");
}

#[test]
fn a_file_that_has_grown_empty_gives_its_room_back() {
    let (_folder, path, mut store) = fresh();
    store.commit(&[named(1, "jobs")]).expect("kept");
    let large = Arc::new(Record { bytes: vec![7; 1 << 20].into(), ..record("") });
    for number in 1..=96 {
        let put = Change::Put { queue: 1, shelf: WAITING, number, record: large.clone() };
        store.commit(&[put]).expect("kept");
    }
    assert!(!store.wants_compaction(), "it is in use");
    store.commit(&[Change::RemoveRange { queue: 1, shelf: WAITING, first: 1, last: 95 }]).expect("kept");
    assert!(store.wants_compaction());
    let compacted = store.compact().expect("compacted");
    assert!(compacted.after_bytes < 16 << 20, "{compacted:?}");
    assert!(!store.wants_compaction());
    assert_eq!(std::fs::metadata(&path).expect("it is there").len(), store.size().expect("known").file_bytes);
    assert_eq!(
        store.load(1, WAITING, None, 9, usize::MAX).expect("readable").records,
        [(96, (*large).clone())]
    );
    store.commit(&[remove(1, WAITING, 96)]).expect("kept");
}
