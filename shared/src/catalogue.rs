//! Every event type that WorkOS documents: what it is about, where its ids stand, what it says happened.
//!
//! One table, read by ingest, worker, tail, simulator and the document of supported events. The source of each
//! line is the list of event types in the WorkOS API reference. A type that has no kind here, or that is not here
//! at all, is recorded as `ignored`, never an error; a new WorkOS type is one line.

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

/// Names of members, from the outside in.
pub type Path = &'static [&'static str];

/// One event type.
#[derive(Debug)]
pub struct Entry {
    /// WorkOS's name of it.
    pub event_type: &'static str,
    /// The kind of object it is about; `None` when we do not mirror it.
    pub kind: Option<Kind>,
    /// Where the object's id stands, below `data`. What only several parts name together has their ids with `/`
    /// between them.
    pub id: &'static [Path],
    /// Where the id of its organization stands, below `data`; empty when it has none.
    pub organization: Path,
    /// Where an owner stands, below `data`, that is the organization itself when its `type` says so; empty when none does.
    pub owner: Path,
    /// Where the id of the directory stands that holds it, below `data`; empty when none does.
    pub directory: Path,
    /// Where the id of the one member stands that it is about, below `data`, and whether that is a member now.
    pub member: Option<(Path, bool)>,
    /// Which fields beside that id travel along: none that holds personal data.
    pub tells: &'static [&'static str],
    /// What it says happened; `None` when we do not mirror it.
    pub operation: Option<Operation>,
    /// Whether a webhook can be subscribed to it; otherwise only the Events API tells of it.
    pub webhook: bool,
}

const NONE: Path = &[];
const ID: &[Path] = &[&["id"]];
/// An organization is its own organization.
const OWN_ID: Path = &["id"];
const ORGANIZATION_ID: Path = &["organization_id"];
const DIRECTORY_ID: Path = &["directory_id"];
const SLUG: &[Path] = &[&["slug"]];
const ORGANIZATION_AND_SLUG: &[Path] = &[ORGANIZATION_ID, &["slug"]];

const WEBHOOK: bool = true;
const EVENTS_API: bool = false;

/// A type of a kind that is mirrored, and that webhooks can be subscribed to.
const fn entry(
    event_type: &'static str,
    kind: Kind,
    id: &'static [Path],
    organization: Path,
    operation: Operation,
) -> Entry {
    Entry {
        event_type,
        kind: Some(kind),
        id,
        organization,
        owner: NONE,
        directory: NONE,
        member: None,
        tells: &[],
        operation: Some(operation),
        webhook: WEBHOOK,
    }
}

/// A type that is known and not mirrored.
const fn ignored(event_type: &'static str, webhook: bool) -> Entry {
    Entry {
        event_type,
        kind: None,
        id: &[],
        organization: NONE,
        owner: NONE,
        directory: NONE,
        member: None,
        tells: &[],
        operation: None,
        webhook,
    }
}

/// A type about what a directory holds.
const fn dsync(event_type: &'static str, kind: Kind, operation: Operation) -> Entry {
    Entry { directory: DIRECTORY_ID, ..entry(event_type, kind, ID, ORGANIZATION_ID, operation) }
}

/// A type about a user who joins or leaves a group of a directory: the groups of that user are asked for.
const fn dsync_membership(event_type: &'static str, is_in: bool) -> Entry {
    Entry {
        directory: DIRECTORY_ID,
        member: Some((&["group", "id"], is_in)),
        ..entry(
            event_type,
            Kind::DirectoryGroupMembership,
            &[&["user", "id"]],
            &["user", "organization_id"],
            Operation::Updated,
        )
    }
}

/// A type about a membership that joins or leaves a group: the groups of that membership are asked for.
const fn group_membership(event_type: &'static str, is_in: bool) -> Entry {
    Entry {
        member: Some((&["group_id"], is_in)),
        ..entry(
            event_type,
            Kind::GroupMembership,
            &[&["organization_membership_id"]],
            NONE,
            Operation::Updated,
        )
    }
}

