//! What an operator watches: the metrics behind the alert rules and the board.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::id::Kind;
use support::sim::Failure;
use support::world::World;

use crate::main_path::by_hand;

const ALERTS: &str = include_str!("../../../deploy/alerts.yaml");
const BOARD: &str = include_str!("../../../deploy/dashboard.json");

#[tokio::test]
async fn the_oldest_event_that_waits_has_its_age_shown() {
    let world = World::builder().knobs(by_hand()).start().await;
    let oldest = async || world.worker_metrics(0).await.value("workos_sync_oldest_pending_seconds", &[]);
    let ada = world.sim().user("ada@example.com");
    // For as long as it takes: a question that is only held is given up after as long as one look is from the next.
    world.sim().outage(Some(Failure::Status(503)));
    world
        .sim()
        .post(&world.sim().last_event(Kind::User, &ada).expect("an event").id)
        .await
        .expect("a delivery");
    world.eventually("an event that waits", async || (oldest().await > 0.0).then_some(())).await;
    let told = world.worker_command(&["status", "--format", "json"]).await.success().expect("a status");
    let status: Value = serde_json::from_str(&told).expect("JSON");
    assert!(status["broker"]["oldest_pending_at"].is_string(), "{told}");
    world.sim().outage(None);
    world.settled().await;
    world.eventually("nothing to wait", async || (oldest().await == 0.0).then_some(())).await;
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    text.match_indices("workos_sync_")
        .map(|(start, _)| {
            let rest = &text[start..];
            &rest[..rest.find(|c: char| c != '_' && !c.is_ascii_lowercase()).unwrap_or(rest.len())]
        })
        .collect()
}

#[test]
fn the_board_is_plain_and_looks_at_one_prometheus() {
    let board: Value = serde_json::from_str(BOARD).expect("JSON");
    let variables = board["templating"]["list"].as_array().expect("variables");
    assert_eq!(variables.len(), 1, "one variable");
    assert_eq!((&variables[0]["type"], &variables[0]["query"]), (&json!("datasource"), &json!("prometheus")));
    let panels = board["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().filter_map(|panel| panel["id"].as_i64()).collect();
    assert_eq!(ids.len(), panels.len(), "each has an id of its own");
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().expect("questions");
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(target["expr"].as_str().is_some_and(|expr| !named(expr).is_empty()), "{title}");
        }
    }
}

#[tokio::test]
async fn alerts_and_board_name_only_metrics_that_there_are() {
    // Everything that is counted by label happens once, so that it is shown.
    let world =
        World::builder().env("SYNC_TAIL_INTERVAL", "300ms").env("SYNC_VERIFY_INTERVAL", "1s").start().await;
    world.sim().user("ada@example.com");
    world.sim().emit("planet.discovered", json!({"id": "planet_1"}));
    world.sim().emit("user.updated", json!({"email": "nobody@example.com"}));
    world.settled().await;
    world.sim().outage(Some(Failure::Status(401)));
    world.sim().user("bob@example.com");
    let board = named(BOARD);
    let mut unseen: BTreeSet<&str> = named(ALERTS).union(&board).copied().collect();
    assert!(unseen.len() > 20, "{unseen:?}");
    let started = Instant::now();
    // Some are there only while something is the matter, so they are looked for more than once.
    while !unseen.is_empty() {
        let programs = [world.worker_metrics(0).await, world.ingest_metrics(0).await];
        unseen.retain(|name| {
            // A sentence for people calls a histogram by the name that its parts begin with.
            let parts = format!("{name}_count");
            let has = |name: &str| programs.iter().any(|metrics| metrics.has(name));
            !has(name) && (board.contains(name) || !has(&parts))
        });
        assert!(started.elapsed() < Duration::from_mins(1), "there are no such metrics: {unseen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.sim().outage(None);
    world.settled().await;
}
