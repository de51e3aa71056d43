//! A real file system that fills up under a store: it says so, keeps what it had, and goes on when there is room.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use support::{Watchdog, is_root};
use tramline::core::durable::{Change, Record, Sender, Shelf};
use tramline::store::{Store, StoreOptions};

const SHELF: Shelf = Shelf::Waiting(4);

/// A file system of this size, gone at the end.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(at: &'a Path, size: &str) -> Self {
        let options = format!("size={size},mode=700");
        let made =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tramline-test"]).arg(at).status();
        assert!(made.unwrap().success(), "cannot mount a tmpfs");
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn put(number: u64) -> Change {
    let record = Record {
        bytes: vec![u8::try_from(number % 251).unwrap(); 20_000].into(),
        priority: 4,
        attempts: 0,
        since_millis: 1,
        due_millis: 0,
        expires_millis: 0,
        from: Sender { name: "test".into(), uid: 1, pid: 2 },
        topic: "".into(),
        dead: None,
    };
    Change::Put { queue: 1, shelf: SHELF, number, record: Arc::new(record) }
}

#[test]
fn a_full_disk_costs_nothing_that_was_confirmed_and_writing_goes_on_when_there_is_room() {
    if !is_root("a file system that is full") {
        return;
    }
    let _watchdog = Watchdog::start();
    let home = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(home.path(), "12m");
    let path = home.path().join("queues.redb");
    let ballast = home.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let (mut store, _) = Store::open(&path, &StoreOptions::default()).unwrap();
    store.commit(&[Change::Queue { queue: 1, name: "jobs".into(), settings: Arc::from([]) }]).unwrap();
    let mut kept = 0;
    let mut fill = |store: &mut Store| loop {
        match store.commit(&[put(kept + 1)]) {
            Ok(_) => kept += 1,
            Err(failure) => break (kept, failure),
        }
        assert!(kept < 1000, "it never fills up");
    };
    let (first, failure) = fill(&mut store);
    assert!(
        failure.full && failure.message.contains("full") && failure.message.contains("queues.redb"),
        "{failure:?}"
    );
    assert_eq!(store.load(1, SHELF, None, 10_000, usize::MAX).unwrap().records.len() as u64, first);
    assert!(store.commit(&[put(first + 1)]).unwrap_err().full, "still");
    std::fs::remove_file(&ballast).unwrap();
    let (second, failure) = fill(&mut store);
    assert!(second > first && failure.full, "{second} after {first}");
    // A restart on the full disk reads everything.
    drop(store);
    let (store, opened) = Store::open(&path, &StoreOptions::default()).unwrap();
    assert_eq!(opened.report.messages, second);
    for (number, record) in store.load(1, SHELF, None, 10_000, usize::MAX).unwrap().records {
        assert_eq!(record.bytes[0], u8::try_from(number % 251).unwrap());
    }
    drop(store);
    drop(mounted);
}
