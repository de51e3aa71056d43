//! Two sides of a link within one process, as the tests need them.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, reason = "shared by tests")]

use std::io::Write;
use std::sync::Arc;
use tramline_ring::{ReadMode, Reader, ReaderLink, Writer, WriterLink};

/// Announces what is not tested because something is missing; a failure where the environment says `CI=true`.
pub fn skipped(missing: &str, untested: &str) {
    let sentence = format!("SKIPPED: {untested} is not tested, because {missing} is missing here");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{sentence}, and must not be where CI=true");
    // Past the harness, which shows what a test prints only if it fails.
    let _ = writeln!(std::io::stderr(), "{sentence}");
}

pub struct Link {
    pub writer_side: Arc<WriterLink>,
    pub reader_side: Arc<ReaderLink>,
}

pub fn link() -> Link {
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (doorbell_read, doorbell_write) = rustix::pipe::pipe_with(flags).unwrap();
    let (space_read, space_write) = rustix::pipe::pipe_with(flags).unwrap();
    let reader_side = ReaderLink::new();
    reader_side.set_bells(doorbell_read, space_write).unwrap();
    let writer_side = WriterLink::new(doorbell_write, space_read).unwrap();
    Link { writer_side: Arc::new(writer_side), reader_side: Arc::new(reader_side) }
}

pub fn attach(
    writer: &mut Writer,
    link: &Link,
    id: u64,
    mode: ReadMode,
    history: u32,
    in_place: bool,
) -> Reader {
    let (slot, page) = link.reader_side.allocate_slot().unwrap();
    if let Some(page) = page {
        link.writer_side.add_page(page.fd, page.first_slot, page.slots).unwrap();
    }
    let start = writer.add_reader(id, &link.writer_side, slot, mode, history).unwrap();
    let memory = writer.memory().try_clone_to_owned().unwrap();
    let identity = writer.spec().identity();
    Reader::attach(memory, &identity, &link.reader_side, slot, start, in_place).unwrap()
}
