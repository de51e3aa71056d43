//! A program with an event loop of its own: standard input and a subscription in one `poll`.
//! Start a broker (`tramline serve`), then `cargo run --example event_loop`. What you type is published.

use rustix::event::{PollFd, PollFlags, poll};
use std::io::Read;
use std::os::fd::AsFd;
use tramline_client::{Client, Result};

fn main() -> Result<()> {
    let client = Client::builder().name("event-loop").connect()?;
    let mut chat = client.subscribe("chat.*")?;
    let mut input = std::io::stdin();
    let mut buffer = [0; 4096];
    loop {
        let (typed, arrived) = {
            let mut fds = [
                PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(chat.as_fd(), PollFlags::IN),
            ];
            if poll(&mut fds, None).is_err() {
                continue;
            }
            (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
        };
        if arrived {
            // Until it says that there is nothing: that asks to be told of the next one.
            while let Some(message) = chat.try_recv()? {
                println!("{}: {}", message.topic(), String::from_utf8_lossy(message.payload()).trim_end());
            }
        }
        if typed {
            match input.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(length) => client.publish("chat.me", &buffer[..length])?,
            };
        }
    }
}
