//! Why something was refused or closed, as stable numbers.
//!
//! A code's number and name never change once released; new ones are appended. The sentence that
//! comes with a code says what happened, to whom, which limit or rule, and how to change it.

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// A stable reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])+ $name = $number,)+ }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code with this number, if it is known.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// The code's name as JSON clients and logs see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

codes! {
    /// A frame, line or request could not be understood.
    Malformed = 1, "malformed";
    /// A frame is longer than the broker takes.
    FrameTooLarge = 2, "frame_too_large";
    /// A frame kind or operation that this broker does not know, or not from this side.
    Unsupported = 3, "unsupported";
    /// No protocol version in common.
    Version = 4, "version";
    /// A frame out of order: before `Hello`, or a second `Hello`.
    OutOfOrder = 5, "out_of_order";
    /// A topic or filter that breaks the rules of names.
    BadTopic = 6, "bad_topic";
    /// The payload is not what its encoding says.
    BadPayload = 7, "bad_payload";
    /// An id (alias, subscription, stream, attachment) that is not defined, or is defined already.
    BadId = 8, "bad_id";
    /// The file descriptors with a frame are missing, too many, or not what they must be.
    BadDescriptor = 9, "bad_descriptor";
    /// This user may not do that.
    Denied = 10, "denied";
    /// Topics that start with `$` belong to the broker.
    ReservedTopic = 11, "reserved_topic";
    /// A limit of the broker or of this session is reached.
    LimitReached = 12, "limit_reached";
    /// The broker has no free file descriptors or memory for this.
    NoResources = 13, "no_resources";
    /// The subscriber did not read, and its policy is to be disconnected.
    SlowSubscriber = 14, "slow_subscriber";
    /// Nothing was received in time (first byte, handshake, attachment).
    TimedOut = 15, "timed_out";
    /// The broker is stopping.
    ShuttingDown = 16, "shutting_down";
    /// A claim in shared memory was false: an impossible offset, length, position or state.
    FalseClaim = 17, "false_claim";
    /// The other side of an attachment has gone.
    PeerGone = 18, "peer_gone";
    /// The publisher does not let this subscriber hold it up; it may attach lossily.
    GateRefused = 19, "gate_refused";
    /// The payload is too large for this path; a ring takes it.
    PayloadTooLarge = 20, "payload_too_large";
    /// The same client already has a stream on that topic.
    StreamExists = 21, "stream_exists";
    /// The broker failed at something that is its own affair; its log says more.
    Internal = 22, "internal";
    /// The process at the other side of an attachment has ended, so that nothing it had mapped is looked at any more.
    ProcessEnded = 23, "process_ended";
    /// The reader held more of a ring in place than it may while its publisher had no room.
    HeldTooMuch = 24, "held_too_much";
    /// There is no queue of this name.
    UnknownQueue = 25, "unknown_queue";
    /// The queue holds as much as it may.
    QueueFull = 26, "queue_full";
    /// A queue of this name is there already, with other settings.
    QueueExists = 27, "queue_exists";
    /// The job was settled before.
    SettledTwice = 28, "settled_twice";
    /// The time to settle the job is over: it was taken back, and is given to another.
    TooLate = 29, "too_late";
    /// This consumer was never given a job with this tag.
    NotYours = 30, "not_yours";
    /// Nobody provides this service now.
    NoInstance = 31, "no_instance";
    /// The instance that had the request has gone without an answer: it may have carried it out or not.
    OutcomeUnknown = 32, "outcome_unknown";
    /// The instance says that it could not carry the request out.
    InstanceFailed = 33, "instance_failed";
    /// The service answered with an error of its own, which has its own number and words.
    ErrorReply = 34, "error_reply";
    /// Nothing can be written to the store, so that queues on disk take nothing.
    StoreReadOnly = 35, "store_read_only";
}

impl Code {
    /// The stable number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether the same request may succeed later without anybody changing it.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::LimitReached
                | Self::NoResources
                | Self::TimedOut
                | Self::ShuttingDown
                | Self::PeerGone
                | Self::QueueFull
                | Self::NoInstance
                | Self::InstanceFailed
        )
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_distinct_and_lead_back() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::from_number(code.number()), Some(*code));
            assert_eq!(usize::from(code.number()), index + 1);
            let same = Code::ALL.iter().filter(|other| other.as_str() == code.as_str()).count();
            assert_eq!(same, 1, "{code:?}");
        }
        assert_eq!(Code::from_number(0), None);
    }
}
