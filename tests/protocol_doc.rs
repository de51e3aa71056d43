//! Holds `docs/protocol.md` to the truth: every example in it is decoded and encoded again, and every
//! frame, field, code and limit of `tramline-wire` must stand in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tramline_wire::codec::{DecodeError, Framed, split_frame};
use tramline_wire::{Code, HeaderBlock, ToBroker, ToClient, limits, preamble};

const DOCUMENT: &str = include_str!("../docs/protocol.md");

/// One fenced example: what it is, what heading it stands under, its bytes.
struct Example {
    what: String,
    heading: String,
    /// Names of fields in the table before it.
    fields: Vec<String>,
    bytes: Vec<u8>,
}

/// Bytes of one line: pairs of hex digits up to the first double space.
fn bytes_of(line: &str) -> Vec<u8> {
    let digits = line.split("  ").next().unwrap_or_default();
    digits
        .split_whitespace()
        .map(|pair| {
            u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("not a byte: {pair:?} in {line:?}"))
        })
        .collect()
}

fn examples() -> Vec<Example> {
    let (mut heading, mut fields) = (String::new(), Vec::new());
    let mut found: Vec<Example> = Vec::new();
    let mut inside = false;
    for line in DOCUMENT.lines() {
        if let Some(what) = line.strip_prefix("```hex ") {
            let example =
                Example { what: what.to_owned(), heading: heading.clone(), fields, bytes: Vec::new() };
            (inside, fields) = (true, Vec::new());
            found.push(example);
        } else if line.starts_with("```") {
            inside = false;
        } else if inside {
            found.last_mut().expect("a fence was opened").bytes.extend(bytes_of(line));
        } else if let Some(title) = line.strip_prefix("### ") {
            heading = title.to_owned();
            fields.clear();
        } else if let Some(cell) = line.split('|').nth(3).filter(|_| line.starts_with('|')) {
            let name = cell.trim().trim_matches('`');
            if cell.trim().starts_with('`') {
                fields.push(name.to_owned());
            }
        }
    }
    found
}

fn body(bytes: &[u8]) -> &[u8] {
    match split_frame(bytes, limits::FRAME_BYTES_DEFAULT) {
        Ok(Framed::Whole { body, consumed }) if consumed == bytes.len() => body,
        other => panic!("an example is not exactly one frame: {other:?}"),
    }
}

/// Checks that a decoded frame is the one its heading names, and has the fields that its table lists.
fn assert_documented(example: &Example, shown: &str) {
    let name = shown.split(['(', ' ']).next().unwrap_or_default();
    let kind = u32::from_le_bytes(example.bytes[4..8].try_into().unwrap());
    assert_eq!(example.heading, format!("{kind} {name}"), "the example does not belong to its heading");
    for field in &example.fields {
        let field = field.rsplit('.').next().unwrap_or_default();
        assert!(shown.contains(&format!("{field}: ")), "{name} has no field {field}: {shown}");
    }
    assert!(!example.fields.is_empty(), "{name} has no table of fields");
}

#[test]
fn every_example_is_what_it_says_and_comes_back_byte_for_byte() {
    let mut count = 0;
    for example in examples() {
        let mut again = Vec::new();
        match example.what.as_str() {
            "to-broker" => {
                let frame = ToBroker::decode(body(&example.bytes)).unwrap();
                assert_documented(&example, &format!("{frame:?}"));
                frame.encode(&mut again);
            }
            "to-client" => {
                let frame = ToClient::decode(body(&example.bytes)).unwrap();
                assert_documented(&example, &format!("{frame:?}"));
                frame.encode(&mut again);
            }
            "preamble-request" => again.extend(preamble::request()),
            "preamble-answer" => again.extend(preamble::answer(preamble::request()).unwrap().0),
            "headers" => {
                let block = HeaderBlock::parse(&example.bytes).unwrap();
                let head = block.message_type().unwrap_or_default();
                tramline_wire::headers::encode(&mut again, head, block.iter()).unwrap();
            }
            other => panic!("an example of an unknown sort: {other}"),
        }
        assert_eq!(example.bytes, again, "under {}", example.heading);
        count += 1;
    }
    assert!(count > 28, "only {count} examples were found");
}

/// The number of kinds: the first that the decoder does not know.
fn kinds(known: impl Fn(&[u8]) -> bool) -> u32 {
    (0_u32..).find(|kind| !known(&kind.to_le_bytes())).expect("kinds end somewhere")
}

