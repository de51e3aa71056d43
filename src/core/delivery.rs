//! From a routed message to a session's outbox, or to the queue of its subscription, or to a counted loss.
//!
//! A subscription whose session keeps up costs one append. Once an outbox is above `outbox_bytes_max`, its
//! subscriptions queue up, each for itself, and move on in turn as the outbox is written; a full queue is
//! the matter of the subscription's [`SlowPolicy`]. Every message that is dropped is counted, and told
//! as a gap before the next message of that subscription. Nothing here decides who receives what.

use super::broker::Core;
use super::gaps::{alias_of, note_gone};
use super::queues::Origin;
use super::session::{Identity, Pause, Session, Stage};
use super::subscription::{Entry, Sink, Subscription, Waiting, cost};
use super::table::Key;
use super::timers::{MILLI, Timer};
use super::{Action, Language, Now};
use crate::json::{self, MessageLine, Payload, Sender};
use std::cell::OnceCell;
use std::sync::Arc;
use tramline_wire::{Code, Encoding, HeaderBlock, Message, SlowPolicy, ToClient};

/// Control frames beyond outbox and one frame that a client may leave unread, in bytes.
const CONTROL_BYTES_MAX: usize = 1024 * 1024;

/// Messages of one subscription moved up in one turn, before the next one of the session has its turn.
const TURN_MESSAGES: usize = 64;

/// A message on its way to subscriptions.
#[derive(Debug)]
pub(super) struct Handed<'a> {
    pub(super) from: &'a Arc<Identity>,
    pub(super) topic: Key,
    pub(super) name: &'a Arc<str>,
    /// The message as it travels.
    pub(super) bytes: &'a [u8],
    pub(super) message: Message<'a>,
    pub(super) payload_length: u64,
    /// `bytes` once a queue has them, shared by all queues.
    pub(super) shared: OnceCell<Arc<[u8]>>,
}

impl<'a> Handed<'a> {
    /// A message from a queue.
    pub(super) fn of(bytes: &'a [u8], origin: &'a Origin) -> Option<Self> {
        let message = tramline_wire::codec::decode_message(bytes).ok()?;
        let payload_length = message.payload.len() as u64;
        let Origin { from, topic, name } = origin;
        Some(Self { from, topic: *topic, name, bytes, message, payload_length, shared: OnceCell::new() })
    }
}

impl Waiting {
    /// The message, on its way again.
    pub(super) fn handed(&self) -> Option<Handed<'_>> {
        Some(Handed {
            from: &self.from,
            topic: self.topic,
            name: &self.name,
            bytes: &self.bytes,
            message: tramline_wire::codec::decode_message(&self.bytes).ok()?,
            payload_length: self.payload_length,
            shared: OnceCell::from(self.bytes.clone()),
        })
    }
}

impl Handed<'_> {
    fn waiting(&self) -> Waiting {
        Waiting {
            from: self.from.clone(),
            topic: self.topic,
            name: self.name.clone(),
            bytes: self.shared.get_or_init(|| self.bytes.into()).clone(),
            payload_length: self.payload_length,
        }
    }
}

/// Appends a message, and the loss before it, to the outbox in the session's language. `true`: it needed a new
/// source alias.
pub(super) fn append(
    session: &mut Session,
    subscription: &mut Subscription,
    handed: &Handed<'_>,
    json_payload_bytes_max: usize,
    now: Now,
) -> bool {
    subscription.messages += 1;
    session.traffic.messages_out += 1;
    session.traffic.bytes_out += handed.payload_length;
    let Session { outbox, sources, .. } = session;
    let out = outbox.buffer();
    let number = subscription.number;
    let mut defined = false;
    if !subscription.gaps.is_empty() {
        defined = subscription.gaps.append(out, number, subscription.language, sources);
    }
    match subscription.language {
        Language::Native => {
            let (alias, new) = alias_of(sources, out, handed.from, handed.topic, handed.name);
            ToClient::encode_deliver(out, number, alias, handed.payload_length, handed.bytes);
            defined || new
        }
        Language::Json => {
            let line = line(number, handed, now);
            json::write_message(out, &line, json_payload_bytes_max);
            false
        }
    }
}

