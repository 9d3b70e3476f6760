//! The guard: `workos_sync.objects`. The one place where races are settled.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use shared::id::ObjectRef;
use sqlx::{PgConnection, PgExecutor};

use crate::database::sparse;

/// How we learned that an object is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletedBy {
    /// A verified `*.deleted` event: final, an answer of 200 shortly after does not revive it.
    Event,
    /// A 404 that repeated.
    Answer,
    /// Its parent is gone.
    Cascade,
}

impl DeletedBy {
    const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Answer => "answer",
            Self::Cascade => "cascade",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Event, Self::Answer, Self::Cascade].into_iter().find(|by| by.name() == name)
    }
}

/// How long what an event declared deleted stays so, whatever WorkOS answers: its deletions may take a while to
/// show everywhere, but not this long.
pub const REVIVE_AFTER: TimeDelta = TimeDelta::minutes(10);

/// The life of a stream: sequences start again when it is made anew, so they are compared only
/// within one.
pub type Life = DateTime<Utc>;

/// What the guard knows of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Fence of the answer that was taken.
    pub fence: i64,
    /// Events up to this sequence are answered, in that life of the stream.
    pub covers: Option<(Life, i64)>,
    /// When its question was asked.
    pub asked_at: Option<DateTime<Utc>>,
    /// `updated_at` of the answer that was taken.
    pub updated_at: Option<DateTime<Utc>>,
    /// When it was first answered with an unexplained 404.
    pub missing_since: Option<DateTime<Utc>>,
    /// How we learned that it is gone, if it is.
    pub deleted_by: Option<DeletedBy>,
    /// When we learned it.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Where a key may be used again: when the object was made that the answer showed.
    pub born_at: Option<DateTime<Utc>>,
    /// Where a key may be used again: the last deletion that an event told of, by WorkOS's clock.
    pub died_at: Option<DateTime<Utc>>,
    /// Whether the mirror has a row for it.
    pub has_row: bool,
}

/// One event and its object, to be looked up.
pub struct Wanted<'a> {
    /// Id of the event.
    pub event_id: &'a str,
    /// The object, if the event names one that we mirror.
    pub object: Option<&'a ObjectRef>,
}

/// What is known of an event and its object; nothing, when neither was ever heard of.
#[derive(Default)]
pub struct Found {
    /// Outcome of the event, if it has one already.
    pub settled: Option<String>,
    /// Attempts that it used up.
    pub attempts: u32,
    /// Redeliveries of it that were begun since the last one that ended.
    pub begun: u32,
    /// What the guard knows of its object.
    pub known: Option<Known>,
}

