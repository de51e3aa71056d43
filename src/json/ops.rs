//! The table of operations: the one place that says which exist, which keys each takes, and how each
//! looks. Parsing, error messages and `help` all read it, so they cannot disagree.
//!
//! It does not say what an operation does to the broker.

/// One operation of the JSON language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpSpec {
    /// The value of `op`.
    pub name: &'static str,
    /// The keys it takes besides `op` and `id`.
    pub keys: &'static [&'static str],
    /// What it does, in one sentence.
    pub about: &'static str,
    /// A line that works.
    pub example: &'static str,
}

/// Every operation, in the order `help` shows them.
pub const OPS: &[OpSpec] = &[
    OpSpec { name: "help", keys: &[], about: "Lists the operations.", example: r#"{"op":"help"}"# },
    OpSpec {
        name: "ping",
        keys: &[],
        about: "Answers, and does nothing else.",
        example: r#"{"op":"ping","id":1}"#,
    },
    OpSpec {
        name: "pub",
        keys: &["topic", "data", "text", "base64", "type", "headers", "time", "confirm"],
        about: "Publishes one message: exactly one of data (any JSON), text or base64; time is when it happened \
                (RFC 3339). The answer comes after every subscriber's queue has it, with or without confirm.",
        example: r#"{"op":"pub","topic":"gps.fix","data":{"lat":48.1,"lon":11.6},"type":"fix","headers":{"unit":"deg"}}"#,
    },
    OpSpec {
        name: "sub",
        keys: &["topic", "history", "reliable"],
        about: "Subscribes to a topic or filter (* one token, > the rest); history asks for past messages of each \
                publisher's ring; with reliable, publishers wait for this connection instead of dropping.",
        example: r#"{"op":"sub","topic":"gps.>","history":10}"#,
    },
    OpSpec {
        name: "unsub",
        keys: &["sub"],
        about: "Ends a subscription by the number that sub answered.",
        example: r#"{"op":"unsub","sub":1}"#,
    },
    OpSpec {
        name: "status",
        keys: &[],
        about: "Shows clients, topics, streams, limits and their use.",
        example: r#"{"op":"status"}"#,
    },
];

/// Names that later versions will give a meaning; they are refused as "not yet", not as unknown.
pub const LATER: &[&str] =
    &["auth", "req", "provide", "reply", "push", "pull", "ack", "nack", "reject", "extend"];

/// The operation with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static OpSpec> {
    OPS.iter().find(|spec| spec.name == name)
}

/// Names joined by commas, for error messages.
#[must_use]
pub(super) fn joined(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
