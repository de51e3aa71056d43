//! One client as the broker sees it: who it is, what it has, what waits for it, and why it is not read from.
//!
//! This file holds the state only. What native frames do is in `native`, what JSON lines do in
//! `json_session`, how messages reach the outbox in `delivery`.

use super::gates::Patience;
use super::outbox::Outbox;
use super::snapshot::Traffic;
use super::sources::Sources;
use super::table::Key;
use super::{Language, Peer, SessionId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// Who publishes, as others are told. It outlives the session while messages of it wait somewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) session: SessionId,
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) pid: u32,
    /// What the client says is its number on all its connections; 0: none.
    pub(super) client: u64,
    /// The broker as routes publish: how many routes a message has been through; else 0.
    pub(super) hops: u8,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session, name, uid, pid, .. } = self;
        let name = if name.is_empty() { "unnamed" } else { name };
        write!(f, "{name} (session {session}, pid {pid}, uid {uid})")
    }
}

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Native, before `Hello`.
    Greeting,
    Open,
    /// Its last words are in the outbox; whatever it had is gone already.
    Closing,
}

/// Why the broker has stopped reading from a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// A subscription with `Block` is full.
    Slow(Key),
    /// Its own answers pile up.
    Answers,
    /// Too much waits to be written to the store.
    Store,
    /// The payload of its last frame is being copied.
    Bulk,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) peer: Peer,
    pub(super) language: Language,
    pub(super) stage: Stage,
    pub(super) identity: Arc<Identity>,
    pub(super) outbox: Outbox,
    /// Bytes written that the totals have.
    pub(super) written: u64,
    /// Whether it stands in `Core::dirty`.
    pub(super) dirty: bool,
    /// What its topic aliases mean (native).
    pub(super) aliases: Vec<Option<Key>>,
    /// The last number on each topic it published to (JSON: the broker numbers on its behalf).
    pub(super) numbers: HashMap<Key, u64>,
    pub(super) subscriptions: BTreeMap<u32, Key>,
    /// Number of the last subscription (JSON: the broker chooses).
    pub(super) last_subscription: u32,
    pub(super) streams: BTreeSet<u64>,
    pub(super) sources: Sources,
    /// Subscriptions with messages that wait for room in the outbox, in turn.
    pub(super) backlog: VecDeque<Key>,
    pub(super) paused: Option<Pause>,
    pub(super) patience: Patience,
    /// A line that waits until a slow subscriber has room (JSON).
    pub(super) held_line: Option<Box<[u8]>>,
    pub(super) half_closed: bool,
    /// Status requests that the shell has yet to fill in.
    pub(super) statuses: u32,
    /// Bytes of answers since all of them were written the last time.
    pub(super) answer_bytes: usize,
    /// Where the last of them ends, in bytes since the session began.
    answers_end: u64,
    /// Answers that were dropped because they were not read (JSON).
    pub(super) answers_dropped: u64,
    /// Whether answers are dropped now.
    pub(super) mute: bool,
    /// When `mute` begins, if the answers are not read by then.
    pub(super) mute_at: Option<u64>,
    /// It has named attachments of an earlier connection; and until when they wait for their other sides.
    pub(super) resumed: bool,
    pub(super) grace_by: Option<u64>,
    /// The process that connected is known to have ended.
    pub(super) process_ended: bool,
    /// When it must have been opened.
    pub(super) open_by: Option<u64>,
    /// Descriptors sent and not yet confirmed.
    pub(super) fds_in_flight: u32,
    /// Attachments whose next frame to this session waits for others to be confirmed.
    pub(super) fd_queue: VecDeque<u64>,
    /// What its queue aliases mean (native).
    pub(super) queue_aliases: Vec<Option<(Box<str>, Option<Key>)>>,
    /// How many messages it has pushed to queues (JSON: the broker numbers on its behalf).
    pub(super) pushed_lines: u64,
    /// Pushes that are still to be answered.
    pub(super) pushes: Option<super::queues::Taken>,
    /// Answers that wait for the store.
    pub(super) storing: u32,
    /// Its consumers, by number.
    pub(super) consumers: BTreeMap<u32, super::queues::Place>,
    /// Those of them that wait for room in the outbox.
    pub(super) blocked: Vec<super::queues::Place>,
    /// Its requests without an answer, by number.
    pub(super) requests: BTreeMap<u64, Key>,
    /// How many it has sent (JSON: the broker numbers on its behalf).
    pub(super) asked_lines: u64,
    /// Answers that wait for room in the outbox, and what they are counted for.
    pub(super) held_replies: VecDeque<super::services::Held>,
    pub(super) held_reply_bytes: u64,
    /// What it provides, by number.
    pub(super) providers: BTreeMap<u32, super::services::Place>,
    /// Those of them that wait for room in the outbox.
    pub(super) blocked_instances: Vec<super::services::Place>,
    /// Its rings for large payloads.
    pub(super) bulk: super::bulk::Bulk,
    pub(super) traffic: Traffic,
    pub(super) connected: u64,
}

impl Session {
    pub(super) fn new(id: SessionId, peer: Peer, language: Language, now: u64) -> Self {
        let identity =
            Identity { session: id, name: String::new(), uid: peer.uid, pid: peer.pid, client: 0, hops: 0 };
        Self {
            id,
            language,
            stage: if language == Language::Native { Stage::Greeting } else { Stage::Open },
            identity: Arc::new(identity),
            peer,
            outbox: Outbox::default(),
            written: 0,
            dirty: false,
            aliases: Vec::new(),
            numbers: HashMap::new(),
            subscriptions: BTreeMap::new(),
            last_subscription: 0,
            streams: BTreeSet::new(),
            sources: Sources::default(),
            backlog: VecDeque::new(),
            paused: None,
            patience: Patience::default(),
            held_line: None,
            half_closed: false,
            statuses: 0,
            answer_bytes: 0,
            answers_end: 0,
            answers_dropped: 0,
            mute: false,
            mute_at: None,
            resumed: false,
            grace_by: None,
            process_ended: false,
            open_by: None,
            fds_in_flight: 0,
            fd_queue: VecDeque::new(),
            queue_aliases: Vec::new(),
            pushed_lines: 0,
            pushes: None,
            storing: 0,
            consumers: BTreeMap::new(),
            blocked: Vec::new(),
            requests: BTreeMap::new(),
            asked_lines: 0,
            held_replies: VecDeque::new(),
            held_reply_bytes: 0,
            providers: BTreeMap::new(),
            blocked_instances: Vec::new(),
            bulk: super::bulk::Bulk::default(),
            traffic: Traffic::default(),
            connected: now,
        }
    }

    /// Whether the client has said and heard everything: it writes no more, and nothing is to come.
    pub(super) fn is_finished(&self) -> bool {
        self.half_closed
            && self.statuses == 0
            && !self.waits_for_store()
            && self.held_line.is_none()
            && self.subscriptions.is_empty()
            && self.requests.is_empty()
            && self.held_replies.is_empty()
    }

    /// Notes that an answer of `bytes` was appended.
    pub(super) fn answered(&mut self, bytes: usize) {
        self.answer_bytes += bytes;
        self.answers_end = self.outbox.written_bytes() + self.outbox.len() as u64;
    }

    /// Notes that part of the outbox was written.
    pub(super) fn answers_written(&mut self) {
        if self.outbox.written_bytes() >= self.answers_end {
            self.answer_bytes = 0;
        }
    }
}