#[test]
fn every_kind_of_frame_has_an_example() {
    let unknown = |error: Option<DecodeError>| matches!(error, Some(DecodeError::UnknownKind(_)));
    let to_broker = kinds(|bytes| !unknown(ToBroker::decode(bytes).err()));
    let to_client = kinds(|bytes| !unknown(ToClient::decode(bytes).err()));
    assert!(to_broker >= 12 && to_client >= 16);
    for (what, count) in [("to-broker", to_broker), ("to-client", to_client)] {
        let shown: Vec<u32> = examples()
            .iter()
            .filter(|example| example.what == what)
            .map(|example| u32::from_le_bytes(example.bytes[4..8].try_into().unwrap()))
            .collect();
        assert_eq!(shown, (0..count).collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn every_code_stands_in_the_table() {
    let shown: Vec<&str> = DOCUMENT
        .split("## Codes")
        .nth(1)
        .and_then(|rest| rest.split("## Limits").next())
        .expect("a section on codes")
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| number"))
        .collect();
    assert_eq!(shown.len(), Code::ALL.len());
    for (code, line) in Code::ALL.iter().zip(shown) {
        let again = if code.is_retryable() { "yes" } else { "no" };
        let expected = format!("| {} | `{code}` | {again} | ", code.number());
        assert!(line.starts_with(&expected), "expected {expected} …, found {line}");
    }
}

#[test]
fn every_limit_stands_in_the_table_with_its_value() {
    let values: &[(&str, u64)] = &[
        ("TOPIC_BYTES_MAX", limits::TOPIC_BYTES_MAX as u64),
        ("TOPIC_TOKENS_MAX", limits::TOPIC_TOKENS_MAX as u64),
        ("NAME_BYTES_MAX", limits::NAME_BYTES_MAX as u64),
        ("HEADER_BLOCK_BYTES_MAX", limits::HEADER_BLOCK_BYTES_MAX as u64),
        ("TYPE_BYTES_MAX", limits::TYPE_BYTES_MAX as u64),
        ("HEADERS_MAX", limits::HEADERS_MAX as u64),
        ("FRAME_BYTES_CEILING", limits::FRAME_BYTES_CEILING as u64),
        ("FRAME_BYTES_DEFAULT", limits::FRAME_BYTES_DEFAULT as u64),
        ("FRAME_OVERHEAD_BYTES", limits::FRAME_OVERHEAD_BYTES as u64),
        ("ALIASES_MAX", u64::from(limits::ALIASES_MAX)),
        ("TOPIC_SETTINGS_MAX", limits::TOPIC_SETTINGS_MAX as u64),
        ("STREAM_GENERATIONS_MAX", u64::from(limits::STREAM_GENERATIONS_MAX)),
        ("FRAME_FDS_MAX", u64::from(limits::FRAME_FDS_MAX)),
        ("SUBSCRIPTION_ID_MAX", u64::from(limits::SUBSCRIPTION_ID_MAX)),
        ("RING_MESSAGE_BYTES_MAX", limits::RING_MESSAGE_BYTES_MAX),
        ("BULK_UNIT_BYTES", limits::BULK_UNIT_BYTES),
        ("MESSAGE_ID_BYTES_MAX", limits::MESSAGE_ID_BYTES_MAX as u64),
        ("REJECT_REASON_BYTES_MAX", limits::REJECT_REASON_BYTES_MAX as u64),
        ("PRIORITY_MAX", u64::from(limits::PRIORITY_MAX)),
        ("PRIORITY_DEFAULT", u64::from(limits::PRIORITY_DEFAULT)),
        ("REPLY_TEXT_BYTES_MAX", limits::REPLY_TEXT_BYTES_MAX as u64),
        ("REQUEST_MILLIS_CEILING", u64::from(limits::REQUEST_MILLIS_CEILING)),
    ];
    let rows: Vec<&str> = DOCUMENT.lines().filter(|line| line.ends_with("` |")).collect();
    for (name, value) in values {
        let row = rows.iter().find(|row| row.ends_with(&format!("| `{name}` |")));
        let shown = row.and_then(|row| row.split('|').nth(2)).map(str::trim).unwrap_or_default();
        let number = shown.split(' ').next().unwrap_or_default();
        assert_eq!(number, value.to_string(), "{name}");
    }
}
