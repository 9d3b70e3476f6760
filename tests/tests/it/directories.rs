//! Directory Sync as it really behaves.

use serde_json::{Value, json};
use shared::id::Kind;
use support::sim::{Failure, Knobs, Sim};
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

/// Puts a user into a group.
pub(crate) fn join(sim: &Sim, user: &str, group: &str) -> String {
    let pair = json!({"directory_user_id": user, "directory_group_id": group});
    sim.create(Kind::DirectoryGroupMembership, pair)
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

/// The groups that a user is in, by the mirror.
async fn groups_of(world: &World, user: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT directory_group_id FROM workos.directory_group_memberships_live WHERE directory_user_id = $1 ORDER BY 1",
    )
    .bind(user)
    .fetch_all(world.pool())
    .await
    .expect("the memberships")
}

#[tokio::test]
async fn a_user_who_joins_a_group_before_both_are_known_brings_them_along() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    let ada = user(sim, &people, "ada@example.com");
    let (engineers, poets) = (group(sim, &people, "Engineers"), group(sim, &people, "Poets"));
    let first = join(sim, &ada, &engineers);
    join(sim, &ada, &poets);
    let told = deliver(&world, Kind::DirectoryGroupMembership, &first).await;
    assert_eq!(told, ("dsync.group.user_added".to_owned(), "applied".to_owned()));
    world.assert_in_step().await;
    // The relation, the user, both groups, the directory, the organization.
    assert_eq!(sim.requests().all_gets() + sim.requests().lists(Kind::DirectoryGroup), 6);
}

#[tokio::test]
async fn who_leaves_a_group_and_joins_it_again_is_in_it() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    let ada = user(sim, &people, "ada@example.com");
    let engineers = group(sim, &people, "Engineers");
    let membership = join(sim, &ada, &engineers);
    deliver(&world, Kind::DirectoryGroupMembership, &membership).await;
    assert_eq!(groups_of(&world, &ada).await, std::slice::from_ref(&engineers));
    sim.delete(Kind::DirectoryGroupMembership, &membership);
    let told = deliver(&world, Kind::DirectoryGroupMembership, &membership).await;
    assert_eq!(told, ("dsync.group.user_removed".to_owned(), "applied".to_owned()));
    assert!(groups_of(&world, &ada).await.is_empty());
    let again = join(sim, &ada, &engineers);
    deliver(&world, Kind::DirectoryGroupMembership, &again).await;
    world.assert_in_step().await;
    // The events come in any order, and twice: WorkOS is asked, not they.
    sim.delete(Kind::DirectoryGroupMembership, &again);
    let left = sim.last_event(Kind::DirectoryGroupMembership, &again).expect("an event").id;
    join(sim, &ada, &engineers);
    let joined = sim.events().pop().expect("an event").id;
    for event in [&joined, &left, &joined, &left] {
        sim.post(event).await.expect("a delivery");
    }
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(groups_of(&world, &ada).await, [engineers]);
}

#[tokio::test]
async fn an_answer_that_does_not_know_yet_who_joined_or_left_is_asked_again() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    let ada = user(sim, &people, "ada@example.com");
    let engineers = group(sim, &people, "Engineers");
    sim.release_held();
    world.settled().await;
    let membership = join(sim, &ada, &engineers);
    sim.set_knobs(Knobs { stale_list: 1.0, stale_window_ms: 600, ..by_hand() });
    deliver(&world, Kind::DirectoryGroupMembership, &membership).await;
    world.assert_in_step().await;
    sim.delete(Kind::DirectoryGroupMembership, &membership);
    deliver(&world, Kind::DirectoryGroupMembership, &membership).await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn the_one_event_of_a_deleted_group_takes_its_memberships_along() {
    let world = World::start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    let (ada, bob) = (user(sim, &people, "ada@example.com"), user(sim, &people, "bob@example.com"));
    let (engineers, poets) = (group(sim, &people, "Engineers"), group(sim, &people, "Poets"));
    for (user, group) in [(&ada, &engineers), (&ada, &poets), (&bob, &engineers)] {
        join(sim, user, group);
    }
    world.settled().await;
    world.assert_in_step().await;
    let before = sim.events().len();
    let event = sim.delete(Kind::DirectoryGroup, &engineers).expect("an event");
    assert_eq!(sim.events().len(), before + 1, "WorkOS says nothing of memberships");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(groups_of(&world, &ada).await, [poets]);
    let last = audits(&world, &bob).await.pop().expect("an audit");
    assert_eq!((last.action.as_str(), last.event_id.as_deref()), ("deleted", Some(event.as_str())));
    assert_eq!(last.cause, Some(format!("directory_group/{engineers}")));
}

#[tokio::test]
async fn a_deleted_user_or_directory_takes_memberships_along() {
    let world = World::builder().knobs(Knobs { cascade_events: false, ..Knobs::default() }).start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    let (ada, bob) = (user(sim, &people, "ada@example.com"), user(sim, &people, "bob@example.com"));
    let engineers = group(sim, &people, "Engineers");
    join(sim, &ada, &engineers);
    join(sim, &bob, &engineers);
    world.settled().await;
    sim.delete(Kind::DirectoryUser, &ada);
    world.settled().await;
    world.assert_in_step().await;
    assert!(groups_of(&world, &ada).await.is_empty());
    sim.delete(Kind::Directory, &people);
    world.settled().await;
    world.assert_in_step().await;
    assert!(groups_of(&world, &bob).await.is_empty());
}

#[tokio::test]
async fn backfill_verify_and_sync_know_memberships() {
    let world = World::builder().workers(0).knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    let users: Vec<String> = (0..5).map(|n| user(sim, &people, &format!("user{n}@example.com"))).collect();
    let groups = [group(sim, &people, "Engineers"), group(sim, &people, "Poets")];
    let memberships: Vec<String> =
        users.iter().flat_map(|user| groups.iter().map(|group| join(sim, user, group))).collect();
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    world.assert_in_step().await;
    assert_eq!(sim.requests().all_gets(), 0, "lists bring them all");
    // One left a group, and one left both.
    for gone in &memberships[7..] {
        sim.silently_delete(Kind::DirectoryGroupMembership, gone);
    }
    assert_eq!(world.worker_command(&["verify"]).await.code(), Some(1));
    let synced = world.worker_command(&["sync", "directory_group_membership", &users[3]]).await;
    assert_eq!(synced.code(), Some(0), "{}", synced.stderr);
    assert_eq!(groups_of(&world, &users[3]).await.len(), 1);
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    world.assert_in_step().await;
    assert_eq!(world.worker_command(&["verify"]).await.code(), Some(0));
}

#[tokio::test]
async fn who_was_in_a_directory_group_that_is_there_after_all_is_in_it_again() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    let engineers = group(sim, &people, "Engineers");
    for name in ["ada", "bob"] {
        join(sim, &user(sim, &people, &format!("{name}@example.com")), &engineers);
    }
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;
    sim.fail_next(Kind::DirectoryGroup, &engineers, 2, Failure::Status(404));
    for there in [false, true] {
        let synced = world.worker_command(&["sync", "directory_group", &engineers]).await;
        assert_eq!(synced.code(), Some(0), "{}", synced.stderr);
        assert_eq!(world.row(Kind::DirectoryGroup, &engineers).await.is_some(), there);
    }
    world.assert_in_step().await;
}
