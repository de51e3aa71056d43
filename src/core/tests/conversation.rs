//! Exchanges to the byte: what a client says and what every side hears.

use super::harness::{START, Shell, message, publish, subscribe};
use crate::core::{Flow, Language, Limits};
use tramline_wire::{
    Deliver, GateLimits, Geometry, MessageFlags, Publish, Source, Subscribe, ToBroker, ToClient, Welcome,
};

fn shell() -> Shell {
    Shell::new(Limits::default())
}

#[test]
fn hello_is_answered_by_welcome() {
    let mut shell = shell();
    let id = shell.connect(1000, Language::Native);
    assert_eq!(shell.say(id, ToBroker::Hello { name: "gps", client: 0 }), Flow::Continue);
    shell.hears(
        id,
        &[ToClient::Welcome(Welcome {
            session: id,
            instance: 0xfeed,
            version: "9.9.9",
            frame_bytes_max: 1024 * 1024,
            attach_timeout_millis: 1000,
            subscriptions_max: 1024,
            streams_max: 16_384,
            ring_bytes_max: 1 << 30,
            ring_default: Geometry { descriptors: 256, arena_bytes: 256 * 1024 },
            gate: GateLimits {
                budget_millis: 5_000,
                publisher_millis: 5_000,
                window_millis: 5_000,
                cooldown_millis: 10_000,
                held_bytes_max: 0,
            },
        })],
    );
    assert_eq!(shell.say(id, ToBroker::Ping { req: 3 }), Flow::Continue);
    shell.hears(id, &[ToClient::Pong { req: 3 }]);
    shell.hang_up(id);
    shell.is_empty();
}

#[test]
fn a_message_arrives_as_it_was_published() {
    let mut shell = shell();
    let (from, to) = (shell.native("gps"), shell.native("map"));
    shell.say(to, ToBroker::Subscribe(subscribe(1, 5, "a.*")));
    shell.hears(to, &[ToClient::Subscribed { req: 1, sub: 5, streams: 0, pending: 0 }]);
    shell.say(from, ToBroker::Topic { alias: 9, topic: "a.b" });
    let flags = MessageFlags::new(tramline_wire::Encoding::Json).with_confirm().with_source_time();
    let full = tramline_wire::Message { flags, source_time: -5, head: b"\x01t", ..message(1, b"{\"x\":1}") };
    shell.say(from, ToBroker::Publish(Publish { alias: 9, message: full }));
    shell.hears(from, &[ToClient::Confirmed { alias: 9, seq: 1, receivers: 1 }]);
    let source =
        Source { alias: 0, topic: "a.b", session: from, name: "gps", uid: 1000, pid: 1100, client: 0 };
    shell.hears(
        to,
        &[
            ToClient::Source(source),
            ToClient::Deliver(Deliver { sub: 5, source: 0, payload_length: 7, message: full }),
        ],
    );
    // The alias is known now, and a second topic gets the next one.
    shell.say(from, publish(9, 2, b"two"));
    shell.say(from, ToBroker::Topic { alias: 9, topic: "a.c" });
    shell.say(from, publish(9, 1, b"three"));
    shell.hears(
        to,
        &[
            ToClient::Deliver(Deliver { sub: 5, source: 0, payload_length: 3, message: message(2, b"two") }),
            ToClient::Source(Source { alias: 1, topic: "a.c", ..source }),
            ToClient::Deliver(Deliver {
                sub: 5,
                source: 1,
                payload_length: 5,
                message: message(1, b"three"),
            }),
        ],
    );
    shell.hang_up(from);
    shell.hears(to, &[ToClient::SourceGone { alias: 0 }, ToClient::SourceGone { alias: 1 }]);
    shell.say(to, ToBroker::Unsubscribe { req: 2, sub: 5 });
    shell.hears(to, &[ToClient::Done { req: 2 }]);
    shell.hang_up(to);
    shell.is_empty();
}

#[test]
fn a_publisher_that_subscribes_hears_itself_and_nothing_after_unsubscribing() {
    let mut shell = shell();
    let id = shell.native("both");
    shell.say(id, ToBroker::Topic { alias: 0, topic: "t" });
    shell.say(id, ToBroker::Subscribe(subscribe(1, 1, "t")));
    shell.say(id, ToBroker::Subscribe(subscribe(2, 2, ">")));
    shell.read(id);
    shell.say(id, publish(0, 1, b"x"));
    let deliver =
        |sub| ToClient::Deliver(Deliver { sub, source: 0, payload_length: 1, message: message(1, b"x") });
    let source = Source { alias: 0, topic: "t", session: id, name: "both", uid: 1000, pid: 1100, client: 0 };
    let bytes = shell.read(id);
    let mut heard = 0;
    super::harness::each_frame(&bytes, |frame| match frame {
        ToClient::Source(heard) => assert_eq!(heard, source),
        frame => {
            assert!(frame == deliver(1) || frame == deliver(2));
            heard += 1;
        }
    });
    assert_eq!(heard, 2);
    shell.say(id, ToBroker::Unsubscribe { req: 3, sub: 2 });
    shell.say(id, publish(0, 2, b"y"));
    shell.hears(
        id,
        &[
            ToClient::Done { req: 3 },
            ToClient::Deliver(Deliver { sub: 1, source: 0, payload_length: 1, message: message(2, b"y") }),
        ],
    );
}

