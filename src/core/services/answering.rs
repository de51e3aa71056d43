//! Outcomes on their way to their callers: an answer, or why there is none.
//!
//! Answers for a caller that does not read wait here, up to as many bytes as may wait for a subscription. What is more is
//! dropped: the caller is told so, request by request.

use super::call::{Asker, Call};
use super::service::Had;
use super::{Place, cost};
use crate::core::Language;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::delivery::{Handed, line};
use crate::core::gaps::{alias_of, note_gone};
use crate::core::queues::Origin;
use crate::core::routes::Told;
use crate::core::session::{Identity, Session, Stage};
use crate::core::table::Key;
use crate::json::{self, ReplyLine};
use std::sync::Arc;
use tramline_wire::codec::decode_message;
use tramline_wire::{Code, ErrorReply, LimitInfo, Message, Outcome, Replied, ToClient};

/// An answer that waits for room.
#[derive(Debug)]
pub(in crate::core) struct Held {
    request: u64,
    asker: Asker,
    service: Arc<str>,
    origin: Origin,
    error: Option<(u32, Box<str>)>,
    bytes: Arc<[u8]>,
}

impl Held {
    pub(in crate::core) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    pub(in crate::core) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What it is counted for while it waits.
    pub(in crate::core) fn cost(&self) -> u64 {
        cost(self.bytes.len())
    }

    /// As its caller is told of it.
    pub(in crate::core) fn frame<'a>(&'a self, source: u32, message: Message<'a>) -> Replied<'a> {
        let error = self.error.as_ref().map(|(number, text)| ErrorReply { number: *number, text });
        Replied { request: self.request, source, error, message }
    }
}

/// Whether an answer was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// It has gone to its caller, or to another instance.
    InTime,
    /// Nobody waits for it any more.
    Late,
    /// There was an answer before.
    Twice,
    /// There is no such call.
    Never,
}

impl Core {
    /// An instance answers a call.
    pub(super) fn take_answer(
        &mut self,
        place: Place,
        number: u64,
        outcome: Outcome<'_>,
        bytes: &Arc<[u8]>,
        now: Now,
    ) -> Answered {
        let (key, seat) = place;
        let Some(service) = self.services.table.get_mut(key) else { return Answered::Late };
        let call_key = match service.look_up(seat, number) {
            Had::Call(call) => call,
            Had::Over => {
                service.counts.late_replies += 1;
                service.answered(seat, number);
                self.service_wants_attention(key);
                return Answered::Late;
            }
            Had::Answered => {
                service.counts.late_replies += 1;
                return Answered::Twice;
            }
            Had::Never => return Answered::Never,
        };
        service.answered(seat, number);
        let by = service.instance(seat).map(|instance| instance.identity.clone());
        let name = service.name.clone();
        self.service_wants_attention(key);
        if let Outcome::Failed { text } = outcome {
            service_mut(self, key, |service| service.counts.failed += 1);
            self.instance_failed(place, now);
            let text = if text.is_empty() { "it does not say why" } else { text };
            let by = by.map_or_else(String::new, |by| by.to_string());
            let message = format!("{by} could not carry out the request to service {name}: {text}");
            self.attempt_failed(call_key, Code::InstanceFailed, message, now);
        } else {
            let error = match outcome {
                Outcome::Error(ErrorReply { number, text }) => Some((number, text.into())),
                Outcome::Done | Outcome::Failed { .. } => None,
            };
            let taken = self.services.calls.get(call_key).map_or(now.monotonic, |call| call.taken);
            service_mut(self, key, |service| {
                service.went_well(seat, now.monotonic);
                service.latency.note(now.monotonic.saturating_sub(taken));
                match error {
                    Some(_) => service.counts.errors += 1,
                    None => service.counts.replies += 1,
                }
                service.change(seat, |instance| instance.answered += 1);
            });
            if let (Some(call), Some(by)) = (self.end_call(call_key), by) {
                self.pass_on(call, &name, by, error, bytes, now);
            }
        }
        self.leave_if_done(place, now);
        Answered::InTime
    }

