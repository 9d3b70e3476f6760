//! What the benchmarks use: [`settings`], [`payload`] and [`load`] to make work, [`broker`] to queue it,
//! [`machine`] to look at processes, [`report`] to print.

#![allow(dead_code, reason = "each benchmark uses its part")]

pub(crate) mod broker;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod paced;
pub(crate) mod payload;
pub(crate) mod report;
pub(crate) mod settings;

/// What signs the webhooks.
pub(crate) const SECRET: &str = "whsec_of_the_benchmark";

/// The label of the WorkOS environment.
pub(crate) const ENVIRONMENT: &str = "bench";

/// Runs something that blocks, or has a runtime of its own, beside the current runtime.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// One thread that does nothing else: what a measuring client runs on.
pub(crate) fn on_one_thread<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Settings, as the programs want them.
pub(crate) fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Numbers here are far from where precision ends.
#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark stay below 2^52")]
pub(crate) fn float(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

/// The middle one; 0 of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.as_slice() {
        [] => 0.0,
        all if all.len() % 2 == 1 => all[middle],
        all => f64::midpoint(all[middle - 1], all[middle]),
    }
}

/// Several stages one after the other on the same machine: their times add up.
pub(crate) fn in_series(rates: &[f64]) -> f64 {
    1.0 / rates.iter().map(|rate| 1.0 / rate).sum::<f64>()
}
