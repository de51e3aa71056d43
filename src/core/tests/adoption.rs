//! What is left of an earlier run: who names it, who is back in time, who may, who lies.

use super::harness::{GEOMETRY, Shell, open_stream, show, subscribe};
use crate::core::{Flow, Language, Limits, SessionId};
use tramline_wire::{
    Adopted, Code, GatedBy, Mode, OpenStream, Source, StillAdmits, StillReads, Subscribe, Successor,
    ToBroker, ToClient,
};

/// An attachment of an earlier run.
const OLD: u64 = 0xabcd_ef01_2345_6789;

const STREAM: u64 = 77;

fn shell() -> Shell {
    Shell::new(Limits { adoption_grace_millis: 5_000, ..Limits::default() })
}

fn reads(attach: u64, sub: u32) -> StillReads {
    StillReads { attach, sub, stream: STREAM, generation: 0, in_place: true }
}

fn admits(attach: u64) -> StillAdmits {
    StillAdmits { attach, stream: STREAM, slot: 3, mode: Mode::Gated }
}

/// A publisher with an alias for "t", who still has these readers.
fn publisher(shell: &mut Shell, uid: u32, admits: &[StillAdmits]) -> SessionId {
    let id = shell.native_of(uid, "p");
    shell.say(id, ToBroker::Topic { alias: 0, topic: "t" });
    for still in admits {
        assert_eq!(shell.say(id, ToBroker::StillAdmits(*still)), Flow::Continue);
    }
    id
}

fn open(shell: &mut Shell, id: SessionId, generation: u32) {
    let memory = shell.fd("ring");
    let frame = OpenStream { generation, ..open_stream(9, 0, STREAM) };
    shell.say_with(id, ToBroker::OpenStream(frame), &[memory]);
}

/// A subscriber that still reads these, and asks for subscription 1 again.
fn subscriber(shell: &mut Shell, uid: u32, reads: &[StillReads], filter: &str) -> SessionId {
    let id = shell.native_of(uid, "s");
    for still in reads {
        assert_eq!(shell.say(id, ToBroker::StillReads(*still)), Flow::Continue);
    }
    let wanted = Subscribe { mode: Mode::Gated, ..subscribe(4, 1, filter) };
    shell.say(id, ToBroker::Subscribe(wanted));
    id
}

fn source(from: SessionId, uid: u32) -> ToClient<'static> {
    ToClient::Source(Source {
        alias: 0,
        topic: "t",
        session: from,
        name: "p",
        uid,
        pid: 100 + uid,
        client: 0,
    })
}

fn adopted(source: Option<u32>, mode: Mode) -> ToClient<'static> {
    ToClient::Adopted(Adopted { attach: OLD, source, mode })
}

const SUBSCRIBED: ToClient<'_> = ToClient::Subscribed { req: 4, sub: 1, streams: 1, pending: 0 };

fn opened(readers: u32) -> ToClient<'static> {
    ToClient::StreamOpened { req: 9, stream: STREAM, readers, pending: 0 }
}

fn gone(code: Code) -> ToClient<'static> {
    ToClient::Detach { attach: OLD, code: code.number() }
}

/// Whether what a session hears next contains an offer.
fn is_offered(shell: &mut Shell, id: SessionId) -> bool {
    show(&shell.read(id)).contains("Offer(")
}

#[test]
fn what_both_have_goes_on_whoever_comes_first() {
    for publisher_first in [false, true] {
        let mut shell = shell();
        let (from, to);
        if publisher_first {
            from = publisher(&mut shell, 1000, &[admits(OLD)]);
            open(&mut shell, from, 0);
            shell.hears(from, &[opened(0)]);
            to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
            shell.hears(to, &[source(from, 1000), adopted(Some(0), Mode::Gated), SUBSCRIBED]);
            shell.hears(from, &[adopted(None, Mode::Gated)]);
        } else {
            to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
            shell.hears(to, &[ToClient::Subscribed { req: 4, sub: 1, streams: 0, pending: 0 }]);
            from = publisher(&mut shell, 1000, &[admits(OLD)]);
            open(&mut shell, from, 0);
            shell.hears(to, &[source(from, 1000), adopted(Some(0), Mode::Gated)]);
            shell.hears(from, &[adopted(None, Mode::Gated), opened(1)]);
        }
        // It is an attachment like any other: it is shown, outlives the time of grace, and ends with either side.
        shell.pass(60_000);
        shell.hears(to, &[]);
        shell.hears(from, &[]);
        let status = shell.core.snapshot(shell.now);
        let reader = &status.streams[0].readers[0];
        assert_eq!((reader.state, reader.mode, reader.sub), ("attached", "gated", 1));
        assert!(reader.page.is_none(), "its page was never given to this broker");
        if publisher_first {
            shell.say(to, ToBroker::Detach { attach: OLD, code: 0 });
            shell.hears(from, &[ToClient::Detach { attach: OLD, code: 0 }]);
            // Frames that cross that one are late, not false.
            assert_eq!(shell.say(from, ToBroker::Detach { attach: OLD, code: 0 }), Flow::Continue);
        } else {
            shell.say(from, ToBroker::CloseStream { req: 5, stream: STREAM, last_seq: 8 });
            shell.hears(to, &[ToClient::Detach { attach: OLD, code: 0 }]);
        }
        shell.hang_up(to);
        shell.hang_up(from);
        shell.is_empty();
    }
}

