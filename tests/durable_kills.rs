//! Queues on disk with real processes: a broker that is killed again and again under load, one that is stopped, a disk that
//! fills up. Whatever was confirmed is there.
//!
//! `TRAMLINE_TEST_KILLS` says how often it is killed: the long form of the test is the same with 200.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Broker, Watchdog, is_root};
use tramline_client::{Client, Code, Error, OnFull};

/// How often the broker is killed unless the environment says otherwise.
const KILLS: u64 = 20;

/// Messages that are confirmed, and received, before the next kill.
const PROGRESS: u64 = 60;

const PRODUCERS: u64 = 4;
const CONSUMERS: usize = 2;

const QUEUES: &str = "\
limits:
  queue_cache_bytes_max: 16KiB
queues:
  - name: jobs
    durability: disk
    attempts_max: 254
    backoff_millis: 1
  - name: plain
";

/// What the checker knows.
#[derive(Default)]
struct Books {
    confirmed: Mutex<BTreeSet<u64>>,
    received: Mutex<BTreeSet<u64>>,
    /// How many of each so far, repetitions included.
    confirmations: AtomicU64,
    receipts: AtomicU64,
    /// No more is pushed; everything is received.
    full: AtomicBool,
    done: AtomicBool,
}

fn goes_on(counter: &AtomicU64) {
    let from = counter.load(Ordering::Acquire);
    while counter.load(Ordering::Acquire) < from + PROGRESS {
        std::thread::yield_now();
    }
}

/// Pushes until it is told to stop; each message again, under its id, until the broker says that it has it.
fn produce(client: &Client, producer: u64, books: &Books) {
    for count in 0.. {
        if books.full.load(Ordering::Acquire) {
            return;
        }
        let number = count * PRODUCERS + producer;
        let name = number.to_le_bytes();
        let mut payload = vec![0; 600];
        payload[..8].copy_from_slice(&name);
        while client
            .push("jobs", &payload)
            .priority(u8::try_from(number % 3).unwrap())
            .id(&name)
            .confirm()
            .is_err()
        {
            std::thread::yield_now();
        }
        books.confirmed.lock().unwrap().insert(number);
        books.confirmations.fetch_add(1, Ordering::Release);
    }
}

/// Takes and acknowledges until it is told to stop; begins anew whenever the broker has gone.
fn consume(client: &Client, queue: &str, books: &Books) {
    while !books.done.load(Ordering::Acquire) {
        let Ok(mut jobs) = client.consume(queue).prefetch(32).start() else {
            std::thread::yield_now();
            continue;
        };
        while !books.done.load(Ordering::Acquire) {
            match jobs.recv_timeout(Duration::from_millis(50)) {
                Ok(Some(job)) => {
                    let number = u64::from_le_bytes(job.payload()[..8].try_into().unwrap());
                    books.received.lock().unwrap().insert(number);
                    books.receipts.fetch_add(1, Ordering::Release);
                    // If the broker has gone meanwhile it comes again, which is what is promised.
                    let _ = job.ack();
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }
}

fn status(broker: &Broker, queue: &str) -> serde_json::Value {
    let status = broker.json().ask(r#"{"op":"status"}"#);
    let queues = status["status"]["queues"].as_array().unwrap().clone();
    queues.into_iter().find(|each| each["queue"] == queue).unwrap()
}

#[test]
fn no_confirmed_message_is_lost_however_often_the_broker_is_killed() {
    let kills = std::env::var("TRAMLINE_TEST_KILLS").map_or(KILLS, |number| number.parse().unwrap());
    let (alive, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let patience = Duration::from_secs(90 + 10 * kills);
        if ended.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a test hangs");
            std::process::abort();
        }
    });
    let books = Arc::new(Books::default());
    let mut broker = Broker::with_config(QUEUES);
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (client, books) = (broker.client("produces"), Arc::clone(&books));
            std::thread::spawn(move || produce(&client, producer, &books))
        })
        .collect();
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|_| {
            let (client, books) = (broker.client("consumes"), Arc::clone(&books));
            std::thread::spawn(move || consume(&client, "jobs", &books))
        })
        .collect();
    for _ in 0..kills {
        goes_on(&books.confirmations);
        goes_on(&books.receipts);
        broker.kill();
        broker = broker.again();
    }
    goes_on(&books.confirmations);
    books.full.store(true, Ordering::Release);
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    while status(&broker, "jobs")["messages"] != 0 {
        std::thread::yield_now();
    }
    books.done.store(true, Ordering::Release);
    consumers.into_iter().for_each(|consumer| consumer.join().unwrap());
    let (confirmed, received) = (books.confirmed.lock().unwrap(), books.received.lock().unwrap());
    let lost: Vec<_> = confirmed.difference(&received).collect();
    assert!(lost.is_empty(), "confirmed and never received: {lost:?}");
    assert_eq!(status(&broker, "jobs")["dead_letters"], 0);
    println!(
        "{kills} kills: {} messages confirmed, none lost, {} given out again",
        confirmed.len(),
        books.receipts.load(Ordering::Acquire) - received.len() as u64
    );
    drop(alive);
}

