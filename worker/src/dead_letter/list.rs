//! Reading dead letters.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::{HeaderMap, HeaderValue};
use chrono::{DateTime, SubsecRound as _, Utc};
use futures_util::StreamExt as _;
use serde::Serialize;
use shared::id::Kind;
use shared::{clock, subject, timestamp};

use super::{DeadLetter, DeadLetters};

/// Dead letters that are fetched at a time.
const FETCH: usize = 1_000;
/// How long the broker may take for the next one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which dead letters are meant. Everything that is said must fit; nothing said means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// Event type, e.g. `user.updated`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Kind of object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Id of the object, or of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Class of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Died at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Died before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// The first so many of those that fit, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it means this one.
    #[must_use]
    pub fn fits(&self, letter: &DeadLetter) -> bool {
        let event = &letter.event;
        self.event_type.as_ref().is_none_or(|wanted| event.event_type == *wanted)
            && self.kind.is_none_or(|wanted| event.kind.as_deref() == Some(wanted.name()))
            && self
                .id
                .as_ref()
                .is_none_or(|wanted| event.object_id.as_ref() == Some(wanted) || event.id == *wanted)
            && self.reason.as_ref().is_none_or(|wanted| letter.reason == *wanted)
            && self.since.is_none_or(|since| letter.died_at >= since)
            && self.until.is_none_or(|until| letter.died_at < until)
    }
}

impl DeadLetters {
    /// Those that the filter means, oldest first; of each event the last one.
    pub async fn list(&self, filter: &Filter) -> anyhow::Result<Vec<DeadLetter>> {
        let mut letters = one_per_event(self.read().await?);
        letters.retain(|letter| filter.fits(letter));
        letters.truncate(filter.limit.unwrap_or(usize::MAX));
        Ok(letters)
    }

    /// One of them; `None` when it is not there, or of another environment.
    pub async fn show(&self, seq: u64) -> anyhow::Result<Option<DeadLetter>> {
        let message = match self.stream().await?.get_raw_message(seq).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => return Err(error).context("failed to read a dead letter"),
        };
        if !message.subject.starts_with(subject::dead_letters_of(&self.env).trim_end_matches('>')) {
            return Ok(None);
        }
        Ok(letter(seq, message.time, &message.headers, &message.payload))
    }

    /// All of them, in order.
    async fn read(&self) -> anyhow::Result<Vec<DeadLetter>> {
        let stream = self.stream().await?;
        let consumer = stream
            .create_consumer(pull::Config {
                filter_subject: subject::dead_letters_of(&self.env),
                deliver_policy: DeliverPolicy::All,
                ack_policy: AckPolicy::None,
                inactive_threshold: Duration::from_secs(30),
                memory_storage: true,
                ..pull::Config::default()
            })
            .await
            .context("failed to read the dead letters")?;
        let info = consumer.cached_info();
        let (name, mut pending) = (info.name.clone(), info.num_pending);
        let mut letters = Vec::with_capacity(usize::try_from(pending).unwrap_or(0));
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(FETCH)
            .messages()
            .await
            .context("failed to read the dead letters")?;
        while pending > 0 {
            let message = tokio::time::timeout(PATIENCE, messages.next())
                .await
                .context("the broker does not go on with the dead letters")?
                .context("the dead letters broke off")?
                .context("failed to read the dead letters")?;
            let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
            letters.extend(letter(
                info.stream_sequence,
                info.published,
                message.headers.as_ref().unwrap_or(&HeaderMap::new()),
                &message.payload,
            ));
            pending = info.pending;
        }
        drop(messages);
        // It would go by itself.
        let _ = stream.delete_consumer(&name).await;
        Ok(letters)
    }
}

/// Reads a dead letter. What is not one (somebody else published it there) is told and left out.
fn letter(seq: u64, died_at: DateTime<Utc>, headers: &HeaderMap, payload: &[u8]) -> Option<DeadLetter> {
    let header = |name: &str| headers.get(name).map(HeaderValue::as_str);
    let Ok(event) = serde_json::from_slice(payload) else {
        tracing::warn!(dead_letter.seq = seq, "a message among the dead letters is none, it is left out");
        return None;
    };
    Some(DeadLetter {
        seq,
        died_at,
        reason: header(subject::REASON).unwrap_or("unknown").to_owned(),
        error: header(subject::ERROR).unwrap_or_default().to_owned(),
        attempts: header(subject::ATTEMPTS).and_then(|value| value.parse().ok()).unwrap_or(0),
        first_seen: header(subject::FIRST_SEEN)
            .and_then(|value| DateTime::parse_from_rfc3339(value).ok())
            .map_or(died_at, |time| time.to_utc()),
        stream_seq: header(subject::STREAM_SEQUENCE).and_then(|value| value.parse().ok()).unwrap_or(0),
        event,
        earlier: Vec::new(),
    })
}

