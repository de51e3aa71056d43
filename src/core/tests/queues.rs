//! Queues, case by case: exchanges to the byte, every limit, rights, strategies, rings that are held up, memory.

use super::harness::{Shell, each_frame, message, ring_message};
use crate::core::queues::MESSAGE_OVERHEAD_BYTES;
use crate::core::snapshot::QueueStatus;
use crate::core::{
    Action, Flow, Language, Limits, QueueSettings, RingMessage, SessionId, Strategy, WhenFull, Who,
};
use std::ops::RangeInclusive;
use tramline_wire::{
    Code, Consume, DeclareQueue, Job, Push, Source, ToBroker, ToClient, Verdict, limits::PRIORITY_DEFAULT,
};

fn settings() -> QueueSettings {
    QueueSettings { name: "jobs".to_owned(), backoff_millis: 0, ..QueueSettings::default() }
}

fn shell_with(limits: Limits, queues: &[QueueSettings]) -> Shell {
    let mut shell = Shell::new(limits);
    for queue in queues {
        shell.core.add_queue(queue.clone(), shell.now).unwrap();
    }
    shell
}

fn shell(settings: QueueSettings) -> Shell {
    shell_with(Limits::default(), &[settings])
}

fn push(seq: u64, payload: &[u8]) -> ToBroker<'_> {
    let message = message(seq, payload);
    ToBroker::Push(Push { queue: 0, priority: 4, delay_millis: 0, ttl_millis: 0, id: &[], message })
}

fn consume(consumer: u32, credit: u32) -> Consume<'static> {
    Consume { req: 1, consumer, queue: "jobs", credit, refill: true, weight: 1, priority: 0 }
}

/// A producer that knows the queue under alias 0.
fn producer(shell: &mut Shell) -> SessionId {
    let id = shell.native("p");
    shell.say(id, ToBroker::OpenQueue { req: 0, alias: 0, queue: "jobs" });
    id
}

fn consumer(shell: &mut Shell, frame: Consume<'_>) -> SessionId {
    let id = shell.native("c");
    shell.say(id, ToBroker::Consume(frame));
    id
}

fn push_all(shell: &mut Shell, from: SessionId, seqs: RangeInclusive<u64>, payload: &[u8]) {
    for seq in seqs {
        shell.say(from, push(seq, payload));
        shell.read(from);
    }
}

