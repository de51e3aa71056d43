//! What processes link to talk through a Tramline broker: publish, subscribe, and read large messages
//! where they were published.
//!
//! ```no_run
//! # #[cfg(feature = "serde")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tramline_client::Client;
//! # #[derive(serde::Serialize, serde::Deserialize)]
//! # struct Fix { lat: f64, lon: f64 }
//! # let fix = Fix { lat: 48.1, lon: 11.5 };
//!
//! let c = Client::connect()?; // or Client::builder().name("gps").socket(path).connect()
//! c.publish("gps.fix", b"raw")?;
//! c.publish_json("gps.fix", &fix)?;
//!
//! for msg in c.subscribe("gps.>")? {
//!     let m = msg?;
//!     let fix: Fix = m.json()?;
//!     if m.lost_before() > 0 {
//!         eprintln!("{} messages were lost before {}, {}", m.lost_before(), fix.lat, fix.lon);
//!     }
//! }
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "serde"))]
//! # fn main() {}
//! ```
//!
//! Small messages travel on the broker's socket. Large ones, and all messages of a declared publisher, go
//! through a ring: sealed shared memory that subscribers read in place, without the broker on the way.
//!
//! ```no_run
//! use std::io::Read;
//! use tramline_client::{Client, OnFull};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let c = Client::connect()?;
//! # let mut camera = std::io::repeat(7);
//!
//! let mut cam = c.publisher("cam.front").capacity(8 << 20, 4).on_full(OnFull::Drop).open()?;
//! if cam.subscriber_count() > 0 {
//!     let mut frame = cam.loan(8 << 20)?;
//!     camera.read_exact(&mut frame)?;
//!     frame.send()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `tokio` the same calls are awaited; with `bytes` a payload becomes
//! [`Bytes`](https://docs.rs/bytes) without a copy, and keeps its place in the ring until dropped:
//!
//! ```no_run
//! # #[cfg(all(feature = "tokio", feature = "bytes"))]
//! # async fn frames() -> Result<(), Box<dyn std::error::Error>> {
//! use bytes::Bytes;
//! use tramline_client::AsyncClient;
//!
//! let mut s = AsyncClient::connect().await?.subscribe("cam.*").lossy().await?;
//! while let Some(m) = s.next().await {
//!     let bytes: Bytes = m?.into_bytes(); // keeps the pin, no copy
//!     println!("{} bytes", bytes.len());
//! }
//! # Ok(())
//! # }
//! # fn main() {}
//! ```
//!
//! # What to expect
//!
//! * **Order** holds per publisher and topic, also when a topic moves from the socket to a ring or back.
//! * **Loss** is never silent: [`Message::lost_before`] is exact. A gated subscription (the default) loses
//!   nothing in rings, because its publishers wait for it; a lossy one never holds anybody up.
//! * **Waiting.** A thread that waits reads the socket and the rings itself, so a conversation of two
//!   processes crosses no third thread. After the last message it looks again for a while
//!   ([`ClientBuilder::spin`]), then it sleeps.
//! * **Threads.** A blocking client has one background thread, which takes over when none of the program's
//!   threads waits, so that subscribers are admitted and the connection is restored; it sleeps while nothing
//!   happens. An async client has none.
//! * **The broker may go.** Rings that are attached go on. The connection is restored with growing pauses,
//!   subscriptions and publishers are declared again, and numbering continues. What would need the broker
//!   meanwhile fails with [`Error::Disconnected`], which [is retryable](Error::is_retryable). A plain publish
//!   that the broker took into its death, or that was still waiting to be written, is not sent again: it shows as
//!   a gap ([`Message::lost_before`]) with the next message. Use `publish_confirmed` where that must be known.
//! * **Event loops.** [`Subscription`] and [`Publisher`] implement `AsFd`.
//! * **Fork.** A child gets [`Error::Forked`] from every call and connects anew; what it drops concerns nobody.
//!   Memory of rings is not inherited: a message held in place and a loan are empty there (bytes that
//!   `Message::into_bytes` made of one must not be touched). The broker notices when the parent dies, also
//!   while the child holds everything that the parent had open.
//!
//! # Features and dependencies
//!
//! | feature | what it adds |
//! |---|---|
//! | `tokio` | `AsyncClient` and its publishers and subscriptions |
//! | `serde` | payloads as JSON and bincode: `publish_json`, `Message::json`, `publish_bincode`, `Message::bincode` |
//! | `bytes` | `Message::into_bytes` |
//! | `zerocopy` | `Message::view::<T>()`, `Publisher::loan_as::<T>()`: typed access in place, without unsafe code |
//!
//! None is on by default. The default build links 7 crates besides Tramline's own two (bincode, unty,
//! rustix, bitflags, linux-raw-sys, libc, thiserror) and runs 7 more while compiling; no async runtime.
//!
//! # Layout
//!
//! What a program calls: [`Client`], [`Publisher`], [`Subscription`], [`Message`], and the same with `Async`.
//! Below it, in the order in which a message meets them: `publish` and `topics` (which plane, what number),
//! `rings` and `stream` (the writing side of rings), `outbound` (towards the socket), `reactor` and `shared`
//! (who reads the socket, how threads wait), `inbound` and `dispatch` (what arrives), `attachments` (how streams
//! and subscriptions meet), `reconnect`, `inbox`, `run`, `consumer` and `reading` (towards the subscription's owner).

