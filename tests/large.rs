//! Messages of queues and services that no frame holds: they travel by ring, whole, in order with small ones, within limits
//! that are named, and nobody waits for who does not take theirs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Broker, Watchdog};
use tramline_client::{Code, Error, Message};

const MIB: usize = 1 << 20;

/// Bytes that no other length or number has.
fn payload(number: usize, length: usize) -> Vec<u8> {
    let seed = number * 31 + length;
    (0..length).map(|at| ((at / 7 + seed) % 251).to_le_bytes()[0]).collect()
}

/// Whether these are the bytes of that number and length.
fn assert_whole(message: &Message, number: usize, length: usize) {
    assert_eq!(message.payload().len(), length, "message {number}");
    assert!(message.payload() == payload(number, length), "message {number} of {length} bytes is a mixture");
}

fn limit_of<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    error.limit().unwrap_or_else(|| panic!("{error}")).name.clone()
}

fn limit_used(broker: &Broker, name: &str) -> u64 {
    let status = broker.json().ask(r#"{"op":"status"}"#);
    let limits = status["status"]["limits"].as_array().unwrap().clone();
    limits.into_iter().find(|each| each["name"] == name).unwrap()["used"].as_u64().unwrap()
}

#[test]
fn messages_of_any_size_go_through_a_queue_whole_and_in_order() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("queues:\n  - name: q\n    bytes_max: 512MiB\n");
    let (from, to) = (broker.client("from"), broker.client("to"));
    // Around what a frame holds, larger than the ring so far, and small ones in between.
    let lengths: Vec<usize> = [10, MIB - 200, MIB - 128, MIB - 100, MIB - 64, MIB - 30, MIB, MIB + 1, 0, 3]
        .into_iter()
        .chain([2 * MIB, 5 * MIB, 5, 9 * MIB + 3, MIB, 20 * MIB, 1, 3 * MIB])
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (number, length) in lengths.iter().enumerate() {
                let payload = payload(number, *length);
                let head = number.to_le_bytes();
                from.push("q", &payload).type_("t").header("n", &head).confirm().unwrap();
            }
        });
        let mut jobs = to.consume("q").prefetch(3).start().unwrap();
        for (number, length) in lengths.iter().enumerate() {
            let job = jobs.recv().unwrap();
            assert_whole(job.message(), number, *length);
            assert_eq!((job.header("n"), job.message_type()), (Some(&number.to_le_bytes()[..]), Some("t")));
            // Near the limit of a frame either way will do.
            assert!(job.in_place() || *length < MIB, "{length}");
            assert!(!job.in_place() || *length > MIB - 1000, "{length}");
            assert_eq!(job.seq(), number as u64 + 1);
            job.ack().unwrap();
        }
        assert!(jobs.try_recv().unwrap().is_none());
    });
}

#[test]
fn what_is_given_back_is_given_out_again_and_what_is_held_stays_as_it_is() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("queues:\n  - name: q\n    backoff_millis: 0\n");
    let client = broker.client("both");
    for number in 0..6 {
        client.push("q", &payload(number, 2 * MIB)).confirm().unwrap();
    }
    let mut jobs = client.consume("q").prefetch(2).start().unwrap();
    let first = jobs.recv().unwrap();
    first.nack_after(Duration::ZERO).unwrap();
    let again = jobs.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
    // One of the two that come first now.
    let number = usize::try_from(again.seq()).unwrap() - 1;
    assert_whole(again.message(), number, 2 * MIB);
    let other = jobs.recv().unwrap();
    let second = usize::try_from(other.seq()).unwrap() - 1;
    assert_eq!(number.min(second), 0);
    assert_eq!(again.attempt() + other.attempt(), 3);
    other.ack().unwrap();
    // Held while others come and go in the same ring.
    let mut seen = vec![number, second];
    while seen.len() < 6 {
        let job = jobs.recv().unwrap();
        let number = usize::try_from(job.seq()).unwrap() - 1;
        assert_whole(job.message(), number, 2 * MIB);
        seen.push(number);
        job.ack().unwrap();
    }
    assert_whole(again.message(), number, 2 * MIB);
    again.ack().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn large_requests_are_answered_by_large_replies_many_at_a_time() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let instance = broker.client("instance");
    let mut requests = instance.service("echo").concurrency(4).start().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            while !over.load(Ordering::Acquire) {
                let Some(request) = requests.recv_timeout(Duration::from_millis(20)).unwrap() else {
                    continue;
                };
                match request.payload().first() {
                    Some(b'e') => request.reply_error(7, "as asked").unwrap(),
                    _ => request.reply(request.payload()).unwrap(),
                }
            }
        });
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let client = broker.client(&format!("caller {caller}"));
                scope.spawn(move || {
                    for round in 0..6 {
                        let lengths = [2 * MIB + round, 10, MIB + caller, 6 * MIB];
                        let sent: Vec<Vec<u8>> = lengths
                            .iter()
                            .enumerate()
                            .map(|(n, length)| payload(n + round, *length))
                            .collect();
                        let pending: Vec<_> = sent
                            .iter()
                            .map(|payload| client.request("echo", payload).start().unwrap())
                            .collect();
                        for (pending, sent) in pending.into_iter().zip(&sent) {
                            let answer = pending.wait().unwrap();
                            assert!(answer.payload() == &sent[..]);
                            assert_eq!(answer.in_place(), sent.len() > MIB - 2000);
                        }
                    }
                    let mut bad = vec![0; 3 * MIB];
                    bad[0] = b'e';
                    let error = client.request("echo", &bad).send().unwrap_err();
                    assert_eq!(error.code(), Code::ErrorReply);
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        over.store(true, Ordering::Release);
    });
}

