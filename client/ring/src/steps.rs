//! For this project's tests only (feature `steps`): a process that kills itself at a named step.
//!
//! `TRAMLINE_DIE_AT=name:count` in the environment makes the process end by `SIGKILL` when it reaches the step of that
//! name for the `count`th time: nothing of it runs afterwards, whatever it was about to do. Without the feature
//! the steps are not compiled; without the variable they cost a load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where to die, and how often that step is still passed before.
#[derive(Debug)]
struct Fate {
    name: String,
    left: AtomicU64,
}

fn fate() -> Option<&'static Fate> {
    static FATE: OnceLock<Option<Fate>> = OnceLock::new();
    let read = || {
        let text = std::env::var("TRAMLINE_DIE_AT").ok()?;
        let (name, count) = text.rsplit_once(':')?;
        Some(Fate { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?) })
    };
    FATE.get_or_init(read).as_ref()
}

/// The process is at this step.
///
/// # Panics
/// When the process survives its own death.
pub fn reached(name: &str) {
    let Some(fate) = fate() else { return };
    if fate.name == name && fate.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        // SAFETY: the call takes a number and touches no memory; it reaches the whole process.
        unsafe { libc::raise(libc::SIGKILL) };
        // Another thread may run for a moment more; this one does not.
        loop {
            std::thread::park();
        }
    }
}
