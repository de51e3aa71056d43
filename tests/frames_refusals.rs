//! What the broker says to a client that breaks a rule or meets a limit: each code, from a real broker, with a
//! sentence; and that nobody else notices.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;
mod support;

use raw::{Raw, message, shown, subscription};
use rustix::fs::{MemfdFlags, SealFlags};
use std::os::fd::{AsFd, OwnedFd};
use support::Broker;
use tramline_ring::{RingSpec, Writer};
use tramline_wire::{
    Accept, Code, GatedBy, Geometry, OpenStream, PageDeclaration, Publish, SlowPolicy, Subscribe, ToBroker,
    ToClient, preamble,
};

/// A broker with a bystander, who must notice nothing of what others do wrong.
struct Stage {
    broker: Broker,
    bystander: Raw,
}

impl Stage {
    fn new(yaml: &str) -> Self {
        let broker = Broker::with_config(yaml);
        let (mut bystander, _) = Raw::open(broker.socket(), "bystander");
        bystander.subscribe(1, "bystander.>");
        bystander.send(&ToBroker::Topic { alias: 0, topic: "bystander.says" });
        Self { broker, bystander }
    }

    fn client(&self) -> Raw {
        Raw::open(self.broker.socket(), "rude").0
    }

    /// Sends bytes in a fresh session and expects it to be closed for this reason.
    fn closes(&mut self, code: Code, send: impl FnOnce(&mut Raw)) -> String {
        let mut client = self.client();
        send(&mut client);
        let sentence = client.expect_close(code);
        self.undisturbed();
        sentence
    }

    /// Waits until the broker has as many open files as before: it closes them on another thread. The watchdog ends
    /// this if it never does.
    fn files_settle_at(&mut self, count: usize) {
        while self.broker.open_files() > count {
            self.undisturbed();
        }
    }

    /// The bystander publishes to itself, and that is all it hears.
    fn undisturbed(&mut self) {
        self.bystander.send(&ToBroker::Publish(Publish { alias: 0, message: message(1, b"well") }));
        let before = self.bystander.settle();
        let heard = before.iter().map(|body| ToClient::decode(body).unwrap());
        let heard: Vec<_> = heard.filter(|frame| !matches!(frame, ToClient::Source(_))).collect();
        assert!(matches!(heard[..], [ToClient::Deliver(_)]), "{heard:?}");
    }
}

/// A body as a frame.
fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_le_bytes(), body].concat()
}

#[test]
fn bytes_that_are_no_frame_end_the_session() {
    let mut stage = Stage::new("");
    let sentence = stage.closes(Code::FrameTooLarge, |client| client.write(&[0xff; 8]));
    assert!(sentence.contains("limits.frame_bytes_max"), "{sentence}");
    stage.closes(Code::Unsupported, |client| client.write(&framed(&99_u32.to_le_bytes())));
    stage.closes(Code::Malformed, |client| client.write(&framed(&[])));
    stage.closes(Code::Malformed, |client| client.write(&framed(&[11, 0, 0, 0, 1])));
    let mut ping = Vec::new();
    ToBroker::Ping { req: 1 }.encode(&mut ping);
    ping.push(0);
    ping[0] += 1;
    stage.closes(Code::Malformed, |client| client.write(&ping));
    // A text longer than the frame, and one that is not UTF-8.
    let longer = [&[1, 0, 0, 0, 0, 0, 0, 0][..], &u64::MAX.to_le_bytes()].concat();
    stage.closes(Code::Malformed, |client| client.write(&framed(&longer)));
    let not_text = [&[1, 0, 0, 0, 0, 0, 0, 0][..], &1_u64.to_le_bytes(), &[0xff]].concat();
    stage.closes(Code::Malformed, |client| client.write(&framed(&not_text)));
}

#[test]
fn frames_out_of_order_end_the_session() {
    let mut stage = Stage::new("");
    stage.closes(Code::OutOfOrder, |client| client.send(&ToBroker::Hello { name: "again", client: 0 }));
    let mut early = Raw::connect(stage.broker.socket());
    early.write(&preamble::request());
    early.send(&ToBroker::Ping { req: 1 });
    early.read_exact(&mut [0; preamble::PREAMBLE_BYTES]);
    early.expect_close(Code::OutOfOrder);
    let mut long = Raw::connect(stage.broker.socket());
    long.write(&preamble::request());
    long.send(&ToBroker::Hello { name: &"n".repeat(65), client: 0 });
    long.read_exact(&mut [0; preamble::PREAMBLE_BYTES]);
    long.expect_close(Code::Malformed);
    stage.undisturbed();
}

