//! A broker that is killed again and again under load. Rings flow on as if nothing had happened: nothing lost, nothing
//! twice, nobody waits. Socket clients come back by themselves, and what died inside a broker is counted exactly by
//! everybody who was subscribed.
//!
//! `TRAMLINE_TEST_KILLS` says how often it is killed: the long form of this test is the same with 1000.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use support::Broker;
use tramline_client::{Client, Error, Message, OnFull, SlowPolicy, Subscription};

/// How often the broker is killed unless the environment says otherwise.
const KILLS: u64 = 20;

/// Messages that each plane carries before the next kill, and rings while there is no broker.
const PROGRESS: u64 = 300;

/// The same of those that wait for a confirmation each.
const CONFIRMED: u64 = 30;

/// On a busy machine a reader may not run for as long as it may hold its publisher up, or come back; that would be
/// another test's matter.
const PATIENT: &str = "limits:\n  gate_budget_millis_max: 3600000\n  gate_publisher_millis_max: 3600000\n  \
                       adoption_grace_millis: 600000\n";

/// How far the threads have come.
#[derive(Default)]
struct Progress {
    ring: AtomicU64,
    lossy: AtomicU64,
    plain: AtomicU64,
    confirmed: AtomicU64,
    done: AtomicBool,
}

impl Progress {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

/// Waits until a counter has gone on by [`PROGRESS`]. If it never does, the watchdog in `kills` ends the test.
fn goes_on(counter: &AtomicU64, progress: u64) {
    let from = counter.load(Ordering::Acquire);
    while counter.load(Ordering::Acquire) < from + progress {
        std::thread::yield_now();
    }
}

/// Each message follows on the one before it and on what is said to be lost. Returns how many were received, how many
/// lost, and the last number, which is that of the message "end".
fn account(mut subscription: Subscription, counter: &AtomicU64) -> (u64, u64, u64) {
    let (mut received, mut last) = (0, None);
    loop {
        let message: Message = subscription.recv().unwrap();
        received += 1;
        let lost = message.lost_before();
        // The first that is heard may have others before it, of which this subscription knows nothing.
        let expected = last.map_or(message.seq(), |last| last + lost + 1);
        assert_eq!(
            message.seq(),
            expected,
            "{lost} were said to be lost after {last:?} on {}",
            message.topic()
        );
        last = Some(message.seq());
        counter.fetch_add(1, Ordering::Release);
        if message.payload() == b"end" {
            return (received, subscription.lost(), message.seq());
        }
    }
}

fn client(broker: &Broker, name: &str) -> Client {
    broker.client(name)
}

/// Repeats a publish until there is a connection for it. Only a publish that is refused at once gets no number.
fn insist<T>(mut publish: impl FnMut() -> Result<T, Error>, retry: impl Fn(&Error) -> bool) -> T {
    loop {
        match publish() {
            Ok(done) => return done,
            Err(error) if retry(&error) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn is_disconnected(error: &Error) -> bool {
    matches!(error, Error::Disconnected(_))
}

/// Publishes by socket until all is done, then "end". Returns how many numbers were given away.
fn publish_plain(client: Client, progress: Arc<Progress>) -> u64 {
    while !progress.is_done() {
        insist(|| client.publish("plain", [7; 64]), is_disconnected);
    }
    insist(|| client.publish("plain", b"end"), is_disconnected)
}

fn publish_confirmed(client: Client, progress: Arc<Progress>) -> (u64, u64) {
    let (mut confirmed, mut unknown) = (0, 0);
    while !progress.is_done() {
        match client.publish_confirmed("confirmed", [7; 64]) {
            Ok(receivers) => {
                // While the subscriber is still on its way back there may be none.
                assert!(receivers <= 1);
                confirmed += 1;
            }
            Err(Error::Disconnected(_)) => {
                unknown += 1;
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
    insist(|| client.publish("confirmed", b"end"), is_disconnected);
    (confirmed, unknown)
}

/// Sends through a ring until all is done. No send fails, and none waits for a broker: the test sees it go on without one.
fn publish_ring(client: Client, progress: Arc<Progress>) -> u64 {
    let mut publisher = client.publisher("ring").capacity(64, 64).on_full(OnFull::Wait).open().unwrap();
    publisher.wait_for_subscribers(2, Duration::from_secs(60)).unwrap();
    let mut last = 0;
    while !progress.is_done() {
        last = publisher.send((last + 1_u64).to_le_bytes()).unwrap();
    }
    last = publisher.send(b"end").unwrap();
    // Read to its end by both before it closes, so that its close is seen, too.
    while progress.ring.load(Ordering::Acquire) < last {
        std::thread::yield_now();
    }
    last
}

/// Reads a ring until "end", checking each payload.
fn read_ring(mut subscription: Subscription, gated: bool, counter: &AtomicU64) -> (u64, u64) {
    let (mut received, mut last) = (0, 0);
    loop {
        let message = subscription.recv().unwrap();
        assert!(message.through_ring());
        assert_eq!(message.seq(), last + message.lost_before() + 1, "lost or doubled in a ring");
        assert!(!gated || message.lost_before() == 0);
        last = message.seq();
        received += 1;
        counter.fetch_add(1, Ordering::Release);
        if message.payload() == b"end" {
            return (last, received + subscription.lost());
        }
        assert_eq!(message.payload(), last.to_le_bytes());
    }
}

/// One of the broker's totals.
fn totals(broker: &Broker, name: &str) -> u64 {
    broker.json().ask(r#"{"op":"status"}"#)["status"]["totals"][name].as_u64().unwrap()
}

fn spawn<T: Send + 'static>(
    run: impl FnOnce(Arc<Progress>) -> T + Send + 'static,
    progress: &Arc<Progress>,
) -> JoinHandle<T> {
    let progress = Arc::clone(progress);
    std::thread::spawn(move || run(progress))
}

#[test]
fn nothing_is_lost_in_rings_and_everything_is_counted_on_the_socket() {
    let kills = std::env::var("TRAMLINE_TEST_KILLS").map_or(KILLS, |number| number.parse().unwrap());
    let (alive, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let patience = Duration::from_secs(60 + 10 * kills);
        if ended.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a test hangs");
            std::process::abort();
        }
    });
    let progress = Arc::new(Progress::default());
    let mut broker = Broker::with_config(PATIENT);
    let block = SlowPolicy::Block { millis: 1_000 };
    let plain = client(&broker, "reads plain").subscription("plain").on_slow(block).open().unwrap();
    let confirmed =
        client(&broker, "reads confirmed").subscription("confirmed").on_slow(block).open().unwrap();
    let gated = client(&broker, "reads gated").subscribe("ring").unwrap();
    let lossy = client(&broker, "reads lossy").subscription("ring").lossy().open().unwrap();
    let plain = spawn(move |progress| account(plain, &progress.plain), &progress);
    let confirmed = spawn(move |progress| account(confirmed, &progress.confirmed), &progress);
    let gated = spawn(move |progress| read_ring(gated, true, &progress.ring), &progress);
    let lossy = spawn(move |progress| read_ring(lossy, false, &progress.lossy), &progress);
    let from = client(&broker, "plain");
    let plain_sent = spawn(move |progress| publish_plain(from, progress), &progress);
    let from = client(&broker, "confirmed");
    let confirmed_sent = spawn(move |progress| publish_confirmed(from, progress), &progress);
    let from = client(&broker, "ring");
    let ring_sent = spawn(move |progress| publish_ring(from, progress), &progress);
    for _ in 0..kills {
        for counter in [&progress.ring, &progress.lossy, &progress.plain] {
            goes_on(counter, PROGRESS);
        }
        goes_on(&progress.confirmed, CONFIRMED);
        broker.kill();
        goes_on(&progress.ring, PROGRESS);
        goes_on(&progress.lossy, PROGRESS);
        broker = broker.again();
    }
    goes_on(&progress.plain, PROGRESS);
    goes_on(&progress.confirmed, CONFIRMED);
    // Both readers are the same attachments as ever: neither was offered its stream anew.
    while totals(&broker, "adoptions") < 2 {
        std::thread::yield_now();
    }
    assert_eq!(totals(&broker, "attachments"), 2);
    progress.done.store(true, Ordering::Release);
    let ring_last = ring_sent.join().unwrap();
    assert_eq!(gated.join().unwrap(), (ring_last, ring_last), "the gated reader has every message");
    assert_eq!(
        lossy.join().unwrap(),
        (ring_last, ring_last),
        "the lossy reader has or knows lost every message"
    );
    let plain_last = plain_sent.join().unwrap();
    let (received, lost, last) = plain.join().unwrap();
    assert_eq!((last, received + lost), (plain_last, plain_last));
    let (taken, unknown) = confirmed_sent.join().unwrap();
    let (heard, missed, last) = confirmed.join().unwrap();
    assert_eq!(heard + missed, last);
    println!(
        "{kills} kills: ring {ring_last} messages; plain {received} received, {lost} lost; \
         confirmed {taken} taken, {unknown} unknown, {heard} received, {missed} lost"
    );
    drop(alive);
}
