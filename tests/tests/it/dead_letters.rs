//! Dead letters: what kills the worker becomes one, what is published twice is listed once, and what an operator
//! does with them is done once and recorded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::pull;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use shared::id::Kind;
use support::services::Finished;
use support::sim::Failure;
use support::world::World;

use crate::failures::{ATTEMPTS, impatient};
use crate::ledger::{attempts, audits, outcome, outcomes};

/// The dead letters, as `worker dlq list` shows them.
pub(crate) async fn letters(world: &World) -> Vec<Value> {
    let listed = world.worker_command(&["dlq", "list", "--format", "json"]).await;
    match read(&listed)["dead_letters"].take() {
        Value::Array(letters) => letters,
        other => panic!("no list: {other}"),
    }
}

/// What a command printed, after it ended well.
fn read(finished: &Finished) -> Value {
    assert_eq!(finished.code(), Some(0), "{}\n{}", finished.stdout, finished.stderr);
    serde_json::from_str(&finished.stdout).expect("JSON")
}

/// Makes so many users whose rows Postgres refuses, and waits until each is a dead letter. Returns them, each with
/// its event.
pub(crate) async fn refused(world: &World, count: usize) -> Vec<(String, String)> {
    rule(world, "ADD CONSTRAINT no_eve CHECK (email NOT LIKE 'eve%')").await;
    let users: Vec<(String, String)> = (0..count)
        .map(|n| {
            let user = world.sim().user(&format!("eve{n}@example.com"));
            let event = world.sim().last_event(Kind::User, &user).expect("an event").id;
            (user, event)
        })
        .collect();
    world.sim().release_held();
    world.settled().await;
    assert_eq!(letters(world).await.len(), count);
    users
}

pub(crate) async fn rule(world: &World, change: &str) {
    let statement = format!("ALTER TABLE workos.users {change}");
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(world.pool())
        .await
        .expect("a rule of the application");
}

/// What the runs say: command, actor, reason, counts, result.
pub(crate) async fn runs(
    world: &World,
) -> Vec<(String, Option<String>, Option<String>, Value, Option<String>)> {
    sqlx::query_as("SELECT command, actor, reason, counts, result FROM workos_sync.runs ORDER BY id")
        .fetch_all(world.pool())
        .await
        .expect("the runs")
}

/// What was done with dead letters, by event.
pub(crate) async fn actions(world: &World) -> Vec<(String, String)> {
    sqlx::query_as("SELECT event_id, action FROM workos_sync.dead_letter_actions ORDER BY seq")
        .fetch_all(world.pool())
        .await
        .expect("the actions")
}

