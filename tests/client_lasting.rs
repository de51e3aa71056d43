//! The client when things change around it: the broker goes and comes, event loops, held messages, threads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::os::fd::AsFd;
use std::time::Duration;
use support::{Broker, Watchdog};
use tramline_client::{Client, Error, OnFull};

fn poll(fd: impl AsFd) {
    let fd = rustix::event::PollFd::from_borrowed_fd(fd.as_fd(), rustix::event::PollFlags::IN);
    rustix::event::poll(&mut [fd], None).unwrap();
}

#[test]
fn rings_flow_without_a_broker_and_everything_is_restored_with_the_next() {
    let _watchdog = Watchdog::start();
    let mut broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t.>").unwrap();
    let mut p = a.publisher("t.ring").open().unwrap();
    p.send(b"1").unwrap();
    a.publish("t.socket", b"1").unwrap();
    let mut first = [s.recv().unwrap(), s.recv().unwrap()];
    first.sort_by_key(|message| message.topic().to_owned());
    assert_eq!(first.map(|message| message.through_ring()), [true, false]);
    broker.kill();
    // The ring does not need a broker.
    for n in 2..50_u8 {
        p.send([n]).unwrap();
        assert_eq!(s.recv().unwrap().payload(), [n]);
    }
    while a.is_connected() {
        // The loss is noticed by whoever leads; a wait for subscribers that cannot come does.
        assert!(p.wait_for_subscribers(9, Duration::from_millis(5)).is_err());
    }
    assert!(matches!(a.publish("t.socket", b"x"), Err(Error::Disconnected(_))));
    let broker = broker.again();
    while !(a.is_connected() && b.is_connected()) {
        assert!(p.wait_for_subscribers(9, Duration::from_millis(5)).is_err());
        assert!(s.try_recv().unwrap().is_none());
    }
    // The new attachment takes over from the old one: nothing is lost, nothing comes twice.
    for n in 50..200_u8 {
        p.send([n]).unwrap();
        let message = s.recv().unwrap();
        assert_eq!((message.payload(), message.lost_before()), ([n].as_slice(), 0));
        assert_eq!(message.seq(), u64::from(n));
    }
    // Numbers go on, aliases are defined anew.
    b.ping().unwrap();
    assert_eq!(a.publish("t.socket", b"2").unwrap(), 2);
    let message = s.recv().unwrap();
    assert_eq!((message.topic(), message.seq()), ("t.socket", 2));
    drop(broker);
}

#[test]
fn without_reconnect_a_subscription_ends() {
    let _watchdog = Watchdog::start();
    let mut broker = Broker::start();
    let c = Client::builder().socket(broker.socket()).reconnect(false).connect().unwrap();
    let mut s = c.subscribe("x").unwrap();
    let thread = std::thread::spawn(move || s.recv());
    broker.kill();
    assert!(matches!(thread.join().unwrap(), Err(Error::Disconnected(Some(_)))));
    assert!(matches!(c.subscribe("y"), Err(Error::Disconnected(_))));
}

#[test]
fn rings_are_read_to_their_end_before_a_subscription_ends() {
    let _watchdog = Watchdog::start();
    let mut broker = Broker::start();
    let lasting =
        |name| Client::builder().name(name).socket(broker.socket()).reconnect(false).connect().unwrap();
    let (a, b) = (lasting("a"), lasting("b"));
    let mut s = b.subscribe("x").unwrap();
    let mut p = a.publisher("x").open().unwrap();
    p.send(b"before").unwrap();
    broker.kill();
    assert_eq!(s.recv().unwrap().payload(), b"before");
    let reader = std::thread::spawn(move || {
        assert_eq!(s.recv().unwrap().payload(), b"after");
        s.recv()
    });
    p.send(b"after").unwrap();
    drop((p, a));
    assert!(matches!(reader.join().unwrap(), Err(Error::Disconnected(Some(_)))));
    drop(b);
}

