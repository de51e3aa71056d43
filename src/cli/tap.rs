//! `tramline tap`: a live look at messages, before and after a route, at replies on their way back through it, or at
//! messages as they are published.
//!
//! It watches and is never waited for: what it misses is counted and shown where it was missed.

use super::Failure;
use super::clock::seconds;
use super::connect::Socket;
use super::output::Output;
use super::scene::wait_readable;
use crate::routes::limits::Limits;
use crate::routes::parse::parse;
use crate::routes::path::Path as FieldPath;
use crate::routes::value::Value;
use rustix::event::{PollFd, PollFlags};
use serde_json::json;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tramline_client::{Message, Subscription};

/// How long a wait without a given end lasts at a time.
const WAIT: Duration = Duration::from_secs(3600);
/// What stands in the place of what is not to be seen.
const REDACTED: &str = "***";
/// Where the data may be in what a message was or became.
const ROOTS: [&str; 4] = ["data", "transformedData", "original", "original.data"];

/// Show messages before and after a route, or as they are published
///
/// Of a route it shows what came in, what became of it, and what its destinations get; and of each reply that goes back through
/// it who answered, what that was, and what who asked gets. That is for the broker's own user and root, and whoever `allow.tap`
/// names. Of a filter it shows what is published, as any subscriber sees it. On a terminal it writes for people, in a pipe one
/// JSON object a line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    tramline tap route:fixes\n  \
    tramline tap route:fixes --sample 100 --redact position\n  \
    tramline tap 'sensors.gps.*' -C 10 --redact lat --redact lon")]
pub(super) struct Tap {
    #[command(flatten)]
    socket: Socket,
    /// What to look at: a filter of topics, or route:NAME
    #[arg(value_name = "FILTER|route:NAME")]
    what: String,
    /// Show one of so many messages, and one of so many replies
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Do not show what is at this path of the data, such as position.latitude; may be given again
    #[arg(long, value_name = "PATH")]
    redact: Vec<String>,
    /// End after so many messages and replies
    #[arg(short = 'C', long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds, with exit code 124
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = seconds)]
    wait: Option<Duration>,
    /// Print JSON on a terminal as well
    #[arg(long)]
    json: bool,
}

impl Tap {
    pub(super) fn run(self) -> Result<(), Failure> {
        let redact = self.redact.iter().map(|path| FieldPath::parse(path, &Limits::default()));
        let redact = redact
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Failure::usage(format!("--redact {error}")))?;
        let route = self.what.strip_prefix("route:");
        let filter = route.map_or_else(|| self.what.clone(), crate::core::tap_topic);
        let client = self.socket.connect("tramline tap")?;
        let subscription = client.subscription(&filter).lossy().open()?;
        let mut eye = Eye {
            route: route.map(str::to_owned),
            redact,
            sample: self.sample,
            messages: 0,
            replies: 0,
            left: self.count,
            json: self.json || !std::io::stdout().is_terminal(),
            output: Output::new(),
        };
        let deadline = self.wait.map(|wait| Instant::now() + wait);
        eye.watch(subscription, deadline, self.wait.unwrap_or_default())
    }
}

/// What looks at messages.
struct Eye {
    route: Option<String>,
    redact: Vec<FieldPath>,
    sample: u64,
    /// What was seen so far. Counted apart: with requests and replies in turns, one of two would be no reply at all.
    messages: u64,
    replies: u64,
    /// Lines still to be shown; none: without end.
    left: Option<u64>,
    json: bool,
    output: Output,
}

