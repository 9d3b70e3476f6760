//! A bad deployment buries nothing.

use serde_json::Value;
use support::world::{Metrics, World};

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

/// Waits until a worker that was just started says that its breaker is open.
async fn opens(world: &mut World) {
    let url = format!("http://{}/metrics", world.worker(0).admin());
    world
        .eventually("an open breaker", async || {
            let text = world.http().get(&url).send().await.ok()?.text().await.ok()?;
            (Metrics::parse(&text).value("workos_sync_breaker_open", &[]) > 0.5).then_some(())
        })
        .await;
}

#[tokio::test]
async fn the_breaker_opens_on_a_bad_deployment_buries_nothing_and_closes_by_itself() {
    let mut world = impatient().env("SYNC_MAX_ATTEMPTS", "1").env("SYNC_ACK_WAIT", "2s").start().await;
    let statement = "ALTER TABLE workos.users RENAME COLUMN locale TO language";
    sqlx::query(statement).execute(world.pool()).await.expect(statement);
    // All at once, as after a deployment: the few that may die before twenty have failed are no part of this.
    world.worker(0).terminate().await.expect("the worker leaves");
    for n in 0..200 {
        world.sim().user(&format!("user{n}@example.com"));
    }
    world.sim().release_held();
    world.eventually("webhooks stored", async || (world.sim().pending_deliveries() == 0).then_some(())).await;
    world.worker(0).start_again().expect("the worker starts");
    opens(&mut world).await;
    assert!(readiness(&mut world).await.contains("breaker: open"));
    let log = world.worker(0).logs();
    assert_eq!(log.matches("the breaker is open").count(), 1, "{log}");
    // A trial fails: still nothing is buried, although all attempts are used up.
    let refused = async |world: &World| {
        world.worker_metrics(0).await.value("workos_sync_retries_total", &[("reason", "row_refused")])
    };
    let before = refused(&world).await;
    world.eventually("a failed trial", async || (refused(&world).await >= before + 10.0).then_some(())).await;
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
