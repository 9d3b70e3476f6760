//! The kinds of objects, one file each, always in the same order: its columns, where WorkOS keeps
//! it, how an answer is read, what the mirror has, how it is written, how it is buried, what it hangs
//! on.
//!
//! A new kind is its file, one line in the list below, and its line in `shared::id::Kind`. One that is known by its slug
//! says so there, because a slug may be used again: its file also says what an answer is known by.

pub mod api_key;
pub mod columns;
pub mod connection;
pub mod directory;
pub mod directory_group;
pub mod directory_group_membership;
pub mod directory_user;
mod door;
pub mod feature_flag;
mod fields;
pub mod group;
pub mod group_membership;
pub mod invitation;
mod listed;
pub mod organization;
pub mod organization_domain;
pub mod organization_membership;
pub mod organization_role;
pub mod permission;
pub mod role;
pub mod session;
pub mod user;
pub(crate) mod whole;

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use shared::event::Member;
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use columns::Change;
use fields::Fields;
use listed::segment;
pub use listed::{Composition, Listed, list_under, list_within};

/// The lists of what belongs to an object, each with the kind that it lists.
pub fn lists_of(object: &ObjectRef) -> impl Iterator<Item = (Kind, String)> {
    Kind::ALL.into_iter().flat_map(move |kind| {
        belonging(kind)
            .iter()
            .filter(|(parent, _)| *parent == object.kind)
            .map(move |(_, path)| (kind, list_under(path, &object.id)))
    })
}

/// The kind with this name or table.
#[must_use]
pub fn named(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.name() == name || table(*kind) == name)
}

/// What an answer is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// By this.
    Is(String),
    /// It is of another kind than was asked for.
    OfAnotherKind,
    /// It does not say.
    Missing,
}

impl Key {
    fn id(fields: &Fields<'_>) -> Self {
        fields.text("id").map_or(Self::Missing, |id| Self::Is(id.into_owned()))
    }

    /// By its slug; it must have an id all the same.
    fn slug(fields: &Fields<'_>) -> Self {
        match (fields.text("id"), fields.text("slug")) {
            (Some(_), Some(slug)) => Self::Is(slug.into_owned()),
            _ => Self::Missing,
        }
    }

    /// By this within another object.
    fn under(self, of: &str) -> Self {
        match self {
            Self::Is(key) => Self::Is(format!("{of}/{key}")),
            other => other,
        }
    }
}

/// What one answer of WorkOS holds.
pub struct Answered<'a, R> {
    /// The object itself.
    pub row: R,
    /// What must exist for it to be live.
    pub parents: Vec<ObjectRef>,
    /// Other objects that came with it.
    pub embedded: Vec<(Kind, Fields<'a>)>,
}

/// An object as WorkOS has it now.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which one.
    pub object: ObjectRef,
    /// Its columns.
    pub row: Row,
    /// What must exist for it to be live.
    pub parents: Vec<ObjectRef>,
}

impl Record {
    /// Whether events said of some members of a relation what this answer does not say.
    #[must_use]
    pub fn lacks_a_change(&self, members: &BTreeMap<String, Member>) -> bool {
        members.values().any(|member| !self.row.agrees(member))
    }
}

/// Why an answer is not the object that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Misread {
    /// Not JSON.
    #[error("the answer is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but no object.
    #[error("the answer is not a JSON object")]
    NotAnObject,
    /// Another object.
    #[error("the answer is about another object")]
    OtherObject,
    /// An object of another kind, where WorkOS shows two kinds in one place.
    #[error("the answer is about an object of another kind")]
    AnotherKind,
    /// An item of a list without its id.
    #[error("the item has no id")]
    NoId,
}

