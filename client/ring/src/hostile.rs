//! The other side scribbles over everything it may write. This side may be told nonsense, may be delayed, and
//! ends the attachment with an error when the nonsense shows; it never panics, never touches what is outside,
//! never loops for ever.

#![allow(clippy::unwrap_used, reason = "tests")]

mod growth;

use crate::layout::low;
use crate::protocol::note;
use crate::scribble::{Random, RingScribbler, SlotScribbler};
use crate::view::note_constants;
use crate::{
    Body, Meta, Next, Observer, PageObserver, Pinned, ReadMode, Reader, ReaderLink, RingError, RingSpec,
    SendError, Writer, WriterLink,
};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long each test scribbles; `TRAMLINE_HOSTILE_SECONDS` makes it longer. It goes on for longer by itself until it has
/// seen all that it is about: on a machine that is busy with other things a second may be a few turns.
fn duration() -> Duration {
    let seconds = std::env::var("TRAMLINE_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(1.0))
}

/// Ends a test that hangs: dropped in time, it does nothing.
fn watchdog() -> mpsc::Sender<()> {
    let (alive, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(duration() + Duration::from_secs(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a victim of scribbling hangs");
            std::process::abort();
        }
    });
    alive
}

struct Pair {
    writer: Writer,
    writer_side: Arc<WriterLink>,
    reader_side: Arc<ReaderLink>,
    page: Option<OwnedFd>,
    /// The writing ends of both bells once more, for who rings nonsense.
    bells: [OwnedFd; 2],
}

fn pair() -> Pair {
    let (doorbell_read, doorbell_write) = rustix::pipe::pipe().unwrap();
    let (space_read, space_write) = rustix::pipe::pipe().unwrap();
    let bells = [doorbell_write.try_clone().unwrap(), space_write.try_clone().unwrap()];
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
    Pair { writer: Writer::create(&spec, 8).unwrap(), writer_side, reader_side, page: None, bells }
}

impl Pair {
    fn attach(&mut self, id: u64, mode: ReadMode, in_place: bool) -> Reader {
        self.try_attach(id, mode, in_place).unwrap()
    }

    fn try_attach(&mut self, id: u64, mode: ReadMode, in_place: bool) -> Result<Reader, RingError> {
        let (slot, page) = self.reader_side.allocate_slot()?;
        if let Some(page) = page {
            self.page = Some(page.fd.try_clone().unwrap());
            self.writer_side.add_page(page.fd, page.first_slot, page.slots)?;
        }
        let start = self.writer.add_reader(id, &self.writer_side, slot, mode, 0)?;
        let memory = rustix::io::fcntl_dupfd_cloexec(self.writer.memory(), 0).unwrap();
        let identity = self.writer.spec().identity();
        let attached = Reader::attach(memory, &identity, &self.reader_side, slot, start, in_place);
        if attached.is_err() {
            self.writer.remove_reader(id);
            self.reader_side.free_slot(slot);
        }
        attached
    }
}

/// Does something again and again until told to stop, and at least once; says how often.
fn keep_on(stop: &Arc<AtomicBool>, mut act: impl FnMut() + Send + 'static) -> JoinHandle<u64> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut times = 0;
        loop {
            act();
            times += 1;
            if stop.load(Ordering::Relaxed) {
                return times;
            }
        }
    })
}

/// Bytes that are no slot numbers, or numbers of no slots, as far as they fit.
fn ring_nonsense(bell: &OwnedFd, rng: &mut Random) {
    let bytes = [rng.word().to_le_bytes(), rng.nasty(3).to_le_bytes()].concat();
    let length = usize::try_from(1 + rng.below(16)).unwrap();
    let _ = rustix::io::write(bell, &bytes[..length]);
}

/// What came of a look at a ring that somebody scribbles over.
enum Seen {
    Message {
        lost: bool,
    },
    Nothing,
    /// Its end, and which generation carries on.
    Awaits(u32),
    End,
    /// Nonsense that showed.
    Fault,
}

/// Who reads what is scribbled, and holds some of it.
#[derive(Default)]
struct Victim {
    scratch: Vec<u8>,
    held: Vec<Pinned>,
}

impl Victim {
    /// One look. Whatever is there, numbers add up, nothing outside is touched, and an error says that somebody lied.
    fn look(&mut self, reader: &mut Reader) -> Seen {
        let last = reader.last_seq();
        match reader.try_next(&mut self.scratch) {
            Ok(Next::Message(message)) => {
                assert_eq!(message.seq, last + message.lost + 1, "numbers add up");
                match message.body {
                    Body::Copied { payload, head } => {
                        assert!(payload.end <= self.scratch.len() && head.end <= self.scratch.len());
                    }
                    Body::Pinned(pinned) => {
                        // In place is for trusted publishers; reading must stay within bounds all the same.
                        let bytes = pinned.payload().iter().chain(pinned.head());
                        std::hint::black_box(bytes.fold(0_u8, |sum, byte| sum ^ byte));
                        self.held.push(pinned);
                        self.held.truncate(20);
                    }
                }
                Seen::Message { lost: message.lost > 0 }
            }
            Ok(Next::Empty) => Seen::Nothing,
            Ok(Next::Successor(generation)) => Seen::Awaits(generation),
            Ok(Next::Ended { .. }) => Seen::End,
            Err(error) => {
                assert!(error.is_claim(), "{error}");
                Seen::Fault
            }
        }
    }
}

