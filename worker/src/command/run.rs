//! `worker run`: consume events and write the mirror.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use shared::admin::{self, Admin, Readiness};
use shared::exit::Exit;
use shared::{broker, shutdown, telemetry};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::breaker::Breaker;
use crate::burst::Bursts;
use crate::by_list::Lists;
use crate::config::Config;
use crate::dead_letter::{self, DeadLetters};
use crate::failure::Failure;
use crate::listing::Patience;
use crate::metrics::Metrics;
use crate::page::{Page, Rooms};
use crate::process::Means;
use crate::sync::{Purpose, Sync};
use crate::tail::{self, Tail};
use crate::verify::{self, Schedule};
use crate::workos::Lane;
use crate::{backoff, consumer, database, fast_lane, page, standing};

/// Consumes until told to leave.
pub async fn run(config: Config) -> anyhow::Result<Exit> {
    telemetry::init(&config.database.telemetry);
    let stop = shutdown::on_signal().context("failed to listen for signals")?;
    let metrics = Metrics::new();
    let readiness = Readiness::default();
    readiness.unready("database", "not asked yet");
    readiness.unready("stream", "not subscribed yet");
    // Who we are and how we fare is told until the end, not only until the first signal.
    let told = CancellationToken::new();
    let _ends_last = told.clone().drop_guard();
    let (admin, page) = show(&config, &readiness, &metrics, &told)?;
    tokio::spawn(tell_of_leaving(readiness.clone(), stop.clone()));
    tracing::info!(admin = %admin, env = config.ask.env, "worker started");

    let connections = u32::try_from(consumer::in_flight(&config))
        .unwrap_or(u32::MAX)
        .saturating_add(4 + fast_lane::CONNECTIONS);
    let pool = database::pool(&config.database.url, connections)?;
    let missing = tokio::select! {
        missing = missing_migrations(&pool, config.auto_migrate) => missing?,
        () = stop.cancelled() => return Ok(Exit::Success),
    };
    if !missing.is_empty() {
        eprintln!(
            "the database lacks {} migration(s): {}\nrun `worker migrate`, or set SYNC_AUTO_MIGRATE=true",
            missing.len(),
            missing.join(", ")
        );
        return Ok(Exit::Usage);
    }
    readiness.ready("database");

    let client = broker::connect(&config.broker, "workos-sync worker", &readiness).await?;
    let jetstream = async_nats::jetstream::new(client.clone());
    let sync = super::sync(&config.ask, pool.clone(), &metrics, Lane::Events)?;
    let immediate = Sync { lane: Lane::Immediate, purpose: Purpose::Sync, ..sync.clone() };
    let fast_lane = tokio::spawn(fast_lane::run(
        jetstream.clone(),
        config.broker.replicas,
        immediate,
        metrics.clone(),
        stop.clone(),
    ));
    let tail = config.tail.map(|tail| Tail {
        env: config.ask.env.clone(),
        config: tail,
        database_url: config.database.url.clone(),
        database: pool.clone(),
        replicas: config.broker.replicas,
        workos: sync.workos.clone(),
        client: client.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
    });
    let tail = tail.map(|tail| tokio::spawn(tail::run(tail, stop.clone())));
    let verifying = tokio::spawn(verify::scheduled(
        Schedule {
            interval: config.verify_interval,
            wanted: Arc::default(),
            // Events come first.
            parallel: config.ask.fetch_concurrency.div_ceil(4),
        },
        Sync { lane: Lane::Backfill, purpose: Purpose::Verify, ..sync.clone() },
        database::pool(&config.database.url, super::CONNECTIONS)?,
        metrics.clone(),
        Patience { limit: super::OUTAGE, stop: stop.clone() },
    ));
    let means = Means {
        bursts: Bursts::new(&sync, jetstream.clone(), stop.clone()),
        lists: Lists::new(config.list_bursts),
        sync,
        metrics,
        ack_wait: config.ack_wait,
        retries: config.retries,
        dead_letters: DeadLetters::new(&config.ask.env, jetstream.clone()),
        breaker: Breaker::default(),
        alone: Arc::default(),
    };
    look_after(&means, &jetstream, &readiness, &stop);
    if let Some(page) = page {
        let database = database::pool(&config.database.url, page::CONNECTIONS)?;
        page.open(rooms(&means, database, &jetstream, &readiness), stop.clone());
    }
    consumer::run(&config, jetstream, means, readiness, stop).await;
    fast_lane.await.context("the fast lane failed")?;
    if let Some(tail) = tail {
        tail.await.context("the tail failed")?;
    }
    if let Err(error) = verifying.await {
        tracing::error!(error = %error, "the scheduled verify ended by itself");
    }
    // What was acknowledged must leave before the connection does.
    if let Err(error) = client.flush().await {
        tracing::debug!(error = %error, "failed to flush the last acknowledgements");
    }
    pool.close().await;
    tracing::info!("worker ended");
    Ok(Exit::Success)
}

