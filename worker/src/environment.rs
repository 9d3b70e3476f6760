//! Whether the key opens the environment that the mirror holds. A key of another one is answered with 404 for
//! everything, which looks as if all of it had been deleted, and with lists of things that do not belong here.

use shared::id::{Kind, ObjectRef};

use crate::backfill::live;
use crate::listing::{Interruption, Patience};
use crate::object;
use crate::sync::Sync;
use crate::workos::Answer;

/// Rows of a kind that are tried, until WorkOS has one. Mostly that is the first.
const TRIED: usize = 10;
/// Fewer may all have been deleted by somebody.
const FEW: usize = 5;

/// Asks for some live rows before lists are read: `Err` when WorkOS has none of them.
pub async fn check(sync: &Sync, patience: &Patience) -> Result<(), Interruption> {
    let mut missing = 0;
    for kind in tried() {
        let rows = patience.postgres(|| live(sync, kind, "")).await?;
        let step = rows.len().div_ceil(TRIED).max(1);
        for id in rows.into_iter().step_by(step) {
            let replies = sync.workos.ask(&[ObjectRef::new(kind, id)], sync.lane).await;
            // Whatever else WorkOS says, it does not say that everything is gone.
            if !replies.iter().all(|reply| matches!(reply.answer, Ok(Answer::NotFound))) {
                return Ok(());
            }
            missing += 1;
        }
    }
    if missing < FEW { Ok(()) } else { Err(Interruption::OtherEnvironment(missing)) }
}

/// The kinds that are tried: what hangs on nothing. A slug says nothing, another environment may have it too.
fn tried() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| object::hangs_on(*kind).is_empty() && !object::reuses_keys(*kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_is_of_this_environment_alone_and_is_there_by_itself() {
        assert_eq!(tried().collect::<Vec<_>>(), [Kind::Organization, Kind::User]);
    }
}
