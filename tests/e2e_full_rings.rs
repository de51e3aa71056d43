//! Full rings that nobody reads because whoever should is waiting itself: two processes subscribed to each other, and one
//! subscribed to itself. Each waits in `send` for the other, or for itself. The library goes on in every one of them:
//! readers are admitted meanwhile, a deadline is kept and names who is in the way, and past the reader's budget the
//! message is sent.
//!
//! The processes are this test program itself, started again to play a part (see [`actor`]).
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod support;

use std::io::Write;
use std::time::Duration;
use support::{Actor, Broker, Watchdog, part, say};
use tramline_client::{Client, Error, OnFull};

/// How long a reader may be in the way. Longer than the broker waits for a publisher to admit a subscriber, so that one
/// which is admitted was so by a publisher that waits.
const CONFIG: &str = "limits:\n  gate_budget_millis_max: 3000\n  gate_publisher_millis_max: 3000\n  \
    gate_window_millis: 3000\n  attach_timeout_millis: 1000\n";

/// Opens a ring on its topic, subscribes to the other's, and then does as it is told. Without the variable this is no
/// test of anything and passes at once.
#[test]
fn actor() {
    let Some(part) = part() else { return };
    let (own, other) = part.split_once(' ').unwrap();
    let client = Client::builder().name(own).reconnect(false).connect().unwrap();
    let mut publisher = client.publisher(own).capacity(64, 8).on_full(OnFull::Wait).open().unwrap();
    let mut subscription = client.subscribe(other).unwrap();
    say("ready");
    let mut lines = std::io::stdin().lines();
    lines.next().unwrap().unwrap();
    publisher.wait_for_subscribers(1, Duration::from_secs(60)).unwrap();
    while publisher.try_send([0]).is_ok() {}
    match publisher.send_timeout([0], Duration::from_millis(30)) {
        Err(Error::Full(full)) => say(full.holder().unwrap()),
        other => panic!("{other:?}"),
    }
    lines.next().unwrap().unwrap();
    let last = publisher.send(b"last").unwrap();
    say(last);
    // Nothing is lost without being counted.
    let (mut received, mut seen) = (0, 0);
    while seen == 0 {
        let message = subscription.recv().unwrap();
        received += 1;
        if message.payload() == b"last" {
            seen = message.seq();
        }
    }
    assert_eq!(received + subscription.lost(), seen);
    say(seen);
    lines.next();
}

fn go_on(actor: &mut Actor) {
    writeln!(actor.input.as_mut().unwrap()).unwrap();
}

/// Lets each fill what the others read, then wait for one another, and then read.
fn all_wait_for_one_another(parts: &[&str]) {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(CONFIG);
    let mut actors: Vec<Actor> = parts.iter().map(|part| Actor::start(part, broker.socket())).collect();
    for actor in &mut actors {
        assert_eq!(actor.word(), "ready");
    }
    actors.iter_mut().for_each(go_on);
    for (actor, part) in actors.iter_mut().zip(parts) {
        let (_, other) = part.split_once(' ').unwrap();
        assert_eq!(actor.word(), other, "who is in the way");
    }
    // From here on each waits without end.
    actors.iter_mut().for_each(go_on);
    let client = broker.client("third");
    for part in parts {
        let (own, _) = part.split_once(' ').unwrap();
        let mut third = client.subscription(own).lossy().open().unwrap();
        assert!(third.try_recv().unwrap().is_none());
        assert_eq!(third.stream_count(), 1, "who waits admits a reader");
    }
    let sent: Vec<String> = actors.iter_mut().map(Actor::word).collect();
    // With one, it is the same; with two, each reads what the other sent.
    for (actor, sent) in actors.iter_mut().zip(sent.iter().rev()) {
        assert_eq!(actor.word(), *sent);
    }
}

#[test]
fn two_processes_that_read_each_other_and_both_send_into_full_rings_go_on() {
    all_wait_for_one_another(&["one other", "other one"]);
}

#[test]
fn a_process_that_reads_itself_and_sends_into_a_full_ring_goes_on() {
    all_wait_for_one_another(&["self self"]);
}
