//! Reads what an event as WorkOS writes it announces, at the door: identifiers and times, nothing else. The
//! same on every channel: the body of a webhook, an item of the Events API.
//!
//! Lenient where WorkOS is not consistent: `object` may be absent, ids are opaque, times have two
//! formats, new members and new types are welcome. The payload is skipped over, not built: only the
//! members that the catalogue names are looked at.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::catalogue::{self, Entry, Path};
use crate::event::{Channel, Event, Member};
use crate::timestamp;

/// An id or a type longer than this is not one: WorkOS's have about 35 characters.
const MAX_LENGTH: usize = 256;

/// The body is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not an event")]
pub struct NotAnEvent;

/// The event that a body announces, which `channel` brought at `received_at`.
pub fn read(body: &[u8], channel: Channel, received_at: DateTime<Utc>) -> Result<Event, NotAnEvent> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnEvent)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let [id, event_type, data, created_at, context] =
        members(text, ["id", "event", "data", "created_at", "context"]).ok_or(NotAnEvent)?;
    let id = name(id).ok_or(NotAnEvent)?;
    let event_type = name(event_type).ok_or(NotAnEvent)?;
    let entry = catalogue::find(&event_type);
    let subject = entry.map(|entry| Subject::find(entry, data)).unwrap_or_default();
    Ok(Event {
        id,
        event_type,
        kind: entry.and_then(|entry| entry.kind).map(|kind| kind.name().to_owned()),
        operation: entry.and_then(|entry| entry.operation),
        object_id: subject.id,
        organization_id: subject.organization_id,
        directory_id: subject.directory_id,
        member: subject.member,
        created_at: time(created_at),
        updated_at: subject.updated_at,
        actor: actor(context),
        received_at,
        channel,
    })
}

/// What the payload says about the object of the event. Without an id the event is still published:
/// the worker records it as dead, so that nothing is lost in silence.
#[derive(Default)]
struct Subject {
    id: Option<String>,
    organization_id: Option<String>,
    directory_id: Option<String>,
    member: Option<Member>,
    updated_at: Option<DateTime<Utc>>,
}

impl Subject {
    fn find(entry: &Entry, data: Option<&RawValue>) -> Self {
        let Some((last, before)) = entry.id.split_last() else { return Self::default() };
        let mut subject = Self::beside(last, entry.organization, data);
        let named = |path: Path| {
            let (last, holder) = path.split_last()?;
            let [id] = members_of(descend(data, holder), [last]);
            name(id)
        };
        subject.directory_id = named(entry.directory);
        subject.organization_id = subject.organization_id.or_else(|| owner(entry.owner, data));
        if let Some((path, is_in)) = entry.member {
            let beside = path.split_last().and_then(|(_, holder)| descend(data, holder));
            let tell = |field: &&str| {
                let [value] = members_of(beside, [*field]);
                name(value).map(|value| ((*field).to_owned(), value))
            };
            let tells = entry.tells.iter().filter_map(tell).collect();
            subject.member = named(path).map(|id| Member { id, is_in, tells });
            // That of the owner, which a change of its members does not move.
            subject.updated_at = None;
        }
        for path in before.iter().rev() {
            subject.id = named(path).zip(subject.id).map(|(part, rest)| format!("{part}/{rest}"));
        }
        subject
    }

    /// What stands beside the (last part of the) id, and its organization.
    fn beside(id: Path, organization: Path, data: Option<&RawValue>) -> Self {
        let Some((id, holder)) = id.split_last() else { return Self::default() };
        let object = descend(data, holder);
        let organization = match organization.split_last() {
            Some((organization, same)) if same == holder => {
                let [id, updated_at, organization] = members_of(object, [id, "updated_at", organization]);
                return Self {
                    id: name(id),
                    organization_id: name(organization),
                    directory_id: None,
                    member: None,
                    updated_at: time(updated_at),
                };
            }
            Some((organization, elsewhere)) => {
                let [organization] = members_of(descend(data, elsewhere), [organization]);
                name(organization)
            }
            None => None,
        };
        let [id, updated_at] = members_of(object, [id, "updated_at"]);
        Self {
            id: name(id),
            organization_id: organization,
            directory_id: None,
            member: None,
            updated_at: time(updated_at),
        }
    }
}

