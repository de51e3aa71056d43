//! The raw shape of a queue to its settings: ranges, and rules between keys.

use super::check::{Checked, breach, set};
use super::raw::{RawQueue, RawWho};
use crate::core::queues::ATTEMPTS_CEILING;
use crate::core::{Limits, QueueSettings, Who};
use std::collections::BTreeSet;

/// Most filters that one queue is bound to.
const BIND_MAX: usize = 256;

/// All queues of a file.
pub(super) fn queues(raw: &[RawQueue], limits: &Limits) -> Checked<Vec<QueueSettings>> {
    if raw.len() as u64 > u64::from(limits.queues_max) {
        let message = format!("{} entries; limits.queues_max is {}", raw.len(), limits.queues_max);
        return breach("queues", message);
    }
    let mut names = BTreeSet::new();
    let mut queues = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let key = format!("queues.{index}");
        let queue = queue(raw, &key)?;
        if !names.insert(queue.name.clone()) {
            return breach(format!("{key}.name"), format!("there is a queue {} before this one", queue.name));
        }
        queues.push(queue);
    }
    Ok(queues)
}

pub(super) fn who(raw: &RawWho) -> Who {
    Who {
        users: raw.users.iter().flatten().map(|user| user.0).collect(),
        groups: raw.groups.iter().flatten().map(|group| group.0).collect(),
    }
}

fn queue(raw: &RawQueue, key: &str) -> Checked<QueueSettings> {
    let Some(name) = &raw.name else {
        return breach(
            key,
            "the key name is missing: by it producers and consumers mean this queue".to_owned(),
        );
    };
    let mut queue = QueueSettings { name: name.0.clone(), ..QueueSettings::default() };
    macro_rules! take {
        ($($name:ident: $allowed:expr;)+) => {
            $(set(
                &mut queue.$name,
                raw.$name.map(|value| value.0),
                $allowed,
                &format!(concat!("{}.", stringify!($name)), key),
            )?;)+
        };
    }
    take! {
        messages_max: 1..=u64::from(u32::MAX) - 1;
        bytes_max: 4096..=1 << 50;
        ack_timeout_millis: 1..=u64::from(u32::MAX);
        attempts_max: 1..=u64::from(ATTEMPTS_CEILING);
        backoff_millis: 0..=u64::from(u32::MAX);
        backoff_millis_max: 0..=u64::from(u32::MAX);
        ttl_millis: 0..=u64::from(u32::MAX);
        dead_messages_max: 0..=u64::from(u32::MAX);
        dead_bytes_max: 0..=1 << 50;
        id_window_millis: 0..=u64::from(u32::MAX);
        ids_max: 0..=10_000_000;
    }
    let bind = raw.bind.as_deref().unwrap_or_default();
    if bind.len() > BIND_MAX {
        return breach(
            format!("{key}.bind"),
            format!("{} filters; at most {BIND_MAX} are allowed", bind.len()),
        );
    }
    queue.bind = bind.iter().map(|filter| filter.0.clone()).collect();
    queue.durability = raw.durability.as_ref().map_or(queue.durability, |durability| durability.0);
    queue.strategy = raw.strategy.as_ref().map_or(queue.strategy, |strategy| strategy.0);
    queue.when_full = raw.when_full.as_ref().map_or(queue.when_full, |when_full| when_full.0);
    queue.push = raw.push.as_ref().map(who);
    queue.consume = raw.consume.as_ref().map(who);
    queue.administer = raw.administer.as_ref().map(who).unwrap_or_default();
    Ok(queue)
}