// Names the steps at which this project's tests may have the process killed.
#[macro_use(step)]
extern crate tramline_ring;

mod builder;

mod client;

mod batch;

mod publisher;

mod loan;

#[cfg(feature = "zerocopy")]
mod loan_as;

mod subscription;

mod makers;
mod message;

mod error;

mod clock;

#[cfg(feature = "tokio")]
mod asynchronous;

#[cfg(feature = "serde")]
mod payload;

mod draft;

mod publish;

mod bulk;

mod push;

mod jobs;

mod job;

mod job_box;

mod job_run;

mod declare;

mod request;

mod service;

mod topics;

mod rings;

mod stream;

mod gates;

mod growth;

mod outbound;

mod handle;

mod background;

mod shared;

mod reactor;

mod signal;

mod inbound;

mod dispatch;

mod attachments;

mod adoption;

mod kept;

mod reconnect;

mod session;

mod heard;

mod inbox;

mod run;

mod consumer;

mod reading;

mod socket;

#[cfg(test)]
mod conversations;

#[cfg(test)]
mod going_over;

#[cfg(feature = "tokio")]
pub use asynchronous::{
    AsyncClient, AsyncConsumeBuilder, AsyncJobs, AsyncMessageBuilder, AsyncPublisher, AsyncPublisherBuilder,
    AsyncPublisherMessage, AsyncRequests, AsyncServiceBuilder, AsyncSubscription, AsyncSubscriptionBuilder,
};
pub use batch::Batch;
pub use builder::ClientBuilder;
pub use client::{Client, MessageBuilder};
pub use clock::monotonic_nanos;
pub use consumer::PublisherEvent;
pub use declare::QueueBuilder;
pub use error::{Error, Full, Limit, Result};
pub use job::Job;
pub use jobs::{ConsumeBuilder, Jobs};
pub use loan::Loan;
#[cfg(feature = "zerocopy")]
pub use loan_as::LoanAs;
pub use message::{INLINE_BYTES_MAX, Message, MessageRef, Source};
pub use publisher::{OnFull, Publisher, PublisherBuilder, PublisherMessage};
pub use push::PushBuilder;
pub use request::{PendingReply, RequestBuilder};
pub use service::{Request, Requests, ServiceBuilder};
pub use subscription::{Subscription, SubscriptionBuilder};
pub use tramline_wire::{Code, Encoding, GatedBy, Mode, SlowPolicy, Strategy, WhenFull};
