//! Separate processes, killed where they stand: what a dead publisher published is read whole, a dead subscriber
//! holds nobody up, three users share one ring, and nothing is left of any of it.
//!
//! The processes are this test program itself, started again to play a part (see [`actor`]).
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod support;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use support::{Actor, Broker, Users, part, say};
use tramline_client::{Client, Code, GatedBy, Message, OnFull};

/// Held by each test: they count the mappings of their common process.
static ALONE: Mutex<()> = Mutex::new(());

/// Ends a test that hangs, and with it everything it has started; lets one test run at a time.
struct Watchdog {
    alive: Option<mpsc::Sender<()>>,
    _alone: MutexGuard<'static, ()>,
}

impl Watchdog {
    fn start() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (alive, ended) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a test hangs");
                std::process::abort();
            }
        });
        Self { alive: Some(alive), _alone: alone }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.alive.take();
    }
}

fn client(socket: &Path, name: &str) -> Client {
    Client::builder().name(name).socket(socket).reconnect(false).connect().unwrap()
}

/// Fills a payload so that a mixture of two would show: every eight bytes hold the number.
fn fill(bytes: &mut [u8], number: u64) {
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
    }
}

/// Whether a message is whole and what its number says.
fn assert_whole(message: &Message) {
    let number = message.seq().to_le_bytes();
    let whole = message.payload().chunks(8).all(|chunk| chunk == &number[..chunk.len()]);
    assert!(whole, "message {} is a mixture", message.seq());
}

/// What another process does when it is started for it. Without the variable this is no test of anything and
/// passes at once.
#[test]
fn actor() {
    let Some(part) = part() else { return };
    let connect = || Client::builder().name(part.as_str()).reconnect(false).connect();
    match part.as_str() {
        "publish without end" => {
            let client = connect().unwrap();
            let mut publisher = client.publisher("cam").capacity(64 * 1024, 8).open().unwrap();
            say("ready");
            loop {
                let number = publisher.next_seq();
                let mut loan = publisher.loan(64 * 1024).unwrap();
                fill(&mut loan, number);
                loan.send().unwrap();
            }
        }
        "publish a little" => {
            let client = connect().unwrap();
            let mut publisher = client.publisher("cam").capacity(64 * 1024, 8).open().unwrap();
            for _ in 0..3 {
                let number = publisher.next_seq();
                let mut loan = publisher.loan(64 * 1024).unwrap();
                fill(&mut loan, number);
                loan.send().unwrap();
            }
            publisher.close().unwrap();
        }
        "publish across users" => {
            let client = connect().unwrap();
            let mut publisher =
                client.publisher("cam").capacity(64 * 1024, 8).gated_by(GatedBy::Anyone).open().unwrap();
            publisher.wait_for_subscribers(1, Duration::from_secs(60)).unwrap();
            for _ in 0..200 {
                let number = publisher.next_seq();
                let mut loan = publisher.loan(64 * 1024).unwrap();
                fill(&mut loan, number);
                loan.send().unwrap();
            }
            publisher.close().unwrap();
            say("done");
        }
        "hold what is read" => {
            let client = connect().unwrap();
            let mut subscription = client.subscribe("cam").unwrap();
            let mut held = Vec::new();
            loop {
                let message = subscription.recv().unwrap();
                assert_whole(&message);
                if held.len() < 3 {
                    assert!(message.in_place());
                    held.push(message);
                    say(held.len());
                }
            }
        }
        "read across users" => {
            let client = connect().unwrap();
            let mut subscription = client.subscribe("cam").unwrap();
            say("ready");
            let mut last = 0;
            while last < 200 {
                let message = subscription.recv().unwrap();
                assert_whole(&message);
                assert_eq!((message.seq(), message.lost_before()), (last + 1, 0));
                assert!(message.through_ring());
                // Another user could change the bytes later: they are copied, and checked to be whole.
                assert!(!message.in_place());
                last = message.seq();
            }
            let source = subscription.publishers();
            say(format!("read {last} of uid {}", source[0].uid));
        }
        "be refused" => match connect() {
            Err(error) => say(format!("{} {error}", error.code().as_str())),
            Ok(_) => say("let in"),
        },
        other => panic!("no such part: {other}"),
    }
}

