//! Who reads the socket: the protocol of leadership.
//!
//! One epoll holds the socket, the space bells of all links on the writing side, and a kick. Whoever
//! holds the lock around [`Inbound`](crate::inbound::Inbound) *leads*: reads the socket, takes the
//! frames apart, and hands out what they say. A thread that waits for something leads if nobody does, so
//! that a conversation of two threads crosses no third one; else it *follows*: it parks on a signal of its
//! own. One background thread leads when no user thread did for a lease of [`LEASE`].
//!
//! # Why no wake-up is lost
//!
//! 1. *Leadership.* A follower enters itself in `parked`, then tries the lock once more, then sleeps. A
//!    leader unlocks, then looks into `parked` and raises the first who wants to lead. Either the
//!    follower's second try finds the lock free, or the leader that holds it will find the follower.
//! 2. *Passing on.* Whoever leaves (result, timeout, error) after having led or having been raised hands
//!    over again; an unneeded wake costs a look, a missing one would hang somebody.
//! 3. *Changes.* Answers, admissions, and room (in a ring or towards the socket) are announced by
//!    [`Reactor::changed`] after the state was changed, which counts them under the lock of `parked`. Who
//!    waits for one reads the count, looks at the state, enters `parked`, and sleeps only if the count is
//!    still the same; so the change was seen in that look, or counted, or its announcement finds the entry.
//! 4. *Messages.* A subscription's inbox has a flag "armed", set under the inbox's lock by a consumer that
//!    found it empty and does not lead; whoever adds a message takes the flag and raises the signal.
//! 5. *The background thread* dozes without a timeout while a user leads. It says so (`dozing`), fences, and
//!    tries the lock again before it sleeps; a user unlocks, fences, and looks at `dozing`. Raised by that, it lets a
//!    lease go by before it looks: most often the same user leads again at once.
//!    While it leads, `background_leads` is set before it looks into `parked`; a follower enters `parked`
//!    before it looks at `background_leads`, and kicks it off.

use crate::clock::until;
use crate::error::{Error, Result};
use crate::signal::Signal;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// How long no user thread must have led before the background thread does.
pub(crate) const LEASE: Duration = Duration::from_millis(10);

/// Signals kept for reuse by threads that wait for an answer.
const SPARE_SIGNALS_MAX: usize = 8;

/// Epoll's token of the kick; space bells have tokens above.
pub(crate) const KICK_TOKEN: u64 = 1;

/// Epoll's token of the timer by which descriptors are sent once more that were too many.
pub(crate) const RETRY_TOKEN: u64 = 2;

/// Locks, also after a thread panicked with the lock held: what the locks of this crate protect is
/// consistent between any two statements that could panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], without waiting.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// What a parked thread is to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) lead: bool,
    pub(crate) changes: bool,
}

struct Parked {
    id: u64,
    signal: Arc<Signal>,
    wants: Wants,
}

#[derive(Default)]
struct ParkedList {
    next_id: u64,
    threads: Vec<Parked>,
    wakers: Vec<Waker>,
    spare: Vec<Arc<Signal>>,
}

pub(crate) struct Reactor {
    epoll: Arc<OwnedFd>,
    kick: Signal,
    parked: Mutex<ParkedList>,
    /// How often a user thread took the lead; the background thread measures its lease by it.
    pub(crate) user_leads: AtomicU64,
    /// Counts announcements, so that one between a look and `enter` is noticed.
    changes: AtomicU64,
    dozing: AtomicBool,
    background_leads: AtomicBool,
    pub(crate) background: Signal,
}

