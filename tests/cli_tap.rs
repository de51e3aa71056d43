//! `tramline route ls`, `route show` and `tap` against a running broker, as a person runs them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use support::{Broker, JsonLines, Watchdog, have, tramline};

const ROUTES: &str = "\
routes:
  - name: fixes
    from: gps.*
    when: data.mode >= 2
    invalid: topic:invalid
    transform: {rules: [{source: lat, target: position.latitude}, {source: pin, required: true}]}
    deliver: {strategy: failover, to: [service:map, queue:late], retries: 1, backoff: {initial: 1ms, max: 1ms}}
  - {name: copies, from: a, deliver: {to: 'topic:b'}}
";

const REPLIES: &str = "\
routes:
  - name: distances
    from: service:distance
    reply: {rules: [{source: km, target: miles, transform: value / 2, required: true}, {source: pin}]}
    deliver: {to: service:metric}
";

fn run(broker: &Broker, words: &[&str]) -> Output {
    let mut command = tramline();
    command.args(words).arg("--socket").arg(broker.socket());
    command.stdin(Stdio::null()).output().unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Publishes as `from` does: what several publish is shown in any order.
fn publish(from: &mut JsonLines, topic: &str, data: &str) {
    let answer = from.ask(&format!(r#"{{"op":"pub","topic":"{topic}","type":"TPV","data":{data}}}"#));
    assert_eq!(answer["ok"], true, "{answer}");
}

/// Waits until a count of a route is this.
fn until(broker: &Broker, route: &str, key: &str, value: u64) {
    loop {
        let shown: Value =
            serde_json::from_str(&out(&run(broker, &["route", "show", route, "--json"]))).unwrap();
        if shown[key].as_u64() == Some(value) {
            return;
        }
    }
}

#[test]
fn the_routes_of_a_running_broker_are_listed_and_shown() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(ROUTES);
    let mut from = broker.json();
    publish(&mut from, "gps.fix", r#"{"mode":3,"lat":1,"pin":2}"#);
    publish(&mut from, "gps.fix", r#"{"mode":3,"lat":1}"#);
    publish(&mut from, "gps.fix", r#"{"mode":0}"#);
    publish(&mut from, "a", "1");
    until(&broker, "fixes", "received", 3);
    until(&broker, "fixes", "delivered", 1);

    let list = out(&run(&broker, &["route", "ls"]));
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1], ["fixes", "gps.*", "3", "1", "0", "1", "0", "1", "0", "2"], "{list}");
    assert_eq!(rows[2], ["copies", "a", "1", "1", "0", "0", "0", "0", "0", "1"], "{list}");
    let all: Value = serde_json::from_str(&out(&run(&broker, &["route", "ls", "--json"]))).unwrap();
    assert_eq!((all.as_array().unwrap().len(), &all[0]["route"]), (2, &"fixes".into()));

    let shown = out(&run(&broker, &["route", "show", "fixes"]));
    assert!(shown.contains("strategy     failover\n"), "{shown}");
    assert!(shown.contains("since start  3 received, 1 passed, 1 invalid, 1 delivered, 1 parts"), "{shown}");
    let of = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert_eq!(
        of("queue:late").split_whitespace().collect::<Vec<_>>()[1..],
        ["healthy", "0", "1", "1", "0", "0"]
    );
    assert!(of("service:map").contains("healthy"), "{shown}");
    let none = run(&broker, &["route", "show", "nothing"]);
    assert_eq!(none.status.code(), Some(65));
    assert!(String::from_utf8_lossy(&none.stderr).contains("there are fixes, copies"));
}

/// `tramline tap`, when it listens.
fn tap(broker: &Broker, filter: &str, words: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command: Command = tramline();
    command.arg("tap").args(words).arg("--socket").arg(broker.socket()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    while !broker.http("/status").contains(&format!("\"filter\": \"{filter}\"")) {
        assert!(child.try_wait().unwrap().is_none(), "tap ended");
    }
    (child, output)
}

#[test]
fn a_route_is_tapped_sampled_and_redacted() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(ROUTES);
    let mut from = broker.json();
    let words = ["route:fixes", "-C", "3", "--redact", "pin"];
    let (mut child, mut lines) = tap(&broker, "$tap.fixes", &words);
    publish(&mut from, "gps.fix", r#"{"mode":3,"lat":1.50,"pin":4711}"#);
    publish(&mut from, "gps.fix", r#"{"mode":3,"lat":1}"#);
    publish(&mut from, "a", "1");
    publish(&mut from, "gps.fix", r#"{"mode":0}"#);
    let mut all = String::new();
    lines.read_to_string(&mut all).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!all.contains("4711"), "{all}");
    let shown: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcomes: Vec<&str> = shown.iter().map(|event| event["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["transformed", "invalid", "passed"]);
    assert_eq!(shown[0]["before"]["pin"], "***");
    assert!(all.contains(r#""lat":1.50"#), "numbers are as they were sent: {all}");
    let made = &shown[0]["after"][0]["transformedData"];
    assert_eq!((&made["position"]["latitude"], &made["pin"]), (&serde_json::json!(1.5), &"***".into()));
    assert_eq!(shown[1]["reason"], "***");

    let (mut child, lines) = tap(&broker, "$tap.fixes", &["route:fixes", "-C", "3", "--sample", "4"]);
    for number in 0..9 {
        publish(&mut from, "gps.fix", &format!(r#"{{"mode":3,"pin":{number}}}"#));
    }
    let pins: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["before"]["pin"].as_u64().unwrap())
        .collect();
    assert_eq!(pins, [0, 4, 8]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn replies_are_shown_with_who_answered_and_sampled_by_themselves() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(REPLIES);
    let mut far = tramline();
    far.args(["reply", "metric", "--echo"]).arg("--socket").arg(broker.socket());
    let mut far = far.stdout(Stdio::null()).spawn().unwrap();
    while !run(&broker, &["req", "metric", "1"]).status.success() {
        assert!(far.try_wait().unwrap().is_none(), "reply ended");
    }
    let words = ["route:distances", "-C", "4", "--sample", "2", "--redact", "pin"];
    let (mut child, mut lines) = tap(&broker, "$tap.distances", &words);
    for request in [r#"{"km":5,"pin":4711}"#, r#"{"km":6}"#, r#"{"far":4711}"#, r#"{"km":7}"#] {
        run(&broker, &["req", "distance", request]);
    }
    let mut all = String::new();
    lines.read_to_string(&mut all).unwrap();
    assert!(child.wait().unwrap().success());
    far.kill().unwrap();
    far.wait().unwrap();
    let shown: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let words: Vec<String> = shown
        .iter()
        .map(|event| format!("{} {} {}", event["outcome"], event["from"], event["destination"]))
        .collect();
    let expected = [
        r#""forwarded" "tramline req" null"#,
        r#""replied" "tramline reply" "service:metric""#,
        r#""forwarded" "tramline req" null"#,
        r#""invalid" "tramline reply" "service:metric""#,
    ];
    assert_eq!(words, expected, "{all}");
    assert_eq!(shown[1]["before"], serde_json::json!({"km": 5, "pin": "***"}));
    assert_eq!(shown[1]["after"], serde_json::json!([{"miles": 2.5, "pin": "***"}]));
    assert_eq!(shown[3]["reason"], "***");
}

#[test]
fn a_filter_is_tapped_as_well_and_what_is_wrong_is_told() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(ROUTES);
    let mut from = broker.json();
    let (mut child, mut lines) = tap(&broker, "b", &["b", "-C", "2", "--redact", "list.*.x"]);
    publish(&mut from, "a", r#"{"list":[{"x":1,"y":2}]}"#);
    publish(&mut from, "b", r#""words""#);
    let mut all = String::new();
    lines.read_to_string(&mut all).unwrap();
    assert!(child.wait().unwrap().success());
    let first = r#"{"topic":"b","type":"TPV","from":"tramline","before":{"list":[{"y":2}]}}"#;
    assert_eq!(all.lines().next(), Some(first));
    // A text may hold anything.
    assert!(all.lines().nth(1).unwrap().contains(r#""before":"***""#), "{all}");

    assert_eq!(run(&broker, &["tap", "a..b"]).status.code(), Some(64));
    assert_eq!(run(&broker, &["tap", "a", "--redact", "a..b"]).status.code(), Some(64));
    assert_eq!(run(&broker, &["tap", "a", "-W", "0.05"]).status.code(), Some(124));
}

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics_of_routes() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(ROUTES);
    let mut from = broker.json();
    publish(&mut from, "a", "1");
    let body = broker.http("/metrics");
    let body = body.split_once("\r\n\r\n").map_or(body.as_str(), |(_, body)| body);
    assert!(body.contains("tramline_route_delivered_messages_total{route=\"copies\"} 1\n"), "{body}");
    if !have("promtool") {
        return;
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), body.as_bytes()).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    let said = [verdict.stdout, verdict.stderr].concat();
    assert!(verdict.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
