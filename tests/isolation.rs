//! Whoever behaves badly harms nobody else: beside each of them, everything that another publisher sends by socket and
//! through a ring reaches another subscriber, in order, and nobody who behaves is disconnected. Counts only; how
//! fast it goes is measured by `tramline bench isolation`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use support::{Broker, Watchdog, tramline};
use tramline_client::{Client, Publisher, Subscription};

/// Messages on each plane.
const MESSAGES: u64 = 20_000;
const FRAME_BYTES: usize = 8 << 20;

fn client(broker: &Broker, name: &str) -> Client {
    Client::builder().name(name).socket(broker.socket()).reconnect(false).connect().unwrap()
}

/// A publisher and a subscriber that have nothing to do with anybody's misbehaviour.
struct Bystanders {
    publisher: Client,
    ring: Publisher,
    by_socket: Subscription,
    by_ring: Subscription,
}

impl Bystanders {
    fn meet(broker: &Broker) -> Self {
        let (publisher, subscriber) = (client(broker, "bystanding publisher"), client(broker, "bystander"));
        let by_socket = subscriber.subscription("quiet.socket").gated().open().unwrap();
        let by_ring = subscriber.subscription("quiet.ring").gated().open().unwrap();
        let ring = publisher.publisher("quiet.ring").capacity(64, 256).open().unwrap();
        Self { publisher, ring, by_socket, by_ring }
    }

    /// Everything arrives, in order, on both planes.
    fn talk(&mut self) {
        let Self { publisher, ring, by_socket, by_ring } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut batch = publisher.batch();
                for number in 0..MESSAGES {
                    ring.send(number.to_le_bytes()).unwrap();
                    batch.publish("quiet.socket", number.to_le_bytes()).unwrap();
                    if number % 100 == 99 {
                        batch.send().unwrap();
                    }
                }
                batch.send().unwrap();
                publisher.flush().unwrap();
            });
            for subscription in [by_socket, by_ring] {
                scope.spawn(move || {
                    for number in 0..MESSAGES {
                        let message = subscription.recv().unwrap();
                        assert_eq!(message.payload(), number.to_le_bytes(), "on {}", message.topic());
                        assert_eq!(message.lost_before(), 0, "on {}", message.topic());
                    }
                    assert_eq!(subscription.lost(), 0);
                });
            }
        });
    }
}

