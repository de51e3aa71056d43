//! How many descriptors the broker may open. The soft limit that processes start with (1,024) protects
//! programs that use `select`; the broker does not, so it takes what the hard limit allows, and says so where that
//! is less than its configuration may need.

use rustix::process::{Resource, getrlimit, setrlimit};

/// More than this is not asked for, because some systems have no hard limit worth the name.
const OPEN_FILES_MAX: u64 = 1 << 20;

/// What the broker keeps for itself, its threads and the descriptors on their way.
const OWN_FILES: u64 = 64;

/// Raises the soft limit, and compares it with the connections that are to be served.
pub(super) fn raise_limit(connections_max: u32) {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
    let mut open_files = limit.current.unwrap_or(OPEN_FILES_MAX);
    if open_files < wanted {
        limit.current = Some(wanted);
        match setrlimit(Resource::Nofile, limit) {
            Ok(()) => open_files = wanted,
            Err(error) => tracing::warn!("the limit on open files stays at {open_files}: {error}"),
        }
    }
    // The socket, and the process at its other end.
    let needed = 2 * u64::from(connections_max) + OWN_FILES;
    if open_files < needed {
        tracing::warn!(
            "this process may open {open_files} files, but limits.connections_max ({connections_max}) connections need \
             {needed}, and each ring one more: raise the hard limit (LimitNOFILE= of the unit, `ulimit -Hn`), or lower \
             limits.connections_max"
        );
    }
}
