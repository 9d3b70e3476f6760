//! `worker sync`: one object, now, with what belongs to it.

use serde_json::json;
use shared::id::Kind;
use support::world::World;

#[tokio::test]
async fn a_user_comes_with_its_memberships_and_what_changed_is_told_column_by_column() {
    let world = World::builder().without_programs().start().await;
    let sim = world.sim();
    let ada = sim.silently_create(Kind::User, json!({"email": "ada@example.com"}));
    let acme = sim.silently_create(Kind::Organization, json!({"name": "Acme"}));
    let given = json!({"user_id": ada, "organization_id": acme, "status": "inactive"});
    let membership = sim.silently_create(Kind::OrganizationMembership, given);

    let first = world.worker_command(&["sync", "user", &ada]).await;
    assert_eq!(first.code(), Some(0), "{}", first.stderr);
    for object in [
        format!("user/{ada}"),
        format!("organization_membership/{membership}"),
        format!("organization/{acme}"),
    ] {
        let line = format!("{object}: created");
        assert!(first.stdout.lines().any(|printed| printed == line), "{line} in {}", first.stdout);
    }
    world.assert_in_step().await;
    // And the lists of its sessions, API keys and groups.
    assert_eq!(sim.requests().total(), 6, "the user, its memberships, an organization that was missing");

    sim.silently_update(
        Kind::User,
        &ada,
        json!({"email": "augusta@example.com", "email_verified": false}),
        true,
    );
    let second = world.worker_command(&["sync", "users", &ada]).await;
    assert_eq!(second.code(), Some(0), "{}", second.stderr);
    for line in ["    email: \"redacted\" -> \"redacted\"", "    email_verified: true -> false"] {
        assert!(second.stdout.lines().any(|printed| printed == line), "{line} in {}", second.stdout);
    }
    sim.silently_update(Kind::User, &ada, json!({"email": "ada@example.com"}), true);
    let kept = world.worker_command_with(&["sync", "user", &ada], &[("SYNC_AUDIT_PII", "keep")]).await;
    let line = "    email: \"augusta@example.com\" -> \"ada@example.com\"";
    assert!(kept.stdout.lines().any(|printed| printed == line), "{}", kept.stdout);

    sim.silently_delete(Kind::OrganizationMembership, &membership);
    let third = world.worker_command(&["sync", "user", &ada]).await;
    let line = format!("organization_membership/{membership}: deleted");
    assert!(third.stdout.lines().any(|printed| printed == line), "{}", third.stdout);
    world.assert_in_step().await;
}

#[tokio::test]
async fn an_organization_comes_with_its_domains_and_memberships() {
    let world = World::builder().without_programs().start().await;
    let sim = world.sim();
    let acme = sim.silently_create(Kind::Organization, json!({"name": "Acme"}));
    sim.silently_create(Kind::OrganizationDomain, json!({"organization_id": acme, "domain": "acme.example"}));
    for n in 0..120 {
        let user = sim.silently_create(Kind::User, json!({"email": format!("user{n}@example.com")}));
        sim.silently_create(Kind::OrganizationMembership, json!({"user_id": user, "organization_id": acme}));
    }
    let ended = world.worker_command(&["sync", "organization", &acme]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    world.assert_in_step().await;
}

#[tokio::test]
async fn what_nobody_has_exits_1_and_a_kind_that_is_none_exits_2() {
    let world = World::builder().without_programs().start().await;
    let nobody = world.worker_command(&["sync", "user", "user_nobody"]).await;
    assert_eq!(nobody.code(), Some(1), "{}", nobody.stderr);
    assert!(
        nobody.stderr.contains("neither WorkOS nor the mirror has user/user_nobody"),
        "{}",
        nobody.stderr
    );
    let planet = world.worker_command(&["sync", "planet", "planet_1"]).await;
    assert_eq!(planet.code(), Some(2), "{}", planet.stderr);
    assert!(planet.stderr.contains("organization_membership"), "{}", planet.stderr);
}

#[tokio::test]
async fn an_id_that_lacks_a_part_exits_2_and_says_what_it_wants() {
    let world = World::builder().without_programs().start().await;
    let acme = world.sim().silently_create(Kind::Organization, json!({"name": "Acme"}));
    for (kind, id, wants) in [
        ("api_key", acme.as_str(), "organization/{id} or user/{id}"),
        ("api_key", "api_key_nobody", "organization/{id} or user/{id}"),
        ("organization_role", "admin", "{organization id}/{slug}"),
    ] {
        let refused = world.worker_command(&["sync", kind, id]).await;
        assert_eq!(refused.code(), Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(wants), "{}", refused.stderr);
    }
    let objects: i64 = sqlx::query_scalar("SELECT count(*) FROM workos_sync.objects")
        .fetch_one(world.pool())
        .await
        .expect("the guard");
    assert_eq!(objects, 0);
}
