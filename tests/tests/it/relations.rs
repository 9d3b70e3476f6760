//! Groups, who is in them, sessions and API keys: what WorkOS answers only as a whole.

use serde_json::{Value, json};
use shared::id::Kind;
use support::sim::{Failure, Knobs, Sim};
use support::world::World;

use crate::ledger::{audits, outcome, reason};
use crate::main_path::by_hand;

/// A group of an organization.
fn group(sim: &Sim, organization: &str, name: &str) -> String {
    sim.create(Kind::Group, json!({"organization_id": organization, "name": name}))
}

/// Puts a membership into a group.
fn join(sim: &Sim, membership: &str, group: &str) -> String {
    let pair = json!({"organization_membership_id": membership, "group_id": group});
    sim.create(Kind::GroupMembership, pair)
}

/// A session of a user.
fn session(sim: &Sim, user: &str) -> String {
    sim.create(Kind::Session, json!({"user_id": user, "ip_address": "192.0.2.77"}))
}

fn revoke(sim: &Sim, session: &str) -> String {
    let end = json!({"status": "revoked", "ended_at": "2026-01-15T12:00:00.000Z"});
    sim.update(Kind::Session, session, end).expect("an event")
}

/// An API key of an organization or a user.
fn api_key(sim: &Sim, of_type: &str, owner: &str) -> String {
    sim.create(Kind::ApiKey, json!({"owner": {"type": of_type, "id": owner}, "permissions": ["posts:read"]}))
}

/// Delivers the last event about an object and waits until it has its outcome.
async fn deliver(world: &World, kind: Kind, id: &str) -> (String, String) {
    let event = world.sim().last_event(kind, id).expect("an event");
    world.sim().post(&event.id).await.expect("a delivery");
    world.settled().await;
    (event.event_type, outcome(world, &event.id).await.expect("an outcome"))
}

/// The groups that a membership is in, by the mirror.
async fn groups_of(world: &World, membership: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT group_id FROM workos.group_memberships_live WHERE organization_membership_id = $1 ORDER BY 1",
    )
    .bind(membership)
    .fetch_all(world.pool())
    .await
    .expect("the mirror")
}

/// Two users in an organization, as their memberships.
fn two(sim: &Sim) -> (String, String, String) {
    let acme = sim.organization("Acme");
    let ada = sim.membership(&sim.user("ada@example.com"), &acme);
    let bob = sim.membership(&sim.user("bob@example.com"), &acme);
    (acme, ada, bob)
}

