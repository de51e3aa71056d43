//! A client that may open no more files, and a publisher that is stopped while somebody attaches to it: what cannot be is
//! refused with a code, and everything else goes on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::fs::File;
use std::time::Duration;
use support::{Actor, Broker, Watchdog, part, say};
use tramline_client::{Client, Code};

/// Lets a part go on that [`wait`]s.
fn goes_on(actor: &mut Actor) {
    use std::io::Write;
    actor.input.as_mut().unwrap().write_all(b"\n").unwrap();
}

fn wait() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Whether every thread of a process stands still.
fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut statuses =
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
    statuses.all(|status| status.contains("State:\tT"))
}

/// What another process does when it is started for it. Without the variable this is no test of anything and
/// passes at once.
#[test]
fn actor() {
    let Some(part) = part() else { return };
    let client = Client::builder().name(part.as_str()).reconnect(false).connect().unwrap();
    match part.as_str() {
        "few files" => few_files(&client),
        "publish on demand" => {
            let mut publisher = client.publisher("a.stopped").open().unwrap();
            say("ready");
            publisher.wait_for_subscribers(1, Duration::from_secs(60)).unwrap();
            publisher.send(b"at last").unwrap();
            wait();
        }
        other => panic!("no such part: {other}"),
    }
}

/// Takes every descriptor that this process may open, up to `number`, but for `free`.
fn take_all(number: u64, free: usize) -> Vec<File> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(number), maximum }).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - free);
    taken
}

fn few_files(client: &Client) {
    client.ping().unwrap();
    let mut subscription = client.subscribe("a.>").unwrap();
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();
    // Room for the reader page that it makes and sends, and for one of the three that come then.
    let taken = take_all(64, 1);
    say("full");
    let error = subscription.recv().unwrap_err();
    assert_eq!(error.code(), Code::NoResources, "{error}");
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    // The session goes on, in both directions.
    client.ping().unwrap();
    client.publish("elsewhere", b"x").unwrap();
    say(format!("refused {}", client.is_connected()));
    drop(taken);
    assert!(files() <= before + 1, "descriptors leak: {} now, {before} before", files());
    wait();
    // With room again the next stream of the same publisher is attached as ever.
    say("room");
    assert_eq!(subscription.recv().unwrap().payload(), b"second");
    say("read");
}

#[test]
fn a_subscriber_out_of_files_is_refused_the_stream_and_keeps_its_session() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let client = broker.client("publisher");
    let mut reader = Actor::start("few files", broker.socket());
    assert_eq!(reader.word(), "full");
    let first = client.publisher("a.first").open().unwrap();
    assert_eq!(reader.word(), "refused true");
    while first.subscriber_count() > 0 {
        client.ping().unwrap();
    }
    goes_on(&mut reader);
    assert_eq!(reader.word(), "room");
    let mut second = client.publisher("a.second").open().unwrap();
    second.wait_for_subscribers(1, Duration::from_secs(50)).unwrap();
    second.send(b"second").unwrap();
    assert_eq!(reader.word(), "read");
    assert!(reader.child.wait().unwrap().success());
    assert!(!broker.log().contains("broke the protocol"), "{}", broker.log());
}

#[test]
fn a_stopped_publisher_hangs_no_subscriber_and_is_attached_when_it_goes_on() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config("limits:\n  attach_timeout_millis: 200\n");
    let mut publisher = Actor::start("publish on demand", broker.socket());
    assert_eq!(publisher.word(), "ready");
    publisher.signal(Signal::STOP);
    // It stops soon; nothing of it runs from then on.
    while !is_stopped(publisher.child.id()) {
        std::thread::yield_now();
    }
    let client = broker.client("subscriber");
    // It returns, with the stream pending; and so do others of the same client.
    let mut subscription = client.subscribe("a.stopped").unwrap();
    let mut other = client.subscribe("other").unwrap();
    client.publish("other", b"meanwhile").unwrap();
    assert_eq!(other.recv().unwrap().payload(), b"meanwhile");
    assert!(subscription.try_recv().unwrap().is_none());
    publisher.signal(Signal::CONT);
    assert_eq!(subscription.recv().unwrap().payload(), b"at last");
    goes_on(&mut publisher);
}
