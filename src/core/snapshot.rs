//! What the broker is and does at one moment, as plain values: for `/status`, `/metrics` and the `status` operation.
//!
//! The core fills in what it knows. What only shared memory knows (how far a ring and its readers are) is
//! an `Option` that the shell fills in, from the descriptors named beside it, which are not serialised.
//! Ids that do not fit into a JSON number are hexadecimal text.

mod routes;

pub use routes::*;

use super::FdId;
use super::latency::Latency;
use serde::Serialize;
use tramline_wire::Geometry;

/// The broker at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The broker's version.
    pub version: String,
    /// This run of it, 16 hexadecimal digits.
    pub instance: String,
    /// Seconds since the core was first given the time.
    pub uptime_seconds: f64,
    /// Connections, by id.
    #[serde(rename = "clients")]
    pub sessions: Vec<SessionStatus>,
    /// Topics in use, by name.
    pub topics: Vec<TopicStatus>,
    /// Open streams, by topic and publisher.
    pub streams: Vec<StreamStatus>,
    /// What is kept of topics whose publisher has gone, by topic.
    pub retained: Vec<RetainedStatus>,
    /// Subscriptions, by session and number.
    pub subscriptions: Vec<SubscriptionStatus>,
    /// Queues, by name.
    pub queues: Vec<QueueStatus>,
    /// Services, by name.
    pub services: Vec<ServiceStatus>,
    /// Routes, in the order in which they look at messages.
    pub routes: Vec<RouteStatus>,
    /// What all routes share.
    pub routing: RoutingStatus,
    /// What keeps queues on disk.
    pub store: StoreStatus,
    /// Since the broker's start.
    pub totals: Totals,
    /// Every limit that something counts against.
    pub limits: Vec<LimitStatus>,
}

/// Messages and bytes by socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Messages published.
    pub messages_in: u64,
    /// Bytes of their payloads.
    pub bytes_in: u64,
    /// Messages delivered.
    pub messages_out: u64,
    /// Bytes of their payloads.
    pub bytes_out: u64,
    /// Messages dropped because a subscriber did not keep up.
    pub lost: u64,
}

/// One connection.
#[derive(Debug, Clone, Serialize)]
pub struct SessionStatus {
    /// Its id.
    pub id: u64,
    /// The name it gave; empty if it gave none.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Its uid.
    pub uid: u32,
    /// `native` or `json`.
    pub language: &'static str,
    /// Seconds since it connected.
    pub connected_seconds: f64,
    /// Number of its subscriptions.
    pub subscriptions: u32,
    /// Number of its open streams.
    pub streams: u32,
    /// What it published, and what was delivered to it.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Bytes that wait to be written.
    pub outbox_bytes: u64,
    /// Bytes that wait for it in the queues of its subscriptions.
    pub backlog_bytes: u64,
    /// Whether the broker has stopped reading from it for now.
    pub paused: bool,
}

/// One topic.
#[derive(Debug, Clone, Serialize)]
pub struct TopicStatus {
    /// Its name.
    pub topic: String,
    /// Subscriptions that match it.
    pub subscriptions: u32,
    /// Streams open on it.
    pub streams: u32,
    /// Messages published on it by socket since the broker knows it.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// What was published on it in rings since then, those that have ended included; completed by the shell.
    pub rings: RingCounts,
}

/// One stream.
#[derive(Debug, Clone, Serialize)]
pub struct StreamStatus {
    /// Its id, 16 hexadecimal digits.
    pub id: String,
    /// Its topic.
    pub topic: String,
    /// The publishing session.
    pub session: u64,
    /// The publisher's name.
    pub name: String,
    /// The publisher's process id.
    pub pid: u32,
    /// The publisher's uid.
    pub uid: u32,
    /// Generation of its memory.
    pub generation: u32,
    /// Descriptors of its ring.
    pub descriptors: u32,
    /// Bytes of its arena.
    pub arena_bytes: u64,
    /// Bytes of its memory in all.
    pub memory_bytes: u64,
    /// `any`, `uid` or `nobody`.
    pub gated_by: &'static str,
    /// Number of its first message.
    pub first_seq: u64,
    /// Who reads it.
    pub readers: Vec<ReaderStatus>,
    /// What the ring's header says; filled in by the shell.
    pub ring: Option<RingStatus>,
    /// What earlier generations said that are not among `parts` any more.
    #[serde(skip)]
    pub counted: RingCounts,
    /// The memory of its generations, the current one last.
    #[serde(skip)]
    pub parts: Vec<RingPart>,
    /// The stream's id as a number.
    #[serde(skip)]
    pub stream: u64,
}

