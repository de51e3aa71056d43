//! The topics this client publishes on: their numbering and the way their messages go.
//!
//! One sequence per topic runs across both planes: a ring begins with the number after the last socket
//! message, and a socket message after a ring says which ring message it follows. The lock of a topic
//! is held while a message is numbered and handed on, never while waiting.

use crate::error::{Error, Result};
use crate::reactor::lock;
use crate::stream::Stream;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tramline_wire::{After, Code};

/// Topics that one client may publish on; each keeps its number for as long as the client lives.
const CLIENT_TOPICS_MAX: usize = 262_144;

/// Where a topic's messages go.
pub(crate) enum Route {
    Socket,
    /// Somebody opens a ring; wait for it.
    Opening,
    Ring {
        stream: Arc<Stream>,
        /// Opened because of a large payload, and when it was last used; closed when idle.
        implicit: Option<Instant>,
    },
}

pub(crate) struct TopicState {
    pub(crate) next_seq: u64,
    /// The alias and the connection it was defined on.
    pub(crate) alias: Option<(u64, u32)>,
    /// The last ring message, when there was one.
    pub(crate) after: Option<After>,
    pub(crate) route: Route,
}

pub(crate) struct Topic {
    pub(crate) name: Box<str>,
    /// Not 0, which owns the aliases that only open streams.
    pub(crate) id: u64,
    pub(crate) state: Mutex<TopicState>,
}

#[derive(Default)]
pub(crate) struct Topics {
    by_name: Mutex<HashMap<Box<str>, Arc<Topic>>>,
    /// Topics with an implicit ring.
    pub(crate) implicit: Mutex<Vec<Arc<Topic>>>,
}

impl Topics {
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Topic>> {
        let mut by_name = lock(&self.by_name);
        if let Some(topic) = by_name.get(name) {
            return Ok(Arc::clone(topic));
        }
        check(name)?;
        if by_name.len() >= CLIENT_TOPICS_MAX {
            return Err(Error::over("client_topics_max", CLIENT_TOPICS_MAX, by_name.len() + 1));
        }
        let state = TopicState { next_seq: 1, alias: None, after: None, route: Route::Socket };
        let topic =
            Arc::new(Topic { name: name.into(), id: by_name.len() as u64 + 1, state: Mutex::new(state) });
        by_name.insert(name.into(), Arc::clone(&topic));
        Ok(topic)
    }
}

fn check(name: &str) -> Result<()> {
    let topic =
        tramline_wire::Topic::parse(name).map_err(|source| Error::Topic { text: name.into(), source })?;
    if topic.is_reserved() {
        // Refused here: the broker would end the session of a client that does not know this.
        let message = format!("{name} cannot be published to: topics that start with $ belong to the broker");
        return Err(Error::refused(Code::ReservedTopic.number(), &message, None));
    }
    Ok(())
}
