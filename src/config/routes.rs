//! The raw shape of routes to their settings: what they inherit, ranges, and rules between keys.
//!
//! `routing:` and `transformation:` are what each entry of `routes:` inherits key by key. Where there are no
//! entries, they are one route by themselves, called as `pattern.name` says.

use super::check::{Checked, breach, set};
use super::raw::{
    RawBackoff, RawConfig, RawDeliver, RawReply, RawRoute, RawRouting, RawRule, RawTest, RawTransform,
};
use super::words::{DestinationText, OneOrMany, Span};
use crate::routes::limits::Limits;
use crate::routes::rules::RuleSettings;
use crate::routes::settings::{
    Deliver, Destination, Expect, Form, Intake, Monitoring, ReplySettings, RetryBudget, RouteSettings,
    Security, Settings, Strategy, TestSettings,
};
use crate::routes::value::Value;
use std::time::Duration;

/// The most `concurrency`.
const CONCURRENCY_MAX: u64 = 1_000_000;
/// Largest weight of a destination.
const WEIGHT_MAX: u64 = 1000;

/// The most `retries`.
const RETRIES_MAX: u64 = 1000;

/// All about routes that a file says. Takes it out of `raw`.
pub(super) fn routes(raw: &mut RawConfig) -> Checked<Settings> {
    let pattern = raw.pattern.take();
    let routing = raw.routing.take();
    let transformation = raw.transformation.take();
    let listed = raw.routes.take().unwrap_or_default();
    let by_itself = listed.is_empty() && (pattern.is_some() || routing.is_some() || transformation.is_some());
    let pattern = pattern.unwrap_or_default();
    let name = pattern.name.map_or_else(String::new, |name| name.0);
    let version = pattern.version.map(|version| version.0);
    let inherited = Inherited {
        routing: routing.unwrap_or_default(),
        transformation: transformation.unwrap_or_default(),
        version: version.clone(),
    };
    let mut routes = Vec::with_capacity(listed.len() + 1);
    for (index, route) in listed.into_iter().enumerate() {
        routes.push(inherited.route(route, format!("routes.{index}"))?);
    }
    if by_itself {
        routes.push(inherited.alone(&name)?);
    }
    let tables = raw.tables.take().unwrap_or_default().into_iter();
    let monitoring = raw.monitoring.take().unwrap_or_default();
    if monitoring.metrics == Some(false) {
        return breach(
            "monitoring.metrics",
            "metrics are always served; there is nothing to switch off".to_owned(),
        );
    }
    let security = raw.security.take().unwrap_or_default();
    Ok(Settings {
        pattern: name,
        version,
        routes,
        // Told when queues have been looked at.
        bound: std::collections::BTreeMap::new(),
        tables: tables
            .map(|(name, table)| (name, table.into_iter().map(|(key, value)| (key.0, value)).collect()))
            .collect(),
        sources: raw.sources.take().unwrap_or_default(),
        limits: limits(raw)?,
        security: Security {
            authentication: security.authentication.map(|method| method.0),
            encryption: security.encryption.is_some_and(|encryption| encryption.0),
        },
        monitoring: Monitoring {
            metrics: monitoring.metrics,
            logging: monitoring.logging.map(|level| level.0),
            alerts: monitoring.alerts,
        },
    })
}

fn limits(raw: &mut RawConfig) -> Checked<Limits> {
    let mut limits = Limits::default();
    for (name, value) in raw.route_limits.take().unwrap_or_default() {
        let known = Limits::NAMES.iter().find(|(known, _)| *known == name);
        let (Some((_, most)), Some(slot)) = (known, limits.slot(&name)) else {
            let known: Vec<&str> = Limits::NAMES.iter().map(|(known, _)| *known).collect();
            let message = format!("there is no limit {name:?}, but {}", known.join(", "));
            return breach(format!("route_limits.{name}"), message);
        };
        let least = u64::from(name != "cache_size");
        set(slot, Some(value.0), least..=*most as u64, &format!("route_limits.{name}"))?;
    }
    Ok(limits)
}

/// What every route inherits.
struct Inherited {
    routing: RawRouting,
    transformation: RawTransform,
    version: Option<String>,
}

