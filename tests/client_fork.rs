//! Forks: what a child of a client's process may do with it (nothing, and be told so), and that a child which lives
//! on and holds every socket and pipe of its parent does not hide its parent's death.
//!
//! The parents that die are this test program itself, started again to play a part (see [`actor`]).
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

#[path = "support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::{Actor, Broker, Watchdog, have, part, say};
use tramline_client::{AsyncClient, Client, Error, OnFull, PublisherEvent};

/// Held by each test: children inherit what any thread of this process has open, and some tests count that.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a child and returns its exit code.
fn wait(child: u32) -> i32 {
    let child = rustix::process::Pid::from_raw(i32::try_from(child).unwrap());
    let status = rustix::process::waitpid(child, rustix::process::WaitOptions::empty()).unwrap().unwrap();
    status.1.exit_status().expect("the child ended by itself, not by a signal")
}

/// The first call of a child's that was not refused as it must be, counted from 1; 0 if all were.
fn first_wrong(refused: &[bool]) -> u8 {
    refused.iter().position(|refused| !refused).map_or(0, |place| u8::try_from(place + 1).unwrap())
}

fn is_forked<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Forked { owner }) if owner != std::process::id())
}

#[test]
fn every_call_of_a_fork_is_refused_and_its_parent_goes_on() {
    let _alone = alone();
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let c = broker.client("parent");
    let soon = Duration::from_millis(1);
    let mut p = Some(c.publisher("t").capacity(64 * 1024, 8).open().unwrap());
    let mut s = Some(c.subscribe("t").unwrap());
    p.as_mut().unwrap().send(vec![1; 64 * 1024]).unwrap();
    let mut held = Some(s.as_mut().unwrap().recv().unwrap());
    assert!(held.as_ref().unwrap().in_place());
    let mut loans =
        Some([p.as_mut().unwrap().loan(64 * 1024).unwrap(), p.as_mut().unwrap().loan(8).unwrap()]);
    let mut batch = Some(c.batch());
    batch.as_mut().unwrap().publish("b", b"x").unwrap();
    let mut c = Some(c);
    // Once with the background thread asleep on the socket, which it then holds the lead of, and again.
    for round in 0..3 {
        let child = tramline_ring::fork(|| {
            let client = c.as_ref().unwrap();
            let (publisher, subscription) = (p.as_mut().unwrap(), s.as_mut().unwrap());
            let mut refused = vec![
                is_forked(client.publish("t", b"x")),
                is_forked(client.publish_text("t", "x")),
                is_forked(client.publish_confirmed("t", b"x")),
                is_forked(client.message("t").type_("x").publish(b"x")),
                is_forked(client.subscribe("t")),
                is_forked(client.publisher("u").open()),
                is_forked(client.ping()),
                is_forked(client.flush()),
                is_forked(batch.as_mut().unwrap().publish("t", b"x")),
                is_forked(batch.as_mut().unwrap().send()),
                is_forked(publisher.send(b"x")),
                is_forked(publisher.try_send(b"x")),
                is_forked(publisher.send_timeout(b"x", soon)),
                is_forked(publisher.send_batch([b"x"])),
                is_forked(publisher.loan(8)),
                is_forked(publisher.try_loan(8)),
                is_forked(publisher.message().send(b"x")),
                is_forked(publisher.wait_for_subscribers(1, soon)),
                is_forked(publisher.room_fd().map(|_| ())),
                is_forked(subscription.recv()),
                is_forked(subscription.try_recv()),
                is_forked(subscription.recv_timeout(soon)),
                is_forked(subscription.recv_batch(&mut Vec::new(), 2)),
                is_forked(subscription.recv_each(2, |_| ())),
            ];
            let [large, small] = loans.take().unwrap();
            refused.push(large.is_empty());
            refused.push(is_forked(small.send()));
            refused.push(held.as_ref().unwrap().payload().is_empty());
            refused.push(is_forked(p.take().unwrap().close()));
            refused.push(!client.is_connected() && client.session() == 0);
            // Nothing of the parent's is touched by what a child drops.
            drop((large, held.take(), s.take(), batch.take(), c.take()));
            first_wrong(&refused)
        });
        assert_eq!(wait(child.unwrap()), 0, "which call of a fork was not refused, in round {round}");
        let (publisher, subscription) = (p.as_mut().unwrap(), s.as_mut().unwrap());
        publisher.send([7; 100]).unwrap();
        assert_eq!(subscription.recv().unwrap().payload(), [7; 100]);
    }
    assert!(held.unwrap().payload().iter().all(|byte| *byte == 1));
    let [mut large, small] = loans.unwrap();
    large.fill(9);
    large.send().unwrap();
    small.send().unwrap();
    let subscription = s.as_mut().unwrap();
    assert!(subscription.recv().unwrap().payload().iter().all(|byte| *byte == 9));
    assert_eq!(subscription.recv().unwrap().payload().len(), 8);
    c.unwrap().ping().unwrap();
}

