//! Invitations. They are never deleted: one is accepted, revoked, or expires in silence.

use serde_json::{Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct Invitation;

impl Object for Invitation {
    fn kind(&self) -> Kind {
        Kind::Invitation
    }

    fn title(&self) -> &'static str {
        "Invitation"
    }

    fn prefix(&self) -> &'static str {
        "invitation"
    }

    fn path(&self) -> &'static str {
        "/user_management/invitations"
    }

    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        let email = query.get("email").map(str::to_owned);
        Ok(Selection {
            of: query.get("organization_id").map(str::to_owned),
            accept: Box::new(move |_, invitation| {
                email.as_deref().is_none_or(|email| {
                    text(invitation, "email").is_some_and(|address| address.eq_ignore_ascii_case(email))
                })
            }),
        })
    }

    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[("organization_id", Kind::Organization)]
    }

    fn defaults(&self, id: &str, _given: &Fields) -> Fields {
        // The token is a secret: unlike any other text, so that a test can search for it.
        let unique = id.rsplit('_').next().unwrap_or(id);
        fields(json!({
            "email": "someone@example.com",
            "state": "pending",
            "accepted_at": null,
            "revoked_at": null,
            "expires_at": "2027-01-01T00:00:00.000Z",
            "organization_id": null,
            "inviter_user_id": null,
            "accepted_user_id": null,
            "role_slug": null,
            "token": format!("token{unique}"),
            "accept_invitation_url": format!("https://your-app.example.com/invite?invitation_token=token{unique}"),
        }))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    /// Events carry no secrets.
    fn payload(&self, _event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        let mut told = own.clone();
        told.remove("token");
        told.remove("accept_invitation_url");
        told
    }

    fn update_event(&self, before: &Fields, after: &Fields) -> Option<String> {
        let changed = |name| before.get(name) != after.get(name);
        match after.get("state").and_then(Value::as_str) {
            Some("accepted") if changed("state") => Some("invitation.accepted".to_owned()),
            Some("revoked") if changed("state") => Some("invitation.revoked".to_owned()),
            Some("pending") if changed("expires_at") => Some("invitation.resent".to_owned()),
            _ => None,
        }
    }
}
