//! Pure: the events that were read and that the cursor has not passed yet, in the order of WorkOS.
//!
//! WorkOS holds the newest events back for some seconds, and may show an older one after a newer one was read.
//! So reading goes on not after the newest event but a short overlap before it, and the cursor passes an event
//! only when nothing can appear before it any more, and when the ledger has it.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use shared::event::Event;
use tokio::time::Instant;

use crate::guard::Life;

/// An event this old is in its place by any clock, so that catching up does not wait for the overlap.
const OLD: TimeDelta = TimeDelta::minutes(10);

/// Where the broker put an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// In which life of the stream.
    pub(super) life: Life,
    /// Under which sequence.
    pub(super) sequence: u64,
}

/// The stream as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    /// Its life.
    pub(super) life: Life,
    /// Its last sequence.
    pub(super) last: u64,
    /// Workers have handled everything up to this sequence.
    pub(super) floor: u64,
}

impl Stream {
    /// Whether the stream no longer has what it once acknowledged, for an event that the ledger does not have:
    /// it was made anew, it was rolled back, or workers are past that sequence and never saw it.
    #[must_use]
    pub(super) fn lost(&self, stored: Stored) -> bool {
        stored.life != self.life || stored.sequence > self.last || stored.sequence <= self.floor
    }
}

/// An event that was read.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The event.
    pub(super) event: Event,
    /// Whether WorkOS gave it its id, so that reading can go on after it.
    pub(super) named: bool,
    /// When it was first read.
    pub(super) read: Instant,
    /// Where the broker put it, as far as that still holds.
    pub(super) stored: Option<Stored>,
    /// Whether the ledger has it.
    pub(super) recorded: bool,
}

impl Seen {
    /// Whether nothing can appear before it any more.
    fn is_settled(&self, overlap: Duration, now: Instant, clock: DateTime<Utc>) -> bool {
        now.duration_since(self.read) >= overlap
            || self.event.created_at.is_some_and(|created_at| clock - created_at >= OLD)
    }
}

/// A place in the list of events that the cursor may stand at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The event's id.
    pub(super) id: String,
    /// When WorkOS made it.
    pub(super) created_at: Option<DateTime<Utc>>,
}

/// The events after the cursor.
#[derive(Debug)]
pub(super) struct Window {
    /// How long after an event was first read an older one may still appear before it.
    overlap: Duration,
    seen: VecDeque<Seen>,
    ids: HashSet<String>,
    unrecorded: usize,
    /// Where the next event that is read belongs.
    at: usize,
}

impl Window {
    /// Nothing was read yet.
    pub(super) fn new(overlap: Duration) -> Self {
        Self { overlap, seen: VecDeque::new(), ids: HashSet::new(), unrecorded: 0, at: 0 }
    }

    /// Begins to read: after the event that this returns, or after the cursor if there is none.
    pub(super) fn begin(&mut self, now: Instant, clock: DateTime<Utc>) -> Option<String> {
        let settled = self.seen.iter().take_while(|seen| seen.is_settled(self.overlap, now, clock)).count();
        let place = self.seen.iter().take(settled).rposition(|seen| seen.named);
        self.at = place.map_or(0, |place| place + 1);
        place.and_then(|place| self.seen.get(place)).map(|seen| seen.event.id.clone())
    }

    /// Takes the next event that was read. Says whether it is new here.
    pub(super) fn read(&mut self, event: Event, named: bool, now: Instant) -> bool {
        if !self.ids.insert(event.id.clone()) {
            // What stands between was shown before and is not shown now; it stays where it was.
            if let Some(further) = self.seen.iter().skip(self.at).position(|seen| seen.event.id == event.id) {
                self.at += further + 1;
            }
            return false;
        }
        self.seen.insert(self.at, Seen { event, named, read: now, stored: None, recorded: false });
        self.unrecorded += 1;
        self.at += 1;
        true
    }

