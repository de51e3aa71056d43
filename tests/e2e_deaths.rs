//! A process dies by `SIGKILL` at every step of publishing, reading, attaching and detaching, one after the other.
//! Each time the survivors go on, nothing stays in the broker, and another process takes its place.
//!
//! The steps are named in the code of the ring and the client (`step!`, compiled for tests only). A table in
//! `deaths/steps.rs` says who goes through each; a step that is in no table, or that nobody reaches, fails the test. The processes are this
//! test program itself, started again to play a part (see [`actor`]).
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod deaths;

use deaths::steps::{OF_A_PUBLISHER, OF_A_SUBSCRIBER, OF_WHO_IS_LEFT, TABLES};
use deaths::support::{Broker, part, say};
use deaths::{Dying, Readers, check_next, client, dies, held, held_here, settles, start, watchdog};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tramline_client::{Client, OnFull, Publisher, Subscription};

const LARGE_BYTES: usize = 64 * 1024;

/// Every third message is large and filled in place; of each, all bytes say its number.
fn send(publisher: &mut Publisher) -> tramline_client::Result<u64> {
    let number = publisher.next_seq();
    let byte = u8::try_from(number % 251).unwrap();
    match number % 3 {
        0 => {
            let mut loan = publisher.loan(LARGE_BYTES)?;
            loan.fill(byte);
            loan.send()
        }
        1 => publisher.send([byte; 12]),
        _ => publisher.send([byte; 1000]),
    }
}

fn assert_whole(seq: u64, payload: &[u8]) {
    let length = [LARGE_BYTES, 12, 1000][usize::try_from(seq % 3).unwrap()];
    assert_eq!(payload.len(), length, "message {seq}");
    let byte = u8::try_from(seq % 251).unwrap();
    assert!(payload.iter().all(|each| *each == byte), "message {seq} is a mixture");
}

/// What another process does when it is started for it. Without the variable this is no test of anything and
/// passes at once.
#[test]
fn actor() {
    let Some(part) = part() else { return };
    let client = Client::builder().name(part.as_str()).reconnect(false).connect().unwrap();
    match part.as_str() {
        "publish" => {
            let mut publisher =
                client.publisher("cam").capacity(LARGE_BYTES, 8).on_full(OnFull::Wait).open().unwrap();
            for _ in 0..60 {
                say(send(&mut publisher).unwrap());
            }
            publisher.close().unwrap();
        }
        "subscribe" => {
            let mut subscription = client.subscribe("cam").unwrap();
            say("ready");
            let mut held = Vec::new();
            for _ in 0..24 {
                let message = subscription.recv().unwrap();
                assert_whole(message.seq(), message.payload());
                if message.in_place() {
                    held.push(message);
                    held.drain(..held.len().saturating_sub(3));
                }
                say("read");
            }
            // One more for the last word, and then nothing: it sleeps.
            subscription.recv().unwrap();
            assert!(subscription.recv_timeout(Duration::from_millis(50)).unwrap().is_none());
            held.clear();
            drop(subscription);
            client.ping().unwrap();
            say("left");
        }
        "be left" => {
            let mut publisher = client.publisher("cam").capacity(LARGE_BYTES, 8).open().unwrap();
            say("ready");
            loop {
                let _ = send(&mut publisher);
            }
        }
        other => panic!("no such part: {other}"),
    }
}

#[test]
fn a_publisher_that_dies_at_any_step_leaves_whole_messages_a_clear_end_and_nothing_else() {
    let _watchdog = watchdog();
    let mut readers = Readers::start();
    for &(name, count) in OF_A_PUBLISHER {
        println!("{name}:{count}");
        let dying = Dying::start("publish", readers.broker.socket(), (name, count));
        if name == "publish: waits" {
            // Nobody makes room for it until then.
            dying.wait();
        }
        let (sent, last) = readers.read_to_its_end(dying, assert_whole);
        assert!((sent..=sent + 1).contains(&last), "{name}: {sent} were sent, {last} were read");
        readers.read_another("publish", 60, assert_whole);
    }
}

#[test]
fn a_subscriber_that_dies_at_any_step_holds_nobody_up_and_leaves_nothing() {
    let _watchdog = watchdog();
    let broker = Broker::start();
    let (from, to) = (client(broker.socket(), "publisher"), client(broker.socket(), "survivor"));
    let mut publisher = from.publisher("cam").capacity(LARGE_BYTES, 8).on_full(OnFull::Wait).open().unwrap();
    let mut survivor = to.subscribe("cam").unwrap();
    let (before, own) = (held(&broker), held_here());
    let mut last = 0;
    let mut send_and_read = |publisher: &mut Publisher, survivor: &mut Subscription| {
        send(publisher).unwrap();
        let message = survivor.recv().unwrap();
        check_next(&message, last, assert_whole);
        last = message.seq();
    };
    for &(name, count) in OF_A_SUBSCRIBER {
        let at = format!("{name}:{count}");
        println!("{at}");
        let mut dying = start("subscribe", broker.socket(), Some((name, count)));
        // One message at a time, so that it sleeps in between; until it has read enough, or is dead.
        while dying.next_word().is_some_and(|word| word != "left") {
            send_and_read(&mut publisher, &mut survivor);
        }
        dies(dying, &at);
        // Many times around the ring, and nobody is waited for who is not there.
        for _ in 0..30 {
            send_and_read(&mut publisher, &mut survivor);
        }
        let mut next = start("subscribe", broker.socket(), None);
        while next.next_word().is_some_and(|word| word != "left") {
            send_and_read(&mut publisher, &mut survivor);
        }
        assert!(next.child.wait().unwrap().success());
        settles(&broker, before, own, || {
            assert!(survivor.try_recv().unwrap().is_none());
            from.ping().unwrap();
        });
        assert_eq!(publisher.subscriber_count(), 1);
    }
}

#[test]
fn a_publisher_that_dies_while_it_is_left_leaves_nothing() {
    let _watchdog = watchdog();
    let broker = Broker::start();
    let client = client(broker.socket(), "reader");
    client.ping().unwrap();
    let (before, own) = (held(&broker), held_here());
    for &(name, count) in OF_WHO_IS_LEFT {
        let at = format!("{name}:{count}");
        println!("{at}");
        let mut dying = start("be left", broker.socket(), Some((name, count)));
        assert_eq!(dying.word(), "ready");
        let mut subscription = client.subscribe("cam").unwrap();
        let message = subscription.recv().unwrap();
        assert_whole(message.seq(), message.payload());
        drop((message, subscription));
        dies(dying, &at);
        settles(&broker, before, own, || {
            client.ping().unwrap();
        });
    }
}

#[test]
fn every_step_in_the_code_stands_in_a_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = BTreeSet::new();
    for folder in
        ["src/shell", "client/src", "client/ring/src", "client/ring/src/writer", "client/ring/src/reader"]
    {
        // A package comes without the other crates.
        let Ok(files) = std::fs::read_dir(root.join(folder)) else { return };
        for file in files {
            let path = file.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for rest in text.split("step!(\"").skip(1) {
                named.insert(rest.split('"').next().unwrap().to_owned());
            }
        }
    }
    let tried: BTreeSet<String> =
        TABLES.iter().copied().flatten().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(named, tried);
}
