//! A process dies by `SIGKILL` at every step of publishing, reading, attaching and detaching, one after the other.
//! Each time the survivors go on, nothing stays in the broker, and another process takes its place.
//!
//! The steps are named in the code of the ring and the client (`step!`, compiled for tests only). A table here says who
//! goes through each; a step that is in no table, or that nobody reaches, fails the test. The processes are this
//! test program itself, started again to play a part (see [`actor`]).
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use support::{Actor, Broker, JsonLines, part, say};
use tramline_client::{Client, Message, OnFull, Publisher, Subscription};

/// Steps of a process that opens a ring, admits two readers, sends small and large messages and ends.
const OF_A_PUBLISHER: &[(&str, u32)] = &[
    ("open: memory made", 1),
    ("open: announced", 1),
    ("admit: asked", 1),
    ("admit: asked", 2),
    ("admit: page mapped", 1),
    ("admit: admitted", 1),
    ("admit: admitted", 2),
    ("admit: answered", 1),
    ("admit: answered", 2),
    ("open: opened", 1),
    ("publish: room taken", 1),
    ("publish: room taken", 30),
    ("publish: bytes written", 1),
    ("publish: bytes written", 31),
    ("publish: fields written", 1),
    ("publish: fields written", 40),
    ("publish: stamped", 1),
    ("publish: stamped", 41),
    ("publish: counted", 1),
    ("publish: counted", 42),
    ("publish: about to wake", 1),
    ("publish: about to wake", 20),
    ("publish: one woken", 1),
    ("publish: loaned", 1),
    ("publish: loaned", 17),
    ("publish: loan filled", 1),
    ("publish: loan filled", 18),
    ("publish: waits", 1),
    ("retire: stamped", 1),
    ("retire: stamped", 9),
    ("retire: fenced", 1),
    ("retire: taken back", 1),
    ("close: end written", 1),
    ("close: ended", 1),
    ("close: not told", 1),
    ("close: told", 1),
];

/// Steps of a process that subscribes, reads, holds messages, lets go and unsubscribes.
const OF_A_SUBSCRIBER: &[(&str, u32)] = &[
    ("attach: slot taken", 1),
    ("attach: accepted", 1),
    ("attach: memory came", 1),
    ("attach: bells set", 1),
    ("attach: mapped", 1),
    ("attach: cursor set", 1),
    ("attach: confirmed", 1),
    ("read: found", 1),
    ("read: found", 20),
    ("read: copied", 1),
    ("read: pin stored", 1),
    ("read: pin stored", 5),
    ("read: pinned", 1),
    ("read: pinned", 4),
    ("read: taken", 1),
    ("read: taken", 21),
    ("read: cursor moved", 1),
    ("read: cursor moved", 4),
    ("release: asked", 1),
    ("release: unpinned", 1),
    ("sleep: armed", 1),
    ("sleep: about to park", 1),
    ("detach: reader dropped", 1),
    ("detach: left", 1),
    ("detach: told", 1),
    ("detach: unsubscribed", 1),
];

/// Steps that a publisher goes through when a reader leaves it.
const OF_WHO_IS_LEFT: &[(&str, u32)] = &[("dismiss: asked", 1), ("dismiss: done", 1)];

const LARGE_BYTES: usize = 64 * 1024;

/// Held by each test: they count the descriptors and mappings of their common process.
static ALONE: Mutex<()> = Mutex::new(());

/// Ends a test that hangs, and with it everything it has started; lets one test run at a time.
fn watchdog() -> (MutexGuard<'static, ()>, mpsc::Sender<()>) {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (alive, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(300)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a test hangs");
            std::process::abort();
        }
    });
    (alone, alive)
}

fn client(socket: &Path, name: &str) -> Client {
    Client::builder().name(name).socket(socket).reconnect(false).connect().unwrap()
}

/// Every third message is large and filled in place; of each, all bytes say its number.
fn send(publisher: &mut Publisher) -> tramline_client::Result<u64> {
    let number = publisher.next_seq();
    let byte = u8::try_from(number % 251).unwrap();
    match number % 3 {
        0 => {
            let mut loan = publisher.loan(LARGE_BYTES)?;
            loan.fill(byte);
            loan.send()
        }
        1 => publisher.send([byte; 12]),
        _ => publisher.send([byte; 1000]),
    }
}

fn assert_whole(seq: u64, payload: &[u8]) {
    let length = [LARGE_BYTES, 12, 1000][usize::try_from(seq % 3).unwrap()];
    assert_eq!(payload.len(), length, "message {seq}");
    let byte = u8::try_from(seq % 251).unwrap();
    assert!(payload.iter().all(|each| *each == byte), "message {seq} is a mixture");
}

