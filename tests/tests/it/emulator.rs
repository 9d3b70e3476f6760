//! The official WorkOS emulator as API and as webhook source: what its API says is what the mirror shows.
//!
//! It signs with seconds where WorkOS has milliseconds, hence the tolerance; it posts each webhook once, in
//! any order; and fields that it does not know are null columns. `EMULATOR_SEED` repeats a random story.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use shared::id::Kind;
use shared::timestamp;
use sqlx::AssertSqlSafe;
use support::services::{Emulator, Place};
use support::world::{WEBHOOK_SECRET, World, mirror};

use crate::ledger::{outcome, outcomes};

/// Changes of a random story.
const CHANGES: usize = 150;

/// A world whose WorkOS is the emulator.
struct Official {
    world: World,
    emulator: Emulator,
    /// What the emulator has.
    live: BTreeMap<Kind, Vec<Object>>,
    /// What it has or had.
    ever: Vec<(Kind, String)>,
    _place: Place,
}

#[derive(Clone)]
struct Object {
    id: String,
    /// With any of them, it goes too.
    parents: Vec<String>,
    /// Of memberships.
    active: bool,
}

/// Where a kind is created and, with an id behind it, asked for, changed and deleted.
const fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Organization => "/organizations",
        Kind::User => "/user_management/users",
        Kind::OrganizationDomain => "/organization_domains",
        Kind::OrganizationMembership => "/user_management/organization_memberships",
        // Not among what its stories change.
        _ => "/not-in-these-stories",
    }
}

fn one(kind: Kind, id: &str) -> String {
    format!("{}/{id}", path(kind))
}

impl Official {
    async fn start() -> Self {
        let place = Place::new("emulator").expect("a directory");
        let emulator = Emulator::start(place.path()).await.expect("the emulator");
        let world = World::builder()
            .ingest_env(0, "WORKOS_WEBHOOK_TOLERANCE", "100years")
            .env("WORKOS_API_BASE_URL", emulator.url())
            .env("WORKOS_API_KEY", emulator.worker_key())
            // Every change has to come by webhook.
            .env("SYNC_TAIL_INTERVAL", "off")
            .start()
            .await;
        // Ingest is ready by now: what the emulator posts and nobody takes is lost.
        emulator.add_endpoint(&world.webhook_url(0), WEBHOOK_SECRET).await.expect("an endpoint");
        let live = Kind::ALL.map(|kind| (kind, Vec::new())).into();
        Self { world, emulator, live, ever: Vec::new(), _place: place }
    }

    async fn create(&mut self, kind: Kind, body: Value) -> String {
        let object = self.emulator.post(path(kind), &body).await.expect("an object");
        // An organization may come with domains.
        for domain in object["domains"].as_array().into_iter().flatten() {
            self.note(Kind::OrganizationDomain, domain);
        }
        self.note(kind, &object)
    }

    fn note(&mut self, kind: Kind, object: &Value) -> String {
        let text = |field: &str| object[field].as_str().map(str::to_owned);
        let id = text("id").expect("an id");
        let parents = [text("user_id"), text("organization_id")].into_iter().flatten().collect();
        self.ever.push((kind, id.clone()));
        self.live.entry(kind).or_default().push(Object { id: id.clone(), parents, active: true });
        id
    }

    async fn update(&self, kind: Kind, id: &str, body: Value) {
        self.emulator.put(&one(kind, id), &body).await.expect("an update");
    }

    async fn verify(&self, domain: &str) {
        let path = format!("{}/verify", one(Kind::OrganizationDomain, domain));
        self.emulator.post(&path, &json!({})).await.expect("a verification");
    }

    /// Deactivates an active membership, reactivates another.
    async fn switch(&mut self, membership: &str) {
        let memberships = self.live.get_mut(&Kind::OrganizationMembership).expect("memberships");
        let known = memberships.iter_mut().find(|known| known.id == membership).expect("a live membership");
        let verb = if known.active { "deactivate" } else { "reactivate" };
        known.active = !known.active;
        let path = format!("{}/{verb}", one(Kind::OrganizationMembership, membership));
        self.emulator.put(&path, &json!({})).await.expect("a change of status");
    }

    async fn delete(&mut self, kind: Kind, id: &str) {
        self.emulator.delete(&one(kind, id)).await.expect("a deletion");
        for objects in self.live.values_mut() {
            objects.retain(|object| object.id != id && !object.parents.iter().any(|parent| parent == id));
        }
    }

