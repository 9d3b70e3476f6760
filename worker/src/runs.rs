//! What is done by command or on schedule: `workos_sync.runs`. Where it stands, so that it can be resumed; and that
//! only one copy does it at a time.

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared::clock;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

/// A run in the books.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    id: i64,
}

/// A run that was interrupted.
pub struct Interrupted {
    /// It.
    pub run: Run,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// Where it stood.
    pub checkpoint: Value,
    /// What it had done.
    pub counts: Value,
}

/// Finds a run with these arguments that was interrupted, and moved after `since`.
pub async fn interrupted(
    pool: &PgPool,
    env: &str,
    command: &str,
    arguments: &Value,
    since: DateTime<Utc>,
) -> sqlx::Result<Option<Interrupted>> {
    let found = sqlx::query!(
        r#"
        SELECT id, started_at, checkpoint, counts
        FROM workos_sync.runs
        WHERE env = $1 AND command = $2 AND arguments = $3 AND finished_at IS NULL AND moved_at > $4
        ORDER BY started_at DESC
        LIMIT 1
        "#,
        env,
        command,
        arguments,
        since,
    )
    .fetch_optional(pool)
    .await?;
    Ok(found.map(|run| Interrupted {
        run: Run { id: run.id },
        started_at: run.started_at,
        checkpoint: run.checkpoint,
        counts: run.counts,
    }))
}

/// Begins a run. Those of this command that were interrupted will not be resumed any more.
pub async fn begin(
    pool: &PgPool,
    env: &str,
    command: &str,
    actor: &str,
    arguments: &Value,
) -> sqlx::Result<Run> {
    let id = sqlx::query_scalar!(
        r#"
        WITH given_up AS (
            UPDATE workos_sync.runs
            SET finished_at = $5, result = 'failed'
            WHERE env = $1 AND command = $2 AND finished_at IS NULL
        )
        INSERT INTO workos_sync.runs (env, command, actor, arguments, started_at, moved_at)
        VALUES ($1, $2, $3, $4, $5, $5)
        RETURNING id
        "#,
        env,
        command,
        actor,
        arguments,
        clock::now(),
    )
    .fetch_one(pool)
    .await?;
    Ok(Run { id })
}

impl Run {
    /// Notes where it stands.
    pub async fn moved(
        self,
        pool: &PgPool,
        checkpoint: &impl serde::Serialize,
        counts: &impl serde::Serialize,
    ) -> sqlx::Result<()> {
        sqlx::query!(
            "UPDATE workos_sync.runs SET checkpoint = $2, counts = $3, moved_at = $4 WHERE id = $1",
            self.id,
            Json(checkpoint) as _,
            Json(counts) as _,
            clock::now(),
        )
        .execute(pool)
        .await?;
        Ok(())
    }

    /// Notes how it ended.
    pub async fn finished(
        self,
        pool: &PgPool,
        result: &str,
        counts: &impl serde::Serialize,
    ) -> sqlx::Result<()> {
        sqlx::query!(
            r#"
            UPDATE workos_sync.runs
            SET result = $2, counts = $3, moved_at = $4, finished_at = $4
            WHERE id = $1
            "#,
            self.id,
            result,
            Json(counts) as _,
            clock::now(),
        )
        .execute(pool)
        .await?;
        Ok(())
    }
}

/// When the last run of a command began that this actor made.
pub async fn last_started(
    pool: &PgPool,
    env: &str,
    command: &str,
    actor: &str,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        "SELECT max(started_at) FROM workos_sync.runs WHERE env = $1 AND command = $2 AND actor = $3",
        env,
        command,
        actor,
    )
    .fetch_one(pool)
    .await
}

/// How many live objects of a kind the guard knows.
pub async fn live_count(pool: &PgPool, env: &str, kind: &str) -> sqlx::Result<u64> {
    let count = sqlx::query_scalar!(
        r#"
        SELECT count(*) AS "count!"
        FROM workos_sync.objects
        WHERE env = $1 AND kind = $2 AND has_row AND deleted_at IS NULL
        "#,
        env,
        kind,
    )
    .fetch_one(pool)
    .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Who runs a command: user and host.
#[must_use]
pub fn actor() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    format!("{user}@{}", host.trim())
}

/// Held by the one copy that does something. It ends with its connection, so with its process.
pub struct Lock {
    _connection: PgConnection,
}

/// Takes a lock of an environment; `None` when another copy has it.
pub async fn lock(pool: &PgPool, env: &str, what: &str) -> sqlx::Result<Option<Lock>> {
    let mut connection = pool.acquire().await?.detach();
    let taken = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS "taken!""#,
        format!("workos_sync {what} {env}"),
    )
    .fetch_one(&mut connection)
    .await?;
    Ok(taken.then_some(Lock { _connection: connection }))
}
