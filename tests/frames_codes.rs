//! Every code that the broker gives, from a real broker: those that need a machine in trouble stand here, the others in the
//! files of `frames_*` and `serve_*`; a test sees to it that none is forgotten.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;
mod support;

use raw::publisher::RawPublisher;
use raw::{Raw, shown, subscription};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::os::fd::AsFd;
use std::path::Path;
use support::Broker;
use tramline_ring::ReaderLink;
use tramline_wire::{Accept, Code, PageDeclaration, Subscribe, ToBroker, ToClient};

/// Lets the broker open this many more files; `None`: as many as ever.
fn leave_files(broker: &Broker, more: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(broker.pid()).unwrap());
    let folder = std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).unwrap();
    let open: Vec<u64> =
        folder.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // The limit is on numbers: so many below it must be free.
    let free = |limit: u64| limit - open.iter().filter(|number| **number < limit).count() as u64;
    let current = more.map_or(4096, |more| (1..4096).rev().find(|limit| free(*limit) == more).unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(current), maximum: Some(4096) }).unwrap();
}

/// A subscriber that was offered a stream, and the attachment.
fn offered(broker: &Broker) -> (Raw, u64) {
    let (mut raw, _) = Raw::open(broker.socket(), "subscriber");
    raw.send(&ToBroker::Subscribe(Subscribe { rings: true, ..subscription(1, "a") }));
    loop {
        let body = raw.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Offer(offer) => return (raw, offer.attach),
            ToClient::Source(_) => {}
            _ => panic!("{}", shown(&body)),
        }
    }
}

fn accept(raw: &mut Raw, attach: u64) {
    let page = ReaderLink::new().allocate_slot().unwrap().1.unwrap();
    let declared = PageDeclaration { first_slot: page.first_slot, slots: page.slots };
    let frame = Accept { attach, slot: 0, page: Some(declared), fds: 1 };
    raw.send_with(&ToBroker::Accept(frame), &[page.fd.as_fd()]);
}

#[test]
fn a_broker_without_files_for_a_links_pipes_says_so_and_goes_on() {
    let broker = Broker::start();
    let (mut publisher, _) = RawPublisher::open(broker.socket(), "a", 100, 4);
    let (mut raw, attach) = offered(&broker);
    // The page fits, the pipes do not.
    leave_files(&broker, Some(2));
    accept(&mut raw, attach);
    raw.expect(&ToClient::Detach { attach, code: Code::NoResources.number() });
    raw.expect(&ToClient::Subscribed { req: 1, sub: 1, streams: 0, pending: 0 });
    assert!(raw.settle().is_empty() && publisher.raw.settle().is_empty());
    leave_files(&broker, None);
    // With room again the next one is attached.
    let (mut raw, attach) = offered(&broker);
    accept(&mut raw, attach);
    publisher.admit_next();
    let body = raw.body();
    assert!(matches!(ToClient::decode(&body), Ok(ToClient::Attach(_))), "{}", shown(&body));
}

#[test]
fn a_broker_without_files_for_what_comes_ends_the_session_for_its_own_want() {
    let broker = Broker::start();
    let (_publisher, _) = RawPublisher::open(broker.socket(), "a", 100, 4);
    let (mut raw, attach) = offered(&broker);
    let (mut bystander, _) = Raw::open(broker.socket(), "bystander");
    leave_files(&broker, Some(0));
    accept(&mut raw, attach);
    let sentence = raw.expect_close(Code::NoResources);
    assert!(sentence.contains("no more free"), "{sentence}");
    bystander.settle();
}

/// Not a test by itself: a publisher that the next one kills.
#[test]
fn role_of_a_publisher_that_is_killed() {
    let Some(socket) = std::env::var_os("ROLE_SOCKET") else { return };
    let (mut publisher, _) = RawPublisher::open(Path::new(&socket), "a", 100, 4);
    println!("\nready");
    publisher.admit_next();
    std::io::stdin().read_line(&mut String::new()).unwrap();
    panic!("it was to be killed");
}

#[test]
fn a_reader_is_told_that_the_process_of_its_publisher_has_ended() {
    use std::io::{BufRead, BufReader};
    let broker = Broker::start();
    let mut publisher = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["role_of_a_publisher_that_is_killed", "--exact", "--nocapture"])
        .env("ROLE_SOCKET", broker.socket())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(publisher.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"));
    let (mut raw, attach) = offered(&broker);
    accept(&mut raw, attach);
    let body = raw.body();
    assert!(matches!(ToClient::decode(&body), Ok(ToClient::Attach(_))), "{}", shown(&body));
    raw.send(&ToBroker::Attached { attach });
    raw.settle();
    publisher.kill().unwrap();
    publisher.wait().unwrap();
    // Its socket and its process end at the same time; which of the two the broker hears of first is not said.
    let body = raw.body();
    let Ok(ToClient::Detach { attach: ended, code }) = ToClient::decode(&body) else {
        panic!("{}", shown(&body))
    };
    let told = Code::from_number(code);
    assert!(ended == attach && [Some(Code::ProcessEnded), Some(Code::PeerGone)].contains(&told), "{code}");
}

#[test]
fn a_line_that_is_too_large_for_the_socket_says_what_takes_it() {
    let broker = Broker::with_config("limits:\n  frame_bytes_max: 32KiB\n");
    let mut lines = broker.json();
    let text = "x".repeat(32 * 1024 - 60);
    let answer = lines.ask(&format!(r#"{{"op":"pub","topic":"a","text":"{text}"}}"#));
    assert_eq!(answer["error"]["code"], Code::PayloadTooLarge.as_str(), "{answer}");
    assert_eq!(lines.ask(r#"{"op":"ping"}"#)["ok"], true);
}

/// Codes that no conversation with a broker that works can bring about, and why.
const NOT_GIVEN: &[(Code, &str)] = &[
    (Code::Version, "a preamble without a common version is answered by the preamble, not by a frame"),
    (Code::BadPayload, "the broker looks into no payload; the client library gives it"),
    (Code::HeldTooMuch, "a publisher gives it, and the broker passes it on: tests/client_growth.rs"),
    (Code::StoreReadOnly, "it takes a disk that is full: tests/durable_kills.rs"),
    (Code::Internal, "it would be a fault of the broker itself"),
];

#[test]
fn every_code_is_shown_or_cannot_be() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut all = String::new();
    for entry in std::fs::read_dir(tests).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if ["frames_", "serve_", "e2e_"].iter().any(|start| name.starts_with(start)) {
            all += &std::fs::read_to_string(path).unwrap();
        }
    }
    for code in Code::ALL {
        let shown = all.contains(&format!("Code::{code:?}")) || all.contains(&format!("\"{}", code.as_str()));
        let excused = NOT_GIVEN.iter().any(|(known, _)| known == code);
        assert!(shown, "no test has a broker give {code:?}, nor says why none does");
        let given = all.matches(&format!("Code::{code:?}")).count() > 1;
        assert!(!excused || !given, "{code:?} is given after all: strike it from the list");
    }
}
