//! Queues with real processes: workers that die, people with socat, a broker that comes back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Broker, Watchdog, have, skipped, this_program};
use tramline_client::{Client, Code};

const QUEUES: &str = "\
queues:
  - name: jobs
    backoff_millis: 5
    attempts_max: 3
    bind: [work.>]
  - name: small
    messages_max: 2
  - name: quick
    ack_timeout_millis: 1000
    backoff_millis: 0
";

fn code<T: std::fmt::Debug>(result: Result<T, tramline_client::Error>) -> Code {
    result.unwrap_err().code()
}

fn status(broker: &Broker, queue: &str) -> serde_json::Value {
    let status = broker.json().ask(r#"{"op":"status"}"#);
    let queues = status["status"]["queues"].as_array().unwrap().clone();
    queues.into_iter().find(|each| each["queue"] == queue).unwrap()
}

#[test]
fn each_job_goes_to_one_and_what_is_dropped_comes_back() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let (a, b) = (broker.client("a"), broker.client("b"));
    a.push("jobs", b"low").priority(1).type_("t").header("h", b"v").confirm().unwrap();
    a.push("jobs", b"high").priority(9).confirm().unwrap();
    let mut jobs = b.consume("jobs").prefetch(4).start().unwrap();
    let job = jobs.recv().unwrap();
    assert_eq!((job.payload(), job.priority(), job.attempt(), job.topic()), (&b"high"[..], 9, 1, ""));
    assert_eq!((job.publisher().name.as_str(), job.publisher().pid), ("a", std::process::id()));
    job.ack().unwrap();
    let job = jobs.recv().unwrap();
    assert_eq!((job.payload(), job.message_type()), (&b"low"[..], Some("t")));
    drop(job);
    let job = jobs.recv().unwrap();
    assert_eq!((job.payload(), job.attempt()), (&b"low"[..], 2));
    job.reject("no use").unwrap();
    assert!(jobs.recv_timeout(Duration::from_millis(20)).unwrap().is_none());
    // Published on a topic that the queue is bound to.
    a.message("work.x").header("priority", b"8").publish(b"published").unwrap();
    let job = jobs.recv().unwrap();
    assert_eq!((job.payload(), job.topic(), job.priority()), (&b"published"[..], "work.x", 8));
    job.nack_after(Duration::ZERO).unwrap();
    let job = jobs.recv().unwrap();
    assert_eq!(job.attempt(), 2);
    job.extend(Duration::from_secs(60)).unwrap();
    job.ack().unwrap();
    // And in a ring, large ones too.
    let mut publisher = a.publisher("work.ring").open().unwrap();
    publisher.send([7; 20_000]).unwrap();
    let job = jobs.recv().unwrap();
    assert_eq!((job.payload(), job.topic()), (&[7; 20_000][..], "work.ring"));
    job.ack().unwrap();
    drop(jobs);
    b.ping().unwrap();
    let now = status(&broker, "jobs");
    let of = |key: &str| now[key].as_u64().unwrap();
    assert_eq!((of("pushed"), of("acked"), of("rejected"), of("nacked")), (4, 3, 1, 2));
    assert_eq!((of("messages"), of("dead_letters"), of("in_flight")), (0, 1, 0));
    assert_eq!(now["consumers"].as_array().unwrap().len(), 0);
}

#[test]
fn a_producer_is_told_what_is_not_taken_and_an_id_counts_once() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let client = broker.client("p");
    assert_eq!(code(client.push("nowhere", b"").confirm()), Code::UnknownQueue);
    assert_eq!(code(client.consume("nowhere").start()), Code::UnknownQueue);
    for _ in 0..3 {
        client.push("small", b"x").id("one").confirm().unwrap();
    }
    client.push("small", b"y").confirm().unwrap();
    let refused = client.push("small", b"z").confirm().unwrap_err();
    assert_eq!(refused.code(), Code::QueueFull);
    let limit = refused.limit().unwrap();
    assert_eq!((limit.name.as_str(), limit.value, limit.used), ("messages_max", 2, 3));
    client.push("small", b"z").send().unwrap();
    let told = client.flush().unwrap_err();
    assert_eq!(told.code(), Code::QueueFull, "told by the next call");
    let now = status(&broker, "small");
    assert_eq!(
        (now["messages"].as_u64(), now["duplicates"].as_u64(), now["refused"].as_u64()),
        (Some(2), Some(2), Some(2))
    );
}

