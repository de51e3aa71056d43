//! What frames about services carry: requests, who answers them, and with what.
//!
//! The order of fields is the format, as in [`frames`](super).

use crate::message::Message;
use bincode::{BorrowDecode, Encode};

/// A client that answers requests of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Provide<'a> {
    /// Echoed in the answer; not 0.
    pub req: u32,
    /// The instance's number, chosen by the client, unused so far.
    pub provider: u32,
    /// The service's name, a topic without `$`.
    pub service: &'a str,
    /// How many requests it works on at a time.
    pub concurrency: u32,
    /// Its share where the service goes in turn or balances load; 0 counts as 1.
    pub weight: u32,
    /// Its place where the service fails over; lower is first.
    pub priority: u32,
}

/// A request to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Request<'a> {
    /// The service's name.
    pub service: &'a str,
    /// How long the answer may take, in milliseconds; 0: as long as the service's configuration says.
    pub timeout_millis: u32,
    /// Whether it may be carried out more than once, so that another instance can be asked when one has failed.
    pub idempotent: bool,
    /// The request; its number is what the answer names, and no other request without an answer has it.
    pub message: Message<'a>,
}

/// What became of a request, as its instance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Outcome<'a> {
    /// It was carried out; the message is the answer.
    Done,
    /// It was looked at, and the answer is an error of the application.
    Error(ErrorReply<'a>),
    /// The instance could not do it, by a fault of its own.
    Failed {
        /// Why, for people; up to 1024 bytes.
        text: &'a str,
    },
}

/// An error by which a service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct ErrorReply<'a> {
    /// The application's own number; the broker gives it no meaning.
    pub number: u32,
    /// The application's own words; up to 1024 bytes.
    pub text: &'a str,
}

/// An answer by an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Reply<'a> {
    /// The instance, as its owner numbered it.
    pub provider: u32,
    /// The call that is answered.
    pub call: u64,
    /// What became of it.
    pub outcome: Outcome<'a>,
    /// The answer.
    pub message: Message<'a>,
}

/// A request given to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Call<'a> {
    /// The instance, as its owner numbered it.
    pub provider: u32,
    /// From whom, see [`ToClient::Source`](super::ToClient::Source); the topic is empty.
    pub source: u32,
    /// Its number at this instance; they count up from 1.
    pub call: u64,
    /// How often it was given out, this time included.
    pub attempt: u32,
    /// How much time is left, in milliseconds; an answer after that goes nowhere.
    pub timeout_millis: u32,
    /// The request.
    pub message: Message<'a>,
}

/// The answer of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Replied<'a> {
    /// Which request, by its number.
    pub request: u64,
    /// From whom, see [`ToClient::Source`](super::ToClient::Source); the topic is empty.
    pub source: u32,
    /// The error, if it is one.
    pub error: Option<ErrorReply<'a>>,
    /// The answer.
    pub message: Message<'a>,
}
