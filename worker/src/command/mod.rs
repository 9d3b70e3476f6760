//! The commands, one file each.

mod backfill;
mod dlq;
mod explain;
mod healthcheck;
mod migrate;
mod run;
mod status;
mod sync_one;
mod verify;

use std::time::Duration;

pub use backfill::{BackfillArguments, backfill};
pub use dlq::{Dlq, dlq};
pub use explain::{ExplainArguments, explain};
pub use healthcheck::healthcheck;
pub use migrate::migrate;
pub use run::run;
pub use status::{StatusArguments, status};
pub use sync_one::{SyncArguments, sync_one};
pub use verify::{Format, VerifyArguments, verify};

use shared::exit::Exit;
use shared::id::Kind;

use sqlx::PgPool;

use crate::config::{AskConfig, CommandConfig};
use crate::listing::Interruption;
use crate::metrics::Metrics;
use crate::sync::{Purpose, Sync};
use crate::workos::{Budget, Lane, Sharing, WorkOs};
use crate::{database, object};

/// The verb, as these settings have it, on behalf of `lane`.
fn sync(config: &AskConfig, database: PgPool, metrics: &Metrics, lane: Lane) -> anyhow::Result<Sync> {
    let sharing = config.rate_share.then(|| Sharing { env: config.env.clone(), database: database.clone() });
    let workos = WorkOs::new(
        &config.api_base,
        &config.api_key,
        config.fetch_concurrency,
        Budget::new(config.rate, sharing),
        metrics.clone(),
    )?;
    Ok(Sync {
        env: config.env.clone(),
        database,
        workos,
        keep_personal: config.keep_personal,
        lane,
        purpose: Purpose::Events,
    })
}

/// Connections of a command that walks lists: so many pages are written at a time.
const CONNECTIONS: u32 = 12;

/// How long an outage of WorkOS or Postgres is waited out, once a command is at work.
const OUTAGE: Duration = Duration::from_mins(1);

/// A kind by its name or its table, for arguments.
fn kind(name: &str) -> Result<Kind, String> {
    object::named(name).ok_or_else(|| {
        let known: Vec<String> =
            Kind::ALL.into_iter().map(|kind| format!("{kind} ({})", object::table(kind))).collect();
        format!("there is no such kind; known are {}", known.join(", "))
    })
}

/// These kinds, with those that share a table with them; or all.
fn kinds(only: &[Kind]) -> Vec<Kind> {
    let is_meant = |kind: &Kind| only.iter().any(|meant| object::table(*meant) == object::table(*kind));
    Kind::ALL.into_iter().filter(|kind| only.is_empty() || is_meant(kind)).collect()
}

/// What an operator calls the rows of a kind: their table, and the kind where that is not the table's first.
fn rows_of(kind: Kind) -> String {
    let table = object::table(kind);
    if object::named(table) == Some(kind) { table.to_owned() } else { format!("{table} ({kind})") }
}

/// A pool of a database that answers and has its tables; else what to do, said, and how the command ends.
async fn ready_database(config: &CommandConfig, connections: u32) -> anyhow::Result<Result<PgPool, Exit>> {
    let pool = database::pool(&config.database.url, connections)?;
    if !database::answers(&pool).await {
        eprintln!("Postgres does not answer at DATABASE_URL; start it or correct the address");
        return Ok(Err(Exit::Unavailable));
    }
    let missing = database::missing_migrations(&mut *pool.acquire().await?).await?;
    if missing.is_empty() {
        return Ok(Ok(pool));
    }
    eprintln!(
        "the database lacks {} migration(s): {}\nrun `worker migrate`",
        missing.len(),
        missing.join(", ")
    );
    Ok(Err(Exit::Usage))
}

/// How a command ends that did not come to its end.
const fn exit_after(interruption: &Interruption) -> Exit {
    match interruption {
        Interruption::Stopped => Exit::No,
        Interruption::OtherEnvironment(_) => Exit::Usage,
        Interruption::KeyRefused
        | Interruption::Away(_)
        | Interruption::Unreadable(..)
        | Interruption::Database
        | Interruption::Refused(_)
        | Interruption::Busy => Exit::Unavailable,
    }
}
