//! A bad deployment buries nothing.

use serde_json::Value;
use support::world::World;

use crate::dead_letters::letters;
use crate::failures::impatient;

/// What the worker says of itself.
async fn readiness(world: &mut World) -> String {
    let url = format!("http://{}/readyz", world.worker(0).admin());
    world.http().get(&url).send().await.expect("an answer").text().await.expect("a text")
}

async fn is_open(world: &World) -> bool {
    world.worker_metrics(0).await.value("workos_sync_breaker_open", &[]) > 0.5
}

#[tokio::test]
async fn the_breaker_opens_on_a_bad_deployment_buries_nothing_and_closes_by_itself() {
    let mut world = impatient().start().await;
    let statement = "ALTER TABLE workos.users RENAME COLUMN locale TO language";
    sqlx::query(statement).execute(world.pool()).await.expect(statement);
    for n in 0..200 {
        world.sim().user(&format!("user{n}@example.com"));
    }
    world.sim().release_held();
    world.eventually("an open breaker", async || is_open(&world).await.then_some(())).await;
    assert!(readiness(&mut world).await.contains("breaker: open"));
    let log = world.worker(0).logs();
    assert_eq!(log.matches("the breaker is open").count(), 1, "{log}");
    // Trials fail for a while: still nothing is buried, although attempts are used up.
    let refused = async |world: &World| {
        world.worker_metrics(0).await.value("workos_sync_retries_total", &[("reason", "row_refused")])
    };
    let before = refused(&world).await;
    world.eventually("failed trials", async || (refused(&world).await >= before + 20.0).then_some(())).await;
    assert!(is_open(&world).await);
    assert_eq!(letters(&world).await, Vec::<Value>::new());

    let statement = "ALTER TABLE workos.users RENAME COLUMN language TO locale";
    sqlx::query(statement).execute(world.pool()).await.expect(statement);
    world.settled().await;
    world.assert_in_step().await;
    assert!(!is_open(&world).await);
    assert_eq!(readiness(&mut world).await, "ready\n");
    assert_eq!(letters(&world).await, Vec::<Value>::new(), "nothing was buried");
}

#[tokio::test]
async fn hostile_messages_alone_do_not_open_the_breaker() {
    let world = impatient().start().await;
    for n in 0..100 {
        let sent =
            world.jetstream().publish("workos.events.test.user.created", format!("no event {n}").into());
        sent.await.expect("publish").await.expect("an ack");
    }
    world.settled().await;
    assert!(!is_open(&world).await);
    assert_eq!(letters(&world).await.len(), 100);
}
