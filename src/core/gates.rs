//! Who may hold a publisher up, and what is said when that changes.
//!
//! On rings the publisher itself keeps the budget of each reader, by its own clock, and reports when it waits for one no
//! longer or does again: the reader and whoever watches are told here. On the socket the broker holds publishers up for
//! slow subscribers, each for a bounded time; here is the bound for all of them together: the time that a publisher
//! has waited in vain counts against a budget, and once that is spent nobody holds it up until the window is over.

use super::broker::Core;
use super::native::Violation;
use super::quota::{Checked, Refused};
use super::rings::mode_text;
use super::session::Pause;
use super::table::Key;
use super::timers::{MILLI, Timer};
use super::{Language, Now};
use crate::json;
use serde_json::json;
use tramline_wire::{Code, GateLimits, GatedBy, Mode, ModeChanged, ModeTold, ToClient, Topic};

/// How long a publisher has waited in vain for slow subscribers on the socket.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// When the window began, in which `spent` counts.
    from: u64,
    /// Nanoseconds.
    spent: u64,
    /// When it was held up, if it is.
    since: Option<u64>,
    /// When it goes on at the latest.
    pub(super) until: Option<u64>,
}

impl Patience {
    fn left(&self, budget: u64, window: u64, now: u64) -> u64 {
        if now.saturating_sub(self.from) >= window { budget } else { budget.saturating_sub(self.spent) }
    }

    fn charge(&mut self, window: u64, now: u64) {
        let Some(since) = self.since.take() else { return };
        if self.spent == 0 || since.saturating_sub(self.from) >= window {
            (self.from, self.spent) = (since, 0);
        }
        self.spent += now.saturating_sub(since);
    }
}

impl Core {
    /// The budgets of rings as publishers are told them.
    pub(super) fn gate_limits(&self) -> GateLimits {
        let limits = &self.limits;
        GateLimits {
            budget_millis: limits.gate_budget_millis_max,
            publisher_millis: limits.gate_publisher_millis_max,
            window_millis: limits.gate_window_millis,
            cooldown_millis: limits.gate_cooldown_millis,
            held_bytes_max: limits.held_bytes_max,
        }
    }

    /// Who may gate a stream: as the operator says for its topic, else as its publisher does.
    pub(super) fn gated_by(&self, topic: Key, publisher: GatedBy) -> GatedBy {
        let name = self.topics.get(topic).map(|entry| &*entry.name);
        let settings =
            name.and_then(|name| Topic::parse(name).ok()).and_then(|topic| self.access.settings(topic));
        settings.and_then(|settings| settings.gated_by).unwrap_or(publisher)
    }

    /// How a subscriber that asks for `wanted` may read a stream.
    pub(super) fn granted(&self, stream: u64, subscriber: Key, wanted: Mode) -> Mode {
        let Some(stream) = self.streams.by_id.get(&stream) else { return Mode::Lossy };
        let uid = |key| self.sessions.get(key).map(|session| session.peer.uid);
        match (uid(stream.session), uid(subscriber)) {
            (Some(publisher), Some(reader)) => self.access.mode(wanted, stream.gated_by, publisher, reader),
            _ => Mode::Lossy,
        }
    }

    /// Whether all these streams may be gated by a subscriber that wants nothing else.
    pub(super) fn all_gated(&self, streams: &[u64], subscriber: Key) -> Checked<()> {
        let refuses = |id: &&u64| self.granted(**id, subscriber, Mode::Gated) == Mode::Lossy;
        let Some(stream) = streams.iter().find(refuses).and_then(|id| self.streams.by_id.get(id)) else {
            return Ok(());
        };
        let topic = self.topics.get(stream.topic).map_or("a topic", |entry| &entry.name);
        let Some(publisher) = self.sessions.get(stream.session) else { return Ok(()) };
        let whom = match stream.gated_by {
            GatedBy::Anyone => "anyone",
            GatedBy::OwnUid => "its own user and root",
            GatedBy::Nobody => "nobody",
        };
        let message = format!(
            "{} is held up on {topic} by {whom} only (gated_by of the publisher, or of the topic's entry in topics:)",
            publisher.identity
        );
        Err(Refused::new(Code::GateRefused, message))
    }

    /// A stream is not offered to a subscription, because it would be read lossily.
    pub(super) fn gate_refused(&mut self, subscription: Key, stream: u64) {
        let Some(stream) = self.streams.by_id.get(&stream) else { return };
        let (publisher, topic) = (stream.session, stream.topic);
        let Some(from) = self.sessions.get(publisher).map(|session| session.identity.clone()) else { return };
        let Some(subscription) = self.subscriptions.get(subscription) else { return };
        let (session, sub) = (subscription.session, subscription.number);
        let source = self.source_alias(session, &from, topic);
        let told = ModeTold { attach: 0, sub, source, mode: Mode::Lossy, blocked_millis: 0 };
        self.send_control(session, &ToClient::ModeTold(told));
    }

