//! The shell of a conversation: carries out what the core asks for, at once or later, well or not.

use super::{Choices, Stage, WAITING_BYTES_MAX};
use tramline::core::durable::{StoreFailure, Written};
use tramline::core::snapshot::RingCounts;
use tramline::core::{Action, Bells, RetainedCopy, RingMessage, SessionId};
use tramline_wire::{Code, Geometry, PageDeclaration};

impl Stage {
    /// The shell reads a ring in somebody's place, and finds this or that.
    pub(super) fn proxy_step(&mut self, choices: &mut Choices<'_>) {
        let attaches: Vec<u64> = self.proxies.keys().copied().collect();
        if attaches.is_empty() {
            return;
        }
        let attach = choices.pick(&attaches);
        match choices.byte() % 8 {
            0 => {
                self.proxies.remove(&attach);
                self.core.proxy_ended(attach, choices.number().into(), self.now);
            }
            1 => {
                self.proxies.remove(&attach);
                self.core.proxy_cheated(attach, "an impossible length", self.now);
            }
            _ => {
                let lost = u64::from(choices.byte() % 3);
                let next = self.proxies.get_mut(&attach).expect("it was just picked");
                let seq = next.saturating_add(lost);
                *next = seq.saturating_add(1);
                let (head, payload) = (choices.bytes(), choices.bytes());
                let message = RingMessage {
                    seq,
                    lost,
                    flags: u16::from_le_bytes([choices.byte(), choices.byte()]),
                    time: choices.number().into(),
                    source_time: 0,
                    head,
                    payload,
                    payload_length: payload.len() as u64,
                    whole: None,
                };
                self.core.proxy_message(attach, message, self.now);
            }
        }
        self.act();
    }

