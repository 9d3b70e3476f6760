//! What each step of the worker could do if it were the only one.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use shared::event::Event;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::common::load;
use crate::common::payload::{Requests, User};
use crate::common::{ENVIRONMENT, aside, broker, float, on_one_thread};
use crate::world::{self, World};

/// Events in one transaction; twice as many are no faster.
const BATCH: usize = 200;

/// More are no faster on two cores.
const CONNECTIONS: usize = 2;

/// Pulls and acknowledges, and does nothing else. Returns events a second.
pub(crate) async fn pull(world: &mut World, events: usize) -> anyhow::Result<f64> {
    let room = world.room()?;
    let nats = broker::start(&room, false).await?;
    broker::fill(nats.url(), world.distinct(events)).await?;
    let url = nats.url();
    aside(move || on_one_thread(async { broker::pull_and_ack(&broker::connect(&url).await?, events).await }))
        .await
}

/// Asks for one user after the other, over so many connections. Returns answers a second.
pub(crate) async fn ask(world: &World, events: usize, connections: usize) -> anyhow::Result<f64> {
    let requests = Arc::new(Requests::questions(world.users.iter().take(events), &world.key)?);
    let address = world.workos;
    let load =
        aside(move || load::full_speed(address, &requests, 0..requests.len(), connections)?.all_accepted());
    Ok(load.await?.rate())
}

/// Where the bare upsert writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tables {
    /// Three tables with nothing but a primary key.
    Plain,
    /// The mirror's own: also a profile and the guard's row, with every index, check and foreign key.
    Own,
}

const PLAIN_TABLES: &str = "
    CREATE SCHEMA plain;
    CREATE TABLE plain.users (
        id text PRIMARY KEY, email text, first_name text, last_name text, updated_at timestamptz, raw jsonb NOT NULL
    ) WITH (fillfactor = 70);
    CREATE TABLE plain.events (
        id text PRIMARY KEY, type text, object_id text, outcome text, created_at timestamptz, settled_at timestamptz
    );
    CREATE TABLE plain.audit (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, object_id text, action text,
        changes jsonb, event_id text
    );";

const PLAIN: [&str; 3] = [
    "INSERT INTO plain.users (id, email, first_name, last_name, updated_at, raw)
     SELECT object, email, first_name, last_name, at, raw::jsonb
       FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[])
         AS incoming (event, object, email, first_name, last_name, at, raw, changes)
      ORDER BY object
     ON CONFLICT (id) DO UPDATE
     SET email = EXCLUDED.email, first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name,
         updated_at = EXCLUDED.updated_at, raw = EXCLUDED.raw
     WHERE $1 <> ''",
    "INSERT INTO plain.events (id, type, object_id, outcome, created_at, settled_at)
     SELECT event, 'user.updated', object, 'applied', at, now()
       FROM unnest($2::text[], $3::text[], $4::timestamptz[]) AS incoming (event, object, at)
      WHERE $1 <> ''
     ON CONFLICT (id) DO NOTHING",
    "INSERT INTO plain.audit (at, object_id, action, changes, event_id)
     SELECT now(), object, 'created', changes::jsonb, event
       FROM unnest($2::text[], $3::text[], $4::text[]) AS incoming (event, object, changes)
      WHERE $1 <> ''",
];

const OWN: [&str; 3] = [
    "WITH incoming AS (
         SELECT *
           FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[])
             AS incoming (event, object, email, first_name, last_name, at, raw, changes)
          ORDER BY object
     ), claimed AS (
         INSERT INTO workos_sync.objects (env, kind, id, fence, asked_at, updated_at, has_row, outcome)
         SELECT $1, 'user', object, 1, now(), at, true, 'applied' FROM incoming
         ON CONFLICT (env, kind, id) DO UPDATE SET fence = EXCLUDED.fence
     ), written AS (
         INSERT INTO workos.users (id, email, first_name, last_name, updated_at, _env, _raw, _synced_at)
         SELECT object, email, first_name, last_name, at, $1, raw::jsonb, now() FROM incoming
         ON CONFLICT (id) DO UPDATE
         SET email = EXCLUDED.email, first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name,
             updated_at = EXCLUDED.updated_at, _raw = EXCLUDED._raw, _synced_at = EXCLUDED._synced_at
     )
     INSERT INTO workos.profiles (id, first_name, last_name, _env, _raw, _synced_at)
     SELECT object, first_name, last_name, $1, jsonb_build_object('first_name', first_name), now() FROM incoming
     ON CONFLICT (id) DO UPDATE
     SET first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name, _raw = EXCLUDED._raw",
    "INSERT INTO workos_sync.events (
         env, id, type, kind, object_id, first_channel, created_at, received_at, outcome, settled_at
     )
     SELECT $1, event, 'user.updated', 'user', object, 'webhook', at, now(), 'applied', now()
       FROM unnest($2::text[], $3::text[], $4::timestamptz[]) AS incoming (event, object, at)
     ON CONFLICT (env, id) DO NOTHING",
    "INSERT INTO workos_sync.audit_log (env, kind, object_id, action, changes, fence, event_id, channel)
     SELECT $1, 'user', object, 'created', changes::jsonb, 1, event, 'webhook'
       FROM unnest($2::text[], $3::text[], $4::text[]) AS incoming (event, object, changes)",
];

