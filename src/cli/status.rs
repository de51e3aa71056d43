//! `tramline status`: what the broker is and does now, as tables or as the broker's own JSON.
//!
//! It asks as `curl` would, by HTTP on the broker's socket, so that it is no session in what it shows.

use super::Failure;
use super::connect::Socket;
use super::output::Output;
use super::table::{Table, bytes, text};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the broker may take to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Shows what the broker is and does.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tramline status\n  tramline status --json | jq '.streams[].readers'\n  \
    curl --unix-socket \"$(tramline status --path)\" http://localhost/metrics"
)]
pub(super) struct Status {
    #[command(flatten)]
    socket: Socket,
    /// Print the broker's answer as it is
    #[arg(long, conflicts_with = "path")]
    json: bool,
    /// Print the path of the broker's socket and nothing else
    #[arg(long)]
    path: bool,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.path {
            let (_, path) = self.socket.stream()?;
            let mut output = Output::new();
            output.write(path.as_os_str().as_bytes())?;
            output.write(b"\n")?;
            return output.flush();
        }
        let (answer, path) = answer(&self.socket)?;
        let body = body_of(&answer, &path)?;
        let mut output = Output::new();
        if self.json {
            output.write(body)?;
        } else {
            output.write(page(&parsed(body)?, &path).as_bytes())?;
        }
        output.flush()
    }
}

/// The status of a running broker.
pub(super) fn ask(socket: &Socket) -> Result<Value, Failure> {
    let (answer, path) = answer(socket)?;
    parsed(body_of(&answer, &path)?)
}

fn answer(socket: &Socket) -> Result<(Vec<u8>, PathBuf), Failure> {
    let (mut stream, path) = socket.stream()?;
    let failure = |error: std::io::Error| Failure::unavailable(format!("{}: {error}", path.display()));
    stream.set_read_timeout(Some(ANSWER_WAIT_MAX)).map_err(failure)?;
    stream.set_write_timeout(Some(ANSWER_WAIT_MAX)).map_err(failure)?;
    // HTTP 1.0: the answer ends with the connection and comes in one piece.
    stream.write_all(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n").map_err(failure)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(failure)?;
    Ok((answer, path))
}

fn body_of<'a>(answer: &'a [u8], path: &Path) -> Result<&'a [u8], Failure> {
    body(answer).map_err(|fault| Failure::unavailable(format!("{}: {fault}", path.display())))
}

fn parsed(body: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::software(format!("the broker's answer is not JSON: {error}")))
}

/// The body of a successful HTTP answer.
fn body(answer: &[u8]) -> Result<&[u8], String> {
    const BLANK: &[u8] = b"\r\n\r\n";
    let end = answer.windows(BLANK.len()).position(|window| window == BLANK);
    let Some(end) = end else {
        return Err(format!("the answer of {} bytes is no HTTP; is this a broker's socket?", answer.len()));
    };
    let body = &answer[end + BLANK.len()..];
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut words = head.lines().next().unwrap_or_default().splitn(3, ' ');
    match (words.next().is_some_and(|word| word.starts_with("HTTP/")), words.next()) {
        (true, Some("200")) => Ok(body),
        (true, Some(code)) => Err(format!("answered {code}: {}", String::from_utf8_lossy(body).trim())),
        _ => Err("the answer is no HTTP; is this a broker's socket?".into()),
    }
}

fn page(status: &Value, path: &Path) -> String {
    let mut page = format!(
        "broker   {}, up {}\nsocket   {}\n",
        text(status, "version"),
        uptime(status["uptime_seconds"].as_f64().unwrap_or(0.0)),
        path.display()
    );
    let totals = &status["totals"];
    let _ = writeln!(
        page,
        "total    {} messages ({}) in, {} ({}) out, {} lost, {} ({}) through rings",
        text(totals, "messages_in"),
        bytes(totals, "bytes_in"),
        text(totals, "messages_out"),
        bytes(totals, "bytes_out"),
        text(totals, "lost"),
        text(&totals["rings"], "messages"),
        bytes(&totals["rings"], "bytes"),
    );
    section(&mut page, "clients", clients(rows(status, "clients")));
    section(&mut page, "topics", topics(rows(status, "topics")));
    section(&mut page, "streams", streams(rows(status, "streams")));
    section(&mut page, "kept of publishers that have gone", retained(rows(status, "retained")));
    section(&mut page, "subscriptions", subscriptions(rows(status, "subscriptions")));
    section(&mut page, "queues", super::queue::table(rows(status, "queues")));
    section(&mut page, "services", services(rows(status, "services")));
    section(&mut page, "limits in use", limits(rows(status, "limits")));
    page
}

