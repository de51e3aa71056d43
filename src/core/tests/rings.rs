//! Streams from declaration to end, frame by frame.

use super::harness::{GEOMETRY, Shell, each_frame, message, open_stream, publish, show, subscribe};
use crate::core::{FdId, Flow, Limits, SessionId};
use tramline_wire::{
    Accept, Admit, Attach, Code, Deliver, GatedBy, Mode, Offer, OpenStream, PageDeclaration, SlowPolicy,
    Source, Subscribe, ToBroker, ToClient,
};

const PAGE: PageDeclaration = PageDeclaration { first_slot: 0, slots: 8 };

fn shell() -> Shell {
    Shell::new(Limits::default())
}

/// A publisher "p" with aliases 0 to 9 for topics `t.0` to `t.9`.
fn publisher(shell: &mut Shell) -> SessionId {
    let id = shell.native("p");
    for alias in 0..10 {
        shell.say(id, ToBroker::Topic { alias, topic: &format!("t.{alias}") });
    }
    id
}

/// Opens a stream on `t.<alias>`; its memory.
fn open(shell: &mut Shell, id: SessionId, alias: u32, stream: u64) -> FdId {
    let memory = shell.fd("ring");
    assert_eq!(
        shell.say_with(id, ToBroker::OpenStream(open_stream(1, alias, stream)), &[memory]),
        Flow::Continue
    );
    memory
}

fn accept(shell: &mut Shell, id: SessionId, attach: u64, slot: u32, page: Option<PageDeclaration>) {
    let fds: Vec<FdId> = page.iter().map(|_| shell.fd("page")).collect();
    let accept = Accept { attach, slot, page, fds: u8::try_from(fds.len()).unwrap() };
    assert_eq!(shell.say_with(id, ToBroker::Accept(accept), &fds), Flow::Continue);
}

fn admit(shell: &mut Shell, id: SessionId, attach: u64) {
    assert_eq!(
        shell.say(id, ToBroker::Admitted { attach, start: 3, start_seq: 4, generation: 0 }),
        Flow::Continue
    );
}

/// A stream on `t.0` attached to subscription 1 on `t.*`, all the way: publisher, subscriber.
fn attached(shell: &mut Shell) -> (SessionId, SessionId) {
    let (from, to) = (publisher(shell), shell.native("s"));
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t.*")));
    open(shell, from, 0, 77);
    accept(shell, to, 1, 0, Some(PAGE));
    admit(shell, from, 1);
    shell.say(to, ToBroker::Attached { attach: 1 });
    shell.read(from);
    shell.read(to);
    (from, to)
}

#[test]
fn a_stream_reaches_a_subscriber_step_by_step() {
    let mut shell = shell();
    let (from, to) = (publisher(&mut shell), shell.native("s"));
    shell.say(to, ToBroker::Subscribe(Subscribe { mode: Mode::Gated, history: 2, ..subscribe(1, 5, "t.0") }));
    shell.hears(to, &[ToClient::Subscribed { req: 1, sub: 5, streams: 0, pending: 0 }]);
    let memory = open(&mut shell, from, 0, 77);
    shell.hears(from, &[]);
    shell.hears(
        to,
        &[
            ToClient::Source(Source {
                alias: 0,
                topic: "t.0",
                session: from,
                name: "p",
                uid: 1000,
                pid: 1100,
                client: 0,
            }),
            ToClient::Offer(Offer {
                attach: 1,
                sub: 5,
                source: 0,
                stream: 77,
                link: 1,
                mode: Mode::Gated,
                in_place: true,
                retained: false,
            }),
        ],
    );
    accept(&mut shell, to, 1, 3, Some(PAGE));
    let (bytes, fds) = shell.read_some(from, usize::MAX);
    let mut wanted = Vec::new();
    ToClient::Admit(Admit {
        attach: 1,
        stream: 77,
        link: 1,
        slot: 3,
        mode: Mode::Gated,
        history: 2,
        keep_millis: 0,
        session: to,
        name: "s",
        page: Some(PAGE),
        bells: true,
        fds: 3,
    })
    .encode(&mut wanted);
    assert!(bytes == wanted, "{}", show(&bytes));
    assert_eq!(fds.len(), 3);
    // The bells went out and the broker keeps no copy of them; the page it keeps, to count by.
    assert_eq!(shell.fds.values().filter(|what| what.starts_with("doorbell")).count(), 1);
    assert!(
        shell.fds.contains_key(&fds[0])
            && !shell.fds.contains_key(&fds[1])
            && !shell.fds.contains_key(&fds[2])
    );
    admit(&mut shell, from, 1);
    shell.hears(from, &[ToClient::StreamOpened { req: 1, stream: 77, readers: 1, pending: 0 }]);
    let (bytes, fds) = shell.read_some(to, usize::MAX);
    let mut wanted = Vec::new();
    let frame =
        Attach { attach: 1, generation: 0, geometry: GEOMETRY, start: 3, start_seq: 4, bells: true, fds: 3 };
    ToClient::Attach(frame).encode(&mut wanted);
    assert!(bytes == wanted, "{}", show(&bytes));
    assert_eq!((fds.len(), fds[0]), (3, memory));
    assert_eq!(
        shell.fds.values().filter(|what| what.as_str() != "ring" && what.as_str() != "page").count(),
        0
    );
    shell.say(to, ToBroker::Attached { attach: 1 });
    // Messages by socket on the same topic are still routed.
    shell.say(from, publish(0, 9, b"x"));
    let deliver = Deliver { sub: 5, source: 0, payload_length: 1, message: message(9, b"x") };
    shell.hears(to, &[ToClient::Deliver(deliver)]);
    let status = shell.core.snapshot(shell.now);
    let reader = &status.streams[0].readers[0];
    assert_eq!((reader.state, reader.mode, reader.sub), ("attached", "gated", 5));
    assert_eq!(reader.page.unwrap().slot, 3);
    shell.say(from, ToBroker::CloseStream { req: 2, stream: 77, last_seq: 8 });
    shell.hears(from, &[ToClient::Done { req: 2 }]);
    shell.hears(to, &[ToClient::Detach { attach: 1, code: 0 }]);
    assert!(!shell.fds.contains_key(&memory));
    shell.hang_up(to);
    shell.hang_up(from);
    shell.is_empty();
}

