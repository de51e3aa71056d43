//! Who may hold a publisher up, as programs meet it: subscribers that do not read, and what becomes of both sides.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod support;

use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::AsFd;
use std::time::Duration;
use support::{Broker, Watchdog};
use tramline_client::{Client, Code, Error, GatedBy, Mode, OnFull, PublisherEvent, Subscription};

const BUDGET: Duration = Duration::from_millis(300);

fn broker() -> Broker {
    Broker::with_config(
        "limits:\n  gate_budget_millis_max: 300\n  gate_publisher_millis_max: 300\n  gate_window_millis: 300\n  \
         gate_cooldown_millis: 100\n",
    )
}

/// Reads everything there is; numbers and losses must add up. Returns how many were lost.
fn read_to(last: u64, subscription: &mut Subscription) -> u64 {
    let mut seen = 0;
    while seen < last {
        let message = subscription.recv().unwrap();
        assert_eq!(message.seq(), seen + 1 + message.lost_before());
        seen = message.seq();
    }
    subscription.lost()
}

/// What was told of being evicted.
fn evictions(subscription: &mut Subscription) -> Vec<Duration> {
    let told = subscription.events().into_iter();
    told.filter_map(|event| match event {
        PublisherEvent::Evicted { source, blocked } => {
            assert_eq!(source.name, "a");
            Some(blocked)
        }
        _ => None,
    })
    .collect()
}

fn mode(subscription: &Subscription) -> Mode {
    let streams = subscription.streams();
    assert_eq!(streams.len(), 1);
    streams[0].1
}

