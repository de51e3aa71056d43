//! What the ring itself costs, without a second process: a message written and read by one thread, so that no
//! cache line travels and nobody waits. `tramline bench` measures the rest.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use tramline_ring::{Body, Meta, Next, ReadMode, Reader, ReaderLink, RingSpec, Writer, WriterLink};

const SIZES: [usize; 4] = [64, 1024, 64 * 1024, 8 * 1024 * 1024];
/// Messages published together, as `send_batch` does.
const BATCH: usize = 128;

/// A ring with one gated reader; the link keeps its bells open.
fn ring(bytes: usize, messages: u32) -> (Writer, Reader, Arc<ReaderLink>) {
    let spec = RingSpec::sized(1, bytes as u64, messages).expect("a usual size");
    let mut writer = Writer::create(&spec, messages).expect("memory for a ring");
    let bell = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let ((doorbell_read, doorbell_write), (space_read, space_write)) = (bell(), bell());
    let reader_link = Arc::new(ReaderLink::new());
    reader_link.set_bells(doorbell_read, space_write).expect("new pipes");
    let writer_link = Arc::new(WriterLink::new(doorbell_write, space_read).expect("new pipes"));
    let (slot, page) = reader_link.allocate_slot().expect("a first slot");
    let page = page.expect("a first slot comes with its page");
    writer_link.add_page(page.fd, page.first_slot, page.slots).expect("a new page");
    let start = writer.add_reader(1, &writer_link, slot, ReadMode::Gated, 0).expect("a first reader");
    let memory = writer.memory().try_clone_to_owned().expect("a descriptor");
    let identity = writer.spec().identity();
    let reader = Reader::attach(memory, &identity, &reader_link, slot, start, true).expect("a new ring");
    (writer, reader, reader_link)
}

fn take(reader: &mut Reader, scratch: &mut Vec<u8>) -> usize {
    match reader.try_next(scratch).expect("an honest writer") {
        Next::Message(message) => match message.body {
            Body::Copied { payload, .. } => payload.len(),
            Body::Pinned(pinned) => pinned.payload().len(),
        },
        other => panic!("{other:?} instead of the message that was just sent"),
    }
}

fn one_at_a_time(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring, one message");
    for bytes in SIZES {
        let (mut writer, mut reader, _link) = ring(bytes, 4);
        let payload = vec![0x5a; bytes];
        let mut scratch = Vec::new();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::new("send and read", bytes), &payload, |bencher, payload| {
            bencher.iter(|| {
                writer.try_send(Meta::default(), &[], black_box(payload)).expect("the reader has read all");
                let length = take(&mut reader, &mut scratch);
                reader.publish_cursor();
                black_box(length)
            });
        });
    }
    group.finish();
}

fn batches(criterion: &mut Criterion) {
    let (mut writer, mut reader, _link) = ring(64, 1024);
    let (payload, mut scratch) = ([0x5a; 64], Vec::new());
    let mut group = criterion.benchmark_group("ring, 128 messages of 64 bytes");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("send and read", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                writer.try_push(Meta::default(), &[], black_box(&payload)).expect("the reader has read all");
            }
            writer.flush();
            for _ in 0..BATCH {
                black_box(take(&mut reader, &mut scratch));
            }
            reader.publish_cursor();
        });
    });
    group.finish();
}

criterion_group!(benches, one_at_a_time, batches);
criterion_main!(benches);
