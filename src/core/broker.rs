//! The core itself: its parts, its face to the shell, and the order in which it carries things out.
//!
//! Every event enters here, is handed to the module that knows its rules, and is settled before the call
//! returns: sessions that a rule ended are ended, requests that have become answerable are answered, lines that
//! waited are carried out, and what happened is told on `$tramline.>`. Only then does the shell see actions and
//! outboxes. No rule of its own lives in this file.

use super::adoption::Claims;
use super::attachment::Attachment;
use super::bulk::Deliveries;
use super::events::Event;
use super::ids::Ids;
use super::links::Links;
use super::native::Violation;
use super::past::Pasts;
use super::queues::Queues;
use super::quota::fits;
use super::retained::Retention;
use super::rings::Streams;
use super::routes::Routing;
use super::services::Services;
use super::session::{Identity, Session};
use super::snapshot::{RingCounts, RingPart, Totals};
use super::stretch::Piece;
use super::subscription::Subscription;
use super::table::{Key, Table};
use super::timers::{MILLI, Timer, Timers};
use super::topics::Topics;
use super::wholes::Wholes;
use super::{
    Access, Action, Bells, FdId, Flow, Language, Limits, Now, Outbox, Peer, RetainedCopy, RingMessage,
    SessionId, Snapshot, Taken,
};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use tramline_wire::{Code, PageDeclaration};

/// Why a connection was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable reason.
    pub code: Code,
    /// What happened, for the person who meets it.
    pub message: String,
}

/// The broker without I/O: events in, actions and bytes out (see the [module](super)).
#[derive(Debug)]
pub struct Core {
    pub(super) limits: Limits,
    pub(super) access: Access,
    pub(super) instance: u64,
    pub(super) version: String,
    /// The broker as a publisher.
    pub(super) identity: Arc<Identity>,
    /// The broker's own numbers on its topics.
    pub(super) numbers: BTreeMap<Key, u64>,
    /// When the core was first given the time.
    pub(super) started: Option<u64>,
    pub(super) last_session: SessionId,
    pub(super) by_id: HashMap<SessionId, Key>,
    pub(super) sessions: Table<Session>,
    pub(super) subscriptions: Table<Subscription>,
    /// Subscriptions whose messages wait for their session's outbox.
    pub(super) backlogs: usize,
    /// Subscriptions to topics of the broker's own.
    pub(super) listeners: usize,
    /// Those of them that are shown what routes do.
    pub(super) taps: usize,
    pub(super) topics: Topics,
    pub(super) streams: Streams,
    pub(super) attachments: BTreeMap<u64, Attachment>,
    pub(super) ids: Ids,
    pub(super) claims: Claims,
    pub(super) links: Links,
    pub(super) retention: Retention,
    pub(super) pasts: Pasts,
    pub(super) queues: Queues,
    pub(super) services: Services,
    pub(super) routing: Routing,
    pub(super) deliveries: Deliveries,
    pub(super) wholes: Wholes,
    /// The topic of what is pushed to a queue itself.
    pub(super) nameless: Arc<str>,
    pub(super) timers: Timers,
    pub(super) actions: VecDeque<Action>,
    pub(super) dirty: VecDeque<SessionId>,
    pub(super) totals: Totals,
    pub(super) scratch: Vec<u8>,
    /// Room for the pieces of a stretch, empty in between.
    pub(super) pieces: Vec<Piece>,
    /// For tests: take nothing in stretches; and how many messages were taken so.
    #[cfg(test)]
    pub(super) general_only: bool,
    #[cfg(test)]
    pub(super) stretched: u64,
    // To be settled before the shell looks.
    pub(super) doomed: VecDeque<(Key, Code, String)>,
    pub(super) to_confirm: VecDeque<Key>,
    pub(super) to_release: VecDeque<Key>,
    pub(super) resumed: VecDeque<Key>,
    pub(super) events: VecDeque<Event>,
    /// JSON clients that write no more and have been given what they asked for.
    pub(super) to_finish: VecDeque<Key>,
    /// Clients with large answers for which there may be room.
    pub(super) to_place: VecDeque<Key>,
}