/// When something happened in nanoseconds since 1970, by the time that its publisher's clock showed then.
pub(super) fn own_time(time: u64, now: Now) -> i64 {
    // The publisher's clock is this machine's; a false claim yields a false time for its own messages only.
    let age = i128::from(now.monotonic) - i128::from(time);
    let unix = i128::from(now.unix) - age;
    i64::try_from(unix).unwrap_or(if unix < 0 { i64::MIN } else { i64::MAX })
}

pub(super) fn line<'a>(sub: u32, handed: &'a Handed<'_>, now: Now) -> MessageLine<'a> {
    let message = &handed.message;
    let unix_nanos = own_time(message.time, now);
    MessageLine {
        sub,
        topic: handed.name,
        seq: message.seq,
        unix_nanos,
        source_time: message.flags.has_source_time().then_some(message.source_time),
        from: Sender { name: &handed.from.name, uid: handed.from.uid, pid: handed.from.pid },
        head: HeaderBlock::parse(message.head).unwrap_or_default(),
        payload: Payload {
            encoding: message.flags.encoding(),
            bytes: message.payload,
            length: handed.payload_length,
        },
    }
}

impl Core {
    /// Gives a message to one subscription: to its outbox if nothing is in the way, else to its queue.
    pub(super) fn hand_over(&mut self, key: Key, handed: &Handed<'_>, now: Now) {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        let json_max = self.limits.json_payload_bytes_max as usize;
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if subscription.sink.is_some() {
            return self.enqueue(key, handed, false, now);
        }
        if subscription.is_clear()
            && let Some(session) = self.sessions.get_mut(subscription.session)
            && session.outbox.len() < outbox_bytes_max
        {
            if append(session, subscription, handed, json_max, now) {
                note_gone(&mut session.sources, |id| self.by_id.contains_key(&id));
            }
            self.totals.traffic.messages_out += 1;
            self.totals.traffic.bytes_out += handed.payload_length;
            if !session.dirty {
                session.dirty = true;
                self.dirty.push_back(session.id);
            }
            return;
        }
        self.enqueue(key, handed, false, now);
    }

    /// Queues a message. With `from_ring` it was read on the subscription's behalf, so it is never held behind
    /// the ring, and a reliable subscription takes it even if it has to stop the reading afterwards.
    pub(super) fn enqueue(&mut self, key: Key, handed: &Handed<'_>, from_ring: bool, now: Now) {
        let hold = !from_ring && self.must_hold(key, handed.message.after);
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if let Some(sink) = subscription.sink.filter(|_| !hold && (from_ring || subscription.held.is_empty()))
        {
            subscription.messages += 1;
            return match sink {
                Sink::Queue(queue) => self.queue_message(queue, handed, now),
                Sink::Routes => self.take_for_routes(key, handed, now),
            };
        }
        let cost = cost(handed.bytes.len());
        let reliable = from_ring && subscription.mode == tramline_wire::Mode::Gated;
        if !reliable && subscription.is_full_for(cost) {
            if subscription.slow == SlowPolicy::Disconnect {
                let (session, number) = (subscription.session, subscription.number);
                let (filter, max) = (&subscription.filter, subscription.backlog_bytes_max);
                let message = format!(
                    "subscription {number} to {filter} did not keep up: {max} bytes wait for it, which is the most \
                     (limits.backlog_bytes_max), and its policy is to be disconnected"
                );
                self.totals.slow_disconnects += 1;
                self.doom(session, Code::SlowSubscriber, message);
                return;
            }
            let dropped = subscription.make_room(cost);
            self.count_lost(key, dropped);
        }
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        subscription.backlog_bytes += cost;
        let waiting = handed.waiting();
        if hold || (!from_ring && !subscription.held.is_empty()) {
            subscription.held.push_back((waiting, handed.message.after));
            return;
        }
        subscription.queue.push_back(Entry::Message(waiting));
        let session = subscription.session;
        self.join_backlog(key);
        // The outbox may have room all the same: a loss to be told or a ring in front was the detour.
        self.refill(session, now);
    }

