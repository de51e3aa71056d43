//! What arrives from the broker: bytes to frames, and frames to whom they concern. Only the leader is here.
//!
//! Messages for one subscription that arrive in one read are handed over together, small ones that follow each
//! other as one piece (`run`). Everything else goes through `dispatch`. The buffer is bounded by the largest frame there can be; what waits in
//! inboxes by [`INBOX_BYTES_MAX`]: above it the background thread reads no further until messages were
//! taken out, and above [`INBOX_BYTES_CEILING`] nobody does, so that the broker's rules for slow
//! subscribers apply.

use crate::bulk::BulkIn;
use crate::error::{Error, Result};
use crate::inbox::{Inbox, Item};
use crate::job_run::ArrivingJobs;
use crate::message::Source;
use crate::outbound::SOCKET_TOKEN;
use crate::reactor::{KICK_TOKEN, RETRY_TOKEN, lock};
use crate::reconnect::Phase;
use crate::run::{self, Growing};
use crate::shared::Shared;
use crate::socket::{Moved, Passed, Socket};
use rustix::event::{Timespec, epoll};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tramline_wire::limits::{ALIASES_MAX, FRAME_BYTES_CEILING};
use tramline_wire::{Deliver, Framed, Job, ToClient, split_frame};

/// Bytes that may wait in all inboxes of a client before reading ahead stops.
const INBOX_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes above which nothing is read for anybody.
const INBOX_BYTES_CEILING: usize = 64 * 1024 * 1024;

/// What one read asks the kernel for.
const READ_BYTES: usize = 128 * 1024;

/// Reads in a row before the leader looks at what it waits for itself.
const READS_MAX: usize = 4;

/// Events taken from the reactor's epoll at a time.
const EVENTS_MAX: usize = 16;

/// How far a look goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// At the socket: one system call.
    Socket,
    /// At the space bells and timers, too.
    All,
}

/// Whom a message is for.
struct Receiver {
    inbox: Arc<Inbox>,
    source: Arc<Source>,
    /// It is the first of that publisher on this connection.
    first: bool,
}