/// Of each event the last dead letter, in order. It stands for the earlier ones.
fn one_per_event(letters: Vec<DeadLetter>) -> Vec<DeadLetter> {
    let mut last: HashMap<String, usize> = HashMap::with_capacity(letters.len());
    let mut kept: Vec<Option<DeadLetter>> = Vec::with_capacity(letters.len());
    for mut letter in letters {
        if let Some(before) = last.insert(letter.event.id.clone(), kept.len())
            && let Some(before) = kept.get_mut(before).and_then(Option::take)
        {
            letter.earlier = before.earlier;
            letter.earlier.push(before.seq);
        }
        kept.push(Some(letter));
    }
    kept.into_iter().flatten().collect()
}

/// A time, or how long ago, as a person says it.
pub fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    timestamp::parse(text)
        .or_else(|| {
            let ago = chrono::TimeDelta::from_std(humantime::parse_duration(text).ok()?).ok()?;
            // As exact as a time that is written, so that it can be written and read again.
            clock::now().checked_sub_signed(ago).map(|time| time.trunc_subsecs(3))
        })
        .ok_or_else(|| "wants a time such as 2026-01-15T12:00:00Z, or how long ago, such as 2h".to_owned())
}

/// How many of each reason.
#[must_use]
pub fn by_reason(letters: &[DeadLetter]) -> BTreeMap<&str, usize> {
    let mut reasons = BTreeMap::new();
    for letter in letters {
        *reasons.entry(letter.reason.as_str()).or_default() += 1;
    }
    reasons
}

/// `3 dead letters: 2 row_refused, 1 crash`
#[must_use]
pub fn total(count: usize, reasons: &BTreeMap<&str, usize>) -> String {
    let each: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {}", printable(reason))).collect();
    match count {
        0 => "no dead letters".to_owned(),
        1 => format!("1 dead letter: {}", each.join(", ")),
        count => format!("{count} dead letters: {}", each.join(", ")),
    }
}

/// Ids come from outside, and a terminal obeys control characters.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use shared::event::Channel;

    use super::*;

    fn letter(seq: u64, event_id: &str) -> DeadLetter {
        let at = DateTime::UNIX_EPOCH + TimeDelta::seconds(i64::try_from(seq).unwrap_or(0));
        DeadLetter {
            seq,
            died_at: at,
            reason: "row_refused".to_owned(),
            error: String::new(),
            attempts: 12,
            first_seen: at,
            stream_seq: seq,
            event: shared::event::Event {
                id: event_id.to_owned(),
                event_type: "user.updated".to_owned(),
                kind: Some("user".to_owned()),
                operation: None,
                object_id: Some(format!("user_of_{event_id}")),
                organization_id: None,
                directory_id: None,
                member: None,
                created_at: None,
                updated_at: None,
                actor: None,
                received_at: at,
                channel: Channel::Webhook,
            },
            earlier: Vec::new(),
        }
    }

    #[test]
    fn an_event_that_died_twice_is_listed_once_with_its_last_death() {
        let kept = one_per_event(vec![letter(1, "a"), letter(2, "b"), letter(3, "a"), letter(4, "a")]);
        assert_eq!(kept.iter().map(|letter| letter.seq).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(kept[1].earlier, [1, 3]);
    }

    #[test]
    fn a_filter_means_what_fits_everything_it_says() {
        let at = |seconds| Some(DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds));
        let fits = |filter: Filter| filter.fits(&letter(5, "a"));
        assert!(fits(Filter::default()));
        assert!(fits(Filter { since: at(5), until: at(6), ..Filter::default() }));
        assert!(!fits(Filter { until: at(5), ..Filter::default() }));
        assert!(fits(Filter { id: Some("user_of_a".to_owned()), ..Filter::default() }));
        assert!(fits(Filter { id: Some("a".to_owned()), kind: Some(Kind::User), ..Filter::default() }));
        assert!(!fits(Filter {
            id: Some("a".to_owned()),
            kind: Some(Kind::Organization),
            ..Filter::default()
        }));
        assert!(!fits(Filter { reason: Some("crash".to_owned()), ..Filter::default() }));
        assert!(!fits(Filter { event_type: Some("user.created".to_owned()), ..Filter::default() }));
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        assert_eq!(
            moment("2026-01-15T12:00:00Z").ok().map(|time| time.to_rfc3339()).as_deref(),
            Some("2026-01-15T12:00:00+00:00")
        );
        let ago = clock::now() - moment("2h").expect("two hours ago");
        assert!((119..=121).contains(&ago.num_minutes()));
        assert!(moment("soon").is_err());
    }

    #[test]
    fn a_total_names_each_reason() {
        assert_eq!(total(0, &BTreeMap::new()), "no dead letters");
        assert_eq!(
            total(3, &BTreeMap::from([("row_refused", 2), ("crash", 1)])),
            "3 dead letters: 1 crash, 2 row_refused"
        );
    }
}
