//! `worker explain <id>`: everything known of an object or an event, in the order in which it happened.

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Args;
use shared::exit::Exit;
use shared::id::{Kind, ObjectRef};
use shared::telemetry;
use sqlx::PgPool;

use crate::config::RecordsConfig;
use crate::{database, object};

/// What to explain.
#[derive(Args)]
pub struct ExplainArguments {
    /// Id of an object, e.g. `user_01J8...`, or of an event, e.g. `event_01J8...`.
    id: String,
}

/// Events that are shown: those that are dead or open, and then the newest; others are counted. And of changes the newest.
const SHOWN: i64 = 100;

/// Prints what the guard, the ledger, the audit log and the record of replays know.
pub async fn explain(config: RecordsConfig, arguments: ExplainArguments) -> anyhow::Result<Exit> {
    telemetry::init(&config.database.telemetry);
    let pool = database::pool(&config.database.url, 1)?;
    if !database::answers(&pool).await {
        eprintln!("Postgres does not answer at DATABASE_URL; start it or correct the address");
        return Ok(Exit::Unavailable);
    }
    let (env, id) = (&config.env, &arguments.id);
    let known_as = known_as(&pool, env, id).await.context("failed to read the mirror")?;
    let meant = Meant::new(env, id, &known_as);
    let objects = objects(&pool, &meant).await.context("failed to read the guard")?;
    let events = events(&pool, &meant).await.context("failed to read the ledger")?;
    let changes = changes(&pool, &meant).await.context("failed to read the audit log")?;
    let actions = actions(&pool, &meant).await.context("failed to read replays and discards")?;
    if objects.is_empty() && events.is_empty() && changes.is_empty() {
        eprintln!(
            "nothing is known of {id} in the environment {env}; if WorkOS has it, `worker sync <kind> {id}` brings it"
        );
        return Ok(Exit::No);
    }
    for object in &known_as {
        println!("{id} is known as {object}, which is what this tells of");
    }
    for object in &objects {
        println!("{}", object.told());
    }
    let mut lines: Vec<(DateTime<Utc>, String)> = Vec::new();
    for event in &events {
        event.tell(&mut lines);
    }
    lines.extend(changes.iter().map(|change| (change.at, change.told())));
    lines.extend(actions.iter().map(|action| (action.at, action.told())));
    lines.sort();
    for (at, line) in &lines {
        println!("{}  {line}", at.format("%Y-%m-%d %H:%M:%S%.3f"));
    }
    let left_out = events.first().map_or(0, |event| event.of_all - SHOWN).max(0);
    if left_out > 0 {
        println!("and {left_out} older events");
    }
    println!("\n{}", next_step(&objects, &events, &actions));
    Ok(Exit::Success)
}

/// What an id of a row is known as, where that is not the id: a role by its slug, a session by its user.
async fn known_as(pool: &PgPool, env: &str, id: &str) -> sqlx::Result<Vec<ObjectRef>> {
    let mut connection = pool.acquire().await?;
    let mut all = Vec::new();
    for kind in Kind::ALL {
        all.extend(object::key_of(&mut connection, env, kind, id).await?);
    }
    Ok(all)
}

/// What is to be explained: whatever has this id, and these objects.
struct Meant<'a> {
    env: &'a str,
    id: &'a str,
    kinds: Vec<&'static str>,
    keys: Vec<&'a str>,
}

impl<'a> Meant<'a> {
    fn new(env: &'a str, id: &'a str, known_as: &'a [ObjectRef]) -> Self {
        let (kinds, keys) = known_as.iter().map(|object| (object.kind.name(), object.id.as_str())).unzip();
        Self { env, id, kinds, keys }
    }
}

