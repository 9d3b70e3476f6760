//! Whether WorkOS answers at all, and takes our key. What fails while nothing else is answered is the world's
//! fault: then nobody asks, but for one probe now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;

use crate::failure::Failure;

/// For how long the answer to a probe says how things are: many questions fail at once.
const FRESH: Duration = Duration::from_secs(1);

/// What is known of WorkOS, by every request of this process.
#[derive(Debug)]
pub(super) struct Health {
    /// Questions that were answered well.
    answered: AtomicU64,
    probed: Mutex<Option<Instant>>,
    /// One at a time finds out.
    turn: AsyncMutex<()>,
    unwell: watch::Sender<Option<Failure>>,
}

/// Whose fault a failed question is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The question's own.
    Own(Failure),
    /// Nobody is answered, or the key is refused: a change of state that was known already.
    Known(Failure),
    /// The same, and just found out: whoever sees it first has to look when it is over.
    Found(Failure),
}

impl Default for Health {
    fn default() -> Self {
        Self {
            answered: AtomicU64::new(0),
            probed: Mutex::new(None),
            turn: AsyncMutex::new(()),
            unwell: watch::Sender::new(None),
        }
    }
}

impl Health {
    /// Why nobody asks now; `None` while all is well.
    pub(super) fn unwell(&self) -> Option<Failure> {
        self.unwell.borrow().clone()
    }

    /// Follows it.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Failure>> {
        self.unwell.subscribe()
    }

    /// Questions that were answered well so far.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// A question was answered well.
    pub(super) fn answers(&self) {
        self.answered.fetch_add(1, Ordering::SeqCst);
    }

    /// Whose fault a failure is, of a question that left when `before` questions were answered. If nothing was
    /// answered since, `probe` asks something that has always an answer.
    pub(super) async fn fault(
        &self,
        failure: Failure,
        before: u64,
        probe: impl Future<Output = Result<(), Failure>>,
    ) -> Fault {
        let own = match failure {
            // Others may be answered because they left before the key was withdrawn.
            Failure::KeyRefused => Failure::Forbidden,
            Failure::ServerFault { .. } | Failure::Unreachable | Failure::TimedOut => {
                if self.answered() > before {
                    return Fault::Own(failure);
                }
                failure
            }
            other => return Fault::Own(other),
        };
        let _turn = self.turn.lock().await;
        if let Some(unwell) = self.unwell() {
            return Fault::Known(unwell);
        }
        if self.is_fresh() || (own != Failure::Forbidden && self.answered() > before) {
            return Fault::Own(own);
        }
        match of_a_probe(probe.await) {
            None => {
                *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                Fault::Own(own)
            }
            Some(unwell) => {
                self.unwell.send_replace(Some(unwell.clone()));
                Fault::Found(unwell)
            }
        }
    }

    /// What a later probe said. Says whether all is well.
    pub(super) fn probed(&self, answer: Result<(), Failure>) -> bool {
        let unwell = of_a_probe(answer);
        let well = unwell.is_none();
        self.unwell.send_if_modified(|before| {
            let changed = *before != unwell;
            *before = unwell;
            changed
        });
        well
    }

    fn is_fresh(&self) -> bool {
        let probed = *self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        probed.is_some_and(|at| at.elapsed() < FRESH)
    }
}

/// What a probe says of the world; `None` is well.
fn of_a_probe(answer: Result<(), Failure>) -> Option<Failure> {
    match answer {
        // Somebody who asks us to slow down is there.
        Ok(()) | Err(Failure::RateLimited { .. }) => None,
        Err(Failure::KeyRefused) => Some(Failure::KeyRefused),
        Err(Failure::Outage(failure)) => Some(Failure::Outage(failure)),
        Err(failure) => Some(Failure::Outage(Box::new(failure))),
    }
}

/// [`Health`], shared by the clones of a client.
pub(super) type SharedHealth = Arc<Health>;

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const DOWN: Failure = Failure::ServerFault { status: 503 };

    #[tokio::test]
    async fn what_fails_while_others_are_answered_is_its_own_fault_and_needs_no_probe() {
        let health = Health::default();
        let before = health.answered();
        health.answers();
        let probe = async { unreachable!("others were answered") };
        assert_eq!(health.fault(DOWN, before, probe).await, Fault::Own(DOWN));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_alone_is_its_own_fault_when_the_probe_is_answered() {
        let health = Health::default();
        assert_eq!(health.fault(DOWN, 0, ready(Ok(()))).await, Fault::Own(DOWN));
        let again = async { unreachable!("the last probe is fresh") };
        assert_eq!(health.fault(DOWN, 0, again).await, Fault::Own(DOWN));
        tokio::time::advance(FRESH).await;
        assert!(matches!(health.fault(DOWN, 0, ready(Err(DOWN))).await, Fault::Found(_)));
    }

    #[tokio::test]
    async fn when_nobody_is_answered_everything_is_the_worlds_fault_until_a_probe_is_answered() {
        let health = Health::default();
        let outage = Failure::Outage(Box::new(DOWN));
        assert_eq!(health.fault(DOWN, 0, ready(Err(DOWN))).await, Fault::Found(outage.clone()));
        let known = async { unreachable!("it is known") };
        assert_eq!(health.fault(Failure::TimedOut, 0, known).await, Fault::Known(outage.clone()));
        assert!(!health.probed(Err(DOWN)));
        assert_eq!(health.unwell(), Some(outage));
        assert!(health.probed(Ok(())));
        assert_eq!(health.unwell(), None);
    }

    #[tokio::test]
    async fn a_key_that_is_refused_only_here_is_the_questions_own_fault() {
        let health = Health::default();
        health.answers();
        let refused = Failure::KeyRefused;
        assert_eq!(health.fault(refused.clone(), 0, ready(Ok(()))).await, Fault::Own(Failure::Forbidden));
        let health = Health::default();
        let everywhere = health.fault(refused.clone(), 0, ready(Err(refused.clone()))).await;
        assert_eq!(everywhere, Fault::Found(refused));
    }
}
