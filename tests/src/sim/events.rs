//! What was announced, and the Events API that shows it.

use std::collections::HashMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use shared::catalogue::Entry;
use shared::id::ObjectRef;

use super::answer::Reply;
use super::faults::chance;
use super::paging::{Paging, Place};
use super::query::Query;
use super::state::{State, iso, milliseconds};

/// One event, and what became of its webhooks.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// `event_...`, the same on webhook and Events API.
    pub id: String,
    /// WorkOS's name of it, e.g. `user.updated`.
    pub event_type: String,
    /// What it is about; none for events sent with `Sim::emit`.
    pub object: Option<ObjectRef>,
    /// The organization it belongs to, where its payload tells.
    pub organization_id: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The payload.
    pub data: Value,
    /// Whether the Events API shows it.
    pub on_events_api: bool,
    /// Its webhooks: one for each endpoint, more for duplicates.
    pub deliveries: Vec<Delivery>,
}

/// One handing-over of an event to an endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// The endpoint's id.
    pub endpoint: String,
    /// How it stands.
    pub state: DeliveryState,
    /// Every attempt so far.
    pub attempts: Vec<Attempt>,
}

/// How a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It waits for `Sim::post` or `Sim::release_held`.
    Held,
    /// It is on its way.
    Pending,
    /// It was answered with 2xx.
    Delivered,
    /// It was never answered with 2xx, and will not be tried again.
    GivenUp,
    /// It was never sent.
    Lost,
}

/// One attempt of a delivery.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    /// When it was sent.
    pub at: DateTime<Utc>,
    /// The status of the answer, none when none came.
    pub status: Option<u16>,
}

/// Every event in order.
#[derive(Default)]
pub(super) struct Log {
    records: Vec<Record>,
    by_id: HashMap<String, usize>,
}

/// An event as it is kept.
pub(super) struct Record {
    pub(super) event: Event,
    /// The body of its webhook.
    pub(super) wire: Bytes,
    /// How the Events API shows it.
    listed: Bytes,
    /// From when on.
    shown_at: DateTime<Utc>,
}

/// An event as it is sent.
#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'static str>,
    id: &'a str,
    event: &'a str,
    data: &'a Value,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a Value>,
}

