//! Memberships: a user in an organization.

use serde_json::{Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::object::{self, Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct OrganizationMembership;

impl Object for OrganizationMembership {
    fn kind(&self) -> Kind {
        Kind::OrganizationMembership
    }

    fn title(&self) -> &'static str {
        "Organization membership"
    }

    fn prefix(&self) -> &'static str {
        "om"
    }

    fn path(&self) -> &'static str {
        "/user_management/organization_memberships"
    }

    fn also_listed(&self) -> &'static [&'static str] {
        &["/organizations/{}/groups/{}/organization-memberships"]
    }

    /// There is no list of everything: it is of one user, of one organization or of one group.
    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        if let Some((_, group)) = query.whose().and_then(|whose| whose.split_once('/')) {
            let group = group.to_owned();
            return Ok(Selection {
                of: None,
                accept: Box::new(move |view, membership| {
                    let id = text(membership, "id");
                    view.children(&group, Kind::GroupMembership)
                        .any(|member| text(member, "organization_membership_id") == id)
                }),
            });
        }
        let user = query.get("user_id").map(str::to_owned);
        let organization = query.get("organization_id").map(str::to_owned);
        let statuses = query.words("statuses").unwrap_or_else(|| vec!["active".to_owned()]);
        if user.is_none() && organization.is_none() {
            return Err(Reply::refused(
                400,
                &json!({
                    "code": "missing_user_id_or_organization_id",
                    "message": "Either user_id or organization_id must be provided.",
                }),
            ));
        }
        Ok(Selection {
            of: user.clone().or_else(|| organization.clone()),
            accept: Box::new(move |_, membership| {
                let is =
                    |field, wanted: Option<&str>| wanted.is_none_or(|id| text(membership, field) == Some(id));
                is("user_id", user.as_deref())
                    && is("organization_id", organization.as_deref())
                    && text(membership, "status").is_some_and(|status| statuses.iter().any(|s| s == status))
            }),
        })
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("organization_id", Kind::Organization), ("user_id", Kind::User)]
    }

    fn embeds(&self) -> &'static [Kind] {
        &[Kind::Organization, Kind::User]
    }

    fn defaults(&self, _id: &str, _given: &Fields) -> Fields {
        fields(json!({
            "status": "active",
            "directory_managed": false,
            "custom_attributes": {},
            "role": {"slug": "member"},
        }))
    }

    fn represent(&self, view: View<'_>, own: &Fields) -> Fields {
        let mut shown = own.clone();
        let organization = text(own, "organization_id").unwrap_or_default();
        if let Some(name) =
            view.fields(Kind::Organization, organization).and_then(|organization| organization.get("name"))
        {
            shown.insert("organization_name".to_owned(), name.clone());
        }
        let user = text(own, "user_id").unwrap_or_default();
        if let Some(user) = view.fields(Kind::User, user) {
            shown.insert("user".to_owned(), Value::Object(object::of(Kind::User).represent(view, user)));
        }
        // One role unless somebody set several.
        if !shown.contains_key("roles") {
            let roles = own.get("role").cloned().into_iter().collect();
            shown.insert("roles".to_owned(), Value::Array(roles));
        }
        shown
    }

    /// Events carry neither the user nor the organization's name.
    fn payload(&self, _event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }
}
