//! One service: its instances, who of them gets the next request, and which requests wait.
//!
//! An instance has a place for each request that it works on, up to the number that it offers. A call that is over for its
//! caller keeps its place until the instance answers it: what it still works on it must not be given twice of.

use super::settings::ServiceSettings;
use crate::core::health::Health;
use crate::core::latency::Latency;
use crate::core::session::Identity;
use crate::core::snapshot::ServiceCounts;
use crate::core::strategy::{Group, Seat};
use crate::core::table::Key;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One who answers requests.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) session: Key,
    /// Its number in its session.
    pub(super) provider: u32,
    pub(super) identity: Arc<Identity>,
    /// How many requests it works on at a time.
    pub(super) concurrency: u32,
    /// Whether it is given no more.
    pub(super) ending: bool,
    /// Whether its session has no room now.
    pub(super) blocked: bool,
    pub(super) health: Health,
    /// Its number in its service, never used again.
    pub(super) serial: u64,
    /// What it works on, by the numbers of calls; none: it is over for its caller.
    pub(super) has: BTreeMap<u64, Option<Key>>,
    /// The number of its last call.
    pub(super) last: u64,
    /// What it has answered in time.
    pub(super) answered: u64,
}

impl Instance {
    fn can_take(&self) -> bool {
        !self.ending
            && !self.blocked
            && self.has.len() < self.concurrency as usize
            && self.health.lets_another()
    }

    /// Whether it may be given this request, now or later.
    fn is_for(&self, tried: &[u64]) -> bool {
        !self.ending && !self.health.is_ejected() && !tried.contains(&self.serial)
    }
}

/// What a number means to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Had {
    /// It has this call.
    Call(Key),
    /// It had it, and it is over.
    Over,
    /// It answered it before.
    Answered,
    /// It was never given such a call.
    Never,
}

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: Arc<str>,
    pub(super) settings: Arc<ServiceSettings>,
    /// Whether it is there without instances as well.
    pub(super) lasting: bool,
    pub(super) instances: Vec<Option<Instance>>,
    /// Requests that wait for an instance, in the order in which they came.
    pub(super) waiting: BTreeMap<u64, Key>,
    /// Requests without an outcome.
    pub(super) outstanding: u32,
    pub(super) counts: ServiceCounts,
    pub(super) latency: Latency,
    /// When its timer is set.
    pub(super) timer_at: Option<u64>,
    /// Whether it stands in `Services::busy`.
    pub(super) is_busy: bool,
    group: Group,
    last_serial: u64,
    last_order: u64,
}

impl Service {
    pub(super) fn new(name: Arc<str>, settings: Arc<ServiceSettings>, lasting: bool) -> Self {
        Self {
            name,
            group: Group::new(settings.strategy),
            settings,
            lasting,
            instances: Vec::new(),
            waiting: BTreeMap::new(),
            outstanding: 0,
            counts: ServiceCounts::default(),
            latency: Latency::default(),
            timer_at: None,
            is_busy: false,
            last_serial: 0,
            last_order: 0,
        }
    }

    pub(super) fn next_order(&mut self) -> u64 {
        self.last_order += 1;
        self.last_order
    }

    pub(super) fn join(&mut self, mut instance: Instance, weight: u32, priority: u32) -> Seat {
        self.last_serial += 1;
        instance.serial = self.last_serial;
        let seat = self.group.join(weight, priority);
        if self.instances.len() <= seat as usize {
            self.instances.resize_with(seat as usize + 1, || None);
        }
        self.instances[seat as usize] = Some(instance);
        self.look_at(seat);
        seat
    }

    pub(super) fn instance(&self, seat: Seat) -> Option<&Instance> {
        self.instances.get(seat as usize)?.as_ref()
    }

    /// Changes an instance, and sees whether it can take something now.
    pub(super) fn change(&mut self, seat: Seat, change: impl FnOnce(&mut Instance)) {
        if let Some(Some(instance)) = self.instances.get_mut(seat as usize) {
            change(instance);
            self.look_at(seat);
        }
    }

    pub(super) fn look_at(&mut self, seat: Seat) {
        let ready = self.instance(seat).is_some_and(Instance::can_take);
        self.group.set_ready(seat, ready);
    }

    /// Who gets a request that these have been given already; none if nobody can take it now.
    pub(super) fn choose(&self, tried: &[u64]) -> Option<Seat> {
        self.group.choose_of(|seat| self.instance(seat).is_some_and(|instance| instance.is_for(tried)))
    }

    /// Whether somebody may be given a request that these have been given already, now or later.
    pub(super) fn could_take(&self, tried: &[u64]) -> bool {
        self.instances.iter().flatten().any(|instance| instance.is_for(tried))
    }

    /// Gives a call to this instance; its number there, and the instance's own.
    pub(super) fn give(&mut self, seat: Seat, call: Key) -> Option<(u64, u64)> {
        let instance = self.instances.get_mut(seat as usize)?.as_mut()?;
        instance.last += 1;
        let (number, serial) = (instance.last, instance.serial);
        instance.has.insert(number, Some(call));
        instance.health.gave(number);
        self.group.served(seat);
        self.look_at(seat);
        self.counts.given += 1;
        Some((number, serial))
    }

    /// What this number means to this instance.
    pub(super) fn look_up(&self, seat: Seat, number: u64) -> Had {
        let Some(instance) = self.instance(seat) else { return Had::Over };
        match instance.has.get(&number) {
            Some(Some(call)) => Had::Call(*call),
            Some(None) => Had::Over,
            None if number > 0 && number <= instance.last => Had::Answered,
            None => Had::Never,
        }
    }

    /// An instance has done with a call.
    pub(super) fn answered(&mut self, seat: Seat, number: u64) {
        self.group.settled(seat);
        self.change(seat, |instance| {
            instance.has.remove(&number);
            instance.health.done(number);
        });
    }

    /// A call is over for its caller; the instance may still work on it.
    pub(super) fn over(&mut self, seat: Seat, number: u64) {
        self.change(seat, |instance| {
            instance.has.insert(number, None);
            instance.health.done(number);
        });
    }

    /// An instance has gone.
    pub(super) fn leave(&mut self, seat: Seat) -> Option<Instance> {
        let instance = self.instances.get_mut(seat as usize)?.take()?;
        self.group.leave(seat);
        Some(instance)
    }
}
