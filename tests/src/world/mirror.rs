//! The one comparison of the mirror with WorkOS.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::Context as _;
use serde_json::Value;
use shared::id::Kind;
use shared::timestamp;
use sqlx::{AssertSqlSafe, PgPool};

use crate::sim::Sim;

/// The typed columns of the mirror as its migrations made them, before an application added its own.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// By table: name and type of each column.
    columns: BTreeMap<String, Vec<(String, Type)>>,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// As instants, to the millisecond.
    Time,
    /// As they are; JSON by structure.
    Plain,
}

/// The table of a kind.
#[must_use]
pub const fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::Organization => "organizations",
        Kind::User => "users",
        Kind::OrganizationDomain => "organization_domains",
        Kind::OrganizationMembership => "organization_memberships",
        Kind::Directory => "directories",
        Kind::DirectoryUser => "directory_users",
        Kind::DirectoryGroup => "directory_groups",
        Kind::DirectoryGroupMembership => "directory_group_memberships",
        Kind::Group => "groups",
        Kind::GroupMembership => "group_memberships",
        Kind::Session => "sessions",
        Kind::ApiKey => "api_keys",
        Kind::Connection => "connections",
        Kind::Invitation => "invitations",
        Kind::Role | Kind::OrganizationRole => "roles",
        Kind::Permission => "permissions",
        Kind::FeatureFlag => "feature_flags",
    }
}

/// By what a row of a kind is found, in SQL.
const fn key_of_a_row(kind: Kind) -> &'static str {
    match kind {
        Kind::Role => "CASE WHEN organization_id IS NULL THEN slug END",
        Kind::OrganizationRole => "organization_id || '/' || slug",
        Kind::Permission | Kind::FeatureFlag => "slug",
        _ => "id",
    }
}

/// Whether a row of the table is of this kind.
fn is_of(kind: Kind, row: &Value) -> bool {
    match kind {
        Kind::Role => row["organization_id"].is_null(),
        Kind::OrganizationRole => !row["organization_id"].is_null(),
        // Those that ended are compared with what events say of them.
        Kind::Session => row["status"] == "active",
        _ => true,
    }
}

/// What WorkOS has. An answer about a role does not say whose it is.
fn objects(sim: &Sim, kind: Kind) -> Vec<Value> {
    if kind != Kind::OrganizationRole {
        return sim.all(kind);
    }
    let roles = sim.ever(kind).into_iter().filter_map(|key| {
        let mut role = sim.get(kind, &key)?;
        role["organization_id"] = key.split('/').next().into();
        Some(role)
    });
    roles.collect()
}

/// What WorkOS says about a column. Its name is the name of the field, with few exceptions.
fn said(kind: Kind, column: &str, object: &Value) -> Value {
    match (kind, column) {
        (Kind::OrganizationMembership, "role_slug") => object["role"]["slug"].clone(),
        (Kind::OrganizationMembership, "role_slugs") => match object["roles"].as_array() {
            Some(roles) => roles.iter().map(|role| role["slug"].clone()).collect(),
            // An answer without the list has the one role.
            None => {
                object["role"]["slug"].as_str().map_or(Value::Null, |slug| Value::from([slug].as_slice()))
            }
        },
        (Kind::ApiKey, "organization_id") => owner(object, "organization"),
        (Kind::ApiKey, "user_id") => owner(object, "user"),
        (Kind::ApiKey, "owner_organization_id") => object["owner"]["organization_id"].clone(),
        _ => object[column].clone(),
    }
}

/// The id of an owner that is of this type.
fn owner(object: &Value, of_type: &str) -> Value {
    let owner = &object["owner"];
    if owner["type"] == of_type { owner["id"].clone() } else { Value::Null }
}

/// The columns of a profile that follow its user, and the user's fields.
const PROFILE: [(&str, &str); 3] =
    [("first_name", "first_name"), ("last_name", "last_name"), ("avatar_url", "profile_picture_url")];

/// Columns of a session that only lists tell of.
const LISTED_ALONE: [&str; 3] = ["impersonator", "ip_address", "user_agent"];

