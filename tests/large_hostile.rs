//! Clients that say false things of bulk rings: each is refused with its code, the broker goes on, and nothing stays of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "raw/mod.rs"]
mod raw;
#[path = "support/mod.rs"]
mod support;

use raw::{Raw, message};
use rustix::fs::MemfdFlags;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use support::{Broker, Watchdog};
use tramline_ring::BulkWriter;
use tramline_wire::{BulkFree, BulkPayload, BulkRing, Code, Push, ToBroker, ToClient};

const BYTES: u64 = 4 << 20;

const RING: ToBroker<'_> = ToBroker::BulkRing(BulkRing { ring: 1, bytes: BYTES, fds: 1 });

fn lies(offset: u64, length: u64) -> ToBroker<'static> {
    ToBroker::BulkPayload(BulkPayload { ring: 1, offset, length })
}

fn push(seq: u64, payload: &[u8]) -> ToBroker<'_> {
    ToBroker::Push(Push {
        queue: 0,
        priority: 4,
        delay_millis: 0,
        ttl_millis: 0,
        id: &[],
        message: message(seq, payload),
    })
}

fn pusher(broker: &Broker) -> Raw {
    let (mut raw, _) = Raw::open(broker.socket(), "liar");
    raw.send(&ToBroker::OpenQueue { req: 0, alias: 0, queue: "q" });
    raw
}

#[test]
fn what_is_not_there_or_not_so_ends_the_session_with_its_code_and_nobody_else_notices() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("queues:\n  - name: q\n");
    let honest = broker.client("honest");
    honest.push("q", &vec![3; 2 << 20]).confirm().unwrap();
    let before = (broker.open_files(), broker.ring_mappings());
    let writer = BulkWriter::create(BYTES).unwrap();
    let small = BulkWriter::create(4096).unwrap();
    let unsealed = rustix::fs::memfd_create("unsealed", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&unsealed, BYTES).unwrap();
    let free = ToBroker::BulkFree(BulkFree { ring: 0, offset: 0 });
    let cases: Vec<(Code, bool, Vec<ToBroker<'_>>)> = vec![
        (Code::BadId, false, vec![lies(0, 64)]),
        (Code::BadId, true, vec![RING, ToBroker::BulkPayload(BulkPayload { ring: 2, offset: 0, length: 1 })]),
        (Code::FalseClaim, true, vec![RING, lies(BYTES, 1)]),
        (Code::FalseClaim, true, vec![RING, lies(0, BYTES + 1)]),
        (Code::FalseClaim, true, vec![RING, lies(u64::MAX - 63, 64)]),
        (Code::FalseClaim, true, vec![RING, lies(32, 64)]),
        (Code::FalseClaim, true, vec![RING, lies(0, 0)]),
        (Code::OutOfOrder, true, vec![RING, lies(0, 64), ToBroker::Ping { req: 1 }]),
        (Code::OutOfOrder, true, vec![RING, lies(0, 64), lies(64, 64)]),
        (Code::Malformed, true, vec![RING, lies(0, 64), push(1, b"and this")]),
        (Code::BadId, false, vec![ToBroker::BulkRing(BulkRing { ring: 0, bytes: 0, fds: 0 })]),
        (Code::BadId, false, vec![free]),
    ];
    for (code, with_memory, frames) in &cases {
        let mut raw = pusher(&broker);
        for (at, frame) in frames.iter().enumerate() {
            if at == 0 && *with_memory {
                raw.send_with(frame, &[writer.memory()]);
            } else {
                raw.send(frame);
            }
        }
        let sentence = raw.expect_close(*code);
        println!("{code}: {sentence}");
    }
    // Memory is looked at when the first payload is wanted of it.
    for memory in [small.memory(), unsealed.as_fd(), std::io::stdin().as_fd()] {
        let mut raw = pusher(&broker);
        raw.send_with(&RING, &[memory]);
        raw.send(&lies(0, 64));
        raw.send(&push(1, b""));
        raw.expect_close(Code::BadDescriptor);
    }
    let mut jobs = honest.consume("q").start().unwrap();
    let job = jobs.recv().unwrap();
    assert!(job.payload() == vec![3; 2 << 20]);
    job.ack().unwrap();
    drop(jobs);
    honest.ping().unwrap();
    // What the honest one was given by ring counts: memory, and one mapping of it.
    let most = (before.0 + 2, before.1 + 2);
    while broker.open_files() > most.0 || broker.ring_mappings() > most.1 {
        honest.ping().unwrap();
    }
}

#[test]
fn bytes_that_are_scribbled_over_meanwhile_are_the_messages_and_harm_nobody() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("queues:\n  - name: q\n");
    let mut writer = BulkWriter::create(BYTES).unwrap();
    let mut raw = pusher(&broker);
    raw.send_with(&RING, &[writer.memory()]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut byte = 0;
            while !over.load(Ordering::Relaxed) {
                byte += 1;
                writer.write(0, &vec![byte; 3 << 20]).unwrap();
                byte %= 250;
            }
        });
        for seq in 1..=20 {
            raw.send(&lies(0, 3 << 20));
            raw.send(&push(seq, b""));
            let mut answers = [raw.body(), raw.body()];
            answers.sort();
            assert_eq!(
                ToClient::decode(&answers[0]),
                Ok(ToClient::Pushed { queue: 0, first: seq, last: seq })
            );
            let free = ToClient::BulkFree(BulkFree { ring: 1, offset: 0 });
            assert_eq!(ToClient::decode(&answers[1]), Ok(free));
        }
        over.store(true, Ordering::Relaxed);
    });
    let client = broker.client("reader");
    let mut jobs = client.consume("q").prefetch(1).start().unwrap();
    for _ in 0..20 {
        let job = jobs.recv().unwrap();
        assert_eq!(job.payload().len(), 3 << 20);
        job.ack().unwrap();
    }
}