#[test]
fn an_event_loop_sees_every_message() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t.*").unwrap();
    let sender = std::thread::spawn(move || {
        let mut p = a.publisher("t.ring").open().unwrap();
        for n in 0..3_000_u32 {
            a.publish("t.socket", n.to_le_bytes()).unwrap();
            p.send(n.to_le_bytes()).unwrap();
        }
    });
    let mut next = [0_u32; 2];
    while next != [3_000; 2] {
        poll(&s);
        while let Some(message) = s.try_recv().unwrap() {
            let n = &mut next[usize::from(message.through_ring())];
            assert_eq!(message.payload(), n.to_le_bytes());
            *n += 1;
        }
    }
    sender.join().unwrap();
}

#[test]
fn a_publisher_in_an_event_loop_is_told_of_room() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t").unwrap();
    // The reader begins when the ring was full once, so that there is room to be told of however fast it is.
    let (was_full, begin) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        begin.recv().unwrap();
        for n in 0..5_000_u32 {
            assert_eq!(s.recv().unwrap().payload(), n.to_le_bytes());
        }
    });
    let mut p = a.publisher("t").capacity(64, 8).open().unwrap();
    let mut full = 0;
    for n in 0..5_000_u32 {
        while let Err(error) = p.try_send(n.to_le_bytes()) {
            assert!(matches!(error, Error::Full(_)), "{error}");
            if full == 0 {
                was_full.send(()).unwrap();
            }
            full += 1;
            poll(&p);
        }
    }
    reader.join().unwrap();
    assert!(full > 0);
}

#[test]
fn a_message_outlives_its_subscription_and_client() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut s = b.subscribe("t").unwrap();
    let mut p = a.publisher("t").capacity(64 * 1024, 4).on_full(OnFull::Fail).open().unwrap();
    p.send(vec![1; 64 * 1024]).unwrap();
    let held = s.recv().unwrap();
    assert!(held.in_place());
    drop(s);
    for n in 0..50 {
        p.send(vec![n; 64 * 1024]).unwrap();
    }
    assert!(held.payload().iter().all(|byte| *byte == 1), "what is held is not reused");
    assert_eq!(p.subscriber_count(), 1);
    drop(held);
    while p.subscriber_count() > 0 {
        a.ping().unwrap();
    }
    drop(b);
}

#[test]
fn threads_share_a_client_without_losing_a_wake_up() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let c = broker.client("many");
    let pairs = 6_u32;
    let rounds = 300_u32;
    let threads: Vec<_> = (0..pairs)
        .flat_map(|pair| {
            let (ping, pong) = (format!("ping.{pair}"), format!("pong.{pair}"));
            let mut pings = c.subscribe(&ping).unwrap();
            let mut pongs = c.subscribe(&pong).unwrap();
            let (there, back) = (c.clone(), c.clone());
            let in_ring = pair % 2 == 1;
            let one = std::thread::spawn(move || {
                let mut p = in_ring.then(|| there.publisher(&ping).open().unwrap());
                for n in 0..rounds {
                    match &mut p {
                        Some(p) => p.send(n.to_le_bytes()).unwrap(),
                        None => there.publish(&ping, n.to_le_bytes()).unwrap(),
                    };
                    assert_eq!(pongs.recv().unwrap().payload(), n.to_le_bytes());
                    if n % 64 == 0 {
                        there.ping().unwrap();
                    }
                }
            });
            let other = std::thread::spawn(move || {
                for n in 0..rounds {
                    assert_eq!(pings.recv().unwrap().payload(), n.to_le_bytes());
                    back.publish(&pong, n.to_le_bytes()).unwrap();
                }
            });
            [one, other]
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn two_that_only_publish_do_not_lock_each_other_up() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let both = [("a", "b"), ("b", "a")].map(|(name, other)| {
        let c = broker.client(name);
        let policy = tramline_client::SlowPolicy::DropOldest;
        (c.subscription(other).on_slow(policy).open().unwrap(), c, name)
    });
    let both = both.map(|(mut s, c, name)| {
        std::thread::spawn(move || {
            for _ in 0..20_000 {
                c.publish(name, [0; 1000]).unwrap();
            }
            c.flush().unwrap();
            let mut got = 0;
            while got < 20_000 {
                got += 1 + s.recv().unwrap().lost_before();
            }
            got
        })
    });
    for thread in both {
        assert_eq!(thread.join().unwrap(), 20_000);
    }
}
