//! A seeded mix of messages, services that die and fail, workers in any order, and configurations read again, under virtual
//! time, with books of what was published.
//!
//! Every message carries a number of its own. At every step the counts of every route add up; at the end, when everybody is
//! there again, nothing is under way, and every message that was not refused is somewhere: with a service that answered it,
//! on a topic, in a queue, among the dead letters, or with the invalid. `TRAMLINE_ROUTE_STEPS` and `TRAMLINE_SEED`, when it is
//! compiled, make it longer, or another.

use super::routes::{Broker, compiled, route, ruled};
use super::world::Dice;
use crate::core::routes::Task;
use crate::core::{Action, QueueSettings, SessionId};
use crate::routes::settings::{Destination, RetryBudget, Settings, Strategy};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

const STEPS: u64 = 6_000;
/// Messages that routes may have at a time.
const MESSAGES_MAX: usize = 40;
const NAMES: [&str; 5] = ["turns", "first", "all", "line", "taken"];
const SERVICES: [&str; 3] = ["a", "b", "c"];

fn settings() -> Settings {
    let dead = || Some(Destination::parse("queue:dead").unwrap());
    let mut turns = ruled(route("turns", "in.turns", &["service:a", "service:b"]));
    turns.when = Some("data.n != 0".to_owned());
    turns.deliver.weights = vec![3, 1];
    turns.deliver.ordered = true;
    let mut first = ruled(route("first", "in.first", &["service:c", "queue:small", "topic:out.first"]));
    first.deliver.strategy = Strategy::Failover;
    first.deliver.retry_budget = Some(RetryBudget { percent: 50, min: 1 });
    let mut all = ruled(route("all", "in.all", &["service:b", "queue:small", "topic:out.all"]));
    all.deliver.strategy = Strategy::Broadcast;
    let line = ruled(route("line", "in.line", &["topic:out.line"]));
    // What it cannot deliver goes back to its queue, as often as that takes it.
    let mut taken = ruled(route("taken", "queue:q", &["service:a", "service:c"]));
    taken.deliver.strategy = Strategy::LoadBalance;
    taken.deliver.retries = 1;
    let mut routes = vec![turns, first, all, line, taken];
    for route in &mut routes {
        route.deliver.timeout = Duration::from_millis(40);
        route.deliver.backoff_initial = Duration::from_millis(5);
        route.deliver.backoff_max = Duration::from_millis(20);
        route.deliver.eject_failures = 3;
        route.deliver.eject_time = Duration::from_millis(50);
        route.deliver.eject_time_max = Duration::from_millis(100);
        route.deliver.concurrency = 4;
        if route.name != "taken" {
            route.deliver.dead_letter = dead();
            route.invalid = Some(Destination::parse("topic:bad").unwrap());
        }
    }
    routes[0].deliver.deadline = Some(Duration::from_millis(70));
    let mut settings = compiled(routes);
    settings.limits.work_messages_max = MESSAGES_MAX;
    settings.limits.cache_size = 2;
    settings
}

