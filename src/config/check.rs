//! The raw shape to a [`Config`]: ranges, and rules between keys, each fault with its place in the file.
//!
//! The YAML parser knows the place of what it stumbles over itself. For what is found later, the file
//! is walked a second time along the key's path, which costs nothing as long as there is no fault.

use super::queues::{queues, who};
use super::raw::{RawConfig, RawLimits, RawRing, RawTopic};
use super::services::services;
use super::{Allow, Config, Http, Log, Socket, Store, Wait};
use crate::core::{Limits, QueueSettings, TopicSettings, ring_bytes};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::ops::RangeInclusive;
use tramline_wire::Geometry;
use tramline_wire::limits::{FRAME_BYTES_CEILING, FRAME_FDS_MAX, SUBSCRIPTION_ID_MAX, TOPIC_SETTINGS_MAX};

/// Smallest `limits.frame_bytes_max`, in bytes: room for the largest block of type and headers and some payload.
const FRAME_BYTES_FLOOR: u64 = 32 * 1024;

/// What an arena's length is a multiple of, in bytes.
const PAGE_BYTES: u64 = 4096;

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

/// What is wrong, and at which key (`topics.0.ring.descriptors`).
pub(super) struct Breach {
    key: String,
    message: String,
}

pub(super) type Checked<T> = Result<T, Breach>;

pub(super) fn breach<T>(key: impl Into<String>, message: String) -> Checked<T> {
    Err(Breach { key: key.into(), message })
}

/// Reads and checks a whole file.
pub(super) fn config(text: &str) -> Result<Config, Fault> {
    // A file of comments only holds no document at all, and says nothing.
    let Some(document) = yaml_documents(text)? else { return Ok(Config::default()) };
    checked(document).map_err(|breach| at_key(text, &breach.key, &breach.message))
}

/// A fault at a key of the file.
pub(super) fn at_key(text: &str, key: &str, message: &str) -> Fault {
    let (line, column) = locate(text, key).unwrap_or((1, 1));
    Fault { line, column, message: format!("{}: {message}", for_people(key)) }
}

fn yaml_documents(text: &str) -> Result<Option<RawConfig>, Fault> {
    if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(None);
    }
    serde_yaml::from_str::<Option<RawConfig>>(text).map_err(|error| {
        let whole = error.to_string();
        let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
        let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
        Fault { line, column, message: message.to_owned() }
    })
}

fn for_people(key: &str) -> String {
    key.split('.').fold(String::new(), |path, step| match step.parse::<usize>() {
        Ok(index) => format!("{path}[{index}]"),
        Err(_) if path.is_empty() => step.to_owned(),
        Err(_) => format!("{path}.{step}"),
    })
}

fn checked(mut raw: RawConfig) -> Checked<Config> {
    let mut routes = super::routes::routes(&mut raw)?;
    let socket = raw.socket.unwrap_or_default();
    let allow = raw.allow.unwrap_or_default();
    if socket.path.as_ref().is_some_and(|path| !path.is_absolute()) {
        return breach("socket.path", "must be an absolute path".to_owned());
    }
    let store = raw.store.unwrap_or_default().path;
    if store.as_ref().is_some_and(|path| !path.is_absolute()) {
        return breach("store.path", "must be an absolute path".to_owned());
    }
    let limits = limits(&raw.limits.unwrap_or_default())?;
    let topics = raw.topics.unwrap_or_default();
    if topics.len() > TOPIC_SETTINGS_MAX {
        return breach(
            "topics",
            format!("{} entries; at most {TOPIC_SETTINGS_MAX} are allowed", topics.len()),
        );
    }
    let default = Socket::default();
    let mut queues = queues(raw.queues.as_deref().unwrap_or_default(), &limits)?;
    let bound = queues.iter().filter(|queue| !queue.bind.is_empty());
    routes.bound = bound.map(|queue| (queue.name.clone(), queue.bind.clone())).collect();
    // What routes take from and push to is there, if only with defaults.
    for name in routes.queues() {
        if !queues.iter().any(|queue| queue.name == name) {
            queues.push(QueueSettings { name: name.to_owned(), ..QueueSettings::default() });
        }
    }
    Ok(Config {
        socket: Socket {
            path: socket.path,
            mode: socket.mode.map_or(default.mode, |mode| mode.0),
            group: socket.group.map(|group| group.0),
        },
        allow: Allow {
            users: allow.users.unwrap_or_default().iter().map(|user| user.0).collect(),
            groups: allow.groups.unwrap_or_default().iter().map(|group| group.0).collect(),
            declare_queues: allow.declare_queues.as_ref().map(who).unwrap_or_default(),
            provide_services: allow.provide_services.as_ref().map(who).unwrap_or_default(),
            declare_durable_queues: allow.declare_durable_queues.as_ref().map(who).unwrap_or_default(),
            tap: allow.tap.as_ref().map(who).unwrap_or_default(),
        },
        topics: topics
            .iter()
            .enumerate()
            .map(|(index, raw)| topic(raw, &format!("topics.{index}"), &limits))
            .collect::<Checked<_>>()?,
        queues,
        services: services(raw.services.as_deref().unwrap_or_default(), &limits)?,
        limits,
        store: Store { path: store },
        http: Http { listen: raw.http.unwrap_or_default().listen.map(|address| address.0) },
        wait: wait(raw.wait.unwrap_or_default().spin_micros.map(|count| count.0))?,
        log: raw
            .log
            .unwrap_or_default()
            .level
            .map(|level| level.0.to_owned())
            .or_else(|| routes.monitoring.logging.clone())
            .map_or_else(Log::default, |level| Log { level }),
        routes,
    })
}

