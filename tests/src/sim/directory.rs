//! Directories: what provides an organization's users and groups.

use serde_json::{Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct Directory;

impl Object for Directory {
    fn kind(&self) -> Kind {
        Kind::Directory
    }

    fn title(&self) -> &'static str {
        "Directory"
    }

    fn prefix(&self) -> &'static str {
        "directory"
    }

    fn path(&self) -> &'static str {
        "/directories"
    }

    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        let organization = query.get("organization_id").map(str::to_owned);
        let domain = query.get("domain").map(str::to_owned);
        let search = query.get("search").map(str::to_lowercase);
        Ok(Selection {
            of: organization,
            accept: Box::new(move |_, directory| {
                domain.as_deref().is_none_or(|domain| text(directory, "domain") == Some(domain))
                    && search.as_deref().is_none_or(|search| {
                        text(directory, "name").is_some_and(|name| name.to_lowercase().contains(search))
                    })
            }),
        })
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("organization_id", Kind::Organization)]
    }

    fn defaults(&self, id: &str, _given: &Fields) -> Fields {
        let unique = id.rsplit('_').next().unwrap_or(id);
        fields(json!({
            "organization_id": null,
            "external_key": format!("key{unique}"),
            "type": "okta scim v2.0",
            "state": "linked",
            "name": "People",
            "domain": "example.com",
            "metadata": {"users": {"active": 0, "inactive": 0}, "groups": 0},
        }))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    /// Events have another vocabulary for `state`, and `domains` for `domain`; the one of a deletion has none.
    fn payload(&self, event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        let mut told = own.clone();
        told.remove("metadata");
        let domain = told.remove("domain");
        let state = match text(own, "state") {
            Some("linked") => "active",
            Some("unlinked") => "inactive",
            Some(other) => other,
            None => "validating",
        };
        told.insert("state".to_owned(), state.into());
        // Optional, never null.
        if told.get("organization_id").is_some_and(Value::is_null) {
            told.remove("organization_id");
        }
        if event_type == "dsync.deleted" {
            told.remove("external_key");
        } else {
            let domains = domain.filter(|domain| !domain.is_null()).map(|domain| {
                json!({"object": "organization_domain", "id": "org_domain_of_the_directory", "domain": domain})
            });
            told.insert("domains".to_owned(), domains.into_iter().collect());
        }
        told
    }

    fn create_event(&self, own: &Fields) -> Option<String> {
        state_event(text(own, "state")?)
    }

    /// There is no event for anything but the state.
    fn update_event(&self, before: &Fields, after: &Fields) -> Option<String> {
        let state = text(after, "state")?;
        if text(before, "state") == Some(state) { None } else { state_event(state) }
    }

    fn delete_event(&self) -> String {
        "dsync.deleted".to_owned()
    }

    fn falls_alone(&self) -> bool {
        true
    }
}

fn state_event(state: &str) -> Option<String> {
    match state {
        "linked" => Some("dsync.activated".to_owned()),
        "unlinked" => Some("dsync.deactivated".to_owned()),
        _ => None,
    }
}
