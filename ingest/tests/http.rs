//! What ingest answers when nothing can be stored: the checks before the publish, the bounds, the end.

#![expect(clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::time::Duration;

use ingest::config::Config;
use ingest::server::{self, Running};
use shared::clock;
use shared::config::Settings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const SECRET: &str = "whsec_test";
const EVENT: &str = r#"{"id":"event_1","event":"user.updated","data":{"id":"user_1"}}"#;

/// A server whose broker is not there.
async fn start(extra: &'static [(&'static str, &'static str)]) -> (Running, CancellationToken) {
    let settings = Settings::from_source(move |name| {
        let value = match name {
            "WORKOS_WEBHOOK_SECRET" => SECRET,
            "INGEST_ADDR" | "INGEST_ADMIN_ADDR" => "127.0.0.1:0",
            // Nobody listens on this port.
            "NATS_URL" => "nats://127.0.0.1:1",
            _ => extra.iter().find(|(key, _)| *key == name)?.1,
        };
        Some(value.to_owned())
    });
    let config = Config::read(settings).expect("well-formed settings");
    let shutdown = CancellationToken::new();
    (server::start(config, shutdown.clone()).await.expect("a server"), shutdown)
}

fn signature(body: &str) -> String {
    let time = clock::now().timestamp_millis().to_string();
    let digest = workos::helpers::compute_webhook_signature(SECRET, &time, body);
    format!("WorkOS-Signature: t={time}, v1={digest}\r\n")
}

fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /webhooks/workos HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

async fn connect(server: &Running) -> TcpStream {
    TcpStream::connect(server.address).await.expect("a connection")
}

/// The answer to one request, as text.
async fn ask(server: &Running, request: &str) -> String {
    let mut stream = connect(server).await;
    stream.write_all(request.as_bytes()).await.expect("a request sent");
    answer(&mut stream).await
}

/// Everything until a whole answer with its body is there, or the connection ends.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !text.ends_with('}') {
        let read = tokio::time::timeout(Duration::from_secs(15), stream.read(&mut piece)).await;
        match read.expect("an answer in time") {
            Ok(0) | Err(_) => break,
            Ok(length) => text.push_str(&String::from_utf8_lossy(&piece[..length])),
        }
    }
    text
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn what_cannot_be_stored_is_never_answered_with_success() {
    let (server, _shutdown) = start(&[]).await;
    let answer = ask(&server, &post(&signature(EVENT), EVENT)).await;
    assert_eq!(status(&answer), "503", "{answer}");
    assert!(answer.contains("retry-after: "), "{answer}");
    assert!(!shared::admin::is_ready(server.admin_address).await.expect("an answer"));
}

#[tokio::test]
async fn each_check_has_its_answer() {
    let (server, _shutdown) = start(&[("INGEST_MAX_BODY", "1000"), ("INGEST_MAX_BUFFERED", "1000")]).await;
    let signed = signature(EVENT);
    let large = "x".repeat(1001);
    let chunked = format!(
        "POST /webhooks/workos HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n{}\r\n3e9\r\n{large}\r\n0\r\n\r\n",
        signature(&large)
    );
    for (expected, request) in [
        ("503", post(&signed, EVENT)),
        ("503", post(&signed, EVENT).replace("/webhooks/workos", "/api/webhooks/workos")),
        ("404", post(&signed, EVENT).replace("/webhooks/workos", "/webhooks/workos/")),
        ("404", post(&signed, EVENT).replace("/webhooks/workos", "/sync/user/user_1")),
        ("405", "GET /webhooks/workos HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()),
        ("401", post("", EVENT)),
        ("401", post(&signed, &EVENT.replace("user_1", "user_2"))),
        ("401", post(&format!("{signed}{signed}"), EVENT)),
        ("400", post(&signature("{}"), "{}")),
        ("400", post(&signature(""), "")),
        // Not even the missing signature is looked at.
        ("413", post("", &large)),
        ("413", chunked),
        ("431", post(&format!("x: {}\r\n", "x".repeat(20_000)), EVENT)),
    ] {
        let answer = ask(&server, &request).await;
        assert_eq!(status(&answer), expected, "{request}\n{answer}");
    }
}

#[tokio::test]
async fn only_listed_addresses_may_post() {
    let (server, _shutdown) =
        start(&[("INGEST_ALLOWED_IPS", "workos"), ("INGEST_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let signed = signature(EVENT);
    assert_eq!(status(&ask(&server, &post(&signed, EVENT)).await), "403");
    let forwarded = format!("{signed}X-Forwarded-For: 192.0.2.1, 3.217.146.166\r\n");
    assert_eq!(status(&ask(&server, &post(&forwarded, EVENT)).await), "503");
}

#[tokio::test]
async fn when_the_bodies_in_memory_are_too_many_the_next_is_refused_and_no_sooner() {
    let (server, _shutdown) = start(&[("INGEST_MAX_BODY", "1000"), ("INGEST_MAX_BUFFERED", "1000")]).await;
    let half = "x".repeat(600);
    let mut slow = connect(&server).await;
    slow.write_all(format!("POST /webhooks/workos HTTP/1.1\r\nhost: x\r\nworkos-signature: t\r\ncontent-length: 601\r\n\r\n{half}").as_bytes())
        .await
        .expect("most of a request");
    // It is counted when it is read; there is nothing to see from outside before that.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(status(&ask(&server, &post("workos-signature: t\r\n", &half)).await), "503");
    slow.write_all(b"x").await.expect("the rest");
    assert_eq!(status(&answer(&mut slow).await), "401");
    assert_eq!(status(&ask(&server, &post("workos-signature: t\r\n", &half)).await), "401");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_slot() {
    let (server, _shutdown) = start(&[("INGEST_MAX_CONNECTIONS", "1")]).await;
    let first = connect(&server).await;
    let mut second = connect(&server).await;
    second.write_all(post("", EVENT).as_bytes()).await.expect("a request sent");
    let mut piece = [0; 64];
    let early = tokio::time::timeout(Duration::from_millis(300), second.read(&mut piece)).await;
    assert!(early.is_err(), "answered without a slot");
    drop(first);
    assert_eq!(status(&answer(&mut second).await), "401");
}

#[tokio::test]
async fn the_first_signal_lets_requests_in_hand_end_and_takes_no_new_connection() {
    let (server, shutdown) = start(&[]).await;
    let address = server.address;
    let mut in_hand = connect(&server).await;
    let request = post(&signature(EVENT), EVENT);
    let (start, rest) = request.split_at(request.len() - 5);
    in_hand.write_all(start.as_bytes()).await.expect("most of a request");
    let idle = connect(&server).await;
    tokio::time::sleep(Duration::from_millis(200)).await;

    shutdown.cancel();
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("no new connection is taken");
    in_hand.write_all(rest.as_bytes()).await.expect("the rest");
    let answer = answer(&mut in_hand).await;
    assert_eq!(status(&answer), "503", "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");

    drop(idle);
    tokio::time::timeout(Duration::from_secs(5), server.ended())
        .await
        .expect("an end in time")
        .expect("a good end");
}
