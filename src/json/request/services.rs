//! The operations on services: from a line's fields to what is asked for.

use super::super::ops::OpSpec;
use super::queues::short_text;
use super::{
    Checked, Fields, Op, Publish, TRUE_OR_FALSE, WHOLE_NUMBER, malformed, message, missing, optional,
    required_text,
};
use std::borrow::Cow;
use tramline_wire::limits::REPLY_TEXT_BYTES_MAX;

/// A request to a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask<'a> {
    /// The service's name as given.
    pub service: Cow<'a, str>,
    /// The request; its topic is empty.
    pub message: Publish<'a>,
    /// How long the answer may take; 0: as long as the configuration says.
    pub timeout_millis: u32,
    /// Whether it may be carried out more than once.
    pub idempotent: bool,
}

/// A wish to answer requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provide<'a> {
    /// The service's name as given.
    pub service: Cow<'a, str>,
    /// How many at a time.
    pub concurrency: u32,
    /// Its share where the service balances load.
    pub weight: u32,
    /// Its place where the service fails over.
    pub priority: u32,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply<'a> {
    /// The service's name as given.
    pub service: Cow<'a, str>,
    /// The call's number.
    pub call: u64,
    /// What became of it.
    pub said: Said<'a>,
    /// The answer; its topic is empty.
    pub message: Publish<'a>,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<'a> {
    /// It was carried out.
    Done,
    /// The answer is an error of the service's own.
    Error {
        /// Its number.
        number: u32,
        /// Its words.
        text: Cow<'a, str>,
    },
    /// This instance could not do it.
    Failed {
        /// Why.
        text: Cow<'a, str>,
    },
}

pub(super) fn request<'a>(line: &[u8], fields: &Fields<'a>, spec: &OpSpec) -> Checked<Op<'a>> {
    let service = required_text(fields, "service", spec)?;
    let number = |key| optional(fields, key, WHOLE_NUMBER);
    match spec.name {
        "req" => Ok(Op::Ask(Ask {
            service,
            message: message(line, fields, spec)?,
            timeout_millis: number("timeout_millis")?.unwrap_or(0),
            idempotent: optional(fields, "idempotent", TRUE_OR_FALSE)?.unwrap_or(false),
        })),
        "provide" => Ok(Op::Provide(Provide {
            service,
            concurrency: number("concurrency")?.unwrap_or(1),
            weight: number("weight")?.unwrap_or(1),
            priority: number("priority")?.unwrap_or(0),
        })),
        _ => {
            let Some(call) = optional(fields, "call", "a whole number")? else {
                return missing("call", spec);
            };
            let text = short_text(fields, "reason", REPLY_TEXT_BYTES_MAX)?;
            let failed = optional(fields, "failed", TRUE_OR_FALSE)?.unwrap_or(false);
            let said = match (number("error")?, failed) {
                (Some(_), true) => {
                    return malformed("the op reply takes only one of the keys error, failed".to_owned());
                }
                (Some(number), false) => Said::Error { number, text },
                (None, true) => Said::Failed { text },
                (None, false) => Said::Done,
            };
            let message = match said {
                // Whoever says that there is no answer need not give one.
                Said::Error { .. } | Said::Failed { .. } if !says_something(fields) => Publish {
                    topic: Cow::Borrowed(""),
                    encoding: tramline_wire::Encoding::Binary,
                    payload: Cow::Borrowed(&[]),
                    message_type: Cow::Borrowed(""),
                    headers: Vec::new(),
                    source_time: None,
                    confirm: false,
                },
                _ => message(line, fields, spec)?,
            };
            Ok(Op::Reply(Reply { service, call, said, message }))
        }
    }
}

fn says_something(fields: &Fields<'_>) -> bool {
    ["data", "text", "base64", "type", "headers", "time"].iter().any(|key| fields.get(key).is_some())
}
