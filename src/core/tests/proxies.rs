//! Subscriptions without rings: the broker reads on their behalf.

use super::harness::{Shell, each_frame, message, open_stream, ring_message, subscribe};
use crate::core::{Action, Flow, Limits, RingMessage, SessionId};
use tramline_wire::{
    After, Code, Message, MessageFlags, Mode, PageDeclaration, Publish, Subscribe, ToBroker, ToClient,
};

const STREAM: u64 = 77;

/// A publisher with a stream on `t`, and a subscriber whose proxy reads it.
fn proxied(shell: &mut Shell, line: Option<&str>) -> (SessionId, SessionId) {
    let from = shell.native("p");
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
    let memory = shell.fd("ring");
    shell.say_with(from, ToBroker::OpenStream(open_stream(1, 0, STREAM)), &[memory]);
    shell.read(from);
    let to = match line {
        Some(line) => {
            let to = shell.json();
            shell.line(to, line);
            to
        }
        None => {
            let to = shell.native("s");
            let plain = Subscribe { rings: false, mode: Mode::Gated, ..subscribe(1, 1, "t") };
            shell.say(to, ToBroker::Subscribe(plain));
            to
        }
    };
    assert_eq!(shell.asked(), [Action::ProxyOffer { attach: 1, link: 1, stream: STREAM }]);
    let page = shell.fd("page");
    shell.core.proxy_accept(1, 0, Some((PageDeclaration { first_slot: 0, slots: 4 }, page)), shell.now);
    shell.act();
    assert_eq!(shell.read_some(from, usize::MAX).1.len(), 3);
    shell.say(from, ToBroker::Admitted { attach: 1, start: 0, start_seq: 1, generation: 0 });
    let asked = shell.asked();
    let attach =
        asked.iter().find(|action| matches!(action, Action::ProxyAttach { attach: 1, bells: Some(_), .. }));
    assert!(attach.is_some(), "{asked:?}");
    // The client learns its subscription's number before anything else.
    shell.hears(to, &[]);
    shell.core.proxy_attached(1, shell.now);
    shell.act();
    (from, to)
}

fn end(mut shell: Shell, sessions: &[SessionId]) {
    for id in sessions {
        shell.hang_up(*id);
    }
    for attach in 1..=shell.core.ids.last {
        shell.core.proxy_ended(attach, 0, shell.now);
        shell.act();
    }
    shell.is_empty();
}

fn seqs(bytes: &[u8]) -> Vec<u64> {
    let mut all = Vec::new();
    each_frame(bytes, |frame| match frame {
        ToClient::Deliver(deliver) => all.push(deliver.message.seq),
        ToClient::Gap { lost, .. } => all.push(1_000 + lost),
        _ => {}
    });
    all
}

