//! A message as a line: pretty, JSON, text, or its bare bytes.

use crate::cli::clock::monotonic_nanos;
use crate::cli::output::Output;
use crate::cli::{Failure, size};
use crate::json::time::write_rfc3339;
use crate::json::{MessageLine, Payload, Sender, write_gap, write_message};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tramline_client::{Encoding, Message};
use tramline_wire::{HeaderBlock, headers};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Payloads above this appear in JSON as their beginning unless shown whole, in bytes.
const JSON_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// How much of a payload people see on a line, in bytes.
const PRETTY_BYTES_MAX: usize = 200;
/// How much of a binary payload people see on a line, in bytes.
const PRETTY_BINARY_BYTES_MAX: usize = 24;
/// Columns that a payload gets even if the terminal is too narrow for that.
const PRETTY_COLUMNS_MIN: usize = 8;

/// How messages are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Time, topic and the beginning of the payload
    Pretty,
    /// One JSON object a line
    Json,
    /// The payload and a line feed
    Text,
    /// The payload and nothing else
    Raw,
}

/// Writes messages in one format.
pub(super) struct Renderer {
    format: Format,
    terminal: bool,
    colour: bool,
    payload_bytes_max: usize,
    line: Vec<u8>,
    head: Vec<u8>,
}

impl Renderer {
    pub(super) fn new(format: Format, terminal: bool, whole: bool) -> Self {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let payload_bytes_max = if whole { usize::MAX } else { JSON_PAYLOAD_BYTES_MAX };
        Self { format, terminal, colour, payload_bytes_max, line: Vec::new(), head: Vec::new() }
    }

    /// Writes a message of the subscription with this index.
    pub(super) fn message(
        &mut self,
        output: &mut Output,
        index: usize,
        message: &Message,
    ) -> Result<(), Failure> {
        self.line.clear();
        match self.format {
            Format::Raw => return output.write(message.payload()),
            Format::Text => {
                output.write(message.payload())?;
                return output.write(b"\n");
            }
            Format::Json => self.json(index, message)?,
            Format::Pretty => self.pretty(message),
        }
        output.write(&self.line)
    }

    /// Writes that messages were lost; `false` when the format has no place for that.
    pub(super) fn gap(
        &mut self,
        output: &mut Output,
        index: usize,
        topic: &str,
        lost: u64,
    ) -> Result<bool, Failure> {
        if self.format == Format::Json {
            self.line.clear();
            write_gap(&mut self.line, number(index), topic, lost);
            output.write(&self.line)?;
        }
        Ok(self.format == Format::Json && !std::io::IsTerminal::is_terminal(&std::io::stderr()))
    }

    fn json(&mut self, index: usize, message: &Message) -> Result<(), Failure> {
        self.head.clear();
        headers::encode(&mut self.head, message.message_type().unwrap_or(""), message.headers()).map_err(
            |error| Failure::software(format!("a received message has impossible headers: {error}")),
        )?;
        let from = message.publisher();
        let line = MessageLine {
            sub: number(index),
            topic: message.topic(),
            seq: message.seq(),
            unix_nanos: wall_time(message.time()),
            source_time: message.source_time(),
            from: Sender { name: &from.name, uid: from.uid, pid: from.pid },
            head: HeaderBlock::parse(&self.head).map_err(|error| {
                Failure::software(format!("a received message has impossible headers: {error}"))
            })?,
            payload: Payload {
                encoding: message.encoding(),
                bytes: message.payload(),
                length: message.payload_length(),
            },
        };
        write_message(&mut self.line, &line, self.payload_bytes_max);
        Ok(())
    }

