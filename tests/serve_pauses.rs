//! Publishers that are held up again and again, each for a moment, are always read on, whichever comes first: room that a
//! slow subscriber makes, the end of the time that is waited for it, answers that are read or dropped.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use support::{Broker, Watchdog};

/// Next to nothing waits before a publisher is held up, and it is held up for a moment only.
const CONFIG: &str = "limits: {outbox_bytes_max: 4096, backlog_bytes_max: 8192, block_millis_max: 3, \
                      block_publisher_millis_max: 1000000, block_window_millis: 1000000}";

/// One for each native publisher.
const TOPICS: [&str; 3] = ["slow.a", "slow.b", "slow.c"];

const ROUNDS: u64 = 150;

const JSON_MESSAGES: u64 = 2_000;

/// Reads a little and waits a moment, and now and then for longer than anybody waits for it, until it is told to hurry.
fn read_slowly(mut stream: UnixStream, hurry: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    let (_nobody, pause) = channel::<()>();
    let mut reads = 0_u32;
    while let Ok(1..) = stream.read(&mut buffer) {
        reads += 1;
        if !hurry.load(Ordering::Relaxed) {
            let micros = if reads.is_multiple_of(8) { 10_000 } else { 300 };
            let waited = pause.recv_timeout(Duration::from_micros(micros));
            assert_eq!(waited, Err(RecvTimeoutError::Timeout));
        }
    }
}

#[test]
fn publishers_that_are_held_up_again_and_again_all_go_on() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(CONFIG);
    let hurry = AtomicBool::new(false);
    let slow: Vec<UnixStream> = (0..2)
        .map(|_| {
            let mut slow = broker.json();
            assert_eq!(slow.ask(r#"{"op":"sub","topic":"slow.>","reliable":true}"#)["ok"], true);
            slow.stream().try_clone().unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for stream in &slow {
            let (stream, hurry) = (stream.try_clone().unwrap(), &hurry);
            scope.spawn(move || read_slowly(stream, hurry));
        }
        let mut publishers = Vec::new();
        for topic in TOPICS {
            let client = broker.client(topic);
            publishers.push(scope.spawn(move || {
                for round in 0..ROUNDS {
                    // One that is small, as many as fill a read, and a few that are read in parts.
                    client.publish(topic, [0; 16]).unwrap();
                    for _ in 0..round % 60 {
                        client.publish(topic, [1; 100]).unwrap();
                    }
                    if round.is_multiple_of(10) {
                        client.publish(topic, vec![2; 20_000]).unwrap();
                    }
                    if round.is_multiple_of(7) {
                        client.publish_confirmed(topic, [3; 16]).unwrap();
                    }
                }
                client.flush().unwrap();
            }));
        }
        // It reads no answer before it has said everything.
        let mut json = broker.connect();
        publishers.push(scope.spawn(move || {
            let line =
                format!("{{\"op\":\"pub\",\"topic\":\"slow.json\",\"text\":\"{}\"}}\n", "x".repeat(100));
            for _ in 0..JSON_MESSAGES {
                json.write_all(line.as_bytes()).unwrap();
            }
            json.shutdown(Shutdown::Write).unwrap();
            json.read_to_end(&mut Vec::new()).unwrap();
        }));
        let ended: Vec<_> = publishers.into_iter().map(|publisher| publisher.join()).collect();
        hurry.store(true, Ordering::Relaxed);
        // Both directions, so that the readers end as well.
        slow.iter().for_each(|stream| stream.shutdown(Shutdown::Both).unwrap());
        assert!(ended.iter().all(Result::is_ok));
    });
    let page = broker.http("/status");
    let status: serde_json::Value = serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap();
    let each = |round: u64| {
        1 + round % 60 + u64::from(round.is_multiple_of(10)) + u64::from(round.is_multiple_of(7))
    };
    let native = TOPICS.len() as u64 * (0..ROUNDS).map(each).sum::<u64>();
    assert_eq!(status["totals"]["messages_in"], native + JSON_MESSAGES, "{status}");
    let pauses = status["totals"]["pauses"].as_u64().unwrap();
    assert!(pauses > 50, "only {pauses} pauses");
}
