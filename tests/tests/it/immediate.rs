//! An application asks for an object now: it goes first, one answer is for all, and whatever is down, the
//! caller hears in time.

use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::{Value, json};
use shared::id::Kind;
use shared::subject;
use support::sim::{Failure, Knobs};
use support::world::{SYNC_TOKEN, World};
use tokio::task::JoinSet;

use crate::ledger::audits;
use crate::main_path::by_hand;

/// Beyond the wait, for a machine that is busy with other stories; the promise is a tenth of it.
const LENIENCE: Duration = Duration::from_secs(1);

/// A wait that an answer does not come in when something is down.
const WAIT: Duration = Duration::from_millis(700);

async fn ask(world: &World, path: &str) -> Response {
    ask_with(world, Method::POST, path, Some(&format!("Bearer {SYNC_TOKEN}"))).await
}

async fn ask_with(world: &World, method: Method, path: &str, authorization: Option<&str>) -> Response {
    let mut request = world.http().request(method, format!("{}{path}", world.ingest_url(0)));
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    request.send().await.expect("an answer")
}

async fn body(response: Response) -> Value {
    response.json().await.expect("JSON")
}

/// The status, after an answer that came in time.
async fn in_time(world: &World, path: &str, wait: Duration) -> (u16, Value) {
    let started = Instant::now();
    let response = ask(world, path).await;
    let took = started.elapsed();
    assert!(took < wait + LENIENCE, "{path} took {took:?}");
    let status = response.status().as_u16();
    (status, body(response).await)
}

/// A user with a membership, and what belongs to it, of which no webhook tells.
fn ada(world: &World) -> (String, String) {
    let user = world.sim().user("ada@example.com");
    let acme = world.sim().organization("Acme");
    let membership = world.sim().membership(&user, &acme);
    (user, membership)
}

