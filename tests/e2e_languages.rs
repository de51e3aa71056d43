//! One broker, three languages, real programs: `socat` and `curl` beside native clients, and every byte as it
//! was written.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;
mod support;

use raw::Raw;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use support::{Broker, have};
use tramline_wire::{Encoding, MessageFlags, Publish, ToBroker, ToClient};

/// JSON as it must not be changed by anybody: numbers of every form, order, repetition, spaces, escapes.
const RECORDS: &[&str] = &[
    r#"{"class":"TPV","mode":3,"time":"2005-06-09T14:34:44.280Z","lat":46.498287177,"climb":-0.085,"ecefx":4360953.0000}"#,
    r#"{"class":"SKY","hdop":1.30,"satellites":[{"PRN":8,"el":77.0,"used":true},{"PRN":7,"used":false}]}"#,
    r#"{ "b" : 1e5 , "a" : 1.0E-3, "a":-0, "big":123456789012345678901234567890, "none":null }"#,
    r#"{"text":"\u00e9 \ud83d\ude00 \/ \" \\ \n","raw":"é €"}"#,
    "\"only a text\"",
    "[]",
    "0.10",
    "true",
    "{\"tab\":\t1}",
];

/// Directories with captures to use besides, one record or sentence a line: `TRAMLINE_CAPTURES`, separated by colons.
fn captures() -> Vec<PathBuf> {
    let folders = std::env::var_os("TRAMLINE_CAPTURES").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::env::split_paths(&folders)
        .filter(|folder| !folder.as_os_str().is_empty())
        .flat_map(|folder| std::fs::read_dir(folder).expect("a folder of captures"))
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

/// `socat` between this test and the broker.
struct Socat {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Socat {
    fn start(socket: &Path, linger: &str) -> Self {
        let mut child = Command::new("socat")
            .args([linger, "-", &format!("UNIX:{}", socket.display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn say(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(line.as_bytes()).and_then(|()| input.write_all(b"\n")).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.pop(), Some('\n'), "the connection ended: {line:?}");
        line
    }
}

impl Drop for Socat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line into `socat`, and all that comes out of it.
fn socat(socket: &Path, line: &str) -> String {
    let mut child = Socat::start(socket, "-t30");
    child.say(line);
    drop(child.input.take());
    let answer = child.hear();
    let mut rest = String::new();
    assert_eq!(child.output.read_line(&mut rest).unwrap(), 0, "more than one answer: {rest}");
    assert!(child.child.wait().unwrap().success());
    answer
}

#[test]
fn people_talk_to_the_broker_with_socat() {
    if !have("socat") {
        return;
    }
    let broker = Broker::start();
    let pong = socat(broker.socket(), r#"{"op":"ping","id":1}"#);
    assert_eq!(pong, r#"{"ok":true,"op":"ping","id":1}"#);
    let nobody = socat(broker.socket(), r#"{"op":"pub","topic":"gps.fix","data":{"lat":52.5}}"#);
    assert_eq!(nobody, r#"{"ok":true,"op":"pub","receivers":0}"#);

    let mut listener = Socat::start(broker.socket(), "-t600");
    listener.say(r#"{"op":"sub","topic":"gps.>","id":"x"}"#);
    assert_eq!(listener.hear(), r#"{"ok":true,"op":"sub","id":"x","sub":1}"#);
    // Like `echo … | socat -t…`: the line's end is the end of what it says, and it listens on.
    drop(listener.input.take());
    let one = socat(broker.socket(), r#"{"op":"pub","topic":"gps.fix","data":{"lat":52.5},"type":"fix"}"#);
    assert_eq!(one, r#"{"ok":true,"op":"pub","receivers":1}"#);
    let line = listener.hear();
    let message: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(message["op"], "msg");
    assert_eq!(
        (&message["topic"], &message["seq"], &message["sub"]),
        (&"gps.fix".into(), &1.into(), &1.into())
    );
    assert_eq!((&message["type"], &message["data"]["lat"]), (&"fix".into(), &52.5.into()));
    assert_eq!(message["from"]["uid"], rustix::process::getuid().as_raw());
    assert!(line.ends_with(r#","data":{"lat":52.5}}"#), "{line}");

    let fault = socat(broker.socket(), r#"{"op":"pub","topic":"gps..fix","data":1,"id":2}"#);
    let fault: Value = serde_json::from_str(&fault).unwrap();
    assert_eq!(
        (&fault["ok"], &fault["id"], &fault["error"]["code"]),
        (&false.into(), &2.into(), &"bad_topic".into())
    );
}

#[test]
fn curl_sees_health_status_and_metrics_of_what_happens() {
    if !have("curl") {
        return;
    }
    let broker = Broker::start();
    let curl = |path: &str| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--unix-socket"])
            .arg(broker.socket())
            .arg(format!("http://tramline{path}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (mut reader, _) = Raw::open(broker.socket(), "curl's reader");
    reader.subscribe(1, "a.>");
    assert_eq!(broker.json().ask(r#"{"op":"pub","topic":"a.b","text":"x"}"#)["receivers"], 1);
    assert!(curl("/health").ends_with('\n'));
    let status: Value = serde_json::from_str(&curl("/status")).unwrap();
    let shown = status.to_string();
    assert!(shown.contains("curl's reader") && shown.contains("\"a.b\""), "{shown}");
    let metrics = curl("/metrics");
    assert!(metrics.lines().any(|line| line.starts_with("tramline_")), "{metrics}");
}

/// Sends each text as JSON `data` and expects it again, byte for byte, behind `"data":`.
fn assert_untouched<'a>(broker: &Broker, topic: &str, records: impl Iterator<Item = &'a str>) -> usize {
    let mut listener = broker.json();
    let asked = format!(r#"{{"op":"sub","topic":"{topic}","reliable":true}}"#);
    assert_eq!(listener.ask(&asked)["ok"], true);
    let (mut native, _) = Raw::open(broker.socket(), "native");
    native.subscribe(1, topic);
    let mut publisher = broker.json();
    let mut count = 0;
    for record in records {
        publisher.say(&format!(r#"{{"op":"pub","topic":"{topic}","data":{record}}}"#));
        let answer = publisher.hear();
        assert!(answer.contains(r#""ok":true"#), "{answer} to {record}");
        let line = listener.hear();
        assert!(line.ends_with(&format!(r#","data":{record}}}"#)), "sent {record}\ngot  {line}");
        let body = loop {
            let body = native.body();
            if let Ok(ToClient::Deliver(_)) = ToClient::decode(&body) {
                break body;
            }
        };
        let Ok(ToClient::Deliver(deliver)) = ToClient::decode(&body) else { panic!("it was one") };
        assert_eq!(deliver.message.flags.encoding(), Encoding::Json);
        assert_eq!(String::from_utf8_lossy(deliver.message.payload), record);
        count += 1;
        assert_eq!(deliver.message.seq, count);
    }
    usize::try_from(count).unwrap()
}

#[test]
fn json_passes_exactly_as_it_was_written() {
    let broker = Broker::start();
    assert_eq!(assert_untouched(&broker, "records", RECORDS.iter().copied()), RECORDS.len());
    for (number, capture) in captures().iter().enumerate() {
        let bytes = std::fs::read(capture).unwrap();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{"));
        let records: Vec<&str> =
            lines.filter_map(|line| std::str::from_utf8(line).ok()).map(str::trim_end).collect();
        let count = assert_untouched(&broker, &format!("capture.{number}"), records.iter().copied());
        println!("{}: {count} records", capture.display());
    }
}

#[test]
fn what_one_language_publishes_the_others_receive() {
    let broker = Broker::start();
    let mut lines = broker.json();
    assert_eq!(lines.ask(r#"{"op":"sub","topic":"mixed"}"#)["ok"], true);
    let (mut native, _) = Raw::open(broker.socket(), "native");
    native.subscribe(1, "mixed");
    let (mut publisher, _) = Raw::open(broker.socket(), "écrivain");
    publisher.send(&ToBroker::Topic { alias: 0, topic: "mixed" });
    let cases: [(Encoding, &[u8], Value); 5] = [
        (Encoding::Json, b"{\"a\": 1}", serde_json::json!({"data": {"a": 1}})),
        (Encoding::Text, "größe".as_bytes(), serde_json::json!({"text": "größe"})),
        (Encoding::Binary, b"\x00\xff", serde_json::json!({"base64": "AP8="})),
        // Claims that are not true are shown as what they are.
        (Encoding::Json, b"{\"a\":", serde_json::json!({"text": "{\"a\":"})),
        (Encoding::Text, b"\xff", serde_json::json!({"base64": "/w=="})),
    ];
    for (number, (encoding, payload, expected)) in cases.into_iter().enumerate() {
        let seq = number as u64 + 1;
        let message = tramline_wire::Message {
            flags: MessageFlags::new(encoding),
            head: b"\x01t\x03key\x01\x00v",
            ..raw::message(seq, payload)
        };
        publisher.send(&ToBroker::Publish(Publish { alias: 0, message }));
        let line = lines.hear();
        let got: Value = serde_json::from_str(&line).unwrap();
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&got[key], value, "{line}");
        }
        assert_eq!((&got["seq"], &got["from"]["name"]), (&seq.into(), &"écrivain".into()));
        assert_eq!((&got["type"], &got["headers"]["key"]), (&"t".into(), &"v".into()));
        let body = loop {
            let body = native.body();
            if !matches!(ToClient::decode(&body), Ok(ToClient::Source(_))) {
                break body;
            }
        };
        let Ok(ToClient::Deliver(deliver)) = ToClient::decode(&body) else { panic!("{}", raw::shown(&body)) };
        assert_eq!(deliver.message, message);
    }
    // And the other way: text, binary, type, headers and source time from a line.
    let sent = r#"{"op":"pub","topic":"mixed","base64":"AP8=","type":"t","headers":{"key":"v"},"time":"1970-01-01T00:00:01Z"}"#;
    assert_eq!(broker.json().ask(sent)["receivers"], 2);
    let body = loop {
        let body = native.body();
        if !matches!(ToClient::decode(&body), Ok(ToClient::Source(_))) {
            break body;
        }
    };
    let Ok(ToClient::Deliver(deliver)) = ToClient::decode(&body) else { panic!("{}", raw::shown(&body)) };
    assert_eq!(deliver.message.payload, b"\x00\xff");
    assert_eq!(deliver.message.head, b"\x01t\x03key\x01\x00v");
    assert_eq!((deliver.message.source_time, deliver.message.seq), (1_000_000_000, 1));
    assert!(deliver.message.flags.has_source_time());
}

#[test]
fn a_slow_viewer_by_json_is_told_what_it_missed_and_holds_nobody_up() {
    let broker = Broker::with_config("limits:\n  outbox_bytes_max: 16KiB\n  backlog_bytes_max: 64KiB\n");
    let mut viewer = broker.json();
    assert_eq!(viewer.ask(r#"{"op":"sub","topic":"flood"}"#)["ok"], true);
    let (mut publisher, _) = Raw::open(broker.socket(), "publisher");
    publisher.send(&ToBroker::Topic { alias: 0, topic: "flood" });
    const COUNT: u64 = 4_000;
    for seq in 1..=COUNT {
        publisher.send(&ToBroker::Publish(Publish { alias: 0, message: raw::message(seq, &[b'x'; 600]) }));
    }
    assert!(publisher.settle().is_empty());
    let (mut received, mut lost, mut next) = (0, 0, 1);
    while next <= COUNT {
        let line: Value = serde_json::from_str(&viewer.hear()).unwrap();
        if line["op"] == "gap" {
            let missed = line["lost"].as_u64().unwrap();
            lost += missed;
            next += missed;
        } else {
            assert_eq!(line["seq"].as_u64(), Some(next));
            received += 1;
            next += 1;
        }
    }
    assert_eq!(received + lost, COUNT);
    assert!(lost > 0);
}

#[test]
fn the_broker_tells_what_happens_in_it_to_whoever_asks_by_name() {
    let broker = Broker::start();
    let mut watcher = broker.json();
    assert_eq!(watcher.ask(r#"{"op":"sub","topic":"$tramline.>"}"#)["ok"], true);
    let mut everything = broker.json();
    assert_eq!(everything.ask(r#"{"op":"sub","topic":">"}"#)["ok"], true);
    let (client, session) = Raw::open(broker.socket(), "passer-by");
    drop(client);
    let mut heard = Vec::new();
    while !heard.contains(&("$tramline.disconnect".to_owned(), session)) {
        let line: Value = serde_json::from_str(&watcher.hear()).unwrap();
        let topic = line["topic"].as_str().unwrap().to_owned();
        heard.push((topic, line["data"]["session"].as_u64().unwrap_or_default()));
    }
    assert!(heard.contains(&("$tramline.connect".to_owned(), session)), "{heard:?}");
    // A wildcard in the first place stays quiet about all that.
    assert_eq!(broker.json().ask(r#"{"op":"pub","topic":"a","data":1}"#)["receivers"], 1);
    let line: Value = serde_json::from_str(&everything.hear()).unwrap();
    assert_eq!(line["topic"], "a");
}