#[test]
fn other_versions_and_other_languages_are_turned_away() {
    let stage = Stage::new("");
    let mut newer = Raw::connect(stage.broker.socket());
    newer.write(&[0x93, b'T', b'R', b'A', b'M', 100, 200, 0]);
    let answer = newer.rest().try_into().unwrap();
    let error = preamble::accept(answer).unwrap_err();
    assert!(matches!(error, preamble::PreambleError::NoCommonVersion { min: 1, .. }), "{error}");
    for strange in [&b"\x16\x03\x01\x00\x05hello"[..], &[0x93, b'T', b'R', b'A', b'N', 1, 1, 0]] {
        let mut client = Raw::connect(stage.broker.socket());
        client.write(strange);
        let answer = String::from_utf8(client.rest()).unwrap();
        assert!(answer.contains("Tramline broker") && answer.ends_with('\n'), "{answer:?}");
    }
}

#[test]
fn ids_that_are_not_there_or_taken_end_the_session() {
    let mut stage = Stage::new("");
    let publish = ToBroker::Publish(Publish { alias: 9, message: message(1, b"") });
    stage.closes(Code::BadId, |client| client.send(&publish));
    stage.closes(Code::BadId, |client| client.send(&ToBroker::Topic { alias: 4096, topic: "a" }));
    stage.closes(Code::BadId, |client| client.send(&ToBroker::Unsubscribe { req: 1, sub: 5 }));
    stage
        .closes(Code::BadId, |client| client.send(&ToBroker::CloseStream { req: 1, stream: 5, last_seq: 0 }));
    stage.closes(Code::BadId, |client| client.send(&ToBroker::Attached { attach: 5 }));
    stage.closes(Code::BadId, |client| client.send(&ToBroker::Detach { attach: 0, code: 0 }));
    stage.closes(Code::BadId, |client| {
        client.send(&ToBroker::Subscribe(Subscribe { req: 0, ..subscription(1, "a") }));
    });
    stage.closes(Code::BadId, |client| client.send(&ToBroker::Subscribe(subscription(1 << 24, "a"))));
    stage.closes(Code::BadId, |client| {
        client.subscribe(1, "a");
        client.send(&ToBroker::Subscribe(subscription(1, "b")));
    });
}

#[test]
fn names_are_checked() {
    let mut stage = Stage::new("");
    let sentence =
        stage.closes(Code::BadTopic, |client| client.send(&ToBroker::Topic { alias: 0, topic: "a..b" }));
    assert!(sentence.contains("byte 2"), "{sentence}");
    stage.closes(Code::BadTopic, |client| client.send(&ToBroker::Topic { alias: 0, topic: "a.*" }));
    stage.closes(Code::ReservedTopic, |client| {
        client.send(&ToBroker::Topic { alias: 0, topic: "$tramline.x" })
    });
    // A filter comes from a person: the session goes on.
    let mut client = stage.client();
    client.send(&ToBroker::Subscribe(subscription(3, "a.>.b")));
    client.expect_error(3, Code::BadTopic);
    client.subscribe(3, "a.>");
}

#[test]
fn a_message_that_cannot_be_ends_the_session() {
    let mut stage = Stage::new("");
    let define = ToBroker::Topic { alias: 0, topic: "a" };
    let mut unknown = Vec::new();
    ToBroker::Publish(Publish { alias: 0, message: message(1, b"") }).encode(&mut unknown);
    unknown[12] = 3;
    stage.closes(Code::Malformed, |client| {
        client.send(&define);
        client.write(&unknown);
    });
    stage.closes(Code::Malformed, |client| {
        client.send(&define);
        let head: &[u8] = b"\x05abc";
        let message = tramline_wire::Message { head, ..message(1, b"") };
        client.send(&ToBroker::Publish(Publish { alias: 0, message }));
    });
}

