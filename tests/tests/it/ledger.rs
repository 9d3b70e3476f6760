//! What the bookkeeping says, for stories.

use serde_json::Value;
use support::world::World;

/// The outcome of an event; `None` while it has none.
pub(crate) async fn outcome(world: &World, event_id: &str) -> Option<String> {
    sqlx::query_scalar::<_, Option<String>>("SELECT outcome FROM workos_sync.events WHERE id = $1")
        .bind(event_id)
        .fetch_optional(world.pool())
        .await
        .expect("the ledger")
        .flatten()
}

/// Why an event ended so, or is being retried.
pub(crate) async fn reason(world: &World, event_id: &str) -> Option<String> {
    sqlx::query_scalar::<_, Option<String>>("SELECT reason FROM workos_sync.events WHERE id = $1")
        .bind(event_id)
        .fetch_optional(world.pool())
        .await
        .expect("the ledger")
        .flatten()
}

/// A line of the audit log.
#[derive(sqlx::FromRow)]
pub(crate) struct Audit {
    pub(crate) action: String,
    pub(crate) changes: Value,
    pub(crate) event_id: Option<String>,
    pub(crate) channel: String,
    pub(crate) cause: Option<String>,
}

/// What happened to an object, in order.
pub(crate) async fn audits(world: &World, id: &str) -> Vec<Audit> {
    sqlx::query_as(
        "SELECT action, changes, event_id, channel, cause FROM workos_sync.audit_log WHERE object_id = $1 ORDER BY id",
    )
    .bind(id)
    .fetch_all(world.pool())
    .await
    .expect("the audit log")
}

/// Outcomes of all events, counted; `retrying` for those without.
pub(crate) async fn outcomes(world: &World) -> Vec<(String, i64)> {
    sqlx::query_as(
        "SELECT coalesce(outcome, 'retrying'), count(*) FROM workos_sync.events GROUP BY 1 ORDER BY 1",
    )
    .fetch_all(world.pool())
    .await
    .expect("the ledger")
}

/// Attempts that an event used up; 0 when it is not known yet.
pub(crate) async fn attempts(world: &World, event_id: &str) -> i32 {
    sqlx::query_scalar("SELECT attempts FROM workos_sync.events WHERE id = $1")
        .bind(event_id)
        .fetch_optional(world.pool())
        .await
        .expect("the ledger")
        .unwrap_or(0)
}
