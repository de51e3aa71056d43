//! Pushes that are taken together against each by itself: two brokers are told the same, one of them may not take stretches.
//! What everybody hears, and what is counted, must be the same.

use super::harness::{Shell, message};
use super::world::Dice;
use crate::core::{Limits, QueueSettings, WhenFull};
use tramline_wire::{Consume, Push, ToBroker, Verdict};

fn shell(seed: u64) -> Shell {
    // Small enough that each is reached now and then.
    let limits = Limits { user_queued_bytes_max: 4_000, outbox_bytes_max: 2_000, ..Limits::default() };
    let mut shell = Shell::new(limits);
    let when_full = [WhenFull::Refuse, WhenFull::DropOldest, WhenFull::DeadLetter][(seed % 3) as usize];
    let settings =
        QueueSettings { name: "jobs".to_owned(), messages_max: 18, when_full, ..QueueSettings::default() };
    shell.core.add_queue(settings, shell.now).unwrap();
    shell
}

#[test]
fn pushes_taken_together_come_to_what_each_by_itself_comes_to() {
    let mut stretched = 0;
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let mut shells = [shell(seed), shell(seed)];
        shells[1].core.general_only = true;
        let [from, to] = ["p", "c"].map(|name| {
            let [one, other] = shells.each_mut().map(|shell| shell.native(name));
            assert_eq!(one, other);
            one
        });
        let consume =
            Consume { req: 1, consumer: 1, queue: "jobs", credit: 6, refill: true, weight: 1, priority: 0 };
        for shell in &mut shells {
            shell.say(from, ToBroker::OpenQueue { req: 0, alias: 0, queue: "jobs" });
            shell.say(from, ToBroker::OpenQueue { req: 0, alias: 1, queue: "none" });
            shell.say(to, ToBroker::Consume(consume));
        }
        let (mut seq, mut settled) = (0, 0);
        for round in 0..80 {
            let mut bytes = Vec::new();
            for _ in 0..dice.roll(12) {
                seq += 1 + u64::from(dice.roll(10) == 0);
                let most = if dice.roll(20) == 0 { 5_000 } else { 90 };
                let payload = vec![7; dice.roll(most)];
                let rarely = |dice: &mut Dice, value: u32| if dice.roll(8) == 0 { value } else { 0 };
                let push = Push {
                    queue: u32::from(dice.roll(16) == 0),
                    priority: u8::try_from(dice.roll(10)).unwrap(),
                    delay_millis: rarely(&mut dice, 30),
                    ttl_millis: rarely(&mut dice, 60),
                    id: if dice.roll(12) == 0 { b"id" } else { b"" },
                    message: message(seq, &payload),
                };
                ToBroker::Push(push).encode(&mut bytes);
            }
            let millis = dice.roll(20) as u64;
            let more = dice.roll(4) as u64;
            let verdict =
                if dice.roll(5) == 0 { Verdict::Nack { delay_millis: Some(0) } } else { Verdict::Ack };
            let heard = shells.each_mut().map(|shell| {
                let taken = shell.input(from, &bytes, &[]);
                if more > 0 {
                    let (first, last) = (settled + 1, settled + more);
                    shell.say(to, ToBroker::Settle { req: 0, consumer: 1, first, last, verdict });
                }
                shell.pass(millis);
                let status = format!("{:?}", shell.core.queue_status(shell.now));
                (taken, shell.read(from), shell.read(to), status)
            });
            settled += more;
            let [one, other] = heard;
            assert_eq!(one, other, "seed {seed}, round {round}");
        }
        stretched += shells[0].core.stretched;
        assert_eq!(shells[1].core.stretched, 0);
    }
    assert!(stretched > 5_000, "{stretched} were taken together");
}
