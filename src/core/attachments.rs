//! Attachments: one stream brought to one subscription, step by step.
//!
//! ```text
//! Offered ─Accept─► Piping ─pipes─► Admission ─► Admitting ─Admitted─► Handover ─► Attaching ─Attached─► Attached
//!                    (first of a link only)  └ queued: few descriptors are in flight per session ┘
//! ```
//!
//! Later generations are handed over one by one once the first has been (`generations`).
//!
//! Either side may leave at any step. When the stream ends, those not yet admitted are dropped, those admitted
//! still get the memory and read it to its end. Ids are never used twice in one run, so a frame about an
//! attachment that has ended in the meantime is recognised as late, and ignored.

use super::broker::Core;
use super::generations::Share;
use super::native::Violation;
use super::retained::Memory;
use super::session::Identity;
use super::table::Key;
use super::{Action, FdId, Now};
use std::sync::Arc;
use tramline_wire::{Accept, Admit, Attach, Code, Mode, Offer, PageDeclaration, ToClient};

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The subscriber was asked.
    Offered,
    /// Waits for its link's pipes.
    Piping,
    /// `Admit` is to be sent.
    Admission,
    /// The publisher was asked.
    Admitting,
    /// `Attach` is to be sent.
    Handover,
    /// The subscriber maps the memory.
    Attaching,
    /// The subscriber reads.
    Attached,
    /// The stream has ended and the broker reads the rest on the subscriber's behalf.
    Draining,
}

impl Stage {
    /// Whether messages may come, or be on their way, through the ring.
    pub(super) fn is_reading(self) -> bool {
        matches!(self, Self::Handover | Self::Attaching | Self::Attached | Self::Draining)
    }

    /// Whether the publisher knows of it.
    fn is_known_to_publisher(self) -> bool {
        !matches!(self, Self::Offered | Self::Piping | Self::Admission)
    }

    /// The stage as people read it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Piping | Self::Admission | Self::Admitting => "admitting",
            Self::Handover | Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Draining => "draining",
        }
    }
}

/// One attachment.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) stream: u64,
    pub(super) topic: Key,
    pub(super) subscription: Key,
    pub(super) publisher: Key,
    pub(super) subscriber: Key,
    pub(super) link: u64,
    pub(super) slot: Option<u32>,
    /// As it was granted, and as it is: a publisher waits for nobody for ever.
    pub(super) granted: Mode,
    pub(super) mode: Mode,
    /// Whether the shell reads in the subscriber's place.
    pub(super) proxy: bool,
    pub(super) stage: Stage,
    /// Whether `StreamOpened` and `Subscribed` wait for it.
    pub(super) awaited_by_stream: bool,
    pub(super) awaited_by_subscription: bool,
    pub(super) start: u64,
    pub(super) start_seq: u64,
    pub(super) share: Share,
    /// The memory, where it is the copy of what a gone publisher sent.
    pub(super) copy: Option<Memory>,
    /// The last message that a proxy has read or knows lost.
    pub(super) last_seq: u64,
    /// Descriptors in flight to publisher and subscriber.
    pub(super) publisher_fds: u32,
    pub(super) subscriber_fds: u32,
    /// The stream has ended with this code before all of its memory was handed over.
    pub(super) ended: Option<u16>,
    /// Who publishes, for messages that the broker reads on a subscriber's behalf.
    pub(super) from: Arc<Identity>,
}

