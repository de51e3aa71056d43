//! What happens to queues, told on `$tramline.queue` to whoever subscribes to that.
//!
//! What can happen again and again (a queue that is full, dead letters) is told of each queue at most once a second.

use super::MILLI;
use super::origins::Origin;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::table::Key;
use serde_json::json;

/// The time between two events of one kind of one queue, in nanoseconds.
const PAUSE: u64 = 1000 * MILLI;

/// Where it is told.
const TOPIC: &str = "$tramline.queue";

/// What was told of a queue.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Not before, in nanoseconds of the monotonic clock.
    full_again: u64,
    dead_again: u64,
    /// How many dead letters there had been.
    dead: u64,
}

impl Told {
    /// A message from there is a dead letter. What happens to news is none, or a queue that is bound to them would go on
    /// making some for ever.
    pub(super) fn is_dead(&mut self, origin: &Origin) {
        self.dead += u64::from(&*origin.name == TOPIC);
    }
}

impl Core {
    /// Tells that something happened to a queue.
    pub(super) fn queue_event(&mut self, key: Key, what: &'static str) {
        self.event(TOPIC, |core| match core.queues.table.get(key) {
            None => serde_json::Value::Null,
            Some(queue) => json!({
                "queue": &*queue.name,
                "event": what,
                "messages": queue.messages(),
                "bytes": queue.bytes,
                "dead_letters": queue.dead.len(),
                "dead": queue.counts.dead,
                "refused": queue.counts.refused,
                "dropped": queue.counts.dropped,
            }),
        });
    }

    /// Tells that a queue is full, or that messages became dead letters. When it is to be looked at again because of what
    /// is too early to be told.
    pub(super) fn tell_news(&mut self, key: Key, now: Now) -> Option<u64> {
        let listens = self.listeners > 0;
        let queue = self.queues.table.get_mut(key)?;
        if !listens {
            // Nobody hears later of what happened before.
            queue.told.dead = queue.counts.dead;
            return None;
        }
        let is_full = queue.is_full_for(0).is_some() && now.monotonic >= queue.told.full_again;
        if is_full {
            queue.told.full_again = now.monotonic + PAUSE;
        }
        let more_dead = queue.counts.dead > queue.told.dead;
        let tells_dead = more_dead && now.monotonic >= queue.told.dead_again;
        let again = (more_dead && !tells_dead).then_some(queue.told.dead_again);
        if tells_dead {
            (queue.told.dead, queue.told.dead_again) = (queue.counts.dead, now.monotonic + PAUSE);
        }
        if is_full {
            self.queue_event(key, "full");
        }
        if tells_dead {
            self.queue_event(key, "dead_letters");
        }
        again
    }
}
