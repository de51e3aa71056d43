//! A process dies by `SIGKILL` at every step in which a ring grows: its publisher, one of its readers, or the broker that
//! hands the larger generation over. What was sent is read whole and once by whoever is left, in order, and
//! nothing stays behind. As `e2e_deaths.rs`, where the table of all steps is checked.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod deaths;

use deaths::steps::{OF_A_BROKER, OF_A_FOLLOWER, OF_A_GROWING_PUBLISHER};
use deaths::support::{self, Broker, part, say};
use deaths::{Dying, Readers, check_next, client, dies, held, held_here, settles, start, watchdog};
use rustix::process::Signal;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use tramline_client::{Client, Error, OnFull, Publisher, PublisherEvent, Subscription};

/// Messages of a publisher that grows three times.
const MESSAGES: u64 = 40;

/// Every tenth message needs a larger ring than those before it.
fn length(seq: u64) -> usize {
    match seq {
        10 => 20_000,
        20 => 200_000,
        30 => 1_200_000,
        50 => 6_000_000,
        _ => 12 + usize::try_from(seq % 7).unwrap() * 100,
    }
}

fn byte(seq: u64) -> u8 {
    u8::try_from(seq % 251).unwrap()
}

fn send(publisher: &mut Publisher) -> tramline_client::Result<u64> {
    let seq = publisher.next_seq();
    publisher.send(vec![byte(seq); length(seq)])
}

fn assert_whole(seq: u64, payload: &[u8]) {
    assert_eq!(payload.len(), length(seq), "message {seq}");
    assert!(payload.iter().all(|each| *each == byte(seq)), "message {seq} is a mixture");
}

fn open(client: &Client) -> Publisher {
    client.publisher("cam").capacity(1_000, 4).on_full(OnFull::Wait).open().unwrap()
}

/// What another process does when it is started for it. Without the variable this is no test of anything and
/// passes at once.
#[test]
fn actor() {
    let Some(part) = part() else { return };
    let client = Client::builder().name(part.as_str()).reconnect(false).connect().unwrap();
    match part.as_str() {
        "publish" => {
            let mut publisher = open(&client);
            for _ in 0..MESSAGES {
                say(send(&mut publisher).unwrap());
            }
            publisher.close().unwrap();
        }
        "follow" => {
            let mut subscription = client.subscribe("cam").unwrap();
            say("ready");
            let (mut last, mut held) = (None, Vec::new());
            while subscription.events().iter().all(|event| !matches!(event, PublisherEvent::Left(_))) {
                let wait = std::time::Duration::from_millis(5);
                let Some(message) = subscription.recv_timeout(wait).unwrap() else { continue };
                assert_whole(message.seq(), message.payload());
                assert!(last.is_none_or(|last| message.seq() == last + 1), "{last:?} and {}", message.seq());
                last = Some(message.seq());
                if message.in_place() {
                    held.push(message);
                    held.drain(..held.len().saturating_sub(2));
                }
            }
            say(last.unwrap());
        }
        "grow when told" => {
            let mut publisher = open(&client);
            say(send(&mut publisher).unwrap());
            let mut lines = std::io::stdin().lines();
            lines.next().unwrap().unwrap();
            // One to each of two generations to come, and some between them.
            while publisher.next_seq() <= 20 {
                say(send(&mut publisher).unwrap());
            }
            lines.next();
        }
        "read to an error" => {
            let client = Client::builder().name("reader").connect().unwrap();
            let mut subscription = client.subscribe("cam").unwrap();
            say("ready");
            say(loop {
                match subscription.recv() {
                    Ok(message) => say(message.seq()),
                    Err(error) => break error,
                }
            });
        }
        other => panic!("no such part: {other}"),
    }
}

#[test]
fn a_publisher_that_dies_at_any_step_of_growth_leaves_whole_messages_and_a_clear_end() {
    let _watchdog = watchdog();
    let mut readers = Readers::start();
    for &(name, count) in OF_A_GROWING_PUBLISHER {
        println!("{name}:{count}");
        let dying = Dying::start("publish", readers.broker.socket(), (name, count));
        let (sent, last) = readers.read_to_its_end(dying, assert_whole);
        assert!((sent..=sent + 1).contains(&last), "{name}: {sent} were sent, {last} were read");
        readers.read_another("publish", MESSAGES, assert_whole);
    }
}

#[test]
fn a_reader_that_dies_at_any_step_of_growth_keeps_nobody_from_going_on() {
    let _watchdog = watchdog();
    let broker = Broker::start();
    let to = client(broker.socket(), "survivor");
    let mut survivor = to.subscribe("cam").unwrap();
    let (before, own) = (held(&broker), held_here());
    for &(name, count) in OF_A_FOLLOWER {
        let at = format!("{name}:{count}");
        println!("{at}");
        // What the two share stays as long as both are there.
        let from = client(broker.socket(), "publisher");
        let mut publisher = open(&from);
        let mut last = 0;
        let mut exchange = |survivor: &mut Subscription, until: u64| {
            while last < until {
                assert_eq!(send(&mut publisher).unwrap(), last + 1);
                check_next(&survivor.recv().unwrap(), last, assert_whole);
                last += 1;
            }
        };
        let mut dying = start("follow", broker.socket(), Some((name, count)));
        assert_eq!(dying.word(), "ready");
        exchange(&mut survivor, MESSAGES);
        dies(dying, &at);
        // Another takes its place, and follows into the next generation.
        let mut next = start("follow", broker.socket(), None);
        assert_eq!(next.word(), "ready");
        exchange(&mut survivor, 60);
        publisher.close().unwrap();
        assert_eq!(next.word(), "60");
        assert!(next.child.wait().unwrap().success());
        drop(from);
        settles(&broker, before, own, || {
            assert!(survivor.try_recv().unwrap().is_none());
            survivor.events();
            to.ping().unwrap();
        });
    }
}

