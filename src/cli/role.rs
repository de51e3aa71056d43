//! The hidden command `role`: what this program does when `bench` or `demo` started it as another process.
//!
//! Every role asks the kernel first to be killed together with the process that started it.

use super::scene::{OWN_PROGRAM, follow_parent};
use super::{Failure, bench};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What the environment may say about another broker than the one to be started.
const FOREIGN_VARIABLES: [&str; 7] = [
    crate::config::ENV_CONFIG,
    crate::config::ENV_SOCKET,
    crate::config::ENV_LOG,
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
];

/// Plays a part in a benchmark or demonstration.
#[derive(Debug, clap::Args)]
pub(super) struct Role {
    /// The process that started this one
    #[arg(long)]
    parent: u32,
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// An end of a baseline
    Bare {
        #[command(subcommand)]
        role: bench::BareRole,
    },
    /// An end of a measurement
    Bench {
        #[command(subcommand)]
        role: bench::BenchRole,
    },
    /// A broker that ends with its parent
    Serve {
        #[arg(long)]
        core: Option<usize>,
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

impl Role {
    pub(super) fn run(self) -> Result<(), Failure> {
        follow_parent(self.parent)?;
        match self.part {
            Part::Bare { role } => role.run(),
            Part::Bench { role } => role.run(),
            Part::Serve { core, arguments } => {
                core.map_or(Ok(()), bench::pin_to)?;
                let mut serve = Command::new(OWN_PROGRAM);
                for variable in FOREIGN_VARIABLES {
                    serve.env_remove(variable);
                }
                // The wish to end with the parent outlives the change of program.
                let error = serve.arg0("tramline").arg("serve").args(arguments).exec();
                Err(Failure::system(format!("cannot start a broker: {error}")))
            }
        }
    }
}

/// The first words of a command line that starts a role.
pub(super) fn prefix() -> Vec<String> {
    vec!["role".to_owned(), format!("--parent={}", std::process::id())]
}
