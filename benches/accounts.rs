//! Whether every message that routes take is accounted for, for ten minutes at half of what the broker can do, and whether
//! its memory stays as it is.
//!
//! `cargo bench --bench accounts`, or with `TRAMLINE_ACCOUNT_SECONDS` for another time. Of ten messages seven are valid, one
//! fails in an expression, one goes to a service that always refuses, which ends in a dead letter after one more try, and one is
//! dropped by a rule. First it is measured how many a second get through when so many are under way all the time; then half of
//! that is published by the clock. A subscriber counts what comes out, each message by its number. It fails if one is missing,
//! comes twice or elsewhere, if the broker's own accounts do not say the same, or if the broker's memory grows.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tramline_client::{Client, Subscription};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Messages under way while the capacity is measured.
const WINDOW: u64 = 4096;
/// By so much the broker's memory may grow from the tenth part of the time on: what an allocator keeps, and no leak.
const GROWTH_BYTES_MAX: u64 = 8 << 20;
/// Nanoseconds in a second.
const SECOND: u128 = 1_000_000_000;
/// Samples of the broker's memory.
const SAMPLES: u64 = 40;

const CONFIG: &str = "
routes:
  - {name: unwanted, priority: 2, from: in, when: 'data.kind == 9', drop: not wanted}
  - name: failing
    priority: 1
    from: in
    when: 'data.kind == 8'
    output: payload
    transform: {rules: [{source: number, required: true}]}
    deliver: {to: 'service:refuses', retries: 1, backoff: {initial: 1ms, max: 1ms}, dead_letter: 'topic:seen.dead'}
  - name: good
    from: in
    output: payload
    validate: schema.json
    transform:
      rules:
        - {source: number, required: true}
        - {source: lat, target: position.latitude}
        - {source: lon, target: position.longitude}
        - {source: speed, target: speed_kmh, transform: 'round(value * 3.6, 1)'}
    invalid: 'topic:seen.invalid'
    deliver: {to: 'topic:seen.out'}
";

const SCHEMA: &str = r#"{"type":"object","required":["number","lat","lon"],"properties":{"lat":{"type":"number","maximum":90}}}"#;

/// What becomes of the message with this number, by its last digit: its kind.
fn ends(number: u64) -> &'static str {
    match number % 10 {
        0..=6 => "seen.out",
        7 => "seen.invalid",
        8 => "seen.dead",
        _ => "nowhere",
    }
}

fn message(number: u64) -> String {
    let speed = if number % 10 == 7 { "\"fast\"" } else { "12.5" };
    format!(
        r#"{{"number":{number},"kind":{},"lat":54.1,"lon":8.25,"speed":{speed},"text":"so that it is as long as a message of a receiver"}}"#,
        number % 10
    )
}

