//! What routes read from outside: expressions and data, envelopes, and the configuration of routes.

use std::path::Path;
use tramline::config::Config;
use tramline::routes::Routes;
use tramline::routes::envelope::{Input, Native};
use tramline::routes::expression::{Expression, Head, Meter, Names, Scope, Tables};
use tramline::routes::limits::Limits;
use tramline::routes::parse::parse;
use tramline::routes::route::Origin;
use tramline::routes::value::Value;

/// Longest configuration that is looked at; what is longer adds nothing but time.
const CONFIG_BYTES_MAX: usize = 16 * 1024;

/// Limits that a fuzzer reaches.
fn small() -> Limits {
    Limits { steps_max: 10_000, result_bytes_max: 64 << 10, message_values_max: 10_000, ..Limits::default() }
}

/// An expression and, behind the first line feed, data: refused with a sentence, or worth the same each time, within
/// the limits.
pub(crate) fn expression(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (text, data) = text.split_once('\n').unwrap_or((text, "{}"));
    let (limits, tables) = (small(), Tables::new());
    let names = Names { value: true, tables: &tables };
    let expression = match Expression::compile(text, names, &limits) {
        Ok(expression) => expression,
        Err(message) => {
            assert!(!message.is_empty() && message.len() < 20_000, "{} bytes of explanation", message.len());
            return;
        }
    };
    let Ok(data) = parse(data.as_bytes(), &limits) else { return };
    let head = Head {
        message_type: "T".into(),
        unix_nanos: 0,
        source: "s".into(),
        version: "1".into(),
        priority: 0,
        topic: "t".into(),
    };
    let scope = Scope { value: Some(&data), data: &data, head: &head };
    let worth = |limits: &Limits| {
        let mut meter = Meter::new(limits);
        let worth = expression.evaluate(&scope, &mut meter).map(|value| value.to_string());
        // What is over the limit is noticed by the charge that goes over it.
        assert!(meter.steps() <= limits.steps_max + (64 << 20) / 64);
        worth
    };
    // The clock decides nothing here.
    let timeless = Limits { micros_max: usize::MAX, ..limits };
    let first = worth(&timeless);
    assert_eq!(first, worth(&timeless));
    if let Ok(text) = first {
        let again = parse(text.as_bytes(), &Limits { message_depth_max: 10_000, ..Limits::default() });
        again.unwrap_or_else(|error| panic!("{text:.200} is no JSON: {error}"));
    }
}

/// An envelope: refused, or the same again.
pub(crate) fn envelope(bytes: &[u8]) {
    let limits = small();
    if let Ok(input) = Input::read(bytes, "t", &limits) {
        let mut once = Vec::new();
        input.write(&mut once);
        let again = Input::read(&once, "t", &limits).expect("what is written can be read");
        let mut twice = Vec::new();
        again.write(&mut twice);
        assert_eq!(once.as_slice(), twice.as_slice());
        assert!(again.head.priority <= 9 && matches!(again.data, Value::Object(_)));
    }
    let native = Native { payload: bytes, publisher: "p", ..Native::default() };
    if let Ok(input) = Input::wrap(&native, &limits) {
        let mut once = Vec::new();
        input.write(&mut once);
        assert!(Input::read(&once, "t", &limits).is_ok() || bytes.len() > 1000);
    }
}

/// A configuration of routes: refused with a place, or routes that treat a message.
pub(crate) fn routes(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.len() > CONFIG_BYTES_MAX {
        return;
    }
    let Ok(config) = Config::parse(text, Path::new("routes.yaml")) else { return };
    match Routes::compile(&config.routes, &mut |_| Ok(r#"{"required":["a"]}"#.to_owned())) {
        Err(fault) => assert!(!fault.key.is_empty() && !fault.message.is_empty()),
        Ok(routes) => {
            for payload in ["{\"a\":1,\"lat\":46.5,\"mode\":3,\"sats\":[{\"ss\":1},{}]}", "[1]", "$GP"] {
                let native = Native { topic: "a.b", payload: payload.as_bytes(), ..Native::default() };
                for (_, outcome) in routes.process(Origin::Topic("a.b"), &native) {
                    assert!(!tramline::routes::trial::told(&outcome).is_empty());
                }
            }
            let tests: usize = routes.routes().iter().map(|route| route.settings().tests.len()).sum();
            assert_eq!(tramline::routes::trial::run(&routes).len(), tests);
        }
    }
}
