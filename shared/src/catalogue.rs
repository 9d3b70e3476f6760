//! Every event type we act on: what it is about, where its ids stand, what it says happened.
//!
//! One table, read by ingest, worker and simulator. The source of each line is the list of event
//! types in the WorkOS API reference. A type that is not here is recorded as `ignored`, never an
//! error; a new WorkOS type is one line.

use serde::{Deserialize, Serialize};

use crate::id::Kind;

/// What an event says happened to its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The object is new.
    Created,
    /// The object changed.
    Updated,
    /// The object is gone: a tombstone at once, without waiting for an answer.
    Deleted,
}

/// One event type.
#[derive(Debug)]
pub struct Entry {
    /// WorkOS's name of it.
    pub event_type: &'static str,
    /// The kind of object it is about.
    pub kind: Kind,
    /// Where the object's id stands, below `data`.
    pub id: &'static [&'static str],
    /// Where the id of its organization stands, below `data`; empty when it has none.
    pub organization: &'static [&'static str],
    /// What it says happened.
    pub operation: Operation,
}

const NONE: &[&str] = &[];
const ID: &[&str] = &["id"];
const ORGANIZATION_ID: &[&str] = &["organization_id"];

const fn entry(
    event_type: &'static str,
    kind: Kind,
    id: &'static [&'static str],
    organization: &'static [&'static str],
    operation: Operation,
) -> Entry {
    Entry { event_type, kind, id, organization, operation }
}

/// The table.
pub const ENTRIES: &[Entry] = {
    use Kind::{Organization, OrganizationDomain, OrganizationMembership, User};
    use Operation::{Created, Deleted, Updated};
    &[
        entry("user.created", User, ID, NONE, Created),
        entry("user.updated", User, ID, NONE, Updated),
        entry("user.deleted", User, ID, NONE, Deleted),
        entry("organization.created", Organization, ID, ID, Created),
        entry("organization.updated", Organization, ID, ID, Updated),
        entry("organization.deleted", Organization, ID, ID, Deleted),
        entry("organization_domain.created", OrganizationDomain, ID, ORGANIZATION_ID, Created),
        entry("organization_domain.updated", OrganizationDomain, ID, ORGANIZATION_ID, Updated),
        entry("organization_domain.deleted", OrganizationDomain, ID, ORGANIZATION_ID, Deleted),
        entry("organization_domain.verified", OrganizationDomain, ID, ORGANIZATION_ID, Updated),
        entry(
            "organization_domain.verification_failed",
            OrganizationDomain,
            &["organization_domain", "id"],
            &["organization_domain", "organization_id"],
            Updated,
        ),
        entry("organization_membership.created", OrganizationMembership, ID, ORGANIZATION_ID, Created),
        entry("organization_membership.updated", OrganizationMembership, ID, ORGANIZATION_ID, Updated),
        entry("organization_membership.deleted", OrganizationMembership, ID, ORGANIZATION_ID, Deleted),
    ]
};

/// The entry of an event type, if we act on it.
#[must_use]
pub fn find(event_type: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.event_type == event_type)
}

/// The event type as a label of a metric: the types of the catalogue by name, all others as one, so
/// that nobody can make the number of labels grow.
#[must_use]
pub fn label(event_type: &str) -> &'static str {
    find(event_type).map_or("other", |entry| entry.event_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_type_stands_twice() {
        for entry in ENTRIES {
            let count = ENTRIES.iter().filter(|other| other.event_type == entry.event_type).count();
            assert_eq!(count, 1, "{}", entry.event_type);
        }
    }

    #[test]
    fn every_kind_has_a_deletion() {
        for kind in Kind::ALL {
            assert!(
                ENTRIES.iter().any(|entry| entry.kind == kind && entry.operation == Operation::Deleted),
                "{kind}"
            );
        }
    }
}