    fn pick(&self, kind: Kind, rng: &mut fastrand::Rng) -> Option<Object> {
        rng.choice(&self.live[&kind]).cloned()
    }

    /// Waits until every event that the emulator has is in the ledger with an outcome. Says how many.
    async fn settled(&self) -> usize {
        let events = self.emulator.events().await.expect("the events");
        for event in &events {
            let id = event["id"].as_str().expect("an id");
            let what = format!("the outcome of {id}, {}", event["event"]);
            self.world.eventually(&what, async || outcome(&self.world, id).await).await;
        }
        self.world.settled().await;
        events.len()
    }

    /// Panics with every difference between the mirror and what the API answers.
    async fn assert_in_step(&self) {
        let mut differences = Vec::new();
        for (kind, id) in &self.ever {
            let object = self.emulator.get(&one(*kind, id)).await.expect("an answer");
            let known = self.live[kind].iter().any(|known| known.id == *id);
            assert_eq!(object.is_some(), known, "the story knows what the emulator has, {kind} {id}");
            let tombstone = self.has_tombstone(*kind, id).await;
            if tombstone == known {
                differences.push(format!("{kind} {id}: WorkOS has it: {known}, tombstone: {tombstone}"));
            }
            let row = self.world.any_row(*kind, id).await;
            differences.extend(compare(*kind, id, row.as_ref(), object.as_ref()));
            if *kind == Kind::User {
                let profile = self.profile(id).await;
                differences.extend(compare_profile(id, profile.as_ref(), object.as_ref()));
            }
        }
        for (kind, objects) in &self.live {
            let table = mirror::table(*kind);
            let rows: i64 =
                sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM workos.{table}_live")))
                    .fetch_one(self.world.pool())
                    .await
                    .expect("a count");
            if usize::try_from(rows) != Ok(objects.len()) {
                differences.push(format!("{table}: {rows} live rows, and WorkOS has {}", objects.len()));
            }
        }
        assert!(differences.is_empty(), "{}", mirror::listing(&differences));
    }

    /// Whether the guard keeps it from coming back; it knows of deletions of objects without a row, too.
    async fn has_tombstone(&self, kind: Kind, id: &str) -> bool {
        sqlx::query_scalar(
            "SELECT deleted_at IS NOT NULL FROM workos_sync.objects WHERE kind = $1 AND id = $2",
        )
        .bind(kind.name())
        .bind(id)
        .fetch_optional(self.world.pool())
        .await
        .expect("the guard")
        .unwrap_or(false)
    }

    async fn profile(&self, id: &str) -> Option<Value> {
        sqlx::query_scalar("SELECT to_jsonb(p) FROM workos.profiles p WHERE id = $1")
            .bind(id)
            .fetch_optional(self.world.pool())
            .await
            .expect("the profiles")
    }
}

/// What differs between a row and an answer, a sentence each.
fn compare(kind: Kind, id: &str, row: Option<&Value>, object: Option<&Value>) -> Vec<String> {
    let (row, object) = match (row, object) {
        (Some(row), Some(object)) if row["_deleted_at"].is_null() => (row, object),
        (Some(row), None) if !row["_deleted_at"].is_null() => return Vec::new(),
        // It was gone before anybody could ask for it.
        (None, None) => return Vec::new(),
        (row, _) => {
            let (row, object) = (row.map(|row| &row["_deleted_at"]), object.is_some());
            return vec![format!("{kind} {id}: WorkOS has it: {object}; the row's `_deleted_at`: {row:?}")];
        }
    };
    let columns = row.as_object().into_iter().flatten();
    let mut differences: Vec<String> = columns
        .filter(|(column, _)| !column.starts_with('_'))
        .filter_map(|(column, here)| {
            let there = match (kind, column.as_str()) {
                (Kind::OrganizationMembership, "role_slug") => object["role"]["slug"].clone(),
                // The emulator has one role where WorkOS has a list.
                (Kind::OrganizationMembership, "role_slugs") => json!([object["role"]["slug"]]),
                _ => object[column].clone(),
            };
            let same = *here == there || instant(here).is_some_and(|time| instant(&there) == Some(time));
            (!same).then(|| format!("{kind} {id}: {column} is {here} in the mirror and {there} in WorkOS"))
        })
        .collect();
    // With it, anybody could verify the domain.
    let secret = object["verification_token"].as_str();
    if secret.is_some_and(|secret| row.to_string().contains(secret)) {
        differences.push(format!("{kind} {id}: the row holds the verification token"));
    }
    differences
}

