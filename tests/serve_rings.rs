//! Rings that the broker reads on behalf of subscribers without rings, with real shared memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod raw;

use raw::Raw;
use raw::publisher::RawPublisher;
use support::{Broker, JsonLines};
use tramline_ring::Meta;
use tramline_wire::{Encoding, MessageFlags, ToBroker, ToClient};

fn json_meta() -> Meta {
    let flags = u16::from_le_bytes(flag_bytes(MessageFlags::new(Encoding::Json)));
    Meta { flags, time: 1, source_time: 0 }
}

fn flag_bytes(flags: MessageFlags) -> [u8; 2] {
    // The flags' number as it travels: the first two bytes of an encoded message.
    let mut bytes = Vec::new();
    tramline_wire::codec::encode_message(
        &mut bytes,
        &tramline_wire::Message { flags, ..raw::message(1, b"") },
    );
    [bytes[0], bytes[1]]
}

fn hear_message(lines: &mut JsonLines) -> serde_json::Value {
    let line = lines.hear();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[test]
fn a_json_subscriber_reads_a_ring_in_order_and_to_its_end() {
    let broker = Broker::start();
    let mut viewer = broker.json();
    assert_eq!(viewer.ask(r#"{"op":"sub","topic":"cam.*","reliable":true}"#)["ok"], true);
    let (mut publisher, readers) = RawPublisher::open(broker.socket(), "cam.front", 1024, 64);
    assert_eq!(readers, 1);
    for number in 0..1000_u32 {
        let payload = format!("{{\"number\": {number}}}");
        // The reader gates: without room the writer waits for it.
        while publisher.writer.try_send(json_meta(), b"", payload.as_bytes()).is_err() {
            std::thread::yield_now();
        }
    }
    publisher.close(1000);
    for number in 0..1000 {
        let message = hear_message(&mut viewer);
        assert_eq!(message["data"]["number"], number, "{message}");
        assert_eq!(message["seq"], number + 1);
        assert_eq!(message["topic"], "cam.front");
    }
    // With the link goes the last that the broker had mapped.
    drop(publisher);
    while broker.ring_mappings() > 0 {
        assert_eq!(viewer.ask(r#"{"op":"ping"}"#)["ok"], true);
    }
}

#[test]
fn a_publisher_that_dies_leaves_a_ring_that_is_read_to_its_end() {
    let broker = Broker::start();
    let mut viewer = broker.json();
    assert_eq!(viewer.ask(r#"{"op":"sub","topic":"a","reliable":true}"#)["ok"], true);
    let (mut publisher, _) = RawPublisher::open(broker.socket(), "a", 1024, 256);
    for number in 0..200_u32 {
        publisher.writer.try_send(json_meta(), b"", number.to_string().as_bytes()).unwrap();
    }
    drop(publisher);
    for number in 0..200 {
        assert_eq!(hear_message(&mut viewer)["data"], number);
    }
}

#[test]
fn a_late_native_subscriber_without_rings_is_attached_and_hears_what_follows() {
    let broker = Broker::start();
    let (mut publisher, readers) = RawPublisher::open(broker.socket(), "a", 1024, 16);
    assert_eq!(readers, 0);
    let (mut subscriber, _) = Raw::open(broker.socket(), "late");
    subscriber.send(&ToBroker::Subscribe(raw::subscription(1, "a")));
    publisher.admit_next();
    let mut sources = Vec::new();
    loop {
        let body = subscriber.body();
        match ToClient::decode(&body) {
            Ok(ToClient::Subscribed { streams: 1, pending: 0, .. }) => break,
            Ok(ToClient::Source(source)) => sources.push(source.alias),
            _ => panic!("{}", raw::shown(&body)),
        }
    }
    publisher.writer.try_send(Meta::default(), b"", b"through the ring").unwrap();
    loop {
        let body = subscriber.body();
        match ToClient::decode(&body) {
            Ok(ToClient::Source(source)) => sources.push(source.alias),
            Ok(ToClient::Deliver(deliver)) => {
                assert_eq!(deliver.message.payload, b"through the ring");
                assert_eq!(deliver.message.seq, 1);
                assert!(sources.contains(&deliver.source));
                break;
            }
            _ => panic!("{}", raw::shown(&body)),
        }
    }
}

#[test]
fn a_large_frame_appears_to_a_json_viewer_with_its_length_and_a_preview() {
    let broker = Broker::start();
    let mut viewer = broker.json();
    assert_eq!(viewer.ask(r#"{"op":"sub","topic":"a"}"#)["ok"], true);
    let bytes = 8 << 20;
    let (mut publisher, _) = RawPublisher::open(broker.socket(), "a", bytes as u64, 2);
    publisher.writer.try_send(Meta::default(), b"", &vec![b'x'; bytes]).unwrap();
    let message = hear_message(&mut viewer);
    assert_eq!(message["bytes"], bytes, "{message}");
    assert!(message["preview"].is_string(), "{message}");
}

#[test]
fn a_stopped_viewer_never_holds_up_a_publisher_and_learns_what_it_lost() {
    let broker = Broker::start();
    let mut viewer = broker.json();
    assert_eq!(viewer.ask(r#"{"op":"sub","topic":"a"}"#)["ok"], true);
    let (mut publisher, _) = RawPublisher::open(broker.socket(), "a", 4096, 16);
    let payload = format!("\"{}\"", "x".repeat(4000));
    let sent = 20_000_u64;
    for _ in 0..sent {
        // Lossy readers are never waited for: this never fails for want of room.
        publisher.writer.try_send(json_meta(), b"", payload.as_bytes()).unwrap();
    }
    publisher.close(sent);
    // Only now it reads. What it was told and what it was told to have lost add up to what was sent.
    let (mut heard, mut lost) = (0, 0);
    while heard + lost < sent {
        let line = hear_message(&mut viewer);
        match line["op"].as_str().unwrap() {
            "msg" => heard += 1,
            "gap" => lost += line["lost"].as_u64().unwrap(),
            other => panic!("{other}: {line}"),
        }
    }
    assert_eq!(heard + lost, sent);
    assert!(lost > 0);
}

fn status(broker: &Broker) -> serde_json::Value {
    let answer = broker.http("/status");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[test]
fn what_went_through_a_ring_stays_in_the_counts_when_its_publisher_has_gone() {
    let broker = Broker::start();
    let counted = |messages: u64| serde_json::json!({"messages": messages, "bytes": 3 * messages, "dropped": 0, "waits": 0});
    let (mut first, _) = RawPublisher::open(broker.socket(), "a", 1024, 16);
    let (mut second, _) = RawPublisher::open(broker.socket(), "a", 1024, 16);
    first.writer.try_send(json_meta(), b"", b"[1]").unwrap();
    for _ in 0..2 {
        second.writer.try_send(json_meta(), b"", b"[1]").unwrap();
    }
    let now = status(&broker);
    assert_eq!((&now["topics"][0]["rings"], &now["totals"]["rings"]), (&counted(3), &counted(3)));
    // One closes its stream, the other goes without a word.
    first.close(1);
    assert_eq!(status(&broker)["topics"][0]["rings"], counted(3));
    drop(second);
    let gone = loop {
        let now = status(&broker);
        assert_eq!((&now["topics"][0]["rings"], &now["totals"]["rings"]), (&counted(3), &counted(3)));
        if now["streams"].as_array().unwrap().is_empty() {
            break now;
        }
    };
    assert_eq!(gone["topics"][0]["messages"], 0, "none of them went by socket");
    assert!(broker.http("/metrics").contains("tramline_topic_ring_messages_total{topic=\"a\"} 3\n"));
    assert_eq!(broker.ring_mappings(), 0);
}

#[test]
fn status_shows_what_the_ring_says_about_itself() {
    let broker = Broker::start();
    let mut viewer = broker.json();
    assert_eq!(viewer.ask(r#"{"op":"sub","topic":"a","reliable":true}"#)["ok"], true);
    let (mut publisher, _) = RawPublisher::open(broker.socket(), "a", 1024, 16);
    for _ in 0..10 {
        publisher.writer.try_send(json_meta(), b"", b"[1]").unwrap();
    }
    for _ in 0..10 {
        hear_message(&mut viewer);
    }
    let status = status(&broker);
    let stream = &status["streams"][0];
    assert_eq!(stream["ring"]["messages"], 10, "{stream}");
    assert_eq!(stream["ring"]["bytes"], 30);
    assert_eq!(stream["readers"][0]["proxy"], true);
    assert_eq!(stream["readers"][0]["lost"], 0);
    assert!(stream["readers"][0]["lag"].as_u64().unwrap() <= 10);
}

#[test]
fn who_says_what_cannot_be_leaves_nothing_in_the_broker() {
    // Small messages, and large ones, which are copied whole on another thread for a queue.
    for (limits, bytes) in [("", 10), ("limits:\n  frame_bytes_max: 32768\n", 50_000)] {
        let broker = Broker::with_config(&format!("{limits}queues:\n  - name: q\n    bind: [cam.*]\n"));
        let mut viewer = broker.json();
        assert_eq!(viewer.ask(r#"{"op":"sub","topic":"cam.*"}"#)["ok"], true);
        let (files, mappings) = (broker.open_files(), broker.ring_mappings());
        let (mut publisher, readers) = RawPublisher::open(broker.socket(), "cam.front", 64 * 1024, 8);
        assert_eq!(readers, 2);
        let unknown_flags = Meta { flags: 0xff00, time: 1, source_time: 0 };
        publisher.writer.try_send(unknown_flags, b"", &vec![7; bytes]).unwrap();
        publisher.raw.expect_close(tramline_wire::Code::FalseClaim);
        drop(publisher);
        // The viewer is told of one that it has lost; answers come in between.
        while broker.open_files() > files || broker.ring_mappings() > mappings {
            viewer.say(r#"{"op":"ping"}"#);
            viewer.hear();
        }
        let limits = broker.json().ask(r#"{"op":"status"}"#)["status"]["limits"].clone();
        let attachments =
            limits.as_array().unwrap().iter().find(|each| each["name"] == "attachments_max").unwrap();
        assert_eq!(attachments["used"], 0);
    }
}