/// Starts a part, to be killed the so-manieth time that it comes to a step.
fn start(part: &str, socket: &Path, die_at: Option<(&str, u32)>) -> Actor {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if let Some((name, count)) = die_at {
        command.env("TRAMLINE_DIE_AT", format!("{name}:{count}"));
    }
    Actor::of(command, part, socket)
}

/// All it still says; then it must have been killed.
fn dies(mut actor: Actor, at: &str) -> Vec<String> {
    let said = std::iter::from_fn(|| actor.next_word()).collect();
    let status = actor.child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{at} was never reached: {status:?}, after {said:?}");
    said
}

/// What another process does when it is started for it. Without the variable this is no test of anything and
/// passes at once.
#[test]
fn actor() {
    let Some(part) = part() else { return };
    let client = Client::builder().name(part.as_str()).reconnect(false).connect().unwrap();
    match part.as_str() {
        "publish" => {
            let mut publisher =
                client.publisher("cam").capacity(LARGE_BYTES, 8).on_full(OnFull::Wait).open().unwrap();
            for _ in 0..60 {
                say(send(&mut publisher).unwrap());
            }
            publisher.close().unwrap();
        }
        "subscribe" => {
            let mut subscription = client.subscribe("cam").unwrap();
            say("ready");
            let mut held = Vec::new();
            for _ in 0..24 {
                let message = subscription.recv().unwrap();
                assert_whole(message.seq(), message.payload());
                if message.in_place() {
                    held.push(message);
                    held.drain(..held.len().saturating_sub(3));
                }
                say("read");
            }
            // One more for the last word, and then nothing: it sleeps.
            subscription.recv().unwrap();
            assert!(subscription.recv_timeout(Duration::from_millis(50)).unwrap().is_none());
            held.clear();
            drop(subscription);
            client.ping().unwrap();
            say("left");
        }
        "be left" => {
            let mut publisher = client.publisher("cam").capacity(LARGE_BYTES, 8).open().unwrap();
            say("ready");
            loop {
                let _ = send(&mut publisher);
            }
        }
        other => panic!("no such part: {other}"),
    }
}

/// What the broker holds: descriptors, and mappings of shared memory.
fn held(broker: &Broker) -> (usize, usize) {
    (broker.open_files(), broker.ring_mappings())
}

/// Descriptors that a client may keep for its next wait. Over all steps, one leaked by each would show.
const SPARE_FILES: usize = 8;

/// Waits until broker and this process hold no more than before: others close on threads of their own. The watchdog
/// ends this if it never is so.
fn settles(broker: &Broker, before: (usize, usize), own: (usize, usize), mut meanwhile: impl FnMut()) {
    loop {
        meanwhile();
        let (now, own_now) = (held(broker), held_here());
        let here = own_now.0 <= own.0 + SPARE_FILES && own_now.1 <= own.1;
        if now.0 <= before.0 && now.1 <= before.1 && here {
            return;
        }
    }
}

/// Descriptors, and mappings of rings and reader pages, of this process.
fn held_here() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mappings = maps.lines().filter(|line| line.contains("memfd:tramline")).count();
    (std::fs::read_dir("/proc/self/fd").unwrap().count(), mappings)
}

/// Reads what one publisher sends, from number 1 on, until `over` says that it is enough. Nothing may be missing.
fn read_through(
    subscription: &mut Subscription,
    mut over: impl FnMut(&mut Subscription, u64) -> bool,
) -> u64 {
    let mut last = 0;
    loop {
        match subscription.recv_timeout(Duration::from_millis(5)).unwrap() {
            Some(message) => {
                check_next(&message, last);
                last = message.seq();
            }
            None => {
                subscription.events();
            }
        }
        if over(subscription, last) {
            return last;
        }
    }
}

fn check_next(message: &Message, last: u64) {
    assert_eq!((message.seq(), message.lost_before()), (last + 1, 0));
    assert_whole(message.seq(), message.payload());
}

/// What a viewer without rings is shown of one publisher, up to its message `last`.
fn view_through(viewer: &mut JsonLines, last: u64) {
    for seq in 1..=last {
        let line: serde_json::Value = serde_json::from_str(&viewer.hear()).unwrap();
        assert_eq!((&line["op"], &line["seq"]), (&"msg".into(), &seq.into()), "{line}");
    }
}