/// The id of an owner that is an organization.
fn owner(path: Path, data: Option<&RawValue>) -> Option<String> {
    if path.is_empty() {
        return None;
    }
    let [of_type, id] = members_of(descend(data, path), ["type", "id"]);
    if text(of_type?)? == "organization" { name(id) } else { None }
}

/// Who did it, as `source:id`, e.g. `dashboard:user_01J8`; nobody whose id may be an e-mail address.
fn actor(context: Option<&RawValue>) -> Option<String> {
    let [id, source] = members_of(descend(context, &["actor"]), ["id", "source"]);
    let actor = format!("{}:{}", name(source)?, name(id)?);
    (!actor.contains('@')).then_some(actor)
}

/// The value at the end of `path`.
fn descend<'a>(data: Option<&'a RawValue>, path: &[&str]) -> Option<&'a RawValue> {
    path.iter().fold(data, |object, step| {
        let [value] = members_of(object, [step]);
        value
    })
}

/// A text that can name something: not empty, not endless, nothing that breaks a line.
fn name(value: Option<&RawValue>) -> Option<String> {
    let text = text(value?)?;
    let fits = !text.is_empty() && text.chars().count() <= MAX_LENGTH && !text.contains(char::is_control);
    fits.then(|| text.into_owned())
}

fn time(value: Option<&RawValue>) -> Option<DateTime<Utc>> {
    timestamp::parse(&text(value?)?)
}

/// The text of a JSON string; `None` for any other value.
fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    serde_json::from_str::<Text>(value.get()).ok().map(|text| text.0)
}

fn members_of<'a, const N: usize>(
    object: Option<&'a RawValue>,
    names: [&str; N],
) -> [Option<&'a RawValue>; N] {
    object.and_then(|object| members(object.get(), names)).unwrap_or([None; N])
}

/// The named members of a JSON object, unparsed, in one pass over its text; the last one counts when
/// a name stands twice. `None` when the text is no JSON object.
fn members<'a, const N: usize>(json: &'a str, names: [&str; N]) -> Option<[Option<&'a RawValue>; N]> {
    let mut parser = serde_json::Deserializer::from_str(json);
    let found = parser.deserialize_map(Members(names)).ok()?;
    parser.end().ok()?;
    Some(found)
}

struct Members<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(name) = object.next_key_seed(Wanted(&self.0))? {
            let Some(name) = name else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = object.next_value()?;
            // One member may be wanted twice: an organization's id is also its organization's.
            for (slot, _) in found.iter_mut().zip(self.0).filter(|(_, wanted)| *wanted == name) {
                *slot = Some(value);
            }
        }
        Ok(found)
    }
}

