//! Publishing in groups, where the broker takes its time for each message: with `sync_interval: always` it waits for
//! its disk, and a group waits once. Needs atomic batches (NATS 2.12, a stream that allows them); without them, and
//! while acknowledgements come quickly, every message goes by itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::{Client, Request, RequestErrorKind, Subject};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::store::{ACK_TIMEOUT, Single, Stored, Unstored};

/// With fewer messages at hand a group gains nothing.
const LEAST: usize = 16;
/// The most that go in one group. The broker takes 1,000.
const MOST: usize = 500;
/// Acknowledgements that take longer than this, while so many are awaited, say that the broker is what they wait for.
const SLOW: Duration = Duration::from_millis(20);

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// A message that waits for its group.
struct Member {
    outgoing: Outgoing,
    stored: oneshot::Sender<Result<Stored, Unstored>>,
}

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where.
    pub subject: Subject,
    /// With its message id.
    pub headers: HeaderMap,
    /// What.
    pub payload: Bytes,
}

/// Decides for each message whether it goes alone, and carries the groups, one at a time.
pub(crate) struct Groups {
    pace: Arc<Pace>,
    members: mpsc::UnboundedSender<Member>,
}

/// How things are.
#[derive(Default)]
struct Pace {
    /// The stream takes atomic batches.
    possible: AtomicBool,
    /// Groups are better now.
    better: AtomicBool,
    /// Acknowledgements that are awaited.
    awaited: AtomicUsize,
    /// How long they took lately, in microseconds.
    took: AtomicU64,
}

/// A message whose acknowledgement is awaited.
pub(crate) struct Awaited<'a>(&'a Pace);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Groups {
    /// Groups of one stream. Must be called within a runtime.
    pub(crate) fn new(client: Client, single: Single) -> Self {
        let (members, queue) = mpsc::unbounded_channel();
        let pace = Arc::<Pace>::default();
        tokio::spawn(carry(client, single, queue, pace.clone()));
        Self { pace, members }
    }

    /// Whether the stream takes atomic batches.
    pub(crate) fn possible(&self, possible: bool) {
        self.pace.possible.store(possible, Ordering::Relaxed);
    }

    /// Counts a message, until what is returned is dropped.
    pub(crate) fn awaited(&self) -> Awaited<'_> {
        self.pace.awaited.fetch_add(1, Ordering::Relaxed);
        Awaited(&self.pace)
    }

    /// How many are counted.
    pub(crate) fn count(&self) -> usize {
        self.pace.awaited.load(Ordering::Relaxed)
    }

    /// Whether the next message goes in a group.
    pub(crate) fn are_better(&self) -> bool {
        self.pace.better.load(Ordering::Relaxed) && self.pace.possible.load(Ordering::Relaxed)
    }

    /// A message that went alone was acknowledged after so long.
    pub(crate) fn took(&self, time: Duration) {
        if self.count() < LEAST || !self.pace.possible.load(Ordering::Relaxed) {
            return;
        }
        let before = self.pace.took.load(Ordering::Relaxed);
        let now = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let lately = before - before / 16 + now / 16;
        self.pace.took.store(lately, Ordering::Relaxed);
        if Duration::from_micros(lately) > SLOW && !self.pace.better.swap(true, Ordering::Relaxed) {
            tracing::debug!("acknowledgements are slow, publishing in groups");
        }
    }

    /// Stores a message with others.
    pub(crate) async fn store(&self, outgoing: Outgoing) -> Result<Stored, Unstored> {
        let (stored, outcome) = oneshot::channel();
        self.members.send(Member { outgoing, stored }).map_err(|_| Unstored::NotConnected)?;
        outcome.await.unwrap_or(Err(Unstored::NotConnected))
    }
}

