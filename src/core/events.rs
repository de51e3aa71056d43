//! What happens in the broker, told on `$tramline.>` as JSON messages of the broker itself.
//!
//! Nothing is phrased unless somebody subscribes to a topic of the broker's. Events are collected while an
//! input is handled and published after it, so that no rule is carried out half.

use super::Now;
use super::broker::Core;
use super::delivery::own_message;
use serde_json::json;
use tramline_wire::{Topic, codec::encode_message};

/// Something that happened.
#[derive(Debug)]
pub(super) struct Event {
    topic: &'static str,
    text: String,
}

impl Core {
    /// Notes an event; `describe` is asked only if somebody may hear it.
    pub(super) fn event(&mut self, topic: &'static str, describe: impl FnOnce(&Self) -> serde_json::Value) {
        if self.listeners > 0 {
            let text = describe(self).to_string();
            self.events.push_back(Event { topic, text });
        }
    }

    /// Publishes what was noted.
    pub(super) fn publish_events(&mut self, now: Now) {
        while let Some(event) = self.events.pop_front() {
            let topic = Topic::parse(event.topic).expect("the broker's own topics are well-formed");
            let Some(key) = self.topics.find(topic).or_else(|| self.topics.take(topic)) else { continue };
            let number = self.numbers.entry(key).or_insert(0);
            *number += 1;
            let message = own_message(*number, now.monotonic, &event.text);
            let mut bytes = Vec::new();
            encode_message(&mut bytes, &message);
            let from = self.identity.clone();
            self.route(&from, key, &bytes, message, false, now);
        }
    }

    /// Notes that a request or connection was refused.
    pub(super) fn event_refused(&mut self, uid: u32, pid: u32, code: tramline_wire::Code, message: &str) {
        self.event(
            "$tramline.refused",
            |_| json!({"uid": uid, "pid": pid, "code": code.as_str(), "message": message}),
        );
    }
}
