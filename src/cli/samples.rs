//! `tramline gen`: messages for tests, as many as are asked for and the same again for the same seed.
//!
//! Each is an input envelope as docs/routes.md describes it. Without `--field` they have the fields of the
//! template's generator.

use super::Failure;
use super::clock::{Pace, monotonic_nanos, wait_until};
use super::connect::Socket;
use super::output::Output;
use crate::routes::limits::Limits;
use crate::routes::number::{Num, Number};
use crate::routes::path::Path as FieldPath;
use crate::routes::times::iso;
use crate::routes::value::{Object, Value};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use tramline_client::{Client, Encoding};

/// The fields of the template's generator.
const TEMPLATE_FIELDS: [&str; 3] =
    ["field1=text:value-:1..1000", "field2=float:0..100", "field3=choice:A,B,C"];
/// How many sources the template's generator knows.
const TEMPLATE_SOURCES: u64 = 10;
/// Seconds between two messages' times when the first one's is given.
const STEP_NANOS: i64 = 1_000_000_000;

/// Generate messages for tests
///
/// One JSON object a line, each an input envelope: messageType, timestamp, source, data. KIND is one of int:LOW..HIGH,
/// float:LOW..HIGH, text:PREFIX:LOW..HIGH, choice:A,B,C, walk:LOW..HIGH (near the one before), bool, count, time and
/// const:VALUE. The same seed and start make the same messages.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    tramline gen -n 1000 -o test-data.json --array\n  \
    tramline gen -n 5 --type TPV --seed 7 --field lat=walk:46..47 --field mode=choice:2,3\n  \
    tramline gen -n 1000 --rate 100 --topic sensors.test")]
pub(super) struct Gen {
    #[command(flatten)]
    socket: Socket,
    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    count: u64,
    /// The messages' type
    #[arg(long = "type", value_name = "TYPE", default_value = "test-data")]
    message_type: String,
    /// What the messages are made from [default: another each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// A field of the data, which may be nested (a.b); may be given again
    #[arg(long, value_name = "NAME=KIND", value_parser = field)]
    field: Vec<Field>,
    /// Who they are from [default: test-source-1 to test-source-10]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The first one's time, ISO 8601; each further one is a second later [default: the time of the clock]
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// The data alone, without envelope
    #[arg(long)]
    bare: bool,
    /// At most this many a second
    #[arg(long, value_name = "N", value_parser = super::publish::positive)]
    rate: Option<f64>,
    /// Write to a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "topic")]
    output: Option<PathBuf>,
    /// One JSON array instead of a line for each
    #[arg(long, conflicts_with = "topic")]
    array: bool,
    /// Publish them on this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
}

/// A field and how its values are made.
#[derive(Debug, Clone)]
struct Field {
    path: FieldPath,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Int(i64, i64),
    Float(f64, f64),
    Text(String, i64, i64),
    Choice(Vec<Value<'static>>),
    Walk(f64, f64),
    Bool,
    Count,
    Time,
    Const(Value<'static>),
}

const KINDS: &str = "int:LOW..HIGH, float:LOW..HIGH, text:PREFIX:LOW..HIGH, choice:A,B,C, walk:LOW..HIGH, bool, count, time, \
                     const:VALUE";

fn field(text: &str) -> Result<Field, String> {
    let (name, kind) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=KIND"))?;
    let path = FieldPath::parse(name, &Limits::default())?;
    if path.stars() > 0 {
        return Err(format!("{name:?} has a *; one place is meant"));
    }
    let (word, rest) = kind.split_once(':').unwrap_or((kind, ""));
    let kind = match word {
        "int" => range(rest).map(|(low, high)| Kind::Int(low, high)),
        "float" => range(rest).map(|(low, high)| Kind::Float(low, high)),
        "walk" => range(rest).map(|(low, high)| Kind::Walk(low, high)),
        "text" => match rest.rsplit_once(':') {
            Some((prefix, numbers)) => {
                range(numbers).map(|(low, high)| Kind::Text(prefix.to_owned(), low, high))
            }
            None => Some(Kind::Text(rest.to_owned(), 1, 1000)),
        },
        "choice" if !rest.is_empty() => Some(Kind::Choice(rest.split(',').map(word_value).collect())),
        "bool" if rest.is_empty() => Some(Kind::Bool),
        "count" if rest.is_empty() => Some(Kind::Count),
        "time" if rest.is_empty() => Some(Kind::Time),
        "const" => Some(Kind::Const(word_value(rest))),
        _ => None,
    };
    Ok(Field { path, kind: kind.ok_or_else(|| format!("{text:?} is of no kind; there are {KINDS}"))? })
}

/// `LOW..HIGH`, both included, the lower one first.
fn range<T: std::str::FromStr + PartialOrd>(text: &str) -> Option<(T, T)> {
    let (low, high) = text.split_once("..")?;
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low <= high).then_some((low, high))
}

/// A word as the JSON value that it is, else as a text.
fn word_value(word: &str) -> Value<'static> {
    match crate::routes::parse::parse(word.as_bytes(), &Limits::default()) {
        Ok(value) => value.into_owned(),
        Err(_) => Value::text(word.to_owned()),
    }
}

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // The output function of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Between the two, both included.
    fn int(&mut self, low: i64, high: i64) -> i64 {
        let span = (i128::from(high) - i128::from(low) + 1).unsigned_abs();
        let step = i128::try_from(u128::from(self.next()) % span).expect("it is less than 64 bits");
        i64::try_from(i128::from(low) + step).expect("it is between the two")
    }

    /// From 0 to 1, less than 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What makes one message after the other.
