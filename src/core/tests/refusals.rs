//! Every rule broken and every limit reached, with what is said about it.

use super::harness::{START, Shell, message, open_stream, publish, subscribe};
use crate::core::{FdId, Flow, Language, Limits, Peer};
use tramline_wire::limits::{ALIASES_MAX, SUBSCRIPTION_ID_MAX};
use tramline_wire::{
    Accept, Code, Geometry, LimitInfo, MessageFlags, OpenStream, PageDeclaration, Publish, Subscribe,
    ToBroker, ToClient,
};

fn shell() -> Shell {
    Shell::new(Limits::default())
}

/// What a greeted client is told that says this, its session having ended.
fn ended_by(code: Code, frame: ToBroker<'_>) -> String {
    let mut shell = shell();
    let id = shell.native("bad");
    assert_eq!(shell.say(id, frame), Flow::Close, "{frame:?}");
    let message = shell.is_closed_with(id, code);
    shell.hang_up(id);
    shell.is_empty();
    message
}

/// What a client is told whose request is refused, its session living on.
fn refused(
    shell: &mut Shell,
    id: u64,
    frame: ToBroker<'_>,
    fds: &[FdId],
) -> (Code, String, Option<(String, u64, u64)>) {
    shell.read(id);
    assert_eq!(shell.say_with(id, frame, fds), Flow::Continue, "{frame:?}");
    let bytes = shell.read(id);
    let mut heard = None;
    super::harness::each_frame(&bytes, |frame| match frame {
        ToClient::Error { req, code, message, limit } => {
            assert_eq!(req, 7);
            let limit = limit.map(|LimitInfo { name, value, used }| (name.to_owned(), value, used));
            heard = Some((Code::from_number(code).unwrap(), message.to_owned(), limit));
        }
        other => panic!("{other:?}"),
    });
    heard.expect("an error")
}

#[test]
fn who_is_not_allowed_is_refused_with_a_sentence() {
    let mut shell = shell();
    let peer = Peer { pid: 4321, uid: 77, gid: 77, groups: vec![] };
    let refusal = shell.core.connect(peer, Language::Native, START).unwrap_err();
    assert_eq!(refusal.code, Code::Denied);
    assert_eq!(
        refusal.message,
        "process 4321 of uid 77 may not connect: this broker serves uid 1000 and root; allow.users or allow.groups \
         lets others in"
    );
    assert_eq!(shell.core.snapshot(START).totals.connections_refused, 1);
    shell.is_empty();
}

#[test]
fn connections_are_limited() {
    let mut shell = Shell::new(Limits { connections_max: 2, ..Limits::default() });
    let (one, _two) = (shell.native("a"), shell.json());
    let peer = Peer { pid: 1, uid: 1000, gid: 1, groups: vec![] };
    let refusal = shell.core.connect(peer.clone(), Language::Json, START).unwrap_err();
    assert_eq!(refusal.code, Code::LimitReached);
    assert!(refusal.message.contains("limits.connections_max is 2"), "{}", refusal.message);
    shell.hang_up(one);
    assert!(shell.core.connect(peer, Language::Json, START).is_ok());
}

#[test]
fn the_first_frame_is_hello_and_the_only_one() {
    let mut shell = shell();
    let id = shell.connect(1000, Language::Native);
    assert_eq!(shell.say(id, ToBroker::Ping { req: 1 }), Flow::Close);
    assert_eq!(shell.is_closed_with(id, Code::OutOfOrder), "the first frame must be Hello");
    assert_eq!(ended_by(Code::OutOfOrder, ToBroker::Hello { name: "again", client: 0 }), "a second Hello");
    let id = shell.connect(1000, Language::Native);
    shell.say(id, ToBroker::Hello { name: &"n".repeat(65), client: 0 });
    assert!(shell.is_closed_with(id, Code::Malformed).contains("65 bytes"));
}

#[test]
fn who_does_not_say_hello_in_time_is_let_go() {
    let mut shell = shell();
    let (silent, open) = (shell.connect(1000, Language::Native), shell.native("open"));
    shell.pass(9_999);
    assert!(shell.closing.is_empty());
    shell.pass(1);
    assert!(shell.is_closed_with(silent, Code::TimedOut).contains("10000 ms"));
    shell.core.timed_out(open, shell.now);
    shell.act();
    assert!(!shell.closing.contains(&open));
}

