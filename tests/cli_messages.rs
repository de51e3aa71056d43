//! `tramline pub` and `tramline sub` as people use them: what goes in comes out byte for byte, and every end has
//! its exit code.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use support::{Broker, tramline};

/// What is published until the subscriber is there; it is not a line of any capture.
const PROBE: &str = "probe of a subscription";

/// A command for this broker.
fn command(broker: &Broker, words: &[&str]) -> Command {
    let mut command = tramline();
    command.args(words).arg("--socket").arg(broker.socket());
    command
}

/// Runs a command to its end.
fn run(broker: &Broker, words: &[&str]) -> Output {
    command(broker, words).output().unwrap()
}

/// Starts `tramline sub` with its output in a pipe.
fn subscribe(broker: &Broker, words: &[&str]) -> Child {
    command(broker, words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Publishes probes until `subscriptions` of them are served: from then on nothing is missed. A subscription gets
/// one probe or more, depending on when it came.
fn wait_for(broker: &Broker, topic: &str, subscriptions: u32) {
    let expected = format!("subscriptions: {subscriptions}\n");
    loop {
        let published = run(broker, &["pub", topic, PROBE, "--confirm"]);
        assert!(published.status.success(), "{published:?}");
        if String::from_utf8_lossy(&published.stdout) == expected {
            return;
        }
    }
}

/// `tramline pub -l` with this as standard input.
fn publish_lines(broker: &Broker, topic: &str, input: &[u8]) {
    let mut publisher = command(broker, &["pub", "-l", topic]).stdin(Stdio::piped()).spawn().unwrap();
    publisher.stdin.take().unwrap().write_all(input).unwrap();
    assert!(publisher.wait().unwrap().success());
}

fn lines(capture: &[u8]) -> Vec<&[u8]> {
    capture.strip_suffix(b"\n").unwrap_or(capture).split(|byte| *byte == b'\n').collect()
}

/// The capture that comes with the program, real ones where they are at hand, and one of awkward lines.
fn captures() -> Vec<(PathBuf, Vec<u8>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("src/cli/demo/capture.nmea")];
    let folders = std::env::var_os("TRAMLINE_CAPTURES").unwrap_or_default();
    for folder in std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty()) {
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let mut found: Vec<_> =
        paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    let awkward =
        b"\r\n\n  {\"a\": 1}\r\n{\"b\":1.50}\n\xb5\x62\x00\x01\xff\n\"\xfe\"\nno line feed at the end"
            .to_vec();
    found.push((PathBuf::from("awkward lines"), awkward));
    found
}

#[test]
fn every_line_of_a_capture_arrives_byte_for_byte() {
    for (path, capture) in captures() {
        let broker = Broker::start();
        let count = (lines(&capture).len() + 1).to_string();
        let subscriber =
            subscribe(&broker, &["sub", "gps.>", "--reliable", "--format", "text", "-C", &count]);
        wait_for(&broker, "gps.nmea", 1);
        publish_lines(&broker, "gps.nmea", &capture);
        let output = subscriber.wait_with_output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", path.display());
        let mut expected = format!("{PROBE}\n").into_bytes();
        expected.extend_from_slice(capture.strip_suffix(b"\n").unwrap_or(&capture));
        expected.push(b'\n');
        let differs = output.stdout.iter().zip(&expected).position(|(got, due)| got != due);
        assert!(output.stdout == expected, "{} differs at byte {differs:?}", path.display());
    }
}

/// What is looked at of a JSON line.
#[derive(Deserialize)]
struct Line<'a> {
    op: &'a str,
    topic: String,
    seq: u64,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<&'a str>,
}

#[test]
fn json_records_appear_in_json_lines_exactly_as_written() {
    for (path, capture) in captures() {
        let broker = Broker::start();
        let sent = lines(&capture);
        let count = (sent.len() + 1).to_string();
        let subscriber = subscribe(&broker, &["sub", "gps.nmea", "--reliable", "-C", &count]);
        wait_for(&broker, "gps.nmea", 1);
        publish_lines(&broker, "gps.nmea", &capture);
        let output = subscriber.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        let received: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(received.len(), sent.len(), "{}", path.display());
        let mut records = 0;
        for (line, (number, sent)) in received.into_iter().zip((1..).zip(sent)) {
            let line: Line<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!((line.op, line.topic.as_str(), line.seq), ("msg", "gps.nmea", number));
            match (line.data, line.text, line.base64) {
                (Some(json), None, None) => {
                    // The carriage return of a line that ended in both is white space after the record.
                    assert_eq!(json.get().as_bytes(), sent.strip_suffix(b"\r").unwrap_or(sent));
                    records += 1;
                }
                (None, Some(text), None) => assert_eq!(text.as_bytes(), sent),
                (None, None, Some(_)) => assert!(std::str::from_utf8(sent).is_err(), "{sent:?} is text"),
                other => panic!("{other:?} for {sent:?}"),
            }
        }
        assert!(records > 0 || path.ends_with("COPYING") || path.ends_with("ublox-zed-f9p_hpg1.11.log"));
    }
}

#[test]
fn a_message_carries_its_type_headers_and_encoding() {
    let broker = Broker::start();
    let subscriber = subscribe(&broker, &["sub", "a.b", "-C", "3", "--reliable"]);
    wait_for(&broker, "a.b", 1);
    let words = ["pub", "a.b", "{\"x\":1.0}", "--type", "fix", "--header", "unit=deg", "--header", "e=a=b"];
    assert!(run(&broker, &words).status.success());
    assert!(run(&broker, &["pub", "a.b", "{}", "--encoding", "text"]).status.success());
    let output = subscriber.wait_with_output().unwrap();
    let lines: Vec<serde_json::Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    assert_eq!(lines[1]["type"], "fix");
    assert_eq!(lines[1]["headers"], serde_json::json!({"unit": "deg", "e": "a=b"}));
    assert_eq!(lines[1]["from"]["name"], "tramline pub");
    assert_eq!(lines[2]["text"], "{}");
}

