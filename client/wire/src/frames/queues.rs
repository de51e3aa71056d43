//! What frames about queues carry: messages pushed to one, given out as jobs, and what became of them.
//!
//! The order of fields is the format, as in [`frames`](super).

use crate::message::Message;
use bincode::{BorrowDecode, Encode};

/// How a queue chooses who gets the next message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Encode, BorrowDecode)]
pub enum Strategy {
    /// Each consumer in turn, as often as its weight says.
    #[default]
    RoundRobin,
    /// The consumer with the fewest outstanding for its weight.
    LoadBalance,
    /// The first consumer by priority; another when that one has gone.
    Failover,
}

/// What happens to a message for a queue that is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Encode, BorrowDecode)]
pub enum WhenFull {
    /// Its producer is told.
    #[default]
    Refuse,
    /// The oldest of the lowest priority is dropped, and counted.
    DropOldest,
    /// The oldest of the lowest priority becomes a dead letter.
    DeadLetter,
}

/// A message for a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Push<'a> {
    /// Which queue, see [`ToBroker::OpenQueue`](super::ToBroker::OpenQueue).
    pub queue: u32,
    /// 0 to 9, higher first.
    pub priority: u8,
    /// Not before so many milliseconds from now.
    pub delay_millis: u32,
    /// Not after so many milliseconds from when it is due; 0: as long as the queue lets it.
    pub ttl_millis: u32,
    /// The same for the same message, up to 64 bytes; empty: none. One seen lately is confirmed and not queued again.
    pub id: &'a [u8],
    /// The message; its number counts this client's pushes to this queue.
    pub message: Message<'a>,
}

/// A queue that a client wants to be there. Where a number is 0, the broker's default counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct DeclareQueue<'a> {
    /// Echoed in the answer.
    pub req: u32,
    /// Its name, a topic without `$`.
    pub queue: &'a str,
    /// Filters whose topics it takes messages of, with a space between them.
    pub bind: &'a str,
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
    /// Whether it and its messages outlive the broker: they are kept on disk.
    pub durable: bool,
}

/// A client that takes messages from a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Consume<'a> {
    /// Echoed in the answer; not 0.
    pub req: u32,
    /// The consumer's number, chosen by the client, unused so far.
    pub consumer: u32,
    /// The queue.
    pub queue: &'a str,
    /// How many messages it may be given to begin with.
    pub credit: u32,
    /// Whether settling one lets it be given another.
    pub refill: bool,
    /// Its share where the queue goes in turn or balances load; 0 counts as 1.
    pub weight: u32,
    /// Its place where the queue fails over; lower is first.
    pub priority: u32,
}

/// A message given to a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Job<'a> {
    /// The consumer, as its owner numbered it.
    pub consumer: u32,
    /// From whom and on what topic, see [`ToClient::Source`](super::ToClient::Source); the topic is empty for what was
    /// pushed to the queue itself.
    pub source: u32,
    /// Its number at this consumer; they count up from 1.
    pub tag: u64,
    /// How often it was given out, this time included.
    pub attempt: u32,
    /// 0 to 9.
    pub priority: u8,
    /// The message.
    pub message: Message<'a>,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Verdict<'a> {
    /// It is done.
    Ack,
    /// It is to be given out again.
    Nack {
        /// After so many milliseconds; `None` leaves it to the queue, `Some(0)` is at once.
        delay_millis: Option<u32>,
    },
    /// It is never to be given out again, but kept with the dead letters.
    Reject {
        /// Why, for people; up to 256 bytes.
        reason: &'a str,
    },
    /// It is still being worked on, and may be kept for so long from now.
    Extend {
        /// Milliseconds.
        millis: u32,
    },
}
