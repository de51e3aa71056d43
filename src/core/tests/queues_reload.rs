//! Queues when the configuration is read again, case by case; and what is told of queues on `$tramline.queue`.

use super::harness::{Shell, each_frame, message};
use crate::core::queues::MESSAGE_OVERHEAD_BYTES;
use crate::core::snapshot::QueueStatus;
use crate::core::{Limits, QueueSettings, SessionId, Strategy, WhenFull, Who};
use tramline_wire::{Code, Consume, Publish, Push, ToBroker, ToClient, Verdict};

const COST: u64 = 1 + 43 + MESSAGE_OVERHEAD_BYTES;

fn settings(name: &str) -> QueueSettings {
    QueueSettings { name: name.to_owned(), backoff_millis: 0, ..QueueSettings::default() }
}

fn shell(queues: &[QueueSettings]) -> Shell {
    let mut shell = Shell::new(Limits::default());
    for queue in queues {
        shell.core.add_queue(queue.clone(), shell.now).unwrap();
    }
    shell
}

fn reload(shell: &mut Shell, queues: &[QueueSettings]) {
    shell.core.change_queues(queues, shell.now);
    shell.act();
}

fn push(shell: &mut Shell, from: SessionId, seq: u64) -> Option<Code> {
    let push =
        Push { queue: 0, priority: 4, delay_millis: 0, ttl_millis: 0, id: &[], message: message(seq, b"x") };
    shell.say(from, ToBroker::Push(push));
    let mut refused = None;
    each_frame(&shell.read(from), |frame| {
        if let ToClient::PushRefused { code, .. } = frame {
            refused = Code::from_number(code);
        }
    });
    refused
}

fn producer(shell: &mut Shell, uid: u32) -> SessionId {
    let id = shell.native_of(uid, "p");
    shell.say(id, ToBroker::OpenQueue { req: 0, alias: 0, queue: "jobs" });
    id
}

fn consumer(shell: &mut Shell, uid: u32, credit: u32) -> SessionId {
    let id = shell.native_of(uid, "c");
    let consume =
        Consume { req: 1, consumer: 1, queue: "jobs", credit, refill: true, weight: 1, priority: 0 };
    shell.say(id, ToBroker::Consume(consume));
    id
}

/// Jobs by tag, and what is lost by tag and code.
fn heard(shell: &mut Shell, id: SessionId) -> (Vec<u64>, Vec<(u64, Code)>) {
    let (mut jobs, mut lost) = (Vec::new(), Vec::new());
    each_frame(&shell.read(id), |frame| match frame {
        ToClient::Job(job) => jobs.push(job.tag),
        ToClient::JobLost { tag, code, .. } => lost.push((tag, Code::from_number(code).unwrap())),
        _ => {}
    });
    (jobs, lost)
}

fn status(shell: &Shell, name: &str) -> Option<QueueStatus> {
    shell.core.queue_status(shell.now).into_iter().find(|each| each.queue == name)
}

