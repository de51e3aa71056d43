//! Limits of memory: what processes can pass through plain shared memory, and one thread can copy.

use super::{
    Plan, Round, SLOTS_MIN, SMALL_BYTES, drained, gigabytes_per_second, gone, median, memory_refused,
    nanos_from_now, ready,
};
use crate::cli::Failure;
use crate::cli::bench::bare::BareRole;
use crate::cli::bench::payload::{self, STAMP_BYTES, Touch};
use crate::cli::bench::pin::{Pin, Pinned};
use crate::cli::clock::monotonic_nanos;
use crate::cli::histogram::Latencies;
use crate::cli::scene::{ActorNumber, Scene};
use std::process::Stdio;
use std::time::Instant;
use tramline_ring::baseline::{Exchange, SLOTS_MAX};

/// Two processes that spin: a message there and back through one slot, written and read at each end.
pub(super) fn ping_pong(plan: &Plan<'_>) -> Result<Round, Failure> {
    let mut scene = Scene::open("bench")?;
    let mut exchange = Exchange::create(1, SMALL_BYTES, 1).map_err(memory_refused)?;
    let _pinned = Pinned::to(plan.core(Pin::Split, 0))?;
    let echo = join(&mut scene, &exchange, &BareRole::EchoExchange { core: plan.core(Pin::Split, 1) })?;
    ready(&mut scene, echo, plan.deadline())?;
    let mut latencies = Latencies::new();
    let (end, give_up) = (nanos_from_now(plan.duration), plan.deadline());
    let mut before = monotonic_nanos();
    let mut number = 0;
    while before < end {
        let Some(slot) = exchange.take(0, || Instant::now() > give_up) else {
            return Err(gone(&scene, echo));
        };
        payload::write(slot, number, before, Touch::All);
        exchange.pass(0);
        let Some(slot) = exchange.take(0, || Instant::now() > give_up) else {
            return Err(gone(&scene, echo));
        };
        if payload::read(slot, Touch::All).is_none_or(|stamp| !stamp.intact || stamp.number != number) {
            return Err(Failure::software("a message came back changed through bare memory"));
        }
        let now = monotonic_nanos();
        latencies.record(now - before);
        before = now;
        number += 1;
    }
    Ok(median(&latencies))
}

/// One process writes messages into slots of plain memory, filled there or copied in, and others read them.
pub(super) fn write_and_read(
    plan: &Plan<'_>,
    bytes: usize,
    readers: usize,
    touch: Touch,
) -> Result<Round, Failure> {
    let mut scene = Scene::open("bench")?;
    let slots = payload::slots(bytes).clamp(SLOTS_MIN, SLOTS_MAX);
    let mut exchange = Exchange::create(slots, bytes, readers).map_err(memory_refused)?;
    let pin = if readers > 1 { Pin::None } else { Pin::Split };
    let _pinned = Pinned::to(plan.core(pin, 0))?;
    let mut drains = Vec::new();
    for index in 0..readers {
        let role =
            BareRole::DrainExchange { copied: touch == Touch::Copied, core: plan.core(pin, 1 + index) };
        let drain = join(&mut scene, &exchange, &role)?;
        ready(&mut scene, drain, plan.deadline())?;
        drains.push(drain);
    }
    let mut room = vec![0; bytes];
    payload::prepare(&mut room);
    let (end, give_up) = (nanos_from_now(plan.duration), plan.deadline());
    let (mut number, mut last) = (0, false);
    while !last {
        let slot = usize::try_from(number % slots as u64).expect("below the number of slots");
        let Some(place) = exchange.take(slot, || Instant::now() > give_up) else {
            return Err(gone(&scene, drains[0]));
        };
        let now = monotonic_nanos();
        last = now >= end;
        // A time of 0 says that this is the last one.
        let time = if last { 0 } else { now };
        if touch == Touch::Copied {
            payload::write(&mut room, number, time, touch);
            place.copy_from_slice(&room);
        } else {
            payload::write(place, number, time, touch);
        }
        exchange.pass(slot);
        number += 1;
    }
    let mut slowest = f64::INFINITY;
    for drained in drained(&mut scene, &drains, plan.deadline())? {
        drained.check(number)?;
        slowest = slowest.min(drained.gigabytes_per_second(bytes));
    }
    Ok((slowest, None))
}

/// Starts the process at another end of an exchange.
fn join(scene: &mut Scene, exchange: &Exchange, role: &BareRole) -> Result<ActorNumber, Failure> {
    let memory = exchange.memory().try_clone_to_owned().map_err(memory_refused)?;
    scene.start_with(role.name(), &role.arguments(), memory.into(), Stdio::piped(), Stdio::inherit())
}

/// One thread copies from one place to another.
pub(super) fn memcpy(plan: &Plan<'_>, bytes: usize) -> Result<Round, Failure> {
    let _pinned = Pinned::to(plan.core(Pin::One, 0))?;
    // A whole number of pages apart: where the target lies a little behind the source within their pages, the C library's
    // copy takes twenty times as long on some processors, and it is left to chance where two allocations lie.
    let mut room = vec![1_u8; 2 * bytes];
    let (from, to) = room.split_at_mut(bytes);
    let (start, end) = (monotonic_nanos(), nanos_from_now(plan.duration));
    let (mut now, mut copied) = (start, 0_u64);
    // Enough copies between two looks at the clock that the clock does not count.
    let copies = ((1 << 20) / bytes).max(1);
    while now < end {
        for _ in 0..copies {
            to.copy_from_slice(std::hint::black_box(from));
            std::hint::black_box(&mut *to);
        }
        copied += (copies * bytes) as u64;
        from[0] = from[0].wrapping_add(1);
        now = monotonic_nanos();
    }
    if to.len() < STAMP_BYTES {
        return Err(Failure::software("a copy too small to be measured"));
    }
    Ok((gigabytes_per_second(copied, now - start), None))
}
