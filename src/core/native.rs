//! What frames of a native session do.
//!
//! Bytes become checked frames here, one by one; a frame that breaks the protocol ends its session with a code and a
//! sentence, a request that cannot be granted is answered with an error and the session goes on. Messages are routed
//! as the bytes they came in, after their flags and header block were checked.

use super::access::TopicSettings;
use super::broker::Core;
use super::gaps::source;
use super::quota::Refused;
use super::router::Routed;
use super::session::{Identity, Pause, Stage};
use super::subscribe::Wanted;
use super::subscription::Asker;
use super::table::Key;
use super::timers::Timer;
use super::{FdId, Flow, Now, Taken};
use std::collections::VecDeque;
use std::sync::Arc;
use tramline_wire as wire;
use tramline_wire::limits::{ALIASES_MAX, NAME_BYTES_MAX, SUBSCRIPTION_ID_MAX};
use tramline_wire::{
    Code, DecodeError, Framed, Geometry, HeaderBlock, MessageFlags, Publish, Subscribe, ToBroker, ToClient,
    Topic, Welcome, split_frame,
};

/// Bytes that a delivered message needs in a frame's body besides itself.
pub(in crate::core) const DELIVER_HEAD_BYTES: usize = 20;

/// How a client broke the protocol. Its session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Violation {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        let code = match error {
            DecodeError::TooLarge { .. } => Code::FrameTooLarge,
            DecodeError::UnknownKind(_) => Code::Unsupported,
            DecodeError::Descriptors { .. } => Code::BadDescriptor,
            DecodeError::Malformed { .. } | DecodeError::Trailing { .. } => Code::Malformed,
        };
        Self::new(code, error.to_string())
    }
}

/// Whether a message carries flags and a header block that can be.
pub(super) fn check_message(message: &wire::Message<'_>) -> Result<(), Violation> {
    if MessageFlags::from_bits(message.flags.bits()).is_none() {
        let message = format!("message flags {:#x} are not known", message.flags.bits());
        return Err(Violation::new(Code::Malformed, message));
    }
    if !message.head.is_empty()
        && let Err(error) = HeaderBlock::parse(message.head)
    {
        return Err(Violation::new(Code::Malformed, error.to_string()));
    }
    Ok(())
}

/// Whether a frame was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Taken,
    /// Not now: the session is paused and the frame will be given again.
    NotYet,
}

impl Core {
    pub(super) fn take_native(
        &mut self,
        key: Key,
        bytes: &[u8],
        fds: &mut VecDeque<FdId>,
        now: Now,
    ) -> Taken {
        let mut consumed = 0;
        let frame_bytes_max = self.limits.frame_bytes_max as usize;
        let flow = loop {
            let bulk = match self.sessions.get(key).map(|session| (session.stage, session.paused, session)) {
                None | Some((Stage::Closing, ..)) => break Flow::Close,
                Some((_, Some(_), _)) => break Flow::Pause,
                Some((_, None, session)) => session.bulk.up.next.is_some(),
            };
            if self.answers_pile_up(key) {
                break Flow::Pause;
            }
            let mut stretch = if bulk { 0 } else { self.take_stretch(key, &bytes[consumed..], now) };
            if stretch == 0 && !bulk {
                stretch = self.take_pushes(key, &bytes[consumed..], now);
            }
            if stretch > 0 {
                consumed += stretch;
                continue;
            }
            let step = match split_frame(&bytes[consumed..], frame_bytes_max) {
                Ok(Framed::Incomplete { .. }) => break Flow::Continue,
                Ok(Framed::Whole { body, consumed: length }) => {
                    self.take_frame(key, body, fds, now).map(|step| (step, length))
                }
                Err(error) => Err(error.into()),
            };
            match step {
                Ok((Step::Taken, length)) => {
                    consumed += length;
                    if self.is_pressing() {
                        self.settle(now);
                    }
                }
                Ok((Step::NotYet, _)) => break Flow::Pause,
                Err(violation) => {
                    self.violated(key, &violation);
                    break Flow::Close;
                }
            }
        };
        self.totals.wire_bytes_in += consumed as u64;
        self.answer_pushes(key);
        let most = self.limits.session_fds_in_flight_max as usize;
        if flow == Flow::Continue && fds.len() > most {
            let message = format!(
                "{} file descriptors arrived without a frame that declares them; limits.session_fds_in_flight_max is \
                 {most}",
                fds.len()
            );
            self.violated(key, &Violation::new(Code::BadDescriptor, message));
            self.settle(now);
            return Taken { consumed, flow: Flow::Close };
        }
        self.settle(now);
        Taken { consumed, flow }
    }

