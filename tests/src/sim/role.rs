//! Roles of the environment, found by their slug.

use serde_json::{Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::object::{self, Fields, Object, fields, text};
use super::store::View;

pub(super) struct Role;

/// What both kinds of roles begin with.
pub(super) fn defaults(id: &str, role_type: &str) -> Fields {
    fields(json!({
        "slug": id.to_lowercase().replace('_', "-"),
        "name": "Role",
        "description": null,
        "type": role_type,
        "resource_type_slug": "organization",
        "permissions": [],
    }))
}

/// What events tell of a role of the environment: neither its id nor its name.
fn told(own: &Fields) -> Fields {
    let mut told = own.clone();
    for missing in ["id", "name", "description", "type"] {
        told.remove(missing);
    }
    told
}

/// All roles of the environment as a list shows them.
pub(super) fn shown(view: View<'_>) -> Vec<Value> {
    let role = object::of(Kind::Role);
    view.all(Kind::Role).map(|own| Value::Object(role.represent(view, own))).collect()
}

impl Object for Role {
    fn kind(&self) -> Kind {
        Kind::Role
    }

    fn title(&self) -> &'static str {
        "Role"
    }

    fn prefix(&self) -> &'static str {
        "role"
    }

    fn path(&self) -> &'static str {
        "/authorization/roles"
    }

    fn key(&self, _id: &str, own: &Fields) -> String {
        text(own, "slug").unwrap_or_default().to_owned()
    }

    fn whole(&self, view: View<'_>, _of: Option<&str>) -> Option<Result<Vec<Value>, Reply>> {
        Some(Ok(shown(view)))
    }

    fn defaults(&self, id: &str, _given: &Fields) -> Fields {
        defaults(id, "EnvironmentRole")
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    fn payload(&self, _event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        told(own)
    }
}