#[test]
fn new_queues_are_made_and_changed_settings_count_from_then_on() {
    let mut shell = shell(&[settings("jobs")]);
    let (from, to) = (producer(&mut shell, 1000), consumer(&mut shell, 1000, 1));
    push(&mut shell, from, 1);
    push(&mut shell, from, 2);
    assert_eq!(heard(&mut shell, to).0, [1]);
    let changed = QueueSettings {
        ack_timeout_millis: 100,
        messages_max: 3,
        strategy: Strategy::Failover,
        bind: vec!["a.*".to_owned()],
        ..settings("jobs")
    };
    reload(&mut shell, &[changed.clone(), settings("more")]);
    assert!(status(&shell, "more").is_some());
    let now = status(&shell, "jobs").unwrap();
    assert_eq!((now.messages_max, now.strategy, now.messages), (3, "failover", 2));
    // What is published on a topic that it is bound to lands in it, up to the new limit.
    shell.say(from, ToBroker::Topic { alias: 0, topic: "a.b" });
    shell.say(from, ToBroker::Publish(Publish { alias: 0, message: message(1, b"x") }));
    assert_eq!(status(&shell, "jobs").unwrap().messages, 3);
    assert_eq!(push(&mut shell, from, 3), Some(Code::QueueFull));
    // What was given out before keeps its time; what is given out now has the new one.
    shell.pass(500);
    assert_eq!(heard(&mut shell, to), (vec![], vec![]));
    shell.say(to, ToBroker::Settle { req: 0, consumer: 1, first: 1, last: 1, verdict: Verdict::Ack });
    assert_eq!(heard(&mut shell, to).0, [2]);
    shell.pass(100);
    assert_eq!(heard(&mut shell, to).1, [(2, Code::TooLate)]);
    // The binding ends, another begins.
    reload(&mut shell, &[QueueSettings { bind: vec!["c".to_owned()], messages_max: 9, ..changed }]);
    let before = status(&shell, "jobs").unwrap().counts.pushed;
    for (alias, topic) in [(0, "a.b"), (1, "c")] {
        shell.say(from, ToBroker::Topic { alias, topic });
        shell.say(from, ToBroker::Publish(Publish { alias, message: message(2, b"x") }));
    }
    assert_eq!(status(&shell, "jobs").unwrap().counts.pushed, before + 1);
}

#[test]
fn a_lower_limit_drops_what_is_too_much_in_turns() {
    let mut shell =
        shell(&[QueueSettings { when_full: WhenFull::DeadLetter, messages_max: 5_000, ..settings("jobs") }]);
    let from = producer(&mut shell, 1000);
    (1..=5_000).for_each(|seq| assert_eq!(push(&mut shell, from, seq), None));
    let lower = QueueSettings {
        when_full: WhenFull::DropOldest,
        messages_max: 10,
        dead_messages_max: 0,
        ..settings("jobs")
    };
    reload(&mut shell, &[lower]);
    shell.core.tick(shell.now);
    assert!(status(&shell, "jobs").unwrap().messages > 2_000, "not all at once");
    shell.pass(1);
    let now = status(&shell, "jobs").unwrap();
    assert_eq!((now.messages, now.counts.dropped, now.bytes), (10, 4_990, 10 * COST));
}

#[test]
fn whoever_lost_the_right_is_told_and_what_it_had_goes_to_others() {
    let mut shell = shell(&[settings("jobs")]);
    let (from, to) = (producer(&mut shell, 1001), consumer(&mut shell, 1001, 1));
    assert_eq!(push(&mut shell, from, 1), None);
    assert_eq!(heard(&mut shell, to).0, [1]);
    let only = |uid| Some(Who { users: vec![uid], groups: Vec::new() });
    reload(&mut shell, &[QueueSettings { push: only(1002), consume: only(1002), ..settings("jobs") }]);
    assert_eq!(heard(&mut shell, to).1, [(0, Code::Denied)]);
    assert_eq!(push(&mut shell, from, 2), Some(Code::Denied));
    let other = consumer(&mut shell, 1002, 1);
    assert_eq!(heard(&mut shell, other).0, [1]);
    reload(&mut shell, &[settings("jobs")]);
    assert_eq!(push(&mut shell, from, 3), None, "and back");
}