/// A broker that kills itself at a step.
fn doomed(at: Option<(&str, u32)>) -> Broker {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("t.sock");
    let mut command = support::tramline();
    command.arg("serve").arg("--socket").arg(&socket);
    if let Some((name, count)) = at {
        command.env("TRAMLINE_DIE_AT", format!("{name}:{count}"));
    }
    Broker::spawn(home, socket, command)
}

fn connect(socket: &Path, name: &str) -> Client {
    Client::builder().name(name).socket(socket).connect().unwrap()
}

#[test]
fn a_broker_that_dies_at_any_step_of_growth_loses_and_doubles_nothing() {
    let _watchdog = watchdog();
    // The last is killed from without, when the publisher has gone on.
    for at in OF_A_BROKER.iter().copied().map(Some).chain([None]) {
        println!("{at:?}");
        let mut broker = doomed(at);
        let (a, b, c) = (
            connect(broker.socket(), "publisher"),
            connect(broker.socket(), "one"),
            connect(broker.socket(), "other"),
        );
        let mut readers = [b.subscribe("cam").unwrap(), c.subscribe("cam").unwrap()];
        let mut publisher = open(&a);
        let mut last = 0;
        let exchange = |publisher: &mut Publisher, readers: &mut [Subscription], last: &mut u64| {
            assert_eq!(send(publisher).unwrap(), *last + 1);
            for reader in readers {
                check_next(&reader.recv().unwrap(), *last, assert_whole);
            }
            *last += 1;
        };
        while last < 9 {
            exchange(&mut publisher, &mut readers, &mut last);
        }
        for client in [&a, &b, &c] {
            client.ping().unwrap();
        }
        if at.is_some() {
            // The next message needs a larger generation, in the handing over of which the broker dies.
            let error = send(&mut publisher).unwrap_err();
            assert!(matches!(error, Error::BrokerDown { .. }), "{error:?}");
            assert_eq!(broker.wait().signal(), Some(Signal::KILL.as_raw()));
            // What fits goes on without a broker.
            let small = publisher.send([byte(10); 5]).unwrap();
            for reader in &mut readers {
                assert_eq!(reader.recv().unwrap().seq(), small);
            }
            last = small;
        } else {
            exchange(&mut publisher, &mut readers, &mut last);
            broker.kill();
        }
        while last < 19 {
            exchange(&mut publisher, &mut readers, &mut last);
        }
        let broker = broker.again();
        loop {
            let waited = publisher.wait_for_subscribers(3, std::time::Duration::from_millis(5));
            assert!(waited.is_err());
            let quiet = readers.iter_mut().all(|reader| reader.try_recv().unwrap().is_none());
            assert!(quiet, "nothing was sent");
            if [&a, &b, &c].iter().all(|client| client.is_connected()) {
                break;
            }
        }
        while last < 40 {
            exchange(&mut publisher, &mut readers, &mut last);
        }
        publisher.close().unwrap();
        for reader in &mut readers {
            while !reader.publishers().is_empty() {
                assert!(reader.try_recv().unwrap().is_none());
            }
            assert_eq!(reader.lost(), 0);
        }
        drop(readers);
        // Nothing is left of any generation.
        while broker.ring_mappings() > 0 || broker.http("/status").contains("\"generation\"") {
            a.ping().unwrap();
        }
    }
}

#[test]
fn a_reader_without_the_memory_that_carries_on_ends_when_nobody_is_left_to_give_it() {
    let _watchdog = watchdog();
    for restarted in [false, true] {
        let mut broker = Broker::with_config("limits:\n  attach_timeout_millis: 100\n");
        let mut reader = start("read to an error", broker.socket(), None);
        assert_eq!(reader.word(), "ready");
        let mut publisher = start("grow when told", broker.socket(), None);
        assert_eq!(reader.word(), "1");
        // It confirms no generation now: so it is not given the second, and the publisher goes on all the same.
        reader.signal(Signal::STOP);
        writeln!(publisher.input.as_mut().unwrap()).unwrap();
        while publisher.word() != "20" {}
        broker.kill();
        publisher.kill();
        let _next = if restarted { broker.again() } else { broker };
        reader.signal(Signal::CONT);
        for seq in 2..20 {
            assert_eq!(reader.word(), seq.to_string());
        }
        let said = reader.word();
        assert!(said.contains("'cam' went on in a larger ring (generation 2)"), "{said}");
        assert!(reader.child.wait().unwrap().success());
    }
}
