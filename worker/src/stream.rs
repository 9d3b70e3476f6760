//! What is known of the stream that a subscription reads.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Info, Stream};
use chrono::SubsecRound as _;
use tokio::sync::Notify;

use crate::guard::Life;

/// How long a batch waits for the broker to tell about the stream. Without an answer it asks WorkOS more than it needs.
const PATIENCE: Duration = Duration::from_millis(500);

/// The life of a stream, to the microsecond that Postgres keeps.
pub(crate) fn life_of(info: &Info) -> Life {
    info.created.trunc_subsecs(6)
}

pub(crate) fn last_of(info: &Info) -> i64 {
    i64::try_from(info.state.last_sequence).unwrap_or(i64::MAX)
}

/// The stream as it was when a subscription began.
#[derive(Clone)]
pub struct Begun {
    /// Its life.
    pub life: Life,
    stream: Arc<Stream<()>>,
    reborn: Arc<Notify>,
}

impl Begun {
    /// As the broker describes it, before anything is pulled: when the life is the same afterwards, all was pulled
    /// within it.
    #[must_use]
    pub fn new(stream: Stream<()>, info: &Info) -> Self {
        Self { life: life_of(info), stream: Arc::new(stream), reborn: Arc::new(Notify::new()) }
    }

    /// Its last sequence by now, by the broker; `None` when it does not tell, or when the stream was made anew since.
    pub async fn last_by_now(&self) -> Option<i64> {
        match tokio::time::timeout(PATIENCE, self.stream.get_info()).await {
            Ok(Ok(info)) if life_of(&info) == self.life => Some(last_of(&info)),
            Ok(Ok(_)) => {
                self.reborn.notify_one();
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "could not ask the broker about the stream");
                None
            }
            Err(_) => {
                tracing::debug!("the broker does not tell about the stream in time");
                None
            }
        }
    }

    /// Resolves once somebody found that the stream was made anew.
    pub async fn reborn(&self) {
        self.reborn.notified().await;
    }
}
