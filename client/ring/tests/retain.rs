//! The copy of a dead or closed writer's last messages: whole, in order, with all they said, and of exact size.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use common::link;
use std::os::fd::AsFd;
use tramline_ring::{Body, Meta, Next, Reader, Retained, RingSpec, Start, Writer, retain, verify_ring};

const FLAGS: u16 = 3;

fn payload(seq: u64) -> Vec<u8> {
    let lengths = [0, 1, 19, 20, 21, 100, 4_096, 5_000];
    let length = lengths[usize::try_from(seq).unwrap() % lengths.len()];
    vec![u8::try_from(seq % 251).unwrap(); length]
}

fn head(seq: u64) -> Vec<u8> {
    vec![7; usize::try_from(seq % 3).unwrap() * 9]
}

fn send(writer: &mut Writer) -> u64 {
    let seq = writer.next_seq();
    let meta = Meta { flags: FLAGS, time: seq * 10, source_time: -5 };
    assert_eq!(writer.try_send(meta, &head(seq), &payload(seq)).unwrap(), seq);
    seq
}

fn writer() -> Writer {
    Writer::create(&RingSpec { first_seq: 100, ..RingSpec::sized(9, 5_000, 64).unwrap() }, 64).unwrap()
}

/// Reads a copy from message `from` of it on; its numbers.
fn read(copy: &Retained, from: usize, in_place: bool) -> Vec<u64> {
    verify_ring(copy.memory.as_fd(), &copy.identity).unwrap();
    let link = link();
    let (slot, _page) = link.reader_side.allocate_slot().unwrap();
    let start = Start { position: from as u64, seq: copy.seqs[from] };
    let memory = copy.memory.try_clone().unwrap();
    let mut reader =
        Reader::attach(memory, &copy.identity, &link.reader_side, slot, start, in_place).unwrap();
    let mut scratch = Vec::new();
    let mut seqs: Vec<u64> = Vec::new();
    let mut held = Vec::new();
    loop {
        match reader.try_next(&mut scratch).unwrap() {
            Next::Message(message) => {
                let seq = message.seq;
                assert_eq!(message.lost, seqs.last().map_or(0, |last| seq - last - 1));
                assert_eq!(message.meta, Meta { flags: FLAGS, time: seq * 10, source_time: -5 });
                match message.body {
                    Body::Copied { payload: at, head: type_at } => {
                        assert_eq!((&scratch[at], &scratch[type_at]), (&*payload(seq), &*head(seq)));
                    }
                    Body::Pinned(pinned) => {
                        assert_eq!((pinned.payload(), pinned.head()), (&*payload(seq), &*head(seq)));
                        held.push(pinned);
                    }
                }
                seqs.push(seq);
            }
            Next::Ended { lost } => {
                assert_eq!(lost, 0);
                assert_eq!(in_place, !held.is_empty());
                return seqs;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_last_messages_are_kept_with_all_they_say() {
    let mut writer = writer();
    for _ in 0..300 {
        send(&mut writer);
    }
    writer.skip();
    let last = send(&mut writer);
    for close in [false, true] {
        if close {
            writer.close();
        }
        let copy = retain(writer.memory(), &writer.spec().identity(), 20, u64::MAX).unwrap().unwrap();
        let expected: Vec<u64> = (last - 20..=last).filter(|seq| *seq != last - 1).collect();
        assert_eq!(copy.seqs, expected);
        assert_eq!(read(&copy, 0, false), expected);
        assert_eq!(read(&copy, 5, true), expected[5..]);
        // A page of header, one of descriptors, and what 20 messages need.
        let bytes: usize = expected.iter().map(|seq| payload(*seq).len() + head(*seq).len() + 64).sum();
        assert!(copy.memory_bytes <= 2 * 4_096 + bytes as u64 + 4_096, "{}", copy.memory_bytes);
    }
}

#[test]
fn fewer_are_kept_where_fewer_are_there_or_fit() {
    let mut writer = writer();
    let identity = writer.spec().identity();
    assert!(retain(writer.memory(), &identity, 10, u64::MAX).unwrap().is_none());
    for _ in 0..7 {
        send(&mut writer);
    }
    let all = retain(writer.memory(), &identity, 10, u64::MAX).unwrap().unwrap();
    assert_eq!(all.seqs, (100..107).collect::<Vec<_>>());
    let some = retain(writer.memory(), &identity, 10, 3 * 4_096).unwrap().unwrap();
    assert!(some.seqs.len() < 7 && some.seqs.last() == Some(&106), "{:?}", some.seqs);
    assert!(some.memory_bytes <= 3 * 4_096);
    assert!(retain(writer.memory(), &identity, 10, 4_096).unwrap().is_none());
    assert!(retain(writer.memory(), &identity, 0, u64::MAX).unwrap().is_none());
}

#[test]
fn messages_that_were_overtaken_are_no_part_of_it() {
    let mut writer = Writer::create(&RingSpec::sized(9, 5_000, 4).unwrap(), 4).unwrap();
    for _ in 0..100 {
        send(&mut writer);
    }
    let copy = retain(writer.memory(), &writer.spec().identity(), 64, u64::MAX).unwrap().unwrap();
    assert!(copy.seqs.len() <= 5 && copy.seqs.last() == Some(&100), "{:?}", copy.seqs);
    assert_eq!(read(&copy, 0, false), copy.seqs);
}

#[test]
fn packed_messages_are_kept_one_by_one() {
    let mut writer = writer();
    let meta = Meta { flags: FLAGS, time: 0, source_time: -5 };
    let pushed = writer.try_push_all(meta, (0..40_u8).map(|n| [n; 30]));
    assert_eq!(pushed.last, Some(139));
    writer.flush();
    let copy = retain(writer.memory(), &writer.spec().identity(), 6, u64::MAX).unwrap().unwrap();
    assert_eq!(copy.seqs, (134..140).collect::<Vec<_>>());
    let link = link();
    let (slot, _page) = link.reader_side.allocate_slot().unwrap();
    let start = Start { position: 2, seq: 136 };
    let memory = copy.memory.try_clone().unwrap();
    let mut reader = Reader::attach(memory, &copy.identity, &link.reader_side, slot, start, true).unwrap();
    let mut scratch = Vec::new();
    for n in 36..40_u8 {
        let Next::Message(message) = reader.try_next(&mut scratch).unwrap() else { panic!("{n}") };
        let Body::Copied { payload, .. } = message.body else { panic!("{n}") };
        assert_eq!((message.seq, &scratch[payload]), (100 + u64::from(n), &[n; 30][..]));
    }
    assert!(matches!(reader.try_next(&mut scratch).unwrap(), Next::Ended { lost: 0 }));
}
