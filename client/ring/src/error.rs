//! What can go wrong with shared memory, and whose fault it is.

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The kernel refused an operation.
    #[error("{what}: {error}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        error: std::io::Error,
    },
    /// The kernel lacks a feature that rings need.
    #[error("this kernel, or the sandbox around this process, lacks {0}; rings need Linux 5.5 or later")]
    Missing(&'static str),
    /// A peer's memory or descriptor is not what it must be. The fault is the peer's: end the attachment.
    #[error("{what} is {value}, which cannot be: {rule}")]
    Claim {
        /// What was looked at.
        what: &'static str,
        /// What it said.
        value: u64,
        /// What it would have to be.
        rule: &'static str,
    },
    /// An argument of this process is outside its limit.
    #[error("{what} is {value}; at most {max} is allowed")]
    Limit {
        /// What was asked for.
        what: &'static str,
        /// How much.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// Not enough memory in the machine or the cgroup; refused here because the kernel would kill instead.
    #[error("{wanted} bytes of shared memory do not fit: {available} bytes are available ({scope})")]
    NoMemory {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that may still be used.
        available: u64,
        /// Whose limit it is, how high, and how much of it is used.
        scope: Box<str>,
    },
}

impl RingError {
    /// Whether a peer said something false (rather than this machine or this process being at its limit).
    #[must_use]
    pub const fn is_claim(&self) -> bool {
        matches!(self, Self::Claim { .. })
    }
}

/// Turns a kernel error into [`RingError::Os`].
pub(crate) fn os(what: &'static str) -> impl Fn(rustix::io::Errno) -> RingError {
    move |errno| RingError::Os { what, error: errno.into() }
}

/// Refuses a peer's value unless `fits`.
pub(crate) fn claim(fits: bool, what: &'static str, value: u64, rule: &'static str) -> Result<(), RingError> {
    if fits { Ok(()) } else { Err(RingError::Claim { what, value, rule }) }
}
