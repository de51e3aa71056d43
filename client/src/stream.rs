//! A stream of this client: the writer of its ring, shared by those who publish and the one who leads.
//!
//! The writer's lock is held for the time of one message. Nobody waits with it: who finds the ring full
//! announces that, lets go, and waits for the reactor to tell of room.

use crate::clock::monotonic_nanos;
use crate::error::{Error, Full, Result};
use crate::gates::{self, GateTimer};
use crate::reactor::lock;
use crate::shared::Shared;
use crate::topics::Topic;
use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tramline_ring::{
    GateBudget, Generation, Meta, ModeChange, ReadMode, RingError, RingSpec, SendError, SetAside, Start,
    Writer, WriterLink,
};
use tramline_wire::{GatedBy, Geometry, OpenStream};

thread_local! {
    /// The stream that this thread sent to last. It is still in the cache.
    static LAST_STREAM: Cell<u64> = const { Cell::new(0) };
}

struct Inner {
    writer: Writer,
    /// Names of the readers, for the sentence that says who is in the way.
    names: HashMap<u64, Box<str>>,
    waiting: bool,
    closed: bool,
    /// Generations that nothing of this process holds any more and that the broker has not been told of.
    left: Vec<u32>,
    /// Name of the reader that was set aside last.
    aside: Option<Box<str>>,
}

impl Inner {
    /// Looks whether earlier generations can be left.
    fn leave_formers(&mut self, has_left: &AtomicBool) {
        if self.writer.former_generations() > 0 {
            self.left.append(&mut self.writer.leave_formers());
            has_left.store(!self.left.is_empty(), Ordering::Relaxed);
        }
    }
}

pub(crate) struct Stream {
    pub(crate) id: u64,
    pub(crate) topic: Arc<Topic>,
    pub(crate) first_seq: u64,
    pub(crate) gated_by: GatedBy,
    /// How many messages its program asked for, if it did.
    pub(crate) messages: Option<u32>,
    inner: Mutex<Inner>,
    /// Number of the generation that is made next.
    next_generation: AtomicU32,
    has_left: AtomicBool,
    readers: AtomicUsize,
    dropped: AtomicU64,
    shared: Weak<Shared>,
    gate_timer: Arc<GateTimer>,
}

impl Stream {
    /// Makes the memory. Blocks for the time it takes to fill it.
    pub(crate) fn create(
        shared: &Shared,
        topic: Arc<Topic>,
        spec: &RingSpec,
        (depth, messages): (u32, Option<u32>),
        (gated_by, (budget, held_bytes_max)): (GatedBy, (GateBudget, u64)),
    ) -> Result<Self> {
        let mut writer = Writer::create(spec, depth)?;
        writer.set_gate_budget(budget);
        writer.set_held_bytes_max(held_bytes_max);
        let inner = Inner {
            writer,
            names: HashMap::new(),
            waiting: false,
            closed: false,
            left: Vec::new(),
            aside: None,
        };
        Ok(Self {
            id: spec.stream,
            topic,
            first_seq: spec.first_seq,
            gated_by,
            messages,
            inner: Mutex::new(inner),
            next_generation: AtomicU32::new(1),
            has_left: AtomicBool::new(false),
            readers: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            shared: shared.weak.clone(),
            gate_timer: Arc::clone(&shared.gate_timer),
        })
    }