#[test]
fn a_job_that_takes_too_long_goes_to_another_and_the_first_is_told() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let (slow, other) = (broker.client("slow"), broker.client("other"));
    let mut first = slow.consume("quick").prefetch(1).start().unwrap();
    slow.push("quick", b"x").confirm().unwrap();
    let job = first.recv().unwrap();
    let mut second = other.consume("quick").prefetch(1).start().unwrap();
    let again = second.recv().unwrap();
    assert_eq!(again.attempt(), 2);
    slow.ping().unwrap();
    assert_eq!(code(job.ack()), Code::TooLate);
    again.ack().unwrap();
    // What was late is settled now: the first can be given another.
    drop(second);
    slow.push("quick", b"y").confirm().unwrap();
    first.recv().unwrap().ack().unwrap();
}

#[test]
fn consumers_come_back_after_a_restart_and_old_jobs_are_not_theirs() {
    let _watchdog = Watchdog::start();
    let mut broker = Broker::with_config(QUEUES);
    let client = broker.client("c");
    let mut jobs = client.consume("jobs").start().unwrap();
    client.push("jobs", b"1").confirm().unwrap();
    let old = jobs.recv().unwrap();
    broker.kill();
    let broker = broker.again();
    while client.push("jobs", b"2").id("two").confirm().is_err() {
        assert!(jobs.recv_timeout(Duration::from_millis(5)).unwrap().is_none());
    }
    let job = jobs.recv().unwrap();
    assert_eq!(job.payload(), b"2");
    assert_eq!(code(old.ack()), Code::TooLate);
    job.ack().unwrap();
    drop(broker);
}

/// A worker process: this test binary, started for one test that is a worker if it is told so.
fn worker(broker: &Broker, dies_at: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker_process", "--nocapture"])
        .env("QUEUES_WORKER", broker.socket())
        .env("QUEUES_WORKER_DIES_AT", dies_at)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test unless it is started as a worker: passes each job on, and dies holding the one that it is told to, if nobody
/// had it before.
#[test]
fn worker_process() {
    let Some(socket) = std::env::var_os("QUEUES_WORKER") else { return };
    let dies_at = std::env::var("QUEUES_WORKER_DIES_AT").unwrap();
    let client = Client::builder().socket(socket).name("worker").connect().unwrap();
    for job in client.consume("jobs").prefetch(8).start().unwrap() {
        let job = job.unwrap();
        if job.text().unwrap() == dies_at && job.attempt() == 1 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        client.publish_text("done", job.text().unwrap()).unwrap();
        if job.ack().is_err() {
            return;
        }
    }
}

#[test]
fn a_worker_killed_half_way_loses_nothing() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let client = broker.client("boss");
    let mut done = client.subscribe("done").unwrap();
    let mut workers = [(); 3].map(|()| worker(&broker, "150"));
    while status(&broker, "jobs")["consumers"].as_array().unwrap().len() < 3 {
        std::thread::yield_now();
    }
    for n in 0..300 {
        client.push("jobs", &n.to_string()).text().send().unwrap();
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 300 {
        seen.insert(done.recv().unwrap().text().unwrap().to_owned());
    }
    // Whoever was given it first: it was done after that one had died.
    let mut dead = Vec::new();
    while dead.is_empty() {
        dead.extend(workers.iter_mut().filter_map(|worker| worker.try_wait().unwrap()));
        std::thread::yield_now();
    }
    for worker in &mut workers {
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    let signals: Vec<_> = dead.iter().map(std::os::unix::process::ExitStatusExt::signal).collect();
    assert_eq!(signals, [Some(9)], "one of them died half-way");
    while !status(&broker, "jobs")["consumers"].as_array().unwrap().is_empty() {
        std::thread::yield_now();
    }
    let now = status(&broker, "jobs");
    assert_eq!((now["pushed"].as_u64(), now["dead"].as_u64()), (Some(300), Some(0)));
    assert!(now["returned"].as_u64().unwrap() > 0);
    assert_eq!(now["acked"].as_u64().unwrap() + now["messages"].as_u64().unwrap(), 300);
}

#[path = "../client/examples/workers.rs"]
mod example;

/// The example's own process, and its workers': they are this program once more.
#[test]
fn example_process() {
    if std::env::var_os("QUEUES_EXAMPLE").is_some() {
        example::main().unwrap();
    }
}

#[test]
fn the_example_loses_nothing_of_a_worker_that_is_killed() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let (example, said) = this_program("example_process", "QUEUES_EXAMPLE", &broker);
    assert!(example.success() && said.contains("60 of 60 jobs done"), "{said}");
    assert_eq!(status(&broker, "example.jobs")["dead"].as_u64(), Some(0));
}

#[test]
fn what_a_killed_process_held_comes_back_at_once() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let client = broker.client("boss");
    let mut worker = worker(&broker, "fatal");
    while status(&broker, "jobs")["consumers"].as_array().unwrap().is_empty() {
        std::thread::yield_now();
    }
    client.push("jobs", "fatal").text().confirm().unwrap();
    worker.wait().unwrap();
    let mut jobs = client.consume("jobs").start().unwrap();
    let job = jobs.recv().unwrap();
    assert_eq!((job.text().unwrap(), job.attempt()), ("fatal", 2));
    job.ack().unwrap();
}