fn list<T, U: Clone>(given: Option<&OneOrMany<T>>, inner: impl Fn(&T) -> &U) -> Option<Vec<U>> {
    given.map(|given| given.0.iter().map(|one| inner(one).clone()).collect())
}

fn one(given: Option<&DestinationText>) -> Option<Destination> {
    given.map(|given| given.0.clone())
}

impl Inherited {
    /// The route that `routing` and `transformation` are without others.
    fn alone(&self, name: &str) -> Checked<RouteSettings> {
        let name = if name.is_empty() { "pattern" } else { name };
        let raw = RawRoute { name: Some(super::words::NameText(name.to_owned())), ..RawRoute::default() };
        let mut route = self.route(raw, String::new())?;
        if route.from.is_empty() {
            // A pattern by itself treats whatever there is.
            route.from = vec![Intake::Filter(">".to_owned())];
        }
        Ok(route)
    }

    fn route(&self, raw: RawRoute, key: String) -> Checked<RouteSettings> {
        let at = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        let Some(name) = raw.name else {
            return breach(
                key,
                "the key name is missing: by it metrics and messages mean this route".to_owned(),
            );
        };
        let from = list(raw.from.as_ref(), |from| &from.0)
            .or_else(|| list(self.routing.from.as_ref(), |from| &from.0));
        let from = from.unwrap_or_default();
        if from.is_empty() && !key.is_empty() {
            return breach(key, "the key from is missing: it says where messages come from".to_owned());
        }
        let transform = raw.transform.unwrap_or_default();
        let ours = transform.rules.is_some();
        let raw_rules = transform.rules.as_ref().or(self.transformation.rules.as_ref());
        let rules: Vec<RuleSettings> =
            raw_rules.map(|rules| rules.iter().map(rule).collect()).unwrap_or_default();
        let start = transform.start.or(self
            .transformation
            .start
            .as_ref()
            .map(|start| super::words::StartText(start.0)));
        let start = start.map(|start| start.0).unwrap_or_default();
        let enabled = transform.enabled.or(self.transformation.enabled);
        let transforms = enabled.unwrap_or(!rules.is_empty());
        if transforms && rules.is_empty() && start == Default::default() {
            let key = if key.is_empty() { "transformation".to_owned() } else { at("transform") };
            return breach(
                key,
                "it is enabled, but there are no rules, and it begins with nothing".to_owned(),
            );
        }
        let version = transform.version.as_ref().or(self.transformation.version.as_ref());
        let version = version.map(|version| version.0.clone()).or_else(|| self.version.clone());
        let deliver = self.deliver(&raw.deliver.unwrap_or_default(), &key)?;
        let reply = raw.reply.map(|raw| reply(&raw, (&from, &deliver.to), &at("reply"))).transpose()?;
        let mut tests = Vec::new();
        for (index, raw) in raw.tests.unwrap_or_default().into_iter().enumerate() {
            tests.push(test(raw, &at(&format!("tests.{index}")))?);
        }
        let types = list(raw.message_types.as_ref(), |kind| &kind.0).unwrap_or_default();
        Ok(RouteSettings {
            rules_key: if ours { at("transform.rules") } else { "transformation.rules".to_owned() },
            name: name.0,
            priority: raw.priority.unwrap_or(0),
            from,
            message_types: types,
            when: raw.when,
            validate: raw.validate,
            input: raw.input.map_or(Form::Payload, |form| form.0),
            transforms,
            version: version.unwrap_or_else(|| "1.0".to_owned()),
            start,
            rules,
            output: raw.output.map_or(Form::Envelope, |form| form.0),
            reply,
            split: raw.split,
            drop: raw.drop.map(|reason| reason.0),
            tap: one(raw.tap.as_ref()),
            goes_on: raw.then.is_some_and(|then| then.0),
            invalid: one(raw.invalid.as_ref().or(self.routing.invalid.as_ref())),
            deliver,
            tests,
            key,
        })
    }

