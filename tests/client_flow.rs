//! The client against a real broker: messages by socket and through rings, in order and without loss.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use rustix::process::Signal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Broker, Watchdog};
use tramline_client::{Client, Error, OnFull, PublisherEvent};

#[test]
fn a_message_arrives_with_everything_it_says() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("gps.>").unwrap();
    assert_eq!(a.publish("gps.fix", b"raw").unwrap(), 1);
    let sent = a.message("gps.fix").type_("fix").header("unit", b"deg").source_time(-5);
    assert_eq!(sent.publish(b"second").unwrap(), 2);
    let first = s.recv().unwrap();
    assert_eq!((first.topic(), first.seq(), first.payload()), ("gps.fix", 1, b"raw".as_slice()));
    assert_eq!((first.publisher().name.as_str(), first.publisher().pid), ("a", std::process::id()));
    assert!(!first.through_ring() && first.lost_before() == 0 && first.source_time().is_none());
    let second = s.recv().unwrap();
    assert_eq!((second.message_type(), second.header("unit")), (Some("fix"), Some(b"deg".as_slice())));
    assert_eq!((second.source_time(), second.seq()), (Some(-5), 2));
    assert!(second.time() >= first.time());
    assert!(s.try_recv().unwrap().is_none());
}

#[test]
fn a_refused_publish_is_told() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let a = broker.client("a");
    assert!(matches!(a.publish("gps..fix", b""), Err(Error::Topic { .. })));
    let refused = a.publish_confirmed("$tramline.x", b"").unwrap_err();
    assert_eq!(refused.code(), tramline_client::Code::ReservedTopic);
    assert_eq!(a.publish_confirmed("gps.fix", b"x").unwrap(), 0);
    let _s = a.subscribe("gps.*").unwrap();
    assert_eq!(a.publish_confirmed("gps.fix", b"x").unwrap(), 1);
}

#[test]
fn many_messages_by_socket_arrive_in_order() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("n").unwrap();
    let sender = std::thread::spawn(move || {
        let mut batch = a.batch();
        for block in 0..200_u32 {
            for n in 0..100_u32 {
                batch.publish("n", (block * 100 + n).to_le_bytes()).unwrap();
            }
            batch.send().unwrap();
        }
        a.flush().unwrap();
    });
    for n in 0..20_000_u32 {
        let message = s.recv().unwrap();
        assert_eq!((message.seq(), message.lost_before()), (u64::from(n) + 1, 0));
        assert_eq!(message.payload(), n.to_le_bytes());
    }
    sender.join().unwrap();
}

#[test]
fn a_publisher_and_a_subscription_meet_in_a_ring() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("cam.*").unwrap();
    let mut p = a.publisher("cam.front").capacity(1 << 20, 4).open().unwrap();
    assert_eq!(p.subscriber_count(), 1);
    let sender = std::thread::spawn(move || {
        for n in 0..50_u8 {
            let mut frame = p.loan(1 << 20).unwrap();
            frame.fill(n);
            frame.send().unwrap();
            p.send([n]).unwrap();
        }
        p.close().unwrap();
    });
    for n in 0..50_u8 {
        let frame = s.recv().unwrap();
        assert!(frame.through_ring() && frame.in_place(), "{frame:?}");
        assert_eq!(frame.payload().len(), 1 << 20);
        assert!(frame.payload().iter().all(|byte| *byte == n));
        assert_eq!(s.recv().unwrap().payload(), [n]);
    }
    sender.join().unwrap();
    assert!(s.recv_timeout(Duration::from_millis(20)).unwrap().is_none());
    let events = s.events();
    assert!(
        matches!(events.as_slice(), [PublisherEvent::Appeared(_), PublisherEvent::Left(_)]),
        "{events:?}"
    );
    assert_eq!((s.lost(), s.stream_count()), (0, 0));
}

#[test]
fn order_holds_when_a_topic_moves_between_the_planes() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t").unwrap();
    let sender = std::thread::spawn(move || {
        for _ in 0..10 {
            for _ in 0..5 {
                a.publish("t", b"socket").unwrap();
            }
            let mut p = a.publisher("t").open().unwrap();
            for _ in 0..5 {
                p.send(b"ring").unwrap();
            }
            a.publish("t", b"ring too").unwrap();
        }
        a
    });
    for n in 1..=110 {
        let message = s.recv().unwrap();
        assert_eq!((message.seq(), message.lost_before()), (n, 0), "{message:?}");
        assert_eq!(message.through_ring(), message.payload().starts_with(b"ring"));
    }
    drop(sender.join().unwrap());
}

