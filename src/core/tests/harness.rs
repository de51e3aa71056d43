//! A shell without an operating system.

use crate::core::snapshot::RingCounts;
use crate::core::{
    Access, Action, Bells, Core, FdId, Flow, Language, Limits, Now, Peer, RingMessage, SessionId, Snapshot,
    Taken,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tramline_wire::{
    Framed, GatedBy, Geometry, Message, MessageFlags, Mode, OpenStream, PageDeclaration, Publish, SlowPolicy,
    Subscribe, ToBroker, ToClient, split_frame,
};

/// Nanoseconds in a millisecond.
pub(super) const MILLI: u64 = 1_000_000;

/// When every test begins.
pub(super) const START: Now = Now { monotonic: 1_000_000_000, unix: 1_700_000_000_000_000_000 };

/// The ring that tests declare.
pub(super) const GEOMETRY: Geometry = Geometry { descriptors: 64, arena_bytes: 8192 };

pub(super) struct Shell {
    pub(super) core: Core,
    pub(super) now: Now,
    /// Descriptors that are open, with what they are.
    pub(super) fds: BTreeMap<FdId, String>,
    last_fd: u64,
    /// What the core asked for and nobody has looked at yet, other than what the harness does by itself.
    pub(super) asked: Vec<Action>,
    pub(super) closing: BTreeSet<SessionId>,
    pub(super) resumed: Vec<SessionId>,
    /// Why the next ring is refused.
    pub(super) bad_ring: Option<String>,
    /// What every ring has counted.
    pub(super) counted: RingCounts,
    /// Whether pipes cannot be made.
    pub(super) no_pipes: bool,
    /// Whether what is asked of workers of routes stays undone.
    pub(super) workers_sleep: bool,
    queues: BTreeMap<SessionId, VecDeque<FdId>>,
}

impl Shell {
    pub(super) fn new(limits: Limits) -> Self {
        let access = Access { own_uid: 1000, own_pid: 1, users: vec![1001, 1002], ..Access::default() };
        Self {
            core: Core::new(limits, access, 0xfeed, "9.9.9"),
            now: START,
            fds: BTreeMap::new(),
            last_fd: 0,
            asked: Vec::new(),
            closing: BTreeSet::new(),
            resumed: Vec::new(),
            bad_ring: None,
            counted: RingCounts::default(),
            no_pipes: false,
            workers_sleep: false,
            queues: BTreeMap::new(),
        }
    }

    pub(super) fn fd(&mut self, what: impl Into<String>) -> FdId {
        self.last_fd += 1;
        self.fds.insert(FdId(self.last_fd), what.into());
        FdId(self.last_fd)
    }

    pub(super) fn connect(&mut self, uid: u32, language: Language) -> SessionId {
        let peer = Peer { pid: 100 + uid, uid, gid: uid, groups: Vec::new() };
        let id = self.core.connect(peer, language, self.now).unwrap();
        self.act();
        id
    }

    /// Opens a stream that the broker reads itself. Its attachments.
    pub(super) fn read_stream(&mut self, from: SessionId, alias: u32, stream: u64) -> Vec<u64> {
        let memory = self.fd("ring");
        self.say_with(from, ToBroker::OpenStream(open_stream(1, alias, stream)), &[memory]);
        let offered =
            |action| if let Action::ProxyOffer { attach, .. } = action { Some(attach) } else { None };
        let attachments: Vec<u64> = self.asked().into_iter().filter_map(offered).collect();
        for (slot, attach) in (0..).zip(&attachments) {
            let page = (slot == 0).then(|| (PageDeclaration { first_slot: 0, slots: 8 }, self.fd("page")));
            self.core.proxy_accept(*attach, slot, page, self.now);
            self.act();
            self.say(from, ToBroker::Admitted { attach: *attach, start: 0, start_seq: 1, generation: 0 });
            self.core.proxy_attached(*attach, self.now);
            self.act();
        }
        attachments
    }

    /// A native client that has been greeted.
    pub(super) fn native(&mut self, name: &str) -> SessionId {
        self.native_of(1000, name)
    }

    pub(super) fn native_of(&mut self, uid: u32, name: &str) -> SessionId {
        let id = self.connect(uid, Language::Native);
        assert_eq!(self.say(id, ToBroker::Hello { name, client: 0 }), Flow::Continue);
        self.read(id);
        id
    }

    pub(super) fn json(&mut self) -> SessionId {
        self.connect(1000, Language::Json)
    }

    pub(super) fn say(&mut self, id: SessionId, frame: ToBroker<'_>) -> Flow {
        self.say_with(id, frame, &[])
    }

    pub(super) fn say_with(&mut self, id: SessionId, frame: ToBroker<'_>, fds: &[FdId]) -> Flow {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let taken = self.input(id, &bytes, fds);
        assert!(taken.flow != Flow::Continue || taken.consumed == bytes.len(), "{frame:?} was not taken");
        taken.flow
    }

    pub(super) fn input(&mut self, id: SessionId, bytes: &[u8], fds: &[FdId]) -> Taken {
        let queue = self.queues.entry(id).or_default();
        queue.extend(fds);
        let taken = self.core.native_input(id, bytes, queue, self.now);
        self.act();
        taken
    }

    pub(super) fn line(&mut self, id: SessionId, line: &str) -> Flow {
        let flow = self.core.json_line(id, line.as_bytes(), self.now);
        self.act();
        flow
    }

    /// Carries out what the core wants.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.core.next_action() {
            match action {
                Action::CloseFd(fd) => {
                    assert!(self.fds.remove(&fd).is_some(), "{fd:?} was closed twice or never open");
                }
                Action::VerifyRing { stream, generation, .. } => {
                    let result = self.bad_ring.take().map_or_else(|| Ok(self.counted), Err);
                    self.core.ring_verified(stream, generation, result, self.now);
                }
                Action::CountRing { stream, topic, part } => {
                    assert!(self.fds.contains_key(&part.memory), "{part:?} is closed before it is counted");
                    self.core.ring_counted(stream, &topic, &part, self.counted);
                }
                Action::MakePipes { link } if self.no_pipes => {
                    self.core.pipes_made(link, Err("too many open files".to_owned()), self.now);
                }
                Action::MakePipes { link } => {
                    let bells = Bells {
                        doorbell_read: self.fd("doorbell_read"),
                        doorbell_write: self.fd("doorbell_write"),
                        space_read: self.fd("space_read"),
                        space_write: self.fd("space_write"),
                    };
                    self.core.pipes_made(link, Ok(bells), self.now);
                }
                Action::CloseSession(id) => {
                    assert!(self.closing.insert(id), "session {id} is closed twice");
                }
                Action::Work(task) if !self.workers_sleep => {
                    self.core.worked([task.run(&|| std::time::Duration::ZERO)], self.now);
                }
                Action::Resume(id) => self.resumed.push(id),
                Action::Status { session, request } => {
                    let snapshot: Snapshot = self.core.snapshot(self.now);
                    self.core.status_filled(session, request.as_deref(), &snapshot, self.now);
                }
                Action::ProxyAttach { bells, .. } => {
                    // They are the shell's now, which closes them with its reader.
                    for bell in bells.into_iter().flat_map(|(doorbell, space)| [doorbell, space]) {
                        self.fds.remove(&bell).unwrap();
                    }
                    self.asked.push(action);
                }
                other => self.asked.push(other),
            }
        }
    }

    /// Writes up to `most` bytes of a session's outbox, and returns them with the descriptors that went along.
    pub(super) fn read_some(&mut self, id: SessionId, most: usize) -> (Vec<u8>, Vec<FdId>) {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        while bytes.len() < most {
            let Some(outbox) = self.core.outbox(id) else { break };
            let chunk = outbox.chunk();
            if chunk.bytes.is_empty() {
                break;
            }
            let count = chunk.bytes.len().min(most - bytes.len());
            bytes.extend_from_slice(&chunk.bytes[..count]);
            fds.extend_from_slice(chunk.fds);
            for fd in chunk.fds {
                assert!(self.fds.contains_key(fd), "{fd:?} is sent but not open");
            }
            outbox.advance(count);
            self.core.written(id, self.now);
            self.act();
        }
        (bytes, fds)
    }

    /// Writes everything.
    pub(super) fn read(&mut self, id: SessionId) -> Vec<u8> {
        self.read_some(id, usize::MAX).0
    }

    /// Writes everything, which must be exactly these frames.
    pub(super) fn hears(&mut self, id: SessionId, expected: &[ToClient<'_>]) {
        let bytes = self.read(id);
        let mut wanted = Vec::new();
        expected.iter().for_each(|frame| frame.encode(&mut wanted));
        assert!(bytes == wanted, "heard    {}\nexpected {expected:#?}", show(&bytes));
    }

    /// Writes everything, which must be exactly these lines.
    pub(super) fn hears_lines(&mut self, id: SessionId, expected: &[&str]) {
        let bytes = self.read(id);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert!(text.is_empty() || text.ends_with('\n'));
    }

    /// Whether the core has ended this session; its last frame must be a `Close` with this code.
    pub(super) fn is_closed_with(&mut self, id: SessionId, code: tramline_wire::Code) -> String {
        assert!(self.closing.contains(&id), "session {id} was not ended");
        let bytes = self.read(id);
        let mut last = None;
        each_frame(&bytes, |frame| {
            last = match frame {
                ToClient::Close { code, message } => Some((code, message.to_owned())),
                _ => None,
            }
        });
        let (number, message) =
            last.unwrap_or_else(|| panic!("the last frame is no Close: {}", show(&bytes)));
        assert_eq!(tramline_wire::Code::from_number(number), Some(code), "{message}");
        message
    }

    /// The connection is gone.
    pub(super) fn hang_up(&mut self, id: SessionId) {
        self.core.disconnected(id, "gone", self.now);
        for fd in self.queues.remove(&id).unwrap_or_default() {
            self.fds.remove(&fd).unwrap();
        }
        self.act();
    }

    /// Lets time pass, and everything that is due on the way happen when it is due.
    pub(super) fn pass(&mut self, millis: u64) {
        let end = self.now.monotonic + millis * MILLI;
        while let Some(due) = self.core.deadline().filter(|due| *due <= end) {
            self.set_time(due.max(self.now.monotonic));
            self.core.tick(self.now);
            self.act();
        }
        self.set_time(end);
        self.core.tick(self.now);
        self.act();
    }

    fn set_time(&mut self, monotonic: u64) {
        self.now.unix += i64::try_from(monotonic - self.now.monotonic).unwrap();
        self.now.monotonic = monotonic;
    }

    pub(super) fn asked(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.asked)
    }

    /// Nobody is left, so nothing must be.
    pub(super) fn is_empty(&mut self) {
        assert!(self.fds.is_empty(), "descriptors leak: {:?}", self.fds);
        let core = &self.core;
        assert_eq!(core.sessions.len() + core.subscriptions.len(), 0);
        assert!(core.by_id.is_empty() && core.attachments.is_empty() && core.claims.is_empty());
        assert!(core.streams.by_id.is_empty() && core.streams.descriptors.is_empty());
        assert_eq!((core.streams.bytes, core.backlogs, core.listeners), (0, 0, 0));
        assert!(core.links.by_id.is_empty(), "{:?}", core.links);
        assert!(core.services.is_idle(), "{:?}", core.services);
        assert_eq!(core.deadline(), None, "{:?}", core.timers);
    }
}

