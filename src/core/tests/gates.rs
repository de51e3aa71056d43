//! Who may hold a publisher up: what is granted, what is told, and the budget of a publisher on the socket.

use super::harness::{Shell, each_frame, open_stream, publish, show, subscribe};
use crate::core::{Access, Flow, Limits, SessionId, TopicSettings};
use tramline_wire::{
    Accept, Code, GatedBy, Mode, ModeChanged, ModeTold, OpenStream, PageDeclaration, SlowPolicy, Source,
    Subscribe, ToBroker, ToClient,
};

fn gated(sub: u32, filter: &str) -> Subscribe<'_> {
    Subscribe { mode: Mode::Gated, ..subscribe(sub, sub, filter) }
}

/// A publisher of `uid` with a stream on `topic` that `gated_by` may gate.
fn publisher(shell: &mut Shell, uid: u32, topic: &str, stream: u64, gated_by: GatedBy) -> SessionId {
    let id = shell.native_of(uid, "p");
    shell.say(id, ToBroker::Topic { alias: 0, topic });
    let memory = shell.fd("ring");
    let open = OpenStream { gated_by, ..open_stream(1, 0, stream) };
    shell.say_with(id, ToBroker::OpenStream(open), &[memory]);
    id
}

/// The subscriber takes an offer on a page of its own, and the publisher admits it.
fn attach(shell: &mut Shell, from: SessionId, to: SessionId, attach: u64) {
    let page = shell.fd("page");
    let declared = PageDeclaration { first_slot: 0, slots: 8 };
    shell.say_with(to, ToBroker::Accept(Accept { attach, slot: 0, page: Some(declared), fds: 1 }), &[page]);
    shell.read(from);
    shell.say(from, ToBroker::Admitted { attach, generation: 0, start: 0, start_seq: 1 });
    shell.read(to);
    shell.say(to, ToBroker::Attached { attach });
    shell.read(from);
    shell.read(to);
}

fn changed(attach: u64, mode: Mode, blocked_millis: u32) -> ToBroker<'static> {
    ToBroker::ModeChanged(ModeChanged { attach, mode, blocked_millis })
}

fn told(attach: u64, mode: Mode, blocked_millis: u32) -> ToClient<'static> {
    ToClient::ModeTold(ModeTold { attach, sub: 1, source: 0, mode, blocked_millis })
}

/// How the offers that wait for this session are to be read.
fn offered(shell: &mut Shell, id: SessionId) -> Vec<Mode> {
    let mut modes = Vec::new();
    each_frame(&shell.read(id), |frame| {
        if let ToClient::Offer(offer) = frame {
            modes.push(offer.mode);
        }
    });
    modes
}

