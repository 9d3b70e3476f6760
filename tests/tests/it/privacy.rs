//! Secrets never leave, and people's data stays out of broker, logs and metrics.

use std::fmt::Write as _;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use shared::catalogue::ENTRIES;
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
    messages_of(world, "WORKOS_EVENTS").await
}

/// Every message of a stream, headers included, as text.
async fn messages_of(world: &World, stream: &str) -> String {
    let stream = world.jetstream().get_stream(stream).await.expect("the stream");
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

/// What WorkOS documents as secret, in payloads and answers, whatever object it is a field of.
const SECRETS: [&str; 9] = [
    "verification_token",
    "token",
    "accept_invitation_url",
    "code",
    "secret",
    "password_reset_token",
    "password_reset_url",
    "value",
    "client_secret",
];

/// The same object with a marker in every secret field.
fn marked(mut object: Value) -> Value {
    let fields = object.as_object_mut().expect("an object");
    for nested in fields.values_mut().filter(|value| value.is_object()) {
        // What a payload is about may stand one step down.
        if nested.get("id").is_some() {
            *nested = marked(nested.take());
        }
    }
    for secret in SECRETS {
        fields.insert(secret.to_owned(), "MARKER-SECRET".into());
    }
    object
}

#[tokio::test]
async fn no_field_that_is_documented_as_secret_reaches_anything_of_ours() {
    let mut world = World::builder().env("RUST_LOG", "trace").env("SYNC_MAX_ATTEMPTS", "2").start().await;
    let sim = world.sim();
    let mut made = Vec::new();
    for kind in Kind::ALL {
        let key = sim.make(kind, false);
        for secret in SECRETS {
            let deeper = json!({"deeper": [{secret: "MARKER-SECRET"}], secret: "MARKER-SECRET"});
            sim.silently_update(kind, &key, json!({secret: "MARKER-SECRET"}), false);
            sim.silently_update(kind, &key, json!({format!("new_{secret}"): deeper}), false);
        }
        made.push((kind, key));
    }
    for entry in ENTRIES {
        let data = match entry.kind {
            Some(kind) => {
                let (_, key) = made.iter().find(|(of, _)| *of == kind).expect("it was made");
                sim.tell(entry.event_type, kind, key).expect("it is there");
                sim.events().pop().expect("an event").data
            }
            None => crate::every_event::fixture(entry.event_type),
        };
        sim.emit(entry.event_type, marked(data));
    }
    // One of them is set aside.
    sim.emit("invitation.created", marked(json!({"object": "invitation"})));
    world.settled().await;
    for (kind, key) in &made {
        let synced = world.worker_command(&["sync", kind.name(), key]).await;
        assert!(!synced.stdout.contains("MARKER") && !synced.stderr.contains("MARKER"), "{kind}");
    }
    let (kind, key) = &made[0];
    let url = format!("{}/sync/{kind}/{key}?wait=5s", world.ingest_url(0));
    let request = world.http().post(url).bearer_auth(support::world::SYNC_TOKEN);
    request.send().await.expect("an answer");
    world.settled().await;

    let mut shown = dump(&world).await;
    assert!(shown.len() > 10_000, "the database was read");
    for stream in ["WORKOS_EVENTS", "WORKOS_SYNC", "WORKOS_DLQ"] {
        let messages = messages_of(&world, stream).await;
        assert!(!messages.is_empty(), "{stream} was read");
        shown.push_str(&messages);
    }
    for url in [
        format!("http://{}/metrics", world.worker(0).admin()),
        format!("http://{}/metrics", world.ingest(0).admin()),
    ] {
        shown.push_str(&world.http().get(url).send().await.expect("metrics").text().await.expect("text"));
    }
    shown.push_str(&world.worker(0).logs());
    shown.push_str(&world.ingest(0).logs());
    let places: Vec<&str> = shown.lines().filter(|line| line.contains("MARKER-SECRET")).take(3).collect();
    assert!(places.is_empty(), "a secret was told: {places:#?}");
}
