//! The message on the wire between ingest and worker: identifiers and times, no personal data.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::catalogue::Operation;
use crate::id::{Kind, ObjectRef};

/// Which way an event came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// WorkOS posted it.
    Webhook,
    /// We read it from the Events API.
    Tail,
    /// Somebody asked for an immediate sync.
    Sync,
    /// A dead letter was replayed.
    Replay,
}

impl Channel {
    /// The name used in the ledger and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Tail => "tail",
            Self::Sync => "sync",
            Self::Replay => "replay",
        }
    }
}

/// What WorkOS announced, reduced to what is needed to go and ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// WorkOS's id of the event, the same on webhook and Events API.
    pub id: String,
    /// WorkOS's name of the event, e.g. `user.updated`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The kind of object it is about, by [`Kind::name`]; absent when the type is not mirrored, and
    /// possibly a kind that this version does not know yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What happened to the object; absent when the type is not mirrored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// The id of the object, absent when the type is not mirrored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_id: Option<String>,
    /// The organization it belongs to, where the payload tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<String>,
    /// The directory that holds it, where the payload tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_id: Option<String>,
    /// The one member that it is about, of a relation that is only answered as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    /// When WorkOS made the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<DateTime<Utc>>,
    /// `updated_at` of the payload: an answer older than this is a stale read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<DateTime<Utc>>,
    /// Who did it, where WorkOS names one: source and id, never a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// When it reached us.
    pub received_at: DateTime<Utc>,
    /// How it reached us.
    pub channel: Channel,
}

/// What an event says of one member of a relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its WorkOS id.
    pub id: String,
    /// Whether it is a member now.
    pub is_in: bool,
    /// Fields of the payload that no later answer will tell, or that tell how new an answer must be. Never personal
    /// data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tells: BTreeMap<String, String>,
}

impl Member {
    /// Whether its end is told here and nowhere else.
    #[must_use]
    pub fn tells_its_end(&self) -> bool {
        !self.is_in && !self.tells.is_empty()
    }
}

impl Event {
    /// The object to ask for, if this version mirrors it and the event names it.
    #[must_use]
    pub fn object(&self) -> Option<ObjectRef> {
        let kind: Kind = self.kind.as_deref()?.parse().ok()?;
        Some(ObjectRef::new(kind, self.object_id.clone()?))
    }

    /// When what it tells of happened, by WorkOS's clock where that is known.
    #[must_use]
    pub fn happened_at(&self) -> DateTime<Utc> {
        self.created_at.unwrap_or(self.received_at)
    }

    /// Whether WorkOS says that the object is gone.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.operation == Some(Operation::Deleted)
    }
}

/// A webhook brought an event that was in the stream already, which drops what it has. This is how the ledger
/// learns of it all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// WorkOS's id of the event.
    pub id: String,
    /// When the webhook reached us.
    pub received_at: DateTime<Utc>,
}

impl From<&Event> for Arrival {
    fn from(event: &Event) -> Self {
        Self { id: event.id.clone(), received_at: event.received_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_a_later_version_is_read_and_names_no_object() {
        let event: Event = serde_json::from_str(
            r#"{"id":"event_1","type":"planet.created","kind":"planet","object_id":"planet_1",
                "received_at":"2026-01-01T00:00:00Z","channel":"webhook","new_field":1}"#,
        )
        .expect("a later version's message");
        assert_eq!(event.object(), None);
    }
}
