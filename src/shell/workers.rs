//! What could keep the core's thread waiting, on threads of its own: checking a ring's memory, copying the last messages
//! of one that has ended, and closing descriptors and sockets (closing somebody else's file may wait for a file system or a network).
//!
//! Results come back through a channel. Nothing here knows the core. Jobs are bounded by what causes them: at most
//! one check for each open stream, one copy for each that ends, and one closing for each descriptor.

use super::counters::counts;
use super::retain::{Made, Retaining};
use crate::core::snapshot::RingCounts;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use tokio::sync::mpsc::UnboundedSender;
use tramline_ring::{Observer, RingIdentity};

/// A ring's memory was checked.
#[derive(Debug)]
pub(super) struct Verified {
    /// The stream it belongs to.
    pub(super) stream: u64,
    /// Which generation of it.
    pub(super) generation: u32,
    /// What it has counted, or what is wrong with it, as a sentence.
    pub(super) result: Result<RingCounts, String>,
}

/// Memory to be checked.
#[derive(Debug)]
pub(super) struct Verification {
    /// The memory.
    pub(super) memory: Arc<OwnedFd>,
    /// What it must be.
    pub(super) identity: RingIdentity,
}

/// The threads.
#[derive(Debug)]
pub(super) struct Workers {
    verifications: mpsc::Sender<Verification>,
    closing: mpsc::Sender<Arc<OwnedFd>>,
    retaining: mpsc::Sender<Retaining>,
}

impl Workers {
    /// Starts them. They end when this is dropped.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub(super) fn start(
        verified: UnboundedSender<Verified>,
        retained: UnboundedSender<Made>,
    ) -> Result<Self, std::io::Error> {
        let (verifications, jobs) = mpsc::channel::<Verification>();
        std::thread::Builder::new().name("verify".to_owned()).spawn(move || {
            for job in jobs {
                let checked = Observer::new(job.memory.as_fd(), &job.identity);
                let result = checked.map(|ring| counts(&ring.counters())).map_err(|error| error.to_string());
                let RingIdentity { stream, generation, .. } = job.identity;
                if verified.send(Verified { stream, generation, result }).is_err() {
                    return;
                }
            }
        })?;
        let (closing, jobs) = mpsc::channel::<Arc<OwnedFd>>();
        std::thread::Builder::new()
            .name("close".to_owned())
            .spawn(move || jobs.into_iter().for_each(drop))?;
        let (retaining, jobs) = mpsc::channel::<Retaining>();
        std::thread::Builder::new()
            .name("retain".to_owned())
            .spawn(move || jobs.into_iter().map(Retaining::run).try_for_each(|made| retained.send(made)))?;
        Ok(Self { verifications, closing, retaining })
    }

    /// Checks a ring's memory; a [`Verified`] follows.
    pub(super) fn verify(&self, job: Verification) {
        self.verifications.send(job).expect("the verifying thread lives as long as its sender");
    }

    /// Copies a ring's last messages; a [`Made`] follows.
    pub(super) fn retain(&self, job: Retaining) {
        self.retaining.send(job).expect("the copying thread lives as long as its sender");
    }

    /// Closes a descriptor, unless somebody else still uses it.
    pub(super) fn close(&self, fd: Arc<OwnedFd>) {
        self.closing.send(fd).expect("the closing thread lives as long as its sender");
    }
}
