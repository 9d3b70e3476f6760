//! Everything that WorkOS has, listed and written: once, in order, and never less than everything.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use shared::id::Kind;
use support::sim::{Company, Failure, Knobs, RateLimit};
use support::world::World;

use crate::ledger::audits;

const COMPANY: Company = Company {
    users: 250,
    organizations: 60,
    domains_per_organization: 2,
    memberships_per_user: 1,
    announce: false,
};

/// The kinds whose requests are counted.
const COMPANY_ONLY: [&str; 3] =
    ["backfill", "--only", "users,organizations,organization_domains,organization_memberships"];

/// Requests without which nobody can list it all: pages of users and organizations, a list per organization.
fn fewest_requests(world: &World) -> u64 {
    let count = |kind| world.sim().count(kind) as u64;
    let organizations = count(Kind::Organization);
    count(Kind::User).div_ceil(100) + organizations.div_ceil(100) + organizations
}

fn lists(world: &World) -> u64 {
    let requests = world.sim().requests();
    Kind::ALL.into_iter().map(|kind| requests.lists(kind)).sum()
}

async fn live(world: &World, table: &str) -> i64 {
    let statement = format!("SELECT count(*) FROM workos.{table}_live");
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(world.pool()).await.expect("a count")
}

#[tokio::test]
async fn a_first_backfill_asks_for_every_page_once_and_for_nothing_else() {
    let world = World::builder().without_programs().start().await;
    world.sim().seed(&COMPANY);
    let ended = world.worker_command(&COMPANY_ONLY).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    world.assert_in_step().await;
    assert_eq!(world.sim().requests().total(), fewest_requests(&world));
    let row = ended.stdout.lines().find(|line| line.starts_with("users ")).expect("a line about users");
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["users", "250", "250", "0", "0", "0"]);
    let channel = &audits(&world, &world.sim().ever(Kind::User)[0]).await[0].channel;
    assert_eq!(channel, "backfill");

    let again = world.worker_command(&COMPANY_ONLY).await;
    assert_eq!(again.code(), Some(0), "{}", again.stderr);
    // One more, about a row of the mirror: whether the key is still of this environment.
    assert_eq!(world.sim().requests().total(), 2 * fewest_requests(&world) + 1);
    let changes: i64 = sqlx::query_scalar("SELECT count(*) FROM workos_sync.audit_log")
        .fetch_one(world.pool())
        .await
        .expect("a count");
    assert_eq!(changes, 250 + 60 + 120 + 250, "twice is the same as once");
}

#[tokio::test]
async fn beside_webhooks_within_the_limits_and_killed_it_goes_on_and_asks_for_little_twice() {
    // The published limits, in windows of a tenth.
    let limit = |prefix: &str, requests, window_ms| RateLimit {
        path_prefix: prefix.to_owned(),
        requests,
        window_ms,
        per_directory: false,
    };
    let knobs = Knobs {
        rate_limits: vec![limit("/", 600, 6_000), limit("/user_management/", 100, 1_000)],
        latency_ms: (5, 20),
        ..Knobs::default()
    };
    let world = World::builder()
        .knobs(knobs)
        .env("SYNC_RATE_LIMIT", "25/s")
        .env("SYNC_FETCH_CONCURRENCY", "3")
        .start()
        .await;
    let sim = world.sim();
    sim.seed(&Company { users: 650, organizations: 150, ..COMPANY });
    let (users, organizations) = (sim.ever(Kind::User), sim.ever(Kind::Organization));

    let mut running = world.start_worker_command(&COMPANY_ONLY, &[]);
    let change = |n: usize| {
        let user = &users[n * 7 % users.len()];
        match n % 5 {
            0 => drop(sim.user(&format!("new{n}@example.com"))),
            1 => drop(sim.membership(user, &organizations[n % organizations.len()])),
            2 => drop(sim.delete(Kind::User, user)),
            _ => drop(sim.update(Kind::User, user, json!({"first_name": format!("Name {n}")}))),
        }
    };
    let mut changes = 0;
    world
        .eventually("half of the lists", async || {
            if changes < 60 {
                change(changes);
                changes += 1;
            }
            (sim.requests().lists(Kind::OrganizationMembership) >= 75).then_some(())
        })
        .await;
    running.kill().expect("it dies");
    let resumed = world.start_worker_command(&COMPANY_ONLY, &[]);
    for n in changes..changes + 20 {
        change(n);
    }
    let ended = world.finish(resumed).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("going on with a backfill"), "{}", ended.stderr);
    world.settled().await;
    world.assert_in_step().await;
    let (asked, fewest) = (lists(&world), fewest_requests(&world));
    assert!(asked * 100 <= fewest * 105, "{asked} pages were asked for, {fewest} would do");
}

