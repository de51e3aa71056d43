//! Services frame by frame, as any implementation meets them: requests, calls, replies, and every way in which there is none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;
mod support;

use raw::Raw;
use support::Broker;
use tramline_wire::{
    Code, Encoding, ErrorReply, Message, MessageFlags, Outcome, Provide, Reply, Request, ToBroker, ToClient,
};

const SERVICES: &str =
    "services: [{name: tight, outstanding_max: 1, request: {users: []}}, {name: open.>}]\n";

fn message(seq: u64) -> Message<'static> {
    let flags = MessageFlags::new(Encoding::Text);
    Message { flags, seq, time: 1, source_time: 0, after: None, head: &[], payload: b"x" }
}

fn request(service: &str, number: u64) -> ToBroker<'_> {
    ToBroker::Request(Request {
        service,
        timeout_millis: 60_000,
        idempotent: false,
        message: message(number),
    })
}

fn provide(service: &str, provider: u32, concurrency: u32) -> ToBroker<'_> {
    ToBroker::Provide(Provide { req: 1, provider, service, concurrency, weight: 1, priority: 0 })
}

fn reply(call: u64, outcome: Outcome<'_>) -> ToBroker<'_> {
    ToBroker::Reply(Reply { provider: 1, call, outcome, message: message(0) })
}

/// What becomes of a request, which comes next; who answers may be told before.
fn outcome(raw: &mut Raw, number: u64) -> Option<Code> {
    loop {
        let body = raw.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Replied(replied) => {
                assert_eq!((replied.request, replied.message.payload), (number, &b"x"[..]));
                return replied.error.map(|error| {
                    assert_eq!((error.number, error.text), (404, "none"));
                    Code::ErrorReply
                });
            }
            ToClient::RequestFailed { request, code, .. } => {
                assert_eq!(request, number);
                return Code::from_number(code);
            }
            ToClient::Source(source) => assert_eq!((source.topic, source.name), ("", "instance")),
            ToClient::SourceGone { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The number of the call that comes next.
fn call(raw: &mut Raw) -> u64 {
    loop {
        let body = raw.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Call(call) => {
                assert_eq!((call.provider, call.attempt, call.message.payload), (1, 1, &b"x"[..]));
                return call.call;
            }
            ToClient::Source(source) => assert_eq!((source.topic, source.name), ("", "caller")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_request_has_one_answer_or_a_code_that_says_why_there_is_none() {
    let broker = Broker::with_config(SERVICES);
    let (mut caller, _) = Raw::open(broker.socket(), "caller");
    caller.send(&request("open.s", 1));
    assert_eq!(outcome(&mut caller, 1), Some(Code::NoInstance));
    caller.send(&request("$tramline.s", 1));
    assert_eq!(outcome(&mut caller, 1), Some(Code::BadTopic));
    let (mut instance, _) = Raw::open(broker.socket(), "instance");
    instance.send(&provide("open.s", 1, 2));
    instance.expect(&ToClient::Done { req: 1 });
    caller.send(&request("open.s", 1));
    let first = call(&mut instance);
    instance.send(&reply(first, Outcome::Done));
    assert_eq!(outcome(&mut caller, 1), None);
    caller.send(&request("open.s", 2));
    let second = call(&mut instance);
    assert_eq!((first, second), (1, 2));
    instance.send(&reply(second, Outcome::Error(ErrorReply { number: 404, text: "none" })));
    assert_eq!(outcome(&mut caller, 2), Some(Code::ErrorReply));
    caller.send(&request("open.s", 3));
    let third = call(&mut instance);
    instance.send(&reply(third, Outcome::Failed { text: "out of paper" }));
    assert_eq!(outcome(&mut caller, 3), Some(Code::InstanceFailed));
    // One that nobody waits for is over, and answered all the same.
    caller.send(&request("open.s", 4));
    let fourth = call(&mut instance);
    caller.send(&ToBroker::CancelRequest { request: 4 });
    instance.expect(&ToClient::CallOver { provider: 1, call: fourth, code: 0 });
    instance.send(&reply(fourth, Outcome::Done));
    assert!(instance.settle().is_empty() && caller.settle().is_empty());
    caller.send(&request("open.s", 5));
    call(&mut instance);
    drop(instance);
    assert_eq!(outcome(&mut caller, 5), Some(Code::OutcomeUnknown));
}

#[test]
fn a_service_that_has_as_many_requests_as_it_may_says_so() {
    let broker = Broker::with_config(SERVICES);
    let (mut caller, _) = Raw::open(broker.socket(), "caller");
    let (mut instance, _) = Raw::open(broker.socket(), "instance");
    instance.send(&provide("tight", 1, 1));
    instance.expect(&ToClient::Done { req: 1 });
    caller.send(&request("tight", 1));
    caller.send(&request("tight", 2));
    assert_eq!(outcome(&mut caller, 2), Some(Code::LimitReached));
    let number = call(&mut instance);
    instance.send(&ToBroker::EndProvide { req: 2, provider: 1 });
    instance.expect(&ToClient::Done { req: 2 });
    instance.send(&reply(number, Outcome::Done));
    assert_eq!(outcome(&mut caller, 1), None, "what it had it may still answer");
    // One that was never given is a fault.
    instance.send(&provide("tight", 1, 1));
    instance.expect(&ToClient::Done { req: 1 });
    instance.send(&reply(9, Outcome::Done));
    let sentence = instance.expect_close(Code::BadId);
    assert!(sentence.contains("never given call 9"), "{sentence}");
}