#[test]
fn a_queue_is_there_again_with_all_that_is_known_of_its_messages() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("queues: [{name: none}]");
    assert!(!broker.home().join("queues.store").exists(), "no queue on disk, no file");
    let client = broker.client("declares");
    client.queue("lasting").durable().messages_max(7).declare().unwrap();
    client.queue("gone").declare().unwrap();
    for (priority, payload) in [(1, "low"), (9, "high"), (9, "higher")] {
        client.push("lasting", payload).priority(priority).id(payload).type_("t").confirm().unwrap();
    }
    client.push("lasting", "later").delay(Duration::from_secs(3600)).confirm().unwrap();
    let mut jobs = client.consume("lasting").prefetch(1).start().unwrap();
    jobs.recv().unwrap().reject("no use").unwrap();
    let job = jobs.recv().unwrap();
    assert_eq!((job.text().unwrap(), job.attempt()), ("higher", 1));
    job.nack_after(Duration::ZERO).unwrap();
    jobs.recv().unwrap().ack().unwrap();
    client.flush().unwrap();
    drop((jobs, client));
    let mut broker = broker;
    // What was said last is written before it ends.
    assert!(broker.stop().success());
    let broker = broker.again();
    let shown = status(&broker, "lasting");
    assert_eq!(
        (&shown["messages"], &shown["delayed"], &shown["messages_max"]),
        (&2.into(), &1.into(), &7.into())
    );
    assert_eq!(shown["durability"], "disk");
    // Those in memory are shown, and they are read while it begins to listen.
    assert_eq!(shown["dead_letters"], 1);
    let dead = loop {
        let dead = broker.json().ask(r#"{"op":"queue","queue":"lasting","do":"dead"}"#);
        if dead["count"] != 0 {
            break dead;
        }
        std::thread::yield_now();
    };
    assert_eq!(dead["messages"][0]["reason"], "no use", "{dead}");
    assert_eq!(
        (&dead["messages"][0]["attempts"], &dead["messages"][0]["cause"]),
        (&1.into(), &"rejected".into())
    );
    let client = broker.client("comes later");
    assert_eq!(client.push("gone", "x").confirm().unwrap_err().code(), Code::UnknownQueue);
    client.push("lasting", "low").id("low").confirm().unwrap();
    let shown = status(&broker, "lasting");
    assert_eq!((&shown["messages"], &shown["duplicates"]), (&2.into(), &1.into()), "the id is remembered");
    let mut jobs = client.consume("lasting").start().unwrap();
    let job = jobs.recv().unwrap();
    assert_eq!((job.text().unwrap(), job.message_type(), job.priority()), ("low", Some("t"), 1));
    assert_eq!((job.publisher().name.as_str(), job.publisher().pid), ("declares", std::process::id()));
    job.ack().unwrap();
}