fn section(page: &mut String, title: &str, table: Table) {
    if !table.is_empty() {
        let _ = writeln!(page, "\n{title}");
        for line in table.to_string().lines() {
            let _ = writeln!(page, "  {line}");
        }
    }
}

fn clients(rows: &[Value]) -> Table {
    let mut table = Table::new(&["name", ">pid", ">uid", "language", ">in", ">out", ">lost", ">waiting"]);
    for row in rows {
        let traffic = if row["traffic"].is_object() { &row["traffic"] } else { row };
        let [taken, given, lost] = ["messages_in", "messages_out", "lost"].map(|key| text(traffic, key));
        let [name, pid, uid, language] = ["name", "pid", "uid", "language"].map(|key| text(row, key));
        table.row([name, pid, uid, language, taken, given, lost, bytes(row, "outbox_bytes")]);
    }
    table
}

fn topics(rows: &[Value]) -> Table {
    let mut table = Table::new(&["topic", ">messages", ">bytes", ">in rings", ">streams", ">subscriptions"]);
    for row in rows {
        let [topic, messages, streams, subscriptions] =
            ["topic", "messages", "streams", "subscriptions"].map(|key| text(row, key));
        let in_rings = text(&row["rings"], "messages");
        table.row([topic, messages, bytes(row, "bytes"), in_rings, streams, subscriptions]);
    }
    table
}

fn streams(rows: &[Value]) -> Table {
    let columns = [
        "topic",
        "publisher",
        ">memory",
        ">messages",
        ">per second",
        ">dropped",
        "reader",
        "mode",
        ">lag",
        ">lost",
    ];
    let mut table = Table::new(&columns);
    for row in rows {
        let ring = &row["ring"];
        let [topic, publisher] = ["topic", "name"].map(|key| text(row, key));
        let rate = ring["messages_per_second"].as_f64().map(|rate| format!("{rate:.1}")).unwrap_or_default();
        let first = [
            topic,
            publisher,
            bytes(row, "memory_bytes"),
            text(ring, "messages"),
            rate,
            text(ring, "dropped"),
        ];
        let readers = row["readers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if readers.is_empty() {
            table.row(first.clone());
        }
        for (place, reader) in readers.iter().enumerate() {
            let first = if place == 0 { first.clone() } else { std::array::from_fn(|_| String::new()) };
            let [name, mode, lag, lost] = ["name", "mode", "lag", "lost"].map(|key| text(reader, key));
            let name =
                if reader["proxy"] == Value::Bool(true) { format!("{name} (by socket)") } else { name };
            table.row(first.into_iter().chain([name, mode, lag, lost]));
        }
    }
    table
}

fn retained(rows: &[Value]) -> Table {
    let mut table = Table::new(&["topic", "publisher", ">uid", ">messages", ">last", ">memory"]);
    for row in rows {
        let [topic, publisher, uid, messages, last] =
            ["topic", "name", "uid", "messages", "last_seq"].map(|key| text(row, key));
        table.row([topic, publisher, uid, messages, last, bytes(row, "memory_bytes")]);
    }
    table
}

fn subscriptions(rows: &[Value]) -> Table {
    let columns = ["filter", ">session", "mode", ">by socket", ">lost", ">queued", ">streams"];
    let mut table = Table::new(&columns);
    for row in rows {
        let [filter, session, mode, messages, lost, streams] =
            ["filter", "session", "mode", "messages", "lost", "streams"].map(|key| text(row, key));
        table.row([filter, session, mode, messages, lost, bytes(row, "backlog_bytes"), streams]);
    }
    table
}