#[test]
fn a_file_is_one_message_however_large() {
    let broker = Broker::start();
    let file = broker.home().join("frame");
    let frame: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&file, &frame).unwrap();
    let subscriber = subscribe(&broker, &["sub", "cam", "-C", "2", "--format", "raw", "--reliable"]);
    wait_for(&broker, "cam", 1);
    let published = run(&broker, &["pub", "cam", "-f", file.to_str().unwrap()]);
    assert!(published.status.success(), "{published:?}");
    let output = subscriber.wait_with_output().unwrap();
    assert!(output.stdout == [PROBE.as_bytes(), &frame].concat(), "{} bytes arrived", output.stdout.len());
}

#[test]
fn several_filters_are_shown_together() {
    let broker = Broker::start();
    let subscriber = subscribe(&broker, &["sub", "a.*", "b", "--format", "text", "-C", "4", "--reliable"]);
    wait_for(&broker, "a.x", 1);
    wait_for(&broker, "b", 1);
    assert!(run(&broker, &["pub", "a.x", "1"]).status.success());
    assert!(run(&broker, &["pub", "b", "2"]).status.success());
    let output = subscriber.wait_with_output().unwrap();
    let mut shown: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    shown.sort_unstable();
    assert_eq!(shown, ["1", "2", PROBE, PROBE]);
}

#[test]
fn count_and_rate_hold() {
    let broker = Broker::start();
    let subscriber = subscribe(&broker, &["sub", "t", "-C", "6", "--format", "text", "--reliable"]);
    wait_for(&broker, "t", 1);
    let began = std::time::Instant::now();
    assert!(run(&broker, &["pub", "t", "x", "--count", "5", "--rate", "50"]).status.success());
    // The first leaves at once, the other four 20 ms apart.
    assert!(began.elapsed().as_millis() >= 80);
    let output = subscriber.wait_with_output().unwrap();
    assert_eq!(output.stdout, format!("{PROBE}\nx\nx\nx\nx\nx\n").into_bytes());
}

#[test]
fn every_end_has_its_exit_code() {
    let broker = Broker::start();
    let code = |words: &[&str]| run(&broker, words).status.code();
    assert_eq!(code(&["sub", "quiet", "-W", "0.05"]), Some(124));
    assert_eq!(code(&["pub", "a..b", "x"]), Some(64));
    assert_eq!(code(&["sub", "a.>.b"]), Some(64));
    assert_eq!(code(&["pub", "a"]), Some(64), "neither message nor file nor lines");
    assert_eq!(code(&["pub", "a", "x", "-l"]), Some(64), "both message and lines");
    assert_eq!(code(&["pub", "a", "{", "--encoding", "json"]), Some(65));
    assert_eq!(code(&["pub", "a", "-f", "/no/such/file"]), Some(66));
    assert_eq!(code(&["pub", "$tramline.x", "y"]), Some(77), "the broker's own topics");
    assert_eq!(tramline().args(["man", "/dev/null/no"]).status().unwrap().code(), Some(73));
    let nobody = broker.home().join("nobody.sock");
    let output = tramline().args(["status", "--socket"]).arg(nobody).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("nobody.sock") && said.contains("tramline serve"), "{said}");
}

#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let broker = Broker::start();
    let mut subscriber = subscribe(&broker, &["sub", "t", "--format", "text", "--reliable"]);
    wait_for(&broker, "t", 1);
    drop(subscriber.stdout.take());
    // It notices when it has something to write.
    while subscriber.try_wait().unwrap().is_none() {
        assert!(run(&broker, &["pub", "t", "x"]).status.success());
    }
    let mut said = String::new();
    subscriber.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((subscriber.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn status_shows_the_socket_and_who_is_there() {
    let broker = Broker::start();
    let mut subscriber = subscribe(&broker, &["sub", "gps.>"]);
    wait_for(&broker, "gps.fix", 1);
    let page = String::from_utf8(run(&broker, &["status"]).stdout).unwrap();
    assert!(page.contains(broker.socket().to_str().unwrap()), "{page}");
    assert!(page.contains("tramline sub") && page.contains("gps.>") && page.contains("gps.fix"), "{page}");
    let json: serde_json::Value =
        serde_json::from_slice(&run(&broker, &["status", "--json"]).stdout).unwrap();
    assert_eq!(json["clients"][0]["name"], "tramline sub");
    assert_eq!(json["clients"][0]["pid"], subscriber.id());
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
}

#[test]
fn completions_and_manual_pages_are_generated() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = tramline().args(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("reliable") && !script.contains("relay-turns"), "{shell}");
    }
    assert!(tramline().arg("man").arg(home.path()).status().unwrap().success());
    for page in ["tramline.1", "tramline-pub.1", "tramline-sub.1", "tramline-bench.1", "tramline-demo.1"] {
        let text =
            std::fs::read_to_string(home.path().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME"), "{page}");
    }
    assert!(!home.path().join("tramline-role.1").exists());
    for command in ["serve", "pub", "sub", "status", "bench", "demo", "completions", "man"] {
        let help = String::from_utf8(tramline().args([command, "--help"]).output().unwrap().stdout).unwrap();
        assert!(help.contains("Example"), "{command} --help shows no example");
    }
}