struct Maker<'g> {
    arguments: &'g Gen,
    fields: Vec<Field>,
    walks: Vec<f64>,
    dice: Dice,
    start: Option<i64>,
    made: u64,
}

impl Maker<'_> {
    fn data(&mut self, nanos: i64) -> Result<Value<'_>, Failure> {
        let mut data = Value::Object(Object::default());
        for (field, walked) in self.fields.iter().zip(&mut self.walks) {
            let value = match &field.kind {
                Kind::Int(low, high) => Value::int(self.dice.int(*low, *high).into()),
                Kind::Float(low, high) => float(low + self.dice.unit() * (high - low)),
                Kind::Text(prefix, low, high) => {
                    Value::text(format!("{prefix}{}", self.dice.int(*low, *high)))
                }
                Kind::Choice(values) => {
                    let index = self.dice.next() % values.len() as u64;
                    values[usize::try_from(index).expect("it is less than a length")].clone()
                }
                Kind::Walk(low, high) => {
                    let step = (self.dice.unit() - 0.5) * (high - low) / 50.0;
                    *walked = (*walked + step).clamp(*low, *high);
                    float(*walked)
                }
                Kind::Bool => Value::Bool(self.dice.next() % 2 == 1),
                Kind::Count => Value::int((self.made + 1).into()),
                Kind::Time => Value::text(iso(nanos)),
                Kind::Const(value) => value.clone(),
            };
            let set = field.path.set(&mut data, &[], value);
            set.map_err(|blocked| Failure::usage(format!("--field {}: {blocked}", field.path)))?;
        }
        Ok(data)
    }

    fn next(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        let nanos = match self.start {
            Some(start) => {
                start.saturating_add(STEP_NANOS.saturating_mul(i64::try_from(self.made).unwrap_or(i64::MAX)))
            }
            None => now_nanos(),
        };
        let arguments = self.arguments;
        let source = arguments
            .source
            .clone()
            .unwrap_or_else(|| format!("test-source-{}", self.dice.next() % TEMPLATE_SOURCES + 1));
        let data = self.data(nanos)?;
        if arguments.bare {
            data.write(out);
        } else {
            let members = [
                ("messageType", Value::text(arguments.message_type.as_str())),
                ("timestamp", Value::text(iso(nanos))),
                ("source", Value::text(source)),
                ("data", data),
            ];
            Value::Object(members.into_iter().collect()).write(out);
        }
        self.made += 1;
        Ok(())
    }
}

fn float(float: f64) -> Value<'static> {
    Value::Number(Number::from(Num::Float(float)))
}

fn now_nanos() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Where messages go.
enum Sink {
    Standard(Output),
    File(BufWriter<File>, PathBuf),
    Topic(Client, String),
}

impl Gen {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut maker = self.maker()?;
        let mut sink = match (&self.output, &self.topic) {
            (Some(path), _) => {
                let file = File::create(path)
                    .map_err(|error| Failure::cannot_create(format!("{}: {error}", path.display())))?;
                Sink::File(BufWriter::new(file), path.clone())
            }
            (None, Some(topic)) => {
                // An envelope's source is who sent it: so that is what this client calls itself.
                let name = self.source.as_deref().unwrap_or("tramline gen");
                Sink::Topic(self.socket.connect(name)?, topic.clone())
            }
            (None, None) => Sink::Standard(Output::new()),
        };
        let pace = self.rate.map(|rate| Pace::new(monotonic_nanos(), rate));
        let mut bytes = Vec::new();
        for number in 0..self.count {
            if let Some(pace) = &pace {
                sink.flush()?;
                wait_until(pace.due(number));
            }
            bytes.clear();
            if self.array {
                bytes.extend_from_slice(if number == 0 { b"[\n  " } else { b",\n  " });
            }
            maker.next(&mut bytes)?;
            sink.put(&bytes, !self.array, &self.message_type)?;
        }
        if self.array {
            sink.put(if self.count == 0 { b"[]\n" } else { b"\n]\n" }, false, "")?;
        }
        sink.flush()
    }

    fn maker(&self) -> Result<Maker<'_>, Failure> {
        let template = || TEMPLATE_FIELDS.iter().map(|text| field(text).expect("a constant field")).collect();
        let fields: Vec<Field> = if self.field.is_empty() { template() } else { self.field.clone() };
        let seed = self.seed.unwrap_or_else(|| now_nanos().cast_unsigned());
        let mut dice = Dice(seed);
        let walks = fields.iter().map(|field| match field.kind {
            Kind::Walk(low, high) => low + dice.unit() * (high - low),
            _ => 0.0,
        });
        let walks = walks.collect();
        let start = self.start.as_deref().map(crate::routes::times::parse_iso).transpose();
        let start = start.map_err(|error| Failure::usage(format!("--start {error}")))?;
        Ok(Maker { arguments: self, fields, walks, dice, start, made: 0 })
    }
}

