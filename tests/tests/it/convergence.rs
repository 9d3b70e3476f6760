//! P2: whatever was duplicated, reordered, delayed or lost, and whoever was killed, the mirror ends equal.
//!
//! `CONVERGENCE_SEEDS=1,2,3` or `CONVERGENCE_SEEDS=1..20` chooses the seeds, `CONVERGENCE_CHANGES` how many
//! changes each makes.

use std::time::Duration;

use serde_json::{Value, json};
use shared::id::Kind;
use support::sim::{Knobs, Sim};
use support::world::{WEBHOOK_SECRET, World};

use crate::tail::every_event_ends;

fn seeds() -> Vec<u64> {
    let given = std::env::var("CONVERGENCE_SEEDS").unwrap_or_else(|_| "1,2".to_owned());
    given
        .split(',')
        .flat_map(|part| match part.split_once("..") {
            Some((first, last)) => (first.parse().expect("a seed")..=last.parse().expect("a seed")).collect(),
            None => vec![part.parse().expect("a seed")],
        })
        .collect()
}

fn changes() -> usize {
    std::env::var("CONVERGENCE_CHANGES").map_or(2_000, |given| given.parse().expect("a number of changes"))
}

/// One random change of WorkOS.
pub(crate) fn change(sim: &Sim, rng: &mut fastrand::Rng, n: usize) {
    let pick = |kind: Kind, rng: &mut fastrand::Rng| -> Option<String> {
        let all = sim.all(kind);
        if all.is_empty() { None } else { all[rng.usize(0..all.len())]["id"].as_str().map(str::to_owned) }
    };
    let name = format!("Name {n}");
    match rng.u32(0..100) {
        0..6 if sim.count(Kind::User) < 70 => {
            sim.user(&format!("user{n}@example.com"));
        }
        6..9 if sim.count(Kind::Organization) < 20 => {
            sim.organization(&name);
        }
        9..13 if sim.count(Kind::OrganizationDomain) < 20 => {
            if let Some(organization) = pick(Kind::Organization, rng) {
                sim.domain(&organization, &format!("d{n}.example"));
            }
        }
        13..22 if sim.count(Kind::OrganizationMembership) < 60 => {
            if let (Some(user), Some(organization)) = (pick(Kind::User, rng), pick(Kind::Organization, rng)) {
                sim.membership(&user, &organization);
            }
        }
        22..24 => {
            if let Some(user) = pick(Kind::User, rng) {
                sim.delete(Kind::User, &user);
            }
        }
        24..25 => {
            if let Some(organization) = pick(Kind::Organization, rng) {
                sim.delete(Kind::Organization, &organization);
            }
        }
        25..28 => {
            if let Some(membership) = pick(Kind::OrganizationMembership, rng) {
                sim.delete(Kind::OrganizationMembership, &membership);
            }
        }
        28..30 => {
            if let Some(domain) = pick(Kind::OrganizationDomain, rng) {
                sim.delete(Kind::OrganizationDomain, &domain);
            }
        }
        roll => {
            let (kind, patch): (Kind, Value) = match roll % 4 {
                0 | 1 => (Kind::User, json!({"first_name": name, "metadata": {"n": n.to_string()}})),
                2 => (Kind::Organization, json!({"name": name})),
                _ => (
                    Kind::OrganizationMembership,
                    json!({"status": if rng.bool() { "active" } else { "inactive" }}),
                ),
            };
            if let Some(id) = pick(kind, rng) {
                sim.update(kind, &id, patch);
            }
        }
    }
}

/// Whether nothing is missing that an object is made of.
fn complete(given: &Value) -> bool {
    match given {
        Value::Object(fields) => fields.values().all(complete),
        value => !value.is_null(),
    }
}

/// Whether there is none like it already, of what cannot be there twice: slugs, and who is in a group.
fn is_new(sim: &Sim, kind: Kind, given: &Value) -> bool {
    if matches!(kind, Kind::DirectoryGroupMembership | Kind::GroupMembership) {
        let fields = || given.as_object().into_iter().flatten();
        return !sim.all(kind).iter().any(|there| fields().all(|(field, id)| there[field] == *id));
    }
    match (given["organization_id"].as_str(), given["slug"].as_str()) {
        (Some(organization), Some(slug)) => sim.get(kind, &format!("{organization}/{slug}")).is_none(),
        (None, Some(slug)) => sim.get(kind, slug).is_none(),
        (_, None) => true,
    }
}