/// What the broker holds: descriptors, and mappings of shared memory.
fn held(broker: &Broker) -> (usize, usize) {
    (broker.open_files(), broker.ring_mappings())
}

/// Mappings of rings and reader pages in this process.
fn own_mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:tramline")).count()
}

/// Waits until the broker holds no more than before: it closes on another thread what processes have left. The
/// watchdog ends this if it never does.
fn settles(broker: &Broker, asker: &Client, before: (usize, usize)) {
    loop {
        asker.ping().unwrap();
        let now = held(broker);
        if now.0 <= before.0 && now.1 <= before.1 {
            return;
        }
    }
}

#[test]
fn what_a_killed_publisher_published_is_read_whole_and_nothing_stays() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let client = client(broker.socket(), "reader");
    let mut subscription = client.subscribe("cam").unwrap();
    client.ping().unwrap();
    let (before, mappings) = (held(&broker), own_mappings());
    for round in 0..12_u64 {
        let mut publisher = Actor::start("publish without end", broker.socket());
        assert_eq!(publisher.word(), "ready");
        let session = loop {
            let message = subscription.recv().unwrap();
            assert_whole(&message);
            if message.seq() == 5 + round * 7 {
                break message.publisher().session;
            }
        };
        publisher.kill();
        // Whatever is still to come is whole, follows on, and ends.
        let mut last = 0;
        while subscription.publishers().iter().any(|source| source.session == session) {
            match subscription.recv_timeout(Duration::from_millis(20)).unwrap() {
                Some(message) => {
                    assert_whole(&message);
                    assert_eq!(message.lost_before(), 0);
                    assert!(message.seq() > last);
                    last = message.seq();
                }
                None => {
                    subscription.events();
                }
            }
        }
    }
    settles(&broker, &client, before);
    while own_mappings() > mappings {
        subscription.events();
        client.ping().unwrap();
    }
}

#[test]
fn publishers_that_come_and_go_leave_nothing_with_their_subscriber() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let client = client(broker.socket(), "reader");
    let mut subscription = client.subscribe("cam").unwrap();
    client.ping().unwrap();
    let own_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (before, mappings, files) = (held(&broker), own_mappings(), own_files());
    for _ in 0..15 {
        let mut publisher = Actor::start("publish a little", broker.socket());
        for seq in 1..=3 {
            let message = subscription.recv().unwrap();
            assert_whole(&message);
            assert_eq!(message.seq(), seq);
        }
        assert!(publisher.child.wait().unwrap().success());
    }
    settles(&broker, &client, before);
    while own_mappings() > mappings || own_files() > files {
        assert!(subscription.try_recv().unwrap().is_none());
        client.ping().unwrap();
    }
}

#[test]
fn a_killed_subscriber_holds_nobody_up_and_nothing_stays() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let client = client(broker.socket(), "publisher");
    let mut publisher = client.publisher("cam").capacity(64 * 1024, 8).on_full(OnFull::Wait).open().unwrap();
    client.ping().unwrap();
    let (before, mappings) = (held(&broker), own_mappings());
    let send = |publisher: &mut tramline_client::Publisher| {
        let number = publisher.next_seq();
        let mut loan = publisher.loan(64 * 1024).unwrap();
        fill(&mut loan, number);
        loan.send().unwrap();
    };
    for _ in 0..8 {
        let mut reader = Actor::start("hold what is read", broker.socket());
        publisher.wait_for_subscribers(1, Duration::from_secs(60)).unwrap();
        for count in 1..=3 {
            send(&mut publisher);
            assert_eq!(reader.word(), count.to_string());
        }
        // It holds three messages, and gates. Others flow all the same, many times around the ring.
        for _ in 0..50 {
            send(&mut publisher);
        }
        reader.kill();
        for _ in 0..50 {
            send(&mut publisher);
        }
        while publisher.subscriber_count() > 0 {
            client.ping().unwrap();
        }
    }
    settles(&broker, &client, before);
    // The bells of the dead hang up, and then their pages go.
    while own_mappings() > mappings {
        client.ping().unwrap();
    }
}

