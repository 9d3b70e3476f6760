//! A batch asks for many objects that one list shows: of an organization, or of the environment where that is wanted. Then
//! the list is read instead of asking for each.

use serde_json::json;
use shared::id::Kind;
use support::sim::{Failure, Knobs, Sim};
use support::world::World;

use crate::ledger::outcomes;
use crate::main_path::by_hand;

/// A world that knows an organization and so many users, and whose worker is away.
async fn without_a_worker(users: usize) -> (World, String) {
    let mut world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let acme = sim.silently_create(Kind::Organization, json!({"name": "Acme"}));
    for n in 0..users {
        sim.silently_create(Kind::User, json!({"email": format!("user{n}@example.com")}));
    }
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    world.worker(0).terminate().await.expect("the worker leaves");
    world.sim().reset_counters();
    (world, acme)
}

/// All users become members of the organization, and their memberships change once more.
fn everybody_joins(sim: &Sim, organization: &str) -> Vec<String> {
    let memberships: Vec<String> =
        sim.ever(Kind::User).iter().map(|user| sim.membership(user, organization)).collect();
    for membership in &memberships {
        sim.update(Kind::OrganizationMembership, membership, json!({"status": "inactive"}));
    }
    memberships
}

/// All webhooks wait in the stream before the worker comes back.
async fn caught_up(mut world: World) -> World {
    world.sim().release_held();
    let sim = world.sim();
    world.eventually("all webhooks taken", async || (sim.pending_deliveries() == 0).then_some(())).await;
    world.start_worker_again(0).await;
    world.settled().await;
    world
}

#[tokio::test]
async fn a_burst_of_an_organization_costs_pages_and_equals_single_questions() {
    let (world, acme) = without_a_worker(400).await;
    everybody_joins(world.sim(), &acme);
    let world = caught_up(world).await;
    world.assert_in_step().await;
    let requests = world.sim().requests();
    let (pages, single) =
        (requests.lists(Kind::OrganizationMembership), requests.gets(Kind::OrganizationMembership));
    assert!(pages >= 1, "{pages} pages");
    assert!(pages + single < 100, "{pages} pages and {single} questions for 800 events");
    let endings = outcomes(&world).await;
    assert_eq!(endings.iter().map(|(_, count)| count).sum::<i64>(), 800, "{endings:?}");
}

#[tokio::test]
async fn what_the_list_does_not_show_or_shows_too_old_is_asked_for_by_itself() {
    let (world, acme) = without_a_worker(120).await;
    let memberships = everybody_joins(world.sim(), &acme);
    // The first of all lists is as old as before the last change; and WorkOS has no word of these deletions.
    world.sim().set_knobs(Knobs { stale_list: 1.0, stale_window_ms: 600_000, ..by_hand() });
    for membership in &memberships[..40] {
        world.sim().update(Kind::OrganizationMembership, membership, json!({"status": "active"}));
    }
    for gone in &memberships[40..43] {
        world.sim().silently_delete(Kind::OrganizationMembership, gone);
    }
    let world = caught_up(world).await;
    world.assert_in_step().await;
    assert!(world.sim().requests().lists(Kind::OrganizationMembership) >= 1);
    assert!(world.sim().requests().gets(Kind::OrganizationMembership) >= 40);
}

#[tokio::test]
async fn a_list_that_cannot_be_read_costs_one_request() {
    let (world, acme) = without_a_worker(60).await;
    let memberships = everybody_joins(world.sim(), &acme);
    world.sim().fail_next_list(Kind::OrganizationMembership, 100, Failure::Status(422));
    let world = caught_up(world).await;
    world.assert_in_step().await;
    let requests = world.sim().requests();
    assert_eq!(requests.gets(Kind::OrganizationMembership), memberships.len() as u64);
    assert!(requests.lists(Kind::OrganizationMembership) <= 3);
}

/// A world without workers, with or without the lists of the environment.
async fn unattended(list_bursts: &str) -> World {
    World::builder()
        .workers(0)
        .knobs(by_hand())
        .env("SYNC_TAIL_INTERVAL", "off")
        .env("SYNC_LIST_BURSTS", list_bursts)
        .start()
        .await
}

/// All webhooks wait in the stream before a worker comes.
async fn worked_off(mut world: World) -> World {
    let sim = world.sim();
    sim.release_held();
    world.eventually("all webhooks taken", async || (sim.pending_deliveries() == 0).then_some(())).await;
    world.start_worker().await;
    world.settled().await;
    world
}

/// So many users of whom no event tells.
fn old_users(sim: &Sim, users: u32) -> Vec<String> {
    (0..users)
        .map(|n| sim.silently_create(Kind::User, json!({"email": format!("user{n}@example.com")})))
        .collect()
}

#[tokio::test]
async fn an_import_of_users_costs_pages_where_that_is_wanted_and_a_question_for_each_where_not() {
    const USERS: u32 = 500;
    for (list_bursts, most) in [("on", u64::from(USERS / 10)), ("off", u64::from(USERS))] {
        let world = unattended(list_bursts).await;
        for n in 0..USERS {
            world.sim().user(&format!("user{n}@example.com"));
        }
        let world = worked_off(world).await;
        world.assert_in_step().await;
        let requests = world.sim().requests();
        let (pages, single) = (requests.lists(Kind::User), requests.gets(Kind::User));
        assert!(pages + single <= most, "{list_bursts}: {pages} pages and {single} questions");
        assert_eq!(pages > 0, list_bursts == "on", "{pages} pages");
        assert_eq!(outcomes(&world).await, [("applied".to_owned(), i64::from(USERS))]);
    }
}

#[tokio::test]
async fn users_who_are_far_apart_are_not_looked_for_in_a_list_again_and_again() {
    let world = unattended("on").await;
    // More than a hundred lie between two of them.
    let changed: Vec<String> = old_users(world.sim(), 6_000).into_iter().step_by(120).collect();
    for turn in 0..4 {
        for user in &changed {
            world.sim().update(Kind::User, user, json!({"first_name": format!("Turn {turn}")}));
        }
    }
    let requests = worked_off(world).await.sim().requests();
    assert!(requests.lists(Kind::User) <= 2, "{} pages", requests.lists(Kind::User));
    assert_eq!(requests.gets(Kind::User), changed.len() as u64);
}

#[tokio::test]
async fn pages_go_on_over_what_lies_between_the_questions() {
    let world = unattended("on").await;
    let changed: Vec<String> = old_users(world.sim(), 600).into_iter().step_by(3).collect();
    for user in &changed {
        world.sim().update(Kind::User, user, json!({"first_name": "Ada"}));
    }
    let world = worked_off(world).await;
    let requests = world.sim().requests();
    let (pages, single) = (requests.lists(Kind::User), requests.gets(Kind::User));
    assert!(pages + single < 60, "{pages} pages and {single} questions about {} users", changed.len());
    assert_eq!(outcomes(&world).await, [("applied".to_owned(), 200)]);
}

#[tokio::test]
async fn organizations_that_are_imported_bring_their_domains() {
    let world = unattended("on").await;
    for n in 0..60 {
        let acme = world.sim().organization(&format!("Acme {n}"));
        world.sim().domain(&acme, &format!("acme{n}.example.com"));
    }
    let world = worked_off(world).await;
    world.assert_in_step().await;
    let requests = world.sim().requests();
    assert!(requests.lists(Kind::Organization) >= 1);
    assert!(requests.gets(Kind::Organization) < 30, "{} questions", requests.gets(Kind::Organization));
}
