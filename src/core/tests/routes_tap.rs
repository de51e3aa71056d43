//! What is shown of routes to whoever taps them: before and after, bounded, and only to who may see it.

use super::harness::MILLI;
use super::routes::{Broker, compiled, route, ruled};
use super::routes_reply::{answer, ask, replying, rule};
use crate::core::routes::{TAPPED_PER_SECOND_MAX, Task};
use crate::core::{Access, Action, QueueSettings, SessionId, Who};
use crate::routes::settings::{Destination, Intake, RouteSettings, Strategy};
use serde_json::{Value, json};
use std::time::Duration;

fn broker() -> Broker {
    let dropped = RouteSettings { drop: Some("not wanted".to_owned()), ..route("d", "d", &[]) };
    let picky =
        RouteSettings { when: Some("data.n > 2".to_owned()), ..ruled(route("p", "p", &["topic:p2"])) };
    let plain = route("GPS fixes, plain", "f", &["topic:f2"]);
    Broker::new(compiled(vec![ruled(route("made", "m", &["topic:m2"])), plain, dropped, picky]))
}

fn listens(broker: &mut Broker, uid: u32, filter: &str) -> SessionId {
    let id = broker.shell.connect(uid, crate::core::Language::Json);
    broker.shell.line(id, &json!({"op": "sub", "topic": filter}).to_string());
    id
}

/// What somebody was shown since.
fn shown(broker: &mut Broker, id: SessionId) -> Vec<Value> {
    let lines = broker.lines(id).into_iter().filter(|line| line["op"] == "msg");
    lines.map(|mut line| line["data"].take()).collect()
}

#[test]
fn a_message_is_shown_before_and_after_and_why_it_goes_nowhere() {
    let mut broker = broker();
    let tap = listens(&mut broker, 1000, "$tap.>");
    broker.lines(tap);
    broker.publish("m", "T", json!({"n": 1.50}));
    broker.publish("m", "T", json!({"x": 1}));
    broker.publish("f", "", json!("as it is"));
    broker.publish("d", "", json!(1));
    broker.publish("p", "", json!({"n": 1}));
    broker.publish("p", "", json!({}));
    let shown = shown(&mut broker, tap);
    let words: Vec<String> = shown
        .iter()
        .map(|event| {
            let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {} {}", word("route"), word("outcome"), word("reason"))
        })
        .collect();
    let expected = [
        "made: transformed ",
        "made: invalid rule 1 (n): it is required and missing",
        "GPS fixes, plain: forwarded ",
        "d: dropped ",
        "p: passed ",
        "p: passed data.n",
    ];
    assert_eq!(words, expected);
    let first = &shown[0];
    assert_eq!((&first["before"], &first["after"]), (&json!({"n": 1.5}), &json!([{"m": 1.5}])));
    assert_eq!((&first["topic"], &first["type"]), (&json!("m"), &json!("T")));
    assert_eq!(shown[2]["before"], "as it is");
}

