//! Subscriptions come and go: the same for both languages.
//!
//! A subscription receives from the moment it is taken in. It is confirmed once the streams that match are
//! attached, or the attach timeout has passed and the rest is reported pending.

use super::Now;
use super::broker::Core;
use super::gaps::Gaps;
use super::quota::{Checked, Refused, allows, fits};
use super::routes::is_tap;
use super::session::Pause;
use super::subscription::{Asker, Confirmation, Sink, Subscription};
use super::table::Key;
use super::timers::{MILLI, Timer};
use crate::json::{self, Value};
use std::collections::{BTreeSet, VecDeque};
use tramline_wire::{Code, Filter, Mode, SlowPolicy, ToClient};

/// What a client asks for.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) asker: Asker,
    pub(super) number: u32,
    pub(super) filter: &'a str,
    pub(super) mode: Mode,
    pub(super) rings: bool,
    pub(super) history: u32,
    pub(super) slow: SlowPolicy,
    pub(super) backlog_bytes_max: u32,
    pub(super) gated_only: bool,
    /// Where its messages go in the broker, if it is the broker's own.
    pub(super) sink: Option<Sink>,
}

impl Core {
    /// Takes a subscription in. Its number is known to be free.
    pub(super) fn subscribe(&mut self, session_key: Key, wanted: Wanted<'_>, now: Now) -> Checked<()> {
        let filter = Filter::parse(wanted.filter)
            .map_err(|error| Refused::new(Code::BadTopic, format!("the filter is refused: {error}")))?;
        if is_tap(wanted.filter) {
            self.may_tap(session_key)?;
        }
        let limits = &self.limits;
        let Some(session) = self.sessions.get(session_key) else { return Ok(()) };
        let (own, all) = (session.subscriptions.len() as u64, self.subscriptions.len() as u64);
        let max = limits.session_subscriptions_max.into();
        // The broker's own are bounded by what its operator configured.
        if session.id != 0 {
            fits("session_subscriptions_max", "subscriptions of this client", max, own, 1)?;
        }
        fits("subscriptions_max", "subscriptions", limits.subscriptions_max.into(), all, 1)?;
        let history_max = limits.history_messages_max.into();
        allows("history_messages_max", "past messages", history_max, wanted.history.into())?;
        let queue_max = limits.backlog_bytes_max;
        allows("backlog_bytes_max", "bytes that wait", queue_max.into(), wanted.backlog_bytes_max.into())?;
        let streams = self.streams_of(filter);
        self.attachments_fit(streams.len())?;
        if wanted.gated_only {
            self.all_gated(&streams, session_key)?;
        }
        let backlog_bytes_max =
            if wanted.backlog_bytes_max == 0 { queue_max } else { wanted.backlog_bytes_max };
        let deadline = now.monotonic + u64::from(self.limits.attach_timeout_millis) * MILLI;
        let confirmation = Confirmation { asker: wanted.asker, deadline, awaited: 0, attached: 0 };
        let Some(session) = self.sessions.get_mut(session_key) else { return Ok(()) };
        let key = self.subscriptions.insert(Subscription {
            session: session_key,
            language: session.language,
            number: wanted.number,
            filter: wanted.filter.into(),
            mode: wanted.mode,
            gated_only: wanted.gated_only,
            rings: wanted.rings,
            history: wanted.history,
            slow: wanted.slow,
            backlog_bytes_max: backlog_bytes_max as usize,
            queue: VecDeque::new(),
            held: VecDeque::new(),
            backlog_bytes: 0,
            in_backlog: false,
            gaps: Gaps::default(),
            confirmation: Some(confirmation),
            waiting: Vec::new(),
            block_until: None,
            dropping: false,
            waiting_proxies: Vec::new(),
            attachments: BTreeSet::new(),
            proxies: 0,
            retained_pending: 0,
            behind_retained: Vec::new(),
            sink: wanted.sink,
            messages: 0,
            lost: 0,
        });
        session.subscriptions.insert(wanted.number, key);
        self.topics.add_filter(filter, key);
        self.listeners += usize::from(filter.as_str().starts_with('$'));
        self.taps += usize::from(is_tap(filter.as_str()));
        self.timers.set(deadline, Timer::Subscribed(key));
        if wanted.history > 0 {
            self.offer_all_retained(key, filter);
        }
        for stream in streams {
            self.offer(stream, key, false, true);
        }
        self.to_confirm.push_back(key);
        Ok(())
    }

