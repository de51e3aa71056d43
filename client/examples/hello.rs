//! Two ends of one topic. Start a broker (`tramline serve`), then `cargo run --example hello`.

use tramline_client::{Client, Result};

fn main() -> Result<()> {
    let client = Client::builder().name("hello").connect()?;
    let mut greetings = client.subscribe("hello.*")?;
    client.publish_text("hello.world", "Hello!")?;
    let message = greetings.recv()?;
    println!("{} says on {}: {}", message.publisher().name, message.topic(), message.text()?);
    Ok(())
}