/// What is kept of a topic whose publisher has gone.
#[derive(Debug, Clone, Serialize)]
pub struct RetainedStatus {
    /// The topic.
    pub topic: String,
    /// The publisher's name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Its uid.
    pub uid: u32,
    /// Messages kept.
    pub messages: u64,
    /// Number of the last of them.
    pub last_seq: u64,
    /// Bytes of memory they take.
    pub memory_bytes: u64,
}

/// One reader of a stream.
#[derive(Debug, Clone, Serialize)]
pub struct ReaderStatus {
    /// The attachment.
    pub attach: u64,
    /// The reading session.
    pub session: u64,
    /// Its name.
    pub name: String,
    /// Its subscription's number.
    pub sub: u32,
    /// `offered`, `admitting`, `attaching`, `attached` or `draining`.
    pub state: &'static str,
    /// `gated` or `lossy`, as it is now.
    pub mode: &'static str,
    /// The same as it was granted.
    pub granted: &'static str,
    /// Whether the broker reads on its behalf.
    pub proxy: bool,
    /// Messages published and not yet read; filled in by the shell.
    pub lag: Option<u64>,
    /// Messages lost to this reader; filled in by the shell.
    pub lost: Option<u64>,
    /// Messages held in place; filled in by the shell.
    pub pinned: Option<u32>,
    /// Where its cursor is.
    #[serde(skip)]
    pub page: Option<ReaderPage>,
}

/// Where a reader keeps its cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderPage {
    /// The page.
    pub memory: FdId,
    /// Its first slot's number.
    pub first_slot: u32,
    /// How many slots it has.
    pub slots: u32,
    /// The reader's slot.
    pub slot: u32,
}

/// The memory of one generation of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingPart {
    /// The memory.
    pub memory: FdId,
    /// The generation.
    pub generation: u32,
    /// Its size.
    pub geometry: Geometry,
    /// What it said when the broker was given it: of a stream that is opened again, more than nothing.
    pub before: RingCounts,
}

/// What went through rings. All values are the publishers' claims.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RingCounts {
    /// Messages published.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Messages that publishers dropped for want of room.
    pub dropped: u64,
    /// Times they waited for room.
    pub waits: u64,
}

impl RingCounts {
    /// Counts these, too.
    pub fn add(&mut self, more: Self) {
        self.messages = self.messages.saturating_add(more.messages);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.dropped = self.dropped.saturating_add(more.dropped);
        self.waits = self.waits.saturating_add(more.waits);
    }

    /// What has come since.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(before.messages),
            bytes: self.bytes.saturating_sub(before.bytes),
            dropped: self.dropped.saturating_sub(before.dropped),
            waits: self.waits.saturating_sub(before.waits),
        }
    }
}

/// What the headers of a stream's generations say. All values are the publisher's claims.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RingStatus {
    /// What went through it.
    #[serde(flatten)]
    pub counts: RingCounts,
    /// Messages that are still readable.
    pub depth: u64,
    /// Messages a second, since the shell last looked.
    pub messages_per_second: f64,
    /// Bytes a second, since the shell last looked.
    pub bytes_per_second: f64,
}

/// One subscription.
#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionStatus {
    /// The session.
    pub session: u64,
    /// Its number there.
    pub sub: u32,
    /// The filter.
    pub filter: String,
    /// `gated` or `lossy`.
    pub mode: &'static str,
    /// Whether the client reads rings itself.
    pub rings: bool,
    /// `block`, `drop_oldest` or `disconnect`.
    pub slow: &'static str,
    /// Messages delivered by socket.
    pub messages: u64,
    /// Messages dropped in the broker because it did not keep up.
    pub lost: u64,
    /// Messages that wait for it.
    pub backlog_messages: u64,
    /// Bytes that wait for it.
    pub backlog_bytes: u64,
    /// Streams attached to it.
    pub streams: u32,
}

