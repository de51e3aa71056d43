//! A whole core, driven by what somebody invents: some clients of both languages, frames and lines in any order, half
//! of them nonsense, descriptors, time, and hang-ups. Whatever happens, the core does not panic, closes every
//! descriptor once, says only whole frames and lines, keeps what waits for a client bounded, and has nothing
//! left when everybody has gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tramline::core::{
    Access, Action, Bells, Core, FdId, Flow, Language, Limits, Now, Peer, RingMessage, SessionId,
};
use tramline_wire::codec::{Framed, split_frame};
use tramline_wire::{
    Accept, Encoding, GatedBy, Geometry, Message, MessageFlags, Mode, OpenStream, PageDeclaration, Publish,
    SlowPolicy, Subscribe, ToBroker, ToClient,
};

/// Steps of one conversation; what an input has behind them is not looked at.
const STEPS_MAX: usize = 300;

/// What may wait for one client: answers, a queue's share, and the frame that went past the limit.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

const TOPICS: [&str; 5] = ["a", "a.b", "a.b.c", "x", "$tramline.x"];
const FILTERS: [&str; 6] = ["a", "a.*", "a.>", ">", "*.b", "$tramline.>"];

/// Bytes as choices; without any left, every choice is the first.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    fn one_in(&mut self, many: u8) -> bool {
        self.byte().is_multiple_of(many)
    }

    fn number(&mut self) -> u32 {
        let byte = self.byte();
        match byte >> 6 {
            0 | 1 => u32::from(byte & 7),
            2 => u32::from(byte & 63) << 8 | u32::from(self.byte()),
            _ => u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()]),
        }
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}

/// One connection.
struct Client {
    native: bool,
    unread: Vec<u8>,
    fds: VecDeque<FdId>,
    paused: bool,
    closed: bool,
    heard: Vec<u8>,
    /// Attachments that this client was asked about.
    offered: Vec<u64>,
    admits: Vec<u64>,
    attaches: Vec<u64>,
}

struct Stage {
    core: Core,
    now: Now,
    open: BTreeSet<FdId>,
    last_fd: u64,
    clients: BTreeMap<SessionId, Client>,
    /// Attachments that the shell reads, with the next number of each.
    proxies: BTreeMap<u64, u64>,
}

fn limits() -> Limits {
    Limits {
        connections_max: 6,
        session_subscriptions_max: 8,
        session_streams_max: 4,
        outbox_bytes_max: 4096,
        queue_bytes_max: 8192,
        frame_bytes_max: 16 * 1024,
        attachments_max: 20,
        topics_max: 16,
        match_cache_topics_max: 3,
        block_millis_max: 40,
        attach_timeout_millis: 30,
        ..Limits::default()
    }
}

impl Stage {
    fn new() -> Self {
        let access = Access { own_uid: 1000, own_pid: 1, users: vec![1001], ..Access::default() };
        Self {
            core: Core::new(limits(), access, 0xfeed, "9.9.9"),
            now: Now { monotonic: 1_000_000_000, unix: 1_700_000_000_000_000_000 },
            open: BTreeSet::new(),
            last_fd: 0,
            clients: BTreeMap::new(),
            proxies: BTreeMap::new(),
        }
    }

    fn fd(&mut self) -> FdId {
        self.last_fd += 1;
        self.open.insert(FdId(self.last_fd));
        FdId(self.last_fd)
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let ids: Vec<SessionId> = self.clients.keys().copied().collect();
        let what = choices.byte() % 24;
        if ids.is_empty() || what == 0 {
            return self.arrive(choices);
        }
        let id = choices.pick(&ids);
        let native = self.clients[&id].native;
        match what {
            1 => self.read(id, choices),
            2 => self.pass(choices.byte()),
            3 => self.hang_up(id),
            4 => self.proxy_step(choices),
            5 if native => {
                // Bytes as they are.
                let bytes = choices.bytes().to_vec();
                self.input(id, &bytes, 0);
            }
            6 | 7 if native => {
                let body = choices.bytes();
                let length = u32::try_from(body.len()).unwrap_or(0).to_le_bytes();
                let bytes = [&length[..], body].concat();
                let fds = choices.byte() % 8;
                self.input(id, &bytes, fds.saturating_sub(4));
            }
            8 if !native => {
                self.core.half_closed(id, self.now);
                self.act();
            }
            9 if !native => {
                self.core.line_too_long(id, choices.number() as usize, self.now);
                self.act();
            }
            _ if native => self.frame(id, what, choices),
            _ => self.line(id, choices),
        }
    }

