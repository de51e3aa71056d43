//! Taking connections in, also when the process or the system has run out of descriptors.
//!
//! One descriptor is kept in reserve. When there are no others, it is given up for a moment to take those who
//! wait in and close them, so that they learn at once that they cannot be served; then the broker waits a while
//! before it tries again. That is logged once until it is over.
//!
//! To take somebody in costs far more than a message does, so there is a limit to how many come in a time: one that
//! connects in a loop waits, and those who talk go on.

use super::broker::Shell;
use super::opening::open;
use super::session::step_aside;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::time::Instant;

/// Connections above `limits.connections_max` that are taken in to be told that they are too many.
const REFUSED_CONNECTIONS_MAX: usize = 64;

/// Connections taken in at once after a time without any, and how many more in each millisecond.
const ACCEPTS_BURST_MAX: u64 = 256;
/// See [`ACCEPTS_BURST_MAX`].
const ACCEPTS_PER_MILLI_MAX: u64 = 2;

/// Pause after running out of descriptors: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// One connection's place among those that are open.
pub(super) struct Place(Rc<Shell>);

impl Place {
    fn take(shell: &Rc<Shell>) -> Self {
        shell.connections.set(shell.connections.get() + 1);
        Self(Rc::clone(shell))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}

/// A descriptor that stands for nothing.
struct Reserve(Option<OwnedFd>);

impl Reserve {
    fn new() -> Self {
        let mut reserve = Self(None);
        reserve.fill();
        reserve
    }

    fn fill(&mut self) {
        if self.0.is_none() {
            self.0 = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        }
    }
}

/// How many connections may be taken in now: as many as came in time, and no more than a burst.
struct Allowance {
    left: u64,
    counted: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { left: ACCEPTS_BURST_MAX, counted: now }
    }

    /// Takes one in, or says when there may be another.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if self.left == 0 {
            let millis = u64::try_from((now - self.counted).as_millis()).unwrap_or(u64::MAX);
            if millis == 0 {
                return Err(self.counted + Duration::from_millis(1));
            }
            self.left = millis.saturating_mul(ACCEPTS_PER_MILLI_MAX).min(ACCEPTS_BURST_MAX);
            self.counted = now;
        }
        self.left -= 1;
        Ok(())
    }
}

/// Whether connections are being turned away, so that it is said once.
#[derive(Default)]
struct Episode {
    turned_away: Option<u64>,
    pause: Duration,
}

impl Episode {
    fn turn_away(&mut self, why: &str) {
        let count = self.turned_away.get_or_insert_with(|| {
            tracing::warn!("connections are turned away: {why}");
            0
        });
        *count += 1;
        self.pause = (self.pause * 2).clamp(PAUSE.0, PAUSE.1);
    }

    fn over(&mut self) {
        if let Some(count) = self.turned_away.take() {
            tracing::warn!("connections are taken in again; {count} attempts failed");
            self.pause = Duration::ZERO;
        }
    }
}

/// Takes connections in, each to a task of its own. Never returns.
pub(super) async fn accept_always(shell: Rc<Shell>, listener: UnixListener) {
    let mut reserve = Reserve::new();
    let mut episode = Episode::default();
    let mut allowance = Allowance::new(Instant::now());
    let most = shell.settings.limits.connections_max as usize + REFUSED_CONNECTIONS_MAX;
    loop {
        while let Err(again) = allowance.take(Instant::now()) {
            tokio::time::sleep_until(again).await;
        }
        let error = match listener.accept().await {
            Ok((connection, _)) if shell.connections.get() >= most => {
                drop(connection);
                let limit = shell.settings.limits.connections_max;
                episode.turn_away(&format!("all of limits.connections_max ({limit}) are open"));
                tokio::time::sleep(episode.pause).await;
                continue;
            }
            Ok((connection, _)) => {
                episode.over();
                reserve.fill();
                tokio::task::spawn_local(open(Rc::clone(&shell), connection, Place::take(&shell)));
                // One, then everybody who is there already: a newcomer costs more to take in than to send, and those
                // who come in a loop must not take the time of those who talk.
                step_aside().await;
                continue;
            }
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::INTR | Errno::CONNABORTED) => continue,
            Some(Errno::MFILE | Errno::NFILE) => {
                episode.turn_away(&format!("{error}; raise LimitNOFILE= or `ulimit -n`"));
                drop(reserve.0.take());
                // If another thread takes the descriptor meanwhile, the clients wait until the next try.
                while rustix::net::accept(&listener).is_ok() {
                    episode.turned_away = episode.turned_away.map(|count| count + 1);
                }
                reserve.fill();
            }
            _ => episode.turn_away(&format!("accepting fails: {error}")),
        }
        tokio::time::sleep(episode.pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_in_at_once_and_then_so_many_in_a_millisecond() {
        let began = Instant::now();
        let mut allowance = Allowance::new(began);
        let mut taken = |now| (0..1000).take_while(|_| allowance.take(now).is_ok()).count() as u64;
        assert_eq!(taken(began), ACCEPTS_BURST_MAX);
        let milli = Duration::from_millis(1);
        assert_eq!(taken(began + milli - Duration::from_nanos(1)), 0);
        assert_eq!(taken(began + milli), ACCEPTS_PER_MILLI_MAX);
        assert_eq!(taken(began + 4 * milli), 3 * ACCEPTS_PER_MILLI_MAX);
        assert_eq!(taken(began + Duration::from_secs(60)), ACCEPTS_BURST_MAX);
        let again = allowance.take(began + Duration::from_secs(60));
        assert_eq!(again, Err(began + Duration::from_secs(60) + milli));
    }

    #[test]
    fn who_comes_behind_a_full_backlog_is_taken_in_within_half_a_second() {
        let began = Instant::now();
        let mut allowance = Allowance::new(began);
        allowance.left = 0;
        let (mut now, mut taken) = (began, 0);
        while taken <= super::super::socket::BACKLOG {
            match allowance.take(now) {
                Ok(()) => taken += 1,
                Err(again) => now = again,
            }
        }
        assert!(now - began < Duration::from_millis(520), "{:?}", now - began);
    }
}
