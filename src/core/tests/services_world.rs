//! A seeded mix of callers and instances under virtual time, with books kept beside the services.
//!
//! Every request carries a number of its own. The books know who has it, who had it, and what its caller was told; at every
//! step the broker's counts must add up, nobody has what is over, and nobody waits longer than its deadline.
//! `TRAMLINE_SERVICE_STEPS` and `TRAMLINE_SEED`, when it is compiled, make it longer, or another.

use super::harness::{MILLI, Shell, each_frame, message};
use super::world::Dice;
use crate::core::snapshot::ServiceStatus;
use crate::core::{Limits, ServiceSettings, SessionId, Strategy};
use std::collections::{BTreeMap, BTreeSet};
use tramline_wire::{Code, ErrorReply, Outcome, Provide, Reply, Request, ToBroker, ToClient};

const STEPS: u64 = 30_000;
const OUTSTANDING_MAX: u32 = 12;
const NAMES: [&str; 3] = ["turns", "loads", "fails"];

fn services() -> [ServiceSettings; 3] {
    let named = |place: usize, strategy| ServiceSettings {
        name: NAMES[place].to_owned(),
        strategy,
        timeout_millis: 60,
        timeout_millis_max: 400,
        retries_max: u32::try_from(place).unwrap(),
        outstanding_max: OUTSTANDING_MAX,
        eject_failures: 3,
        eject_millis: 40,
        eject_millis_max: 150,
        ..ServiceSettings::default()
    };
    [
        named(0, Strategy::RoundRobin),
        ServiceSettings {
            attempt_timeout_millis: 25,
            eject_percent_max: 50,
            ..named(1, Strategy::LoadBalance)
        },
        ServiceSettings { attempt_timeout_millis: 40, ..named(2, Strategy::Failover) },
    ]
}

/// An instance, by its session and its number there.
type At = (SessionId, u32);

/// What the books know of a request.
#[derive(Debug)]
struct Known {
    caller: SessionId,
    service: usize,
    idempotent: bool,
    deadline: u64,
    cancelled: bool,
    /// What its caller was told; none is an answer.
    outcome: Option<Option<Code>>,
    /// Who was given it, ever.
    given: BTreeSet<At>,
    attempts: BTreeSet<u32>,
}

#[derive(Debug, Default)]
struct Instance {
    service: usize,
    concurrency: usize,
    ending: bool,
    /// What it works on, by calls; whether it is over.
    has: BTreeMap<u64, (u64, bool)>,
}

