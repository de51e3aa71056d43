//! The power goes at every step of a store's life: what was confirmed is there, and at most the batch that was being written
//! besides, whole or not at all.

use super::model::Model;
use super::*;
use crate::store::faults::{Dice, Platter};

/// The seed of this run: `TRAMLINE_SEED`, or another each time.
fn seed() -> u64 {
    let seed = match option_env!("TRAMLINE_SEED").and_then(|text| text.parse().ok()) {
        Some(seed) => seed,
        None => {
            let mut bytes = [0; 8];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).expect("chance");
            u64::from_le_bytes(bytes)
        }
    };
    eprintln!("TRAMLINE_SEED={seed}");
    seed
}

/// How many batches, unless `TRAMLINE_STORE_BATCHES` says so.
fn batches(usual: usize) -> usize {
    option_env!("TRAMLINE_STORE_BATCHES").and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A disk with batches on it, what it held after each, and after how many steps each was confirmed.
fn lived(platter: &Platter, dice: &mut Dice, count: usize, bytes_max: u64) -> Vec<(usize, Model)> {
    // A real file gets its name when it is a store.
    drop(platter.open(&options()).expect("a store"));
    platter.settle();
    let (mut store, opened) = platter.open(&options()).expect("a store");
    let mut model = Model::of(&store, &opened);
    let mut confirmed = vec![(0, model.clone())];
    for _ in 0..count {
        let batch = model.batch(dice, bytes_max);
        store.commit(&batch).expect("kept");
        model.apply(&batch);
        confirmed.push((platter.steps(), model.clone()));
    }
    drop(store);
    confirmed
}

/// What a disk must hold after a power cut behind this step.
fn check(platter: &Platter, steps: usize, confirmed: &[(usize, Model)]) -> (Store, Model) {
    let (store, opened) = platter.open(&options()).unwrap_or_else(|error| panic!("at step {steps}: {error}"));
    let found = Model::of(&store, &opened);
    let last = confirmed.iter().rposition(|(at, _)| *at <= steps).unwrap_or(0);
    let next = confirmed.get(last + 1).map(|(_, model)| model);
    if found != confirmed[last].1 && Some(&found) != next {
        panic!(
            "at step {steps}, {last} confirmed: found\n{found:?}\nnot\n{:?}\nnor\n{next:?}",
            confirmed[last].1
        );
    }
    (store, found)
}

#[test]
fn after_a_power_cut_at_any_step_what_was_confirmed_is_there_and_batches_are_whole() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let platter = Platter::new();
    let confirmed = lived(&platter, &mut dice, batches(14), 6000);
    let mut cuts = 0;
    platter.power_cut_everywhere(seed, |steps, after| {
        let (mut store, mut found) = check(&after, steps, &confirmed);
        // It goes on from there, and that lasts.
        let mut dice = Dice::new(seed ^ steps as u64);
        let batch = found.batch(&mut dice, 3000);
        store.commit(&batch).expect("kept");
        found.apply(&batch);
        drop(store);
        let (store, opened) = after.open(&options()).expect("it was closed");
        assert!(!opened.report.repaired);
        assert_eq!(Model::of(&store, &opened), found);
        cuts += 1;
    });
    eprintln!("{cuts} power cuts");
}

#[test]
fn a_power_cut_while_a_store_is_opened_after_a_power_cut_loses_nothing() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let platter = Platter::new();
    let confirmed = lived(&platter, &mut dice, batches(8), 6000);
    for round in 0..8 {
        let steps = usize::try_from(dice.below(platter.steps() as u64 + 1)).expect("small");
        let once = platter.power_cut(steps, &mut dice);
        let (store, found) = check(&once, steps, &confirmed);
        drop(store);
        let as_found = [(0, found)];
        once.power_cut_everywhere(seed ^ round, |again, twice| {
            check(&twice, again, &as_found);
        });
    }
}

