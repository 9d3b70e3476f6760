//! Verify by itself, in `worker run`: every so often, one copy at a time, and when somebody asks for it.

use std::sync::Arc;
use std::time::Duration;

use shared::clock;
use shared::id::Kind;
use sqlx::PgPool;
use tokio::sync::Notify;

use super::{COMMAND, Report, Verify, run};
use crate::listing::{Interruption, Patience};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::runs;
use crate::sync::{Sync, within_time};

/// Who runs it, in the books.
const ACTOR: &str = "schedule";
/// Before a verify that could not be made is tried again.
const AGAIN: Duration = Duration::from_mins(1);

/// When to verify.
pub struct Schedule {
    /// `SYNC_VERIFY_INTERVAL`; `None` is off.
    pub interval: Option<Duration>,
    /// Notified when one is wanted now, whatever the interval.
    pub wanted: Arc<Notify>,
    /// How many lists at a time.
    pub parallel: usize,
}

/// Verifies and repairs on schedule until it is time to leave. `pool` is its own: a comparison must not keep
/// events waiting for a connection.
pub async fn scheduled(schedule: Schedule, sync: Sync, pool: PgPool, metrics: Metrics, patience: Patience) {
    let sync = Sync { database: pool, ..sync };
    let mut verify = Verify {
        sync,
        patience: patience.clone(),
        parallel: schedule.parallel,
        only: Kind::ALL.to_vec(),
        repair: true,
        even_if_all_is_gone: false,
        actor: ACTOR.to_owned(),
        progress: Progress::lines(),
    };
    let began = clock::now();
    loop {
        let wanted = tokio::select! {
            () = until_due(&schedule, &verify.sync, began) => false,
            () = schedule.wanted.notified() => true,
            () = patience.stop.cancelled() => return,
        };
        tracing::info!(wanted, "verifying");
        match run(&verify).await {
            Ok(report) => tell(&report, &metrics),
            Err(Interruption::Stopped) => return,
            // Another copy does it. When it is done, its beginning counts for us too.
            Err(Interruption::Busy) => {
                if patience.pause(AGAIN.min(schedule.interval.unwrap_or(AGAIN))).await.is_err() {
                    return;
                }
            }
            Err(interruption) => {
                tracing::warn!(reason = %interruption, "could not verify, will try again");
                if patience.pause(AGAIN).await.is_err() {
                    return;
                }
            }
        }
        verify.progress = Progress::lines();
    }
}

/// Waits until the last scheduled verify of any copy is an interval ago.
async fn until_due(schedule: &Schedule, sync: &Sync, began: chrono::DateTime<chrono::Utc>) {
    let Some(interval) = schedule.interval else { return std::future::pending().await };
    loop {
        let last = within_time(runs::last_started(&sync.database, &sync.env, COMMAND, ACTOR)).await;
        let wait = match last {
            // A clock that went back makes it wait no longer than an interval.
            Ok(last) => {
                let since = (clock::now() - last.unwrap_or(began)).to_std().unwrap_or_default();
                interval.saturating_sub(since)
            }
            Err(_) => AGAIN,
        };
        if wait.is_zero() {
            return;
        }
        // Not all copies at the same moment.
        let jitter = Duration::from_millis(fastrand::u64(0..=500));
        tokio::time::sleep(wait + jitter).await;
    }
}

fn tell(report: &Report, metrics: &Metrics) {
    for (kind, counts) in &report.counts {
        let found = counts.missing + counts.extra + counts.different;
        metrics.drift(kind.name(), found - counts.unannounced);
        if found > 0 {
            tracing::warn!(
                object.kind = %kind,
                missing = counts.missing,
                extra = counts.extra,
                different = counts.different,
                repaired = counts.repaired,
                "the mirror was not in step"
            );
        }
    }
    if report.is_in_step() {
        tracing::info!("the mirror is in step");
    }
}