    /// Ends a session that broke the protocol.
    pub(super) fn violated(&mut self, key: Key, violation: &Violation) {
        let Some(session) = self.sessions.get(key).filter(|session| session.stage != Stage::Closing) else {
            return;
        };
        let identity = session.identity.clone();
        let Violation { code, message } = violation;
        tracing::warn!("{identity} broke the protocol and is disconnected: {code}: {message}");
        self.totals.violations += 1;
        self.event_refused(identity.uid, identity.pid, *code, message);
        self.close(key, *code, message);
    }

    fn take_frame(
        &mut self,
        key: Key,
        body: &[u8],
        fds: &mut VecDeque<FdId>,
        now: Now,
    ) -> Result<Step, Violation> {
        let frame = ToBroker::decode(body)?;
        let is_hello = matches!(frame, ToBroker::Hello { .. });
        let greeting = self.sessions.get(key).is_some_and(|session| session.stage == Stage::Greeting);
        if greeting != is_hello {
            let message = if greeting { "the first frame must be Hello" } else { "a second Hello" };
            return Err(Violation::new(Code::OutOfOrder, message));
        }
        let bulk = self.sessions.get_mut(key).and_then(|session| session.bulk.up.next.take());
        if let Some(payload) = bulk {
            let taken = self.take_with_bulk(key, body, &frame, payload, now)?;
            return Ok(if taken { Step::Taken } else { Step::NotYet });
        }
        match frame {
            ToBroker::Publish(publish) => return self.take_publish(key, body, &publish, now),
            ToBroker::Hello { name, client } => self.greet(key, name, client)?,
            ToBroker::Topic { alias, topic } => self.define_alias(key, alias, topic)?,
            ToBroker::Subscribe(subscribe) => self.take_subscribe(key, &subscribe, now)?,
            ToBroker::Unsubscribe { req, sub } => self.take_unsubscribe(key, req, sub, now)?,
            ToBroker::CloseStream { req, stream, .. } => {
                let own = self.sessions.get(key).is_some_and(|session| session.streams.contains(&stream));
                if !own {
                    let message = format!("this client has no stream {stream:016x} open");
                    return Err(Violation::new(Code::BadId, message));
                }
                self.answer_before_closing(stream);
                self.end_stream(stream, 0);
                self.answer(key, &ToClient::Done { req });
            }
            ToBroker::Admitted { attach, start, start_seq, generation } => {
                self.admitted(key, attach, (start, start_seq, generation), now)?;
            }
            ToBroker::Released { attach, generation } => self.released(key, attach, generation)?,
            ToBroker::GenerationLeft { stream, generation } => {
                self.generation_left(key, stream, generation)?;
            }
            ToBroker::GrowStream(grow) => {
                let memory = Self::descriptor(fds)?;
                self.keep_fd(memory);
                let grown = self.grow_stream(key, &grow, memory);
                self.release_fd(memory);
                if let Err(refused) = grown? {
                    self.refuse(key, grow.req, &refused);
                }
            }
            ToBroker::StillReads(still) => self.still_reads(key, still, now)?,
            ToBroker::StillAdmits(still) => self.still_admits(key, still, now)?,
            ToBroker::Attached { attach } => self.attached(key, attach)?,
            ToBroker::Detach { attach, code } => self.detach(key, attach, code)?,
            ToBroker::ModeChanged(changed) => self.mode_changed(key, &changed)?,
            ToBroker::Ping { req } => self.answer(key, &ToClient::Pong { req }),
            ToBroker::OpenStream(open) => {
                let memory = Self::descriptor(fds)?;
                self.keep_fd(memory);
                let opened = self.open_stream(key, &open, memory, now);
                self.release_fd(memory);
                if let Err(refused) = opened? {
                    self.refuse(key, open.req, &refused);
                }
            }
            ToBroker::Accept(accept) => {
                let page = if accept.fds == 0 { None } else { Some(Self::descriptor(fds)?) };
                page.into_iter().for_each(|page| self.keep_fd(page));
                let accepted = self.accept(key, &accept, page);
                page.into_iter().for_each(|page| self.release_fd(page));
                accepted?;
            }
            ToBroker::Push(push) => {
                if self.push_is_held_up(key, push.queue) {
                    return Ok(Step::NotYet);
                }
                let bytes = ToBroker::push_message(body, push.id.len());
                self.take_push(key, &push, Ok(bytes.into()), now)?;
            }
            ToBroker::BulkRing(ring) => {
                let memory = if ring.fds == 0 { None } else { Some(Self::descriptor(fds)?) };
                memory.into_iter().for_each(|memory| self.keep_fd(memory));
                let taken = self.take_bulk_ring(key, &ring, memory);
                memory.into_iter().for_each(|memory| self.release_fd(memory));
                taken?;
            }
            ToBroker::BulkPayload(payload) => self.take_bulk_payload(key, &payload)?,
            ToBroker::BulkFree(free) => self.take_bulk_free(key, free, now)?,
            ToBroker::OpenQueue { req, alias, queue } => self.open_queue(key, req, alias, queue)?,
            ToBroker::DeclareQueue(declare) => self.declare_queue(key, &declare, now),
            ToBroker::Consume(consume) => self.take_consume(key, &consume)?,
            ToBroker::Credit { consumer, more } => self.take_credit(key, consumer, more)?,
            ToBroker::Settle { req, consumer, first, last, verdict } => {
                self.take_settle(key, (req, consumer), (first, last), verdict, now)?;
            }
            ToBroker::EndConsume { req, consumer, seen } => self.end_consume(key, req, consumer, seen, now),
            ToBroker::Request(request) => {
                let bytes = ToBroker::last_message(body, &request.message);
                self.take_request(key, &request, Ok(bytes.into()), now)?;
            }
            ToBroker::Reply(reply) => {
                let bytes = ToBroker::last_message(body, &reply.message);
                self.take_reply(key, &reply, Ok(bytes.into()), now)?;
            }
            ToBroker::CancelRequest { request } => self.take_cancel(key, request, now),
            ToBroker::Provide(provide) => self.take_provide(key, &provide)?,
            ToBroker::EndProvide { req, provider } => self.take_end_provide(key, req, provider, now),
            _ => {
                return Err(Violation::new(
                    Code::Unsupported,
                    "a frame that this version of the broker does not know",
                ));
            }
        }
        Ok(Step::Taken)
    }

