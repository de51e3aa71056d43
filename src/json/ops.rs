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
        name: "push",
        keys: &[
            "queue",
            "data",
            "text",
            "base64",
            "type",
            "headers",
            "time",
            "priority",
            "delay_millis",
            "ttl_millis",
            "message_id",
        ],
        about: "Pushes one message to a queue; priority is 0 to 9, higher first; one whose message_id was seen lately is \
                not queued again.",
        example: r#"{"op":"push","queue":"jobs","data":{"n":1},"priority":7}"#,
    },
    OpSpec {
        name: "pull",
        keys: &["queue", "max", "ack"],
        about: "Asks for up to max messages (1 unless given) of a queue; they follow as lines with op job, now or when there \
                are some. With ack they count as acknowledged; without, each is to be settled by its tag.",
        example: r#"{"op":"pull","queue":"jobs","max":2}"#,
    },
    OpSpec {
        name: "ack",
        keys: &["queue", "tag"],
        about: "Says that a job is done.",
        example: r#"{"op":"ack","queue":"jobs","tag":1}"#,
    },
    OpSpec {
        name: "nack",
        keys: &["queue", "tag", "delay_millis"],
        about: "Gives a job back, to be given out again after delay_millis, or when the queue thinks best.",
        example: r#"{"op":"nack","queue":"jobs","tag":1,"delay_millis":500}"#,
    },
    OpSpec {
        name: "reject",
        keys: &["queue", "tag", "reason"],
        about: "Sends a job to the dead letters of its queue.",
        example: r#"{"op":"reject","queue":"jobs","tag":1,"reason":"no such file"}"#,
    },
    OpSpec {
        name: "extend",
        keys: &["queue", "tag", "millis"],
        about: "Keeps a job for so many milliseconds from now.",
        example: r#"{"op":"extend","queue":"jobs","tag":1,"millis":60000}"#,
    },
    OpSpec {
        name: "queue",
        keys: &["queue", "do", "max", "number"],
        about: "Administers a queue: do is pause, resume, purge, peek, dead (lists dead letters), replay or purge_dead (one by \
                its number, or all).",
        example: r#"{"op":"queue","queue":"jobs","do":"peek","max":5}"#,
    },
    OpSpec {
        name: "declare",
        keys: &[
            "queue",
            "bind",
            "strategy",
            "when_full",
            "messages_max",
            "bytes_max",
            "ack_timeout_millis",
            "attempts_max",
            "ttl_millis",
            "durable",
        ],
        about: "Makes a queue, for as long as the broker runs or, if it is durable, for good; what is left out is as the \
                configuration has it by default.",
        example: r#"{"op":"declare","queue":"jobs","bind":["work.>"],"strategy":"load_balance"}"#,
    },
    OpSpec {
        name: "req",
        keys: &[
            "service",
            "data",
            "text",
            "base64",
            "type",
            "headers",
            "time",
            "timeout_millis",
            "idempotent",
        ],
        about: "Sends a request to a service; the answer to this line is the service's, or says why there is none. With \
                idempotent, another instance is asked when one has failed.",
        example: r#"{"op":"req","service":"map.locate","data":{"place":"Ulm"},"timeout_millis":1000}"#,
    },
    OpSpec {
        name: "cancel",
        keys: &["req"],
        about: "Gives up requests of this connection by the id that their lines had; those have no answer then.",
        example: r#"{"op":"cancel","req":7}"#,
    },
    OpSpec {
        name: "provide",
        keys: &["service", "concurrency", "weight", "priority"],
        about: "Answers requests of a service, at most concurrency (1 unless given) at a time; they follow as lines with op \
                call, and each is to be answered by reply.",
        example: r#"{"op":"provide","service":"map.locate","concurrency":2}"#,
    },
    OpSpec {
        name: "reply",
        keys: &[
            "service", "call", "data", "text", "base64", "type", "headers", "time", "error", "failed",
            "reason",
        ],
        about: "Answers a call: with a message, with an error of the service's own (error is its number, reason says it in \
                words), or, with failed, by saying that this instance could not do it.",
        example: r#"{"op":"reply","service":"map.locate","call":1,"data":{"lat":48.4,"lon":10.0}}"#,
    },
    OpSpec {
        name: "status",
        keys: &[],
        about: "Shows clients, topics, streams, limits and their use.",
        example: r#"{"op":"status"}"#,
    },
];

/// Names that later versions will give a meaning; they are refused as "not yet", not as unknown.
pub const LATER: &[&str] = &["auth"];

/// The operation with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static OpSpec> {
    OPS.iter().find(|spec| spec.name == name)
}

/// The key of this name, if any operation takes it.
pub(super) fn key(name: &str) -> Option<&'static str> {
    ["op", "id"]
        .into_iter()
        .chain(OPS.iter().flat_map(|spec| spec.keys.iter().copied()))
        .find(|key| *key == name)
}

/// Names joined by commas, for error messages.
#[must_use]
pub(super) fn joined(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