#[test]
fn a_later_stream_of_the_same_link_needs_no_bells_and_no_page() {
    let mut shell = shell();
    let (from, to) = attached(&mut shell);
    let memory = open(&mut shell, from, 1, 78);
    accept(&mut shell, to, 2, 1, None);
    let (bytes, fds) = shell.read_some(from, usize::MAX);
    assert!(fds.is_empty());
    each_frame(&bytes, |frame| {
        assert!(matches!(frame, ToClient::Admit(Admit { link: 1, slot: 1, page: None, bells: false, .. })));
    });
    shell.read(to);
    admit(&mut shell, from, 2);
    assert_eq!(shell.read_some(to, usize::MAX).1, [memory]);
    // A slot in use is a false claim, one on a new page is not.
    open(&mut shell, from, 2, 79);
    accept(&mut shell, to, 3, 9, Some(PageDeclaration { first_slot: 8, slots: 8 }));
    assert_eq!(shell.read_some(from, usize::MAX).1.len(), 1);
    open(&mut shell, from, 3, 80);
    let again = Accept { attach: 4, slot: 9, page: None, fds: 0 };
    assert_eq!(shell.say(to, ToBroker::Accept(again)), Flow::Close);
    shell.is_closed_with(to, Code::FalseClaim);
    shell.hang_up(to);
    shell.hang_up(from);
    shell.is_empty();
}

#[test]
fn subscribing_waits_for_the_streams_that_are_there() {
    let mut shell = shell();
    let (from, to) = (publisher(&mut shell), shell.native("s"));
    open(&mut shell, from, 0, 70);
    open(&mut shell, from, 1, 71);
    shell.read(from);
    shell.say(to, ToBroker::Subscribe(subscribe(4, 1, "t.*")));
    let mut offers = 0;
    each_frame(&shell.read(to), |frame| match frame {
        ToClient::Offer(_) => offers += 1,
        ToClient::Source(_) => {}
        other => panic!("{other:?}"),
    });
    assert_eq!(offers, 2);
    accept(&mut shell, to, 1, 0, Some(PAGE));
    accept(&mut shell, to, 2, 1, None);
    admit(&mut shell, from, 1);
    admit(&mut shell, from, 2);
    shell.read(to);
    shell.say(to, ToBroker::Attached { attach: 1 });
    shell.hears(to, &[]);
    shell.say(to, ToBroker::Attached { attach: 2 });
    shell.hears(to, &[ToClient::Subscribed { req: 4, sub: 1, streams: 2, pending: 0 }]);
    assert_eq!(shell.core.deadline(), None);
}

