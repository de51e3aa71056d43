//! Opening and closing the rings that this client writes, declared ones and those that large payloads
//! open by themselves.

use crate::clock::random_id;
use crate::error::{Error, Limit, Result};
use crate::publish::close_route;
use crate::reactor::{lock, try_lock};
use crate::session::Answer;
use crate::shared::Shared;
use crate::stream::Stream;
use crate::topics::{Route, Topic};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tramline_ring::RingSpec;
use tramline_wire::{GatedBy, ToBroker};

/// Rings that large payloads may open by themselves, per client.
const IMPLICIT_RINGS_MAX: usize = 16;

/// Messages of the size that made it necessary that an implicit ring holds.
const IMPLICIT_MESSAGES: u32 = 4;

/// Descriptors of an implicit ring, so that small messages that follow find room, too.
const IMPLICIT_DESCRIPTORS: u32 = 64;

/// How long an implicit ring is kept without a message.
const IMPLICIT_IDLE: Duration = Duration::from_secs(10);

/// What a ring is to be like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingWish {
    /// Bytes of one message and how many; without, what the operator set for the topic, or the broker's default.
    pub(crate) capacity: Option<(u64, u32)>,
    /// Messages kept for late readers at least; without, what the operator set for the topic.
    pub(crate) history: Option<u32>,
    pub(crate) gated_by: GatedBy,
    pub(crate) implicit: bool,
}

impl Shared {
    /// Makes the memory and registers the stream. Blocks while the memory is filled.
    pub(crate) fn make_stream(
        &self,
        topic: &Arc<Topic>,
        first_seq: u64,
        wish: RingWish,
    ) -> Result<Arc<Stream>> {
        let (greeting, settings) = {
            let session = lock(&self.session);
            let greeting = session.greeting.clone().ok_or(Error::Disconnected(None))?;
            let settings = session.topic_settings.iter().find(|settings| settings.covers(&topic.name));
            (greeting, settings.cloned())
        };
        let (size, kept, retain) =
            settings.map_or((None, None, 0), |settings| (settings.ring, settings.history, settings.retain));
        let size = size.unwrap_or(greeting.ring_default);
        // What the broker is to keep afterwards must be there then.
        let history = wish.history.or(kept).unwrap_or(0).max(retain);
        let mut spec = match wish.capacity {
            Some((bytes, messages)) => {
                let sized = |messages: u32| RingSpec::sized(random_id(), bytes, messages.max(1));
                // Room for what is to be kept as well, if so large a ring is granted.
                let granted =
                    |spec: &RingSpec| spec.memory_bytes().is_ok_and(|bytes| bytes <= greeting.ring_bytes_max);
                match sized(messages.max(retain)).ok().filter(granted) {
                    Some(spec) => spec,
                    None => sized(messages)?,
                }
            }
            None => RingSpec {
                stream: random_id(),
                generation: 0,
                descriptors: size.descriptors,
                arena_bytes: size.arena_bytes,
                first_position: 0,
                first_seq,
            },
        };
        spec.first_seq = first_seq;
        let mut depth = wish.capacity.map_or(spec.descriptors, |(_, messages)| messages.max(1));
        if wish.implicit {
            spec.descriptors = spec.descriptors.max(IMPLICIT_DESCRIPTORS);
            depth = spec.descriptors;
        }
        if history > depth {
            spec.descriptors = spec.descriptors.max(history.next_power_of_two());
            depth = history;
        }
        let memory_bytes = spec.memory_bytes()?;
        if memory_bytes > greeting.ring_bytes_max {
            let limit = Limit {
                name: "limits.ring_bytes_max".to_owned(),
                value: greeting.ring_bytes_max,
                used: memory_bytes,
            };
            return Err(Error::Limit { limit: Box::new(limit) });
        }
        let budgets = (crate::gates::budget(greeting.gate), greeting.gate.held_bytes_max);
        let gates = (wish.gated_by, budgets);
        let messages = wish.capacity.map(|(_, messages)| messages.max(1));
        let size = (depth.min(spec.descriptors), messages);
        let stream = Stream::create(self, Arc::clone(topic), &spec, size, gates)?;
        Ok(Arc::new(stream))
    }