#[test]
fn a_fork_of_an_async_client_is_refused_too() {
    let _alone = alone();
    let broker = Broker::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        let c = AsyncClient::builder().name("parent").socket(broker.socket()).connect_async().await.unwrap();
        let mut p = Some(c.publisher("t").await.unwrap());
        let mut s = Some(c.subscribe("t").await.unwrap());
        let mut c = Some(c);
        // What is refused is refused at once, so that a look is enough.
        fn now<T>(future: impl Future<Output = T>) -> T {
            let mut future = std::pin::pin!(future);
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match future.as_mut().poll(&mut context) {
                std::task::Poll::Ready(done) => done,
                std::task::Poll::Pending => panic!("it waits"),
            }
        }
        let child = tramline_ring::fork(|| {
            let client = c.as_ref().unwrap();
            let (publisher, subscription) = (p.as_mut().unwrap(), s.as_mut().unwrap());
            let refused = [
                is_forked(now(client.publish("t", b"x"))),
                is_forked(now(client.publish_confirmed("t", b"x"))),
                is_forked(now(client.message("t").publish(b"x"))),
                is_forked(now(client.ping())),
                is_forked(now(client.flush())),
                is_forked(now(client.publisher("u").open())),
                is_forked(now(client.subscribe("t").open())),
                is_forked(now(publisher.send(b"x"))),
                is_forked(publisher.try_send(b"x")),
                is_forked(now(publisher.loan(8))),
                is_forked(now(publisher.message().send(b"x"))),
                is_forked(now(publisher.wait_for_subscribers(1, Duration::from_millis(1)))),
                is_forked(now(subscription.recv())),
                is_forked(subscription.try_recv()),
                is_forked(now(p.take().unwrap().close())),
                !client.is_connected(),
            ];
            drop((s.take(), c.take()));
            first_wrong(&refused)
        });
        assert_eq!(wait(child.unwrap()), 0, "which call of a fork was not refused");
        // Also that the runtime still hears of what comes for the parent.
        for n in 0..100_u8 {
            p.as_mut().unwrap().send([n]).await.unwrap();
            assert_eq!(s.as_mut().unwrap().recv().await.unwrap().payload(), [n]);
        }
        c.as_ref().unwrap().ping().await.unwrap();
    };
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs");
    });
}

/// The child of a part that was killed has lived until now, and ends.
fn child_ends(mut actor: Actor) {
    drop(actor.input.take());
    assert_eq!(actor.word(), "child ends");
}

/// A child that does nothing but live, holding what it has inherited, until this process's standard input ends.
fn have_a_child() {
    tramline_ring::fork(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = std::io::stdout().write_all(b"says: child ends\n");
        0
    })
    .unwrap();
}

/// What another process does when it is started for it. Without the variable this is no test of anything and
/// passes at once.
#[test]
fn actor() {
    let Some(part) = part() else { return };
    let client = Client::builder().name(part.as_str()).connect().unwrap();
    match part.as_str() {
        "read and hold" => {
            let mut subscription = client.subscribe("cam").unwrap();
            have_a_child();
            say("ready");
            let held: Vec<_> = (0..3).map(|_| subscription.recv().unwrap()).collect();
            assert!(held.iter().all(|message| message.in_place()));
            say("holds");
            loop {
                std::thread::park();
            }
        }
        "publish" => {
            let mut publisher = client.publisher("cam").capacity(64 * 1024, 8).open().unwrap();
            have_a_child();
            for n in 0..5 {
                publisher.send(vec![n; 64 * 1024]).unwrap();
            }
            say("published");
            loop {
                std::thread::park();
            }
        }
        other => panic!("no such part: {other}"),
    }
}

