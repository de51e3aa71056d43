//! What workers do: a message through the routes that look at it, and letters about what could not be delivered.
//!
//! Here nothing of the core is touched: a task has all it needs, and what comes of it goes back to the core as [`Done`].

use super::leg::json_flags;
use crate::core::session::Identity;
use crate::core::table::Key;
use crate::routes::Routes;
use crate::routes::envelope::{Native, PRIORITY_HEADER, VERSION_HEADER};
use crate::routes::expression::Meter;
use crate::routes::route::{OrderKey, Outcome, Part, Passed, Route, Try};
use crate::routes::settings::Destination;
use crate::routes::value::write_text;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tramline_wire::codec::{decode_message, encode_message};
use tramline_wire::headers::encode as encode_head;
use tramline_wire::{HeaderBlock, Message};

/// Something for a worker, whose place in the pool it names.
#[derive(Debug, Clone)]
pub struct Task {
    pub(super) worker: usize,
    pub(super) job: Job,
    pub(super) letters: LetterBytes,
}

/// The longest letters, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct LetterBytes {
    pub(super) to_topic: usize,
    pub(super) to_queue: usize,
}

impl LetterBytes {
    fn to(self, destination: Option<&Destination>) -> usize {
        match destination {
            Some(Destination::Queue(_)) => self.to_queue,
            Some(Destination::Topic(_) | Destination::Service(_)) | None => self.to_topic,
        }
    }
}

impl PartialEq for Task {
    fn eq(&self, other: &Self) -> bool {
        self.worker == other.worker && self.job.of() == other.job.of()
    }
}

impl Eq for Task {}

/// What there is to do.
#[derive(Debug, Clone)]
pub(super) enum Job {
    /// A message is treated by the routes at these places.
    Treat { item: Key, routes: Arc<Routes>, places: Arc<[usize]>, carried: Carried },
    /// A dead letter is written.
    Bury { leg: Key, routes: Arc<Routes>, place: usize, carried: Carried, reason: String, tries: Vec<Try> },
    /// What a service answered is made into what who asked gets.
    Reply { item: Key, route: Key, watched: Option<Key>, routes: Arc<Routes>, place: usize, reply: Carried },
}

/// What a job is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Item(Key),
    Leg(Key),
    /// The reply to an item, the route that it went through, and where it is kept for who looks.
    Reply(Key, Key, Option<Key>),
}

impl Job {
    fn of(&self) -> Of {
        match self {
            Self::Treat { item, .. } => Of::Item(*item),
            Self::Bury { leg, .. } => Of::Leg(*leg),
            Self::Reply { item, route, watched, .. } => Of::Reply(*item, *route, *watched),
        }
    }
}

/// A message as it came.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    pub(super) from: Arc<Identity>,
    pub(super) topic: Arc<str>,
    pub(super) bytes: Arc<[u8]>,
    pub(super) unix_nanos: i64,
}

impl Carried {
    /// The message as routes see it.
    fn native(&self) -> Native<'_> {
        let message = decode_message(&self.bytes).unwrap_or_default();
        let head = HeaderBlock::parse(message.head).unwrap_or_default();
        Native {
            topic: &self.topic,
            message_type: head.message_type().unwrap_or_default(),
            unix_nanos: self.unix_nanos,
            publisher: &self.from.name,
            priority: head.get(PRIORITY_HEADER),
            version: head.get(VERSION_HEADER),
            payload: message.payload,
        }
    }
}

/// What a destination gets, made by a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Body {
    /// Type and headers, if they are not those of the message as it came.
    pub(super) head: Option<Box<[u8]>>,
    pub(super) payload: Box<[u8]>,
    /// Where in the payload the destination's name goes.
    pub(super) name_at: Option<usize>,
    pub(super) key: OrderKey,
}

impl Body {
    fn of(payload: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { head: None, payload: payload.into(), name_at: None, key: OrderKey::default() })
    }

    /// The payload as this destination gets it.
    pub(super) fn payload_for(&self, name: &str) -> Cow<'_, [u8]> {
        let Some(at) = self.name_at else { return Cow::Borrowed(&self.payload) };
        let mut payload = Vec::with_capacity(self.payload.len() + name.len() + 16);
        payload.extend_from_slice(&self.payload[..at]);
        write_text(name, &mut payload);
        payload.extend_from_slice(&self.payload[at..]);
        Cow::Owned(payload)
    }

    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.head.as_ref().map_or(0, |head| head.len())
    }
}

/// What a route made of a message.
#[derive(Debug)]
pub(super) enum Made {
    Passed(Passed),
    Dropped,
    AsItCame(OrderKey),
    /// With what the invalid channel gets, if there is one.
    Invalid(String, Option<Arc<Body>>),
    Parts(Vec<PartMade>),
}

/// A part of a message; one that is not valid with what the invalid channel gets, if there is one.
pub(super) type PartMade = Result<Arc<Body>, (String, Option<Arc<Body>>)>;

/// What came of a job.
#[derive(Debug)]
pub(super) enum Came {
    /// By the places of routes.
    Treated(Key, Vec<(usize, Made)>),
    Letter(Key, Arc<Body>),
    /// By its item and route, and where it is kept for who looks; or why it is not valid.
    Reply(Key, Key, Option<Key>, Result<Arc<[u8]>, String>),
    /// It could not be carried out.
    Failed(Of, String),
}

