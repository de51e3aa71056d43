//! HTTP as clients meet it: the real curl on a Unix socket and a loopback port, the real promtool on what it
//! fetched, and what happens to clients that stall or come in crowds.
//!
//! The core's place is taken by a thread that answers each request for a snapshot with the same one.

#![allow(clippy::unwrap_used, reason = "a test ends where it meets the unexpected")]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::have;
use tempfile::TempDir;
use tramline::core::Latency;
use tramline::core::snapshot::{
    DestinationCounts, DestinationStatus, FailuresBy, LimitStatus, QueueCounts, QueueStatus, ReaderStatus,
    RingCounts, RingStatus, RouteCounts, RouteStatus, RoutingCounts, RoutingStatus, ServiceCounts,
    ServiceStatus, SessionStatus, Snapshot, StoreCounts, StoreStatus, StreamStatus, TopicStatus, Totals,
    Traffic,
};
use tramline::http::{SnapshotRequests, Worker, snapshots, worker};

/// Only to end a test that hangs.
const WATCHDOG: Option<Duration> = Some(Duration::from_secs(60));

/// A client's name with everything that a label must escape.
const HOSTILE_NAME: &str = "gps \"1\"\\\nx{} 7 \u{e4}";

const RINGS: RingCounts = RingCounts { messages: 70, bytes: 7_000, dropped: 2, waits: 1 };

fn stream(number: u64, topic: &str) -> StreamStatus {
    StreamStatus {
        id: format!("{number:016x}"),
        topic: topic.to_owned(),
        session: number,
        name: HOSTILE_NAME.to_owned(),
        pid: 42,
        uid: 1000,
        generation: 0,
        descriptors: 256,
        arena_bytes: 262_144,
        memory_bytes: 282_624,
        gated_by: "uid",
        first_seq: 1,
        readers: vec![ReaderStatus {
            attach: 1,
            session: 9,
            name: "viewer".to_owned(),
            sub: 1,
            state: "attached",
            mode: "lossy",
            granted: "gated",
            proxy: false,
            lag: Some(3),
            lost: Some(4),
            pinned: Some(0),
            page: None,
        }],
        ring: Some(RingStatus { counts: RINGS, depth: 5, ..RingStatus::default() }),
        counted: RingCounts::default(),
        parts: Vec::new(),
        stream: number,
    }
}

