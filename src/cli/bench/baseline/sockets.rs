//! Limits of sockets: a pair of Unix stream sockets between two processes, and a third process between them.

use super::{
    BATCH, Plan, ROUND_GRACE, Round, SMALL_BYTES, drained, median, nanos_from_now, no_socket, ready,
};
use crate::cli::Failure;
use crate::cli::bench::bare::BareRole;
use crate::cli::bench::framing;
use crate::cli::bench::payload::{self, Touch};
use crate::cli::bench::pin::{Pin, Pinned};
use crate::cli::clock::monotonic_nanos;
use crate::cli::histogram::Latencies;
use crate::cli::scene::Scene;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

/// One message there and back, again and again, by blocking reads and writes; through a relay if asked.
pub(super) fn unix_ping_pong(plan: &Plan<'_>, pin: Pin, relayed: bool) -> Result<Round, Failure> {
    let mut scene = Scene::open("bench")?;
    let _pinned = Pinned::to(plan.core(pin, 0))?;
    let (mut here, there) = UnixStream::pair().map_err(no_socket)?;
    let far = if relayed { relay(&mut scene, plan, pin, there, true)? } else { there };
    let role = BareRole::EchoStream { bytes: SMALL_BYTES, core: plan.core(pin, 1) };
    let echo = scene.start_with(
        role.name(),
        &role.arguments(),
        OwnedFd::from(far).into(),
        Stdio::null(),
        Stdio::inherit(),
    )?;
    here.set_read_timeout(Some(plan.duration + ROUND_GRACE)).map_err(no_socket)?;
    let lost = |error| Failure::unavailable(format!("{} is lost: {error}", scene.name(echo)));
    let (mut message, mut latencies) = ([0; SMALL_BYTES], Latencies::new());
    let mut number = 0;
    let mut end = u64::MAX;
    let mut before = monotonic_nanos();
    while before < end {
        payload::write(&mut message, number, before, Touch::All);
        here.write_all(&message).map_err(lost)?;
        here.read_exact(&mut message).map_err(lost)?;
        let now = monotonic_nanos();
        if payload::read(&message, Touch::All).is_none_or(|stamp| !stamp.intact || stamp.number != number) {
            return Err(Failure::software("a message came back changed from a bare socket"));
        }
        if number == 0 {
            // The first round trip waited for the other processes to start.
            end = nanos_from_now(plan.duration);
        } else {
            latencies.record(now - before);
        }
        number += 1;
        before = now;
    }
    Ok(median(&latencies))
}

/// As many messages as go, [`BATCH`] a write, each behind its length; through a relay if asked.
pub(super) fn unix_stream(plan: &Plan<'_>, pin: Pin, relayed: bool) -> Result<Round, Failure> {
    let mut scene = Scene::open("bench")?;
    let _pinned = Pinned::to(plan.core(pin, 0))?;
    let (mut here, there) = UnixStream::pair().map_err(no_socket)?;
    let far = if relayed { relay(&mut scene, plan, pin, there, false)? } else { there };
    let role = BareRole::DrainStream { core: plan.core(pin, 1) };
    let drain = scene.start_with(
        role.name(),
        &role.arguments(),
        OwnedFd::from(far).into(),
        Stdio::piped(),
        Stdio::inherit(),
    )?;
    ready(&mut scene, drain, plan.deadline())?;
    here.set_write_timeout(Some(plan.duration + ROUND_GRACE)).map_err(no_socket)?;
    let lost = |error| Failure::unavailable(format!("the receiver of a bare socket is lost: {error}"));
    // Like a client's, this code does not know the size when it is compiled.
    let bytes = std::hint::black_box(SMALL_BYTES);
    let mut batch = vec![0; framing::framed_bytes(bytes) * BATCH];
    let (mut number, end) = (0, nanos_from_now(plan.duration));
    loop {
        let now = monotonic_nanos();
        if now >= end {
            break;
        }
        for frame in batch.chunks_exact_mut(framing::framed_bytes(bytes)) {
            payload::write(framing::begin(frame), number, now, Touch::All);
            number += 1;
        }
        here.write_all(&batch).map_err(lost)?;
    }
    here.shutdown(std::net::Shutdown::Write).map_err(lost)?;
    let drained = drained(&mut scene, &[drain], plan.deadline())?;
    drained[0].check(number)?;
    Ok((drained[0].messages_per_second(), None))
}

/// Starts a relay that takes `near`, and returns the socket at its other side.
fn relay(
    scene: &mut Scene,
    plan: &Plan<'_>,
    pin: Pin,
    near: UnixStream,
    alternate: bool,
) -> Result<UnixStream, Failure> {
    let (out, far) = UnixStream::pair().map_err(no_socket)?;
    let core = plan.core(pin, 1);
    let role = if alternate {
        BareRole::RelayTurns { bytes: SMALL_BYTES, core }
    } else {
        BareRole::RelayStream { core }
    };
    let (stdin, stdout) = (OwnedFd::from(near), OwnedFd::from(out));
    scene.start_with(role.name(), &role.arguments(), stdin.into(), stdout.into(), Stdio::inherit())?;
    Ok(far)
}
