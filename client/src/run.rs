//! Messages of one source for one subscription that came behind each other, as the bytes they came in.
//!
//! The leader checks each frame and only notes how far they reach; their bytes go to the inbox in one piece, and the
//! consumer looks at each message there. So nothing is allocated, hashed or moved for a small message between
//! the socket and whoever reads it. Large messages stand alone: they are moved once, not twice.

use crate::bulk::BulkBytes;
use crate::inbox::{Inbox, Item};
use crate::message::{Message, MessageRef, Parts, Source};
use crate::reactor::lock;
use std::sync::{Arc, Mutex};
use tramline_ring::Meta;
use tramline_wire as wire;
use tramline_wire::limits::FRAME_BYTES_CEILING;
use tramline_wire::{Deliver, Framed, Job, split_frame};

/// Messages with frames up to this many bytes join a run.
pub(crate) const RUN_FRAME_BYTES_MAX: usize = 4096;

/// Most bytes of one run: what is looked at should still be in the core's cache.
pub(crate) const RUN_BYTES_MAX: usize = 128 * 1024;

/// Buffers kept for the next runs of a client, and the smallest that is worth it: memory that is given back to the
/// system and asked for again costs more than the bytes that are moved into it.
const SPARE_BUFFERS_MAX: usize = 4;
const SPARE_BYTES_MIN: usize = 16 * 1024;

/// Buffers of runs that were taken.
#[derive(Default)]
pub(crate) struct SpareBuffers(Mutex<Vec<Vec<u8>>>);

impl SpareBuffers {
    /// An empty buffer with room for so many bytes.
    fn take(&self, bytes: usize) -> Vec<u8> {
        let spare = if bytes < SPARE_BYTES_MIN { None } else { lock(&self.0).pop() };
        // All alike, so that each fits whatever comes next.
        spare.unwrap_or_else(|| {
            Vec::with_capacity(if bytes < SPARE_BYTES_MIN { bytes } else { RUN_BYTES_MAX })
        })
    }

    fn give(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() < RUN_BYTES_MAX {
            return;
        }
        buffer.clear();
        let mut spare = lock(&self.0);
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(buffer);
        }
    }
}

/// Whole `Deliver` frames, or `Job` frames, checked before, and which of them was looked at last.
pub(crate) struct Run {
    frames: Vec<u8>,
    at: usize,
    source: Arc<Source>,
}

impl Run {
    /// `frames` were taken apart before: each is a plain `Deliver` or a plain `Job` from `source`.
    pub(crate) fn new(frames: &[u8], source: Arc<Source>, spare: &SpareBuffers) -> Self {
        let mut buffer = spare.take(frames.len());
        buffer.extend_from_slice(frames);
        Self { frames: buffer, at: 0, source }
    }

    /// All were taken: what is left is room for others.
    pub(crate) fn give_back(self, spare: &SpareBuffers) {
        spare.give(self.frames);
    }

    /// Bytes it takes in this process's memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.frames.capacity()
    }

    #[inline]
    fn next_body(&mut self) -> Option<(&[u8], &Arc<Source>)> {
        let Self { frames, at, source } = self;
        let Ok(Framed::Whole { body, consumed }) = split_frame(&frames[*at..], FRAME_BYTES_CEILING) else {
            return None;
        };
        *at += consumed;
        Some((body, source))
    }

    #[inline]
    fn next(&mut self) -> Option<(Deliver<'_>, &Arc<Source>)> {
        let (body, source) = self.next_body()?;
        Some((Deliver::decode_plain(body)?, source))
    }

    /// The next job.
    #[inline]
    pub(crate) fn next_job(&mut self) -> Option<Waiting> {
        let (body, source) = self.next_body()?;
        Some(Waiting::new(&Job::decode_plain(body)?, source))
    }

    /// The next message, by itself.
    pub(crate) fn next_message(&mut self) -> Option<Message> {
        let (deliver, source) = self.next()?;
        Some(message(&deliver, source))
    }

    /// The next message, where it is.
    #[inline]
    pub(crate) fn show_next(&mut self, show: impl FnOnce(InRun<'_>)) -> bool {
        let Some((deliver, source)) = self.next() else { return false };
        show(InRun { deliver, source });
        true
    }
}

