//! A broker of one user, and programs that others may start: for what holds between users. Needs root.

use super::{Actor, Broker, is_root};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A broker that serves several users, and copies of the programs where every user may start them.
pub(crate) struct Users {
    pub(crate) broker: Broker,
    program: PathBuf,
    part: PathBuf,
}

impl Users {
    /// A broker as the user `broker`, whose configuration `yaml` says whom it serves. `None` if this process may not start
    /// programs as others: `untested` is what is left out then.
    pub(crate) fn start(untested: &str, broker: u32, yaml: &str) -> Option<Self> {
        if !is_root(untested) {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        // The others may not be able to reach where these were built.
        let copy = |program: &Path, name: &str| {
            let copy = home.path().join(name);
            std::fs::copy(program, &copy).unwrap();
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
            copy
        };
        let program = copy(Path::new(env!("CARGO_BIN_EXE_tramline")), "tramline");
        let part = copy(&std::env::current_exe().unwrap(), "part");
        let (socket, config) = (home.path().join("t.sock"), home.path().join("tramline.yaml"));
        std::fs::write(&config, yaml).unwrap();
        let mut serve = Command::new(&program);
        serve.args(["serve", "--socket"]).arg(&socket).arg("--config").arg(&config).uid(broker).gid(broker);
        Some(Self { broker: Broker::spawn(home, socket, serve), program, part })
    }

    /// The program `tramline`, to be started as this user.
    pub(crate) fn tramline(&self, uid: u32) -> Command {
        let mut command = Command::new(&self.program);
        command.uid(uid).gid(uid).current_dir("/");
        command
    }

    /// Starts this test program as this user, to play a part.
    pub(crate) fn actor(&self, uid: u32, part: &str) -> Actor {
        let mut command = Command::new(&self.part);
        command.uid(uid).gid(uid);
        Actor::of(command, part, self.broker.socket())
    }
}
