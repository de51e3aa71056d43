//! Standard output of commands: buffered, and a reader that has gone ends the command quietly.

use super::Failure;
use std::io::{BufWriter, ErrorKind, StdoutLock, Write};

/// Standard output, flushed when asked and at the end.
pub(super) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    /// Takes standard output.
    pub(super) fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, std::io::stdout().lock()))
    }

    /// Writes bytes as they are.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(cannot_write)
    }

    /// Writes a line.
    pub(super) fn line(&mut self, line: impl std::fmt::Display) -> Result<(), Failure> {
        writeln!(self.0, "{line}").map_err(cannot_write)
    }

    /// Lets the reader see everything written so far.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.0.flush().map_err(cannot_write)
    }
}

fn cannot_write(error: std::io::Error) -> Failure {
    if error.kind() == ErrorKind::BrokenPipe {
        // As with `| head`: whoever read has seen enough.
        return Failure::reader_gone();
    }
    Failure::io(format!("cannot write to standard output: {error}"))
}