#[test]
fn a_large_payload_finds_its_own_way() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("big").unwrap();
    let sizes = [10, 100_000, 3_000_000, 9_000_000, 10, 100];
    let sender = std::thread::spawn(move || {
        for (n, size) in sizes.into_iter().enumerate() {
            a.publish("big", vec![u8::try_from(n).unwrap(); size]).unwrap();
        }
        a
    });
    for (n, size) in sizes.into_iter().enumerate() {
        let message = s.recv().unwrap();
        assert_eq!((message.seq(), message.payload().len()), (n as u64 + 1, size));
        assert!(message.payload().iter().all(|byte| usize::from(*byte) == n));
        assert_eq!(message.through_ring(), n > 0);
    }
    drop(sender.join().unwrap());
}

#[test]
fn a_process_talks_to_itself() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let c = broker.client("self");
    let mut p = c.publisher("self").capacity(1000, 8).on_full(OnFull::Fail).open().unwrap();
    let mut s = c.subscribe("self").unwrap();
    p.wait_for_subscribers(1, Duration::from_secs(10)).unwrap();
    for n in 0..100_u8 {
        p.send([n]).unwrap();
        assert_eq!(s.recv().unwrap().payload(), [n]);
    }
    let full = loop {
        if let Err(error) = p.send([0; 900]) {
            break error;
        }
    };
    assert!(matches!(&full, Error::Full(full) if full.holder() == Some("self")), "{full}");
    while s.try_recv().unwrap().is_some() {}
    p.send(b"room again").unwrap();
    assert_eq!(s.recv().unwrap().payload(), b"room again");
}

#[test]
fn a_late_subscriber_gets_history_and_a_lossy_one_knows_its_loss() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut p = a.publisher("h").capacity(64, 16).history(16).open().unwrap();
    for n in 0..10_u8 {
        p.send([n]).unwrap();
    }
    let mut s = b.subscription("h").history(4).open().unwrap();
    for n in 6..10_u8 {
        assert_eq!(s.recv().unwrap().payload(), [n]);
    }
    let mut lossy = b.subscription("h").lossy().open().unwrap();
    drop(s);
    for n in 0..100_u8 {
        p.send([n]).unwrap();
    }
    let (mut seen, mut lost) = (0, 0);
    while let Some(message) = lossy.recv_timeout(Duration::from_millis(50)).unwrap() {
        seen += 1;
        lost += message.lost_before();
    }
    assert_eq!(seen + lost, 100);
    assert!(lost >= 84 && lossy.lost() == lost, "{lost}");
}

#[test]
fn what_the_operator_set_for_a_topic_sizes_its_rings() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "topics:\n  - {filter: 'cam.*', ring: {descriptors: 32, arena_bytes: 4MiB}}\n  - {filter: log.>, history: 1000}\n",
    );
    let client = broker.client("publisher");
    let _camera = client.publisher("cam.front").open().unwrap();
    let mut log = client.publisher("log.app").open().unwrap();
    let _other = client.publisher("other").open().unwrap();
    let _asked = client.publisher("cam.rear").capacity(1000, 4).open().unwrap();
    let page = broker.http("/status");
    let status: serde_json::Value = serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap();
    let memory = |topic: &str| {
        let streams = status["streams"].as_array().unwrap();
        let stream = streams.iter().find(|stream| stream["topic"] == topic).unwrap();
        (stream["descriptors"].as_u64().unwrap(), stream["arena_bytes"].as_u64().unwrap())
    };
    assert_eq!(memory("cam.front"), (32, 4 << 20));
    assert_eq!(memory("log.app"), (1024, 256 << 10));
    assert_eq!(memory("other"), (256, 256 << 10));
    assert_eq!(memory("cam.rear").0, 16, "a publisher that knows better has its way");

    for number in 0..1000_u32 {
        log.send(number.to_le_bytes()).unwrap();
    }
    let mut late = client.subscription("log.app").history(1000).open().unwrap();
    let first = late.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    // Room is taken back in batches of up to 64 messages, none of which was needed yet.
    assert_eq!(first.seq(), 1);
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Fix {
    lat: f64,
    name: String,
}

