//! Groups of directories.

use serde_json::json;
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct DirectoryGroup;

impl Object for DirectoryGroup {
    fn kind(&self) -> Kind {
        Kind::DirectoryGroup
    }

    fn title(&self) -> &'static str {
        "Directory group"
    }

    fn prefix(&self) -> &'static str {
        "directory_group"
    }

    fn path(&self) -> &'static str {
        "/directory_groups"
    }

    /// There is no list of everything: it is of one directory, or of one user.
    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        if let Some(user) = query.get("user").map(str::to_owned) {
            return Ok(Selection {
                of: None,
                accept: Box::new(move |view, group| {
                    let id = text(group, "id").unwrap_or_default();
                    view.children(&user, Kind::DirectoryGroupMembership)
                        .any(|membership| text(membership, "directory_group_id") == Some(id))
                }),
            });
        }
        let Some(directory) = query.get("directory").map(str::to_owned) else {
            return Err(Reply::invalid("required", "directory"));
        };
        Ok(Selection { of: Some(directory), accept: Box::new(|_, _| true) })
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("directory_id", Kind::Directory)]
    }

    fn defaults(&self, id: &str, _given: &Fields) -> Fields {
        let unique = id.rsplit('_').next().unwrap_or(id);
        fields(json!({
            "organization_id": null,
            "idp_id": format!("idp{unique}"),
            "name": "Everybody",
            "raw_attributes": {},
        }))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    fn create_event(&self, _fields: &Fields) -> Option<String> {
        Some("dsync.group.created".to_owned())
    }

    fn update_event(&self, _before: &Fields, _after: &Fields) -> Option<String> {
        Some("dsync.group.updated".to_owned())
    }

    fn delete_event(&self) -> String {
        "dsync.group.deleted".to_owned()
    }

    fn falls_alone(&self) -> bool {
        true
    }
}
