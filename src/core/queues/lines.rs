//! What JSON lines about queues do.
//!
//! A connection is one consumer of each queue that it pulls from; each pull lets it be given so many more. What would change
//! a queue for others needs the right to administer it.

use super::Right;
use super::bound::pushed_by;
use super::ledger::Waiter;
use super::queue::{Consumer, Incoming};
use super::work::{Place, refused_by};
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::delivery::{Handed, line};
use crate::core::quota::{Checked, Refused};
use crate::core::table::Key;
use crate::json::{self, Admin, Declare, Judgement, Op, Pull, Push, Sender, StoredLine, Value};
use tramline_wire::{Code, DeclareQueue, Verdict};

/// Messages that one answer shows.
const SHOWN_MAX: usize = 1000;

/// Bytes after which an answer shows no further message.
const SHOWN_BYTES_MAX: usize = 1024 * 1024;

/// Dead letters that one request moves or throws away.
const MOVED_MAX: usize = 10_000;

impl Core {
    /// Carries out an operation on queues and answers it, unless it is refused.
    pub(in crate::core) fn queue_op(
        &mut self,
        key: Key,
        op: &Op<'_>,
        id: Option<&str>,
        now: Now,
    ) -> Checked<()> {
        match op {
            Op::Push(push) => self.push_line(key, push, id, now),
            Op::Pull(pull) => self.pull_line(key, pull, id),
            Op::Settle(settle) => {
                let place = self.json_consumer(key, &settle.queue)?;
                let verdict = match &settle.judgement {
                    Judgement::Ack => Verdict::Ack,
                    Judgement::Nack { delay_millis } => Verdict::Nack { delay_millis: *delay_millis },
                    Judgement::Reject { reason } => Verdict::Reject { reason },
                    Judgement::Extend { millis } => Verdict::Extend { millis: *millis },
                };
                let failed = self.settle_jobs(place, settle.tag..=settle.tag, verdict, now);
                if let Some((_, code)) = failed.first().copied() {
                    let why = match code {
                        Code::TooLate => "was not settled in time and is given to another",
                        Code::SettledTwice => "was settled before",
                        _ => "was never given to this connection",
                    };
                    let message = format!("job {} of queue {} {why}", settle.tag, settle.queue);
                    return Err(Refused::new(code, message));
                }
                self.answer_json(key, |out| json::write_ok(out, op.name(), id, &[]));
                Ok(())
            }
            Op::Declare(declare) => self.declare_line(key, declare, id, now),
            Op::Queue(request) => self.administer(key, &request.queue, request.admin, id, now),
            _ => Ok(()),
        }
    }

    /// Whether a line has to wait, because too much waits for the store that it pushes to. Its session is held up then.
    pub(in crate::core) fn holds_line_up(&mut self, key: Key, op: &Op<'_>) -> bool {
        let Op::Push(push) = op else { return false };
        let queue = self.queues.by_name.get(&*push.queue).copied();
        queue.is_some_and(|queue| self.store_holds_up(key, queue))
    }

    fn push_line(&mut self, key: Key, push: &Push<'_>, id: Option<&str>, now: Now) -> Checked<()> {
        let queue = self.queue_for(key, &push.queue, Right::Push)?;
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        let (seq, from) = (session.pushed_lines + 1, session.identity.clone());
        let bytes = self.line_bytes(key, &push.message, seq, now)?;
        if let Some(session) = self.sessions.get_mut(key) {
            session.pushed_lines = seq;
        }
        let incoming = Incoming {
            bytes: bytes.into(),
            priority: push.priority,
            delay_millis: push.delay_millis,
            ttl_millis: push.ttl_millis,
            id: push.message_id.as_bytes(),
        };
        let origin = pushed_by(&from, &self.nameless);
        self.push_to(queue, incoming, &origin, now)?;
        let kept = self.queues.table.get(queue).filter(|queue| queue.kept.is_some());
        if let Some(name) = kept.map(|queue| queue.name.clone()) {
            let waiter = Waiter::Line { session: key, op: "push", id: id.map(Into::into), queue: name };
            if self.wait_for_store(key, waiter) {
                return Ok(());
            }
        }
        self.answer_json(key, |out| json::write_ok(out, "push", id, &[("queue", Value::Text(&push.queue))]));
        Ok(())
    }

