//! Copying large payloads out of clients' rings and into those of their receivers, on two threads of their own.
//!
//! Each thread owns what it has mapped: one the rings that clients write, which it checks before it maps them, the other those
//! that the broker writes. So nothing is mapped twice and nobody waits for a lock. There is at most one payload on its way in
//! each direction for each session, and one of all rings of topics, which is what bounds what waits here. What a ring holds is
//! only ever copied, never looked at.

use super::broker::Shell;
use super::clock;
use crate::core::{Action, SessionId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tramline_ring::{Body, BulkReader, BulkWriter, Meta, Pinned, Received, RingError};
use tramline_wire::codec::encode_message_head;
use tramline_wire::{Code, Message, MessageFlags};

/// What was done.
#[derive(Debug)]
pub(super) enum Done {
    Fetched {
        session: SessionId,
        result: Result<Arc<[u8]>, (Code, String)>,
    },
    /// A message of a topic was copied for this attachment.
    Taken {
        attach: u64,
        message: Whole,
    },
    Made {
        session: SessionId,
        ring: u32,
        result: Result<OwnedFd, String>,
    },
    Placed {
        session: SessionId,
        ring: u32,
        result: Result<(), String>,
    },
}

#[derive(Debug)]
struct Fetch {
    session: SessionId,
    ring: u32,
    memory: Arc<OwnedFd>,
    bytes: u64,
    offset: u64,
    length: u64,
    head: Box<[u8]>,
}

/// A message of a topic's ring, copied whole.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) seq: u64,
    pub(super) lost: u64,
    pub(super) meta: Meta,
    pub(super) payload_length: usize,
    /// Type and headers as they were when they were copied: a claim.
    pub(super) head: Box<[u8]>,
    pub(super) bytes: Arc<[u8]>,
}

impl Whole {
    /// Copies a message as it travels. Its place in the ring is free then.
    fn copy(received: &Received, pinned: &Pinned) -> Self {
        let head: Box<[u8]> = pinned.head().into();
        let payload = pinned.payload();
        let Received { seq, lost, meta, .. } = *received;
        let message = Message {
            // The core looks at the claim itself.
            flags: MessageFlags::from_bits(meta.flags).unwrap_or_default(),
            seq,
            time: meta.time,
            source_time: meta.source_time,
            after: None,
            head: &head,
            payload: &[],
        };
        let mut front = Vec::new();
        encode_message_head(&mut front, &message, payload.len() as u64);
        let bytes = joined(&front, payload.len(), |room| room.copy_from_slice(payload));
        Self { seq, lost, meta, payload_length: payload.len(), head, bytes }
    }
}

/// A message of its front and of so many bytes that `fill` copies.
fn joined(front: &[u8], length: usize, fill: impl FnOnce(&mut [u8])) -> Arc<[u8]> {
    let mut message = tramline_ring::cleared_bytes(front.len() + length);
    let bytes = Arc::get_mut(&mut message).expect("nobody else has it yet");
    let (head, payload) = bytes.split_at_mut(front.len());
    head.copy_from_slice(front);
    fill(payload);
    message
}

#[derive(Debug)]
enum Inward {
    Fetch(Fetch),
    Take(u64, Received),
    Forget(SessionId),
}

#[derive(Debug)]
enum Outward {
    Make { session: SessionId, ring: u32, bytes: u64 },
    Place { session: SessionId, ring: u32, offset: u64, bytes: Arc<[u8]>, from: usize },
    Drop(SessionId),
}

/// The threads.
#[derive(Debug)]
pub(super) struct Bulks {
    inward: mpsc::Sender<Inward>,
    outward: mpsc::Sender<Outward>,
}

impl Bulks {
    /// Starts them. They end when this is dropped.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub(super) fn start(done: UnboundedSender<Done>) -> Result<Self, std::io::Error> {
        let (inward, jobs) = mpsc::channel();
        let told = done.clone();
        std::thread::Builder::new().name("bulk-in".to_owned()).spawn(move || bring_in(jobs, &told))?;
        let (outward, jobs) = mpsc::channel();
        std::thread::Builder::new().name("bulk-out".to_owned()).spawn(move || take_out(jobs, &done))?;
        Ok(Self { inward, outward })
    }

    /// Has a message that is pinned in a topic's ring copied; a [`Done::Taken`] follows.
    pub(super) fn take(&self, attach: u64, received: Received) {
        self.inward(Inward::Take(attach, received));
    }

    fn inward(&self, job: Inward) {
        self.inward.send(job).expect("the copying thread lives as long as its sender");
    }

    fn outward(&self, job: Outward) {
        self.outward.send(job).expect("the copying thread lives as long as its sender");
    }
}

