//! When the world is not well: WorkOS, Postgres, the broker, a row, an event.

use std::time::Duration;

use serde_json::json;
use shared::id::Kind;
use support::sim::{Failure, Knobs};
use support::world::World;
use tokio::task::JoinSet;

use crate::ledger::{outcome, outcomes, reason};
use crate::main_path::by_hand;

fn a_few_changes(world: &World, from: usize) {
    for n in from..from + 5 {
        let user = world.sim().user(&format!("user{n}@example.com"));
        world.sim().update(Kind::User, &user, json!({"first_name": format!("Name {n}")}));
    }
}

#[tokio::test]
async fn a_storm_of_429_loses_nothing() {
    let knobs = Knobs { too_many: 0.3, too_many_bare: 0.3, retry_after_s: 1, ..Knobs::default() };
    let world = World::builder().knobs(knobs).start().await;
    a_few_changes(&world, 0);
    world.settled().await;
    world.assert_in_step().await;
    assert!(world.sim().requests().with_status(429) > 0, "the storm blew");
}

#[tokio::test]
async fn an_outage_of_workos_is_waited_out() {
    let world = World::start().await;
    for failure in
        [Failure::Status(503), Failure::Html(502), Failure::Reset, Failure::Truncated, Failure::Garbage]
    {
        world.sim().outage(Some(failure));
        let user = world.sim().user("ada@example.com");
        let event = world.sim().last_event(Kind::User, &user).expect("an event").id;
        world.eventually("a failed attempt", async || reason(&world, &event).await).await;
        assert_eq!(outcome(&world, &event).await, None, "{failure:?}");
        world.sim().outage(None);
        world.settled().await;
        world.assert_in_step().await;
    }
}

