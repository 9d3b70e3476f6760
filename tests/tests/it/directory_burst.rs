//! Many objects of one directory at once: its list is read instead of asking for each.

use std::time::Duration;

use serde_json::json;
use shared::id::Kind;
use support::sim::{Knobs, Sim};
use support::world::World;

use crate::directories::{directory, group, join, user};
use crate::ledger::outcomes;
use crate::main_path::by_hand;

/// A directory of so many users and groups.
fn people(sim: &Sim, users: usize, groups: usize) -> String {
    let people = directory(sim, &sim.organization("Acme"));
    for n in 0..users {
        user(sim, &people, &format!("user{n}@example.com"));
    }
    for n in 0..groups {
        group(sim, &people, &format!("Group {n}"));
    }
    people
}

fn requests(sim: &Sim) -> u64 {
    let requests = sim.requests();
    requests.all_gets() + Kind::ALL.into_iter().map(|kind| requests.lists(kind)).sum::<u64>()
}

#[tokio::test]
async fn a_burst_of_a_directory_costs_a_list_and_equals_single_questions() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    people(sim, 250, 30);
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;
    // Three pages of users and one of groups; webhooks that come in waves may be worth a second list.
    let (users, groups) =
        (sim.requests().lists(Kind::DirectoryUser), sim.requests().lists(Kind::DirectoryGroup));
    assert!(
        (3..=6).contains(&users) && (1..=2).contains(&groups),
        "{users} pages of users, {groups} of groups"
    );
    assert!(requests(sim) < 100, "{} requests for 282 events", requests(sim));
    let endings = outcomes(&world).await;
    assert!(
        endings.iter().all(|(outcome, _)| ["applied", "unchanged", "superseded"].contains(&outcome.as_str())),
        "{endings:?}"
    );
    assert_eq!(endings.iter().map(|(_, count)| count).sum::<i64>(), 282);
}

#[tokio::test]
async fn what_a_list_does_not_show_is_asked_for_by_itself() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = people(sim, 40, 0);
    // WorkOS has deleted some of them and its word of that is lost; others are deleted and it comes.
    let users = sim.ever(Kind::DirectoryUser);
    for gone in &users[..3] {
        sim.silently_delete(Kind::DirectoryUser, gone);
    }
    for gone in &users[3..6] {
        sim.delete(Kind::DirectoryUser, gone);
    }
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;
    assert!(world.row(Kind::Directory, &people).await.is_some());
    assert_eq!(sim.requests().lists(Kind::DirectoryUser), 1);
}

#[tokio::test]
async fn two_workers_read_the_list_of_a_directory_once() {
    let world = World::builder().workers(2).knobs(by_hand()).start().await;
    let sim = world.sim();
    people(sim, 400, 0);
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;
    // Whoever comes second looks whether the first one's answer is there.
    assert!(
        sim.requests().lists(Kind::DirectoryUser) <= 8,
        "{} pages",
        sim.requests().lists(Kind::DirectoryUser)
    );
    assert!(requests(sim) < 100, "{} requests", requests(sim));
}

#[tokio::test]
async fn a_worker_that_dies_in_the_middle_of_a_list_loses_nothing() {
    let mut world = World::builder()
        .knobs(by_hand())
        .env("SYNC_ACK_WAIT", "1s")
        .worker_env(0, "SYNC_CRASH_AT", "mid_list")
        .start()
        .await;
    people(world.sim(), 230, 0);
    world.sim().release_held();
    let died = world.worker(0).wait().await.expect("the worker ends");
    assert!(!died.success(), "the worker was to die");
    world.worker(0).set("SYNC_CRASH_AT", "");
    world.start_worker_again(0).await;
    world.settled().await;
    world.assert_in_step().await;
    assert!(requests(world.sim()) < 120, "{} requests", requests(world.sim()));
}

