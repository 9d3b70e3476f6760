//! How far a long command has come: bars on a terminal, a log line every few seconds otherwise.

use std::io::IsTerminal as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Between two log lines.
const EVERY: Duration = Duration::from_secs(10);

/// What is shown.
pub struct Progress {
    /// On a terminal; otherwise lines.
    terminal: bool,
    now: Mutex<Option<Stage>>,
}

struct Stage {
    what: String,
    began: Instant,
    said: Instant,
    steps: u64,
    total: Option<u64>,
    objects: u64,
    bar: Option<ProgressBar>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), now: Mutex::new(None) }
    }
}

impl Progress {
    /// Only log lines, for what runs by itself.
    #[must_use]
    pub fn lines() -> Self {
        Self { terminal: false, now: Mutex::new(None) }
    }

    fn now(&self) -> MutexGuard<'_, Option<Stage>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something begins that takes so many steps, as far as anybody knows.
    pub fn begin(&self, what: &str, total: Option<u64>) {
        self.end();
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let style = match total {
                Some(_) => "{prefix:28} {bar:24} {pos}/{len}, {eta} left, {msg}",
                None => "{prefix:28} {spinner} {pos} in {elapsed}, {msg}",
            };
            // The template is ours; if it were wrong, the default would do.
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_owned());
            bar
        });
        let began = Instant::now();
        *self.now() =
            Some(Stage { what: what.to_owned(), began, said: began, steps: 0, total, objects: 0, bar });
    }

    /// So many steps were taken, which brought so many objects.
    pub fn advance(&self, steps: u64, objects: u64) {
        let mut now = self.now();
        let Some(stage) = now.as_mut() else { return };
        stage.steps += steps;
        stage.objects += objects;
        let rate = stage.rate();
        if let Some(bar) = &stage.bar {
            bar.set_message(format!("{} objects, {rate:.0}/s", stage.objects));
            // What was an estimate is not exceeded.
            if stage.total.is_some_and(|total| stage.steps > total) {
                bar.set_length(stage.steps);
            }
            bar.inc(steps);
        } else if stage.said.elapsed() >= EVERY {
            stage.said = Instant::now();
            tracing::info!(
                steps = stage.steps,
                of = stage.total,
                objects = stage.objects,
                per_second = format!("{rate:.0}"),
                seconds_left = stage.seconds_left(),
                "{}",
                stage.what
            );
        }
    }

    /// It is done.
    pub fn end(&self) {
        let Some(stage) = self.now().take() else { return };
        if let Some(bar) = &stage.bar {
            bar.finish();
            return;
        }
        tracing::info!(
            objects = stage.objects,
            per_second = format!("{:.0}", stage.rate()),
            "{}: done",
            stage.what
        );
    }
}

impl Stage {
    #[expect(clippy::cast_precision_loss, reason = "objects are far fewer than 2^52")]
    fn rate(&self) -> f64 {
        self.objects as f64 / self.began.elapsed().as_secs_f64().max(0.001)
    }

    fn seconds_left(&self) -> Option<u64> {
        let left = self.total?.checked_sub(self.steps)?;
        (self.began.elapsed().as_secs() * left).checked_div(self.steps)
    }
}
