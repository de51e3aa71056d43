//! `tramline bench`: how fast messages travel here, beside what the machine could do at best.
//!
//! The sender, the receivers and the broker are always processes of their own; whole payloads are written
//! and read; counts are those of the receivers. The limits that the figures are compared with are measured
//! in the same run (`baseline`), and each figure is printed with its ratio to the limit it belongs to.
//! This file reads the arguments and puts the parts in order; it measures nothing itself.

mod measure;

mod roles;

mod service;

mod payload;

mod baseline;

mod bare;

mod framing;

mod pin;

mod report;

mod goals;

mod isolation;

mod offenders;

mod disk;

pub(super) use bare::BareRole;
pub(super) use disk::Fill;
pub(super) use offenders::Offend;
pub(super) use pin::pin_to;
pub(super) use roles::BenchRole;

use super::{Failure, size};
use baseline::Plan;
use indicatif::{ProgressBar, ProgressStyle};
use measure::{Case, Kind, Outcome};
use pin::Pin;
use report::{Measurement, Report};
use roles::{IN_PLACE_BYTES_MIN, Path, Wait};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// Largest message of a benchmark, in bytes.
const BYTES_MAX: usize = 64 << 20;
/// Largest message that a benchmark sends through the broker, in bytes: it fits into a default frame.
const SOCKET_BYTES_MAX: usize = 512 << 10;
/// Most receiving processes.
const READERS_MAX: usize = 64;
/// Messages handed over at once where they are small and nothing else is asked for.
const BATCH_DEFAULT: usize = 128;

/// Measures how fast messages travel, beside what this machine could do at best.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    tramline bench\n  \
    tramline bench latency --path ring --wait spin --pin split\n  \
    tramline bench latency --path socket --rate 10000 --duration 10\n  \
    tramline bench throughput --size 64,1MiB,8MiB --path ring\n  \
    tramline bench fanout --readers 1,4,8 --json\n  \
    TMPDIR=/var/tmp tramline bench disk --duration 3\n  \
    tramline bench isolation\n\n\
    Sender, receivers and broker are processes of their own. A broker is started for each measurement unless --socket \
    names one. Limits are measured in the same run. Build with --release: other figures say nothing.")]
pub(super) struct Bench {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Bytes of a message, such as 64 or 8MiB; several with commas
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = bytes)]
    size: Vec<usize>,
    /// Receiving processes; several numbers with commas
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = readers)]
    readers: Vec<usize>,
    /// Length of one round, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    duration: Duration,
    /// Rounds of each measurement; the best is shown, all stand in the JSON
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How messages travel [default: both]
    #[arg(long, value_enum, value_delimiter = ',')]
    path: Vec<Path>,
    /// How processes wait for messages [default: adaptive]
    #[arg(long, value_enum, value_delimiter = ',')]
    wait: Vec<Wait>,
    /// On which cores the processes run [default: none and one for latency, split for throughput]
    #[arg(long, value_enum, value_delimiter = ',')]
    pin: Vec<Pin>,
    /// Send so many messages a second, whatever happens, and measure each from when it was due
    #[arg(long, value_name = "NUMBER", value_parser = rate)]
    rate: Option<f64>,
    /// Messages handed over at once [default: 128 for small ones in throughput]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Option<u16>,
    /// Let receivers miss messages instead of holding the sender up
    #[arg(long)]
    lossy: bool,
    /// Neither write nor read payloads, except for 16 bytes
    #[arg(long)]
    untouched: bool,
    /// Copy payloads into rings, large ones too, instead of filling them there
    #[arg(long, conflicts_with = "untouched")]
    copied: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Measure with this running broker
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Latency, throughput, fan-out, and the disk
    All,
    /// How long a message takes there and back; with --rate, one way
    Latency,
    /// How many messages and bytes a second
    Throughput,
    /// The same with several receivers
    Fanout,
    /// A queue on disk, beside what the disk of TMPDIR does
    Disk,
    /// Only the limits of this machine
    Limits,
    /// What somebody who behaves badly costs others
    Isolation,
}

