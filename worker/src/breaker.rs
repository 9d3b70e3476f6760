//! The breaker: when most events fail by what looks like our own fault (a bad deployment, a changed schema), none
//! of them is buried. Pulling stops, a few events are tried now and then, and when they go through it goes on.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff;

/// What is looked at: longer than most events of a bad deployment need to fail for the first time, shorter than
/// any of them needs to use up its attempts.
const WINDOW: Duration = Duration::from_mins(2);
/// Fewer failing events than this are those events' own matter.
const LEAST: usize = 20;
/// More are not told apart.
const MOST: usize = 10_000;
/// Deliveries that are tried at a time while it is open.
pub const TRIAL: usize = 10;
/// How long a trial waits to have as many: one event shows little.
pub const TRIAL_WAIT: Duration = Duration::from_millis(500);

/// Shared by everything that works on events in this process.
#[derive(Clone, Debug)]
pub struct Breaker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    open: watch::Sender<bool>,
}

/// How much may be pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// As much as can be carried.
    Free,
    /// A few deliveries, to see whether they go through.
    Trial,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Events that failed within the window, or since the last one that was settled, and were not settled since, by a
    /// hash of their id.
    failing: HashMap<u64, Instant>,
    /// Events that were settled, by the second.
    settled: VecDeque<(Instant, usize)>,
    /// How often it opened without a window's rest in between.
    opened: u32,
    closed_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: Instant },
    Trying { settled: usize, failed: usize },
}

impl Default for Breaker {
    fn default() -> Self {
        let state = State {
            phase: Phase::Closed,
            failing: HashMap::new(),
            settled: VecDeque::new(),
            opened: 0,
            closed_at: None,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), open: watch::Sender::new(false) }))
    }
}

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is open, to be followed. While it is, nothing is buried.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.open.subscribe()
    }

    /// Whether it is open. While it is, nothing is buried.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.0.open.borrow()
    }

    /// An event has its outcome.
    pub fn settled(&self, event_id: &str, now: Instant) {
        let mut state = self.lock();
        if let Phase::Trying { settled, .. } = &mut state.phase {
            *settled += 1;
        }
        if !state.failing.is_empty() {
            state.failing.remove(&hash(event_id));
        }
        match state.settled.back_mut() {
            Some((second, count)) if now.duration_since(*second) < Duration::from_secs(1) => *count += 1,
            _ => {
                state.forget(now);
                state.settled.push_back((now, 1));
            }
        }
    }

    /// An event failed in a way that hints at us.
    pub fn failed(&self, event_id: &str, now: Instant) {
        let mut state = self.lock();
        if let Phase::Trying { failed, .. } = &mut state.phase {
            *failed += 1;
        }
        if state.failing.len() < MOST {
            state.failing.insert(hash(event_id), now);
        }
        if state.phase == Phase::Closed && state.most_fail(now) {
            let failing = state.failing.len();
            state.open(now);
            drop(state);
            tracing::error!(
                failing,
                "most events fail: the breaker is open, nothing is buried and pulling stops until a few go through; \
                 was something deployed, or the schema changed?"
            );
            self.0.open.send_replace(true);
        }
    }

    /// Waits until something may be pulled.
    pub async fn passage(&self) -> Passage {
        loop {
            let until = match self.lock().phase {
                Phase::Closed => return Passage::Free,
                Phase::Trying { .. } => return Passage::Trial,
                Phase::Open { until } => until,
            };
            tokio::time::sleep_until(until).await;
            let mut state = self.lock();
            if state.phase == (Phase::Open { until }) {
                state.phase = Phase::Trying { settled: 0, failed: 0 };
            }
        }
    }

    /// A trial ended: what it showed decides. One that showed nothing goes on.
    pub fn end_trial(&self, now: Instant) {
        let mut state = self.lock();
        let Phase::Trying { settled, failed } = state.phase else { return };
        if failed > settled {
            state.open(now);
        } else if settled > 0 {
            state.phase = Phase::Closed;
            state.failing.clear();
            state.closed_at = Some(now);
            drop(state);
            tracing::info!("events go through again: the breaker is closed");
            self.0.open.send_replace(false);
        }
    }
}

impl State {
    fn open(&mut self, now: Instant) {
        if self.closed_at.is_some_and(|at| now.duration_since(at) >= WINDOW) {
            self.opened = 0;
        }
        self.opened = self.opened.saturating_add(1);
        self.closed_at = None;
        self.phase = Phase::Open { until: now + backoff::trial(self.opened) };
    }

    fn most_fail(&mut self, now: Instant) -> bool {
        if self.failing.len() < LEAST {
            return false;
        }
        self.forget(now);
        let settled: usize = self.settled.iter().map(|(_, count)| count).sum();
        self.failing.len() >= LEAST && self.failing.len() >= settled
    }

    /// Forgets what lies before the window.
    fn forget(&mut self, now: Instant) {
        let within = |at: Instant| now.duration_since(at) < WINDOW;
        while self.settled.front().is_some_and(|(at, _)| !within(*at)) {
            self.settled.pop_front();
        }
        // While nothing goes through, time makes failures no better: where little happens, few come in a window.
        if !self.settled.is_empty() {
            self.failing.retain(|_, at| within(*at));
        }
    }
}

fn hash(event_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    event_id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, events: usize, now: Instant) {
        for n in 0..events {
            breaker.failed(&format!("event_{n}"), now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_failing_events_are_their_own_matter_however_often_they_fail() {
        let breaker = Breaker::default();
        for _ in 0..100 {
            fail(&breaker, LEAST - 1, Instant::now());
        }
        assert!(!breaker.is_open());
        fail(&breaker, LEAST, Instant::now());
        assert!(breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_only_when_most_events_of_the_window_fail() {
        let breaker = Breaker::default();
        for n in 0..100 {
            breaker.settled(&format!("well_{n}"), Instant::now());
        }
        fail(&breaker, 99, Instant::now());
        assert!(!breaker.is_open());
        tokio::time::advance(WINDOW).await;
        breaker.settled("well", Instant::now());
        fail(&breaker, LEAST - 1, Instant::now());
        assert!(!breaker.is_open(), "what lies before the window is forgotten");
        fail(&breaker, LEAST, Instant::now());
        assert!(breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn where_little_happens_it_opens_when_nothing_goes_through() {
        let breaker = Breaker::default();
        breaker.settled("well", Instant::now());
        for n in 0..LEAST {
            assert!(!breaker.is_open());
            tokio::time::advance(WINDOW).await;
            breaker.failed(&format!("event_{n}"), Instant::now());
        }
        assert!(breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_is_settled_no_longer_fails() {
        let breaker = Breaker::default();
        for n in 0..1_000 {
            breaker.failed(&format!("event_{n}"), Instant::now());
            breaker.settled(&format!("event_{n}"), Instant::now());
        }
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_fails_keeps_it_open_and_one_that_goes_through_closes_it() {
        let breaker = Breaker::default();
        fail(&breaker, LEAST, Instant::now());
        assert_eq!(breaker.passage().await, Passage::Trial);
        breaker.end_trial(Instant::now());
        assert_eq!(breaker.passage().await, Passage::Trial, "nothing was shown");
        breaker.failed("event_1", Instant::now());
        breaker.end_trial(Instant::now());
        assert!(breaker.is_open());
        let before = Instant::now();
        assert_eq!(breaker.passage().await, Passage::Trial);
        assert!(Instant::now() > before, "the next trial is later");
        breaker.settled("event_1", Instant::now());
        breaker.end_trial(Instant::now());
        assert!(!breaker.is_open());
        assert_eq!(breaker.passage().await, Passage::Free);
    }
}
