//! Messages of topics that no frame holds, and that queues and routes take from rings: whole, in order with small ones, over the
//! death of the broker, and on to queues and services.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use support::{Broker, Watchdog, this_program};
use tramline_client::{Jobs, OnFull, Publisher};

const MIB: usize = 1 << 20;

/// Who copies slowly is waited for.
const PATIENT: &str = "limits:\n  gate_budget_millis_max: 60000\n  gate_publisher_millis_max: 60000\n";

/// Around what a frame holds, larger than the ring so far, and small ones in between.
const LENGTHS: [usize; 16] = [
    10,
    MIB - 200,
    MIB - 128,
    MIB - 127,
    MIB - 64,
    MIB,
    0,
    3,
    5 * MIB,
    5,
    9 * MIB + 3,
    4_095,
    4_096,
    20 * MIB,
    1,
    3 * MIB,
];

/// Bytes that no other number near it has, with the number in front.
fn payload(number: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![number.to_le_bytes()[0] ^ 0x55; length];
    bytes.iter_mut().zip(number.to_le_bytes()).for_each(|(at, byte)| *at = byte);
    bytes
}

fn send(publisher: &mut Publisher, number: usize) {
    let length = LENGTHS[number % LENGTHS.len()];
    publisher.message().type_("t").header("n", &number.to_le_bytes()).send(payload(number, length)).unwrap();
}

/// Takes these from a queue, one after the other. What was acknowledged before may come once more ahead of them.
#[track_caller]
fn take(jobs: &mut Jobs, numbers: std::ops::Range<usize>) {
    let first = numbers.start;
    for number in numbers {
        let mut job = jobs.recv().unwrap();
        while job.header("n").unwrap() < &first.to_le_bytes()[..] {
            job.ack().unwrap();
            job = jobs.recv().unwrap();
        }
        let expected = payload(number, LENGTHS[number % LENGTHS.len()]);
        assert_eq!(job.header("n"), Some(&number.to_le_bytes()[..]), "in order");
        assert_eq!((job.message_type(), job.topic()), (Some("t"), "big.a"));
        assert!(job.payload() == expected, "message {number} of {} bytes is another", expected.len());
        job.ack().unwrap();
    }
}

#[test]
fn a_bound_queue_on_disk_has_each_once_whole_and_in_order_over_the_death_of_its_broker() {
    let _watchdog = Watchdog::start();
    let config = PATIENT.to_owned()
        + "queues:\n  - name: q\n    bind: [big.*]\n    durability: disk\n    bytes_max: 1GiB\n";
    let mut broker = Broker::with_config(&config);
    let from = broker.client("from");
    let mut publisher = from.publisher("big.a").on_full(OnFull::Wait).open().unwrap();
    (0..16).for_each(|number| send(&mut publisher, number));
    let mut jobs = broker.client("to").consume("q").prefetch(2).start().unwrap();
    take(&mut jobs, 0..5);
    drop(jobs);
    // More is on its way: read, being copied, being written, or in the ring only.
    (16..22).for_each(|number| send(&mut publisher, number));
    broker.kill();
    (22..24).for_each(|number| send(&mut publisher, number));
    let broker = broker.again();
    (24..32).for_each(|number| send(&mut publisher, number));
    let mut jobs = broker.client("to").consume("q").prefetch(2).start().unwrap();
    take(&mut jobs, 5..32);
    assert!(jobs.try_recv().unwrap().is_none());
    publisher.close().unwrap();
}

/// Not a test unless it is started as a publisher: sends all and is gone.
#[test]
fn publisher_process() {
    if std::env::var_os("LARGE_TOPICS_PUBLISHER").is_none() {
        return;
    }
    let client = tramline_client::Client::builder().connect().unwrap();
    let mut publisher = client.publisher("big.a").on_full(OnFull::Wait).open().unwrap();
    (0..16).for_each(|number| send(&mut publisher, number));
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn what_a_publisher_left_that_was_killed_is_taken_to_the_end() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        &(PATIENT.to_owned() + "queues:\n  - name: q\n    bind: [big.*]\n    bytes_max: 1GiB\n"),
    );
    for _ in 0..4 {
        let (ended, said) = this_program("publisher_process", "LARGE_TOPICS_PUBLISHER", &broker);
        assert_eq!(ended.signal(), Some(9), "{said}");
        let mut jobs = broker.client("to").consume("q").prefetch(2).start().unwrap();
        take(&mut jobs, 0..16);
    }
    // It is not held mapped, nor waited for by anybody's message.
    while broker.ring_mappings() > 0 {
        broker.json().ask(r#"{"op":"ping"}"#);
    }
}

