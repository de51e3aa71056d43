//! Large messages of rings that queues and routes take whole: who has a turn, who waits, what has no room anywhere.

use super::harness::{Shell, ring_message};
use super::routes::{Broker, compiled, route};
use super::world::Dice;
use crate::core::queues::Account;
use crate::core::{Action, Flow, Found, Limits, QueueSettings, RingMessage, SessionId, WhenFull};
use crate::routes::settings::{Destination, Settings, Strategy};
use std::sync::Arc;
use tramline_wire::codec::encode_message;
use tramline_wire::{Message, ToBroker};

const LARGE: usize = 3_000_000;

fn publisher(shell: &mut Shell, topic: &str, stream: u64) -> (SessionId, u64) {
    let from = shell.native("p");
    shell.say(from, ToBroker::Topic { alias: 0, topic });
    let attachments = shell.read_stream(from, 0, stream);
    assert_eq!(attachments.len(), 1, "one reader for {topic}");
    (from, attachments[0])
}

fn found(shell: &mut Shell, attach: u64, bytes: usize) -> Found {
    let found = shell.core.proxy_found(attach, 0, bytes as u64, false);
    shell.act();
    found
}

/// The same of one that was copied whole meanwhile.
fn copied(shell: &mut Shell, attach: u64, bytes: usize) -> Found {
    let found = shell.core.proxy_found(attach, 0, bytes as u64, true);
    shell.act();
    found
}

/// Gives the core a message that was copied whole and for which there is room. The copy, too.
#[track_caller]
fn give(shell: &mut Shell, attach: u64, seq: u64, bytes: usize) -> (Flow, Arc<[u8]>) {
    assert_eq!(copied(shell, attach, bytes), Found::Give);
    give_now(shell, attach, seq, bytes)
}

fn give_now(shell: &mut Shell, attach: u64, seq: u64, bytes: usize) -> (Flow, Arc<[u8]>) {
    let payload = vec![b'7'; bytes];
    let mut whole = Vec::new();
    encode_message(&mut whole, &Message { seq, time: 7, payload: &payload, ..Message::default() });
    let whole = Arc::from(whole);
    let message = RingMessage { payload_length: bytes as u64, whole: Some(&whole), ..ring_message(seq, b"") };
    let flow = shell.core.proxy_message(attach, message, shell.now);
    shell.act();
    (flow, whole)
}

fn resumed(shell: &mut Shell) -> Vec<u64> {
    let resumed = |action| if let Action::ProxyResume { attach } = action { Some(attach) } else { None };
    shell.asked().into_iter().filter_map(resumed).collect()
}

fn with_queue(settings: QueueSettings) -> Shell {
    with_queue_within(Limits::default(), settings)
}

fn with_queue_within(limits: Limits, settings: QueueSettings) -> Shell {
    let mut shell = Shell::new(limits);
    let settings = QueueSettings { name: "q".to_owned(), bind: vec!["t.*".to_owned()], ..settings };
    shell.core.add_queue(settings, shell.now).unwrap();
    shell
}

/// What all users are charged for in memory.
fn charged(shell: &Shell) -> u64 {
    shell.core.queues.charges.bytes(Account::Memory)
}

fn queue(shell: &Shell) -> crate::core::snapshot::QueueStatus {
    shell.core.snapshot(shell.now).queues[0].clone()
}

#[test]
fn one_is_copied_at_a_time_and_the_others_have_their_turn() {
    let mut shell = with_queue(QueueSettings::default());
    let ((_, a), (second, b), (_, c)) =
        (publisher(&mut shell, "t.a", 1), publisher(&mut shell, "t.b", 2), publisher(&mut shell, "t.c", 3));
    assert_eq!(found(&mut shell, a, 100), Found::Give);
    assert_eq!(found(&mut shell, a, LARGE), Found::Copy);
    assert_eq!([b, c, b].map(|attach| found(&mut shell, attach, LARGE)), [Found::Wait; 3]);
    assert_eq!(give(&mut shell, a, 1, LARGE).0, Flow::Continue);
    assert_eq!(resumed(&mut shell), [b]);
    // Whoever asks first now, the turn is another's.
    assert_eq!(found(&mut shell, a, LARGE), Found::Wait);
    assert_eq!(found(&mut shell, b, LARGE), Found::Copy);
    // It ends with its attachment.
    shell.hang_up(second);
    shell.core.proxy_ended(b, 0, shell.now);
    shell.act();
    assert_eq!(resumed(&mut shell), [c]);
    assert_eq!(found(&mut shell, c, LARGE), Found::Copy);
    give(&mut shell, c, 1, LARGE);
    assert_eq!(resumed(&mut shell), [a]);
    let queue = queue(&shell);
    assert_eq!((queue.messages, queue.counts.lost, queue.counts.refused), (2, 0, 0));
    assert!(queue.bytes > 2 * LARGE as u64);
}

