//! A seeded mix of producers and consumers of queues on disk, under virtual time, over a store that is slow, full or
//! broken and whose power is cut at any step.
//!
//! Batches are under way for any number of steps. When the power is cut the one under way is kept or not, at random, and
//! everybody is gone; another broker begins with what the store holds. Books are kept beside: no confirmed message may be
//! missing at the end, none may come back within a run once it was acknowledged, none may be in two hands, the first
//! times that messages are given out keep their order, attempts have a limit, memory has one. `TRAMLINE_DURABLE_STEPS` and
//! `TRAMLINE_SEED`, when it is compiled, make it longer, or another.

use super::harness::{Shell, each_frame, message};
use super::model_store::ModelStore;
use super::world::Dice;
use crate::core::durable::{Shelf, StoreFailure, Written};
use crate::core::queues::Account;
use crate::core::{Action, Durability, Limits, QueueSettings, SessionId, WhenFull};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tramline_wire::{Code, Consume, Push, ToBroker, ToClient, Verdict};

const STEPS: u64 = 70_000;
const ATTEMPTS_MAX: u16 = 4;
const WINDOW: u64 = 4096;
const QUEUES: usize = 3;

fn queues() -> [QueueSettings; QUEUES] {
    let named = |name: &str, when_full, messages_max| QueueSettings {
        name: name.to_owned(),
        durability: Durability::Disk,
        when_full,
        messages_max,
        ack_timeout_millis: 200,
        attempts_max: ATTEMPTS_MAX,
        backoff_millis: 20,
        backoff_millis_max: 100,
        dead_messages_max: 1 << 20,
        dead_bytes_max: 1 << 40,
        id_window_millis: u32::MAX,
        ids_max: 10_000_000,
        ..QueueSettings::default()
    };
    [
        named("refuse", WhenFull::Refuse, 400),
        named("drop", WhenFull::DropOldest, 60),
        QueueSettings { ttl_millis: 900, ..named("ttl", WhenFull::DeadLetter, 200) },
    ]
}

/// What the books know of a message.
#[derive(Debug, Default)]
struct Known {
    queue: usize,
    priority: u8,
    has_id: bool,
    delayed: bool,
    confirmed: bool,
    /// In which run it was acknowledged last.
    acked: Option<u32>,
    /// In which run it was seen to be out of the row.
    out_of_order: Option<u32>,
}

#[derive(Debug, Default)]
struct Client {
    producer: bool,
    seqs: [u64; QUEUES],
    pending: BTreeMap<(usize, u64), u64>,
    consumers: BTreeMap<u32, usize>,
    jobs: BTreeMap<(u32, u64), u64>,
    next_consumer: u32,
}

/// How the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Good,
    Full,
    Broken,
}

#[derive(Debug, Default)]
struct Seen {
    confirmed: u64,
    redelivered: u64,
    cuts: u64,
    kept: u64,
    full: u64,
    broken: u64,
    loads: u64,
    dropped: u64,
    expired: u64,
    retried: u64,
    most: u64,
}

struct World {
    shell: Shell,
    store: ModelStore,
    disk: Disk,
    /// What the store was asked for and has not done.
    asked: VecDeque<Action>,
    run: u32,
    dice: Dice,
    clients: BTreeMap<SessionId, Client>,
    known: BTreeMap<u64, Known>,
    /// Messages that consumers have.
    held: BTreeSet<u64>,
    /// Pushes with an id of which nobody knows what became of them.
    unknown: Vec<u64>,
    last: u64,
    given: BTreeMap<(usize, u8), u64>,
    fresh: Vec<(usize, u8, u64)>,
    /// Whether an administrator moved very much at once, and it is not written yet.
    administered: bool,
    seen: Seen,
}

fn begin(store: &ModelStore, at: Option<&Shell>) -> Shell {
    let limits = Limits {
        prefetch_max: 12,
        queue_cache_bytes_max: WINDOW,
        store_waiting_bytes_max: 12_000,
        store_batch_bytes_max: 4096,
        ..Limits::default()
    };
    let mut shell = Shell::new(limits);
    if let Some(before) = at {
        // A machine that starts again may count from the beginning.
        shell.now.unix = before.now.unix + 1_000_000;
    }
    shell.core.restore(store.open(), 0);
    for queue in queues() {
        shell.core.add_queue(queue, shell.now).unwrap();
    }
    shell.core.restored(shell.now);
    shell.act();
    shell
}

