//! Waiting for quiet instead of sleeping.

use std::time::Instant;

use anyhow::{Context as _, bail};
use async_nats::jetstream::consumer::Info;
use shared::subject;

use super::{LOOK, World};

/// Waits until nothing is on its way, in two looks one after the other.
pub(super) async fn wait(world: &World) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut quiet = 0;
    loop {
        let pending = pending(world).await;
        quiet = if pending.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return Ok(());
        }
        if started.elapsed() > world.builder.patience {
            bail!(
                "the world has not settled in {:?} ({:?} old):\n    {}{}",
                world.builder.patience,
                world.started.elapsed(),
                pending.join("\n    "),
                world.programs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What is on its way, a sentence each.
async fn pending(world: &World) -> Vec<String> {
    let mut pending = Vec::new();
    match world.sim.pending_deliveries() {
        0 => {}
        count => pending.push(format!("WorkOS has {count} webhooks to deliver")),
    }
    let consumer = subject::worker_consumer(world.environment());
    match look(world, subject::EVENTS_STREAM, &consumer).await {
        Ok(info) if info.num_pending == 0 && info.num_ack_pending == 0 => {}
        Ok(info) => pending.push(format!(
            "the consumer {consumer} has {} messages to deliver, {} to be acknowledged, {} of them redelivered",
            info.num_pending, info.num_ack_pending, info.num_redelivered
        )),
        Err(error) => pending.push(format!("the broker does not say what is pending: {error:#} (did a worker ever run?)")),
    }
    // A world without a worker has no fast lane.
    let consumer = subject::sync_consumer(world.environment());
    if let Ok(info) = look(world, subject::SYNC_STREAM, &consumer).await
        && info.num_pending + info.num_ack_pending as u64 > 0
    {
        pending.push(format!(
            "the consumer {consumer} has {} requests to deliver, {} to be acknowledged",
            info.num_pending, info.num_ack_pending
        ));
    }
    pending
}

async fn look(world: &World, stream: &str, consumer: &str) -> anyhow::Result<Info> {
    let stream = world.jetstream.get_stream_no_info(stream).await?;
    stream.consumer_info(consumer).await.with_context(|| format!("failed to look at {consumer}"))
}