/// The first for what WorkOS keeps anywhere, the second for what it keeps within another object; or the id of that.
macro_rules! within {
    (; $row:ident; $nowhere:expr) => {{
        let _ = $row;
        $nowhere
    }};
    ($field:ident; $row:ident; $nowhere:expr) => {
        $row.$field.as_deref()
    };
    (; $anywhere:expr, $within:expr) => {
        $anywhere
    };
    ($field:ident; $anywhere:expr, $within:expr) => {
        $within
    };
}

/// The first for an object, the second for a relation.
macro_rules! whole {
    (; $object:expr, $relation:expr) => {
        $object
    };
    (whole; $object:expr, $relation:expr) => {
        $relation
    };
}

/// The first for what is known by its id, the second for what is known by its slug.
macro_rules! by {
    (; $id:expr, $slug:expr) => {
        $id
    };
    (slug; $id:expr, $slug:expr) => {
        $slug
    };
}

macro_rules! kinds {
    ($( $kind:ident => $module:ident $( by $slug:ident )? $( within $holder:ident )? $( as $whole:ident )? ),+ $(,)?) => {
        /// The columns of an object of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Row {
            $(
                #[doc = concat!("A `", stringify!($module), "`.")]
                $kind($module::Row),
            )+
        }

        impl Row {
            /// `updated_at`, where the kind has one.
            #[must_use]
            pub fn updated_at(&self) -> Option<DateTime<Utc>> {
                match self { $( Self::$kind(row) => row.updated_at, )+ }
            }

            /// Whether it is a relation of nothing to nothing, which the mirror has no row for.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                match self { $( Self::$kind(row) => row.is_empty(), )+ }
            }

            /// Whether it says of a member what an event said.
            #[must_use]
            pub fn agrees(&self, member: &Member) -> bool {
                match self { $( Self::$kind(row) => row.agrees(member), )+ }
            }

            /// Takes in how members ended, which no answer tells.
            pub fn hear(&mut self, ends: &[Member]) {
                match self { $( Self::$kind(row) => row.hear(ends), )+ }
            }

            /// The id of the object within which WorkOS keeps it.
            #[must_use]
            pub fn holder(&self) -> Option<&str> {
                match self { $( Self::$kind(row) => within!($( $holder )?; row; None), )+ }
            }

            /// When it was made, where that tells it from an earlier one with the same key.
            #[must_use]
            pub fn born_at(&self) -> Option<DateTime<Utc>> {
                match self { $( Self::$kind(row) => by!($( $slug )?; { let _ = row; None }, row.created_at), )+ }
            }

            /// Whether it is a tombstone in the mirror.
            #[must_use]
            pub fn is_tombstone(&self) -> bool {
                match self { $( Self::$kind(row) => row.deleted_at.is_some(), )+ }
            }

            /// The columns in which it differs from what stands in the mirror.
            #[must_use]
            pub fn changes<'a>(&'a self, old: Option<&'a Self>) -> Vec<Change<'a>> {
                match (self, old) {
                    $( (Self::$kind(new), Some(Self::$kind(old))) => new.changes(Some(old)), )+
                    $( (Self::$kind(new), _) => new.changes(None), )+
                }
            }

            /// The same against what stands there, with the columns that follow another object.
            #[must_use]
            pub fn changes_in_full<'a>(&'a self, old: &'a Self) -> Vec<Change<'a>> {
                match (self, old) {
                    $( (Self::$kind(new), Self::$kind(old)) => new.changes_in_full(old), )+
                    #[allow(unreachable_patterns, reason = "with one kind only")]
                    _ => self.changes(None),
                }
            }
        }

        /// Whether a key of this kind may come to mean another object: then a deletion ends the one that had it by
        /// then, and not the key.
        #[must_use]
        pub const fn reuses_keys(kind: Kind) -> bool {
            match kind { $( Kind::$kind => by!($( $slug )?; false, true), )+ }
        }

        /// Whether the list of a kind comes in pages.
        #[must_use]
        pub const fn is_paged(kind: Kind) -> bool {
            match kind { $( Kind::$kind => by!($( $slug )?; true, $module::PAGED), )+ }
        }

        /// What an answer of this kind is known by; `of` is the object that it was found under, if there is one.
        fn key(kind: Kind, of: Option<&str>, fields: &Fields<'_>) -> Key {
            match kind { $( Kind::$kind => by!($( $slug )?; Key::id(fields), $module::key(of, fields)), )+ }
        }

        /// How everything of a kind is listed.
        #[must_use]
        pub const fn listed(kind: Kind) -> Listed {
            match kind { $( Kind::$kind => $module::LISTED, )+ }
        }

        /// Lists of those of a kind that belong to one object of another kind.
        #[must_use]
        pub const fn belonging(kind: Kind) -> &'static [(Kind, &'static str)] {
            match kind { $( Kind::$kind => $module::BELONGING, )+ }
        }

        /// The table of a kind, in the schema `workos`.
        #[must_use]
        pub const fn table(kind: Kind) -> &'static str {
            match kind { $( Kind::$kind => $module::TABLE, )+ }
        }

        /// The columns of a kind that WorkOS changes without an event.
        #[must_use]
        pub const fn unannounced(kind: Kind) -> &'static [&'static str] {
            match kind { $( Kind::$kind => $module::UNANNOUNCED, )+ }
        }

        /// The next live rows of a kind and an environment, in order of their ids.
        pub async fn live(
            connection: &mut PgConnection,
            kind: Kind,
            env: &str,
            after: &str,
            most: i64,
        ) -> sqlx::Result<Vec<String>> {
            match kind { $( Kind::$kind => $module::live(connection, env, after, most).await, )+ }
        }

        /// What follows these rows in other tables and does not agree with them: object and column.
        pub async fn beside(
            connection: &mut PgConnection,
            rows: &[&Row],
        ) -> sqlx::Result<Vec<(ObjectRef, &'static str)>> {
            let mut differing = Vec::new();
            $(
                let of_kind: Vec<_> = rows
                    .iter()
                    .filter_map(|row| match row { Row::$kind(row) => Some(row), #[allow(unreachable_patterns, reason = "with one kind only")] _ => None })
                    .collect();
                if !of_kind.is_empty() {
                    let found = $module::beside(&mut *connection, &of_kind).await?;
                    differing.extend(
                        found.into_iter().map(|(id, column)| (ObjectRef::new(Kind::$kind, id), column)),
                    );
                }
            )+
            Ok(differing)
        }

        /// Whether WorkOS keeps objects of a kind within another one, without whose id they cannot be asked for.
        #[must_use]
        pub const fn is_within(kind: Kind) -> bool {
            match kind { $( Kind::$kind => within!($( $holder )?; false, true), )+ }
        }

        /// Where WorkOS keeps it; `None` when that is within an object that is not known.
        #[must_use]
        pub fn path(object: &ObjectRef, holder: Option<&str>) -> Option<String> {
            match object.kind {
                $( Kind::$kind => within!(
                    $( $holder )?;
                    Some($module::path(&object.id)),
                    holder.map(|holder| $module::path(holder, &object.id))
                ), )+
            }
        }

        /// Whether it is a relation that is only answered as a whole: everything that belongs to one object, whose id
        /// is the id.
        #[must_use]
        pub const fn is_relation(kind: Kind) -> bool {
            match kind { $( Kind::$kind => whole!($( $whole )?; false, true), )+ }
        }

        /// The kinds of objects that a relation may belong to.
        const fn owners(kind: Kind) -> &'static [Kind] {
            match kind { $( Kind::$kind => whole!($( $whole )?; &[], $module::OWNERS), )+ }
        }

        /// The columns of a kind that hold personal values.
        #[must_use]
        pub const fn personal(kind: Kind) -> &'static [&'static str] {
            match kind { $( Kind::$kind => $module::PERSONAL, )+ }
        }

        /// What the guard knows something by that stands in the table of a kind under this id, where that is not the id.
        pub async fn key_of(
            connection: &mut PgConnection,
            env: &str,
            kind: Kind,
            id: &str,
        ) -> sqlx::Result<Option<ObjectRef>> {
            let key = match kind {
                $( Kind::$kind => whole!(
                    $( $whole )?;
                    by!($( $slug )?; None, $module::key_of(connection, env, id).await?),
                    $module::key_of(connection, env, id).await?
                ), )+
            };
            Ok(key.map(|key| ObjectRef::new(kind, key)))
        }

        fn read_fields(object: ObjectRef, fields: Fields<'_>, records: &mut Vec<Record>) {
            match object.kind {
                $(
                    Kind::$kind => {
                        let answered = $module::read(&object.id, fields);
                        records.push(Record { object, row: Row::$kind(answered.row), parents: answered.parents });
                        for (kind, fields) in answered.embedded {
                            if let Some(id) = fields.text("id") {
                                read_fields(ObjectRef::new(kind, id), fields, records);
                            }
                        }
                    }
                )+
            }
        }

        /// What the mirror has of these objects.
        pub async fn load(
            connection: &mut PgConnection,
            env: &str,
            objects: &[&ObjectRef],
        ) -> sqlx::Result<HashMap<ObjectRef, Row>> {
            let mut rows = HashMap::new();
            $(
                let ids = ids_of(objects, Kind::$kind);
                if !ids.is_empty() {
                    let found = by!(
                        $( $slug )?;
                        $module::load(&mut *connection, &ids).await?,
                        $module::load(&mut *connection, env, &ids).await?
                    );
                    for row in found {
                        rows.insert(ObjectRef::new(Kind::$kind, row.id.clone()), Row::$kind(row));
                    }
                }
            )+
            Ok(rows)
        }

        /// Writes these rows, one statement per kind, parents first. Knows nothing of races: whoever
        /// calls has won the guard.
        pub async fn write(
            connection: &mut PgConnection,
            env: &str,
            at: DateTime<Utc>,
            rows: &[&Row],
        ) -> sqlx::Result<()> {
            $(
                let of_kind: Vec<_> = rows
                    .iter()
                    .filter_map(|row| match row { Row::$kind(row) => Some(row), #[allow(unreachable_patterns, reason = "with one kind only")] _ => None })
                    .collect();
                if !of_kind.is_empty() {
                    $module::write(&mut *connection, env, at, &of_kind).await?;
                }
            )+
            Ok(())
        }

        /// Turns rows into tombstones; returns those that were live.
        pub async fn bury(
            connection: &mut PgConnection,
            env: &str,
            at: DateTime<Utc>,
            objects: &[&ObjectRef],
        ) -> sqlx::Result<Vec<ObjectRef>> {
            let mut buried = Vec::new();
            $(
                let ids = ids_of(objects, Kind::$kind);
                if !ids.is_empty() {
                    let were_live = by!(
                        $( $slug )?;
                        $module::bury(&mut *connection, at, &ids).await?,
                        $module::bury(&mut *connection, env, at, &ids).await?
                    );
                    buried.extend(were_live.into_iter().map(|id| ObjectRef::new(Kind::$kind, id)));
                }
            )+
            Ok(buried)
        }

        /// The kinds of objects that one of a kind hangs on.
        #[must_use]
        pub const fn hangs_on(kind: Kind) -> &'static [Kind] {
            match kind { $( Kind::$kind => $module::HANGS_ON, )+ }
        }

        /// What of a kind hangs on these objects of another, each by the id of its parent.
        async fn hanging_on(
            connection: &mut PgConnection,
            kind: Kind,
            parent: Kind,
            ids: &[String],
            live: bool,
        ) -> sqlx::Result<Vec<(String, String)>> {
            match kind { $( Kind::$kind => $module::hanging_on(connection, parent, ids, live).await, )+ }
        }

        /// What takes its part of the relations of a kind along when it goes.
        const fn part(kind: Kind) -> Option<Kind> {
            match kind { $( Kind::$kind => whole!($( $whole )?; None, $module::PART), )+ }
        }

        /// Whether WorkOS may refuse to list a relation although its owner is there.
        #[must_use]
        pub fn may_be_unlisted(object: &ObjectRef) -> bool {
            match object.kind {
                $( Kind::$kind => whole!($( $whole )?; false, $module::may_be_unlisted(&object.id)), )+
            }
        }

        /// Relations of which the mirror has a member that these answers lack, and nothing explains it.
        pub async fn lacking(
            connection: &mut PgConnection,
            at: DateTime<Utc>,
            rows: &[&Row],
        ) -> sqlx::Result<Vec<ObjectRef>> {
            let mut relations = Vec::new();
            $(
                whole!($( $whole )?; (), {
                    let of_kind: Vec<_> = rows
                        .iter()
                        .filter_map(|row| match row { Row::$kind(row) => Some(row), _ => None })
                        .collect();
                    if !of_kind.is_empty() {
                        let owners = $module::lacking(&mut *connection, at, &of_kind).await?;
                        relations.extend(owners.into_iter().map(|id| ObjectRef::new(Kind::$kind, id)));
                    }
                });
            )+
            Ok(relations)
        }

        /// Takes in how members of these relations ended although their answers cannot be had; returns what is news of
        /// each.
        pub async fn end(
            connection: &mut PgConnection,
            at: DateTime<Utc>,
            relations: &[(&ObjectRef, &[Member])],
        ) -> sqlx::Result<Vec<(ObjectRef, Change<'static>)>> {
            let mut news = Vec::new();
            $(
                whole!($( $whole )?; (), {
                    let of_kind: Vec<_> =
                        relations.iter().copied().filter(|(relation, _)| relation.kind == Kind::$kind).collect();
                    if !of_kind.is_empty() {
                        news.extend($module::end(&mut *connection, at, &of_kind).await?);
                    }
                });
            )+
            Ok(news)
        }

        /// Marks the parts of relations that go with what was buried; returns each with what it went with.
        pub async fn leave(
            connection: &mut PgConnection,
            at: DateTime<Utc>,
            objects: &[&ObjectRef],
        ) -> sqlx::Result<Vec<(ObjectRef, ObjectRef)>> {
            let mut left = Vec::new();
            $(
                whole!($( $whole )?; (), {
                    if let Some(part) = part(Kind::$kind) {
                        let gone = ids_of(objects, part);
                        if !gone.is_empty() {
                            let parts = $module::leave(&mut *connection, at, &gone).await?;
                            left.extend(parts.into_iter().map(|(gone, owner)| {
                                (ObjectRef::new(part, gone), ObjectRef::new(Kind::$kind, owner))
                            }));
                        }
                    }
                });
            )+
            Ok(left)
        }
    };
}

