//! A seeded mix of clients under virtual time, with books kept beside the broker.
//!
//! Native and JSON publishers, native and JSON subscribers with every policy, slow readers, readers that stop
//! answering, streams that open and close, what stays of them, readers that are waited for no longer and again, and
//! sudden deaths. The books know what
//! each subscription must have been given: delivered, told as lost, or still waiting; every publisher's
//! numbers arrive in order; and when all have gone, nothing is left.

use super::books::{Client, Subscribed};
use super::harness::{Shell, message, open_stream, subscribe};
use crate::core::{Access, Action, Core, Flow, Limits, RetainedCopy, RingMessage, SessionId, TopicSettings};
use std::collections::BTreeMap;
use tramline_wire::{
    Filter, Geometry, Mode, ModeChanged, PageDeclaration, Publish, SlowPolicy, Subscribe, ToBroker, Topic,
};

pub(super) const TOPICS: [&str; 5] = ["a.x", "a.y", "b.x", "b.y.z", "c"];
const FILTERS: [&str; 6] = [">", "a.*", "b.>", "c", "*.x", "a.y"];

/// What a copy of the last messages is said to take, at most.
const COPY_BYTES: u64 = 10_000;

/// The time that messages by socket carry here, and ring messages do not.
pub(super) const SOCKET_TIME: u64 = 7;

pub(super) fn limits() -> Limits {
    Limits {
        outbox_bytes_max: 3_000,
        backlog_bytes_max: 6_000,
        connections_max: 24,
        session_subscriptions_max: 3,
        subscriptions_max: 30,
        session_streams_max: 2,
        streams_max: 8,
        attachments_max: 60,
        topics_max: 64,
        match_cache_topics_max: 3,
        block_millis_max: 40,
        attach_timeout_millis: 30,
        retained_topics_max: 2,
        retained_bytes_max: 4 * COPY_BYTES,
        ..Limits::default()
    }
}

/// A small generator, so that a seed says everything.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn roll(&mut self, sides: usize) -> usize {
        // The output function of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

pub(super) struct World {
    pub(super) shell: Shell,
    pub(super) dice: Dice,
    pub(super) clients: BTreeMap<SessionId, Client>,
    next_stream: u64,
    /// Attachments the shell reads, with the next number.
    proxies: BTreeMap<u64, Proxy>,
    /// Streams whose last messages are being copied.
    copying: Vec<u64>,
    /// Copies that were made of something.
    copied: u64,
    /// Times that somebody was offered such a copy.
    pub(super) given: u64,
}

