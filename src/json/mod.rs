//! JSON lines: the language of people and scripts on the broker's socket, as bytes in and bytes out.
//!
//! This module owns the shapes of requests and answers (`docs/json.md` shows them), and nothing else. It
//! performs no I/O, keeps no state, reads no clock and knows no session: [`parse_request`] turns one line into a
//! checked [`Request`] that borrows from the line, and the `write_*` functions append one whole line
//! each to a buffer. What a request does is the core's affair.
//!
//! Two promises shape the code. The text of `data` is passed on byte for byte, so it is never parsed
//! into values and written again; only line feeds, which JSON allows as white space between tokens,
//! become spaces when a message is written, because a line must stay one line. And whatever a line
//! holds, the answer carries its `op` and `id` if they could be read at all.
//!
//! # Layout
//!
//! * [`ops`]: every operation with its keys, what it does and an example; `help` is made from it.
//! * [`request`]: a line to a request, or to a fault that names key and column.
//! * [`answer`]: answers, messages and gaps to lines.
//! * [`time`]: RFC 3339 to nanoseconds and back.

pub mod ops;

pub mod request;

pub mod answer;

pub mod time;

pub use answer::{
    CallLine, JobLine, MessageLine, Payload, ReplyLine, Sender, StoredLine, Value, write_call,
    write_call_over, write_close, write_error, write_fault, write_gap, write_help, write_job, write_job_lost,
    write_message, write_mode, write_ok, write_reply, write_stored,
};
pub use request::{
    Admin, Ask, Declare, Header, Judgement, Op, Provide, Publish, Pull, Push, QueueRequest, Reply, Request,
    RequestFault, Said, Settle, Subscribe, parse_request,
};

#[cfg(test)]
mod tests;