impl Core {
    /// A broker without sessions. `instance` is chosen at random by the shell.
    #[must_use]
    pub fn new(limits: Limits, access: Access, instance: u64, version: &str) -> Self {
        let identity = Identity {
            session: 0,
            name: "tramline".to_owned(),
            uid: access.own_uid,
            pid: access.own_pid,
            client: 0,
            hops: 0,
        };
        let identity = Arc::new(identity);
        let queues = Queues::new(instance, &limits);
        Self {
            topics: Topics::new(limits.topics_max, limits.match_cache_topics_max),
            limits,
            access,
            instance,
            version: version.to_owned(),
            routing: Routing::new(&identity),
            identity,
            numbers: BTreeMap::new(),
            started: None,
            last_session: 0,
            by_id: HashMap::new(),
            sessions: Table::default(),
            subscriptions: Table::default(),
            backlogs: 0,
            listeners: 0,
            taps: 0,
            streams: Streams::default(),
            attachments: BTreeMap::new(),
            ids: Ids::default(),
            claims: Claims::default(),
            links: Links::default(),
            retention: Retention::default(),
            pasts: Pasts::default(),
            queues,
            services: Services::default(),
            deliveries: Deliveries::default(),
            wholes: Wholes::default(),
            nameless: "".into(),
            timers: Timers::default(),
            actions: VecDeque::new(),
            dirty: VecDeque::new(),
            totals: Totals::default(),
            scratch: Vec::new(),
            pieces: Vec::new(),
            #[cfg(test)]
            general_only: false,
            #[cfg(test)]
            stretched: 0,
            doomed: VecDeque::new(),
            to_confirm: VecDeque::new(),
            to_release: VecDeque::new(),
            resumed: VecDeque::new(),
            events: VecDeque::new(),
            to_finish: VecDeque::new(),
            to_place: VecDeque::new(),
        }
    }

    /// Makes the ids of attachments unguessable, by a secret that the shell draws for each run. Before the first connection.
    #[must_use]
    pub fn with_secret(mut self, secret: [u64; 2]) -> Self {
        self.ids.hide(secret);
        self.queues = Queues::new(secret[0] ^ self.instance, &self.limits);
        self
    }

    /// A connection whose language is known (its first byte has arrived).
    ///
    /// # Errors
    /// When this user may not connect or a limit is reached; the shell tells it and closes.
    pub fn connect(&mut self, peer: Peer, language: Language, now: Now) -> Result<SessionId, Refusal> {
        self.started.get_or_insert(now.monotonic);
        let own = u64::from(self.queues.own_session.is_some());
        let (max, used) = (u64::from(self.limits.connections_max), self.sessions.len() as u64 - own);
        let fit = fits("connections_max", "connections", max, used, 1);
        let allowed = self.access.connect(&peer).and(fit.map_err(|refused| (refused.code, refused.message)));
        if let Err((code, message)) = allowed {
            self.totals.connections_refused += 1;
            self.event_refused(peer.uid, peer.pid, code, &message);
            self.settle(now);
            return Err(Refusal { code, message });
        }
        self.last_session += 1;
        let id = self.last_session;
        let key = self.sessions.insert(Session::new(id, peer, language, now.monotonic));
        self.by_id.insert(id, key);
        self.totals.connections += 1;
        match language {
            Language::Json => self.event_connected(key),
            Language::Native => {
                let at = now.monotonic + u64::from(self.limits.first_byte_timeout_millis) * MILLI;
                self.timers.set(at, Timer::Open(key));
                if let Some(session) = self.sessions.get_mut(key) {
                    session.open_by = Some(at);
                }
            }
        }
        self.settle(now);
        Ok(id)
    }