#[test]
fn whoever_does_not_read_is_waited_for_no_longer_than_its_budget_and_told() {
    let _watchdog = Watchdog::start();
    let broker = broker();
    let (a, b, c) = (broker.client("a"), broker.client("b"), broker.client("c"));
    let mut hangs = b.subscribe("t").unwrap();
    let mut reads = c.subscribe("t").unwrap();
    let reader = std::thread::spawn(move || read_to(500, &mut reads));
    let mut p = a.publisher("t").capacity(64, 16).open().unwrap();
    for n in 0..500_u32 {
        p.send(n.to_le_bytes()).unwrap();
    }
    assert_eq!(reader.join().unwrap(), 0, "who reads loses nothing");
    assert!(read_to(500, &mut hangs) > 300);
    // It is told by socket, while its messages come by the ring.
    let mut told = evictions(&mut hangs);
    while told.is_empty() {
        assert!(hangs.recv_timeout(Duration::from_millis(1)).unwrap().is_none(), "all was read");
        told = evictions(&mut hangs);
    }
    assert!(told.len() == 1 && told[0] >= BUDGET, "{told:?}");
    assert_eq!(mode(&hangs), Mode::Lossy);
    // It reads again: after the cool-down it is waited for again, and told.
    while mode(&hangs) == Mode::Lossy {
        p.send([0]).unwrap();
        let _ = hangs.recv_timeout(Duration::from_millis(1)).unwrap();
    }
    assert!(matches!(hangs.events().as_slice(), [PublisherEvent::Gated(source)] if source.topic == "t"));
    let status = broker.json().ask(r#"{"op":"status"}"#);
    assert_eq!(status["status"]["totals"]["evictions"], 1);
}

#[test]
fn every_way_to_publish_goes_on() {
    let _watchdog = Watchdog::start();
    let broker = broker();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut hangs = b.subscribe("*").unwrap();
    // A large payload, which opens a ring by itself.
    for n in 0..20 {
        a.publish("big", vec![n; 300_000]).unwrap();
    }
    // Room to be filled in place.
    let mut p = a.publisher("loan").capacity(1000, 4).open().unwrap();
    for _ in 0..20 {
        p.loan(1000).unwrap().send().unwrap();
    }
    // Many at once, dropping what finds no room until there is some.
    let mut p = a.publisher("drop").capacity(64, 4).on_full(OnFull::Drop).open().unwrap();
    let mut sent = 0;
    while p.dropped() == 0 || p.next_seq() - p.dropped() < 100 {
        sent = p.send([1]).unwrap();
    }
    // Nobody tries: whoever waits on the descriptor is woken when there is room.
    let mut p = a.publisher("poll").capacity(64, 4).open().unwrap();
    for _ in 0..20 {
        loop {
            match p.try_send([1]) {
                Ok(_) => break,
                Err(Error::Full(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let mut fds = [PollFd::new(&p, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            let _ = p.as_fd();
        }
    }
    let mut lost = 0;
    let mut counted = 0;
    while counted + lost < 60 + sent {
        counted += 1;
        lost += hangs.recv().unwrap().lost_before();
    }
    let mut told = evictions(&mut hangs);
    while told.len() < 4 {
        assert!(hangs.recv_timeout(Duration::from_millis(10)).unwrap().is_none());
        told.extend(evictions(&mut hangs));
    }
    assert!(told.iter().all(|blocked| *blocked >= BUDGET), "{told:?}");
}

#[test]
fn gating_is_asked_for_and_refused_as_the_publisher_says() {
    let _watchdog = Watchdog::start();
    let broker = broker();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let open = |client: &Client, topic: &str, who| client.publisher(topic).gated_by(who).open().unwrap();
    let mut p = open(&a, "shy", GatedBy::Nobody);
    match b.subscription("shy").gated_only().open() {
        Err(Error::Refused { code: Code::GateRefused, message, .. }) => {
            assert!(message.contains("shy") && message.contains("nobody"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let mut s = b.subscribe("shy").unwrap();
    p.send([1]).unwrap();
    s.recv().unwrap();
    assert_eq!(mode(&s), Mode::Lossy);
    let events = s.events();
    assert!(
        matches!(events.as_slice(), [PublisherEvent::Appeared(_), PublisherEvent::Lossy(source)] if source.topic == "shy"),
        "{events:?}"
    );
    // One that comes later is told, and does not end the subscription.
    let mut only = b.subscription("later.*").gated_only().open().unwrap();
    let _shy = open(&a, "later.shy", GatedBy::Nobody);
    match only.recv() {
        Err(Error::Refused { code: Code::GateRefused, message, .. }) => {
            assert!(message.contains("later.shy"))
        }
        other => panic!("{other:?}"),
    }
    let mut p = open(&a, "later.open", GatedBy::OwnUid);
    p.send([2]).unwrap();
    assert_eq!(only.recv().unwrap().topic(), "later.open");
    assert_eq!(mode(&only), Mode::Gated);
}

#[test]
fn a_reliable_client_by_lines_that_does_not_read_is_told_too() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "limits:\n  gate_budget_millis_max: 200\n  gate_publisher_millis_max: 200\n  gate_window_millis: 200\n  \
         outbox_bytes_max: 16KiB\n  backlog_bytes_max: 16KiB\n",
    );
    let a = broker.client("a");
    let mut lines = broker.json();
    lines.ask(r#"{"op":"sub","topic":"t","reliable":true}"#);
    let mut p = a.publisher("t").capacity(1000, 16).open().unwrap();
    // More than socket, outbox, queue and ring hold together.
    for _ in 0..3_000 {
        p.send(vec![b'x'; 1000]).unwrap();
    }
    p.close().unwrap();
    let (mut seen, mut lost, mut told) = (0, 0, false);
    while seen + lost < 3_000 {
        let line: serde_json::Value = serde_json::from_str(&lines.hear()).unwrap();
        match line["op"].as_str().unwrap() {
            "msg" => {
                seen += 1;
                assert_eq!(line["seq"].as_u64().unwrap(), seen + lost);
            }
            "gap" => lost += line["lost"].as_u64().unwrap(),
            "mode" => {
                told = true;
                assert!(line["mode"] == "lossy" && line["blocked_millis"].as_u64().unwrap() >= 200);
            }
            other => panic!("{other}"),
        }
    }
    assert!(told && lost > 0);
}
