//! Queues on disk that are bound to rings, over the death of the broker: whoever publishes waits for what is not stored, for
//! as long as was granted, and the queue has it once and in order; what was missed beyond that is counted.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{Broker, Watchdog};
use tramline_client::{AsyncClient, Client, Error, OnFull, Publisher};

/// Messages that a ring of these tests keeps for late readers.
const KEPT: u32 = 64;

/// Most messages that such a ring can hold.
const HELD_MAX: u64 = 1024;

/// How often the broker is killed while somebody publishes.
const KILLS: u64 = 8;

/// A broker whose publishers are not let go by any other clock than the one that is tested.
fn broker(cursor_grace_millis: u32) -> Broker {
    Broker::with_config(&format!(
        "limits: {{cursor_grace_millis: {cursor_grace_millis}, gate_budget_millis_max: 600000, \
         gate_publisher_millis_max: 600000, gate_window_millis: 600000}}\n\
         queues: [{{name: log, durability: disk, bind: [log.>]}}]"
    ))
}

fn publisher(client: &Client, on_full: OnFull) -> Publisher {
    client.publisher("log.app").capacity(64, KEPT).on_full(on_full).open().unwrap()
}

/// What the queue counts under this name.
fn count(broker: &Broker, what: &str) -> u64 {
    let status = broker.json().ask(r#"{"op":"status"}"#);
    status["status"]["queues"][0][what].as_u64().unwrap()
}

/// Waits until the queue has so many, lost ones included.
fn comes_to(broker: &Broker, messages: u64) {
    while count(broker, "messages") + count(broker, "lost") < messages {
        std::thread::yield_now();
    }
}

/// All that is in the queue, in order.
fn take_all(broker: &Broker) -> Vec<u64> {
    let mut left = count(broker, "messages");
    let client = broker.client("consumes");
    let mut jobs = client.consume("log").start().unwrap();
    let mut taken = Vec::new();
    while left > 0 {
        let job = jobs.recv().unwrap();
        taken.push(u64::from_le_bytes(job.payload().try_into().unwrap()));
        job.ack().unwrap();
        left -= 1;
    }
    taken
}

/// Publishes numbers from the one behind `last` on until there is no room, or so many.
fn fill(publisher: &mut Publisher, last: &mut u64, most: u64) {
    let first = *last;
    while *last - first < most {
        match publisher.send((*last + 1).to_le_bytes()) {
            Ok(_) => *last += 1,
            Err(Error::Full(_)) => return,
            Err(error) => panic!("{error}"),
        }
        assert!(*last - first <= HELD_MAX, "nobody is waited for");
    }
}

/// Publishes until there is room again, then so many more.
fn go_on(publisher: &mut Publisher, last: &mut u64, more: u64) {
    let end = *last + more;
    while *last < end {
        match publisher.send((*last + 1).to_le_bytes()) {
            Ok(_) => *last += 1,
            Err(Error::Full(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_is_published_while_the_broker_is_away_waits_for_its_queue() {
    let _watchdog = Watchdog::start();
    let mut broker = broker(600_000);
    let client = broker.client("publishes");
    let mut publisher = publisher(&client, OnFull::Fail);
    let mut last = 0;
    // Nothing was stored of it yet but that it is there.
    fill(&mut publisher, &mut last, 30);
    for stops in [false, true, false] {
        if stops {
            assert!(broker.stop().success());
        } else {
            broker.kill();
        }
        fill(&mut publisher, &mut last, u64::MAX);
        broker = broker.again();
        // The place that was kept is given up when there is a reader again: nothing is in the way of this.
        go_on(&mut publisher, &mut last, 2 * HELD_MAX);
        // By now it is known what was missed meanwhile.
        assert_eq!(count(&broker, "lost"), 0);
        comes_to(&broker, last);
    }
    assert!(take_all(&broker).into_iter().eq(1..=last), "each once, in order");
}

#[test]
fn what_was_read_and_not_stored_when_the_broker_was_killed_is_still_in_the_ring() {
    let _watchdog = Watchdog::start();
    let mut broker = broker(600_000);
    let (sent, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (client, count_of, ends) = (broker.client("publishes"), Arc::clone(&sent), Arc::clone(&done));
    let mut publisher = publisher(&client, OnFull::Wait);
    let publishing = std::thread::spawn(move || {
        while !ends.load(Ordering::Acquire) {
            let next = count_of.load(Ordering::Relaxed) + 1;
            publisher.send(next.to_le_bytes()).unwrap();
            count_of.store(next, Ordering::Release);
        }
        publisher
    });
    let goes_on = || {
        let from = sent.load(Ordering::Acquire);
        while sent.load(Ordering::Acquire) < from + 2 * HELD_MAX {
            std::thread::yield_now();
        }
    };
    for _ in 0..KILLS {
        goes_on();
        // By now it is known what was missed before.
        assert_eq!(count(&broker, "lost"), 0);
        broker.kill();
        broker = broker.again();
    }
    goes_on();
    assert_eq!(count(&broker, "lost"), 0);
    done.store(true, Ordering::Release);
    let publisher = publishing.join().unwrap();
    let last = sent.load(Ordering::Acquire);
    comes_to(&broker, last);
    assert!(take_all(&broker).into_iter().eq(1..=last), "each once, in order");
    drop((publisher, client));
}

#[test]
fn nobody_is_waited_for_beyond_the_grace_and_what_was_missed_is_counted() {
    let _watchdog = Watchdog::start();
    let mut broker = broker(300);
    let client = broker.client("publishes");
    let mut publisher = publisher(&client, OnFull::Fail);
    let mut last = 0;
    go_on(&mut publisher, &mut last, 100);
    // On disk, and not only read.
    while count(&broker, "pushed") < last {
        std::thread::yield_now();
    }
    let killed = std::time::Instant::now();
    broker.kill();
    fill(&mut publisher, &mut last, u64::MAX);
    go_on(&mut publisher, &mut last, 1);
    assert!(killed.elapsed().as_millis() >= 300, "it was waited for as long as that");
    go_on(&mut publisher, &mut last, 2 * HELD_MAX);
    broker = broker.again();
    go_on(&mut publisher, &mut last, 100);
    comes_to(&broker, last);
    let lost = count(&broker, "lost");
    let taken = take_all(&broker);
    assert!(lost > HELD_MAX && lost + taken.len() as u64 == last, "{lost} lost of {last}");
    let (before, behind) = taken.split_at(100);
    assert!(before.iter().copied().eq(1..=100));
    assert!(behind.iter().copied().eq(last + 1 - behind.len() as u64..=last));
}

#[test]
fn who_waits_for_room_goes_on_when_the_grace_is_over() {
    let _watchdog = Watchdog::start();
    let mut broker = broker(300);
    let client = broker.client("publishes");
    let mut blocking = publisher(&client, OnFull::Wait);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let builder = AsyncClient::builder().name("publishes, too").socket(broker.socket());
    let asynchronous = runtime.block_on(builder.connect_async()).unwrap();
    let mut waiting =
        runtime.block_on(async { asynchronous.publisher("log.too").capacity(64, KEPT).await }).unwrap();
    assert_eq!((blocking.subscriber_count(), waiting.subscriber_count()), (1, 1));
    broker.kill();
    for number in 0..2 * HELD_MAX {
        blocking.send(number.to_le_bytes()).unwrap();
    }
    runtime.block_on(async {
        for number in 0..2 * HELD_MAX {
            waiting.send(number.to_le_bytes()).await.unwrap();
        }
    });
    assert_eq!((blocking.subscriber_count(), waiting.subscriber_count()), (0, 0));
}

#[test]
fn without_a_grace_nobody_is_waited_for() {
    let _watchdog = Watchdog::start();
    let mut broker = broker(0);
    let client = broker.client("publishes");
    let mut publisher = publisher(&client, OnFull::Wait);
    let mut last = 0;
    go_on(&mut publisher, &mut last, 100);
    comes_to(&broker, last);
    broker.kill();
    go_on(&mut publisher, &mut last, 2 * HELD_MAX);
    broker = broker.again();
    go_on(&mut publisher, &mut last, 1);
    comes_to(&broker, last);
    assert!(count(&broker, "lost") > HELD_MAX);
}