#[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)]
#[repr(C)]
struct Cloud {
    points: [[f32; 4]; 1024],
}

#[test]
fn values_travel_as_json_bincode_and_in_place() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("v").unwrap();
    let fix = Fix { lat: 48.25, name: "north".to_owned() };
    a.publish_json("v", &fix).unwrap();
    a.publish_bincode("v", &fix).unwrap();
    let json = s.recv().unwrap();
    assert_eq!((json.encoding(), json.json::<Fix>().unwrap()), (tramline_client::Encoding::Json, fix));
    assert_eq!(json.bincode::<u8>().unwrap_err().code(), tramline_client::Code::BadPayload);
    assert_eq!(s.recv().unwrap().bincode::<Fix>().unwrap().name, "north");
    let mut p = a.publisher("v").capacity(size_of::<Cloud>(), 2).open().unwrap();
    let mut cloud = p.loan_as::<Cloud>().unwrap();
    cloud.points[1023] = [1.0, 2.0, 3.0, 4.0];
    assert_eq!(cloud.send().unwrap(), 3);
    let message = s.recv().unwrap();
    assert_eq!(message.view::<Cloud>().unwrap().points[1023], [1.0, 2.0, 3.0, 4.0]);
    assert!(message.in_place() && message.view::<u64>().is_err());
}

#[test]
fn full_gives_a_loan_that_can_be_sent_later() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let c = broker.client("c");
    let mut p = c.publisher("l").capacity(100, 2).on_full(OnFull::Fail).open().unwrap();
    let mut s = c.subscribe("l").unwrap();
    let mut sent = 0;
    let mut loan = loop {
        match p.loan(100) {
            Ok(loan) => {
                loan.send().unwrap();
                sent += 1;
            }
            Err(Error::Full(full)) => break full.into_loan().unwrap(),
            Err(error) => panic!("{error}"),
        }
    };
    loan.fill(9);
    assert!(!loan.in_place());
    let Err(Error::Full(full)) = loan.send() else { panic!("there is no room") };
    let loan = full.into_loan().unwrap();
    for _ in 0..sent {
        s.recv().unwrap();
    }
    assert!(s.try_recv().unwrap().is_none());
    assert_eq!(loan.send().unwrap(), sent + 1);
    assert_eq!(s.recv().unwrap().payload(), [9; 100]);
    let mut dropping = c.publisher("d").capacity(100, 2).on_full(OnFull::Drop).open().unwrap();
    let mut s = c.subscribe("d").unwrap();
    for _ in 0..200 {
        dropping.loan(100).unwrap().send().unwrap();
    }
    let dropped = dropping.dropped();
    assert!(dropped > 0 && dropping.next_seq() == 201);
    drop(dropping);
    let mut seen = 0;
    while let Some(_message) = s.recv_timeout(Duration::from_millis(50)).unwrap() {
        seen += 1;
    }
    assert_eq!(seen + dropped, 200);
}

#[test]
fn a_refused_subscription_is_not_ended_a_second_time() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let client = broker.client("asks too much");
    let refused = client.subscription("a").history(1_000_000).open().err().unwrap();
    assert!(refused.limit().is_some(), "{refused}");
    client.ping().unwrap();
    let page = broker.http("/status");
    let status: serde_json::Value = serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(status["totals"]["violations"], 0);
}

/// Whoever makes room for the others tells them, also a thread that only wanted to send something itself.
#[test]
fn threads_that_wait_for_room_on_one_socket_all_go_on() {
    const THREADS: usize = 6;
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let builder =
        Client::builder().socket(broker.socket()).name("many").request_timeout(Duration::from_secs(3600));
    let client = builder.ring_payload_bytes_min(usize::MAX).connect().unwrap();
    for _ in 0..20 {
        // What is left of the round before would fill the buffers at once.
        client.flush().unwrap();
        broker.signal(Signal::STOP);
        let sent = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..400 {
                            client.publish("x", [0; 512])?;
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok::<(), Error>(())
                    })
                })
                .collect();
            // They fill the buffers of socket and client in a moment.
            while sent.load(Ordering::Relaxed) < 50 {
                std::thread::yield_now();
            }
            broker.signal(Signal::CONT);
            for thread in all {
                thread.join().unwrap().unwrap();
            }
        });
    }
}
