//! What can go wrong, as the program that uses this crate meets it.

use crate::Loan;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tramline_ring::{RingError, SendError};
use tramline_wire::{Code, LimitInfo, TopicError};

/// What this crate's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A limit that was met: which, how high it is, and how much of it is used or was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The limit's name; for the broker's limits, the key in its configuration.
    pub name: String,
    /// Its value, in the unit that its name ends in.
    pub value: u64,
    /// What is used of it, or what was asked for.
    pub used: u64,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No broker answers at the only path there is to try.
    #[error("cannot connect to a broker at {}: {source} (start one with: tramline serve)", .path.display())]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No broker answers at any of the usual paths.
    #[error("no broker found at {} (start one with: tramline serve, or set TRAMLINE_SOCKET)", list(.tried))]
    NoBroker {
        /// Where it was looked for, in order.
        tried: Vec<PathBuf>,
    },
    /// The broker refused.
    #[error("{message}")]
    Refused {
        /// Why.
        code: Code,
        /// What happened, which rule or limit, and how to change it.
        message: String,
        /// The limit, if one was met.
        limit: Option<Box<Limit>>,
    },
    /// The connection is down; it is being restored in the background unless that was switched off.
    #[error("the connection to the broker is down{}", because(.0))]
    Disconnected(
        /// What was seen last.
        Option<Box<str>>,
    ),
    /// A publisher went on in a larger ring, and both it and the broker ended before this subscription was given that: what
    /// was published there is lost, and nobody knows how much it was. The subscription goes on with others.
    #[error(
        "'{topic}' went on in a larger ring (generation {generation}), which this subscription was not given before {publisher} \
         and the broker ended; what was published there is lost"
    )]
    CutOff {
        /// On which topic.
        topic: Box<str>,
        /// Who published: name and process.
        publisher: Box<str>,
        /// Number of the ring's generation.
        generation: u32,
    },
    /// The client or publisher was closed in this process.
    #[error("closed")]
    Closed,
    /// The ring has no room, because a subscriber that may hold this publisher up has not read on.
    #[error("{0}")]
    Full(Full),
    /// The message is larger than what carries it.
    #[error(
        "a message of {bytes} bytes on '{topic}', where at most {max} fit ({limit}); open the publisher with a larger capacity()"
    )]
    TooLarge {
        /// On which topic.
        topic: Box<str>,
        /// The message's size.
        bytes: u64,
        /// What fits.
        max: u64,
        /// Name of the limit.
        limit: &'static str,
    },
    /// The message needs a larger ring than there is, and the broker, who would have to hand it out, cannot be reached.
    /// Smaller messages go on.
    #[error(
        "a message of {bytes} bytes on '{topic}' needs a larger ring than there is (up to {max} fit), and the broker is down"
    )]
    BrokerDown {
        /// On which topic.
        topic: Box<str>,
        /// The message's size.
        bytes: u64,
        /// What fits now.
        max: u64,
    },
    /// The service answered with an error of its own, which the broker gives no meaning.
    #[error("the service answered with error {number}: {text}")]
    Reply {
        /// The service's own number; 0 from a handler that has none.
        number: u32,
        /// The service's own words.
        text: String,
    },
    /// A limit of this client.
    #[error("{} would exceed {} ({})", .limit.used, .limit.name, .limit.value)]
    Limit {
        /// Which.
        limit: Box<Limit>,
    },
    /// Something did not happen in time.
    #[error("no {what} within {after:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// This process is a fork of the one that made the client; make a new client after `fork`.
    #[error("this client belongs to the process it was made in (pid {owner}); connect again after fork")]
    Forked {
        /// The process that made the client.
        owner: u32,
    },
    /// A topic or filter that breaks the rules of names.
    #[error("'{text}': {source}")]
    Topic {
        /// What was given.
        text: Box<str>,
        /// The rule.
        source: TopicError,
    },
    /// This client has a publisher on that topic already.
    #[error("this client has an open publisher on '{0}' already")]
    PublisherExists(Box<str>),
    /// A type or header that does not fit a message.
    #[error(transparent)]
    Header(#[from] tramline_wire::headers::HeaderError),
    /// Shared memory failed, or the other side's is not what it must be.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The broker said something that is not of this protocol.
    #[error("the broker broke the protocol: {0}")]
    Protocol(Box<str>),
    /// The payload is not what it was read as.
    #[error("the payload is not {what}: {reason}")]
    Payload {
        /// What it should have been.
        what: &'static str,
        /// Where it is not.
        reason: Box<str>,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// The ring has no room: nothing was published.
#[derive(Debug, thiserror::Error)]
#[error("no room in the ring of '{topic}': {}", in_the_way(*.growing, .holder.as_deref()))]
pub struct Full {
    pub(crate) topic: Box<str>,
    pub(crate) holder: Option<Box<str>>,
    pub(crate) loan: Option<Box<Loan>>,
    pub(crate) growing: bool,
}

impl Full {
    /// The loan whose `send` failed, as it was filled. `None` when there was none.
    #[must_use]
    pub fn into_loan(self) -> Option<Loan> {
        self.loan.map(|loan| *loan)
    }

    /// Whether the ring is being made larger for this message. Nobody is in the way then: try again soon.
    #[must_use]
    pub const fn is_growing(&self) -> bool {
        self.growing
    }

    /// Name of a subscriber in the way, as it calls itself.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }
}

impl Error {
    /// The stable reason, the same that the broker and other languages use.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Connect { .. }
            | Self::NoBroker { .. }
            | Self::Disconnected(_)
            | Self::BrokerDown { .. }
            | Self::CutOff { .. }
            | Self::Closed => Code::PeerGone,
            Self::Full(_) | Self::TimedOut { .. } => Code::TimedOut,
            Self::Reply { .. } => Code::ErrorReply,
            Self::Limit { .. } => Code::LimitReached,
            Self::TooLarge { .. } => Code::PayloadTooLarge,
            Self::Topic { .. } => Code::BadTopic,
            Self::PublisherExists(_) => Code::StreamExists,
            Self::Header(_) | Self::Protocol(_) => Code::Malformed,
            Self::Payload { .. } => Code::BadPayload,
            Self::Ring(error) => ring_code(error),
            Self::Io { .. } => Code::NoResources,
            Self::Forked { .. } => Code::OutOfOrder,
        }
    }

    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.is_retryable(),
            Self::Connect { .. }
            | Self::NoBroker { .. }
            | Self::Disconnected(_)
            | Self::BrokerDown { .. } => true,
            Self::Full(_) | Self::TimedOut { .. } => true,
            Self::Ring(RingError::NoMemory { .. }) => true,
            _ => false,
        }
    }

    /// The limit that was met, if it was one.
    #[must_use]
    pub fn limit(&self) -> Option<&Limit> {
        match self {
            Self::Refused { limit, .. } => limit.as_deref(),
            Self::Limit { limit } => Some(limit),
            _ => None,
        }
    }

    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    pub(crate) fn os(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Io { what, source: errno.into() }
    }

    pub(crate) fn over(name: &str, value: usize, used: usize) -> Self {
        let limit = Limit { name: name.to_owned(), value: value as u64, used: used as u64 };
        Self::Limit { limit: Box::new(limit) }
    }

    pub(crate) fn refused(code: u16, message: &str, limit: Option<LimitInfo<'_>>) -> Self {
        let code = Code::from_number(code).unwrap_or(Code::Internal);
        let message = if message.is_empty() { format!("refused: {code}") } else { message.to_owned() };
        let limit =
            limit.map(|met| Box::new(Limit { name: met.name.to_owned(), value: met.value, used: met.used }));
        Self::Refused { code, message, limit }
    }

    pub(crate) fn send(topic: &str, error: SendError, holder: Option<Box<str>>) -> Self {
        match error {
            SendError::TooLarge { bytes, max } => {
                Self::TooLarge { topic: topic.into(), bytes, max, limit: "the ring's arena" }
            }
            SendError::Closed => Self::Closed,
            _ => Self::Full(Full { topic: topic.into(), holder, loan: None, growing: false }),
        }
    }
}

