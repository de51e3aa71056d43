//! The units and the user that come with the broker, read by systemd's own tools: they must be free of faults,
//! stay as closed as they were written, and agree with each other.
//!
//! The program is not installed where tests run, so the units are checked as copies that name the built one.
//! Without systemd's tools a test says so loudly and ends; under `CI=true` it fails.

#![allow(clippy::unwrap_used, reason = "a test ends where it meets the unexpected")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{Broker, have};
use tempfile::TempDir;

/// What `systemd-analyze security` may say at most, in tenths: 13 when it was written, out of 100.
const EXPOSURE_TENTHS_MAX: u32 = 15;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// The values of `key` in a unit, in order.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// Copies of both units that start the program as built here.
fn copies() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["tramline.service", "tramline.socket"] {
        let copy = unit(name).replace("/usr/bin/tramline", env!("CARGO_BIN_EXE_tramline"));
        std::fs::write(directory.path().join(name), copy).unwrap();
    }
    directory
}

/// Runs a tool of systemd; none if it is not installed.
fn tool(name: &str, arguments: &[&str]) -> Option<Output> {
    if !have(name) {
        return None;
    }
    Some(Command::new(name).args(arguments).env_remove("SYSTEMD_LOG_LEVEL").output().unwrap())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    let directory = copies();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (service, socket) = (path("tramline.service"), path("tramline.socket"));
    let arguments = ["verify", "--man=no", "--recursive-errors=no", &service, &socket];
    let Some(output) = tool("systemd-analyze", &arguments) else { return };
    let complaints = said(&output);
    let ours: Vec<_> = complaints.lines().filter(|line| line.contains("tramline")).collect();
    assert!(output.status.success() && ours.is_empty(), "{complaints}");
    // The same tool does find faults: a key that does not exist must not pass.
    std::fs::write(&service, unit("tramline.service").replace("RestartSec=1s", "RestartSecs=1s")).unwrap();
    let Some(faulty) = tool("systemd-analyze", &arguments) else { return };
    assert!(said(&faulty).contains("RestartSecs"), "{}", said(&faulty));
}

#[test]
fn the_service_stays_closed() {
    let directory = copies();
    let service = directory.path().join("tramline.service");
    let threshold = format!("--threshold={EXPOSURE_TENTHS_MAX}");
    let arguments = ["security", "--no-pager", "--offline=true", &threshold, service.to_str().unwrap()];
    let Some(output) = tool("systemd-analyze", &arguments) else { return };
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_user_of_the_service_is_made() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    let user = folder().join("tramline.sysusers");
    let into = format!("--root={}", root.path().display());
    let Some(output) = tool("systemd-sysusers", &[&into, user.to_str().unwrap()]) else { return };
    assert!(output.status.success(), "{}", said(&output));
    let accounts = |file: &str| std::fs::read_to_string(root.path().join("etc").join(file)).unwrap();
    let service = unit("tramline.service");
    let user = values(&service, "User")[0];
    let entry =
        accounts("passwd").lines().find(|line| line.starts_with(&format!("{user}:"))).unwrap().to_owned();
    assert!(entry.ends_with("nologin"), "{entry}");
    let group = values(&service, "Group")[0];
    assert!(accounts("group").lines().any(|line| line.starts_with(&format!("{group}:"))));
}

