//! How long the broker's core takes to find who a message is for, by the number of subscriptions.
//!
//! `cargo bench --bench matching`. The match cache holds one topic and messages go to thousands in turn, so each one is
//! matched anew. Filters have wildcards at every level; each topic is selected by as many of them at each step, so
//! that only the number of subscriptions changes. Prints a table, and the ratio of the slowest to the fastest,
//! which is to stay below 2. Not a test: it asserts that everything is delivered, and no time.

use std::collections::VecDeque;
use std::time::Instant;
use tramline::core::{Access, Core, Language, Limits, Now, Peer, SessionId};
use tramline_wire::{
    Framed, Message, MessageFlags, Mode, Publish, SlowPolicy, Subscribe, ToBroker, ToClient, split_frame,
};

/// Topics that messages go to in turn: as many as a session has aliases for.
const TOPICS: u32 = 4096;
/// Messages of one measurement.
const MESSAGES: u32 = 400_000;
/// Measurements of each number of subscriptions; the best counts.
const ROUNDS: u32 = 5;
const NOW: Now = Now { monotonic: 1, unix: 1 };

struct Bench {
    core: Core,
    publisher: SessionId,
    subscriber: SessionId,
    request: u32,
}

impl Bench {
    fn new() -> Self {
        let limits = Limits {
            session_subscriptions_max: 1 << 20,
            subscriptions_max: 1 << 20,
            outbox_bytes_max: 1 << 30,
            match_cache_topics_max: 1,
            ..Limits::default()
        };
        let mut core = Core::new(limits, Access { own_uid: 0, own_pid: 1, ..Access::default() }, 1, "bench");
        let mut connect = || {
            let peer = Peer { pid: 1, uid: 0, gid: 0, groups: Vec::new() };
            core.connect(peer, Language::Native, NOW).expect("one of two connections")
        };
        let (publisher, subscriber) = (connect(), connect());
        let mut bench = Self { core, publisher, subscriber, request: 0 };
        bench.say(publisher, &ToBroker::Hello { name: "publisher", client: 0 });
        bench.say(subscriber, &ToBroker::Hello { name: "subscriber", client: 0 });
        for alias in 0..TOPICS {
            let topic = topic(alias);
            bench.say(publisher, &ToBroker::Topic { alias, topic: &topic });
        }
        bench
    }

    fn say(&mut self, who: SessionId, frame: &ToBroker<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.give(who, &bytes);
    }

    fn give(&mut self, who: SessionId, bytes: &[u8]) {
        let taken = self.core.native_input(who, bytes, &mut VecDeque::new(), NOW);
        assert_eq!(taken.consumed, bytes.len(), "the broker takes everything");
    }

    fn subscribe(&mut self, filter: &str) {
        self.request += 1;
        let (req, sub) = (self.request, self.request);
        self.say(
            self.subscriber,
            &ToBroker::Subscribe(Subscribe {
                req,
                sub,
                filter,
                mode: Mode::Lossy,
                rings: false,
                history: 0,
                slow: SlowPolicy::DropOldest,
                backlog_bytes_max: 0,
                gated_only: false,
            }),
        );
    }

    /// Throws away what the subscriber was given; says how many messages that were.
    fn drain(&mut self) -> u64 {
        let mut messages = 0;
        while self.core.next_action().is_some() {}
        while self.core.next_dirty().is_some() {}
        let Some(outbox) = self.core.outbox(self.subscriber) else { return 0 };
        let mut bytes = outbox.pending();
        while let Ok(Framed::Whole { body, consumed }) = split_frame(bytes, usize::MAX) {
            messages += u64::from(matches!(ToClient::decode(body), Ok(ToClient::Deliver(_))));
            bytes = &bytes[consumed..];
        }
        let length = outbox.len();
        outbox.advance(length);
        self.core.written(self.subscriber, NOW);
        messages
    }

    /// Nanoseconds for each message, and deliveries for each.
    fn measure(&mut self) -> (f64, f64) {
        // Each message alone, as if another one had come in between.
        let frames: Vec<Vec<u8>> = (0..TOPICS)
            .map(|alias| {
                let mut bytes = Vec::new();
                let (flags, payload) = (MessageFlags::default(), &b"12345678"[..]);
                let message =
                    Message { flags, seq: 1, time: 1, source_time: 0, after: None, head: &[], payload };
                ToBroker::Publish(Publish { alias, message }).encode(&mut bytes);
                bytes
            })
            .collect();
        let mut best = f64::INFINITY;
        let mut delivered = 0;
        let mut fds = VecDeque::new();
        for _ in 0..ROUNDS {
            let (mut nanos, mut sent) = (0, 0);
            while sent < MESSAGES {
                let began = Instant::now();
                // A stride that visits all, and not in the order in which they were made.
                for step in 0..TOPICS {
                    let frame = &frames[(step.wrapping_mul(1597) % TOPICS) as usize];
                    self.core.native_input(self.publisher, frame, &mut fds, NOW);
                }
                nanos += began.elapsed().as_nanos();
                sent += TOPICS;
                delivered += self.drain();
            }
            best = best.min(nanos as f64 / f64::from(sent));
        }
        let rounds = f64::from(ROUNDS) * f64::from(MESSAGES.next_multiple_of(TOPICS));
        (best, delivered as f64 / rounds)
    }
}

/// 16 sites of 16 machines, and a value of its own for each.
fn topic(number: u32) -> String {
    format!("site{}.machine{}.value{number}", number / 256, number / 16 % 16)
}

/// The filter with this number. The first ten select every topic three times in all; those that follow have wildcards
/// at every level, too, share their tokens with topics, and select none of those that are published.
fn filter(number: u32) -> String {
    let n = number / 6;
    match number {
        0 => "*.*.*".to_owned(),
        1 => "*.>".to_owned(),
        2 => ">".to_owned(),
        _ => match number % 6 {
            0 => format!("site{}.*.other{n}", n % 16),
            1 => format!("*.machine{}.other{n}", n % 16),
            2 => format!("site{}.machine{}.*.other{n}", n % 16, n / 16 % 16),
            3 => format!("*.*.other{n}"),
            4 => format!("site{}.*.other{n}.>", n % 16),
            _ => format!("other{n}.*.value{}", n % TOPICS),
        },
    }
}

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let quick = !std::env::args().any(|argument| argument == "--bench");
    let steps: &[u32] = if quick { &[10, 100] } else { &[10, 100, 1_000, 10_000, 100_000] };
    let mut bench = Bench::new();
    let (mut known, mut figures) = (0, Vec::new());
    println!("subscriptions  ns a message  deliveries a message");
    for &subscriptions in steps {
        for number in known..subscriptions {
            bench.subscribe(&filter(number));
        }
        known = subscriptions;
        bench.drain();
        let (nanos, deliveries) = bench.measure();
        println!("{subscriptions:>13}  {nanos:>12.0}  {deliveries:>20.2}");
        assert!((deliveries - 3.0).abs() < 1e-9, "each message reaches three subscriptions");
        figures.push(nanos);
    }
    let slowest = figures.iter().copied().fold(0.0, f64::max);
    let fastest = figures.iter().copied().fold(f64::INFINITY, f64::min);
    println!("slowest / fastest: {:.2}", slowest / fastest);
}
