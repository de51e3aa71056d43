//! The first run on a machine that is not as one would wish: no runtime directory, other users, few files, little
//! memory, an old kernel, long paths. What cannot work says why, and what to do; the rest works.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{Broker, have, is_root, skipped, tramline};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tramline");

/// A program, as any of the tests below starts it: without input, and without a word about runtime directories.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("TRAMLINE_") || name.starts_with("XDG_") || name.starts_with("LISTEN_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Everything that somebody new would try, in one script: it fails at the first thing that does not work.
const WALK: &str = r#"
    tramline serve > "$HOME_/listens" 2> "$HOME_/log" &
    broker=$!
    trap 'kill $broker; wait $broker' EXIT
    until [ -s "$HOME_/listens" ]; do kill -0 $broker || { cat "$HOME_/log"; exit 99; }; done
    test "$(tramline status --path)" = "$(cat "$HOME_/listens")"
    tramline sub gps.fix -C 1 --format text > "$HOME_/heard" &
    reader=$!
    until tramline status | grep -q gps.fix; do :; done
    tramline pub gps.fix hello
    wait $reader
    test "$(cat "$HOME_/heard")" = hello
    stat -c '%a %u' "$(dirname "$(cat "$HOME_/listens")")"
    cat "$HOME_/listens"
"#;

/// Runs the walk as `uid`, with a `/run` and a `/tmp` that nobody else sees and that are gone afterwards.
fn walk(uid: u32, prepare: &str) -> Option<Output> {
    if !have("unshare") || !have("setpriv") || !is_root("the first run of other users") {
        return None;
    }
    let may = command("unshare").args(["--mount", "true"]).output().unwrap();
    if !may.status.success() {
        skipped("the right to mount", "the first run without a runtime directory");
        return None;
    }
    // The program is copied to where every user may start it. It is opened before: it may lie below what is mounted over.
    let script = format!(
        "exec 9<{PROGRAM}; mount -t tmpfs none /run; mount -t tmpfs -o mode=1777 none /tmp; mkdir -m 777 /tmp/home; \
         cat <&9 >/tmp/home/tramline; exec 9<&-; chmod 755 /tmp/home/tramline; {prepare}\n\
         export HOME_=/tmp/home PATH=/tmp/home:$PATH\n\
         exec setpriv --reuid={uid} --regid={uid} --clear-groups bash -ec '{}'",
        WALK.replace('\'', "'\\''")
    );
    Some(command("unshare").args(["--mount", "bash", "-ec", &script]).output().unwrap())
}

#[test]
fn without_a_runtime_directory_root_gets_the_systems_place() {
    let Some(output) = walk(0, "") else { return };
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.ends_with("755 0\n/run/tramline/tramline.sock\n"), "{said}");
}

#[test]
fn without_a_runtime_directory_a_user_gets_a_private_place_of_its_own() {
    let Some(output) = walk(20_005, "") else { return };
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.ends_with("700 20005\n/tmp/tramline-20005/tramline.sock\n"), "{said}");
}

#[test]
fn the_users_runtime_directory_is_found_without_the_variable() {
    let prepare = "mkdir -p /run/user/20006; chown 20006 /run/user/20006; chmod 700 /run/user/20006";
    let Some(output) = walk(20_006, prepare) else { return };
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.ends_with("700 20006\n/run/user/20006/tramline/tramline.sock\n"), "{said}");
}

#[test]
fn a_place_that_somebody_else_has_prepared_is_refused_by_name() {
    let prepare = "mkdir -m 777 /tmp/tramline-20007";
    let Some(output) = walk(20_007, prepare) else { return };
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("/tmp/tramline-20007 belongs to another user") && said.contains("--socket"),
        "{said}"
    );
}

#[test]
fn too_long_a_path_is_named_with_its_length_the_limit_and_what_to_set_by_every_command() {
    let long = format!("/tmp/{}/t.sock", "x".repeat(120));
    let long = Path::new(&long);
    let by_argument = |words: &[&str]| {
        let mut command = tramline();
        command.args(words).arg("--socket").arg(long);
        command
    };
    let mut by_variable = tramline();
    by_variable.args(["pub", "a", "b"]).env("TRAMLINE_SOCKET", long);
    let mut by_directory = tramline();
    by_directory.arg("serve").env("XDG_RUNTIME_DIR", long.parent().unwrap());
    let commands = [
        by_argument(&["serve"]),
        by_argument(&["sub", ">"]),
        by_argument(&["pub", "a", "b"]),
        by_argument(&["status"]),
        by_variable,
        by_directory,
    ];
    for mut command in commands {
        let output = command.output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(64), "{command:?}: {said}");
        let path = if said.contains("tramline.sock") {
            long.with_file_name("tramline/tramline.sock")
        } else {
            long.into()
        };
        let length = format!("has {} bytes", path.as_os_str().len());
        for part in [path.to_str().unwrap(), &length, "107", "--socket", "TRAMLINE_SOCKET"] {
            assert!(said.contains(part), "{part:?} is not in what {command:?} says: {said}");
        }
    }
}

