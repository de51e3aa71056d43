//! A gated reader in a process of its own that is stopped (SIGSTOP): it holds its publisher up for its budget and no
//! longer, nobody else loses anything, and it is told when it goes on.
//!
//! The process is this test program itself, started again to play its part.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Actor, Broker, Watchdog, part, say, tramline};
use tramline_client::{Client, PublisherEvent};

/// The part of the reader: without the variable this is no test of anything and passes at once.
#[test]
fn actor() {
    if part().is_none() {
        return;
    }
    let client = Client::builder().name("stopped").reconnect(false).connect().unwrap();
    let mut subscription = client.subscribe("t").unwrap();
    say("ready");
    let (mut seen, mut evicted) = (0, false);
    loop {
        let message = subscription.recv().unwrap();
        assert_eq!(message.seq(), seen + 1 + message.lost_before());
        seen = message.seq();
        for event in subscription.events() {
            evicted |= matches!(event, PublisherEvent::Evicted { .. });
        }
        if message.payload() == b"last" {
            break;
        }
    }
    while !evicted {
        subscription.recv_timeout(Duration::from_millis(10)).unwrap();
        evicted = subscription.events().iter().any(|event| matches!(event, PublisherEvent::Evicted { .. }));
    }
    say(format!("{seen} {}", subscription.lost()));
}

#[test]
fn a_stopped_reader_holds_its_publisher_up_for_its_budget_and_is_told_when_it_goes_on() {
    const MESSAGES: u64 = 3_000;
    // Long enough that the one who reads is not taken for one who does not where there is little time for each.
    const BUDGET: Duration = Duration::from_millis(1_500);
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "limits:\n  gate_budget_millis_max: 1500\n  gate_publisher_millis_max: 1500\n  gate_window_millis: 1500\n",
    );
    let mut stopped: Vec<Actor> = (0..3).map(|_| Actor::start("reader", broker.socket())).collect();
    stopped.iter_mut().for_each(|actor| assert_eq!(actor.word(), "ready"));
    let (a, b) = (broker.client("a"), broker.client("b"));
    let mut reads = b.subscribe("t").unwrap();
    let reader = std::thread::spawn(move || {
        for seq in 1..=MESSAGES {
            let message = reads.recv().unwrap();
            assert_eq!((message.seq(), message.lost_before()), (seq, 0));
        }
    });
    let mut p = a.publisher("t").capacity(64, 64).open().unwrap();
    assert_eq!(p.subscriber_count(), 4);
    // They stop one after another, each with another number of messages behind it.
    for actor in &stopped {
        p.send([0]).unwrap();
        actor.signal(Signal::STOP);
    }
    let (mut waited, mut longest) = (Duration::ZERO, Duration::ZERO);
    for _ in 4..MESSAGES {
        let begin = Instant::now();
        p.send([0]).unwrap();
        let took = begin.elapsed();
        longest = longest.max(took);
        if took > BUDGET / 2 {
            waited += took;
        }
    }
    p.send(b"last").unwrap();
    reader.join().unwrap();
    println!("waited {waited:?} for readers in all, {longest:?} for one message");
    assert!(longest >= BUDGET, "nobody was waited for");
    let status = broker.json().ask(r#"{"op":"status"}"#);
    let readers = status["status"]["streams"][0]["readers"].as_array().unwrap().clone();
    let lossy = readers.iter().filter(|reader| reader["mode"] == "lossy" && reader["granted"] == "gated");
    assert_eq!((lossy.count(), readers.len()), (3, 3));
    for actor in &mut stopped {
        actor.signal(Signal::CONT);
        let word = actor.word();
        let (seen, lost) = word.split_once(' ').unwrap();
        assert_eq!(seen.parse(), Ok(MESSAGES));
        assert!(lost.parse::<u64>().unwrap() > MESSAGES / 2, "{lost}");
    }
}

#[test]
fn the_program_says_who_waits_for_it_no_longer() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "limits:\n  gate_budget_millis_max: 200\n  gate_publisher_millis_max: 200\n  gate_window_millis: 200\n",
    );
    let mut command = tramline();
    command.args(["sub", "t", "--reliable", "--format", "raw", "--socket"]).arg(broker.socket());
    let mut reader = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let a = broker.client("hasty");
    let mut p = a.publisher("t").capacity(64, 16).open().unwrap();
    p.wait_for_subscribers(1, Duration::from_secs(50)).unwrap();
    kill_process(Pid::from_child(&reader), Signal::STOP).unwrap();
    for _ in 0..100 {
        p.send([b'x']).unwrap();
    }
    kill_process(Pid::from_child(&reader), Signal::CONT).unwrap();
    let mut said = String::new();
    let mut errors = reader.stderr.take().unwrap();
    while !said.contains("waits no longer") {
        let mut bytes = [0; 1000];
        let read = errors.read(&mut bytes).unwrap();
        assert!(read > 0, "it ended, after {said:?}");
        said.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    assert!(said.contains("tramline: hasty (pid ") && said.contains(" on t was held up for "), "{said}");
    reader.kill().unwrap();
    reader.wait().unwrap();
}
