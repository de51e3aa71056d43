//! How many threads a client has. A test program of its own, with one test: others would be counted, too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::sync::mpsc;
use std::time::Duration;
use support::Broker;
use tramline_client::{AsyncClient, Client};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_blocking_client_has_one_thread_and_an_async_one_none() {
    let broker = Broker::start();
    let (alive, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the client's thread does not end");
            std::process::abort();
        }
    });
    let before = threads();
    let client = Client::builder().socket(broker.socket()).connect().unwrap();
    let subscription = client.subscribe("x.>").unwrap();
    let publisher = client.publisher("x.y").open().unwrap();
    assert_eq!(threads(), before + 1);
    drop(client);
    drop((subscription, publisher));
    // It ends with the last handle; the kernel lists it for a moment after it was joined.
    while threads() != before {
        std::thread::yield_now();
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = AsyncClient::builder().socket(broker.socket());
        let client = builder.connect_async().await.unwrap();
        let mut subscription = client.subscribe("x.>").await.unwrap();
        client.publish("x.y", b"1").await.unwrap();
        assert_eq!(subscription.recv().await.unwrap().payload(), b"1");
        assert_eq!(threads(), before, "an async client starts none");
    });
    drop(alive);
}
