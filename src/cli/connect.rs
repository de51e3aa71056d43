//! How commands reach the broker, and what its refusals mean for the exit code.

use super::Failure;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tramline_client::{Client, ClientBuilder, Code, Error};
use tramline_ring::RingError;
use tramline_wire::path::{
    Place, RUNTIME_DIRECTORY_VARIABLE, SOCKET_PATH_BYTES_MAX, SOCKET_VARIABLE, candidates,
};

/// Where the broker listens.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Socket {
    /// The broker's socket [default: $TRAMLINE_SOCKET, then the usual places]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

impl Socket {
    /// A client of that broker, still to be connected.
    pub(super) fn client(&self, name: &str) -> ClientBuilder {
        let builder = Client::builder().name(name).reconnect(false);
        match &self.socket {
            Some(path) => builder.socket(path),
            None => builder,
        }
    }

    /// A connected client.
    pub(super) fn connect(&self, name: &str) -> Result<Client, Failure> {
        self.client(name).connect().map_err(Failure::from)
    }

    /// A bare connection, for the languages that need no client, and the path it was made to.
    pub(super) fn stream(&self) -> Result<(UnixStream, PathBuf), Failure> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let uid = rustix::process::geteuid().as_raw();
        let places = candidates(
            self.socket.as_deref(),
            variable(SOCKET_VARIABLE).as_deref(),
            variable(RUNTIME_DIRECTORY_VARIABLE).as_deref(),
            uid,
        );
        let named = places.iter().any(|place| place.place == Place::Named);
        let mut first = None;
        for place in &places {
            if place.place == Place::Temporary && !is_own_directory(place.path.parent(), uid) {
                continue;
            }
            match UnixStream::connect(&place.path) {
                Ok(stream) => return Ok((stream, place.path.clone())),
                Err(error) if named || error.kind() == std::io::ErrorKind::PermissionDenied => {
                    first = first.or(Some(no_broker(&place.path, &error)));
                }
                Err(_) => {}
            }
        }
        Err(first.unwrap_or_else(|| {
            let tried = places.into_iter().map(|place| place.path).collect();
            Failure::from(Error::NoBroker { tried })
        }))
    }
}

/// Whether this is a real directory that only its owner, this user, can write to.
fn is_own_directory(directory: Option<&Path>, uid: u32) -> bool {
    directory
        .and_then(|path| std::fs::symlink_metadata(path).ok())
        .is_some_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o077 == 0)
}

fn no_broker(path: &Path, error: &std::io::Error) -> Failure {
    let (bytes, path) = (path.as_os_str().len(), path.display());
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return Failure::denied(format!(
            "{path}: {error}; the broker's key socket.mode says who may connect"
        ));
    }
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Failure::usage(format!(
            "the socket path {path} has {bytes} bytes; Linux takes at most {SOCKET_PATH_BYTES_MAX}: \
             name a shorter one with --socket or TRAMLINE_SOCKET"
        ));
    }
    // Where it was looked for is where one has to be started.
    Failure::unavailable(format!(
        "no broker at {path}: {error}; start one with: tramline serve --socket {path}"
    ))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Connect { path, source } => no_broker(&path, &source),
            Error::Refused { code, ref message, .. } => match code {
                Code::BadTopic | Code::QueueExists => Self::usage(message),
                Code::Denied | Code::ReservedTopic | Code::GateRefused => Self::denied(message),
                Code::BadPayload | Code::PayloadTooLarge | Code::FrameTooLarge => Self::input(message),
                Code::LimitReached | Code::NoResources | Code::TimedOut | Code::QueueFull | Code::TooLate => {
                    Self::try_again(message)
                }
                Code::UnknownQueue | Code::NoInstance | Code::OutcomeUnknown => Self::unavailable(message),
                Code::InstanceFailed => Self::try_again(message),
                Code::SlowSubscriber | Code::HeldTooMuch | Code::ShuttingDown | Code::PeerGone => {
                    Self::unavailable(message)
                }
                _ => Self::software(message),
            },
            Error::NoBroker { .. }
            | Error::Disconnected(_)
            | Error::BrokerDown { .. }
            | Error::CutOff { .. }
            | Error::Closed => Self::unavailable(error),
            Error::TimedOut { .. } | Error::Full(_) | Error::Limit { .. } => Self::try_again(error),
            Error::Reply { .. } => Self::replied(error),
            Error::Topic { .. } | Error::Header(_) => Self::usage(error),
            Error::TooLarge { .. } | Error::Payload { .. } => Self::input(error),
            Error::Ring(RingError::NoMemory { .. }) => Self::try_again(error),
            Error::Ring(RingError::Missing(_)) => Self::unavailable(error),
            Error::Io { what, source } => Self::io(format!("{what}: {source}")),
            other => Self::software(other),
        }
    }
}
