//! Roles that an organization has of its own, found by the organization and the slug. Where it has none of that slug,
//! the role of the environment answers.

use serde_json::Value;
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, text};
use super::role;
use super::store::View;

pub(super) struct OrganizationRole;

impl Object for OrganizationRole {
    fn kind(&self) -> Kind {
        Kind::OrganizationRole
    }

    fn name(&self) -> &'static str {
        "role"
    }

    fn title(&self) -> &'static str {
        "Role"
    }

    fn prefix(&self) -> &'static str {
        "role"
    }

    fn path(&self) -> &'static str {
        "/authorization/organizations/{}/roles"
    }

    fn key(&self, _id: &str, own: &Fields) -> String {
        let part = |name| text(own, name).unwrap_or_default();
        format!("{}/{}", part("organization_id"), part("slug"))
    }

    fn found_by(&self, of: Option<&str>, id: &str) -> String {
        format!("{}/{id}", of.unwrap_or_default())
    }

    fn whole(&self, view: View<'_>, of: Option<&str>) -> Option<Result<Vec<Value>, Reply>> {
        let organization = of.unwrap_or_default();
        if view.fields(Kind::Organization, organization).is_none() {
            return Some(Err(Reply::message(404, &format!("Organization not found: '{organization}'."))));
        }
        let mut roles = role::shown(view);
        let own = view.children(organization, self.kind());
        roles.extend(own.map(|own| Value::Object(self.represent(view, own))));
        Some(Ok(roles))
    }

    fn instead(&self, view: View<'_>, key: &str) -> Option<Value> {
        let (organization, slug) = key.split_once('/')?;
        view.fields(Kind::Organization, organization)?;
        view.represent(Kind::Role, slug)
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("organization_id", Kind::Organization)]
    }

    fn defaults(&self, id: &str, _given: &Fields) -> Fields {
        role::defaults(id, "OrganizationRole")
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        let mut shown = own.clone();
        shown.remove("organization_id");
        shown
    }

    /// Unlike those of the environment's roles, its events tell its name.
    fn payload(&self, _event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        let mut told = own.clone();
        told.remove("id");
        told.remove("type");
        told
    }
}
