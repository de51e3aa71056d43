//! Waiting adaptively: after traffic the runtime looks for more for a while, yielding the processor
//! between looks, before it sleeps in the kernel.
//!
//! A busy conversation then never pays for waking an idle core. Whoever sent little is most likely to send next: its
//! socket is read without asking the kernel first which are ready, so that a message costs one call to come in, one
//! to go out, and one that gives the core to whom it is for. It is off where this process may use one
//! core only, because there looking would take the time that its peer needs. An idle broker makes no system
//! call at all: the task here sleeps until the next traffic.

use super::broker::Shell;
use super::session::Turn;
use crate::core::SessionId;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tramline_ring::Spinner;

/// Who sends less than this at a time waits for an answer, or for its next message to be due.
const SMALL_BYTES_MAX: usize = 4096;

/// Sessions whose sockets are read without asking.
const TALKERS_MAX: usize = 2;

/// Looks at these between two looks at all.
const GLANCES_MAX: u32 = 4;

/// The shell's adaptive wait. See [`Shell::look_for_more`].
pub(super) struct AdaptiveWait {
    spinner: RefCell<Spinner>,
    looking: Cell<bool>,
    /// Something arrived since the last turn: what comes of it is to leave before the core is given away.
    fresh: Cell<bool>,
    /// Who sent something small lately.
    talkers: Cell<[Option<SessionId>; TALKERS_MAX]>,
    traffic: Notify,
    enabled: bool,
}

impl AdaptiveWait {
    /// `spin`: how long to look for more after the last traffic (`wait.spin_micros`); zero never does.
    pub(super) fn new(spin: Duration) -> Self {
        let cores = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
        Self {
            spinner: RefCell::new(Spinner::new(spin)),
            looking: Cell::new(false),
            fresh: Cell::new(false),
            talkers: Cell::default(),
            traffic: Notify::new(),
            enabled: cores > 1 && !spin.is_zero(),
        }
    }

    /// Says that this many bytes arrived by socket.
    pub(super) fn heard(&self, from: SessionId, bytes: usize) {
        if self.enabled {
            self.note_talker(from, bytes);
            self.busy();
        }
    }

    /// Says that something arrived.
    pub(super) fn busy(&self) {
        if !self.enabled {
            return;
        }
        self.spinner.borrow_mut().busy();
        self.fresh.set(true);
        if !self.looking.get() {
            self.traffic.notify_one();
        }
    }

    fn note_talker(&self, id: SessionId, bytes: usize) {
        let mut talkers = self.talkers.get();
        let known = talkers.iter().position(|talker| *talker == Some(id));
        match known {
            Some(place) if bytes >= SMALL_BYTES_MAX => talkers[place] = None,
            None if bytes < SMALL_BYTES_MAX => {
                talkers.rotate_right(1);
                talkers[0] = Some(id);
            }
            _ => return,
        }
        self.talkers.set(talkers);
    }

    fn forget_talker(&self, id: SessionId) {
        self.talkers.set(self.talkers.get().map(|talker| talker.filter(|talker| *talker != id)));
    }
}

impl Shell {
    /// Keeps the runtime from sleeping while traffic is recent. Never returns.
    pub(super) async fn look_for_more(self: Rc<Self>) {
        let wait = &self.wait;
        loop {
            wait.traffic.notified().await;
            wait.looking.set(true);
            let mut glances = 0;
            loop {
                // What a session's task read has not left yet.
                let fresh = wait.fresh.take();
                if !fresh && !wait.spinner.borrow_mut().turn() {
                    break;
                }
                if !fresh && glances < GLANCES_MAX {
                    glances += 1;
                    self.glance();
                    continue;
                }
                glances = 0;
                // Yielding to the runtime makes it run every other task, and ask the kernel what is ready without sleeping.
                tokio::task::yield_now().await;
            }
            wait.looking.set(false);
        }
    }

    /// Reads from those who sent little lately, and carries out what comes of it.
    fn glance(self: &Rc<Self>) {
        for id in self.wait.talkers.get().into_iter().flatten() {
            let session =
                self.state.borrow().sessions.get(&id).map(|it| (it.reads(), Arc::clone(&it.socket)));
            match session {
                None => self.wait.forget_talker(id),
                Some((false, _)) => {}
                Some((true, socket)) => match self.read_turn(id, &socket) {
                    // The session's own task reads what is left: the kernel tells it.
                    Turn::Empty | Turn::More => {}
                    Turn::Close => self.close_session(id),
                    Turn::End(reason) => self.end(id, &reason),
                },
            }
        }
        if self.wait.fresh.take() {
            self.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_who_sent_little_last_are_read_first_and_who_sends_much_is_not() {
        let wait = AdaptiveWait::new(Duration::ZERO);
        let heard = |id, bytes| {
            wait.note_talker(id, bytes);
            wait.talkers.get()
        };
        assert_eq!(heard(1, 64), [Some(1), None]);
        assert_eq!(heard(2, SMALL_BYTES_MAX), [Some(1), None], "much");
        assert_eq!(heard(2, 64), [Some(2), Some(1)]);
        assert_eq!(heard(1, 64), [Some(2), Some(1)], "known already");
        assert_eq!(heard(3, 64), [Some(3), Some(2)], "the one before last goes");
        assert_eq!(heard(2, SMALL_BYTES_MAX), [Some(3), None], "who begins to send much");
        wait.forget_talker(3);
        assert_eq!(wait.talkers.get(), [None, None]);
    }
}