#[test]
fn private_brokers_cope_with_a_long_directory_for_temporary_files() {
    let home = tempfile::tempdir().unwrap();
    let long = home.path().join("x".repeat(120));
    std::fs::create_dir(&long).unwrap();
    for words in [
        &["demo", "--seconds", "0.2", "--frames", "1"][..],
        &[
            "bench",
            "throughput",
            "--path",
            "socket",
            "--size",
            "64",
            "--duration",
            "0.05",
            "--rounds",
            "1",
            "--json",
        ],
    ] {
        let output = tramline().args(words).env("TMPDIR", &long).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        assert!(std::fs::read_dir(&long).unwrap().next().is_none(), "{words:?} left something");
    }
}

#[test]
fn only_the_sockets_own_folder_is_made() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("missing/also missing/t.sock");
    let output = tramline().arg("serve").arg("--socket").arg(&path).output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(73), "{said}");
    let above = home.path().join("missing");
    assert!(said.contains(&format!("mkdir -p {}", above.display())) && !above.exists(), "{said}");
}

/// Runs `tramline` with these words and no more files than that, as a shell would limit it.
fn with_files(limit: &str, words: &str) -> Command {
    let mut command = command("bash");
    command.args(["-c", &format!("ulimit {limit} && exec {PROGRAM} {words}")]);
    command
}

