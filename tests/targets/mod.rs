//! What every input from outside must satisfy, one function for each kind of input.
//!
//! `fuzz/` calls these with inputs that a fuzzer invents, `tests/corpus.rs` with those that fuzzers and
//! people have found so far. A function panics when a promise is broken; bytes that are refused are
//! fine. They live here, and not in `fuzz/`, because a package carries its tests along.

mod config;

mod conversation;

mod opening;

mod routes;

mod stored;

use tramline::json::{self, Op};
use tramline_wire::codec::{Framed, split_frame};
use tramline_wire::{Code, Filter, HeaderBlock, ToBroker, ToClient, Topic, limits, preamble};

/// One input, checked.
pub(crate) type Target = fn(&[u8]);

/// Checks one input of the target called `name`.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of the table");
    target(bytes);
}

/// Every target with its name, which is that of its fuzz target and of its corpus.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("to_broker", to_broker),
    ("to_client", to_client),
    ("headers", headers),
    ("topics", topics),
    ("preamble", first_bytes),
    ("json", json_line),
    ("conversation", conversation::conversation),
    ("opening", opening::opening),
    ("config", config::config),
    ("stored", stored::stored),
    ("expression", routes::expression),
    ("envelope", routes::envelope),
    ("routes", routes::routes),
];

/// Splits `bytes` into frame bodies as a connection would, and hands each to `decode`.
fn each_body(bytes: &[u8], mut decode: impl FnMut(&[u8])) {
    let mut rest = bytes;
    while let Ok(Framed::Whole { body, consumed }) = split_frame(rest, limits::FRAME_BYTES_DEFAULT) {
        decode(body);
        rest = &rest[consumed..];
    }
}

/// Frames to the broker: refused, or the same bytes again.
fn to_broker(bytes: &[u8]) {
    each_body(bytes, |body| {
        let Ok(frame) = ToBroker::decode(body) else { return };
        assert!(frame.fds() <= limits::FRAME_FDS_MAX);
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(&again[4..], body);
        if let ToBroker::Publish(publish) = frame {
            let message = tramline_wire::codec::decode_message(ToBroker::publish_message(body));
            assert_eq!(message, Ok(publish.message));
        }
    });
}

/// Frames to a client: refused, or the same bytes again.
fn to_client(bytes: &[u8]) {
    each_body(bytes, |body| {
        let Ok(frame) = ToClient::decode(body) else { return };
        assert!(frame.fds() <= limits::FRAME_FDS_MAX);
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(&again[4..], body);
    });
}

/// Type and headers: refused, or readable and the same bytes again.
fn headers(bytes: &[u8]) {
    let Ok(block) = HeaderBlock::parse(bytes) else { return };
    assert!(block.iter().count() <= limits::HEADERS_MAX);
    let mut again = Vec::new();
    let head = block.message_type().unwrap_or_default();
    tramline_wire::headers::encode(&mut again, head, block.iter()).expect("what was read can be written");
    // A lone 0 says "no type, no headers" in one byte instead of none.
    assert!(again == bytes || bytes == [0]);
    for (name, _) in block.iter() {
        assert!(block.get(name).is_some());
    }
}

/// Whether `filter` selects `topic`, said in the plainest way: the model for [`Filter::matches`].
fn selects(filter: &[&str], topic: &[&str]) -> bool {
    match (filter.split_first(), topic.split_first()) {
        (None, None) => true,
        (Some((&">", _)), Some(_)) => true,
        (Some((want, filter)), Some((name, topic))) => {
            (*want == "*" || want == name) && selects(filter, topic)
        }
        _ => false,
    }
}

/// A filter and, behind the first space, a topic: refused by the rules, or matched as the model says.
fn topics(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (filter, name) = text.split_once(' ').unwrap_or((text, text));
    if let Ok(topic) = Topic::parse(name) {
        assert!(name.len() <= limits::TOPIC_BYTES_MAX && topic.tokens().count() <= limits::TOPIC_TOKENS_MAX);
        assert!(topic.tokens().all(|token| !token.is_empty()));
        assert!(Filter::parse(name).expect("every topic is a filter").matches(topic));
        if let Ok(filter) = Filter::parse(filter) {
            let (tokens, names): (Vec<_>, Vec<_>) = (filter.tokens().collect(), topic.tokens().collect());
            let hidden = topic.is_reserved() && !filter.as_str().starts_with('$');
            assert_eq!(filter.matches(topic), !hidden && selects(&tokens, &names));
        }
    }
}

/// A client's first eight bytes: refused, or answered by something that the client understands.
fn first_bytes(bytes: &[u8]) {
    let Some((first, _)) = bytes.split_first_chunk() else { return };
    if let Ok((answer, chosen)) = preamble::answer(*first) {
        assert_eq!(preamble::accept(answer).ok(), (chosen != 0).then_some(chosen));
    }
    if let Ok(version) = preamble::accept(*first) {
        assert!((preamble::VERSION_MIN..=preamble::VERSION_MAX).contains(&version));
    }
}

/// A JSON line: refused with a sentence, or a request whose parts are bounded and the sender's own.
fn json_line(bytes: &[u8]) {
    let mut out = Vec::new();
    match json::parse_request(bytes) {
        Err(fault) => {
            assert_ne!(fault.code, Code::Internal);
            assert!(!fault.message.is_empty());
            json::write_fault(&mut out, &fault);
        }
        Ok(request) => {
            if let Op::Publish(publish) = &request.op {
                assert!(publish.headers.len() <= limits::HEADERS_MAX);
                if publish.encoding == tramline_wire::Encoding::Json {
                    assert!(
                        bytes.windows(publish.payload.len()).any(|part| part == publish.payload.as_ref())
                    );
                }
                let mut head = Vec::new();
                if publish.encode_head(&mut head).is_ok() {
                    assert!(HeaderBlock::parse(&head).is_ok());
                }
            }
            json::write_ok(&mut out, request.op.name(), request.id, &[]);
        }
    }
    // Whatever came in, what goes out is one JSON value on one line.
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(out.last(), Some(&b'\n'));
    serde_json::from_slice::<&serde_json::value::RawValue>(&out).expect("an answer is JSON");
}
