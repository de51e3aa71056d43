//! How routes deliver: time in all, weights, and how many may be tried again at a time.

use super::harness::MILLI;
use super::routes::{Broker, compiled, route, ruled};
use crate::core::SessionId;
use crate::core::snapshot::RouteCounts;
use crate::routes::settings::{Deliver, Destination, RetryBudget, RouteSettings, Strategy};
use serde_json::{Value, json};
use std::time::Duration;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A route to services that do not answer in time, with dead letters.
fn slow(change: impl FnOnce(&mut Deliver)) -> RouteSettings {
    let mut route = ruled(route("r", "in", &["service:one"]));
    route.deliver = Deliver {
        timeout: millis(100),
        retries: 10,
        backoff_initial: millis(10),
        backoff_max: millis(10),
        eject_failures: 1,
        dead_letter: Some(Destination::parse("topic:dead").unwrap()),
        ..route.deliver
    };
    change(&mut route.deliver);
    route
}

/// The dead letters since.
fn letters(broker: &mut Broker) -> Vec<Value> {
    broker.heard().into_iter().filter(|(topic, _)| topic == "dead").map(|(_, letter)| letter).collect()
}

#[test]
fn the_time_in_all_cuts_a_try_and_ends_the_tries() {
    let mut broker = Broker::new(compiled(vec![slow(|deliver| deliver.deadline = Some(millis(150)))]));
    let one = broker.provide("one");
    broker.publish("in", "", json!({"n": 1}));
    broker.shell.pass(99);
    assert_eq!(broker.calls(one).len(), 1);
    broker.shell.pass(12);
    assert_eq!(broker.calls(one).len(), 1, "tried again after the pause");
    assert_eq!(broker.route("r").destinations[0].counts.ejections, 1, "it had all its time");
    broker.shell.pass(38);
    assert_eq!(letters(&mut broker), Vec::<Value>::new());
    // Services count in whole milliseconds.
    broker.shell.pass(2);
    let letter = letters(&mut broker).remove(0);
    let reason = letter["reason"].as_str().unwrap();
    assert!(
        reason.ends_with(
            "; its time in all of 150ms is over before it could be tried again (deliver.deadline)"
        ),
        "{letter}"
    );
    assert_eq!(letter["tries"].as_array().unwrap().len(), 2, "{letter}");
    let counts = broker.counts("r");
    assert_eq!((counts.dead, counts.too_late, counts.retries, counts.lost), (1, 1, 1, 0));
}

#[test]
fn a_destination_is_not_blamed_for_a_try_that_had_less_than_its_time() {
    let mut broker = Broker::new(compiled(vec![slow(|deliver| deliver.deadline = Some(millis(50)))]));
    let one = broker.provide("one");
    broker.publish("in", "", json!({"n": 1}));
    broker.shell.pass(60);
    assert_eq!((broker.calls(one).len(), letters(&mut broker).len()), (1, 1));
    let status = broker.route("r");
    let counts = status.destinations[0].counts;
    assert_eq!(
        (status.destinations[0].state, counts.failures, counts.failures_by.timed_out),
        ("healthy", 1, 1)
    );
}

#[test]
fn what_waits_for_its_turn_for_too_long_is_not_tried() {
    let mut broker = Broker::new(compiled(vec![slow(|deliver| {
        (deliver.deadline, deliver.concurrency, deliver.retries) = (Some(millis(80)), 1, 0);
    })]));
    let one = broker.provide("one");
    (0..3).for_each(|n| broker.publish("in", "", json!({"n": n})));
    assert_eq!((broker.calls(one).len(), broker.route("r").waiting), (1, 2));
    broker.shell.pass(79);
    assert_eq!(letters(&mut broker), Vec::<Value>::new());
    broker.shell.pass(1);
    let letters = letters(&mut broker);
    assert_eq!((broker.calls(one).len(), letters.len()), (0, 3));
    let reasons = letters.iter().map(|letter| letter["reason"].as_str().unwrap());
    let expected = "its time in all of 80ms is over before it could be tried (deliver.deadline)";
    assert_eq!(reasons.filter(|reason| *reason == expected).count(), 2, "{letters:?}");
    assert_eq!((broker.counts("r").too_late, broker.route("r").waiting), (2, 0));
    assert!(broker.shell.now.monotonic < 3_000 * MILLI);
}

