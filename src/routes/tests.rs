//! Routes and rules on whole messages.

use super::route::{Part, Passed};
use super::rules::{OnError, RuleError, RuleSettings, Rules, Start};
use super::settings::{Deliver, Destination, Form, Intake, RouteSettings};
use super::value::Value;
use super::*;
use crate::routes::expression::Head;
use crate::routes::parse::parse;
use proptest::prelude::*;

fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_yaml::from_str(text).unwrap()
}

fn value(text: &str) -> Value<'static> {
    parse(text.as_bytes(), &Limits::default()).unwrap().into_owned()
}

/// A rule, shortly: `source > target = transform`.
fn rule(text: &str) -> RuleSettings {
    let (paths, transform) = text.split_once(" = ").map_or((text, None), |(paths, what)| (paths, Some(what)));
    let (source, target) =
        paths.split_once(" > ").map_or((paths, None), |(source, target)| (source, Some(target)));
    RuleSettings {
        source: Some(source.to_owned()).filter(|source| !source.is_empty()),
        target: target.map(str::to_owned),
        transform: transform.map(str::to_owned),
        ..RuleSettings::default()
    }
}

fn apply_from(
    start: Start,
    rules: &[RuleSettings],
    data: &str,
    limits: &Limits,
) -> Result<String, RuleError> {
    let rules = Rules::compile(rules, start, &Tables::new(), limits).unwrap();
    let head = Head {
        message_type: "T".into(),
        unix_nanos: 0,
        source: "s".into(),
        version: "1".into(),
        priority: 3,
        topic: "t".into(),
    };
    rules.apply(value(data), &head, &mut Meter::new(limits)).map(|value| value.to_string())
}

fn apply(rules: &[RuleSettings], data: &str) -> String {
    apply_from(Start::Empty, rules, data, &Limits::default()).unwrap()
}

fn error(rules: &[RuleSettings], data: &str) -> String {
    apply_from(Start::Empty, rules, data, &Limits::default()).unwrap_err().to_string()
}