fn wait(spin_micros: Option<u64>) -> Checked<Wait> {
    let mut wait = Wait::default();
    set(&mut wait.spin_micros, spin_micros, 0..=1_000_000, "wait.spin_micros")?;
    Ok(wait)
}

/// Puts `value`, if there is one and it is within `allowed`, into `slot`.
pub(super) fn set<T: TryFrom<u64>>(
    slot: &mut T,
    value: Option<u64>,
    allowed: RangeInclusive<u64>,
    key: &str,
) -> Checked<()> {
    let Some(value) = value else { return Ok(()) };
    match T::try_from(value) {
        Ok(fits) if allowed.contains(&value) => *slot = fits,
        _ => {
            return breach(key, format!("{value} is out of range: {} to {}", allowed.start(), allowed.end()));
        }
    }
    Ok(())
}

fn limits(raw: &RawLimits) -> Checked<Limits> {
    const U32: u64 = u32::MAX as u64;
    let mut limits = Limits::default();
    macro_rules! take {
        ($($key:ident: $allowed:expr;)+) => {
            $(set(&mut limits.$key, raw.$key.map(|value| value.0), $allowed, concat!("limits.", stringify!($key)))?;)+
            // Names every limit there is: one that the file cannot set does not compile.
            let Limits { $($key: _,)+ ring_default: _ } = &limits;
        };
    }
    take! {
        frame_bytes_max: FRAME_BYTES_FLOOR..=FRAME_BYTES_CEILING as u64;
        connections_max: 1..=1_000_000;
        session_subscriptions_max: 1..=u64::from(SUBSCRIPTION_ID_MAX);
        subscriptions_max: 1..=U32;
        session_streams_max: 1..=U32;
        streams_max: 1..=U32;
        attachments_max: 1..=U32;
        ring_bytes_max: 64 * 1024..=1 << 40;
        rings_bytes_max: 64 * 1024..=1 << 50;
        retained_bytes_max: 0..=1 << 50;
        retained_topics_max: 0..=U32;
        backlog_bytes_max: 4096..=U32;
        outbox_bytes_max: 4096..=U32;
        session_fds_in_flight_max: u64::from(FRAME_FDS_MAX)..=253;
        topics_max: 1..=U32;
        match_cache_topics_max: 1..=U32;
        block_millis_max: 0..=U32;
        block_publisher_millis_max: 0..=U32;
        block_window_millis: 1..=U32;
        gate_budget_millis_max: 1..=U32;
        gate_publisher_millis_max: 1..=U32;
        gate_window_millis: 1..=U32;
        gate_cooldown_millis: 0..=U32;
        held_bytes_max: 0..=1 << 40;
        attach_timeout_millis: 1..=600_000;
        adoption_grace_millis: 1..=600_000;
        cursor_grace_millis: 0..=600_000;
        first_byte_timeout_millis: 1..=600_000;
        json_payload_bytes_max: 0..=FRAME_BYTES_CEILING as u64;
        history_messages_max: 0..=U32;
        queues_max: 0..=U32;
        queued_bytes_max: 0..=1 << 50;
        user_queued_bytes_max: 0..=1 << 50;
        stored_bytes_max: 0..=1 << 50;
        user_stored_bytes_max: 0..=1 << 50;
        queue_cache_bytes_max: 4096..=1 << 40;
        store_waiting_bytes_max: 4096..=1 << 40;
        store_batch_bytes_max: 4096..=256 * 1024 * 1024;
        delivery_ring_bytes_max: 64 * 1024..=1 << 32;
        delivery_rings_bytes_max: 64 * 1024..=1 << 50;
        user_delivery_rings_bytes_max: 64 * 1024..=1 << 50;
        session_consumers_max: 1..=U32;
        prefetch_max: 1..=1_000_000;
        services_max: 0..=U32;
        session_services_max: 1..=U32;
        session_requests_max: 1..=1_000_000;
    }
    if limits.ring_bytes_max > limits.rings_bytes_max {
        let key =
            if raw.ring_bytes_max.is_some() { "limits.ring_bytes_max" } else { "limits.rings_bytes_max" };
        return breach(
            key,
            format!(
                "one ring may have {} bytes (limits.ring_bytes_max), which is more than all together may \
                 (limits.rings_bytes_max, {})",
                limits.ring_bytes_max, limits.rings_bytes_max
            ),
        );
    }
    let shares = [
        ("delivery_ring_bytes_max", limits.delivery_ring_bytes_max),
        ("user_delivery_rings_bytes_max", limits.user_delivery_rings_bytes_max),
        ("delivery_rings_bytes_max", limits.delivery_rings_bytes_max),
    ];
    for pair in shares.windows(2) {
        let ((less, least), (more, most)) = (pair[0], pair[1]);
        if least > most {
            return breach(
                format!("limits.{less}"),
                format!(
                    "{least} is more than limits.{more}, {most}: what is that large could be given to nobody"
                ),
            );
        }
    }
    limits.ring_default = ring(raw.ring_default.as_ref(), "limits.ring_default", &limits)?;
    Ok(limits)
}