fn settle(consumer: u32, tag: u64, verdict: Verdict<'_>) -> ToBroker<'_> {
    ToBroker::Settle { req: 0, consumer, first: tag, last: tag, verdict }
}

fn status(shell: &Shell) -> QueueStatus {
    shell.core.queue_status(shell.now).remove(0)
}

/// Tags, attempts and payloads of the jobs that a session is given.
fn jobs(shell: &mut Shell, id: SessionId) -> Vec<(u64, u32, Vec<u8>)> {
    let mut found = Vec::new();
    each_frame(&shell.read(id), |frame| {
        if let ToClient::Job(job) = frame {
            found.push((job.tag, job.attempt, job.message.payload.to_vec()));
        }
    });
    found
}

/// Why something was refused: its code, and the limit by name, value and use.
type Refusal = (Code, Option<(String, u64, u64)>);

/// The refusals that a session hears.
fn refusals(shell: &mut Shell, id: SessionId) -> Vec<Refusal> {
    let mut found = Vec::new();
    each_frame(&shell.read(id), |frame| match frame {
        ToClient::Error { code, limit, .. } | ToClient::PushRefused { code, limit, .. } => {
            let limit = limit.map(|limit| (limit.name.to_owned(), limit.value, limit.used));
            found.push((Code::from_number(code).unwrap(), limit));
        }
        _ => {}
    });
    found
}

#[test]
fn a_message_goes_from_who_pushes_to_who_consumes_and_is_settled() {
    let mut shell = shell(settings());
    let from = producer(&mut shell);
    let to = consumer(&mut shell, consume(3, 2));
    shell.hears(to, &[ToClient::Consuming { req: 1, consumer: 3, ack_timeout_millis: 30_000 }]);
    let mut bytes = Vec::new();
    (1..=3).for_each(|seq| push(seq, b"x").encode(&mut bytes));
    shell.input(from, &bytes, &[]);
    shell.hears(from, &[ToClient::Pushed { queue: 0, first: 1, last: 3 }]);
    let source = Source { alias: 0, topic: "", session: from, name: "p", uid: 1000, pid: 1100, client: 0 };
    let job = |tag| Job {
        consumer: 3,
        source: 0,
        tag,
        attempt: 1,
        priority: PRIORITY_DEFAULT,
        message: message(tag, b"x"),
    };
    shell.hears(to, &[ToClient::Source(source), ToClient::Job(job(1)), ToClient::Job(job(2))]);
    // One frame for both, and an answer because it is asked for. There was credit for two.
    shell.say(to, ToBroker::Settle { req: 8, consumer: 3, first: 1, last: 2, verdict: Verdict::Ack });
    shell.hears(to, &[ToClient::Done { req: 8 }, ToClient::Job(job(3))]);
    for (tag, code) in [(1, Code::SettledTwice), (4, Code::NotYours), (0, Code::NotYours)] {
        shell.say(to, settle(3, tag, Verdict::Ack));
        shell.hears(to, &[ToClient::JobLost { consumer: 3, tag, code: code.number() }]);
    }
    shell.say(to, ToBroker::Credit { consumer: 3, more: 1 });
    shell.pass(29_999);
    shell.hears(to, &[]);
    shell.pass(1);
    shell.core.tick(shell.now);
    let lost = ToClient::JobLost { consumer: 3, tag: 3, code: Code::TooLate.number() };
    let mut heard = Vec::new();
    each_frame(&shell.read(to), |frame| heard.push(format!("{frame:?}")));
    assert_eq!(heard[0], format!("{lost:?}"));
    assert_eq!(heard.len(), 2, "and the same again, as another job: {heard:?}");
    shell.say(to, settle(3, 3, Verdict::Ack));
    shell.hears(to, &[ToClient::JobLost { consumer: 3, tag: 3, code: Code::TooLate.number() }]);
    shell.say(to, settle(3, 4, Verdict::Ack));
    shell.hears(to, &[]);
    shell.hang_up(from);
    shell.hang_up(to);
    // Its timer is set for what was given out; that it is not needed any more is seen then.
    shell.pass(60_000);
    shell.is_empty();
}

#[test]
fn priorities_are_strict_and_order_holds_within_one_also_for_what_comes_back() {
    let mut shell = shell(settings());
    let from = producer(&mut shell);
    for (seq, priority) in (1..).zip([4, 9, 4, 0, 9]) {
        let message = message(seq, &[]);
        let push = Push { queue: 0, priority, delay_millis: 0, ttl_millis: 0, id: &[], message };
        shell.say(from, ToBroker::Push(push));
    }
    let order = |shell: &mut Shell, id| {
        let mut seqs = Vec::new();
        each_frame(&shell.read(id), |frame| {
            if let ToClient::Job(job) = frame {
                seqs.push(job.message.seq);
            }
        });
        seqs
    };
    let first = consumer(&mut shell, consume(1, 3));
    assert_eq!(order(&mut shell, first), [2, 5, 1]);
    let second = consumer(&mut shell, consume(1, 1));
    assert_eq!(order(&mut shell, second), [3]);
    // Both die, the later one first: what they had stands where it stood.
    shell.hang_up(second);
    shell.hang_up(first);
    let third = consumer(&mut shell, consume(1, 9));
    assert_eq!(order(&mut shell, third), [2, 5, 1, 3, 4]);
}

#[test]
fn what_nobody_looked_at_is_no_attempt_if_its_consumer_ends_in_good_order() {
    let mut shell = shell(settings());
    let from = producer(&mut shell);
    push_all(&mut shell, from, 1..=3, b"x");
    let first = consumer(&mut shell, consume(1, 3));
    assert_eq!(jobs(&mut shell, first).len(), 3);
    shell.say(first, ToBroker::EndConsume { req: 2, consumer: 1, seen: 1 });
    let second = consumer(&mut shell, consume(1, 3));
    let attempts = |jobs: Vec<(u64, u32, Vec<u8>)>| jobs.into_iter().map(|(_, attempt, _)| attempt);
    assert!(attempts(jobs(&mut shell, second)).eq([2, 1, 1]), "in their order");
    // Of one that dies nobody knows what it looked at.
    shell.hang_up(second);
    let third = consumer(&mut shell, consume(1, 3));
    assert!(attempts(jobs(&mut shell, third)).eq([3, 2, 2]));
    assert_eq!(status(&shell).counts.returned, 6);
}

#[test]
fn every_limit_is_reached_and_named() {
    let cost = |bytes: u64| bytes + 43 + MESSAGE_OVERHEAD_BYTES;
    let cases = [
        (Limits { queued_bytes_max: cost(1), ..Limits::default() }, "queued_bytes_max", cost(1), 2 * cost(1)),
        (
            Limits { user_queued_bytes_max: cost(1), ..Limits::default() },
            "user_queued_bytes_max",
            cost(1),
            2 * cost(1),
        ),
    ];
    for (limits, name, value, used) in cases {
        let mut shell = shell_with(limits, &[settings()]);
        let from = producer(&mut shell);
        shell.say(from, push(1, b"x"));
        shell.say(from, push(2, b"x"));
        assert_eq!(refusals(&mut shell, from), [(Code::LimitReached, Some((name.to_owned(), value, used)))]);
    }
    let limits = Limits { prefetch_max: 3, session_consumers_max: 1, queues_max: 1, ..Limits::default() };
    let mut shell = shell_with(limits, &[QueueSettings { messages_max: 1, ..settings() }]);
    let id = shell.native("c");
    let named = |name: &str, value, used| vec![(Code::LimitReached, Some((name.to_owned(), value, used)))];
    shell.say(id, ToBroker::Consume(consume(1, 4)));
    assert_eq!(refusals(&mut shell, id), named("prefetch_max", 3, 4));
    shell.say(id, ToBroker::Consume(consume(1, 2)));
    shell.say(id, ToBroker::Credit { consumer: 1, more: 2 });
    assert_eq!(refusals(&mut shell, id), named("prefetch_max", 3, 4));
    shell.say(id, ToBroker::Consume(consume(2, 1)));
    assert_eq!(refusals(&mut shell, id), named("session_consumers_max", 1, 2));
    let declare = |queue| {
        ToBroker::DeclareQueue(DeclareQueue {
            req: 7,
            queue,
            bind: "",
            strategy: tramline_wire::Strategy::RoundRobin,
            when_full: tramline_wire::WhenFull::Refuse,
            messages_max: 0,
            bytes_max: 0,
            ack_timeout_millis: 0,
            attempts_max: 0,
            ttl_millis: 0,
            durable: false,
        })
    };
    shell.say(id, declare("more"));
    assert_eq!(refusals(&mut shell, id), named("queues_max", 1, 2));
    shell.say(id, declare("jobs"));
    assert_eq!(refusals(&mut shell, id), [(Code::QueueExists, None)]);
    shell.say(id, declare("$mine"));
    assert_eq!(refusals(&mut shell, id), [(Code::BadTopic, None)]);
    // The queue's own: what is given out counts as well.
    let from = producer(&mut shell);
    shell.say(from, push(1, b"x"));
    shell.say(from, push(2, b"x"));
    assert_eq!(refusals(&mut shell, from), [(Code::QueueFull, Some(("messages_max".to_owned(), 1, 2)))]);
}

#[test]
fn what_is_full_drops_or_buries_the_oldest_of_the_lowest_priority() {
    for (when_full, dropped, dead) in [(WhenFull::DropOldest, 1, 0), (WhenFull::DeadLetter, 0, 1)] {
        let mut shell = shell(QueueSettings { messages_max: 2, when_full, ..settings() });
        let from = producer(&mut shell);
        push_all(&mut shell, from, 1..=3, &[]);
        let now = status(&shell);
        assert_eq!((now.messages, now.counts.dropped, now.dead_letters), (2, dropped, dead));
        let to = consumer(&mut shell, consume(1, 9));
        assert_eq!(jobs(&mut shell, to).len(), 2);
        // All are given out: there is nothing to drop, so the producer is told.
        shell.read(from);
        shell.say(from, push(4, &[]));
        assert_eq!(refusals(&mut shell, from)[0].0, Code::QueueFull);
    }
}

#[test]
fn rights_are_asked_for_by_queue() {
    let none = Some(Who::default());
    let mut shell = shell(QueueSettings { push: none.clone(), consume: none, ..settings() });
    let stranger = shell.native_of(1001, "s");
    shell.say(stranger, ToBroker::OpenQueue { req: 1, alias: 0, queue: "jobs" });
    shell.say(stranger, push(1, b"x"));
    shell.say(stranger, ToBroker::Consume(consume(1, 1)));
    let denied: Vec<Code> = refusals(&mut shell, stranger).into_iter().map(|(code, _)| code).collect();
    assert_eq!(denied, [Code::Denied; 3]);
    let declare = r#"{"op":"queue","queue":"jobs","do":"pause"}"#;
    let json = shell.connect(1001, Language::Json);
    shell.line(json, declare);
    let answer = String::from_utf8(shell.read(json)).unwrap();
    assert!(answer.contains("\"denied\"") && answer.contains("queues[].administer"), "{answer}");
    // The broker's own user may.
    let own = producer(&mut shell);
    shell.say(own, push(1, b"x"));
    assert_eq!(status(&shell).messages, 1);
}

#[test]
fn delay_time_to_live_and_backoff_pass_as_time_does() {
    let mut shell = shell(QueueSettings { backoff_millis: 100, ttl_millis: 5_000, ..settings() });
    let from = producer(&mut shell);
    let delayed = |seq, delay_millis, ttl_millis| {
        ToBroker::Push(Push {
            queue: 0,
            priority: 4,
            delay_millis,
            ttl_millis,
            id: &[],
            message: message(seq, &[]),
        })
    };
    shell.say(from, delayed(1, 1_000, 0));
    let to = consumer(&mut shell, consume(1, 1));
    assert!(jobs(&mut shell, to).is_empty());
    shell.pass(999);
    assert!(jobs(&mut shell, to).is_empty());
    shell.pass(1);
    assert_eq!(jobs(&mut shell, to), [(1, 1, vec![])]);
    // Between half of the backoff and all of it.
    shell.say(to, settle(1, 1, Verdict::Nack { delay_millis: None }));
    shell.pass(49);
    assert!(jobs(&mut shell, to).is_empty());
    shell.pass(51);
    assert_eq!(jobs(&mut shell, to), [(2, 2, vec![])]);
    shell.say(to, settle(1, 2, Verdict::Extend { millis: 60_000 }));
    shell.say(from, delayed(2, 0, 10));
    shell.say(from, delayed(3, 0, 0));
    shell.pass(10);
    assert_eq!((status(&shell).counts.expired, status(&shell).ready), (1, 1));
    shell.pass(4_990);
    assert_eq!((status(&shell).counts.expired, status(&shell).ready), (2, 0));
    // What is given out does not expire; given back too late, it does.
    assert_eq!(status(&shell).in_flight, 1);
    shell.pass(40_000);
    assert_eq!(status(&shell).counts.timed_out, 0, "it was extended");
    shell.say(to, settle(1, 2, Verdict::Nack { delay_millis: Some(0) }));
    let now = status(&shell);
    assert_eq!((now.counts.expired, now.messages, now.dead_letters), (3, 0, 3));
}

#[test]
fn an_attempt_too_many_makes_a_dead_letter_that_says_who_and_why() {
    let mut shell = shell(QueueSettings { attempts_max: 2, ..settings() });
    let from = producer(&mut shell);
    shell.say(from, push(1, b"poison"));
    for _ in 0..2 {
        let to = consumer(&mut shell, consume(1, 1));
        assert_eq!(jobs(&mut shell, to).len(), 1);
        shell.hang_up(to);
    }
    assert_eq!((status(&shell).counts.returned, status(&shell).messages), (2, 0));
    let admin = shell.json();
    shell.line(admin, r#"{"op":"queue","queue":"jobs","do":"dead"}"#);
    let answer = String::from_utf8(shell.read(admin)).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let letter = &answer["messages"][0];
    assert_eq!((&letter["cause"], &letter["attempts"]), (&"attempts".into(), &2.into()));
    assert_eq!((&letter["by"]["name"], &letter["base64"]), (&"c".into(), &"cG9pc29u".into()));
    assert!(letter["when"].as_str().unwrap().starts_with("2023-11-14T"), "{letter}");
}

#[test]
fn the_strategy_of_the_queue_says_who_is_next() {
    let shares = |strategy, all: [(u32, u32); 2]| {
        let mut shell = shell(QueueSettings { strategy, ..settings() });
        let consumers = all.map(|(weight, priority)| {
            let frame = Consume { weight, priority, ..consume(1, 100) };
            consumer(&mut shell, frame)
        });
        let from = producer(&mut shell);
        push_all(&mut shell, from, 1..=40, &[]);
        consumers.map(|id| jobs(&mut shell, id).len())
    };
    assert_eq!(shares(Strategy::RoundRobin, [(1, 1), (1, 0)]), [20, 20]);
    assert_eq!(shares(Strategy::RoundRobin, [(1, 0), (9, 0)]), [4, 36]);
    assert_eq!(shares(Strategy::LoadBalance, [(1, 0), (3, 0)]), [10, 30]);
    assert_eq!(shares(Strategy::Failover, [(1, 1), (1, 0)]), [0, 40]);
}

#[test]
fn a_queue_with_much_to_give_takes_turns_with_the_others() {
    let mut shell = shell_with(
        Limits { prefetch_max: 5_000, outbox_bytes_max: 1 << 20, ..Limits::default() },
        &[settings()],
    );
    let from = producer(&mut shell);
    push_all(&mut shell, from, 1..=1_000, &[]);
    let to = consumer(&mut shell, consume(1, 5_000));
    let first = jobs(&mut shell, to).len();
    assert!((1..1_000).contains(&first), "{first} at once");
    assert_eq!(shell.core.deadline(), Some(shell.now.monotonic + 1), "it goes on by itself, after others");
    shell.pass(1);
    assert_eq!(first + jobs(&mut shell, to).len(), 1_000);
}

#[test]
fn a_consumer_that_does_not_read_holds_nobody_up() {
    let mut shell = shell_with(Limits { outbox_bytes_max: 4_096, ..Limits::default() }, &[settings()]);
    let (stuck, well) = (consumer(&mut shell, consume(1, 4_000)), consumer(&mut shell, consume(1, 4_000)));
    let from = producer(&mut shell);
    let mut seen = 0;
    for seq in 1..=500 {
        assert_eq!(shell.say(from, push(seq, &[0; 100])), Flow::Continue);
        shell.read(from);
        seen += jobs(&mut shell, well).len();
    }
    shell.read(from);
    let waits = shell.core.outbox(stuck).unwrap().len();
    assert!(seen > 450 && waits < 8_192, "{seen} went on, {waits} bytes wait");
    // It reads again: it is given more again.
    shell.read(stuck);
    shell.say(from, push(501, b"x"));
    shell.say(from, push(502, b"x"));
    assert!(!jobs(&mut shell, stuck).is_empty());
}

#[test]
fn a_ring_is_not_read_on_while_its_queue_is_full() {
    let queue = QueueSettings { bind: vec!["a.*".to_owned()], messages_max: 2, ..settings() };
    let mut shell = shell(queue);
    let from = shell.native("ring");
    shell.say(from, ToBroker::Topic { alias: 0, topic: "a.b" });
    let attach = shell.read_stream(from, 0, 77)[0];
    let read = |shell: &mut Shell, seq, lost| {
        let message = RingMessage { lost, ..ring_message(seq, b"x") };
        let flow = shell.core.proxy_message(attach, message, shell.now);
        shell.act();
        flow
    };
    assert_eq!(read(&mut shell, 1, 0), Flow::Continue);
    assert_eq!(read(&mut shell, 2, 0), Flow::Pause, "the next one would not fit");
    let to = consumer(&mut shell, consume(1, 1));
    assert_eq!(jobs(&mut shell, to).len(), 1);
    assert!(shell.asked().iter().all(|action| !matches!(action, Action::ProxyResume { .. })));
    shell.say(to, settle(1, 1, Verdict::Ack));
    assert!(shell.asked().contains(&Action::ProxyResume { attach }));
    assert_eq!(read(&mut shell, 4, 1), Flow::Pause);
    assert_eq!((status(&shell).counts.lost, status(&shell).counts.pushed), (1, 3));
    // A message that is not there whole is not queued, and counted.
    let cut = RingMessage { payload_length: 9_000_000, ..ring_message(5, b"x") };
    shell.core.proxy_message(attach, cut, shell.now);
    assert_eq!((status(&shell).counts.lost, status(&shell).counts.pushed), (2, 3));
}

#[test]
fn a_purge_is_carried_out_in_turns_and_counts_at_once() {
    let mut shell = shell(settings());
    let from = producer(&mut shell);
    push_all(&mut shell, from, 1..=5_000, b"x");
    let to = consumer(&mut shell, consume(1, 7));
    let admin = shell.json();
    shell.line(admin, r#"{"op":"queue","queue":"jobs","do":"purge"}"#);
    shell.hears_lines(admin, &[r#"{"ok":true,"op":"queue","queue":"jobs","do":"purge","count":4993}"#]);
    assert_eq!((status(&shell).messages, status(&shell).ready), (7, 0));
    assert!(status(&shell).bytes > 100 * MESSAGE_OVERHEAD_BYTES, "not all at once");
    shell.pass(1);
    assert_eq!(status(&shell).bytes, 7 * (1 + 43 + MESSAGE_OVERHEAD_BYTES));
    assert_eq!(jobs(&mut shell, to).len(), 7);
    shell.hang_up(to);
    assert_eq!((status(&shell).ready, status(&shell).counts.purged), (7, 4993));
    // The same for what is delayed and would expire, which stands in other lists.
    for seq in 5_001..=10_000 {
        let message = message(seq, b"x");
        let (delay_millis, ttl_millis) = (60_000, 60_000);
        let push = Push { queue: 0, priority: 4, delay_millis, ttl_millis, id: &[], message };
        shell.say(from, ToBroker::Push(push));
        shell.read(from);
    }
    assert_eq!(status(&shell).delayed, 5_000);
    shell.line(admin, r#"{"op":"queue","queue":"jobs","do":"purge"}"#);
    assert_eq!((status(&shell).messages, status(&shell).delayed), (0, 0));
    assert!(status(&shell).bytes > 3_000 * MESSAGE_OVERHEAD_BYTES, "not all at once");
    shell.pass(1);
    assert_eq!(status(&shell).bytes, 0);
    shell.pass(200_000);
    assert_eq!(status(&shell).counts.purged, 4993 + 5_007);
}

#[test]
fn connections_that_pull_by_hand_end_when_they_have_what_they_asked_for() {
    let mut shell = shell(settings());
    let id = shell.json();
    shell.line(id, r#"{"op":"pull","queue":"jobs","max":2,"ack":true}"#);
    shell.hears_lines(id, &[r#"{"ok":true,"op":"pull","queue":"jobs","waiting":0}"#]);
    assert_eq!(shell.core.half_closed(id, shell.now), Flow::Continue);
    let from = producer(&mut shell);
    shell.say(from, push(1, b"x"));
    assert!(!shell.closing.contains(&id));
    shell.say(from, push(2, b"x"));
    assert!(shell.closing.contains(&id), "both have come");
    assert_eq!(status(&shell).counts.acked, 2);
    shell.hang_up(id);
}
