//! Paths into nested objects and arrays: `lat`, `position.latitude`, `satellites[0].ss`, `satellites.*.ss`,
//! `["a.b"].c`.
//!
//! A path is parsed once, at load. It reads, sets, removes and takes; `*` stands for each element of an array.
//! Setting makes the objects and arrays that are missing on the way, and never turns one kind of value into
//! another: what stands in the way is an error that says what and where.

use super::limits::{Exceeded, Limits};
use super::value::{Object, Value};
use std::fmt;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A key of an object; if it is all digits, in an array the element of that number.
    Key(String, Option<usize>),
    /// An element of an array, from 0.
    Index(usize),
    /// Each element of an array.
    Each,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key, _) if key.is_empty() || key.contains(RESERVED) => write!(f, "[{key:?}]"),
            Self::Key(key, _) => f.write_str(key),
            Self::Index(index) => write!(f, "[{index}]"),
            Self::Each => f.write_str("*"),
        }
    }
}

/// What a key may not contain unless it stands between quotation marks.
const RESERVED: [char; 5] = ['.', '[', ']', '*', '"'];

/// A path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    steps: Vec<Step>,
    text: String,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a value cannot be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Up to where the path leads.
    pub at: String,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at, self.message)
    }
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str, limits: &Limits) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            rest = if rest.starts_with('[') {
                bracket(rest, text, &mut steps)?
            } else {
                name(rest, text, &mut steps)?
            };
            if steps.len() > limits.path_steps_max {
                let what = format!("the path {text:?} has more steps");
                return Err(Exceeded::new("path_steps_max", limits.path_steps_max, what).to_string());
            }
            match rest.chars().next() {
                None => break,
                Some('[') => {}
                Some('.') => rest = &rest[1..],
                Some(_) => return Err(format!("{text:?} is no path: expected . or [ before {rest:?}")),
            }
        }
        Ok(Self { steps, text: text.to_owned() })
    }

    /// How many `*` it has.
    #[must_use]
    pub fn stars(&self) -> usize {
        self.steps.iter().filter(|step| **step == Step::Each).count()
    }

    /// The text that it was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it leads to. Of a path with `*` the first that there is.
    #[must_use]
    pub fn get<'v, 'a>(&self, root: &'v Value<'a>) -> Option<&'v Value<'a>> {
        descend(&self.steps, root)
    }

    /// What it leads to, to change it; nothing at a `*`.
    pub fn get_mut<'v, 'a>(&self, root: &'v mut Value<'a>) -> Option<&'v mut Value<'a>> {
        self.steps.iter().try_fold(root, |value, step| match (step, value) {
            (Step::Key(key, _), Value::Object(object)) => object.get_mut(key),
            (Step::Key(_, Some(index)) | Step::Index(index), Value::Array(items)) => items.get_mut(*index),
            _ => None,
        })
    }

    /// Calls `visit` with everything that it leads to: the number of the element at each `*`, and the value or,
    /// where it is missing, none. Where there is no array for a `*`, `visit` gets none with fewer numbers.
    pub fn each<'v, 'a, E>(
        &self,
        root: &'v Value<'a>,
        visit: &mut impl FnMut(&[usize], Option<&'v Value<'a>>) -> Result<(), E>,
    ) -> Result<(), E> {
        walk(&self.steps, root, &mut Vec::new(), visit)
    }

    /// Sets what it leads to; `elements` are the numbers for its `*`, in order. Gaps that this leaves in an array
    /// at a `*` are `null`.
    ///
    /// # Errors
    /// When something of another kind is in the way, or an index lies beyond the end of an array.
    ///
    /// # Panics
    /// When there are fewer numbers than `*`.
    pub fn set<'a>(
        &'a self,
        root: &mut Value<'a>,
        elements: &[usize],
        value: Value<'a>,
    ) -> Result<(), Blocked> {
        let mut place = root;
        let mut elements = elements.iter();
        for (depth, step) in self.steps.iter().enumerate() {
            let (index, fills) = match step {
                Step::Key(_, index) => (*index, false),
                Step::Index(index) => (Some(*index), false),
                Step::Each => (Some(*elements.next().expect("a number for each *")), true),
            };
            if matches!(place, Value::Null) {
                *place = match step {
                    Step::Key(..) => Value::Object(Object::default()),
                    Step::Index(_) | Step::Each => Value::Array(Vec::new()),
                };
            }
            place = match (step, place, index) {
                (Step::Key(key, _), Value::Object(object), _) => object.entry(key),
                (_, Value::Array(items), Some(index)) => {
                    if index > items.len() && !fills {
                        let message = format!(
                            "has {} elements, so there can be none with the number {index}",
                            items.len()
                        );
                        return Err(self.blocked(depth, message));
                    }
                    while items.len() <= index {
                        items.push(Value::Null);
                    }
                    &mut items[index]
                }
                (_, other, _) => {
                    let needed = if matches!(step, Step::Key(..)) { "an object" } else { "an array" };
                    return Err(self.blocked(depth, format!("is {}, not {needed}", other.kind())));
                }
            };
        }
        *place = value;
        Ok(())
    }

    /// Removes everything that it leads to, and says how much that was. Elements that are removed from an array
    /// close up.
    pub fn remove(&self, root: &mut Value<'_>) -> usize {
        prune(&self.steps, root)
    }

    fn blocked(&self, depth: usize, message: String) -> Blocked {
        let at = match depth {
            0 => "the whole".to_owned(),
            _ => {
                let steps = &self.steps[..depth];
                steps.iter().fold(String::new(), |path, step| match step {
                    _ if path.is_empty() => step.to_string(),
                    Step::Index(_) => format!("{path}{step}"),
                    _ => format!("{path}.{step}"),
                })
            }
        };
        Blocked { at, message }
    }
}

