//! `tramline queue` as people use it: every command, and its exit codes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::process::{Output, Stdio};
use support::{Broker, Watchdog, tramline};

const QUEUES: &str = "\
queues:
  - name: jobs
    backoff_millis: 0
    attempts_max: 2
  - name: small
    messages_max: 1
";

fn run_with(broker: &Broker, words: &[&str], input: &[u8]) -> Output {
    let mut command = tramline();
    command.arg("queue").args(words).arg("--socket").arg(broker.socket());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// What a command that succeeds prints.
fn run(broker: &Broker, words: &[&str]) -> String {
    let output = run_with(broker, words, b"");
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(broker: &Broker, words: &[&str]) -> (i32, String) {
    let output = run_with(broker, words, b"");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn messages_go_in_and_out_by_the_shell() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    run(&broker, &["push", "jobs", "low", "--priority", "1"]);
    run(&broker, &["push", "jobs", "{\"n\":1}", "--id", "once", "--priority", "8"]);
    run(&broker, &["push", "jobs", "{\"n\":1}", "--id", "once", "--priority", "8"]);
    assert!(run_with(&broker, &["push", "-l", "jobs"], b"a\nb\n").status.success());
    assert_eq!(run(&broker, &["pull", "jobs"]), "{\"n\":1}\n", "shown, and given back");
    assert_eq!(run(&broker, &["pull", "jobs", "--ack", "-n", "2"]), "{\"n\":1}\na\n");
    let page = run(&broker, &["ls"]);
    assert!(page.contains("jobs") && page.contains("small"), "{page}");
    let peeked = run(&broker, &["peek", "jobs"]);
    assert_eq!(peeked.lines().count(), 2, "{peeked}");
    assert!(peeked.lines().next().unwrap().contains("\"text\":\"b\""), "{peeked}");
    assert!(peeked.lines().all(|line| line.contains("\"attempts\":0")), "pulls ask for no more: {peeked}");
    let (code, why) = fails(&broker, &["purge", "jobs"]);
    assert!(code == 64 && why.contains("--yes"), "{why}");
    assert_eq!(run(&broker, &["purge", "jobs", "--yes"]), "purged: 2\n");
    assert_eq!(fails(&broker, &["pull", "jobs", "--timeout", "0.01"]).0, 124);
    // One that is declared: the same again is no fault, another of that name is.
    let declare = ["declare", "mine", "--bind", "a.*", "--attempts-max", "1", "--strategy", "failover"];
    run(&broker, &declare);
    run(&broker, &declare);
    assert_eq!(fails(&broker, &["declare", "mine"]).0, 64);
    broker.client("p").publish("a.b", b"published").unwrap();
    assert_eq!(run(&broker, &["pull", "mine", "--ack"]), "published\n");
}

#[test]
fn a_command_acknowledges_by_its_exit_code() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    for text in ["good", "useless", "bad"] {
        run(&broker, &["push", "jobs", text]);
    }
    let command = "read line; echo \"$TRAMLINE_ATTEMPT $line\"; case $line in good) exit 0;; useless) exit 65;; *) exit 1;; esac";
    let output = run_with(&broker, &["pull", "jobs", "--exec", command, "-n", "4"], b"");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1 good\n1 useless\n1 bad\n2 bad\n");
    let page = run(&broker, &["dead", "ls", "jobs"]);
    assert!(page.contains("rejected") && page.contains("useless") && page.contains("attempts"), "{page}");
    let letter: serde_json::Value =
        serde_json::from_str(&run(&broker, &["dead", "show", "jobs", "2"])).unwrap();
    assert_eq!((&letter["cause"], &letter["attempts"]), (&"attempts".into(), &2.into()));
    assert_eq!(run(&broker, &["dead", "replay", "jobs", "2"]), "replayed: 1\n");
    assert_eq!(run(&broker, &["pull", "jobs", "--ack"]), "bad\n");
    assert_eq!(run(&broker, &["dead", "purge", "jobs", "--yes"]), "purged: 1\n");
    assert_eq!(fails(&broker, &["dead", "show", "jobs", "1"]).0, 69);
}

#[test]
fn a_queue_is_paused_and_refusals_have_their_codes() {
    let _watchdog = Watchdog::start();
    let broker = Broker::with_config(QUEUES);
    run(&broker, &["push", "small", "x"]);
    let (code, why) = fails(&broker, &["push", "small", "y"]);
    assert!(code == 75 && why.contains("messages_max is 1"), "{why}");
    run(&broker, &["pause", "small"]);
    assert!(run(&broker, &["ls"]).contains("paused"));
    assert_eq!(fails(&broker, &["pull", "small", "--ack", "--timeout", "0.02"]).0, 124);
    run(&broker, &["resume", "small"]);
    assert_eq!(run(&broker, &["pull", "small", "--ack"]), "x\n");
    let page = run(&broker, &["info", "small"]);
    assert!(page.contains("1 refused") && page.contains("1 acked"), "{page}");
    for words in [&["push", "none", "x"][..], &["pull", "none"], &["info", "none"], &["pause", "none"]] {
        assert_eq!(fails(&broker, words).0, 69, "{words:?}");
    }
}
