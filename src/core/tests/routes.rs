//! Routes, case by case: who gets what, when something fails, when there is too much.

use super::harness::{MILLI, Shell};
use crate::core::snapshot::RouteStatus;
use crate::core::{Action, Limits, QueueSettings, SessionId};
use crate::routes::Routes;
use crate::routes::rules::RuleSettings;
use crate::routes::settings::{Deliver, Destination, Form, Intake, RouteSettings, Settings, Strategy};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A broker with routes, somebody who publishes to it, and somebody who hears everything.
pub(super) struct Broker {
    pub(super) shell: Shell,
    pub(super) from: SessionId,
    pub(super) to: SessionId,
}

pub(super) fn route(name: &str, from: &str, to: &[&str]) -> RouteSettings {
    RouteSettings {
        name: name.to_owned(),
        from: vec![Intake::parse(from).unwrap()],
        deliver: Deliver {
            to: to.iter().map(|to| Destination::parse(to).unwrap()).collect(),
            ..Deliver::default()
        },
        version: "1".to_owned(),
        input: Form::Payload,
        ..RouteSettings::default()
    }
}

/// With a rule: `n` becomes `m`, and has to be there.
pub(super) fn ruled(route: RouteSettings) -> RouteSettings {
    let rule = RuleSettings {
        source: Some("n".to_owned()),
        target: Some("m".to_owned()),
        required: true,
        ..RuleSettings::default()
    };
    RouteSettings { transforms: true, rules: vec![rule], output: Form::Payload, ..route }
}

pub(super) fn compiled(routes: Vec<RouteSettings>) -> Settings {
    Settings { routes, ..Settings::default() }
}

impl Broker {
    pub(super) fn new(settings: Settings) -> Self {
        Self::with(settings, &[])
    }