/// Looks up what is already applied, and takes a fence: one query, before any question leaves.
pub async fn look_up(
    database: impl PgExecutor<'_>,
    env: &str,
    wanted: &[Wanted<'_>],
) -> sqlx::Result<(i64, Vec<Found>)> {
    let events: Vec<&str> = wanted.iter().map(|wanted| wanted.event_id).collect();
    let kinds: Vec<Option<&str>> =
        wanted.iter().map(|wanted| wanted.object.map(|object| object.kind.name())).collect();
    let ids: Vec<Option<&str>> =
        wanted.iter().map(|wanted| wanted.object.map(|object| object.id.as_str())).collect();
    // The fence, and a row for each of which anything is known: of new events about new objects, nothing.
    let rows = sqlx::query!(
        r#"
        SELECT question.fence AS "taken!",
               found.position AS "position?",
               found.event_outcome AS "event_outcome?",
               found.event_attempts AS "event_attempts?",
               found.event_begun AS "event_begun?",
               found.fence AS "fence?",
               found.stream AS "stream?",
               found.covers AS "covers?",
               found.asked_at AS "asked_at?",
               found.updated_at AS "updated_at?",
               found.missing_since AS "missing_since?",
               found.deleted_by AS "deleted_by?",
               found.deleted_at AS "deleted_at?",
               found.born_at AS "born_at?",
               found.died_at AS "died_at?",
               found.has_row AS "has_row?"
        FROM (SELECT nextval('workos_sync.fence') AS fence) AS question
        LEFT JOIN (
            SELECT wanted.position,
                   event.outcome AS event_outcome,
                   event.attempts AS event_attempts,
                   event.begun AS event_begun,
                   object.fence,
                   object.stream,
                   object.covers,
                   object.asked_at,
                   object.updated_at,
                   object.missing_since,
                   object.deleted_by,
                   object.deleted_at,
                   object.born_at,
                   object.died_at,
                   object.has_row
            FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS wanted (event_id, kind, id, position)
            LEFT JOIN LATERAL (
                SELECT outcome, attempts, begun
                FROM workos_sync.events
                WHERE env = $1 AND id = wanted.event_id
                LIMIT 1
            ) AS event ON true
            LEFT JOIN LATERAL (
                SELECT * FROM workos_sync.objects WHERE env = $1 AND kind = wanted.kind AND id = wanted.id LIMIT 1
            ) AS object ON true
            WHERE event.attempts IS NOT NULL OR object.fence IS NOT NULL
        ) AS found ON true
        "#,
        env,
        &events as _,
        &kinds as _,
        &ids as _,
    )
    .fetch_all(database)
    .await?;
    let count = |column: Option<i32>| column.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let fence = rows.first().map_or(0, |row| row.taken);
    let mut found: Vec<Found> = wanted.iter().map(|_| Found::default()).collect();
    for row in rows {
        let Some(place) = row.position.and_then(place_of).and_then(|place| found.get_mut(place)) else {
            continue;
        };
        *place = Found {
            settled: row.event_outcome,
            attempts: count(row.event_attempts),
            begun: count(row.event_begun),
            known: row.fence.map(|fence| Known {
                fence,
                covers: row.stream.zip(row.covers),
                asked_at: row.asked_at,
                updated_at: row.updated_at,
                missing_since: row.missing_since,
                deleted_by: row.deleted_by.as_deref().and_then(DeletedBy::parse),
                deleted_at: row.deleted_at,
                born_at: row.born_at,
                died_at: row.died_at,
                has_row: row.has_row.unwrap_or(false),
            }),
        };
    }
    Ok((fence, found))
}

/// What the guard knows of these objects; those it never heard of are absent.
pub async fn known(
    database: impl PgExecutor<'_>,
    env: &str,
    objects: &[&ObjectRef],
) -> sqlx::Result<HashMap<ObjectRef, Known>> {
    let (kinds, ids) = keys(objects);
    let rows = sqlx::query!(
        r#"
        SELECT wanted.position AS "position!",
               object.fence,
               object.stream,
               object.covers,
               object.asked_at,
               object.updated_at,
               object.missing_since,
               object.deleted_by,
               object.deleted_at,
               object.born_at,
               object.died_at,
               object.has_row
        FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS wanted (kind, id, position)
        CROSS JOIN LATERAL (
            SELECT * FROM workos_sync.objects WHERE env = $1 AND kind = wanted.kind AND id = wanted.id LIMIT 1
        ) AS object
        "#,
        env,
        &kinds as _,
        &ids as _,
    )
    .fetch_all(database)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let object = objects.get(place_of(row.position)?)?;
            let known = Known {
                fence: row.fence,
                covers: row.stream.map(|stream| (stream, row.covers)),
                asked_at: row.asked_at,
                updated_at: row.updated_at,
                missing_since: row.missing_since,
                deleted_by: row.deleted_by.as_deref().and_then(DeletedBy::parse),
                deleted_at: row.deleted_at,
                born_at: row.born_at,
                died_at: row.died_at,
                has_row: row.has_row,
            };
            Some(((*object).clone(), known))
        })
        .collect())
}

/// The place of an ordinality of Postgres, which counts from one.
fn place_of(position: i64) -> Option<usize> {
    usize::try_from(position).ok()?.checked_sub(1)
}

fn keys<'a>(objects: &[&'a ObjectRef]) -> (Vec<&'static str>, Vec<&'a str>) {
    objects.iter().map(|object| (object.kind.name(), object.id.as_str())).unzip()
}

/// What an answer says about an object, for the guard.
#[derive(Clone, Copy, Debug)]
pub enum Claim {
    /// It is there.
    Present {
        /// `updated_at` of the answer.
        updated_at: Option<DateTime<Utc>>,
        /// When it was made, where its key may be used again.
        born_at: Option<DateTime<Utc>>,
        /// Whether events up to the batch's `covers` are answered by it.
        complete: bool,
    },
    /// It is gone.
    Gone(DeletedBy),
    /// A verified event says that whatever had this key by then is gone. It tells nothing of what has it now, so it
    /// answers no other event, and is no later than any answer.
    Ended(DateTime<Utc>),
    /// It was not found, and nothing explains it yet.
    Missing,
    /// Nothing is said about it: it is a parent whose state must not change while its children are
    /// written.
    Hold,
}

/// How far the answers of a batch reach.
#[derive(Clone, Copy, Debug)]
pub struct Covers {
    /// In which life of the stream.
    pub life: Life,
    /// Events up to this sequence were published before the fence was taken.
    pub sequence: i64,
}

/// The question that a batch of claims stands on.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Taken before it left.
    pub fence: i64,
    /// What was known to be published by then.
    pub covers: Option<Covers>,
    /// Now.
    pub at: DateTime<Utc>,
}

/// Takes a fence, before a question leaves that is about no object in particular.
pub async fn fence(database: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"SELECT nextval('workos_sync.fence') AS "taken!""#).fetch_one(database).await
}

/// Objects that were won, and whether the guard had never heard of them.
pub type Won = HashMap<ObjectRef, bool>;

