//! Subscribers that do not keep up: what waits, who is held up, what is lost, and that it is told.

use super::harness::{Shell, each_frame, publish, subscribe};
use crate::core::{Access, Flow, Limits, SessionId};
use tramline_wire::{Code, SlowPolicy, Subscribe, ToBroker, ToClient};

const PAYLOAD: [u8; 100] = [0; 100];

fn shell() -> Shell {
    Shell::new(Limits {
        outbox_bytes_max: 2_000,
        backlog_bytes_max: 4_000,
        block_millis_max: 50,
        ..Limits::default()
    })
}

fn subscriber(shell: &mut Shell, slow: SlowPolicy) -> (SessionId, SessionId) {
    let (from, to) = (shell.native("p"), shell.native("s"));
    shell.say(from, ToBroker::Topic { alias: 0, topic: "t" });
    shell.say(to, ToBroker::Subscribe(Subscribe { slow, ..subscribe(1, 1, "t") }));
    shell.read(to);
    (from, to)
}

/// Numbers delivered, and loss told, in order: `Ok(seq)` or `Err(lost)`.
fn heard(bytes: &[u8]) -> Vec<Result<u64, u64>> {
    let mut all = Vec::new();
    each_frame(bytes, |frame| match frame {
        ToClient::Deliver(deliver) => all.push(Ok(deliver.message.seq)),
        ToClient::Gap { topic, lost, .. } => {
            assert_eq!(topic, "t");
            all.push(Err(lost));
        }
        ToClient::Source(_) => {}
        other => panic!("{other:?}"),
    });
    all
}

/// Publishes until the core pauses the publisher; the number of the message that was not taken.
fn publish_until_paused(shell: &mut Shell, from: SessionId, mut seq: u64) -> u64 {
    while shell.say(from, publish(0, seq, &PAYLOAD)) == Flow::Continue {
        seq += 1;
        assert!(seq < 10_000, "nobody was held up");
    }
    seq
}

#[test]
fn the_oldest_are_dropped_counted_and_told_before_the_next() {
    let mut shell = shell();
    let (from, to) = subscriber(&mut shell, SlowPolicy::DropOldest);
    for seq in 1..=200 {
        assert_eq!(shell.say(from, publish(0, seq, &PAYLOAD)), Flow::Continue);
        let subscriptions = shell.core.snapshot(shell.now).subscriptions;
        assert!(subscriptions[0].backlog_bytes <= 4_000);
    }
    let heard = heard(&shell.read(to));
    let gap = heard.iter().position(Result::is_err).unwrap();
    let lost = heard[gap].unwrap_err();
    let before: Vec<u64> = heard[..gap].iter().map(|seq| seq.unwrap()).collect();
    let after: Vec<u64> = heard[gap + 1..].iter().map(|seq| seq.unwrap()).collect();
    assert_eq!(before, (1..=before.len() as u64).collect::<Vec<_>>());
    assert_eq!(after, (before.len() as u64 + lost + 1..=200).collect::<Vec<_>>());
    assert!(lost > 100);
    assert_eq!(shell.core.snapshot(shell.now).totals.traffic.lost, lost);
}

#[test]
fn a_full_queue_holds_its_publisher_up_until_there_is_room() {
    let mut shell = shell();
    let (from, to) = subscriber(&mut shell, SlowPolicy::Block { millis: 1_000 });
    let seq = publish_until_paused(&mut shell, from, 1);
    assert!(shell.core.snapshot(shell.now).sessions[0].paused);
    assert_eq!(shell.say(from, publish(0, seq, &PAYLOAD)), Flow::Pause);
    let mut got = heard(&shell.read(to));
    assert_eq!(shell.resumed, [from]);
    shell.say(from, publish(0, seq, &PAYLOAD));
    got.extend(heard(&shell.read(to)));
    assert_eq!(got, (1..=seq).map(Ok).collect::<Vec<_>>());
    assert_eq!(shell.core.deadline(), None);
}

#[test]
fn the_time_to_wait_is_bounded_and_then_the_oldest_are_dropped_until_half_is_free() {
    let mut shell = shell();
    let (from, to) = subscriber(&mut shell, SlowPolicy::Block { millis: 1_000 });
    let mut seq = publish_until_paused(&mut shell, from, 1);
    // The broker's limit is below what the client asked for.
    shell.pass(49);
    assert!(shell.resumed.is_empty());
    shell.pass(1);
    assert_eq!(shell.resumed, [from]);
    for _ in 0..50 {
        assert_eq!(shell.say(from, publish(0, seq, &PAYLOAD)), Flow::Continue);
        seq += 1;
    }
    // Not yet half free: still nobody waits.
    shell.read_some(to, 1_900);
    assert_eq!(shell.say(from, publish(0, seq, &PAYLOAD)), Flow::Continue);
    shell.read(to);
    let next = publish_until_paused(&mut shell, from, seq + 1);
    assert!(next > seq + 10);
}

