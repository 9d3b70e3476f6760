//! Which organization membership is in which group. WorkOS shows it only as groups of a membership and as memberships of
//! a group.

use serde_json::json;
use shared::id::Kind;

use super::object::{Fields, Object, fields};
use super::store::View;

pub(super) struct GroupMembership;

impl Object for GroupMembership {
    fn kind(&self) -> Kind {
        Kind::GroupMembership
    }

    fn title(&self) -> &'static str {
        "Group membership"
    }

    /// Only the simulator has an id for it.
    fn prefix(&self) -> &'static str {
        "simulated_group_membership"
    }

    /// There is no such path.
    fn path(&self) -> &'static str {
        "/ "
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("organization_membership_id", Kind::OrganizationMembership), ("group_id", Kind::Group)]
    }

    fn defaults(&self, _id: &str, _given: &Fields) -> Fields {
        Fields::new()
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    fn payload(&self, _event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        fields(json!({
            "group_id": own.get("group_id"),
            "organization_membership_id": own.get("organization_membership_id"),
        }))
    }

    fn create_event(&self, _fields: &Fields) -> Option<String> {
        Some("group.member_added".to_owned())
    }

    fn update_event(&self, _before: &Fields, _after: &Fields) -> Option<String> {
        None
    }

    fn delete_event(&self) -> String {
        "group.member_removed".to_owned()
    }
}