#[test]
fn every_limit_is_reached_before_anything_is_copied_and_named() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "queues:\n  - name: q\n    bytes_max: 6MiB\n  - name: large\nlimits:\n  ring_bytes_max: 32MiB\n  \
         rings_bytes_max: 40MiB\n  delivery_ring_bytes_max: 8MiB\n  user_delivery_rings_bytes_max: 8MiB\n  \
         delivery_rings_bytes_max: 8MiB\n  user_queued_bytes_max: 14MiB\n",
    );
    let client = broker.client("pusher");
    let push = |queue: &str, length: usize| client.push(queue, &payload(1, length)).confirm();
    assert_eq!(limit_of(push("large", 40 * MIB)), "ring_bytes_max");
    assert_eq!(limit_of(push("large", 9 * MIB)), "delivery_ring_bytes_max");
    assert_eq!(limit_of(push("q", 7 * MIB)), "bytes_max");
    assert_eq!(push("q", 7 * MIB).unwrap_err().code(), Code::QueueFull);
    push("large", 7 * MIB).unwrap();
    assert_eq!(limit_of(push("large", 7 * MIB + 1)), "user_queued_bytes_max");
    assert_eq!(push("nowhere", 2 * MIB).unwrap_err().code(), Code::UnknownQueue);
    // Its ring has 16 MiB by now: nobody else may have one of 32.
    let other = broker.client("other");
    assert_eq!(limit_of(other.push("large", &payload(1, 17 * MIB)).confirm()), "delivery_ring_bytes_max");
    let third = broker.client("third");
    let mut publishers = Vec::new();
    let refused = loop {
        match other.publisher(&format!("t{}", publishers.len())).capacity(4 * MIB, 1).open() {
            Ok(publisher) => publishers.push(publisher),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.limit().unwrap().name, "rings_bytes_max");
    assert_eq!(limit_of(third.push("large", &payload(1, 2 * MIB)).confirm()), "rings_bytes_max");
    drop(publishers);
    other.ping().unwrap();
    third.push("large", &payload(2, 2 * MIB)).confirm().unwrap();
    // Requests and replies.
    let mut requests = client.service("s").start().unwrap();
    assert_eq!(limit_of(other.request("s", &vec![0; 9 * MIB]).send()), "delivery_ring_bytes_max");
    let pending = other.request("s", b"x").start().unwrap();
    requests.recv().unwrap().reply(vec![0; 9 * MIB]).unwrap();
    let failed = pending.wait().unwrap_err();
    assert_eq!(failed.code(), Code::InstanceFailed);
    assert!(failed.to_string().contains("limits.delivery_ring_bytes_max"), "{failed}");
    // One ring for what is received is all there may be: the next consumer waits until it is given back.
    let (first, second) = (broker.client("first"), broker.client("second"));
    let mut jobs = first.consume("large").prefetch(1).start().unwrap();
    let held = jobs.recv().unwrap();
    assert_whole(held.message(), 1, 7 * MIB);
    assert_eq!(limit_used(&broker, "delivery_rings_bytes_max"), 8 << 20);
    let mut waiting = second.consume("large").prefetch(1).start().unwrap();
    assert!(waiting.recv_timeout(Duration::from_millis(50)).unwrap().is_none());
    assert!(broker.log().contains("limits.user_delivery_rings_bytes_max is 8388608"), "{}", broker.log());
    held.ack().unwrap();
    drop(jobs);
    first.ping().unwrap();
    let job = waiting.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
    assert_whole(job.message(), 2, 2 * MIB);
    job.ack().unwrap();
}

