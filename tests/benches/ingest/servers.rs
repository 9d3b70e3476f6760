//! The servers that `ingest` is compared with, each a process of its own: this very executable, called
//! with a hidden argument.
//!
//! `bare` verifies and answers. `simplest` also publishes and waits for the acknowledgement.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::{Context, message::PublishMessage};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use shared::subject;
use support::services::guardian::Farewell;
use support::services::port;
use support::services::process::{Process, Spec};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{ENVIRONMENT, SECRET, broker, on_one_thread};

const SERVE: &str = "--serve";

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server process was told.
pub(crate) struct Asked {
    address: SocketAddr,
    /// The broker; `bare` has none.
    nats: Option<String>,
}

/// Whether this process is to be a server.
pub(crate) fn asked_to_serve() -> Option<Asked> {
    let mut arguments = std::env::args().skip_while(|argument| argument != SERVE).skip(1);
    Some(Asked { address: arguments.next()?.parse().ok()?, nats: arguments.next() })
}

/// Starts one beside us and waits until it listens.
pub(crate) async fn start(
    room: &Path,
    kind: &str,
    nats: Option<&str>,
) -> anyhow::Result<(Process, SocketAddr)> {
    let address = SocketAddr::from(([127, 0, 0, 1], port::free()?));
    let mut args = vec![SERVE.into(), address.to_string().into()];
    args.extend(nats.map(Into::into));
    let mut process = Process::start(&Spec {
        name: kind.to_owned(),
        program: std::env::current_exe()?,
        args,
        env: Vec::new(),
        directory: room.to_owned(),
        output: None,
        log: room.join(format!("{kind}.log")),
        user: None,
        farewell: Farewell::Kill,
    })?;
    let started = tokio::time::Instant::now();
    while TcpStream::connect(address).await.is_err() {
        if process.ended()?.is_some() || started.elapsed() > PATIENCE {
            bail!("the server `{kind}` does not listen; see {}", room.display());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok((process, address))
}

/// Serves until killed.
pub(crate) fn serve(asked: &Asked) -> anyhow::Result<()> {
    on_one_thread(async {
        let stream = match &asked.nats {
            Some(url) => Some(broker::connect(url).await?),
            None => None,
        };
        let key = Hmac::new_from_slice(SECRET.as_bytes()).context("failed to use the secret")?;
        let server = Arc::new(Server { key, stream, subject: subject::event(ENVIRONMENT, "user.updated") });
        let listener = shared::listen::bind(asked.address).context("failed to listen")?;
        server.accept(listener).await
    })
}

struct Server {
    key: Hmac<Sha256>,
    stream: Option<Context>,
    subject: String,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener) -> anyhow::Result<()> {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let server = self.clone();
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { server.answer(request).await }
            });
            let connection = http1::Builder::new()
                .header_read_timeout(None)
                .half_close(true)
                .writev(false)
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = match self.take(request).await {
            Some(()) => StatusCode::OK,
            None => StatusCode::BAD_REQUEST,
        };
        Ok(response)
    }

    async fn take(&self, request: Request<Incoming>) -> Option<()> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let header = parts.headers.get("workos-signature")?.as_bytes();
        let (time, digest) = header.strip_prefix(b"t=")?.split_at_checked(13)?;
        let mut expected = self.key.clone();
        expected.update(time);
        expected.update(b".");
        expected.update(&body);
        let mut bytes = [0; 32];
        hex::decode_to_slice(digest.strip_prefix(b", v1=")?, &mut bytes).ok()?;
        expected.verify_slice(&bytes).ok()?;
        match &self.stream {
            None => Some(()),
            Some(stream) => self.publish(stream, &body).await,
        }
    }

    /// The event as it came, under its id.
    async fn publish(&self, stream: &Context, body: &Bytes) -> Option<()> {
        const ID: &[u8] = b"\"id\":\"event_";
        let start = body.windows(ID.len()).position(|window| window == ID)? + ID.len() - b"event_".len();
        let id = std::str::from_utf8(body.get(start..start + 32)?).ok()?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id);
        let message = PublishMessage::build().headers(headers).payload(body.clone());
        stream.send_publish(self.subject.clone(), message).await.ok()?.await.ok().map(drop)
    }
}