fn reader_against_scribbling_writer(in_place: bool) {
    let _watchdog = watchdog();
    let mut pair = pair();
    let mut rng = Random::seeded();
    let stop = Arc::new(AtomicBool::new(false));
    let mut reader = pair.attach(1, ReadMode::Lossy, in_place);
    let mut scribbler = RingScribbler::new(&pair.writer);
    let (mut nonsense, bell) = (Random::new(rng.word()), pair.bells[0].try_clone().unwrap());
    let ring = pair.writer.ring();
    let identity = pair.writer.spec().identity();
    let observer = Observer::new(pair.writer.memory(), &identity).unwrap();
    let scribbling = keep_on(&stop, move || {
        scribbler.scribble(&mut nonsense);
        if nonsense.below(64) == 0 {
            ring_nonsense(&bell, &mut nonsense);
        }
    });
    let observing = keep_on(&stop, move || {
        let seen = observer.counters();
        assert!(seen.oldest <= seen.head);
        std::thread::yield_now();
    });

    let (mut messages, mut losses, mut faults, mut ends, mut id) = (0_u64, 0_u64, 0_u64, 0_u64, 1);
    let (mut victim, mut rung) = (Victim::default(), Vec::new());
    let until = Instant::now() + duration();
    while Instant::now() < until || messages == 0 || faults == 0 || ends == 0 {
        for _ in 0..64 {
            let over = match victim.look(&mut reader) {
                Seen::Message { lost } => {
                    messages += 1;
                    losses += u64::from(lost);
                    false
                }
                Seen::Nothing => false,
                Seen::End | Seen::Awaits(_) => {
                    ends += 1;
                    true
                }
                Seen::Fault => {
                    faults += 1;
                    true
                }
            };
            if over {
                victim.held.clear();
                pair.writer.remove_reader(id);
                note(&ring.header().end.state, 0);
                drop(reader);
                // What never changes must be right for a moment, or nobody attaches any more.
                reader = loop {
                    restore(&pair.writer);
                    id += 1;
                    match pair.try_attach(id, ReadMode::Lossy, in_place) {
                        Ok(reader) => break reader,
                        Err(error) => assert!(error.is_claim(), "{error}"),
                    }
                    faults += 1;
                };
            }
        }
        match rng.below(16) {
            0 if !reader.arm() => reader.disarm(),
            1 => {
                std::hint::black_box((reader.lag(), reader.ready(), reader.has_message()));
                rung.clear();
                pair.reader_side.drain(&mut rung);
            }
            2 => drop(victim.held.pop()),
            3 => reader.writer_gone(),
            _ => {}
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (scribbles, looks) = (scribbling.join().unwrap(), observing.join().unwrap());
    println!(
        "{scribbles} scribbles, {looks} looks, {messages} messages, {losses} losses, {faults} faults, {ends} ends told"
    );
}

/// Writes the constants of a ring's header as they were.
fn restore(writer: &Writer) {
    note_constants(writer.ring().header(), writer.spec());
}

#[test]
fn a_reader_in_place_survives_a_writer_that_scribbles() {
    reader_against_scribbling_writer(true);
}

#[test]
fn a_reader_that_copies_survives_a_writer_that_scribbles() {
    reader_against_scribbling_writer(false);
}

/// What an honest reader found until nothing was there: how many, and how many it was told to have lost.
fn read_honestly(reader: &mut Reader, scratch: &mut Vec<u8>) -> (u64, u64) {
    let (mut received, mut lost) = (0, 0);
    while let Next::Message(message) = reader.try_next(scratch).unwrap() {
        received += 1;
        lost += message.lost;
        let bytes = match &message.body {
            Body::Copied { payload, .. } => &scratch[payload.clone()],
            Body::Pinned(pinned) => pinned.payload(),
        };
        assert!(bytes.windows(2).all(|pair| pair[0] == pair[1]), "a torn message");
    }
    (received, lost)
}

fn writer_against_scribbling_reader(mode: ReadMode, grows: bool) {
    let _watchdog = watchdog();
    let mut pair = pair();
    let mut rng = Random::seeded();
    let stop = Arc::new(AtomicBool::new(false));
    let mut honest = pair.attach(1, ReadMode::Gated, true);
    let liar = pair.attach(2, mode, true);
    let mut scribbler = SlotScribbler::new(&pair.reader_side, liar.slot()).unwrap();
    let (mut nonsense, bell) = (Random::new(rng.word()), pair.bells[1].try_clone().unwrap());
    let (slot, page) = (liar.slot(), pair.page.take().unwrap());
    let observer = PageObserver::new(&page, 0, 15).unwrap();
    let head = Arc::new(AtomicU64::new(0));
    let scribbling = {
        let head = Arc::clone(&head);
        keep_on(&stop, move || {
            scribbler.aim(head.load(Ordering::Relaxed));
            scribbler.scribble(&mut nonsense);
            if nonsense.below(64) == 0 {
                ring_nonsense(&bell, &mut nonsense);
            }
        })
    };
    let observing = keep_on(&stop, move || {
        assert!(observer.slot(slot).unwrap().pinned <= 16);
        std::thread::yield_now();
    });

    let mut scratch = Vec::new();
    let (mut sent, mut full, mut received, mut lost) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut growing = growth::Growing::default();
    let until = Instant::now() + duration();
    while Instant::now() < until || received == 0 || (grows && !growing.grew()) {
        for length in [10, 100, 5_000] {
            let byte = u8::try_from(sent % 251).unwrap();
            let sending = if rng.below(4) == 0 {
                pair.writer.try_loan(length, 0).map(|mut loan| {
                    loan.bytes_mut().fill(byte);
                    pair.writer.commit(loan, length, Meta::default(), b"");
                })
            } else {
                pair.writer.try_send(Meta::default(), b"", &vec![byte; length]).map(|_| ())
            };
            match sending {
                Ok(()) => sent += 1,
                // Pins and cursors at random may be in the way for a moment, and the writer says whose.
                Err(SendError::Full { holder }) => {
                    assert!(holder.is_none_or(|id| id == 1 || id == 2), "{holder:?}");
                    full += 1;
                    pair.writer.begin_wait();
                    assert!(pair.writer_side.drain_space(), "its bell has not hung up");
                    pair.writer.end_wait();
                }
                Err(error) => panic!("{error}"),
            }
            head.store(sent, Ordering::Relaxed);
        }
        let (more, missed) = read_honestly(&mut honest, &mut scratch);
        received += more;
        lost += missed;
        honest.publish_cursor();
        if grows {
            growing.turn(&mut pair.writer, &mut honest, &mut rng);
        }
        if rng.below(1024) == 0 {
            // It leaves, or is evicted, and comes again.
            assert!(pair.writer.ungate(2) && pair.writer.remove_reader(2));
            pair.writer.add_reader(2, &pair.writer_side, slot, mode, low(rng.below(9)).min(8)).unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (scribbles, looks) = (scribbling.join().unwrap(), observing.join().unwrap());
    growing.end(&mut honest);
    let (more, missed) = read_honestly(&mut honest, &mut scratch);
    (received, lost) = (received + more, lost + missed);
    println!(
        "{scribbles} scribbles, {looks} looks, {sent} sent, {full} times full, {received} received, {lost} lost; {growing:?}"
    );
    assert!(received == sent && lost == 0, "{received} received, {lost} lost of {sent}");
    assert_eq!(growing.grew(), grows);
    drop(liar);
}

#[test]
fn a_writer_survives_a_lossy_reader_that_scribbles_and_others_lose_nothing() {
    writer_against_scribbling_reader(ReadMode::Lossy, false);
}

#[test]
fn a_writer_survives_a_gated_reader_that_scribbles_and_others_lose_nothing() {
    writer_against_scribbling_reader(ReadMode::Gated, false);
}

#[test]
fn a_writer_that_grows_survives_readers_that_scribble_and_others_lose_nothing() {
    writer_against_scribbling_reader(ReadMode::Lossy, true);
    writer_against_scribbling_reader(ReadMode::Gated, true);
}

#[test]
fn a_doorbell_rung_without_end_in_pieces_of_numbers_keeps_nobody() {
    let _watchdog = watchdog();
    let pair = pair();
    let stop = Arc::new(AtomicBool::new(false));
    let ringers: Vec<_> = (0..2)
        .map(|_| {
            let bell = pair.bells[0].try_clone().unwrap();
            keep_on(&stop, move || {
                let _ = rustix::io::write(&bell, &[0xff]);
            })
        })
        .collect();
    let (mut slots, mut drained) = (Vec::new(), 0_u64);
    let until = Instant::now() + duration().min(Duration::from_secs(5));
    while Instant::now() < until || drained == 0 {
        slots.clear();
        pair.reader_side.drain(&mut slots);
        drained += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let rung: u64 = ringers.into_iter().map(|ringer| ringer.join().unwrap()).sum();
    println!("{rung} bytes rung, drained {drained} times");
}

#[test]
fn stamps_that_only_pretend_to_overtake_are_found_out() {
    for ahead in [u64::MAX, 1 << 40, 64] {
        let mut pair = pair();
        let mut reader = pair.attach(1, ReadMode::Lossy, true);
        let ring = pair.writer.ring();
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
    let mut reader = pair.attach(1, ReadMode::Lossy, true);
    pair.writer.try_send(Meta::default(), b"", b"x").unwrap();
    note(&pair.writer.ring().descriptor(0).words[0], u64::MAX - 1);
    assert!(reader.try_next(&mut Vec::new()).unwrap_err().is_claim());
}