#[test]
fn weights_share_out_turns_and_what_is_under_way() {
    let shares = |strategy: Strategy, weights: Vec<u32>| {
        let mut route = ruled(route("r", "in", &["service:one", "service:two"]));
        (route.deliver.strategy, route.deliver.weights) = (strategy, weights);
        let mut broker = Broker::new(compiled(vec![route]));
        let all = ["one", "two"].map(|service| broker.provide(service));
        (0..40).for_each(|n| broker.publish("in", "", json!({"n": n})));
        all.map(|id| broker.calls(id).len())
    };
    for strategy in [Strategy::RoundRobin, Strategy::LoadBalance] {
        assert_eq!(shares(strategy, vec![3, 1]), [30, 10], "{strategy:?}");
        assert_eq!(shares(strategy, vec![1, 4]), [8, 32], "{strategy:?}");
        assert_eq!(shares(strategy, Vec::new()), [20, 20], "{strategy:?}");
    }
}

#[test]
fn a_destination_that_was_left_out_does_not_make_up_for_what_it_missed() {
    let mut route = ruled(route("r", "in", &["service:one", "service:two"]));
    (route.deliver.timeout, route.deliver.eject_failures) = (millis(10), 1);
    (route.deliver.eject_time, route.deliver.backoff_initial) = (millis(100), millis(1));
    let mut broker = Broker::new(compiled(vec![route]));
    let [one, two] = ["one", "two"].map(|service| broker.provide(service));
    let answer = |broker: &mut Broker, id: SessionId, service: &str| {
        let calls = broker.calls(id);
        calls.iter().for_each(|call| broker.reply(id, service, *call));
        calls.len()
    };
    broker.publish("in", "", json!({"n": 0}));
    broker.shell.pass(15);
    assert_eq!((broker.calls(one).len(), answer(&mut broker, two, "two")), (1, 1));
    assert_eq!(broker.route("r").destinations[0].state, "ejected");
    for n in 1..50 {
        broker.publish("in", "", json!({"n": n}));
        assert_eq!(answer(&mut broker, two, "two"), 1);
    }
    broker.shell.pass(100);
    let mut given = [0, 0];
    for n in 50..60 {
        broker.publish("in", "", json!({"n": n}));
        given[0] += answer(&mut broker, one, "one");
        given[1] += answer(&mut broker, two, "two");
    }
    assert_eq!(given, [5, 5]);
}

/// What became of ten messages all of which fail at once, and with how many at their retries.
fn ten_that_fail(budget: Option<RetryBudget>) -> (RouteCounts, u64, Broker) {
    let mut broker = Broker::new(compiled(vec![slow(|deliver| {
        (deliver.retry_budget, deliver.retries, deliver.eject_failures) = (budget, 1, 0);
    })]));
    broker.provide("one");
    (0..10).for_each(|n| broker.publish("in", "", json!({"n": n})));
    broker.shell.pass(100);
    (broker.counts("r"), broker.route("r").retrying, broker)
}

#[test]
fn no_more_are_at_their_retries_than_the_budget_lets() {
    let (counts, retrying, _) = ten_that_fail(None);
    assert_eq!((counts.dead, counts.retries_refused, retrying), (0, 0, 10));
    // Each that is given up leaves fewer of which there is a share.
    let (counts, retrying, _) = ten_that_fail(Some(RetryBudget { percent: 50, min: 0 }));
    assert_eq!((counts.dead, counts.retries_refused, retrying), (5, 5, 5));
    let (counts, retrying, _) = ten_that_fail(Some(RetryBudget { percent: 0, min: 0 }));
    assert_eq!((counts.dead, counts.retries_refused, retrying), (10, 10, 0));
    let (counts, retrying, mut broker) = ten_that_fail(Some(RetryBudget { percent: 0, min: 3 }));
    assert_eq!((counts.dead, counts.retries_refused, retrying), (7, 7, 3));
    let letter = letters(&mut broker).remove(0);
    let reason = letter["reason"].as_str().unwrap();
    let expected =
        "; not tried again: 3 of 10 deliveries are retried (deliver.retry_budget: 0 %, at least 3)";
    assert!(reason.ends_with(expected), "{reason}");
    // They leave room again when they are over.
    broker.shell.pass(200);
    let counts = broker.counts("r");
    assert_eq!((counts.dead, counts.retries, broker.route("r").retrying), (10, 3, 0));
    broker.publish("in", "", json!({"n": 1}));
    broker.shell.pass(105);
    assert_eq!((broker.counts("r").retries_refused, broker.route("r").retrying), (7, 1));
}

/// A broker with a route to two services, somebody who provides both, and the numbers of the messages it is asked with.
fn in_order(change: impl FnOnce(&mut RouteSettings)) -> (Broker, SessionId) {
    let mut route = route("r", "in", &["service:one", "service:two"]);
    (route.deliver.strategy, route.deliver.ordered) = (Strategy::Failover, true);
    (route.deliver.timeout, route.deliver.retries) = (millis(100), 1);
    change(&mut route);
    let mut broker = Broker::new(compiled(vec![route]));
    let to = broker.shell.json();
    for service in ["one", "two"] {
        let line = json!({"op": "provide", "service": service, "concurrency": 100});
        broker.shell.line(to, &line.to_string());
    }
    broker.lines(to);
    (broker, to)
}

