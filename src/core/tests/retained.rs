//! What stays of a topic after its publisher: when it is made, who gets it, in which order, and its limits.

use super::harness::{GEOMETRY, Shell, each_frame, message, open_stream, publish, subscribe};
use crate::core::{Access, Action, Core, FdId, Limits, RetainedCopy, RingMessage, SessionId, TopicSettings};
use tramline_wire::{
    Accept, Attach, Geometry, Offer, PageDeclaration, Source, Subscribe, ToBroker, ToClient,
};

const PAGE: PageDeclaration = PageDeclaration { first_slot: 0, slots: 8 };
const COPY: Geometry = Geometry { descriptors: 4, arena_bytes: 4096 };
const BYTES: u64 = 10_000;

fn shell(limits: Limits) -> Shell {
    let topic = TopicSettings { filter: "t.*".to_owned(), retain: 3, ..TopicSettings::default() };
    let access = Access { own_uid: 1000, users: vec![1001], topics: vec![topic], ..Access::default() };
    let mut shell = Shell::new(limits.clone());
    shell.core = Core::new(limits, access, 1, "9");
    shell
}

/// A publisher with a stream on `topic`.
fn publisher(shell: &mut Shell, topic: &str, stream: u64) -> SessionId {
    let id = shell.native("p");
    shell.say(id, ToBroker::Topic { alias: 0, topic });
    let memory = shell.fd("ring");
    shell.say_with(id, ToBroker::OpenStream(open_stream(1, 0, stream)), &[memory]);
    shell.read(id);
    id
}

/// What the core wants copied, which must be one stream.
fn wanted(shell: &mut Shell) -> (u64, u32) {
    match shell.asked().as_slice() {
        [Action::Retain { stream, messages, geometry, .. }] => {
            assert_eq!(*geometry, GEOMETRY);
            (*stream, *messages)
        }
        other => panic!("{other:?}"),
    }
}

fn copied(shell: &mut Shell, stream: u64, seqs: &[u64]) -> FdId {
    let memory = shell.fd("copy");
    let copy = RetainedCopy { memory, generation: 0, geometry: COPY, bytes: BYTES, seqs: seqs.to_vec() };
    shell.core.ring_retained(stream, Ok(Some(copy)), shell.now);
    shell.act();
    memory
}

/// A topic of a publisher that has gone; the copy's memory.
fn gone(shell: &mut Shell, topic: &str, stream: u64, seqs: &[u64]) -> (SessionId, FdId) {
    let from = publisher(shell, topic, stream);
    shell.hang_up(from);
    assert_eq!(wanted(shell), (stream, 3));
    (from, copied(shell, stream, seqs))
}

fn history(sub: u32, filter: &str, history: u32) -> Subscribe<'_> {
    Subscribe { history, ..subscribe(sub, sub, filter) }
}

/// What a session was told, in short.
fn told(shell: &mut Shell, id: SessionId) -> Vec<String> {
    let mut all = Vec::new();
    each_frame(&shell.read(id), |frame| {
        all.push(match frame {
            ToClient::Offer(Offer { attach, retained, .. }) => format!("offer {attach} {retained}"),
            ToClient::Attach(Attach { attach, start, start_seq, .. }) => {
                format!("attach {attach} {start} {start_seq}")
            }
            ToClient::Detach { attach, code } => format!("detach {attach} {code}"),
            ToClient::Deliver(deliver) => format!("message {}", deliver.message.seq),
            ToClient::Subscribed { streams, .. } => format!("subscribed {streams}"),
            ToClient::Source(Source { session, uid, .. }) => format!("source {session} {uid}"),
            // It is gone already.
            ToClient::SourceGone { .. } => return,
            other => panic!("{other:?}"),
        });
    });
    all
}

fn accept(shell: &mut Shell, id: SessionId, attach: u64, page: bool) {
    let fds: Vec<FdId> = if page { vec![shell.fd("page")] } else { Vec::new() };
    let frame = Accept { attach, slot: 0, page: page.then_some(PAGE), fds: u8::from(page) };
    shell.say_with(id, ToBroker::Accept(frame), &fds);
}

