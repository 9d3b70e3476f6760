//! The commands, one function each.

use anyhow::Context as _;
use shared::admin::{self, Admin, Readiness};
use shared::config::Settings;
use shared::exit::Exit;
use shared::{broker, shutdown, telemetry};

use crate::config::{Config, DatabaseConfig};
use crate::metrics::Metrics;
use crate::sync::Sync;
use crate::workos::WorkOs;
use crate::{backoff, consumer, database};

/// `worker run`: consume until told to leave.
pub async fn run(config: Config) -> anyhow::Result<Exit> {
    telemetry::init(&config.database.telemetry);
    let stop = shutdown::on_signal().context("failed to listen for signals")?;
    let metrics = Metrics::new();
    let readiness = Readiness::default();
    readiness.unready("database", "not asked yet");
    readiness.unready("stream", "not subscribed yet");
    let rendered = metrics.clone();
    let admin =
        admin::serve(config.admin, Admin::new(readiness.clone(), move || rendered.render()), stop.clone())?;
    tracing::info!(admin = %admin, env = config.env, "worker started");

    let connections = u32::try_from(consumer::in_flight(&config)).unwrap_or(u32::MAX).saturating_add(2);
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
    let workos = WorkOs::new(
        &config.api_base,
        &config.api_key,
        config.fetch_concurrency,
        config.rate,
        metrics.clone(),
    )?;
    let sync =
        Sync { env: config.env.clone(), database: pool.clone(), workos, keep_personal: config.keep_personal };
    consumer::run(&config, jetstream, sync, metrics, readiness, stop).await;
    // What was acknowledged must leave before the connection does.
    if let Err(error) = client.flush().await {
        tracing::debug!(error = %error, "failed to flush the last acknowledgements");
    }
    pool.close().await;
    tracing::info!("worker ended");
    Ok(Exit::Success)
}

/// Waits for Postgres, applies migrations when told to, and says which are missing.
async fn missing_migrations(pool: &sqlx::PgPool, auto_migrate: bool) -> anyhow::Result<Vec<String>> {
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

/// `worker migrate`: apply migrations and exit.
pub async fn migrate(config: DatabaseConfig) -> anyhow::Result<Exit> {
    telemetry::init(&config.telemetry);
    let pool = database::pool(&config.url, 1)?;
    if !database::answers(&pool).await {
        eprintln!(
            "Postgres does not answer at DATABASE_URL; start it or correct the address, then run `worker migrate` again"
        );
        return Ok(Exit::Unavailable);
    }
    let applied = database::migrate(&pool).await?;
    println!("{applied} migration(s) applied, the database is up to date");
    Ok(Exit::Success)
}

/// `worker healthcheck`: whether the copy on `WORKER_ADMIN_ADDR` is ready.
pub async fn healthcheck(mut settings: Settings) -> anyhow::Result<Exit> {
    let address = settings.address("WORKER_ADMIN_ADDR", "127.0.0.1:9102");
    settings.finish()?;
    let Ok(address) = address else { return Ok(Exit::Usage) };
    Ok(match admin::is_ready(address).await {
        Ok(true) => Exit::Success,
        Ok(false) => Exit::No,
        Err(error) => {
            eprintln!("{error:#}");
            Exit::Unavailable
        }
    })
}