#[tokio::test]
async fn a_list_that_fails_on_page_7_of_20_deletes_nothing_and_goes_on_there() {
    let world = World::builder().without_programs().start().await;
    let sim = world.sim();
    sim.seed(&Company { users: 2_000, ..Company::default() });
    let first = world.worker_command(&["backfill"]).await;
    assert_eq!(first.code(), Some(0), "{}", first.stderr);
    assert!(first.stderr.contains("--only sessions"), "{}", first.stderr);
    assert_eq!(sim.requests().lists(Kind::Session), 0, "not a request for each user");
    let users = sim.ever(Kind::User);
    for place in [3, 650, 1_999] {
        sim.silently_delete(Kind::User, &users[place]);
    }
    sim.reset_counters();

    sim.fail_page(Kind::User, 7, 100, Failure::Status(422));
    let failed = world.worker_command(&["backfill", "--only", "users"]).await;
    assert_eq!(failed.code(), Some(3), "{}", failed.stderr);
    assert!(
        failed.stderr.contains("the list of users cannot be read (server_fault 422)"),
        "{}",
        failed.stderr
    );
    assert_eq!(live(&world, "users").await, 2_000);
    assert_eq!(sim.requests().all_gets(), 1, "the key was tried, nothing was under suspicion");

    sim.clear_scripts();
    sim.reset_counters();
    let ended = world.worker_command(&["backfill", "--only", "users"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(sim.requests().lists(Kind::User), 14);
    assert_eq!(
        sim.requests().gets(Kind::User),
        7,
        "the key was tried, each of the three was asked for twice"
    );
    world.assert_in_step().await;

    sim.reset_counters();
    sim.fail_page(Kind::User, 7, 100, Failure::Garbage);
    let failed = world.worker_command(&["backfill", "--only", "users"]).await;
    assert_eq!(failed.code(), Some(3), "{}", failed.stderr);
    sim.clear_scripts();
    sim.reset_counters();
    let restarted = world.worker_command(&["backfill", "--only", "users", "--restart"]).await;
    assert_eq!(restarted.code(), Some(0), "{}", restarted.stderr);
    assert_eq!(sim.requests().lists(Kind::User), 20);
}

#[tokio::test]
async fn what_was_written_meanwhile_is_not_taken_to_be_deleted_and_what_the_application_added_stays() {
    let world = World::builder().without_programs().start().await;
    let sim = world.sim();
    // One page, so that what is made after it was asked for is on none.
    sim.seed(&Company { users: 90, ..COMPANY });
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    for statement in [
        "ALTER TABLE workos.users ADD COLUMN favourite_colour text",
        "UPDATE workos.users SET favourite_colour = 'green'",
        "UPDATE workos.profiles SET bio = 'I count.'",
    ] {
        sqlx::query(statement).execute(world.pool()).await.expect(statement);
    }
    let (gone, renamed) = (sim.ever(Kind::User)[7].clone(), sim.ever(Kind::User)[8].clone());
    sim.silently_delete(Kind::User, &gone);
    sim.silently_update(Kind::User, &renamed, json!({"first_name": "Augusta"}), true);

    let hold = sim.hold_list(Kind::User);
    let running = world.start_worker_command(&["backfill"], &[]);
    hold.reached().await;
    let late = sim.silently_create(Kind::User, json!({"email": "late@example.com"}));
    let synced = world.worker_command(&["sync", "user", &late]).await;
    assert_eq!(synced.code(), Some(0), "{}", synced.stderr);
    sim.silently_update(Kind::User, &late, json!({"first_name": "Later"}), true);
    hold.release();
    let ended = world.finish(running).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);

    assert!(world.row(Kind::User, &late).await.is_some());
    assert_eq!(sim.asked(Kind::User, &late), 1, "it was not under suspicion");
    let tombstone = world.any_row(Kind::User, &gone).await.expect("a tombstone, not a hole");
    assert!(!tombstone["_deleted_at"].is_null());
    assert_eq!(tombstone["favourite_colour"], "green");
    let membership = sim.versions(Kind::OrganizationMembership, &sim.ever(Kind::OrganizationMembership)[7]);
    assert!(membership.last().is_some_and(|version| version.object.is_none()), "it went with its user");
    let row = world.row(Kind::User, &renamed).await.expect("a row");
    assert_eq!((&row["first_name"], &row["favourite_colour"]), (&json!("Augusta"), &json!("green")));
    let bios: i64 = sqlx::query_scalar("SELECT count(*) FROM workos.profiles WHERE bio = 'I count.'")
        .fetch_one(world.pool())
        .await
        .expect("a count");
    assert_eq!(bios, 90);
    assert_eq!(world.worker_command(&["backfill", "--only", "users"]).await.code(), Some(0));
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_deletion_event_is_believed_for_a_while_and_then_a_list_that_shows_the_object() {
    let world = World::start().await;
    let sim = world.sim();
    let (ada, acme) = (sim.user("ada@example.com"), sim.organization("Acme"));
    let membership = sim.membership(&ada, &acme);
    world.settled().await;
    let (user, member) = (
        sim.get(Kind::User, &ada).expect("a user"),
        sim.get(Kind::OrganizationMembership, &membership).expect("a membership"),
    );
    sim.delete(Kind::User, &ada);
    world.settled().await;
    assert!(world.row(Kind::User, &ada).await.is_none());

    sim.silently_create(Kind::User, user);
    sim.silently_create(Kind::OrganizationMembership, member);
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    assert!(world.row(Kind::User, &ada).await.is_none(), "an answer shortly after does not revive it");

    sqlx::query("UPDATE workos_sync.objects SET deleted_at = deleted_at - interval '11 minutes'")
        .execute(world.pool())
        .await
        .expect("time passes");
    let ended = world.worker_command(&["backfill"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    world.assert_in_step().await;
    let last = audits(&world, &ada).await.pop().expect("an audit");
    assert_eq!((last.action.as_str(), last.channel.as_str()), ("revived", "backfill"));
}

#[tokio::test]
async fn it_stops_politely_and_only_one_runs_at_a_time() {
    let world = World::builder().without_programs().start().await;
    let sim = world.sim();
    sim.seed(&COMPANY);
    let hold = sim.hold_list(Kind::User);
    let mut running = world.start_worker_command(&["backfill"], &[]);
    hold.reached().await;
    let second = world.worker_command(&["backfill"]).await;
    assert_eq!(second.code(), Some(3), "{}", second.stderr);
    assert!(second.stderr.contains("another one is running"), "{}", second.stderr);

    running.signal(Signal::SIGTERM).expect("a signal");
    let stopped = world.finish(running).await;
    assert_eq!(stopped.code(), Some(1), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("run it again"), "{}", stopped.stderr);
    hold.release();
    let ended = world.worker_command(&["backfill"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    world.assert_in_step().await;
    assert_eq!(sim.requests().lists(Kind::Organization), 1, "organizations were done");
}

#[tokio::test]
async fn trouble_on_the_way_is_waited_out_and_a_refused_key_is_not() {
    let knobs = Knobs {
        too_many: 0.1,
        too_many_bare: 0.1,
        server_error: 0.1,
        reset: 0.1,
        stale_list: 0.2,
        ..Knobs::default()
    };
    let world = World::builder().without_programs().knobs(knobs).start().await;
    let sim = world.sim();
    sim.outage(Some(Failure::Status(401)));
    sim.seed(&COMPANY);
    let refused = world.worker_command(&COMPANY_ONLY).await;
    assert_eq!(refused.code(), Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("WORKOS_API_KEY"), "{}", refused.stderr);

    sim.outage(Some(Failure::Status(503)));
    let running = world.start_worker_command(&COMPANY_ONLY, &[]);
    world.eventually("failed requests", async || (sim.requests().with_status(503) > 3).then_some(())).await;
    sim.outage(None);
    let ended = world.finish(running).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    // A list may have been a moment old; the next backfill is of a quiet WorkOS.
    tokio::time::sleep(Duration::from_millis(sim.knobs().stale_window_ms)).await;
    sim.set_knobs(Knobs::default());
    assert_eq!(world.worker_command(&COMPANY_ONLY).await.code(), Some(0));
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_key_of_another_environment_deletes_nothing() {
    let world = World::builder().without_programs().start().await;
    let sim = world.sim();
    let users: Vec<String> = (0..8).map(|number| sim.user(&format!("user{number}@example.com"))).collect();
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    for user in &users {
        sim.silently_delete(Kind::User, user);
    }
    sim.user("eve@example.com");
    for command in [&["backfill"][..], &["verify", "--repair"]] {
        let refused = world.worker_command(command).await;
        assert_eq!(refused.code(), Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains("WORKOS_ENV"), "{}", refused.stderr);
        assert!(world.row(Kind::User, &users[0]).await.is_some());
    }
    let told = world.worker_command(&["backfill", "--even-if-all-is-gone"]).await;
    assert_eq!(told.code(), Some(0), "{}", told.stderr);
    world.assert_in_step().await;
}

#[tokio::test]
async fn beyond_a_thousand_users_keys_of_organizations_are_listed_and_those_of_users_only_by_name() {
    let world = World::builder().without_programs().start().await;
    world.sim().seed(&Company { users: 1_001, organizations: 2, memberships_per_user: 0, ..COMPANY });
    let sim = world.sim();
    let key = |of_type: &str, owner: &String| {
        sim.silently_create(Kind::ApiKey, json!({"owner": {"type": of_type, "id": owner}}))
    };
    let of_acme = key("organization", &sim.ever(Kind::Organization)[0]);
    let of_ada = key("user", &sim.ever(Kind::User)[0]);
    let ended = world.worker_command(&["backfill"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("api_keys of users are left out"), "{}", ended.stderr);
    assert!(world.row(Kind::ApiKey, &of_acme).await.is_some());
    assert!(world.row(Kind::ApiKey, &of_ada).await.is_none());

    assert_eq!(world.worker_command(&["backfill", "--only", "api_keys"]).await.code(), Some(0));
    assert!(world.row(Kind::ApiKey, &of_ada).await.is_some());
    // WorkOS told nobody. What the mirror has is looked at, whoever owns it.
    for gone in [&of_acme, &of_ada] {
        sim.silently_delete(Kind::ApiKey, gone);
    }
    let verified = world.worker_command(&["verify", "--repair"]).await;
    assert_eq!(verified.code(), Some(0), "{}", verified.stderr);
    assert!(world.row(Kind::ApiKey, &of_acme).await.is_none());
    assert!(world.row(Kind::ApiKey, &of_ada).await.is_none());
}
