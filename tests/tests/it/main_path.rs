//! A signed webhook becomes a row.

use serde_json::json;
use shared::id::Kind;
use support::sim::Knobs;
use support::world::World;

use crate::ledger::{audits, outcome};

/// A WorkOS whose webhooks leave only when the story says so.
pub(crate) fn by_hand() -> Knobs {
    Knobs { auto_deliver: false, ..Knobs::default() }
}

#[tokio::test]
async fn a_company_becomes_rows() {
    let world = World::start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    let acme = sim.organization("Acme");
    sim.domain(&acme, "acme.example");
    let membership = sim.membership(&ada, &acme);
    world.settled().await;
    world.assert_in_step().await;

    sim.update(Kind::User, &ada, json!({"first_name": "Augusta", "metadata": {"team": "engines"}}));
    sim.update(Kind::Organization, &acme, json!({"name": "Acme Engines"}));
    sim.update(
        Kind::OrganizationMembership,
        &membership,
        json!({"role": {"slug": "admin"}, "roles": [{"slug": "admin"}]}),
    );
    world.settled().await;
    world.assert_in_step().await;
    let row = world.row(Kind::User, &ada).await.expect("a live row");
    assert_eq!(row["first_name"], "Augusta");
    assert_eq!(row["_env"], "test");
}

#[tokio::test]
async fn an_event_ends_in_one_outcome_and_a_change_in_one_audit() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    let created = sim.last_event(Kind::User, &ada).expect("an event").id;
    assert_eq!(sim.post(&created).await.expect("a delivery"), [200]);
    world.settled().await;
    sim.update(Kind::User, &ada, json!({"first_name": "Augusta"}));
    let updated = sim.last_event(Kind::User, &ada).expect("an event").id;
    sim.post(&updated).await.expect("a delivery");
    world.settled().await;

    assert_eq!(outcome(&world, &created).await.as_deref(), Some("applied"));
    assert_eq!(outcome(&world, &updated).await.as_deref(), Some("applied"));
    let audits = audits(&world, &ada).await;
    assert_eq!(audits.iter().map(|audit| audit.action.as_str()).collect::<Vec<_>>(), ["created", "updated"]);
    let changes = &audits[1].changes;
    assert_eq!(changes["first_name"], json!({"old": "redacted", "new": "redacted"}));
    assert!(changes["updated_at"]["new"].is_string());
    assert_eq!(audits[1].event_id.as_deref(), Some(updated.as_str()));
    assert_eq!(audits[1].channel, "webhook");
}

#[tokio::test]
async fn a_membership_brings_its_missing_parents_in_the_same_pass() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let (ada, acme) = (sim.user("ada@example.com"), sim.organization("Acme"));
    let membership = sim.membership(&ada, &acme);
    let event = sim.last_event(Kind::OrganizationMembership, &membership).expect("an event").id;
    sim.post(&event).await.expect("a delivery");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(sim.requests().all_gets(), 3);
}

#[tokio::test]
async fn what_the_application_added_is_never_touched() {
    let world = World::start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    world.settled().await;
    for statement in [
        "ALTER TABLE workos.users ADD COLUMN favourite_colour text",
        "CREATE TABLE workos.notes (user_id text REFERENCES workos.users (id), note text)",
        "UPDATE workos.users SET favourite_colour = 'green'",
        "UPDATE workos.profiles SET bio = 'I count.', preferences = '{\"theme\": \"dark\"}'",
    ] {
        sqlx::query(statement).execute(world.pool()).await.expect(statement);
    }
    sqlx::query("INSERT INTO workos.notes VALUES ($1, 'first')")
        .bind(&ada)
        .execute(world.pool())
        .await
        .expect("a note");

    sim.update(Kind::User, &ada, json!({"first_name": "Augusta"}));
    world.settled().await;
    sim.delete(Kind::User, &ada);
    world.settled().await;

    let row = world.any_row(Kind::User, &ada).await.expect("a tombstone, not a hole");
    assert_eq!(row["favourite_colour"], "green");
    assert_eq!(row["first_name"], "Augusta");
    let (bio, preferences): (String, serde_json::Value) =
        sqlx::query_as("SELECT bio, preferences FROM workos.profiles WHERE id = $1")
            .bind(&ada)
            .fetch_one(world.pool())
            .await
            .expect("the profile");
    assert_eq!((bio.as_str(), &preferences["theme"]), ("I count.", &json!("dark")));
}

#[tokio::test]
async fn an_organization_that_is_renamed_is_renamed_in_its_memberships() {
    let world = World::start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    for name in ["ada", "bob"] {
        let user = sim.user(&format!("{name}@example.com"));
        sim.membership(&user, &acme);
    }
    world.settled().await;
    sim.update(Kind::Organization, &acme, json!({"name": "Acme Engines"}));
    world.settled().await;
    world.assert_in_step().await;
}