#[test]
fn the_soft_limit_on_files_is_raised_and_a_hard_one_that_does_not_suffice_is_told() {
    let start = |limit: &str| {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("t.sock");
        let serve = with_files(limit, &format!("serve --socket {}", socket.display()));
        Broker::spawn(home, socket, serve)
    };
    let soft = start("-S -n 1024");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", soft.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let now: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(now > 1024, "{line}");
    assert_eq!(soft.log(), "");

    let hard = start("-n 1024");
    let log = hard.log();
    for part in ["1024 files", "limits.connections_max (1024)", "LimitNOFILE=", "ulimit -Hn"] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
    assert_eq!(log.lines().count(), 1, "{log}");
    assert_eq!(hard.json().ask(r#"{"op":"ping"}"#)["ok"], true);

    // A broker that is to serve no more than that has nothing to say.
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("t.sock");
    let config = home.path().join("few.yaml");
    std::fs::write(&config, "limits:\n  connections_max: 448\n").unwrap();
    let words = format!("serve --socket {} --config {}", socket.display(), config.display());
    let few = Broker::spawn(home, socket, with_files("-n 1024", &words));
    assert_eq!(few.log(), "");
}

#[test]
fn the_demonstration_needs_no_more_than_1024_files_and_says_so_where_there_are_far_too_few() {
    let output = with_files("-n 1024", "demo --seconds 0.2 --frames 2").output().unwrap();
    assert!(output.status.success() && said(&output).contains("lost: 0"), "{}", said(&output));
    let output = with_files("-n 8", "demo --seconds 0.2 --frames 2").output().unwrap();
    let said = said(&output);
    assert!(
        !output.status.success() && said.contains("tramline: ") && said.contains("Too many open files"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

/// A memory cgroup with a limit, for as long as this lives.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Version 1 or 2, whichever is here and may be written to.
    fn limited_to(bytes: u64) -> Option<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (parent, limit) = if v1.is_dir() {
            (v1, "memory.limit_in_bytes")
        } else {
            // Without effect where the controller is passed on already.
            let _ = std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let group = Self(parent.join(format!("tramline-test-{}-{bytes}", std::process::id())));
        let made = std::fs::create_dir(&group.0).and_then(|()| {
            let mut file = std::fs::OpenOptions::new().write(true).open(group.0.join(limit))?;
            file.write_all(bytes.to_string().as_bytes())
        });
        match made {
            Ok(()) => Some(group),
            Err(error) => {
                skipped(&format!("a memory cgroup that can be written to ({error})"), "a limited one");
                None
            }
        }
    }

    /// `tramline` with these words, within the group.
    fn run(&self, words: &str) -> Output {
        let enter = format!("echo $$ > {}/cgroup.procs && exec {PROGRAM} {words}", self.0.display());
        command("bash").args(["-ec", &enter]).output().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A group goes once its last process has been reaped, which may be a moment after it was waited for.
        for _ in 0..1_000_000 {
            if !matches!(std::fs::remove_dir(&self.0), Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy)
            {
                return;
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn in_a_cgroup_with_too_little_memory_a_ring_is_refused_with_its_figures_and_nobody_is_killed() {
    if !is_root("a limited memory cgroup") {
        return;
    }
    let Some(group) = Cgroup::limited_to(40 << 20) else { return };
    let output = group.run("demo --seconds 0.2 --frames 2");
    let said = said(&output);
    assert!(output.status.code().is_some_and(|code| code == 69), "{:?}: {said}", output.status);
    assert!(!said.contains("signal"), "{said}");
    let names = [
        "memory.max is 41943040, memory.current",
        "memory.limit_in_bytes is 41943040, memory.usage_in_bytes",
    ];
    for part in ["bytes of shared memory do not fit", "are available (cgroup "] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(names.iter().any(|name| said.contains(name)), "{said}");
    // With enough of it, the same goes through.
    let Some(group) = Cgroup::limited_to(256 << 20) else { return };
    let output = group.run("demo --seconds 0.2 --frames 2");
    assert!(output.status.success(), "{}", self::said(&output));
}

#[test]
fn a_kernel_without_a_feature_is_told_by_its_name() {
    if !have("python3") {
        return;
    }
    let without = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/without.py");
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("t.sock");
    let serve = ["serve", "--socket", socket.to_str().unwrap()];
    for feature in ["memfd_create", "F_SEAL_FUTURE_WRITE", "pidfd_open"] {
        for words in [&serve[..], &["demo", "--frames", "1"], &["bench", "latency", "--duration", "0.05"]] {
            let output = command("python3").args([without, feature, PROGRAM]).args(words).output().unwrap();
            let said = said(&output);
            assert_eq!(output.status.code(), Some(69), "{feature}, {words:?}: {said}");
            assert!(
                said.contains(&format!("lacks {feature};")) && said.contains("Linux 5.5"),
                "{words:?}: {said}"
            );
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
    assert!(!socket.exists());
}

#[test]
fn a_log_level_that_is_none_is_refused_with_those_that_are() {
    for wrong in ["loud", "info,loud", "tramline=loud", "", "tramline::shell"] {
        let output =
            tramline().args(["serve", "--socket", "/nowhere/at/all", "--log", wrong]).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {said}");
        assert!(said.contains("off, error, warn, info, debug, trace") && said.contains(wrong), "{said}");
    }
    for right in ["warn", "INFO", "warn,tramline::shell=debug"] {
        let output =
            tramline().args(["serve", "--socket", "/nowhere/at/all", "--log", right]).output().unwrap();
        assert_eq!(output.status.code(), Some(73), "{right:?}: {}", said(&output));
    }
}

#[test]
fn a_refused_connection_is_logged_once() {
    let broker = Broker::with_config("limits:\n  connections_max: 1\n");
    let mut one = broker.json();
    assert_eq!(one.ask(r#"{"op":"ping"}"#)["ok"], true);
    assert_eq!(broker.json().ask(r#"{"op":"ping"}"#)["error"]["code"], "limit_reached");
    assert_eq!(one.ask(r#"{"op":"ping"}"#)["ok"], true);
    let log = broker.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("pid=") && log.contains("uid=") && log.contains("connections_max"), "{log}");
}

#[test]
fn whoever_finds_no_broker_is_told_where_it_was_looked_for_and_how_to_start_one_there() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("t.sock");
    for words in [&["status"][..], &["sub", ">"], &["pub", "a", "b"]] {
        let output = tramline().args(words).arg("--socket").arg(&socket).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(said.contains(&format!("tramline serve --socket {}", socket.display())), "{words:?}: {said}");
    }
    // Without a path, all the places that were tried.
    let mut status = command(PROGRAM);
    let output = status.arg("status").env("XDG_RUNTIME_DIR", home.path()).output().unwrap();
    let said = said(&output);
    if output.status.success() {
        return skipped("a machine on which no broker runs", "how all places are listed");
    }
    let own = home.path().join("tramline/tramline.sock");
    for part in [own.to_str().unwrap(), "/run/tramline/tramline.sock", "tramline serve", "TRAMLINE_SOCKET"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

/// The ring's crate as it stands, compiled for a system that is not this one: the name of this one is replaced.
#[test]
fn elsewhere_than_on_linux_there_is_one_error_that_says_so() {
    let home = tempfile::tempdir().unwrap();
    let text = include_str!("../client/ring/src/lib.rs");
    assert!(text.contains("target_os = \"linux\""));
    let source = home.path().join("lib.rs");
    std::fs::write(&source, text.replace("target_os = \"linux\"", "target_os = \"elsewhere\"")).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compile = Command::new(rustc);
    compile.args([
        "--crate-type",
        "lib",
        "--edition",
        "2024",
        "--emit",
        "metadata",
        "-A",
        "warnings",
        "--out-dir",
    ]);
    let output = compile.arg(home.path()).arg(&source).output().unwrap();
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.starts_with("error: Tramline needs Linux 5.5"), "{said}");
    assert!(said.contains("aborting due to 1 previous error"), "{said}");
}