kinds! {
    Organization => organization,
    User => user,
    OrganizationDomain => organization_domain,
    OrganizationMembership => organization_membership,
    Directory => directory,
    DirectoryUser => directory_user,
    DirectoryGroup => directory_group,
    DirectoryGroupMembership => directory_group_membership as whole,
    Group => group within organization_id,
    GroupMembership => group_membership as whole,
    Session => session as whole,
    ApiKey => api_key as whole,
    Connection => connection,
    Invitation => invitation,
    Role => role by slug,
    OrganizationRole => organization_role by slug,
    Permission => permission by slug,
    FeatureFlag => feature_flag by slug,
}

/// What of a kind hangs on others that hangs on nothing.
async fn hangs_on_nothing(
    _connection: &mut PgConnection,
    _parent: Kind,
    _ids: &[String],
    _live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    Ok(Vec::new())
}

/// What hangs on these objects, each with its parent: the live rows, or the tombstones.
pub async fn dependants(
    connection: &mut PgConnection,
    objects: &[&ObjectRef],
    live: bool,
) -> sqlx::Result<Vec<(ObjectRef, ObjectRef)>> {
    hanging(connection, &Kind::ALL, objects, live).await
}

/// What the answers about these objects bring along all of, each with its parent: the live rows.
pub async fn contained(
    connection: &mut PgConnection,
    objects: &[&ObjectRef],
) -> sqlx::Result<Vec<(ObjectRef, ObjectRef)>> {
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| matches!(listed(*kind), Listed::Inside(_))).collect();
    hanging(connection, &kinds, objects, true).await
}