/// What came of a task.
#[derive(Debug)]
pub struct Done {
    pub(super) worker: usize,
    pub(super) came: Came,
}

impl Task {
    /// The worker that it is for, from 0 on: what is for one worker is to be carried out in order.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// What the core is told if carrying it out fails.
    #[must_use]
    pub fn failure(&self) -> Done {
        let message = "the worker failed; the broker's log says more".to_owned();
        Done { worker: self.worker, came: Came::Failed(self.job.of(), message) }
    }

    /// Carries it out. `took` says how long that has taken so far.
    #[must_use]
    pub fn run(self, took: &dyn Fn() -> Duration) -> Done {
        let came = match self.job {
            Job::Treat { item, routes, places, carried } => {
                Came::Treated(item, treat(&routes, &places, &carried, self.letters, took))
            }
            Job::Bury { leg, routes, place, carried, reason, tries } => {
                let route = &routes.routes()[place];
                let write =
                    |native: &Native<'_>, out: &mut Vec<u8>| route.write_dead(native, &reason, &tries, out);
                let most = self.letters.to(route.settings().deliver.dead_letter.as_ref());
                let letter = letter(&carried.native(), most, write);
                Came::Letter(leg, Body::of(letter))
            }
            Job::Reply { item, route, watched, routes, place, reply } => {
                Came::Reply(item, route, watched, treat_reply(&routes, &routes.routes()[place], &reply))
            }
        };
        Done { worker: self.worker, came }
    }
}

/// A reply with another payload; everything else is as it came.
fn treat_reply(routes: &Routes, route: &Route, reply: &Carried) -> Result<Arc<[u8]>, String> {
    let payload = routes.treat_reply(route, &reply.native())?;
    let message = decode_message(&reply.bytes).unwrap_or_default();
    let mut bytes = Vec::with_capacity(payload.len() + message.head.len() + 64);
    let flags = json_flags(message.flags);
    encode_message(&mut bytes, &Message { flags, after: None, payload: &payload, ..message });
    Ok(bytes.into())
}

fn treat(
    routes: &Routes,
    places: &[usize],
    carried: &Carried,
    letters: LetterBytes,
    took: &dyn Fn() -> Duration,
) -> Vec<(usize, Made)> {
    let native = carried.native();
    let mut meter = Meter::new(routes.limits());
    let mut all = Vec::with_capacity(1);
    for place in places {
        let route = &routes.routes()[*place];
        let outcome = routes.treat(route, &native, &mut meter);
        let taken = !matches!(outcome, Outcome::Passed(_));
        all.push((*place, made(route, &native, outcome, (carried, letters), took)));
        if taken && !route.settings().goes_on {
            break;
        }
    }
    all
}

fn made(
    route: &Route,
    native: &Native<'_>,
    outcome: Outcome<'_>,
    (carried, letters): (&Carried, LetterBytes),
    took: &dyn Fn() -> Duration,
) -> Made {
    let letter = |native: &Native<'_>, reason: &str| {
        let most = letters.to(Some(route.settings().invalid.as_ref()?));
        let write = |native: &Native<'_>, out: &mut Vec<u8>| route.write_invalid(native, reason, out);
        Some(Body::of(letter(native, most, write)))
    };
    match outcome {
        Outcome::Passed(passed) => Made::Passed(passed),
        Outcome::Dropped(_) => Made::Dropped,
        Outcome::Forwarded(key) => Made::AsItCame(key),
        Outcome::Invalid(reason) => {
            let letter = letter(native, &reason);
            Made::Invalid(reason, letter)
        }
        Outcome::Made(parts) => {
            let part = |(part, key): &(Part<'_>, OrderKey)| {
                if let Part::Invalid { part, reason } = part {
                    let mut payload = Vec::new();
                    part.write(&mut payload);
                    return Err((reason.clone(), letter(&Native { payload: &payload, ..*native }, reason)));
                }
                let mut payload = Vec::new();
                let name_at = part.write_around(took(), &mut payload);
                let head = match part {
                    Part::Enveloped(output) if output.message_type != native.message_type => {
                        head_of(carried, &output.message_type)
                    }
                    _ => None,
                };
                Ok(Arc::new(Body { head, payload: payload.into(), name_at, key: *key }))
            };
            Made::Parts(parts.iter().map(part).collect())
        }
    }
}

/// Type and headers of a message that has another type now. A type that is none is left out.
fn head_of(carried: &Carried, message_type: &str) -> Option<Box<[u8]>> {
    let Message { head, .. } = decode_message(&carried.bytes).ok()?;
    let headers: Vec<(&str, &[u8])> = HeaderBlock::parse(head).ok()?.iter().collect();
    let mut out = Vec::new();
    match encode_head(&mut out, message_type, headers.iter().copied()) {
        Ok(()) => Some(out.into()),
        Err(_) => None,
    }
}

/// A letter about a message; without the message if it would be too long with it.
fn letter(native: &Native<'_>, most: usize, write: impl Fn(&Native<'_>, &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(native, &mut out);
    if out.len() > most {
        out.clear();
        write(&Native { payload: b"", ..*native }, &mut out);
    }
    out
}
