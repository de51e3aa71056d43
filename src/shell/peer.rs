//! Who is at the other end of a connection, as the kernel vouches.
//!
//! Process, user and group come from `SO_PEERCRED`, fixed when the peer connected. The supplementary
//! groups (`SO_PEERGROUPS`) cannot be asked for without unsafe code, so they are read from the process's
//! status file, under a pidfd that shows that the process is still the one that connected, and only if it still
//! has the same user id. What cannot be shown counts as no groups.

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;

use crate::core::Peer;

/// The peer's process id, if it has one that this process can name.
pub(super) fn pid(socket: &impl AsFd) -> Option<u32> {
    let credentials = getsockopt(socket, sockopt::PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok().filter(|&pid| pid != 0)
}

/// Process, user and groups of whoever connected. With `groups`, the supplementary ones too, which costs
/// a file read.
///
/// # Errors
/// When the socket has no peer.
pub(super) fn peer(socket: &impl AsFd, groups: bool) -> Result<Peer, std::io::Error> {
    let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
    let (uid, gid) = (credentials.uid(), credentials.gid());
    let groups =
        if groups { supplementary(socket, credentials.pid(), uid).unwrap_or_default() } else { Vec::new() };
    Ok(Peer { pid: u32::try_from(credentials.pid()).unwrap_or(0), uid, gid, groups })
}

fn supplementary(socket: &impl AsFd, pid: i32, uid: u32) -> Option<Vec<u32>> {
    let process = getsockopt(socket, sockopt::PeerPidfd).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // A pidfd becomes readable when its process ends. As long as it is not, the number was not used again.
    let mut poll_process = [PollFd::new(&process, PollFlags::IN)];
    let ended = poll(&mut poll_process, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok()?;
    if ended != 0 {
        return None;
    }
    groups_in(&status, uid)
}

/// The groups in a process's status file, if the process runs as `uid` in every respect.
fn groups_in(status: &str, uid: u32) -> Option<Vec<u32>> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let same = field("Uid:")?.split_whitespace().all(|number| number.parse() == Ok(uid));
    let groups = field("Groups:")?.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>();
    if same { groups.ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_pair_is_between_this_process_and_itself() {
        let (one, _other) = UnixStream::pair().unwrap();
        let found = peer(&one, true).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        let mut groups: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        groups.sort_unstable();
        let mut known = found.groups.clone();
        known.sort_unstable();
        assert_eq!(known, groups);
    }

    #[test]
    fn a_process_that_changed_its_user_has_no_groups() {
        let status = "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t7 20 \n";
        assert_eq!(groups_in(status, 7), Some(vec![7, 20]));
        assert_eq!(groups_in(status, 8), None);
        assert_eq!(groups_in(&status.replace("7\t7\n", "0\t7\n"), 7), None);
        assert_eq!(groups_in("Uid:\t7\t7\t7\t7\nGroups:\t\n", 7), Some(vec![]));
    }
}