pub(crate) struct Inbound {
    pub(crate) phase: Phase,
    pub(crate) socket: Option<Arc<Socket>>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    pub(crate) fds: VecDeque<Passed>,
    pub(crate) sources: Vec<Option<Arc<Source>>>,
    /// Which subscriptions have heard of which source, and up to which number they have an account of it.
    heard: HashMap<(u32, u32), u64>,
    /// Subscriptions as looked up before.
    known: HashMap<u32, Arc<Inbox>>,
    /// Items of one subscription on their way to its inbox.
    batch: Vec<Item>,
    batch_for: Option<Arc<Inbox>>,
    /// Small messages that follow each other where they were read.
    run: Option<Growing>,
    jobs: ArrivingJobs,
    pub(crate) bulk: BulkIn,
    pub(crate) backoff: Duration,
    pub(crate) was_open: bool,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Idle,
            socket: None,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            fds: VecDeque::new(),
            sources: Vec::new(),
            heard: HashMap::new(),
            known: HashMap::new(),
            batch: Vec::new(),
            batch_for: None,
            run: None,
            jobs: ArrivingJobs::default(),
            bulk: BulkIn::default(),
            backoff: Duration::ZERO,
            was_open: false,
        }
    }

    /// When the leader must look again although nothing arrived.
    pub(crate) fn timer(&self) -> Option<Instant> {
        self.phase.timer()
    }

    /// Forgets what belonged to a connection.
    pub(crate) fn reset(&mut self) {
        self.socket = None;
        (self.start, self.end) = (0, 0);
        self.fds.clear();
        self.sources.clear();
        self.heard.clear();
        self.batch.clear();
        self.batch_for = None;
        self.run = None;
        // Before anything of it is dropped: nobody is to be told.
        self.bulk = BulkIn::default();
        self.jobs = ArrivingJobs::default();
    }

    pub(crate) fn source(&self, alias: u32) -> Result<&Arc<Source>> {
        let source = self.sources.get(alias as usize).and_then(Option::as_ref);
        source.ok_or_else(|| Error::Protocol(format!("source {alias} was never defined").into()))
    }

    pub(crate) fn set_source(&mut self, alias: u32, source: Source) -> Result<()> {
        if alias >= ALIASES_MAX {
            return Err(Error::Protocol(format!("source alias {alias}, of {ALIASES_MAX}").into()));
        }
        let place = alias as usize;
        if self.sources.len() <= place {
            self.sources.resize(place + 1, None);
        }
        // A number that was used before is given another meaning: what was heard under it is not forgotten.
        self.source_gone(alias, false);
        self.sources[place] = Some(Arc::new(source));
        Ok(())
    }

    /// An alias means nothing any more: tells the subscriptions that heard of its publisher, and says who it was. With
    /// `left` the publisher has gone.
    pub(crate) fn source_gone(&mut self, alias: u32, left: bool) -> Option<Arc<Source>> {
        self.hand_out();
        let source = self.sources.get_mut(alias as usize).and_then(Option::take)?;
        for ((subscription, _), last) in self.heard.extract_if(|(_, heard), _| *heard == alias) {
            if let Some(inbox) = self.known.get(&subscription) {
                if left {
                    inbox.push(Item::Left(Arc::clone(&source)));
                }
                inbox.push(Item::Cut(vec![(Arc::clone(&source), last)]));
            }
        }
        Some(source)
    }

    /// The connection is lost: tells each subscription up to which numbers it has heard its publishers.
    pub(crate) fn cut(&mut self) {
        self.hand_out();
        let mut last: HashMap<u32, Vec<(Arc<Source>, u64)>> = HashMap::new();
        for ((subscription, alias), number) in self.heard.drain() {
            if let Some(source) = self.sources.get(alias as usize).and_then(Option::as_ref) {
                last.entry(subscription).or_default().push((Arc::clone(source), number));
            }
        }
        for (subscription, numbers) in last {
            if let Some(inbox) = self.known.get(&subscription) {
                inbox.push(Item::Cut(numbers));
            }
        }
    }

    /// The broker says that messages of a subscription were lost.
    pub(crate) fn told_gap(
        &mut self,
        shared: &Shared,
        sub: u32,
        lost: u64,
        source: Option<u32>,
    ) -> Result<()> {
        let Some(inbox) = self.find(shared, sub) else { return Ok(()) };
        if let Some(alias) = source {
            match self.heard.get_mut(&(sub, alias)) {
                Some(last) => *last = last.saturating_add(lost),
                None => {
                    let source = Arc::clone(self.source(alias)?);
                    self.add(&inbox, Item::GapOf(source, lost));
                }
            }
        }
        self.add(&inbox, Item::Gap(lost));
        Ok(())
    }

    /// Gives the batch to its subscription.
    pub(crate) fn hand_out(&mut self) {
        if let Some(inbox) = self.batch_for.take() {
            if inbox.is_gone() {
                self.forget(inbox.id);
            }
            inbox.extend(&mut self.batch);
        }
    }

    /// What a job goes to and comes from; behind it stands what came before for its consumer.
    fn job_source(&mut self, shared: &Shared, job: &Job<'_>, buffer: &[u8]) -> Result<Arc<Source>> {
        self.jobs.end_run(buffer, &shared.spare_buffers);
        if !self.jobs.are_for(job.consumer) {
            self.hand_out_jobs(shared);
            self.jobs.begin(lock(&shared.session).consumers.get(&job.consumer).cloned());
        }
        self.source(job.source).cloned()
    }

    /// Takes a plain job, whose frame is the last before `self.start` in the buffer.
    #[inline]
    fn take_plain_job(&mut self, shared: &Shared, job: &Job<'_>, buffer: &[u8], at: usize) -> Result<()> {
        let end = self.start;
        if !self.jobs.goes_on(job, at, end) {
            let source = self.job_source(shared, job, buffer)?;
            self.jobs.take_plain(job, &source, at, end);
        }
        Ok(())
    }

    /// Gives the jobs to their consumer.
    pub(crate) fn hand_out_jobs(&mut self, shared: &Shared) {
        if self.jobs.hand_out() {
            shared.reactor.changed();
        }
    }

    /// Adds an item for a subscription, behind all that came for it.
    pub(crate) fn add(&mut self, inbox: &Arc<Inbox>, item: Item) {
        if self.batch_for.as_ref().is_none_or(|current| current.id != inbox.id) {
            self.hand_out();
            self.batch_for = Some(Arc::clone(inbox));
        }
        self.batch.push(item);
    }

    /// Takes a message that follows no ring, whose frame is the last before `self.start` in the buffer.
    #[inline]
    fn deliver_plain(
        &mut self,
        shared: &Shared,
        deliver: &Deliver<'_>,
        buffer: &[u8],
        at: usize,
    ) -> Result<()> {
        let end = self.start;
        if self.run.as_mut().is_some_and(|run| run.take(deliver, end)) {
            return Ok(());
        }
        self.end_run(shared, buffer);
        if let Some(Receiver { inbox, source, first }) = self.receiver(shared, deliver)? {
            if first {
                self.add(&inbox, Item::First(Arc::clone(&source), deliver.message.seq));
            }
            self.run = Some(Growing::new(inbox, deliver, source, at, end));
        }
        Ok(())
    }

    fn deliver(&mut self, shared: &Shared, deliver: &Deliver<'_>) -> Result<()> {
        let Some(Receiver { inbox, source, first }) = self.receiver(shared, deliver)? else { return Ok(()) };
        if let Some(after) = deliver.message.after {
            self.add(&inbox, Item::After(after));
        }
        if first {
            self.add(&inbox, Item::First(Arc::clone(&source), deliver.message.seq));
        }
        self.add(&inbox, Item::Message(run::message(deliver, &source)));
        Ok(())
    }

    /// Whom a message is for, unless that was dropped, and from whom it is, which its receiver hears first.
    fn receiver(&mut self, shared: &Shared, deliver: &Deliver<'_>) -> Result<Option<Receiver>> {
        let Some(inbox) = self.find(shared, deliver.sub) else { return Ok(None) };
        let source = Arc::clone(self.source(deliver.source)?);
        let first = match self.heard.entry((deliver.sub, deliver.source)) {
            Entry::Occupied(mut last) => {
                *last.get_mut() = deliver.message.seq;
                false
            }
            Entry::Vacant(place) => {
                place.insert(deliver.message.seq);
                true
            }
        };
        if first {
            self.add(&inbox, Item::Appeared(Arc::clone(&source)));
        }
        Ok(Some(Receiver { inbox, source, first }))
    }

    /// Adds the messages that followed each other, before anything else is added.
    fn end_run(&mut self, shared: &Shared, buffer: &[u8]) {
        if let Some(run) = self.run.take() {
            if let Some(last) = self.heard.get_mut(&run.from()) {
                *last = run.last_seq();
            }
            let (inbox, item) = run.finish(buffer, &shared.spare_buffers);
            self.add(&inbox, item);
        }
    }

    /// A subscription of this client that was not dropped.
    pub(crate) fn find(&mut self, shared: &Shared, id: u32) -> Option<Arc<Inbox>> {
        if let Some(current) = self.batch_for.as_ref().filter(|current| current.id == id) {
            return Some(Arc::clone(current));
        }
        if let Some(inbox) = self.known.get(&id) {
            return Some(Arc::clone(inbox));
        }
        let inbox = lock(&shared.session).subscriptions.get(&id).cloned()?;
        self.known.insert(id, Arc::clone(&inbox));
        Some(inbox)
    }

    fn forget(&mut self, subscription: u32) {
        self.known.remove(&subscription);
        self.heard.retain(|(heard, _), _| *heard != subscription);
    }

    fn make_room(&mut self, needed: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > 4 * READ_BYTES && needed <= READ_BYTES {
                self.buffer.truncate(READ_BYTES);
                self.buffer.shrink_to_fit();
            }
        }
        let wanted = needed.max(READ_BYTES);
        if self.start > 0 && self.buffer.len() - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
    }
}

