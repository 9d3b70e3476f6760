//! Roles, permissions, connections, invitations, feature flags; and keys that are used again after a deletion.

use serde_json::{Value, json};
use shared::exit::Exit;
use shared::id::Kind;
use support::sim::{Knobs, Sim};
use support::world::World;

use crate::ledger::{audits, outcome};
use crate::main_path::by_hand;

/// What is known by a slug, each by the slug `admin`.
fn slug_kinds(sim: &Sim) -> [(Kind, Value); 4] {
    let organization = sim.organization("Acme");
    [
        (Kind::Role, json!({"slug": "admin", "permissions": ["read", "write"]})),
        (Kind::OrganizationRole, json!({"slug": "admin", "organization_id": organization})),
        (Kind::Permission, json!({"slug": "admin"})),
        (Kind::FeatureFlag, json!({"slug": "admin"})),
    ]
}

/// The last event, which was just made.
fn last(sim: &Sim) -> String {
    sim.events().pop().expect("an event").id
}

/// How many rows of a kind's key there are, live ones and tombstones.
async fn rows(world: &World, kind: Kind, key: &str) -> (i64, i64) {
    let (table, slug) = (support::world::mirror::table(kind), key.rsplit('/').next().unwrap_or(key));
    let whose = match kind {
        Kind::Role => "AND organization_id IS NULL",
        Kind::OrganizationRole => "AND organization_id IS NOT NULL",
        _ => "",
    };
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT count(*) FILTER (WHERE _deleted_at IS NULL), count(*) FILTER (WHERE _deleted_at IS NOT NULL)
           FROM workos.{table} WHERE slug = $1 {whose}"
    )))
    .bind(slug)
    .fetch_one(world.pool())
    .await
    .expect("the rows")
}

#[tokio::test]
async fn roles_permissions_connections_invitations_and_flags_become_rows_and_follow() {
    let world = World::start().await;
    let sim = world.sim();
    let mut made = Vec::new();
    for (kind, fields) in slug_kinds(sim) {
        made.push((kind, sim.create(kind, fields)));
    }
    let acme = sim.organization("Initech");
    let connection = sim.create(Kind::Connection, json!({"organization_id": acme}));
    let invitation =
        sim.create(Kind::Invitation, json!({"organization_id": acme, "email": "ada@example.com"}));
    sim.create(Kind::Invitation, json!({"email": "bob@example.com"}));
    world.settled().await;
    world.assert_in_step().await;

    for (kind, key) in &made {
        sim.update(
            *kind,
            key,
            json!({"description": "changed", "permissions": ["read"], "tags": ["a", "b"]}),
        );
    }
    sim.update(Kind::Connection, &connection, json!({"state": "inactive", "status": "unlinked"}));
    sim.update(Kind::Invitation, &invitation, json!({"state": "accepted", "accepted_user_id": "user_1"}));
    world.settled().await;
    world.assert_in_step().await;
    let row = world.row(Kind::OrganizationRole, &made[1].1).await.expect("a live row");
    assert_eq!(row["permissions"], json!(["read"]));
    assert_eq!(row["type"], "OrganizationRole");

    for (kind, key) in &made {
        sim.delete(*kind, key);
    }
    sim.delete(Kind::Connection, &connection);
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_slug_that_is_used_again_is_a_new_row_and_the_old_one_a_tombstone() {
    let world = World::start().await;
    let sim = world.sim();
    for (kind, fields) in slug_kinds(sim) {
        let key = sim.create(kind, fields.clone());
        world.settled().await;
        let first = world.row(kind, &key).await.expect("a live row");
        sim.delete(kind, &key);
        world.settled().await;
        assert!(world.row(kind, &key).await.is_none(), "{kind}");
        sim.create(kind, fields);
        world.settled().await;
        let second = world.row(kind, &key).await.expect("a live row");
        assert_ne!(first["id"], second["id"], "{kind}");
        assert_eq!(rows(&world, kind, &key).await, (1, 1), "{kind}");
        let actions: Vec<String> = audits(&world, &key).await.into_iter().map(|audit| audit.action).collect();
        assert!(actions.ends_with(&["created".to_owned(), "deleted".to_owned(), "revived".to_owned()]));
    }
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_slug_that_changed_hands_in_silence_leaves_a_tombstone_of_the_old() {
    let world = World::start().await;
    let sim = world.sim();
    for (kind, fields) in slug_kinds(sim) {
        let key = sim.create(kind, fields.clone());
        world.settled().await;
        sim.silently_delete(kind, &key);
        sim.create(kind, fields);
        world.settled().await;
        assert_eq!(rows(&world, kind, &key).await, (1, 1), "{kind}");
    }
    world.assert_in_step().await;
}

/// Every order of `0..count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for order in orders(count - 1) {
        for place in 0..count {
            let mut longer = order.clone();
            longer.insert(place, count - 1);
            all.push(longer);
        }
    }
    all
}

