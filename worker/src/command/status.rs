//! `worker status`: how things are, on one page.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::connection::State;
use async_nats::jetstream;
use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use shared::admin::Readiness;
use shared::exit::Exit;
use shared::{broker, clock, telemetry};
use sqlx::PgPool;

use super::dlq::Format;
use crate::config::DeadLetterConfig;
use crate::dead_letter::DeadLetters;
use crate::standing::{Tail, Waiting};
use crate::{database, standing};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How to print it.
#[derive(Args)]
pub struct StatusArguments {
    /// A page for people, or JSON for programs: docs/operations.md describes it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Everything that is told.
#[derive(Serialize)]
struct Status {
    env: String,
    /// None when the broker does not answer.
    broker: Option<Queue>,
    ledger: Ledger,
    tail: Option<Tail>,
    tables: Vec<Table>,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Queue {
    durability: String,
    waiting: u64,
    in_hand: usize,
    /// Since when the oldest event waits that has no outcome.
    oldest_pending_at: Option<DateTime<Utc>>,
    dead_letters: u64,
}

#[derive(Serialize)]
struct Ledger {
    open: i64,
    oldest_open_at: Option<DateTime<Utc>>,
    oldest_open_reason: Option<String>,
    settled_last_hour: i64,
    lag_seconds_last_hour: Option<f64>,
}

#[derive(Serialize)]
struct Table {
    kind: String,
    live: i64,
    deleted: i64,
}

#[derive(Serialize)]
struct Run {
    command: String,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    result: Option<String>,
}

/// Prints it. Exit 3 when the broker or Postgres does not answer.
pub async fn status(config: DeadLetterConfig, arguments: StatusArguments) -> anyhow::Result<Exit> {
    telemetry::init(&config.database.telemetry);
    let pool = database::pool(&config.database.url, 1)?;
    if !database::answers(&pool).await {
        eprintln!("Postgres does not answer at DATABASE_URL; start it or correct the address");
        return Ok(Exit::Unavailable);
    }
    let broker = match tokio::time::timeout(PATIENCE, queue(&config, &pool)).await {
        Ok(Ok(queue)) => Some(queue),
        Ok(Err(error)) => {
            eprintln!("{error:#}");
            None
        }
        Err(_) => {
            eprintln!("NATS does not answer at NATS_URL; start it or correct the address");
            None
        }
    };
    let status = Status {
        env: config.env.clone(),
        ledger: ledger(&pool, &config.env).await.context("failed to read the ledger")?,
        tail: standing::tail(&pool, &config.env).await.context("failed to read the cursor")?,
        tables: tables(&pool, &config.env).await.context("failed to count the mirror")?,
        runs: runs(&pool, &config.env).await.context("failed to read the runs")?,
        broker,
    };
    match arguments.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Format::Table => status.print(),
    }
    Ok(if status.broker.is_some() { Exit::Success } else { Exit::Unavailable })
}

impl Status {
    fn print(&self) {
        println!("environment       {}", self.env);
        match &self.broker {
            Some(queue) => {
                let oldest =
                    queue.oldest_pending_at.map(|at| format!(", the oldest since {at}")).unwrap_or_default();
                println!(
                    "waiting           {} in the stream, {} in hand{oldest}",
                    queue.waiting, queue.in_hand
                );
                println!(
                    "dead letters      {}{}",
                    queue.dead_letters,
                    if queue.dead_letters > 0 { "; see `worker dlq list`" } else { "" }
                );
                println!("acknowledgements  {}", queue.durability);
            }
            None => println!("broker            does not answer"),
        }
        let ledger = &self.ledger;
        match ledger.oldest_open_at {
            Some(at) => println!(
                "retried           {} events, the oldest since {at} ({})",
                ledger.open,
                ledger.oldest_open_reason.as_deref().unwrap_or("no reason yet")
            ),
            None => println!("retried           none"),
        }
        println!(
            "last hour         {} events settled{}",
            ledger.settled_last_hour,
            ledger
                .lag_seconds_last_hour
                .map(|lag| format!(", {lag:.3} s after WorkOS made them (median)"))
                .unwrap_or_default()
        );
        match &self.tail {
            Some(tail) => println!(
                "Events API        read {} s ago, cursor {} of {}{}",
                tail.checked_seconds_ago,
                tail.cursor.as_deref().unwrap_or("none"),
                tail.event_at.map_or_else(|| "never".to_owned(), |at| at.to_string()),
                if tail.verify_requested_at.is_some() { "; run `worker verify --repair`" } else { "" }
            ),
            None => println!("Events API        never read"),
        }
        for run in &self.runs {
            println!(
                "last {:<12} {}, {}",
                run.command,
                run.started_at,
                run.result.as_deref().unwrap_or("not finished")
            );
        }
        for table in &self.tables {
            println!("{:<30} {:>9} live {:>9} deleted", table.kind, table.live, table.deleted);
        }
    }
}

async fn queue(config: &DeadLetterConfig, pool: &PgPool) -> anyhow::Result<Queue> {
    let client = broker::connect(&config.broker, "workos-sync worker status", &Readiness::default()).await?;
    while client.connection_state() != State::Connected {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let jetstream = jetstream::new(client);
    let facts = broker::ensure_events(&jetstream, config.broker.replicas).await?;
    let Waiting { waiting, in_hand } = standing::waiting(&jetstream, &config.env).await?;
    let oldest_pending_at = standing::oldest_pending(pool, &jetstream, &config.env).await?;
    let letters = DeadLetters::new(&config.env, jetstream);
    letters.ensure(config.broker.replicas).await?;
    Ok(Queue {
        durability: facts.durability(),
        waiting,
        in_hand,
        oldest_pending_at,
        dead_letters: letters.depth().await?,
    })
}

async fn ledger(pool: &PgPool, env: &str) -> sqlx::Result<Ledger> {
    let hour_ago = clock::now() - chrono::TimeDelta::hours(1);
    let open = standing::open(pool, env).await?;
    let settled = sqlx::query!(
        r#"
        SELECT count(*) AS "settled!",
               percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM settled_at - created_at)::float8) AS lag
        FROM workos_sync.events
        WHERE env = $1 AND settled_at > $2
        "#,
        env,
        hour_ago
    )
    .fetch_one(pool)
    .await?;
    Ok(Ledger {
        open: open.count,
        oldest_open_at: open.oldest_at,
        oldest_open_reason: open.oldest_reason,
        settled_last_hour: settled.settled,
        lag_seconds_last_hour: settled.lag,
    })
}

async fn tables(pool: &PgPool, env: &str) -> sqlx::Result<Vec<Table>> {
    sqlx::query_as!(
        Table,
        r#"
        SELECT kind,
               count(*) FILTER (WHERE deleted_at IS NULL) AS "live!",
               count(*) FILTER (WHERE deleted_at IS NOT NULL) AS "deleted!"
        FROM workos_sync.objects
        WHERE env = $1 AND has_row
        GROUP BY kind
        ORDER BY kind
        "#,
        env
    )
    .fetch_all(pool)
    .await
}

async fn runs(pool: &PgPool, env: &str) -> sqlx::Result<Vec<Run>> {
    sqlx::query_as!(
        Run,
        r#"
        SELECT DISTINCT ON (command) command, started_at, finished_at, result
        FROM workos_sync.runs
        WHERE env = $1
        ORDER BY command, started_at DESC
        "#,
        env
    )
    .fetch_all(pool)
    .await
}
