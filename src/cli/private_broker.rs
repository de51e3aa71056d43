//! A broker for one scene: the real `tramline serve`, in the scene's directory, seen by nobody else.

use super::Failure;
use super::scene::{ActorNumber, Scene};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a broker may take until it listens.
const START_WAIT_MAX: Duration = Duration::from_secs(20);
/// Where what it logs goes, in the scene's directory.
const LOG: &str = "broker.log";
/// Longest end of the log that a failure shows, in lines.
const LOG_LINES_MAX: usize = 10;

/// A broker that ends with its scene.
pub(super) struct PrivateBroker {
    actor: ActorNumber,
    socket: PathBuf,
}

impl PrivateBroker {
    /// Starts a broker, on one core if one is given, and waits until it listens. `settings` is the content of its
    /// configuration file.
    pub(super) fn start(scene: &mut Scene, core: Option<usize>, settings: &str) -> Result<Self, Failure> {
        let socket = scene.directory().join("s.sock");
        let file = scene.directory().join("broker.yaml");
        std::fs::write(&file, settings)
            .map_err(|error| Failure::cannot_create(format!("{}: {error}", file.display())))?;
        let mut arguments: Vec<_> = super::role::prefix().into_iter().map(Into::into).collect();
        arguments.push("serve".into());
        arguments.extend(core.map(|core| format!("--core={core}").into()));
        for word in ["--", "--log", "warn", "--config"] {
            arguments.push(word.into());
        }
        arguments.push(file.into_os_string());
        arguments.push("--socket".into());
        arguments.push(socket.clone().into_os_string());
        let actor = scene.start("broker", &arguments, Some(LOG))?;
        let broker = Self { actor, socket };
        // It prints its socket's path when it listens.
        match scene.expect_line(actor, Instant::now() + START_WAIT_MAX) {
            Ok(_) => Ok(broker),
            Err(failure) => Err(failure.with_detail(&broker.log(scene))),
        }
    }

    /// The broker's socket.
    pub(super) fn socket(&self) -> &PathBuf {
        &self.socket
    }

    /// The broker's number in its scene.
    pub(super) const fn actor(&self) -> ActorNumber {
        self.actor
    }

    /// The end of what it logged.
    pub(super) fn log(&self, scene: &Scene) -> String {
        let log = std::fs::read_to_string(scene.directory().join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n")
    }
}
