//! A service with two instances, one of them slow: callers get their answers all the same.
//!
//! Start a broker (`tramline serve`), then `cargo run --example replicas`. The instances are threads with connections of their
//! own. The slow one needs longer than its callers give it: it fails again and again, and after five failures in a row the
//! broker leaves it out for a while. Requests that may be carried out twice do not even notice if the configuration says how
//! long one instance may take (`services: [{name: example.square, attempt_timeout_millis: 50}]`).

use std::collections::BTreeMap;
use std::thread::{park_timeout, yield_now};
use std::time::Duration;
use tramline_client::{Client, Code, Error, Request};

const REQUESTS: u32 = 40;

/// Squares numbers, until the program ends.
fn square(name: &'static str, takes: Duration) -> Result<(), Error> {
    let client = Client::builder().name(name).connect()?;
    client.service("example.square").concurrency(4).handle(|request: &Request| -> Result<(), Error> {
        // Whoever works does nothing else meanwhile.
        park_timeout(takes);
        match request.text()?.parse::<u64>() {
            Ok(number) => request.reply_text((number * number).to_string()),
            Err(error) => request.reply_error(22, &error.to_string()),
        }
    })
}

pub(crate) fn main() -> Result<(), Error> {
    for (name, takes) in [("fast", Duration::ZERO), ("slow", Duration::from_millis(300))] {
        std::thread::spawn(move || {
            if let Err(error) = square(name, takes) {
                println!("{name} ends: {error}");
            }
        });
    }
    let client = Client::connect()?;
    let ask = |what: &str| {
        client.request("example.square", what).text().timeout(Duration::from_millis(200)).idempotent().send()
    };
    // Until somebody is there.
    while matches!(ask("1"), Err(error) if error.code() == Code::NoInstance) {
        yield_now();
    }
    let mut by_instance: BTreeMap<String, u32> = BTreeMap::new();
    for number in 1..=REQUESTS {
        let who = match ask(&number.to_string()) {
            Ok(answer) => {
                assert_eq!(answer.text()?, (number * number).to_string());
                answer.publisher().name.clone()
            }
            Err(error) => format!("nobody ({})", error.code()),
        };
        *by_instance.entry(who).or_default() += 1;
    }
    println!("answers by instance: {by_instance:?}");
    if let Err(error) = ask("seven") {
        println!("an error of the service: {error}");
    }
    Ok(())
}