    fn descriptor(fds: &mut VecDeque<FdId>) -> Result<FdId, Violation> {
        fds.pop_front().ok_or_else(|| {
            Violation::new(
                Code::BadDescriptor,
                "a frame declares a file descriptor, but none came with its first byte",
            )
        })
    }

    fn greet(&mut self, key: Key, name: &str, client: u64) -> Result<(), Violation> {
        if name.len() > NAME_BYTES_MAX {
            let message = format!("a name of {} bytes; at most {NAME_BYTES_MAX} are allowed", name.len());
            return Err(Violation::new(Code::Malformed, message));
        }
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        session.stage = Stage::Open;
        let Identity { session: id, uid, pid, .. } = *session.identity;
        session.identity =
            Arc::new(Identity { session: id, name: name.to_owned(), uid, pid, client, hops: 0 });
        if let Some(at) = session.open_by.take() {
            self.timers.cancel(at, Timer::Open(key));
        }
        // Before Welcome, which completes them.
        let topics = std::mem::take(&mut self.access.topics);
        for settings in &topics {
            let TopicSettings { filter, ring, history, retain, .. } = settings;
            let settings = wire::TopicSettings { filter, ring: *ring, history: *history, retain: *retain };
            self.answer(key, &ToClient::TopicSettings(settings));
        }
        self.access.topics = topics;
        let version = std::mem::take(&mut self.version);
        let limits = &self.limits;
        let welcome = Welcome {
            session: id,
            instance: self.instance,
            version: &version,
            frame_bytes_max: limits.frame_bytes_max,
            attach_timeout_millis: limits.attach_timeout_millis,
            subscriptions_max: limits.session_subscriptions_max,
            streams_max: limits.session_streams_max,
            ring_bytes_max: limits.ring_bytes_max,
            ring_default: Geometry { ..limits.ring_default },
            gate: self.gate_limits(),
        };
        self.answer(key, &ToClient::Welcome(welcome));
        self.version = version;
        self.event_connected(key);
        Ok(())
    }

