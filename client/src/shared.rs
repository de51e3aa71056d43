//! Everything that the threads and handles of one client share, and the one loop in which they wait.
//!
//! Locks, in the order in which they may be taken: the lead (`inbound`) → a topic → a stream's writer;
//! and after any of these `session` → `outbound`, or a subscription's inbox, which are held for a few
//! statements only. The leader never waits for a topic's lock.

use crate::builder::Options;
use crate::bulk::BulkOut;
use crate::error::{Error, Result};
use crate::gates::GateTimer;
use crate::inbound::{Inbound, Look};
use crate::makers::Makers;
use crate::outbound::Outbound;
use crate::reactor::{Reactor, Wants, lock, park, try_lock};
use crate::run::SpareBuffers;
use crate::session::{Answer, Session};
use crate::signal::Signal;
use crate::topics::Topics;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;
use tramline_ring::{ForkMark, Spinner};

/// Looks at rings and inboxes between two looks at the socket while spinning, and looks at the socket
/// between two at the bells: each look at a descriptor is a system call, the others are loads.
const SOCKET_EVERY: u32 = 4;
const BELLS_EVERY: u32 = 16;

/// Glances at rings between two yields of the core: about a microsecond. The other side of a conversation answers
/// within the first ones, so the processor is told only then that this is a spinning loop, which makes it look less often.
const GLANCES: u32 = 272;
const GLANCES_AT_ONCE: u32 = 256;

pub(crate) struct Shared {
    pub(crate) weak: Weak<Self>,
    pub(crate) options: Options,
    pub(crate) reactor: Reactor,
    /// Holding it is to lead.
    pub(crate) inbound: Mutex<Inbound>,
    pub(crate) outbound: Mutex<Outbound>,
    pub(crate) session: Mutex<Session>,
    pub(crate) topics: Topics,
    /// Bytes waiting in all inboxes.
    pub(crate) inbox_bytes: Arc<AtomicUsize>,
    pub(crate) spare_buffers: SpareBuffers,
    /// What is sent by ring to queues and services.
    pub(crate) bulk: BulkOut,
    /// Reading has stopped because too much waits; whoever takes messages out kicks the reactor.
    pub(crate) reading_paused: AtomicBool,
    /// Somebody should look at `session.fault`.
    pub(crate) faulty: AtomicBool,
    pub(crate) closing: AtomicBool,
    /// When a reader has held one of this client's publishers up for long enough, at the earliest.
    pub(crate) gate_timer: Arc<GateTimer>,
    pub(crate) makers: Makers,
    /// Where the broker was found.
    pub(crate) path: Mutex<PathBuf>,
    /// What this client is called by on all its connections, so that its numbers are one sequence.
    pub(crate) number: u64,
    owner: u32,
    mark: ForkMark,
}

/// Something that a thread waits for.
pub(crate) trait Waiting {
    /// What comes of it.
    type Output;
    /// Looks whether it is there.
    fn look(&mut self) -> Result<Option<Self::Output>>;
    /// Before sleeping: asks to be woken. `true`: something is there, look again.
    fn arm(&mut self, leading: bool) -> Result<bool>;
    /// After sleeping.
    fn woken(&mut self) -> Result<()>;
    /// Whether looking is cheap and may find something without the socket.
    fn spins_on_memory(&self) -> bool;
    /// Whether a look would find something in memory; cheaper than a look.
    fn stirs(&self) -> bool;
    fn spinner(&mut self) -> &mut Spinner;
}

/// How a waiting thread is woken.
pub(crate) struct Bed<'a> {
    pub(crate) signal: &'a Arc<Signal>,
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) changes: bool,
}

/// Looks again and again for about a microsecond; whether something has come.
#[inline]
pub(crate) fn glance(stirs: impl Fn() -> bool) -> bool {
    (0..GLANCES).any(|looks| {
        let stirs = stirs();
        if !stirs && looks >= GLANCES_AT_ONCE {
            std::hint::spin_loop();
        }
        stirs
    })
}

