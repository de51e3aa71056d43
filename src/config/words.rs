//! Values of routes as people write them: destinations, spans of time, words.

use super::scalar::{LEVELS, Scalar, scalar, word};
use crate::routes::rules::{OnError, Start};
use crate::routes::settings::{Destination, Form, Intake, Strategy};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// Longest name, version or reason, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// Longest span of time: a day.
const SPAN_MAX: Duration = Duration::from_secs(86_400);

/// A name, a version, a reason: text that is there and not long.
#[derive(Debug)]
pub(super) struct NameText(pub(super) String);

impl<'de> Deserialize<'de> for NameText {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        scalar(yaml, "a text", |value| {
            let text = match value {
                Scalar::Text(text) => text.to_owned(),
                Scalar::Number(number) => number.to_string(),
            };
            match text.len() {
                0 => Err("is empty".to_owned()),
                1..=NAME_BYTES_MAX => Ok(Self(text)),
                bytes => Err(format!("has {bytes} bytes; at most {NAME_BYTES_MAX} are allowed")),
            }
        })
    }
}

/// A key of a table: text, also where YAML sees a number.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TableKey(pub(super) String);

impl<'de> Deserialize<'de> for TableKey {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        scalar(yaml, "a text or a whole number", |value| match value {
            Scalar::Text(text) => Ok(Self(text.to_owned())),
            Scalar::Number(number) => Ok(Self(number.to_string())),
        })
    }
}

/// Where messages come from.
#[derive(Debug)]
pub(super) struct IntakeText(pub(super) Intake);

impl<'de> Deserialize<'de> for IntakeText {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        scalar(yaml, "a filter of topics, queue:NAME or service:NAME", |value| match value {
            Scalar::Text(text) => Intake::parse(text).map(Self),
            Scalar::Number(number) => Intake::parse(&number.to_string()).map(Self),
        })
    }
}

/// Where messages go.
#[derive(Debug)]
pub(super) struct DestinationText(pub(super) Destination);

impl<'de> Deserialize<'de> for DestinationText {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        const DESTINATION: &str = "topic:NAME, queue:NAME or service:NAME";
        scalar(yaml, DESTINATION, |value| match value {
            Scalar::Text(text) => Destination::parse(text).map(Self),
            Scalar::Number(number) => Err(format!("the number {number} is not {DESTINATION}")),
        })
    }
}

/// A list, or one that stands for itself.
#[derive(Debug)]
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of them")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<OneOrMany<T>, E> {
                T::deserialize(number.into_deserializer()).map(|one| OneOrMany(vec![one]))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                T::deserialize(text.into_deserializer()).map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrMany<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany)
            }
        }
        yaml.deserialize_any(Either(PhantomData))
    }
}

/// A span of time: a bare number is seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

/// The units of a span, and what they stand for in seconds.
const UNITS: [(&str, f64); 6] =
    [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)];

fn span(number: f64, unit: f64) -> Result<Span, String> {
    match Duration::try_from_secs_f64(number * unit) {
        Ok(duration) if duration <= SPAN_MAX => Ok(Span(duration)),
        _ => Err(format!("{} seconds are out of range: 0 to {}", number * unit, SPAN_MAX.as_secs())),
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        struct Spans;
        impl Visitor<'_> for Spans {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span of time such as 30 (seconds), 2s or 50ms")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Span, E> {
                span(number as f64, 1.0).map_err(E::custom)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Span, E> {
                span(number, 1.0).map_err(E::custom)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                let unit = UNITS.iter().find(|(name, _)| *name == &text[digits.len()..]);
                match (digits.trim().parse::<f64>(), unit) {
                    (Ok(number), Some((_, unit))) if number.is_finite() => {
                        span(number, *unit).map_err(E::custom)
                    }
                    _ => Err(E::custom(format!(
                        "{text:?} is no span of time such as 30 (seconds), 2s or 50ms (units: us, ms, s, m, h)"
                    ))),
                }
            }
        }
        yaml.deserialize_any(Spans)
    }
}

/// Declares types that are one of a few words.
macro_rules! words {
    ($($(#[$doc:meta])+ $name:ident($kind:ty): $allowed:literal, $find:expr;)+) => {
        $(
            $(#[$doc])+
            #[derive(Debug)]
            pub(super) struct $name(pub(super) $kind);

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
                    let find: fn(&str) -> Option<$kind> = $find;
                    word(yaml, $allowed, |text| find(text).map(Self))
                }
            }
        )+
    };
}

words! {
    /// Who of several destinations gets a message.
    RouteStrategyText(Strategy): "round_robin, failover, load_balance or broadcast", Strategy::named;
    /// What the bytes of a message are.
    FormText(Form): "payload or envelope", |text| match text {
        "payload" => Some(Form::Payload),
        "envelope" => Some(Form::Envelope),
        _ => None,
    };
    /// What a result begins as.
    StartText(Start): "empty or data", |text| match text {
        "empty" => Some(Start::Empty),
        "data" => Some(Start::Data),
        _ => None,
    };
    /// What happens when a rule cannot be carried out.
    OnErrorText(OnError): "fail, skip or default", |text| match text {
        "fail" => Some(OnError::Fail),
        "skip" => Some(OnError::Skip),
        "default" => Some(OnError::Default),
        _ => None,
    };
    /// Whether others look at a message that a route took.
    ThenText(bool): "continue or stop", |text| match text {
        "continue" => Some(true),
        "stop" => Some(false),
        _ => None,
    };
    /// How clients are known.
    AuthenticationText(String): "peer (the kernel says who a client is)", |text| {
        (text == "peer").then(|| text.to_owned())
    };
    /// Whether there is encryption.
    EncryptionText(bool): "disabled (between processes of one host there is nothing to encrypt)", |text| {
        (text == "disabled").then_some(false)
    };
    /// How much is logged, in either case.
    LoggingText(String): "off, error, warn, info, debug or trace", |text| {
        let text = text.to_ascii_lowercase();
        LEVELS.contains(&text.as_str()).then_some(text)
    };
}