#[test]
fn many_that_do_not_read_hold_a_publisher_up_no_longer_than_one() {
    let mut shell = shell();
    let (from, _) = subscriber(&mut shell, SlowPolicy::Block { millis: 1_000 });
    for _ in 0..9 {
        let other = shell.native("s");
        let slow = SlowPolicy::Block { millis: 1_000 };
        shell.say(other, ToBroker::Subscribe(Subscribe { slow, ..subscribe(1, 1, "t") }));
        shell.read(other);
    }
    let seq = publish_until_paused(&mut shell, from, 1);
    shell.pass(50);
    assert_eq!(shell.resumed, [from]);
    assert_eq!(shell.say(from, publish(0, seq, &PAYLOAD)), Flow::Continue);
}

#[test]
fn nothing_is_lost_or_doubled_around_the_drop() {
    let mut shell = shell();
    let (from, to) = subscriber(&mut shell, SlowPolicy::Block { millis: 10 });
    let mut seq = publish_until_paused(&mut shell, from, 1);
    shell.pass(10);
    while seq <= 300 {
        assert_eq!(shell.say(from, publish(0, seq, &PAYLOAD)), Flow::Continue);
        seq += 1;
    }
    let mut next = 1;
    for each in heard(&shell.read(to)) {
        match each {
            Ok(seq) => {
                assert_eq!(seq, next);
                next += 1;
            }
            Err(lost) => next += lost,
        }
    }
    assert_eq!(next, 301);
}

#[test]
fn a_subscriber_may_ask_to_be_disconnected() {
    let mut shell = shell();
    let (from, to) = subscriber(&mut shell, SlowPolicy::Disconnect);
    let watcher = shell.native("w");
    shell.say(watcher, ToBroker::Subscribe(subscribe(1, 1, "$tramline.evicted")));
    shell.read(watcher);
    for seq in 1..=100 {
        assert_eq!(shell.say(from, publish(0, seq, &PAYLOAD)), Flow::Continue);
    }
    assert!(shell.closing.contains(&to));
    let message = shell.is_closed_with(to, Code::SlowSubscriber);
    assert!(
        message.contains("limits.backlog_bytes_max") && message.contains("subscription 1 to t"),
        "{message}"
    );
    let bytes = shell.read(watcher);
    assert!(super::harness::show(&bytes).contains("$tramline.evicted"));
    shell.hang_up(to);
    shell.hang_up(watcher);
    shell.hang_up(from);
    shell.is_empty();
}

#[test]
fn a_publisher_is_let_go_when_who_held_it_up_leaves() {
    for leave in [
        |shell: &mut Shell, to| shell.hang_up(to),
        |shell: &mut Shell, to| {
            shell.say(to, ToBroker::Unsubscribe { req: 2, sub: 1 });
        },
    ] {
        let mut shell = shell();
        let (from, to) = subscriber(&mut shell, SlowPolicy::Block { millis: 1_000 });
        publish_until_paused(&mut shell, from, 1);
        leave(&mut shell, to);
        assert_eq!(shell.resumed, [from]);
        assert_eq!(shell.core.deadline(), None);
    }
}