/// Writes users, their ledger and their audit log, in batches. Returns events a second.
pub(crate) async fn upsert(world: &mut World, events: usize, tables: Tables) -> anyhow::Result<f64> {
    world.room()?;
    let database = world.database().await?;
    let statements = match tables {
        Tables::Plain => {
            let mut connection = world::connect(&database).await?;
            connection.execute(PLAIN_TABLES).await?;
            connection.close().await?;
            PLAIN
        }
        Tables::Own => OWN,
    };
    let all = world.distinct(events);
    let mut batches: Vec<Batch> = all
        .chunks(BATCH)
        .zip(world.users.chunks(BATCH))
        .map(|(events, users)| Batch::of(events, users))
        .collect();
    let mut writers = Vec::new();
    let share = batches.len().div_ceil(CONNECTIONS).max(1);
    while !batches.is_empty() {
        let mine = batches.split_off(batches.len().saturating_sub(share));
        let connection = world::connect(&database).await?;
        writers.push((connection, mine));
    }
    let started = Instant::now();
    let tasks: Vec<_> = writers
        .into_iter()
        .map(|(mut connection, mine)| {
            tokio::spawn(async move {
                for batch in &mine {
                    batch.write(&mut connection, statements).await?;
                }
                Ok::<_, sqlx::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(float(events) / started.elapsed().as_secs_f64())
}

/// Rows of one transaction, column by column, as the database takes them.
struct Batch {
    events: Vec<String>,
    objects: Vec<String>,
    emails: Vec<String>,
    first_names: Vec<String>,
    last_names: Vec<String>,
    times: Vec<chrono::DateTime<chrono::Utc>>,
    raws: Vec<String>,
    changes: Vec<String>,
}

impl Batch {
    fn of(events: &[Event], users: &[User]) -> Self {
        let each = |text: &str| vec![text.to_owned(); events.len()];
        let emails: Vec<String> =
            (0..events.len()).map(|number| format!("user.number{number}@example.com")).collect();
        let raws = users
            .iter()
            .zip(&emails)
            .map(|(user, email)| {
                json!({
                    "object": "user", "id": user.id, "email": email, "first_name": "User", "last_name": "Number",
                    "name": "User Number", "email_verified": true, "external_id": null, "metadata": {},
                    "last_sign_in_at": null, "locale": "en-US", "created_at": user.updated_at,
                    "profile_picture_url": "https://workoscdn.com/images/v1/picture.png",
                    "updated_at": user.updated_at,
                })
                .to_string()
            })
            .collect();
        // As many columns as a new user has, each redacted.
        let one = json!({"old": null, "new": "redacted"});
        let columns =
            ["email", "first_name", "last_name", "name", "profile_picture_url", "email_verified", "locale"];
        let changes = serde_json::Value::Object(
            columns.iter().map(|column| ((*column).to_owned(), one.clone())).collect(),
        );
        Self {
            events: events.iter().map(|event| event.id.clone()).collect(),
            objects: users.iter().take(events.len()).map(|user| user.id.clone()).collect(),
            emails,
            first_names: each("User"),
            last_names: each("Number"),
            times: users.iter().map(|user| user.updated_at).collect(),
            raws,
            changes: each(&changes.to_string()),
        }
    }

    async fn write(&self, connection: &mut PgConnection, statements: [&'static str; 3]) -> sqlx::Result<()> {
        let [users, events, audit] = statements;
        let mut transaction = connection.begin().await?;
        sqlx::query(users)
            .bind(ENVIRONMENT)
            .bind(&self.events)
            .bind(&self.objects)
            .bind(&self.emails)
            .bind(&self.first_names)
            .bind(&self.last_names)
            .bind(&self.times)
            .bind(&self.raws)
            .bind(&self.changes)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(events)
            .bind(ENVIRONMENT)
            .bind(&self.events)
            .bind(&self.objects)
            .bind(&self.times)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(audit)
            .bind(ENVIRONMENT)
            .bind(&self.events)
            .bind(&self.objects)
            .bind(&self.changes)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }
}
