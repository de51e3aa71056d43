//! The two ends of a service in a benchmark: one asks, the other sends each request back as its answer.

use super::payload;
use super::roles::{Common, Tally};
use crate::cli::Failure;
use crate::cli::clock::monotonic_nanos;
use crate::cli::histogram::Latencies;
use crate::cli::role::begin;
use std::time::Duration;
use tramline_client::Code;

const SERVICE: &str = "bench.echo";

/// Asks, waits for the answer, and so on.
pub(super) fn ping(common: &Common, duration: Duration) -> Result<Tally, Failure> {
    let touch = common.touch();
    let client = common.connect("bench ping")?;
    begin()?;
    let mut room = common.room(1);
    let (mut tally, mut latencies) = (Tally::default(), Latencies::new());
    let began = monotonic_nanos();
    let end = began.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let mut before = began;
    loop {
        // The last one says that it is over.
        let time = if before < end { before } else { 0 };
        payload::write(&mut room, tally.messages, time, touch);
        let answer = match client.request(SERVICE, &room).send() {
            // The other process may not be there yet.
            Err(error) if error.code() == Code::NoInstance && tally.messages == 0 => continue,
            answer => answer?,
        };
        if time == 0 {
            break;
        }
        tally.count(answer.by_ref(), touch)?;
        let now = monotonic_nanos();
        if tally.messages > 1 {
            latencies.record(now - before);
        }
        before = now;
    }
    tally.nanos = before - began;
    tally.latencies = latencies.counts();
    Ok(tally)
}

/// Answers each request with itself.
pub(super) fn pong(common: &Common) -> Result<Tally, Failure> {
    let touch = common.touch();
    let client = common.connect("bench pong")?;
    let mut requests = client.service(SERVICE).start()?;
    begin()?;
    let mut tally = Tally::default();
    loop {
        let request = requests.recv()?;
        let stamp = tally.count(request.by_ref(), touch)?;
        request.reply(request.payload())?;
        if stamp.time == 0 {
            client.flush()?;
            return Ok(tally);
        }
    }
}
