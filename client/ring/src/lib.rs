//! Rings: shared memory from one writer to many readers, across processes that do not trust each other.
//!
//! This crate holds all of Tramline's unsafe code. It knows bytes, readers and memory, not topics, frames or sockets:
//! what is written here is carried by descriptors that somebody else hands over.
//!
//! * A [`Writer`] makes a *generation*: a memfd, filled and sealed so that nobody can resize it or map it writable
//!   again, with a header, a ring of descriptors and an arena for payloads. Others get it read-only.
//! * A [`Reader`] writes its cursor, its pins and whether it sleeps into a *reader page* of its own, which the writer
//!   maps read-only. No memory is writable by two processes.
//! * [`WriterLink`] and [`ReaderLink`] are the two sides of what a publishing process and a subscription share: reader
//!   pages and two pipes as bells. A pipe that hangs up tells of a death.
//!
//! `docs/ring.md` says every byte and every memory order.
//!
//! # Layout
//!
//! * [`spec`]: how large a ring is; verifying somebody else's memory.
//! * [`writer`], [`reader`]: the two ends.
//! * [`link`]: pages and bells; `bell`: the pipes themselves.
//! * [`wait`]: spin a little, then park.
//! * [`observe`]: counters, for who watches; [`retain`](mod@retain): the last messages of a ring whose writer has gone.
//! * [`bulk`]: memory for payloads that no frame holds; bytes and nothing else.
//! * `protocol`: the algorithm, the only place with memory orders; `layout`: the bytes; `sync`: what loom replaces.
//! * `ahead`: hints to the processor; `arena`: the writer's private account of its bytes; `view`, `memory`, `headroom`: mappings, seals, room.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use tramline_ring::{Body, Meta, Next, ReadMode, Reader, ReaderLink, RingSpec, Writer, WriterLink};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spec = RingSpec::sized(7, 1024, 16)?;
//! let mut writer = Writer::create(&spec, 16)?;
//!
//! // The broker makes the pipes and carries all descriptors between the processes.
//! let (doorbell_read, doorbell_write) = rustix::pipe::pipe()?;
//! let (space_read, space_write) = rustix::pipe::pipe()?;
//! let reader_side = Arc::new(ReaderLink::new());
//! reader_side.set_bells(doorbell_read, space_write)?;
//! let (slot, page) = reader_side.allocate_slot()?;
//! let page = page.expect("the first slot comes with a page");
//! let writer_side = Arc::new(WriterLink::new(doorbell_write, space_read)?);
//! writer_side.add_page(page.fd, page.first_slot, page.slots)?;
//!
//! let start = writer.add_reader(1, &writer_side, slot, ReadMode::Gated, 0)?;
//! let memory = writer.memory().try_clone_to_owned()?;
//! let mut reader = Reader::attach(memory, &spec.identity(), &reader_side, slot, start, true)?;
//!
//! writer.try_send(Meta::default(), b"", b"hello")?;
//! let mut scratch = Vec::new();
//! let Next::Message(message) = reader.try_next(&mut scratch)? else { panic!("a message was sent") };
//! let Body::Copied { payload, .. } = message.body else { panic!("small messages are copied") };
//! assert_eq!(&scratch[payload], b"hello");
//! # Ok(())
//! # }
//! ```
#![cfg_attr(loom, allow(dead_code, unused_imports))]

// Everything else here needs Linux, and whatever needs this crate is not compiled after it: elsewhere this is the one
// error that is shown.
#[cfg(not(target_os = "linux"))]
compile_error!(
    "Tramline needs Linux 5.5 or later: sealed memfds, epoll and pidfds have no counterpart elsewhere"
);

/// Names a step at which this project's tests may have the process killed; nothing without the feature `steps`.
#[cfg(all(feature = "steps", not(loom)))]
#[doc(hidden)]
#[macro_export]
macro_rules! step {
    ($name:literal) => {
        $crate::steps::reached($name)
    };
}

#[cfg(not(all(feature = "steps", not(loom))))]
#[doc(hidden)]
#[macro_export]
macro_rules! step {
    ($name:literal) => {};
}

#[cfg(all(target_os = "linux", not(loom)))]
pub mod spec;

#[cfg(all(target_os = "linux", not(loom)))]
pub mod writer;

#[cfg(all(target_os = "linux", not(loom)))]
pub mod reader;

#[cfg(all(target_os = "linux", not(loom)))]
pub mod link;

#[cfg(all(target_os = "linux", not(loom)))]
mod bell;

#[cfg(target_os = "linux")]
pub mod wait;

#[cfg(all(target_os = "linux", not(loom)))]
pub mod observe;

#[cfg(all(target_os = "linux", not(loom)))]
pub mod retain;

#[cfg(all(target_os = "linux", not(loom)))]
pub mod bulk;

#[cfg(all(target_os = "linux", not(loom)))]
pub mod fork;

#[cfg(target_os = "linux")]
mod protocol;

#[cfg(target_os = "linux")]
mod layout;

#[cfg(target_os = "linux")]
mod sync;

#[cfg(target_os = "linux")]
mod ahead;

#[cfg(all(target_os = "linux", not(loom)))]
mod arena;

#[cfg(all(target_os = "linux", not(loom)))]
mod view;

#[cfg(all(target_os = "linux", not(loom)))]
mod memory;

#[cfg(all(target_os = "linux", not(loom)))]
mod headroom;

#[cfg(target_os = "linux")]
mod error;

#[cfg(all(any(test, feature = "scribble"), target_os = "linux", not(loom)))]
pub mod scribble;

#[cfg(all(feature = "steps", target_os = "linux", not(loom)))]
pub mod steps;

#[cfg(all(test, target_os = "linux", not(loom)))]
mod hostile;

#[cfg(all(feature = "baseline", target_os = "linux", not(loom)))]
pub mod baseline;

#[cfg(target_os = "linux")]
pub use ahead::bring;
#[cfg(all(target_os = "linux", not(loom)))]
pub use bell::Drained;
#[cfg(all(target_os = "linux", not(loom)))]
pub use bulk::{BulkReader, BulkWriter, cleared_bytes};
#[cfg(target_os = "linux")]
pub use error::RingError;
#[cfg(all(target_os = "linux", not(loom)))]
pub use fork::ForkMark;
#[cfg(all(feature = "fork", target_os = "linux", not(loom)))]
pub use fork::fork;
#[cfg(target_os = "linux")]
pub use layout::PINS_PER_SLOT;
#[cfg(all(target_os = "linux", not(loom)))]
pub use link::{NewPage, ReaderLink, WriterLink};
#[cfg(all(target_os = "linux", not(loom)))]
pub use memory::missing_features;
#[cfg(all(target_os = "linux", not(loom)))]
pub use observe::{Counters, Observer, PageObserver, SlotCounters};
#[cfg(all(target_os = "linux", not(loom)))]
pub use reader::{Body, LetGo, Next, PIN_BYTES_MIN, Packed, Pinned, Reader, Received, Release, Successor};
#[cfg(all(target_os = "linux", not(loom)))]
pub use retain::{Retained, retain};
#[cfg(all(target_os = "linux", not(loom)))]
pub use spec::{RingIdentity, RingSpec, verify_page, verify_ring};
#[cfg(target_os = "linux")]
pub use wait::Spinner;
#[cfg(all(target_os = "linux", not(loom)))]
pub use writer::{
    GateBudget, Generation, Loan, Meta, ModeChange, Pushed, ReadMode, SendError, SetAside, Start, Writer,
};
