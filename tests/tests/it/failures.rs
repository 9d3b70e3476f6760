//! A story per failure class: the row, the ledger, the log line, the metric, the dead letter; and that attempts are
//! used up exactly where they should be.

use serde_json::{Value, json};
use shared::id::Kind;
use support::sim::Failure;
use support::world::{Builder, World};

use crate::dead_letters::letters;
use crate::ledger::{attempts, outcome, reason};
use crate::main_path::by_hand;

/// Attempts that an event has in these stories.
pub(crate) const ATTEMPTS: i32 = 3;

/// A world whose worker tries an event three times, quickly.
pub(crate) fn impatient() -> Builder {
    World::builder()
        .knobs(by_hand())
        .env("SYNC_MAX_ATTEMPTS", "3")
        .env("SYNC_RETRY_FIRST", "100ms")
        .env("SYNC_RETRY_CEILING", "300ms")
}

/// Announces a user, and returns its id and that of its event.
async fn announced(world: &World, email: &str) -> (String, String) {
    let user = world.sim().user(email);
    let event = world.sim().last_event(Kind::User, &user).expect("an event").id;
    world.sim().post(&event).await.expect("a delivery");
    (user, event)
}

/// Waits until an event is a dead letter, and checks everything that is to be seen of it.
async fn dies(world: &mut World, event: &str, class: &str, error: &str) -> Value {
    world
        .eventually("a dead event", async || {
            (outcome(world, event).await.as_deref() == Some("dead")).then_some(())
        })
        .await;
    let why = reason(world, event).await.expect("a reason");
    assert!(why.starts_with(class), "{why}");
    let letters = letters(world).await;
    let letter = letters.iter().find(|letter| letter["event"]["id"] == event).expect("a dead letter").clone();
    assert_eq!(letter["reason"], class);
    assert!(letter["error"].as_str().is_some_and(|said| said.contains(error)), "{letter}");
    assert_eq!(Some(i64::from(attempts(world, event).await)), letter["attempts"].as_i64());
    assert_eq!(letter["first_seen"], letter["event"]["received_at"]);
    // Told once the ledger says so.
    let died = world
        .eventually("a count", async || {
            let metrics = world.worker_metrics(0).await;
            let died = metrics.value("workos_sync_dead_letters_total", &[("reason", class)]);
            (died > 0.0).then_some(died)
        })
        .await;
    assert!((died - 1.0).abs() < f64::EPSILON, "{died} dead letters were counted");
    let log = world.worker(0).logs();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("ERROR") && line.contains(event)).collect();
    assert_eq!(lines.len(), 1, "one line, for a person: {lines:#?}");
    assert!(lines[0].contains(&why), "{}", lines[0]);
    letter
}

/// The same for one whose object is answered like this, again and again.
async fn dies_of(failure: Failure, class: &str, error: &str) {
    let mut world = impatient().start().await;
    let user = world.sim().user("ada@example.com");
    world.sim().fail_next(Kind::User, &user, 100, failure);
    let event = world.sim().last_event(Kind::User, &user).expect("an event").id;
    world.sim().post(&event).await.expect("a delivery");
    dies(&mut world, &event, class, error).await;
    assert_eq!(attempts(&world, &event).await, ATTEMPTS);
    assert_eq!(world.any_row(Kind::User, &user).await, None);
    // The others are well.
    let (bob, _) = announced(&world, "bob@example.com").await;
    world.settled().await;
    assert!(world.row(Kind::User, &bob).await.is_some());
}

#[tokio::test]
async fn a_server_fault_about_one_object_uses_up_its_attempts() {
    dies_of(Failure::Status(500), "server_fault", "500").await;
}

#[tokio::test]
async fn a_connection_that_breaks_for_one_object_uses_up_its_attempts() {
    dies_of(Failure::Reset, "unreachable", "broke off").await;
}

#[tokio::test]
async fn a_question_that_the_key_is_refused_for_alone_uses_up_its_attempts() {
    dies_of(Failure::Status(403), "forbidden", "not for others").await;
}

#[tokio::test]
async fn an_answer_that_is_not_understood_uses_up_attempts() {
    dies_of(Failure::Garbage, "not_understood", "not understood").await;
}

