//! Replies on their way back through routes: made into something else, not valid, or left as they came.

use super::routes::{Broker, compiled, route, ruled};
use crate::core::{Action, SessionId};
use crate::routes::rules::{RuleSettings, Start};
use crate::routes::settings::{Destination, ReplySettings, RouteSettings, Strategy};
use serde_json::{Value, json};
use std::time::Duration;

pub(super) fn rule(source: &str, target: &str, transform: Option<&str>) -> RuleSettings {
    RuleSettings {
        source: Some(source.to_owned()),
        target: Some(target.to_owned()),
        transform: transform.map(str::to_owned),
        required: true,
        ..RuleSettings::default()
    }
}

/// From `service:front` to `service:back`, with rules for replies.
pub(super) fn replying(rules: Vec<RuleSettings>) -> RouteSettings {
    let reply = Some(ReplySettings { start: Start::Empty, rules });
    RouteSettings { reply, ..ruled(route("front", "service:front", &["service:back"])) }
}

pub(super) fn ask(broker: &mut Broker, data: Value) {
    let line = json!({"op": "req", "service": "front", "type": "T", "data": data});
    broker.shell.line(broker.from, &line.to_string());
}

/// Answers the next call with these fields, and tells the call.
pub(super) fn answer(broker: &mut Broker, by: SessionId, service: &str, fields: Value) -> Value {
    let call = broker.lines(by).into_iter().find(|line| line["op"] == "call").unwrap();
    let mut line = json!({"op": "reply", "service": service, "call": call["call"]});
    line.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    broker.shell.line(by, &line.to_string());
    call
}

/// The only line that who asked was given.
#[track_caller]
fn told(broker: &mut Broker) -> Value {
    let lines = broker.lines(broker.from);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    line.clone()
}

#[track_caller]
fn nothing_is_left(broker: &Broker) {
    let routing = broker.shell.core.snapshot(broker.shell.now).routing;
    assert_eq!((routing.messages, routing.bytes, routing.jobs), (0, 0, 0));
}

#[test]
fn a_reply_is_made_into_what_the_rules_say_and_keeps_its_type_and_headers() {
    let rules = vec![
        rule("km", "miles", Some("round(value / 1.609344, 1)")),
        RuleSettings {
            target: Some("by".to_owned()),
            transform: Some("message.messageType + ' of ' + message.topic".to_owned()),
            ..RuleSettings::default()
        },
    ];
    let mut broker = Broker::new(compiled(vec![replying(rules)]));
    let back = broker.provide("back");
    ask(&mut broker, json!({"n": 1}));
    let fields = json!({"type": "Far", "headers": {"h": "v"}, "data": {"km": 100, "secret": 1}});
    let call = answer(&mut broker, back, "back", fields);
    assert_eq!(call["data"], json!({"m": 1}));
    let told = told(&mut broker);
    assert_eq!(
        (&told["ok"], &told["type"], &told["headers"]),
        (&json!(true), &json!("Far"), &json!({"h": "v"}))
    );
    assert_eq!(told["data"], json!({"miles": 62.1, "by": "Far of front"}));
    let counts = broker.counts("front");
    assert_eq!((counts.received, counts.delivered, counts.replies, counts.replies_invalid), (1, 1, 1, 0));
    nothing_is_left(&broker);
}

#[test]
fn a_reply_that_is_not_valid_is_an_error_and_the_request_is_delivered_all_the_same() {
    let mut broker =
        Broker::new(compiled(vec![replying(vec![rule("a", "b", None), rule("km", "x", Some("value * 2"))])]));
    let back = broker.provide("back");
    for (fields, reason) in [
        (json!({"text": "no json"}), "route front: the reply is not valid: not JSON at byte 0"),
        (
            json!({"data": {"km": 1}}),
            "route front: the reply is not valid: rule 1 (a): it is required and missing",
        ),
        (
            json!({"data": {"a": 1, "km": "far"}}),
            "route front: the reply is not valid: rule 2 (km) with the value \"far\": ",
        ),
    ] {
        ask(&mut broker, json!({"n": 1}));
        answer(&mut broker, back, "back", fields);
        let told = told(&mut broker);
        assert_eq!((&told["ok"], &told["error"]["number"]), (&json!(false), &json!(422)), "{told}");
        assert!(told["error"]["message"].as_str().unwrap().contains(reason), "{told}");
    }
    let counts = broker.counts("front");
    assert_eq!((counts.received, counts.delivered, counts.invalid), (3, 3, 0));
    assert_eq!((counts.replies, counts.replies_invalid), (3, 3));
    nothing_is_left(&broker);
}