#[test]
fn who_does_not_take_what_lies_in_its_ring_keeps_nobody_else_waiting() {
    let _watchdog = Watchdog::start();
    let broker =
        Broker::with_config("queues:\n  - name: q\n    ack_timeout_millis: 1000\n    backoff_millis: 0\n");
    let (from, slow, quick) = (broker.client("from"), broker.client("slow"), broker.client("quick"));
    let mut stuck = slow.consume("q").prefetch(16).start().unwrap();
    for number in 0..12 {
        from.push("q", &payload(number, MIB + number)).confirm().unwrap();
    }
    // As many as its ring has room for, and it gives none back.
    let held: Vec<_> =
        std::iter::from_fn(|| stuck.recv_timeout(Duration::from_millis(200)).unwrap()).collect();
    assert!((1..12).contains(&held.len()), "{}", held.len());
    // All go to another: the rest at once, these when their time is over.
    let mut jobs = quick.consume("q").start().unwrap();
    let mut seen: Vec<usize> = Vec::new();
    while seen.len() < 12 {
        let job = jobs.recv_timeout(Duration::from_secs(30)).unwrap().unwrap();
        let number = usize::try_from(job.seq()).unwrap() - 1;
        assert_whole(job.message(), number, MIB + number);
        seen.push(number);
        job.ack().unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..12).collect::<Vec<_>>());
    for job in held {
        let number = usize::try_from(job.seq()).unwrap() - 1;
        assert_whole(job.message(), number, MIB + number);
        assert_eq!(job.ack().unwrap_err().code(), Code::TooLate);
    }
}

#[test]
fn a_json_consumer_is_shown_the_beginning_and_how_much_there_is() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("queues:\n  - name: q\n");
    let client = broker.client("from");
    client.push("q", &vec![b'x'; 3 * MIB]).text().confirm().unwrap();
    let mut json = broker.json();
    json.say(r#"{"op":"pull","queue":"q","max":1}"#);
    let line = loop {
        let line: serde_json::Value = serde_json::from_str(&json.hear()).unwrap();
        if line["op"] == "job" {
            break line;
        }
    };
    assert_eq!(line["bytes"], 3 * MIB, "{line}");
    assert!(line.get("preview").is_some() && line.to_string().len() < 70_000, "{line}");
    let tag = line["tag"].as_u64().unwrap();
    assert_eq!(json.ask(&format!(r#"{{"op":"ack","queue":"q","tag":{tag}}}"#))["ok"], true);
}

#[test]
fn what_was_confirmed_is_on_disk_whole_when_the_broker_is_killed() {
    let _watchdog = Watchdog::start();
    let mut broker = Broker::with_config("queues:\n  - name: q\n    durability: disk\n");
    let client = broker.client("from");
    let lengths = [2 * MIB, 100, 6 * MIB + 1, MIB];
    for (number, length) in lengths.iter().enumerate() {
        client.push("q", &payload(number, *length)).confirm().unwrap();
    }
    broker.kill();
    let broker = broker.again();
    // The same client, whose ring the broker of before knew.
    let sent = std::iter::repeat_with(|| client.push("q", &payload(4, 3 * MIB)).confirm());
    sent.take_while(|sent| sent.as_ref().is_err_and(|error| error.code() != Code::QueueFull)).for_each(drop);
    let mut jobs = broker.client("to").consume("q").start().unwrap();
    for (number, length) in lengths.iter().chain(&[3 * MIB]).enumerate() {
        let job = jobs.recv().unwrap();
        assert_whole(job.message(), number, *length);
        job.ack().unwrap();
    }
}
