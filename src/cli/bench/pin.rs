//! On which cores a benchmark's processes run.
//!
//! It only sets the affinity of the calling thread, which a child inherits; it never changes priorities.

use crate::cli::Failure;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where the processes of one measurement run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Pin {
    /// Wherever the system puts them
    None,
    /// Sender and receivers on cores of their own as far as there are some, the broker with the receivers
    Split,
    /// All on one core
    One,
}

impl Pin {
    /// The word on the command line and in reports.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Split => "split",
            Self::One => "one",
        }
    }

    /// The core for the `index`-th process of a measurement, among these.
    pub(super) fn core(self, cores: &[usize], index: usize) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Split => cores.get(index % cores.len().max(1)).copied(),
            Self::One => cores.first().copied(),
        }
    }
}

/// The cores this process may use, in order.
pub(super) fn cores() -> Result<Vec<usize>, Failure> {
    let set = sched_getaffinity(None).map_err(|error| {
        Failure::system(format!("cannot learn which cores this process may use: {error}"))
    })?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Moves the calling thread, and what it starts from now on, to one core.
pub(in crate::cli) fn pin_to(core: usize) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    if core >= CpuSet::MAX_CPU {
        return Err(Failure::usage(format!(
            "core {core} does not exist; {} is the last",
            CpuSet::MAX_CPU - 1
        )));
    }
    set.set(core);
    sched_setaffinity(None, &set)
        .map_err(|error| Failure::system(format!("cannot move to core {core}: {error}")))
}

/// Moves the calling thread to a core for as long as this lives, and back when it is dropped.
pub(super) struct Pinned(Option<CpuSet>);

impl Pinned {
    /// Stays where it is when there is no core.
    pub(super) fn to(core: Option<usize>) -> Result<Self, Failure> {
        let Some(core) = core else { return Ok(Self(None)) };
        let before = sched_getaffinity(None)
            .map_err(|error| Failure::system(format!("cannot learn the own cores: {error}")))?;
        pin_to(core)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // It was the set before, so the system allows it; if it has shrunk meanwhile, the rest of the run
            // stays on one core, which the report shows.
            let _ = sched_setaffinity(None, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_ends_with_its_guard() {
        let before = cores().unwrap();
        let guard = Pinned::to(before.last().copied()).unwrap();
        assert_eq!(cores().unwrap(), before[before.len() - 1..]);
        drop(guard);
        assert_eq!(cores().unwrap(), before);
    }

    #[test]
    fn processes_share_out_the_cores() {
        assert_eq!(Pin::None.core(&[2, 5], 0), None);
        assert_eq!([0, 1, 2].map(|index| Pin::Split.core(&[2, 5], index)), [Some(2), Some(5), Some(2)]);
        assert_eq!([0, 1].map(|index| Pin::One.core(&[2, 5], index)), [Some(2), Some(2)]);
        assert_eq!(Pin::Split.core(&[], 1), None);
    }
}
