//! What this client has asked for and been given: requests, subscriptions, streams, attachments.
//!
//! Tables only, under one lock that is never held while waiting, while a ring is touched, or while
//! another lock of this crate but the outbound one is taken.

use crate::error::{Error, Result};
use crate::growth::Growth;
use crate::inbox::Inbox;
use crate::job_box::JobBox;
use crate::kept::Kept;
use crate::message::Source;
use crate::push::Pushes;
use crate::request::Asked;
use crate::service::CallBox;
use crate::stream::Stream;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tramline_ring::{ReaderLink, WriterLink};
use tramline_wire::{Filter, GateLimits, Geometry, Mode, Topic, Welcome};

/// A request's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Subscribed,
    StreamOpened,
    Pong,
    Consuming,
}

/// Who asked, when it was not a waiting thread.
pub(crate) enum Restoring {
    Subscription(u32),
    Consumer(u32),
    Provider(u32),
    Stream(u64),
}

/// What the broker said about itself and this session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) session: u64,
    pub(crate) version: String,
    pub(crate) frame_bytes_max: usize,
    pub(crate) ring_bytes_max: u64,
    pub(crate) ring_default: Geometry,
    pub(crate) gate: GateLimits,
}

impl From<&Welcome<'_>> for Greeting {
    fn from(welcome: &Welcome<'_>) -> Self {
        Self {
            session: welcome.session,
            version: welcome.version.to_owned(),
            frame_bytes_max: welcome.frame_bytes_max as usize,
            ring_bytes_max: welcome.ring_bytes_max,
            ring_default: welcome.ring_default,
            gate: welcome.gate,
        }
    }
}

/// What the operator set for the topics that a filter selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicSettings {
    pub(crate) filter: String,
    pub(crate) ring: Option<Geometry>,
    pub(crate) history: Option<u32>,
    /// The broker keeps so many after the publisher has gone, if they are there.
    pub(crate) retain: u32,
}

impl TopicSettings {
    pub(crate) fn covers(&self, topic: &str) -> bool {
        let matches = |topic| Filter::parse(&self.filter).is_ok_and(|filter| filter.matches(topic));
        Topic::parse(topic).is_ok_and(matches)
    }
}

/// An offer that this side accepted and whose memory has not come yet, or that is being read.
pub(crate) struct Reading {
    /// Unlike the attachment's id, it is never used again after a reconnect.
    pub(crate) token: u64,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) source: Arc<Source>,
    pub(crate) stream: u64,
    pub(crate) link: u64,
    pub(crate) slot: u32,
    pub(crate) in_place: bool,
    /// Whether that is so because the broker trusts the publisher.
    pub(crate) trusted: bool,
    /// The latest generation that came.
    pub(crate) generation: u32,
    /// As it was granted.
    pub(crate) mode: Mode,
    /// What a publisher left that has gone.
    pub(crate) retained: bool,
    pub(crate) attached: bool,
}

/// The reading side of a link.
pub(crate) struct ReadingLink {
    pub(crate) link: Arc<ReaderLink>,
    /// Its token in the subscription's epoll.
    pub(crate) token: u64,
    pub(crate) subscription: u32,
    /// The publishing session.
    pub(crate) publisher: u64,
    /// It has ended: the broker will not use this link again.
    pub(crate) over: bool,
}

/// A reader that one of this client's streams admitted.
pub(crate) struct Admission {
    pub(crate) stream: Arc<Stream>,
    /// The reader's id within the writer.
    pub(crate) reader: u64,
    pub(crate) slot: u32,
    pub(crate) link_token: u64,
    /// How long it is waited for when its link has hung up.
    pub(crate) keep: Duration,
    /// The connection on which it was admitted.
    pub(crate) connection: u64,
}