#[test]
fn what_a_consumer_prefetched_and_never_looked_at_is_no_attempt() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let client = broker.client("c");
    for n in 0..20_u8 {
        client.push("jobs", &[n]).confirm().unwrap();
    }
    for n in 0..8_u8 {
        let mut jobs = client.consume("jobs").prefetch(16).start().unwrap();
        let job = jobs.recv().unwrap();
        assert_eq!((job.payload(), job.attempt()), (&[n][..], 1));
        job.ack().unwrap();
    }
    // Acknowledgements that are gathered are told by the end, or a flush.
    assert_eq!(
        (status(&broker, "jobs")["acked"].as_u64(), status(&broker, "jobs")["dead"].as_u64()),
        (Some(8), Some(0))
    );
    let mut jobs = client.consume("jobs").prefetch(100).start().unwrap();
    for n in 8..12_u8 {
        let job = jobs.recv().unwrap();
        assert_eq!((job.payload(), job.attempt()), (&[n][..], 1));
        job.ack().unwrap();
    }
    client.flush().unwrap();
    assert_eq!(status(&broker, "jobs")["acked"].as_u64(), Some(12));
}

#[test]
fn a_consumer_of_a_few_asks_for_no_more() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let client = broker.client("c");
    for n in 0..20_u8 {
        client.push("jobs", &[n]).confirm().unwrap();
    }
    let jobs = client.consume("jobs").prefetch(2).at_most(5).start().unwrap();
    let taken: Vec<u8> = jobs
        .map(|job| {
            let job = job.unwrap();
            let first = job.payload()[0];
            job.ack().unwrap();
            first
        })
        .collect();
    assert_eq!(taken, [0, 1, 2, 3, 4]);
    client.flush().unwrap();
    let now = status(&broker, "jobs");
    assert_eq!((now["delivered"].as_u64(), now["acked"].as_u64()), (Some(5), Some(5)));
}