/// A thread that goes on until it is told to stop, and says how often it did what it does.
struct Repeat {
    stop: Arc<AtomicBool>,
    times: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Repeat {
    fn start(mut what: impl FnMut() + Send + 'static) -> Self {
        let (stop, times) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&times));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                what();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let repeat = Self { stop, times, thread: Some(thread) };
        while repeat.times() == 0 {
            std::thread::yield_now();
        }
        repeat
    }

    fn times(&self) -> u64 {
        self.times.load(Ordering::Relaxed)
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A program that is ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_stopped_sub_harms_nobody_and_learns_how_much_it_missed() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let mut bystanders = Bystanders::meet(&broker);
    let mut command = tramline();
    command.args(["sub", ">", "--format", "json", "--socket"]).arg(broker.socket()).stdout(Stdio::piped());
    let mut sub = Program(command.spawn().unwrap());
    // It is attached before it is stopped: it gets something of each.
    let mut lines = BufReader::new(sub.0.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    while !broker.http("/status").contains("\"filter\": \">\"") {
        std::thread::yield_now();
    }
    bystanders.ring.wait_for_subscribers(2, std::time::Duration::from_secs(60)).unwrap();
    signal(&sub.0, Signal::STOP);
    bystanders.talk();
    signal(&sub.0, Signal::CONT);
    let mut accounted = [0; 2];
    while accounted != [MESSAGES; 2] {
        let line = lines.next().unwrap();
        let Some(topic) = line["topic"].as_str() else { continue };
        let Some(place) = ["quiet.socket", "quiet.ring"].iter().position(|known| *known == topic) else {
            continue;
        };
        accounted[place] += line["lost"].as_u64().unwrap_or(1);
        assert!(accounted[place] <= MESSAGES, "{line}");
        // The end of what it missed is told with the next message at the latest.
        if accounted[place] < MESSAGES && line["seq"] == MESSAGES {
            panic!("{} of {MESSAGES} on {topic} are accounted for", accounted[place]);
        }
    }
}

#[test]
fn a_slow_viewer_of_large_frames_harms_nobody() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let mut bystanders = Bystanders::meet(&broker);
    let camera = client(&broker, "camera");
    let mut frames = camera.publisher("cam").capacity(FRAME_BYTES, 3).open().unwrap();
    let viewer = broker.connect();
    writeln!(&viewer, r#"{{"op":"sub","topic":"cam"}}"#).unwrap();
    let mut viewer = BufReader::with_capacity(512, viewer);
    let mut line = String::new();
    viewer.read_line(&mut line).unwrap();
    assert!(line.contains("\"ok\":true"), "{line}");
    let filming = Repeat::start(move || {
        frames.loan(FRAME_BYTES).unwrap().send().unwrap();
    });
    // It looks at one frame now, and then at none for as long as the others talk.
    while !line.contains("\"msg\"") {
        line.clear();
        viewer.read_line(&mut line).unwrap();
    }
    assert!(line.contains("\"bytes\":8388608") && line.contains("\"preview\""), "{line}");
    let before = filming.times();
    bystanders.talk();
    while filming.times() == before {
        std::thread::yield_now();
    }
    filming.stop();
    // It is still there.
    let answer = broker.json().ask(r#"{"op":"status"}"#);
    assert!(answer["status"]["subscriptions"].to_string().contains("\"cam\""), "{answer}");
}

#[test]
fn a_gated_reader_that_takes_one_message_now_and_then_holds_up_its_own_publisher_only() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let mut bystanders = Bystanders::meet(&broker);
    let held = client(&broker, "held up");
    let mut sipper = client(&broker, "sipper").subscription("held").gated().open().unwrap();
    let mut stream = held.publisher("held").capacity(64, 16).open().unwrap();
    assert_eq!(stream.subscriber_count(), 1);
    // Fuller than full: from here on it waits for the reader.
    let mut sent = 0;
    while stream.try_send(b"x").is_ok() {
        sent += 1;
    }
    let pouring = std::thread::spawn(move || {
        for _ in 0..4 {
            stream.send(b"x").unwrap();
        }
    });
    bystanders.talk();
    sipper.recv().unwrap();
    bystanders.talk();
    for _ in 1..sent + 4 {
        sipper.recv().unwrap();
    }
    pouring.join().unwrap();
}

#[test]
fn clients_that_never_read_harm_nobody() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let mut bystanders = Bystanders::meet(&broker);
    // One by JSON, for whom the broker reads the ring as well, and one that never even listens to its greeting.
    let mut deaf = broker.json();
    assert_eq!(deaf.ask(r#"{"op":"sub","topic":">"}"#)["ok"], true);
    let mut mute = UnixStream::connect(broker.socket()).unwrap();
    mute.write_all(&tramline_wire::preamble::request()).unwrap();
    // And one that asks and asks without listening to the answers, as long as it is let.
    let asking = broker.connect();
    asking.set_nonblocking(true).unwrap();
    let asking = Repeat::start(move || {
        let _ = (&asking).write(b"{\"op\":\"status\"}\n");
        std::thread::yield_now();
    });
    bystanders.talk();
    asking.stop();
}

#[test]
fn one_that_connects_in_a_loop_harms_nobody() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let mut bystanders = Bystanders::meet(&broker);
    let socket = broker.socket().to_owned();
    let knocking = Repeat::start(move || {
        if let Ok(mut stream) = UnixStream::connect(&socket) {
            let _ = stream.write_all(&tramline_wire::preamble::request());
        }
    });
    bystanders.talk();
    let before = knocking.times();
    // Who comes now stands in a long queue, and gets in.
    let late = client(&broker, "late");
    late.ping().unwrap();
    bystanders.talk();
    assert!(knocking.times() > before, "it was kept from connecting");
    knocking.stop();
}

#[test]
fn the_measurement_covers_every_offender_on_both_planes() {
    let mut command = tramline();
    command.args(["bench", "isolation", "--duration", "0.05", "--rounds", "1", "--json"]);
    let output = Command::output(&mut command).unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["isolation"].as_array().unwrap();
    assert_eq!(findings.len(), 2 * 11);
    for finding in findings {
        assert_eq!((&finding["whole"], finding["lost"].as_u64()), (&true.into(), Some(0)), "{finding}");
        assert!(
            finding["ratio"].as_f64().unwrap() > 0.0 && finding["received"].as_u64().unwrap() > 0,
            "{finding}"
        );
    }
}
