//! Waiting adaptively: after traffic the runtime looks for more for a while, yielding the processor
//! between looks, before it sleeps in the kernel.
//!
//! A busy conversation then never pays for waking an idle core. It is off where this process may use one
//! core only, because there looking would take the time that its peer needs. An idle broker makes no system
//! call at all: the task here sleeps until the next traffic.

use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::sync::Notify;
use tramline_ring::Spinner;

/// The shell's adaptive wait. See [`AdaptiveWait::run`].
pub(super) struct AdaptiveWait {
    spinner: RefCell<Spinner>,
    looking: Cell<bool>,
    /// Something arrived since the last turn: what comes of it is to leave before the core is given away.
    fresh: Cell<bool>,
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
            traffic: Notify::new(),
            enabled: cores > 1 && !spin.is_zero(),
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

    /// Keeps the runtime from sleeping while traffic is recent. Never returns.
    pub(super) async fn run(&self) {
        loop {
            self.traffic.notified().await;
            self.looking.set(true);
            // Yielding to the runtime makes it run every other task, and ask the kernel what is ready without sleeping.
            while self.fresh.take() || self.spinner.borrow_mut().turn() {
                tokio::task::yield_now().await;
            }
            self.looking.set(false);
        }
    }
}