    fn arrive(&mut self, choices: &mut Choices<'_>) {
        let (native, uid) = (!choices.one_in(3), choices.pick(&[1000, 1001, 1002]));
        let language = if native { Language::Native } else { Language::Json };
        let peer = Peer { pid: 100, uid, gid: uid, groups: Vec::new() };
        let Ok(id) = self.core.connect(peer, language, self.now) else { return self.act() };
        let client = Client {
            native,
            unread: Vec::new(),
            fds: VecDeque::new(),
            paused: false,
            closed: false,
            heard: Vec::new(),
            offered: Vec::new(),
            admits: Vec::new(),
            attaches: Vec::new(),
        };
        self.clients.insert(id, client);
        self.act();
        if native && !choices.one_in(8) {
            self.say(id, &ToBroker::Hello { name: "someone", client: 0 }, 0);
            for (alias, topic) in (0..).zip(TOPICS).take(4) {
                self.say(id, &ToBroker::Topic { alias, topic }, 0);
            }
        }
    }

    /// A frame that makes some sense.
    fn frame(&mut self, id: SessionId, what: u8, choices: &mut Choices<'_>) {
        let client = &self.clients[&id];
        let known = |of: &[u64], choices: &mut Choices<'_>| match of {
            [] => choices.number().into(),
            _ => choices.pick(of),
        };
        let attach = match what {
            14 => known(&client.offered, choices),
            15 => known(&client.admits, choices),
            16 => known(&client.attaches, choices),
            _ => u64::from(choices.number()),
        };
        match what {
            10 => self.say(id, &ToBroker::Topic { alias: choices.number(), topic: choices.pick(&TOPICS) }, 0),
            11 => {
                let slow = match choices.byte() % 4 {
                    0 => SlowPolicy::DropOldest,
                    1 => SlowPolicy::Disconnect,
                    _ => SlowPolicy::Block { millis: choices.number() },
                };
                let frame = Subscribe {
                    req: choices.number(),
                    sub: choices.number(),
                    filter: choices.pick(&FILTERS),
                    mode: choices.pick(&[Mode::Gated, Mode::Lossy]),
                    rings: choices.one_in(2),
                    history: choices.number(),
                    slow,
                    queue_bytes_max: choices.number(),
                    gated_only: choices.one_in(4),
                };
                self.say(id, &ToBroker::Subscribe(frame), 0);
            }
            12 => self.say(id, &ToBroker::Unsubscribe { req: choices.number(), sub: choices.number() }, 0),
            13 => {
                let geometry = Geometry {
                    descriptors: choices.pick(&[64, 3, 2]),
                    arena_bytes: choices.pick(&[8192, 4096, 5]),
                };
                let frame = OpenStream {
                    req: choices.number(),
                    alias: choices.number(),
                    stream: choices.number().into(),
                    generation: choices.pick(&[0, 0, 0, 1]),
                    geometry,
                    first_seq: choices.pick(&[1, 7, u64::MAX]),
                    gated_by: choices.pick(&[GatedBy::OwnUid, GatedBy::Anyone, GatedBy::Nobody]),
                    fds: 1,
                };
                self.say(id, &ToBroker::OpenStream(frame), choices.pick(&[1, 1, 1, 0]));
            }
            14 => {
                let page = PageDeclaration {
                    first_slot: choices.number(),
                    slots: choices.pick(&[15, 1, 0, u32::MAX]),
                };
                let page = (choices.one_in(2)).then_some(page);
                let fds = u8::from(page.is_some());
                let frame = Accept { attach, slot: choices.number(), page, fds };
                self.say(id, &ToBroker::Accept(frame), fds);
            }
            15 => {
                let (start, start_seq) = (choices.number().into(), choices.number().into());
                self.say(
                    id,
                    &ToBroker::Admitted { attach, start, start_seq, generation: choices.number() % 2 },
                    0,
                );
            }
            16 => self.say(id, &ToBroker::Attached { attach }, 0),
            17 => {
                let code = u16::from(choices.byte() % 30);
                self.say(id, &ToBroker::Detach { attach, code }, 0);
            }
            18 => {
                let (req, stream) = (choices.number(), choices.number().into());
                self.say(id, &ToBroker::CloseStream { req, stream, last_seq: 0 }, 0);
            }
            19 => self.say(id, &ToBroker::Ping { req: choices.number() }, 0),
            _ => {
                let payload = vec![b'x'; choices.number() as usize % 2000];
                let flags = MessageFlags::new(Encoding::Binary);
                let (seq, time) = (choices.number().into(), 1);
                let message =
                    Message { flags, seq, time, source_time: 0, after: None, head: &[], payload: &payload };
                let alias = choices.number() % 5;
                self.say(id, &ToBroker::Publish(Publish { alias, message }), 0);
            }
        }
    }

    fn line(&mut self, id: SessionId, choices: &mut Choices<'_>) {
        let (topic, filter, number) = (choices.pick(&TOPICS), choices.pick(&FILTERS), choices.byte());
        let line = match choices.byte() % 8 {
            0 => format!(r#"{{"op":"pub","topic":"{topic}","data":{number},"id":{number}}}"#),
            1 => format!(
                r#"{{"op":"pub","topic":"{topic}","text":"{}"}}"#,
                "x".repeat(usize::from(number) * 9)
            ),
            2 => format!(r#"{{"op":"sub","topic":"{filter}","reliable":{}}}"#, number % 2 == 0),
            3 => format!(r#"{{"op":"unsub","sub":{}}}"#, number % 9),
            4 => r#"{"op":"status"}"#.to_owned(),
            5 => r#"{"op":"help"}"#.to_owned(),
            6 => String::from_utf8_lossy(choices.bytes()).replace('\n', " "),
            _ => format!(r#"{{"op":"ping","id":"{number}"}}"#),
        };
        if self.clients[&id].paused || self.clients[&id].closed {
            return;
        }
        let flow = self.core.json_line(id, line.as_bytes(), self.now);
        self.flowed(id, flow);
        self.act();
    }

    fn say(&mut self, id: SessionId, frame: &ToBroker<'_>, fds: u8) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.input(id, &bytes, fds);
    }

    fn flowed(&mut self, id: SessionId, flow: Flow) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.paused = flow == Flow::Pause;
        client.closed |= flow == Flow::Close;
    }

    fn input(&mut self, id: SessionId, bytes: &[u8], fds: u8) {
        let fds: Vec<FdId> = (0..fds).map(|_| self.fd()).collect();
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.fds.extend(fds);
        client.unread.extend_from_slice(bytes);
        self.give(id);
    }

    fn give(&mut self, id: SessionId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.paused || client.closed {
            return;
        }
        let taken = self.core.native_input(id, &client.unread, &mut client.fds, self.now);
        assert!(taken.consumed <= client.unread.len());
        client.unread.drain(..taken.consumed);
        self.flowed(id, taken.flow);
        self.act();
    }

    /// A client reads some of what waits for it, which must be whole frames or lines.
    fn read(&mut self, id: SessionId, choices: &mut Choices<'_>) {
        let most = choices.pick(&[usize::MAX, 1, 100, 5000]);
        let mut read = 0;
        while read < most {
            let Some(outbox) = self.core.outbox(id) else { break };
            let chunk = outbox.chunk();
            if chunk.bytes.is_empty() {
                break;
            }
            let count = chunk.bytes.len().min(most - read);
            assert!(chunk.fds.iter().all(|fd| self.open.contains(fd)), "a closed descriptor is sent");
            let Some(client) = self.clients.get_mut(&id) else { break };
            client.heard.extend_from_slice(&chunk.bytes[..count]);
            outbox.advance(count);
            read += count;
            self.core.written(id, self.now);
            self.act();
        }
        self.understand(id);
    }

    fn understand(&mut self, id: SessionId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let heard = std::mem::take(&mut client.heard);
        let mut rest = &heard[..];
        if client.native {
            while let Ok(Framed::Whole { body, consumed }) = split_frame(rest, usize::MAX) {
                match ToClient::decode(body).expect("the core says frames") {
                    ToClient::Offer(offer) => client.offered.push(offer.attach),
                    ToClient::Admit(admit) => client.admits.push(admit.attach),
                    ToClient::Attach(attach) => client.attaches.push(attach.attach),
                    _ => {}
                }
                rest = &rest[consumed..];
            }
        } else {
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                serde_json::from_slice::<&serde_json::value::RawValue>(&rest[..end])
                    .expect("the core says JSON");
                rest = &rest[end + 1..];
            }
        }
        client.heard = rest.to_vec();
    }

    fn pass(&mut self, millis: u8) {
        let step = u64::from(millis) * 1_000_000;
        self.now.monotonic += step;
        self.now.unix += step.cast_signed();
        self.core.tick(self.now);
        assert!(self.core.deadline().is_none_or(|due| due > self.now.monotonic), "what is due has been done");
        self.act();
    }

    fn hang_up(&mut self, id: SessionId) {
        self.core.disconnected(id, "gone", self.now);
        for fd in self.clients.remove(&id).map(|client| client.fds).unwrap_or_default() {
            assert!(self.open.remove(&fd), "{fd:?} was closed although the core never took it");
        }
        self.act();
    }

    /// The shell reads a ring in somebody's place, and finds this or that.
    fn proxy_step(&mut self, choices: &mut Choices<'_>) {
        let attaches: Vec<u64> = self.proxies.keys().copied().collect();
        if attaches.is_empty() {
            return;
        }
        let attach = choices.pick(&attaches);
        match choices.byte() % 8 {
            0 => {
                self.proxies.remove(&attach);
                self.core.proxy_ended(attach, choices.number().into(), self.now);
            }
            1 => {
                self.proxies.remove(&attach);
                self.core.proxy_cheated(attach, "an impossible length", self.now);
            }
            _ => {
                let lost = u64::from(choices.byte() % 3);
                let next = self.proxies.get_mut(&attach).expect("it was just picked");
                let seq = next.saturating_add(lost);
                *next = seq.saturating_add(1);
                let (head, payload) = (choices.bytes(), choices.bytes());
                let message = RingMessage {
                    seq,
                    lost,
                    flags: u16::from_le_bytes([choices.byte(), choices.byte()]),
                    time: choices.number().into(),
                    source_time: 0,
                    head,
                    payload,
                    payload_length: payload.len() as u64,
                };
                self.core.proxy_message(attach, message, self.now);
            }
        }
        self.act();
    }

    /// What a shell does.
    fn act(&mut self) {
        while let Some(action) = self.core.next_action() {
            match action {
                Action::CloseFd(fd) => assert!(self.open.remove(&fd), "{fd:?} is closed twice"),
                Action::VerifyRing { stream, generation, geometry, .. } => {
                    let result = if geometry.arena_bytes == 4096 { Err("holes".to_owned()) } else { Ok(()) };
                    self.core.ring_verified(stream, generation, result, self.now);
                }
                Action::MakePipes { link } => {
                    let bells = if link % 7 == 6 {
                        Err("no more files".to_owned())
                    } else {
                        Ok(Bells {
                            doorbell_read: self.fd(),
                            doorbell_write: self.fd(),
                            space_read: self.fd(),
                            space_write: self.fd(),
                        })
                    };
                    self.core.pipes_made(link, bells, self.now);
                }
                Action::CloseSession(id) => {
                    if let Some(client) = self.clients.get_mut(&id) {
                        client.closed = true;
                    }
                }
                Action::Resume(id) => {
                    if let Some(client) = self.clients.get_mut(&id) {
                        client.paused = false;
                    }
                    self.give_native(id);
                }
                Action::Status { session, request } => {
                    let snapshot = self.core.snapshot(self.now);
                    self.core.status_filled(session, request.as_deref(), &snapshot, self.now);
                }
                Action::ProxyOffer { attach, link, .. } if link % 5 == 4 => {
                    self.core.proxy_refuse(attach, "no memory", self.now);
                }
                Action::ProxyOffer { attach, .. } => {
                    let (page, slot) = (self.fd(), u32::try_from(attach % 1024).unwrap_or(0));
                    let declaration = PageDeclaration { first_slot: slot, slots: 1 };
                    self.core.proxy_accept(attach, slot, Some((declaration, page)), self.now);
                }
                Action::ProxyAttach { attach, start_seq, bells, .. } => {
                    for bell in bells.into_iter().flat_map(|(doorbell, space)| [doorbell, space]) {
                        assert!(self.open.remove(&bell), "{bell:?} is handed over and not open");
                    }
                    self.proxies.insert(attach, start_seq);
                    self.core.proxy_attached(attach, self.now);
                }
                Action::ProxyDetach { attach, drain: false } => {
                    self.proxies.remove(&attach);
                }
                _ => {}
            }
        }
        for id in self.clients.keys() {
            let waiting = self.core.outbox(*id).map_or(0, |outbox| outbox.len());
            assert!(waiting <= WAITING_BYTES_MAX, "{waiting} bytes wait for session {id}");
        }
    }

    fn give_native(&mut self, id: SessionId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.native && !client.closed {
            let taken = self.core.native_input(id, &client.unread, &mut client.fds, self.now);
            client.unread.drain(..taken.consumed);
            self.flowed(id, taken.flow);
        }
    }

    fn end(mut self) {
        let ids: Vec<SessionId> = self.clients.keys().copied().collect();
        for id in ids {
            self.read(id, &mut Choices(&[]));
            self.hang_up(id);
        }
        for attach in std::mem::take(&mut self.proxies).into_keys() {
            self.core.proxy_ended(attach, 0, self.now);
            self.act();
        }
        assert!(self.open.is_empty(), "descriptors leak: {:?}", self.open);
        assert_eq!(self.core.deadline(), None, "a timer of nobody");
        let snapshot = self.core.snapshot(self.now);
        assert!(snapshot.sessions.is_empty() && snapshot.streams.is_empty());
    }
}

/// One conversation from its beginning to its end.
pub(crate) fn conversation(bytes: &[u8]) {
    let mut stage = Stage::new();
    let mut choices = Choices(bytes);
    for _ in 0..STEPS_MAX {
        if choices.0.is_empty() {
            break;
        }
        stage.step(&mut choices);
    }
    stage.end();
}
