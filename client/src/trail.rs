//! The order in which a thread sends to its many streams, so that the next one's memory is asked for before it is needed.
//!
//! Who publishes on ten thousand topics in turn finds every one of them cold: some thirty cache lines, most of them on pages
//! that the processor has to look up as well. A thread that sends in rounds sends in the same order again, so each stream
//! leaves here what its next message will touch, and whoever sends to the stream two before it asks for that. What is kept are
//! addresses, used for hints only: a stream may be gone, or another may come next, and nothing happens but a needless hint.

use std::cell::{Cell, RefCell};
use tramline_ring::Need;

/// Streams whose places a thread keeps; those beyond begin a new trail.
const STEPS_MAX: usize = 32_768;

/// Parts of memory that are kept of one stream: what a message to some ten readers touches.
const NEEDS_MAX: usize = 20;

/// How many steps ahead memory is asked for. It takes some 300 ns to come where its page is not known either.
const AHEAD: usize = 2;

/// So many right guesses in a row, and hints are given.
const TRUST: u32 = 4;

thread_local! {
    /// The stream that this thread sent to last. It is still in the cache.
    static LAST_STREAM: Cell<u64> = const { Cell::new(0) };
    static TRAIL: RefCell<Trail> = const { RefCell::new(Trail::new()) };
}

/// What a stream's next message touches.
#[derive(Debug, Clone, Copy)]
struct Step {
    stream: u64,
    needs: [Option<Need>; NEEDS_MAX],
}

/// The steps of one thread, in the order in which it took them first.
#[derive(Debug)]
struct Trail {
    steps: Vec<Step>,
    next: usize,
    right: u32,
    wrong: usize,
}

/// Whether this thread sent to another stream than `stream` before.
pub(crate) fn turns_to(stream: u64) -> bool {
    LAST_STREAM.replace(stream) != stream
}

/// A thread turned to `stream`, whose place on its trail was said to be `place`. Asks for what comes after it; the place, and
/// whether this one was asked for before.
pub(crate) fn step(stream: u64, place: u32) -> (u32, bool) {
    TRAIL.with_borrow_mut(|trail| trail.step(stream, place))
}

/// What the next message of the stream at `place` will touch.
pub(crate) fn note(stream: u64, place: u32, needs: impl FnOnce(&mut dyn FnMut(Need))) {
    TRAIL.with_borrow_mut(|trail| trail.note(stream, place, needs));
}

impl Trail {
    const fn new() -> Self {
        Self { steps: Vec::new(), next: 0, right: 0, wrong: 0 }
    }

    fn step(&mut self, stream: u64, place: u32) -> (u32, bool) {
        let mut at = place as usize;
        if self.steps.get(at).is_none_or(|step| step.stream != stream) {
            if self.steps.len() >= STEPS_MAX {
                self.forget();
            }
            at = self.steps.len();
            self.steps.push(Step { stream, needs: [None; NEEDS_MAX] });
        }
        if at == self.next {
            self.right = self.right.saturating_add(1);
        } else {
            self.right = 0;
            self.wrong += 1;
            // The order has changed: a new trail learns it.
            if self.wrong > 2 * self.steps.len() {
                self.forget();
                at = 0;
                self.steps.push(Step { stream, needs: [None; NEEDS_MAX] });
            }
        }
        let length = self.steps.len();
        self.next = if at + 1 < length { at + 1 } else { 0 };
        let trusted = self.right >= TRUST;
        if trusted {
            let step = &self.steps[(at + AHEAD) % length];
            step.needs.iter().map_while(|need| *need).for_each(Need::bring);
        }
        (u32::try_from(at).unwrap_or(u32::MAX), self.right >= TRUST + AHEAD as u32)
    }

    fn note(&mut self, stream: u64, place: u32, needs: impl FnOnce(&mut dyn FnMut(Need))) {
        let Some(step) = self.steps.get_mut(place as usize).filter(|step| step.stream == stream) else {
            return;
        };
        let mut free = step.needs.iter_mut();
        needs(&mut |need| {
            if let Some(place) = free.next() {
                *place = Some(need);
            }
        });
        if let Some(end) = free.next() {
            *end = None;
        }
    }

    fn forget(&mut self) {
        self.steps.clear();
        (self.next, self.right, self.wrong) = (0, 0, 0);
    }
}