#[tokio::test]
async fn when_the_answer_is_200_every_row_of_the_user_can_be_read() {
    let world = World::builder().knobs(by_hand()).env("SYNC_TAIL_INTERVAL", "off").start().await;
    let (user, membership) = ada(&world);
    let pending = world.sim().create(
        Kind::OrganizationMembership,
        json!({"user_id": user, "organization_id": world.sim().organization("Initech"), "status": "pending"}),
    );
    let answer = ask(&world, &format!("/sync/user/{user}?wait=30s")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(body(answer).await, json!({"status": "done", "outcome": "applied"}));
    world.assert_in_step().await;
    assert!(world.row(Kind::OrganizationMembership, &membership).await.is_some());
    assert!(world.row(Kind::OrganizationMembership, &pending).await.is_some());
    let profiles: i64 = sqlx::query_scalar("SELECT count(*) FROM workos.profiles WHERE id = $1")
        .bind(&user)
        .fetch_one(world.pool())
        .await
        .expect("the profiles");
    assert_eq!(profiles, 1);
    let audits = audits(&world, &user).await;
    assert_eq!(audits.iter().map(|audit| audit.channel.as_str()).collect::<Vec<_>>(), ["sync"]);
    let events: i64 = sqlx::query_scalar("SELECT count(*) FROM workos_sync.events")
        .fetch_one(world.pool())
        .await
        .expect("the ledger");
    assert_eq!(events, 0, "a request is no event");

    let again = body(ask(&world, &format!("/sync/user/{user}?wait=30s")).await).await;
    assert_eq!(again["outcome"], "unchanged");
    let metrics = world.worker_metrics(0).await;
    let applied = metrics.value("workos_sync_events_total", &[("outcome", "applied"), ("channel", "sync")]);
    assert_eq!(applied.to_string(), "1");
}

#[tokio::test]
async fn a_sign_in_of_which_no_event_tells_is_seen() {
    let world = World::start().await;
    let user = world.sim().user("ada@example.com");
    world.settled().await;
    world.sim().sign_in(&user);
    assert_eq!(ask(&world, &format!("/sync/user/{user}")).await.status(), 202);
    world.eventually_in_step().await;
}

#[tokio::test]
async fn a_membership_that_went_without_a_word_goes_only_after_it_was_asked_for_twice() {
    let world = World::builder().knobs(by_hand()).env("SYNC_TAIL_INTERVAL", "off").start().await;
    let (user, membership) = ada(&world);
    assert_eq!(ask(&world, &format!("/sync/user/{user}?wait=30s")).await.status(), 200);
    world.sim().silently_delete(Kind::OrganizationMembership, &membership);
    world.sim().reset_counters();
    let answer = ask(&world, &format!("/sync/user/{user}?wait=30s")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(body(answer).await["outcome"], "applied");
    assert!(world.row(Kind::OrganizationMembership, &membership).await.is_none());
    assert_eq!(world.sim().asked(Kind::OrganizationMembership, &membership), 2);
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_user_that_cannot_be_seen_yet_is_asked_for_again() {
    let world = World::builder().knobs(by_hand()).env("SYNC_TAIL_INTERVAL", "off").start().await;
    let user = world.sim().user("ada@example.com");
    // Asked for, and once more with what its absence means.
    world.sim().stale_next(Kind::User, &user, 2);
    let answer = ask(&world, &format!("/sync/user/{user}?wait=1s")).await;
    assert_eq!(answer.status(), 202, "it is asked again in three seconds, which is too late for this caller");
    assert_eq!(body(answer).await, json!({"status": "retrying", "reason": "unconfirmed"}));
    let answer = ask(&world, &format!("/sync/user/{user}?wait=30s")).await;
    assert_eq!(body(answer).await, json!({"status": "done", "outcome": "applied"}));
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_hundred_calls_for_one_user_are_one_request() {
    let world = World::builder().knobs(by_hand()).env("SYNC_TAIL_INTERVAL", "off").start().await;
    let (user, _) = ada(&world);
    let hold = world.sim().hold(Kind::User, &user);
    let url = format!("{}/sync/user/{user}?wait=30s", world.ingest_url(0));
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        calls.spawn(world.http().post(&url).bearer_auth(SYNC_TOKEN).send());
    }
    world
        .eventually("a hundred callers", async || {
            let waiting = world.ingest_metrics(0).await.value("workos_sync_sync_requests_waiting", &[]);
            (waiting > 99.5).then_some(())
        })
        .await;
    hold.reached().await;
    hold.release();
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.expect("a call").expect("an answer").status(), 200);
    }
    world.assert_in_step().await;
    let requests = world.sim().requests();
    assert_eq!((requests.gets(Kind::User), requests.lists(Kind::OrganizationMembership)), (1, 1));
    world.settled().await;
}

#[tokio::test]
async fn requests_that_reach_a_worker_while_it_asks_are_answered_by_one_answer() {
    let world = World::builder().knobs(by_hand()).env("SYNC_TAIL_INTERVAL", "off").ingests(2).start().await;
    let (user, _) = ada(&world);
    let hold = world.sim().hold(Kind::User, &user);
    let mut calls = JoinSet::new();
    for ingest in 0..2 {
        let url = format!("{}/sync/user/{user}?wait=30s", world.ingest_url(ingest));
        calls.spawn(world.http().post(&url).bearer_auth(SYNC_TOKEN).send());
    }
    world
        .eventually("the second request to join the first", async || {
            let joined = world.worker_metrics(0).await.value("workos_sync_events_coalesced_total", &[]);
            (joined > 0.5).then_some(())
        })
        .await;
    hold.release();
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.expect("a call").expect("an answer").status(), 200);
    }
    assert_eq!(world.sim().requests().gets(Kind::User), 1);
}

