//! Reading rings on behalf of subscribers that have none: JSON clients, and native ones that ask for that.
//!
//! Each such subscription has its own attachment to each stream, as if the client itself read: its own
//! cursor, lag and loss. One task for each link sleeps on the doorbell and reads what the doorbell named, a bounded amount
//! at a time; it looks at no other. What the ring says is a claim; a false one ends the attachment. Payloads are copied
//! out before anybody looks at them, because their publisher could still change them. The core decides who attaches to
//! what.

mod found;

use super::broker::{Shell, State};
use super::bulk::{Bulks, Whole};
use super::clock;
use crate::core::{FdId, Flow, Found, RingMessage};
use found::{Kept, lengths, message};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;
use tramline_ring::{Body, Drained, Next, Reader, ReaderLink, RingIdentity, Start, Successor};
use tramline_wire::{Geometry, PageDeclaration};

/// Messages read from one attachment before others have their turn.
const TURN_MESSAGES_MAX: usize = 128;

/// The memory of an attachment, and where to begin.
pub(super) struct Ring {
    pub(super) memory: FdId,
    pub(super) generation: u32,
    pub(super) geometry: Geometry,
    pub(super) start: u64,
    pub(super) start_seq: u64,
    /// Up to where its messages are on disk, if the cursor follows that.
    pub(super) stored: Option<u64>,
}

/// All attachments that the broker reads.
#[derive(Default)]
pub(super) struct Proxies {
    links: HashMap<u64, Link, foldhash::fast::RandomState>,
    attachments: HashMap<u64, Attachment, foldhash::fast::RandomState>,
    /// Small payloads and copies of large ones.
    scratch: Vec<u8>,
    copy: Vec<u8>,
}

struct Link {
    ring: Arc<ReaderLink>,
    kick: Rc<Notify>,
    /// No new attachments will come.
    over: bool,
    /// Whether a task reads what wakes.
    watched: bool,
    by_slot: HashMap<u32, u64, foldhash::fast::RandomState>,
    /// Attachments that may have something, each once.
    ready: Vec<u64>,
}

struct Attachment {
    link: u64,
    stream: u64,
    slot: u32,
    reader: Option<Reader>,
    paused: bool,
    /// What was read and is not wanted before a pause is over.
    kept: Option<Kept>,
    /// Whether its last message is being copied on another thread.
    copying: bool,
    /// Whether it stands in its link's `ready`.
    ready: bool,
}

impl Shell {
    /// Takes an offer: finds a slot for the cursor.
    pub(super) fn proxy_offer(&self, attach: u64, link: u64, stream: u64) {
        let mut state = self.state.borrow_mut();
        let State { core, proxies, descriptors, .. } = &mut *state;
        let known = proxies.links.entry(link).or_insert_with(Link::new);
        match known.ring.allocate_slot() {
            Ok((slot, page)) => {
                known.by_slot.insert(slot, attach);
                let attachment = Attachment {
                    link,
                    stream,
                    slot,
                    reader: None,
                    paused: false,
                    kept: None,
                    copying: false,
                    ready: false,
                };
                proxies.attachments.insert(attach, attachment);
                let page = page.map(|page| {
                    let declaration = PageDeclaration { first_slot: page.first_slot, slots: page.slots };
                    (declaration, descriptors.insert(page.fd))
                });
                core.proxy_accept(attach, slot, page, clock::now());
            }
            Err(error) => core.proxy_refuse(attach, &format!("no reader page: {error}"), clock::now()),
        }
    }