#[test]
fn a_failed_fsync_ends_writing_and_what_was_kept_before_is_read_still() {
    let seed = seed();
    for failing in 0..24 {
        let mut dice = Dice::new(seed ^ failing << 32);
        let platter = Platter::new();
        let (mut store, opened) = platter.open(&options()).expect("a store");
        let mut model = Model::of(&store, &opened);
        platter.fail_syncs_after(Some(failing));
        let failure = loop {
            // Large enough that the file grows, so that its growth fails, too.
            let batch = model.batch(&mut dice, 200_000);
            match store.commit(&batch) {
                Ok(_) => model.apply(&batch),
                Err(failure) => break failure,
            }
        };
        assert!(!failure.full && failure.message.contains("fsync failed"), "{}", failure.message);
        assert_eq!(store.trouble(), Some(&failure));
        let calls = platter.calls();
        assert_eq!(store.commit(&[]), Err(failure), "although the disk would do it now");
        for ((queue, shelf, number), record) in &model.messages {
            let after = number.checked_sub(1);
            let loaded = store.load(*queue, *shelf, after, 1, usize::MAX).expect("readable");
            assert_eq!(loaded.records, [(*number, record.clone())]);
        }
        drop(store);
        assert_eq!(platter.calls(), calls, "nothing more was written");
        // What the kernel forgot is not on the disk, and what was confirmed is.
        let after = platter.power_cut(platter.steps(), &mut dice);
        let (store, opened) = after.open(&options()).expect("what was on disk is a store");
        assert_eq!(Model::of(&store, &opened), model);
    }
}

#[test]
fn a_write_that_fails_is_as_a_failed_fsync() {
    let seed = seed();
    for failing in [0, 1, 5, 20, 50] {
        let mut dice = Dice::new(seed ^ failing);
        let platter = Platter::new();
        let (mut store, opened) = platter.open(&options()).expect("a store");
        let mut model = Model::of(&store, &opened);
        platter.fail_writes_after(Some(failing));
        let failure = loop {
            let batch = model.batch(&mut dice, 6000);
            match store.commit(&batch) {
                Ok(_) => model.apply(&batch),
                Err(failure) => break failure,
            }
        };
        assert!(!failure.full && failure.message.contains("writing failed"), "{}", failure.message);
        platter.fail_writes_after(None);
        store.commit(&[]).expect_err("refused until it is opened again");
        drop(store);
        let (mut store, opened) = platter.open(&options()).expect("a store");
        assert_eq!(Model::of(&store, &opened), model);
        store.commit(&[]).expect("all is well again");
    }
}

#[test]
fn a_full_disk_is_told_and_the_store_goes_on_when_there_is_room() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let platter = Platter::new();
    let (mut store, opened) = platter.open(&options()).expect("a store");
    let mut model = Model::of(&store, &opened);
    for round in 0..12 {
        platter.set_capacity(Some(platter.taken_bytes() + 4096 * (1 + dice.below(40))));
        let failure = loop {
            let batch = model.batch(&mut dice, 60_000);
            match store.commit(&batch) {
                Ok(_) => model.apply(&batch),
                Err(failure) => break failure,
            }
        };
        assert!(failure.full && failure.message.contains("full"), "{round}: {}", failure.message);
        assert_eq!(store.trouble(), Some(&failure));
        for ((queue, shelf, number), record) in &model.messages {
            let loaded = store.load(*queue, *shelf, number.checked_sub(1), 1, usize::MAX).expect("readable");
            assert_eq!(loaded.records, [(*number, record.clone())]);
        }
        // A restart while it is full: what was kept is read, if the store can be opened at all.
        let restarted = Platter::of(platter.bytes());
        let (restarted, opened) = restarted.open(&options()).expect("a store");
        assert_eq!(Model::of(&restarted, &opened), model);
        platter.set_capacity(Some(platter.taken_bytes() + (64 << 20)));
        let batch = model.batch(&mut dice, 60_000);
        store.commit(&batch).expect("there is room");
        model.apply(&batch);
        assert_eq!(store.trouble(), None);
    }
    // And through all of that, nothing that a power cut would take back.
    drop(store);
    let after = platter.power_cut(platter.steps(), &mut dice);
    let (store, opened) = after.open(&options()).expect("a store");
    assert_eq!(Model::of(&store, &opened), model);
}

#[test]
fn a_power_cut_while_a_store_is_compacted_loses_nothing() {
    let seed = seed();
    let mut dice = Dice::new(seed);
    let platter = Platter::new();
    lived(&platter, &mut dice, batches(12), 30_000);
    let (mut store, opened) = platter.open(&options()).expect("a store");
    let found = Model::of(&store, &opened);
    platter.settle();
    let compacted = store.compact().expect("compacted");
    // Whether the file can become shorter depends on what lies at its end.
    assert!(compacted.after_bytes <= compacted.before_bytes && platter.steps() > 0, "{compacted:?}");
    drop(store);
    let as_found = [(0, found)];
    platter.power_cut_everywhere(seed, |steps, after| {
        check(&after, steps, &as_found);
    });
}
