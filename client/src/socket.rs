//! The Unix socket: bytes and file descriptors, non-blocking, nothing else.
//!
//! Every descriptor that arrives is owned at once and closed on exec. Where a process has no room for all that came
//! with a frame, the kernel throws the rest away; that is noted in their place, and the frame can be refused.

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Descriptors that one read can take: more than any frame declares.
const READ_FDS_MAX: usize = 32;

#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

/// What came in the place of a descriptor.
#[derive(Debug)]
pub(crate) enum Passed {
    Fd(OwnedFd),
    /// This process had no room for this one and those that came with the same frame behind it.
    Lost,
}

/// What a non-blocking call achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// This many bytes.
    Bytes(usize),
    /// Nothing now: the kernel's buffer is full, or empty.
    WouldBlock,
    /// Nothing now: too many descriptors of this user are on their way. They arrive, and then there is room, of which
    /// the socket does not tell.
    Crowded,
    /// The other side has closed.
    End,
}

impl Socket {
    /// Connects, without waiting: `WouldBlock` when as many as may wait to be accepted do so already.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let fd = Self::unconnected(path, SocketFlags::NONBLOCK)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self { fd })
    }

    /// Connects, and waits at most so long for a place among those that wait to be accepted.
    pub(crate) fn connect_within(path: &Path, patience: Duration) -> io::Result<Self> {
        let fd = Self::unconnected(path, SocketFlags::empty())?;
        // On a Unix socket this bounds the connecting as well. Zero would be for ever.
        let patience = patience.clamp(Duration::from_millis(1), Duration::from_secs(3600));
        set_socket_timeout(&fd, Timeout::Send, Some(patience))?;
        let address = SocketAddrUnix::new(path)?;
        while let Err(error) = rustix::net::connect(&fd, &address) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd })
    }

    fn unconnected(path: &Path, flags: SocketFlags) -> io::Result<OwnedFd> {
        let (bytes, max) = (path.as_os_str().len(), tramline_wire::path::SOCKET_PATH_BYTES_MAX);
        if bytes > max {
            let sentence = format!("the path has {bytes} bytes, and Linux takes at most {max}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        let flags = flags | SocketFlags::CLOEXEC;
        Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
    }

    /// Takes over a socket that is connected already.
    #[cfg(test)]
    pub(crate) fn from_connected(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd })
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<Moved> {
        moved(rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))
    }

    /// Sends with descriptors, which travel with the first byte.
    pub(crate) fn send_with(&self, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<Moved> {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(READ_FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(&borrowed));
        assert!(fits, "no frame carries more than {READ_FDS_MAX} descriptors");
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        moved(rustix::net::sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, flags))
    }

    /// Reads what is there; descriptors are appended to `fds`.
    pub(crate) fn recv(&self, buffer: &mut [u8], fds: &mut VecDeque<Passed>) -> io::Result<Moved> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(READ_FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let result = rustix::net::recvmsg(&self.fd, &mut [IoSliceMut::new(buffer)], &mut control, flags);
        let cut_short = matches!(&result, Ok(message) if message.flags.contains(ReturnFlags::CTRUNC));
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received.map(Passed::Fd));
            }
        }
        if cut_short {
            fds.push_back(Passed::Lost);
        }
        moved(result.map(|message| message.bytes)).map(|result| match result {
            Moved::Bytes(0) => Moved::End,
            other => other,
        })
    }
}

fn moved(result: Result<usize, Errno>) -> io::Result<Moved> {
    match result {
        Ok(bytes) => Ok(Moved::Bytes(bytes)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::WouldBlock),
        Err(Errno::TOOMANYREFS) => Ok(Moved::Crowded),
        Err(Errno::PIPE | Errno::CONNRESET) => Ok(Moved::End),
        Err(error) => Err(error.into()),
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