    /// Begins to read.
    pub(super) fn proxy_attach(self: &Rc<Self>, attach: u64, ring: Ring, bells: Option<(FdId, FdId)>) {
        let mut state = self.state.borrow_mut();
        let bells = bells.map(|(doorbell, space)| (state.owned(doorbell), state.owned(space)));
        let now = clock::now();
        let Some(link) = state.proxies.attachments.get(&attach).map(|attachment| attachment.link) else {
            return;
        };
        match state.map(attach, &ring, bells) {
            Ok(()) => {
                let unwatched = state.proxies.links.get_mut(&link).filter(|link| !link.watched);
                if let Some(known) = unwatched {
                    known.watched = true;
                    let (ring, kick) = (Arc::clone(&known.ring), Rc::clone(&known.kick));
                    tokio::task::spawn_local(watch(Rc::clone(self), link, ring, kick));
                }
                state.proxies.wake(attach);
                state.core.proxy_attached(attach, now);
            }
            Err(reason) => {
                state.forget(attach);
                state.core.proxy_refuse(attach, &reason, now);
            }
        }
        state.proxies.kick(link);
    }

    /// Takes the memory of a later generation.
    pub(super) fn proxy_successor(&self, attach: u64, memory: FdId, generation: u32, geometry: Geometry) {
        let mut state = self.state.borrow_mut();
        let Some(link) = state.proxies.attachments.get(&attach).map(|attachment| attachment.link) else {
            return;
        };
        match state.offer_successor(attach, memory, generation, geometry) {
            Ok(()) => state.proxies.wake(attach),
            Err(reason) => {
                state.forget(attach);
                state.core.proxy_refuse(attach, &reason, clock::now());
            }
        }
        state.proxies.kick(link);
    }

    /// Ends an attachment, after reading what is left if that is wanted.
    pub(super) fn proxy_detach(&self, attach: u64, drain: bool) {
        let mut state = self.state.borrow_mut();
        let attachment = state.proxies.attachments.get_mut(&attach);
        if let Some(Attachment { reader: Some(reader), link, .. }) = attachment
            && drain
        {
            reader.writer_gone();
            // All generations that there are were handed over before.
            reader.no_successor();
            let link = *link;
            state.proxies.wake(attach);
            return state.proxies.kick(link);
        }
        state.forget(attach);
        state.core.proxy_ended(attach, 0, clock::now());
    }

    /// Reads on after a pause.
    pub(super) fn proxy_resume(&self, attach: u64) {
        let mut state = self.state.borrow_mut();
        if let Some(attachment) = state.proxies.attachments.get_mut(&attach) {
            attachment.paused = false;
            let link = attachment.link;
            state.proxies.wake(attach);
            state.proxies.kick(link);
        }
    }

    /// Lets the publisher reuse the room of what is on disk.
    pub(super) fn proxy_stored(&self, attach: u64, seq: u64) {
        let mut state = self.state.borrow_mut();
        let attachment = state.proxies.attachments.get_mut(&attach);
        if let Some(reader) = attachment.and_then(|attachment| attachment.reader.as_mut()) {
            reader.is_safe(seq);
        }
    }

    /// No new attachments will come on this link.
    pub(super) fn proxy_link_ended(&self, link: u64) {
        let mut state = self.state.borrow_mut();
        if let Some(link) = state.proxies.links.get_mut(&link) {
            link.over = true;
        }
        state.drop_idle_link(link);
    }

    /// Reads a bounded amount from each attachment of a link that may have something. Whether there may be more.
    fn proxy_turn(&self, link: u64) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(known) = state.proxies.links.get_mut(&link) else { return false };
        let attachments = std::mem::take(&mut known.ready);
        let bytes_max = self.settings.limits.frame_bytes_max as usize;
        let mut more = false;
        for attach in &attachments {
            let Some(attachment) = state.proxies.attachments.get_mut(attach) else { continue };
            attachment.ready = false;
            // One that is paused comes back when it is resumed, and one that is copied from when that is done.
            if !attachment.paused && !attachment.copying && state.read_ring(*attach, bytes_max, &self.bulks) {
                state.proxies.wake(*attach);
                more = true;
            }
        }
        drop(state);
        if !attachments.is_empty() {
            self.wait.busy();
            self.settle_soon();
        }
        more
    }
}

