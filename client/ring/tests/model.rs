//! The ring against a plain model: whatever mix of sends, loans, drops, readers and held samples, every reader sees
//! the published bytes in order, knows exactly what it lost, and a gated one loses nothing but what the
//! publisher dropped, or what it was too slow for. Positions and numbers begin anywhere, the edges of 32 bits included.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "model/gates.rs"]
mod gates;

use common::{Link, attach, link};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use tramline_ring::{
    Body, Generation, Loan, Meta, Next, Pinned, ReadMode, Reader, RingIdentity, RingSpec, SendError,
    Successor, Writer,
};

#[derive(Debug, Clone)]
enum Step {
    Send {
        length: usize,
        head: usize,
    },
    Push {
        length: usize,
    },
    PushAll {
        lengths: Vec<usize>,
    },
    Flush,
    Loan {
        length: usize,
        used: usize,
        commit: bool,
    },
    /// Takes room that is committed later, perhaps in another generation.
    Borrow {
        length: usize,
    },
    Return {
        loan: prop::sample::Index,
        commit: bool,
    },
    Skip,
    /// Goes on in another generation; every second one is announced to readers before, the rest after.
    Grow {
        pages: u64,
        descriptors: u32,
        early: bool,
    },
    /// A reader gets what it has not been given of the memory of later generations.
    Deliver {
        reader: prop::sample::Index,
    },
    Join {
        gated: bool,
        history: u32,
        in_place: bool,
    },
    Leave {
        reader: prop::sample::Index,
    },
    Read {
        reader: prop::sample::Index,
        count: usize,
        hold: bool,
    },
    LetGo {
        sample: prop::sample::Index,
    },
    Arm {
        reader: prop::sample::Index,
    },
    /// Time goes by.
    Wait {
        nanos: u64,
    },
    /// Tries until there is room.
    Insist {
        length: usize,
    },
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0_usize..30, 0_usize..300, 3_900_usize..4_300, 0_usize..20_000]
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (length(), prop_oneof![3 => Just(0), 1 => 1_usize..200]).prop_map(|(length, head)| Step::Send { length, head }),
        3 => length().prop_map(|length| Step::Push { length }),
        3 => proptest::collection::vec(prop_oneof![8 => 0_usize..100, 1 => length()], 0..150)
            .prop_map(|lengths| Step::PushAll { lengths }),
        1 => Just(Step::Flush),
        2 => (length(), 0.0..=1.0_f64, any::<bool>()).prop_map(|(length, part, commit)| {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "any number will do"
            )]
            let used = (length as f64 * part) as usize;
            Step::Loan { length, used, commit }
        }),
        1 => length().prop_map(|length| Step::Borrow { length }),
        1 => (index(), any::<bool>()).prop_map(|(loan, commit)| Step::Return { loan, commit }),
        1 => Just(Step::Skip),
        1 => (4_u64..40, prop_oneof![Just(4_u32), Just(16), Just(64)], any::<bool>())
            .prop_map(|(pages, descriptors, early)| Step::Grow { pages, descriptors, early }),
        2 => index().prop_map(|reader| Step::Deliver { reader }),
        1 => (any::<bool>(), 0_u32..20, any::<bool>())
            .prop_map(|(gated, history, in_place)| Step::Join { gated, history, in_place }),
        1 => index().prop_map(|reader| Step::Leave { reader }),
        6 => (index(), 1_usize..30, any::<bool>()).prop_map(|(reader, count, hold)| Step::Read { reader, count, hold }),
        3 => index().prop_map(|sample| Step::LetGo { sample }),
        1 => index().prop_map(|reader| Step::Arm { reader }),
        2 => (1_u64..150).prop_map(|nanos| Step::Wait { nanos }),
        1 => length().prop_map(|length| Step::Insist { length }),
    ]
}

/// Bytes that tell which message they belong to.
fn bytes(seq: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (seq.wrapping_mul(31).wrapping_add(i.wrapping_mul(7)) % 251) as u8).collect()
}

struct Follower {
    id: u64,
    mode: ReadMode,
    reader: Reader,
    _link: Link,
    /// Memory that was not given to it yet.
    owed: Vec<(OwnedFd, RingIdentity)>,
    /// Every number up to this was read, or told as lost.
    last: u64,
    /// It asked to be waited for; `mode` says whether it is.
    gated: bool,
    /// Numbers from here on are kept for it while it is waited for.
    kept_from: u64,
}

/// What a look at a reader brought.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Message,
    Nothing,
    Ended { lost: u64 },
}

struct World {
    writer: Writer,
    /// Length of payload and headers and the time, by number.
    published: BTreeMap<u64, (usize, usize, u64)>,
    followers: Vec<Follower>,
    samples: Vec<(u64, Pinned)>,
    joined: u64,
    loans: Vec<(Loan, u64)>,
    now: u64,
}