    fn deliver(&self, raw: &RawDeliver, key: &str) -> Checked<Deliver> {
        let mut deliver = Deliver::default();
        let above = &self.routing;
        let at = |name: &str, own: bool| {
            if own && !key.is_empty() { format!("{key}.deliver.{name}") } else { format!("routing.{name}") }
        };
        if let Some(strategy) = raw.strategy.as_ref().or(above.strategy.as_ref()) {
            deliver.strategy = strategy.0;
        }
        let to = list(raw.to.as_ref(), |to| &to.0).or_else(|| list(above.to.as_ref(), |to| &to.0));
        deliver.to = to.unwrap_or_default();
        deliver.weights = weights(raw, &deliver, &at("weights", true))?;
        deliver.deadline =
            raw.deadline.map(|deadline| not_zero(deadline, &at("deadline", true))).transpose()?;
        if let Some(timeout) = raw.timeout.or(above.timeout) {
            deliver.timeout = not_zero(timeout, &at("timeout", raw.timeout.is_some()))?;
        }
        let retries = raw.retries.or(above.retries).map(|count| count.0);
        set(&mut deliver.retries, retries, 0..=RETRIES_MAX, &at("retries", raw.retries.is_some()))?;
        if let Some(given) = &raw.retry_budget {
            let mut budget = RetryBudget::default();
            let [percent, min] =
                [&given.percent, &given.min].map(|count| count.as_ref().map(|count| count.0));
            set(&mut budget.percent, percent, 0..=100, &at("retry_budget.percent", true))?;
            set(&mut budget.min, min, 0..=CONCURRENCY_MAX, &at("retry_budget.min", true))?;
            deliver.retry_budget = Some(budget);
        }
        let concurrency = raw.concurrency.map(|count| count.0);
        set(&mut deliver.concurrency, concurrency, 1..=CONCURRENCY_MAX, &at("concurrency", true))?;
        if raw.ordered == Some(false) && raw.order_key.is_some() {
            return breach(at("order_key", true), "there is no order: ordered is false".to_owned());
        }
        deliver.order_key = raw.order_key.clone();
        deliver.ordered = raw.ordered.unwrap_or(deliver.order_key.is_some());
        let pause = |take: fn(&RawBackoff) -> Option<Span>| {
            raw.backoff.as_ref().and_then(take).or_else(|| above.backoff.as_ref().and_then(take))
        };
        let said = (pause(|backoff| backoff.initial), pause(|backoff| backoff.max));
        let usual = (deliver.backoff_initial, deliver.backoff_max);
        (deliver.backoff_initial, deliver.backoff_max) =
            up_to_max(said, usual, "initial", &at("backoff", raw.backoff.is_some()))?;
        if let Some(eject) = &raw.eject {
            let failures = eject.failures.map(|count| count.0);
            set(&mut deliver.eject_failures, failures, 0..=u64::from(u32::MAX), &at("eject.failures", true))?;
            for (span, key) in [(eject.time, "eject.time"), (eject.max, "eject.max")] {
                span.map(|span| not_zero(span, &at(key, true))).transpose()?;
            }
            let usual = (deliver.eject_time, deliver.eject_time_max);
            (deliver.eject_time, deliver.eject_time_max) =
                up_to_max((eject.time, eject.max), usual, "time", &at("eject", true))?;
        }
        deliver.dead_letter = one(raw.dead_letter.as_ref().or(above.dead_letter.as_ref()));
        Ok(deliver)
    }
}

/// The weights of destinations, in their order.
fn weights(raw: &RawDeliver, deliver: &Deliver, key: &str) -> Checked<Vec<u32>> {
    let Some(given) = &raw.weights else { return Ok(Vec::new()) };
    if !matches!(deliver.strategy, Strategy::RoundRobin | Strategy::LoadBalance) {
        let message = format!("{} does not weigh: round_robin and load_balance do", deliver.strategy.name());
        return breach(key, message);
    }
    let mut weights = vec![1; deliver.to.len()];
    for (name, weight) in given {
        let Some(place) = deliver.to.iter().position(|to| to.to_string() == name.0) else {
            return breach(key, format!("{:?} is not in deliver.to", name.0));
        };
        set(&mut weights[place], Some(weight.0), 1..=WEIGHT_MAX, &format!("{key}.{}", name.0))?;
    }
    Ok(weights)
}

