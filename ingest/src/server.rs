//! The accept loop: bounded connections, none that hangs, and a polite end.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use shared::admin::{self, Admin, Readiness};
use shared::{broker, listen, metrics as registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::immediate::{self, Immediate, Named};
use crate::metrics::{Metrics, SyncMetrics};
use crate::problem;
use crate::publisher::Publisher;
use crate::webhook::{self, Webhooks};

mod watch;

use watch::{Activity, Verdict, Watch, Watched};

/// Buffer of one HTTP/1 connection, and so the limit of its headers: WorkOS sends well under 1 KiB.
const HTTP1_BUFFER: usize = 16 << 10;

/// HTTP/2: what one connection may ask of our memory before we read it.
const HTTP2_STREAMS: u32 = 128;
const HTTP2_STREAM_WINDOW: u32 = 64 << 10;
const HTTP2_CONNECTION_WINDOW: u32 = 256 << 10;
const HTTP2_HEADERS: u32 = 16 << 10;

/// How long a kept-alive connection may still bring a request after the first signal. It was perhaps
/// on its way already; its answer says `connection: close`.
const LINGER: Duration = Duration::from_millis(300);

/// How long we wait for requests in hand after the first signal.
const GRACE: Duration = Duration::from_secs(10);

/// Pause after a failure to accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown` is cancelled and what was in hand is answered.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    start(config, shutdown).await?.ended().await
}

/// A server that listens.
pub struct Running {
    /// Where webhooks are taken.
    pub address: SocketAddr,
    /// Where health and metrics are shown.
    pub admin_address: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    /// Waits for the end.
    pub async fn ended(self) -> anyhow::Result<()> {
        self.task.await.context("the server failed")
    }
}

/// Binds both addresses, starts connecting to the broker, and serves.
pub async fn start(config: Config, shutdown: CancellationToken) -> anyhow::Result<Running> {
    let listener =
        listen::bind(config.address).with_context(|| format!("failed to listen on {}", config.address))?;
    let address = listener.local_addr()?;
    let readiness = Readiness::default();
    let client = broker::connect(&config.broker, "workos-sync ingest", &readiness).await?;
    let publisher = Arc::new(Publisher::new(client.clone(), &config.env, config.max_in_flight));

    let mut registry = registry::registry();
    let metrics = Metrics::new(&mut registry);
    let immediate = config.sync_token.as_ref().map(|token| {
        let (metrics, leaving) = (SyncMetrics::new(&mut registry), shutdown.clone());
        // Webhooks find a free connection, however many callers wait.
        let waiting = config.max_connections.div_ceil(2);
        Arc::new(Immediate::new(token, &config.env, client, waiting, metrics, leaving))
    });
    let webhooks = Webhooks::new(&config, Arc::clone(&publisher), metrics)?;
    // What must outlive the last request ends with this, not with the first signal.
    let stop = CancellationToken::new();
    let admin = Admin::new(readiness.clone(), move || registry::render(&registry));
    let admin_address = admin::serve(config.admin_address, admin, stop.clone())?;
    tokio::spawn({
        let (publisher, readiness, stop) = (Arc::clone(&publisher), readiness.clone(), stop.clone());
        async move { publisher.keep_stream(config.broker.replicas, readiness, stop).await }
    });
    if let Some(immediate) = immediate.clone() {
        let stop = stop.clone();
        tokio::spawn(async move { immediate.keep(config.broker.replicas, stop).await });
    }
    tracing::info!(http.address = %address, admin.address = %admin_address, env = config.env, "taking webhooks");

    let server = Server::new(webhooks, immediate, config.max_connections);
    let task = tokio::spawn(async move {
        server.accept_until(listener, &readiness, &shutdown).await;
        publisher.close().await;
        stop.cancel();
        tracing::info!("left");
    });
    Ok(Running { address, admin_address, task })
}