impl World {
    fn new(seed: u64) -> Self {
        let store = ModelStore::default();
        Self {
            shell: begin(&store, None),
            store,
            disk: Disk::Good,
            asked: VecDeque::new(),
            run: 0,
            dice: Dice::new(seed),
            clients: BTreeMap::new(),
            known: BTreeMap::new(),
            held: BTreeSet::new(),
            unknown: Vec::new(),
            last: 0,
            given: BTreeMap::new(),
            fresh: Vec::new(),
            administered: false,
            seen: Seen::default(),
        }
    }

    fn someone(&mut self, of: impl Fn(&Client) -> bool) -> Option<SessionId> {
        let all: Vec<SessionId> =
            self.clients.iter().filter(|(_, each)| of(each)).map(|(id, _)| *id).collect();
        (!all.is_empty()).then(|| all[self.dice.roll(all.len())])
    }

    fn step(&mut self) {
        match self.dice.roll(32) {
            0 => self.arrive(),
            1..=7 => self.push(),
            8 | 9 => self.consume(),
            10..=17 => self.settle(),
            18..=26 => self.disk_turns(),
            27 | 28 => {
                let millis = self.dice.roll(40) as u64;
                self.shell.pass(millis);
            }
            29 if self.dice.roll(6) == 0 => self.die(),
            30 if self.dice.roll(12) == 0 => self.change_disk(),
            31 if self.dice.roll(60) == 0 => self.cut(),
            31 if self.dice.roll(40) == 0 => self.administer(),
            _ => {}
        }
        self.hear();
        self.check();
    }

    fn arrive(&mut self) {
        if self.clients.len() >= 8 {
            return;
        }
        let producer = self.dice.roll(3) == 0 || self.someone(|each| each.producer).is_none();
        let id = self.shell.native("w");
        if producer {
            for (alias, queue) in (0..).zip(queues()) {
                self.shell.say(id, ToBroker::OpenQueue { req: 1, alias, queue: &queue.name });
            }
        }
        self.clients.insert(id, Client { producer, ..Client::default() });
    }

    fn push(&mut self) {
        let Some(id) = self.someone(|each| each.producer) else { return };
        for _ in 0..=self.dice.roll(6) {
            let again = if self.dice.roll(3) == 0 { self.unknown.pop() } else { None };
            let number = again.unwrap_or_else(|| {
                self.last += 1;
                let known = Known {
                    queue: self.dice.roll(QUEUES),
                    priority: u8::try_from(self.dice.roll(3)).unwrap(),
                    has_id: self.dice.roll(3) == 0,
                    delayed: self.dice.roll(8) == 0,
                    ..Known::default()
                };
                self.known.insert(self.last, known);
                self.last
            });
            if again.is_some() {
                // It is there, or comes behind others now.
                self.known.get_mut(&number).unwrap().out_of_order = Some(self.run);
                self.seen.retried += 1;
            }
            let Known { queue, priority, has_id, delayed, .. } = self.known[&number];
            let name = number.to_le_bytes();
            for _ in 0..=usize::from(has_id && self.dice.roll(4) == 0) {
                let client = self.clients.get_mut(&id).unwrap();
                let seq = client.seqs[queue] + 1;
                let push = Push {
                    queue: u32::try_from(queue).unwrap(),
                    priority,
                    delay_millis: if delayed { 1 + u32::try_from(self.dice.roll(300)).unwrap() } else { 0 },
                    ttl_millis: 0,
                    id: if has_id { &name } else { &[] },
                    message: message(seq, &name),
                };
                let mut bytes = Vec::new();
                ToBroker::Push(push).encode(&mut bytes);
                if self.shell.input(id, &bytes, &[]).consumed == 0 {
                    // Held up: it is as if it had not been sent.
                    if has_id && !self.unknown.contains(&number) && !self.known[&number].confirmed {
                        self.unknown.push(number);
                    }
                    return;
                }
                client.seqs[queue] = seq;
                client.pending.insert((queue, seq), number);
            }
        }
    }

    fn consume(&mut self) {
        let Some(id) = self.someone(|each| !each.producer && each.consumers.len() < 3) else { return };
        let queue = self.dice.roll(QUEUES);
        self.begin_consuming(id, queue);
    }

    fn begin_consuming(&mut self, id: SessionId, queue: usize) {
        let client = self.clients.get_mut(&id).unwrap();
        client.next_consumer += 1;
        let consumer = client.next_consumer;
        client.consumers.insert(consumer, queue);
        let (queue, credit) = (&*queues()[queue].name, 8);
        let consume = Consume { req: 2, consumer, queue, credit, refill: true, weight: 1, priority: 0 };
        self.shell.say(id, ToBroker::Consume(consume));
    }