impl Envelope<'_> {
    fn bytes(&self) -> Bytes {
        // Values with text for keys always become JSON.
        Bytes::from(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl Log {
    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(super) fn record(&self, index: usize) -> Option<&Record> {
        self.records.get(index)
    }

    pub(super) fn record_mut(&mut self, index: usize) -> Option<&mut Record> {
        self.records.get_mut(index)
    }

    pub(super) fn index(&self, event_id: &str) -> Option<usize> {
        self.by_id.get(event_id).copied()
    }
}

impl Record {
    /// From now on the Events API shows this instead.
    pub(super) fn spoil(&mut self, item: &Value) {
        self.listed = item.to_string().into();
    }
}

impl State {
    /// Makes an event and sends it off on both channels. Returns its id.
    pub(super) fn announce(
        &mut self,
        event_type: &str,
        object: Option<ObjectRef>,
        data: Value,
        now: DateTime<Utc>,
    ) -> String {
        let id = self.ulids.next("event", &mut self.rng, now);
        let lost = chance(self.knobs.lost_event, &mut self.rng);
        // With nobody listening for webhooks, the Events API is the only channel.
        let on_events_api = !lost || (self.endpoints.is_empty() && !self.knobs.lose_on_both);
        let late = chance(self.knobs.events_late, &mut self.rng);
        let shown_at = if late { now + milliseconds(self.knobs.events_late_ms) } else { now };
        let envelope = Envelope {
            object: Some("event"),
            id: &id,
            event: event_type,
            data: &data,
            created_at: iso(now),
            context: self.knobs.context.as_ref(),
        };
        let listed = envelope.bytes();
        let wire = if self.knobs.envelope_object {
            listed.clone()
        } else {
            Envelope { object: None, ..envelope }.bytes()
        };
        let organization_id =
            shared::catalogue::find(event_type).and_then(|entry| organization(entry, &data));
        let event = Event {
            id: id.clone(),
            event_type: event_type.to_owned(),
            object,
            organization_id,
            created_at: now,
            data,
            on_events_api,
            deliveries: Vec::new(),
        };
        let index = self.log.records.len();
        self.log.records.push(Record { event, wire, listed, shown_at });
        self.log.by_id.insert(id.clone(), index);
        self.send_webhooks(index);
        id
    }

    /// `GET /events`.
    pub(super) fn events_page(&self, query: &Query, now: DateTime<Utc>) -> Result<Bytes, Reply> {
        let types = query.words("events").ok_or_else(|| Reply::invalid("required", "events"))?;
        let paging = Paging::parse(query)?;
        if query.get("after").is_some() && query.get("range_start").is_some() {
            return Err(Reply::message(400, "Only one of after and range_start may be given."));
        }
        let range_start = time(query, "range_start")?;
        let range_end = time(query, "range_end")?;
        let organization = query.get("organization_id");
        let newest = now - milliseconds(self.knobs.events_holdback_ms);
        let oldest = self.knobs.events_retention_ms.map(|age| now - milliseconds(age));
        let records = &self.log.records;

        let place = match paging.cursor() {
            None => None,
            Some(id) => {
                let index = self
                    .log
                    .index(id)
                    .filter(|&index| oldest.is_none_or(|oldest| records[index].event.created_at >= oldest))
                    .ok_or_else(|| Reply::message(400, &format!("Event not found: '{id}'.")))?;
                Some(Place { below: index, above: (index + 1).saturating_sub(self.knobs.events_repeat) })
            }
        };
        let page = paging.page(records.len(), place, |index| {
            let event = &records[index].event;
            let at = event.created_at;
            event.on_events_api
                && records[index].shown_at <= newest
                && oldest.is_none_or(|oldest| at >= oldest)
                && range_start.is_none_or(|start| at >= start)
                && range_end.is_none_or(|end| at <= end)
                && organization.is_none_or(|id| event.organization_id.as_deref() == Some(id))
                && types.contains(&event.event_type)
        });

        let mut body = br#"{"object":"list","data":["#.to_vec();
        for (count, &index) in page.indexes.iter().enumerate() {
            if count > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&records[index].listed);
        }
        let after = page.ends().1.map(|index| records[index].event.id.as_str());
        body.extend_from_slice(
            format!(r#"],"list_metadata":{{"after":{}}}}}"#, Value::from(after)).as_bytes(),
        );
        Ok(Bytes::from(body))
    }
}

/// The organization that a payload tells of.
fn organization(entry: &Entry, data: &Value) -> Option<String> {
    let at = |path: &[&str]| path.iter().try_fold(data, |value, name| value.get(name));
    let said = || at(entry.organization).and_then(Value::as_str);
    let owner = || at(entry.owner).filter(|owner| owner["type"] == "organization")?["id"].as_str();
    if entry.organization.is_empty() { None } else { said().or_else(owner).map(str::to_owned) }
}

/// A time among the parameters.
fn time(query: &Query, name: &str) -> Result<Option<DateTime<Utc>>, Reply> {
    query
        .get(name)
        .map(|text| shared::timestamp::parse(text).ok_or_else(|| Reply::invalid("invalid_date", name)))
        .transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::sim::knobs::Knobs;
    use crate::sim::state::clock;

    fn ask(state: &State, query: &str, now: DateTime<Utc>) -> Result<Value, u16> {
        state
            .events_page(&Query::parse(Some(query)), now)
            .map(|bytes| serde_json::from_slice(&bytes).unwrap())
            .map_err(|reply| reply.status)
    }

    fn numbers(page: &Value) -> Vec<i64> {
        page["data"].as_array().unwrap().iter().map(|event| event["data"]["n"].as_i64().unwrap()).collect()
    }

    /// Events `a.happened` numbered 0 to 9, one second apart.
    fn ten() -> (State, DateTime<Utc>) {
        let mut state = State::new(Knobs::default(), 1, unbounded_channel().0);
        let start = clock();
        for n in 0..10 {
            state.announce("a.happened", None, json!({"n": n}), start + chrono::Duration::seconds(n));
        }
        (state, start)
    }

    #[test]
    fn the_events_api_reads_in_order_from_a_cursor() {
        let (state, start) = ten();
        let now = start + chrono::Duration::seconds(10);
        let first = ask(&state, "events=a.happened,b.happened&order=asc&limit=4", now).unwrap();
        assert_eq!(numbers(&first), [0, 1, 2, 3]);
        let cursor = first["list_metadata"]["after"].as_str().unwrap();
        let rest = ask(&state, &format!("events=a.happened&order=asc&after={cursor}"), now).unwrap();
        assert_eq!(numbers(&rest), [4, 5, 6, 7, 8, 9]);
        assert_eq!(rest["list_metadata"], json!({"after": null}));
        assert_eq!(numbers(&ask(&state, "events=a.happened&limit=2", now).unwrap()), [9, 8]);
        assert_eq!(numbers(&ask(&state, "events=b.happened", now).unwrap()), Vec::<i64>::new());
    }

    #[test]
    fn the_events_api_wants_names_and_one_beginning() {
        let (state, now) = ten();
        assert_eq!(ask(&state, "limit=1", now), Err(422));
        let cursor = &state.log.records[0].event.id;
        let both = format!("events=a.happened&after={cursor}&range_start=2026-01-01T00:00:00Z");
        assert_eq!(ask(&state, &both, now), Err(400));
        assert_eq!(ask(&state, "events=a.happened&range_start=yesterday", now), Err(422));
        assert_eq!(ask(&state, "events=a.happened&after=event_unknown", now), Err(400));
    }

    #[test]
    fn held_back_and_forgotten_events_are_not_shown() {
        let (mut state, start) = ten();
        state.knobs.events_holdback_ms = 2_000;
        state.knobs.events_retention_ms = Some(5_000);
        let now = start + chrono::Duration::seconds(9);
        let page = ask(&state, "events=a.happened&order=asc", now).unwrap();
        assert_eq!(numbers(&page), [4, 5, 6, 7]);
        let forgotten = format!("events=a.happened&after={}", state.log.records[1].event.id);
        assert_eq!(ask(&state, &forgotten, now), Err(400));
    }

    #[test]
    fn a_late_event_appears_before_newer_ones_and_pages_may_overlap() {
        let (mut state, start) = ten();
        let second = |n| start + chrono::Duration::seconds(n);
        state.log.records[4].shown_at = second(20);
        let early = ask(&state, "events=a.happened&order=asc", second(10)).unwrap();
        assert_eq!(numbers(&early), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        let cursor = format!("events=a.happened&order=asc&after={}", state.log.records[3].event.id);
        let late = ask(&state, &cursor, second(20)).unwrap();
        assert_eq!(numbers(&late), [4, 5, 6, 7, 8, 9]);
        state.knobs.events_repeat = 2;
        let again = ask(&state, &cursor, second(20)).unwrap();
        assert_eq!(numbers(&again), [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_range_is_from_and_to() {
        let (state, start) = ten();
        let from = iso(start + chrono::Duration::seconds(3));
        let to = iso(start + chrono::Duration::milliseconds(5_500));
        let now = start + chrono::Duration::seconds(10);
        let query = format!("events=a.happened&order=asc&range_start={from}&range_end={to}");
        assert_eq!(numbers(&ask(&state, &query, now).unwrap()), [3, 4, 5]);
    }
}