fn bytes(text: &str) -> Result<usize, String> {
    let bytes = size::parse(text)?;
    if (payload::STAMP_BYTES..=BYTES_MAX).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("a message of a benchmark has {} to {BYTES_MAX} bytes", payload::STAMP_BYTES))
}

fn readers(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=READERS_MAX).contains(number));
    number.ok_or_else(|| format!("must be 1 to {READERS_MAX}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    let usual = (0.01..=3600.0).contains(&seconds);
    if usual { Ok(Duration::from_secs_f64(seconds)) } else { Err("must be 0.01 to 3600".into()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.1..=1e8).contains(&rate) {
        Ok(rate)
    } else {
        Err("must be 0.1 to 100000000 messages a second".into())
    }
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let cores = pin::cores()?;
        let cases = self.cases(cores.len());
        let mut limits = baseline::Rounds::new(cores.len());
        let progress = self.progress((cases.len() + limits.limits()) as u64 * u64::from(self.rounds));
        let step = |what: &str| {
            progress.set_message(what.to_owned());
            progress.inc(1);
        };
        let plan = Plan { cores: &cores, duration: self.duration, progress: &step };
        if self.what == What::Isolation {
            let paths = or(&self.path, &[Path::Ring, Path::Socket]);
            let paths: Vec<Path> =
                paths.iter().copied().filter(|path| matches!(path, Path::Ring | Path::Socket)).collect();
            isolation::run(&paths, &cores, self.duration, self.rounds, self.json, &step)?;
            progress.finish_and_clear();
            return Ok(());
        }
        // Rounds are taken in turns: what disturbs the machine for a second or two spoils one of each, not all of one.
        let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); cases.len()];
        let mut on_disk = Vec::new();
        for _ in 0..self.rounds {
            if self.what == What::Disk || self.what == What::All && self.asks_for_nothing() {
                step("queue on disk");
                on_disk.push(disk::round(self.duration)?);
            }
            if self.what == What::Disk {
                continue;
            }
            limits.measure(&plan)?;
            for (case, outcomes) in cases.iter().zip(&mut outcomes) {
                step(&format!("{} {}", case.path.as_str(), size::readable(case.bytes as u64)));
                outcomes.push(case.run(self.socket.as_ref(), &cores, self.duration)?);
            }
        }
        let baselines = if self.what == What::Disk { Vec::new() } else { limits.best() };
        let on_disk = disk::best(&on_disk);
        let measurements: Vec<Measurement> = cases
            .into_iter()
            .zip(outcomes)
            .map(|(case, outcomes)| Measurement::best(case, outcomes, &baselines))
            .collect();
        progress.finish_and_clear();
        let correct = measurements.iter().all(|measurement| measurement.best.correct);
        let goals = goals::compare(&measurements, &baselines, on_disk);
        let report = Report {
            version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cores,
            duration_seconds: self.duration.as_secs_f64(),
            baselines,
            measurements,
            on_disk,
            goals,
        };
        report.print(self.json)?;
        if correct { Ok(()) } else { Err(Failure::software("messages were lost, changed or out of order")) }
    }

    /// Whether everything is to be as usual.
    fn asks_for_nothing(&self) -> bool {
        let plain = !self.untouched && !self.copied && self.rate.is_none() && !self.lossy;
        plain && self.path.is_empty() && self.size.is_empty() && self.socket.is_none()
    }

    /// Everything that is to be measured on so many cores, in the order of the report.
    fn cases(&self, cores: usize) -> Vec<Case> {
        // On one core there is no limit with a core each to compare with.
        let apart = if cores > 1 { Pin::Split } else { Pin::One };
        let mut cases = Vec::new();
        let plain = !self.untouched && !self.copied && self.rate.is_none() && !self.lossy;
        if matches!(self.what, What::All | What::Latency) {
            self.add(&mut cases, Kind::Latency, &[64], &[1], &[Pin::None, Pin::One]);
            if self.what == What::All && plain && self.wait.is_empty() && self.pin.is_empty() {
                self.add_ways_to_wait(&mut cases);
            }
        }
        if matches!(self.what, What::All | What::Throughput) {
            let sizes = [64, 1 << 10, 64 << 10, 1 << 20, 8 << 20];
            let first = cases.len();
            self.add(&mut cases, Kind::Throughput, &sizes, &[1], &[apart]);
            if plain {
                let large = |case: &&Case| case.path == Path::Ring && case.bytes >= IN_PLACE_BYTES_MIN;
                let copied = |case: &Case| Case { copied: true, ..case.clone() };
                let also: Vec<Case> = cases[first..].iter().filter(large).map(copied).collect();
                cases.extend(also);
            }
        }
        if matches!(self.what, What::All | What::Fanout) {
            self.add(&mut cases, Kind::Throughput, &[64, 1 << 20], &[8], &[Pin::None]);
        }
        cases
    }

    /// The other ways to wait, where they make sense, and messages that are only passed on.
    fn add_ways_to_wait(&self, cases: &mut Vec<Case>) {
        let plain = |case: &&Case| case.pin == Pin::None && case.path != Path::Service;
        let adaptive: Vec<Case> = cases.iter().filter(plain).cloned().collect();
        for case in adaptive {
            let with = |wait, pin| Case { wait, pin, ..case.clone() };
            cases.push(with(Wait::Park, Pin::Split));
            cases.push(with(Wait::Park, Pin::One));
            if case.path == Path::Ring {
                let spin = with(Wait::Spin, Pin::Split);
                if case.bytes == 64 {
                    for bytes in [64, 8 << 20] {
                        cases.push(Case { bytes, untouched: true, ..spin.clone() });
                    }
                }
                cases.push(spin);
            }
        }
    }

    fn add(&self, cases: &mut Vec<Case>, kind: Kind, sizes: &[usize], readers: &[usize], pins: &[Pin]) {
        let several = kind == Kind::Throughput || self.rate.is_some();
        let paths: &[Path] = match kind {
            Kind::Latency => &[Path::Ring, Path::Socket, Path::Service],
            Kind::Throughput => &[Path::Ring, Path::Socket, Path::Queue],
        };
        for path in or(&self.path, paths) {
            for bytes in or(&self.size, sizes) {
                if *path == Path::Queue
                    && (*bytes > SOCKET_BYTES_MAX || (self.size.is_empty() && *bytes != 64))
                {
                    continue;
                }
                if *path == Path::Service && (kind != Kind::Latency || self.rate.is_some()) {
                    // A request and its answer are one round trip; anything else measures callers.
                    continue;
                }
                if matches!(path, Path::Socket | Path::Service) && *bytes > SOCKET_BYTES_MAX {
                    // Such payloads never go through the broker.
                    continue;
                }
                for readers in if several { or(&self.readers, readers) } else { readers } {
                    if *path == Path::Queue && (*readers > 1 || kind == Kind::Latency) {
                        // Readers of a queue share its messages, and a round trip through one measures two.
                        continue;
                    }
                    for wait in or(&self.wait, &[Wait::Adaptive]) {
                        // A sender, a receiver and a broker are one more than the cores they could have each.
                        let usual =
                            if *path != Path::Ring && kind == Kind::Throughput { &[Pin::None] } else { pins };
                        for pin in or(&self.pin, usual) {
                            let small = *bytes < IN_PLACE_BYTES_MIN && kind == Kind::Throughput;
                            let batch = match self.batch {
                                _ if self.rate.is_some() || kind == Kind::Latency => 1,
                                Some(batch) => batch.into(),
                                None if small => BATCH_DEFAULT,
                                None => 1,
                            };
                            cases.push(Case {
                                kind,
                                path: *path,
                                bytes: *bytes,
                                readers: *readers,
                                wait: *wait,
                                pin: *pin,
                                batch,
                                rate: self.rate,
                                lossy: self.lossy,
                                untouched: self.untouched,
                                copied: self.copied,
                            });
                        }
                    }
                }
            }
        }
    }

    fn progress(&self, steps: u64) -> ProgressBar {
        if !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").expect("a constant template");
        ProgressBar::new(steps).with_style(style)
    }
}

/// What was asked for, or else what is usual.
const fn or<'a, T>(asked: &'a [T], usual: &'a [T]) -> &'a [T] {
    if asked.is_empty() { usual } else { asked }
}
