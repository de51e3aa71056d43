//! Routes with real processes: a map service that is killed, a broker that is killed, a configuration that is read again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::{Broker, Watchdog};
use tramline_client::{Client, Error};

/// The status of a route, by its name.
fn route(broker: &Broker, name: &str) -> Value {
    let status = broker.json().ask(r#"{"op":"status"}"#);
    let routes = status["status"]["routes"].as_array().unwrap().clone();
    routes.into_iter().find(|each| each["route"] == name).unwrap()
}

/// Waits until a count of a route is this.
#[track_caller]
fn until(broker: &Broker, name: &str, key: &str, value: u64) {
    while route(broker, name)[key].as_u64() != Some(value) {
        std::thread::yield_now();
    }
}

/// Whether all that a route received is accounted for.
#[track_caller]
fn adds_up(route: &Value) {
    let count = |key: &str| route[key].as_u64().unwrap();
    let sum: u64 =
        ["passed", "dropped", "invalid", "delivered", "dead", "in_flight"].into_iter().map(count).sum();
    assert_eq!(count("received"), sum, "{route}");
}

fn numbers(payloads: impl IntoIterator<Item = Vec<u8>>) -> BTreeSet<u64> {
    payloads
        .into_iter()
        .map(|payload| {
            let value: Value = serde_json::from_slice(&payload).unwrap();
            let data = if value["transformedData"].is_object() { &value["transformedData"] } else { &value };
            data["n"].as_u64().unwrap()
        })
        .collect()
}

/// Takes everything that is in a queue.
fn drain(client: &Client, queue: &str, count: usize) -> Vec<Vec<u8>> {
    let mut consumer = client.consume(queue).start().unwrap();
    let take = |job: tramline_client::Job| {
        let payload = job.message().payload().to_vec();
        job.ack().unwrap();
        payload
    };
    (0..count).map(|_| take(consumer.recv().unwrap())).collect()
}

/// A process of its own: this test binary, started for one test that plays this part.
fn process(broker: &Broker, part: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process_of_its_own", "--nocapture"])
        .env("ROUTES_PART", part)
        .env("ROUTES_SOCKET", broker.socket())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test: what [`process`] starts.
#[test]
fn process_of_its_own() {
    let Ok(part) = std::env::var("ROUTES_PART") else { return };
    let client =
        Client::builder().name(&part).socket(std::env::var_os("ROUTES_SOCKET").unwrap()).connect().unwrap();
    // What it was given it pushes to a queue before it answers.
    let _ = client.service(&part).concurrency(8).handle(|request| {
        client.push("seen", request.payload()).confirm()?;
        request.reply(b"{}")
    });
}

const FAILOVER: &str = "
routes:
  - name: fixes
    from: in.*
    transform: {rules: [{source: n, required: true}]}
    invalid: queue:invalid
    deliver:
      strategy: failover
      to: [service:primary, service:backup]
      timeout: 5s
      retries: 5
      backoff: {initial: 5ms, max: 20ms}
      dead_letter: queue:dead
queues: [{name: seen}]
";

#[test]
fn the_primary_is_killed_and_the_backup_has_everything() {
    const COUNT: u64 = 2000;
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(FAILOVER);
    let (mut primary, mut backup) = (process(&broker, "primary"), process(&broker, "backup"));
    let client = broker.client("publisher");
    let both = |status: &Value| {
        let services = status["status"]["services"].as_array().unwrap();
        services
            .iter()
            .filter(|service| service["instances"].as_array().is_some_and(|all| !all.is_empty()))
            .count()
    };
    while both(&broker.json().ask(r#"{"op":"status"}"#)) < 2 {
        std::thread::yield_now();
    }
    for n in 0..COUNT {
        client.publish_text("in.a", format!("{{\"n\":{n}}}")).unwrap();
        if n % 100 == 50 {
            client.publish_text("in.a", "no JSON").unwrap();
        }
        if n == COUNT / 2 {
            client.flush().unwrap();
            while route(&broker, "fixes")["delivered"].as_u64().unwrap() < 10 {
                std::thread::yield_now();
            }
            primary.kill().unwrap();
            primary.wait().unwrap();
        }
    }
    client.flush().unwrap();
    until(&broker, "fixes", "delivered", COUNT);
    let fixes = route(&broker, "fixes");
    adds_up(&fixes);
    assert_eq!((fixes["dead"].as_u64(), fixes["invalid"].as_u64()), (Some(0), Some(COUNT / 100)), "{fixes}");
    let status = broker.json().ask(r#"{"op":"status"}"#);
    let queues = status["status"]["queues"].as_array().unwrap();
    let depth = |name: &str| {
        queues.iter().find(|queue| queue["queue"] == name).unwrap()["messages"].as_u64().unwrap()
    };
    assert_eq!(depth("invalid"), COUNT / 100);
    // What the primary had when it died is with the backup as well: at least once.
    let seen = usize::try_from(depth("seen")).unwrap();
    assert_eq!(numbers(drain(&client, "seen", seen)), (0..COUNT).collect());
    backup.kill().unwrap();
    backup.wait().unwrap();
}

#[test]
fn a_queue_on_disk_loses_nothing_to_routes_when_the_broker_is_killed() {
    const COUNT: u64 = 500;
    const CONFIG: &str = "
queues: [{name: in, durability: disk}, {name: out, durability: disk}]
routes:
  - {name: r, from: 'queue:in', transform: {rules: [{source: n}]}, deliver: {to: 'queue:out'}}
";
    let _watchdog = Watchdog::start();
    let mut broker = Broker::with_config(CONFIG);
    let client = broker.client("producer");
    for n in 0..COUNT {
        client.push("in", &format!("{{\"n\":{n}}}")).json().send_soon().unwrap();
    }
    // Confirmed, and so are all before it.
    client.push("in", &format!("{{\"n\":{COUNT}}}")).json().confirm().unwrap();
    broker.kill();
    drop(client);
    let broker = broker.again();
    let depth = || {
        let status = broker.json().ask(r#"{"op":"status"}"#);
        let queues = status["status"]["queues"].as_array().unwrap().clone();
        let of = |name: &str| {
            queues.iter().find(|queue| queue["queue"] == name).unwrap()["messages"].as_u64().unwrap()
        };
        (of("in"), of("out"))
    };
    while depth().0 > 0 {
        std::thread::yield_now();
    }
    adds_up(&route(&broker, "r"));
    let there = usize::try_from(depth().1).unwrap();
    let client = broker.client("consumer");
    assert_eq!(numbers(drain(&client, "out", there)), (0..=COUNT).collect());
}

#[test]
fn routes_are_read_again_under_load_and_broken_ones_are_refused_whole() {
    let with = |to: &str| {
        format!(
            "routes:\n  - {{name: r, from: in, when: 'data.n >= 0', transform: {{rules: [{{source: n}}]}}, deliver: {{to: '{to}'}}}}\n"
        )
    };
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(&with("queue:one"));
    let path = broker.home().join("tramline.yaml");
    let stop = Arc::new(AtomicBool::new(false));
    let (client, stopped) = (broker.client("publisher"), stop.clone());
    let publisher = std::thread::spawn(move || {
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            client.publish_text("in", format!("{{\"n\":{count}}}")).unwrap();
            count += 1;
            // As fast as the broker takes it, and no faster: what is too much is refused.
            if count % 100 == 0 {
                client.ping().unwrap();
            }
        }
        client.flush().unwrap();
        count
    });
    for time in 1..=6 {
        let to = if time % 2 == 0 { "queue:one" } else { "queue:two" };
        std::fs::write(&path, with(to)).unwrap();
        broker.signal(rustix::process::Signal::HUP);
        while broker.log().matches("was read again").count() < time {
            std::thread::yield_now();
        }
    }
    std::fs::write(&path, "routes:\n  - {name: r, from: in, when: 'data.n >>= 0'}\n").unwrap();
    broker.signal(rustix::process::Signal::HUP);
    while !broker.log().contains("the configuration stays as it was") {
        std::thread::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    let count = publisher.join().unwrap();
    let refused = || {
        let status = broker.json().ask(r#"{"op":"status"}"#);
        status["status"]["routing"]["refused"].as_u64().unwrap()
    };
    while route(&broker, "r")["delivered"].as_u64().unwrap() + refused() < count {
        std::thread::yield_now();
    }
    let last = route(&broker, "r");
    adds_up(&last);
    assert_eq!(
        last["received"].as_u64().unwrap() + refused(),
        count,
        "none is lost on the way from one to the other"
    );
}

#[test]
fn the_patterns_own_configuration_acts_word_for_word() {
    let _watchdog = Watchdog::start();
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/routes.md")).unwrap();
    let begin = document.find("# integration-pattern-config.yaml").unwrap();
    let length = document[begin..].find("\n```").unwrap();
    let broker = Broker::with_config(&document[begin..begin + length]);
    let client = broker.client("publisher");
    client.publish_text("any.topic", r#"{"field1": "a", "field2": 1.25}"#).unwrap();
    client.publish_text("any.topic", r#"{"field1": 7}"#).unwrap();
    client.flush().unwrap();
    until(&broker, "Sensor fusion", "delivered", 1);
    until(&broker, "Sensor fusion", "invalid", 1);
    let route = route(&broker, "Sensor fusion");
    assert_eq!((&route["strategy"], route["parts"].as_u64()), (&Value::from("round_robin"), Some(1)));
}

#[test]
fn what_is_in_rings_is_taken_as_well() {
    const COUNT: u64 = 5000;
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "routes:\n  - {name: r, from: [in.*, in.a], transform: {rules: [{source: n}]}, deliver: {to: 'queue:q'}}\n",
    );
    let client = broker.client("publisher");
    let mut publisher = client.publisher("in.a").open().unwrap();
    for n in 0..COUNT {
        publisher.send(format!("{{\"n\":{n}}}")).unwrap();
    }
    until(&broker, "r", "delivered", COUNT);
    let there = drain(&broker.client("consumer"), "q", usize::try_from(COUNT).unwrap());
    let order: Vec<u64> = there.into_iter().flat_map(|payload| numbers([payload])).collect();
    assert_eq!(order, (0..COUNT).collect::<Vec<_>>(), "each once, in order");
}

#[test]
fn a_reply_goes_back_as_the_rules_say() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "routes:\n  - {name: r, from: 'service:front', output: payload, transform: {rules: [{source: n}]},\n     \
         reply: {rules: [{source: km, target: miles, transform: 'round(value / 1.609344, 1)', required: true}]},\n     \
         deliver: {to: 'service:back'}}\n",
    );
    let (caller, instance) = (broker.client("caller"), broker.client("instance"));
    let mut requests = instance.service("back").start().unwrap();
    let pending = caller.request("front", br#"{"n": 7, "secret": 1}"#).start().unwrap();
    let request = requests.recv().unwrap();
    assert_eq!(request.payload(), br#"{"n":7}"#);
    request.reply_text(r#"{"km": 100}"#).unwrap();
    assert_eq!(pending.wait().unwrap().payload(), br#"{"miles":62.1}"#);
    let pending = caller.request("front", br#"{"n": 8}"#).start().unwrap();
    requests.recv().unwrap().reply_text("far").unwrap();
    let refused = pending.wait().unwrap_err();
    assert!(
        matches!(&refused, Error::Reply { number: 422, text } if text.contains("route r: ")),
        "{refused}"
    );
    let route = route(&broker, "r");
    adds_up(&route);
    let counts =
        ["delivered", "invalid", "replies", "replies_invalid"].map(|key| route[key].as_u64().unwrap());
    assert_eq!(counts, [2, 0, 2, 1]);
}
