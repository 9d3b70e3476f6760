//! A small company that keeps changing.

use std::time::Duration;

use serde_json::json;
use shared::id::Kind;
use support::sim::{Company, Sim};

/// How the company begins.
pub(crate) const BEGINNING: Company = Company {
    users: 40,
    organizations: 5,
    domains_per_organization: 1,
    memberships_per_user: 1,
    announce: true,
};

/// A change happens about this often.
const PACE: Duration = Duration::from_millis(300);

/// Fewer users than this, and nobody leaves any more.
const SMALLEST: usize = 20;

/// More than this, and nobody joins any more.
const LARGEST: usize = 80;

const FIRST: [&str; 12] = [
    "Ada", "Alan", "Barbara", "Claude", "Donald", "Edsger", "Frances", "Grace", "John", "Leslie", "Margaret",
    "Radia",
];
const LAST: [&str; 12] = [
    "Allen", "Dijkstra", "Hamilton", "Hopper", "Knuth", "Lamport", "Liskov", "Lovelace", "McCarthy",
    "Perlman", "Shannon", "Turing",
];
const NAMES: [&str; 8] = ["Acme", "Globex", "Initech", "Umbrella", "Hooli", "Soylent", "Stark", "Wayne"];
const ROLES: [&str; 3] = ["member", "admin", "billing"];

/// Changes something every now and then, until it is dropped.
pub(crate) async fn live(sim: &Sim) {
    loop {
        tokio::time::sleep(PACE.mul_f64(0.5 + fastrand::f64())).await;
        change(sim);
    }
}

fn change(sim: &Sim) {
    match fastrand::u8(0..100) {
        0..40 => {
            let Some(user) = any(sim, Kind::User) else { return };
            let patch = match fastrand::u8(0..4) {
                0 => json!({ "first_name": one(&FIRST) }),
                1 => json!({ "last_name": one(&LAST) }),
                2 => json!({ "locale": one(&["en-US", "de-DE", "fr-FR", "ja-JP"]) }),
                _ => json!({ "metadata": { "badge": fastrand::u32(1000..10_000).to_string() } }),
            };
            sim.update(Kind::User, &user, patch);
        }
        40..55 => {
            let Some(membership) = any(sim, Kind::OrganizationMembership) else { return };
            let role = json!({ "slug": one(&ROLES) });
            sim.update(Kind::OrganizationMembership, &membership, json!({ "role": role, "roles": [role] }));
        }
        55..65 => {
            let Some(organization) = any(sim, Kind::Organization) else { return };
            let name = format!("{} {}", one(&NAMES), one(&["Inc", "GmbH", "Ltd", "SA"]));
            sim.update(Kind::Organization, &organization, json!({ "name": name }));
        }
        65..72 => {
            let Some(domain) = any(sim, Kind::OrganizationDomain) else { return };
            let state = one(&["verified", "pending", "failed"]);
            sim.update(Kind::OrganizationDomain, &domain, json!({ "state": state }));
        }
        72..86 => joins(sim),
        86..94 => {
            if let Some(membership) = any(sim, Kind::OrganizationMembership) {
                sim.delete(Kind::OrganizationMembership, &membership);
            }
        }
        _ if sim.count(Kind::User) > SMALLEST => {
            if let Some(user) = any(sim, Kind::User) {
                sim.delete(Kind::User, &user);
            }
        }
        _ => {}
    }
}

/// Somebody new joins an organization; or, in a large company, somebody joins another one.
fn joins(sim: &Sim) {
    let Some(organization) = any(sim, Kind::Organization) else { return };
    let user = if sim.count(Kind::User) < LARGEST {
        let email = format!("{}.{}{}@example.com", one(&FIRST), one(&LAST), fastrand::u32(100..1000));
        Some(sim.user(&email.to_lowercase()))
    } else {
        any(sim, Kind::User)
    };
    let Some(user) = user else { return };
    let is_member = |membership: &serde_json::Value| {
        membership["user_id"] == user.as_str() && membership["organization_id"] == organization.as_str()
    };
    if !sim.all(Kind::OrganizationMembership).iter().any(is_member) {
        sim.membership(&user, &organization);
    }
}

/// The id of some object of a kind.
pub(crate) fn any(sim: &Sim, kind: Kind) -> Option<String> {
    let all = sim.all(kind);
    fastrand::choice(&all)?["id"].as_str().map(str::to_owned)
}

fn one<'a>(of: &[&'a str]) -> &'a str {
    fastrand::choice(of).copied().unwrap_or_default()
}
