//! Pure: how the Events API is asked, and what an item of its answer is.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::event::{Channel, Event};
use shared::{catalogue, envelope};

/// Items of one page: the most that WorkOS gives.
pub(super) const LIMIT: usize = 100;

/// The longest time that one request may span.
const RANGE: TimeDelta = TimeDelta::days(30);

/// The type under which an item is recorded that is no event. Its kind has no object, so it ends as dead.
const UNREADABLE: &str = "unreadable";

/// Where reading goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// After this event.
    After(String),
    /// With what WorkOS made from this time on.
    Since(DateTime<Utc>),
}

impl From {
    /// The request, and where its time ends if that is before `now`.
    #[must_use]
    pub(super) fn request(&self, now: DateTime<Utc>) -> (String, Option<DateTime<Utc>>) {
        let types: Vec<&str> = catalogue::ENTRIES.iter().map(|entry| entry.event_type).collect();
        let path = format!("/events?events={}&order=asc&limit={LIMIT}", types.join(","));
        match self {
            Self::After(id) => {
                let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
                (format!("{path}&after={id}"), None)
            }
            Self::Since(start) => {
                let end = Some(*start + RANGE).filter(|end| *end < now);
                let range_end = end.map_or_else(String::new, |end| format!("&range_end={}", iso(end)));
                (format!("{path}&range_start={}{range_end}", iso(*start)), end)
            }
        }
    }

    /// Where to go on after a page whose last event was `last`; `None` when that was all.
    #[must_use]
    pub(super) fn next(
        &self,
        items: usize,
        last: Option<String>,
        after: Option<String>,
        end: Option<DateTime<Utc>>,
    ) -> Option<Self> {
        let more = after.is_some() || items >= LIMIT;
        let next = match (last.or(after), end) {
            (Some(id), _) if more || end.is_some() => Self::After(id),
            (None, Some(end)) => Self::Since(end),
            _ => return None,
        };
        (next != *self).then_some(next)
    }
}

fn iso(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// An item of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// The event, or what stands for an item that is none.
    pub(super) event: Event,
    /// Whether WorkOS gave it its id.
    pub(super) named: bool,
    /// Whether it is an event.
    pub(super) readable: bool,
}

/// Reads the items of a page. One that is no event does not stop the others: it becomes an event of its own,
/// which is recorded as dead. `from` is where the page begins.
#[must_use]
pub(super) fn read(items: &[Box<RawValue>], from: &From, now: DateTime<Utc>) -> Vec<Item> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }

    let mut before = match from {
        From::After(id) => id.clone(),
        From::Since(start) => iso(*start),
    };
    items
        .iter()
        .map(|item| {
            let read = envelope::read(item.get().as_bytes(), Channel::Tail, now);
            let item = if let Ok(event) = read {
                Item { event, named: true, readable: true }
            } else {
                let id = serde_json::from_str::<Id>(item.get()).ok().map(|item| item.id);
                let id =
                    id.filter(|id| (1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()));
                let named = id.is_some();
                // Read again, it has the same name, so that it is recorded once.
                let id = id.unwrap_or_else(|| format!("{UNREADABLE}_after_{before}"));
                Item { event: unreadable(id, now), named, readable: false }
            };
            before.clone_from(&item.event.id);
            item
        })
        .collect()
}

fn unreadable(id: String, now: DateTime<Utc>) -> Event {
    Event {
        id,
        event_type: UNREADABLE.to_owned(),
        kind: Some(UNREADABLE.to_owned()),
        operation: None,
        object_id: None,
        organization_id: None,
        directory_id: None,
        member: None,
        created_at: None,
        updated_at: None,
        actor: None,
        received_at: now,
        channel: Channel::Tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(days)
    }

    #[test]
    fn every_catalogued_type_is_asked_for_from_one_beginning() {
        let (path, end) = From::After("event_1".to_owned()).request(at(1));
        assert!(path.ends_with("&order=asc&limit=100&after=event%5F1"), "{path}");
        assert!(!path.contains("range_start") && end.is_none());
        for entry in catalogue::ENTRIES {
            assert!(path.contains(entry.event_type), "{}", entry.event_type);
        }
        let (path, end) = From::Since(at(1)).request(at(2));
        assert!(path.ends_with("&range_start=1970-01-02T00:00:00.000Z"), "{path}");
        assert!(!path.contains("after=") && end.is_none());
    }

    #[test]
    fn a_request_spans_at_most_thirty_days_and_the_next_one_goes_on() {
        let since = From::Since(at(0));
        let (path, end) = since.request(at(80));
        assert!(path.ends_with("&range_end=1970-01-31T00:00:00.000Z"), "{path}");
        assert_eq!(
            since.next(0, None, None, end),
            Some(From::Since(at(30))),
            "nothing in a month is not the end"
        );
        let after = From::After("event_7".to_owned());
        assert_eq!(since.next(3, Some("event_7".to_owned()), None, end), Some(after));
        assert_eq!(From::Since(at(60)).request(at(80)).1, None);
    }

    #[test]
    fn a_full_page_or_a_cursor_of_workos_goes_on_and_anything_else_is_the_end() {
        let from = From::After("a".to_owned());
        let last = || Some("b".to_owned());
        assert_eq!(from.next(0, None, None, None), None);
        assert_eq!(from.next(99, last(), None, None), None);
        assert_eq!(from.next(100, last(), None, None), Some(From::After("b".to_owned())));
        assert_eq!(from.next(1, last(), last(), None), Some(From::After("b".to_owned())));
        assert_eq!(from.next(1, None, Some("a".to_owned()), None), None, "no going round in circles");
    }

    #[test]
    fn an_item_that_is_no_event_keeps_its_place_and_its_name() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let items = [
            raw(r#"{"id":"event_1","event":"user.created","data":{"id":"user_1"}}"#),
            raw("[1,2]"),
            raw(r#"{"id":"event_3","event":7}"#),
        ];
        let read = read(&items, &From::After("event_0".to_owned()), at(0));
        let told: Vec<_> =
            read.iter().map(|item| (item.event.id.as_str(), item.named, item.readable)).collect();
        assert_eq!(
            told,
            [("event_1", true, true), ("unreadable_after_event_1", false, false), ("event_3", true, false),]
        );
        assert_eq!(read[2].event.kind.as_deref(), Some(UNREADABLE));
    }
}
