//! The examples that stand beside a route in the configuration, run.

use super::Routes;
use super::envelope::Native;
use super::expression::Meter;
use super::parse::parse;
use super::route::{Origin, Outcome, Part, Route};
use super::settings::{Expect, Form, Intake, TestSettings};
use super::value::Value;

/// When an example that says no time was sent: 2026-01-01T00:00:00Z.
const TRIAL_UNIX_NANOS: i64 = 1_767_225_600_000_000_000;
/// Who sent an example that says nobody.
const TRIAL_PUBLISHER: &str = "test";
/// Most differences of one example that are told.
const DIFFERENCES_MAX: usize = 20;

/// How an example went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The route.
    pub route: String,
    /// The example.
    pub test: String,
    /// The example's key in the file, such as `routes.0.tests.1`.
    pub key: String,
    /// What differs from what is expected; nothing if it is as expected.
    pub differences: Vec<String>,
}

/// Runs every example of every route.
#[must_use]
pub fn run(routes: &Routes) -> Vec<Trial> {
    let mut trials = Vec::new();
    for route in routes.routes() {
        let settings = route.settings();
        for (index, test) in settings.tests.iter().enumerate() {
            trials.push(Trial {
                route: settings.name.clone(),
                test: test.name.clone(),
                key: format!("{}.tests.{index}", settings.key),
                differences: try_one(routes, route, test),
            });
        }
    }
    trials
}

fn try_one(routes: &Routes, route: &Route, test: &TestSettings) -> Vec<String> {
    let settings = route.settings();
    let mut payload = Vec::new();
    test.input.write(&mut payload);
    let intake = settings.from.first();
    let topic = match (&test.topic, intake) {
        (Some(topic), _) => topic.clone(),
        (None, Some(Intake::Filter(filter))) => a_topic_of(filter),
        (None, Some(Intake::Queue(name) | Intake::Service(name))) => name.clone(),
        (None, None) => String::new(),
    };
    let origin = match (&test.topic, intake) {
        (None, Some(Intake::Queue(_))) => Origin::Queue(&topic),
        (None, Some(Intake::Service(_))) => Origin::Service(&topic),
        _ => Origin::Topic(&topic),
    };
    let message_type =
        test.message_type.clone().or_else(|| settings.message_types.first().cloned()).unwrap_or_default();
    let source = test.source.clone().or_else(|| own_source(settings.input, &test.input));
    let publisher = source.unwrap_or_else(|| TRIAL_PUBLISHER.to_owned());
    let priority = test.priority.map(|priority| priority.to_string());
    let native = Native {
        topic: &topic,
        message_type: &message_type,
        unix_nanos: TRIAL_UNIX_NANOS,
        publisher: &publisher,
        priority: priority.as_deref().map(str::as_bytes),
        version: None,
        payload: &payload,
    };
    if test.of_reply {
        return try_reply(routes, route, test, &native);
    }
    if let Some(why) = route.declines(origin, &message_type) {
        return match test.expect {
            Expect::Passed => Vec::new(),
            _ => vec![format!("the route does not look at it: {why}")],
        };
    }
    let outcome = routes.treat(route, &native, &mut Meter::new(routes.limits()));
    compare(&test.expect, &outcome, &test.input, settings.split.is_some())
}

/// What who asked would get, and how it differs.
fn try_reply(routes: &Routes, route: &Route, test: &TestSettings, reply: &Native<'_>) -> Vec<String> {
    if !route.transforms_replies() {
        return vec!["the route has no `reply`: replies pass as they are".to_owned()];
    }
    match (routes.treat_reply(route, reply), &test.expect) {
        (Ok(payload), Expect::Data(expected)) => match parse(&payload, routes.limits()) {
            Ok(was) => {
                let mut differences = Vec::new();
                differ("", expected, &was, &mut differences);
                differences
            }
            Err(error) => vec![format!("what is made of it is not JSON: {error}")],
        },
        (Err(reason), Expect::Invalid(part)) if reason.contains(part.as_str()) => Vec::new(),
        (Err(reason), Expect::Invalid(part)) => {
            vec![format!("it is invalid for another reason: {reason}; expected {part:?} in it")]
        }
        (Err(reason), _) => vec![reason],
        (Ok(_), _) => vec!["it is valid; expected that it is not".to_owned()],
    }
}

/// The source that an example's own envelope names.
fn own_source(form: Form, input: &Value<'_>) -> Option<String> {
    let envelope = input.as_object().filter(|_| form == Form::Envelope)?;
    envelope.get("source")?.as_text().map(str::to_owned)
}

