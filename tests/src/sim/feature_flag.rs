//! Feature flags, found by their slug.

use serde_json::json;
use shared::id::Kind;

use super::answer::Reply;
use super::object::{Fields, Object, Selection, fields, text};
use super::query::Query;
use super::store::View;

pub(super) struct FeatureFlag;

impl Object for FeatureFlag {
    fn kind(&self) -> Kind {
        Kind::FeatureFlag
    }

    fn title(&self) -> &'static str {
        "Feature flag"
    }

    fn prefix(&self) -> &'static str {
        "flag"
    }

    fn path(&self) -> &'static str {
        "/feature-flags"
    }

    fn key(&self, _id: &str, own: &Fields) -> String {
        text(own, "slug").unwrap_or_default().to_owned()
    }

    fn select(&self, _query: &Query) -> Result<Selection, Reply> {
        Ok(Selection { of: None, accept: Box::new(|_, _| true) })
    }

    fn defaults(&self, id: &str, _given: &Fields) -> Fields {
        fields(json!({
            "slug": id.to_lowercase().replace('_', "-"),
            "name": "Flag",
            "description": null,
            "owner": {"email": "owner@example.com", "first_name": "Ada", "last_name": null},
            "tags": ["beta"],
            "enabled": true,
            "default_value": false,
        }))
    }

    fn represent(&self, _view: View<'_>, own: &Fields) -> Fields {
        own.clone()
    }

    fn payload(&self, _event_type: &str, _view: View<'_>, own: &Fields) -> Fields {
        let mut told = own.clone();
        told.insert("environment_id".to_owned(), "environment_01J8".into());
        told
    }

    fn create_event(&self, _fields: &Fields) -> Option<String> {
        Some("flag.created".to_owned())
    }

    fn update_event(&self, _before: &Fields, _after: &Fields) -> Option<String> {
        Some("flag.updated".to_owned())
    }

    fn delete_event(&self) -> String {
        "flag.deleted".to_owned()
    }
}
