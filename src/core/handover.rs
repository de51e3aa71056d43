//! Frames that carry descriptors: what a publisher and a subscriber are handed for an attachment, each in its turn.
//!
//! The kernel limits how many descriptors one user may have on the way, so only a few are, for each session: the next
//! frame goes when its receiver has confirmed the one before. What waits is in the session's `fd_queue`.

use super::attachment::Stage;
use super::broker::Core;
use super::retained::Memory;
use super::subscription::Sink;
use super::table::Key;
use super::{Action, FdId};
use tramline_wire::{Admit, Attach, Mode, ToClient};

impl Core {
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
        let (publisher, mut history) = (attachment.publisher, subscription.history);
        let mut keep_millis = 0;
        if let Some(Sink::Queue(queue)) = subscription.sink {
            if self.queue_goes_on_in(queue, stream) {
                // As far back as anything is there: what it has is passed over.
                history = u32::MAX;
            }
            if mode == Mode::Gated && self.stored_by_queue(queue, stream).is_some() {
                keep_millis = self.limits.cursor_grace_millis;
            }
        }
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
            keep_millis,
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
        let (stream_id, subscription) = (attachment.stream, attachment.subscription);
        let is_copy = attachment.copy.is_some();
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
            let stored = match self.subscriptions.get(subscription).and_then(|it| it.sink) {
                Some(Sink::Queue(queue)) if !is_copy => self.stored_by_queue(queue, stream_id),
                _ => None,
            };
            self.actions.push_back(Action::ProxyAttach {
                attach,
                memory,
                generation,
                geometry,
                start,
                start_seq,
                bells,
                stored,
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

    /// What was sent has arrived, or is not on its way any more.
    pub(super) fn confirm_fds(&mut self, key: Key, count: u32) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.fds_in_flight = session.fds_in_flight.saturating_sub(count);
        }
        if count > 0 {
            self.pump(key);
        }
    }
}
