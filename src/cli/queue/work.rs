//! `tramline queue push` and `pull`: messages in and out, acknowledged by what became of them.

use crate::cli::Failure;
use crate::cli::clock::{monotonic_nanos, seconds};
use crate::cli::connect::Socket;
use crate::cli::input::{Declared, Input, read_line};
use crate::cli::output::Output;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;
use tramline_client::{Client, Job};

/// Longest line of `-l`, in bytes.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Exit code of a command that says that its message is of no use: `EX_DATAERR`.
const NO_USE: i32 = 65;

/// Pushes messages to a queue, and waits until it has them
#[derive(Debug, clap::Args)]
pub(super) struct Push {
    #[command(flatten)]
    socket: Socket,
    /// The queue's name
    queue: String,
    #[command(flatten)]
    input: Input,
    /// 0 to 9; higher ones are given out first
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// Not before so many seconds from now
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    delay: Option<Duration>,
    /// Not after so many seconds from when it is due
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    ttl: Option<Duration>,
    /// An id: one that the queue has seen lately is not queued again
    #[arg(long, value_name = "ID", conflicts_with = "lines")]
    id: Option<String>,
    /// What the bytes are; auto looks at each message
    #[arg(long, value_enum, default_value = "auto")]
    encoding: Declared,
    /// The messages' type
    #[arg(long = "type", value_name = "TYPE", default_value = "")]
    message_type: String,
}

impl Push {
    pub(super) fn run(self) -> Result<(), Failure> {
        let payload = self.input.message()?;
        let client = self.socket.connect("tramline queue push")?;
        if let Some(payload) = payload {
            return self.push(&client, &payload, true);
        }
        let mut input = std::io::stdin().lock();
        let mut line = Vec::new();
        let mut number = 1;
        while read_line(&mut input, &mut line, number, LINE_BYTES_MAX)? {
            self.push(&client, &line, false)?;
            number += 1;
        }
        // All answers come before that of the question.
        Ok(client.flush()?)
    }

    fn push(&self, client: &Client, payload: &[u8], confirm: bool) -> Result<(), Failure> {
        let mut push = client
            .push(&self.queue, payload)
            .encoding(self.encoding.of(payload)?)
            .priority(self.priority)
            .type_(&self.message_type);
        if let Some(delay) = self.delay {
            push = push.delay(delay);
        }
        if let Some(ttl) = self.ttl {
            push = push.ttl(ttl);
        }
        if let Some(id) = &self.id {
            push = push.id(id);
        }
        let sent = if confirm { push.confirm() } else { push.send() };
        sent.map_err(Failure::from)
    }
}

/// Takes messages from a queue and prints them; without --ack or --exec they go back
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A command of --exec gets the message on its standard input, and TRAMLINE_QUEUE, TRAMLINE_TOPIC, \
                  TRAMLINE_ATTEMPT and TRAMLINE_PRIORITY in its environment. If it ends with 0 the message is \
                  acknowledged, with 65 it is rejected to the dead letters, otherwise it is given out again later."
)]
pub(super) struct Pull {
    #[command(flatten)]
    socket: Socket,
    /// The queue's name
    queue: String,
    /// How many messages
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, conflicts_with = "follow")]
    count: u64,
    /// Go on until interrupted
    #[arg(long)]
    follow: bool,
    /// Acknowledge each message once it is printed
    #[arg(long, conflicts_with = "exec")]
    ack: bool,
    /// Run this command by sh for each message, and acknowledge by its exit code
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Messages to have at hand
    #[arg(long, value_name = "N", default_value_t = 1)]
    prefetch: u32,
    /// Wait at most so many seconds for each message; the exit code is 124 then
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

impl Pull {
    pub(super) fn run(self) -> Result<(), Failure> {
        let keeps = !self.ack && self.exec.is_none();
        if keeps && self.follow {
            return Err(Failure::usage(
                "--follow goes with --ack or --exec: otherwise every message would be kept",
            ));
        }
        let client = self.socket.connect("tramline queue pull")?;
        // What is kept until the end counts as well.
        let kept = u32::try_from(self.count).ok().filter(|_| keeps).unwrap_or(0);
        let mut consumer = client.consume(&self.queue).prefetch(self.prefetch.max(kept));
        if !self.follow {
            consumer = consumer.at_most(self.count);
        }
        let mut jobs = consumer.start()?;
        let mut output = Output::new();
        let mut kept = Vec::new();
        let mut taken = 0;
        while self.follow || taken < self.count {
            let job = match self.timeout {
                None => jobs.recv()?,
                Some(timeout) => jobs.recv_timeout(timeout)?.ok_or_else(|| {
                    Failure::timed_out(format!("no message in queue {} within {timeout:?}", self.queue))
                })?,
            };
            taken += 1;
            match &self.exec {
                Some(command) => self.execute(command, job)?,
                None => {
                    output.write(job.payload())?;
                    output.write(b"\n")?;
                    output.flush()?;
                    if self.ack {
                        job.ack()?;
                    } else {
                        // Given back at the end: at once it would be the next one again.
                        kept.push(job);
                    }
                }
            }
        }
        // What this consumer has goes back with its end, and not to itself once more.
        drop(jobs);
        drop(kept);
        Ok(client.flush()?)
    }

    fn execute(&self, command: &str, job: Job) -> Result<(), Failure> {
        let begun = monotonic_nanos();
        let cannot = |error: std::io::Error| Failure::system(format!("cannot run {command:?}: {error}"));
        let mut child = Command::new("sh")
            .args(["-c", command])
            .env("TRAMLINE_QUEUE", &self.queue)
            .env("TRAMLINE_TOPIC", job.topic())
            .env("TRAMLINE_ATTEMPT", job.attempt().to_string())
            .env("TRAMLINE_PRIORITY", job.priority().to_string())
            .stdin(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        if let Some(mut input) = child.stdin.take() {
            // A command need not read all of it, or any.
            let _ = input.write_all(job.payload());
        }
        let status = child.wait().map_err(cannot)?;
        match status.code() {
            Some(0) => job.ack()?,
            Some(NO_USE) => job.reject(&format!("{command} ended with {NO_USE}"))?,
            _ => {
                let seconds = Duration::from_nanos(monotonic_nanos().saturating_sub(begun)).as_secs_f64();
                let _ = writeln!(
                    std::io::stderr(),
                    "tramline: {command:?} ended with {status} after {seconds:.1} s; the message goes back"
                );
                job.nack()?;
            }
        }
        Ok(())
    }
}
