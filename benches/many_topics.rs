//! One publisher with ten thousand topics and eight subscribers of `>`, in processes of their own: what publishing
//! costs compared with one topic, and what memory and descriptors it takes.
//!
//! `cargo bench --bench many_topics`. A ring for each topic, so the publisher needs as many open files as topics and
//! a few more (`ulimit -n`), the broker too, which raises its own limit as far as it may; each subscriber
//! needs as many mappings (`vm.max_map_count`). Messages go in bursts of one for each topic (or as many to the
//! one topic), each read by all before the next one; the cost is the publishing thread's processor time for a
//! message, the best burst. Not a test: it asserts that everything arrives, and no time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tramline_client::{Client, Publisher};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const BYTES: usize = 64;
const BURSTS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(120);

/// How many of each, in a measurement and where only `cargo test --benches` wants to know that it runs.
struct Size {
    topics: usize,
    subscribers: usize,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--subscribe-at") {
        return subscriber(&arguments[at + 1]);
    }
    let measured = arguments.iter().any(|argument| argument == "--bench");
    let size =
        if measured { Size { topics: 10_000, subscribers: 8 } } else { Size { topics: 50, subscribers: 2 } };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let highest = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, highest)?;
    let home = tempfile::tempdir()?;
    let socket = home.path().join("s.sock");
    let mut broker = Process::start(
        Command::new(env!("CARGO_BIN_EXE_tramline"))
            .args(["serve", "--log", "warn", "--socket"])
            .arg(&socket),
    )?;
    while !socket.exists() {
        std::thread::yield_now();
    }
    let outcome = measure(&size, &socket, &broker);
    let _ = broker.child.kill();
    let _ = broker.child.wait();
    outcome
}

fn measure(size: &Size, socket: &std::path::Path, broker: &Process) -> Outcome<()> {
    let mut subscribers = Vec::new();
    for _ in 0..size.subscribers {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = Process::start(command.arg("--subscribe-at").arg(socket))?;
        process.hears("ready")?;
        subscribers.push(process);
    }
    let client = Client::builder().socket(socket).name("many topics").connect()?;
    let burst = size.topics;
    let payload = [7; BYTES];
    let mut sent = 0;

    let room = u32::try_from(burst)?.next_power_of_two();
    let mut one = client.publisher("many.one").capacity(BYTES, room).open()?;
    one.wait_for_subscribers(size.subscribers, PATIENCE)?;
    let alone = best_burst(&mut sent, burst, &mut subscribers, |_| {
        one.send(payload)?;
        Ok(())
    })?;
    one.close()?;

    let began = Instant::now();
    let mut publishers = (0..size.topics)
        .map(|number| client.publisher(&format!("many.of.{number}")).capacity(BYTES, 16).open())
        .collect::<Result<Vec<Publisher>, _>>()?;
    for publisher in &publishers {
        publisher.wait_for_subscribers(size.subscribers, PATIENCE)?;
    }
    let opened = began.elapsed();
    let many = best_burst(&mut sent, burst, &mut subscribers, |number| {
        publishers[number].send(payload)?;
        Ok(())
    })?;

    println!(
        "{} topics, {} subscribers of >, {BYTES} bytes, {burst} messages a burst",
        size.topics, size.subscribers
    );
    println!("opened and attached in {opened:.2?}, {:.0} attachments a second", {
        (size.topics * size.subscribers) as f64 / opened.as_secs_f64()
    });
    println!("publishing on one topic   {alone:>6.0} ns of processor time a message");
    println!("publishing on all topics  {many:>6.0} ns, {:.2} times as much", many / alone);
    println!("process      open files  mappings  anonymous KiB  shared KiB");
    row("publisher", std::process::id())?;
    row("broker", broker.child.id())?;
    for process in &subscribers {
        row("subscriber", process.child.id())?;
    }
    Ok(())
}

/// Sends bursts, each of which everybody reads before the next; nanoseconds for a message in the best of them.
fn best_burst(
    sent: &mut u64,
    burst: usize,
    subscribers: &mut [Process],
    mut send: impl FnMut(usize) -> Outcome<()>,
) -> Outcome<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..BURSTS {
        let before = processor_nanos();
        for number in 0..burst {
            send(number)?;
        }
        best = best.min((processor_nanos() - before) as f64 / burst as f64);
        *sent += burst as u64;
        for process in &mut *subscribers {
            process.say(&sent.to_string())?;
        }
        for process in &mut *subscribers {
            process.hears("all")?;
        }
    }
    Ok(best)
}

fn processor_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn row(name: &str, pid: u32) -> Outcome<()> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let mappings = std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or("?").to_owned()
    };
    println!("{name:<12} {files:>10}  {mappings:>8}  {:>13}  {:>10}", kib("RssAnon:"), kib("RssShmem:"));
    Ok(())
}

/// Reads everything; whenever it is told a number, says `all` once it has as many messages.
fn subscriber(socket: &str) -> Outcome<()> {
    let client = Client::builder().socket(socket).name("reader of all").connect()?;
    let mut subscription = client.subscribe(">")?;
    let wanted = Arc::new(AtomicU64::new(u64::MAX));
    let told = Arc::clone(&wanted);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let number = line.ok().and_then(|line| line.trim().parse().ok());
            told.store(number.unwrap_or(u64::MAX), Ordering::Release);
        }
        // Whoever started this has gone.
        std::process::exit(0);
    });
    println!("ready");
    let mut read = 0;
    loop {
        while subscription.recv_timeout(Duration::from_millis(1))?.is_some() {
            read += 1;
        }
        if wanted.load(Ordering::Acquire) <= read {
            assert_eq!((wanted.swap(u64::MAX, Ordering::AcqRel), subscription.lost()), (read, 0));
            println!("all");
            std::io::stdout().flush()?;
        }
    }
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(command: &mut Command) -> Outcome<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Self { child, input, output })
    }

    fn say(&mut self, line: &str) -> Outcome<()> {
        Ok(writeln!(self.input, "{line}")?)
    }

    fn hears(&mut self, expected: &str) -> Outcome<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.trim_end() == expected {
            Ok(())
        } else {
            Err(format!("{line:?} instead of {expected}").into())
        }
    }
}