#[test]
fn an_eviction_and_its_end_are_told_to_the_reader_and_to_whoever_watches() {
    let mut shell = Shell::new(Limits::default());
    let (from, to) = (publisher(&mut shell, 1000, "t", 7, GatedBy::OwnUid), shell.native("s"));
    shell.say(to, ToBroker::Subscribe(gated(1, "t")));
    attach(&mut shell, from, to, 1);
    let watcher = shell.json();
    shell.line(watcher, r#"{"op":"sub","topic":"$tramline.>"}"#);
    shell.read(watcher);
    assert_eq!(shell.say(from, changed(1, Mode::Lossy, 5_000)), Flow::Continue);
    shell.hears(to, &[told(1, Mode::Lossy, 5_000)]);
    let status = shell.core.snapshot(shell.now);
    let reader = &status.streams[0].readers[0];
    assert_eq!((reader.mode, reader.granted, status.totals.evictions), ("lossy", "gated", 1));
    let event = String::from_utf8(shell.read(watcher)).unwrap();
    assert!(event.contains("$tramline.evicted") && event.contains(r#""blocked_millis":5000"#), "{event}");
    // Said twice it is told once.
    shell.say(from, changed(1, Mode::Lossy, 9_000));
    shell.hears(to, &[]);
    shell.say(from, changed(1, Mode::Gated, 0));
    shell.hears(to, &[told(1, Mode::Gated, 0)]);
    assert_eq!(shell.core.snapshot(shell.now).streams[0].readers[0].mode, "gated");
    assert!(String::from_utf8(shell.read(watcher)).unwrap().contains("$tramline.gated"));
    shell.hang_up(to);
    // It was on its way when the reader left.
    assert_eq!(shell.say(from, changed(1, Mode::Lossy, 1)), Flow::Continue);
    shell.hang_up(from);
    shell.hang_up(watcher);
    shell.is_empty();
}

#[test]
fn nobody_speaks_about_the_mode_of_others_or_grants_what_was_not() {
    for (stranger, frame, code) in
        [(true, changed(1, Mode::Lossy, 1), Code::BadId), (false, changed(1, Mode::Gated, 0), Code::BadId)]
    {
        let mut shell = Shell::new(Limits::default());
        let (from, to) = (publisher(&mut shell, 1000, "t", 7, GatedBy::Nobody), shell.native("s"));
        shell.say(to, ToBroker::Subscribe(gated(1, "t")));
        attach(&mut shell, from, to, 1);
        let speaker = if stranger { to } else { from };
        assert_eq!(shell.say(speaker, frame), Flow::Close);
        shell.is_closed_with(speaker, code);
    }
}

#[test]
fn a_client_by_lines_is_told_as_well() {
    let mut shell = Shell::new(Limits::default());
    let from = publisher(&mut shell, 1000, "t", 7, GatedBy::OwnUid);
    let to = shell.json();
    shell.line(to, r#"{"op":"sub","topic":"t","reliable":true}"#);
    let page = shell.fd("page");
    shell.core.proxy_accept(1, 0, Some((PageDeclaration { first_slot: 0, slots: 8 }, page)), shell.now);
    shell.act();
    shell.read(from);
    shell.say(from, ToBroker::Admitted { attach: 1, generation: 0, start: 0, start_seq: 1 });
    shell.core.proxy_attached(1, shell.now);
    shell.act();
    shell.hears_lines(to, &[r#"{"ok":true,"op":"sub","sub":1}"#]);
    shell.say(from, changed(1, Mode::Lossy, 70));
    shell.hears_lines(to, &[r#"{"op":"mode","sub":1,"topic":"t","mode":"lossy","blocked_millis":70}"#]);
}

#[test]
fn who_wants_to_be_gated_or_nothing_is_refused_by_name() {
    let mut shell = Shell::new(Limits::default());
    let from = publisher(&mut shell, 1001, "t", 7, GatedBy::OwnUid);
    let to = shell.native("s");
    shell.say(to, ToBroker::Subscribe(Subscribe { gated_only: true, ..gated(1, "t") }));
    let mut refusal = None;
    each_frame(&shell.read(to), |frame| match frame {
        ToClient::Error { req: 1, code, message, .. } => refusal = Some((code, message.to_owned())),
        other => panic!("{other:?}"),
    });
    let (code, message) = refusal.unwrap();
    assert_eq!(code, Code::GateRefused.number());
    assert!(message.contains("uid 1001") && message.contains("gated_by"), "{message}");
    // Where it may gate, it is taken; who comes later and does not let it is not read.
    shell.hang_up(from);
    shell.say(to, ToBroker::Subscribe(Subscribe { gated_only: true, ..gated(1, "t") }));
    shell.hears(to, &[ToClient::Subscribed { req: 1, sub: 1, streams: 0, pending: 0 }]);
    let other = publisher(&mut shell, 1001, "t", 8, GatedBy::OwnUid);
    let source = Source { alias: 0, topic: "t", session: other, name: "p", uid: 1001, pid: 1101, client: 0 };
    shell.hears(to, &[ToClient::Source(source), told(0, Mode::Lossy, 0)]);
    publisher(&mut shell, 1000, "t", 9, GatedBy::OwnUid);
    assert_eq!(offered(&mut shell, to), [Mode::Gated]);
}

#[test]
fn the_operator_widens_or_narrows_who_may_gate() {
    let topic = |filter: &str, gated_by| TopicSettings {
        filter: filter.to_owned(),
        gated_by: Some(gated_by),
        ..TopicSettings::default()
    };
    let access = Access {
        own_uid: 1000,
        users: vec![1001],
        topics: vec![topic("wide", GatedBy::Anyone), topic("narrow", GatedBy::Nobody)],
        ..Access::default()
    };
    let mut shell = Shell::new(Limits::default());
    shell.core = crate::core::Core::new(Limits::default(), access, 1, "9");
    publisher(&mut shell, 1001, "wide", 1, GatedBy::Nobody);
    publisher(&mut shell, 1000, "narrow", 2, GatedBy::Anyone);
    publisher(&mut shell, 1001, "other", 3, GatedBy::OwnUid);
    let to = shell.native("s");
    for (sub, topic, mode) in
        [(1, "wide", Mode::Gated), (2, "narrow", Mode::Lossy), (3, "other", Mode::Lossy)]
    {
        shell.say(to, ToBroker::Subscribe(gated(sub, topic)));
        assert_eq!(offered(&mut shell, to), [mode], "{topic}");
    }
}

#[test]
fn many_that_never_read_hold_a_publisher_up_in_vain_for_no_longer_than_its_budget() {
    const WINDOW: u64 = 1_000;
    let mut shell = Shell::new(Limits {
        outbox_bytes_max: 2_000,
        backlog_bytes_max: 400_000,
        block_millis_max: 50,
        block_publisher_millis_max: 120,
        block_window_millis: 1_000,
        ..Limits::default()
    });
    let from = shell.native("p");
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
    // Each is full after another number of messages, so each would hold the publisher up for itself.
    for size in 1..=20 {
        let other = shell.native("s");
        let slow = SlowPolicy::Block { millis: 1_000 };
        let frame = Subscribe { slow, backlog_bytes_max: size * 5_000, ..subscribe(1, 1, "t") };
        shell.say(other, ToBroker::Subscribe(frame));
        shell.read(other);
    }
    let (begin, mut waited, mut seq) = (shell.now.monotonic, 0, 1);
    while seq < 1_500 {
        match shell.say(from, publish(0, seq, &[0; 100])) {
            Flow::Continue => seq += 1,
            Flow::Pause => {
                shell.resumed.clear();
                while shell.resumed.is_empty() {
                    shell.pass(1);
                    waited += 1;
                    assert!(waited <= 120, "held up beyond the budget");
                }
            }
            Flow::Close => panic!("{}", show(&shell.read(from))),
        }
    }
    assert_eq!(waited, 120);
    assert!(shell.now.monotonic - begin < WINDOW * 1_000_000);
    // In the next window somebody may hold it up again.
    shell.pass(WINDOW);
    let fresh = shell.native("fresh");
    let slow = SlowPolicy::Block { millis: 1_000 };
    shell.say(
        fresh,
        ToBroker::Subscribe(Subscribe { slow, backlog_bytes_max: 5_000, ..subscribe(1, 1, "t") }),
    );
    shell.read(fresh);
    let paused = (0..100).any(|more| shell.say(from, publish(0, seq + more, &[0; 100])) == Flow::Pause);
    assert!(paused);
    let all: Vec<SessionId> = std::iter::once(from).chain(2..=22).collect();
    all.into_iter().for_each(|id| shell.hang_up(id));
    shell.is_empty();
}

#[test]
fn waiting_that_ends_with_room_costs_no_budget() {
    let mut shell = Shell::new(Limits {
        outbox_bytes_max: 2_000,
        backlog_bytes_max: 5_000,
        block_millis_max: 50,
        block_publisher_millis_max: 60,
        block_window_millis: 100_000,
        ..Limits::default()
    });
    let (from, to) = (shell.native("p"), shell.native("s"));
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
    let slow = SlowPolicy::Block { millis: 1_000 };
    shell.say(to, ToBroker::Subscribe(Subscribe { slow, ..subscribe(1, 1, "t") }));
    shell.read(to);
    let mut pauses = 0;
    let mut seq = 1;
    while pauses < 20 {
        if shell.say(from, publish(0, seq, &[0; 100])) == Flow::Continue {
            seq += 1;
            continue;
        }
        pauses += 1;
        shell.pass(40);
        each_frame(&shell.read(to), |frame| assert!(!matches!(frame, ToClient::Gap { .. }), "{frame:?}"));
    }
}
