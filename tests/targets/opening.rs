//! A connection's first bytes: which language they are taken for, and what that language makes of them. Requests of HTTP
//! go through the server that the broker runs.

use tramline::core::{Access, Core, Limits, Now};
use tramline::http::{self, Door};
use tramline::shell::{First, first};

/// Whoever sees these bytes first decides as the broker does, and what follows is refused or answered in the language
/// that was recognised.
pub(crate) fn opening(bytes: &[u8]) {
    let Some(byte) = bytes.first() else { return };
    match first(*byte) {
        First::Native => super::first_bytes(bytes),
        First::Json => bytes.split(|byte| *byte == b'\n').for_each(super::json_line),
        First::Http => request(bytes),
        First::Other(other) => assert!(!other.is_ascii_alphabetic() && other != b'{'),
    }
}

/// What an HTTP client gets that says this and then no more.
fn request(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let said = runtime.block_on(async {
        let (source, mut requests) = http::snapshots();
        let (client, server) = tokio::io::duplex(1 << 20);
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let (mut reading, mut writing) = tokio::io::split(client);
        let asking = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            writing.write_all(bytes).await.expect("there is room");
            let _ = writing.shutdown().await;
            let mut said = Vec::new();
            let _ = reading.read_to_end(&mut said).await;
            said
        };
        let answering = async {
            let core = Core::new(Limits::default(), Access::default(), 1, "9.9.9");
            let now = Now { monotonic: 1, unix: 1 };
            while let Some(request) = requests.next().await {
                request.send(core.snapshot(now));
            }
            std::future::pending::<()>().await;
        };
        let serving = http::serve_connection(server, Door::Socket, source, stopped);
        let served = async { tokio::join!(serving, asking).1 };
        tokio::select! { said = served => said, () = answering => Vec::new() }
    });
    if said.is_empty() {
        return;
    }
    // Whatever was asked, what is answered begins as an answer and is bounded.
    assert!(said.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&said));
    assert!(said.len() < 256 * (bytes.len() + 100), "{} bytes for {}", said.len(), bytes.len());
}