    /// Everything that WorkOS has was read.
    pub(super) fn end(&mut self) {
        self.at = self.seen.len();
    }

    /// How many events the ledger does not have yet.
    #[must_use]
    pub(super) fn unrecorded(&self) -> usize {
        self.unrecorded
    }

    /// The events that the ledger does not have yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter().filter(|seen| !seen.recorded)
    }

    /// The ledger has these.
    pub(super) fn record(&mut self, ids: &HashSet<String>) {
        for seen in self.seen.iter_mut().filter(|seen| !seen.recorded) {
            if ids.contains(&seen.event.id) {
                seen.recorded = true;
                self.unrecorded -= 1;
            }
        }
    }

    /// Forgets where events were stored that the stream no longer has. To be called after the ledger was asked,
    /// and that after the stream was: then what workers are past and the ledger lacks is lost.
    pub(super) fn forget_lost(&mut self, stream: Stream) {
        for seen in self.seen.iter_mut().filter(|seen| !seen.recorded) {
            seen.stored = seen.stored.filter(|stored| !stream.lost(*stored));
        }
    }

    /// The events that are neither in the ledger nor in the stream.
    pub(super) fn unstored(&mut self) -> impl Iterator<Item = &mut Seen> {
        self.seen.iter_mut().filter(|seen| !seen.recorded && seen.stored.is_none())
    }

    /// Lets go of what the cursor may pass, and says where it stands then; `None` when it stays.
    pub(super) fn pass(&mut self, now: Instant, clock: DateTime<Utc>) -> Option<Place> {
        let mut place = None;
        while self.at > 0
            && let Some(first) = self.seen.front()
            && first.recorded
            && first.is_settled(self.overlap, now, clock)
        {
            let Some(passed) = self.seen.pop_front() else { break };
            self.ids.remove(&passed.event.id);
            self.at -= 1;
            if passed.named {
                place = Some(Place { created_at: passed.event.created_at, id: passed.event.id });
            }
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use shared::event::Channel;

    use super::*;

    const OVERLAP: Duration = Duration::from_secs(30);

    struct Reader {
        window: Window,
        now: Instant,
        clock: DateTime<Utc>,
    }

    impl Reader {
        fn new() -> Self {
            Self { window: Window::new(OVERLAP), now: Instant::now(), clock: DateTime::UNIX_EPOCH }
        }

        fn wait(&mut self, wait: Duration) {
            self.now += wait;
            self.clock += wait;
        }

        /// Reads a whole list that shows these after where reading begins; returns what was new.
        fn reads<'a>(&mut self, ids: &[&'a str]) -> (Option<String>, Vec<&'a str>) {
            let after = self.window.begin(self.now, self.clock);
            let new =
                ids.iter().copied().filter(|id| self.window.read(self.event(id), true, self.now)).collect();
            self.window.end();
            (after, new)
        }

        fn event(&self, id: &str) -> Event {
            Event {
                id: id.to_owned(),
                event_type: "user.updated".to_owned(),
                kind: None,
                operation: None,
                object_id: None,
                organization_id: None,
                directory_id: None,
                member: None,
                created_at: Some(self.clock),
                updated_at: None,
                actor: None,
                received_at: self.clock,
                channel: Channel::Tail,
            }
        }

        fn records(&mut self, ids: &[&str]) {
            self.window.record(&ids.iter().map(|&id| id.to_owned()).collect());
        }

        fn cursor(&mut self) -> Option<String> {
            self.window.pass(self.now, self.clock).map(|place| place.id)
        }
    }

    #[test]
    fn the_cursor_passes_what_is_recorded_once_nothing_can_come_before_it() {
        let mut reader = Reader::new();
        reader.reads(&["a", "b", "c"]);
        reader.records(&["a", "c"]);
        assert_eq!(reader.cursor(), None, "an older one may appear");
        reader.wait(OVERLAP);
        assert_eq!(reader.cursor().as_deref(), Some("a"), "b is not recorded");
        reader.records(&["b"]);
        assert_eq!(reader.cursor().as_deref(), Some("c"));
        assert_eq!(reader.window.unrecorded(), 0);
    }

    #[test]
    fn an_older_event_that_appears_late_stands_in_its_place() {
        let mut reader = Reader::new();
        reader.reads(&["a", "c"]);
        reader.wait(OVERLAP / 2);
        assert_eq!(reader.reads(&["a", "b", "c"]), (None, vec!["b"]), "the overlap is read again");
        reader.records(&["a", "c"]);
        reader.wait(OVERLAP);
        assert_eq!(reader.cursor().as_deref(), Some("a"), "the cursor waits for the one that came late");
        reader.records(&["b"]);
        assert_eq!(reader.cursor().as_deref(), Some("c"));
    }

    #[test]
    fn reading_goes_on_where_nothing_can_appear_before_whether_it_is_recorded_or_not() {
        let mut reader = Reader::new();
        reader.reads(&["a", "b"]);
        reader.wait(OVERLAP);
        assert_eq!(reader.reads(&["c"]), (Some("b".to_owned()), vec!["c"]));
        assert_eq!(reader.reads(&["c"]), (Some("b".to_owned()), vec![]), "c is read again");
        assert_eq!(reader.cursor(), None);
        assert_eq!(reader.window.missing().count(), 3);
    }

    #[test]
    fn pages_that_overlap_and_events_shown_twice_change_nothing() {
        let mut reader = Reader::new();
        assert_eq!(reader.reads(&["a", "b", "a", "b", "c"]).1, ["a", "b", "c"]);
        reader.records(&["a", "b", "c"]);
        reader.wait(OVERLAP);
        assert_eq!(reader.cursor().as_deref(), Some("c"));
    }

    #[test]
    fn what_is_no_longer_shown_holds_the_cursor_until_it_is_recorded() {
        let mut reader = Reader::new();
        reader.reads(&["a", "b", "c"]);
        reader.reads(&["c", "d"]);
        reader.records(&["a", "c", "d"]);
        reader.wait(OVERLAP);
        assert_eq!(reader.cursor().as_deref(), Some("a"));
        reader.records(&["b"]);
        assert_eq!(reader.cursor().as_deref(), Some("d"));
    }

    #[test]
    fn an_item_without_an_id_of_its_own_is_passed_but_is_no_cursor() {
        let mut reader = Reader::new();
        reader.reads(&["a"]);
        let unnamed = reader.event("unreadable_after_a");
        reader.window.read(unnamed, false, reader.now);
        reader.records(&["a", "unreadable_after_a"]);
        reader.wait(OVERLAP);
        assert_eq!(reader.cursor().as_deref(), Some("a"));
        assert_eq!(reader.window.begin(reader.now, reader.clock), None, "nothing is kept");
    }

    #[test]
    fn what_the_stream_lost_is_published_again() {
        let life = DateTime::UNIX_EPOCH;
        let stream = Stream { life, last: 10, floor: 5 };
        let stored = |sequence| Stored { life, sequence };
        assert!(!stream.lost(stored(6)), "a worker may have it in hand");
        assert!(stream.lost(stored(5)), "workers are past it, and the ledger lacks it");
        assert!(stream.lost(stored(11)), "the stream was rolled back");
        assert!(stream.lost(Stored { life: life + TimeDelta::seconds(1), sequence: 7 }), "another life");

        let mut reader = Reader::new();
        reader.reads(&["a", "b"]);
        for seen in reader.window.unstored() {
            seen.stored = Some(stored(7));
        }
        reader.window.forget_lost(stream);
        assert_eq!(reader.window.unstored().count(), 0);
        reader.window.forget_lost(Stream { floor: 7, ..stream });
        assert_eq!(reader.window.unstored().count(), 2);
        reader.records(&["a"]);
        assert_eq!(reader.window.unstored().count(), 1, "what is recorded needs no stream");
    }
}