fn snapshot(streams: u64) -> Snapshot {
    Snapshot {
        version: "1.2.3".to_owned(),
        instance: "00000000000000aa".to_owned(),
        uptime_seconds: 12.5,
        sessions: vec![SessionStatus {
            id: 1,
            name: HOSTILE_NAME.to_owned(),
            pid: 42,
            uid: 1000,
            language: "native",
            connected_seconds: 1.0,
            subscriptions: 0,
            streams: 1,
            traffic: Traffic::default(),
            outbox_bytes: 10,
            backlog_bytes: 0,
            paused: false,
        }],
        topics: vec![TopicStatus {
            topic: "gps.fix".to_owned(),
            subscriptions: 1,
            streams: 1,
            messages: 5,
            bytes: 50,
            rings: RINGS,
        }],
        streams: (0..streams).map(|number| stream(number, &format!("cam.{number:04}"))).collect(),
        retained: Vec::new(),
        subscriptions: Vec::new(),
        routes: vec![RouteStatus {
            route: "to \"map\"".to_owned(),
            from: vec!["gps.*".to_owned()],
            strategy: "failover",
            priority: 0,
            counts: RouteCounts {
                received: 9,
                passed: 2,
                passed_missing: 1,
                invalid: 1,
                delivered: 5,
                dead: 1,
                retries: 4,
                ..RouteCounts::default()
            },
            waiting: 0,
            retrying: 1,
            latency: Latency { steps: [5; 17], sum_nanos: 2_500_000 },
            destinations: ["service:map.primary", "queue:late"]
                .map(|destination| DestinationStatus {
                    destination: destination.to_owned(),
                    state: if destination.starts_with('s') { "ejected" } else { "healthy" },
                    consecutive_failures: 5,
                    counts: DestinationCounts {
                        tries: 8,
                        failures: 6,
                        failures_by: FailuresBy { timed_out: 5, other: 1, ..FailuresBy::default() },
                        ..DestinationCounts::default()
                    },
                })
                .into(),
        }],
        routing: RoutingStatus {
            messages: 0,
            messages_max: 9,
            bytes: 0,
            bytes_max: 9,
            jobs: 0,
            workers: 0,
            counts: RoutingCounts::default(),
        },
        services: vec![ServiceStatus {
            service: "map.locate".to_owned(),
            strategy: "round_robin",
            outstanding: 3,
            waiting: 1,
            outstanding_max: 4096,
            counts: ServiceCounts {
                requests: 10,
                replies: 6,
                errors: 1,
                ejections: 2,
                ..ServiceCounts::default()
            },
            latency: Latency {
                steps: [0, 4, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                sum_nanos: 3_500_000,
            },
            instances: Vec::new(),
        }],
        queues: vec![QueueStatus {
            queue: "jobs".to_owned(),
            strategy: "round_robin",
            durability: "none",
            when_full: "refuse",
            bind: Vec::new(),
            retiring: false,
            pushed_per_second: 0.0,
            delivered_per_second: 0.0,
            paused: false,
            messages: 7,
            ready: 4,
            delayed: 1,
            in_flight: 2,
            storing: 0,
            bytes: 1_750,
            messages_max: 10,
            bytes_max: 10_000,
            oldest_seconds: Some(1.5),
            dead_letters: 3,
            dead_bytes: 600,
            ids: 0,
            ids_forgotten: 0,
            counts: QueueCounts { pushed: 20, acked: 10, dead: 3, ..QueueCounts::default() },
            consumers: Vec::new(),
        }],
        store: StoreStatus {
            file: Some("/s/queues.store".to_owned()),
            state: "full",
            reason: Some("no room".to_owned()),
            counts: StoreCounts {
                batches: 3,
                fsync: Latency {
                    steps: {
                        let mut steps = [0; 17];
                        steps[7] = 2;
                        steps[13] = 1;
                        steps
                    },
                    sum_nanos: 1_500_000_000,
                },
                ..StoreCounts::default()
            },
            ..StoreStatus::default()
        },
        totals: Totals { connections: 3, ..Totals::default() },
        limits: vec![
            LimitStatus { name: "connections_max", value: 1024, used: Some(1) },
            LimitStatus { name: "frame_bytes_max", value: 1_048_576, used: None },
        ],
    }
}

/// A served socket and port, with somebody in the core's place.
struct Site {
    worker: Arc<Worker>,
    socket: PathBuf,
    port: SocketAddr,
    _directory: TempDir,
}

impl Site {
    /// Serves `streams` streams. What does not go through the worker is told to `requests`.
    fn open(streams: u64, prepare: impl FnOnce(SnapshotRequests) -> Option<SnapshotRequests>) -> Self {
        let (source, requests) = snapshots();
        let worker = Arc::new(Worker::start(Some("127.0.0.1:0".parse().unwrap()), source).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("http.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = Arc::clone(&worker);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // Whom the worker turns away is cut off, as the broker does it.
                drop(serving.serve(stream.unwrap()));
            }
        });
        if let Some(requests) = prepare(requests) {
            answer_all(requests, streams);
        }
        let port = worker.listens_on().unwrap();
        Self { worker, socket, port, _directory: directory }
    }

    fn ready() -> Self {
        Self::open(2, Some)
    }

    /// `curl` on the socket: status and what it printed.
    fn curl(&self, arguments: &[&str]) -> String {
        let socket = self.socket.to_str().unwrap();
        text(curl(&[&["--unix-socket", socket], arguments].concat()))
    }
}

