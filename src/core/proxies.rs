//! Subscriptions without rings: what the shell reads from rings on their behalf.
//!
//! To the rest of the core a proxy is an attachment like any other, with the shell in the subscriber's place. Its
//! messages enter the subscription's own queue, so order, loss and limits are those of the socket. What the
//! shell reads from a ring are claims of the publisher: they are checked here, and a false one ends the
//! publisher's session.

use super::attachment::Stage;
use super::broker::Core;
use super::delivery::Handed;
use super::gaps::Gap;
use super::subscription::Sink;
use super::table::Key;
use super::{Action, FdId, Flow, Now, RingMessage};
use std::cell::OnceCell;
use tramline_wire::codec::{decode_message, encode_message};
use tramline_wire::{Code, HeaderBlock, Message, MessageFlags, Mode, PageDeclaration, SlowPolicy};

impl Core {
    pub(super) fn proxy_takes(&mut self, attach: u64, slot: u32, page: Option<(PageDeclaration, FdId)>) {
        if let Some((_, memory)) = page {
            self.keep_fd(memory);
        }
        if self.attachments.get(&attach).is_some_and(|each| each.proxy)
            && let Err(violation) = self.take_slot(attach, slot, page)
        {
            tracing::error!("the broker's own reader {attach} was not taken: {}", violation.message);
            self.actions.push_back(Action::ProxyDetach { attach, drain: false });
            self.remove_attachment(attach);
        }
        if let Some((_, memory)) = page {
            self.release_fd(memory);
        }
    }

    pub(super) fn proxy_refuses(&mut self, attach: u64, reason: &str) {
        let Some(attachment) = self.attachments.get(&attach).filter(|each| each.proxy) else { return };
        tracing::warn!("stream {:016x} is not read for a client without rings: {reason}", attachment.stream);
        self.reader_refused(attach, Code::NoResources.number());
    }

    /// The shell gave an attachment up: the publisher is told, the shell need not be.
    fn reader_refused(&mut self, attach: u64, code: u16) {
        self.reader_ended(attach, code);
        if let Some(Action::ProxyDetach { attach: last, .. }) = self.actions.back()
            && *last == attach
        {
            self.actions.pop_back();
        }
    }

