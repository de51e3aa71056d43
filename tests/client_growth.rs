//! Rings that grow while they are read: order, loss, held messages, limits, and the broker's death on the way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;
use support::{Broker, Watchdog};
use tramline_client::{Client, Code, Error, Message, OnFull, Publisher, Subscription};

/// Bytes that tell which message they belong to.
fn bytes(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(number % 251).unwrap(); length.max(8)];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn check(message: &Message) -> u64 {
    let number = u64::from_le_bytes(message.payload()[..8].try_into().unwrap());
    assert_eq!(message.payload(), bytes(number, message.payload().len()), "message {number} is torn");
    number
}

/// What a stream's generation is, and how much memory its generations take, as the broker says.
fn stream(broker: &Broker) -> (u64, u64) {
    loop {
        let answer = broker.http("/status");
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let status: serde_json::Value = serde_json::from_str(body).unwrap();
        let stream = &status["streams"][0];
        // One that was announced is not shown before its memory has been checked.
        if let Some(generation) = stream["generation"].as_u64() {
            return (generation, stream["memory_bytes"].as_u64().unwrap());
        }
    }
}

fn send(p: &mut Publisher, number: u64, length: usize) {
    assert_eq!(p.send(bytes(number, length)).unwrap(), number);
}

fn receive(s: &mut Subscription, number: u64) -> Message {
    let message = s.recv().unwrap();
    assert_eq!((check(&message), message.lost_before(), message.seq()), (number, 0, number));
    message
}

#[test]
fn a_growing_ring_loses_nothing_for_gated_lossy_and_holding_readers() {
    const MESSAGES: u64 = 2_400;
    const LARGE: [usize; 4] = [14_000, 80_000, 480_000, 2_900_000];
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b, c) = (broker.client("a"), broker.client("b"), broker.client("c"));
    let mut gated = b.subscribe("t").unwrap();
    let mut lossy = c.subscription("t").lossy().open().unwrap();
    let mut p = a.publisher("t").capacity(1000, 2).history(64).open().unwrap();
    let sender = std::thread::spawn(move || {
        for number in 1..=MESSAGES {
            // Small ones, and from time to time one that is larger than the ring.
            let small = 8 + usize::try_from(number).unwrap() % 700;
            let length = match number {
                500 | 1000 | 1500 | 2000 => LARGE[usize::try_from(number).unwrap() / 500 - 1],
                _ => small,
            };
            send(&mut p, number, length);
        }
        p.close().unwrap();
    });
    let watching = std::thread::spawn(move || {
        let (mut last, mut read, mut lost) = (0, 0, 0);
        // What is lost behind the last message shows in no message.
        while read == 0 || lossy.stream_count() > 0 {
            let Some(message) = lossy.recv_timeout(Duration::from_millis(50)).unwrap() else { continue };
            assert_eq!(message.seq(), last + message.lost_before() + 1, "losses and numbers add up");
            (last, read, lost) = (message.seq(), read + 1, lost + message.lost_before());
            assert_eq!(check(&message), message.seq());
        }
        assert_eq!(read + lost, last);
        assert!(last <= MESSAGES);
    });
    let mut held = BTreeMap::new();
    for number in 1..=MESSAGES {
        let message = receive(&mut gated, number);
        if message.in_place() {
            held.insert(number, message);
        }
    }
    // Messages of several generations are as they were when they came.
    assert_eq!(held.len(), LARGE.len());
    for (number, message) in held {
        assert_eq!(check(&message), number);
    }
    sender.join().unwrap();
    watching.join().unwrap();
    assert_eq!(gated.lost(), 0);
}

#[test]
fn what_was_left_is_given_back_and_the_status_says_where_a_stream_is() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t").unwrap();
    let mut p = a.publisher("t").capacity(10_000, 4).open().unwrap();
    send(&mut p, 1, 9_000);
    let held = receive(&mut s, 1);
    assert!(held.in_place());
    let (generation, first) = stream(&broker);
    assert_eq!(generation, 0);
    send(&mut p, 2, 1 << 20);
    receive(&mut s, 2);
    // The publisher sees at its next message that the reader went on.
    send(&mut p, 3, 8);
    receive(&mut s, 3);
    p.wait_for_subscribers(1, Duration::from_secs(1)).unwrap();
    a.ping().unwrap();
    let (generation, both) = stream(&broker);
    assert_eq!(generation, 1);
    assert!(both > first + (1 << 20));
    assert_eq!(check(&held), 1);
    drop(held);
    b.ping().unwrap();
    let (_, second) = stream(&broker);
    assert_eq!(second, both - first, "the first generation is counted until nobody has it");
}

