//! Signals: the first SIGTERM or SIGINT asks the broker to stop, the second ends it where it stands.
//!
//! The second one is dealt with inside the signal handler, so that it also works when the broker's thread
//! is stuck. SIGHUP asks it to read its configuration again, so a closed terminal does not end a broker that others use.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::io::AsyncReadExt;

/// Exit code after a second signal: 128 + SIGTERM, as a shell would say.
const ENDED_AT_ONCE: i32 = 143;

/// Waits for the signal that asks the broker to stop.
#[derive(Debug)]
pub(super) struct StopSignal {
    pipe: tokio::net::UnixStream,
}

impl StopSignal {
    /// Takes the signals over. Needs a running runtime.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub(super) fn install() -> Result<Self, std::io::Error> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset and sets it.
            signal_hook::flag::register_conditional_shutdown(signal, ENDED_AT_ONCE, Arc::clone(&asked))?;
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { pipe: tokio::net::UnixStream::from_std(read)? })
    }

    /// Returns when the broker was asked to stop.
    pub(super) async fn received(&mut self) {
        // The handlers keep the other end open: this brings a byte or waits.
        let _ = self.pipe.read_u8().await;
    }
}

/// Waits for the signal that asks the broker to read its configuration again.
#[derive(Debug)]
pub(super) struct ReloadSignal {
    pipe: tokio::net::UnixStream,
}

impl ReloadSignal {
    /// Takes the signal over. Needs a running runtime.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub(super) fn install() -> Result<Self, std::io::Error> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGHUP, write)?;
        Ok(Self { pipe: tokio::net::UnixStream::from_std(read)? })
    }

    /// Returns when the broker was asked.
    pub(super) async fn received(&mut self) {
        let _ = self.pipe.read_u8().await;
    }
}
