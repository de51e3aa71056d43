//! The books of the world: what each client was told, and what each subscription must have been given.

use super::harness::{each_frame, show};
use super::world::{SOCKET_TIME, TOPICS, World, limits};
use crate::core::session::{Pause, Stage};
use crate::core::subscription::Entry;
use crate::core::{FdId, Flow, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use tramline_wire::{Accept, Code, Filter, Mode, PageDeclaration, ToBroker, ToClient, Topic};

#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) filter: &'static str,
    /// Messages it must have been given.
    pub(super) due: u64,
    pub(super) got: u64,
    pub(super) told_lost: u64,
}

#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) native: bool,
    /// Bytes the core has not taken.
    pub(super) unread: Vec<u8>,
    pub(super) paused: bool,
    /// Last number on each topic.
    pub(super) numbers: BTreeMap<usize, u64>,
    pub(super) subscriptions: BTreeMap<u32, Subscribed>,
    pub(super) next_subscription: u32,
    /// Topic a JSON client's waiting line publishes to.
    pub(super) held: Option<usize>,
    pub(super) streams: BTreeMap<u64, usize>,
    /// Who publishes what under which alias, as it was told.
    pub(super) sources: BTreeMap<u32, (SessionId, String)>,
    /// The last number seen of each publisher and topic, by subscription.
    pub(super) seen: BTreeMap<(u32, SessionId, String), u64>,
    /// Slots taken by link, and which attachment has which.
    pub(super) slots: BTreeMap<u64, BTreeSet<u32>>,
    pub(super) attached: BTreeMap<u64, (u64, u32)>,
    /// Readers of its streams that asked to be waited for, and whether they are.
    pub(super) admitted: BTreeMap<u64, Mode>,
    pub(super) heard: Vec<u8>,
    /// Answers no offers any more.
    pub(super) stuck: bool,
}

impl World {
    pub(super) fn published(&mut self, from: SessionId, topic: usize, count: u64) {
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

    pub(super) fn read(&mut self, id: SessionId, most: usize) {
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
        let mut left = 0;
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
                left += u64::from(offer.retained);
                let slots = client.slots.entry(offer.link).or_default();
                let slot = (0..).find(|slot| !slots.contains(slot)).unwrap();
                slots.insert(slot);
                let page =
                    client.attached.values().all(|(link, known)| (*link, *known) != (offer.link, slot));
                client.attached.insert(offer.attach, (offer.link, slot));
                // Slots are never given back here, so each has a page of its own.
                let declaration = PageDeclaration { first_slot: slot, slots: 1 };
                let page = page.then_some(declaration);
                let fds = u8::from(page.is_some());
                let accept = Accept { attach: offer.attach, slot, page, fds };
                answer(ToBroker::Accept(accept), true);
            }
            ToClient::Admit(admit) if refuse => {
                answer(ToBroker::Detach { attach: admit.attach, code: Code::GateRefused.number() }, false);
            }
            ToClient::Admit(admit) if !client.stuck => {
                if admit.mode == Mode::Gated {
                    client.admitted.insert(admit.attach, Mode::Gated);
                }
                answer(
                    ToBroker::Admitted { attach: admit.attach, start: 0, start_seq: 1, generation: 0 },
                    false,
                );
            }
            ToClient::Attach(attach) if !client.stuck => {
                answer(ToBroker::Attached { attach: attach.attach }, false);
            }
            ToClient::Detach { attach, .. } => {
                client.admitted.remove(&attach);
            }
            _ => {}
        });
        self.given += left;
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
            assert!(ended, "{:?} {}", ToBroker::decode(&bytes[4..]), show(&said));
            return;
        }
        if taken.flow == Flow::Pause && taken.consumed == 0 {
            let client = self.clients.get_mut(&id).unwrap();
            client.unread = bytes.to_vec();
            client.paused = true;
        }
    }

    /// Books lines that waited and have been carried out by now.
    pub(super) fn book_held(&mut self) {
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

    /// The books agree with the core, and no limit is exceeded.
    pub(super) fn check(&mut self) {
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
                Entry::Message(waiting) => Some(waiting.cost()),
                Entry::Run(run) => Some(run.cost()),
                Entry::Attach(_) | Entry::Loss(_) => None,
            });
            let held = subscription.held.iter().map(|(waiting, _)| waiting.cost());
            assert_eq!(waiting.chain(held).sum::<usize>(), subscription.backlog_bytes);
            // What is read reliably on its behalf may exceed the queue by one message of each of its streams.
            let slack = subscription.attachments.len() * 500;
            assert!(subscription.backlog_bytes <= subscription.backlog_bytes_max + slack);
        }
        assert_eq!(backlogs, core.backlogs);
        for (_, session) in core.sessions.iter() {
            assert!(session.fds_in_flight <= limits.session_fds_in_flight_max);
            assert!(session.subscriptions.len() <= limits.session_subscriptions_max as usize);
            assert!(session.streams.len() <= limits.session_streams_max as usize);
            for publisher in session.paused.iter() {
                let deadline = matches!(publisher, Pause::Slow(_));
                assert!(!deadline || core.deadline().is_some(), "somebody waits for ever");
            }
        }
        assert!(
            core.deadline().is_none_or(|due| due > self.shell.now.monotonic),
            "something due did not happen"
        );
    }

    /// Everybody reads everything; then each subscription has what it is due.
    pub(super) fn quiesce(&mut self) {
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
            self.finish_reading();
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
                let untold = subscription.gaps.lost();
                let held = subscription.held.len() as u64;
                assert!(subscription.queue.is_empty());
                assert_eq!(known.got + known.told_lost + untold + held, known.due, "{id} {number} {known:?}");
            }
        }
    }
}
