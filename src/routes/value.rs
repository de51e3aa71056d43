//! JSON values as routes hold them: borrowed from the message where they were not touched.
//!
//! A number that no expression computed with keeps the digits that its sender wrote, however many there are.
//! An object keeps the order of its keys, so that what is forwarded looks like what came. Nothing here is
//! unbounded by itself: `parse` bounds what comes in, `limits` what is made.

use super::number::Number;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A JSON value.
#[derive(Debug, Clone, Default)]
pub enum Value<'a> {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number<'a>),
    /// A text.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Self>),
    /// An object.
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    /// What it is, for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// A text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    /// A whole number.
    #[must_use]
    pub fn int(int: i128) -> Self {
        Self::Number(Number::Int(int))
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The object, if it is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The same with its texts borrowed from this one.
    #[must_use]
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Number(Number::Source(text)) => Value::Number(Number::Source(Cow::Borrowed(text))),
            Self::Number(Number::Int(int)) => Value::Number(Number::Int(*int)),
            Self::Number(Number::Float(float)) => Value::Number(Number::Float(*float)),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Array(items) => Value::Array(items.iter().map(Value::borrowed).collect()),
            Self::Object(object) => Value::Object(Object(
                object.iter().map(|(key, value)| (Cow::Borrowed(key.as_ref()), value.borrowed())).collect(),
            )),
        }
    }

    /// The same without anything borrowed.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => Value::Bool(bool),
            Self::Number(number) => Value::Number(number.into_owned()),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Array(items) => Value::Array(items.into_iter().map(Value::into_owned).collect()),
            Self::Object(object) => Value::Object(Object(
                object
                    .0
                    .into_iter()
                    .map(|(key, value)| (Cow::Owned(key.into_owned()), value.into_owned()))
                    .collect(),
            )),
        }
    }

    /// Bytes that it takes in memory and on the wire, roughly: what limits of size count.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 4,
            Self::Number(Number::Source(text)) => text.len(),
            Self::Number(_) => 8,
            Self::Text(text) => text.len() + 2,
            Self::Array(items) => items.iter().fold(2, |sum, item| sum + 1 + item.weight()),
            Self::Object(object) => {
                object.iter().fold(2, |sum, (key, value)| sum + key.len() + 4 + value.weight())
            }
        }
    }

    /// Appends it as JSON, without white space.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Number(number) => out.extend_from_slice(number.digits().as_bytes()),
            Self::Text(text) => write_text(text, out),
            Self::Array(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Object(object) => {
                out.push(b'{');
                for (index, (key, value)) in object.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_text(key, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }

    /// As JSON of at most about `most` bytes, for people: what is longer is cut off and says so.
    #[must_use]
    pub fn excerpt(&self, most: usize) -> String {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        if text.len() <= most {
            return text.into_owned();
        }
        let cut = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        format!("{}… ({} bytes)", &text[..cut], text.len())
    }
}

/// Appends a text as JSON.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        if escape.is_empty() {
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            out.extend_from_slice(escape);
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        f.write_str(&String::from_utf8_lossy(&bytes))
    }
}

/// Equal as JSON: numbers by value, objects whatever their order.
impl PartialEq<Value<'_>> for Value<'_> {
    fn eq(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(left), Value::Bool(right)) => left == right,
            (Self::Number(left), Value::Number(right)) => left.same(right),
            (Self::Text(left), Value::Text(right)) => left == right,
            (Self::Array(left), Value::Array(right)) => {
                left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left == right)
            }
            (Self::Object(left), Value::Object(right)) => {
                left.len() == right.len()
                    && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| value == other))
            }
            _ => false,
        }
    }
}

// Equal to itself: no number here is one that is not a number.
impl Eq for Value<'_> {}

