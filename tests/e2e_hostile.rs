//! Hostile processes against a real broker and real clients: a publisher that scribbles over its ring and rings nonsense,
//! a subscriber that scribbles over its reader page. Whoever deals with them is told, everybody else
//! notices nothing, and nothing stays.
//!
//! `TRAMLINE_HOSTILE_SECONDS` makes each test longer. The processes are this test program itself, started again to
//! play a part (see [`actor`]); each scribbles for a moment, ends, and is followed by another.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod raw;
mod support;

use raw::publisher::RawPublisher;
use raw::{Raw, subscription};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::Broker;
use tramline_client::{Client, Code, OnFull};
use tramline_ring::scribble::{Random, RingScribbler, SlotScribbler};
use tramline_ring::{Meta, ReaderLink};
use tramline_wire::{Accept, Mode, PageDeclaration, Subscribe, ToBroker, ToClient};

/// How long each test goes on. It goes on for longer by itself until all have had a turn.
fn duration() -> Duration {
    let seconds = std::env::var("TRAMLINE_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(2.0))
}

/// How long one hostile process scribbles.
const TURN: Duration = Duration::from_millis(200);

/// Ends a test that hangs, and with it everything it has started.
fn watchdog() -> mpsc::Sender<()> {
    let (alive, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(duration() + Duration::from_secs(100)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a victim of scribbling hangs");
            std::process::abort();
        }
    });
    alive
}

/// What another process does when it is started for it. Without the variable this is no test of anything and
/// passes at once.
#[test]
fn actor() {
    let Ok(part) = std::env::var("TRAMLINE_TEST_PART") else { return };
    let socket = std::env::var("TRAMLINE_SOCKET").unwrap();
    match part.as_str() {
        "hostile publisher" => scribble_over_ring(Path::new(&socket)),
        "hostile subscriber" => scribble_over_page(Path::new(&socket)),
        other => panic!("no such part: {other}"),
    }
}

fn scribble_over_ring(socket: &Path) {
    let mut rng = Random::seeded();
    let (mut publisher, _) = RawPublisher::open(socket, "hostile.cam", 64 * 1024, 8);
    for number in 0..5_u8 {
        let _ = publisher.writer.try_send(Meta::default(), b"", &vec![number; 16_000 * usize::from(number)]);
    }
    // Time for the broker to read some of that as it is.
    for req in 0..50 {
        publisher.raw.send(&ToBroker::Ping { req });
        publisher.raw.body();
    }
    let mut scribbler = RingScribbler::new(&publisher.writer);
    let until = Instant::now() + TURN;
    while Instant::now() < until {
        for _ in 0..64 {
            scribbler.scribble(&mut rng);
        }
        for bell in &publisher.bells {
            let bytes = [rng.nasty(3).to_le_bytes(), rng.word().to_le_bytes()].concat();
            let length = usize::try_from(1 + rng.below(16)).unwrap();
            let _ = rustix::io::write(bell, &bytes[..length]);
        }
    }
}

fn scribble_over_page(socket: &Path) {
    let mut rng = Random::seeded();
    let (mut raw, _) = Raw::open(socket, "hostile");
    let mode = if rng.below(2) == 0 { Mode::Gated } else { Mode::Lossy };
    raw.send(&ToBroker::Subscribe(Subscribe { rings: true, mode, ..subscription(1, "good.>") }));
    let link = ReaderLink::new();
    let mut slot = 0;
    let bell = loop {
        let body = raw.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Offer(offer) => {
                let (number, page) = link.allocate_slot().unwrap();
                let page = page.expect("the first slot comes with a page");
                slot = number;
                let declared = PageDeclaration { first_slot: page.first_slot, slots: page.slots };
                let accept = Accept { attach: offer.attach, slot, page: Some(declared), fds: 1 };
                raw.send_with(&ToBroker::Accept(accept), &[std::os::fd::AsFd::as_fd(&page.fd)]);
            }
            ToClient::Attach(attach) => {
                let _memory = raw.fds.pop_front().unwrap();
                let (doorbell, space) = (raw.fds.pop_front().unwrap(), raw.fds.pop_front().unwrap());
                let again = space.try_clone().unwrap();
                link.set_bells(doorbell, space).unwrap();
                raw.send(&ToBroker::Attached { attach: attach.attach });
                break again;
            }
            _ => {}
        }
    };
    let mut scribbler = SlotScribbler::new(&link, slot).unwrap();
    let until = Instant::now() + TURN;
    let mut near = 0;
    while Instant::now() < until {
        near += rng.below(64);
        scribbler.aim(near);
        for _ in 0..64 {
            scribbler.scribble(&mut rng);
        }
        let _ = rustix::io::write(&bell, &rng.word().to_le_bytes());
    }
}

