//! What expressions are worth, what is refused at load, and every limit by name.

use super::*;
use crate::routes::parse::parse;

const DATA: &str = r#"{"mode":3,"speed":3,"altMSL":1344.9947,"name":" Sea Star ","tags":["a","b"],"none":null,
    "position":{"lat":46.5,"lon":7.5},"sats":[{"ss":40,"used":true},{"ss":12.5,"used":false},{"used":true}],
    "big":18446744073709551615,"time":"2005-06-09T14:34:44.280Z"}"#;

fn tables() -> Tables {
    let colours = [("1", Value::text("red")), ("2", Value::text("green"))];
    let colours = colours.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Tables::from([("colours".to_owned(), Arc::new(colours))])
}

fn head() -> Head<'static> {
    Head {
        message_type: "TPV".into(),
        unix_nanos: 1_118_327_684_280_000_000,
        source: "gpsd".into(),
        version: "1.0".into(),
        priority: 4,
        topic: "sensors.gps.fix".into(),
    }
}

fn with(text: &str, value: &str, limits: &Limits) -> Result<String, String> {
    let tables = tables();
    let expression = Expression::compile(text, Names { value: true, tables: &tables }, limits)?;
    let data = parse(DATA.as_bytes(), &Limits::default()).unwrap();
    let value = parse(value.as_bytes(), &Limits::default()).unwrap();
    let head = head();
    let scope = Scope { value: Some(&value), data: &data, head: &head };
    let got = expression.evaluate(&scope, &mut Meter::new(limits));
    got.map(|value| value.to_string()).map_err(|trouble| trouble.to_string())
}

