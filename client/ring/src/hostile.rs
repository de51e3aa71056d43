//! The other side scribbles at random over everything it may write. This side may be told nonsense, may be delayed, and
//! ends the attachment with an error when the nonsense shows; it never panics, never touches what is outside,
//! never loops for ever.

#![allow(clippy::unwrap_used, reason = "tests")]

use crate::layout::{Descriptor, Slot, low};
use crate::protocol::note;
use crate::sync::AtomicU64;
use crate::{Body, Meta, Next, ReadMode, Reader, ReaderLink, RingSpec, Writer, WriterLink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long each test scribbles; `TRAMLINE_HOSTILE_SECONDS` makes it longer.
fn duration() -> Duration {
    let seconds = std::env::var("TRAMLINE_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(1.0))
}

/// A generator of random numbers (splitmix64, S. Vigna 2015), so that a printed seed repeats a run's choices.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let seed = low(u64::try_from(nanos % (1 << 60)).unwrap()).into();
        println!("seed {seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// A number that is likely to hurt.
fn nasty(rng: &mut Random, near: u64) -> u64 {
    match rng.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => near,
        3 => near.wrapping_add(1),
        4 => near.wrapping_mul(2).wrapping_add(rng.next() % 5),
        5 => low(rng.next()).into(),
        6 => 1 << rng.below(64),
        _ => rng.next(),
    }
}

struct Pair {
    writer: Writer,
    writer_side: Arc<WriterLink>,
    reader_side: Arc<ReaderLink>,
}

fn pair() -> Pair {
    let (doorbell_read, doorbell_write) = rustix::pipe::pipe().unwrap();
    let (space_read, space_write) = rustix::pipe::pipe().unwrap();
    let reader_side = Arc::new(ReaderLink::new());
    reader_side.set_bells(doorbell_read, space_write).unwrap();
    let writer_side = Arc::new(WriterLink::new(doorbell_write, space_read).unwrap());
    let spec = RingSpec {
        stream: 1,
        generation: 0,
        descriptors: 8,
        arena_bytes: 64 * 1024,
        first_position: 0,
        first_seq: 1,
    };
    Pair { writer: Writer::create(&spec, 8).unwrap(), writer_side, reader_side }
}

impl Pair {
    fn attach(&mut self, id: u64) -> Reader {
        let (slot, page) = self.reader_side.allocate_slot().unwrap();
        if let Some(page) = page {
            self.writer_side.add_page(page.fd, page.first_slot, page.slots).unwrap();
        }
        let start = self.writer.add_reader(id, &self.writer_side, slot, ReadMode::Lossy, 0).unwrap();
        let memory = rustix::io::fcntl_dupfd_cloexec(self.writer.memory(), 0).unwrap();
        Reader::attach(memory, &self.writer.spec().identity(), &self.reader_side, slot, start, true).unwrap()
    }
}

#[test]
fn a_reader_survives_a_writer_that_scribbles() {
    let mut pair = pair();
    let mut rng = Random::seeded();
    let stop = Arc::new(AtomicBool::new(false));
    // The scribbler shares the writer's own mapping, as a hostile process would use its own.
    let ring = pair.writer.ring_for_tests();
    let scribbler = {
        let (stop, ring) = (Arc::clone(&stop), Arc::clone(&ring));
        let mut rng = Random(rng.next());
        std::thread::spawn(move || {
            let mut scribbles = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let position = rng.next() % 8;
                let near = scribbles / 16;
                let descriptor: &Descriptor = ring.descriptor(position);
                match rng.below(6) {
                    // A pack that may be one, of messages that may be some.
                    4 => {
                        note(&descriptor.words[3], (rng.next() % 16) | ((rng.next() % 40 * 8) << 32));
                        note(&descriptor.words[4], (rng.next() % 80) << 32);
                    }
                    5 => ring.copy_in(rng.next() % 128 * 8, &(rng.next() % 40).to_le_bytes()),
                    0 => note(&descriptor.stamp, nasty(&mut rng, near)),
                    1 => {
                        let header = ring.header();
                        let words: [&AtomicU64; 7] = [
                            &header.counters.head,
                            &header.counters.oldest,
                            &header.end.state,
                            &header.end.position,
                            &header.end.next_seq,
                            &header.wait.epoch,
                            &header.wait.wanted,
                        ];
                        note(words[rng.below(words.len())], nasty(&mut rng, near));
                    }
                    _ => note(&descriptor.words[rng.below(7)], nasty(&mut rng, near)),
                }
                scribbles += 1;
            }
            scribbles
        })
    };
    let (mut messages, mut faults, mut id) = (0_u64, 0_u64, 1);
    let mut reader = pair.attach(id);
    let mut scratch = Vec::new();
    let mut held = Vec::new();
    let until = Instant::now() + duration();
    while Instant::now() < until {
        for _ in 0..64 {
            let ended = match reader.try_next(&mut scratch) {
                Ok(Next::Message(message)) => {
                    messages += 1;
                    if let Body::Pinned(pinned) = message.body {
                        // In place is for trusted publishers; reading must stay within bounds all the same.
                        std::hint::black_box(pinned.payload().iter().fold(0_u8, |sum, byte| sum ^ byte));
                        held.push(pinned);
                        held.truncate(20);
                    }
                    false
                }
                Ok(Next::Empty) => false,
                Ok(Next::Ended { .. } | Next::Successor(_)) => true,
                Err(error) => {
                    assert!(error.is_claim(), "{error}");
                    faults += 1;
                    true
                }
            };
            if ended {
                held.clear();
                pair.writer.remove_reader(id);
                id += 1;
                note(&ring.header().end.state, 0);
                reader = pair.attach(id);
            }
        }
        if rng.below(16) == 0 && !reader.arm() {
            reader.disarm();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let scribbles = scribbler.join().unwrap();
    println!("{scribbles} scribbles, {messages} messages, {faults} faults told");
    assert!(faults > 0 && scribbles > 0);
}

#[test]
fn a_writer_survives_a_reader_that_scribbles() {
    let mut pair = pair();
    let mut rng = Random::seeded();
    let stop = Arc::new(AtomicBool::new(false));
    let honest = pair.attach(1);
    let liar = pair.attach(2);
    let slot = pair.reader_side.slot(liar.slot()).unwrap();
    let scribbler = {
        let stop = Arc::clone(&stop);
        let mut rng = Random(rng.next());
        std::thread::spawn(move || {
            let mut scribbles = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let place: &Slot = slot.get();
                let near = scribbles / 8;
                match rng.below(4) {
                    0 => note(&place.cursor.position, nasty(&mut rng, near)),
                    1 => note(&place.sleep.epoch, nasty(&mut rng, near)),
                    2 => note(&place.sleep.pins_used, nasty(&mut rng, near)),
                    _ => note(&place.pins[rng.below(place.pins.len())], nasty(&mut rng, near)),
                }
                scribbles += 1;
            }
            scribbles
        })
    };
    let mut honest = honest;
    let mut scratch = Vec::new();
    let (mut sent, mut received, mut lost) = (0_u64, 0_u64, 0_u64);
    let until = Instant::now() + duration();
    while Instant::now() < until {
        for length in [10, 100, 5_000] {
            let payload = vec![u8::try_from(sent % 251).unwrap(); length];
            // Pins at random may fill the arena for a moment; the honest reader must see the rest whole.
            if pair.writer.try_send(Meta::default(), b"", &payload).is_ok() {
                sent += 1;
            }
        }
        while let Next::Message(message) = honest.try_next(&mut scratch).unwrap() {
            received += 1;
            lost += message.lost;
            let bytes = match &message.body {
                Body::Copied { payload, .. } => &scratch[payload.clone()],
                Body::Pinned(pinned) => pinned.payload(),
            };
            assert!(bytes.windows(2).all(|pair| pair[0] == pair[1]), "a torn message");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let scribbles = scribbler.join().unwrap();
    println!("{scribbles} scribbles, {sent} sent, {received} received, {lost} lost");
    assert!(received > 0 && received + lost == sent, "{received} received, {lost} lost of {sent}");
    drop(liar);
}

#[test]
fn stamps_that_only_pretend_to_overtake_are_found_out() {
    for ahead in [u64::MAX, 1 << 40, 64] {
        let mut pair = pair();
        let mut reader = pair.attach(1);
        let ring = pair.writer.ring_for_tests();
        for position in 0..8 {
            note(&ring.descriptor(position).stamp, ahead);
        }
        let mut scratch = Vec::new();
        // Busy for a bounded number of looks, and then no more.
        let told = (0..4).any(|_| reader.try_next(&mut scratch).is_err_and(|error| error.is_claim()));
        assert!(told, "stamps of {ahead}");
    }
}

#[test]
fn a_sequence_number_out_of_this_world_is_a_false_claim() {
    let mut pair = pair();
    let mut reader = pair.attach(1);
    pair.writer.try_send(Meta::default(), b"", b"x").unwrap();
    note(&pair.writer.ring_for_tests().descriptor(0).words[0], u64::MAX - 1);
    assert!(reader.try_next(&mut Vec::new()).unwrap_err().is_claim());
}
