//! The shipped example, `config/examples/gps-to-map.yaml`, on captures of real receivers: what it makes of each line is
//! what a separate script, `tests/routes/expected.py`, makes of it, and every line is accounted for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::have;
use tramline::config::Config;
use tramline::routes::Routes;
use tramline::routes::envelope::Native;
use tramline::routes::limits::Limits;
use tramline::routes::parse::parse;
use tramline::routes::route::{Origin, Outcome};
use tramline::routes::value::Value;
use tramline::routes::{expression::Meter, trial};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn example() -> Routes {
    Config::with_routes(&root().join("config/examples/gps-to-map.yaml"))
        .unwrap_or_else(|error| panic!("{error}"))
        .1
}

/// The capture that comes with the program, and those of `TRAMLINE_CAPTURES`.
fn captures() -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths = vec![root().join("src/cli/demo/capture.nmea")];
    let folders = std::env::var_os("TRAMLINE_CAPTURES").unwrap_or_default();
    for folder in std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty()) {
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn lines(capture: &[u8]) -> Vec<&[u8]> {
    capture.strip_suffix(b"\n").unwrap_or(capture).split(|byte| *byte == b'\n').collect()
}

/// What a message becomes, as the script says it.
fn verdict(routes: &Routes, payload: &[u8]) -> (String, Option<String>) {
    let native = Native { topic: "sensors.gps.fix", publisher: "gpsd", payload, ..Native::default() };
    for (route, outcome) in routes.process(Origin::Topic(native.topic), &native) {
        let name = route.settings().name.clone();
        match outcome {
            Outcome::Passed(_) => {}
            Outcome::Dropped(_) => return (name, None),
            Outcome::Invalid(_) => return ("invalid".to_owned(), None),
            Outcome::Made(parts) => return (name, Some(parts[0].0.data().unwrap().to_string())),
            Outcome::Forwarded(_) => panic!("no route of the example only forwards"),
        }
    }
    ("none".to_owned(), None)
}

fn script(capture: &[u8]) -> Vec<String> {
    let mut child = Command::new("python3")
        .arg(root().join("tests/routes/expected.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let capture = capture.to_vec();
    // It reads all before it writes.
    let feeder = std::thread::spawn(move || input.write_all(&capture));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_line_of_a_capture_becomes_what_a_separate_script_says() {
    if !have("python3") {
        return;
    }
    let routes = example();
    for (path, capture) in captures() {
        let (lines, expected) = (lines(&capture), script(&capture));
        assert_eq!(lines.len(), expected.len(), "{}", path.display());
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (number, (line, expected)) in lines.iter().zip(&expected).enumerate() {
            let place = || format!("{}:{}: {}", path.display(), number + 1, String::from_utf8_lossy(line));
            let (kind, data) = verdict(&routes, line);
            let expected = parse(expected.as_bytes(), &Limits::default()).unwrap();
            let Value::Array(expected) = &expected else { panic!("a list") };
            assert_eq!(expected[0].as_text(), Some(kind.as_str()), "{}", place());
            let made = data.as_ref().map(|data| parse(data.as_bytes(), &Limits::default()).unwrap());
            match (made, expected.get(1)) {
                (None, None) => {}
                (Some(made), Some(expected)) => {
                    assert!(made == *expected, "{made}\nis not {expected}\nof {}", place())
                }
                (made, expected) => panic!("{made:?}, not {expected:?}: {}", place()),
            }
            *counts.entry(kind).or_default() += 1;
        }
        // Every line is accounted for, and the capture has what the example is about.
        assert_eq!(counts.values().sum::<usize>(), lines.len());
        assert!(counts.contains_key("invalid"), "{}: {counts:?}", path.display());
    }
}

#[test]
fn digits_of_positions_pass_through_untouched() {
    let routes = example();
    let record = br#"{"class":"TPV","mode":3,"time":"t","lat":52.842278167,"lon":5.705820000}"#;
    let (kind, data) = verdict(&routes, record);
    assert_eq!(kind, "fixes");
    assert!(data.unwrap().contains(r#""latitude":52.842278167,"longitude":5.705820000"#));
}

#[test]
fn every_shipped_example_compiles_and_keeps_its_tests() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let (_, routes) = Config::with_routes(&path).unwrap_or_else(|error| panic!("{error}"));
        let trials = trial::run(&routes);
        for trial in &trials {
            assert!(trial.differences.is_empty(), "{}: {trial:?}", path.display());
        }
        for route in routes.routes() {
            let name = &route.settings().name;
            assert!(
                trials.iter().any(|trial| trial.route == *name),
                "{name} of {} has no test",
                path.display()
            );
        }
        count += 1;
    }
    assert!(count > 0);
}

/// Half of what can go wrong, mixed with what is right: every message is accounted for, as often as it is tried.
#[test]
fn received_is_made_and_dropped_and_invalid_and_left() {
    let routes = example();
    let mut counts = [0_usize; 4];
    let valid = br#"{"class":"TPV","mode":3,"time":"t","lat":1}"#.as_slice();
    let messages = [
        valid,
        b"{\"class\":\"GST\"}",
        b"$GP",
        b"{}",
        b"{\"class\":\"AIS\"}",
        b"{\"class\":\"SKY\",\"satellites\":7}",
    ];
    for round in 0..600 {
        let native =
            Native { topic: "sensors.gps.x", payload: messages[round % messages.len()], ..Native::default() };
        let mut meter = Meter::new(routes.limits());
        let mut taken = routes.routes().iter().map(|route| routes.treat(route, &native, &mut meter));
        let place = match taken.find(|outcome| !matches!(outcome, Outcome::Passed(_))) {
            Some(Outcome::Made(_) | Outcome::Forwarded(_)) => 0,
            Some(Outcome::Dropped(_)) => 1,
            Some(Outcome::Invalid(_)) => 2,
            _ => 3,
        };
        counts[place] += 1;
    }
    assert_eq!(counts, [100, 100, 300, 100]);
}

#[test]
fn the_shipped_schemas_are_schemas() {
    for folder in ["config/schemas", "config/examples/schemas"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path: &Path = &entry.unwrap().path();
            let text = std::fs::read_to_string(path).unwrap();
            let schema = tramline::routes::schema::Schema::compile(&text, &Limits::default());
            schema.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}
