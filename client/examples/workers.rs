//! A work queue with three workers, of which one dies half-way: nothing is lost.
//!
//! Start a broker (`tramline serve`), then `cargo run --example workers`. The workers are threads with connections of their
//! own; the one that dies drops its connection while it holds jobs, which the broker then gives to the others.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;
use tramline_client::{Client, Error};

const JOBS: u32 = 60;

/// Works until there is nothing more to do, or until it dies at its tenth job.
fn work(name: &str, dies: bool, done: &mpsc::Sender<(String, u32)>) -> Result<(), Error> {
    let client = Client::builder().name(name).connect()?;
    let mut jobs = client.consume("example.jobs").prefetch(4).start()?;
    let mut count = 0;
    while let Some(job) = jobs.recv_timeout(Duration::from_secs(1))? {
        count += 1;
        if dies && count == 10 {
            println!("{name} dies holding {}", job.text()?);
            // As if the process had been killed: what it had is given to the others, with the attempt counted.
            return Ok(());
        }
        let number: u32 = job.text()?.parse().unwrap_or(0);
        if done.send((name.to_owned(), number)).is_err() {
            return Ok(());
        }
        job.ack()?;
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let client = Client::connect()?;
    client.queue("example.jobs").declare()?;
    let (done, results) = mpsc::channel();
    let workers: Vec<_> = ["anna", "bert", "carl"]
        .into_iter()
        .map(|name| {
            let done = done.clone();
            std::thread::spawn(move || work(name, name == "bert", &done))
        })
        .collect();
    drop(done);
    for number in 1..=JOBS {
        client.push("example.jobs", &number.to_string()).text().confirm()?;
    }
    let mut by_worker: BTreeMap<String, u32> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for (name, number) in results {
        *by_worker.entry(name).or_default() += 1;
        *seen.entry(number).or_insert(0) += 1;
    }
    for worker in workers {
        if let Ok(Err(error)) = worker.join() {
            println!("a worker failed: {error}");
        }
    }
    println!("{by_worker:?}; {} of {JOBS} jobs done", seen.len());
    Ok(())
}
