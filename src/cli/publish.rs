//! `tramline pub`: publishes an argument, a file, or standard input line by line.

use super::clock::{Pace, monotonic_nanos, wait_until};
use super::connect::Socket;
use super::input::{Declared, Input, read_line};
use super::output::Output;
use super::{Failure, size};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{BufReader, IsTerminal, Read};
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
#[command(after_help = "Examples:\n  \
        tramline pub gps.fix '{\"lat\":48.1,\"lon\":11.6}'\n  \
        tramline pub cam.front -f frame.jpg --type image/jpeg\n  \
        tail -f nmea.log | tramline pub -l gps.nmea\n  \
        tramline pub clock tick --count 10 --rate 1")]
pub(super) struct Publish {
    #[command(flatten)]
    socket: Socket,
    /// The topic to publish to
    topic: String,
    #[command(flatten)]
    input: Input,
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

pub(super) fn positive(text: &str) -> Result<f64, String> {
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
        let payload = self.input.message()?;
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
        let many = arguments.input.lines || arguments.count.is_some_and(|count| count > 1);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_split_at_the_first_sign() {
        assert_eq!(header("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(header("=b").is_err() && header("a").is_err());
        assert!(positive("0").is_err() && positive("inf").is_err() && positive("0.5").is_ok());
    }
}
