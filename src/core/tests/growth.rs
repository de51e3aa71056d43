//! Streams that go on in another generation, frame by frame.

use super::harness::{GEOMETRY, Shell, each_frame, open_stream, subscribe};
use crate::core::snapshot::RingCounts;
use crate::core::{Access, Action, FdId, Flow, Limits, SessionId};
use tramline_wire::limits::STREAM_GENERATIONS_MAX;
use tramline_wire::{
    Accept, Code, Geometry, GrowStream, PageDeclaration, Subscribe, Successor, ToBroker, ToClient,
};

const PAGE: PageDeclaration = PageDeclaration { first_slot: 0, slots: 8 };

/// Memory of a ring of `GEOMETRY`, and the geometry of one that has a page more.
const BYTES: u64 = 4096 + 64 * 64 + 8192;
const LARGER: Geometry = Geometry { descriptors: 64, arena_bytes: 12_288 };

fn grow_frame(generation: u32) -> GrowStream {
    GrowStream { req: 40 + generation, stream: 77, generation, geometry: LARGER, fds: 1 }
}

fn grow(shell: &mut Shell, id: SessionId, generation: u32) -> FdId {
    let memory = shell.fd("larger ring");
    let flow = shell.say_with(id, ToBroker::GrowStream(grow_frame(generation)), &[memory]);
    assert_eq!(flow, Flow::Continue);
    memory
}

fn grown(generation: u32) -> ToClient<'static> {
    ToClient::StreamGrown { req: 40 + generation, stream: 77, generation }
}

fn successor(attach: u64, generation: u32) -> ToClient<'static> {
    ToClient::Successor(Successor { attach, generation, geometry: LARGER, fds: 1 })
}

fn admitted(attach: u64, generation: u32) -> ToBroker<'static> {
    ToBroker::Admitted { attach, start: 0, start_seq: 1, generation }
}

/// The generations that a session's outbox hands over by `Attach` and `Successor`, and the ends of attachments.
fn handed(shell: &mut Shell, id: SessionId) -> Vec<(&'static str, u64, u32)> {
    let mut found = Vec::new();
    let bytes = shell.read(id);
    each_frame(&bytes, |frame| match frame {
        ToClient::Attach(attach) => found.push(("attach", attach.attach, attach.generation)),
        ToClient::Successor(next) => found.push(("successor", next.attach, next.generation)),
        ToClient::Detach { attach, code } => found.push(("detach", attach, code.into())),
        _ => {}
    });
    found
}

/// A stream 77 on `t` and a subscription to it which has accepted; nobody was admitted yet.
fn asked(shell: &mut Shell) -> (SessionId, SessionId, FdId) {
    let (from, to) = (shell.native("p"), shell.native("s"));
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
    let memory = shell.fd("ring");
    shell.say_with(from, ToBroker::OpenStream(open_stream(1, 0, 77)), &[memory]);
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t")));
    let page = shell.fd("page");
    let accept = Accept { attach: 1, slot: 0, page: Some(PAGE), fds: 1 };
    assert_eq!(shell.say_with(to, ToBroker::Accept(accept), &[page]), Flow::Continue);
    shell.read(from);
    shell.read(to);
    (from, to, memory)
}

/// As above, attached.
fn attached(shell: &mut Shell) -> (SessionId, SessionId, FdId) {
    let (from, to, memory) = asked(shell);
    shell.say(from, admitted(1, 0));
    shell.say(to, ToBroker::Attached { attach: 1 });
    shell.read(from);
    shell.read(to);
    (from, to, memory)
}

