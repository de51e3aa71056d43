//! What frames about services do.
//!
//! Every request has one answer. An instance is not answered when it replies: what came too late is counted, and that is all.

use super::answering::Answered;
use super::asking::Ask;
use super::call::Asker;
use super::instances::Offer;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::native::{Violation, check_message};
use crate::core::quota::{Checked, Refused};
use crate::core::table::Key;
use std::sync::Arc;
use tramline_wire::limits::REPLY_TEXT_BYTES_MAX;
use tramline_wire::{Code, ErrorReply, LimitInfo, Outcome, Provide, Reply, Request, ToClient};

impl Core {
    pub(in crate::core) fn take_provide(&mut self, key: Key, frame: &Provide<'_>) -> Result<(), Violation> {
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        if frame.req == 0 || session.providers.contains_key(&frame.provider) {
            let message = format!(
                "instance {} of request {}: the request must not be 0, the instance must be unused",
                frame.provider, frame.req
            );
            return Err(Violation::new(Code::BadId, message));
        }
        let offer = Offer {
            service: frame.service,
            provider: frame.provider,
            concurrency: frame.concurrency,
            weight: frame.weight,
            priority: frame.priority,
        };
        match self.provide(key, &offer) {
            Ok(_) => self.answer(key, &ToClient::Done { req: frame.req }),
            Err(refused) => self.refuse(key, frame.req, &refused),
        }
        Ok(())
    }

    pub(in crate::core) fn take_end_provide(&mut self, key: Key, req: u32, provider: u32, now: Now) {
        // One that was refused, or has ended, is as gone as it is wanted to be.
        self.end_provide(key, provider, now);
        self.answer(key, &ToClient::Done { req });
    }

    pub(in crate::core) fn take_request(
        &mut self,
        key: Key,
        frame: &Request<'_>,
        bytes: Checked<Arc<[u8]>>,
        now: Now,
    ) -> Result<(), Violation> {
        let Request { service, timeout_millis, idempotent, message } = *frame;
        check_message(&message)?;
        follows_no_ring(message.after.is_some())?;
        let request = message.seq;
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        if session.requests.contains_key(&request) {
            return Err(Violation::new(Code::BadId, format!("request {request} has no answer yet")));
        }
        session.traffic.messages_in += 1;
        session.traffic.bytes_in += message.payload.len() as u64;
        let asked = bytes.and_then(|bytes| {
            let ask = Ask { service, request, asker: Asker::Native, timeout_millis, idempotent, bytes };
            self.ask(key, ask, now)
        });
        if let Err(Refused { code, message, limit }) = asked {
            self.totals.requests_refused += 1;
            let limit = limit.map(|(name, value, used)| LimitInfo { name, value, used });
            self.tell_failed(key, request, &Asker::Native, (code, &message), limit);
        }
        Ok(())
    }

    pub(in crate::core) fn take_cancel(&mut self, key: Key, request: u64, now: Now) {
        // An answer may be on its way already.
        let known = self.sessions.get(key).and_then(|session| session.requests.get(&request).copied());
        if let Some(call) = known {
            self.cancel_call(call, 0, now);
        }
    }

    pub(in crate::core) fn take_reply(
        &mut self,
        key: Key,
        reply: &Reply<'_>,
        bytes: Checked<Arc<[u8]>>,
        now: Now,
    ) -> Result<(), Violation> {
        let Reply { provider, call, outcome, message } = *reply;
        check_message(&message)?;
        follows_no_ring(message.after.is_some())?;
        let text = match outcome {
            Outcome::Done => "",
            Outcome::Error(ErrorReply { text, .. }) | Outcome::Failed { text } => text,
        };
        if text.len() > REPLY_TEXT_BYTES_MAX {
            let message = format!(
                "words of {} bytes with a reply; at most {REPLY_TEXT_BYTES_MAX} are allowed",
                text.len()
            );
            return Err(Violation::new(Code::Malformed, message));
        }
        let Some(session) = self.sessions.get_mut(key) else { return Ok(()) };
        session.traffic.messages_in += 1;
        session.traffic.bytes_in += message.payload.len() as u64;
        // An instance that has ended may still answer: it is known what became of what it had.
        let Some(place) = session.providers.get(&provider).copied() else { return Ok(()) };
        let taken = match &bytes {
            Ok(bytes) => self.take_answer(place, call, outcome, bytes, now),
            // The caller is told what was met, as of an instance that could not.
            Err(refused) => {
                let text = format!("its answer was refused: {}", refused.message);
                self.take_answer(place, call, Outcome::Failed { text: &text }, &Arc::default(), now)
            }
        };
        match taken {
            Answered::Never => {
                let message = format!("instance {provider} was never given call {call}");
                Err(Violation::new(Code::BadId, message))
            }
            Answered::InTime | Answered::Late | Answered::Twice => Ok(()),
        }
    }
}

fn follows_no_ring(after: bool) -> Result<(), Violation> {
    if after {
        return Err(Violation::new(Code::Malformed, "requests and replies follow no ring"));
    }
    Ok(())
}