#[test]
fn a_later_subscriber_gets_the_last_messages_without_anybody_being_asked() {
    let mut shell = shell(Limits::default());
    let (from, memory) = gone(&mut shell, "t.a", 7, &[4, 6, 9]);
    let status = shell.core.snapshot(shell.now);
    let kept = &status.retained[0];
    assert_eq!((kept.topic.as_str(), kept.messages, kept.last_seq, kept.uid), ("t.a", 3, 9, 1000));
    let to = shell.native("s");
    // Without history there is nothing of it.
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, "t.>")));
    assert_eq!(told(&mut shell, to), ["subscribed 0"]);
    shell.say(to, ToBroker::Subscribe(history(2, "t.>", 2)));
    assert_eq!(told(&mut shell, to), [format!("source {from} 1000"), "offer 1 true".to_owned()]);
    accept(&mut shell, to, 1, true);
    let (bytes, fds) = shell.read_some(to, usize::MAX);
    assert_eq!(fds, [memory]);
    let mut last = Vec::new();
    each_frame(&bytes, |frame| last.push(format!("{frame:?}")));
    assert!(last[0].contains("start: 1, start_seq: 6, bells: false"), "{}", last[0]);
    assert!(last[1].starts_with("Detach { attach: 1, code: 18"), "{last:?}");
    assert!(last[2..].iter().any(|frame| frame.contains("Subscribed { req: 2")), "{last:?}");
    shell.say(to, ToBroker::Attached { attach: 1 });
    // As often as it is wanted, and no more of it than there is.
    shell.say(to, ToBroker::Subscribe(history(3, "t.a", 100)));
    assert_eq!(told(&mut shell, to)[1], "offer 2 true");
    accept(&mut shell, to, 2, true);
    assert_eq!(told(&mut shell, to)[0], "attach 2 0 4");
    shell.hang_up(to);
    assert!(shell.fds.contains_key(&memory));
}

#[test]
fn only_a_publisher_that_published_replaces_it() {
    let mut shell = shell(Limits::default());
    let (_, first) = gone(&mut shell, "t.a", 7, &[1]);
    let silent = publisher(&mut shell, "t.a", 8);
    shell.hang_up(silent);
    assert_eq!(wanted(&mut shell), (8, 3));
    shell.core.ring_retained(8, Ok(None), shell.now);
    shell.act();
    assert!(shell.fds.contains_key(&first));
    let (_, second) = gone(&mut shell, "t.a", 9, &[2]);
    assert!(!shell.fds.contains_key(&first) && shell.fds.contains_key(&second));
    // The stream itself comes back: what was kept of it is in its ring.
    publisher(&mut shell, "t.a", 9);
    assert!(!shell.fds.contains_key(&second));
    assert!(shell.core.snapshot(shell.now).retained.is_empty());
    // Topics without the rule keep nothing.
    let other = publisher(&mut shell, "x.a", 10);
    shell.hang_up(other);
    assert_eq!(shell.asked(), []);
}

#[test]
fn it_comes_before_anything_of_the_next_publisher() {
    let mut shell = shell(Limits::default());
    gone(&mut shell, "t.a", 7, &[1, 2, 3]);
    let from = publisher(&mut shell, "t.a", 8);
    let to = shell.native("s");
    shell.say(to, ToBroker::Subscribe(history(1, "t.a", 9)));
    let first = told(&mut shell, to);
    assert_eq!((first[1].as_str(), first.last().unwrap().as_str()), ("offer 1 true", "offer 2 false"));
    // The live stream is admitted first, and a message comes by socket.
    accept(&mut shell, to, 2, true);
    shell.read(from);
    shell.say(from, ToBroker::Admitted { attach: 2, generation: 0, start: 0, start_seq: 1 });
    shell.say(from, publish(0, 5, b"x"));
    assert_eq!(told(&mut shell, to), Vec::<String>::new());
    accept(&mut shell, to, 1, true);
    let told = told(&mut shell, to);
    let place = |what: &str| told.iter().position(|each| each == what).unwrap_or_else(|| panic!("{told:?}"));
    assert!(place("attach 1 0 1") < place("attach 2 0 1") && place("attach 1 0 1") < place("message 5"));
}

#[test]
fn who_comes_while_it_is_made_waits_for_it() {
    let mut shell = shell(Limits::default());
    let from = publisher(&mut shell, "t.a", 7);
    shell.hang_up(from);
    let (stays, leaves) = (shell.native("s"), shell.native("s"));
    for to in [stays, leaves] {
        shell.say(to, ToBroker::Subscribe(history(1, "t.a", 9)));
        assert_eq!(told(&mut shell, to), Vec::<String>::new());
    }
    let other = publisher(&mut shell, "t.a", 8);
    shell.say(other, publish(0, 5, b"x"));
    shell.hang_up(leaves);
    copied(&mut shell, 7, &[1]);
    let offers = told(&mut shell, stays);
    assert!(offers.contains(&"offer 3 true".to_owned()), "{offers:?}");
    accept(&mut shell, stays, 3, true);
    let told = told(&mut shell, stays);
    assert_eq!(told[..2], ["attach 3 0 1", "detach 3 18"]);
    assert!(told.iter().any(|each| each.starts_with("message 5")), "{told:?}");
}

