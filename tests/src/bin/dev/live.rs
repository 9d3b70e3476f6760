//! A line per change of the mirror, as it happens.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Local, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::print;

/// How often the audit log is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Transactions may commit in another order than their numbers; so far back we look again.
const OVERLAP: i64 = 500;

/// One row of the audit log, with what the ledger knows of its event.
#[derive(sqlx::FromRow)]
struct Change {
    id: i64,
    at: DateTime<Utc>,
    kind: String,
    object_id: String,
    action: String,
    columns: Vec<String>,
    channel: String,
    cause: Option<String>,
    latency_ms: Option<f64>,
}

/// Watches the audit log from its current end on.
pub(crate) struct Live {
    pool: PgPool,
    env: String,
    json: bool,
    since: i64,
    last: i64,
    seen: BTreeSet<i64>,
    order: VecDeque<i64>,
}

impl Live {
    pub(crate) async fn new(pool: &PgPool, env: &str, json: bool) -> anyhow::Result<Self> {
        let last = sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM workos_sync.audit_log")
            .fetch_one(pool)
            .await
            .context("failed to read the audit log")?;
        let (seen, order) = (BTreeSet::new(), VecDeque::new());
        let mut live = Self { pool: pool.clone(), env: env.to_owned(), json, since: last, last, seen, order };
        for change in live.changes().await? {
            live.remember(change.id);
        }
        Ok(live)
    }

    /// The last change that there was before it watched.
    pub(crate) fn since(&self) -> i64 {
        self.since
    }

    /// Prints changes until it is dropped; ends only when the database does not answer.
    pub(crate) async fn watch(&mut self) -> anyhow::Result<()> {
        loop {
            self.catch_up().await?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Prints what was not printed yet.
    pub(crate) async fn catch_up(&mut self) -> anyhow::Result<()> {
        for change in self.changes().await? {
            if self.remember(change.id) {
                print::line(if self.json { change.as_json().to_string() } else { change.as_text() });
            }
        }
        Ok(())
    }

    async fn changes(&self) -> anyhow::Result<Vec<Change>> {
        sqlx::query_as(
            "SELECT a.id, a.at, a.kind, a.object_id, a.action, a.channel, a.cause,
                    ARRAY(SELECT jsonb_object_keys(a.changes)) AS columns,
                    (extract(epoch FROM pg_xact_commit_timestamp(a.xmin) - e.webhook_at) * 1000)::float8 AS latency_ms
               FROM workos_sync.audit_log a
               LEFT JOIN workos_sync.events e ON e.env = a.env AND e.id = a.event_id
              WHERE a.env = $1 AND a.id > $2
              ORDER BY a.id",
        )
        .bind(&self.env)
        .bind(self.last - OVERLAP)
        .fetch_all(&self.pool)
        .await
        .context("failed to read the audit log")
    }

    /// Whether this is the first time.
    fn remember(&mut self, id: i64) -> bool {
        self.last = self.last.max(id);
        let new = self.seen.insert(id);
        if new {
            self.order.push_back(id);
        }
        // Twice the overlap, so that nothing is forgotten while it can still be seen.
        while self.order.len() > 2 * usize::try_from(OVERLAP).unwrap_or(usize::MAX) {
            if let Some(old) = self.order.pop_front() {
                self.seen.remove(&old);
            }
        }
        new
    }
}

impl Change {
    /// Columns that say something: `updated_at` changes with every other one.
    fn telling(&self) -> Vec<&str> {
        let all = self.columns.iter().map(String::as_str);
        let telling: Vec<&str> = all.clone().filter(|column| *column != "updated_at").collect();
        if telling.is_empty() { all.collect() } else { telling }
    }

    fn as_text(&self) -> String {
        let what = match (self.action.as_str(), &self.cause) {
            ("updated", _) => format!("updated: {}", self.telling().join(", ")),
            (action, Some(cause)) => format!("{action}, with {cause}"),
            (action, None) => action.to_owned(),
        };
        let how = match self.latency_ms {
            Some(latency) => format!("webhook → row {latency:.1} ms"),
            None => format!("by {}", self.channel),
        };
        let at = self.at.with_timezone(&Local).format("%H:%M:%S%.3f");
        format!("{at}  {:<24}{:<42}{what:<34}{how}", self.kind, self.object_id)
    }

    fn as_json(&self) -> Value {
        json!({
            "at": self.at,
            "kind": self.kind,
            "id": self.object_id,
            "action": self.action,
            "columns": self.columns,
            "channel": self.channel,
            "webhook_to_row_ms": self.latency_ms,
        })
    }
}