/// Copies payloads of clients until nobody wants that any more.
fn bring_in(jobs: mpsc::Receiver<Inward>, done: &UnboundedSender<Done>) {
    let mut rings: HashMap<SessionId, (u32, BulkReader)> = HashMap::new();
    for job in jobs {
        match job {
            Inward::Forget(session) => drop(rings.remove(&session)),
            Inward::Take(attach, received) => {
                let Body::Pinned(pinned) = &received.body else { continue };
                let message = Whole::copy(&received, pinned);
                // Its publisher may have the place back before anybody looks at the copy.
                drop(received);
                if done.send(Done::Taken { attach, message }).is_err() {
                    return;
                }
            }
            Inward::Fetch(fetch) => {
                let session = fetch.session;
                let result = fetch.run(&mut rings).map_err(|error| {
                    let code = if error.is_claim() { Code::BadDescriptor } else { Code::NoResources };
                    (code, format!("a payload by ring: {error}"))
                });
                if done.send(Done::Fetched { session, result }).is_err() {
                    return;
                }
            }
        }
    }
}

impl Fetch {
    fn run(self, rings: &mut HashMap<SessionId, (u32, BulkReader)>) -> Result<Arc<[u8]>, RingError> {
        let Self { session, ring, memory, bytes, offset, length, head } = self;
        let open = || BulkReader::open(memory.as_fd(), bytes).map(|reader| (ring, reader));
        let (_, reader) = match rings.entry(session) {
            Entry::Occupied(mut known) => {
                if known.get().0 != ring {
                    known.insert(open()?);
                }
                known.into_mut()
            }
            Entry::Vacant(place) => place.insert(open()?),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        // Before there is memory for it.
        reader.check(offset, length)?;
        let mut copied = Ok(());
        let message = joined(&head, length, |payload| copied = reader.copy(offset, payload));
        tramline_ring::step!("bulk: fetched");
        copied.map(|()| message)
    }
}

/// Copies payloads to clients until nobody wants that any more.
fn take_out(jobs: mpsc::Receiver<Outward>, done: &UnboundedSender<Done>) {
    let mut rings: HashMap<SessionId, (u32, BulkWriter)> = HashMap::new();
    for job in jobs {
        let news = match job {
            Outward::Drop(session) => {
                drop(rings.remove(&session));
                continue;
            }
            Outward::Make { session, ring, bytes } => {
                // The former one goes first.
                drop(rings.remove(&session));
                let made = BulkWriter::create(bytes).map_err(|error| error.to_string());
                let result = made.and_then(|writer| {
                    let memory = writer.memory().try_clone_to_owned().map_err(|error| error.to_string())?;
                    rings.insert(session, (ring, writer));
                    Ok(memory)
                });
                Done::Made { session, ring, result }
            }
            Outward::Place { session, ring, offset, bytes, from } => {
                let known = rings.get_mut(&session).filter(|(known, _)| *known == ring);
                let result = match known {
                    Some((_, writer)) => {
                        writer.write(offset, &bytes[from..]).map_err(|error| error.to_string())
                    }
                    None => Err("its ring is gone".to_owned()),
                };
                tramline_ring::step!("bulk: placed");
                Done::Placed { session, ring, result }
            }
        };
        if done.send(news).is_err() {
            return;
        }
    }
}

impl Shell {
    /// Has a payload copied, or its ring made or forgotten.
    pub(super) fn move_bulk(&self, action: Action) {
        match action {
            Action::FetchBulk { session, ring, memory, bytes, offset, length, head } => {
                let mut state = self.state.borrow_mut();
                match state.descriptors.get(memory).cloned() {
                    Some(memory) => {
                        let fetch = Fetch { session, ring, memory, bytes, offset, length, head };
                        self.bulks.inward(Inward::Fetch(fetch));
                    }
                    None => {
                        let gone = (Code::BadDescriptor, "its memory is gone".to_owned());
                        state.core.bulk_fetched(session, Err(gone), clock::now());
                    }
                }
            }
            Action::ForgetBulk { session } => self.bulks.inward(Inward::Forget(session)),
            Action::MakeBulk { session, ring, bytes } => {
                self.bulks.outward(Outward::Make { session, ring, bytes });
            }
            Action::PlaceBulk { session, ring, offset, bytes, from } => {
                self.bulks.outward(Outward::Place { session, ring, offset, bytes, from });
            }
            Action::DropBulk { session } => self.bulks.outward(Outward::Drop(session)),
            _ => {}
        }
    }

    /// Tells the core what was done. Never returns before the broker ends.
    pub(super) async fn take_bulk_done(self: Rc<Self>, mut done: UnboundedReceiver<Done>) {
        while let Some(done) = done.recv().await {
            let now = clock::now();
            let mut state = self.state.borrow_mut();
            match done {
                Done::Taken { attach, message } => state.proxy_copied(attach, message),
                Done::Fetched { session, result } => state.core.bulk_fetched(session, result, now),
                Done::Made { session, ring, result } => {
                    let result = result.map(|memory| state.descriptors.insert(memory));
                    state.core.bulk_made(session, ring, result, now);
                }
                Done::Placed { session, ring, result } => state.core.bulk_placed(session, ring, result, now),
            }
            drop(state);
            self.settle_soon();
        }
    }
}
