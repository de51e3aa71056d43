//! What lines of a JSON session do. How they look is in [`crate::json`].
//!
//! Every line is answered. A line that must wait for a slow subscriber is kept here and carried out later, also
//! if its client has gone by then. A client that does not read its answers is not read from for a bounded
//! time; after that its lines still take effect, and their answers are dropped, counted and told.

use super::broker::Core;
use super::quota::{Checked, Refused};
use super::router::Routed;
use super::session::{Pause, Session, Stage};
use super::subscribe::Wanted;
use super::subscription::Asker;
use super::table::Key;
use super::timers::{MILLI, Timer};
use super::{Action, Flow, Now, Snapshot};
use crate::json::{self, Op, Publish, Value};
use tramline_wire::codec::encode_message;
use tramline_wire::limits::{ALIASES_MAX, FRAME_OVERHEAD_BYTES, SUBSCRIPTION_ID_MAX};
use tramline_wire::{Code, Message, MessageFlags, Topic};

/// Whether a line was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Done,
    /// A slow subscriber must be waited for.
    Held,
}

impl Core {
    pub(super) fn take_line(&mut self, key: Key, line: &[u8], now: Now) -> Flow {
        self.totals.wire_bytes_in += line.len() as u64 + 1;
        match self.sessions.get(key).map(|session| session.stage) {
            None | Some(Stage::Closing) => return Flow::Close,
            Some(_) => {}
        }
        self.carry_out(key, line, true, now);
        self.line_taken(key, now)
    }

    /// Answers a line that is not looked at.
    pub(super) fn refuse_line(&mut self, key: Key, code: Code, message: &str, now: Now) -> Flow {
        self.note_refused(key, code, message);
        self.answer_json(key, |out| json::write_error(out, None, None, code, message));
        self.line_taken(key, now)
    }

    fn line_taken(&mut self, key: Key, now: Now) -> Flow {
        let limit = u64::from(self.limits.block_millis_max) * MILLI;
        // A session that has just been ended is waited for no more; one that was resumed meanwhile has a timer already.
        let waits = |session: &Session| session.paused.is_none() && session.stage != Stage::Closing;
        if self.sessions.get(key).is_some_and(waits) && self.answers_pile_up(key) {
            let at = now.monotonic + limit;
            if let Some(former) = self.sessions.get_mut(key).and_then(|session| session.mute_at.replace(at)) {
                self.timers.cancel(former, Timer::Answers(key));
            }
            self.timers.set(at, Timer::Answers(key));
        }
        self.settle(now);
        match self.sessions.get(key).map(|session| (session.stage, session.paused)) {
            None | Some((Stage::Closing, _)) => Flow::Close,
            Some((_, Some(_))) => Flow::Pause,
            Some((_, None)) => Flow::Continue,
        }
    }

    /// Carries a line out that waited for a slow subscriber, and has the session read again.
    pub(super) fn carry_out_held(&mut self, key: Key, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let id = session.id;
        let Some(line) = session.held_line.take() else { return };
        self.carry_out(key, &line, true, now);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.paused.is_none() && session.stage == Stage::Open {
            if self.has_finished(key) {
                return self.finish(key);
            }
            self.actions.push_back(Action::Resume(id));
        }
    }

    /// Carries a waiting line out now, because its client has gone.
    pub(super) fn force_held(&mut self, key: Key, now: Now) {
        if let Some(line) = self.sessions.get_mut(key).and_then(|session| session.held_line.take()) {
            self.forget_held_up(key);
            self.carry_out(key, &line, false, now);
        }
    }

