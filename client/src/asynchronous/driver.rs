//! The task that leads an async client, in place of the background thread.
//!
//! It runs on the runtime that the client was connected on and ends with the client. Other tasks look at
//! the socket too, when they wait for a message: like the blocking client's threads, they lead for a moment.

use crate::error::{Error, Result};
use crate::inbound::Look;
use crate::reactor::{lock, try_lock};
use crate::shared::Shared;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long a closing client waits for the broker to take what was published.
const LINGER: Duration = Duration::from_secs(2);

/// Registers a copy of `fd` with the runtime.
pub(crate) fn register(fd: std::os::fd::BorrowedFd<'_>) -> Result<AsyncFd<OwnedFd>> {
    let copy = fd.try_clone_to_owned().map_err(Error::io("duplicating a descriptor"))?;
    // Its replacement is an unsafe function, for types whose descriptor may change under the runtime. An
    // `OwnedFd`'s cannot, and this crate has no unsafe code.
    #[expect(deprecated, reason = "sound for an OwnedFd")]
    AsyncFd::with_interest(copy, Interest::READABLE).map_err(Error::io("registering with the runtime"))
}

pub(crate) fn spawn(shared: &Arc<Shared>) -> Result<()> {
    let fd = register(shared.reactor.fd())?;
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        while !shared.closing.load(Ordering::Acquire) {
            if !turn(&shared, &fd).await {
                break;
            }
        }
        // A broker that does not take the rest in time does not get it.
        let _ = tokio::time::timeout(LINGER, write_out(&shared, &fd)).await;
        shared.lost(&mut lock(&shared.inbound), Error::Closed);
    });
    Ok(())
}

/// Waits for something, then deals with all that is there. `false`: the runtime is shutting down.
async fn turn(shared: &Shared, fd: &AsyncFd<OwnedFd>) -> bool {
    let timer = try_lock(&shared.inbound).and_then(|inbound| inbound.timer());
    let due = [timer, shared.housekeep()].into_iter().flatten().min();
    let wake = async {
        match due {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ready = fd.readable() => match ready {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => return false,
        },
        () = wake => {}
    }
    loop {
        // Held by another task for the time of one look; that look takes what is there.
        let progress = {
            let mut inbound = lock(&shared.inbound);
            match shared.drive(&mut inbound, Look::All, false) {
                Ok(progress) => progress,
                Err(error) => {
                    shared.lost(&mut inbound, error);
                    true
                }
            }
        };
        if !progress {
            return true;
        }
        tokio::task::yield_now().await;
    }
}

/// Until nothing waits for the socket any more.
async fn write_out(shared: &Shared, fd: &AsyncFd<OwnedFd>) {
    let is_written = || {
        let mut outbound = lock(&shared.outbound);
        shared.write_out(&mut outbound);
        !outbound.open || outbound.waiting_bytes() == 0
    };
    while !is_written() && turn(shared, fd).await {}
}

/// Waits until `look` finds something, or fails with a timeout that names `what`.
pub(crate) async fn wait_until<T>(
    shared: &Shared,
    timeout: Option<Duration>,
    what: &'static str,
    look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    shared.check_process()?;
    let found = changes(shared, look);
    match timeout {
        None => found.await,
        Some(after) => {
            tokio::time::timeout(after, found).await.unwrap_or(Err(Error::TimedOut { what, after }))
        }
    }
}

async fn changes<T>(shared: &Shared, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    poll_fn(|context| {
        if let Some(found) = look().transpose() {
            return Poll::Ready(found);
        }
        shared.reactor.enter_waker(context.waker());
        // Once more: what changed before the waker was entered is not announced to it.
        look().transpose().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