/// What all connections share.
struct Server {
    http: auto::Builder<TokioExecutor>,
    webhooks: Arc<Webhooks>,
    immediate: Option<Arc<Immediate>>,
    slots: Arc<Semaphore>,
    /// Set before `draining` is cancelled: from then on an answer ends its connection.
    last_answers: AtomicBool,
    draining: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    fn new(webhooks: Webhooks, immediate: Option<Arc<Immediate>>, max_connections: usize) -> Arc<Self> {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            // Time is bounded by `watch`, for both protocols and without a timer for each request.
            .header_read_timeout(None)
            .max_buf_size(HTTP1_BUFFER)
            // An event in hand is stored even if its sender hangs up; and listening for that costs a
            // second read buffer for each request.
            .half_close(true)
            // An answer is one small piece.
            .writev(false);
        http.http2()
            .max_concurrent_streams(HTTP2_STREAMS)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .max_header_list_size(HTTP2_HEADERS);
        Arc::new(Self {
            http,
            webhooks: Arc::new(webhooks),
            immediate,
            slots: Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS))),
            last_answers: AtomicBool::new(false),
            draining: CancellationToken::new(),
            connections: TaskTracker::new(),
        })
    }

    /// Accepts until the first signal, then answers what is in hand, for [`GRACE`] at most.
    async fn accept_until(
        self: &Arc<Self>,
        listener: TcpListener,
        readiness: &Readiness,
        shutdown: &CancellationToken,
    ) {
        shutdown.run_until_cancelled(self.accept(&listener)).await;

        readiness.unready("shutdown", "leaving");
        self.last_answers.store(true, Ordering::Relaxed);
        // Whoever is connected already, though not accepted yet, is answered rather than reset.
        while let Some(Ok((stream, peer))) = listener.accept().now_or_never()
            && let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
        {
            self.serve(stream, peer.ip(), slot);
        }
        drop(listener);
        self.draining.cancel();
        self.connections.close();
        if tokio::time::timeout(GRACE, self.connections.wait()).await.is_err() {
            tracing::warn!(
                connections = self.connections.len(),
                "grace is over, leaving requests unanswered"
            );
        }
    }

    /// When every slot is taken, further connections wait in the accept queue.
    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, peer)) => self.serve(stream, peer.ip(), slot),
                Err(error) => {
                    tracing::warn!(error = %error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(self: &Arc<Self>, stream: TcpStream, peer: IpAddr, slot: OwnedSemaphorePermit) {
        // Answers are small and at once; a failure costs time only.
        let _ = stream.set_nodelay(true);
        let server = Arc::clone(self);
        self.connections.spawn(async move {
            let _slot = slot;
            server.connection(stream, peer).await;
        });
    }

    /// One connection to its end: its own, the watch's, or ours.
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: IpAddr) {
        let activity = Arc::new(Activity::default());
        let service = service_fn({
            let (server, activity) = (Arc::clone(&self), Arc::clone(&activity));
            move |request| {
                let (server, activity) = (Arc::clone(&server), Arc::clone(&activity));
                async move { Ok::<_, Infallible>(server.answer(peer, request, &activity).await) }
            }
        });
        let io = Watched::new(TokioIo::new(stream), Arc::clone(&activity));
        let mut connection = pin!(self.http.serve_connection(io, service));
        let mut watch = Watch::default();
        let mut ticks = interval(watch::TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaving = pin!(
            async {
                self.draining.cancelled().await;
                tokio::time::sleep(LINGER).await;
            }
            .fuse()
        );
        loop {
            let verdict = tokio::select! {
                biased;
                // Its errors are the sender's doing: a reset, a malformed head.
                _ = connection.as_mut() => return,
                _ = ticks.tick() => watch.look(&activity, self.slots.available_permits() == 0),
                () = leaving.as_mut() => Verdict::Finish,
            };
            match verdict {
                Verdict::Keep => {}
                Verdict::Finish => connection.as_mut().graceful_shutdown(),
                Verdict::Cut => return,
            }
        }
    }

    async fn answer(
        &self,
        peer: IpAddr,
        request: Request<Incoming>,
        activity: &Activity,
    ) -> Response<Full<Bytes>> {
        let version = request.version();
        let _in_hand = activity.request(version == Version::HTTP_2);
        let mut response = self.route(peer, request).await;
        // HTTP/2 says the same with its GOAWAY.
        if version != Version::HTTP_2 && self.last_answers.load(Ordering::Relaxed) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
    /// A sync request, where those are taken; everything else is a webhook, or nothing.
    async fn route(&self, peer: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(immediate) = &self.immediate else {
            return problem::answer(self.webhooks.receive(peer, request).await);
        };
        let path = request.uri().path();
        if let Some(named) = Named::by(path) {
            return immediate.receive(&named, request).await;
        }
        let almost = Named::almost(path);
        match self.webhooks.receive(peer, request).await {
            webhook::Outcome::NotFound if almost => immediate::no_such_kind(),
            outcome => problem::answer(outcome),
        }
    }
}
