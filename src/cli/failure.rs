//! How a command ends: exit codes after `sysexits.h`, and one sentence for the person who started it.
//!
//! The codes stand in one table, from which `--help` and the manual pages are made.

use crate::config::{ConfigError, snippet};

/// Every exit code there is, and what it says.
const EXIT_STATUSES: [(u8, &str); 14] = [
    (0, "it did what it was asked to"),
    (1, "the service answered with an error of its own"),
    (64, "wrong arguments (EX_USAGE)"),
    (65, "the input is not what it must be (EX_DATAERR)"),
    (66, "a file to read is missing (EX_NOINPUT)"),
    (69, "no broker, a peer has gone, or the kernel lacks a feature (EX_UNAVAILABLE)"),
    (70, "the program found itself wrong (EX_SOFTWARE)"),
    (71, "the system refused something (EX_OSERR)"),
    (73, "a file cannot be made (EX_CANTCREAT)"),
    (74, "reading or writing failed (EX_IOERR)"),
    (75, "not now, perhaps later: a limit, no room, a broker there already (EX_TEMPFAIL)"),
    (77, "not allowed (EX_NOPERM)"),
    (78, "the configuration is wrong (EX_CONFIG)"),
    (124, "the time that was given is up, as timeout(1) says it"),
];

/// The exit codes as a section of help.
pub(super) fn exit_statuses() -> String {
    let lines = EXIT_STATUSES.iter().map(|(code, meaning)| format!("  {code:>3}  {meaning}"));
    let lines = lines.collect::<Vec<_>>().join("\n");
    format!("Exit status:\n{lines}\n  Above 128: ended by the signal of that number less 128.")
}

/// Why a command failed: an exit code and a sentence for the person who started it.
#[derive(Debug)]
pub struct Failure {
    pub(super) code: u8,
    pub(super) sentence: String,
}

impl Failure {
    /// A service answered with an error of its own (1).
    pub fn replied(sentence: impl ToString) -> Self {
        Self { code: 1, sentence: sentence.to_string() }
    }

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
    pub(super) fn with_detail(mut self, detail: &str) -> Self {
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

/// Why there is no configuration, with the line that the fault is in.
pub(super) fn told(error: ConfigError) -> Failure {
    match &error {
        ConfigError::Unreadable { .. } => Failure::no_input(error),
        ConfigError::Override(_) => Failure::usage(error),
        ConfigError::TooLong { .. } => Failure::config(error),
        ConfigError::Faulty { path, line, column, .. } => {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let shown = snippet(&text, *line, *column);
            Failure::config(error).with_detail(&shown)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_fail_stands_in_the_table() {
        let ways: [fn(&'static str) -> Failure; 13] = [
            Failure::replied,
            Failure::usage,
            Failure::input,
            Failure::no_input,
            Failure::unavailable,
            Failure::software,
            Failure::system,
            Failure::cannot_create,
            Failure::io,
            Failure::try_again,
            Failure::denied,
            Failure::config,
            Failure::timed_out,
        ];
        let codes: Vec<u8> = ways.iter().map(|way| way("").code).collect();
        let told: Vec<u8> = EXIT_STATUSES[1..].iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, told);
        assert_eq!(Failure::reader_gone().code, EXIT_STATUSES[0].0);
        assert!(exit_statuses().contains("\n   69  no broker"));
    }
}
