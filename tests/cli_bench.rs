//! `tramline bench`: processes of their own, counts at the receivers, ratios to limits of the same run.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use support::{Broker, tramline};

fn bench(words: &[&str]) -> Value {
    let home = tempfile::tempdir().unwrap();
    let mut command = tramline();
    command.arg("bench").args(words).args(["--json", "--rounds", "1"]).env("TMPDIR", home.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    assert!(std::fs::read_dir(home.path()).unwrap().next().is_none(), "something is left behind");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn measurements(report: &Value) -> &[Value] {
    report["measurements"].as_array().unwrap()
}

fn assert_ratios(measurement: &Value) {
    let ratios = measurement["ratios"].as_array().unwrap();
    assert!(!ratios.is_empty(), "{measurement}");
    for ratio in ratios {
        assert!(ratio["ratio"].as_f64().unwrap() > 0.0, "{measurement}");
    }
}

#[test]
fn latency_is_measured_beside_its_limits() {
    let report = bench(&["latency", "--duration", "0.05"]);
    let limits: Vec<&str> =
        report["baselines"].as_array().unwrap().iter().map(|limit| limit["kind"].as_str().unwrap()).collect();
    for limit in ["unix_ping_pong", "relay_ping_pong", "unix_stream", "relay_stream", "memcpy"] {
        assert!(limits.contains(&limit), "{limits:?}");
    }
    for limit in report["baselines"].as_array().unwrap() {
        assert!(limit["value"].as_f64().unwrap() > 0.0, "{limit}");
    }
    // Three paths, free and on one core.
    assert_eq!(measurements(&report).len(), 6);
    for measurement in measurements(&report) {
        let received = measurement["received"].as_array().unwrap();
        assert_eq!(measurement["sent"], received[0]);
        assert_eq!(measurement["correct"], true);
        let latency = &measurement["latency"];
        assert!(latency["p50"].as_u64().unwrap() > 0);
        assert!(latency["p50"].as_u64() <= latency["p99"].as_u64());
        assert!(latency["p99"].as_u64() <= latency["max"].as_u64());
        assert_ratios(measurement);
    }
}

#[test]
fn gated_receivers_count_all_that_was_sent() {
    let words = ["throughput", "--duration", "0.05", "--size", "64,1MiB", "--readers", "1,2"];
    let report = bench(&words);
    // The larger size travels in rings only, filled there and copied in; the smaller one by queue to one as well.
    assert_eq!(measurements(&report).len(), 9);
    for measurement in measurements(&report) {
        let received = measurement["received"].as_array().unwrap();
        assert_eq!(received.len() as u64, measurement["readers"].as_u64().unwrap());
        assert!(received.iter().all(|count| *count == measurement["sent"]), "{measurement}");
        assert!(measurement["lost"].as_array().unwrap().iter().all(|count| *count == 0), "{measurement}");
        assert_eq!(measurement["correct"], true);
        let copied = measurement["copied"] == true;
        assert_eq!(measurement["in_place"], measurement["bytes"] == 1 << 20 && !copied);
        // A queue is compared with the plain path beside it, among the goals.
        if measurement["path"] != "queue" {
            assert_ratios(measurement);
        }
    }
    // With what was measured comes what must be reached, met or not.
    let goals = report["goals"].as_array().unwrap();
    assert!(goals.iter().any(|goal| goal["at_least"] == true), "{goals:?}");
    for goal in goals {
        assert!(goal["reached"].as_f64().unwrap() > 0.0 && goal["met"].is_boolean(), "{goal}");
    }
}

#[test]
fn at_a_rate_every_message_is_timed_from_when_it_was_due() {
    let broker = Broker::start();
    let socket = broker.socket().to_str().unwrap();
    let words = [
        "latency",
        "--duration",
        "0.2",
        "--rate",
        "500",
        "--path",
        "socket",
        "--pin",
        "none",
        "--socket",
        socket,
    ];
    let report = bench(&words);
    let [measurement] = measurements(&report) else { panic!("{report}") };
    // 500 a second for 0.2 seconds, and the one that says it is over.
    assert_eq!(measurement["sent"], 101);
    assert_eq!(measurement["received"], serde_json::json!([101]));
    assert_eq!(measurement["latency"]["count"], 100);
    assert_eq!(measurement["ratios"], serde_json::json!([]));
}

#[test]
fn a_queue_on_disk_is_measured_beside_its_disk() {
    let report = bench(&["disk", "--duration", "0.2"]);
    let on_disk = &report["on_disk"];
    for key in ["confirmed", "group", "synced_each", "synced_groups"] {
        assert!(on_disk[key].as_f64().unwrap() > 0.0, "{on_disk}");
    }
    let goals = report["goals"].as_array().unwrap();
    assert_eq!(goals.len(), 2, "{goals:?}");
    assert_eq!(
        goals[1]["reached"],
        on_disk["confirmed"].as_f64().unwrap() / on_disk["synced_groups"].as_f64().unwrap()
    );
}

#[test]
fn lossy_receivers_know_what_they_missed() {
    let words = ["throughput", "--duration", "0.05", "--size", "64", "--lossy", "--untouched"];
    for measurement in measurements(&bench(&words)) {
        let number = |key: &str| measurement[key][0].as_u64().unwrap();
        assert_eq!(number("received") + number("lost"), measurement["sent"].as_u64().unwrap());
        assert_eq!(measurement["untouched"], true);
    }
}

#[test]
fn impossible_arguments_are_refused() {
    for words in [
        &["--size", "15"][..],
        &["--readers", "0"],
        &["--rate", "0"],
        &["--duration", "0"],
        &["--rounds", "0"],
    ] {
        let output = tramline().arg("bench").args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{words:?}");
    }
}