/// Carries groups until nobody can send any more.
async fn carry(client: Client, single: Single, mut queue: mpsc::UnboundedReceiver<Member>, pace: Arc<Pace>) {
    let mut members = Vec::with_capacity(MOST);
    while queue.recv_many(&mut members, MOST).await > 0 {
        // Whoever is about to come, comes along.
        tokio::task::yield_now().await;
        while members.len() < MOST
            && let Ok(member) = queue.try_recv()
        {
            members.push(member);
        }
        if members.len() < LEAST {
            let started = Instant::now();
            let stored = alone(&single, members.drain(..)).await;
            // It is quiet, and the broker acknowledges at once: nothing gathers while one waits.
            if stored && started.elapsed() < SLOW {
                pace.better.store(false, Ordering::Relaxed);
                pace.took.store(0, Ordering::Relaxed);
            }
            continue;
        }
        // The broker refuses a group that holds a message twice.
        let mut ids: HashSet<String> = HashSet::with_capacity(members.len());
        let (group, rest): (Vec<Member>, Vec<Member>) = members.drain(..).partition(|member| {
            member.outgoing.headers.get(NATS_MESSAGE_ID).is_none_or(|id| ids.insert(id.to_string()))
        });
        match publish(&client, &group).await {
            Outcome::Stored => {
                for member in group {
                    // Nobody may be there to hear it: it is stored all the same.
                    let _ = member.stored.send(Ok(Stored::New));
                }
            }
            Outcome::Refused => {
                alone(&single, group).await;
            }
            Outcome::Unknown(why) => {
                for member in group {
                    let _ = member.stored.send(Err(why));
                }
            }
        }
        alone(&single, rest).await;
    }
}

/// Stores messages one by one, at the same time. Says whether all of them are.
async fn alone(single: &Single, members: impl IntoIterator<Item = Member>) -> bool {
    let stored = join_all(members.into_iter().map(|member| async move {
        let stored = single.store(member.outgoing).await;
        let is_stored = stored.is_ok();
        let _ = member.stored.send(stored);
        is_stored
    }));
    stored.await.into_iter().all(|is_stored| is_stored)
}

/// What became of a group.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// All of it is in the stream, and none of it was before.
    Stored,
    /// None of it is: one was in the stream already, or the broker takes no groups now.
    Refused,
    /// Nobody knows.
    Unknown(Unstored),
}

/// What the broker says of a group.
#[derive(Deserialize)]
struct Commit {
    #[serde(default)]
    batch: Option<String>,
    #[serde(default)]
    count: Option<usize>,
}

/// Publishes a group as one atomic batch.
async fn publish(client: &Client, group: &[Member]) -> Outcome {
    let Some((last, others)) = group.split_last() else { return Outcome::Stored };
    let batch = client.new_inbox().rsplit('.').next().unwrap_or_default().to_owned();
    let headers = |member: &Member, place: usize| {
        let mut headers = member.outgoing.headers.clone();
        headers.insert(BATCH_ID, batch.as_str());
        headers.insert(BATCH_SEQUENCE, place.to_string());
        headers
    };
    for (place, member) in others.iter().enumerate() {
        let Outgoing { subject, payload, .. } = &member.outgoing;
        let sent =
            client.publish_with_headers(subject.clone(), headers(member, place + 1), payload.clone()).await;
        if sent.is_err() {
            return Outcome::Unknown(Unstored::NotConnected);
        }
    }
    let mut commit = headers(last, group.len());
    commit.insert(BATCH_COMMIT, "1");
    let request =
        Request::new().headers(commit).payload(last.outgoing.payload.clone()).timeout(Some(ACK_TIMEOUT));
    let reply = match client.send_request(last.outgoing.subject.clone(), request).await {
        Ok(reply) => reply,
        Err(error) => {
            return match error.kind() {
                // Alone they find out what is the matter with the stream.
                RequestErrorKind::NoResponders => Outcome::Refused,
                RequestErrorKind::TimedOut => Outcome::Unknown(Unstored::Unacknowledged),
                _ => Outcome::Unknown(Unstored::NotConnected),
            };
        }
    };
    outcome(&reply.payload, &batch, group.len())
}

fn outcome(reply: &[u8], batch: &str, count: usize) -> Outcome {
    match serde_json::from_slice::<Commit>(reply) {
        Ok(commit) if commit.batch.as_deref() == Some(batch) && commit.count == Some(count) => {
            Outcome::Stored
        }
        // An error; published again, what is stored already is only a duplicate.
        Ok(_) | Err(_) => Outcome::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_acknowledgement_of_the_whole_group_counts() {
        let stored = |reply: &str| outcome(reply.as_bytes(), "b1", 3);
        assert_eq!(stored(r#"{"stream":"S","seq":9,"batch":"b1","count":3}"#), Outcome::Stored);
        for reply in [
            r#"{"stream":"S","seq":9,"batch":"b1","count":2}"#,
            r#"{"stream":"S","seq":9,"batch":"b2","count":3}"#,
            r#"{"stream":"S","seq":9}"#,
            r#"{"error":{"code":400,"err_code":10201,"description":"duplicate"},"stream":"S","seq":0}"#,
            "",
        ] {
            assert_eq!(stored(reply), Outcome::Refused, "{reply}");
        }
    }
}
