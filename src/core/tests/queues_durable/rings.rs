//! Queues on disk that are bound to rings: the cursor follows the disk, and publishers are told how long to keep it.

use super::*;
use crate::core::durable::Change;
use crate::core::tests::harness::{open_stream, ring_message};
use tramline_wire::{GatedBy, PageDeclaration};

const STREAM: u64 = 77;

/// A queue bound to a ring, which begins at this number; the attachment, for how long it is to be kept, and up to where it
/// is stored.
fn bound(durability: Durability, gated_by: GatedBy, start_seq: u64) -> (World, u64, u32, Option<u64>) {
    bound_for(7_000, durability, gated_by, start_seq)
}

fn bound_for(
    cursor_grace_millis: u32,
    durability: Durability,
    gated_by: GatedBy,
    start_seq: u64,
) -> (World, u64, u32, Option<u64>) {
    let queue = QueueSettings { bind: vec!["a.*".to_owned()], messages_max: 3, durability, ..settings() };
    let mut world = World::new(Limits { cursor_grace_millis, ..Limits::default() }, queue);
    let (attach, keep_millis, stored) = open(&mut world, gated_by, start_seq);
    (world, attach, keep_millis, stored)
}

fn open(world: &mut World, gated_by: GatedBy, start_seq: u64) -> (u64, u32, Option<u64>) {
    let shell = &mut world.shell;
    let from = shell.native("ring");
    shell.say(from, ToBroker::Topic { alias: 0, topic: "a.b" });
    let memory = shell.fd("ring");
    let opening = tramline_wire::OpenStream { gated_by, ..open_stream(1, 0, STREAM) };
    shell.say_with(from, ToBroker::OpenStream(opening), &[memory]);
    let [Action::ProxyOffer { attach, .. }] = shell.asked()[..] else { panic!("it is offered the stream") };
    let page = shell.fd("page");
    let declaration = PageDeclaration { first_slot: 0, slots: 1 };
    shell.core.proxy_accept(attach, 0, Some((declaration, page)), shell.now);
    shell.act();
    let mut keep = None;
    each_frame(&shell.read(from), |frame| {
        if let ToClient::Admit(admit) = frame {
            keep = Some(admit.keep_millis);
        }
    });
    shell.say(from, ToBroker::Admitted { attach, start: start_seq - 1, start_seq, generation: 0 });
    let asked = shell.asked();
    let [Action::ProxyAttach { stored, .. }, rest @ ..] = &asked[..] else { panic!("{asked:?}") };
    let (stored, rest) = (*stored, rest.to_vec());
    let is_answered = shell.read(from) != b"";
    assert_eq!(is_answered, rest.is_empty(), "whoever publishes waits until its beginning is on disk");
    shell.asked = rest;
    shell.core.proxy_attached(attach, shell.now);
    shell.act();
    (attach, keep.expect("it is to be admitted"), stored)
}

impl World {
    fn ring(&mut self, attach: u64, seq: u64) -> Flow {
        let flow = self.shell.core.proxy_message(attach, ring_message(seq, b"x"), self.shell.now);
        self.shell.act();
        flow
    }

    /// Has the batch written that is under way. Its position of the stream, and what may be passed then.
    fn store(&mut self) -> (Option<u64>, Vec<(u64, u64)>) {
        let asked = self.shell.asked();
        let [Action::Store { batch, changes }] = &asked[..] else { panic!("{asked:?}") };
        self.store.commit(changes);
        self.shell.core.stored(*batch, Ok(Written::default()), self.shell.now);
        self.shell.act();
        let position = changes.iter().find_map(|change| match change {
            Change::Position { stream: STREAM, seq, .. } => Some(*seq),
            _ => None,
        });
        let mut passed = Vec::new();
        self.shell.asked.retain(|action| match action {
            Action::ProxyStored { attach, seq } => {
                passed.push((*attach, *seq));
                false
            }
            _ => true,
        });
        (position, passed)
    }
}

#[test]
fn a_cursor_passes_what_is_stored_and_not_what_was_read() {
    let (mut world, attach, keep_millis, stored) = bound(Durability::Disk, GatedBy::Anyone, 5);
    assert_eq!((keep_millis, stored), (7_000, Some(0)));
    // Where it begins is written down, so that what is missed from there on is known.
    assert_eq!(world.store(), (Some(4), vec![(attach, 4)]));
    let publisher = world.shell.core.streams.by_id[&STREAM].session;
    let publisher = world.shell.core.sessions.get(publisher).unwrap().id;
    let opened = ToClient::StreamOpened { req: 1, stream: STREAM, readers: 1, pending: 0 };
    world.shell.hears(publisher, &[opened]);
    assert_eq!(world.ring(attach, 5), Flow::Continue);
    assert_eq!(world.ring(attach, 6), Flow::Continue);
    assert_eq!(world.store(), (Some(5), vec![(attach, 5)]), "what came meanwhile is in the next batch");
    assert_eq!(world.store(), (Some(6), vec![(attach, 6)]));
    assert_eq!(world.ring(attach, 7), Flow::Pause, "the queue is full");
    world.store();
    // What is not taken is done with, too.
    world.ring(attach, 8);
    world.shell.pass(20);
    assert_eq!(world.store(), (Some(8), vec![(attach, 8)]));
    // The next broker begins with what is on disk, and passes what it has already.
    let store = world.store;
    let queue = QueueSettings { bind: vec!["a.*".to_owned()], ..settings() };
    let mut world = World::with(store, Limits::default(), queue);
    let (attach, _, stored) = open(&mut world, GatedBy::Anyone, 7);
    assert_eq!(stored, Some(8));
    world.ring(attach, 8);
    world.ring(attach, 9);
    assert_eq!(world.store(), (Some(9), vec![(attach, 9)]));
    assert_eq!(world.messages(), 4);
}

#[test]
fn nothing_is_kept_for_who_is_not_waited_for_or_not_on_disk() {
    let (_, _, keep_millis, stored) = bound(Durability::Disk, GatedBy::Nobody, 1);
    assert_eq!((keep_millis, stored), (0, Some(0)));
    let (_, _, keep_millis, stored) = bound(Durability::None, GatedBy::Anyone, 1);
    assert_eq!((keep_millis, stored), (0, None));
    let (_, _, keep_millis, stored) = bound_for(0, Durability::Disk, GatedBy::Anyone, 1);
    assert_eq!((keep_millis, stored), (0, None), "the publisher does not wait for the disk either");
}
