//! A worker that dies between any two steps of a batch.

use serde_json::json;
use shared::id::Kind;
use support::world::World;

use crate::ledger::audits;

/// The places in the order of a batch.
const PLACES: [&str; 8] = [
    "after_look_up",
    "after_ask",
    "after_claim",
    "after_write",
    "before_commit",
    "after_commit",
    "before_settle",
    "mid_settle",
];

#[tokio::test]
async fn a_worker_that_dies_between_any_two_steps_loses_nothing_and_does_nothing_twice() {
    let mut world = World::builder().env("SYNC_ACK_WAIT", "1s").start().await;
    for place in PLACES {
        world.worker(0).terminate().await.expect("the worker leaves");
        world.worker(0).set("SYNC_CRASH_AT", place);
        let (ada, acme) = (world.sim().user("ada@example.com"), world.sim().organization("Acme"));
        let membership = world.sim().membership(&ada, &acme);
        world
            .eventually("webhooks stored", async || (world.sim().pending_deliveries() == 0).then_some(()))
            .await;
        world.worker(0).start_again().expect("the worker starts");
        let died = world.worker(0).wait().await.expect("the worker ends");
        assert!(!died.success(), "{place}: the worker was to die");

        world.worker(0).set("SYNC_CRASH_AT", "");
        world.start_worker_again(0).await;
        world.settled().await;
        world.assert_in_step().await;
        for id in [&ada, &acme, &membership] {
            let audits = audits(&world, id).await;
            assert_eq!(audits.len(), 1, "{place}: {id} was written more than once");
        }
        world.sim().update(Kind::User, &ada, json!({"first_name": place}));
        world.settled().await;
        world.assert_in_step().await;
    }
}