#[test]
fn frames_that_are_none_end_the_session() {
    let cases: [(&[u8], Code); 5] = [
        (&[255, 255, 255, 255], Code::FrameTooLarge),
        (&[4, 0, 0, 0, 99, 0, 0, 0], Code::Unsupported),
        (&[4, 0, 0, 0, 11, 0, 0, 0], Code::Malformed),
        (&[9, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 0], Code::Malformed),
        (&[0, 0, 0, 0], Code::Malformed),
    ];
    for (bytes, code) in cases {
        let mut shell = shell();
        let id = shell.native("bad");
        assert_eq!(shell.input(id, bytes, &[]).flow, Flow::Close);
        shell.is_closed_with(id, code);
        assert_eq!(shell.input(id, bytes, &[]).flow, Flow::Close);
        shell.hang_up(id);
        shell.is_empty();
    }
    let accept = Accept { attach: 1, slot: 0, page: None, fds: 1 };
    ended_by(Code::BadDescriptor, ToBroker::Accept(accept));
}

#[test]
fn ids_must_be_defined_and_free() {
    assert_eq!(ended_by(Code::BadId, publish(3, 1, b"")), "topic alias 3 is not defined");
    ended_by(Code::BadId, ToBroker::Topic { alias: ALIASES_MAX, topic: "a" });
    ended_by(Code::BadId, ToBroker::Unsubscribe { req: 1, sub: 1 });
    ended_by(Code::BadId, ToBroker::Subscribe(subscribe(0, 1, "a")));
    ended_by(Code::BadId, ToBroker::Subscribe(subscribe(1, SUBSCRIPTION_ID_MAX, "a")));
    ended_by(Code::BadId, ToBroker::CloseStream { req: 1, stream: 5, last_seq: 0 });
    ended_by(Code::BadId, ToBroker::Admitted { attach: 1, start: 0, start_seq: 1, generation: 0 });
    ended_by(Code::BadId, ToBroker::Attached { attach: 0 });
    ended_by(Code::BadId, ToBroker::Detach { attach: 9, code: 0 });
    let mut shell = shell();
    let id = shell.native("twice");
    shell.say(id, ToBroker::Subscribe(subscribe(1, 1, "a")));
    shell.say(id, ToBroker::Subscribe(subscribe(2, 1, "b")));
    shell.is_closed_with(id, Code::BadId);
    shell.hang_up(id);
    shell.is_empty();
}

#[test]
fn topics_and_filters_keep_the_rules_of_names() {
    ended_by(Code::BadTopic, ToBroker::Topic { alias: 0, topic: "a..b" });
    ended_by(Code::ReservedTopic, ToBroker::Topic { alias: 0, topic: "$tramline.x" });
    let mut shell = shell();
    let id = shell.native("n");
    let (code, message, limit) = refused(&mut shell, id, ToBroker::Subscribe(subscribe(7, 1, "a.>.b")), &[]);
    assert_eq!((code, limit), (Code::BadTopic, None));
    assert!(message.contains("byte 2"), "{message}");
}

#[test]
fn messages_are_checked_before_they_are_delivered() {
    let try_one = |message: tramline_wire::Message<'_>, code| {
        let mut shell = shell();
        let id = shell.native("bad");
        shell.say(id, ToBroker::Topic { alias: 0, topic: "t" });
        shell.say(id, ToBroker::Publish(Publish { alias: 0, message }));
        shell.is_closed_with(id, code)
    };
    let head = try_one(tramline_wire::Message { head: &[200, 1], ..message(1, b"") }, Code::Malformed);
    assert!(head.contains("type"), "{head}");
    // A frame that is whole but leaves no room for what a delivery adds.
    let payload = vec![0; 1024 * 1024 - 55];
    let long = try_one(message(1, &payload), Code::FrameTooLarge);
    assert!(long.contains("limits.frame_bytes_max"), "{long}");
    let mut shell = shell();
    let id = shell.native("bad");
    shell.say(id, ToBroker::Topic { alias: 0, topic: "t" });
    let mut bytes = Vec::new();
    publish(0, 1, b"").encode(&mut bytes);
    bytes[12] = 0x13;
    assert_eq!(shell.input(id, &bytes, &[]).flow, Flow::Close);
    assert!(shell.is_closed_with(id, Code::Malformed).contains("0x13"));
    assert_eq!(MessageFlags::from_bits(0x13), None);
}

