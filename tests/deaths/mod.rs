//! What the tests share that kill processes at named steps: parts played by other processes, and what is left of them.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

pub(crate) mod steps;
#[path = "../support/mod.rs"]
pub(crate) mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use support::{Actor, Broker, JsonLines};
use tramline_client::{Client, Message, Subscription};

/// Held by each test: they count the descriptors and mappings of their common process.
static ALONE: Mutex<()> = Mutex::new(());

/// Ends a test that hangs, and with it everything it has started; lets one test run at a time.
pub(crate) fn watchdog() -> (MutexGuard<'static, ()>, mpsc::Sender<()>) {
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

pub(crate) fn client(socket: &Path, name: &str) -> Client {
    Client::builder().name(name).socket(socket).reconnect(false).connect().unwrap()
}

/// Starts a part, to be killed the so-manieth time that it comes to a step.
pub(crate) fn start(part: &str, socket: &Path, die_at: Option<(&str, u32)>) -> Actor {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if let Some((name, count)) = die_at {
        command.env("TRAMLINE_DIE_AT", format!("{name}:{count}"));
    }
    Actor::of(command, part, socket)
}

/// All it still says; then it must have been killed.
pub(crate) fn dies(mut actor: Actor, at: &str) -> Vec<String> {
    let said = std::iter::from_fn(|| actor.next_word()).collect();
    let status = actor.child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{at} was never reached: {status:?}, after {said:?}");
    said
}

/// What the broker holds: descriptors, and mappings of shared memory.
pub(crate) fn held(broker: &Broker) -> (usize, usize) {
    (broker.open_files(), broker.ring_mappings())
}

/// Descriptors that a client may keep for its next wait. Over all steps, one leaked by each would show.
pub(crate) const SPARE_FILES: usize = 8;

/// Waits until broker and this process hold no more than before: others close on threads of their own. The watchdog
/// ends this if it never is so.
pub(crate) fn settles(
    broker: &Broker,
    before: (usize, usize),
    own: (usize, usize),
    mut meanwhile: impl FnMut(),
) {
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
pub(crate) fn held_here() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mappings = maps.lines().filter(|line| line.contains("memfd:tramline")).count();
    (std::fs::read_dir("/proc/self/fd").unwrap().count(), mappings)
}

/// What a viewer without rings is shown of one publisher, up to its message `last`.
pub(crate) fn view_through(viewer: &mut JsonLines, last: u64) {
    for seq in 1..=last {
        let line: serde_json::Value = serde_json::from_str(&viewer.hear()).unwrap();
        assert_eq!((&line["op"], &line["seq"]), (&"msg".into(), &seq.into()), "{line}");
    }
}

/// Reads what one publisher sends, from number 1 on, until `over` says that it is enough. Nothing may be missing, and
/// `whole` says whether a message's bytes are its own.
pub(crate) fn read_through(
    subscription: &mut Subscription,
    whole: fn(u64, &[u8]),
    mut over: impl FnMut(&mut Subscription, u64) -> bool,
) -> u64 {
    let mut last = 0;
    loop {
        match subscription.recv_timeout(Duration::from_millis(5)).unwrap() {
            Some(message) => {
                check_next(&message, last, whole);
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

pub(crate) fn check_next(message: &Message, last: u64, whole: fn(u64, &[u8])) {
    assert_eq!((message.seq(), message.lost_before()), (last + 1, 0));
    whole(message.seq(), message.payload());
}
