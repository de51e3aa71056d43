//! Whether the machine and the cgroup have room for a ring, asked before its memory is filled: past a cgroup's
//! limit `fallocate` does not fail, the kernel kills.
//!
//! Only reads files of /proc and /sys. A figure that cannot be read limits nothing.

use crate::error::RingError;
use std::path::{Path, PathBuf};

/// Smaller rings are not worth the look: opening thousands of them would read thousands of files.
const CHECKED_FROM_BYTES: u64 = 1024 * 1024;

/// Left free in the machine and the cgroup, in bytes.
const RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// Refuses `wanted` bytes if they do not fit.
pub(crate) fn check(wanted: u64) -> Result<(), RingError> {
    if wanted < CHECKED_FROM_BYTES {
        return Ok(());
    }
    let machine = available_in_machine(&read("/proc/meminfo"));
    refuse_beyond(wanted, machine, "MemAvailable of the machine")?;
    let group = available_in_cgroup(&read("/proc/self/cgroup"));
    refuse_beyond(wanted, group, "memory limit of the cgroup less its use")
}

fn refuse_beyond(wanted: u64, available: Option<u64>, scope: &'static str) -> Result<(), RingError> {
    match available {
        Some(available) if wanted.saturating_add(RESERVE_BYTES) > available => {
            Err(RingError::NoMemory { wanted, available, scope })
        }
        _ => Ok(()),
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn available_in_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest room of any cgroup this process is in, up to the root.
fn available_in_cgroup(membership: &str) -> Option<u64> {
    membership
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            if controllers.is_empty() {
                return room_up_to_root(
                    Path::new("/sys/fs/cgroup"),
                    path,
                    "memory.max",
                    "memory.current",
                    "inactive_file",
                );
            }
            controllers.split(',').any(|name| name == "memory").then(|| {
                let root = Path::new("/sys/fs/cgroup/memory");
                room_up_to_root(
                    root,
                    path,
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                    "total_inactive_file",
                )
            })?
        })
        .min()
}

fn room_up_to_root(root: &Path, path: &str, limit: &str, usage: &str, reclaimable: &str) -> Option<u64> {
    let mut smallest = None;
    let mut group: PathBuf = root.join(path.trim_start_matches('/'));
    loop {
        if let Some(room) = room(
            &read(group.join(limit)),
            &read(group.join(usage)),
            &read(group.join("memory.stat")),
            reclaimable,
        ) {
            smallest = Some(smallest.map_or(room, |least: u64| least.min(room)));
        }
        if group == root || !group.pop() || !group.starts_with(root) {
            return smallest;
        }
    }
}

/// What a cgroup may still use: its limit less its use, clean file pages not counted as used.
fn room(limit: &str, usage: &str, stat: &str, reclaimable: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?;
    let usage: u64 = usage.trim().parse().ok()?;
    let cache =
        stat.lines().find_map(|line| line.strip_prefix(reclaimable)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        let meminfo = "MemTotal:       24636484 kB\nMemAvailable:   24000000 kB\n";
        assert_eq!(available_in_machine(meminfo), Some(24_000_000 * 1024));
        assert_eq!(room("1000\n", "900\n", "anon 5\ninactive_file 300\n", "inactive_file"), Some(400));
        assert_eq!(room("max\n", "900\n", "", "inactive_file"), None);
        assert_eq!(available_in_machine(""), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_figures() {
        let error = refuse_beyond(100 << 20, Some(50 << 20), "test").unwrap_err();
        assert!(error.to_string().contains("104857600 bytes does not fit: 52428800"), "{error}");
        assert!(refuse_beyond(100 << 20, None, "test").is_ok());
        assert!(check(u64::MAX / 2).is_err());
    }
}
