//! Large payloads by plain `publish`, which takes a ring by itself, read in place; beside the same bytes through a
//! relay between two Unix stream sockets, in the same run.
//!
//! `cargo bench --bench publish`. Three processes on either side: sender, broker or relay, receiver. The sender writes
//! every byte of each payload and the receiver reads every byte and compares their sum with the one that the
//! message's number promises. Rounds alternate between the two, and the best of each counts. Not a test: it asserts
//! that everything arrives intact and in order, and no time.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tramline_client::Client;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SIZES: [usize; 2] = [64 << 10, 1 << 20];
/// What a relay and its receiver take at once, in bytes.
const READ_BYTES: usize = 256 << 10;
const TOPIC: &str = "bench.publish";
/// The number of the last message.
const LAST: u64 = u64::MAX;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let size = || -> Outcome<usize> { Ok(arguments[2].parse()?) };
    match arguments.get(1).map(String::as_str) {
        Some("relay") => return relay(),
        Some("receive") => return receive(size()?),
        Some("subscribe") => return subscribe(size()?, Path::new(&arguments[3])),
        _ => {}
    }
    let measured = arguments.iter().any(|argument| argument == "--bench");
    let (rounds, time) =
        if measured { (5, Duration::from_millis(600)) } else { (1, Duration::from_millis(20)) };
    let home = tempfile::tempdir()?;
    let socket = home.path().join("s.sock");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_tramline"));
    let mut broker = serve.args(["serve", "--log", "warn", "--socket"]).arg(&socket).spawn()?;
    while !socket.exists() {
        std::thread::yield_now();
    }
    let outcome = measure(rounds, time, &socket);
    let _ = broker.kill();
    let _ = broker.wait();
    outcome
}

fn measure(rounds: u32, time: Duration, socket: &Path) -> Outcome<()> {
    println!("payload   relay GB/s  publish GB/s  times as much");
    for size in SIZES {
        let (mut relayed, mut published) = (0.0_f64, 0.0_f64);
        for _ in 0..rounds {
            relayed = relayed.max(through_relay(size, time)?);
            published = published.max(by_publish(size, time, socket)?);
        }
        println!("{:>4} KiB  {relayed:>10.2}  {published:>12.2}  {:>13.1}", size >> 10, published / relayed);
    }
    Ok(())
}

/// Writes every byte; the words add up to what `sum` says.
fn fill(payload: &mut [u8], number: u64) {
    let (start, words) = payload.split_at_mut(8);
    start.copy_from_slice(&number.to_le_bytes());
    for (word, value) in words.chunks_exact_mut(8).zip(number..) {
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Reads every byte; the number, if all are those that belong to it.
fn check(payload: &[u8]) -> Option<u64> {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let (start, words) = payload.split_at(8);
    let number = word(start);
    let sum = words.chunks_exact(8).fold(0_u64, |sum, bytes| sum.wrapping_add(word(bytes)));
    let count = words.len() as u64 / 8;
    let promised = number.wrapping_mul(count).wrapping_add(count * (count - 1) / 2);
    (sum == promised).then_some(number)
}

/// Fills and sends until the time is up; how many messages, the last one included.
fn send_for(size: usize, time: Duration, mut send: impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<u64> {
    let mut payload = vec![0; size];
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < time {
        fill(&mut payload, number);
        send(&payload)?;
        number += 1;
    }
    // Its number says so; the words wrap around.
    let (start, words) = payload.split_at_mut(8);
    start.copy_from_slice(&LAST.to_le_bytes());
    let mut value = LAST;
    for word in words.chunks_exact_mut(8) {
        word.copy_from_slice(&value.to_le_bytes());
        value = value.wrapping_add(1);
    }
    send(&payload)?;
    Ok(number + 1)
}

/// What a receiver counts, and says at the end.
#[derive(Default)]
struct Count {
    messages: u64,
    began: Option<Instant>,
}

impl Count {
    /// `true`: it was the last one.
    fn add(&mut self, payload: &[u8]) -> bool {
        self.began.get_or_insert_with(Instant::now);
        let number = check(payload).expect("every payload arrives intact");
        let last = number == LAST;
        assert!(last || number == self.messages, "message {number} comes as number {}", self.messages);
        self.messages += 1;
        last
    }

    fn say(self) -> Outcome<()> {
        let nanos = self.began.map_or(1, |began| began.elapsed().as_nanos());
        println!("{} {nanos}", self.messages);
        Ok(std::io::stdout().flush()?)
    }
}

/// 10⁹ bytes a second as the receiver counted, which must be all messages.
fn heard(output: &mut BufReader<ChildStdout>, size: usize, sent: u64) -> Outcome<f64> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    let (messages, nanos) = line.trim().split_once(' ').ok_or("the receiver says nothing")?;
    let (messages, nanos): (u64, f64) = (messages.parse()?, nanos.parse()?);
    assert_eq!(messages, sent);
    Ok(messages as f64 * size as f64 / nanos)
}

fn through_relay(size: usize, time: Duration) -> Outcome<f64> {
    let (mut here, near) = UnixStream::pair()?;
    let (out, far) = UnixStream::pair()?;
    let own = std::env::current_exe()?;
    let mut relay = Command::new(&own)
        .arg("relay")
        .stdin(Stdio::from(OwnedFd::from(near)))
        .stdout(Stdio::from(OwnedFd::from(out)))
        .spawn()?;
    let mut receiver = Command::new(&own)
        .args(["receive", &size.to_string()])
        .stdin(Stdio::from(OwnedFd::from(far)))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(receiver.stdout.take().ok_or("no output")?);
    let sent = send_for(size, time, |payload| Ok(here.write_all(payload)?))?;
    let figure = heard(&mut output, size, sent)?;
    drop(here);
    relay.wait()?;
    receiver.wait()?;
    Ok(figure)
}

fn relay() -> Outcome<()> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (mut from, mut to) = (socket_of(&mut input)?, socket_of(&mut output)?);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        if to.write_all(&buffer[..got]).is_err() {
            return Ok(());
        }
    }
}

fn socket_of(stream: &mut impl std::os::fd::AsFd) -> Outcome<UnixStream> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

fn receive(size: usize) -> Outcome<()> {
    let mut from = socket_of(&mut std::io::stdin())?;
    let mut payload = vec![0; size];
    let mut count = Count::default();
    loop {
        from.read_exact(&mut payload)?;
        if count.add(&payload) {
            return count.say();
        }
    }
}

fn by_publish(size: usize, time: Duration, socket: &Path) -> Outcome<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut receiver: Child = command
        .args(["subscribe", &size.to_string()])
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(receiver.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let client = Client::builder().socket(socket).name("publish").connect()?;
    let sent = send_for(size, time, |payload| {
        client.publish(TOPIC, payload)?;
        Ok(())
    })?;
    let figure = heard(&mut output, size, sent)?;
    receiver.wait()?;
    Ok(figure)
}

fn subscribe(size: usize, socket: &Path) -> Outcome<()> {
    let client = Client::builder().socket(socket).name("subscribe").connect()?;
    let mut subscription = client.subscribe(TOPIC)?;
    println!("ready");
    let (mut count, mut last) = (Count::default(), false);
    while !last {
        let message = subscription.recv()?;
        assert!(message.through_ring() && message.in_place() && message.lost_before() == 0);
        assert_eq!(message.payload().len(), size);
        last = count.add(message.payload());
    }
    count.say()
}
