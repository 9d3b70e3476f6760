//! The admin address: `/healthz`, `/readyz`, `/metrics`, and what else a program shows there.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::{listen, metrics};

/// Why the program is not ready, by dependency; ready when nothing stands here. Besides, what a person should
/// know although it is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    lines: Arc<Mutex<Lines>>,
    part: usize,
}

/// A line by what it is about, and which part of the program says it.
type ByPart = BTreeMap<(&'static str, usize), String>;

#[derive(Debug, Default)]
struct Lines {
    reasons: ByPart,
    notes: ByPart,
}

impl Readiness {
    /// The same readiness, as another part of the program sees it: the program is ready when every part is.
    #[must_use]
    pub fn part(&self, part: usize) -> Self {
        Self { lines: Arc::clone(&self.lines), part }
    }

    /// `what` keeps us from being ready.
    pub fn unready(&self, what: &'static str, why: impl Into<String>) {
        self.lock().reasons.insert((what, self.part), why.into());
    }

    /// `what` no longer keeps us from being ready.
    pub fn ready(&self, what: &'static str) {
        self.lock().reasons.remove(&(what, self.part));
    }

    /// A person should know this about `what`; it does not keep us from being ready.
    pub fn note(&self, what: &'static str, text: impl Into<String>) {
        self.lock().notes.insert((what, self.part), text.into());
    }

    /// There is nothing to know about `what` any more.
    pub fn clear_note(&self, what: &'static str) {
        self.lock().notes.remove(&(what, self.part));
    }

    /// One line per reason; empty when ready.
    #[must_use]
    pub fn reasons(&self) -> String {
        lines(&self.lock().reasons)
    }

    /// One line per note.
    #[must_use]
    pub fn notes(&self) -> String {
        lines(&self.lock().notes)
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line each; what several parts say in the same words is said once.
fn lines(of: &ByPart) -> String {
    let lines: BTreeSet<String> = of.iter().map(|((what, _), why)| format!("{what}: {why}\n")).collect();
    lines.into_iter().collect()
}

/// Answers a request in its own time.
type Answer =
    dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>> + Send + Sync;

/// What the admin address shows.
#[derive(Clone)]
pub struct Admin {
    readiness: Readiness,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    page: Option<(&'static str, Arc<Answer>)>,
}

impl Admin {
    /// Shows this readiness and these metrics.
    pub fn new(readiness: Readiness, metrics: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { readiness, metrics: Arc::new(metrics), page: None }
    }

    /// Shows besides whatever `answer` says to requests for `path` and what is below it.
    #[must_use]
    pub fn with_page<F>(
        mut self,
        path: &'static str,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        self.page = Some((path, Arc::new(move |request| Box::pin(answer(request)))));
        self
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match &self.page {
            Some((path, page)) if is_at_or_below(request.uri().path(), path) => page(request).await,
            _ => self.show(&request),
        }
    }

    fn show(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let known = matches!(path, "/healthz" | "/readyz" | "/metrics");
        if known && request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match path {
            // Liveness never depends on a dependency: restarting us would not bring it back.
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.readiness.reasons() {
                reasons if reasons.is_empty() => {
                    text(StatusCode::OK, format!("ready\n{}", self.readiness.notes()))
                }
                reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons),
            },
            "/metrics" => {
                let mut response = text(StatusCode::OK, (self.metrics)());
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(metrics::CONTENT_TYPE));
                response
            }
            _ => text(StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n".to_owned()),
        }
    }
}

fn is_at_or_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Serves the admin address until `stop`. Returns the address in use once it listens.
pub fn serve(address: SocketAddr, admin: Admin, stop: CancellationToken) -> anyhow::Result<SocketAddr> {
    let listener =
        listen::bind(address).with_context(|| format!("failed to listen on the admin address {address}"))?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(error = %error, "failed to accept on the admin address");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = stop.cancelled() => return,
            };
            let admin = admin.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let admin = admin.clone();
                    async move { Ok::<_, Infallible>(admin.answer(request).await) }
                });
                // A broken scrape is the scraper's to notice.
                let _ = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10))
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(bound)
}

/// Asks a running copy whether it is ready, for containers without a shell: `GET /readyz` on its
/// admin address.
pub async fn is_ready(address: SocketAddr) -> anyhow::Result<bool> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let host = if address.ip().is_unspecified() {
        SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), address.port())
    } else {
        address
    };
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(host).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer).await?;
        anyhow::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    tokio::time::timeout(Duration::from_secs(5), ask)
        .await
        .with_context(|| format!("no answer from {host} within 5 s"))?
        .with_context(|| format!("failed to ask {host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_ready_when_every_part_is() {
        let readiness = Readiness::default();
        let other = readiness.part(1);
        readiness.unready("nats", "not connected");
        other.unready("nats", "not connected");
        assert_eq!(readiness.reasons(), "nats: not connected\n");
        readiness.ready("nats");
        assert_eq!(readiness.reasons(), "nats: not connected\n", "the other part is not ready");
        other.ready("nats");
        assert_eq!(readiness.reasons(), "");
    }
}
