//! `worker explain` and `worker status`: what a person reads at night.

use serde_json::{Value, json};
use shared::id::Kind;
use support::world::World;

#[tokio::test]
async fn explain_tells_what_happened_to_an_object_in_order_and_what_to_do_next() {
    let world = World::start().await;
    let ada = world.sim().user("ada@example.com");
    world.settled().await;
    world.sim().update(Kind::User, &ada, json!({"first_name": "Augusta"}));
    world.settled().await;

    let told = world.worker_command(&["explain", &ada]).await.success().expect("an explanation");
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with(&format!("user/{ada}: in the mirror")), "{told}");
    let place = |what: &str| lines.iter().position(|line| line.contains(what));
    let (created, updated) = (place(" created by event"), place(" updated by event"));
    assert!(created.is_some() && created < updated, "{told}");
    assert!(told.contains("first came by webhook") && told.contains("applied"), "{told}");
    assert!(told.contains("first_name") && !told.contains("Augusta"), "columns, no values: {told}");
    assert!(told.contains(&format!("next: nothing is open; `worker sync user {ada}`")), "{told}");

    let event = world.sim().last_event(Kind::User, &ada).expect("an event").id;
    let told = world.worker_command(&["explain", &event]).await.success().expect("an explanation");
    assert!(told.contains(&format!("user/{ada}")) && told.contains("user.updated"), "{told}");
}

#[tokio::test]
async fn what_is_known_by_another_name_than_the_id_of_its_row_is_found_by_both() {
    let world = World::start().await;
    let sim = world.sim();
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let key = sim.make(kind, true);
        if matches!(kind, Kind::DirectoryGroupMembership | Kind::GroupMembership) {
            // They have no ids.
            continue;
        }
        world.settled().await;
        let row = world.row(kind, &key).await.expect("a row");
        let id = row["id"].as_str().expect("an id");
        let known_as: Option<String> =
            sqlx::query_scalar("SELECT id FROM workos_sync.objects WHERE kind = $1 AND id = $2")
                .bind(kind.name())
                .bind(id)
                .fetch_optional(world.pool())
                .await
                .expect("the guard");
        let told = world.worker_command(&["explain", id]).await.success().expect("an explanation");
        assert!(told.contains("last answer taken") && told.contains("first came by"), "{told}");
        let other = told.lines().next().and_then(|line| line.strip_prefix(&format!("{id} is known as ")));
        assert_eq!(other.is_none(), known_as.is_some(), "{told}");
        if let Some(other) = other {
            assert!(other.starts_with(&format!("{kind}/")), "{told}");
            let synced = world.worker_command(&["sync", kind.name(), id]).await;
            assert_eq!(synced.code(), Some(0), "{}", synced.stderr);
            found.push(kind);
        }
    }
    let slugs = [Kind::Role, Kind::OrganizationRole, Kind::Permission, Kind::FeatureFlag];
    assert_eq!(found, [[Kind::Session, Kind::ApiKey].as_slice(), &slugs].concat());
    world.assert_in_step().await;
}

#[tokio::test]
async fn explain_says_that_nothing_is_known_and_how_to_ask() {
    let world = World::start().await;
    let ended = world.worker_command(&["explain", "user_unknown"]).await;
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("nothing is known of user_unknown"), "{ended:?}");
}

#[tokio::test]
async fn status_counts_what_waits_and_what_is_there() {
    let world = World::start().await;
    let ada = world.sim().user("ada@example.com");
    world.sim().user("bob@example.com");
    world.settled().await;
    world.sim().delete(Kind::User, &ada);
    world.settled().await;

    let status = async || -> Value {
        let told = world.worker_command(&["status", "--format", "json"]).await.success().expect("a status");
        serde_json::from_str(&told).expect("JSON")
    };
    // The last acknowledgement may be on its way.
    let status = world
        .eventually("nothing that waits", async || {
            Some(status().await).filter(|status| status["broker"]["oldest_pending_at"].is_null())
        })
        .await;
    assert_eq!(status["tables"], json!([{"kind": "user", "live": 1, "deleted": 1}]));
    assert_eq!(status["broker"]["waiting"], 0);
    assert_eq!(status["broker"]["dead_letters"], 0);
    assert_eq!(status["ledger"]["open"], 0);
    assert_eq!(status["ledger"]["settled_last_hour"], 3);

    let page = world.worker_command(&["status"]).await.success().expect("a status");
    assert!(page.contains("dead letters      0") && page.contains("file storage on one server"), "{page}");
}
