//! A newcomer's walk: the commands of the README, as they stand there, against a broker without any configuration.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Broker, have, tramline};

const README: &str = include_str!("../README.md");

/// The commands of one section, without those that build.
fn commands(section: &str) -> Vec<&'static str> {
    let text = README.split("\n## ").find(|part| part.starts_with(section)).expect("a section of the README");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty());
    lines.filter(|line| !line.starts_with("cargo ") && !line.starts_with("export ")).collect()
}

#[test]
fn every_command_of_the_walk_does_what_it_says() {
    if !have("socat") || !have("curl") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let runtime = home.path().to_owned();
    let program = Path::new(env!("CARGO_BIN_EXE_tramline"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut lines = commands("A walk with two terminals");

    // The first terminal: no argument, no configuration.
    assert_eq!(lines.remove(0), "tramline serve");
    let mut serve = tramline();
    serve.arg("serve").env("XDG_RUNTIME_DIR", &runtime).env("XDG_STATE_HOME", runtime.join("state"));
    let socket = runtime.join("tramline/tramline.sock");
    let broker = Broker::spawn(home, socket.clone(), serve);

    let shell = |line: &str| {
        let mut command = Command::new("bash");
        command
            .args(["-ec", line])
            .env("PATH", &path)
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("SOCKET", &socket);
        command.env_remove("TRAMLINE_SOCKET").stdin(Stdio::null());
        command
    };

    // The second: it shows one JSON object for each message, as its output is a pipe here.
    assert_eq!(lines.remove(0), "tramline sub '>'");
    let mut watching = shell("exec tramline sub '>'").stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = BufReader::new(watching.stdout.take().unwrap()).lines();
    while !broker.http("/status").contains("\"filter\": \">\"") {
        assert!(watching.try_wait().unwrap().is_none(), "sub ended");
    }

    let mut tried = 0;
    let mut instances = Vec::new();
    for line in lines {
        tried += 1;
        if line.starts_with("SOCKET=") {
            let shown = shell(&format!("{line}; echo $SOCKET")).output().unwrap().stdout;
            assert_eq!(String::from_utf8(shown).unwrap().trim(), socket.to_str().unwrap());
        } else if line.starts_with("tramline reply") {
            // It answers until it is interrupted.
            instances.push(shell(&format!("exec {line}")).stdout(Stdio::null()).spawn().unwrap());
            let provided = "\"provider\":1";
            while broker.http("/status").replace(' ', "").matches(provided).count() < instances.len() {
                assert!(
                    instances.iter_mut().all(|instance| instance.try_wait().unwrap().is_none()),
                    "{line}"
                );
            }
        } else if line.contains("-t3600") {
            // It listens for an hour; here until it has answered.
            let mut listener = shell(line).stdout(Stdio::piped()).spawn().unwrap();
            let mut answer = String::new();
            BufReader::new(listener.stdout.take().unwrap()).read_line(&mut answer).unwrap();
            assert!(answer.contains(r#""ok":true"#), "{line}: {answer}");
            listener.kill().unwrap();
            listener.wait().unwrap();
        } else {
            let output = shell(line).output().unwrap();
            let told = line.split("exit status ").nth(1).map(|rest| rest.trim_end_matches(')'));
            let expected = told.map_or(0, |status| status.parse().unwrap());
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(expected), "{line}\n{said}");
            let answer = String::from_utf8_lossy(&output.stdout);
            assert!(!answer.contains(r#""ok":false"#), "{line}: {answer}");
        }
    }
    assert!(tried > 8, "only {tried} commands were found");

    // What was published meanwhile stands in the second terminal.
    let topics: Vec<String> = (0..8)
        .map(|_| {
            let line: serde_json::Value = serde_json::from_str(&seen.next().unwrap().unwrap()).unwrap();
            line["topic"].as_str().unwrap().to_owned()
        })
        .collect();
    let expected = ["gps.fix", "log.app", "counter", "counter", "counter", "counter", "counter", "gps.fix"];
    assert_eq!(topics, expected);
    for mut instance in instances {
        instance.kill().unwrap();
        instance.wait().unwrap();
    }
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn the_tour_of_routes_loses_nothing_when_the_first_service_is_killed() {
    let home = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_tramline"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut lines = commands("From a receiver to a map");
    let serving = lines.remove(0);
    let mut serve = tramline();
    serve.args(serving.strip_prefix("tramline ").unwrap().split(' '));
    let socket = home.path().join("s.sock");
    serve.arg("--socket").arg(&socket).env("XDG_STATE_HOME", home.path().join("state"));
    let temporary = home.path().to_owned();
    let broker = Broker::spawn(home, socket.clone(), serve);

    // As one script; what it has started ends with it. Instead of three seconds, until everything has been brought somewhere.
    let settled = "until tramline status --json | tr -d ' \\n' | grep -q '\"received\":313.*\"routing\":{\"messages\":0,'; do :; done";
    let script: Vec<String> = lines.iter().map(|line| line.replace("sleep 3", settled)).collect();
    assert!(script.iter().any(|line| line.contains(settled)), "{script:?}");
    let script = format!("trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{}\n", script.join("\n"));
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("PATH", &path)
        .env("TRAMLINE_SOCKET", &socket)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));

    let status = broker.json().ask(r#"{"op":"status"}"#);
    let of = |section: &str, key: &str, name: &str| {
        let all = status["status"][section].as_array().unwrap().clone();
        all.into_iter().find(|each| each[key] == name).unwrap()
    };
    let fixes = of("routes", "route", "fixes");
    let count = |route: &serde_json::Value, key: &str| route[key].as_u64().unwrap();
    assert_eq!((count(&fixes, "received"), count(&fixes, "delivered")), (313, 42), "{fixes}");
    assert_eq!(
        (count(&fixes, "invalid"), count(&fixes, "dead"), count(&fixes, "lost")),
        (250, 0, 0),
        "{fixes}"
    );
    // What came before a service was there waits in the queue behind it.
    let on_map: u64 = said.lines().find_map(|line| line.trim().parse().ok()).unwrap();
    assert_eq!(on_map + count(&of("queues", "queue", "late"), "messages"), 42, "{said}");
    let tried = |place: usize| fixes["destinations"][place].clone();
    assert!(count(&tried(1), "delivered") > 0, "the second took over: {fixes}");
    for part in
        ["fixes: it is not taken: when is false", "service:map.backup", "satellites", "\"lat\":\"***\""]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}
