//! Who of several gets the next piece of work: one rule for queues, and for whatever else hands a thing to exactly one.
//!
//! A `Group` knows its members by seat, whether each can take something now, and how much each has outstanding. It
//! holds nothing of what is handed out. Choosing costs the logarithm of the members, however many of them cannot take
//! anything: those are not looked at.

use std::collections::BTreeSet;

/// Turns and outstanding work are compared in these parts of one, so that weights have an effect on small numbers.
const PARTS: u64 = 1 << 16;

/// How the next member is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Each in turn, as often as its weight says: stride scheduling (Waldspurger and Weihl, 1995). Among equal weights
    /// that is the one that was served longest ago.
    #[default]
    RoundRobin,
    /// The one with the fewest outstanding for its weight.
    LoadBalance,
    /// The first by priority (lowest number), then by when it joined; another only when that one has left.
    Failover,
}

impl Strategy {
    /// As configurations and people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LoadBalance => "load_balance",
            Self::Failover => "failover",
        }
    }
}

/// A member's place in its group.
pub(super) type Seat = u32;

/// Where a member stands in the order: the first that is ready is next.
type Rank = (u64, u64, Seat);

#[derive(Debug)]
struct Member {
    weight: u32,
    priority: u32,
    outstanding: u32,
    ready: bool,
    /// When it was served last, or joined, in turns.
    turn: u64,
    /// Where it is in the round, in parts of a turn: each time it is served it goes on by one over its weight.
    pass: u64,
    joined: u64,
    /// Where it stands in the order, if it does.
    stands: Option<Rank>,
}

/// Members that compete.
#[derive(Debug)]
pub(super) struct Group {
    strategy: Strategy,
    members: Vec<Option<Member>>,
    free: Vec<Seat>,
    /// Those that can take something; with failover all that are there.
    order: BTreeSet<Rank>,
    turns: u64,
    /// Where the round is: the furthest pass at which anybody was served.
    pass: u64,
}

impl Group {
    pub(super) fn new(strategy: Strategy) -> Self {
        Self { strategy, members: Vec::new(), free: Vec::new(), order: BTreeSet::new(), turns: 0, pass: 0 }
    }

    /// Takes a member in, not ready yet. A weight of 0 counts as 1.
    pub(super) fn join(&mut self, weight: u32, priority: u32) -> Seat {
        self.turns += 1;
        let weight = weight.max(1);
        let member = Member {
            weight,
            priority,
            outstanding: 0,
            ready: false,
            turn: self.turns,
            // Behind all that are there.
            pass: self.pass.saturating_add(stride(weight)),
            joined: self.turns,
            stands: None,
        };
        let seat = self.free.pop().unwrap_or_else(|| {
            self.members.push(None);
            Seat::try_from(self.members.len() - 1).expect("members are limited far below 2^32")
        });
        self.members[seat as usize] = Some(member);
        self.stand(seat);
        seat
    }

    pub(super) fn leave(&mut self, seat: Seat) {
        self.step_out(seat);
        if self.members.get_mut(seat as usize).and_then(Option::take).is_some() {
            self.free.push(seat);
        }
    }

    /// Chooses by another rule from now on.
    pub(super) fn set_strategy(&mut self, strategy: Strategy) {
        self.strategy = strategy;
        self.order.clear();
        let seats: Vec<Seat> =
            (0..).zip(&self.members).filter_map(|(seat, each)| each.as_ref().map(|_| seat)).collect();
        for seat in seats {
            if let Some(Some(member)) = self.members.get_mut(seat as usize) {
                member.stands = None;
            }
            self.stand(seat);
        }
    }

    pub(super) fn set_ready(&mut self, seat: Seat, ready: bool) {
        if self.get(seat).is_none_or(|member| member.ready == ready) {
            return;
        }
        self.change(seat, |member| member.ready = ready);
    }

    /// Who gets the next one. Nothing changes until [`Group::served`].
    pub(super) fn choose(&self) -> Option<Seat> {
        let (_, _, seat) = *self.order.first()?;
        self.get(seat).filter(|member| member.ready).map(|_| seat)
    }

    /// As [`Group::choose`], as if only these members were there.
    pub(super) fn choose_of(&self, is_there: impl Fn(Seat) -> bool) -> Option<Seat> {
        let (_, _, seat) = *self.order.iter().find(|(_, _, seat)| is_there(*seat))?;
        self.get(seat).filter(|member| member.ready).map(|_| seat)
    }

    /// This member was given one.
    pub(super) fn served(&mut self, seat: Seat) {
        self.turns += 1;
        let turn = self.turns;
        let before = self.pass;
        if let Some(member) = self.get(seat) {
            self.pass = before.max(member.pass);
        }
        self.change(seat, |member| {
            member.outstanding += 1;
            member.turn = turn;
            // One that was passed over for a while, not being ready or not fit, does not make up for what it missed.
            member.pass = member.pass.max(before).saturating_add(stride(member.weight));
        });
    }

    /// This member has done with one.
    pub(super) fn settled(&mut self, seat: Seat) {
        if self.strategy == Strategy::LoadBalance {
            return self.change(seat, |member| member.outstanding = member.outstanding.saturating_sub(1));
        }
        if let Some(Some(member)) = self.members.get_mut(seat as usize) {
            member.outstanding = member.outstanding.saturating_sub(1);
        }
    }

    fn get(&self, seat: Seat) -> Option<&Member> {
        self.members.get(seat as usize)?.as_ref()
    }