/// The keys of an object with their values, in order; each key once.
#[derive(Debug, Clone, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Object<'a> {
    /// An object of members whose keys the caller knows to differ.
    pub(super) fn from_distinct(members: Vec<(Cow<'a, str>, Value<'a>)>) -> Self {
        Self(members)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The value of a key, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value<'a>> {
        self.0.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Sets a key: in its place if it is there, else at the end.
    pub fn insert(&mut self, key: impl Into<Cow<'a, str>>, value: Value<'a>) {
        let key = key.into();
        match self.get_mut(&key) {
            Some(place) => *place = value,
            None => self.0.push((key, value)),
        }
    }

    /// The value of a key, which is made `null` if it is not there.
    pub(super) fn entry(&mut self, key: &'a str) -> &mut Value<'a> {
        let at = self.0.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            self.0.push((Cow::Borrowed(key), Value::Null));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) -> Option<Value<'a>> {
        let at = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(at).1)
    }

    /// Keys and values in order.
    pub fn iter(&self) -> std::slice::Iter<'_, (Cow<'a, str>, Value<'a>)> {
        self.0.iter()
    }

    /// Keys and values in order, given away.
    pub fn into_members(self) -> Vec<(Cow<'a, str>, Value<'a>)> {
        self.0
    }
}

impl<'a, K: Into<Cow<'a, str>>> FromIterator<(K, Value<'a>)> for Object<'a> {
    /// Of a key that comes again, the last value counts.
    fn from_iter<I: IntoIterator<Item = (K, Value<'a>)>>(members: I) -> Self {
        let mut object = Self::default();
        members.into_iter().for_each(|(key, value)| object.insert(key, value));
        object
    }
}

/// Values that stand in a configuration.
impl<'de> Deserialize<'de> for Value<'static> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value<'static>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value that JSON can say")
            }

            fn visit_unit<E>(self) -> Result<Value<'static>, E> {
                Ok(Value::Null)
            }

            fn visit_none<E>(self) -> Result<Value<'static>, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, bool: bool) -> Result<Value<'static>, E> {
                Ok(Value::Bool(bool))
            }

            fn visit_i64<E>(self, int: i64) -> Result<Value<'static>, E> {
                Ok(Value::int(int.into()))
            }

            fn visit_u64<E>(self, int: u64) -> Result<Value<'static>, E> {
                Ok(Value::int(int.into()))
            }

            fn visit_f64<E: Error>(self, float: f64) -> Result<Value<'static>, E> {
                if float.is_finite() {
                    Ok(Value::Number(Number::Float(float)))
                } else {
                    Err(E::custom("JSON has no such number"))
                }
            }

            fn visit_str<E>(self, text: &str) -> Result<Value<'static>, E> {
                Ok(Value::text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'static>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::Array(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'static>, A::Error> {
                let mut object = Object::default();
                while let Some(key) = map.next_key::<String>()? {
                    if object.get(&key).is_some() {
                        return Err(A::Error::custom(format!("the key {key:?} stands here twice")));
                    }
                    object.insert(key, map.next_value()?);
                }
                Ok(Value::Object(object))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Number<'_> {
        Number::Source(Cow::Borrowed(text))
    }

    #[test]
    fn numbers_compare_without_rounding() {
        let same = |left: &str, right: &str| Value::Number(source(left)) == Value::Number(source(right));
        assert!(
            same("1", "1.0") && same("1e2", "100") && same("18446744073709551615", "18446744073709551615")
        );
        assert!(!same("9007199254740993", "9007199254740992.0") && !same("1", "1.5") && !same("-1", "-1.5"));
        assert!(same("-0", "0") && same("123456789012345678901234567890", "123456789012345678901234567890"));
    }

    #[test]
    fn digits_that_nobody_touched_are_kept() {
        let big = "123456789012345678901234567890.10";
        assert_eq!(Value::Number(source(big)).to_string(), big);
        assert_eq!(Value::Number(Number::Float(18.0)).to_string(), "18.0");
    }

    #[test]
    fn texts_are_escaped_as_json_wants_it() {
        let odd = "a\"b\\c\n\t\r\u{1}é\u{7f}";
        let written = Value::text(odd).to_string();
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), odd);
        assert_eq!(Value::text("é".repeat(10)).excerpt(4), "\"é… (22 bytes)");
    }

    #[test]
    fn objects_are_equal_in_any_order_and_keep_their_own() {
        let object = |pairs: &[(&'static str, i128)]| {
            Value::Object(pairs.iter().map(|(key, int)| (*key, Value::int(*int))).collect())
        };
        assert!(object(&[("a", 1), ("b", 2)]) == object(&[("b", 2), ("a", 1)]));
        assert!(object(&[("a", 1)]) != object(&[("a", 1), ("b", 2)]));
        assert_eq!(object(&[("b", 2), ("a", 1)]).to_string(), r#"{"b":2,"a":1}"#);
    }
}
