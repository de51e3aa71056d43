//! Queues: each message goes to one consumer, which settles it, or it goes to another.
//!
//! A `queue::Queue` decides what becomes of each message and knows neither sessions nor frames. Around it stand the
//! parts that do: who may, who pushes and who consumes, in both languages, and which topics are bound to it. A queue is
//! as old as its broker, unless it is kept on disk.
//!
//! # Layout
//!
//! * `settings`: what an operator says about a queue.
//! * `queue`, `giving`, `due`: one queue; what comes in, what goes out and back, what time and administrators do.
//! * `slots`, `origins`, `outstanding`, `recent`, `dead`, `trash`: what one is made of.
//! * `charges`, `dice`: what all share: accounts by user, and randomness.
//! * `kept`: what of a queue on disk is in memory; `ledger`: what waits to be written, and who for; `keeping`, `restoring`:
//!   what comes of it, and what was there before; `positions`: up to where it has rings.
//! * `work`: queues in the core: made, pushed to, given out from, and when.
//! * `bound`: messages published on topics that a queue is bound to; `routed`: routes that take from queues and push to them.
//! * `frames`, `lines`: what frames and JSON lines do with queues; `stretch`: many pushes at once.
//! * `reload`: a configuration that was read again; `news`: what is told of queues; `report`: for the status.

mod settings;

mod queue;

mod giving;

mod due;

mod trash;

mod slots;

mod origins;

mod outstanding;

mod recent;

mod dead;

mod kept;

mod ledger;

mod keeping;

mod restoring;

mod positions;

mod charges;

mod dice;

mod work;

mod bound;

mod routed;

mod frames;

mod stretch;

mod lines;

mod reload;

mod news;

mod report;

pub use settings::{ATTEMPTS_CEILING, Durability, QueueSettings, Right, WhenFull, Who};

pub(super) use bound::{priority_of, pushed_by};
pub(super) use frames::Taken;
pub(super) use ledger::Waiter;
pub(super) use origins::Origin;
pub(super) use queue::{Given, Incoming, Queue};
pub(super) use routed::Settled;
pub(super) use work::Place;

use super::Limits;
use super::table::{Key, Table};
pub(super) use charges::Account;
use charges::Charges;
use dice::Dice;
use ledger::Ledger;
use restoring::Senders;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Nanoseconds in a millisecond.
const MILLI: u64 = super::timers::MILLI;

/// What a waiting message is counted for besides its bytes; it takes no more.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 150;

/// What a message of this length is counted for.
fn cost(bytes: usize) -> u64 {
    bytes as u64 + MESSAGE_OVERHEAD_BYTES
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was given out as often as it may be.
    Attempts,
    /// The same, and the last consumer did not settle it in time.
    TimedOut,
    /// A consumer rejected it.
    Rejected,
    /// It waited longer than it may.
    Expired,
    /// It was the oldest in a queue that was full.
    Overflow,
}

impl Cause {
    /// As people read it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::TimedOut => "timed_out",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Overflow => "overflow",
        }
    }

    /// What was written down so; something else that this version does not know is taken for the first.
    pub(super) fn from_str(text: &str) -> Self {
        let all = [Self::TimedOut, Self::Rejected, Self::Expired, Self::Overflow];
        all.into_iter().find(|cause| cause.as_str() == text).unwrap_or(Self::Attempts)
    }
}

/// All queues, and what they share.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) table: Table<Queue>,
    pub(super) by_name: BTreeMap<Arc<str>, Key>,
    pub(super) charges: Charges,
    pub(super) dice: Dice,
    pub(super) ledger: Ledger,
    pub(super) senders: Senders,
    /// Queues that have something to give out.
    pub(super) busy: VecDeque<Key>,
    /// Consumers whose sessions have ended.
    pub(super) leaving: Vec<Place>,
    /// The session in whose name queues subscribe to topics, once one does.
    pub(super) own_session: Option<Key>,
}

impl Queues {
    pub(super) fn new(seed: u64, limits: &Limits) -> Self {
        Self {
            table: Table::default(),
            by_name: BTreeMap::new(),
            charges: Charges::default(),
            dice: Dice::new(seed),
            ledger: Ledger::new(limits.store_batch_bytes_max, limits.store_waiting_bytes_max),
            senders: Senders::default(),
            busy: VecDeque::new(),
            leaving: Vec::new(),
            own_session: None,
        }
    }
}
