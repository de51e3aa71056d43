//! Routes as the configuration says them, checked by themselves: values, and nothing compiled.
//!
//! `src/config` makes these from YAML, with defaults handed down already; [`Routes::compile`](super::Routes::compile)
//! makes of them what treats messages.

use super::limits::Limits;
use super::rules::{RuleSettings, Start};
use super::value::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use tramline_wire::Topic;

/// The first token of the topics on which the broker shows what routes do, to whoever may tap them. Routes take nothing from
/// there: what they showed of that would be shown again.
pub const TAP_ROOT: &str = "$tap";

/// Everything about routes that a configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `pattern.name`; empty if there is none.
    pub pattern: String,
    /// `pattern.version`.
    pub version: Option<String>,
    /// The routes, in the order of the file.
    pub routes: Vec<RouteSettings>,
    /// Queues that the configuration binds to topics, with their filters: what is published there lands in them.
    pub bound: BTreeMap<String, Vec<String>>,
    /// Tables for `lookup`, by name.
    pub tables: BTreeMap<String, BTreeMap<String, Value<'static>>>,
    /// What may stand as `source` in an envelope for which session's name.
    pub sources: BTreeMap<String, String>,
    /// What routes may use.
    pub limits: Limits,
    /// `security:`, which says what is so in any case.
    pub security: Security,
    /// `monitoring:`
    pub monitoring: Monitoring,
}

impl Settings {
    /// The queues that routes take from or push to, some more than once.
    pub fn queues(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().flat_map(|route| {
            let from = route.from.iter().filter_map(|from| match from {
                Intake::Queue(queue) => Some(queue.as_str()),
                Intake::Filter(_) | Intake::Service(_) => None,
            });
            let ends = [&route.invalid, &route.deliver.dead_letter].into_iter().flatten();
            from.chain(route.deliver.to.iter().chain(ends).filter_map(|to| match to {
                Destination::Queue(queue) => Some(queue.as_str()),
                Destination::Topic(_) | Destination::Service(_) => None,
            }))
        })
    }
}

/// What `security:` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// How clients are known: `peer`, by the kernel.
    pub authentication: Option<String>,
    /// Whether what is said between processes of this host is encrypted: never.
    pub encryption: bool,
}

/// What `monitoring:` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Monitoring {
    /// Whether there are metrics.
    pub metrics: Option<bool>,
    /// How much is logged, in lower case.
    pub logging: Option<String>,
    /// Whether there are alerts.
    pub alerts: Option<bool>,
}

/// One route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteSettings {
    /// Its key in the file, such as `routes.0`; empty for the one that a file is by itself.
    pub key: String,
    /// The key of its rules, which may be those that it inherits.
    pub rules_key: String,
    /// Its name.
    pub name: String,
    /// Routes with a higher one look at a message first.
    pub priority: i64,
    /// Where its messages come from.
    pub from: Vec<Intake>,
    /// The types it takes; empty: all.
    pub message_types: Vec<String>,
    /// An expression that must be true.
    pub when: Option<String>,
    /// The file of a JSON Schema, relative to the configuration.
    pub validate: Option<String>,
    /// What a payload is.
    pub input: Form,
    /// Whether messages are transformed.
    pub transforms: bool,
    /// The version of the rules.
    pub version: String,
    /// What a result begins as.
    pub start: Start,
    /// The rules.
    pub rules: Vec<RuleSettings>,
    /// What goes out.
    pub output: Form,
    /// What becomes of a service's reply on its way back to who asked.
    pub reply: Option<ReplySettings>,
    /// The path of an array that is split into messages.
    pub split: Option<String>,
    /// Why messages are dropped, if they are.
    pub drop: Option<String>,
    /// A topic that gets a copy of each message as it came.
    pub tap: Option<Destination>,
    /// Whether routes of lower priority look at a message that this one took.
    pub goes_on: bool,
    /// Where messages go that are not valid.
    pub invalid: Option<Destination>,
    /// How what is made is delivered.
    pub deliver: Deliver,
    /// Examples of what it makes.
    pub tests: Vec<TestSettings>,
}

/// What becomes of a reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplySettings {
    /// What a result begins as.
    pub start: Start,
    /// The rules.
    pub rules: Vec<RuleSettings>,
}

/// Where messages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intake {
    /// Topics that match a filter.
    Filter(String),
    /// A queue.
    Queue(String),
    /// Requests to a service, which the broker provides.
    Service(String),
}

impl Intake {
    /// Reads `sensors.gps.*`, `queue:jobs` or `service:positions`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("queue", queue)) => plain_topic(queue).map(Self::Queue),
            Some(("service", service)) => plain_topic(service).map(Self::Service),
            _ => match tramline_wire::Filter::parse(text) {
                Ok(_) if text.split('.').next() == Some(TAP_ROOT) => {
                    Err(format!("{text:?}: what the broker shows of routes is not for routes"))
                }
                Ok(_) => Ok(Self::Filter(text.to_owned())),
                Err(error) => Err(format!(
                    "{text:?} is neither a filter of topics nor queue:NAME nor service:NAME: {error}"
                )),
            },
        }
    }
}

impl fmt::Display for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(filter) => f.write_str(filter),
            Self::Queue(queue) => write!(f, "queue:{queue}"),
            Self::Service(service) => write!(f, "service:{service}"),
        }
    }
}

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Everybody who subscribed to a topic.
    Topic(String),
    /// A queue.
    Queue(String),
    /// Whoever provides a service.
    Service(String),
}

