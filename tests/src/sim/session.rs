//! Sessions of users. Only active ones are listed, and none can be asked for.

use serde_json::json;
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct Session;

const REVOKED: &str = "session.revoked";

impl Object for Session {
    fn kind(&self) -> Kind {
        Kind::Session
    }

    fn title(&self) -> &'static str {
        "Session"
    }

    fn prefix(&self) -> &'static str {
        "session"
    }

    fn path(&self) -> &'static str {
        "/user_management/users/{}/sessions"
    }

    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        Ok(Selection {
            of: query.whose().map(str::to_owned),
            accept: Box::new(|_, session| text(session, "status") == Some("active")),
        })
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("user_id", Kind::User)]
    }

    fn defaults(&self, _id: &str, _given: &Fields) -> Fields {
        fields(json!({
            "ip_address": "192.0.2.1",
            "user_agent": "Example/1.0",
            "auth_method": "password",
            "status": "active",
            "expires_at": "2999-01-01T00:00:00.000Z",
            "ended_at": null,
        }))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    /// One that goes with its user is revoked too.
    fn payload(&self, event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        let mut told = own.clone();
        if event_type == REVOKED {
            told.insert("status".to_owned(), "revoked".into());
        }
        told
    }

    /// That one expires, nobody says.
    fn update_event(&self, before: &Fields, after: &Fields) -> Option<String> {
        let ends = text(before, "status") == Some("active") && text(after, "status") == Some("revoked");
        ends.then(|| REVOKED.to_owned())
    }

    fn delete_event(&self) -> String {
        REVOKED.to_owned()
    }
}