/// A span called `name` and the longest, `max`, as far as they are said. Who says one of the two only means the other to
/// fit.
fn up_to_max(
    (first, longest): (Option<Span>, Option<Span>),
    usual: (Duration, Duration),
    name: &str,
    key: &str,
) -> Checked<(Duration, Duration)> {
    let longest = longest.map(|span| span.0);
    let first = first.map_or(usual.0.min(longest.unwrap_or(Duration::MAX)), |span| span.0);
    let longest = longest.unwrap_or(usual.1.max(first));
    if longest < first { breach(key, format!("max is shorter than {name}")) } else { Ok((first, longest)) }
}

fn not_zero(span: Span, key: &str) -> Checked<Duration> {
    if span.0.is_zero() { breach(key, "must be more than nothing".to_owned()) } else { Ok(span.0) }
}

fn rule(raw: &RawRule) -> RuleSettings {
    RuleSettings {
        source: raw.source.clone(),
        target: raw.target.clone(),
        transform: raw.transform.clone(),
        literal: raw.literal.clone(),
        default: raw.default.clone(),
        required: raw.required.unwrap_or(false),
        on_error: raw.on_error.as_ref().map(|word| word.0).unwrap_or_default(),
        takes: raw.r#move.unwrap_or(false),
        drops: raw.drop.unwrap_or(false),
    }
}

fn reply(raw: &RawReply, (from, to): (&[Intake], &[Destination]), key: &str) -> Checked<ReplySettings> {
    if !to.iter().any(|to| matches!(to, Destination::Service(_))) {
        let message = "there would be none: services reply, and deliver.to has no service:NAME";
        return breach(key, message.to_owned());
    }
    if !from.iter().any(|from| matches!(from, Intake::Service(_))) {
        let message = "nobody would get it: replies are given to requests, and from has no service:NAME";
        return breach(key, message.to_owned());
    }
    let rules: Vec<RuleSettings> =
        raw.rules.as_ref().map(|rules| rules.iter().map(rule).collect()).unwrap_or_default();
    let start = raw.start.as_ref().map(|start| start.0).unwrap_or_default();
    if rules.is_empty() && start == Default::default() {
        return breach(key, "there are no rules, and it begins with nothing".to_owned());
    }
    Ok(ReplySettings { start, rules })
}

fn test(raw: RawTest, key: &str) -> Checked<TestSettings> {
    let Some(name) = raw.name else {
        return breach(key, "the key name is missing: it says what it shows".to_owned());
    };
    let mut expected = Vec::new();
    expected.extend(raw.expect.map(Expect::Data));
    expected.extend(raw.expect_invalid.map(Expect::Invalid));
    expected.extend(raw.expect_dropped.filter(|dropped| *dropped).map(|_| Expect::Dropped));
    expected.extend(raw.expect_passed.filter(|passed| *passed).map(|_| Expect::Passed));
    if expected.len() != 1 {
        let message =
            "expects one of expect, expect_invalid, expect_dropped: true and expect_passed: true".to_owned();
        return breach(key, message);
    }
    let of_reply = raw.reply.is_some();
    if of_reply && raw.input.is_some() {
        return breach(key, "is of a message, input, or of what a service says to it, reply".to_owned());
    }
    if of_reply && !matches!(expected[..], [Expect::Data(_) | Expect::Invalid(_)]) {
        return breach(key, "a reply is neither dropped nor passed: expect or expect_invalid".to_owned());
    }
    let topic = raw.topic.map(|topic| topic.0);
    if topic.as_deref().is_some_and(|topic| tramline_wire::Topic::parse(topic).is_err()) {
        return breach(format!("{key}.topic"), "is a filter; one topic is meant".to_owned());
    }
    let mut priority = 0_u8;
    set(&mut priority, raw.priority.map(|count| count.0), 0..=9, &format!("{key}.priority"))?;
    Ok(TestSettings {
        name: name.0,
        topic,
        message_type: raw.r#type.map(|kind| kind.0),
        source: raw.source.map(|source| source.0),
        priority: raw.priority.map(|_| priority),
        input: raw.input.or(raw.reply).unwrap_or(Value::Null),
        of_reply,
        expect: expected.pop().expect("there is one"),
    })
}
