//! The operations on queues: from a line's fields to what is asked for.

use super::super::ops::OpSpec;
use super::{
    Checked, Fault, Fields, Op, Publish, TRUE_OR_FALSE, WHOLE_NUMBER, message, missing, optional, quoted,
    required_text, text,
};
use std::borrow::Cow;
use tramline_wire::limits::{MESSAGE_ID_BYTES_MAX, PRIORITY_DEFAULT, PRIORITY_MAX, REJECT_REASON_BYTES_MAX};
use tramline_wire::{Code, Strategy, WhenFull};

/// A message to push to a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Push<'a> {
    /// The queue's name as given.
    pub queue: Cow<'a, str>,
    /// The message; its topic is empty.
    pub message: Publish<'a>,
    /// 0 to 9.
    pub priority: u8,
    /// Not before so many milliseconds from now.
    pub delay_millis: u32,
    /// Not after so many milliseconds from when it is due; 0: as long as the queue lets it.
    pub ttl_millis: u32,
    /// Its sender's id for it; empty: none.
    pub message_id: Cow<'a, str>,
}

/// A wish for messages of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull<'a> {
    /// The queue's name as given.
    pub queue: Cow<'a, str>,
    /// How many at most.
    pub max: u32,
    /// Whether they count as acknowledged when they are given out.
    pub ack: bool,
}

/// What a consumer says of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle<'a> {
    /// The queue's name as given.
    pub queue: Cow<'a, str>,
    /// The job's tag.
    pub tag: u64,
    /// What became of it.
    pub judgement: Judgement<'a>,
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement<'a> {
    /// It is done.
    Ack,
    /// It is to be given out again.
    Nack {
        /// After so long; none leaves it to the queue.
        delay_millis: Option<u32>,
    },
    /// It is to go to the dead letters.
    Reject {
        /// Why.
        reason: Cow<'a, str>,
    },
    /// It is kept.
    Extend {
        /// For so long from now.
        millis: u32,
    },
}

impl Judgement<'_> {
    /// The value of `op`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nack { .. } => "nack",
            Self::Reject { .. } => "reject",
            Self::Extend { .. } => "extend",
        }
    }
}

/// What is done with a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRequest<'a> {
    /// The queue's name as given.
    pub queue: Cow<'a, str>,
    /// What is done.
    pub admin: Admin,
}

/// What an administrator does with a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// It gives nothing out for now.
    Pause,
    /// It gives out again.
    Resume,
    /// All that waits is thrown away.
    Purge,
    /// What would be given out next is shown.
    Peek {
        /// How many at most.
        max: u32,
    },
    /// Dead letters are shown, from the one with this number on.
    Dead {
        /// How many at most.
        max: u32,
        /// The first.
        number: u64,
    },
    /// A dead letter goes back into the queue; none: all of them.
    Replay(Option<u64>),
    /// A dead letter is thrown away; none: all of them.
    PurgeDead(Option<u64>),
}

impl Admin {
    /// The value of `do`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Purge => "purge",
            Self::Peek { .. } => "peek",
            Self::Dead { .. } => "dead",
            Self::Replay(_) => "replay",
            Self::PurgeDead(_) => "purge_dead",
        }
    }
}

/// A queue that somebody wants to be there. Where a number is 0, the broker's default counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declare<'a> {
    /// Its name as given.
    pub queue: Cow<'a, str>,
    /// Filters, with a space between them.
    pub bind: String,
    /// Who gets the next message.
    pub strategy: Strategy,
    /// What happens when it is full.
    pub when_full: WhenFull,
    /// Messages it may hold.
    pub messages_max: u64,
    /// Bytes they may have.
    pub bytes_max: u64,
    /// How long a consumer may keep a message, in milliseconds.
    pub ack_timeout_millis: u32,
    /// How often a message is given out before it becomes a dead letter.
    pub attempts_max: u16,
    /// How long a message may wait, in milliseconds.
    pub ttl_millis: u32,
    /// Whether it is kept on disk.
    pub durable: bool,
}

const LONG_NUMBER: &str = "a whole number";

