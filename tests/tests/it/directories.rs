//! Directory Sync as it really behaves.

use serde_json::{Value, json};
use shared::id::Kind;
use support::sim::{Knobs, Sim};
use support::world::World;

use crate::ledger::{audits, outcome};
use crate::main_path::by_hand;

/// A directory of an organization.
pub(crate) fn directory(sim: &Sim, organization: &str) -> String {
    sim.create(Kind::Directory, json!({"organization_id": organization}))
}

/// A user of a directory.
pub(crate) fn user(sim: &Sim, directory: &str, email: &str) -> String {
    sim.create(Kind::DirectoryUser, held(sim, directory, json!({"email": email})))
}

/// A group of a directory.
pub(crate) fn group(sim: &Sim, directory: &str, name: &str) -> String {
    sim.create(Kind::DirectoryGroup, held(sim, directory, json!({"name": name})))
}

/// With the directory, and its organization.
pub(crate) fn held(sim: &Sim, directory: &str, mut fields: Value) -> Value {
    let shown = sim.get(Kind::Directory, directory).unwrap_or_default();
    fields["directory_id"] = json!(directory);
    fields["organization_id"] = shown["organization_id"].clone();
    fields
}

/// Delivers the last event about an object and waits until it has its outcome.
async fn deliver(world: &World, kind: Kind, id: &str) -> (String, String) {
    let event = world.sim().last_event(kind, id).expect("an event");
    world.sim().post(&event.id).await.expect("a delivery");
    world.settled().await;
    (event.event_type, outcome(world, &event.id).await.expect("an outcome"))
}

#[tokio::test]
async fn every_event_of_a_directory_its_users_and_groups_becomes_a_row() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    let ada = user(sim, &people, "ada@example.com");
    let engineers = group(sim, &people, "Engineers");
    let all = [(Kind::Directory, &people), (Kind::DirectoryUser, &ada), (Kind::DirectoryGroup, &engineers)];
    let mut seen = Vec::new();
    for (kind, id) in all {
        seen.push(deliver(&world, kind, id).await);
        assert!(world.row(kind, id).await.is_some(), "{id}");
    }
    let changes = [
        (Kind::Directory, &people, json!({"state": "unlinked"})),
        (Kind::DirectoryUser, &ada, json!({"state": "inactive", "custom_attributes": {"team": "engines"}})),
        (Kind::DirectoryGroup, &engineers, json!({"name": "All engineers"})),
    ];
    for (kind, id, patch) in changes {
        sim.update(kind, id, patch);
        seen.push(deliver(&world, kind, id).await);
    }
    let row = world.row(Kind::DirectoryUser, &ada).await.expect("deactivated is not deleted");
    assert_eq!((&row["state"], &row["custom_attributes"]["team"]), (&json!("inactive"), &json!("engines")));
    assert_eq!(world.row(Kind::Directory, &people).await.expect("a row")["state"], "unlinked");
    world.assert_in_step().await;
    for (kind, id) in all.into_iter().rev() {
        sim.delete(kind, id);
        seen.push(deliver(&world, kind, id).await);
        assert!(world.row(kind, id).await.is_none(), "{id}");
        assert!(world.any_row(kind, id).await.is_some(), "{id} is a tombstone");
    }
    let told: Vec<(&str, &str)> = seen.iter().map(|(told, ended)| (told.as_str(), ended.as_str())).collect();
    assert_eq!(
        told,
        [
            ("dsync.activated", "applied"),
            ("dsync.user.created", "applied"),
            ("dsync.group.created", "applied"),
            ("dsync.deactivated", "applied"),
            ("dsync.user.updated", "applied"),
            ("dsync.group.updated", "applied"),
            ("dsync.group.deleted", "deleted"),
            ("dsync.user.deleted", "deleted"),
            ("dsync.deleted", "deleted"),
        ]
    );
}

#[tokio::test]
async fn a_user_brings_its_directory_and_the_organization_along() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    let ada = user(sim, &people, "ada@example.com");
    deliver(&world, Kind::DirectoryUser, &ada).await;
    world.assert_in_step().await;
    assert_eq!(sim.requests().all_gets(), 3);
}

#[tokio::test]
async fn the_one_event_of_a_deleted_directory_takes_everything_of_it_along() {
    let world = World::start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    let (people, others) = (directory(sim, &acme), directory(sim, &acme));
    let ada = user(sim, &people, "ada@example.com");
    let engineers = group(sim, &people, "Engineers");
    let bob = user(sim, &others, "bob@example.com");
    world.settled().await;

    let before = sim.events().len();
    let event = sim.delete(Kind::Directory, &people).expect("an event");
    assert_eq!(sim.events().len(), before + 1, "WorkOS says nothing of users and groups");
    world.settled().await;
    world.assert_in_step().await;
    assert!(world.row(Kind::DirectoryUser, &bob).await.is_some());
    for id in [&ada, &engineers] {
        let last = audits(&world, id).await.pop().expect("an audit");
        assert_eq!((last.action.as_str(), last.event_id.as_deref()), ("deleted", Some(event.as_str())));
        assert_eq!(last.cause, Some(format!("directory/{people}")));
    }
}

#[tokio::test]
async fn a_deleted_organization_takes_its_directories_and_all_they_hold_along() {
    let world = World::builder().knobs(Knobs { cascade_events: false, ..Knobs::default() }).start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    let people = directory(sim, &acme);
    user(sim, &people, "ada@example.com");
    group(sim, &people, "Engineers");
    world.settled().await;
    sim.delete(Kind::Organization, &acme);
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_directory_without_an_organization_is_kept_too() {
    let world = World::start().await;
    let sim = world.sim();
    let people = sim.create(Kind::Directory, json!({"organization_id": null}));
    let ada = user(sim, &people, "ada@example.com");
    world.settled().await;
    world.assert_in_step().await;
    assert!(world.row(Kind::DirectoryUser, &ada).await.is_some());
}

#[tokio::test]
async fn backfill_and_verify_know_directories() {
    let world = World::builder().workers(0).start().await;
    let sim = world.sim();
    sim.set_knobs(by_hand());
    let people = directory(sim, &sim.organization("Acme"));
    let ada = user(sim, &people, "ada@example.com");
    group(sim, &people, "Engineers");
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    world.assert_in_step().await;
    sim.silently_update(Kind::DirectoryUser, &ada, json!({"first_name": "Augusta"}), true);
    sim.silently_delete(Kind::DirectoryGroup, sim.ever(Kind::DirectoryGroup).first().expect("a group"));
    assert_eq!(world.worker_command(&["verify"]).await.code(), Some(1));
    world.worker_command(&["verify", "--repair"]).await;
    world.assert_in_step().await;
}
