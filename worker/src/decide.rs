//! Pure: what to do with an event before asking, and what an answer means. No clock, no network, no
//! database.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use shared::event::{Event, Member};

use crate::failure::Failure;
use crate::guard::{DeletedBy, Known, Life};
use crate::object::{self, Record};
use crate::outcome::Outcome;
use crate::workos::Answer;

/// How long after the first 404 a second one counts. A little less than the delay after which it is
/// asked again, so that the second question is not too early by a hair.
pub const CONFIRM_AFTER: Duration = Duration::from_millis(2_500);

/// Why an event is superseded that an answer covers.
pub const COVERED: &str = "covered";

/// Why the deletion of a key is superseded that something else has by now.
pub const BORN_LATER: &str = "born_later";

/// Where an event stands before anything is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has its outcome already: nothing to do, nothing to write.
    Settled,
    /// It ends here, without a question.
    Ends(Outcome, &'static str),
    /// It declares its object deleted: a tombstone at once.
    Deletes,
    /// WorkOS must be asked.
    Asks,
    /// Nothing can be done with it, or not by this version of the program.
    Fails(Failure),
}

/// How much later than a question an event is published by the broker's clock, for the question not to have known of it
/// whatever the sequences say: clocks differ a little.
const SURELY_LATER: TimeDelta = TimeDelta::seconds(5);

/// Where an event is in the stream.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its sequence.
    pub sequence: i64,
    /// When it was published, by the broker's clock.
    pub published: DateTime<Utc>,
}

impl Place {
    /// Whether an answer covers it that reaches so far in the stream of this life. A stream that lost its end (a power
    /// loss, a restored backup) gives the same sequences to other events: those were published after the question.
    fn is_covered(self, life: Option<Life>, known: &Known) -> bool {
        known.covers.is_some_and(|(of, covers)| Some(of) == life && self.sequence <= covers)
            && known.asked_at.is_none_or(|asked| self.published <= asked + SURELY_LATER)
    }
}

/// Decides where an event stands. `place` is in the stream whose life is `life`; `life` is `None` when it is not certain
/// which life its sequence belongs to.
#[must_use]
pub fn standing(
    event: &Event,
    place: Place,
    life: Option<Life>,
    settled: bool,
    known: Option<&Known>,
) -> Standing {
    if settled {
        return Standing::Settled;
    }
    if event.kind.is_some() && event.object_id.is_none() {
        return Standing::Fails(Failure::Malformed);
    }
    if event.kind.is_none() {
        return Standing::Ends(Outcome::Ignored, "not_mirrored");
    }
    let Some(object) = event.object() else { return Standing::Fails(Failure::LaterVersion) };
    let Some(known) = known else {
        return if event.is_deletion() { Standing::Deletes } else { Standing::Asks };
    };
    let reused = object::reuses_keys(object.kind);
    if event.is_deletion() && reused {
        return ending_of_a_life(event.happened_at(), known);
    }
    if event.is_deletion() {
        // A tombstone that only an answer or a parent made becomes final with the event.
        return match known.deleted_by {
            Some(DeletedBy::Event) => Standing::Ends(Outcome::Unchanged, "already_deleted"),
            Some(DeletedBy::Answer | DeletedBy::Cascade) | None => Standing::Deletes,
        };
    }
    // A key that may be used again is dead only to what happened before its last deletion.
    let outlived = reused && event.updated_at.is_none_or(|said| Some(said) >= known.died_at);
    if known.deleted_by == Some(DeletedBy::Event) && !outlived {
        return Standing::Ends(Outcome::Superseded, "deleted");
    }
    // An answer that is older than what this event says was a stale read: it does not cover it.
    // Nor does a tombstone cover an event that tells of a later life.
    let stale = match known.deleted_by {
        None => {
            matches!((event.updated_at, known.updated_at), (Some(said), Some(stored)) if said > stored)
        }
        Some(DeletedBy::Event) => true,
        Some(DeletedBy::Answer | DeletedBy::Cascade) => false,
    };
    // How a member ended, the event itself tells and no answer does.
    let tells_an_end = event.member.as_ref().is_some_and(Member::tells_its_end);
    if place.is_covered(life, known) && !stale && !tells_an_end {
        Standing::Ends(Outcome::Superseded, COVERED)
    } else {
        Standing::Asks
    }
}

/// What a deletion means for a key that may be used again: it ends the life that had the key by then.
fn ending_of_a_life(at: DateTime<Utc>, known: &Known) -> Standing {
    match known.deleted_by {
        Some(DeletedBy::Event) if known.died_at >= Some(at) => {
            Standing::Ends(Outcome::Unchanged, "already_deleted")
        }
        None if known.born_at >= Some(at) => Standing::Ends(Outcome::Superseded, BORN_LATER),
        Some(_) | None => Standing::Deletes,
    }
}

/// What an answer means for an object.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// WorkOS has it.
    Present(Box<Record>),
    /// WorkOS no longer has it.
    Gone(DeletedBy),
    /// A first 404 that nothing explains.
    Missing,
    /// Nothing can be said now.
    Wait(Failure),
}