struct World {
    shell: Shell,
    dice: Dice,
    callers: BTreeSet<SessionId>,
    providers: BTreeSet<SessionId>,
    instances: BTreeMap<At, Instance>,
    known: BTreeMap<u64, Known>,
    last: u64,
    last_provider: u32,
    /// What was answered in this step, and so must be told.
    answered: BTreeMap<u64, Option<Code>>,
    /// What was at an instance that died in this step.
    deserted: BTreeSet<u64>,
    refused: u64,
    late: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let limits = Limits { session_requests_max: 1000, ..Limits::default() };
        let mut shell = Shell::new(limits);
        services().into_iter().for_each(|service| shell.core.add_service(service).unwrap());
        Self {
            shell,
            dice: Dice::new(seed),
            callers: BTreeSet::new(),
            providers: BTreeSet::new(),
            instances: BTreeMap::new(),
            known: BTreeMap::new(),
            last: 0,
            last_provider: 0,
            answered: BTreeMap::new(),
            deserted: BTreeSet::new(),
            refused: 0,
            late: 0,
        }
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.dice.roll(of.len())])
    }

    fn step(&mut self) {
        self.answered.clear();
        self.deserted.clear();
        match self.dice.roll(32) {
            0 => self.arrive(),
            1..=9 => self.ask(),
            10 | 11 => self.provide(),
            12..=23 => self.answer(),
            24 => self.cancel(),
            25..=29 => {
                let millis = self.dice.roll(12) as u64;
                self.shell.pass(millis);
            }
            30 if self.dice.roll(3) == 0 => self.end_provide(),
            _ if self.dice.roll(6) == 0 => self.die(),
            _ => {}
        }
        self.hear();
        self.check();
    }

    fn arrive(&mut self) {
        if self.dice.roll(2) == 0 && self.callers.len() < 5 {
            let id = self.shell.native("c");
            self.callers.insert(id);
        } else if self.providers.len() < 6 {
            let id = self.shell.native("i");
            self.providers.insert(id);
        }
    }

    fn provide(&mut self) {
        let all: Vec<SessionId> = self.providers.iter().copied().collect();
        let Some(id) = self.one(&all) else { return };
        if self.instances.keys().filter(|(session, _)| *session == id).count() >= 3 {
            return;
        }
        self.last_provider += 1;
        let (service, concurrency) = (self.dice.roll(3), 1 + self.dice.roll(3));
        let frame = Provide {
            req: 1,
            provider: self.last_provider,
            service: NAMES[service],
            concurrency: u32::try_from(concurrency).unwrap(),
            weight: 1 + u32::try_from(self.dice.roll(3)).unwrap(),
            priority: u32::try_from(self.dice.roll(3)).unwrap(),
        };
        self.shell.say(id, ToBroker::Provide(frame));
        let instance = Instance { service, concurrency, ..Instance::default() };
        self.instances.insert((id, frame.provider), instance);
    }

    fn end_provide(&mut self) {
        let all: Vec<At> =
            self.instances.iter().filter(|(_, each)| !each.ending).map(|(at, _)| *at).collect();
        let Some(at) = self.one(&all) else { return };
        self.instances.get_mut(&at).unwrap().ending = true;
        self.shell.say(at.0, ToBroker::EndProvide { req: 2, provider: at.1 });
    }

    fn ask(&mut self) {
        let all: Vec<SessionId> = self.callers.iter().copied().collect();
        let Some(caller) = self.one(&all) else { return };
        for _ in 0..=self.dice.roll(3) {
            let service = self.dice.roll(3);
            self.last += 1;
            let number = self.last;
            let millis =
                if self.dice.roll(4) == 0 { 0 } else { 5 + u64::try_from(self.dice.roll(150)).unwrap() };
            let idempotent = self.dice.roll(2) == 0;
            let payload = number.to_le_bytes();
            let frame = Request {
                service: NAMES[service],
                timeout_millis: u32::try_from(millis).unwrap(),
                idempotent,
                message: message(number, &payload),
            };
            let span = if millis == 0 { 60 } else { millis };
            self.known.insert(
                number,
                Known {
                    caller,
                    service,
                    idempotent,
                    deadline: self.shell.now.monotonic + span * MILLI,
                    cancelled: false,
                    outcome: None,
                    given: BTreeSet::new(),
                    attempts: BTreeSet::new(),
                },
            );
            self.shell.say(caller, ToBroker::Request(frame));
        }
    }

    /// Has an instance answer one of its calls: well, with an error, or by saying that it cannot. Those that are over as well.
    fn answer(&mut self) {
        let all: Vec<(At, u64)> =
            self.instances.iter().flat_map(|(at, each)| each.has.keys().map(|call| (*at, *call))).collect();
        let Some((at, call)) = self.one(&all) else { return };
        // A third of them is slow, and the last of all lies down for a while now and then.
        if at.1.is_multiple_of(3) && self.dice.roll(6) > 0 {
            return;
        }
        let (number, over) = self.instances.get_mut(&at).unwrap().has.remove(&call).unwrap();
        let payload = number.to_le_bytes();
        let (outcome, told) = match self.dice.roll(6) {
            0 => (Outcome::Failed { text: "no" }, None),
            1 => (Outcome::Error(ErrorReply { number: 7, text: "e" }), Some(Some(Code::ErrorReply))),
            _ => (Outcome::Done, Some(None)),
        };
        if over {
            self.late += 1;
        } else if let Some(told) = told {
            self.answered.insert(number, told);
        }
        let frame = Reply { provider: at.1, call, outcome, message: message(0, &payload) };
        self.shell.say(at.0, ToBroker::Reply(frame));
        if self.dice.roll(20) == 0 {
            self.shell.say(at.0, ToBroker::Reply(frame));
        }
    }

    fn cancel(&mut self) {
        let open: Vec<u64> = self.open().map(|(number, _)| number).collect();
        let Some(number) = self.one(&open) else { return };
        let known = self.known.get_mut(&number).unwrap();
        known.cancelled = true;
        self.shell.say(known.caller, ToBroker::CancelRequest { request: number });
    }

    fn die(&mut self) {
        let all: Vec<SessionId> = self.callers.iter().chain(&self.providers).copied().collect();
        let Some(id) = self.one(&all) else { return };
        if self.callers.remove(&id) {
            self.known
                .values_mut()
                .filter(|known| known.caller == id)
                .for_each(|known| known.cancelled = true);
        }
        self.providers.remove(&id);
        for (_, instance) in self.instances.extract_if(.., |(session, _), _| *session == id) {
            self.deserted.extend(instance.has.values().filter(|(_, over)| !over).map(|(number, _)| *number));
        }
        self.shell.hang_up(id);
    }

    /// Requests whose callers wait.
    fn open(&self) -> impl Iterator<Item = (u64, &Known)> {
        let open = self.known.iter().filter(|(_, known)| known.outcome.is_none() && !known.cancelled);
        open.map(|(number, known)| (*number, known))
    }

    /// Instances first: whom a request was given to is known before what became of it.
    fn hear(&mut self) {
        for id in self.providers.clone() {
            let bytes = self.shell.read(id);
            each_frame(&bytes, |frame| match frame {
                ToClient::Call(call) => {
                    let at = (id, call.provider);
                    let number = u64::from_le_bytes(call.message.payload.try_into().unwrap());
                    let known = self.known.get_mut(&number).unwrap();
                    let retries = usize::try_from(services()[known.service].retries_max).unwrap();
                    assert!(known.outcome.is_none(), "request {number} has an outcome already: {known:?}");
                    assert!(known.given.insert(at), "{number} is given to {at:?} twice");
                    assert!(known.attempts.insert(call.attempt), "{known:?}");
                    let most = if known.idempotent { 1 + retries } else { 1 };
                    assert!(known.given.len() <= most, "{number} is given out too often: {known:?}");
                    assert!(call.timeout_millis > 0, "{number} is given out after its deadline");
                    let instance = self.instances.get_mut(&at).unwrap();
                    assert_eq!(instance.service, known.service);
                    assert!(instance.has.insert(call.call, (number, false)).is_none());
                    assert!(instance.has.len() <= instance.concurrency, "{instance:?}");
                }
                ToClient::CallOver { provider, call, .. } => {
                    // It may have been answered meanwhile.
                    let instance = self.instances.get_mut(&(id, provider));
                    if let Some((_, over)) = instance.and_then(|instance| instance.has.get_mut(&call)) {
                        *over = true;
                    }
                }
                ToClient::Done { .. } | ToClient::Source(_) | ToClient::SourceGone { .. } => {}
                other => panic!("{other:?}"),
            });
        }
        for id in self.callers.clone() {
            let bytes = self.shell.read(id);
            each_frame(&bytes, |frame| match frame {
                ToClient::Replied(replied) => {
                    let number = replied.request;
                    assert_eq!(replied.message.payload, number.to_le_bytes());
                    let told = self.answered.remove(&number).expect("somebody has just answered it");
                    assert_eq!(replied.error.map(|_| Code::ErrorReply), told);
                    self.is_told(number, told);
                }
                ToClient::RequestFailed { request, code, .. } => {
                    let code = Code::from_number(code).unwrap();
                    self.failed(request, code);
                    self.is_told(request, Some(code));
                }
                ToClient::Source(_) | ToClient::SourceGone { .. } => {}
                other => panic!("{other:?}"),
            });
        }
        self.answered.retain(|number, _| !self.known[number].cancelled);
        assert!(self.answered.is_empty(), "answered and not told: {:?}", self.answered);
    }

    fn is_told(&mut self, number: u64, outcome: Option<Code>) {
        let known = self.known.get_mut(&number).unwrap();
        assert!(!known.cancelled, "{number} was cancelled");
        assert_eq!(known.outcome.replace(outcome), None, "{number} has two outcomes");
    }

    /// Whether that can be why a request has no answer.
    fn failed(&mut self, number: u64, code: Code) {
        let known = &self.known[&number];
        let there = self.instances.values().any(|each| each.service == known.service && !each.ending);
        let now = self.shell.now.monotonic;
        match code {
            Code::NoInstance => assert!(!there && known.given.is_empty(), "{known:?}"),
            Code::LimitReached => {
                self.refused += 1;
                assert!(known.given.is_empty());
            }
            Code::OutcomeUnknown => assert!(known.idempotent || self.deserted.contains(&number), "{known:?}"),
            Code::TimedOut => assert!(now >= known.deadline || known.idempotent, "{known:?}"),
            Code::InstanceFailed => assert!(!known.given.is_empty()),
            other => panic!("{other:?}"),
        }
    }

    fn check(&mut self) {
        for number in &self.deserted {
            let known = &self.known[number];
            let unknown = known.outcome == Some(Some(Code::OutcomeUnknown));
            assert!(known.idempotent || known.cancelled || unknown, "{known:?}");
        }
        let now = self.shell.now.monotonic;
        let late = self.open().find(|(_, known)| now >= known.deadline);
        assert!(late.is_none(), "still waits at {now}: {late:?}");
        let mut held = BTreeSet::new();
        for (at, instance) in &self.instances {
            for (number, _) in instance.has.values().filter(|(_, over)| !over) {
                let known = &self.known[number];
                assert!(known.outcome.is_none() && !known.cancelled, "{at:?} has what is over: {known:?}");
                assert!(held.insert(*number), "two instances have {number}");
            }
        }
        // One that was told to end is gone once it has nothing left that anybody waits for.
        self.instances.retain(|_, each| !each.ending || each.has.values().any(|(_, over)| !over));
        for status in self.status() {
            let place = NAMES.iter().position(|name| *name == status.service).unwrap();
            let open = self.open().filter(|(_, known)| known.service == place).count() as u64;
            let counts = status.counts;
            assert_eq!(status.outstanding, open, "{status:?}");
            assert!(open <= u64::from(OUTSTANDING_MAX));
            let settled = counts.replies + counts.errors + counts.unanswered + counts.cancelled;
            assert_eq!(counts.requests, settled + open, "{status:?}");
            let busy: u64 = status.instances.iter().map(|each| each.has).sum();
            assert_eq!(status.waiting, open - busy);
            let all = status.instances.iter().filter(|each| each.state != "ending").count();
            let ejected = status.instances.iter().filter(|each| each.state == "ejected").count();
            assert!(ejected == 0 || ejected < all, "somebody is left: {status:?}");
            let books = self.instances.values().filter(|each| each.service == place).count();
            assert_eq!(status.instances.len(), books);
            // Nobody waits where somebody could take it: who is free has been given all, or is left out or on trial.
            if status.waiting > 0 && place != 2 {
                let free = |each: &&crate::core::snapshot::InstanceStatus| {
                    each.state == "healthy" && each.has + each.over < each.concurrency
                };
                assert!(status.instances.iter().filter(free).count() <= self.tried(place), "{status:?}");
            }
        }
    }

    /// How many instances requests that wait have been given to already.
    fn tried(&self, place: usize) -> usize {
        let waiting = self.open().filter(|(_, known)| known.service == place);
        waiting.map(|(_, known)| known.given.len()).sum()
    }

    fn status(&self) -> Vec<ServiceStatus> {
        self.shell.core.service_status()
    }

    /// Everybody goes; nothing is left of anything.
    fn finish(mut self) {
        let all: Vec<SessionId> = self.providers.iter().chain(&self.callers).copied().collect();
        for id in all {
            self.answered.clear();
            self.deserted.clear();
            self.callers.remove(&id);
            self.known
                .values_mut()
                .filter(|known| known.caller == id)
                .for_each(|known| known.cancelled = true);
            self.providers.remove(&id);
            for (_, instance) in self.instances.extract_if(.., |(session, _), _| *session == id) {
                self.deserted
                    .extend(instance.has.values().filter(|(_, over)| !over).map(|(number, _)| *number));
            }
            self.shell.hang_up(id);
            self.hear();
            self.check();
        }
        assert_eq!(self.open().count(), 0);
        assert!(self.shell.core.queues.charges.is_empty(), "{:?}", self.shell.core.queues.charges);
        self.shell.is_empty();
    }
}

