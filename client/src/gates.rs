//! How long readers may hold this client's publishers up: looking at the clock, and telling the broker what changed.
//!
//! The ring keeps the accounts; here is when it is asked. Whoever finds a ring full, or room after that, says so with the
//! time. While nobody tries, the background thread (or the async client's task) looks when a budget is spent at the
//! earliest, so that whoever waits for room, by whatever means, goes on then.

use crate::clock::monotonic_nanos;
use crate::reactor::lock;
use crate::shared::Shared;
use crate::stream::Stream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tramline_ring::{GateBudget, ReadMode, Writer};
use tramline_wire::{Code, GateLimits, Mode, ModeChanged, ToBroker};

/// When a budget is spent at the earliest; nanoseconds of the monotonic clock, `u64::MAX` for never.
#[derive(Debug)]
pub(crate) struct GateTimer(AtomicU64);

impl Default for GateTimer {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

pub(crate) fn budget(limits: GateLimits) -> GateBudget {
    let nanos = |millis: u32| u64::from(millis) * 1_000_000;
    GateBudget {
        reader: nanos(limits.budget_millis),
        writer: nanos(limits.publisher_millis),
        window: nanos(limits.window_millis),
        cooldown: nanos(limits.cooldown_millis),
    }
}

/// Before a message: waits again for those whose cool-down is over.
#[inline]
pub(crate) fn before(writer: &mut Writer) {
    if writer.regate_at() != u64::MAX {
        let now = monotonic_nanos();
        if now >= writer.regate_at() {
            writer.regate(now);
        }
    }
}

/// After a message found room.
#[inline]
pub(crate) fn room(writer: &mut Writer) {
    if writer.is_stalled() {
        writer.found_room(monotonic_nanos());
    }
}

/// After a message found none. `true`: somebody was evicted, try again.
pub(crate) fn full(writer: &mut Writer, waits: bool) -> bool {
    writer.found_full(monotonic_nanos(), waits)
}

impl GateTimer {
    /// Whether somebody must be told of this time, or of changes.
    pub(crate) fn concerns(&self, writer: &Writer) -> bool {
        writer.has_mode_changes()
            || writer.has_news_of_holders()
            || writer.look_again_at().is_some_and(|due| due < self.0.load(Ordering::Relaxed))
    }
}

impl Shared {
    /// Sets the timer for a stream that is full, and tells the broker who is waited for no longer, or again.
    pub(crate) fn mind_gates(&self, stream: &Stream) {
        let (changes, due) = stream.gates();
        for aside in stream.set_aside() {
            self.detach_holder(stream, aside.reader);
        }
        for change in changes {
            let session = lock(&self.session);
            let of = |(attach, admission): (&u64, &crate::session::Admission)| {
                (admission.stream.id == stream.id && admission.reader == change.reader).then_some(*attach)
            };
            let Some(attach) = session.admissions.iter().find_map(of) else { continue };
            let mode = match change.mode {
                ReadMode::Gated => Mode::Gated,
                ReadMode::Lossy => Mode::Lossy,
            };
            let blocked_millis = u32::try_from(change.blocked / 1_000_000).unwrap_or(u32::MAX);
            let mut outbound = lock(&self.outbound);
            // A later connection makes attachments of its own.
            if outbound.open {
                outbound.push(&ToBroker::ModeChanged(ModeChanged { attach, mode, blocked_millis }));
                self.write_out(&mut outbound);
            }
        }
        if due < self.gate_timer.0.fetch_min(due, Ordering::AcqRel) {
            self.reactor.background.raise();
            self.reactor.kick();
        }
    }

    /// A reader held too much in place: it is told, and its bytes stay as they are until its link hangs up.
    fn detach_holder(&self, stream: &Stream, reader: u64) {
        let mut session = lock(&self.session);
        let of = |(attach, admission): (&u64, &crate::session::Admission)| {
            (admission.stream.id == stream.id && admission.reader == reader).then_some(*attach)
        };
        let Some(attach) = session.admissions.iter().find_map(of) else { return };
        if let Some(admission) = session.admissions.remove(&attach) {
            session.old_admissions.push(admission);
        }
        drop(session);
        self.answer(&ToBroker::Detach { attach, code: Code::HeldTooMuch.number() });
    }

    /// Looks at streams that are full once a budget may be spent. Returns when to look again.
    pub(crate) fn look_at_gates(&self) -> Option<Instant> {
        let timer = &self.gate_timer.0;
        let due = timer.load(Ordering::Acquire);
        if due == u64::MAX {
            return None;
        }
        let now = monotonic_nanos();
        if now >= due {
            timer.store(u64::MAX, Ordering::Release);
            let streams: Vec<_> = lock(&self.session).streams.values().cloned().collect();
            let mut changed = false;
            for stream in streams {
                changed |= stream.look_at_gates(now);
                self.mind_gates(&stream);
            }
            if changed {
                self.reactor.changed();
            }
        }
        match timer.load(Ordering::Acquire) {
            u64::MAX => None,
            due => Instant::now().checked_add(Duration::from_nanos(due.saturating_sub(now))),
        }
    }
}