fn name<'t>(rest: &'t str, whole: &str, steps: &mut Vec<Step>) -> Result<&'t str, String> {
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    let (key, rest) = rest.split_at(end);
    if key == "*" {
        steps.push(Step::Each);
        return Ok(rest);
    }
    if key.is_empty() {
        return Err(format!("{whole:?} is no path: a step is empty"));
    }
    if let Some(odd) = key.chars().find(|c| RESERVED.contains(c) || c.is_control()) {
        return Err(format!("{whole:?} is no path: write a key with {odd:?} as [\"…\"]"));
    }
    let digits = key.bytes().all(|byte| byte.is_ascii_digit());
    steps.push(Step::Key(key.to_owned(), digits.then(|| key.parse().ok()).flatten()));
    Ok(rest)
}

fn bracket<'t>(rest: &'t str, whole: &str, steps: &mut Vec<Step>) -> Result<&'t str, String> {
    let inner = &rest[1..];
    if inner.starts_with('"') {
        let mut keys = serde_json::Deserializer::from_str(inner).into_iter::<String>();
        let key = match keys.next() {
            Some(Ok(key)) => key,
            _ => return Err(format!("{whole:?} is no path: a key between quotation marks does not end")),
        };
        let behind = &inner[keys.byte_offset()..];
        let behind =
            behind.strip_prefix(']').ok_or_else(|| format!("{whole:?} is no path: a ] is missing"))?;
        steps.push(Step::Key(key, None));
        return Ok(behind);
    }
    let (index, behind) =
        inner.split_once(']').ok_or_else(|| format!("{whole:?} is no path: a ] is missing"))?;
    let digits = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    steps.push(match index {
        "*" => Step::Each,
        _ => match index.parse() {
            Ok(index) if digits => Step::Index(index),
            _ => return Err(format!("{whole:?} is no path: [{index}] is neither a number nor *")),
        },
    });
    Ok(behind)
}

