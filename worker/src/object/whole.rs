//! Relations that are only answered as a whole: their members, and how two of them are compared.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use shared::event::Member;
use shared::id::ObjectRef;
use sqlx::PgConnection;

use super::columns::{Change, Shown};

/// Whether WorkOS may refuse to list a relation of a kind that it always lists.
pub(super) const fn always_listed(_owner: &str) -> bool {
    false
}

/// What an answer lacks of a kind of relation whose answers are taken as they are.
pub(super) async fn lacks_nothing<R>(
    _connection: &mut PgConnection,
    _at: DateTime<Utc>,
    _rows: &[&R],
) -> sqlx::Result<Vec<String>> {
    Ok(Vec::new())
}

/// What ends in relations whose members end by an answer.
pub(super) async fn ends_nothing(
    _connection: &mut PgConnection,
    _at: DateTime<Utc>,
    _relations: &[(&ObjectRef, &[Member])],
) -> sqlx::Result<Vec<(ObjectRef, Change<'static>)>> {
    Ok(Vec::new())
}

/// What goes from relations whose members go by themselves.
pub(super) async fn leaves_nothing(
    _connection: &mut PgConnection,
    _at: DateTime<Utc>,
    _gone: &[String],
) -> sqlx::Result<Vec<(String, String)>> {
    Ok(Vec::new())
}

/// What was there and what is, by member.
type Differing = (Map<String, Value>, Map<String, Value>);

/// Members that came and went, as `name`, and the columns in which others differ, by their ids.
pub(super) fn changes<R>(
    name: &'static str,
    old: Option<&BTreeMap<String, R>>,
    new: &BTreeMap<String, R>,
    differences: impl for<'b> Fn(&'b R, &'b R) -> Vec<Change<'b>>,
) -> Vec<Change<'static>> {
    let mut changes = Vec::new();
    if !old.into_iter().flat_map(BTreeMap::keys).eq(new.keys()) {
        let ids = |members: &BTreeMap<String, R>| Shown::Made(members.keys().cloned().collect());
        changes.push(Change { column: name, old: old.map_or(Shown::Null, ids), new: ids(new) });
    }
    let mut columns: BTreeMap<&'static str, Differing> = BTreeMap::new();
    for (id, row) in new {
        let Some(before) = old.and_then(|old| old.get(id)) else { continue };
        for change in differences(row, before) {
            let (old, new) = columns.entry(change.column).or_default();
            old.insert(id.clone(), change.old.into_value());
            new.insert(id.clone(), change.new.into_value());
        }
    }
    changes.extend(columns.into_iter().map(|(column, (old, new))| Change {
        column,
        old: Shown::Made(old.into()),
        new: Shown::Made(new.into()),
    }));
    changes
}
