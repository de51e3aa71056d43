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
use std::thread::JoinHandle;
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

/// A process that will be killed at a step, watched by a thread.
pub(crate) struct Dying(JoinHandle<Vec<String>>);

impl Dying {
    pub(crate) fn start(part: &str, socket: &Path, at: (&str, u32)) -> Self {
        let actor = start(part, socket, Some(at));
        let at = format!("{}:{}", at.0, at.1);
        Self(std::thread::spawn(move || dies(actor, &at)))
    }

    pub(crate) fn wait(&self) {
        while !self.0.is_finished() {
            std::thread::yield_now();
        }
    }
}

/// A broker, and who reads a topic there: a client through rings, and a viewer without.
pub(crate) struct Readers {
    pub(crate) broker: Broker,
    client: Client,
    subscription: Subscription,
    viewer: JsonLines,
    /// What the broker and this process held before anybody published.
    before: (usize, usize),
    own: (usize, usize),
}

impl Readers {
    pub(crate) fn start() -> Self {
        let broker = Broker::start();
        let client = client(broker.socket(), "reader");
        let subscription = client.subscribe("cam").unwrap();
        let mut viewer = broker.json();
        assert_eq!(viewer.ask(r#"{"op":"sub","topic":"cam","reliable":true}"#)["ok"], true);
        let (before, own) = (held(&broker), held_here());
        Self { broker, client, subscription, viewer, before, own }
    }

    /// Reads what a publisher sends that is killed on the way, and sees that nothing is left of it. How many messages it
    /// said to have sent, and the number of the last that came: all it had published, and then a clear end.
    pub(crate) fn read_to_its_end(&mut self, dying: Dying, whole: fn(u64, &[u8])) -> (u64, u64) {
        let (mut dying, mut sent) = (Some(dying), None);
        let last = self.read_until(whole, |subscription, last| {
            if let Some(dead) = dying.take_if(|dying| dying.0.is_finished()) {
                sent = Some(dead.0.join().unwrap().len() as u64);
            }
            // What it said to have sent has come, and it has gone.
            sent.is_some_and(|sent| sent <= last) && subscription.publishers().is_empty()
        });
        self.settle();
        (sent.unwrap(), last)
    }

    /// Another process takes the topic over and sends so many, from its own first message on.
    pub(crate) fn read_another(&mut self, part: &str, messages: u64, whole: fn(u64, &[u8])) {
        let mut next = start(part, self.broker.socket(), None);
        self.read_until(whole, |_, last| last == messages);
        assert!(next.child.wait().unwrap().success());
        self.settle();
    }

    /// Reads what one publisher sends, from number 1 on, until `over` says that it is enough; the viewer is shown the same.
    /// Nothing may be missing, and `whole` says whether a message's bytes are its own.
    fn read_until(
        &mut self,
        whole: fn(u64, &[u8]),
        mut over: impl FnMut(&mut Subscription, u64) -> bool,
    ) -> u64 {
        let mut last = 0;
        while !over(&mut self.subscription, last) {
            match self.subscription.recv_timeout(Duration::from_millis(5)).unwrap() {
                Some(message) => {
                    check_next(&message, last, whole);
                    last = message.seq();
                }
                None => {
                    self.subscription.events();
                }
            }
        }
        for seq in 1..=last {
            let line: serde_json::Value = serde_json::from_str(&self.viewer.hear()).unwrap();
            assert_eq!((&line["op"], &line["seq"]), (&"msg".into(), &seq.into()), "{line}");
        }
        last
    }

    fn settle(&mut self) {
        let Self { broker, client, subscription, before, own, .. } = self;
        settles(broker, *before, *own, || {
            assert!(subscription.try_recv().unwrap().is_none());
            subscription.events();
            client.ping().unwrap();
        });
    }
}

pub(crate) fn check_next(message: &Message, last: u64, whole: fn(u64, &[u8])) {
    assert_eq!((message.seq(), message.lost_before()), (last + 1, 0));
    whole(message.seq(), message.payload());
}
