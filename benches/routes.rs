//! What routes cost the broker: finding them, and sending on.
//!
//! `cargo bench --bench routes`. First the core alone, with nothing kept ready (`cache_size: 0`): messages to a thousand
//! topics in turn, each for one of 10 or of 1,000 routes; the ratio is to stay below 2. Then a whole broker, a publisher and a
//! subscriber of the socket: messages of 64 bytes by plain publish, and through a route that only sends them on to another
//! topic; the ratio of their times is to stay below 1.2. Rounds alternate, and the best of each counts. Not a test: it asserts
//! that everything arrives, and no time.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use tramline::config::Config;
use tramline::core::{Access, Core, Language, Limits, Now, Peer, SessionId};
use tramline::routes::Routes;
use tramline_client::Client;
use tramline_wire::{Message, MessageFlags, Publish, ToBroker};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Topics that messages of the core go to in turn.
const TOPICS: u32 = 1000;
/// What plain and routed messages are published on, and where they come out.
const PLAIN: &str = "bench.plain";
const INTO: &str = "bench.into";
const OUT: &str = "bench.out";
const BYTES: usize = 64;

fn main() -> Outcome<()> {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (rounds, messages) = if measured { (7, 200_000) } else { (1, 2_000) };
    lookup(rounds, messages)?;
    forward(rounds, messages)
}

/// A core with so many routes, none of which needs to read a message, and a publisher.
struct Bench {
    core: Core,
    publisher: SessionId,
    frames: Vec<Vec<u8>>,
}

const NOW: Now = Now { monotonic: 1, unix: 1 };

impl Bench {
    fn new(routes: u32) -> Outcome<Self> {
        let mut yaml = "route_limits: {cache_size: 0}\nroutes:\n".to_owned();
        for number in 0..routes {
            yaml += &format!(
                "- {{name: r{number}, from: 'in.{number}.*.>', deliver: {{to: 'topic:out.{number}'}}}}\n"
            );
        }
        let config = Config::parse(&yaml, Path::new("routes.rs"))?;
        let compiled = Routes::compile(&config.routes, &mut |_| Err("there are no schemas".to_owned()));
        let compiled = compiled.map_err(|fault| fault.message)?;
        let limits = Limits { outbox_bytes_max: 1 << 30, ..Limits::default() };
        let access = Access { own_uid: 0, own_pid: 1, ..Access::default() };
        let mut core = Core::new(limits, access, 1, "bench");
        core.change_routes(Arc::new(compiled), NOW).map_err(|(_, message)| message)?;
        let peer = Peer { pid: 1, uid: 0, gid: 0, groups: Vec::new() };
        let publisher = core.connect(peer, Language::Native, NOW).map_err(|_| "no connection")?;
        let mut bench = Self { core, publisher, frames: Vec::new() };
        bench.say(&ToBroker::Hello { name: "publisher", client: 0 });
        for alias in 0..TOPICS {
            let topic = format!("in.{}.a.b{alias}", alias % routes);
            bench.say(&ToBroker::Topic { alias, topic: &topic });
            let message = Message {
                flags: MessageFlags::default(),
                seq: 1,
                time: 1,
                source_time: 0,
                after: None,
                head: &[],
                payload: &[b'x'; BYTES],
            };
            let mut bytes = Vec::new();
            ToBroker::Publish(Publish { alias, message }).encode(&mut bytes);
            bench.frames.push(bytes);
        }
        Ok(bench)
    }

    fn give(&mut self, bytes: &[u8]) {
        let taken = self.core.native_input(self.publisher, bytes, &mut VecDeque::new(), NOW);
        assert_eq!(taken.consumed, bytes.len(), "the broker takes everything");
    }

    fn say(&mut self, frame: &ToBroker<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.give(&bytes);
    }

    /// Nanoseconds a message.
    fn round(&mut self, messages: u32) -> f64 {
        let frames = std::mem::take(&mut self.frames);
        let began = Instant::now();
        for number in 0..messages {
            self.give(&frames[(number % TOPICS) as usize]);
        }
        let nanos = began.elapsed().as_nanos() as f64 / f64::from(messages);
        self.frames = frames;
        nanos
    }
}

fn lookup(rounds: u32, messages: u32) -> Outcome<()> {
    let (mut few, mut many) = (Bench::new(10)?, Bench::new(1000)?);
    let (mut of_few, mut of_many) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds {
        of_few = of_few.min(few.round(messages));
        of_many = of_many.min(many.round(messages));
    }
    for bench in [few, many] {
        let routes = bench.core.snapshot(NOW).routes;
        let sent: u64 = routes.iter().map(|route| route.counts.delivered).sum();
        assert_eq!(sent, u64::from(rounds * messages), "each message is for one route");
    }
    println!("one of 10 routes             {of_few:>8.0} ns a message, nothing kept ready");
    println!("one of 1,000                 {of_many:>8.0} ns");
    println!("ratio                        {:>8.2}    (at most 2)", of_many / of_few);
    Ok(())
}

fn forward(rounds: u32, messages: u32) -> Outcome<()> {
    let home = tempfile::tempdir()?;
    let (socket, file) = (home.path().join("s.sock"), home.path().join("c.yaml"));
    std::fs::write(&file, format!("routes: [{{name: on, from: {INTO}, deliver: {{to: 'topic:{OUT}'}}}}]\n"))?;
    let mut serve = Command::new(env!("CARGO_BIN_EXE_tramline"));
    serve.args(["serve", "--log", "warn", "--config"]).arg(&file).arg("--socket").arg(&socket);
    let mut broker = serve.spawn()?;
    while !socket.exists() {
        std::thread::yield_now();
    }
    let measured = (|| {
        let (mut plain, mut routed) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..rounds {
            plain = plain.min(through(&socket, PLAIN, PLAIN, messages)?);
            routed = routed.min(through(&socket, INTO, OUT, messages)?);
        }
        Ok::<_, Box<dyn std::error::Error>>((plain, routed))
    })();
    let _ = broker.kill();
    let _ = broker.wait();
    let (plain, routed) = measured?;
    println!("plain publish, {BYTES} bytes      {plain:>8.0} ns a message, at the receiver");
    println!("through a route              {routed:>8.0} ns");
    println!("ratio                        {:>8.2}    (at most 1.2)", routed / plain);
    Ok(())
}

/// Nanoseconds a message, from the first that is sent to the last that is received.
fn through(socket: &Path, to: &str, from: &str, messages: u32) -> Outcome<f64> {
    let connect = |name: &str| Client::builder().socket(socket).name(name).connect();
    let (sender, receiver) = (connect("sender")?, connect("receiver")?);
    let mut subscription = receiver.subscription(from).gated().open()?;
    let began = Instant::now();
    let sending = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            (0..messages).try_for_each(|_| sender.publish(to, [b'x'; BYTES]).map(drop))?;
            sender.flush()
        });
        let mut received = 0;
        while received < messages {
            received += u32::try_from(1 + subscription.recv()?.lost_before())?;
        }
        sending.join().map_err(|_| "the sender panicked")?.map_err(Box::<dyn std::error::Error>::from)
    });
    sending?;
    if subscription.lost() > 0 {
        return Err(format!("{} messages were lost", subscription.lost()).into());
    }
    Ok(began.elapsed().as_nanos() as f64 / f64::from(messages))
}
