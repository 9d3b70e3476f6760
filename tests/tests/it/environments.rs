//! Several WorkOS environments in one Postgres and one broker; and the query that README.md promises, over both.

use std::time::Duration;

use serde_json::json;
use shared::id::Kind;
use sqlx::AssertSqlSafe;
use support::services::{Place, Program};
use support::sim::{Sim, SimConfig};
use support::world::{Mirror, WEBHOOK_SECRET, World};

/// The query as README.md and the design have it.
const PROMISED: &str = "\
SELECT o.name AS organization, u.email, m.role_slug
  FROM workos.organization_memberships_live m
  JOIN workos.users_live u ON u.id = m.user_id AND u._env = m._env
  JOIN workos.organizations_live o ON o.id = m.organization_id AND o._env = m._env
 ORDER BY o.name, u.email;
";

/// Another environment beside that of a world: a WorkOS, an ingest and a worker of its own.
struct Other {
    env: &'static str,
    sim: Sim,
    // Dropped before the place.
    _ingest: Program,
    _worker: Program,
    _place: Place,
}

impl Other {
    async fn start(world: &World, env: &'static str) -> Self {
        let place = Place::new("other").expect("a directory");
        let sim = Sim::start(SimConfig { seed: 4_711, ..SimConfig::default() }).expect("a simulator");
        let (nats, rate) = (world.nats_url(), "5000/s".to_owned());
        let settings = [
            ("WORKOS_ENV", env.to_owned()),
            ("NATS_URL", nats),
            ("WORKOS_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
            ("DATABASE_URL", world.database_url().to_owned()),
            ("WORKOS_API_BASE_URL", sim.url().to_owned()),
            ("WORKOS_API_KEY", sim.api_key().to_owned()),
            ("SYNC_RATE_LIMIT", rate),
            ("SYNC_TAIL_INTERVAL", "1s".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let mut ingest = Program::ingest(place.path(), "other-ingest", &settings).expect("an ingest");
        let mut worker = Program::worker(place.path(), "other-worker", &settings).expect("a worker");
        ingest.ready().await.expect("a ready ingest");
        worker.ready().await.expect("a ready worker");
        let url = format!("{}/webhooks/workos", ingest.url().expect("an address"));
        sim.add_endpoint(&url, WEBHOOK_SECRET);
        Self { env, sim, _ingest: ingest, _worker: worker, _place: place }
    }

    /// Waits until the rows of this environment are what its WorkOS has.
    async fn eventually_in_step(&self, world: &World) {
        let mirror = Mirror::read(world.pool()).await.expect("the columns");
        world
            .eventually("the other environment to be in step", async || {
                let differences = mirror.differences(world.pool(), &self.sim, self.env).await.ok()?;
                differences.is_empty().then_some(())
            })
            .await;
    }
}

/// How many rows an environment has in a table, live and dead.
async fn rows(world: &World, table: &str, env: &str) -> (i64, i64) {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT count(*) FILTER (WHERE _deleted_at IS NULL), count(*) FILTER (WHERE _deleted_at IS NOT NULL)
           FROM workos.{table} WHERE _env = $1"
    )))
    .bind(env)
    .fetch_one(world.pool())
    .await
    .expect("the mirror")
}

