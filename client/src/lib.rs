//! Skeleton of the public API (bodies follow).
#![allow(missing_docs, unused_variables, clippy::missing_errors_doc, clippy::todo, dead_code)]
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use tramline_wire::{Code, Encoding, GatedBy, SlowPolicy};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which limit was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit { pub name: String, pub value: u64, pub used: u64 }

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no broker at {}", .path.display())]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("{message}")]
    Refused { code: Code, message: String, limit: Option<Box<Limit>> },
    #[error("the connection is down")]
    Disconnected,
    #[error("closed")]
    Closed,
    #[error("full")]
    Full(Full),
    #[error("timed out: {0}")]
    TimedOut(String),
    #[error("{what}")]
    Io { what: &'static str, source: std::io::Error },
}
impl Error {
    pub fn code(&self) -> Code { todo!() }
    pub fn is_retryable(&self) -> bool { todo!() }
    pub fn limit(&self) -> Option<&Limit> { todo!() }
}
/// The ring is full; `into_loan` gives the filled loan back.
#[derive(Debug)]
pub struct Full { loan: Option<Box<Loan>> }
impl Full { pub fn into_loan(self) -> Option<Loan> { todo!() } }

#[derive(Clone)]
pub struct Client {}
pub struct ClientBuilder {}
impl ClientBuilder {
    pub fn name(self, name: impl Into<String>) -> Self { todo!() }
    pub fn socket(self, path: impl AsRef<Path>) -> Self { todo!() }
    /// How long a waiting thread looks again after the last traffic before it sleeps. Zero: always sleep.
    /// `Duration::MAX`: never sleep.
    pub fn spin(self, spin: Duration) -> Self { todo!() }
    /// Payloads from this size on open a ring by themselves (default 32 KiB).
    pub fn ring_payload_bytes_min(self, bytes: usize) -> Self { todo!() }
    pub fn reconnect(self, reconnect: bool) -> Self { todo!() }
    pub fn request_timeout(self, timeout: Duration) -> Self { todo!() }
    pub fn connect(self) -> Result<Client> { todo!() }
}
impl Client {
    pub fn connect() -> Result<Self> { todo!() }
    pub fn builder() -> ClientBuilder { todo!() }
    /// All publishes return the message's sequence number.
    pub fn publish(&self, topic: &str, payload: impl AsRef<[u8]>) -> Result<u64> { todo!() }
    pub fn publish_text(&self, topic: &str, text: impl AsRef<str>) -> Result<u64> { todo!() }
    #[cfg(feature = "serde")]
    pub fn publish_json<T: serde::Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<u64> { todo!() }
    #[cfg(feature = "serde")]
    pub fn publish_bincode<T: serde::Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<u64> { todo!() }
    /// Waits until the broker has it; returns how many subscriptions it was handed to.
    pub fn publish_confirmed(&self, topic: &str, payload: impl AsRef<[u8]>) -> Result<u32> { todo!() }
    /// A message with type, headers, encoding or source time.
    pub fn message<'a>(&'a self, topic: &'a str) -> MessageBuilder<'a> { todo!() }
    pub fn batch(&self) -> Batch { todo!() }
    pub fn publisher(&self, topic: &str) -> PublisherBuilder { todo!() }
    pub fn subscribe(&self, filter: &str) -> Result<Subscription> { todo!() }
    pub fn subscription(&self, filter: &str) -> SubscriptionBuilder { todo!() }
    /// Round trip to the broker.
    pub fn ping(&self) -> Result<Duration> { todo!() }
    /// Waits until everything published so far has left this process.
    pub fn flush(&self) -> Result<()> { todo!() }
    pub fn socket_path(&self) -> PathBuf { todo!() }
    pub fn is_connected(&self) -> bool { todo!() }
    pub fn session(&self) -> u64 { todo!() }
    pub fn broker_version(&self) -> String { todo!() }
}
/// Type, headers, encoding and source time of one message.
pub struct MessageBuilder<'a> { x: &'a () }
impl<'a> MessageBuilder<'a> {
    pub fn type_(self, message_type: &'a str) -> Self { todo!() }
    pub fn header(self, name: &'a str, value: &'a [u8]) -> Self { todo!() }
    pub fn encoding(self, encoding: Encoding) -> Self { todo!() }
    /// Nanoseconds since 1970 UTC.
    pub fn source_time(self, unix_nanos: i64) -> Self { todo!() }
    pub fn publish(self, payload: impl AsRef<[u8]>) -> Result<u64> { todo!() }
    pub fn publish_confirmed(self, payload: impl AsRef<[u8]>) -> Result<u32> { todo!() }
}
/// Many small publishes in one write.
pub struct Batch {}
impl Batch {
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Result<&mut Self> { todo!() }
    pub fn publish_with(&mut self, topic: &str, encoding: Encoding, payload: impl AsRef<[u8]>) -> Result<&mut Self> { todo!() }
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
    /// Sends and empties the batch, which can be filled again.
    pub fn send(&mut self) -> Result<()> { todo!() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull { Wait, Timeout(Duration), Fail, Drop }

pub struct PublisherBuilder {}
impl PublisherBuilder {
    /// Room for `messages` messages of up to `message_bytes` each.
    pub fn capacity(self, message_bytes: usize, messages: u32) -> Self { todo!() }
    pub fn on_full(self, on_full: OnFull) -> Self { todo!() }
    /// How many messages are kept for subscribers that come late.
    pub fn history(self, messages: u32) -> Self { todo!() }
    pub fn gated_by(self, who: GatedBy) -> Self { todo!() }
    pub fn open(self) -> Result<Publisher> { todo!() }
}
pub struct Publisher {}
impl Publisher {
    pub fn topic(&self) -> &str { todo!() }
    /// All sends return the sequence number. With `OnFull::Drop` a dropped message's number is returned too; see `dropped`.
    pub fn send(&mut self, payload: impl AsRef<[u8]>) -> Result<u64> { todo!() }
    pub fn try_send(&mut self, payload: impl AsRef<[u8]>) -> Result<u64> { todo!() }
    pub fn send_timeout(&mut self, payload: impl AsRef<[u8]>, timeout: Duration) -> Result<u64> { todo!() }
    pub fn send_batch<I>(&mut self, payloads: I) -> Result<u64> where I: IntoIterator, I::Item: AsRef<[u8]> { todo!() }
    pub fn loan(&mut self, bytes: usize) -> Result<Loan> { todo!() }
    pub fn try_loan(&mut self, bytes: usize) -> Result<Loan> { todo!() }
    pub fn message(&mut self) -> PublisherMessage<'_> { todo!() }
    pub fn subscriber_count(&self) -> usize { todo!() }
    pub fn wait_for_subscribers(&self, count: usize, timeout: Duration) -> Result<()> { todo!() }
    pub fn dropped(&self) -> u64 { todo!() }
    pub fn next_seq(&self) -> u64 { todo!() }
    pub fn message_bytes_max(&self) -> u64 { todo!() }
    pub fn close(self) -> Result<()> { todo!() }
}
impl AsFd for Publisher { fn as_fd(&self) -> BorrowedFd<'_> { todo!() } }
pub struct PublisherMessage<'a> { x: &'a () }
impl<'a> PublisherMessage<'a> {
    pub fn type_(self, message_type: &'a str) -> Self { todo!() }
    pub fn header(self, name: &'a str, value: &'a [u8]) -> Self { todo!() }
    pub fn encoding(self, encoding: Encoding) -> Self { todo!() }
    pub fn source_time(self, unix_nanos: i64) -> Self { todo!() }
    pub fn send(self, payload: impl AsRef<[u8]>) -> Result<u64> { todo!() }
    pub fn try_send(self, payload: impl AsRef<[u8]>) -> Result<u64> { todo!() }
    pub fn loan(self, bytes: usize) -> Result<Loan> { todo!() }
}
/// Room in the ring, to be filled in place.
#[derive(Debug)]
pub struct Loan {}
impl Loan {
    pub fn send(self) -> Result<u64> { todo!() }
    /// Sends the first `used` bytes.
    pub fn send_len(self, used: usize) -> Result<u64> { todo!() }
}
impl Deref for Loan { type Target = [u8]; fn deref(&self) -> &[u8] { todo!() } }
impl DerefMut for Loan { fn deref_mut(&mut self) -> &mut [u8] { todo!() } }

pub struct SubscriptionBuilder {}
impl SubscriptionBuilder {
    pub fn lossy(self) -> Self { todo!() }
    /// The default.
    pub fn gated(self) -> Self { todo!() }
    pub fn history(self, messages: u32) -> Self { todo!() }
    pub fn queue_bytes(self, bytes: u32) -> Self { todo!() }
    pub fn on_slow(self, policy: SlowPolicy) -> Self { todo!() }
    /// `false`: read no rings; the broker delivers everything by socket.
    pub fn rings(self, rings: bool) -> Self { todo!() }
    pub fn open(self) -> Result<Subscription> { todo!() }
}
/// Iterator, too: ends when the client is closed.
pub struct Subscription {}
impl Subscription {
    pub fn filter(&self) -> &str { todo!() }
    pub fn recv(&mut self) -> Result<Message> { todo!() }
    pub fn try_recv(&mut self) -> Result<Option<Message>> { todo!() }
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message>> { todo!() }
    /// Waits for one message, then takes what is there, up to `max` in all; appends, returns how many.
    pub fn recv_batch(&mut self, into: &mut Vec<Message>, max: usize) -> Result<usize> { todo!() }
    /// Publishers heard of now.
    pub fn publishers(&self) -> Vec<Arc<Source>> { todo!() }
    /// Publishers that appeared or left since the last call.
    pub fn events(&mut self) -> Vec<PublisherEvent> { todo!() }
    /// How many messages were lost so far.
    pub fn lost(&self) -> u64 { todo!() }
    /// Streams read through rings now.
    pub fn stream_count(&self) -> usize { todo!() }
}
impl Iterator for Subscription { type Item = Result<Message>; fn next(&mut self) -> Option<Self::Item> { todo!() } }
impl AsFd for Subscription { fn as_fd(&self) -> BorrowedFd<'_> { todo!() } }
#[derive(Debug, Clone)]
pub enum PublisherEvent { Appeared(Arc<Source>), Left(Arc<Source>) }
/// Who publishes what, as the broker vouches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source { pub topic: String, pub name: String, pub session: u64, pub uid: u32, pub pid: u32 }

#[derive(Debug)]
pub struct Message {}
impl Message {
    pub fn topic(&self) -> &str { todo!() }
    pub fn payload(&self) -> &[u8] { todo!() }
    /// The payload's length as published (more than `payload().len()` if it was cut for this client).
    pub fn payload_length(&self) -> u64 { todo!() }
    pub fn text(&self) -> Result<&str> { todo!() }
    pub fn seq(&self) -> u64 { todo!() }
    pub fn lost_before(&self) -> u64 { todo!() }
    /// CLOCK_MONOTONIC nanoseconds in the publisher.
    pub fn time(&self) -> u64 { todo!() }
    pub fn source_time(&self) -> Option<i64> { todo!() }
    pub fn encoding(&self) -> Encoding { todo!() }
    pub fn publisher(&self) -> &Source { todo!() }
    pub fn message_type(&self) -> Option<&str> { todo!() }
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> { std::iter::empty() }
    pub fn header(&self, name: &str) -> Option<&[u8]> { todo!() }
    /// Whether it came through a ring.
    pub fn from_ring(&self) -> bool { todo!() }
    /// Whether its bytes are read where they were published.
    pub fn in_place(&self) -> bool { todo!() }
    #[cfg(feature = "serde")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T> { todo!() }
    #[cfg(feature = "serde")]
    pub fn bincode<T: serde::de::DeserializeOwned>(&self) -> Result<T> { todo!() }
}
impl AsRef<[u8]> for Message { fn as_ref(&self) -> &[u8] { todo!() } }

/// CLOCK_MONOTONIC in nanoseconds, as message times are given.
pub fn monotonic_nanos() -> u64 { todo!() }