#[test]
fn a_client_by_lines_gets_it_by_proxy_before_what_is_live() {
    let mut shell = shell(Limits::default());
    gone(&mut shell, "t.a", 7, &[1, 2]);
    let from = publisher(&mut shell, "t.a", 8);
    let to = shell.json();
    shell.line(to, r#"{"op":"sub","topic":"t.a","history":5}"#);
    let offered = shell.asked();
    assert!(matches!(
        offered.as_slice(),
        [Action::ProxyOffer { attach: 1, stream: 7, .. }, Action::ProxyOffer { attach: 2, stream: 8, .. }]
    ));
    for attach in [2, 1] {
        let page = shell.fd("page");
        shell.core.proxy_accept(attach, 0, Some((PAGE, page)), shell.now);
        shell.act();
    }
    shell.read(from);
    shell.say(from, ToBroker::Admitted { attach: 2, generation: 0, start: 0, start_seq: 1 });
    shell.say(from, publish(0, 3, b"socket"));
    // Only the copy is read.
    let attached: Vec<u64> = shell
        .asked()
        .iter()
        .filter_map(|action| match action {
            Action::ProxyAttach { attach, bells: None, .. } => Some(*attach),
            _ => None,
        })
        .collect();
    assert_eq!(attached, [1]);
    shell.core.proxy_attached(1, shell.now);
    shell.act();
    assert_eq!(shell.asked(), [Action::ProxyDetach { attach: 1, drain: true }]);
    for seq in 1..=2 {
        let read = RingMessage {
            seq,
            lost: 0,
            flags: message(1, b"").flags.bits(),
            time: 7,
            source_time: 0,
            head: &[],
            payload: b"old",
            payload_length: 3,
            whole: None,
        };
        shell.core.proxy_message(1, read, shell.now);
    }
    shell.core.proxy_ended(1, 0, shell.now);
    shell.act();
    assert!(matches!(
        shell.asked().as_slice(),
        [Action::ProxyLinkEnded { .. }, Action::ProxyAttach { attach: 2, bells: Some(_), .. }]
    ));
    shell.core.proxy_attached(2, shell.now);
    shell.act();
    let lines = String::from_utf8(shell.read(to)).unwrap();
    let seqs: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|line| line["op"] == "msg")
        .map(|line| line["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[test]
fn the_oldest_goes_where_limits_are_reached_and_live_rings_go_first() {
    let mut shell = shell(Limits {
        retained_topics_max: 2,
        retained_bytes_max: 3 * BYTES,
        rings_bytes_max: 48_000,
        ..Limits::default()
    });
    let kept = |shell: &Shell| -> Vec<String> {
        shell.core.snapshot(shell.now).retained.iter().map(|each| each.topic.clone()).collect()
    };
    for (stream, topic) in [(1, "t.a"), (2, "t.b"), (3, "t.c")] {
        gone(&mut shell, topic, stream, &[1]);
    }
    assert_eq!(kept(&shell), ["t.b", "t.c"]);
    assert_eq!(shell.core.snapshot(shell.now).totals.retained_dropped, 1);
    // A live ring of 16,384 bytes takes the room it needs.
    let live = [publisher(&mut shell, "x.a", 10), publisher(&mut shell, "x.b", 11)];
    assert_eq!(kept(&shell), ["t.c"]);
    // And one for which there is no room by any means costs nobody anything.
    let refused = publisher(&mut shell, "x.c", 12);
    assert_eq!(kept(&shell), ["t.c"]);
    for id in live.into_iter().chain([refused]) {
        shell.hang_up(id);
    }
    let from = publisher(&mut shell, "t.d", 20);
    shell.hang_up(from);
    wanted(&mut shell);
    let memory = shell.fd("copy");
    let copy = RetainedCopy { memory, generation: 0, geometry: COPY, bytes: 4 * BYTES, seqs: vec![1] };
    shell.core.ring_retained(20, Ok(Some(copy)), shell.now);
    shell.act();
    assert!(kept(&shell).is_empty() && !shell.fds.contains_key(&memory), "it fits by no means");
    let from = publisher(&mut shell, "t.e", 21);
    shell.hang_up(from);
    wanted(&mut shell);
    shell.core.ring_retained(21, Err("no memory".to_owned()), shell.now);
    shell.act();
    assert_eq!(shell.core.snapshot(shell.now).totals.retained_dropped, 5);
    shell.is_empty();
}

#[test]
fn the_last_messages_by_socket_are_kept_too_and_all_together_as_many_as_the_topic_retains() {
    let mut shell = shell(Limits::default());
    gone(&mut shell, "t.a", 7, &[1, 2, 3]);
    let from = shell.native("socket");
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t.a" });
    shell.say(from, ToBroker::Topic { alias: 1, topic: "x" });
    shell.say(from, publish(1, 9, b"not kept"));
    shell.say(from, publish(0, 11, b"x"));
    let kept: Vec<u64> = shell.core.snapshot(shell.now).retained.iter().map(|each| each.messages).collect();
    assert_eq!(kept, [3, 1]);
    // Two of the copy, then the one by socket.
    let to = shell.native("s");
    shell.say(to, ToBroker::Subscribe(history(1, ">", 3)));
    assert!(told(&mut shell, to).contains(&"offer 1 true".to_owned()));
    accept(&mut shell, to, 1, true);
    let first = told(&mut shell, to);
    assert_eq!(first[0], "attach 1 1 2");
    assert_eq!(first.iter().filter(|each| each.starts_with("message")).collect::<Vec<_>>(), ["message 11"]);
    // As many as are retained, from living publishers as well; the copy is too old now.
    for seq in 12..=15 {
        shell.say(from, publish(0, seq, b"x"));
    }
    told(&mut shell, to);
    shell.say(to, ToBroker::Subscribe(history(2, "t.a", 9)));
    let all = told(&mut shell, to);
    let messages: Vec<&String> = all.iter().filter(|each| each.starts_with("message")).collect();
    assert_eq!(messages, ["message 13", "message 14", "message 15"]);
    assert!(!all.iter().any(|each| each.starts_with("offer")), "{all:?}");
    shell.say(to, ToBroker::Subscribe(history(3, "t.a", 1)));
    assert!(told(&mut shell, to).contains(&"message 15".to_owned()));
    // Without history nothing; by lines the same.
    shell.say(to, ToBroker::Subscribe(subscribe(4, 4, "t.a")));
    assert_eq!(told(&mut shell, to), ["subscribed 0"]);
    let lines = shell.json();
    shell.line(lines, r#"{"op":"pub","topic":"t.a","data":1}"#);
    shell.line(lines, r#"{"op":"sub","topic":"t.a","history":2}"#);
    let heard = String::from_utf8(shell.read(lines)).unwrap();
    let ops: Vec<&str> = heard.lines().filter_map(|line| line.get(..20)).collect();
    assert!(ops[1].starts_with(r#"{"ok":true"#) && heard.matches(r#""op":"msg""#).count() == 2, "{heard}");
    // What a ring left afterwards is later.
    shell.hang_up(lines);
    shell.asked();
    gone(&mut shell, "t.a", 8, &[20]);
    let status = shell.core.snapshot(shell.now);
    assert_eq!(status.retained.iter().map(|each| each.last_seq).collect::<Vec<_>>(), [20]);
    assert_eq!(shell.core.pasts.bytes, 0);
}

#[test]
fn messages_by_socket_share_the_limits() {
    let mut shell = shell(Limits { retained_topics_max: 2, retained_bytes_max: 1_200, ..Limits::default() });
    let from = shell.native("socket");
    for (alias, topic) in [(0, "t.a"), (1, "t.b"), (2, "t.c")] {
        shell.say(from, ToBroker::Topic { alias, topic });
    }
    let kept = |shell: &Shell| -> Vec<(String, u64)> {
        let all = shell.core.snapshot(shell.now).retained;
        all.iter().map(|each| (each.topic.clone(), each.messages)).collect()
    };
    for seq in 1..=9 {
        shell.say(from, publish(0, seq, &[0; 200]));
    }
    shell.say(from, publish(1, 1, &[0; 10]));
    assert_eq!(kept(&shell), [("t.a".to_owned(), 3), ("t.b".to_owned(), 1)]);
    assert_eq!(shell.core.snapshot(shell.now).totals.retained_dropped, 0);
    // One topic too many, and one message too large.
    shell.say(from, publish(2, 1, b"x"));
    assert_eq!(shell.core.snapshot(shell.now).totals.retained_dropped, 1);
    shell.say(from, publish(0, 10, &[0; 2_000]));
    assert_eq!(kept(&shell), [("t.b".to_owned(), 1)]);
    assert_eq!(shell.core.snapshot(shell.now).totals.retained_dropped, 2);
    assert!(shell.core.pasts.bytes < 200);
}
