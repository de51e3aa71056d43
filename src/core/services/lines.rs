//! What JSON lines about services do.
//!
//! A connection is one instance of each service that it provides. The answer to a request is the answer to its line.

use super::answering::Answered;
use super::asking::Ask;
use super::call::Asker;
use super::instances::Offer;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::quota::{Checked, Refused};
use crate::core::table::Key;
use crate::json::{self, Ask as AskLine, Op, Provide, Reply, Said, Value};
use tramline_wire::{Code, ErrorReply, Outcome};

impl Core {
    /// Carries out an operation on services and answers it, now or later, unless it is refused.
    pub(in crate::core) fn service_op(
        &mut self,
        key: Key,
        op: &Op<'_>,
        id: Option<&str>,
        now: Now,
    ) -> Checked<()> {
        match op {
            Op::Ask(ask) => self.ask_line(key, ask, id, now),
            Op::Cancel { request } => self.cancel_line(key, request, id, now),
            Op::Provide(provide) => self.provide_line(key, provide, id),
            Op::Reply(reply) => self.reply_line(key, reply, id, now),
            _ => Ok(()),
        }
    }

    fn ask_line(&mut self, key: Key, ask: &AskLine<'_>, id: Option<&str>, now: Now) -> Checked<()> {
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        session.asked_lines += 1;
        let request = session.asked_lines;
        let bytes = self.line_bytes(key, &ask.message, request, now)?;
        let ask = Ask {
            service: &ask.service,
            request,
            asker: Asker::Json(id.map(Into::into)),
            timeout_millis: ask.timeout_millis,
            idempotent: ask.idempotent,
            bytes: bytes.into(),
        };
        self.ask(key, ask, now)
    }

    fn cancel_line(&mut self, key: Key, request: &str, id: Option<&str>, now: Now) -> Checked<()> {
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        let asked_as = |call: &&Key| {
            let asker = self.services.calls.get(**call).map(|call| &call.asker);
            matches!(asker, Some(Asker::Json(Some(id))) if **id == *request)
        };
        let calls: Vec<Key> = session.requests.values().filter(asked_as).copied().collect();
        if calls.is_empty() {
            let message = format!("no request with the id {request} waits for an answer here");
            return Err(Refused::new(Code::BadId, message));
        }
        let count = calls.len() as u64;
        for call in calls {
            self.cancel_call(call, 0, now);
        }
        self.answer_json(key, |out| json::write_ok(out, "cancel", id, &[("count", Value::Number(count))]));
        Ok(())
    }

    fn provide_line(&mut self, key: Key, provide: &Provide<'_>, id: Option<&str>) -> Checked<()> {
        let name = &provide.service;
        if self.own_instance(key, name).is_some() {
            let message = format!("this connection provides service {name} already; open another");
            return Err(Refused::new(Code::BadId, message));
        }
        let last = self.sessions.get(key).and_then(|session| session.providers.last_key_value());
        let offer = Offer {
            service: name,
            provider: last.map_or(1, |(last, _)| last + 1),
            concurrency: provide.concurrency,
            weight: provide.weight,
            priority: provide.priority,
        };
        self.provide(key, &offer)?;
        self.answer_json(key, |out| json::write_ok(out, "provide", id, &[("service", Value::Text(name))]));
        Ok(())
    }

    fn reply_line(&mut self, key: Key, reply: &Reply<'_>, id: Option<&str>, now: Now) -> Checked<()> {
        let Reply { service, call, said, message } = reply;
        let Some(place) = self.own_instance(key, service) else {
            let message = format!("this connection does not provide service {service}");
            return Err(Refused::new(Code::NotYours, message));
        };
        let bytes = self.line_bytes(key, message, *call, now)?;
        let outcome = match said {
            Said::Done => Outcome::Done,
            Said::Error { number, text } => Outcome::Error(ErrorReply { number: *number, text }),
            Said::Failed { text } => Outcome::Failed { text },
        };
        let why = match self.take_answer(place, *call, outcome, &bytes.into(), now) {
            Answered::InTime => {
                self.answer_json(key, |out| json::write_ok(out, "reply", id, &[]));
                return Ok(());
            }
            Answered::Late => (Code::TooLate, "is over: nobody waits for the answer any more"),
            Answered::Twice => (Code::SettledTwice, "was answered before"),
            Answered::Never => (Code::NotYours, "was never given to this connection"),
        };
        Err(Refused::new(why.0, format!("call {call} of service {service} {}", why.1)))
    }
}
