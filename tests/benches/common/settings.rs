//! Options of a run, from the environment.

use anyhow::Context as _;

/// What to measure, and how much of it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    only: Vec<String>,
    events: Option<usize>,
    /// `BENCH_ROUNDS`: how often everything that is compared is measured, in turns.
    pub(crate) rounds: usize,
}

impl Settings {
    /// Reads `BENCH_ONLY`, `BENCH_EVENTS`, `BENCH_ROUNDS`.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let only = std::env::var("BENCH_ONLY").unwrap_or_default();
        Ok(Self {
            only: only.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            events: number("BENCH_EVENTS")?,
            rounds: number("BENCH_ROUNDS")?.unwrap_or(3).max(1),
        })
    }

    /// Whether a group of figures was asked for.
    pub(crate) fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == group)
    }

    /// How many events: `BENCH_EVENTS`, or as many as usual.
    pub(crate) fn events(&self, usual: usize) -> usize {
        self.events.unwrap_or(usual)
    }
}

fn number(name: &str) -> anyhow::Result<Option<usize>> {
    match std::env::var(name) {
        Ok(value) => value.parse().map(Some).with_context(|| format!("{name} is not a number")),
        Err(_) => Ok(None),
    }
}

/// Whether cargo runs us to measure. `cargo test --all-targets` and `cargo nextest` run benches too, and
/// want them to pass quickly.
pub(crate) fn asked_to_measure() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}
