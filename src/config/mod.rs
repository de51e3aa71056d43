//! The configuration: from a YAML file, the environment and the command line to one checked [`Config`].
//!
//! Precedence, the strongest first: flags of the command line, environment (`TRAMLINE_CONFIG`,
//! `TRAMLINE_SOCKET`, `TRAMLINE_LOG`), file, defaults. Without a file and without environment a broker runs
//! with [`Config::default`]. `config/tramline.yaml` documents every key and holds the defaults.
//!
//! A file is believed whole or not at all: unknown keys, wrong kinds, values out of range and names that
//! the system does not know are errors with file, line, column, key and what is allowed. The raw shape of the
//! file never leaves this module, and nothing after it checks a setting again.
//!
//! # Layout
//!
//! * `raw`: the file's shape, key by key.
//! * `scalar`: sizes, modes, accounts, addresses, as people write them.
//! * `words`: the same for routes. `queues`, `services`, `routes`: the raw shapes of these to their settings.
//! * `check`: the raw shape to a `Config`; ranges, and rules between keys. `faults`: all that is wrong, for who asks.

mod raw;

mod scalar;

mod words;

mod queues;

mod services;

mod routes;

mod check;

mod faults;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod tests_of_keys;

#[cfg(test)]
mod tests_of_routes;

pub use faults::FAULTS_MAX;

use crate::core::{Limits, QueueSettings, ServiceSettings, TopicSettings, Who};
use crate::routes::Routes;
use crate::routes::settings::Settings;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest configuration file, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Stack of the thread that compiles routes, in bytes.
const COMPILE_STACK_BYTES: usize = 16 << 20;

/// Environment variable that names the configuration file.
pub const ENV_CONFIG: &str = "TRAMLINE_CONFIG";

/// Environment variable that names the socket.
pub const ENV_SOCKET: &str = "TRAMLINE_SOCKET";

/// Environment variable that says what is logged.
pub const ENV_LOG: &str = "TRAMLINE_LOG";

/// Everything an operator can set, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Where the broker listens.
    pub socket: Socket,
    /// Who may connect besides the broker's own uid and root.
    pub allow: Allow,
    /// Limits and timings.
    pub limits: Limits,
    /// Settings by filter; the first that matches a topic counts.
    pub topics: Vec<TopicSettings>,
    /// Queues that are there from the start.
    pub queues: Vec<QueueSettings>,
    /// Settings of services, by name or filter; the first that matches counts.
    pub services: Vec<ServiceSettings>,
    /// Where queues on disk are kept.
    pub store: Store,
    /// HTTP beside the socket.
    pub http: Http,
    /// How the broker waits.
    pub wait: Wait,
    /// What is logged.
    pub log: Log,
    /// Routes, checked by themselves; [`Config::with_routes`] compiles them.
    pub routes: Settings,
}

/// Where the broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// The path; none searches for a place as clients do.
    pub path: Option<PathBuf>,
    /// The socket file's permissions.
    pub mode: u32,
    /// The socket file's group, by number; none leaves it the broker's own.
    pub group: Option<u32>,
}

impl Default for Socket {
    fn default() -> Self {
        Self { path: None, mode: 0o600, group: None }
    }
}

/// Who may connect besides the broker's own uid and root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    /// Uids.
    pub users: Vec<u32>,
    /// Gids whose members are allowed.
    pub groups: Vec<u32>,
    /// Who may declare queues besides the broker's own uid and root.
    pub declare_queues: Who,
    /// Who may provide services that the configuration does not name, besides the broker's own uid and root.
    pub provide_services: Who,
    /// Who may declare queues on disk besides the broker's own uid and root.
    pub declare_durable_queues: Who,
    /// Who may see what routes do besides the broker's own uid and root.
    pub tap: Who,
}

/// Where queues on disk are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Store {
    /// The file; none is `queues.store` in the folder for state that the service manager names, or else the user's own.
    pub path: Option<PathBuf>,
}

/// HTTP beside the socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http {
    /// A loopback address to serve HTTP on; none serves it on the socket only.
    pub listen: Option<SocketAddr>,
}

/// How the broker waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// How long the broker looks again, yielding, after the last traffic before it sleeps, in
    /// microseconds; 0 sleeps at once. On one core it always sleeps at once.
    pub spin_micros: u32,
}

impl Default for Wait {
    fn default() -> Self {
        Self { spin_micros: 50 }
    }
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level (`off`, `error`, `warn`, `info`, `debug`, `trace`), or from the environment or a flag also
    /// directives by module as tracing's `EnvFilter` takes them.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned() }
    }
}

/// What stands above the file: flags, or the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// The socket.
    pub socket: Option<PathBuf>,
    /// What is logged.
    pub log: Option<String>,
}

impl Overrides {
    /// What the process's environment says. Empty variables say nothing.
    #[must_use]
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            file: variable(ENV_CONFIG).map(PathBuf::from),
            socket: variable(ENV_SOCKET).map(PathBuf::from),
            log: variable(ENV_LOG).map(|value| value.to_string_lossy().into_owned()),
        }
    }

    /// These, and where they say nothing, those of `weaker`.
    #[must_use]
    pub fn or(self, weaker: Self) -> Self {
        Self {
            file: self.file.or(weaker.file),
            socket: self.socket.or(weaker.socket),
            log: self.log.or(weaker.log),
        }
    }
}

