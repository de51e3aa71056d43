//! Conversations on a real socket, both sides byte for byte: every frame that `docs/protocol.md` describes, in
//! the order it describes, with rings and reader pages made by hand.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;
mod support;

use raw::{Raw, message, shown, subscription};
use rustix::process::Signal;
use std::os::fd::AsFd;
use std::sync::Arc;
use support::Broker;
use tramline_ring::{
    Body, Meta, Next, ReadMode, Reader, ReaderLink, RingIdentity, RingSpec, Start, Writer, WriterLink,
};
use tramline_wire::{
    Accept, Admit, After, Attach, Code, Deliver, Encoding, GateLimits, GatedBy, Geometry, Message,
    MessageFlags, Mode, Offer, OpenStream, PageDeclaration, Publish, SlowPolicy, Source, Subscribe, ToBroker,
    ToClient, Welcome, preamble,
};

const STREAM: u64 = 0x1122_3344_5566_7788;

fn own_ids() -> (u32, u32) {
    (rustix::process::getuid().as_raw(), std::process::id())
}

/// Publishes one message without anything special.
fn publish(client: &mut Raw, alias: u32, seq: u64, payload: &[u8]) {
    client.send(&ToBroker::Publish(Publish { alias, message: message(seq, payload) }));
}

#[test]
fn greeting_ping_and_farewell() {
    let mut broker = Broker::start();
    let mut client = Raw::connect(broker.socket());
    client.write(&[0x93, b'T', b'R', b'A', b'M', 1, 9, 0]);
    client.send(&ToBroker::Hello { name: "anna", client: 0 });
    let mut answer = [0; 8];
    client.read_exact(&mut answer);
    assert_eq!(answer, [0x93, b'T', b'R', b'A', b'M', preamble::VERSION_MAX, 1, preamble::VERSION_MAX]);
    let body = client.body();
    let Ok(ToClient::Welcome(welcome)) = ToClient::decode(&body) else { panic!("{}", shown(&body)) };
    let limits = tramline::core::limits::Limits::default();
    let expected = Welcome {
        session: welcome.session,
        instance: welcome.instance,
        version: env!("CARGO_PKG_VERSION"),
        frame_bytes_max: limits.frame_bytes_max,
        attach_timeout_millis: limits.attach_timeout_millis,
        subscriptions_max: limits.session_subscriptions_max,
        streams_max: limits.session_streams_max,
        ring_bytes_max: limits.ring_bytes_max,
        ring_default: limits.ring_default,
        gate: GateLimits {
            budget_millis: limits.gate_budget_millis_max,
            publisher_millis: limits.gate_publisher_millis_max,
            window_millis: limits.gate_window_millis,
            cooldown_millis: limits.gate_cooldown_millis,
            held_bytes_max: limits.held_bytes_max,
        },
    };
    assert_eq!(welcome, expected);
    client.send(&ToBroker::Ping { req: 77 });
    client.expect(&ToClient::Pong { req: 77 });
    broker.signal(Signal::TERM);
    client.expect_close(Code::ShuttingDown);
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn a_message_its_confirmation_and_the_end_of_a_subscription() {
    let broker = Broker::start();
    let (mut reader, _) = Raw::open(broker.socket(), "reader");
    let (mut writer, session) = Raw::open(broker.socket(), "writer");
    reader.subscribe(7, "gps.>");
    writer.send(&ToBroker::Topic { alias: 3, topic: "gps.fix" });
    let sent = Message {
        flags: MessageFlags::new(Encoding::Json).with_confirm().with_source_time(),
        seq: 1,
        time: 123_456,
        source_time: -5,
        after: None,
        head: b"\x03TPV\x01a\x02\x00bc",
        payload: br#"{"lat":52.5}"#,
    };
    writer.send(&ToBroker::Publish(Publish { alias: 3, message: sent }));
    let (uid, pid) = own_ids();
    reader.expect(&ToClient::Source(Source {
        alias: 0,
        topic: "gps.fix",
        session,
        name: "writer",
        uid,
        pid,
        client: 0,
    }));
    let payload_length = sent.payload.len() as u64;
    reader.expect(&ToClient::Deliver(Deliver { sub: 7, source: 0, payload_length, message: sent }));
    writer.expect(&ToClient::Confirmed { alias: 3, seq: 1, receivers: 1 });

    // The alias is known now; an empty payload is a message as well.
    publish(&mut writer, 3, 2, b"");
    let again = Deliver { sub: 7, source: 0, payload_length: 0, message: message(2, b"") };
    reader.expect(&ToClient::Deliver(again));

    // A topic alias defined anew means something else from there on.
    writer.send(&ToBroker::Topic { alias: 3, topic: "radio" });
    publish(&mut writer, 3, 1, b"not for this filter");
    reader.send(&ToBroker::Unsubscribe { req: 8, sub: 7 });
    reader.expect(&ToClient::Done { req: 8 });
    writer.send(&ToBroker::Topic { alias: 3, topic: "gps.fix" });
    publish(&mut writer, 3, 3, b"too late");
    assert_eq!(writer.settle(), Vec::<Vec<u8>>::new());
    assert_eq!(reader.settle(), Vec::<Vec<u8>>::new());

    // Its number is free again, and the publisher's end is told to whoever knew it by an alias.
    reader.subscribe(7, "gps.fix");
    drop(writer);
    reader.expect(&ToClient::SourceGone { alias: 0 });
}

#[test]
fn order_is_kept_for_each_publisher_and_a_publisher_hears_itself() {
    let broker = Broker::start();
    let (mut client, _) = Raw::open(broker.socket(), "self");
    client.subscribe(1, "a.*");
    client.send(&ToBroker::Topic { alias: 0, topic: "a.b" });
    for seq in 1..=500 {
        publish(&mut client, 0, seq, &seq.to_le_bytes());
    }
    let before = client.settle();
    let numbers: Vec<u64> = before
        .iter()
        .filter_map(|body| match ToClient::decode(body).unwrap() {
            ToClient::Deliver(deliver) => {
                assert_eq!(deliver.message.payload, deliver.message.seq.to_le_bytes());
                Some(deliver.message.seq)
            }
            _ => None,
        })
        .collect();
    assert_eq!(numbers, (1..=500).collect::<Vec<_>>());
}

/// What a slow reader got: messages, and what it was told was lost.
fn account(reader: &mut Raw, last: u64) -> (u64, u64) {
    let (mut received, mut lost, mut expected) = (0, 0, 1);
    loop {
        let body = reader.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Deliver(deliver) => {
                assert_eq!(deliver.message.seq, expected, "a loss that was not told, or wrongly");
                received += 1;
                expected += 1;
                if deliver.message.seq == last {
                    return (received, lost);
                }
            }
            ToClient::Gap { sub: 1, topic: "a.b", lost: more, source: Some(0) } => {
                assert!(more > 0);
                lost += more;
                expected += more;
            }
            ToClient::Source(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

const SMALL_QUEUES: &str =
    "limits:\n  outbox_bytes_max: 16KiB\n  backlog_bytes_max: 64KiB\n  block_millis_max: 60000\n";

/// Publishes `count` messages of 1 KiB on "a.b" and waits until the broker has taken all.
fn flood(broker: &Broker, count: u64) -> Raw {
    let (mut writer, _) = Raw::open(broker.socket(), "writer");
    writer.send(&ToBroker::Topic { alias: 0, topic: "a.b" });
    for seq in 1..=count {
        publish(&mut writer, 0, seq, &[7; 1024]);
    }
    writer.settle();
    writer
}

fn slow_reader(broker: &Broker, slow: SlowPolicy) -> Raw {
    let (mut reader, _) = Raw::open(broker.socket(), "slow");
    reader.send(&ToBroker::Subscribe(Subscribe { slow, ..subscription(1, "a.b") }));
    reader.expect(&ToClient::Subscribed { req: 1, sub: 1, streams: 0, pending: 0 });
    reader
}

#[test]
fn the_oldest_are_dropped_and_every_loss_is_told_exactly() {
    let broker = Broker::with_config(SMALL_QUEUES);
    let mut reader = slow_reader(&broker, SlowPolicy::DropOldest);
    let _writer = flood(&broker, 5_000);
    let (received, lost) = account(&mut reader, 5_000);
    assert_eq!(received + lost, 5_000);
    assert!(lost > 0, "nothing was lost although nobody read");
}

#[test]
fn who_blocks_its_publishers_loses_nothing_once_it_reads() {
    let broker = Broker::with_config(SMALL_QUEUES);
    let mut reader = slow_reader(&broker, SlowPolicy::Block { millis: 60_000 });
    std::thread::scope(|scope| {
        scope.spawn(|| flood(&broker, 5_000));
        // The publisher is held up by now, or will be; either way nothing is lost.
        assert_eq!(account(&mut reader, 5_000), (5_000, 0));
    });
}

#[test]
fn who_blocks_for_too_long_loses_the_oldest_and_its_publishers_go_on() {
    let broker = Broker::with_config(SMALL_QUEUES);
    let mut reader = slow_reader(&broker, SlowPolicy::Block { millis: 20 });
    let _writer = flood(&broker, 5_000);
    let (received, lost) = account(&mut reader, 5_000);
    assert_eq!(received + lost, 5_000);
    assert!(lost > 0);
}

#[test]
fn who_wants_to_be_disconnected_is() {
    let broker = Broker::with_config(SMALL_QUEUES);
    let mut reader = slow_reader(&broker, SlowPolicy::Disconnect);
    let _writer = flood(&broker, 5_000);
    loop {
        let body = reader.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Deliver(_) | ToClient::Source(_) => {}
            ToClient::Close { code, message } => {
                assert_eq!(code, Code::SlowSubscriber.number());
                assert!(message.contains("limits.backlog_bytes_max"), "{message}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(reader.try_body(), None);
}

const GEOMETRY: Geometry = Geometry { descriptors: 16, arena_bytes: 64 * 1024 };

/// A ring as a publisher makes it.
fn ring(first_seq: u64) -> Writer {
    let Geometry { descriptors, arena_bytes } = GEOMETRY;
    let spec =
        RingSpec { stream: STREAM, generation: 0, descriptors, arena_bytes, first_position: 0, first_seq };
    Writer::create(&spec, 16).unwrap()
}

fn identity() -> RingIdentity {
    let Geometry { descriptors, arena_bytes } = GEOMETRY;
    RingIdentity { stream: STREAM, generation: 0, descriptors, arena_bytes }
}

fn open_stream(first_seq: u64) -> OpenStream {
    let gated_by = GatedBy::OwnUid;
    OpenStream {
        req: 5,
        alias: 0,
        stream: STREAM,
        generation: 0,
        geometry: GEOMETRY,
        first_seq,
        gated_by,
        fds: 1,
    }
}

/// One publisher and one subscriber on "cam", by hand.
struct Pair {
    writer: Raw,
    writer_session: u64,
    reader: Raw,
    reader_session: u64,
    ring: Writer,
    link: Arc<ReaderLink>,
}

impl Pair {
    fn new(broker: &Broker) -> Self {
        let (reader, reader_session) = Raw::open(broker.socket(), "reader");
        let (mut writer, writer_session) = Raw::open(broker.socket(), "writer");
        writer.send(&ToBroker::Topic { alias: 0, topic: "cam" });
        Self {
            writer,
            writer_session,
            reader,
            reader_session,
            ring: ring(1),
            link: Arc::new(ReaderLink::new()),
        }
    }

    /// The subscriber is there first.
    fn subscribed_and_declared(broker: &Broker) -> Self {
        let mut pair = Self::new(broker);
        pair.subscribe();
        pair.reader.expect(&ToClient::Subscribed { req: 1, sub: 1, streams: 0, pending: 0 });
        pair.declare();
        pair
    }

    fn subscribe(&mut self) {
        let wanted = Subscribe { rings: true, mode: Mode::Gated, history: 4, ..subscription(1, "cam") };
        self.reader.send(&ToBroker::Subscribe(wanted));
    }

    fn declare(&mut self) {
        self.writer.send_with(&ToBroker::OpenStream(open_stream(1)), &[self.ring.memory()]);
    }

    /// The subscriber is offered the stream, and takes it with a new page.
    fn offer_and_accept(&mut self) -> (u64, u64, u32, PageDeclaration) {
        let (uid, pid) = own_ids();
        let source = Source {
            alias: 0,
            topic: "cam",
            session: self.writer_session,
            name: "writer",
            uid,
            pid,
            client: 0,
        };
        self.reader.expect(&ToClient::Source(source));
        let body = self.reader.body();
        let Ok(ToClient::Offer(offer)) = ToClient::decode(&body) else { panic!("{}", shown(&body)) };
        let Offer { attach, link, .. } = offer;
        let expected = Offer {
            attach,
            sub: 1,
            source: 0,
            stream: STREAM,
            link,
            mode: Mode::Gated,
            in_place: true,
            retained: false,
        };
        assert_eq!(offer, expected);
        let (slot, page) = self.link.allocate_slot().unwrap();
        let page = page.unwrap();
        let declaration = PageDeclaration { first_slot: page.first_slot, slots: page.slots };
        let accept = Accept { attach, slot, page: Some(declaration), fds: 1 };
        self.reader.send_with(&ToBroker::Accept(accept), &[page.fd.as_fd()]);
        (attach, link, slot, declaration)
    }

    /// The publisher is asked to admit the reader, and does.
    fn admit(&mut self, attach: u64, link: u64, slot: u32, page: PageDeclaration) -> Start {
        self.writer.expect(&ToClient::Admit(Admit {
            attach,
            stream: STREAM,
            link,
            slot,
            mode: Mode::Gated,
            history: 4,
            keep_millis: 0,
            session: self.reader_session,
            name: "reader",
            page: Some(page),
            bells: true,
            fds: 3,
        }));
        let mut fds = self.writer.fds.drain(..);
        let (page_fd, doorbell, space) = (fds.next().unwrap(), fds.next().unwrap(), fds.next().unwrap());
        assert!(fds.next().is_none());
        drop(fds);
        let writer_link = Arc::new(WriterLink::new(doorbell, space).unwrap());
        writer_link.add_page(page_fd, page.first_slot, page.slots).unwrap();
        let start = self.ring.add_reader(attach, &writer_link, slot, ReadMode::Gated, 4).unwrap();
        self.writer.send(&ToBroker::Admitted {
            attach,
            start: start.position,
            start_seq: start.seq,
            generation: 0,
        });
        start
    }

    /// Both agree to the attachment.
    fn meet(&mut self) -> (u64, u32, Start) {
        let (attach, link, slot, page) = self.offer_and_accept();
        let start = self.admit(attach, link, slot, page);
        (attach, slot, start)
    }

    /// The subscriber gets the memory, and reads.
    fn attach(&mut self, attach: u64, slot: u32, start: Start) -> Reader {
        self.reader.expect(&ToClient::Attach(Attach {
            attach,
            generation: 0,
            geometry: GEOMETRY,
            start: start.position,
            start_seq: start.seq,
            bells: true,
            fds: 3,
        }));
        let mut fds = self.reader.fds.drain(..);
        let (memory, doorbell, space) = (fds.next().unwrap(), fds.next().unwrap(), fds.next().unwrap());
        assert!(fds.next().is_none());
        drop(fds);
        self.link.set_bells(doorbell, space).unwrap();
        let reader = Reader::attach(memory, &identity(), &self.link, slot, start, true).unwrap();
        self.reader.send(&ToBroker::Attached { attach });
        reader
    }
}

fn next(reader: &mut Reader) -> Option<(u64, Vec<u8>)> {
    let mut scratch = Vec::new();
    match reader.try_next(&mut scratch).unwrap() {
        Next::Message(received) => {
            let Body::Copied { payload, .. } = received.body else { panic!("small messages are copied") };
            assert_eq!(received.lost, 0);
            Some((received.seq, scratch[payload].to_vec()))
        }
        Next::Empty => None,
        Next::Ended { lost: 0 } => Some((0, b"end".to_vec())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_reaches_a_subscriber_that_was_there_before() {
    let broker = Broker::start();
    let mut pair = Pair::subscribed_and_declared(&broker);
    let (attach, slot, start) = pair.meet();
    assert_eq!((start.position, start.seq), (0, 1));
    pair.writer.expect(&ToClient::StreamOpened { req: 5, stream: STREAM, readers: 1, pending: 0 });
    let mut reader = pair.attach(attach, slot, start);

    // From here on the broker is not asked: it is stopped, and messages flow.
    broker.signal(Signal::STOP);
    assert!(!reader.arm());
    pair.ring.try_send(Meta::default(), b"", b"one").unwrap();
    pair.ring.try_send(Meta::default(), b"", b"two").unwrap();
    let mut bell = [rustix::event::PollFd::from_borrowed_fd(
        pair.link.doorbell().unwrap(),
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut bell, None).unwrap();
    assert_eq!(next(&mut reader), Some((1, b"one".to_vec())));
    assert_eq!(next(&mut reader), Some((2, b"two".to_vec())));
    broker.signal(Signal::CONT);

    // The end: the reader is told by the ring, and by the broker.
    pair.ring.try_send(Meta::default(), b"", b"last").unwrap();
    pair.ring.close();
    pair.writer.send(&ToBroker::CloseStream { req: 6, stream: STREAM, last_seq: 3 });
    pair.writer.expect(&ToClient::Done { req: 6 });
    pair.reader.expect(&ToClient::Detach { attach, code: 0 });
    assert_eq!(next(&mut reader), Some((3, b"last".to_vec())));
    assert_eq!(next(&mut reader), Some((0, b"end".to_vec())));

    // Back on the socket: the message says which one of the ring it follows, and the reader gets it so.
    let after = Message { after: Some(After { stream: STREAM, seq: 3 }), ..message(4, b"by socket") };
    pair.writer.send(&ToBroker::Publish(Publish { alias: 0, message: after }));
    pair.reader.expect(&ToClient::Deliver(Deliver { sub: 1, source: 0, payload_length: 9, message: after }));
}

#[test]
fn a_stream_reaches_a_subscriber_that_comes_later_with_the_past_it_asks_for() {
    let broker = Broker::start();
    let mut pair = Pair::new(&broker);
    pair.declare();
    pair.writer.expect(&ToClient::StreamOpened { req: 5, stream: STREAM, readers: 0, pending: 0 });
    for number in 1..=6_u8 {
        pair.ring.try_send(Meta::default(), b"", &[number]).unwrap();
    }
    pair.subscribe();
    let (attach, slot, start) = pair.meet();
    let mut reader = pair.attach(attach, slot, start);
    pair.reader.expect(&ToClient::Subscribed { req: 1, sub: 1, streams: 1, pending: 0 });
    for number in 3..=6_u8 {
        assert_eq!(next(&mut reader), Some((number.into(), vec![number])));
    }
    assert_eq!(next(&mut reader), None);

    // The subscription ends: its publisher is told to forget the reader.
    pair.reader.send(&ToBroker::Unsubscribe { req: 9, sub: 1 });
    pair.reader.expect(&ToClient::Done { req: 9 });
    pair.writer.expect(&ToClient::Detach { attach, code: 0 });
}

#[test]
fn a_publisher_that_dies_is_told_of_and_what_it_published_is_read() {
    let broker = Broker::start();
    let mut pair = Pair::subscribed_and_declared(&broker);
    let (attach, slot, start) = pair.meet();
    let mut reader = pair.attach(attach, slot, start);
    pair.ring.try_send(Meta::default(), b"", b"whole").unwrap();
    drop(pair.writer);
    pair.reader.expect(&ToClient::Detach { attach, code: Code::PeerGone.number() });
    pair.reader.expect(&ToClient::SourceGone { alias: 0 });
    assert_eq!(next(&mut reader), Some((1, b"whole".to_vec())));
}

#[test]
fn a_subscriber_that_dies_is_told_of() {
    let broker = Broker::start();
    let mut pair = Pair::subscribed_and_declared(&broker);
    let (attach, ..) = pair.meet();
    pair.writer.expect(&ToClient::StreamOpened { req: 5, stream: STREAM, readers: 1, pending: 0 });
    drop(pair.reader);
    pair.writer.expect(&ToClient::Detach { attach, code: Code::PeerGone.number() });
}

#[test]
fn nobody_waits_for_ever_for_the_other_side() {
    let broker = Broker::with_config("limits:\n  attach_timeout_millis: 50\n");
    // The subscriber does not answer the offer: the publisher goes on.
    let mut pair = Pair::subscribed_and_declared(&broker);
    pair.writer.expect(&ToClient::StreamOpened { req: 5, stream: STREAM, readers: 0, pending: 1 });
    // It answers after all, and is attached; the publisher is slow this time, and the second subscription goes on.
    let (attach, slot, start) = pair.meet();
    let mut reader = pair.attach(attach, slot, start);
    pair.ring.try_send(Meta::default(), b"", b"late but there").unwrap();
    assert_eq!(next(&mut reader), Some((1, b"late but there".to_vec())));
    let second = Subscribe { req: 2, sub: 2, rings: true, ..subscription(2, "*") };
    pair.reader.send(&ToBroker::Subscribe(second));
    let body = pair.reader.body();
    assert!(matches!(ToClient::decode(&body), Ok(ToClient::Offer(_))), "{}", shown(&body));
    pair.reader.expect(&ToClient::Subscribed { req: 2, sub: 2, streams: 0, pending: 1 });
}

#[test]
fn either_side_may_refuse_an_attachment() {
    let broker = Broker::start();
    let mut pair = Pair::subscribed_and_declared(&broker);
    let (attach, ..) = pair.offer_and_accept();
    let body = pair.writer.body();
    assert!(matches!(ToClient::decode(&body), Ok(ToClient::Admit(_))), "{}", shown(&body));
    let code = Code::GateRefused.number();
    pair.writer.send(&ToBroker::Detach { attach, code });
    pair.reader.expect(&ToClient::Detach { attach, code });
    pair.writer.expect(&ToClient::StreamOpened { req: 5, stream: STREAM, readers: 0, pending: 0 });
    // Late words about it are no offence.
    pair.writer.send(&ToBroker::Admitted { attach, start: 0, start_seq: 1, generation: 0 });
    pair.reader.send(&ToBroker::Detach { attach, code: 0 });
    assert_eq!(pair.writer.settle().len() + pair.reader.settle().len(), 0);
}
