//! Queues frame by frame, as any implementation meets them: what is pushed, given out and settled, and every refusal.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;
mod support;

use raw::Raw;
use support::Broker;
use tramline_wire::{
    Code, Consume, DeclareQueue, Encoding, Job, Message, MessageFlags, Push, Strategy, ToBroker, ToClient,
    Verdict, WhenFull,
};

const QUEUES: &str = "queues: [{name: jobs, messages_max: 2, ack_timeout_millis: 1500, backoff_millis: 0}]\n";

fn push(queue: u32, seq: u64) -> ToBroker<'static> {
    let flags = MessageFlags::new(Encoding::Text);
    let message = Message { flags, seq, time: 1, source_time: 0, after: None, head: &[], payload: b"x" };
    ToBroker::Push(Push { queue, priority: 4, delay_millis: 0, ttl_millis: 0, id: &[], message })
}

fn consume(queue: &str, consumer: u32) -> ToBroker<'_> {
    ToBroker::Consume(Consume { req: 1, consumer, queue, credit: 1, refill: true, weight: 1, priority: 0 })
}

fn ack(first: u64, last: u64) -> ToBroker<'static> {
    ToBroker::Settle { req: 5, consumer: 1, first, last, verdict: Verdict::Ack }
}

/// The code of the refusal that comes next.
fn refused(raw: &mut Raw) -> Code {
    let body = raw.body();
    match ToClient::decode(&body).unwrap() {
        ToClient::Error { code, .. } | ToClient::PushRefused { code, .. } => Code::from_number(code).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The job that comes next; who pushed it may be told before.
fn job(raw: &mut Raw) -> (u64, u32) {
    loop {
        let body = raw.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Job(Job { tag, attempt, consumer: 1, message, .. }) => {
                assert_eq!(message.payload, b"x");
                return (tag, attempt);
            }
            ToClient::Source(source) => assert_eq!((source.topic, source.name), ("", "producer")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_pushed_is_answered_given_out_and_settled_or_refused_by_a_code() {
    let broker = Broker::with_config(QUEUES);
    let (mut producer, _) = Raw::open(broker.socket(), "producer");
    producer.send(&ToBroker::OpenQueue { req: 1, alias: 7, queue: "none" });
    assert_eq!(refused(&mut producer), Code::UnknownQueue);
    producer.send(&push(7, 1));
    assert_eq!(refused(&mut producer), Code::UnknownQueue);
    producer.send(&ToBroker::OpenQueue { req: 2, alias: 7, queue: "jobs" });
    producer.expect(&ToClient::Done { req: 2 });
    producer.send(&push(7, 2));
    producer.expect(&ToClient::Pushed { queue: 7, first: 2, last: 2 });
    producer.send(&push(7, 3));
    producer.expect(&ToClient::Pushed { queue: 7, first: 3, last: 3 });
    producer.send(&push(7, 4));
    assert_eq!(refused(&mut producer), Code::QueueFull);
    producer.send(&ToBroker::DeclareQueue(DeclareQueue {
        req: 3,
        queue: "jobs",
        bind: "",
        strategy: Strategy::Failover,
        when_full: WhenFull::Refuse,
        messages_max: 0,
        bytes_max: 0,
        ack_timeout_millis: 0,
        attempts_max: 0,
        ttl_millis: 0,
        durable: false,
    }));
    assert_eq!(refused(&mut producer), Code::QueueExists);

    let (mut consumer, _) = Raw::open(broker.socket(), "consumer");
    consumer.send(&consume("none", 1));
    assert_eq!(refused(&mut consumer), Code::UnknownQueue);
    consumer.send(&consume("jobs", 1));
    consumer.expect(&ToClient::Consuming { req: 1, consumer: 1, ack_timeout_millis: 1500 });
    assert_eq!(job(&mut consumer), (1, 1));
    // Not settled in time: it is told, and given nothing more until it settles that one all the same.
    let lost = |tag, code: Code| ToClient::JobLost { consumer: 1, tag, code: code.number() };
    consumer.expect(&lost(1, Code::TooLate));
    consumer.send(&ack(1, 1));
    consumer.expect(&lost(1, Code::TooLate));
    consumer.expect(&ToClient::Done { req: 5 });
    assert_eq!(job(&mut consumer), (2, 2), "it came back before the other");
    consumer.send(&ToBroker::Settle {
        req: 0,
        consumer: 1,
        first: 2,
        last: 2,
        verdict: Verdict::Extend { millis: 60_000 },
    });
    consumer.send(&ack(1, 3));
    consumer.expect(&lost(1, Code::SettledTwice));
    consumer.expect(&lost(3, Code::NotYours));
    consumer.expect(&ToClient::Done { req: 5 });
    assert_eq!(job(&mut consumer), (3, 1));
    consumer.send(&ToBroker::EndConsume { req: 6, consumer: 1, seen: 3 });
    consumer.expect(&ToClient::Done { req: 6 });
    consumer.send(&ack(3, 3));
    consumer.expect(&lost(3, Code::NotYours));
    consumer.expect(&ToClient::Done { req: 5 });
}
