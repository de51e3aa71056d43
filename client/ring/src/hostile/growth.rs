//! Scribbling over rings that grow: over both generations of a stream that is going over, and by a reader while the
//! writer leaves one after the other.

use super::{Seen, Victim, duration, keep_on, pair, restore, watchdog};
use crate::protocol::note;
use crate::scribble::{Random, RingScribbler};
use crate::view::Ring;
use crate::{Generation, Meta, ReadMode, Reader, RingSpec, Successor, Writer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Former generations that a writer keeps here before it stops growing for a while, as the broker would make it.
const FORMERS_MAX: usize = 8;

/// Rounds of a writer that grows, for one that does it now and then.
const ROUNDS: u64 = 64;

/// Makes the generation after the writer's: another size each time, the same geometry otherwise.
fn next_of(writer: &Writer) -> (Generation, Successor) {
    let generation = writer.spec().generation + 1;
    let spec =
        RingSpec { generation, arena_bytes: (64 + u64::from(generation % 3) * 64) * 1024, ..*writer.spec() };
    let next = Generation::create(&spec, 8).unwrap();
    let memory = rustix::io::fcntl_dupfd_cloexec(next.memory(), 0).unwrap();
    (next, Successor::open(memory, &spec.identity()).unwrap())
}

/// A writer that grows again and again, and an honest reader that is given the memory before or after it needs it.
#[derive(Debug, Default)]
pub(super) struct Growing {
    grown: u64,
    held_back: u64,
    /// Memory that the honest reader does not have yet.
    late: Option<Successor>,
}

impl Growing {
    pub(super) fn turn(&mut self, writer: &mut Writer, honest: &mut Reader, rng: &mut Random) {
        self.end(honest);
        if rng.below(ROUNDS) > 0 {
            return;
        }
        writer.leave_formers();
        if writer.former_generations() >= FORMERS_MAX {
            self.held_back += 1;
            return;
        }
        let (next, successor) = next_of(writer);
        if rng.below(2) == 0 {
            honest.offer(successor).unwrap();
        } else {
            self.late = Some(successor);
        }
        writer.succeed(next).unwrap();
        self.grown += 1;
    }

    /// Gives what is late.
    pub(super) fn end(&mut self, honest: &mut Reader) {
        if let Some(late) = self.late.take() {
            honest.offer(late).unwrap();
        }
    }

    pub(super) fn grew(&self) -> bool {
        self.grown > 0
    }
}

#[test]
fn a_reader_that_follows_a_growing_ring_survives_a_writer_that_scribbles() {
    let _watchdog = watchdog();
    let mut pair = pair();
    let mut rng = Random::seeded();
    let mut id = 1;
    let mut reader = pair.attach(id, ReadMode::Lossy, true);
    let stop = Arc::new(AtomicBool::new(false));
    // Those of the last generations, the current one with them. Nothing is scribbled while this is locked here.
    let scribblers = Arc::new(Mutex::new(vec![RingScribbler::new(&pair.writer)]));
    let scribbling = {
        let (scribblers, mut nonsense) = (Arc::clone(&scribblers), Random::new(rng.word()));
        keep_on(&stop, move || {
            let mut scribblers = scribblers.lock().unwrap();
            let which = usize::try_from(nonsense.below(scribblers.len() as u64)).unwrap();
            scribblers[which].scribble(&mut nonsense);
        })
    };
    let (mut messages, mut followed, mut faults, mut ends, mut awaited) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
    let mut victim = Victim::default();
    let mut late = None;
    let until = Instant::now() + duration();
    let seen = |counts: [u64; 5]| counts.iter().all(|count| *count > 0);
    while Instant::now() < until || !seen([messages, followed, awaited, faults, ends]) {
        for length in [10, 100, 5_000] {
            if pair.writer.try_send(Meta::default(), b"", &vec![7; length]).is_err() {
                // All of it is held; a reader that believes nonsense may hold what it never read.
                victim.held.clear();
            }
        }
        // A reader that is kept where it is by nonsense is given too much in the end, and says so.
        let mut too_many = false;
        if rng.below(4) == 0 {
            let mut scribblers = scribblers.lock().unwrap();
            let (next, successor) = next_of(&pair.writer);
            match rng.below(4) {
                0 => late = Some(successor),
                _ => too_many = reader.offer(successor).is_err(),
            }
            pair.writer.succeed(next).unwrap();
            pair.writer.leave_formers();
            scribblers.push(RingScribbler::new(&pair.writer));
            let old = scribblers.len().saturating_sub(2);
            scribblers.drain(..old);
        }
        for _ in 0..8 {
            let before = reader.generation();
            let over = match victim.look(&mut reader) {
                Seen::Message { .. } => {
                    messages += 1;
                    false
                }
                Seen::Nothing => false,
                Seen::Awaits(number) => {
                    assert!(number > reader.generation(), "generations go on");
                    awaited += 1;
                    match late.take().filter(|_| rng.below(2) == 0).map(|late| reader.offer(late)) {
                        Some(Ok(())) => {}
                        Some(Err(_)) => too_many = true,
                        None => reader.no_successor(),
                    }
                    false
                }
                Seen::End => {
                    ends += 1;
                    true
                }
                Seen::Fault => {
                    faults += 1;
                    true
                }
            };
            assert!(reader.generation() >= before, "never back");
            followed += u64::from(reader.generation() > before);
            if over || std::mem::take(&mut too_many) {
                victim.held.clear();
                late = None;
                pair.writer.remove_reader(id);
                drop(reader);
                // Quiet for a moment, or nobody attaches any more.
                let _quiet = scribblers.lock().unwrap();
                restore(&pair.writer);
                note(&pair.writer.ring().header().end.state, 0);
                id += 1;
                reader = pair.attach(id, ReadMode::Lossy, true);
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let scribbles = scribbling.join().unwrap();
    println!(
        "{scribbles} scribbles, {messages} messages, {followed} times on in another generation, {awaited} awaited, \
         {faults} faults, {ends} ends told"
    );
}

#[test]
fn a_successor_that_cannot_be_is_a_false_claim() {
    // What the old generation says of the new one, and what the new one says of itself.
    let lies: [fn(&Ring, &Ring); 5] = [
        |old, _| note(&old.header().end.successor, 0),
        |old, _| note(&old.header().end.successor, 1 << 32),
        |old, _| note(&old.header().end.position, 7),
        |_, new| note(&new.header().first_position, 7),
        |_, new| note(&new.header().first_seq, 7),
    ];
    for (at, lie) in lies.into_iter().enumerate() {
        let mut pair = pair();
        let mut reader = pair.attach(1, ReadMode::Lossy, true);
        let old = pair.writer.ring();
        pair.writer.try_send(Meta::default(), b"", b"x").unwrap();
        let (next, successor) = next_of(&pair.writer);
        reader.offer(successor).unwrap();
        pair.writer.succeed(next).unwrap();
        lie(&old, &pair.writer.ring());
        let mut scratch = Vec::new();
        let told = (0..4).any(|_| reader.try_next(&mut scratch).is_err_and(|error| error.is_claim()));
        assert!(told, "lie {at}");
    }
}
