//! What routes do, shown live to whoever subscribes to `$tap.…`: a message before, what became of it, and what its
//! destinations get; and of a reply on its way back what was answered, and what who asked gets.
//!
//! Nothing is looked at, counted or phrased unless somebody does. What is shown in one second is bounded for each route; what
//! was left out is counted, and told with the next that is shown.

use super::task::Made;
use crate::core::Now;
use crate::core::broker::Core;
use crate::core::delivery::own_message;
use crate::core::quota::{Checked, Refused};
use crate::core::session::Identity;
use crate::core::table::Key;
use crate::routes::route::Passed;
use crate::routes::settings::TAP_ROOT;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use tramline_wire::codec::{decode_message, encode_message};
use tramline_wire::{Code, HeaderBlock, Message};

/// Most messages of one route that are shown in a second.
pub const TAPPED_PER_SECOND_MAX: u32 = 1000;

/// Longest name of a route in a topic, in bytes.
const TOKEN_BYTES_MAX: usize = 200;

/// The topic on which a route's messages are shown. Whatever no topic can have in it is an underscore there.
#[must_use]
pub fn tap_topic(route: &str) -> String {
    let known = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let token: String = route.chars().map(|letter| if known(letter) { letter } else { '_' }).collect();
    format!("{TAP_ROOT}.{}", &token[..token.len().min(TOKEN_BYTES_MAX)])
}

/// How much of a route was shown in this second.
#[derive(Debug, Default)]
pub(super) struct Pace {
    second: u64,
    shown: u32,
    left_out: u64,
}

impl Pace {
    /// Whether one more may be shown; how many were left out before it.
    fn take(&mut self, now: Now) -> Option<u64> {
        let second = now.monotonic / 1_000_000_000;
        if second != self.second {
            *self = Self { second, shown: 0, left_out: self.left_out };
        }
        if self.shown >= TAPPED_PER_SECOND_MAX {
            self.left_out += 1;
            return None;
        }
        self.shown += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// A message before and after a route, or a reply on its way back.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    route: &'a str,
    topic: &'a str,
    r#type: &'a str,
    from: &'a str,
    /// Which of the route's destinations has answered. It is there if this is a reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    before: Payload<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    after: Vec<Payload<'a>>,
    #[serde(skip_serializing_if = "is_none")]
    left_out: u64,
}

fn is_none(number: &u64) -> bool {
    *number == 0
}

/// A reply of which somebody sees what becomes of it: what was answered, and by whom.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) from: Arc<Identity>,
    /// The service that was asked.
    pub(super) topic: Arc<str>,
    pub(super) destination: Arc<str>,
    pub(super) bytes: Arc<[u8]>,
}

/// JSON as it stands, or else a text.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Json(&'a RawValue),
    Text(Cow<'a, str>),
}

impl<'a> Payload<'a> {
    fn of(bytes: &'a [u8], bytes_max: usize) -> Self {
        if bytes.len() > bytes_max {
            return Self::Text(format!("({} bytes)", bytes.len()).into());
        }
        serde_json::from_slice(bytes).map_or_else(|_| Self::Text(String::from_utf8_lossy(bytes)), Self::Json)
    }
}

/// Whether a filter selects what is shown here. No other does: a wildcard stands for no name with `$`.
pub(in crate::core) fn is_tap(filter: &str) -> bool {
    filter.split('.').next() == Some(TAP_ROOT)
}

impl Core {
    /// Whether a session may subscribe to what is shown.
    pub(in crate::core) fn may_tap(&self, session: Key) -> Checked<()> {
        let Some(session) = self.sessions.get(session) else { return Ok(()) };
        // Also not a queue that is bound to it: others might consume from that.
        if session.id != 0 && self.access.may_tap(&session.peer) {
            return Ok(());
        }
        let message = format!(
            "{} may not see what routes do: only the broker's own user and root may, and whoever allow.tap names",
            session.identity
        );
        Err(Refused::new(Code::Denied, message))
    }