    /// Tells the broker; returns the request to wait for.
    pub(crate) fn announce_stream(&self, stream: &Arc<Stream>) -> Result<u32> {
        step!("open: memory made");
        let memory = stream.memory()?;
        let mut session = lock(&self.session);
        let mut outbound = lock(&self.outbound);
        self.check_open(&outbound)?;
        session.streams.insert(stream.id, Arc::clone(stream));
        let req = session.begin();
        let alias = outbound.define(0, &stream.topic.name);
        outbound.push_with(&ToBroker::OpenStream(stream.opening(req, alias)), vec![memory]);
        self.write_out(&mut outbound);
        step!("open: announced");
        Ok(req)
    }

    /// Opens a ring and waits until the subscribers present are admitted. `None`: another thread is
    /// opening one, or did.
    pub(crate) fn open_ring(&self, topic: &Arc<Topic>, wish: RingWish) -> Result<Option<Arc<Stream>>> {
        let Some(opening) = Opening::begin(self, topic, wish)? else { return Ok(None) };
        let stream = self.make_stream(topic, opening.first_seq(), wish)?;
        let request = self.announce_stream(&stream)?;
        let announced = opening.announced(&stream);
        match self.wait_for_answer(request, "answer to the opening of a ring")? {
            Answer::StreamOpened => Ok(Some(announced.opened())),
            other => Err(Error::Protocol(format!("{other:?} for an opened stream").into())),
        }
    }

    pub(crate) fn implicit_wish(&self, bytes: u64) -> Result<RingWish> {
        self.make_room_for_implicit()?;
        let ring_bytes_max =
            lock(&self.session).greeting.as_ref().map_or(u64::MAX, |greeting| greeting.ring_bytes_max);
        let rounded = bytes.checked_next_power_of_two().unwrap_or(bytes);
        // As large as usual if that is granted, else just large enough.
        let capacity = if rounded.saturating_mul(u64::from(IMPLICIT_MESSAGES) + 1) <= ring_bytes_max {
            (rounded, IMPLICIT_MESSAGES)
        } else {
            (bytes, 1)
        };
        Ok(RingWish { capacity: Some(capacity), history: None, gated_by: GatedBy::OwnUid, implicit: true })
    }

    pub(crate) fn open_implicit(&self, topic: &Arc<Topic>, bytes: u64) -> Result<()> {
        let wish = self.implicit_wish(bytes)?;
        self.open_ring(topic, wish).map(|_| ())
    }

    /// Closes the implicit ring that was unused for longest if there are as many as there may be.
    fn make_room_for_implicit(&self) -> Result<()> {
        let topics = lock(&self.topics.implicit).clone();
        if topics.len() < IMPLICIT_RINGS_MAX {
            return Ok(());
        }
        let used = |topic: &Arc<Topic>| match lock(&topic.state).route {
            Route::Ring { implicit, .. } => implicit,
            _ => None,
        };
        let Some(oldest) = topics.iter().min_by_key(|topic| used(topic)) else { return Ok(()) };
        self.close_implicit(oldest, Duration::ZERO);
        Ok(())
    }

    fn close_implicit(&self, topic: &Arc<Topic>, idle: Duration) {
        // Whoever holds the lock is using it right now.
        let Some(mut state) = try_lock(&topic.state) else { return };
        if let Route::Ring { implicit: Some(used), .. } = &state.route {
            if used.elapsed() < idle {
                return;
            }
            close_route(self, &mut state, false);
        }
        lock(&self.topics.implicit).retain(|other| other.id != topic.id);
    }