    /// A publisher does not wait for a reader any more, or does again.
    pub(super) fn mode_changed(&mut self, key: Key, frame: &ModeChanged) -> Result<(), Violation> {
        let attach = frame.attach;
        self.claim_mode(key, attach, frame.mode);
        let Some(attachment) = self.attachments.get_mut(&attach) else {
            return self.late_or_false(key, attach);
        };
        if attachment.publisher != key || !attachment.stage.is_reading() {
            return Err(Self::foreign(attach));
        }
        if frame.mode == Mode::Gated && attachment.granted != Mode::Gated {
            let message = format!("attachment {attach} was never granted to be gated");
            return Err(Violation::new(Code::BadId, message));
        }
        if attachment.mode == frame.mode {
            return Ok(());
        }
        attachment.mode = frame.mode;
        let (subscriber, subscription) = (attachment.subscriber, attachment.subscription);
        let (topic, from) = (attachment.topic, attachment.from.clone());
        let Some(name) = self.topics.get(topic).map(|entry| entry.name.clone()) else { return Ok(()) };
        let Some(reader) = self.sessions.get(subscriber).map(|session| session.identity.clone()) else {
            return Ok(());
        };
        let Some(sub) = self.subscriptions.get(subscription).map(|each| each.number) else { return Ok(()) };
        let (mode, blocked) = (mode_text(frame.mode), frame.blocked_millis);
        let event = match frame.mode {
            Mode::Lossy => {
                self.totals.evictions += 1;
                tracing::info!("{reader} held {from} up on {name} for {blocked} ms and is lossy for a while");
                "$tramline.evicted"
            }
            Mode::Gated => "$tramline.gated",
        };
        self.event(event, |_| {
            json!({"session": reader.session, "name": reader.name, "uid": reader.uid, "pid": reader.pid,
                   "sub": sub, "topic": &*name, "publisher": from.session, "mode": mode,
                   "blocked_millis": blocked})
        });
        match self.sessions.get(subscriber).map(|session| session.language) {
            Some(Language::Native) => {
                let source = self.source_alias(subscriber, &from, topic);
                let told =
                    ModeTold { attach, sub, source, mode: frame.mode, blocked_millis: frame.blocked_millis };
                self.send_control(subscriber, &ToClient::ModeTold(told));
            }
            Some(Language::Json) => {
                let told = self
                    .subscriptions
                    .get(subscription)
                    .is_some_and(|each| each.is_told() && each.sink.is_none());
                if let Some(session) = self.sessions.get_mut(subscriber).filter(|_| told) {
                    json::write_mode(session.outbox.buffer(), sub, &name, mode, blocked);
                    self.mark_dirty(subscriber);
                }
            }
            None => {}
        }
        Ok(())
    }

    fn patience(&self) -> (u64, u64) {
        let limits = &self.limits;
        (u64::from(limits.block_publisher_millis_max) * MILLI, u64::from(limits.block_window_millis) * MILLI)
    }

    /// Whether slow subscribers may hold this publisher up now.
    pub(super) fn may_wait(&self, publisher: Key, now: Now) -> bool {
        let (budget, window) = self.patience();
        self.sessions
            .get(publisher)
            .is_some_and(|session| session.patience.left(budget, window, now.monotonic) > 0)
    }

    /// Holds a publisher up until this subscription, whose clock runs, has room, its time is up, or the publisher's own.
    pub(super) fn hold_up(&mut self, publisher: Key, key: Key, now: Now) {
        let (budget, window) = self.patience();
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        let Some(session) = self.sessions.get_mut(publisher) else { return };
        session.paused = Some(Pause::Slow(key));
        subscription.waiting.push(publisher);
        let until = now.monotonic.saturating_add(session.patience.left(budget, window, now.monotonic));
        session.patience.since = Some(now.monotonic);
        session.patience.until = Some(until);
        self.timers.set(until, Timer::Patience(publisher));
        self.totals.pauses += 1;
    }

    /// Publishers have waited for this subscription in vain.
    pub(super) fn waited_in_vain(&mut self, key: Key, now: Now) {
        let (_, window) = self.patience();
        let Some(subscription) = self.subscriptions.get(key) else { return };
        for publisher in subscription.waiting.clone() {
            if let Some(session) = self.sessions.get_mut(publisher) {
                session.patience.charge(window, now.monotonic);
            }
        }
    }

    /// A publisher is held up no longer.
    pub(super) fn goes_on(&mut self, publisher: Key) {
        let Some(session) = self.sessions.get_mut(publisher) else { return };
        session.patience.since = None;
        if let Some(until) = session.patience.until.take() {
            self.timers.cancel(until, Timer::Patience(publisher));
        }
    }

    /// A publisher has waited for as long as it may be held up in one window.
    pub(super) fn patience_is_over(&mut self, publisher: Key, now: Now) {
        let (_, window) = self.patience();
        let Some(session) = self.sessions.get_mut(publisher) else { return };
        session.patience.until = None;
        session.patience.charge(window, now.monotonic);
        let Some(Pause::Slow(key)) = session.paused else { return };
        if let Some(subscription) = self.subscriptions.get_mut(key) {
            subscription.waiting.retain(|each| *each != publisher);
        }
        self.resume(publisher, Pause::Slow(key));
    }
}
