//! Questions to the broker in JSON lines.

use crate::cli::Failure;
use crate::cli::connect::Socket;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long the broker may take to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// A connection on which one question after the other is answered.
pub(super) struct Asked(BufReader<UnixStream>);

impl Asked {
    pub(super) fn connect(socket: &Socket) -> Result<Self, Failure> {
        let (stream, _) = socket.stream()?;
        stream.set_read_timeout(Some(ANSWER_WAIT_MAX)).map_err(broken)?;
        stream.set_write_timeout(Some(ANSWER_WAIT_MAX)).map_err(broken)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The answer, if it is not a refusal.
    pub(super) fn ask(&mut self, request: &Value) -> Result<Value, Failure> {
        self.0.get_mut().write_all(format!("{request}\n").as_bytes()).map_err(broken)?;
        let mut line = String::new();
        (&mut self.0).take(ANSWER_BYTES_MAX).read_line(&mut line).map_err(broken)?;
        let answer: Value = serde_json::from_str(&line)
            .map_err(|error| Failure::unavailable(format!("the broker's answer is not JSON: {error}")))?;
        if answer["ok"] == true {
            return Ok(answer);
        }
        let message = answer["error"]["message"].as_str().unwrap_or("the broker refused");
        Err(match answer["error"]["code"].as_str() {
            Some("denied") => Failure::denied(message),
            Some("queue_full" | "limit_reached") => Failure::try_again(message),
            Some("unknown_queue" | "bad_id" | "shutting_down") => Failure::unavailable(message),
            _ => Failure::software(message),
        })
    }

    /// All queues, as `/status` shows them.
    pub(super) fn queues(&mut self) -> Result<Vec<Value>, Failure> {
        let mut answer = self.ask(&json!({"op": "status"}))?;
        match answer["status"]["queues"].take() {
            Value::Array(queues) => Ok(queues),
            _ => Err(Failure::software("the broker's status has no queues")),
        }
    }
}

fn broken(error: std::io::Error) -> Failure {
    Failure::unavailable(format!("the connection to the broker broke: {error}"))
}
