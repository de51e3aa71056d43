//! The rings that one subscription reads: which are hot, which sleep, and whose turn it is.
//!
//! Hot streams are looked at in turn, a few messages each, so that a busy one does not starve another.
//! Before the consumer sleeps every hot stream is armed and becomes idle; an idle one stays armed, costs
//! nothing, and becomes hot again when its doorbell names its slot. The work per message does not depend on
//! the number of idle streams.

mod shown;

pub(crate) use shown::Alone;

use crate::error::Error;
use crate::inbox::NewStream;
use crate::message::{Message, Source};
use crate::subscription::Take;
use shown::message;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tramline_ring::{Drained, Next, Reader, ReaderLink, RingError, Successor};
use tramline_wire::{After, Mode};

/// Messages taken from one stream before the next hot one has its turn.
const TURN_MESSAGES_MAX: u32 = 16;

/// The same where they are taken in batches.
const BATCH_MESSAGES_MAX: usize = 256;

/// Looks at a hot stream that find nothing before it is armed, while others are busy.
const COLD_AFTER: u32 = 256;

/// Hot streams glanced at between two looks.
const GLANCE_STREAMS_MAX: usize = 4;

struct Stream {
    attach: u64,
    token: u64,
    id: u64,
    reader: Reader,
    source: Arc<Source>,
    mode: Mode,
    link_token: u64,
    hot: bool,
    /// Looks in a row that found nothing.
    misses: u32,
    /// After a reconnect: the attachment that carries on with this number.
    next: Option<Box<NewStream>>,
    /// What the attachment before this one has brought already: up to this number.
    past: u64,
    /// The broker said that the publisher's session is over.
    gone: bool,
    /// Its link hung up: the publisher has gone.
    hung_up: bool,
}

impl Stream {
    fn ended(self, lost: u64) -> Found {
        // Where the publisher is still there, whoever ended this says why.
        let (last, cut_off) = (self.reader.last_seq(), self.reader.awaited().filter(|_| self.hung_up));
        Found::Ended { source: self.source, lost, last, gone: self.gone, cut_off }
    }

    /// Whether it is of this publisher and topic.
    fn is_of(&self, source: &Source) -> bool {
        let own = &self.source;
        own.client == source.client && own.pid == source.pid && own.topic == source.topic
    }

    /// Whether each message that comes is simply the next one.
    fn is_plain(&self) -> bool {
        self.next.is_none() && self.reader.last_seq() >= self.past
    }

    /// How many of `lost`, just before number `seq`, were not brought by the attachment before this one.
    fn newly_lost(&self, lost: u64, seq: u64) -> u64 {
        lost.min(seq.saturating_sub(self.past + 1))
    }
}

struct Link {
    link: Arc<ReaderLink>,
    streams: usize,
}

/// What a look at the rings found.
pub(crate) enum Found {
    Nothing,
    Message(Message),
    /// A stream has ended: who it was, and how many were lost after its last message.
    Ended {
        source: Arc<Source>,
        lost: u64,
        /// The last number that was read, or is known lost.
        last: u64,
        /// Its publisher's session is over, but perhaps not the publisher.
        gone: bool,
        /// It went on in this generation, which will not be given any more.
        cut_off: Option<u32>,
    },
    Failed(Failed),
    /// This many were lost where one attachment took over from another.
    Skipped(u64),
}

/// A stream said something impossible, or failed; it is not read any more.
pub(crate) struct Failed {
    pub(crate) attach: u64,
    pub(crate) token: u64,
    pub(crate) error: Error,
}

#[derive(Default)]
pub(crate) struct Rings {
    streams: Vec<Option<Stream>>,
    free: Vec<usize>,
    hot: VecDeque<usize>,
    /// Those that hold what a publisher left that has gone: they are read to their end before any other.
    past: VecDeque<usize>,
    links: HashMap<u64, Link>,
    by_slot: HashMap<(u64, u32), usize>,
    idle: usize,
    turn: u32,
    scratch: Vec<u8>,
    slots: Vec<u32>,
    /// A stream that failed at the last look.
    failed: Option<Stream>,
    /// There is no connection to a broker.
    cut: bool,
}