/// The number in what comes out, also where the message stands in a letter as a text.
fn number_of(payload: &[u8]) -> Option<u64> {
    let name: &[u8] = b"\"number";
    let at = payload.windows(name.len()).rposition(|bytes| bytes == name)?;
    let digits = payload[at + name.len()..].iter().skip_while(|byte| !byte.is_ascii_digit());
    let digits: Vec<u8> = digits.take_while(|byte| byte.is_ascii_digit()).copied().collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// What the subscriber and the publisher know of each other.
#[derive(Default)]
struct Progress {
    seen: AtomicU64,
    done: AtomicBool,
}

fn main() -> Outcome<()> {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let asked = std::env::var("TRAMLINE_ACCOUNT_SECONDS").ok().map(|seconds| seconds.parse()).transpose()?;
    let time = Duration::from_secs(asked.unwrap_or(if measured { 600 } else { 2 }));
    let home = tempfile::tempdir()?;
    let (socket, file) = (home.path().join("s.sock"), home.path().join("c.yaml"));
    std::fs::write(&file, CONFIG)?;
    std::fs::write(home.path().join("schema.json"), SCHEMA)?;
    let mut serve = Command::new(env!("CARGO_BIN_EXE_tramline"));
    serve.args(["serve", "--log", "error", "--config"]).arg(&file).arg("--socket").arg(&socket);
    let mut broker = serve.stdout(Stdio::null()).spawn()?;
    while !socket.exists() {
        std::thread::yield_now();
    }
    let result = accounts(&socket, broker.id(), time);
    let _ = broker.kill();
    let _ = broker.wait();
    result
}

fn accounts(socket: &Path, broker: u32, time: Duration) -> Outcome<()> {
    let connect = |name: &str| Client::builder().socket(socket).name(name).connect();
    let (publisher, watcher, provider) = (connect("publisher")?, connect("watcher")?, connect("provider")?);
    // It ends with the broker.
    std::thread::spawn(move || provider.service("refuses").handle(|request| request.reply_error(1, "never")));
    let progress = Progress::default();
    std::thread::scope(|scope| {
        // Nothing is published before everybody is there.
        let subscription = watcher.subscription("seen.>").gated().open()?;
        while status(socket)?["services"].as_array().is_none_or(Vec::is_empty) {
            std::thread::yield_now();
        }
        let watching = scope.spawn(|| watch(subscription, &progress));
        let result = publish(&publisher, socket, broker, time, &progress);
        progress.done.store(true, Ordering::Release);
        let seen = watching.join().map_err(|_| "the watcher panicked")?;
        let published = result?;
        let seen = seen?;
        for number in 0..published {
            let times = seen.get(usize::try_from(number)?).copied().unwrap_or_default();
            let expected = u8::from(ends(number) != "nowhere");
            if times != expected {
                return Err(format!("message {number} came {times} times, not {expected}").into());
            }
        }
        Ok(())
    })
}

/// Counts what comes out, by numbers, until the publisher is done.
fn watch(mut subscription: Subscription, progress: &Progress) -> Result<Vec<u8>, String> {
    let mut seen: Vec<u8> = Vec::new();
    while !progress.done.load(Ordering::Acquire) {
        let next =
            subscription.recv_timeout(Duration::from_millis(100)).map_err(|error| error.to_string())?;
        let Some(message) = next else { continue };
        let number = number_of(message.payload()).ok_or("a message without a number")?;
        if message.topic() != ends(number) {
            return Err(format!("message {number} came on {}", message.topic()));
        }
        let place = usize::try_from(number).map_err(|error| error.to_string())?;
        if seen.len() <= place {
            seen.resize(place + 1, 0);
        }
        seen[place] = seen[place].saturating_add(1);
        progress.seen.fetch_add(1, Ordering::Release);
    }
    match subscription.lost() {
        0 => Ok(seen),
        lost => Err(format!("the subscriber lost {lost} messages")),
    }
}

/// Publishes all there is; how many messages.
fn publish(client: &Client, socket: &Path, broker: u32, time: Duration, progress: &Progress) -> Outcome<u64> {
    let mut published = 0_u64;
    let seen = || progress.seen.load(Ordering::Acquire);
    // Every tenth is dropped, and seen by nobody.
    let expected = |published: u64| published - published / 10;
    let began = Instant::now();
    let measuring = (time / 20).clamp(Duration::from_millis(500), Duration::from_secs(10));
    while began.elapsed() < measuring {
        if expected(published) - seen() >= WINDOW {
            std::thread::yield_now();
            continue;
        }
        client.publish_text("in", message(published))?;
        published += 1;
    }
    let capacity = u128::from(published) * SECOND / began.elapsed().as_nanos();
    println!("with {WINDOW} under way       {capacity:>10} messages a second");
    let (began, before) = (Instant::now(), published);
    let (mut memory, mut most_waiting) = (Vec::new(), 0);
    while began.elapsed() < time {
        let due = before + u64::try_from(began.elapsed().as_nanos() * (capacity / 2) / SECOND)?;
        while published < due {
            let sent = client.publish_text("in", message(published));
            sent.map_err(|error| format!("message {published}: {error}; {}", told(socket)))?;
            published += 1;
        }
        most_waiting = most_waiting.max(expected(published) - seen());
        let share = began.elapsed().as_secs_f64() / time.as_secs_f64();
        // Not before the tenth part: until then the broker takes what it needs.
        if share > 0.1 + 0.9 * memory.len() as f64 / SAMPLES as f64 {
            memory.push(resident(broker)?);
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    client.flush()?;
    let took = began.elapsed().as_secs_f64();
    println!(
        "published                {:>10} in {took:.1} s: {:.0} a second",
        published,
        (published - before) as f64 / took
    );
    println!("most under way           {most_waiting:>10}");
    let until = Instant::now() + Duration::from_secs(30);
    while seen() < expected(published) {
        if Instant::now() > until {
            return Err(format!("{} of {} came out: {}", seen(), expected(published), told(socket)).into());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    check(&status(socket)?, published)?;
    let first = memory.first().copied().unwrap_or_default();
    let (least, most) =
        (memory.iter().min().copied().unwrap_or(first), memory.iter().max().copied().unwrap_or(first));
    let last = memory.last().copied().unwrap_or(first);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "the broker's memory      {:>10.1} MiB after a tenth of the time, {:.1} at the end ({:.1} to {:.1})",
        mib(first),
        mib(last),
        mib(least),
        mib(most)
    );
    if last > first + GROWTH_BYTES_MAX {
        return Err("the broker's memory grew".into());
    }
    Ok(published)
}

/// Whether the broker's accounts say what must have become of so many messages.
fn check(status: &Value, published: u64) -> Outcome<()> {
    let of = |route: &str, key: &str| {
        let routes = status["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let route = routes.iter().find(|each| each["route"] == route);
        route.and_then(|route| route[key].as_u64()).unwrap_or(u64::MAX)
    };
    let with_last = |last: u64| (published + 9 - last) / 10;
    let count = |end: &str| (0..10).filter(|last| ends(*last) == end).map(with_last).sum::<u64>();
    let (good, invalid, dead, dropped) =
        (count("seen.out"), count("seen.invalid"), count("seen.dead"), count("nowhere"));
    let accounts = [
        ("received", of("unwanted", "received"), published),
        ("dropped by rule", of("unwanted", "dropped"), dropped),
        ("dead", of("failing", "dead"), dead),
        ("dead, tried again", of("failing", "retries"), dead),
        ("invalid", of("good", "invalid"), invalid),
        ("delivered", of("good", "delivered"), good),
        ("refused", status["routing"]["refused"].as_u64().unwrap_or(u64::MAX), 0),
        ("lost", of("failing", "lost") + of("good", "lost"), 0),
    ];
    for (name, is, expected) in accounts {
        println!("{name:<24} {is:>10}");
        if is != expected {
            return Err(format!("{name}: the broker says {is}, and it must be {expected}").into());
        }
    }
    if good + invalid + dead + dropped != published {
        return Err("the shares do not add up".into());
    }
    Ok(())
}

fn status(socket: &Path) -> Outcome<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"{\"op\":\"status\"}\n")?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let line: Value = serde_json::from_str(&lines.next().ok_or("the broker said nothing")??)?;
        if !line["status"].is_null() {
            return Ok(line["status"].clone());
        }
    }
}

/// What the broker says of its routes and sessions. On a machine that is busy otherwise, routes refuse what is too much.
fn told(socket: &Path) -> String {
    status(socket).map_or_else(
        |error| format!("the broker does not say why: {error}"),
        |status| format!("routing {}, clients {}", status["routing"], status["clients"]),
    )
}

/// Bytes of a process's memory, as the system counts them.
fn resident(process: u32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib * 1024)
}