#[test]
fn nobody_waits_longer_than_the_attach_timeout() {
    let mut shell = shell();
    let (from, to) = (publisher(&mut shell), shell.native("s"));
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t.0")));
    open(&mut shell, from, 0, 70);
    shell.read(to);
    shell.pass(999);
    shell.hears(from, &[]);
    shell.pass(1);
    shell.hears(from, &[ToClient::StreamOpened { req: 1, stream: 70, readers: 0, pending: 1 }]);
    shell.say(to, ToBroker::Subscribe(subscribe(2, 2, "t.*")));
    shell.pass(1_000);
    let bytes = shell.read(to);
    let mut last = None;
    each_frame(&bytes, |frame| last = Some(format!("{frame:?}")));
    assert_eq!(last.as_deref(), Some("Subscribed { req: 2, sub: 2, streams: 0, pending: 1 }"));
    // Who was late is attached when it answers.
    accept(&mut shell, to, 1, 0, Some(PAGE));
    admit(&mut shell, from, 1);
    assert_eq!(shell.read_some(to, usize::MAX).1.len(), 3);
    shell.say(to, ToBroker::Attached { attach: 1 });
    assert_eq!(shell.core.deadline(), None);
}

#[test]
fn either_side_may_refuse_or_leave() {
    let mut shell = shell();
    let (from, to) = (publisher(&mut shell), shell.native("s"));
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t.*")));
    open(&mut shell, from, 0, 70);
    shell.say(to, ToBroker::Detach { attach: 1, code: Code::NoResources.number() });
    // The publisher never heard of it.
    shell.hears(from, &[ToClient::StreamOpened { req: 1, stream: 70, readers: 0, pending: 0 }]);
    open(&mut shell, from, 1, 71);
    accept(&mut shell, to, 2, 0, Some(PAGE));
    shell.read(from);
    shell.read(to);
    let code = Code::GateRefused.number();
    shell.say(from, ToBroker::Detach { attach: 2, code });
    shell.hears(from, &[ToClient::StreamOpened { req: 1, stream: 71, readers: 0, pending: 0 }]);
    shell.hears(to, &[ToClient::Detach { attach: 2, code }]);
    // Frames about it that were on their way are late, not false.
    assert_eq!(
        shell.say(from, ToBroker::Admitted { attach: 2, start: 0, start_seq: 1, generation: 0 }),
        Flow::Continue
    );
    assert_eq!(shell.say(to, ToBroker::Attached { attach: 2 }), Flow::Continue);
    let page = shell.fd("late page");
    let late = Accept { attach: 2, slot: 0, page: Some(PAGE), fds: 1 };
    assert_eq!(shell.say_with(to, ToBroker::Accept(late), &[page]), Flow::Continue);
    assert!(!shell.fds.contains_key(&page));
    open(&mut shell, from, 2, 72);
    accept(&mut shell, to, 3, 0, None);
    admit(&mut shell, from, 3);
    shell.say(to, ToBroker::Attached { attach: 3 });
    shell.read(from);
    shell.say(to, ToBroker::Detach { attach: 3, code: 0 });
    shell.hears(from, &[ToClient::Detach { attach: 3, code: 0 }]);
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn what_was_admitted_is_handed_over_even_if_the_publisher_is_gone() {
    let mut shell = Shell::new(Limits { outbox_bytes_max: 1_000, ..Limits::default() });
    let (from, to, other) = (publisher(&mut shell), shell.native("s"), shell.native("o"));
    shell.say(other, ToBroker::Topic { alias: 0, topic: "t.x" });
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t.*")));
    let memory = open(&mut shell, from, 0, 70);
    accept(&mut shell, to, 1, 0, Some(PAGE));
    shell.read(from);
    shell.read(to);
    // The memory comes behind what waits already.
    for seq in 1..=30 {
        shell.say(other, publish(0, seq, &[0; 100]));
    }
    admit(&mut shell, from, 1);
    shell.hang_up(from);
    assert!(shell.fds.contains_key(&memory));
    let (bytes, fds) = shell.read_some(to, usize::MAX);
    assert_eq!(fds[0], memory);
    let mut told = Vec::new();
    each_frame(&bytes, |frame| match frame {
        ToClient::Deliver(deliver) => told.push(format!("{}", deliver.message.seq)),
        ToClient::Attach(attach) => told.push(format!("attach {}", attach.attach)),
        ToClient::Detach { attach, code } => told.push(format!("detach {attach} {code}")),
        ToClient::SourceGone { .. } => told.push("gone".to_owned()),
        _ => {}
    });
    let mut expected: Vec<String> = (1..=30).map(|seq: u32| seq.to_string()).collect();
    expected.extend(["attach 1".to_owned(), "detach 1 18".to_owned(), "gone".to_owned()]);
    assert_eq!(told, expected);
    assert!(!shell.fds.contains_key(&memory));
    shell.hang_up(to);
    shell.hang_up(other);
    shell.is_empty();
}

#[test]
fn deaths_are_told_to_the_other_side() {
    let mut shell = shell();
    let (from, to) = attached(&mut shell);
    shell.hang_up(from);
    let gone = Code::PeerGone.number();
    shell.hears(to, &[ToClient::Detach { attach: 1, code: gone }, ToClient::SourceGone { alias: 0 }]);
    shell.hang_up(to);
    shell.is_empty();
    let mut shell = self::shell();
    let (from, to) = attached(&mut shell);
    shell.hang_up(to);
    shell.hears(from, &[ToClient::Detach { attach: 1, code: gone }]);
    shell.hang_up(from);
    shell.is_empty();
}

#[test]
fn unsubscribing_detaches_in_good_order() {
    let mut shell = shell();
    let (from, to) = attached(&mut shell);
    shell.say(to, ToBroker::Unsubscribe { req: 3, sub: 1 });
    shell.hears(to, &[ToClient::Done { req: 3 }]);
    shell.hears(from, &[ToClient::Detach { attach: 1, code: 0 }]);
    // The same number again is another subscription, with another link.
    shell.say(to, ToBroker::Subscribe(subscribe(4, 1, "t.0")));
    let mut link = 0;
    each_frame(&shell.read(to), |frame| {
        if let ToClient::Offer(offer) = frame {
            link = offer.link;
        }
    });
    assert_eq!(link, 2);
}

#[test]
fn gating_and_reading_in_place_depend_on_who_reads_whom() {
    let mut shell = shell();
    let offered = |shell: &mut Shell, uid, gated_by| {
        let (from, to) = (shell.native_of(1001, "p"), shell.native_of(uid, "s"));
        shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
        shell.say(to, ToBroker::Subscribe(Subscribe { mode: Mode::Gated, ..subscribe(1, 1, "t") }));
        let memory = shell.fd("ring");
        let open = OpenStream { gated_by, ..open_stream(1, 0, 9) };
        shell.say_with(from, ToBroker::OpenStream(open), &[memory]);
        let mut offered = None;
        each_frame(&shell.read(to), |frame| {
            if let ToClient::Offer(offer) = frame {
                offered = Some((offer.mode, offer.in_place));
            }
        });
        shell.hang_up(from);
        shell.hang_up(to);
        offered.unwrap()
    };
    assert_eq!(offered(&mut shell, 1001, GatedBy::OwnUid), (Mode::Gated, true));
    assert_eq!(offered(&mut shell, 1002, GatedBy::OwnUid), (Mode::Lossy, false));
    assert_eq!(offered(&mut shell, 1002, GatedBy::Anyone), (Mode::Gated, false));
    assert_eq!(offered(&mut shell, 0, GatedBy::OwnUid), (Mode::Gated, false));
    assert_eq!(offered(&mut shell, 1001, GatedBy::Nobody), (Mode::Lossy, true));
    shell.is_empty();
}

#[test]
fn without_pipes_an_attachment_is_given_up_and_the_next_tries_again() {
    let mut shell = shell();
    let (from, to) = (publisher(&mut shell), shell.native("s"));
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t.*")));
    open(&mut shell, from, 0, 70);
    shell.read(to);
    shell.no_pipes = true;
    accept(&mut shell, to, 1, 0, Some(PAGE));
    shell.hears(to, &[ToClient::Detach { attach: 1, code: Code::NoResources.number() }]);
    shell.hears(from, &[ToClient::StreamOpened { req: 1, stream: 70, readers: 0, pending: 0 }]);
    shell.no_pipes = false;
    open(&mut shell, from, 1, 71);
    accept(&mut shell, to, 2, 0, None);
    assert_eq!(shell.read_some(from, usize::MAX).1.len(), 3);
    shell.hang_up(to);
    shell.hang_up(from);
    shell.is_empty();
}

#[test]
fn few_descriptors_are_in_flight_to_one_session() {
    let mut shell = Shell::new(Limits { session_fds_in_flight_max: 5, ..Limits::default() });
    let (from, to) = (publisher(&mut shell), shell.native("s"));
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t.*")));
    for alias in 0..10 {
        open(&mut shell, from, alias, 100 + u64::from(alias));
    }
    for attach in 1..=10 {
        let slot = u32::try_from(attach).unwrap() - 1;
        let page = PageDeclaration { first_slot: slot, slots: 1 };
        accept(&mut shell, to, attach, slot, Some(page));
    }
    let admitted = |bytes: &[u8]| {
        let mut all = Vec::new();
        each_frame(bytes, |frame| {
            if let ToClient::Admit(admit) = frame {
                all.push(admit.attach);
            }
        });
        all
    };
    let (mut seen, mut rounds) = (Vec::new(), 0);
    while seen.len() < 10 {
        rounds += 1;
        let (bytes, fds) = shell.read_some(from, usize::MAX);
        assert!(fds.len() <= 5 && !fds.is_empty());
        for attach in admitted(&bytes) {
            seen.push(attach);
            admit(&mut shell, from, attach);
        }
    }
    assert!(rounds > 2);
    assert_eq!(seen, (1..=10).collect::<Vec<_>>());
    let mut attached = 0;
    while attached < 10 {
        let (bytes, fds) = shell.read_some(to, usize::MAX);
        assert!(fds.len() <= 5 && !fds.is_empty());
        let mut now = Vec::new();
        each_frame(&bytes, |frame| {
            if let ToClient::Attach(attach) = frame {
                now.push(attach.attach);
            }
        });
        for attach in now {
            attached += 1;
            shell.say(to, ToBroker::Attached { attach });
        }
    }
    shell.hang_up(from);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn foreign_and_untimely_words_about_an_attachment_end_the_session() {
    let speak = |who: usize, frame: ToBroker<'static>, code| {
        let mut shell = shell();
        let (from, to) = attached(&mut shell);
        let stranger = shell.native("x");
        let id = [from, to, stranger][who];
        assert_eq!(shell.say(id, frame), Flow::Close, "{frame:?}");
        shell.is_closed_with(id, code);
        for id in [from, to, stranger] {
            shell.hang_up(id);
        }
        shell.is_empty();
    };
    speak(2, ToBroker::Detach { attach: 1, code: 0 }, Code::BadId);
    speak(2, ToBroker::Attached { attach: 1 }, Code::BadId);
    speak(2, ToBroker::Accept(Accept { attach: 1, slot: 0, page: None, fds: 0 }), Code::BadId);
    speak(1, ToBroker::Admitted { attach: 1, start: 0, start_seq: 1, generation: 0 }, Code::BadId);
    speak(1, ToBroker::Attached { attach: 1 }, Code::OutOfOrder);
    speak(0, ToBroker::Admitted { attach: 1, start: 0, start_seq: 1, generation: 0 }, Code::OutOfOrder);
    speak(1, ToBroker::Accept(Accept { attach: 1, slot: 0, page: None, fds: 0 }), Code::OutOfOrder);
}

#[test]
fn a_client_may_read_its_own_stream() {
    let mut shell = shell();
    let id = publisher(&mut shell);
    shell.say(id, ToBroker::Subscribe(Subscribe { slow: SlowPolicy::Disconnect, ..subscribe(1, 1, "t.0") }));
    open(&mut shell, id, 0, 70);
    accept(&mut shell, id, 1, 0, Some(PAGE));
    admit(&mut shell, id, 1);
    shell.say(id, ToBroker::Attached { attach: 1 });
    shell.read(id);
    shell.say(id, ToBroker::CloseStream { req: 2, stream: 70, last_seq: 0 });
    shell.hears(id, &[ToClient::Detach { attach: 1, code: 0 }, ToClient::Done { req: 2 }]);
    shell.hang_up(id);
    shell.is_empty();
}

#[test]
fn half_of_the_way_is_no_obstacle_to_dying() {
    // Publisher and subscriber die after each number of steps, in either order.
    for steps in 0..=5 {
        for publisher_first in [false, true] {
            let mut shell = shell();
            let (from, to) = (publisher(&mut shell), shell.native("s"));
            shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t.*")));
            let mut taken = 0;
            let mut step = || {
                taken += 1;
                taken <= steps
            };
            if step() {
                open(&mut shell, from, 0, 70);
            }
            if step() {
                accept(&mut shell, to, 1, 0, Some(PAGE));
            }
            if step() {
                admit(&mut shell, from, 1);
            }
            if step() {
                shell.read(to);
            }
            if step() {
                shell.say(to, ToBroker::Attached { attach: 1 });
            }
            let (first, second) = if publisher_first { (from, to) } else { (to, from) };
            shell.hang_up(first);
            shell.read(second);
            shell.hang_up(second);
            shell.is_empty();
        }
    }
}
