//! What goes from a queue on disk other than by being done: purged, or with the queue.

use super::*;

#[test]
fn a_purge_says_few_words_to_the_store_however_much_waits_and_spares_what_consumers_have() {
    let mut world = World::new(Limits::default(), settings());
    let (from, taker) = (world.producer(), world.shell.native("c"));
    let (queue, credit) = ("jobs", 3000);
    let consume = Consume { req: 1, consumer: 1, queue, credit, refill: false, weight: 1, priority: 0 };
    world.shell.say(taker, ToBroker::Consume(consume));
    for seq in 1..=6000 {
        world.shell.say(from, ToBroker::Push(push(seq, b"x")));
    }
    for seq in 6001..=6010 {
        world.shell.say(from, ToBroker::Push(Push { delay_millis: 60_000, ..push(seq, b"later") }));
    }
    world.work();
    world.shell.pass(50);
    world.work();
    assert_eq!(world.jobs(taker).len(), 3000);
    // Half of what was given out comes back, late enough that none is given out again.
    let back = Verdict::Nack { delay_millis: Some(1000) };
    world.shell.say(taker, ToBroker::Settle { req: 0, consumer: 1, first: 1, last: 1500, verdict: back });
    world.shell.pass(50);
    world.work();
    assert_eq!((world.messages(), world.store.messages.len()), (6010, 6010));
    let admin = world.shell.json();
    world.shell.line(admin, r#"{"op":"queue","queue":"jobs","do":"purge"}"#);
    let mut most = 0;
    for _ in 0..20 {
        world.shell.pass(20);
        for action in world.shell.asked() {
            let Action::Store { batch, changes } = action else { panic!("{action:?}") };
            most = most.max(changes.len());
            world.store.commit(&changes);
            world.shell.core.stored(batch, Ok(Written::default()), world.shell.now);
            world.shell.act();
        }
    }
    // What was given out before is named one by one; the rest is two ranges.
    assert!((1..=1502).contains(&most), "{most} in one batch");
    let out = world.messages();
    assert_eq!((out, world.store.messages.len() as u64), (1500, 1500), "what a consumer has is spared");
    world.shell.say(taker, settle_all(1501, 3000));
    world.shell.pass(50);
    world.work();
    assert_eq!((world.messages(), world.store.messages.len()), (0, 0));
}

fn settle_all(first: u64, last: u64) -> ToBroker<'static> {
    ToBroker::Settle { req: 0, consumer: 1, first, last, verdict: Verdict::Ack }
}

#[test]
fn a_queue_on_disk_that_the_configuration_names_no_more_is_worked_off_and_goes_from_the_store_too() {
    let mut world = World::new(Limits::default(), settings());
    let (from, taker) = (world.producer(), world.consumer(5));
    world.shell.say(from, ToBroker::Push(push(1, b"x")));
    world.work();
    world.shell.core.change_queues(&[], world.shell.now);
    world.shell.act();
    world.shell.say(from, ToBroker::Push(push(2, b"y")));
    assert_eq!(world.refusal(from).0, Code::UnknownQueue);
    assert_eq!((world.jobs(taker).len(), world.store.open().len()), (1, 1));
    world.shell.say(taker, settle(1, Verdict::Ack));
    world.shell.pass(50);
    world.work();
    assert_eq!((world.shell.core.queue_status(world.shell.now).len(), world.store.open().len()), (0, 0));
    // It can be made again, and is another.
    world.shell.core.add_queue(settings(), world.shell.now).unwrap();
    world.shell.act();
    world.shell.pass(50);
    world.work();
    assert_eq!((world.messages(), world.store.open().len()), (0, 1));
}
