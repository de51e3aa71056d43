//! Descriptors as a weapon, and as what runs out: those that come where none belong, that take long to close, that are not
//! confirmed, that are too many for their user; and publishers that do not answer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;
mod support;

use raw::publisher::RawPublisher;
use raw::{Raw, shown, subscription};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::Broker;
use tramline_client::Client;
use tramline_ring::{Meta, ReaderLink, RingSpec, Writer};
use tramline_wire::{
    Accept, Code, GatedBy, Geometry, OpenStream, PageDeclaration, Subscribe, ToBroker, ToClient, preamble,
};

/// Whether the other end of a pipe or socket has been closed, everywhere.
fn hung_up(fd: &impl AsFd, wait: Option<&Timespec>) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut polled, wait).unwrap();
    polled[0].revents().contains(PollFlags::HUP)
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

#[test]
fn descriptors_with_the_preamble_are_refused_and_closed() {
    let broker = Broker::start();
    for length in [1, 3, preamble::PREAMBLE_BYTES] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut raw = Raw::connect(broker.socket());
        let request = preamble::request();
        raw.write_with(&request[..length], &[theirs.as_fd(), theirs.as_fd()]);
        raw.write(&request[length..]);
        drop(theirs);
        raw.read_exact(&mut [0; preamble::PREAMBLE_BYTES]);
        let sentence = raw.expect_close(Code::BadDescriptor);
        assert!(sentence.contains("preamble"), "{sentence}");
        assert!(hung_up(&ours, None));
    }
    // With the first bytes of a stranger, and of the other languages.
    for first in [&b"\x16\x03\x01"[..], b"{\"op\":\"ping\"}\n", b"GET /health HTTP/1.0\r\n\r\n"] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut raw = Raw::connect(broker.socket());
        raw.write_with(first, &[theirs.as_fd()]);
        drop(theirs);
        raw.finish();
        raw.rest();
        assert!(hung_up(&ours, None));
    }
}

/// A TCP socket whose closing waits until its peer has read everything, and that peer.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let peer = listener.accept().unwrap().0;
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::from_secs(100))).unwrap();
    socket.set_nonblocking(true).unwrap();
    let bytes = [0; 64 * 1024];
    while socket.write(&bytes).is_ok() {}
    // To linger is for those who block.
    socket.set_nonblocking(false).unwrap();
    (socket.into(), peer)
}

fn ring(stream: u64) -> Writer {
    let spec = RingSpec {
        stream,
        generation: 0,
        descriptors: 16,
        arena_bytes: 8192,
        first_position: 0,
        first_seq: 1,
    };
    Writer::create(&spec, 16).unwrap()
}

fn open(req: u32, stream: u64) -> ToBroker<'static> {
    ToBroker::OpenStream(OpenStream {
        req,
        alias: 0,
        stream,
        generation: 0,
        geometry: Geometry { descriptors: 16, arena_bytes: 8192 },
        first_seq: 1,
        gated_by: GatedBy::Anyone,
        fds: 1,
    })
}

#[test]
fn a_descriptor_that_takes_long_to_close_keeps_nobody_waiting() {
    let broker = Broker::start();
    let (mut bystander, _) = Raw::open(broker.socket(), "bystander");
    let (mut raw, _) = Raw::open(broker.socket(), "slow");
    raw.send(&ToBroker::Topic { alias: 0, topic: "a" });
    let (slow, mut peer) = lingering();
    raw.send_with(&open(1, 5), &[slow.as_fd()]);
    drop(slow);
    raw.expect_error(1, Code::BadDescriptor);
    // What is closed behind it waits for it; whoever speaks to the broker does not.
    let (ours, theirs) = UnixStream::pair().unwrap();
    raw.send_with(&open(2, 6), &[theirs.as_fd()]);
    drop(theirs);
    raw.expect_error(2, Code::BadDescriptor);
    for _ in 0..200 {
        bystander.settle();
        raw.settle();
    }
    let good = ring(7);
    raw.send_with(&open(3, 7), &[good.memory()]);
    raw.expect(&ToClient::StreamOpened { req: 3, stream: 7, readers: 0, pending: 0 });
    assert!(!hung_up(&ours, Some(&NOW)), "the slow one was closed at once: this test tests nothing");
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    assert!(hung_up(&ours, None));
}