#[test]
fn subscriptions_are_limited() {
    let limits = Limits {
        session_subscriptions_max: 2,
        subscriptions_max: 3,
        history_messages_max: 5,
        ..Limits::default()
    };
    let mut shell = Shell::new(limits);
    let (one, two) = (shell.native("1"), shell.native("2"));
    shell.say(one, ToBroker::Subscribe(subscribe(1, 1, "a")));
    shell.say(one, ToBroker::Subscribe(subscribe(2, 2, "b")));
    let (code, _, limit) = refused(&mut shell, one, ToBroker::Subscribe(subscribe(7, 3, "c")), &[]);
    assert_eq!((code, limit), (Code::LimitReached, Some(("session_subscriptions_max".to_owned(), 2, 3))));
    shell.say(two, ToBroker::Subscribe(subscribe(1, 1, "a")));
    let (_, message, limit) = refused(&mut shell, two, ToBroker::Subscribe(subscribe(7, 3, "c")), &[]);
    assert_eq!(limit, Some(("subscriptions_max".to_owned(), 3, 4)));
    assert!(message.contains("limits.subscriptions_max is 3"), "{message}");
    shell.say(one, ToBroker::Unsubscribe { req: 3, sub: 1 });
    let history = Subscribe { history: 6, ..subscribe(7, 4, "c") };
    let (_, _, limit) = refused(&mut shell, one, ToBroker::Subscribe(history), &[]);
    assert_eq!(limit, Some(("history_messages_max".to_owned(), 5, 6)));
    let queue = Subscribe { backlog_bytes_max: 1 << 30, ..subscribe(7, 4, "c") };
    let (_, _, limit) = refused(&mut shell, one, ToBroker::Subscribe(queue), &[]);
    assert_eq!(limit, Some(("backlog_bytes_max".to_owned(), 4 * 1024 * 1024, 1 << 30)));
    shell.hang_up(one);
    shell.hang_up(two);
    shell.is_empty();
}

