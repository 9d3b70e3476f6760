//! Postgres: the pool, the migrations, and what its errors ask of us.

use std::time::Duration;

use anyhow::{Context as _, bail};
use shared::config::Secret;
use shared::id::Kind;
use sqlx::error::DatabaseError;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::object;

/// Where the migrator keeps its own record.
const MIGRATIONS_TABLE: &str = "workos_sync._sqlx_migrations";

/// Longest time a batch may take to look up, or to write, before Postgres counts as unavailable.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Every statement of the worker finds its rows by key, a few hundred at a time, whatever the statistics say.
/// Planning such a statement takes longer than running it, so a plan is made once; and one that was made while
/// the tables were empty must not read them from end to end when they are large: of all ways to join, only the
/// one that looks up row by row is left. (What cannot go by an index still runs.)
const SESSION: &str = "SET plan_cache_mode = force_generic_plan; SET jit = off; SET enable_seqscan = off; \
                       SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off";

/// A column of many rows as a statement takes it. One in which nothing stands is handed over empty: `unnest` fills up with
/// nulls, and does so for nothing. Only beside a column that is always full: of nothing but empty arrays `unnest` makes no row.
#[must_use]
pub fn sparse<T>(column: Vec<Option<T>>) -> Vec<Option<T>> {
    if column.iter().all(Option::is_none) { Vec::new() } else { column }
}

/// What an error of Postgres asks of us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody is there, or not for us now: the world, not the event.
    #[error("Postgres is not available")]
    Unavailable,
    /// Two transactions were in each other's way: again, at once.
    #[error("two transactions were in each other's way")]
    Conflict,
    /// A row was refused: SQLSTATE and constraint, never a value.
    #[error("Postgres refused a row: {0}")]
    Refused(String),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        let sqlx::Error::Database(error) = error else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::BeginFailed => Self::Unavailable,
                // Its text may quote a value, so only the kind of error is told.
                other => Self::Refused(format!("{:?}", std::mem::discriminant(&other))),
            };
        };
        let code = error.code().unwrap_or_default();
        match code.as_ref() {
            // Serialization failure, deadlock, and a plan that a migration made obsolete.
            "40001" | "40P01" | "0A000" => Self::Conflict,
            // Read-only (a standby took our connection), lock not available.
            "25006" | "55P03" => Self::Unavailable,
            // Connection, resources, operator intervention, system error.
            code if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Self::Unavailable,
            code if refuses_us(code, &*error) => {
                tracing::warn!(sqlstate = code, "Postgres does not let us do our work");
                Self::Unavailable
            }
            code => {
                let place = error.constraint().or_else(|| error.table()).unwrap_or_default();
                Self::Refused(format!("{code} {place}").trim_end().to_owned())
            }
        }
    }
}

/// Whether we are refused, rather than a row: the password, the role or its rights, the database, the schema.
fn refuses_us(code: &str, error: &dyn DatabaseError) -> bool {
    match (code.get(..2), code) {
        (Some("0P" | "28" | "3D" | "3F"), _) => true,
        // A table is missing, or we may not use it. (A column that is missing is for the breaker.) Within a function of
        // the application (a trigger) it is that function's doing, and so is a policy of row-level security about a row.
        (_, "42501" | "42P01") => error
            .try_downcast_ref::<PgDatabaseError>()
            .is_none_or(|error| error.r#where().is_none() && error.routine() != Some("ExecWithCheckOptions")),
        _ => false,
    }
}

impl Trouble {
    /// The same where no row is involved, so that whatever was refused, no event is to blame.
    #[must_use]
    pub fn without_a_row(self) -> Self {
        match self {
            Self::Refused(detail) => {
                tracing::warn!(refusal = detail, "Postgres refused a question about what is known");
                Self::Unavailable
            }
            trouble => trouble,
        }
    }
}

/// Whether a URL is one of Postgres.
#[must_use]
pub fn is_address(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    matches!(scheme, Some("postgres" | "postgresql")) && url.parse::<PgConnectOptions>().is_ok()
}

fn options(url: &Secret) -> anyhow::Result<PgConnectOptions> {
    let options: PgConnectOptions = url
        .reveal()
        .parse()
        .ok()
        .context("DATABASE_URL is malformed, wants postgres://user@host/database")?;
    Ok(options.application_name("workos-sync"))
}

/// A connection outside the pool, for what dies with it.
pub async fn connect(url: &Secret) -> anyhow::Result<PgConnection> {
    let mut connection =
        PgConnection::connect_with(&options(url)?).await.context("failed to connect to Postgres")?;
    sqlx::raw_sql(SESSION).execute(&mut connection).await.context("failed to set up the connection")?;
    Ok(connection)
}

/// A pool of connections that are made when first needed.
pub fn pool(url: &Secret, connections: u32) -> anyhow::Result<PgPool> {
    let options = options(url)?;
    Ok(PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(SESSION).execute(connection).await?;
                Ok(())
            })
        })
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(5))
        // A broken connection shows itself at the first statement; asking first would cost each batch
        // a round trip.
        .test_before_acquire(false)
        .connect_lazy_with(options))
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../migrations");
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator.create_schema("workos_sync");
    migrator
}