#[test]
fn the_units_agree_with_each_other() {
    let (service, socket) = (unit("tramline.service"), unit("tramline.socket"));
    assert_eq!(values(&service, "Type"), ["notify"]);
    assert_eq!(values(&service, "Requires"), ["tramline.socket"]);
    assert_eq!(values(&service, "User"), values(&socket, "SocketUser"));
    assert_eq!(values(&service, "Group"), values(&socket, "SocketGroup"));
    let path = values(&socket, "ListenStream")[0];
    let directory = values(&service, "RuntimeDirectory")[0];
    assert!(path.starts_with(&format!("/run/{directory}/")), "{path}");
    assert_eq!(values(&service, "RuntimeDirectoryPreserve"), ["yes"], "or a stop takes the socket away");
    // Settings that would break what the broker is for.
    for (key, why) in [
        ("PrivateUsers", "every client would be user nobody"),
        ("PrivateNetwork", "http.listen would be hidden"),
        ("ProtectProc", "the supplementary groups of clients could not be read"),
        ("WatchdogSec", "the broker sends no watchdog messages"),
    ] {
        assert!(values(&service, key).is_empty(), "{key}: {why}");
    }
}
#[test]
fn the_command_of_the_service_exists() {
    let service = unit("tramline.service");
    let command = values(&service, "ExecStart")[0];
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("/usr/bin/tramline"));
    let rest: Vec<&str> = words.collect();
    // The program understands these arguments: what it misses is the file, not the flag.
    let output = support::tramline()
        .args(rest.iter().map(|word| word.replace("/etc/tramline/tramline.yaml", "/no/such/tramline.yaml")))
        .output()
        .unwrap();
    let complaint = said(&output);
    assert!(complaint.contains("/no/such/tramline.yaml"), "{complaint}");
    assert!(!output.status.success());
}

/// The system calls in a set such as `@system-service`, with those of the sets within it.
fn calls_in(set: &str) -> BTreeSet<String> {
    let Some(output) = tool("systemd-analyze", &["--no-pager", "syscall-filter", set]) else {
        return BTreeSet::new();
    };
    assert!(output.status.success(), "{}", said(&output));
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let members =
        listing.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    members
        .flat_map(|member| {
            if member.starts_with('@') { calls_in(member) } else { BTreeSet::from([member.to_owned()]) }
        })
        .collect()
}

#[test]
fn the_filter_lets_the_broker_make_every_call_it_makes() {
    if !have("strace") || !have("systemd-analyze") {
        return;
    }
    let service = unit("tramline.service");
    let filters = values(&service, "SystemCallFilter");
    let mut allowed = BTreeSet::new();
    for set in
        filters.iter().flat_map(|filter| filter.trim_start_matches('~').split(' ').map(|set| (*filter, set)))
    {
        let calls = calls_in(set.1);
        if set.0.starts_with('~') {
            allowed.retain(|call| !calls.contains(call));
        } else {
            allowed.extend(calls);
        }
    }
    assert!(allowed.contains("memfd_create") && !allowed.contains("ptrace"), "{allowed:?}");

    let home = tempfile::tempdir().unwrap();
    let trace = home.path().join("trace");
    nix::unistd::mkfifo(&trace, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let socket = home.path().join("t.sock");
    // As a grandchild, so that the broker is the one that is told to stop.
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-qq", "-e", "signal=none", "-o"]).arg(&trace);
    command
        .arg(env!("CARGO_BIN_EXE_tramline"))
        .args(["serve", "--http-listen", "127.0.0.1:0", "--socket"])
        .arg(&socket);
    let reading = std::thread::spawn(move || std::fs::read_to_string(trace).unwrap());
    let mut broker = Broker::spawn(home, socket, command);
    let mut subscriber = broker.json();
    assert_eq!(subscriber.ask(r#"{"op":"sub","topic":">"}"#)["ok"], true);
    assert_eq!(broker.json().ask(r#"{"op":"pub","topic":"a","data":1}"#)["ok"], true);
    assert!(subscriber.hear().contains(r#""data":1"#));
    assert!(broker.http("/metrics").contains("tramline_uptime_seconds"));
    assert!(broker.stop().success(), "{}", broker.log());
    let trace = reading.join().unwrap();
    let made: BTreeSet<&str> = trace
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('(').map(|(call, _)| call))
        .filter(|call| call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        .collect();
    assert!(made.contains("accept4") || made.contains("accept"), "{made:?}");
    let refused: Vec<_> = made.iter().filter(|call| !allowed.contains(**call)).collect();
    assert!(refused.is_empty(), "SystemCallFilter= refuses {refused:?}");
}