    fn rank(&self, seat: Seat) -> Option<Rank> {
        let member = self.get(seat)?;
        match self.strategy {
            Strategy::RoundRobin => member.ready.then_some((member.pass, member.turn, seat)),
            Strategy::LoadBalance => {
                let load = u64::from(member.outstanding) * PARTS / u64::from(member.weight);
                member.ready.then_some((load, member.turn, seat))
            }
            Strategy::Failover => Some((u64::from(member.priority), member.joined, seat)),
        }
    }

    fn change(&mut self, seat: Seat, change: impl FnOnce(&mut Member)) {
        let Some(Some(member)) = self.members.get_mut(seat as usize) else { return };
        change(member);
        let (stands, rank) = (member.stands, self.rank(seat));
        // Of one alone the place does not matter: it is looked at again when another comes.
        let alone = self.order.len() == 1 && stands.is_some() && rank.is_some();
        if stands != rank && !alone {
            self.step_out(seat);
            self.stand(seat);
        }
    }

    fn step_out(&mut self, seat: Seat) {
        let member = self.members.get_mut(seat as usize).and_then(Option::as_mut);
        if let Some(rank) = member.and_then(|member| member.stands.take()) {
            self.order.remove(&rank);
        }
    }

    fn stand(&mut self, seat: Seat) {
        if let (1, Some((_, _, alone))) = (self.order.len(), self.order.first().copied()) {
            self.step_out(alone);
            self.stand(alone);
        }
        let rank = self.rank(seat);
        self.order.extend(rank);
        if let Some(Some(member)) = self.members.get_mut(seat as usize) {
            member.stands = rank;
        }
    }
}

/// How far a member of this weight goes on when it is served.
fn stride(weight: u32) -> u64 {
    // Whoever has more weight than there are parts in a turn goes on all the same.
    (PARTS / u64::from(weight)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(strategy: Strategy, members: &[(u32, u32)]) -> (Group, Vec<Seat>) {
        let mut group = Group::new(strategy);
        let seats: Vec<Seat> =
            members.iter().map(|(weight, priority)| group.join(*weight, *priority)).collect();
        seats.iter().for_each(|seat| group.set_ready(*seat, true));
        (group, seats)
    }

    fn serve(group: &mut Group) -> Option<Seat> {
        let seat = group.choose()?;
        group.served(seat);
        Some(seat)
    }

    #[test]
    fn round_robin_serves_each_in_turn_and_leaves_out_who_cannot() {
        let (mut group, seats) = group(Strategy::RoundRobin, &[(1, 0), (1, 0), (1, 0)]);
        let served: Vec<Seat> = (0..6).filter_map(|_| serve(&mut group)).collect();
        assert_eq!(served, [seats.clone(), seats.clone()].concat());
        group.set_ready(seats[1], false);
        let served: Vec<Seat> = (0..4).filter_map(|_| serve(&mut group)).collect();
        assert_eq!(served, [seats[0], seats[2], seats[0], seats[2]]);
        group.set_ready(seats[1], true);
        assert_eq!(serve(&mut group), Some(seats[1]), "it was served longest ago");
    }

    #[test]
    fn round_robin_serves_by_weight_without_runs_and_nobody_makes_up_for_what_it_could_not_take() {
        let (mut group, seats) = group(Strategy::RoundRobin, &[(3, 0), (1, 0), (1, 0)]);
        let served: Vec<Seat> = (0..500).filter_map(|_| serve(&mut group)).collect();
        let count = |served: &[Seat], seat: Seat| served.iter().filter(|each| **each == seat).count();
        for (seat, share) in seats.iter().zip([3, 1, 1]) {
            for round in served.chunks(5) {
                assert_eq!(count(round, *seat), share, "{round:?}");
            }
        }
        group.set_ready(seats[2], false);
        assert!((0..400).all(|_| serve(&mut group).is_some()));
        group.set_ready(seats[2], true);
        let served: Vec<Seat> = (0..10).filter_map(|_| serve(&mut group)).collect();
        assert!((2..=3).contains(&count(&served, seats[2])), "{served:?}");
    }

    #[test]
    fn load_balance_gives_to_who_has_the_fewest_for_its_weight() {
        let (mut group, seats) = group(Strategy::LoadBalance, &[(1, 0), (3, 0)]);
        let mut given = [0, 0];
        for _ in 0..40 {
            let seat = serve(&mut group).unwrap();
            given[usize::from(seat == seats[1])] += 1;
        }
        assert_eq!(given, [10, 30]);
        for _ in 0..10 {
            group.settled(seats[0]);
        }
        for _ in 0..9 {
            assert_eq!(serve(&mut group), Some(seats[0]));
        }
    }

    #[test]
    fn failover_stays_with_the_first_until_it_goes() {
        let (mut group, seats) = group(Strategy::Failover, &[(1, 2), (1, 1), (1, 1)]);
        assert_eq!(serve(&mut group), Some(seats[1]));
        assert_eq!(serve(&mut group), Some(seats[1]));
        group.set_ready(seats[1], false);
        assert_eq!(serve(&mut group), None, "busy is not gone");
        group.leave(seats[1]);
        assert_eq!(serve(&mut group), Some(seats[2]));
        group.leave(seats[2]);
        assert_eq!(serve(&mut group), Some(seats[0]));
        group.leave(seats[0]);
        assert_eq!(serve(&mut group), None);
        assert!(group.order.is_empty());
    }
}