impl Shared {
    /// Looks at what has come and deals with it. Says whether there was anything. `for_user`: a user's thread
    /// waits for something, so reading goes on even if much waits in inboxes.
    pub(crate) fn drive(&self, inbound: &mut Inbound, look: Look, for_user: bool) -> Result<bool> {
        let mut progress = self.read(inbound, for_user);
        if look == Look::All {
            progress |= self.look_at_bells()?;
            progress |= self.on_timer(inbound);
        }
        Ok(progress)
    }

    fn read(&self, inbound: &mut Inbound, for_user: bool) -> bool {
        let Some(socket) = inbound.socket.clone() else { return false };
        let limit = if for_user { INBOX_BYTES_CEILING } else { INBOX_BYTES_MAX };
        let mut progress = false;
        if for_user
            && self.reading_paused.load(Ordering::Relaxed)
            && self.inbox_bytes.load(Ordering::Relaxed) <= limit
        {
            // It was paused for the background thread, whose limit is lower: a user's thread wants to be woken.
            self.start_reading();
        }
        for _ in 0..READS_MAX {
            if self.inbox_bytes.load(Ordering::Relaxed) > limit {
                self.pause_reading();
                break;
            }
            match self.read_once(inbound, &socket) {
                Ok(0) => break,
                Ok(bytes) => {
                    progress = true;
                    if bytes < READ_BYTES / 2 {
                        break;
                    }
                }
                Err(error) => {
                    inbound.hand_out();
                    self.lost(inbound, error);
                    return true;
                }
            }
        }
        progress
    }