/// A message of a run, to be looked at or taken.
pub(crate) struct InRun<'a> {
    deliver: Deliver<'a>,
    source: &'a Arc<Source>,
}

impl InRun<'_> {
    #[inline]
    pub(crate) fn show(&self, each: &mut impl FnMut(MessageRef<'_>)) {
        each(MessageRef::new(parts(&self.deliver, self.source), self.deliver.message.payload));
    }

    pub(crate) fn into_message(self) -> Message {
        message(&self.deliver, self.source)
    }
}

#[inline]
fn parts<'a>(deliver: &Deliver<'a>, source: &'a Arc<Source>) -> Parts<'a> {
    let message = &deliver.message;
    let meta = Meta { flags: message.flags.bits(), time: message.time, source_time: message.source_time };
    Parts { source, seq: message.seq, lost: 0, meta, head: message.head }
}

/// A message that stands alone.
pub(crate) fn message(deliver: &Deliver<'_>, source: &Arc<Source>) -> Message {
    Message::from_socket(parts(deliver, source), deliver.message.payload, deliver.payload_length)
}

/// A job that waits in this process.
pub(crate) struct Waiting {
    pub(crate) message: Message,
    pub(crate) tag: u64,
    pub(crate) attempt: u32,
    pub(crate) priority: u8,
}

impl Waiting {
    #[inline]
    pub(crate) fn new(job: &Job<'_>, source: &Arc<Source>) -> Self {
        let Job { tag, attempt, priority, ref message, .. } = *job;
        Self { message: message_of(message, source), tag, attempt, priority }
    }

    /// One whose payload lies in the broker's ring.
    pub(crate) fn with_bulk(job: &Job<'_>, source: &Arc<Source>, bulk: BulkBytes) -> Self {
        let Job { tag, attempt, priority, ref message, .. } = *job;
        Self {
            message: Message::from_bulk(parts_of(message, source), Box::new(bulk)),
            tag,
            attempt,
            priority,
        }
    }
}

/// A message that came whole.
#[inline]
pub(crate) fn message_of(message: &wire::Message<'_>, source: &Arc<Source>) -> Message {
    Message::from_socket(parts_of(message, source), message.payload, message.payload.len() as u64)
}

/// What it says besides its payload.
#[inline]
pub(crate) fn parts_of<'a>(message: &wire::Message<'a>, source: &'a Arc<Source>) -> Parts<'a> {
    let meta = Meta { flags: message.flags.bits(), time: message.time, source_time: message.source_time };
    Parts { source, seq: message.seq, lost: 0, meta, head: message.head }
}

/// A run that grows while frames are taken apart.
pub(crate) struct Growing {
    pub(crate) inbox: Arc<Inbox>,
    alias: u32,
    source: Arc<Source>,
    /// Where its frames are in the buffer that was read into.
    start: usize,
    end: usize,
    messages: u32,
    next_seq: u64,
}

impl Growing {
    /// Begins with the message whose frame is `start..end` of the buffer.
    pub(crate) fn new(
        inbox: Arc<Inbox>,
        deliver: &Deliver<'_>,
        source: Arc<Source>,
        start: usize,
        end: usize,
    ) -> Self {
        let next_seq = deliver.message.seq.wrapping_add(1);
        Self { inbox, alias: deliver.source, source, start, end, messages: 1, next_seq }
    }

    /// The subscription, and the source by its alias.
    pub(crate) fn from(&self) -> (u32, u32) {
        (self.inbox.id, self.alias)
    }

    /// The number of its last message.
    pub(crate) fn last_seq(&self) -> u64 {
        self.next_seq.wrapping_sub(1)
    }