/// What is asked since: the service, the call and the message's number.
fn asked(broker: &mut Broker, to: SessionId) -> Vec<(String, u64, u64)> {
    let lines = broker.lines(to);
    let calls = lines.iter().filter(|line| line["op"] == "call");
    calls
        .map(|line| {
            let service = line["service"].as_str().unwrap().to_owned();
            (service, line["call"].as_u64().unwrap(), line["data"]["n"].as_u64().unwrap())
        })
        .collect()
}

fn numbers(asked: &[(String, u64, u64)]) -> Vec<u64> {
    asked.iter().map(|(.., n)| *n).collect()
}

#[test]
fn what_comes_from_one_source_is_delivered_one_after_the_other_if_asked_for() {
    let (mut broker, to) = in_order(|_| {});
    (1..=3).for_each(|n| broker.publish("in", "", json!({"n": n})));
    let other = broker.shell.json();
    broker.shell.line(other, r#"{"op":"pub","topic":"in","data":{"n":9}}"#);
    let first = asked(&mut broker, to);
    assert_eq!((numbers(&first), broker.route("r").waiting), (vec![1, 9], 2));
    // What is tried again, and elsewhere, still comes before the next.
    broker.shell.pass(99);
    broker.reply(to, "one", first[1].1);
    broker.shell.pass(60);
    let again = asked(&mut broker, to);
    assert_eq!((again[0].0.as_str(), numbers(&again)), ("two", vec![1]));
    broker.reply(to, "two", again[0].1);
    assert_eq!(numbers(&asked(&mut broker, to)), [2]);
    // And what is given up makes way.
    broker.shell.pass(300);
    let last = asked(&mut broker, to);
    assert_eq!(numbers(&last), [2, 3]);
    broker.reply(to, &last[1].0, last[1].1);
    let counts = broker.counts("r");
    assert_eq!((counts.delivered, counts.dead, broker.route("r").waiting), (3, 1, 0));
}

#[test]
fn order_is_kept_by_key_also_of_what_is_only_forwarded_and_of_parts() {
    let (mut broker, to) = in_order(|route| route.deliver.order_key = Some("ship.id".to_owned()));
    let data = |n: u64, id: u64| json!({"n": n, "ship": {"id": id}});
    for (n, id) in [(1, 7), (2, 7), (3, 8)] {
        broker.publish("in", "", data(n, id));
    }
    (4..=5).for_each(|n| broker.publish("in", "", json!({"n": n})));
    let first = asked(&mut broker, to);
    assert_eq!(numbers(&first), [1, 3, 4], "those without a key are kept in order as well");
    broker.reply(to, "one", first[0].1);
    assert_eq!(numbers(&asked(&mut broker, to)), [2]);
    let (mut broker, to) = in_order(|route| {
        (route.deliver.order_key, route.split) = (Some("ship.id".to_owned()), Some("all".to_owned()));
    });
    broker.publish("in", "", json!({"all": [data(1, 7), data(2, 8), data(3, 7)]}));
    assert_eq!(numbers(&asked(&mut broker, to)), [1, 2]);
}

#[test]
fn each_destination_of_a_broadcast_has_an_order_of_its_own_and_concurrency_holds() {
    let (mut broker, to) = in_order(|route| route.deliver.strategy = Strategy::Broadcast);
    (1..=2).for_each(|n| broker.publish("in", "", json!({"n": n})));
    let first = asked(&mut broker, to);
    assert_eq!(
        first.iter().map(|(service, _, n)| (service.as_str(), *n)).collect::<Vec<_>>(),
        [("one", 1), ("two", 1)]
    );
    broker.reply(to, "two", first[1].1);
    let second = asked(&mut broker, to);
    assert_eq!((second.len(), second[0].0.as_str(), second[0].2), (1, "two", 2));
    let (mut broker, to) = in_order(|route| {
        (route.deliver.concurrency, route.deliver.order_key) = (1, Some("k".to_owned()));
    });
    for (n, k) in [(1, 1), (2, 1), (3, 2)] {
        broker.publish("in", "", json!({"n": n, "k": k}));
    }
    for expected in [1, 3, 2] {
        let calls = asked(&mut broker, to);
        assert_eq!(
            (numbers(&calls), broker.counts("r").in_flight),
            (vec![expected], broker.route("r").waiting + 1)
        );
        broker.reply(to, "one", calls[0].1);
    }
    assert_eq!(broker.counts("r").delivered, 3);
}