pub(super) fn request<'a>(line: &[u8], fields: &Fields<'a>, spec: &OpSpec) -> Checked<Op<'a>> {
    let queue = required_text(fields, "queue", spec)?;
    let millis = |key| optional(fields, key, WHOLE_NUMBER);
    if spec.name == "push" {
        let priority: u32 = millis("priority")?.unwrap_or(PRIORITY_DEFAULT.into());
        let priority = u8::try_from(priority).ok().filter(|priority| *priority <= PRIORITY_MAX);
        return Ok(Op::Push(Push {
            queue,
            message: message(line, fields, spec)?,
            priority: priority
                .ok_or_else(|| out_of_range(fields, "priority", "a whole number from 0 to 9"))?,
            delay_millis: millis("delay_millis")?.unwrap_or(0),
            ttl_millis: millis("ttl_millis")?.unwrap_or(0),
            message_id: short_text(fields, "message_id", MESSAGE_ID_BYTES_MAX)?,
        }));
    }
    if spec.name == "pull" {
        let ack = optional(fields, "ack", TRUE_OR_FALSE)?.unwrap_or(false);
        return Ok(Op::Pull(Pull { queue, max: millis("max")?.unwrap_or(1), ack }));
    }
    if spec.name == "queue" {
        return Ok(Op::Queue(QueueRequest { queue, admin: admin(fields, spec)? }));
    }
    if spec.name == "declare" {
        return Ok(Op::Declare(declare(fields, queue)?));
    }
    let Some(tag) = optional(fields, "tag", LONG_NUMBER)? else { return missing("tag", spec) };
    let judgement = match spec.name {
        "ack" => Judgement::Ack,
        "nack" => Judgement::Nack { delay_millis: millis("delay_millis")? },
        "reject" => Judgement::Reject { reason: short_text(fields, "reason", REJECT_REASON_BYTES_MAX)? },
        _ => match millis("millis")? {
            Some(millis) => Judgement::Extend { millis },
            None => return missing("millis", spec),
        },
    };
    Ok(Op::Settle(Settle { queue, tag, judgement }))
}

fn declare<'a>(fields: &Fields<'a>, queue: Cow<'a, str>) -> Checked<Declare<'a>> {
    let millis = |key| optional(fields, key, WHOLE_NUMBER).map(Option::unwrap_or_default);
    let long = |key| optional(fields, key, LONG_NUMBER).map(Option::unwrap_or_default);
    let one_of = |key, words: &[&str]| match fields.get(key) {
        None => Ok(0),
        Some((value, _)) => {
            let found = text(value).and_then(|text| words.iter().position(|word| *word == text));
            found.ok_or_else(|| out_of_range(fields, key, &format!("one of {}", words.join(", "))))
        }
    };
    let bind = match fields.get("bind") {
        None => Vec::new(),
        Some((value, _)) => {
            let list = text(value).map(|one| vec![one.into_owned()]);
            let list = list.or_else(|| serde_json::from_str::<Vec<String>>(value.get()).ok());
            let list = list.filter(|list| list.iter().all(|filter| !filter.contains(' ')));
            list.ok_or_else(|| out_of_range(fields, "bind", "a filter, or a list of filters"))?
        }
    };
    Ok(Declare {
        queue,
        bind: bind.join(" "),
        strategy: [Strategy::RoundRobin, Strategy::LoadBalance, Strategy::Failover]
            [one_of("strategy", &["round_robin", "load_balance", "failover"])?],
        when_full: [WhenFull::Refuse, WhenFull::DropOldest, WhenFull::DeadLetter]
            [one_of("when_full", &["refuse", "drop_oldest", "dead_letter"])?],
        messages_max: long("messages_max")?,
        bytes_max: long("bytes_max")?,
        ack_timeout_millis: millis("ack_timeout_millis")?,
        attempts_max: optional(fields, "attempts_max", "a whole number from 0 to 65535")?.unwrap_or(0),
        ttl_millis: millis("ttl_millis")?,
        durable: optional(fields, "durable", TRUE_OR_FALSE)?.unwrap_or(false),
    })
}

fn admin(fields: &Fields<'_>, spec: &OpSpec) -> Checked<Admin> {
    let max = optional(fields, "max", WHOLE_NUMBER)?.unwrap_or(20);
    let number: Option<u64> = optional(fields, "number", LONG_NUMBER)?;
    let Some(action) = fields.get("do").map(|(value, _)| text(value)) else { return missing("do", spec) };
    Ok(match action.as_deref() {
        Some("pause") => Admin::Pause,
        Some("resume") => Admin::Resume,
        Some("purge") => Admin::Purge,
        Some("peek") => Admin::Peek { max },
        Some("dead") => Admin::Dead { max, number: number.unwrap_or(0) },
        Some("replay") => Admin::Replay(number),
        Some("purge_dead") => Admin::PurgeDead(number),
        _ => {
            let expected = "one of pause, resume, purge, peek, dead, replay, purge_dead";
            return Err(out_of_range(fields, "do", expected));
        }
    })
}

pub(super) fn short_text<'a>(
    fields: &Fields<'a>,
    key: &'static str,
    bytes_max: usize,
) -> Checked<Cow<'a, str>> {
    let Some((value, _)) = fields.get(key) else { return Ok(Cow::Borrowed("")) };
    let given = text(value).filter(|text| text.len() <= bytes_max);
    given.ok_or_else(|| out_of_range(fields, key, &format!("a text of at most {bytes_max} bytes")))
}

fn out_of_range(fields: &Fields<'_>, key: &str, expected: &str) -> Fault {
    let (given, column) = fields.get(key).map_or(("", 1), |(value, column)| (value.get(), column));
    let message = format!("the key {key} at column {column} must be {expected}, and is {}", quoted(given));
    Fault(Code::Malformed, message)
}