#[test]
fn without_a_broker_small_messages_go_on_and_large_ones_say_why_not() {
    let _watchdog = Watchdog::start();
    let mut broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t").unwrap();
    let mut p = a.publisher("t").capacity(1_000, 16).open().unwrap();
    send(&mut p, 1, 100);
    send(&mut p, 2, 100_000);
    send(&mut p, 3, 100);
    broker.kill();
    while a.is_connected() {
        assert!(p.wait_for_subscribers(9, Duration::from_millis(5)).is_err());
    }
    let error = p.send(bytes(4, 10_000_000)).unwrap_err();
    assert!(matches!(error, Error::BrokerDown { bytes: 10_000_000, .. }), "{error:?}");
    assert!(error.is_retryable() && error.code() == Code::PeerGone);
    assert!(error.to_string().contains("the broker is down"), "{error}");
    send(&mut p, 4, 200);
    for number in 1..=4 {
        receive(&mut s, number);
    }
    let broker = broker.again();
    while !(a.is_connected() && b.is_connected()) {
        assert!(p.wait_for_subscribers(9, Duration::from_millis(5)).is_err());
        assert!(s.try_recv().unwrap().is_none());
    }
    // A subscription that reads on may take its time to be attached anew; the stream kept its generation.
    assert_eq!(stream(&broker).0, 1);
    b.ping().unwrap();
    p.wait_for_subscribers(1, Duration::from_secs(30)).unwrap();
    for (number, length) in [(5, 300), (6, 10_000_000), (7, 8), (8, 30_000_000), (9, 8)] {
        send(&mut p, number, length);
        receive(&mut s, number);
    }
    assert_eq!(stream(&broker).0, 2);
}

#[test]
fn a_reader_that_slept_through_growth_and_the_brokers_death_misses_nothing() {
    let _watchdog = Watchdog::start();
    let mut broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t").unwrap();
    let mut p = a.publisher("t").capacity(1_000, 2).open().unwrap();
    for (number, length) in [(1, 100), (2, 100_000), (3, 100), (4, 4_000_000), (5, 100)] {
        send(&mut p, number, length);
    }
    broker.kill();
    let broker = broker.again();
    while !(a.is_connected() && b.is_connected()) {
        assert!(p.wait_for_subscribers(9, Duration::from_millis(5)).is_err());
    }
    b.ping().unwrap();
    for number in 1..=5 {
        receive(&mut s, number);
    }
    send(&mut p, 6, 9_000_000);
    receive(&mut s, 6);
    assert_eq!(stream(&broker).0, 3);
}

#[test]
fn growth_beyond_a_limit_is_refused_by_name_and_the_stream_goes_on() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("limits:\n  ring_bytes_max: 2000000\n  rings_bytes_max: 3000000\n");
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t").unwrap();
    let mut p = a.publisher("t").capacity(1_000, 16).open().unwrap();
    let error = p.send(bytes(1, 2_500_000)).unwrap_err();
    let limit = error.limit().unwrap();
    assert_eq!((&*limit.name, limit.value), ("limits.ring_bytes_max", 2_000_000));
    send(&mut p, 1, 100);
    send(&mut p, 2, 1_500_000);
    send(&mut p, 3, 100);
    let held: Vec<Message> = (1..=3).map(|number| receive(&mut s, number)).collect();
    let other = a.publisher("u").capacity(1_000, 500).open().unwrap();
    let error = p.send(bytes(4, 1_900_000)).unwrap_err();
    assert_eq!(error.code(), Code::LimitReached, "{error:?}");
    assert_eq!(error.limit().unwrap().name, "rings_bytes_max", "{error:?}");
    send(&mut p, 4, 100);
    receive(&mut s, 4);
    drop((held, other));
}

