//! What a service manager tells the broker and is told by it: sockets that it opened already, and the news
//! that the broker is ready or stopping. Without a service manager all of this does nothing.

use sd_notify::NotifyState;
use std::os::unix::net::UnixListener;

/// The listening socket that the service manager passed, if it passed one.
///
/// # Errors
/// A sentence, when it passed more than one or something that is not a listening Unix stream socket.
pub(super) fn activated() -> Result<Option<UnixListener>, String> {
    let mut passed = listenfd::ListenFd::from_env();
    if passed.len() > 1 {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let count = passed.len();
        return Err(format!(
            "the service manager passed {count} sockets ({names}); the broker listens on one"
        ));
    }
    let listener = passed.take_unix_listener(0).map_err(|error| {
        format!("the service manager passed a socket that is no Unix stream socket: {error} (ListenStream= wants a path)")
    })?;
    let Some(listener) = listener else { return Ok(None) };
    let listening = rustix::net::sockopt::socket_acceptconn(&listener).unwrap_or(false);
    if !listening {
        return Err(
            "the service manager passed a socket that does not listen (Accept= must be no)".to_owned()
        );
    }
    listener
        .set_nonblocking(true)
        .map_err(|error| format!("the service manager's socket is unusable: {error}"))?;
    Ok(Some(listener))
}

/// Says that clients can connect.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the broker takes no more connections and will end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    // Succeeds without doing anything when nobody asked to be told.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told (NOTIFY_SOCKET)");
    }
}
