//! How streams and subscriptions are brought together: this client's part, on both sides.
//!
//! As a subscriber: an offer is taken with a slot of a reader page; when the memory comes it is checked,
//! mapped, and put into the inbox behind everything that came before it. As a publisher: a reader is
//! admitted to a stream's writer, and dismissed when it leaves or its link hangs up, which is how the
//! death of a process is noticed while the broker is down. Only the leader is here, and it never waits.

use crate::error::{Error, Result, ring_code};
use crate::inbound::Inbound;
use crate::inbox::{Inbox, Item, NewStream};
use crate::message::Source;
use crate::reactor::lock;
use crate::session::{Admission, Reading, ReadingLink, Session};
use crate::shared::Shared;
use crate::socket::Passed;
use rustix::event::epoll;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::vec;
use tramline_ring::{
    NewPage, ReadMode, Reader, ReaderLink, RingError, RingIdentity, Start, Successor, WriterLink,
};
use tramline_wire::{Accept, Admit, Attach, Code, Mode, Offer, PageDeclaration, ToBroker};

fn read_mode(mode: Mode) -> ReadMode {
    match mode {
        Mode::Gated => ReadMode::Gated,
        Mode::Lossy => ReadMode::Lossy,
    }
}

impl Inbound {
    /// The descriptors that a frame declares; `None` if this process had no room for all of them.
    pub(crate) fn take_fds(&mut self, declared: u8) -> Result<Option<vec::IntoIter<OwnedFd>>> {
        let mut fds = Vec::new();
        while fds.len() < declared.into() {
            match self.fds.pop_front() {
                Some(Passed::Fd(fd)) => fds.push(fd),
                Some(Passed::Lost) => return Ok(None),
                None => {
                    let came = fds.len();
                    let message = format!("a frame with {came} file descriptors, which declares {declared}");
                    return Err(Error::Protocol(message.into()));
                }
            }
        }
        Ok(Some(fds.into_iter()))
    }
}

/// An attachment whose memory has come.
struct Coming {
    inbox: Arc<Inbox>,
    token: u64,
    stream: u64,
    slot: u32,
    in_place: bool,
    source: Arc<Source>,
    mode: Mode,
    retained: bool,
    link: Arc<ReaderLink>,
    link_token: u64,
}

impl Coming {
    /// Takes the bells of its link into use.
    fn watch(&self, (doorbell, space): (OwnedFd, OwnedFd)) -> Result<(), RingError> {
        self.link.set_bells(doorbell, space)?;
        step!("attach: bells set");
        let Some(doorbell) = self.link.doorbell() else { return Ok(()) };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&self.inbox.epoll, doorbell, epoll::EventData::new_u64(self.link_token), flags)
            .map_err(|errno| RingError::Os { what: "watching a doorbell", error: errno.into() })
    }
}

impl Session {
    /// Notes that the memory of an attachment has come. `None`: this side has ended it.
    fn attach(&mut self, attach: &Attach) -> Option<Coming> {
        let reading = self.readings.get_mut(&attach.attach)?;
        let known = self.reading_links.get(&reading.link)?;
        reading.attached = true;
        reading.generation = attach.generation;
        Some(Coming {
            inbox: Arc::clone(&reading.inbox),
            token: reading.token,
            stream: reading.stream,
            slot: reading.slot,
            in_place: reading.in_place,
            source: Arc::clone(&reading.source),
            mode: reading.mode,
            retained: reading.retained,
            link: Arc::clone(&known.link),
            link_token: known.token,
        })
    }
}

impl Shared {
    pub(crate) fn answer(&self, frame: &ToBroker<'_>) {
        let mut outbound = lock(&self.outbound);
        // A later connection knows nothing of what an earlier one asked.
        if outbound.open {
            outbound.push(frame);
            self.write_out(&mut outbound);
        }
    }

    pub(crate) fn refuse(&self, attach: u64, code: Code) {
        self.answer(&ToBroker::Detach { attach, code: code.number() });
    }

