//! `tramline demo`: shows that it works, with a real broker and real processes, and leaves nothing behind.
//!
//! ```text
//! gps replay ── socket ──► broker ── socket ──► native reader
//!                             └───── JSON ────► JSON reader
//! camera ═══════════ ring, in place ══════════► native reader
//! ```
//!
//! Every process accounts for what it sent or received, topic by topic and in order; this file starts them,
//! compares the accounts with what was due, and fails if one differs.

mod capture;

mod publishers;

mod readers;

mod report;

use super::output::Output;
use super::private_broker::PrivateBroker;
use super::role::{GO, READY, say};
use super::scene::{ActorNumber, Heard, Scene};
use super::{Failure, role};
use capture::{LINE_BYTES_MAX, Proof, SHIPPED, lines, topic};
use indicatif::ProgressBar;
use report::{Account, BrokerUse, Report, Row};
use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How much longer than planned it may take.
const GRACE: Duration = Duration::from_secs(60);

/// Shows that it works: starts a broker and processes that talk, and checks every message.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tramline demo\n  tramline demo --input capture.nmea\n\n\
    It starts a broker on a private socket; a process that replays a GPS receiver line by line, and one that \
    publishes 8 MiB frames in place; a native reader of both, and one that reads JSON lines as socat would. \
    It fails unless every line and frame arrived everywhere, intact and in order.")]
pub(super) struct Demo {
    /// Replay this capture instead of the one that comes along; - is standard input
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// How long to publish, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    seconds: f64,
    /// Frames of the camera
    #[arg(long, value_name = "NUMBER", default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    frames: u64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("must be 0.1 to 3600".into()) }
}

/// A process of the demonstration.
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum DemoRole {
    /// Publishes a capture line by line
    Replay {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        input: PathBuf,
        #[arg(long)]
        seconds: f64,
    },
    /// Publishes frames in place
    Camera {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        frames: u64,
        #[arg(long)]
        seconds: f64,
    },
    /// Reads lines and frames
    Native {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        lines: u64,
        #[arg(long)]
        frames: u64,
    },
    /// Reads lines as JSON
    Json {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        lines: u64,
    },
}

impl DemoRole {
    /// Plays the role to its end.
    pub(in crate::cli) fn run(self) -> Result<(), Failure> {
        let accounts = match self {
            Self::Replay { socket, input, seconds } => vec![publishers::replay(&socket, &input, seconds)?],
            Self::Camera { socket, frames, seconds } => vec![publishers::camera(&socket, frames, seconds)?],
            Self::Native { socket, lines, frames } => readers::native(&socket, lines, frames)?.into(),
            Self::Json { socket, lines } => vec![readers::json(&socket, lines)?],
        };
        say(&serde_json::to_string(&accounts).map_err(Failure::software)?)
    }
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let capture = self.capture()?;
        let mut due = Proof::default();
        for line in lines(&capture) {
            due.add(&topic(line), line);
        }
        let due = due.finish();
        let line_count = capture::total(&due).0;

        let mut scene = Scene::open("demo")?;
        let input = scene.directory().join("capture");
        std::fs::write(&input, &capture)
            .map_err(|error| Failure::cannot_create(format!("{}: {error}", input.display())))?;
        let began = Instant::now();
        let broker = PrivateBroker::start(&mut scene, None, "{}\n")?;
        let deadline = began + Duration::from_secs_f64(self.seconds) + GRACE;
        let played = self.play(&mut scene, &broker, &input, line_count, deadline);
        // What the broker has to say helps to understand what the others said.
        let accounts = played.map_err(|failure| failure.with_detail(&broker.log(&scene)))?;
        let broker_use = broker_use(scene.pid(broker.actor()));
        let took = began.elapsed();
        let stopped = scene.stop(broker.actor())?;
        drop(scene);

