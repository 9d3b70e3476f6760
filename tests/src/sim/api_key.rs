//! API keys of organizations and users. None can be asked for, only the list of an owner's.

use serde_json::json;
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields};
use super::query::Query;
use super::store::View;

pub(super) struct ApiKey;

/// Fields of the simulator's own: whose key it is, by the kind of the owner.
const OF_ORGANIZATION: &str = "simulated_organization";
const OF_USER: &str = "simulated_user";

impl Object for ApiKey {
    fn kind(&self) -> Kind {
        Kind::ApiKey
    }

    fn title(&self) -> &'static str {
        "API key"
    }

    fn prefix(&self) -> &'static str {
        "api_key"
    }

    fn path(&self) -> &'static str {
        "/organizations/{}/api_keys"
    }

    fn also_listed(&self) -> &'static [&'static str] {
        &["/user_management/users/{}/api_keys"]
    }

    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        let whose = query.whose().unwrap_or_default().to_owned();
        Ok(Selection {
            of: Some(whose.clone()),
            accept: Box::new(move |_, key| key.get("owner").is_some_and(|owner| owner["id"] == *whose)),
        })
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[(OF_ORGANIZATION, Kind::Organization), (OF_USER, Kind::User)]
    }

    fn defaults(&self, id: &str, given: &Fields) -> Fields {
        let unique = id.get(id.len().saturating_sub(4)..).unwrap_or(id);
        let mut all = fields(json!({
            "name": "Key",
            "obfuscated_value": format!("sk_...{unique}"),
            "last_used_at": null,
            "expires_at": null,
            "permissions": [],
        }));
        let Some(owner) = given.get("owner") else {
            let organization = given.get(OF_ORGANIZATION);
            all.insert("owner".to_owned(), json!({"type": "organization", "id": organization}));
            return all;
        };
        let (field, of_another) = if owner["type"] == "user" {
            (OF_USER, owner.get("organization_id"))
        } else {
            (OF_ORGANIZATION, None)
        };
        all.insert(field.to_owned(), owner["id"].clone());
        // A user's key may be for one organization, and goes with it.
        if let Some(organization) = of_another {
            all.insert(OF_ORGANIZATION.to_owned(), organization.clone());
        }
        all
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        let mut shown = own.clone();
        shown.remove(OF_ORGANIZATION);
        shown.remove(OF_USER);
        shown
    }

    /// Of an update, WorkOS tells one former value.
    fn payload(&self, event_type: &str, view: View<'_>, own: &Fields) -> Fields {
        let mut told = self.represent(view, own);
        if event_type == "api_key.updated" {
            told.insert("previous_attributes".to_owned(), json!({"expires_at": null}));
        }
        told
    }

    fn delete_event(&self) -> String {
        "api_key.revoked".to_owned()
    }
}