#[test]
fn a_new_subscription_does_not_wait_for_old_ones() {
    let mut shell = shell();
    let from = publisher(&mut shell, 1000, &[admits(OLD)]);
    open(&mut shell, from, 0);
    let new = subscriber(&mut shell, 1000, &[], "t");
    assert!(is_offered(&mut shell, new));
    // Another subscription of the same client that reads it already is offered it as well.
    let to = shell.native("s");
    shell.say(to, ToBroker::StillReads(reads(OLD, 1)));
    shell.say(to, ToBroker::Subscribe(subscribe(3, 2, "t")));
    assert!(is_offered(&mut shell, to));
    shell.say(to, ToBroker::Subscribe(subscribe(4, 1, "t")));
    assert!(!is_offered(&mut shell, to));
    for id in [new, to, from] {
        shell.hang_up(id);
    }
    shell.is_empty();
}

#[test]
fn a_reader_whose_publisher_does_not_come_back_is_told_to_end() {
    let mut shell = shell();
    let to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
    shell.read(to);
    shell.pass(4_999);
    shell.hears(to, &[]);
    shell.pass(1);
    shell.hears(to, &[gone(Code::PeerGone)]);
    // It comes too late: the stream is offered like a new one, and the publisher lets go of what it still had.
    let from = publisher(&mut shell, 1000, &[admits(OLD)]);
    open(&mut shell, from, 0);
    assert!(is_offered(&mut shell, to));
    shell.read(from);
    shell.pass(5_000);
    let heard = show(&shell.read(from));
    assert!(heard.contains(&format!("attach: {OLD}")) && heard.contains("code: 18"), "{heard}");
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn a_publisher_does_not_wait_for_a_reader_that_does_not_come_back() {
    let mut shell = shell();
    let from = publisher(&mut shell, 1000, &[admits(OLD)]);
    open(&mut shell, from, 0);
    shell.hears(from, &[opened(0)]);
    shell.pass(5_000);
    shell.hears(from, &[gone(Code::PeerGone)]);
    let to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
    assert!(is_offered(&mut shell, to));
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn what_only_one_names_is_offered_anew_at_once() {
    let mut shell = shell();
    // The publisher has dismissed this reader while there was no broker.
    let to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
    let from = publisher(&mut shell, 1000, &[]);
    open(&mut shell, from, 0);
    assert!(is_offered(&mut shell, to));
    shell.pass(60_000);
    let heard = show(&shell.read(to));
    assert!(!heard.contains("Detach"), "the subscription goes over by itself: {heard}");
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn access_is_checked_again() {
    // Who may gate no longer reads lossily, and both are told.
    let mut shell = shell();
    let to = subscriber(&mut shell, 1001, &[StillReads { in_place: false, ..reads(OLD, 1) }], "t");
    let from = publisher(&mut shell, 1002, &[admits(OLD)]);
    open(&mut shell, from, 0);
    shell.read(to);
    shell.hears(from, &[adopted(None, Mode::Lossy), opened(1)]);
    let reader = &shell.core.snapshot(shell.now).streams[0].readers[0];
    assert_eq!(reader.mode, "lossy");
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
    // Who may not read in place any more is shown out, and offered what it may have.
    let mut shell = self::shell();
    let to = subscriber(&mut shell, 1001, &[reads(OLD, 1)], "t");
    let from = publisher(&mut shell, 1002, &[admits(OLD)]);
    open(&mut shell, from, 0);
    shell.hears(from, &[gone(Code::Denied)]);
    let heard = show(&shell.read(to));
    assert!(heard.contains("Offer(") && heard.contains("in_place: false"), "{heard}");
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
    // Who wants to gate or nothing gets nothing.
    let mut shell = self::shell();
    let to = shell.native_of(1001, "s");
    shell.say(to, ToBroker::StillReads(StillReads { in_place: false, ..reads(OLD, 1) }));
    let wanted = Subscribe { mode: Mode::Gated, gated_only: true, ..subscribe(4, 1, "t") };
    shell.say(to, ToBroker::Subscribe(wanted));
    let from = publisher(&mut shell, 1002, &[admits(OLD)]);
    open(&mut shell, from, 0);
    shell.hears(from, &[gone(Code::Denied), opened(0)]);
    assert!(!is_offered(&mut shell, to));
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn a_stream_that_the_filter_does_not_select_is_not_taken_over() {
    let mut shell = shell();
    let to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "other");
    shell.read(to);
    let from = publisher(&mut shell, 1000, &[admits(OLD)]);
    open(&mut shell, from, 0);
    shell.read(from);
    shell.pass(5_000);
    shell.hears(to, &[gone(Code::PeerGone)]);
    shell.hears(from, &[gone(Code::PeerGone)]);
    assert_eq!(shell.core.snapshot(shell.now).streams[0].readers.len(), 0);
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

/// What a liar does, and with which code its session ends.
type Case<'a> = &'a dyn Fn(&mut Shell) -> (SessionId, Code);

#[test]
fn liars_get_nothing() {
    // Somebody else's stream, and an attachment that its publisher has with somebody else.
    let mut shell = shell();
    let liar = subscriber(&mut shell, 1000, &[reads(OLD + 1, 1)], "t");
    let from = publisher(&mut shell, 1000, &[admits(OLD)]);
    open(&mut shell, from, 0);
    assert!(is_offered(&mut shell, liar), "it may subscribe, and is offered what everybody is");
    let to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
    shell.hears(to, &[source(from, 1000), adopted(Some(0), Mode::Gated), SUBSCRIBED]);
    // A publisher that names readers of a stream that is not its own.
    let other = publisher(&mut shell, 1000, &[admits(OLD + 2)]);
    let late = subscriber(&mut shell, 1000, &[reads(OLD + 2, 1)], "t");
    assert!(is_offered(&mut shell, late));
    for id in [liar, from, to, other, late] {
        shell.hang_up(id);
    }
    shell.is_empty();
    // What no client that keeps to the protocol does ends its session.
    let named_twice = |shell: &mut Shell| {
        let id = shell.native("s");
        shell.say(id, ToBroker::StillReads(reads(OLD, 1)));
        shell.say(id, ToBroker::StillReads(reads(OLD, 2)));
        (id, Code::BadId)
    };
    let pair_twice = |shell: &mut Shell| {
        let id = shell.native("s");
        shell.say(id, ToBroker::StillReads(reads(OLD, 1)));
        shell.say(id, ToBroker::StillReads(reads(OLD + 1, 1)));
        (id, Code::BadId)
    };
    let zero = |shell: &mut Shell| {
        let id = publisher(shell, 1000, &[]);
        shell.say(id, ToBroker::StillAdmits(admits(0)));
        (id, Code::BadId)
    };
    let too_late = |shell: &mut Shell| {
        let id = publisher(shell, 1000, &[]);
        open(shell, id, 0);
        shell.say(id, ToBroker::StillAdmits(admits(OLD)));
        (id, Code::OutOfOrder)
    };
    let behind = |shell: &mut Shell| {
        let id = subscriber(shell, 1000, &[], "t");
        shell.say(id, ToBroker::StillReads(reads(OLD, 1)));
        (id, Code::OutOfOrder)
    };
    let never_was = |shell: &mut Shell| {
        let id = shell.native("s");
        shell.say(id, ToBroker::Detach { attach: OLD, code: 0 });
        (id, Code::BadId)
    };
    let another_s = |shell: &mut Shell| {
        let id = publisher(shell, 1000, &[]);
        open(shell, id, 0);
        let to = subscriber(shell, 1000, &[], "t");
        shell.read(to);
        let liar = shell.native("liar");
        shell.say(liar, ToBroker::StillReads(reads(1, 1)));
        (liar, Code::BadId)
    };
    let cases: [Case<'_>; 7] = [&named_twice, &pair_twice, &zero, &too_late, &behind, &never_was, &another_s];
    for case in cases {
        let mut shell = self::shell();
        let (id, code) = case(&mut shell);
        shell.is_closed_with(id, code);
    }
}

#[test]
fn what_is_given_up_while_it_waits_is_not_taken_over() {
    let mut shell = shell();
    let to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
    shell.read(to);
    shell.say(to, ToBroker::Detach { attach: OLD, code: 0 });
    let from = publisher(&mut shell, 1000, &[admits(OLD)]);
    open(&mut shell, from, 0);
    assert!(is_offered(&mut shell, to));
    shell.hang_up(from);
    // A subscription that ends takes its claims along; a stream that ends its readers.
    shell.say(to, ToBroker::StillReads(reads(OLD, 2)));
    shell.say(to, ToBroker::Subscribe(subscribe(5, 2, "t")));
    shell.say(to, ToBroker::Unsubscribe { req: 6, sub: 2 });
    assert!(shell.core.claims.is_empty());
    shell.say(to, ToBroker::StillReads(reads(OLD, 3)));
    let from = publisher(&mut shell, 1000, &[admits(OLD)]);
    open(&mut shell, from, 0);
    shell.read(to);
    shell.say(from, ToBroker::CloseStream { req: 7, stream: STREAM, last_seq: 0 });
    assert!(show(&shell.read(to)).contains(&format!("attach: {OLD}")));
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn an_eviction_without_a_broker_is_told_to_the_reader() {
    let mut shell = shell();
    let to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
    shell.read(to);
    let from = publisher(&mut shell, 1000, &[StillAdmits { mode: Mode::Lossy, ..admits(OLD) }]);
    open(&mut shell, from, 0);
    shell.hears(to, &[source(from, 1000), adopted(Some(0), Mode::Lossy)]);
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn a_reader_gets_the_generation_that_died_on_its_way() {
    let mut shell = shell();
    let to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
    shell.read(to);
    let from = publisher(&mut shell, 1000, &[admits(OLD)]);
    open(&mut shell, from, 1);
    let successor = Successor { attach: OLD, generation: 1, geometry: GEOMETRY, fds: 1 };
    shell.hears(to, &[source(from, 1000), adopted(Some(0), Mode::Gated), ToClient::Successor(successor)]);
    shell.say(to, ToBroker::Attached { attach: OLD });
    // One that claims to be ahead of its publisher cannot be.
    let liar = subscriber(&mut shell, 1000, &[], "other");
    shell.say(liar, ToBroker::StillReads(StillReads { generation: 9, ..reads(OLD + 1, 2) }));
    shell.say(liar, ToBroker::Subscribe(subscribe(5, 2, "t")));
    assert!(is_offered(&mut shell, liar));
    for id in [from, to, liar] {
        shell.hang_up(id);
    }
    shell.is_empty();
}

#[test]
fn a_second_crash_while_some_are_back_changes_nothing() {
    let mut first = shell();
    let to = subscriber(&mut first, 1000, &[reads(OLD, 1)], "t");
    first.read(to);
    // It dies before the publisher is back; with the next run both are, under the id they still have.
    let mut second = shell();
    let to = subscriber(&mut second, 1000, &[reads(OLD, 1)], "t");
    second.read(to);
    let from = publisher(&mut second, 1000, &[admits(OLD)]);
    open(&mut second, from, 0);
    second.hears(to, &[source(from, 1000), adopted(Some(0), Mode::Gated)]);
    // It dies again, having told one of them only: the id is the same all the same.
    let mut third = shell();
    let from = publisher(&mut third, 1000, &[admits(OLD)]);
    open(&mut third, from, 0);
    third.read(from);
    let to = subscriber(&mut third, 1000, &[reads(OLD, 1)], "t");
    third.hears(to, &[source(from, 1000), adopted(Some(0), Mode::Gated), SUBSCRIBED]);
    third.hang_up(from);
    third.hears(to, &[ToClient::Detach { attach: OLD, code: 18 }, ToClient::SourceGone { alias: 0 }]);
    third.hang_up(to);
    third.is_empty();
}

#[test]
fn claims_are_counted_like_attachments() {
    let mut shell = Shell::new(Limits { attachments_max: 2, ..Limits::default() });
    let to = shell.connect(1000, Language::Native);
    shell.say(to, ToBroker::Hello { name: "s", client: 0 });
    shell.read(to);
    for (attach, sub) in [(OLD, 1), (OLD + 1, 2), (OLD + 2, 3)] {
        assert_eq!(shell.say(to, ToBroker::StillReads(reads(attach, sub))), Flow::Continue);
    }
    shell.hears(to, &[ToClient::Detach { attach: OLD + 2, code: Code::LimitReached.number() }]);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn who_may_be_gated_by_is_what_the_publisher_says_now() {
    let mut shell = shell();
    let to = subscriber(&mut shell, 1000, &[reads(OLD, 1)], "t");
    shell.read(to);
    let from = publisher(&mut shell, 1000, &[admits(OLD)]);
    let memory = shell.fd("ring");
    let frame = OpenStream { gated_by: GatedBy::Nobody, ..open_stream(9, 0, STREAM) };
    shell.say_with(from, ToBroker::OpenStream(frame), &[memory]);
    shell.hears(from, &[adopted(None, Mode::Lossy), opened(1)]);
    shell.hears(to, &[source(from, 1000), adopted(Some(0), Mode::Lossy)]);
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}
