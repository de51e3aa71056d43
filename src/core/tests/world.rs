//! A seeded mix of clients under virtual time, with books kept beside the broker.
//!
//! Native and JSON publishers, native and JSON subscribers with every policy, slow readers, readers that stop
//! answering, streams that open, close and move to the socket, and sudden deaths. The books know what
//! each subscription must have been given: delivered, told as lost, or still waiting; every publisher's
//! numbers arrive in order; and when all have gone, nothing is left.

use super::harness::{Shell, each_frame, message, open_stream, subscribe};
use crate::core::session::Stage;
use crate::core::{Action, FdId, Flow, Limits, RingMessage, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use tramline_wire::{
    Accept, Code, Filter, Mode, PageDeclaration, Publish, SlowPolicy, Subscribe, ToBroker, ToClient, Topic,
};

const TOPICS: [&str; 5] = ["a.x", "a.y", "b.x", "b.y.z", "c"];
const FILTERS: [&str; 6] = [">", "a.*", "b.>", "c", "*.x", "a.y"];

/// The time that messages by socket carry here, and ring messages do not.
const SOCKET_TIME: u64 = 7;

fn limits() -> Limits {
    Limits {
        outbox_bytes_max: 3_000,
        queue_bytes_max: 6_000,
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
        ..Limits::default()
    }
}

/// A small generator, so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // The output function of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

#[derive(Debug)]
struct Subscribed {
    filter: &'static str,
    /// Messages it must have been given.
    due: u64,
    got: u64,
    told_lost: u64,
}

#[derive(Debug, Default)]
struct Client {
    native: bool,
    /// Bytes the core has not taken.
    unread: Vec<u8>,
    paused: bool,
    /// Last number on each topic.
    numbers: BTreeMap<usize, u64>,
    subscriptions: BTreeMap<u32, Subscribed>,
    next_subscription: u32,
    /// Topic a JSON client's waiting line publishes to.
    held: Option<usize>,
    streams: BTreeMap<u64, usize>,
    /// Who publishes what under which alias, as it was told.
    sources: BTreeMap<u32, (SessionId, String)>,
    /// The last number seen of each publisher and topic, by subscription.
    seen: BTreeMap<(u32, SessionId, String), u64>,
    /// Slots taken by link, and which attachment has which.
    slots: BTreeMap<u64, BTreeSet<u32>>,
    attached: BTreeMap<u64, (u64, u32)>,
    heard: Vec<u8>,
    /// Answers no offers any more.
    stuck: bool,
}

struct World {
    shell: Shell,
    dice: Dice,
    clients: BTreeMap<SessionId, Client>,
    next_stream: u64,
    /// Attachments the shell reads, with the next number.
    proxies: BTreeMap<u64, Proxy>,
}

struct Proxy {
    reading: bool,
    paused: bool,
    draining: bool,
    next: u64,
}

/// Says which seed it was when a test panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world of seed {} failed", self.0);
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            shell: Shell::new(limits()),
            dice: Dice(seed),
            clients: BTreeMap::new(),
            next_stream: 1,
            proxies: BTreeMap::new(),
        }
    }

    fn someone(&mut self, of: impl Fn(&Client) -> bool) -> Option<SessionId> {
        let all: Vec<SessionId> =
            self.clients.iter().filter(|(_, client)| of(client)).map(|(id, _)| *id).collect();
        if all.is_empty() { None } else { Some(self.dice.pick(&all)) }
    }

    fn step(&mut self) {
        match self.dice.roll(20) {
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
        let before = self.shell.core.subscriptions.len();
        let client = self.clients.get_mut(&id).unwrap();
        let number = client.next_subscription + 1;
        if client.native {
            let mode = if gated { Mode::Gated } else { Mode::Lossy };
            let frame = Subscribe { mode, rings, slow, ..subscribe(number, number, filter) };
            assert_ne!(self.shell.say(id, ToBroker::Subscribe(frame)), Flow::Close);
        } else {
            let line = format!(r#"{{"op":"sub","topic":"{filter}","reliable":{gated}}}"#);
            self.shell.line(id, &line);
        }
        let client = self.clients.get_mut(&id).unwrap();
        // A refused subscription of a JSON client uses its number up.
        client.next_subscription = number;
        if self.shell.core.subscriptions.len() > before {
            client.subscriptions.insert(number, Subscribed { filter, due: 0, got: 0, told_lost: 0 });
        }
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

    fn published(&mut self, from: SessionId, topic: usize, count: u64) {
        let topic = Topic::parse(TOPICS[topic]).unwrap();
        // Whoever was disconnected by this very message has no books any more.
        let core = &self.shell.core;
        for (id, client) in &mut self.clients {
            let Some(session) = core.by_id.get(id).and_then(|key| core.sessions.get(*key)) else { continue };
            assert!(from != *id || client.subscriptions.is_empty());
            for (number, subscribed) in &mut client.subscriptions {
                let alive = session.subscriptions.contains_key(number);
                if alive && Filter::parse(subscribed.filter).unwrap().matches(topic) {
                    subscribed.due += count;
                }
            }
        }
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

    fn read_some(&mut self) {
        let Some(id) = self.someone(|_| true) else { return };
        let most = self.dice.pick(&[1, 50, 1_000, 10_000]);
        self.read(id, most);
    }

    fn read(&mut self, id: SessionId, most: usize) {
        let (bytes, _) = self.shell.read_some(id, most);
        let client = self.clients.get_mut(&id).unwrap();
        client.heard.extend_from_slice(&bytes);
        if client.native { self.hear_frames(id) } else { self.hear_lines(id) }
    }

    fn hear_lines(&mut self, id: SessionId) {
        let client = self.clients.get_mut(&id).unwrap();
        let Some(end) = client.heard.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = client.heard.split_off(end + 1);
        let heard = std::mem::replace(&mut client.heard, rest);
        for line in String::from_utf8(heard).unwrap().lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let sub = value["sub"].as_u64().and_then(|sub| u32::try_from(sub).ok()).unwrap_or(0);
            let known = client.subscriptions.get_mut(&sub);
            match (value["op"].as_str(), known) {
                (Some("gap"), Some(known)) => known.told_lost += value["lost"].as_u64().unwrap(),
                (Some("msg"), Some(known)) => known.got += 1,
                _ => {}
            }
        }
    }

    fn hear_frames(&mut self, id: SessionId) {
        let client = self.clients.get_mut(&id).unwrap();
        let mut whole = 0;
        while let Ok(tramline_wire::Framed::Whole { consumed, .. }) =
            tramline_wire::split_frame(&client.heard[whole..], usize::MAX)
        {
            whole += consumed;
        }
        let rest = client.heard.split_off(whole);
        let heard = std::mem::replace(&mut client.heard, rest);
        let mut answers: Vec<(Vec<u8>, bool)> = Vec::new();
        let refuse = self.dice.roll(8) == 0;
        let mut answer = |frame: ToBroker<'_>, with_page: bool| {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            answers.push((bytes, with_page));
        };
        each_frame(&heard, |frame| match frame {
            ToClient::Source(source) => {
                client.sources.insert(source.alias, (source.session, source.topic.to_owned()));
            }
            ToClient::Deliver(deliver) => {
                let (from, topic) = client.sources[&deliver.source].clone();
                // Streams of this world number for themselves; each comes through one proxy in order.
                let plane = deliver.message.time;
                if plane == SOCKET_TIME {
                    let last = client.seen.entry((deliver.sub, from, topic)).or_default();
                    assert!(*last < deliver.message.seq, "{last} then {} of {from}", deliver.message.seq);
                    *last = deliver.message.seq;
                }
                if let Some(known) = client.subscriptions.get_mut(&deliver.sub) {
                    known.got += 1;
                }
            }
            ToClient::Gap { sub, lost, .. } => {
                if let Some(known) = client.subscriptions.get_mut(&sub) {
                    known.told_lost += lost;
                }
            }
            ToClient::Offer(offer) if client.stuck => {
                let _ = offer;
            }
            ToClient::Offer(offer) if refuse => {
                answer(ToBroker::Detach { attach: offer.attach, code: Code::NoResources.number() }, false);
            }
            ToClient::Offer(offer) => {
                let slots = client.slots.entry(offer.link).or_default();
                let slot = (0..).find(|slot| !slots.contains(slot)).unwrap();
                slots.insert(slot);
                let page =
                    client.attached.values().all(|(link, known)| (*link, *known) != (offer.link, slot));
                client.attached.insert(offer.attach, (offer.link, slot));
                // Slots are never given back here, so each has a page of its own.
                let declaration = PageDeclaration { first_slot: slot, slots: 1 };
                let page = page.then_some(declaration);
                answer(
                    Accept { attach: offer.attach, slot, page, fds: u8::from(page.is_some()) }.into_frame(),
                    true,
                );
            }
            ToClient::Admit(admit) if refuse => {
                answer(ToBroker::Detach { attach: admit.attach, code: Code::GateRefused.number() }, false);
            }
            ToClient::Admit(admit) if !client.stuck => {
                answer(ToBroker::Admitted { attach: admit.attach, start: 0, start_seq: 1 }, false);
            }
            ToClient::Attach(attach) if !client.stuck => {
                answer(ToBroker::Attached { attach: attach.attach }, false);
            }
            _ => {}
        });
        for (bytes, with_page) in answers {
            self.answer(id, &bytes, with_page);
        }
    }

    /// What the client library itself says must go through, so it waits behind nothing but a pause.
    fn answer(&mut self, id: SessionId, bytes: &[u8], with_page: bool) {
        let client = self.clients.get_mut(&id).unwrap();
        if client.paused {
            // Bytes keep their order across a pause; their descriptors would not, so those are never sent.
            if !with_page {
                client.unread.extend_from_slice(bytes);
            }
            return;
        }
        let page: Vec<FdId> = if with_page { vec![self.shell.fd("page")] } else { Vec::new() };
        let core = &self.shell.core;
        let ended = core.sessions.get(core.by_id[&id]).is_some_and(|each| each.stage == Stage::Closing);
        let taken = self.shell.input(id, bytes, &page);
        if taken.flow == Flow::Close {
            let said = self.shell.read(id);
            assert!(ended, "{:?} {}", ToBroker::decode(&bytes[4..]), super::harness::show(&said));
            return;
        }
        if taken.flow == Flow::Pause && taken.consumed == 0 {
            let client = self.clients.get_mut(&id).unwrap();
            client.unread = bytes.to_vec();
            client.paused = true;
        }
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
    fn follow_up(&mut self) {
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

    /// Books lines that waited and have been carried out by now.
    fn book_held(&mut self) {
        let core = &self.shell.core;
        let is_held =
            |id: &SessionId| core.sessions.get(core.by_id[id]).is_some_and(|each| each.held_line.is_some());
        let done: Vec<(SessionId, usize)> = self
            .clients
            .iter()
            .filter_map(|(id, client)| client.held.filter(|_| !is_held(id)).map(|topic| (*id, topic)))
            .collect();
        for (id, topic) in done {
            self.clients.get_mut(&id).unwrap().held = None;
            self.published(id, topic, 1);
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
            other => panic!("{other:?}"),
        }
        self.shell.act();
    }

    /// The books agree with the core, and no limit is exceeded.
    fn check(&mut self) {
        let core = &self.shell.core;
        let limits = limits();
        let snapshot = core.snapshot(self.shell.now);
        for limit in &snapshot.limits {
            assert!(limit.used.is_none_or(|used| used <= limit.value), "{limit:?}");
        }
        let mut backlogs = 0;
        for (_, subscription) in core.subscriptions.iter() {
            backlogs += usize::from(subscription.in_backlog);
            let waiting = subscription.queue.iter().filter_map(|entry| match entry {
                crate::core::subscription::Entry::Message(waiting) => Some(waiting.cost()),
                crate::core::subscription::Entry::Attach(_) => None,
            });
            let held = subscription.held.iter().map(|(waiting, _)| waiting.cost());
            assert_eq!(waiting.chain(held).sum::<usize>(), subscription.queue_bytes);
            // What is read reliably on its behalf may exceed the queue by one message of each of its streams.
            let slack = subscription.attachments.len() * 500;
            assert!(subscription.queue_bytes <= subscription.queue_bytes_max + slack);
        }
        assert_eq!(backlogs, core.backlogs);
        for (_, session) in core.sessions.iter() {
            assert!(session.fds_in_flight <= limits.session_fds_in_flight_max);
            assert!(session.subscriptions.len() <= limits.session_subscriptions_max as usize);
            assert!(session.streams.len() <= limits.session_streams_max as usize);
            for publisher in session.paused.iter() {
                let deadline = matches!(publisher, crate::core::session::Pause::Slow(_));
                assert!(!deadline || core.deadline().is_some(), "somebody waits for ever");
            }
        }
        assert!(
            core.deadline().is_none_or(|due| due > self.shell.now.monotonic),
            "something due did not happen"
        );
    }

    /// Everybody reads everything; then each subscription has what it is due.
    fn quiesce(&mut self) {
        for client in self.clients.values_mut() {
            client.stuck = false;
        }
        for _ in 0..200 {
            self.shell.pass(1);
            let all: Vec<SessionId> = self.clients.keys().copied().collect();
            for id in all {
                if self.clients.contains_key(&id) {
                    self.read(id, usize::MAX);
                    self.follow_up();
                }
            }
        }
        self.shell.pass(200);
        self.follow_up();
        self.check();
        assert_eq!(self.shell.core.deadline(), None, "nothing is waited for when everybody reads");
        for (id, client) in &self.clients {
            assert!(
                !client.paused && client.unread.is_empty() && client.heard.is_empty(),
                "{id}: {client:?}"
            );
            let core = &self.shell.core;
            let session = core.sessions.get(core.by_id[id]).unwrap();
            for (number, known) in &client.subscriptions {
                let subscription = core.subscriptions.get(session.subscriptions[number]).unwrap();
                let untold = subscription.gap.as_ref().map_or(0, |gap| gap.lost);
                let held = subscription.held.len() as u64;
                assert!(subscription.queue.is_empty());
                assert_eq!(known.got + known.told_lost + untold + held, known.due, "{id} {number} {known:?}");
            }
        }
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
        self.shell.is_empty();
    }
}

trait IntoFrame {
    fn into_frame(self) -> ToBroker<'static>;
}

impl IntoFrame for Accept {
    fn into_frame(self) -> ToBroker<'static> {
        ToBroker::Accept(self)
    }
}

#[test]
fn books_and_broker_agree_in_many_worlds() {
    let seeds = match std::env::var("TRAMLINE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..50).collect(),
    };
    let mut totals = [0_u64; 7];
    for seed in seeds {
        let _seed = Seed(seed);
        let mut world = World::new(seed);
        for _ in 0..3 {
            for _ in 0..150 {
                world.step();
            }
            world.quiesce();
        }
        let seen = world.shell.core.totals;
        let counts = [
            seen.traffic.messages_out,
            seen.traffic.lost,
            seen.pauses,
            seen.slow_disconnects,
            seen.attachments,
            seen.proxied_messages,
            seen.requests_refused,
        ];
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        world.end();
    }
    // A world in which nothing happens proves nothing.
    if std::env::var("TRAMLINE_SEED").is_err() {
        assert!(totals.iter().all(|total| *total > 20), "{totals:?}");
    }
}
