//! The commands, one file each.

mod dlq;
mod healthcheck;
mod migrate;
mod run;

pub use dlq::{Dlq, dlq};
pub use healthcheck::healthcheck;
pub use migrate::migrate;
pub use run::run;

use sqlx::PgPool;

use crate::config::AskConfig;
use crate::metrics::Metrics;
use crate::sync::Sync;
use crate::workos::{Lane, WorkOs};

/// The verb, as these settings have it, on behalf of `lane`.
fn sync(config: &AskConfig, database: PgPool, metrics: &Metrics, lane: Lane) -> anyhow::Result<Sync> {
    let workos = WorkOs::new(
        &config.api_base,
        &config.api_key,
        config.fetch_concurrency,
        config.rate,
        metrics.clone(),
    )?;
    Ok(Sync { env: config.env.clone(), database, workos, keep_personal: config.keep_personal, lane })
}
