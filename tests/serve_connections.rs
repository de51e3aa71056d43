//! Connections from outside: silent ones, rude ones, too many, and those whose process is killed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod raw;

use raw::Raw;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use support::Broker;
use tramline_wire::{Code, preamble};

const IMPATIENT: &str = "limits:\n  first_byte_timeout_millis: 200\n";

fn many_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Reads to the end, which is an end in either way.
fn read_to_end(mut stream: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => all,
    }
}

#[test]
fn a_thousand_silent_connections_time_out_and_a_quiet_subscriber_does_not() {
    many_open_files();
    let broker = Broker::with_config(IMPATIENT);
    let mut quiet = broker.json();
    assert_eq!(quiet.ask(r#"{"op":"sub","topic":"a"}"#)["ok"], true);
    let (mut subscriber, _) = Raw::open(broker.socket(), "quiet");
    subscriber.subscribe(1, "a");
    let before = broker.open_files();
    let silent: Vec<UnixStream> = (0..1000).map(|_| broker.connect()).collect();
    for stream in &silent {
        assert_eq!(read_to_end(stream), b"");
    }
    assert_eq!(broker.json().ask(r#"{"op":"pub","topic":"a","data":1}"#)["receivers"], 2);
    assert!(quiet.hear().contains(r#""data":1"#));
    assert!(!subscriber.settle().is_empty());
    wait_until(|| broker.open_files() <= before);
}

#[test]
fn a_native_client_that_never_says_hello_is_told_that_it_was_too_slow() {
    let broker = Broker::with_config(IMPATIENT);
    let mut raw = Raw::connect(broker.socket());
    raw.write(&preamble::request());
    let mut answer = [0; preamble::PREAMBLE_BYTES];
    raw.read_exact(&mut answer);
    assert_eq!(preamble::accept(answer), Ok(preamble::VERSION_MAX));
    let sentence = raw.expect_close(Code::TimedOut);
    assert!(sentence.contains("first_byte_timeout_millis"), "{sentence}");
}

#[test]
fn half_a_preamble_times_out() {
    let broker = Broker::with_config(IMPATIENT);
    let mut raw = Raw::connect(broker.socket());
    raw.write(&preamble::request()[..3]);
    assert_eq!(raw.rest(), b"");
}

#[test]
fn an_unknown_language_gets_one_line_that_names_the_known_ones() {
    let broker = Broker::start();
    for first in [&b"\x16\x03\x01"[..], b"\0", b"7", &[preamble::FIRST_BYTE, b'X', 0, 0, 0, 0, 0, 0]] {
        let mut stream = broker.connect();
        stream.write_all(first).unwrap();
        let answer = String::from_utf8(read_to_end(&stream)).unwrap();
        assert!(answer.contains("JSON") && answer.contains("HTTP") && answer.ends_with('\n'), "{answer:?}");
        assert_eq!(answer.lines().count(), 1);
    }
}

#[test]
fn a_preamble_of_another_version_is_answered_with_the_known_ones() {
    let broker = Broker::start();
    let mut raw = Raw::connect(broker.socket());
    raw.write(&[preamble::FIRST_BYTE, b'T', b'R', b'A', b'M', 100, 200, 0]);
    let answer = raw.rest();
    let expected =
        [preamble::FIRST_BYTE, b'T', b'R', b'A', b'M', 0, preamble::VERSION_MIN, preamble::VERSION_MAX];
    assert_eq!(answer, expected);
}

#[test]
fn lines_that_arrive_byte_by_byte_or_all_at_once_are_the_same() {
    let broker = Broker::start();
    let mut lines = broker.json();
    for byte in b" {\"op\":\"ping\",\"id\":1}\r\n" {
        lines.stream().write_all(&[*byte]).unwrap();
    }
    assert!(lines.hear().contains(r#""id":1"#));
    let many: String = (0..5000).map(|id| format!("{{\"op\":\"ping\",\"id\":{id}}}\n")).collect();
    let mut writer = lines.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(many.as_bytes()).unwrap());
    for id in 0..5000 {
        let answer: serde_json::Value = serde_json::from_str(&lines.hear()).unwrap();
        assert_eq!(answer["id"], id);
    }
    writing.join().unwrap();
}

#[test]
fn the_last_line_needs_no_line_feed_and_a_half_closed_subscriber_still_hears() {
    let broker = Broker::start();
    let mut lines = broker.json();
    lines.say(r#"{"op":"sub","topic":"a"}"#);
    lines.stream().write_all(br#"{"op":"ping","id":"last"}"#).unwrap();
    lines.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(lines.hear().contains(r#""op":"sub""#));
    assert!(lines.hear().contains(r#""id":"last""#));
    assert_eq!(broker.json().ask(r#"{"op":"pub","topic":"a","data":"still here"}"#)["receivers"], 1);
    assert!(lines.hear().contains("still here"));
    drop(lines);
    // Its death is noticed without anybody writing to it.
    let mut other = broker.json();
    wait_until(|| other.ask(r#"{"op":"status"}"#)["status"]["subscriptions"].as_array().unwrap().is_empty());
}

#[test]
fn what_was_published_before_the_end_arrives_although_the_publisher_does_not_wait_for_answers() {
    let broker = Broker::start();
    let mut subscriber = broker.json();
    assert_eq!(subscriber.ask(r#"{"op":"sub","topic":"a"}"#)["ok"], true);
    {
        // Answers that nobody reads make the connection end in a reset; what it said before still counts.
        let mut publisher = broker.json();
        for number in 0..100 {
            publisher.say(&format!(r#"{{"op":"pub","topic":"a","data":{number}}}"#));
        }
    }
    for number in 0..100 {
        let message: serde_json::Value = serde_json::from_str(&subscriber.hear()).unwrap();
        assert_eq!(message["data"], number);
    }
}

#[test]
fn running_out_of_descriptors_is_survived_and_said_once() {
    let broker = Broker::start();
    let mut early = broker.json();
    assert_eq!(early.ask(r#"{"op":"ping"}"#)["ok"], true);
    let room = broker.open_files() as u64 + 8;
    let pid = Pid::from_raw(i32::try_from(broker.pid()).unwrap());
    let limit = prlimit(pid, Resource::Nofile, Rlimit { current: Some(room), maximum: Some(4096) }).unwrap();
    assert!(limit.current.unwrap() > 1024, "the broker raises its soft limit: {limit:?}");

    // Those that fit are served, the others are let go at once instead of waiting for ever.
    let crowd: Vec<UnixStream> = (0..40).map(|_| broker.connect()).collect();
    for stream in &crowd {
        let _ = (&*stream).write_all(b"{\"op\":\"ping\"}\n");
    }
    let mut served = 0;
    for stream in &crowd {
        let mut line = String::new();
        served += usize::from(BufReader::new(stream).read_line(&mut line).is_ok_and(|length| length > 0));
    }
    assert!((1..40).contains(&served), "{served} of 40 were served");
    assert_eq!(early.ask(r#"{"op":"ping"}"#)["ok"], true, "those who were there before notice nothing");
    let said = broker.log().matches("turned away").count();
    assert_eq!(said, 1, "{}", broker.log());

    drop(crowd);
    wait_until(|| {
        let mut stream = UnixStream::connect(broker.socket()).unwrap();
        let mut line = String::new();
        stream.write_all(b"{\"op\":\"ping\"}\n").is_ok()
            && BufReader::new(stream).read_line(&mut line).is_ok_and(|n| n > 0)
    });
}

#[test]
fn connections_above_the_limit_are_refused_in_their_own_language() {
    let broker = Broker::with_config("limits:\n  connections_max: 2\n");
    let mut one = broker.json();
    assert_eq!(one.ask(r#"{"op":"ping"}"#)["ok"], true);
    let _two = Raw::open(broker.socket(), "two");
    let mut three = broker.json();
    let refusal = three.ask(r#"{"op":"ping"}"#);
    assert_eq!(refusal["error"]["code"], "limit_reached");
    assert!(refusal["error"]["message"].as_str().unwrap().contains("connections_max"), "{refusal}");
    let mut four = Raw::connect(broker.socket());
    four.write(&preamble::request());
    four.read_exact(&mut [0; preamble::PREAMBLE_BYTES]);
    assert!(four.expect_close(Code::LimitReached).contains("connections_max"));
}

/// Not a test by itself: what the next one runs in a process of its own and kills.
#[test]
fn role_of_a_client_that_is_killed() {
    let Some(socket) = std::env::var_os("ROLE_SOCKET") else { return };
    let socket = Path::new(&socket);
    let topic = format!("killed.{}", std::process::id());
    let (mut subscriber, _) = Raw::open(socket, "subscriber");
    subscriber.subscribe(1, &topic);
    let (publisher, readers) = raw::publisher::RawPublisher::open(socket, &topic, 1024, 16);
    assert_eq!(readers, 2);
    println!("\nready {}", publisher.stream);
    std::io::stdin().read_line(&mut String::new()).unwrap();
    panic!("it was to be killed");
}

#[test]
fn killed_clients_leave_no_descriptor_and_no_mapping_behind() {
    let broker = Broker::start();
    let mut watcher = broker.json();
    assert_eq!(watcher.ask(r#"{"op":"sub","topic":"killed.>","reliable":true}"#)["ok"], true);
    let (files, mappings) = (broker.open_files(), broker.ring_mappings());
    for _ in 0..3 {
        let mut children: Vec<_> = (0..3)
            .map(|_| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["role_of_a_client_that_is_killed", "--exact", "--nocapture"])
                    .env("ROLE_SOCKET", broker.socket())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for child in &mut children {
            let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().starts_with("ready")), "a client ended early");
        }
        assert!(broker.open_files() > files);
        assert!(broker.ring_mappings() > mappings);
        for child in &mut children {
            kill_process(Pid::from_child(child), Signal::KILL).unwrap();
            child.wait().unwrap();
        }
        wait_until(|| broker.open_files() <= files && broker.ring_mappings() <= mappings);
    }
    assert_eq!(watcher.ask(r#"{"op":"ping"}"#)["ok"], true);
}

/// Not a test by itself: what the next one runs in a process of its own.
#[test]
fn role_of_a_test_that_aborts() {
    if std::env::var_os("ROLE_ABORTS").is_none() {
        return;
    }
    let broker = Broker::start();
    println!("\nbroker {}", broker.pid());
    std::process::abort();
}

#[test]
fn a_test_that_aborts_leaves_no_broker_behind() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["role_of_a_test_that_aborts", "--exact", "--nocapture"])
        .env("ROLE_ABORTS", "1")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    let pid = said.lines().find_map(|line| line.strip_prefix("broker ")).unwrap();
    let program = format!("/proc/{pid}/exe");
    // Gone, or somebody else's number by now.
    wait_until(|| {
        std::fs::read_link(&program)
            .map_or(true, |program| program != Path::new(env!("CARGO_BIN_EXE_tramline")))
    });
}

#[test]
fn an_idle_broker_does_not_wake_up() {
    let broker = Broker::start();
    let mut subscriber = broker.json();
    assert_eq!(subscriber.ask(r#"{"op":"sub","topic":"a"}"#)["ok"], true);
    let (mut native, _) = Raw::open(broker.socket(), "native");
    native.subscribe(1, "a");
    assert_eq!(subscriber.ask(r#"{"op":"ping"}"#)["ok"], true);
    assert!(broker.http("/metrics").contains("tramline_"));
    // The span is what is looked at: a periodic timer of less would keep this going until the watchdog ends it.
    wait_until(|| {
        let before = broker.context_switches();
        assert!(!broker.ends_within(std::time::Duration::from_millis(700)), "{}", broker.log());
        broker.context_switches() == before
    });
}

/// Looks until it is so. The broker's watchdog ends a test for which it never is.
fn wait_until(mut so: impl FnMut() -> bool) {
    while !so() {
        std::thread::yield_now();
    }
}
