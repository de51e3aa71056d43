//! Who may hold a writer up, and for how long: accounts under a made-up clock, eviction, cool-down, exact losses.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Link, attach, link};
use tramline_ring::{GateBudget, Meta, ModeChange, Next, ReadMode, Reader, RingSpec, SendError, Writer};

const BUDGET: GateBudget = GateBudget { reader: 100, writer: 100_000, window: 1_000, cooldown: 5_000 };

/// Messages that the ring holds.
const HELD: u64 = 16;

fn writer(budget: GateBudget) -> Writer {
    let mut writer = Writer::create(&RingSpec::sized(7, 16, 8).unwrap(), 8).unwrap();
    writer.set_gate_budget(budget);
    writer
}

struct Follower {
    reader: Reader,
    link: Link,
    read: u64,
    lost: u64,
}

fn follow(writer: &mut Writer, id: u64, mode: ReadMode) -> Follower {
    let link = link();
    let reader = attach(writer, &link, id, mode, 0, false);
    Follower { reader, link, read: 0, lost: 0 }
}

impl Follower {
    /// Reads up to `most`, and tells the writer where it is.
    fn read(&mut self, most: u64) -> u64 {
        let mut scratch = Vec::new();
        let mut count = 0;
        while count < most {
            let Next::Message(message) = self.reader.try_next(&mut scratch).unwrap() else { break };
            count += 1;
            self.lost += message.lost;
            self.read += 1;
            assert_eq!(self.read + self.lost, message.seq, "numbers and losses add up");
        }
        self.reader.publish_cursor();
        count
    }
}

