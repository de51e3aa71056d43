//! `tramline demo`: everything arrives, and nothing is left, however it ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::tramline;

/// A wait that takes longer than this hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// A demonstration whose directory and processes can be told from all others.
struct Demo {
    home: tempfile::TempDir,
    child: Child,
}

impl Demo {
    fn start(words: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = tramline();
        command.arg("demo").args(words).env("TMPDIR", home.path());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { home, child }
    }

    /// Processes whose command line names the demonstration's directory: the broker and all roles.
    fn processes(&self) -> Vec<Pid> {
        processes_of(self.home.path())
    }

    /// Waits until the broker and four roles run.
    fn wait_until_all_run(&mut self) {
        let began = Instant::now();
        while self.processes().len() < 5 {
            assert!(began.elapsed() < WATCHDOG, "the processes do not start");
            assert!(self.child.try_wait().unwrap().is_none(), "the demonstration ended early");
            std::thread::yield_now();
        }
    }

    /// Waits for its end and checks that nothing is left of it.
    fn end(self) -> (Option<i32>, String) {
        let Self { home, child } = self;
        let output = child.wait_with_output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}\n{said}");
        assert_eq!(processes_of(home.path()), [], "still running\n{said}");
        (output.status.code(), said)
    }
}

fn processes_of(home: &Path) -> Vec<Pid> {
    let home = home.to_str().unwrap();
    let names_home = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(home)
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(names_home).filter_map(Pid::from_raw).collect()
}

#[test]
fn everything_arrives_and_nothing_is_left() {
    let (code, said) = Demo::start(&["--seconds", "0.5", "--frames", "6"]).end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.lines().any(|line| line == "lost: 0"), "{said}");
    assert_eq!(said.matches("  yes").count(), 5, "{said}");
    assert!(said.contains("broker: "), "{said}");
}

#[test]
fn any_capture_can_be_replayed() {
    let input = tempfile::NamedTempFile::new().unwrap();
    let mut capture =
        b"\r\n\n# comment\r\n$GPGGA,1*00\r\n{\"class\":\"TPV\",\"lat\":1.50}\r\n{\"class\":\"TPV\"}\n"
            .to_vec();
    capture.extend_from_slice(b"\xb5\x62\x00\x01\xff\xfe\n$\xff,\n\"\xff\"\nno line feed at the end");
    std::fs::write(input.path(), capture).unwrap();
    let path = input.path().to_str().unwrap();
    let (code, said) = Demo::start(&["--seconds", "0.2", "--frames", "1", "--input", path]).end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("lost: 0\n"), "{said}");
}

#[test]
fn a_missing_or_empty_capture_is_told() {
    let (code, said) = Demo::start(&["--input", "/no/such/capture"]).end();
    assert_eq!(code, Some(66), "{said}");
    let (code, said) = Demo::start(&["--input", "/dev/null"]).end();
    assert_eq!(code, Some(65), "{said}");
}

#[test]
fn a_long_directory_for_temporary_files_does_not_matter() {
    let home = tempfile::tempdir().unwrap();
    let long = home.path().join("x".repeat(120));
    std::fs::create_dir(&long).unwrap();
    let mut command = tramline();
    command.args(["demo", "--seconds", "0.2", "--frames", "1"]).env("TMPDIR", &long);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read_dir(&long).unwrap().next().is_none());
}

#[test]
fn an_interrupt_ends_everything() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut demo = Demo::start(&["--seconds", "600"]);
        demo.wait_until_all_run();
        kill_process(Pid::from_child(&demo.child), signal).unwrap();
        let (ended, said) = demo.end();
        assert_eq!(ended, Some(code), "{said}");
    }
}

#[test]
fn the_death_of_any_process_ends_everything() {
    for victim in ["serve", "replay", "camera", "native", "json"] {
        let mut demo = Demo::start(&["--seconds", "600"]);
        demo.wait_until_all_run();
        let is_victim = |pid: &Pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == victim.as_bytes())
        };
        let pid =
            demo.processes().into_iter().find(is_victim).unwrap_or_else(|| panic!("no process is {victim}"));
        kill_process(pid, Signal::KILL).unwrap();
        let (code, said) = demo.end();
        assert!(code.is_some_and(|code| code != 0), "{victim}: {said}");
        assert!(said.contains("tramline: "), "{victim}: {said}");
    }
}

#[test]
fn the_processes_end_with_one_that_is_killed() {
    let mut demo = Demo::start(&["--seconds", "600"]);
    demo.wait_until_all_run();
    demo.child.kill().unwrap();
    demo.child.wait().unwrap();
    let began = Instant::now();
    while !demo.processes().is_empty() {
        assert!(began.elapsed() < WATCHDOG, "still running: {:?}", demo.processes());
        std::thread::yield_now();
    }
}