#[test]
fn every_kind_of_file_that_is_no_ring_is_refused_with_a_code() {
    let broker = Broker::start();
    let (mut raw, _) = Raw::open(broker.socket(), "publisher");
    raw.send(&ToBroker::Topic { alias: 0, topic: "a" });
    let before = broker.open_files();
    let size = ring(5).spec().memory_bytes().unwrap();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    let memfd = |bytes: u64| {
        let fd = rustix::fs::memfd_create("m", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        fd
    };
    let hollow = memfd(size);
    rustix::fs::fallocate(&hollow, rustix::fs::FallocateFlags::KEEP_SIZE, size, size).unwrap();
    rustix::fs::fcntl_add_seals(&hollow, seals).unwrap();
    let growing = memfd(size);
    rustix::io::pwrite(&growing, &vec![1; usize::try_from(size).unwrap()], 0).unwrap();
    rustix::fs::fcntl_add_seals(&growing, seals - SealFlags::GROW).unwrap();
    // Far larger than the machine; it takes nothing.
    let huge = memfd(1 << 46);
    rustix::fs::fcntl_add_seals(&huge, seals).unwrap();
    let file = |path: &str| OwnedFd::from(std::fs::File::open(path).unwrap());
    let on_disk = tempfile::tempfile().unwrap();
    on_disk.set_len(size).unwrap();
    let page = ReaderLink::new().allocate_slot().unwrap().1.unwrap().fd;
    let mut wrong: Vec<(&str, OwnedFd)> = vec![
        ("holes behind blocks", hollow),
        ("growing", growing),
        ("huge", huge),
        ("/dev/zero", file("/dev/zero")),
        ("/dev/full", file("/dev/full")),
        ("a folder", file("/proc/self")),
        ("a file of /proc", file("/proc/self/status")),
        ("a file on disk", on_disk.into()),
        ("a socket", UnixStream::pair().unwrap().0.into()),
        ("a listener", TcpListener::bind("127.0.0.1:0").unwrap().into()),
        ("a pipe", rustix::pipe::pipe().unwrap().0),
        ("an event", rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()),
        ("an epoll", rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap()),
        (
            "a process",
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
                .unwrap(),
        ),
        ("a reader page", page),
    ];
    if let Ok(pages) = rustix::fs::memfd_create("h", MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB) {
        wrong.push(("huge pages", pages));
    }
    for (req, (what, fd)) in (1..).zip(&wrong) {
        raw.send_with(&open(req, 5), &[fd.as_fd()]);
        let sentence = raw.expect_error(req, Code::BadDescriptor);
        assert!(sentence.contains("refused"), "{what}: {sentence}");
    }
    let good = ring(5);
    raw.send_with(&open(99, 5), &[good.memory()]);
    raw.expect(&ToClient::StreamOpened { req: 99, stream: 5, readers: 0, pending: 0 });
    while broker.open_files() > before + 1 {
        raw.settle();
    }
}

/// Takes the next offer of a subscriber, as a link of its own.
fn accept(raw: &mut Raw, attach: u64, links: &mut Vec<ReaderLink>) {
    let link = ReaderLink::new();
    let (slot, page) = link.allocate_slot().unwrap();
    let page = page.unwrap();
    let declared = PageDeclaration { first_slot: page.first_slot, slots: page.slots };
    let frame = Accept { attach, slot, page: Some(declared), fds: 1 };
    raw.send_with(&ToBroker::Accept(frame), &[page.fd.as_fd()]);
    links.push(link);
}

#[test]
fn who_never_confirms_descriptors_is_sent_few_and_subscribes_all_the_same() {
    const PUBLISHERS: u32 = 8;
    const MOST: usize = 8;
    let yaml = format!("limits:\n  session_fds_in_flight_max: {MOST}\n  attach_timeout_millis: 300\n");
    let broker = Broker::with_config(&yaml);
    let mut publishers: Vec<RawPublisher> = (0..PUBLISHERS)
        .map(|number| RawPublisher::open(broker.socket(), &format!("a.{number}"), 100, 4).0)
        .collect();
    let (mut raw, _) = Raw::open(broker.socket(), "hoarder");
    raw.send(&ToBroker::Subscribe(Subscribe { rings: true, ..subscription(1, "a.*") }));
    let (mut links, mut attaches, mut offers) = (Vec::new(), Vec::new(), 0);
    let pending = loop {
        let body = raw.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Source(_) => {}
            ToClient::Offer(offer) => {
                accept(&mut raw, offer.attach, &mut links);
                offers += 1;
                if offers == PUBLISHERS {
                    publishers.iter_mut().for_each(RawPublisher::admit_next);
                }
            }
            ToClient::Attach(attach) => attaches.push(attach.attach),
            ToClient::Subscribed { req: 1, pending, .. } => break pending,
            _ => panic!("{}", shown(&body)),
        }
    };
    // It returned in time, was sent few, and hears the rest once it confirms.
    assert!(!attaches.is_empty() && raw.fds.len() <= MOST, "{} descriptors", raw.fds.len());
    assert_eq!(pending, PUBLISHERS, "none of them was confirmed");
    let mut confirmed = 0;
    while confirmed < PUBLISHERS as usize {
        raw.fds.clear();
        for attach in attaches.drain(..) {
            raw.send(&ToBroker::Attached { attach });
            confirmed += 1;
        }
        if confirmed < PUBLISHERS as usize {
            let body = raw.body();
            let Ok(ToClient::Attach(attach)) = ToClient::decode(&body) else { panic!("{}", shown(&body)) };
            attaches.push(attach.attach);
        }
    }
    assert!(raw.settle().is_empty());
}

