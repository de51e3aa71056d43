//! Queues on disk, case by case: what is answered when, every limit, a disk that is full or broken, what was there before.

mod going;
mod rings;

use super::harness::{Shell, each_frame, message};
use super::model_store::ModelStore;
use crate::core::durable::{Shelf, StoreFailure, Written};
use crate::core::{Action, Durability, Flow, Limits, QueueSettings, SessionId, WhenFull, Who};
use tramline_wire::{Code, Consume, DeclareQueue, Push, ToBroker, ToClient, Verdict};

fn settings() -> QueueSettings {
    let name = "jobs".to_owned();
    QueueSettings { name, durability: Durability::Disk, backoff_millis: 0, ..QueueSettings::default() }
}

/// A core over a store that does as it is told when it is told.
struct World {
    shell: Shell,
    store: ModelStore,
}

impl World {
    fn new(limits: Limits, settings: QueueSettings) -> Self {
        Self::with(ModelStore::default(), limits, settings)
    }

    fn with(store: ModelStore, limits: Limits, settings: QueueSettings) -> Self {
        let mut shell = Shell::new(limits);
        shell.core.restore(store.open(), 0);
        shell.core.add_queue(settings, shell.now).unwrap();
        shell.core.restored(shell.now);
        shell.act();
        let mut world = Self { shell, store };
        world.work();
        // What is written of the queue itself waits for company.
        world.shell.pass(20);
        world.work();
        world
    }

    /// Does everything that was asked for, and what that brings about.
    fn work(&mut self) {
        loop {
            let asked = self.shell.asked();
            if asked.is_empty() {
                return;
            }
            for action in asked {
                match action {
                    Action::Store { batch, changes } => {
                        self.store.commit(&changes);
                        self.shell.core.stored(batch, Ok(Written::default()), self.shell.now);
                    }
                    Action::Load { load, queue, shelf, after, messages_max, bytes_max } => {
                        let found = self.store.load((queue, shelf), after, messages_max, bytes_max);
                        self.shell.core.loaded(load, Ok(found), self.shell.now);
                    }
                    other => panic!("{other:?}"),
                }
                self.shell.act();
            }
        }
    }

    /// The batch that is under way fails.
    fn fail(&mut self, full: bool) {
        let [Action::Store { batch, .. }] = self.shell.asked()[..] else { panic!("one batch is under way") };
        let message = "the store /s/q: there is no room".to_owned();
        self.shell.core.stored(batch, Err(StoreFailure { full, message }), self.shell.now);
        self.shell.act();
    }

    fn producer(&mut self) -> SessionId {
        let id = self.shell.native("p");
        self.shell.say(id, ToBroker::OpenQueue { req: 0, alias: 0, queue: "jobs" });
        id
    }

    fn consumer(&mut self, credit: u32) -> SessionId {
        let id = self.shell.native("c");
        let queue = "jobs";
        let consume = Consume { req: 1, consumer: 1, queue, credit, refill: true, weight: 1, priority: 0 };
        self.shell.say(id, ToBroker::Consume(consume));
        id
    }

    /// Payloads and attempts of what a consumer is given.
    fn jobs(&mut self, id: SessionId) -> Vec<(Vec<u8>, u32)> {
        let mut found = Vec::new();
        each_frame(&self.shell.read(id), |frame| {
            if let ToClient::Job(job) = frame {
                found.push((job.message.payload.to_vec(), job.attempt));
            }
        });
        found
    }

    /// The only refusal that a session hears.
    fn refusal(&mut self, id: SessionId) -> (Code, String, Option<(String, u64, u64)>) {
        let mut found = Vec::new();
        each_frame(&self.shell.read(id), |frame| match frame {
            ToClient::Error { code, message, limit, .. }
            | ToClient::PushRefused { code, message, limit, .. } => {
                let limit = limit.map(|limit| (limit.name.to_owned(), limit.value, limit.used));
                found.push((Code::from_number(code).unwrap(), message.to_owned(), limit));
            }
            _ => {}
        });
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn messages(&self) -> u64 {
        self.shell.core.queue_status(self.shell.now)[0].messages
    }
}

fn push(seq: u64, payload: &[u8]) -> Push<'_> {
    Push { queue: 0, priority: 4, delay_millis: 0, ttl_millis: 0, id: &[], message: message(seq, payload) }
}