/// Judges an answer. `said` is the newest `updated_at` that an event told of the object.
#[must_use]
pub fn judge(
    answer: Result<Answer, Failure>,
    said: Option<DateTime<Utc>>,
    known: Option<&Known>,
    now: DateTime<Utc>,
) -> Verdict {
    match answer {
        Ok(Answer::Found(record)) if is_stale(&record, said, known) => Verdict::Wait(Failure::StaleRead),
        Ok(Answer::Found(record)) => Verdict::Present(record),
        Ok(Answer::NotFound) => {
            let Some(known) = known else { return Verdict::Missing };
            // A later life, of which an event told, is not explained by the deletion of an earlier one.
            let explains =
                |by: &DeletedBy| *by != DeletedBy::Event || known.died_at.is_none() || said < known.died_at;
            if let Some(by) = known.deleted_by.filter(explains) {
                return Verdict::Gone(by);
            }
            match known.missing_since {
                Some(since) if (now - since).to_std().is_ok_and(|waited| waited >= CONFIRM_AFTER) => {
                    Verdict::Gone(DeletedBy::Answer)
                }
                _ => Verdict::Missing,
            }
        }
        Err(failure) => Verdict::Wait(failure),
    }
}

/// Whether an answer is older than what an event said, or than the answer that was taken.
#[must_use]
pub fn is_stale(record: &Record, said: Option<DateTime<Utc>>, known: Option<&Known>) -> bool {
    let stored = known.filter(|known| known.deleted_by.is_none()).and_then(|known| known.updated_at);
    matches!((record.row.updated_at(), said.max(stored)), (Some(answered), Some(newest)) if answered < newest)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;
    use shared::event::Channel;
    use shared::id::{Kind, ObjectRef};

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn event(event_type: &str, updated_at: Option<DateTime<Utc>>) -> Event {
        let entry = shared::catalogue::find(event_type);
        Event {
            id: "event_1".to_owned(),
            event_type: event_type.to_owned(),
            kind: entry.and_then(|entry| entry.kind).map(|kind| kind.name().to_owned()),
            operation: entry.and_then(|entry| entry.operation),
            object_id: entry.map(|_| "user_1".to_owned()),
            organization_id: None,
            directory_id: None,
            member: None,
            created_at: None,
            updated_at,
            actor: None,
            received_at: at(0),
            channel: Channel::Webhook,
        }
    }

    fn place(sequence: i64) -> Place {
        Place { sequence, published: at(0) }
    }

    fn covering(sequence: i64, updated_at: Option<DateTime<Utc>>) -> Known {
        Known { fence: 7, covers: Some((at(1), sequence)), updated_at, has_row: true, ..Known::default() }
    }

    fn found(updated_at: i64) -> Answer {
        let body = json!({"id": "user_1", "updated_at": at(updated_at).to_rfc3339()}).to_string();
        let mut records =
            object::read(&ObjectRef::new(Kind::User, "user_1"), body.as_bytes()).expect("a user");
        Answer::Found(Box::new(records.remove(0)))
    }

    #[test]
    fn a_sequence_that_was_given_twice_does_not_cover_what_was_published_after_the_question() {
        let known = Known { asked_at: Some(at(100)), ..covering(10, None) };
        let update = event("user.updated", None);
        let published = |seconds| Place { published: at(seconds), ..place(10) };
        let stands = |seconds| standing(&update, published(seconds), Some(at(1)), false, Some(&known));
        for before in [90, 100, 104] {
            assert_eq!(stands(before), Standing::Ends(Outcome::Superseded, COVERED), "{before}");
        }
        assert_eq!(stands(106), Standing::Asks);
    }

    #[test]
    fn an_event_that_an_answer_covers_is_superseded_without_asking() {
        let known = covering(10, Some(at(5)));
        let update = event("user.updated", Some(at(5)));
        assert_eq!(
            standing(&update, place(10), Some(at(1)), false, Some(&known)),
            Standing::Ends(Outcome::Superseded, COVERED)
        );
        assert_eq!(
            standing(&update, place(11), Some(at(1)), false, Some(&known)),
            Standing::Asks,
            "published later"
        );
    }

    #[test]
    fn an_answer_that_was_a_stale_read_covers_nothing_newer() {
        let known = covering(10, Some(at(5)));
        let newer = event("user.updated", Some(at(6)));
        assert_eq!(standing(&newer, place(10), Some(at(1)), false, Some(&known)), Standing::Asks);
    }

    #[test]
    fn sequences_of_another_life_of_the_stream_say_nothing() {
        let known = covering(10, Some(at(5)));
        let update = event("user.updated", None);
        assert_eq!(standing(&update, place(3), Some(at(2)), false, Some(&known)), Standing::Asks);
        assert_eq!(standing(&update, place(3), None, false, Some(&known)), Standing::Asks);
    }

    #[test]
    fn a_deletion_is_never_covered() {
        let known = covering(10, Some(at(5)));
        assert_eq!(
            standing(&event("user.deleted", None), place(3), Some(at(1)), false, Some(&known)),
            Standing::Deletes
        );
        assert_eq!(
            standing(&event("user.deleted", None), place(3), Some(at(1)), false, None),
            Standing::Deletes
        );
    }

    #[test]
    fn what_an_event_declared_deleted_is_not_asked_for_again() {
        let known = Known { deleted_by: Some(DeletedBy::Event), ..Known::default() };
        assert_eq!(
            standing(&event("user.updated", Some(at(99))), place(99), Some(at(1)), false, Some(&known)),
            Standing::Ends(Outcome::Superseded, "deleted")
        );
        assert_eq!(
            standing(&event("user.deleted", None), place(99), Some(at(1)), false, Some(&known)),
            Standing::Ends(Outcome::Unchanged, "already_deleted")
        );
    }

    /// An event of a role whose key is used again.
    fn of_a_role(event_type: &str, happened_at: i64, updated_at: i64) -> Event {
        Event {
            object_id: Some("admin".to_owned()),
            created_at: Some(at(happened_at)),
            ..event(event_type, Some(at(updated_at)))
        }
    }

    #[test]
    fn a_deletion_of_a_key_ends_the_life_that_had_it_by_then() {
        let deletion = of_a_role("role.deleted", 20, 15);
        let standing_with = |known: &Known| standing(&deletion, place(3), Some(at(1)), false, Some(known));
        let alive = |born| Known { born_at: Some(at(born)), has_row: true, ..Known::default() };
        assert_eq!(standing_with(&alive(10)), Standing::Deletes);
        assert_eq!(standing_with(&alive(30)), Standing::Ends(Outcome::Superseded, BORN_LATER));
        let dead =
            |died| Known { deleted_by: Some(DeletedBy::Event), died_at: Some(at(died)), ..Known::default() };
        assert_eq!(standing_with(&dead(20)), Standing::Ends(Outcome::Unchanged, "already_deleted"));
        assert_eq!(standing_with(&dead(5)), Standing::Deletes, "a later life ended too");
    }

    #[test]
    fn what_tells_of_a_life_after_the_deletion_is_asked_for_and_a_404_does_not_explain_it() {
        let known =
            Known { deleted_by: Some(DeletedBy::Event), died_at: Some(at(20)), ..covering(10, Some(at(15))) };
        let stands = |updated_at| {
            let event = of_a_role("role.created", updated_at, updated_at);
            standing(&event, place(3), Some(at(1)), false, Some(&known))
        };
        assert_eq!(stands(15), Standing::Ends(Outcome::Superseded, "deleted"));
        assert_eq!(stands(25), Standing::Asks, "whatever the tombstone covers");
        let missing = |said| judge(Ok(Answer::NotFound), Some(at(said)), Some(&known), at(30));
        assert!(matches!(missing(15), Verdict::Gone(DeletedBy::Event)));
        assert!(matches!(missing(25), Verdict::Missing));
    }

    #[test]
    fn an_unknown_type_is_ignored_and_an_event_without_its_id_is_malformed() {
        assert_eq!(
            standing(&event("planet.created", None), place(1), None, false, None),
            Standing::Ends(Outcome::Ignored, "not_mirrored")
        );
        let mut later = event("user.updated", None);
        later.kind = Some("planet".to_owned());
        assert_eq!(
            standing(&later, place(1), None, false, None),
            Standing::Fails(Failure::LaterVersion),
            "a kind of a later version"
        );
        let mut nameless = event("user.updated", None);
        nameless.object_id = None;
        assert_eq!(standing(&nameless, place(1), None, false, None), Standing::Fails(Failure::Malformed));
    }

    #[test]
    fn an_answer_older_than_the_event_or_than_the_row_is_stale() {
        let stale = |verdict| matches!(verdict, Verdict::Wait(Failure::StaleRead));
        assert!(stale(judge(Ok(found(4)), Some(at(5)), None, at(9))));
        assert!(stale(judge(Ok(found(4)), None, Some(&covering(1, Some(at(5)))), at(9))));
        assert!(!stale(judge(Ok(found(5)), Some(at(5)), Some(&covering(1, Some(at(5)))), at(9))));
    }

    #[test]
    fn a_404_counts_only_when_it_repeats_after_a_delay() {
        let missing = Known { missing_since: Some(at(10)), ..Known::default() };
        let judged = |known: Option<&Known>, now| judge(Ok(Answer::NotFound), None, known, now);
        assert!(matches!(judged(None, at(10)), Verdict::Missing));
        assert!(matches!(judged(Some(&covering(1, None)), at(10)), Verdict::Missing));
        assert!(matches!(judged(Some(&missing), at(11)), Verdict::Missing));
        assert!(matches!(judged(Some(&missing), at(9)), Verdict::Missing), "a clock that went back");
        assert!(matches!(judged(Some(&missing), at(13)), Verdict::Gone(DeletedBy::Answer)));
    }
}