/// Claims objects. Only a higher fence wins, but for a verified deletion, which is final whenever it
/// comes; an object that an event declared deleted is not revived, unless that was before `revives` or its key was
/// used again since; an answer older than the one that was taken is refused; a second 404 counts only while the first still stands. Every row is locked in key
/// order, also those that are not won, so that two claims cannot deadlock and the state of parents stands
/// still until the transaction ends.
#[expect(clippy::too_many_lines, reason = "one statement and the arrays it takes")]
pub async fn claim(
    connection: &mut PgConnection,
    env: &str,
    question: Question,
    revives: Option<DateTime<Utc>>,
    claims: &[(&ObjectRef, Claim)],
) -> sqlx::Result<Won> {
    let mut ordered: Vec<_> = claims.to_vec();
    ordered.sort_unstable_by_key(|(object, _)| *object);
    let objects: Vec<&ObjectRef> = ordered.iter().map(|(object, _)| *object).collect();
    let (kinds, ids) = keys(&objects);
    // A 404 that nothing explains is no answer yet: it must not keep out the answer of an earlier question.
    let answered: Vec<bool> =
        ordered.iter().map(|(_, claim)| matches!(claim, Claim::Present { .. } | Claim::Gone(_))).collect();
    let covering: Vec<bool> = ordered
        .iter()
        .map(|(_, claim)| matches!(claim, Claim::Present { complete: true, .. } | Claim::Gone(_)))
        .collect();
    let has_row: Vec<bool> =
        ordered.iter().map(|(_, claim)| matches!(claim, Claim::Present { .. })).collect();
    let each = |value: &dyn Fn(Claim) -> Option<DateTime<Utc>>| -> Vec<Option<DateTime<Utc>>> {
        sparse(ordered.iter().map(|(_, claim)| value(*claim)).collect())
    };
    let updated_at = each(&|claim| match claim {
        Claim::Present { updated_at, .. } => updated_at,
        _ => None,
    });
    let missing_since = each(&|claim| matches!(claim, Claim::Missing).then_some(question.at));
    let born_at = each(&|claim| match claim {
        Claim::Present { born_at, .. } => born_at,
        _ => None,
    });
    let died_at = each(&|claim| match claim {
        Claim::Ended(at) => Some(at),
        _ => None,
    });
    let deleted_by: Vec<Option<&str>> = sparse(
        ordered
            .iter()
            .map(|(_, claim)| match claim {
                Claim::Gone(by) => Some(by.name()),
                Claim::Ended(_) => Some(DeletedBy::Event.name()),
                _ => None,
            })
            .collect(),
    );
    let (life, sequence) = question.covers.map_or((None, 0), |covers| (Some(covers.life), covers.sequence));
    let rows = sqlx::query!(
        r#"
        INSERT INTO workos_sync.objects AS object (
            env, kind, id, fence, stream, covers, asked_at, updated_at, missing_since, deleted_at, deleted_by,
            born_at, died_at, has_row, outcome
        )
        SELECT $1, kind, id,
               CASE WHEN answered THEN $3::bigint ELSE 0 END,
               CASE WHEN covering THEN $4::timestamptz END,
               CASE WHEN covering THEN $5::bigint ELSE 0 END,
               CASE WHEN answered THEN $2::timestamptz END,
               updated_at,
               missing_since,
               CASE WHEN deleted_by IS NOT NULL THEN $2::timestamptz END,
               deleted_by, born_at, died_at, has_row,
               CASE WHEN has_row THEN 'applied' WHEN deleted_by IS NOT NULL THEN 'deleted' END
        -- Row after row as the arrays have them, which is in key order.
        FROM (
            SELECT unnest($7::text[]) AS kind,
                   unnest($8::text[]) AS id,
                   unnest($9::bool[]) AS answered,
                   unnest($10::bool[]) AS covering,
                   unnest($11::bool[]) AS has_row,
                   unnest($12::timestamptz[]) AS updated_at,
                   unnest($13::timestamptz[]) AS missing_since,
                   unnest($14::text[]) AS deleted_by,
                   unnest($15::timestamptz[]) AS born_at,
                   unnest($16::timestamptz[]) AS died_at
        ) AS claim
        ON CONFLICT (env, kind, id) DO UPDATE
        SET fence = greatest(object.fence, EXCLUDED.fence),
            stream = coalesce(EXCLUDED.stream, object.stream),
            covers = CASE WHEN EXCLUDED.stream IS NULL THEN object.covers ELSE EXCLUDED.covers END,
            asked_at = coalesce(EXCLUDED.asked_at, object.asked_at),
            updated_at = coalesce(EXCLUDED.updated_at, object.updated_at),
            missing_since = CASE
                WHEN EXCLUDED.missing_since IS NOT NULL THEN coalesce(object.missing_since, EXCLUDED.missing_since)
            END,
            deleted_at = CASE
                WHEN EXCLUDED.missing_since IS NOT NULL THEN object.deleted_at
                WHEN EXCLUDED.deleted_at IS NOT NULL THEN coalesce(object.deleted_at, EXCLUDED.deleted_at)
            END,
            deleted_by = CASE
                WHEN EXCLUDED.missing_since IS NOT NULL THEN object.deleted_by
                WHEN EXCLUDED.has_row AND (object.deleted_at < $6 OR EXCLUDED.born_at >= object.died_at) THEN NULL
                WHEN 'event' IN (object.deleted_by, EXCLUDED.deleted_by) THEN 'event'
                WHEN EXCLUDED.deleted_by IS NOT NULL THEN coalesce(object.deleted_by, EXCLUDED.deleted_by)
            END,
            born_at = coalesce(EXCLUDED.born_at, object.born_at),
            died_at = CASE
                -- That deletion was not one.
                WHEN EXCLUDED.has_row AND object.deleted_at < $6 AND EXCLUDED.born_at < object.died_at THEN NULL
                ELSE greatest(object.died_at, EXCLUDED.died_at)
            END,
            has_row = object.has_row OR EXCLUDED.has_row,
            outcome = coalesce(EXCLUDED.outcome, object.outcome)
        WHERE (
                object.fence < EXCLUDED.fence
                OR EXCLUDED.deleted_by = 'event'
                OR (EXCLUDED.missing_since IS NOT NULL AND object.fence < $3)
              )
          AND (
                EXCLUDED.deleted_by IS DISTINCT FROM 'answer'
                OR object.missing_since IS NOT NULL
                OR object.deleted_at IS NOT NULL
              )
          AND (
                object.deleted_by IS DISTINCT FROM 'event'
                OR EXCLUDED.deleted_at IS NOT NULL
                OR (EXCLUDED.has_row AND object.deleted_at < $6)
                OR EXCLUDED.born_at >= object.died_at
                OR (EXCLUDED.missing_since IS NOT NULL AND object.died_at IS NOT NULL)
              )
          AND coalesce(object.deleted_at IS NOT NULL OR object.born_at < EXCLUDED.died_at, true)
          AND coalesce(EXCLUDED.updated_at >= object.updated_at, true)
        RETURNING kind, id, (xmax = 0) AS "inserted!"
        "#,
        env,
        question.at,
        question.fence,
        life,
        sequence,
        revives,
        &kinds as _,
        &ids as _,
        &answered,
        &covering,
        &has_row,
        &updated_at as _,
        &missing_since as _,
        &deleted_by as _,
        &born_at as _,
        &died_at as _,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| Some((ObjectRef::new(row.kind.parse().ok()?, row.id), row.inserted)))
        .collect())
}