#[test]
fn frames_may_arrive_in_any_pieces() {
    let mut shell = shell();
    let (from, to) = (shell.native("a"), shell.native("b"));
    shell.say(to, ToBroker::Subscribe(subscribe(1, 1, ">")));
    shell.read(to);
    let mut bytes = Vec::new();
    ToBroker::Topic { alias: 0, topic: "t" }.encode(&mut bytes);
    for seq in 1..=20 {
        publish(0, seq, b"payload").encode(&mut bytes);
    }
    let (mut at, mut given) = (0, 0);
    while at < bytes.len() {
        given = (given + 13).min(bytes.len());
        let taken = shell.input(from, &bytes[at..given], &[]);
        assert_eq!(taken.flow, Flow::Continue);
        at += taken.consumed;
    }
    let mut seqs = Vec::new();
    super::harness::each_frame(&shell.read(to), |frame| {
        if let ToClient::Deliver(deliver) = frame {
            seqs.push(deliver.message.seq);
        }
    });
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
}

#[test]
fn json_lines_and_frames_meet() {
    let mut shell = shell();
    let (json, native) = (shell.json(), shell.native("n"));
    shell.line(json, r#"{"op":"sub","topic":"a.>","id":"s"}"#);
    shell.hears_lines(json, &[r#"{"ok":true,"op":"sub","id":"s","sub":1}"#]);
    shell.say(native, ToBroker::Subscribe(Subscribe { rings: false, ..subscribe(1, 1, "a.b") }));
    shell.read(native);
    shell.line(
        json,
        r#"{"op":"pub","topic":"a.b","data":{"x": 1.50},"type":"t","time":"1970-01-01T00:00:01Z"}"#,
    );
    let seen = r#"{"op":"msg","sub":1,"topic":"a.b","seq":1,"time":"2023-11-14T22:13:20.000000000Z","source_time":"1970-01-01T00:00:01.000000000Z","from":{"name":"","uid":1000,"pid":1100},"type":"t","data":{"x": 1.50}}"#;
    shell.hears_lines(json, &[seen, r#"{"ok":true,"op":"pub","receivers":2}"#]);
    let flags = MessageFlags::new(tramline_wire::Encoding::Json).with_source_time();
    let message = tramline_wire::Message {
        flags,
        seq: 1,
        time: START.monotonic,
        source_time: 1_000_000_000,
        after: None,
        head: b"\x01t",
        payload: br#"{"x": 1.50}"#,
    };
    shell.hears(
        native,
        &[
            ToClient::Source(Source {
                alias: 0,
                topic: "a.b",
                session: json,
                name: "",
                uid: 1000,
                pid: 1100,
                client: 0,
            }),
            ToClient::Deliver(Deliver { sub: 1, source: 0, payload_length: 11, message }),
        ],
    );
    // What says it is JSON and is not arrives as text; the time is the publisher's, told as wall time.
    shell.say(native, ToBroker::Topic { alias: 0, topic: "a.c" });
    let flags = MessageFlags::new(tramline_wire::Encoding::Json);
    let time = START.monotonic - 1_000;
    let message = tramline_wire::Message { flags, time, ..super::harness::message(4, b"{oops") };
    shell.say(native, ToBroker::Publish(Publish { alias: 0, message }));
    let seen = r#"{"op":"msg","sub":1,"topic":"a.c","seq":4,"time":"2023-11-14T22:13:19.999999000Z","from":{"name":"n","uid":1000,"pid":1100},"text":"{oops"}"#;
    shell.hears_lines(json, &[seen]);
    shell.line(json, r#"{"op":"unsub","sub":1,"id":2}"#);
    shell.line(json, r#"{"op":"ping"}"#);
    shell.hears_lines(json, &[r#"{"ok":true,"op":"unsub","id":2}"#, r#"{"ok":true,"op":"ping"}"#]);
    shell.hang_up(json);
    shell.hang_up(native);
    shell.is_empty();
}

#[test]
fn each_publisher_by_lines_has_its_own_numbers_per_topic() {
    let mut shell = shell();
    let (one, two, reader) = (shell.json(), shell.json(), shell.json());
    shell.line(reader, r#"{"op":"sub","topic":">"}"#);
    shell.read(reader);
    for (id, topic) in [(one, "a"), (one, "a"), (two, "a"), (one, "b"), (one, "a")] {
        shell.line(id, &format!(r#"{{"op":"pub","topic":"{topic}","text":"x"}}"#));
    }
    let text = String::from_utf8(shell.read(reader)).unwrap();
    let seqs: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [1, 2, 1, 1, 3]);
}

#[test]
fn the_status_is_answered_with_what_the_broker_holds() {
    let mut shell = shell();
    let (json, native) = (shell.json(), shell.native("cam"));
    shell.say(native, ToBroker::Topic { alias: 0, topic: "t" });
    shell.say(native, ToBroker::Subscribe(subscribe(1, 4, "t")));
    shell.say(native, publish(0, 1, b"12345"));
    shell.line(json, r#"{"op":"status","id":1}"#);
    let line = String::from_utf8(shell.read(json)).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
    let status = &answer["status"];
    assert_eq!((answer["op"].as_str(), answer["id"].as_u64()), (Some("status"), Some(1)));
    assert_eq!(status["version"], "9.9.9");
    assert_eq!(status["clients"].as_array().unwrap().len(), 2);
    let cam = &status["clients"][1];
    assert_eq!((&cam["name"], &cam["language"]), (&"cam".into(), &"native".into()));
    assert_eq!((&cam["messages_in"], &cam["bytes_out"]), (&1.into(), &5.into()));
    assert_eq!(status["topics"][0]["topic"], "t");
    assert_eq!(status["subscriptions"][0]["filter"], "t");
    assert_eq!(status["totals"]["messages_out"], 1);
    assert!(status["limits"].as_array().unwrap().iter().any(|limit| limit["name"] == "topics_max"));
}

#[test]
fn a_client_by_lines_that_writes_no_more_is_heard_to_the_end() {
    let mut shell = shell();
    let (writer, viewer, asker) = (shell.json(), shell.json(), shell.json());
    shell.line(writer, r#"{"op":"pub","topic":"t","text":"x"}"#);
    assert_eq!(shell.core.half_closed(writer, shell.now), Flow::Close);
    shell.act();
    assert!(shell.closing.contains(&writer));
    shell.hears_lines(writer, &[r#"{"ok":true,"op":"pub","receivers":0}"#]);
    shell.line(viewer, r#"{"op":"sub","topic":"t"}"#);
    assert_eq!(shell.core.half_closed(viewer, shell.now), Flow::Continue);
    shell.act();
    assert!(!shell.closing.contains(&viewer));
    // A status that the shell is still to fill in is waited for.
    assert_eq!(shell.core.json_line(asker, br#"{"op":"status"}"#, shell.now), Flow::Continue);
    assert_eq!(shell.core.half_closed(asker, shell.now), Flow::Continue);
    shell.act();
    assert!(shell.closing.contains(&asker));
    assert!(shell.read(asker).starts_with(br#"{"ok":true,"op":"status","status":{"#));
}

#[test]
fn what_happens_is_told_to_those_who_ask() {
    let mut shell = shell();
    let json = shell.json();
    shell.line(json, r#"{"op":"sub","topic":"$tramline.>"}"#);
    shell.line(json, r#"{"op":"sub","topic":">"}"#);
    shell.read(json);
    let native = shell.native("cam");
    shell.say(native, ToBroker::Subscribe(subscribe(1, 1, "a..b")));
    shell.hang_up(native);
    let text = String::from_utf8(shell.read(json)).unwrap();
    let seen: Vec<(String, u64, serde_json::Value)> = text
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!((&value["from"]["name"], &value["sub"]), (&"tramline".into(), &1.into()));
            (
                value["topic"].as_str().unwrap().to_owned(),
                value["seq"].as_u64().unwrap(),
                value["data"].clone(),
            )
        })
        .collect();
    let topics: Vec<&str> = seen.iter().map(|(topic, _, _)| topic.as_str()).collect();
    assert_eq!(topics, ["$tramline.connect", "$tramline.refused", "$tramline.disconnect"]);
    assert!(seen.iter().all(|(_, seq, _)| *seq == 1));
    assert_eq!(seen[0].2["name"], "cam");
    assert_eq!(seen[1].2["code"], "bad_topic");
    assert_eq!(seen[2].2["session"], native);
}

#[test]
fn a_stopping_broker_says_so_to_everybody() {
    let mut shell = shell();
    let (native, json) = (shell.native("n"), shell.json());
    shell.core.shutdown(shell.now);
    shell.act();
    shell.hears(native, &[ToClient::Close { code: 16, message: "the broker is stopping" }]);
    shell.hears_lines(
        json,
        &[r#"{"op":"close","error":{"code":"shutting_down","message":"the broker is stopping"}}"#],
    );
    assert_eq!(shell.closing.len(), 2);
    shell.hang_up(native);
    shell.hang_up(json);
    shell.is_empty();
}
