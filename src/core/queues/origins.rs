//! From whom and on what topic the messages of one queue came: once for all messages of one sender, counted.

use crate::core::session::Identity;
use crate::core::table::Key;
use std::collections::HashMap;
use std::sync::Arc;

/// The number of an origin in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OriginId(pub(super) u32);

/// A sender, and the topic it published on.
#[derive(Debug, Clone)]
pub(in crate::core) struct Origin {
    pub(in crate::core) from: Arc<Identity>,
    /// [`Key::NOBODY`] for what was pushed to the queue itself.
    pub(in crate::core) topic: Key,
    /// The topic's name; empty for what was pushed to the queue itself.
    pub(in crate::core) name: Arc<str>,
}

/// One number for a sender: the broker is another one for each number of routes that a message has been through.
fn sender(from: &Identity) -> u64 {
    from.session << 8 | u64::from(from.hops)
}

#[derive(Debug)]
struct Known {
    origin: Origin,
    uses: u32,
}

/// All origins of one queue's messages.
#[derive(Debug, Default)]
pub(super) struct Origins {
    known: Vec<Option<Known>>,
    free: Vec<u32>,
    by_key: HashMap<(u64, Key), u32>,
    last: Option<(u64, Key, u32)>,
}

impl Origins {
    pub(super) fn get(&self, id: OriginId) -> &Origin {
        let known = self.known[id.0 as usize].as_ref();
        &known.expect("a message holds a use of its origin").origin
    }

    /// The number of this origin, with one more use.
    pub(super) fn take(&mut self, origin: &Origin) -> OriginId {
        let (session, topic) = (sender(&origin.from), origin.topic);
        let number = match self.last {
            Some((last, key, number)) if (last, key) == (session, topic) => Some(number),
            _ => self.by_key.get(&(session, topic)).copied(),
        };
        let number = number.unwrap_or_else(|| {
            let known = Known { origin: origin.clone(), uses: 0 };
            let number = self.free.pop().unwrap_or_else(|| {
                self.known.push(None);
                u32::try_from(self.known.len() - 1).expect("there are no more origins than messages")
            });
            self.known[number as usize] = Some(known);
            self.by_key.insert((session, topic), number);
            number
        });
        self.last = Some((session, topic, number));
        if let Some(known) = &mut self.known[number as usize] {
            known.uses += 1;
        }
        OriginId(number)
    }

    /// One use less.
    pub(super) fn release(&mut self, id: OriginId) {
        let place = &mut self.known[id.0 as usize];
        let Some(known) = place else { return };
        known.uses -= 1;
        let key = (sender(&known.origin.from), known.origin.topic);
        if known.uses == 0 {
            *place = None;
            self.by_key.remove(&key);
            self.free.push(id.0);
            if self.last.is_some_and(|(_, _, number)| number == id.0) {
                self.last = None;
            }
        }
    }
}
