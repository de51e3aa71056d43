//! Queues and dead letters as people read them.

use crate::cli::table::{Table, bytes, text};
use serde_json::Value;
use std::fmt::Write as _;

/// How much of a dead letter's content its row shows, in characters.
const CONTENT_MAX: usize = 40;

fn seconds(row: &Value, key: &str) -> String {
    row[key].as_f64().map(|seconds| format!("{seconds:.1} s")).unwrap_or_default()
}

fn rate(row: &Value, key: &str) -> String {
    row[key].as_f64().map(|rate| format!("{rate:.1}")).unwrap_or_default()
}

fn consumers(queue: &Value) -> &[Value] {
    queue["consumers"].as_array().map_or(&[], Vec::as_slice)
}

/// One line for each queue.
pub(super) fn list(queues: &[Value]) -> Table {
    let columns = [
        "queue",
        ">ready",
        ">delayed",
        ">in flight",
        ">bytes",
        ">oldest",
        ">in/s",
        ">out/s",
        ">consumers",
        ">acked",
        ">dead",
        "",
    ];
    let mut table = Table::new(&columns);
    for queue in queues {
        let [name, ready, delayed, in_flight, acked, dead] =
            ["queue", "ready", "delayed", "in_flight", "acked", "dead_letters"].map(|key| text(queue, key));
        let paused = match (queue["paused"] == true, queue["retiring"] == true) {
            (true, _) => "paused",
            (false, true) => "retiring",
            (false, false) => "",
        };
        table.row([
            name,
            ready,
            delayed,
            in_flight,
            bytes(queue, "bytes"),
            seconds(queue, "oldest_seconds"),
            rate(queue, "pushed_per_second"),
            rate(queue, "delivered_per_second"),
            consumers(queue).len().to_string(),
            acked,
            dead,
            paused.to_owned(),
        ]);
    }
    table
}

/// All about one queue.
pub(super) fn queue(queue: &Value) -> String {
    let mut page = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(page, "{name:<13}{value}");
    };
    line("queue", text(queue, "queue"));
    let bound = queue["bind"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
    if !bound.is_empty() {
        line("bound to", bound.join(", "));
    }
    line("strategy", text(queue, "strategy"));
    line("durability", text(queue, "durability"));
    line("paused", text(queue, "paused"));
    let [messages, most] = ["messages", "messages_max"].map(|key| text(queue, key));
    line("messages", format!("{messages} of {most}; when full: {}", text(queue, "when_full")));
    line("bytes", format!("{} of {}", bytes(queue, "bytes"), bytes(queue, "bytes_max")));
    for (name, key) in [("ready", "ready"), ("delayed", "delayed"), ("in flight", "in_flight")] {
        line(name, text(queue, key));
    }
    line("oldest", seconds(queue, "oldest_seconds"));
    line("dead letters", format!("{} ({})", text(queue, "dead_letters"), bytes(queue, "dead_bytes")));
    let counts = [
        "pushed",
        "duplicates",
        "refused",
        "lost",
        "delivered",
        "acked",
        "nacked",
        "rejected",
        "timed_out",
        "returned",
        "expired",
        "dropped",
        "purged",
        "dead",
        "dead_dropped",
        "replayed",
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|key| queue[**key].as_u64() > Some(0))
        .map(|key| format!("{} {}", text(queue, key), key.replace('_', " ")))
        .collect();
    line("since made", counts.join(", "));
    if !consumers(queue).is_empty() {
        let mut table = Table::new(&["consumer", ">pid", ">session", ">in flight", ">credit", ">delivered"]);
        for consumer in consumers(queue) {
            let keys = ["name", "pid", "session", "in_flight", "credit", "delivered"];
            table.row(keys.map(|key| text(consumer, key)));
        }
        let _ = write!(page, "\n{table}");
    }
    page
}

/// One line for each dead letter.
pub(super) fn dead(letters: &[Value]) -> String {
    let mut table = Table::new(&[">number", "cause", ">attempts", "when", "by", "content"]);
    for letter in letters {
        let [number, cause, attempts, when] =
            ["number", "cause", "attempts", "when"].map(|key| text(letter, key));
        let cause = match text(letter, "reason") {
            reason if reason.is_empty() => cause,
            reason => format!("{cause}: {reason}"),
        };
        let content = ["data", "text", "base64", "preview"]
            .iter()
            .find_map(|key| match &letter[*key] {
                Value::Null => None,
                Value::String(_) => Some(text(letter, key)),
                data => Some(data.to_string()),
            })
            .unwrap_or_default();
        let content = content.chars().take(CONTENT_MAX).collect();
        table.row([number, cause, attempts, when, text(&letter["by"], "name"), content]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pages_show_what_there_is() {
        let jobs = json!({"queue": "jobs", "ready": 3, "in_flight": 1, "bytes": 2048, "oldest_seconds": 1.25,
                          "paused": true, "messages": 4, "messages_max": 10, "acked": 7, "dead_letters": 2,
                          "bind": ["work.>"], "consumers": [{"name": "w\u{1b}", "pid": 5, "in_flight": 1}]});
        let page = list(std::slice::from_ref(&jobs)).to_string();
        assert!(page.contains("2 KiB") && page.contains("1.2 s") && page.contains("paused"), "{page}");
        let page = queue(&jobs);
        assert!(page.contains("4 of 10") && page.contains("work.>") && page.contains("7 acked"), "{page}");
        assert!(page.contains("w?") && !page.contains("refused"), "{page}");
        let letter = json!({"number": 9, "cause": "rejected", "reason": "why", "data": {"n": 1}});
        let page = dead(&[letter]);
        assert!(page.contains("rejected: why") && page.contains("{\"n\":1}"), "{page}");
    }
}
