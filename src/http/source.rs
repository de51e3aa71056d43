//! Asking the core's thread for a snapshot: a bounded channel of one-time answers, and whether the broker
//! is stopping. Neither side waits for the other without a limit.

use crate::core::Snapshot;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Requests for a snapshot that may wait for the core at a time.
pub const SNAPSHOTS_WAITING_MAX: usize = 4;

/// How long the core may take to answer, in milliseconds.
pub const SNAPSHOT_MILLIS_MAX: u64 = 5_000;

/// Both ends of the way from HTTP to the core.
#[must_use]
pub fn snapshots() -> (SnapshotSource, SnapshotRequests) {
    let (asks, waiting) = mpsc::channel(SNAPSHOTS_WAITING_MAX);
    let stopping = Arc::new(AtomicBool::new(false));
    let source = SnapshotSource { asks, stopping: Arc::clone(&stopping) };
    (source, SnapshotRequests { waiting, stopping })
}

/// HTTP's end: asks.
#[derive(Debug, Clone)]
pub struct SnapshotSource {
    asks: mpsc::Sender<oneshot::Sender<Snapshot>>,
    stopping: Arc<AtomicBool>,
}

/// Why there is no snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoSnapshot {
    /// The core has ended.
    #[error("the broker is stopping")]
    Stopped,
    /// The core did not answer in time.
    #[error("the broker's core did not answer within {SNAPSHOT_MILLIS_MAX} ms")]
    TimedOut,
}

impl SnapshotSource {
    /// Asks the core's thread and waits for its answer.
    ///
    /// # Errors
    /// When the core has ended, or does not answer within [`SNAPSHOT_MILLIS_MAX`].
    pub async fn snapshot(&self) -> Result<Snapshot, NoSnapshot> {
        let ask = async {
            let (answer, answered) = oneshot::channel();
            self.asks.send(answer).await.map_err(|_| NoSnapshot::Stopped)?;
            answered.await.map_err(|_| NoSnapshot::Stopped)
        };
        match tokio::time::timeout(Duration::from_millis(SNAPSHOT_MILLIS_MAX), ask).await {
            Ok(result) => result,
            Err(_) => Err(NoSnapshot::TimedOut),
        }
    }

    /// Whether the broker is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// The core's end: answers.
#[derive(Debug)]
pub struct SnapshotRequests {
    waiting: mpsc::Receiver<oneshot::Sender<Snapshot>>,
    stopping: Arc<AtomicBool>,
}

impl SnapshotRequests {
    /// Waits for the next request; none when no HTTP is left to ask. May be dropped and called again.
    pub async fn next(&mut self) -> Option<SnapshotAnswer> {
        self.waiting.recv().await.map(SnapshotAnswer)
    }

    /// From here on `/health` says that the broker is stopping.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// A request that waits for its snapshot. Dropped, it tells HTTP that the broker is stopping.
#[derive(Debug)]
pub struct SnapshotAnswer(oneshot::Sender<Snapshot>);

impl SnapshotAnswer {
    /// Answers. Who asked may have gone; that is not an error.
    pub fn send(self, snapshot: Snapshot) {
        // The snapshot comes back if nobody waits for it any more, and is of no use then.
        drop(self.0.send(snapshot));
    }
}
