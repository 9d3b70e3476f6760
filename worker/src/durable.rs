//! Durable consumers: made by whoever comes first, and kept by the broker.

use anyhow::Context as _;
use async_nats::jetstream::consumer::{Consumer, FromConsumer as _, pull};
use async_nats::jetstream::stream::Stream;

/// The consumer of this name, with the waits and limits that we want now: those of one that is there are changed, the
/// rest is left as its owner has it. Copies with different settings change them once each time they subscribe.
pub(crate) async fn consumer(
    stream: &Stream<()>,
    name: &str,
    wanted: pull::Config,
) -> anyhow::Result<Consumer<pull::Config>> {
    let consumer: Consumer<pull::Config> = stream
        .get_or_create_consumer(name, wanted.clone())
        .await
        .with_context(|| format!("failed to create the consumer {name}"))?;
    let config = consumer.cached_info().config.clone();
    let mut changed = pull::Config::try_from_consumer_config(config)
        .map_err(|error| anyhow::anyhow!(error))
        .with_context(|| format!("the consumer {name} is not ours"))?;
    let before = limits(&changed);
    changed.ack_wait = wanted.ack_wait;
    // 0 leaves it to the broker.
    if wanted.max_deliver != 0 {
        changed.max_deliver = wanted.max_deliver;
    }
    if wanted.max_ack_pending != 0 {
        changed.max_ack_pending = wanted.max_ack_pending;
    }
    if limits(&changed) == before {
        return Ok(consumer);
    }
    tracing::info!(
        consumer = name,
        ack_wait = ?changed.ack_wait,
        max_deliver = changed.max_deliver,
        max_ack_pending = changed.max_ack_pending,
        "the consumer had other settings, changing them"
    );
    stream.create_consumer(changed).await.with_context(|| format!("failed to change the consumer {name}"))
}

fn limits(config: &pull::Config) -> (std::time::Duration, i64, i64) {
    (config.ack_wait, config.max_deliver, config.max_ack_pending)
}