impl Follower {
    fn deliver(&mut self) {
        for (memory, identity) in self.owed.drain(..) {
            self.reader.offer(Successor::open(memory, &identity).unwrap()).unwrap();
        }
    }
}

impl World {
    fn new(spec: &RingSpec, depth: u32) -> Self {
        let mut writer = Writer::create(spec, depth).unwrap();
        writer.set_gate_budget(gates::BUDGET);
        Self {
            writer,
            published: BTreeMap::new(),
            followers: Vec::new(),
            samples: Vec::new(),
            joined: 0,
            loans: Vec::new(),
            now: 1,
        }
    }

    fn grow(&mut self, pages: u64, descriptors: u32, early: bool) {
        let spec = *self.writer.spec();
        let generation = spec.generation + 1;
        let next = RingSpec { generation, descriptors, arena_bytes: pages * 4096, ..spec };
        let next = Generation::create(&next, descriptors).unwrap();
        for follower in &mut self.followers {
            let memory = next.memory().try_clone_to_owned().unwrap();
            follower.owed.push((memory, next.spec().identity()));
            if early {
                follower.deliver();
            }
        }
        // Refused where the loans that are out do not fit, and nothing has changed then.
        let before = self.writer.next_seq();
        let grown = self.writer.succeed(next);
        assert!(grown.is_ok() || !self.loans.is_empty(), "{grown:?}");
        assert_eq!(self.writer.spec().generation, if grown.is_ok() { generation } else { spec.generation });
        assert_eq!(self.writer.next_seq(), before);
        if grown.is_err() {
            // Whoever was given it already passes it over: its number is not used again.
            let unused = RingSpec { generation: generation + 1, ..spec };
            let next = Generation::create(&unused, spec.descriptors).unwrap();
            for follower in &mut self.followers {
                let memory = next.memory().try_clone_to_owned().unwrap();
                follower.owed.push((memory, unused.identity()));
            }
            if self.writer.succeed(next).is_err() {
                // Only where blocks no longer lie as they did; then numbers go on from there another time.
                self.abandon_loans();
                let again = RingSpec { generation: generation + 2, ..spec };
                let next = Generation::create(&again, spec.descriptors).unwrap();
                for follower in &mut self.followers {
                    let memory = next.memory().try_clone_to_owned().unwrap();
                    follower.owed.push((memory, again.identity()));
                }
                self.writer.succeed(next).unwrap();
            }
        }
    }

    fn abandon_loans(&mut self) {
        for (loan, _) in std::mem::take(&mut self.loans) {
            self.writer.cancel(loan);
        }
    }