/// A topic that a filter matches.
fn a_topic_of(filter: &str) -> String {
    filter
        .split('.')
        .map(|token| if matches!(token, "*" | ">") { "test" } else { token })
        .collect::<Vec<_>>()
        .join(".")
}

fn compare(expect: &Expect, outcome: &Outcome<'_>, input: &Value<'_>, splits: bool) -> Vec<String> {
    let was = told(outcome);
    match (expect, outcome) {
        (Expect::Passed, Outcome::Passed(_)) | (Expect::Dropped, Outcome::Dropped(_)) => Vec::new(),
        (Expect::Invalid(part), Outcome::Invalid(reason)) if reason.contains(part.as_str()) => Vec::new(),
        (Expect::Invalid(part), Outcome::Invalid(reason)) => {
            vec![format!("it is invalid for another reason: {reason}; expected {part:?} in it")]
        }
        (Expect::Data(expected), Outcome::Made(parts)) => {
            let mut differences = Vec::new();
            match (parts.as_slice(), expected) {
                ([(part, _)], expected) if !splits => part_differs("", expected, part, &mut differences),
                (parts, Value::Array(expected)) if splits => {
                    if parts.len() != expected.len() {
                        differences.push(format!("{} messages, not {}", parts.len(), expected.len()));
                    }
                    for (index, ((part, _), expected)) in parts.iter().zip(expected).enumerate() {
                        part_differs(&format!("[{index}]"), expected, part, &mut differences);
                    }
                }
                _ => differences
                    .push("a route that splits needs an array of what each part becomes".to_owned()),
            }
            differences
        }
        (Expect::Data(expected), Outcome::Forwarded(_)) => {
            let mut differences = Vec::new();
            differ("", expected, input, &mut differences);
            differences
        }
        (Expect::Data(_), _) => vec![was],
        (Expect::Passed, _) => vec![format!("{was}; expected that it is not taken")],
        (Expect::Dropped, _) => vec![format!("{was}; expected that it is dropped")],
        (Expect::Invalid(part), _) => vec![format!("{was}; expected that it is invalid: {part}")],
    }
}

/// An outcome in a sentence.
#[must_use]
pub fn told(outcome: &Outcome<'_>) -> String {
    use super::route::Passed;
    match outcome {
        Outcome::Passed(Passed::False) => "it is not taken: when is false".to_owned(),
        Outcome::Passed(Passed::Missing(field)) => {
            format!("it is not taken: when is false, since {field} is missing")
        }
        Outcome::Passed(Passed::Trouble(trouble)) => {
            format!("it is not taken: when cannot be computed: {trouble}")
        }
        Outcome::Dropped(reason) => format!("it is dropped: {reason}"),
        Outcome::Forwarded(_) => "it is sent on as it came".to_owned(),
        Outcome::Invalid(reason) => format!("it is invalid: {reason}"),
        Outcome::Made(parts) if parts.len() == 1 => "it is transformed".to_owned(),
        Outcome::Made(parts) => format!("it becomes {} messages", parts.len()),
    }
}

fn part_differs(at: &str, expected: &Value<'_>, part: &Part<'_>, differences: &mut Vec<String>) {
    match part {
        Part::Invalid { reason, .. } => differences.push(format!("{at} is invalid: {reason}")),
        Part::Bare(data) => differ(at, expected, data, differences),
        Part::Enveloped(output) => differ(at, expected, &output.data, differences),
    }
}

/// What differs, place by place.
fn differ(at: &str, expected: &Value<'_>, was: &Value<'_>, differences: &mut Vec<String>) {
    if differences.len() >= DIFFERENCES_MAX {
        return;
    }
    let place = if at.is_empty() { "the whole" } else { at };
    match (expected, was) {
        (Value::Object(expected), Value::Object(was)) => {
            for (key, expected) in expected.iter() {
                let at = if at.is_empty() { key.to_string() } else { format!("{at}.{key}") };
                match was.get(key) {
                    Some(was) => differ(&at, expected, was, differences),
                    None => differences.push(format!("{at} is missing; expected {}", expected.excerpt(80))),
                }
            }
            for (key, was) in was.iter().filter(|(key, _)| expected.get(key).is_none()) {
                let at = if at.is_empty() { key.to_string() } else { format!("{at}.{key}") };
                differences.push(format!("{at} is {}, and not expected", was.excerpt(80)));
            }
        }
        (Value::Array(expected), Value::Array(was)) if expected.len() == was.len() => {
            for (index, (expected, was)) in expected.iter().zip(was).enumerate() {
                differ(&format!("{at}[{index}]"), expected, was, differences);
            }
        }
        (expected, was) if expected == was => {}
        (expected, was) => {
            differences.push(format!("{place} is {}; expected {}", was.excerpt(80), expected.excerpt(80)));
        }
    }
}
