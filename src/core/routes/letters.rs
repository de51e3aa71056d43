//! What goes to invalid channels and dead letters: a letter with the reason and the message as it came.
//!
//! Workers write letters. A letter is tried as often as what it is about; one that arrives nowhere is lost, which is
//! counted and told, unless the message came from a queue, which then takes it back.

use super::item::{Trouble, carried};
use super::leg::{Aim, Content, Stage};
use super::task::{Body, Job};
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::table::Key;
use serde_json::json;
use std::sync::Arc;

impl Core {
    /// Brings a letter to a route's invalid channel.
    pub(super) fn send_invalid(&mut self, item: Key, route: Key, body: Arc<Body>, now: Now) {
        if self.routing.table.get(route).is_some_and(|state| state.invalid.is_some()) {
            self.begin_leg(item, None, route, Content::Made(body), Aim::Invalid, now);
        }
    }

    /// A leg is not tried again.
    pub(super) fn give_up(&mut self, key: Key, now: Now) {
        self.leave_group(key);
        let Some(leg) = self.routing.legs.get_mut(key) else { return };
        let (item, route, aim) = (leg.item, leg.route, leg.aim);
        let why = leg.history.last().map_or_else(String::new, |last| last.reason.clone());
        let has_dead_letter = self.routing.table.get(route).is_some_and(|state| state.dead_letter.is_some());
        match aim {
            Aim::Any | Aim::One(_) => {
                let tries = leg.tries;
                if let Some(state) = self.routing.table.get(route) {
                    let name = state.settings().name.clone();
                    tracing::debug!("route {name}: a message was not delivered in {tries} tries: {why}");
                    let reason = why.clone();
                    self.event(
                        "$tramline.route",
                        |_| json!({"route": name, "event": "dead", "tries": tries, "reason": reason}),
                    );
                }
                if let Some(item) = self.routing.items.get_mut(item) {
                    item.trouble.get_or_insert_with(|| Trouble::Dead(why.clone()));
                }
                if has_dead_letter {
                    return self.bury(key, why);
                }
                self.is_lost(item, route, &why);
                self.end_leg(key, false, now);
            }
            Aim::Invalid | Aim::Dead => {
                self.is_lost(item, route, &why);
                self.end_leg(key, false, now);
            }
        }
    }

    /// Has a dead letter written.
    fn bury(&mut self, key: Key, reason: String) {
        let routing = &mut self.routing;
        let Some(leg) = routing.legs.get_mut(key) else { return };
        let Some(item) = routing.items.get(leg.item) else { return };
        let Some(state) = routing.table.get(leg.route) else { return };
        leg.stage = Stage::Buried;
        let tries = std::mem::take(&mut leg.history);
        let (routes, place) = (state.routes.clone(), state.place);
        let job = Job::Bury { leg: key, routes, place, carried: carried(item), reason, tries };
        let worker = routing.hands.put_ending(job);
        self.hand_out(worker);
    }

    /// A dead letter could not be written.
    pub(super) fn was_not_written(&mut self, key: Key, why: &str, now: Now) {
        let Some(leg) = self.routing.legs.get(key) else { return };
        let (item, route) = (leg.item, leg.route);
        self.is_lost(item, route, why);
        self.end_leg(key, false, now);
    }

    /// A dead letter is written.
    pub(super) fn letter_written(&mut self, key: Key, body: Arc<Body>, now: Now) {
        let Some(leg) = self.routing.legs.get_mut(key) else { return };
        let item = leg.item;
        let bytes = body.bytes();
        (leg.aim, leg.content, leg.tries, leg.deadline) = (Aim::Dead, Content::Made(body), 0, None);
        self.note_made(item, bytes);
        self.try_leg(key, now);
    }
}