/// Waits until the broker holds no more descriptors than before. The watchdog ends this if it never does.
fn settles(broker: &Broker, asker: &Client, before: usize) {
    while broker.open_files() > before {
        asker.ping().unwrap();
    }
}

#[test]
fn a_dead_subscriber_holds_nobody_up_although_its_child_lives() {
    let _alone = alone();
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let client = broker.client("publisher");
    let mut publisher = client.publisher("cam").capacity(64 * 1024, 8).on_full(OnFull::Wait).open().unwrap();
    client.ping().unwrap();
    let own_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let own_pages =
        || std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:tramline-page").count();
    let before = broker.open_files();
    let mut reader = Actor::start("read and hold", broker.socket());
    assert_eq!(reader.word(), "ready");
    let (files, pages) = (own_files(), own_pages());
    assert_eq!(publisher.subscriber_count(), 1);
    for n in 0..3 {
        publisher.send(vec![n; 64 * 1024]).unwrap();
    }
    assert_eq!(reader.word(), "holds");
    reader.kill();
    // It gates, and holds three messages in place, so without news of its death this would never end.
    for n in 0..200 {
        publisher.send(vec![n; 64 * 1024]).unwrap();
    }
    while publisher.subscriber_count() > 0 || own_files() >= files || own_pages() >= pages {
        client.ping().unwrap();
    }
    settles(&broker, &client, before);
    child_ends(reader);
}

#[test]
fn a_dead_publisher_is_read_to_its_end_although_its_child_lives() {
    let _alone = alone();
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let client = broker.client("reader");
    let mut subscription = client.subscribe("cam").unwrap();
    let mut json = broker.json();
    assert!(json.ask(r#"{"op":"sub","topic":"$tramline.disconnect"}"#)["ok"].as_bool().unwrap());
    let before = broker.open_files();
    let mut publisher = Actor::start("publish", broker.socket());
    assert_eq!(publisher.word(), "published");
    publisher.kill();
    for n in 0..5_u8 {
        let message = subscription.recv().unwrap();
        let seen = (message.seq(), message.lost_before(), message.payload()[0]);
        assert_eq!(seen, (u64::from(n) + 1, 0, n));
    }
    loop {
        assert!(subscription.recv_timeout(Duration::from_millis(5)).unwrap().is_none());
        if subscription.events().iter().any(|event| matches!(event, PublisherEvent::Left(_))) {
            break;
        }
    }
    assert_eq!((subscription.stream_count(), subscription.publishers().len()), (0, 0));
    let event: serde_json::Value = serde_json::from_str(&json.hear()).unwrap();
    assert_eq!(event["data"]["reason"], "its process has ended", "{event}");
    settles(&broker, &client, before);
    child_ends(publisher);
}

#[test]
fn what_a_dead_process_wrote_still_takes_effect_and_then_its_session_ends() {
    let _alone = alone();
    let _watchdog = Watchdog::start();
    if !have("python3") {
        return;
    }
    let broker = Broker::start();
    let mut json = broker.json();
    assert!(json.ask(r#"{"op":"sub","topic":"t"}"#)["ok"].as_bool().unwrap());
    assert!(json.ask(r#"{"op":"sub","topic":"$tramline.disconnect"}"#)["ok"].as_bool().unwrap());
    let client = broker.client("asker");
    let before = broker.open_files();
    let script = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ["TRAMLINE_SOCKET"])
s.sendall(b'{"op":"sub","topic":"x"}\n')
s.recv(4096)
if os.fork() == 0:
    sys.stdin.read()
    print("says: child ends", flush=True)
    os._exit(0)
s.sendall(b'{"op":"pub","topic":"t","text":"last words"}\n')
os._exit(0)
"#;
    let mut command = Command::new("python3");
    command.args(["-c", script]);
    let mut dead = Actor::of(command, "die", broker.socket());
    assert!(dead.child.wait().unwrap().success());
    assert!(json.hear().contains("last words"));
    let event = json.hear();
    assert!(event.contains("tramline.disconnect"), "{event}");
    settles(&broker, &client, before);
    child_ends(dead);
}
