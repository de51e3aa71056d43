//! What the native protocol's frames cost: the two that every small message passes, to bytes and back.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tramline_wire::{
    Encoding, FRAME_PREFIX_BYTES, Filter, Framed, Message, MessageFlags, Publish, ToBroker, ToClient, Topic,
    limits::FRAME_BYTES_DEFAULT, split_frame,
};

const SIZES: [usize; 3] = [64, 1024, 16 * 1024];

fn message(payload: &[u8]) -> Message<'_> {
    let flags = MessageFlags::new(Encoding::Binary);
    Message { flags, seq: 7, time: 1_000_000_007, source_time: 0, after: None, head: &[], payload }
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    for bytes in SIZES {
        let payload = vec![0x5a; bytes];
        let publish = ToBroker::Publish(Publish { alias: 3, message: message(&payload) });
        let mut encoded = Vec::new();
        publish.encode(&mut encoded);
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::new("encode publish", bytes), &publish, |bencher, publish| {
            let mut out = Vec::with_capacity(encoded.len());
            bencher.iter(|| {
                out.clear();
                black_box(publish).encode(&mut out);
                black_box(out.len())
            });
        });
        group.bench_with_input(BenchmarkId::new("decode publish", bytes), &encoded, |bencher, encoded| {
            bencher.iter(|| {
                let Ok(Framed::Whole { body, .. }) = split_frame(black_box(encoded), FRAME_BYTES_DEFAULT)
                else {
                    panic!("a frame that was just encoded is whole");
                };
                black_box(ToBroker::decode(body).expect("just encoded"));
            });
        });
        let body = &encoded[FRAME_PREFIX_BYTES..];
        group.bench_with_input(BenchmarkId::new("publish to deliver", bytes), body, |bencher, body| {
            // What the broker does with a message for one subscription.
            let mut out = Vec::with_capacity(encoded.len() + 64);
            bencher.iter(|| {
                out.clear();
                let message = ToBroker::publish_message(black_box(body));
                ToClient::encode_deliver(&mut out, 1, 2, bytes as u64, message);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

fn topics(criterion: &mut Criterion) {
    let filter = Filter::parse("sensors.*.gps.>").expect("a filter");
    let topic = Topic::parse("sensors.mast.gps.fix.raw").expect("a topic");
    criterion.bench_function("match a filter", |bencher| {
        bencher.iter(|| black_box(filter).matches(black_box(topic)));
    });
}

criterion_group!(benches, frames, topics);
criterion_main!(benches);
