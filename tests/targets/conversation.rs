//! A whole core, driven by what somebody invents: some clients of both languages, frames and lines in any order, half
//! of them nonsense, descriptors, time, hang-ups, access given and taken, and a shell that does its work at once or
//! late. Whatever happens, the core does not panic, closes every descriptor once, says only whole frames and
//! lines, keeps what waits for a client bounded, and has nothing left when everybody has gone but what it retains.

mod says;

mod shell;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tramline::core::{
    Access, Action, Core, FdId, Flow, Language, Limits, Now, Peer, QueueSettings, ServiceSettings, SessionId,
    TopicSettings,
};
use tramline_wire::codec::{Framed, split_frame};
use tramline_wire::{Code, ToBroker, ToClient};

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
    /// Streams that this client has declared.
    streams: Vec<u64>,
}

struct Stage {
    core: Core,
    now: Now,
    open: BTreeSet<FdId>,
    last_fd: u64,
    clients: BTreeMap<SessionId, Client>,
    /// Attachments that the shell reads, with the next number of each.
    proxies: BTreeMap<u64, u64>,
    /// Whether the shell is busy, and what it is still to do.
    busy: bool,
    work: VecDeque<Action>,
    /// Copies of what gone publishers sent.
    copies: BTreeSet<FdId>,
    denied: bool,
}

fn limits() -> Limits {
    Limits {
        connections_max: 6,
        session_subscriptions_max: 8,
        session_streams_max: 4,
        outbox_bytes_max: 4096,
        backlog_bytes_max: 8192,
        frame_bytes_max: 16 * 1024,
        attachments_max: 20,
        topics_max: 16,
        match_cache_topics_max: 3,
        block_millis_max: 40,
        attach_timeout_millis: 30,
        adoption_grace_millis: 50,
        retained_topics_max: 2,
        ..Limits::default()
    }
}

/// Who may connect: one other user, unless that is `denied`.
fn access(denied: bool) -> Access {
    let topics = [("a.b", 2), ("x", 3)];
    let topics =
        topics.map(|(filter, retain)| TopicSettings { filter: filter.into(), retain, ..Default::default() });
    let users = if denied { Vec::new() } else { vec![1001] };
    Access { own_uid: 1000, own_pid: 1, users, topics: topics.into(), ..Access::default() }
}

/// A core with two queues, one of which is bound, and a service that leaves instances out soon.
fn core() -> Core {
    let mut core = Core::new(limits(), access(false), 0xfeed, "9.9.9");
    let now = Now { monotonic: 1_000_000_000, unix: 1_700_000_000_000_000_000 };
    for (name, bind) in [("a", vec!["a.>".to_owned()]), ("x", Vec::new())] {
        let queue = QueueSettings {
            name: name.to_owned(),
            bind,
            messages_max: 20,
            ack_timeout_millis: 300,
            dead_messages_max: 5,
            ..QueueSettings::default()
        };
        core.add_queue(queue, now).expect("the first two queues can be made");
    }
    let service = ServiceSettings {
        name: ">".to_owned(),
        attempt_timeout_millis: 40,
        outstanding_max: 20,
        eject_failures: 1,
        eject_millis: 100,
        ..ServiceSettings::default()
    };
    core.add_service(service).expect("a filter for services");
    core
}

impl Stage {
    fn new() -> Self {
        Self {
            core: core(),
            now: Now { monotonic: 1_000_000_000, unix: 1_700_000_000_000_000_000 },
            open: BTreeSet::new(),
            last_fd: 0,
            clients: BTreeMap::new(),
            proxies: BTreeMap::new(),
            busy: false,
            work: VecDeque::new(),
            copies: BTreeSet::new(),
            denied: false,
        }
    }

    fn fd(&mut self) -> FdId {
        self.last_fd += 1;
        self.open.insert(FdId(self.last_fd));
        FdId(self.last_fd)
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let ids: Vec<SessionId> = self.clients.keys().copied().collect();
        let what = choices.byte() % 28;
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
            23 => self.surprise(id, choices),
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
            streams: Vec::new(),
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

    /// Something that no client says.
    fn surprise(&mut self, id: SessionId, choices: &mut Choices<'_>) {
        match choices.byte() % 8 {
            0 => self.core.process_ended(id),
            1 => self.core.timed_out(id, self.now),
            2 => {
                let flow = self.core.descriptors_missing(id, Code::NoResources, "no more files", self.now);
                self.flowed(id, flow);
            }
            3 => {
                self.denied = !self.denied;
                self.core.change_access(access(self.denied), self.now);
            }
            4 => self.busy = !self.busy,
            _ => self.work_on(choices.byte()),
        }
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

    fn end(mut self) {
        if self.last_fd.is_multiple_of(2) {
            self.core.shutdown(self.now);
            self.act();
        }
        let ids: Vec<SessionId> = self.clients.keys().copied().collect();
        for id in ids {
            self.read(id, &mut Choices(&[]));
            self.hang_up(id);
        }
        while !self.work.is_empty() {
            self.work_on(0);
        }
        for attach in std::mem::take(&mut self.proxies).into_keys() {
            self.core.proxy_ended(attach, 0, self.now);
            self.act();
        }
        let left: Vec<&FdId> = self.open.difference(&self.copies).collect();
        assert!(left.is_empty(), "descriptors leak: {left:?}");
        assert!(self.open.len() <= limits().retained_topics_max as usize, "copies leak: {:?}", self.open);
        // What waits in queues becomes due or expires; nobody is there to be given it.
        for _ in 0..10_000 {
            let Some(due) = self.core.deadline() else { break };
            self.now.monotonic = self.now.monotonic.max(due);
            self.core.tick(self.now);
            self.act();
        }
        assert_eq!(self.core.deadline(), None, "a timer of nobody");
        let snapshot = self.core.snapshot(self.now);
        assert!(snapshot.sessions.is_empty() && snapshot.streams.is_empty() && snapshot.services.is_empty());
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