#[tokio::test]
async fn it_goes_before_a_backlog_of_events() {
    const BACKLOG: u64 = 2_000;
    let world = World::builder()
        .knobs(by_hand())
        .env("SYNC_TAIL_INTERVAL", "off")
        .worker_env(0, "SYNC_RATE_LIMIT", "5/s")
        .start()
        .await;
    let (user, _) = ada(&world);
    for number in 0..BACKLOG {
        let event = json!({
            "id": format!("event_backlog_{number}"),
            "type": "user.updated",
            "kind": "user",
            "operation": "updated",
            "object_id": world.sim().silently_create(Kind::User, json!({"email": format!("u{number}@example.com")})),
            "received_at": "2026-01-01T00:00:00Z",
            "channel": "webhook",
        });
        world
            .jetstream()
            .publish(subject::event("test", "user.updated"), event.to_string().into())
            .await
            .expect("a message that leaves");
    }
    // Its first burst is spent, its permits are taken, and 32 requests wait for the budget.
    world
        .eventually("the worker to be at it", async || {
            (world.sim().requests().gets(Kind::User) > 5).then_some(())
        })
        .await;
    let before = world.sim().requests().gets(Kind::User);
    let answer = ask(&world, &format!("/sync/user/{user}?wait=30s")).await;
    let asked = world.sim().requests().gets(Kind::User) - before;
    assert_eq!(answer.status(), 200);
    assert!(world.row(Kind::User, &user).await.is_some());
    // Who stands behind those 32, once for the user and once for its organization, sees at least 64.
    assert!(asked < 32, "{asked} users were asked for before it was done");
}

#[tokio::test]
async fn with_the_broker_down_the_answer_is_503_at_once_and_202_when_it_is_back() {
    let mut world = World::start().await;
    let (user, _) = ada(&world);
    world.settled().await;
    let path = format!("/sync/user/{user}?wait=700ms");
    world.nats().pause().expect("the broker freezes");
    // Nobody knows yet that it is gone: it just does not answer, once the signal has reached it.
    let problem = world
        .eventually("the broker to be silent", async || {
            let (status, said) = in_time(&world, &path, WAIT).await;
            (status == 503).then_some(said)
        })
        .await;
    assert_eq!(problem["status"], 503);
    assert_eq!(in_time(&world, &format!("/sync/user/{user}"), Duration::ZERO).await.0, 503);
    world.nats().resume().expect("the broker goes on");
    world.nats().kill().expect("the broker dies");
    let answer = ask(&world, &path).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    world.nats().start_again().await.expect("the broker comes back");
    world
        .eventually("a request that is stored", async || {
            (ask(&world, &format!("/sync/user/{user}")).await.status() == 202).then_some(())
        })
        .await;
}

#[tokio::test]
async fn with_the_worker_down_the_answer_is_202_and_it_is_done_later() {
    let mut world = World::builder().knobs(by_hand()).env("SYNC_TAIL_INTERVAL", "off").start().await;
    let (user, _) = ada(&world);
    world.kill_worker(0);
    let (status, said) = in_time(&world, &format!("/sync/user/{user}?wait=700ms"), WAIT).await;
    assert_eq!((status, said), (202, json!({"status": "queued"})));
    world.start_worker_again(0).await;
    world.eventually_in_step().await;
}

#[tokio::test]
async fn with_workos_silent_or_out_of_order_the_answer_is_202_and_it_is_done_later() {
    let world = World::builder().knobs(by_hand()).env("SYNC_TAIL_INTERVAL", "off").start().await;
    let (user, _) = ada(&world);
    let path = format!("/sync/user/{user}?wait=700ms");
    let hold = world.sim().hold(Kind::User, &user);
    let (status, said) = in_time(&world, &path, WAIT).await;
    assert_eq!((status, said), (202, json!({"status": "queued"})));
    hold.release();
    world.settled().await;
    world.assert_in_step().await;

    world.sim().update(Kind::User, &user, json!({"first_name": "Augusta"}));
    for failure in [Failure::Status(503), Failure::TooMany(Some(1)), Failure::Reset] {
        world.sim().outage(Some(failure));
        assert_eq!(in_time(&world, &path, WAIT).await.0, 202, "{failure:?}");
    }
    world.sim().outage(None);
    world.eventually_in_step().await;
}

#[tokio::test]
async fn with_postgres_down_the_answer_is_202_and_it_is_done_later() {
    let knobs = Knobs { auto_deliver: false, ..Knobs::default() };
    let mut world =
        World::builder().knobs(knobs).env("SYNC_TAIL_INTERVAL", "off").private_postgres().start().await;
    let (user, _) = ada(&world);
    let path = format!("/sync/user/{user}?wait=700ms");
    world.postgres().pause().expect("Postgres freezes");
    assert_eq!(in_time(&world, &path, WAIT).await.0, 202);
    world.postgres().resume().expect("Postgres goes on");
    world.eventually_in_step().await;

    world.sim().update(Kind::User, &user, json!({"first_name": "Augusta"}));
    world.postgres().kill().expect("Postgres dies");
    assert_eq!(in_time(&world, &path, WAIT).await.0, 202);
    world.postgres().start_again().await.expect("Postgres comes back");
    world.eventually_in_step().await;
}

