//! 8 MiB frames, filled in place, for a recorder that must get every one and a viewer that is too slow.
//! Start a broker (`tramline serve`), then `cargo run --release --example camera [FRAMES]`.

use std::time::{Duration, Instant};
use tramline_client::{Client, Message, PublisherEvent, Result, Subscription};

const FRAME_BYTES: usize = 8 << 20;

/// How often the viewer goes over a frame to draw it.
const DRAWING_PASSES: u32 = 20;

/// Reads a frame's number and all of its pixels.
fn look_at(frame: &Message) -> (u64, u64) {
    let (words, _) = frame.payload().as_chunks::<8>();
    let number = words.first().map_or(0, |word| u64::from_le_bytes(*word));
    let sum = words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    (number, sum)
}

/// Whether the subscription's only publisher has left and everything was read.
fn is_over(subscription: &mut Subscription) -> bool {
    subscription.events().iter().any(|event| matches!(event, PublisherEvent::Left(_)))
}

fn record(mut frames: Subscription) -> Result<u64> {
    let mut expected = 0;
    loop {
        match frames.recv_timeout(Duration::from_millis(100))? {
            Some(frame) => {
                assert_eq!(look_at(&frame).0, expected, "a gated subscription gets every frame in order");
                expected += 1;
            }
            None if is_over(&mut frames) => return Ok(expected),
            None => {}
        }
    }
}

fn view(mut frames: Subscription) -> Result<(u64, u64)> {
    let mut shown = 0;
    loop {
        match frames.recv_timeout(Duration::from_millis(100))? {
            Some(frame) => {
                shown += 1;
                let (number, sum) = look_at(&frame);
                println!("viewer: frame {number}, sum {sum:x}, {} missed before it", frame.lost_before());
                // A picture that takes long to draw. The camera and the recorder do not wait for it.
                let drawn =
                    (0..DRAWING_PASSES).fold(0, |drawn: u64, _| drawn.wrapping_add(look_at(&frame).1));
                std::hint::black_box(drawn);
            }
            None if is_over(&mut frames) => return Ok((shown, frames.lost())),
            None => {}
        }
    }
}

fn main() -> Result<()> {
    let count: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(200);
    let recorder = Client::builder().name("recorder").connect()?;
    let recording = recorder.subscribe("cam.front")?;
    let viewer = Client::builder().name("viewer").connect()?;
    let viewing = viewer.subscription("cam.front").lossy().open()?;
    let recording = std::thread::spawn(move || record(recording));
    let viewing = std::thread::spawn(move || view(viewing));

    let camera = Client::builder().name("camera").connect()?;
    let mut publisher = camera.publisher("cam.front").capacity(FRAME_BYTES, 4).open()?;
    let begun = Instant::now();
    for number in 0..count {
        let mut frame = publisher.loan(FRAME_BYTES)?;
        let (words, _) = frame.as_chunks_mut::<8>();
        for word in words {
            *word = number.to_le_bytes();
        }
        frame.send()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    publisher.close()?;

    let recorded = recording.join().expect("the recorder does not panic")?;
    let (shown, missed) = viewing.join().expect("the viewer does not panic")?;
    println!(
        "camera: {count} frames in {seconds:.2} s; recorder: {recorded}; viewer: {shown}, missed {missed}"
    );
    Ok(())
}