#[tokio::test]
async fn an_event_that_kills_the_worker_becomes_a_dead_letter_and_its_neighbours_live() {
    let mut world = impatient().env("SYNC_ACK_WAIT", "1s").start().await;
    let killer = world.sim().user("killer@example.com");
    let event = world.sim().last_event(Kind::User, &killer).expect("an event").id;
    for n in 0..30 {
        world.sim().user(&format!("neighbour{n}@example.com"));
    }
    world.worker(0).terminate().await.expect("the worker leaves");
    world.worker(0).set("SYNC_CRASH_ON", &killer);
    world.worker(0).start_again().expect("the worker starts");
    world.sim().release_held();
    // Whoever watches over the worker starts it again.
    let mut deaths = 0;
    while outcome(&world, &event).await.is_none() {
        if let Some(status) = world.worker(0).ended().expect("the worker is looked after") {
            assert!(!status.success());
            deaths += 1;
            assert!(deaths <= ATTEMPTS, "the worker died more often than there are attempts");
            world.worker(0).start_again().expect("the worker starts");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(deaths, ATTEMPTS);
    world.worker(0).ready().await.expect("the worker is ready");
    world.settled().await;
    let letters = letters(&world).await;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    assert_eq!((letters[0]["reason"].as_str(), &letters[0]["event"]["id"]), (Some("crash"), &json!(event)));
    assert_eq!(letters[0]["attempts"], ATTEMPTS);
    assert_eq!(outcomes(&world).await, [("applied".into(), 30), ("dead".into(), 1)]);
    // Told once the ledger says so.
    world
        .eventually("a count", async || {
            let metrics = world.worker_metrics(0).await;
            (metrics.value("workos_sync_dead_letters_total", &[("reason", "crash")]) > 0.0).then_some(())
        })
        .await;
    let log = world.worker(0).logs();
    let told: Vec<&str> =
        log.lines().filter(|line| line.contains("ERROR") && line.contains(&event)).collect();
    assert!(told.len() == 1 && told[0].contains("reason=crash"), "{told:#?}");

    world.worker(0).terminate().await.expect("the worker leaves");
    world.worker(0).set("SYNC_CRASH_ON", "");
    world.start_worker_again(0).await;
    read(&world.worker_command(&["dlq", "replay", "--all", "--yes", "--format", "json"]).await);
    world.settled().await;
    world.assert_in_step().await;
}

/// Takes an event from the broker as often as it gives it, as a worker that dies each time would.
async fn exhaust(world: &World, times: usize) {
    let stream = world.jetstream().get_stream_no_info("WORKOS_EVENTS").await.expect("the stream");
    let consumer = stream.get_consumer::<pull::Config>("worker-test").await.expect("the consumer");
    let mut taken = 0;
    while taken < times {
        let pull = consumer.batch().max_messages(1).expires(Duration::from_secs(1));
        let mut messages = pull.messages().await.expect("a pull");
        while let Some(Ok(message)) = messages.next().await {
            message.ack_with(AckKind::Nak(None)).await.expect("a nak");
            taken += 1;
        }
    }
    // Only whoever asks for more makes the broker notice.
    world
        .eventually("an advisory", async || {
            let pull = consumer.batch().max_messages(1).expires(Duration::from_millis(100));
            let mut nothing = pull.messages().await.ok()?;
            assert!(nothing.next().await.is_none(), "delivered more often than it may be");
            let mut advisories = world.jetstream().get_stream("WORKOS_ADVISORIES").await.ok()?;
            (advisories.info().await.ok()?.state.messages == 1).then_some(())
        })
        .await;
}

#[tokio::test]
async fn what_the_broker_gave_up_while_no_worker_lived_becomes_a_dead_letter() {
    let mut world = impatient().env("SYNC_MAX_ATTEMPTS", "1").start().await;
    world.worker(0).terminate().await.expect("the worker leaves");
    let ada = world.sim().user("ada@example.com");
    let event = world.sim().last_event(Kind::User, &ada).expect("an event").id;
    world.sim().post(&event).await.expect("a delivery");
    exhaust(&world, 8).await;
    world.start_worker_again(0).await;
    world
        .eventually("a dead event", async || {
            (outcome(&world, &event).await.as_deref() == Some("dead")).then_some(())
        })
        .await;
    let letters = letters(&world).await;
    assert_eq!((letters[0]["reason"].as_str(), letters[0]["attempts"].as_i64()), (Some("crash"), Some(8)));
    read(&world.worker_command(&["dlq", "replay", "--id", &ada, "--yes", "--format", "json"]).await);
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn what_was_delivered_often_for_no_fault_of_its_own_goes_on() {
    let mut world = impatient().env("SYNC_MAX_ATTEMPTS", "1").start().await;
    world.sim().outage(Some(Failure::TooMany(Some(0))));
    let ada = world.sim().user("ada@example.com");
    let event = world.sim().last_event(Kind::User, &ada).expect("an event").id;
    world.sim().post(&event).await.expect("a delivery");
    let log = world.worker(0).log().to_owned();
    world
        .eventually("a fresh start", async || {
            std::fs::read_to_string(&log).ok()?.contains("goes on afresh").then_some(())
        })
        .await;
    world.sim().outage(None);
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(attempts(&world, &event).await, 1);
    assert_eq!(letters(&world).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_worker_that_dies_while_it_buries_leaves_one_dead_letter() {
    for place in ["after_dead_letter", "after_dead"] {
        let mut world = impatient().env("SYNC_MAX_ATTEMPTS", "1").env("SYNC_ACK_WAIT", "1s").start().await;
        world.worker(0).terminate().await.expect("the worker leaves");
        world.worker(0).set("SYNC_CRASH_AT", place);
        let event = world.sim().emit("user.updated", json!({}));
        world.sim().post(&event).await.expect("a delivery");
        world.worker(0).start_again().expect("the worker starts");
        assert!(!world.worker(0).wait().await.expect("the worker ends").success(), "{place}: it was to die");
        world.worker(0).set("SYNC_CRASH_AT", "");
        world.start_worker_again(0).await;
        world.settled().await;
        assert_eq!(outcome(&world, &event).await.as_deref(), Some("dead"), "{place}");
        assert_eq!(letters(&world).await.len(), 1, "{place}");
    }
}

#[tokio::test]
async fn a_dead_letter_that_is_published_twice_is_listed_once() {
    let world = impatient().start().await;
    let users = refused(&world, 2).await;
    let stream = world.jetstream().get_stream_no_info("WORKOS_DLQ").await.expect("the stream");
    // As after the broker has forgotten the message id.
    let message = stream.get_raw_message(1).await.expect("a dead letter");
    let mut headers = message.headers.clone();
    headers.insert("Nats-Msg-Id", "another");
    let again = world.jetstream().publish_with_headers(message.subject, headers, message.payload);
    again.await.expect("publish").await.expect("an ack");
    let listed = letters(&world).await;
    assert_eq!(listed.iter().map(|letter| letter["seq"].as_i64()).collect::<Vec<_>>(), [Some(2), Some(3)]);
    rule(&world, "DROP CONSTRAINT no_eve").await;
    let ran = read(&world.worker_command(&["dlq", "replay", "--all", "--yes", "--format", "json"]).await);
    assert_eq!((ran["selected"].as_i64(), ran["outcomes"]["applied"].as_i64()), (Some(2), Some(2)), "{ran}");
    assert_eq!(letters(&world).await, Vec::<Value>::new());
    for (user, _) in &users {
        assert_eq!(audits(&world, user).await.len(), 1);
    }
}

#[tokio::test]
async fn a_dead_letter_says_in_its_headers_why_and_how_long() {
    let world = impatient().start().await;
    let users = refused(&world, 1).await;
    let stream = world.jetstream().get_stream_no_info("WORKOS_DLQ").await.expect("the stream");
    let message = stream.get_raw_message(1).await.expect("a dead letter");
    assert_eq!(message.subject.as_str(), "workos.dlq.test.user.created");
    let header = |name: &str| message.headers.get(name).map_or("", |value| value.as_str()).to_owned();
    assert_eq!(header("Workos-Reason"), "row_refused");
    assert!(header("Workos-Error").contains("23514 no_eve"), "{}", header("Workos-Error"));
    assert_eq!(header("Workos-Attempts"), ATTEMPTS.to_string());
    assert!(shared::timestamp::parse(&header("Workos-First-Seen")).is_some());
    assert_eq!(header("Workos-Stream-Sequence"), "1");
    let event: Value = serde_json::from_slice(&message.payload).expect("an event");
    assert_eq!((&event["id"], &event["object_id"]), (&json!(users[0].1), &json!(users[0].0)));
    let depth = world
        .eventually("the depth", async || {
            let depth = world.worker_metrics(0).await.value("workos_sync_dlq_depth", &[]);
            (depth > 0.0).then_some(depth)
        })
        .await;
    assert!((depth - 1.0).abs() < f64::EPSILON);
    let shown = read(&world.worker_command(&["dlq", "show", "1", "--format", "json"]).await);
    assert_eq!((&shown["event"]["id"], &shown["ledger"]["outcome"]), (&json!(users[0].1), &json!("dead")));
}

#[tokio::test]
async fn replay_and_discard_want_to_know_which_and_ask_before_they_act() {
    let world = impatient().start().await;
    let users = refused(&world, 3).await;
    for command in ["replay", "discard"] {
        let all = world.worker_command(&["dlq", command, "--yes"]).await;
        assert_eq!(all.code(), Some(2), "{}", all.stderr);
        assert!(all.stderr.contains("--all"), "{}", all.stderr);
        let unasked = world.worker_command(&["dlq", command, "--all"]).await;
        assert_eq!(unasked.code(), Some(2), "{}", unasked.stderr);
        assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
        let unknown = world.worker_command(&["dlq", command, "--id", "user_unknown", "--yes"]).await;
        assert_eq!(unknown.code(), Some(1), "{}", unknown.stderr);
        let counted =
            world.worker_command(&["dlq", command, "--limit", "2", "--dry-run", "--format", "json"]).await;
        assert_eq!(read(&counted)["selected"], 2);
    }
    assert_eq!(world.worker_command(&["dlq", "show", "99"]).await.code(), Some(1));
    assert_eq!(letters(&world).await.len(), 3, "nothing was done");
    let table = world.worker_command(&["dlq", "list", "--reason", "row_refused", "--since", "1h"]).await;
    assert!(table.stdout.ends_with("3 dead letters: 3 row_refused\n"), "{}", table.stdout);
    assert!(table.stdout.contains(&users[0].0), "{}", table.stdout);
    let none = world.worker_command(&["dlq", "list", "--kind", "organization"]).await;
    assert_eq!(none.stdout, "no dead letters\n");
}

#[tokio::test]
async fn a_discarded_dead_letter_stays_dead_and_is_recorded_with_who_and_why() {
    let world = impatient().start().await;
    let users = refused(&world, 2).await;
    let (eve, event) = &users[0];
    let order =
        ["dlq", "discard", "--id", eve, "--yes", "--actor", "ada", "--why", "left us", "--format", "json"];
    let ran = read(&world.worker_command(&order).await);
    assert_eq!((ran["selected"].as_i64(), ran["discarded"].as_i64()), (Some(1), Some(1)), "{ran}");
    let left = letters(&world).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["event"]["id"], users[1].1);
    assert_eq!(outcome(&world, event).await.as_deref(), Some("dead"));
    assert_eq!(actions(&world).await, [(event.clone(), "discarded".to_owned())]);
    let runs = runs(&world).await;
    let counts = json!({"selected": 1, "done": 1, "already": 0});
    assert_eq!(
        runs,
        [("discard".into(), Some("ada".into()), Some("left us".into()), counts, Some("done".into()))]
    );
}

#[tokio::test]
async fn a_replay_of_what_was_answered_since_changes_nothing() {
    let world = impatient().start().await;
    let users = refused(&world, 1).await;
    let (eve, event) = &users[0];
    rule(&world, "DROP CONSTRAINT no_eve").await;
    world.sim().update(Kind::User, eve, json!({"first_name": "Evelyn"}));
    world.sim().release_held();
    world.settled().await;
    world.assert_in_step().await;
    let ran =
        read(&world.worker_command(&["dlq", "replay", "--id", event, "--yes", "--format", "json"]).await);
    assert_eq!(ran["outcomes"], json!({"unchanged": 1}), "{ran}");
    assert_eq!(audits(&world, eve).await.len(), 1);
}

#[tokio::test]
async fn what_dies_again_is_a_dead_letter_again() {
    let world = impatient().start().await;
    let users = refused(&world, 1).await;
    let ran = read(&world.worker_command(&["dlq", "replay", "--all", "--yes", "--format", "json"]).await);
    assert_eq!(ran["outcomes"], json!({"dead": 1}), "{ran}");
    let letters = letters(&world).await;
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0]["seq"], &letters[0]["attempts"]), (&json!(2), &json!(ATTEMPTS)));
    assert_eq!(letters[0]["event"]["id"], users[0].1);
}

#[tokio::test]
async fn a_replay_that_is_killed_anywhere_and_run_again_does_nothing_twice() {
    for place in ["after_recorded", "after_replayed"] {
        let mut world = impatient().start().await;
        let users = refused(&world, 12).await;
        rule(&world, "DROP CONSTRAINT no_eve").await;
        let order = ["dlq", "replay", "--all", "--yes", "--format", "json"];
        let killed = world.worker_command_with(&order, &[("SYNC_CRASH_AT", place)]).await;
        assert_eq!(killed.code(), None, "{place}: it was to die");
        // A worker dies too.
        world.kill_worker(0);
        world.start_worker_again(0).await;
        let ran = read(&world.worker_command(&order).await);
        assert_eq!(
            (ran["replayed"].as_i64(), ran["already"].as_i64()),
            (Some(0), Some(12)),
            "{place}: {ran}"
        );
        assert_eq!(ran["outcomes"], json!({"applied": 12}), "{place}");
        world.settled().await;
        world.assert_in_step().await;
        for (user, _) in &users {
            assert_eq!(audits(&world, user).await.len(), 1, "{place}");
        }
        assert_eq!(actions(&world).await.len(), 12, "{place}");
        assert_eq!(runs(&world).await.len(), 2, "{place}");
        assert_eq!(letters(&world).await, Vec::<Value>::new(), "{place}");
    }
}

#[tokio::test]
async fn what_a_replay_left_undone_may_be_discarded() {
    let world = impatient().start().await;
    let users = refused(&world, 3).await;
    let order = |what| ["dlq", what, "--all", "--yes", "--format", "json"];
    let killed = world.worker_command_with(&order("replay"), &[("SYNC_CRASH_AT", "after_recorded")]).await;
    assert_eq!(killed.code(), None, "it was to die");
    assert_eq!(world.worker_command(&order("discard")).await.code(), Some(0));
    for (_, event) in &users {
        assert_eq!(outcome(&world, event).await.as_deref(), Some("dead"));
        let actions: Vec<String> = sqlx::query_scalar(
            "SELECT action FROM workos_sync.dead_letter_actions WHERE event_id = $1 ORDER BY at",
        )
        .bind(event)
        .fetch_all(world.pool())
        .await
        .expect("the actions");
        assert_eq!(actions, ["replayed", "discarded"]);
    }
    let told = world.worker_command(&["explain", &users[0].1]).await.success().expect("an explanation");
    assert!(told.contains("replayed by") && told.contains("discarded by"), "{told}");
    assert!(told.contains("next: nothing is open"), "there is nothing left to be replayed: {told}");
    assert_eq!(letters(&world).await, Vec::<Value>::new());
}

const MANY: usize = 10_000;
const REASONS: [&str; 5] = ["row_refused", "not_understood", "server_fault", "malformed", "crash"];

/// Ten thousand users whose events are dead letters of five reasons.
async fn ten_thousand(world: &World) -> Vec<String> {
    let users: Vec<String> = (0..MANY)
        .map(|n| world.sim().silently_create(Kind::User, json!({"email": format!("user{n}@example.com")})))
        .collect();
    let mut acknowledgements = Vec::new();
    for (n, user) in users.iter().enumerate() {
        let event = json!({
            "id": format!("event_{n:05}"), "type": "user.created", "kind": "user", "operation": "created",
            "object_id": user, "received_at": shared::clock::now(), "channel": "webhook",
        });
        let mut headers = HeaderMap::new();
        headers.insert("Workos-Reason", REASONS[n % REASONS.len()]);
        headers.insert("Workos-Error", "as the story says");
        headers.insert("Workos-Attempts", "12");
        headers.insert("Workos-Stream-Sequence", n.to_string());
        let sent = world.jetstream().publish_with_headers(
            "workos.dlq.test.user.created",
            headers,
            event.to_string().into(),
        );
        acknowledgements.push(sent.await.expect("publish"));
        // The client lets some thousand stand open, and no more.
        if acknowledgements.len() == 1_000 || n + 1 == MANY {
            for acknowledgement in acknowledgements.drain(..) {
                acknowledgement.await.expect("an ack");
            }
        }
    }
    sqlx::query(
        "INSERT INTO workos_sync.events (env, id, type, kind, object_id, first_channel, received_at, attempts, outcome,
             settled_at)
         SELECT 'test', 'event_' || lpad((n - 1)::text, 5, '0'), 'user.created', 'user', id, 'webhook', now(), 12,
             'dead', now()
         FROM unnest($1::text[]) WITH ORDINALITY AS dead (id, n)",
    )
    .bind(&users)
    .execute(world.pool())
    .await
    .expect("the ledger");
    users
}

