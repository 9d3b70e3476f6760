//! Users.

use serde_json::{Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct User;

impl Object for User {
    fn kind(&self) -> Kind {
        Kind::User
    }

    fn title(&self) -> &'static str {
        "User"
    }

    fn prefix(&self) -> &'static str {
        "user"
    }

    fn path(&self) -> &'static str {
        "/user_management/users"
    }

    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        let email = query.get("email").map(str::to_owned);
        // `organization` is the deprecated name of the same filter.
        let organization =
            query.get("organization_id").or_else(|| query.get("organization")).map(str::to_owned);
        Ok(Selection {
            of: None,
            accept: Box::new(move |view, user| {
                let by_email = email.as_deref().is_none_or(|email| {
                    text(user, "email").is_some_and(|address| address.eq_ignore_ascii_case(email))
                });
                by_email
                    && organization.as_deref().is_none_or(|organization| {
                        let id = text(user, "id").unwrap_or_default();
                        view.children(id, Kind::OrganizationMembership)
                            .any(|membership| text(membership, "organization_id") == Some(organization))
                    })
            }),
        })
    }

    fn defaults(&self, _id: &str, given: &Fields) -> Fields {
        let email = text(given, "email").unwrap_or("someone@example.com");
        let (first_name, last_name) = names(email);
        fields(json!({
            "first_name": first_name,
            "last_name": last_name,
            "profile_picture_url": "https://workoscdn.com/images/v1/picture.png",
            "email": email,
            "email_verified": true,
            "external_id": null,
            "metadata": {},
            "last_sign_in_at": null,
            "locale": "en-US",
        }))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        let mut shown = own.clone();
        // The full name follows its parts until somebody sets it.
        if !shown.contains_key("name") {
            let parts: Vec<&str> =
                ["first_name", "last_name"].into_iter().filter_map(|part| text(own, part)).collect();
            let name = if parts.is_empty() { Value::Null } else { Value::String(parts.join(" ")) };
            shown.insert("name".to_owned(), name);
        }
        shown
    }
}

/// `ada.lovelace@example.com` is Ada Lovelace.
fn names(email: &str) -> (Option<String>, Option<String>) {
    let local = email.split('@').next().unwrap_or_default();
    let mut parts = local.split(['.', '_', '+', '-']).filter(|part| !part.is_empty()).map(|part| {
        let mut letters = part.chars();
        letters
            .next()
            .map(|first| first.to_uppercase().chain(letters).collect::<String>())
            .unwrap_or_default()
    });
    (parts.next(), parts.next())
}