    fn define_alias(&mut self, key: Key, alias: u32, topic: &str) -> Result<(), Violation> {
        if alias >= ALIASES_MAX {
            let message = format!("topic alias {alias}; aliases are below {ALIASES_MAX}");
            return Err(Violation::new(Code::BadId, message));
        }
        let topic = Topic::parse(topic)
            .map_err(|error| Violation::new(Code::BadTopic, format!("topic alias {alias}: {error}")))?;
        if topic.is_reserved() {
            let message =
                format!("{topic} cannot be published to: topics that start with $ belong to the broker");
            return Err(Violation::new(Code::ReservedTopic, message));
        }
        let Some(taken) = self.topics.take(topic) else {
            let max = self.limits.topics_max;
            let message = format!(
                "{max} topics are in use, which is the most (limits.topics_max); {topic} is one more"
            );
            return Err(Violation::new(Code::LimitReached, message));
        };
        self.note_retain(taken);
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        let place = alias as usize;
        if session.aliases.len() <= place {
            session.aliases.resize(place + 1, None);
        }
        if let Some(old) = session.aliases[place].replace(taken) {
            self.topics.release(old);
        }
        Ok(())
    }

    /// The topic behind an alias of a session.
    pub(super) fn alias_topic(&self, key: Key, alias: u32) -> Result<Key, Violation> {
        let known =
            self.sessions.get(key).and_then(|session| session.aliases.get(alias as usize).copied().flatten());
        known.ok_or_else(|| Violation::new(Code::BadId, format!("topic alias {alias} is not defined")))
    }

    fn take_publish(
        &mut self,
        key: Key,
        body: &[u8],
        publish: &Publish<'_>,
        now: Now,
    ) -> Result<Step, Violation> {
        let topic = self.alias_topic(key, publish.alias)?;
        let message = publish.message;
        check_message(&message)?;
        let bytes = ToBroker::publish_message(body);
        let max = self.limits.frame_bytes_max as usize;
        if bytes.len() + DELIVER_HEAD_BYTES > max {
            let message = format!(
                "a message of {} bytes leaves no room for its delivery in a frame of {max} (limits.frame_bytes_max)",
                bytes.len()
            );
            return Err(Violation::new(Code::FrameTooLarge, message));
        }
        let Some(session) = self.sessions.get(key) else { return Ok(Step::Taken) };
        let from = session.identity.clone();
        let routed = self.route(&from, topic, bytes, message, self.may_wait(key, now), now);
        let Some(session) = self.sessions.get_mut(key) else { return Ok(Step::Taken) };
        match routed {
            Routed::Full(subscription) => {
                self.hold_up(key, subscription, now);
                Ok(Step::NotYet)
            }
            Routed::To(receivers) => {
                session.traffic.messages_in += 1;
                session.traffic.bytes_in += message.payload.len() as u64;
                if message.flags.confirm() {
                    let frame = ToClient::Confirmed { alias: publish.alias, seq: message.seq, receivers };
                    self.answer(key, &frame);
                }
                Ok(Step::Taken)
            }
        }
    }

