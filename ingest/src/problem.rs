//! The words of an answer: `application/problem+json` for everything but 200.
//!
//! An answer says what to do, never which check failed: all failures of a signature read the same.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::webhook::Outcome;

/// How long a sender should wait before it tries again, in seconds: a broker that restarts takes
/// about this long.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// The answer to a request that ended so.
#[must_use]
pub fn answer(outcome: Outcome) -> Response<Full<Bytes>> {
    let status = outcome.status();
    let body = match status {
        StatusCode::OK => return Response::default(),
        StatusCode::BAD_REQUEST => problem!(400, "Bad Request", "the body is not an event"),
        StatusCode::UNAUTHORIZED => problem!(401, "Unauthorized", "the signature was not accepted"),
        StatusCode::FORBIDDEN => problem!(403, "Forbidden", "this address may not post webhooks"),
        StatusCode::METHOD_NOT_ALLOWED => problem!(405, "Method Not Allowed", "webhooks are posted"),
        StatusCode::REQUEST_TIMEOUT => problem!(408, "Request Timeout", "the body took too long"),
        StatusCode::PAYLOAD_TOO_LARGE => problem!(413, "Content Too Large", "the body is too large"),
        StatusCode::SERVICE_UNAVAILABLE => {
            problem!(503, "Service Unavailable", "the event was not stored, send it again")
        }
        _ => problem!(404, "Not Found", "there is nothing at this path"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    match status {
        StatusCode::METHOD_NOT_ALLOWED => _ = headers.insert(ALLOW, HeaderValue::from_static("POST")),
        StatusCode::SERVICE_UNAVAILABLE => _ = headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS),
        _ => {}
    }
    response
}

/// An answer in words that are put together when it is needed.
#[must_use]
pub fn words(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    response
}

/// The text of a problem, put together at compile time.
macro_rules! problem {
    ($status:literal, $title:literal, $detail:literal) => {
        concat!(
            r#"{"type":"about:blank","title":""#,
            $title,
            r#"","status":"#,
            $status,
            r#","detail":""#,
            $detail,
            "\"}"
        )
    };
}
use problem;

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    use super::*;

    async fn told(outcome: Outcome) -> Value {
        let body = answer(outcome).into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice(&body).expect("a problem in JSON")
    }

    #[tokio::test]
    async fn every_refusal_is_a_problem_with_its_own_status() {
        for outcome in Outcome::ALL.into_iter().filter(|outcome| outcome.status() != StatusCode::OK) {
            let response = answer(outcome);
            assert_eq!(response.status(), outcome.status());
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let problem = told(outcome).await;
            assert_eq!(problem["status"], outcome.status().as_u16(), "{outcome:?}");
            assert_eq!(problem["type"], "about:blank");
            let retry = response.headers().contains_key(RETRY_AFTER);
            assert_eq!(retry, outcome.status() == StatusCode::SERVICE_UNAVAILABLE, "{outcome:?}");
        }
        assert_eq!(answer(Outcome::MethodNotAllowed).headers()[ALLOW], "POST");
    }

    #[tokio::test]
    async fn a_forger_is_not_told_which_check_failed() {
        let mut told_all = Vec::new();
        for outcome in Outcome::ALL.into_iter().filter(|o| o.status() == StatusCode::UNAUTHORIZED) {
            told_all.push(told(outcome).await);
        }
        assert!(told_all.len() >= 4);
        assert!(told_all.windows(2).all(|pair| pair[0] == pair[1]), "{told_all:?}");
    }
}
