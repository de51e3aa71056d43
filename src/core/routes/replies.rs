//! What a service answered to a request that came through a route: given back as it came, or as the route's `reply`
//! rules make it, which a worker does.
//!
//! The request itself is delivered when it is answered, and counts as that. Its item stays until the reply is ready.

use super::item::Back;
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
        let routing = &mut self.routing;
        let Some(leg) = routing.legs.get(leg) else { return };
        let (key, route) = (leg.item, leg.route);
        let Some(state) = routing.table.get(route) else { return };
        let Some(item) = routing.items.get_mut(key) else { return };
        // Who asked gets the first valid answer there is; and who is told of trouble is not told what was answered.
        if item.reply.is_some() || item.trouble.is_some() || !matches!(item.back, Back::Call { .. }) {
            return;
        }
        if !state.route().transforms_replies() {
            item.reply = Some(bytes);
            return;
        }
        item.open += 1;
        let time = decode_message(&bytes).unwrap_or_default().time;
        let length = bytes.len();
        let reply = Carried { from: by, topic: item.topic.clone(), bytes, unix_nanos: own_time(time, now) };
        let (routes, place) = (state.routes.clone(), state.place);
        let worker = routing.hands.put_ending(Job::Reply { item: key, route, routes, place, reply });
        self.note_made(key, length);
        self.hand_out(worker);
    }

    /// A worker has treated a reply.
    pub(super) fn reply_is_treated(
        &mut self,
        key: Key,
        route: Key,
        made: Result<Arc<[u8]>, String>,
        now: Now,
    ) {
        if let Some(account) = self.account_of(route) {
            account.counts.replies += 1;
            account.counts.replies_invalid += u64::from(made.is_err());
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

    /// A worker failed at a reply. The request is delivered all the same, so nobody else is to be asked.
    pub(super) fn reply_was_not_treated(&mut self, key: Key, route: Key, why: &str, now: Now) {
        self.routing.counts.failed += 1;
        let name = self.account_of(route).map_or_else(Arc::default, |account| account.name.clone());
        let reason = format!("route {name}: the reply was not treated: {why}");
        tracing::error!("{reason}");
        self.reply_is_treated(key, route, Err(reason), now);
    }
}
