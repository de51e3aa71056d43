//! Parts played by other processes: the test program itself, started again. Each such program has a test called
//! `actor`, which looks for its part in the environment and is no test of anything without one.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The part that this process is to play, if it was started for one.
pub(crate) fn part() -> Option<String> {
    std::env::var("TRAMLINE_TEST_PART").ok()
}

/// Says something to the test.
pub(crate) fn say(word: impl std::fmt::Display) {
    // The test framework may have begun the line.
    println!("\nsays: {word}");
}

/// A process that plays a part. It is killed when the test ends.
pub(crate) struct Actor {
    pub(crate) child: Child,
    /// What it reads; closed when the test drops it.
    pub(crate) input: Option<ChildStdin>,
    said: Lines<BufReader<ChildStdout>>,
}

impl Actor {
    /// Starts this program again.
    pub(crate) fn start(part: &str, socket: &Path) -> Self {
        Self::of(Command::new(std::env::current_exe().unwrap()), part, socket)
    }

    /// Starts it by a command that was prepared.
    pub(crate) fn of(mut command: Command, part: &str, socket: &Path) -> Self {
        command.args(["--exact", "actor", "--nocapture", "--quiet"]).env("TRAMLINE_SOCKET", socket);
        command.env("TRAMLINE_TEST_PART", part).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { input: child.stdin.take(), child, said }
    }

    /// What it says next; the test framework's own words are passed over. `None` at its end.
    pub(crate) fn next_word(&mut self) -> Option<String> {
        loop {
            let line = self.said.next()?.expect("words are text");
            if let Some((_, word)) = line.split_once("says: ") {
                return Some(word.to_owned());
            }
        }
    }

    /// What it says next.
    pub(crate) fn word(&mut self) -> String {
        self.next_word().expect("the actor says something before it ends")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it (SIGKILL) and waits.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