/// A member's name, if it is one of the wanted.
struct Wanted<'n>(&'n [&'n str]);

impl<'n, 'de> DeserializeSeed<'de> for Wanted<'n> {
    type Value = Option<&'n str>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl<'n> Visitor<'_> for Wanted<'n> {
    type Value = Option<&'n str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|name| **name == key).copied())
    }
}

#[cfg(test)]
mod tests {
    use crate::catalogue::Operation;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn received_at() -> DateTime<Utc> {
        timestamp::parse("2026-01-15T12:00:05Z").expect("a time")
    }

    fn event(body: &str) -> Option<Event> {
        read(body.as_bytes(), Channel::Webhook, received_at()).ok()
    }

    #[test]
    fn a_webhook_is_reduced_to_ids_and_times() {
        let body = json!({
            "id": "event_1",
            "event": "organization_membership.updated",
            "data": {
                "object": "organization_membership", "id": "om_1", "user_id": "user_1",
                "organization_id": "org_1", "status": "active", "updated_at": "2026-01-15T12:00:00.000Z",
            },
            "created_at": "2026-01-15 12:00:01.5",
            "context": {"actor": {"id": "user_2", "source": "dashboard", "name": "Ada"}},
        });
        let event = event(&body.to_string()).expect("an event");
        assert_eq!(
            event,
            Event {
                id: "event_1".to_owned(),
                event_type: "organization_membership.updated".to_owned(),
                kind: Some("organization_membership".to_owned()),
                operation: Some(Operation::Updated),
                object_id: Some("om_1".to_owned()),
                organization_id: Some("org_1".to_owned()),
                directory_id: None,
                member: None,
                created_at: timestamp::parse("2026-01-15T12:00:01.500Z"),
                updated_at: timestamp::parse("2026-01-15T12:00:00Z"),
                actor: Some("dashboard:user_2".to_owned()),
                received_at: received_at(),
                channel: Channel::Webhook,
            }
        );
    }

    #[test]
    fn the_organization_of_an_api_key_is_its_owner_or_said_by_it() {
        let of = |owner: Value| {
            let data = json!({"object": "api_key", "id": "api_key_1", "owner": owner});
            let body = json!({"id": "event_1", "event": "api_key.created", "data": data});
            event(&body.to_string()).expect("an event").organization_id
        };
        let acme = Some("org_1".to_owned());
        assert_eq!(of(json!({"type": "organization", "id": "org_1"})), acme);
        assert_eq!(of(json!({"type": "user", "id": "user_1", "organization_id": "org_1"})), acme);
        for unknown in [
            json!({"type": "user", "id": "user_1"}),
            json!({"type": "user", "id": "user_1", "organization_id": null}),
            json!({"type": "organization"}),
            json!({"id": "org_1"}),
            Value::Null,
        ] {
            assert_eq!(of(unknown), None);
        }
    }

    #[test]
    fn ids_and_updated_at_are_those_of_the_nested_object() {
        let body = json!({
            "id": "event_1",
            "event": "organization_domain.verification_failed",
            "data": {
                "id": "not this", "organization_id": "not this", "updated_at": "2020-01-01T00:00:00Z",
                "reason": "timeout",
                "organization_domain": {
                    "id": "org_domain_1", "organization_id": "org_1", "updated_at": "2026-01-15T12:00:00Z",
                },
            },
        });
        let event = event(&body.to_string()).expect("an event");
        assert_eq!(event.object_id.as_deref(), Some("org_domain_1"));
        assert_eq!(event.organization_id.as_deref(), Some("org_1"));
        assert_eq!(event.updated_at, timestamp::parse("2026-01-15T12:00:00Z"));
    }

    #[test]
    fn an_organization_is_its_own_organization() {
        let event = event(r#"{"id":"event_1","event":"organization.created","data":{"id":"org_1"}}"#);
        let event = event.expect("an event");
        assert_eq!(
            (event.object_id.as_deref(), event.organization_id.as_deref()),
            (Some("org_1"), Some("org_1"))
        );
    }

    #[test]
    fn the_members_may_stand_in_any_order_and_be_escaped() {
        let body = r#" {"data":{"id":"us\u0065r_1"},"\u0065vent":"user.deleted","id":"event_1"} "#;
        let event = event(body).expect("an event");
        assert_eq!(event.event_type, "user.deleted");
        assert!(event.is_deletion());
        assert_eq!(event.object_id.as_deref(), Some("user_1"));
    }

    #[test]
    fn an_unknown_type_is_an_event_without_a_kind() {
        let event = event(r#"{"id":"event_1","event":"planet.created","data":{"id":"planet_1"}}"#);
        let event = event.expect("an event");
        assert_eq!((event.kind, event.operation, event.object_id), (None, None, None));
    }

    #[test]
    fn a_known_type_without_a_usable_object_id_keeps_its_kind() {
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_LENGTH + 1));
        for data in
            ["{}", "null", "[]", r#""x""#, "7", r#"{"id":null}"#, r#"{"id":7}"#, r#"{"id":""}"#, &long]
        {
            let body = format!(r#"{{"id":"event_1","event":"user.updated","data":{data}}}"#);
            let event = event(&body).unwrap_or_else(|| panic!("an event: {body}"));
            assert_eq!(event.kind.as_deref(), Some("user"), "{body}");
            assert_eq!(event.object_id, None, "{body}");
        }
        let event = event(r#"{"id":"event_1","event":"user.updated"}"#).expect("an event");
        assert_eq!((event.kind.as_deref(), event.object_id), (Some("user"), None));
    }

    #[test]
    fn a_malformed_time_is_no_time() {
        for created_at in [r#""soon""#, "1768478400", "null", "{}", "1e999"] {
            let body = format!(r#"{{"id":"event_1","event":"user.updated","created_at":{created_at}}}"#);
            assert_eq!(event(&body).expect("an event").created_at, None, "{body}");
        }
    }

    #[test]
    fn a_byte_order_mark_before_the_json_is_skipped() {
        assert!(event("\u{feff}{\"id\":\"event_1\",\"event\":\"user.updated\"}").is_some());
    }

    #[test]
    fn hostile_but_well_formed_json_is_read_without_building_it() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let huge = "9".repeat(100_000);
        for extra in [&deep, &huge, r#""\ud83d\ude00""#, "1e99999"] {
            let body = format!(
                r#"{{"x":{extra},"id":"event_0","id":"event_1","event":"user.updated","data":{{"x":{extra},"id":"user_1"}}}}"#
            );
            let event = event(&body).expect("an event");
            assert_eq!((event.id.as_str(), event.object_id.as_deref()), ("event_1", Some("user_1")));
        }
    }

    #[test]
    fn what_is_not_an_event_is_refused() {
        let long = "x".repeat(MAX_LENGTH + 1);
        for body in [
            "",
            "null",
            "[]",
            "7",
            "{}",
            "\u{feff}",
            r#"{"id":"event_1"}"#,
            r#"{"event":"user.updated"}"#,
            r#"{"id":"","event":"user.updated"}"#,
            r#"{"id":"event_1","event":""}"#,
            r#"{"id":7,"event":"user.updated"}"#,
            r#"{"id":null,"event":"user.updated"}"#,
            r#"{"id":"event_1","event":["user.updated"]}"#,
            r#"{"id":"event\r\n1","event":"user.updated"}"#,
            r#"{"id":"event_\ud800","event":"user.updated"}"#,
            r#"{"id":"event_1","event":"user.updated"}{}"#,
            r#"{"id":"event_1","event":"user.updated","#,
            r#"{"id":"event_1","event":"user.updated","data":}"#,
            &format!(r#"{{"id":"{long}","event":"user.updated"}}"#),
            &format!(r#"{{"id":"event_1","event":"{long}"}}"#),
        ] {
            assert_eq!(event(body), None, "{body}");
        }
        assert_eq!(
            read(b"{\"id\":\"event_1\",\"event\":\"user.\xff\"}", Channel::Webhook, received_at()),
            Err(NotAnEvent)
        );
    }

    #[test]
    fn an_actor_without_an_id_of_its_own_is_not_named() {
        for actor in ["null", "{}", r#"{"id":"user_2"}"#, r#"{"id":"ada@example.com","source":"api"}"#, "7"] {
            let body = format!(r#"{{"id":"event_1","event":"user.updated","context":{{"actor":{actor}}}}}"#);
            assert_eq!(event(&body).expect("an event").actor, None, "{body}");
        }
    }

    const MARKER: &str = "ada@example.com";

    /// Any JSON, with the marker in every string and in every member's name.
    fn noise() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            Just(Value::from(MARKER)),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(inner, 0..4).prop_map(|values| {
                    let named = values.into_iter().enumerate();
                    Value::Object(named.map(|(n, value)| (format!("{MARKER}{n}"), value)).collect())
                }),
            ]
        })
    }

    /// Where the payload holds the ids of a type, with everything else marked.
    fn payload(entry: &Entry, id: &str, organization: &str, noise: &Value) -> Value {
        let mut data = json!({"email": MARKER, "first_name": MARKER, "metadata": noise, "object": MARKER});
        let mut put = |path: &[&str], value: &str| {
            let mut place = &mut data;
            for step in path {
                place = &mut place[*step];
            }
            *place = Value::from(value);
        };
        if !entry.organization.is_empty() {
            put(entry.organization, organization);
        }
        if !entry.directory.is_empty() {
            put(entry.directory, "directory_1");
        }
        for field in entry.tells.iter().filter(|field| [**field] != *entry.organization) {
            put(&[*field], &format!("told_{field}"));
        }
        if let Some((member, _)) = entry.member {
            put(member, "member_1");
        }
        for (path, part) in entry.id.iter().zip(id.split('/')) {
            put(path, part);
        }
        data
    }

    proptest! {
        #[test]
        fn a_body_of_any_bytes_never_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&body, Channel::Webhook, received_at());
        }

        #[test]
        fn a_broken_event_never_panics(cut in 0..200_usize, position in 0..200_usize, byte in any::<u8>()) {
            let whole = r#"{"id":"event_1","event":"user.updated","data":{"id":"user_1","updated_at":"2026-01-15T12:00:00Z"},"created_at":"2026-01-15T12:00:00Z"}"#;
            let mut body = whole.as_bytes().to_vec();
            if let Some(place) = body.get_mut(position) {
                *place = byte;
            }
            body.truncate(cut);
            let _ = read(&body, Channel::Webhook, received_at());
        }

        #[test]
        fn an_event_keeps_its_ids_and_nothing_else_of_its_payload(
            position in 0..catalogue::ENTRIES.len(),
            id in "[a-z]{1,10}_[0-9A-Z]{26}",
            extra in noise(),
            object in proptest::option::of(Just("event")),
            context in prop_oneof![
                noise(),
                noise().prop_map(|noise| json!({"actor": {"id": MARKER, "source": "api", "name": noise}})),
                Just(json!({"actor": {"id": "user_2", "source": MARKER, "name": MARKER}})),
            ],
            created_at in prop_oneof![Just(json!("2026-01-15T12:00:00Z")), Just(json!(MARKER)), Just(Value::Null)],
        ) {
            let entry = &catalogue::ENTRIES[position];
            let organization = format!("org_of_{id}");
            let parts = entry.id.iter().map(|path| if *path == entry.organization { &organization } else { &id });
            let object_id = parts.map(String::as_str).collect::<Vec<_>>().join("/");
            let object_id = Some(object_id.as_str()).filter(|id| !id.is_empty());
            let body = json!({
                "object": object, "id": format!("event_{id}"), "event": entry.event_type,
                "data": payload(entry, object_id.unwrap_or_default(), &organization, &extra),
                "created_at": created_at, "context": context, "extra": extra,
            });
            let event = event(&body.to_string()).expect("an event");
            prop_assert_eq!(&event.id, &format!("event_{id}"));
            prop_assert_eq!(event.object_id.as_deref(), object_id);
            prop_assert_eq!(event.kind.as_deref(), entry.kind.map(crate::id::Kind::name));
            let expected = (!entry.organization.is_empty()).then_some(organization.as_str());
            prop_assert_eq!(event.organization_id.as_deref(), expected);
            let expected = (!entry.directory.is_empty()).then_some("directory_1");
            prop_assert_eq!(event.directory_id.as_deref(), expected);
            let expected = entry.member.map(|(path, is_in)| Member {
                id: "member_1".to_owned(),
                is_in,
                tells: entry
                    .tells
                    .iter()
                    .map(|field| {
                        let told = match [*field] {
                            of if of == *entry.organization => organization.clone(),
                            of if of == *path => "member_1".to_owned(),
                            _ => format!("told_{field}"),
                        };
                        ((*field).to_owned(), told)
                    })
                    .collect(),
            });
            prop_assert_eq!(&event.member, &expected);
            let published = serde_json::to_string(&event).expect("a message");
            prop_assert!(!published.contains(MARKER), "{}", published);
        }
    }
}
