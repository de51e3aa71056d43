//! `tramline bench`: how fast messages travel here, beside what the machine could do at best.
//!
//! The sender, the receivers and the broker are always processes of their own; whole payloads are written
//! and read; counts are those of the receivers. The limits that the figures are compared with are measured
//! in the same run ([`baseline`]), and each figure is printed with its ratio to the limit it belongs to.
//! This file reads the arguments and puts the parts in order; it measures nothing itself.

mod bare;
mod baseline;
mod histogram;
mod payload;
mod pin;
mod report;

pub(super) use bare::BareRole;
pub(super) use pin::pin_to;

use super::Failure;
use std::time::Duration;

/// Measures how fast messages travel.
#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let cores = pin::cores()?;
        let plan = baseline::Plan {
            cores: &cores,
            duration: Duration::from_millis(300),
            rounds: 3,
            progress: &|_| {},
        };
        for b in baseline::measure_all(&plan)? {
            println!("{b:?}");
        }
        Ok(())
    }
}
