//! What processes link to talk through a Tramline broker.

pub mod error;
mod clock;
mod builder;
mod client;
mod draft;
mod batch;
mod publisher;
mod loan;
mod subscription;
mod message;
mod consumer;
mod reading;
mod inbox;
mod publish;
mod topics;
mod rings;
mod stream;
mod handle;
mod background;
mod shared;
mod reactor;
mod signal;
mod inbound;
mod dispatch;
mod attachments;
mod reconnect;
mod session;
mod outbound;
mod socket;
#[cfg(feature = "serde")]
mod payload;

pub use batch::Batch;
pub use builder::ClientBuilder;
pub use client::{Client, MessageBuilder};
pub use clock::monotonic_nanos;
pub use consumer::PublisherEvent;
pub use error::{Error, Full, Limit, Result};
pub use loan::Loan;
pub use message::{INLINE_BYTES_MAX, Message, Source};
pub use publisher::{OnFull, Publisher, PublisherBuilder, PublisherMessage};
pub use subscription::{Subscription, SubscriptionBuilder};
pub use tramline_wire::{Code, Encoding, GatedBy, SlowPolicy};
#[cfg(feature = "zerocopy")]
mod loan_as;
#[cfg(feature = "zerocopy")]
pub use loan_as::LoanAs;
#[cfg(feature = "tokio")]
mod asynchronous;
#[cfg(feature = "tokio")]
pub use asynchronous::{
    AsyncClient, AsyncMessageBuilder, AsyncPublisher, AsyncPublisherBuilder, AsyncPublisherMessage, AsyncSubscription,
    AsyncSubscriptionBuilder,
};
