//! The store's file: where it may lie, that it is nobody else's, and that one process has it at a time. The lock is the
//! kernel's, on the file itself, so nothing is left over when its holder dies.

use super::OpenError;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file that is open and locked.
pub(super) struct Held {
    pub(super) file: File,
    /// Where it was made, if it was: it gets its name by [`give_name`] when it is a store.
    pub(super) made: Option<PathBuf>,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To be written by one, made if it is missing.
    Write,
    /// To be read by any number, none of which writes.
    Read,
    /// To be written by one, and not there yet.
    New,
}

pub(super) fn refused(what: &'static str, path: &Path, error: impl Into<std::io::Error>) -> OpenError {
    OpenError::Refused { what, path: path.to_owned(), error: error.into() }
}

/// Opens the file and locks it. One that is missing is made under another name.
pub(super) fn open(path: &Path, way: Way) -> Result<Held, OpenError> {
    if way == Way::Read {
        return Ok(Held { file: open_at(path, OFlags::RDONLY, way)?, made: None });
    }
    check_folder(folder_of(path))?;
    loop {
        match open_at(path, OFlags::RDWR, way) {
            Err(OpenError::Refused { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {}
            Ok(_) if way == Way::New => return Err(wrong(path, "is there already")),
            opened => return Ok(Held { file: with_bytes(opened?, path)?, made: None }),
        }
        let made = with_ending(path, ".new");
        let file = open_at(&made, OFlags::RDWR | OFlags::CREATE, way)?;
        // Whoever had it before may have given it the name meanwhile.
        if is(&file, &made) && rustix::fs::lstat(path).is_err() {
            file.set_len(0).map_err(|error| refused("empty", &made, error))?;
            return Ok(Held { file, made: Some(made) });
        }
    }
}

/// A file that was there and has bytes. One without any is not taken for a new store: no store ever is so, also while it is
/// made, and whoever put it there, or emptied it, may miss what it held.
fn with_bytes(file: File, path: &Path) -> Result<File, OpenError> {
    let length = file.metadata().map_err(|error| refused("look at", path, error))?.len();
    if length == 0 {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            error: "it has 0 bytes, and no store ever has".to_owned(),
        });
    }
    Ok(file)
}

fn open_at(path: &Path, flags: OFlags, way: Way) -> Result<File, OpenError> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return Err(wrong(path, "is a symbolic link")),
        Err(error) => return Err(refused("open", path, error)),
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| refused("look at", path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(wrong(path, "is not a file"));
    }
    let lock = match way {
        Way::Read => FlockOperation::NonBlockingLockShared,
        Way::Write | Way::New => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::fs::flock(&file, lock) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(OpenError::Taken { path: path.to_owned(), pid: holder(stat.st_dev, stat.st_ino) });
        }
        Err(error) => return Err(refused("lock", path, error)),
    }
    if way != Way::Read {
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(wrong(path, "belongs to another user"));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(wrong(path, "can be opened by other users (its mode must be 0600)"));
        }
    }
    Ok(file)
}

/// Gives a made file its name, now that it is a store: so no half of one is ever found under it. The name survives a power
/// cut as the content does.
pub(super) fn give_name(made: &Path, path: &Path) -> Result<(), OpenError> {
    use rustix::fs::{CWD, RenameFlags};
    rustix::fs::renameat_with(CWD, made, CWD, path, RenameFlags::NOREPLACE)
        .map_err(|error| refused("give its name to", path, error))?;
    let folder = File::open(folder_of(path)).and_then(|folder| folder.sync_all());
    folder.map_err(|error| refused("sync the directory of", path, error))
}

/// Whether this path still leads to this file.
fn is(file: &File, path: &Path) -> bool {
    match (rustix::fs::fstat(file), rustix::fs::lstat(path)) {
        (Ok(file), Ok(path)) => (file.st_dev, file.st_ino) == (path.st_dev, path.st_ino),
        _ => false,
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn wrong(path: &Path, wrong: &'static str) -> OpenError {
    OpenError::Place { path: path.to_owned(), wrong }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A folder in which nobody but this user and root can put another file in the place of this one.
fn check_folder(folder: &Path) -> Result<(), OpenError> {
    let stat = match rustix::fs::stat(folder) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Err(OpenError::NoFolder { path: folder.to_owned() }),
        Err(error) => return Err(refused("use the directory", folder, error)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(wrong(folder, "is not a directory"));
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&stat.st_uid) {
        return Err(wrong(folder, "belongs to another user"));
    }
    // In a sticky directory others cannot remove or replace what is not theirs.
    if stat.st_mode & 0o022 != 0 && stat.st_mode & 0o1000 == 0 {
        return Err(wrong(folder, "can be written to by other users"));
    }
    Ok(())
}

/// Who holds the lock, as far as the kernel tells.
fn holder(device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`
        let mut words = line.split_whitespace().skip_while(|word| *word != "FLOCK").skip(3);
        let pid = words.next()?.parse().ok()?;
        (words.next()? == place).then_some(pid)
    })
}
