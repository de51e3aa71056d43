//! How many descriptors the broker may open. The soft limit that processes start with (1,024) protects
//! programs that use `select`; the broker does not, so it takes what the hard limit allows.

use rustix::process::{Resource, getrlimit, setrlimit};

/// More than this is not asked for, because some systems have no hard limit worth the name.
const OPEN_FILES_MAX: u64 = 1 << 20;

/// Raises the soft limit.
pub(super) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
    let Some(current) = limit.current.filter(|&current| current < wanted) else { return };
    limit.current = Some(wanted);
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit on open files stays at {current}: {error}");
    }
}