#[test]
fn a_stopped_gated_subscriber_holds_up_only_whom_it_may() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let client = client(broker.socket(), "publisher");
    let mut publisher = client
        .publisher("cam")
        .capacity(64 * 1024, 8)
        .gated_by(GatedBy::Nobody)
        .on_full(OnFull::Fail)
        .open()
        .unwrap();
    let mut reader = Actor::start("hold what is read", broker.socket());
    publisher.wait_for_subscribers(1, Duration::from_secs(60)).unwrap();
    for count in 1..=3 {
        let number = publisher.next_seq();
        let mut loan = publisher.loan(64 * 1024).unwrap();
        fill(&mut loan, number);
        loan.send().unwrap();
        assert_eq!(reader.word(), count.to_string());
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(reader.child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    for _ in 0..100 {
        // It asked to gate, was not allowed to, and is stopped: this never fails for want of room.
        let mut bytes = [0; 1024];
        fill(&mut bytes, publisher.next_seq());
        publisher.send(bytes).unwrap();
    }
}

#[test]
fn bytes_that_are_held_do_not_change_whatever_else_ends() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (from, to) = (client(broker.socket(), "publisher"), client(broker.socket(), "subscriber"));
    let mut subscription = to.subscribe("cam").unwrap();
    let mut publisher = from.publisher("cam").capacity(64 * 1024, 8).open().unwrap();
    let send = |publisher: &mut tramline_client::Publisher| {
        let number = publisher.next_seq();
        let mut loan = publisher.loan(64 * 1024).unwrap();
        fill(&mut loan, number);
        loan.send().unwrap();
    };
    send(&mut publisher);
    let first = subscription.recv().unwrap();
    send(&mut publisher);
    let second = subscription.recv().unwrap();
    assert!(first.in_place() && second.in_place());
    drop(subscription);
    to.ping().unwrap();
    for _ in 0..100 {
        send(&mut publisher);
        from.ping().unwrap();
    }
    assert_whole(&first);
    drop(to);
    for _ in 0..100 {
        send(&mut publisher);
        from.ping().unwrap();
    }
    assert_whole(&first);
    assert_whole(&second);
    drop((first, publisher, from, broker));
    assert_whole(&second);
}

#[test]
fn publisher_subscriber_and_broker_are_three_users() {
    const BROKER: u32 = 20_001;
    const PUBLISHER: u32 = 20_002;
    const READER: u32 = 20_003;
    const STRANGER: u32 = 20_004;
    let _watchdog = Watchdog::start();
    let yaml = format!("socket:\n  mode: \"0666\"\nallow:\n  users: [{PUBLISHER}, {READER}]\n");
    let Some(users) = Users::start("three users at once", BROKER, &yaml) else { return };
    let mut reader = users.actor(READER, "read across users");
    assert_eq!(reader.word(), "ready");
    let mut publisher = users.actor(PUBLISHER, "publish across users");
    assert_eq!(publisher.word(), "done");
    assert_eq!(reader.word(), format!("read 200 of uid {PUBLISHER}"));
    let refused = users.actor(STRANGER, "be refused").word();
    assert!(refused.starts_with("denied ") && refused.contains("allow.users"), "{refused}");
    // Root and the broker's own user come in without being named.
    assert!(Client::builder().socket(users.broker.socket()).connect().is_ok());
    assert_eq!(users.actor(BROKER, "be refused").word(), "let in");
}

#[test]
fn a_refusal_says_why() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("limits:\n  session_streams_max: 1\n");
    let client = client(broker.socket(), "publisher");
    let _first = client.publisher("a").open().unwrap();
    let error = client.publisher("b").open().unwrap_err();
    assert_eq!(error.code(), Code::LimitReached);
    let limit = error.limit().expect("it names the limit");
    assert_eq!((limit.name.as_str(), limit.value, limit.used), ("session_streams_max", 1, 2));
}
