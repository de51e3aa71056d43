//! Rings for large messages to clients: what all of them may take, when one is let go, and when one is tried again.

use super::harness::Shell;
use crate::core::{Action, Limits, QueueSettings, SessionId};
use tramline_wire::{Consume, Message, Push, ToBroker};

const FRAME: u32 = 4096;
const RING: u64 = 4 * 1024 * 1024;

/// A broker whose queue holds so many messages that fit into no frame with what belongs to them.
fn shell_with(messages: usize) -> Shell {
    let limits = Limits {
        frame_bytes_max: FRAME,
        delivery_rings_bytes_max: RING + RING / 2,
        user_delivery_rings_bytes_max: RING + RING / 2,
        ..Limits::default()
    };
    let mut shell = Shell::new(limits);
    let queue = QueueSettings { name: "q".to_owned(), ..QueueSettings::default() };
    shell.core.add_queue(queue, shell.now).unwrap();
    let from = shell.native("p");
    shell.say(from, ToBroker::OpenQueue { req: 0, alias: 0, queue: "q" });
    // It fits into the frame that brings it, and with what a job has besides into none.
    let payload = vec![b'x'; FRAME as usize - 76];
    for seq in 1..=messages as u64 {
        let message = Message { seq, payload: &payload, ..Message::default() };
        let push = Push { queue: 0, priority: 4, delay_millis: 0, ttl_millis: 0, id: &[], message };
        shell.say(from, ToBroker::Push(push));
    }
    shell.read(from);
    shell.asked();
    shell
}

fn consumer(shell: &mut Shell, uid: u32) -> SessionId {
    let id = shell.native_of(uid, "c");
    let consume =
        Consume { req: 1, consumer: 1, queue: "q", credit: 1, refill: true, weight: 1, priority: 0 };
    shell.say(id, ToBroker::Consume(consume));
    shell.read(id);
    id
}

/// For whom rings were to be made since this was asked, and their numbers.
fn made(shell: &mut Shell) -> Vec<(SessionId, u32)> {
    let rings = shell.asked().into_iter().filter_map(|action| match action {
        Action::MakeBulk { session, ring, bytes } => {
            assert_eq!(bytes, RING);
            Some((session, ring))
        }
        _ => None,
    });
    rings.collect()
}

fn tell_made(shell: &mut Shell, (session, ring): (SessionId, u32)) {
    let memory = shell.fd("a ring");
    shell.core.bulk_made(session, ring, Ok(memory), shell.now);
    shell.act();
    shell.read(session);
}

#[test]
fn what_all_rings_take_is_limited_and_who_waits_gets_one_when_another_goes() {
    let mut shell = shell_with(2);
    let one = consumer(&mut shell, 1000);
    assert_eq!(made(&mut shell), [(one, 1)]);
    // Another user's, so that only the limit of all is in its way.
    let two = consumer(&mut shell, 1001);
    assert_eq!(made(&mut shell), []);
    shell.hang_up(one);
    assert_eq!(made(&mut shell), [(two, 1)]);
}

#[test]
fn a_ring_in_which_nothing_was_ever_put_is_let_go() {
    let mut shell = shell_with(1);
    let id = consumer(&mut shell, 1000);
    let ring = made(&mut shell)[0];
    shell.say(id, ToBroker::EndConsume { req: 2, consumer: 1, seen: 0 });
    tell_made(&mut shell, ring);
    let gone = |shell: &mut Shell| {
        let mut asked = shell.asked().into_iter();
        asked.any(|action| matches!(action, Action::DropBulk { session } if session == id))
    };
    shell.pass(9_999);
    assert!(!gone(&mut shell));
    shell.pass(1);
    assert!(gone(&mut shell));
}

#[test]
fn a_ring_for_which_there_was_no_memory_is_tried_again() {
    let mut shell = shell_with(1);
    let id = consumer(&mut shell, 1000);
    assert_eq!(made(&mut shell), [(id, 1)]);
    shell.core.bulk_made(id, 1, Err("there is no memory".to_owned()), shell.now);
    shell.act();
    shell.pass(999);
    assert_eq!(made(&mut shell), []);
    shell.pass(1);
    assert_eq!(made(&mut shell), [(id, 2)]);
}