/// Serves the admin address until `told`, and on it the operator page if there is one.
fn show(
    config: &Config,
    readiness: &Readiness,
    metrics: &Metrics,
    told: &CancellationToken,
) -> anyhow::Result<(SocketAddr, Option<Arc<Page>>)> {
    let metrics = metrics.clone();
    let mut admin = Admin::new(readiness.clone(), move || metrics.render());
    let page = config.page_token.as_ref().map(Page::new).transpose()?.map(Arc::new);
    if let Some(page) = page.clone() {
        admin = admin.with_page(page::PATH, move |request| Arc::clone(&page).answer(request));
    }
    Ok((admin::serve(config.admin, admin, told.clone())?, page))
}

/// What the operator page looks at.
fn rooms(
    means: &Means,
    database: PgPool,
    jetstream: &async_nats::jetstream::Context,
    readiness: &Readiness,
) -> Rooms {
    Rooms {
        env: means.sync.env.clone(),
        database,
        letters: means.dead_letters.clone(),
        jetstream: jetstream.clone(),
        breaker: means.breaker.clone(),
        unwell: means.sync.workos.unwell(),
        readiness: readiness.clone(),
    }
}

/// What goes on beside the consumer: who is unwell is told, dead letters are counted, what waits is watched, exhausted
/// events seen to.
fn look_after(
    means: &Means,
    jetstream: &async_nats::jetstream::Context,
    readiness: &Readiness,
    stop: &CancellationToken,
) {
    let Means { sync, metrics, dead_letters, breaker, .. } = means.clone();
    tokio::spawn(tell_of_workos(sync.workos.unwell(), metrics.clone(), readiness.clone(), stop.clone()));
    tokio::spawn(tell_of_the_breaker(breaker.watch(), metrics.clone(), readiness.clone(), stop.clone()));
    tokio::spawn(dead_letters.clone().keep_counting(metrics.clone(), stop.clone()));
    tokio::spawn(standing::keep_watching(
        sync.database.clone(),
        jetstream.clone(),
        sync.env.clone(),
        metrics.clone(),
        stop.clone(),
    ));
    tokio::spawn(dead_letter::watch_exhausted(dead_letters, sync.database, breaker, metrics, stop.clone()));
}

/// From the first signal on we are not ready, though what is in hand is finished.
async fn tell_of_leaving(readiness: Readiness, stop: CancellationToken) {
    stop.cancelled().await;
    readiness.unready("shutdown", "leaving");
}

/// Shows whether WorkOS may be asked, in readiness and metrics.
async fn tell_of_workos(
    mut unwell: watch::Receiver<Option<Failure>>,
    metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let telling = async {
        while unwell.changed().await.is_ok() {
            let failure = unwell.borrow_and_update().clone();
            metrics.workos_unwell(failure.as_ref().map(Failure::class));
            match failure {
                Some(failure) => readiness.unready("workos", failure.to_string()),
                None => readiness.ready("workos"),
            }
        }
    };
    stop.run_until_cancelled(telling).await;
}

/// Shows whether the breaker is open, in readiness and metrics.
async fn tell_of_the_breaker(
    mut open: watch::Receiver<bool>,
    metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let telling = async {
        while open.changed().await.is_ok() {
            let open = *open.borrow_and_update();
            metrics.breaker(open);
            if open {
                readiness
                    .unready("breaker", "open: most events fail, so nothing is buried and little is pulled");
            } else {
                readiness.ready("breaker");
            }
        }
    };
    stop.run_until_cancelled(telling).await;
}

/// Waits for Postgres, applies migrations when told to, and says which are missing.
async fn missing_migrations(pool: &PgPool, auto_migrate: bool) -> anyhow::Result<Vec<String>> {
    let mut attempt = 0;
    while !database::answers(pool).await {
        attempt += 1;
        if attempt == 1 {
            tracing::warn!("Postgres does not answer at DATABASE_URL, waiting for it");
        }
        tokio::time::sleep(backoff::dependency(attempt)).await;
    }
    if auto_migrate {
        let applied = database::migrate(pool).await?;
        tracing::info!(applied, "migrations are up to date");
    }
    let mut connection = pool.acquire().await.context("failed to connect to Postgres")?;
    database::missing_migrations(&mut connection).await
}
