//! Files of durable queues that are no longer as they were written: bits flipped, tails cut, pages torn out. Whatever was
//! done to them, opening says so or gives out what was kept and nothing else, checking changes nothing and panics never, and
//! what can be saved is saved.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{Watchdog, tramline};
use tempfile::TempDir;
use tramline::core::durable::{Change, Record, Sender, Shelf};
use tramline::store::{Found, OpenError, Store, StoreOptions, check};

const SHELF: Shelf = Shelf::Waiting(4);

fn record(number: u64, length: usize) -> Record {
    let mut bytes = number.to_string().into_bytes();
    bytes.resize(length.max(bytes.len()), b'.');
    Record {
        bytes: bytes.into(),
        priority: 4,
        attempts: 0,
        since_millis: 1,
        due_millis: 0,
        expires_millis: 0,
        from: Sender { name: "test".into(), uid: 1, pid: 2 },
        topic: "".into(),
        dead: None,
    }
}

/// A store with two queues, of which one has small messages and the other also large ones, as it is when it was closed, and as
/// it is when its process is killed. What is in it, by queue and number.
struct Sample {
    _home: TempDir,
    folder: PathBuf,
    closed: Vec<u8>,
    killed: Vec<u8>,
    kept: BTreeMap<(u32, u64), Record>,
}

fn sample() -> Sample {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("queues.redb");
    let (mut store, _) = Store::open(&path, &StoreOptions::default()).unwrap();
    let mut kept = BTreeMap::new();
    let name = |queue, name: &str| Change::Queue { queue, name: name.into(), settings: Arc::from([]) };
    store.commit(&[name(1, "small"), name(2, "mixed")]).unwrap();
    for group in 0..20 {
        let mut batch = Vec::new();
        for number in group * 50..group * 50 + 50 {
            for (queue, length) in [(1, 60), (2, if number % 97 == 0 { 50_000 } else { 700 })] {
                let record = record(number, length);
                kept.insert((queue, number), record.clone());
                batch.push(Change::Put { queue, shelf: SHELF, number, record: Arc::new(record) });
            }
        }
        store.commit(&batch).unwrap();
    }
    // Some are done, so that pages are free and old copies lie about.
    let done: Vec<Change> =
        (0..300).map(|number| Change::Remove { queue: 1, shelf: SHELF, number }).collect();
    store.commit(&done).unwrap();
    kept.retain(|(queue, number), _| *queue != 1 || *number >= 300);
    let killed = std::fs::read(&path).unwrap();
    drop(store);
    let closed = std::fs::read(&path).unwrap();
    Sample { folder: home.path().to_owned(), _home: home, closed, killed, kept }
}

impl Sample {
    /// A file with these bytes.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// What a store gives out, each of which must be what was kept.
    fn given(&self, store: &Store) -> usize {
        let mut given = 0;
        for queue in [1, 2] {
            let Ok(loaded) = store.load(queue, SHELF, None, usize::MAX, usize::MAX) else { continue };
            for (number, record) in loaded.records {
                assert_eq!(self.kept.get(&(queue, number)), Some(&record), "{queue} {number}");
                given += 1;
            }
        }
        given
    }
}

/// A number from a seed, below `end`.
fn next(seed: &mut u64, end: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*seed >> 33).unwrap() % end
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    let seed = std::env::var("TRAMLINE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(u64::from_le_bytes(bytes));
    eprintln!("TRAMLINE_SEED={seed}");
    seed
}

/// Panics inside are part of the plan.
fn quietly() {
    std::panic::set_hook(Box::new(|info| {
        let ours = info.location().is_none_or(|place| !place.file().contains("redb"));
        if ours {
            eprintln!("{info}");
        }
    }));
}

