//! Values as people write them: `64KiB`, `"0660"`, a user's name, a loopback address.
//!
//! Each type accepts the spellings that cannot be misread and refuses the others with a sentence that
//! says what is allowed. It knows no key: the parser adds where a value stands.

use crate::core::{Durability, Strategy, WhenFull};
use serde::de::{Deserialize, Deserializer, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use tramline_wire::{Filter, GatedBy};

/// What `log.level` may be.
pub(super) const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub(super) enum Scalar<'s> {
    Number(u64),
    Text(&'s str),
}

struct ScalarVisitor<T, F> {
    expecting: &'static str,
    read: F,
    makes: PhantomData<T>,
}

impl<T, F: FnOnce(Scalar<'_>) -> Result<T, String>> Visitor<'_> for ScalarVisitor<T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        (self.read)(Scalar::Number(number)).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.read)(Scalar::Text(text)).map_err(E::custom)
    }
}

pub(super) fn scalar<'de, D: Deserializer<'de>, T>(
    yaml: D,
    expecting: &'static str,
    read: impl FnOnce(Scalar<'_>) -> Result<T, String>,
) -> Result<T, D::Error> {
    yaml.deserialize_any(ScalarVisitor { expecting, read, makes: PhantomData })
}

/// A size: a number of bytes, or a number with a unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes(pub(super) u64);

/// The units of a size, and what they stand for in bytes.
const UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

const SIZE: &str = "a size in bytes such as 65536, 64KiB or 1 MiB";

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = text[digits..].trim_start();
    let factor = UNITS.iter().find_map(|(name, factor)| (*name == unit).then_some(*factor));
    match (text[..digits].parse::<u64>(), factor) {
        (Ok(number), Some(factor)) => {
            number.checked_mul(factor).ok_or_else(|| format!("{text:?} is more than 64 bits can say"))
        }
        _ => {
            let units: Vec<_> = UNITS[1..].iter().map(|(name, _)| *name).collect();
            Err(format!("{text:?} is not {SIZE} (units: {})", units.join(", ")))
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        scalar(yaml, SIZE, |value| match value {
            Scalar::Number(number) => Ok(Self(number)),
            Scalar::Text(text) => bytes(text).map(Self),
        })
    }
}

/// A plain number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        scalar(yaml, "a whole number", |value| match value {
            Scalar::Number(number) => Ok(Self(number)),
            Scalar::Text(text) => Err(format!("{text:?} is not a whole number, without unit")),
        })
    }
}

/// A file's permissions in octal.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModeText(pub(super) u32);

const MODE: &str = r#"permissions in octal between quotation marks, such as "0660""#;

impl<'de> Deserialize<'de> for ModeText {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        scalar(yaml, MODE, |value| match value {
            // YAML's number 600 is decimal, which nobody means here; 0600 without marks arrives as text.
            Scalar::Number(number) => Err(format!("the number {number} is not {MODE}")),
            Scalar::Text(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o777 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Self(mode)),
                _ => Err(format!("{text:?} is not {MODE}, at most \"0777\"")),
            },
        })
    }
}

/// What kind of account a name is looked up as.
pub(super) trait AccountKind {
    const EXPECTED: &'static str;
    fn look_up(name: &str) -> nix::Result<Option<u32>>;
}

/// Users.
#[derive(Debug)]
pub(super) struct UserName;

impl AccountKind for UserName {
    const EXPECTED: &'static str = "the name or number of a user";

    fn look_up(name: &str) -> nix::Result<Option<u32>> {
        Ok(nix::unistd::User::from_name(name)?.map(|user| user.uid.as_raw()))
    }
}

/// Groups.
#[derive(Debug)]
pub(super) struct GroupName;

impl AccountKind for GroupName {
    const EXPECTED: &'static str = "the name or number of a group";

    fn look_up(name: &str) -> nix::Result<Option<u32>> {
        Ok(nix::unistd::Group::from_name(name)?.map(|group| group.gid.as_raw()))
    }
}

/// A user or group, by name or number, as its number.
#[derive(Debug)]
pub(super) struct Account<K>(pub(super) u32, PhantomData<K>);

impl<'de, K: AccountKind> Deserialize<'de> for Account<K> {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        let account = |number| Self(number, PhantomData);
        scalar(yaml, K::EXPECTED, |value| match value {
            // The highest number stands for "no account" in system calls.
            Scalar::Number(number) => match u32::try_from(number) {
                Ok(number) if number < u32::MAX => Ok(account(number)),
                _ => Err(format!("{number} is not {}: numbers end at {}", K::EXPECTED, u32::MAX - 1)),
            },
            Scalar::Text(name) => match K::look_up(name) {
                Ok(Some(number)) => Ok(account(number)),
                Ok(None) => {
                    Err(format!("{name:?} is not {}: this system knows none of that name", K::EXPECTED))
                }
                Err(error) => Err(format!("{name:?} cannot be looked up: {error}")),
            },
        })
    }
}