    fn settle(&mut self) {
        for _ in 0..=self.dice.roll(4) {
            let Some(id) = self.someone(|each| !each.jobs.is_empty()) else { return };
            let jobs: Vec<(u32, u64)> = self.clients[&id].jobs.keys().copied().collect();
            let (consumer, tag) = jobs[self.dice.roll(jobs.len())];
            let verdict = match self.dice.roll(10) {
                0 => Verdict::Nack { delay_millis: None },
                1 => Verdict::Nack { delay_millis: Some(0) },
                2 => Verdict::Reject { reason: "no" },
                _ => Verdict::Ack,
            };
            let number = self.clients.get_mut(&id).unwrap().jobs.remove(&(consumer, tag)).unwrap();
            self.held.remove(&number);
            if verdict == Verdict::Ack {
                self.known.get_mut(&number).unwrap().acked = Some(self.run);
            }
            self.shell.say(id, ToBroker::Settle { req: 0, consumer, first: tag, last: tag, verdict });
        }
    }

    /// The store does the next thing that it was asked for.
    fn disk_turns(&mut self) {
        self.asked.extend(self.shell.asked());
        let Some(action) = self.asked.pop_front() else { return };
        match action {
            Action::Store { batch, changes } => {
                let failure = |full| StoreFailure { full, message: format!("q.redb: no ({full})") };
                let result = match self.disk {
                    Disk::Good => {
                        self.store.commit(&changes);
                        Ok(Written { nanos: 1, file_bytes: 1 })
                    }
                    Disk::Full => Err(failure(true)),
                    Disk::Broken => {
                        // Nobody knows whether it is there after a restart.
                        if self.dice.roll(2) == 0 {
                            self.store.commit(&changes);
                        }
                        self.seen.broken += 1;
                        Err(failure(false))
                    }
                };
                self.seen.full += u64::from(self.disk == Disk::Full);
                self.shell.core.stored(batch, result, self.shell.now);
            }
            Action::Load { load, queue, shelf, after, messages_max, bytes_max } => {
                self.seen.loads += 1;
                let found = self.store.load((queue, shelf), after, messages_max.min(20), bytes_max);
                self.shell.core.loaded(load, Ok(found), self.shell.now);
            }
            other => panic!("{other:?}"),
        }
        self.shell.act();
    }

    fn change_disk(&mut self) {
        self.disk = match (self.disk, self.dice.roll(12)) {
            (Disk::Good, 0) => Disk::Broken,
            (Disk::Good, 1..=4) => Disk::Full,
            (Disk::Broken, _) => Disk::Broken,
            _ => Disk::Good,
        };
    }

    /// The power is cut.
    fn cut(&mut self) {
        self.asked.extend(self.shell.asked());
        let first = self.asked.iter().find(|action| matches!(action, Action::Store { .. }));
        if let Some(Action::Store { changes, .. }) = first
            && self.disk == Disk::Good
            && self.dice.roll(2) == 0
        {
            self.store.commit(changes);
            self.seen.kept += 1;
        }
        self.asked.clear();
        let status = self.shell.core.queue_status(self.shell.now);
        for counts in status.iter().map(|queue| queue.counts) {
            self.seen.dropped += counts.dropped + counts.purged;
            self.seen.expired += counts.expired;
        }
        for number in
            std::mem::take(&mut self.clients).into_values().flat_map(|each| each.pending.into_values())
        {
            let known = &self.known[&number];
            if known.has_id && !known.confirmed && !self.unknown.contains(&number) {
                self.unknown.push(number);
            }
        }
        (self.held, self.given, self.disk) = (BTreeSet::new(), BTreeMap::new(), Disk::Good);
        self.run += 1;
        self.seen.cuts += 1;
        self.shell = begin(&self.store, Some(&self.shell));
        for (status, stored) in self.shell.core.queue_status(self.shell.now).iter().zip(sorted(&self.store)) {
            let waiting: u64 = stored.waiting.iter().map(|stock| stock.messages).sum();
            assert_eq!(status.messages, waiting + stored.delayed.messages, "{status:?}");
            assert_eq!(status.dead_letters, stored.dead.messages, "{status:?}");
        }
    }

