//! JSON Schema: what a route's `validate` checks, on values where they lie.
//!
//! The crate `jsonschema` is told here how to read a [`Value`], so nothing is converted for it. Patterns are matched
//! by an engine whose time is linear in the text. A schema refers to nothing outside of itself: no file is opened and
//! no address connected to.

use super::limits::Limits;
use super::number::{Num, Number};
use super::value::{Object, Value};
use jsonschema::json::{self, Json, JsonNumber, Node, NodeIdentity};
use jsonschema::{JsonType, PatternOptions, Validator};
use serde_json::Value as Plain;
use std::borrow::Cow;
use std::fmt;

/// Most bytes that a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a fault's sentence.
const SENTENCE_BYTES_MAX: usize = 300;

/// A schema, ready to check.
pub struct Schema {
    validator: Validator<Values>,
    faults_max: usize,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

/// Something in a message that its schema does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Where, as a JSON pointer; empty for the whole.
    pub at: String,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.at.is_empty() { "the whole" } else { &self.at }, self.message)
    }
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn compile(text: &str, limits: &Limits) -> Result<Self, String> {
        let schema: Plain = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        let patterns =
            PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options_for::<Values>()
            .with_pattern_options(patterns)
            .offline()
            .build(&schema)
            .map_err(|error| {
                shortened(format!("no schema at {:?}: {error}", error.instance_path().as_str()))
            })?;
        Ok(Self { validator, faults_max: limits.schema_faults_max.max(1) })
    }

    /// Whether `value` is what the schema says.
    ///
    /// # Errors
    /// What is wrong, `schema_faults_max` at most.
    pub fn check(&self, value: &Value<'_>) -> Result<(), Vec<Misfit>> {
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let faults = self.validator.iter_errors(value).take(self.faults_max);
        let told = faults.map(|error| Misfit {
            at: error.instance_path().as_str().to_owned(),
            message: shortened(error.to_string()),
        });
        Err(told.collect())
    }
}

fn shortened(mut sentence: String) -> String {
    if sentence.len() > SENTENCE_BYTES_MAX {
        let cut = (0..=SENTENCE_BYTES_MAX).rev().find(|at| sentence.is_char_boundary(*at)).unwrap_or(0);
        sentence.truncate(cut);
        sentence.push('…');
    }
    sentence
}

/// How the validator reads values.
struct Values;

impl Json for Values {
    type Node<'a> = &'a Value<'a>;
    type PreparedKey = String;
    type StringBuffer = Value<'static>;

    // A look-up runs over the keys one by one, so one pass over them for all is soon cheaper.
    const KEYS_PER_LOOKUP: usize = 4;
    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(
        buffer: &mut Value<'static>,
        string: &str,
        f: impl FnOnce(Self::Node<'_>) -> T,
    ) -> T {
        *buffer = Value::text(string.to_owned());
        f(buffer)
    }
}

impl JsonNumber for &Number<'_> {
    fn as_u64(&self) -> Option<u64> {
        match self.num() {
            Num::Int(int) => int.try_into().ok(),
            Num::Float(_) => None,
        }
    }

    fn as_i64(&self) -> Option<i64> {
        match self.num() {
            Num::Int(int) => int.try_into().ok(),
            Num::Float(_) => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        Some(self.num().as_f64())
    }

    fn as_str(&self) -> Cow<'_, str> {
        self.digits()
    }

    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        let exact = match self.num() {
            Num::Int(int) => serde_json::Number::from_i128(int),
            Num::Float(float) => serde_json::Number::from_f64(float.clamp(f64::MIN, f64::MAX)),
        };
        Cow::Owned(exact.unwrap_or_else(|| 0.into()))
    }

    fn is_integer(&self) -> bool {
        self.is_whole()
    }

    fn is_written_as_integer(&self) -> bool {
        !self.digits().contains(['.', 'e', 'E'])
    }
}

impl<'a> Node<'a, Values> for &'a Value<'a> {
    type Object = &'a Object<'a>;
    type Array = &'a [Value<'a>];
    type Number = &'a Number<'a>;

    fn as_object(&self) -> Option<&'a Object<'a>> {
        match self {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    fn as_array(&self) -> Option<&'a [Value<'a>]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        match self {
            Value::Text(text) => Some(Cow::Borrowed(text)),
            _ => None,
        }
    }

    fn as_number(&self) -> Option<&'a Number<'a>> {
        match self {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        match self {
            Value::Bool(bool) => Some(*bool),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    fn json_type(&self) -> JsonType {
        match self {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::Text(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &Plain) -> bool {
        match (self, expected) {
            (Value::Text(text), Plain::String(expected)) => text == expected,
            (Value::Text(_), _) => false,
            _ => json::cmp::equal(&self.to_value(), expected),
        }
    }

    fn to_value(&self) -> Cow<'a, Plain> {
        Cow::Owned(match self {
            Value::Null => Plain::Null,
            Value::Bool(bool) => Plain::Bool(*bool),
            Value::Number(number) => Plain::Number(number.to_number().into_owned()),
            Value::Text(text) => Plain::String(text.to_string()),
            Value::Array(items) => {
                Plain::Array(items.iter().map(|item| item.to_value().into_owned()).collect())
            }
            Value::Object(object) => {
                let members =
                    object.iter().map(|(key, value)| (key.to_string(), value.to_value().into_owned()));
                Plain::Object(members.collect())
            }
        })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Value<'a>>(self) as usize))
    }
}

impl<'a> json::Object<'a, Values> for &'a Object<'a> {
    type Node = &'a Value<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        Object::len(self)
    }

    fn get(&self, key: &String) -> Option<&'a Value<'a>> {
        Object::get(self, key)
    }

    fn members(&self) -> Members<'a> {
        Members(self.iter())
    }
}

/// The members of an object, as the validator wants them.
pub struct Members<'a>(std::slice::Iter<'a, (Cow<'a, str>, Value<'a>)>);

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (key.as_ref(), value))
    }
}

