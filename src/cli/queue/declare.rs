//! `tramline queue declare`: a queue that is there for as long as its broker runs, or longer.

use crate::cli::Failure;
use crate::cli::clock::seconds;
use crate::cli::connect::Socket;
use std::time::Duration;
use tramline_client::{Strategy, WhenFull};

/// Makes a queue that lasts as long as the broker runs, or for good if it is durable; those of the configuration are
/// always there
#[derive(Debug, clap::Args)]
pub(super) struct Declare {
    #[command(flatten)]
    socket: Socket,
    /// The queue's name
    queue: String,
    /// Messages published on topics that this filter selects land in it, too; may be given again
    #[arg(long, value_name = "FILTER")]
    bind: Vec<String>,
    /// Who gets the next message
    #[arg(long, value_enum, default_value = "round-robin")]
    strategy: Chosen,
    /// What happens to a message for which there is no room
    #[arg(long, value_enum, default_value = "refuse")]
    when_full: Full,
    /// Messages it may hold
    #[arg(long, value_name = "N")]
    messages_max: Option<u64>,
    /// Seconds for which a consumer may keep a message
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    ack_timeout: Option<Duration>,
    /// How often a message is given out before it becomes a dead letter
    #[arg(long, value_name = "N")]
    attempts_max: Option<u16>,
    /// Seconds for which a message may wait
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    ttl: Option<Duration>,
    /// Keep it and its messages on disk, so that they outlive the broker
    #[arg(long)]
    durable: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Chosen {
    /// Each consumer in turn, as often as its weight says
    RoundRobin,
    /// The consumer with the fewest outstanding for its weight
    LoadBalance,
    /// The first consumer by priority; another when that one has gone
    Failover,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Full {
    /// Its producer is told
    Refuse,
    /// The oldest of the lowest priority is dropped, and counted
    DropOldest,
    /// The oldest of the lowest priority becomes a dead letter
    DeadLetter,
}

impl Declare {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.socket.connect("tramline queue declare")?;
        let mut queue = client.queue(&self.queue);
        for filter in &self.bind {
            queue = queue.bind(filter);
        }
        queue = queue.strategy(match self.strategy {
            Chosen::RoundRobin => Strategy::RoundRobin,
            Chosen::LoadBalance => Strategy::LoadBalance,
            Chosen::Failover => Strategy::Failover,
        });
        queue = queue.when_full(match self.when_full {
            Full::Refuse => WhenFull::Refuse,
            Full::DropOldest => WhenFull::DropOldest,
            Full::DeadLetter => WhenFull::DeadLetter,
        });
        if let Some(messages) = self.messages_max {
            queue = queue.messages_max(messages);
        }
        if let Some(timeout) = self.ack_timeout {
            queue = queue.ack_timeout(timeout);
        }
        if let Some(attempts) = self.attempts_max {
            queue = queue.attempts_max(attempts);
        }
        if let Some(ttl) = self.ttl {
            queue = queue.ttl(ttl);
        }
        if self.durable {
            queue = queue.durable();
        }
        Ok(queue.declare()?)
    }
}