    fn carry_out(&mut self, key: Key, line: &[u8], may_wait: bool, now: Now) {
        let request = match json::parse_request(line) {
            Ok(request) => request,
            Err(fault) => {
                self.note_refused(key, fault.code, &fault.message);
                return self.answer_json(key, |out| json::write_fault(out, &fault));
            }
        };
        let (op, id) = (request.op.name(), request.id);
        if may_wait && self.holds_line_up(key, &request.op) {
            if let Some(session) = self.sessions.get_mut(key) {
                session.held_line = Some(line.into());
            }
            return;
        }
        let done: Checked<()> = match &request.op {
            Op::Help => {
                self.answer_json(key, |out| json::write_help(out, id));
                Ok(())
            }
            Op::Ping => {
                self.answer_json(key, |out| json::write_ok(out, op, id, &[]));
                Ok(())
            }
            Op::Publish(publish) => match self.publish_json(key, publish, may_wait, now) {
                Ok((Line::Held, _)) => {
                    if let Some(session) = self.sessions.get_mut(key) {
                        session.held_line = Some(line.into());
                    }
                    Ok(())
                }
                Ok((Line::Done, receivers)) => {
                    let members = [("receivers", Value::Number(receivers.into()))];
                    self.answer_json(key, |out| json::write_ok(out, op, id, &members));
                    Ok(())
                }
                Err(refused) => Err(refused),
            },
            Op::Subscribe(wanted) => self.subscribe_json(key, wanted, id, now),
            Op::Unsubscribe { sub } => self.unsubscribe_json(key, *sub, id, now),
            Op::Push(_) | Op::Pull(_) | Op::Settle(_) | Op::Queue(_) | Op::Declare(_) => {
                self.queue_op(key, &request.op, id, now)
            }
            Op::Ask(_) | Op::Cancel { .. } | Op::Provide(_) | Op::Reply(_) => {
                self.service_op(key, &request.op, id, now)
            }
            Op::Status => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.statuses += 1;
                    self.actions
                        .push_back(Action::Status { session: session.id, request: id.map(str::to_owned) });
                }
                Ok(())
            }
        };
        if let Err(refused) = done {
            self.note_refused(key, refused.code, &refused.message);
            self.answer_json(key, |out| json::write_error(out, Some(op), id, refused.code, &refused.message));
        }
    }

    fn note_refused(&mut self, key: Key, code: Code, message: &str) {
        let Some(identity) = self.sessions.get(key).map(|session| session.identity.clone()) else { return };
        self.totals.requests_refused += 1;
        tracing::debug!("{identity} was refused: {code}: {message}");
        self.event_refused(identity.uid, identity.pid, code, message);
    }

    fn publish_json(
        &mut self,
        key: Key,
        publish: &Publish<'_>,
        may_wait: bool,
        now: Now,
    ) -> Checked<(Line, u32)> {
        let topic =
            Topic::parse(&publish.topic).map_err(|error| Refused::new(Code::BadTopic, error.to_string()))?;
        if topic.is_reserved() {
            let message =
                format!("{topic} cannot be published to: topics that start with $ belong to the broker");
            return Err(Refused::new(Code::ReservedTopic, message));
        }
        let mut head = Vec::new();
        let message = self.line_message(publish, &mut head, now)?;
        let topic_key = self.json_topic(key, topic)?;
        let Some(session) = self.sessions.get_mut(key) else { return Ok((Line::Done, 0)) };
        let seq = session.numbers.get(&topic_key).copied().unwrap_or(0) + 1;
        let from = session.identity.clone();
        let message = Message { seq, ..message };
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        encode_message(&mut bytes, &message);
        let may_wait = may_wait && self.may_wait(key, now);
        let routed = self.route(&from, topic_key, &bytes, message, may_wait, now);
        self.scratch = bytes;
        match routed {
            Routed::Full(subscription) => {
                self.hold_up(key, subscription, now);
                Ok((Line::Held, 0))
            }
            Routed::To(receivers) => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.numbers.insert(topic_key, seq);
                    session.traffic.messages_in += 1;
                    session.traffic.bytes_in += publish.payload.len() as u64;
                }
                Ok((Line::Done, receivers))
            }
        }
    }

    /// The message of a line, not numbered yet, if a frame can carry it. Its type and headers are put into `head`.
    fn line_message<'a>(
        &self,
        publish: &'a Publish<'_>,
        head: &'a mut Vec<u8>,
        now: Now,
    ) -> Checked<Message<'a>> {
        publish.encode_head(head).map_err(|error| Refused::new(Code::Malformed, error.to_string()))?;
        let max = self.limits.frame_bytes_max as usize;
        let length = publish.payload.len() + head.len();
        if length + FRAME_OVERHEAD_BYTES > max {
            let message = format!(
                "a message of {length} bytes does not fit into a frame of {max} (limits.frame_bytes_max)"
            );
            return Err(Refused::new(Code::PayloadTooLarge, message));
        }
        let flags = MessageFlags::new(publish.encoding);
        Ok(Message {
            flags: if publish.source_time.is_some() { flags.with_source_time() } else { flags },
            seq: 0,
            time: now.monotonic,
            source_time: publish.source_time.unwrap_or(0),
            after: None,
            head,
            payload: &publish.payload,
        })
    }

    /// The message of a line, as it travels, counted for its session.
    pub(super) fn line_bytes(
        &mut self,
        key: Key,
        publish: &Publish<'_>,
        seq: u64,
        now: Now,
    ) -> Checked<Vec<u8>> {
        let mut head = Vec::new();
        let message = Message { seq, ..self.line_message(publish, &mut head, now)? };
        let mut bytes = Vec::new();
        encode_message(&mut bytes, &message);
        if let Some(session) = self.sessions.get_mut(key) {
            session.traffic.messages_in += 1;
            session.traffic.bytes_in += publish.payload.len() as u64;
        }
        Ok(bytes)
    }

    /// The topic's key; the first publish of a session to it keeps it known while the session lives.
    fn json_topic(&mut self, key: Key, topic: Topic<'_>) -> Checked<Key> {
        let Some(session) = self.sessions.get_mut(key) else {
            return Err(Refused::new(Code::Internal, "the session has ended"));
        };
        if let Some(known) = self.topics.find(topic)
            && session.numbers.contains_key(&known)
        {
            return Ok(known);
        }
        if session.numbers.len() >= ALIASES_MAX as usize {
            let message = format!(
                "this connection has published to {ALIASES_MAX} topics, which is the most; open another"
            );
            return Err(Refused::new(Code::LimitReached, message));
        }
        let Some(taken) = self.topics.take(topic) else {
            let max = u64::from(self.limits.topics_max);
            let message = format!(
                "{max} topics are in use, which is the most (limits.topics_max); {topic} is one more"
            );
            return Err(Refused {
                code: Code::LimitReached,
                message,
                limit: Some(("topics_max", max, max + 1)),
            });
        };
        session.numbers.insert(taken, 0);
        self.note_retain(taken);
        Ok(taken)
    }

    fn subscribe_json(
        &mut self,
        key: Key,
        wanted: &json::Subscribe<'_>,
        id: Option<&str>,
        now: Now,
    ) -> Checked<()> {
        let (mode, slow) = self.json_policy(wanted.reliable);
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        let number = session.last_subscription + 1;
        if number >= SUBSCRIPTION_ID_MAX {
            let message = format!(
                "this connection has numbered {number} subscriptions, which is the most; open another"
            );
            return Err(Refused::new(Code::LimitReached, message));
        }
        session.last_subscription = number;
        let wanted = Wanted {
            asker: Asker::Json(id.map(str::to_owned)),
            number,
            filter: &wanted.filter,
            mode,
            rings: false,
            history: wanted.history,
            slow,
            backlog_bytes_max: 0,
            gated_only: false,
            sink: None,
        };
        self.subscribe(key, wanted, now)
    }

    fn unsubscribe_json(&mut self, key: Key, sub: u32, id: Option<&str>, now: Now) -> Checked<()> {
        let known = self.sessions.get(key).and_then(|session| session.subscriptions.get(&sub).copied());
        let subscription =
            known.ok_or_else(|| Refused::new(Code::BadId, format!("there is no subscription {sub}")))?;
        // What asked for it is answered first, if it still waits for streams.
        self.subscription_is_due(subscription, now);
        self.end_subscription(subscription, 0);
        self.answer_json(key, |out| json::write_ok(out, "unsub", id, &[]));
        Ok(())
    }

    /// Appends an answer, unless the client has left too many unread.
    pub(super) fn answer_json(&mut self, key: Key, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.stage != Stage::Closing)
        else {
            return;
        };
        if session.mute {
            session.answers_dropped += 1;
            return;
        }
        let before = session.outbox.len();
        write(session.outbox.buffer());
        session.answered(session.outbox.len() - before);
        self.mark_dirty(key);
    }

    /// The time to read answers is over: from here on they are dropped until some were read.
    pub(super) fn answers_are_due(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.mute_at = None;
            session.mute = true;
        }
        self.resume(key, Pause::Answers);
    }

    /// Part of a session's answers was read.
    pub(super) fn answers_were_read(&mut self, key: Key) {
        let max = self.limits.outbox_bytes_max as usize;
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.answers_written();
        if session.answer_bytes > max / 2 {
            return;
        }
        if let Some(at) = session.mute_at.take() {
            self.timers.cancel(at, Timer::Answers(key));
        }
        if session.mute {
            session.mute = false;
            let dropped = std::mem::take(&mut session.answers_dropped);
            let message = format!(
                "{dropped} answers were dropped because this client did not read them; the requests took effect"
            );
            if dropped > 0 {
                self.answer_json(key, |out| {
                    json::write_error(out, None, None, Code::SlowSubscriber, &message)
                });
            }
        }
        self.resume(key, Pause::Answers);
    }

    pub(super) fn answer_status(&mut self, key: Key, request: Option<&str>, snapshot: &Snapshot) {
        match serde_json::to_string(snapshot) {
            Ok(text) => self.answer_json(key, |out| {
                json::write_ok(out, "status", request, &[("status", Value::Json(&text))]);
            }),
            Err(error) => {
                let message = format!("the status could not be written: {error}");
                self.answer_json(key, |out| {
                    json::write_error(out, Some("status"), request, Code::Internal, &message);
                });
            }
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.statuses = session.statuses.saturating_sub(1);
        if session.stage == Stage::Open && self.has_finished(key) {
            self.finish(key);
        }
    }
}