#[tokio::test]
async fn an_object_that_never_answers_in_time_uses_up_its_attempts() {
    let mut knobs = by_hand();
    knobs.timeout_ms = 60_000;
    let mut world = impatient().knobs(knobs).env("SYNC_MAX_ATTEMPTS", "1").start().await;
    let user = world.sim().user("ada@example.com");
    world.sim().fail_next(Kind::User, &user, 1, Failure::Timeout);
    let event = world.sim().last_event(Kind::User, &user).expect("an event").id;
    world.sim().post(&event).await.expect("a delivery");
    dies(&mut world, &event, "timed_out", "in time").await;
    assert_eq!(attempts(&world, &event).await, 1);
}

#[tokio::test]
async fn answers_that_stay_older_than_the_event_use_up_its_attempts() {
    let mut world = impatient().start().await;
    let (ada, _) = announced(&world, "ada@example.com").await;
    world.settled().await;
    let event = world.sim().update(Kind::User, &ada, json!({"first_name": "Augusta"})).expect("an event");
    world.sim().stale_next(Kind::User, &ada, 100);
    world.sim().post(&event).await.expect("a delivery");
    dies(&mut world, &event, "stale_read", "older").await;
    assert_eq!(attempts(&world, &event).await, ATTEMPTS);
    let row = world.row(Kind::User, &ada).await.expect("a row");
    assert_eq!(row["first_name"], "Ada", "the older answer was not taken");
}

#[tokio::test]
async fn a_row_that_postgres_refuses_uses_up_attempts_and_tells_no_value() {
    let mut world = impatient().start().await;
    sqlx::query("ALTER TABLE workos.users ADD CONSTRAINT no_ada CHECK (email <> 'ada@example.com')")
        .execute(world.pool())
        .await
        .expect("a rule of the application");
    let (ada, event) = announced(&world, "ada@example.com").await;
    let letter = dies(&mut world, &event, "row_refused", "23514 no_ada").await;
    assert_eq!(attempts(&world, &event).await, ATTEMPTS);
    assert_eq!(world.any_row(Kind::User, &ada).await, None);
    assert!(!letter.to_string().contains("example.com"), "{letter}");
}

#[tokio::test]
async fn an_event_that_names_no_object_dies_at_once() {
    let mut world = impatient().start().await;
    let event = world.sim().emit("user.updated", json!({"email": "nobody@example.com"}));
    world.sim().post(&event).await.expect("a delivery");
    let letter = dies(&mut world, &event, "malformed", "names no object").await;
    assert_eq!(attempts(&world, &event).await, 1);
    assert!(!letter.to_string().contains("example.com"), "{letter}");
}

#[tokio::test]
async fn an_object_that_is_gone_is_an_answer_and_no_failure() {
    let world = impatient().env("SYNC_MAX_ATTEMPTS", "1").start().await;
    let (ada, _) = announced(&world, "ada@example.com").await;
    world.settled().await;
    world.sim().update(Kind::User, &ada, json!({"first_name": "Augusta"}));
    let event = world.sim().last_event(Kind::User, &ada).expect("an event").id;
    world.sim().silently_delete(Kind::User, &ada);
    world.sim().post(&event).await.expect("a delivery");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(outcome(&world, &event).await.as_deref(), Some("deleted"));
    assert_eq!(attempts(&world, &event).await, 1);
    assert_eq!(letters(&world).await, Vec::<Value>::new());
}

/// What is not the event's fault uses up no attempt, however often it comes.
async fn uses_up_nothing(world: &mut World, event: &str, class: &str) {
    world
        .eventually("more deliveries than there are attempts", async || {
            let metrics = world.worker_metrics(0).await;
            let retries = metrics.value("workos_sync_retries_total", &[("reason", class)]);
            (retries > f64::from(ATTEMPTS) + 1.0).then_some(())
        })
        .await;
    assert_eq!(attempts(world, event).await, 0, "{class}");
    assert_eq!(reason(world, event).await.as_deref(), Some(class));
    assert_eq!(outcome(world, event).await, None);
    log_says_why(world, event, class);
}

