//! A client in another language, written from the documents: `tests/foreign/client.py` talks with a real broker and with
//! processes that use the Rust client, on the socket and through rings that grow, each way, byte for byte, and outlives
//! the broker.
//!
//! The Rust processes are this test program itself, started again (see [`actor`]); they understand the same commands.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use support::{Broker, Users, Watchdog, have};
use tramline_client::{Client, Message, Publisher};

const FOREIGN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/client.py");

/// Byte i of message s is (s + 7 i) mod 256.
fn pattern(seq: u64, size: usize) -> Vec<u8> {
    (0..size as u64).map(|index| (seq + 7 * index).to_le_bytes()[0]).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A process that takes commands and tells what happens, in either language.
struct Process {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    /// Heard, and not asked for yet.
    heard: Vec<Value>,
}

impl Process {
    fn foreign(socket: &Path, name: &'static str) -> Self {
        let mut command = Command::new("python3");
        command.arg(FOREIGN).arg(socket).arg(name);
        Self::start(command, name)
    }

    fn rust(socket: &Path, name: &'static str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "actor", "--nocapture", "--quiet"]);
        command.env("ACTOR_SOCKET", socket).env("ACTOR_NAME", name);
        Self::start(command, name)
    }

    fn start(mut command: Command, name: &'static str) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        // Always read, also while nobody asks: a process that cannot print does not go on.
        let (lines, output) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        Self { name, child, input, output, heard: Vec::new() }
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    /// The next event of this kind; those that came before it are kept in their order.
    fn expect(&mut self, event: &str) -> Value {
        if let Some(at) = self.heard.iter().position(|heard| heard["event"] == event) {
            return self.heard.remove(at);
        }
        loop {
            let line = self.output.recv().unwrap_or_else(|_| panic!("{} ended before {event:?}", self.name));
            // The test framework's own words are passed over.
            let Some(start) = line.find("{\"event\"") else { continue };
            let heard: Value = serde_json::from_str(&line[start..]).unwrap();
            if heard["event"] == event {
                return heard;
            }
            assert_ne!(heard["event"], "refused", "{}: {heard}", self.name);
            self.heard.push(heard);
        }
    }

    /// The next `count` messages, which must be whole, continue the numbers of their topics and have come on this plane.
    fn take(
        &mut self,
        count: usize,
        topic: &str,
        size: usize,
        plane: &str,
        numbers: &mut HashMap<String, u64>,
    ) {
        for _ in 0..count {
            let next = numbers.entry(topic.to_owned()).or_insert(1);
            let message = self.take_one(topic, size, &[plane], *next);
            assert_eq!(message["type"], "foreign", "{message}");
            assert_eq!(message["headers"]["n"], hex(&next.to_le_bytes()), "{message}");
            *next += 1;
        }
    }

    /// The same of messages that were sent in batches, without type and headers: packed, but for those that met a full
    /// ring.
    fn take_bare(&mut self, count: usize, topic: &str, size: usize, numbers: &mut HashMap<String, u64>) {
        let mut packed = 0;
        for _ in 0..count {
            let next = numbers.entry(topic.to_owned()).or_insert(1);
            let message = self.take_one(topic, size, &["pack", "ring"], *next);
            assert_eq!((&message["type"], &message["headers"]), (&json!(""), &json!({})), "{message}");
            packed += u32::from(message["plane"] == "pack");
            *next += 1;
        }
        assert!(packed > 9, "{packed} of {count} came in packs");
    }

    fn take_one(&mut self, topic: &str, size: usize, planes: &[&str], seq: u64) -> Value {
        let mut message = self.expect("message");
        let payload = message["payload"].take();
        assert_eq!((&message["topic"], &message["seq"]), (&json!(topic), &json!(seq)), "{message}");
        assert_eq!(message["lost"], 0, "{message}");
        assert!(planes.contains(&message["plane"].as_str().unwrap()), "{message}");
        assert_eq!(message["length"], json!(size), "{message}");
        assert_eq!(message["uid"], rustix::process::getuid().as_raw());
        assert_eq!(payload.as_str().unwrap(), hex(&pattern(seq, size)), "the payload of {message}");
        message
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sizes that lie in a descriptor, that are copied, that are read in place, and that fill a good part of the ring.
const SIZES: [usize; 4] = [1, 300, 5_000, 60_000];

fn plane(size: usize) -> &'static str {
    if size < 4096 { "ring" } else { "in place" }
}

/// A process in each language, connected to a broker and subscribed to what the other will send.
struct Two {
    foreign: Process,
    rust: Process,
    broker: Broker,
    _watchdog: Watchdog,
}

impl Two {
    /// `None` where there is no Python.
    fn meet(plane: &str, to_foreign: &str, to_rust: &str) -> Option<Self> {
        if !have("python3") {
            return None;
        }
        let watchdog = Watchdog::start();
        let broker = Broker::start();
        let mut foreign = Process::foreign(broker.socket(), "python");
        let mut rust = Process::rust(broker.socket(), "rust");
        for (process, filter) in [(&mut foreign, to_foreign), (&mut rust, to_rust)] {
            process.expect("connected");
            process.tell(&format!("subscribe 1 {filter} {plane} gated"));
            process.expect("subscribed");
        }
        Some(Self { foreign, rust, broker, _watchdog: watchdog })
    }

    /// Each opens a ring, which the other reads.
    fn open(&mut self, by_rust: &str, by_foreign: &str, arena_bytes: u32) {
        for (process, topic) in [(&mut self.rust, by_rust), (&mut self.foreign, by_foreign)] {
            process.tell(&format!("open {topic} 16 {arena_bytes}"));
            assert_eq!(process.expect("opened")["readers"], 1);
        }
    }
}

#[test]
fn it_speaks_on_the_socket_both_ways() {
    let Some(Two { mut foreign, mut rust, broker: _broker, _watchdog }) =
        Two::meet("socket", "from.rust", "from.*")
    else {
        return;
    };
    let (mut by_rust, mut by_foreign) = (HashMap::new(), HashMap::new());
    for size in SIZES {
        foreign.tell(&format!("publish from.python {size} 20"));
        assert_eq!(foreign.expect("confirmed")["receivers"], 1);
        rust.take(20, "from.python", size, "socket", &mut by_foreign);
        rust.tell(&format!("publish from.rust {size} 20"));
        assert_eq!(rust.expect("confirmed")["receivers"], 2);
        foreign.take(20, "from.rust", size, "socket", &mut by_rust);
        rust.take(
            20,
            "from.rust",
            size,
            "socket",
            &mut HashMap::from([("from.rust".to_owned(), by_rust["from.rust"] - 20)]),
        );
    }
}

#[test]
fn it_reads_rings_in_place_and_writes_its_own() {
    let Some(mut two) = Two::meet("rings", "from.rust", "from.python") else { return };
    two.open("from.rust", "from.python", 262_144);
    let Two { foreign, rust, .. } = &mut two;
    let (mut by_rust, mut by_foreign) = (HashMap::new(), HashMap::new());
    for size in SIZES {
        // More than the ring holds: writers wait for readers, and readers wake them.
        foreign.tell(&format!("send from.python {size} 60"));
        rust.tell(&format!("send from.rust {size} 60"));
        rust.take(60, "from.python", size, plane(size), &mut by_foreign);
        foreign.take(60, "from.rust", size, plane(size), &mut by_rust);
        assert_eq!(foreign.expect("sent")["seq"], by_foreign["from.python"] - 1);
        assert_eq!(rust.expect("sent")["seq"], by_rust["from.rust"] - 1);
    }
    // What it holds in place stays as it was, whatever is written meanwhile.
    foreign.tell("hold 2");
    foreign.expect("holding");
    rust.tell("send from.rust 50000 2");
    foreign.take(2, "from.rust", 50_000, "in place", &mut by_rust);
    rust.tell("send from.rust 50000 40");
    foreign.take(40, "from.rust", 50_000, "in place", &mut by_rust);
    foreign.tell("release");
    for seq in [by_rust["from.rust"] - 42, by_rust["from.rust"] - 41] {
        let released = foreign.expect("released");
        assert_eq!((&released["seq"], &released["intact"]), (&json!(seq), &json!(true)));
    }
    // Both ends are told.
    rust.tell("close from.rust");
    assert_eq!(foreign.expect("ended")["topic"], "from.rust");
    foreign.tell("close from.python");
    foreign.expect("closed");
    // The numbers go on by socket.
    foreign.tell("publish from.python 10 3");
    rust.take(3, "from.python", 10, "socket", &mut by_foreign);
}

#[test]
fn it_outlives_the_broker_and_so_do_the_rings_it_reads_and_writes() {
    let Some(mut two) = Two::meet("rings", "from.rust.>", "from.python.>") else { return };
    two.open("from.rust.ring", "from.python.ring", 262_144);
    let Two { mut foreign, mut rust, mut broker, _watchdog } = two;
    let mut numbers = HashMap::new();
    for round in 0..3 {
        // By socket while there is a broker.
        rust.tell("publish from.rust.socket 500 5");
        foreign.tell("publish from.python.socket 500 5");
        foreign.take(5, "from.rust.socket", 500, "socket", &mut numbers);
        rust.take(5, "from.python.socket", 500, "socket", &mut numbers);
        foreign.expect("confirmed");
        rust.expect("confirmed");
        // Through rings, before, while there is none, and after.
        let exchange = |rust: &mut Process, foreign: &mut Process, numbers: &mut HashMap<String, u64>| {
            for size in [300, 20_000] {
                rust.tell(&format!("send from.rust.ring {size} 40"));
                foreign.tell(&format!("send from.python.ring {size} 40"));
                foreign.take(40, "from.rust.ring", size, plane(size), numbers);
                rust.take(40, "from.python.ring", size, plane(size), numbers);
            }
        };
        exchange(&mut rust, &mut foreign, &mut numbers);
        broker.kill();
        foreign.expect("disconnected");
        exchange(&mut rust, &mut foreign, &mut numbers);
        broker = Broker::with_config_in(broker.into_home(), "");
        assert_ne!(foreign.expect("connected")["session"], 0, "round {round}");
        foreign.expect("subscribed");
        foreign.expect("opened");
        exchange(&mut rust, &mut foreign, &mut numbers);
        // Only then is the Rust client's subscription certain to be there for what comes by socket.
        rust.tell("settled");
        rust.expect("settled");
    }
}

#[test]
fn it_takes_packs_apart_and_follows_rings_that_grow_and_grows_its_own() {
    let Some(mut two) = Two::meet("rings", "from.rust", "from.python") else { return };
    two.open("from.rust", "from.python", 65_536);
    let Two { mut foreign, mut rust, mut broker, _watchdog } = two;
    let (mut by_rust, mut by_foreign) = (HashMap::new(), HashMap::new());
    for (round, (theirs, ours)) in [(150_000, 150_000), (150_000, 700_000)].into_iter().enumerate() {
        // Packed, and so many that packs begin and end in the midst of a batch.
        rust.tell("batch from.rust 100 150");
        foreign.take_bare(150, "from.rust", 100, &mut by_rust);
        rust.tell("send from.rust 300 10");
        foreign.take(10, "from.rust", 300, "ring", &mut by_rust);
        // What does not fit moves the ring to a larger generation, and its reader holds some of it.
        foreign.tell("hold 2");
        foreign.expect("holding");
        rust.tell(&format!("send from.rust {theirs} 5"));
        foreign.take(5, "from.rust", theirs, "in place", &mut by_rust);
        if round == 0 {
            assert_eq!(foreign.expect("carried on")["generation"], 1);
        }
        rust.tell("send from.rust 300 20");
        foreign.take(20, "from.rust", 300, "ring", &mut by_rust);
        foreign.tell("release");
        for _ in 0..2 {
            assert_eq!(foreign.expect("released")["intact"], true);
        }
        // And the other way, by a writer that was made after the documents.
        for (size, count) in [(300, 10), (ours, 5), (300, 40)] {
            foreign.tell(&format!("send from.python {size} {count}"));
            rust.take(count, "from.python", size, plane(size), &mut by_foreign);
            foreign.expect("sent");
        }
        assert_eq!(foreign.expect("grown")["generation"], round + 1);
    }
    // A later broker is given the generation that there is.
    broker.kill();
    foreign.expect("disconnected");
    foreign.tell("send from.python 300 10");
    rust.take(10, "from.python", 300, "ring", &mut by_foreign);
    rust.tell("batch from.rust 100 150");
    foreign.take_bare(150, "from.rust", 100, &mut by_rust);
    let _broker = Broker::with_config_in(broker.into_home(), "");
    foreign.expect("opened");
    foreign.tell("send from.python 3000000 1");
    rust.take(1, "from.python", 3_000_000, "in place", &mut by_foreign);
    assert_eq!(foreign.expect("grown")["generation"], 3);
    rust.tell("send from.rust 3000000 1");
    foreign.take(1, "from.rust", 3_000_000, "in place", &mut by_rust);
    assert_eq!(foreign.expect("carried on")["generation"], 2);
}

#[test]
fn it_goes_on_in_memory_that_who_has_lost_its_access_is_not_given() {
    const READER: u32 = 61_235;
    if !have("python3") {
        return;
    }
    let _watchdog = Watchdog::start();
    let socket = "socket:\n  mode: \"0666\"\n";
    let yaml = format!("{socket}allow:\n  users: [{READER}]\n");
    let Some(users) = Users::start("what a foreign publisher does about lost access", 0, &yaml) else {
        return;
    };
    let broker = &users.broker;
    let mut foreign = Process::foreign(broker.socket(), "python");
    let mut rust = Process::rust(broker.socket(), "rust");
    foreign.expect("connected");
    rust.tell("subscribe 1 from.python rings gated");
    rust.expect("subscribed");
    let mut command = users.tramline(READER);
    command.args(["sub", "from.python", "--socket"]).arg(broker.socket());
    let mut reader = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    let asker = broker.client("asker");
    while broker.http("/status").matches("\"filter\"").count() < 2 {
        asker.ping().unwrap();
    }
    foreign.tell("open from.python 16 65536");
    assert_eq!(foreign.expect("opened")["readers"], 2);
    let mut numbers = HashMap::new();
    foreign.tell("send from.python 300 5");
    rust.take(5, "from.python", 300, "ring", &mut numbers);
    for _ in 0..5 {
        assert!(lines.next().unwrap().unwrap().contains("from.python"));
    }
    std::fs::write(broker.home().join("tramline.yaml"), socket).unwrap();
    broker.signal(Signal::HUP);
    assert_eq!(foreign.expect("grown")["generation"], 1);
    foreign.tell("send from.python 300 5");
    rust.take(5, "from.python", 300, "ring", &mut numbers);
    assert!(lines.next().is_none() && !reader.wait().unwrap().success(), "the reader is gone");
}

/// What a received message looks like, in the words of the other language.
fn describe(message: &Message) -> Value {
    let plane = match (message.in_place(), message.through_ring()) {
        (true, _) => "in place",
        (false, true) => "ring",
        (false, false) => "socket",
    };
    let headers: serde_json::Map<String, Value> =
        message.headers().map(|(name, value)| (name.to_owned(), json!(hex(value)))).collect();
    json!({
        "event": "message", "topic": message.topic(), "seq": message.seq(), "lost": message.lost_before(),
        "plane": plane, "uid": message.publisher().uid, "type": message.message_type(), "headers": headers,
        "length": message.payload_length(), "payload": hex(message.payload()),
    })
}

/// Not a test by itself: a process with the Rust client, which obeys.
#[test]
fn actor() {
    let Some(socket) = std::env::var_os("ACTOR_SOCKET") else { return };
    let name = std::env::var("ACTOR_NAME").unwrap();
    // Nothing takes a ring by itself.
    let builder = Client::builder().socket(socket).name(name).ring_payload_bytes_min(usize::MAX);
    let client = builder.connect().unwrap();
    let say = |event: Value| println!("{event}");
    say(json!({"event": "connected"}));
    let (mut numbers, mut publishers) = (HashMap::<String, u64>::new(), HashMap::<String, Publisher>::new());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        match words[0] {
            "subscribe" => {
                let subscription = client.subscription(words[2]).rings(words[3] == "rings").gated();
                let mut subscription = subscription.open().unwrap();
                std::thread::spawn(move || {
                    loop {
                        say(describe(&subscription.recv().unwrap()));
                    }
                });
                say(json!({"event": "subscribed"}));
            }
            "publish" => {
                let next = numbers.entry(words[1].to_owned()).or_insert(1);
                for left in (0..number(3)).rev() {
                    let head = next.to_le_bytes();
                    let message = client.message(words[1]).type_("foreign").header("n", &head);
                    let payload = pattern(*next, number(2));
                    if left > 0 {
                        assert_eq!(message.publish(&payload).unwrap(), *next);
                    } else {
                        let receivers = message.publish_confirmed(&payload).unwrap();
                        say(json!({"event": "confirmed", "receivers": receivers}));
                    }
                    *next += 1;
                }
            }
            "open" => {
                let (messages, bytes) = (number(2), number(3));
                let publisher =
                    client.publisher(words[1]).capacity(bytes / messages, u32::try_from(messages).unwrap());
                let publisher = publisher.open().unwrap();
                say(json!({"event": "opened", "readers": publisher.subscriber_count()}));
                publishers.insert(words[1].to_owned(), publisher);
            }
            "send" => {
                let publisher = publishers.get_mut(words[1]).unwrap();
                for _ in 0..number(3) {
                    let seq = publisher.next_seq();
                    let head = seq.to_le_bytes();
                    let message = publisher.message().type_("foreign").header("n", &head);
                    assert_eq!(message.send(pattern(seq, number(2))).unwrap(), seq);
                }
                say(json!({"event": "sent", "seq": publisher.next_seq() - 1}));
            }
            "batch" => {
                let publisher = publishers.get_mut(words[1]).unwrap();
                let seqs = publisher.next_seq()..;
                let payloads = seqs.take(number(3)).map(|seq| pattern(seq, number(2)));
                say(json!({"event": "sent", "seq": publisher.send_batch(payloads).unwrap()}));
            }
            "close" => publishers.remove(words[1]).unwrap().close().unwrap(),
            "settled" => {
                while client.ping().is_err() {
                    std::thread::yield_now();
                }
                say(json!({"event": "settled"}));
            }
            other => panic!("{other} is no command"),
        }
    }
}