    /// One attachment less that a subscription's confirmation waits for.
    pub(super) fn one_less_awaited(&mut self, key: Key, attached: bool) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if let Some(confirmation) = &mut subscription.confirmation {
            confirmation.awaited -= 1;
            confirmation.attached += u32::from(attached);
            self.to_confirm.push_back(key);
        }
    }

    /// Confirms a subscription if nothing is awaited any more.
    pub(super) fn confirm_if_ready(&mut self, key: Key, now: Now) {
        let confirmation = self.subscriptions.get(key).and_then(|each| each.confirmation.as_ref());
        if confirmation.is_some_and(|confirmation| confirmation.awaited == 0) {
            self.subscription_is_due(key, now);
        }
    }

    /// Confirms a subscription with the streams it has.
    pub(super) fn subscription_is_due(&mut self, key: Key, now: Now) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        let Some(confirmation) = subscription.confirmation.take() else { return };
        let (session, sub) = (subscription.session, subscription.number);
        self.timers.cancel(confirmation.deadline, Timer::Subscribed(key));
        let Confirmation { asker, awaited: pending, attached: streams, .. } = confirmation;
        match asker {
            Asker::Nobody => {}
            Asker::Native(req) => self.answer(session, &ToClient::Subscribed { req, sub, streams, pending }),
            Asker::Json(id) => self.answer_json(session, |out| {
                json::write_ok(out, "sub", id.as_deref(), &[("sub", Value::Number(sub.into()))]);
            }),
        }
        self.set_in_motion(key, now);
    }

    /// Ends a subscription and all it has. `code` is what the publishers of its streams are told.
    pub(super) fn end_subscription(&mut self, key: Key, code: u16) {
        let Some(subscription) = self.subscriptions.get(key) else { return };
        let (session, number) = (subscription.session, subscription.number);
        for attach in subscription.attachments.iter().copied().collect::<Vec<_>>() {
            self.reader_ended(attach, code);
        }
        self.end_claims_of(session, number);
        self.let_go(key);
        let Some(subscription) = self.subscriptions.remove(key) else { return };
        if let Ok(filter) = Filter::parse(&subscription.filter) {
            self.topics.remove_filter(filter, key);
        }
        self.listeners -= usize::from(subscription.filter.starts_with('$'));
        self.taps -= usize::from(is_tap(&subscription.filter));
        if let Some(confirmation) = subscription.confirmation {
            self.timers.cancel(confirmation.deadline, Timer::Subscribed(key));
        }
        if let Some(session) = self.sessions.get_mut(subscription.session) {
            session.subscriptions.remove(&subscription.number);
            if subscription.in_backlog {
                session.backlog.retain(|each| *each != key);
                self.backlogs -= 1;
            }
        }
        self.close_links(|_, to| to == key);
    }

    /// Takes a publisher that has ended out of those held up.
    pub(super) fn forget_held_up(&mut self, publisher: Key) {
        let paused = self.sessions.get_mut(publisher).and_then(|session| session.paused.take());
        self.goes_on(publisher);
        if let Some(Pause::Slow(key)) = paused
            && let Some(subscription) = self.subscriptions.get_mut(key)
        {
            subscription.waiting.retain(|each| *each != publisher);
        }
    }

    /// The policy of a subscription by JSON.
    pub(super) fn json_policy(&self, reliable: bool) -> (Mode, SlowPolicy) {
        if reliable {
            (Mode::Gated, SlowPolicy::Block { millis: self.limits.block_millis_max })
        } else {
            (Mode::Lossy, SlowPolicy::DropOldest)
        }
    }
}