/// What became of a queue's messages since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueueCounts {
    /// Taken in.
    pub pushed: u64,
    /// Not taken in, because they had been under the same id.
    pub duplicates: u64,
    /// Not taken in for want of room.
    pub refused: u64,
    /// Lost in rings of bound topics before they could be taken in, or too large for a frame.
    pub lost: u64,
    /// Given to consumers, each time counted.
    pub delivered: u64,
    /// Acknowledged.
    pub acked: u64,
    /// Given back by consumers.
    pub nacked: u64,
    /// Rejected by consumers.
    pub rejected: u64,
    /// Taken from consumers that did not settle them in time.
    pub timed_out: u64,
    /// Come back from consumers that had gone.
    pub returned: u64,
    /// Waited longer than they might.
    pub expired: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
    /// Thrown away by an administrator.
    pub purged: u64,
    /// Become dead letters.
    pub dead: u64,
    /// Dead letters dropped for want of room.
    pub dead_dropped: u64,
    /// Dead letters put back into the queue.
    pub replayed: u64,
    /// Dead letters thrown away by an administrator.
    pub dead_purged: u64,
}

/// What keeps queues on disk.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreStatus {
    /// The file; none while there is no queue on disk.
    pub file: Option<String>,
    /// `writable`, `full` (queues on disk take nothing until there is room) or `failed` (until the broker is restarted).
    pub state: &'static str,
    /// Why it is not writable.
    pub reason: Option<String>,
    /// What waits to be written, in bytes.
    pub waiting_bytes: u64,
    /// Connections that are not read until less waits.
    pub held_up: u64,
    /// What was written.
    #[serde(flatten)]
    pub counts: StoreCounts,
}

/// What was written to the store since the broker began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StoreCounts {
    /// Batches that were kept.
    pub batches: u64,
    /// Changes in them.
    pub changes: u64,
    /// The most changes in one.
    pub changes_most: u64,
    /// Batches that could not be kept.
    pub failures: u64,
    /// How long it took until the disk had them.
    pub fsync: Latency,
    /// The same of the last one, in nanoseconds.
    pub nanos_last: u64,
    /// The same of the slowest.
    pub nanos_most: u64,
    /// How large the file is.
    pub file_bytes: u64,
}

impl StoreCounts {
    /// One more batch was kept.
    pub(super) fn note(&mut self, written: super::durable::Written, changes: u64) {
        self.batches += 1;
        self.changes += changes;
        self.changes_most = self.changes_most.max(changes);
        self.fsync.note(written.nanos);
        self.nanos_last = written.nanos;
        self.nanos_most = self.nanos_most.max(written.nanos);
        self.file_bytes = written.file_bytes;
    }
}

/// One queue.
#[derive(Debug, Clone, Serialize)]
pub struct QueueStatus {
    /// Its name.
    pub queue: String,
    /// `round_robin`, `load_balance` or `failover`.
    pub strategy: &'static str,
    /// `none` or `disk`.
    pub durability: &'static str,
    /// `refuse`, `drop_oldest` or `dead_letter`.
    pub when_full: &'static str,
    /// Filters it is bound to.
    pub bind: Vec<String>,
    /// Whether it gives nothing out for now.
    pub paused: bool,
    /// Whether it is not in the configuration any more, and goes when it is empty.
    pub retiring: bool,
    /// Messages taken in a second, since the shell last looked.
    pub pushed_per_second: f64,
    /// Messages given out a second, since the shell last looked.
    pub delivered_per_second: f64,
    /// Messages it holds: waiting, not yet due, and in flight.
    pub messages: u64,
    /// Those of them that could be given out now.
    pub ready: u64,
    /// Those that are not due yet.
    pub delayed: u64,
    /// Those that consumers have.
    pub in_flight: u64,
    /// Those that are on their way to the disk.
    pub storing: u64,
    /// What they are counted for, in bytes.
    pub bytes: u64,
    /// Messages it may hold.
    pub messages_max: u64,
    /// Bytes it may hold.
    pub bytes_max: u64,
    /// Seconds since the oldest of those that come first was pushed; none when it is empty.
    pub oldest_seconds: Option<f64>,
    /// Dead letters that are kept.
    pub dead_letters: u64,
    /// What they are counted for, in bytes.
    pub dead_bytes: u64,
    /// Ids that are remembered.
    pub ids: u64,
    /// Ids that were forgotten before their time, for want of room.
    pub ids_forgotten: u64,
    /// What became of its messages.
    #[serde(flatten)]
    pub counts: QueueCounts,
    /// Who consumes.
    pub consumers: Vec<ConsumerStatus>,
}