/// A type about a session: the active sessions of its user are asked for. How one ended, WorkOS says only here.
const fn session(event_type: &'static str, is_active: bool, tells: &'static [&'static str]) -> Entry {
    Entry {
        member: Some((&["id"], is_active)),
        tells,
        ..entry(event_type, Kind::Session, &[&["user_id"]], ORGANIZATION_ID, Operation::Updated)
    }
}

/// A type about an API key: the keys of its owner are asked for. That one was revoked is certain without an answer. A
/// user's key is for an organization; that of an organization is for itself.
const fn api_key(event_type: &'static str, is_valid: bool, tells: &'static [&'static str]) -> Entry {
    Entry {
        owner: &["owner"],
        member: Some((&["id"], is_valid)),
        tells,
        ..entry(
            event_type,
            Kind::ApiKey,
            &[&["owner", "type"], &["owner", "id"]],
            &["owner", "organization_id"],
            Operation::Updated,
        )
    }
}

/// What is told of a session that ended: not the address, the browser or who impersonated whom.
const ENDED_SESSION: &[&str] =
    &["organization_id", "auth_method", "status", "expires_at", "ended_at", "created_at", "updated_at"];

/// What is told of an API key that was revoked: its id at least, whatever else a payload leaves out.
const REVOKED_KEY: &[&str] = &["id", "updated_at"];

/// The table.
pub const ENTRIES: &[Entry] = {
    use Kind::{
        Connection, Directory, DirectoryGroup, DirectoryUser, FeatureFlag, Group, Invitation, Organization,
        OrganizationDomain, OrganizationMembership, OrganizationRole, Permission, Role, User,
    };
    use Operation::{Created, Deleted, Updated};
    &[
        entry("user.created", User, ID, NONE, Created),
        entry("user.updated", User, ID, NONE, Updated),
        entry("user.deleted", User, ID, NONE, Deleted),
        entry("organization.created", Organization, ID, OWN_ID, Created),
        entry("organization.updated", Organization, ID, OWN_ID, Updated),
        entry("organization.deleted", Organization, ID, OWN_ID, Deleted),
        entry("organization_domain.created", OrganizationDomain, ID, ORGANIZATION_ID, Created),
        entry("organization_domain.updated", OrganizationDomain, ID, ORGANIZATION_ID, Updated),
        entry("organization_domain.deleted", OrganizationDomain, ID, ORGANIZATION_ID, Deleted),
        entry("organization_domain.verified", OrganizationDomain, ID, ORGANIZATION_ID, Updated),
        entry(
            "organization_domain.verification_failed",
            OrganizationDomain,
            &[&["organization_domain", "id"]],
            &["organization_domain", "organization_id"],
            Updated,
        ),
        entry("organization_membership.created", OrganizationMembership, ID, ORGANIZATION_ID, Created),
        entry("organization_membership.updated", OrganizationMembership, ID, ORGANIZATION_ID, Updated),
        entry("organization_membership.deleted", OrganizationMembership, ID, ORGANIZATION_ID, Deleted),
        entry("role.created", Role, SLUG, NONE, Created),
        entry("role.updated", Role, SLUG, NONE, Updated),
        entry("role.deleted", Role, SLUG, NONE, Deleted),
        entry("organization_role.created", OrganizationRole, ORGANIZATION_AND_SLUG, ORGANIZATION_ID, Created),
        entry("organization_role.updated", OrganizationRole, ORGANIZATION_AND_SLUG, ORGANIZATION_ID, Updated),
        entry("organization_role.deleted", OrganizationRole, ORGANIZATION_AND_SLUG, ORGANIZATION_ID, Deleted),
        entry("permission.created", Permission, SLUG, NONE, Created),
        entry("permission.updated", Permission, SLUG, NONE, Updated),
        entry("permission.deleted", Permission, SLUG, NONE, Deleted),
        entry("connection.activated", Connection, ID, ORGANIZATION_ID, Updated),
        entry("connection.deactivated", Connection, ID, ORGANIZATION_ID, Updated),
        entry("connection.deleted", Connection, ID, ORGANIZATION_ID, Deleted),
        entry(
            "connection.saml_certificate_renewal_required",
            Connection,
            &[&["connection", "id"]],
            &["connection", "organization_id"],
            Updated,
        ),
        entry(
            "connection.saml_certificate_renewed",
            Connection,
            &[&["connection", "id"]],
            &["connection", "organization_id"],
            Updated,
        ),
        entry("invitation.created", Invitation, ID, ORGANIZATION_ID, Created),
        entry("invitation.accepted", Invitation, ID, ORGANIZATION_ID, Updated),
        entry("invitation.revoked", Invitation, ID, ORGANIZATION_ID, Updated),
        entry("invitation.resent", Invitation, ID, ORGANIZATION_ID, Updated),
        entry("flag.created", FeatureFlag, SLUG, NONE, Created),
        entry("flag.updated", FeatureFlag, SLUG, NONE, Updated),
        entry("flag.deleted", FeatureFlag, SLUG, NONE, Deleted),
        entry("flag.rule_updated", FeatureFlag, SLUG, NONE, Updated),
        // Directory Sync.
        entry("dsync.activated", Directory, ID, ORGANIZATION_ID, Updated),
        Entry { webhook: EVENTS_API, ..entry("dsync.deactivated", Directory, ID, ORGANIZATION_ID, Updated) },
        entry("dsync.deleted", Directory, ID, ORGANIZATION_ID, Deleted),
        dsync("dsync.user.created", DirectoryUser, Created),
        dsync("dsync.user.updated", DirectoryUser, Updated),
        dsync("dsync.user.deleted", DirectoryUser, Deleted),
        dsync("dsync.group.created", DirectoryGroup, Created),
        dsync("dsync.group.updated", DirectoryGroup, Updated),
        dsync("dsync.group.deleted", DirectoryGroup, Deleted),
        dsync_membership("dsync.group.user_added", true),
        dsync_membership("dsync.group.user_removed", false),
        // Groups of memberships, sessions, API keys.
        entry("group.created", Group, ID, ORGANIZATION_ID, Created),
        entry("group.updated", Group, ID, ORGANIZATION_ID, Updated),
        entry("group.deleted", Group, ID, ORGANIZATION_ID, Deleted),
        group_membership("group.member_added", true),
        group_membership("group.member_removed", false),
        session("session.created", true, &[]),
        session("session.revoked", false, ENDED_SESSION),
        api_key("api_key.created", true, &["updated_at"]),
        api_key("api_key.updated", true, &["updated_at"]),
        api_key("api_key.revoked", false, REVOKED_KEY),
        // Nothing of these is mirrored.
        ignored("dsync.token.created", EVENTS_API),
        ignored("dsync.token.revoked", EVENTS_API),
        ignored("waitlist_user.created", WEBHOOK),
        ignored("waitlist_user.approved", WEBHOOK),
        ignored("waitlist_user.denied", WEBHOOK),
        ignored("email_verification.created", WEBHOOK),
        ignored("magic_auth.created", WEBHOOK),
        ignored("password_reset.created", WEBHOOK),
        ignored("password_reset.succeeded", WEBHOOK),
        ignored("authentication.email_verification_failed", EVENTS_API),
        ignored("authentication.email_verification_succeeded", WEBHOOK),
        ignored("authentication.magic_auth_failed", WEBHOOK),
        ignored("authentication.magic_auth_succeeded", WEBHOOK),
        ignored("authentication.mfa_failed", EVENTS_API),
        ignored("authentication.mfa_succeeded", WEBHOOK),
        ignored("authentication.oauth_failed", WEBHOOK),
        ignored("authentication.oauth_succeeded", WEBHOOK),
        ignored("authentication.passkey_failed", WEBHOOK),
        ignored("authentication.passkey_succeeded", WEBHOOK),
        ignored("authentication.password_failed", WEBHOOK),
        ignored("authentication.password_succeeded", WEBHOOK),
        ignored("authentication.radar_risk_detected", WEBHOOK),
        ignored("authentication.reauthentication_succeeded", WEBHOOK),
        ignored("authentication.sso_failed", WEBHOOK),
        ignored("authentication.sso_started", WEBHOOK),
        ignored("authentication.sso_succeeded", WEBHOOK),
        ignored("authentication.sso_timed_out", WEBHOOK),
        ignored("action.authentication.denied", EVENTS_API),
        ignored("action.user_registration.denied", EVENTS_API),
        ignored("radar.challenge_created", WEBHOOK),
        ignored("pipes.account_connection.add_failed", WEBHOOK),
        ignored("pipes.account_connection.connected", WEBHOOK),
        ignored("pipes.account_connection.connection_failed", WEBHOOK),
        ignored("pipes.account_connection.disconnected", WEBHOOK),
        ignored("pipes.account_connection.reauthorization_needed", WEBHOOK),
        ignored("pipes.connected_account.connected", WEBHOOK),
        ignored("pipes.connected_account.connection_failed", WEBHOOK),
        ignored("pipes.connected_account.disconnected", WEBHOOK),
        ignored("pipes.connected_account.reauthorization_needed", WEBHOOK),
        ignored("agent.blueprint.created", WEBHOOK),
        ignored("agent.blueprint.updated", WEBHOOK),
        ignored("agent.blueprint.deleted", WEBHOOK),
        ignored("agent.instance.created", WEBHOOK),
        ignored("agent.instance.deleted", WEBHOOK),
        ignored("agent.instance.session.created", WEBHOOK),
        ignored("agent.instance.session.revoked", WEBHOOK),
        ignored("agent.registration.created", WEBHOOK),
        ignored("agent.registration.deleted", WEBHOOK),
        ignored("agent.registration.expired", WEBHOOK),
        ignored("agent.registration.refreshed", WEBHOOK),
        ignored("agent.registration.revoked", WEBHOOK),
        ignored("agent.registration.organization.switched", WEBHOOK),
        ignored("agent.registration.claim.attempt.created", WEBHOOK),
        ignored("agent.registration.claim.completed", WEBHOOK),
        ignored("agent.registration.credential.issued", WEBHOOK),
        ignored("vault.byok_key.deleted", EVENTS_API),
        ignored("vault.byok_key.verification_completed", EVENTS_API),
        ignored("vault.data.created", EVENTS_API),
        ignored("vault.data.deleted", EVENTS_API),
        ignored("vault.data.read", EVENTS_API),
        ignored("vault.data.updated", EVENTS_API),
        ignored("vault.dek.decrypted", EVENTS_API),
        ignored("vault.dek.read", EVENTS_API),
        ignored("vault.dek.rekeyed", EVENTS_API),
        ignored("vault.kek.created", EVENTS_API),
        ignored("vault.kek.deleted", EVENTS_API),
        ignored("vault.metadata.read", EVENTS_API),
        ignored("vault.names.listed", EVENTS_API),
        ignored("resource_export.completed", EVENTS_API),
        ignored("resource_export.created", EVENTS_API),
        ignored("resource_export.downloaded", EVENTS_API),
        ignored("resource_export.failed", EVENTS_API),
    ]
};

/// The entry of an event type, if we know it.
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
    fn every_kind_is_announced_and_what_is_mirrored_can_be_named() {
        for kind in Kind::ALL {
            assert!(ENTRIES.iter().any(|entry| entry.kind == Some(kind)), "{kind}");
        }
        for entry in ENTRIES {
            assert_eq!(entry.kind.is_some(), !entry.id.is_empty(), "{}", entry.event_type);
            assert_eq!(entry.kind.is_some(), entry.operation.is_some(), "{}", entry.event_type);
            assert!(entry.id.iter().all(|path| !path.is_empty()), "{}", entry.event_type);
        }
    }

    #[test]
    fn every_documented_type_is_known() {
        assert_eq!(ENTRIES.len(), 129);
        assert_eq!(ENTRIES.iter().filter(|entry| entry.webhook).count(), 105);
    }

    #[test]
    fn a_type_that_nobody_documented_has_the_label_of_all_such() {
        assert_eq!(label("vault.data.read"), "vault.data.read");
        assert_eq!(label("planet.created"), "other");
    }
}