#[test]
fn a_reader_gets_the_next_generation_before_its_publisher_goes_on_in_it() {
    let mut shell = Shell::new(Limits::default());
    let (from, to, first) = attached(&mut shell);
    assert_eq!(shell.core.streams.bytes, BYTES);
    let second = grow(&mut shell, from, 1);
    shell.hears(to, &[successor(1, 1)]);
    // A broker that died now would take the new memory with it, and nothing is in it.
    shell.hears(from, &[]);
    assert_eq!(shell.say(to, ToBroker::Attached { attach: 1 }), Flow::Continue);
    shell.hears(from, &[grown(1)]);
    assert!(shell.fds.contains_key(&first) && shell.fds.contains_key(&second));
    assert_eq!(shell.core.streams.bytes, 2 * BYTES + 4096);
    assert_eq!(shell.core.snapshot(shell.now).streams[0].generation, 1);
    shell.say(to, ToBroker::Released { attach: 1, generation: 0 });
    assert_eq!(shell.core.streams.bytes, 2 * BYTES + 4096, "the publisher still has it");
    shell.say(from, ToBroker::GenerationLeft { stream: 77, generation: 0 });
    assert!(!shell.fds.contains_key(&first), "nobody has it or can be given it");
    assert_eq!(shell.core.streams.bytes, BYTES + 4096);
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn generations_follow_each_other_one_at_a_time() {
    let mut shell = Shell::new(Limits::default());
    let (from, to, _) = attached(&mut shell);
    for generation in [1, 2, 5] {
        grow(&mut shell, from, generation);
        shell.hears(from, &[]);
        // A reader that does not answer holds up nobody for ever.
        shell.pass(Limits::default().attach_timeout_millis.into());
        shell.hears(from, &[grown(generation)]);
    }
    // The next follows when the one before was confirmed.
    for generation in [1, 2, 5] {
        assert_eq!(handed(&mut shell, to), [("successor", 1, generation)]);
        assert_eq!(shell.say(to, ToBroker::Attached { attach: 1 }), Flow::Continue);
    }
    shell.hears(to, &[]);
    // Held samples keep a generation counted, in any order.
    for generation in [1, 0, 2] {
        shell.say(from, ToBroker::GenerationLeft { stream: 77, generation });
        let before = shell.core.streams.bytes;
        shell.say(to, ToBroker::Released { attach: 1, generation });
        assert!(shell.core.streams.bytes < before);
    }
    assert_eq!(shell.fds.values().filter(|what| what.contains("ring")).count(), 1);
    assert_eq!(shell.core.streams.bytes, BYTES + 4096);
    shell.hang_up(to);
    shell.hang_up(from);
    shell.is_empty();
}

#[test]
fn an_admission_that_crosses_a_growth_brings_both_generations() {
    let mut shell = Shell::new(Limits::default());
    let (from, to, first) = asked(&mut shell);
    grow(&mut shell, from, 1);
    assert!(shell.fds.contains_key(&first), "the reader may be admitted to it");
    shell.hears(from, &[grown(1)]);
    shell.say(from, admitted(1, 0));
    assert_eq!(handed(&mut shell, to), [("attach", 1, 0)]);
    shell.say(from, ToBroker::GenerationLeft { stream: 77, generation: 0 });
    assert!(!shell.fds.contains_key(&first));
    shell.say(to, ToBroker::Attached { attach: 1 });
    assert_eq!(handed(&mut shell, to), [("successor", 1, 1)]);
    shell.say(to, ToBroker::Attached { attach: 1 });

    // One that was asked for behind it begins in the new one.
    shell.read(from);
    let other = shell.native("o");
    shell.say(other, ToBroker::Subscribe(subscribe(1, 1, "t")));
    let page = shell.fd("page");
    let accept = Accept { attach: 2, slot: 0, page: Some(PAGE), fds: 1 };
    shell.say_with(other, ToBroker::Accept(accept), &[page]);
    shell.say(from, admitted(2, 1));
    assert_eq!(handed(&mut shell, other), [("attach", 2, 1)]);
    // So does one that is asked for while the next is on its way.
    grow(&mut shell, from, 2);
    let late = shell.native("l");
    shell.say(late, ToBroker::Subscribe(subscribe(1, 1, "t")));
    let page = shell.fd("page");
    let accept = Accept { attach: 3, slot: 0, page: Some(PAGE), fds: 1 };
    shell.say_with(late, ToBroker::Accept(accept), &[page]);
    shell.say(from, admitted(3, 1));
    assert_eq!(handed(&mut shell, late), [("attach", 3, 1)]);
    for (id, attach) in [(to, 1), (other, 2), (late, 3)] {
        assert_eq!(shell.say(id, ToBroker::Attached { attach }), Flow::Continue);
    }
    assert_eq!(handed(&mut shell, late), [("successor", 3, 2)]);
    for id in [from, to, other, late] {
        shell.hang_up(id);
    }
    shell.is_empty();
}

#[test]
fn a_false_generation_ends_its_session() {
    for generation in [1, 7] {
        let mut shell = Shell::new(Limits::default());
        let (from, _, _) = asked(&mut shell);
        shell.say(from, admitted(1, generation));
        shell.is_closed_with(from, Code::FalseClaim);
    }
    // Asked for in generation 1, admitted in 0.
    let mut shell = Shell::new(Limits::default());
    let (from, to, _) = attached(&mut shell);
    grow(&mut shell, from, 1);
    shell.say(to, ToBroker::Attached { attach: 1 });
    let other = shell.native("o");
    shell.say(other, ToBroker::Subscribe(subscribe(1, 1, "t")));
    let page = shell.fd("page");
    let accept = Accept { attach: 2, slot: 0, page: Some(PAGE), fds: 1 };
    shell.say_with(other, ToBroker::Accept(accept), &[page]);
    shell.say(from, admitted(2, 0));
    shell.is_closed_with(from, Code::FalseClaim);

    let violates = |frame: GrowStream, code: Code| {
        let mut shell = Shell::new(Limits::default());
        let (from, to, _) = attached(&mut shell);
        grow(&mut shell, from, 1);
        let who = if frame.req == 9 { to } else { from };
        let memory = shell.fd("ring");
        shell.say_with(who, ToBroker::GrowStream(frame), &[memory]);
        shell.is_closed_with(who, code);
        shell.hang_up(from);
        shell.hang_up(to);
        shell.is_empty();
    };
    violates(grow_frame(1), Code::OutOfOrder);
    // One at a time.
    violates(grow_frame(2), Code::OutOfOrder);
    violates(grow_frame(0), Code::OutOfOrder);
    violates(GrowStream { req: 0, ..grow_frame(2) }, Code::BadId);
    violates(GrowStream { stream: 78, ..grow_frame(2) }, Code::BadId);
    violates(GrowStream { req: 9, ..grow_frame(2) }, Code::BadId);
    let mut shell = Shell::new(Limits::default());
    let (from, to, _) = attached(&mut shell);
    shell.say(from, ToBroker::GenerationLeft { stream: 77, generation: 0 });
    shell.is_closed_with(from, Code::FalseClaim);
    shell.say(to, ToBroker::Released { attach: 9, generation: 0 });
    shell.is_closed_with(to, Code::BadId);
}

#[test]
fn a_growth_beyond_a_limit_is_refused_by_name_and_the_stream_goes_on() {
    let limits =
        Limits { ring_bytes_max: BYTES + 8192, rings_bytes_max: 3 * BYTES + 4096, ..Limits::default() };
    let mut shell = Shell::new(limits);
    let (from, to, _) = attached(&mut shell);
    let refused = |shell: &mut Shell, frame: GrowStream| {
        let memory = shell.fd("ring");
        let before = shell.core.streams.bytes;
        assert_eq!(shell.say_with(from, ToBroker::GrowStream(frame), &[memory]), Flow::Continue);
        assert!(!shell.fds.contains_key(&memory), "the memory of a refused growth stays open");
        assert_eq!(shell.core.streams.bytes, before);
        let mut found = None;
        let bytes = shell.read(from);
        each_frame(&bytes, |frame| {
            if let ToClient::Error { req, code, limit, .. } = frame {
                found = Some((req, code, limit.map(|limit| (limit.name.to_owned(), limit.value))));
            }
        });
        found.unwrap()
    };
    let too_large = Geometry { descriptors: 64, arena_bytes: 20_480 };
    let answer = refused(&mut shell, GrowStream { geometry: too_large, ..grow_frame(1) });
    let limit = Some(("ring_bytes_max".to_owned(), BYTES + 8192));
    assert_eq!(answer, (41, Code::LimitReached.number(), limit));
    let odd = Geometry { descriptors: 3, arena_bytes: 4096 };
    let answer = refused(&mut shell, GrowStream { geometry: odd, ..grow_frame(2) });
    assert_eq!(answer.1, Code::Malformed.number());
    shell.bad_ring = Some("it has holes".to_owned());
    assert_eq!(refused(&mut shell, grow_frame(3)).1, Code::BadDescriptor.number());
    grow(&mut shell, from, 4);
    assert_eq!(handed(&mut shell, to), [("successor", 1, 4)]);
    shell.say(to, ToBroker::Attached { attach: 1 });
    shell.hears(from, &[grown(4)]);
    // The first is still held: a third does not fit beside it.
    let answer = refused(&mut shell, grow_frame(5));
    assert_eq!(answer.2, Some(("rings_bytes_max".to_owned(), 3 * BYTES + 4096)));
    shell.say(from, ToBroker::GenerationLeft { stream: 77, generation: 0 });
    shell.say(to, ToBroker::Released { attach: 1, generation: 0 });
    grow(&mut shell, from, 6);
    shell.say(to, ToBroker::Attached { attach: 1 });
    shell.hears(from, &[grown(6)]);
}

#[test]
fn generations_that_nobody_lets_go_are_bounded() {
    let mut shell = Shell::new(Limits::default());
    let (from, to, _) = attached(&mut shell);
    for generation in 1..STREAM_GENERATIONS_MAX {
        grow(&mut shell, from, generation);
        shell.say(to, ToBroker::Attached { attach: 1 });
        shell.hears(from, &[grown(generation)]);
    }
    grow(&mut shell, from, STREAM_GENERATIONS_MAX);
    let mut named = None;
    let bytes = shell.read(from);
    each_frame(&bytes, |frame| {
        if let ToClient::Error { limit: Some(limit), .. } = frame {
            named = Some((limit.name.to_owned(), limit.value));
        }
    });
    assert_eq!(named, Some(("STREAM_GENERATIONS_MAX".to_owned(), STREAM_GENERATIONS_MAX.into())));
}

#[test]
fn who_dies_on_the_way_leaves_nothing() {
    for publisher_first in [true, false] {
        for steps in 0..4 {
            let mut shell = Shell::new(Limits::default());
            let (from, to, _) = attached(&mut shell);
            grow(&mut shell, from, 1);
            if steps > 0 {
                shell.read(to);
            }
            if steps > 1 {
                shell.say(to, ToBroker::Attached { attach: 1 });
            }
            if steps > 2 {
                shell.say(to, ToBroker::Released { attach: 1, generation: 0 });
            }
            if publisher_first {
                shell.hang_up(from);
                // What was announced has gone out before the end is told.
                let told = handed(&mut shell, to);
                let last = told.last().copied();
                assert_eq!(last, Some(("detach", 1, Code::PeerGone.number().into())), "{steps} {told:?}");
                shell.hang_up(to);
            } else {
                shell.hang_up(to);
                assert_eq!(shell.core.streams.bytes, 2 * BYTES + 4096, "the publisher has both");
                shell.say(from, ToBroker::GenerationLeft { stream: 77, generation: 0 });
                assert_eq!(shell.core.streams.bytes, BYTES + 4096);
                shell.hang_up(from);
            }
            shell.is_empty();
        }
    }
}

#[test]
fn a_stream_that_ends_still_hands_over_all_of_its_memory() {
    let mut shell = Shell::new(Limits::default());
    let (from, to, _) = attached(&mut shell);
    grow(&mut shell, from, 1);
    shell.pass(Limits::default().attach_timeout_millis.into());
    grow(&mut shell, from, 2);
    shell.hang_up(from);
    assert_eq!(handed(&mut shell, to), [("successor", 1, 1)]);
    shell.say(to, ToBroker::Attached { attach: 1 });
    let gone = Code::PeerGone.number().into();
    assert_eq!(handed(&mut shell, to), [("successor", 1, 2), ("detach", 1, gone)]);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn the_shell_reads_on_in_the_next_generation() {
    let mut shell = Shell::new(Limits::default());
    let (from, to) = (shell.native("p"), shell.native("s"));
    shell.say(to, ToBroker::Subscribe(Subscribe { rings: false, ..subscribe(1, 1, "t") }));
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
    let memory = shell.fd("ring");
    shell.say_with(from, ToBroker::OpenStream(open_stream(1, 0, 77)), &[memory]);
    shell.asked();
    let page = shell.fd("page");
    shell.core.proxy_accept(1, 0, Some((PAGE, page)), shell.now);
    shell.act();
    // It is asked for in the first generation and the stream grows meanwhile.
    let second = grow(&mut shell, from, 1);
    shell.say(from, admitted(1, 0));
    let asked = shell.asked();
    let attach = asked.iter().any(|action| matches!(action, Action::ProxyAttach { generation: 0, .. }));
    let next = Action::ProxySuccessor { attach: 1, memory: second, generation: 1, geometry: LARGER };
    assert!(attach && asked.last() == Some(&next), "{asked:?}");
    shell.core.proxy_attached(1, shell.now);
    let third = grow(&mut shell, from, 2);
    let next = Action::ProxySuccessor { attach: 1, memory: third, generation: 2, geometry: LARGER };
    assert_eq!(shell.asked(), [next]);
    for generation in [0, 1] {
        shell.say(from, ToBroker::GenerationLeft { stream: 77, generation });
    }
    let before = shell.core.streams.bytes;
    shell.core.proxy_went_on(1, 2, shell.now);
    assert_eq!(before - shell.core.streams.bytes, 2 * BYTES + 4096);
}

#[test]
fn who_loses_access_is_not_given_what_follows() {
    let limits = Limits { rings_bytes_max: 2 * BYTES, ..Limits::default() };
    let mut shell = Shell::new(limits);
    let (from, to, _) = attached(&mut shell);
    // Another user, 1001, reads as well, and a third, 1002, listens to something else.
    let (other, third) = (shell.native_of(1001, "o"), shell.native_of(1002, "x"));
    shell.say(other, ToBroker::Subscribe(subscribe(1, 1, "t")));
    let page = shell.fd("page");
    let accept = Accept { attach: 2, slot: 0, page: Some(PAGE), fds: 1 };
    shell.say_with(other, ToBroker::Accept(accept), &[page]);
    shell.say(from, admitted(2, 0));
    shell.say(other, ToBroker::Attached { attach: 2 });
    for id in [from, other, third] {
        shell.read(id);
    }
    // Something is full: that must not keep the stream from moving on.
    let memory = shell.fd("ring");
    shell.say(from, ToBroker::Topic { alias: 1, topic: "u" });
    shell.say_with(from, ToBroker::OpenStream(open_stream(2, 1, 78)), &[memory]);
    shell.read(from);

    let access = shell.core.access().clone();
    let changed = Access { users: vec![1002], ..access.clone() };
    shell.core.change_access(changed, shell.now);
    shell.act();
    let message = shell.is_closed_with(other, Code::Denied);
    assert!(message.contains("uid 1001") && message.contains("allow.users"), "{message}");
    let gone = Code::PeerGone.number();
    let told = [ToClient::Detach { attach: 2, code: gone }, ToClient::Renew { stream: 77 }];
    shell.hears(from, &told);
    shell.hears(third, &[]);
    let memory = shell.fd("ring");
    let frame = GrowStream { req: 5, stream: 77, generation: 1, geometry: GEOMETRY, fds: 1 };
    shell.say_with(from, ToBroker::GrowStream(frame), &[memory]);
    assert_eq!(handed(&mut shell, to), [("successor", 1, 1)]);
    shell.say(to, ToBroker::Attached { attach: 1 });
    shell.hears(from, &[ToClient::StreamGrown { req: 5, stream: 77, generation: 1 }]);
    shell.hears(other, &[]);
    // Only once.
    shell.core.change_access(access, shell.now);
    shell.act();
    shell.hears(from, &[]);
    for id in [from, to, other, third] {
        shell.hang_up(id);
    }
    shell.is_empty();
}

#[test]
fn what_went_through_rings_stays_with_their_topic() {
    let counts = |messages| RingCounts { messages, bytes: 10 * messages, dropped: 1, waits: 0 };
    let topic = |shell: &Shell| shell.core.snapshot(shell.now).topics[0].rings;
    let mut shell = Shell::new(Limits::default());
    let other = shell.native("another publisher, which keeps the topic known");
    shell.say(other, ToBroker::Topic { alias: 0, topic: "t" });
    let (from, to, _) = attached(&mut shell);
    grow(&mut shell, from, 1);
    shell.say(to, ToBroker::Attached { attach: 1 });
    shell.counted = counts(100);
    // The publisher still counts in the earlier one, until it has left it.
    assert_eq!(topic(&shell), RingCounts::default());
    shell.say(from, ToBroker::GenerationLeft { stream: 77, generation: 0 });
    assert_eq!(topic(&shell), counts(100));
    shell.counted = counts(5);
    shell.hang_up(from);
    let both = RingCounts { messages: 105, bytes: 1050, dropped: 2, waits: 0 };
    assert_eq!(topic(&shell), both);
    // Opened again with the memory it has: what it counted before is counted.
    let again = shell.native("again");
    shell.say(again, ToBroker::Topic { alias: 0, topic: "t" });
    let memory = shell.fd("ring");
    shell.say_with(again, ToBroker::OpenStream(open_stream(1, 0, 77)), &[memory]);
    assert_eq!(shell.core.snapshot(shell.now).streams[0].parts[0].before, counts(5));
    shell.counted = RingCounts { messages: 7, bytes: 70, dropped: 1, waits: 3 };
    shell.say(again, ToBroker::CloseStream { req: 9, stream: 77, last_seq: 107 });
    assert_eq!(topic(&shell), RingCounts { messages: 107, bytes: 1070, dropped: 2, waits: 3 });
    assert_eq!(shell.core.snapshot(shell.now).totals.rings, topic(&shell));
}