fn compare_profile(id: &str, profile: Option<&Value>, user: Option<&Value>) -> Vec<String> {
    let expected = user.map(|user| (&user["first_name"], &user["last_name"], &user["profile_picture_url"]));
    let found = profile
        .filter(|profile| profile["_deleted_at"].is_null())
        .map(|profile| (&profile["first_name"], &profile["last_name"], &profile["avatar_url"]));
    if found == expected {
        return Vec::new();
    }
    vec![format!("profile {id}: is {found:?} in the mirror and {expected:?} in WorkOS")]
}

fn instant(value: &Value) -> Option<DateTime<Utc>> {
    timestamp::parse(value.as_str()?)
}

#[tokio::test]
async fn a_company_in_the_official_emulator_becomes_rows_and_tombstones() {
    let mut official = Official::start().await;
    let ada = official
        .create(Kind::User, json!({"email": "ada@example.com", "first_name": "Ada", "metadata": {"n": "1"}}))
        .await;
    let bob = official.create(Kind::User, json!({"email": "bob@example.com"})).await;
    let acme = official
        .create(
            Kind::Organization,
            json!({"name": "Acme", "domain_data": [{"domain": "acme.example", "state": "verified"}]}),
        )
        .await;
    let shop = official.create(Kind::Organization, json!({"name": "Shop", "external_id": "s1"})).await;
    let domain = json!({"organization_id": acme, "domain": "engines.example"});
    let engines = official.create(Kind::OrganizationDomain, domain).await;
    let domain = json!({"organization_id": shop, "domain": "shop.example"});
    let domain_of_shop = official.create(Kind::OrganizationDomain, domain).await;
    let mut memberships = Vec::new();
    for (user, organization) in [(&ada, &acme), (&bob, &acme), (&bob, &shop)] {
        let membership = json!({"user_id": user, "organization_id": organization});
        memberships.push(official.create(Kind::OrganizationMembership, membership).await);
    }
    let [ada_at_acme, bob_at_acme, bob_at_shop] = &memberships[..] else { unreachable!() };
    official.settled().await;
    official.assert_in_step().await;
    let world = &official.world;
    let row = world.row(Kind::OrganizationMembership, ada_at_acme).await.expect("a live row");
    assert_eq!((&row["role_slug"], &row["status"]), (&json!("member"), &json!("active")));
    let row = world.row(Kind::OrganizationDomain, &engines).await.expect("a live row");
    assert_eq!((&row["state"], &row["domain"]), (&json!("pending"), &json!("engines.example")));
    let row = world.row(Kind::User, &ada).await.expect("a live row");
    assert_eq!((&row["metadata"], &row["name"]), (&json!({"n": "1"}), &Value::Null));

    official.update(Kind::User, &ada, json!({"first_name": "Augusta", "email_verified": true})).await;
    official.update(Kind::Organization, &acme, json!({"name": "Acme Engines"})).await;
    official.update(Kind::OrganizationMembership, ada_at_acme, json!({"role_slug": "admin"})).await;
    official.verify(&engines).await;
    official.switch(bob_at_acme).await;
    official.settled().await;
    official.assert_in_step().await;
    let world = &official.world;
    assert_eq!(world.row(Kind::User, &ada).await.expect("a live row")["first_name"], "Augusta");
    let row = world.row(Kind::OrganizationMembership, ada_at_acme).await.expect("a live row");
    assert_eq!((&row["role_slug"], &row["role_slugs"]), (&json!("admin"), &json!(["admin"])));
    let row = world.row(Kind::OrganizationMembership, bob_at_acme).await.expect("a live row");
    assert_eq!(row["status"], "inactive");
    let row = world.row(Kind::OrganizationDomain, &engines).await.expect("a live row");
    assert_eq!(row["state"], "verified");

    official.switch(bob_at_acme).await;
    official.delete(Kind::OrganizationDomain, &engines).await;
    official.delete(Kind::OrganizationMembership, ada_at_acme).await;
    official.delete(Kind::Organization, &shop).await;
    official.settled().await;
    official.assert_in_step().await;
    let world = &official.world;
    let row = world.row(Kind::OrganizationMembership, bob_at_acme).await.expect("a live row");
    assert_eq!(row["status"], "active");
    for (kind, id) in [
        (Kind::OrganizationDomain, &engines),
        (Kind::OrganizationMembership, ada_at_acme),
        (Kind::Organization, &shop),
        (Kind::OrganizationDomain, &domain_of_shop),
        (Kind::OrganizationMembership, bob_at_shop),
    ] {
        let row = world.any_row(kind, id).await.expect("a tombstone, not a hole");
        assert!(!row["_deleted_at"].is_null(), "{kind} {id}");
    }

    official.delete(Kind::User, &bob).await;
    official.settled().await;
    official.assert_in_step().await;
    assert!(official.world.row(Kind::OrganizationMembership, bob_at_acme).await.is_none());
}