/// Sleeps on a link's doorbell and reads what woke, until the link is over.
async fn watch(shell: Rc<Shell>, link: u64, ring: Arc<ReaderLink>, kick: Rc<Notify>) {
    // A copy of what a gone publisher left has no bells: there is nobody to ring.
    if ring.doorbell().is_none() {
        return read_when_kicked(&shell, link, &kick).await;
    }
    let doorbell = match watched_doorbell(&ring) {
        Ok(doorbell) => doorbell,
        Err(error) => {
            tracing::warn!(link, "a doorbell cannot be watched: {error}");
            return shell.state.borrow_mut().writer_gone(link);
        }
    };
    let mut slots = Vec::new();
    let mut hung_up = false;
    loop {
        let rung = tokio::select! {
            biased;
            () = kick.notified() => false,
            ready = doorbell.readable(), if !hung_up => {
                if ready.is_err() {
                    return;
                }
                slots.clear();
                let drained = ring.drain(&mut slots);
                let _ = doorbell.try_io(|| Err::<(), _>(std::io::ErrorKind::WouldBlock.into()));
                hung_up = drained == Drained::HungUp;
                let mut state = shell.state.borrow_mut();
                match drained {
                    Drained::Some => state.proxies.rung(link, &slots),
                    Drained::All => state.proxies.all_rung(link),
                    Drained::HungUp => state.writer_gone(link),
                }
                true
            }
        };
        while shell.proxy_turn(link) {
            super::session::step_aside().await;
        }
        if !rung && !shell.state.borrow().proxies.links.contains_key(&link) {
            return;
        }
    }
}

/// Reads whenever the core has something done, until the link is over.
async fn read_when_kicked(shell: &Rc<Shell>, link: u64, kick: &Notify) {
    loop {
        kick.notified().await;
        while shell.proxy_turn(link) {
            super::session::step_aside().await;
        }
        if !shell.state.borrow().proxies.links.contains_key(&link) {
            return;
        }
    }
}

/// The doorbell for the runtime to watch. The link reads from it.
fn watched_doorbell(ring: &ReaderLink) -> Result<Receiver, std::io::Error> {
    let doorbell = ring.doorbell().ok_or(std::io::ErrorKind::NotConnected)?;
    Receiver::from_owned_fd(doorbell.try_clone_to_owned()?)
}

impl Link {
    fn new() -> Self {
        Self {
            ring: Arc::new(ReaderLink::new()),
            kick: Rc::new(Notify::new()),
            over: false,
            watched: false,
            by_slot: HashMap::default(),
            ready: Vec::new(),
        }
    }
}

impl Proxies {
    fn kick(&self, link: u64) {
        if let Some(link) = self.links.get(&link) {
            link.kick.notify_one();
        }
    }

    /// There may be something to read in this attachment.
    fn wake(&mut self, attach: u64) {
        let Some(Attachment { link, reader: Some(reader), ready, .. }) = self.attachments.get_mut(&attach)
        else {
            return;
        };
        reader.disarm();
        if let Some(link) = self.links.get_mut(link)
            && !std::mem::replace(ready, true)
        {
            link.ready.push(attach);
        }
    }

    /// The doorbell of a link named these slots.
    fn rung(&mut self, link: u64, slots: &[u32]) {
        for slot in slots {
            let attach = self.links.get(&link).and_then(|link| link.by_slot.get(slot));
            if let Some(attach) = attach.copied() {
                self.wake(attach);
            }
        }
    }

    /// The doorbell of a link named very many.
    fn all_rung(&mut self, link: u64) {
        let all = self.links.get(&link).map(|link| link.by_slot.values().copied().collect::<Vec<_>>());
        all.into_iter().flatten().for_each(|attach| self.wake(attach));
    }
}

impl State {
    /// A descriptor of this process's own, whose number the core has given up.
    fn owned(&mut self, id: FdId) -> Option<OwnedFd> {
        let shared = self.descriptors.take(id)?;
        Arc::try_unwrap(shared).or_else(|shared| shared.try_clone()).ok()
    }

