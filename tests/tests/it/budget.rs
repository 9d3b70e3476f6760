//! What WorkOS allows is shared: by all requests of a worker, by all workers, and in order.

use std::time::{Duration, Instant};

use serde_json::json;
use shared::id::Kind;
use support::sim::{Knobs, Sim};
use support::world::{SYNC_TOKEN, World};

use crate::main_path::by_hand;

/// WorkOS's documented limits, enforced.
fn published() -> Knobs {
    Knobs { rate_limits: Knobs::published_limits(), ..by_hand() }
}

/// How many users wait. `SHARED_BUDGET_USERS=6200` keeps two copies at work for more than a minute.
fn users() -> usize {
    std::env::var("SHARED_BUDGET_USERS").map_or(1_500, |given| given.parse().expect("a number"))
}

/// A world without workers, with a backlog of new users.
async fn backlog(users: usize, rate: &str) -> World {
    let world = World::builder()
        .workers(0)
        .knobs(published())
        .env("SYNC_TAIL_INTERVAL", "off")
        .env("SYNC_RATE_LIMIT", rate)
        .env("SYNC_RATE_SHARE", "on")
        .start()
        .await;
    for number in 0..users {
        world.sim().user(&format!("user{number}@example.com"));
    }
    world.sim().release_held();
    world
        .eventually("webhooks delivered", async || (world.sim().pending_deliveries() == 0).then_some(()))
        .await;
    world
}

/// How many requests came, looked at all the time until there were so many: when, and how many by then.
async fn watch(world: &World, requests: u64) -> Vec<(Instant, u64)> {
    let mut seen = Vec::new();
    world
        .eventually("all requests", async || {
            let so_far = world.sim().requests().total();
            seen.push((Instant::now(), so_far));
            (so_far >= requests).then_some(())
        })
        .await;
    seen
}

/// Requests in the best and the worst ten seconds of the middle, where nobody starts and nobody ends.
fn in_ten_seconds(seen: &[(Instant, u64)]) -> (u64, u64) {
    const WINDOW: Duration = Duration::from_secs(10);
    let (begin, end) = (seen[0].0 + Duration::from_secs(2), seen[seen.len() - 1].0);
    let mut counts = Vec::new();
    for (place, (from, before)) in seen.iter().enumerate().filter(|(_, (at, _))| *at >= begin) {
        let Some((_, after)) = seen[place..].iter().find(|(at, _)| *at >= *from + WINDOW) else { break };
        assert!(*from < end);
        counts.push(after - before);
    }
    let most = counts.iter().copied().max().expect("more than twelve seconds of work");
    (most, counts.iter().copied().min().unwrap_or(most))
}

fn refused(sim: &Sim) -> u64 {
    sim.requests().with_status(429)
}

#[tokio::test]
async fn two_copies_share_one_budget_and_neither_overstep_nor_waste_it() {
    let users = users();
    let mut world = backlog(users, "96/s").await;
    world.start_worker().await;
    world.start_worker().await;
    let seen = watch(&world, users as u64).await;
    world.settled().await;
    world.assert_in_step().await;
    let (most, least) = in_ten_seconds(&seen);
    assert_eq!(refused(world.sim()), 0, "{least} to {most} in ten seconds");
    assert!(most <= 1_000, "{most} in ten seconds, WorkOS allows 1,000");
    assert!(least >= 900, "{least} in ten seconds of 1,000 that WorkOS allows");
    eprintln!("{least} to {most} requests in any ten seconds of {users}, none refused");
}

#[tokio::test]
async fn what_a_copy_held_when_it_died_is_not_lost_to_the_other() {
    let mut world = backlog(300, "96/s").await;
    let first = world.start_worker().await;
    world.start_worker().await;
    world.eventually("some requests", async || (world.sim().requests().total() > 60).then_some(())).await;
    world.kill_worker(first);
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(refused(world.sim()), 0);
}

