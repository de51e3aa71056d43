//! The two envelopes of the integration pattern, field for field, and how a native message becomes the first.
//!
//! ```text
//! in   {"messageType", "timestamp", "source", "data": {…}, "metadata": {"version", "priority"}}
//! out  {"messageType", "timestamp", "destination", "transformedData": {…},
//!       "processingMetadata": {"transformVersion", "processingTime"}}
//! ```
//!
//! Their JSON Schemas are in `config/schemas/`; a test holds schema and code together. `metadata` may be missing, and
//! either of its fields. Any other field is refused: who sends one believes that it does something.

use super::expression::Head;
use super::limits::Limits;
use super::number::Num;
use super::parse::{ParseError, parse};
use super::times::{iso, iso_duration, parse_iso};
use super::value::{Object, Value, write_text};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The version of data that says none.
pub const VERSION_DEFAULT: &str = "1.0";
/// The highest priority; the lowest, and that of a message that says none, is 0.
pub const PRIORITY_MAX: u8 = 9;
/// The header in which a native message may say its priority.
pub const PRIORITY_HEADER: &str = "priority";
/// The header in which a native message may say the version of its data.
pub const VERSION_HEADER: &str = "version";

/// A message as routes see it.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// Everything but the data.
    pub head: Head<'a>,
    /// The data: an object.
    pub data: Value<'a>,
}

/// A message as it was published.
#[derive(Debug, Clone, Copy, Default)]
pub struct Native<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The type; empty if it says none.
    pub message_type: &'a str,
    /// When it was published, in nanoseconds since 1970 (UTC).
    pub unix_nanos: i64,
    /// The name of the session that published it.
    pub publisher: &'a str,
    /// Its header `priority`.
    pub priority: Option<&'a [u8]>,
    /// Its header `version`.
    pub version: Option<&'a [u8]>,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Why a message has no envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvelopeError {
    /// The payload cannot be read.
    Payload(ParseError),
    /// A field is missing, of the wrong kind, or not one of an envelope.
    Field {
        /// Which.
        name: String,
        /// What is wrong.
        message: String,
    },
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(error) => error.fmt(f),
            Self::Field { name, message } => write!(f, "envelope: {name} {message}"),
        }
    }
}

impl std::error::Error for EnvelopeError {}

fn wrong<T>(name: impl Into<String>, message: impl Into<String>) -> Result<T, EnvelopeError> {
    Err(EnvelopeError::Field { name: name.into(), message: message.into() })
}

