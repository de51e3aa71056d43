//! A queue on disk, beside the disk itself: how many messages of many producers are confirmed, and how many of the same size
//! the same disk takes when each is synced by itself, and when groups as large as the broker's are appended and synced.
//!
//! All three take turns in each round, in the scene's directory (`TMPDIR`), since a disk is not the same from one second to the
//! next. What counts is what producers were told; a confirmation is sent when the disk has the message.

use crate::cli::Failure;
use crate::cli::clock::monotonic_nanos;
use crate::cli::private_broker::PrivateBroker;
use crate::cli::role::{GO, READY, begin, say};
use crate::cli::scene::Scene;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tramline_client::Client;

/// Who pushes at the same time.
const PRODUCERS: usize = 64;
/// Messages that each has on their way.
const WINDOW: u64 = 16;
/// Bytes of a message.
const BYTES: usize = 1024;
const QUEUE: &str = "bench";
/// How much longer than its duration a round may take.
const GRACE: Duration = Duration::from_secs(30);

const SETTINGS: &str = "\
limits: {stored_bytes_max: 1TiB, user_stored_bytes_max: 1TiB}
queues: [{name: bench, durability: disk, messages_max: 4000000000, bytes_max: 1TiB}]
";

/// All producers, in one process.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Fill {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    millis: u64,
}

/// What they were told.
#[derive(Debug, Serialize, Deserialize)]
struct Confirmed {
    messages: u64,
    nanos: u64,
}

/// What one round came to, in messages a second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct OnDisk {
    /// Confirmed by the broker.
    pub(super) confirmed: f64,
    /// How many of them were written at once.
    pub(super) group: u64,
    /// Appended to a file and synced one by one.
    pub(super) synced_each: f64,
    /// Appended to a file and synced in such groups.
    pub(super) synced_groups: f64,
}

impl Fill {
    fn arguments(socket: &Path, duration: Duration) -> Vec<String> {
        let mut arguments = crate::cli::role::prefix();
        arguments.push("fill".to_owned());
        arguments.push(format!("--socket={}", socket.display()));
        arguments.push(format!("--millis={}", duration.as_millis()));
        arguments
    }

    /// Pushes until the time is over.
    pub(in crate::cli) fn run(self) -> Result<(), Failure> {
        let clients: Vec<Client> = (0..PRODUCERS)
            .map(|_| Client::builder().name("bench producer").socket(&self.socket).reconnect(false).connect())
            .collect::<Result<_, _>>()?;
        let (start, over, messages) =
            (Barrier::new(PRODUCERS + 1), AtomicBool::new(false), AtomicU64::new(0));
        let nanos = std::thread::scope(|scope| {
            let producers: Vec<_> = clients
                .iter()
                .map(|client| {
                    scope.spawn(|| {
                        let payload = vec![7; BYTES];
                        start.wait();
                        while !over.load(Ordering::Relaxed) {
                            for _ in 1..WINDOW {
                                client.push(QUEUE, &payload).send_soon()?;
                            }
                            // They are stored in order: with the last one all are.
                            client.push(QUEUE, &payload).confirm()?;
                            messages.fetch_add(WINDOW, Ordering::Relaxed);
                        }
                        Ok::<_, tramline_client::Error>(())
                    })
                })
                .collect();
            let word = begin();
            over.store(word.is_err(), Ordering::Relaxed);
            start.wait();
            let began = monotonic_nanos();
            if word.is_ok() {
                std::thread::park_timeout(Duration::from_millis(self.millis));
            }
            over.store(true, Ordering::Relaxed);
            for producer in producers {
                producer.join().map_err(|_| Failure::software("a producer failed"))??;
            }
            word.map(|()| monotonic_nanos() - began)
        })?;
        let confirmed = Confirmed { messages: messages.into_inner(), nanos };
        say(&serde_json::to_string(&confirmed).map_err(Failure::software)?)
    }
}

/// Measures one round.
pub(super) fn round(duration: Duration) -> Result<OnDisk, Failure> {
    let mut scene = Scene::open("bench")?;
    let socket = PrivateBroker::start(&mut scene, None, SETTINGS)?.socket().clone();
    let deadline = Instant::now() + duration + GRACE;
    let producers = scene.start("producers", &Fill::arguments(&socket, duration), None)?;
    let ready = scene.expect_line(producers, deadline)?;
    if ready != READY {
        return Err(Failure::software(format!("the producers said {ready:?} first")));
    }
    let before = batches(&socket)?;
    scene.tell(producers, GO)?;
    let line = scene.expect_line(producers, deadline)?;
    let Confirmed { messages, nanos } = serde_json::from_str(&line).map_err(Failure::software)?;
    let group = (messages / (batches(&socket)? - before).max(1)).max(1);
    let file = scene.directory().join("bare");
    let failed = |error: std::io::Error| Failure::io(format!("{}: {error}", file.display()));
    let bytes = BYTES * usize::try_from(group).unwrap_or(1);
    Ok(OnDisk {
        confirmed: messages as f64 * 1e9 / nanos as f64,
        group,
        synced_each: appends(&file, BYTES, duration).map_err(failed)?,
        synced_groups: appends(&file, bytes, duration).map_err(failed)? * group as f64,
    })
}

/// The round in which most was confirmed for what its disk could do.
pub(super) fn best(rounds: &[OnDisk]) -> Option<OnDisk> {
    let share = |round: &OnDisk| round.confirmed / round.synced_groups;
    rounds.iter().copied().max_by(|one, other| share(one).total_cmp(&share(other)))
}

/// How many batches the broker has written.
fn batches(socket: &Path) -> Result<u64, Failure> {
    let lost = |error: std::io::Error| Failure::unavailable(format!("{}: {error}", socket.display()));
    let mut stream = UnixStream::connect(socket).map_err(lost)?;
    stream.write_all(b"{\"op\":\"status\"}\n").map_err(lost)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(lost)?;
    let status: Value = serde_json::from_str(&line).map_err(Failure::software)?;
    status["status"]["store"]["batches"]
        .as_u64()
        .ok_or_else(|| Failure::software("the broker does not say how many batches it has written"))
}

/// Appends so many bytes and syncs, again and again: how often in a second.
fn appends(path: &Path, bytes: usize, duration: Duration) -> std::io::Result<f64> {
    let mut file = File::create(path)?;
    let block = vec![7; bytes];
    let (began, mut count) = (Instant::now(), 0_u32);
    while count == 0 || began.elapsed() < duration {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}
