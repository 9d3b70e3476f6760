//! Users of directories.

use serde_json::{Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct DirectoryUser;

impl Object for DirectoryUser {
    fn kind(&self) -> Kind {
        Kind::DirectoryUser
    }

    fn title(&self) -> &'static str {
        "Directory user"
    }

    fn prefix(&self) -> &'static str {
        "directory_user"
    }

    fn path(&self) -> &'static str {
        "/directory_users"
    }

    /// There is no list of everything: it is of one directory, or of one group.
    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        if let Some(group) = query.get("group").map(str::to_owned) {
            return Ok(Selection {
                of: None,
                accept: Box::new(move |view, user| {
                    let id = text(user, "id").unwrap_or_default();
                    view.children(id, Kind::DirectoryGroupMembership)
                        .any(|membership| text(membership, "directory_group_id") == Some(&group))
                }),
            });
        }
        let Some(directory) = query.get("directory").map(str::to_owned) else {
            return Err(Reply::invalid("required", "directory"));
        };
        let idp_id = query.get("idp_id").map(str::to_owned);
        let email = query.get("email").map(str::to_owned);
        Ok(Selection {
            of: Some(directory),
            accept: Box::new(move |_, user| {
                idp_id.as_deref().is_none_or(|id| text(user, "idp_id") == Some(id))
                    && email.as_deref().is_none_or(|email| {
                        text(user, "email").is_some_and(|address| address.eq_ignore_ascii_case(email))
                    })
            }),
        })
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("directory_id", Kind::Directory)]
    }

    fn defaults(&self, id: &str, given: &Fields) -> Fields {
        let unique = id.rsplit('_').next().unwrap_or(id);
        fields(json!({
            "organization_id": null,
            "idp_id": format!("idp{unique}"),
            "email": "someone@example.com",
            "first_name": "Some",
            "last_name": "One",
            "name": given.get("name").cloned().unwrap_or(Value::from("Some One")),
            "emails": [],
            "job_title": null,
            "username": null,
            "state": "active",
            "raw_attributes": {},
            "custom_attributes": {"department_name": "Engines", "job_title": "Engineer"},
        }))
    }

    /// Empty for teams as new as ours.
    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        let mut shown = own.clone();
        shown.insert("groups".to_owned(), json!([]));
        shown
    }

    /// Events never carry the groups.
    fn payload(&self, _event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    fn create_event(&self, _fields: &Fields) -> Option<String> {
        Some("dsync.user.created".to_owned())
    }

    fn update_event(&self, _before: &Fields, _after: &Fields) -> Option<String> {
        Some("dsync.user.updated".to_owned())
    }

    fn delete_event(&self) -> String {
        "dsync.user.deleted".to_owned()
    }
}
