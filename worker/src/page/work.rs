//! Replays and discards that the page began: one at a time, beside the requests. Where they stand is in
//! `workos_sync.runs`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::dead_letter::act::Order;
use crate::dead_letter::{DeadLetter, DeadLetters};

/// How long a request waits for the end: most are done by then, and the next page shows it.
const WAIT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(super) struct Work {
    letters: DeadLetters,
    database: PgPool,
    stop: CancellationToken,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    busy: bool,
    run: Option<i64>,
    broke_off: Option<(i64, String)>,
}

/// Another one is under way.
#[derive(Debug)]
pub(super) struct Busy;

/// Free again, whatever ends it.
struct Turn(Arc<Mutex<State>>);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.busy = false;
        state.run = None;
    }
}

impl Work {
    pub(super) fn new(letters: DeadLetters, database: PgPool, stop: CancellationToken) -> Self {
        Self { letters, database, stop, state: Arc::default() }
    }

    /// The run that is under way.
    pub(super) fn under_way(&self) -> Option<i64> {
        lock(&self.state).run
    }

    /// The last run that broke off, and why.
    pub(super) fn broke_off(&self) -> Option<(i64, String)> {
        lock(&self.state).broke_off.clone()
    }

    /// Begins it; returns the number of the run.
    pub(super) async fn begin(
        &self,
        meant: Vec<DeadLetter>,
        order: Order,
    ) -> anyhow::Result<Result<i64, Busy>> {
        if std::mem::replace(&mut lock(&self.state).busy, true) {
            return Ok(Err(Busy));
        }
        let turn = Turn(Arc::clone(&self.state));
        let id = self.letters.begin(&self.database, &order).await?;
        lock(&self.state).run = Some(id);
        let work = self.clone();
        let run = tokio::spawn(async move {
            let done = work.letters.carry_out(&work.database, id, &meant, &order, &work.stop, |_| {}).await;
            if let Err(error) = done {
                tracing::error!(
                    run = id,
                    error = format!("{error:#}"),
                    "a run of the operator page broke off"
                );
                lock(&work.state).broke_off = Some((id, format!("{error:#}")));
            }
            drop(turn);
        });
        // It goes on by itself if it takes longer.
        let _ = tokio::time::timeout(WAIT, run).await;
        Ok(Ok(id))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