    /// A descriptor of the memory, to be given away.
    pub(crate) fn memory(&self) -> Result<OwnedFd> {
        lock(&self.inner)
            .writer
            .memory()
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::io("duplicating a ring's descriptor"))
    }

    /// How the broker is told of it; its memory goes along.
    pub(crate) fn opening(&self, req: u32, alias: u32) -> OpenStream {
        let RingSpec { generation, descriptors, arena_bytes, .. } = *lock(&self.inner).writer.spec();
        OpenStream {
            req,
            alias,
            stream: self.id,
            generation,
            geometry: Geometry { descriptors, arena_bytes },
            first_seq: self.first_seq,
            gated_by: self.gated_by,
            fds: 1,
        }
    }

    /// What it is now, the depth with it.
    pub(crate) fn spec(&self) -> (RingSpec, u32) {
        let inner = lock(&self.inner);
        (*inner.writer.spec(), inner.writer.depth())
    }

    /// A number for a generation to come. It is not used again, whatever becomes of it.
    pub(crate) fn next_generation(&self) -> u32 {
        self.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    /// Goes on in another generation.
    pub(crate) fn succeed(&self, next: Generation) -> Result<()> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Ok(());
        }
        inner.writer.succeed(next)?;
        inner.leave_formers(&self.has_left);
        Ok(())
    }

    /// Generations that nothing of this process holds any more, each once.
    pub(crate) fn take_left(&self) -> Vec<u32> {
        if !self.has_left.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.has_left.store(false, Ordering::Relaxed);
        std::mem::take(&mut lock(&self.inner).left)
    }

    /// Admits a reader; returns where it begins, and in which generation.
    pub(crate) fn admit(
        &self,
        id: u64,
        name: &str,
        link: &Arc<WriterLink>,
        slot: u32,
        mode: ReadMode,
        history: u32,
    ) -> Result<(Start, u32), RingError> {
        let mut inner = lock(&self.inner);
        let start = inner.writer.add_reader(id, link, slot, mode, history)?;
        inner.names.insert(id, name.into());
        self.readers.store(inner.names.len(), Ordering::Release);
        Ok((start, inner.writer.spec().generation))
    }

    pub(crate) fn dismiss(&self, id: u64) {
        let mut inner = lock(&self.inner);
        inner.writer.remove_reader(id);
        inner.leave_formers(&self.has_left);
        inner.names.remove(&id);
        self.readers.store(inner.names.len(), Ordering::Release);
        step!("dismiss: done");
    }

    /// A reader's session has ended, but its process may live and hold messages: it is not waited for any more, and
    /// forgotten when its link hangs up.
    pub(crate) fn part_with(&self, id: u64) {
        let mut inner = lock(&self.inner);
        inner.writer.ungate(id);
        inner.names.remove(&id);
        self.readers.store(inner.names.len(), Ordering::Release);
    }

    /// Whether this reader is waited for now.
    pub(crate) fn mode_of(&self, id: u64) -> Option<ReadMode> {
        lock(&self.inner).writer.mode_of(id)
    }

    /// The broker does not let this reader be waited for any more.
    pub(crate) fn ungate(&self, id: u64) {
        lock(&self.inner).writer.ungate(id);
    }

    pub(crate) fn reader_count(&self) -> usize {
        self.readers.load(Ordering::Acquire)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn next_seq(&self) -> u64 {
        lock(&self.inner).writer.next_seq()
    }

    /// Runs `act` on the writer. When it finds no room, and `wait` is set, readers are asked to tell of room,
    /// and `act` runs once more, so that room which came meanwhile is not slept over.
    /// Who is in the way for too long is not waited for.
    pub(crate) fn with<T>(
        &self,
        wait: bool,
        mut act: impl FnMut(&mut Writer) -> Result<T, SendError>,
    ) -> Result<T> {
        let mut inner = lock(&self.inner);
        gates::before(&mut inner.writer);
        let mut result = act(&mut inner.writer);
        if wait && matches!(result, Err(SendError::Full { .. })) {
            inner.writer.begin_wait();
            inner.waiting = true;
            result = act(&mut inner.writer);
        }
        while matches!(result, Err(SendError::Full { .. })) && gates::full(&mut inner.writer, wait) {
            result = act(&mut inner.writer);
        }
        if result.is_ok() {
            gates::room(&mut inner.writer);
        }
        let concerns = self.gate_timer.concerns(&inner.writer);
        let crowded = matches!(result, Err(SendError::Full { .. })) && inner.writer.has_set_aside();
        let result = match result {
            Ok(value) => {
                if std::mem::take(&mut inner.waiting) {
                    inner.writer.end_wait();
                }
                inner.leave_formers(&self.has_left);
                Ok(value)
            }
            Err(error) => {
                let holder = match error {
                    SendError::Full { holder: Some(id) } => inner.names.get(&id).cloned(),
                    _ => None,
                };
                Err(Error::send(&self.topic.name, error, holder))
            }
        };
        drop(inner);
        if concerns {
            self.mind_gates();
        }
        match result {
            Err(Error::Full(full)) if crowded => Err(Error::Full(self.make_way(full))),
            result => result,
        }
    }

    /// Bytes are set aside, and there is no other room: goes on in a new generation if that is granted.
    fn make_way(&self, mut full: Full) -> Full {
        full.growing = self.shared.upgrade().is_some_and(|shared| shared.make_way(self.id));
        if !full.growing && full.holder.is_none() {
            full.holder.clone_from(&lock(&self.inner).aside);
        }
        full
    }

    /// Who was set aside since this was asked.
    pub(crate) fn set_aside(&self) -> Vec<SetAside> {
        let mut inner = lock(&self.inner);
        let aside = inner.writer.take_set_aside();
        for each in &aside {
            inner.aside = inner.names.remove(&each.reader).or(inner.aside.take());
        }
        self.readers.store(inner.names.len(), Ordering::Release);
        aside
    }

    fn mind_gates(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.mind_gates(self);
        }
    }

    /// Who is waited for no longer, or again, since this was asked; and when to look at the latest.
    pub(crate) fn gates(&self) -> (Vec<ModeChange>, u64) {
        let mut inner = lock(&self.inner);
        (inner.writer.take_mode_changes(), inner.writer.look_again_at().unwrap_or(u64::MAX))
    }

    /// Looks where the readers are, if that is due. Whether room was made.
    pub(crate) fn look_at_gates(&self, now: u64) -> bool {
        lock(&self.inner).writer.look_at_gates(now)
    }

    pub(crate) fn try_send(&self, wait: bool, meta: Meta, head: &[u8], payload: &[u8]) -> Result<u64> {
        // Whoever has many streams finds this one cold.
        let cold = LAST_STREAM.replace(self.id) != self.id;
        if cold {
            tramline_ring::bring(&self.inner);
        }
        self.with(wait, |writer| {
            if cold {
                writer.look_ahead();
            }
            writer.try_send(meta, head, payload)
        })
    }

    /// Pushes payloads until one finds no room, then wakes the readers once. Returns the last number given,
    /// and the payload that found no room.
    pub(crate) fn push_many<I>(&self, payloads: &mut I, meta: &mut Meta) -> (Option<u64>, Option<I::Item>)
    where
        I: Iterator<Item: AsRef<[u8]>>,
    {
        let mut inner = lock(&self.inner);
        gates::before(&mut inner.writer);
        // They are published together: one time for all.
        meta.time = monotonic_nanos();
        let pushed = inner.writer.try_push_all(*meta, payloads);
        if pushed.last.is_some() {
            gates::room(&mut inner.writer);
        }
        inner.writer.flush();
        inner.leave_formers(&self.has_left);
        (pushed.last, pushed.refused.map(|(payload, _)| payload))
    }

    /// Uses up a number for a message that found no room.
    pub(crate) fn skip(&self) -> u64 {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        lock(&self.inner).writer.skip()
    }

    /// Takes room to be filled in place.
    pub(crate) fn try_loan(
        &self,
        wait: bool,
        bytes: usize,
        head_bytes: usize,
    ) -> Result<tramline_ring::Loan> {
        self.with(wait, |writer| writer.try_loan(bytes, head_bytes))
    }

    /// Publishes a loan's first `used` bytes.
    pub(crate) fn commit(
        &self,
        loan: tramline_ring::Loan,
        used: usize,
        meta: Meta,
        head: &[u8],
    ) -> Result<u64> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            inner.writer.cancel(loan);
            return Err(Error::Closed);
        }
        let seq = inner.writer.commit(loan, used, meta, head);
        inner.leave_formers(&self.has_left);
        Ok(seq)
    }

    /// Gives a loan's room back.
    pub(crate) fn cancel(&self, loan: tramline_ring::Loan) {
        lock(&self.inner).writer.cancel(loan);
    }

    pub(crate) fn message_bytes_max(&self) -> u64 {
        lock(&self.inner).writer.message_bytes_max()
    }

    /// No more messages; returns the number that the next one would have had.
    pub(crate) fn close(&self) -> u64 {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        inner.writer.close();
        inner.writer.next_seq()
    }
}
