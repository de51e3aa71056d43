//! How sessions end: told why, by their own end, or because time is up. Whatever they had ends with them.
//!
//! A session that is to hear why is closed: its last words go out, then the shell closes the connection. One that has
//! gone is ended at once. A rule that finds in the middle of something that a session must end dooms it, and it
//! ends when that is finished.

use super::broker::Core;
use super::session::Stage;
use super::table::Key;
use super::timers::Timer;
use super::{Action, Language};
use crate::json;
use serde_json::json;
use tramline_wire::{Code, ToClient};

impl Core {
    /// Ends a session as soon as what is going on is finished.
    pub(super) fn doom(&mut self, key: Key, code: Code, message: String) {
        if !self.doomed.iter().any(|(known, _, _)| *known == key) {
            self.doomed.push_back((key, code, message));
        }
    }

    /// Ends a session that was doomed.
    pub(super) fn end_doomed(&mut self, key: Key, code: Code, message: &str) {
        let Some(session) = self.sessions.get(key).filter(|session| session.stage != Stage::Closing) else {
            return;
        };
        let identity = session.identity.clone();
        tracing::warn!("{identity} is disconnected: {code}: {message}");
        if code == Code::SlowSubscriber {
            self.event("$tramline.evicted", |_| {
                json!({"session": identity.session, "name": identity.name, "uid": identity.uid, "pid": identity.pid,
                       "code": code.as_str(), "message": message})
            });
        } else {
            self.totals.violations += 1;
        }
        self.close(key, code, message);
    }

    /// Says a last word to a session and ends it.
    pub(super) fn close(&mut self, key: Key, code: Code, message: &str) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.stage != Stage::Closing)
        else {
            return;
        };
        match session.language {
            Language::Native => {
                ToClient::Close { code: code.number(), message }.encode(session.outbox.buffer());
            }
            Language::Json => json::write_close(session.outbox.buffer(), code, message),
        }
        self.mark_dirty(key);
        self.end(key, message);
        self.close_after_flush(key);
    }

    /// Ends a session that has said and heard everything.
    pub(super) fn finish(&mut self, key: Key) {
        self.end(key, "the client closed the connection");
        self.close_after_flush(key);
    }

    fn close_after_flush(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.stage = Stage::Closing;
            self.actions.push_back(Action::CloseSession(session.id));
        }
    }

    /// Ends a session that was not opened in time.
    pub(super) fn open_is_due(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.stage == Stage::Greeting)
        else {
            return;
        };
        if let Some(at) = session.open_by.take() {
            self.timers.cancel(at, Timer::Open(key));
        }
        let millis = self.limits.first_byte_timeout_millis;
        let message = format!("no Hello arrived within {millis} ms (limits.first_byte_timeout_millis)");
        self.close(key, Code::TimedOut, &message);
    }

    /// Takes everything from a session that it had: subscriptions, streams, aliases. Its outbox stays.
    pub(super) fn end(&mut self, key: Key, reason: &str) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.stage != Stage::Closing)
        else {
            return;
        };
        let was_open = session.stage == Stage::Open;
        self.queues.leaving.extend(std::mem::take(&mut session.consumers).into_values());
        (session.queue_aliases, session.blocked) = (Vec::new(), Vec::new());
        self.services.leaving.extend(std::mem::take(&mut session.providers).into_values());
        self.services.given_up.extend(std::mem::take(&mut session.requests).into_values());
        (session.blocked_instances, session.held_replies) = (Vec::new(), std::collections::VecDeque::new());
        self.end_bulk(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let code = if session.process_ended { Code::ProcessEnded } else { Code::PeerGone };
        let identity = session.identity.clone();
        let (open_by, mute_at) = (session.open_by.take(), session.mute_at.take());
        let subscriptions: Vec<Key> = session.subscriptions.values().copied().collect();
        let streams: Vec<u64> = session.streams.iter().copied().collect();
        let aliases = std::mem::take(&mut session.aliases).into_iter().flatten();
        let topics: Vec<Key> = aliases.chain(std::mem::take(&mut session.numbers).into_keys()).collect();
        session.held_line = None;
        if let Some(at) = open_by {
            self.timers.cancel(at, Timer::Open(key));
        }
        if let Some(at) = mute_at {
            self.timers.cancel(at, Timer::Answers(key));
        }
        self.forget_held_up(key);
        self.forget_claims(key);
        for subscription in subscriptions {
            self.end_subscription(subscription, code.number());
        }
        for stream in streams {
            self.end_stream(stream, code.number());
        }
        self.close_links(|from, _| from == key);
        for topic in topics {
            self.topics.release(topic);
        }
        let others: Vec<Key> =
            self.sessions.iter().map(|(other, _)| other).filter(|other| *other != key).collect();
        for other in others {
            if let Some(receiver) = self.sessions.get_mut(other) {
                receiver.sources.publisher_gone(identity.session);
            }
            self.tell_gone(other);
        }
        if was_open {
            tracing::debug!("{identity} has gone: {reason}");
            self.event("$tramline.disconnect", |_| {
                json!({"session": identity.session, "name": identity.name, "uid": identity.uid, "pid": identity.pid,
                       "reason": reason})
            });
        }
    }
}