impl Core {
    /// Offers a stream to a subscription, unless they have an attachment already that outlived the broker before. The
    /// caller has seen to the limit.
    pub(super) fn offer(&mut self, stream_id: u64, key: Key, for_stream: bool, for_subscription: bool) {
        if self.adopt(stream_id, key, for_subscription) {
            return;
        }
        let Some(stream) = self.streams.by_id.get(&stream_id) else { return };
        let Some(subscription) = self.subscriptions.get(key) else { return };
        let (publisher, subscriber) = (stream.session, subscription.session);
        let Some((from, reader)) = self.sessions.get(publisher).zip(self.sessions.get(subscriber)) else {
            return;
        };
        let (publisher_uid, reader_uid) = (from.peer.uid, reader.peer.uid);
        let mode = self.granted(stream_id, subscriber, subscription.mode);
        if subscription.gated_only && mode == Mode::Lossy {
            return self.gate_refused(key, stream_id);
        }
        let in_place = self.access.in_place(publisher_uid, reader_uid);
        let (number, proxy, topic) = (subscription.number, !subscription.rings, stream.topic);
        let from = from.identity.clone();
        let link = self.link_between(publisher, key);
        let attach = self.new_attachment_id();
        self.attachments.insert(
            attach,
            Attachment {
                stream: stream_id,
                topic,
                subscription: key,
                publisher,
                subscriber,
                link,
                slot: None,
                granted: mode,
                mode,
                proxy,
                stage: Stage::Offered,
                awaited_by_stream: for_stream,
                awaited_by_subscription: for_subscription,
                start: 0,
                start_seq: 0,
                share: Share::default(),
                copy: None,
                last_seq: 0,
                publisher_fds: 0,
                subscriber_fds: 0,
                ended: None,
                from: from.clone(),
            },
        );
        self.totals.attachments += 1;
        if let Some(link) = self.links.by_id.get_mut(&link) {
            link.attachments.insert(attach);
        }
        if let Some(stream) = self.streams.by_id.get_mut(&stream_id) {
            stream.attachments.insert(attach);
            stream.awaited += u32::from(for_stream);
        }
        if let Some(subscription) = self.subscriptions.get_mut(key) {
            subscription.attachments.insert(attach);
            subscription.proxies += u32::from(proxy);
            if let Some(confirmation) = subscription.confirmation.as_mut().filter(|_| for_subscription) {
                confirmation.awaited += 1;
            }
        }
        if proxy {
            self.actions.push_back(Action::ProxyOffer { attach, link, stream: stream_id });
            return;
        }
        let source = self.source_alias(subscriber, &from, topic);
        let offer =
            Offer { attach, sub: number, source, stream: stream_id, link, mode, in_place, retained: false };
        self.send_control(subscriber, &ToClient::Offer(offer));
    }

    /// A frame about an attachment that is not there: it has ended meanwhile, or is one of an earlier run that was not taken
    /// over, if this client has named such.
    pub(super) fn late_or_false(&self, key: Key, attach: u64) -> Result<(), Violation> {
        if self.ids.was(attach) || self.sessions.get(key).is_some_and(|session| session.resumed) {
            return Ok(());
        }
        Err(Violation::new(Code::BadId, format!("there was never an attachment {attach}")))
    }

    pub(super) fn foreign(attach: u64) -> Violation {
        Violation::new(Code::BadId, format!("attachment {attach} is not this client's to speak about"))
    }

    /// The subscriber takes an offer. A page that comes along is kept already, once.
    pub(super) fn accept(&mut self, key: Key, frame: &Accept, page: Option<FdId>) -> Result<(), Violation> {
        let Some(attachment) = self.attachments.get(&frame.attach) else {
            return self.late_or_false(key, frame.attach);
        };
        if attachment.subscriber != key || attachment.proxy {
            return Err(Self::foreign(frame.attach));
        }
        self.take_slot(frame.attach, frame.slot, frame.page.zip(page))
    }

    /// Notes the slot of an accepted attachment and goes on with it.
    pub(super) fn take_slot(
        &mut self,
        attach: u64,
        slot: u32,
        page: Option<(PageDeclaration, FdId)>,
    ) -> Result<(), Violation> {
        let Some(attachment) = self.attachments.get_mut(&attach) else { return Ok(()) };
        if attachment.stage != Stage::Offered {
            return Err(Violation::new(Code::OutOfOrder, format!("attachment {attach} was accepted before")));
        }
        let link = attachment.link;
        self.claim_slot(link, slot, page)?;
        if let Some(attachment) = self.attachments.get_mut(&attach) {
            attachment.slot = Some(slot);
            if attachment.copy.is_some() {
                // Nobody need be asked, and nobody rings.
                attachment.stage = Stage::Handover;
                let proxy = attachment.proxy;
                if proxy {
                    self.send_attach(attach);
                } else {
                    self.want_fds(attach);
                }
                return Ok(());
            }
            attachment.stage = Stage::Piping;
        }
        self.want_pipes(link, attach);
        Ok(())
    }

    /// Goes on with an attachment whose link has pipes.
    pub(super) fn piped(&mut self, attach: u64) {
        if let Some(attachment) = self.attachments.get_mut(&attach).filter(|each| each.stage == Stage::Piping)
        {
            attachment.stage = Stage::Admission;
            self.want_fds(attach);
        }
    }