#[tokio::test]
async fn every_event_of_groups_sessions_and_api_keys_becomes_a_row() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let (acme, ada, _) = two(sim);
    let engineers = group(sim, &acme, "Engineers");
    let mut seen = vec![deliver(&world, Kind::Group, &engineers).await];
    sim.update(Kind::Group, &engineers, json!({"description": "They build"}));
    seen.push(deliver(&world, Kind::Group, &engineers).await);
    let membership = join(sim, &ada, &engineers);
    seen.push(deliver(&world, Kind::GroupMembership, &membership).await);
    assert_eq!(groups_of(&world, &ada).await, std::slice::from_ref(&engineers));
    let user = sim.get(Kind::OrganizationMembership, &ada).expect("it is there")["user_id"].clone();
    let user = user.as_str().expect("an id");
    let signed_in = session(sim, user);
    seen.push(deliver(&world, Kind::Session, &signed_in).await);
    let row = world.row(Kind::Session, &signed_in).await.expect("a row");
    assert_eq!((&row["status"], &row["_source"]), (&json!("active"), &json!("list")));
    revoke(sim, &signed_in);
    seen.push(deliver(&world, Kind::Session, &signed_in).await);
    let row = world.row(Kind::Session, &signed_in).await.expect("it ended and stays");
    assert_eq!((&row["status"], &row["_source"]), (&json!("revoked"), &json!("event")));
    assert_eq!(row["ip_address"], "192.0.2.77", "what an event does not tell stays");
    let key = api_key(sim, "organization", &acme);
    seen.push(deliver(&world, Kind::ApiKey, &key).await);
    sim.update(Kind::ApiKey, &key, json!({"expires_at": "2027-01-01T00:00:00.000Z"}));
    seen.push(deliver(&world, Kind::ApiKey, &key).await);
    // Bob was never announced.
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;

    sim.delete(Kind::ApiKey, &key);
    seen.push(deliver(&world, Kind::ApiKey, &key).await);
    assert!(world.row(Kind::ApiKey, &key).await.is_none());
    assert!(world.any_row(Kind::ApiKey, &key).await.is_some(), "a tombstone");
    sim.delete(Kind::GroupMembership, &membership);
    seen.push(deliver(&world, Kind::GroupMembership, &membership).await);
    assert!(groups_of(&world, &ada).await.is_empty());
    sim.delete(Kind::Group, &engineers);
    seen.push(deliver(&world, Kind::Group, &engineers).await);
    assert!(world.row(Kind::Group, &engineers).await.is_none());
    world.assert_in_step().await;
    let told: Vec<(&str, &str)> = seen.iter().map(|(told, ended)| (told.as_str(), ended.as_str())).collect();
    assert_eq!(
        told,
        [
            ("group.created", "applied"),
            ("group.updated", "applied"),
            ("group.member_added", "applied"),
            ("session.created", "applied"),
            ("session.revoked", "applied"),
            ("api_key.created", "applied"),
            ("api_key.updated", "applied"),
            ("api_key.revoked", "applied"),
            ("group.member_removed", "applied"),
            ("group.deleted", "deleted"),
        ]
    );
}

#[tokio::test]
async fn a_membership_in_a_group_brings_the_group_its_organization_and_the_user_along() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    let ada = sim.membership(&sim.user("ada@example.com"), &acme);
    let engineers = group(sim, &acme, "Engineers");
    let membership = join(sim, &ada, &engineers);
    deliver(&world, Kind::GroupMembership, &membership).await;
    world.assert_in_step().await;
    assert_eq!(sim.requests().gets(Kind::Group), 0, "the list shows the group");
}

