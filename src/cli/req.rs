//! `tramline req`: one request to a service, and its answer.

use super::Failure;
use super::clock::seconds;
use super::connect::Socket;
use super::input::{Declared, content};
use super::output::Output;
use std::path::PathBuf;
use std::time::Duration;
use tramline_client::{Code, Error};

/// Sends a request to a service and prints the answer
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        tramline req map.locate '{\"place\":\"Ulm\"}'\n  \
        tramline req image.scale -f big.png --timeout 5 > small.png\n  \
        tramline req map.locate Ulm --idempotent")]
pub(super) struct Req {
    #[command(flatten)]
    socket: Socket,
    /// The service's name
    service: String,
    /// The request; nothing if neither this nor a file is given
    #[arg(conflicts_with = "file")]
    data: Option<String>,
    /// Send a file's content; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Wait at most so many seconds for the answer; the exit code is 124 then
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// It may be carried out more than once: another instance is asked when one has failed
    #[arg(long)]
    idempotent: bool,
    /// What the bytes are; auto looks at them
    #[arg(long, value_enum, default_value = "auto")]
    encoding: Declared,
    /// The request's type
    #[arg(long = "type", value_name = "TYPE", default_value = "")]
    message_type: String,
}

impl Req {
    pub(super) fn run(self) -> Result<(), Failure> {
        let payload = match (self.data, &self.file) {
            (Some(data), _) => data.into_bytes(),
            (None, Some(file)) => content(file)?,
            (None, None) => Vec::new(),
        };
        let client = self.socket.connect("tramline req")?;
        let mut request = client
            .request(&self.service, &payload)
            .encoding(self.encoding.of(&payload)?)
            .type_(&self.message_type);
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        if self.idempotent {
            request = request.idempotent();
        }
        let answer = request.send().map_err(|error| match error {
            error @ Error::TimedOut { .. } => Failure::timed_out(error),
            Error::Refused { code: Code::TimedOut, message, .. } => Failure::timed_out(message),
            other => other.into(),
        })?;
        let mut output = Output::new();
        output.write(answer.payload())?;
        // A file's bytes go out as they are; words for people end their line.
        if self.file.is_none() {
            output.write(b"\n")?;
        }
        output.flush()
    }
}
