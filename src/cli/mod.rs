//! The command line: what may be written there, and how the program ends.
//!
//! Each command has a file of its own that parses nothing and exits nowhere: it gets its arguments
//! checked, and returns a [`Failure`] if it fails. This file turns that into one line on stderr and an
//! exit code after `sysexits.h`. It knows nothing of brokers and clients.

mod serve;

mod publish;

mod subscribe;

mod status;

mod bench;

mod demo;

mod generate;

mod connect;

mod output;

mod table;

mod histogram;

mod size;

mod clock;

mod scene;

mod private_broker;

mod role;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Why a command failed: an exit code and a sentence for the person who started it.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    sentence: String,
}

impl Failure {
    /// The arguments are wrong (64, `EX_USAGE`).
    pub fn usage(sentence: impl ToString) -> Self {
        Self { code: 64, sentence: sentence.to_string() }
    }

    /// The input is not what it must be (65, `EX_DATAERR`).
    pub fn input(sentence: impl ToString) -> Self {
        Self { code: 65, sentence: sentence.to_string() }
    }

    /// A file to read is missing (66, `EX_NOINPUT`).
    pub fn no_input(sentence: impl ToString) -> Self {
        Self { code: 66, sentence: sentence.to_string() }
    }

    /// No broker, or a peer that is gone (69, `EX_UNAVAILABLE`).
    pub fn unavailable(sentence: impl ToString) -> Self {
        Self { code: 69, sentence: sentence.to_string() }
    }

    /// The program found itself wrong (70, `EX_SOFTWARE`).
    pub fn software(sentence: impl ToString) -> Self {
        Self { code: 70, sentence: sentence.to_string() }
    }

    /// The system refused something (71, `EX_OSERR`).
    pub fn system(sentence: impl ToString) -> Self {
        Self { code: 71, sentence: sentence.to_string() }
    }

    /// A file cannot be made (73, `EX_CANTCREAT`).
    pub fn cannot_create(sentence: impl ToString) -> Self {
        Self { code: 73, sentence: sentence.to_string() }
    }

    /// Reading or writing failed (74, `EX_IOERR`).
    pub fn io(sentence: impl ToString) -> Self {
        Self { code: 74, sentence: sentence.to_string() }
    }

    /// Not now, perhaps later (75, `EX_TEMPFAIL`).
    pub fn try_again(sentence: impl ToString) -> Self {
        Self { code: 75, sentence: sentence.to_string() }
    }

    /// Not allowed (77, `EX_NOPERM`).
    pub fn denied(sentence: impl ToString) -> Self {
        Self { code: 77, sentence: sentence.to_string() }
    }

    /// The configuration is wrong (78, `EX_CONFIG`).
    pub fn config(sentence: impl ToString) -> Self {
        Self { code: 78, sentence: sentence.to_string() }
    }

    /// The same failure, with more lines about it.
    #[must_use]
    fn with_detail(mut self, detail: &str) -> Self {
        if !detail.is_empty() {
            self.sentence = format!("{}\n{detail}", self.sentence);
        }
        self
    }

    /// Whoever read standard output has gone: nothing to say, and nothing wrong.
    pub fn reader_gone() -> Self {
        Self { code: 0, sentence: String::new() }
    }

    /// The time that was given is up (124, as `timeout` does).
    pub fn timed_out(sentence: impl ToString) -> Self {
        Self { code: 124, sentence: sentence.to_string() }
    }
}

/// A message broker for one Linux host.
#[derive(Debug, Parser)]
#[command(name = "tramline", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    #[command(name = "pub")]
    Publish(publish::Publish),
    #[command(name = "sub")]
    Subscribe(subscribe::Subscribe),
    Status(status::Status),
    Bench(bench::Bench),
    Demo(demo::Demo),
    Completions(generate::Completions),
    Man(generate::Man),
    #[command(hide = true)]
    Role(role::Role),
}

/// Runs the program with these arguments (the first is its name) and says how it ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors. If even stderr is closed, only the exit code can tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let result = match arguments.command {
        Command::Serve(serve) => serve.run(),
        Command::Publish(publish) => publish.run(),
        Command::Subscribe(subscribe) => subscribe.run(),
        Command::Status(status) => status.run(),
        Command::Bench(bench) => bench.run(),
        Command::Demo(demo) => demo.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
        Command::Role(role) => role.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.sentence.is_empty() {
                // If standard error is closed, the exit code has to say it alone.
                let _ = writeln!(std::io::stderr(), "tramline: {}", failure.sentence);
            }
            ExitCode::from(failure.code)
        }
    }
}
