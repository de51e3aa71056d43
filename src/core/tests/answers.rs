//! Every request has one answer, also where what it asked for is given up before it was there.

use super::harness::{GEOMETRY, Shell, each_frame, open_stream, subscribe};
use crate::core::{Limits, SessionId};
use tramline_wire::{GrowStream, ToBroker, ToClient};

/// A stream 77 by "p" on `t`, and "s", which was offered it and does not answer.
fn offered() -> (Shell, SessionId, SessionId) {
    let mut shell = Shell::new(Limits::default());
    let (from, to) = (shell.native("p"), shell.native("s"));
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
    let memory = shell.fd("ring");
    shell.say_with(from, ToBroker::OpenStream(open_stream(1, 0, 77)), &[memory]);
    shell.read(from);
    shell.read(to);
    (shell, from, to)
}

/// The requests that are answered in what waits for a session, and whether each was granted.
fn answers(shell: &mut Shell, id: SessionId) -> Vec<(u32, bool)> {
    let mut found = Vec::new();
    let bytes = shell.read(id);
    each_frame(&bytes, |frame| match frame {
        ToClient::Error { req, .. } => found.push((req, false)),
        ToClient::Subscribed { req, .. }
        | ToClient::StreamOpened { req, .. }
        | ToClient::StreamGrown { req, .. }
        | ToClient::Done { req } => found.push((req, true)),
        _ => {}
    });
    found
}

#[test]
fn a_subscription_that_is_ended_before_its_streams_have_come_was_confirmed() {
    let (mut shell, _, to) = offered();
    shell.say(to, ToBroker::Subscribe(subscribe(5, 1, "t")));
    shell.say(to, ToBroker::Unsubscribe { req: 6, sub: 1 });
    assert_eq!(answers(&mut shell, to), [(5, true), (6, true)]);
    assert_eq!(shell.core.deadline(), None);
}

#[test]
fn a_subscription_by_json_that_is_ended_early_was_confirmed_too() {
    let (mut shell, ..) = offered();
    let json = shell.json();
    shell.line(json, r#"{"op":"sub","topic":"t","id":1}"#);
    shell.hears_lines(json, &[]);
    shell.line(json, r#"{"op":"unsub","sub":1,"id":2}"#);
    let heard = [r#"{"ok":true,"op":"sub","id":1,"sub":1}"#, r#"{"ok":true,"op":"unsub","id":2}"#];
    shell.hears_lines(json, &heard);
}

#[test]
fn a_stream_that_is_closed_before_its_readers_have_answered_was_opened() {
    let (mut shell, from, to) = offered();
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "u")));
    shell.say(from, ToBroker::Topic { alias: 1, topic: "u" });
    let memory = shell.fd("ring");
    shell.say_with(from, ToBroker::OpenStream(open_stream(2, 1, 78)), &[memory]);
    assert_eq!(answers(&mut shell, from), []);
    shell.say(from, ToBroker::CloseStream { req: 3, stream: 78, last_seq: 0 });
    assert_eq!(answers(&mut shell, from), [(2, true), (3, true)]);
}

#[test]
fn what_is_closed_before_its_memory_was_checked_is_refused() {
    let (mut shell, from, _) = offered();
    let mut bytes = Vec::new();
    let grow = GrowStream { req: 2, stream: 77, generation: 1, geometry: GEOMETRY, fds: 1 };
    ToBroker::GrowStream(grow).encode(&mut bytes);
    ToBroker::CloseStream { req: 3, stream: 77, last_seq: 0 }.encode(&mut bytes);
    ToBroker::OpenStream(open_stream(4, 0, 78)).encode(&mut bytes);
    ToBroker::CloseStream { req: 5, stream: 78, last_seq: 0 }.encode(&mut bytes);
    let fds = [shell.fd("generation"), shell.fd("ring")];
    // The shell's checks come later, and find nothing to say about what has gone.
    shell.bad_ring = Some("holes".to_owned());
    shell.input(from, &bytes, &fds);
    assert_eq!(answers(&mut shell, from), [(2, false), (3, true), (4, false), (5, true)]);
    shell.hang_up(from);
    assert_eq!(shell.core.deadline(), None);
}