#[tokio::test]
async fn a_pair_that_is_removed_and_added_again_is_there_in_whatever_order_that_is_told() {
    let world = World::builder().knobs(by_hand()).workers(2).start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    let engineers = group(sim, &acme, "Engineers");
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let members = orders.map(|order| sim.membership(&sim.user(&format!("{order:?}@example.com")), &acme));
    sim.release_held();
    world.settled().await;
    let stories = members.each_ref().map(|member| {
        let before = sim.events().len();
        let first = join(sim, member, &engineers);
        sim.delete(Kind::GroupMembership, &first);
        join(sim, member, &engineers);
        sim.events().split_off(before)
    });
    for turn in 0..3 {
        for (order, events) in orders.iter().zip(&stories) {
            sim.post(&events[order[turn]].id).await.expect("a delivery");
        }
    }
    world.settled().await;
    world.assert_in_step().await;
    for (order, member) in orders.iter().zip(&members) {
        assert_eq!(groups_of(&world, member).await, std::slice::from_ref(&engineers), "{order:?}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_know_yet_what_an_event_said_is_asked_again() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let (acme, ada, _) = two(sim);
    let engineers = group(sim, &acme, "Engineers");
    let user = sim.user("eve@example.com");
    sim.release_held();
    world.settled().await;
    let membership = join(sim, &ada, &engineers);
    let key = api_key(sim, "organization", &acme);
    sim.set_knobs(Knobs { stale_list: 1.0, stale_window_ms: 600, ..by_hand() });
    deliver(&world, Kind::GroupMembership, &membership).await;
    deliver(&world, Kind::ApiKey, &key).await;
    world.assert_in_step().await;
    sim.update(Kind::ApiKey, &key, json!({"name": "Renamed"}));
    deliver(&world, Kind::ApiKey, &key).await;
    let signed_in = session(sim, &user);
    deliver(&world, Kind::Session, &signed_in).await;
    sim.delete(Kind::GroupMembership, &membership);
    deliver(&world, Kind::GroupMembership, &membership).await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn what_hangs_on_a_user_an_organization_a_membership_or_a_group_goes_with_it() {
    let world = World::builder().knobs(Knobs { cascade_events: false, ..Knobs::default() }).start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    let user = sim.user("ada@example.com");
    let ada = sim.membership(&user, &acme);
    let bob = sim.membership(&sim.user("bob@example.com"), &acme);
    let (engineers, poets) = (group(sim, &acme, "Engineers"), group(sim, &acme, "Poets"));
    for (membership, group) in [(&ada, &engineers), (&bob, &engineers), (&bob, &poets)] {
        join(sim, membership, group);
    }
    let signed_in = session(sim, &user);
    let keys = [api_key(sim, "user", &user), api_key(sim, "organization", &acme)];
    world.settled().await;
    world.assert_in_step().await;

    let event = sim.delete(Kind::Group, &engineers).expect("an event");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(groups_of(&world, &bob).await, std::slice::from_ref(&poets));
    let last =
        audits(&world, &ada).await.into_iter().rfind(|audit| audit.action == "deleted").expect("an audit");
    assert_eq!(last.event_id.as_deref(), Some(event.as_str()));
    assert_eq!(last.cause, Some(format!("group/{engineers}")));

    sim.delete(Kind::OrganizationMembership, &bob);
    world.settled().await;
    assert!(groups_of(&world, &bob).await.is_empty());
    let event = sim.delete(Kind::User, &user).expect("an event");
    world.settled().await;
    world.assert_in_step().await;
    assert!(world.row(Kind::Session, &signed_in).await.is_none());
    assert!(world.row(Kind::ApiKey, &keys[0]).await.is_none());
    let last = audits(&world, &format!("user/{user}")).await.pop().expect("an audit");
    assert_eq!((last.event_id.as_deref(), last.cause), (Some(event.as_str()), Some(format!("user/{user}"))));

    sim.delete(Kind::Organization, &acme);
    world.settled().await;
    world.assert_in_step().await;
    assert!(world.row(Kind::Group, &poets).await.is_none());
    assert!(world.row(Kind::ApiKey, &keys[1]).await.is_none());
}

#[tokio::test]
async fn a_session_ends_as_its_event_says_in_whatever_order_events_come() {
    let world = World::builder().knobs(by_hand()).workers(2).start().await;
    let sim = world.sim();
    let user = sim.user("ada@example.com");
    let sessions: Vec<String> = (0..3).map(|_| session(sim, &user)).collect();
    revoke(sim, &sessions[0]);
    revoke(sim, &sessions[1]);
    let mut events = sim.events();
    events.reverse();
    for event in &events {
        sim.post(&event.id).await.expect("a delivery");
    }
    world.settled().await;
    world.assert_in_step().await;
    for (session, status) in sessions.iter().zip(["revoked", "revoked", "active"]) {
        let row = world.row(Kind::Session, session).await.expect("a row");
        assert_eq!(row["status"], status);
    }
}

#[tokio::test]
async fn a_session_past_its_time_expires_and_one_that_vanished_is_gone() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let user = sim.user("ada@example.com");
    let expired = sim.create(
        Kind::Session,
        json!({"user_id": user, "expires_at": "2026-01-01T00:00:00.000Z", "status": "active"}),
    );
    let vanished = session(sim, &user);
    let stays = session(sim, &user);
    deliver(&world, Kind::Session, &stays).await;
    sim.silently_update(Kind::Session, &expired, json!({"status": "expired"}), true);
    sim.silently_delete(Kind::Session, &vanished);
    assert_eq!(world.worker_command(&["verify", "--only", "sessions"]).await.code(), Some(1));
    assert_eq!(world.worker_command(&["verify", "--only", "sessions", "--repair"]).await.code(), Some(0));
    let row = world.row(Kind::Session, &expired).await.expect("it stays");
    assert_eq!(row["status"], "expired");
    assert!(world.row(Kind::Session, &vanished).await.is_none());
    world.assert_in_step().await;
}

#[tokio::test]
async fn nothing_personal_of_a_session_travels() {
    let world = World::builder().workers(0).knobs(by_hand()).start().await;
    let sim = world.sim();
    let user = sim.user("ada@example.com");
    let signed_in = sim.create(
        Kind::Session,
        json!({"user_id": user, "ip_address": "MARK", "user_agent": "MARK", "impersonator": {"email": "MARK"}}),
    );
    revoke(sim, &signed_in);
    sim.release_held();
    let stream = world.jetstream().get_stream("WORKOS_EVENTS").await.expect("the stream");
    world
        .eventually("the events are there", async || {
            (stream.get_info().await.ok()?.state.messages >= 3).then_some(())
        })
        .await;
    for sequence in 1..=3 {
        let message = stream.get_raw_message(sequence).await.expect("a message");
        assert!(!String::from_utf8_lossy(&message.payload).contains("MARK"));
    }
}

#[tokio::test]
async fn keys_of_users_that_may_not_be_listed_are_ignored_and_no_dead_letter() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let user = sim.user("ada@example.com");
    let key = api_key(sim, "user", &user);
    sim.fail_next_list(Kind::ApiKey, 1, Failure::Status(403));
    assert_eq!(deliver(&world, Kind::ApiKey, &key).await.1, "ignored");
    let event = sim.last_event(Kind::ApiKey, &key).expect("an event");
    assert_eq!(reason(&world, &event.id).await.as_deref(), Some("not_listed"));
}

#[tokio::test]
async fn a_key_that_was_revoked_is_gone_at_once_and_no_stale_list_brings_it_back() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let (acme, user) = (sim.organization("Acme"), sim.user("ada@example.com"));
    for (of_type, owner) in [("organization", &acme), ("user", &user)] {
        let [revoked, stays] = [(); 2].map(|()| api_key(sim, of_type, owner));
        deliver(&world, Kind::ApiKey, &stays).await;
        assert!(world.row(Kind::ApiKey, &revoked).await.is_some());

        sim.stop_lists(true);
        sim.delete(Kind::ApiKey, &revoked);
        let ended = deliver(&world, Kind::ApiKey, &revoked).await;
        assert_eq!(ended, ("api_key.revoked".to_owned(), "applied".to_owned()));
        assert!(world.row(Kind::ApiKey, &revoked).await.is_none());
        let audit = audits(&world, &format!("{of_type}/{owner}")).await.pop().expect("an audit");
        assert_eq!(audit.changes["_revoked_at"]["new"], json!([revoked]));
        // Its list still shows it, whoever reads it.
        let told = sim.tell("api_key.created", Kind::ApiKey, &stays).expect("it is there");
        sim.post(&told).await.expect("a delivery");
        world.settled().await;
        assert_eq!(outcome(&world, &told).await.as_deref(), Some("unchanged"));
        assert!(world.row(Kind::ApiKey, &revoked).await.is_none());
        // Nor when something else in it is news.
        sqlx::query("UPDATE workos.api_keys SET name = 'Another' WHERE id = $1")
            .bind(&stays)
            .execute(world.pool())
            .await
            .expect("the mirror");
        world.worker_command(&["sync", "api_key", &format!("{of_type}/{owner}")]).await;
        world.worker_command(&["backfill", "--only", "api_keys", "--restart"]).await;
        assert!(world.row(Kind::ApiKey, &revoked).await.is_none());
        let row = world.row(Kind::ApiKey, &stays).await.expect("it is there");
        assert_eq!(row["name"], "Key", "the list was taken");
        sim.stop_lists(false);
    }
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_key_that_was_revoked_before_it_was_seen_stays_away() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let key = api_key(sim, "organization", &sim.organization("Acme"));
    let made = sim.last_event(Kind::ApiKey, &key).expect("an event").id;
    sim.stop_lists(true);
    sim.delete(Kind::ApiKey, &key);
    assert_eq!(deliver(&world, Kind::ApiKey, &key).await.1, "applied");
    sim.post(&made).await.expect("a delivery");
    world.settled().await;
    assert!(world.row(Kind::ApiKey, &key).await.is_none());
    assert!(world.any_row(Kind::ApiKey, &key).await.is_some(), "a tombstone");
    sim.stop_lists(false);
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_key_is_revoked_by_its_event_although_nobody_may_ask_or_nobody_answers() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let user = sim.user("ada@example.com");
    let keys = [(); 2].map(|()| api_key(sim, "user", &user));
    deliver(&world, Kind::ApiKey, &keys[1]).await;
    sim.fail_next_list(Kind::ApiKey, 1, Failure::Status(403));
    sim.delete(Kind::ApiKey, &keys[0]);
    assert_eq!(deliver(&world, Kind::ApiKey, &keys[0]).await.1, "applied");
    assert!(world.row(Kind::ApiKey, &keys[0]).await.is_none());
    let row = world.any_row(Kind::ApiKey, &keys[0]).await.expect("a tombstone");
    assert_eq!(row["user_id"], json!(user), "the tombstone keeps what was known");

    sim.outage(Some(Failure::Status(503)));
    sim.delete(Kind::ApiKey, &keys[1]);
    let event = sim.last_event(Kind::ApiKey, &keys[1]).expect("an event").id;
    sim.post(&event).await.expect("a delivery");
    world
        .eventually("the key is gone", async || {
            world.row(Kind::ApiKey, &keys[1]).await.is_none().then_some(())
        })
        .await;
    assert_eq!(outcome(&world, &event).await, None, "and its event still waits for the list");
    sim.outage(None);
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_users_key_for_an_organization_goes_with_it_and_comes_back_with_it() {
    let world = World::builder().knobs(Knobs { cascade_events: false, ..Knobs::default() }).start().await;
    let sim = world.sim();
    let (acme, initech) = (sim.organization("Acme"), sim.organization("Initech"));
    let user = sim.user("ada@example.com");
    let own = api_key(sim, "user", &user);
    let [of_acme, of_initech] = [&acme, &initech].map(|organization| {
        let owner = json!({"type": "user", "id": user, "organization_id": organization});
        sim.create(Kind::ApiKey, json!({"owner": owner}))
    });
    world.settled().await;
    world.assert_in_step().await;

    // Twice not there is gone, but it may be there all the same.
    sim.fail_next(Kind::Organization, &initech, 2, Failure::Status(404));
    let synced = world.worker_command(&["sync", "organization", &initech]).await;
    assert_eq!(synced.code(), Some(0), "{}", synced.stderr);
    assert!(world.row(Kind::ApiKey, &of_initech).await.is_none());
    assert!(world.row(Kind::ApiKey, &own).await.is_some());
    let synced = world.worker_command(&["sync", "organization", &initech]).await;
    assert_eq!(synced.code(), Some(0), "{}", synced.stderr);
    world.assert_in_step().await;

    sim.stop_lists(true);
    let event = sim.delete(Kind::Organization, &acme).expect("an event");
    world.settled().await;
    let audit = audits(&world, &format!("user/{user}")).await.pop().expect("an audit");
    assert_eq!(audit.event_id, Some(event));
    assert_eq!(audit.cause, Some(format!("organization/{acme}")));
    sim.tell("api_key.created", Kind::ApiKey, &own).expect("it is there");
    world.settled().await;
    assert!(world.row(Kind::ApiKey, &of_acme).await.is_none(), "whatever a stale list says");
    sim.stop_lists(false);
    world.assert_in_step().await;
}

#[tokio::test]
async fn who_was_in_a_group_that_is_there_after_all_is_in_it_again() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let (acme, ada, bob) = two(sim);
    let engineers = group(sim, &acme, "Engineers");
    let first = join(sim, &ada, &engineers);
    join(sim, &bob, &engineers);
    sim.release_held();
    world.settled().await;
    let lose = async || {
        sim.fail_next(Kind::Group, &engineers, 2, Failure::Status(404));
        let synced = world.worker_command(&["sync", "group", &engineers]).await;
        assert_eq!(synced.code(), Some(0), "{}", synced.stderr);
        assert!(world.row(Kind::Group, &engineers).await.is_none());
        assert!(groups_of(&world, &bob).await.is_empty());
    };
    lose().await;
    let synced = world.worker_command(&["sync", "group", &engineers]).await;
    assert_eq!(synced.code(), Some(0), "{}", synced.stderr);
    world.assert_in_step().await;

    // Or it comes along with what is told of one of them.
    lose().await;
    let told = sim.tell("group.member_added", Kind::GroupMembership, &first).expect("it is there");
    sim.post(&told).await.expect("a delivery");
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_group_of_which_nobody_knows_the_organization_gets_a_clear_answer() {
    let world = World::builder().workers(0).knobs(by_hand()).start().await;
    let sim = world.sim();
    let engineers = group(sim, &sim.organization("Acme"), "Engineers");
    let synced = world.worker_command(&["sync", "group", &engineers]).await;
    assert_eq!(synced.code(), Some(1));
    assert!(synced.stderr.contains("worker backfill --only groups"), "{}", synced.stderr);
    assert_eq!(world.worker_command(&["backfill", "--only", "groups"]).await.code(), Some(0));
    sim.silently_update(Kind::Group, &engineers, json!({"name": "Builders"}), true);
    assert_eq!(world.worker_command(&["sync", "group", &engineers]).await.code(), Some(0));
    world.assert_in_step().await;
}

#[tokio::test]
async fn backfill_verify_and_sync_know_relations() {
    let world = World::builder().workers(0).knobs(by_hand()).start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    let users: Vec<String> = (0..5).map(|n| sim.user(&format!("user{n}@example.com"))).collect();
    let members: Vec<String> = users.iter().map(|user| sim.membership(user, &acme)).collect();
    let groups = [group(sim, &acme, "Engineers"), group(sim, &acme, "Poets")];
    let pairs: Vec<String> =
        members.iter().flat_map(|member| groups.iter().map(|group| join(sim, member, group))).collect();
    let sessions: Vec<String> = users.iter().map(|user| session(sim, user)).collect();
    let keys = [api_key(sim, "organization", &acme), api_key(sim, "user", &users[0])];
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    world.assert_in_step().await;
    assert_eq!(sim.requests().all_gets(), 0, "lists bring them all");

    for gone in &pairs[7..] {
        sim.silently_delete(Kind::GroupMembership, gone);
    }
    sim.silently_delete(Kind::Session, &sessions[0]);
    sim.silently_update(Kind::ApiKey, &keys[0], json!({"name": "Renamed"}), true);
    sim.silently_delete(Kind::ApiKey, &keys[1]);
    assert_eq!(world.worker_command(&["verify"]).await.code(), Some(1));
    let synced = world.worker_command(&["sync", "user", &users[0]]).await;
    assert_eq!(synced.code(), Some(0), "{}", synced.stderr);
    assert!(world.row(Kind::Session, &sessions[0]).await.is_none());
    assert!(world.row(Kind::ApiKey, &keys[1]).await.is_none());
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    world.assert_in_step().await;
    assert_eq!(world.worker_command(&["verify"]).await.code(), Some(0));
}

#[tokio::test]
async fn a_key_that_was_used_differs_in_a_column_that_nobody_announces() {
    let world = World::builder().workers(0).knobs(by_hand()).start().await;
    let sim = world.sim();
    let key = api_key(sim, "organization", &sim.organization("Acme"));
    assert_eq!(world.worker_command(&["backfill", "--only", "api_keys"]).await.code(), Some(0));
    sim.silently_update(Kind::ApiKey, &key, json!({"last_used_at": "2026-01-15T12:00:00.000Z"}), false);
    let verified = world.worker_command(&["verify", "--only", "api_keys", "--format", "json"]).await;
    let report: Value = serde_json::from_str(&verified.stdout).expect("a report");
    assert!(report.to_string().contains("last_used_at"), "{report}");
}