fn services(rows: &[Value]) -> Table {
    let columns = [
        "service",
        ">instances",
        ">requests",
        ">replies",
        ">errors",
        ">unanswered",
        ">now",
        ">waiting",
        "left out",
    ];
    let mut table = Table::new(&columns);
    for row in rows {
        let [service, requests, replies, errors, unanswered, outstanding, waiting] =
            ["service", "requests", "replies", "errors", "unanswered", "outstanding", "waiting"]
                .map(|key| text(row, key));
        let instances = row["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
        let out: Vec<String> = instances
            .iter()
            .filter(|instance| instance["state"] == "ejected" || instance["state"] == "trial")
            .map(|instance| format!("{} (pid {})", text(instance, "name"), text(instance, "pid")))
            .collect();
        let count = instances.len().to_string();
        table.row([
            service,
            count,
            requests,
            replies,
            errors,
            unanswered,
            outstanding,
            waiting,
            out.join(", "),
        ]);
    }
    table
}

fn limits(rows: &[Value]) -> Table {
    let mut table = Table::new(&["limit", ">used", ">of"]);
    for row in rows.iter().filter(|row| row["used"].as_u64().is_some()) {
        let in_bytes = row["name"].as_str().is_some_and(|name| name.contains("bytes"));
        let show = |key| if in_bytes { bytes(row, key) } else { text(row, key) };
        table.row([text(row, "name"), show("used"), show("value")]);
    }
    table
}

fn rows<'a>(status: &'a Value, key: &str) -> &'a [Value] {
    status[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn uptime(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart_and_a_refusal_told() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{}").unwrap(), b"{}");
        assert_eq!(body(b"HTTP/1.1 503 No\r\n\r\nstopping\n").unwrap_err(), "answered 503: stopping");
        assert!(body(b"{\"op\":\"close\"}\n").is_err() && body(b"x\r\n\r\n").is_err() && body(b"").is_err());
    }

    #[test]
    fn a_page_shows_readers_below_their_stream_and_only_limits_in_use() {
        let status = serde_json::json!({
            "version": "0.1.0", "uptime_seconds": 3725.0,
            "totals": {"messages_in": 3, "bytes_in": 2048, "messages_out": 6, "bytes_out": 0, "lost": 1,
                "rings": {"messages": 44, "bytes": 1024}},
            "topics": [{"topic": "cam", "messages": 3, "bytes": 2048, "rings": {"messages": 43}, "streams": 1, "subscriptions": 2}],
            "streams": [{"topic": "cam", "name": "eye\u{1b}", "memory_bytes": 8388608,
                "ring": {"messages": 5, "messages_per_second": 2.5, "dropped": 0},
                "readers": [{"name": "a", "mode": "gated", "lag": 1, "lost": 0},
                            {"name": "b", "mode": "lossy", "lag": 0, "lost": 2, "proxy": true}]}],
            "retained": [{"topic": "map", "name": "gone", "uid": 7, "messages": 3, "last_seq": 41, "memory_bytes": 16384}],
            "limits": [{"name": "ring_bytes_max", "value": 1048576, "used": 1024}, {"name": "x", "value": 1, "used": null}],
        });
        let page = page(&status, Path::new("/run/x.sock"));
        for part in [
            "up 1 h 2 min",
            "/run/x.sock",
            "3 messages (2 KiB) in",
            "44 (1 KiB) through rings",
            "2 KiB        43",
            "eye?",
            "b (by socket)",
            "41  16 KiB",
            "1 KiB  1 MiB",
        ] {
            assert!(page.contains(part), "{part:?} is not in\n{page}");
        }
        assert!(!page.contains("clients") && !page.contains("\u{1b}"));
    }

    #[test]
    fn times_have_two_parts_at_most() {
        assert_eq!([5.2, 65.0, 7260.0, 90_000.0].map(uptime), ["5 s", "1 min 5 s", "2 h 1 min", "1 d 1 h"]);
    }
}