/// A loopback address with a port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loopback(pub(super) SocketAddr);

const LOOPBACK: &str = "a loopback address with a port, such as 127.0.0.1:9464 or \"[::1]:9464\"";

impl<'de> Deserialize<'de> for Loopback {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        scalar(yaml, LOOPBACK, |value| match value {
            Scalar::Number(number) => Err(format!("the number {number} is not {LOOPBACK}")),
            Scalar::Text(text) => match text.parse::<SocketAddr>() {
                Ok(address) if address.ip().is_loopback() => Ok(Self(address)),
                Ok(_) => Err(format!(
                    "{text:?} is not {LOOPBACK}: HTTP here has neither encryption nor login, so it is not \
                     offered to other machines"
                )),
                Err(_) => Err(format!("{text:?} is not {LOOPBACK}")),
            },
        })
    }
}

/// A filter over topics.
#[derive(Debug)]
pub(super) struct FilterText(pub(super) String);

impl<'de> Deserialize<'de> for FilterText {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        const FILTER: &str = "a topic or filter such as \"cam.*\" or \"gps.>\"";
        scalar(yaml, FILTER, |value| {
            let text = match value {
                Scalar::Text(text) => text.to_owned(),
                Scalar::Number(number) => number.to_string(),
            };
            Filter::parse(&text).map_err(|error| format!("{text:?} is not {FILTER}: {error}"))?;
            Ok(Self(text))
        })
    }
}

/// Who may hold a publisher up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate(pub(super) GatedBy);

impl<'de> Deserialize<'de> for Gate {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        const GATE: &str = "one of any, uid, nobody";
        scalar(yaml, GATE, |value| match value {
            Scalar::Text("any") => Ok(Self(GatedBy::Anyone)),
            Scalar::Text("uid") => Ok(Self(GatedBy::OwnUid)),
            Scalar::Text("nobody") => Ok(Self(GatedBy::Nobody)),
            Scalar::Text(text) => Err(format!("{text:?} is not {GATE}")),
            Scalar::Number(number) => Err(format!("the number {number} is not {GATE}")),
        })
    }
}

/// The name of a queue.
#[derive(Debug)]
pub(super) struct QueueName(pub(super) String);

impl<'de> Deserialize<'de> for QueueName {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        scalar(yaml, "a queue's name such as jobs", |value| match value {
            Scalar::Text(text) => match tramline_wire::Topic::parse(text) {
                Ok(topic) if !topic.is_reserved() => Ok(Self(text.to_owned())),
                Ok(_) => Err(format!("{text:?} is not a queue's name: names with $ belong to the broker")),
                Err(error) => Err(format!("{text:?} is not a queue's name: {error}")),
            },
            _ => Err("a queue's name is a text".to_owned()),
        })
    }
}

/// What is left of a queue when its broker has died.
#[derive(Debug)]
pub(super) struct DurabilityText(pub(super) Durability);

impl<'de> Deserialize<'de> for DurabilityText {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        let all = [Durability::None, Durability::Disk];
        word(yaml, "none or disk", |text| all.into_iter().find(|each| each.as_str() == text).map(Self))
    }
}

/// How a queue chooses among its consumers.
#[derive(Debug)]
pub(super) struct StrategyText(pub(super) Strategy);

impl<'de> Deserialize<'de> for StrategyText {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        let all = [Strategy::RoundRobin, Strategy::LoadBalance, Strategy::Failover];
        word(yaml, "round_robin, load_balance or failover", |text| {
            all.into_iter().find(|each| each.as_str() == text).map(Self)
        })
    }
}

/// What happens when a queue is full.
#[derive(Debug)]
pub(super) struct WhenFullText(pub(super) WhenFull);

impl<'de> Deserialize<'de> for WhenFullText {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        let all = [WhenFull::Refuse, WhenFull::DropOldest, WhenFull::DeadLetter];
        word(yaml, "refuse, drop_oldest or dead_letter", |text| {
            all.into_iter().find(|each| each.as_str() == text).map(Self)
        })
    }
}

/// One of a few words.
pub(super) fn word<'de, D: Deserializer<'de>, T>(
    yaml: D,
    allowed: &'static str,
    find: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    scalar(yaml, allowed, |value| match value {
        Scalar::Text(text) => find(text).ok_or_else(|| format!("{text:?} is not one of {allowed}")),
        _ => Err(format!("must be one of {allowed}")),
    })
}

/// How much is logged.
#[derive(Debug)]
pub(super) struct Level(pub(super) &'static str);

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(yaml: D) -> Result<Self, D::Error> {
        const LEVEL: &str = "one of off, error, warn, info, debug, trace";
        scalar(yaml, LEVEL, |value| {
            let text = match value {
                Scalar::Text(text) => text.to_owned(),
                Scalar::Number(number) => number.to_string(),
            };
            let known = LEVELS.iter().find(|level| **level == text);
            known.map(|level| Self(level)).ok_or_else(|| format!("{text:?} is not {LEVEL}"))
        })
    }
}