    /// Takes the next frame of the buffer, which ends at `end`, if it goes on with this: the same subscription and
    /// source, and the number that is due.
    #[inline]
    pub(crate) fn take(&mut self, deliver: &Deliver<'_>, end: usize) -> bool {
        let goes_on = deliver.sub == self.inbox.id
            && deliver.source == self.alias
            && deliver.message.seq == self.next_seq
            && end - self.end <= RUN_FRAME_BYTES_MAX
            && self.end - self.start <= RUN_BYTES_MAX - RUN_FRAME_BYTES_MAX;
        if goes_on {
            self.end = end;
            self.messages += 1;
            self.next_seq = self.next_seq.wrapping_add(1);
        }
        goes_on
    }

    /// What it came to: a message that stands alone, or several.
    pub(crate) fn finish(self, buffer: &[u8], spare: &SpareBuffers) -> (Arc<Inbox>, Item) {
        let Self { inbox, source, start, end, messages, .. } = self;
        let frames = &buffer[start..end];
        let alone = match split_frame(frames, FRAME_BYTES_CEILING) {
            Ok(Framed::Whole { body, .. }) if messages == 1 => Deliver::decode_plain(body),
            _ => None,
        };
        let item = match alone {
            Some(deliver) => Item::Message(message(&deliver, &source)),
            None => Item::Run(Run::new(frames, source, spare)),
        };
        (inbox, item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tramline_wire::{MessageFlags, ToClient, codec::encode_message};

    fn frame(seq: u64, payload: &[u8]) -> Vec<u8> {
        let flags = MessageFlags::default();
        let message =
            tramline_wire::Message { flags, seq, time: 5, source_time: 0, after: None, head: &[], payload };
        let (mut bytes, mut frame) = (Vec::new(), Vec::new());
        encode_message(&mut bytes, &message);
        ToClient::encode_deliver(&mut frame, 1, 2, payload.len() as u64, &bytes);
        frame
    }

    fn source() -> Arc<Source> {
        Arc::new(Source {
            topic: "a".to_owned(),
            name: "n".to_owned(),
            session: 1,
            uid: 2,
            pid: 3,
            client: 0,
        })
    }

    #[test]
    fn messages_are_shown_and_taken_in_their_order() {
        let spare = SpareBuffers::default();
        let frames: Vec<u8> =
            (1..=4_u8).flat_map(|seq| frame(seq.into(), &vec![7; 40 * usize::from(seq)])).collect();
        let mut run = Run::new(&frames, source(), &spare);
        assert!(run.held_bytes() >= frames.len());
        let mut seen = Vec::new();
        let mut see = |message: MessageRef<'_>| seen.push((message.seq(), message.payload().len()));
        assert!(run.show_next(|message| message.show(&mut see)));
        assert!(run.show_next(|message| message.show(&mut see)));
        let third = run.next_message().unwrap();
        assert_eq!((third.seq(), third.payload(), third.topic()), (3, &[7; 120][..], "a"));
        assert!(run.show_next(|message| assert_eq!(message.into_message().payload_length(), 160)));
        assert!(run.next_message().is_none() && !run.show_next(|_| panic!("there are four")));
        assert_eq!(seen, [(1, 40), (2, 80)]);
    }

    #[test]
    fn buffers_of_large_runs_are_used_again_and_their_number_is_bounded() {
        let spare = SpareBuffers::default();
        let large = frame(1, &[0; 20_000]);
        for _ in 0..2 {
            let runs: Vec<Run> =
                (0..SPARE_BUFFERS_MAX + 3).map(|_| Run::new(&large, source(), &spare)).collect();
            assert_eq!(lock(&spare.0).len(), 0);
            runs.into_iter().for_each(|run| run.give_back(&spare));
            assert_eq!(lock(&spare.0).len(), SPARE_BUFFERS_MAX);
        }
        Run::new(&frame(1, b"small"), source(), &spare).give_back(&spare);
        assert!(lock(&spare.0).iter().all(|buffer| buffer.is_empty() && buffer.capacity() >= RUN_BYTES_MAX));
    }
}