fn pushed(first: u64, last: u64) -> ToClient<'static> {
    ToClient::Pushed { queue: 0, first, last }
}

fn settle(tag: u64, verdict: Verdict<'_>) -> ToBroker<'_> {
    ToBroker::Settle { req: 0, consumer: 1, first: tag, last: tag, verdict }
}

#[test]
fn a_push_is_answered_and_given_out_when_it_is_stored_and_what_comes_meanwhile_shares_the_next_batch() {
    let mut world = World::new(Limits::default(), settings());
    let (one, other, taker) = (world.producer(), world.producer(), world.consumer(9));
    world.jobs(taker);
    world.shell.say(one, ToBroker::Push(push(1, b"a")));
    for seq in 2..=3 {
        world.shell.say(one, ToBroker::Push(push(seq, b"b")));
        world.shell.say(other, ToBroker::Push(push(seq, b"c")));
    }
    world.shell.hears(one, &[]);
    assert_eq!(world.jobs(taker), []);
    let asked = world.shell.asked();
    let [Action::Store { batch, changes }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(changes.len(), 1, "the first goes at once");
    world.shell.core.stored(*batch, Ok(Written::default()), world.shell.now);
    world.shell.act();
    world.shell.hears(one, &[pushed(1, 1)]);
    assert_eq!(world.jobs(taker), [(b"a".to_vec(), 1)]);
    let asked = world.shell.asked();
    let [Action::Store { changes, .. }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(changes.len(), 4, "the others together");
}

#[test]
fn a_line_that_pushes_is_answered_when_it_is_stored_also_if_its_client_writes_no_more() {
    let mut world = World::new(Limits::default(), settings());
    let json = world.shell.json();
    world.shell.line(json, r#"{"op":"push","queue":"jobs","data":1,"id":7}"#);
    assert_eq!(world.shell.core.half_closed(json, world.shell.now), Flow::Continue);
    world.shell.hears_lines(json, &[]);
    world.work();
    world.shell.hears_lines(json, &[r#"{"ok":true,"op":"push","id":7,"queue":"jobs"}"#]);
    assert!(world.shell.closing.contains(&json));
}

#[test]
fn a_message_that_was_pushed_twice_is_confirmed_with_the_first_and_with_it_refused() {
    let mut world = World::new(Limits::default(), settings());
    let from = world.producer();
    let named = |seq| ToBroker::Push(Push { id: b"i", ..push(seq, b"x") });
    world.shell.say(from, named(1));
    world.shell.say(from, named(2));
    world.shell.hears(from, &[]);
    world.fail(true);
    let mut refused = 0;
    each_frame(&world.shell.read(from), |frame| {
        refused += u64::from(
            matches!(frame, ToClient::PushRefused { code, .. } if code == Code::StoreReadOnly.number()),
        );
    });
    assert_eq!((refused, world.messages()), (2, 0));
    // It tries again by itself; then the id is as unknown as the message.
    world.shell.pass(1000);
    world.work();
    world.shell.say(from, named(3));
    world.shell.say(from, named(4));
    world.work();
    world.shell.hears(from, &[pushed(3, 3), pushed(4, 4)]);
    assert_eq!(world.messages(), 1);
    world.shell.say(from, named(5));
    world.shell.hears(from, &[pushed(5, 5)]);
}

#[test]
fn what_consumers_say_is_written_in_groups_and_kept_while_the_disk_is_full() {
    let mut world = World::new(Limits::default(), settings());
    let from = world.producer();
    for seq in 1..=3 {
        world.shell.say(from, ToBroker::Push(push(seq, b"x")));
    }
    world.work();
    let taker = world.consumer(9);
    assert_eq!(world.jobs(taker).len(), 3);
    world.shell.say(taker, settle(1, Verdict::Ack));
    world.shell.say(taker, settle(2, Verdict::Reject { reason: "no" }));
    assert_eq!(world.shell.asked(), [], "nobody waits for it");
    world.shell.pass(20);
    world.fail(true);
    let status = world.shell.core.snapshot(world.shell.now).store;
    assert_eq!((status.state, status.reason.as_deref()), ("full", Some("the store /s/q: there is no room")));
    let (code, message, _) = {
        world.shell.read(from);
        world.shell.say(from, ToBroker::Push(push(4, b"x")));
        world.refusal(from)
    };
    assert_eq!(code, Code::StoreReadOnly);
    assert!(message.contains("/s/q") && message.contains("room"), "{message}");
    world.shell.say(taker, settle(3, Verdict::Ack));
    world.shell.pass(999);
    assert_eq!(world.shell.asked(), []);
    world.shell.pass(1);
    world.work();
    assert_eq!(world.shell.core.snapshot(world.shell.now).store.state, "writable");
    let left: Vec<Shelf> = world.store.messages.keys().map(|(_, shelf, _)| *shelf).collect();
    assert_eq!(left, [Shelf::Dead]);
}

#[test]
fn after_a_failure_nothing_is_written_any_more_and_consuming_goes_on() {
    let mut world = World::new(Limits::default(), settings());
    let from = world.producer();
    for seq in 1..=2 {
        world.shell.say(from, ToBroker::Push(push(seq, b"x")));
    }
    world.work();
    world.shell.read(from);
    world.shell.say(from, ToBroker::Push(push(3, b"x")));
    world.fail(false);
    let (code, message, _) = world.refusal(from);
    assert!(code == Code::StoreReadOnly && message.contains("restarted"), "{message}");
    let taker = world.consumer(9);
    assert_eq!(world.jobs(taker).len(), 2);
    world.shell.say(taker, settle(1, Verdict::Ack));
    world.shell.pass(60_000);
    assert_eq!(world.shell.asked(), []);
    assert!(world.shell.core.is_all_stored());
    // What was acknowledged meanwhile comes again after a restart.
    let mut world = World::with(world.store, Limits::default(), settings());
    assert_eq!(world.messages(), 2);
    let taker = world.consumer(9);
    assert_eq!(world.jobs(taker).len(), 2);
}

#[test]
fn producers_are_held_up_while_too_much_waits_to_be_written() {
    let limits = Limits { store_waiting_bytes_max: 1000, ..Limits::default() };
    let mut world = World::new(limits, settings());
    let (from, json) = (world.producer(), world.shell.json());
    let payload = [7; 300];
    let mut bytes = Vec::new();
    (1..=5).for_each(|seq| ToBroker::Push(push(seq, &payload)).encode(&mut bytes));
    let taken = world.shell.input(from, &bytes, &[]);
    assert_eq!(
        (taken.flow, taken.consumed * 5),
        (Flow::Pause, bytes.len() * 3),
        "the third reached the limit"
    );
    assert_eq!(world.shell.line(json, r#"{"op":"push","queue":"jobs","data":1}"#), Flow::Pause);
    assert_eq!(world.shell.core.snapshot(world.shell.now).store.held_up, 2);
    world.work();
    assert_eq!(world.shell.resumed, [from, json]);
    world.shell.hears_lines(json, &[r#"{"ok":true,"op":"push","queue":"jobs"}"#]);
    assert_eq!(world.shell.input(from, &bytes[taken.consumed..], &[]).flow, Flow::Continue);
    world.work();
    world.shell.hears(from, &[pushed(1, 3), pushed(4, 5)]);
    // A disk that is full refuses them instead.
    world.shell.input(from, &bytes, &[]);
    world.fail(true);
    assert!(world.shell.resumed.contains(&from));
}

#[test]
fn each_limit_of_a_queue_on_disk_is_refused_by_name() {
    let limits = Limits {
        stored_bytes_max: 1000,
        user_stored_bytes_max: 600,
        queued_bytes_max: 1,
        queue_cache_bytes_max: 4096,
        ..Limits::default()
    };
    let mut world = World::new(limits, settings());
    let from = world.producer();
    let one = push(1, &[7; 300]);
    world.shell.say(from, ToBroker::Push(one));
    world.work();
    world.shell.read(from);
    world.shell.say(from, ToBroker::Push(push(2, &[7; 300])));
    let (code, _, limit) = world.refusal(from);
    let (name, value, used) = limit.unwrap();
    assert_eq!((code, &*name, value), (Code::LimitReached, "user_stored_bytes_max", 600));
    assert!(used > 600);
    let limits = Limits { stored_bytes_max: 10, ..Limits::default() };
    let mut world = World::new(limits, settings());
    let from = world.producer();
    world.shell.say(from, ToBroker::Push(push(1, b"x")));
    assert_eq!(world.refusal(from).2.unwrap().0, "stored_bytes_max");
    let limits = Limits { queue_cache_bytes_max: 4096, ..Limits::default() };
    let mut world = World::new(limits, settings());
    let from = world.producer();
    for seq in 1..=9 {
        world.shell.say(from, ToBroker::Push(Push { delay_millis: 1000, ..push(seq, &[7; 400]) }));
        world.work();
    }
    let mut refused = Vec::new();
    each_frame(&world.shell.read(from), |frame| {
        if let ToClient::PushRefused { seq, limit: Some(limit), .. } = frame {
            refused.push((seq, limit.name.to_owned()));
        }
    });
    assert_eq!(refused.first(), Some(&(7, "queue_cache_bytes_max".to_owned())), "{refused:?}");
}

#[test]
fn what_is_given_back_for_later_is_bounded_and_so_is_what_is_loaded() {
    let limits = Limits { queue_cache_bytes_max: 4096, ..Limits::default() };
    let mut world = World::new(limits, settings());
    let from = world.producer();
    for seq in 1..=100 {
        world.shell.say(from, ToBroker::Push(push(seq, &[7; 300])));
        world.work();
    }
    let in_memory =
        |world: &World| world.shell.core.queues.table.iter().map(|(_, it)| it.in_memory()).sum::<u64>();
    assert!(in_memory(&world) < 10 && world.messages() == 100);
    let taker = world.consumer(4);
    let mut given = 0;
    loop {
        let jobs = world.jobs(taker).len() as u64;
        if jobs == 0 {
            break;
        }
        for tag in given + 1..=given + jobs {
            world.shell.say(taker, settle(tag, Verdict::Nack { delay_millis: Some(10_000) }));
        }
        given += jobs;
        world.work();
    }
    assert!((8..30).contains(&given), "{given} were given back, then no more were given out");
    assert!(in_memory(&world) < 40);
    world.shell.pass(10_000);
    world.work();
    assert_eq!(world.jobs(taker).len(), 4);
}

#[test]
fn dead_letters_that_are_put_back_until_the_queue_is_full_are_written_at_once_and_before_what_comes_then() {
    let limits = Limits { queue_cache_bytes_max: 1000, ..Limits::default() };
    let when_full = WhenFull::DropOldest;
    let mut world = World::new(limits, QueueSettings { messages_max: 4, when_full, ..settings() });
    let (from, taker) = (world.producer(), world.consumer(3));
    let long = |letter: u8| vec![letter; 200];
    for (seq, letter) in (1..).zip(*b"abc") {
        world.shell.say(from, ToBroker::Push(push(seq, &long(letter))));
        world.work();
        world.shell.say(taker, settle(seq, Verdict::Reject { reason: "no" }));
    }
    world.shell.hang_up(taker);
    for seq in 4..=5 {
        world.shell.say(from, ToBroker::Push(push(seq, b"-")));
        world.work();
    }
    let admin = world.shell.json();
    world.shell.line(admin, r#"{"op":"queue","queue":"jobs","do":"replay"}"#);
    assert!(String::from_utf8(world.shell.read(admin)).unwrap().contains("messages_max"));
    assert!(!world.shell.core.queues.ledger.is_idle(), "what was put back is written");
    // Each goes in the place of one that waits; the window has room for two.
    for (seq, letter) in (6..).zip(*b"de") {
        world.shell.say(from, ToBroker::Push(push(seq, &long(letter))));
        world.work();
    }
    let taker = world.consumer(1);
    let mut given = Vec::new();
    for tag in 1.. {
        world.work();
        let Some((payload, _)) = world.jobs(taker).pop() else { break };
        given.push(char::from(payload[0]));
        world.shell.say(taker, settle(tag, Verdict::Ack));
    }
    assert_eq!(given, ['a', 'b', 'd', 'e'], "each once");
}

#[test]
fn a_queue_that_was_declared_is_there_again_and_who_may_not_declare_one_is_told() {
    let mut world = World::new(Limits::default(), settings());
    let declare = |durable| {
        ToBroker::DeclareQueue(DeclareQueue {
            req: 3,
            queue: "own",
            bind: "a.>",
            strategy: tramline_wire::Strategy::Failover,
            when_full: tramline_wire::WhenFull::DropOldest,
            messages_max: 5,
            bytes_max: 0,
            ack_timeout_millis: 0,
            attempts_max: 0,
            ttl_millis: 0,
            durable,
        })
    };
    world.shell.core.access.declare_queues = Who { users: vec![1001], groups: Vec::new() };
    let stranger = world.shell.native_of(1001, "s");
    world.shell.say(stranger, declare(true));
    let (code, message, _) = world.refusal(stranger);
    assert!(code == Code::Denied && message.contains("allow.declare_durable_queues"), "{message}");
    world.shell.core.access.declare_durable_queues = Who { users: vec![1001], groups: Vec::new() };
    world.shell.say(stranger, declare(true));
    world.shell.hears(stranger, &[]);
    world.work();
    world.shell.hears(stranger, &[ToClient::Done { req: 3 }]);
    let mut world = World::with(world.store, Limits::default(), settings());
    let known = world.shell.core.queue_status(world.shell.now);
    assert_eq!((&*known[1].queue, known[1].durability, known[1].messages_max), ("own", "disk", 5));
    assert_eq!((known[1].strategy, &known[1].bind[..]), ("failover", &["a.>".to_owned()][..]));
    let client = world.shell.native("c");
    world.shell.say(client, declare(true));
    world.shell.hears(client, &[ToClient::Done { req: 3 }]);
    world.shell.say(client, declare(false));
    assert_eq!(world.refusal(client).0, Code::QueueExists);
}

#[test]
fn a_queue_cannot_leave_the_disk_while_it_holds_something() {
    let mut world = World::new(Limits::default(), settings());
    let from = world.producer();
    world.shell.say(from, ToBroker::Push(push(1, b"x")));
    world.work();
    let in_memory = QueueSettings { durability: Durability::None, ..settings() };
    let refuse = |store: &ModelStore| {
        let mut shell = Shell::new(Limits::default());
        shell.core.restore(store.open(), 0);
        let made = shell.core.add_queue(in_memory.clone(), shell.now);
        shell.core.restored(shell.now);
        shell.pass(1000);
        (made, shell.asked())
    };
    let (code, message) = refuse(&world.store).0.unwrap_err();
    assert!(code == Code::QueueExists && message.contains("1 messages"), "{message}");
    let taker = world.consumer(1);
    world.jobs(taker);
    world.shell.say(taker, settle(1, Verdict::Ack));
    world.shell.pass(50);
    world.work();
    let (made, asked) = refuse(&world.store);
    assert_eq!((made, asked.len()), (Ok(()), 1), "what is left of it is forgotten");
}

#[test]
fn messages_keep_what_is_known_of_them_and_expired_ones_are_not_given_out() {
    let mut world = World::new(Limits::default(), settings());
    let from = world.producer();
    world.shell.say(from, ToBroker::Push(Push { priority: 1, ..push(1, b"low") }));
    world.shell.say(from, ToBroker::Push(Push { ttl_millis: 500, ..push(2, b"short") }));
    world.shell.say(from, ToBroker::Push(Push { delay_millis: 5_000, ..push(3, b"late") }));
    world.shell.say(from, ToBroker::Push(Push { priority: 9, ..push(4, b"high") }));
    world.work();
    let taker = world.consumer(1);
    assert_eq!(world.jobs(taker), [(b"high".to_vec(), 1)]);
    world.shell.say(taker, settle(1, Verdict::Nack { delay_millis: Some(3_000) }));
    world.shell.pass(50);
    world.work();
    let unix = world.shell.now.unix;
    let mut again = World { shell: Shell::new(Limits::default()), store: world.store };
    again.shell.now.unix = unix + 1_000_000_000;
    again.shell.core.restore(again.store.open(), 0);
    again.shell.core.add_queue(settings(), again.shell.now).unwrap();
    again.shell.core.restored(again.shell.now);
    again.shell.act();
    again.work();
    let taker = again.consumer(9);
    assert_eq!(again.jobs(taker), [(b"low".to_vec(), 1)]);
    let status = again.shell.core.queue_status(again.shell.now).remove(0);
    assert_eq!((status.counts.expired, status.dead_letters, status.delayed), (1, 1, 2));
    again.shell.pass(2_000);
    again.work();
    assert_eq!(again.jobs(taker), [(b"high".to_vec(), 2)], "with its attempt");
    again.shell.pass(2_000);
    again.work();
    assert_eq!(again.jobs(taker), [(b"late".to_vec(), 1)]);
}

#[test]
fn a_configuration_read_again_changes_a_queue_on_disk_and_takes_nothing_from_the_store_that_stays() {
    let dead = QueueSettings { attempts_max: 1, ..settings() };
    let limits = Limits { queue_cache_bytes_max: 4096, ..Limits::default() };
    let mut world = World::new(limits.clone(), dead.clone());
    let (from, taker) = (world.producer(), world.consumer(3));
    for seq in 1..=500 {
        world.shell.say(from, ToBroker::Push(push(seq, b"x")));
    }
    world.work();
    for tag in 1..=3 {
        world.shell.say(taker, settle(tag, Verdict::Reject { reason: "no" }));
    }
    world.shell.pass(50);
    world.work();
    // A lower limit drops in turns what is in memory and what is not; of the dead letters, too. It stays on disk.
    let lower = QueueSettings {
        durability: Durability::None,
        when_full: WhenFull::DropOldest,
        messages_max: 10,
        dead_messages_max: 1,
        ..dead
    };
    world.shell.core.change_queues(&[lower], world.shell.now);
    world.shell.act();
    for _ in 0..20 {
        world.work();
        world.shell.pass(20);
    }
    let status = |world: &World| world.shell.core.queue_status(world.shell.now).remove(0);
    let now = status(&world);
    assert_eq!((now.durability, now.messages, now.dead_letters), ("disk", 10, 1));
    assert_eq!(now.counts.dead_dropped, 2);
    let stored = || world.store.messages.keys().map(|(_, shelf, _)| *shelf == Shelf::Dead);
    assert_eq!((stored().filter(|dead| *dead).count(), stored().filter(|dead| !dead).count()), (1, 10));
    // Named no more it takes nothing, and stays in the store when the broker is started without it.
    world.shell.core.change_queues(&[], world.shell.now);
    world.shell.act();
    world.shell.say(from, ToBroker::Push(push(501, b"x")));
    world.work();
    assert!(status(&world).retiring && status(&world).messages == 10);
    let other = QueueSettings { name: "other".to_owned(), ..settings() };
    let mut world = World::with(world.store, limits.clone(), other);
    for durability in [Durability::Disk, Durability::None] {
        let again = QueueSettings { durability, ..settings() };
        let (code, message) = world.shell.core.add_queue(again, world.shell.now).unwrap_err();
        assert!(code == Code::QueueExists && message.contains("11 messages"), "{message}");
    }
    let world = World::with(world.store, limits, settings());
    assert_eq!((status(&world).messages, status(&world).dead_letters), (10, 1));
}