#[tokio::test]
async fn two_environments_share_a_database_and_a_broker_and_are_kept_apart_by_label() {
    let world = World::builder().env("WORKOS_ENV", "live").env("SYNC_TAIL_INTERVAL", "1s").start().await;
    let other = Other::start(&world, "staging-2").await;
    // The same person, and a role and a permission of the same name.
    let here = world.sim().user("ada@example.com");
    let there = other.sim.user("ada@example.com");
    assert_ne!(here, there, "two objects of WorkOS");
    for sim in [world.sim(), &other.sim] {
        sim.create(Kind::Role, json!({"slug": "auditor", "name": "Auditor"}));
        sim.create(Kind::Permission, json!({"slug": "books:read"}));
    }
    world.settled().await;
    other.eventually_in_step(&world).await;
    world.assert_in_step().await;
    assert_eq!(world.row(Kind::User, &here).await.expect("a row")["_env"], "live");
    assert_eq!(world.row(Kind::User, &there).await.expect("a row")["_env"], "staging-2");

    other.sim.update(Kind::Role, "auditor", json!({"name": "Inspector"}));
    other.sim.delete(Kind::Permission, "books:read");
    other.sim.delete(Kind::User, &there);
    other.eventually_in_step(&world).await;
    world.settled().await;
    world.assert_in_step().await;
    for table in ["users", "permissions"] {
        assert_eq!(rows(&world, table, "live").await, (1, 0), "{table}");
        assert_eq!(rows(&world, table, "staging-2").await, (0, 1), "{table}");
    }
    // A complete listing of one says nothing of the other.
    let verified = world.worker_command(&["verify", "--repair"]).await;
    assert_eq!(verified.code(), Some(0), "{} {}", verified.stdout, verified.stderr);
    other.eventually_in_step(&world).await;
    world.assert_in_step().await;
    let events: Vec<(String, i64)> =
        sqlx::query_as("SELECT env, count(*) FROM workos_sync.events GROUP BY env ORDER BY env")
            .fetch_all(world.pool())
            .await
            .expect("the ledger");
    let told = |sim: &Sim| i64::try_from(sim.events().len()).expect("few");
    assert_eq!(events, [("live".to_owned(), told(world.sim())), ("staging-2".to_owned(), told(&other.sim))]);
}

/// Who is where by WorkOS itself.
fn members(sim: &Sim) -> Vec<(String, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    sim.all(Kind::OrganizationMembership)
        .iter()
        .map(|membership| {
            let user = sim.get(Kind::User, &text(&membership["user_id"])).expect("a user");
            let organization =
                sim.get(Kind::Organization, &text(&membership["organization_id"])).expect("an organization");
            (text(&organization["name"]), text(&user["email"]), text(&membership["role"]["slug"]))
        })
        .collect()
}

#[tokio::test]
async fn the_promised_query_runs_unchanged_and_shows_what_workos_has() {
    let readme = include_str!("../../../README.md");
    let (_, query) = readme.split_once("```sql\n").expect("a query in README.md");
    let (query, _) = query.split_once("```").expect("its end");
    assert_eq!(query, PROMISED, "README.md shows another query");

    let world = World::builder().patience(Duration::from_mins(2)).start().await;
    let other = Other::start(&world, "staging").await;
    let companies =
        [("here", ["Acme", "Globex"], world.sim()), ("there", ["Initech", "Umbrella"], &other.sim)];
    for (place, names, sim) in companies {
        let [first, second] = names.map(|name| sim.organization(name));
        let people = ["ada", "bob", "eve"].map(|name| sim.user(&format!("{name}@{place}.example")));
        for person in &people {
            sim.membership(person, &first);
        }
        let admin = sim.membership(&people[0], &second);
        let role = json!({"role": {"slug": "admin"}, "roles": [{"slug": "admin"}]});
        sim.update(Kind::OrganizationMembership, &admin, role);
        let gone = sim.organization("Gone");
        sim.membership(&people[1], &gone);
        // With the user and with the organization go their memberships.
        sim.delete(Kind::User, &people[2]);
        sim.delete(Kind::Organization, &gone);
    }
    world.settled().await;
    other.eventually_in_step(&world).await;
    world.assert_in_step().await;

    let shown: Vec<(String, String, String)> = sqlx::query_as(AssertSqlSafe(query.to_owned()))
        .fetch_all(world.pool())
        .await
        .expect("the query runs");
    let mut expected = members(world.sim());
    expected.extend(members(&other.sim));
    expected.sort();
    assert_eq!(shown, expected);
    assert_eq!(shown.len(), 6, "three memberships in each environment: {shown:?}");
    assert!(shown.contains(&("Globex".to_owned(), "ada@here.example".to_owned(), "admin".to_owned())));
}
