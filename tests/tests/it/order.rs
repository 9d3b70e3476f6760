//! Twice, late, out of order, too early, too old: the mirror agrees all the same.

use serde_json::json;
use shared::id::Kind;
use support::sim::Knobs;
use support::world::World;

use crate::ledger::{audits, outcome};
use crate::main_path::by_hand;

#[tokio::test]
async fn a_delivery_that_comes_again_costs_no_request_and_no_write() {
    let world = World::start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    world.settled().await;
    let version = |world: &World, table: &str| {
        let sql = format!("SELECT string_agg(xmin::text || ctid::text, ',') FROM {table}");
        let pool = world.pool().clone();
        async move {
            sqlx::query_scalar::<_, Option<String>>(sqlx::AssertSqlSafe(sql))
                .fetch_one(&pool)
                .await
                .expect("a version")
        }
    };
    let tables = [
        "workos.users",
        "workos.profiles",
        "workos_sync.objects",
        "workos_sync.events",
        "workos_sync.audit_log",
    ];
    let mut before = Vec::new();
    for table in tables {
        before.push(version(&world, table).await);
    }
    sim.reset_counters();

    // The broker forgot the id, so it stores the message a second time.
    let stream = world.jetstream().get_stream("WORKOS_EVENTS").await.expect("the stream");
    let message = stream.get_raw_message(1).await.expect("the message");
    world
        .jetstream()
        .publish(message.subject, message.payload)
        .await
        .expect("publish")
        .await
        .expect("an ack");
    world.settled().await;

    let mut after = Vec::new();
    for table in tables {
        after.push(version(&world, table).await);
    }
    assert_eq!(before, after);
    assert_eq!(sim.requests().total(), 0);
    assert!(world.row(Kind::User, &ada).await.is_some());
}

#[tokio::test]
async fn events_in_reverse_order_end_in_the_latest_state() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    let mut events = vec![sim.last_event(Kind::User, &ada).expect("an event").id];
    for n in 0..5 {
        sim.update(Kind::User, &ada, json!({"first_name": format!("Ada {n}")}));
        events.push(sim.last_event(Kind::User, &ada).expect("an event").id);
    }
    for event in events.iter().rev() {
        sim.post(event).await.expect("a delivery");
        world.settled().await;
    }
    world.assert_in_step().await;
    assert_eq!(outcome(&world, &events[5]).await.as_deref(), Some("applied"));
    assert_eq!(audits(&world, &ada).await.len(), 1, "the older events found nothing to change");
}

#[tokio::test]
async fn what_was_deleted_before_it_was_created_stays_deleted() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    let created = sim.last_event(Kind::User, &ada).expect("an event").id;
    sim.delete(Kind::User, &ada);
    let deleted = sim.last_event(Kind::User, &ada).expect("an event").id;
    sim.post(&deleted).await.expect("a delivery");
    world.settled().await;
    assert_eq!(outcome(&world, &deleted).await.as_deref(), Some("deleted"));
    sim.post(&created).await.expect("a delivery");
    world.settled().await;
    assert_eq!(outcome(&world, &created).await.as_deref(), Some("superseded"));
    assert_eq!(world.row(Kind::User, &ada).await, None);
    assert_eq!(sim.requests().total(), 0, "a deletion is not asked about");
}

#[tokio::test]
async fn an_asynchronous_deletion_is_not_revived_by_an_answer() {
    let mut knobs = by_hand();
    knobs.async_delete = 1.0;
    knobs.async_delete_ms = 600_000;
    let world = World::builder().knobs(knobs).start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    sim.update(Kind::Organization, &acme, json!({"name": "Acme 2"}));
    let updated = sim.last_event(Kind::Organization, &acme).expect("an event").id;
    sim.delete(Kind::Organization, &acme);
    let deleted = sim.last_event(Kind::Organization, &acme).expect("an event").id;
    sim.post(&deleted).await.expect("a delivery");
    world.settled().await;
    sim.post(&updated).await.expect("a delivery");
    world.settled().await;
    assert_eq!(world.row(Kind::Organization, &acme).await, None);
}

