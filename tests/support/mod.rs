//! A broker as a process of its own, for tests: private socket, readiness by notification, logs on failure, gone
//! at the end. Short verbs; whatever goes wrong panics with what the broker had to say.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod actor;
mod users;

pub(crate) use actor::{Actor, part, say};
pub(crate) use users::Users;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use tramline_client::Client;

/// A test that takes longer than this hangs: its broker is killed, so that whatever waits for it fails.
const WATCHDOG: Duration = Duration::from_secs(120);

/// How long a broker may live: longer where hostile processes are told to go on for longer.
fn life_max() -> Duration {
    let longer = std::env::var("TRAMLINE_HOSTILE_SECONDS").ok().and_then(|text| text.parse().ok());
    WATCHDOG + Duration::from_secs_f64(longer.unwrap_or(0.0))
}

/// The `tramline` program under test.
pub(crate) fn tramline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tramline"));
    for name in
        ["TRAMLINE_SOCKET", "TRAMLINE_CONFIG", "TRAMLINE_LOG", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"]
    {
        command.env_remove(name);
    }
    command
}

/// Runs this test binary once more, for the one test that plays the part of an example, as a client of a broker. How it
/// ended, and what it said.
pub(crate) fn this_program(test: &str, variable: &str, broker: &Broker) -> (ExitStatus, String) {
    let mut command = Command::new(std::env::current_exe().expect("a program knows where it is"));
    command.args(["--exact", test, "--nocapture"]).env(variable, "yes");
    let output = command.env("TRAMLINE_SOCKET", broker.socket()).output().expect("this program runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&said).into_owned())
}

/// Announces that something is missing and what is not tested therefore; a failure where the environment says
/// `CI=true`. Every test that leaves something out does so by this, and by nothing else.
pub(crate) fn skipped(missing: &str, untested: &str) {
    let sentence = format!("SKIPPED: {untested} is not tested, because {missing} is missing here");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{sentence}, and must not be where CI=true");
    // Past the harness, which shows what a test prints only if it fails.
    let _ = writeln!(std::io::stderr(), "{sentence}");
}

/// Whether a tool is installed; [`skipped`] if it is not.
pub(crate) fn have(tool: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(tool).is_file()));
    if !found {
        skipped(&format!("the program {tool}"), "what needs it");
    }
    found
}

/// Ends the test's process when a test hangs: whoever waits for ever cannot fail by itself.
pub(crate) struct Watchdog(#[expect(dead_code, reason = "dropping it calls the dog off")] mpsc::Sender<()>);

impl Watchdog {
    pub(crate) fn start() -> Self {
        let (alive, ended) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a test hangs");
                std::process::abort();
            }
        });
        Self(alive)
    }
}

/// Whether this is root; [`skipped`] if it is not.
pub(crate) fn is_root(untested: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("root", untested);
    }
    root
}

/// The same for a broker, which the kernel kills when the thread that started it ends: a test that aborts leaves none
/// behind.
fn broker_program() -> Command {
    let plain = tramline();
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("setpriv").is_file()));
    if !found {
        return plain;
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(plain.get_program());
    for (name, value) in plain.get_envs() {
        if value.is_none() {
            command.env_remove(name);
        }
    }
    command
}

/// Name of a broker's configuration in its directory, if it has one.
const CONFIG: &str = "tramline.yaml";

/// Makes `command` serve on `socket`, with the configuration that is in `home`.
fn serving(mut command: Command, home: &TempDir, socket: &Path) -> Command {
    command.arg("serve").arg("--socket").arg(socket).env("STATE_DIRECTORY", home.path());
    let config = home.path().join(CONFIG);
    if config.exists() {
        command.arg("--config").arg(config);
    }
    command
}

/// A running broker.
pub(crate) struct Broker {
    home: TempDir,
    socket: PathBuf,
    child: Child,
    process: OwnedFd,
    _watchdog: mpsc::Sender<()>,
}

impl Broker {
    /// A broker with its defaults.
    pub(crate) fn start() -> Self {
        Self::with_config("")
    }

    /// A broker with this configuration (YAML; the socket is chosen here).
    pub(crate) fn with_config(yaml: &str) -> Self {
        Self::with_config_in(tempfile::tempdir().unwrap(), yaml)
    }

    /// The same, in a directory that the test has prepared; the socket is `t.sock` in it.
    pub(crate) fn with_config_in(home: TempDir, yaml: &str) -> Self {
        let socket = home.path().join("t.sock");
        if !yaml.is_empty() {
            std::fs::write(home.path().join(CONFIG), yaml).unwrap();
        }
        let command = serving(broker_program(), &home, &socket);
        Self::spawn(home, socket, command)
    }

    /// The same, killed the so-manieth time that it comes to a step.
    pub(crate) fn with_config_dying(yaml: &str, at: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("t.sock");
        std::fs::write(home.path().join(CONFIG), yaml).unwrap();
        let mut command = serving(broker_program(), &home, &socket);
        command.env("TRAMLINE_DIE_AT", at);
        Self::spawn(home, socket, command)
    }