    fn declare_line(&mut self, key: Key, wanted: &Declare<'_>, id: Option<&str>, now: Now) -> Checked<()> {
        let Declare { queue, bind, strategy, when_full, messages_max, bytes_max, .. } = wanted;
        let frame = DeclareQueue {
            req: 0,
            queue,
            bind,
            strategy: *strategy,
            when_full: *when_full,
            messages_max: *messages_max,
            bytes_max: *bytes_max,
            ack_timeout_millis: wanted.ack_timeout_millis,
            attempts_max: wanted.attempts_max,
            ttl_millis: wanted.ttl_millis,
            durable: wanted.durable,
        };
        self.declare(key, &frame, now)?;
        let name = (**queue).into();
        let waiter = Waiter::Line { session: key, op: "declare", id: id.map(Into::into), queue: name };
        if !wanted.durable || !self.wait_for_store(key, waiter) {
            self.answer_json(key, |out| json::write_ok(out, "declare", id, &[("queue", Value::Text(queue))]));
        }
        Ok(())
    }

    fn pull_line(&mut self, key: Key, pull: &Pull<'_>, id: Option<&str>) -> Checked<()> {
        let queue = self.queue_for(key, &pull.queue, Right::Consume)?;
        let known = self.json_consumer(key, &pull.queue);
        match known {
            Ok((_, seat)) => {
                let unlike = self.queues.table.get(queue).and_then(|queue| queue.consumer(seat));
                if unlike.is_some_and(|consumer| consumer.auto_ack != pull.ack) {
                    let message = format!(
                        "this connection pulls from queue {} with another value of ack; open another",
                        pull.queue
                    );
                    return Err(Refused::new(Code::BadId, message));
                }
                self.add_credit((queue, seat), pull.max)?;
            }
            Err(_) => {
                let Some(session) = self.sessions.get(key) else { return Ok(()) };
                let number = session.consumers.last_key_value().map_or(1, |(last, _)| last + 1);
                let mut consumer = Consumer::new(key, number, session.identity.clone());
                consumer.credit = pull.max;
                consumer.auto_ack = pull.ack;
                self.add_consumer(queue, consumer, (1, 0))?;
            }
        }
        let Some(queue) = self.queues.table.get(queue) else { return Ok(()) };
        let waiting = queue.messages() - queue.in_flight() - queue.delayed() - queue.storing();
        let members = [("queue", Value::Text(&pull.queue)), ("waiting", Value::Number(waiting))];
        self.answer_json(key, |out| json::write_ok(out, "pull", id, &members));
        Ok(())
    }

    /// This connection's consumer of a queue.
    fn json_consumer(&self, key: Key, name: &str) -> Checked<Place> {
        let queue = self.queue_for(key, name, Right::Consume)?;
        let consumers = self.sessions.get(key).map(|session| session.consumers.values().copied());
        let found = consumers.into_iter().flatten().find(|(known, _)| *known == queue);
        found.ok_or_else(|| {
            Refused::new(Code::NotYours, format!("this connection has pulled nothing from queue {name}"))
        })
    }