/// The reason to give to the broker for a failure of shared memory.
pub(crate) fn ring_code(error: &RingError) -> Code {
    match error {
        RingError::Claim { .. } => Code::FalseClaim,
        RingError::Limit { .. } => Code::LimitReached,
        _ => Code::NoResources,
    }
}

/// Why nothing more comes to a client: what its last error was, for each of its subscriptions.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Closed,
    Lost(Box<str>),
    Refused(Code, Box<str>),
}

impl End {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Refused { code, message, .. } => Self::Refused(*code, message.as_str().into()),
            Error::Disconnected(None) => Self::Closed,
            Error::Disconnected(Some(reason)) => Self::Lost(reason.clone()),
            other => Self::Lost(other.to_string().into()),
        }
    }

    pub(crate) fn error(&self) -> Error {
        match self {
            Self::Closed => Error::Closed,
            Self::Lost(reason) => Error::Disconnected(Some(reason.clone())),
            Self::Refused(code, message) => {
                Error::Refused { code: *code, message: message.to_string(), limit: None }
            }
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn because(reason: &Option<Box<str>>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"))
}

fn in_the_way(growing: bool, name: Option<&str>) -> String {
    match name {
        _ if growing => "it is being made larger".to_owned(),
        Some(name) => format!("subscriber '{name}' has not read on"),
        None => "a subscriber has not read on".to_owned(),
    }
}