#[derive(Default)]
pub(crate) struct Session {
    next_request: u32,
    answers: HashMap<u32, Option<Result<Answer>>>,
    pub(crate) restoring: HashMap<u32, Restoring>,
    /// Publishes that wait for their confirmation, by alias and number.
    pub(crate) confirmations: HashMap<(u32, u64), Option<Result<u32>>>,
    /// A refusal of something that nobody waits for.
    pub(crate) fault: Option<Error>,
    pub(crate) greeting: Option<Greeting>,
    /// What the operator set for topics; complete once there is a greeting.
    pub(crate) topic_settings: Vec<TopicSettings>,
    /// The error that ended the client for good, for whoever was connecting.
    pub(crate) failure: Option<Error>,
    pub(crate) subscriptions: HashMap<u32, Arc<Inbox>>,
    pub(crate) next_subscription: u32,
    pub(crate) streams: HashMap<u64, Arc<Stream>>,
    /// Generations to come, by stream.
    pub(crate) growths: HashMap<u64, Growth>,
    /// By attachment, whose ids are unique across connections: what an earlier broker attached may be taken over by the next.
    pub(crate) readings: HashMap<u64, Reading>,
    pub(crate) reading_links: HashMap<u64, ReadingLink>,
    pub(crate) admissions: HashMap<u64, Admission>,
    /// Readers whose session has ended: they are not waited for, and end when their link hangs up.
    pub(crate) old_admissions: Vec<Admission>,
    /// Readers that have gone and are waited for a little longer.
    pub(crate) kept: Vec<Kept>,
    /// The writing side of this connection's links, by the broker's number: token and link.
    pub(crate) writing_links: HashMap<u64, (u64, Arc<WriterLink>)>,
    /// The same by token, those of earlier connections too.
    pub(crate) bells: HashMap<u64, Arc<WriterLink>>,
    /// What this client pushes to queues.
    pub(crate) pushes: Pushes,
    pub(crate) consumers: HashMap<u32, Arc<JobBox>>,
    pub(crate) next_consumer: u32,
    /// What this client asks of services.
    pub(crate) asked: Asked,
    /// What it provides itself.
    pub(crate) providers: HashMap<u32, Arc<CallBox>>,
    pub(crate) next_provider: u32,
    next_token: u64,
    pub(crate) inbox_bytes: Arc<AtomicUsize>,
}

impl Session {
    /// The publishing sessions for which this holds have ended: their links go as soon as nothing is read on them.
    pub(crate) fn end_links(&mut self, of: impl Fn(u64, &ReadingLink) -> bool) {
        let readings = &self.readings;
        self.reading_links.retain(|number, link| {
            link.over |= of(*number, link);
            !link.over || readings.values().any(|reading| reading.link == *number)
        });
    }

    /// A number that nothing else in this client has: tokens and readers' ids. Starts above the fixed tokens.
    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token + 15
    }

    /// Begins a request that somebody will wait for.
    pub(crate) fn begin(&mut self) -> u32 {
        let request = self.request_number();
        self.answers.insert(request, None);
        request
    }

    /// Whether the broker has not answered yet that this stream is open again on this connection.
    pub(crate) fn is_restoring(&self, stream: u64) -> bool {
        self.restoring.values().any(|each| matches!(each, Restoring::Stream(id) if *id == stream))
    }

    /// A number for a request that nobody waits for.
    pub(crate) fn request_number(&mut self) -> u32 {
        self.next_request = self.next_request.wrapping_add(1).max(1);
        self.next_request
    }

    /// Keeps an answer if somebody waits for it; says whether so.
    pub(crate) fn answer(&mut self, request: u32, answer: Result<Answer>) -> bool {
        match self.answers.get_mut(&request) {
            Some(place) => {
                *place = Some(answer);
                true
            }
            None => false,
        }
    }

    /// The answer, once; the request is forgotten then.
    pub(crate) fn take_answer(&mut self, request: u32) -> Option<Result<Answer>> {
        if self.answers.get(&request)?.is_none() {
            return None;
        }
        self.answers.remove(&request).flatten()
    }

    pub(crate) fn forget(&mut self, request: u32) {
        self.answers.remove(&request);
    }

    /// The connection is lost: whoever waits for the broker is told, and what only this connection knew
    /// is forgotten. Rings and their readers stay.
    pub(crate) fn disconnected(&mut self, reason: &Option<Box<str>>) {
        for answer in self.answers.values_mut().filter(|answer| answer.is_none()) {
            *answer = Some(Err(Error::Disconnected(reason.clone())));
        }
        for confirmation in self.confirmations.values_mut().filter(|answer| answer.is_none()) {
            *confirmation = Some(Err(Error::Disconnected(reason.clone())));
        }
        self.pushes.disconnected(reason);
        self.asked.disconnected(reason);
        self.restoring.clear();
        // Whoever waits for one looks again, and begins it anew or learns that the broker is down.
        self.growths.retain(|_, growth| matches!(growth, Growth::Making | Growth::Refused(_)));
        let subscriptions = &self.subscriptions;
        let links = &self.reading_links;
        self.readings.retain(|_, reading| {
            if !reading.attached {
                // Its publisher may have admitted it, and must not wait for a reader that there will never be.
                if let Some(link) = links.get(&reading.link) {
                    link.link.give_up_slot(reading.slot);
                }
                return false;
            }
            if !subscriptions.contains_key(&reading.inbox.id) {
                // Only messages are still held of it: the next broker knows of no such subscription.
                reading.inbox.unsubscribed.store(true, Ordering::Release);
                return false;
            }
            // Its readers keep the link; the next broker gives links numbers of its own.
            reading.link = 0;
            true
        });
        self.reading_links.clear();
        self.writing_links.clear();
    }
}
