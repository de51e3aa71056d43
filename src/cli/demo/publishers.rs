//! The publishing processes of the demonstration: a replayed receiver and a camera.

use super::capture::{Proof, lines, topic};
use super::report::Account;
use crate::cli::Failure;
use crate::cli::clock::{Pace, monotonic_nanos, wait_until};
use crate::cli::input::Declared;
use crate::cli::role::begin;
use std::path::Path;
use std::time::Duration;
use tramline_client::Client;

/// The camera's topic.
pub(super) const CAMERA: &str = "cam.front";
/// Bytes of a frame.
pub(super) const FRAME_BYTES: usize = 8 << 20;
/// Frames that have room in the camera's ring.
const FRAMES_IN_RING: u32 = 3;
/// Every so many bytes of a frame carry its number.
const BLOCK_BYTES: usize = 64 << 10;
/// How long the camera waits for its viewer.
const VIEWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Publishes every line of a capture, `seconds` long in all, each to the topic of its kind.
pub(super) fn replay(socket: &Path, input: &Path, seconds: f64) -> Result<Account, Failure> {
    let capture =
        std::fs::read(input).map_err(|error| Failure::no_input(format!("{}: {error}", input.display())))?;
    let client = Client::builder().name("gps replay").socket(socket).reconnect(false).connect()?;
    begin()?;
    let count = lines(&capture).count();
    let pace = Pace::new(monotonic_nanos(), (count as f64 / seconds).max(1.0));
    let mut proof = Proof::default();
    for (number, line) in (0..).zip(lines(&capture)) {
        wait_until(pace.due(number));
        let topic = topic(line);
        client.message(&topic).encoding(Declared::Auto.of(line)?).publish(line)?;
        proof.add(&topic, line);
    }
    client.flush()?;
    Ok(Account { sums: proof.finish(), ..Account::default() })
}

/// Publishes frames in place, `seconds` long in all.
pub(super) fn camera(socket: &Path, frames: u64, seconds: f64) -> Result<Account, Failure> {
    let client = Client::builder().name("camera").socket(socket).reconnect(false).connect()?;
    let mut publisher = client.publisher(CAMERA).capacity(FRAME_BYTES, FRAMES_IN_RING).open()?;
    let picture = picture();
    begin()?;
    publisher.wait_for_subscribers(1, VIEWER_WAIT_MAX)?;
    let pace = Pace::new(monotonic_nanos(), (frames as f64 / seconds).max(1.0));
    let mut proof = Proof::default();
    for number in 0..frames {
        wait_until(pace.due(number));
        let mut frame = publisher.loan(FRAME_BYTES)?;
        frame.copy_from_slice(&picture);
        // No two frames are alike, and none alike in any part.
        for block in frame.chunks_exact_mut(BLOCK_BYTES) {
            block[..8].copy_from_slice(&number.to_le_bytes());
        }
        proof.add(CAMERA, &frame);
        frame.send()?;
    }
    publisher.close()?;
    Ok(Account { sums: proof.finish(), ..Account::default() })
}

/// What the camera sees: noise, which no reader could make up.
fn picture() -> Vec<u8> {
    let mut bytes = vec![0; FRAME_BYTES];
    blake3::Hasher::new().update(b"what the camera sees").finalize_xof().fill(&mut bytes);
    bytes
}