#[tokio::test]
async fn an_answer_that_was_on_its_way_does_not_revive_what_was_deleted_meanwhile() {
    let world = World::builder().knobs(by_hand()).workers(2).start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    let created = sim.last_event(Kind::User, &ada).expect("an event").id;
    let hold = sim.hold(Kind::User, &ada);
    sim.post(&created).await.expect("a delivery");
    hold.reached().await;
    sim.delete(Kind::User, &ada);
    let deleted = sim.last_event(Kind::User, &ada).expect("an event").id;
    sim.post(&deleted).await.expect("a delivery");
    world.eventually("the deletion", async || outcome(&world, &deleted).await).await;
    hold.release();
    world.settled().await;
    assert_eq!(world.row(Kind::User, &ada).await, None);
    assert_eq!(outcome(&world, &created).await.as_deref(), Some("superseded"));
}

#[tokio::test]
async fn a_slow_old_answer_never_overwrites_a_newer_one() {
    let world = World::builder().knobs(by_hand()).workers(2).start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    let created = sim.last_event(Kind::User, &ada).expect("an event").id;
    let hold = sim.hold(Kind::User, &ada);
    sim.post(&created).await.expect("a delivery");
    hold.reached().await;
    // The same moment for both versions: only the fence tells which question was asked later.
    sim.silently_update(Kind::User, &ada, json!({"first_name": "Augusta"}), false);
    let moved = sim.emit("user.updated", sim.get(Kind::User, &ada).expect("the user"));
    sim.post(&moved).await.expect("a delivery");
    world.eventually("the newer answer", async || outcome(&world, &moved).await).await;
    hold.release();
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(outcome(&world, &created).await.as_deref(), Some("superseded"));
}

#[tokio::test]
async fn a_stale_read_is_asked_again_and_not_written() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    sim.post(&sim.last_event(Kind::User, &ada).expect("an event").id).await.expect("a delivery");
    world.settled().await;
    sim.update(Kind::User, &ada, json!({"first_name": "Augusta"}));
    sim.stale_next(Kind::User, &ada, 2);
    let updated = sim.last_event(Kind::User, &ada).expect("an event").id;
    sim.post(&updated).await.expect("a delivery");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(outcome(&world, &updated).await.as_deref(), Some("applied"));
    assert_eq!(audits(&world, &ada).await.len(), 2);
}

#[tokio::test]
async fn a_404_right_after_creation_is_no_deletion() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    sim.stale_next(Kind::User, &ada, 1);
    let created = sim.last_event(Kind::User, &ada).expect("an event").id;
    sim.post(&created).await.expect("a delivery");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(outcome(&world, &created).await.as_deref(), Some("applied"));
}

#[tokio::test]
async fn a_404_that_repeats_is_a_deletion() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    sim.post(&sim.last_event(Kind::User, &ada).expect("an event").id).await.expect("a delivery");
    world.settled().await;
    sim.update(Kind::User, &ada, json!({"first_name": "Augusta"}));
    let updated = sim.last_event(Kind::User, &ada).expect("an event").id;
    sim.silently_delete(Kind::User, &ada);
    sim.post(&updated).await.expect("a delivery");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(outcome(&world, &updated).await.as_deref(), Some("deleted"));
}

#[tokio::test]
async fn a_backlog_costs_one_request_per_object() {
    let world = World::builder().knobs(by_hand()).env("SYNC_BATCH_MAX", "10").start().await;
    let sim = world.sim();
    let users: Vec<String> = (0..3).map(|n| sim.user(&format!("user{n}@example.com"))).collect();
    for n in 0..40 {
        for user in &users {
            sim.update(Kind::User, user, json!({"first_name": format!("Name {n}")}));
        }
    }
    // The worker sleeps while the backlog grows.
    let mut world = world;
    world.worker(0).terminate().await.expect("the worker leaves");
    world.sim().release_held();
    world
        .eventually("all webhooks delivered", async || (world.sim().pending_deliveries() == 0).then_some(()))
        .await;
    world.start_worker_again(0).await;
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(world.sim().requests().gets(Kind::User), 3);
}