    /// One read and what it brought. 0: nothing was there.
    fn read_once(&self, inbound: &mut Inbound, socket: &Socket) -> Result<usize> {
        let needed = match split_frame(&inbound.buffer[inbound.start..inbound.end], FRAME_BYTES_CEILING) {
            Ok(Framed::Incomplete { needed }) => needed,
            _ => 0,
        };
        inbound.make_room(needed);
        let space = &mut inbound.buffer[inbound.end..];
        match socket.recv(space, &mut inbound.fds).map_err(Error::io("reading the broker's socket"))? {
            Moved::WouldBlock | Moved::Crowded => Ok(0),
            Moved::End => Err(Error::Disconnected(Some("the broker closed it".into()))),
            Moved::Bytes(bytes) => {
                inbound.end += bytes;
                // Taken out so that frames may borrow from it while the rest of `inbound` changes.
                let buffer = std::mem::take(&mut inbound.buffer);
                let result = self.take_apart(inbound, &buffer);
                inbound.end_run(self, &buffer);
                inbound.jobs.end_run(&buffer, &self.spare_buffers);
                inbound.buffer = buffer;
                inbound.hand_out();
                inbound.hand_out_jobs(self);
                result?;
                Ok(bytes)
            }
        }
    }

    fn take_apart(&self, inbound: &mut Inbound, buffer: &[u8]) -> Result<()> {
        self.take_preamble(inbound, buffer)?;
        while !inbound.phase.awaits_preamble() && inbound.socket.is_some() {
            let broken = |error: tramline_wire::DecodeError| Error::Protocol(error.to_string().into());
            let waiting = &buffer[inbound.start..inbound.end];
            let Framed::Whole { body, consumed } =
                split_frame(waiting, FRAME_BYTES_CEILING).map_err(broken)?
            else {
                break;
            };
            let at = inbound.start;
            inbound.start += consumed;
            if let Some(deliver) = Deliver::decode_plain(body) {
                inbound.deliver_plain(self, &deliver, buffer, at)?;
                continue;
            }
            let bulk = inbound.bulk.is_next();
            if let Some(job) = Job::decode_plain(body).filter(|_| !bulk) {
                inbound.take_plain_job(self, &job, buffer, at)?;
                continue;
            }
            inbound.end_run(self, buffer);
            inbound.jobs.end_run(buffer, &self.spare_buffers);
            let frame = ToClient::decode(body).map_err(broken)?;
            match &frame {
                ToClient::Deliver(deliver) => inbound.deliver(self, deliver)?,
                ToClient::Job(job) => {
                    let source = inbound.job_source(self, job, buffer)?;
                    match inbound.bulk.take_next() {
                        Some(bulk) => inbound.jobs.take_bulk(job, &source, bulk),
                        None => inbound.jobs.take(job, &source),
                    }
                }
                other => self.dispatch(inbound, other)?,
            }
            if bulk && inbound.bulk.is_next() {
                return Err(Error::Protocol("a payload by ring, and then nothing that it belongs to".into()));
            }
        }
        Ok(())
    }

    fn take_preamble(&self, inbound: &mut Inbound, buffer: &[u8]) -> Result<()> {
        if !inbound.phase.awaits_preamble() {
            return Ok(());
        }
        let Some(answer) = buffer[inbound.start..inbound.end].first_chunk() else { return Ok(()) };
        inbound.start += answer.len();
        tramline_wire::preamble::accept(*answer).map_err(|error| {
            Error::refused(tramline_wire::Code::Version.number(), &error.to_string(), None)
        })?;
        inbound.phase.preamble_came();
        Ok(())
    }

    fn pause_reading(&self) {
        if !self.reading_paused.swap(true, Ordering::SeqCst) {
            lock(&self.outbound).set_reading(false);
        }
        // Taken out in the meantime: nobody else would notice.
        if self.inbox_bytes.load(Ordering::SeqCst) <= INBOX_BYTES_MAX / 2 {
            self.resume_reading();
        }
    }

    /// Called by whoever took messages out of an inbox.
    pub(crate) fn resume_reading(&self) {
        if self.reading_paused.load(Ordering::SeqCst)
            && self.inbox_bytes.load(Ordering::SeqCst) <= INBOX_BYTES_MAX / 2
        {
            self.start_reading();
        }
    }

    fn start_reading(&self) {
        if self.reading_paused.swap(false, Ordering::SeqCst) {
            lock(&self.outbound).set_reading(true);
        }
    }

    fn look_at_bells(&self) -> Result<bool> {
        let mut space = [std::mem::MaybeUninit::uninit(); EVENTS_MAX];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let events = match epoll::wait(&**self.reactor.epoll(), &mut space, Some(&now)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(Error::os("looking at the bells")(error)),
        };
        let mut progress = false;
        for event in events {
            match event.data.u64() {
                KICK_TOKEN => self.reactor.clear_kick(),
                SOCKET_TOKEN => {
                    let flags = event.flags;
                    if flags.contains(epoll::EventFlags::OUT) {
                        self.write_out(&mut lock(&self.outbound));
                    }
                }
                RETRY_TOKEN => self.write_out(&mut lock(&self.outbound)),
                token => {
                    self.bell_rang(token);
                    progress = true;
                }
            }
        }
        Ok(progress)
    }
}
