//! Routes at one moment: what became of messages, and how their destinations do.

use crate::core::latency::Latency;
use serde::Serialize;
use tramline_wire::Code;

/// What became of the messages that a route looked at: `received` is always the sum of `passed`, `dropped`, `invalid`,
/// `delivered`, `dead` and `in_flight`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RouteCounts {
    /// Messages that it looked at.
    pub received: u64,
    /// Messages that were not for it.
    pub passed: u64,
    /// Those of them for which `when` asked for a field that is missing.
    pub passed_missing: u64,
    /// Those of them for which `when` could not be computed.
    pub passed_trouble: u64,
    /// Messages that it dropped, as its configuration says.
    pub dropped: u64,
    /// Messages that were not valid.
    pub invalid: u64,
    /// Messages of which everything was delivered.
    pub delivered: u64,
    /// Messages of which something could not be delivered.
    pub dead: u64,
    /// Messages that are being delivered.
    pub in_flight: u64,
    /// Tries after the first.
    pub retries: u64,
    /// Deliveries given up since so many others were at their retries (`deliver.retry_budget`).
    pub retries_refused: u64,
    /// Deliveries given up since their time in all was over (`deliver.deadline`).
    pub too_late: u64,
    /// Messages that it made of those that it transformed or split.
    pub parts: u64,
    /// Those of them that were not valid.
    pub parts_invalid: u64,
    /// Replies of services that its rules made something else of.
    pub replies: u64,
    /// Replies that were not valid, to requests that count as delivered all the same.
    pub replies_invalid: u64,
    /// What could be brought nowhere, neither to a destination nor to a channel for what is invalid or dead.
    pub lost: u64,
}

/// One route.
#[derive(Debug, Clone, Serialize)]
pub struct RouteStatus {
    /// Its name.
    pub route: String,
    /// Where it takes messages from.
    pub from: Vec<String>,
    /// Who of its destinations gets a message.
    pub strategy: &'static str,
    /// Its priority among routes.
    pub priority: i64,
    /// What became of messages since its broker's start.
    #[serde(flatten)]
    pub counts: RouteCounts,
    /// Deliveries that wait because so many are under way (`deliver.concurrency`), or for others before them
    /// (`deliver.ordered`).
    pub waiting: u64,
    /// Deliveries under way that were tried before.
    pub retrying: u64,
    /// From when messages were taken to when they were delivered.
    pub latency: Latency,
    /// Its destinations, in the order of the file.
    pub destinations: Vec<DestinationStatus>,
}

/// What became of what a destination of a route was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DestinationCounts {
    /// How often it was tried.
    pub tries: u64,
    /// How often that went well.
    pub delivered: u64,
    /// How often it did not.
    pub failures: u64,
    /// The same by reasons.
    pub failures_by: FailuresBy,
    /// How often it was left out for a while.
    pub ejections: u64,
}

/// Why tries failed, by the names of codes. Their sum is the number of failures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FailuresBy {
    /// It did not answer in time.
    pub timed_out: u64,
    /// It answered with an error of its own.
    pub error_reply: u64,
    /// It said that it could not.
    pub instance_failed: u64,
    /// It went without an answer.
    pub outcome_unknown: u64,
    /// The service had nobody any more.
    pub no_instance: u64,
    /// The queue had no room.
    pub queue_full: u64,
    /// The queue's disk took nothing.
    pub store_read_only: u64,
    /// It is larger than a destination is ever given.
    pub payload_too_large: u64,
    /// Anything else.
    pub other: u64,
}

impl FailuresBy {
    /// Where failures with this code are counted.
    pub(in crate::core) fn slot(&mut self, code: Code) -> &mut u64 {
        match code {
            Code::TimedOut => &mut self.timed_out,
            Code::ErrorReply => &mut self.error_reply,
            Code::InstanceFailed => &mut self.instance_failed,
            Code::OutcomeUnknown => &mut self.outcome_unknown,
            Code::NoInstance => &mut self.no_instance,
            Code::QueueFull => &mut self.queue_full,
            Code::StoreReadOnly => &mut self.store_read_only,
            Code::PayloadTooLarge => &mut self.payload_too_large,
            _ => &mut self.other,
        }
    }

    /// Each with the word for it.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 9] {
        [
            (Code::TimedOut.as_str(), self.timed_out),
            (Code::ErrorReply.as_str(), self.error_reply),
            (Code::InstanceFailed.as_str(), self.instance_failed),
            (Code::OutcomeUnknown.as_str(), self.outcome_unknown),
            (Code::NoInstance.as_str(), self.no_instance),
            (Code::QueueFull.as_str(), self.queue_full),
            (Code::StoreReadOnly.as_str(), self.store_read_only),
            (Code::PayloadTooLarge.as_str(), self.payload_too_large),
            ("other", self.other),
        ]
    }
}

/// One destination of a route.
#[derive(Debug, Clone, Serialize)]
pub struct DestinationStatus {
    /// As the configuration writes it.
    pub destination: String,
    /// `open`, `ejected`, or `trial`: back, with one message at a time.
    pub state: &'static str,
    /// Failures, one after the other.
    pub consecutive_failures: u64,
    /// What became of what it was given, since the configuration was read.
    #[serde(flatten)]
    pub counts: DestinationCounts,
}

/// What routes did not take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RoutingCounts {
    /// Messages refused because too much was under way.
    pub refused: u64,
    /// Messages on topics and queues of routes none of which takes their type.
    pub unmatched: u64,
    /// Messages stopped because they had been through too many routes.
    pub stopped: u64,
    /// Messages larger than `limits.delivery_ring_bytes_max`.
    pub too_large: u64,
    /// Copies of messages that were not published for a `tap`, since they do not fit into a frame.
    pub not_tapped: u64,
    /// Messages that were lost in rings before they could be read.
    pub lost_in_rings: u64,
    /// Messages and replies that a worker failed at.
    pub failed: u64,
}

/// What all routes share.
#[derive(Debug, Clone, Serialize)]
pub struct RoutingStatus {
    /// Messages that are being treated or delivered.
    pub messages: u64,
    /// At most so many.
    pub messages_max: u64,
    /// What they, and what was made of them, are counted for.
    pub bytes: u64,
    /// At most so much.
    pub bytes_max: u64,
    /// What workers have to do.
    pub jobs: u64,
    /// How many workers there are.
    pub workers: u64,
    /// What was not taken.
    #[serde(flatten)]
    pub counts: RoutingCounts,
}
