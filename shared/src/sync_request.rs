//! The wish for an immediate sync, from ingest to worker, and the word that comes back: identifiers and
//! times, no personal data.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{Kind, ObjectRef};

/// Somebody wants an object to be asked for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    /// The kind of object, by [`Kind::name`]; possibly one that this version does not know yet.
    pub kind: String,
    /// Which one.
    pub id: String,
    /// Names the request in the logs of both programs.
    pub request_id: String,
    /// When somebody asked.
    pub requested_at: DateTime<Utc>,
}

impl SyncRequest {
    /// The object, if this version mirrors its kind.
    #[must_use]
    pub fn object(&self) -> Option<ObjectRef> {
        let kind: Kind = self.kind.parse().ok()?;
        Some(ObjectRef::new(kind, self.id.clone()))
    }
}

/// What became of a [`SyncRequest`], told once it is true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum SyncReply {
    /// It is done: the mirror can be read.
    Done {
        /// How it ended, as in the ledger of events.
        outcome: String,
    },
    /// It failed, and is tried again.
    Retrying {
        /// The failure class.
        reason: String,
        /// After how long.
        again_in_ms: u64,
    },
    /// It failed, and is not tried again.
    GivenUp {
        /// The failure class.
        reason: String,
    },
}

impl SyncReply {
    /// It is tried again after `delay`.
    pub fn retrying(reason: impl Into<String>, delay: Duration) -> Self {
        let again_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Self::Retrying { reason: reason.into(), again_in_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_a_later_version_is_read_and_names_no_object() {
        let request: SyncRequest = serde_json::from_str(
            r#"{"kind":"planet","id":"planet_1","request_id":"1","requested_at":"2026-01-01T00:00:00Z","new":1}"#,
        )
        .expect("a later version's message");
        assert_eq!(request.object(), None);
    }

    #[test]
    fn a_reply_says_its_status_in_a_word() {
        let reply = SyncReply::retrying("unconfirmed", Duration::from_secs(3));
        let text = serde_json::to_string(&reply).expect("JSON");
        assert_eq!(text, r#"{"status":"retrying","reason":"unconfirmed","again_in_ms":3000}"#);
        assert_eq!(serde_json::from_str::<SyncReply>(&text).expect("the same"), reply);
    }
}
