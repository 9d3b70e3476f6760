//! Events of WorkOS: as webhooks of about 1 KiB, signed and ready to be written to a socket, and as the
//! messages that `ingest` makes of them.

use std::io::Write as _;
use std::ops::Range;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use shared::catalogue::Operation;
use shared::clock;
use shared::event::{Channel, Event};
use support::sim;

use super::SECRET;

/// A user of WorkOS.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// `user_...`.
    pub(crate) id: String,
    /// When WorkOS last changed it.
    pub(crate) updated_at: DateTime<Utc>,
}

impl User {
    /// One that nobody will be asked about.
    pub(crate) fn unknown(number: usize) -> Self {
        Self { id: format!("user_01K8BENCH{number:017}"), updated_at: clock::now() }
    }
}

/// `event_` and 26 characters, in order.
pub(crate) fn event_id(number: usize) -> String {
    format!("event_01K8BENCH{number:017}")
}

/// The webhook's body: about 1 KiB, most of it what the application keeps in `metadata`.
pub(crate) fn body(number: usize, user: &User, created_at: DateTime<Utc>) -> Vec<u8> {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
    let data = json!({
        "object": "user",
        "id": user.id,
        "email": format!("user.number{number}@example.com"),
        "first_name": "Ada",
        "last_name": "Lovelace",
        "email_verified": true,
        "profile_picture_url": "https://workoscdn.com/images/v1/abcdefghijklmnopqrstuvwxyz0123456789",
        "external_id": format!("{number:036}"),
        "last_sign_in_at": time(created_at),
        "locale": "en-US",
        "metadata": {
            "department": "Analytical Engines, Calculation of Bernoulli Numbers",
            "cost_center": "4711-0815-42",
            "manager": "charles.babbage@example.com",
            "notes": "n".repeat(320),
        },
        "created_at": time(user.updated_at),
        "updated_at": time(user.updated_at),
    });
    // The order of WorkOS's own.
    format!(
        r#"{{"id":"{}","event":"user.updated","data":{data},"created_at":"{}","context":{{}}}}"#,
        event_id(number),
        time(created_at)
    )
    .into_bytes()
}

/// The message that `ingest` publishes for such a webhook.
pub(crate) fn event(number: usize, user: &User, at: DateTime<Utc>) -> Event {
    Event {
        id: event_id(number),
        event_type: "user.updated".to_owned(),
        kind: Some("user".to_owned()),
        operation: Some(Operation::Updated),
        object_id: Some(user.id.clone()),
        organization_id: None,
        directory_id: None,
        member: None,
        created_at: Some(at),
        updated_at: Some(user.updated_at),
        actor: None,
        received_at: at,
        channel: Channel::Webhook,
    }
}

/// Requests as bytes, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Requests {
    /// Signed webhooks about users that do not matter, with these numbers.
    pub(crate) fn webhooks(numbers: Range<usize>) -> anyhow::Result<Self> {
        let now = clock::now();
        let mut requests = Self::default();
        for number in numbers {
            requests.webhook(&body(number, &User::unknown(number), now), now)?;
        }
        Ok(requests)
    }

    /// Adds a webhook, signed at that time.
    pub(crate) fn webhook(&mut self, body: &[u8], at: DateTime<Utc>) -> anyhow::Result<()> {
        let signature = sim::sign(SECRET, at.timestamp_millis(), body)?;
        write!(
            self.bytes,
            "POST /webhooks/workos HTTP/1.1\r\nhost: bench.example.com\r\nuser-agent: WorkOS\r\n\
             content-type: application/json\r\nworkos-signature: {signature}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )?;
        self.bytes.extend_from_slice(body);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// Questions about users, as the worker asks them.
    pub(crate) fn questions<'a>(
        users: impl IntoIterator<Item = &'a User>,
        key: &str,
    ) -> anyhow::Result<Self> {
        let mut requests = Self::default();
        for user in users {
            write!(
                requests.bytes,
                "GET /user_management/users/{} HTTP/1.1\r\nhost: bench.example.com\r\n\
                 authorization: Bearer {key}\r\n\r\n",
                user.id
            )?;
            requests.ends.push(requests.bytes.len());
        }
        Ok(requests)
    }

    /// Requests for an immediate sync of users, each of which waits for its end.
    pub(crate) fn syncs<'a>(users: impl IntoIterator<Item = &'a User>, token: &str) -> anyhow::Result<Self> {
        let mut requests = Self::default();
        for user in users {
            write!(
                requests.bytes,
                "POST /sync/user/{}?wait=10s HTTP/1.1\r\nhost: bench.example.com\r\n\
                 authorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n",
                user.id
            )?;
            requests.ends.push(requests.bytes.len());
        }
        Ok(requests)
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of one.
    pub(crate) fn get(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[place]]
    }
}