    /// A client of this broker.
    pub(crate) fn client(&self, name: &str) -> Client {
        Client::builder().name(name).socket(self.socket()).connect().unwrap()
    }

    /// A broker on the socket of this one, which has ended, and with its configuration.
    pub(crate) fn again(self) -> Self {
        let socket = self.socket().to_owned();
        let home = self.into_home();
        let command = serving(tramline(), &home, &socket);
        Self::spawn(home, socket, command)
    }

    /// The same with another configuration.
    pub(crate) fn again_with(self, yaml: &str) -> Self {
        Self::with_config_in(self.into_home(), yaml)
    }

    /// A broker started by `command`, which must make it listen on `socket` and inherit `NOTIFY_SOCKET`.
    pub(crate) fn spawn(home: TempDir, socket: PathBuf, mut command: Command) -> Self {
        let notify_path = home.path().join("notify");
        // A directory may have had a broker before.
        let _ = std::fs::remove_file(&notify_path);
        let notify = UnixDatagram::bind(&notify_path).unwrap();
        // The broker may be another user.
        std::fs::set_permissions(&notify_path, Permissions::from_mode(0o666)).unwrap();
        notify.set_nonblocking(true).unwrap();
        let log = File::create(home.path().join("log")).unwrap();
        command.env("NOTIFY_SOCKET", &notify_path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let (alive, watched) = mpsc::channel::<()>();
        let broker = Self { home, socket, child, process, _watchdog: alive };
        let process = broker.process.try_clone().unwrap();
        std::thread::spawn(move || {
            let life = life_max();
            if watched.recv_timeout(life) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("the watchdog kills a broker after {life:?}");
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        });
        broker.wait_until_ready(&notify);
        broker
    }

    fn wait_until_ready(&self, notify: &UnixDatagram) {
        let mut message = [0; 1024];
        loop {
            let mut either = [PollFd::new(notify, PollFlags::IN), PollFd::new(&self.process, PollFlags::IN)];
            poll(&mut either, None).unwrap();
            while let Ok(length) = notify.recv(&mut message) {
                if message[..length].split(|&byte| byte == b'\n').any(|line| line == b"READY=1") {
                    return;
                }
            }
            assert!(!self.has_ended(), "the broker ended before it was ready:\n{}", self.log());
        }
    }

    /// The socket it listens on.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its directory, removed at the end.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.process, signal).unwrap();
    }

    fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Whether it ends by itself before this time is up.
    pub(crate) fn ends_within(&self, span: Duration) -> bool {
        let mut process = [PollFd::new(&self.process, PollFlags::IN)];
        poll(&mut process, Some(&span.try_into().unwrap())).unwrap() == 1
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Asks it to stop (SIGTERM) and waits.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Kills it (SIGKILL) and waits.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it but leaves its directory as it is.
    pub(crate) fn into_home(mut self) -> TempDir {
        if !self.has_ended() {
            self.kill();
        }
        let empty = tempfile::tempdir().unwrap();
        std::mem::replace(&mut self.home, empty)
    }

    /// How many descriptors it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// How many mappings of memfds it has.
    pub(crate) fn ring_mappings(&self) -> usize {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap();
        maps.lines().filter(|line| line.contains("memfd:")).count()
    }

    /// How often its threads have gone to sleep or were made to wait.
    pub(crate) fn context_switches(&self) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let statuses =
            threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
        let counts = statuses.flat_map(|status| {
            let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
            lines.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).collect::<Vec<_>>()
        });
        counts.sum()
    }

    /// A plain connection. Reading from it panics after a while instead of waiting for ever.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket)
            .unwrap_or_else(|error| panic!("connecting: {error}; the broker says:\n{}", self.log()));
        stream.set_read_timeout(Some(WATCHDOG)).unwrap();
        stream
    }

    /// A connection that speaks JSON lines.
    pub(crate) fn json(&self) -> JsonLines {
        JsonLines { stream: BufReader::new(self.connect()) }
    }

    /// The answer to an HTTP request without a body, head and body.
    pub(crate) fn http(&self, path: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the broker {} says:\n{}", self.child.id(), self.log());
        }
    }
}

/// A connection that speaks JSON lines.
pub(crate) struct JsonLines {
    stream: BufReader<UnixStream>,
}

impl JsonLines {
    /// Writes a line.
    pub(crate) fn say(&mut self, line: &str) {
        let stream = self.stream.get_mut();
        stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n")).unwrap();
    }

    /// Reads a line, without its end; empty at the end of the connection.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.truncate(line.trim_end().len());
        line
    }

    /// Writes a line and reads one, parsed.
    pub(crate) fn ask(&mut self, line: &str) -> serde_json::Value {
        self.say(line);
        let answer = self.hear();
        serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("{line} was answered by {answer:?}: {error}"))
    }

    /// The connection's reading side.
    pub(crate) fn reader(&mut self) -> &mut BufReader<UnixStream> {
        &mut self.stream
    }

    /// The connection itself.
    pub(crate) fn stream(&self) -> &UnixStream {
        self.stream.get_ref()
    }
}
