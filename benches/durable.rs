//! A queue on disk as its producers see it, beside bare files on the same disk: what is confirmed in a second, against one
//! sync for each message and against the same groups as plain appends; and a million messages: memory, and the time to
//! start with them. Prints its figures; `TRAMLINE_BENCH_MILLION=0` leaves the second part out.
#![allow(clippy::unwrap_used, reason = "a measurement that fails says where")]
#![allow(missing_docs, reason = "a program")]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tramline_client::Client;

const PRODUCERS: usize = 64;
/// Messages that a producer has on their way at a time.
const WINDOW: u64 = 16;
const BYTES: usize = 1024;
const MEASURED: Duration = Duration::from_secs(5);
const BARE: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
const MILLION: u64 = 1_000_000;
const SMALL: usize = 100;

const CONFIG: &str = "\
limits: {stored_bytes_max: 1TiB, user_stored_bytes_max: 1TiB}
queues:
  - {name: jobs, durability: disk, messages_max: 4000000000, bytes_max: 1TiB}
  - {name: many, durability: disk, messages_max: 4000000000, bytes_max: 1TiB}
";

struct Broker {
    child: Child,
    home: std::path::PathBuf,
}

impl Broker {
    /// Starts one and waits until it listens; how long that took.
    fn start(home: &Path) -> (Self, Duration) {
        std::fs::write(home.join("c.yaml"), CONFIG).unwrap();
        let begun = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tramline"))
            .args(["serve", "--log", "warn", "--socket"])
            .arg(home.join("s"))
            .arg("--config")
            .arg(home.join("c.yaml"))
            .env("STATE_DIRECTORY", home)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it did not start");
        (Self { child, home: home.to_owned() }, begun.elapsed())
    }

    fn client(&self) -> Client {
        Client::builder().name("bench").socket(self.home.join("s")).connect().unwrap()
    }

    fn status(&self, part: &str) -> serde_json::Value {
        use std::os::unix::net::UnixStream;
        let mut socket = UnixStream::connect(self.home.join("s")).unwrap();
        socket.write_all(b"{\"op\":\"status\"}\n").unwrap();
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["status"][part].clone()
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All producers push for so long, or so many; returns how many were confirmed, and in which time.
fn push(broker: &Broker, queue: &str, bytes: usize, window: u64, span: Duration, most: u64) -> (u64, f64) {
    let (confirmed, begun) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..PRODUCERS {
            let confirmed = &confirmed;
            scope.spawn(move || {
                let client = broker.client();
                let payload = vec![7; bytes];
                while begun.elapsed() < span && confirmed.load(Ordering::Relaxed) < most {
                    for _ in 1..window {
                        client.push(queue, &payload).send_soon().unwrap();
                    }
                    // They are stored in order: with the last one all are.
                    client.push(queue, &payload).confirm().unwrap();
                    confirmed.fetch_add(window, Ordering::Relaxed);
                }
            });
        }
    });
    (confirmed.load(Ordering::Relaxed), begun.elapsed().as_secs_f64())
}

/// Appends so many bytes and syncs, again and again: how often in a second.
fn bare(home: &Path, bytes: usize) -> f64 {
    let mut file = File::create(home.join("bare")).unwrap();
    let block = vec![7; bytes];
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < BARE {
        file.write_all(&block).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    std::fs::remove_file(home.join("bare")).unwrap();
    rate
}

fn main() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let home = home.path();
    let (broker, _) = Broker::start(home);
    println!("{PRODUCERS} producers, {WINDOW} messages of {BYTES} bytes on their way each");
    for _ in 0..ROUNDS {
        let before = broker.status("store");
        let (confirmed, seconds) = push(&broker, "jobs", BYTES, WINDOW, MEASURED, u64::MAX);
        let after = broker.status("store");
        let since = |key: &str| after[key].as_u64().unwrap() - before[key].as_u64().unwrap();
        let rate = confirmed as f64 / seconds;
        let group = (confirmed / since("batches")).max(1);
        let single = bare(home, BYTES);
        let grouped = bare(home, BYTES * usize::try_from(group).unwrap()) * group as f64;
        println!(
            "confirmed {rate:.0}/s in groups of {group} (sync {:.2} ms); one sync for each {single:.0}/s: {:.0} times; the same \
             groups appended {grouped:.0}/s: {:.0} %",
            since("nanos") as f64 / since("batches") as f64 / 1e6,
            rate / single,
            100.0 * rate / grouped
        );
    }
    if std::env::var("TRAMLINE_BENCH_MILLION").is_ok_and(|value| value == "0") {
        return;
    }
    drop(broker);
    std::fs::remove_file(home.join("queues.store")).unwrap();
    let (broker, empty) = Broker::start(home);
    let first = broker.resident_kib();
    let (confirmed, seconds) = push(&broker, "many", SMALL, 256, Duration::from_secs(60), MILLION);
    println!(
        "{confirmed} messages of {SMALL} bytes in {seconds:.1} s; {} KiB resident, {first} before",
        broker.resident_kib()
    );
    drop(broker);
    let (broker, full) = Broker::start(home);
    let queue =
        broker.status("queues").as_array().unwrap().iter().find(|it| it["queue"] == "many").unwrap().clone();
    println!(
        "started with {} of them in {:.2} s ({:.2} s without any), {} KiB resident",
        queue["messages"],
        full.as_secs_f64(),
        empty.as_secs_f64(),
        broker.resident_kib()
    );
    let mut jobs = broker.client().consume("many").prefetch(2048).start().unwrap();
    let begun = Instant::now();
    for _ in 0..confirmed {
        jobs.recv().unwrap().ack().unwrap();
    }
    println!("all taken again and acknowledged in {:.1} s", begun.elapsed().as_secs_f64());
}
