//! The processes that `bench` and `demo` start: a private directory and children that end with it.
//!
//! A [`Scene`] owns one directory and any number of actors, which are this same program started again in a
//! hidden role. It promises that nothing of them is left: its drop ends the children and removes the
//! directory; SIGINT, SIGTERM and SIGHUP do the same and end the program; and if this process is killed, the
//! kernel kills the children (see [`follow_parent`]). It knows nothing of what the actors do: it hears
//! lines that they print, and notices when they end.
//!
//! Children are in process groups of their own, so that Ctrl-C reaches this process alone and the order of
//! the end is decided here.

use super::Failure;
use crate::shell::ServeError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The running program. Unlike its path, this name still works when the file has been replaced.
pub(super) const OWN_PROGRAM: &str = "/proc/self/exe";
/// How long an actor that was asked to end may take before it is killed.
const END_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest line an actor may print, in bytes.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Longest path of a directory that leaves room for a socket's name in `sun_path`, in bytes.
const DIRECTORY_BYTES_MAX: usize = tramline_wire::path::SOCKET_PATH_BYTES_MAX - 24;

/// Which actor of a scene; given by [`Scene::start`].
pub(super) type ActorNumber = usize;

/// What an actor did.
#[derive(Debug)]
pub(super) enum Heard {
    /// It printed a line.
    Line(ActorNumber, String),
    /// It closed its output and ended.
    Ended(ActorNumber, ExitStatus),
    /// Nobody did anything until the deadline.
    Silence,
}

/// A directory and the processes that live with it.
pub(super) struct Scene {
    props: Arc<Mutex<Props>>,
    actors: Vec<Actor>,
    directory: PathBuf,
}

/// Every scene that stands, for the thread that waits for signals.
static OPEN: Mutex<Vec<Arc<Mutex<Props>>>> = Mutex::new(Vec::new());
/// Whether that thread runs. Once started it runs to the end of the program.
static SIGNALS: OnceLock<()> = OnceLock::new();

/// What must be gone at the end, shared with the thread that waits for signals.
struct Props {
    children: Vec<Option<Child>>,
    directory: Option<PathBuf>,
}

struct Actor {
    name: String,
    pid: u32,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    /// Bytes of an unfinished line.
    heard: Vec<u8>,
}

impl Scene {
    /// Makes the directory, mode 0700, and takes over the signals that end programs.
    ///
    /// Fails at once, and says why, on a kernel on which no broker and no ring would work.
    pub(super) fn open(purpose: &str) -> Result<Self, Failure> {
        let missing = tramline_ring::missing_features();
        if !missing.is_empty() {
            return Err(Failure::unavailable(ServeError::Kernel(missing.join(", "))));
        }
        if SIGNALS.get().is_none() {
            end_on_signals().map_err(|error| {
                Failure::system(format!("cannot take over the signals that end this program: {error}"))
            })?;
            SIGNALS.get_or_init(|| ());
        }
        // Held until the directory is known to the thread that removes it.
        let mut open = lock(&OPEN);
        let directory = make_directory(purpose)?;
        let props = Arc::new(Mutex::new(Props { children: Vec::new(), directory: Some(directory.clone()) }));
        open.push(Arc::clone(&props));
        Ok(Self { props, actors: Vec::new(), directory })
    }

    /// The scene's directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts this program again with these arguments, talking with it through pipes: what it prints on
    /// stdout is heard by [`Scene::listen`].
    pub(super) fn start(
        &mut self,
        name: &str,
        arguments: &[impl AsRef<OsStr>],
        log: Option<&str>,
    ) -> Result<ActorNumber, Failure> {
        let stderr = match log {
            None => Stdio::inherit(),
            Some(file) => {
                let path = self.directory.join(file);
                let file = File::create(&path)
                    .map_err(|error| Failure::cannot_create(format!("{}: {error}", path.display())))?;
                Stdio::from(file)
            }
        };
        self.start_with(name, arguments, Stdio::piped(), Stdio::piped(), stderr)
    }

