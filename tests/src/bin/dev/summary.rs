//! What happened, and whether the mirror equals WorkOS.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::json;
use sqlx::PgPool;
use support::world::mirror;

use crate::print;

/// How the mirror compares with WorkOS.
pub(crate) enum Verdict {
    /// It is equal.
    InStep,
    /// What is different.
    Differs(Vec<String>),
    /// Why that is not known.
    Unknown(String),
}

/// The end of a session.
pub(crate) struct Summary {
    changes: i64,
    outcomes: BTreeMap<String, i64>,
    p50: Option<f64>,
    p99: Option<f64>,
    verdict: Verdict,
}

impl Summary {
    /// Reads the audit log and the ledger. Latencies are those of the changes after `since`: before it, a whole
    /// company moved in at once, or everything was listed.
    pub(crate) async fn read(pool: &PgPool, env: &str, since: i64, verdict: Verdict) -> anyhow::Result<Self> {
        let changes = sqlx::query_scalar("SELECT count(*) FROM workos_sync.audit_log WHERE env = $1")
            .bind(env)
            .fetch_one(pool)
            .await
            .context("failed to read the audit log")?;
        let outcomes: Vec<(String, i64)> = sqlx::query_as(
            "SELECT coalesce(outcome, 'open'), count(*) FROM workos_sync.events WHERE env = $1 GROUP BY 1",
        )
        .bind(env)
        .fetch_all(pool)
        .await
        .context("failed to read the ledger")?;
        let (p50, p99) = sqlx::query_as(
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms),
                    percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)
               FROM (SELECT (extract(epoch FROM pg_xact_commit_timestamp(a.xmin) - e.webhook_at) * 1000)::float8 AS ms
                       FROM workos_sync.audit_log a
                       JOIN workos_sync.events e ON e.env = a.env AND e.id = a.event_id
                      WHERE a.env = $1 AND a.id > $2 AND e.first_channel = 'webhook') AS latencies",
        )
        .bind(env)
        .bind(since)
        .fetch_one(pool)
        .await
        .context("failed to read the ledger")?;
        Ok(Self { changes, outcomes: outcomes.into_iter().collect(), p50, p99, verdict })
    }

    /// Whether the mirror equals WorkOS.
    pub(crate) fn in_step(&self) -> bool {
        matches!(self.verdict, Verdict::InStep)
    }

    /// Prints it.
    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            let (differences, problem) = match &self.verdict {
                Verdict::InStep => (&[][..], None),
                Verdict::Differs(differences) => (differences.as_slice(), None),
                Verdict::Unknown(why) => (&[][..], Some(why)),
            };
            print::line(json!({
                "changes": self.changes,
                "events": self.outcomes,
                "webhook_to_row_ms": {"p50": self.p50, "p99": self.p99},
                "in_step": self.in_step(),
                "differences": differences,
                "problem": problem,
            }));
            return;
        }
        let events: i64 = self.outcomes.values().sum();
        let outcomes: Vec<String> =
            self.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let latency = match (self.p50, self.p99) {
            (Some(p50), Some(p99)) => format!("median {p50:.1} ms, 99 % below {p99:.1} ms"),
            _ => "no change came by webhook".to_owned(),
        };
        let verdict = match &self.verdict {
            Verdict::InStep => "in step: the mirror equals WorkOS".to_owned(),
            Verdict::Differs(differences) => format!("NOT in step: {}", mirror::listing(differences)),
            Verdict::Unknown(why) => format!("not known to be in step: {why}"),
        };
        print::line(format_args!(
            "\n  changes        {}\n  events         {events} ({})\n  webhook → row  {latency}\n  verdict        {verdict}",
            self.changes,
            outcomes.join(", "),
        ));
    }
}