#[test]
fn a_route_takes_them_to_queues_and_services_whole() {
    let _watchdog = Watchdog::start();
    let config = PATIENT.to_owned()
        + "queues:\n  - name: q\n    bytes_max: 1GiB\nroutes:\n  - name: r\n    from: big.*\n    deliver:\n      \
         strategy: broadcast\n      ordered: true\n      to: [queue:q, service:look]\n      timeout: 60\n";
    let broker = Broker::with_config(&config);
    let instance = broker.client("instance");
    let mut requests = instance.service("look").start().unwrap();
    let from = broker.client("from");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = from.publisher("big.a").on_full(OnFull::Wait).open().unwrap();
            (0..32).for_each(|number| send(&mut publisher, number));
            publisher.close().unwrap();
        });
        for number in 0..32_usize {
            let request = requests.recv().unwrap();
            assert_eq!(request.header("n"), Some(&number.to_le_bytes()[..]), "in order");
            assert!(request.payload() == payload(number, LENGTHS[number % LENGTHS.len()]));
            request.reply(b"seen").unwrap();
        }
    });
    let mut jobs = broker.client("to").consume("q").prefetch(2).start().unwrap();
    for number in 0..32_usize {
        let job = jobs.recv().unwrap();
        assert!(job.payload() == payload(number, LENGTHS[number % LENGTHS.len()]), "message {number}");
        job.ack().unwrap();
    }
    let status = broker.json().ask(r#"{"op":"status"}"#);
    let route = &status["status"]["routes"][0];
    assert_eq!((route["received"].as_u64(), route["delivered"].as_u64()), (Some(32), Some(32)), "{route}");
}

#[test]
fn a_queue_that_drops_its_oldest_takes_all_that_is_large_and_others_go_on() {
    let _watchdog = Watchdog::start();
    let config = PATIENT.to_owned()
        + "queues:\n  - name: q\n    bind: [big.*]\n    when_full: drop_oldest\n    bytes_max: 64MiB\n";
    let broker = Broker::with_config(&config);
    let (from, other) = (broker.client("from"), broker.client("other"));
    let mut heard = other.subscribe("small").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = from.publisher("big.a").capacity(40 * MIB, 8).open().unwrap();
            let payload = payload(1, 20 * MIB);
            (0..40).for_each(|_| _ = publisher.send(&payload).unwrap());
            publisher.close().unwrap();
        });
        for number in 0..2_000_u32 {
            other.publish("small", number.to_le_bytes()).unwrap();
            assert_eq!(heard.recv().unwrap().payload(), number.to_le_bytes());
        }
    });
    let queue = loop {
        let status = broker.json().ask(r#"{"op":"status"}"#);
        let queue = status["status"]["queues"][0].clone();
        if queue["pushed"] == 40 {
            break queue;
        }
    };
    assert_eq!((queue["messages"].as_u64(), queue["lost"].as_u64()), (Some(3), Some(0)), "{queue}");
}

#[test]
fn a_queue_without_room_is_waited_for_within_the_budget_and_taken_from_again_afterwards() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "limits:\n  gate_budget_millis_max: 200\n  gate_publisher_millis_max: 200\n  gate_window_millis: 200\n  \
         gate_cooldown_millis: 300\nqueues:\n  - name: q\n    bind: [big.*]\n    bytes_max: 25MiB\n",
    );
    let from = broker.client("from");
    // One of its messages is more than a quarter of it.
    let mut publisher = from.publisher("big.a").capacity(5 * MIB, 3).on_full(OnFull::Wait).open().unwrap();
    let payload = vec![7; 5 * MIB];
    let mut sent = 0;
    for _ in 0..30 {
        publisher.send(&payload).unwrap();
        sent += 1;
    }
    let mut jobs = broker.client("to").consume("q").start().unwrap();
    let mut taken = 0;
    // With somebody who takes them there is an end to what is lost.
    let mut last_lost = None;
    loop {
        publisher.send(&payload).unwrap();
        sent += 1;
        while let Some(job) = jobs.recv_timeout(Duration::from_millis(300)).unwrap() {
            taken += 1;
            job.ack().unwrap();
        }
        let queue = broker.json().ask(r#"{"op":"status"}"#)["status"]["queues"][0].clone();
        let [lost, refused] = ["lost", "refused"].map(|key| queue[key].as_u64().unwrap());
        assert!(taken + lost + refused <= sent, "{queue}");
        if last_lost == Some((lost, refused)) && taken + lost + refused == sent {
            assert!(taken >= 5 && lost + refused > 0, "{taken} of {sent} taken: {queue}");
            return;
        }
        last_lost = Some((lost, refused));
    }
}
