//! Which configuration a command looks at: named as its FILE, by `--config` as for `serve`, or by the environment.
//!
//! The environment is asked here and not by the parser of arguments, to which a variable is as good as a word: it would refuse
//! FILE wherever the variable is set.

use super::Failure;
use crate::config::{ENV_CONFIG, Overrides};
use std::path::{Path, PathBuf};

/// A configuration that has to be named.
#[derive(Debug, clap::Args)]
pub(super) struct Configuration {
    /// The configuration
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    flag: ConfigFlag,
}

/// A configuration that may be named by `--config`, where the command itself knows whether there is a FILE.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigFlag {
    /// The configuration, in the place of FILE, as `tramline serve` takes it; without either the one that TRAMLINE_CONFIG names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Configuration {
    /// The file; a failure if it is named twice, or not at all.
    pub(super) fn path(self) -> Result<PathBuf, Failure> {
        self.flag.or(self.file)
    }
}

impl ConfigFlag {
    /// Whether a configuration is named without FILE.
    pub(super) fn is_named(&self) -> bool {
        self.config.is_some() || Overrides::from_environment().file.is_some()
    }

    /// The file, of which `first` is what stands as FILE; a failure if it is named twice, or not at all.
    pub(super) fn or(self, first: Option<PathBuf>) -> Result<PathBuf, Failure> {
        match (first, self.config) {
            (Some(file), Some(config)) => Err(twice(&file, &config)),
            (Some(file), None) | (None, Some(file)) => Ok(file),
            (None, None) => Overrides::from_environment().file.ok_or_else(|| {
                Failure::usage(format!(
                    "which configuration? Give it as FILE or with --config FILE, or name it in {ENV_CONFIG}"
                ))
            }),
        }
    }
}

fn twice(file: &Path, config: &Path) -> Failure {
    Failure::usage(format!(
        "the configuration is given twice, as FILE ({}) and with --config ({}): leave one of them out",
        file.display(),
        config.display()
    ))
}
