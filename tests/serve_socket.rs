//! The broker's socket file, from outside: made, locked, replaced and removed by real processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::process::Signal;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use support::{Broker, tramline};

#[test]
fn sigterm_and_sigint_remove_the_socket_and_end_well() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut broker = Broker::start();
        assert_eq!(broker.socket().metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        broker.signal(signal);
        assert_eq!(broker.wait().code(), Some(0), "{}", broker.log());
        let left: Vec<_> =
            std::fs::read_dir(broker.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("t.sock")), "{left:?}");
    }
}

#[test]
fn a_live_broker_is_not_disturbed_by_a_second_one() {
    let broker = Broker::start();
    let output = tramline().arg("serve").arg("--socket").arg(broker.socket()).output().unwrap();
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{sentence}");
    assert!(sentence.contains(&format!("process {}", broker.pid())), "{sentence}");
    assert!(sentence.contains(broker.socket().to_str().unwrap()), "{sentence}");
    assert!(broker.http("/health").contains("200 OK"));
}

#[test]
fn a_killed_brokers_socket_is_replaced() {
    let mut broker = Broker::start();
    broker.kill();
    assert!(broker.socket().exists());
    let again = Broker::with_config_in(broker.into_home(), "");
    assert!(again.http("/health").contains("200 OK"));
}

#[test]
fn somebody_elses_live_socket_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("t.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let output = tramline().arg("serve").arg("--socket").arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(75));
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_path_that_is_too_long_is_named_with_its_length() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("x".repeat(120));
    let output = tramline().arg("serve").arg("--socket").arg(&path).output().unwrap();
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{sentence}");
    assert!(sentence.contains(&format!("{} bytes", path.as_os_str().len())), "{sentence}");
    assert!(sentence.contains("107"), "{sentence}");
}

#[test]
fn without_a_path_the_runtime_directory_is_used_and_printed() {
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut broker = tramline()
        .arg("serve")
        .env("XDG_RUNTIME_DIR", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let expected = home.path().join("tramline/tramline.sock");
    let mut printed = vec![0; expected.as_os_str().len() + 1];
    broker.stdout.as_mut().unwrap().read_exact(&mut printed).unwrap();
    assert_eq!(String::from_utf8(printed).unwrap(), format!("{}\n", expected.display()));
    assert!(UnixStream::connect(&expected).is_ok());
    assert_eq!(expected.parent().unwrap().metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    broker.kill().unwrap();
    broker.wait().unwrap();
}

#[test]
fn a_second_signal_ends_a_broker_that_still_drains() {
    let mut broker = Broker::start();
    // A subscriber that does not read, with more on its way than its socket takes, keeps the broker draining.
    let mut slow = broker.json();
    assert_eq!(slow.ask(r#"{"op":"sub","topic":"x.>"}"#)["ok"], true);
    let mut publisher = broker.json();
    let data = "x".repeat(60_000);
    for _ in 0..40 {
        publisher.ask(&format!(r#"{{"op":"pub","topic":"x.y","data":"{data}"}}"#));
    }
    broker.signal(Signal::INT);
    // Stopping begins: publishers are told, and their connections end.
    while !publisher.hear().is_empty() {}
    broker.signal(Signal::INT);
    let status = broker.wait();
    assert_eq!(status.code(), Some(143), "{:?} {}", status.signal(), broker.log());
    drop(slow);
}