fn worth(text: &str, value: &str) -> String {
    with(text, value, &Limits::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    with(text, "null", &Limits::default()).unwrap_err()
}

#[test]
fn numbers_behave() {
    let cases = [
        ("value * 3.6", "3", "10.8"),
        ("value * 3.6", "3.5", "12.6"),
        ("3.6 * value", "3", "10.8"),
        ("value + 1", "2.5", "3.5"),
        ("value + 1", "2", "3"),
        ("value / 2", "6", "3"),
        ("value / 2", "7", "3.5"),
        ("value % 4", "7", "3"),
        ("-value", "3", "-3"),
        ("round(value / 0.3048, 1)", "1344.9947", "4412.7"),
        ("round(value)", "2.5", "3"),
        ("round(value)", "-2.5", "-3"),
        ("round(value, -2)", "1250", "1300"),
        ("round(value, 2)", "7", "7"),
        ("floor(value) + ceil(value)", "1.5", "3"),
        ("abs(value)", "-1.5", "1.5"),
        ("clamp(value, 0, 9)", "12", "9"),
        ("clamp(value, 0, 9)", "-1", "0"),
        ("scale(value, 0, 1023, 0, 5)", "1023", "5.0"),
        ("min(value, 2, 1.5)", "3", "1.5"),
        ("max([1, value])", "3", "3"),
        ("int(value)", "\"12\"", "12"),
        ("int(value)", "-3.9", "-3"),
        ("double(value)", "\" 1.5 \"", "1.5"),
        ("value == 3.0 && value < 3.5 && value >= 3", "3", "true"),
        ("data.big + 0", "0", "18446744073709551615"),
        ("data.big == 18446744073709551615u", "0", "true"),
    ];
    for (text, value, expected) in cases {
        assert_eq!(worth(text, value), expected, "{text} of {value}");
    }
    for (text, expected) in [
        ("1 / 0", "1 / 0: there is no division by 0"),
        ("data.big + 1", "18446744073709551615 + 1: is more than a number can say"),
        ("1e308 * 10", "1e308 * 10: is more than a number can say"),
        ("value * 2", "* cannot be applied to null and a number"),
        ("'a' + 1", "+ cannot be applied to a text and a number"),
        ("int('x')", "int: \"\\\"x\\\"\" is no number"),
        ("round('1')", "round: argument 1 is a text, not a number"),
        ("clamp(1, 3, 2)", "clamp: the lower bound is above the upper one"),
        ("scale(1, 2, 2, 0, 1)", "scale: the first range is empty, or a number too large"),
        ("int(1e30)", "int: it is more than 64 bits can say"),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
}

#[test]
fn texts_are_worked_on() {
    let cases = [
        ("lower(trim(data.name))", "\"sea star\""),
        ("data.name.trim().upper()", "\"SEA STAR\""),
        ("value.split(',')", r#"["a","b","","c"]"#),
        ("join(value.split(','), '-')", r#""a-b--c""#),
        ("join([1, 'x', true])", r#""1xtrue""#),
        ("replace(value, ',', ';')", r#""a;b;;c""#),
        ("substring(value, 2, 3)", r#""b""#),
        ("substring(value, 2)", r#""b,,c""#),
        ("size(value) + size(data.tags)", "8"),
        ("value.contains('b') && value.startsWith('a') && value.endsWith('c')", "true"),
        ("value.matches('^[a-c,]+$')", "true"),
        ("regex_find(value, 'b(,+)c')", r#"",,""#),
        ("regex_find(value, 'z')", "null"),
        ("regex_replace(value, '([ab]),', '$1.')", r#""a.b.,c""#),
        ("format('{} {{{:.2}}} {}', value, 1.005, 3)", r#""a,b,,c {1.00} 3""#),
        ("redact(value)", r#""***""#),
        ("redact('4111111111111111', 4)", r#""***1111""#),
        ("redact('ab', 4)", r#""***b""#),
        ("string(1.50) + string([1])", r#""1.5[1]""#),
        ("bool('TRUE') && bool(1)", "true"),
    ];
    for (text, expected) in cases {
        assert_eq!(worth(text, "\"a,b,,c\""), expected, "{text}");
    }
    for (text, expected) in [
        ("split('a', '')", "split: the separator is empty"),
        ("format('{} {}', 1)", "format: there are more {} than values"),
        ("format('{}', 1, 2)", "format: there are more values than {}"),
        ("format('{', 1)", "format: a brace stands alone; {{ and }} are braces"),
        ("format('{:x}', 1)", "format: there is no {:x}, but {} and {:.0} to {:.18}"),
        ("lower(1)", "lower: argument 1 is a number, not a text"),
        ("substring('a', -1)", "substring: there is no place -1"),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
}

#[test]
fn times_are_turned_into_each_other() {
    let cases = [
        ("time_unix(data.time)", "1118327684.28"),
        ("time_unix('2005-06-09T14:34:44Z')", "1118327684"),
        ("time_iso(1118327684)", "\"2005-06-09T14:34:44Z\""),
        ("time_iso(time_unix(data.time))", "\"2005-06-09T14:34:44.280Z\""),
        ("time_format(data.time, '%d.%m.%Y %H:%M')", "\"09.06.2005 14:34\""),
        ("time_parse('090605 143444', '%d%m05 %H%M%S')", "\"1970-06-09T14:34:44Z\""),
        ("message.timestamp", "\"2005-06-09T14:34:44.280Z\""),
    ];
    for (text, expected) in cases {
        assert_eq!(worth(text, "null"), expected, "{text}");
    }
    assert_eq!(
        refused("time_unix('now')"),
        "time_unix: \"now\" is no ISO 8601 time such as 2026-11-23T12:34:56.5Z"
    );
    assert_eq!(refused("time_iso(1e300)"), "time_iso: it lies outside 1677 to 2262");
}

#[test]
fn what_is_around_a_message_is_known() {
    let cases = [
        ("message.messageType + ' ' + message.source + ' ' + message.topic", "\"TPV gpsd sensors.gps.fix\""),
        ("metadata.priority * 2", "8"),
        ("message.metadata.version", "\"1.0\""),
        ("metadata", r#"{"version":"1.0","priority":4}"#),
        ("message.data.mode == data.mode && size(message) == 6", "true"),
        ("lookup('colours', 2)", "\"green\""),
        ("lookup('colours', '3')", "null"),
        ("lookup('colours', data.mode, 'none')", "\"none\""),
        ("coalesce(data.nothing, data.none, data.position.x, data.position.lat, 1 / 0)", "46.5"),
        ("coalesce(data.none)", "null"),
        ("has(data.mode) && !has(data.x) && !has(data.x.y) && has(message.source)", "true"),
        ("'lat' in data.position && 'b' in data.tags && !(3 in [1, 2])", "true"),
        ("0 in data.position", "false"),
        ("data.tags[1] + data['name']", "\"b Sea Star \""),
        ("{'a': data.tags, 'b': [1]}", r#"{"a":["a","b"],"b":[1]}"#),
        ("data.mode >= 2 ? 'fix' : 'none'", "\"fix\""),
    ];
    for (text, expected) in cases {
        assert_eq!(worth(text, "null"), expected, "{text}");
    }
    assert_eq!(refused("data.position.x > 1"), "data.position.x is missing");
    assert_eq!(refused("data.none.x"), "data.none.x is missing");
    assert_eq!(refused("data.tags[2]"), "the element 2 is missing");
    assert_eq!(refused("data.mode.x"), "data.mode.x cannot be: what is before .x is a number");
    assert_eq!(refused("{'a': 1, 'a': 2}"), "the key \"a\" stands twice in an object");
    assert_eq!(refused("data.mode && true"), "&& needs true or false, not a number");
}

#[test]
fn lists_are_run_through() {
    let cases = [
        ("data.sats.filter(s, s.used).size()", "2"),
        ("data.sats.filter(s, has(s.ss)).map(s, s.ss * 2)", "[80,25.0]"),
        ("data.sats.map(s, has(s.ss), s.ss)", "[40,12.5]"),
        ("data.sats.all(s, has(s.used))", "true"),
        ("data.sats.exists(s, has(s.ss) && s.ss > 30)", "true"),
        ("data.sats.exists_one(s, s.used)", "false"),
        ("data.position.map(k, upper(k))", r#"["LAT","LON"]"#),
        ("[1, 2].map(x, [3, 4].map(y, x * y))", "[[3,4],[6,8]]"),
        ("max(data.sats.map(s, coalesce(s.ss, 0)))", "40"),
        ("[1, 2].map(x, x).filter(x, x > 1) + [x for_nobody].map(y, y)", ""),
    ];
    for (text, expected) in &cases[..cases.len() - 1] {
        assert_eq!(worth(text, "null"), *expected, "{text}");
    }
    assert!(with(cases[cases.len() - 1].0, "null", &Limits::default()).is_err());
    assert_eq!(refused("data.mode.map(x, x)"), "a number cannot be run through");
    // An error within is an error of the whole, and what stands around it goes on with the right variables.
    assert_eq!(worth("[1].map(x, coalesce(data.sats.map(s, s.nothing), x))", "null"), "[1]");
}

#[test]
fn a_side_that_decides_needs_no_other() {
    for text in [
        "data.x == 1 || true",
        "true || data.x == 1",
        "!(data.x == 1 && false)",
        "1 / 0 == 1 || data.mode == 3",
    ] {
        assert_eq!(worth(text, "null"), "true", "{text}");
    }
    assert_eq!(refused("data.x == 1 || false"), "data.x is missing");
}

#[test]
fn what_cannot_be_is_refused_at_load() {
    let tables = Tables::new();
    let compiled =
        |text: &str, value| Expression::compile(text, Names { value, tables: &tables }, &Limits::default());
    let cases = [
        ("nothing.x", "there is nothing called \"nothing\"; there are value, data, metadata and message"),
        ("frobnicate(1)", "there is no function \"frobnicate\""),
        ("round()", "round takes 1 to 2 arguments, not 0"),
        ("clamp(1)", "clamp takes 3 arguments, not 1"),
        ("lookup('t', 1)", "there is no table \"t\" under tables:"),
        ("lookup(data.t, 1)", "lookup takes the name of a table between quotation marks"),
        ("matches('a', '(')", "matches: regex parse error"),
        ("'a'.matches(data.p)", "matches takes 2 arguments, the second of which is a regular expression"),
        ("'a'.matches('(a{1000}){1000}')", "size limit"),
        ("1 +", "column"),
        ("", ""),
        ("b'x'", "there are no bytes in JSON"),
        ("Point{x: 1}", "there is no type \"Point\" here"),
        ("data.?x", ""),
    ];
    for (text, expected) in cases {
        let said = compiled(text, true).expect_err(text);
        assert!(said.contains(expected) && !said.is_empty(), "{text}: {said}");
    }
    assert!(compiled("value", false).unwrap_err().contains("in rules only"));
}

#[test]
fn each_limit_is_named_when_it_is_reached() {
    let limits = |name: &str, most: usize| {
        let mut limits = Limits::default();
        *limits.slot(name).unwrap() = most;
        limits
    };
    let nested = format!("{}1{}", "(-".repeat(100), ")".repeat(100));
    let wide = vec!["1"; 400].join("+");
    let cases = [
        ("expression_bytes_max", 8, "1 + 1 + 1", "9 bytes; at most 8"),
        ("expression_nodes_max", 4, "[1, 2, 3, 4]", ""),
        ("expression_depth_max", 5, "-(-(-(-(-(-data.mode)))))", ""),
        ("steps_max", 50, "[1,2,3,4,5,6,7,8,9].map(x, x * 2 + 1)", "at most 50 (route_limits.steps_max)"),
        ("result_bytes_max", 10, "'abcdef' + 'ghijkl'", "12 bytes would be made; at most 10"),
        ("result_bytes_max", 10, "replace('aaaa', 'a', 'bbbb')", "16 bytes would be made"),
        ("result_bytes_max", 10, "regex_replace('aaaa', 'a', '$0$0$0')", "at most 10"),
        (
            "result_bytes_max",
            40,
            "format('{}{}', 'aaaaaaaaaaaaaaaaaaaaaaa', 'bbbbbbbbbbbbbbbbbbbbbbb')",
            "at most 40",
        ),
        ("result_bytes_max", 40, "split('a,b', ',')", "at most 40"),
    ];
    for (name, most, text, expected) in cases {
        let said = with(text, "null", &limits(name, most)).expect_err(text);
        assert!(said.contains(expected), "{text}: {said}");
        assert!(with(text, "null", &Limits::default()).is_ok(), "{text} within the defaults");
    }
    for text in [&nested, &wide] {
        let said = with(text, "null", &Limits::default()).expect_err(text);
        assert!(!said.is_empty() && said.len() < 500, "{said}");
    }
    // The deepest that can be allowed: refused or worth something, and no stack is used up.
    let deepest = limits("expression_depth_max", 96);
    for depth in [10, 20, 40, 90, 95, 96] {
        for (open, close) in [("(-", ")"), ("[", "]"), ("abs(", ")"), ("true ? 1 : ", ""), ("1 + ", "")] {
            let text = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let worth = with(&text, "null", &deepest);
            assert!(worth.is_ok() || depth > 10, "{text}: {worth:?}");
        }
    }
    // Whatever the clock: no time at all is too little for what takes more than a look at it.
    let many = "[1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, [1,2,3,4,5,6,7,8,9,10].map(c, a * b * c)))";
    let said = with(many, "null", &limits("micros_max", 0)).unwrap_err();
    assert!(said.contains("at most 0 (route_limits.micros_max)"), "{said}");
    assert!(with(many, "null", &Limits::default()).is_ok());
}

#[test]
fn copying_is_charged() {
    let text = "[1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10].map(b, value))";
    let long = format!("\"{}\"", "x".repeat(100_000));
    let said = with(text, &long, &Limits::default()).unwrap_err();
    assert!(said.contains("route_limits.steps_max"), "{said}");
    // So is looking through, where nothing is copied.
    for text in
        ["value == value", "value <= value", "value in [value]", "[value] == [value]", "size(value) > 0"]
    {
        let many = format!("[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, {text}))");
        let said = with(&many, &long, &Limits::default()).expect_err(text);
        assert!(said.contains("route_limits.steps_max"), "{text}: {said}");
    }
}
