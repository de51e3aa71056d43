//! JSON text to values, borrowed from the text: bounded in bytes, depth and number of values.
//!
//! Stricter than the grammar in one point: a key that stands in an object twice is refused, since whoever reads
//! on might take another of the two than what was checked here.

use super::limits::{Exceeded, Limits};
use super::number::Number;
use super::value::{Object, Value};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// Objects with more keys than this are searched for a second one of the same name by a table.
const KEYS_COMPARED_MAX: usize = 16;

/// Why a text is not a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseError {
    /// It is no JSON.
    Syntax {
        /// Where, in bytes from the start.
        at: usize,
        /// What is wrong there.
        message: &'static str,
    },
    /// A key stands twice in one object.
    Twice {
        /// Where, in bytes from the start.
        at: usize,
        /// The key.
        key: String,
    },
    /// It is too long, too deep or too much.
    Limit(Exceeded),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { at, message } => write!(f, "not JSON at byte {at}: {message}"),
            Self::Twice { at, key } => write!(f, "the key {key:?} stands twice in one object, at byte {at}"),
            Self::Limit(exceeded) => exceeded.fmt(f),
        }
    }
}

impl std::error::Error for ParseError {}

/// Reads one JSON value and nothing else.
///
/// # Errors
/// When it is not JSON, or exceeds `message_bytes_max`, `message_depth_max` or `message_values_max`.
pub fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Value<'a>, ParseError> {
    if bytes.len() > limits.message_bytes_max {
        let what = format!("the message has {} bytes", bytes.len());
        return Err(ParseError::Limit(Exceeded::new("message_bytes_max", limits.message_bytes_max, what)));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ParseError::Syntax { at: error.valid_up_to(), message: "not UTF-8" })?;
    let mut parser = Parser { text, at: 0, values: 0, limits };
    let value = parser.value(1)?;
    parser.space();
    if parser.at < text.len() {
        return parser.fail("more text behind the value");
    }
    Ok(value)
}

struct Parser<'a, 'l> {
    text: &'a str,
    at: usize,
    values: usize,
    limits: &'l Limits,
}