/// What of these kinds hangs on these objects, each with its parent.
async fn hanging(
    connection: &mut PgConnection,
    kinds: &[Kind],
    objects: &[&ObjectRef],
    live: bool,
) -> sqlx::Result<Vec<(ObjectRef, ObjectRef)>> {
    let mut hanging = Vec::new();
    for kind in kinds.iter().copied() {
        for parent in hangs_on(kind).iter().copied() {
            let ids = ids_of(objects, parent);
            if ids.is_empty() {
                continue;
            }
            let found = hanging_on(&mut *connection, kind, parent, &ids, live).await?;
            hanging.extend(
                found.into_iter().map(|(of, id)| (ObjectRef::new(parent, of), ObjectRef::new(kind, id))),
            );
        }
    }
    Ok(hanging)
}

/// Whether an answer about an object of this kind brings along all of another kind that hang on it.
#[must_use]
pub fn is_container(kind: Kind) -> bool {
    Kind::ALL.into_iter().any(|inside| listed(inside) == Listed::Inside(kind))
}

/// Whether relations have parts that go, and come back, with an object of this kind.
#[must_use]
pub fn is_part(kind: Kind) -> bool {
    Kind::ALL.into_iter().any(|relation| part(relation) == Some(kind))
}

/// What names the relation of this kind that belongs to this object.
#[must_use]
pub fn relation_of(kind: Kind, owner: Kind, id: &str) -> ObjectRef {
    match owners(kind) {
        [_] => ObjectRef::new(kind, id),
        _ => ObjectRef::new(kind, format!("{owner}/{id}")),
    }
}

