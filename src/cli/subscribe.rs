//! `tramline sub`: shows what is published.
//!
//! It watches: unless asked, it never holds a publisher up, and every message it missed is counted and
//! shown as a gap where it was missed. On a terminal it writes for people, in a pipe one JSON object a line.

mod render;

use super::Failure;
use super::clock::seconds;
use super::connect::Socket;
use super::output::Output;
use super::scene::wait_readable;
use render::{Format, Renderer};
use rustix::event::{PollFd, PollFlags};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use tramline_client::{PublisherEvent, Subscription};

/// Messages taken from one filter before the next one has its turn.
const TURN_MESSAGES: usize = 256;
/// How long a wait without a given end lasts at a time.
const WAIT: Duration = Duration::from_secs(3600);

/// Shows messages as they are published.
#[derive(Debug, clap::Args)]
#[command(after_help = "Filters: * stands for one token, > at the end for one or more.\n\n\
    Examples:\n  \
    tramline sub '>'\n  \
    tramline sub 'gps.*' -C 10 --format text\n  \
    tramline sub cam.front -C 1 -W 5 --format raw > frame.jpg\n  \
    tramline sub 'gps.>' --history 1 | jq .data")]
pub(super) struct Subscribe {
    #[command(flatten)]
    socket: Socket,
    /// What to show
    #[arg(required = true, value_name = "FILTER")]
    filters: Vec<String>,
    /// End after so many messages
    #[arg(short = 'C', long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds, with exit code 124
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = seconds)]
    wait: Option<Duration>,
    /// How to show messages [default: pretty on a terminal, otherwise json]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// In JSON, show payloads above 64 KiB whole
    #[arg(long)]
    whole: bool,
    /// Begin so many messages back on each topic, as far as they are kept
    #[arg(long, value_name = "N", default_value_t = 0)]
    history: u32,
    /// Let publishers wait for this program instead of missing messages
    #[arg(long)]
    reliable: bool,
}

impl Subscribe {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.socket.connect("tramline sub")?;
        let mut subscriptions = Vec::new();
        for filter in &self.filters {
            let subscription = client.subscription(filter).history(self.history);
            let subscription = if self.reliable { subscription.gated() } else { subscription.lossy() };
            subscriptions.push(subscription.open()?);
        }
        let terminal = std::io::stdout().is_terminal();
        let format = self.format.unwrap_or(if terminal { Format::Pretty } else { Format::Json });
        let renderer = Renderer::new(format, terminal, self.whole);
        let deadline = self.wait.map(|wait| Instant::now() + wait);
        let told = vec![0; subscriptions.len()];
        let mut watch = Watch { subscriptions, told, renderer, left: self.count, output: Output::new() };
        match watch.run(deadline)? {
            End::Counted => Ok(()),
            End::TimedOut => Err(Failure::timed_out(format!(
                "the {} seconds given by --wait are over",
                self.wait.unwrap_or_default().as_secs_f64()
            ))),
        }
    }
}

enum End {
    Counted,
    TimedOut,
}

struct Watch {
    subscriptions: Vec<Subscription>,
    /// Losses shown so far, by subscription.
    told: Vec<u64>,
    renderer: Renderer,
    /// Messages still to be shown; none: without end.
    left: Option<u64>,
    output: Output,
}

impl Watch {
    fn run(&mut self, deadline: Option<Instant>) -> Result<End, Failure> {
        loop {
            if self.left == Some(0) {
                self.output.flush()?;
                return Ok(End::Counted);
            }
            if self.take_what_is_there()? {
                continue;
            }
            self.output.flush()?;
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(End::TimedOut);
            }
            self.wait_until(deadline.unwrap_or(now + WAIT))?;
        }
    }

    /// Shows what can be had without waiting; `false` when that is nothing.
    fn take_what_is_there(&mut self) -> Result<bool, Failure> {
        let mut any = false;
        for (index, subscription) in self.subscriptions.iter_mut().enumerate() {
            for _ in 0..TURN_MESSAGES {
                if self.left == Some(0) {
                    return Ok(true);
                }
                let Some(message) = subscription.try_recv()? else { break };
                any = true;
                let lost = message.lost_before();
                if lost > 0 {
                    self.told[index] += lost;
                    gap(&mut self.renderer, &mut self.output, index, message.topic(), lost)?;
                }
                self.renderer.message(&mut self.output, index, &message)?;
                self.left = self.left.map(|left| left - 1);
            }
            // Only who asked to be waited for is told that it is not.
            subscription.events().iter().for_each(say_who_waits);
            // What was lost after the last message, if that is known already.
            let lost = subscription.lost().saturating_sub(self.told[index]);
            if lost > 0 && !any {
                self.told[index] += lost;
                gap(&mut self.renderer, &mut self.output, index, "", lost)?;
            }
        }
        Ok(any)
    }

    fn wait_until(&mut self, deadline: Instant) -> Result<(), Failure> {
        let mut fds: Vec<PollFd<'_>> =
            self.subscriptions.iter().map(|subscription| PollFd::new(subscription, PollFlags::IN)).collect();
        wait_readable(&mut fds, deadline)
            .map(drop)
            .map_err(|error| Failure::system(format!("cannot wait for messages: {error}")))
    }
}

/// Tells the person that a publisher does not wait for this program any more, or does again.
fn say_who_waits(event: &PublisherEvent) {
    let told = match event {
        PublisherEvent::Evicted { source, blocked } => {
            let millis = blocked.as_millis();
            (source, format!("was held up for {millis} ms and waits no longer; messages may be missing"))
        }
        PublisherEvent::Lossy(source) => (source, "does not wait; messages may be missing".to_owned()),
        PublisherEvent::Gated(source) => (source, "waits again".to_owned()),
        _ => return,
    };
    let (source, what) = told;
    // If standard error is closed, nobody looks at it.
    let _ = writeln!(
        std::io::stderr(),
        "tramline: {} (pid {}) on {} {what}",
        source.name,
        source.pid,
        source.topic
    );
}

fn gap(
    renderer: &mut Renderer,
    output: &mut Output,
    index: usize,
    topic: &str,
    lost: u64,
) -> Result<(), Failure> {
    // Somebody who looks at standard error shall know, whatever the format.
    if !renderer.gap(output, index, topic, lost)? {
        let on = if topic.is_empty() { String::new() } else { format!(" on {topic}") };
        // If standard error is closed, nobody looks at it.
        let _ = writeln!(std::io::stderr(), "tramline: {lost} messages lost{on}");
    }
    Ok(())
}
