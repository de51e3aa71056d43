//! What is sent: an argument, a file, or standard input line by line; and what its bytes are.
//!
//! Payloads are taken exactly as they came: of a line only the line feed is taken off, so a carriage return, an
//! empty line and a last line without line feed arrive as they are.

use super::Failure;
use serde::de::IgnoredAny;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use tramline_client::Encoding;

/// Where messages come from.
#[derive(Debug, clap::Args)]
#[group(id = "input", required = true, multiple = false)]
pub(super) struct Input {
    /// The message
    message: Option<String>,
    /// Take a file's content as one message; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take each line of standard input, without its line feed
    #[arg(short, long)]
    pub(super) lines: bool,
}

impl Input {
    /// The one message, unless each line is to be one.
    pub(super) fn message(&self) -> Result<Option<Vec<u8>>, Failure> {
        match (&self.message, &self.file) {
            (Some(message), _) => Ok(Some(message.clone().into_bytes())),
            (None, Some(file)) => content(file).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// All of a file, or of standard input.
pub(super) fn content(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes)
    } else {
        let mut file =
            File::open(file).map_err(|error| Failure::no_input(format!("{}: {error}", file.display())))?;
        file.read_to_end(&mut bytes)
    };
    read.map_err(|error| Failure::io(format!("{}: {error}", file.display())))?;
    Ok(bytes)
}

/// What a program says of its messages' bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Declared {
    /// JSON if it is a JSON value, text if it is UTF-8, else binary
    Auto,
    Json,
    Text,
    Binary,
}

impl Declared {
    /// What a payload is.
    pub(super) fn of(self, payload: &[u8]) -> Result<Encoding, Failure> {
        match self {
            Self::Auto if is_one_json_value(payload) => Ok(Encoding::Json),
            Self::Auto if std::str::from_utf8(payload).is_ok() => Ok(Encoding::Text),
            Self::Auto | Self::Binary => Ok(Encoding::Binary),
            Self::Json => {
                serde_json::from_str::<IgnoredAny>(text(payload)?)
                    .map_err(|error| Failure::input(format!("the message is not JSON: {error}")))?;
                Ok(Encoding::Json)
            }
            Self::Text => text(payload).map(|_| Encoding::Text),
        }
    }
}

fn text(payload: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(payload)
        .map_err(|error| Failure::input(format!("the message is not UTF-8 text: {error}")))
}

/// Whether this is a JSON value and nothing else, but for the carriage return of a line that ended in both.
///
/// Other white space around a value, or a line feed within, would not survive as JSON in a line: such a message
/// is text, which arrives byte for byte everywhere.
fn is_one_json_value(payload: &[u8]) -> bool {
    let value = payload.strip_suffix(b"\r").unwrap_or(payload);
    let bare = |byte: Option<&u8>| byte.is_some_and(|byte| !byte.is_ascii_whitespace());
    // Skipped values are not checked to be UTF-8 by the JSON parser, hence from text.
    bare(value.first())
        && bare(value.last())
        && !value.contains(&b'\n')
        && std::str::from_utf8(value).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// Reads the next line of at most `max` bytes, its end left off; says whether there was one. `number` is what an error
/// calls it.
pub(super) fn read_line(
    input: &mut impl BufRead,
    line: &mut Vec<u8>,
    number: u64,
    max: u64,
) -> Result<bool, Failure> {
    line.clear();
    let got = input
        .take(max + 1)
        .read_until(b'\n', line)
        .map_err(|error| Failure::io(format!("cannot read standard input: {error}")))?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if got as u64 > max {
        return Err(Failure::input(format!(
            "line {number} is longer than {max} bytes; send it as a file with -f"
        )));
    }
    Ok(got > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_sees_what_a_message_is() {
        let seen = |payload: &[u8]| Declared::Auto.of(payload).unwrap();
        assert_eq!(seen(br#"{"lat":48.10}"#), Encoding::Json);
        assert_eq!(seen(b"12"), Encoding::Json);
        assert_eq!(seen(b"$GPZDA,143444.28*66\r"), Encoding::Text);
        assert_eq!(seen(b"{\"class\":\"TPV\"}\r"), Encoding::Json);
        assert_eq!(seen(b" {}"), Encoding::Text);
        assert_eq!(seen(b"{} "), Encoding::Text);
        assert_eq!(seen(b"{\"a\":\n1}"), Encoding::Text);
        assert_eq!(seen(b""), Encoding::Text);
        assert_eq!(seen(b"\xb5\x62\x01"), Encoding::Binary);
        // Not UTF-8 inside a string of JSON.
        assert_eq!(seen(b"\"\xff\""), Encoding::Binary);
        assert!(Declared::Json.of(b"{").is_err() && Declared::Text.of(b"\xff").is_err());
    }
}