/// The relations that belong to an object.
pub fn relations_of(object: &ObjectRef) -> impl Iterator<Item = ObjectRef> {
    Kind::ALL
        .into_iter()
        .filter(|kind| owners(*kind).contains(&object.kind))
        .map(|kind| relation_of(kind, object.kind, &object.id))
}

/// A relation of this owner to these members.
#[must_use]
pub fn composed(object: &ObjectRef, members: impl IntoIterator<Item = String>) -> Option<Record> {
    let mut records = Vec::with_capacity(1);
    let members = members.into_iter().map(|id| (id, Fields::default())).collect();
    read_fields(object.clone(), Fields::of_members(members), &mut records);
    records.pop()
}

/// Reads the items of all pages of a list that answers a relation as a whole: the relation first, then what came with
/// it.
pub fn read_whole(object: &ObjectRef, items: &[Box<RawValue>]) -> Result<Vec<Record>, Misread> {
    let mut members = Vec::with_capacity(items.len());
    for item in items {
        let fields = fields_of(item.get().as_bytes())?;
        let id = fields.text("id").ok_or(Misread::NoId)?.into_owned();
        members.push((id, fields));
    }
    let mut records = Vec::with_capacity(1);
    read_fields(object.clone(), Fields::of_members(members), &mut records);
    Ok(records)
}