#[tokio::test]
async fn a_few_changes_of_a_large_directory_are_asked_for_one_by_one() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    for n in 0..3_000 {
        sim.silently_create(
            Kind::DirectoryUser,
            json!({"directory_id": people, "email": format!("user{n}@example.com")}),
        );
    }
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    sim.reset_counters();
    for id in &sim.ever(Kind::DirectoryUser)[..25] {
        sim.update(Kind::DirectoryUser, id, json!({"first_name": "Augusta"}));
    }
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;
    assert_eq!(sim.requests().lists(Kind::DirectoryUser), 0, "the list has 30 pages");
    assert!(sim.requests().gets(Kind::DirectoryUser) <= 26);
}

#[tokio::test]
async fn a_directory_that_is_deleted_behind_a_backlog_takes_it_along() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    let people = people(sim, 300, 0);
    sim.delete(Kind::Directory, &people);
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;
    assert!(requests(sim) < 100, "{} requests", requests(sim));
}

#[tokio::test]
async fn a_thousand_users_go_with_their_directory_in_one_go() {
    let world = World::builder()
        .knobs(Knobs { auto_deliver: false, ..Knobs::default() })
        .patience(Duration::from_mins(1))
        .start()
        .await;
    let sim = world.sim();
    let people = directory(sim, &sim.organization("Acme"));
    for n in 0..1_000 {
        sim.silently_create(
            Kind::DirectoryUser,
            json!({"directory_id": people, "email": format!("user{n}@example.com")}),
        );
    }
    assert_eq!(world.worker_command(&["backfill"]).await.code(), Some(0));
    sim.reset_counters();
    sim.delete(Kind::Directory, &people);
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;
    assert!(requests(sim) < 5);
}

#[tokio::test]
async fn the_import_of_a_directory_with_its_memberships_costs_its_lists() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    people(sim, 300, 15);
    let groups = sim.ever(Kind::DirectoryGroup);
    for (n, user) in sim.ever(Kind::DirectoryUser).iter().enumerate() {
        join(sim, user, &groups[n % groups.len()]);
    }
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;
    // Users, groups (as objects, and for who is in them), users of each group; and single ones before it was a burst.
    let lists = sim.requests().lists(Kind::DirectoryUser) + sim.requests().lists(Kind::DirectoryGroup);
    assert!(lists < 3 + 1 + 1 + 15 + 20, "{lists} pages");
    assert!(requests(sim) < 70, "{} requests for 617 events", requests(sim));
}

#[tokio::test]
async fn who_joins_or_leaves_while_the_lists_are_read_is_not_missed() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    people(sim, 120, 3);
    let (groups, users) = (sim.ever(Kind::DirectoryGroup), sim.ever(Kind::DirectoryUser));
    let memberships: Vec<String> =
        users.iter().enumerate().map(|(n, user)| join(sim, user, &groups[n % 2])).collect();
    // After two pages of users, those of the first group: the answer is taken before these changes, and sent after them.
    let hold = sim.hold_page(Kind::DirectoryUser, 3);
    sim.set_knobs(Knobs::default());
    sim.release_held();
    hold.reached().await;
    for (n, user) in users.iter().enumerate() {
        match n % 3 {
            0 => drop(join(sim, user, &groups[2])),
            1 => drop(sim.delete(Kind::DirectoryGroupMembership, &memberships[n])),
            _ => drop(sim.update(Kind::DirectoryUser, user, json!({"first_name": "Augusta"}))),
        }
    }
    hold.release();
    world.settled().await;
    world.assert_in_step().await;
}

#[tokio::test]
async fn a_list_that_is_behind_is_not_believed_about_who_joined_or_left() {
    let world = World::builder().knobs(by_hand()).start().await;
    let sim = world.sim();
    people(sim, 30, 2);
    let (groups, users) = (sim.ever(Kind::DirectoryGroup), sim.ever(Kind::DirectoryUser));
    let memberships: Vec<String> = users.iter().map(|user| join(sim, user, &groups[0])).collect();
    sim.release_held();
    world.settled().await;
    // Every list may be as old as before these changes, however long the worker waits for quiet.
    sim.set_knobs(Knobs { stale_list: 1.0, stale_window_ms: 3_000, ..by_hand() });
    for (user, membership) in users.iter().zip(&memberships) {
        sim.delete(Kind::DirectoryGroupMembership, membership);
        join(sim, user, &groups[1]);
    }
    sim.release_held();
    world.settled().await;
    world.assert_in_step().await;
}
