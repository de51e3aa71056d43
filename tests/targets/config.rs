//! A configuration file: refused with a place in it and a sentence, or read as the same values each time.

use std::path::Path;
use tramline::config::{Config, ConfigError};

/// Longest input that is looked at; what is longer adds nothing but time.
const BYTES_MAX: usize = 16 * 1024;

/// Parses it as the file that an operator wrote.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.len() > BYTES_MAX {
        return;
    }
    match Config::parse(text, Path::new("tramline.yaml")) {
        Ok(config) => {
            assert_eq!(Config::parse(text, Path::new("elsewhere")).ok().as_ref(), Some(&config));
            assert!(config.limits.frame_bytes_max > 0 && config.limits.connections_max > 0);
        }
        Err(ConfigError::Faulty { line, column, message, .. }) => {
            // Of what is meant by line ends, readers of YAML have their own ideas; beyond the text there is nothing.
            assert!(
                line >= 1 && column >= 1 && line <= text.len() + 1,
                "{line}:{column} of {} bytes",
                text.len()
            );
            assert!(!message.is_empty() && message.len() < 10_000, "{} bytes of explanation", message.len());
        }
        Err(other) => panic!("{other}"),
    }
}