    /// As [`Scene::start`], with descriptors of the caller's choice.
    pub(super) fn start_with(
        &mut self,
        name: &str,
        arguments: &[impl AsRef<OsStr>],
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<ActorNumber, Failure> {
        let mut command = Command::new(OWN_PROGRAM);
        command.arg0("tramline").args(arguments).stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
        // A broker in it keeps nothing in the user's own place.
        command.env("STATE_DIRECTORY", &self.directory);
        // Held while starting, so that a signal finds either no child or one that it can end.
        let mut props = lock(&self.props);
        let mut child = command
            .spawn()
            .map_err(|error| Failure::system(format!("cannot start a process for {name}: {error}")))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let actor = Actor { name: name.to_owned(), pid: child.id(), input, output, heard: Vec::new() };
        props.children.push(Some(child));
        self.actors.push(actor);
        Ok(self.actors.len() - 1)
    }

    /// An actor's name, for people.
    pub(super) fn name(&self, actor: ActorNumber) -> &str {
        &self.actors[actor].name
    }

    /// An actor's process id.
    pub(super) fn pid(&self, actor: ActorNumber) -> u32 {
        self.actors[actor].pid
    }

    /// Sends an actor a line.
    pub(super) fn tell(&mut self, actor: ActorNumber, line: &str) -> Result<(), Failure> {
        let actor = &mut self.actors[actor];
        let input = actor.input.as_mut().expect("told only while its input is open");
        writeln!(input, "{line}").map_err(|error| {
            Failure::unavailable(format!("{} (pid {}) does not listen: {error}", actor.name, actor.pid))
        })
    }

    /// Closes an actor's input, which asks it to finish.
    pub(super) fn dismiss(&mut self, actor: ActorNumber) {
        self.actors[actor].input = None;
    }

    /// Waits until one of the actors that still have an output prints a line or ends.
    pub(super) fn listen(&mut self, deadline: Instant) -> Result<Heard, Failure> {
        loop {
            for (number, actor) in self.actors.iter_mut().enumerate() {
                if let Some(end) = actor.heard.iter().position(|byte| *byte == b'\n') {
                    let rest = actor.heard.split_off(end + 1);
                    let mut line = std::mem::replace(&mut actor.heard, rest);
                    line.pop();
                    return Ok(Heard::Line(number, String::from_utf8_lossy(&line).into_owned()));
                }
            }
            let Some(number) = self.wait_for_output(deadline)? else { return Ok(Heard::Silence) };
            let actor = &mut self.actors[number];
            let mut buffer = [0; 65536];
            let output = actor.output.as_mut().expect("only open outputs are waited for");
            let got = match output.read(&mut buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::system(format!("cannot hear {}: {error}", actor.name))),
            };
            if got == 0 {
                actor.output = None;
                return Ok(Heard::Ended(number, self.wait(number)?));
            }
            actor.heard.extend_from_slice(&buffer[..got]);
            if actor.heard.len() > LINE_BYTES_MAX {
                let name = &actor.name;
                return Err(Failure::software(format!("{name} printed a line above {LINE_BYTES_MAX} bytes")));
            }
        }
    }

    /// Waits for one line of one actor; its end, anybody else's untimely end, or silence is a failure.
    pub(super) fn expect_line(&mut self, actor: ActorNumber, deadline: Instant) -> Result<String, Failure> {
        match self.listen(deadline)? {
            Heard::Line(number, line) if number == actor => Ok(line),
            Heard::Line(number, line) => {
                Err(Failure::software(format!("{} said {line:?} out of turn", self.name(number))))
            }
            Heard::Ended(number, status) => Err(self.ended(number, status)),
            Heard::Silence => Err(Failure::timed_out(format!(
                "nothing heard from {} (pid {})",
                self.name(actor),
                self.pid(actor)
            ))),
        }
    }

    /// The failure of an actor that should not have ended.
    pub(super) fn ended(&self, actor: ActorNumber, status: ExitStatus) -> Failure {
        Failure::unavailable(format!("{} (pid {}) ended early: {status}", self.name(actor), self.pid(actor)))
    }

    /// Stops an actor where it stands (SIGSTOP), until it is killed.
    pub(super) fn freeze(&self, actor: ActorNumber) -> Result<(), Failure> {
        let props = lock(&self.props);
        let child =
            props.children[actor].as_ref().ok_or_else(|| Failure::software("froze one that has ended"))?;
        rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::STOP)
            .map_err(|error| Failure::system(format!("cannot stop a process: {error}")))
    }

    /// Asks an actor to end with SIGTERM and waits for it, at most a few seconds; then it is killed.
    pub(super) fn stop(&mut self, actor: ActorNumber) -> Result<ExitStatus, Failure> {
        if let Some(child) = &lock(&self.props).children[actor] {
            let pid = rustix::process::Pid::from_child(child);
            // It may have ended by itself; it is not reaped, so the id is still its own.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        self.dismiss(actor);
        self.wait(actor)
    }

    /// Waits for an actor that is about to end, at most a few seconds; then it is killed.
    pub(super) fn wait(&mut self, actor: ActorNumber) -> Result<ExitStatus, Failure> {
        let failure = |error: std::io::Error| Failure::system(format!("cannot wait for a process: {error}"));
        let watch = match &lock(&self.props).children[actor] {
            Some(child) => {
                let pid = rustix::process::Pid::from_child(child);
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
                    .map_err(|error| failure(error.into()))?
            }
            None => return Err(Failure::software("waited twice for the same process")),
        };
        // Not reaped while waiting, so that a signal meanwhile still finds it.
        let ended = wait_readable(&mut [PollFd::new(&watch, PollFlags::IN)], Instant::now() + END_WAIT_MAX)
            .map_err(failure)?;
        let child = lock(&self.props).children[actor].take();
        let mut child = child.expect("only this thread takes children while the scene stands");
        if !ended {
            let _ = child.kill();
        }
        child.wait().map_err(failure)
    }

    fn wait_for_output(&self, deadline: Instant) -> Result<Option<ActorNumber>, Failure> {
        let open: Vec<(ActorNumber, &ChildStdout)> = self
            .actors
            .iter()
            .enumerate()
            .filter_map(|(number, actor)| actor.output.as_ref().map(|output| (number, output)))
            .collect();
        let mut fds: Vec<PollFd<'_>> =
            open.iter().map(|(_, output)| PollFd::new(*output, PollFlags::IN)).collect();
        wait_readable(&mut fds, deadline)
            .map_err(|error| Failure::system(format!("cannot wait for processes: {error}")))?;
        let ready = fds.iter().position(|fd| !fd.revents().is_empty());
        Ok(ready.map(|index| open[index].0))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // In this order, a signal in between finds nothing left to end rather than something forgotten.
        lock(&self.props).end();
        lock(&OPEN).retain(|open| !Arc::ptr_eq(open, &self.props));
    }
}

