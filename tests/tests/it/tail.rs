//! P12: what webhooks do not bring, the Events API does, and nothing is ever missed.

use std::time::Duration;

use serde_json::json;
use shared::id::Kind;
use shared::subject;
use support::sim::{Failure, Knobs};
use support::world::{Builder, World};

use crate::convergence::change;
use crate::ledger::{audits, outcome, reason};
use crate::main_path::by_hand;

/// A world with the tail on, and no webhooks but those the knobs say.
fn with_tail(interval: &str) -> Builder {
    World::builder().env("SYNC_TAIL_INTERVAL", interval).env("SYNC_ACK_WAIT", "1s")
}

/// Waits until every event that WorkOS made has its outcome.
pub(crate) async fn every_event_ends(world: &World) {
    world
        .eventually("an outcome of every event", async || {
            let ended: i64 =
                sqlx::query_scalar("SELECT count(*) FROM workos_sync.events WHERE outcome IS NOT NULL")
                    .fetch_one(world.pool())
                    .await
                    .ok()?;
            (ended == events(world)).then_some(())
        })
        .await;
}

fn events(world: &World) -> i64 {
    i64::try_from(world.sim().events().len()).expect("few")
}

/// Rows of the ledger of which this is true.
async fn count(world: &World, condition: &str) -> i64 {
    let query = format!("SELECT count(*) FROM workos_sync.events WHERE {condition}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(world.pool()).await.expect("the ledger")
}

/// What all living workers together count.
async fn counted(world: &World, workers: &[usize], name: &str) -> i64 {
    let mut sum = 0.0;
    for &worker in workers {
        sum += world.worker_metrics(worker).await.value(name, &[]);
    }
    #[expect(clippy::cast_possible_truncation, reason = "stories are small")]
    let sum = sum as i64;
    sum
}

/// Waits until the tail has read to the end so many times more. The last of two began after this was called.
async fn polls(world: &World, workers: &[usize], more: i64) {
    const POLLS: &str = "workos_sync_tail_polls_total";
    let before = counted(world, workers, POLLS).await;
    world
        .eventually("the tail to poll", async || {
            (counted(world, workers, POLLS).await >= before + more).then_some(())
        })
        .await;
}

async fn ready_body(world: &mut World, worker: usize) -> (u16, String) {
    let url = format!("http://{}/readyz", world.worker(worker).admin());
    let answer = world.http().get(url).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

/// No event changed the same object twice, and the ledger has no event that WorkOS did not make.
async fn nothing_happened_twice(world: &World) {
    let twice: Vec<String> = sqlx::query_scalar(
        "SELECT event_id FROM workos_sync.audit_log WHERE event_id IS NOT NULL GROUP BY event_id, kind, object_id HAVING count(*) > 1",
    )
    .fetch_all(world.pool())
    .await
    .expect("the audit log");
    assert_eq!(twice, Vec::<String>::new());
    assert_eq!(count(world, "true").await, events(world));
}

#[tokio::test]
async fn a_day_without_webhooks_is_read_within_two_polls_and_every_webhook_is_missed_once() {
    let world = with_tail("1s").ingests(0).env("SYNC_WEBHOOK_GRACE", "1s").start().await;
    let mut rng = fastrand::Rng::with_seed(7);
    for n in 0..2_000 {
        change(world.sim(), &mut rng, n);
    }
    polls(&world, &[0], 2).await;
    world.settled().await;
    world.assert_in_step().await;

    let events = events(&world);
    assert!(events >= 1_900, "{events} events");
    assert_eq!(count(&world, "outcome IS NOT NULL AND first_channel = 'tail'").await, events);
    world
        .eventually("every missed webhook to be counted", async || {
            (counted(&world, &[0], "workos_sync_webhooks_missed_total").await >= events).then_some(())
        })
        .await;
    polls(&world, &[0], 2).await;
    assert_eq!(counted(&world, &[0], "workos_sync_webhooks_missed_total").await, events);
    assert_eq!(count(&world, "missed_at IS NOT NULL").await, events);
    nothing_happened_twice(&world).await;
}

/// The holder of the role dies at `place`, twice, while WorkOS shows events late and in overlapping pages.
async fn survives_the_death_of_its_holder_at(place: &str, holdback_ms: u64, overlap: &str) {
    let knobs = Knobs {
        lost_webhook: 0.6,
        events_holdback_ms: holdback_ms,
        events_late: 0.2,
        events_late_ms: 700,
        events_repeat: 3,
        ..Knobs::default()
    };
    let mut world =
        with_tail("500ms").knobs(knobs).env("SYNC_TAIL_OVERLAP", overlap).workers(2).start().await;
    for worker in [0, 1] {
        world.worker(worker).terminate().await.expect("the worker leaves");
        world.worker(worker).set("SYNC_CRASH_AT", place);
    }
    let mut rng = fastrand::Rng::with_seed(11);
    for worker in [0, 1] {
        for n in 0..150 {
            change(world.sim(), &mut rng, worker * 150 + n);
        }
        world.worker(worker).start_again().expect("the worker starts");
        let died = world.worker(worker).wait().await.expect("the worker ends");
        assert!(!died.success(), "the holder was to die at {place}");
    }
    world.start_worker().await;
    for n in 300..350 {
        change(world.sim(), &mut rng, n);
    }
    every_event_ends(&world).await;
    world.settled().await;
    world.assert_in_step().await;
    nothing_happened_twice(&world).await;
}

#[tokio::test]
async fn a_holder_that_dies_twice_between_publishing_and_moving_the_cursor_misses_nothing() {
    survives_the_death_of_its_holder_at("tail_published", 5_000, "30s").await;
}

#[tokio::test]
async fn a_holder_that_dies_twice_just_before_it_moves_the_cursor_misses_nothing() {
    survives_the_death_of_its_holder_at("tail_before_cursor", 500, "2s").await;
}

/// The stream is deleted while the workers are behind, and the only worker may be dead at that time.
async fn survives_the_loss_of_the_stream(dead: bool) {
    let mut world = with_tail("500ms")
        .env("SYNC_TAIL_OVERLAP", "500ms")
        .knobs(Knobs { latency_ms: (40, 40), ..Knobs::default() })
        .env("SYNC_FETCH_CONCURRENCY", "2")
        .env("SYNC_BATCH_MAX", "5")
        .start()
        .await;
    // One event that no list will show again is being retried, and so is in the ledger alone.
    world.sim().set_knobs(Knobs { lost_event: 1.0, ..world.sim().knobs() });
    let eve = world.sim().user("eve@example.com");
    world.sim().fail_next(Kind::User, &eve, 1_000, Failure::Status(503));
    let retried = world.sim().last_event(Kind::User, &eve).expect("an event").id;
    world.eventually("a failed attempt", async || reason(&world, &retried).await).await;

    world.sim().set_knobs(Knobs { lost_event: 0.0, ..world.sim().knobs() });
    for n in 0..300 {
        world.sim().user(&format!("user{n}@example.com"));
    }
    world.eventually("webhooks stored", async || (world.sim().pending_deliveries() == 0).then_some(())).await;
    polls(&world, &[0], 2).await;
    let stream = world.jetstream().get_stream(subject::EVENTS_STREAM).await.expect("the stream");
    let consumer = stream.consumer_info(subject::worker_consumer("test")).await.expect("the consumer");
    assert!(consumer.num_pending > 0, "the workers are behind");
    if dead {
        world.kill_worker(0);
    }
    world.jetstream().delete_stream(subject::EVENTS_STREAM).await.expect("the stream is lost");
    world.sim().clear_scripts();
    if dead {
        world.start_worker_again(0).await;
    }
    for n in 300..350 {
        world.sim().user(&format!("user{n}@example.com"));
    }
    every_event_ends(&world).await;
    world.settled().await;
    world.assert_in_step().await;
    nothing_happened_twice(&world).await;
    assert_eq!(outcome(&world, &retried).await.as_deref(), Some("applied"));
    assert!(counted(&world, &[0], "workos_sync_tail_streams_lost_total").await > 0);
}

#[tokio::test]
async fn a_stream_that_is_lost_under_load_is_filled_again() {
    survives_the_loss_of_the_stream(false).await;
}

#[tokio::test]
async fn a_stream_that_is_lost_while_nobody_looks_is_filled_again() {
    survives_the_loss_of_the_stream(true).await;
}

#[tokio::test]
async fn messages_that_vanish_from_the_stream_are_published_again() {
    let world = with_tail("300ms")
        .ingests(0)
        .env("SYNC_FETCH_CONCURRENCY", "1")
        .env("SYNC_BATCH_MAX", "1")
        .start()
        .await;
    let mut stream = world.jetstream().get_stream(subject::EVENTS_STREAM).await.expect("the stream");
    // A broker that lost messages has forgotten their ids too.
    let mut config = stream.info().await.expect("info").config.clone();
    config.duplicate_window = Duration::from_millis(100);
    world.jetstream().update_stream(config).await.expect("an update");
    let first = world.sim().user("first@example.com");
    let hold = world.sim().hold(Kind::User, &first);
    hold.reached().await;
    // The only question that may be asked waits for its answer, so most of these stay in the stream.
    for n in 0..40 {
        world.sim().user(&format!("user{n}@example.com"));
    }
    world
        .eventually("the tail to publish", async || {
            (stream.info().await.ok()?.state.last_sequence >= 41).then_some(())
        })
        .await;
    stream.purge().await.expect("the messages are lost");
    hold.release();
    every_event_ends(&world).await;
    world.settled().await;
    world.assert_in_step().await;
    nothing_happened_twice(&world).await;
}

#[tokio::test]
async fn when_the_holder_dies_another_copy_goes_on() {
    const HOLDER: &str = "workos_sync_tail_holder";
    let mut world = with_tail("300ms").ingests(0).workers(2).start().await;
    for round in 0..3 {
        world.sim().user(&format!("user{round}@example.com"));
        every_event_ends(&world).await;
        assert_eq!(counted(&world, &[0, 1], HOLDER).await, 1, "one copy reads");
        let holder = usize::from(counted(&world, &[1], HOLDER).await == 1);
        world.kill_worker(holder);
        world.sim().user(&format!("late{round}@example.com"));
        every_event_ends(&world).await;
        assert_eq!(counted(&world, &[1 - holder], HOLDER).await, 1);
        world.start_worker_again(holder).await;
    }
    world.settled().await;
    world.assert_in_step().await;
    nothing_happened_twice(&world).await;
}

#[tokio::test]
async fn a_copy_that_takes_over_goes_on_after_the_stored_cursor() {
    let mut world = with_tail("300ms").env("SYNC_TAIL_OVERLAP", "300ms").ingests(0).start().await;
    let ada = world.sim().user("ada@example.com");
    let last = world.sim().last_event(Kind::User, &ada).expect("an event").id;
    world
        .eventually("the cursor to pass the event", async || {
            let cursor: Option<String> = sqlx::query_scalar("SELECT cursor FROM workos_sync.cursors")
                .fetch_one(world.pool())
                .await
                .ok()?;
            (cursor.as_deref() == Some(last.as_str())).then_some(())
        })
        .await;
    world.kill_worker(0);
    // Were it read again, the ledger would have it again.
    sqlx::query("UPDATE workos_sync.events SET id = 'event_of_another_name'")
        .execute(world.pool())
        .await
        .expect("a ledger that lacks it");
    world.sim().user("bob@example.com");
    world.start_worker_again(0).await;
    every_event_ends(&world).await;
    polls(&world, &[0], 2).await;
    assert_eq!(count(&world, &format!("id = '{last}'")).await, 0);
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_cursor_that_workos_forgot_is_given_up_aloud_and_a_verify_is_requested() {
    let mut world = with_tail("300ms").workers(0).knobs(by_hand()).start().await;
    sqlx::query(
        "INSERT INTO workos_sync.cursors (env, name, cursor, event_at, read_until)
         VALUES ('test', 'events', 'event_forgotten', now() - interval '2 days', now() - interval '2 days')",
    )
    .execute(world.pool())
    .await
    .expect("an old cursor");
    world.sim().user("ada@example.com");
    // Whatever fails is not the cursor's fault as long as nothing else works either.
    world.sim().outage(Some(Failure::Status(400)));
    let worker = world.start_unready_worker();
    world
        .eventually("the tail to fail", async || (world.sim().requests().with_status(400) >= 4).then_some(()))
        .await;
    let cursor: Option<String> = sqlx::query_scalar("SELECT cursor FROM workos_sync.cursors")
        .fetch_one(world.pool())
        .await
        .expect("it");
    assert_eq!(cursor.as_deref(), Some("event_forgotten"));

    world.sim().outage(None);
    every_event_ends(&world).await;
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(counted(&world, &[worker], "workos_sync_tail_cursors_refused_total").await, 1);
    world
        .eventually("the verify to be due", async || {
            (counted(&world, &[worker], "workos_sync_verify_due").await == 1).then_some(())
        })
        .await;
    let (status, body) = ready_body(&mut world, worker).await;
    assert!(status == 200 && body.contains("worker verify --repair"), "{status} {body}");
    let log = world.worker(worker).logs();
    assert!(log.contains("does not know the cursor of the Events API any more"), "{log}");
    sqlx::query(
        "INSERT INTO workos_sync.runs (env, command, started_at, finished_at, result)
         VALUES ('test', 'verify', now(), now(), 'done')",
    )
    .execute(world.pool())
    .await
    .expect("a verify");
    world
        .eventually("the verify to be done", async || {
            (counted(&world, &[worker], "workos_sync_verify_due").await == 0).then_some(())
        })
        .await;
}

#[tokio::test]
async fn webhooks_that_do_not_come_are_an_alarm_until_one_does() {
    const SILENT: &str = "workos_sync_webhooks_silent";
    let knobs = Knobs { lost_webhook: 1.0, ..Knobs::default() };
    let mut world =
        with_tail("300ms").workers(2).env("SYNC_WEBHOOK_GRACE", "500ms").knobs(knobs).start().await;
    world.sim().user("ada@example.com");
    world.sim().user("bob@example.com");
    world
        .eventually("two misses", async || (count(&world, "missed_at IS NOT NULL").await == 2).then_some(()))
        .await;
    polls(&world, &[0, 1], 2).await;
    assert_eq!(counted(&world, &[0, 1], SILENT).await, 0, "two may be an accident");
    world.sim().user("eve@example.com");
    world
        .eventually("the alarm on every copy", async || {
            (counted(&world, &[0, 1], SILENT).await == 2).then_some(())
        })
        .await;
    for worker in [0, 1] {
        let (status, body) = ready_body(&mut world, worker).await;
        assert!(status == 200 && body.contains("webhooks: silent"), "{status} {body}");
    }

    world.sim().set_knobs(Knobs::default());
    world.sim().user("dan@example.com");
    world
        .eventually("the end of the alarm", async || {
            (counted(&world, &[0, 1], SILENT).await == 0).then_some(())
        })
        .await;
    let (status, body) = ready_body(&mut world, 0).await;
    assert_eq!((status, body.as_str()), (200, "ready\n"));
    assert_eq!(counted(&world, &[0, 1], "workos_sync_webhooks_missed_total").await, 3);
    every_event_ends(&world).await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_webhook_that_comes_after_the_tail_is_not_missed() {
    let world = with_tail("300ms").knobs(by_hand()).env("SYNC_WEBHOOK_GRACE", "6s").start().await;
    let sim = world.sim();
    let user = |email| sim.last_event(Kind::User, &sim.user(email)).expect("an event").id;
    let (soon, late, never) = (user("soon@example.com"), user("late@example.com"), user("never@example.com"));
    every_event_ends(&world).await;
    assert_eq!(sim.post(&soon).await.expect("a delivery"), [200]);
    // Once the broker has forgotten the first one, a webhook goes through the stream.
    let message = json!({
        "id": late, "type": "user.created", "kind": "user", "object_id": "user_1",
        "received_at": "2026-01-01T00:00:00Z", "channel": "webhook",
    });
    world
        .jetstream()
        .publish(subject::event("test", "user.created"), message.to_string().into())
        .await
        .expect("publish")
        .await
        .expect("an ack");
    for event in [&soon, &late] {
        world
            .eventually("the ledger to know that the webhook came", async || {
                (count(&world, &format!("id = '{event}' AND webhook_at IS NOT NULL")).await == 1)
                    .then_some(())
            })
            .await;
    }
    world
        .eventually("a miss", async || {
            (counted(&world, &[0], "workos_sync_webhooks_missed_total").await > 0).then_some(())
        })
        .await;
    assert_eq!(count(&world, "missed_at IS NOT NULL").await, 1);
    assert_eq!(count(&world, &format!("id = '{never}' AND missed_at IS NOT NULL")).await, 1);
    assert_eq!(count(&world, "first_channel = 'tail' AND tail_at IS NOT NULL").await, 3);
    assert!(world.worker_metrics(0).await.value("workos_sync_webhook_delay_seconds_count", &[]) > 1.0);
}

#[tokio::test]
async fn what_both_channels_bring_is_one_message_and_the_ledger_knows_both() {
    let mut world = with_tail("300ms").start().await;
    let ada = world.sim().user("ada@example.com");
    for n in 0..20 {
        world.sim().update(Kind::User, &ada, json!({"first_name": format!("Name {n}")}));
    }
    every_event_ends(&world).await;
    world
        .eventually("both channels in the ledger", async || {
            let both = count(&world, "webhook_at IS NOT NULL AND tail_at IS NOT NULL").await;
            (both == events(&world)).then_some(())
        })
        .await;
    polls(&world, &[0], 2).await;
    let mut stream = world.jetstream().get_stream(subject::EVENTS_STREAM).await.expect("the stream");
    assert_eq!(stream.info().await.expect("info").state.messages, 21);
    let metrics = world.worker_metrics(0).await;
    assert_eq!(counted(&world, &[0], "workos_sync_backfill_due").await, 1);
    assert!(metrics.value("workos_sync_recovery_hours", &[]) > 29.0 * 24.0);
    assert!(metrics.has("workos_sync_tail_age_seconds") && metrics.has("workos_sync_cursor_age_seconds"));
    assert!(world.worker(0).logs().contains("run `worker backfill`"));
    world.assert_in_step().await;
}

#[tokio::test]
async fn items_that_are_no_events_are_recorded_and_never_stop_the_tail() {
    let world = with_tail("300ms").knobs(by_hand()).workers(0).start().await;
    let mut world = world;
    let sim = world.sim();
    let event = |email| sim.last_event(Kind::User, &sim.user(email)).expect("an event").id;
    let (ada, bob, eve) = (event("ada@example.com"), event("bob@example.com"), event("eve@example.com"));
    assert!(sim.spoil(&bob, &json!({"id": bob, "event": 7})));
    let nameless = event("nameless@example.com");
    assert!(sim.spoil(&nameless, &json!(["what", "is", "this"])));
    let last = event("last@example.com");
    world.start_worker().await;
    every_event_ends(&world).await;
    for (event, expected) in [(&ada, "applied"), (&bob, "dead"), (&eve, "applied"), (&last, "applied")] {
        assert_eq!(outcome(&world, event).await.as_deref(), Some(expected), "{event}");
    }
    assert_eq!(count(&world, &format!("id = 'unreadable_after_{eve}' AND outcome = 'dead'")).await, 1);
    polls(&world, &[0], 3).await;
    assert_eq!(count(&world, "true").await, 5, "each is recorded once");
    assert_eq!(counted(&world, &[0], "workos_sync_tail_unreadable_total").await, 2);
}

#[tokio::test]
async fn a_quiet_tail_is_one_request_a_poll() {
    let world = with_tail("200ms").ingests(0).start().await;
    let ada = world.sim().user("ada@example.com");
    every_event_ends(&world).await;
    polls(&world, &[0], 2).await;
    let before =
        (counted(&world, &[0], "workos_sync_tail_polls_total").await, world.sim().requests().event_pages());
    polls(&world, &[0], 5).await;
    let pages = i64::try_from(world.sim().requests().event_pages() - before.1).expect("few");
    let polls = counted(&world, &[0], "workos_sync_tail_polls_total").await - before.0;
    assert!((polls - 1..=polls + 1).contains(&pages), "{pages} requests in {polls} polls");
    assert_eq!(audits(&world, &ada).await.len(), 1);
    assert_eq!(world.sim().asked(Kind::User, &ada), 1);
}
