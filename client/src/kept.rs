//! Readers that have gone and are waited for a little longer: those of a broker that stores what it reads.
//!
//! When that broker dies, what it had read and not stored is nowhere but in the ring. The next one begins behind what is on
//! disk, and finds the rest if nothing was overwritten meanwhile. So the place of such a reader is kept when its link hangs
//! up: its stream is written as if the reader were slow, within the budget that every reader has (`gates`). It is dropped
//! when the stream is open again and whoever reads it is admitted, when the stream is refused or closed, and when the time
//! is over that the broker granted. How far the reader had come stands in its page, which stays mapped.

use crate::reactor::lock;
use crate::session::{Admission, Session};
use crate::shared::Shared;
use crate::stream::Stream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A reader that has gone.
pub(crate) struct Kept {
    admission: Admission,
    until: Instant,
}

impl Session {
    /// Keeps those of `gone` that are to be kept; the others remain.
    fn keep(&mut self, gone: &mut Vec<Admission>, now: Instant) {
        let streams = &self.streams;
        let keeps = |admission: &mut Admission| {
            !admission.keep.is_zero() && streams.contains_key(&admission.stream.id)
        };
        for admission in gone.extract_if(.., keeps) {
            let until = now + admission.keep;
            self.kept.push(Kept { admission, until });
        }
    }

    /// Readers of earlier connections need not be kept on this stream any more. Returns those that were.
    fn end_kept_on(&mut self, stream: u64, connection: u64) -> Vec<Admission> {
        let earlier =
            |admission: &Admission| admission.stream.id == stream && admission.connection < connection;
        for admission in self.admissions.values_mut().filter(|admission| earlier(admission)) {
            // Its link will hang up yet.
            admission.keep = Duration::ZERO;
        }
        self.take_kept(|kept| earlier(&kept.admission))
    }

    /// A stream was closed: nobody is waited for on it.
    pub(crate) fn forget_kept(&mut self, stream: &Stream) {
        self.take_kept(|kept| kept.admission.stream.id == stream.id);
    }

    fn take_kept(&mut self, which: impl Fn(&Kept) -> bool) -> Vec<Admission> {
        self.kept.extract_if(.., |kept| which(kept)).map(|kept| kept.admission).collect()
    }
}

impl Shared {
    /// The process of these readers has gone.
    pub(crate) fn readers_gone(&self, mut gone: Vec<Admission>) {
        if self.options.reconnect && !self.closing.load(Ordering::Acquire) {
            let mut session = lock(&self.session);
            session.keep(&mut gone, Instant::now());
            let any = !session.kept.is_empty();
            drop(session);
            if any {
                // Whoever looks at the clock has one more time to look at.
                self.reactor.background.raise();
                self.reactor.kick();
            }
        }
        self.dismiss(gone);
    }

    /// The broker has opened a stream again and `pending` of those who read it are not admitted yet, or it has refused to.
    pub(crate) fn opened_again(&self, stream: u64, pending: u32) {
        if pending > 0 {
            // One of them may be who is waited for.
            return;
        }
        let mut session = lock(&self.session);
        let connection = lock(&self.outbound).epoch();
        let gone = session.end_kept_on(stream, connection);
        drop(session);
        self.dismiss(gone);
    }

    /// Drops those whose time is over. Returns when to look again.
    pub(crate) fn end_kept(&self) -> Option<Instant> {
        let mut session = lock(&self.session);
        if session.kept.is_empty() {
            return None;
        }
        let now = Instant::now();
        let gone = session.take_kept(|kept| kept.until <= now);
        let next = session.kept.iter().map(|kept| kept.until).min();
        drop(session);
        self.dismiss(gone);
        next
    }

    fn dismiss(&self, gone: Vec<Admission>) {
        if gone.is_empty() {
            return;
        }
        for admission in gone {
            admission.stream.dismiss(admission.reader);
            self.tell_left(&admission.stream);
        }
        self.reactor.changed();
    }
}
