//! WorkOS is down for long. Half an hour is told in fifteen seconds: waits are as much shorter.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use shared::id::Kind;
use shared::subject::EVENTS_STREAM;
use support::sim::{Failure, Knobs};
use support::world::World;

use crate::dead_letters::letters;

const USERS: usize = 1_200;

/// Memory of a process that is its own, in bytes.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("its memory");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kilobytes * 1_024
}

#[tokio::test]
async fn half_an_hour_without_workos_buries_nothing_and_costs_one_question_per_object() {
    let knobs = Knobs { rate_limits: Knobs::published_limits(), ..Knobs::default() };
    let mut world = World::builder()
        .knobs(knobs)
        .env("SYNC_RATE_LIMIT", "90/s")
        .env("SYNC_RETRY_FIRST", "10ms")
        .env("SYNC_RETRY_CEILING", "5s")
        .start()
        .await;
    for n in 0..100 {
        world.sim().user(&format!("before{n}@example.com"));
    }
    world.settled().await;
    let before = memory(world.worker(0).pid());
    // By turns, as outages are.
    let failures = [Failure::Status(503), Failure::Html(502), Failure::Reset, Failure::Status(500)];
    world.sim().outage(Some(failures[0]));
    let users: Vec<String> = (0..USERS).map(|n| world.sim().user(&format!("user{n}@example.com"))).collect();
    let mut most = 0;
    for turn in 0..30 {
        world.sim().outage(Some(failures[turn % failures.len()]));
        for user in users.iter().skip(turn * 80 % USERS).take(80) {
            world.sim().update(Kind::User, user, json!({"first_name": format!("Turn {turn}")}));
        }
        // Time is what this story is about.
        tokio::time::sleep(Duration::from_millis(500)).await;
        most = most.max(memory(world.worker(0).pid()));
    }
    let growth = most.saturating_sub(before);
    assert!(growth < 24 << 20, "the worker grew by {growth} bytes");
    assert_eq!(letters(&world).await, Vec::<Value>::new());
    // What is published after an answer was asked for, it does not answer.
    let sim = world.sim();
    world.eventually("all webhooks taken", async || (sim.pending_deliveries() == 0).then_some(())).await;
    world.sim().outage(None);
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(world.sim().requests().with_status(429), 0, "the budget was kept");
    // Three events each, and one question for all of them: they are younger than the outage, in which nothing was answered.
    let mut users_by_answers: BTreeMap<u64, usize> = BTreeMap::new();
    for user in &users {
        *users_by_answers.entry(world.sim().answered(Kind::User, user)).or_default() += 1;
    }
    assert_eq!(users_by_answers, BTreeMap::from([(1, USERS)]));
    // What covers more than was published would cover events to come. It is on NATS 2.9 that a delivery counts too much as
    // pending once messages came again.
    let stream = world.jetstream().get_stream(EVENTS_STREAM).await.expect("the stream");
    let covers: i64 = sqlx::query_scalar("SELECT max(covers) FROM workos_sync.objects")
        .fetch_one(world.pool())
        .await
        .expect("the guard");
    assert!(covers.cast_unsigned() <= stream.cached_info().state.last_sequence, "an answer covers {covers}");
    assert_eq!(letters(&world).await, Vec::<Value>::new());
    let used: i32 = sqlx::query_scalar("SELECT max(attempts) FROM workos_sync.events")
        .fetch_one(world.pool())
        .await
        .expect("the ledger");
    assert_eq!(used, 1, "an outage uses up no attempt");
}