    pub(super) fn with(settings: Settings, queues: &[QueueSettings]) -> Self {
        let mut shell = Shell::new(Limits::default());
        for queue in queues {
            shell.core.add_queue(queue.clone(), shell.now).unwrap();
        }
        for name in settings.queues() {
            if !queues.iter().any(|queue| queue.name == name) {
                let queue = QueueSettings { name: name.to_owned(), ..QueueSettings::default() };
                shell.core.add_queue(queue, shell.now).unwrap();
            }
        }
        let (from, to) = (shell.json(), shell.json());
        shell.line(to, r#"{"op":"sub","topic":">"}"#);
        shell.read(to);
        let mut broker = Self { shell, from, to };
        broker.change(settings);
        broker
    }

    pub(super) fn change(&mut self, settings: Settings) {
        let routes = Routes::compile(&settings, &mut |file| Err(format!("no {file}"))).unwrap();
        self.shell.core.change_routes(Arc::new(routes), self.shell.now).unwrap();
        self.shell.act();
    }

    pub(super) fn publish(&mut self, topic: &str, message_type: &str, data: Value) {
        let line = json!({"op": "pub", "topic": topic, "type": message_type, "data": data});
        self.shell.line(self.from, &line.to_string());
        self.shell.read(self.from);
    }

    /// What was published since: topic and payload, without what came in.
    pub(super) fn heard(&mut self) -> Vec<(String, Value)> {
        let own: Vec<Value> =
            self.lines(self.to).into_iter().filter(|line| line["from"]["name"] == "tramline").collect();
        own.into_iter()
            .map(|mut line| (line["topic"].as_str().unwrap().to_owned(), line["data"].take()))
            .collect()
    }

    pub(super) fn lines(&mut self, id: SessionId) -> Vec<Value> {
        let text = String::from_utf8(self.shell.read(id)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(super) fn route(&self, name: &str) -> RouteStatus {
        let routes = self.shell.core.snapshot(self.shell.now).routes;
        routes.into_iter().find(|route| route.route == name).unwrap()
    }

    /// The counts of a route, after checking that they add up.
    #[track_caller]
    pub(super) fn counts(&self, name: &str) -> crate::core::snapshot::RouteCounts {
        let counts = self.route(name).counts;
        let sum = counts.passed
            + counts.dropped
            + counts.invalid
            + counts.delivered
            + counts.dead
            + counts.in_flight;
        assert_eq!(counts.received, sum, "{counts:?}");
        counts
    }

    /// Has workers do what they were given while they slept.
    fn work(&mut self) {
        for action in self.shell.asked() {
            if let Action::Work(task) = action {
                self.shell.core.worked([task.run(&|| Duration::ZERO)], self.shell.now);
            }
        }
        self.shell.act();
    }

    pub(super) fn provide(&mut self, service: &str) -> SessionId {
        let id = self.shell.json();
        self.shell.line(id, &json!({"op": "provide", "service": service, "concurrency": 100}).to_string());
        self.shell.read(id);
        id
    }

    /// The numbers of the calls that somebody was given since.
    pub(super) fn calls(&mut self, id: SessionId) -> Vec<u64> {
        let lines = self.lines(id);
        lines.iter().filter(|line| line["op"] == "call").map(|line| line["call"].as_u64().unwrap()).collect()
    }

    pub(super) fn reply(&mut self, id: SessionId, service: &str, call: u64) {
        let line = json!({"op": "reply", "service": service, "call": call, "data": "done"});
        self.shell.line(id, &line.to_string());
    }

    /// What is in a queue.
    pub(super) fn queued(&mut self, queue: &str) -> Vec<Value> {
        let id = self.shell.json();
        self.shell.line(id, &json!({"op": "pull", "queue": queue, "max": 1000, "ack": true}).to_string());
        let lines = self.lines(id);
        self.shell.hang_up(id);
        lines.into_iter().filter(|line| line["op"] == "job").map(|mut line| line["data"].take()).collect()
    }

    fn depth(&self, queue: &str) -> u64 {
        let queues = self.shell.core.snapshot(self.shell.now).queues;
        queues.iter().find(|known| known.queue == queue).unwrap().messages
    }
}

#[test]
fn a_message_is_treated_and_published_and_one_that_is_not_valid_goes_to_its_channel() {
    let mut route = ruled(route("r", "in.*", &["topic:out"]));
    route.message_types = vec!["T".to_owned()];
    route.when = Some("data.n != 13".to_owned());
    route.invalid = Some(Destination::parse("topic:bad").unwrap());
    let mut broker = Broker::new(compiled(vec![route]));
    broker.publish("in.a", "T", json!({"n": 5, "x": 1}));
    assert_eq!(broker.heard(), [("out".to_owned(), json!({"m": 5}))]);
    broker.publish("in.a", "U", json!({"n": 5}));
    broker.publish("other", "T", json!({"n": 5}));
    broker.publish("in.a", "T", json!({"n": 13}));
    broker.publish("in.a", "T", json!({"k": 13}));
    assert_eq!(broker.heard(), []);
    broker.publish("in.a", "T", json!({"n": null}));
    let heard = broker.heard();
    assert_eq!((heard.len(), heard[0].0.as_str()), (1, "bad"));
    assert_eq!(heard[0].1["reason"], "rule 1 (n) with the value null: it is required and missing");
    assert_eq!(heard[0].1["original"], r#"{"n":null}"#);
    let counts = broker.counts("r");
    assert_eq!((counts.received, counts.delivered, counts.invalid), (4, 1, 1));
    assert_eq!((counts.passed, counts.passed_missing), (2, 1));
    let routing = broker.shell.core.snapshot(broker.shell.now).routing;
    assert_eq!((routing.counts.unmatched, routing.messages, routing.bytes), (1, 0, 0));
}

#[test]
fn an_envelope_names_the_destination_that_gets_it() {
    let mut route = ruled(route("r", "in", &["topic:a", "topic:b"]));
    route.output = Form::Envelope;
    route.deliver.strategy = Strategy::Broadcast;
    let mut broker = Broker::new(compiled(vec![route]));
    broker.publish("in", "T", json!({"n": 1}));
    let heard = broker.heard();
    for (topic, data) in &heard {
        assert_eq!(data["destination"], format!("topic:{topic}"));
        assert_eq!((&data["messageType"], &data["transformedData"]), (&json!("T"), &json!({"m": 1})));
    }
    assert_eq!(heard.iter().map(|(topic, _)| topic.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(broker.counts("r").delivered, 1);
}

#[test]
fn what_is_only_forwarded_needs_no_worker_and_several_filters_take_it_once() {
    let mut both = route("both", "in.a", &["topic:out"]);
    both.from.push(Intake::parse("in.*").unwrap());
    both.goes_on = true;
    let mut rest = route("rest", "in.a", &["topic:end"]);
    rest.from.push(Intake::parse("out").unwrap());
    rest.tap = Some(Destination::parse("topic:tap").unwrap());
    let mut broker = Broker::new(compiled(vec![both, rest]));
    broker.shell.workers_sleep = true;
    broker.publish("in.a", "T", json!({"n": 1}));
    let topics: Vec<String> = broker.heard().into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(topics, ["out", "tap", "end"]);
    // What the first publishes the second takes as well; what routes publish has its turn later.
    assert_eq!((broker.counts("both").delivered, broker.counts("rest").delivered), (1, 1));
    assert_eq!(broker.shell.core.snapshot(broker.shell.now).routing.messages, 1);
    let asked = broker.shell.asked();
    assert!(matches!(asked[..], [Action::Work(_)]), "{asked:?}");
}

#[test]
fn a_service_that_dies_or_is_slow_has_others_tried_and_what_arrives_nowhere_is_a_dead_letter() {
    let mut route = ruled(route("r", "in", &["service:one", "service:two"]));
    route.deliver.strategy = Strategy::Failover;
    route.deliver.retries = 2;
    route.deliver.timeout = Duration::from_millis(100);
    route.deliver.dead_letter = Some(Destination::parse("queue:dead").unwrap());
    let mut broker = Broker::new(compiled(vec![route]));
    let (one, two) = (broker.provide("one"), broker.provide("two"));
    broker.publish("in", "", json!({"n": 1}));
    assert_eq!(broker.calls(one), [1]);
    broker.reply(one, "one", 1);
    assert_eq!(broker.counts("r").delivered, 1);
    // It dies with two: the other has them at once, or after a pause.
    broker.publish("in", "", json!({"n": 2}));
    broker.publish("in", "", json!({"n": 3}));
    broker.shell.hang_up(one);
    broker.publish("in", "", json!({"n": 4}));
    assert_eq!(broker.calls(two), [1], "what is new goes to who is there");
    broker.shell.pass(60);
    assert_eq!(broker.calls(two), [2, 3]);
    (1..=3).for_each(|call| broker.reply(two, "two", call));
    let counts = broker.counts("r");
    assert_eq!((counts.delivered, counts.dead, counts.retries), (4, 0, 2));
    // One that does not answer is tried three times in all.
    broker.publish("in", "", json!({"n": 5}));
    broker.shell.pass(1000);
    assert_eq!(broker.calls(two).len(), 3);
    let counts = broker.counts("r");
    assert_eq!((counts.delivered, counts.dead, counts.in_flight), (4, 1, 0));
    let dead = broker.queued("dead");
    assert_eq!((dead.len(), &dead[0]["route"]), (1, &json!("r")));
    let tries = dead[0]["tries"].as_array().unwrap();
    assert_eq!(tries.len(), 3);
    assert!(tries.iter().all(|tried| tried["destination"] == "service:two"), "{tries:?}");
    assert!(tries[0]["reason"].as_str().unwrap().starts_with("timed_out: "), "{tries:?}");
    assert_eq!(dead[0]["original"], r#"{"n":5}"#);
    // With nobody at all it is dead as well, and nothing is waited for longer than the pauses.
    broker.shell.hang_up(two);
    broker.publish("in", "", json!({"n": 6}));
    broker.shell.pass(1000);
    assert_eq!(broker.counts("r").dead, 2);
    assert!(broker.queued("dead")[0]["reason"].as_str().unwrap().starts_with("no destination can take it"));
}

#[test]
fn strategies_say_who_gets_the_next_one() {
    let to = ["topic:a", "topic:b", "topic:c"];
    for (strategy, expected) in [
        (Strategy::RoundRobin, vec!["a", "b", "c", "a"]),
        (Strategy::Failover, vec!["a", "a", "a", "a"]),
        (Strategy::LoadBalance, vec!["a", "b", "c", "a"]),
    ] {
        let mut route = ruled(route("r", "in", &to));
        route.deliver.strategy = strategy;
        let mut broker = Broker::new(compiled(vec![route]));
        (0..4).for_each(|n| broker.publish("in", "", json!({"n": n})));
        let topics: Vec<String> = broker.heard().into_iter().map(|(topic, _)| topic).collect();
        assert_eq!(topics, expected, "{strategy:?}");
    }
}

#[test]
fn a_destination_that_fails_is_left_out_and_comes_back() {
    let mut route = route("r", "in", &["service:one", "topic:t"]);
    route.deliver.strategy = Strategy::Failover;
    route.deliver.timeout = Duration::from_millis(10);
    route.deliver.eject_failures = 2;
    route.deliver.eject_time = Duration::from_millis(500);
    let mut broker = Broker::new(compiled(vec![route]));
    let one = broker.provide("one");
    for n in 0..2 {
        broker.publish("in", "", json!({"n": n}));
        broker.shell.pass(100);
    }
    assert_eq!(broker.route("r").destinations[0].state, "ejected");
    assert_eq!((broker.heard().len(), broker.calls(one).len()), (2, 2));
    broker.publish("in", "", json!({"n": 2}));
    assert_eq!((broker.heard().len(), broker.calls(one).len()), (1, 0));
    broker.shell.pass(500);
    broker.publish("in", "", json!({"n": 3}));
    broker.publish("in", "", json!({"n": 4}));
    assert_eq!(broker.calls(one), [3], "one at a time until it has done well");
    broker.reply(one, "one", 3);
    assert_eq!(broker.route("r").destinations[0].state, "healthy");
    broker.publish("in", "", json!({"n": 5}));
    assert_eq!(broker.calls(one), [4]);
    assert_eq!(broker.route("r").destinations[0].counts.ejections, 1);
    broker.reply(one, "one", 4);
    assert_eq!(broker.counts("r").delivered, 6);
}

#[test]
fn a_worker_is_given_no_more_at_a_time_than_a_batch() {
    for (batch_size, given) in [(1, 1), (3, 3), (100, 5)] {
        let mut settings = compiled(vec![ruled(route("r", "in", &["topic:out"]))]);
        (settings.limits.batch_size, settings.limits.worker_threads) = (batch_size, 1);
        let mut broker = Broker::new(settings);
        broker.shell.workers_sleep = true;
        (0..5).for_each(|n| broker.publish("in", "", json!({"n": n})));
        let asked = broker.shell.asked();
        assert_eq!(asked.iter().filter(|action| matches!(action, Action::Work(_))).count(), given);
        // What is done makes room for the next.
        broker.shell.workers_sleep = false;
        for action in asked {
            if let Action::Work(task) = action {
                broker.shell.core.worked([task.run(&|| Duration::ZERO)], broker.shell.now);
            }
        }
        broker.shell.act();
        assert_eq!(broker.counts("r").delivered, 5);
    }
}

#[test]
fn too_many_bytes_under_way_are_refused_but_one_message_is_taken_however_large() {
    let mut settings = compiled(vec![ruled(route("r", "in", &["topic:out"]))]);
    settings.limits.work_bytes_max = 4000;
    let mut broker = Broker::new(settings);
    broker.shell.workers_sleep = true;
    let counts = |broker: &Broker| {
        let routing = broker.shell.core.snapshot(broker.shell.now).routing;
        (routing.messages, routing.counts.refused)
    };
    // Each counts for its bytes and 512 more.
    (0..3).for_each(|n| broker.publish("in", "", json!({"n": n, "more": "x".repeat(1000)})));
    assert_eq!(counts(&broker), (2, 1));
    broker.work();
    broker.publish("in", "", json!({"n": 3, "more": "x".repeat(8000)}));
    broker.publish("in", "", json!({"n": 4}));
    assert_eq!(counts(&broker), (1, 2));
    broker.work();
    assert_eq!((counts(&broker).0, broker.counts("r").delivered), (0, 3));
}

#[test]
fn too_much_under_way_is_refused_and_counted_and_a_queue_keeps_what_is_in_it() {
    let mut settings =
        compiled(vec![ruled(route("r", "in", &["topic:out"])), ruled(route("q", "queue:q", &["topic:out"]))]);
    settings.limits.work_messages_max = 8;
    let mut broker = Broker::new(settings);
    broker.shell.workers_sleep = true;
    (0..20).for_each(|n| broker.publish("in", "", json!({"n": n})));
    let routing = broker.shell.core.snapshot(broker.shell.now).routing;
    assert_eq!((routing.messages, routing.counts.refused), (8, 12));
    for n in 0..20 {
        let line = json!({"op": "push", "queue": "q", "data": {"n": n}});
        broker.shell.line(broker.from, &line.to_string());
    }
    assert_eq!(broker.depth("q"), 20);
    broker.shell.workers_sleep = false;
    broker.work();
    broker.shell.pass(1);
    assert_eq!((broker.depth("q"), broker.heard().len()), (0, 28));
    assert_eq!((broker.counts("r").delivered, broker.counts("q").delivered), (8, 20));
    let routing = broker.shell.core.snapshot(broker.shell.now).routing;
    assert_eq!((routing.messages, routing.bytes, routing.jobs), (0, 0, 0));
}

#[test]
fn a_queue_gets_back_what_could_be_brought_nowhere_and_buries_what_is_not_valid() {
    let mut route = ruled(route("r", "queue:q", &["service:s"]));
    route.deliver.retries = 0;
    let mut broker = Broker::new(compiled(vec![route]));
    for n in [json!({"n": 1}), json!({"k": 1})] {
        broker.shell.line(broker.from, &json!({"op": "push", "queue": "q", "data": n}).to_string());
    }
    let queue = |broker: &Broker| broker.shell.core.snapshot(broker.shell.now).queues[0].clone();
    assert_eq!((queue(&broker).counts.nacked, queue(&broker).counts.rejected), (1, 1));
    assert_eq!((queue(&broker).messages, queue(&broker).dead_letters), (1, 1));
    let one = broker.provide("s");
    broker.shell.pass(5_000);
    let calls = broker.calls(one);
    assert_eq!(calls.len(), 1);
    assert_eq!(queue(&broker).in_flight, 1, "it is settled when it is delivered");
    broker.shell.pass(5_000);
    broker.reply(one, "s", calls[0]);
    assert_eq!((queue(&broker).messages, queue(&broker).counts.acked), (0, 1));
    assert_eq!(broker.counts("r").lost, 0);
}

#[test]
fn another_set_takes_over_at_once_and_what_is_under_way_ends_as_it_began() {
    let mut broker = Broker::new(compiled(vec![
        ruled(route("r", "in", &["service:s"])),
        route("gone", "x", &["topic:y"]),
    ]));
    let one = broker.provide("s");
    broker.publish("in", "", json!({"n": 1}));
    broker.publish("x", "", json!(1));
    broker.heard();
    let mut other = route("r", "in", &["topic:out"]);
    other.from.push(Intake::parse("new.*").unwrap());
    broker.change(compiled(vec![other]));
    broker.publish("in", "", json!({"n": 2}));
    broker.publish("new.a", "", json!({"n": 3}));
    broker.publish("x", "", json!(2));
    assert_eq!(broker.heard().len(), 2);
    let counts = broker.counts("r");
    assert_eq!((counts.received, counts.delivered, counts.in_flight), (3, 2, 1));
    broker.reply(one, "s", 1);
    assert_eq!(broker.counts("r").delivered, 3);
    // One that a worker has goes by the routes that took it.
    broker.change(compiled(vec![ruled(route("r", "in", &["topic:before"]))]));
    broker.shell.workers_sleep = true;
    broker.publish("in", "", json!({"n": 4}));
    broker.change(compiled(vec![route("r", "in", &["topic:after"])]));
    let asked = broker.shell.asked();
    let [Action::Work(task)] = &asked[..] else { panic!("{asked:?}") };
    broker.shell.core.worked([task.clone().run(&|| Duration::ZERO)], broker.shell.now);
    assert_eq!(broker.heard(), [("before".to_owned(), json!({"m": 4}))]);
    assert_eq!(broker.counts("r").delivered, 4);
    broker.change(Settings::default());
    broker.publish("in", "", json!({"n": 2}));
    let snapshot = broker.shell.core.snapshot(broker.shell.now);
    assert_eq!((snapshot.routes.len(), broker.heard().len()), (0, 0));
    assert_eq!(snapshot.subscriptions.len(), 1, "the broker's own have gone: {:?}", snapshot.subscriptions);
    assert!(broker.shell.now.monotonic < 3_000 * MILLI);
}

#[test]
fn what_goes_round_is_stopped() {
    let bound =
        QueueSettings { name: "q".to_owned(), bind: vec!["out".to_owned()], ..QueueSettings::default() };
    let settings = compiled(vec![route("r", "queue:q", &["topic:out"])]);
    let mut broker = Broker::with(settings, &[bound]);
    broker.publish("out", "", json!(1));
    broker.shell.pass(100);
    let counts = broker.counts("r");
    assert_eq!((counts.received, counts.delivered), (16, 16));
    let snapshot = broker.shell.core.snapshot(broker.shell.now);
    assert_eq!((snapshot.routing.counts.stopped, snapshot.queues[0].dead_letters), (1, 1));
}

#[test]
fn requests_are_answered_with_what_the_destination_said() {
    let mut front = ruled(route("front", "service:front", &["service:one", "service:two"]));
    front.deliver.strategy = Strategy::Failover;
    front.deliver.retries = 1;
    front.message_types = vec!["T".to_owned()];
    let kept =
        RouteSettings { message_types: vec!["Q".to_owned()], ..route("kept", "service:front", &["queue:q"]) };
    let mut broker = Broker::new(compiled(vec![front, kept]));
    let (one, two) = (broker.provide("one"), broker.provide("two"));
    let ask = |broker: &mut Broker, kind: &str, data: Value| {
        let line = json!({"op": "req", "service": "front", "type": kind, "data": data});
        broker.shell.line(broker.from, &line.to_string());
    };
    ask(&mut broker, "T", json!({"n": 1}));
    let call = broker.lines(one).remove(0);
    assert_eq!((&call["data"], call["call"].as_u64()), (&json!({"m": 1}), Some(1)));
    assert_eq!(broker.lines(broker.from), Vec::<Value>::new());
    broker.reply(one, "one", 1);
    let answer = broker.lines(broker.from).remove(0);
    assert_eq!((&answer["ok"], &answer["data"]), (&json!(true), &json!("done")));
    // The other answers when the first has died.
    ask(&mut broker, "T", json!({"n": 2}));
    broker.shell.hang_up(one);
    broker.shell.pass(100);
    assert_eq!(broker.calls(two), [1]);
    broker.reply(two, "two", 1);
    assert_eq!(broker.lines(broker.from).remove(0)["data"], "done");
    // What nobody can be asked, what is not valid, what nobody takes, and what a queue has.
    broker.shell.hang_up(two);
    let code = |broker: &mut Broker| broker.lines(broker.from).remove(0)["error"]["code"].clone();
    ask(&mut broker, "T", json!({"n": 3}));
    broker.shell.pass(1000);
    assert_eq!(code(&mut broker), "instance_failed");
    ask(&mut broker, "T", json!({"k": 3}));
    let told = broker.lines(broker.from).remove(0);
    assert!(
        told.to_string().contains("422") && told.to_string().contains("it is required and missing"),
        "{told}"
    );
    ask(&mut broker, "U", json!({"k": 3}));
    let told = broker.lines(broker.from).remove(0);
    assert!(told.to_string().contains("404"), "{told}");
    ask(&mut broker, "Q", json!({"k": 3}));
    assert_eq!(broker.lines(broker.from).remove(0)["ok"], true);
    assert_eq!(broker.queued("q"), [json!({"k": 3})]);
    let counts = broker.counts("front");
    assert_eq!((counts.received, counts.delivered, counts.dead, counts.invalid), (4, 2, 1, 1));
    broker.change(Settings::default());
    ask(&mut broker, "T", json!({"n": 1}));
    assert_eq!(code(&mut broker), "no_instance");
}
