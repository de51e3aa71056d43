//! SIGHUP: the broker reads its configuration again, and who has lost its access sees nothing more.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;
use support::{Broker, Users, Watchdog};

/// A user that no test machine has by another name.
const READER: u32 = 61_234;

fn configure(broker: &Broker, yaml: &str) {
    std::fs::write(broker.home().join("tramline.yaml"), yaml).unwrap();
    broker.signal(Signal::HUP);
}

/// Waits until the broker has logged this, asking it something meanwhile.
fn wait_for_log(broker: &Broker, words: &str) {
    let client = broker.client("asker");
    while !broker.log().contains(words) {
        client.ping().unwrap();
    }
}

#[test]
fn a_faulty_configuration_is_refused_with_its_fault_and_the_former_one_stays() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("allow:\n  users: [61234]\n");
    configure(&broker, "allow:\n  users: [61234]\nlimits:\n  frame_byte_max: 5\n");
    wait_for_log(&broker, "frame_byte_max");
    let log = broker.log();
    assert!(log.contains("tramline.yaml:4:3") && log.contains("stays as it was"), "{log}");
    configure(&broker, "allow:\n  users: []\n");
    wait_for_log(&broker, "read again");
}

#[test]
fn who_has_lost_its_access_sees_nothing_more() {
    let _watchdog = Watchdog::start();
    let socket = "socket:\n  mode: \"0666\"\n";
    let yaml = format!("{socket}allow:\n  users: [{READER}]\n");
    let Some(users) = Users::start("what one user sees after it has lost its access", 0, &yaml) else {
        return;
    };
    let broker = &users.broker;
    let a = broker.client("a");
    let mut own = broker.client("b").subscribe("t").unwrap();
    let mut p = a.publisher("t").open().unwrap();
    let mut command = users.tramline(READER);
    command.args(["sub", "t", "--socket"]).arg(broker.socket());
    let mut reader = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap());
    p.wait_for_subscribers(2, Duration::from_secs(30)).unwrap();
    p.send(b"for both").unwrap();
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("Zm9yIGJvdGg="), "\"for both\" in base64: {line}");
    assert_eq!(own.recv().unwrap().payload(), b"for both");

    configure(broker, socket);
    let ended = reader.wait().unwrap();
    let mut said = String::new();
    reader.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(ended.code() == Some(77) && said.contains("allow.users"), "{ended}: {said}, {}", broker.log());
    let generation = || {
        let answer = broker.http("/status");
        let status: serde_json::Value =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        status["streams"][0]["generation"].as_u64().unwrap()
    };
    while generation() == 0 {
        a.ping().unwrap();
    }
    p.send(b"for one").unwrap();
    let message = own.recv().unwrap();
    assert_eq!((message.payload(), message.lost_before()), (b"for one".as_slice(), 0));
    line.clear();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "", "the reader is gone");
    assert!(broker.log().contains("has lost its access"), "{}", broker.log());
}

#[test]
fn queues_are_as_the_file_says_now_and_one_that_it_names_no_more_is_emptied() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("queues: [{name: old}]\n");
    let client = broker.client("c");
    let mut jobs = client.consume("old").start().unwrap();
    client.push("old", b"last").confirm().unwrap();
    configure(&broker, "queues: [{name: new, messages_max: 1}]\n");
    wait_for_log(&broker, "queue old is not in the configuration any more");
    client.push("new", b"first").confirm().unwrap();
    let refused = client.push("old", b"more").confirm().unwrap_err();
    assert_eq!(refused.code(), tramline_client::Code::UnknownQueue);
    let job = jobs.recv().unwrap();
    assert_eq!(job.payload(), b"last");
    job.ack().unwrap();
    let ended = jobs.recv().unwrap_err();
    assert_eq!(ended.code(), tramline_client::Code::UnknownQueue, "{ended}");
    wait_for_log(&broker, "queue old is empty and has gone");
    configure(&broker, "queues: [{name: new, messages_max: 2}]\n");
    wait_for_log(&broker, "queue new is as the configuration says now: messages_max 2");
    client.push("new", b"second").confirm().unwrap();
    let refused = client.push("new", b"third").confirm().unwrap_err();
    assert_eq!((refused.code(), refused.limit().unwrap().value), (tramline_client::Code::QueueFull, 2));
}