impl Sink {
    fn put(&mut self, bytes: &[u8], is_line: bool, message_type: &str) -> Result<(), Failure> {
        match self {
            Self::Standard(output) => {
                output.write(bytes)?;
                if is_line { output.write(b"\n") } else { Ok(()) }
            }
            Self::File(file, path) => {
                let end: &[u8] = if is_line { b"\n" } else { b"" };
                file.write_all(bytes)
                    .and_then(|()| file.write_all(end))
                    .map_err(|error| unwritten(path, &error))
            }
            Self::Topic(client, topic) => {
                client.message(topic.as_str()).encoding(Encoding::Json).type_(message_type).publish(bytes)?;
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::Standard(output) => output.flush(),
            Self::File(file, path) => file.flush().map_err(|error| unwritten(path, &error)),
            Self::Topic(client, _) => Ok(client.flush()?),
        }
    }
}

fn unwritten(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::envelope::Input;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        generate: Gen,
    }

    fn made(arguments: &str) -> Vec<String> {
        let only = Only::try_parse_from(std::iter::once("gen").chain(arguments.split_whitespace())).unwrap();
        let mut maker = only.generate.maker().unwrap();
        (0..only.generate.count)
            .map(|_| {
                let mut out = Vec::new();
                maker.next(&mut out).unwrap();
                String::from_utf8(out).unwrap()
            })
            .collect()
    }

    #[test]
    fn what_is_made_are_envelopes_with_the_fields_of_the_template() {
        for text in made("-n 200 --seed 7") {
            let input = Input::read(text.as_bytes(), "t", &Limits::default()).unwrap();
            assert_eq!(input.head.message_type, "test-data");
            let number: u64 = input.head.source.strip_prefix("test-source-").unwrap().parse().unwrap();
            assert!((1..=10).contains(&number));
            let data: serde_json::Value = serde_json::from_str(&input.data.to_string()).unwrap();
            let first: u64 =
                data["field1"].as_str().unwrap().strip_prefix("value-").unwrap().parse().unwrap();
            assert!((1..=1000).contains(&first));
            assert!((0.0..100.0).contains(&data["field2"].as_f64().unwrap()));
            assert!(["A", "B", "C"].contains(&data["field3"].as_str().unwrap()));
            assert_eq!(data.as_object().unwrap().len(), 3);
        }
    }

    #[test]
    fn the_same_seed_and_start_make_the_same_messages() {
        let arguments = "-n 50 --start 2026-01-01T00:00:00Z --field a.b=walk:-1..1 --field n=count --seed";
        let first = made(&format!("{arguments} 7"));
        assert_eq!(first, made(&format!("{arguments} 7")));
        assert_ne!(first, made(&format!("{arguments} 8")));
        assert!(first[2].contains("2026-01-01T00:00:02Z") && first[2].contains("\"n\":3"), "{}", first[2]);
    }

    #[test]
    fn fields_are_of_their_kinds() {
        let fields = "--bare --field i=int:-2..2 --field o.x=const:[1] --field o.t=text:n-:5..5 --field c=choice:1,b \
                      --field w=walk:0..1 --field b=bool --field t=time --field z=const:plain";
        for text in made(&format!("-n 100 --seed 1 --start 2026-01-01T00:00:00Z {}", fields)) {
            let data: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!((-2..=2).contains(&data["i"].as_i64().unwrap()));
            assert_eq!((&data["o"]["x"], &data["o"]["t"]), (&serde_json::json!([1]), &"n-5".into()));
            assert!(data["c"] == 1 || data["c"] == "b");
            assert!((0.0..=1.0).contains(&data["w"].as_f64().unwrap()) && data["b"].is_boolean());
            assert!(data["t"].as_str().unwrap().starts_with("2026-01-01T") && data["z"] == "plain");
        }
        for (wrong, expected) in [
            ("a", "is not NAME=KIND"),
            ("a=int", "is of no kind"),
            ("a=int:2..1", "is of no kind"),
            ("a=choice:", "is of no kind"),
            ("a=bool:x", "is of no kind"),
            ("a..b=bool", "is no path"),
            ("a.*=bool", "has a *"),
        ] {
            assert!(field(wrong).unwrap_err().contains(expected), "{wrong}");
        }
    }
}