#[test]
fn a_publisher_that_dies_at_any_step_leaves_whole_messages_a_clear_end_and_nothing_else() {
    let _watchdog = watchdog();
    let broker = Broker::start();
    let reader = client(broker.socket(), "reader");
    let mut subscription = reader.subscribe("cam").unwrap();
    let mut viewer = broker.json();
    assert_eq!(viewer.ask(r#"{"op":"sub","topic":"cam","reliable":true}"#)["ok"], true);
    let (before, own) = (held(&broker), held_here());
    for &(name, count) in OF_A_PUBLISHER {
        let at = format!("{name}:{count}");
        println!("{at}");
        let dying = start("publish", broker.socket(), Some((name, count)));
        let words = std::thread::spawn({
            let at = at.clone();
            move || dies(dying, &at)
        });
        let mut words = Some(words);
        let mut said = None;
        if name == "publish: waits" {
            // Nobody makes room for it until then.
            said = words.take().map(|words| words.join().unwrap());
        }
        let last = read_through(&mut subscription, |subscription, last| {
            if words.as_ref().is_some_and(|words| words.is_finished()) {
                said = words.take().map(|words| words.join().unwrap());
            }
            // What it said to have sent has come, and it has gone.
            let sent = said.as_ref().map(|said| said.last().map_or(0, |seq| seq.parse::<u64>().unwrap()));
            sent.is_some_and(|sent| sent <= last) && subscription.publishers().is_empty()
        });
        let sent = said.unwrap().len() as u64;
        assert!((sent..=sent + 1).contains(&last), "{at}: {sent} were sent, {last} were read");
        view_through(&mut viewer, last);
        settles(&broker, before, own, || {
            assert!(subscription.try_recv().unwrap().is_none());
            reader.ping().unwrap();
        });
        // Another process takes the topic over, from its own first message on.
        let mut next = start("publish", broker.socket(), None);
        let last = read_through(&mut subscription, |_, last| last == 60);
        view_through(&mut viewer, last);
        assert!(next.child.wait().unwrap().success());
        settles(&broker, before, own, || {
            assert!(subscription.try_recv().unwrap().is_none());
            subscription.events();
            reader.ping().unwrap();
        });
    }
}

#[test]
fn a_subscriber_that_dies_at_any_step_holds_nobody_up_and_leaves_nothing() {
    let _watchdog = watchdog();
    let broker = Broker::start();
    let (from, to) = (client(broker.socket(), "publisher"), client(broker.socket(), "survivor"));
    let mut publisher = from.publisher("cam").capacity(LARGE_BYTES, 8).on_full(OnFull::Wait).open().unwrap();
    let mut survivor = to.subscribe("cam").unwrap();
    let (before, own) = (held(&broker), held_here());
    let mut last = 0;
    let mut send_and_read = |publisher: &mut Publisher, survivor: &mut Subscription| {
        send(publisher).unwrap();
        let message = survivor.recv().unwrap();
        check_next(&message, last);
        last = message.seq();
    };
    for &(name, count) in OF_A_SUBSCRIBER {
        let at = format!("{name}:{count}");
        println!("{at}");
        let mut dying = start("subscribe", broker.socket(), Some((name, count)));
        // One message at a time, so that it sleeps in between; until it has read enough, or is dead.
        while dying.next_word().is_some_and(|word| word != "left") {
            send_and_read(&mut publisher, &mut survivor);
        }
        dies(dying, &at);
        // Many times around the ring, and nobody is waited for who is not there.
        for _ in 0..30 {
            send_and_read(&mut publisher, &mut survivor);
        }
        let mut next = start("subscribe", broker.socket(), None);
        while next.next_word().is_some_and(|word| word != "left") {
            send_and_read(&mut publisher, &mut survivor);
        }
        assert!(next.child.wait().unwrap().success());
        settles(&broker, before, own, || {
            assert!(survivor.try_recv().unwrap().is_none());
            from.ping().unwrap();
        });
        assert_eq!(publisher.subscriber_count(), 1);
    }
}

#[test]
fn a_publisher_that_dies_while_it_is_left_leaves_nothing() {
    let _watchdog = watchdog();
    let broker = Broker::start();
    let client = client(broker.socket(), "reader");
    client.ping().unwrap();
    let (before, own) = (held(&broker), held_here());
    for &(name, count) in OF_WHO_IS_LEFT {
        let at = format!("{name}:{count}");
        println!("{at}");
        let mut dying = start("be left", broker.socket(), Some((name, count)));
        assert_eq!(dying.word(), "ready");
        let mut subscription = client.subscribe("cam").unwrap();
        let message = subscription.recv().unwrap();
        assert_whole(message.seq(), message.payload());
        drop((message, subscription));
        dies(dying, &at);
        settles(&broker, before, own, || {
            client.ping().unwrap();
        });
    }
}

#[test]
fn every_step_in_the_code_stands_in_a_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = BTreeSet::new();
    for folder in ["client/src", "client/ring/src", "client/ring/src/writer", "client/ring/src/reader"] {
        // A package comes without the other crates.
        let Ok(files) = std::fs::read_dir(root.join(folder)) else { return };
        for file in files {
            let path = file.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for rest in text.split("step!(\"").skip(1) {
                named.insert(rest.split('"').next().unwrap().to_owned());
            }
        }
    }
    let tables = [OF_A_PUBLISHER, OF_A_SUBSCRIBER, OF_WHO_IS_LEFT].concat();
    let tried: BTreeSet<String> = tables.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(named, tried);
}