    /// Passes an answer on to its caller, or keeps it until there is room.
    fn pass_on(
        &mut self,
        call: Call,
        service: &Arc<str>,
        by: Arc<Identity>,
        error: Option<(u32, Box<str>)>,
        bytes: &Arc<[u8]>,
        now: Now,
    ) {
        let Call { caller, request, asker, .. } = call;
        if let Asker::Leg(leg) = asker {
            let told = match error {
                Some((number, text)) => Told::Error { number, text },
                None => Told::Answered { by, bytes: bytes.clone() },
            };
            return self.tell_leg(leg, told);
        }
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        let held_max = self.limits.backlog_bytes_max.into();
        let Some(session) = self.sessions.get_mut(caller) else { return };
        let origin = Origin { from: by, topic: Key::NOBODY, name: self.nameless.clone() };
        let words = error.as_ref().map_or(0, |(_, text)| text.len());
        let held = Held { request, asker, service: service.clone(), origin, error, bytes: bytes.clone() };
        if session.language == Language::Native && self.is_bulk(bytes.len() + words) {
            if let Err(refused) = self.hold_bulk_reply(caller, held) {
                let message = format!(
                    "the answer of service {service} was dropped, because there is no room for it: {}",
                    refused.message
                );
                service_dropped(self, service);
                self.tell_failed(
                    caller,
                    request,
                    &Asker::Native,
                    (refused.code, &message),
                    refused.limit_info(),
                );
            }
            return;
        }
        let Some(session) = self.sessions.get_mut(caller) else { return };
        if session.held_replies.is_empty() && session.outbox.len() < outbox_bytes_max {
            self.write_reply(caller, &held, now);
            return self.finish_if_done(caller);
        }
        let with_it = session.held_reply_bytes + cost(bytes.len());
        if with_it > held_max {
            let Held { request, asker, .. } = held;
            let message = format!(
                "the answer of service {service} was dropped, because this client does not read: with it {with_it} bytes would \
                 wait for it, and limits.backlog_bytes_max is {held_max}"
            );
            let limit = LimitInfo { name: "backlog_bytes_max", value: held_max, used: with_it };
            service_dropped(self, service);
            return self.tell_failed(caller, request, &asker, (Code::SlowSubscriber, &message), Some(limit));
        }
        session.held_reply_bytes = with_it;
        session.held_replies.push_back(held);
    }

    /// A session has room in its outbox again: answers that wait move up.
    pub(in crate::core) fn move_replies_up(&mut self, caller: Key, now: Now) {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        while let Some(session) = self.sessions.get_mut(caller) {
            if session.outbox.len() >= outbox_bytes_max {
                return;
            }
            let Some(held) = session.held_replies.pop_front() else { return };
            session.held_reply_bytes -= cost(held.bytes.len());
            self.write_reply(caller, &held, now);
            self.finish_if_done(caller);
        }
    }

    fn write_reply(&mut self, caller: Key, held: &Held, now: Now) {
        let Held { asker, service, origin, error, bytes, .. } = held;
        let json_max = self.limits.json_payload_bytes_max as usize;
        let Some(session) = self.sessions.get_mut(caller).filter(|session| session.stage != Stage::Closing)
        else {
            return;
        };
        session.traffic.messages_out += 1;
        match (session.language, asker) {
            (Language::Native, _) => {
                let Ok(message) = decode_message(bytes) else { return };
                session.traffic.bytes_out += message.payload.len() as u64;
                let before = session.outbox.len();
                let Session { outbox, sources, .. } = session;
                let out = outbox.buffer();
                let (source, new) = alias_of(sources, out, &origin.from, origin.topic, &origin.name);
                ToClient::Replied(held.frame(source, message)).encode(out);
                if new {
                    note_gone(sources, |id| self.by_id.contains_key(&id));
                }
                session.answered(session.outbox.len() - before);
                self.mark_dirty(caller);
            }
            (Language::Json, asker) => {
                let id = match asker {
                    Asker::Json(id) => id.as_deref(),
                    Asker::Native | Asker::Leg(_) => None,
                };
                let Some(handed) = Handed::of(bytes, origin) else { return };
                session.traffic.bytes_out += handed.message.payload.len() as u64;
                let error = error.as_ref().map(|(number, text)| (*number, &**text));
                let reply = ReplyLine { service, error, message: line(0, &handed, now) };
                self.answer_json(caller, |out| json::write_reply(out, id, &reply, json_max));
            }
        }
    }

    /// There will be no answer to a request.
    pub(super) fn fail_call(&mut self, key: Key, code: Code, message: &str) {
        let Some(call) = self.end_call(key) else { return };
        service_mut(self, call.service, |service| service.counts.unanswered += 1);
        self.tell_failed(call.caller, call.request, &call.asker, (code, message), None);
    }

    /// Tells a caller that there will be no answer, and why.
    pub(super) fn tell_failed(
        &mut self,
        caller: Key,
        request: u64,
        asker: &Asker,
        (code, message): (Code, &str),
        limit: Option<LimitInfo<'_>>,
    ) {
        match asker {
            Asker::Native => {
                let code = code.number();
                self.answer(caller, &ToClient::RequestFailed { request, code, message, limit });
            }
            Asker::Leg(leg) => self.tell_leg(*leg, Told::Failed { code, message: message.to_owned() }),
            Asker::Json(id) => {
                self.answer_json(caller, |out| {
                    json::write_error(out, Some("req"), id.as_deref(), code, message)
                });
            }
        }
        self.finish_if_done(caller);
    }
}

/// An answer was dropped.
fn service_dropped(core: &mut Core, service: &str) {
    if let Some(key) = core.services.by_name.get(service).copied() {
        service_mut(core, key, |service| service.counts.replies_dropped += 1);
    }
}

fn service_mut(core: &mut Core, key: Key, change: impl FnOnce(&mut super::service::Service)) {
    if let Some(service) = core.services.table.get_mut(key) {
        change(service);
    }
}
