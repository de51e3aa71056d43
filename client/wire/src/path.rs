//! Where the broker's socket is: one search order for the broker and its clients.
//!
//! This file only names places. It looks at no file and no environment: the caller passes in what it
//! found, tries the places in order, and checks what it finds there.

use std::path::{Path, PathBuf};

/// The environment variable that names the socket.
pub const SOCKET_VARIABLE: &str = "TRAMLINE_SOCKET";

/// The environment variable that names the user's directory for runtime files.
pub const RUNTIME_DIRECTORY_VARIABLE: &str = "XDG_RUNTIME_DIR";

/// Longest path of a Unix socket, in bytes: `sun_path` without its closing zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a path is a candidate, which says how far its directory may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Somebody named it. It is the only candidate then.
    Named,
    /// Below the user's own runtime directory.
    User,
    /// Below `/run`, made by the system for a broker that all users share.
    System,
    /// Below `/tmp`, where anybody may make a directory of that name first: it must be a real directory
    /// (no symbolic link), belong to the uid in its name, and have mode 0700.
    Temporary,
}

/// One place where the socket may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The socket's path.
    pub path: PathBuf,
    /// Why it is a candidate.
    pub place: Place,
}

/// The places to try, best first. Empty values count as absent.
///
/// `named` is the path from the command line or the program, `socket_variable` the value of
/// [`SOCKET_VARIABLE`], `runtime_directory` that of [`RUNTIME_DIRECTORY_VARIABLE`] (ignored unless
/// absolute), and `uid` the effective user id. A named path stands alone; without one a broker takes the
/// first place whose directory it can make or use, and a client the first at which a broker listens.
#[must_use]
pub fn candidates(
    named: Option<&Path>,
    socket_variable: Option<&Path>,
    runtime_directory: Option<&Path>,
    uid: u32,
) -> Vec<Candidate> {
    let present = |path: Option<&Path>| path.filter(|path| !path.as_os_str().is_empty()).map(PathBuf::from);
    if let Some(path) = present(named).or_else(|| present(socket_variable)) {
        return vec![Candidate { path, place: Place::Named }];
    }
    let user = PathBuf::from(format!("/run/user/{uid}/tramline/tramline.sock"));
    let mut found = Vec::with_capacity(4);
    if let Some(directory) = present(runtime_directory).filter(|directory| directory.is_absolute()) {
        found.push(Candidate { path: directory.join("tramline/tramline.sock"), place: Place::User });
    }
    if found.iter().all(|candidate| candidate.path != user) {
        found.push(Candidate { path: user, place: Place::User });
    }
    found.push(Candidate { path: PathBuf::from("/run/tramline/tramline.sock"), place: Place::System });
    let temporary = PathBuf::from(format!("/tmp/tramline-{uid}/tramline.sock"));
    found.push(Candidate { path: temporary, place: Place::Temporary });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(found: &[Candidate]) -> Vec<&str> {
        found.iter().map(|candidate| candidate.path.to_str().unwrap()).collect()
    }

    #[test]
    fn a_named_path_stands_alone_and_the_argument_goes_first() {
        let (argument, variable) = (Path::new("/a/b.sock"), Path::new("/c/d.sock"));
        let found = candidates(Some(argument), Some(variable), None, 7);
        assert_eq!(found, [Candidate { path: argument.into(), place: Place::Named }]);
        assert_eq!(paths(&candidates(None, Some(variable), None, 7)), ["/c/d.sock"]);
    }

    #[test]
    fn without_a_name_the_places_follow_in_order() {
        let rest = [
            "/run/user/7/tramline/tramline.sock",
            "/run/tramline/tramline.sock",
            "/tmp/tramline-7/tramline.sock",
        ];
        assert_eq!(paths(&candidates(None, Some(Path::new("")), None, 7)), rest);
        let found = candidates(None, None, Some(Path::new("/home/x/run")), 7);
        assert_eq!(paths(&found)[0], "/home/x/run/tramline/tramline.sock");
        assert_eq!(paths(&found)[1..], rest);
    }

    #[test]
    fn the_usual_runtime_directory_is_not_tried_twice_and_a_relative_one_not_at_all() {
        assert_eq!(candidates(None, None, Some(Path::new("/run/user/7")), 7).len(), 3);
        assert_eq!(candidates(None, None, Some(Path::new("run")), 7).len(), 3);
    }
}
