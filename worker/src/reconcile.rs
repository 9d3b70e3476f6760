//! Making many objects agree when no event came: what a list told of them, or one question each, until it is certain
//! how each of them ends. All of it goes through the one verb, [`Sync::run`].

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use shared::clock;
use shared::id::ObjectRef;

use crate::guard::{self, Known, Question};
use crate::listing::{self, Interruption, Patience};
use crate::outcome::Outcome;
use crate::sync::{Ending, Sync, Told, Wish, within_time};
use crate::{object, relations};

/// Objects that are asked for in one transaction.
const AT_ONCE: usize = 100;

/// How an object ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The mirror agrees with the last answer.
    Agrees(Outcome),
    /// It could not be made to agree: why.
    Failed(String),
}

/// Objects and how they ended.
pub type Settlements = Vec<(ObjectRef, Settled)>;

/// Takes a fence.
pub async fn fence(sync: &Sync, patience: &Patience) -> Result<i64, Interruption> {
    patience.postgres(|| within_time(guard::fence(&sync.database))).await
}

/// What the guard knows of these objects.
pub async fn known(
    sync: &Sync,
    patience: &Patience,
    objects: &[&ObjectRef],
) -> Result<HashMap<ObjectRef, Known>, Interruption> {
    patience.postgres(|| within_time(guard::known(&sync.database, &sync.env, objects))).await
}

/// Takes what a page told, which was asked for under `fence`.
pub async fn take(
    sync: &Sync,
    patience: &Patience,
    fence: i64,
    told: Vec<Told>,
) -> Result<Settlements, Interruption> {
    // What comes with an object is told too, and has an ending of its own.
    let embedded: Vec<Told> = told
        .iter()
        .flat_map(|told| &told.embedded)
        .map(|record| Told { record: record.clone(), embedded: Vec::new() })
        .collect();
    let all: Vec<Told> = told.into_iter().chain(embedded).collect();
    let objects: Vec<ObjectRef> = all.iter().map(|told| told.record.object.clone()).collect();
    let mut known = known(sync, patience, &objects.iter().collect::<Vec<_>>()).await?;
    let wishes = all.into_iter().map(|told| {
        let before = known.remove(&told.record.object);
        Wish::told(told, before)
    });
    let mut settled = Vec::with_capacity(objects.len());
    let mut open = Vec::new();
    for (object, ending) in run(sync, patience, fence, wishes.collect()).await? {
        match ending {
            Ending::Fails(_) => open.push(object),
            Ending::Ends(outcome, _) => settled.push((object, Settled::Agrees(outcome))),
            Ending::Duplicate => {}
        }
    }
    settled.extend(settle(sync, patience, open).await?);
    Ok(settled)
}

/// Asks for each of these objects, and again as long as that may help: a first 404 counts when it repeats, a stale
/// answer becomes a fresh one, a rate limit passes.
pub async fn settle(
    sync: &Sync,
    patience: &Patience,
    objects: Vec<ObjectRef>,
) -> Result<Settlements, Interruption> {
    let mut settled = Vec::with_capacity(objects.len());
    let mut open = objects;
    let mut round = 1;
    let since = tokio::time::Instant::now();
    while !open.is_empty() {
        let mut delay = Duration::ZERO;
        let mut still = Vec::new();
        for part in open.chunks(AT_ONCE) {
            if patience.stop.is_cancelled() {
                return Err(Interruption::Stopped);
            }
            let known = known(sync, patience, &part.iter().collect::<Vec<_>>()).await?;
            let fence = fence(sync, patience).await?;
            let wishes = part.iter().map(|object| Wish::asking(object.clone(), known.get(object).cloned()));
            for (object, ending) in run(sync, patience, fence, wishes.collect()).await? {
                match ending {
                    Ending::Ends(outcome, _) => settled.push((object, Settled::Agrees(outcome))),
                    Ending::Duplicate => {}
                    Ending::Fails(failure) => {
                        match listing::again(&failure, round, since.elapsed(), patience.limit) {
                            Some(wait) => {
                                delay = delay.max(wait);
                                still.push(object);
                            }
                            None => match listing::interruption(&failure) {
                                Some(interruption) => return Err(interruption),
                                None => settled.push((object, Settled::Failed(failure.reason()))),
                            },
                        }
                    }
                }
            }
        }
        if !still.is_empty() {
            patience.pause(delay).await?;
        }
        open = still;
        round += 1;
    }
    Ok(settled)
}

/// One pass of the verb.
async fn run(
    sync: &Sync,
    patience: &Patience,
    fence: i64,
    mut wishes: Vec<Wish>,
) -> Result<Vec<(ObjectRef, Ending)>, Interruption> {
    for (place, wish) in wishes.iter_mut().enumerate() {
        // Beyond the batch, which is empty: nobody's event, but the ending is told.
        wish.events = vec![place];
    }
    let question = Question { fence, covers: None, at: clock::now() };
    let mut endings = patience
        .postgres(|| async {
            let mut endings = BTreeMap::new();
            sync.run(question, &[], wishes.clone(), &mut endings).await?;
            Ok(endings)
        })
        .await?;
    Ok(wishes
        .into_iter()
        .enumerate()
        .map(|(place, wish)| {
            // An object that a page shows twice has the one ending.
            let ending =
                endings.remove(&place).unwrap_or(Ending::Ends(Outcome::Superseded, Some("coalesced")));
            (wish.object, ending)
        })
        .collect())
}

/// Asks for an object, and for what belongs to it.
pub async fn with_relations(
    sync: &Sync,
    patience: &Patience,
    object: &ObjectRef,
) -> Result<Settlements, Interruption> {
    let mut attempts = patience.attempts();
    let (first, related) = loop {
        let first = fence(sync, patience).await?;
        match relations::wishes_for(sync, object).await {
            Ok(related) => break (first, related),
            Err(failure) => {
                if !attempts.again(&failure).await? {
                    return Err(listing::interruption(&failure).unwrap_or_else(|| {
                        Interruption::Unreadable(format!("what belongs to {object}"), failure.reason())
                    }));
                }
            }
        }
    };
    // The object first: what belongs to it hangs on it.
    let mut objects = settle(sync, patience, vec![object.clone()]).await?;
    let mut open = Vec::new();
    for part in related.chunks(AT_ONCE) {
        for (object, ending) in run(sync, patience, first, part.to_vec()).await? {
            match ending {
                Ending::Ends(outcome, _) => objects.push((object, Settled::Agrees(outcome))),
                Ending::Duplicate => {}
                Ending::Fails(_) => open.push(object),
            }
        }
    }
    objects.extend(settle(sync, patience, open).await?);
    let relations = objects
        .iter()
        .filter(|(_, settled)| !matches!(settled, Settled::Agrees(Outcome::Deleted) | Settled::Failed(_)))
        .flat_map(|(object, _)| object::relations_of(object))
        .collect();
    objects.extend(settle(sync, patience, relations).await?);
    Ok(objects)
}
