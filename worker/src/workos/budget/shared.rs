//! One budget for all copies of an environment: a token bucket in a row of Postgres, from which each copy takes a
//! small slice at a time. The clock is that of Postgres. While Postgres is away nothing could be written, and nothing is
//! asked.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::clock;
use sqlx::PgPool;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::limits::Speed;
use super::{Lane, lock};

/// How long a slice may be used: longer, and requests of two slices would leave together.
const FRESH: Duration = Duration::from_millis(250);
/// A slice is at most what the rate gives in this time.
const SLICE: f64 = 0.2;
/// How long Postgres may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Before Postgres is asked again that failed.
const AGAIN: Duration = Duration::from_millis(300);
/// The soonest that an empty bucket is looked at again, and the latest.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// One limit, shared.
pub(super) struct Bucket {
    database: PgPool,
    env: String,
    name: String,
    speed: Speed,
    slice: Mutex<Option<Slice>>,
    /// Who must leave so much in the bucket need not ask before then.
    empty: Mutex<Option<(f64, Instant)>>,
    /// Postgres failed when it was asked last.
    failing: AtomicBool,
    /// One takes a slice at a time, for all who wait.
    taking: AsyncMutex<()>,
}

struct Slice {
    tokens: u32,
    until: Instant,
}

/// What Postgres says.
struct Grant {
    granted: i32,
    tokens: f64,
    pause_ms: Option<f64>,
}

/// Why there is no request to be made now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Not {
    /// The bucket is empty: look again after so long.
    Yet(Duration),
    /// WorkOS asked a copy for quiet, for so long from now.
    Paused(Duration),
}

impl Bucket {
    pub(super) fn new(database: PgPool, env: String, name: String, speed: Speed) -> Self {
        Self {
            database,
            env,
            name,
            speed,
            slice: Mutex::new(None),
            empty: Mutex::new(None),
            failing: AtomicBool::new(false),
            taking: AsyncMutex::new(()),
        }
    }

    /// Takes one of the slice, or a new slice for so many who wait.
    pub(super) async fn take(&self, lane: Lane, waiting: usize) -> Result<(), Not> {
        if self.take_of_the_slice() {
            return Ok(());
        }
        let _taking = self.taking.lock().await;
        if self.take_of_the_slice() {
            return Ok(());
        }
        let reserve = self.reserve(lane);
        if let Some((least, until)) = *lock(&self.empty)
            && reserve >= least
            && let Some(rest) = until.checked_duration_since(Instant::now())
        {
            return Err(Not::Yet(jittered(rest.max(LOOK.0))));
        }
        let most = (self.speed.per_second * SLICE).max(1.0);
        #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
        let slice = (waiting as f64).clamp(1.0, most).floor();
        let Ok(Ok(grant)) = tokio::time::timeout(TIMEOUT, self.ask(slice, reserve)).await else {
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    limit = self.name,
                    "Postgres does not say how much of the shared budget is left, nothing is asked until it does"
                );
            }
            *lock(&self.empty) = Some((0.0, Instant::now() + AGAIN));
            return Err(Not::Yet(jittered(AGAIN)));
        };
        self.failing.store(false, Ordering::Relaxed);
        if let Some(pause) = grant.pause_ms.filter(|pause| *pause > 0.0) {
            return Err(Not::Paused(Duration::from_secs_f64(pause / 1e3)));
        }
        let Some(rest) = u32::try_from(grant.granted).unwrap_or(0).checked_sub(1) else {
            let missing = (1.0 + reserve - grant.tokens).max(0.0) / self.speed.per_second;
            let wait = Duration::try_from_secs_f64(missing).unwrap_or(LOOK.1).clamp(LOOK.0, LOOK.1);
            *lock(&self.empty) = Some((reserve, Instant::now() + wait));
            return Err(Not::Yet(jittered(wait)));
        };
        let slice = Slice { tokens: rest, until: Instant::now() + FRESH };
        *lock(&self.slice) = Some(slice);
        Ok(())
    }

    fn take_of_the_slice(&self) -> bool {
        let mut slice = lock(&self.slice);
        let Some(rest) = slice.as_mut().filter(|slice| slice.tokens > 0 && Instant::now() < slice.until)
        else {
            return false;
        };
        rest.tokens -= 1;
        true
    }

    /// Forgets what is left of the slice: there is a pause.
    pub(super) fn forget(&self) {
        *lock(&self.slice) = None;
    }

    /// What a lane leaves in the bucket for those before it, whichever copy they wait in.
    fn reserve(&self, lane: Lane) -> f64 {
        let share = match lane {
            Lane::Immediate => 0.0,
            Lane::Events => 0.1,
            Lane::Retries => 0.2,
            Lane::Tail => 0.3,
            Lane::Backfill => 0.4,
        };
        (f64::from(self.speed.burst.get()) - 1.0) * share
    }

    async fn ask(&self, wanted: f64, reserve: f64) -> sqlx::Result<Grant> {
        sqlx::query_as!(
            Grant,
            r#"
            INSERT INTO workos_sync.budgets AS budget (env, name, tokens, granted, at)
            VALUES ($1, $2, 0, 0, clock_timestamp())
            ON CONFLICT (env, name) DO UPDATE
            SET (tokens, granted, at) = (
                SELECT level - granted, granted, now
                FROM (
                    SELECT now, level, greatest(0, least($3::float8, floor(level - $4::float8)))::int AS granted
                    FROM (
                        SELECT now,
                               -- After a pause the bucket is empty: nobody is to come all at once.
                               CASE WHEN now < coalesce(budget.paused_until, '-infinity') THEN 0
                                    ELSE least($5::float8, budget.tokens + $6::float8 * greatest(
                                        0, extract(epoch FROM now - greatest(budget.at, budget.paused_until))
                                    )::float8)
                               END AS level
                        FROM (SELECT clock_timestamp() AS now) AS clock
                    ) AS filled
                ) AS taken
            )
            RETURNING granted,
                      tokens,
                      (extract(epoch FROM paused_until - clock_timestamp()) * 1000)::float8 AS pause_ms
            "#,
            self.env,
            self.name,
            wanted,
            reserve,
            f64::from(self.speed.burst.get()),
            self.speed.per_second,
        )
        .fetch_one(&self.database)
        .await
    }

    /// Tells the other copies that WorkOS asked for quiet.
    pub(super) async fn pause(&self, pause: Duration) {
        let until = clock::now() + pause;
        let tell = sqlx::query!(
            r#"
            INSERT INTO workos_sync.budgets AS budget (env, name, tokens, granted, at, paused_until)
            VALUES ($1, $2, 0, 0, clock_timestamp(), clock_timestamp() + make_interval(secs => $3))
            ON CONFLICT (env, name) DO UPDATE
            SET tokens = 0,
                paused_until = greatest(budget.paused_until, EXCLUDED.paused_until)
            "#,
            self.env,
            self.name,
            pause.as_secs_f64(),
        )
        .execute(&self.database);
        match tokio::time::timeout(TIMEOUT, tell).await {
            Ok(Ok(_)) => tracing::info!(%until, "WorkOS asked for quiet, the other copies are told"),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("WorkOS asked for quiet, and the other copies could not be told");
            }
        }
    }
}

/// The same, or up to half more: copies are not to look all at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + fastrand::f64() / 2.0)
}
