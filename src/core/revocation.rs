//! Access taken away while the broker runs: sessions that may not connect any more end, and the streams that they read go
//! on where they cannot follow.
//!
//! Memory that a process has mapped cannot be taken from it. So the publisher of each stream that it read is asked to go
//! on in another generation, which is handed to everybody but the one that lost its access. That one keeps
//! what it has mapped, and nothing that is published later is in it.

use super::broker::Core;
use super::rings::Stage;
use super::routes::is_tap;
use super::table::Key;
use super::{Access, Now};
use std::collections::BTreeSet;
use tramline_wire::{Code, ToClient};

impl Core {
    /// Who may do what from now on.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The operator changed who may connect, or what is set for topics. Settings for topics count for sessions that open
    /// from now on.
    pub fn change_access(&mut self, access: Access, now: Now) {
        self.access = access;
        let denied: Vec<(Key, Code, String)> = self
            .sessions
            .iter()
            .filter_map(|(key, session)| {
                let sees = |key| self.subscriptions.get(key).is_some_and(|each| is_tap(&each.filter));
                let (code, message) = match self.access.connect(&session.peer) {
                    Err(denied) => denied,
                    Ok(()) if session.subscriptions.values().any(|key| sees(*key)) => {
                        let refused = self.may_tap(key).err()?;
                        (refused.code, refused.message)
                    }
                    Ok(()) => return None,
                };
                Some((key, code, message))
            })
            .collect();
        let mut read = BTreeSet::new();
        for (key, code, message) in denied {
            read.append(&mut self.streams_mapped_by(key));
            if let Some(session) = self.sessions.get(key) {
                tracing::warn!("{} has lost its access and is disconnected: {message}", session.identity);
            }
            self.close(key, code, &message);
        }
        for stream in read {
            self.renew(stream);
        }
        self.settle(now);
    }

    /// Streams whose memory this session has, or may be about to have.
    fn streams_mapped_by(&self, key: Key) -> BTreeSet<u64> {
        let of = |each: &&super::attachment::Attachment| {
            each.subscriber == key && !each.proxy && each.stage.is_reading()
        };
        self.attachments.values().filter(of).map(|each| each.stream).collect()
    }

    fn renew(&mut self, id: u64) {
        let Some(stream) = self.streams.by_id.get_mut(&id).filter(|stream| stream.stage == Stage::Open)
        else {
            return;
        };
        stream.renewing = true;
        if stream.handing.is_none() {
            let session = stream.session;
            self.send_control(session, &ToClient::Renew { stream: id });
        }
    }
}
