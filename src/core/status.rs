//! Fills in a [`Snapshot`] from what the core holds. Changes nothing.

use super::attachment::Attachment;
use super::broker::Core;
use super::queues::Account;
use super::rings::{Stage, Stream, mode_text};
use super::session::Session;
use super::snapshot::{
    LimitStatus, ReaderPage, ReaderStatus, SessionStatus, StreamStatus, SubscriptionStatus, TopicStatus,
};
use super::subscription::{Entry, Subscription};
use super::{Language, Now, Snapshot};
use tramline_wire::{GatedBy, SlowPolicy, Topic};

/// The language as people read it.
pub(super) fn language_text(language: Language) -> &'static str {
    match language {
        Language::Native => "native",
        Language::Json => "json",
    }
}

fn seconds(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Core {
    pub(super) fn status(&self, now: Now) -> Snapshot {
        let mut sessions: Vec<SessionStatus> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.id != 0)
            .map(|(_, session)| self.session_status(session, now))
            .collect();
        sessions.sort_by_key(|session| session.id);
        let mut subscriptions: Vec<SubscriptionStatus> =
            self.subscriptions.iter().filter_map(|(_, each)| self.subscription_status(each)).collect();
        subscriptions.sort_by_key(|each| (each.session, each.sub));
        let mut topics: Vec<TopicStatus> =
            self.topics.iter().map(|(_, entry)| self.topic_status(entry)).collect();
        topics.sort_by(|one, other| one.topic.cmp(&other.topic));
        let mut streams: Vec<StreamStatus> = self
            .streams
            .by_id
            .iter()
            .filter(|(_, stream)| stream.stage == Stage::Open)
            .filter_map(|(id, stream)| self.stream_status(*id, stream))
            .collect();
        streams.sort_by(|one, other| (&one.topic, one.session).cmp(&(&other.topic, other.session)));
        Snapshot {
            version: self.version.clone(),
            instance: format!("{:016x}", self.instance),
            uptime_seconds: seconds(now.monotonic.saturating_sub(self.started.unwrap_or(now.monotonic))),
            sessions,
            topics,
            streams,
            retained: self.retained_status(),
            subscriptions,
            queues: self.queue_status(now),
            services: self.service_status(),
            routes: self.route_status(),
            routing: self.routing_status(),
            store: self.store_status(),
            totals: self.totals,
            limits: self.limit_status(),
        }
    }

    fn session_status(&self, session: &Session, now: Now) -> SessionStatus {
        let own = session.subscriptions.values().filter_map(|key| self.subscriptions.get(*key));
        SessionStatus {
            id: session.id,
            name: session.identity.name.clone(),
            pid: session.peer.pid,
            uid: session.peer.uid,
            language: language_text(session.language),
            connected_seconds: seconds(now.monotonic.saturating_sub(session.connected)),
            subscriptions: count(session.subscriptions.len()),
            streams: count(session.streams.len()),
            traffic: session.traffic,
            outbox_bytes: session.outbox.len() as u64,
            backlog_bytes: own.map(|subscription| subscription.backlog_bytes as u64).sum(),
            paused: session.paused.is_some(),
        }
    }

    fn subscription_status(&self, subscription: &Subscription) -> Option<SubscriptionStatus> {
        let messages = subscription.queue.iter().map(|entry| match entry {
            Entry::Message(_) => 1,
            Entry::Run(run) => run.len(),
            Entry::Attach(_) | Entry::Loss(_) => 0,
        });
        Some(SubscriptionStatus {
            session: self.sessions.get(subscription.session)?.id,
            sub: subscription.number,
            filter: subscription.filter.to_string(),
            mode: mode_text(subscription.mode),
            rings: subscription.rings,
            slow: match subscription.slow {
                SlowPolicy::Block { .. } => "block",
                SlowPolicy::DropOldest => "drop_oldest",
                SlowPolicy::Disconnect => "disconnect",
            },
            messages: subscription.messages,
            lost: subscription.lost,
            backlog_messages: (messages.sum::<usize>() + subscription.held.len()) as u64,
            backlog_bytes: subscription.backlog_bytes as u64,
            streams: count(subscription.attachments.len()),
        })
    }

    fn topic_status(&self, entry: &super::topics::TopicEntry) -> TopicStatus {
        TopicStatus {
            topic: entry.name.to_string(),
            subscriptions: Topic::parse(&entry.name)
                .map_or(0, |topic| count(self.topics.count_matches(topic))),
            streams: count(entry.streams.len()),
            messages: entry.messages,
            bytes: entry.bytes,
            rings: entry.rings,
        }
    }

    fn stream_status(&self, id: u64, stream: &Stream) -> Option<StreamStatus> {
        let publisher = self.sessions.get(stream.session)?;
        let readers = stream.attachments.iter().filter_map(|attach| {
            self.attachments.get(attach).and_then(|attachment| self.reader_status(*attach, attachment))
        });
        Some(StreamStatus {
            id: format!("{id:016x}"),
            topic: self.topics.get(stream.topic)?.name.to_string(),
            session: publisher.id,
            name: publisher.identity.name.clone(),
            pid: publisher.peer.pid,
            uid: publisher.peer.uid,
            generation: stream.generation,
            descriptors: stream.geometry.descriptors,
            arena_bytes: stream.geometry.arena_bytes,
            memory_bytes: stream.all_bytes(),
            gated_by: match stream.gated_by {
                GatedBy::Anyone => "any",
                GatedBy::OwnUid => "uid",
                GatedBy::Nobody => "nobody",
            },
            first_seq: stream.first_seq,
            readers: readers.collect(),
            ring: None,
            counted: stream.counted,
            parts: stream.parts(),
            stream: id,
        })
    }

    fn reader_status(&self, attach: u64, attachment: &Attachment) -> Option<ReaderStatus> {
        let reader = self.sessions.get(attachment.subscriber)?;
        let page = attachment.slot.and_then(|slot| {
            let link = self.links.by_id.get(&attachment.link)?;
            let page = link.pages.iter().find(|page| page.holds(slot))?;
            let (first_slot, slots) = (page.declaration.first_slot, page.declaration.slots);
            Some(ReaderPage { memory: page.memory, first_slot, slots, slot })
        });
        Some(ReaderStatus {
            attach,
            session: reader.id,
            name: reader.identity.name.clone(),
            sub: self.subscriptions.get(attachment.subscription)?.number,
            state: attachment.stage.text(),
            mode: mode_text(attachment.mode),
            granted: mode_text(attachment.granted),
            proxy: attachment.proxy,
            lag: None,
            lost: None,
            pinned: None,
            page,
        })
    }

    fn limit_status(&self) -> Vec<LimitStatus> {
        let limits = &self.limits;
        let counted = |name, value: u32, used: usize| LimitStatus {
            name,
            value: value.into(),
            used: Some(used as u64),
        };
        let each = |name, value: u32| LimitStatus { name, value: value.into(), used: None };
        vec![
            counted("connections_max", limits.connections_max, self.sessions.len()),
            counted("subscriptions_max", limits.subscriptions_max, self.subscriptions.len()),
            counted("streams_max", limits.streams_max, self.streams.by_id.len()),
            counted("attachments_max", limits.attachments_max, self.attachments.len()),
            counted("topics_max", limits.topics_max, self.topics.len()),
            LimitStatus {
                name: "rings_bytes_max",
                value: limits.rings_bytes_max,
                used: Some(self.streams.bytes),
            },
            LimitStatus {
                name: "retained_bytes_max",
                value: limits.retained_bytes_max,
                used: Some(self.retention.bytes + self.pasts.bytes),
            },
            counted(
                "retained_topics_max",
                limits.retained_topics_max,
                self.retention.by_topic.len() + self.pasts.by_topic.len(),
            ),
            LimitStatus { name: "ring_bytes_max", value: limits.ring_bytes_max, used: None },
            each("frame_bytes_max", limits.frame_bytes_max),
            each("session_subscriptions_max", limits.session_subscriptions_max),
            each("session_streams_max", limits.session_streams_max),
            each("session_fds_in_flight_max", limits.session_fds_in_flight_max),
            each("backlog_bytes_max", limits.backlog_bytes_max),
            each("outbox_bytes_max", limits.outbox_bytes_max),
            each("match_cache_topics_max", limits.match_cache_topics_max),
            each("history_messages_max", limits.history_messages_max),
            counted("queues_max", limits.queues_max, self.queues.by_name.len()),
            LimitStatus {
                name: "queued_bytes_max",
                value: limits.queued_bytes_max,
                used: Some(self.queues.charges.bytes(Account::Memory)),
            },
            LimitStatus { name: "user_queued_bytes_max", value: limits.user_queued_bytes_max, used: None },
            LimitStatus {
                name: "stored_bytes_max",
                value: limits.stored_bytes_max,
                used: Some(self.queues.charges.bytes(Account::Disk)),
            },
            LimitStatus { name: "user_stored_bytes_max", value: limits.user_stored_bytes_max, used: None },
            LimitStatus { name: "queue_cache_bytes_max", value: limits.queue_cache_bytes_max, used: None },
            LimitStatus {
                name: "store_waiting_bytes_max",
                value: limits.store_waiting_bytes_max,
                used: Some(self.queues.ledger.waiting_bytes()),
            },
            LimitStatus { name: "store_batch_bytes_max", value: limits.store_batch_bytes_max, used: None },
            LimitStatus {
                name: "delivery_ring_bytes_max",
                value: limits.delivery_ring_bytes_max,
                used: None,
            },
            LimitStatus {
                name: "delivery_rings_bytes_max",
                value: limits.delivery_rings_bytes_max,
                used: Some(self.deliveries.bytes),
            },
            LimitStatus {
                name: "user_delivery_rings_bytes_max",
                value: limits.user_delivery_rings_bytes_max,
                used: None,
            },
            each("session_consumers_max", limits.session_consumers_max),
            each("prefetch_max", limits.prefetch_max),
            counted("services_max", limits.services_max, self.services.by_name.len()),
            each("session_services_max", limits.session_services_max),
            each("session_requests_max", limits.session_requests_max),
            each("json_payload_bytes_max", limits.json_payload_bytes_max),
            each("block_millis_max", limits.block_millis_max),
            each("block_publisher_millis_max", limits.block_publisher_millis_max),
            each("block_window_millis", limits.block_window_millis),
            each("gate_budget_millis_max", limits.gate_budget_millis_max),
            each("gate_publisher_millis_max", limits.gate_publisher_millis_max),
            each("gate_window_millis", limits.gate_window_millis),
            each("gate_cooldown_millis", limits.gate_cooldown_millis),
            LimitStatus { name: "held_bytes_max", value: limits.held_bytes_max, used: None },
            each("attach_timeout_millis", limits.attach_timeout_millis),
            each("adoption_grace_millis", limits.adoption_grace_millis),
            each("cursor_grace_millis", limits.cursor_grace_millis),
            each("first_byte_timeout_millis", limits.first_byte_timeout_millis),
        ]
    }
}
