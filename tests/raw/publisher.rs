//! A publisher with a ring, reduced to its frames: what the client library does, said out loud.

use super::{Raw, shown};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use tramline_ring::{ReadMode, RingSpec, Writer, WriterLink};
use tramline_wire::{Admit, GatedBy, Geometry, Mode, OpenStream, ToBroker, ToClient};

/// One session with one stream.
pub(crate) struct RawPublisher {
    pub(crate) raw: Raw,
    pub(crate) writer: Writer,
    pub(crate) stream: u64,
    links: HashMap<u64, Arc<WriterLink>>,
    /// The doorbells once more, for who rings nonsense.
    pub(crate) bells: Vec<OwnedFd>,
}

impl RawPublisher {
    /// Opens a session and a stream on `topic`, and admits whoever is there already. Returns how many those are.
    pub(crate) fn open(path: &Path, topic: &str, message_bytes: u64, messages: u32) -> (Self, u32) {
        let (mut raw, session) = Raw::open(path, "publisher");
        let stream = session << 8 | 1;
        let spec = RingSpec::sized(stream, message_bytes, messages).unwrap();
        let writer = Writer::create(&spec, messages).unwrap();
        raw.send(&ToBroker::Topic { alias: 1, topic });
        let geometry = Geometry { descriptors: spec.descriptors, arena_bytes: spec.arena_bytes };
        let open = OpenStream {
            req: 1,
            alias: 1,
            stream,
            generation: 0,
            geometry,
            first_seq: 1,
            gated_by: GatedBy::Anyone,
            fds: 1,
        };
        raw.send_with(&ToBroker::OpenStream(open), &[writer.memory()]);
        let mut publisher = Self { raw, writer, stream, links: HashMap::new(), bells: Vec::new() };
        let readers = publisher.admit_until_opened();
        (publisher, readers)
    }

    fn admit_until_opened(&mut self) -> u32 {
        loop {
            let body = self.raw.body();
            match ToClient::decode(&body) {
                Ok(ToClient::Admit(admit)) => self.admit(&admit),
                Ok(ToClient::StreamOpened { req: 1, stream, readers, pending: 0 }) => {
                    assert_eq!(stream, self.stream);
                    return readers;
                }
                _ => panic!("expected Admit or StreamOpened, got {}", shown(&body)),
            }
        }
    }

    /// Takes the next frame, which must be `Admit`, and admits.
    pub(crate) fn admit_next(&mut self) {
        let body = self.raw.body();
        let Ok(ToClient::Admit(admit)) = ToClient::decode(&body) else {
            panic!("expected Admit, got {}", shown(&body))
        };
        self.admit(&admit);
    }

    fn admit(&mut self, admit: &Admit<'_>) {
        let mut fds =
            (0..admit.fds).map(|_| self.raw.fds.pop_front().expect("descriptors come with their frame"));
        let page = admit.page.map(|declared| (declared, fds.next().unwrap()));
        if admit.bells {
            let (doorbell, space): (OwnedFd, OwnedFd) = (fds.next().unwrap(), fds.next().unwrap());
            self.bells.push(doorbell.try_clone().unwrap());
            self.links.insert(admit.link, Arc::new(WriterLink::new(doorbell, space).unwrap()));
        }
        drop(fds);
        let link = &self.links[&admit.link];
        if let Some((declared, page)) = page {
            link.add_page(page, declared.first_slot, declared.slots).unwrap();
        }
        let mode = match admit.mode {
            Mode::Gated => ReadMode::Gated,
            Mode::Lossy => ReadMode::Lossy,
        };
        let start = self.writer.add_reader(admit.attach, link, admit.slot, mode, admit.history).unwrap();
        let (attach, start, start_seq) = (admit.attach, start.position, start.seq);
        self.raw.send(&ToBroker::Admitted { attach, start, start_seq, generation: 0 });
    }

    /// Ends the stream after its `last_seq`, and waits for the broker's answer.
    pub(crate) fn close(&mut self, last_seq: u64) {
        self.writer.close();
        self.raw.send(&ToBroker::CloseStream { req: 2, stream: self.stream, last_seq });
        loop {
            let body = self.raw.body();
            match ToClient::decode(&body) {
                Ok(ToClient::Done { req: 2 }) => return,
                // A reader that came to the end of the ring before.
                Ok(ToClient::Detach { code: 0, .. }) => {}
                _ => panic!("expected Done, got {}", shown(&body)),
            }
        }
    }

    /// The ring's memory.
    pub(crate) fn memory(&self) -> impl AsFd + '_ {
        self.writer.memory()
    }
}