    fn published(&mut self, result: Result<u64, SendError>, length: usize, head: usize) {
        match result {
            Ok(seq) => {
                assert!(self.published.insert(seq, (length, head, seq ^ 5)).is_none(), "number {seq} twice");
                self.room();
            }
            Err(SendError::Full { holder }) => {
                // Somebody must be in the way, and the model knows who could be.
                let gated = self.followers.iter().any(|f| f.mode == ReadMode::Gated && Some(f.id) == holder);
                assert!(gated || !self.samples.is_empty() || holder.is_none(), "full because of {holder:?}");
                assert!(holder.is_some() || !self.loans.is_empty(), "nobody is in the way");
                self.full();
            }
            Err(SendError::TooLarge { bytes, max }) => assert!(bytes > max),
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&mut self, index: usize, hold: bool) -> Outcome {
        let follower = &mut self.followers[index];
        let mut scratch = vec![1, 2, 3];
        if hold && follower.reader.packed() > 0 {
            // A pack's further messages, the quicker way.
            let packed = follower.reader.next_packed().unwrap().unwrap();
            let (length, _, time) = self.published[&packed.seq];
            assert_eq!((packed.seq, packed.lost, packed.meta.time), (follower.last + 1, 0, time));
            assert_eq!(packed.payload, bytes(packed.seq, length));
            follower.last = packed.seq;
            return Outcome::Message;
        }
        let message = match follower.reader.try_next(&mut scratch).unwrap() {
            Next::Message(message) => message,
            Next::Ended { lost } => return Outcome::Ended { lost },
            _ => return Outcome::Nothing,
        };
        let (length, head, time) = self.published[&message.seq];
        assert_eq!(message.seq, follower.last + message.lost + 1, "numbers and losses add up");
        if follower.mode == ReadMode::Gated {
            let missing = (follower.last + 1).max(follower.kept_from)..message.seq;
            let missing = missing.filter(|seq| self.published.contains_key(seq)).count();
            assert_eq!(missing, 0, "a gated reader lost what was published");
        }
        follower.last = message.seq;
        assert_eq!(message.meta.time, time);
        let (payload, header) = match &message.body {
            Body::Copied { payload, head } => (&scratch[payload.clone()], &scratch[head.clone()]),
            Body::Pinned(pinned) => {
                assert_eq!(pinned.payload().as_ptr().addr() % 64, 0, "payloads are aligned");
                (pinned.payload(), pinned.head())
            }
        };
        assert_eq!(payload, bytes(message.seq, length));
        assert_eq!(header, bytes(!message.seq, head));
        if let (Body::Pinned(pinned), true) = (message.body, hold) {
            self.samples.push((message.seq, pinned));
        }
        Outcome::Message
    }

    fn check_samples(&self) {
        for (seq, sample) in &self.samples {
            assert_eq!(sample.payload(), bytes(*seq, self.published[seq].0), "held sample {seq} changed");
        }
    }

    /// What the next message says about itself.
    fn meta(&self) -> Meta {
        Meta { flags: 2, time: self.writer.next_seq() ^ 5, source_time: -3 }
    }

    fn send(&mut self, length: usize, head: usize) -> Result<(), SendError> {
        let (seq, meta) = (self.writer.next_seq(), self.meta());
        let result = self.writer.try_send(meta, &bytes(!seq, head), &bytes(seq, length));
        self.published(result, length, head);
        result.map(drop)
    }

    fn apply(&mut self, step: &Step) {
        self.before();
        let (seq, meta) = (self.writer.next_seq(), self.meta());
        match step {
            Step::Send { length, head } => {
                let _ = self.send(*length, *head);
            }
            Step::Push { length } => {
                let result = self.writer.try_push(meta, b"", &bytes(seq, *length));
                self.published(result, *length, 0);
            }
            Step::PushAll { lengths } => {
                let payloads = (seq..).zip(lengths).map(|(seq, length)| bytes(seq, *length));
                let pushed = self.writer.try_push_all(meta, payloads);
                let taken = pushed.last.map_or(0, |last| last + 1 - seq);
                for (seq, length) in (seq..seq + taken).zip(lengths) {
                    assert!(
                        self.published.insert(seq, (*length, 0, meta.time)).is_none(),
                        "number {seq} twice"
                    );
                }
                match pushed.refused {
                    Some((payload, error)) => {
                        assert_eq!(payload.len(), lengths[usize::try_from(taken).unwrap()]);
                        self.published(Err(error), 0, 0);
                    }
                    None => {
                        assert_eq!(taken, lengths.len() as u64);
                        self.room();
                    }
                }
            }
            Step::Flush => self.writer.flush(),
            Step::Loan { length, used, commit } => match self.writer.try_loan(*length, 0) {
                Ok(mut loan) => {
                    loan.bytes_mut().copy_from_slice(&bytes(seq, *length));
                    if *commit {
                        let result = Ok(self.writer.commit(loan, *used, meta, b""));
                        self.published(result, *used, 0);
                    } else {
                        self.writer.cancel(loan);
                    }
                }
                Err(error) => self.published(Err(error), 0, 0),
            },
            Step::Borrow { length } => match self.writer.try_loan(*length, 0) {
                Ok(mut loan) => {
                    self.joined += 1;
                    loan.bytes_mut().copy_from_slice(&bytes(self.joined, *length));
                    self.loans.push((loan, self.joined));
                }
                Err(error) => self.published(Err(error), 0, 0),
            },
            Step::Return { loan, commit } if !self.loans.is_empty() => {
                let (mut loan, mark) = self.loans.swap_remove(loan.index(self.loans.len()));
                let length = loan.len();
                assert_eq!(loan.bytes(), bytes(mark, length), "a loan keeps its bytes over growth");
                if *commit {
                    loan.bytes_mut().copy_from_slice(&bytes(seq, length));
                    let result = Ok(self.writer.commit(loan, length, meta, b""));
                    self.published(result, length, 0);
                } else {
                    self.writer.cancel(loan);
                }
            }
            Step::Skip => {
                self.writer.skip();
            }
            Step::Grow { pages, descriptors, early } => self.grow(*pages, *descriptors, *early),
            Step::Deliver { reader } if !self.followers.is_empty() => {
                let index = reader.index(self.followers.len());
                self.followers[index].deliver();
            }
            Step::Join { gated, history, in_place } => self.join(*gated, *history, *in_place),
            Step::Leave { reader } if !self.followers.is_empty() => {
                let follower = self.followers.swap_remove(reader.index(self.followers.len()));
                // Samples of a reader that left are let go first: only then is its writer told.
                self.samples.clear();
                assert!(self.writer.remove_reader(follower.id));
            }
            Step::Read { reader, count, hold } if !self.followers.is_empty() => {
                let index = reader.index(self.followers.len());
                for _ in 0..*count {
                    if self.read(index, *hold) != Outcome::Message {
                        break;
                    }
                }
            }
            Step::LetGo { sample } if !self.samples.is_empty() => {
                self.samples.swap_remove(sample.index(self.samples.len()));
            }
            Step::Arm { reader } if !self.followers.is_empty() => {
                let index = reader.index(self.followers.len());
                let reader = &mut self.followers[index].reader;
                let ready = reader.ready();
                assert_eq!(reader.arm(), ready);
                reader.disarm();
            }
            Step::Wait { nanos } => self.now += nanos,
            Step::Insist { length } => self.insist(*length),
            _ => {}
        }
        self.check_samples();
    }

    fn join(&mut self, gated: bool, history: u32, in_place: bool) {
        if self.followers.len() == 4 {
            return;
        }
        self.joined += 1;
        let link = link();
        let mode = if gated { ReadMode::Gated } else { ReadMode::Lossy };
        let reader = attach(&mut self.writer, &link, self.joined, mode, history, in_place);
        let last = reader.last_seq();
        self.followers.push(Follower {
            id: self.joined,
            mode,
            reader,
            _link: link,
            owed: Vec::new(),
            last,
            gated,
            kept_from: 0,
        });
    }
}

fn starts() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        (u64::from(u32::MAX) - 40)..u64::from(u32::MAX) + 5,
        any::<u32>().prop_map(u64::from),
        (1_u64 << 61)..(1 << 61) + 9
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn every_reader_sees_what_was_published(
        first_position in starts(),
        first_seq in starts().prop_map(|seq| seq + 1),
        descriptors in prop_oneof![Just(2_u32), Just(8), Just(64), Just(256)],
        pages in prop_oneof![4_u64..40, 100_u64..200],
        depth in prop_oneof![1_u32..70, 70_u32..300],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let spec = RingSpec { stream: 9, generation: 0, descriptors, arena_bytes: pages * 4096, first_position, first_seq };
        let mut world = World::new(&spec, depth);
        for step in &steps {
            world.apply(step);
        }
        world.writer.close();
        world.followers.iter_mut().for_each(Follower::deliver);
        // Everyone reads to the end and is told all that is missing.
        let end = world.writer.next_seq() - 1;
        for index in 0..world.followers.len() {
            let lost = loop {
                match world.read(index, false) {
                    Outcome::Message => {}
                    Outcome::Ended { lost } => break lost,
                    Outcome::Nothing => panic!("a closed stream says so at its end"),
                }
            };
            let follower = &world.followers[index];
            prop_assert_eq!(follower.last + lost, end);
        }
    }