        let [replay, camera, native_lines, native_frames, json] = &accounts;
        let row = |who, what, account, due| Row { who, what, account, due };
        let report = Report {
            rows: vec![
                row("gps replay", "published by socket", replay, &due),
                row("camera", "published in place", camera, &camera.sums),
                row("native reader", "lines by socket", native_lines, &due),
                row("native reader", "frames by ring", native_frames, &camera.sums),
                row("JSON reader", "lines by socket", json, &due),
            ],
            took,
            broker: broker_use,
        };
        let mut output = Output::new();
        output.write(report.to_string().as_bytes())?;
        output.flush()?;
        if report.lost() > 0 || !report.is_intact() {
            return Err(Failure::software("messages were lost, changed or out of order"));
        }
        if !stopped.success() {
            return Err(Failure::software(format!("the broker did not stop as it should: {stopped}")));
        }
        Ok(())
    }

    /// The capture to be replayed.
    fn capture(&self) -> Result<Vec<u8>, Failure> {
        let mut capture = Vec::new();
        let read = match &self.input {
            None => {
                capture.extend_from_slice(SHIPPED);
                Ok(capture.len())
            }
            Some(path) if path.as_os_str() == "-" => std::io::stdin().lock().read_to_end(&mut capture),
            Some(path) => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut capture)),
        };
        let name = || self.input.as_deref().unwrap_or(Path::new("the capture")).display();
        read.map_err(|error| Failure::no_input(format!("{}: {error}", name())))?;
        if capture.is_empty() {
            return Err(Failure::input(format!("{} is empty", name())));
        }
        if let Some(place) = lines(&capture).position(|line| line.len() > LINE_BYTES_MAX) {
            let number = place + 1;
            return Err(Failure::input(format!(
                "{}: line {number} is longer than the {LINE_BYTES_MAX} bytes that a JSON subscriber sees whole",
                name()
            )));
        }
        Ok(capture)
    }

    /// Starts the processes, readers first, and returns the accounts of replay, camera, native reader (two) and
    /// JSON reader.
    fn play(
        &self,
        scene: &mut Scene,
        broker: &PrivateBroker,
        input: &Path,
        line_count: u64,
        deadline: Instant,
    ) -> Result<[Account; 5], Failure> {
        let Self { seconds, frames, .. } = self;
        let input = format!("--input={}", input.display());
        let (line_count, frames) = (format!("--lines={line_count}"), format!("--frames={frames}"));
        let seconds = format!("--seconds={seconds}");
        let start = |scene: &mut Scene, name: &str, role: &str, words: &[&String]| {
            let mut arguments: Vec<OsString> = role::prefix().into_iter().map(Into::into).collect();
            arguments.extend(["demo", role, "--socket"].map(OsString::from));
            arguments.push(broker.socket().into());
            arguments.extend(words.iter().map(OsString::from));
            let actor = scene.start(name, &arguments, None)?;
            match scene.expect_line(actor, deadline)?.as_str() {
                READY => Ok(actor),
                other => Err(Failure::software(format!("the {name} said {other:?} instead of being ready"))),
            }
        };
        let native = start(scene, "native reader", "native", &[&line_count, &frames])?;
        let json = start(scene, "JSON reader", "json", &[&line_count])?;
        let camera = start(scene, "camera", "camera", &[&frames, &seconds])?;
        let replay = start(scene, "gps replay", "replay", &[&input, &seconds])?;
        scene.tell(camera, GO)?;
        scene.tell(replay, GO)?;
        let actors = [replay, camera, native, json];
        let [replay, camera, native, json] = accounts(scene, actors, deadline)?;
        let all: Vec<Account> = [replay, camera, native, json].into_iter().flatten().collect();
        all.try_into()
            .map_err(|all: Vec<Account>| Failure::software(format!("{} accounts instead of 5", all.len())))
    }
}

/// Hears the accounts of all actors, in their order.
fn accounts<const N: usize>(
    scene: &mut Scene,
    actors: [ActorNumber; N],
    deadline: Instant,
) -> Result<[Vec<Account>; N], Failure> {
    let progress =
        if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    progress.set_message("messages are on their way");
    progress.enable_steady_tick(Duration::from_millis(100));
    let mut heard: [Vec<Account>; N] = std::array::from_fn(|_| Vec::new());
    while heard.iter().any(Vec::is_empty) {
        match scene.listen(deadline)? {
            Heard::Line(actor, line) => {
                let place = actors.iter().position(|known| *known == actor);
                let place = place.ok_or_else(|| Failure::software("a process spoke out of turn"))?;
                heard[place] = serde_json::from_str(&line).map_err(|error| {
                    Failure::software(format!("the {} reported {line:?}: {error}", scene.name(actor)))
                })?;
            }
            Heard::Ended(actor, status) => {
                let place = actors.iter().position(|known| *known == actor);
                if !status.success() || place.is_none_or(|place| heard[place].is_empty()) {
                    return Err(scene.ended(actor, status));
                }
            }
            Heard::Silence => {
                let missing = actors.iter().zip(&heard).find(|(_, accounts)| accounts.is_empty());
                let name = missing.map_or("nobody", |(actor, _)| scene.name(*actor));
                return Err(Failure::timed_out(format!("the {name} did not finish in time")));
            }
        }
    }
    progress.finish_and_clear();
    Ok(heard)
}

/// What a process has cost so far, from `/proc`.
fn broker_use(pid: u32) -> Option<BrokerUse> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the numbers follow the last one.
    let mut numbers = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || numbers.next()?.parse::<u64>().ok();
    let ticks = next()? + next()?;
    let per_second = rustix::param::clock_ticks_per_second();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = peak.trim().trim_end_matches("kB").trim().parse().ok()?;
    let processor = Duration::from_secs_f64(ticks as f64 / per_second as f64);
    Some(BrokerUse { processor, memory_bytes: kilobytes * 1024 })
}