    /// Counts messages that were dropped from a subscription's queue.
    pub(super) fn count_lost(&mut self, key: Key, lost: u64) {
        let Some(subscription) = self.subscriptions.get(key).filter(|_| lost > 0) else { return };
        self.totals.traffic.lost = self.totals.traffic.lost.saturating_add(lost);
        let Some(session) = self.sessions.get_mut(subscription.session) else { return };
        session.traffic.lost = session.traffic.lost.saturating_add(lost);
        tracing::debug!(
            "{} lost {lost} of {}: its queue of {} bytes is full",
            session.identity,
            subscription.filter,
            subscription.backlog_bytes_max
        );
    }

    /// Tells a loss that no message may follow: a ring has ended with it.
    pub(super) fn tell_gap(&mut self, key: Key) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if !subscription.is_told() || !subscription.queue.is_empty() || !subscription.held.is_empty() {
            return;
        }
        let Some(session) = self.sessions.get_mut(subscription.session) else { return };
        if session.stage == Stage::Open && !subscription.gaps.is_empty() {
            let Session { outbox, sources, .. } = session;
            let (number, language) = (subscription.number, subscription.language);
            if subscription.gaps.append(outbox.buffer(), number, language, sources) {
                note_gone(sources, |id| self.by_id.contains_key(&id));
            }
            let session = subscription.session;
            self.mark_dirty(session);
        }
    }

    pub(super) fn join_backlog(&mut self, key: Key) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if subscription.in_backlog || !subscription.is_told() || subscription.queue.is_empty() {
            return;
        }
        if let Some(session) = self.sessions.get_mut(subscription.session) {
            subscription.in_backlog = true;
            self.backlogs += 1;
            session.backlog.push_back(key);
        }
    }

    /// Puts a subscription's queue in motion that was waiting for something else than the outbox.
    pub(super) fn set_in_motion(&mut self, key: Key, now: Now) {
        self.join_backlog(key);
        if let Some(session) = self.subscriptions.get(key).map(|subscription| subscription.session) {
            self.refill(session, now);
        }
    }

    /// Hands an attachment's memory over behind everything that waits for the subscription.
    pub(super) fn queue_attach(&mut self, key: Key, attach: u64, now: Now) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if subscription.queue.is_empty() {
            return self.want_fds(attach);
        }
        subscription.queue.push_back(Entry::Attach(attach));
        self.set_in_motion(key, now);
    }

    /// Moves queued messages of a session up while its outbox has room, its subscriptions in turn.
    pub(super) fn refill(&mut self, session_key: Key, now: Now) {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        loop {
            let Some(session) = self.sessions.get_mut(session_key) else { return };
            if session.outbox.len() >= outbox_bytes_max || session.stage == Stage::Closing {
                return;
            }
            let Some(key) = session.backlog.pop_front() else { break };
            self.backlogs -= 1;
            let Some(subscription) = self.subscriptions.get_mut(key) else { continue };
            subscription.in_backlog = false;
            self.move_up(session_key, key, now);
            self.join_backlog(key);
            self.room_made(key);
        }
        self.tell_gone(session_key);
    }

    fn move_up(&mut self, session_key: Key, key: Key, now: Now) {
        let outbox_bytes_max = self.limits.outbox_bytes_max as usize;
        let json_max = self.limits.json_payload_bytes_max as usize;
        for _ in 0..TURN_MESSAGES {
            let Some(session) = self.sessions.get_mut(session_key) else { return };
            let Some(subscription) = self.subscriptions.get_mut(key) else { return };
            if session.outbox.len() >= outbox_bytes_max {
                return;
            }
            let waiting = match subscription.queue.pop_front() {
                None => return,
                Some(Entry::Run(mut run)) => {
                    let Some(waiting) = run.take_front() else { continue };
                    if run.len() > 0 {
                        subscription.queue.push_front(Entry::Run(run));
                    }
                    waiting
                }
                Some(Entry::Attach(attach)) => {
                    self.want_fds(attach);
                    continue;
                }
                Some(Entry::Loss(gap)) => {
                    subscription.gaps.add(gap);
                    self.tell_gap(key);
                    continue;
                }
                Some(Entry::Message(waiting)) => waiting,
            };
            subscription.backlog_bytes -= waiting.cost();
            let Some(handed) = waiting.handed() else { continue };
            let defined = append(session, subscription, &handed, json_max, now);
            if defined {
                note_gone(&mut session.sources, |id| self.by_id.contains_key(&id));
            }
            self.totals.traffic.messages_out += 1;
            self.totals.traffic.bytes_out += waiting.payload_length;
            self.mark_dirty(session_key);
        }
    }

    /// Lets those go on who were held up for want of room in this queue.
    pub(super) fn room_made(&mut self, key: Key) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        let (used, max) = (subscription.backlog_bytes, subscription.backlog_bytes_max);
        if used <= max / 2 {
            subscription.dropping = false;
        }
        if used > max - max / 8 {
            return;
        }
        let proxies = std::mem::take(&mut subscription.waiting_proxies);
        self.actions.extend(proxies.into_iter().map(|attach| Action::ProxyResume { attach }));
        self.let_go(key);
    }

    /// Resumes the publishers that this subscription holds up.
    pub(super) fn let_go(&mut self, key: Key) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        if let Some(until) = subscription.block_until.take() {
            self.timers.cancel(until, Timer::Block(key));
        }
        for publisher in std::mem::take(&mut subscription.waiting) {
            self.resume(publisher, Pause::Slow(key));
        }
    }

    /// Reads from a session again, if it was paused for this reason.
    pub(super) fn resume(&mut self, key: Key, reason: Pause) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.paused != Some(reason) {
            return;
        }
        session.paused = None;
        self.goes_on(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.held_line.is_some() {
            self.resumed.push_back(key);
        } else if session.stage != Stage::Closing {
            self.actions.push_back(Action::Resume(session.id));
        }
    }

    /// Starts the clock of a subscription that holds up publishers for an entry of this cost, unless it runs.
    pub(super) fn start_clock(&mut self, key: Key, cost: usize, now: Now) {
        let limit = self.limits.block_millis_max;
        let Some(subscription) = self.subscriptions.get_mut(key).filter(|each| each.holds_up(cost)) else {
            return;
        };
        if subscription.block_until.is_none()
            && let SlowPolicy::Block { millis } = subscription.slow
        {
            let until = now.monotonic.saturating_add(u64::from(millis.min(limit)) * MILLI);
            subscription.block_until = Some(until);
            self.timers.set(until, Timer::Block(key));
        }
    }

    /// The longest time to hold publishers up for this subscription has passed.
    pub(super) fn block_is_over(&mut self, key: Key, now: Now) {
        self.waited_in_vain(key, now);
        if let Some(subscription) = self.subscriptions.get_mut(key) {
            subscription.block_until = None;
            subscription.dropping = true;
        }
        self.let_go(key);
    }

    /// Tells a session which publishers have ended, once nothing of them waits for it.
    pub(super) fn tell_gone(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if !session.sources.any_gone() || !session.backlog.is_empty() || session.stage != Stage::Open {
            return;
        }
        for alias in session.sources.forget_gone() {
            self.send_control(key, &ToClient::SourceGone { alias });
        }
    }

    /// Appends a frame that the client did not ask for. A client that leaves too many unread is disconnected.
    pub(super) fn send_control(&mut self, key: Key, frame: &ToClient<'_>) {
        let max =
            self.limits.outbox_bytes_max as usize + self.limits.frame_bytes_max as usize + CONTROL_BYTES_MAX;
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.stage == Stage::Closing || session.language != Language::Native {
            return;
        }
        frame.encode(session.outbox.buffer());
        let waiting = session.outbox.len();
        self.mark_dirty(key);
        if waiting > max {
            self.totals.slow_disconnects += 1;
            let message =
                format!("this client does not read: {waiting} bytes wait for it, and {max} is the most");
            self.doom(key, Code::SlowSubscriber, message);
        }
    }

    pub(super) fn mark_dirty(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key).filter(|session| !session.dirty) {
            session.dirty = true;
            self.dirty.push_back(session.id);
        }
    }
}

/// A message of the broker's own, as it travels.
pub(super) fn own_message(seq: u64, time: u64, text: &str) -> Message<'_> {
    Message {
        flags: tramline_wire::MessageFlags::new(Encoding::Json),
        seq,
        time,
        source_time: 0,
        after: None,
        head: &[],
        payload: text.as_bytes(),
    }
}
