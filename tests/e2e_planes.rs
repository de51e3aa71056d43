//! Both planes at once: what is published in a ring reaches whoever has no rings, a topic moves from the socket to
//! a ring and back without losing its order, and what processes leave behind when they go is nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;
mod support;

use raw::{Raw, message, shown, subscription};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use support::{Broker, JsonLines};
use tramline_ring::{Meta, ReadMode, RingSpec, SendError, Writer, WriterLink};
use tramline_wire::{
    After, Encoding, GatedBy, Geometry, Message, MessageFlags, Mode, OpenStream, Publish, SlowPolicy,
    Subscribe, ToBroker, ToClient,
};

const STREAM: u64 = 77;

/// The links of a publishing session. Their bells are sent once, and serve all its streams, one after the other too.
type Links = HashMap<u64, Arc<WriterLink>>;

/// A publisher with one ring on alias 0, which admits whoever asks.
struct Ringer {
    client: Raw,
    writer: Writer,
    links: Links,
}

impl Ringer {
    /// Declares the ring and admits the readers there are.
    fn open(client: Raw, spec: RingSpec, readers: u32) -> Self {
        Self::open_again(client, Links::new(), spec, readers)
    }

    /// The same in a session that had a ring before.
    fn open_again(client: Raw, links: Links, spec: RingSpec, readers: u32) -> Self {
        let writer = Writer::create(&spec, spec.descriptors).unwrap();
        let mut ringer = Self { client, writer, links };
        let geometry = Geometry { descriptors: spec.descriptors, arena_bytes: spec.arena_bytes };
        let frame = OpenStream {
            req: 1,
            alias: 0,
            stream: spec.stream,
            generation: 0,
            geometry,
            first_seq: spec.first_seq,
            gated_by: GatedBy::Anyone,
            fds: 1,
        };
        ringer.client.send_with(&ToBroker::OpenStream(frame), &[ringer.writer.memory()]);
        while let Some(opened) = ringer.serve() {
            if let ToClient::StreamOpened { readers: admitted, pending, .. } =
                ToClient::decode(&opened).unwrap()
            {
                assert_eq!((admitted, pending), (readers, 0));
                return ringer;
            }
        }
        panic!("the broker closed the connection");
    }

    /// Takes the next frame; admits and dismisses readers, and returns anything else.
    fn serve(&mut self) -> Option<Vec<u8>> {
        loop {
            let body = self.client.try_body()?;
            match ToClient::decode(&body).unwrap() {
                ToClient::Admit(admit) => {
                    let page = admit.page.map(|page| (page, self.client.fds.pop_front().unwrap()));
                    let bells = admit.bells.then(|| {
                        let mut next = || self.client.fds.pop_front().unwrap();
                        (next(), next())
                    });
                    if let Some((doorbell, space)) = bells {
                        self.links.insert(admit.link, Arc::new(WriterLink::new(doorbell, space).unwrap()));
                    }
                    let link = &self.links[&admit.link];
                    if let Some((page, fd)) = page {
                        link.add_page(fd, page.first_slot, page.slots).unwrap();
                    }
                    let mode = if admit.mode == Mode::Gated { ReadMode::Gated } else { ReadMode::Lossy };
                    let (attach, slot) = (admit.attach, admit.slot);
                    let start = self.writer.add_reader(attach, link, slot, mode, admit.history).unwrap();
                    let (start, start_seq) = (start.position, start.seq);
                    self.client.send(&ToBroker::Admitted { attach, start, start_seq, generation: 0 });
                }
                ToClient::Detach { attach, .. } => {
                    self.writer.remove_reader(attach);
                }
                _ => return Some(body),
            }
        }
    }