impl<'a> Input<'a> {
    /// The envelope of a native message: its payload is the data. JSON that is no object becomes the field `value`.
    ///
    /// # Errors
    /// When the payload is no JSON within the limits, or a header says no priority or version.
    pub fn wrap(native: &Native<'a>, limits: &Limits) -> Result<Self, EnvelopeError> {
        let data = match parse(native.payload, limits).map_err(EnvelopeError::Payload)? {
            object @ Value::Object(_) => object,
            other => Value::Object([("value", other)].into_iter().collect()),
        };
        let header = |name: &str, bytes: &'a [u8]| match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(_) => wrong(format!("header {name}"), "is not UTF-8"),
        };
        let priority = match native.priority {
            None => 0,
            Some(bytes) => match header(PRIORITY_HEADER, bytes)?.trim().parse::<i64>() {
                Ok(number) => clamped(number.into()),
                Err(_) => return wrong("header priority", "is no whole number"),
            },
        };
        let version = native.version.map_or(Ok(VERSION_DEFAULT), |bytes| header(VERSION_HEADER, bytes))?;
        let head = Head {
            message_type: native.message_type.into(),
            unix_nanos: native.unix_nanos,
            source: native.publisher.into(),
            version: version.into(),
            priority,
            topic: native.topic.into(),
        };
        Ok(Self { head, data })
    }

    /// The envelope that a payload is.
    ///
    /// # Errors
    /// When it is no JSON within the limits, or not exactly an envelope.
    pub fn read(payload: &'a [u8], topic: &'a str, limits: &Limits) -> Result<Self, EnvelopeError> {
        let envelope = match parse(payload, limits).map_err(EnvelopeError::Payload)? {
            Value::Object(object) => object,
            other => return wrong("the message", format!("is {}, not an object", other.kind())),
        };
        Self::from_object(envelope, topic)
    }

    fn from_object(envelope: Object<'a>, topic: &'a str) -> Result<Self, EnvelopeError> {
        let (mut message_type, mut unix_nanos, mut source, mut data) = (None, None, None, None);
        let (mut version, mut priority) = (Cow::Borrowed(VERSION_DEFAULT), 0);
        for (key, value) in envelope.into_members() {
            match key.as_ref() {
                "messageType" => message_type = Some(text("messageType", value)?),
                "source" => source = Some(text("source", value)?),
                "timestamp" => match parse_iso(&text("timestamp", value)?) {
                    Ok(nanos) => unix_nanos = Some(nanos),
                    Err(error) => return wrong("timestamp", error),
                },
                "data" if matches!(value, Value::Object(_)) => data = Some(value),
                "data" => return wrong("data", format!("is {}, not an object", value.kind())),
                "metadata" => (version, priority) = metadata(value)?,
                other => return wrong(Value::text(other).excerpt(64), "is not a field of an envelope"),
            }
        }
        let missing =
            |name: &str| EnvelopeError::Field { name: name.to_owned(), message: "is missing".to_owned() };
        let head = Head {
            message_type: message_type.ok_or_else(|| missing("messageType"))?,
            unix_nanos: unix_nanos.ok_or_else(|| missing("timestamp"))?,
            source: source.ok_or_else(|| missing("source"))?,
            version,
            priority,
            topic: topic.into(),
        };
        Ok(Self { head, data: data.ok_or_else(|| missing("data"))? })
    }

    /// Appends it as JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"messageType\":");
        write_text(&self.head.message_type, out);
        out.extend_from_slice(b",\"timestamp\":");
        write_text(&iso(self.head.unix_nanos), out);
        out.extend_from_slice(b",\"source\":");
        write_text(&self.head.source, out);
        out.extend_from_slice(b",\"data\":");
        self.data.write(out);
        out.extend_from_slice(b",\"metadata\":{\"version\":");
        write_text(&self.head.version, out);
        out.extend_from_slice(b",\"priority\":");
        out.push(b'0' + self.head.priority);
        out.extend_from_slice(b"}}");
    }
}

fn text<'a>(name: &str, value: Value<'a>) -> Result<Cow<'a, str>, EnvelopeError> {
    match value {
        Value::Text(text) => Ok(text),
        other => wrong(name, format!("is {}, not a text", other.kind())),
    }
}

fn metadata(value: Value<'_>) -> Result<(Cow<'_, str>, u8), EnvelopeError> {
    let Value::Object(object) = value else {
        return wrong("metadata", format!("is {}, not an object", value.kind()));
    };
    let (mut version, mut priority) = (Cow::Borrowed(VERSION_DEFAULT), 0);
    for (key, value) in object.into_members() {
        match (key.as_ref(), value) {
            ("version", value) => version = text("metadata.version", value)?,
            ("priority", Value::Number(number)) if number.is_whole() => {
                priority = match number.num() {
                    Num::Int(int) => clamped(int),
                    Num::Float(float) if float > 0.0 => float_clamped(float),
                    Num::Float(_) => 0,
                }
            }
            ("priority", Value::Number(_)) => return wrong("metadata.priority", "is no whole number"),
            ("priority", value) => {
                return wrong("metadata.priority", format!("is {}, not a whole number", value.kind()));
            }
            (other, _) => return wrong(format!("metadata.{other}"), "is not a field of an envelope"),
        }
    }
    Ok((version, priority))
}

