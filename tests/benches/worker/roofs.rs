//! What each step of the worker could do if it were the only one.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use shared::event::Event;
use sqlx::types::Json;
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
    /// The mirror's own: also a profile and the guard's row, with every index and check.
    Own,
}

/// The columns that DESIGN asks of a user, of the ledger and of the audit log.
const PLAIN_TABLES: &str = "
    CREATE SCHEMA plain;
    CREATE TABLE plain.users (
        id text PRIMARY KEY, email text, first_name text, last_name text, name text, profile_picture_url text,
        email_verified boolean, external_id text, metadata jsonb, last_sign_in_at timestamptz, locale text,
        created_at timestamptz, updated_at timestamptz, _env text, _raw jsonb, _synced_at timestamptz,
        _deleted_at timestamptz
    ) WITH (fillfactor = 70);
    CREATE TABLE plain.events (
        id text PRIMARY KEY, type text, kind text, object_id text, organization_id text, first_channel text,
        created_at timestamptz, updated_at timestamptz, received_at timestamptz, webhook_at timestamptz,
        tail_at timestamptz, stream_seq bigint, attempts integer, outcome text, fence bigint, settled_at timestamptz
    );
    CREATE TABLE plain.audit (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, kind text, object_id text, action text,
        changes jsonb, fence bigint, event_id text, channel text, actor text
    );";

const PLAIN: [&str; 3] = [
    "INSERT INTO plain.users (
         id, email, first_name, last_name, name, profile_picture_url, email_verified, metadata, locale, created_at,
         updated_at, _env, _raw, _synced_at
     )
     SELECT id, email, first_name, last_name, name, picture, true, '{}', 'en-US', at, at, $1, raw, now()
       FROM (
           SELECT unnest($2::text[]) AS id, unnest($3::text[]) AS email, unnest($4::text[]) AS first_name,
                  unnest($5::text[]) AS last_name, unnest($6::text[]) AS name, unnest($7::text[]) AS picture,
                  unnest($8::timestamptz[]) AS at, unnest($9::jsonb[]) AS raw
       ) AS incoming
     ON CONFLICT (id) DO UPDATE
     SET email = EXCLUDED.email, first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name,
         name = EXCLUDED.name, profile_picture_url = EXCLUDED.profile_picture_url,
         updated_at = EXCLUDED.updated_at, _raw = EXCLUDED._raw, _synced_at = EXCLUDED._synced_at",
    "INSERT INTO plain.events (
         id, type, kind, object_id, first_channel, created_at, updated_at, received_at, webhook_at, stream_seq,
         attempts, outcome, fence, settled_at
     )
     SELECT event, 'user.updated', 'user', object, 'webhook', at, at, at, at, 1, 1, 'applied', 1, now()
       FROM (
           SELECT unnest($2::text[]) AS event, unnest($3::text[]) AS object, unnest($4::timestamptz[]) AS at
       ) AS incoming
      WHERE $1 <> ''
     ON CONFLICT (id) DO NOTHING",
    "INSERT INTO plain.audit (at, kind, object_id, action, changes, fence, event_id, channel)
     SELECT now(), 'user', object, 'created', changes, 1, event, 'webhook'
       FROM (
           SELECT unnest($2::text[]) AS event, unnest($3::text[]) AS object, unnest($4::jsonb[]) AS changes
       ) AS incoming
      WHERE $1 <> ''",
];

const OWN: [&str; 3] = [
    "WITH claimed AS (
         INSERT INTO workos_sync.objects (env, kind, id, fence, asked_at, updated_at, has_row, outcome)
         SELECT $1, 'user', id, 1, now(), at, true, 'applied'
           FROM (SELECT unnest($2::text[]) AS id, unnest($8::timestamptz[]) AS at) AS incoming
         ON CONFLICT (env, kind, id) DO UPDATE SET fence = EXCLUDED.fence
     ), written AS (
         INSERT INTO workos.users (
             id, email, first_name, last_name, name, profile_picture_url, email_verified, metadata, locale,
             created_at, updated_at, _env, _raw, _synced_at
         )
         SELECT id, email, first_name, last_name, name, picture, true, '{}', 'en-US', at, at, $1, raw, now()
           FROM (
               SELECT unnest($2::text[]) AS id, unnest($3::text[]) AS email, unnest($4::text[]) AS first_name,
                      unnest($5::text[]) AS last_name, unnest($6::text[]) AS name, unnest($7::text[]) AS picture,
                      unnest($8::timestamptz[]) AS at, unnest($9::jsonb[]) AS raw
           ) AS incoming
         ON CONFLICT (id) DO UPDATE
         SET email = EXCLUDED.email, first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name,
             name = EXCLUDED.name, profile_picture_url = EXCLUDED.profile_picture_url,
             updated_at = EXCLUDED.updated_at, _raw = EXCLUDED._raw, _synced_at = EXCLUDED._synced_at
     )
     INSERT INTO workos.profiles (id, first_name, last_name, avatar_url, _env, _raw, _synced_at)
     SELECT id, first_name, last_name, picture, $1, jsonb_build_object('first_name', first_name), now()
       FROM (
           SELECT unnest($2::text[]) AS id, unnest($4::text[]) AS first_name, unnest($5::text[]) AS last_name,
                  unnest($7::text[]) AS picture
       ) AS incoming
     ON CONFLICT (id) DO UPDATE
     SET first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name, _raw = EXCLUDED._raw",
    "INSERT INTO workos_sync.events (
         env, id, type, kind, object_id, first_channel, created_at, updated_at, received_at, webhook_at, stream_seq,
         attempts, outcome, fence, settled_at
     )
     SELECT $1, event, 'user.updated', 'user', object, 'webhook', at, at, at, at, 1, 1, 'applied', 1, now()
       FROM (
           SELECT unnest($2::text[]) AS event, unnest($3::text[]) AS object, unnest($4::timestamptz[]) AS at
       ) AS incoming
     ON CONFLICT (env, id) DO NOTHING",
    "INSERT INTO workos_sync.audit_log (env, kind, object_id, action, changes, fence, event_id, channel)
     SELECT $1, 'user', object, 'created', changes, 1, event, 'webhook'
       FROM (
           SELECT unnest($2::text[]) AS event, unnest($3::text[]) AS object, unnest($4::jsonb[]) AS changes
       ) AS incoming",
];

