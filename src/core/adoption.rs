//! Attachments that outlive a broker: taken over if both ends list them, and access still allows it.
//!
//! A client that comes back says, before it asks for its subscriptions and opens its streams again, which
//! attachments it still has from before: as a subscriber that it reads (`StillReads`), as a publisher that it admits
//! (`StillAdmits`). These are claims. Whenever a stream is to be offered to a subscription, the claims about that pair
//! are settled first: if both name the same attachment and everything that an offer depends on (who may connect, the
//! filter, who may gate, who may read in place) is granted now, it is an attachment as before, at the stage where its
//! subscriber reads, and nothing happens on the data path. Otherwise the stream is offered anew.
//!
//! Since claims come first, neither an offer nor an answer ever waits for them. What nobody has matched when its
//! client has been back for `adoption_grace_millis` is ended.

use super::Now;
use super::attachment::{Attachment, Stage};
use super::broker::Core;
use super::generations::Share;
use super::native::Violation;
use super::table::Key;
use super::timers::{MILLI, Timer};
use std::collections::BTreeMap;
use tramline_wire::{Adopted, Code, Mode, StillAdmits, StillReads, ToClient};

/// What clients say they still have, by attachment.
#[derive(Debug, Default)]
pub(super) struct Claims {
    reads: BTreeMap<u64, (Key, StillReads)>,
    admits: BTreeMap<u64, (Key, StillAdmits)>,
    /// Which attachment a subscription reads a stream by.
    pairs: BTreeMap<(Key, u32, u64), u64>,
}

impl Claims {
    fn len(&self) -> usize {
        self.reads.len() + self.admits.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.len() + self.pairs.len() == 0
    }

    /// Forgets that a subscriber reads.
    fn take_read(&mut self, attach: u64) -> Option<(Key, StillReads)> {
        let (key, read) = self.reads.remove(&attach)?;
        self.pairs.remove(&(key, read.sub, read.stream));
        Some((key, read))
    }
}

impl Core {
    /// A subscriber still reads a stream.
    pub(super) fn still_reads(&mut self, key: Key, frame: StillReads, now: Now) -> Result<(), Violation> {
        let StillReads { attach, sub, stream, .. } = frame;
        let asked = self.sessions.get(key).is_some_and(|session| session.subscriptions.contains_key(&sub));
        let said = self.claims.reads.contains_key(&attach);
        let pair = (key, sub, stream);
        self.may_claim(attach, asked, said || self.claims.pairs.contains_key(&pair))?;
        if self.has_room_for_claim(key, attach, now) {
            self.claims.reads.insert(attach, (key, frame));
            self.claims.pairs.insert(pair, attach);
        }
        Ok(())
    }

    /// A publisher still has a reader.
    pub(super) fn still_admits(&mut self, key: Key, frame: StillAdmits, now: Now) -> Result<(), Violation> {
        let StillAdmits { attach, stream, .. } = frame;
        let asked = self.sessions.get(key).is_some_and(|session| session.streams.contains(&stream));
        self.may_claim(attach, asked, self.claims.admits.contains_key(&attach))?;
        if self.has_room_for_claim(key, attach, now) {
            self.claims.admits.insert(attach, (key, frame));
        }
        Ok(())
    }

    /// An id for a new attachment, which no earlier one has that may still be taken over.
    pub(super) fn new_attachment_id(&mut self) -> u64 {
        loop {
            let id = self.ids.next();
            let claimed = self.claims.reads.contains_key(&id) || self.claims.admits.contains_key(&id);
            if !claimed && !self.attachments.contains_key(&id) {
                return id;
            }
        }
    }

