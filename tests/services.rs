//! Services with real processes: instances that die, callers that give up, people with socat, a broker that comes back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::{Broker, Watchdog, have, skipped, this_program, tramline};
use tramline_client::{Client, Code, Error, Request};

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    result.unwrap_err().code()
}

/// Has a service provided by a thread of this process, which lives as long as its client.
fn provide<E: std::fmt::Display + Send>(
    client: &Client,
    service: &str,
    handler: impl Fn(&Request) -> Result<(), E> + Send + Sync + 'static,
) {
    let (client, service) = (client.clone(), service.to_owned());
    std::thread::spawn(move || client.service(&service).handle(handler));
}

#[test]
fn a_request_is_answered_by_whoever_provides_the_service() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (caller, instance) = (broker.client("caller"), broker.client("instance"));
    assert_eq!(code(caller.request("echo", b"x").send()), Code::NoInstance);
    let mut requests = instance.service("echo").start().unwrap();
    let pending = caller.request("echo", b"hello").text().type_("t").start().unwrap();
    let request = requests.recv().unwrap();
    assert_eq!((request.text().unwrap(), request.message_type()), ("hello", Some("t")));
    assert_eq!(request.publisher().name, "caller");
    request.reply_text("olleh").unwrap();
    assert_eq!(code(request.reply("again")), Code::SettledTwice);
    let answer = pending.wait().unwrap();
    assert_eq!((answer.text().unwrap(), answer.publisher().name.as_str()), ("olleh", "instance"));
    drop(requests);
    instance.ping().unwrap();
    assert_eq!(code(caller.request("echo", b"x").send()), Code::NoInstance);
}

#[test]
fn a_handler_answers_refuses_panics_and_forgets() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (caller, instance) = (broker.client("caller"), broker.client("instance"));
    provide(&instance, "s", |request: &Request| match request.text().unwrap() {
        "reply" => request.reply("yes"),
        "error" => request.reply_error(404, "no such place"),
        "result" => Err(Error::Closed),
        "panic" => panic!("this panic is part of the test"),
        _ => Ok(()),
    });
    let ask = |what: &str| caller.request("s", what).text().timeout(Duration::from_secs(30)).send();
    while matches!(ask("reply"), Err(error) if error.code() == Code::NoInstance) {}
    assert_eq!(ask("reply").unwrap().payload(), b"yes");
    assert!(matches!(ask("error"), Err(Error::Reply { number: 404, text }) if text == "no such place"));
    assert!(matches!(ask("result"), Err(Error::Reply { number: 0, text }) if text == "closed"));
    let failed = ask("panic").unwrap_err();
    assert!(failed.code() == Code::InstanceFailed && failed.to_string().contains("panicked"), "{failed}");
    assert_eq!(code(ask("forget")), Code::InstanceFailed);
    assert_eq!(ask("reply").unwrap().payload(), b"yes");
}

#[test]
fn async_says_the_same_words() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder().socket(broker.socket()).connect_async().await.unwrap();
        assert_eq!(code(client.request("s", b"x").send().await), Code::NoInstance);
        let mut requests = client.service("s").concurrency(4).start().await.unwrap();
        let (answer, ()) = tokio::join!(client.request("s", b"x").send(), async {
            requests.recv().await.unwrap().reply(b"y").unwrap();
        });
        assert_eq!(answer.unwrap().payload(), b"y");
        drop(requests);
        let serving = client.clone();
        tokio::spawn(async move {
            serving
                .service("s")
                .concurrency(8)
                .handle(async |request: Arc<Request>| request.reply(request.payload()))
                .await
        });
        let mut answers = tokio::task::JoinSet::new();
        for n in 0..8_u8 {
            let client = client.clone();
            answers.spawn(async move {
                loop {
                    match client.request("s", &[n]).send().await {
                        Ok(answer) => return assert_eq!(answer.payload(), [n]),
                        Err(error) => assert_eq!(error.code(), Code::NoInstance),
                    }
                }
            });
        }
        while let Some(done) = answers.join_next().await {
            done.unwrap();
        }
    });
}