#[test]
fn limits_are_named_with_value_use_and_key() {
    let yaml = "limits:\n  session_subscriptions_max: 2\n  session_streams_max: 1\n  ring_bytes_max: 512KiB\n  \
                history_messages_max: 10\n  backlog_bytes_max: 100KiB\n  frame_bytes_max: 32KiB\n";
    let mut stage = Stage::new(yaml);
    let mut client = stage.client();
    client.subscribe(1, "a");
    client.subscribe(2, "b");
    client.send(&ToBroker::Subscribe(subscription(3, "c")));
    let body = client.body();
    let Ok(ToClient::Error { req: 3, code, message, limit: Some(limit) }) = ToClient::decode(&body) else {
        panic!("{}", shown(&body))
    };
    assert_eq!(Code::from_number(code), Some(Code::LimitReached));
    assert_eq!((limit.name, limit.value, limit.used), ("session_subscriptions_max", 2, 3));
    assert!(message.contains("limits.session_subscriptions_max"), "{message}");
    client.send(&ToBroker::Unsubscribe { req: 4, sub: 2 });
    client.expect(&ToClient::Done { req: 4 });
    client.send(&ToBroker::Subscribe(Subscribe { history: 11, ..subscription(5, "c") }));
    assert!(client.expect_error(5, Code::LimitReached).contains("limits.history_messages_max"));
    client.send(&ToBroker::Subscribe(Subscribe { backlog_bytes_max: 1 << 20, ..subscription(6, "c") }));
    assert!(client.expect_error(6, Code::LimitReached).contains("limits.backlog_bytes_max"));
    // What was refused has left nothing behind.
    client.subscribe(7, "c");

    client.send(&ToBroker::Topic { alias: 0, topic: "cam" });
    let large = ring(64, 1024 * 1024);
    client.send_with(&ToBroker::OpenStream(open(8, 64, &large)), &[large.memory()]);
    assert!(client.expect_error(8, Code::LimitReached).contains("limits.ring_bytes_max"));
    let small = ring(64, 64 * 1024);
    client.send_with(&ToBroker::OpenStream(open(9, 64, &small)), &[small.memory()]);
    client.expect(&ToClient::StreamOpened { req: 9, stream: 64, readers: 0, pending: 0 });
    client.send(&ToBroker::Topic { alias: 0, topic: "cam.2" });
    let second = ring(65, 4096);
    client.send_with(&ToBroker::OpenStream(open(10, 65, &second)), &[second.memory()]);
    assert!(client.expect_error(10, Code::LimitReached).contains("limits.session_streams_max"));

    let sentence = stage.closes(Code::FrameTooLarge, |client| client.write(&33000_u32.to_le_bytes()));
    assert!(sentence.contains("32768") && sentence.contains("limits.frame_bytes_max"), "{sentence}");
}

#[test]
fn too_many_connections_are_told_so() {
    let stage = Stage::new("limits:\n  connections_max: 2\n");
    let _second = stage.client();
    let mut third = Raw::connect(stage.broker.socket());
    third.write(&preamble::request());
    let rest = third.rest();
    // It may be turned away before its language is known, but it is told that it is, and why.
    let said = String::from_utf8_lossy(&rest);
    assert!(said.contains("connections_max"), "{said:?}");
}

/// A ring for stream `id`, which is its own number as well.
fn ring(id: u64, arena_bytes: u64) -> Writer {
    let spec =
        RingSpec { stream: id, generation: 0, descriptors: 16, arena_bytes, first_position: 0, first_seq: 1 };
    Writer::create(&spec, 16).unwrap()
}

fn open(req: u32, stream: u64, ring: &Writer) -> OpenStream {
    let geometry = Geometry { descriptors: ring.spec().descriptors, arena_bytes: ring.spec().arena_bytes };
    OpenStream {
        req,
        alias: 0,
        stream,
        generation: 0,
        geometry,
        first_seq: 1,
        gated_by: GatedBy::OwnUid,
        fds: 1,
    }
}