struct World {
    broker: Broker,
    dice: Dice,
    listener: SessionId,
    providers: BTreeMap<SessionId, usize>,
    /// Calls that are not answered: who has them, their numbers, and those of messages.
    calls: Vec<(SessionId, u64, u64)>,
    tasks: BTreeMap<usize, VecDeque<Task>>,
    last: u64,
    /// Messages by what they were published for.
    published: BTreeMap<u64, usize>,
    refused: BTreeSet<u64>,
    /// What is somewhere now.
    arrived: BTreeSet<u64>,
    line: Vec<u64>,
    /// What was tried of the route that keeps order: by which set of routes, and the messages.
    ordered: BTreeMap<u64, Vec<u64>>,
    sets: BTreeMap<u64, u64>,
    reloads: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let queue = |name: &str, messages_max| QueueSettings {
            name: name.to_owned(),
            messages_max,
            attempts_max: 255,
            backoff_millis: 20,
            backoff_millis_max: 40,
            ..QueueSettings::default()
        };
        let mut broker =
            Broker::with(settings(), &[queue("small", 3), queue("q", 1000), queue("dead", 100_000)]);
        broker.shell.workers_sleep = true;
        let listener = broker.shell.json();
        for topic in ["out.>", "bad"] {
            broker.shell.line(listener, &json!({"op": "sub", "topic": topic}).to_string());
        }
        broker.lines(listener);
        Self {
            broker,
            dice: Dice::new(seed),
            listener,
            providers: BTreeMap::new(),
            calls: Vec::new(),
            tasks: BTreeMap::new(),
            last: 0,
            published: BTreeMap::new(),
            refused: BTreeSet::new(),
            arrived: BTreeSet::new(),
            line: Vec::new(),
            ordered: BTreeMap::new(),
            sets: BTreeMap::new(),
            reloads: 0,
        }
    }

    fn step(&mut self) {
        match self.dice.roll(40) {
            0 | 1 => self.provide(),
            2..=13 => self.publish(),
            14..=22 => self.work(),
            23..=31 => self.answer(),
            32..=35 => {
                let millis = self.dice.roll(15) as u64;
                self.broker.shell.pass(millis);
            }
            36 => _ = self.drain("small"),
            37 if self.dice.roll(4) == 0 => self.die(),
            38 if self.dice.roll(6) == 0 => self.reload(),
            _ => {}
        }
        self.hear();
        self.check();
    }

    fn provide(&mut self) {
        if self.providers.len() < 6 {
            let place = self.dice.roll(SERVICES.len());
            let id = self.broker.shell.json();
            let line =
                json!({"op": "provide", "service": SERVICES[place], "concurrency": 1 + self.dice.roll(4)});
            self.broker.shell.line(id, &line.to_string());
            self.providers.insert(id, place);
        }
    }

    fn die(&mut self) {
        let all: Vec<SessionId> = self.providers.keys().copied().collect();
        if !all.is_empty() {
            let id = all[self.dice.roll(all.len())];
            self.hear();
            self.broker.shell.hang_up(id);
            self.providers.remove(&id);
            self.calls.retain(|(session, ..)| *session != id);
        }
    }

    fn refusals(&self) -> u64 {
        self.broker.shell.core.snapshot(self.broker.shell.now).routing.counts.refused
    }

    fn publish(&mut self) {
        let place = self.dice.roll(NAMES.len());
        self.last += 1;
        let n = self.last;
        self.published.insert(n, place);
        self.sets.insert(n, self.reloads);
        let before = self.refusals();
        // Now and then one that is not valid, which tells its number all the same.
        let data = if self.dice.roll(8) == 0 { json!({"n": null, "k": n}) } else { json!({"n": n}) };
        if NAMES[place] == "taken" {
            let line = json!({"op": "push", "queue": "q", "data": {"n": n}});
            self.broker.shell.line(self.broker.from, &line.to_string());
            let answer = self.broker.lines(self.broker.from).remove(0);
            assert_eq!(answer["ok"], true, "{answer}");
        } else {
            self.broker.publish(&format!("in.{}", NAMES[place]), "", data);
        }
        if self.refusals() > before {
            self.refused.insert(n);
        }
    }

    /// Takes what there is for workers.
    fn collect(&mut self) {
        for action in self.broker.shell.asked() {
            if let Action::Work(task) = action {
                self.tasks.entry(task.worker()).or_default().push_back(task);
            }
        }
    }

    fn work(&mut self) {
        self.collect();
        let workers: Vec<usize> =
            self.tasks.iter().filter(|(_, tasks)| !tasks.is_empty()).map(|(worker, _)| *worker).collect();
        if workers.is_empty() {
            return;
        }
        let worker = workers[self.dice.roll(workers.len())];
        let some = 1 + self.dice.roll(4);
        let Some(tasks) = self.tasks.get_mut(&worker) else { return };
        let some = some.min(tasks.len());
        let done: Vec<_> = tasks.drain(..some).map(|task| task.run(&|| Duration::ZERO)).collect();
        self.broker.shell.core.worked(done, self.broker.shell.now);
        self.broker.shell.act();
    }

    fn answer(&mut self) {
        self.hear();
        if self.calls.is_empty() {
            return;
        }
        let place = self.dice.roll(self.calls.len());
        let (id, call, n) = self.calls.swap_remove(place);
        let service = SERVICES[self.providers[&id]];
        let mut line = json!({"op": "reply", "service": service, "call": call});
        match self.dice.roll(8) {
            0 => (line["failed"], line["reason"]) = (json!(true), json!("no")),
            1 => (line["error"], line["reason"]) = (json!(7), json!("never")),
            // It says nothing: its time passes.
            2 => return,
            _ => {
                line["data"] = json!({});
                self.arrived.insert(n);
            }
        }
        self.broker.shell.line(id, &line.to_string());
    }

    fn reload(&mut self) {
        self.collect();
        self.broker.change(settings());
        self.reloads += 1;
    }

    fn hear(&mut self) {
        let providers: Vec<SessionId> = self.providers.keys().copied().collect();
        let mut ordered = Vec::new();
        for id in providers {
            for line in self.broker.lines(id) {
                match line["op"].as_str() {
                    Some("call") => {
                        let (call, n) = (line["call"].as_u64().unwrap(), line["data"]["m"].as_u64().unwrap());
                        self.calls.push((id, call, n));
                        if NAMES[self.published[&n]] == "turns" {
                            ordered.push(n);
                        }
                    }
                    Some("call_over") => {
                        let over = line["call"].as_u64().unwrap();
                        self.calls.retain(|(session, call, _)| (*session, *call) != (id, over));
                        // It gives the place back, too late for anybody.
                        let service = SERVICES[self.providers[&id]];
                        let late = json!({"op": "reply", "service": service, "call": over, "data": 0});
                        self.broker.shell.line(id, &late.to_string());
                    }
                    _ => {}
                }
            }
        }
        // Which of those was first that several were asked with in one step, nobody can tell.
        ordered.sort_unstable();
        for n in ordered {
            self.ordered.entry(self.sets[&n]).or_default().push(n);
        }
        for line in self.broker.lines(self.listener) {
            match line["topic"].as_str() {
                Some("bad") => {
                    let original: Value =
                        serde_json::from_str(line["data"]["original"].as_str().unwrap()).unwrap();
                    self.arrived.insert(original["k"].as_u64().unwrap());
                }
                Some(topic) => {
                    let n = line["data"]["m"].as_u64().unwrap();
                    self.arrived.insert(n);
                    if topic == "out.line" {
                        self.line.push(n);
                    }
                }
                None => {}
            }
        }
    }

    /// Takes what a queue gives out at a time. Whether that was anything.
    fn drain(&mut self, queue: &str) -> bool {
        let taken = self.broker.queued(queue);
        let some = !taken.is_empty();
        for data in taken {
            let n = match data["original"].as_str() {
                None => data["m"].as_u64().unwrap(),
                Some(original) => serde_json::from_str::<Value>(original).unwrap()["n"].as_u64().unwrap(),
            };
            self.arrived.insert(n);
        }
        some
    }

    fn check(&self) {
        for name in NAMES {
            self.broker.counts(name);
        }
        let snapshot = self.broker.shell.core.snapshot(self.broker.shell.now);
        for place in snapshot.routes.iter().flat_map(|route| &route.destinations) {
            let by_reason: u64 = place.counts.failures_by.named().iter().map(|(_, count)| count).sum();
            assert_eq!(place.counts.failures, by_reason, "{place:?}");
        }
        let routing = snapshot.routing;
        assert!(routing.messages <= MESSAGES_MAX as u64, "{routing:?}");
        assert!((routing.messages == 0) == (routing.bytes == 0), "{routing:?}");
    }

    /// Everybody is there again and does what is asked for, until nothing is under way. How often what happened.
    fn finish(&mut self) -> [u64; 9] {
        for (place, service) in SERVICES.iter().enumerate() {
            let id = self.broker.shell.json();
            let line = json!({"op": "provide", "service": service, "concurrency": 100});
            self.broker.shell.line(id, &line.to_string());
            self.providers.insert(id, place);
        }
        for _ in 0..600 {
            self.collect();
            while self.tasks.values().any(|tasks| !tasks.is_empty()) {
                self.work();
            }
            self.hear();
            for (id, call, n) in std::mem::take(&mut self.calls) {
                let service = SERVICES[self.providers[&id]];
                let line = json!({"op": "reply", "service": service, "call": call, "data": 0});
                self.broker.shell.line(id, &line.to_string());
                self.arrived.insert(n);
            }
            self.drain("small");
            self.broker.shell.pass(5);
            self.check();
        }
        while self.drain("dead") {}
        self.hear();
        let snapshot = self.broker.shell.core.snapshot(self.broker.shell.now);
        assert_eq!((snapshot.routing.messages, snapshot.routing.jobs), (0, 0));
        for route in &snapshot.routes {
            assert_eq!((route.counts.in_flight, route.counts.lost), (0, 0), "{route:?}");
            assert_eq!((route.waiting, route.retrying), (0, 0), "{route:?}");
        }
        let expected: BTreeSet<u64> =
            self.published.keys().copied().filter(|n| !self.refused.contains(n)).collect();
        let missing: Vec<_> =
            expected.difference(&self.arrived).map(|n| (*n, NAMES[self.published[n]])).collect();
        assert!(missing.is_empty(), "nowhere: {missing:?}");
        assert!(self.line.is_sorted() && !self.line.is_empty(), "what goes one way stays in order");
        assert!(self.ordered.values().any(|tried| tried.len() > 1));
        assert!(self.ordered.values().all(|tried| tried.is_sorted()), "{:?}", self.ordered);
        let sum =
            |of: fn(&crate::core::snapshot::RouteStatus) -> u64| snapshot.routes.iter().map(of).sum::<u64>();
        [
            sum(|route| route.counts.delivered),
            sum(|route| route.counts.dead),
            sum(|route| route.counts.invalid),
            sum(|route| route.counts.retries),
            sum(|route| route.counts.retries_refused),
            sum(|route| route.counts.too_late),
            sum(|route| route.destinations.iter().map(|place| place.counts.failures).sum()),
            self.refused.len() as u64,
            self.reloads,
        ]
    }
}

#[test]
fn whatever_happens_every_message_is_somewhere_and_all_counts_add_up() {
    let number = |text: Option<&str>| text.and_then(|value| value.parse::<u64>().ok());
    let steps = number(option_env!("TRAMLINE_ROUTE_STEPS")).unwrap_or(STEPS);
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    let mut happened = [0; 9];
    for seed in [1, number(option_env!("TRAMLINE_SEED")).unwrap_or(random)] {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..steps).for_each(|_| world.step());
            world.finish()
        });
        let Ok(here) = result else { panic!("with TRAMLINE_SEED={seed}, see above") };
        happened.iter_mut().zip(here).for_each(|(sum, count)| *sum += count);
    }
    // Worlds in which something never happened would prove nothing of it. One seed alone may well be such.
    assert!(happened.iter().all(|count| *count > 0), "{happened:?}");
}
