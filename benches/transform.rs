//! What a route costs: schema, six rules of which two are expressions, on a message of 400 bytes, beside serde_json reading
//! and writing the same bytes.
//!
//! `cargo bench --bench transform`. Everything from the bytes that came to those that a destination gets is counted. Prints
//! nanoseconds, the ratio, which is to stay at 4 at most, and what two threads do together against one, which is to be 1.7
//! times as much at least. Not a test: it asserts that the result is right, and no time.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};
use tramline::config::Config;
use tramline::routes::Routes;
use tramline::routes::envelope::Native;
use tramline::routes::route::{Origin, Outcome};

/// A record of gpsd, of 400 bytes.
const RECORD: &str = r#"{"class":"TPV","device":"/dev/ttyACM0-gnss01","mode":3,"time":"2005-06-09T14:34:44.280Z","ept":0.005,"lat":46.498287177,"lon":7.567411672,"altHAE":1390.5843,"altMSL":1344.9947,"alt":1344.9947,"track":10.3788,"magtrack":12.7005,"magvar":2.3,"speed":0.091,"climb":-0.085,"ecefx":4360953.0000,"ecefy":579351.0000,"ecefz":4604558.0000,"ecefvx":-0.12,"ecefvy":0.00,"ecefvz":0.00,"velN":0.090,"velE":0.016}"#;

const ROUTES: &str = r#"
routes:
  - name: fixes
    from: "sensors.gps.*"
    message_types: [TPV]
    validate: tpv.json
    transform:
      version: "3"
      rules:
        - {source: lat, target: position.latitude}
        - {source: lon, target: position.longitude}
        - {source: altMSL, target: position.altitude_ft, transform: "round(value / 0.3048, 1)"}
        - {source: speed, target: speed_kmh, transform: "value * 3.6"}
        - {source: mode, target: mode}
        - {source: time, target: observed_at, required: true}
    deliver: {to: "topic:map.fixes"}
"#;

/// Messages of one measurement.
const MESSAGES: u32 = 100_000;
/// Measurements; the best counts.
const ROUNDS: u32 = 7;

fn native() -> Native<'static> {
    let payload = RECORD.as_bytes();
    Native { topic: "sensors.gps.fix", message_type: "TPV", publisher: "gpsd", payload, ..Native::default() }
}

fn treat(routes: &Routes, out: &mut Vec<u8>) {
    out.clear();
    let native = black_box(native());
    for (_, outcome) in routes.process(Origin::Topic(native.topic), &native) {
        let Outcome::Made(parts) = outcome else { panic!("{outcome:?}") };
        parts.iter().for_each(|(part, _)| part.write("topic:map.fixes", Duration::from_micros(5), out));
    }
}

fn plain(out: &mut Vec<u8>) {
    out.clear();
    let value: serde_json::Value = serde_json::from_slice(black_box(RECORD.as_bytes())).expect("a record");
    serde_json::to_writer(out, &value).expect("memory takes everything");
}

/// Nanoseconds a message, the best of several rounds.
fn nanos(mut work: impl FnMut(&mut Vec<u8>)) -> f64 {
    let mut out = Vec::with_capacity(1024);
    let round = || {
        let began = Instant::now();
        (0..MESSAGES).for_each(|_| work(black_box(&mut out)));
        began.elapsed().as_nanos() as f64 / f64::from(MESSAGES)
    };
    std::iter::repeat_with(round).take(ROUNDS as usize).fold(f64::INFINITY, f64::min)
}

/// Messages a second that several threads work on together, the best of several rounds.
fn rate(work: impl Fn(&mut Vec<u8>) + Sync, threads: usize) -> f64 {
    let round = || {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut out = Vec::with_capacity(1024);
                    (0..MESSAGES).for_each(|_| work(black_box(&mut out)));
                });
            }
        });
        threads as f64 * f64::from(MESSAGES) / began.elapsed().as_secs_f64()
    };
    std::iter::repeat_with(round).take(ROUNDS as usize).fold(0.0, f64::max)
}

fn main() {
    let schema = include_str!("../config/examples/schemas/tpv.json");
    let config = Config::parse(ROUTES, Path::new("transform.rs")).expect("constant routes");
    let routes = Routes::compile(&config.routes, &mut |_| Ok(schema.to_owned())).expect("constant routes");
    let mut out = Vec::new();
    treat(&routes, &mut out);
    let made = String::from_utf8(out).expect("JSON is text");
    let expected = r#""transformedData":{"position":{"latitude":46.498287177,"longitude":7.567411672,"altitude_ft":4412.7}"#;
    assert!(
        made.contains(expected) && made.contains(r#""observed_at":"2005-06-09T14:34:44.280Z""#),
        "{made}"
    );

    println!("a message of {} bytes", RECORD.len());
    let treated = |out: &mut Vec<u8>| treat(&routes, out);
    let (read, route) = (nanos(plain), nanos(treated));
    println!("serde_json, read and write   {read:>8.0} ns");
    println!("schema, six rules, write     {route:>8.0} ns");
    println!("ratio                        {:>8.2}    (at most 4)", route / read);
    // Whether two cores were free is seen by what two threads of the other do, in turns with these.
    for _ in 0..3 {
        let (one, two) = (rate(treated, 1), rate(treated, 2));
        let (alone, both) = (rate(plain, 1), rate(plain, 2));
        println!(
            "one thread, two threads      {one:>8.0} and {two:.0} a second, {:.2} times (at least 1.7)",
            two / one
        );
        println!(
            "  serde_json                 {alone:>8.0} and {both:.0} a second, {:.2} times",
            both / alone
        );
    }
}