#[tokio::test]
async fn an_answer_that_was_stale_does_not_cover_the_event_that_says_so() {
    // One event a batch, so that the first is asked for while the second is known to be published.
    let world = World::builder().knobs(by_hand()).env("SYNC_BATCH_MAX", "1").start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    let created = sim.last_event(Kind::User, &ada).expect("an event").id;
    sim.update(Kind::User, &ada, json!({"first_name": "Augusta"}));
    let updated = sim.last_event(Kind::User, &ada).expect("an event").id;
    let mut world = world;
    world.worker(0).terminate().await.expect("the worker leaves");
    world.sim().post(&created).await.expect("a delivery");
    world.sim().post(&updated).await.expect("a delivery");
    // The first answer is the first version; by its sequence it covers the second event.
    world.sim().stale_next(Kind::User, &ada, 1);
    world.start_worker_again(0).await;
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(outcome(&world, &created).await.as_deref(), Some("applied"));
    assert_eq!(outcome(&world, &updated).await.as_deref(), Some("applied"));
}

#[tokio::test]
async fn a_stream_that_is_made_anew_hides_no_event() {
    let world = World::start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    for n in 0..20 {
        sim.update(Kind::User, &ada, json!({"first_name": format!("Name {n}")}));
    }
    world.settled().await;
    world.jetstream().delete_stream("WORKOS_EVENTS").await.expect("the stream goes");
    // Its sequence is low now, and the old answer covered up to twenty.
    sim.update(Kind::User, &ada, json!({"first_name": "Augusta"}));
    world.eventually_in_step().await;
}

#[tokio::test]
async fn a_deleted_user_takes_its_memberships_along_without_their_own_events() {
    let knobs = Knobs { cascade_events: false, ..Knobs::default() };
    let world = World::builder().knobs(knobs).start().await;
    let sim = world.sim();
    let (ada, acme) = (sim.user("ada@example.com"), sim.organization("Acme"));
    let membership = sim.membership(&ada, &acme);
    world.settled().await;
    sim.delete(Kind::User, &ada);
    world.settled().await;
    world.assert_in_step().await;
    let audits = audits(&world, &membership).await;
    assert_eq!(audits.last().map(|audit| audit.action.as_str()), Some("deleted"));
    assert_eq!(audits.last().and_then(|audit| audit.cause.clone()), Some(format!("user/{ada}")));
}

#[tokio::test]
async fn a_membership_whose_user_is_deleted_while_it_is_asked_for_does_not_live() {
    let mut knobs = by_hand();
    knobs.cascade_events = false;
    let world = World::builder().knobs(knobs).workers(2).start().await;
    let sim = world.sim();
    let (ada, acme) = (sim.user("ada@example.com"), sim.organization("Acme"));
    for (kind, id) in [(Kind::User, &ada), (Kind::Organization, &acme)] {
        sim.post(&sim.last_event(kind, id).expect("an event").id).await.expect("a delivery");
    }
    world.settled().await;
    let membership = sim.membership(&ada, &acme);
    let hold = sim.hold(Kind::OrganizationMembership, &membership);
    sim.post(&sim.last_event(Kind::OrganizationMembership, &membership).expect("an event").id)
        .await
        .expect("a delivery");
    hold.reached().await;
    sim.delete(Kind::User, &ada);
    let deleted = sim.last_event(Kind::User, &ada).expect("an event").id;
    sim.post(&deleted).await.expect("a delivery");
    world.eventually("the deletion", async || outcome(&world, &deleted).await).await;
    hold.release();
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(world.row(Kind::OrganizationMembership, &membership).await, None);
}

#[tokio::test]
async fn a_domain_that_an_organization_no_longer_lists_becomes_a_tombstone() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    let domain = sim.domain(&acme, "acme.example");
    sim.post(&sim.last_event(Kind::Organization, &acme).expect("an event").id).await.expect("a delivery");
    world.settled().await;
    world.assert_in_step().await;
    sim.silently_delete(Kind::OrganizationDomain, &domain);
    sim.update(Kind::Organization, &acme, json!({"name": "Acme without"}));
    sim.post(&sim.last_event(Kind::Organization, &acme).expect("an event").id).await.expect("a delivery");
    world.settled().await;
    world.assert_in_step().await;
    assert!(
        world
            .any_row(Kind::OrganizationDomain, &domain)
            .await
            .is_some_and(|row| !row["_deleted_at"].is_null())
    );
}
