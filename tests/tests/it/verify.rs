//! Whether the mirror is in step, row by row: exactly what is not, and nothing that is only on its way.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shared::id::Kind;
use support::services::Finished;
use support::sim::{Company, Failure};
use support::world::World;

use crate::ledger::audits;
use crate::main_path::by_hand;

const COMPANY: Company = Company {
    users: 120,
    organizations: 6,
    domains_per_organization: 1,
    memberships_per_user: 1,
    announce: false,
};

async fn mirrored() -> World {
    let world = World::builder().without_programs().start().await;
    world.sim().seed(&COMPANY);
    let ended = world.worker_command(&["backfill"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    world
}

/// A change of the mirror behind everybody's back.
async fn plant(world: &World, statement: &'static str, id: &str) {
    let planted = sqlx::query(statement).bind(id).execute(world.pool()).await.expect(statement);
    assert_eq!(planted.rows_affected(), 1, "{statement}");
}

fn report(ended: &Finished) -> Value {
    serde_json::from_str(&ended.stdout).expect("a JSON object")
}

/// Drift as `kind id drift columns`.
fn drifts(report: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |drift: &Value| {
        let columns: Vec<String> = drift["columns"].as_array().into_iter().flatten().map(text).collect();
        format!(
            "{} {} {} {}",
            text(&drift["kind"]),
            text(&drift["id"]),
            text(&drift["drift"]),
            columns.join(",")
        )
        .trim_end()
        .to_owned()
    };
    report["drift"].as_array().into_iter().flatten().map(line).collect()
}

#[tokio::test]
async fn planted_drift_is_found_exactly_and_repaired() {
    let world = mirrored().await;
    let sim = world.sim();
    let in_step = world.worker_command(&["verify", "--format", "json"]).await;
    assert_eq!(in_step.code(), Some(0), "{}", in_step.stderr);
    assert_eq!(report(&in_step)["tables"]["users"]["in_step"], 120);
    assert_eq!(sim.requests().all_gets(), 0, "nothing was under suspicion");

    let (users, members) = (sim.ever(Kind::User), sim.ever(Kind::OrganizationMembership));
    let (organizations, domains) = (sim.ever(Kind::Organization), sim.ever(Kind::OrganizationDomain));
    let mut expected = BTreeSet::new();
    for (kind, id, statement, columns) in [
        ("user", &users[0], "UPDATE workos.users SET email = 'x@example.com' WHERE id = $1", "email"),
        ("user", &users[1], "UPDATE workos.users SET first_name = NULL WHERE id = $1", "first_name"),
        (
            "user",
            &users[2],
            "UPDATE workos.users SET email_verified = NOT email_verified WHERE id = $1",
            "email_verified",
        ),
        ("user", &users[3], "UPDATE workos.users SET metadata = '{\"a\": \"b\"}' WHERE id = $1", "metadata"),
        ("user", &users[4], "UPDATE workos.users SET created_at = now() WHERE id = $1", "created_at"),
        ("user", &users[5], "UPDATE workos.users SET _raw = '{}' WHERE id = $1", "_raw"),
        ("user", &users[6], "UPDATE workos.profiles SET last_name = 'X' WHERE id = $1", "profiles.last_name"),
        ("user", &users[7], "DELETE FROM workos.profiles WHERE id = $1", "profiles"),
        (
            "organization",
            &organizations[0],
            "UPDATE workos.organizations SET name = 'X' WHERE id = $1",
            "name",
        ),
        (
            "organization_domain",
            &domains[1],
            "UPDATE workos.organization_domains SET state = 'x' WHERE id = $1",
            "state",
        ),
        (
            "organization_membership",
            &members[0],
            "UPDATE workos.organization_memberships SET role_slugs = '{x,y}' WHERE id = $1",
            "role_slugs",
        ),
        (
            "organization_membership",
            &members[1],
            "UPDATE workos.organization_memberships SET organization_name = 'X' WHERE id = $1",
            "organization_name",
        ),
    ] {
        plant(&world, statement, id).await;
        expected.insert(format!("{kind} {id} different {columns}"));
    }
    plant(&world, "DELETE FROM workos.organization_memberships WHERE id = $1", &members[2]).await;
    expected.insert(format!("organization_membership {} missing", members[2]));
    plant(&world, "UPDATE workos.users SET _deleted_at = now() WHERE id = $1", &users[8]).await;
    expected.insert(format!("user {} missing", users[8]));
    let unheard = sim.silently_create(Kind::User, json!({"email": "unheard@example.com"}));
    expected.insert(format!("user {unheard} missing"));
    sim.silently_delete(Kind::OrganizationMembership, &members[3]);
    expected.insert(format!("organization_membership {} extra", members[3]));
    let statement = "INSERT INTO workos.users (id, _env, _raw, _synced_at) VALUES ($1, 'test', '{}', now())";
    plant(&world, statement, "user_planted").await;
    expected.insert("user user_planted extra".to_owned());

    let found = world.worker_command(&["verify", "--format", "json"]).await;
    assert_eq!(found.code(), Some(1), "{}", found.stderr);
    assert_eq!(drifts(&report(&found)), expected);
    assert!(!found.stdout.contains("example.com"), "no personal values: {}", found.stdout);
    let untouched = world.row(Kind::User, &users[0]).await.expect("a row");
    assert_eq!(untouched["email"], "x@example.com", "verify alone writes nothing");

    let repaired = world.worker_command(&["verify", "--repair"]).await;
    assert_eq!(repaired.code(), Some(0), "{}\n{}", repaired.stdout, repaired.stderr);
    let line = format!("different  user {}  email  repaired", users[0]);
    assert!(repaired.stdout.lines().any(|printed| printed == line), "{}", repaired.stdout);
    world.assert_in_step().await;
    let raw = world.row(Kind::User, &users[5]).await.expect("a row")["_raw"].clone();
    assert_eq!(raw["id"], users[5].as_str());
    assert_eq!(audits(&world, &users[0]).await.pop().expect("an audit").channel, "verify");

    let again = world.worker_command(&["verify"]).await;
    assert_eq!(again.code(), Some(0), "{}\n{}", again.stdout, again.stderr);
}

#[tokio::test]
async fn what_is_on_its_way_is_no_drift() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let (ada, acme) = (sim.user("ada@example.com"), sim.organization("Acme"));
    sim.membership(&ada, &acme);
    sim.release_held();
    world.settled().await;
    sim.update(Kind::User, &ada, json!({"first_name": "Augusta"}));
    let bob = sim.user("bob@example.com");
    sim.membership(&bob, &acme);
    sim.delete(Kind::Organization, &acme);

    let running = world.start_worker_command(&["verify", "--format", "json"], &[]);
    world.eventually("the list", async || (sim.requests().lists(Kind::User) > 0).then_some(())).await;
    sim.release_held();
    let ended = world.finish(running).await;
    assert_eq!(ended.code(), Some(0), "{}\n{}", ended.stdout, ended.stderr);
}

#[tokio::test]
async fn what_cannot_be_checked_exits_2_and_says_why() {
    let world = mirrored().await;
    let sim = world.sim();
    sim.outage(Some(Failure::Status(401)));
    let refused = world.worker_command(&["verify", "--format", "json"]).await;
    assert_eq!(refused.code(), Some(2), "{}", refused.stderr);
    assert_eq!(report(&refused)["result"], "could_not_check");
    sim.outage(None);

    sim.silently_delete(Kind::User, &sim.ever(Kind::User)[0]);
    sim.fail_page(Kind::User, 2, 100, Failure::Status(422));
    let broken = world.worker_command(&["verify", "--repair"]).await;
    assert_eq!(broken.code(), Some(2), "{}", broken.stderr);
    assert!(broken.stderr.contains("the list of users cannot be read"), "{}", broken.stderr);
    assert_eq!(sim.requests().all_gets(), 1, "the key was tried, and a list that fails deletes nothing");
    sim.clear_scripts();

    let nowhere =
        world.worker_command_with(&["verify"], &[("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x")]).await;
    assert_eq!(nowhere.code(), Some(2), "{}", nowhere.stderr);
    let unknown = world.worker_command(&["verify", "--only", "planets"]).await;
    assert_eq!(unknown.code(), Some(2), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("organization_memberships"), "{}", unknown.stderr);
}

#[tokio::test]
async fn only_what_was_asked_for_is_compared() {
    let world = mirrored().await;
    let sim = world.sim();
    plant(&world, "UPDATE workos.users SET locale = 'x' WHERE id = $1", &sim.ever(Kind::User)[0]).await;
    sim.reset_counters();
    let others =
        world.worker_command(&["verify", "--only", "organization_domains,organization_memberships"]).await;
    assert_eq!(others.code(), Some(0), "{}\n{}", others.stdout, others.stderr);
    assert_eq!((sim.requests().lists(Kind::User), sim.requests().lists(Kind::Organization)), (0, 1));
    assert!(!others.stdout.contains("users"), "{}", others.stdout);
}

#[tokio::test]
async fn a_worker_verifies_and_repairs_by_itself() {
    let world = World::builder().env("SYNC_VERIFY_INTERVAL", "1s").workers(2).start().await;
    let sim = world.sim();
    let ada = sim.user("ada@example.com");
    world.settled().await;
    sim.silently_update(Kind::User, &ada, json!({"first_name": "Augusta"}), true);
    sim.silently_create(Kind::Organization, json!({"name": "Acme"}));
    world.eventually_in_step().await;
    assert_eq!(audits(&world, &ada).await.pop().expect("an audit").channel, "verify");
    let result: String = world
        .eventually("a run in the books", async || {
            sqlx::query_scalar(
                "SELECT result FROM workos_sync.runs WHERE actor = 'schedule' AND result IS NOT NULL",
            )
            .fetch_optional(world.pool())
            .await
            .expect("the books")
        })
        .await;
    assert_eq!(result, "done");
    let copies = [world.worker_metrics(0).await, world.worker_metrics(1).await];
    assert!(copies.iter().any(|metrics| metrics.has("workos_sync_drift_objects")));
}
