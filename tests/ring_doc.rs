//! Holds `docs/ring.md` to the truth: rings and reader pages are made and used, and then read, as plain files,
//! at the offsets that the document gives.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tramline_ring::{Body, Meta, Next, ReadMode, Reader, ReaderLink, RingSpec, Writer, WriterLink};

const DOCUMENT: &str = include_str!("../docs/ring.md");

/// Offset and size of a field, from the one row of a table that is about it.
fn place(field: &str) -> (u64, usize) {
    let mark = format!("| `{field}` |");
    let mut rows = DOCUMENT.lines().filter(|line| line.contains(&mark));
    let row = rows.next().unwrap_or_else(|| panic!("{field} is not documented"));
    assert_eq!(rows.next(), None, "{field} is documented twice");
    let mut cells = row.split('|').map(str::trim).skip(1);
    let offset = cells.next().and_then(|cell| cell.parse().ok());
    let size = cells.next().and_then(|cell| cell.parse().ok());
    (offset.expect("an offset"), size.expect("a size"))
}

/// Shared memory as a file.
struct Memory(File);

impl Memory {
    fn of(fd: impl AsFd) -> Self {
        Self(File::from(fd.as_fd().try_clone_to_owned().unwrap()))
    }

    fn bytes(&self, base: u64, field: &str) -> Vec<u8> {
        let (offset, size) = place(field);
        let mut bytes = vec![0; size];
        self.0.read_exact_at(&mut bytes, base + offset).unwrap();
        bytes
    }

