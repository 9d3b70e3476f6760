//! Where the broker takes its time for each message, events travel in groups (NATS 2.12 and later).

use std::time::Duration;

use async_nats::jetstream;
use futures_util::future::join_all;
use shared::subject::EVENTS_STREAM;
use support::world::World;

use crate::main_path::by_hand;

/// For how long the broker is silent: far longer than an acknowledgement that is not slow.
const SILENCE: Duration = Duration::from_millis(300);

/// Delivers events that the broker acknowledges only after a while.
async fn post_while_silent(world: &mut World, ids: Vec<String>) {
    world.nats().pause().expect("the broker is silent");
    let sim = world.sim().clone();
    let posts = tokio::spawn(async move { join_all(ids.iter().map(|id| sim.post(id))).await });
    tokio::time::sleep(SILENCE).await;
    world.nats().resume().expect("the broker goes on");
    for answer in posts.await.expect("posts") {
        assert_eq!(answer.expect("a delivery"), [200]);
    }
}

#[tokio::test]
async fn when_acknowledgements_are_slow_events_travel_in_groups_and_each_is_stored_once() {
    let mut world = World::builder().workers(0).knobs(by_hand()).start().await;
    for number in 0..400 {
        world.sim().user(&format!("user{number}@example.com"));
    }
    let all: Vec<String> = world.sim().events().into_iter().map(|event| event.id).collect();
    let (ids, late) = all.split_at(300);
    // The first slow acknowledgements are noticed, and then messages travel together.
    let (noticed, together) = ids.split_at(150);
    post_while_silent(&mut world, noticed.to_vec()).await;
    post_while_silent(&mut world, together.to_vec()).await;
    // Some are stored already, and some come twice at the same time: a group that holds one of them is refused.
    let twice = late.iter().chain(late).chain(&ids[..20]).cloned().collect();
    post_while_silent(&mut world, twice).await;

    let client = async_nats::connect(world.nats().url()).await.expect("a connection");
    let takes_groups = client.is_server_compatible(2, 12, 0);
    let stream = jetstream::new(client).get_stream(EVENTS_STREAM).await.expect("the stream");
    let stored = stream.cached_info().state.clone();
    assert_eq!(stored.messages, all.len() as u64);
    let mut grouped = 0;
    for sequence in stored.first_sequence..=stored.last_sequence {
        let message = stream.get_raw_message(sequence).await.expect("a message");
        grouped += usize::from(message.headers.get("Nats-Batch-Id").is_some());
    }
    assert_eq!(grouped > 0, takes_groups, "{grouped} of {}", all.len());
}
