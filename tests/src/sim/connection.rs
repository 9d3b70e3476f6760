//! Connections to identity providers. WorkOS tells when one becomes active or inactive, and nothing else of it.

use serde_json::{Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct Connection;

const ACTIVATED: &str = "connection.activated";
const DEACTIVATED: &str = "connection.deactivated";

impl Object for Connection {
    fn kind(&self) -> Kind {
        Kind::Connection
    }

    fn title(&self) -> &'static str {
        "Connection"
    }

    fn prefix(&self) -> &'static str {
        "conn"
    }

    fn path(&self) -> &'static str {
        "/connections"
    }

    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        let connection_type = query.get("connection_type").map(str::to_owned);
        let search = query.get("search").map(str::to_lowercase);
        Ok(Selection {
            of: query.get("organization_id").map(str::to_owned),
            accept: Box::new(move |_, connection| {
                let by_type = connection_type
                    .as_deref()
                    .is_none_or(|wanted| text(connection, "connection_type") == Some(wanted));
                by_type
                    && search.as_deref().is_none_or(|search| {
                        text(connection, "name").is_some_and(|name| name.to_lowercase().contains(search))
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
            "connection_type": "OktaSAML",
            "name": "Okta",
            "state": "active",
            "status": "linked",
            "domains": [
                {"id": format!("conn_domain_{unique}"), "object": "connection_domain", "domain": "example.com"},
            ],
        }))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    fn payload(&self, event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        if event_type.starts_with("connection.saml_certificate") {
            let connection: Fields = ["id", "organization_id"]
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), own.get(name)?.clone())))
                .collect();
            return fields(json!({
                "connection": connection,
                "certificate": {
                    "certificate_type": "ResponseSigning",
                    "expiry_date": "2027-01-01T00:00:00.000Z",
                    "is_expired": false,
                },
                "days_until_expiry": 30,
                "renewed_at": own.get("updated_at"),
            }));
        }
        let mut told = own.clone();
        if event_type == self.delete_event() {
            told.remove("status");
            told.remove("domains");
        } else {
            told.insert("external_key".to_owned(), "external-key".into());
        }
        told
    }

    fn create_event(&self, fields: &Fields) -> Option<String> {
        (text(fields, "state") == Some("active")).then(|| ACTIVATED.to_owned())
    }

    fn update_event(&self, before: &Fields, after: &Fields) -> Option<String> {
        let state = after.get("state");
        let same = before.get("state") == state;
        match state.and_then(Value::as_str) {
            Some("active") if !same => Some(ACTIVATED.to_owned()),
            Some("inactive") if !same => Some(DEACTIVATED.to_owned()),
            _ => None,
        }
    }
}