/// A ring's size: what is given, and the default for the rest.
fn ring(raw: Option<&RawRing>, key: &str, limits: &Limits) -> Checked<Geometry> {
    let mut size = limits.ring_default;
    if let Some(raw) = raw {
        let descriptors = raw.descriptors.map(|count| count.0);
        set(&mut size.descriptors, descriptors, 2..=1 << 30, &format!("{key}.descriptors"))?;
        let arena_bytes = raw.arena_bytes.map(|bytes| bytes.0);
        set(&mut size.arena_bytes, arena_bytes, PAGE_BYTES..=1 << 40, &format!("{key}.arena_bytes"))?;
    }
    if !size.descriptors.is_power_of_two() {
        let message = format!("{} is not a power of two", size.descriptors);
        return breach(format!("{key}.descriptors"), message);
    }
    if !size.arena_bytes.is_multiple_of(PAGE_BYTES) {
        let message = format!("{} is not a multiple of {PAGE_BYTES}", size.arena_bytes);
        return breach(format!("{key}.arena_bytes"), message);
    }
    let bytes = ring_bytes(size).unwrap_or(u64::MAX);
    if bytes > limits.ring_bytes_max {
        let most = limits.ring_bytes_max;
        return breach(key, format!("a ring of {bytes} bytes; one may have {most} (limits.ring_bytes_max)"));
    }
    Ok(size)
}

fn topic(raw: &RawTopic, key: &str, limits: &Limits) -> Checked<TopicSettings> {
    let Some(filter) = &raw.filter else {
        return breach(key, "the key filter is missing: it says which topics are meant".to_owned());
    };
    let ring = raw.ring.as_ref().map(|raw| ring(Some(raw), &format!("{key}.ring"), limits)).transpose()?;
    let history = match &raw.history {
        None => None,
        Some(count) => {
            let mut history = 0;
            let most = u64::from(limits.history_messages_max);
            set(&mut history, Some(count.0), 0..=most, &format!("{key}.history"))?;
            Some(history)
        }
    };
    let mut retain = 0;
    let most = u64::from(limits.history_messages_max);
    set(&mut retain, raw.retain.map(|count| count.0), 0..=most, &format!("{key}.retain"))?;
    let gated_by = raw.gated_by.as_ref().map(|gate| gate.0);
    Ok(TopicSettings { filter: filter.0.clone(), ring, history, gated_by, retain })
}

/// Line and column of the value at `key`, from 1.
pub(super) fn locate(text: &str, key: &str) -> Option<(usize, usize)> {
    let path: Vec<&str> = key.split('.').collect();
    let found = Seek(&path).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    found.location().map(|place| (place.line(), place.column()))
}

/// Walks to the end of a path and fails there, because failures carry a place.
struct Seek<'p>(&'p [&'p str]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<(), D::Error> {
        yaml.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else { return Err(serde::de::Error::custom("here")) };
        while let Some(key) = map.next_key::<String>()? {
            if key == *step {
                map.next_value_seed(Seek(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        // The key is not there; its section is the nearest place.
        Err(serde::de::Error::custom("here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.0.split_first() else { return Err(serde::de::Error::custom("here")) };
        for _ in 0..step.parse().unwrap_or(0) {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(Seek(rest))?;
        Err(serde::de::Error::custom("here"))
    }
}