/// One hostile process after the other until the time is up and everybody else has `seen` something; says how many there
/// were. They end by themselves, or by a panic of their own when they are thrown out.
fn besiege(part: &str, broker: &Broker, seen: &[&AtomicU64]) -> u64 {
    let until = Instant::now() + duration();
    let mut turns = 0;
    while Instant::now() < until || seen.iter().any(|count| count.load(Ordering::Relaxed) == 0) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "actor", "--nocapture", "--quiet"]).env("TRAMLINE_SOCKET", broker.socket());
        command.env("TRAMLINE_TEST_PART", part).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap();
        turns += 1;
    }
    turns
}

fn client(broker: &Broker, name: &str) -> Client {
    Client::builder().name(name).socket(broker.socket()).reconnect(false).connect().unwrap()
}

/// An honest pair on a topic of its own counts the messages that it exchanged.
fn honest_pair(broker: &Broker, topic: &str, stop: &AtomicBool, exchanged: &AtomicU64) {
    let (from, to) = (client(broker, "honest publisher"), client(broker, "honest subscriber"));
    let mut subscription = to.subscribe(topic).unwrap();
    let mut publisher = from.publisher(topic).capacity(8192, 16).on_full(OnFull::Wait).open().unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        for length in [10, 1000, 8000] {
            let byte = u8::try_from(count % 251).unwrap();
            publisher.send(vec![byte; length]).unwrap();
            let message = subscription.recv().unwrap();
            count += 1;
            exchanged.store(count, Ordering::Relaxed);
            assert_eq!((message.seq(), message.lost_before()), (count, 0));
            assert!(message.payload().len() == length && message.payload().iter().all(|each| *each == byte));
        }
    }
}

/// Asks for status and metrics, which look into every ring and page, and counts how often.
fn observe(broker: &Broker, stop: &AtomicBool, looks: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let status = broker.http("/status");
        let body = status.split_once("\r\n\r\n").unwrap().1;
        serde_json::from_str::<serde_json::Value>(body).unwrap();
        assert!(broker.http("/metrics").starts_with("HTTP/1.1 200"));
        looks.fetch_add(1, Ordering::Relaxed);
    }
}

