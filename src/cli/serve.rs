//! `tramline serve`: runs a broker until it is told to stop.

use super::Failure;
use std::path::PathBuf;

/// Runs a broker.
///
/// Without any argument it listens on the user's own socket. It stops on SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tramline serve\n  tramline serve --socket /tmp/try.sock")]
pub(super) struct Serve {
    /// The socket to listen on
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        Err(Failure::unavailable(format!("the broker does not run yet (asked for {:?})", self.socket)))
    }
}
