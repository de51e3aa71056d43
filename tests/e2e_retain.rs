//! What stays readable after its publisher: whole messages of a process that was killed, for readers of rings, for
//! `socat`, for other users, before anything of the next publisher; and no mapping stays in the broker.
//!
//! The processes are this test program itself, started again to play a part (see [`actor`]).
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Actor, Broker, Users, Watchdog, have, part, say};
use tramline_client::{Client, Message, PublisherEvent, Subscription};

const CONFIG: &str = "topics:\n  - filter: keep.*\n    retain: 5\n";

/// Parts that other processes play. Without the variable this is no test of anything and passes at once.
#[test]
fn actor() {
    let Some(part) = part() else { return };
    let client = Client::builder().name(part.as_str()).reconnect(false).connect().unwrap();
    match part.as_str() {
        "publish and wait" => {
            let mut publisher = client.publisher("keep.a").capacity(8192, 2).open().unwrap();
            for _ in 0..100 {
                publish(&mut publisher);
            }
            say("sent");
            std::thread::park();
        }
        "publish without end" => {
            let mut publisher = client.publisher("keep.a").capacity(8192, 8).open().unwrap();
            say("ready");
            loop {
                publish(&mut publisher);
            }
        }
        "read" => {
            let mut subscription = client.subscription("keep.a").history(5).open().unwrap();
            for seq in 96..=100 {
                let message = subscription.recv().unwrap();
                assert_whole(&message);
                assert_eq!(message.seq(), seq);
                // The broker's copy is trusted by whoever trusts the broker.
                assert!(message.in_place());
            }
            say("read");
        }
        other => panic!("nobody plays {other}"),
    }
}

fn publish(publisher: &mut tramline_client::Publisher) {
    let number = publisher.next_seq();
    publisher
        .message()
        .type_("kept")
        .header("number", number.to_string().as_bytes())
        .send(number.to_le_bytes().repeat(1024))
        .unwrap();
}

/// Whether a message is as [`publish`] made it.
fn assert_whole(message: &Message) {
    let number = message.seq();
    assert_eq!(message.payload(), number.to_le_bytes().repeat(1024), "message {number} is a mixture");
    assert_eq!(message.message_type(), Some("kept"));
    assert_eq!(message.header("number"), Some(number.to_string().as_bytes()));
}

