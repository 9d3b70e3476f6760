//! Domains of organizations. They have no list: the organization shows them.

use serde_json::{Value, json};
use shared::id::Kind;

use super::object::{Fields, Object, fields};
use super::store::View;

pub(super) struct OrganizationDomain;

const VERIFIED: &str = "organization_domain.verified";
const VERIFICATION_FAILED: &str = "organization_domain.verification_failed";

impl Object for OrganizationDomain {
    fn kind(&self) -> Kind {
        Kind::OrganizationDomain
    }

    fn title(&self) -> &'static str {
        "Organization domain"
    }

    fn prefix(&self) -> &'static str {
        "org_domain"
    }

    fn path(&self) -> &'static str {
        "/organization_domains"
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("organization_id", Kind::Organization)]
    }

    fn defaults(&self, id: &str, _given: &Fields) -> Fields {
        // The token is a secret: unlike any other text, so that a test can search for it.
        let unique = id.rsplit('_').next().unwrap_or(id);
        fields(json!({
            "domain": "example.com",
            "state": "verified",
            "verification_prefix": "superapp-domain-verification",
            "verification_token": format!("token{unique}"),
            "verification_strategy": "dns",
        }))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    fn payload(&self, event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        if event_type == VERIFICATION_FAILED {
            fields(json!({
                "reason": "domain_verification_period_expired",
                "organization_domain": own,
            }))
        } else {
            own.clone()
        }
    }

    fn update_event(&self, before: &Fields, after: &Fields) -> Option<String> {
        let state = after.get("state");
        let same = before.get("state") == state;
        Some(match state.and_then(Value::as_str) {
            Some("verified") if !same => VERIFIED.to_owned(),
            Some("failed") if !same => VERIFICATION_FAILED.to_owned(),
            _ => format!("{}.updated", self.kind()),
        })
    }
}