fn status(broker: &Broker, service: &str) -> serde_json::Value {
    let status = broker.json().ask(r#"{"op":"status"}"#);
    let services = status["status"]["services"].as_array().unwrap().clone();
    services.into_iter().find(|each| each["service"] == service).unwrap_or_default()
}

/// Waits until a number of the status of a service is this.
fn until(broker: &Broker, service: &str, key: &str, value: u64) {
    while status(broker, service)[key].as_u64() != Some(value) {
        std::thread::yield_now();
    }
}

fn instances(broker: &Broker, service: &str, count: usize) {
    while status(broker, service)["instances"].as_array().map_or(0, Vec::len) != count {
        std::thread::yield_now();
    }
}

/// A process of its own: this test binary, started for one test that plays this part.
fn process(broker: &Broker, part: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process_of_its_own", "--nocapture"])
        .env("SERVICES_PART", part)
        .env("SERVICES_SOCKET", broker.socket())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test unless it is started as an instance or a caller.
#[test]
fn process_of_its_own() {
    let Ok(part) = std::env::var("SERVICES_PART") else { return };
    let socket = std::env::var_os("SERVICES_SOCKET").unwrap();
    let client = Client::builder().socket(socket).name(&part).connect().unwrap();
    if part == "caller" {
        let _ = client.request("slow", b"x").timeout(Duration::from_secs(60)).send();
        return;
    }
    client
        .service("fragile")
        .concurrency(4)
        .handle(|request: &Request| {
            if request.payload() == b"deadly" {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                    .unwrap();
            }
            request.reply(request.payload())
        })
        .unwrap();
}

#[test]
fn an_instance_that_is_killed_leaves_the_outcome_unknown_or_another_is_asked() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let caller = broker.client("caller");
    let mut victim = process(&broker, "victim");
    instances(&broker, "fragile", 1);
    assert_eq!(caller.request("fragile", b"x").send().unwrap().payload(), b"x");
    let unknown = caller.request("fragile", b"deadly").timeout(Duration::from_secs(60)).send().unwrap_err();
    assert_eq!(unknown.code(), Code::OutcomeUnknown, "{unknown}");
    assert!(!unknown.is_retryable() && unknown.to_string().contains("victim"), "{unknown}");
    victim.wait().unwrap();
    // With two of them: what may be repeated is, until nobody is left.
    let mut both = [process(&broker, "one"), process(&broker, "other")];
    instances(&broker, "fragile", 2);
    let deadly = caller.request("fragile", b"deadly").idempotent().timeout(Duration::from_secs(60));
    assert_eq!(code(deadly.send()), Code::OutcomeUnknown);
    for each in &mut both {
        each.wait().unwrap();
    }
    assert_eq!(code(caller.request("fragile", b"x").send()), Code::NoInstance);
    // And a request that only one of them dies of is answered by the other.
    let mut mortal = process(&broker, "mortal");
    instances(&broker, "fragile", 1);
    let pending =
        caller.request("fragile", b"deadly").idempotent().timeout(Duration::from_secs(60)).start().unwrap();
    let saver = broker.client("saver");
    let mut requests = saver.service("fragile").start().unwrap();
    // It may have come too late for that one.
    mortal.wait().unwrap();
    match requests.recv_timeout(Duration::from_millis(200)).unwrap() {
        Some(request) => {
            assert_eq!(request.attempt(), 2);
            request.reply("saved").unwrap();
            assert_eq!(pending.wait().unwrap().payload(), b"saved");
        }
        None => assert_eq!(code(pending.wait()), Code::OutcomeUnknown),
    }
}

#[test]
fn the_request_of_a_caller_that_is_killed_is_cancelled_where_it_is_worked_on() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let instance = broker.client("instance");
    let mut requests = instance.service("slow").start().unwrap();
    let mut caller = process(&broker, "caller");
    let request = requests.recv().unwrap();
    assert_eq!(request.publisher().name, "caller");
    assert!(!request.is_over() && request.time_left() > Duration::from_secs(30));
    caller.kill().unwrap();
    caller.wait().unwrap();
    until(&broker, "slow", "cancelled", 1);
    instance.ping().unwrap();
    assert!(request.is_over());
    assert_eq!(code(request.reply("too late")), Code::TooLate);
    until(&broker, "slow", "late_replies", 1);
    // The instance is free again. So is it when the caller just does not wait any more.
    let other = broker.client("other");
    drop(other.request("slow", b"y").start().unwrap());
    other.ping().unwrap();
    assert_eq!(status(&broker, "slow")["cancelled"], 2);
}

#[test]
fn of_two_instances_the_slow_one_is_left_out_and_requests_go_on() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "services: [{name: s, attempt_timeout_millis: 20, eject_failures: 3, retries_max: 1}]\n",
    );
    let (caller, fast, slow) = (broker.client("caller"), broker.client("fast"), broker.client("slow"));
    provide(&fast, "s", |request: &Request| request.reply("fast"));
    // Holds what it is given, and answers nothing.
    let mut held = Vec::new();
    let mut requests = slow.service("s").concurrency(64).start().unwrap();
    instances(&broker, "s", 2);
    while status(&broker, "s")["ejections"] == 0 {
        let answer = caller.request("s", b"").idempotent().timeout(Duration::from_secs(30)).send().unwrap();
        assert_eq!(answer.payload(), b"fast");
        held.extend(requests.try_recv().unwrap());
    }
    let before = status(&broker, "s");
    assert!(before["retries"].as_u64().unwrap() >= 3);
    for _ in 0..20 {
        // One that may not be repeated: nobody gives it to the slow one now.
        assert_eq!(caller.request("s", b"").send().unwrap().payload(), b"fast");
    }
    let after = status(&broker, "s");
    assert_eq!((&after["unanswered"], &after["retries"]), (&0.into(), &before["retries"]));
    let states: Vec<&str> =
        after["instances"].as_array().unwrap().iter().map(|each| each["state"].as_str().unwrap()).collect();
    assert!(states.contains(&"ejected") && states.contains(&"healthy"), "{states:?}");
}