#[test]
fn topics_are_limited() {
    let mut shell = Shell::new(Limits { topics_max: 2, ..Limits::default() });
    let (id, json) = (shell.native("n"), shell.json());
    shell.say(id, ToBroker::Topic { alias: 0, topic: "a" });
    shell.say(id, ToBroker::Topic { alias: 1, topic: "b" });
    // A new meaning for an alias frees the old topic only after the new one is there.
    shell.line(json, r#"{"op":"pub","topic":"c","text":"x"}"#);
    let text = String::from_utf8(shell.read(json)).unwrap();
    assert!(text.contains(r#""code":"limit_reached""#) && text.contains("limits.topics_max"), "{text}");
    shell.say(id, ToBroker::Topic { alias: 2, topic: "c" });
    shell.is_closed_with(id, Code::LimitReached);
    shell.hang_up(id);
    shell.line(json, r#"{"op":"pub","topic":"c","text":"x"}"#);
    shell.hears_lines(json, &[r#"{"ok":true,"op":"pub","receivers":0}"#]);
}

#[test]
fn streams_are_limited_and_checked() {
    let limits = Limits {
        session_streams_max: 2,
        streams_max: 3,
        ring_bytes_max: 100_000,
        rings_bytes_max: 70_000,
        ..Limits::default()
    };
    let mut shell = Shell::new(limits);
    let (one, two) = (shell.native("1"), shell.native("2"));
    for alias in 0..4 {
        let topic = format!("t.{alias}");
        shell.say(one, ToBroker::Topic { alias, topic: &topic });
        shell.say(two, ToBroker::Topic { alias, topic: &topic });
    }
    let try_one = |shell: &mut Shell, id, frame: OpenStream| {
        let memory = shell.fd("ring");
        let refused = refused(shell, id, ToBroker::OpenStream(frame), &[memory]);
        assert!(!shell.fds.contains_key(&memory), "the memory of a refused stream stays open");
        refused
    };
    let geometry = |descriptors, arena_bytes| Geometry { descriptors, arena_bytes };
    let odd = OpenStream { geometry: geometry(3, 4096), ..open_stream(7, 0, 1) };
    assert_eq!(try_one(&mut shell, one, odd).0, Code::Malformed);
    let large = OpenStream { geometry: geometry(64, 102_400), ..open_stream(7, 0, 1) };
    let (code, _, limit) = try_one(&mut shell, one, large);
    assert_eq!((code, limit), (Code::LimitReached, Some(("ring_bytes_max".to_owned(), 100_000, 110_592))));
    shell.bad_ring = Some("it is not sealed".to_owned());
    let (code, message, _) = try_one(&mut shell, one, open_stream(7, 0, 1));
    assert_eq!(code, Code::BadDescriptor);
    assert_eq!(message, "the ring of stream 0000000000000001 is refused: it is not sealed");

    let memory = shell.fd("ring");
    shell.say_with(one, ToBroker::OpenStream(open_stream(1, 0, 1)), &[memory]);
    shell.hears(one, &[ToClient::StreamOpened { req: 1, stream: 1, readers: 0, pending: 0 }]);
    assert_eq!(try_one(&mut shell, one, open_stream(7, 0, 2)).0, Code::StreamExists);
    assert_eq!(try_one(&mut shell, two, open_stream(7, 0, 1)).0, Code::BadId);
    let memory = shell.fd("ring");
    shell.say_with(one, ToBroker::OpenStream(open_stream(2, 1, 2)), &[memory]);
    let (_, _, limit) = try_one(&mut shell, one, open_stream(7, 2, 3));
    assert_eq!(limit, Some(("session_streams_max".to_owned(), 2, 3)));
    let memory = shell.fd("ring");
    shell.say_with(two, ToBroker::OpenStream(open_stream(3, 0, 3)), &[memory]);
    let (_, _, limit) = try_one(&mut shell, two, open_stream(7, 1, 4));
    assert_eq!(limit, Some(("streams_max".to_owned(), 3, 4)));
    shell.say(one, ToBroker::CloseStream { req: 9, stream: 1, last_seq: 0 });
    let fat = OpenStream { geometry: geometry(64, 40_960), ..open_stream(7, 1, 4) };
    let (_, _, limit) = try_one(&mut shell, two, fat);
    // Two rings of one header, one page of descriptors and two of arena stand already.
    assert_eq!(limit, Some(("rings_bytes_max".to_owned(), 70_000, 2 * 16_384 + 49_152)));
    shell.hang_up(one);
    shell.hang_up(two);
    shell.is_empty();
}

#[test]
fn attachments_are_limited() {
    let mut shell = Shell::new(Limits { attachments_max: 1, ..Limits::default() });
    let (from, to) = (shell.native("p"), shell.native("s"));
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
    let memory = shell.fd("ring");
    shell.say_with(from, ToBroker::OpenStream(open_stream(1, 0, 1)), &[memory]);
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t")));
    let (code, _, limit) = refused(&mut shell, to, ToBroker::Subscribe(subscribe(7, 2, "t")), &[]);
    assert_eq!((code, limit), (Code::LimitReached, Some(("attachments_max".to_owned(), 1, 2))));
    shell.say(from, ToBroker::Topic { alias: 1, topic: "u" });
    shell.say(to, ToBroker::Subscribe(subscribe(3, 3, "u")));
    let memory = shell.fd("ring");
    let (_, _, limit) = refused(&mut shell, from, ToBroker::OpenStream(open_stream(7, 1, 2)), &[memory]);
    assert_eq!(limit, Some(("attachments_max".to_owned(), 1, 2)));
    shell.hang_up(to);
    shell.hang_up(from);
    shell.is_empty();
}

#[test]
fn descriptors_come_with_the_frames_that_declare_them() {
    let mut shell = shell();
    let id = shell.native("n");
    shell.say(id, ToBroker::Topic { alias: 0, topic: "t" });
    assert_eq!(shell.say(id, ToBroker::OpenStream(open_stream(1, 0, 1))), Flow::Close);
    assert!(shell.is_closed_with(id, Code::BadDescriptor).contains("none came"));
    shell.hang_up(id);
    let id = shell.native("n");
    let fds: Vec<FdId> = (0..17).map(|_| shell.fd("stray")).collect();
    assert_eq!(shell.input(id, &[], &fds).flow, Flow::Close);
    assert!(shell.is_closed_with(id, Code::BadDescriptor).contains("limits.session_fds_in_flight_max is 16"));
    shell.hang_up(id);
    shell.is_empty();
}

#[test]
fn false_claims_about_slots_end_the_session() {
    let page = |first_slot, slots| Some(PageDeclaration { first_slot, slots });
    let cases = [(5, page(0, 4)), (0, page(0, 0)), (0, page(u32::MAX, 4)), (0, None)];
    for (slot, page) in cases {
        let mut shell = shell();
        let (from, to) = (shell.native("p"), shell.native("s"));
        shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
        let memory = shell.fd("ring");
        shell.say_with(from, ToBroker::OpenStream(open_stream(1, 0, 1)), &[memory]);
        shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t")));
        let fds: Vec<FdId> = page.iter().map(|_| shell.fd("page")).collect();
        let accept = Accept { attach: 1, slot, page, fds: u8::try_from(fds.len()).unwrap() };
        assert_eq!(shell.say_with(to, ToBroker::Accept(accept), &fds), Flow::Close);
        shell.is_closed_with(to, Code::FalseClaim);
        shell.hang_up(to);
        shell.hang_up(from);
        shell.is_empty();
    }
}

#[test]
fn lines_that_are_refused_are_answered_and_the_session_lives() {
    let mut shell = shell();
    let json = shell.json();
    let lines = [
        (r#"{"op":"pub","topic":"a..b","text":"x","id":1}"#, "bad_topic"),
        (r#"{"op":"pub","topic":"$tramline.x","text":"x"}"#, "reserved_topic"),
        (r#"{"op":"sub","topic":"a.>.b"}"#, "bad_topic"),
        (r#"{"op":"sub","topic":"a","history":1000000}"#, "limit_reached"),
        (r#"{"op":"unsub","sub":3}"#, "bad_id"),
        ("{", "malformed"),
    ];
    for (line, code) in lines {
        assert_eq!(shell.line(json, line), Flow::Continue);
        let answer: serde_json::Value = serde_json::from_slice(&shell.read(json)).unwrap();
        assert_eq!((&answer["ok"], &answer["error"]["code"]), (&false.into(), &code.into()), "{line}");
    }
    let long = format!(r#"{{"op":"pub","topic":"a","text":"{}"}}"#, "x".repeat(1024 * 1024 - 30));
    shell.line(json, &long);
    assert!(String::from_utf8(shell.read(json)).unwrap().contains("payload_too_large"));
    assert_eq!(shell.core.line_too_long(json, 1024 * 1024 + 1, shell.now), Flow::Continue);
    assert!(String::from_utf8(shell.read(json)).unwrap().contains("frame_too_large"));
    assert_eq!(shell.core.snapshot(shell.now).totals.requests_refused, 8);
    shell.line(json, r#"{"op":"ping"}"#);
    shell.hears_lines(json, &[r#"{"ok":true,"op":"ping"}"#]);
}

#[test]
fn a_session_that_is_not_there_is_nobodys() {
    let mut shell = shell();
    assert_eq!(shell.input(99, &[1], &[]).flow, Flow::Close);
    assert_eq!(shell.line(99, "{}"), Flow::Close);
    assert_eq!(shell.core.half_closed(99, START), Flow::Close);
    assert_eq!(shell.core.line_too_long(99, 1, START), Flow::Close);
    shell.core.timed_out(99, START);
    shell.core.disconnected(99, "", START);
    shell.core.written(99, START);
    assert!(shell.core.outbox(99).is_none());
    shell.is_empty();
}
