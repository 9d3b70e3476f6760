//! Who is in which group of a directory. WorkOS shows it only as groups of a user and as users of a group.

use serde_json::{Value, json};
use shared::id::Kind;

use super::object::{self, Fields, Object, fields, text};
use super::store::View;

pub(super) struct DirectoryGroupMembership;

impl Object for DirectoryGroupMembership {
    fn kind(&self) -> Kind {
        Kind::DirectoryGroupMembership
    }

    fn title(&self) -> &'static str {
        "Directory group membership"
    }

    /// Only the simulator has an id for it.
    fn prefix(&self) -> &'static str {
        "simulated_membership"
    }

    /// There is no such path.
    fn path(&self) -> &'static str {
        NOWHERE
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("directory_user_id", Kind::DirectoryUser), ("directory_group_id", Kind::DirectoryGroup)]
    }

    fn defaults(&self, _id: &str, _given: &Fields) -> Fields {
        Fields::new()
    }

    fn represent(&self, view: View<'_>, own: &Fields) -> Fields {
        let mut shown = own.clone();
        let group = text(own, "directory_group_id").unwrap_or_default();
        let directory =
            view.fields(Kind::DirectoryGroup, group).and_then(|group| group.get("directory_id")).cloned();
        shown.insert("directory_id".to_owned(), directory.unwrap_or(Value::Null));
        shown
    }

    fn payload(&self, event_type: &str, view: View<'_>, own: &Fields) -> Fields {
        let told = |kind: Kind, field: &str| {
            let fields = view.fields(kind, text(own, field)?)?;
            Some(Value::Object(object::of(kind).payload(event_type, view, fields)))
        };
        let group = told(Kind::DirectoryGroup, "directory_group_id");
        fields(json!({
            "directory_id": group.as_ref().map(|group| group["directory_id"].clone()),
            "user": told(Kind::DirectoryUser, "directory_user_id"),
            "group": group,
        }))
    }

    fn create_event(&self, _fields: &Fields) -> Option<String> {
        Some("dsync.group.user_added".to_owned())
    }

    fn update_event(&self, _before: &Fields, _after: &Fields) -> Option<String> {
        None
    }

    fn delete_event(&self) -> String {
        "dsync.group.user_removed".to_owned()
    }
}

/// No request has this path.
const NOWHERE: &str = "/ ";
