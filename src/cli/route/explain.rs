//! `tramline route explain`: which routes take a message, why others do not, what becomes of it, and where it goes.

use super::super::Failure;
use super::super::configuration::ConfigFlag;
use super::super::input::content;
use super::super::output::Output;
use crate::config::ENV_CONFIG;
use crate::routes::Routes;
use crate::routes::envelope::Native;
use crate::routes::expression::Meter;
use crate::routes::route::{Origin, Outcome, Part, Route};
use crate::routes::settings::{Deliver, Destination, RetryBudget};
use crate::routes::trial::told;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Say which routes take a message, why others do not, what becomes of it and where it goes
///
/// FILE may be left out if `--config` or `TRAMLINE_CONFIG` names the configuration: what follows it moves forward then.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "tramline route explain [OPTIONS] [FILE] <TOPIC> [MESSAGE]",
    after_help = "Examples:\n  \
        tramline route explain tramline.yaml sensors.gps.fix '{\"mode\":3}'\n  \
        tramline route explain --config tramline.yaml sensors.gps.fix '{\"mode\":3}'"
)]
pub(super) struct Explain {
    /// The configuration
    #[arg(value_name = "FILE")]
    first: Option<PathBuf>,
    /// The topic it is published on, queue:NAME, or service:NAME
    #[arg(value_name = "TOPIC")]
    second: Option<String>,
    /// The message; - is standard input. Without one, only topic and type are looked at
    #[arg(value_name = "MESSAGE")]
    third: Option<String>,
    #[command(flatten)]
    flag: ConfigFlag,
    /// The message's type
    #[arg(long = "type", value_name = "TYPE", default_value = "")]
    message_type: String,
    /// Who sent it
    #[arg(long, value_name = "NAME", default_value = "explain")]
    source: String,
    /// Its priority
    #[arg(long, value_name = "0-9")]
    priority: Option<i64>,
}

/// What the words of the command line are.
struct Words {
    file: Option<PathBuf>,
    topic: String,
    message: Option<String>,
}

/// Where a message comes from, and the name in that.
fn origin(topic: &str) -> (Origin<'_>, &str) {
    match topic.split_once(':') {
        Some(("queue", queue)) => (Origin::Queue(queue), queue),
        Some(("service", service)) => (Origin::Service(service), service),
        _ => (Origin::Topic(topic), topic),
    }
}

/// Whether two words are FILE and TOPIC, where they could be TOPIC and MESSAGE. No topic has a slash, but a file may be called as
/// one; and then it counts whether it is there.
fn are_file_and_topic(first: &Path, second: &str) -> bool {
    let is_path = first.as_os_str().as_encoded_bytes().contains(&b'/') || first.is_file();
    is_path && tramline_wire::Topic::parse(origin(second).1).is_ok()
}

impl Explain {
    /// What stands where: without FILE all else stands one place further forward.
    fn words(&self) -> Result<Words, Failure> {
        let Self { first, second, third, flag, .. } = self;
        let Some(first) = first else {
            return Err(Failure::usage("TOPIC is missing: where does the message come from?"));
        };
        match second {
            Some(topic) if third.is_some() || !flag.is_named() || are_file_and_topic(first, topic) => {
                Ok(Words { file: Some(first.clone()), topic: topic.clone(), message: third.clone() })
            }
            None if !flag.is_named() => Err(Failure::usage(format!(
                "FILE or TOPIC is missing: there is only {first:?}. FILE may be left out with --config, or if {ENV_CONFIG} \
                 names the configuration"
            ))),
            message => Ok(Words {
                file: None,
                topic: first.to_string_lossy().into_owned(),
                message: message.clone(),
            }),
        }
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let Words { file, topic, message } = self.words()?;
        let routes = super::read(&self.flag.or(file)?)?;
        let (origin, name) = origin(&topic);
        if let Err(error) = tramline_wire::Topic::parse(name) {
            return Err(Failure::usage(format!("{name:?} is no topic: {error}")));
        }
        let payload = match message.as_deref() {
            Some("-") => Some(content(Path::new("-"))?),
            Some(message) => Some(message.as_bytes().to_vec()),
            None => None,
        };
        let priority = self.priority.map(|priority| priority.to_string());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let native = Native {
            topic: name,
            message_type: &self.message_type,
            unix_nanos: i64::try_from(now).unwrap_or(i64::MAX),
            publisher: &self.source,
            priority: priority.as_deref().map(str::as_bytes),
            version: None,
            payload: payload.as_deref().unwrap_or_default(),
        };
        let mut output = Output::new();
        explain(&mut output, &routes, origin, &native, payload.is_some())?;
        output.flush()
    }
}