    /// A stream for one of this client's subscriptions.
    pub(crate) fn offered(&self, inbound: &mut Inbound, offer: &Offer) -> Result<()> {
        let source = Arc::clone(inbound.source(offer.source)?);
        let mut session = lock(&self.session);
        let Some(inbox) = session.subscriptions.get(&offer.sub).cloned() else {
            drop(session);
            self.answer(&ToBroker::Detach { attach: offer.attach, code: 0 });
            return Ok(());
        };
        if !session.reading_links.contains_key(&offer.link) {
            let token = session.token();
            let link = Arc::new(ReaderLink::new());
            let (subscription, publisher) = (offer.sub, source.session);
            let reading_link = ReadingLink { link, token, subscription, publisher, over: false };
            session.reading_links.insert(offer.link, reading_link);
        }
        let link = Arc::clone(&session.reading_links[&offer.link].link);
        let (slot, page) = match link.allocate_slot() {
            Ok(allocated) => allocated,
            Err(error) => {
                drop(session);
                self.refuse(offer.attach, ring_code(&error));
                inbound.add(&inbox, Item::Fault(Box::new(error.into())));
                return Ok(());
            }
        };
        step!("attach: slot taken");
        let in_place = inbox.wish.in_place.unwrap_or(offer.in_place);
        let trusted = offer.in_place && inbox.wish.in_place.is_none();
        let reading = Reading {
            token: session.token(),
            inbox,
            source,
            stream: offer.stream,
            link: offer.link,
            slot,
            in_place,
            trusted,
            generation: 0,
            mode: offer.mode,
            retained: offer.retained,
            attached: false,
        };
        session.readings.insert(offer.attach, reading);
        let mut outbound = lock(&self.outbound);
        match page {
            None => {
                outbound.push(&ToBroker::Accept(Accept { attach: offer.attach, slot, page: None, fds: 0 }))
            }
            Some(NewPage { fd, first_slot, slots }) => {
                let page = Some(PageDeclaration { first_slot, slots });
                let accept = Accept { attach: offer.attach, slot, page, fds: 1 };
                outbound.push_with(&ToBroker::Accept(accept), vec![fd]);
            }
        }
        self.write_out(&mut outbound);
        step!("attach: accepted");
        Ok(())
    }

    /// The memory of a stream that admitted one of this client's subscriptions.
    pub(crate) fn attached(&self, inbound: &mut Inbound, attach: &Attach) -> Result<()> {
        let Some(mut fds) = inbound.take_fds(1 + 2 * u8::from(attach.bells))? else {
            self.cannot_take(inbound, attach.attach);
            return Ok(());
        };
        let (memory, doorbell, space) = (fds.next(), fds.next(), fds.next());
        let Some(memory) = memory else { return Ok(()) };
        let bells = doorbell.zip(space);
        step!("attach: memory came");
        let Some(coming) = lock(&self.session).attach(attach) else {
            self.answer(&ToBroker::Detach { attach: attach.attach, code: 0 });
            return Ok(());
        };
        if bells.is_none() && coming.link.doorbell().is_none() && !coming.retained {
            // They came with an attachment that could not be taken. (What a publisher left behind rings no bell.)
            self.cannot_take(inbound, attach.attach);
            return Ok(());
        }
        match bells
            .map_or(Ok(()), |bells| coming.watch(bells))
            .and_then(|()| self.map(attach, &coming, memory))
        {
            Ok((reader, carry)) => {
                self.begin_reading(inbound, attach.attach, coming, reader, carry);
                self.answer(&ToBroker::Attached { attach: attach.attach });
                step!("attach: confirmed");
            }
            Err(error) => {
                lock(&self.session).readings.remove(&attach.attach);
                self.refuse(attach.attach, ring_code(&error));
                inbound.add(&coming.inbox, Item::Fault(Box::new(error.into())));
            }
        }
        Ok(())
    }

    /// Checks and maps the memory of an attachment; once more for a reader of an earlier connection that may wait for just
    /// this generation.
    fn map(
        &self,
        attach: &Attach,
        coming: &Coming,
        memory: OwnedFd,
    ) -> Result<(Reader, Option<Successor>), RingError> {
        let identity = RingIdentity {
            stream: coming.stream,
            generation: attach.generation,
            descriptors: attach.geometry.descriptors,
            arena_bytes: attach.geometry.arena_bytes,
        };
        let again = attach.generation > 0 && lock(&self.outbound).epoch() > 1;
        let copy = again.then(|| memory.try_clone()).transpose();
        let copy = copy.map_err(|error| RingError::Os { what: "duplicating a ring's descriptor", error })?;
        let carry = copy.map(|copy| Successor::open(copy, &identity)).transpose()?;
        let start = Start { position: attach.start, seq: attach.start_seq };
        let reader = Reader::attach(memory, &identity, &coming.link, coming.slot, start, coming.in_place)?;
        Ok((reader, carry))
    }