/// Whether this says what to log: a level, or directives such as `info,tramline::shell=debug`.
fn check_log(directives: &str) -> Result<(), ConfigError> {
    let wrong = |which: &str, why: String| {
        let levels = scalar::LEVELS.join(", ");
        let message = format!(
            "what to log is {directives:?} (--log or {ENV_LOG}), of which {which:?} is neither one of {levels} nor \
             MODULE=LEVEL, such as tramline::shell=debug{why}"
        );
        ConfigError::Override(message)
    };
    // By itself the filter would take any other word for a module, and log nothing else than that.
    let is_level = |word: &str| scalar::LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    for directive in directives.split(',').map(str::trim) {
        let level = directive.rsplit('=').next().unwrap_or_default();
        if !is_level(level) {
            return Err(wrong(directive, String::new()));
        }
    }
    match tracing_subscriber::EnvFilter::try_new(directives) {
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(directives, format!(": {error}"))),
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The file is too long.
    #[error("the configuration {} has {bytes} bytes; at most {CONFIG_BYTES_MAX} are read", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The file says something that it may not.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Faulty {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The key, what is wrong with it and what is allowed.
        message: String,
    },
    /// A flag or variable says something that it may not.
    #[error("{0}")]
    Override(String),
}

impl Config {
    /// The configuration of a broker: the file that `overrides` names (none: defaults), with `overrides` on top, and its routes,
    /// compiled.
    /// Reads the file, and the user database for the names in it; may block as files do.
    ///
    /// # Errors
    /// When the file cannot be read or says something that it may not.
    pub fn load(overrides: Overrides) -> Result<(Self, Arc<Routes>), ConfigError> {
        let (mut config, routes) = match &overrides.file {
            Some(path) => Self::with_routes(path)?,
            None => (Self::default(), Routes::default()),
        };
        if let Some(level) = overrides.log {
            check_log(&level)?;
            config.log.level = level;
        }
        config.socket.path = overrides.socket.or(config.socket.path);
        Ok((config, Arc::new(routes)))
    }

    /// The configuration in the file at `path` with its routes, compiled. Reads the file and the schemas that its routes
    /// name, which are relative to it.
    ///
    /// # Errors
    /// When a file cannot be read, or the configuration says something that it may not.
    pub fn with_routes(path: &Path) -> Result<(Self, Routes), ConfigError> {
        Self::whole(&Self::text(path)?, path)
    }

    /// As [`with_routes`](Self::with_routes), and when something is wrong, all of it as far as it can be told apart:
    /// [`FAULTS_MAX`] faults at most. Reads the file again for each.
    ///
    /// # Errors
    /// The faults, in the order of the lines.
    pub fn examine(path: &Path) -> Result<(Self, Routes), Vec<ConfigError>> {
        let text = Self::text(path).map_err(|error| vec![error])?;
        faults::all(&text, |text| Self::whole(text, path))
    }

    fn whole(text: &str, path: &Path) -> Result<(Self, Routes), ConfigError> {
        let config = Self::parse(text, path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut load = |name: &str| {
            let path = folder.join(name);
            let bytes =
                std::fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?.len();
            if bytes > CONFIG_BYTES_MAX {
                return Err(format!(
                    "{} has {bytes} bytes; at most {CONFIG_BYTES_MAX} are read",
                    path.display()
                ));
            }
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        // What is nested is compiled by functions that call themselves, and whoever calls may have little stack.
        let compiled = std::thread::scope(|scope| {
            let thread =
                std::thread::Builder::new().name("compile".to_owned()).stack_size(COMPILE_STACK_BYTES);
            let compile = || Routes::compile(&config.routes, &mut load);
            let compiling = thread.spawn_scoped(scope, compile).map_err(unreadable(path))?;
            Ok(compiling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let routes =
            compiled?.map_err(|fault| faulty(path, check::at_key(text, &fault.key, &fault.message)))?;
        Ok((config, routes))
    }

    fn text(path: &Path) -> Result<String, ConfigError> {
        let bytes = std::fs::metadata(path).map_err(unreadable(path))?.len();
        if bytes > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLong { path: path.to_owned(), bytes });
        }
        std::fs::read_to_string(path).map_err(unreadable(path))
    }

    /// Reads a configuration from `text`; `path` is named in errors only.
    ///
    /// # Errors
    /// [`ConfigError::Faulty`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        check::config(text).map_err(|fault| faulty(path, fault))
    }
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> ConfigError {
    move |error| ConfigError::Unreadable { path: path.to_owned(), error }
}

fn faulty(path: &Path, fault: check::Fault) -> ConfigError {
    let check::Fault { line, column, message } = fault;
    ConfigError::Faulty { path: path.to_owned(), line, column, message }
}

/// Line and column, from 1, of what stands at a key such as `routes.0.tests.1`, or of the nearest place above it.
#[must_use]
pub fn place(text: &str, key: &str) -> (usize, usize) {
    check::locate(text, key).unwrap_or((1, 1))
}

/// The line that a fault is in, as it stands in `text`, with a mark below its column.
#[must_use]
pub fn snippet(text: &str, line: usize, column: usize) -> String {
    let Some(shown) = line.checked_sub(1).and_then(|index| text.lines().nth(index)) else {
        return String::new();
    };
    let number = line.to_string();
    let (margin, before) = (" ".repeat(number.len()), " ".repeat(column.saturating_sub(1).min(shown.len())));
    format!(" {margin} |\n {number} | {shown}\n {margin} | {before}^")
}
