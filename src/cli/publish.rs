//! `tramline pub`: publishes an argument, a file, or standard input line by line.
//!
//! Payloads leave exactly as they came: of a line only the line feed is taken off, so a carriage return, an
//! empty line and a last line without line feed arrive as they are.

use super::clock::{Pace, monotonic_nanos, wait_until};
use super::connect::Socket;
use super::output::Output;
use super::{Failure, size};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::IgnoredAny;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;
use tramline_client::{Batch, Client, Encoding};

/// Longest line of `-l`, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Most lines that travel to the broker together.
const BATCH_LINES_MAX: usize = 256;
/// Most bytes that travel to the broker together, and longest line that joins others.
const BATCH_BYTES_MAX: usize = 16 << 10;
/// How often a progress line is drawn, in messages.
const PROGRESS_EVERY: u64 = 64;

/// Publishes messages.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("input").required(true),
    after_help = "Examples:\n  \
        tramline pub gps.fix '{\"lat\":48.1,\"lon\":11.6}'\n  \
        tramline pub cam.front -f frame.jpg --type image/jpeg\n  \
        tail -f nmea.log | tramline pub -l gps.nmea\n  \
        tramline pub clock tick --count 10 --rate 1"
)]
pub(super) struct Publish {
    #[command(flatten)]
    socket: Socket,
    /// The topic to publish to
    topic: String,
    /// The message
    #[arg(group = "input")]
    message: Option<String>,
    /// Publish a file's content as one message; - is standard input
    #[arg(short, long, value_name = "FILE", group = "input")]
    file: Option<PathBuf>,
    /// Publish each line of standard input, without its line feed
    #[arg(short, long, group = "input")]
    lines: bool,
    /// At most this many messages a second
    #[arg(long, value_name = "N", value_parser = positive)]
    rate: Option<f64>,
    /// Publish the message so many times; with -l, stop after so many lines
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// What the bytes are; auto looks at each message
    #[arg(long, value_enum, default_value = "auto")]
    encoding: Declared,
    /// The messages' type
    #[arg(long = "type", value_name = "TYPE")]
    message_type: Option<String>,
    /// A header of the messages; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Wait until the broker has each message, and print how many subscriptions got it
    #[arg(long)]
    confirm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Declared {
    /// JSON if it is a JSON value, text if it is UTF-8, else binary
    Auto,
    Json,
    Text,
    Binary,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if number > 0.0 && number.is_finite() { Ok(number) } else { Err("must be above zero".into()) }
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

impl Publish {
    pub(super) fn run(self) -> Result<(), Failure> {
        // What is read from a file is read before connecting: a missing file is no affair of the broker.
        let payload = match (&self.message, &self.file) {
            (Some(message), _) => Some(message.clone().into_bytes()),
            (None, Some(file)) => Some(content(file)?),
            (None, None) => None,
        };
        let client = self.socket.connect("tramline pub")?;
        let mut sender = Sender::new(&self, &client);
        match payload {
            Some(payload) => {
                for _ in 0..self.count.unwrap_or(1) {
                    sender.send(&payload)?;
                }
            }
            None => self.publish_lines(&mut sender, &mut BufReader::new(std::io::stdin().lock()))?,
        }
        sender.finish()
    }

    fn publish_lines<R: Read>(
        &self,
        sender: &mut Sender<'_>,
        input: &mut BufReader<R>,
    ) -> Result<(), Failure> {
        let mut line = Vec::new();
        while self.count.is_none_or(|count| sender.sent < count) {
            if !input.buffer().contains(&b'\n') {
                // The next line has not come yet: those before it shall not wait for it.
                sender.flush()?;
            }
            if !read_line(input, &mut line, sender.sent + 1, LINE_BYTES_MAX)? {
                break;
            }
            sender.send(&line)?;
        }
        Ok(())
    }
}

pub(super) fn content(file: &PathBuf) -> Result<Vec<u8>, Failure> {
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

/// Publishes one message after the other: together where nothing speaks against it.
struct Sender<'a> {
    arguments: &'a Publish,
    client: &'a Client,
    batch: Batch,
    batched_bytes: usize,
    pace: Option<Pace>,
    sent: u64,
    bytes: u64,
    progress: ProgressBar,
}

impl<'a> Sender<'a> {
    fn new(arguments: &'a Publish, client: &'a Client) -> Self {
        let many = arguments.lines || arguments.count.is_some_and(|count| count > 1);
        let progress = if many && std::io::stderr().is_terminal() && !std::io::stdin().is_terminal() {
            let bar = arguments.count.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template = "{spinner} {pos} messages, {msg}, {per_sec}";
            bar.with_style(ProgressStyle::with_template(template).expect("a constant template"))
        } else {
            ProgressBar::hidden()
        };
        let pace = arguments.rate.map(|rate| Pace::new(monotonic_nanos(), rate));
        Self { arguments, client, batch: client.batch(), batched_bytes: 0, pace, sent: 0, bytes: 0, progress }
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let arguments = self.arguments;
        if let Some(pace) = &self.pace {
            let due = pace.due(self.sent);
            if due > monotonic_nanos() {
                self.flush()?;
            }
            wait_until(due);
        }
        let encoding = arguments.encoding.of(payload)?;
        let plain = arguments.message_type.is_none() && arguments.header.is_empty() && !arguments.confirm;
        if plain && payload.len() <= BATCH_BYTES_MAX {
            if self.batched_bytes + payload.len() > BATCH_BYTES_MAX {
                self.flush()?;
            }
            self.batch.publish_with(&arguments.topic, encoding, payload)?;
            self.batched_bytes += payload.len();
            if self.batch.len() >= BATCH_LINES_MAX {
                self.flush()?;
            }
        } else {
            self.flush()?;
            self.send_alone(encoding, payload)?;
        }
        self.sent += 1;
        self.bytes += payload.len() as u64;
        if self.sent.is_multiple_of(PROGRESS_EVERY) {
            self.progress.set_message(size::readable(self.bytes));
            self.progress.set_position(self.sent);
        }
        Ok(())
    }

    fn send_alone(&self, encoding: Encoding, payload: &[u8]) -> Result<(), Failure> {
        let arguments = self.arguments;
        let mut message = self.client.message(&arguments.topic).encoding(encoding);
        if let Some(message_type) = &arguments.message_type {
            message = message.type_(message_type);
        }
        for (name, value) in &arguments.header {
            message = message.header(name, value.as_bytes());
        }
        if arguments.confirm {
            let reached = message.publish_confirmed(payload)?;
            let mut output = Output::new();
            output.line(format_args!("subscriptions: {reached}"))?;
            return output.flush();
        }
        message.publish(payload)?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if !self.batch.is_empty() {
            self.batch.send()?;
            self.batched_bytes = 0;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.flush()?;
        // The program ends now; what is still in this process would end with it.
        self.client.flush()?;
        self.progress.finish_and_clear();
        Ok(())
    }
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

    #[test]
    fn headers_are_split_at_the_first_sign() {
        assert_eq!(header("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(header("=b").is_err() && header("a").is_err());
        assert!(positive("0").is_err() && positive("inf").is_err() && positive("0.5").is_ok());
    }
}