#[test]
fn what_is_not_named_any_more_is_worked_off_and_goes() {
    let bound = QueueSettings { bind: vec!["a".to_owned()], ..settings("jobs") };
    let mut shell = shell(std::slice::from_ref(&bound));
    shell.core.add_queue(settings("other"), shell.now).unwrap();
    let (from, to) = (producer(&mut shell, 1000), consumer(&mut shell, 1000, 1));
    push(&mut shell, from, 1);
    push(&mut shell, from, 2);
    reload(&mut shell, &[settings("other")]);
    assert!(status(&shell, "jobs").unwrap().retiring);
    assert_eq!(push(&mut shell, from, 3), Some(Code::UnknownQueue));
    shell.say(from, ToBroker::Topic { alias: 0, topic: "a" });
    shell.say(from, ToBroker::Publish(Publish { alias: 0, message: message(1, b"x") }));
    assert_eq!(status(&shell, "jobs").unwrap().messages, 2, "it is bound no more");
    // Named again it is as it was.
    reload(&mut shell, &[bound, settings("other")]);
    assert_eq!(push(&mut shell, from, 4), None);
    reload(&mut shell, &[settings("other")]);
    let mut tags = heard(&mut shell, to).0;
    shell.say(to, ToBroker::Settle { req: 0, consumer: 1, first: 1, last: 1, verdict: Verdict::Ack });
    shell.say(to, ToBroker::Settle { req: 0, consumer: 1, first: 2, last: 2, verdict: Verdict::Ack });
    let reject = Verdict::Reject { reason: "no" };
    shell.say(to, ToBroker::Settle { req: 0, consumer: 1, first: 3, last: 3, verdict: reject });
    tags.append(&mut heard(&mut shell, to).0);
    assert_eq!(tags, [1, 2, 3]);
    assert_eq!(status(&shell, "jobs").unwrap().dead_letters, 1, "it goes when that has gone, too");
    let admin = shell.json();
    shell.line(admin, r#"{"op":"queue","queue":"jobs","do":"purge_dead"}"#);
    assert!(status(&shell, "jobs").is_none() && status(&shell, "other").is_some());
    assert_eq!(heard(&mut shell, to).1, [(0, Code::UnknownQueue)]);
    assert_eq!(push(&mut shell, from, 5), Some(Code::UnknownQueue));
    for id in [from, to, admin] {
        shell.hang_up(id);
    }
    assert!(shell.core.queues.charges.is_empty());
}

#[test]
fn what_happens_to_queues_is_told_and_not_more_than_once_a_second() {
    let mut shell = shell(&[QueueSettings { messages_max: 2, attempts_max: 1, ..settings("jobs") }]);
    let watcher = shell.json();
    shell.line(watcher, r#"{"op":"sub","topic":"$tramline.queue"}"#);
    shell.read(watcher);
    let told = |shell: &mut Shell| -> Vec<String> {
        let lines = String::from_utf8(shell.read(watcher)).unwrap();
        let events = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events
            .map(|line| {
                let of = |key: &str| line["data"][key].to_string();
                format!("{} {} {}", of("queue"), of("event"), of("dead")).replace('"', "")
            })
            .collect()
    };
    let admin = shell.json();
    shell.line(admin, r#"{"op":"queue","queue":"jobs","do":"pause"}"#);
    shell.line(admin, r#"{"op":"queue","queue":"jobs","do":"resume"}"#);
    reload(&mut shell, &[settings("new"), QueueSettings { messages_max: 3, ..settings("jobs") }]);
    let expected = ["jobs paused 0", "jobs resumed 0", "new made 0", "jobs changed 0"];
    assert_eq!(told(&mut shell), expected);
    let (from, to) = (producer(&mut shell, 1000), consumer(&mut shell, 1000, 0));
    let refused = (1..=9).filter_map(|seq| push(&mut shell, from, seq)).count();
    assert_eq!(refused, 6);
    assert_eq!(told(&mut shell), ["jobs full 0"], "once, however many are refused");
    shell.pass(999);
    push(&mut shell, from, 10);
    shell.say(to, ToBroker::Credit { consumer: 1, more: 3 });
    let reject = Verdict::Reject { reason: "no" };
    for tag in 1..=3 {
        shell.say(to, ToBroker::Settle { req: 0, consumer: 1, first: tag, last: tag, verdict: reject });
    }
    assert_eq!(told(&mut shell), ["jobs dead_letters 1"]);
    shell.pass(999);
    assert_eq!(told(&mut shell), Vec::<String>::new());
    shell.pass(1);
    assert_eq!(told(&mut shell), ["jobs dead_letters 3"], "what came meanwhile is told later");
    reload(&mut shell, &[settings("jobs")]);
    let expected = ["jobs changed 3", "new retiring 0", "new removed 0"];
    assert_eq!(told(&mut shell), expected);
}
