//! The file's shape: one struct a section, one field a key, everything optional.
//!
//! Each scalar has a type of its own that knows how people write it (see `scalar`), so that a wrong one is
//! refused while the parser still knows its line and column. Ranges and rules between keys are `check`'s.

use super::scalar::{
    Account, Bytes, Count, DurabilityText, FilterText, Gate, GroupName, Level, Loopback, ModeText, QueueName,
    StrategyText, UserName, WhenFullText,
};
use super::words::{
    AuthenticationText, DestinationText, EncryptionText, FormText, IntakeText, LoggingText, NameText,
    OnErrorText, OneOrMany, RouteStrategyText, Span, StartText, TableKey, ThenText,
};
use crate::routes::value::Value;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Declares a section: a struct of optional fields that refuses unknown keys, and the list of its keys.
macro_rules! section {
    ($(#[$doc:meta])+ $name:ident { $($key:ident: $kind:ty,)+ }) => {
        $(#[$doc])+
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default, expecting = "keys with values")]
        pub(super) struct $name { $(pub(super) $key: Option<$kind>,)+ }

        impl $name {
            /// Its name, and its keys with their kinds.
            #[cfg(test)]
            pub(super) const SECTION: (&'static str, &'static [(&'static str, &'static str)]) =
                (stringify!($name), &[$((stringify!($key), stringify!($kind)),)+]);
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
        pattern: RawPattern,
        routing: RawRouting,
        transformation: RawTransform,
        security: RawSecurity,
        monitoring: RawMonitoring,
        routes: Vec<RawRoute>,
        tables: BTreeMap<String, BTreeMap<TableKey, Value<'static>>>,
        sources: BTreeMap<String, String>,
        route_limits: BTreeMap<String, Bytes>,
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
        tap: RawWho,
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
        cursor_grace_millis: Count,
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
        delivery_ring_bytes_max: Bytes,
        delivery_rings_bytes_max: Bytes,
        user_delivery_rings_bytes_max: Bytes,
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

section! {
    /// `pattern:`
    RawPattern {
        name: NameText,
        version: NameText,
    }
}

section! {
    /// `routing:`, what routes inherit.
    RawRouting {
        from: OneOrMany<IntakeText>,
        strategy: RouteStrategyText,
        to: OneOrMany<DestinationText>,
        timeout: Span,
        retries: Count,
        backoff: RawBackoff,
        dead_letter: DestinationText,
        invalid: DestinationText,
    }
}

section! {
    /// Pauses between tries.
    RawBackoff {
        initial: Span,
        max: Span,
    }
}

section! {
    /// `transformation:`, what routes inherit, and `transform:` of one.
    RawTransform {
        enabled: bool,
        version: NameText,
        start: StartText,
        rules: Vec<RawRule>,
    }
}

section! {
    /// `reply:` of a route.
    RawReply {
        start: StartText,
        rules: Vec<RawRule>,
    }
}

section! {
    /// One rule.
    RawRule {
        source: String,
        target: String,
        transform: String,
        literal: Value<'static>,
        default: Value<'static>,
        required: bool,
        on_error: OnErrorText,
        r#move: bool,
        drop: bool,
    }
}

section! {
    /// `security:`
    RawSecurity {
        authentication: AuthenticationText,
        encryption: EncryptionText,
    }
}

section! {
    /// `monitoring:`
    RawMonitoring {
        metrics: bool,
        logging: LoggingText,
        alerts: bool,
    }
}

section! {
    /// One entry of `routes:`
    RawRoute {
        name: NameText,
        priority: i64,
        from: OneOrMany<IntakeText>,
        message_types: OneOrMany<NameText>,
        when: String,
        validate: String,
        input: FormText,
        transform: RawTransform,
        output: FormText,
        reply: RawReply,
        split: String,
        drop: NameText,
        tap: DestinationText,
        then: ThenText,
        invalid: DestinationText,
        deliver: RawDeliver,
        tests: Vec<RawTest>,
    }
}

section! {
    /// `deliver:` of a route.
    RawDeliver {
        strategy: RouteStrategyText,
        to: OneOrMany<DestinationText>,
        weights: BTreeMap<TableKey, Count>,
        timeout: Span,
        deadline: Span,
        retries: Count,
        retry_budget: RawRetryBudget,
        backoff: RawBackoff,
        dead_letter: DestinationText,
        concurrency: Count,
        ordered: bool,
        order_key: String,
        eject: RawEject,
    }
}

section! {
    /// How many deliveries may be at their retries at a time.
    RawRetryBudget {
        percent: Count,
        min: Count,
    }
}

section! {
    /// When a destination is left out, and for how long.
    RawEject {
        failures: Count,
        time: Span,
        max: Span,
    }
}

section! {
    /// One entry of a route's `tests:`
    RawTest {
        name: NameText,
        topic: FilterText,
        r#type: NameText,
        source: NameText,
        priority: Count,
        input: Value<'static>,
        reply: Value<'static>,
        expect: Value<'static>,
        expect_invalid: String,
        expect_dropped: bool,
        expect_passed: bool,
    }
}
