//! The ids that lists have shown: in a temporary table of one connection, so that our memory does not grow with them.

use shared::id::Kind;
use sqlx::{PgConnection, PgPool};
use tokio::sync::Mutex;

use crate::listing::Interruption;
use crate::sync::within_time;

/// How many are handed out at a time.
const AT_ONCE: i64 = 500;

// What is asked of the temporary table cannot be checked against a migrated database: it is not there.
const CREATE: &str = "CREATE TEMPORARY TABLE seen (kind text, id text, PRIMARY KEY (kind, id))";
const ADD: &str =
    "INSERT INTO pg_temp.seen SELECT $1, id FROM unnest($2::text[]) AS shown (id) ON CONFLICT DO NOTHING";
const ABSENT: &str = "SELECT id FROM unnest($2::text[]) AS asked (id)
     WHERE NOT EXISTS (SELECT FROM pg_temp.seen WHERE seen.kind = $1 AND seen.id = asked.id)";
const AFTER: &str = "SELECT id FROM pg_temp.seen WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3";

/// Ids that were shown.
pub(super) struct Seen(Mutex<PgConnection>);

impl Seen {
    /// None yet.
    pub(super) async fn new(pool: &PgPool) -> Result<Self, Interruption> {
        let connection = within_time(async {
            let mut connection = pool.acquire().await?.detach();
            sqlx::query(CREATE).execute(&mut connection).await?;
            Ok(connection)
        })
        .await?;
        Ok(Self(Mutex::new(connection)))
    }

    /// These were shown.
    pub(super) async fn add(&self, kind: Kind, ids: &[&str]) -> Result<(), Interruption> {
        let mut connection = self.0.lock().await;
        within_time(sqlx::query(ADD).bind(kind.name()).bind(ids).execute(&mut *connection)).await?;
        Ok(())
    }

    /// Those of `ids` that were not.
    pub(super) async fn absent(&self, kind: Kind, ids: &[String]) -> Result<Vec<String>, Interruption> {
        let mut connection = self.0.lock().await;
        let absent = sqlx::query_scalar(ABSENT).bind(kind.name()).bind(ids).fetch_all(&mut *connection);
        Ok(within_time(absent).await?)
    }

    /// The next ones of a kind, in order.
    pub(super) async fn after(&self, kind: Kind, after: &str) -> Result<Vec<String>, Interruption> {
        let mut connection = self.0.lock().await;
        let next =
            sqlx::query_scalar(AFTER).bind(kind.name()).bind(after).bind(AT_ONCE).fetch_all(&mut *connection);
        Ok(within_time(next).await?)
    }
}