/// Applies what is missing; says how many that were.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<usize> {
    let mut connection = pool.acquire().await.context("failed to connect to Postgres")?;
    refuse_a_foreign_schema(&mut connection).await?;
    let missing = missing_migrations(&mut connection).await?.len();
    migrator().run(&mut *connection).await.context("failed to apply the migrations")?;
    Ok(missing)
}

/// The migrations that were not applied yet, by version and description.
pub async fn missing_migrations(connection: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    let recorded: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(MIGRATIONS_TABLE)
        .fetch_one(&mut *connection)
        .await
        .context("failed to look for applied migrations")?;
    let applied: Vec<i64> = if recorded {
        sqlx::query_scalar("SELECT version FROM workos_sync._sqlx_migrations WHERE success")
            .fetch_all(&mut *connection)
            .await
            .context("failed to read applied migrations")?
    } else {
        Vec::new()
    };
    Ok(migrator()
        .iter()
        .filter(|migration| !applied.contains(&migration.version))
        .map(|migration| format!("{} {}", migration.version, migration.description))
        .collect())
}

/// Tables in `workos` that were there before our first migration belong to somebody else.
async fn refuse_a_foreign_schema(connection: &mut PgConnection) -> anyhow::Result<()> {
    let ours: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(MIGRATIONS_TABLE)
        .fetch_one(&mut *connection)
        .await
        .context("failed to look for applied migrations")?;
    if ours {
        return Ok(());
    }
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT tablename::text FROM pg_catalog.pg_tables WHERE schemaname = 'workos' ORDER BY tablename",
    )
    .fetch_all(connection)
    .await
    .context("failed to look into the schema workos")?;
    if tables.is_empty() {
        return Ok(());
    }
    bail!(
        "the schema workos already holds tables that workos-sync did not make ({}); \
         move them to another schema, or use another database",
        tables.join(", ")
    )
}

/// Whether Postgres answers a question.
pub async fn answers(pool: &PgPool) -> bool {
    let asked = sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(pool);
    matches!(tokio::time::timeout(Duration::from_secs(5), asked).await, Ok(Ok(1)))
}

/// Why Postgres is of no use to us, if so: nobody is there, or we are not let in, or not to our tables.
pub async fn complaint(pool: &PgPool) -> Option<String> {
    let mut tables: Vec<&str> = Kind::ALL.into_iter().map(object::table).collect();
    tables.dedup();
    let mut tables: Vec<String> = tables.into_iter().map(|table| format!("workos.{table}")).collect();
    tables.extend(["workos_sync.objects", "workos_sync.events"].map(str::to_owned));
    let asked = sqlx::query_scalar::<_, Option<String>>(
        "SELECT min(name)
         FROM unnest($1::text[]) AS ours (name)
         WHERE NOT (has_any_column_privilege(name, 'SELECT')
                    AND has_any_column_privilege(name, 'INSERT')
                    AND has_any_column_privilege(name, 'UPDATE'))",
    )
    .bind(tables)
    .fetch_one(pool);
    match tokio::time::timeout(Duration::from_secs(5), asked).await {
        Ok(Ok(None)) => None,
        Ok(Ok(Some(table))) => Some(format!("may not read and write {table}")),
        Ok(Err(sqlx::Error::Database(error))) => {
            Some(format!("Postgres refuses us, SQLSTATE {}", error.code().unwrap_or_default()))
        }
        Ok(Err(_)) | Err(_) => Some("not available".to_owned()),
    }
}