impl Eye {
    fn watch(
        &mut self,
        mut subscription: Subscription,
        deadline: Option<Instant>,
        wait: Duration,
    ) -> Result<(), Failure> {
        while self.left != Some(0) {
            if let Some(message) = subscription.try_recv()? {
                self.message(&message)?;
                continue;
            }
            self.output.flush()?;
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                let wait = wait.as_secs_f64();
                return Err(Failure::timed_out(format!("the {wait} seconds given by --wait are over")));
            }
            let mut fds = [PollFd::new(&subscription, PollFlags::IN)];
            wait_readable(&mut fds, deadline.unwrap_or(now + WAIT))
                .map_err(|error| Failure::system(format!("cannot wait for messages: {error}")))?;
        }
        self.output.flush()
    }

    fn message(&mut self, message: &Message) -> Result<(), Failure> {
        if message.lost_before() > 0 {
            self.missed(message.lost_before())?;
        }
        let event = match &self.route {
            Some(route) => {
                let event: serde_json::Value = serde_json::from_slice(message.payload())
                    .map_err(|error| Failure::software(format!("the broker's event is not JSON: {error}")))?;
                // Names that differ in other letters than those of topics share one.
                if event["route"] != route.as_str() {
                    return Ok(());
                }
                if let Some(missed) = event["left_out"].as_u64().filter(|missed| *missed > 0) {
                    self.missed(missed)?;
                }
                parse(message.payload(), &Limits::default()).map(Value::into_owned)
            }
            None => {
                let payload = message.payload();
                let before = match parse(payload, &Limits::default()) {
                    Ok(value) => value.into_owned(),
                    Err(_) => Value::text(String::from_utf8_lossy(payload).into_owned()),
                };
                let members = [
                    ("topic", Value::text(message.topic().to_owned())),
                    ("type", Value::text(message.message_type().unwrap_or_default().to_owned())),
                    ("from", Value::text(message.publisher().name.clone())),
                    ("before", before),
                ];
                Ok(Value::Object(members.into_iter().collect()))
            }
        };
        let mut event = event.map_err(|error| Failure::software(format!("the broker's event: {error}")))?;
        // Of a message it is not decided yet which destination gets it; a reply comes from one.
        let is_reply = self.route.is_some()
            && matches!(&event, Value::Object(members) if members.get("destination").is_some());
        let seen = if is_reply { &mut self.replies } else { &mut self.messages };
        *seen += 1;
        if !(*seen - 1).is_multiple_of(self.sample) {
            return Ok(());
        }
        self.hide(&mut event);
        self.left = self.left.map(|left| left - 1);
        self.show(&event)
    }

    fn missed(&mut self, missed: u64) -> Result<(), Failure> {
        if self.json {
            self.output.line(json!({"missed": missed}))
        } else {
            self.output.line(format_args!("({missed} were not shown)"))
        }
    }

    /// Takes out of an event what is not to be seen.
    fn hide(&self, event: &mut Value<'static>) {
        if self.redact.is_empty() {
            return;
        }
        let Value::Object(members) = event else { return };
        if let Some(before) = members.get_mut("before") {
            self.hide_in(before);
        }
        if let Some(Value::Array(after)) = members.get_mut("after") {
            after.iter_mut().for_each(|part| self.hide_in(part));
        }
        // A reason quotes the value that it is about.
        if let Some(reason) = members.get_mut("reason") {
            *reason = Value::text(REDACTED);
        }
    }

    fn hide_in(&self, root: &mut Value<'static>) {
        // What cannot be looked into may hold anything.
        if let Value::Text(_) = root {
            *root = Value::text(REDACTED);
            return;
        }
        for path in &self.redact {
            hide_at(path, root);
            for below in ROOTS {
                let below = FieldPath::parse(below, &Limits::default()).expect("a constant path");
                if let Some(inner) = below.get_mut(root) {
                    hide_at(path, inner);
                }
            }
        }
    }

    fn show(&mut self, event: &Value<'_>) -> Result<(), Failure> {
        if self.json {
            return self.output.line(event);
        }
        let Value::Object(members) = event else { return Ok(()) };
        let word = |key: &str| members.get(key).and_then(Value::as_text).unwrap_or_default();
        let head = ["route", "topic", "type", "from", "destination", "outcome", "reason"].map(word);
        let head: Vec<&str> = head.into_iter().filter(|word| !word.is_empty()).collect();
        self.output.line(head.join("  "))?;
        if let Some(before) = members.get("before") {
            self.output.line(format_args!("  - {before}"))?;
        }
        if let Some(Value::Array(after)) = members.get("after") {
            for part in after {
                self.output.line(format_args!("  + {part}"))?;
            }
        }
        self.output.flush()
    }
}

fn hide_at(path: &FieldPath, root: &mut Value<'static>) {
    if path.stars() > 0 {
        path.remove(root);
    } else if let Some(value) = path.get_mut(root) {
        *value = Value::text(REDACTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eye(redact: &[&str]) -> Eye {
        Eye {
            route: None,
            redact: redact.iter().map(|path| FieldPath::parse(path, &Limits::default()).unwrap()).collect(),
            sample: 1,
            messages: 0,
            replies: 0,
            left: None,
            json: true,
            output: Output::new(),
        }
    }

    #[test]
    fn what_is_redacted_is_seen_nowhere() {
        let text = r#"{"reason":"rule 1 (pin) with the value 4711","before":{"pin":4711,"data":{"pin":4711,"x":1}},"after":[{"transformedData":{"pin":4711,"list":[{"pin":4711}]}},"4711"]}"#;
        let mut event = parse(text.as_bytes(), &Limits::default()).unwrap().into_owned();
        eye(&["pin", "list.*.pin"]).hide(&mut event);
        let shown = event.to_string();
        assert!(!shown.contains("4711") && shown.contains(r#""x":1"#) && shown.contains("***"), "{shown}");
        let mut event = parse(text.as_bytes(), &Limits::default()).unwrap().into_owned();
        eye(&[]).hide(&mut event);
        assert_eq!(event.to_string(), text);
    }
}