impl Rings {
    pub(crate) fn len(&self) -> usize {
        self.hot.len() + self.idle
    }

    pub(crate) fn has_hot(&self) -> bool {
        !self.hot.is_empty()
    }

    pub(crate) fn has_idle(&self) -> bool {
        self.idle > 0
    }

    /// Whether something is to be read before anything else.
    pub(crate) fn has_past(&self) -> bool {
        !self.past.is_empty()
    }

    /// Begins to read a stream. If it is read already, by an attachment of an earlier connection, that
    /// one is read up to where this one begins.
    pub(crate) fn add(&mut self, mut new: Box<NewStream>) {
        let same = |stream: &Option<Stream>| stream.as_ref().is_some_and(|stream| stream.id == new.stream);
        let index = self.streams.iter().position(same);
        if let Some((index, earlier)) = index.and_then(|index| Some((index, self.streams[index].as_mut()?))) {
            if let Some(carry) = new.carry.take() {
                // It may wait for this very generation; one that has too many already goes over without it.
                let _ = earlier.reader.offer(carry);
            }
            earlier.next = Some(new);
            return self.warm(index);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() - 1
        });
        let retained = new.retained;
        self.put(index, *new);
        self.hot.push_back(index);
        if retained {
            self.past.push_back(index);
        }
    }

    fn put(&mut self, index: usize, new: NewStream) {
        let link = self.links.entry(new.link_token).or_insert(Link { link: new.link, streams: 0 });
        link.streams += 1;
        self.by_slot.insert((new.link_token, new.reader.slot()), index);
        self.streams[index] = Some(Stream {
            attach: new.attach,
            token: new.token,
            id: new.stream,
            reader: new.reader,
            source: new.source,
            mode: new.mode,
            link_token: new.link_token,
            hot: true,
            misses: 0,
            next: None,
            past: 0,
            gone: false,
            hung_up: false,
        });
    }

    /// Takes a stream out of its place. The place is free, or given to the attachment that carries on.
    fn take_out(&mut self, index: usize) -> Option<Stream> {
        let mut stream = self.streams.get_mut(index)?.take()?;
        self.by_slot.remove(&(stream.link_token, stream.reader.slot()));
        self.past.retain(|past| *past != index);
        if let Some(link) = self.links.get_mut(&stream.link_token) {
            link.streams -= 1;
            if link.streams == 0 {
                self.links.remove(&stream.link_token);
            }
        }
        if stream.hot {
            self.hot.retain(|hot| *hot != index);
        } else {
            self.idle -= 1;
        }
        match stream.next.take() {
            Some(next) => {
                self.put(index, *next);
                self.hot.push_front(index);
            }
            None => self.free.push(index),
        }
        Some(stream)
    }

    /// The broker says that a publisher waits for a stream's reader no longer, or again.
    pub(crate) fn set_mode(&mut self, token: u64, mode: Mode) {
        let found = self.streams.iter_mut().flatten().find(|stream| stream.token == token);
        if let Some(stream) = found {
            stream.mode = mode;
        }
    }

    /// The broker is gone for good: what carries on a stream behind its current generation will not come any more.
    pub(crate) fn no_more_generations(&mut self) {
        for index in 0..self.streams.len() {
            if let Some(stream) = self.streams[index].as_mut() {
                stream.reader.no_successor();
                self.warm(index);
            }
        }
    }

    /// The connection to the broker is lost, or there is one again. While there is none, nobody can give what a publisher
    /// that has gone went on in.
    pub(crate) fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
        for index in 0..self.streams.len() {
            if cut && self.streams[index].as_ref().is_some_and(|stream| stream.hung_up) {
                self.warm(index);
            }
        }
    }

    /// A later generation for the attachment with this token.
    pub(crate) fn succeed(&mut self, token: u64, next: Successor) -> Result<(), RingError> {
        let of = |stream: &Stream| stream.token == token;
        let index = self.streams.iter().position(|stream| stream.as_ref().is_some_and(of));
        if let Some((index, stream)) = index.and_then(|index| Some((index, self.streams[index].as_mut()?))) {
            stream.reader.offer(next)?;
            self.warm(index);
            return Ok(());
        }
        let waiting = self.streams.iter_mut().flatten().filter_map(|stream| stream.next.as_mut());
        match waiting.into_iter().find(|waiting| waiting.token == token) {
            Some(waiting) => waiting.reader.offer(next),
            None => Ok(()),
        }
    }

    /// The broker says that an attachment has ended: what its ring holds is still read.
    pub(crate) fn detached(&mut self, token: u64, gone: bool) {
        let found = self
            .streams
            .iter()
            .position(|stream| stream.as_ref().is_some_and(|stream| stream.token == token));
        if let Some(index) = found {
            if let Some(stream) = self.streams[index].as_mut() {
                // It was told behind all memory that there was to give.
                stream.reader.no_successor();
                stream.gone = gone;
            }
            self.end_writing(index);
        }
    }

    /// The stream's publisher is on a new session.
    pub(crate) fn adopted(&mut self, token: u64, source: Arc<Source>) {
        if let Some(stream) = self.streams.iter_mut().flatten().find(|stream| stream.token == token) {
            stream.source = source;
        }
    }

    /// Whether this stream is read.
    pub(crate) fn reads(&self, id: u64) -> bool {
        self.streams.iter().flatten().any(|stream| stream.id == id)
    }

    /// How far a ring of this publisher and topic has been read, if one is being read.
    pub(crate) fn last_of(&self, source: &Source) -> Option<u64> {
        let streams = self.streams.iter().flatten().filter(|stream| stream.is_of(source));
        streams.map(|stream| stream.reader.last_seq()).max()
    }

    /// How far each ring has been read.
    pub(crate) fn each_last(&self, mut note: impl FnMut(&Source, u64)) {
        self.streams.iter().flatten().for_each(|stream| note(&stream.source, stream.reader.last_seq()));
    }

    fn end_writing(&mut self, index: usize) {
        if let Some(stream) = self.streams[index].as_mut() {
            stream.reader.writer_gone();
        }
        self.warm(index);
    }

    /// Makes a stream hot.
    fn warm(&mut self, index: usize) {
        let Some(stream) = self.streams.get_mut(index).and_then(Option::as_mut) else { return };
        stream.reader.disarm();
        stream.misses = 0;
        if !stream.hot {
            stream.hot = true;
            self.idle -= 1;
            self.hot.push_back(index);
        }
    }

    /// A doorbell rang: the streams it names are hot now.
    pub(crate) fn rang(&mut self, link_token: u64) {
        let Some(link) = self.links.get(&link_token) else { return };
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        let drained = link.link.drain(&mut slots);
        match drained {
            Drained::Some => {
                for slot in &slots {
                    if let Some(index) = self.by_slot.get(&(link_token, *slot)) {
                        self.warm(*index);
                    }
                }
            }
            Drained::All | Drained::HungUp => {
                for index in 0..self.streams.len() {
                    let of_link = self.streams[index].as_ref().is_some_and(|it| it.link_token == link_token);
                    match drained {
                        Drained::HungUp if of_link => {
                            if let Some(stream) = self.streams[index].as_mut() {
                                stream.hung_up = true;
                            }
                            self.end_writing(index);
                        }
                        _ if of_link => self.warm(index),
                        _ => {}
                    }
                }
            }
        }
        self.slots = slots;
    }

    /// Whether one of the hot streams has something; a bounded number of them is looked at.
    pub(crate) fn stir(&self) -> bool {
        self.hot.iter().take(GLANCE_STREAMS_MAX).any(|index| {
            self.streams[*index].as_ref().is_some_and(|stream| stream.next.is_some() || stream.reader.ready())
        })
    }

    /// The next message of any stream.
    pub(crate) fn take(&mut self) -> Found {
        self.failed = None;
        while let Some(index) = self.past.front().copied() {
            match self.take_from(index) {
                // It is closed, so there is a message or its end.
                Found::Nothing => self.past.retain(|past| *past != index),
                found => return found,
            }
        }
        for _ in 0..self.hot.len() {
            let Some(index) = self.hot.front().copied() else { break };
            match self.take_from(index) {
                Found::Nothing => {
                    self.turn = 0;
                    self.hot.rotate_left(1);
                    self.cool(index);
                }
                found => {
                    self.turn += 1;
                    if self.turn >= TURN_MESSAGES_MAX {
                        self.turn = 0;
                        if self.hot.front() == Some(&index) {
                            self.hot.rotate_left(1);
                        }
                    }
                    return found;
                }
            }
        }
        Found::Nothing
    }

    /// Hands over messages of the stream whose turn it is, as far as nothing else is to be minded; returns how many, how
    /// many were lost among them, and what ended it if that is more than an empty ring. Nothing is moved on this
    /// way, where [`take`](Self::take) hands a message through many hands.
    #[inline]
    pub(crate) fn take_each(&mut self, most: usize, into: &mut impl Take) -> (usize, u64, Option<Failed>) {
        let (mut count, mut lost) = (0, 0);
        let next = self.past.front().or_else(|| self.hot.front());
        let Some(index) = next.copied() else { return (count, lost, None) };
        let Some(stream) = self.streams[index].as_mut().filter(|stream| stream.is_plain()) else {
            return (count, lost, None);
        };
        let most = most.min(BATCH_MESSAGES_MAX);
        let failed = loop {
            // What is packed is at hand; the rest is looked for.
            match take_packed(stream, most - count, into) {
                Ok(packed) => count += packed,
                Err(error) => break Some(error),
            }
            if count == most || !stream.reader.has_message() {
                break None;
            }
            match stream.reader.try_next(&mut self.scratch) {
                Ok(Next::Message(received)) => {
                    count += 1;
                    lost = received.lost.saturating_add(lost);
                    into.alone(Alone { source: &stream.source, received, scratch: &mut self.scratch });
                }
                Ok(_) => break None,
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = failed {
            let (attach, token) = (stream.attach, stream.token);
            self.failed = self.take_out(index);
            return (count, lost, Some(Failed { attach, token, error: error.into() }));
        }
        if count > 0 {
            stream.misses = 0;
            self.turn = 0;
            if self.past.is_empty() && self.hot.len() > 1 {
                self.hot.rotate_left(1);
            }
        }
        (count, lost, None)
    }

    /// A stream that stays empty while others are busy goes to sleep.
    fn cool(&mut self, index: usize) {
        let Some(stream) = self.streams[index].as_mut() else { return };
        stream.misses += 1;
        if stream.misses >= COLD_AFTER && self.hot.len() > 1 {
            stream.misses = 0;
            if !stream.reader.arm() {
                stream.hot = false;
                self.idle += 1;
                self.hot.retain(|hot| *hot != index);
            }
        }
    }

    fn take_from(&mut self, index: usize) -> Found {
        loop {
            if let Some(found) = self.look_at(index) {
                return found;
            }
        }
    }

    /// One look at a stream. `None`: look again, what was there has been brought before.
    fn look_at(&mut self, index: usize) -> Option<Found> {
        let Some(stream) = self.streams[index].as_mut() else { return Some(Found::Nothing) };
        let before = stream.reader.last_seq();
        let next_seq = stream.next.as_ref().map(|next| next.first_seq);
        if next_seq.is_some_and(|next_seq| before + 1 >= next_seq) {
            return self.go_over(index, before);
        }
        Some(match stream.reader.try_next(&mut self.scratch) {
            // What the new attachment does not bring was in the ring before it was made.
            Ok(Next::Empty | Next::Ended { .. } | Next::Successor(_)) if next_seq.is_some() => {
                return self.go_over(index, before);
            }
            // An earlier attachment that fell behind may be ahead of the new one: that one brings it.
            Ok(Next::Message(received)) if next_seq.is_some_and(|next_seq| received.seq >= next_seq) => {
                drop(received);
                return self.go_over(index, before);
            }
            // Whoever could give what carries on has gone.
            Ok(Next::Successor(_)) if stream.hung_up && self.cut => {
                self.take_out(index).map_or(Found::Nothing, |stream| stream.ended(0))
            }
            // What carries on is on its way.
            Ok(Next::Empty | Next::Successor(_)) => Found::Nothing,
            // It came by the attachment before this one, which was read on while this one was being made.
            Ok(Next::Message(received)) if received.seq <= stream.past => {
                drop(received);
                return None;
            }
            Ok(Next::Message(mut received)) => {
                stream.misses = 0;
                received.lost = stream.newly_lost(received.lost, received.seq);
                Found::Message(message(&stream.source, received, &mut self.scratch))
            }
            Ok(Next::Ended { lost }) => match self.take_out(index) {
                Some(ended) if ended.past > before => {
                    let lost = ended.newly_lost(lost, ended.reader.last_seq() + 1);
                    ended.ended(lost)
                }
                Some(ended) => ended.ended(lost),
                None => Found::Nothing,
            },
            Err(error) => {
                let (attach, token) = (stream.attach, stream.token);
                // Kept until the broker has been told why; letting go tells it that it is no longer wanted.
                self.failed = self.take_out(index);
                Found::Failed(Failed { attach, token, error: error.into() })
            }
        })
    }

    /// The attachment that carries on takes the place of the earlier one, which was read up to `before`. `None`: look at it.
    fn go_over(&mut self, index: usize, before: u64) -> Option<Found> {
        let past = self.take_out(index).map_or(before, |earlier| earlier.past.max(before));
        let stream = self.streams[index].as_mut()?;
        stream.past = past;
        let first = stream.reader.last_seq() + 1;
        match first.saturating_sub(past + 1) {
            0 => None,
            lost => Some(Found::Skipped(lost)),
        }
    }

    /// The next message that a socket message comes after, if it has not been read yet.
    pub(crate) fn take_before(&mut self, after: After) -> Found {
        let found = self.streams.iter().position(|stream| {
            stream.as_ref().is_some_and(|it| it.id == after.stream && it.reader.last_seq() < after.seq)
        });
        // Everything up to `after` was in the ring before the socket message was sent: an empty ring has
        // no more of it, only numbers that were used up without a message.
        found.map_or(Found::Nothing, |index| self.take_from(index))
    }

    /// Before sleeping: arms every hot stream. `true`: one has something, do not sleep.
    pub(crate) fn arm(&mut self) -> bool {
        let mut found = false;
        for _ in 0..self.hot.len() {
            let Some(index) = self.hot.pop_front() else { break };
            let Some(stream) = self.streams[index].as_mut() else { continue };
            if stream.next.is_some() || stream.reader.arm() {
                found = true;
                self.hot.push_back(index);
            } else {
                stream.hot = false;
                stream.misses = 0;
                self.idle += 1;
            }
        }
        found
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.streams.iter().flatten().map(|stream| &stream.source)
    }

    pub(crate) fn modes(&self) -> impl Iterator<Item = (&Arc<Source>, Mode)> {
        self.streams.iter().flatten().map(|stream| (&stream.source, stream.mode))
    }
}

/// Hands over up to `most` messages of the pack that is being read; returns how many. Their losses were told with the
/// pack's first message, which [`Reader::try_next`] brings.
#[inline]
fn take_packed(stream: &mut Stream, most: usize, into: &mut impl Take) -> Result<usize, RingError> {
    let mut count = 0;
    while count < most
        && let Some(packed) = stream.reader.next_packed()?
    {
        count += 1;
        into.packed(&stream.source, &packed);
    }
    Ok(count)
}