/// Memory of a ring's size with some property missing.
fn false_memory(bytes: u64, filled: bool, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("false", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    if filled {
        rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    }
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn what_is_no_ring_is_refused_and_the_session_goes_on() {
    let stage = Stage::new("");
    let mut client = stage.client();
    client.send(&ToBroker::Topic { alias: 0, topic: "cam" });
    let good = ring(5, 64 * 1024);
    let bytes = good.spec().memory_bytes().unwrap();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    let (pipe, _other_end) = rustix::pipe::pipe().unwrap();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    let wrong: Vec<(&str, OwnedFd)> = vec![
        ("a pipe", pipe),
        ("a file", file.into()),
        ("a socket", socket.into()),
        ("unsealed", false_memory(bytes, true, SealFlags::empty())),
        ("may shrink", false_memory(bytes, true, seals - SealFlags::SHRINK)),
        ("writable", false_memory(bytes, true, seals - SealFlags::FUTURE_WRITE)),
        ("sparse", false_memory(bytes, false, seals)),
        ("short", false_memory(bytes - 4096, true, seals)),
        ("long", false_memory(bytes + 4096, true, seals)),
        ("without a header", false_memory(bytes, true, seals)),
        ("another stream's", ring(6, 64 * 1024).memory().try_clone_to_owned().unwrap()),
    ];
    for (number, (what, fd)) in wrong.iter().enumerate() {
        let req = 100 + u32::try_from(number).unwrap();
        client.send_with(&ToBroker::OpenStream(open(req, 5, &good)), &[fd.as_fd()]);
        let sentence = client.expect_error(req, Code::BadDescriptor);
        assert!(!sentence.is_empty(), "{what}");
    }
    client.send_with(&ToBroker::OpenStream(open(1, 5, &good)), &[good.memory()]);
    client.expect(&ToClient::StreamOpened { req: 1, stream: 5, readers: 0, pending: 0 });
    // A second stream on the same topic, and the same id once more.
    let second = ring(7, 4096);
    client.send_with(&ToBroker::OpenStream(open(2, 7, &second)), &[second.memory()]);
    client.expect_error(2, Code::StreamExists);
    client.send(&ToBroker::Topic { alias: 0, topic: "cam.2" });
    client.send_with(&ToBroker::OpenStream(open(3, 5, &good)), &[good.memory()]);
    client.expect_error(3, Code::BadId);
    let odd = OpenStream { geometry: Geometry { descriptors: 3, arena_bytes: 4096 }, ..open(4, 8, &good) };
    client.send_with(&ToBroker::OpenStream(odd), &[good.memory()]);
    client.expect_error(4, Code::Malformed);
}

#[test]
fn descriptors_that_are_missing_or_undeclared_end_the_session() {
    let mut stage = Stage::new("");
    let memory = ring(5, 4096);
    stage.closes(Code::BadDescriptor, |client| {
        client.send(&ToBroker::Topic { alias: 0, topic: "cam" });
        client.send(&ToBroker::OpenStream(open(1, 5, &memory)));
    });
    stage.closes(Code::BadDescriptor, |client| {
        client.send(&ToBroker::OpenStream(OpenStream { fds: 2, ..open(1, 5, &memory) }));
    });
    stage.closes(Code::BadDescriptor, |client| {
        let page = Some(PageDeclaration { first_slot: 0, slots: 15 });
        client.send(&ToBroker::Accept(Accept { attach: 1, slot: 0, page, fds: 0 }));
    });
    let before = stage.broker.open_files();
    let mut hoarder = stage.client();
    let mut ping = Vec::new();
    ToBroker::Ping { req: 1 }.encode(&mut ping);
    // Nobody declared these. Sooner or later the broker has enough of it, and closes them all.
    let mut sent = 0;
    while sent < 200 && hoarder.try_write_with(&ping, &[memory.memory(); 8]) {
        sent += 1;
    }
    hoarder.rest();
    stage.undisturbed();
    stage.files_settle_at(before);
}

#[test]
fn a_false_slot_ends_the_readers_session_only() {
    let mut stage = Stage::new("");
    let memory = ring(5, 4096);
    let mut writer = stage.client();
    writer.send(&ToBroker::Topic { alias: 0, topic: "cam" });
    writer.send_with(&ToBroker::OpenStream(open(1, 5, &memory)), &[memory.memory()]);
    writer.expect(&ToClient::StreamOpened { req: 1, stream: 5, readers: 0, pending: 0 });
    let mut reader = stage.client();
    reader.send(&ToBroker::Subscribe(Subscribe { rings: true, ..subscription(1, "cam") }));
    let source = reader.body();
    assert!(matches!(ToClient::decode(&source), Ok(ToClient::Source(_))), "{}", shown(&source));
    let body = reader.body();
    let Ok(ToClient::Offer(offer)) = ToClient::decode(&body) else { panic!("{}", shown(&body)) };
    reader.send(&ToBroker::Accept(Accept { attach: offer.attach, slot: 3, page: None, fds: 0 }));
    reader.expect_close(Code::FalseClaim);
    stage.undisturbed();
    writer.send(&ToBroker::CloseStream { req: 2, stream: 5, last_seq: 0 });
    writer.expect(&ToClient::Done { req: 2 });
}

#[test]
fn who_says_nothing_is_let_go_and_a_quiet_subscriber_is_not() {
    let mut stage = Stage::new("limits:\n  first_byte_timeout_millis: 50\n");
    let mut silent = Raw::connect(stage.broker.socket());
    assert_eq!(silent.rest(), b"");
    let mut halfway = Raw::connect(stage.broker.socket());
    halfway.write(&preamble::request());
    halfway.read_exact(&mut [0; preamble::PREAMBLE_BYTES]);
    let sentence = halfway.expect_close(Code::TimedOut);
    assert!(sentence.contains("limits.first_byte_timeout_millis"), "{sentence}");
    let mut broken = Raw::connect(stage.broker.socket());
    broken.write(&preamble::request()[..5]);
    assert_eq!(broken.rest(), b"");
    // The bystander has been quiet for at least twice that time.
    stage.undisturbed();
}

#[test]
fn a_slow_answer_reader_is_not_read_from_and_harms_nobody() {
    let mut stage = Stage::new("");
    let mut greedy = stage.client();
    // Asks and asks and never reads: the broker stops reading from it when its answers pile up.
    greedy.flood(&ToBroker::Ping { req: 1 });
    stage.undisturbed();
    let subscriber = Subscribe { slow: SlowPolicy::DropOldest, ..subscription(2, "x") };
    stage.bystander.send(&ToBroker::Subscribe(subscriber));
    stage.bystander.expect(&ToClient::Subscribed { req: 2, sub: 2, streams: 0, pending: 0 });
}