    /// Sends, and waits for room as a publisher does: says so, tries once more, then sleeps on the space bells.
    fn send(&mut self, payload: &[u8]) -> u64 {
        let meta = Meta { flags: MessageFlags::new(Encoding::Text).bits(), ..Meta::default() };
        loop {
            match self.writer.try_send(meta, b"", payload) {
                Ok(seq) => {
                    self.writer.end_wait();
                    return seq;
                }
                Err(SendError::Full { .. }) => {
                    self.writer.begin_wait();
                    if let Ok(seq) = self.writer.try_send(meta, b"", payload) {
                        self.writer.end_wait();
                        return seq;
                    }
                    let mut bells: Vec<_> = self
                        .links
                        .values()
                        .map(|link| {
                            let flags = rustix::event::PollFlags::IN;
                            rustix::event::PollFd::from_borrowed_fd(link.space(), flags)
                        })
                        .collect();
                    rustix::event::poll(&mut bells, None).unwrap();
                    for link in self.links.values() {
                        assert!(link.drain_space(), "the reader has gone");
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn close(mut self) -> (Raw, Links) {
        self.writer.close();
        let last_seq = self.writer.next_seq() - 1;
        self.client.send(&ToBroker::CloseStream { req: 2, stream: STREAM, last_seq });
        let done = self.serve().unwrap();
        assert_eq!(ToClient::decode(&done), Ok(ToClient::Done { req: 2 }), "{}", shown(&done));
        (self.client, self.links)
    }
}

fn spec(descriptors: u32, arena_bytes: u64, first_seq: u64) -> RingSpec {
    RingSpec { stream: STREAM, generation: 0, descriptors, arena_bytes, first_position: 0, first_seq }
}

fn publisher(broker: &Broker, topic: &str) -> Raw {
    let (mut client, _) = Raw::open(broker.socket(), "publisher");
    client.send(&ToBroker::Topic { alias: 0, topic });
    client
}

fn subscribed(broker: &Broker, ask: &str) -> JsonLines {
    let mut lines = broker.json();
    let answer = lines.ask(ask);
    assert_eq!(answer["ok"], true, "{answer}");
    lines
}

fn heard(lines: &mut JsonLines) -> Value {
    serde_json::from_str(&lines.hear()).unwrap()
}

/// Hears texts `1`, `2`, … up to `last`, in order, each numbered as it says.
fn hear_all(lines: &mut JsonLines, last: u64) {
    for seq in 1..=last {
        let line = heard(lines);
        assert_eq!(
            (line["seq"].as_u64(), line["text"].as_str()),
            (Some(seq), Some(&*seq.to_string())),
            "{line}"
        );
    }
}

#[test]
fn a_reliable_viewer_without_rings_gets_every_message_of_a_ring() {
    let broker = Broker::start();
    let mut viewer = subscribed(&broker, r#"{"op":"sub","topic":"cam.*","reliable":true}"#);
    // Many times around a ring of 16 messages, faster than anybody reads.
    const COUNT: u64 = 3_000;
    let mut ringer = Ringer::open(publisher(&broker, "cam.front"), spec(16, 64 * 1024, 1), 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seq in 1..=COUNT {
                assert_eq!(ringer.send(seq.to_string().as_bytes()), seq);
            }
        });
        hear_all(&mut viewer, COUNT);
    });
}

#[test]
fn a_viewer_that_does_not_read_never_holds_a_ring_up_and_is_told_exactly() {
    let broker = Broker::with_config("limits:\n  outbox_bytes_max: 16KiB\n  backlog_bytes_max: 64KiB\n");
    let mut viewer = subscribed(&broker, r#"{"op":"sub","topic":"cam.*"}"#);
    const COUNT: u64 = 5_000;
    let mut ringer = Ringer::open(publisher(&broker, "cam.front"), spec(16, 64 * 1024, 1), 1);
    let meta = Meta { flags: MessageFlags::new(Encoding::Text).bits(), ..Meta::default() };
    for _ in 0..COUNT {
        // Never full: a viewer that is not reliable gates nobody.
        ringer.writer.try_send(meta, b"", &[b'x'; 600]).unwrap();
    }
    ringer.close();
    let (mut received, mut lost) = (0, 0);
    while received + lost < COUNT {
        let line = heard(&mut viewer);
        if line["op"] == "gap" {
            lost += line["lost"].as_u64().unwrap();
        } else {
            received += 1;
            assert_eq!(line["seq"].as_u64(), Some(received + lost), "a loss that was not told, or wrongly");
        }
    }
    assert!(received > 0 && lost > 0, "{received} received, {lost} lost");
    assert_eq!(viewer.ask(r#"{"op":"ping"}"#)["ok"], true);
}

#[test]
fn each_viewer_has_its_own_place_in_a_ring() {
    let broker = Broker::start();
    let mut early = subscribed(&broker, r#"{"op":"sub","topic":"cam.front","reliable":true}"#);
    let mut ringer = Ringer::open(publisher(&broker, "cam.front"), spec(64, 64 * 1024, 1), 1);
    for seq in 1..=10_u64 {
        ringer.send(seq.to_string().as_bytes());
    }
    hear_all(&mut early, 10);
    let mut late = broker.json();
    late.say(r#"{"op":"sub","topic":"cam.front","history":3}"#);
    std::thread::scope(|scope| {
        // Whoever asks for a stream waits until its publisher has admitted it.
        let asked = scope.spawn(|| late.hear());
        ringer.client.send(&ToBroker::Ping { req: 9 });
        let mut bodies = Vec::new();
        while !asked.is_finished() {
            ringer.client.send(&ToBroker::Ping { req: 9 });
            bodies.push(ringer.serve().unwrap());
        }
        let answer = asked.join().unwrap();
        assert!(answer.contains(r#""ok":true"#), "{answer}");
    });
    ringer.send(b"11");
    for seq in 8..=11_u64 {
        assert_eq!(heard(&mut late)["seq"].as_u64(), Some(seq));
    }
    assert_eq!(heard(&mut early)["seq"], 11);
}

#[test]
fn a_topic_that_moves_to_a_ring_and_back_keeps_its_order() {
    let broker = Broker::start();
    let mut viewers: Vec<JsonLines> = (0..3)
        .map(|number| {
            let reliable = if number == 0 { "" } else { r#","reliable":true"# };
            subscribed(&broker, &format!(r#"{{"op":"sub","topic":"moving"{reliable}}}"#))
        })
        .collect();
    let (mut native, _) = Raw::open(broker.socket(), "native without rings");
    let slow = SlowPolicy::Block { millis: 60_000 };
    native.send(&ToBroker::Subscribe(Subscribe { mode: Mode::Gated, slow, ..subscription(1, "moving") }));
    native.expect(&ToClient::Subscribed { req: 1, sub: 1, streams: 0, pending: 0 });
    let (mut client, mut links) = (publisher(&broker, "moving"), Links::new());
    let flags = MessageFlags::new(Encoding::Text);
    let mut seq = 0;
    let mut texts = Vec::new();
    for round in 0..5 {
        let mut after = (round > 0).then_some(After { stream: STREAM, seq });
        for _ in 0..40 {
            seq += 1;
            texts.push(seq.to_string());
            let payload = texts.last().unwrap().as_bytes();
            let message = Message { flags, after: after.take(), ..message(seq, payload) };
            client.send(&ToBroker::Publish(Publish { alias: 0, message }));
        }
        let mut ringer = Ringer::open_again(client, links, spec(64, 64 * 1024, seq + 1), 4);
        for _ in 0..40 {
            seq += 1;
            assert_eq!(ringer.send(seq.to_string().as_bytes()), seq);
        }
        (client, links) = ringer.close();
    }
    for viewer in &mut viewers {
        hear_all(viewer, seq);
    }
    let mut next = 1;
    while next <= seq {
        let body = native.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Deliver(deliver) => {
                assert_eq!(deliver.message.seq, next);
                assert_eq!(deliver.message.payload, next.to_string().as_bytes());
                next += 1;
            }
            ToClient::Source(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_publisher_that_dies_leaves_what_it_published_and_nothing_else() {
    let broker = Broker::start();
    let mut viewer = subscribed(&broker, r#"{"op":"sub","topic":"cam.front","reliable":true}"#);
    let (files, mappings) = (broker.open_files(), broker.ring_mappings());
    for stream in 1..=20 {
        // The one before may be read to its end before its session has ended.
        let spec = RingSpec { stream, ..spec(64, 64 * 1024, 1) };
        let mut ringer = Ringer::open(publisher(&broker, "cam.front"), spec, 1);
        for seq in 1..=40_u64 {
            ringer.send(seq.to_string().as_bytes());
        }
        // No close, no farewell: the connection and the bells simply end.
        std::mem::forget(ringer.writer);
        drop((ringer.client, ringer.links));
        hear_all(&mut viewer, 40);
    }
    settles(&broker, &mut viewer, files, mappings);
}

#[test]
fn viewers_that_go_leave_nothing() {
    let broker = Broker::start();
    let mut ringer = Ringer::open(publisher(&broker, "cam.front"), spec(64, 64 * 1024, 1), 0);
    let mut asker = broker.json();
    assert_eq!(asker.ask(r#"{"op":"ping"}"#)["ok"], true);
    let (files, mappings) = (broker.open_files(), broker.ring_mappings());
    for _ in 0..20 {
        let mut viewer = broker.json();
        viewer.say(r#"{"op":"sub","topic":"cam.front","history":5}"#);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| viewer.hear());
            while !asked.is_finished() {
                ringer.client.send(&ToBroker::Ping { req: 9 });
                ringer.serve().unwrap();
            }
            assert!(asked.join().unwrap().contains(r#""ok":true"#));
        });
        ringer.send(b"seen or not");
    }
    settles(&broker, &mut asker, files, mappings);
    while ringer.writer.reader_count() > 0 {
        ringer.client.send(&ToBroker::Ping { req: 9 });
        ringer.serve().unwrap();
    }
}

/// Waits until the broker holds no more than before. It closes files on another thread; the watchdog ends
/// this if it never does.
fn settles(broker: &Broker, asker: &mut JsonLines, files: usize, mappings: usize) {
    while broker.open_files() > files || broker.ring_mappings() > mappings {
        assert_eq!(asker.ask(r#"{"op":"ping"}"#)["ok"], true);
    }
}
