//! The broker under a service manager: told to report, and given its socket.
//!
//! The notify socket is the test's own; the socket is passed by the real `systemd-socket-activate`, which says
//! so in the environment exactly as systemd does. Without it that test says so loudly and ends; under `CI` it fails.

#![allow(clippy::unwrap_used, reason = "a test ends where it meets the unexpected")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Only to end a test that hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A process that does not outlive its test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Asks it to end, and waits until it has.
    fn terminate(mut self) -> ExitStatus {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Has ended already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What systemd would listen on for news of a service.
struct News {
    socket: UnixDatagram,
    path: PathBuf,
    directory: TempDir,
}

impl News {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(WATCHDOG)).unwrap();
        Self { socket, path, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits for a message that has `line` in it.
    fn wait_for(&self, line: &str) {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {line}: {error}"));
            let message = String::from_utf8_lossy(&buffer[..length]);
            if message.lines().any(|said| said == line) {
                return;
            }
        }
    }
}

/// Whether a broker serves on this socket.
fn is_served(socket: &Path) -> bool {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.0 200 OK") && answer.ends_with("{\"status\":\"ready\"}\n")
}

#[test]
fn the_broker_says_when_it_is_ready_and_when_it_stops() {
    let news = News::new();
    let socket = news.path("t.sock");
    let broker = Process::start(
        Command::new(env!("CARGO_BIN_EXE_tramline"))
            .args(["serve", "--socket"])
            .arg(&socket)
            .env("NOTIFY_SOCKET", &news.path)
            .env_remove("TRAMLINE_CONFIG"),
    );
    news.wait_for("READY=1");
    assert!(is_served(&socket));
    let ended = broker.terminate();
    news.wait_for("STOPPING=1");
    assert!(ended.success(), "{ended}");
    assert!(!socket.exists(), "the broker left its socket behind");
}

#[test]
fn a_socket_from_the_service_manager_is_served_and_left_alone() {
    let news = News::new();
    let socket = news.path("t.sock");
    let own = news.path("own.sock");
    let notify = format!("NOTIFY_SOCKET={}", news.path.display());
    let mut command = Command::new("systemd-socket-activate");
    command.arg("-l").arg(&socket).args(["-E", &notify]).arg(env!("CARGO_BIN_EXE_tramline"));
    command.args(["serve", "--socket"]).arg(&own).stderr(Stdio::piped());
    if Command::new("systemd-socket-activate").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "systemd-socket-activate (Debian package systemd) is missing"
        );
        eprintln!("SKIPPED: systemd-socket-activate (Debian package systemd) is missing");
        return;
    }
    let mut broker = Process::start(&mut command);
    // The tool says so when it listens; the broker starts with the first connection.
    let mut said = BufReader::new(broker.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("Listening on") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "systemd-socket-activate ended");
    }
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::stderr()));
    assert!(is_served(&socket));
    news.wait_for("READY=1");
    assert!(!own.exists(), "the socket that was passed stands above --socket");
    let ended = broker.terminate();
    news.wait_for("STOPPING=1");
    assert!(ended.success(), "{ended}");
    assert!(socket.exists(), "the socket is systemd's and stays");
}