#[test]
fn after_a_restart_services_are_provided_anew_and_what_may_be_repeated_is() {
    let _watchdog = Watchdog::start();
    let mut broker = Broker::start();
    let (caller, instance) = (broker.client("caller"), broker.client("instance"));
    let mut requests = instance.service("s").start().unwrap();
    let pending = caller.request("s", b"once").timeout(Duration::from_secs(60)).start().unwrap();
    let old = requests.recv().unwrap();
    let again = std::thread::spawn({
        let caller = caller.clone();
        // Asked before the broker dies or after: it is asked again until it is answered.
        move || loop {
            match caller.request("s", b"again").idempotent().timeout(Duration::from_secs(60)).send() {
                Err(error) if error.code() == Code::NoInstance => {}
                answer => return answer,
            }
        }
    });
    broker.kill();
    let broker = broker.again();
    assert!(matches!(pending.wait(), Err(Error::Disconnected(_))), "nobody knows what became of it");
    let request = loop {
        let request = requests.recv().unwrap();
        if request.payload() == b"again" {
            break request;
        }
    };
    request.reply("here").unwrap();
    assert_eq!(again.join().unwrap().unwrap().payload(), b"here");
    assert_eq!(code(old.reply("late")), Code::TooLate);
    drop(broker);
}

#[test]
fn many_requests_are_under_way_at_a_time_and_answers_find_their_callers() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let instance = broker.client("instance");
    {
        let instance = instance.clone();
        std::thread::spawn(move || {
            instance.service("s").concurrency(4).handle(|request: &Request| request.reply(request.payload()))
        });
    }
    instances(&broker, "s", 1);
    let callers: Vec<_> = (0..3_u32)
        .map(|caller| {
            let client = broker.client("caller");
            std::thread::spawn(move || {
                for round in 0..20_u32 {
                    let payloads: Vec<[u8; 8]> =
                        (0..32_u32).map(|n| u64::from(caller << 16 | round << 8 | n).to_le_bytes()).collect();
                    let pending: Vec<_> = payloads
                        .iter()
                        .map(|payload| client.request("s", payload).start().unwrap())
                        .collect();
                    for (pending, payload) in pending.into_iter().zip(&payloads) {
                        assert_eq!(pending.wait().unwrap().payload(), payload);
                    }
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    let now = status(&broker, "s");
    assert_eq!(
        (&now["requests"], &now["replies"], &now["outstanding"]),
        (&1920.into(), &1920.into(), &0.into())
    );
}

#[test]
fn a_person_with_socat_asks_and_is_answered() {
    if !have("socat") {
        return skipped("socat", "services by hand");
    }
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let mut json = broker.json();
    assert_eq!(json.ask(r#"{"op":"provide","service":"s"}"#)["ok"], true);
    let mut socat = Command::new("socat")
        .args(["-t30", "-", &format!("UNIX-CONNECT:{}", broker.socket().display())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    socat
        .stdin
        .take()
        .unwrap()
        .write_all(b"{\"op\":\"req\",\"service\":\"s\",\"text\":\"hello\",\"id\":1}\n")
        .unwrap();
    let call: serde_json::Value = serde_json::from_str(&json.hear()).unwrap();
    assert_eq!((&call["op"], &call["text"]), (&"call".into(), &"hello".into()));
    assert_eq!(json.ask(r#"{"op":"reply","service":"s","call":1,"data":{"n":5}}"#)["ok"], true);
    // The connection ends by itself once its request is answered.
    let output = String::from_utf8(socat.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.starts_with(r#"{"ok":true,"op":"req","id":1,"service":"s""#), "{output}");
    assert!(output.ends_with("\"data\":{\"n\":5}}\n"), "{output}");
}

#[test]
fn a_line_gives_a_request_up() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (mut server, mut caller) = (broker.json(), broker.json());
    assert_eq!(server.ask(r#"{"op":"provide","service":"s","concurrency":3}"#)["ok"], true);
    for id in ["7", "7", r#""seven""#] {
        caller.say(&format!(r#"{{"op":"req","service":"s","text":"x","id":{id}}}"#));
        assert!(server.hear().contains(r#""op":"call""#));
    }
    let gone = caller.ask(r#"{"op":"cancel","req":7,"id":8}"#);
    assert_eq!((&gone["ok"], &gone["count"], &gone["id"]), (&true.into(), &2.into(), &8.into()), "{gone}");
    // The instance is told, and its answer is too late.
    for _ in 0..2 {
        let over = server.hear();
        assert!(
            over.starts_with(r#"{"op":"call_over","service":"s","call":"#) && !over.contains("code"),
            "{over}"
        );
    }
    assert_eq!(server.ask(r#"{"op":"reply","service":"s","call":1,"data":1}"#)["error"]["code"], "too_late");
    assert_eq!(caller.ask(r#"{"op":"cancel","req":7}"#)["error"]["code"], "bad_id");
    assert_eq!(caller.ask(r#"{"op":"cancel"}"#)["error"]["code"], "malformed");
    assert_eq!(caller.ask(r#"{"op":"cancel","req":[1]}"#)["error"]["code"], "malformed");
    // Another connection cannot give up what is not its own.
    assert_eq!(broker.json().ask(r#"{"op":"cancel","req":"seven"}"#)["error"]["code"], "bad_id");
    assert_eq!(server.ask(r#"{"op":"reply","service":"s","call":3,"data":3}"#)["ok"], true);
    let answer = caller.hear();
    assert!(answer.contains(r#""id":"seven""#) && answer.contains(r#""data":3"#), "{answer}");
    assert_eq!(status(&broker, "s")["cancelled"], 2);
}

#[path = "../client/examples/replicas.rs"]
mod example;

/// The example's own process: this program once more.
#[test]
fn example_process() {
    if std::env::var_os("SERVICES_EXAMPLE").is_some() {
        example::main().unwrap();
    }
}

#[test]
fn the_example_answers_although_one_of_its_instances_is_slow() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(
        "services: [{name: example.square, attempt_timeout_millis: 50, eject_failures: 3, eject_millis: 60000}]",
    );
    let (example, said) = this_program("example_process", "SERVICES_EXAMPLE", &broker);
    assert!(example.success(), "{said}");
    assert!(
        said.contains("answers by instance: {\"fast\": ") && said.contains("an error of the service: "),
        "{said}"
    );
    let now = status(&broker, "example.square");
    assert!(now["retries"].as_u64() > Some(0) || now["requests"] == now["replies"], "{now}");
}

/// Starts `tramline reply`, and waits until it provides.
fn replies(broker: &Broker, words: &[&str], count: usize) -> std::process::Child {
    let mut command = tramline();
    command.arg("reply").args(words).arg("--socket").arg(broker.socket());
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    instances(broker, words[0], count);
    child
}

#[test]
fn the_shell_asks_and_answers() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let req = |words: &[&str]| {
        let mut command = tramline();
        command.arg("req").args(words).arg("--socket").arg(broker.socket()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(req(&["upper", "x"]).0, 69);
    let mut children = vec![
        replies(&broker, &["upper", "--exec", "tr a-z A-Z"], 1),
        replies(&broker, &["echo", "--echo", "--concurrency", "3"], 1),
        replies(&broker, &["fails", "--exec", "echo 'no such place'; exit 44"], 1),
        replies(&broker, &["dies", "--exec", "kill -9 $$"], 1),
        replies(&broker, &["hangs", "--exec", "exec sleep 30"], 1),
    ];
    assert_eq!(req(&["upper", "hello"]), (0, "HELLO\n".to_owned(), String::new()));
    assert_eq!(req(&["echo", "{\"a\":1}", "--idempotent"]).1, "{\"a\":1}\n");
    assert_eq!(req(&["echo"]).1, "\n");
    let (code, _, said) = req(&["fails", "x"]);
    assert!(code == 1 && said.contains("error 44: no such place"), "{said}");
    let (code, _, said) = req(&["dies", "x"]);
    assert!(code == 75 && said.contains("signal"), "{said}");
    let (code, _, said) = req(&["hangs", "x", "--timeout", "0.05"]);
    assert!(code == 124 && said.contains("did not answer within 50 ms"), "{said}");
    let (code, _, said) = req(&["echo", "x", "--timeout", "9999"]);
    assert!(code == 75 && said.contains("timeout_millis_max"), "{said}");
    // A file goes out as it came; a large one in both directions at once.
    let file = broker.home().join("large");
    std::fs::write(&file, vec![b'a'; 300_000]).unwrap();
    let (code, answer, _) = req(&["upper", "-f", file.to_str().unwrap()]);
    assert!(code == 0 && answer.len() == 300_000 && answer.starts_with("AAA"), "{}", answer.len());
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
