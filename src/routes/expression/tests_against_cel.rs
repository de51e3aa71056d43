//! The crate's own evaluator as a model: where it has a value, ours has the same.
//!
//! It is stricter than ours about numbers (no `1 * 1.5`, and `7 / 2` is 3), so what it refuses says nothing, and
//! divisions are left out.

use super::*;
use crate::routes::parse::parse;
use cel::{Context, Program};
use proptest::prelude::*;
use std::collections::HashMap;

fn leaf() -> impl Strategy<Value = String> {
    prop_oneof![
        (-3..5_i64).prop_map(|int| if int < 0 { format!("({int})") } else { int.to_string() }),
        prop_oneof![Just("0.5"), Just("2.0"), Just("1.25")].prop_map(str::to_owned),
        prop_oneof![Just("'a'"), Just("'bc'"), Just("''"), Just("true"), Just("false"), Just("null")]
            .prop_map(str::to_owned),
        prop_oneof![
            Just("data.i"),
            Just("data.f"),
            Just("data.s"),
            Just("data.l"),
            Just("data.o.x"),
            Just("data.none")
        ]
        .prop_map(str::to_owned),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    leaf().prop_recursive(4, 24, 3, |inner| {
        let operator = prop_oneof![
            Just("+"), Just("-"), Just("*"), Just("%"), Just("=="), Just("!="), Just("<"), Just("<="), Just(">"),
            Just(">="), Just("&&"), Just("||"), Just("in"),
        ];
        prop_oneof![
            4 => (inner.clone(), operator, inner.clone()).prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => inner.clone().prop_map(|a| format!("!({a})")),
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{'k': {a}, 'l': {b}}}")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}].map(v, [v, {a}])")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}].filter(v, v == {a})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}].all(v, v != {b})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}].exists(v, v == {b})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}].exists_one(v, v == {b})")),
            1 => inner.clone().prop_map(|a| format!("size({a})")),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("{a}.startsWith({b})")),
        ]
    })
}

fn plain(value: &cel::Value) -> Option<Value<'static>> {
    Some(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(bool) => Value::Bool(*bool),
        cel::Value::Int(int) => Value::int((*int).into()),
        cel::Value::UInt(int) => Value::int((*int).into()),
        cel::Value::Float(float) if float.is_finite() => {
            Value::Number(crate::routes::number::Number::Float(*float))
        }
        cel::Value::String(text) => Value::text(text.to_string()),
        cel::Value::List(items) => Value::Array(items.iter().map(plain).collect::<Option<_>>()?),
        cel::Value::Map(map) => {
            let members = map.map.iter().map(|(key, value)| Some((key.to_string(), plain(value)?)));
            Value::Object(members.collect::<Option<Vec<_>>>()?.into_iter().collect())
        }
        _ => return None,
    })
}

fn model(text: &str) -> Option<Value<'static>> {
    let mut context = Context::default();
    let list = cel::Value::from(vec![1_i64, 2]);
    let inner = cel::Value::from(HashMap::from([("x", 7_i64)]));
    let data: HashMap<&str, cel::Value> = HashMap::from([
        ("i", 3_i64.into()),
        ("f", 2.5_f64.into()),
        ("s", "abc".into()),
        ("l", list),
        ("o", inner),
        ("none", cel::Value::Null),
    ]);
    context.add_variable_from_value("data", data);
    let value = Program::compile(text).ok()?.execute(&context).ok()?;
    plain(&value)
}

proptest! {
    #[test]
    fn where_cel_has_a_value_ours_is_the_same(text in expression()) {
        // Debug builds of its parser want a large stack.
        let (text, expected) = std::thread::Builder::new()
            .stack_size(64 << 20)
            .spawn(move || { let worth = model(&text); (text, worth) })
            .unwrap()
            .join()
            .unwrap();
        let Some(expected) = expected else { return Ok(()) };
        let data = parse(br#"{"i":3,"f":2.5,"s":"abc","l":[1,2],"o":{"x":7},"none":null}"#, &Limits::default()).unwrap();
        let (tables, limits) = (Tables::new(), Limits { expression_depth_max: 64, ..Limits::default() });
        let head = Head {
            message_type: "".into(), unix_nanos: 0, source: "".into(), version: "".into(), priority: 0, topic: "".into(),
        };
        let ours = Expression::compile(&text, Names { value: false, tables: &tables }, &limits);
        let ours = ours.map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        let scope = Scope { value: None, data: &data, head: &head };
        let worth = ours.evaluate(&scope, &mut Meter::new(&limits));
        if matches!(&worth, Err(Trouble::Failed(why)) if why.starts_with("+ cannot be applied to an array")) {
            // The crate adds the keys of an object to a list, which CEL does not.
            return Ok(());
        }
        let worth = worth.map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert!(*worth == expected, "{} is {} here and {} there", text, worth, expected);
    }
}