#[tokio::test]
async fn a_key_that_is_refused_is_not_the_events_fault() {
    let world = World::start().await;
    world.sim().outage(Some(Failure::Status(401)));
    let user = world.sim().user("ada@example.com");
    let event = world.sim().last_event(Kind::User, &user).expect("an event").id;
    let why = world.eventually("a failed attempt", async || reason(&world, &event).await).await;
    assert_eq!(why, "key_refused");
    world.sim().outage(None);
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn postgres_may_go_away_and_come_back() {
    let mut world = World::builder().private_postgres().start().await;
    a_few_changes(&world, 0);
    world.settled().await;
    world.postgres().kill().expect("Postgres dies");
    a_few_changes(&world, 10);
    // Webhooks are stored all the same.
    world
        .eventually("webhooks delivered", async || (world.sim().pending_deliveries() == 0).then_some(()))
        .await;
    let not_ready = format!("http://{}/readyz", world.worker(0).admin());
    world
        .eventually("the worker to say that it is not ready", async || {
            let answer = world.http().get(&not_ready).send().await.ok()?;
            (answer.status() == 503).then_some(())
        })
        .await;
    world.postgres().start_again().await.expect("Postgres comes back");
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn without_a_broker_ingest_answers_503_and_workos_tries_again() {
    let mut world = World::start().await;
    a_few_changes(&world, 0);
    world.settled().await;
    world.nats().kill().expect("the broker dies");
    let user = world.sim().user("late@example.com");
    let event = world.sim().last_event(Kind::User, &user).expect("an event").id;
    world
        .eventually("a webhook that is refused with 503", async || {
            let statuses = world.sim().post(&event).await.ok()?;
            statuses.contains(&503).then_some(())
        })
        .await;
    world.nats().start_again().await.expect("the broker comes back");
    world
        .eventually("a webhook that is stored", async || {
            let statuses = world.sim().post(&event).await.ok()?;
            statuses.contains(&200).then_some(())
        })
        .await;
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn over_its_bound_ingest_says_at_once_that_it_is_busy() {
    let mut world = World::builder()
        .knobs(by_hand())
        .workers(0)
        .env("INGEST_MAX_IN_FLIGHT", "1")
        .env("INGEST_THREADS", "1")
        .start()
        .await;
    let events = ["ada@example.com", "bob@example.com"].map(|email| {
        let user = world.sim().user(email);
        world.sim().last_event(Kind::User, &user).expect("an event").id
    });
    world.nats().pause().expect("the broker stands still");
    // Whichever comes second finds the only place taken.
    let mut posts = JoinSet::new();
    for event in events {
        let sim = world.sim().clone();
        posts.spawn(async move { sim.post(&event).await });
    }
    let refused = posts.join_next().await.expect("two").expect("a task").expect("an answer");
    assert_eq!(refused, [503]);
    let metrics = world.ingest_metrics(0).await;
    let answered = |reason| metrics.value("workos_sync_webhooks_total", &[("reason", reason)]);
    assert!((answered("busy") - 1.0).abs() < f64::EPSILON, "answered otherwise than busy");
    world.nats().resume().expect("the broker goes on");
    let stored = posts.join_next().await.expect("two").expect("a task").expect("an answer");
    assert_eq!(stored, [200], "the first one was only waiting");
}

#[tokio::test]
async fn a_row_that_postgres_refuses_stands_alone() {
    let world = World::builder().knobs(by_hand()).start().await;
    sqlx::query("ALTER TABLE workos.users ADD CONSTRAINT no_eve CHECK (first_name <> 'Eve')")
        .execute(world.pool())
        .await
        .expect("a rule of the application");
    let mut users = Vec::new();
    for n in 0..9 {
        let user = world.sim().user(&format!("user{n}@example.com"));
        let name = if n == 4 { "Eve" } else { "Ada" };
        world.sim().silently_update(Kind::User, &user, json!({"first_name": name}), false);
        users.push(user);
    }
    let eve = world.sim().last_event(Kind::User, &users[4]).expect("an event").id;
    world.sim().release_held();
    let why = world.eventually("the refusal", async || reason(&world, &eve).await).await;
    assert_eq!(why, "row_refused 23514 no_eve");
    world
        .eventually("the others", async || {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM workos.users_live")
                .fetch_one(world.pool())
                .await
                .ok()?;
            (count == 8).then_some(())
        })
        .await;
    sqlx::query("ALTER TABLE workos.users DROP CONSTRAINT no_eve")
        .execute(world.pool())
        .await
        .expect("the rule goes");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(outcome(&world, &eve).await.as_deref(), Some("applied"));
}

#[tokio::test]
async fn unknown_and_malformed_events_are_recorded_and_never_stop_the_others() {
    let world = World::start().await;
    let sim = world.sim();
    let unknown = sim.emit("planet.discovered", json!({"id": "planet_1", "name": "Ada's"}));
    let nameless = sim.emit("user.updated", json!({"email": "nobody@example.com"}));
    world
        .jetstream()
        .publish("workos.events.test.user.created", "not json".into())
        .await
        .expect("publish")
        .await
        .expect("an ack");
    sim.user("ada@example.com");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(outcome(&world, &unknown).await.as_deref(), Some("ignored"));
    assert_eq!(outcome(&world, &nameless).await.as_deref(), Some("dead"));
    let outcomes = outcomes(&world).await;
    assert_eq!(outcomes, [("applied".into(), 1), ("dead".into(), 2), ("ignored".into(), 1)]);
    let metrics = world.worker_metrics(0).await;
    let ignored =
        metrics.value("workos_sync_events_total", &[("outcome", "ignored"), ("channel", "webhook")]);
    assert!((ignored - 1.0).abs() < f64::EPSILON, "{ignored} events were counted as ignored");
}

#[tokio::test]
async fn a_slow_batch_is_not_handed_to_another_worker() {
    let world = World::builder().knobs(by_hand()).workers(2).env("SYNC_ACK_WAIT", "1s").start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    let hold = sim.hold(Kind::User, &ada);
    sim.post(&sim.last_event(Kind::User, &ada).expect("an event").id).await.expect("a delivery");
    hold.reached().await;
    // Longer than the broker waits for a sign of life; there is no condition to wait for but time itself.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    hold.release();
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(sim.asked(Kind::User, &ada), 1);
}