/// How fast rows were written, and who used the CPU.
pub(crate) struct Written {
    /// Events a second.
    pub(crate) rate: f64,
    /// Who used the CPU.
    pub(crate) cpu: String,
}

/// Writes users, their ledger and their audit log, in batches.
pub(crate) async fn upsert(world: &mut World, events: usize, tables: Tables) -> anyhow::Result<Written> {
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
        .collect::<anyhow::Result<_>>()?;
    let mut writers = Vec::new();
    let share = batches.len().div_ceil(CONNECTIONS).max(1);
    while !batches.is_empty() {
        let mine = batches.split_off(batches.len().saturating_sub(share));
        let connection = world::connect(&database).await?;
        writers.push((connection, mine));
    }
    let cpu = world.cpu()?;
    let before = cpu.read();
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
    let rate = float(events) / started.elapsed().as_secs_f64();
    Ok(Written { rate, cpu: cpu.read().since(&before, events) })
}

/// Rows of one transaction, column by column, as the database takes them.
struct Batch {
    events: Vec<String>,
    objects: Vec<String>,
    emails: Vec<String>,
    first_names: Vec<String>,
    last_names: Vec<String>,
    names: Vec<String>,
    pictures: Vec<String>,
    times: Vec<DateTime<Utc>>,
    raws: Vec<Json<Box<RawValue>>>,
    changes: Vec<Json<Box<RawValue>>>,
}

impl Batch {
    fn of(events: &[Event], users: &[User]) -> anyhow::Result<Self> {
        const PICTURE: &str = "https://workoscdn.com/images/v1/picture.png";
        let users = users.get(..events.len()).context("fewer users than events")?;
        let each = |text: &str| vec![text.to_owned(); events.len()];
        let emails: Vec<String> =
            (0..events.len()).map(|number| format!("user.number{number}@example.com")).collect();
        let raws = users.iter().zip(&emails).map(|(user, email)| {
            to_raw_value(&json!({
                "object": "user", "id": user.id, "email": email, "first_name": "User", "last_name": "Number",
                "name": "User Number", "email_verified": true, "external_id": null, "metadata": {},
                "last_sign_in_at": null, "locale": "en-US", "created_at": user.updated_at,
                "profile_picture_url": PICTURE, "updated_at": user.updated_at,
            }))
            .map(Json)
        });
        // The columns that a new user has, personal values redacted.
        let from_nothing = |new: Value| json!({"old": null, "new": new});
        let changes = users.iter().map(|user| {
            let redacted = from_nothing(json!("redacted"));
            let at = from_nothing(json!(user.updated_at));
            to_raw_value(&json!({
                "email": redacted, "first_name": redacted, "last_name": redacted, "name": redacted,
                "profile_picture_url": redacted, "email_verified": from_nothing(json!(true)), "metadata": redacted,
                "locale": from_nothing(json!("en-US")), "created_at": at, "updated_at": at,
            }))
            .map(Json)
        });
        Ok(Self {
            events: events.iter().map(|event| event.id.clone()).collect(),
            objects: users.iter().map(|user| user.id.clone()).collect(),
            first_names: each("User"),
            last_names: each("Number"),
            names: each("User Number"),
            pictures: each(PICTURE),
            times: users.iter().map(|user| user.updated_at).collect(),
            raws: raws.collect::<Result<_, _>>()?,
            changes: changes.collect::<Result<_, _>>()?,
            emails,
        })
    }

    async fn write(&self, connection: &mut PgConnection, statements: [&'static str; 3]) -> sqlx::Result<()> {
        let [users, events, audit] = statements;
        let mut transaction = connection.begin().await?;
        sqlx::query(users)
            .bind(ENVIRONMENT)
            .bind(&self.objects)
            .bind(&self.emails)
            .bind(&self.first_names)
            .bind(&self.last_names)
            .bind(&self.names)
            .bind(&self.pictures)
            .bind(&self.times)
            .bind(&self.raws)
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
