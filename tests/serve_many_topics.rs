//! A publisher with a thousand topics and subscribers of all of them: everything is attached, each message arrives,
//! and the broker has one descriptor for each ring and none for their readers. The whole size, ten thousand topics
//! and eight subscribers in processes of their own, is `cargo bench --bench many_topics`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;
use support::Broker;
use tramline_client::{Client, Publisher, Subscription};

const TOPICS: usize = 1_000;
const SUBSCRIBERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

fn client(broker: &Broker, name: &str) -> Client {
    Client::builder().socket(broker.socket()).name(name).connect().unwrap()
}

#[test]
fn a_thousand_topics_of_one_publisher_reach_every_subscriber_of_all() {
    let broker = Broker::start();
    // Everything in one process: the rings, and each side's bells, whose number must not grow with that of topics.
    let needed = (TOPICS + 200) as u64;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        let wanted = rustix::process::Rlimit { current: Some(needed), ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
    }
    let readers: Vec<Client> =
        (0..SUBSCRIBERS).map(|number| client(&broker, &format!("reader {number}"))).collect();
    let mut subscriptions: Vec<Subscription> =
        readers.iter().map(|reader| reader.subscribe("many.>").unwrap()).collect();
    let writer = client(&broker, "writer");
    let before = broker.open_files();
    let own_before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut publishers: Vec<Publisher> = (0..TOPICS)
        .map(|number| writer.publisher(&format!("many.{number}")).capacity(64, 16).open().unwrap())
        .collect();
    for publisher in &publishers {
        publisher.wait_for_subscribers(SUBSCRIBERS, PATIENCE).unwrap();
    }
    for round in 0..3_u8 {
        for publisher in &mut publishers {
            publisher.send([round]).unwrap();
        }
        for subscription in &mut subscriptions {
            let mut topics = BTreeSet::new();
            for _ in 0..TOPICS {
                let message = subscription.recv_timeout(PATIENCE).unwrap().expect("every message arrives");
                assert_eq!((message.payload(), message.lost_before()), (&[round][..], 0));
                assert!(message.through_ring() && topics.insert(message.topic().to_owned()));
            }
        }
    }
    assert!(subscriptions.iter().all(|subscription| subscription.stream_count() == TOPICS));
    // A ring's memory, and for a moment what is on its way; a bell for each reader of each ring would be thousands.
    let held = broker.open_files() - before;
    assert!((TOPICS..TOPICS + 100).contains(&held), "the broker holds {held} descriptors for {TOPICS} rings");
    let own = std::fs::read_dir("/proc/self/fd").unwrap().count() - own_before;
    assert!((TOPICS..TOPICS + 100).contains(&own), "this process holds {own} descriptors for {TOPICS} rings");
    drop(publishers);
    drop(writer);
    for subscription in &mut subscriptions {
        // Its end is behind everything it sent.
        while subscription.stream_count() > 0 {
            assert!(subscription.recv_timeout(Duration::from_millis(1)).unwrap().is_none());
        }
    }
    while broker.open_files() > before {
        // The watchdog ends what hangs.
        std::thread::yield_now();
    }
}