    /// Hands a reader to its subscription, behind everything that came before it.
    fn begin_reading(
        &self,
        inbound: &mut Inbound,
        attach: u64,
        coming: Coming,
        mut reader: Reader,
        carry: Option<Successor>,
    ) {
        let Coming { inbox, token, stream, source, mode, retained, link, link_token, .. } = coming;
        inbox.live_readers.fetch_add(1, Ordering::AcqRel);
        let (weak, reader_of) = (self.weak.clone(), Arc::clone(&inbox));
        reader.on_release(Box::new(move || {
            if let Some(shared) = weak.upgrade() {
                shared.released(attach, token, &reader_of);
            }
        }));
        reader.on_let_go(self.on_let_go(attach, token));
        let first_seq = reader.last_seq() + 1;
        let stream = NewStream {
            attach,
            token,
            stream,
            first_seq,
            reader,
            carry,
            source,
            mode,
            retained,
            link,
            link_token,
        };
        inbound.add(&inbox, Item::Stream(Box::new(stream)));
    }

    /// This process had no room for what came with an attachment: it is refused, its user is told, and everything else
    /// goes on.
    pub(crate) fn cannot_take(&self, inbound: &mut Inbound, attach: u64) {
        let reading = lock(&self.session).readings.remove(&attach);
        self.refuse(attach, Code::NoResources);
        if let Some(reading) = reading {
            let message = format!(
                "a stream on {} could not be attached: this process may open no more files (RLIMIT_NOFILE, `ulimit -n`)",
                reading.source.topic
            );
            let error = Error::refused(Code::NoResources.number(), &message, None);
            inbound.add(&reading.inbox, Item::Detached { token: reading.token, gone: false });
            inbound.add(&reading.inbox, Item::Fault(Box::new(error)));
        }
    }

    /// This side ends an attachment, unless the broker did, or it belonged to an earlier connection.
    pub(crate) fn leave(&self, attach: u64, token: u64, code: u16) {
        let mut session = lock(&self.session);
        let current = session.readings.get(&attach).is_some_and(|reading| reading.token == token);
        let left = if current { session.readings.remove(&attach) } else { None };
        session.end_links(|_, _| false);
        drop(session);
        step!("detach: left");
        if left.is_some() {
            self.answer(&ToBroker::Detach { attach, code });
            step!("detach: told");
        }
    }

    /// A reader and the last message it held in place are gone: its publisher may forget it.
    fn released(&self, attach: u64, token: u64, inbox: &Inbox) {
        self.leave(attach, token, 0);
        if inbox.live_readers.fetch_sub(1, Ordering::AcqRel) == 1 && inbox.is_gone() {
            self.unsubscribe(inbox);
        }
    }

    /// Ends a subscription that was dropped, unless messages of it are still held in place: then the last of
    /// them does it.
    pub(crate) fn unsubscribe(&self, inbox: &Inbox) {
        if inbox.live_readers.load(Ordering::Acquire) > 0 || inbox.unsubscribed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut session = lock(&self.session);
        session.readings.retain(|_, reading| reading.inbox.id != inbox.id);
        session.reading_links.retain(|_, link| link.subscription != inbox.id);
        let req = session.request_number();
        let mut outbound = lock(&self.outbound);
        if outbound.open {
            outbound.push(&ToBroker::Unsubscribe { req, sub: inbox.id });
            self.write_out(&mut outbound);
            step!("detach: unsubscribed");
        }
    }

    /// A reader for one of this client's streams.
    pub(crate) fn asked_to_admit(&self, inbound: &mut Inbound, admit: &Admit<'_>) -> Result<()> {
        let declared = u8::from(admit.page.is_some()) + 2 * u8::from(admit.bells);
        let Some(mut fds) = inbound.take_fds(declared)? else {
            self.refuse(admit.attach, Code::NoResources);
            return Ok(());
        };
        let page = admit.page.and_then(|declared| Some((fds.next()?, declared)));
        let bells = fds.next().zip(fds.next());
        step!("admit: asked");
        match self.admit(admit, page, bells) {
            Ok(start) => {
                let (Start { position, seq }, generation) = start;
                let attach = admit.attach;
                step!("admit: admitted");
                self.answer(&ToBroker::Admitted { attach, start: position, start_seq: seq, generation });
                step!("admit: answered");
                self.reactor.changed();
            }
            Err(code) => self.refuse(admit.attach, code),
        }
        Ok(())
    }