fn child<'v, 'a>(step: &Step, value: &'v Value<'a>) -> Option<&'v Value<'a>> {
    match (step, value) {
        (Step::Key(key, _), Value::Object(object)) => object.get(key),
        (Step::Key(_, Some(index)) | Step::Index(index), Value::Array(items)) => items.get(*index),
        _ => None,
    }
}

fn descend<'v, 'a>(steps: &[Step], value: &'v Value<'a>) -> Option<&'v Value<'a>> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match (step, value) {
        (Step::Each, Value::Array(items)) => items.iter().find_map(|item| descend(rest, item)),
        _ => descend(rest, child(step, value)?),
    }
}

fn walk<'v, 'a, E>(
    steps: &[Step],
    value: &'v Value<'a>,
    elements: &mut Vec<usize>,
    visit: &mut impl FnMut(&[usize], Option<&'v Value<'a>>) -> Result<(), E>,
) -> Result<(), E> {
    let Some((step, rest)) = steps.split_first() else { return visit(elements, Some(value)) };
    match (step, value) {
        (Step::Each, Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                elements.push(index);
                walk(rest, item, elements, visit)?;
                elements.pop();
            }
            Ok(())
        }
        _ => match child(step, value) {
            Some(value) => walk(rest, value, elements, visit),
            None => visit(elements, None),
        },
    }
}