    /// The terminal's width, if it is a terminal: asked each time, because people change it.
    fn columns(&self) -> Option<usize> {
        if !self.terminal {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        Some(usize::from(size.ws_col)).filter(|&columns| columns > 0)
    }

    fn pretty(&mut self, message: &Message) {
        let mut time = Vec::new();
        write_rfc3339(&mut time, wall_time(message.time()));
        // The time of day, to the microsecond.
        let time = String::from_utf8_lossy(time.get(11..26).unwrap_or_default()).into_owned();
        let topic = message.topic();
        let kind = message.message_type().map(|kind| format!(" [{kind}]")).unwrap_or_default();
        let mut size = String::new();
        if message.payload_length() > PRETTY_BYTES_MAX as u64 {
            let _ = write!(size, " ({})", size::readable(message.payload_length()));
        }
        let others = time.width() + 1 + topic.width() + kind.width() + 1 + size.width();
        let columns = self.columns().map(|columns| columns.saturating_sub(others).max(PRETTY_COLUMNS_MIN));
        let mut shown = String::new();
        let payload = message.payload();
        match std::str::from_utf8(payload) {
            Ok(text) if message.encoding() != Encoding::Binary || is_plain(text) => {
                printable(&mut shown, text);
            }
            _ => {
                let first = &payload[..payload.len().min(PRETTY_BINARY_BYTES_MAX)];
                for byte in first {
                    let _ = write!(shown, "{byte:02x} ");
                }
                shown.push_str(if first.len() < payload.len() { "…" } else { "" });
            }
        }
        if let Some(columns) = columns {
            cut(&mut shown, columns);
        }
        shown.push_str(&size);
        let line = if self.colour {
            format!("\x1b[2m{time}\x1b[0m \x1b[1;36m{topic}\x1b[0m\x1b[33m{kind}\x1b[0m {shown}\n")
        } else {
            format!("{time} {topic}{kind} {shown}\n")
        };
        self.line.extend_from_slice(line.as_bytes());
    }
}

/// The subscriptions of one command are numbered from 1, as those of a JSON session are.
fn number(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(|letter| letter.is_control() && !letter.is_ascii_whitespace())
}

/// The beginning of a text, on one line, without anything that a terminal would obey.
fn printable(out: &mut String, text: &str) {
    for letter in text.chars() {
        if out.len() >= PRETTY_BYTES_MAX {
            out.push('…');
            return;
        }
        if letter.is_control() {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
}

/// Cuts a text so that it takes at most so many columns of a terminal, its sign of being cut included.
fn cut(text: &mut String, columns: usize) {
    if text.width() <= columns {
        return;
    }
    let mut taken = 0;
    let end = text.char_indices().find_map(|(at, letter)| {
        taken += letter.width().unwrap_or(0);
        (taken >= columns).then_some(at)
    });
    text.truncate(end.unwrap_or(0));
    text.push('…');
}

/// The wall-clock time, in nanoseconds since 1970, of a moment of `CLOCK_MONOTONIC`.
fn wall_time(monotonic: u64) -> i64 {
    let age = monotonic_nanos().cast_signed().saturating_sub(monotonic.cast_signed());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX).saturating_sub(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        let mut shown = String::new();
        printable(&mut shown, "a\x1b[31mb\r\n\u{9b}ü");
        assert_eq!(shown, "a\\u{1b}[31mb\\r\\n\\u{9b}ü");
        let mut long = String::new();
        printable(&mut long, &"x".repeat(PRETTY_BYTES_MAX + 1));
        assert_eq!(long.chars().count(), PRETTY_BYTES_MAX + 1);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn what_is_too_wide_for_the_terminal_is_cut_by_columns_and_not_by_letters() {
        let shown = |text: &str, columns| {
            let mut text = text.to_owned();
            cut(&mut text, columns);
            text
        };
        assert_eq!(shown("abcdef", 6), "abcdef");
        assert_eq!(shown("abcdefg", 6), "abcde…");
        assert_eq!(shown("衛星測位", 8), "衛星測位");
        assert_eq!(shown("衛星測位", 7), "衛星測…");
        assert_eq!(shown("衛星測位", 6), "衛星…");
    }

    #[test]
    fn wall_time_is_that_of_the_moment() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let shown = wall_time(monotonic_nanos());
        assert!(u128::try_from(shown).unwrap() + 1_000_000_000 > before);
    }
}
