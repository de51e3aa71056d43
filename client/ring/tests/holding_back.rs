//! A reader whose cursor follows what was made safe: the writer keeps the rest, also behind the reader's end.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use common::{attach, link};
use tramline_ring::{Meta, Next, ReadMode, Reader, RingSpec, SendError, Writer};

/// Messages that the ring holds.
const HELD: u64 = 16;

fn writer() -> Writer {
    Writer::create(&RingSpec::sized(7, 16, 8).unwrap(), 8).unwrap()
}

fn fill(writer: &mut Writer) -> u64 {
    let mut sent = 0;
    loop {
        match writer.try_send(Meta::default(), b"", b"x") {
            Ok(_) => sent += 1,
            Err(SendError::Full { holder: Some(1) }) => return sent,
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 10_000, "nobody is in the way");
    }
}

/// Reads all there is; returns the last number.
fn read_all(reader: &mut Reader) -> u64 {
    let mut scratch = Vec::new();
    while let Next::Message(message) = reader.try_next(&mut scratch).unwrap() {
        assert_eq!(message.lost, 0);
    }
    assert!(!reader.arm());
    reader.last_seq()
}

#[test]
fn room_comes_free_when_messages_are_safe_and_not_when_they_are_read() {
    let mut writer = writer();
    let link = link();
    let mut reader = attach(&mut writer, &link, 1, ReadMode::Gated, 0, true);
    reader.hold_back(0);
    assert_eq!(fill(&mut writer), HELD);
    assert_eq!(read_all(&mut reader), HELD);
    assert_eq!(fill(&mut writer), 0, "what was read is not safe yet");
    reader.is_safe(5);
    assert_eq!(fill(&mut writer), 5);
    // The one that comes after it finds everything that was not safe.
    drop(reader);
    assert_eq!(fill(&mut writer), 0);
    let mut next = attach(&mut writer, &common::link(), 2, ReadMode::Gated, u32::MAX, true);
    assert!(writer.remove_reader(1));
    next.hold_back(5);
    let mut scratch = Vec::new();
    let Next::Message(first) = next.try_next(&mut scratch).unwrap() else { panic!() };
    assert_eq!(first.seq, 6);
    assert_eq!(read_all(&mut next), HELD + 5);
}

#[test]
fn a_pack_is_passed_as_a_whole() {
    let mut writer = Writer::create(&RingSpec::sized(7, 4096, 64).unwrap(), 64).unwrap();
    let link = link();
    let mut reader = attach(&mut writer, &link, 1, ReadMode::Gated, 0, true);
    reader.hold_back(0);
    let payloads = [[1_u8; 30]; 8];
    let pushed = writer.try_push_all(Meta::default(), payloads.iter());
    writer.flush();
    assert_eq!(pushed.last, Some(8));
    let sent = fill(&mut writer);
    assert_eq!(read_all(&mut reader), 8 + sent);
    reader.is_safe(7);
    assert_eq!(fill(&mut writer), 0, "its last message is not safe");
    reader.is_safe(8);
    assert!(fill(&mut writer) > 0);
}