#[test]
fn without_rules_a_reply_passes_as_it_came_and_no_worker_sees_it() {
    let plain = ruled(route("front", "service:front", &["service:back"]));
    let mut broker = Broker::new(compiled(vec![plain]));
    let back = broker.provide("back");
    ask(&mut broker, json!({"n": 1}));
    broker.shell.workers_sleep = true;
    answer(&mut broker, back, "back", json!({"type": "R", "text": "{ \"km\" :1.50}"}));
    let told = told(&mut broker);
    assert_eq!((&told["type"], &told["text"]), (&json!("R"), &json!("{ \"km\" :1.50}")));
    assert_eq!(broker.counts("front").replies, 0);
    nothing_is_left(&broker);
}

#[test]
fn who_asked_gets_the_first_of_several_replies_and_an_error_of_a_service_is_none() {
    let mut both = replying(vec![rule("a", "b", None)]);
    both.deliver.to.push(Destination::parse("service:other").unwrap());
    both.deliver.strategy = Strategy::Broadcast;
    both.deliver.retries = 0;
    let mut broker = Broker::new(compiled(vec![both]));
    let (back, other) = (broker.provide("back"), broker.provide("other"));
    ask(&mut broker, json!({"n": 1}));
    answer(&mut broker, other, "other", json!({"data": {"a": 1}}));
    assert_eq!(broker.lines(broker.from), Vec::<Value>::new(), "the other one is under way");
    answer(&mut broker, back, "back", json!({"data": {"a": 2}}));
    assert_eq!(told(&mut broker)["data"], json!({"b": 1}));
    ask(&mut broker, json!({"n": 1}));
    answer(&mut broker, back, "back", json!({"error": 7, "reason": "never"}));
    answer(&mut broker, other, "other", json!({"data": {"a": 1}}));
    assert_eq!(told(&mut broker)["error"]["code"], "instance_failed");
    // One that is not valid does not stand in the way of one that is.
    ask(&mut broker, json!({"n": 1}));
    answer(&mut broker, other, "other", json!({"data": {"x": 1}}));
    answer(&mut broker, back, "back", json!({"data": {"a": 3}}));
    assert_eq!(told(&mut broker)["data"], json!({"b": 3}));
    let counts = broker.counts("front");
    assert_eq!((counts.delivered, counts.dead, counts.replies, counts.replies_invalid), (2, 1, 3, 1));
    nothing_is_left(&broker);
}

#[test]
fn a_reply_is_treated_by_the_routes_that_took_the_request_and_a_worker_may_fail() {
    let mut broker = Broker::new(compiled(vec![replying(vec![rule("a", "b", None)])]));
    let back = broker.provide("back");
    for fails in [false, true] {
        ask(&mut broker, json!({"n": 1}));
        broker.shell.workers_sleep = true;
        answer(&mut broker, back, "back", json!({"data": {"a": 1}}));
        let asked = broker.shell.asked();
        let [Action::Work(task)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!(broker.counts("front").in_flight, 0, "it is delivered when it is answered");
        broker.change(compiled(vec![replying(vec![rule("a", "c", None)])]));
        let done = if fails { task.failure() } else { task.clone().run(&|| Duration::ZERO) };
        broker.shell.core.worked([done], broker.shell.now);
        broker.shell.workers_sleep = false;
        broker.shell.act();
        let told = told(&mut broker);
        if fails {
            assert_eq!(told["error"]["number"], 422, "{told}");
            assert!(
                told["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains("route front: the reply was not treated: "),
                "{told}"
            );
        } else {
            assert_eq!(told["data"], json!({"b": 1}));
            broker.change(compiled(vec![replying(vec![rule("a", "b", None)])]));
        }
        nothing_is_left(&broker);
    }
}

#[test]
fn what_ends_something_is_done_however_much_is_under_way() {
    let mut buried = ruled(route("r", "in", &["service:nobody"]));
    buried.deliver.retries = 0;
    buried.deliver.dead_letter = Some(Destination::parse("queue:dead").unwrap());
    let mut settings = compiled(vec![replying(vec![rule("a", "b", None)]), buried]);
    settings.limits.work_bytes_max = 1;
    let mut broker = Broker::new(settings);
    let back = broker.provide("back");
    ask(&mut broker, json!({"n": 1}));
    answer(&mut broker, back, "back", json!({"data": {"a": 1}}));
    assert_eq!(told(&mut broker)["data"], json!({"b": 1}));
    broker.publish("in", "", json!({"n": 1}));
    assert_eq!(broker.queued("dead").len(), 1);
    nothing_is_left(&broker);
}