impl Props {
    /// Leaves nothing behind. What was started first (the broker) ends last.
    fn end(&mut self) {
        for child in self.children.iter_mut().rev().filter_map(Option::take) {
            end(child);
        }
        if let Some(directory) = self.directory.take()
            && let Err(error) = std::fs::remove_dir_all(&directory)
        {
            eprintln!("tramline: {} is left behind: {error}", directory.display());
        }
    }
}

fn end(mut child: Child) {
    // Neither fails for a child that was not waited for, and there is nothing else to do if one does.
    let _ = child.kill();
    let _ = child.wait();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left is a list of what is still to be ended.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread that waits for SIGINT, SIGTERM and SIGHUP, ends everything, and then the program as the signal
/// would have.
fn end_on_signals() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // The locks are kept: nothing may be started any more.
            let open = lock(&OPEN);
            let mut scenes: Vec<MutexGuard<'_, Props>> = open.iter().map(|props| lock(props)).collect();
            scenes.iter_mut().for_each(|props| props.end());
            std::process::exit(128 + signal);
        }
    })?;
    Ok(())
}

/// Waits until something is readable or hung up; `false` at the deadline.
pub(super) fn wait_readable(fds: &mut [PollFd<'_>], deadline: Instant) -> std::io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        match poll(fds, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A directory of its own for one scene: in the usual place for temporary files, or, where that path is too
/// long for a socket's address, in `/tmp`.
fn make_directory(purpose: &str) -> Result<PathBuf, Failure> {
    const ATTEMPTS_MAX: u32 = 100;
    let name = |attempt: u32| {
        // A fresh hasher is keyed at random by the standard library; the name need only be unused.
        let mut hasher = std::hash::RandomState::new().build_hasher();
        hasher.write_u32(attempt);
        format!("tramline-{purpose}-{:08x}", hasher.finish() & 0xffff_ffff)
    };
    let usual = std::env::temp_dir();
    let fits = usual.is_absolute() && usual.join(name(0)).as_os_str().len() <= DIRECTORY_BYTES_MAX;
    let parent = if fits { usual } else { PathBuf::from("/tmp") };
    for attempt in 0..ATTEMPTS_MAX {
        let directory = parent.join(name(attempt));
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                let directory = directory.display();
                return Err(Failure::cannot_create(format!(
                    "cannot make the directory {directory}: {error}"
                )));
            }
        }
    }
    Err(Failure::cannot_create(format!("no unused name for a directory in {}", parent.display())))
}

/// Makes the kernel kill this process when the thread that started it ends; `parent` is that process's id.
///
/// Scenes are opened, and actors started, by a program's main thread, which lives as long as the program.
pub(super) fn follow_parent(parent: u32) -> Result<(), Failure> {
    let failure = |error| Failure::system(format!("cannot ask to end together with the parent: {error}"));
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(failure)?;
    // It may have ended before the request was made.
    let now = rustix::process::getppid().map(rustix::process::Pid::as_raw_pid);
    if now.and_then(|pid| u32::try_from(pid).ok()) == Some(parent) {
        Ok(())
    } else {
        Err(Failure::unavailable(format!("the process {parent} that started this one has gone")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_private_and_has_room_for_a_socket() {
        use std::os::unix::fs::PermissionsExt;
        let directory = make_directory("test").unwrap();
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(directory.as_os_str().len() <= DIRECTORY_BYTES_MAX);
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let mut fds = [PollFd::new(&reader, PollFlags::IN)];
        assert!(!wait_readable(&mut fds, Instant::now()).unwrap());
    }
}