#[tokio::test]
async fn after_random_changes_in_the_official_emulator_the_mirror_equals_its_api() {
    let seed =
        std::env::var("EMULATOR_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().expect("a seed"));
    println!("EMULATOR_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut official = Official::start().await;
    let (mut tries, mut changes) = (0, 0);
    while changes < CHANGES {
        changes += usize::from(change(&mut official, &mut rng, tries).await);
        tries += 1;
    }
    let events = official.settled().await;
    official.assert_in_step().await;

    // A deletion and a new organization bring more than one.
    assert!(events >= CHANGES, "{events} events");
    let outcomes = outcomes(&official.world).await;
    let fine = ["applied", "unchanged", "superseded", "deleted"];
    assert!(outcomes.iter().all(|(outcome, _)| fine.contains(&outcome.as_str())), "{outcomes:?}");
}

/// One random change. Says whether there was anything to change.
async fn change(official: &mut Official, rng: &mut fastrand::Rng, n: usize) -> bool {
    let name = format!("Name {n}");
    let user = official.pick(Kind::User, rng);
    let organization = official.pick(Kind::Organization, rng);
    let domain = official.pick(Kind::OrganizationDomain, rng);
    let membership = official.pick(Kind::OrganizationMembership, rng);
    match (rng.u32(0..100), user, organization, domain, membership) {
        (0..16, ..) => {
            official
                .create(Kind::User, json!({"email": format!("u{n}@example.com"), "first_name": name}))
                .await;
        }
        (16..24, ..) => {
            let domains = json!([{"domain": format!("o{n}.example")}]);
            official.create(Kind::Organization, json!({"name": name, "domain_data": domains})).await;
        }
        (24..32, _, Some(organization), ..) => {
            let domain = json!({"organization_id": organization.id, "domain": format!("d{n}.example")});
            official.create(Kind::OrganizationDomain, domain).await;
        }
        (32..50, Some(user), Some(organization), ..) => {
            let parents = [user.id, organization.id];
            if official.live[&Kind::OrganizationMembership].iter().any(|other| other.parents == parents) {
                return false;
            }
            let membership = json!({"user_id": parents[0], "organization_id": parents[1]});
            official.create(Kind::OrganizationMembership, membership).await;
        }
        (50..60, Some(user), ..) => {
            let patch = json!({"last_name": name, "metadata": {"n": n.to_string()}});
            official.update(Kind::User, &user.id, patch).await;
        }
        (60..67, _, Some(organization), ..) => {
            official.update(Kind::Organization, &organization.id, json!({"name": name})).await;
        }
        (67..74, _, _, Some(domain), _) => official.verify(&domain.id).await,
        (74..79, .., Some(membership)) => {
            let patch = json!({"role_slug": format!("role-{n}")});
            official.update(Kind::OrganizationMembership, &membership.id, patch).await;
        }
        (79..86, .., Some(membership)) => official.switch(&membership.id).await,
        (86..90, .., Some(membership)) => {
            official.delete(Kind::OrganizationMembership, &membership.id).await;
        }
        (90..94, _, _, Some(domain), _) => official.delete(Kind::OrganizationDomain, &domain.id).await,
        (94..98, Some(user), ..) => official.delete(Kind::User, &user.id).await,
        (98.., _, Some(organization), ..) => official.delete(Kind::Organization, &organization.id).await,
        _ => return false,
    }
    true
}
