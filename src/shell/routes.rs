//! Workers of routes: threads that check and transform messages, each in the order in which it is given them.
//!
//! They are started when there is something for them. How much they have at a time, the core bounds. Nothing here knows
//! what a route is.

use super::broker::Shell;
use super::clock;
use crate::core::routes::{Done, Task};
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// Stack of a worker, in bytes: what is nested in messages and expressions is treated by functions that call themselves.
const STACK_BYTES: usize = 16 << 20;

/// Results that are given to the core at a time, however many `route_limits.batch_size` lets workers have.
const RESULTS_MAX: usize = 256;

/// The threads.
#[derive(Debug)]
pub(super) struct Pool {
    workers: RefCell<Vec<Option<mpsc::Sender<Task>>>>,
    done: UnboundedSender<Done>,
}

impl Pool {
    /// No threads yet; a [`Done`] will follow each task.
    pub(super) fn new(done: UnboundedSender<Done>) -> Self {
        Self { workers: RefCell::new(Vec::new()), done }
    }

    /// Has a worker carry something out.
    pub(super) fn work(&self, task: Task) {
        let mut workers = self.workers.borrow_mut();
        let number = task.worker();
        if workers.len() <= number {
            workers.resize_with(number + 1, || None);
        }
        if workers[number].is_none() {
            match self.start(number) {
                Ok(sender) => workers[number] = Some(sender),
                Err(error) => {
                    tracing::error!("a worker of routes has no thread: {error}");
                    let _ = self.done.send(task.failure());
                    return;
                }
            }
        }
        if let Some(worker) = &workers[number] {
            worker.send(task).expect("a worker lives as long as its sender");
        }
    }

    fn start(&self, number: usize) -> Result<mpsc::Sender<Task>, std::io::Error> {
        let (sender, tasks) = mpsc::channel::<Task>();
        let done = self.done.clone();
        let builder = std::thread::Builder::new().name(format!("route-{number}")).stack_size(STACK_BYTES);
        builder.spawn(move || {
            for task in tasks {
                let failure = task.failure();
                let began = Instant::now();
                // Whoever waits for what becomes of a message is told in any case.
                let worked = std::panic::catch_unwind(AssertUnwindSafe(|| task.run(&|| began.elapsed())));
                if done.send(worked.unwrap_or(failure)).is_err() {
                    return;
                }
            }
        })?;
        Ok(sender)
    }
}

impl Shell {
    /// Gives the core what workers have done. Never returns before the broker ends.
    pub(super) async fn take_worked(self: Rc<Self>, mut done: UnboundedReceiver<Done>) {
        let mut results = Vec::with_capacity(RESULTS_MAX);
        while done.recv_many(&mut results, RESULTS_MAX).await > 0 {
            self.state.borrow_mut().core.worked(results.drain(..), clock::now());
            self.settle_soon();
        }
    }
}