    /// What a shell does.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.core.next_action() {
            match action {
                Action::VerifyRing { .. }
                | Action::MakePipes { .. }
                | Action::Retain { .. }
                | Action::ProxyOffer { .. }
                | Action::Store { .. }
                | Action::Load { .. }
                | Action::FetchBulk { .. }
                | Action::MakeBulk { .. }
                | Action::PlaceBulk { .. }
                | Action::Status { .. }
                    if self.busy =>
                {
                    self.work.push_back(action);
                }
                action => self.carry_out(action),
            }
        }
        for id in self.clients.keys() {
            let waiting = self.core.outbox(*id).map_or(0, |outbox| outbox.len());
            assert!(waiting <= WAITING_BYTES_MAX, "{waiting} bytes wait for session {id}");
        }
    }

    /// Does one of the things that wait.
    pub(super) fn work_on(&mut self, which: u8) {
        let place = usize::from(which) % self.work.len().max(1);
        if let Some(action) = self.work.remove(place) {
            self.carry_out(action);
        }
        self.act();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::CloseFd(fd) => {
                assert!(self.open.remove(&fd), "{fd:?} is closed twice");
                self.copies.remove(&fd);
            }
            Action::ProxyStored { .. } => {}
            Action::VerifyRing { stream, generation, geometry, .. } => {
                let result = if geometry.arena_bytes == 4096 {
                    Err("holes".to_owned())
                } else {
                    Ok(RingCounts::default())
                };
                self.core.ring_verified(stream, generation, result, self.now);
            }
            Action::Retain { stream, memory, generation, messages, .. } => {
                assert!(self.open.contains(&memory), "what is to be copied is closed");
                let result = match stream % 4 {
                    0 => Ok(None),
                    1 => Err("no memory".to_owned()),
                    _ => Ok(Some(self.copy(generation, messages))),
                };
                self.core.ring_retained(stream, result, self.now);
            }
            Action::CountRing { stream, topic, part } => {
                assert!(self.open.contains(&part.memory), "what is to be counted is closed");
                self.core.ring_counted(stream, &topic, &part, RingCounts::default());
            }
            Action::MakePipes { link } => {
                let bells = if link % 7 == 6 {
                    Err("no more files".to_owned())
                } else {
                    Ok(Bells {
                        doorbell_read: self.fd(),
                        doorbell_write: self.fd(),
                        space_read: self.fd(),
                        space_write: self.fd(),
                    })
                };
                self.core.pipes_made(link, bells, self.now);
            }
            Action::CloseSession(id) => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.closed = true;
                }
            }
            Action::Resume(id) => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.paused = false;
                }
                self.give_native(id);
            }
            Action::Status { session, request } => {
                let snapshot = self.core.snapshot(self.now);
                self.core.status_filled(session, request.as_deref(), &snapshot, self.now);
            }
            Action::Work(task) => self.core.worked([task.run(&|| std::time::Duration::ZERO)], self.now),
            Action::Store { batch, .. } => {
                let failure = |full| StoreFailure { full, message: "the store q: no".to_owned() };
                let result = match batch % 8 {
                    5 => Err(failure(true)),
                    7 => Err(failure(false)),
                    _ => Ok(Written::default()),
                };
                self.core.stored(batch, result, self.now);
            }
            Action::Load { load, .. } => self.core.loaded(load, Ok(Vec::new()), self.now),
            Action::ProxyOffer { attach, link, .. } if link % 5 == 4 => {
                self.core.proxy_refuse(attach, "no memory", self.now);
            }
            Action::ProxyOffer { attach, .. } => {
                let (page, slot) = (self.fd(), u32::try_from(attach % 1024).unwrap_or(0));
                let declaration = PageDeclaration { first_slot: slot, slots: 1 };
                self.core.proxy_accept(attach, slot, Some((declaration, page)), self.now);
            }
            Action::ProxyAttach { attach, memory, start_seq, bells, .. } => {
                assert!(self.open.contains(&memory), "closed memory is handed over");
                for bell in bells.into_iter().flat_map(|(doorbell, space)| [doorbell, space]) {
                    assert!(self.open.remove(&bell), "{bell:?} is handed over and not open");
                }
                self.proxies.insert(attach, start_seq);
                self.core.proxy_attached(attach, self.now);
            }
            Action::ProxySuccessor { attach, memory, generation, .. } => {
                assert!(self.open.contains(&memory), "closed memory is handed over");
                self.core.proxy_went_on(attach, generation, self.now);
            }
            Action::FetchBulk { session, offset, length, head, .. } => {
                let length = usize::try_from(length).expect("within the limit for payloads");
                let result = match offset / 64 % 8 {
                    5 => Err((Code::BadDescriptor, "holes".to_owned())),
                    6 => Err((Code::NoResources, "no memory".to_owned())),
                    _ => Ok([&head[..], &vec![b'y'; length]].concat().into()),
                };
                self.core.bulk_fetched(session, result, self.now);
            }
            Action::MakeBulk { session, ring, .. } => {
                let memory = if ring % 4 == 3 { Err("no memory".to_owned()) } else { Ok(self.fd()) };
                self.core.bulk_made(session, ring, memory, self.now);
            }
            Action::PlaceBulk { session, ring, offset, bytes, from } => {
                assert!(from < bytes.len(), "a payload is what is copied");
                let result = if offset == 64 * 7 { Err("its ring is gone".to_owned()) } else { Ok(()) };
                self.core.bulk_placed(session, ring, result, self.now);
            }
            Action::ForgetBulk { .. } | Action::DropBulk { .. } => {}
            Action::ProxyDetach { attach, drain: false } => {
                self.proxies.remove(&attach);
            }
            Action::ProxyDetach { drain: true, .. }
            | Action::ProxyResume { .. }
            | Action::ProxyLinkEnded { .. } => {}
        }
    }

    /// The last messages of a ring.
    fn copy(&mut self, generation: u32, messages: u32) -> RetainedCopy {
        let memory = self.fd();
        self.copies.insert(memory);
        let geometry = Geometry { descriptors: 64, arena_bytes: 8192 };
        RetainedCopy {
            memory,
            generation,
            geometry,
            bytes: 16_384,
            seqs: (1..=u64::from(messages)).collect(),
        }
    }

    fn give_native(&mut self, id: SessionId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.native && !client.closed {
            let taken = self.core.native_input(id, &client.unread, &mut client.fds, self.now);
            client.unread.drain(..taken.consumed);
            self.flowed(id, taken.flow);
        }
    }
}
