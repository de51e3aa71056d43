//! What a service answered to a request that came through a route: given back as it came, or as the route's `reply`
//! rules make it, which a worker does.
//!
//! The request itself is delivered when it is answered, and counts as that. Its item stays until the reply is ready. What
//! was answered is kept meanwhile if somebody looks, and only then.

use super::item::Back;
use super::leg::Stage;
use super::tap::Watched;
use super::task::{Carried, Job};
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::delivery::own_time;
use crate::core::session::Identity;
use crate::core::table::Key;
use std::sync::Arc;
use tramline_wire::codec::decode_message;

impl Core {
    /// A service has answered what a leg brought it.
    pub(super) fn leg_is_answered(&mut self, leg: Key, by: Arc<Identity>, bytes: Arc<[u8]>, now: Now) {
        let Some((key, route)) = self.routing.legs.get(leg).map(|leg| (leg.item, leg.route)) else { return };
        let looked_at = self.looked_at(route).is_some();
        let routing = &mut self.routing;
        let Some(leg) = routing.legs.get(leg) else { return };
        let Some(state) = routing.table.get(route) else { return };
        let Some(item) = routing.items.get_mut(key) else { return };
        // Who asked gets the first valid answer there is; and who is told of trouble is not told what was answered.
        if item.reply.is_some() || item.trouble.is_some() || !matches!(item.back, Back::Call { .. }) {
            return;
        }
        let watched = looked_at.then(|| {
            let seat = if let Stage::Trying { seat, .. } = leg.stage { seat } else { None };
            let destination = state.target(leg.aim, seat).map_or_else(Arc::default, |(_, name)| name);
            Watched { from: by.clone(), topic: item.topic.clone(), destination, bytes: bytes.clone() }
        });
        if !state.route().transforms_replies() {
            item.reply = Some(bytes);
            if let Some(watched) = watched {
                self.show_reply(route, &watched, Ok(None), now);
            }
            return;
        }
        item.open += 1;
        let time = decode_message(&bytes).unwrap_or_default().time;
        let length = bytes.len();
        let reply = Carried { from: by, topic: item.topic.clone(), bytes, unix_nanos: own_time(time, now) };
        let watched = watched.map(|watched| routing.watched.insert(watched));
        let (routes, place) = (state.routes.clone(), state.place);
        let job = Job::Reply { item: key, route, watched, routes, place, reply };
        let worker = routing.hands.put_ending(job);
        self.note_made(key, length);
        self.hand_out(worker);
    }

    /// A worker has treated a reply. `watched` is where it is kept to be shown.
    pub(super) fn reply_is_treated(
        &mut self,
        key: Key,
        route: Key,
        watched: Option<Key>,
        made: Result<Arc<[u8]>, String>,
        now: Now,
    ) {
        if let Some(account) = self.account_of(route) {
            account.counts.replies += 1;
            account.counts.replies_invalid += u64::from(made.is_err());
        }
        if let Some(watched) = watched.and_then(|watched| self.routing.watched.remove(watched)) {
            self.show_treated(key, route, &watched, &made, now);
        }
        match made {
            Ok(bytes) => {
                self.note_made(key, bytes.len());
                if let Some(item) = self.routing.items.get_mut(key) {
                    item.reply.get_or_insert(bytes);
                }
            }
            Err(reason) => {
                tracing::debug!("{reason}");
                if let Some(item) = self.routing.items.get_mut(key) {
                    item.reply_fault.get_or_insert(reason);
                }
            }
        }
        self.close_item(key, now);
    }

    /// Shows what became of a reply, unless it is valid and who asked gets something else.
    fn show_treated(
        &mut self,
        key: Key,
        route: Key,
        watched: &Watched,
        made: &Result<Arc<[u8]>, String>,
        now: Now,
    ) {
        let Some(item) = self.routing.items.get(key) else { return };
        match made {
            Ok(_) if item.reply.is_some() || item.trouble.is_some() => {}
            Ok(bytes) => self.show_reply(route, watched, Ok(Some(bytes)), now),
            Err(reason) => self.show_reply(route, watched, Err(reason), now),
        }
    }

    /// A worker failed at a reply. The request is delivered all the same, so nobody else is to be asked.
    pub(super) fn reply_was_not_treated(
        &mut self,
        key: Key,
        route: Key,
        watched: Option<Key>,
        why: &str,
        now: Now,
    ) {
        self.routing.counts.failed += 1;
        let name = self.account_of(route).map_or_else(Arc::default, |account| account.name.clone());
        let reason = format!("route {name}: the reply was not treated: {why}");
        tracing::error!("{reason}");
        self.reply_is_treated(key, route, watched, Err(reason), now);
    }
}