    /// Sends an attachment's next frame with descriptors as soon as few enough are in flight to its receiver.
    pub(super) fn want_fds(&mut self, attach: u64) {
        let Some(attachment) = self.attachments.get(&attach) else { return };
        let receiver = match attachment.stage {
            Stage::Admission => attachment.publisher,
            Stage::Handover => attachment.subscriber,
            _ if attachment.wants_successor() => attachment.subscriber,
            _ => return,
        };
        if let Some(session) = self.sessions.get_mut(receiver) {
            session.fd_queue.push_back(attach);
        }
        self.pump(receiver);
    }

    /// Sends what waits for descriptors in flight to be confirmed.
    pub(super) fn pump(&mut self, receiver: Key) {
        let max = self.limits.session_fds_in_flight_max;
        loop {
            let Some(session) = self.sessions.get_mut(receiver) else { return };
            let in_flight = session.fds_in_flight;
            let most = u32::from(tramline_wire::limits::FRAME_FDS_MAX);
            if in_flight > 0 && in_flight + most > max {
                return;
            }
            let Some(attach) = session.fd_queue.pop_front() else { return };
            let Some(attachment) = self.attachments.get(&attach) else { continue };
            match attachment.stage {
                Stage::Admission if attachment.publisher == receiver => self.send_admit(attach),
                Stage::Handover if attachment.subscriber == receiver => self.send_attach(attach),
                _ if attachment.wants_successor() => self.send_successor(attach),
                _ => {}
            }
        }
    }

    fn send_admit(&mut self, attach: u64) {
        let Some(attachment) = self.attachments.get_mut(&attach) else { return };
        let Some(slot) = attachment.slot else { return };
        let Some(subscription) = self.subscriptions.get(attachment.subscription) else { return };
        let Some(reader) = self.sessions.get(attachment.subscriber).map(|session| session.identity.clone())
        else {
            return;
        };
        attachment.stage = Stage::Admitting;
        let generation = self.streams.by_id.get(&attachment.stream).map_or(0, |stream| stream.told);
        attachment.share.asked(generation);
        let (stream, mode, link_id) = (attachment.stream, attachment.mode, attachment.link);
        let (publisher, history) = (attachment.publisher, subscription.history);
        let Some(link) = self.links.by_id.get_mut(&link_id) else { return };
        let page = link.untold_page(slot);
        let bells = link.publisher_bells.take();
        let mut fds: Vec<FdId> = page.iter().map(|(_, fd)| *fd).collect();
        fds.extend(bells.into_iter().flatten());
        let count = u8::try_from(fds.len()).expect("a page and two bells");
        let frame = Admit {
            attach,
            stream,
            link: link_id,
            slot,
            mode,
            history,
            session: reader.session,
            name: &reader.name,
            page: page.map(|(declaration, _)| declaration),
            bells: bells.is_some(),
            fds: count,
        };
        if let Some(attachment) = self.attachments.get_mut(&attach) {
            attachment.publisher_fds = u32::from(count);
        }
        self.send_with_fds(publisher, &ToClient::Admit(frame), &fds);
        for bell in bells.into_iter().flatten() {
            self.release_fd(bell);
        }
    }

    pub(super) fn send_attach(&mut self, attach: u64) {
        let Some(attachment) = self.attachments.get_mut(&attach) else { return };
        let (start, start_seq) = (attachment.start, attachment.start_seq);
        let (link_id, subscriber, proxy) = (attachment.link, attachment.subscriber, attachment.proxy);
        let stream_id = attachment.stream;
        let next = match attachment.copy {
            Some(Memory { memory, generation, geometry }) => Some((generation, geometry, memory)),
            None => self.streams.by_id.get(&stream_id).and_then(|stream| attachment.share.hand_next(stream)),
        };
        let Some((generation, geometry, memory)) = next else { return };
        attachment.stage = Stage::Attaching;
        let bells = self.links.by_id.get_mut(&link_id).and_then(|link| link.subscriber_bells.take());
        if proxy {
            let bells = bells.map(|[doorbell, space]| (doorbell, space));
            for bell in bells.iter().flat_map(|(doorbell, space)| [doorbell, space]) {
                // They become the shell's.
                self.streams.descriptors.remove(bell);
            }
            self.actions.push_back(Action::ProxyAttach {
                attach,
                memory,
                generation,
                geometry,
                start,
                start_seq,
                bells,
            });
            return self.hand_on(attach);
        }
        let mut fds = vec![memory];
        fds.extend(bells.into_iter().flatten());
        let count = u8::try_from(fds.len()).expect("a ring and two bells");
        attachment.subscriber_fds = u32::from(count);
        let frame =
            Attach { attach, generation, geometry, start, start_seq, bells: bells.is_some(), fds: count };
        self.send_with_fds(subscriber, &ToClient::Attach(frame), &fds);
        for bell in bells.into_iter().flatten() {
            self.release_fd(bell);
        }
        self.end_if_all_handed(attach);
        self.settle_formers(stream_id);
    }