fn status(broker: &Broker) -> serde_json::Value {
    broker.json().ask(r#"{"op":"status"}"#)["status"].clone()
}

/// Waits until nothing of the besiegers is left in the broker. The watchdog ends this if it never is so.
fn settles(broker: &Broker, asker: &Client, before: (usize, usize)) {
    while broker.ring_mappings() > before.1 || broker.open_files() > before.0 {
        asker.ping().unwrap();
    }
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

#[test]
fn a_hostile_publisher_is_told_off_and_nobody_else_notices() {
    let _watchdog = watchdog();
    // A queue and a route take everything, also what no frame holds.
    let broker = Broker::with_config(
        "limits:\n  frame_bytes_max: 32768\nqueues:\n  - name: taken\n    bind: [hostile.>]\n    when_full: drop_oldest\n    \
         bytes_max: 1MiB\nroutes:\n  - name: r\n    from: hostile.>\n    deliver: {to: \"queue:taken\"}\n",
    );
    let stop = AtomicBool::new(false);
    let (messages, faults) = (AtomicU64::new(0), AtomicU64::new(0));
    let (pairs, looks) = (AtomicU64::new(0), AtomicU64::new(0));
    let asker = client(&broker, "asker");
    asker.ping().unwrap();
    let before = (broker.open_files(), broker.ring_mappings());
    let mut viewer = broker.json();
    assert_eq!(viewer.ask(r#"{"op":"sub","topic":"hostile.>","reliable":true}"#)["ok"], true);
    viewer.stream().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (turns, lines) = std::thread::scope(|scope| {
        scope.spawn(|| honest_pair(&broker, "good.pair", &stop, &pairs));
        scope.spawn(|| observe(&broker, &stop, &looks));
        let viewing = scope.spawn(|| viewed(viewer, &stop));
        scope.spawn(|| {
            // What it is sent is nonsense. It is told so, stream by stream, and goes on with the next.
            let victim = client(&broker, "victim");
            let mut subscription = victim.subscribe("hostile.>").unwrap();
            while !stop.load(Ordering::Relaxed) {
                match subscription.recv_timeout(Duration::from_millis(5)) {
                    Ok(Some(message)) => {
                        std::hint::black_box(message.payload().iter().fold(0_u8, |sum, byte| sum ^ byte));
                        messages.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(None) => drop(subscription.events()),
                    Err(error) => {
                        assert_eq!(error.code(), Code::FalseClaim, "{error}");
                        faults.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let mut turns = 0;
        while turns == 0 || status(&broker)["routes"][0]["delivered"] == 0 {
            turns += besiege("hostile publisher", &broker, &[&pairs, &looks, &faults]);
        }
        stop.store(true, Ordering::Relaxed);
        (turns, viewing.join().unwrap())
    });
    let now = status(&broker);
    let (queue, route) = (&now["queues"][0], &now["routes"][0]);
    let (pushed, delivered) = (queue["pushed"].as_u64().unwrap(), route["delivered"].as_u64().unwrap());
    assert!(pushed > delivered && delivered > 0, "{queue} {route}");
    println!(
        "{pushed} taken by a queue, {delivered} of them through a route; {turns} besiegers, {messages:?} messages of theirs, {faults:?} faults told, {lines} lines viewed, {looks:?} looks, {pairs:?} honest messages"
    );
    settles(&broker, &asker, before);
}

/// Reads lines, each of which must be JSON, until told to stop; says how many.
fn viewed(mut viewer: support::JsonLines, stop: &AtomicBool) -> u64 {
    use std::io::BufRead;
    let mut lines = 0;
    let mut line = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match viewer.reader().read_until(b'\n', &mut line) {
            Ok(0) => panic!("the viewer was thrown out"),
            Ok(_) if line.ends_with(b"\n") => {
                serde_json::from_slice::<serde_json::Value>(&line).unwrap();
                line.clear();
                lines += 1;
            }
            // Silence; what there is of a line is kept.
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
    lines
}

#[test]
fn a_hostile_subscriber_delays_whom_it_may_gate_and_nobody_loses_anything() {
    let _watchdog = watchdog();
    let broker = Broker::start();
    let stop = AtomicBool::new(false);
    let asker = client(&broker, "asker");
    asker.ping().unwrap();
    let before = (broker.open_files(), broker.ring_mappings());
    let (pairs, looks) = (AtomicU64::new(0), AtomicU64::new(0));
    let turns = std::thread::scope(|scope| {
        scope.spawn(|| honest_pair(&broker, "good.pair", &stop, &pairs));
        scope.spawn(|| observe(&broker, &stop, &looks));
        let turns = besiege("hostile subscriber", &broker, &[&pairs, &looks]);
        stop.store(true, Ordering::Relaxed);
        turns
    });
    println!("{turns} besiegers, {looks:?} looks, {pairs:?} honest messages");
    settles(&broker, &asker, before);
}
