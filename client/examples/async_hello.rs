//! Two ends of one topic, awaited. Start a broker (`tramline serve`), then
//! `cargo run --features tokio --example async_hello`.

use tramline_client::{AsyncClient, Result};

async fn hello() -> Result<()> {
    let client = AsyncClient::builder().name("hello").connect_async().await?;
    let mut greetings = client.subscribe("hello.*").await?;
    client.publish_text("hello.world", "Hello!").await?;
    if let Some(message) = greetings.next().await {
        let message = message?;
        println!("{} says on {}: {}", message.publisher().name, message.topic(), message.text()?);
    }
    Ok(())
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("this process has descriptors left").block_on(hello())
}
