//! `tramline reply`: an instance of a service, made of a command, or one that sends everything back.

use super::Failure;
use super::connect::Socket;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use tramline_client::{Encoding, Request};

/// The longest answer that is taken from a command, in bytes; the broker's frames are shorter.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Answers requests of a service, until interrupted
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("how").required(true),
    after_help = "A command of --exec gets the request on its standard input, and TRAMLINE_SERVICE, TRAMLINE_ATTEMPT and \
                  TRAMLINE_MILLIS_LEFT in its environment. What it prints is the answer. If it ends with another code than \
                  0 the answer is an error of that number, with what it printed as its words; if a signal ends it, the \
                  request counts as failed by this instance.\n\nExamples:\n  \
                  tramline reply text.upper --exec 'tr a-z A-Z'\n  \
                  tramline reply echo --echo"
)]
pub(super) struct Reply {
    #[command(flatten)]
    socket: Socket,
    /// The service's name
    service: String,
    /// Run this command by sh for each request
    #[arg(long, value_name = "CMD", group = "how")]
    exec: Option<String>,
    /// Send each request back as it came
    #[arg(long, group = "how")]
    echo: bool,
    /// How many requests to work on at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: u32,
    /// Its share where the service goes in turn or balances load
    #[arg(long, value_name = "N", default_value_t = 1)]
    weight: u32,
    /// Its place where the service fails over; the lowest is first
    #[arg(long, value_name = "N", default_value_t = 0)]
    priority: u32,
}

impl Reply {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.socket.connect("tramline reply")?;
        let provided = client
            .service(&self.service)
            .concurrency(self.concurrency)
            .weight(self.weight)
            .failover_priority(self.priority)
            .handle(|request| match &self.exec {
                Some(command) => self.execute(command, request),
                None => {
                    request.reply_as(request.encoding(), request.payload()).map_err(|error| error.to_string())
                }
            });
        Ok(provided?)
    }

    fn execute(&self, command: &str, request: &Request) -> Result<(), String> {
        let told = match self.answer_of(command, request) {
            Ok((Some(0), answer)) => {
                let encoding =
                    if std::str::from_utf8(&answer).is_ok() { Encoding::Text } else { Encoding::Binary };
                request.reply_as(encoding, answer)
            }
            Ok((Some(code), words)) => {
                let words = String::from_utf8_lossy(&words);
                let words = words.trim();
                let text = if words.is_empty() {
                    format!("{command:?} ended with {code}")
                } else {
                    words.to_owned()
                };
                request.reply_error(code.unsigned_abs(), &text)
            }
            Ok((None, _)) => request.fail(&format!("{command:?} was ended by a signal")),
            Err(error) => request.fail(&format!("cannot run {command:?}: {error}")),
        };
        told.map_err(|error| error.to_string())
    }

    /// How the command ended, and what it printed.
    fn answer_of(&self, command: &str, request: &Request) -> std::io::Result<(Option<i32>, Vec<u8>)> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .env("TRAMLINE_SERVICE", &self.service)
            .env("TRAMLINE_ATTEMPT", request.attempt().to_string())
            .env("TRAMLINE_MILLIS_LEFT", request.time_left().as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut answer = Vec::new();
        // Side by side: a command may answer before it has read everything, and need not read at all.
        let read = std::thread::scope(|scope| {
            scope.spawn(|| input.map(|mut input| input.write_all(request.payload())));
            output.map_or(Ok(0), |output| output.take(ANSWER_BYTES_MAX).read_to_end(&mut answer))
        });
        let status = child.wait()?;
        read?;
        // A line for people ends with a line feed; the answer need not.
        if answer.last() == Some(&b'\n') {
            answer.pop();
        }
        Ok((status.code(), answer))
    }
}
