//! The quick way of small messages against the general one: two brokers are told the same, one of them may take
//! publishes in stretches and the other takes each by itself. What each subscription is given, in which order, what
//! is counted and when publishers are held up must be the same.

use super::harness::{Shell, each_frame, message, subscribe};
use super::world::{Dice, limits};
use crate::core::snapshot::SubscriptionStatus;
use crate::core::subscription::Entry;
use crate::core::{Language, Limits, SessionId};
use std::collections::BTreeMap;
use tramline_wire::{
    After, Encoding, Message, MessageFlags, Publish, SlowPolicy, Subscribe, ToBroker, ToClient,
};

/// What one native session was given: for each subscription its messages (alias of the source and number) and losses.
fn heard(bytes: &[u8]) -> (BTreeMap<u32, Vec<String>>, Vec<String>) {
    let (mut subscriptions, mut other) = (BTreeMap::<u32, Vec<String>>::new(), Vec::new());
    each_frame(bytes, |frame| match frame {
        ToClient::Deliver(deliver) => {
            subscriptions.entry(deliver.sub).or_default().push(format!("{deliver:?}"));
        }
        ToClient::Gap { sub, .. } => subscriptions.entry(sub).or_default().push(format!("{frame:?}")),
        frame => other.push(format!("{frame:?}")),
    });
    (subscriptions, other)
}

struct Pair {
    shells: [Shell; 2],
    dice: Dice,
    publishers: Vec<SessionId>,
    subscribers: Vec<SessionId>,
    /// What a publisher has said that its broker has yet to take, which waits for the same reason in both.
    unsaid: BTreeMap<SessionId, Vec<u8>>,
    seq: u64,
    json: SessionId,
    /// Messages taken in stretches.
    stretched: u64,
    /// How often a run waited of which a part had been taken or dropped.
    runs: usize,
}

impl Pair {
    fn new(seed: u64) -> Self {
        // With the smaller queue a stretch may be more than that holds.
        let backlog_bytes_max = [9_000, 1_500][usize::from(seed % 2 == 1)];
        let limits = || Limits { outbox_bytes_max: 9_000, backlog_bytes_max, ..limits() };
        let mut shells = [Shell::new(limits()), Shell::new(limits())];
        shells[1].core.general_only = true;
        let mut dice = Dice::new(seed);
        let (mut publishers, mut subscribers) = (Vec::new(), Vec::new());
        let both = |shells: &mut [Shell; 2], act: &mut dyn FnMut(&mut Shell) -> SessionId| {
            let [one, other] = shells;
            let id = act(one);
            assert_eq!(id, act(other));
            id
        };
        for _ in 0..2 {
            publishers.push(both(&mut shells, &mut |shell| {
                let id = shell.native("p");
                for (alias, topic) in [(0, "a.x"), (1, "a.y"), (2, "b")] {
                    shell.say(id, ToBroker::Topic { alias, topic });
                }
                id
            }));
        }
        for _ in 0..3 {
            let filters = ["a.*", "a.x", ">", "b"];
            let wanted: Vec<(&str, usize)> =
                (0..1 + dice.roll(3)).map(|_| (filters[dice.roll(4)], dice.roll(3))).collect();
            subscribers.push(both(&mut shells, &mut |shell| {
                let id = shell.native("s");
                for (sub, (filter, slow)) in (1_u32..).zip(&wanted) {
                    let slow =
                        [SlowPolicy::DropOldest, SlowPolicy::Block { millis: 30 }, SlowPolicy::Disconnect]
                            [*slow];
                    shell.say(id, ToBroker::Subscribe(Subscribe { slow, ..subscribe(sub, sub, filter) }));
                }
                shell.read(id);
                id
            }));
        }
        let json = both(&mut shells, &mut |shell| shell.connect(1000, Language::Json));
        let unsaid = BTreeMap::new();
        Self { shells, dice, publishers, subscribers, unsaid, seq: 0, json, stretched: 0, runs: 0 }
    }

