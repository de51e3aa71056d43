//! Conversations with a scripted broker: the bytes of both sides, without a broker.

use crate::Error;
use crate::builder::ClientBuilder;
use crate::client::Client;
use crate::handle::Handle;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;
use tramline_wire::{
    Deliver, Encoding, FRAME_PREFIX_BYTES, GateLimits, Geometry, Message, MessageFlags, Source, ToBroker,
    ToClient, Welcome,
};

/// Ends the tests' process when one hangs.
struct Watchdog(#[expect(dead_code, reason = "dropping it calls the dog off")] mpsc::Sender<()>);

impl Watchdog {
    fn start() -> Self {
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

/// The broker's end of a socket.
struct Script(UnixStream);

impl Script {
    fn say(&mut self, frames: &[ToClient<'_>]) {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.encode(&mut bytes);
        }
        self.0.write_all(&bytes).unwrap();
    }

    fn hear(&mut self) -> Vec<u8> {
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        self.0.read_exact(&mut prefix).unwrap();
        let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
        self.0.read_exact(&mut body).unwrap();
        body
    }

    /// Hears one frame and looks at it.
    fn hears(&mut self, check: impl FnOnce(ToBroker<'_>)) {
        check(ToBroker::decode(&self.hear()).unwrap());
    }

    fn greet(&mut self) {
        let mut request = [0; 8];
        self.0.read_exact(&mut request).unwrap();
        assert_eq!(request, [0x93, b'T', b'R', b'A', b'M', 1, 1, 0]);
        self.0.write_all(&tramline_wire::preamble::answer(request).unwrap().0).unwrap();
        self.hears(|frame| assert!(matches!(frame, ToBroker::Hello { name: "test", client: 1.. })));
        self.say(&[ToClient::Welcome(Welcome {
            session: 7,
            instance: 1,
            version: "9.9",
            frame_bytes_max: 64 * 1024,
            attach_timeout_millis: 1000,
            subscriptions_max: 10,
            streams_max: 10,
            ring_bytes_max: 1 << 20,
            ring_default: Geometry { descriptors: 64, arena_bytes: 1 << 16 },
            gate: GateLimits {
                budget_millis: 5_000,
                publisher_millis: 5_000,
                window_millis: 5_000,
                cooldown_millis: 10_000,
                held_bytes_max: 0,
            },
        })]);
    }
}

/// Runs `script` as the broker while `test` has the client.
fn converse<T: Send + 'static>(
    script: impl FnOnce(Script) -> T + Send + 'static,
    test: impl FnOnce(Client),
) -> T {
    let _watchdog = Watchdog::start();
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let broker = std::thread::spawn(move || script(Script(UnixStream::from(theirs))));
    let options = ClientBuilder::default().name("test").reconnect(false).options;
    let socket = crate::socket::Socket::from_connected(ours).unwrap();
    if let Ok(handle) = Handle::over(options, socket) {
        test(Client { handle });
    }
    broker.join().unwrap()
}

fn message(seq: u64, payload: &[u8]) -> Message<'_> {
    Message {
        flags: MessageFlags::new(Encoding::Text),
        seq,
        time: 5,
        source_time: 0,
        after: None,
        head: &[],
        payload,
    }
}

#[test]
fn what_a_program_holds_moves_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<crate::Message>();
    shared::<Error>();
    shared::<Client>();
    shared::<crate::Publisher>();
    sent::<crate::Subscription>();
    sent::<crate::Loan>();
    sent::<crate::Batch>();
}

#[test]
fn publishing_defines_an_alias_once_and_numbers_messages() {
    converse(
        |mut broker| {
            broker.greet();
            broker.hears(|frame| assert_eq!(frame, ToBroker::Topic { alias: 0, topic: "a.b" }));
            for seq in 1..=2 {
                broker.hears(|frame| {
                    let ToBroker::Publish(publish) = frame else { panic!("{frame:?}") };
                    assert_eq!((publish.alias, publish.message.seq, publish.message.after), (0, seq, None));
                    assert_eq!(publish.message.payload, b"x");
                });
            }
            broker.hears(|frame| assert_eq!(frame, ToBroker::Topic { alias: 1, topic: "c" }));
            broker
                .hears(|frame| assert!(matches!(frame, ToBroker::Publish(it) if it.message.flags.confirm())));
            broker.say(&[ToClient::Confirmed { alias: 1, seq: 1, receivers: 3 }]);
            assert_eq!(broker.0.read(&mut [0; 1]).unwrap(), 0, "closed");
        },
        |client| {
            assert_eq!((client.session(), client.broker_version().as_str()), (7, "9.9"));
            client.publish("a.b", b"x").unwrap();
            client.publish("a.b", b"x").unwrap();
            assert_eq!(client.publish_confirmed("c", b"").unwrap(), 3);
        },
    );
}

#[test]
fn deliveries_cut_anywhere_arrive_whole_with_their_gaps() {
    converse(
        |mut broker| {
            broker.greet();
            broker.hears(|frame| {
                let ToBroker::Subscribe(subscribe) = frame else { panic!("{frame:?}") };
                assert_eq!((subscribe.sub, subscribe.filter, subscribe.rings), (0, ">", true));
            });
            let mut bytes = Vec::new();
            ToClient::Subscribed { req: 1, sub: 0, streams: 0, pending: 0 }.encode(&mut bytes);
            let source = Source { alias: 4, topic: "t", session: 9, name: "p", uid: 1, pid: 2, client: 0 };
            ToClient::Source(source).encode(&mut bytes);
            for seq in 1..=3 {
                let long = vec![b'l'; 300];
                let payload: &[u8] = if seq == 2 { &long } else { b"short" };
                if seq == 3 {
                    ToClient::Gap { sub: 0, topic: "t", lost: 5, source: None }.encode(&mut bytes);
                }
                let deliver = Deliver {
                    sub: 0,
                    source: 4,
                    payload_length: payload.len() as u64,
                    message: message(seq, payload),
                };
                ToClient::Deliver(deliver).encode(&mut bytes);
            }
            ToClient::SourceGone { alias: 4 }.encode(&mut bytes);
            for byte in bytes {
                broker.0.write_all(&[byte]).unwrap();
            }
            broker.0.read_to_end(&mut Vec::new()).unwrap();
        },
        |client| {
            let mut s = client.subscribe(">").unwrap();
            let received: Vec<_> = (0..3).map(|_| s.recv().unwrap()).collect();
            assert_eq!(received.iter().map(crate::Message::lost_before).collect::<Vec<_>>(), [0, 0, 5]);
            assert_eq!(received[1].payload(), [b'l'; 300]);
            assert_eq!((received[0].text().unwrap(), received[0].publisher().uid), ("short", 1));
            while s.publishers().len() == 1 {
                assert!(s.try_recv().unwrap().is_none());
            }
            assert_eq!(s.events().len(), 2);
        },
    );
}

#[test]
fn a_refusal_reaches_who_asked_with_its_limit() {
    converse(
        |mut broker| {
            broker.greet();
            broker.hear();
            let limit = tramline_wire::LimitInfo { name: "limits.x_max", value: 3, used: 4 };
            broker.say(&[ToClient::Error { req: 1, code: 12, message: "too many", limit: Some(limit) }]);
            broker.hear();
            broker.say(&[ToClient::Close { code: 16, message: "the broker is stopping" }]);
        },
        |client| {
            let error = client.subscribe("x").unwrap_err();
            assert_eq!((error.code(), error.to_string().as_str()), (crate::Code::LimitReached, "too many"));
            let limit = error.limit().unwrap();
            assert_eq!((limit.name.as_str(), limit.value, limit.used), ("limits.x_max", 3, 4));
            let error = client.ping().unwrap_err();
            assert!(error.to_string().contains("the broker is stopping") && error.is_retryable(), "{error}");
        },
    );
}

#[test]
fn nonsense_from_the_broker_ends_the_connection_only() {
    for nonsense in [&[0xff; 64][..], &[4, 0, 0, 0, 99, 0, 0, 0], &[8, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 9]] {
        converse(
            |mut broker| {
                broker.greet();
                broker.hear();
                broker.0.write_all(nonsense).unwrap();
                broker.0.shutdown(std::net::Shutdown::Write).unwrap();
                let _ = broker.0.read_to_end(&mut Vec::new());
            },
            |client| assert!(matches!(client.ping(), Err(Error::Disconnected(Some(_))))),
        );
    }
}

#[test]
fn what_the_socket_does_not_take_waits_and_goes_out_in_order() {
    let heard = converse(
        |mut broker| {
            broker.greet();
            broker.hear();
            let mut seen = 0;
            while seen < 3_000 {
                broker.hears(|frame| {
                    let ToBroker::Publish(publish) = frame else { panic!("{frame:?}") };
                    seen += 1;
                    assert_eq!((publish.message.seq, publish.message.payload.len()), (seen, 1000));
                });
            }
            broker.hears(|frame| assert_eq!(frame, ToBroker::Ping { req: 1 }));
            broker.say(&[ToClient::Pong { req: 1 }]);
            broker.0.read_to_end(&mut Vec::new()).unwrap();
            seen
        },
        |client| {
            for _ in 0..3_000 {
                client.publish("t", [0; 1000]).unwrap();
            }
            client.flush().unwrap();
        },
    );
    assert_eq!(heard, 3_000);
}