#[test]
fn a_queue_that_is_bound_to_a_ring_goes_on_behind_what_it_has() {
    let _watchdog = Watchdog::start();
    let mut broker = Broker::with_config("queues: [{name: log, durability: disk, bind: [log.>]}]");
    let books = Arc::new(Books::default());
    let (client, taken) = (broker.client("consumes"), Arc::clone(&books));
    let consumer = std::thread::spawn(move || consume(&client, "log", &taken));
    let client = broker.client("publishes");
    let ring = client.publisher("log.app").capacity(64, 4096).on_full(OnFull::Wait);
    let mut publisher = ring.open().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        for _ in 0..200 {
            last = publisher.send((last + 1_u64).to_le_bytes()).unwrap();
        }
        while !books.received.lock().unwrap().contains(&(last - 100)) {
            std::thread::yield_now();
        }
        broker.kill();
        for _ in 0..200 {
            last = publisher.send((last + 1_u64).to_le_bytes()).unwrap();
        }
        broker = broker.again();
    }
    while (books.received.lock().unwrap().len() as u64) < last {
        std::thread::yield_now();
    }
    let shown = status(&broker, "log");
    assert_eq!(shown["lost"], 0, "{shown}");
    books.done.store(true, Ordering::Release);
    consumer.join().unwrap();
}

#[test]
fn a_queue_is_not_taken_from_the_disk_while_it_holds_something() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("queues: [{name: jobs, durability: disk}]");
    broker.client("c").push("jobs", "x").confirm().unwrap();
    let mut broker = broker;
    broker.kill();
    let home = broker.into_home();
    let config = home.path().join("other.yaml");
    std::fs::write(&config, "queues: [{name: jobs}]").unwrap();
    let output = support::tramline()
        .args(["serve", "--socket"])
        .arg(home.path().join("t.sock"))
        .arg("--config")
        .arg(&config)
        .env("STATE_DIRECTORY", home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("1 messages of it are on disk"), "{said}");
}

#[test]
fn a_disk_that_is_full_makes_queues_read_only_until_there_is_room() {
    let _watchdog = Watchdog::start();
    if !is_root("a store on a file system that fills up") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let disk = home.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=12m,mode=0700", "tmpfs"])
        .arg(&disk)
        .status()
        .unwrap();
    if !mounted.success() {
        return support::skipped("the right to mount", "a store on a file system that fills up");
    }
    let unmount = Unmount(disk.clone());
    let config = format!("{QUEUES}store: {{path: {}/queues.store}}\n", disk.display());
    let broker = Broker::with_config_in(home, &config);
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let client = broker.client("fills");
    let payload = vec![7; 64 * 1024];
    let mut confirmed = 0;
    let refused: Error = loop {
        match client.push("jobs", &payload).confirm() {
            Ok(()) => confirmed += 1,
            Err(error) => break error,
        }
        assert!(confirmed < 1000, "it never fills");
    };
    assert_eq!(refused.code(), Code::StoreReadOnly, "{refused}");
    assert!(
        refused.to_string().contains("queues.store") && refused.to_string().contains("room"),
        "{refused}"
    );
    client.push("plain", &payload).confirm().unwrap();
    let shown = broker.json().ask(r#"{"op":"status"}"#);
    assert_eq!(shown["status"]["store"]["state"], "full", "{shown}");
    // Consuming goes on.
    let mut jobs = client.consume("jobs").prefetch(1).start().unwrap();
    jobs.recv().unwrap().ack().unwrap();
    std::fs::remove_file(&ballast).unwrap();
    while client.push("jobs", &payload).confirm().is_err() {
        std::thread::yield_now();
    }
    confirmed += 1;
    for _ in 1..confirmed {
        let job = jobs.recv().unwrap();
        assert_eq!(job.payload().len(), payload.len());
        job.ack().unwrap();
    }
    drop((jobs, client, broker));
    drop(unmount);
}

/// Takes the file system away again.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