#[test]
fn a_stream_that_a_new_broker_refuses_is_told_why_it_cannot_grow_and_goes_on() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut streams = ["t", "u"]
        .map(|topic| (a.publisher(topic).capacity(1_000, 4).open().unwrap(), b.subscribe(topic).unwrap()));
    // One of the two is open first; the other is one too many.
    let broker = broker.again_with("limits: {session_streams_max: 1}\n");
    let (mut told, mut refused) = (0, 0);
    for (p, s) in &mut streams {
        let mut outcome = || loop {
            match p.send(bytes(1, 1 << 20)) {
                Err(Error::BrokerDown { .. }) => {}
                other => {
                    break other
                        .map_err(|error| (error.code(), error.limit().map(|limit| limit.name.clone())));
                }
            }
        };
        // Each call says so, and none makes memory until its time is up. What became of the stream is told once besides, to
        // whoever asks first.
        let outcomes = [outcome(), outcome(), outcome()];
        let told_why = (Code::LimitReached, Some("session_streams_max".to_owned()));
        let failures = outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(|why| *why == told_why));
        match failures.count() {
            3 => refused += 1,
            count => told += count,
        }
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.is_ok() || outcome.as_ref().is_err_and(|why| *why == told_why))
        );
        let sent = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
        // Its reader of before reads on, refused or not.
        let last = p.send(b"small").unwrap();
        assert_eq!(last, sent + 1);
        for seq in 1..=last {
            assert_eq!(s.recv().unwrap().seq(), seq);
        }
    }
    assert_eq!(refused, 1);
    assert!(told <= 1);
    drop(broker);
}

#[test]
fn a_publisher_that_never_waits_starts_growth_and_tries_again() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let a = broker.client("a");
    let mut s = a.subscribe("t").unwrap();
    let mut p = a.publisher("t").capacity(1_000, 16).on_full(OnFull::Fail).open().unwrap();
    let large = bytes(1, 400_000);
    let mut tries = 0;
    loop {
        match p.try_send(&large) {
            Ok(seq) => break assert_eq!(seq, 1),
            Err(Error::Full(full)) => assert!(full.is_growing() && full.holder().is_none(), "{full}"),
            Err(error) => panic!("{error:?}"),
        }
        tries += 1;
        let fd = p.room_fd().unwrap();
        let fd = rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN);
        rustix::event::poll(&mut [fd], None).unwrap();
    }
    assert!(tries > 0);
    receive(&mut s, 1);
}

#[test]
fn loans_that_are_out_are_sent_in_the_next_generation() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t").unwrap();
    let mut p = a.publisher("t").capacity(10_000, 8).open().unwrap();
    let mut early = p.loan(9_000).unwrap();
    let dropped = p.loan(5_000).unwrap();
    send(&mut p, 1, 100_000);
    let mut larger = p.loan(200_000).unwrap();
    early.copy_from_slice(&bytes(2, 9_000));
    larger.copy_from_slice(&bytes(3, 200_000));
    send_loan(early, 2);
    drop(dropped);
    send_loan(larger, 3);
    for number in 1..=3 {
        receive(&mut s, number);
    }
}

fn send_loan(loan: tramline_client::Loan, number: u64) {
    assert_eq!(loan.send().unwrap(), number);
}

#[test]
fn plain_publishes_make_their_ring_grow_and_keep_it() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t").unwrap();
    for (number, length) in [(1, 200_000), (2, 3_000_000), (3, 10), (4, 20_000_000)] {
        assert_eq!(a.publish("t", bytes(number, length)).unwrap(), number);
        assert!(receive(&mut s, number).through_ring());
    }
    assert_eq!(stream(&broker).0, 2);
    assert_eq!(s.events().len(), 1, "one stream, not one for each size");
}

#[test]
fn a_client_without_rings_reads_on() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let a = broker.client("a");
    let mut json = broker.json();
    json.ask(r#"{"op":"sub","topic":"t","reliable":true}"#);
    let mut p = a.publisher("t").capacity(1_000, 4).open().unwrap();
    assert_eq!(p.subscriber_count(), 1);
    let lengths = [10, 5_000, 10, 20_000, 10, 10, 300_000, 10];
    for (number, length) in (1..).zip(lengths) {
        send(&mut p, number, length);
    }
    for number in 1..=lengths.len() {
        let message: serde_json::Value = serde_json::from_str(&json.hear()).unwrap();
        assert_eq!(message["seq"], number, "{message}");
    }
    assert_eq!(stream(&broker).0, 2);
}