    fn die(&mut self) {
        let Some(id) = self.someone(|_| true) else { return };
        self.hear();
        let client = self.clients.remove(&id).unwrap();
        for number in client.jobs.values() {
            self.held.remove(number);
        }
        for number in client.pending.into_values() {
            if self.known[&number].has_id && !self.known[&number].confirmed && !self.unknown.contains(&number)
            {
                self.unknown.push(number);
            }
        }
        self.shell.hang_up(id);
    }

    fn administer(&mut self) {
        let queue = self.dice.roll(QUEUES);
        let name = &queues()[queue].name;
        let admin = self.shell.json();
        self.administered = true;
        let what = if self.dice.roll(3) > 0 { "replay" } else { "purge" };
        if what == "replay" {
            for known in self.known.values_mut().filter(|known| known.queue == queue) {
                known.out_of_order = Some(self.run);
            }
        }
        self.shell.line(admin, &format!(r#"{{"op":"queue","queue":"{name}","do":"{what}"}}"#));
        self.shell.read(admin);
        self.shell.hang_up(admin);
    }

    fn hear(&mut self) {
        // Who hears first that something was taken from it, or given to it, says nothing.
        let mut taken = Vec::new();
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            loop {
                let bytes = self.shell.read(id);
                if bytes.is_empty() {
                    break;
                }
                let client = self.clients.get_mut(&id).unwrap();
                each_frame(&bytes, |frame| match frame {
                    ToClient::Pushed { queue, first, last } => {
                        for seq in first..=last {
                            let number =
                                client.pending.remove(&(queue as usize, seq)).expect("it was pushed");
                            self.known.get_mut(&number).unwrap().confirmed = true;
                            self.seen.confirmed += 1;
                        }
                    }
                    ToClient::PushRefused { queue, seq, code, .. } => {
                        let code = Code::from_number(code).unwrap();
                        assert!(matches!(code, Code::QueueFull | Code::StoreReadOnly | Code::LimitReached));
                        let number = client.pending.remove(&(queue as usize, seq)).expect("it was pushed");
                        if self.known[&number].has_id && !self.unknown.contains(&number) {
                            self.unknown.push(number);
                        }
                    }
                    ToClient::Job(job) => {
                        let number = u64::from_le_bytes(job.message.payload.try_into().unwrap());
                        let known = self.known.get_mut(&number).expect("somebody pushed it");
                        assert_eq!(
                            (known.queue, known.priority),
                            (client.consumers[&job.consumer], job.priority)
                        );
                        assert_ne!(
                            known.acked,
                            Some(self.run),
                            "{number} comes back within a run: {known:?}"
                        );
                        taken.push(number);
                        self.seen.redelivered += u64::from(known.acked.is_some());
                        assert!(job.attempt <= u32::from(ATTEMPTS_MAX));
                        let in_row = !known.delayed && known.out_of_order.is_none();
                        if job.attempt == 1 && in_row {
                            self.fresh.push((known.queue, known.priority, number));
                        }
                        assert!(client.jobs.insert((job.consumer, job.tag), number).is_none());
                    }
                    ToClient::JobLost { consumer, tag, .. } => {
                        if let Some(number) = client.jobs.remove(&(consumer, tag)) {
                            self.held.remove(&number);
                        }
                    }
                    ToClient::Close { message, .. } => panic!("closed: {message}"),
                    _ => {}
                });
            }
        }
        for number in taken {
            assert!(self.held.insert(number), "{number} is in two hands: {:?}", self.known[&number]);
        }
    }

    fn check(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.sort_unstable();
        for (queue, priority, number) in fresh {
            let last = self.given.entry((queue, priority)).or_default();
            assert!(*last < number, "{number} of queue {queue} comes behind {last}");
            *last = number;
        }
        let core = &self.shell.core;
        let waiting = core.queues.ledger.waiting_bytes();
        self.administered &= waiting >= 12_000;
        // What is in memory may expire, be given back or become a dead letter all the same.
        assert!(waiting < 12_000 + 4096 + 120_000 || self.administered, "{waiting} bytes wait");
        for (_, queue) in core.queues.table.iter() {
            // Each of three priorities, what is not due and what was given back has a window, which the last may exceed.
            let outstanding = queue.in_flight() + queue.returned();
            let storing = queue.storing();
            let windows = 5 * (WINDOW / 158 + 1);
            let here = queue.in_memory();
            assert!(here <= windows + outstanding + storing + 24, "{here} in memory: {}", queue.name);
            self.seen.most = self.seen.most.max(queue.messages());
        }
    }

    /// The disk is well again and everything is worked off.
    fn finish(mut self) -> Seen {
        self.disk = Disk::Good;
        self.cut();
        let worker = self.shell.native("last");
        self.clients.insert(worker, Client::default());
        (0..QUEUES).for_each(|queue| self.begin_consuming(worker, queue));
        let left =
            |shell: &Shell| shell.core.queue_status(shell.now).iter().map(|it| it.messages).sum::<u64>();
        for _ in 0..100_000 {
            self.disk_turns();
            self.hear();
            self.check();
            let jobs = std::mem::take(&mut self.clients.get_mut(&worker).unwrap().jobs);
            if jobs.is_empty() && self.asked.is_empty() && left(&self.shell) == 0 {
                break;
            }
            for ((consumer, tag), number) in jobs {
                self.held.remove(&number);
                self.known.get_mut(&number).unwrap().acked = Some(self.run);
                let verdict = Verdict::Ack;
                self.shell.say(worker, ToBroker::Settle { req: 0, consumer, first: tag, last: tag, verdict });
            }
            self.shell.pass(5);
        }
        assert_eq!(left(&self.shell), 0, "nothing starves");
        self.shell.hang_up(worker);
        self.clients.clear();
        for _ in 0..1000 {
            self.shell.pass(50);
            self.disk_turns();
        }
        assert!(self.shell.core.is_all_stored() && self.asked.is_empty());
        let counts = self.shell.core.queue_status(self.shell.now);
        self.seen.dropped +=
            counts.iter().map(|queue| queue.counts.dropped + queue.counts.purged).sum::<u64>();
        assert!(
            self.store.messages.keys().all(|(_, shelf, _)| *shelf == Shelf::Dead),
            "what is done is removed"
        );
        let dead: BTreeSet<u64> =
            self.store.messages.values().map(|record| number_in(&record.bytes)).collect();
        let done = |number: &u64, known: &Known| known.acked.is_some() || dead.contains(number);
        let missing: Vec<_> =
            self.known.iter().filter(|(number, known)| known.confirmed && !done(number, known)).collect();
        let may_go = |queue: usize| queue == 1 || self.seen.dropped > 0;
        assert!(missing.len() as u64 <= self.seen.dropped, "{missing:?}");
        assert!(missing.iter().all(|(_, known)| may_go(known.queue)));
        let admin = self.shell.json();
        for name in queues().map(|queue| queue.name) {
            let line = format!(r#"{{"op":"queue","queue":"{name}","do":"purge_dead"}}"#);
            for _ in 0..=self.store.messages.len() / 10_000 {
                self.shell.line(admin, &line);
            }
        }
        self.shell.hang_up(admin);
        let charges = &self.shell.core.queues.charges;
        assert!(charges.is_empty() && charges.bytes(Account::Disk) == 0, "{charges:?}");
        self.seen
    }
}

/// As the status has them.
fn sorted(store: &ModelStore) -> Vec<crate::core::durable::StoredQueue> {
    let mut all = store.open();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// The message's own number, which is the end of it.
fn number_in(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[bytes.len() - 8..].try_into().unwrap())
}

#[test]
fn whatever_happens_to_the_disk_no_confirmed_message_is_lost() {
    let number = |text: Option<&str>| text.and_then(|value| value.parse::<u64>().ok());
    let steps = number(option_env!("TRAMLINE_DURABLE_STEPS")).unwrap_or(STEPS);
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    let mut happened = [0_u64; 10];
    let chosen = number(option_env!("TRAMLINE_SEED")).unwrap_or(random);
    // With the last two of these a message was once loaded although a consumer had, or had acknowledged, it.
    for seed in [1, 2, 14_737_194_721_539_287_880, 3_163_182_043_721_501_031, chosen] {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..steps {
                world.step();
            }
            world.finish()
        });
        assert!(result.is_ok(), "with TRAMLINE_SEED={seed}, see above");
        let seen = result.unwrap();
        let Seen { confirmed, redelivered, cuts, kept, full, broken, loads, dropped, expired, retried, most } =
            seen;
        let counts = [confirmed, redelivered, cuts, kept, full, broken, loads, dropped, expired, retried];
        happened.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
        assert!(most > 100, "{seen:?}");
    }
    // Worlds in which nothing happened would prove nothing; one alone may go without what is rare.
    assert!(happened.iter().all(|count| *count > 0), "{happened:?}");
}