#[tokio::test]
async fn who_has_no_token_is_refused_and_nothing_is_asked() {
    let world = World::start().await;
    let path = "/sync/user/user_1?wait=5s";
    let longer = format!("Bearer {SYNC_TOKEN}x");
    for authorization in [
        None,
        Some("Bearer wrong"),
        Some(longer.as_str()),
        Some("Bearer "),
        Some(SYNC_TOKEN),
        Some("Basic eDp5"),
    ] {
        let answer = ask_with(&world, Method::POST, path, authorization).await;
        assert_eq!(answer.status(), 401, "{authorization:?}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let lower = format!("bearer {SYNC_TOKEN}");
    assert_eq!(ask_with(&world, Method::POST, "/sync/user/user_1", Some(&lower)).await.status(), 202);
    let metrics = world.ingest_metrics(0).await;
    let refused =
        metrics.value("workos_sync_sync_requests_total", &[("status", "401"), ("reason", "unauthorized")]);
    assert_eq!(refused.to_string(), "6");
}

#[tokio::test]
async fn what_is_malformed_is_told_what_is_wanted() {
    let world = World::builder().workers(0).start().await;
    let long = format!("/sync/user/{}", "x".repeat(257));
    for (path, status, says) in [
        ("/sync/user/user_1?wait=soon", 400, "duration"),
        ("/sync/user/user_1?wait=1500", 400, "duration"),
        ("/sync/user/user_1?wait=-1s", 400, "duration"),
        ("/sync/user/user_1?wait=", 400, "duration"),
        ("/sync/user/a%00b", 400, "id"),
        ("/sync/user/%ff", 400, "id"),
        ("/sync/api_key/org_1", 400, "user/{id}"),
        ("/sync/organization_role/admin", 400, "{organization id}/{slug}"),
        (long.as_str(), 400, "id"),
        ("/sync/planet/planet_1", 404, "organization_membership"),
        ("/sync/user/", 404, "{id}"),
    ] {
        let answer = ask(&world, path).await;
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem = body(answer).await;
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(says)), "{path}: {problem}");
    }
    let get = ask_with(&world, Method::GET, "/sync/user/user_1", Some(&format!("Bearer {SYNC_TOKEN}"))).await;
    assert_eq!(get.status(), 405);
    assert_eq!(get.headers()["allow"], "POST");
    // Any other id is an id, and no token of a subject is broken by it.
    assert_eq!(ask(&world, "/sync/user/a.b%20*%3E%2F..?wait=0s").await.status(), 202);
}

#[tokio::test]
async fn without_a_token_in_the_settings_there_is_no_such_route() {
    let world = World::builder().workers(0).ingest_env(0, "SYNC_TOKEN", "").start().await;
    for authorization in [format!("Bearer {SYNC_TOKEN}"), "Bearer ".to_owned()] {
        let answer = ask_with(&world, Method::POST, "/sync/user/user_1", Some(&authorization)).await;
        assert_eq!(answer.status(), 404);
        assert_eq!(body(answer).await["detail"], "there is nothing at this path");
    }
    assert!(!world.ingest_metrics(0).await.has("workos_sync_sync_requests_waiting"));
}

#[tokio::test]
async fn who_waits_is_answered_when_ingest_leaves() {
    let mut world = World::builder().workers(0).start().await;
    let url = format!("{}/sync/user/user_1?wait=30s", world.ingest_url(0));
    let call = tokio::spawn(world.http().post(&url).bearer_auth(SYNC_TOKEN).send());
    world
        .eventually("a caller that waits", async || {
            let waiting = world.ingest_metrics(0).await.value("workos_sync_sync_requests_waiting", &[]);
            (waiting > 0.5).then_some(())
        })
        .await;
    assert!(world.ingest(0).terminate().await.expect("a polite end").success());
    assert_eq!(call.await.expect("a call").expect("an answer").status(), 202);
}
