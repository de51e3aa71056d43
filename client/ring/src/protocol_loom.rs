//! The algorithm of [`protocol`](super) under loom: every interleaving of two or three threads, with the memory orders as
//! written. Payload bytes that the protocol claims to be quiet are loom cells, so that any overlap of a read with a
//! write is an error; bytes that are copied and then confirmed are relaxed atomics, and must never be believed torn.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p tramline-ring --lib loom`

use super::*;
use crate::layout::{Counted, Cursor, End, PINS_PER_SLOT, STATE_CLOSED, STATE_SUCCEEDED, Sleep, Wait};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

fn word() -> AtomicU64 {
    AtomicU64::new(0)
}

fn descriptor() -> Descriptor {
    Descriptor { stamp: word(), words: std::array::from_fn(|_| word()) }
}

fn slot() -> Slot {
    Slot {
        cursor: Cursor { position: word(), seq: word() },
        pins: std::array::from_fn(|_| word()),
        sleep: Sleep { epoch: word(), lost: word(), pins_used: word() },
    }
}

fn header() -> Header {
    Header {
        magic: word(),
        version: word(),
        stream: word(),
        generation: word(),
        descriptors: word(),
        arena_bytes: word(),
        first_position: word(),
        first_seq: word(),
        counters: Counted {
            head: word(),
            oldest: word(),
            bytes: word(),
            skipped: word(),
            waits: word(),
            messages: word(),
            kept: word(),
        },
        wait: Wait { epoch: word(), wanted: word() },
        end: End { state: word(), position: word(), next_seq: word(), successor: word() },
    }
}

fn fields(seq: u64) -> Fields {
    Fields::placed(0, 0, 0).of(seq, 0, 0, 0)
}

/// Bytes that must be quiet whenever they are looked at.
struct Quiet(UnsafeCell<u64>);

// SAFETY: loom itself checks every access for overlap; that is what the tests are for.
unsafe impl Sync for Quiet {}
// SAFETY: as above.
unsafe impl Send for Quiet {}

impl Quiet {
    fn read(&self) -> u64 {
        // SAFETY: loom reports an access that overlaps with a write.
        self.0.with(|value| unsafe { *value })
    }

