//! Threads that make memory for rings that grow. Filling it takes time, which whoever reads the socket does not have.
//!
//! There are none while nothing grows, and only a few when a reader's access is taken away from ten thousand streams at once.

use crate::error::{Error, Result};
use crate::reactor::lock;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Threads of one client that make memory at a time; what is to be made beyond that waits for them.
const MAKERS_MAX: usize = 4;

type Work = Box<dyn FnOnce() + Send>;

/// The threads of one client and what waits for them: one piece for each stream at most.
#[derive(Default)]
pub(crate) struct Makers {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    threads: usize,
}

impl Makers {
    /// Has `work` done by a thread, now or after what came before it.
    ///
    /// # Errors
    /// If there is no thread and none can be started.
    pub(crate) fn work(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let mut state = lock(&self.state);
        if state.threads < MAKERS_MAX {
            let makers = Arc::clone(&self.state);
            let thread = std::thread::Builder::new().name("tramline-grow".to_owned());
            match thread.spawn(move || make(&makers)) {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads > 0 => {}
                Err(error) => return Err(Error::io("starting a thread that makes memory")(error)),
            }
        }
        state.waiting.push_back(Box::new(work));
        Ok(())
    }
}

/// One thread: works until nothing waits.
fn make(makers: &Mutex<State>) {
    loop {
        let work = {
            let mut state = lock(makers);
            let Some(work) = state.waiting.pop_front() else {
                state.threads -= 1;
                return;
            };
            work
        };
        work();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[test]
    fn much_work_is_done_by_few_threads_and_all_of_it() {
        const PIECES: usize = 50 * MAKERS_MAX;
        let makers = Makers::default();
        let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Nobody gets past it before as many as may are at work.
        let all = Arc::new(Barrier::new(MAKERS_MAX));
        let (done, finished) = mpsc::channel();
        for piece in 0..PIECES {
            let (at_once, most, all, done) =
                (Arc::clone(&at_once), Arc::clone(&most), Arc::clone(&all), done.clone());
            let work = move || {
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                if piece < MAKERS_MAX {
                    all.wait();
                }
                at_once.fetch_sub(1, Ordering::SeqCst);
                let _ = done.send(piece);
            };
            makers.work(work).expect("threads");
        }
        let mut pieces: Vec<usize> = finished.iter().take(PIECES).collect();
        pieces.sort_unstable();
        assert_eq!(pieces, (0..PIECES).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), MAKERS_MAX);
        // They go when there is nothing left, and come again.
        while lock(&makers.state).threads > 0 {
            std::thread::yield_now();
        }
        let (done, finished) = mpsc::channel();
        makers.work(move || done.send(()).expect("somebody waits")).expect("a thread");
        finished.recv().expect("it is done");
    }
}
