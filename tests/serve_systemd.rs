//! What the broker says to a service manager that passes it something else than a listening socket.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use support::have;

#[test]
fn a_passed_descriptor_that_is_no_listening_socket_is_refused() {
    if !have("systemd-socket-activate") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("t.sock");
    // With --accept each connection is passed instead of the listening socket.
    let mut activator = Command::new("systemd-socket-activate")
        .args(["--accept", "--listen"])
        .arg(&socket)
        .arg(env!("CARGO_BIN_EXE_tramline"))
        .arg("serve")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(_) => std::thread::yield_now(),
        }
    };
    // The refusing broker closes the connection and says why; then the activator says how it ended.
    stream.read_to_end(&mut Vec::new()).unwrap();
    let mut said = BufReader::new(activator.stderr.take().unwrap());
    let mut log = String::new();
    while !log.contains("died with code") {
        assert_ne!(said.read_line(&mut log).unwrap(), 0, "{log}");
    }
    activator.kill().unwrap();
    activator.wait().unwrap();
    assert!(log.contains("Accept= must be no") && log.contains("died with code 78"), "{log}");
}