struct Proxy {
    reading: bool,
    paused: bool,
    draining: bool,
    next: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut shell = Shell::new(limits());
        let topics = ["a.*", "c"].map(|filter| TopicSettings {
            filter: filter.to_owned(),
            retain: 3,
            ..TopicSettings::default()
        });
        let access = Access { own_uid: 1000, own_pid: 1, topics: topics.to_vec(), ..Access::default() };
        shell.core = Core::new(limits(), access, 0xfeed, "9.9.9");
        Self {
            shell,
            dice: Dice(seed),
            clients: BTreeMap::new(),
            next_stream: 1,
            proxies: BTreeMap::new(),
            copying: Vec::new(),
            copied: 0,
            given: 0,
        }
    }

    fn someone(&mut self, of: impl Fn(&Client) -> bool) -> Option<SessionId> {
        let all: Vec<SessionId> =
            self.clients.iter().filter(|(_, client)| of(client)).map(|(id, _)| *id).collect();
        if all.is_empty() { None } else { Some(self.dice.pick(&all)) }
    }

    fn step(&mut self) {
        match self.dice.roll(22) {
            0 | 1 => self.arrive(),
            2 | 3 => self.subscribe(),
            4 => self.unsubscribe(),
            5..=9 => self.publish(),
            10 => self.open_stream(),
            11 => self.close_stream(),
            12..=14 => self.read_some(),
            15 | 16 => self.proxies_read(),
            17 => {
                let millis = self.dice.roll(25) as u64;
                self.shell.pass(millis);
            }
            18 => {
                if let Some(id) = self.someone(|client| client.native) {
                    self.clients.get_mut(&id).unwrap().stuck ^= true;
                }
            }
            19 => self.change_mode(),
            20 => self.copy(),
            _ => {
                if self.dice.roll(3) == 0
                    && let Some(id) = self.someone(|_| true)
                {
                    self.die(id);
                }
            }
        }
        self.follow_up();
        self.check();
    }

    fn arrive(&mut self) {
        if self.clients.len() >= 20 {
            return;
        }
        let native = self.dice.roll(3) > 0;
        let id = if native { self.shell.native("w") } else { self.shell.json() };
        for (alias, topic) in (0..).zip(TOPICS).filter(|_| native) {
            self.shell.say(id, ToBroker::Topic { alias, topic });
        }
        self.clients.insert(id, Client { native, ..Client::default() });
    }

    fn subscribe(&mut self) {
        let Some(id) = self.someone(|client| !client.paused && client.numbers.is_empty()) else { return };
        let filter = self.dice.pick(&FILTERS);
        let (rings, gated) = (self.dice.roll(2) == 0, self.dice.roll(2) == 0);
        let slow = self.dice.pick(&[
            SlowPolicy::DropOldest,
            SlowPolicy::Block { millis: 20 },
            SlowPolicy::Block { millis: 100 },
            SlowPolicy::Disconnect,
        ]);
        // What is only being copied would be given later, with what goes by socket until then.
        let history = if self.copying.is_empty() { self.dice.pick(&[0, 2, 2]) } else { 0 };
        let past = self.past(filter, history);
        let before = self.shell.core.subscriptions.len();
        let client = self.clients.get_mut(&id).unwrap();
        let number = client.next_subscription + 1;
        if client.native {
            let mode = if gated { Mode::Gated } else { Mode::Lossy };
            let frame = Subscribe { mode, rings, slow, history, ..subscribe(number, number, filter) };
            assert_ne!(self.shell.say(id, ToBroker::Subscribe(frame)), Flow::Close);
        } else {
            let line = format!(r#"{{"op":"sub","topic":"{filter}","reliable":{gated},"history":{history}}}"#);
            self.shell.line(id, &line);
        }
        let client = self.clients.get_mut(&id).unwrap();
        // A refused subscription of a JSON client uses its number up.
        client.next_subscription = number;
        if self.shell.core.subscriptions.len() > before {
            client.subscriptions.insert(number, Subscribed { filter, due: past, got: 0, told_lost: 0 });
        }
    }

    /// How many messages that went by socket a new subscription is given at once.
    fn past(&self, filter: &str, history: u32) -> u64 {
        let (core, filter) = (&self.shell.core, Filter::parse(filter).unwrap());
        let selected = core.pasts.by_topic.keys().filter(|topic| {
            let name = &core.topics.get(**topic).unwrap().name;
            filter.matches(Topic::parse(name).unwrap())
        });
        selected.map(|topic| core.past_of(*topic, history) as u64).sum()
    }

    fn unsubscribe(&mut self) {
        let Some(id) = self.someone(|client| !client.paused && !client.subscriptions.is_empty()) else {
            return;
        };
        let client = self.clients.get_mut(&id).unwrap();
        let numbers: Vec<u32> = client.subscriptions.keys().copied().collect();
        let (sub, native) = (self.dice.pick(&numbers), client.native);
        if native {
            self.shell.say(id, ToBroker::Unsubscribe { req: 1, sub });
        } else {
            self.shell.line(id, &format!(r#"{{"op":"unsub","sub":{sub}}}"#));
        }
        self.clients.get_mut(&id).unwrap().subscriptions.remove(&sub);
    }

    /// Some messages at once on a topic.
    fn publish(&mut self) {
        let Some(id) = self.someone(|client| !client.paused && client.subscriptions.is_empty()) else {
            return;
        };
        let (topic, count) = (self.dice.roll(TOPICS.len()), 1 + self.dice.roll(30));
        let payload = vec![b'x'; self.dice.roll(400)];
        if !self.clients[&id].native {
            let line = format!(
                r#"{{"op":"pub","topic":"{}","text":"{}"}}"#,
                TOPICS[topic],
                "x".repeat(payload.len())
            );
            self.clients.get_mut(&id).unwrap().numbers.entry(topic).or_default();
            let flow = self.shell.line(id, &line);
            let session = &self.shell.core.sessions.get(self.shell.core.by_id[&id]).unwrap();
            if session.held_line.is_some() {
                self.clients.get_mut(&id).unwrap().held = Some(topic);
            } else {
                self.published(id, topic, 1);
            }
            self.clients.get_mut(&id).unwrap().paused = flow == Flow::Pause;
            return;
        }
        let client = self.clients.get_mut(&id).unwrap();
        let number = client.numbers.entry(topic).or_default();
        for _ in 0..count {
            *number += 1;
            let alias = u32::try_from(topic).unwrap();
            let message = message(*number, &payload);
            ToBroker::Publish(Publish { alias, message }).encode(&mut client.unread);
        }
        self.give(id);
    }

    /// Gives the core what it has not taken yet of a native client, and books what it took.
    fn give(&mut self, id: SessionId) {
        let unread = std::mem::take(&mut self.clients.get_mut(&id).unwrap().unread);
        let taken = self.shell.input(id, &unread, &[]);
        assert_ne!(taken.flow, Flow::Close);
        let mut rest = &unread[..taken.consumed];
        while let Ok(tramline_wire::Framed::Whole { body, consumed }) =
            tramline_wire::split_frame(rest, usize::MAX)
        {
            if let Ok(ToBroker::Publish(publish)) = ToBroker::decode(body) {
                self.published(id, publish.alias as usize, 1);
            }
            rest = &rest[consumed..];
        }
        let client = self.clients.get_mut(&id).unwrap();
        client.unread = unread[taken.consumed..].to_vec();
        client.paused = taken.flow == Flow::Pause;
    }

    fn open_stream(&mut self) {
        let Some(id) = self.someone(|client| client.native && !client.paused) else { return };
        let topic = self.dice.roll(TOPICS.len());
        let (stream, memory) = (self.next_stream, self.shell.fd("ring"));
        self.next_stream += 1;
        if self.dice.roll(6) == 0 {
            self.shell.bad_ring = Some("it is not sealed".to_owned());
        }
        let frame = open_stream(1, u32::try_from(topic).unwrap(), stream);
        assert_ne!(self.shell.say_with(id, ToBroker::OpenStream(frame), &[memory]), Flow::Close);
        self.shell.bad_ring = None;
        if self.shell.core.streams.by_id.contains_key(&stream) {
            self.clients.get_mut(&id).unwrap().streams.insert(stream, topic);
        }
    }

    fn close_stream(&mut self) {
        let Some(id) = self.someone(|client| !client.paused && !client.streams.is_empty()) else { return };
        let (stream, _) = self.clients.get_mut(&id).unwrap().streams.pop_first().unwrap();
        self.shell.say(id, ToBroker::CloseStream { req: 2, stream, last_seq: 0 });
    }

    /// A publisher says of a reader that it waits for it no longer, or again.
    fn change_mode(&mut self) {
        let Some(id) = self.someone(|client| !client.paused && !client.admitted.is_empty()) else { return };
        let client = self.clients.get_mut(&id).unwrap();
        let all: Vec<u64> = client.admitted.keys().copied().collect();
        let attach = self.dice.pick(&all);
        let mode = client.admitted.get_mut(&attach).unwrap();
        *mode = if *mode == Mode::Gated { Mode::Lossy } else { Mode::Gated };
        let mode = *mode;
        let known = self.shell.core.attachments.contains_key(&attach);
        let change = ModeChanged { attach, mode, blocked_millis: 5 };
        assert_eq!(self.shell.say(id, ToBroker::ModeChanged(change)), Flow::Continue);
        let snapshot = self.shell.core.snapshot(self.shell.now);
        let shown =
            snapshot.streams.iter().flat_map(|stream| &stream.readers).find(|each| each.attach == attach);
        let name = if mode == Mode::Gated { "gated" } else { "lossy" };
        assert!(!known || shown.is_none_or(|shown| shown.mode == name), "{shown:?} is {name}");
    }

    /// The shell has copied what is kept of a stream, or could not.
    fn copy(&mut self) {
        if self.copying.is_empty() {
            return;
        }
        let at = self.dice.roll(self.copying.len());
        let stream = self.copying.swap_remove(at);
        let result = match self.dice.roll(6) {
            0 => Ok(None),
            1 => Err("no memory".to_owned()),
            _ => {
                self.copied += 1;
                let memory = self.shell.fd("copy");
                let bytes = 1 + self.dice.roll(usize::try_from(COPY_BYTES).unwrap()) as u64;
                let geometry = Geometry { descriptors: 4, arena_bytes: 4096 };
                Ok(Some(RetainedCopy { memory, generation: 0, geometry, bytes, seqs: vec![1, 2, 3] }))
            }
        };
        self.shell.core.ring_retained(stream, result, self.shell.now);
        self.shell.act();
    }

    /// Ends what the shell reads of streams that have ended.
    pub(super) fn finish_reading(&mut self) {
        while !self.copying.is_empty() {
            self.copy();
            self.follow_up();
        }
        let draining = self.proxies.iter().filter(|(_, proxy)| proxy.draining && !proxy.paused);
        for attach in draining.map(|(attach, _)| *attach).collect::<Vec<_>>() {
            self.proxies.remove(&attach);
            self.shell.core.proxy_ended(attach, 0, self.shell.now);
            self.shell.act();
        }
        self.follow_up();
    }

    fn read_some(&mut self) {
        let Some(id) = self.someone(|_| true) else { return };
        let most = self.dice.pick(&[1, 50, 1_000, 10_000]);
        self.read(id, most);
    }

    fn proxies_read(&mut self) {
        let ready: Vec<u64> = self
            .proxies
            .iter()
            .filter(|(_, proxy)| proxy.reading && !proxy.paused)
            .map(|(id, _)| *id)
            .collect();
        if ready.is_empty() {
            return;
        }
        let attach = self.dice.pick(&ready);
        let proxy = self.proxies.get_mut(&attach).unwrap();
        let (payload, lost) = (vec![7; self.dice.roll(300)], u64::from(self.dice.roll(9) == 0));
        let seq = proxy.next + lost;
        proxy.next = seq + 1;
        let message = RingMessage {
            seq,
            lost,
            flags: 0,
            time: 1,
            source_time: 0,
            head: &[],
            payload: &payload,
            payload_length: payload.len() as u64,
            whole: None,
        };
        let Some(attachment) = self.shell.core.attachments.get(&attach) else { return };
        let key = attachment.subscription;
        let of = self.shell.core.subscriptions.get(key).unwrap();
        let (session, number) = (self.shell.core.sessions.get(of.session).unwrap().id, of.number);
        if let Some(known) =
            self.clients.get_mut(&session).and_then(|client| client.subscriptions.get_mut(&number))
        {
            known.due += 1 + lost;
        }
        let flow = self.shell.core.proxy_message(attach, message, self.shell.now);
        self.shell.act();
        self.proxies.get_mut(&attach).unwrap().paused = flow == Flow::Pause;
        self.follow_up();
        // Who is paused has not read to the end.
        if self.proxies.get(&attach).is_some_and(|proxy| proxy.draining && !proxy.paused)
            && self.dice.roll(3) == 0
        {
            self.proxies.remove(&attach);
            self.shell.core.proxy_ended(attach, 0, self.shell.now);
            self.shell.act();
        }
    }

    fn die(&mut self, id: SessionId) {
        let client = self.clients.remove(&id).unwrap();
        if let Some(topic) = client.held {
            self.published(id, topic, 1);
        }
        self.shell.hang_up(id);
    }

    /// What a real shell would do next: actions, resumed clients, ended sessions.
    pub(super) fn follow_up(&mut self) {
        loop {
            let (asked, resumed) = (self.shell.asked(), std::mem::take(&mut self.shell.resumed));
            let closing: Vec<SessionId> = std::mem::take(&mut self.shell.closing).into_iter().collect();
            self.book_held();
            if asked.is_empty() && resumed.is_empty() && closing.is_empty() {
                return;
            }
            for action in asked {
                self.shell_does(action);
            }
            for id in resumed {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.paused = false;
                    if client.native {
                        self.give(id);
                    }
                }
            }
            for id in closing {
                // Only slow subscribers are ended by the core in this world.
                self.read(id, usize::MAX);
                self.die(id);
            }
        }
    }

    fn shell_does(&mut self, action: Action) {
        match action {
            Action::ProxyOffer { attach, .. } if self.dice.roll(10) == 0 => {
                self.shell.core.proxy_refuse(attach, "no memory", self.shell.now);
            }
            Action::ProxyOffer { attach, .. } => {
                let page = self.shell.fd("page of a proxy");
                let slot = u32::try_from(attach).unwrap();
                let declaration = PageDeclaration { first_slot: slot, slots: 1 };
                self.shell.core.proxy_accept(attach, slot, Some((declaration, page)), self.shell.now);
            }
            Action::ProxyAttach { attach, start_seq, .. } => {
                let core = &self.shell.core;
                let read = core.attachments.get(&attach).map(|attachment| attachment.stream);
                let kept = core.retention.by_topic.values().any(|kept| Some(kept.stream) == read);
                self.given += u64::from(kept);
                let proxy = Proxy { reading: true, paused: false, draining: false, next: start_seq };
                self.proxies.insert(attach, proxy);
                self.shell.core.proxy_attached(attach, self.shell.now);
            }
            Action::ProxyDetach { attach, drain: true } => {
                self.proxies.get_mut(&attach).expect("only what is read is drained").draining = true;
            }
            Action::ProxyDetach { attach, drain: false } => {
                self.proxies.remove(&attach);
            }
            Action::ProxyResume { attach } => {
                if let Some(proxy) = self.proxies.get_mut(&attach) {
                    proxy.paused = false;
                }
            }
            Action::ProxyLinkEnded { .. } => {}
            Action::Retain { stream, .. } => self.copying.push(stream),
            other => panic!("{other:?}"),
        }
        self.shell.act();
    }

    fn end(mut self) {
        let all: Vec<SessionId> = self.clients.keys().copied().collect();
        for id in all {
            if self.clients.contains_key(&id) {
                self.die(id);
            }
            self.follow_up();
        }
        for attach in std::mem::take(&mut self.proxies).into_keys() {
            self.shell.core.proxy_ended(attach, 0, self.shell.now);
            self.shell.act();
        }
        while !self.copying.is_empty() {
            self.copy();
        }
        // What is kept is all that there is, and goes as it does when room is wanted.
        let copies = self.shell.fds.values().filter(|what| *what == "copy").count();
        assert_eq!(copies, self.shell.core.retention.by_topic.len(), "copies that are open, and kept");
        while self.shell.core.drop_oldest_retained() {}
        self.shell.act();
        self.shell.is_empty();
    }
}

/// One world from its beginning to its end; what happened in it.
fn live(seed: u64) -> [u64; 10] {
    let mut world = World::new(seed);
    for _ in 0..3 {
        for _ in 0..150 {
            world.step();
        }
        world.quiesce();
    }
    let (seen, copied, given) = (world.shell.core.totals, world.copied, world.given);
    world.end();
    [
        seen.traffic.messages_out,
        seen.traffic.lost,
        seen.pauses,
        seen.slow_disconnects,
        seen.attachments,
        seen.proxied_messages,
        seen.requests_refused,
        seen.evictions,
        copied,
        given,
    ]
}

#[test]
fn books_and_broker_agree_in_many_worlds() {
    let mut totals = [0_u64; 10];
    for seed in 0..50 {
        let lived = std::panic::catch_unwind(|| live(seed));
        let counts = lived.unwrap_or_else(|_| panic!("the world of seed {seed} failed"));
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    // A world in which nothing happens proves nothing.
    assert!(totals.iter().all(|total| *total > 20), "{totals:?}");
}
