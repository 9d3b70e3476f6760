//! What goes wrong: on command for exact stories, or by chance.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::id::Kind;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Reply};
use super::knobs::Knobs;

/// A way in which a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// This status with `{"message": ...}`.
    Status(u16),
    /// This status with a page of HTML.
    Html(u16),
    /// 429 with this `Retry-After`, in seconds, if any.
    TooMany(Option<u64>),
    /// 429 with the body `"Ratelimited"` and nothing else.
    Ratelimited,
    /// 200 with a body that is not JSON.
    Garbage,
    /// No answer for `Knobs::timeout_ms`, then the end of the connection.
    Timeout,
    /// The connection is reset instead of an answer.
    Reset,
    /// The connection is reset in the middle of the answer.
    Truncated,
}

impl Failure {
    /// What the asker sees.
    pub(super) fn answer(self, knobs: &Knobs) -> Answer {
        let reply = match self {
            Self::Status(401) => Reply::message(401, "Unauthorized"),
            Self::Status(status) => Reply::message(status, "Something went wrong."),
            Self::Html(status) => Reply::html(status),
            Self::TooMany(retry_after) => {
                Reply { retry_after, ..Reply::message(429, "Too many requests. Please try again later.") }
            }
            Self::Ratelimited => Reply::refused(429, &"Ratelimited".into()),
            Self::Garbage => Reply { status: 200, ..Reply::html(200) },
            Self::Timeout => return Answer::Silence(Duration::from_millis(knobs.timeout_ms)),
            Self::Reset => return Answer::Reset,
            Self::Truncated => {
                return Answer::Truncated(Reply::message(200, "This answer stops in the middle."));
            }
        };
        Answer::Reply(reply)
    }

    /// A failure by chance, if the dice say so.
    pub(super) fn roll(knobs: &Knobs, rng: &mut fastrand::Rng) -> Option<Self> {
        if chance(knobs.reset, rng) {
            return Some(if rng.bool() { Self::Reset } else { Self::Truncated });
        }
        if chance(knobs.timeout, rng) {
            return Some(Self::Timeout);
        }
        if chance(knobs.too_many, rng) {
            return Some(Self::TooMany(Some(knobs.retry_after_s)));
        }
        if chance(knobs.too_many_bare, rng) {
            return Some(Self::Ratelimited);
        }
        if chance(knobs.server_error, rng) {
            let status = [500, 502, 503][rng.usize(0..3)];
            return Some(if rng.bool() { Self::Html(status) } else { Self::Status(status) });
        }
        None
    }
}

/// Throws the dice. A chance of 0 leaves them alone.
pub(super) fn chance(chance: f64, rng: &mut fastrand::Rng) -> bool {
    chance > 0.0 && rng.f64() < chance
}

/// What a request asks for, as far as scripts tell them apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Object(Kind, String),
    List(Kind),
    Events,
}

/// What shall happen to a request.
#[derive(Debug)]
pub(super) enum Script {
    /// It fails.
    Fail(Failure),
    /// It is answered with what was true before the last change.
    Stale,
    /// Its answer is taken now and sent later.
    Hold(Gate),
    /// It is answered as it should be.
    Pass,
}

/// What shall happen to the next requests of each target, in order.
#[derive(Debug, Default)]
pub(super) struct Scripts(HashMap<Target, VecDeque<Script>>);

impl Scripts {
    pub(super) fn push(&mut self, target: Target, script: Script) {
        self.0.entry(target).or_default().push_back(script);
    }

    pub(super) fn next(&mut self, target: &Target) -> Option<Script> {
        let scripts = self.0.get_mut(target)?;
        let script = scripts.pop_front();
        if scripts.is_empty() {
            self.0.remove(target);
        }
        script
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Where a held answer waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    reached: CancellationToken,
    open: CancellationToken,
}

impl Gate {
    /// Says that the request has come, and waits until its answer may leave.
    pub(super) async fn pass(&self) {
        self.reached.cancel();
        self.open.cancelled().await;
    }

    /// The handle of whoever opens it.
    pub(super) fn hold(&self) -> Hold {
        Hold(self.clone())
    }
}

/// A request that will get an old answer late. Dropping it releases the answer.
#[derive(Debug)]
#[must_use = "dropping it releases the answer at once"]
pub struct Hold(Gate);

impl Hold {
    /// Waits until the request has arrived. Its answer is fixed from then on.
    pub async fn reached(&self) {
        self.0.reached.cancelled().await;
    }

    /// Whether the request has arrived.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.0.reached.is_cancelled()
    }

    /// Sends the answer.
    pub fn release(&self) {
        self.0.open.cancel();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}
