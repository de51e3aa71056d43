//! Services with real processes: instances that die, callers that give up, people with socat, a broker that comes back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;
use support::{Broker, Watchdog};
use tramline_client::{Client, Code, Error, Request};

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    result.unwrap_err().code()
}

/// Has a service provided by a thread of this process, which lives as long as its client.
fn provide<E: std::fmt::Display + Send>(
    client: &Client,
    service: &str,
    handler: impl Fn(&Request) -> Result<(), E> + Send + Sync + 'static,
) {
    let (client, service) = (client.clone(), service.to_owned());
    std::thread::spawn(move || client.service(&service).handle(handler));
}

#[test]
fn a_request_is_answered_by_whoever_provides_the_service() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (caller, instance) = (broker.client("caller"), broker.client("instance"));
    assert_eq!(code(caller.request("echo", b"x").send()), Code::NoInstance);
    let mut requests = instance.service("echo").start().unwrap();
    let pending = caller.request("echo", b"hello").text().type_("t").start().unwrap();
    let request = requests.recv().unwrap();
    assert_eq!((request.text().unwrap(), request.message_type()), ("hello", Some("t")));
    assert_eq!(request.publisher().name, "caller");
    request.reply_text("olleh").unwrap();
    assert_eq!(code(request.reply("again")), Code::SettledTwice);
    let answer = pending.wait().unwrap();
    assert_eq!((answer.text().unwrap(), answer.publisher().name.as_str()), ("olleh", "instance"));
    drop(requests);
    instance.ping().unwrap();
    assert_eq!(code(caller.request("echo", b"x").send()), Code::NoInstance);
}

#[test]
fn a_handler_answers_refuses_panics_and_forgets() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let (caller, instance) = (broker.client("caller"), broker.client("instance"));
    provide(&instance, "s", |request: &Request| match request.text().unwrap() {
        "reply" => request.reply("yes"),
        "error" => request.reply_error(404, "no such place"),
        "result" => Err(Error::Closed),
        "panic" => panic!("this panic is part of the test"),
        _ => Ok(()),
    });
    let ask = |what: &str| caller.request("s", what).text().timeout(Duration::from_secs(30)).send();
    while matches!(ask("reply"), Err(error) if error.code() == Code::NoInstance) {}
    assert_eq!(ask("reply").unwrap().payload(), b"yes");
    assert!(matches!(ask("error"), Err(Error::Reply { number: 404, text }) if text == "no such place"));
    assert!(matches!(ask("result"), Err(Error::Reply { number: 0, text }) if text == "closed"));
    let failed = ask("panic").unwrap_err();
    assert!(failed.code() == Code::InstanceFailed && failed.to_string().contains("panicked"), "{failed}");
    assert_eq!(code(ask("forget")), Code::InstanceFailed);
    assert_eq!(ask("reply").unwrap().payload(), b"yes");
}

#[test]
fn async_says_the_same_words() {
    let _watchdog = Watchdog::start();
    let broker = Broker::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder().socket(broker.socket()).connect_async().await.unwrap();
        assert_eq!(code(client.request("s", b"x").send().await), Code::NoInstance);
        let mut requests = client.service("s").concurrency(4).start().await.unwrap();
        let (answer, ()) = tokio::join!(client.request("s", b"x").send(), async {
            requests.recv().await.unwrap().reply(b"y").unwrap();
        });
        assert_eq!(answer.unwrap().payload(), b"y");
        drop(requests);
        let serving = client.clone();
        tokio::spawn(async move {
            serving
                .service("s")
                .concurrency(8)
                .handle(async |request: Arc<Request>| request.reply(request.payload()))
                .await
        });
        let mut answers = tokio::task::JoinSet::new();
        for n in 0..8_u8 {
            let client = client.clone();
            answers.spawn(async move {
                loop {
                    match client.request("s", &[n]).send().await {
                        Ok(answer) => return assert_eq!(answer.payload(), [n]),
                        Err(error) => assert_eq!(error.code(), Code::NoInstance),
                    }
                }
            });
        }
        while let Some(done) = answers.join_next().await {
            done.unwrap();
        }
    });
}
