//! The programs as an operator meets them: settings, exit codes, signals.

use support::world::World;

#[tokio::test]
async fn a_worker_without_settings_names_each_and_exits_2() {
    let world = World::builder().without_programs().start().await;
    let ended = world
        .worker_command_with(
            &["run"],
            &[("WORKOS_API_KEY", ""), ("DATABASE_URL", ""), ("SYNC_BATCH_MAX", "many")],
        )
        .await;
    assert_eq!(ended.code(), Some(2));
    for name in ["WORKOS_API_KEY", "DATABASE_URL", "SYNC_BATCH_MAX"] {
        assert!(ended.stderr.lines().any(|line| line.starts_with(name)), "{name} in {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_worker_refuses_to_run_without_migrations_and_names_the_command() {
    let world = World::builder().without_programs().start().await;
    for statement in ["DROP SCHEMA workos CASCADE", "DROP SCHEMA workos_sync CASCADE"] {
        sqlx::query(statement).execute(world.pool()).await.expect(statement);
    }
    let ended = world.worker_command_with(&["run"], &[("SYNC_AUTO_MIGRATE", "false")]).await;
    assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("worker migrate"), "{}", ended.stderr);
    let migrated = world.worker_command(&["migrate"]).await;
    assert_eq!(migrated.code(), Some(0), "{}", migrated.stderr);
    let again = world.worker_command(&["migrate"]).await;
    assert!(again.stdout.starts_with("0 migration(s)"), "{}", again.stdout);
}

#[tokio::test]
async fn tables_of_somebody_else_are_not_taken_over() {
    let world = World::builder().without_programs().start().await;
    for statement in [
        "DROP SCHEMA workos CASCADE",
        "DROP SCHEMA workos_sync CASCADE",
        "CREATE SCHEMA workos",
        "CREATE TABLE workos.users (id int)",
    ] {
        sqlx::query(statement).execute(world.pool()).await.expect(statement);
    }
    let migrated = world.worker_command(&["migrate"]).await;
    assert_ne!(migrated.code(), Some(0));
    assert!(migrated.stderr.contains("workos-sync did not make (users)"), "{}", migrated.stderr);
}

#[tokio::test]
async fn the_first_signal_drains_and_both_programs_end_well() {
    let mut world = World::start().await;
    for n in 0..50 {
        world.sim().user(&format!("user{n}@example.com"));
    }
    world.eventually("the first webhooks", async || (world.sim().requests().total() > 0).then_some(())).await;
    assert!(world.worker(0).terminate().await.expect("the worker ends").success());
    world.start_worker_again(0).await;
    world.settled().await;
    world.assert_in_step().await;
    assert!(world.ingest(0).terminate().await.expect("ingest ends").success());
}

#[tokio::test]
async fn both_programs_let_the_broker_know_who_they_are() {
    let mut world = World::builder().nats_user("sync", "p@ss/w\u{f6}rd").start().await;
    world.sim().user("ada@example.com");
    world.settled().await;
    world.assert_in_step().await;
    let stranger = format!("nats://sync:other@127.0.0.1:{}", world.nats().port());
    let status = world.worker_command_with(&["status"], &[("NATS_URL", &stranger)]).await;
    assert_eq!(status.code(), Some(3), "{}", status.stderr);
    // It may stand in a file, as every secret may.
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), world.nats_url()).expect("the address");
    let path = file.path().to_str().expect("a path");
    let status = world.worker_command_with(&["status"], &[("NATS_URL", ""), ("NATS_URL_FILE", path)]).await;
    assert_eq!(status.code(), Some(0), "{}", status.stderr);
}

#[tokio::test]
async fn a_healthcheck_says_whether_a_copy_is_ready() {
    let mut world = World::start().await;
    let admin = world.worker(0).admin().to_string();
    let ready = world.worker_command_with(&["healthcheck"], &[("WORKER_ADMIN_ADDR", &admin)]).await;
    assert_eq!(ready.code(), Some(0), "{}", ready.stderr);
    world.kill_worker(0);
    let gone = world.worker_command_with(&["healthcheck"], &[("WORKER_ADMIN_ADDR", &admin)]).await;
    assert_eq!(gone.code(), Some(3), "{}", gone.stderr);
}