/// What a person could do now.
fn next_step(objects: &[Object], events: &[Event], actions: &[Action]) -> String {
    // The newest first: what was discarded stays dead, and there is no dead letter to be replayed.
    let discarded = |event: &Event| {
        actions
            .iter()
            .find(|action| action.event_id == event.id)
            .is_some_and(|action| action.done == "discarded")
    };
    if let Some(dead) =
        events.iter().find(|event| event.outcome.as_deref() == Some("dead") && !discarded(event))
    {
        return format!(
            "next: the event {} is dead; `worker dlq replay --id {}` asks again",
            dead.id, dead.id
        );
    }
    if let Some(open) = events.iter().find(|event| event.outcome.is_none()) {
        return format!(
            "next: the event {} is being retried ({}); nothing needs to be done unless it stays so",
            open.id,
            open.reason.as_deref().unwrap_or("no reason yet")
        );
    }
    match objects.first() {
        Some(object) => {
            format!("next: nothing is open; `worker sync {} {}` asks WorkOS again", object.kind, object.id)
        }
        None => "next: nothing is open".to_owned(),
    }
}

struct Object {
    kind: String,
    id: String,
    fence: i64,
    asked_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
    missing_since: Option<DateTime<Utc>>,
    deleted_at: Option<DateTime<Utc>>,
    deleted_by: Option<String>,
    has_row: bool,
    outcome: Option<String>,
}

impl Object {
    fn told(&self) -> String {
        let state = match (&self.deleted_at, self.deleted_by.as_deref()) {
            (Some(at), Some("event")) => format!("gone since {at}: an event declared it deleted"),
            (Some(at), Some("cascade")) => format!("gone since {at}: what it hangs on is gone"),
            (Some(at), _) => format!("gone since {at}: WorkOS answered 404, and again later"),
            (None, _) if self.missing_since.is_some() => {
                "WorkOS answered 404 once; it is asked again".to_owned()
            }
            (None, _) if self.has_row => "in the mirror".to_owned(),
            (None, _) => "never seen in WorkOS".to_owned(),
        };
        let time = |at: Option<DateTime<Utc>>| at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        format!(
            "{}/{}: {state}; last answer taken {} (fence {}, {}), its updated_at {}",
            self.kind,
            self.id,
            time(self.asked_at),
            self.fence,
            self.outcome.as_deref().unwrap_or("no outcome"),
            time(self.updated_at),
        )
    }
}

async fn objects(pool: &PgPool, meant: &Meant<'_>) -> sqlx::Result<Vec<Object>> {
    sqlx::query_as!(
        Object,
        r#"
        SELECT kind, id, fence, asked_at, updated_at, missing_since, deleted_at, deleted_by, has_row, outcome
        FROM workos_sync.objects
        WHERE env = $1
          AND (
                id = $2
                OR (kind, id) = (SELECT kind, object_id FROM workos_sync.events WHERE env = $1 AND id = $2)
                OR (id = ANY($4) AND (kind, id) IN (SELECT * FROM unnest($3::text[], $4::text[])))
              )
        ORDER BY kind
        "#,
        meant.env,
        meant.id,
        &meant.kinds as _,
        &meant.keys as _,
    )
    .fetch_all(pool)
    .await
}

struct Event {
    id: String,
    kind: String,
    first_channel: String,
    created_at: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    webhook_at: Option<DateTime<Utc>>,
    tail_at: Option<DateTime<Utc>>,
    attempts: i32,
    outcome: Option<String>,
    reason: Option<String>,
    fence: Option<i64>,
    settled_at: Option<DateTime<Utc>>,
    /// How many there are in all.
    of_all: i64,
}

impl Event {
    fn tell(&self, lines: &mut Vec<(DateTime<Utc>, String)>) {
        let name = format!("event {} {}", self.id, self.kind);
        if let Some(at) = self.created_at {
            lines.push((at, format!("{name}: made by WorkOS")));
        }
        lines.push((self.received_at, format!("{name}: first came by {}", self.first_channel)));
        for (channel, at) in [("webhook", self.webhook_at), ("tail", self.tail_at)] {
            if let Some(at) = at
                && channel != self.first_channel
            {
                lines.push((at, format!("{name}: came by {channel} too")));
            }
        }
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        match (self.settled_at, &self.outcome) {
            (Some(at), Some(outcome)) => {
                let fence = self.fence.map(|fence| format!(", fence {fence}")).unwrap_or_default();
                lines.push((
                    at,
                    format!("{name}: {outcome}{reason}, attempts used up {}{fence}", self.attempts),
                ));
            }
            _ => lines.push((
                self.received_at,
                format!("{name}: still open{reason}, attempts used up {}", self.attempts),
            )),
        }
    }
}

