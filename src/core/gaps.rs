//! What a subscription has lost and not been told yet, kept apart by publisher and topic.
//!
//! A native client is told of each publisher's loss by itself, so it always knows up to which number it has an
//! account of that publisher: received or told lost. After the broker has died, what is missing beyond that
//! number died with it, and nothing is counted twice. People who read JSON lines get one sum.

use super::session::Identity;
use super::sources::Sources;
use super::table::Key;
use super::{Language, SessionId};
use crate::json;
use std::sync::Arc;
use tramline_wire::{Source, ToClient};

/// Publishers and topics whose losses are kept apart for one subscription. What more of them lose is told as one
/// sum without a source.
const GAP_SOURCES_MAX: usize = 64;

/// Messages of one publisher on one topic that were lost, one behind the other.
#[derive(Debug, Clone)]
pub(super) struct Gap {
    pub(super) from: Arc<Identity>,
    pub(super) topic: Key,
    pub(super) name: Arc<str>,
    pub(super) lost: u64,
}

impl Gap {
    /// Whether both are of one publisher and topic.
    pub(super) fn is_with(&self, other: &Self) -> bool {
        self.from.session == other.from.session && self.topic == other.topic
    }
}

/// All that one subscription has not been told.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    known: Vec<Gap>,
    others: u64,
}

impl Gaps {
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.others == 0
    }

    /// How many messages in all.
    pub(super) fn lost(&self) -> u64 {
        self.known.iter().fold(self.others, |sum, gap| sum.saturating_add(gap.lost))
    }

    pub(super) fn add(&mut self, gap: Gap) {
        if let Some(known) = self.known.iter_mut().find(|known| known.is_with(&gap)) {
            known.lost = known.lost.saturating_add(gap.lost);
        } else if self.known.len() < GAP_SOURCES_MAX {
            self.known.push(gap);
        } else {
            self.others = self.others.saturating_add(gap.lost);
        }
    }

    /// Tells all of it. Whether that needed a new source alias.
    pub(super) fn append(
        &mut self,
        out: &mut Vec<u8>,
        sub: u32,
        language: Language,
        sources: &mut Sources,
    ) -> bool {
        let lost = self.lost();
        let others = std::mem::take(&mut self.others);
        if language == Language::Json {
            let first = self.known.first().map(|gap| gap.name.clone());
            let one = others == 0 && self.known.iter().all(|gap| Some(&gap.name) == first.as_ref());
            json::write_gap(out, sub, first.as_deref().filter(|_| one).unwrap_or_default(), lost);
            self.known.clear();
            return false;
        }
        let mut defined = false;
        for Gap { from, topic, name, lost } in self.known.drain(..) {
            let (alias, new) = alias_of(sources, out, &from, topic, &name);
            ToClient::Gap { sub, topic: &name, lost, source: Some(alias) }.encode(out);
            defined |= new;
        }
        if others > 0 {
            ToClient::Gap { sub, topic: "", lost: others, source: None }.encode(out);
        }
        defined
    }
}

/// The alias of this publisher and topic, defined in `out` if it is new, and whether it is.
pub(super) fn alias_of(
    sources: &mut Sources,
    out: &mut Vec<u8>,
    from: &Identity,
    topic: Key,
    name: &str,
) -> (u32, bool) {
    if let Some(alias) = sources.find(from.session, topic) {
        return (alias, false);
    }
    let alias = sources.define(from.session, topic);
    ToClient::Source(source(alias, from, name)).encode(out);
    (alias, true)
}

/// How a client is told who publishes what.
pub(super) fn source<'a>(alias: u32, from: &'a Identity, topic: &'a str) -> Source<'a> {
    let Identity { session, name, uid, pid, client, .. } = from;
    Source { alias, topic, session: *session, name, uid: *uid, pid: *pid, client: *client }
}

/// Notes those among the newly defined sources that have ended already: their messages were still waiting.
pub(super) fn note_gone(sources: &mut Sources, is_there: impl Fn(SessionId) -> bool) {
    for publisher in sources.take_fresh() {
        if publisher != 0 && !is_there(publisher) {
            sources.publisher_gone(publisher);
        }
    }
}
