//! The broker under a service manager: sockets passed to it, and the news of its readiness and stop.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Broker, have, tramline};

#[test]
fn readiness_and_stopping_are_told() {
    let home = tempfile::tempdir().unwrap();
    let notify = UnixDatagram::bind(home.path().join("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let socket = home.path().join("t.sock");
    let mut broker = tramline()
        .args(["serve", "--socket"])
        .arg(&socket)
        .env("NOTIFY_SOCKET", home.path().join("notify"))
        .spawn()
        .unwrap();
    let told = || {
        let mut message = [0; 256];
        let length = notify.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    assert!(told().contains("READY=1"));
    // Ready means that connecting works now.
    UnixStream::connect(&socket).unwrap();
    let pid = rustix::process::Pid::from_child(&broker);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(told().contains("STOPPING=1"));
    assert!(broker.wait().unwrap().success());
}

#[test]
fn a_socket_passed_by_the_service_manager_is_used_and_not_removed() {
    if !have("systemd-socket-activate") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("t.sock");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(&socket).arg("--fdname=tramline").arg("-E").arg("NOTIFY_SOCKET");
    command.arg(env!("CARGO_BIN_EXE_tramline")).arg("serve");
    // It starts the broker at the first connection, which needs the socket, which it makes first.
    let path = socket.clone();
    let first = std::thread::spawn(move || {
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return stream,
                Err(_) => std::thread::yield_now(),
            }
        }
    });
    let mut broker = Broker::spawn(home, socket.clone(), command);
    drop(first.join().unwrap());
    assert!(broker.http("/health").contains("200 OK"));
    assert!(!broker.home().join("t.sock.lock").exists());
    assert!(broker.stop().success(), "{}", broker.log());
    assert!(socket.exists(), "the socket belongs to the service manager");
}

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
