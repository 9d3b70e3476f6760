//! Every field that WorkOS documents has a column of its own: what the vendor's SDK reads of an object does not stand in
//! `_raw` alone, where only what nobody documented belongs. And what a column refers to, the worker knows to be there first.

use std::collections::BTreeSet;

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_json::{Map, Value, json};
use shared::id::Kind;
use support::world::{World, mirror};
use worker::object::{hangs_on, table};
use workos::models;

/// A field that nobody documented.
const UNKNOWN: &str = "planet";

/// Takes down which fields a model wants to read, and reads none.
struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("it is no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("only its names are wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    let read = T::deserialize(Names(&mut names));
    assert!(read.is_err() && !names.is_empty(), "the SDK's model tells its fields");
    names
}

/// The fields that the SDK reads of an object; none of what has no fields but what it belongs to.
fn documented(kind: Kind) -> Option<&'static [&'static str]> {
    Some(match kind {
        Kind::User => fields::<models::User>(),
        Kind::Organization => fields::<models::Organization>(),
        Kind::OrganizationDomain => fields::<models::OrganizationDomain>(),
        Kind::OrganizationMembership => fields::<models::UserOrganizationMembership>(),
        Kind::Directory => fields::<models::Directory>(),
        Kind::DirectoryUser => fields::<models::DirectoryUserWithGroups>(),
        Kind::DirectoryGroup => fields::<models::DirectoryGroup>(),
        Kind::Group => fields::<models::Group>(),
        Kind::Session => fields::<models::UserSessionsListItem>(),
        Kind::ApiKey => fields::<models::OrganizationApiKey>(),
        Kind::Connection => fields::<models::Connection>(),
        Kind::Invitation => fields::<models::UserInvite>(),
        Kind::Role | Kind::OrganizationRole => fields::<models::Role>(),
        Kind::Permission => fields::<models::AuthorizationPermission>(),
        Kind::FeatureFlag => fields::<models::Flag>(),
        Kind::DirectoryGroupMembership | Kind::GroupMembership => return None,
    })
}

/// Documented fields that are not kept at all: copies of other objects, and secrets.
const fn dropped(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Organization => &["domains"],
        Kind::OrganizationDomain => &["verification_token"],
        Kind::OrganizationMembership => &["user"],
        Kind::DirectoryUser => &["groups"],
        Kind::Invitation => &["accept_invitation_url", "token"],
        _ => &[],
    }
}

/// Documented fields without a column of their name: what it is stands in the name of the table, and the roles of a
/// membership have columns for their slugs, which is all they are.
const fn without_a_column(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::OrganizationMembership => &["object", "role", "roles"],
        _ => &["object"],
    }
}

/// Something that a column of this type can hold.
fn something(field: &str, data_type: &str) -> Value {
    match data_type {
        "boolean" => json!(true),
        "timestamp with time zone" => json!("2026-01-15T12:00:00.000Z"),
        "jsonb" => json!({ "planted": field }),
        "ARRAY" => json!([field]),
        _ => json!(format!("planted {field}")),
    }
}

/// The columns of a kind, each with something that it can hold.
async fn columns(world: &World, kind: Kind) -> Map<String, Value> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT column_name::text, data_type::text
           FROM information_schema.columns
          WHERE table_schema = 'workos' AND table_name = $1",
    )
    .bind(mirror::table(kind))
    .fetch_all(world.pool())
    .await
    .expect("the columns");
    columns.into_iter().map(|(name, data_type)| (name.clone(), something(&name, &data_type))).collect()
}

#[tokio::test]
async fn what_workos_documents_has_a_column_and_only_the_unknown_stands_in_raw_alone() {
    let world = World::start().await;
    let sim = world.sim();
    let mut made = Vec::new();
    for kind in Kind::ALL {
        let Some(documented) = documented(kind) else { continue };
        let key = sim.make(kind, false);
        let shown = sim.get(kind, &key).expect("an object");
        let mut planted = columns(&world, kind).await;
        planted.retain(|field, _| documented.contains(&field.as_str()) && shown[field].is_null());
        planted.insert(UNKNOWN.to_owned(), json!("earth"));
        assert!(sim.silently_update(kind, &key, planted.into(), true));
        made.push((kind, key, documented));
    }
    let ended = world.worker_command(&["backfill"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);

    for (kind, key, documented) in made {
        let row = world.row(kind, &key).await.expect("a row");
        let elsewhere = [dropped(kind), without_a_column(kind)].concat();
        for field in documented.iter().filter(|field| !elsewhere.contains(field)) {
            assert!(!row[field].is_null(), "{kind}: {field} is nowhere or in _raw alone");
        }
        let raw = row["_raw"].as_object().expect("an object");
        let mut only_there: Vec<&str> =
            raw.keys().map(String::as_str).filter(|field| row.get(field).is_none()).collect();
        only_there.sort_unstable();
        let mut expected = [without_a_column(kind), &[UNKNOWN]].concat();
        expected.sort_unstable();
        assert_eq!(only_there, expected, "{kind}");
        assert!(dropped(kind).iter().all(|field| !raw.contains_key(*field)), "{kind}");
    }
    world.assert_in_step().await;
}

/// The foreign keys of the mirror, from the table that has one to the table that it refers to.
const REFERENCES: &str = "
    SELECT child.relname::text, parent.relname::text
      FROM pg_constraint AS reference
      JOIN pg_class AS child ON child.oid = reference.conrelid
      JOIN pg_class AS parent ON parent.oid = reference.confrelid
     WHERE reference.contype = 'f' AND child.relnamespace = 'workos'::regnamespace";

/// Tables without a kind of their own: what of a kind has no place in its table.
const PARTS: [(&str, Kind); 1] = [("profiles", Kind::User)];

/// Kinds whose rows leave a reference of their table empty: a role of the environment is of no organization.
const WITHOUT: [(Kind, Kind); 1] = [(Kind::Role, Kind::Organization)];

/// The kinds that a table has objects of.
fn kinds_in(wanted: &str) -> Vec<Kind> {
    let part = PARTS.iter().find(|(name, _)| *name == wanted).map(|(_, kind)| *kind);
    Kind::ALL.into_iter().filter(|kind| table(*kind) == wanted || part == Some(*kind)).collect()
}

#[tokio::test]
async fn a_kind_hangs_on_all_that_its_table_refers_to_and_on_nothing_else() {
    let world = World::builder().workers(0).ingests(0).start().await;
    let references: Vec<(String, String)> =
        sqlx::query_as(REFERENCES).fetch_all(world.pool()).await.expect("the foreign keys");
    let mut referred: BTreeSet<(Kind, Kind)> = BTreeSet::new();
    for (child, parent) in &references {
        let (children, parents) = (kinds_in(child), kinds_in(parent));
        assert!(
            !children.is_empty() && !parents.is_empty(),
            "{child} refers to {parent}: which kinds are that?"
        );
        let pairs = children.iter().flat_map(|child| parents.iter().map(|parent| (*child, *parent)));
        // A part refers to what it is a part of.
        referred.extend(pairs.filter(|(child, parent)| child != parent));
    }
    for pair in WITHOUT {
        assert!(referred.remove(&pair), "{} needs no exception", pair.0);
    }
    let hanging: BTreeSet<(Kind, Kind)> = Kind::ALL
        .into_iter()
        .flat_map(|kind| hangs_on(kind).iter().map(move |parent| (kind, *parent)))
        .collect();
    let unlike: Vec<_> = hanging.symmetric_difference(&referred).collect();
    assert!(
        unlike.is_empty(),
        "one of `hangs_on` and the foreign keys says so, the other does not: {unlike:?}"
    );
}