/// A member and a group, each as this field: both of the same directory or organization.
fn joins(
    sim: &Sim,
    rng: &mut fastrand::Rng,
    (member, as_member): (Kind, &str),
    (group, as_group): (Kind, &str),
    of: &str,
) -> Option<Value> {
    let member = rng.choice(sim.all(member))?;
    let mut groups = sim.all(group);
    groups.retain(|group| group[of] == member[of]);
    Some(json!({as_member: member["id"], as_group: rng.choice(groups)?["id"]}))
}

/// One random change of any kind of object.
fn change_of_any_kind(sim: &Sim, rng: &mut fastrand::Rng, n: usize) {
    let living = |kind: Kind| -> Vec<String> {
        sim.ever(kind).into_iter().filter(|key| sim.get(kind, key).is_some()).collect()
    };
    let pick = |kind: Kind, rng: &mut fastrand::Rng| -> Option<String> {
        let mut all = living(kind);
        if all.is_empty() { None } else { Some(all.swap_remove(rng.usize(0..all.len()))) }
    };
    let kind = Kind::ALL[rng.usize(0..Kind::ALL.len())];
    let few = living(kind).len() < 12;
    let roll = rng.u32(0..10);
    if few && roll < 5 {
        // Beside what is there already, so that parents have several children.
        let (organization, user) = (pick(Kind::Organization, rng), pick(Kind::User, rng));
        let directory = pick(Kind::Directory, rng);
        let given = match kind {
            Kind::OrganizationMembership => json!({"user_id": user, "organization_id": organization}),
            Kind::OrganizationDomain
            | Kind::Connection
            | Kind::Invitation
            | Kind::Group
            | Kind::Directory => {
                json!({"organization_id": organization})
            }
            Kind::OrganizationRole => {
                json!({"organization_id": organization, "slug": format!("slug-{}", rng.u32(0..3))})
            }
            Kind::Role | Kind::Permission | Kind::FeatureFlag => {
                json!({"slug": format!("slug-{}", rng.u32(0..3))})
            }
            Kind::DirectoryUser | Kind::DirectoryGroup => json!({"directory_id": directory}),
            Kind::DirectoryGroupMembership => {
                let user = (Kind::DirectoryUser, "directory_user_id");
                let group = (Kind::DirectoryGroup, "directory_group_id");
                joins(sim, rng, user, group, "directory_id").unwrap_or_default()
            }
            Kind::GroupMembership => {
                let membership = (Kind::OrganizationMembership, "organization_membership_id");
                let group = (Kind::Group, "group_id");
                joins(sim, rng, membership, group, "organization_id").unwrap_or_default()
            }
            Kind::Session => json!({"user_id": user}),
            Kind::ApiKey if rng.bool() => json!({"owner": {"type": "organization", "id": organization}}),
            Kind::ApiKey => json!({"owner": {"type": "user", "id": user, "organization_id": organization}}),
            Kind::User | Kind::Organization => json!({}),
        };
        if complete(&given) && is_new(sim, kind, &given) {
            sim.create(kind, given);
        }
        return;
    }
    let Some(key) = pick(kind, rng) else { return };
    // An invitation cannot be deleted.
    if roll == 9 && kind != Kind::Invitation {
        // What everything hangs on goes rarely.
        if !matches!(kind, Kind::Organization | Kind::User | Kind::Directory) || rng.u32(0..4) == 0 {
            sim.delete(kind, &key);
        }
        return;
    }
    let patch = match kind {
        Kind::User => json!({"first_name": format!("Name {n}")}),
        Kind::OrganizationMembership => json!({"status": if rng.bool() { "active" } else { "inactive" }}),
        Kind::OrganizationDomain => json!({"state": if rng.bool() { "verified" } else { "failed" }}),
        Kind::Directory => json!({"state": if rng.bool() { "linked" } else { "unlinked" }}),
        Kind::Connection | Kind::DirectoryUser => {
            json!({"state": if rng.bool() { "active" } else { "inactive" }})
        }
        Kind::Invitation => json!({"state": "accepted", "accepted_at": "2026-01-15T12:00:00.000Z"}),
        Kind::Session => json!({"status": "revoked", "ended_at": "2026-01-15T12:00:00.000Z"}),
        Kind::ApiKey => json!({"expires_at": "2027-01-01T00:00:00.000Z"}),
        Kind::DirectoryGroupMembership | Kind::GroupMembership => return,
        Kind::Organization
        | Kind::Group
        | Kind::DirectoryGroup
        | Kind::Role
        | Kind::OrganizationRole
        | Kind::Permission
        | Kind::FeatureFlag => json!({"name": format!("Name {n}")}),
    };
    // What an object is already is no change, and what has ended does not change any more: WorkOS says nothing of it.
    let now = sim.get(kind, &key).unwrap_or_default();
    let state = |fields: &Value| fields.get("state").or_else(|| fields.get("status")).cloned();
    let ended = matches!(kind, Kind::Invitation | Kind::Session)
        && !matches!(state(&now).as_ref().and_then(Value::as_str), Some("pending" | "active"));
    if !ended && (state(&patch).is_none() || state(&patch) != state(&now)) {
        sim.update(kind, &key, patch);
    }
}