fn answer_all(mut requests: SnapshotRequests, streams: u64) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            while let Some(answer) = requests.next().await {
                answer.send(snapshot(streams));
            }
        });
    });
}

fn curl(arguments: &[&str]) -> Output {
    let output = Command::new("curl").args(["-sS", "--max-time", "60"]).args(arguments).output();
    output.expect("curl is installed")
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const CODE: [&str; 2] = ["-w", "%{http_code} %{content_type}"];

#[test]
fn every_page_is_served_on_the_socket() {
    let site = Site::ready();
    assert!(site.curl(&["http://localhost/"]).contains("/metrics"));
    let health = site.curl(&[CODE[0], CODE[1], "http://localhost/health"]);
    assert_eq!(health, "{\"status\":\"ready\",\"store\":\"full\"}\n200 application/json");
    let status = site.curl(&["http://localhost/status?pretty"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["version"], "1.2.3");
    assert_eq!(status["clients"][0]["name"], HOSTILE_NAME);
    assert_eq!(status["clients"][0]["pid"], 42);
    assert_eq!(status["streams"][1]["readers"][0]["lag"], 3);
    assert_eq!(status["limits"][0]["used"], 1);
}

#[test]
fn a_head_request_gets_the_head_only() {
    let site = Site::ready();
    let head = site.curl(&["-I", "http://localhost/metrics"]);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let body = site.curl(&["http://localhost/metrics"]);
    assert!(head.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(length.trim(), body.len().to_string());
}

#[test]
fn what_is_not_there_is_said_in_a_sentence() {
    let site = Site::ready();
    let missing = site.curl(&[CODE[0], CODE[1], "http://localhost/metric"]);
    assert_eq!(
        missing,
        "There is no such page here. There are /health, /status and /metrics.\n404 text/plain; charset=utf-8"
    );
    let written = site.curl(&["-i", "-d", "x", "http://localhost/status"]);
    assert!(written.starts_with("HTTP/1.1 405"), "{written}");
    assert!(written.contains("allow: GET, HEAD") && written.contains("JSON lines"), "{written}");
}

#[test]
fn health_tells_of_a_broker_that_stops() {
    let site = Site::open(0, |requests| {
        requests.set_stopping();
        Some(requests)
    });
    let health = site.curl(&[CODE[0], CODE[1], "http://localhost/health"]);
    assert_eq!(health, "{\"status\":\"stopping\"}\n503 application/json");
    let gone = Site::open(0, |requests| {
        drop(requests);
        None
    });
    assert!(gone.curl(&[CODE[0], CODE[1], "http://localhost/health"]).ends_with("503 application/json"));
    let status = gone.curl(&[CODE[0], CODE[1], "http://localhost/status"]);
    assert!(status.starts_with("No answer: the broker is stopping.\n503"), "{status}");
}

#[test]
fn the_port_is_loopback_only_and_not_for_web_pages() {
    let site = Site::ready();
    let health = format!("http://{}/health", site.port);
    assert!(text(curl(&[&health])).contains(r#"{"status":"ready","store":"full"}"#));
    let page = text(curl(&[CODE[0], CODE[1], "-H", "Host: evil.example", &health]));
    assert!(page.ends_with("421 text/plain; charset=utf-8"), "{page}");
    let (source, _requests) = snapshots();
    let refused = Worker::start(Some("0.0.0.0:0".parse().unwrap()), source).unwrap_err();
    assert!(refused.to_string().contains("not a loopback address"), "{refused}");
    let (source, _requests) = snapshots();
    let taken = Worker::start(Some(site.port), source).unwrap_err();
    assert!(taken.to_string().contains("http.listen"), "{taken}");
}

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    let site = Site::ready();
    let metrics = site.curl(&["-i", "http://localhost/metrics"]);
    let (head, body) = metrics.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(
        body.contains("# TYPE tramline_connections_total counter\ntramline_connections_total 3\n"),
        "{body}"
    );
    assert!(body.contains(r#"client="gps \"1\"\\\nx{} 7 ä""#), "{body}");
    assert!(body.contains("tramline_limit_used{limit=\"connections_max\"} 1"), "{body}");
    assert!(body.contains("tramline_store_fsync_seconds_sum 1.5\n"), "{body}");
    assert!(body.contains("tramline_store_fsync_seconds_bucket{le=\"0.01\"} 2\n"), "{body}");
    assert!(body.contains("tramline_store_fsync_seconds_count 3\n"), "{body}");
    assert!(body.contains("tramline_store_writable 0\n"), "{body}");
    let route = r#"route="to \"map\"""#;
    for line in [
        format!("tramline_route_delivered_messages_total{{{route}}} 5\n"),
        format!("tramline_route_conditions_failed_total{{{route},reason=\"missing\"}} 1\n"),
        format!("tramline_route_latency_seconds_count{{{route}}} 85\n"),
        format!("tramline_route_destination_ejected{{{route},destination=\"service:map.primary\"}} 1\n"),
        format!(
            "tramline_route_destination_failures_total{{{route},destination=\"queue:late\",reason=\"timed_out\"}} 5\n"
        ),
        "tramline_routing_not_taken_messages_total{reason=\"full\"} ".to_owned(),
    ] {
        assert!(body.contains(&line), "{line} is not in {body}");
    }
    assert!(!body.contains("# EOF") && !body.contains("# UNIT"), "{body}");
    if !have("promtool") {
        return;
    }
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = promtool.unwrap();
    promtool.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    let said = [verdict.stdout, verdict.stderr].concat();
    assert!(verdict.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn every_metric_has_help_and_type_in_both_formats() {
    let site = Site::ready();
    let open = site.curl(&[
        "-i",
        "-H",
        "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1",
        "http://localhost/metrics",
    ]);
    let (head, open) = open.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE tramline_connections counter\n"), "{open}");
    let plain = site.curl(&["http://localhost/metrics"]);
    for (format, text) in [("open", open), ("plain", plain.as_str())] {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = if format == "open" { name.strip_suffix("_total").unwrap_or(name) } else { name };
            // What a histogram consists of.
            let part = |end| family.strip_suffix(end).filter(|whole| whole.ends_with("_seconds"));
            let family = ["_bucket", "_sum", "_count"].into_iter().find_map(part).unwrap_or(family);
            assert!(name.starts_with("tramline_"), "{line}");
            assert!(text.contains(&format!("# HELP {family} ")), "{format}: no help for {name}");
            assert!(text.contains(&format!("# TYPE {family} ")), "{format}: no type for {name}");
        }
    }
    let samples = |text: &str| {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(samples(open), samples(&plain));
}

#[test]
fn the_documentation_lists_every_metric_and_no_other() {
    let site = Site::ready();
    let metrics = site.curl(&["http://localhost/metrics"]);
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/http.md")).unwrap();
    let written: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let documented: Vec<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `tramline_"))
        .map(|row| format!("tramline_{}", row.split(" |").take(2).collect::<String>().replace('`', "")))
        .collect();
    assert_eq!(written, documented);
}

#[test]
fn the_number_of_series_is_bounded_and_what_is_left_out_is_counted() {
    let site = Site::open(300, Some);
    let metrics = site.curl(&["http://localhost/metrics"]);
    let shown = metrics.lines().filter(|line| line.starts_with("tramline_stream_messages_total{")).count();
    assert_eq!(shown, tramline::http::metrics::LABELLED_MAX);
    assert!(metrics.contains("tramline_streams 300\n"));
    assert!(metrics.contains("tramline_streams_left_out 44\n"));
}

#[test]
fn long_and_many_headers_are_refused() {
    let site = Site::ready();
    let long = format!("X-Long: {}", "x".repeat(worker::HEADER_BYTES_MAX));
    let answer = site.curl(&[CODE[0], "%{http_code}", "-H", &long, "http://localhost/health"]);
    assert_eq!(answer, "431");
    let many: Vec<String> = (0..=worker::HEADERS_MAX).map(|number| format!("X-{number}: x")).collect();
    let many: Vec<&str> = many.iter().flat_map(|header| ["-H", header.as_str()]).collect();
    let answer = site.curl(&[&many[..], &[CODE[0], "%{http_code}", "http://localhost/health"]].concat());
    assert_eq!(answer, "431");
}

#[test]
fn a_crowd_is_turned_away_and_places_come_free_again() {
    let site = Site::ready();
    let mut crowd = Vec::new();
    loop {
        let (near, far) = UnixStream::pair().unwrap();
        match site.worker.serve(far) {
            Ok(()) => crowd.push(near),
            Err(_) => break,
        }
        assert!(crowd.len() <= worker::CONNECTIONS_MAX + worker::CONNECTIONS_WAITING_MAX, "no end of places");
    }
    assert!(crowd.len() >= worker::CONNECTIONS_WAITING_MAX, "{} places", crowd.len());
    // The one that waits longest is served as soon as those before it have gone.
    let mut last = crowd.pop().unwrap();
    last.set_read_timeout(WATCHDOG).unwrap();
    drop(crowd);
    last.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
}

#[test]
fn stopping_ends_idle_connections_and_the_thread() {
    let (source, requests) = snapshots();
    answer_all(requests, 0);
    let worker = Worker::start(None, source).unwrap();
    let (mut near, far) = UnixStream::pair().unwrap();
    near.set_read_timeout(WATCHDOG).unwrap();
    worker.serve(far).unwrap();
    near.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut first = [0; 12];
    near.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    worker.stop();
    let mut rest = Vec::new();
    near.read_to_end(&mut rest).expect("the connection was closed");
    assert!(rest.ends_with(b"{\"status\":\"ready\",\"store\":\"full\"}\n"));
}

/// Virtual time: nobody waits for these seconds.
fn under_virtual_time<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

#[test]
fn headers_that_never_end_are_not_waited_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tramline::http::{page::Door, worker::serve_connection};
    under_virtual_time(async {
        let (source, _requests) = snapshots();
        let (mut near, far) = tokio::io::duplex(1024);
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let began = tokio::time::Instant::now();
        near.write_all(b"GET /health HTTP/1.1\r\nHost: ").await.unwrap();
        serve_connection(far, Door::Socket, source, stopped).await;
        assert_eq!(began.elapsed().as_millis(), u128::from(worker::HEADER_MILLIS_MAX));
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    });
}

#[test]
fn a_core_that_does_not_answer_is_not_waited_for() {
    use tramline::http::source::{NoSnapshot, SNAPSHOT_MILLIS_MAX};
    under_virtual_time(async {
        let (source, _requests) = snapshots();
        let began = tokio::time::Instant::now();
        assert_eq!(source.snapshot().await.unwrap_err(), NoSnapshot::TimedOut);
        assert_eq!(began.elapsed().as_millis(), u128::from(SNAPSHOT_MILLIS_MAX));
    });
}

#[test]
fn a_client_that_does_not_read_is_not_waited_for() {
    use tokio::io::AsyncWriteExt;
    use tramline::http::{page::Door, worker::serve_connection};
    under_virtual_time(async {
        let (source, mut requests) = snapshots();
        let (mut near, far) = tokio::io::duplex(1024);
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let began = tokio::time::Instant::now();
        near.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let core = async { requests.next().await.unwrap().send(snapshot(50)) };
        tokio::join!(serve_connection(far, Door::Socket, source, stopped), core);
        assert_eq!(began.elapsed().as_millis(), u128::from(worker::CONNECTION_MILLIS_MAX));
    });
}
