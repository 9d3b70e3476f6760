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
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
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

/// Our name in the broker's list of connections.
const CLIENT_NAME: &str = "workos-sync ingest";

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
    let mut registry = registry::registry();
    let metrics = Metrics::new(&mut registry);
    // What must outlive the last request ends with this, not with the first signal.
    let stop = CancellationToken::new();

    let client = broker::connect(&config.broker, CLIENT_NAME, &readiness).await?;
    let immediate = config.sync_token.as_ref().map(|token| {
        let (metrics, leaving) = (SyncMetrics::new(&mut registry), shutdown.clone());
        // Webhooks find a free connection, however many callers wait.
        let waiting = config.max_connections.div_ceil(2);
        Arc::new(Immediate::new(token, &config.env, client.clone(), waiting, metrics, leaving))
    });
    let mut publishers = vec![(Handle::current(), publisher(&config, client, &readiness, &stop))];
    for part in 1..config.threads {
        publishers.push(thread(&config, readiness.part(part), stop.clone()).await?);
    }
    let shared = Arc::new(Shared::new(config.max_connections));
    let bounds = webhook::Bounds::new(&config)?;
    let serving = publishers
        .iter()
        .map(|(thread, publisher)| {
            let webhooks = Webhooks::new(bounds.clone(), Arc::clone(publisher), metrics.clone());
            (thread.clone(), Serving::new(webhooks, immediate.clone(), Arc::clone(&shared)))
        })
        .collect();

    let admin = Admin::new(readiness.clone(), move || registry::render(&registry));
    let admin_address = admin::serve(config.admin_address, admin, stop.clone())?;
    if let Some(immediate) = immediate {
        let stop = stop.clone();
        tokio::spawn(async move { immediate.keep(config.broker.replicas, stop).await });
    }
    tracing::info!(
        http.address = %address, admin.address = %admin_address, env = config.env, threads = config.threads,
        "taking webhooks"
    );

    let server = Server { shared, serving, next: 0 };
    let task = tokio::spawn(async move {
        server.accept_until(listener, &readiness, &shutdown).await;
        for (_, publisher) in publishers {
            publisher.close().await;
        }
        stop.cancel();
        tracing::info!("left");
    });
    Ok(Running { address, admin_address, task })
}

/// A way into the stream, on the thread that calls; it keeps the stream in being until `stop`.
fn publisher(
    config: &Config,
    client: async_nats::Client,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Arc<Publisher> {
    let max_in_flight = config.max_in_flight.div_ceil(config.threads);
    let publisher = Arc::new(Publisher::new(client, &config.env, max_in_flight));
    tokio::spawn({
        let (publisher, readiness, stop) = (Arc::clone(&publisher), readiness.clone(), stop.clone());
        let replicas = config.broker.replicas;
        async move { publisher.keep_stream(replicas, readiness, stop).await }
    });
    publisher
}

/// Another thread that serves, with a runtime and a connection to the broker of its own: nothing of a webhook
/// ever crosses threads. It ends with `stop`.
async fn thread(
    config: &Config,
    readiness: Readiness,
    stop: CancellationToken,
) -> anyhow::Result<(Handle, Arc<Publisher>)> {
    let (started, running) = oneshot::channel();
    let config = config.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime of a thread")?;
    std::thread::Builder::new()
        .name("serve".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let connected = broker::connect(&config.broker, CLIENT_NAME, &readiness).await;
                let publisher = connected.map(|client| publisher(&config, client, &readiness, &stop));
                let failed = publisher.is_err();
                // Whoever started us has left already.
                let _ = started.send(publisher.map(|publisher| (Handle::current(), publisher)));
                if !failed {
                    stop.cancelled().await;
                }
            });
        })
        .context("failed to start a thread")?;
    running.await.context("a thread ended before it served")?
}

/// What all connections share.
struct Shared {
    slots: Arc<Semaphore>,
    /// Set before `draining` is cancelled: from then on an answer ends its connection.
    last_answers: AtomicBool,
    draining: CancellationToken,
    connections: TaskTracker,
}

impl Shared {
    fn new(max_connections: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS))),
            last_answers: AtomicBool::new(false),
            draining: CancellationToken::new(),
            connections: TaskTracker::new(),
        }
    }
}

/// What the connections of one thread need.
struct Serving {
    http: auto::Builder<TokioExecutor>,
    webhooks: Webhooks,
    immediate: Option<Arc<Immediate>>,
    shared: Arc<Shared>,
}

/// Accepts, and hands each connection to the next thread in turn.
struct Server {
    shared: Arc<Shared>,
    serving: Vec<(Handle, Arc<Serving>)>,
    next: usize,
}

impl Server {
    /// Accepts until the first signal, then answers what is in hand, for [`GRACE`] at most.
    async fn accept_until(
        mut self,
        listener: TcpListener,
        readiness: &Readiness,
        shutdown: &CancellationToken,
    ) {
        shutdown.run_until_cancelled(self.accept(&listener)).await;

        readiness.unready("shutdown", "leaving");
        self.shared.last_answers.store(true, Ordering::Relaxed);
        // Whoever is connected already, though not accepted yet, is answered rather than reset.
        while let Some(Ok((stream, peer))) = listener.accept().now_or_never()
            && let Ok(slot) = Arc::clone(&self.shared.slots).try_acquire_owned()
        {
            self.serve(stream, peer.ip(), slot);
        }
        drop(listener);
        self.shared.draining.cancel();
        self.shared.connections.close();
        if tokio::time::timeout(GRACE, self.shared.connections.wait()).await.is_err() {
            tracing::warn!(
                connections = self.shared.connections.len(),
                "grace is over, leaving requests unanswered"
            );
        }
    }

    /// When every slot is taken, further connections wait in the accept queue.
    async fn accept(&mut self, listener: &TcpListener) {
        while let Ok(slot) = Arc::clone(&self.shared.slots).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, peer)) => self.serve(stream, peer.ip(), slot),
                Err(error) => {
                    tracing::warn!(error = %error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&mut self, stream: TcpStream, peer: IpAddr, slot: OwnedSemaphorePermit) {
        // Answers are small and at once; a failure costs time only.
        let _ = stream.set_nodelay(true);
        self.next = (self.next + 1) % self.serving.len();
        let Some((thread, serving)) = self.serving.get(self.next) else { return };
        let serving = Arc::clone(serving);
        // Readiness of a socket is told to the thread that registered it, so it registers anew over there.
        let Ok(stream) = stream.into_std() else { return };
        let connection = async move {
            let _slot = slot;
            if let Ok(stream) = TcpStream::from_std(stream) {
                serving.connection(stream, peer).await;
            }
        };
        self.shared.connections.spawn_on(connection, thread);
    }
}

impl Serving {
    fn new(webhooks: Webhooks, immediate: Option<Arc<Immediate>>, shared: Arc<Shared>) -> Arc<Self> {
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
        Arc::new(Self { http, webhooks, immediate, shared })
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
                self.shared.draining.cancelled().await;
                tokio::time::sleep(LINGER).await;
            }
            .fuse()
        );
        loop {
            let verdict = tokio::select! {
                biased;
                // Its errors are the sender's doing: a reset, a malformed head.
                _ = connection.as_mut() => return,
                _ = ticks.tick() => watch.look(&activity, self.shared.slots.available_permits() == 0),
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
        if version != Version::HTTP_2 && self.shared.last_answers.load(Ordering::Relaxed) {
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
