//! `tramline route` and `tramline gen`, as a person runs them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use support::{Broker, tramline};
use tramline_client::Client;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/gps-to-map.yaml");

fn run(arguments: &[&str]) -> Output {
    tramline().args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_tests_beside_routes_are_run_and_what_differs_is_printed() {
    let good = run(&["route", "test", EXAMPLE]);
    assert!(good.status.success(), "{}", err(&good));
    assert!(out(&good).contains("ok     fixes: feet and kilometres an hour"), "{}", out(&good));
    assert!(out(&good).ends_with("4 routes, 10 tests, 0 failed\n"), "{}", out(&good));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.yaml");
    let text = "routes:\n- name: a\n  from: b\n  transform: {rules: [{source: x, transform: value * 2}, {source: z}]}\n  tests:\n  \
                - {name: t, input: {x: 2, z: 1}, expect: {x: 5, y: 1}}\n- {name: c, from: d}\n";
    std::fs::write(&file, text).unwrap();
    let bad = run(&["route", "test", file.to_str().unwrap()]);
    assert_eq!(bad.status.code(), Some(65));
    let expected = "FAILED a: t\n       x is 4; expected 5\n       y is missing; expected 1\n       z is 1, and not expected\n\
                    none   c: no tests\n2 routes, 1 tests, 1 failed\n";
    assert_eq!(out(&bad), expected);
    // The file may be named by the environment.
    let named = tramline().args(["route", "test"]).env("TRAMLINE_CONFIG", EXAMPLE).output().unwrap();
    assert!(named.status.success(), "{}", err(&named));
}

#[test]
fn the_file_is_named_in_three_ways_but_not_twice() {
    let by_config = run(&["route", "test", "--config", EXAMPLE]);
    assert!(by_config.status.success(), "{}", err(&by_config));
    let twice = run(&["route", "test", EXAMPLE, "--config", EXAMPLE]);
    assert_eq!(twice.status.code(), Some(64));
    assert!(err(&twice).contains("given twice"), "{}", err(&twice));

    // The words of `explain` move forward where there is no FILE.
    let explain = |variable: Option<&str>, words: &[&str]| {
        let folder = Path::new(EXAMPLE).parent().unwrap();
        let mut command = tramline();
        command.args(["route", "explain"]).args(words).current_dir(folder);
        command.envs(variable.map(|file| ("TRAMLINE_CONFIG", file))).output().unwrap()
    };
    let topic = "sensors.gps.fix";
    for message in [&[r#"{"class":"GST"}"#][..], &["words"], &["-"], &[]] {
        let words = |before: &[&'static str]| [before, &[topic], message].concat();
        let expected = explain(None, &words(&[EXAMPLE]));
        let shown = out(&expected);
        assert!(expected.status.success() && shown.contains("fixes: it "), "{shown}{}", err(&expected));
        let config = ["--config", EXAMPLE];
        for (variable, words) in [
            (None, words(&config)),
            (Some(EXAMPLE), words(&[])),
            (Some("/no/such/file.yaml"), words(&config)),
            (Some("/no/such/file.yaml"), words(&[EXAMPLE])),
            (Some("/no/such/file.yaml"), words(&["gps-to-map.yaml"])),
            (Some(""), words(&[EXAMPLE])),
        ] {
            let output = explain(variable, &words);
            assert_eq!(out(&output), shown, "{variable:?} {words:?}: {}", err(&output));
        }
        for file in [EXAMPLE, "gps-to-map.yaml"] {
            let output = explain(None, &words(&[config[0], config[1], file]));
            assert_eq!(output.status.code(), Some(64), "{}", out(&output));
            assert!(err(&output).contains("given twice"), "{}", err(&output));
        }
    }
    for (variable, words, said) in [
        (None, &[][..], "TOPIC is missing"),
        (None, &[EXAMPLE], "FILE or TOPIC is missing"),
        (Some(""), &[topic], "FILE or TOPIC is missing"),
        (None, &["--config", EXAMPLE], "TOPIC is missing"),
        (Some(EXAMPLE), &["a..b", "{}"], "is no topic"),
    ] {
        let output = explain(variable, words);
        assert_eq!(output.status.code(), Some(64), "{words:?}");
        assert!(err(&output).contains(said), "{words:?}: {}", err(&output));
    }
    let missing = explain(Some(EXAMPLE), &["./no-such.yaml", topic]);
    assert_eq!(missing.status.code(), Some(66), "{}", err(&missing));
}

#[test]
fn a_fault_in_the_file_is_told_with_its_place_and_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.yaml");
    std::fs::write(&file, "routes:\n- name: a\n  from: b\n  when: data.x >\n").unwrap();
    let bad = run(&["route", "test", file.to_str().unwrap()]);
    assert_eq!(bad.status.code(), Some(78));
    let said = err(&bad);
    assert!(said.contains("r.yaml:4:9: routes[0].when: "), "{said}");
    assert!(said.ends_with("   |\n 4 |   when: data.x >\n   |         ^\n"), "{said}");
    let missing = run(&["route", "test", "/no/such/file.yaml"]);
    assert_eq!(missing.status.code(), Some(66));
}

#[test]
fn explain_says_who_takes_it_why_others_do_not_what_comes_of_it_and_where_it_goes() {
    let fix = r#"{"class":"TPV","mode":3,"time":"2005-06-09T14:34:44Z","lat":46.50,"lon":7.5,"speed":5}"#;
    let told = out(&run(&["route", "explain", EXAMPLE, "sensors.gps.fix", fix, "--type", "TPV"]));
    assert!(told.starts_with("yes  fixes: it is transformed\n"), "{told}");
    assert!(
        told.contains(
            r#""destination":"service:map.primary","transformedData":{"position":{"latitude":46.50"#
        ),
        "{told}"
    );
    assert!(
        told.contains("to service:map.primary, service:map.backup, queue:late, topic:map.fixes (failover)"),
        "{told}"
    );
    assert!(told.contains("each try 2s, 3 more, after 50ms to 1s; then queue:dead.gps"), "{told}");
    assert!(
        told.contains("no   satellites: fixes has taken it, and lets no other go on (then: stop)"),
        "{told}"
    );

    let other = out(&run(&["route", "explain", EXAMPLE, "sensors.gps.fix", r#"{"class":"GST"}"#]));
    assert!(other.contains("no   fixes: it is not taken: when is false (data.class == 'TPV'"), "{other}");
    assert!(other.ends_with("yes  rest: it is dropped: a record that no map needs\n"), "{other}");

    let broken = out(&run(&["route", "explain", EXAMPLE, "sensors.gps.fix", "$GPZDA"]));
    assert!(
        broken.contains("to topic:invalid.gps:\n") && broken.contains(r#""original":"$GPZDA"}"#),
        "{broken}"
    );

    let elsewhere = out(&run(&["route", "explain", EXAMPLE, "cam.front", "{}"]));
    assert!(
        elsewhere.contains("no   fixes: it takes from sensors.gps.*")
            && elsewhere.ends_with("no route takes it\n")
    );
    let unseen = out(&run(&["route", "explain", EXAMPLE, "sensors.gps.fix"]));
    assert!(unseen.contains("yes  ships: it looks at such a message, if data.class == 'AIS'"), "{unseen}");
    assert_eq!(run(&["route", "explain", EXAMPLE, "a..b"]).status.code(), Some(64));
}

#[test]
fn test_messages_go_to_a_file_to_standard_output_and_to_a_topic() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test-data.json");
    let same = ["--seed", "7", "--start", "2026-01-01T00:00:00Z"];
    let array = [&["gen", "-n", "20", "--array", "-o", file.to_str().unwrap()], &same[..]].concat();
    assert!(run(&array).status.success());
    let array: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let lines = out(&run(&[&["gen", "-n", "20"], &same[..]].concat()));
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((array.len(), &array), (20, &lines));
    assert_eq!(lines[0]["messageType"], "test-data");

    let broker = Broker::start();
    let client: Client = broker.client("listener");
    let mut subscription = client.subscribe("sensors.>").unwrap();
    let mut publish: Command = tramline();
    publish.args([
        "gen",
        "-n",
        "20",
        "--rate",
        "2000",
        "--type",
        "T",
        "--source",
        "me",
        "--topic",
        "sensors.test",
    ]);
    publish.args(same).arg("--socket").arg(broker.socket());
    let published = publish.output().unwrap();
    assert!(published.status.success(), "{}", err(&published));
    for number in 0..20 {
        let message = subscription.recv().unwrap();
        let envelope: serde_json::Value = serde_json::from_slice(message.payload()).unwrap();
        assert_eq!((message.message_type(), &envelope["source"]), (Some("T"), &"me".into()));
        assert_eq!(envelope["data"].as_object().unwrap().len(), 3, "message {number}");
    }
    assert_eq!(run(&["gen", "--field", "x=nothing"]).status.code(), Some(64));
    assert_eq!(run(&["gen", "--start", "soon"]).status.code(), Some(64));
    assert_eq!(run(&["gen", "-o", "/no/such/folder/file"]).status.code(), Some(73));
}