    fn may_claim(&self, attach: u64, asked: bool, said: bool) -> Result<(), Violation> {
        if asked {
            let message = format!(
                "attachment {attach} of an earlier connection is named behind the subscription or stream it belongs to; \
                 such come first"
            );
            return Err(Violation::new(Code::OutOfOrder, message));
        }
        if attach == 0 || said || self.attachments.contains_key(&attach) {
            let message = format!("attachment {attach} of an earlier connection is there, or named, already");
            return Err(Violation::new(Code::BadId, message));
        }
        Ok(())
    }

    /// Counts one more claim, and begins the time within which it must be matched. Without room it is ended at once.
    fn has_room_for_claim(&mut self, key: Key, attach: u64, now: Now) -> bool {
        let used = self.attachments.len() + self.claims.len();
        let Some(session) = self.sessions.get_mut(key) else { return false };
        session.resumed = true;
        if used >= self.limits.attachments_max as usize {
            let identity = session.identity.clone();
            let max = self.limits.attachments_max;
            tracing::warn!("{identity} cannot keep attachment {attach}: limits.attachments_max is {max}");
            self.send_control(key, &ToClient::Detach { attach, code: Code::LimitReached.number() });
            return false;
        }
        if session.grace_by.is_none() {
            let at = now.monotonic + u64::from(self.limits.adoption_grace_millis) * MILLI;
            session.grace_by = Some(at);
            self.timers.set(at, Timer::Grace(key));
        }
        true
    }

    /// A stream is to be offered to a subscription: takes the attachment over that they have, if they have one. `false`: it
    /// is to be offered.
    pub(super) fn adopt(&mut self, stream_id: u64, subscription: Key, for_subscription: bool) -> bool {
        let Some((subscriber, number)) =
            self.subscriptions.get(subscription).map(|it| (it.session, it.number))
        else {
            return false;
        };
        let Some(attach) = self.claims.pairs.get(&(subscriber, number, stream_id)).copied() else {
            return false;
        };
        let Some((_, read)) = self.claims.take_read(attach) else { return false };
        let Some(publisher) = self.streams.by_id.get(&stream_id).map(|stream| stream.session) else {
            return false;
        };
        let listed =
            self.claims.admits.get(&attach).filter(|(key, it)| *key == publisher && it.stream == stream_id);
        let Some((_, admits)) = listed.copied() else { return false };
        self.claims.admits.remove(&attach);
        if !self.take_over(attach, subscription, read, admits, for_subscription) {
            // Whoever is not allowed what it had is shown out; what it may have it is offered.
            self.send_control(publisher, &ToClient::Detach { attach, code: Code::Denied.number() });
            return false;
        }
        true
    }

    fn take_over(
        &mut self,
        attach: u64,
        key: Key,
        read: StillReads,
        admits: StillAdmits,
        for_subscription: bool,
    ) -> bool {
        let stream_id = read.stream;
        let Some(subscription) = self.subscriptions.get(key) else { return false };
        let (subscriber, wanted) = (subscription.session, subscription.mode);
        let (rings, gated_only) = (subscription.rings, subscription.gated_only);
        let granted = self.granted(stream_id, subscriber, wanted);
        let Some(stream) = self.streams.by_id.get_mut(&stream_id) else { return false };
        let (publisher, topic) = (stream.session, stream.topic);
        let Some((from, reader)) = self.sessions.get(publisher).zip(self.sessions.get(subscriber)) else {
            return false;
        };
        let trusted = !read.in_place || self.access.in_place(from.peer.uid, reader.peer.uid);
        let Some(share) = Share::adopted(stream, read.generation) else { return false };
        if !rings || !trusted || (gated_only && granted == Mode::Lossy) {
            return false;
        }
        let from = from.identity.clone();
        let mode = if granted == Mode::Lossy { Mode::Lossy } else { admits.mode };
        stream.admitted += 1;
        // Its reader has bells of its own that no link here knows.
        let taken = Attachment {
            slot: Some(admits.slot),
            stage: Stage::Attached,
            granted,
            mode,
            share,
            ..Attachment::new(stream_id, topic, key, (publisher, subscriber), from.clone())
        };
        self.add_attachment(attach, taken);
        self.totals.adoptions += 1;
        let confirmation = self.subscriptions.get_mut(key).and_then(|each| each.confirmation.as_mut());
        if let Some(confirmation) = confirmation.filter(|_| for_subscription) {
            confirmation.attached += 1;
        }
        let source = Some(self.source_alias(subscriber, &from, topic));
        self.send_control(subscriber, &ToClient::Adopted(Adopted { attach, source, mode }));
        self.send_control(publisher, &ToClient::Adopted(Adopted { attach, source: None, mode }));
        self.hand_on(attach);
        true
    }

