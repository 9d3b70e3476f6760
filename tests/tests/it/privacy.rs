//! Secrets never leave, and people's data stays out of broker, logs and metrics.

use std::fmt::Write as _;

use futures_util::StreamExt as _;
use serde_json::json;
use shared::id::Kind;
use support::world::World;

/// Everything a database holds, as text.
async fn dump(world: &World) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('workos', 'workos_sync')",
    )
    .fetch_all(world.pool())
    .await
    .expect("the tables");
    let mut text = String::new();
    for table in tables {
        let sql = format!("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM {table} t");
        let rows: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(world.pool()).await.expect("the rows");
        text.push_str(&rows);
    }
    text
}

/// Every message of the event stream, headers included, as text.
async fn messages(world: &World) -> String {
    let stream = world.jetstream().get_stream("WORKOS_EVENTS").await.expect("the stream");
    let last = stream.cached_info().state.last_sequence;
    let mut text = String::new();
    let mut sequences = futures_util::stream::iter(1..=last);
    while let Some(sequence) = sequences.next().await {
        let message = stream.get_raw_message(sequence).await.expect("the message");
        let payload = String::from_utf8_lossy(&message.payload);
        writeln!(text, "{} {:?} {payload}", message.subject, message.headers).expect("a String takes it");
    }
    text
}

#[tokio::test]
async fn secrets_and_personal_data_stay_where_they_belong() {
    let mut world = World::builder().env("RUST_LOG", "trace").start().await;
    let sim = world.sim();
    let ada = sim.user("marker-email@example.com");
    sim.update(
        Kind::User,
        &ada,
        json!({"first_name": "MARKER-FIRST", "last_name": "MARKER-LAST", "profile_picture_url": "https://x.example/MARKER-PICTURE"}),
    );
    let acme = sim.organization("Acme");
    let domain = sim.domain(&acme, "acme.example");
    sim.update(
        Kind::OrganizationDomain,
        &domain,
        json!({"verification_token": "MARKER-TOKEN", "state": "pending"}),
    );
    sim.membership(&ada, &acme);
    world.settled().await;

    let database = dump(&world).await;
    assert!(database.contains("MARKER-FIRST"), "the marker is where it belongs");
    assert!(!database.contains("MARKER-TOKEN"), "a secret reached the database");
    let personal = ["marker-email", "MARKER-FIRST", "MARKER-LAST", "MARKER-PICTURE"];
    let audit: String =
        sqlx::query_scalar("SELECT string_agg(changes::text, ' ') FROM workos_sync.audit_log")
            .fetch_one(world.pool())
            .await
            .expect("the audit log");
    let broker = messages(&world).await;
    assert!(broker.contains(&ada), "the messages were read");
    let mut shown = String::new();
    for url in [
        format!("http://{}/metrics", world.worker(0).admin()),
        format!("http://{}/metrics", world.ingest(0).admin()),
    ] {
        shown.push_str(&world.http().get(url).send().await.expect("metrics").text().await.expect("text"));
    }
    let logs = world.worker(0).logs() + &world.ingest(0).logs();
    assert!(logs.len() > 1_000, "the logs were read");
    for marker in personal.iter().chain(&["MARKER-TOKEN"]) {
        for (place, text) in
            [("audit log", &audit), ("broker", &broker), ("metrics", &shown), ("logs", &logs)]
        {
            assert!(!text.contains(marker), "{marker} reached the {place}");
        }
    }
    for secret in [support::world::WEBHOOK_SECRET, world.sim().api_key()] {
        assert!(!logs.contains(secret) && !shown.contains(secret), "a secret of ours was told");
    }
    assert!(!shown.contains(&ada), "an id is a label");
}

#[tokio::test]
async fn the_audit_log_keeps_personal_values_only_when_told() {
    let world = World::builder().env("SYNC_AUDIT_PII", "keep").start().await;
    let ada = world.sim().user("ada@example.com");
    world.settled().await;
    let audits = crate::ledger::audits(&world, &ada).await;
    assert_eq!(audits[0].changes["email"]["new"], "ada@example.com");
}
