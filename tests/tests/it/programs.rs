//! The programs as an operator meets them: settings, exit codes, signals.

use std::time::Duration;

use nix::sys::signal::Signal;
use shared::id::Kind;
use support::world::World;
use tokio::task::JoinSet;

use crate::main_path::by_hand;

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
async fn who_expects_traces_is_told_that_none_are_sent() {
    let world = World::builder().without_programs().start().await;
    let expecting = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")];
    let ended = world.worker_command_with(&["migrate"], &expecting).await;
    assert_eq!(ended.code(), Some(0));
    assert!(ended.stderr.contains("sends no spans"), "{}", ended.stderr);
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
async fn while_it_drains_a_worker_is_alive_and_not_ready() {
    let mut world = World::builder().knobs(by_hand()).start().await;
    let ada = world.sim().user("ada@example.com");
    let hold = world.sim().hold(Kind::User, &ada);
    let event = world.sim().last_event(Kind::User, &ada).expect("an event").id;
    world.sim().post(&event).await.expect("a delivery");
    hold.reached().await;
    world.worker(0).signal(Signal::SIGTERM).expect("a signal");
    world
        .eventually("the worker to say that it leaves", async || {
            let (status, said) = world.worker_says(0, "/readyz").await?;
            (status == 503 && said.contains("shutdown: leaving")).then_some(())
        })
        .await;
    assert_eq!(world.worker_says(0, "/healthz").await.expect("an answer").0, 200);
    assert!(world.worker_metrics(0).await.has("workos_sync_batch_size_count"));
    hold.release();
    assert!(world.worker(0).wait().await.expect("an end").success());
    assert!(world.row(Kind::User, &ada).await.is_some(), "what was in hand was finished");
}

#[tokio::test]
async fn while_it_drains_ingest_is_alive_and_not_ready() {
    let mut world = World::builder()
        .knobs(by_hand())
        .workers(0)
        .env("INGEST_MAX_IN_FLIGHT", "1")
        .env("INGEST_THREADS", "1")
        .start()
        .await;
    let posts = ["ada@example.com", "bob@example.com"].map(|email| {
        let (sim, user) = (world.sim().clone(), world.sim().user(email));
        let event = sim.last_event(Kind::User, &user).expect("an event").id;
        async move { sim.post(&event).await.expect("an answer") }
    });
    world.nats().pause().expect("the broker stands still");
    let mut posts: JoinSet<_> = posts.into_iter().collect();
    // One of them is told that ingest is busy: with the other.
    assert_eq!(posts.join_next().await.expect("two").expect("a task"), [503]);
    world.ingest(0).signal(Signal::SIGTERM).expect("a signal");
    world
        .eventually("ingest to say that it leaves", async || {
            let (status, said) = world.ingest_says(0, "/readyz").await?;
            (status == 503 && said.contains("shutdown: leaving")).then_some(())
        })
        .await;
    assert_eq!(world.ingest_says(0, "/healthz").await.expect("an answer").0, 200);
    world.nats().resume().expect("the broker goes on");
    assert_eq!(posts.join_next().await.expect("two").expect("a task"), [200]);
    assert!(world.ingest(0).wait().await.expect("an end").success());
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
async fn settings_of_a_consumer_take_effect_at_the_next_start() {
    let mut world = World::builder().env("SYNC_ACK_WAIT", "1s").env("SYNC_MAX_ATTEMPTS", "3").start().await;
    let stream = world.jetstream().get_stream_no_info("WORKOS_EVENTS").await.expect("the stream");
    let limits = async || {
        let config = stream.consumer_info("worker-test").await.expect("the consumer").config;
        (config.ack_wait, config.max_deliver)
    };
    assert_eq!(limits().await, (Duration::from_secs(1), 24));
    assert!(world.worker(0).terminate().await.expect("the worker ends").success());
    world.worker(0).set("SYNC_ACK_WAIT", "2s");
    world.worker(0).set("SYNC_MAX_ATTEMPTS", "5");
    let ada = world.sim().user("ada@example.com");
    world.start_worker_again(0).await;
    assert_eq!(limits().await, (Duration::from_secs(2), 40));
    world.settled().await;
    assert!(world.row(Kind::User, &ada).await.is_some(), "what waited is not lost");
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