async fn converges(seed: u64, change: fn(&Sim, &mut fastrand::Rng, usize)) {
    println!("convergence: seed {seed}, {} changes", changes());
    let mut rng = fastrand::Rng::with_seed(seed);
    let knobs = Knobs {
        // Each endpoint has a webhook of its own: some events come by neither.
        lost_webhook: 0.2,
        stale_list: 0.05,
        cascade_events: rng.bool(),
        envelope_object: rng.bool(),
        ..Knobs::bad_day()
    };
    let mut world = World::builder()
        .seed(seed)
        .knobs(knobs)
        .ingests(2)
        .workers(3)
        .env("SYNC_ACK_WAIT", "2s")
        .env("SYNC_RATE_LIMIT", "off")
        .env("SYNC_TAIL_INTERVAL", "500ms")
        .env("SYNC_LIST_BURSTS", if seed.is_multiple_of(2) { "on" } else { "off" })
        .patience(Duration::from_mins(4))
        .start()
        .await;
    // WorkOS tells both copies of everything.
    world.sim().add_endpoint(&world.webhook_url(1), WEBHOOK_SECRET);
    let total = changes();
    let mut n = 0;
    // Some draws change nothing: there is nothing yet to be changed, or it is so already.
    while n < total || world.sim().events().len() < total {
        change(world.sim(), &mut rng, n);
        if n % (total / 8).max(1) == total / 16 {
            let unlucky = rng.usize(0..3);
            world.kill_worker(unlucky);
            world.start_worker_again(unlucky).await;
        }
        if n % 20 == 0 {
            tokio::task::yield_now().await;
        }
        n += 1;
    }
    // What was lost on one channel comes on the other.
    every_event_ends(&world).await;
    world.settled().await;
    let differences = world.differences().await;
    assert!(differences.is_empty(), "seed {seed}: {}", support::world::mirror::listing(&differences));
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM workos_sync.events WHERE outcome IS NULL")
        .fetch_one(world.pool())
        .await
        .expect("the ledger");
    assert_eq!(open, 0, "seed {seed}: every event has its outcome");
    let events = i64::try_from(world.sim().events().len()).expect("few");
    let recorded: i64 = sqlx::query_scalar("SELECT count(*) FROM workos_sync.events")
        .fetch_one(world.pool())
        .await
        .expect("the ledger");
    assert_eq!(recorded, events, "seed {seed}: every event is recorded");
    assert!(events >= i64::try_from(total).expect("few"), "seed {seed}: only {events} changes");
    for ingest in 0..2 {
        let stored =
            world.ingest_metrics(ingest).await.value("workos_sync_webhooks_total", &[("status", "200")]);
        assert!(stored > 0.0, "seed {seed}: ingest {ingest} took no webhook");
    }
    println!(
        "convergence: seed {seed} in step, {events} events, {} requests",
        world.sim().requests().all_gets()
    );
}

#[tokio::test]
async fn on_the_worst_of_days_the_mirror_ends_equal_to_workos() {
    for seed in seeds() {
        converges(seed, change).await;
    }
}

#[tokio::test]
async fn on_the_worst_of_days_every_kind_of_object_ends_equal_to_workos() {
    // One is enough for every day; the others are for the variable.
    let given = std::env::var("CONVERGENCE_SEEDS").is_ok();
    for seed in seeds().into_iter().take(if given { usize::MAX } else { 1 }) {
        converges(seed, change_of_any_kind).await;
    }
}
