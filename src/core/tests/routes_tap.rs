//! What is shown of routes to whoever taps them: before and after, bounded, and only to who may see it.

use super::harness::MILLI;
use super::routes::{Broker, compiled, route, ruled};
use crate::core::routes::TAPPED_PER_SECOND_MAX;
use crate::core::{Access, QueueSettings, SessionId, Who};
use crate::routes::settings::{Intake, RouteSettings};
use serde_json::{Value, json};

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