fn clamped(priority: i128) -> u8 {
    u8::try_from(priority.clamp(0, PRIORITY_MAX.into())).expect("it was clamped")
}

fn float_clamped(priority: f64) -> u8 {
    (0..PRIORITY_MAX).find(|most| priority <= f64::from(*most)).unwrap_or(PRIORITY_MAX)
}

/// A transformed message, without where it goes.
#[derive(Debug, Clone)]
pub struct Output<'a> {
    /// The message's type.
    pub message_type: Cow<'a, str>,
    /// The time of the message that it was made of.
    pub unix_nanos: i64,
    /// What the rules made.
    pub data: Value<'a>,
    /// The version of the rules.
    pub version: Cow<'a, str>,
}

impl Output<'_> {
    /// Appends it as JSON, on its way to `destination`, `took` after work on it began.
    pub fn write(&self, destination: &str, took: Duration, out: &mut Vec<u8>) {
        let place = self.write_around(took, out);
        let mut name = Vec::new();
        write_text(destination, &mut name);
        out.splice(place..place, name);
    }

    /// Appends it as JSON without the destination's name; where that goes, between quotation marks, in `out`.
    pub fn write_around(&self, took: Duration, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(b"{\"messageType\":");
        write_text(&self.message_type, out);
        out.extend_from_slice(b",\"timestamp\":");
        write_text(&iso(self.unix_nanos), out);
        out.extend_from_slice(b",\"destination\":");
        let place = out.len();
        out.extend_from_slice(b",\"transformedData\":");
        self.data.write(out);
        out.extend_from_slice(b",\"processingMetadata\":{\"transformVersion\":");
        write_text(&self.version, out);
        out.extend_from_slice(b",\"processingTime\":");
        write_text(&iso_duration(took), out);
        out.extend_from_slice(b"}}");
        place
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::Schema;
    use super::*;
    use proptest::prelude::*;

    const INPUT_SCHEMA: &str = include_str!("../../config/schemas/input.json");
    const OUTPUT_SCHEMA: &str = include_str!("../../config/schemas/output.json");
    /// The template's input envelope, its blanks filled.
    const TEMPLATE: &str = r#"{
  "messageType": "string",
  "timestamp": "2026-11-24T10:00:00Z",
  "source": "string",
  "data": {
    "field1": "type",
    "field2": "type",
    "field3": "type"
  },
  "metadata": {
    "version": "string",
    "priority": 12
  }
}"#;
    /// The template's output envelope, its blanks filled.
    const TEMPLATE_OUTPUT: &str = r#"{
  "messageType": "string",
  "timestamp": "2026-11-24T10:00:00Z",
  "destination": "string",
  "transformedData": {
    "processedField1": "type",
    "processedField2": "type",
    "enrichedField3": "type"
  },
  "processingMetadata": {
    "transformVersion": "string",
    "processingTime": "PT0.000012S"
  }
}"#;

    fn read(text: &str) -> Result<Input<'_>, EnvelopeError> {
        Input::read(text.as_bytes(), "t", &Limits::default())
    }

    fn written(input: &Input<'_>) -> String {
        let mut out = Vec::new();
        input.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_template_is_read_and_written_word_for_word() {
        let input = read(TEMPLATE).unwrap();
        assert_eq!((input.head.priority, input.head.version.as_ref()), (9, "string"));
        let expected = TEMPLATE.replace("12", "9").replace(['\n', ' '], "");
        assert_eq!(written(&input), expected);

        let data = parse(TEMPLATE_OUTPUT.as_bytes(), &Limits::default()).unwrap();
        let data = data.as_object().unwrap().get("transformedData").unwrap().clone();
        let output = Output {
            message_type: "string".into(),
            unix_nanos: input.head.unix_nanos,
            data,
            version: "string".into(),
        };
        let mut out = Vec::new();
        output.write("string", Duration::from_micros(12), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), TEMPLATE_OUTPUT.replace(['\n', ' '], ""));
    }

    #[test]
    fn what_the_templates_generator_makes_is_an_envelope() {
        let text = r#"{"messageType":"test-data","timestamp":"2026-11-24T10:00:00.123456","source":"test-source-3",
            "data":{"field1":"value-1","field2":0.5,"field3":"A"}}"#;
        let input = read(text).unwrap();
        assert_eq!((input.head.priority, input.head.version.as_ref()), (0, "1.0"));
        assert!(written(&input).contains("\"2026-11-24T10:00:00.123456Z\""));
    }

    #[test]
    fn a_native_message_needs_no_envelope() {
        let native = Native {
            topic: "gps.fix",
            message_type: "TPV",
            unix_nanos: 1,
            publisher: "gpsd",
            priority: Some(b"12"),
            version: None,
            payload: br#"{"lat":5.705820000,"big":123456789012345678901234567890}"#,
        };
        let limits = Limits::default();
        let expected = concat!(
            r#"{"messageType":"TPV","timestamp":"1970-01-01T00:00:00.000000001Z","source":"gpsd","#,
            r#""data":{"lat":5.705820000,"big":123456789012345678901234567890},"#,
            r#""metadata":{"version":"1.0","priority":9}}"#
        );
        assert_eq!(written(&Input::wrap(&native, &limits).unwrap()), expected);
        let wrapped = |payload| Input::wrap(&Native { payload, ..native }, &limits);
        assert_eq!(wrapped(b"[1,2]").unwrap().data.to_string(), r#"{"value":[1,2]}"#);
        assert!(matches!(wrapped(b"$GPZDA"), Err(EnvelopeError::Payload(ParseError::Syntax { at: 0, .. }))));
        let odd = Native { priority: Some(b"high"), ..native };
        assert_eq!(
            Input::wrap(&odd, &limits).unwrap_err().to_string(),
            "envelope: header priority is no whole number"
        );
        let odd = Native { version: Some(b"\xff"), ..native };
        assert_eq!(
            Input::wrap(&odd, &limits).unwrap_err().to_string(),
            "envelope: header version is not UTF-8"
        );
    }

    #[test]
    fn priorities_are_clamped_however_large_they_are_written() {
        let cases = [
            ("4", 4),
            ("-3", 0),
            ("99", 9),
            ("8.0", 8),
            ("1e1", 9),
            ("50e-1", 5),
            ("1e400", 9),
            ("-1e400", 0),
        ];
        for (written, priority) in cases {
            let text = TEMPLATE.replace("12", written);
            assert_eq!(read(&text).unwrap().head.priority, priority, "{written}");
        }
    }

    #[test]
    fn what_is_no_envelope_is_refused_by_its_field() {
        let with = |from: &str, to: &str| read(&TEMPLATE.replace(from, to)).unwrap_err().to_string();
        assert_eq!(with("\"timestamp\": \"2026-11-24T10:00:00Z\",", ""), "envelope: timestamp is missing");
        assert!(with("2026-11-24", "2026-02-30").ends_with("timestamp names a day that does not exist"));
        assert_eq!(with("\"source\"", "\"origin\""), "envelope: \"origin\" is not a field of an envelope");
        assert_eq!(with("12", "1.5"), "envelope: metadata.priority is no whole number");
        assert_eq!(with("12", "\"9\""), "envelope: metadata.priority is a text, not a whole number");
        assert_eq!(with("\"priority\"", "\"prio\""), "envelope: metadata.prio is not a field of an envelope");
        assert_eq!(read("[]").unwrap_err().to_string(), "envelope: the message is an array, not an object");
        assert!(read(&format!("{{\"data\":{}", "[".repeat(100_000))).is_err());
    }

    /// One of several texts, most of them right.
    fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = Option<&'static str>> {
        prop_oneof![12 => Just(Some(texts[0])), 8 => prop::sample::select(texts).prop_map(Some), 1 => Just(None)]
    }

    fn object(fields: Vec<(&str, Option<&str>)>) -> String {
        let fields =
            fields.into_iter().filter_map(|(key, value)| value.map(|value| format!("\"{key}\":{value}")));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    }

    proptest! {
        #[test]
        fn schema_and_code_agree_on_what_an_envelope_is(
            kind in one_of(&["\"TPV\"", "\"\"", "1", "null", "{}"]),
            time in one_of(&[
                "\"2026-11-24T10:00:00Z\"", "\"2026-11-24T10:00:00.123456\"", "\"2026-11-24 10:00:00.5+01:30\"",
                "\"2026-11-24t10:00:60z\"", "\"2026-11-24\"", "\"now\"", "\"2026-13-24T10:00:00Z\"", "\"2026-11-32T10:00:00Z\"",
                "\"2026-11-24T24:00:00Z\"", "\"2026-11-24T10:60:00Z\"", "\"2026-11-24T10:00:61Z\"", "\"2026-11-24T10:00:00.Z\"",
                "\"2026-11-24T10:00:00+24:00\"", "\"2026-11-24T10:00:00+0100\"", "\" 2026-11-24T10:00:00Z\"", "1", "null",
            ]),
            source in one_of(&["\"gpsd\"", "\"\"", "true", "[]"]),
            data in one_of(&["{}", "{\"a\":[1,{\"b\":null}]}", "[]", "\"x\"", "null"]),
            version in one_of(&["\"1.0\"", "1.0", "null"]),
            priority in one_of(&["4", "-3", "99", "1.0", "1e1", "1e400", "-1e400", "0.5", "1e-400", "\"4\"", "true", "null"]),
            whole in one_of(&["", "[]", "null", "7"]),
            extra in prop_oneof![9 => Just(None), 1 => Just(Some("1"))],
            inner in prop_oneof![9 => Just(None), 1 => Just(Some("1"))],
        ) {
            let metadata = match whole {
                Some("") => Some(object(vec![("version", version), ("priority", priority), ("more", inner)])),
                other => other.map(str::to_owned),
            };
            let text = object(vec![
                ("messageType", kind), ("timestamp", time), ("source", source), ("data", data),
                ("metadata", metadata.as_deref()), ("more", extra),
            ]);
            let limits = Limits::default();
            let schema = Schema::compile(INPUT_SCHEMA, &limits).unwrap();
            let value = parse(text.as_bytes(), &limits).unwrap();
            let (valid, input) = (schema.check(&value), read(&text));
            prop_assert_eq!(valid.is_ok(), input.is_ok(), "{}: {:?}, {:?}", text, valid, input);
            if let Ok(input) = input {
                let again = written(&input);
                prop_assert!(schema.check(&parse(again.as_bytes(), &limits).unwrap()).is_ok(), "{}", again);
                prop_assert_eq!(&written(&read(&again).unwrap()), &again);
            }
        }

        #[test]
        fn what_is_written_is_what_the_output_schema_says(
            kind in ".{0,8}", destination in ".{0,8}", version in ".{0,8}", nanos in any::<i64>(), took in any::<u64>(),
        ) {
            let limits = Limits::default();
            let schema = Schema::compile(OUTPUT_SCHEMA, &limits).unwrap();
            let data = Value::Object([("a", Value::int(1))].into_iter().collect());
            let output = Output { message_type: kind.into(), unix_nanos: nanos, data, version: version.into() };
            let mut out = Vec::new();
            output.write(&destination, Duration::from_nanos(took), &mut out);
            let value = parse(&out, &limits).unwrap();
            prop_assert!(schema.check(&value).is_ok(), "{}", value);
            for field in ["messageType", "timestamp", "destination", "transformedData", "processingMetadata"] {
                let Value::Object(mut less) = value.clone() else { panic!("an object") };
                less.remove(field).unwrap();
                prop_assert!(schema.check(&Value::Object(less)).is_err(), "{} is needed", field);
            }
        }
    }
}