#[test]
fn what_has_no_room_in_its_queue_waits_as_a_copy_and_passes_its_turn_on() {
    let room = 2 * LARGE as u64 + 1_000;
    let mut shell = with_queue(QueueSettings { bytes_max: room, ..QueueSettings::default() });
    let other =
        QueueSettings { name: "r".to_owned(), bind: vec!["u".to_owned()], ..QueueSettings::default() };
    shell.core.add_queue(other, shell.now).unwrap();
    let ((_, a), (from, b)) = (publisher(&mut shell, "t.a", 1), publisher(&mut shell, "t.b", 2));
    let (_, c) = publisher(&mut shell, "u", 3);
    assert_eq!(found(&mut shell, a, LARGE), Found::Copy);
    give(&mut shell, a, 1, LARGE);
    assert_eq!(found(&mut shell, b, LARGE), Found::Copy);
    assert_eq!(found(&mut shell, c, LARGE), Found::Wait);
    let id = shell.json();
    let line = format!(r#"{{"op":"push","queue":"q","text":"{}"}}"#, "x".repeat(900_000));
    (0..3).for_each(|_| _ = shell.line(id, &line));
    let before = charged(&shell);
    assert_eq!(copied(&mut shell, b, LARGE), Found::Keep);
    assert!(charged(&shell) >= before + LARGE as u64, "its publisher's user is charged for it");
    assert_eq!(resumed(&mut shell), [c], "another queue has room");
    assert_eq!(found(&mut shell, c, LARGE), Found::Copy);
    give(&mut shell, c, 1, LARGE);
    // What is small is held up in the same way, and not only when nothing at all fits.
    assert_eq!(found(&mut shell, a, 900_000), Found::Keep);
    assert_eq!(found(&mut shell, c, 10), Found::Give);
    assert!(resumed(&mut shell).is_empty());
    shell.line(id, r#"{"op":"pull","queue":"q","ack":true}"#);
    let mut again = resumed(&mut shell);
    again.sort_unstable();
    assert_eq!(again, [a.min(b), a.max(b)]);
    assert_eq!(found(&mut shell, a, 900_000), Found::Give);
    give(&mut shell, b, 1, LARGE);
    // What would never fit is taken, to be refused and counted.
    assert_eq!(found(&mut shell, a, 3 * LARGE), Found::Copy);
    give(&mut shell, a, 2, 3 * LARGE);
    let now = queue(&shell);
    assert_eq!((now.counts.pushed, now.counts.lost, now.counts.refused), (5, 0, 1));
    // Whoever goes takes its charge along.
    assert_eq!(found(&mut shell, b, LARGE), Found::Copy);
    assert_eq!(copied(&mut shell, b, LARGE), Found::Keep);
    shell.hang_up(from);
    shell.core.proxy_ended(b, 0, shell.now);
    shell.act();
    assert_eq!(charged(&shell), queue(&shell).bytes + shell.core.snapshot(shell.now).queues[1].bytes);
}

#[test]
fn a_copy_for_which_its_user_has_no_room_is_refused() {
    let limits = Limits { user_queued_bytes_max: 2 * LARGE as u64, ..Limits::default() };
    let settings = QueueSettings { bytes_max: LARGE as u64 + 1_000, ..QueueSettings::default() };
    let mut shell = with_queue_within(limits, settings);
    let (_, a) = publisher(&mut shell, "t.a", 1);
    for seq in 1..=2 {
        assert_eq!(found(&mut shell, a, LARGE), Found::Copy);
        give(&mut shell, a, seq, LARGE);
    }
    assert_eq!((queue(&shell).counts.pushed, queue(&shell).counts.refused), (1, 1));
}

#[test]
fn a_queue_that_makes_room_holds_nobody_up() {
    let room = LARGE as u64 + 1_000;
    let settings =
        QueueSettings { bytes_max: room, when_full: WhenFull::DropOldest, ..QueueSettings::default() };
    let mut shell = with_queue(settings);
    let (_, a) = publisher(&mut shell, "t.a", 1);
    for seq in 1..=3 {
        assert_eq!(found(&mut shell, a, LARGE), Found::Copy);
        assert_eq!(give(&mut shell, a, seq, LARGE).0, Flow::Continue);
    }
    assert_eq!((queue(&shell).messages, queue(&shell).counts.dropped), (1, 2));
}

#[test]
fn what_is_larger_than_any_payload_by_ring_is_not_copied_and_counted() {
    let mut shell = with_queue(QueueSettings::default());
    let (_, a) = publisher(&mut shell, "t.a", 1);
    let most = Limits::default().delivery_ring_bytes_max;
    assert_eq!(shell.core.proxy_found(a, 0, most, false), Found::Copy);
    assert_eq!(shell.core.proxy_found(a, 0, most + 1, false), Found::Give);
    let payload = [1; 50];
    let message = RingMessage { payload_length: most + 1, ..ring_message(1, &payload) };
    shell.core.proxy_message(a, message, shell.now);
    assert_eq!((queue(&shell).messages, queue(&shell).counts.lost), (0, 1));
}

#[test]
fn who_is_given_a_beginning_has_no_turn() {
    let mut shell = Shell::new(Limits::default());
    let to = shell.json();
    shell.line(to, r#"{"op":"sub","topic":"t.a"}"#);
    let (_, a) = publisher(&mut shell, "t.a", 1);
    assert_eq!(found(&mut shell, a, LARGE), Found::Give);
}

/// Routes, and a publisher on `t.a` of whom nobody else reads.
fn broker(settings: Settings) -> (Broker, u64) {
    let mut broker = Broker::new(settings);
    let to = broker.to;
    broker.shell.line(to, r#"{"op":"unsub","sub":1}"#);
    broker.shell.read(to);
    let (_, attach) = publisher(&mut broker.shell, "t.a", 1);
    (broker, attach)
}

fn routed(to: &[&str], strategy: Strategy) -> (Broker, u64) {
    let mut route = route("r", "t.a", to);
    route.deliver.strategy = strategy;
    route.deliver.dead_letter = Some(Destination::parse("queue:dead").unwrap());
    route.tap = Some(Destination::parse("topic:seen").unwrap());
    broker(compiled(vec![route]))
}

fn send(broker: &mut Broker, attach: u64, seq: u64) -> Arc<[u8]> {
    assert_eq!(found(&mut broker.shell, attach, LARGE), Found::Copy);
    give(&mut broker.shell, attach, seq, LARGE).1
}

#[test]
fn a_route_sends_what_is_large_on_in_the_memory_in_which_it_came() {
    let (mut broker, attach) = routed(&["topic:out", "queue:q"], Strategy::Failover);
    let whole = send(&mut broker, attach, 1);
    // One copy is in the queue, and nobody else has one.
    assert_eq!(Arc::strong_count(&whole), 2);
    let route = broker.route("r");
    let of = |name: &str| route.destinations.iter().find(|each| each.destination == name).unwrap().counts;
    assert_eq!((of("topic:out").tries, of("queue:q").delivered), (0, 1), "a topic is not even tried");
    assert_eq!(broker.counts("r").delivered, 1);
    let routing = broker.shell.core.snapshot(broker.shell.now).routing;
    assert_eq!((routing.counts.not_tapped, routing.counts.too_large, routing.bytes), (1, 0, 0));
}

#[test]
fn what_fits_nowhere_is_a_dead_letter_that_says_why_and_has_it_whole() {
    for strategy in [Strategy::Failover, Strategy::Broadcast] {
        let (mut broker, attach) = routed(&["topic:out"], strategy);
        send(&mut broker, attach, 1);
        let route = broker.route("r");
        assert_eq!((broker.counts("r").dead, route.counts.retries), (1, 0), "it would fail each time");
        let id = broker.shell.json();
        broker.shell.line(id, r#"{"op":"pull","queue":"dead","ack":true}"#);
        let lines = broker.lines(id);
        let job = lines.iter().find(|line| line["op"] == "job").unwrap();
        assert!(job["bytes"].as_u64().unwrap() > LARGE as u64, "{job}");
        assert!(job["preview"].as_str().unwrap().contains("limits.frame_bytes_max is 1048576"), "{job}");
    }
}

#[test]
fn routes_that_have_much_hold_up_what_is_large() {
    let mut settings = compiled(vec![route("r", "t.a", &["service:slow"])]);
    settings.limits.work_bytes_max = LARGE + 10_000;
    let (mut broker, attach) = broker(settings);
    let slow = broker.provide("slow");
    send(&mut broker, attach, 1);
    assert_eq!(found(&mut broker.shell, attach, LARGE), Found::Copy);
    assert_eq!(copied(&mut broker.shell, attach, LARGE), Found::Keep);
    assert!(resumed(&mut broker.shell).is_empty());
    let calls = broker.calls(slow);
    broker.reply(slow, "slow", calls[0]);
    assert_eq!(resumed(&mut broker.shell), [attach]);
    give(&mut broker.shell, attach, 2, LARGE);

    let routing = broker.shell.core.snapshot(broker.shell.now).routing;
    assert_eq!((routing.counts.refused, routing.counts.too_large), (0, 0));
}

/// A ring as the shell reads it.
struct Ring {
    from: SessionId,
    attach: u64,
    /// What is left in it.
    lengths: Vec<usize>,
    seq: u64,
    paused: bool,
    copying: bool,
    copied: bool,
}

/// Rings, a queue with little room, and somebody who takes from it now and then; publishers that die. Nobody may be told to
/// wait and never be told to go on.
fn many_rings(seed: u64) {
    let mut dice = Dice::new(seed);
    let room = 3 * LARGE as u64 + dice.roll(2 * LARGE) as u64;
    let mut shell = with_queue(QueueSettings { bytes_max: room, ..QueueSettings::default() });
    let taker = shell.json();
    let mut rings: Vec<Ring> = (0..2 + dice.roll(4) as u64)
        .map(|number| {
            let (from, attach) = publisher(&mut shell, &format!("t.{number}"), number + 1);
            let lengths = (0..8).map(|_| [10, 4_000, 900_000, LARGE, 6 * LARGE][dice.roll(5)]).collect();
            Ring { from, attach, lengths, seq: 0, paused: false, copying: false, copied: false }
        })
        .collect();
    let (mut sent, mut never_fit) = (0, 0);
    while rings.iter().any(|ring| !ring.lengths.is_empty()) {
        for attach in resumed(&mut shell) {
            rings.iter_mut().filter(|ring| ring.attach == attach).for_each(|ring| ring.paused = false);
        }
        rings.iter().for_each(|ring| assert!(!(ring.paused && ring.copying)));
        assert!(rings.iter().filter(|ring| ring.copying).count() <= 1, "seed {seed}");
        let able: Vec<usize> = (0..rings.len())
            .filter(|at| !rings[*at].paused && (rings[*at].copying || !rings[*at].lengths.is_empty()))
            .collect();
        if able.is_empty() || dice.roll(8) == 0 {
            let before = queue(&shell).messages;
            assert!(!able.is_empty() || before > 0, "seed {seed}: everybody waits, and the queue is empty");
            shell.line(taker, r#"{"op":"pull","queue":"q","ack":true}"#);
            shell.read(taker);
            continue;
        }
        let at = dice.pick(&able);
        if dice.roll(60) == 0 {
            let Ring { from, attach, .. } = rings.swap_remove(at);
            shell.hang_up(from);
            shell.core.proxy_ended(attach, 0, shell.now);
            shell.act();
            continue;
        }
        let ring = &mut rings[at];
        let length = ring.lengths[0];
        ring.copied |= std::mem::take(&mut ring.copying);
        let told = shell.core.proxy_found(ring.attach, 0, length as u64, ring.copied);
        shell.act();
        match told {
            Found::Give => assert!(length < 1_000_000 || ring.copied),
            Found::Copy => {
                ring.copying = true;
                continue;
            }
            Found::Keep | Found::Wait => {
                ring.paused = true;
                continue;
            }
        }
        ring.copied = false;
        ring.lengths.remove(0);
        ring.seq += 1;
        sent += 1;
        never_fit += u64::from(length == 6 * LARGE);
        ring.paused = give_now(&mut shell, ring.attach, ring.seq, length).0 == Flow::Pause;
    }
    let queue = queue(&shell);
    let counts = (queue.counts.pushed, queue.counts.refused, queue.counts.lost);
    assert_eq!(counts, (sent - never_fit, never_fit, 0), "seed {seed}");
    assert_eq!(charged(&shell), queue.bytes, "seed {seed}");
}

#[test]
fn whoever_waits_goes_on() {
    (0..60).for_each(many_rings);
}

#[test]
fn what_a_ring_claims_to_have_lost_overflows_nothing() {
    let mut queued = with_queue(QueueSettings::default());
    let (_, attach) = publisher(&mut queued, "t.a", 1);
    let (mut routed, to_route) = broker(compiled(vec![route("r", "t.a", &["queue:q"])]));
    for seq in 1..=3 {
        let claim = RingMessage { lost: u64::MAX - 1, ..ring_message(seq, b"x") };
        assert_eq!(queued.core.proxy_message(attach, claim, queued.now), Flow::Continue);
        routed.shell.core.proxy_message(to_route, claim, routed.shell.now);
    }
    assert_eq!(queue(&queued).counts.lost, u64::MAX);
    let routing = routed.shell.core.snapshot(routed.shell.now).routing;
    assert_eq!(routing.counts.lost_in_rings, u64::MAX);
}