#[tokio::test]
async fn when_workos_asks_one_copy_for_quiet_all_are_quiet() {
    let mut world = backlog(200, "96/s").await;
    world.start_worker().await;
    world.start_worker().await;
    let sim = world.sim().clone();
    world.eventually("some requests", async || (sim.requests().total() > 40).then_some(())).await;
    let open = sim.ever(Kind::User).into_iter().next_back().expect("a user");
    sim.fail_next(Kind::User, &open, 1, support::sim::Failure::TooMany(Some(3)));
    world.eventually("a refusal", async || (refused(&sim) > 0).then_some(())).await;
    // What was on its way when the refusal came may still arrive; then nobody comes until the three seconds are over.
    let said = |text: &'static str| sqlx::query_scalar::<_, Option<bool>>(text).fetch_one(world.pool());
    world
        .eventually("a pause in the books", async || {
            let told = said(
                "SELECT paused_until > clock_timestamp() FROM workos_sync.budgets WHERE name = 'everything'",
            );
            told.await.ok()?.filter(|paused| *paused)
        })
        .await;
    world
        .eventually("both to have heard of it", async || {
            let heard = said("SELECT paused_until < clock_timestamp() + interval '2 seconds' FROM workos_sync.budgets WHERE name = 'everything'");
            heard.await.ok()?.filter(|heard| *heard)
        })
        .await;
    let during = sim.requests().total();
    world
        .eventually("the pause to end", async || {
            let over = said("SELECT paused_until < clock_timestamp() + interval '100 milliseconds' FROM workos_sync.budgets WHERE name = 'everything'");
            over.await.ok()?.filter(|over| *over)
        })
        .await;
    assert_eq!(sim.requests().total(), during, "somebody came during the pause");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(refused(&sim), 1, "nor all at once after it");
}

#[tokio::test]
async fn an_immediate_sync_overtakes_every_backlog() {
    let mut world = backlog(900, "90/s").await;
    let user = world.sim().silently_create(Kind::User, json!({"email": "ada@example.com"}));
    world.start_worker().await;
    world.start_worker().await;
    world
        .eventually("the backlog to be worked on", async || {
            (world.sim().requests().total() > 50).then_some(())
        })
        .await;
    let answer = world
        .http()
        .post(format!("{}/sync/user/{user}?wait=20s", world.ingest_url(0)))
        .bearer_auth(SYNC_TOKEN)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200);
    let asked = world.sim().requests().total();
    assert!(asked < 900, "it was answered before the backlog, {asked} requests in");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(refused(world.sim()), 0);
}

#[tokio::test]
async fn when_postgres_goes_away_nobody_asks_beyond_the_budget_and_then_all_goes_on() {
    let mut world = World::builder()
        .private_postgres()
        .workers(2)
        .knobs(published())
        .env("SYNC_RATE_SHARE", "on")
        .env("SYNC_RATE_LIMIT", "96/s")
        .start()
        .await;
    for number in 0..150 {
        world.sim().user(&format!("user{number}@example.com"));
    }
    world.sim().release_held();
    world.eventually("some requests", async || (world.sim().requests().total() > 40).then_some(())).await;
    world.postgres().kill().expect("Postgres dies");
    world.postgres().start_again().await.expect("Postgres comes back");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(refused(world.sim()), 0);
}

#[tokio::test]
async fn a_backfill_beside_a_copy_that_is_full_of_events_stands_behind_it_but_not_still() {
    let mut world = backlog(1_200, "96/s").await;
    world.sim().silently_create(Kind::Organization, json!({"name": "Acme"}));
    world.start_worker().await;
    world
        .eventually("the backlog to be worked on", async || {
            (world.sim().requests().total() > 50).then_some(())
        })
        .await;
    let ended = world.worker_command(&["backfill", "--only", "organizations"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let asked = world.sim().requests().total();
    assert!(asked < 1_200, "it ended before the backlog, {asked} requests in");
    world.settled().await;
    assert_eq!(refused(world.sim()), 0);
}