impl Mirror {
    /// Looks which columns there are.
    pub async fn read(pool: &PgPool) -> anyhow::Result<Self> {
        let found: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT table_name::text, column_name::text, data_type::text
               FROM information_schema.columns
              WHERE table_schema = 'workos'
                AND left(column_name, 1) <> '_'
              ORDER BY table_name, ordinal_position",
        )
        .fetch_all(pool)
        .await
        .context("failed to read the columns of the mirror")?;
        let mut columns: BTreeMap<String, Vec<(String, Type)>> = BTreeMap::new();
        for (table, column, data_type) in found {
            let data_type = if data_type.starts_with("timestamp") { Type::Time } else { Type::Plain };
            columns.entry(table).or_default().push((column, data_type));
        }
        Ok(Self { columns })
    }

    /// What differs between the live rows of `env` and the objects of WorkOS, a sentence each.
    pub async fn differences(&self, pool: &PgPool, sim: &Sim, env: &str) -> anyhow::Result<Vec<String>> {
        let mut differences = Vec::new();
        for kind in Kind::ALL {
            let table = table(kind);
            let mut rows = live_rows(pool, table, env).await?;
            rows.retain(|_, row| is_of(kind, row));
            let mut objects = by_id(objects(sim, kind));
            objects.retain(|_, object| kind != Kind::Session || object["status"] == "active");
            differences.extend(one_sided(table, &rows, &objects));
            for (id, object) in &objects {
                let Some(row) = rows.get(id) else { continue };
                for (column, data_type) in self.columns.get(table).into_iter().flatten() {
                    let (here, there) = (&row[column], said(kind, column, object));
                    differences.extend(unlike(table, id, column, *data_type, here, &there));
                }
            }
            if kind == Kind::User {
                differences.extend(profiles(&live_rows(pool, "profiles", env).await?, &objects));
            }
        }
        differences.extend(self.ended_sessions(pool, sim, env).await?);
        Ok(differences)
    }

    /// What differs between the sessions that events which the ledger settled declared revoked, of users who are there, and
    /// what stands of them.
    async fn ended_sessions(&self, pool: &PgPool, sim: &Sim, env: &str) -> anyhow::Result<Vec<String>> {
        const ENDED: &str = "sessions that ended:";
        let table = table(Kind::Session);
        let mut rows = live_rows(pool, table, env).await?;
        rows.retain(|_, row| row["status"] == "revoked");
        let settled: Vec<String> = sqlx::query_scalar(
            "SELECT id FROM workos_sync.events
              WHERE env = $1 AND type = 'session.revoked' AND outcome IN ('applied', 'unchanged', 'superseded')",
        )
        .bind(env)
        .fetch_all(pool)
        .await
        .context("failed to read workos_sync.events")?;
        let settled: HashSet<String> = settled.into_iter().collect();
        let ends = sim.told("session.revoked").into_iter().filter(|event| settled.contains(&event.id));
        let mut ends = by_id(ends.map(|event| event.data).collect());
        ends.retain(|_, end| end["user_id"].as_str().is_some_and(|user| sim.get(Kind::User, user).is_some()));
        let mut differences: Vec<String> = one_sided(ENDED, &rows, &ends).collect();
        for (id, end) in &ends {
            let Some(row) = rows.get(id) else { continue };
            for (column, data_type) in self.columns.get(table).into_iter().flatten() {
                // What does not travel with an event was told by a list before, or by nobody.
                if LISTED_ALONE.contains(&column.as_str()) && row[column].is_null() {
                    continue;
                }
                differences.extend(unlike(ENDED, id, column, *data_type, &row[column], &end[column]));
            }
        }
        Ok(differences)
    }
}

/// The row of an object, live or tombstone; of what was made again under the same key, the one that lives.
pub async fn row(pool: &PgPool, kind: Kind, id: &str) -> anyhow::Result<Option<Value>> {
    let table = table(kind);
    let key = key_of_a_row(kind);
    sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT to_jsonb(t) FROM workos.{table} t WHERE {key} = $1 ORDER BY _deleted_at DESC NULLS FIRST LIMIT 1"
    )))
        .bind(id)
        .fetch_optional(pool)
        .await
        .with_context(|| format!("failed to read workos.{table}"))
}

/// Differences as a list for people, not longer than anybody reads.
#[must_use]
pub fn listing(differences: &[String]) -> String {
    const SHOWN: usize = 40;
    let mut text = format!("the mirror differs from WorkOS in {} places:\n", differences.len());
    for difference in differences.iter().take(SHOWN) {
        text.push_str("    ");
        text.push_str(difference);
        text.push('\n');
    }
    if differences.len() > SHOWN {
        text.push_str("    ...\n");
    }
    text
}

async fn live_rows(pool: &PgPool, table: &str, env: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let rows: Vec<Value> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT to_jsonb(t) FROM workos.{table}_live t WHERE _env = $1"
    )))
    .bind(env)
    .fetch_all(pool)
    .await
    .with_context(|| format!("failed to read workos.{table}_live"))?;
    Ok(by_id(rows))
}

fn by_id(objects: Vec<Value>) -> BTreeMap<String, Value> {
    objects.into_iter().map(|object| (key(&object), object)).collect()
}

/// What names it on both sides: its id, or those of the two that belong together.
fn key(object: &Value) -> String {
    let id = |field: &str| object[field].as_str();
    let group = id("directory_group_id").or(id("group_id"));
    let member = id("directory_user_id").or(id("organization_membership_id"));
    match (group, member) {
        (Some(group), Some(member)) => format!("{group}/{member}"),
        _ => object["id"].as_str().unwrap_or_default().to_owned(),
    }
}

/// Objects without a row, and rows without an object.
fn one_sided(
    table: &str,
    rows: &BTreeMap<String, Value>,
    objects: &BTreeMap<String, Value>,
) -> impl Iterator<Item = String> {
    let here: BTreeSet<&String> = rows.keys().collect();
    let there: BTreeSet<&String> = objects.keys().collect();
    let missing: Vec<String> = there
        .difference(&here)
        .map(|id| format!("{table} {id}: WorkOS has it, the mirror does not"))
        .collect();
    let extra: Vec<String> = here
        .difference(&there)
        .map(|id| format!("{table} {id}: the mirror has it, WorkOS does not"))
        .collect();
    missing.into_iter().chain(extra)
}

fn profiles(rows: &BTreeMap<String, Value>, users: &BTreeMap<String, Value>) -> Vec<String> {
    let mut differences: Vec<String> = one_sided("profiles", rows, users).collect();
    for (id, user) in users {
        let Some(row) = rows.get(id) else { continue };
        for (column, field) in PROFILE {
            differences.extend(unlike("profiles", id, column, Type::Plain, &row[column], &user[field]));
        }
    }
    differences
}

fn unlike(
    table: &str,
    id: &str,
    column: &str,
    data_type: Type,
    here: &Value,
    there: &Value,
) -> Option<String> {
    let same = match data_type {
        Type::Plain => here == there,
        Type::Time => instant(here) == instant(there),
    };
    (!same).then(|| format!("{table} {id}: {column} is {here} in the mirror and {there} in WorkOS"))
}

/// A time that cannot be read is compared as it is.
fn instant(value: &Value) -> Result<chrono::DateTime<chrono::Utc>, &Value> {
    value.as_str().and_then(timestamp::parse).ok_or(value)
}