    /// Maps a ring for an attachment.
    fn map(
        &mut self,
        attach: u64,
        ring: &Ring,
        bells: Option<(Option<OwnedFd>, Option<OwnedFd>)>,
    ) -> Result<(), String> {
        let Self { proxies, descriptors, .. } = self;
        let attachment = proxies.attachments.get_mut(&attach).ok_or("it was given up meanwhile")?;
        let link = proxies.links.get(&attachment.link).ok_or("its link was given up meanwhile")?;
        if let Some(bells) = bells {
            let (Some(doorbell), Some(space)) = bells else { return Err("its bells are missing".to_owned()) };
            link.ring.set_bells(doorbell, space).map_err(|error| error.to_string())?;
        }
        let memory = descriptors.get(ring.memory).ok_or("its memory is gone")?;
        let memory = memory.try_clone().map_err(|error| error.to_string())?;
        let Geometry { descriptors, arena_bytes } = ring.geometry;
        let identity =
            RingIdentity { stream: attachment.stream, generation: ring.generation, descriptors, arena_bytes };
        let start = Start { position: ring.start, seq: ring.start_seq };
        let mut reader = Reader::attach(memory, &identity, &link.ring, attachment.slot, start, true)
            .map_err(|error| error.to_string())?;
        if let Some(seq) = ring.stored {
            reader.hold_back(seq);
        }
        attachment.reader = Some(reader);
        Ok(())
    }

    fn offer_successor(
        &mut self,
        attach: u64,
        memory: FdId,
        generation: u32,
        geometry: Geometry,
    ) -> Result<(), String> {
        let Self { proxies, descriptors, .. } = self;
        let attachment = proxies.attachments.get_mut(&attach).ok_or("it was given up meanwhile")?;
        let reader = attachment.reader.as_mut().ok_or("it has no earlier generation")?;
        let memory = descriptors.get(memory).ok_or("its memory is gone")?;
        let memory = memory.try_clone().map_err(|error| error.to_string())?;
        let Geometry { descriptors, arena_bytes } = geometry;
        let identity = RingIdentity { stream: attachment.stream, generation, descriptors, arena_bytes };
        let next = Successor::open(memory, &identity).map_err(|error| error.to_string())?;
        reader.offer(next).map_err(|error| error.to_string())
    }

    /// Drops an attachment of which the core wants nothing more, whatever is left in the ring.
    fn give_up(&mut self, attach: u64) {
        self.forget(attach);
        self.core.proxy_ended(attach, 0, clock::now());
    }

    /// Drops an attachment; its slot is free again.
    fn forget(&mut self, attach: u64) {
        let Some(attachment) = self.proxies.attachments.remove(&attach) else { return };
        if let Some(link) = self.proxies.links.get_mut(&attachment.link) {
            link.by_slot.remove(&attachment.slot);
            if attachment.reader.is_none() {
                link.ring.free_slot(attachment.slot);
            }
        }
        self.drop_idle_link(attachment.link);
    }

    /// Drops a link that is over, once nothing is read on it any more.
    fn drop_idle_link(&mut self, link: u64) {
        let proxies = &mut self.proxies;
        if proxies.links.get(&link).is_some_and(|link| link.over && link.by_slot.is_empty())
            && let Some(link) = proxies.links.remove(&link)
        {
            link.kick.notify_one();
        }
    }

    /// The publisher's process has gone: its streams end when they are read.
    fn writer_gone(&mut self, link: u64) {
        let Proxies { links, attachments, .. } = &mut self.proxies;
        let Some(known) = links.get_mut(&link) else { return };
        known.over = true;
        for attach in known.by_slot.values() {
            if let Some(Attachment { reader: Some(reader), .. }) = attachments.get_mut(attach) {
                reader.writer_gone();
            }
        }
        self.proxies.all_rung(link);
        self.drop_idle_link(link);
    }

    /// A message of a ring was copied whole.
    pub(super) fn proxy_copied(&mut self, attach: u64, message: Whole) {
        // It may have been given up meanwhile.
        let Some(attachment) = self.proxies.attachments.get_mut(&attach) else { return };
        attachment.copying = false;
        let link = attachment.link;
        if self.give_whole(attach, message) {
            self.proxies.wake(attach);
            self.proxies.kick(link);
        }
    }

