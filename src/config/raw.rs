//! The file's shape: one struct a section, one field a key, everything optional.
//!
//! Each scalar has a type of its own that knows how people write it (see `scalar`), so that a wrong one is
//! refused while the parser still knows its line and column. Ranges and rules between keys are `check`'s.

use super::scalar::{
    Account, Bytes, Count, DurabilityText, FilterText, Gate, GroupName, Level, Loopback, ModeText, QueueName,
    StrategyText, UserName, WhenFullText,
};
use serde::Deserialize;
use std::path::PathBuf;

/// Declares a section: a struct of optional fields that refuses unknown keys, and the list of its keys.
macro_rules! section {
    ($(#[$doc:meta])+ $name:ident { $($key:ident: $kind:ty,)+ }) => {
        $(#[$doc])+
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default, expecting = "keys with values")]
        pub(super) struct $name { $(pub(super) $key: Option<$kind>,)+ }

        impl $name {
            /// The keys of this section.
            #[cfg(test)]
            pub(super) const KEYS: &'static [&'static str] = &[$(stringify!($key),)+];
        }
    };
}

section! {
    /// The whole file.
    RawConfig {
        socket: RawSocket,
        allow: RawAllow,
        limits: RawLimits,
        topics: Vec<RawTopic>,
        queues: Vec<RawQueue>,
        services: Vec<RawService>,
        store: RawStore,
        http: RawHttp,
        wait: RawWait,
        log: RawLog,
    }
}

section! {
    /// `socket:`
    RawSocket {
        path: PathBuf,
        mode: ModeText,
        group: Account<GroupName>,
    }
}

section! {
    /// `allow:`
    RawAllow {
        users: Vec<Account<UserName>>,
        groups: Vec<Account<GroupName>>,
        declare_queues: RawWho,
        provide_services: RawWho,
        declare_durable_queues: RawWho,
    }
}

section! {
    /// `limits:`
    RawLimits {
        frame_bytes_max: Bytes,
        connections_max: Count,
        session_subscriptions_max: Count,
        subscriptions_max: Count,
        session_streams_max: Count,
        streams_max: Count,
        attachments_max: Count,
        ring_bytes_max: Bytes,
        rings_bytes_max: Bytes,
        retained_bytes_max: Bytes,
        retained_topics_max: Count,
        backlog_bytes_max: Bytes,
        outbox_bytes_max: Bytes,
        session_fds_in_flight_max: Count,
        topics_max: Count,
        match_cache_topics_max: Count,
        block_millis_max: Count,
        block_publisher_millis_max: Count,
        block_window_millis: Count,
        gate_budget_millis_max: Count,
        gate_publisher_millis_max: Count,
        gate_window_millis: Count,
        gate_cooldown_millis: Count,
        held_bytes_max: Bytes,
        attach_timeout_millis: Count,
        adoption_grace_millis: Count,
        first_byte_timeout_millis: Count,
        json_payload_bytes_max: Bytes,
        history_messages_max: Count,
        queues_max: Count,
        queued_bytes_max: Bytes,
        user_queued_bytes_max: Bytes,
        stored_bytes_max: Bytes,
        user_stored_bytes_max: Bytes,
        queue_cache_bytes_max: Bytes,
        store_waiting_bytes_max: Bytes,
        store_batch_bytes_max: Bytes,
        session_consumers_max: Count,
        prefetch_max: Count,
        services_max: Count,
        session_services_max: Count,
        session_requests_max: Count,
        ring_default: RawRing,
    }
}

section! {
    /// The size of a ring.
    RawRing {
        descriptors: Count,
        arena_bytes: Bytes,
    }
}

section! {
    /// One entry of `topics:`
    RawTopic {
        filter: FilterText,
        ring: RawRing,
        history: Count,
        gated_by: Gate,
        retain: Count,
    }
}

section! {
    /// One entry of `queues:`
    RawQueue {
        name: QueueName,
        bind: Vec<FilterText>,
        durability: DurabilityText,
        strategy: StrategyText,
        messages_max: Count,
        bytes_max: Bytes,
        when_full: WhenFullText,
        ack_timeout_millis: Count,
        attempts_max: Count,
        backoff_millis: Count,
        backoff_millis_max: Count,
        ttl_millis: Count,
        dead_messages_max: Count,
        dead_bytes_max: Bytes,
        id_window_millis: Count,
        ids_max: Count,
        push: RawWho,
        consume: RawWho,
        administer: RawWho,
    }
}

section! {
    /// One entry of `services:`
    RawService {
        name: FilterText,
        strategy: StrategyText,
        timeout_millis: Count,
        timeout_millis_max: Count,
        attempt_timeout_millis: Count,
        retries_max: Count,
        outstanding_max: Count,
        eject_failures: Count,
        eject_millis: Count,
        eject_millis_max: Count,
        eject_percent_max: Count,
        provide: RawWho,
        request: RawWho,
    }
}

section! {
    /// Users and groups that may do something.
    RawWho {
        users: Vec<Account<UserName>>,
        groups: Vec<Account<GroupName>>,
    }
}

section! {
    /// `store:`
    RawStore {
        path: PathBuf,
    }
}

section! {
    /// `http:`
    RawHttp {
        listen: Loopback,
    }
}

section! {
    /// `wait:`
    RawWait {
        spin_micros: Count,
    }
}

section! {
    /// `log:`
    RawLog {
        level: Level,
    }
}
