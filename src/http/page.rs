//! A request to a response: which paths there are, and what is said about all others.
//!
//! Pages are made from one [`Snapshot`](crate::core::Snapshot) each and keep nothing. Bodies of requests are never
//! read. Text for people is plain and ends in a line feed.

use super::SnapshotSource;
use super::metrics::{self, Format};
use super::source::NoSnapshot;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::net::IpAddr;

/// Through which door a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The broker's socket: the kernel vouches for the client.
    Socket,
    /// The loopback port: any process of this machine, and any web page that a browser on it shows.
    Port,
}

const INDEX: &str = "\
Tramline, a message broker for this machine.

/health   200 while the broker takes clients, 503 while it stops (JSON)
/status   clients, topics, streams, subscriptions, limits and their use (JSON)
/metrics  counters and gauges (Prometheus text; OpenMetrics by Accept)

Messages are not served by HTTP. On the broker's socket, JSON lines publish and subscribe: {\"op\":\"help\"}
";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers one request.
pub async fn answer<B>(request: &Request<B>, door: Door, source: &SnapshotSource) -> Response<Full<Bytes>> {
    if door == Door::Port && !names_loopback(request.headers().get(HOST)) {
        // A web page can make a browser connect here under its own name; it must not read the answer.
        let sentence = "The Host header must name localhost or a loopback address.\n";
        return page(StatusCode::MISDIRECTED_REQUEST, TEXT, sentence);
    }
    let path = request.uri().path();
    if !["/", "/health", "/status", "/metrics"].contains(&path) {
        return page(
            StatusCode::NOT_FOUND,
            TEXT,
            "There is no such page here. There are /health, /status and /metrics.\n",
        );
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let sentence = "This page can only be read, with GET or HEAD. To publish, send JSON lines to the broker's socket.\n";
        let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, sentence);
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/health" => health(source).await,
        "/status" => status(source).await,
        "/metrics" => measured(request.headers(), source).await,
        _ => page(StatusCode::OK, TEXT, INDEX),
    }
}

async fn health(source: &SnapshotSource) -> Response<Full<Bytes>> {
    if source.is_stopping() {
        return page(StatusCode::SERVICE_UNAVAILABLE, JSON, "{\"status\":\"stopping\"}\n");
    }
    // An answer from the core says more than that this thread lives.
    match source.snapshot().await {
        Ok(snapshot) if snapshot.store.reason.is_none() => {
            page(StatusCode::OK, JSON, "{\"status\":\"ready\"}\n")
        }
        // Everything but queues on disk does what it should.
        Ok(snapshot) => {
            let state = snapshot.store.state;
            page(StatusCode::OK, JSON, format!("{{\"status\":\"ready\",\"store\":\"{state}\"}}\n"))
        }
        Err(NoSnapshot::Stopped) => {
            page(StatusCode::SERVICE_UNAVAILABLE, JSON, "{\"status\":\"stopping\"}\n")
        }
        Err(NoSnapshot::TimedOut) => page(StatusCode::SERVICE_UNAVAILABLE, JSON, "{\"status\":\"stuck\"}\n"),
    }
}

async fn status(source: &SnapshotSource) -> Response<Full<Bytes>> {
    match source.snapshot().await {
        Ok(snapshot) => {
            let mut json =
                serde_json::to_vec_pretty(&snapshot).expect("a snapshot is plain values with text keys");
            json.push(b'\n');
            page(StatusCode::OK, JSON, json)
        }
        Err(error) => unavailable(error),
    }
}

async fn measured(headers: &HeaderMap, source: &SnapshotSource) -> Response<Full<Bytes>> {
    let format = Format::accepted(headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()));
    match source.snapshot().await {
        Ok(snapshot) => page(StatusCode::OK, format.content_type(), metrics::text(snapshot, format)),
        Err(error) => unavailable(error),
    }
}

fn unavailable(error: NoSnapshot) -> Response<Full<Bytes>> {
    page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("No answer: {error}.\n"))
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a `Host` header names this machine to itself; HTTP/1.0 clients may leave it out.
fn names_loopback(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let Ok(authority) = host.to_str().unwrap_or("?").parse::<hyper::http::uri::Authority>() else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_pass_the_port() {
        let passes = |host: &str| names_loopback(Some(&HeaderValue::from_str(host).unwrap()));
        for host in ["localhost", "LOCALHOST:9464", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:9464"] {
            assert!(passes(host), "{host}");
        }
        for host in ["example.org", "localhost.example.org:80", "10.0.0.1", "[::2]:80", "", "a b"] {
            assert!(!passes(host), "{host}");
        }
        assert!(names_loopback(None));
    }
}