    fn administer(&mut self, key: Key, name: &str, admin: Admin, id: Option<&str>, now: Now) -> Checked<()> {
        let queue_key = self.queue_for(key, name, Right::Administer)?;
        let json_max = self.limits.json_payload_bytes_max as usize;
        let is_kept = self.queues.table.get(queue_key).is_some_and(|queue| queue.kept.is_some());
        if let Some(refused) =
            self.is_read_only(name).filter(|_| is_kept && matches!(admin, Admin::Replay(_)))
        {
            return Err(refused);
        }
        // Also what is refused half-way has changed something.
        self.wants_attention(queue_key);
        let queues = &mut self.queues;
        let Some(queue) = queues.table.get_mut(queue_key) else { return Ok(()) };
        let mut count = 0;
        let mut shown = None;
        match admin {
            Admin::Pause => queue.paused = true,
            Admin::Resume => queue.paused = false,
            Admin::Purge => count = queue.purge(&mut queues.charges),
            Admin::Peek { max } => {
                let mut list = List::default();
                for (bytes, origin, priority, attempts) in queue.peek(SHOWN_MAX.min(max as usize)) {
                    let Some(handed) = Handed::of(bytes, origin) else { continue };
                    let message = line(0, &handed, now);
                    if !list.add(&StoredLine { attempts, priority, dead: None, message }, json_max) {
                        break;
                    }
                }
                (count, shown) = (list.count, Some(list.text()));
            }
            Admin::Dead { max, number } => {
                let mut list = List::default();
                let from = queue.dead.iter().skip_while(|dead| dead.number < number);
                for dead in from.take(SHOWN_MAX.min(max as usize)) {
                    let Some(handed) = Handed::of(&dead.bytes, &dead.origin) else { continue };
                    let by = dead.by.as_ref().map(|by| Sender { name: &by.name, uid: by.uid, pid: by.pid });
                    let stored = StoredLine {
                        attempts: dead.attempts,
                        priority: dead.priority,
                        dead: Some((dead.number, dead.cause.as_str(), &dead.reason, dead.when, by)),
                        message: line(0, &handed, now),
                    };
                    if !list.add(&stored, json_max) {
                        break;
                    }
                }
                (count, shown) = (list.count, Some(list.text()));
            }
            Admin::Replay(number) => {
                for number in numbers(queue, number) {
                    let replayed = queue.replay(number, now, &mut queues.charges);
                    count += u64::from(replayed.map_err(|full| refused_by(name, full))?);
                }
            }
            Admin::PurgeDead(number) => {
                for number in numbers(queue, number) {
                    count += u64::from(queue.purge_dead(number, &mut queues.charges));
                }
            }
        }
        if let Admin::Replay(Some(number)) | Admin::PurgeDead(Some(number)) = admin
            && count == 0
        {
            let message = format!("queue {name} has no dead letter {number}");
            return Err(Refused::new(Code::BadId, message));
        }
        match admin {
            Admin::Pause => self.queue_event(queue_key, "paused"),
            Admin::Resume => self.queue_event(queue_key, "resumed"),
            Admin::Purge => self.queue_event(queue_key, "purged"),
            _ => {}
        }
        let mut members = vec![("queue", Value::Text(name)), ("do", Value::Text(admin.name()))];
        if !matches!(admin, Admin::Pause | Admin::Resume) {
            members.push(("count", Value::Number(count)));
        }
        if let Some(shown) = &shown {
            members.push(("messages", Value::Json(shown)));
        }
        self.answer_json(key, |out| json::write_ok(out, "queue", id, &members));
        Ok(())
    }
}

fn numbers(queue: &super::Queue, one: Option<u64>) -> Vec<u64> {
    match one {
        Some(number) => vec![number],
        None => queue.dead.iter().take(MOVED_MAX).map(|dead| dead.number).collect(),
    }
}

/// A JSON array of messages that are shown.
#[derive(Default)]
struct List {
    bytes: Vec<u8>,
    count: u64,
}

impl List {
    /// Appends one. Whether there is room for another.
    fn add(&mut self, stored: &StoredLine<'_>, payload_bytes_max: usize) -> bool {
        self.bytes.push(if self.count == 0 { b'[' } else { b',' });
        json::write_stored(&mut self.bytes, stored, payload_bytes_max);
        self.count += 1;
        self.bytes.len() < SHOWN_BYTES_MAX
    }

    fn text(mut self) -> String {
        if self.count == 0 {
            self.bytes.push(b'[');
        }
        self.bytes.push(b']');
        String::from_utf8(self.bytes).unwrap_or_default()
    }
}
