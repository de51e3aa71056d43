//! A client that may open no more files, and a publisher that is stopped while somebody attaches to it: what cannot be is
//! refused with a code, and everything else goes on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::fs::{File, Permissions};
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
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
        "crowded" => crowded(&client),
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

/// Sends a ring's descriptor while as many as this user may have are on their way to nobody in particular.
fn crowded(client: &Client) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(32), maximum }).unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    let send = || {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [one.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&one, &[IoSlice::new(b"x")], &mut control, SendFlags::DONTWAIT)
    };
    while send().is_ok() {}
    assert_eq!(send(), Err(Errno::TOOMANYREFS));
    // Only while they are on their way.
    let waiting = std::thread::spawn(move || {
        let used = || {
            let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
            // Behind the name: state, and ten numbers before the two times.
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let before = used();
        std::thread::park_timeout(Duration::from_secs(1));
        let used = used() - before;
        drop(other);
        used
    });
    let publisher = client.publisher("a.crowded").open().unwrap();
    let ticks = waiting.join().unwrap();
    // A hundred are a whole processor for that second, of which a busy machine gives a part.
    assert!(ticks < 10, "{ticks} ticks of a processor were spent on waiting");
    say("opened");
    publisher.close().unwrap();
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

#[test]
fn descriptors_that_are_too_many_on_their_way_are_sent_later_and_without_haste() {
    // Root has no such limit.
    if !support::is_root("a client whose descriptors are too many on their way") {
        return;
    }
    const USER: u32 = 61_235;
    let _watchdog = Watchdog::start();
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    // The other user may not be able to reach where this was built.
    let program = home.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let broker =
        Broker::with_config_in(home, &format!("socket:\n  mode: \"0666\"\nallow:\n  users: [{USER}]\n"));
    let mut command = Command::new(program);
    command.uid(USER).gid(USER).current_dir("/");
    let mut actor = Actor::of(command, "crowded", broker.socket());
    assert_eq!(actor.word(), "opened");
    assert!(actor.child.wait().unwrap().success());
}