    /// A client gives something up that it said it still has. Whether it had said so.
    pub(super) fn forget_claim(&mut self, key: Key, attach: u64) -> bool {
        let reads = self.claims.reads.get(&attach).is_some_and(|(owner, _)| *owner == key);
        if reads {
            self.claims.take_read(attach);
        }
        let admits = self.claims.admits.get(&attach).is_some_and(|(owner, _)| *owner == key);
        if admits {
            self.claims.admits.remove(&attach);
        }
        reads || admits
    }

    /// A publisher waits for a reader no longer, or again, that has not been taken over yet.
    pub(super) fn claim_mode(&mut self, key: Key, attach: u64, mode: Mode) {
        if let Some((_, admits)) = self.claims.admits.get_mut(&attach).filter(|(owner, _)| *owner == key) {
            admits.mode = mode;
        }
    }

    /// A stream has ended: those who still read it from before read it to its end.
    pub(super) fn end_claims_on(&mut self, stream: u64, publisher: Key, code: u16) {
        let of = |claim: &(Key, StillAdmits)| claim.0 == publisher && claim.1.stream == stream;
        let ended: Vec<u64> =
            self.claims.admits.iter().filter(|(_, claim)| of(claim)).map(|(attach, _)| *attach).collect();
        for attach in ended {
            self.claims.admits.remove(&attach);
            if let Some((subscriber, read)) = self.claims.reads.get(&attach).copied()
                && read.stream == stream
            {
                self.claims.take_read(attach);
                self.send_control(subscriber, &ToClient::Detach { attach, code });
            }
        }
    }

    /// A subscription has ended before what it read was taken over.
    pub(super) fn end_claims_of(&mut self, session: Key, sub: u32) {
        let pairs = self.claims.pairs.range((session, sub, 0)..=(session, sub, u64::MAX));
        for attach in pairs.map(|(_, attach)| *attach).collect::<Vec<_>>() {
            self.claims.take_read(attach);
        }
    }

    /// A session is over, and with it what it said.
    pub(super) fn forget_claims(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(at) = session.grace_by.take() {
            self.timers.cancel(at, Timer::Grace(key));
            self.claims.reads.retain(|_, (owner, _)| *owner != key);
            self.claims.admits.retain(|_, (owner, _)| *owner != key);
            self.claims.pairs.retain(|(owner, ..), _| *owner != key);
        }
    }

    /// A client has been back long enough: what the other side has not named is over.
    pub(super) fn grace_is_over(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let identity = session.identity.clone();
        let reads = self.claims.reads.iter().filter(|(_, claim)| claim.0 == key).map(|(attach, _)| *attach);
        let admits = self.claims.admits.iter().filter(|(_, claim)| claim.0 == key).map(|(attach, _)| *attach);
        let over: Vec<u64> = reads.chain(admits).collect();
        self.forget_claims(key);
        if !over.is_empty() {
            let (count, millis) = (over.len(), self.limits.adoption_grace_millis);
            tracing::info!(
                "{identity} gives up {count} attachments of before, whose other side did not come back within {millis} ms \
                 (limits.adoption_grace_millis)"
            );
        }
        for attach in over {
            self.send_control(key, &ToClient::Detach { attach, code: Code::PeerGone.number() });
        }
    }
}