impl Reactor {
    pub(crate) fn new() -> Result<Self> {
        let io = || Error::os("making an epoll descriptor");
        let epoll_fd = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io())?;
        let kick = Signal::new().map_err(Error::io("making an eventfd"))?;
        epoll::add(&epoll_fd, &kick, epoll::EventData::new_u64(KICK_TOKEN), epoll::EventFlags::IN)
            .map_err(io())?;
        Ok(Self {
            epoll: Arc::new(epoll_fd),
            kick,
            parked: Mutex::default(),
            user_leads: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            dozing: AtomicBool::new(false),
            background_leads: AtomicBool::new(false),
            background: Signal::new().map_err(Error::io("making an eventfd"))?,
        })
    }

    pub(crate) fn epoll(&self) -> &Arc<OwnedFd> {
        &self.epoll
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Makes whoever polls the reactor's epoll return.
    pub(crate) fn kick(&self) {
        self.kick.raise();
    }

    pub(crate) fn clear_kick(&self) {
        self.kick.clear();
    }

    /// Enters the list of those to be woken. Look at the state after this and before sleeping.
    pub(crate) fn enter(&self, signal: &Arc<Signal>, wants: Wants) -> u64 {
        let mut parked = lock(&self.parked);
        parked.next_id += 1;
        let id = parked.next_id;
        parked.threads.push(Parked { id, signal: Arc::clone(signal), wants });
        id
    }

    pub(crate) fn leave(&self, id: u64) {
        lock(&self.parked).threads.retain(|thread| thread.id != id);
    }

    /// Asks the background thread, if it leads, to let a user thread lead.
    pub(crate) fn claim(&self) {
        if self.background_leads.load(Ordering::Acquire) {
            self.kick();
        }
    }

    /// How many announcements there were. Read before looking at the state and again after `enter`: unless
    /// it is the same, look again.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Announces that an answer, an admission or room has come.
    pub(crate) fn changed(&self) {
        let wakers = {
            let mut parked = lock(&self.parked);
            self.changes.fetch_add(1, Ordering::Release);
            for thread in parked.threads.iter().filter(|thread| thread.wants.changes) {
                thread.signal.raise();
            }
            if parked.wakers.is_empty() {
                return;
            }
            std::mem::take(&mut parked.wakers)
        };
        for waker in wakers {
            waker.wake();
        }
    }

    /// Registers an async waiter for the next [`Self::changed`]. Look at the state after this.
    #[cfg(feature = "tokio")]
    pub(crate) fn enter_waker(&self, waker: &Waker) {
        let mut parked = lock(&self.parked);
        if !parked.wakers.iter().any(|known| known.will_wake(waker)) {
            parked.wakers.push(waker.clone());
        }
    }

    /// Called after unlocking: somebody who waits to lead is woken, else the background thread if it dozes.
    pub(crate) fn hand_over(&self) {
        {
            let parked = lock(&self.parked);
            if let Some(thread) = parked.threads.iter().find(|thread| thread.wants.lead) {
                thread.signal.raise();
                return;
            }
        }
        fence(Ordering::SeqCst);
        if self.dozing.load(Ordering::Relaxed) && self.dozing.swap(false, Ordering::AcqRel) {
            self.background.raise();
        }
    }

    /// Says that the background thread sleeps without a timeout as long as a user leads.
    pub(crate) fn doze(&self) {
        self.dozing.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// The background thread sleeps no more, or with a timeout. Says whether it had not been raised by [`Self::hand_over`].
    pub(crate) fn doze_over(&self) -> bool {
        self.dozing.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn set_background_leads(&self, leads: bool) {
        self.background_leads.store(leads, Ordering::Release);
    }

    /// Whether a thread is parked that would rather lead itself.
    pub(crate) fn lead_is_wanted(&self) -> bool {
        lock(&self.parked).threads.iter().any(|thread| thread.wants.lead)
    }

    /// A signal for one wait, used before if possible.
    pub(crate) fn take_signal(&self) -> Result<Arc<Signal>> {
        if let Some(signal) = lock(&self.parked).spare.pop() {
            return Ok(signal);
        }
        Ok(Arc::new(Signal::new().map_err(Error::io("making an eventfd"))?))
    }

    pub(crate) fn give_signal(&self, signal: Arc<Signal>) {
        signal.clear();
        let mut parked = lock(&self.parked);
        // Nobody else may still raise it: those who could have left `parked` with it.
        if parked.spare.len() < SPARE_SIGNALS_MAX && Arc::strong_count(&signal) == 1 {
            parked.spare.push(signal);
        }
    }
}

/// Sleeps until one of `fds` is readable, or until the earlier of the two moments. Says which are readable.
pub(crate) fn park<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    first: Option<Instant>,
    second: Option<Instant>,
) -> Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut polled, until(first, second).as_ref()) {
        Ok(_) => Ok(polled.map(|polled| !polled.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok([false; N]),
        Err(error) => Err(Error::os("polling")(error)),
    }
}