#[test]
fn the_rules_of_the_issue_do_what_it_says() {
    let rules = [
        rule("lat > position.latitude"),
        rule("altMSL > position.altitude_ft = round(value / 0.3048, 1)"),
        RuleSettings { on_error: OnError::Skip, ..rule("speed > speed_kmh = value * 3.6") },
        RuleSettings { required: true, ..rule("time > observed_at") },
    ];
    let made = apply(&rules, r#"{"lat":46.498287170,"altMSL":1344.9947,"speed":3,"time":"now"}"#);
    assert_eq!(
        made,
        r#"{"position":{"latitude":46.498287170,"altitude_ft":4412.7},"speed_kmh":10.8,"observed_at":"now"}"#
    );
    // What cannot be computed is skipped where the rule says so, and what is missing is not there.
    assert_eq!(apply(&rules, r#"{"speed":"fast","time":1}"#), r#"{"observed_at":1}"#);
    assert_eq!(error(&rules, "{}"), "rule 4 (time): it is required and missing");
    assert_eq!(
        error(&rules, r#"{"time":null}"#),
        "rule 4 (time) with the value null: it is required and missing"
    );
    assert_eq!(
        error(&rules, r#"{"altMSL":"high"}"#),
        "rule 2 (altMSL) with the value \"high\": / cannot be applied to a text and a number"
    );
}

#[test]
fn stars_go_through_arrays() {
    let sats = r#"{"sats":[{"id":1,"ss":40},{"id":2},{"id":3,"ss":null}],"none":7}"#;
    assert_eq!(apply(&[rule("sats.*.id > ids")], sats), r#"{"ids":[1,2,3]}"#);
    assert_eq!(
        apply(&[rule("sats.*.id > s.*.n = value * 10")], sats),
        r#"{"s":[{"n":10},{"n":20},{"n":30}]}"#
    );
    let strength = RuleSettings { default: Some(Value::int(0)), ..rule("sats.*.ss > s.*.dB") };
    assert_eq!(apply(std::slice::from_ref(&strength), sats), r#"{"s":[{"dB":40},{"dB":0},{"dB":null}]}"#);
    assert_eq!(apply(&[rule("sats.*.ss > s.*.dB")], sats), r#"{"s":[{"dB":40},null,{"dB":null}]}"#);
    assert_eq!(apply(&[RuleSettings { target: Some("s".into()), ..strength }], sats), r#"{"s":[40,0,null]}"#);
    assert_eq!(apply(&[rule("none.*.x > a"), rule("other.*.x > b.*")], sats), "{}");
    let needed = RuleSettings { required: true, ..rule("sats.*.ss > a") };
    assert_eq!(error(&[needed], sats), "rule 1 (sats.*.ss): it is required and missing");
    let gone = RuleSettings { drops: true, ..rule("sats.*.ss") };
    let made = apply_from(Start::Data, &[gone], sats, &Limits::default()).unwrap();
    assert_eq!(made, r#"{"sats":[{"id":1},{"id":2},{"id":3}],"none":7}"#);
}

#[test]
fn values_are_made_moved_dropped_and_defaulted() {
    let literal =
        RuleSettings { literal: Some(value(r#"{"a":[1]}"#)), target: Some("l".into()), ..Default::default() };
    assert_eq!(apply(&[literal], "{}"), r#"{"l":{"a":[1]}}"#);
    assert_eq!(apply(&[rule(" > sum = data.a + data.b")], r#"{"a":1,"b":2}"#), r#"{"sum":3}"#);
    assert_eq!(
        apply(&[rule(" > who = message.source + string(metadata.priority)")], "{}"),
        r#"{"who":"s3"}"#
    );
    let default = RuleSettings {
        default: Some(Value::int(7)),
        on_error: OnError::Default,
        ..rule("a > b = value * 2")
    };
    assert_eq!(apply(std::slice::from_ref(&default), "{}"), r#"{"b":7}"#);
    assert_eq!(apply(&[default], r#"{"a":"x"}"#), r#"{"b":7}"#);
    let moved = RuleSettings { takes: true, ..rule("a.b > c") };
    let data = r#"{"a":{"b":1,"d":2},"e":3}"#;
    let from_data =
        |rules: &[RuleSettings]| apply_from(Start::Data, rules, data, &Limits::default()).unwrap();
    assert_eq!(from_data(std::slice::from_ref(&moved)), r#"{"a":{"d":2},"e":3,"c":1}"#);
    // What was taken is not there for later rules.
    assert_eq!(apply(&[moved.clone(), rule("a.b > again"), rule("a > a")], data), r#"{"c":1,"a":{"d":2}}"#);
    let same = RuleSettings { takes: true, ..rule("e = value + 1") };
    assert_eq!(from_data(&[same]), r#"{"a":{"b":1,"d":2},"e":4}"#);
    let dropped = RuleSettings { drops: true, ..rule("a") };
    assert_eq!(from_data(&[dropped]), r#"{"e":3}"#);
    assert_eq!(
        error(&[rule("e > x"), rule("e > x.y")], data),
        "rule 2 (e) with the value 3: target: x is a number, not an object"
    );
}

#[test]
fn rules_that_cannot_be_are_refused_at_load() {
    let refused = |rule: RuleSettings| {
        let fault = Rules::compile(&[rule], Start::Empty, &Tables::new(), &Limits::default()).unwrap_err();
        format!("{}: {}", fault.key, fault.message)
    };
    let cases = [
        (RuleSettings::default(), "0: rule 1: says neither source nor literal nor transform"),
        (rule("a..b"), "0.source: rule 1: \"a..b\" is no path: a step is empty"),
        (rule("a > b["), "0.target: rule 1: \"b[\" is no path"),
        (rule("a > b.*"), "0.target: rule 1: has 1 *, but the source has 0"),
        (rule("a > b = nope(1)"), "0.transform: rule 1: there is no function \"nope\""),
        (rule(" > b = value"), "0.transform: rule 1: there is a value in rules only"),
        (rule(" = 1"), "0: rule 1: the key target is missing"),
        (RuleSettings { literal: Some(Value::Null), ..rule("a") }, "0.literal: rule 1: goes without source"),
        (
            RuleSettings { on_error: OnError::Default, ..rule("a") },
            "0.on_error: rule 1: is default, but there is no",
        ),
        (
            RuleSettings { required: true, default: Some(Value::Null), ..rule("a") },
            "0.default: rule 1: is never used where required",
        ),
        (RuleSettings { drops: true, ..rule("a > b") }, "0.drop: rule 1: goes with a source only"),
        (
            RuleSettings { drops: true, ..RuleSettings::default() },
            "0.drop: rule 1: says nothing without a source",
        ),
        (RuleSettings { takes: true, ..rule(" > b = 1") }, "0.move: rule 1: goes with a source only"),
        (RuleSettings { required: true, ..rule(" > b = 1") }, "0.required: rule 1: goes with a source only"),
    ];
    for (rule, expected) in cases {
        let said = refused(rule);
        assert!(said.starts_with(expected), "{said}, not {expected}");
    }
    let limits = Limits { rules_max: 1, ..Limits::default() };
    let fault = Rules::compile(&[rule("a"), rule("b")], Start::Empty, &Tables::new(), &limits).unwrap_err();
    assert_eq!(
        (fault.key.as_str(), fault.message.as_str()),
        ("1", "there are 2 rules; at most 1 (route_limits.rules_max)")
    );
}

#[test]
fn what_rules_make_is_bounded_whatever_they_say_of_errors() {
    let limits = Limits { result_bytes_max: 40, ..Limits::default() };
    let skip = |text: &str| RuleSettings { on_error: OnError::Skip, ..rule(text) };
    let long = r#"{"a":"0123456789012345678901234567"}"#;
    assert!(apply_from(Start::Empty, &[skip("a > b")], long, &limits).is_ok());
    for rules in [vec![skip("a > b"), skip("a > c")], vec![skip("a > b = value + value")]] {
        let said = apply_from(Start::Empty, &rules, long, &limits).unwrap_err().to_string();
        assert!(said.ends_with("at most 40 (route_limits.result_bytes_max)"), "{said}");
    }
    let many = format!("{{\"l\":[{}]}}", ["\"0123456789\""; 9].join(","));
    let said = apply_from(Start::Empty, &[skip("l.* > x")], &many, &limits).unwrap_err().to_string();
    assert!(
        said.contains("the array would have") && said.ends_with("(route_limits.result_bytes_max)"),
        "{said}"
    );
}

fn route(name: &str) -> RouteSettings {
    RouteSettings {
        key: "routes.0".into(),
        rules_key: "routes.0.transform.rules".into(),
        name: name.into(),
        from: vec![Intake::parse("in.*").unwrap()],
        input: Form::Payload,
        version: "3".into(),
        deliver: Deliver { to: vec![Destination::parse("topic:out").unwrap()], ..Deliver::default() },
        ..RouteSettings::default()
    }
}

fn routes(settings: Vec<RouteSettings>) -> Routes {
    let settings = Settings { routes: settings, ..Settings::default() };
    Routes::compile(&settings, &mut |file| match file {
        "tpv.json" => Ok(r#"{"required":["mode"]}"#.to_owned()),
        other => Err(format!("{other}: no such file")),
    })
    .unwrap()
}

fn native(payload: &str) -> Native<'_> {
    Native {
        topic: "in.a",
        message_type: "TPV",
        publisher: "gpsd",
        payload: payload.as_bytes(),
        ..Native::default()
    }
}

/// Names and outcomes of all routes that looked at it.
fn outcomes(routes: &Routes, native: &Native<'_>) -> Vec<String> {
    let all = routes.process(Origin::Topic(native.topic), native);
    all.iter()
        .map(|(route, outcome)| format!("{}: {}", route.settings().name, trial::told(outcome)))
        .collect()
}

#[test]
fn routes_look_at_a_message_by_priority_until_one_stops_it() {
    let low = RouteSettings { priority: -1, ..route("low") };
    let high =
        RouteSettings { priority: 5, goes_on: true, when: Some("data.mode >= 2".into()), ..route("high") };
    let second = route("second");
    let other = RouteSettings { message_types: vec!["SKY".into()], ..route("other") };
    let all = routes(vec![low, second, other, high]);
    assert_eq!(
        outcomes(&all, &native(r#"{"mode":3}"#)),
        ["high: it is sent on as it came", "second: it is sent on as it came"]
    );
    assert_eq!(
        outcomes(&all, &native(r#"{"mode":1}"#)),
        ["high: it is not taken: when is false", "second: it is sent on as it came"]
    );
    let missing = all.process(Origin::Topic("in.a"), &native("{}"));
    assert!(matches!(&missing[0].1, Outcome::Passed(Passed::Missing(field)) if field == "data.mode"));
    let trouble = all.process(Origin::Topic("in.a"), &native(r#"{"mode":"x"}"#));
    assert!(matches!(&trouble[0].1, Outcome::Passed(Passed::Trouble(_))));
    let sky = Native { message_type: "SKY", ..native("{}") };
    assert!(outcomes(&all, &sky)[1].starts_with("second"));
    assert!(all.process(Origin::Topic("elsewhere"), &native("{}")).is_empty());
    assert!(all.process(Origin::Queue("in.a"), &native("{}")).is_empty());
    let told = all.routes()[0].declines(Origin::Topic("out.x"), "TPV");
    assert_eq!(told.as_deref(), Some("it takes from in.*"));
}

#[test]
fn what_only_passes_is_not_read() {
    let all = routes(vec![
        RouteSettings { drop: Some("noise".into()), message_types: vec!["N".into()], ..route("drop") },
        route("on"),
    ]);
    assert_eq!(outcomes(&all, &native("not json")), ["on: it is sent on as it came"]);
    let noise = Native { message_type: "N", ..native("not json") };
    assert_eq!(outcomes(&all, &noise), ["drop: it is dropped: noise"]);
}

#[test]
fn what_is_not_valid_says_why_and_comes_out_whole() {
    let checked = RouteSettings { validate: Some("tpv.json".into()), ..route("checked") };
    let all = routes(vec![checked]);
    assert_eq!(outcomes(&all, &native(r#"{"mode":1}"#)), ["checked: it is sent on as it came"]);
    assert_eq!(
        outcomes(&all, &native("{}")),
        ["checked: it is invalid: the whole: \"mode\" is a required property"]
    );
    assert_eq!(
        outcomes(&all, &native("$GPZDA")),
        ["checked: it is invalid: not JSON at byte 0: a value cannot begin like this"]
    );
    let mut out = Vec::new();
    all.routes()[0].write_invalid(&native("$G"), "why", &mut out);
    let expected = r#"{"route":"checked","reason":"why","topic":"in.a","messageType":"TPV","original":"$G"}"#;
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let mut out = Vec::new();
    all.routes()[0].write_invalid(&Native { payload: b"\xff", ..native("") }, "why", &mut out);
    assert!(String::from_utf8(out).unwrap().ends_with(r#""originalBase64":"/w=="}"#));
}

#[test]
fn an_array_is_split_and_each_part_stands_for_itself() {
    let splitting = RouteSettings {
        split: Some("list".into()),
        validate: Some("tpv.json".into()),
        transforms: true,
        rules: vec![rule("mode > m = value * 2")],
        ..route("split")
    };
    let bare =
        RouteSettings { transforms: false, output: Form::Payload, validate: None, ..splitting.clone() };
    let all = routes(vec![splitting]);
    let message = native(r#"{"list":[{"mode":1},{},{"mode":"x"},{"mode":2.5}]}"#);
    let outcome = all.process(Origin::Topic("in.a"), &message).remove(0).1;
    let Outcome::Made(parts) = outcome else { panic!("{outcome:?}") };
    let told: Vec<String> = parts
        .iter()
        .map(|(part, _)| match part {
            Part::Invalid { part, reason } => format!("{part} {reason}"),
            other => other.data().unwrap().to_string(),
        })
        .collect();
    assert_eq!(told[0], r#"{"m":2}"#);
    assert_eq!(told[1], "{} the whole: \"mode\" is a required property");
    assert!(told[2].starts_with(r#"{"mode":"x"} rule 1 (mode) with the value "x""#), "{}", told[2]);
    assert_eq!(told[3], r#"{"m":5.0}"#);
    let mut out = Vec::new();
    parts[0].0.write("topic:out", std::time::Duration::ZERO, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"{"messageType":"TPV","timestamp":"1970-01-01T00:00:00Z","destination":"topic:out","transformedData":{"m":2},"#,
            r#""processingMetadata":{"transformVersion":"3","processingTime":"PT0S"}}"#
        )
    );
    let all = routes(vec![bare]);
    assert_eq!(outcomes(&all, &native(r#"{"list":[1,{"a":2}]}"#)), ["split: it becomes 2 messages"]);
    assert_eq!(
        outcomes(&all, &native(r#"{"list":7}"#)),
        ["split: it is invalid: split: list is a number, not an array"]
    );
    assert_eq!(outcomes(&all, &native("{}")), ["split: it is invalid: split: list is missing"]);
    let many = format!("{{\"list\":[{}]}}", vec!["1"; 1001].join(","));
    assert_eq!(
        outcomes(&all, &native(&many)),
        [
            "split: it is invalid: split: list has 1001 elements; at most 1000 (route_limits.split_messages_max)"
        ]
    );
}

#[test]
fn a_source_is_who_sent_it_or_mapped_to_that() {
    let enveloped = RouteSettings { input: Form::Envelope, when: Some("true".into()), ..route("e") };
    let mut settings = Settings { routes: vec![enveloped], ..Settings::default() };
    let text = r#"{"messageType":"T","timestamp":"2026-01-01T00:00:00Z","source":"gps-box","data":{}}"#;
    let compiled = |settings: &Settings| Routes::compile(settings, &mut |_| Err(String::new())).unwrap();
    assert_eq!(
        outcomes(&compiled(&settings), &native(text)),
        [
            "e: it is invalid: envelope: source is \"gps-box\", but it was sent by \"gpsd\"; the key sources: may map them"
        ]
    );
    settings.sources.insert("gps-box".into(), "gpsd".into());
    assert_eq!(outcomes(&compiled(&settings), &native(text)), ["e: it is sent on as it came"]);
}

#[test]
fn a_set_with_a_fault_is_refused_with_the_key_of_the_fault() {
    let refused = |change: &dyn Fn(&mut RouteSettings)| {
        let mut settings = Settings { routes: vec![route("a"), route("b")], ..Settings::default() };
        settings.routes[1].key = "routes.1".into();
        settings.routes[1].rules_key = "routes.1.transform.rules".into();
        change(&mut settings.routes[1]);
        let fault = Routes::compile(&settings, &mut |file| Err(format!("{file}: no such file"))).unwrap_err();
        format!("{}: {}", fault.key, fault.message)
    };
    assert_eq!(
        refused(&|route| route.name = "a".into()),
        "routes.1.name: there is a route \"a\" before this one"
    );
    assert_eq!(
        refused(&|route| route.validate = Some("x.json".into())),
        "routes.1.validate: x.json: no such file"
    );
    assert!(
        refused(&|route| route.when = Some("value > 1".into()))
            .starts_with("routes.1.when: there is a value in rules")
    );
    assert!(
        refused(&|route| route.split = Some("a.*".into())).starts_with("routes.1.split: leads to one array")
    );
    assert!(
        refused(&|route| route.rules = vec![rule("a > b = 1 +")])
            .starts_with("routes.1.transform.rules.0.transform: rule 1")
    );
    let sends_to_itself = |route: &mut RouteSettings| route.tap = Some(Destination::Topic("in.b".into()));
    assert!(refused(&sends_to_itself).starts_with("routes.1: messages would go round"));
    let limited = Settings {
        routes: vec![route("a"), route("b")],
        limits: Limits { routes_max: 1, ..Limits::default() },
        ..Settings::default()
    };
    let fault = Routes::compile(&limited, &mut |_| Err(String::new())).unwrap_err();
    assert_eq!(fault.message, "there are 2 routes; at most 1 (route_limits.routes_max)");
}

#[test]
fn values_of_a_configuration_are_those_of_json() {
    let read: Value<'static> = yaml("{a: [1, -2, 2.5, true, null, text, 18446744073709551615], b: {c: '1'}}");
    assert_eq!(read.to_string(), r#"{"a":[1,-2,2.5,true,null,"text",18446744073709551615],"b":{"c":"1"}}"#);
    assert!(serde_yaml::from_str::<Value<'static>>(".inf").is_err());
}

proptest! {
    /// Rules that copy, in any order, against a plain model: each field where it should be and nowhere else.
    #[test]
    fn copies_and_moves_are_those_of_a_plain_model(
        fields in prop::collection::btree_map("[a-e]", any::<i32>(), 0..6),
        steps in prop::collection::vec(("[a-f]", "[a-h]", 0..4_u8), 0..8),
    ) {
        let data = Value::Object(fields.iter().map(|(key, int)| (key.clone(), Value::int((*int).into()))).collect());
        let (mut left, mut expected) = (fields.clone(), BTreeMap::new());
        let mut rules = Vec::new();
        for (source, target, kind) in &steps {
            let found = left.get(source).copied();
            let mut rule = rule(&format!("{source} > {target}"));
            match kind {
                0 => { if let Some(found) = found { expected.insert(target.clone(), i128::from(found)); } }
                1 => {
                    rule.takes = true;
                    if let Some(found) = left.remove(source) { expected.insert(target.clone(), i128::from(found)); }
                }
                2 => {
                    rule.default = Some(Value::int(7));
                    expected.insert(target.clone(), found.map_or(7, i128::from));
                }
                _ => {
                    rule.transform = Some("value * 2 + 1".to_owned());
                    if let Some(found) = found { expected.insert(target.clone(), i128::from(found) * 2 + 1); }
                }
            }
            rules.push(rule);
        }
        let limits = Limits::default();
        let rules = Rules::compile(&rules, Start::Empty, &Tables::new(), &limits).unwrap();
        let head = Head {
            message_type: "".into(), unix_nanos: 0, source: "".into(), version: "".into(), priority: 0, topic: "".into(),
        };
        let made = rules.apply(data, &head, &mut Meter::new(&limits)).unwrap();
        let expected = Value::Object(expected.into_iter().map(|(key, int)| (key, Value::int(int))).collect());
        prop_assert!(made == expected, "{} is not {}", made, expected);
    }
}
