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
    check_below(wanted, Path::new("/"))
}

/// The same with another root of the file system than `/`.
fn check_below(wanted: u64, root: &Path) -> Result<(), RingError> {
    let machine = available_in_machine(&read(root.join("proc/meminfo")));
    refuse_beyond(wanted, machine)?;
    refuse_beyond(wanted, available_in_cgroup(root, &read(root.join("proc/self/cgroup"))))
}

/// Bytes that may still be used, and why no more.
#[derive(Debug, PartialEq, Eq)]
struct Room {
    bytes: u64,
    scope: Box<str>,
}

fn refuse_beyond(wanted: u64, room: Option<Room>) -> Result<(), RingError> {
    match room {
        Some(Room { bytes: available, scope }) if wanted.saturating_add(RESERVE_BYTES) > available => {
            Err(RingError::NoMemory { wanted, available, scope })
        }
        _ => Ok(()),
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn available_in_machine(meminfo: &str) -> Option<Room> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let bytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    Some(Room { bytes, scope: "MemAvailable of the machine".into() })
}

/// What the files of one version of cgroups are called.
struct Names {
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// In `memory.stat`: what the kernel gives back before it kills.
    reclaimable: &'static str,
}

const V1: Names = Names {
    root: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Names = Names {
    root: "sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: "inactive_file",
};

/// The smallest room of any cgroup this process is in, up to the root.
fn available_in_cgroup(root: &Path, membership: &str) -> Option<Room> {
    let rooms = membership.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.is_empty() {
            return room_up_to_root(root, &V2, path);
        }
        controllers.split(',').any(|name| name == "memory").then(|| room_up_to_root(root, &V1, path))?
    });
    rooms.min_by_key(|room| room.bytes)
}

fn room_up_to_root(root: &Path, names: &Names, path: &str) -> Option<Room> {
    let mut smallest: Option<Room> = None;
    let root = root.join(names.root);
    let mut group: PathBuf = root.join(path.trim_start_matches('/'));
    loop {
        let file = |name| read(group.join(name));
        if let Some(room) = room(names, &group, &file(names.limit), &file(names.usage), &file("memory.stat"))
            && smallest.as_ref().is_none_or(|least| room.bytes < least.bytes)
        {
            smallest = Some(room);
        }
        if group == root || !group.pop() || !group.starts_with(&root) {
            return smallest;
        }
    }
}

/// What a cgroup may still use: its limit less its use, clean file pages not counted as used.
fn room(names: &Names, group: &Path, limit: &str, usage: &str, stat: &str) -> Option<Room> {
    let limit: u64 = limit.trim().parse().ok()?;
    let usage: u64 = usage.trim().parse().ok()?;
    let reclaimable = |line: &str| line.strip_prefix(names.reclaimable)?.trim().parse::<u64>().ok();
    let cache = stat.lines().find_map(reclaimable).unwrap_or(0);
    let bytes = limit.saturating_sub(usage.saturating_sub(cache));
    let scope = format!(
        "cgroup {}: {} is {limit}, {} {usage}, of which {cache} can be given back; raise the limit or ask for less",
        group.display(),
        names.limit,
        names.usage
    );
    Some(Room { bytes, scope: scope.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(room: Option<Room>) -> Option<u64> {
        room.map(|room| room.bytes)
    }

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        let meminfo = "MemTotal:       24636484 kB\nMemAvailable:   24000000 kB\n";
        assert_eq!(bytes(available_in_machine(meminfo)), Some(24_000_000 * 1024));
        assert_eq!(available_in_machine(""), None);
        let stat = "anon 5\ninactive_file 300\ntotal_inactive_file 400\n";
        assert_eq!(bytes(room(&V2, Path::new("/g"), "1000\n", "900\n", stat)), Some(400));
        assert_eq!(bytes(room(&V1, Path::new("/g"), "1000\n", "900\n", stat)), Some(500));
        assert_eq!(room(&V2, Path::new("/g"), "max\n", "900\n", ""), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_figures() {
        let error =
            refuse_beyond(100 << 20, Some(Room { bytes: 50 << 20, scope: "test".into() })).unwrap_err();
        assert!(
            error.to_string().contains("104857600 bytes of shared memory do not fit: 52428800"),
            "{error}"
        );
        assert!(refuse_beyond(100 << 20, None).is_ok());
        assert!(check(u64::MAX / 2).is_err());
    }

    /// A file system with one process in a group of each version, limited at different heights.
    #[test]
    fn the_tightest_cgroup_above_the_process_counts_and_is_named_with_its_figures() {
        let root = std::env::temp_dir().join(format!("tramline-headroom-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("proc/meminfo", "MemAvailable:   24000000 kB\n");
        put("proc/self/cgroup", "4:memory:/old/inner\n0::/box/app\n");
        // Version 2: limited above the process's own group.
        put("sys/fs/cgroup/box/memory.max", "83886080\n");
        put("sys/fs/cgroup/box/memory.current", "20971520\n");
        put("sys/fs/cgroup/box/memory.stat", "anon 1\ninactive_file 1048576\n");
        put("sys/fs/cgroup/box/app/memory.max", "max\n");
        put("sys/fs/cgroup/box/app/memory.current", "4096\n");
        let error = check_below(48 << 20, &root).unwrap_err().to_string();
        for part in [
            "50331648 bytes",
            "63963136 bytes",
            "/box: memory.max is 83886080, memory.current 20971520",
            "1048576",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        assert!(check_below(44 << 20, &root).is_ok());
        // Version 1, which is tighter.
        put("sys/fs/cgroup/memory/old/inner/memory.limit_in_bytes", "33554432\n");
        put("sys/fs/cgroup/memory/old/inner/memory.usage_in_bytes", "4096\n");
        let error = check_below(44 << 20, &root).unwrap_err().to_string();
        assert!(
            error.contains("/old/inner: memory.limit_in_bytes is 33554432, memory.usage_in_bytes 4096"),
            "{error}"
        );
        std::fs::remove_dir_all(&root).unwrap();
    }
}
