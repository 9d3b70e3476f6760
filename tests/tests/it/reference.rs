//! The reference documents agree with what they describe: `docs/events.md` with the catalogue, `docs/schema.md` with the
//! comments of a migrated database. `WRITE_DOCS=1` writes them instead.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use shared::catalogue::{ENTRIES, Operation};
use support::world::World;

/// Compares a document with what it should be, or writes it.
fn agrees(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(&path, text).expect("the document is written");
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(text.lines()).find(|(there, should)| there != should);
    assert!(
        written == text,
        "docs/{name} is not up to date (first difference: {differs:?}); \
         run `WRITE_DOCS=1 cargo test -p workos-sync-tests --test it reference::`"
    );
}

#[test]
fn the_document_of_events_is_the_catalogue() {
    let mut text = String::from(
        "# Event types

Generated from the catalogue (`shared/src/catalogue.rs`) by a test; do not edit.

A type of a kind makes the worker ask WorkOS for the object, or bury it if it was deleted. Of the others only that they came is
recorded, as `ignored`; so is a type that is not in this list. `Events API` says that no webhook can be subscribed to it. An
owner's id is taken only when its `type` says that the owner is an organization.

| event | kind | says | organization | comes by |
|---|---|---|---|---|
",
    );
    let mirrored = ENTRIES.iter().filter(|entry| entry.kind.is_some());
    let ignored = ENTRIES.iter().filter(|entry| entry.kind.is_none());
    for entry in mirrored.chain(ignored) {
        let kind = entry.kind.map_or_else(|| "ignored".to_owned(), |kind| format!("`{kind}`"));
        let says = match entry.operation {
            Some(Operation::Created) => "created",
            Some(Operation::Updated) => "updated",
            Some(Operation::Deleted) => "deleted",
            None => "",
        };
        let below_data = |path: &[&str]| format!("`data.{}`", path.join("."));
        let organization = match (entry.organization, entry.owner) {
            ([], _) => String::new(),
            (path, []) => below_data(path),
            (path, owner) => {
                let id = below_data(&[owner, &["id"]].concat());
                format!("{}, or {id} of an organization", below_data(path))
            }
        };
        let channel = if entry.webhook { "webhook, Events API" } else { "Events API" };
        writeln!(text, "| `{}` | {kind} | {says} | {organization} | {channel} |", entry.event_type)
            .expect("a String takes it");
    }
    agrees("events.md", &text);
}

/// A row of [`COLUMNS`].
type Column = (String, String, String, String, String, String, String);

/// What a database says of itself: a table or view, its columns with their types, and the comments on them.
const COLUMNS: &str = "
    SELECT schema.nspname::text, relation.relname::text, relation.relkind::text,
           coalesce(obj_description(relation.oid, 'pg_class'), ''),
           attribute.attname::text, format_type(attribute.atttypid, attribute.atttypmod),
           coalesce(col_description(relation.oid, attribute.attnum), '')
      FROM pg_class AS relation
      JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace
      JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid
     WHERE schema.nspname IN ('workos', 'workos_sync')
       AND relation.relkind IN ('r', 'v', 'p')
       AND attribute.attnum > 0 AND NOT attribute.attisdropped
       AND relation.relname <> '_sqlx_migrations'
     ORDER BY 1, 2, attribute.attnum";

#[tokio::test]
async fn the_document_of_the_schema_is_what_the_database_says_of_itself() {
    let world = World::builder().workers(0).ingests(0).start().await;
    let columns: Vec<Column> = sqlx::query_as(COLUMNS).fetch_all(world.pool()).await.expect("the catalogue");
    let mut text = String::from(
        "# Tables

Generated from the comments of a migrated database by a test; do not edit.

The schema `workos` is the mirror. Column names are WorkOS's own; columns that begin with `_` are the sync's; every other
column and table belongs to the application. Each table has a view of the same name with `_live` behind it, without tombstones. The schema
`workos_sync` is bookkeeping.
",
    );
    let mut uncommented = Vec::new();
    let mut live: BTreeMap<String, String> = BTreeMap::new();
    for (_, relation, kind, comment, ..) in &columns {
        if kind == "v" {
            live.insert(relation.clone(), comment.clone());
        }
    }
    let mut last = String::new();
    for (schema, relation, kind, comment, column, column_type, column_comment) in &columns {
        if kind == "v" && relation.ends_with("_live") {
            continue;
        }
        let name = format!("{schema}.{relation}");
        if name != last {
            let view = live.get(&format!("{relation}_live"));
            let view = view.map_or_else(String::new, |view| format!(" `{relation}_live`: {view}"));
            write!(text, "\n## {name}\n\n{comment}{view}\n\n| column | type | |\n|---|---|---|\n")
                .expect("a String takes it");
            if comment.is_empty() {
                uncommented.push(name.clone());
            }
            last.clone_from(&name);
        }
        writeln!(text, "| `{column}` | {column_type} | {column_comment} |").expect("a String takes it");
        if column_comment.is_empty() {
            uncommented.push(format!("{name}.{column}"));
        }
    }
    assert!(uncommented.is_empty(), "these have no comment: {uncommented:?}");
    agrees("schema.md", &text);
}