/// The id of an item of a list, and nothing else of it.
pub fn id_of(item: &RawValue) -> Result<String, Misread> {
    Ok(fields_of(item.get().as_bytes())?.text("id").ok_or(Misread::NoId)?.into_owned())
}

fn ids_of(objects: &[&ObjectRef], kind: Kind) -> Vec<String> {
    objects.iter().filter(|object| object.kind == kind).map(|object| object.id.clone()).collect()
}

/// Reads the answer to "what is this object now": the object first, then what came with it.
pub fn read(object: &ObjectRef, body: &[u8]) -> Result<Vec<Record>, Misread> {
    let fields = fields_of(body)?;
    let of = object.id.split_once('/').map(|(of, _)| of);
    match key(object.kind, of, &fields) {
        Key::Is(key) if key == object.id => {}
        Key::OfAnotherKind => return Err(Misread::AnotherKind),
        Key::Is(_) | Key::Missing => return Err(Misread::OtherObject),
    }
    let mut records = Vec::with_capacity(1);
    read_fields(object.clone(), fields, &mut records);
    Ok(records)
}

/// Reads an item of a list of this kind: the object first, then what came with it. `of` is the object whose list it
/// is, if there is one.
pub fn read_item(kind: Kind, of: Option<&str>, item: &RawValue) -> Result<Vec<Record>, Misread> {
    let fields = fields_of(item.get().as_bytes())?;
    let key = match key(kind, of, &fields) {
        Key::Is(key) => key,
        Key::OfAnotherKind => return Err(Misread::AnotherKind),
        Key::Missing => return Err(Misread::NoId),
    };
    let mut records = Vec::with_capacity(1);
    read_fields(ObjectRef::new(kind, key), fields, &mut records);
    Ok(records)
}

