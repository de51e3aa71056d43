//! What the store of durable queues costs beside a plain file: `cargo bench --bench store`, with a folder of the disk to be
//! measured in `TRAMLINE_BENCH_DIR`.
//!
//! Messages of 1 KiB in groups as producers that push at the same time make them: written one by one with an fsync each,
//! appended to a file group by group with an fsync each, and kept by the store group by group. The three take turns, so that
//! what the disk does at the time meets all of them. Then a store with a million small messages is opened, as it was closed
//! and as a crash leaves it, and one that has grown empty is compacted. Not a test: it asserts that what was kept is there, and no time.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tramline::core::durable::{Change, Record, Sender, Shelf};
use tramline::store::{Store, StoreOptions};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const BYTES: usize = 1024;
const SHELF: Shelf = Shelf::Waiting(4);

fn record(bytes: usize) -> Record {
    Record {
        bytes: vec![0x5a; bytes].into(),
        priority: 4,
        attempts: 0,
        since_millis: 1_700_000_000_000,
        due_millis: 0,
        expires_millis: 0,
        from: Sender { name: "producer".into(), uid: 1000, pid: 12345 },
        topic: "".into(),
        dead: None,
    }
}

fn main() -> Outcome<()> {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let home = match std::env::var_os("TRAMLINE_BENCH_DIR") {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    println!("group  fsync each  plain groups    store  of plain  of each  bytes  in fsync  with removal");
    let groups: &[usize] = if measured { &[64, 256, 1024, 4096] } else { &[4] };
    let turn = if measured { Duration::from_millis(400) } else { Duration::from_millis(1) };
    for group in groups {
        compare(home.path(), *group, turn, if measured { 6 } else { 1 })?;
    }
    opening(home.path(), if measured { 1_000_000 } else { 1000 })?;
    compacting(home.path(), if measured { 200_000 } else { 1000 })
}

/// Repeats `step` for a while. Gives messages per second.
fn rate(turn: Duration, messages: usize, mut step: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let begun = Instant::now();
    let mut done = 0;
    while begun.elapsed() < turn {
        step()?;
        done += messages;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(home: &Path, group: usize, turn: Duration, turns: usize) -> Outcome<()> {
    let mut each = std::fs::File::create(home.join("each"))?;
    let mut plain = std::fs::File::create(home.join("plain"))?;
    let kept = home.join("kept.redb");
    let removing = home.join("removing.redb");
    let (mut store, _) = Store::open(&kept, &StoreOptions::default())?;
    let (mut acked, _) = Store::open(&removing, &StoreOptions::default())?;
    for store in [&mut store, &mut acked] {
        store.commit(&[queue()]).map_err(|failure| failure.message)?;
    }
    let message = Arc::new(record(BYTES));
    let bytes = vec![0x5a; BYTES * group];
    let [mut of_each, mut of_plain, mut of_store, mut of_acked] = [const { Vec::new() }; 4];
    let (mut number, mut acked_number, mut written, mut messages) = (0, 0, 0, 0);
    let mut syncing = Duration::ZERO;
    for _ in 0..turns {
        of_each.push(rate(turn, 1, || {
            each.write_all(&bytes[..BYTES])?;
            Ok(each.sync_data()?)
        })?);
        of_plain.push(rate(turn, group, || {
            plain.write_all(&bytes)?;
            Ok(plain.sync_data()?)
        })?);
        of_store.push(rate(turn, group, || {
            let batch = puts(&message, group, &mut number);
            let committed = store.commit(&batch).map_err(|failure| failure.message)?;
            written += committed.written_bytes;
            syncing += committed.fsync;
            messages += group;
            Ok(())
        })?);
        // As with a consumer that keeps up: what the last group brought goes with this one.
        of_acked.push(rate(turn, group, || {
            let before = acked_number;
            let mut batch = puts(&message, group, &mut acked_number);
            batch.extend((before.saturating_sub(group as u64)..before).map(|number| Change::Remove {
                queue: 1,
                shelf: SHELF,
                number: number + 1,
            }));
            acked.commit(&batch).map_err(|failure| failure.message)?;
            Ok(())
        })?);
    }
    let [each, plain, kept_rate, acked_rate] =
        [median(&mut of_each), median(&mut of_plain), median(&mut of_store), median(&mut of_acked)];
    println!(
        "{group:>5} {each:>9.0}/s {plain:>11.0}/s {kept_rate:>6.0}/s {:>9.2} {:>8.1} {:>6.2} {:>8.0}% {acked_rate:>11.0}/s",
        kept_rate / plain,
        kept_rate / each,
        written as f64 / (messages * BYTES) as f64,
        100.0 * syncing.as_secs_f64() / (turn.as_secs_f64() * turns as f64),
    );
    drop((store, acked));
    let (_, opened) = Store::open(&kept, &StoreOptions::default())?;
    assert_eq!(opened.report.messages, number, "what was kept is there");
    for path in [kept, removing] {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn queue() -> Change {
    Change::Queue { queue: 1, name: "queue".into(), settings: Arc::from([]) }
}

fn puts(message: &Arc<Record>, group: usize, number: &mut u64) -> Vec<Change> {
    let next = |_| {
        *number += 1;
        Change::Put { queue: 1, shelf: SHELF, number: *number, record: message.clone() }
    };
    (0..group).map(next).collect()
}

fn opening(home: &Path, messages: usize) -> Outcome<()> {
    let closed = home.join("closed.redb");
    let crashed = home.join("crashed.redb");
    let (mut store, _) = Store::open(&closed, &StoreOptions::default())?;
    let message = Arc::new(record(64));
    let mut number = 0;
    store.commit(&[queue()]).map_err(|failure| failure.message)?;
    let begun = Instant::now();
    while number < messages as u64 {
        store.commit(&puts(&message, 1000, &mut number)).map_err(|failure| failure.message)?;
    }
    println!("{number} messages of 64 bytes kept in {:.2?}", begun.elapsed());
    // What is in the file while it is open is what a killed broker leaves.
    std::fs::copy(&closed, &crashed)?;
    std::fs::set_permissions(&crashed, PermissionsExt::from_mode(0o600))?;
    drop(store);
    for path in [closed, crashed] {
        let (store, opened) = Store::open(&path, &StoreOptions::default())?;
        assert_eq!(opened.report.messages, number);
        println!(
            "opened: {}; {} MiB",
            opened.report,
            store.size().map_err(|failure| failure.message)?.disk_bytes >> 20
        );
    }
    Ok(())
}

/// Of many messages one in a hundred is left.
fn compacting(home: &Path, messages: u64) -> Outcome<()> {
    let (mut store, _) = Store::open(&home.join("compacted.redb"), &StoreOptions::default())?;
    let message = Arc::new(record(BYTES));
    let mut number = 0;
    while number < messages {
        store.commit(&puts(&message, 1000, &mut number)).map_err(|failure| failure.message)?;
    }
    let ranges: Vec<Change> = (1..=messages)
        .step_by(100)
        .map(|first| Change::RemoveRange { queue: 1, shelf: SHELF, first, last: first + 98 })
        .collect();
    for batch in ranges.chunks(100) {
        store.commit(batch).map_err(|failure| failure.message)?;
    }
    println!("wants to be compacted: {}", store.wants_compaction());
    let compacted = store.compact().map_err(|failure| failure.message)?;
    let [before, after] = [compacted.before_bytes, compacted.after_bytes].map(|bytes| bytes >> 20);
    println!("compacted in {:.2?}: {before} MiB to {after} MiB", compacted.took);
    Ok(())
}