/// One consumer of a queue.
#[derive(Debug, Clone, Serialize)]
pub struct ConsumerStatus {
    /// The session.
    pub session: u64,
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Its number in its session.
    pub consumer: u32,
    /// Messages that it has.
    pub in_flight: u64,
    /// Messages that it may be given now.
    pub credit: u64,
    /// Messages given to it.
    pub delivered: u64,
}

/// What one service has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ServiceCounts {
    /// Requests taken.
    pub requests: u64,
    /// Requests given to instances, each time counted.
    pub given: u64,
    /// Answers passed on.
    pub replies: u64,
    /// Errors of the application passed on.
    pub errors: u64,
    /// Requests that were taken and whose callers were told that there is no answer.
    pub unanswered: u64,
    /// Those of them whose time was over.
    pub timed_out: u64,
    /// Requests for which there was no instance.
    pub no_instance: u64,
    /// Requests that a limit did not let in.
    pub refused: u64,
    /// Requests whose callers gave up or went.
    pub cancelled: u64,
    /// Times a request was to go to another instance.
    pub retries: u64,
    /// Times an instance said that it could not.
    pub failed: u64,
    /// Requests that were at an instance when that went.
    pub deaths: u64,
    /// Times an instance was left out for a while.
    pub ejections: u64,
    /// Replies that nobody waited for any more.
    pub late_replies: u64,
    /// Answers dropped because their callers did not read.
    pub replies_dropped: u64,
}

/// One service.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub service: String,
    /// `round_robin`, `load_balance` or `failover`.
    pub strategy: &'static str,
    /// Requests without an outcome.
    pub outstanding: u64,
    /// Those of them that wait for an instance.
    pub waiting: u64,
    /// Requests without an outcome that there may be.
    pub outstanding_max: u64,
    /// Counters since its first instance came, or the broker's start if the configuration names it.
    #[serde(flatten)]
    pub counts: ServiceCounts,
    /// How long answers took.
    pub latency: Latency,
    /// Who provides it.
    pub instances: Vec<InstanceStatus>,
}

/// One instance of a service.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceStatus {
    /// The session.
    pub session: u64,
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Its number in its session.
    pub provider: u32,
    /// `open`, `ejected`, `trial` (back, with one request at a time) or `ending`.
    pub state: &'static str,
    /// Requests that it has.
    pub has: u64,
    /// Requests that it has not answered and that are over for their callers.
    pub over: u64,
    /// How many it works on at a time.
    pub concurrency: u64,
    /// Its failures, one after the other.
    pub failures: u64,
    /// Requests that it has answered in time.
    pub answered: u64,
}

/// Counters since the broker's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// What went through the broker by socket.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// What went through rings, those that have ended included; completed by the shell.
    pub rings: RingCounts,
    /// Bytes taken from clients.
    pub wire_bytes_in: u64,
    /// Bytes written to clients.
    pub wire_bytes_out: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused.
    pub connections_refused: u64,
    /// Requests refused.
    pub requests_refused: u64,
    /// Sessions closed for breaking the protocol.
    pub violations: u64,
    /// Sessions closed for not reading.
    pub slow_disconnects: u64,
    /// Times a publisher was held up by a slow subscriber.
    pub pauses: u64,
    /// Readers of rings that held a publisher up for too long and became lossy for a while.
    pub evictions: u64,
    /// Times the last messages of a topic whose publisher has gone were not kept, or dropped, for want of room.
    pub retained_dropped: u64,
    /// Attachments of an earlier run of the broker that were taken over.
    pub adoptions: u64,
    /// Streams opened.
    pub streams_opened: u64,
    /// Attachments made.
    pub attachments: u64,
    /// Ring messages delivered by the broker on behalf of clients without rings.
    pub proxied_messages: u64,
}

/// A limit and its use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitStatus {
    /// Its key under `limits:`.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What is used of it, where something is counted in all.
    pub used: Option<u64>,
}
