//! Attachments: one stream brought to one subscription, step by step.
//!
//! ```text
//! Offered ─Accept─► Piping ─pipes─► Admission ─► Admitting ─Admitted─► Handover ─► Attaching ─Attached─► Attached
//!                    (first of a link only)  └ queued: few descriptors are in flight per session ┘
//! ```
//!
//! Frames that carry descriptors wait their turn in `handover`; later generations follow one by one (`generations`).
//!
//! Either side may leave at any step. When the stream ends, those not yet admitted are dropped, those admitted
//! still get the memory and read it to its end. Ids are never used twice in one run, so a frame about an
//! attachment that has ended in the meantime is recognised as late, and ignored.

use super::attachment::{Attachment, Stage};
use super::broker::Core;
use super::native::Violation;
use super::table::Key;
use super::{Action, FdId, Now};
use tramline_wire::{Accept, Code, Mode, Offer, PageDeclaration, ToClient};

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
        let ends = (publisher, subscriber);
        self.add_attachment(
            attach,
            Attachment {
                link,
                granted: mode,
                mode,
                proxy,
                awaited_by_stream: for_stream,
                awaited_by_subscription: for_subscription,
                ..Attachment::new(stream_id, topic, key, ends, from.clone())
            },
        );
        if proxy {
            self.actions.push_back(Action::ProxyOffer { attach, link, stream: stream_id });
            return;
        }
        let source = self.source_alias(subscriber, &from, topic);
        let offer =
            Offer { attach, sub: number, source, stream: stream_id, link, mode, in_place, retained: false };
        self.send_control(subscriber, &ToClient::Offer(offer));
    }

    /// Enters an attachment wherever it is looked for: [`Core::remove_attachment`] undoes that.
    pub(super) fn add_attachment(&mut self, attach: u64, attachment: Attachment) {
        self.totals.attachments += 1;
        if let Some(link) = self.links.by_id.get_mut(&attachment.link) {
            link.attachments.insert(attach);
        }
        if attachment.copy.is_none()
            && let Some(stream) = self.streams.by_id.get_mut(&attachment.stream)
        {
            stream.attachments.insert(attach);
            stream.awaited += u32::from(attachment.awaited_by_stream);
        }
        if let Some(subscription) = self.subscriptions.get_mut(attachment.subscription) {
            subscription.attachments.insert(attach);
            subscription.proxies += u32::from(attachment.proxy);
            if let Some(confirmation) = &mut subscription.confirmation {
                confirmation.awaited += u32::from(attachment.awaited_by_subscription);
            }
        }
        self.attachments.insert(attach, attachment);
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
        self.confirm_fds(key, confirmed);
        if let Some(stream) = self.streams.by_id.get_mut(&stream) {
            stream.admitted += 1;
        }
        if !self.queue_notes_beginning(attach, now) {
            self.no_longer_awaited(attach);
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

    /// The publisher need not wait for this one any more.
    fn no_longer_awaited(&mut self, attach: u64) {
        let Some(attachment) = self.attachments.get_mut(&attach) else { return };
        let awaited = std::mem::take(&mut attachment.awaited_by_stream);
        if let Some(stream) = self.streams.by_id.get_mut(&attachment.stream) {
            stream.awaited -= u32::from(awaited);
        }
    }

    /// A queue has on disk where it begins to read a ring.
    pub(super) fn beginning_is_noted(&mut self, attach: u64) {
        self.no_longer_awaited(attach);
        if let Some(stream) = self.attachments.get(&attach).map(|attachment| attachment.stream) {
            self.answer_open(stream);
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
        self.keep_no_longer(attach);
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