    #[test]
    fn all_room_is_back_when_everything_was_let_go(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let spec = RingSpec { stream: 9, generation: 0, descriptors: 16, arena_bytes: 64 * 1024, first_position: 0, first_seq: 1 };
        let mut world = World::new(&spec, 16);
        for step in &steps {
            world.apply(step);
        }
        world.samples.clear();
        world.abandon_loans();
        for follower in std::mem::take(&mut world.followers) {
            world.writer.remove_reader(follower.id);
        }
        world.writer.leave_formers();
        prop_assert_eq!(world.writer.former_generations(), 0);
        let all = usize::try_from(world.writer.spec().arena_bytes).unwrap();
        prop_assert!(world.writer.try_send(Meta::default(), b"", &vec![0; all]).is_ok());
    }
}

#[test]
fn what_a_dead_writer_had_taken_away_is_counted() {
    let spec = RingSpec {
        stream: 9,
        generation: 0,
        descriptors: 4,
        arena_bytes: 4096,
        first_position: 0,
        first_seq: 5,
    };
    let mut writer = Writer::create(&spec, 2).unwrap();
    let link = link();
    let mut reader = attach(&mut writer, &link, 1, ReadMode::Lossy, 0, true);
    for _ in 0..6 {
        writer.try_send(Meta::default(), b"", b"x").unwrap();
    }
    writer.skip();
    // A killed process closes nothing: its memory just stays as it is.
    std::mem::forget(writer);
    reader.writer_gone();
    let (mut last, mut read) = (4, 0);
    let lost = loop {
        match reader.try_next(&mut Vec::new()).unwrap() {
            Next::Message(message) => {
                assert_eq!(message.seq, last + message.lost + 1);
                (last, read) = (message.seq, read + 1);
            }
            Next::Ended { lost } => break lost,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(last + lost, 11, "seven numbers from 5 on, the last without a message");
    assert!(read >= 1);
}