#[tokio::test]
async fn ten_thousand_dead_letters_are_listed_at_once_and_replayed_once() {
    let mut world = impatient().env("SYNC_RATE_LIMIT", "off").start().await;
    let users = ten_thousand(&world).await;
    let started = Instant::now();
    let listed = read(&world.worker_command(&["dlq", "list", "--format", "json"]).await);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "the issue allows 2 s, and listing took {took:?}");
    assert_eq!(
        (listed["total"].as_u64(), listed["by_reason"]["crash"].as_u64()),
        (Some(10_000), Some(2_000))
    );

    let crash = ["dlq", "replay", "--reason", "crash", "--format", "json"];
    let counted = read(&world.worker_command(&[&crash[..], &["--dry-run"]].concat()).await);
    assert_eq!(counted["selected"], 2_000);
    let ran = read(&world.worker_command(&[&crash[..], &["--yes", "--rate", "off"]].concat()).await);
    assert_eq!(
        (ran["replayed"].as_u64(), &ran["outcomes"]),
        (Some(2_000), &json!({"applied": 2_000})),
        "{ran}"
    );
    assert_eq!(letters(&world).await.len(), 8_000);

    // The rest, by a command that is killed on the way, as is the worker.
    let order = ["dlq", "replay", "--all", "--yes", "--rate", "off", "--format", "json"];
    let pool = world.pool().clone();
    let done = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM workos_sync.dead_letter_actions")
            .fetch_one(&pool)
            .await
            .expect("the actions")
    };
    let mut running = world.start_command(&order);
    while done().await < 5_000 {
        assert!(
            running.ended().expect("the command is looked after").is_none(),
            "it ended before it was killed"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.kill().expect("the command dies");
    world.kill_worker(0);
    assert!(done().await < 10_000, "there is something left to do");
    world.start_worker_again(0).await;
    let ran = read(&world.worker_command(&order).await);
    assert_eq!(ran["left"], 0, "{ran}");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(letters(&world).await, Vec::<Value>::new());
    assert_eq!(done().await, 10_000);
    let twice: Vec<(String, i64)> = sqlx::query_as(
        "SELECT object_id, count(*) FROM workos_sync.audit_log GROUP BY object_id HAVING count(*) > 1",
    )
    .fetch_all(world.pool())
    .await
    .expect("the audit log");
    assert_eq!(twice, [], "done twice");
    let ended: BTreeMap<String, i64> = outcomes(&world).await.into_iter().collect();
    assert_eq!(ended, BTreeMap::from([("applied".to_owned(), i64::try_from(users.len()).expect("few"))]));
}