impl<'a> Parser<'a, '_> {
    fn fail<T>(&self, message: &'static str) -> Result<T, ParseError> {
        Err(ParseError::Syntax { at: self.at, message })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, ParseError> {
        self.space();
        self.values += 1;
        if self.values > self.limits.message_values_max {
            let what = "the message has too many values";
            let most = self.limits.message_values_max;
            return Err(ParseError::Limit(Exceeded::new("message_values_max", most, what)));
        }
        match self.peek() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'{') => self.deeper(depth).and_then(|()| self.object(depth)),
            Some(b'[') => self.deeper(depth).and_then(|()| self.array(depth)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => self.fail("a value cannot begin like this"),
            None => self.fail("the text ends where a value should be"),
        }
    }

    fn deeper(&mut self, depth: usize) -> Result<(), ParseError> {
        self.at += 1;
        if depth > self.limits.message_depth_max {
            let what = format!("the message nests deeper at byte {}", self.at - 1);
            let most = self.limits.message_depth_max;
            return Err(ParseError::Limit(Exceeded::new("message_depth_max", most, what)));
        }
        self.space();
        Ok(())
    }

    fn word(&mut self, word: &'static str, value: Value<'a>) -> Result<Value<'a>, ParseError> {
        if !self.text[self.at..].starts_with(word) {
            return self.fail("a value cannot begin like this");
        }
        self.at += word.len();
        Ok(value)
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>, ParseError> {
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                _ => return self.fail("expected , or ] in an array"),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, ParseError> {
        let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(Object::default()));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.fail("expected a key between quotation marks");
            }
            let at = self.at;
            let key = self.string()?;
            if members.len() < KEYS_COMPARED_MAX && members.iter().any(|(name, _)| *name == key) {
                return Err(ParseError::Twice { at, key: key.into_owned() });
            }
            self.space();
            if self.peek() != Some(b':') {
                return self.fail("expected : behind a key");
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            members.push((key, value));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    self.distinct(&members)?;
                    return Ok(Value::Object(Object::from_distinct(members)));
                }
                _ => return self.fail("expected , or } in an object"),
            }
        }
    }

    /// Looks for keys that stand twice among more than could be compared one by one.
    fn distinct(&self, members: &[(Cow<'a, str>, Value<'a>)]) -> Result<(), ParseError> {
        if members.len() <= KEYS_COMPARED_MAX {
            return Ok(());
        }
        // Clients choose these keys; the standard hasher cannot be made to collide.
        let mut seen = HashSet::with_capacity(members.len());
        match members.iter().find(|(key, _)| !seen.insert(key.as_ref())) {
            Some((key, _)) => Err(ParseError::Twice { at: self.at, key: key.clone().into_owned() }),
            None => Ok(()),
        }
    }

    fn number(&mut self) -> Result<Value<'a>, ParseError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => {
                self.digits();
            }
            _ => return self.fail("expected a digit"),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return self.fail("expected a digit behind the point");
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return self.fail("expected a digit in the exponent");
            }
        }
        Ok(Value::Number(Number::Source(Cow::Borrowed(&self.text[start..self.at]))))
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<Cow<'a, str>, ParseError> {
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    let text = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Cow::Borrowed(text));
                }
                Some(b'\\') => return self.escaped(start).map(Cow::Owned),
                Some(0..0x20) => return self.fail("a control character in a text must be escaped"),
                Some(_) => self.at += 1,
                None => return self.fail("the text ends within a text"),
            }
        }
    }

    /// The rest of a string in which there is a backslash.
    fn escaped(&mut self, start: usize) -> Result<String, ParseError> {
        let mut out = String::from(&self.text[start..self.at]);
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            let Some(plain) = plain else {
                self.at = self.text.len();
                return self.fail("the text ends within a text");
            };
            out.push_str(&rest[..plain]);
            self.at += plain;
            match rest.as_bytes()[plain] {
                b'"' => {
                    self.at += 1;
                    return Ok(out);
                }
                b'\\' => {
                    self.at += 1;
                    let escape = self.peek();
                    self.at += usize::from(escape.is_some());
                    out.push(match escape {
                        Some(b'"') => '"',
                        Some(b'\\') => '\\',
                        Some(b'/') => '/',
                        Some(b'b') => '\u{8}',
                        Some(b'f') => '\u{c}',
                        Some(b'n') => '\n',
                        Some(b'r') => '\r',
                        Some(b't') => '\t',
                        Some(b'u') => self.code_point()?,
                        _ => return self.fail("an unknown escape"),
                    });
                }
                _ => return self.fail("a control character in a text must be escaped"),
            }
        }
    }

    fn code_point(&mut self) -> Result<char, ParseError> {
        let first = self.four_digits()?;
        let code = if (0xd800..0xdc00).contains(&first) {
            if !self.text[self.at..].starts_with("\\u") {
                return self.fail("half of a surrogate pair");
            }
            self.at += 2;
            let second = self.four_digits()?;
            if !(0xdc00..0xe000).contains(&second) {
                return self.fail("half of a surrogate pair");
            }
            0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).map_or_else(|| self.fail("half of a surrogate pair"), Ok)
    }

    fn four_digits(&mut self) -> Result<u32, ParseError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let Some(digits) = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)) else {
            return self.fail("expected four hexadecimal digits");
        };
        self.at += 4;
        Ok(digits.iter().fold(0, |sum, digit| sum * 16 + (*digit as char).to_digit(16).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Value<'_>, ParseError> {
        parse(text.as_bytes(), &Limits::default())
    }

    #[test]
    fn what_was_not_touched_is_written_as_it_came() {
        let text =
            r#"{"a":[1,2.50,-0,1e400,123456789012345678901234567890],"é":"x","n":null,"t":true,"o":{}}"#;
        assert_eq!(read(text).unwrap().to_string(), text);
        assert_eq!(read(" [ 1 , \"\\ud83d\\ude00\\/\" ] ").unwrap().to_string(), "[1,\"😀/\"]");
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        let cases = [
            ("", 0),
            ("{", 1),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("{\"a\" 1}", 5),
            ("{a:1}", 1),
            ("01", 1),
            ("-", 1),
            ("1.", 2),
            ("1e", 2),
            ("\"a", 2),
            ("\"\\x\"", 3),
            ("\"\\ud800\"", 7),
            ("\"\\udc00\"", 7),
            ("\"\\ud800\\u0041\"", 13),
            ("\"\\u00g0\"", 3),
            ("\"a\nb\"", 2),
            ("nul", 0),
            ("1 1", 2),
        ];
        for (text, place) in cases {
            match read(text) {
                Err(ParseError::Syntax { at, .. }) => assert_eq!(at, place, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(parse(b"\"\xff\"", &Limits::default()), Err(ParseError::Syntax { at: 1, .. })));
    }

    #[test]
    fn a_key_may_stand_once() {
        assert!(
            matches!(read(r#"{"a":1,"b":{"a":2},"a":3}"#), Err(ParseError::Twice { key, .. }) if key == "a")
        );
        let many = (0..100).map(|number| format!("\"k{number}\":1")).collect::<Vec<_>>().join(",");
        assert!(read(&format!("{{{many}}}")).is_ok());
        assert!(matches!(read(&format!("{{{many},\"k70\":2}}")), Err(ParseError::Twice { .. })));
    }

    #[test]
    fn each_limit_of_a_message_is_named_when_it_is_reached() {
        let limits = Limits {
            message_bytes_max: 20,
            message_depth_max: 2,
            message_values_max: 4,
            ..Limits::default()
        };
        let refused = |text: &str| parse(text.as_bytes(), &limits).unwrap_err().to_string();
        assert!(parse(b"[[1,2]]", &limits).is_ok());
        assert_eq!(
            refused("[[[1]]]"),
            "the message nests deeper at byte 2; at most 2 (route_limits.message_depth_max)"
        );
        assert!(refused("[1,2,3,4]").ends_with("at most 4 (route_limits.message_values_max)"));
        assert!(refused(&" ".repeat(21)).contains("21 bytes; at most 20 (route_limits.message_bytes_max)"));
        let bomb = "[".repeat(1_000_000);
        assert!(read(&bomb).is_err());
    }

    proptest! {
        #[test]
        fn what_serde_json_reads_is_read_and_nothing_else(text in r#"[\[\]{},:" a1.eE+\-\\utrlsfn0]{0,24}"#) {
            let ours = read(&text);
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match (&ours, &theirs) {
                (Ok(ours), Ok(theirs)) => {
                    let again: serde_json::Value = serde_json::from_str(&ours.to_string()).unwrap();
                    prop_assert_eq!(&again, theirs);
                }
                (Err(ParseError::Twice { .. }), Ok(_)) | (Err(_), Err(_)) => {}
                // Without arbitrary precision it refuses what a float cannot hold.
                (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{}", error),
                (Err(error), Ok(_)) => prop_assert!(false, "{text}: {error}"),
            }
        }
    }
}