#[test]
fn a_held_up_publisher_may_die() {
    let mut shell = shell();
    let (from, to) = subscriber(&mut shell, SlowPolicy::Block { millis: 1_000 });
    publish_until_paused(&mut shell, from, 1);
    shell.hang_up(from);
    shell.pass(100);
    assert!(shell.resumed.is_empty());
    let bytes = shell.read(to);
    let mut gone = false;
    each_frame(&bytes, |frame| gone = matches!(frame, ToClient::SourceGone { alias: 0 }));
    assert!(gone, "the end of a publisher is told behind its last message");
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn a_line_that_waits_is_carried_out_when_there_is_room_or_its_client_has_gone() {
    for dies in [false, true] {
        let mut shell = shell();
        let (_, to) = subscriber(&mut shell, SlowPolicy::Block { millis: 1_000 });
        let json = shell.json();
        let line = format!(r#"{{"op":"pub","topic":"t","text":"{}"}}"#, "x".repeat(100));
        let mut count = 1;
        while shell.line(json, &line) == Flow::Continue {
            shell.read(json);
            count += 1;
        }
        let mut got = Vec::new();
        if dies {
            shell.hang_up(json);
            got.extend(shell.read(to));
        } else {
            got.extend(shell.read(to));
            assert_eq!(shell.resumed, [json]);
            shell.hears_lines(json, &[r#"{"ok":true,"op":"pub","receivers":1}"#]);
            got.extend(shell.read(to));
        }
        let mut lost = 0;
        let mut seqs = Vec::new();
        each_frame(&got, |frame| match frame {
            ToClient::Deliver(deliver) => seqs.push(deliver.message.seq),
            ToClient::Gap { lost: more, .. } => lost += more,
            _ => {}
        });
        assert_eq!(seqs.last(), Some(&count));
        assert_eq!(seqs.len() as u64 + lost, count);
        assert!(dies || lost == 0);
    }
}

#[test]
fn other_subscriptions_of_a_slow_session_have_their_own_queues() {
    let mut shell = shell();
    let (from, to) = subscriber(&mut shell, SlowPolicy::DropOldest);
    shell.say(to, ToBroker::Subscribe(subscribe(2, 2, "rare")));
    shell.say(from, ToBroker::Topic { alias: 1, topic: "rare" });
    shell.read(to);
    for seq in 1..=200 {
        shell.say(from, publish(0, seq, &PAYLOAD));
    }
    shell.say(from, publish(1, 1, b"rare"));
    let mut rare = 0;
    each_frame(&shell.read(to), |frame| match frame {
        ToClient::Deliver(deliver) if deliver.sub == 2 => rare += 1,
        ToClient::Gap { sub, .. } => assert_eq!(sub, 1),
        _ => {}
    });
    assert_eq!(rare, 1);
}

/// Gaps as they were told: source alias and topic, each once with all that it lost, and the last number before each.
fn gaps(bytes: &[u8]) -> Vec<(Option<u32>, String, u64)> {
    let mut gaps = Vec::new();
    each_frame(bytes, |frame| {
        if let ToClient::Gap { topic, lost, source, .. } = frame {
            gaps.push((source, topic.to_owned(), lost));
        }
    });
    gaps
}

#[test]
fn each_publishers_loss_on_each_topic_is_told_by_itself() {
    let mut shell = shell();
    let (from, other, to) = (shell.native("p"), shell.native("q"), shell.native("s"));
    for id in [from, other] {
        shell.say(id, ToBroker::Topic { alias: 0, topic: "a" });
        shell.say(id, ToBroker::Topic { alias: 1, topic: "b" });
    }
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, ">")));
    shell.read(to);
    for seq in 1..=100 {
        shell.say(from, publish(0, seq, &PAYLOAD));
        shell.say(from, publish(1, seq, &PAYLOAD));
        shell.say(other, publish(0, seq, &PAYLOAD));
    }
    // Each source's numbers are accounted for: what comes follows on what came and what was told lost.
    let mut accounts = std::collections::BTreeMap::new();
    let (mut told, mut names) = (0, std::collections::BTreeMap::new());
    each_frame(&shell.read(to), |frame| match frame {
        ToClient::Source(source) => {
            names.insert(source.alias, source.topic.to_owned());
        }
        ToClient::Gap { topic, lost, source, .. } => {
            let alias = source.expect("few publishers are told apart");
            assert_eq!(names[&alias], topic);
            *accounts.entry(alias).or_insert(0) += lost;
            told += 1;
        }
        ToClient::Deliver(deliver) => {
            let last = accounts.entry(deliver.source).or_insert(0);
            assert_eq!(deliver.message.seq, *last + 1);
            *last += 1;
        }
        _ => {}
    });
    assert!(told >= 3);
    assert!(accounts.len() == 3 && accounts.values().all(|last| *last == 100), "{accounts:?}");
}

#[test]
fn losses_of_very_many_publishers_are_told_as_one_more_gap() {
    let mut shell = shell();
    let to = shell.native("s");
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, ">")));
    shell.read(to);
    let from = shell.native("p");
    for alias in 0..80 {
        shell.say(from, ToBroker::Topic { alias, topic: &format!("t.{alias}") });
    }
    let mut sent = 0;
    for seq in 1..=30 {
        for alias in 0..80 {
            shell.say(from, publish(alias, seq, &PAYLOAD));
            sent += 1;
        }
    }
    let bytes = shell.read(to);
    let gaps = gaps(&bytes);
    let (known, others): (Vec<_>, Vec<_>) = gaps.iter().partition(|(source, ..)| source.is_some());
    assert!(known.len() >= 64 && others.iter().all(|(_, topic, _)| topic.is_empty()));
    assert!(!others.is_empty());
    let mut got = 0;
    each_frame(&bytes, |frame| got += u64::from(matches!(frame, ToClient::Deliver(_))));
    assert_eq!(got + gaps.iter().map(|(.., lost)| lost).sum::<u64>(), sent);
    assert_eq!(shell.core.subscriptions.iter().next().unwrap().1.gaps.lost(), 0);
}

