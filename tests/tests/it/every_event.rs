//! Every event type of the catalogue, from WorkOS to its outcome, and a payload of each in `fixtures/events`: types of a
//! kind travel with what the simulator makes of the kind, and look like their payload; the others travel with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use shared::catalogue::{self, ENTRIES, Entry, Operation, Path};
use shared::id::Kind;
use support::sim::Sim;
use support::world::World;

use crate::ledger::outcome;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/events")
}

/// What the payload of a type looks like.
pub(crate) fn fixture(event_type: &str) -> Value {
    let path = fixtures().join(format!("{event_type}.json"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{event_type} has no fixture: {}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_type_of_the_catalogue_has_a_fixture_and_every_fixture_is_of_one() {
    let there: BTreeSet<String> = std::fs::read_dir(fixtures())
        .expect("the fixtures")
        .map(|file| file.expect("a fixture").file_name().into_string().expect("a name"))
        .collect();
    let wanted: BTreeSet<String> = ENTRIES.iter().map(|entry| format!("{}.json", entry.event_type)).collect();
    let missing: Vec<_> = wanted.difference(&there).collect();
    assert!(missing.is_empty(), "these types have no fixture: {missing:?}");
    let left_over: Vec<_> = there.difference(&wanted).collect();
    assert!(left_over.is_empty(), "these fixtures are of no type: {left_over:?}");
    for entry in ENTRIES {
        assert!(fixture(entry.event_type).is_object(), "{}", entry.event_type);
    }
}

/// Members whose names are the application's or the customer's, not WorkOS's.
const NAMED_BY_OTHERS: [&str; 3] = ["custom_attributes", "metadata", "raw_attributes"];

/// Adds the names of members that one of two payloads has and the other lacks, with `+` or `-` before the path. A list is
/// what its first item is; what one of them leaves empty or null may be anything.
fn differences(path: &str, told: &Value, fixture: &Value, found: &mut Vec<String>) {
    match (told, fixture) {
        (Value::Object(told), Value::Object(fixture)) => {
            found.extend(
                told.keys().filter(|name| !fixture.contains_key(*name)).map(|name| format!("+{path}.{name}")),
            );
            for (name, of_fixture) in fixture {
                match told.get(name) {
                    Some(_) if NAMED_BY_OTHERS.contains(&name.as_str()) => {}
                    Some(of_told) => differences(&format!("{path}.{name}"), of_told, of_fixture, found),
                    None => found.push(format!("-{path}.{name}")),
                }
            }
        }
        (Value::Array(told), Value::Array(fixture)) => {
            if let (Some(told), Some(fixture)) = (told.first(), fixture.first()) {
                differences(&format!("{path}[]"), told, fixture, found);
            }
        }
        (Value::Null, _) | (_, Value::Null) => {}
        _ if std::mem::discriminant(told) == std::mem::discriminant(fixture) => {}
        _ => found.push(format!("{path} is of another type")),
    }
}

#[test]
fn a_payload_is_like_another_by_its_names_and_not_by_what_it_says() {
    let fixture =
        json!({"id": "1", "at": null, "owner": {"id": "2"}, "domains": [{"id": "3"}], "metadata": {}});
    let like = json!({"id": "4", "at": "now", "owner": null, "domains": [], "metadata": {"any": "name"}});
    let unlike = json!({"id": 1, "owner": {"ids": "2"}, "domains": [{"id": "3", "x": 1}], "metadata": {}});
    let compared = |told: &Value| {
        let mut found = Vec::new();
        differences("data", told, &fixture, &mut found);
        found.sort();
        found
    };
    assert_eq!(compared(&like), Vec::<String>::new());
    assert_eq!(
        compared(&unlike),
        ["+data.domains[].x", "+data.owner.ids", "-data.at", "-data.owner.id", "data.id is of another type"]
    );
}

/// Makes an object that only the event under test tells of, with all that events of its kind may tell, and nothing else
/// that nobody tells of.
fn make(sim: &Sim, kind: Kind) -> String {
    match kind {
        Kind::ApiKey => {
            let owner = json!({"type": "organization", "id": sim.make(Kind::Organization, false)});
            sim.silently_create(kind, json!({"owner": owner}))
        }
        Kind::Session => {
            let user = sim.make(Kind::User, false);
            let organization = sim.make(Kind::Organization, true);
            sim.silently_create(kind, json!({"user_id": user, "organization_id": organization}))
        }
        _ => sim.make(kind, false),
    }
}

#[tokio::test]
async fn every_type_of_the_catalogue_becomes_a_row_or_a_recorded_outcome() {
    let world = World::start().await;
    let sim = world.sim();
    let mut told: Vec<(&Entry, String)> = Vec::new();
    let mut to_delete: Vec<(&Entry, Kind, String)> = Vec::new();
    for entry in ENTRIES {
        match (entry.kind, entry.operation) {
            (Some(kind), Some(Operation::Deleted)) => to_delete.push((entry, kind, sim.make(kind, true))),
            (Some(kind), _) => {
                let key = make(sim, kind);
                let event = match entry.event_type {
                    // What is told of these is final, so it must be true.
                    "session.revoked" => sim.update(kind, &key, json!({"status": "revoked"})),
                    "api_key.revoked" => sim.delete(kind, &key),
                    event_type => sim.tell(event_type, kind, &key),
                };
                told.push((entry, event.expect("it is there")));
            }
            (None, _) => told.push((entry, sim.emit(entry.event_type, fixture(entry.event_type)))),
        }
    }
    world.settled().await;
    world.assert_in_step().await;
    for (entry, kind, key) in to_delete {
        let event = sim.delete(kind, &key).expect("it is there");
        let announced = sim.last_event(kind, &key).expect("an event");
        assert_eq!(announced.event_type, entry.event_type, "the simulator announces what WorkOS does");
        told.push((entry, event));
    }
    world.settled().await;
    world.assert_in_step().await;

    let payloads: BTreeMap<String, Value> =
        sim.events().into_iter().map(|event| (event.id, event.data)).collect();
    let mut unlike_fixtures = Vec::new();
    for (entry, event) in &told {
        differences(entry.event_type, &payloads[event], &fixture(entry.event_type), &mut unlike_fixtures);
    }
    assert!(
        unlike_fixtures.is_empty(),
        "what is sent (+) and fixtures (-) have different names: {unlike_fixtures:#?}"
    );

    let mut unlike = BTreeMap::new();
    for (entry, event) in &told {
        let expected = match entry.operation {
            None => "ignored",
            Some(Operation::Deleted) => "deleted",
            Some(Operation::Created | Operation::Updated) => "applied",
        };
        let outcome = outcome(&world, event).await;
        if outcome.as_deref() != Some(expected) {
            unlike.insert(entry.event_type, outcome);
        }
    }
    assert!(unlike.is_empty(), "these did not end as they should: {unlike:?}");
    assert_eq!(told.len(), ENTRIES.len(), "every type has its story");
    let metrics = world.worker_metrics(0).await;
    for entry in ENTRIES.iter().filter(|entry| entry.kind.is_none()) {
        let counted =
            metrics.value("workos_sync_ignored_total", &[("event_type", catalogue::label(entry.event_type))]);
        assert!(counted >= 1.0, "{} is counted by its name", entry.event_type);
    }
}

/// Any JSON.
fn anything(rng: &mut fastrand::Rng, depth: u32) -> Value {
    match rng.u32(0..if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 => rng.i64(..).into(),
        3 => "text".into(),
        4 => "2026-01-15T12:00:00.000Z".into(),
        5 => (0..rng.u32(0..3)).map(|_| anything(rng, depth - 1)).collect(),
        _ => Value::Object(
            (0..rng.u32(0..3)).map(|n| (format!("field_{n}"), anything(rng, depth - 1))).collect(),
        ),
    }
}

/// What may become of a field.
#[derive(PartialEq)]
enum Spoilt {
    /// It stays as it is: what an object is found by.
    No,
    /// It is missing or null: what an object hangs on, or what stands in it.
    Absent,
    /// It may be anything.
    Anyhow,
}

/// What may become of a field of an object; `id` says where its id stands in a payload.
fn may_become(id: &[Path], name: &str) -> Spoilt {
    match name {
        _ if id.iter().any(|path| path[0] == name) => Spoilt::No,
        "id" | "slug" | "object" | "owner" | "organization_domain" => Spoilt::No,
        "organization_id" | "directory_id" | "user" | "group" | "connection" | "domains" => Spoilt::Absent,
        _ if name.ends_with("_id") => Spoilt::No,
        _ => Spoilt::Anyhow,
    }
}

/// Spoils some members of an object; adds one that nobody knows.
fn spoil(rng: &mut fastrand::Rng, id: &[Path], object: &mut Map<String, Value>) {
    let names: Vec<String> =
        object.keys().filter(|name| may_become(id, name) != Spoilt::No).cloned().collect();
    for name in names {
        match rng.u32(0..6) {
            0 => drop(object.remove(&name)),
            1 => drop(object.insert(name, Value::Null)),
            2 if may_become(id, &name) == Spoilt::Anyhow
                && !matches!(name.as_str(), "created_at" | "updated_at") =>
            {
                object.insert(name, anything(rng, 2));
            }
            _ => {}
        }
    }
    object.insert("a_field_of_next_year".to_owned(), anything(rng, 2));
}

/// A thousand events of types that nobody knows, and a thousand of known types with extra, missing and null fields in
/// the payload and in the answer.
#[tokio::test]
async fn neither_unknown_types_nor_unexpected_fields_are_dead_letters() {
    let world = World::builder()
        .env("SYNC_RATE_LIMIT", "off")
        .patience(std::time::Duration::from_mins(3))
        .start()
        .await;
    let sim = world.sim();
    let mut rng = fastrand::Rng::with_seed(7);
    for number in 0..1_000 {
        sim.emit(&format!("planet_{}.happened", number % 300), anything(&mut rng, 3));
    }
    let entries: Vec<&Entry> = ENTRIES.iter().filter(|entry| entry.kind.is_some()).collect();
    let unspoilt = |kind: Kind| {
        let key = sim.make(kind, false);
        let shown = sim.get(kind, &key).expect("it is there");
        (key, shown.as_object().expect("an object").clone())
    };
    let made: BTreeMap<Kind, Vec<_>> =
        Kind::ALL.into_iter().map(|kind| (kind, (0..20).map(|_| unspoilt(kind)).collect())).collect();
    let mut without_id = 0;
    for number in 0..1_000 {
        let entry = entries[number % entries.len()];
        let kind = entry.kind.expect("it is mirrored");
        let (key, whole) = &made[&kind][rng.usize(0..20)];
        let mut shown = whole.clone();
        spoil(&mut rng, entry.id, &mut shown);
        for name in whole.keys().filter(|name| !shown.contains_key(*name)) {
            sim.take_away(kind, key, name);
        }
        sim.silently_update(kind, key, shown.into(), false);
        sim.tell(entry.event_type, kind, key).expect("it is there");
        let mut data = sim.events().pop().expect("an event").data;
        let object = data.as_object_mut().expect("an object");
        spoil(&mut rng, entry.id, object);
        if number % 100 == 50 {
            without_id += 1;
            object.remove(entry.id[0][0]);
        }
        sim.emit(entry.event_type, data);
    }
    world.settled().await;
    let ignored =
        world.worker_metrics(0).await.value("workos_sync_ignored_total", &[("event_type", "other")]);
    assert!((ignored - 1_000.0).abs() < 0.5, "unknown types share one label, counted {ignored}");
    let dead: Vec<(String, String)> =
        sqlx::query_as("SELECT type, reason FROM workos_sync.events WHERE outcome = 'dead' ORDER BY type")
            .fetch_all(world.pool())
            .await
            .expect("the ledger");
    assert_eq!(dead.len(), without_id, "{dead:?}");
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM workos_sync.events WHERE outcome IS NULL")
        .fetch_one(world.pool())
        .await
        .expect("the ledger");
    assert_eq!(open, 0);
}
