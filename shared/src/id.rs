//! What a mirrored thing is called: its kind and its id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A kind of WorkOS object that the mirror holds, in the order in which rows depend on each other:
/// a kind comes after every kind its rows point to. The guard locks in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `organization`, ids `org_...`.
    Organization,
    /// `user`, ids `user_...`; its profile is written with it.
    User,
    /// `organization_domain`, ids `org_domain_...`.
    OrganizationDomain,
    /// `organization_membership`, ids `om_...`.
    OrganizationMembership,
    /// `directory`, ids `directory_...`.
    Directory,
    /// `directory_user`, ids `directory_user_...`.
    DirectoryUser,
    /// `directory_group`, ids `directory_group_...`.
    DirectoryGroup,
    /// `directory_group_membership`: the groups of one directory user, by the id of that user.
    DirectoryGroupMembership,
    /// `group`, ids `group_...`.
    Group,
    /// `group_membership`: the groups of one organization membership, by the id of that.
    GroupMembership,
    /// `session`: the sessions of one user, by the id of that user.
    Session,
    /// `api_key`: the API keys of one owner, by the owner's kind and id, e.g. `organization/org_01J8...`.
    ApiKey,
    /// `connection`, ids `conn_...`.
    Connection,
    /// `invitation`, ids `invitation_...`.
    Invitation,
    /// `role` of the environment, known by its slug.
    Role,
    /// `role` of an organization, known by the organization's id, `/` and the slug.
    OrganizationRole,
    /// `permission`, known by its slug.
    Permission,
    /// `feature_flag`, known by its slug.
    FeatureFlag,
}

impl Kind {
    /// Every kind, parents before children.
    pub const ALL: [Self; 18] = [
        Self::Organization,
        Self::User,
        Self::OrganizationDomain,
        Self::OrganizationMembership,
        Self::Directory,
        Self::DirectoryUser,
        Self::DirectoryGroup,
        Self::DirectoryGroupMembership,
        Self::Group,
        Self::GroupMembership,
        Self::Session,
        Self::ApiKey,
        Self::Connection,
        Self::Invitation,
        Self::Role,
        Self::OrganizationRole,
        Self::Permission,
        Self::FeatureFlag,
    ];

    /// The name used in messages, tables, metrics and commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::User => "user",
            Self::OrganizationDomain => "organization_domain",
            Self::OrganizationMembership => "organization_membership",
            Self::Directory => "directory",
            Self::DirectoryUser => "directory_user",
            Self::DirectoryGroup => "directory_group",
            Self::DirectoryGroupMembership => "directory_group_membership",
            Self::Group => "group",
            Self::GroupMembership => "group_membership",
            Self::Session => "session",
            Self::ApiKey => "api_key",
            Self::Connection => "connection",
            Self::Invitation => "invitation",
            Self::Role => "role",
            Self::OrganizationRole => "organization_role",
            Self::Permission => "permission",
            Self::FeatureFlag => "feature_flag",
        }
    }

    /// What an id looks like that has more than one part; `None` where any text may be one.
    #[must_use]
    pub const fn form(self) -> Option<&'static str> {
        match self {
            Self::ApiKey => Some("organization/{id} or user/{id}, with the id of the owner"),
            Self::OrganizationRole => Some("{organization id}/{slug}"),
            _ => None,
        }
    }

    /// Whether this may be an id of the kind. One that lacks a part would be another name of the same thing, or of nothing.
    #[must_use]
    pub fn takes(self, id: &str) -> bool {
        match (self, id.split_once('/')) {
            (Self::ApiKey, Some((of, owner))) => matches!(of, "organization" | "user") && !owner.is_empty(),
            (Self::OrganizationRole, Some((organization, slug))) => {
                !organization.is_empty() && !slug.is_empty()
            }
            (Self::ApiKey | Self::OrganizationRole, None) => false,
            _ => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is not a kind.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a kind of object; known are {known}", known = Kind::ALL.map(Kind::name).join(", "))]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// One object of WorkOS: a kind and an id such as `org_01J8...`. Ids are opaque; their spelling is
/// not policed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// What it is.
    pub kind: Kind,
    /// Which one it is.
    pub id: String,
}

impl ObjectRef {
    /// The object of this kind with this id.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Kind>().ok(), Some(kind));
        }
        assert!("users".parse::<Kind>().is_err());
    }

    #[test]
    fn an_id_that_lacks_a_part_is_none() {
        for id in ["organization/org_1", "user/user_1", "user/a/b"] {
            assert!(Kind::ApiKey.takes(id), "{id}");
        }
        for id in ["org_1", "api_key_1", "team/team_1", "organization/", "/org_1", ""] {
            assert!(!Kind::ApiKey.takes(id), "{id}");
        }
        assert!(Kind::OrganizationRole.takes("org_1/admin"));
        for id in ["admin", "org_1/", "/admin"] {
            assert!(!Kind::OrganizationRole.takes(id), "{id}");
        }
        for kind in Kind::ALL {
            assert_eq!(kind.takes("a text"), kind.form().is_none(), "{kind}");
        }
    }
}
