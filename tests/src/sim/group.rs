//! Groups of memberships within an organization.

use serde_json::json;
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct Group;

impl Object for Group {
    fn kind(&self) -> Kind {
        Kind::Group
    }

    fn title(&self) -> &'static str {
        "Group"
    }

    fn prefix(&self) -> &'static str {
        "group"
    }

    fn path(&self) -> &'static str {
        "/organizations/{}/groups"
    }

    fn also_listed(&self) -> &'static [&'static str] {
        &["/user_management/organization_memberships/{}/groups"]
    }

    /// Those of an organization, or those that a membership is in.
    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        let whose = query.whose().unwrap_or_default().to_owned();
        Ok(Selection {
            of: None,
            accept: Box::new(move |view, group| {
                let id = text(group, "id");
                text(group, "organization_id") == Some(&whose)
                    || view
                        .children(&whose, Kind::GroupMembership)
                        .any(|membership| text(membership, "group_id") == id)
            }),
        })
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("organization_id", Kind::Organization)]
    }

    fn defaults(&self, _id: &str, _given: &Fields) -> Fields {
        fields(json!({"name": "Everybody", "description": null}))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }
}