#[test]
fn a_publisher_that_dies_after_growth_is_read_to_its_end() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let b = broker.client("b");
    let mut s = b.subscribe("t").unwrap();
    let a = broker.client("a");
    let mut p = a.publisher("t").capacity(1_000, 16).open().unwrap();
    for (number, length) in [(1, 100), (2, 100_000), (3, 100), (4, 4_000_000), (5, 100)] {
        send(&mut p, number, length);
    }
    // Nobody has read anything yet; what the publisher had is unmapped and closed.
    drop((p, a));
    for number in 1..=5 {
        receive(&mut s, number);
    }
    assert!(s.recv_timeout(Duration::from_millis(20)).unwrap().is_none());
    assert_eq!((s.lost(), s.stream_count()), (0, 0));
}

#[test]
fn the_async_publisher_grows_without_blocking() {
    let broker = Broker::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let test = async {
            let builder = || Client::builder().socket(broker.socket());
            let a = builder().connect_async().await.unwrap();
            let b = builder().connect_async().await.unwrap();
            let mut s = b.subscribe("t").await.unwrap();
            let mut p = a.publisher("t").capacity(1_000, 8).await.unwrap();
            for (number, length) in [(1, 10), (2, 50_000), (3, 10), (4, 2_000_000)] {
                assert_eq!(p.send(bytes(number, length)).await.unwrap(), number);
            }
            let mut loan = p.loan(9_000_000).await.unwrap();
            loan.copy_from_slice(&bytes(5, 9_000_000));
            assert_eq!(loan.send().unwrap(), 5);
            assert_eq!(a.publish("u", bytes(1, 200_000)).await.unwrap(), 1);
            assert_eq!(a.publish("u", bytes(2, 9_000_000)).await.unwrap(), 2);
            for number in 1..=5 {
                let message = s.recv().await.unwrap();
                assert_eq!((check(&message), message.lost_before()), (number, 0));
            }
        };
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs");
    });
}

#[test]
fn a_broker_that_does_not_answer_is_not_waited_for_without_end() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let builder = || Client::builder().socket(broker.socket()).request_timeout(Duration::from_millis(300));
    let blocking = builder().connect().unwrap();
    let mut p = blocking.publisher("t").capacity(1_000, 8).open().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let a = runtime.block_on(builder().connect_async()).unwrap();
    let mut q = runtime.block_on(async { a.publisher("u").capacity(1_000, 8).await.unwrap() });
    broker.signal(rustix::process::Signal::STOP);
    for error in
        [p.send(bytes(1, 100_000)).unwrap_err(), runtime.block_on(q.send(bytes(1, 100_000))).unwrap_err()]
    {
        assert!(matches!(error, Error::TimedOut { .. }) && error.to_string().contains("growth"), "{error:?}");
    }
    // What fits goes on.
    assert_eq!((p.send(b"x").unwrap(), runtime.block_on(q.send(b"x")).unwrap()), (1, 1));
    broker.signal(rustix::process::Signal::CONT);
}

#[test]
fn a_reader_that_holds_too_much_is_detached_and_keeps_it_while_the_stream_goes_on() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("limits:\n  gate_budget_millis_max: 1000\n");
    let (a, b, c) = (broker.client("a"), broker.client("b"), broker.client("c"));
    let mut own = b.subscribe("t").unwrap();
    let mut greedy = c.subscription("t").lossy().open().unwrap();
    let mut p = a.publisher("t").capacity(10_000, 8).open().unwrap();
    send(&mut p, 1, 10_000);
    // It reads the ring from now on, and not only from the time on when its client is given a turn.
    let (mut held, mut fault) = (vec![receive(&mut greedy, 1)], None);
    receive(&mut own, 1);
    for number in 2..=40 {
        send(&mut p, number, 10_000);
        receive(&mut own, number);
        match greedy.try_recv() {
            Ok(message) => held.extend(message),
            Err(error) => fault = Some(error),
        }
    }
    assert_eq!(stream(&broker).0, 1, "one new generation was enough");
    let error = loop {
        match fault.take().map_or_else(|| greedy.recv(), Err) {
            Ok(message) => held.push(message),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::HeldTooMuch, "{error}");
    assert!(error.to_string().contains("limits.held_bytes_max"), "{error}");
    assert!(held.len() >= 4);
    for message in &held {
        check(message);
    }
}