impl Shared {
    pub(crate) fn new(options: Options) -> Result<Arc<Self>> {
        let reactor = Reactor::new()?;
        let session = Session::default();
        let mark = ForkMark::new()?;
        Ok(Arc::new_cyclic(|weak| Self {
            weak: weak.clone(),
            inbound: Mutex::new(Inbound::new()),
            outbound: Mutex::new(Outbound::new(Arc::clone(reactor.epoll()))),
            topics: Topics::default(),
            inbox_bytes: Arc::clone(&session.inbox_bytes),
            session: Mutex::new(session),
            spare_buffers: SpareBuffers::default(),
            bulk: BulkOut::default(),
            reading_paused: AtomicBool::new(false),
            faulty: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            gate_timer: Arc::default(),
            makers: Makers::default(),
            path: Mutex::default(),
            number: crate::clock::random_id(),
            owner: std::process::id(),
            mark,
            options,
            reactor,
        }))
    }

    /// Refuses to go on in a fork: rings are not mapped there and the socket belongs to the parent.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.mark.is_forked() { Err(Error::Forked { owner: self.owner }) } else { Ok(()) }
    }

    /// Waits until `waiting` has come or `deadline` has passed (`None`), leading if nobody else does.
    pub(crate) fn wait<W: Waiting>(
        &self,
        waiting: &mut W,
        bed: &Bed<'_>,
        deadline: Option<Instant>,
    ) -> Result<Option<W::Output>> {
        self.check_process()?;
        let mut lead = None;
        let mut raised = false;
        let result = self.wait_leading(waiting, bed, deadline, &mut lead, &mut raised);
        if lead.take().is_some() || raised {
            self.reactor.hand_over();
        }
        result
    }

    fn wait_leading<'s, W: Waiting>(
        &'s self,
        waiting: &mut W,
        bed: &Bed<'_>,
        deadline: Option<Instant>,
        lead: &mut Option<MutexGuard<'s, Inbound>>,
        raised: &mut bool,
    ) -> Result<Option<W::Output>> {
        // The first look is at the socket only: whoever comes back soon finds its message there.
        let mut turns = SOCKET_EVERY;
        loop {
            let seen = self.reactor.changes();
            if let Some(output) = waiting.look()? {
                waiting.spinner().busy();
                return Ok(Some(output));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
            if lead.is_none() {
                *lead = self.try_lead();
            }
            let every = if waiting.spins_on_memory() { SOCKET_EVERY } else { 1 };
            // Who sleeps at once looks when the kernel says that something came, and not in vain before; unless the
            // kernel was told to say nothing, because too much waits for somebody else.
            let told = !waiting.spinner().spins() && !self.reading_paused.load(Ordering::Relaxed);
            let looks = turns.is_multiple_of(every) && !told;
            if let Some(inbound) = lead.as_mut().filter(|_| looks) {
                let look = if turns.is_multiple_of(BELLS_EVERY) { Look::All } else { Look::Socket };
                if self.drive(inbound, look, true)? {
                    turns = 1;
                    continue;
                }
            }
            turns = turns.wrapping_add(1);
            // The other side of a ring answers within a microsecond, about what a yield takes.
            if waiting.spins_on_memory() && waiting.spinner().spins() && glance(|| waiting.stirs()) {
                continue;
            }
            if waiting.spinner().turn() {
                continue;
            }
            turns = 1;
            match lead.as_mut() {
                Some(inbound) => self.sleep_leading(inbound, waiting, bed, deadline, seen)?,
                None => *raised |= self.sleep_following(waiting, bed, deadline, seen)?,
            }
        }
    }

    fn sleep_leading<W: Waiting>(
        &self,
        inbound: &mut Inbound,
        waiting: &mut W,
        bed: &Bed<'_>,
        deadline: Option<Instant>,
        seen: u64,
    ) -> Result<()> {
        // A leader waits for changes that others may bring about, too (room towards the socket).
        let entry = bed.changes.then(|| self.reactor.enter(bed.signal, Wants { lead: false, changes: true }));
        let changed = bed.changes && self.reactor.changes() != seen;
        let found = if changed { Ok(true) } else { waiting.arm(true) };
        let slept = found.and_then(|found| match found {
            true => Ok([true; 2]),
            false => park([bed.fd, self.reactor.fd()], deadline, inbound.timer()),
        });
        if let Some(entry) = entry {
            self.reactor.leave(entry);
            bed.signal.clear();
        }
        // Looking costs system calls: only where something is to be seen, and at the timers when nothing is.
        let [own, reactor] = slept?;
        if own {
            waiting.woken()?;
        }
        if reactor && self.drive(inbound, Look::Socket, true)? {
            return Ok(());
        }
        if reactor || !own {
            self.drive(inbound, Look::All, true)?;
        }
        Ok(())
    }

    /// Says whether leadership may have been offered to this thread.
    fn sleep_following<W: Waiting>(
        &self,
        waiting: &mut W,
        bed: &Bed<'_>,
        deadline: Option<Instant>,
        seen: u64,
    ) -> Result<bool> {
        let entry = self.reactor.enter(bed.signal, Wants { lead: true, changes: bed.changes });
        self.reactor.claim();
        let changed = bed.changes && self.reactor.changes() != seen;
        // Once more after entering, see the module `reactor`. The caller's loop takes the lead then.
        let free = !changed && try_lock(&self.inbound).is_some();
        let result = if changed || free {
            Ok(())
        } else {
            waiting
                .arm(false)
                .and_then(|found| if found { Ok(()) } else { park([bed.fd], deadline, None).map(|_| ()) })
        };
        self.reactor.leave(entry);
        let raised = bed.signal.clear();
        result?;
        waiting.woken()?;
        Ok(raised || free)
    }

    /// Takes the lead for a user's thread if nobody has it.
    pub(crate) fn try_lead(&self) -> Option<MutexGuard<'_, Inbound>> {
        let guard = try_lock(&self.inbound)?;
        self.reactor.user_leads.fetch_add(1, Ordering::Relaxed);
        Some(guard)
    }

    /// Reads what is there without waiting, if nobody leads.
    pub(crate) fn poke(&self) -> Result<bool> {
        let Some(mut inbound) = self.try_lead() else { return Ok(false) };
        let result = self.drive(&mut inbound, Look::All, true);
        drop(inbound);
        self.reactor.hand_over();
        result
    }

    /// Waits until `look` finds something.
    pub(crate) fn wait_until<T>(
        &self,
        deadline: Option<Instant>,
        look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        // Locks may have been held by threads that a fork does not have.
        self.check_process()?;
        let signal = self.reactor.take_signal()?;
        let mut until = Until { look, spinner: Spinner::new(self.options.spin) };
        until.spinner.busy();
        let bed = Bed { signal: &signal, fd: std::os::fd::AsFd::as_fd(&*signal), changes: true };
        let result = self.wait(&mut until, &bed, deadline);
        self.reactor.give_signal(signal);
        result
    }

    /// Waits for the answer to a request.
    pub(crate) fn wait_for_answer(&self, request: u32, what: &'static str) -> Result<Answer> {
        let timeout = self.options.request_timeout;
        let found = self.wait_until(crate::clock::deadline_after(timeout), || {
            lock(&self.session).take_answer(request).transpose()
        });
        lock(&self.session).forget(request);
        found?.ok_or(Error::TimedOut { what, after: timeout })
    }

    /// Writes what waits, as far as the socket takes it. Whoever writes tells those who wait for room: who leads may find
    /// nothing left to write, and would not.
    pub(crate) fn write_out(&self, outbound: &mut Outbound) {
        if outbound.flush() {
            self.reactor.changed();
        }
    }

    /// What was refused of what nobody waits for, once.
    pub(crate) fn take_fault(&self) -> Result<()> {
        if !self.faulty.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.faulty.store(false, Ordering::Relaxed);
        lock(&self.session).fault.take().map_or(Ok(()), Err)
    }

    /// Why nothing can be sent now, if so.
    pub(crate) fn check_open(&self, outbound: &Outbound) -> Result<()> {
        if outbound.open {
            return Ok(());
        }
        self.check_closing()?;
        Err(Error::Disconnected(None))
    }

    /// Refuses to go on in a client that is being closed.
    pub(crate) fn check_closing(&self) -> Result<()> {
        if self.closing.load(Ordering::Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }
}

struct Until<F> {
    look: F,
    spinner: Spinner,
}

impl<T, F: FnMut() -> Result<Option<T>>> Waiting for Until<F> {
    type Output = T;

    fn look(&mut self) -> Result<Option<T>> {
        (self.look)()
    }

    fn arm(&mut self, _leading: bool) -> Result<bool> {
        Ok(false)
    }

    fn woken(&mut self) -> Result<()> {
        Ok(())
    }

    fn spins_on_memory(&self) -> bool {
        false
    }

    fn stirs(&self) -> bool {
        false
    }

    fn spinner(&mut self) -> &mut Spinner {
        &mut self.spinner
    }
}