    fn admit(
        &self,
        admit: &Admit<'_>,
        page: Option<(OwnedFd, PageDeclaration)>,
        bells: Option<(OwnedFd, OwnedFd)>,
    ) -> Result<(Start, u32), Code> {
        let mut session = lock(&self.session);
        if let Some((doorbell, space)) = bells {
            let link = Arc::new(WriterLink::new(doorbell, space).map_err(|error| ring_code(&error))?);
            let token = session.token();
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&**self.reactor.epoll(), link.space(), epoll::EventData::new_u64(token), flags)
                .map_err(|_| Code::NoResources)?;
            session.bells.insert(token, Arc::clone(&link));
            session.writing_links.insert(admit.link, (token, link));
        }
        let (link_token, link) = session.writing_links.get(&admit.link).cloned().ok_or(Code::PeerGone)?;
        let stream = session.streams.get(&admit.stream).cloned();
        let reader = session.token();
        drop(session);
        if let Some((page, declared)) = page {
            link.add_page(page, declared.first_slot, declared.slots).map_err(|error| ring_code(&error))?;
            step!("admit: page mapped");
        }
        let stream = stream.ok_or(Code::PeerGone)?;
        let start = stream
            .admit(reader, admit.name, &link, admit.slot, read_mode(admit.mode), admit.history)
            .map_err(|error| ring_code(&error))?;
        let keep = Duration::from_millis(admit.keep_millis.into());
        let mut session = lock(&self.session);
        let connection = lock(&self.outbound).epoch();
        let admission = Admission { stream, reader, slot: admit.slot, link_token, keep, connection };
        session.admissions.insert(admit.attach, admission);
        Ok(start)
    }

    /// An attachment has ended, on either side of it or, within one process, on both.
    pub(crate) fn detached(&self, inbound: &mut Inbound, attach: u64, code: u16) {
        let mut session = lock(&self.session);
        step!("dismiss: asked");
        let admission = session.admissions.remove(&attach);
        let reading = session.readings.remove(&attach);
        if let Some(reading) = &reading {
            let gone = code == Code::PeerGone.number() || code == Code::ProcessEnded.number();
            session.end_links(|number, _| gone && number == reading.link);
        }
        if let Some(admission) = admission {
            let stream = Arc::clone(&admission.stream);
            let parted = [Code::PeerGone, Code::Denied, Code::LimitReached].map(Code::number);
            if parted.contains(&code) {
                // Its session is gone, or it may not go on; its process may be there: messages that it holds in place must
                // stay as they are until the link says by its hang-up that nobody holds any.
                admission.stream.part_with(admission.reader);
                session.old_admissions.push(admission);
            } else {
                admission.stream.dismiss(admission.reader);
                if code == Code::ProcessEnded.number() {
                    self.drop_link(&mut session, admission.link_token);
                }
            }
            self.reactor.changed();
            drop(session);
            self.tell_left(&stream);
        } else {
            drop(session);
        }
        if let Some(reading) = reading {
            let inbox = reading.inbox;
            let gone = code == Code::PeerGone.number();
            inbound.add(&inbox, Item::Detached { token: reading.token, gone });
            if code == Code::HeldTooMuch.number() {
                let message = format!(
                    "this subscription held more messages of '{}' in place than limits.held_bytes_max allows while \
                     their publisher had no room, and reads it no longer",
                    reading.source.topic
                );
                let error = Error::Refused { code: Code::HeldTooMuch, message, limit: None };
                inbound.add(&inbox, Item::Fault(Box::new(error)));
            }
        }
    }

    /// Lets go of a link whose reader's process has ended, once nothing is read on it: a child may hold its ends of the
    /// bells for as long as it likes.
    fn drop_link(&self, session: &mut Session, token: u64) {
        let used = |admission: &Admission| admission.link_token == token;
        if session.admissions.values().any(used) || session.old_admissions.iter().any(used) {
            return;
        }
        session.writing_links.retain(|_, (known, _)| *known != token);
        if let Some(link) = session.bells.remove(&token) {
            // It is registered until now, so it cannot fail.
            let _ = epoll::delete(&**self.reactor.epoll(), link.space());
        }
    }

    /// A space bell: room has come, or its readers have gone.
    pub(crate) fn bell_rang(&self, token: u64) {
        let link = lock(&self.session).bells.get(&token).cloned();
        let Some(link) = link else { return };
        if !link.drain_space() {
            self.hung_up(token, &link);
        }
        self.reactor.changed();
    }

    fn hung_up(&self, token: u64, link: &WriterLink) {
        let mut session = lock(&self.session);
        session.bells.remove(&token);
        session.writing_links.retain(|_, (known, _)| *known != token);
        let mut gone: Vec<Admission> = session
            .admissions
            .extract_if(|_, admission| admission.link_token == token)
            .map(|(_, it)| it)
            .collect();
        // Those that were parted with are waited for no more.
        let parted = session.old_admissions.extract_if(.., |admission| admission.link_token == token);
        gone.extend(parted.map(|admission| Admission { keep: Duration::ZERO, ..admission }));
        drop(session);
        // It is registered until now, so it cannot fail; and a closed pipe would be reported for ever.
        let _ = epoll::delete(&**self.reactor.epoll(), link.space());
        self.readers_gone(gone);
    }
}
