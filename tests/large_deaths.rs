//! Processes that pass large messages on, or receive them, die by `SIGKILL` at every step of it: what was confirmed is given
//! to others, whole, callers are told, and nothing of rings stays in the broker. As `e2e_deaths.rs`, where the table of all
//! steps is checked.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod deaths;

use deaths::steps::{OF_A_CARRYING_BROKER, OF_A_LARGE_RECEIVER, OF_A_LARGE_SENDER};
use deaths::support::{Broker, part, say};
use deaths::{client, dies, held, held_here, settles, start, watchdog};
use std::time::Duration;
use tramline_client::{Client, Code, Jobs, Message};

const MIB: usize = 1 << 20;

const QUEUES: &str = "queues:\n  - name: q\n    backoff_millis: 0\n    attempts_max: 100\n";

fn payload(number: u8) -> Vec<u8> {
    vec![number; MIB + usize::from(number) * 1000]
}

fn assert_whole(message: &Message) {
    let number = message.payload()[0];
    assert!(message.payload() == payload(number), "a mixture of {} bytes", message.payload().len());
}

/// What another process does when it is started for it. Without the variable this is no test of anything and
/// passes at once.
#[test]
fn actor() {
    let Some(part) = part() else { return };
    let client = Client::builder().name(part.as_str()).reconnect(false).connect().unwrap();
    match part.as_str() {
        "send" => {
            for number in 1..=4 {
                client.push("q", &payload(number)).confirm().unwrap();
                say(number);
            }
            let answer = client.request("echo", &payload(9)).send().unwrap();
            assert_whole(&answer);
            drop(answer);
            client.ping().unwrap();
        }
        "consume" => {
            let mut jobs = client.consume("q").prefetch(2).start().unwrap();
            loop {
                let job = jobs.recv().unwrap();
                assert_whole(job.message());
                // Given back, so that there is always another.
                job.nack_after(Duration::ZERO).unwrap();
            }
        }
        "answer" => {
            let mut requests = client.service("dying").start().unwrap();
            say("ready");
            loop {
                let request = requests.recv().unwrap();
                request.reply(request.payload()).unwrap();
            }
        }
        other => panic!("no such part: {other}"),
    }
}

/// Takes and acknowledges so many jobs, or as many as come; each is whole.
fn drain(jobs: &mut Jobs, most: usize) -> usize {
    let mut count = 0;
    while count < most {
        let Some(job) = jobs.recv_timeout(Duration::from_millis(300)).unwrap() else { break };
        assert_whole(job.message());
        job.ack().unwrap();
        count += 1;
    }
    count
}

#[test]
fn a_sender_that_dies_at_any_step_leaves_whole_messages_and_nothing_else() {
    let _watchdog = watchdog();
    let broker = Broker::with_config(QUEUES);
    let reader = client(broker.socket(), "reader");
    // Of its own: what waits untaken in a client's ring takes room from everything else in it.
    let echo = client(broker.socket(), "echo");
    let mut requests = echo.service("echo").start().unwrap();
    std::thread::spawn(move || {
        while let Ok(request) = requests.recv() {
            // Whoever asked may be dead.
            let _ = request.reply(request.payload());
        }
    });
    let mut jobs = reader.consume("q").start().unwrap();
    // The rings of who stays are there.
    reader.push("q", &payload(7)).confirm().unwrap();
    assert_eq!(drain(&mut jobs, 1), 1);
    assert_whole(&reader.request("echo", &payload(8)).send().unwrap());
    let (before, own) = (held(&broker), held_here());
    for &(name, count) in OF_A_LARGE_SENDER {
        println!("{name}:{count}");
        let said = dies(start("send", broker.socket(), Some((name, count))), name);
        let came = drain(&mut jobs, 4);
        assert!((said.len()..=said.len() + 1).contains(&came), "{name}: {said:?} were sent, {came} came");
        settles(&broker, before, own, || {
            reader.ping().unwrap();
        });
    }
}

#[test]
fn what_a_receiver_had_that_dies_at_any_step_goes_to_others() {
    let _watchdog = watchdog();
    let broker = Broker::with_config(QUEUES);
    let here = client(broker.socket(), "here");
    for number in 1..=3 {
        here.push("q", &payload(number)).confirm().unwrap();
    }
    let (before, own) = (held(&broker), held_here());
    for &(name, count) in OF_A_LARGE_RECEIVER {
        println!("{name}:{count}");
        dies(start("consume", broker.socket(), Some((name, count))), name);
        let mut dying = start("answer", broker.socket(), Some((name, count)));
        assert_eq!(dying.next_word().as_deref(), Some("ready"));
        let failed = loop {
            match here.request("dying", &payload(5)).send() {
                Ok(answer) => assert_whole(&answer),
                Err(error) => break error,
            }
        };
        assert!(matches!(failed.code(), Code::OutcomeUnknown | Code::NoInstance), "{failed}");
        dies(dying, name);
    }
    let mut jobs = here.consume("q").start().unwrap();
    assert_eq!(drain(&mut jobs, 3), 3);
    drop(jobs);
    drop(here);
    let here = client(broker.socket(), "counting");
    settles(&broker, before, own, || {
        here.ping().unwrap();
    });
}

#[test]
fn a_broker_that_dies_at_any_step_keeps_what_was_confirmed_on_disk() {
    let _watchdog = watchdog();
    let durable =
        "queues:\n  - name: q\n    durability: disk\n    attempts_max: 100\n    backoff_millis: 0\n";
    for &(name, count) in OF_A_CARRYING_BROKER {
        println!("{name}:{count}");
        let broker = Broker::with_config_dying(durable, &format!("{name}:{count}"));
        let here = client(broker.socket(), "here");
        let mut confirmed = 0;
        let mut acked = 0;
        for number in 1..=4 {
            if here.push("q", &payload(number)).confirm().is_ok() {
                confirmed += 1;
            }
        }
        if let Ok(mut jobs) = here.consume("q").start() {
            while let Ok(Some(job)) = jobs.recv_timeout(Duration::from_millis(500)) {
                assert_whole(job.message());
                // Nobody knows whether the broker heard it.
                let _ = job.ack();
                acked += 1;
            }
        }
        drop(here);
        let broker = broker.again();
        let here = client(broker.socket(), "here");
        let mut jobs = here.consume("q").start().unwrap();
        let came = drain(&mut jobs, 5);
        assert!(came + acked >= confirmed && came <= 4, "{name}: {confirmed}, {acked}, {came}");
    }
}