/// Lives of a slug, and what is told of them in every order, one at a time or all at once, and again.
async fn every_order(ends_alive: bool, one_at_a_time: bool) {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let organization = sim.organization("Acme");
    let kinds = [Kind::Role, Kind::OrganizationRole, Kind::Permission, Kind::FeatureFlag];
    let mut stories = Vec::new();
    for (number, order) in orders(if ends_alive { 4 } else { 5 }).into_iter().enumerate() {
        let kind = kinds[number % kinds.len()];
        if !ends_alive && number % 3 != 0 {
            continue;
        }
        let slug = format!("slug-{number}");
        let fields = match kind {
            Kind::OrganizationRole => json!({"slug": slug, "organization_id": organization}),
            _ => json!({"slug": slug}),
        };
        let mut events = Vec::new();
        let key = sim.create(kind, fields.clone());
        events.push(last(sim));
        sim.delete(kind, &key);
        events.push(last(sim));
        sim.create(kind, fields);
        events.push(last(sim));
        sim.update(kind, &key, json!({"description": "later"}));
        events.push(last(sim));
        if !ends_alive {
            sim.delete(kind, &key);
            events.push(last(sim));
        }
        stories.push((kind, key, order.into_iter().map(|n| events[n].clone()).collect::<Vec<_>>()));
    }
    let steps = stories[0].2.len();
    for step in 0..steps {
        for (_, _, events) in &stories {
            assert_eq!(sim.post(&events[step]).await.expect("a delivery"), [200]);
        }
        if one_at_a_time {
            world.settled().await;
        }
    }
    world.settled().await;
    for (kind, key, events) in &stories {
        assert_eq!(world.row(*kind, key).await.is_some(), ends_alive, "{kind}/{key}");
        for event in events {
            assert!(outcome(&world, event).await.is_some(), "every event ends");
        }
    }
    // What the broker remembers it drops, what it forgot is settled already.
    for (_, _, events) in &stories {
        for event in events.iter().rev() {
            sim.post(event).await.expect("a delivery");
        }
    }
    world.settled().await;
    let organization = sim.events()[0].id.clone();
    sim.post(&organization).await.expect("a delivery");
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_slug_that_lives_again_lives_whatever_the_order_of_its_events() {
    every_order(true, true).await;
}

#[tokio::test]
async fn a_slug_that_lives_again_lives_when_all_its_events_come_at_once() {
    every_order(true, false).await;
}

#[tokio::test]
async fn a_slug_that_died_twice_is_dead_whatever_the_order_of_its_events() {
    every_order(false, true).await;
}

#[tokio::test]
async fn an_answer_that_still_shows_what_was_deleted_does_not_revive_it() {
    let knobs = Knobs { async_delete: 1.0, async_delete_ms: 600_000, ..Knobs::default() };
    let world = World::builder().knobs(knobs).start().await;
    let sim = world.sim();
    for (kind, fields) in slug_kinds(sim) {
        let key = sim.create(kind, fields.clone());
        world.settled().await;
        let update = sim.update(kind, &key, json!({"description": "changed"})).expect("an event");
        world.settled().await;
        sim.delete(kind, &key);
        world.settled().await;
        sim.deliver_again(&update);
        let synced = world.worker_command(&["sync", kind.name(), &key]).await;
        assert_eq!(synced.code(), Some(Exit::Success as i32), "{}", synced.stderr);
        world.settled().await;
        assert!(world.row(kind, &key).await.is_none(), "{kind}");
        // What is made again lives at once.
        sim.create(kind, fields);
        world.settled().await;
        assert!(world.row(kind, &key).await.is_some(), "{kind}");
    }
}

#[tokio::test]
async fn the_role_of_the_environment_does_not_stand_in_for_a_role_of_the_organization() {
    let world = World::start().await;
    let sim = world.sim();
    let [(_, role), (_, own), ..] = slug_kinds(sim);
    sim.create(Kind::Role, role);
    let key = sim.create(Kind::OrganizationRole, own);
    world.settled().await;
    assert!(world.row(Kind::OrganizationRole, &key).await.is_some());
    sim.silently_delete(Kind::OrganizationRole, &key);
    world.worker_command(&["sync", "organization_role", &key]).await;
    assert!(
        world.row(Kind::OrganizationRole, &key).await.is_none(),
        "that there is none of its own is a 404"
    );
    assert!(world.row(Kind::Role, "admin").await.is_some());
    world.assert_in_step().await;
}

#[tokio::test]
async fn only_a_role_that_says_so_is_an_organizations_own() {
    let world = World::start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    // The mirror does not have them yet.
    let roles = ["untold", "new"].map(|slug| sim.silently_create(Kind::Role, json!({"slug": slug})));
    sim.silently_update(Kind::Role, "untold", json!({"type": null}), false);
    sim.silently_update(Kind::Role, "new", json!({"type": "ResourceRole"}), false);
    for role in &roles {
        sim.emit(
            "organization_role.created",
            json!({"object": "role", "slug": role, "organization_id": acme}),
        );
    }
    world.settled().await;
    for role in &roles {
        assert!(world.row(Kind::OrganizationRole, &format!("{acme}/{role}")).await.is_none(), "{role}");
    }
    let filled = world.worker_command(&["backfill"]).await;
    assert_eq!(filled.code(), Some(Exit::Success as i32), "{}", filled.stderr);
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_role_does_not_go_from_one_organization_to_another() {
    let world = World::start().await;
    let sim = world.sim();
    let (acme, initech) = (sim.organization("Acme"), sim.organization("Initech"));
    sim.create(Kind::OrganizationRole, json!({"id": "role_1", "slug": "admin", "organization_id": acme}));
    sim.create(Kind::Role, json!({"id": "role_2", "slug": "member"}));
    world.settled().await;
    sim.create(Kind::OrganizationRole, json!({"id": "role_1", "slug": "admin", "organization_id": initech}));
    sim.create(Kind::OrganizationRole, json!({"id": "role_2", "slug": "member", "organization_id": initech}));
    world.settled().await;
    assert!(world.row(Kind::OrganizationRole, &format!("{acme}/admin")).await.is_some());
    assert!(world.row(Kind::Role, "member").await.is_some());
}

#[tokio::test]
async fn what_an_organization_has_goes_with_it_and_the_audit_log_says_why() {
    let world = World::builder().knobs(Knobs { cascade_events: false, ..Knobs::default() }).start().await;
    let sim = world.sim();
    let acme = sim.organization("Acme");
    let of_acme = json!({"organization_id": acme});
    let made = [Kind::Connection, Kind::Invitation, Kind::OrganizationRole]
        .map(|kind| (kind, sim.create(kind, of_acme.clone())));
    world.settled().await;
    sim.delete(Kind::Organization, &acme);
    world.settled().await;
    for (kind, key) in &made {
        assert!(world.any_row(*kind, key).await.is_some_and(|row| !row["_deleted_at"].is_null()), "{kind}");
        let cause: Option<String> = sqlx::query_scalar(
            "SELECT cause FROM workos_sync.audit_log WHERE object_id = $1 AND action = 'deleted'",
        )
        .bind(key)
        .fetch_one(world.pool())
        .await
        .expect("an audit");
        assert_eq!(cause.as_deref(), Some(format!("organization/{acme}").as_str()), "{kind}");
    }
    world.assert_in_step().await;
}

#[tokio::test]
async fn lists_bring_them_and_verify_finds_what_no_event_tells() {
    let world = World::start().await;
    let sim = world.sim();
    for kind in Kind::ALL {
        sim.make(kind, false);
    }
    let (own, role) = (sim.ever(Kind::OrganizationRole).remove(0), sim.ever(Kind::Role).remove(0));
    let filled = world.worker_command(&["backfill"]).await;
    assert_eq!(filled.code(), Some(Exit::Success as i32), "{}", filled.stderr);
    world.assert_in_step().await;

    let invitation = sim.ever(Kind::Invitation).remove(0);
    sim.silently_update(Kind::Invitation, &invitation, json!({"state": "expired"}), true);
    let connection = sim.ever(Kind::Connection).remove(0);
    sim.silently_update(Kind::Connection, &connection, json!({"name": "Renamed"}), true);
    sim.silently_delete(Kind::OrganizationRole, &own);
    sim.silently_update(Kind::Role, &role, json!({"permissions": ["everything"]}), true);
    let verified = world.worker_command(&["verify", "--repair", "--format", "json"]).await;
    assert_eq!(verified.code(), Some(Exit::Success as i32), "{}", verified.stderr);
    let report: Value = serde_json::from_str(&verified.stdout).expect("a report");
    assert_eq!(report["tables"]["roles"]["extra"], 1, "{report}");
    assert_eq!(report["tables"]["roles"]["different"], 1, "{report}");
    assert_eq!(report["tables"]["invitations"]["different"], 1, "{report}");
    assert_eq!(report["tables"]["connections"]["different"], 1, "{report}");
    world.assert_in_step().await;
}

#[tokio::test]
async fn the_permissions_of_a_member_are_those_of_its_roles() {
    let world = World::start().await;
    let sim = world.sim();
    let (ada, bob, eve) =
        (sim.user("ada@example.com"), sim.user("bob@example.com"), sim.user("eve@example.com"));
    let (acme, initech) = (sim.organization("Acme"), sim.organization("Initech"));
    sim.create(Kind::Role, json!({"slug": "member", "permissions": ["read", "burn"]}));
    // Of `write` and `fly` there is no row; `burn` was deleted, `bill` too, and made again.
    for slug in ["read", "burn", "bill"] {
        sim.create(Kind::Permission, json!({"slug": slug}));
    }
    sim.create(Kind::Role, json!({"slug": "admin", "permissions": ["read", "write"]}));
    sim.create(Kind::Role, json!({"slug": "gone", "permissions": ["fly"]}));
    sim.create(
        Kind::OrganizationRole,
        json!({"slug": "admin", "organization_id": acme, "permissions": ["read", "bill"]}),
    );
    let join = |user: &str, organization: &str, fields: Value| {
        let mut given = json!({"user_id": user, "organization_id": organization});
        given.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        sim.create(Kind::OrganizationMembership, given)
    };
    // Two roles, one of them the organization's own.
    join(&ada, &acme, json!({"role": {"slug": "admin"}, "roles": [{"slug": "admin"}, {"slug": "member"}]}));
    // The environment's role of the same slug.
    join(&ada, &initech, json!({"role": {"slug": "admin"}, "roles": []}));
    join(&bob, &acme, json!({"role": {"slug": "gone"}}));
    join(&bob, &initech, json!({"status": "inactive"}));
    let left = join(&eve, &acme, json!({}));
    world.settled().await;
    sim.delete(Kind::Role, "gone");
    sim.delete(Kind::OrganizationMembership, &left);
    for slug in ["burn", "bill"] {
        sim.delete(Kind::Permission, slug);
    }
    world.settled().await;
    sim.create(Kind::Permission, json!({"slug": "bill"}));
    world.settled().await;

    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT user_id, organization_id, permission_slug FROM workos.effective_permissions
          WHERE _env = 'test' ORDER BY organization_id = $1 DESC, permission_slug",
    )
    .bind(&acme)
    .fetch_all(world.pool())
    .await
    .expect("the view");
    let expected = [("bill", &acme), ("read", &acme), ("read", &initech), ("write", &initech)]
        .map(|(permission, organization)| (ada.clone(), organization.clone(), permission.to_owned()));
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn on_the_worst_of_days_slugs_that_live_and_die_end_as_workos_has_them() {
    let seeds = std::env::var("CONVERGENCE_SEEDS").unwrap_or_else(|_| "1".to_owned());
    for seed in seeds.split(',').map(|seed| seed.parse::<u64>().expect("a seed")) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let world = World::builder()
            .seed(seed)
            .knobs(Knobs { lost_webhook: 0.03, ..Knobs::bad_day() })
            .workers(2)
            .env("SYNC_ACK_WAIT", "2s")
            .env("SYNC_RATE_LIMIT", "off")
            .env("SYNC_TAIL_INTERVAL", "500ms")
            .patience(std::time::Duration::from_mins(3))
            .start()
            .await;
        let sim = world.sim();
        let organizations = [sim.organization("Acme"), sim.organization("Initech")];
        let kinds = [Kind::Role, Kind::OrganizationRole, Kind::Permission, Kind::FeatureFlag];
        for number in 0..400 {
            let kind = kinds[rng.usize(0..kinds.len())];
            let slug = format!("slug-{}", rng.u32(0..3));
            let organization = &organizations[rng.usize(0..2)];
            let key = match kind {
                Kind::OrganizationRole => format!("{organization}/{slug}"),
                _ => slug.clone(),
            };
            let fields = match kind {
                Kind::OrganizationRole => json!({"slug": slug, "organization_id": organization}),
                _ => json!({"slug": slug}),
            };
            match (sim.get(kind, &key).is_some(), rng.bool()) {
                (true, true) => drop(sim.update(kind, &key, json!({"description": number.to_string()}))),
                (true, false) => drop(sim.delete(kind, &key)),
                (false, _) => drop(sim.create(kind, fields)),
            }
            if number % 10 == 0 {
                tokio::task::yield_now().await;
            }
        }
        crate::tail::every_event_ends(&world).await;
        world.settled().await;
        let differences = world.differences().await;
        assert!(differences.is_empty(), "seed {seed}: {}", support::world::mirror::listing(&differences));
    }
}