#[test]
fn ring_messages_reach_lines() {
    let mut shell = Shell::new(Limits::default());
    let (from, to) = proxied(&mut shell, Some(r#"{"op":"sub","topic":"t","id":1}"#));
    shell.hears_lines(to, &[r#"{"ok":true,"op":"sub","id":1,"sub":1}"#]);
    let flags = MessageFlags::new(tramline_wire::Encoding::Text).bits();
    let time = shell.now.monotonic;
    let message = RingMessage { flags, time, lost: 2, ..ring_message(3, b"hello") };
    assert_eq!(shell.core.proxy_message(1, message, shell.now), Flow::Continue);
    shell.hears_lines(
        to,
        &[
            r#"{"op":"gap","sub":1,"topic":"t","lost":2}"#,
            r#"{"op":"msg","sub":1,"topic":"t","seq":3,"time":"2023-11-14T22:13:20.000000000Z","from":{"name":"p","uid":1000,"pid":1100},"text":"hello"}"#,
        ],
    );
    shell.say(from, ToBroker::CloseStream { req: 2, stream: STREAM, last_seq: 4 });
    assert_eq!(shell.asked(), [Action::ProxyDetach { attach: 1, drain: true }]);
    shell.core.proxy_ended(1, 1, shell.now);
    shell.act();
    // What was lost at the end is told although nothing follows.
    shell.hears_lines(to, &[r#"{"op":"gap","sub":1,"topic":"t","lost":1}"#]);
    end(shell, &[from, to]);
}

#[test]
fn socket_messages_wait_until_the_ring_before_them_is_read() {
    let mut shell = Shell::new(Limits::default());
    let (from, to) = proxied(&mut shell, None);
    shell.read(to);
    shell.core.proxy_message(1, ring_message(1, b"1"), shell.now);
    shell.say(from, ToBroker::CloseStream { req: 2, stream: STREAM, last_seq: 3 });
    let after = Some(After { stream: STREAM, seq: 3 });
    let moved = Message { after, ..message(4, b"4") };
    shell.say(from, ToBroker::Publish(Publish { alias: 0, message: moved }));
    shell.say(from, ToBroker::Publish(Publish { alias: 0, message: message(5, b"5") }));
    assert_eq!(seqs(&shell.read(to)), [1]);
    shell.core.proxy_message(1, ring_message(2, b"2"), shell.now);
    assert_eq!(seqs(&shell.read(to)), [2]);
    shell.core.proxy_message(1, ring_message(3, b"3"), shell.now);
    assert_eq!(seqs(&shell.read(to)), [3, 4, 5]);
    end(shell, &[from, to]);
}

#[test]
fn what_the_ring_lost_at_its_end_does_not_hold_anything_for_ever() {
    let mut shell = Shell::new(Limits::default());
    let (from, to) = proxied(&mut shell, None);
    shell.read(to);
    shell.say(from, ToBroker::CloseStream { req: 2, stream: STREAM, last_seq: 3 });
    let after = Some(After { stream: STREAM, seq: 3 });
    let moved = Message { after, ..message(4, b"4") };
    shell.say(from, ToBroker::Publish(Publish { alias: 0, message: moved }));
    assert!(seqs(&shell.read(to)).is_empty());
    shell.core.proxy_ended(1, 3, shell.now);
    shell.act();
    assert_eq!(seqs(&shell.read(to)), [1_003, 4]);
    end(shell, &[from, to]);
}

#[test]
fn who_does_not_read_stops_the_reading_and_a_lossy_one_learns_what_the_ring_lost_meanwhile() {
    let limits = Limits { outbox_bytes_max: 1_000, backlog_bytes_max: 2_000, ..Limits::default() };
    let mut shell = Shell::new(limits.clone());
    let (from, to) = proxied(&mut shell, Some(r#"{"op":"sub","topic":"t","reliable":true}"#));
    let mut seq = 0;
    loop {
        seq += 1;
        assert!(seq < 1_000);
        match shell.core.proxy_message(1, ring_message(seq, &[b'x'; 100]), shell.now) {
            Flow::Continue => {}
            Flow::Pause => break,
            Flow::Close => panic!("closed"),
        }
    }
    shell.asked();
    let text = String::from_utf8(shell.read(to)).unwrap();
    assert_eq!(text.lines().count() as u64, seq + 1);
    assert_eq!(shell.asked(), [Action::ProxyResume { attach: 1 }]);
    end(shell, &[to, from]);

    let mut shell = Shell::new(limits);
    let (from, to) = proxied(&mut shell, Some(r#"{"op":"sub","topic":"t"}"#));
    let mut seq = 1;
    while shell.core.proxy_message(1, ring_message(seq, &[b'x'; 100]), shell.now) == Flow::Continue {
        seq += 1;
        assert!(seq < 200, "all of it is copied out of the ring although nobody reads");
    }
    shell.asked();
    let mut text = String::from_utf8(shell.read(to)).unwrap();
    assert!(!text.contains("\"gap\""), "{text}");
    assert_eq!(shell.asked(), [Action::ProxyResume { attach: 1 }]);
    // The publisher has gone on, and overwritten what was not read.
    let overtaken = RingMessage { lost: 199 - seq, ..ring_message(200, &[b'x'; 100]) };
    assert_eq!(shell.core.proxy_message(1, overtaken, shell.now), Flow::Continue);
    text.push_str(&String::from_utf8(shell.read(to)).unwrap());
    let (mut seen, mut lost) = (0, 0);
    for line in text.lines().skip(1) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        seen += u64::from(value["op"] == "msg");
        lost += value["lost"].as_u64().unwrap_or(0);
    }
    assert_eq!(seen + lost, 200);
    assert!(lost > 0);
    end(shell, &[to, from]);
}

#[test]
fn a_loss_in_the_ring_is_told_where_it_happened_and_not_ahead_of_what_waits() {
    let limits = Limits { outbox_bytes_max: 500, backlog_bytes_max: 2_000, ..Limits::default() };
    let mut shell = Shell::new(limits);
    let (from, to) = proxied(&mut shell, None);
    shell.read(to);
    // The outbox is full after some of these; the rest waits, with a loss of 5 behind the tenth.
    for seq in (1..=10).chain(16..=18) {
        let lost = if seq == 16 { 5 } else { 0 };
        let message = RingMessage { lost, ..ring_message(seq, &[b'x'; 100]) };
        shell.core.proxy_message(1, message, shell.now);
    }
    let told = seqs(&shell.read(to));
    assert_eq!(told, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1_005, 16, 17, 18]);
    // A loss with nothing behind it is told as soon as what waits has gone.
    for seq in 19..=28 {
        shell.core.proxy_message(1, ring_message(seq, &[b'x'; 100]), shell.now);
    }
    shell.core.proxy_ended(1, 7, shell.now);
    let told = seqs(&shell.read(to));
    assert_eq!(told.first(), Some(&19));
    assert_eq!(told.last(), Some(&1_007));
    end(shell, &[from, to]);
}

#[test]
fn a_false_claim_in_a_ring_ends_its_publisher() {
    for (flags, head) in [(0xff00, &[][..]), (0, &[200, 1][..])] {
        let mut shell = Shell::new(Limits::default());
        let (from, to) = proxied(&mut shell, None);
        let message = RingMessage { flags, head, ..ring_message(1, b"x") };
        assert_eq!(shell.core.proxy_message(1, message, shell.now), Flow::Close);
        shell.act();
        let said = shell.is_closed_with(from, Code::FalseClaim);
        assert!(said.contains("stream 000000000000004d on t"), "{said}");
        shell.core.proxy_ended(1, 0, shell.now);
        shell.act();
        assert_eq!(seqs(&shell.read(to)), [1_001]);
        end(shell, &[from, to]);
    }
}

#[test]
fn a_payload_too_large_for_a_frame_is_delivered_as_its_beginning() {
    let mut shell = Shell::new(Limits { frame_bytes_max: 4_096, ..Limits::default() });
    let (from, to) = proxied(&mut shell, None);
    shell.read(to);
    let payload = vec![5; 8_000];
    let message = RingMessage { payload_length: 9_000_000, ..ring_message(1, &payload) };
    shell.core.proxy_message(1, message, shell.now);
    let bytes = shell.read(to);
    each_frame(&bytes, |frame| {
        if let ToClient::Deliver(deliver) = frame {
            assert_eq!(deliver.payload_length, 9_000_000);
            assert_eq!(deliver.message.payload.len(), 4_096 - 128);
        }
    });
    end(shell, &[from, to]);
}

#[test]
fn a_proxy_that_cannot_be_made_is_no_reason_to_wait() {
    let mut shell = Shell::new(Limits::default());
    let (from, to) = (shell.native("p"), shell.json());
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
    let memory = shell.fd("ring");
    shell.line(to, r#"{"op":"sub","topic":"t"}"#);
    shell.say_with(from, ToBroker::OpenStream(open_stream(1, 0, STREAM)), &[memory]);
    shell.asked();
    shell.hears(from, &[]);
    shell.core.proxy_refuse(1, "no memory", shell.now);
    shell.act();
    shell.hears(from, &[ToClient::StreamOpened { req: 1, stream: STREAM, readers: 0, pending: 0 }]);
    assert!(shell.asked().is_empty());
    shell.core.proxy_attached(1, shell.now);
    assert_eq!(shell.core.proxy_message(1, ring_message(1, b""), shell.now), Flow::Close);
    end(shell, &[from, to]);
}

#[test]
fn unsubscribing_stops_the_reading() {
    let mut shell = Shell::new(Limits::default());
    let (from, to) = proxied(&mut shell, None);
    shell.read(to);
    shell.say(to, ToBroker::Unsubscribe { req: 2, sub: 1 });
    let asked = [Action::ProxyDetach { attach: 1, drain: false }, Action::ProxyLinkEnded { link: 1 }];
    assert_eq!(shell.asked(), asked);
    shell.hears(from, &[ToClient::Detach { attach: 1, code: 0 }]);
    assert_eq!(shell.core.proxy_message(1, ring_message(1, b""), shell.now), Flow::Close);
    end(shell, &[from, to]);
}
