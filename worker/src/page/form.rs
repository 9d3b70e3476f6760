//! What a form or an address asks for.

use chrono::SecondsFormat;
use reqwest::Url;
use shared::id::Kind;

use crate::dead_letter::Filter;
use crate::dead_letter::list::moment;
use crate::failure::Failure;

/// Fields by name, as a browser sends them.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `a=1&b=2`.
    pub(super) fn parse(encoded: &str) -> Self {
        let Ok(mut url) = Url::parse("http://form/") else { return Self::default() };
        url.set_query(Some(encoded));
        Self(url.query_pairs().into_owned().collect())
    }

    /// The value of a field, without spaces around it; empty is absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// The filter; `Err` says in a sentence what is wrong with it.
    pub(super) fn filter(&self) -> Result<Filter, String> {
        let time = |name: &str| {
            self.get(name).map(moment).transpose().map_err(|wants| format!("The field “{name}” {wants}."))
        };
        let kind =
            self.get("kind").map(str::parse::<Kind>).transpose().map_err(|_| "There is no such kind.")?;
        let reason = self.get("reason").map(str::to_owned);
        if reason.as_deref().is_some_and(|reason| !Failure::CLASSES.contains(&reason)) {
            return Err("There is no such reason.".to_owned());
        }
        let limit = self.get("limit").map(str::parse).transpose();
        Ok(Filter {
            event_type: self.get("type").map(str::to_owned),
            kind,
            id: self.get("id").map(str::to_owned),
            reason,
            since: time("since")?,
            until: time("until")?,
            limit: limit.map_err(|_| "The field “first” wants a whole number.")?,
        })
    }
}

/// The fields of a filter. Times are told exactly, so that it means the same a moment later.
pub(super) fn fields_of(filter: &Filter) -> Vec<(&'static str, String)> {
    let Filter { event_type, kind, id, reason, since, until, limit } = filter;
    let time = |time: &chrono::DateTime<chrono::Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    [
        ("type", event_type.clone()),
        ("kind", kind.map(|kind| kind.name().to_owned())),
        ("id", id.clone()),
        ("reason", reason.clone()),
        ("since", since.as_ref().map(time)),
        ("until", until.as_ref().map(time)),
        ("limit", limit.map(|limit| limit.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// An address below the page, with these fields.
pub(super) fn address(path: &str, fields: &[(&str, String)]) -> String {
    let mut url = format!("{}{path}", super::PATH);
    if let Ok(mut query) = Url::parse("http://form/")
        && !fields.is_empty()
    {
        query.query_pairs_mut().extend_pairs(fields);
        url = format!("{url}?{}", query.query().unwrap_or_default());
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_means_the_same_after_it_went_through_an_address() {
        let fields =
            Fields::parse("type=user.updated&kind=user&id=a%26b+c&reason=crash&since=2h&until=&limit=3");
        let filter = fields.filter().expect("a filter");
        assert_eq!(filter.id.as_deref(), Some("a&b c"));
        assert!(filter.since.is_some() && filter.until.is_none());
        let address = address("/dead-letters", &fields_of(&filter));
        let (_, query) = address.split_once('?').expect("a query");
        assert_eq!(Fields::parse(query).filter(), Ok(filter));
    }

    #[test]
    fn what_a_filter_cannot_mean_is_told() {
        for bad in ["kind=planet", "reason=mood", "since=soon", "limit=-1"] {
            assert!(Fields::parse(bad).filter().is_err(), "{bad}");
        }
    }
}