#[test]
fn who_does_not_read_its_answers_is_not_read_either() {
    let mut shell = shell();
    let id = shell.native("n");
    let mut req = 0;
    while shell.say(id, ToBroker::Ping { req }) == Flow::Continue {
        req += 1;
        assert!(req < 10_000);
    }
    assert_eq!(shell.say(id, ToBroker::Ping { req }), Flow::Pause);
    shell.read(id);
    assert_eq!(shell.resumed, [id]);
    assert_eq!(shell.say(id, ToBroker::Ping { req }), Flow::Continue);
    shell.hears(id, &[ToClient::Pong { req }]);
}

#[test]
fn lines_take_effect_although_their_answers_are_not_read() {
    let mut shell = shell();
    let json = shell.json();
    let line = r#"{"op":"pub","topic":"t","text":"x"}"#;
    let mut count = 1;
    while shell.line(json, line) == Flow::Continue {
        count += 1;
    }
    shell.pass(50);
    assert_eq!(shell.resumed, [json]);
    for _ in 0..500 {
        assert_eq!(shell.line(json, line), Flow::Continue);
    }
    assert_eq!(shell.core.snapshot(shell.now).topics[0].messages, count + 500);
    let text = String::from_utf8(shell.read(json)).unwrap();
    let last = text.lines().last().unwrap();
    assert_eq!(text.lines().count() as u64, count + 1);
    assert!(last.contains("500 answers were dropped"), "{last}");
    assert_eq!(shell.line(json, line), Flow::Continue);
    shell.hears_lines(json, &[r#"{"ok":true,"op":"pub","receivers":0}"#]);
}

#[test]
fn a_message_beyond_the_queue_is_taken_when_nothing_else_waits() {
    let mut shell = shell();
    let (from, to) = subscriber(&mut shell, SlowPolicy::DropOldest);
    let large = vec![1; 10_000];
    for seq in 1..=4 {
        shell.say(from, publish(0, seq, &large));
    }
    assert_eq!(heard(&shell.read(to)), [Ok(1), Err(2), Ok(4)]);
}

#[test]
fn a_client_that_never_reads_its_control_frames_is_disconnected() {
    let mut shell = shell();
    let stuck = shell.native("stuck");
    shell.say(stuck, ToBroker::Topic { alias: 0, topic: "t" });
    let memory = shell.fd("ring");
    shell.say_with(stuck, ToBroker::OpenStream(super::harness::open_stream(1, 0, 1)), &[memory]);
    let other = shell.native("churn");
    let mut round = 0;
    while !shell.closing.contains(&stuck) {
        round += 1;
        assert!(round < 100_000, "the outbox grows without end");
        shell.say(other, ToBroker::Subscribe(subscribe(1, 1, "t")));
        let mut offered = 0;
        each_frame(&shell.read(other), |frame| {
            if let ToClient::Offer(offer) = frame {
                offered = offer.attach;
            }
        });
        let page = shell.fd("page");
        let declaration = tramline_wire::PageDeclaration { first_slot: 0, slots: 4 };
        let accept = tramline_wire::Accept { attach: offered, slot: 0, page: Some(declaration), fds: 1 };
        shell.say_with(other, ToBroker::Accept(accept), &[page]);
        shell.say(other, ToBroker::Unsubscribe { req: 2, sub: 1 });
        shell.read(other);
    }
    shell.hang_up(stuck);
    shell.hang_up(other);
    shell.is_empty();
}

#[test]
fn no_time_is_waited_for_whose_session_has_ended() {
    let mut shell = shell();
    let json = shell.json();
    // What is answered later piles up unseen until the next line.
    assert_eq!(shell.line(json, r#"{"op":"status"}"#), Flow::Continue);
    shell.core.change_access(Access { own_uid: 77, ..Access::default() }, shell.now);
    shell.act();
    assert!(shell.closing.contains(&json));
    assert_eq!(shell.core.line_too_long(json, 5_000, shell.now), Flow::Close);
    shell.hang_up(json);
    shell.is_empty();
}

#[test]
fn answers_are_waited_for_once_at_a_time() {
    let mut shell = shell();
    let (from, to) = subscriber(&mut shell, SlowPolicy::Block { millis: 40 });
    publish_until_paused(&mut shell, from, 1);
    let json = shell.json();
    assert_eq!(shell.line(json, r#"{"op":"status"}"#), Flow::Continue);
    assert_eq!(shell.line(json, r#"{"op":"ping"}"#), Flow::Pause);
    shell.pass(1);
    // A shell that had this line already: now a subscriber is waited for, and then nobody, though the answers are unread.
    let line = format!(r#"{{"op":"pub","topic":"t","text":"{}"}}"#, "x".repeat(PAYLOAD.len()));
    assert_eq!(shell.line(json, &line), Flow::Pause);
    shell.read(to);
    assert!(shell.resumed.contains(&json));
    assert_eq!(shell.line(json, r#"{"op":"ping"}"#), Flow::Pause);
    for id in [from, to, json] {
        shell.hang_up(id);
    }
    shell.is_empty();
}
