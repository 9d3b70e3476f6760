//! Permissions, found by their slug.

use serde_json::json;
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct Permission;

impl Object for Permission {
    fn kind(&self) -> Kind {
        Kind::Permission
    }

    fn title(&self) -> &'static str {
        "Permission"
    }

    fn prefix(&self) -> &'static str {
        "perm"
    }

    fn path(&self) -> &'static str {
        "/authorization/permissions"
    }

    fn key(&self, _id: &str, own: &Fields) -> String {
        text(own, "slug").unwrap_or_default().to_owned()
    }

    fn select(&self, _query: &Query) -> Result<Selection, Reply> {
        Ok(Selection { of: None, accept: Box::new(|_, _| true) })
    }

    fn defaults(&self, id: &str, _given: &Fields) -> Fields {
        fields(json!({
            "slug": id.to_lowercase().replace('_', "-"),
            "name": "Permission",
            "description": null,
            "system": false,
            "resource_type_slug": "organization",
        }))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }
}