#[test]
fn whatever_happens_every_request_has_one_outcome_in_time() {
    let number = |text: Option<&str>| text.and_then(|value| value.parse::<u64>().ok());
    let steps = number(option_env!("TRAMLINE_SERVICE_STEPS")).unwrap_or(STEPS);
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    // In one of these somebody is free for a request in the moment in which its time is up.
    let mut happened = [[0; COUNTED]; NAMES.len()];
    for seed in [1, 2, 3_506_326_108_315_748_828, number(option_env!("TRAMLINE_SEED")).unwrap_or(random)] {
        let result = std::panic::catch_unwind(|| live(seed, steps));
        let Ok(counts) = result else { panic!("with TRAMLINE_SEED={seed}, see above") };
        for (all, counts) in happened.iter_mut().flatten().zip(counts.into_iter().flatten()) {
            *all += counts;
        }
    }
    // Worlds in which nothing happened would prove nothing. What is rare need not happen in each of them.
    for (name, counts) in NAMES.iter().zip(happened) {
        assert!(counts.iter().all(|count| *count > 0), "{name}: {counts:?}");
    }
}

/// What is counted of a service.
const COUNTED: usize = 9;

fn live(seed: u64, steps: u64) -> [[u64; COUNTED]; NAMES.len()] {
    let mut world = World::new(seed);
    for step in 0..steps {
        world.step();
        if step % 128 == 0 {
            // What is long over is not needed any more.
            let held: BTreeSet<u64> = world
                .instances
                .values()
                .flat_map(|each| each.has.values())
                .map(|(number, _)| *number)
                .collect();
            world.known.retain(|number, known| {
                held.contains(number) || (known.outcome.is_none() && !known.cancelled)
            });
        }
    }
    let mut happened = [[0; COUNTED]; NAMES.len()];
    for (place, status) in world.status().iter().enumerate() {
        let counts = status.counts;
        let number = NAMES.iter().position(|name| *name == status.service).expect("one of these");
        happened[number] = [
            counts.replies,
            counts.errors,
            counts.timed_out,
            counts.cancelled,
            counts.failed,
            counts.deaths,
            counts.late_replies,
            counts.ejections,
            counts.no_instance,
        ];
        assert_eq!(counts.retries > 0, NAMES[0] != status.service, "{place}: {status:?}");
    }
    assert!(world.refused > 0 && world.late > 0);
    world.finish();
    happened
}