    /// Some publishes in one piece, most of them on one topic and with nothing special.
    fn publishes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (flags, head) = (MessageFlags::default(), b"\x01t");
        for _ in 0..=self.dice.roll(20) {
            self.seq += 1;
            let payload = vec![7; self.dice.roll(200)];
            let plain = message(self.seq, &payload);
            let message = match self.dice.roll(16) {
                0 => Message { flags: flags.with_confirm(), ..plain },
                1 => Message { after: Some(After { stream: 5, seq: 1 }), ..plain },
                2 => Message { head, ..plain },
                3 => Message { flags: MessageFlags::new(Encoding::Json), payload: b"{}", ..plain },
                _ => plain,
            };
            let alias = if self.dice.roll(8) == 0 { 1 + u32::from(self.dice.roll(2) == 0) } else { 0 };
            ToBroker::Publish(Publish { alias, message }).encode(&mut bytes);
        }
        bytes
    }

    fn step(&mut self) {
        match self.dice.roll(9) {
            0..=3 => {
                let publisher = self.publishers[self.dice.roll(2)];
                let new = self.publishes();
                let mut bytes = self.unsaid.remove(&publisher).unwrap_or_default();
                bytes.extend(new);
                let before = self.shells[0].core.stretched;
                let [one, other] = &mut self.shells;
                let taken = one.input(publisher, &bytes, &[]);
                let again = other.input(publisher, &bytes, &[]);
                assert_eq!((taken.consumed, taken.flow), (again.consumed, again.flow));
                bytes.drain(..taken.consumed);
                bytes.truncate(4_000);
                if bytes.len() < 4_000 {
                    self.unsaid.insert(publisher, bytes);
                }
                self.stretched += self.shells[0].core.stretched - before;
            }
            4 | 5 => {
                // As much as both have: what was appended in another order has other borders within.
                for id in self.subscribers.clone() {
                    if self.dice.roll(4) > 0 {
                        let read = self.shells.each_mut().map(|shell| heard(&shell.read(id)));
                        assert_eq!(read[0], read[1]);
                    }
                }
            }
            6 => self.shells.iter_mut().for_each(|shell| shell.pass(7)),
            7 => {
                let line =
                    ["{\"op\":\"sub\",\"topic\":\"a.>\",\"id\":1}", "{\"op\":\"unsub\",\"sub\":1,\"id\":2}"]
                        [self.dice.roll(2)];
                let lines = self.shells.each_mut().map(|shell| {
                    shell.line(self.json, line);
                    shell.read(self.json)
                });
                assert_eq!(lines[0], lines[1]);
            }
            _ => {
                let publisher = self.publishers[self.dice.roll(2)];
                let read = self.shells.each_mut().map(|shell| shell.read(publisher));
                assert_eq!(read[0], read[1]);
            }
        }
        let runs = self.shells[0].core.subscriptions.iter().flat_map(|(_, subscription)| &subscription.queue);
        self.runs += runs.filter(|entry| matches!(entry, Entry::Run(run) if run.next > 0)).count();
        let counted = self.shells.each_mut().map(|shell| {
            let snapshot = shell.core.snapshot(shell.now);
            let sessions: Vec<String> =
                snapshot.sessions.iter().map(|it| format!("{:?} {}", it.traffic, it.paused)).collect();
            let queued = |it: &SubscriptionStatus| (it.backlog_bytes, it.backlog_messages, it.lost);
            let subscriptions: Vec<_> = snapshot.subscriptions.iter().map(queued).collect();
            (format!("{:?}", snapshot.totals), sessions, subscriptions, shell.closing.clone())
        });
        assert_eq!(counted[0], counted[1]);
    }
}

#[test]
fn a_stretch_is_what_its_messages_are() {
    let (mut stretched, mut runs) = (0, 0);
    for seed in 0..40 {
        let mut pair = Pair::new(seed);
        for step in 0..120 {
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.step()));
            assert!(told.is_ok(), "seed {seed}, step {step}");
        }
        stretched += pair.stretched;
        runs += pair.runs;
    }
    assert!(runs > 100, "runs were cut into {runs} times only");
    assert!(stretched > 2_500, "only {stretched} messages went the quick way");
}
