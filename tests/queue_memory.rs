//! What a waiting message costs the broker, as the system counts it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use support::{Broker, Watchdog};

/// Bytes that may be taken for each message besides its payload.
const EXTRA_BYTES: u64 = 150;

fn resident(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// 200,000 messages, or as many as `TRAMLINE_WAITING_MESSAGES` says.
#[test]
fn a_message_that_waits_takes_its_payload_and_no_more_than_150_bytes() {
    let _watchdog = Watchdog::start();
    let wanted = std::env::var("TRAMLINE_WAITING_MESSAGES").ok().and_then(|count| count.parse().ok());
    let count: u64 = wanted.unwrap_or(200_000);
    for payload_bytes in [1_u64, 64, 1000] {
        let broker = Broker::with_config(
            "limits: {queued_bytes_max: 8GiB, user_queued_bytes_max: 8GiB}\n\
             queues: [{name: jobs, messages_max: 4000000, bytes_max: 8GiB}]\n",
        );
        let client = broker.client("p");
        let payload = vec![b'x'; usize::try_from(payload_bytes).unwrap()];
        // What a connection needs in any case is there before.
        for _ in 0..2_000 {
            client.push("jobs", &payload).send().unwrap();
        }
        client.flush().unwrap();
        let before = resident(&broker);
        for _ in 0..count {
            client.push("jobs", &payload).send().unwrap();
        }
        client.flush().unwrap();
        let each = (resident(&broker) - before) / count;
        println!("{count} messages of {payload_bytes} bytes: {each} bytes each");
        assert!(each <= payload_bytes + EXTRA_BYTES, "{each} bytes for each of {payload_bytes}");
    }
}
