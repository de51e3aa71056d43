//! Who is at the other end of a connection, as the kernel vouches.
//!
//! Process, user and group come from `SO_PEERCRED`, fixed when the peer connected. The supplementary
//! groups (`SO_PEERGROUPS`) cannot be asked for without unsafe code, so they are read from the process's
//! status file, under a pidfd that shows that the process is still the one that connected, and only if it still
//! has the same user id. What cannot be shown counts as no groups.

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};

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

/// What is known of the process at the other end.
#[derive(Debug)]
pub(super) enum Process {
    /// It runs; the descriptor becomes readable when it has ended, whoever else holds its socket.
    Runs(OwnedFd),
    /// It has ended already.
    Ended,
    /// It cannot be watched: it is of a namespace that this one does not see, or there is no free descriptor.
    Unknown,
}

/// The process that connected, to be watched.
///
/// Kernels before 6.5 cannot name it by the socket; there it is asked for by its number. Should that number have been
/// given to another process by now, then the one that connected has ended: the session ends with the other, which may
/// be late but is never too early.
pub(super) fn process(socket: &impl AsFd) -> Process {
    match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(process) => Process::Runs(process),
        Err(Errno::ESRCH | Errno::EINVAL) => Process::Ended,
        Err(Errno::ENOPROTOOPT) => by_number(socket),
        Err(_) => Process::Unknown,
    }
}

fn by_number(socket: &impl AsFd) -> Process {
    let number = pid(socket).and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    match number.map(|number| pidfd_open(number, PidfdFlags::empty())) {
        Some(Ok(process)) => Process::Runs(process),
        Some(Err(rustix::io::Errno::SRCH)) => Process::Ended,
        _ => Process::Unknown,
    }
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
    fn a_running_process_is_told_from_one_that_has_ended() {
        let ended = |process: &Process| match process {
            Process::Runs(fd) => {
                let mut fd = [PollFd::new(fd, PollFlags::IN)];
                poll(&mut fd, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
            }
            Process::Ended => true,
            Process::Unknown => panic!("this kernel watches processes"),
        };
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(!ended(&process(&one)) && !ended(&by_number(&one)));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])";
        let mut child =
            std::process::Command::new("python3").args(["-c", script]).arg(&path).spawn().unwrap();
        let (socket, _) = listener.accept().unwrap();
        child.wait().unwrap();
        assert!(ended(&process(&socket)) && ended(&by_number(&socket)));
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