    /// Gives the core a message that was copied whole, if there is room for it. Whether to read on.
    fn give_whole(&mut self, attach: u64, message: Whole) -> bool {
        let Self { core, proxies, .. } = self;
        let Some(attachment) = proxies.attachments.get_mut(&attach) else { return false };
        let Whole { seq, lost, meta, payload_length, ref head, ref bytes } = message;
        let payload_length = payload_length as u64;
        if core.proxy_found(attach, head.len(), payload_length, true) != Found::Give {
            attachment.kept = Some(Kept::Whole(message));
            attachment.paused = true;
            return false;
        }
        let read = RingMessage {
            seq,
            lost,
            flags: meta.flags,
            time: meta.time,
            source_time: meta.source_time,
            head,
            payload: &[],
            payload_length,
            whole: Some(bytes),
        };
        match core.proxy_message(attach, read, clock::now()) {
            Flow::Continue => true,
            Flow::Pause => {
                attachment.paused = true;
                false
            }
            Flow::Close => {
                self.give_up(attach);
                false
            }
        }
    }

    /// Reads a bounded amount from one attachment. Whether there may be more.
    fn read_ring(&mut self, attach: u64, bytes_max: usize, bulks: &Bulks) -> bool {
        let now = clock::now();
        let mut bytes = 0;
        for _ in 0..TURN_MESSAGES_MAX {
            let Self { core, proxies, .. } = self;
            let Proxies { attachments, scratch, copy, .. } = proxies;
            let Some(attachment) = attachments.get_mut(&attach) else { return false };
            let Some(reader) = &mut attachment.reader else { return false };
            let before = reader.generation();
            let (next, kept) = match attachment.kept.take() {
                Some(Kept::Found(received, copied)) => (Ok(Next::Message(received)), Some(copied)),
                Some(Kept::Whole(message)) => {
                    if self.give_whole(attach, message) {
                        continue;
                    }
                    return false;
                }
                None => (reader.try_next(scratch), None),
            };
            if reader.generation() != before {
                core.proxy_went_on(attach, reader.generation(), now);
            }
            match next {
                Ok(Next::Message(received)) => {
                    let (head_bytes, payload_bytes) = lengths(&received);
                    match core.proxy_found(attach, head_bytes, payload_bytes as u64, false) {
                        Found::Give => {}
                        wait @ (Found::Wait | Found::Keep) => {
                            let copied = kept.unwrap_or_else(|| std::mem::take(scratch));
                            let keep = if wait == Found::Keep { Kept::taken_out } else { Kept::Found };
                            attachment.kept = Some(keep(received, copied));
                            attachment.paused = true;
                            return false;
                        }
                        Found::Copy if matches!(received.body, Body::Pinned(_)) => {
                            attachment.copying = true;
                            bulks.take(attach, received);
                            return false;
                        }
                        // It was copied because too many others are pinned; none is.
                        Found::Copy => tracing::error!("a message of {payload_bytes} bytes is not in place"),
                    }
                    let message = message(&received, kept.as_deref().unwrap_or(scratch), copy, bytes_max);
                    bytes += message.payload.len() + message.head.len();
                    match core.proxy_message(attach, message, now) {
                        Flow::Continue => {}
                        Flow::Pause => {
                            attachment.paused = true;
                            return false;
                        }
                        Flow::Close => {
                            self.give_up(attach);
                            return false;
                        }
                    }
                }
                Ok(Next::Empty | Next::Successor(_)) => {
                    if !reader.arm() {
                        return false;
                    }
                }
                Ok(Next::Ended { lost }) => {
                    self.forget(attach);
                    self.core.proxy_ended(attach, lost, now);
                    return false;
                }
                Err(error) => {
                    self.forget(attach);
                    self.core.proxy_cheated(attach, &error.to_string(), now);
                    return false;
                }
            }
            if bytes >= super::session::TURN_BYTES_MAX {
                return true;
            }
        }
        true
    }
}