#[test]
fn a_publisher_that_does_not_answer_hangs_no_subscriber() {
    let broker = Broker::with_config("limits:\n  attach_timeout_millis: 100\n");
    let (mut silent, _) = RawPublisher::open(broker.socket(), "a", 100, 4);
    let client = Client::builder().socket(broker.socket()).connect().unwrap();
    // It returns although its one stream is not attached.
    let mut subscription = client.subscribe("a").unwrap();
    assert!(subscription.try_recv().unwrap().is_none());
    client.ping().unwrap();
    silent.admit_next();
    silent.writer.try_send(Meta::default(), b"", b"at last").unwrap();
    assert_eq!(subscription.recv().unwrap().payload(), b"at last");
}

/// Not a test by itself: what others run as another user and in processes of their own.
#[test]
fn role_of_another_process() {
    let Ok(part) = std::env::var("ROLE_PART") else { return };
    let wait = || std::io::stdin().read_line(&mut String::new()).map(drop);
    match part.as_str() {
        // Sends many descriptors to itself and does not take them: they are on their way.
        "hoard descriptors" => {
            let (from, _to) = UnixStream::pair().unwrap();
            let many: Vec<BorrowedFd<'_>> = vec![from.as_fd(); 200];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
            let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
            assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&many)));
            let bytes = [std::io::IoSlice::new(b"x")];
            rustix::net::sendmsg(&from, &bytes, &mut control, rustix::net::SendFlags::empty()).unwrap();
            println!("\nsays: hoarded");
            wait().unwrap();
        }
        "open a ring" => {
            let client = Client::builder().reconnect(false).connect().unwrap();
            println!("\nsays: connected");
            let publisher = client.publisher("late").open().unwrap();
            println!("\nsays: opened");
            drop(publisher);
        }
        other => panic!("no such part: {other}"),
    }
}

struct Role {
    child: std::process::Child,
    said: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Role {
    fn start(part: &str, program: &Path, uid: u32, files: u32, socket: &Path) -> Self {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={files}:{files}")).arg(program);
        command.args(["role_of_another_process", "--exact", "--nocapture", "--quiet"]).uid(uid).gid(uid);
        command.env("ROLE_PART", part).env("TRAMLINE_SOCKET", socket);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    fn says(&mut self, wanted: &str) {
        let found = self.said.by_ref().map(Result::unwrap).find(|line| line.contains("says: "));
        assert!(found.as_ref().is_some_and(|line| line.contains(wanted)), "{found:?} instead of {wanted}");
    }

    /// Lets it go on, to its end.
    fn release(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn too_many_descriptors_on_their_way_delay_their_user_and_lose_nothing() {
    const USER: u32 = 20_011;
    const FILES: u32 = 100;
    if !support::is_root("that the kernel counts descriptors on their way by user")
        || !support::have("prlimit")
    {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let everybody = |path: &Path, mode| {
        let permissions = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
        std::fs::set_permissions(path, permissions).unwrap();
    };
    everybody(home.path(), 0o777);
    let copied = |from: &Path, name: &str| {
        let copy = home.path().join(name);
        std::fs::copy(from, &copy).unwrap();
        everybody(&copy, 0o755);
        copy
    };
    let program = copied(Path::new(env!("CARGO_BIN_EXE_tramline")), "tramline");
    let role = copied(&std::env::current_exe().unwrap(), "role");
    let socket = home.path().join("t.sock");
    let mut serve = Command::new("prlimit");
    serve.arg(format!("--nofile={FILES}:{FILES}")).arg(program).args(["serve", "--socket"]).arg(&socket);
    serve.uid(USER).gid(USER);
    let broker = Broker::spawn(home, socket, serve);
    let (mut bystander, _) = Raw::open(broker.socket(), "bystander");

    // The broker cannot pass descriptors on; it serves everybody else, and does it as soon as it can.
    let (mut publisher, _) = RawPublisher::open(broker.socket(), "a", 100, 4);
    let mut hoarder = Role::start("hoard descriptors", &role, USER, 1000, broker.socket());
    hoarder.says("hoarded");
    let (mut raw, _) = Raw::open(broker.socket(), "subscriber");
    raw.send(&ToBroker::Subscribe(Subscribe { rings: true, ..subscription(1, "a") }));
    let mut links = Vec::new();
    loop {
        let body = raw.body();
        if let ToClient::Offer(offer) = ToClient::decode(&body).unwrap() {
            break accept(&mut raw, offer.attach, &mut links);
        }
    }
    for _ in 0..300 {
        bystander.settle();
    }
    assert!(!publisher.raw.has_more(), "the descriptors were sent at once: this test tests nothing");
    hoarder.release();
    publisher.admit_next();
    loop {
        let body = raw.body();
        match ToClient::decode(&body).unwrap() {
            ToClient::Attach(attach) => {
                assert_eq!(raw.fds.len(), 3);
                raw.send(&ToBroker::Attached { attach: attach.attach });
            }
            ToClient::Subscribed { streams: 1, .. } => break,
            _ => {}
        }
    }

    // The same for a client that sends some.
    let mut hoarder = Role::start("hoard descriptors", &role, USER, 1000, broker.socket());
    hoarder.says("hoarded");
    let mut client = Role::start("open a ring", &role, USER, FILES, broker.socket());
    client.says("connected");
    for _ in 0..300 {
        bystander.settle();
    }
    hoarder.release();
    client.says("opened");
    client.release();
}