fn send(writer: &mut Writer) -> bool {
    match writer.try_send(Meta::default(), b"", b"x") {
        Ok(_) => true,
        Err(SendError::Full { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn fill(writer: &mut Writer) -> u64 {
    let mut sent = 0;
    while send(writer) {
        sent += 1;
        assert!(sent < 10_000, "nobody is in the way");
    }
    sent
}

fn lossy(reader: u64, blocked: u64) -> ModeChange {
    ModeChange { reader, mode: ReadMode::Lossy, blocked }
}

fn gated(reader: u64) -> ModeChange {
    ModeChange { reader, mode: ReadMode::Gated, blocked: 0 }
}

#[test]
fn a_budget_is_spent_by_the_time_in_the_way_and_by_nothing_else() {
    let mut writer = writer(BUDGET);
    let mut slow = follow(&mut writer, 1, ReadMode::Gated);
    assert_eq!(fill(&mut writer), HELD);
    assert!(!writer.found_full(1_000, true));
    assert_eq!(writer.look_again_at(), Some(1_100));
    assert!(!writer.found_full(1_060, true));
    assert_eq!(writer.look_again_at(), Some(1_100));
    // It makes room in time, and 70 are charged.
    slow.read(4);
    assert!(send(&mut writer));
    writer.found_room(1_070);
    assert!(!writer.is_stalled() && writer.look_again_at().is_none());
    fill(&mut writer);
    assert!(!writer.found_full(1_500, true));
    assert_eq!(writer.look_again_at(), Some(1_530));
    assert!(!writer.found_full(1_529, true));
    assert!(!writer.has_mode_changes());
    assert!(writer.found_full(1_530, true));
    assert_eq!(writer.take_mode_changes(), [lossy(1, 100)]);
    // At once there is room, and it stays: nobody is waited for.
    for _ in 0..100 {
        assert!(send(&mut writer));
    }
    writer.close();
    slow.read(u64::MAX);
    assert!(slow.lost > 0 && slow.read > 4);
}

#[test]
fn the_next_window_begins_anew() {
    let mut writer = writer(BUDGET);
    let mut slow = follow(&mut writer, 1, ReadMode::Gated);
    for round in 0..50_u64 {
        let now = 10_000 + round * 1_000;
        fill(&mut writer);
        assert!(!writer.found_full(now, true));
        assert!(!writer.found_full(now + 99, true), "round {round}");
        slow.read(1);
        assert!(send(&mut writer));
        writer.found_room(now + 99);
    }
    assert!(!writer.has_mode_changes());
    assert_eq!(slow.lost, 0);
}

#[test]
fn who_fails_instead_of_waiting_counts_from_the_first_full_to_the_last() {
    let mut writer = writer(BUDGET);
    let mut slow = follow(&mut writer, 1, ReadMode::Gated);
    fill(&mut writer);
    assert!(!writer.found_full(1_000, false));
    assert!(!writer.found_full(1_080, false));
    slow.read(1);
    assert!(send(&mut writer));
    // There was room long ago, for all that is known.
    writer.found_room(1_900);
    fill(&mut writer);
    assert!(!writer.found_full(1_910, false));
    assert!(!writer.found_full(1_929, false));
    assert!(writer.found_full(1_990, false));
    assert_eq!(writer.take_mode_changes(), [lossy(1, 160)]);
}

#[test]
fn a_writer_that_was_stopped_itself_charges_nobody_for_that() {
    let mut writer = writer(BUDGET);
    let mut slow = follow(&mut writer, 1, ReadMode::Gated);
    fill(&mut writer);
    assert!(!writer.found_full(1_000, true));
    assert!(!writer.found_full(900_000, true), "it could not look when it was due");
    assert_eq!(writer.look_again_at(), Some(900_100));
    slow.read(1);
    assert!(send(&mut writer));
    writer.found_room(2_000_000);
    fill(&mut writer);
    assert!(!writer.found_full(2_000_001, true));
    assert_eq!(writer.look_again_at(), Some(2_000_101));
    assert!(writer.found_full(2_000_101, true));
}

#[test]
fn those_in_the_way_at_the_same_time_are_charged_at_the_same_time() {
    let mut writer = writer(BUDGET);
    let mut stopped: Vec<Follower> = (1..=5).map(|id| follow(&mut writer, id, ReadMode::Gated)).collect();
    let mut quick = follow(&mut writer, 9, ReadMode::Gated);
    let mut viewer = follow(&mut writer, 10, ReadMode::Lossy);
    // They stopped at different places; the first two are in the way.
    fill(&mut writer);
    for (index, follower) in stopped.iter_mut().enumerate() {
        follower.read(index.saturating_sub(1) as u64);
    }
    quick.read(u64::MAX);
    assert!(!send(&mut writer));
    assert!(!writer.found_full(1_000, true));
    quick.read(u64::MAX);
    assert!(writer.found_full(1_100, true));
    let changes = writer.take_mode_changes();
    assert_eq!(changes, [lossy(1, 100), lossy(2, 100), lossy(3, 100), lossy(4, 100), lossy(5, 100)]);
    // One budget for all of them. Whoever keeps up is waited for as before, and loses nothing.
    let mut sent = HELD;
    for _ in 0..50 {
        sent += fill(&mut writer);
        quick.read(u64::MAX);
    }
    assert!(sent > 100);
    writer.close();
    quick.read(u64::MAX);
    viewer.read(u64::MAX);
    assert_eq!((quick.read, quick.lost), (sent, 0));
    for follower in &mut stopped {
        follower.read(u64::MAX);
        assert_eq!(follower.read + follower.lost, sent);
        assert!(follower.lost > 0);
    }
}

#[test]
fn one_that_moves_is_not_evicted_together_with_one_that_does_not() {
    let mut writer = writer(BUDGET);
    let _stopped = follow(&mut writer, 1, ReadMode::Gated);
    let mut slow = follow(&mut writer, 2, ReadMode::Gated);
    fill(&mut writer);
    assert!(!writer.found_full(1_000, true));
    slow.read(2);
    // The writer sees it move when it tries again.
    assert!(!send(&mut writer));
    assert!(writer.found_full(1_100, true));
    assert_eq!(writer.take_mode_changes(), [lossy(1, 100)]);
}

#[test]
fn a_reader_that_stops_before_it_rings_is_seen_to_have_made_room() {
    let mut writer = writer(BUDGET);
    let mut slow = follow(&mut writer, 1, ReadMode::Gated);
    fill(&mut writer);
    writer.begin_wait();
    assert!(!send(&mut writer));
    assert!(!writer.found_full(1_000, true));
    // Less than the writer asked to be told of.
    slow.read(1);
    assert!(writer.look_at_gates(1_100), "it may try again");
    assert!(send(&mut writer));
    writer.found_room(1_101);
    assert!(!writer.has_mode_changes(), "it was not in the way for so long as it may be");
    // The next time it is.
    assert!(!send(&mut writer));
    assert!(!writer.found_full(1_102, true));
    let due = writer.look_again_at().unwrap();
    assert!(writer.look_at_gates(due));
    assert_eq!(writer.take_mode_changes().len(), 1);
    writer.close();
}

#[test]
fn a_writer_that_may_be_held_up_for_ever_looks_every_second() {
    const SECOND: u64 = 1_000_000_000;
    let mut writer = writer(GateBudget::UNLIMITED);
    let mut slow = follow(&mut writer, 1, ReadMode::Gated);
    fill(&mut writer);
    writer.begin_wait();
    assert!(!send(&mut writer) && !writer.found_full(1_000, true));
    for second in 1..=100 {
        assert_eq!(writer.look_again_at(), Some(1_000 + second * SECOND));
        assert!(!writer.look_at_gates(1_000 + second * SECOND));
    }
    slow.read(1);
    assert!(writer.look_at_gates(1_000 + 101 * SECOND));
    assert!(send(&mut writer));
    writer.close();
}

#[test]
fn all_readers_together_have_a_budget_too() {
    let mut writer = writer(GateBudget { writer: 150, ..BUDGET });
    let mut followers: Vec<Follower> = (1..=4).map(|id| follow(&mut writer, id, ReadMode::Gated)).collect();
    let mut now = 1_000;
    // Each holds the writer up within its own budget, one after another.
    for turn in 0..4 {
        fill(&mut writer);
        for (index, each) in followers.iter_mut().enumerate() {
            each.read(if index == turn { 0 } else { u64::MAX });
        }
        assert!(!send(&mut writer));
        assert!(!writer.found_full(now, true));
        if turn == 3 {
            break;
        }
        now += 45;
        assert!(!writer.found_full(now, true));
        followers[turn].read(u64::MAX);
        assert!(send(&mut writer));
        writer.found_room(now);
        now += 1;
    }
    assert_eq!(writer.look_again_at(), Some(now + 15), "135 of 150 are spent");
    assert!(writer.found_full(now + 15, true));
    assert_eq!(writer.take_mode_changes(), [lossy(4, 15)]);
    assert!(send(&mut writer));
    writer.found_room(now + 16);
    // Until the window is over nobody else may hold it up at all.
    fill(&mut writer);
    assert!(writer.found_full(now + 17, true));
    assert_eq!(writer.take_mode_changes().len(), 3);
}

#[test]
fn after_the_cool_down_it_is_gated_again_from_where_it_is_and_its_losses_are_exact() {
    let mut writer = writer(BUDGET);
    let mut slow = follow(&mut writer, 1, ReadMode::Gated);
    let mut sent = fill(&mut writer);
    assert_eq!(writer.regate_at(), u64::MAX);
    assert!(!writer.found_full(1_000, true));
    assert!(writer.found_full(1_100, true));
    assert_eq!(writer.regate_at(), 6_100);
    for _ in 0..40 {
        assert!(send(&mut writer));
        sent += 1;
    }
    writer.found_room(1_101);
    writer.regate(6_099);
    writer.regate(6_100);
    assert_eq!(writer.take_mode_changes(), [lossy(1, 100)], "who has read nothing is not waited for again");
    let later = writer.regate_at();
    assert!(later > 6_100 && later < 20_000);
    slow.read(3);
    let lost = slow.lost;
    assert_eq!(lost + 3, sent - slow.reader.lag());
    writer.regate(later);
    assert_eq!(writer.take_mode_changes(), [gated(1)]);
    assert_eq!(writer.regate_at(), u64::MAX);
    // From here on nothing more is lost, and it is waited for.
    for _ in 0..20 {
        sent += fill(&mut writer);
        slow.read(2);
    }
    assert!(!writer.is_stalled());
    sent += fill(&mut writer);
    assert!(!writer.found_full(later + 10, true));
    assert!(writer.found_full(later + 110, true), "with a budget as before");
    writer.close();
    slow.read(u64::MAX);
    assert_eq!((slow.lost, slow.read + slow.lost), (lost, sent));
}

#[test]
fn one_that_was_overtaken_does_not_block_by_standing_behind_when_it_is_gated_again() {
    let mut writer = writer(BUDGET);
    let mut slow = follow(&mut writer, 1, ReadMode::Gated);
    fill(&mut writer);
    assert!(!writer.found_full(1_000, true));
    assert!(writer.found_full(1_100, true));
    slow.read(1);
    for _ in 0..100 {
        assert!(send(&mut writer));
    }
    writer.found_room(1_101);
    writer.regate(6_100);
    assert_eq!(writer.take_mode_changes(), [lossy(1, 100), gated(1)]);
    // It stands at 1, the oldest is above 95: it is waited for from there on.
    let before = slow.reader.last_seq();
    assert_eq!(before, 1);
    assert_eq!(fill(&mut writer), 0, "the ring holds what it may still read");
    slow.read(u64::MAX);
    assert!(slow.lost > 80 && slow.read + slow.lost == HELD + 100);
    assert!(send(&mut writer));
}

#[test]
fn who_was_parted_with_is_never_waited_for_again() {
    let mut writer = writer(BUDGET);
    let mut slow = follow(&mut writer, 1, ReadMode::Gated);
    fill(&mut writer);
    assert!(!writer.found_full(1_000, true));
    assert!(writer.found_full(1_100, true));
    assert!(writer.ungate(1));
    slow.read(1);
    writer.take_mode_changes();
    writer.regate(100_000);
    assert!(!writer.has_mode_changes());
    assert!(slow.link.writer_side.drain_space(), "its link lives");
}
