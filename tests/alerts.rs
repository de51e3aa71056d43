//! The alerts that are shipped: the real promtool takes them, they tell of what they say, and of metrics that there are.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::process::Command;
use support::have;

const ALERTS: &str = include_str!("../config/prometheus/alerts.yaml");
const CASES: &str = include_str!("alerts.test.yaml");

#[test]
fn promtool_takes_the_alerts_and_they_tell_of_what_they_say() {
    if !have("promtool") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("alerts.yaml"), ALERTS).unwrap();
    std::fs::write(home.path().join("alerts.test.yaml"), CASES).unwrap();
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(home.path()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}

/// What begins with `tramline_` in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let is_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    text.split(|letter| !is_name(letter)).filter(|word| word.starts_with("tramline_")).collect()
}

/// Which metrics there are, another test holds the document to.
#[test]
fn every_metric_of_an_alert_is_one() {
    let document = include_str!("../docs/http.md");
    let known = names(document);
    for name in names(ALERTS) {
        let of_histogram = ["_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let histogram =
            of_histogram.is_some_and(|name| document.contains(&format!("| `{name}` | histogram |")));
        assert!(histogram || known.contains(name), "there is no metric {name}");
    }
    assert!(names(ALERTS).len() > 15);
}

/// An alert is found in the document by its name.
#[test]
fn every_alert_stands_in_the_document() {
    let document = include_str!("../docs/http.md");
    let alerts = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let missing: Vec<&str> = alerts.filter(|alert| !document.contains(&format!("| `{alert}` |"))).collect();
    assert!(missing.is_empty(), "docs/http.md does not tell of {missing:?}");
}