fn explain(
    output: &mut Output,
    routes: &Routes,
    origin: Origin<'_>,
    native: &Native<'_>,
    has_message: bool,
) -> Result<(), Failure> {
    let mut meter = Meter::new(routes.limits());
    let mut stopped_by = None;
    let mut taken = 0;
    for route in routes.routes() {
        let name = &route.settings().name;
        if let Some(why) = route.declines(origin, native.message_type) {
            output.line(format_args!("no   {name}: {why}"))?;
            continue;
        }
        if let Some(by) = stopped_by {
            output
                .line(format_args!("no   {name}: {by} has taken it, and lets no other go on (then: stop)"))?;
            continue;
        }
        if !has_message {
            let depends = route.settings().when.as_ref().map_or(String::new(), |when| format!(", if {when}"));
            output.line(format_args!("yes  {name}: it looks at such a message{depends}"))?;
            destinations(output, route)?;
            taken += 1;
            continue;
        }
        let began = Instant::now();
        let outcome = routes.treat(route, native, &mut meter);
        if let Outcome::Passed(_) = outcome {
            let when = route.settings().when.as_deref().unwrap_or_default();
            output.line(format_args!("no   {name}: {} ({when})", told(&outcome)))?;
            continue;
        }
        taken += 1;
        output.line(format_args!("yes  {name}: {}", told(&outcome)))?;
        show(output, route, &outcome, native, began)?;
        if !route.settings().goes_on {
            stopped_by = Some(name);
        }
    }
    if taken == 0 {
        output.line("no route takes it")?;
    }
    Ok(())
}

fn show(
    output: &mut Output,
    route: &Route,
    outcome: &Outcome<'_>,
    native: &Native<'_>,
    began: Instant,
) -> Result<(), Failure> {
    let settings = route.settings();
    if let Some(tap) = &settings.tap {
        output.line(format_args!("     as it came, to {tap}"))?;
    }
    let line = |output: &mut Output, bytes: &[u8]| {
        output.line(format_args!("     {}", String::from_utf8_lossy(bytes)))
    };
    let invalid = |output: &mut Output, reason: &str| {
        let mut bytes = Vec::new();
        route.write_invalid(native, reason, &mut bytes);
        match &settings.invalid {
            Some(channel) => output.line(format_args!("     to {channel}:"))?,
            None => output.line("     it goes nowhere: the route has no `invalid`")?,
        }
        line(output, &bytes)
    };
    match outcome {
        Outcome::Passed(_) | Outcome::Dropped(_) => Ok(()),
        Outcome::Invalid(reason) => invalid(output, reason),
        Outcome::Forwarded(_) => {
            line(output, native.payload)?;
            destinations(output, route)
        }
        Outcome::Made(parts) => {
            let first = settings.deliver.to.first().map(ToString::to_string).unwrap_or_default();
            for (part, _) in parts {
                if let Part::Invalid { reason, .. } = part {
                    invalid(output, reason)?;
                    continue;
                }
                let mut bytes = Vec::new();
                part.write(&first, began.elapsed(), &mut bytes);
                line(output, &bytes)?;
            }
            destinations(output, route)
        }
    }
}

fn destinations(output: &mut Output, route: &Route) -> Result<(), Failure> {
    let deliver = &route.settings().deliver;
    let Deliver { strategy, to, timeout, retries, backoff_initial, backoff_max, dead_letter, .. } = deliver;
    if to.is_empty() {
        return output.line("     it goes nowhere: the route has no `deliver.to`");
    }
    let named = |(place, to): (usize, &Destination)| match deliver.weight(place) {
        1 => to.to_string(),
        weight => format!("{to} with weight {weight}"),
    };
    let to: Vec<String> = to.iter().enumerate().map(named).collect();
    output.line(format_args!("     to {} ({})", to.join(", "), strategy.name()))?;
    if let Some(reply) = &route.settings().reply {
        let rules = reply.rules.len();
        output.line(format_args!(
            "     who asks gets what `reply` makes of a service's reply; rules: {rules}"
        ))?;
    }
    if deliver.ordered {
        let key = deliver.order_key.as_ref().map_or_else(String::new, |key| format!(" and the same {key}"));
        output.line(format_args!("     one after the other of what comes from one source{key}"))?;
    }
    if let Some(RetryBudget { percent, min }) = deliver.retry_budget {
        output.line(format_args!(
            "     of the deliveries under way {percent} % may be retried at a time, {min} in any case"
        ))?;
    }
    let in_all = deliver.deadline.map_or_else(String::new, |deadline| format!(", {deadline:?} in all"));
    output.line(format_args!(
        "     each try {timeout:?}, {retries} more, after {backoff_initial:?} to {backoff_max:?}{in_all}; then {}",
        dead_letter.as_ref().map_or_else(|| "it is lost, and counted".to_owned(), ToString::to_string)
    ))
}
