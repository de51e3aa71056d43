//! `tramline serve`: runs a broker until it is told to stop.

use super::Failure;
use super::failure::told;
use crate::config::{Config, Overrides};
use crate::shell::ServeError;
use crate::shell::socket::SocketError;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;

/// Run a broker
///
/// Without any argument it listens on the user's own socket, which it prints. It stops on SIGTERM or SIGINT,
/// after giving its clients a moment to read their last messages; a second signal ends it at once. On SIGHUP it
/// reads `allow`, `topics`, `queues` and routes of its configuration again.
///
/// If the folder of the socket is missing it is made, private to the user; folders above it are not made.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tramline serve\n  tramline serve --socket /tmp/try.sock\n  \
                        tramline serve --config /etc/tramline/tramline.yaml --http-listen 127.0.0.1:8080")]
pub(super) struct Serve {
    /// The socket to listen on [default: the user's runtime directory, /run/tramline or /tmp]
    #[arg(long, value_name = "PATH", env = crate::config::ENV_SOCKET)]
    socket: Option<PathBuf>,
    /// A configuration file
    #[arg(long, value_name = "FILE", env = crate::config::ENV_CONFIG)]
    config: Option<PathBuf>,
    /// Serve HTTP on this loopback address as well
    #[arg(long, value_name = "ADDRESS:PORT")]
    http_listen: Option<SocketAddr>,
    /// What to log: off, error, warn, info, debug or trace; or by module, such as warn,tramline::shell=debug
    #[arg(long, value_name = "LEVEL", env = crate::config::ENV_LOG)]
    log: Option<String>,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let overrides = Overrides { file: self.config, socket: self.socket, log: self.log };
        let overrides = overrides.or(Overrides::from_environment());
        let (mut config, routes) = Config::load(overrides.clone()).map_err(told)?;
        if let Some(address) = self.http_listen {
            if !address.ip().is_loopback() {
                return Err(Failure::usage(format!(
                    "--http-listen {address}: HTTP is served on loopback addresses only"
                )));
            }
            config.http.listen = Some(address);
        }
        log(&config.log.level)?;
        crate::shell::serve(config, routes, overrides, announce).map_err(failure)
    }
}

fn log(level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level).map_err(Failure::usage)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}

fn announce(path: &Path) {
    // Nobody needs to read it: a closed stdout does not stop a broker.
    let _ = writeln!(std::io::stdout(), "{}", path.display());
}

fn failure(error: ServeError) -> Failure {
    match &error {
        ServeError::Socket(SocketError::Taken { .. }) => Failure::try_again(error),
        ServeError::Socket(SocketError::TooLong { .. }) => Failure::usage(error),
        ServeError::Socket(
            SocketError::NotASocket { .. } | SocketError::NoDirectory { .. } | SocketError::Refused { .. },
        ) => Failure::cannot_create(error),
        ServeError::Socket(SocketError::Directory { .. }) => Failure::denied(error),
        ServeError::Activation(_) | ServeError::Queue(_) | ServeError::Service(_) | ServeError::Routes(_) => {
            Failure::config(error)
        }
        ServeError::Store(_) => Failure::cannot_create(error),
        ServeError::Kernel(_) => Failure::unavailable(error),
        ServeError::Failed => Failure::software(error),
        ServeError::System(..) => Failure::system(error),
    }
}
