//! HTTP for people and monitoring: `/health`, `/status` and `/metrics`, read-only, on the broker's socket and
//! on an optional loopback port.
//!
//! All of it runs on one worker thread with a runtime of its own, so a slow scraper or a long page costs
//! the core's thread nothing but the [`Snapshot`](crate::core::Snapshot) it asks for. This module never changes the
//! broker's state, never sees a message, and offers nothing to other machines.
//!
//! ```text
//! shell: first byte is a letter ──► Worker::serve ──► connection ──► page ──► SnapshotSource ──► core's thread
//! loopback listener ─────────────────────────────────────┘            └──◄── Snapshot ◄──────────┘
//! ```
//!
//! # Layout
//!
//! * [`worker`]: the thread, its connections and their limits.
//! * [`source`]: how a snapshot is asked for and answered across threads.
//! * [`page`]: a request to a response.
//! * [`metrics`]: a snapshot to Prometheus and OpenMetrics text.

pub mod worker;

pub mod source;

pub mod page;

pub mod metrics;

pub use page::Door;
pub use source::{SnapshotAnswer, SnapshotRequests, SnapshotSource, snapshots};
pub use worker::{Worker, serve_connection};