    fn write(&self, to: u64) {
        // SAFETY: loom reports an access that overlaps with any other.
        self.0.with_mut(|value| unsafe { *value = to });
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(check);
}

/// The other side: a thread that shares what the test has.
fn beside<S: Send + Sync + 'static, T: 'static>(
    shared: &Arc<S>,
    act: impl FnOnce(&S) -> T + 'static,
) -> thread::JoinHandle<T> {
    let shared = Arc::clone(shared);
    thread::spawn(move || act(&shared))
}

#[test]
fn a_copy_is_whole_or_not_believed() {
    model(|| {
        let shared = Arc::new((descriptor(), word(), word()));
        let written = beside(&shared, |(descriptor, low, high)| {
            for position in 0..2_u64 {
                if position > 0 {
                    retire(descriptor, position - 1);
                    fence_reuse();
                }
                note(low, position + 10);
                note(high, position + 10);
                publish(descriptor, position, &fields(position + 1));
            }
        });
        let (descriptor, low, high) = &*shared;
        for position in 0..2 {
            if let Look::There(seen) = look(descriptor, position) {
                let copy = (peek(low), peek(high));
                if still(descriptor, position) {
                    assert_eq!((seen.seq(), copy), (position + 1, (position + 10, position + 10)));
                }
            }
        }
        written.join().unwrap();
    });
}

#[test]
fn pinned_bytes_are_left_alone_and_released_ones_are_not_read_any_more() {
    model(|| {
        let shared = Arc::new((descriptor(), slot(), Quiet(UnsafeCell::new(0))));
        shared.2.write(10);
        publish(&shared.0, 0, &fields(1));
        let written = beside(&shared, |(descriptor, slot, bytes)| {
            retire(descriptor, 0);
            fence_reuse();
            let held = pinned(slot, 0);
            if !held {
                bytes.write(20);
            }
            // The descriptor is used again although the bytes may be held.
            publish(descriptor, 1, &fields(2));
            if held && !pinned(slot, 0) {
                bytes.write(30);
            }
        });
        let (descriptor, slot, bytes) = &*shared;
        if let Some(seen) = pin(slot, 1, descriptor, 0) {
            assert_eq!(seen.seq(), 1);
            assert_eq!(bytes.read(), 10);
            unpin(slot, 1);
        }
        written.join().unwrap();
    });
}

#[test]
fn several_messages_are_held_at_once() {
    model(|| {
        let shared = Arc::new((
            [descriptor(), descriptor()],
            slot(),
            [Quiet(UnsafeCell::new(0)), Quiet(UnsafeCell::new(1))],
        ));
        publish(&shared.0[0], 0, &fields(1));
        publish(&shared.0[1], 1, &fields(2));
        let written = beside(&shared, |(descriptors, slot, bytes)| {
            for position in 0..2_u64 {
                retire(&descriptors[usize::try_from(position).unwrap()], position);
            }
            fence_reuse();
            for position in 0..2_u64 {
                if !pinned(slot, position) {
                    bytes[usize::try_from(position).unwrap()].write(99);
                }
            }
        });
        let (descriptors, slot, bytes) = &*shared;
        let first = pin(slot, 0, &descriptors[0], 0);
        let second = pin(slot, PINS_PER_SLOT - 1, &descriptors[1], 1);
        if second.is_some() {
            assert_eq!(bytes[1].read(), 1);
        }
        if first.is_some() {
            assert_eq!(bytes[0].read(), 0);
        }
        written.join().unwrap();
    });
}

#[test]
fn what_a_cursor_has_passed_has_been_read() {
    model(|| {
        let shared = Arc::new((descriptor(), slot(), Quiet(UnsafeCell::new(0))));
        shared.2.write(10);
        publish(&shared.0, 0, &fields(1));
        let read = beside(&shared, |(descriptor, slot, bytes)| {
            if let Look::There(_) = look(descriptor, 0) {
                assert_eq!(bytes.read(), 10);
                move_cursor(slot, 1);
            }
        });
        let (descriptor, slot, bytes) = &*shared;
        if cursor(slot) >= 1 {
            retire(descriptor, 0);
            fence_reuse();
            bytes.write(20);
            publish(descriptor, 1, &fields(2));
        }
        read.join().unwrap();
    });
}

#[test]
fn a_pin_taken_over_from_the_cursor_still_holds() {
    model(|| {
        let shared = Arc::new((descriptor(), slot(), Quiet(UnsafeCell::new(0))));
        shared.2.write(10);
        publish(&shared.0, 0, &fields(1));
        let read = beside(&shared, |(descriptor, slot, bytes)| {
            // The writer waits for the cursor, so the message is there.
            assert!(pin(slot, 0, descriptor, 0).is_some());
            move_cursor(slot, 1);
            assert_eq!(bytes.read(), 10);
            unpin(slot, 0);
        });
        let (descriptor, slot, bytes) = &*shared;
        if cursor(slot) >= 1 {
            retire(descriptor, 0);
            fence_reuse();
            if !pinned(slot, 0) {
                bytes.write(20);
            }
        }
        read.join().unwrap();
    });
}

#[test]
fn no_message_is_slept_over() {
    model(|| {
        let shared = Arc::new((descriptor(), slot()));
        let written = beside(&shared, |(descriptor, slot)| {
            publish(descriptor, 0, &fields(1));
            fence_wake();
            sleeps(slot).is_some()
        });
        let (descriptor, slot) = &*shared;
        fall_asleep(slot, 1);
        let parked = !stirs(descriptor, 0);
        let rung = written.join().unwrap();
        assert!(rung || !parked, "the reader parked and nobody rang");
    });
}

#[test]
fn a_second_sleep_is_rung_again() {
    model(|| {
        let shared = Arc::new(([descriptor(), descriptor()], slot()));
        let written = beside(&shared, |(descriptors, slot)| {
            let mut rung = 0;
            let mut last = 0;
            for position in 0..2_u64 {
                publish(&descriptors[usize::try_from(position).unwrap()], position, &fields(position + 1));
                fence_wake();
                if let Some(epoch) = sleeps(slot)
                    && epoch != last
                {
                    last = epoch;
                    rung += 1;
                }
            }
            (rung, last)
        });
        let (descriptors, slot) = &*shared;
        fall_asleep(slot, 1);
        let mut last_parked = 0;
        if stirs(&descriptors[0], 0) {
            wake_up(slot, 2);
            fall_asleep(slot, 3);
            if !stirs(&descriptors[1], 1) {
                last_parked = 3;
            }
        } else {
            last_parked = 1;
        }
        let (rung, last) = written.join().unwrap();
        assert!(
            last_parked == 0 || last == last_parked,
            "parked in epoch {last_parked}, rung last in {last}"
        );
        assert!(rung <= 2);
    });
}

#[test]
fn no_room_is_waited_for_that_is_there() {
    model(|| {
        let shared = Arc::new((header(), slot()));
        let read = beside(&shared, |(header, slot)| {
            move_cursor(slot, 1);
            writer_waits(header).is_some_and(|(_, wanted)| 1 >= wanted)
        });
        let (header, slot) = &*shared;
        await_room(header, 1, 1);
        let parked = cursor(slot) < 1;
        let rung = read.join().unwrap();
        assert!(rung || !parked, "the writer parked and nobody rang");
    });
}

#[test]
fn a_dropped_sample_is_not_waited_for() {
    model(|| {
        let shared = Arc::new((header(), slot(), descriptor()));
        publish(&shared.2, 0, &fields(1));
        assert!(pin(&shared.1, 0, &shared.2, 0).is_some());
        let read = beside(&shared, |(header, slot, _)| {
            unpin(slot, 0);
            writer_waits(header).is_some()
        });
        let (header, slot, _) = &*shared;
        await_room(header, 1, 1);
        let parked = pinned(slot, 0);
        let rung = read.join().unwrap();
        assert!(rung || !parked, "the writer parked and nobody rang");
    });
}

#[test]
fn every_message_is_seen_before_the_end() {
    model(|| {
        let shared = Arc::new((header(), descriptor()));
        let written = beside(&shared, |(header, descriptor)| {
            publish(descriptor, 0, &fields(1));
            finish(header, STATE_CLOSED, 1, 2);
        });
        let (header, descriptor) = &*shared;
        if let Some(end) = ended(header) {
            assert_eq!((end.position, end.next_seq), (1, 2));
            assert!(stirs(descriptor, 0), "the end was seen before the last message");
        }
        written.join().unwrap();
    });
}

#[test]
fn the_end_of_a_generation_shows_all_of_it_and_where_the_next_begins() {
    model(|| {
        let shared = Arc::new((header(), descriptor(), header(), descriptor()));
        let written = beside(&shared, |(old, last, new, first)| {
            publish(last, 0, &fields(1));
            note(&new.first_position, 1);
            note(&old.end.successor, 7);
            finish(old, STATE_SUCCEEDED, 1, 2);
            publish(first, 1, &fields(2));
        });
        let (old, last, new, first) = &*shared;
        if let Some(end) = ended(old) {
            assert_eq!((end.state, end.position, end.next_seq), (STATE_SUCCEEDED, 1, 2));
            assert!(stirs(last, 0), "the end was seen before the last message");
            assert_eq!((peek(&old.end.successor), peek(&new.first_position)), (7, 1));
            if let Look::There(fields) = look(first, 1) {
                assert_eq!(fields.seq(), 2);
            }
        }
        written.join().unwrap();
    });
}

#[test]
fn no_end_of_a_generation_is_slept_over() {
    model(|| {
        let shared = Arc::new((header(), slot()));
        let written = beside(&shared, |(header, slot)| {
            finish(header, STATE_SUCCEEDED, 0, 1);
            fence_wake();
            sleeps(slot).is_some()
        });
        let (header, slot) = &*shared;
        fall_asleep(slot, 1);
        let parked = ended(header).is_none();
        let rung = written.join().unwrap();
        assert!(rung || !parked, "the reader parked and nobody rang");
    });
}

#[test]
fn a_writer_that_grew_is_rung_whichever_generation_the_reader_is_in() {
    model(|| {
        let shared = Arc::new((header(), header(), slot()));
        let read = beside(&shared, |(old, new, slot)| {
            let header = if ended(old).is_some() { new } else { old };
            move_cursor(slot, 1);
            writer_waits(header).is_some_and(|(_, wanted)| 1 >= wanted)
        });
        let (old, new, slot) = &*shared;
        finish(old, STATE_SUCCEEDED, 0, 1);
        await_room(old, 1, 1);
        await_room(new, 1, 1);
        let parked = cursor(slot) < 1;
        let rung = read.join().unwrap();
        assert!(rung || !parked, "the writer parked and nobody rang");
    });
}

#[test]
fn an_evicted_reader_reads_whole_or_moves_on_and_gated_again_loses_nothing() {
    model(|| {
        let shared = Arc::new((descriptor(), slot(), Quiet(UnsafeCell::new(0))));
        shared.2.write(10);
        publish(&shared.0, 0, &fields(1));
        let written = beside(&shared, |(descriptor, slot, bytes)| {
            // Its budget is spent: its cursor is not asked, its pins are.
            retire(descriptor, 0);
            fence_reuse();
            if pinned(slot, 0) {
                return;
            }
            bytes.write(20);
            publish(descriptor, 1, &fields(2));
            // Gated again, from where it is: what it has not passed stays.
            if cursor(slot) >= 2 {
                retire(descriptor, 1);
                fence_reuse();
                if !pinned(slot, 1) {
                    bytes.write(30);
                }
            }
        });
        let (descriptor, slot, bytes) = &*shared;
        let mut position = 0;
        if let Some(seen) = pin(slot, 0, descriptor, 0) {
            assert_eq!((seen.seq(), bytes.read()), (1, 10));
            move_cursor(slot, 1);
            unpin(slot, 0);
            position = 1;
        } else if look(descriptor, 0) == Look::Overtaken {
            position = 1;
        }
        if position == 1
            && let Some(seen) = pin(slot, 1, descriptor, 1)
        {
            move_cursor(slot, 2);
            assert_eq!((seen.seq(), bytes.read()), (2, 20));
            unpin(slot, 1);
        }
        written.join().unwrap();
    });
}