/// Declares objects gone because their parent is, whatever their fence: a child cannot outlive it.
pub async fn cascade(
    connection: &mut PgConnection,
    env: &str,
    question: Question,
    objects: &[&ObjectRef],
) -> sqlx::Result<()> {
    let mut ordered: Vec<&ObjectRef> = objects.to_vec();
    ordered.sort_unstable();
    ordered.dedup();
    let (kinds, ids) = keys(&ordered);
    sqlx::query!(
        r#"
        INSERT INTO workos_sync.objects AS object (
            env, kind, id, fence, asked_at, deleted_at, deleted_by, has_row, outcome
        )
        SELECT $1, kind, id, $2, $3, $3, 'cascade', true, 'deleted'
        FROM unnest($4::text[], $5::text[]) WITH ORDINALITY AS gone (kind, id, position)
        ORDER BY position
        ON CONFLICT (env, kind, id) DO UPDATE
        SET fence = greatest(object.fence, EXCLUDED.fence),
            missing_since = NULL,
            deleted_at = coalesce(object.deleted_at, EXCLUDED.deleted_at),
            deleted_by = coalesce(object.deleted_by, EXCLUDED.deleted_by),
            outcome = EXCLUDED.outcome
        "#,
        env,
        question.fence,
        question.at,
        &kinds as _,
        &ids as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that the last answer changed nothing.
pub async fn unchanged(connection: &mut PgConnection, env: &str, objects: &[&ObjectRef]) -> sqlx::Result<()> {
    let (kinds, ids) = keys(objects);
    sqlx::query!(
        r#"
        UPDATE workos_sync.objects AS object
        SET outcome = 'unchanged'
        FROM unnest($2::text[], $3::text[]) AS same (kind, id)
        CROSS JOIN LATERAL (
            SELECT ctid FROM workos_sync.objects WHERE env = $1 AND kind = same.kind AND id = same.id LIMIT 1
        ) AS claimed
        WHERE object.ctid = claimed.ctid
        "#,
        env,
        &kinds as _,
        &ids as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}
