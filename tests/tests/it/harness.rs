//! The world itself: it starts quickly, settles, and tells what differs.

use serde_json::json;
use shared::id::Kind;
use support::world::World;

#[tokio::test]
async fn a_change_in_workos_becomes_a_row() {
    let world = World::start().await;
    let acme = world.sim().organization("Acme");
    let ada = world.sim().user("ada.lovelace@example.com");
    world.sim().membership(&ada, &acme);
    world.settled().await;
    world.assert_in_step().await;
    let row = world.row(Kind::User, &ada).await.expect("a row");
    assert_eq!(row["email"], "ada.lovelace@example.com");
}

#[tokio::test]
async fn a_difference_is_told_with_its_column() {
    let world = World::start().await;
    let ada = world.sim().user("ada.lovelace@example.com");
    world.settled().await;

    world.sim().silently_update(Kind::User, &ada, json!({"first_name": "Augusta"}), false);
    let babbage = world.sim().silently_create(Kind::User, json!({"email": "charles@example.com"}));

    let differences = world.differences().await;
    let told = |parts: &[&str]| differences.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(told(&["users", &ada, "first_name", "Ada", "Augusta"]), "{differences:#?}");
    assert!(told(&["profiles", &ada, "first_name"]), "{differences:#?}");
    assert!(told(&["users", &babbage, "the mirror does not"]), "{differences:#?}");
    assert!(told(&["profiles", &babbage, "the mirror does not"]), "{differences:#?}");
}

#[tokio::test]
async fn a_world_without_programs_has_a_migrated_database_and_no_differences() {
    let world = World::builder().without_programs().start().await;
    assert_eq!(world.differences().await, Vec::<String>::new());
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM workos_sync.objects").fetch_one(world.pool()).await.unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn a_world_survives_the_loss_of_its_servers() {
    let mut world = World::builder().private_postgres().start().await;
    world.postgres().kill().unwrap();
    world.nats().kill().unwrap();
    world.nats().start_again().await.unwrap();
    world.postgres().start_again().await.unwrap();
    world.kill_worker(0);
    world.start_worker_again(0).await;
    let second = world.start_worker().await;

    world.sim().user("ada.lovelace@example.com");

    world.settled().await;
    world.assert_in_step().await;
    assert!(world.worker_metrics(second).await.has("workos_sync_batch_size_count"));
}