fn prune(steps: &[Step], value: &mut Value<'_>) -> usize {
    let Some((step, rest)) = steps.split_first() else { return 0 };
    let last = rest.is_empty();
    match (step, value) {
        (Step::Each, Value::Array(items)) if last => std::mem::take(items).len(),
        (Step::Each, Value::Array(items)) => items.iter_mut().map(|item| prune(rest, item)).sum(),
        (Step::Key(key, _), Value::Object(object)) if last => usize::from(object.remove(key).is_some()),
        (Step::Key(key, _), Value::Object(object)) => {
            object.get_mut(key).map_or(0, |value| prune(rest, value))
        }
        (Step::Key(_, Some(index)) | Step::Index(index), Value::Array(items)) if *index < items.len() => {
            if last {
                items.remove(*index);
                return 1;
            }
            prune(rest, &mut items[*index])
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value as Plain, json};

    fn path(text: &str) -> Path {
        Path::parse(text, &Limits::default()).unwrap()
    }

    fn value(text: &str) -> Value<'_> {
        parse(text.as_bytes(), &Limits::default()).unwrap()
    }

    #[test]
    fn paths_read_nested_values() {
        let root = value(r#"{"a":{"b":[{"c":1},{"d":2},{"c":3}]},"x.y":{"":4},"n":[[5,6],[7]]}"#);
        let got = |text: &str| path(text).get(&root).map(ToString::to_string);
        assert_eq!(got("a.b[0].c").as_deref(), Some("1"));
        assert_eq!(got("a.b.2.c").as_deref(), Some("3"));
        assert_eq!(got("a.b.*.d").as_deref(), Some("2"));
        assert_eq!(got(r#"["x.y"][""]"#).as_deref(), Some("4"));
        assert_eq!(got("n[0][1]").as_deref(), Some("6"));
        assert_eq!(got("n[*].0").as_deref(), Some("5"));
        for missing in ["b", "a.b[3]", "a.b.c", "a[0]", "a.b[0].c.d", "n.*.*.*"] {
            assert_eq!(got(missing), None, "{missing}");
        }
        let mut seen = Vec::new();
        let visited: Result<(), ()> = path("a.b.*.c").each(&root, &mut |at, value| {
            seen.push((at.to_vec(), value.map(ToString::to_string)));
            Ok(())
        });
        visited.unwrap();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(seen, [(vec![0], some("1")), (vec![1], None), (vec![2], some("3"))]);
    }

    #[test]
    fn what_is_no_path_is_refused_with_a_sentence() {
        let cases = [
            ("", "a step is empty"),
            ("a..b", "a step is empty"),
            ("a.", "a step is empty"),
            ("a*", "write a key with '*' as [\"…\"]"),
            ("a[", "a ] is missing"),
            ("a[x]", "[x] is neither a number nor *"),
            ("a[-1]", "[-1] is neither a number nor *"),
            ("a[+1]", "[+1] is neither a number nor *"),
            ("a[\"b", "a key between quotation marks does not end"),
            ("a[\"b\"c", "a ] is missing"),
            ("a[0]b", "expected . or [ before \"b\""),
            ("a\nb", "write a key with '\\n'"),
        ];
        for (text, expected) in cases {
            let said = Path::parse(text, &Limits::default()).unwrap_err();
            assert!(said.contains(expected), "{text:?}: {said}");
        }
        let limits = Limits { path_steps_max: 3, ..Limits::default() };
        assert!(Path::parse("a.b.c", &limits).is_ok());
        assert!(
            Path::parse("a.b.c.d", &limits).unwrap_err().contains("at most 3 (route_limits.path_steps_max)")
        );
    }

    #[test]
    fn setting_makes_what_is_missing_and_replaces_no_kind_by_another() {
        let paths = ["a.b.c", "a.list[0].x", "a.list[1]", "many.*.y"].map(path);
        let mut root = Value::Null;
        paths[0].set(&mut root, &[], Value::int(1)).unwrap();
        paths[1].set(&mut root, &[], Value::int(2)).unwrap();
        paths[2].set(&mut root, &[], Value::int(3)).unwrap();
        paths[3].set(&mut root, &[1], Value::int(4)).unwrap();
        assert_eq!(root.to_string(), r#"{"a":{"b":{"c":1},"list":[{"x":2},3]},"many":[null,{"y":4}]}"#);
        let refused = |text: &str, root: &Value<'_>| {
            let (path, mut root) = (path(text), root.clone());
            path.set(&mut root, &[], Value::Null).unwrap_err().to_string()
        };
        assert_eq!(refused("a.b.c.d", &root), "a.b.c is a number, not an object");
        assert_eq!(refused("a.b[0]", &root), "a.b is an object, not an array");
        assert_eq!(refused("a.list.x", &root), "a.list is an array, not an object");
        assert_eq!(
            refused("a.list[5]", &root),
            "a.list has 2 elements, so there can be none with the number 5"
        );
        assert_eq!(refused("[0]", &root), "the whole is an object, not an array");
    }

    /// The steps of a path as a model knows them.
    #[derive(Debug, Clone)]
    enum Plainly {
        Key(String),
        Index(usize),
    }

    fn text_of(steps: &[Plainly]) -> String {
        steps.iter().fold(String::new(), |text, step| match step {
            Plainly::Key(key) if text.is_empty() => key.clone(),
            Plainly::Key(key) => format!("{text}.{key}"),
            Plainly::Index(index) => format!("{text}[{index}]"),
        })
    }

    fn model_get<'v>(steps: &[Plainly], root: &'v Plain) -> Option<&'v Plain> {
        steps.iter().try_fold(root, |value, step| match step {
            Plainly::Key(key) => value.as_object()?.get(key),
            Plainly::Index(index) => value.as_array()?.get(*index),
        })
    }

    /// Sets like the code under test, said recursively on plain values; false if something is in the way.
    fn model_set(steps: &[Plainly], root: &mut Plain, value: Plain) -> bool {
        let Some((step, rest)) = steps.split_first() else {
            *root = value;
            return true;
        };
        match (step, root) {
            (Plainly::Key(key), root @ Plain::Null) => {
                let mut inner = Plain::Null;
                let done = model_set(rest, &mut inner, value);
                *root = json!({ key: inner });
                done
            }
            (Plainly::Index(0), root @ Plain::Null) => {
                let mut inner = Plain::Null;
                let done = model_set(rest, &mut inner, value);
                *root = json!([inner]);
                done
            }
            (Plainly::Key(key), Plain::Object(object)) => {
                model_set(rest, object.entry(key.clone()).or_insert(Plain::Null), value)
            }
            (Plainly::Index(index), Plain::Array(items)) if *index <= items.len() => {
                if *index == items.len() {
                    items.push(Plain::Null);
                }
                model_set(rest, &mut items[*index], value)
            }
            _ => false,
        }
    }

    fn model_remove(steps: &[Plainly], root: &mut Plain) -> usize {
        let Some((step, rest)) = steps.split_first() else { return 0 };
        match (step, root) {
            (Plainly::Key(key), Plain::Object(object)) if rest.is_empty() => {
                usize::from(object.remove(key).is_some())
            }
            (Plainly::Key(key), Plain::Object(object)) => {
                object.get_mut(key).map_or(0, |value| model_remove(rest, value))
            }
            (Plainly::Index(index), Plain::Array(items)) if *index < items.len() => {
                if rest.is_empty() {
                    items.remove(*index);
                    return 1;
                }
                model_remove(rest, &mut items[*index])
            }
            _ => 0,
        }
    }

    fn documents() -> impl Strategy<Value = Plain> {
        let leaf = prop_oneof![
            Just(Plain::Null),
            any::<bool>().prop_map(Plain::from),
            (0..9_u8).prop_map(Plain::from)
        ];
        leaf.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Plain::from),
                prop::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    fn routes() -> impl Strategy<Value = Vec<Plainly>> {
        let step = prop_oneof!["[ab]".prop_map(Plainly::Key), (0..3_usize).prop_map(Plainly::Index)];
        prop::collection::vec(step, 1..5)
    }

    proptest! {
        #[test]
        fn a_plain_model_reads_sets_and_removes_alike(document in documents(), steps in routes()) {
            let source = document.to_string();
            let path = path(&text_of(&steps));
            let root = value(&source);
            let found = path.get(&root).map(ToString::to_string);
            prop_assert_eq!(found, model_get(&steps, &document).map(ToString::to_string));

            let (mut ours, mut theirs) = (root.clone(), document.clone());
            let done = path.set(&mut ours, &[], Value::text("new")).is_ok();
            let expected = model_set(&steps, &mut theirs, json!("new"));
            prop_assert_eq!(done, expected);
            if done {
                let again: Plain = serde_json::from_str(&ours.to_string()).unwrap();
                prop_assert_eq!(again, theirs);
                prop_assert_eq!(path.get(&ours).and_then(Value::as_text), Some("new"));
            }

            let (mut ours, mut theirs) = (root, document);
            prop_assert_eq!(path.remove(&mut ours), model_remove(&steps, &mut theirs));
            let again: Plain = serde_json::from_str(&ours.to_string()).unwrap();
            prop_assert_eq!(again, theirs);
        }

        #[test]
        fn a_star_is_every_index_in_turn(items in prop::collection::vec(0..99_i64, 0..6)) {
            let text = json!({ "l": items.iter().map(|n| json!({ "v": n })).collect::<Vec<_>>() }).to_string();
            let root = value(&text);
            let (star, target) = (path("l.*.v"), path("out[*]"));
            let mut out = Value::Null;
            star.each(&root, &mut |at, found| target.set(&mut out, at, found.cloned().unwrap())).unwrap();
            for (index, number) in items.iter().enumerate() {
                let one = path(&format!("out[{index}]"));
                prop_assert!(one.get(&out) == Some(&Value::int((*number).into())));
            }
            let mut pruned = root.clone();
            prop_assert_eq!(star.remove(&mut pruned), items.len());
            prop_assert!(items.is_empty() || star.get(&pruned).is_none());
        }

        #[test]
        fn any_text_is_a_path_or_refused(text in ".{0,20}") {
            if let Ok(path) = Path::parse(&text, &Limits::default()) {
                prop_assert!(path.get(&Value::Null).is_none());
            }
        }
    }
}