/// The log has why an event comes again.
fn log_says_why(world: &mut World, event: &str, class: &str) {
    let log = world.worker(0).logs();
    let told = |line: &str| {
        line.contains("will come again") && line.contains(event) && line.contains(&format!("reason={class}"))
    };
    assert!(log.lines().any(told), "{class}: {log}");
}

#[tokio::test]
async fn a_rate_limit_uses_up_no_attempt() {
    let mut world = impatient().start().await;
    world.sim().outage(Some(Failure::TooMany(Some(0))));
    let (_, event) = announced(&world, "ada@example.com").await;
    uses_up_nothing(&mut world, &event, "rate_limited").await;
    world.sim().outage(None);
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(attempts(&world, &event).await, 1);
    assert_eq!(letters(&world).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_kind_of_a_later_version_uses_up_no_attempt() {
    let mut world = impatient().start().await;
    let event = json!({
        "id": "event_later", "type": "planet.created", "kind": "planet", "operation": "created",
        "object_id": "planet_1", "received_at": "2026-01-15T12:00:00Z", "channel": "webhook",
    });
    world
        .jetstream()
        .publish("workos.events.test.planet.created", event.to_string().into())
        .await
        .expect("publish")
        .await
        .expect("an ack");
    uses_up_nothing(&mut world, "event_later", "later_version").await;
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_ignored_and_says_why() {
    let world = impatient().start().await;
    // WorkOS keeps a group within its organization, and this says not within which.
    let event = json!({
        "id": "event_of_a_group", "type": "group.updated", "kind": "group", "operation": "updated",
        "object_id": "group_1", "received_at": "2026-01-15T12:00:00Z", "channel": "webhook",
    });
    world
        .jetstream()
        .publish("workos.events.test.group.updated", event.to_string().into())
        .await
        .expect("publish")
        .await
        .expect("an ack");
    world.settled().await;
    assert_eq!(outcome(&world, "event_of_a_group").await.as_deref(), Some("ignored"));
    assert_eq!(reason(&world, "event_of_a_group").await.as_deref(), Some("organization_unknown"));
    assert_eq!(attempts(&world, "event_of_a_group").await, 1);
    assert_eq!(world.any_row(Kind::Group, "group_1").await, None);
    assert_eq!(letters(&world).await, Vec::<Value>::new());
    assert_eq!(world.sim().requests().gets(Kind::Group), 0);
}

#[tokio::test]
async fn a_refused_key_pauses_asking_says_so_once_and_resumes_by_itself() {
    let mut world = impatient().start().await;
    world.sim().outage(Some(Failure::Status(401)));
    let mut events = Vec::new();
    for n in 0..20 {
        events.push(announced(&world, &format!("user{n}@example.com")).await.1);
    }
    let ready = format!("http://{}/readyz", world.worker(0).admin());
    world
        .eventually("the worker to say that it is not ready", async || {
            let said = world.http().get(&ready).send().await.ok()?.text().await.ok()?;
            said.contains("workos: WorkOS refuses the key").then_some(())
        })
        .await;
    let metrics = world.worker_metrics(0).await;
    let unwell = metrics.value("workos_sync_workos_unwell", &[("reason", "key_refused")]);
    assert!((unwell - 1.0).abs() < f64::EPSILON, "{unwell}");
    // What is in hand ends; from then on only probes are sent, and nothing is delivered in circles.
    let consumer = world.jetstream().get_stream_no_info("WORKOS_EVENTS").await.expect("the stream");
    let delivered = async || {
        let info = consumer.consumer_info("worker-test").await.expect("the consumer");
        info.delivered.consumer_sequence
    };
    let gets = world.sim().requests().all_gets();
    let (before, probes) = (delivered().await, world.sim().requests().lists(Kind::Organization));
    world
        .eventually("more probes", async || {
            (world.sim().requests().lists(Kind::Organization) >= probes + 2).then_some(())
        })
        .await;
    assert!(delivered().await <= before + 200, "delivered in circles");
    assert!(world.sim().requests().all_gets() <= gets + 20, "asked although the key is refused");
    world.sim().outage(None);
    world.settled().await;
    world.assert_in_step().await;
    for event in &events {
        assert_eq!(attempts(&world, event).await, 1);
    }
    assert_eq!(letters(&world).await, Vec::<Value>::new());
    let log = world.worker(0).logs();
    assert_eq!(log.matches("WorkOS refuses the key: nothing is asked").count(), 1, "said once");
    let well = world.http().get(&ready).send().await.expect("an answer");
    assert_eq!(well.status(), 200);
}

#[tokio::test]
async fn an_unavailable_database_uses_up_no_attempt() {
    let mut world = impatient().private_postgres().start().await;
    announced(&world, "ada@example.com").await;
    world.settled().await;
    world.postgres().kill().expect("Postgres dies");
    let (_, event) = announced(&world, "bob@example.com").await;
    world
        .eventually("a failed delivery", async || {
            let metrics = world.worker_metrics(0).await;
            (metrics.value("workos_sync_retries_total", &[("reason", "database_unavailable")]) > 0.0)
                .then_some(())
        })
        .await;
    log_says_why(&mut world, &event, "database_unavailable");
    world.postgres().start_again().await.expect("Postgres comes back");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(attempts(&world, &event).await, 1);
    assert_eq!(letters(&world).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_table_that_is_locked_for_long_makes_no_event_one_that_kills() {
    let mut world = impatient().env("SYNC_MAX_ATTEMPTS", "3").start().await;
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "ALTER DATABASE {} SET lock_timeout = '50ms'",
        world.pool().connect_options().get_database().expect("a database")
    )))
    .execute(world.pool())
    .await
    .expect("a short patience");
    world.kill_worker(0);
    world.start_worker_again(0).await;
    let mut lock = world.pool().begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE workos.users IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .expect("the lock");
    let (_, event) = announced(&world, "ada@example.com").await;
    // More often than an event that kills the worker is tried.
    world
        .eventually("many failed deliveries", async || {
            let metrics = world.worker_metrics(0).await;
            (metrics.value("workos_sync_retries_total", &[("reason", "database_unavailable")]) > 8.0)
                .then_some(())
        })
        .await;
    lock.rollback().await.expect("the lock is gone");
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(attempts(&world, &event).await, 1);
    assert_eq!(letters(&world).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_database_that_refuses_us_uses_up_no_attempt() {
    const ROLE: &str = "a_worker_that_is_refused";
    // The role is one of the whole server.
    let mut world = impatient().private_postgres().workers(0).start().await;
    for statement in [
        "CREATE ROLE a_worker_that_is_refused LOGIN",
        "GRANT USAGE ON SCHEMA workos, workos_sync TO a_worker_that_is_refused",
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA workos, workos_sync TO a_worker_that_is_refused",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA workos, workos_sync TO a_worker_that_is_refused",
    ] {
        sqlx::query(statement).execute(world.pool()).await.expect(statement);
    }
    let url = world.database_url_of(ROLE);
    world.start_worker_with(&[("DATABASE_URL", &url)]).await;
    for (n, taken, given, told) in [
        (
            0,
            "REVOKE USAGE ON SCHEMA workos_sync FROM a_worker_that_is_refused",
            "GRANT USAGE ON SCHEMA workos_sync TO a_worker_that_is_refused",
            "database: Postgres refuses us, SQLSTATE 42501",
        ),
        (
            1,
            "REVOKE INSERT ON workos.users FROM a_worker_that_is_refused",
            "GRANT INSERT ON workos.users TO a_worker_that_is_refused",
            "database: may not read and write workos.users",
        ),
        (
            2,
            "ALTER ROLE a_worker_that_is_refused NOLOGIN",
            "ALTER ROLE a_worker_that_is_refused LOGIN",
            "database: Postgres refuses us, SQLSTATE 28000",
        ),
        (
            3,
            "ALTER TABLE workos_sync.events RENAME TO moved",
            "ALTER TABLE workos_sync.moved RENAME TO events",
            "database: Postgres refuses us, SQLSTATE 42P01",
        ),
    ] {
        sqlx::query(taken).execute(world.pool()).await.expect(taken);
        if taken.contains("NOLOGIN") {
            // What is connected already was let in.
            sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1")
                .bind(ROLE)
                .execute(world.pool())
                .await
                .expect("an end of every session");
        }
        let (user, event) = announced(&world, &format!("user{n}@example.com")).await;
        world
            .eventually("the worker to say what is the matter", async || {
                let (status, said) = world.worker_says(0, "/readyz").await?;
                (status == 503 && said.contains(told)).then_some(())
            })
            .await;
        sqlx::query(given).execute(world.pool()).await.expect(given);
        world.settled().await;
        assert!(world.row(Kind::User, &user).await.is_some(), "{taken}");
        assert_eq!(attempts(&world, &event).await, 1, "{taken}");
        world
            .eventually("the worker to be ready again", async || {
                (world.worker_says(0, "/readyz").await?.0 == 200).then_some(())
            })
            .await;
    }
    assert_eq!(letters(&world).await, Vec::<Value>::new());

    // A policy of the application about a row has the same SQLSTATE as rights that are missing, and is about the row.
    for statement in [
        "ALTER TABLE workos.users ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY no_eve ON workos.users USING (true) WITH CHECK (email <> 'eve@example.com')",
    ] {
        sqlx::query(statement).execute(world.pool()).await.expect(statement);
    }
    let (_, event) = announced(&world, "eve@example.com").await;
    dies(&mut world, &event, "row_refused", "42501").await;
}

#[tokio::test]
async fn what_a_trigger_of_the_application_lacks_is_a_refused_row() {
    let mut world = impatient().start().await;
    for statement in [
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO nowhere VALUES (1); END'",
        "CREATE TRIGGER broken BEFORE INSERT ON workos.users FOR EACH ROW EXECUTE FUNCTION broken()",
    ] {
        sqlx::query(statement).execute(world.pool()).await.expect(statement);
    }
    let (_, event) = announced(&world, "ada@example.com").await;
    dies(&mut world, &event, "row_refused", "42P01").await;
    assert_eq!(attempts(&world, &event).await, ATTEMPTS);
}

#[tokio::test]
async fn attempts_and_first_seen_survive_a_restart() {
    let mut world = impatient().env("SYNC_MAX_ATTEMPTS", "4").start().await;
    let user = world.sim().user("ada@example.com");
    world.sim().fail_next(Kind::User, &user, 100, Failure::Status(500));
    let event = world.sim().last_event(Kind::User, &user).expect("an event").id;
    world.sim().post(&event).await.expect("a delivery");
    world.eventually("an attempt", async || (attempts(&world, &event).await > 0).then_some(())).await;
    world.kill_worker(0);
    let before = attempts(&world, &event).await;
    world.start_worker_again(0).await;
    let letter = {
        world
            .eventually("a dead event", async || {
                (outcome(&world, &event).await.as_deref() == Some("dead")).then_some(())
            })
            .await;
        letters(&world).await.remove(0)
    };
    assert!(before >= 1);
    assert_eq!(letter["attempts"], 4, "{before} of them before the restart");
    assert_eq!(letter["first_seen"], letter["event"]["received_at"]);
}

/// What was settled at its second delivery, for no fault of its own: what is to be seen of the first.
async fn came_again(world: &mut World, event: &str, class: &str) {
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(outcome(world, event).await.as_deref(), Some("applied"));
    assert_eq!(attempts(world, event).await, 1, "only the one that succeeded was used up");
    assert_eq!(letters(world).await, Vec::<Value>::new());
    let metrics = world.worker_metrics(0).await;
    let retries = metrics.value("workos_sync_retries_total", &[("reason", class)]);
    assert!((retries - 1.0).abs() < f64::EPSILON, "{retries} retries were counted");
    let log = world.worker(0).logs();
    assert!(!log.contains("ERROR"), "nobody need look: {log}");
}

#[tokio::test]
async fn a_first_404_uses_up_no_attempt_and_is_asked_again() {
    let mut world = impatient().env("SYNC_MAX_ATTEMPTS", "1").start().await;
    let ada = world.sim().user("ada@example.com");
    world.sim().fail_next(Kind::User, &ada, 1, Failure::Status(404));
    let event = world.sim().last_event(Kind::User, &ada).expect("an event").id;
    world.sim().post(&event).await.expect("a delivery");
    world
        .eventually("a first answer in the ledger", async || {
            (reason(&world, &event).await.as_deref() == Some("unconfirmed")).then_some(())
        })
        .await;
    assert_eq!((outcome(&world, &event).await, attempts(&world, &event).await), (None, 0));
    assert_eq!(world.any_row(Kind::User, &ada).await, None, "one answer is not enough for a tombstone");
    came_again(&mut world, &event, "unconfirmed").await;
}

#[tokio::test]
async fn what_hangs_on_an_object_that_could_not_be_had_waits_and_uses_up_no_attempt() {
    let mut world = impatient().env("SYNC_MAX_ATTEMPTS", "1").start().await;
    let (ada, acme) = (world.sim().user("ada@example.com"), world.sim().organization("Acme"));
    let member = world.sim().membership(&ada, &acme);
    world.sim().fail_next(Kind::User, &ada, 1, Failure::Status(404));
    let event = world.sim().last_event(Kind::OrganizationMembership, &member).expect("an event").id;
    world.sim().post(&event).await.expect("a delivery");
    let waits = format!("parent_waits user/{ada}");
    world
        .eventually("the parent's name in the ledger", async || {
            (reason(&world, &event).await == Some(waits.clone())).then_some(())
        })
        .await;
    assert_eq!((outcome(&world, &event).await, attempts(&world, &event).await), (None, 0));
    assert_eq!(world.any_row(Kind::OrganizationMembership, &member).await, None);
    came_again(&mut world, &event, "parent_waits").await;
}

/// The story of each class.
const STORIES: [(&str, &str); 17] = [
    ("rate_limited", "a_rate_limit_uses_up_no_attempt"),
    ("server_fault", "a_server_fault_about_one_object_uses_up_its_attempts"),
    ("unreachable", "a_connection_that_breaks_for_one_object_uses_up_its_attempts"),
    ("timed_out", "an_object_that_never_answers_in_time_uses_up_its_attempts"),
    ("key_refused", "a_refused_key_pauses_asking_says_so_once_and_resumes_by_itself"),
    ("forbidden", "a_question_that_the_key_is_refused_for_alone_uses_up_its_attempts"),
    ("not_understood", "an_answer_that_is_not_understood_uses_up_attempts"),
    ("stale_read", "answers_that_stay_older_than_the_event_use_up_its_attempts"),
    ("unconfirmed", "a_first_404_uses_up_no_attempt_and_is_asked_again"),
    ("parent_waits", "what_hangs_on_an_object_that_could_not_be_had_waits_and_uses_up_no_attempt"),
    ("database_unavailable", "an_unavailable_database_uses_up_no_attempt"),
    ("row_refused", "a_row_that_postgres_refuses_uses_up_attempts_and_tells_no_value"),
    ("malformed", "an_event_that_names_no_object_dies_at_once"),
    ("crash", "an_event_that_kills_the_worker_becomes_a_dead_letter_and_its_neighbours_live"),
    ("awaits_list", "a_burst_of_a_directory_costs_a_list_and_equals_single_questions"),
    ("cannot_ask", "what_cannot_be_asked_for_is_ignored_and_says_why"),
    ("later_version", "a_kind_of_a_later_version_uses_up_no_attempt"),
];

#[tokio::test]
async fn every_failure_class_has_a_story() {
    // The classes, as the command knows them: it refuses another one and lists those there are.
    let world = World::builder().without_programs().start().await;
    let refused = world.worker_command(&["dlq", "list", "--reason", "mood"]).await;
    let (_, listed) = refused.stderr.split_once("possible values: ").expect("the classes");
    let (listed, _) = listed.split_once(']').expect("the end of the list");
    let classes: Vec<&str> = listed.split(", ").collect();
    assert_eq!(
        classes,
        STORIES.map(|(class, _)| class),
        "a class without a story, or a story without a class"
    );
    let told = concat!(
        include_str!("failures.rs"),
        include_str!("dead_letters.rs"),
        include_str!("directory_burst.rs")
    );
    for (class, story) in STORIES {
        assert!(told.contains(&format!("async fn {story}()")), "the story of {class} is gone");
    }
}