    pub(super) fn proxy_reads(&mut self, attach: u64, read: RingMessage<'_>, now: Now) -> Flow {
        self.keep_no_longer(attach);
        let Some(attachment) = self.attachments.get_mut(&attach).filter(|each| each.proxy) else {
            return Flow::Close;
        };
        attachment.last_seq = read.seq;
        let (key, topic, from) = (attachment.subscription, attachment.topic, attachment.from.clone());
        let (publisher, stream) = (attachment.publisher, attachment.stream);
        let Some(name) = self.topics.get(topic).map(|entry| entry.name.clone()) else { return Flow::Close };
        self.note_ring_loss(key, Gap { from: from.clone(), topic, name: name.clone(), lost: read.lost });
        let flags = MessageFlags::from_bits(read.flags);
        let Some((flags, head)) = flags.zip(HeaderBlock::parse(read.head).ok()) else {
            self.note_ring_loss(key, Gap { from, topic, name: name.clone(), lost: 1 });
            let message = format!(
                "message {} of stream {stream:016x} on {name} carries flags {:#x} or a header block that cannot be",
                read.seq, read.flags
            );
            self.doom(publisher, Code::FalseClaim, message);
            self.settle(now);
            return Flow::Close;
        };
        let room = self.payload_room(head.as_bytes().len());
        let beginning = Message {
            flags,
            seq: read.seq,
            time: read.time,
            source_time: read.source_time,
            after: None,
            head: head.as_bytes(),
            payload: &read.payload[..read.payload.len().min(room)],
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let (bytes, message, shared) =
            match read.whole.and_then(|whole| Some((whole, decode_message(whole).ok()?))) {
                Some((whole, message)) => (&whole[..], message, OnceCell::from(whole.clone())),
                None => {
                    encode_message(&mut scratch, &beginning);
                    (&scratch[..], beginning, OnceCell::new())
                }
            };
        let payload_length = read.payload_length;
        let handed = Handed { from: &from, topic, name: &name, bytes, message, payload_length, shared };
        let sink = self.subscriptions.get(key).and_then(|subscription| subscription.sink);
        let is_new = match sink {
            Some(Sink::Queue(queue)) => self.is_new_to_queue(queue, stream, read.seq, read.lost),
            Some(Sink::Routes) | None => true,
        };
        if is_new {
            self.enqueue(key, &handed, true, now);
        }
        self.scratch = scratch;
        self.totals.proxied_messages += 1;
        self.to_release.push_back(key);
        self.settle(now);
        self.proxy_flow(attach)
    }

    fn note_ring_loss(&mut self, key: Key, gap: Gap) {
        let Some(subscription) = self.subscriptions.get_mut(key).filter(|_| gap.lost > 0) else { return };
        match subscription.sink {
            None => subscription.lose_behind(gap),
            Some(sink) => {
                subscription.lost = subscription.lost.saturating_add(gap.lost);
                match sink {
                    Sink::Queue(queue) => self.lost_before_queue(queue, gap.lost),
                    Sink::Routes => self.lost_before_routes(gap.lost),
                }
            }
        }
    }

    /// Whether a subscription has room for more. A lossy one that does not read is no reason to copy everything out of
    /// the ring only to drop it: what its publisher overwrites meanwhile is lost, and counted, all the same.
    fn proxy_flow(&mut self, attach: u64) -> Flow {
        let Some(key) = self.attachments.get(&attach).map(|attachment| attachment.subscription) else {
            return Flow::Close;
        };
        let Some(subscription) = self.subscriptions.get_mut(key) else {
            return Flow::Close;
        };
        if let Some(sink) = subscription.sink {
            if subscription.mode != Mode::Gated || !self.sink_holds_ring_up(key, sink, 0) {
                return Flow::Continue;
            }
            self.let_wait_for_room(key, attach);
            return Flow::Pause;
        }
        let max = subscription.backlog_bytes_max;
        let full = match subscription.mode {
            Mode::Gated => subscription.backlog_bytes >= max,
            // One that is to be disconnected for being slow has to come to that.
            Mode::Lossy if subscription.slow == SlowPolicy::Disconnect => false,
            Mode::Lossy => subscription.backlog_bytes > max - max / 8,
        };
        if !full || subscription.queue.is_empty() {
            return Flow::Continue;
        }
        subscription.waiting_proxies.push(attach);
        Flow::Pause
    }

    /// The ring says something that cannot be: its publisher's session ends, and this attachment with it.
    pub(super) fn proxy_is_cheated(&mut self, attach: u64, claim: &str, now: Now) {
        let Some(attachment) = self.attachments.get(&attach).filter(|each| each.proxy) else { return };
        let (publisher, stream) = (attachment.publisher, attachment.stream);
        self.doom(publisher, Code::FalseClaim, format!("stream {stream:016x} makes a false claim: {claim}"));
        self.proxy_is_done(attach, 0, now);
    }

    pub(super) fn proxy_is_done(&mut self, attach: u64, lost: u64, now: Now) {
        let Some(attachment) = self.attachments.get(&attach).filter(|each| each.proxy) else { return };
        let (key, topic, subscriber) = (attachment.subscription, attachment.topic, attachment.subscriber);
        let (draining, from) = (attachment.stage == Stage::Draining, attachment.from.clone());
        if let Some(name) = self.topics.get(topic).map(|entry| entry.name.clone()) {
            self.note_ring_loss(key, Gap { from, topic, name, lost });
        }
        if draining {
            self.remove_attachment(attach);
        } else {
            // The ring says that it ends before the publisher's frame about it has arrived.
            self.reader_refused(attach, 0);
        }
        self.settle(now);
        self.tell_gap(key);
        self.tell_gone(subscriber);
    }
}