#[test]
fn whatever_was_done_to_a_file_nothing_is_given_out_that_was_not_kept_and_what_is_good_is_saved() {
    let _watchdog = Watchdog::start();
    quietly();
    let sample = sample();
    let mut seed = seed();
    let (mut opened, mut searched, mut broken) = (0, 0, 0);
    let rounds = std::env::var("TRAMLINE_STORE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    for round in 0..rounds {
        let mut bytes = if round % 2 == 0 { sample.closed.clone() } else { sample.killed.clone() };
        match round % 5 {
            0 => bytes.truncate(next(&mut seed, bytes.len())),
            1 => {
                let at = next(&mut seed, bytes.len() - 4096);
                let bytes = &mut bytes[at..at + 4096];
                bytes.fill(if round % 3 == 0 { 0 } else { 0xff });
            }
            2 => {
                let at = next(&mut seed, 4096);
                bytes[at] ^= 1 << (round % 8);
            }
            _ => {
                for _ in 0..=next(&mut seed, 8) {
                    let at = next(&mut seed, bytes.len());
                    bytes[at] ^= 1 << next(&mut seed, 8);
                }
            }
        }
        let path = sample.file("broken.redb", &bytes);
        let saved = sample.folder.join("saved.redb");
        let _ = std::fs::remove_file(&saved);
        let checked = check(&path, Some(&saved)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "checking changes nothing");
        searched += usize::from(checked.found == Found::Search);
        broken += usize::from(!checked.is_whole());
        // What was saved is a store in which everything is good.
        let (store, report) = Store::open(&saved, &StoreOptions::default()).unwrap();
        assert_eq!(report.report.damages, 0);
        if checked.found != Found::Search {
            let given = sample.given(&store);
            if checked.is_whole() {
                assert_eq!(given, sample.kept.len());
            }
        }
        drop(store);
        // A broker would open it, or say that it cannot.
        match Store::open(&path, &StoreOptions::default()) {
            Ok((store, found)) => {
                let given = sample.given(&store);
                opened += 1;
                if found.report.damages == 0 && checked.is_whole() {
                    assert_eq!(given, sample.kept.len());
                }
            }
            Err(error @ OpenError::Damaged { .. }) => {
                assert!(error.to_string().contains("tramline store check"), "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    eprintln!("{broken} of {rounds} broken, {opened} could be opened, {searched} had to be searched");
    assert!(broken > 0);
}

#[test]
fn a_flipped_bit_in_a_message_costs_that_message_and_is_named() {
    let _watchdog = Watchdog::start();
    let sample = sample();
    let mut bytes = sample.closed.clone();
    // The only place of message 970 of queue 2 with its 50,000 bytes; its copies, if any, are flipped as well.
    let needle = &sample.kept[&(2, 970)].bytes[..2000];
    let places: Vec<usize> = bytes
        .windows(needle.len())
        .enumerate()
        .filter(|(_, part)| *part == needle)
        .map(|(at, _)| at)
        .collect();
    for at in &places {
        bytes[at + 1000] ^= 4;
    }
    let path = sample.file("flipped.redb", &bytes);
    let output = run(&["store", "check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("message 970 of priority 4 in queue 2: its checksum is wrong"), "{page}");
    let (store, opened) = Store::open(&path, &StoreOptions::default()).unwrap();
    assert_eq!(opened.report.damages, 1);
    assert!(opened.report.to_string().contains("tramline store check"), "{}", opened.report);
    assert_eq!(sample.given(&store), sample.kept.len() - 1);
    let loaded = store.load(2, SHELF, Some(969), 1, usize::MAX).unwrap();
    assert_eq!(loaded.records[0].0, 971, "the next one is given instead");
    assert_eq!(loaded.damaged.len(), 1);
    assert!(loaded.damaged[0].to_string().contains("970"), "{}", loaded.damaged[0]);
}

fn run(words: &[&str]) -> std::process::Output {
    tramline().args(words).output().unwrap()
}

#[test]
fn check_tells_people_and_programs_what_there_is_and_saves_it() {
    let _watchdog = Watchdog::start();
    let sample = sample();
    let path = sample.file("whole.redb", &sample.killed);
    let text = path.to_str().unwrap();
    let output = run(&["store", "check", text]);
    assert!(output.status.success(), "{output:?}");
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("every page is as it was written") && page.contains("mixed"), "{page}");
    let output = run(&["store", "check", text, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["whole"], &json["found"], &json["damages"]),
        (&true.into(), &"trees".into(), &0.into())
    );
    assert_eq!(json["queues"][0]["waiting"], 700);
    assert_eq!(json["queues"][1]["waiting"], 1000);
    assert_eq!(std::fs::read(&path).unwrap(), sample.killed, "checking changes nothing");
    // Torn, so that no tree can be trusted: the messages are found by themselves.
    let mut torn = sample.killed.clone();
    torn[..4096].fill(0);
    let torn = sample.file("torn.redb", &torn);
    let saved = sample.folder.join("saved.redb");
    let words = ["store", "check", torn.to_str().unwrap(), "--salvage", saved.to_str().unwrap()];
    let output = run(&words);
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("searched for messages") && page.contains("saved "), "{page}");
    let (store, opened) = Store::open(&saved, &StoreOptions::default()).unwrap();
    assert_eq!(opened.queues.iter().map(|queue| &*queue.name).collect::<Vec<_>>(), ["small", "mixed"]);
    for ((queue, number), record) in &sample.kept {
        let loaded = store.load(*queue, SHELF, number.checked_sub(1), 1, usize::MAX).unwrap();
        assert_eq!(loaded.records, [(*number, record.clone())]);
    }
    // Nothing is written over, and who has it open is named.
    let output = run(&words);
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let pid = std::process::id().to_string();
    assert!(String::from_utf8_lossy(&output.stderr).contains(&pid), "{output:?}");
    drop(store);
    assert_eq!(run(&words).status.code(), Some(73));
    assert_eq!(run(&["store", "check", "/nowhere/queues.redb"]).status.code(), Some(66));
}

#[test]
fn a_file_that_was_cut_to_nothing_is_not_taken_for_a_new_one_by_check() {
    let home = tempfile::tempdir().unwrap();
    let path: &Path = &home.path().join("queues.redb");
    std::fs::write(path, b"").unwrap();
    let checked = check(path, None).unwrap();
    assert!(!checked.is_whole());
    assert!(checked.broken.unwrap().contains("empty"));
}

#[test]
fn an_empty_file_is_not_taken_for_a_new_store() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = folder.path().join("queues.store");
    drop(std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap());
    let opened = Store::open(&path, &StoreOptions::default());
    let said = opened.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(said.contains("it has 0 bytes, and no store ever has"), "{said}");
    assert_eq!(path.metadata().unwrap().len(), 0, "it is as it was");
}