#[test]
fn one_route_is_shown_by_its_name_and_nobody_else_hears_of_it() {
    let mut broker = broker();
    let name = crate::core::tap_topic("GPS fixes, plain");
    assert_eq!(name, "$tap.GPS_fixes__plain");
    let tap = listens(&mut broker, 1000, &name);
    let others = [">", "*.GPS_fixes__plain", "$tramline.>"].map(|filter| listens(&mut broker, 1000, filter));
    broker.lines(tap);
    for other in others {
        broker.lines(other);
    }
    broker.publish("m", "", json!({"n": 1}));
    broker.publish("f", "", json!(1));
    assert_eq!(shown(&mut broker, tap).len(), 1);
    for other in others {
        let heard = broker.lines(other);
        assert!(heard.iter().all(|line| !line["topic"].as_str().unwrap().starts_with("$tap")), "{heard:?}");
    }
    // Nothing is numbered, so nothing was phrased, when nobody looks.
    broker.shell.line(tap, r#"{"op":"unsub","sub":1}"#);
    broker.lines(tap);
    assert_eq!(broker.shell.core.taps, 0);
    broker.publish("f", "", json!(2));
    let again = listens(&mut broker, 1000, &name);
    broker.publish("f", "", json!(3));
    let numbers: Vec<Value> = broker.lines(again).into_iter().map(|mut line| line["seq"].take()).collect();
    assert_eq!(numbers.last(), Some(&json!(2)));
}

/// Somebody who sees all that routes do, and what they were shown of replies.
fn watches(broker: &mut Broker) -> SessionId {
    let tap = listens(broker, 1000, "$tap.>");
    broker.lines(tap);
    tap
}

fn replies(broker: &mut Broker, tap: SessionId) -> Vec<Value> {
    shown(broker, tap).into_iter().filter(|event| event["destination"] != Value::Null).collect()
}

#[test]
fn a_reply_is_shown_as_it_was_answered_and_as_who_asked_gets_it() {
    let mut broker = Broker::new(compiled(vec![replying(vec![rule("a", "b", None)])]));
    let back = broker.provide("back");
    let tap = watches(&mut broker);
    ask(&mut broker, json!({"n": 1}));
    answer(&mut broker, back, "back", json!({"type": "R", "data": {"a": 1.50}}));
    ask(&mut broker, json!({"n": 2}));
    answer(&mut broker, back, "back", json!({"type": "R", "data": {"x": 2}}));
    let all = shown(&mut broker, tap);
    let outcomes: Vec<&Value> = all.iter().map(|event| &event["outcome"]).collect();
    assert_eq!(outcomes, ["transformed", "replied", "transformed", "invalid"]);
    let expected = json!({
        "route": "front", "topic": "front", "type": "R", "from": "", "destination": "service:back",
        "outcome": "replied", "before": {"a": 1.5}, "after": [{"b": 1.5}],
    });
    assert_eq!(all[1], expected);
    let expected = json!({
        "route": "front", "topic": "front", "type": "R", "from": "", "destination": "service:back",
        "outcome": "invalid", "before": {"x": 2},
        "reason": "route front: the reply is not valid: rule 1 (a): it is required and missing",
    });
    assert_eq!(all[3], expected);
    // A message has no destination yet when it is shown, by which it is told from a reply.
    assert_eq!((&all[0]["destination"], &all[2]["destination"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_reply_that_no_rule_sees_is_shown_as_it_came_and_an_error_is_none() {
    let mut plain = ruled(route("front", "service:front", &["service:back"]));
    plain.deliver.retries = 0;
    let mut broker = Broker::new(compiled(vec![plain, route("told", "in", &["service:back"])]));
    let back = broker.provide("back");
    let tap = watches(&mut broker);
    ask(&mut broker, json!({"n": 1}));
    answer(&mut broker, back, "back", json!({"type": "R", "text": "as it is"}));
    let seen = replies(&mut broker, tap);
    let [reply] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((&reply["outcome"], &reply["before"]), (&json!("replied"), &json!("as it is")));
    assert_eq!((&reply["after"], &reply["destination"]), (&Value::Null, &json!("service:back")));
    ask(&mut broker, json!({"n": 1}));
    answer(&mut broker, back, "back", json!({"error": 7, "reason": "never"}));
    // Nobody asked for what answers a message that was published.
    broker.publish("in", "", json!(1));
    answer(&mut broker, back, "back", json!({"data": 1}));
    assert_eq!(replies(&mut broker, tap), Vec::<Value>::new());
}

#[test]
fn of_several_replies_the_one_is_shown_that_who_asked_gets_and_those_that_are_not_valid() {
    let mut both = replying(vec![rule("a", "b", None)]);
    both.deliver.to.push(Destination::parse("service:other").unwrap());
    both.deliver.strategy = Strategy::Broadcast;
    let mut broker = Broker::new(compiled(vec![both]));
    let (back, other) = (broker.provide("back"), broker.provide("other"));
    let tap = watches(&mut broker);
    let words = |events: Vec<Value>| -> Vec<String> {
        events.iter().map(|event| format!("{} {}", event["outcome"], event["destination"])).collect()
    };
    ask(&mut broker, json!({"n": 1}));
    answer(&mut broker, other, "other", json!({"data": {"x": 1}}));
    answer(&mut broker, back, "back", json!({"data": {"a": 2}}));
    let expected = [r#""invalid" "service:other""#, r#""replied" "service:back""#];
    assert_eq!(words(replies(&mut broker, tap)), expected);
    // Both are with workers before either is treated.
    ask(&mut broker, json!({"n": 1}));
    broker.shell.workers_sleep = true;
    answer(&mut broker, other, "other", json!({"data": {"a": 1}}));
    answer(&mut broker, back, "back", json!({"data": {"a": 2}}));
    let tasks: Vec<Task> = broker
        .shell
        .asked()
        .into_iter()
        .filter_map(|action| match action {
            Action::Work(task) => Some(task),
            _ => None,
        })
        .collect();
    assert_eq!(tasks.len(), 2);
    let done: Vec<_> = tasks.into_iter().map(|task| task.run(&|| Duration::ZERO)).collect();
    broker.shell.core.worked(done, broker.shell.now);
    broker.shell.workers_sleep = false;
    broker.shell.act();
    assert_eq!(words(replies(&mut broker, tap)), [r#""replied" "service:other""#]);
}

#[test]
fn a_reply_at_which_a_worker_fails_is_shown_and_none_that_was_answered_or_treated_unseen() {
    let mut broker = Broker::new(compiled(vec![replying(vec![rule("a", "b", None)])]));
    let back = broker.provide("back");
    let mut seen = Vec::new();
    for turn in ["fails", "looks away", "looks too late"] {
        let mut tap = if turn == "looks too late" { broker.shell.json() } else { watches(&mut broker) };
        ask(&mut broker, json!({"n": 1}));
        broker.shell.workers_sleep = true;
        answer(&mut broker, back, "back", json!({"data": {"a": 1}}));
        let asked = broker.shell.asked();
        let [Action::Work(task)] = &asked[..] else { panic!("{asked:?}") };
        match turn {
            "looks away" => _ = broker.shell.line(tap, r#"{"op":"unsub","sub":1}"#),
            "looks too late" => tap = watches(&mut broker),
            _ => {}
        }
        let done = if turn == "fails" { task.failure() } else { task.clone().run(&|| Duration::ZERO) };
        broker.shell.core.worked([done], broker.shell.now);
        broker.shell.workers_sleep = false;
        broker.shell.act();
        seen.extend(replies(&mut broker, tap));
        broker.shell.hang_up(tap);
    }
    let [failed] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((&failed["outcome"], &failed["before"]), (&json!("invalid"), &json!({"a": 1})));
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.starts_with("route front: the reply was not treated: "), "{reason}");
}

#[test]
fn of_a_reply_that_is_long_only_its_length_is_shown() {
    let mut broker = Broker::new(compiled(vec![replying(vec![rule("a", "b", Some("size(value)"))])]));
    broker.shell.core.limits.json_payload_bytes_max = 1000;
    let back = broker.provide("back");
    let tap = watches(&mut broker);
    ask(&mut broker, json!({"n": 1}));
    answer(&mut broker, back, "back", json!({"data": {"a": "x".repeat(1000)}}));
    let seen = replies(&mut broker, tap);
    assert_eq!((&seen[0]["before"], &seen[0]["after"]), (&json!("(1008 bytes)"), &json!([{"b": 1000}])));
}

#[test]
fn replies_and_messages_share_what_is_shown_in_a_second() {
    let mut broker = Broker::new(compiled(vec![replying(vec![rule("a", "b", None)])]));
    let back = broker.provide("back");
    let tap = watches(&mut broker);
    let mut seen = 0;
    for _ in 0..TAPPED_PER_SECOND_MAX / 2 + 5 {
        ask(&mut broker, json!({"n": 1}));
        answer(&mut broker, back, "back", json!({"data": {"a": 1}}));
        seen += shown(&mut broker, tap).len();
    }
    assert_eq!(seen, TAPPED_PER_SECOND_MAX as usize);
    // What is left out of replies is told with the next that is shown, be it one of them or not.
    ask(&mut broker, json!({"n": 1}));
    broker.shell.pass(1000);
    answer(&mut broker, back, "back", json!({"data": {"a": 1}}));
    let next = shown(&mut broker, tap);
    assert_eq!((&next[0]["outcome"], &next[0]["left_out"]), (&json!("replied"), &json!(11)), "{next:?}");
}

#[test]
fn what_is_shown_in_a_second_is_bounded_and_the_rest_is_counted() {
    let mut broker = broker();
    let tap = listens(&mut broker, 1000, "$tap.made");
    broker.lines(tap);
    let mut seen = 0;
    for number in 0..TAPPED_PER_SECOND_MAX + 500 {
        broker.publish("m", "", json!({"n": number}));
        seen += shown(&mut broker, tap).len();
    }
    assert_eq!(seen, TAPPED_PER_SECOND_MAX as usize);
    broker.shell.pass(1000);
    broker.publish("m", "", json!({"n": 0}));
    broker.publish("m", "", json!({"n": 0}));
    let left_out: Vec<Value> =
        shown(&mut broker, tap).into_iter().map(|mut event| event["left_out"].take()).collect();
    assert_eq!(left_out, [json!(500), Value::Null]);
    assert_eq!(broker.route("made").counts.delivered, u64::from(TAPPED_PER_SECOND_MAX) + 502);
    assert!(broker.shell.now.monotonic >= 1000 * MILLI);
}

#[test]
fn only_who_may_tap_is_shown_anything() {
    let mut broker = broker();
    let refused = |broker: &mut Broker, id: SessionId| {
        let line = broker.lines(id).pop().unwrap();
        assert_eq!(line["error"]["code"], "denied", "{line}");
        assert!(line["error"]["message"].as_str().unwrap().contains("allow.tap"), "{line}");
    };
    for filter in ["$tap.>", "$tap.made", "$tap.*"] {
        let id = listens(&mut broker, 1001, filter);
        refused(&mut broker, id);
    }
    // Nor by way of a queue that is bound to it.
    let admin = broker.shell.json();
    broker.shell.line(admin, r#"{"op":"declare","queue":"q","bind":"$tap.>"}"#);
    refused(&mut broker, admin);
    let queue = QueueSettings {
        name: "q".to_owned(),
        bind: vec!["$tap.made".to_owned()],
        ..QueueSettings::default()
    };
    assert!(broker.shell.core.add_queue(queue, broker.shell.now).is_err());
    assert!(Intake::parse("$tap.made").is_err() && Intake::parse("$tap.>").is_err());

    let access = |tap: &[u32]| Access {
        own_uid: 1000,
        own_pid: 1,
        users: vec![1001, 1002],
        tap: Who { users: tap.to_vec(), groups: Vec::new() },
        ..Access::default()
    };
    broker.shell.core.change_access(access(&[1001]), broker.shell.now);
    let id = listens(&mut broker, 1001, "$tap.made");
    broker.lines(id);
    broker.publish("m", "", json!({"n": 1}));
    assert_eq!(shown(&mut broker, id).len(), 1);
    // Who may not any more is not shown anything more.
    broker.shell.core.change_access(access(&[]), broker.shell.now);
    broker.shell.act();
    let last = broker.lines(id).pop().unwrap();
    assert_eq!((&last["op"], &last["error"]["code"]), (&json!("close"), &json!("denied")), "{last}");
}
