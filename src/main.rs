//! The `tramline` program: one broker, and the commands that talk to it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tramline::cli::main(std::env::args_os())
}