/// Calls `look` with each frame of `bytes`.
pub(super) fn each_frame(mut bytes: &[u8], mut look: impl FnMut(ToClient<'_>)) {
    while let Ok(Framed::Whole { body, consumed }) = split_frame(bytes, usize::MAX) {
        look(ToClient::decode(body).unwrap());
        bytes = &bytes[consumed..];
    }
    assert!(bytes.is_empty(), "half a frame");
}

/// Frames as people read them.
pub(super) fn show(bytes: &[u8]) -> String {
    let mut text = String::new();
    each_frame(bytes, |frame| text += &format!("{frame:#?}\n"));
    text
}

/// A binary message.
pub(super) fn message(seq: u64, payload: &[u8]) -> Message<'_> {
    let flags = MessageFlags::default();
    Message { flags, seq, time: 7, source_time: 0, after: None, head: &[], payload }
}

pub(super) fn publish(alias: u32, seq: u64, payload: &[u8]) -> ToBroker<'_> {
    ToBroker::Publish(Publish { alias, message: message(seq, payload) })
}

/// A lossy subscription without rings that drops its oldest.
pub(super) fn subscribe(req: u32, sub: u32, filter: &str) -> Subscribe<'_> {
    Subscribe {
        req,
        sub,
        filter,
        mode: Mode::Lossy,
        rings: true,
        history: 0,
        slow: SlowPolicy::DropOldest,
        backlog_bytes_max: 0,
        gated_only: false,
    }
}

pub(super) fn open_stream(req: u32, alias: u32, stream: u64) -> OpenStream {
    OpenStream {
        req,
        alias,
        stream,
        generation: 0,
        geometry: GEOMETRY,
        first_seq: 1,
        gated_by: GatedBy::OwnUid,
        fds: 1,
    }
}

/// A message as it is read from a ring.
pub(super) fn ring_message(seq: u64, payload: &[u8]) -> RingMessage<'_> {
    let flags = MessageFlags::default().bits();
    RingMessage {
        seq,
        lost: 0,
        flags,
        time: 7,
        source_time: 0,
        head: &[],
        payload,
        payload_length: payload.len() as u64,
        whole: None,
    }
}
