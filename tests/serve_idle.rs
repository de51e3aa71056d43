//! A broker with many clients that say nothing runs not at all, and needs little memory.
//!
//! That no thread of it was given a core is read from the kernel's counts of its context switches, which takes no tool
//! and disturbs nothing; where `strace` is installed it is asked, too. `TRAMLINE_IDLE_SECONDS` makes the time
//! longer (`TRAMLINE_IDLE_SECONDS=60 cargo test --release --test serve_idle`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::{Broker, have};
use tramline_client::{Client, Subscription};

/// Clients, each with a subscription.
const CLIENTS: usize = 100;
/// Anonymous memory that the broker may have then, in KiB.
const ANONYMOUS_KIB_MAX: u64 = 15 * 1024;
/// How long nothing may happen unless the environment says otherwise.
const IDLE_SECONDS: u64 = 5;

fn status(path: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let value = value.unwrap_or_else(|| panic!("{path} has no {key}"));
    value.split_whitespace().next().unwrap().parse().unwrap()
}

/// Lets time pass: that nothing happens in it is what is tested.
fn pass(time: Duration) {
    let (_kept, never) = mpsc::channel::<()>();
    assert_eq!(never.recv_timeout(time), Err(mpsc::RecvTimeoutError::Timeout));
}

/// Waits until the broker has done what there was to do: nothing of it ran for a while.
fn settle(broker: &Broker) {
    let mut before = broker.context_switches();
    loop {
        pass(Duration::from_millis(300));
        let now = broker.context_switches();
        if now == before {
            return;
        }
        before = now;
    }
}

#[test]
fn a_broker_with_a_hundred_silent_clients_makes_no_system_call() {
    let seconds = std::env::var("TRAMLINE_IDLE_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds: u64 = seconds.unwrap_or(IDLE_SECONDS);
    let broker = Broker::start();
    let mut clients: Vec<(Client, Subscription)> = (0..CLIENTS)
        .map(|number| {
            let client = Client::builder().socket(broker.socket()).connect().unwrap();
            let subscription = client.subscribe(&format!("idle.*.{number}")).unwrap();
            (client, subscription)
        })
        .collect();
    // They were not silent always.
    for (number, (client, _)) in clients.iter().enumerate() {
        client.publish(&format!("idle.a.{number}"), b"once").unwrap();
    }
    for (_, subscription) in &mut clients {
        assert_eq!(subscription.recv().unwrap().payload(), b"once");
    }
    let pid = broker.pid();
    settle(&broker);
    let anonymous = status(&format!("/proc/{pid}/status"), "RssAnon:");
    assert!(anonymous <= ANONYMOUS_KIB_MAX, "{anonymous} KiB of anonymous memory");

    let traced = have("strace");
    let before = broker.context_switches();
    let began = Instant::now();
    pass(Duration::from_secs(if traced { seconds.min(IDLE_SECONDS) } else { seconds }));
    let after = broker.context_switches();
    assert_eq!(before, after, "the broker ran within {:?}", began.elapsed());

    if traced {
        // Attaching interrupts what each thread waits in; nothing that is not that may follow.
        let log = broker.home().join("strace");
        let mut command = Command::new("timeout");
        command.args([
            "--signal=INT",
            &format!("{seconds}"),
            "strace",
            "--follow-forks",
            "--quiet=attach,exit",
        ]);
        command.arg("--output").arg(&log).args(["--trace=all", "--attach", &pid.to_string()]);
        command.output().unwrap();
        let calls = std::fs::read_to_string(&log).unwrap_or_default();
        let begun = |line: &&str| {
            let unfinished = line.ends_with("<unfinished ...>") || line.contains("<detached ...>");
            !unfinished && !line.contains("restart_syscall") && !line.contains("+++") && !line.is_empty()
        };
        let made: Vec<&str> = calls.lines().filter(begun).collect();
        assert!(made.is_empty(), "the broker made system calls: {made:#?}");
    }
    println!("{CLIENTS} clients: {anonymous} KiB anonymous, no system call in {seconds} s");
}