#[test]
fn a_person_with_socat_pushes_pulls_and_looks() {
    if !have("socat") {
        return skipped("socat", "queues by hand");
    }
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let ask = |lines: &str| {
        let mut socat = Command::new("socat")
            .args(["-t30", "-", &format!("UNIX-CONNECT:{}", broker.socket().display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        socat.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = socat.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let answer = ask(
        "{\"op\":\"push\",\"queue\":\"jobs\",\"data\":{\"n\":1}}\n{\"op\":\"push\",\"queue\":\"jobs\",\"text\":\"two\"}\n",
    );
    assert_eq!(answer.matches("\"ok\":true").count(), 2, "{answer}");
    // The connection ends by itself once it has been given what it asked for.
    let answer = ask("{\"op\":\"pull\",\"queue\":\"jobs\",\"max\":1,\"ack\":true}\n");
    assert!(answer.contains("\"waiting\":2") && answer.contains("\"data\":{\"n\":1}"), "{answer}");
    assert!(!answer.contains("\"tag\""), "{answer}");
    let answer = ask("{\"op\":\"queue\",\"queue\":\"jobs\",\"do\":\"peek\"}\n");
    assert!(answer.contains("\"count\":1") && answer.contains("\"text\":\"two\""), "{answer}");
    let mut json = broker.json();
    json.ask(r#"{"op":"pull","queue":"jobs"}"#);
    assert!(json.hear().contains(r#""tag":1,"attempt":1"#));
    assert_eq!(json.ask(r#"{"op":"ack","queue":"jobs","tag":2}"#)["error"]["code"], "not_yours");
    assert_eq!(json.ask(r#"{"op":"reject","queue":"jobs","tag":1,"reason":"why"}"#)["ok"], true);
    assert_eq!(json.ask(r#"{"op":"ack","queue":"jobs","tag":1}"#)["error"]["code"], "settled_twice");
    let dead = json.ask(r#"{"op":"queue","queue":"jobs","do":"dead"}"#);
    assert_eq!(
        (&dead["messages"][0]["cause"], &dead["messages"][0]["reason"]),
        (&"rejected".into(), &"why".into())
    );
    assert_eq!(json.ask(r#"{"op":"queue","queue":"jobs","do":"replay"}"#)["count"], 1);
    assert_eq!(json.ask(r#"{"op":"queue","queue":"jobs","do":"purge"}"#)["count"], 1);
}

#[test]
fn a_line_declares_a_queue_and_is_told_what_is_wrong() {
    let _watchdog = Watchdog::start();
    let state = tempfile::tempdir().unwrap();
    let store = state.path().join("store");
    let broker = Broker::with_config(&format!("store: {{path: {}}}", store.display()));
    let mut json = broker.json();
    let declare = r#"{"op":"declare","queue":"jobs","bind":["work.>","a"],"strategy":"failover","when_full":"drop_oldest","messages_max":3}"#;
    for _ in 0..2 {
        let answer = json.ask(declare);
        assert_eq!((&answer["ok"], &answer["queue"]), (&true.into(), &"jobs".into()), "{answer}");
    }
    let now = status(&broker, "jobs");
    assert_eq!((&now["strategy"], &now["messages_max"]), (&"failover".into(), &3.into()), "{now}");
    assert_eq!(json.ask(r#"{"op":"pub","topic":"work.x","data":1}"#)["receivers"], 1);
    let other = json.ask(r#"{"op":"declare","queue":"jobs","bind":"a"}"#);
    assert_eq!(other["error"]["code"], "queue_exists", "{other}");
    for (line, code, part) in [
        (r#"{"op":"declare"}"#, "malformed", "needs the key queue"),
        (
            r#"{"op":"declare","queue":"q","strategy":"best"}"#,
            "malformed",
            "one of round_robin, load_balance, failover",
        ),
        (r#"{"op":"declare","queue":"q","bind":[1]}"#, "malformed", "a filter, or a list of filters"),
        (r#"{"op":"declare","queue":"q","bind":"a b"}"#, "malformed", "a filter, or a list of filters"),
        (r#"{"op":"declare","queue":"q","bind":"a..b"}"#, "bad_topic", "an empty token"),
        (r#"{"op":"declare","queue":"q","attempts_max":70000}"#, "malformed", "0 to 65535"),
        (r#"{"op":"declare","queue":"$q"}"#, "bad_topic", "$"),
    ] {
        let answer = json.ask(line);
        let said = answer["error"]["message"].as_str().unwrap();
        assert!(answer["error"]["code"] == code && said.contains(part), "{line}: {answer}");
    }
    // One on disk is confirmed when the disk has it, and is there again.
    assert!(!store.exists());
    assert_eq!(json.ask(r#"{"op":"declare","queue":"mail","durable":true}"#)["ok"], true);
    assert!(store.metadata().unwrap().len() > 0);
    assert_eq!(status(&broker, "mail")["durability"], "disk");
}

#[test]
fn async_says_the_same_words() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder().socket(broker.socket()).connect_async().await.unwrap();
        assert_eq!(code(client.push("nowhere", b"").confirm().await), Code::UnknownQueue);
        assert_eq!(code(client.consume("nowhere").start().await), Code::UnknownQueue);
        let mut jobs = client.consume("jobs").prefetch(2).start().await.unwrap();
        for n in 0..10_u8 {
            client.push("jobs", &[n]).priority(3).confirm().await.unwrap();
        }
        for n in 0..10_u8 {
            let job = jobs.recv().await.unwrap();
            assert_eq!(job.payload(), [n]);
            job.ack().unwrap();
        }
        assert!(jobs.recv_timeout(Duration::from_millis(5)).await.unwrap().is_none());
    });
}
