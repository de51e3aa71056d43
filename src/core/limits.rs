//! Every limit of the broker, with its default. The configuration fills this in; the core reads it.
//! A limit's name is its key under `limits:` in the configuration, and ends in its unit and `max`.

use tramline_wire::Geometry;

/// The broker's limits and timings as the core uses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest frame body and JSON line taken from a client, in bytes.
    pub frame_bytes_max: u32,
    /// Connections at a time, of all languages.
    pub connections_max: u32,
    /// Subscriptions of one session.
    pub session_subscriptions_max: u32,
    /// Subscriptions in all.
    pub subscriptions_max: u32,
    /// Streams one session has open.
    pub session_streams_max: u32,
    /// Streams in all.
    pub streams_max: u32,
    /// Attachments of streams to subscriptions in all.
    pub attachments_max: u32,
    /// Largest memory of one ring, in bytes.
    pub ring_bytes_max: u64,
    /// Memory of all rings together, in bytes.
    pub rings_bytes_max: u64,
    /// Memory of the copies of what gone publishers sent, on topics with `retain`, in bytes; it counts as rings' too.
    pub retained_bytes_max: u64,
    /// Topics of which such a copy is kept.
    pub retained_topics_max: u32,
    /// Bytes that wait for one subscription before its slow-subscriber policy applies.
    pub backlog_bytes_max: u32,
    /// Bytes that wait in one session's outbox before its subscriptions queue up.
    pub outbox_bytes_max: u32,
    /// File descriptors in flight to or from one session.
    pub session_fds_in_flight_max: u32,
    /// Topics known at a time.
    pub topics_max: u32,
    /// Topics whose matching subscriptions are kept ready.
    pub match_cache_topics_max: u32,
    /// Longest time a slow subscriber may hold up publishers on the socket, in milliseconds.
    pub block_millis_max: u32,
    /// Longest time that slow subscribers may hold up one publisher on the socket in vain, all together within one window,
    /// in milliseconds.
    pub block_publisher_millis_max: u32,
    /// How long such a window lasts, in milliseconds.
    pub block_window_millis: u32,
    /// Longest time that one gated reader may hold up a ring's publisher within one window, in milliseconds.
    pub gate_budget_millis_max: u32,
    /// Longest time that all gated readers of a publisher may hold it up within one window, in milliseconds.
    pub gate_publisher_millis_max: u32,
    /// How long such a window lasts, in milliseconds.
    pub gate_window_millis: u32,
    /// How long a reader is lossy that held a publisher up for longer, in milliseconds.
    pub gate_cooldown_millis: u32,
    /// Bytes of a ring that one reader may hold in place while its publisher has no room; 0 for a quarter of the arena.
    pub held_bytes_max: u64,
    /// How long the other side of an attachment may take, in milliseconds.
    pub attach_timeout_millis: u32,
    /// How long attachments of an earlier run wait for their other side, once a client has named them, in milliseconds.
    pub adoption_grace_millis: u32,
    /// How long publishers keep the cursor of a queue on disk whose broker has died, in milliseconds; 0 for not at all, and
    /// the cursor follows what was read rather than what is on disk.
    pub cursor_grace_millis: u32,
    /// How long a connection may stay without its first byte, or a native one without `Hello`, in milliseconds.
    pub first_byte_timeout_millis: u32,
    /// Largest payload that JSON clients see whole, in bytes; above it they get `bytes` and a `preview`.
    pub json_payload_bytes_max: u32,
    /// Past messages that a subscription may ask for per stream.
    pub history_messages_max: u32,
    /// Queues.
    pub queues_max: u32,
    /// Bytes of messages in queues and dead letters, each counted with 150 more, of requests without an answer, with 512
    /// more, and of large messages of rings that wait for room where they go: in all.
    pub queued_bytes_max: u64,
    /// The same, of one user.
    pub user_queued_bytes_max: u64,
    /// The same of queues on disk, where only a part of each is in memory: in all.
    pub stored_bytes_max: u64,
    /// The same, of one user.
    pub user_stored_bytes_max: u64,
    /// Bytes of a queue on disk that are in memory: of each priority what comes first, and as much again of what is not
    /// due yet, and of what was given back with a delay.
    pub queue_cache_bytes_max: u64,
    /// Bytes that wait to be written to the store before producers are held up.
    pub store_waiting_bytes_max: u64,
    /// Bytes that are written to the store at a time.
    pub store_batch_bytes_max: u64,
    /// Largest payload of a queue's message, a request or a reply that travels by ring, in bytes, and of a topic's that queues
    /// and routes take from a ring; and memory of the ring in which one session is given them.
    pub delivery_ring_bytes_max: u64,
    /// Memory of all such rings together, in bytes.
    pub delivery_rings_bytes_max: u64,
    /// The same, of one user.
    pub user_delivery_rings_bytes_max: u64,
    /// Consumers of one session.
    pub session_consumers_max: u32,
    /// Messages that one consumer may have, and be allowed, at a time, and requests that one instance may.
    pub prefetch_max: u32,
    /// Services known at a time.
    pub services_max: u32,
    /// Services that one session provides.
    pub session_services_max: u32,
    /// Requests of one session without an answer.
    pub session_requests_max: u32,
    /// A ring's size unless its topic or publisher says otherwise.
    pub ring_default: Geometry,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 1024 * 1024,
            connections_max: 1024,
            session_subscriptions_max: 1024,
            subscriptions_max: 131_072,
            session_streams_max: 16_384,
            streams_max: 65_536,
            attachments_max: 262_144,
            ring_bytes_max: 1024 * 1024 * 1024,
            rings_bytes_max: 4 * 1024 * 1024 * 1024,
            retained_bytes_max: 64 * 1024 * 1024,
            retained_topics_max: 256,
            backlog_bytes_max: 4 * 1024 * 1024,
            outbox_bytes_max: 256 * 1024,
            session_fds_in_flight_max: 16,
            topics_max: 262_144,
            match_cache_topics_max: 16_384,
            block_millis_max: 1_000,
            block_publisher_millis_max: 2_000,
            block_window_millis: 10_000,
            gate_budget_millis_max: 5_000,
            gate_publisher_millis_max: 5_000,
            gate_window_millis: 5_000,
            gate_cooldown_millis: 10_000,
            held_bytes_max: 0,
            attach_timeout_millis: 1_000,
            adoption_grace_millis: 5_000,
            cursor_grace_millis: 30_000,
            first_byte_timeout_millis: 10_000,
            json_payload_bytes_max: 64 * 1024,
            history_messages_max: 4_096,
            queues_max: 1_024,
            queued_bytes_max: 1024 * 1024 * 1024,
            user_queued_bytes_max: 512 * 1024 * 1024,
            stored_bytes_max: 16 * 1024 * 1024 * 1024,
            user_stored_bytes_max: 8 * 1024 * 1024 * 1024,
            queue_cache_bytes_max: 4 * 1024 * 1024,
            store_waiting_bytes_max: 32 * 1024 * 1024,
            store_batch_bytes_max: 4 * 1024 * 1024,
            delivery_ring_bytes_max: 64 * 1024 * 1024,
            delivery_rings_bytes_max: 512 * 1024 * 1024,
            user_delivery_rings_bytes_max: 256 * 1024 * 1024,
            session_consumers_max: 1_024,
            prefetch_max: 4_096,
            services_max: 1_024,
            session_services_max: 1_024,
            session_requests_max: 1_024,
            ring_default: Geometry { descriptors: 256, arena_bytes: 256 * 1024 },
        }
    }
}