/// Waits until what is kept is what this process left; its description.
fn retained(broker: &Broker, pid: u32) -> serde_json::Value {
    let mut lines = broker.json();
    loop {
        let status = lines.ask(r#"{"op":"status"}"#);
        let kept = &status["status"]["retained"][0];
        if kept["pid"] == pid {
            return kept.clone();
        }
    }
}

/// Reads so many messages that follow one another.
fn read(subscription: &mut Subscription, count: u64) -> (u64, u64) {
    let first = subscription.recv().unwrap();
    assert_whole(&first);
    for seq in first.seq() + 1..first.seq() + count {
        let message = subscription.recv().unwrap();
        assert_whole(&message);
        assert_eq!((message.seq(), message.lost_before()), (seq, 0));
    }
    (first.seq(), first.lost_before())
}

#[test]
fn the_last_messages_of_a_killed_publisher_are_there_for_everybody_who_asks() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(CONFIG);
    let mut publisher = Actor::start("publish and wait", broker.socket());
    assert_eq!(publisher.word(), "sent");
    let pid = publisher.child.id();
    publisher.kill();
    let kept = retained(&broker, pid);
    // Its ring had two messages' room, but the topic asks for more.
    assert_eq!((&kept["messages"], &kept["last_seq"], &kept["pid"]), (&5.into(), &100.into(), &pid.into()));
    assert_eq!(broker.ring_mappings(), 0);

    let client = broker.client("b");
    let mut ring = client.subscription("keep.*").history(3).open().unwrap();
    assert_eq!(read(&mut ring, 3), (98, 0));
    assert!(ring.recv_timeout(Duration::from_millis(10)).unwrap().is_none());
    let events = ring.events();
    let [PublisherEvent::Appeared(source), PublisherEvent::Left(left)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!((source, source.pid, source.name.as_str()), (left, pid, "publish and wait"));
    let mut socket = client.subscription("keep.*").history(9).rings(false).open().unwrap();
    assert_eq!(read(&mut socket, 5), (96, 0));
    let mut nothing = client.subscription("keep.*").open().unwrap();
    assert!(nothing.recv_timeout(Duration::from_millis(10)).unwrap().is_none());

    if have("socat") {
        let mut socat = Command::new("socat")
            .args(["-t30", "-", &format!("UNIX:{}", broker.socket().display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = socat.stdin.take().unwrap();
        writeln!(input, r#"{{"op":"sub","topic":"keep.a","history":2}}"#).unwrap();
        let mut lines = BufReader::new(socat.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains(r#""ok":true"#));
        for seq in [99, 100] {
            let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert_eq!(
                (&line["op"], &line["seq"], &line["type"]),
                (&"msg".into(), &seq.into(), &"kept".into())
            );
            assert_eq!(line["from"]["pid"], pid);
        }
        socat.kill().unwrap();
        socat.wait().unwrap();
    }

    // The next publisher comes behind it, for those who ask now; and takes its place when it has gone.
    let mut next = client.publisher("keep.a").capacity(8192, 8).open().unwrap();
    let first = next.next_seq();
    publish(&mut next);
    for rings in [true, false] {
        let mut both = client.subscription("keep.a").history(9).rings(rings).open().unwrap();
        assert_eq!(read(&mut both, 5).0, 96);
        assert_eq!(both.recv().unwrap().seq(), first);
    }
    next.close().unwrap();
    let kept = retained(&broker, std::process::id());
    assert_eq!((&kept["messages"], &kept["last_seq"]), (&1.into(), &first.into()));
    // One that says nothing does not.
    client.publisher("keep.a").open().unwrap().close().unwrap();
    let mut again = client.subscription("keep.a").history(9).open().unwrap();
    assert_eq!(again.recv().unwrap().seq(), first);
}

#[test]
fn wherever_a_publisher_is_killed_only_whole_messages_stay() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(CONFIG);
    let client = broker.client("b");
    for round in 0..10 {
        let mut publisher = Actor::start("publish without end", broker.socket());
        assert_eq!(publisher.word(), "ready");
        // So far, at least; it dies wherever it is then.
        let mut lines = broker.json();
        while lines.ask(r#"{"op":"status"}"#)["status"]["streams"][0]["ring"]["messages"].as_u64() < Some(50)
        {
        }
        let pid = publisher.child.id();
        publisher.kill();
        let kept = retained(&broker, pid);
        let last = kept["last_seq"].as_u64().unwrap();
        assert_eq!(kept["messages"], 5, "round {round}");
        let mut subscription = client.subscription("keep.a").history(5).open().unwrap();
        assert_eq!(read(&mut subscription, 5), (last - 4, 0));
    }
}

#[test]
fn the_last_word_by_socket_is_there_for_who_comes_later() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(CONFIG);
    let mut lines = broker.json();
    for n in 1..=7 {
        lines.ask(&format!(r#"{{"op":"pub","topic":"keep.state","data":{n},"type":"state"}}"#));
    }
    drop(lines);
    let client = broker.client("b");
    let uid = rustix::process::geteuid().as_raw();
    for rings in [true, false] {
        let mut late = client.subscription("keep.>").history(2).rings(rings).open().unwrap();
        for n in [6_u64, 7] {
            let message = late.recv().unwrap();
            assert_eq!((message.seq(), message.text().unwrap()), (n, n.to_string().as_str()));
            assert_eq!((message.message_type(), message.publisher().uid), (Some("state"), uid));
        }
        assert!(late.recv_timeout(Duration::from_millis(10)).unwrap().is_none());
    }
}

#[test]
fn what_one_user_left_another_reads_in_place_from_the_brokers_memory() {
    const BROKER: u32 = 20_011;
    const PUBLISHER: u32 = 20_012;
    const READER: u32 = 20_013;
    let _watchdog = Watchdog::start();
    let allow = format!("socket:\n  mode: \"0666\"\nallow:\n  users: [{PUBLISHER}, {READER}]\n");
    let Some(users) = Users::start("what one user left for another", BROKER, &(allow + CONFIG)) else {
        return;
    };
    let mut publisher = users.actor(PUBLISHER, "publish and wait");
    assert_eq!(publisher.word(), "sent");
    let pid = publisher.child.id();
    publisher.kill();
    assert_eq!(retained(&users.broker, pid)["uid"], PUBLISHER);
    assert_eq!(users.actor(READER, "read").word(), "read");
}