impl<'a> json::Array<'a, Values> for &'a [Value<'a>] {
    type Node = &'a Value<'a>;
    type ElementsIter = std::slice::Iter<'a, Value<'a>>;

    fn len(&self) -> usize {
        <[Value<'a>]>::len(self)
    }

    fn elements(&self) -> Self::ElementsIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;
    use proptest::prelude::*;

    const TPV: &str = r#"{"type":"object","required":["lat","mode"],"properties":{
        "lat":{"type":"number","minimum":-90,"maximum":90},
        "mode":{"type":"integer","enum":[0,1,2,3]},
        "device":{"type":"string","pattern":"^/dev/","maxLength":20},
        "tags":{"type":"array","items":{"type":"string"},"uniqueItems":true,"maxItems":3}}}"#;

    fn faults(text: &str, limits: &Limits) -> Vec<String> {
        let schema = Schema::compile(TPV, limits).unwrap();
        let value = parse(text.as_bytes(), limits).unwrap();
        schema.check(&value).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_say_where_and_what_and_are_bounded_in_number() {
        let limits = Limits::default();
        assert!(faults(r#"{"lat":52.5,"mode":3,"device":"/dev/tty","tags":["a","b"]}"#, &limits).is_empty());
        assert_eq!(faults(r#"{"lat":91,"mode":3}"#, &limits), ["/lat: 91 is greater than the maximum of 90"]);
        assert_eq!(faults("{}", &limits).len(), 2);
        assert_eq!(faults("7", &limits), ["the whole: 7 is not of type \"object\""]);
        let many = r#"{"lat":"x","mode":1.5,"device":7,"tags":[1,2,3,4,4]}"#;
        assert!(faults(many, &limits).len() > 4);
        assert_eq!(faults(many, &Limits { schema_faults_max: 2, ..limits.clone() }).len(), 2);
        let long = format!(r#"{{"lat":1,"mode":1,"device":"{}"}}"#, "x".repeat(10_000));
        assert!(faults(&long, &limits).iter().all(|fault| fault.len() < 400));
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let refused = |text: &str| Schema::compile(text, &Limits::default()).unwrap_err();
        assert!(refused("{").starts_with("not JSON"));
        assert!(refused(r#"{"type":"thing"}"#).starts_with("no schema at"));
        // Look-around needs an engine that may go back, and that may take for ever.
        assert!(
            refused(r#"{"pattern":"(?=a)b"}"#).contains("pattern")
                || !refused(r#"{"pattern":"(?=a)b"}"#).is_empty()
        );
        assert!(!refused(r#"{"$ref":"https://example.com/other.json"}"#).is_empty());
        assert!(!refused(r#"{"$ref":"file:///etc/passwd"}"#).is_empty());
    }

    fn documents() -> impl Strategy<Value = Plain> {
        let leaf = prop_oneof![
            Just(Plain::Null),
            any::<bool>().prop_map(Plain::from),
            (-3..5_i8).prop_map(Plain::from),
            prop_oneof![Just(0.5), Just(2.0), Just(90.5)].prop_map(Plain::from),
            "(/dev/)?[ab]{0,3}".prop_map(Plain::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Plain::from),
                prop::collection::btree_map("lat|mode|device|tags|x", inner, 0..5)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_are_judged_as_serde_jsons_are(document in documents()) {
            let limits = Limits::default();
            let more = r#"{"anyOf":[{"$ref":"TPV"},{"propertyNames":{"maxLength":3}},{"const":[1,2.0]},
                {"contains":{"multipleOf":2},"minContains":1}]}"#.replace("{\"$ref\":\"TPV\"}", TPV);
            for schema in [TPV, &more] {
                let ours = Schema::compile(schema, &limits).unwrap();
                let theirs = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
                let text = document.to_string();
                let value = parse(text.as_bytes(), &limits).unwrap();
                prop_assert_eq!(ours.check(&value).is_ok(), theirs.is_valid(&document), "{}", text);
            }
        }
    }
}