    /// Bytes of a native session, after the preamble; takes whole frames only. Descriptors are taken from
    /// the front of `fds` as frames declare them.
    pub fn native_input(
        &mut self,
        session: SessionId,
        bytes: &[u8],
        fds: &mut VecDeque<FdId>,
        now: Now,
    ) -> Taken {
        match self.by_id.get(&session) {
            Some(key) => self.take_native(*key, bytes, fds, now),
            None => Taken { consumed: 0, flow: Flow::Close },
        }
    }

    /// One line of a JSON session, without its line feed. After [`Flow::Pause`] the line is taken, and the next one
    /// is wanted after [`Action::Resume`] only.
    pub fn json_line(&mut self, session: SessionId, line: &[u8], now: Now) -> Flow {
        match self.by_id.get(&session) {
            Some(key) => self.take_line(*key, line, now),
            None => Flow::Close,
        }
    }

    /// A line longer than `frame_bytes_max`: `bytes` of it were read so far. The shell skips the rest of it.
    pub fn line_too_long(&mut self, session: SessionId, bytes: usize, now: Now) -> Flow {
        let Some(key) = self.by_id.get(&session).copied() else { return Flow::Close };
        let max = self.limits.frame_bytes_max;
        let message =
            format!("a line of {bytes} bytes or more; at most {max} are taken (limits.frame_bytes_max)");
        self.refuse_line(key, Code::FrameTooLarge, &message, now)
    }

    /// Descriptors of a session were thrown away, so that its frames cannot be understood any more: it sent too many, or
    /// this process has no room. `message` says which limit that is.
    pub fn descriptors_missing(&mut self, session: SessionId, code: Code, message: &str, now: Now) -> Flow {
        if let Some(key) = self.by_id.get(&session).copied() {
            self.violated(key, &Violation::new(code, message));
            self.settle(now);
        }
        Flow::Close
    }

    /// A JSON client has shut down its writing side. Its subscriptions live on until a write fails; without any, the
    /// session ends.
    pub fn half_closed(&mut self, session: SessionId, now: Now) -> Flow {
        let Some(key) = self.by_id.get(&session).copied() else { return Flow::Close };
        let Some(known) = self.sessions.get_mut(key) else { return Flow::Close };
        known.half_closed = true;
        self.stop_providing(key);
        if !self.has_finished(key) {
            self.settle(now);
            return Flow::Continue;
        }
        self.finish(key);
        self.settle(now);
        Flow::Close
    }

    /// The session was not opened in time. Nothing happens to one that is open.
    pub fn timed_out(&mut self, session: SessionId, now: Now) {
        if let Some(key) = self.by_id.get(&session).copied() {
            self.open_is_due(key);
            self.settle(now);
        }
    }

    /// The process that connected has ended, though its connection may not have: from here on nothing that it mapped
    /// is looked at any more. What it had sent is still taken; then [`Core::disconnected`] follows.
    pub fn process_ended(&mut self, session: SessionId) {
        if let Some(known) = self.by_id.get(&session).and_then(|key| self.sessions.get_mut(*key)) {
            known.process_ended = true;
        }
    }

    /// The connection has ended. All that was received must have been given to the core before.
    pub fn disconnected(&mut self, session: SessionId, reason: &str, now: Now) {
        let Some(key) = self.by_id.get(&session).copied() else { return };
        self.force_held(key, now);
        self.settle(now);
        self.end(key, reason);
        self.by_id.remove(&session);
        if let Some(mut ended) = self.sessions.remove(key) {
            for fd in ended.outbox.take_unsent() {
                self.release_fd(fd);
            }
        }
        self.settle(now);
    }

    /// A session whose outbox has something to write that it had not when it was last asked.
    pub fn next_dirty(&mut self) -> Option<SessionId> {
        while let Some(id) = self.dirty.pop_front() {
            let session = self.by_id.get(&id).and_then(|key| self.sessions.get_mut(*key));
            if let Some(session) = session {
                session.dirty = false;
                return Some(id);
            }
        }
        None
    }