    /// Closes implicit rings, and that for large messages, when they are idle, and looks at budgets that are spent and readers that were waited for. Returns when to look again.
    pub(crate) fn housekeep(&self) -> Option<Instant> {
        let topics = lock(&self.topics.implicit).clone();
        for topic in &topics {
            self.close_implicit(topic, IMPLICIT_IDLE);
        }
        let idle = (!lock(&self.topics.implicit).is_empty()).then(|| Instant::now() + IMPLICIT_IDLE / 2);
        [idle, self.look_at_gates(), self.let_bulk_go(), self.end_kept()].into_iter().flatten().min()
    }

    /// Ends a declared publisher. Returns the request whose answer may be waited for.
    pub(crate) fn close_publisher(&self, stream: &Arc<Stream>, awaited: bool) -> Option<u32> {
        let mut state = lock(&stream.topic.state);
        let current = matches!(&state.route, Route::Ring { stream: current, .. } if current.id == stream.id);
        let request = if current { close_route(self, &mut state, awaited) } else { None };
        drop(state);
        self.reactor.changed();
        request
    }
}

/// A topic that waits for its ring. Dropped before it is open, it goes back to the socket.
pub(crate) struct Opening<'s> {
    shared: &'s Shared,
    topic: Arc<Topic>,
    implicit: bool,
    first_seq: u64,
    announced: Option<Arc<Stream>>,
    opened: bool,
}

impl<'s> Opening<'s> {
    /// Reserves the topic. `None`: another thread is opening a ring for it, or, for an implicit one, did.
    pub(crate) fn begin(shared: &'s Shared, topic: &Arc<Topic>, wish: RingWish) -> Result<Option<Self>> {
        let mut state = lock(&topic.state);
        match &state.route {
            Route::Opening => return Ok(None),
            Route::Ring { implicit: None, .. } if wish.implicit => return Ok(None),
            Route::Ring { implicit: None, .. } => return Err(Error::PublisherExists(topic.name.clone())),
            Route::Ring { .. } => {
                close_route(shared, &mut state, false);
                lock(&shared.topics.implicit).retain(|other| other.id != topic.id);
            }
            Route::Socket => {}
        }
        state.route = Route::Opening;
        Ok(Some(Self {
            shared,
            topic: Arc::clone(topic),
            implicit: wish.implicit,
            first_seq: state.next_seq,
            announced: None,
            opened: false,
        }))
    }

    /// The number of the ring's first message.
    pub(crate) fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// The broker was told.
    pub(crate) fn announced(mut self, stream: &Arc<Stream>) -> AnnouncedOpening<'s> {
        self.announced = Some(Arc::clone(stream));
        AnnouncedOpening { opening: self, stream: Arc::clone(stream) }
    }
}

/// An opening that the broker knows of.
pub(crate) struct AnnouncedOpening<'s> {
    opening: Opening<'s>,
    stream: Arc<Stream>,
}

impl AnnouncedOpening<'_> {
    /// The broker agreed.
    pub(crate) fn opened(mut self) -> Arc<Stream> {
        step!("open: opened");
        self.opening.opened = true;
        self.stream
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let Self { shared, topic, implicit, announced, opened, .. } = self;
        let route = match (announced.take(), opened) {
            (Some(stream), true) => Route::Ring { stream, implicit: implicit.then(Instant::now) },
            (Some(stream), false) => {
                // The broker may still agree; nothing was sent in it, and its end is told by closing it.
                lock(&shared.session).streams.remove(&stream.id);
                stream.close();
                Route::Socket
            }
            (None, _) => Route::Socket,
        };
        let has_timer = *implicit && matches!(route, Route::Ring { .. });
        lock(&topic.state).route = route;
        if has_timer {
            lock(&shared.topics.implicit).push(Arc::clone(topic));
            shared.reactor.background.raise();
            shared.reactor.kick();
        }
        shared.reactor.changed();
    }
}