    fn number(&self, base: u64, field: &str) -> u64 {
        let mut bytes = self.bytes(base, field);
        bytes.resize(8, 0);
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    fn at(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

const SPEC: RingSpec = RingSpec {
    stream: 0x1122_3344_5566_7788,
    generation: 3,
    descriptors: 4,
    arena_bytes: 64 * 1024,
    first_position: 100,
    first_seq: 500,
};

/// Where the descriptor for a position is.
fn descriptor(position: u64) -> u64 {
    4096 + position % u64::from(SPEC.descriptors) * 64
}

/// Where the arena begins.
const ARENA: u64 = 4096 + 4096;

#[test]
fn a_generation_is_what_the_document_says() {
    let mut writer = Writer::create(&SPEC, 4).unwrap();
    let memory = Memory::of(writer.memory());
    assert_eq!(memory.0.metadata().unwrap().len(), ARENA + SPEC.arena_bytes);
    assert_eq!(memory.bytes(0, "magic"), b"TRAMRING");
    let expected = [
        ("version", 2),
        ("stream", SPEC.stream),
        ("generation", 3),
        ("descriptors", 4),
        ("arena_bytes", SPEC.arena_bytes),
        ("first_position", 100),
        ("first_seq", 500),
        ("head", 100),
        ("oldest", 100),
        ("bytes", 0),
        ("state", 0),
    ];
    for (field, value) in expected {
        assert_eq!(memory.number(0, field), value, "{field}");
    }

    let meta = Meta { flags: 0x0102, time: 77, source_time: -5 };
    writer.try_send(meta, b"", b"in the descriptor").unwrap();
    let at = descriptor(100);
    assert_eq!(memory.number(at, "stamp"), 2 * 101);
    assert_eq!(memory.number(at, "seq"), 500);
    assert_eq!(memory.number(at, "time"), 77);
    assert_eq!(memory.number(at, "source_time").cast_signed(), -5);
    assert_eq!(memory.number(at, "flags"), 0x0102);
    assert_eq!(memory.number(at, "length"), 17);
    assert_eq!(memory.number(at, "head_length"), 1 << 15);
    assert_eq!(&memory.bytes(at, "inline")[..17], b"in the descriptor");

    writer.skip();
    writer.try_send(meta, b"\x01t", b"twenty-one bytes long").unwrap();
    let at = descriptor(101);
    assert_eq!((memory.number(at, "stamp"), memory.number(at, "seq")), (2 * 102, 502));
    assert_eq!((memory.number(at, "length"), memory.number(at, "head_length")), (21, 2));
    let start = ARENA + 64 * memory.number(at, "offset");
    assert_eq!(memory.at(start, 21), b"twenty-one bytes long");
    assert_eq!(memory.at(start + 24, 2), b"\x01t");
    assert_eq!(memory.number(at, "packed"), 0);
    assert_eq!((memory.number(0, "head"), memory.number(0, "bytes")), (102, 38));
    assert_eq!((memory.number(0, "messages"), memory.number(0, "kept")), (2, 2));
    assert_eq!(memory.number(0, "skipped"), 1);

    // Four descriptors: the fifth message takes the place of the first.
    for _ in 0..3 {
        writer.try_send(meta, b"", b"more").unwrap();
    }
    assert_eq!(memory.number(descriptor(100), "stamp"), 2 * 105);
    assert!(memory.number(0, "oldest") > 100);

    writer.begin_wait();
    assert_eq!((memory.number(0, "wait_epoch") % 2, memory.number(0, "waits")), (1, 1));
    assert!(memory.number(0, "wanted") > memory.number(0, "oldest"));
    writer.end_wait();
    assert_eq!(memory.number(0, "wait_epoch") % 2, 0);

    writer.close();
    assert_eq!(memory.number(0, "state"), 1);
    assert_eq!((memory.number(0, "end_position"), memory.number(0, "end_next_seq")), (105, 506));
    assert_eq!(memory.number(0, "successor"), 0);
}

#[test]
fn a_pack_is_what_the_document_says() {
    let spec = RingSpec { descriptors: 128, ..SPEC };
    let arena = 4096 + 2 * 4096;
    let mut writer = Writer::create(&spec, 128).unwrap();
    let memory = Memory::of(writer.memory());
    let meta = Meta { flags: 0x0102, time: 77, source_time: -5 };
    let payloads: [&[u8]; 4] = [b"first", b"", b"eight by", b"last"];
    let pushed = writer.try_push_all(meta, payloads);
    assert_eq!((pushed.last, pushed.refused.is_some()), (Some(503), false));
    let at = 4096 + 100 * 64;
    assert_eq!((memory.number(at, "stamp"), memory.number(at, "seq")), (2 * 101, 500));
    assert_eq!((memory.number(at, "time"), memory.number(at, "flags")), (77, 0x0102));
    assert_eq!((memory.number(at, "head_length"), memory.number(at, "packed")), (0, 4));
    assert_eq!(memory.number(at, "length"), 16 + 8 + 16 + 16);
    let mut next = arena + 64 * memory.number(at, "offset");
    for payload in payloads {
        let length = u64::from_le_bytes(memory.at(next, 8).try_into().unwrap());
        assert_eq!(memory.at(next + 8, payload.len()), payload);
        assert_eq!(length, payload.len() as u64);
        next += 8 + length.next_multiple_of(8);
    }
    assert_eq!((memory.number(0, "head"), memory.number(0, "bytes")), (101, 17));
    assert_eq!((memory.number(0, "messages"), memory.number(0, "kept")), (4, 4));

    // No more than 64, nor more than an eighth of what is kept: 16 here.
    let pushed = writer.try_push_all(meta, [b"x"; 20]);
    assert_eq!(pushed.last, Some(523));
    assert_eq!((memory.number(4096 + 101 * 64, "packed"), memory.number(4096 + 102 * 64, "packed")), (16, 4));
}

#[test]
fn a_reader_page_is_what_the_document_says() {
    let mut writer = Writer::create(&SPEC, 4).unwrap();
    let (doorbell_read, doorbell_write) = rustix::pipe::pipe().unwrap();
    let (space_read, space_write) = rustix::pipe::pipe().unwrap();
    let reading = Arc::new(ReaderLink::new());
    reading.set_bells(doorbell_read, space_write).unwrap();
    let (slot, page) = reading.allocate_slot().unwrap();
    let page = page.unwrap();
    let memory = Memory::of(&page.fd);
    assert_eq!(memory.bytes(0, "page_magic"), b"TRAMPAGE");
    assert_eq!(memory.number(0, "page_version"), 2);
    assert_eq!(memory.number(0, "slots"), page.slots.into());
    let whole = (256 + u64::from(page.slots) * 256).next_multiple_of(4096);
    assert_eq!(memory.0.metadata().unwrap().len(), whole);

    let writing = Arc::new(WriterLink::new(doorbell_write, space_read).unwrap());
    writing.add_page(page.fd, page.first_slot, page.slots).unwrap();
    let start = writer.add_reader(1, &writing, slot, ReadMode::Lossy, 0).unwrap();
    let ring = writer.memory().try_clone_to_owned().unwrap();
    let mut reader = Reader::attach(ring, &SPEC.identity(), &reading, slot, start, true).unwrap();
    let at = 256 + u64::from(slot) * 256;
    assert_eq!(memory.number(at, "cursor"), 100);
    assert_eq!((memory.number(at, "sleep_epoch"), memory.number(at, "pins_used")), (0, 0));
    assert_eq!(memory.bytes(at, "pins"), [0; 128]);

    // A sleeping reader is rung by its slot's number.
    assert!(!reader.arm());
    assert_eq!(memory.number(at, "sleep_epoch") % 2, 1);
    writer.try_send(Meta::default(), b"", &[7; 8192]).unwrap();
    let mut rung = Vec::new();
    reading.drain(&mut rung);
    assert_eq!(rung, [slot]);
    reader.disarm();
    assert_eq!(memory.number(at, "sleep_epoch") % 2, 0);

    // What is held in place is pinned as position + 1.
    let mut scratch = Vec::new();
    let Next::Message(held) = reader.try_next(&mut scratch).unwrap() else { panic!("a message was sent") };
    assert!(matches!(held.body, Body::Pinned(_)));
    let pins = memory.bytes(at, "pins");
    assert_eq!(pins.chunks(8).filter(|pin| **pin == 101_u64.to_le_bytes()).count(), 1);
    assert_eq!((memory.number(at, "pins_used"), memory.number(at, "cursor")), (1, 101));
    assert_eq!(memory.number(at, "read_seq"), 500);
    drop(held);
    assert_eq!(memory.bytes(at, "pins"), [0; 128]);

    // Six more through four descriptors: a lossy reader loses the oldest, and says so.
    for number in 0..6_u8 {
        writer.try_send(Meta::default(), b"", &[number]).unwrap();
    }
    let Next::Message(next) = reader.try_next(&mut scratch).unwrap() else { panic!("messages were sent") };
    assert!(next.lost > 0 && next.seq == 501 + next.lost);
    assert_eq!(memory.number(at, "lost"), next.lost);

    // However many messages come, a sleeping reader is rung once.
    while let Next::Message(_) = reader.try_next(&mut scratch).unwrap() {}
    for _ in 0..2 {
        assert!(!reader.arm());
        for number in 0..3_u8 {
            writer.try_send(Meta::default(), b"", &[number]).unwrap();
        }
        rung.clear();
        reading.drain(&mut rung);
        assert_eq!(rung, [slot]);
        reader.disarm();
        while let Next::Message(_) = reader.try_next(&mut scratch).unwrap() {}
    }
    drop(reader);
    assert_eq!(memory.number(at, "cursor"), u64::MAX);
}