    /// What waits to be written to a session, if it exists.
    pub fn outbox(&mut self, session: SessionId) -> Option<&mut Outbox> {
        let key = self.by_id.get(&session)?;
        self.sessions.get_mut(*key).map(|session| &mut session.outbox)
    }

    /// Part of the outbox was written: lets queued messages move up and blocked publishers go on.
    pub fn written(&mut self, session: SessionId, now: Now) {
        let Some(key) = self.by_id.get(&session).copied() else { return };
        let Some(known) = self.sessions.get_mut(key) else { return };
        let written = known.outbox.written_bytes();
        self.totals.wire_bytes_out += written - std::mem::replace(&mut known.written, written);
        for fd in known.outbox.take_sent() {
            self.release_fd(fd);
        }
        self.answers_were_read(key);
        self.refill(key, now);
        self.unblock_consumers(key);
        self.unblock_instances(key);
        self.move_replies_up(key, now);
        self.settle(now);
    }

    /// What the shell is to do next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front().or_else(|| self.next_batch())
    }

    /// The answer to [`Action::VerifyRing`].
    pub fn ring_verified(
        &mut self,
        stream: u64,
        generation: u32,
        result: Result<RingCounts, String>,
        now: Now,
    ) {
        self.generation_verified(stream, generation, result, now);
        self.settle(now);
    }

    /// The answer to [`Action::CountRing`].
    pub fn ring_counted(&mut self, stream: u64, topic: &str, part: &RingPart, counts: RingCounts) {
        self.take_counts(stream, topic, part, counts);
    }

    /// The answer to [`Action::Retain`]; `None` if there was no message. The descriptor becomes the core's.
    pub fn ring_retained(&mut self, stream: u64, result: Result<Option<RetainedCopy>, String>, now: Now) {
        self.take_retained(stream, result);
        self.settle(now);
    }

    /// The answer to [`Action::MakePipes`].
    pub fn pipes_made(&mut self, link: u64, result: Result<Bells, String>, now: Now) {
        self.take_pipes(link, result);
        self.settle(now);
    }

    /// The shell takes a [`Action::ProxyOffer`]; its cursor is in `slot` of the link, on `page` if that is new.
    pub fn proxy_accept(&mut self, attach: u64, slot: u32, page: Option<(PageDeclaration, FdId)>, now: Now) {
        self.proxy_takes(attach, slot, page);
        self.settle(now);
    }

    /// The shell cannot take a [`Action::ProxyOffer`].
    pub fn proxy_refuse(&mut self, attach: u64, reason: &str, now: Now) {
        self.proxy_refuses(attach, reason);
        self.settle(now);
    }

    /// The shell reads the ring of a [`Action::ProxyAttach`].
    pub fn proxy_attached(&mut self, attach: u64, now: Now) {
        self.is_attached(attach);
        self.settle(now);
    }

    /// The shell reads in this generation now, and holds nothing of earlier ones.
    pub fn proxy_went_on(&mut self, attach: u64, generation: u32, now: Now) {
        self.released_below(attach, generation);
        self.settle(now);
    }

    /// A message that the shell read on behalf of a subscription. It is taken in any case; after [`Flow::Pause`] the
    /// next one is wanted after [`Action::ProxyResume`] only, after [`Flow::Close`] none.
    pub fn proxy_message(&mut self, attach: u64, message: RingMessage<'_>, now: Now) -> Flow {
        self.proxy_reads(attach, message, now)
    }

    /// The ring says something that cannot be, `claim`. It is not read any more.
    pub fn proxy_cheated(&mut self, attach: u64, claim: &str, now: Now) {
        self.proxy_is_cheated(attach, claim, now);
    }

    /// The shell has read all there was, or cannot read on; `lost` were lost after the last message.
    pub fn proxy_ended(&mut self, attach: u64, lost: u64, now: Now) {
        self.proxy_is_done(attach, lost, now);
    }

    /// The snapshot of an [`Action::Status`], with what the rings say filled in.
    pub fn status_filled(
        &mut self,
        session: SessionId,
        request: Option<&str>,
        snapshot: &Snapshot,
        now: Now,
    ) {
        if let Some(key) = self.by_id.get(&session).copied() {
            self.answer_status(key, request, snapshot);
            self.settle(now);
        }
    }

    /// Lets time pass: whatever was due by `now` happens.
    pub fn tick(&mut self, now: Now) {
        self.started.get_or_insert(now.monotonic);
        while let Some(timer) = self.timers.pop(now.monotonic) {
            match timer {
                Timer::Open(key) => self.open_is_due(key),
                Timer::Answers(key) => self.answers_are_due(key),
                Timer::Block(key) => self.block_is_over(key, now),
                Timer::Patience(key) => self.patience_is_over(key, now),
                Timer::Subscribed(key) => self.subscription_is_due(key, now),
                Timer::Stream(stream) => self.stream_is_due(stream),
                Timer::Growth(stream) => self.tell_grown(stream, true),
                Timer::Grace(key) => self.grace_is_over(key),
                Timer::Queue(key) => self.queue_is_due(key, now),
                Timer::Call(key) => self.call_is_due(key, now),
                Timer::Service(key) => self.service_is_due(key, now),
                Timer::Bulk(key) => self.bulk_is_due(key),
                Timer::Store => self.store_is_due(),
                Timer::Leg(key) => self.leg_is_due(key, now),
            }
            self.settle(now);
        }
    }

    /// When [`Core::tick`] is to be called next, nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    /// What the broker is and does now.
    #[must_use]
    pub fn snapshot(&self, now: Now) -> Snapshot {
        self.status(now)
    }

    /// Tells every session that the broker stops, and closes it.
    pub fn shutdown(&mut self, now: Now) {
        // The session of its own is no connection.
        let all: Vec<Key> =
            self.sessions.iter().filter(|(_, session)| session.id != 0).map(|(key, _)| key).collect();
        for key in all {
            self.close(key, Code::ShuttingDown, "the broker is stopping");
        }
        self.events.clear();
        self.settle(now);
    }

    /// Whether something is to be settled before the next event of a batch. What queues have to give out is given
    /// together at its end.
    pub(super) fn is_pressing(&self) -> bool {
        !(self.doomed.is_empty()
            && self.to_confirm.is_empty()
            && self.to_release.is_empty()
            && self.resumed.is_empty()
            && self.events.is_empty()
            && self.queues.leaving.is_empty()
            && self.services.leaving.is_empty()
            && self.services.given_up.is_empty()
            && self.to_place.is_empty()
            && self.to_finish.is_empty())
    }

    /// Carries out what became due while an event was handled.
    pub(super) fn settle(&mut self, now: Now) {
        while self.is_pressing()
            || !self.queues.busy.is_empty()
            || !self.services.busy.is_empty()
            || self.routing.is_pressing()
        {
            while let Some((key, code, message)) = self.doomed.pop_front() {
                self.end_doomed(key, code, &message);
            }
            while let Some(key) = self.to_confirm.pop_front() {
                self.confirm_if_ready(key, now);
            }
            while let Some(key) = self.to_release.pop_front() {
                self.hand_over_behind_retained(key, now);
                self.release_held(key, now);
            }
            if let Some(key) = self.resumed.pop_front() {
                self.carry_out_held(key, now);
            }
            self.end_consumers(now);
            self.give_out(now);
            self.cancel_given_up(now);
            self.end_instances(now);
            self.give_calls_out(now);
            self.settle_routes(now);
            self.place_replies();
            self.finish_those_done();
            self.publish_events(now);
        }
    }

    pub(super) fn event_connected(&mut self, key: Key) {
        self.event("$tramline.connect", |core| match core.sessions.get(key) {
            None => serde_json::Value::Null,
            Some(session) => {
                let Identity { session: id, name, uid, pid, .. } = &*session.identity;
                let language = super::status::language_text(session.language);
                json!({"session": id, "name": name, "uid": uid, "pid": pid, "language": language})
            }
        });
    }
}
