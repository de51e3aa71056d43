//! The hidden command `role`: what this program does when `bench` or `demo` started it as another process.
//!
//! Every role asks the kernel first to be killed together with the process that started it.

use super::scene::{OWN_PROGRAM, follow_parent};
use super::{Failure, bench, demo};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a role prints when it is connected and about to begin.
pub(super) const READY: &str = "ready";
/// What a role waits for before it begins.
pub(super) const GO: &str = "go";

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
    /// The producers of a queue on disk
    Fill(bench::Fill),
    /// Somebody who behaves badly beside a measurement
    Offend(bench::Offend),
    /// A process of the demonstration
    Demo {
        #[command(subcommand)]
        role: demo::DemoRole,
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
            Part::Fill(fill) => fill.run(),
            Part::Offend(offend) => offend.run(),
            Part::Demo { role } => role.run(),
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

/// Says that everything is ready, and waits for the word.
pub(super) fn begin() -> Result<(), Failure> {
    say(READY)?;
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(_) if line.trim_end() == GO => Ok(()),
        Ok(_) => Err(Failure::unavailable("dismissed before the beginning")),
        Err(error) => Err(Failure::io(format!("cannot hear the word to begin: {error}"))),
    }
}

/// Says a line to the process that started this one.
pub(super) fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::io(format!("nobody hears this process: {error}")))
}
