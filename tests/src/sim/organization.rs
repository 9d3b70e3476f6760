//! Organizations, shown with their domains.

use serde_json::{Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::object::{self, Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct Organization;

impl Object for Organization {
    fn kind(&self) -> Kind {
        Kind::Organization
    }

    fn title(&self) -> &'static str {
        "Organization"
    }

    fn prefix(&self) -> &'static str {
        "org"
    }

    fn path(&self) -> &'static str {
        "/organizations"
    }

    fn select(&self, query: &Query) -> Result<Selection, Reply> {
        let domains = query.words("domains");
        let search = query.get("search").map(str::to_lowercase);
        Ok(Selection {
            of: None,
            accept: Box::new(move |view, organization| {
                let id = text(organization, "id").unwrap_or_default();
                let by_domain = domains.as_ref().is_none_or(|wanted| {
                    view.children(id, Kind::OrganizationDomain).any(|domain| {
                        text(domain, "domain").is_some_and(|name| wanted.iter().any(|wanted| wanted == name))
                    })
                });
                by_domain
                    && search.as_deref().is_none_or(|search| {
                        text(organization, "name").is_some_and(|name| name.to_lowercase().contains(search))
                    })
            }),
        })
    }

    fn embeds(&self) -> &'static [Kind] {
        &[Kind::OrganizationDomain]
    }

    fn defaults(&self, _id: &str, _given: &Fields) -> Fields {
        fields(json!({
            "name": "Example",
            "metadata": {},
            "external_id": null,
            "allow_profiles_outside_organization": false,
        }))
    }

    fn represent(&self, view: View<'_>, own: &Fields) -> Fields {
        let id = text(own, "id").unwrap_or_default();
        let domains = view
            .children(id, Kind::OrganizationDomain)
            .map(|domain| Value::Object(object::of(Kind::OrganizationDomain).represent(view, domain)))
            .collect();
        let mut shown = own.clone();
        shown.insert("domains".to_owned(), Value::Array(domains));
        // Left out while unset, unlike `external_id`.
        if shown.get("stripe_customer_id").is_some_and(Value::is_null) {
            shown.remove("stripe_customer_id");
        }
        shown
    }
}