/// The fields of an object, stripped.
fn fields_of(json: &[u8]) -> Result<Fields<'_>, Misread> {
    let mut fields = Fields::parse(json)?;
    door::clean(&mut fields).map_err(Misread::NotJson)?;
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_dropped_from_the_object_and_from_what_comes_with_it() {
        let body =
            br#"{"id":"org_1","token":"MARK","domains":[{"id":"org_domain_1","verification_token":"MARK"}],
                "new":{"client_secret":"MARK","deeper":[[{"value":"MARK"}]]}}"#;
        let records = read(&ObjectRef::new(Kind::Organization, "org_1"), body).expect("an organization");
        assert_eq!(records.len(), 2);
        assert!(!format!("{records:?}").contains("MARK"));
    }

    #[test]
    fn a_secret_does_not_hide_behind_another_spelling_of_its_name() {
        let body =
            br#"{"id":"user_1","tok\u0065n":"MARK","new":{"kept":1,"c\u006fde":"MARK"},"name":"A \"B\""}"#;
        let records = read(&ObjectRef::new(Kind::User, "user_1"), body).expect("a user");
        let Row::User(row) = &records[0].row else { panic!("not a user") };
        assert_eq!(row.raw.get(), r#"{"id":"user_1","new":{"kept":1},"name":"A \"B\""}"#);
        assert_eq!(row.name.as_deref(), Some(r#"A "B""#));
        let twice = br#"{"id":"user_1","token":"MARK","name":"Ada","token":"MARK"}"#;
        assert!(!format!("{:?}", read(&ObjectRef::new(Kind::User, "user_1"), twice)).contains("MARK"));
        let member =
            RawValue::from_string(r#"{"id":"session_1","t\u006fken":"MARK"}"#.to_owned()).expect("JSON");
        let relation = read_whole(&ObjectRef::new(Kind::Session, "user_1"), &[member]).expect("a relation");
        assert!(!format!("{relation:?}").contains("MARK"));
    }

    #[test]
    fn what_is_no_text_is_no_answer() {
        for body in [&br#"{"id":"user_1","name":"\ud800"}"#[..], b"{\"id\":\"user_1\",\"name\":\"\xff\"}"] {
            let answer = read(&ObjectRef::new(Kind::User, "user_1"), body);
            assert!(matches!(answer, Err(Misread::NotJson(_))), "{answer:?}");
        }
    }

    #[test]
    fn the_applications_own_metadata_keeps_its_names() {
        let body = br#"{"id":"user_1","metadata":{"token":"kept","code":{"secret":"kept"}}}"#;
        let records = read(&ObjectRef::new(Kind::User, "user_1"), body).expect("a user");
        assert_eq!(format!("{records:?}").matches("kept").count(), 4, "in the column and in _raw");
    }

    #[test]
    fn what_a_directory_tells_of_a_user_keeps_its_names() {
        let body = br#"{"id":"directory_user_1","custom_attributes":{"code":"kept"},"raw_attributes":{"token":"kept"},
                        "emails":[{"type":"work","value":"kept"}],"role":{"token":"MARK"}}"#;
        let records =
            read(&ObjectRef::new(Kind::DirectoryUser, "directory_user_1"), body).expect("a directory user");
        let text = format!("{records:?}");
        assert_eq!(text.matches("kept").count(), 6, "in three columns and in _raw");
        assert!(!text.contains("MARK"));
    }

    #[test]
    fn an_item_of_a_list_is_read_like_an_answer() {
        let item = RawValue::from_string(r#"{"id":"org_1","domains":[{"id":"org_domain_1"}]}"#.to_owned());
        let records = read_item(Kind::Organization, None, &item.expect("JSON")).expect("an organization");
        assert_eq!(records[1].object, ObjectRef::new(Kind::OrganizationDomain, "org_domain_1"));
        let nameless = RawValue::from_string("{}".to_owned()).expect("JSON");
        assert!(matches!(read_item(Kind::User, None, &nameless), Err(Misread::NoId)));
    }

    #[test]
    fn an_answer_about_another_object_is_refused() {
        let asked = ObjectRef::new(Kind::User, "user_1");
        assert!(matches!(read(&asked, br#"{"id":"user_2"}"#), Err(Misread::OtherObject)));
        assert!(matches!(read(&asked, b"[]"), Err(Misread::NotAnObject)));
        assert!(matches!(read(&asked, b"<html>"), Err(Misread::NotJson(_))));
    }

    #[test]
    fn a_nul_character_does_not_keep_an_object_out() {
        let records = read(
            &ObjectRef::new(Kind::User, "user_1"),
            br#"{"id":"user_1","first_name":"A\u0000da","n\u0000w":[{"\u0000":1}]}"#,
        )
        .expect("a user");
        let Row::User(row) = &records[0].row else { panic!("not a user") };
        assert_eq!(row.first_name.as_deref(), Some("A\u{FFFD}da"));
        assert!(!row.raw.get().contains("u0000"), "{}", row.raw.get());
    }

    #[test]
    fn a_list_is_found_by_what_it_belongs_to_and_its_id_stays_in_its_place() {
        let lists: Vec<_> = lists_of(&ObjectRef::new(Kind::User, "a&b=c")).collect();
        assert_eq!(lists.len(), 1);
        assert!(lists[0].1.contains("user_id=a%26b=c&statuses="), "{}", lists[0].1);
        assert_eq!(named("users"), Some(Kind::User));
        assert_eq!(named("organization_domain"), Some(Kind::OrganizationDomain));
        assert_eq!(named("planets"), None);
    }

    #[test]
    fn a_kind_says_of_all_that_it_is_found_by_that_it_hangs_on_it_and_comes_after_that() {
        for kind in Kind::ALL {
            let found_by = match listed(kind) {
                Listed::Under(parent, _) | Listed::Inside(parent) => vec![parent],
                Listed::Everywhere(_) | Listed::Composed(..) | Listed::Whole(_) => Vec::new(),
            };
            let found_by = found_by.iter().chain(owners(kind)).copied().chain(part(kind));
            assert!(found_by.into_iter().all(|parent| hangs_on(kind).contains(&parent)), "{kind}");
            assert!(hangs_on(kind).iter().all(|parent| *parent < kind), "{kind}");
        }
    }
}
