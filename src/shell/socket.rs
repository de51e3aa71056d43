//! The broker's place in the file system: choosing the path, making the directory, the lock and the
//! socket, and removing them again.
//!
//! Two brokers on one path are told apart by a lock file beside the socket, which its broker keeps
//! locked as long as it lives, so the kernel says who is alive: what a dead broker left is replaced, a
//! living one is not disturbed. The socket file never exists with a wider mode than configured, whatever the
//! umask. This file knows nothing of what is spoken on the socket.

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tramline_wire::path::{Candidate, Place, SOCKET_PATH_BYTES_MAX};

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`. As many as may be open by default, and
/// not more: whoever comes behind all of them waits until they have been taken in, see `accept`.
pub(super) const BACKLOG: i32 = 1024;

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit into a socket address.
    #[error(
        "the socket path {} has {} bytes; Linux takes at most {SOCKET_PATH_BYTES_MAX}: choose a shorter one with --socket, TRAMLINE_SOCKET or socket.path",
        path.display(), path.as_os_str().len()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Another broker has the path.
    #[error("a broker already listens on {} ({}): stop it, or choose another path with --socket", path.display(), who(*pid))]
    Taken {
        /// The path.
        path: PathBuf,
        /// The other broker's process, as far as it is known.
        pid: Option<u32>,
    },
    /// Something that is not a socket has the path.
    #[error("{} exists and is not a socket: remove it, or choose another path with --socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The directory cannot be trusted.
    #[error("the directory {} {wrong}: correct that, or choose another path with --socket", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, as the end of a sentence.
        wrong: &'static str,
    },
    /// Not only the socket's folder is missing but also the one above: more likely a slip than a wish.
    #[error(
        "the directory {} is missing, and so is {}: only the first is made, so make the others with: mkdir -p {}",
        path.display(), above.display(), above.display()
    )]
    NoDirectory {
        /// The socket's folder.
        path: PathBuf,
        /// The folder above.
        above: PathBuf,
    },
    /// The system refused something.
    #[error("cannot {what} {}: {error}", path.display())]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
}

fn who(pid: Option<u32>) -> String {
    pid.map_or_else(|| "its process is not known".to_owned(), |pid| format!("process {pid}"))
}

fn refused(what: &'static str, path: &Path, error: impl Into<std::io::Error>) -> SocketError {
    SocketError::Refused { what, path: path.to_owned(), error: error.into() }
}

/// Who may open the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The socket's mode, such as `0o600`.
    pub mode: u32,
    /// Its group, if it is not the broker's own.
    pub group: Option<u32>,
}

/// A listening socket that this process made, with its lock. Dropping it removes both files.
#[derive(Debug)]
pub struct BoundSocket {
    path: PathBuf,
    identity: Identity,
    lock: Lock,
}

/// Which file a path led to, so that only that one is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl BoundSocket {
    /// Takes the first candidate whose directory can be used, and listens there.
    ///
    /// # Errors
    /// When a broker already listens on it, or nothing can be made there.
    pub fn bind(candidates: &[Candidate], access: Access) -> Result<(Self, UnixListener), SocketError> {
        let uid = rustix::process::geteuid().as_raw();
        let mut last = None;
        for candidate in candidates {
            if candidate.path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                return Err(SocketError::TooLong { path: candidate.path.clone() });
            }
            match prepare_directory(candidate, uid) {
                Ok(()) => return Self::bind_at(&candidate.path, access),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| refused("find a place for the socket", Path::new(""), Errno::NOENT)))
    }

    fn bind_at(path: &Path, access: Access) -> Result<(Self, UnixListener), SocketError> {
        let lock = Lock::take(path)?;
        remove_stale(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|error| refused("make the socket", path, error))?;
        // The kernel takes the file's mode from the socket's, less the umask: nobody else gets in before
        // group and mode are as configured.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))
            .map_err(|error| refused("set the mode of", path, error))?;
        let address = SocketAddrUnix::new(path).map_err(|error| refused("listen on", path, error))?;
        rustix::net::bind(&socket, &address).map_err(|error| refused("listen on", path, error))?;
        let identity = identity(path).map_err(|error| refused("look at", path, error))?;
        let bound = Self { path: path.to_owned(), identity, lock };
        if let Some(group) = access.group {
            rustix::fs::chownat(CWD, path, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| refused("give to its group", path, error))?;
        }
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(access.mode), AtFlags::empty())
            .map_err(|error| refused("set the mode of", path, error))?;
        rustix::net::listen(&socket, BACKLOG).map_err(|error| refused("listen on", path, error))?;
        Ok((bound, UnixListener::from(socket)))
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Failure leaves a stale socket, which the next broker replaces.
            let _ = rustix::fs::unlink(&self.path);
        }
        self.lock.remove();
    }
}

fn identity(path: &Path) -> Result<Identity, Errno> {
    let stat = rustix::fs::lstat(path)?;
    Ok(Identity { device: stat.st_dev, inode: stat.st_ino })
}

/// The lock beside a socket: `<socket>.lock`, holding its broker's process id.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn take(socket: &Path) -> Result<Self, SocketError> {
        let mut name = socket.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
                .map_err(|error| refused("open the lock", &path, error))?;
            let mut file = File::from(file);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let mut text = String::new();
                    let _ = file.read_to_string(&mut text);
                    return Err(SocketError::Taken {
                        path: socket.to_owned(),
                        pid: text.trim().parse().ok(),
                    });
                }
                Err(error) => return Err(refused("lock", &path, error)),
            }
            // Its last holder may have removed the file between our open and our lock.
            let stat = rustix::fs::fstat(&file).map_err(|error| refused("look at", &path, error))?;
            let ours = Identity { device: stat.st_dev, inode: stat.st_ino };
            if identity(&path) != Ok(ours) {
                continue;
            }
            file.set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()))
                .map_err(|error| refused("write", &path, error))?;
            return Ok(Self { path, file });
        }
    }

    /// Removes the file while it is still locked, so that nobody's newer lock is removed.
    fn remove(&self) {
        let ours = rustix::fs::fstat(&self.file);
        if let (Ok(ours), Ok(found)) = (ours, identity(&self.path))
            && found == (Identity { device: ours.st_dev, inode: ours.st_ino })
        {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// Removes a socket that nobody listens on. The lock is held, so no broker of this kind lives there; but a
/// socket that somebody else listens on, such as systemd, is left alone.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(refused("look at", path, error)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    if let Some(pid) = listener(path)? {
        return Err(SocketError::Taken { path: path.to_owned(), pid });
    }
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(refused("remove the stale socket", path, error)),
    }
}

/// Whether somebody listens there, and who, as far as the kernel tells. Does not wait: a full backlog
/// counts as somebody.
fn listener(path: &Path) -> Result<Option<Option<u32>>, SocketError> {
    let probe: OwnedFd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|error| refused("make the socket", path, error))?;
    let address = SocketAddrUnix::new(path).map_err(|error| refused("look at", path, error))?;
    match rustix::net::connect(&probe, &address) {
        Ok(()) => Ok(Some(super::peer::pid(&probe))),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(None),
        Err(Errno::AGAIN | Errno::PROTOTYPE) => Ok(Some(None)),
        Err(error) => Err(refused("look who listens on", path, error)),
    }
}

/// Makes sure that the socket's directory exists and is as safe as its place calls for.
fn prepare_directory(candidate: &Candidate, uid: u32) -> Result<(), SocketError> {
    let directory = match candidate.path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match candidate.place {
        Place::Named => make_directory(directory, 0o700),
        Place::User => {
            // The directory above belongs to the login session: it is used, never made.
            let above = directory.parent().unwrap_or(Path::new("/"));
            check_owned(above, uid, false)?;
            make_directory(directory, 0o700)?;
            check_owned(directory, uid, false)
        }
        Place::System => {
            if uid == 0 {
                make_directory(directory, 0o755)?;
            }
            check_owned(directory, uid, false)
        }
        Place::Temporary => {
            make_directory(directory, 0o700)?;
            check_owned(directory, uid, true)
        }
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), SocketError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) => {
            // Less the umask so far, which may have cut off what the owner or the others need.
            rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(|error| refused("set the mode of", path, error))
        }
        Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) => {
            let above = path.parent().unwrap_or(Path::new("/")).to_owned();
            Err(SocketError::NoDirectory { path: path.to_owned(), above })
        }
        Err(error) => Err(refused("make the directory", path, error)),
    }
}

/// A directory in which nobody but its owner can replace a file, and whose owner is this user.
fn check_owned(path: &Path, uid: u32, private: bool) -> Result<(), SocketError> {
    let wrong = |wrong| SocketError::Directory { path: path.to_owned(), wrong };
    let stat = rustix::fs::lstat(path).map_err(|error| refused("use the directory", path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(wrong("is no directory of its own (a file or a symbolic link)"));
    }
    if stat.st_uid != uid {
        return Err(wrong("belongs to another user"));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(wrong("can be written to by other users"));
    }
    if private && stat.st_mode & 0o077 != 0 {
        return Err(wrong("is open to other users (its mode must be 0700)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const PRIVATE: Access = Access { mode: 0o600, group: None };

    fn named(path: PathBuf) -> [Candidate; 1] {
        [Candidate { path, place: Place::Named }]
    }

    #[test]
    fn the_socket_has_the_configured_mode_and_goes_with_its_lock() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("made/t.sock");
        let access = Access { mode: 0o666, group: None };
        let (bound, _listener) = BoundSocket::bind(&named(path.clone()), access).unwrap();
        assert_eq!(path.symlink_metadata().unwrap().mode() & 0o7777, 0o666);
        assert_eq!(home.path().join("made").metadata().unwrap().mode() & 0o7777, 0o700);
        drop(bound);
        assert!(!path.exists());
        assert!(!home.path().join("made/t.sock.lock").exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("t.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (_bound, _listener) = BoundSocket::bind(&named(path.clone()), PRIVATE).unwrap();
        let refused = BoundSocket::bind(&named(path.clone()), PRIVATE).unwrap_err();
        assert!(matches!(refused, SocketError::Taken { pid: Some(pid), .. } if pid == std::process::id()));

        let other = home.path().join("other.sock");
        let _foreign = UnixListener::bind(&other).unwrap();
        let refused = BoundSocket::bind(&named(other), PRIVATE).unwrap_err();
        assert!(matches!(refused, SocketError::Taken { pid: Some(pid), .. } if pid == std::process::id()));
    }

    #[test]
    fn somebody_elses_socket_is_not_removed_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("t.sock");
        let (bound, _listener) = BoundSocket::bind(&named(path.clone()), PRIVATE).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn a_file_in_the_way_and_a_path_too_long_are_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("t.sock");
        std::fs::write(&path, "mine").unwrap();
        let refused = BoundSocket::bind(&named(path.clone()), PRIVATE).unwrap_err();
        assert!(matches!(refused, SocketError::NotASocket { .. }));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        let long = home.path().join("x".repeat(120));
        let refused = BoundSocket::bind(&named(long.clone()), PRIVATE).unwrap_err().to_string();
        assert!(refused.contains(&format!("has {} bytes", long.as_os_str().len())), "{refused}");
        assert!(refused.contains(long.to_str().unwrap()));
    }

    #[test]
    fn a_directory_that_others_prepared_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let real = home.path().join("real");
        std::fs::create_dir(&real).unwrap();
        symlink(&real, home.path().join("link")).unwrap();
        let candidate =
            |name: &str| Candidate { path: home.path().join(name).join("t.sock"), place: Place::Temporary };
        assert!(prepare_directory(&candidate("link"), uid).is_err());
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(prepare_directory(&candidate("real"), uid).is_err());
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(prepare_directory(&candidate("real"), uid).is_ok());
        assert!(prepare_directory(&candidate("real"), uid + 1).is_err());
        assert!(prepare_directory(&candidate("new"), uid).is_ok());
    }
}
