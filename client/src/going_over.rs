//! Tests of `reading` and `consumer` with rings that they write themselves: what comes before a socket message comes before
//! it, also where one attachment takes over from another on the way; and rings that never pause do not keep the rest
//! from being looked at.

use crate::consumer::Consumer;
use crate::inbox::NewStream;
use crate::message::Source;
use crate::reading::{Found, Rings};
use std::sync::Arc;
use std::time::Duration;
use tramline_ring::{Meta, Reader, ReaderLink, RingIdentity, RingSpec, Spinner, Start, Writer};
use tramline_wire::{After, Mode};

/// An attachment to the writer's stream that begins with message `first_seq`.
fn attachment(writer: &Writer, attach: u64, first_seq: u64) -> Box<NewStream> {
    let RingSpec { stream, generation, descriptors, arena_bytes, .. } = *writer.spec();
    let identity = RingIdentity { stream, generation, descriptors, arena_bytes };
    let link = Arc::new(ReaderLink::new());
    let (slot, _) = link.allocate_slot().expect("a slot");
    let memory = writer.memory().try_clone_to_owned().expect("a descriptor");
    let start = Start { position: first_seq - 1, seq: first_seq };
    let reader = Reader::attach(memory, &identity, &link, slot, start, false).expect("a reader");
    let source =
        Source { topic: "t".to_owned(), name: "p".to_owned(), session: 1, uid: 0, pid: 1, client: 7 };
    Box::new(NewStream {
        attach,
        token: attach,
        stream,
        first_seq,
        reader,
        carry: None,
        source: Arc::new(source),
        mode: Mode::Lossy,
        retained: false,
        link,
        link_token: attach,
    })
}

/// What comes of a stream before the socket message that follows its message `seq`.
fn before(rings: &mut Rings, seq: u64) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        match rings.take_before(After { stream: 77, seq }) {
            Found::Message(message) => found.push(message.seq()),
            Found::Nothing => return found,
            _ => {}
        }
    }
}

#[test]
fn a_socket_message_waits_for_the_ring_across_two_attachments() {
    let mut writer = Writer::create(&RingSpec::sized(77, 100, 8).expect("a size"), 8).expect("memory");
    let send = |writer: &mut Writer| {
        let meta = Meta { flags: 0, time: 1, source_time: 0 };
        writer.try_send(meta, &[], &[0; 100]).expect("nobody is in the way")
    };
    let mut rings = Rings::default();
    rings.add(attachment(&writer, 1, 1));
    send(&mut writer);
    assert_eq!(before(&mut rings, 1), [1]);
    // The broker has died and come back; this client is attached anew from the second message on.
    rings.add(attachment(&writer, 2, 2));
    for _ in 0..3 {
        send(&mut writer);
    }
    assert_eq!(before(&mut rings, 3), [2, 3]);
    assert_eq!(before(&mut rings, 4), [4]);
}

#[test]
fn a_ring_that_always_has_something_is_waited_for_alone_only_so_often() {
    let mut writer = Writer::create(&RingSpec::sized(77, 100, 8).expect("a size"), 8).expect("memory");
    let mut spinner = Spinner::new(Duration::MAX);
    spinner.busy();
    let mut consumer = Consumer::new(spinner);
    consumer.rings.add(attachment(&writer, 1, 1));
    assert!(!consumer.glance(), "nothing is there");
    writer
        .try_send(Meta { flags: 0, time: 1, source_time: 0 }, &[], &[0; 100])
        .expect("nobody is in the way");
    for _ in 0..3 {
        // After that, whoever waits looks at the socket as well.
        assert_eq!((0..1000).take_while(|_| consumer.glance()).count(), 64);
    }
}