impl Destination {
    /// Reads `topic:map.fixes`, `queue:late` or `service:map.primary`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("topic", name)) => plain_topic(name).map(Self::Topic),
            Some(("queue", name)) => plain_topic(name).map(Self::Queue),
            Some(("service", name)) => plain_topic(name).map(Self::Service),
            _ => Err(format!("{text:?} is none of topic:NAME, queue:NAME and service:NAME")),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic:{name}"),
            Self::Queue(name) => write!(f, "queue:{name}"),
            Self::Service(name) => write!(f, "service:{name}"),
        }
    }
}

fn plain_topic(name: &str) -> Result<String, String> {
    match Topic::parse(name) {
        Ok(topic) if topic.is_reserved() => Err(format!("{name:?}: names with $ belong to the broker")),
        Ok(_) => Ok(name.to_owned()),
        Err(error) => Err(format!("{name:?} is no name: {error}")),
    }
}

/// What the bytes of a message are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// The data alone.
    Payload,
    /// The envelope with the data in it.
    #[default]
    Envelope,
}

/// Who of several destinations gets a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The first that is well.
    Failover,
    /// The one with the least to do.
    LoadBalance,
    /// All.
    Broadcast,
}

impl Strategy {
    /// Every one, with its name.
    pub const ALL: [(&'static str, Self); 4] = [
        ("round_robin", Self::RoundRobin),
        ("failover", Self::Failover),
        ("load_balance", Self::LoadBalance),
        ("broadcast", Self::Broadcast),
    ];

    /// The one of this name, in which a hyphen is as good as an underscore.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.replace('-', "_");
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, strategy)| *strategy)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, strategy)| *strategy == self).map_or("", |(name, _)| name)
    }
}

/// How messages are delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deliver {
    /// Who gets a message.
    pub strategy: Strategy,
    /// The destinations.
    pub to: Vec<Destination>,
    /// Their weights, in their order; those that have none here have 1.
    pub weights: Vec<u32>,
    /// How long one try may take.
    pub timeout: Duration,
    /// How long all of it may take, pauses and waiting for a turn included.
    pub deadline: Option<Duration>,
    /// How often it is tried again.
    pub retries: u32,
    /// How many deliveries may be at their retries at a time; none: all.
    pub retry_budget: Option<RetryBudget>,
    /// The pause before the second try.
    pub backoff_initial: Duration,
    /// The longest pause between tries.
    pub backoff_max: Duration,
    /// Where messages go that could not be delivered.
    pub dead_letter: Option<Destination>,
    /// Messages that are being delivered at a time; others wait.
    pub concurrency: u32,
    /// Whether what comes from one source is delivered one after the other.
    pub ordered: bool,
    /// The path in a message's data of what it must have in common for that.
    pub order_key: Option<String>,
    /// Failures of a destination one after the other for which it is left out for a while; 0: never.
    pub eject_failures: u32,
    /// For how long the first time; each further time it is so much longer.
    pub eject_time: Duration,
    /// The longest of these times.
    pub eject_time_max: Duration,
}

/// The share of deliveries that may be at their retries, so that what is down or slow is not given more to do by it. As
/// Envoy's retry budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of those under way, in percent.
    pub percent: u32,
    /// So many in any case.
    pub min: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, min: 3 }
    }
}

impl RetryBudget {
    /// Whether there may be one more retry with so many of the deliveries under way being retries.
    #[must_use]
    pub fn lets_another(self, retrying: u32, active: u32) -> bool {
        let share = u64::from(active) * u64::from(self.percent) / 100;
        u64::from(retrying) < share.max(self.min.into())
    }
}

impl Deliver {
    /// The weight of the destination at this place.
    #[must_use]
    pub fn weight(&self, place: usize) -> u32 {
        self.weights.get(place).copied().unwrap_or(1)
    }
}

impl Default for Deliver {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            to: Vec::new(),
            weights: Vec::new(),
            timeout: Duration::from_secs(30),
            deadline: None,
            retries: 3,
            retry_budget: None,
            backoff_initial: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            dead_letter: None,
            concurrency: 256,
            ordered: false,
            order_key: None,
            eject_failures: 5,
            eject_time: Duration::from_secs(10),
            eject_time_max: Duration::from_secs(300),
        }
    }
}

/// An example of what a route makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestSettings {
    /// What it shows.
    pub name: String,
    /// The topic; if none is said, one that the route takes.
    pub topic: Option<String>,
    /// The type; if none is said, the first that the route takes.
    pub message_type: Option<String>,
    /// Who sent it.
    pub source: Option<String>,
    /// Its priority.
    pub priority: Option<u8>,
    /// The data, or the envelope; or the data of a reply.
    pub input: Value<'static>,
    /// Whether it is of what a service says, and not of a message.
    pub of_reply: bool,
    /// What must come of it.
    pub expect: Expect,
}

/// What must come of an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// This data; of a route that splits, an array with that of each part.
    Data(Value<'static>),
    /// It is not valid, for a reason in which this text stands.
    Invalid(String),
    /// The route drops it.
    Dropped,
    /// The route does not take it.
    Passed,
}

impl Default for Expect {
    fn default() -> Self {
        Self::Data(Value::Null)
    }
}