async fn events(pool: &PgPool, meant: &Meant<'_>) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as!(
        Event,
        r#"
        SELECT id, type AS kind, first_channel, created_at, received_at, webhook_at, tail_at, attempts,
               outcome, reason, fence, settled_at, count(*) OVER () AS "of_all!"
        FROM workos_sync.events
        WHERE env = $1
          AND (
                id = $2
                OR object_id = $2
                OR (object_id = ANY($4) AND (kind, object_id) IN (SELECT * FROM unnest($3::text[], $4::text[])))
              )
        ORDER BY (outcome IS NULL OR outcome = 'dead') DESC, received_at DESC
        LIMIT $5
        "#,
        meant.env,
        meant.id,
        &meant.kinds as _,
        &meant.keys as _,
        SHOWN
    )
    .fetch_all(pool)
    .await
}

struct Change {
    at: DateTime<Utc>,
    kind: String,
    object_id: String,
    action: String,
    columns: Vec<String>,
    event_id: Option<String>,
    channel: String,
    cause: Option<String>,
    fence: i64,
}

impl Change {
    fn told(&self) -> String {
        let columns =
            if self.columns.is_empty() { String::new() } else { format!(": {}", self.columns.join(", ")) };
        let because = match (&self.cause, &self.event_id) {
            (Some(cause), _) => format!(" along with {cause}"),
            (None, Some(event)) => format!(" by event {event}"),
            (None, None) => String::new(),
        };
        format!(
            "row {}/{} {}{because} ({}, fence {}){columns}",
            self.kind, self.object_id, self.action, self.channel, self.fence
        )
    }
}

async fn changes(pool: &PgPool, meant: &Meant<'_>) -> sqlx::Result<Vec<Change>> {
    sqlx::query_as!(
        Change,
        r#"
        SELECT at, kind, object_id, action,
               ARRAY(SELECT jsonb_object_keys(changes) ORDER BY 1) AS "columns!",
               event_id, channel, cause, fence
        FROM workos_sync.audit_log
        WHERE env = $1
          AND (
                object_id = $2
                OR object_id = (SELECT object_id FROM workos_sync.events WHERE env = $1 AND id = $2)
                OR (object_id = ANY($4) AND (kind, object_id) IN (SELECT * FROM unnest($3::text[], $4::text[])))
              )
        ORDER BY id DESC
        LIMIT $5
        "#,
        meant.env,
        meant.id,
        &meant.kinds as _,
        &meant.keys as _,
        SHOWN
    )
    .fetch_all(pool)
    .await
}

struct Action {
    at: DateTime<Utc>,
    event_id: String,
    done: String,
    reason: String,
    actor: Option<String>,
    why: Option<String>,
}

impl Action {
    fn told(&self) -> String {
        let why = self.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        format!(
            "event {}: dead letter ({}) {} by {}{why}",
            self.event_id,
            self.reason,
            self.done,
            self.actor.as_deref().unwrap_or("nobody named")
        )
    }
}

async fn actions(pool: &PgPool, meant: &Meant<'_>) -> sqlx::Result<Vec<Action>> {
    sqlx::query_as!(
        Action,
        r#"
        SELECT action.at, action.event_id, action.action AS done, action.reason, run.actor, run.reason AS why
        FROM workos_sync.dead_letter_actions AS action
        JOIN workos_sync.runs AS run ON run.id = action.run_id
        WHERE action.env = $1
          AND (
                action.event_id = $2
                OR action.event_id IN (
                    SELECT id
                    FROM workos_sync.events
                    WHERE env = $1
                      AND (
                            object_id = $2
                            OR (object_id = ANY($4) AND (kind, object_id) IN (SELECT * FROM unnest($3::text[], $4::text[])))
                          )
                )
              )
        ORDER BY action.at DESC
        LIMIT $5
        "#,
        meant.env,
        meant.id,
        &meant.kinds as _,
        &meant.keys as _,
        SHOWN
    )
    .fetch_all(pool)
    .await
}
