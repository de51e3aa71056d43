//! The async client against a real broker, on a runtime of one thread.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;
use support::Broker;
use tramline_client::{AsyncClient, Client, Error, OnFull};

/// Runs a test's future; one that hangs fails after a minute.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs");
    });
}

async fn client(broker: &Broker, name: &str) -> AsyncClient {
    AsyncClient::builder().name(name).socket(broker.socket()).connect_async().await.unwrap()
}

#[test]
fn messages_arrive_by_socket_and_through_a_ring() {
    let broker = Broker::start();
    run(async {
        let (a, b) = (client(&broker, "a").await, client(&broker, "b").await);
        let mut s = b.subscribe("t.*").lossy().await.unwrap();
        a.publish("t.x", b"one").await.unwrap();
        a.message("t.x").type_("y").publish(b"two").await.unwrap();
        assert_eq!(s.next().await.unwrap().unwrap().payload(), b"one");
        assert_eq!(s.next().await.unwrap().unwrap().message_type(), Some("y"));
        assert_eq!(a.publish_confirmed("t.x", b"three").await.unwrap(), 1);
        assert_eq!(s.recv().await.unwrap().payload(), b"three");
        let mut p = a.publisher("t.ring").capacity(1 << 16, 4).await.unwrap();
        assert_eq!(p.subscriber_count(), 1);
        let mut loan = p.loan(1 << 16).await.unwrap();
        loan.fill(7);
        loan.send().unwrap();
        let message = s.recv().await.unwrap();
        assert!(message.in_place());
        let address = message.payload().as_ptr();
        let bytes = message.into_bytes();
        assert_eq!((bytes.as_ptr(), bytes.len()), (address, 1 << 16), "no copy");
        a.publish("t.big", vec![1; 100_000]).await.unwrap();
        assert_eq!(s.recv().await.unwrap().payload().len(), 100_000);
        p.close().await.unwrap();
    });
}

#[test]
fn a_full_ring_is_waited_for() {
    let broker = Broker::start();
    run(async {
        let (a, b) = (client(&broker, "a").await, client(&broker, "b").await);
        let mut s = b.subscribe("n").await.unwrap();
        let mut p = a.publisher("n").capacity(64, 8).await.unwrap();
        let sending = tokio::spawn(async move {
            for n in 0..2_000_u32 {
                p.send(n.to_le_bytes()).await.unwrap();
            }
        });
        for n in 0..2_000_u32 {
            let message = s.recv().await.unwrap();
            assert_eq!((message.payload(), message.lost_before()), (n.to_le_bytes().as_slice(), 0));
        }
        sending.await.unwrap();
        let mut p = a
            .publisher("n")
            .capacity(64, 2)
            .on_full(OnFull::Timeout(Duration::from_millis(5)))
            .await
            .unwrap();
        let full = loop {
            if let Err(error) = p.send([0; 64]).await {
                break error;
            }
        };
        assert!(matches!(full, Error::Full(_)) && full.is_retryable());
    });
}

#[test]
fn blocking_and_async_clients_meet() {
    let broker = Broker::start();
    run(async {
        let c = client(&broker, "async").await;
        let mut s = c.subscribe(">").await.unwrap();
        let socket = broker.socket().to_owned();
        let thread = std::thread::spawn(move || {
            let c = Client::builder().socket(socket).connect().unwrap();
            let mut p = c.publisher("x").open().unwrap();
            for n in 0..500_u32 {
                c.publish("y", n.to_le_bytes()).unwrap();
                p.send(n.to_le_bytes()).unwrap();
            }
        });
        let (mut x, mut y) = (0_u32, 0_u32);
        while x + y < 1000 {
            let message = s.recv().await.unwrap();
            let n = if message.topic() == "x" { &mut x } else { &mut y };
            assert_eq!(message.payload(), n.to_le_bytes());
            *n += 1;
        }
        thread.join().unwrap();
    });
}
