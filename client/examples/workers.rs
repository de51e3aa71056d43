//! A work queue with three workers, of which one is killed half-way: nothing is lost.
//!
//! Start a broker (`tramline serve`), then `cargo run --example workers`. Each worker is a process of its own. What the
//! killed one had taken, the broker gives to the others, with the attempt counted; so a job may be done twice, and
//! none is left out.

use std::collections::BTreeMap;
use std::process::{Child, Command};
use tramline_client::{Client, Error};

const JOBS: u32 = 60;

/// Who a process is, if it is a worker.
const NAME: &str = "EXAMPLE_WORKER";

/// Works until it is sent home.
fn work(name: &str) -> Result<(), Error> {
    let client = Client::builder().name(name).connect()?;
    for job in client.consume("example.jobs").prefetch(4).start()? {
        let job = job?;
        client.publish("example.done", format!("{name} {}", job.text()?))?;
        job.ack()?;
    }
    Ok(())
}

/// Starts this program once more, as a worker.
fn hire(name: &str) -> std::io::Result<Child> {
    let arguments = std::env::args_os().skip(1);
    Command::new(std::env::current_exe()?).args(arguments).env(NAME, name).spawn()
}

/// The one who has the work done.
pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Ok(name) = std::env::var(NAME) {
        return Ok(work(&name)?);
    }
    let client = Client::connect()?;
    client.queue("example.jobs").declare()?;
    let mut done = client.subscribe("example.done")?;
    let mut workers = ["anna", "bert", "carl"].map(hire).into_iter().collect::<Result<Vec<_>, _>>()?;
    for number in 1..=JOBS {
        client.push("example.jobs", &number.to_string()).text().confirm()?;
    }
    let (mut by_worker, mut seen) = (BTreeMap::new(), BTreeMap::new());
    while seen.len() < JOBS as usize {
        let message = done.recv()?;
        let (name, number) = message.text()?.split_once(' ').unwrap_or_default();
        *seen.entry(number.to_owned()).or_insert(0) += 1;
        let count = by_worker.entry(name.to_owned()).or_insert(0);
        *count += 1;
        if name == "bert" && *count == 3 {
            println!("bert dies");
            workers[1].kill()?;
        }
    }
    for worker in &mut workers {
        worker.kill()?;
        worker.wait()?;
    }
    println!("{by_worker:?}; {} of {JOBS} jobs done", seen.len());
    Ok(())
}