    pub(super) fn send_with_fds(&mut self, key: Key, frame: &ToClient<'_>, fds: &[FdId]) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.fds_in_flight += u32::try_from(fds.len()).unwrap_or(u32::MAX);
        session.outbox.carry(fds.to_vec());
        for fd in fds {
            self.keep_fd(*fd);
        }
        self.send_control(key, frame);
    }

    /// The publisher admitted the reader.
    pub(super) fn admitted(
        &mut self,
        key: Key,
        attach: u64,
        start: (u64, u64, u32),
        now: Now,
    ) -> Result<(), Violation> {
        let Some(attachment) = self.attachments.get_mut(&attach) else {
            return self.late_or_false(key, attach);
        };
        if attachment.publisher != key {
            return Err(Self::foreign(attach));
        }
        if attachment.stage != Stage::Admitting {
            let message = format!("attachment {attach} was not waiting to be admitted");
            return Err(Violation::new(Code::OutOfOrder, message));
        }
        let (position, start_seq, generation) = start;
        let shared = self
            .streams
            .by_id
            .get(&attachment.stream)
            .is_some_and(|stream| attachment.share.admitted(stream, generation));
        if !shared {
            let message = format!("attachment {attach} was not asked for in generation {generation}");
            return Err(Violation::new(Code::FalseClaim, message));
        }
        attachment.stage = Stage::Handover;
        (attachment.start, attachment.start_seq) = (position, start_seq);
        attachment.last_seq = start_seq.saturating_sub(1);
        let confirmed = std::mem::take(&mut attachment.publisher_fds);
        let (subscription, proxy, stream) = (attachment.subscription, attachment.proxy, attachment.stream);
        let awaited = std::mem::take(&mut attachment.awaited_by_stream);
        self.confirm_fds(key, confirmed);
        if let Some(stream) = self.streams.by_id.get_mut(&stream) {
            stream.admitted += 1;
            stream.awaited -= u32::from(awaited);
        }
        match (self.waits_behind_retained(subscription, attach), proxy) {
            (true, _) => {}
            (false, true) => self.send_attach(attach),
            (false, false) => self.queue_attach(subscription, attach, now),
        }
        self.answer_open(stream);
        self.settle_formers(stream);
        Ok(())
    }