    fn take_subscribe(&mut self, key: Key, frame: &Subscribe<'_>, now: Now) -> Result<(), Violation> {
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        if frame.req == 0
            || frame.sub >= SUBSCRIPTION_ID_MAX
            || session.subscriptions.contains_key(&frame.sub)
        {
            let message = format!(
                "subscription {} of request {}: the request must not be 0, the subscription must be unused and below \
                 {SUBSCRIPTION_ID_MAX}",
                frame.sub, frame.req
            );
            return Err(Violation::new(Code::BadId, message));
        }
        let wanted = Wanted {
            asker: Asker::Native(frame.req),
            number: frame.sub,
            filter: frame.filter,
            mode: frame.mode,
            rings: frame.rings,
            history: frame.history,
            slow: frame.slow,
            backlog_bytes_max: frame.backlog_bytes_max,
            gated_only: frame.gated_only,
            sink: None,
        };
        if let Err(refused) = self.subscribe(key, wanted, now) {
            self.refuse(key, frame.req, &refused);
        }
        Ok(())
    }

    fn take_unsubscribe(&mut self, key: Key, req: u32, sub: u32, now: Now) -> Result<(), Violation> {
        let known = self.sessions.get(key).and_then(|session| session.subscriptions.get(&sub).copied());
        let Some(subscription) = known else {
            return Err(Violation::new(Code::BadId, format!("there is no subscription {sub}")));
        };
        // What asked for it is answered first, if it still waits for streams.
        self.subscription_is_due(subscription, now);
        self.end_subscription(subscription, 0);
        self.answer(key, &ToClient::Done { req });
        Ok(())
    }

    /// Appends what the client asked for.
    pub(super) fn answer(&mut self, key: Key, frame: &ToClient<'_>) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.stage != Stage::Closing)
        else {
            return;
        };
        let before = session.outbox.len();
        frame.encode(session.outbox.buffer());
        session.answered(session.outbox.len() - before);
        self.mark_dirty(key);
    }

    /// Answers a request that is not granted.
    pub(super) fn refuse(&mut self, key: Key, req: u32, refused: &Refused) {
        let Some(identity) = self.sessions.get(key).map(|session| session.identity.clone()) else { return };
        self.totals.requests_refused += 1;
        tracing::info!("{identity} was refused: {}: {}", refused.code, refused.message);
        self.event_refused(identity.uid, identity.pid, refused.code, &refused.message);
        let (code, limit) = (refused.code.number(), refused.limit_info());
        self.answer(key, &ToClient::Error { req, code, message: &refused.message, limit });
    }

    /// Whether a session must read its answers before it is read from again. Pauses it.
    pub(super) fn answers_pile_up(&mut self, key: Key) -> bool {
        let max = self.limits.outbox_bytes_max as usize;
        let Some(session) = self.sessions.get_mut(key) else { return false };
        if session.answer_bytes <= max || session.mute {
            return false;
        }
        session.paused = Some(Pause::Answers);
        true
    }

    /// The alias under which a session knows a publisher's topic; defines it if need be.
    pub(super) fn source_alias(&mut self, key: Key, from: &Identity, topic: Key) -> u32 {
        let Some(session) = self.sessions.get_mut(key) else { return 0 };
        if let Some(alias) = session.sources.find(from.session, topic) {
            return alias;
        }
        let alias = session.sources.define(from.session, topic);
        let Some(name) = self.topics.get(topic).map(|entry| entry.name.clone()) else { return alias };
        self.send_control(key, &ToClient::Source(source(alias, from, &name)));
        alias
    }
}
