//! Readers that hold messages in place while the writer has no room.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use common::{attach, link};
use tramline_ring::{
    Body, GateBudget, Generation, Meta, Next, Pinned, ReadMode, Reader, RingSpec, SendError, SetAside,
    Successor, Writer,
};

const LARGE: usize = 16 * 1024;
const BUDGET: GateBudget = GateBudget { reader: 100, writer: 100_000, window: 1_000, cooldown: 5_000 };

fn hold(reader: &mut Reader) -> Pinned {
    match reader.try_next(&mut Vec::new()).unwrap() {
        Next::Message(message) => match message.body {
            Body::Pinned(pinned) => pinned,
            body => panic!("{body:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn send(writer: &mut Writer, byte: u8) -> Result<u64, SendError> {
    writer.try_send(Meta::default(), b"", &[byte; LARGE])
}

#[test]
fn whoever_holds_too_much_of_a_full_ring_is_set_aside_and_keeps_it() {
    for mode in [ReadMode::Lossy, ReadMode::Gated] {
        let spec = RingSpec::sized(7, LARGE as u64, 4).unwrap();
        let mut writer = Writer::create(&spec, 4).unwrap();
        writer.set_gate_budget(BUDGET);
        writer.set_held_bytes_max(0);
        let (one, two) = (link(), link());
        let mut holder = attach(&mut writer, &one, 1, mode, 0, true);
        let mut other = attach(&mut writer, &two, 2, ReadMode::Gated, 0, true);
        let mut held = Vec::new();
        let mut byte = 0;
        while send(&mut writer, byte).is_ok() {
            held.push((byte, hold(&mut holder)));
            drop(hold(&mut other));
            byte += 1;
        }
        assert!(held.len() >= 4);
        // Not before its time, and with a time to look again.
        assert!(!writer.found_full(1_000, true));
        assert_eq!(writer.look_again_at(), Some(1_100));
        assert!(!writer.look_at_gates(1_099));
        assert!(writer.look_at_gates(1_100));
        let told = writer.take_set_aside();
        assert!(matches!(told[..], [SetAside { reader: 1, bytes }] if bytes >= 3 * LARGE as u64), "{told:?}");
        assert!(writer.has_set_aside() && writer.reader_count() == 1);
        // Its bytes are not used again as long as it holds them, but those that it lets go are.
        assert_eq!(send(&mut writer, byte), Err(SendError::Full { holder: None }));
        held.remove(0);
        assert!(send(&mut writer, byte).is_ok());
        assert_eq!(hold(&mut other).payload()[0], byte);
        // A new generation has all its room.
        let next = Generation::create(&RingSpec { generation: 1, ..*writer.spec() }, 4).unwrap();
        let memory = next.memory().try_clone_to_owned().unwrap();
        other.offer(Successor::open(memory, &next.spec().identity()).unwrap()).unwrap();
        writer.succeed(next).unwrap();
        assert!(!writer.has_set_aside());
        for byte in 100..120 {
            send(&mut writer, byte).unwrap();
            assert_eq!(hold(&mut other).payload(), [byte; LARGE]);
        }
        for (byte, sample) in held {
            assert_eq!(sample.payload(), [byte; LARGE], "what is held stays as it is");
        }
    }
}

#[test]
fn whoever_holds_no_more_than_it_may_is_waited_for() {
    let spec = RingSpec::sized(7, LARGE as u64, 4).unwrap();
    let mut writer = Writer::create(&spec, 4).unwrap();
    writer.set_gate_budget(BUDGET);
    writer.set_held_bytes_max(1 << 30);
    let link = link();
    let mut holder = attach(&mut writer, &link, 1, ReadMode::Lossy, 0, true);
    let mut held = Vec::new();
    while send(&mut writer, 1).is_ok() {
        held.push(hold(&mut holder));
    }
    assert!(!writer.found_full(1_000, true) && !writer.found_full(9_000, true));
    assert_eq!((writer.look_again_at(), writer.reader_count()), (None, 1));
    held.clear();
    assert!(send(&mut writer, 1).is_ok());
}