    fn confirm_fds(&mut self, key: Key, count: u32) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.fds_in_flight = session.fds_in_flight.saturating_sub(count);
        }
        if count > 0 {
            self.pump(key);
        }
    }

    /// The subscriber reads.
    pub(super) fn attached(&mut self, key: Key, attach: u64) -> Result<(), Violation> {
        let Some(attachment) = self.attachments.get(&attach) else { return self.late_or_false(key, attach) };
        if attachment.subscriber != key || attachment.proxy {
            return Err(Self::foreign(attach));
        }
        if attachment.stage != Stage::Attaching && attachment.subscriber_fds == 0 {
            let message = format!("attachment {attach} was not waiting to be attached");
            return Err(Violation::new(Code::OutOfOrder, message));
        }
        self.is_attached(attach);
        Ok(())
    }

    /// Notes that an attachment is read.
    pub(super) fn is_attached(&mut self, attach: u64) {
        let Some(attachment) = self.attachments.get_mut(&attach) else { return };
        if attachment.stage == Stage::Attaching {
            attachment.stage = Stage::Attached;
        }
        let confirmed = std::mem::take(&mut attachment.subscriber_fds);
        let (subscriber, subscription) = (attachment.subscriber, attachment.subscription);
        let awaited = std::mem::take(&mut attachment.awaited_by_subscription);
        let all_of = (!attachment.share.is_owed()).then_some(attachment.stream);
        self.confirm_fds(subscriber, confirmed);
        if let Some(stream) = all_of {
            self.growth_confirmed(stream, attach);
        }
        if awaited {
            self.one_less_awaited(subscription, true);
        }
        self.hand_on(attach);
        let Some(attachment) = self.attachments.get_mut(&attach).filter(|each| each.proxy) else { return };
        if !attachment.share.is_owed()
            && let Some(code) = attachment.ended.take()
        {
            self.source_ended(attach, code);
        }
    }

    /// Either side ends or refuses an attachment.
    pub(super) fn detach(&mut self, key: Key, attach: u64, code: u16) -> Result<(), Violation> {
        if self.forget_claim(key, attach) {
            return Ok(());
        }
        let Some(attachment) = self.attachments.get(&attach) else { return self.late_or_false(key, attach) };
        let from_subscriber = attachment.subscriber == key && !attachment.proxy;
        if !from_subscriber && attachment.publisher != key {
            return Err(Self::foreign(attach));
        }
        if code != 0
            && let Some(code) = Code::from_number(code)
        {
            tracing::info!("attachment {attach} of stream {:016x} was ended: {code}", attachment.stream);
        }
        let stage = attachment.stage;
        let lost = match stage {
            Stage::Attaching if from_subscriber => attachment.subscriber_fds > 1,
            Stage::Admitting if !from_subscriber => attachment.publisher_fds > 0,
            _ => false,
        };
        if lost && code == Code::NoResources.number() {
            let link = attachment.link;
            self.abandon_link(link);
        }
        if from_subscriber {
            self.reader_ended(attach, code);
        } else if stage.is_known_to_publisher() {
            self.source_ended(attach, code);
        } else {
            return Err(Self::foreign(attach));
        }
        Ok(())
    }

    /// What an attachment reads has ended: tells the reader, who reads to the end if it was admitted.
    pub(super) fn source_ended(&mut self, attach: u64, code: u16) {
        let Some(attachment) = self.attachments.get_mut(&attach) else { return };
        let reading = matches!(attachment.stage, Stage::Attaching | Stage::Attached);
        if attachment.stage == Stage::Handover || (reading && attachment.share.is_owed()) {
            attachment.ended = Some(code);
            return;
        }
        if attachment.proxy {
            self.actions.push_back(Action::ProxyDetach { attach, drain: reading });
            if reading {
                attachment.stage = Stage::Draining;
                let (stream, subscription) = (attachment.stream, attachment.subscription);
                let awaited = std::mem::take(&mut attachment.awaited_by_subscription);
                if let Some(stream) = self.streams.by_id.get_mut(&stream) {
                    stream.attachments.remove(&attach);
                }
                if awaited {
                    self.one_less_awaited(subscription, true);
                }
                return;
            }
        } else {
            let subscriber = attachment.subscriber;
            self.send_control(subscriber, &ToClient::Detach { attach, code });
        }
        self.remove_attachment(attach);
    }

    /// The subscription of an attachment has ended: tells the publisher.
    pub(super) fn reader_ended(&mut self, attach: u64, code: u16) {
        let Some(attachment) = self.attachments.get(&attach) else { return };
        let (publisher, draining) = (attachment.publisher, attachment.stage == Stage::Draining);
        let known = attachment.stage.is_known_to_publisher() && !draining;
        if attachment.proxy {
            self.actions.push_back(Action::ProxyDetach { attach, drain: false });
        }
        if known {
            self.send_control(publisher, &ToClient::Detach { attach, code });
        }
        self.remove_attachment(attach);
    }

    /// Forgets an attachment everywhere, and lets go on who waited for it.
    pub(super) fn remove_attachment(&mut self, attach: u64) {
        let Some(attachment) = self.attachments.remove(&attach) else { return };
        let Attachment { stream, subscription, publisher, subscriber, link, slot, .. } = attachment;
        if let Some(each) = self.streams.by_id.get_mut(&stream)
            && each.attachments.remove(&attach)
        {
            each.awaited -= u32::from(attachment.awaited_by_stream);
        }
        if let Some(each) = self.subscriptions.get_mut(subscription) {
            each.attachments.remove(&attach);
            each.proxies -= u32::from(attachment.proxy);
            if attachment.proxy {
                self.to_release.push_back(subscription);
            }
        }
        if let Some(copy) = attachment.copy {
            self.release_fd(copy.memory);
            self.one_less_retained(subscription);
        }
        self.leave_link(link, attach, slot);
        self.confirm_fds(publisher, attachment.publisher_fds);
        self.confirm_fds(subscriber, attachment.subscriber_fds);
        if attachment.awaited_by_subscription {
            self.one_less_awaited(subscription, false);
        }
        self.answer_open(stream);
        self.growth_confirmed(stream, attach);
        self.drop_if_done(stream);
        self.settle_formers(stream);
    }
}