    /// Shows what a route made of a message, if somebody looks.
    pub(super) fn show_tapped(
        &mut self,
        route: Key,
        (from, topic): (&Identity, &str),
        message: Message<'_>,
        made: &Made,
        now: Now,
    ) {
        let Some(key) = self.looked_at(route) else { return };
        let Some(state) = self.routing.table.get(route) else { return };
        // Who it is for in particular is not decided yet.
        let to = state.destinations.first().map_or_else(Arc::default, |place| place.name.clone());
        let Some(account) = self.account_of(route) else { return };
        let name = account.name.clone();
        let Some(left_out) = account.tapped.take(now) else { return };
        let bytes_max = self.limits.json_payload_bytes_max as usize;
        let payloads;
        let show = |bytes| Payload::of(bytes, bytes_max);
        let (outcome, reason, after) = match made {
            Made::Passed(Passed::False) => ("passed", None, Vec::new()),
            Made::Passed(Passed::Missing(field)) => ("passed", Some(field.as_str()), Vec::new()),
            Made::Passed(Passed::Trouble(trouble)) => ("passed", Some(trouble.as_str()), Vec::new()),
            Made::Dropped => ("dropped", None, Vec::new()),
            Made::AsItCame(_) => ("forwarded", None, Vec::new()),
            Made::Invalid(reason, _) => ("invalid", Some(reason.as_str()), Vec::new()),
            Made::Parts(parts) => {
                payloads = parts.iter().flatten().map(|body| body.payload_for(&to)).collect::<Vec<_>>();
                let refused = parts.iter().find_map(|part| part.as_ref().err());
                let reason = refused.map(|(reason, _)| reason.as_str());
                ("transformed", reason, payloads.iter().map(|payload| show(payload)).collect())
            }
        };
        let head = HeaderBlock::parse(message.head).unwrap_or_default();
        let shown = Shown {
            route: &name,
            topic,
            r#type: head.message_type().unwrap_or_default(),
            from: &from.name,
            destination: None,
            outcome,
            reason,
            before: show(message.payload),
            after,
            left_out,
        };
        self.publish_shown(key, &shown, now);
    }

    /// Shows a reply on its way back to who asked, and what they get: what the route's rules have made of it, if they
    /// have, or why it is not valid.
    pub(super) fn show_reply(
        &mut self,
        route: Key,
        watched: &Watched,
        made: Result<Option<&[u8]>, &str>,
        now: Now,
    ) {
        // They may have turned away since it was answered.
        let Some(key) = self.looked_at(route) else { return };
        let Some(account) = self.account_of(route) else { return };
        let name = account.name.clone();
        let Some(left_out) = account.tapped.take(now) else { return };
        let Ok(reply) = decode_message(&watched.bytes) else { return };
        let bytes_max = self.limits.json_payload_bytes_max as usize;
        let show = |bytes| Payload::of(bytes, bytes_max);
        let (outcome, reason, after) = match made {
            Ok(made) => {
                let made = made.and_then(|bytes| decode_message(bytes).ok());
                ("replied", None, made.map(|made| show(made.payload)).into_iter().collect())
            }
            Err(reason) => ("invalid", Some(reason), Vec::new()),
        };
        let head = HeaderBlock::parse(reply.head).unwrap_or_default();
        let shown = Shown {
            route: &name,
            topic: &watched.topic,
            r#type: head.message_type().unwrap_or_default(),
            from: &watched.from.name,
            destination: Some(&watched.destination),
            outcome,
            reason,
            before: show(reply.payload),
            after,
            left_out,
        };
        self.publish_shown(key, &shown, now);
    }

    /// The topic on which a route is shown, if somebody looks.
    pub(super) fn looked_at(&mut self, route: Key) -> Option<Key> {
        if self.taps == 0 {
            return None;
        }
        let key = self.routing.table.get(route)?.shown_on?;
        let matches = self.topics.take_matches(key);
        let nobody = matches.is_empty();
        self.topics.give_back(key, matches);
        if nobody { None } else { Some(key) }
    }

    fn publish_shown(&mut self, key: Key, shown: &Shown<'_>, now: Now) {
        let Ok(text) = serde_json::to_string(shown) else { return };
        let number = self.numbers.entry(key).or_insert(0);
        *number += 1;
        let message = own_message(*number, now.monotonic, &text);
        let mut bytes = Vec::new();
        encode_message(&mut bytes, &message);
        let own = self.identity.clone();
        self.route(&own, key, &bytes, message, false, now);
    }
}
