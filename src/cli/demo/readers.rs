//! The reading processes of the demonstration: a program that links the client, and one that knows only
//! sockets and JSON, as `socat` does.

use super::capture::Proof;
use super::publishers::CAMERA;
use super::report::Account;
use crate::cli::Failure;
use crate::cli::clock::monotonic_nanos;
use crate::cli::histogram::Latencies;
use crate::cli::role::{READY, say};
use crate::json::time::parse_rfc3339;
use base64::Engine;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tramline_client::{Client, Subscription};

/// All topics of the replayed receiver.
const LINES: &str = "gps.>";
/// Longest line that a JSON subscriber may get, in bytes: the longest payload as base64, and the rest.
const JSON_LINE_BYTES_MAX: u64 = 1 << 20;

/// Reads lines and frames, each in a thread of its own, until all have come.
pub(super) fn native(socket: &Path, line_count: u64, frame_count: u64) -> Result<[Account; 2], Failure> {
    let client = Client::builder().name("native reader").socket(socket).reconnect(false).connect()?;
    let lines = client.subscription(LINES).gated().open()?;
    let frames = client.subscription(CAMERA).gated().open()?;
    say(READY)?;
    std::thread::scope(|scope| {
        let lines = scope.spawn(|| read(lines, line_count));
        let frames = read(frames, frame_count)?;
        let lines = lines.join().map_err(|_| Failure::software("the reader of lines panicked"))??;
        Ok([lines, frames])
    })
}

fn read(mut subscription: Subscription, count: u64) -> Result<Account, Failure> {
    let (mut proof, mut latencies, mut account) = (Proof::default(), Latencies::new(), Account::default());
    let mut left = count;
    while left > 0 {
        let message = subscription.recv()?;
        latencies.record(monotonic_nanos().saturating_sub(message.time()));
        account.lost += message.lost_before();
        account.in_place += u64::from(message.in_place());
        proof.add(message.topic(), message.payload());
        left = left.saturating_sub(1 + message.lost_before());
    }
    account.sums = proof.finish();
    account.latencies = latencies.counts();
    Ok(account)
}

/// What a JSON subscriber sees of a line from the broker.
#[derive(Debug, Deserialize)]
struct Line<'a> {
    #[serde(default)]
    op: &'a str,
    ok: Option<bool>,
    #[serde(default)]
    topic: String,
    time: Option<&'a str>,
    lost: Option<u64>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<String>,
}

/// Reads lines as JSON over the bare socket until all have come.
pub(super) fn json(socket: &Path, count: u64) -> Result<Account, Failure> {
    let lost_socket = |error: std::io::Error| Failure::unavailable(format!("{}: {error}", socket.display()));
    let mut stream = UnixStream::connect(socket).map_err(lost_socket)?;
    let request = format!("{{\"op\":\"sub\",\"topic\":\"{LINES}\",\"reliable\":true,\"id\":1}}\n");
    stream.write_all(request.as_bytes()).map_err(lost_socket)?;
    let mut stream = BufReader::new(stream);
    let (mut proof, mut latencies, mut account) = (Proof::default(), Latencies::new(), Account::default());
    let (mut text, mut left) = (String::new(), count);
    while left > 0 {
        text.clear();
        let got = std::io::Read::take(&mut stream, JSON_LINE_BYTES_MAX)
            .read_line(&mut text)
            .map_err(lost_socket)?;
        if got == 0 {
            return Err(Failure::unavailable("the broker closed the connection of the JSON reader"));
        }
        let strange = |why: &str| Failure::software(format!("the broker said {:?}: {why}", text.trim_end()));
        let line: Line<'_> = serde_json::from_str(&text).map_err(|error| strange(&error.to_string()))?;
        match (line.op, line.ok) {
            ("sub", Some(true)) => say(READY)?,
            ("gap", _) => {
                let lost = line.lost.ok_or_else(|| strange("a gap of unknown length"))?;
                account.lost += lost;
                left = left.saturating_sub(lost);
            }
            ("msg", _) => {
                latencies.record(age(line.time).ok_or_else(|| strange("no time"))?);
                let payload = payload(&line, &text).ok_or_else(|| strange("no whole payload"))?;
                proof.add(&line.topic, &payload);
                left -= 1;
            }
            _ => return Err(strange("unexpected")),
        }
    }
    account.sums = proof.finish();
    account.latencies = latencies.counts();
    Ok(account)
}

/// The payload's bytes as they were published. `data` is the last member of its line, so what stands between
/// the value and the end of the line is white space that belongs to the payload.
fn payload(line: &Line<'_>, whole: &str) -> Option<Vec<u8>> {
    match (line.data, &line.text, &line.base64) {
        (Some(json), None, None) => {
            let value = json.get();
            let after = value.as_ptr().addr() - whole.as_ptr().addr() + value.len();
            let space = whole.get(after..)?.strip_suffix("}\n")?;
            Some([value, space].concat().into_bytes())
        }
        (None, Some(text), None) => Some(text.as_bytes().to_vec()),
        (None, None, Some(base64)) => base64::engine::general_purpose::STANDARD.decode(base64).ok(),
        _ => None,
    }
}

/// Nanoseconds since a moment of wall-clock time.
fn age(time: Option<&str>) -> Option<u64> {
    let then = u128::try_from(parse_rfc3339(time?).ok()?).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos();
    u64::try_from(now.saturating_sub(then)).ok()
}
