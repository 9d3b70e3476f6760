//! Immediate syncs that are on their way: who asks for an object while its answer is still out waits for that
//! answer, so that a hundred calls are one request.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::id::ObjectRef;
use shared::sync_request::SyncReply;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::Unstored;

/// A flight that is older takes nobody along: whoever calls then sends a message of his own.
const BOARDING: Duration = Duration::from_secs(5);

/// A flight of this age has nobody left who waits for it: they came while it was boarding, and wait 30 s at most.
const FORGOTTEN: Duration = Duration::from_secs(40);

/// Objects whose answers may be out at once. Over it callers are told to come again.
const MOST: usize = 10_000;

/// How far a flight is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The broker has not acknowledged it yet.
    Leaving,
    /// It is not known to be stored.
    Unstored(Unstored),
    /// It is stored.
    Queued,
    /// A worker failed, and tries again at that time.
    Retrying {
        /// The failure class.
        reason: String,
        /// Not before then.
        at: Instant,
    },
    /// The worker gave up.
    GivenUp {
        /// The failure class.
        reason: String,
    },
    /// It is done.
    Done {
        /// How it ended.
        outcome: String,
    },
}

/// Everything that is on its way.
#[derive(Default)]
pub struct Flights(Mutex<Board>);

#[derive(Default)]
struct Board {
    by_object: HashMap<ObjectRef, Flight>,
    by_number: HashMap<u64, ObjectRef>,
    last: u64,
}

struct Flight {
    number: u64,
    /// When its last message left.
    left: Instant,
    /// One for each message; a reply is for all of them.
    states: Vec<watch::Sender<State>>,
}

/// A place on a flight.
pub struct Place {
    /// What becomes of it.
    pub state: watch::Receiver<State>,
    /// Who got the first place makes it leave.
    pub departure: Option<Departure>,
}

/// The duty to publish, and then to say how that went.
pub struct Departure {
    /// Names the flight in replies.
    pub number: u64,
    state: watch::Sender<State>,
}

impl Flights {
    /// A place on the flight for this object; `None` when too many are out.
    pub fn join(&self, object: &ObjectRef, now: Instant) -> Option<Place> {
        let mut board = self.lock();
        if let Some(flight) = board.by_object.get_mut(object) {
            flight.states.retain(|state| state.receiver_count() > 0 || *state.borrow() == State::Leaving);
            if let Some(state) = flight.states.last()
                && now.duration_since(flight.left) < BOARDING
            {
                return Some(Place { state: state.subscribe(), departure: None });
            }
            flight.left = now;
            let (sender, state) = watch::channel(State::Leaving);
            flight.states.push(sender.clone());
            return Some(Place {
                state,
                departure: Some(Departure { number: flight.number, state: sender }),
            });
        }
        if board.by_object.len() >= MOST {
            board.forget(now);
        }
        if board.by_object.len() >= MOST {
            return None;
        }
        board.last += 1;
        let number = board.last;
        let (sender, state) = watch::channel(State::Leaving);
        board.by_number.insert(number, object.clone());
        board.by_object.insert(object.clone(), Flight { number, left: now, states: vec![sender.clone()] });
        Some(Place { state, departure: Some(Departure { number, state: sender }) })
    }

    /// The message left, or not. One that did not is no flight: the next call tries by itself.
    pub fn departed(&self, departure: &Departure, stored: Result<(), Unstored>) {
        let Err(why) = stored else {
            // A reply may have been quicker than the acknowledgement.
            departure.state.send_if_modified(|state| {
                let leaving = *state == State::Leaving;
                if leaving {
                    *state = State::Queued;
                }
                leaving
            });
            return;
        };
        departure.state.send_replace(State::Unstored(why));
        let mut board = self.lock();
        let Some(object) = board.by_number.get(&departure.number).cloned() else { return };
        let Some(flight) = board.by_object.get_mut(&object) else { return };
        flight.states.retain(|state| !state.same_channel(&departure.state));
        if flight.states.is_empty() {
            board.end(departure.number);
        }
    }

    /// A worker says what became of a flight.
    pub fn replied(&self, number: u64, reply: SyncReply, now: Instant) {
        let (state, over) = match reply {
            SyncReply::Done { outcome } => (State::Done { outcome }, true),
            SyncReply::GivenUp { reason } => (State::GivenUp { reason }, true),
            SyncReply::Retrying { reason, again_in_ms } => {
                let again = Duration::from_millis(again_in_ms).min(FORGOTTEN);
                (State::Retrying { reason, at: now + again }, false)
            }
        };
        let mut board = self.lock();
        let Some(object) = board.by_number.get(&number) else { return };
        let Some(flight) = board.by_object.get(object) else { return };
        for waiting in &flight.states {
            waiting.send_replace(state.clone());
        }
        if over {
            board.end(number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    fn end(&mut self, number: u64) {
        if let Some(object) = self.by_number.remove(&number) {
            self.by_object.remove(&object);
        }
    }

    /// Flights that no worker ever answered.
    fn forget(&mut self, now: Instant) {
        self.by_object.retain(|_, flight| now.duration_since(flight.left) < FORGOTTEN);
        let flying: Vec<u64> = self.by_object.values().map(|flight| flight.number).collect();
        let flying: std::collections::HashSet<u64> = flying.into_iter().collect();
        self.by_number.retain(|number, _| flying.contains(number));
    }
}

#[cfg(test)]
mod tests {
    use shared::id::Kind;

    use super::*;

    fn ada() -> ObjectRef {
        ObjectRef::new(Kind::User, "user_ada")
    }

    fn done() -> SyncReply {
        SyncReply::Done { outcome: "applied".to_owned() }
    }

    #[test]
    fn a_hundred_calls_for_one_object_are_one_request_and_each_gets_its_answer() {
        let (flights, now) = (Flights::default(), Instant::now());
        let first = flights.join(&ada(), now).expect("a place");
        let departure = first.departure.expect("the first makes it leave");
        let others: Vec<_> = (0..99).map(|_| flights.join(&ada(), now).expect("a place")).collect();
        assert!(others.iter().all(|place| place.departure.is_none()));
        flights.departed(&departure, Ok(()));
        flights.replied(departure.number, done(), now);
        for place in &others {
            assert_eq!(*place.state.borrow(), State::Done { outcome: "applied".to_owned() });
        }
        assert!(flights.join(&ada(), now).expect("a place").departure.is_some(), "and then the next is new");
    }

    #[test]
    fn a_reply_may_be_quicker_than_the_acknowledgement() {
        let (flights, now) = (Flights::default(), Instant::now());
        let place = flights.join(&ada(), now).expect("a place");
        let departure = place.departure.expect("the first makes it leave");
        flights.replied(departure.number, done(), now);
        flights.departed(&departure, Ok(()));
        assert_eq!(*place.state.borrow(), State::Done { outcome: "applied".to_owned() });
    }

    #[test]
    fn a_call_that_comes_late_is_heard_by_itself_and_one_reply_is_for_both() {
        let (flights, now) = (Flights::default(), Instant::now());
        let early = flights.join(&ada(), now).expect("a place");
        flights.departed(&early.departure.expect("it leaves"), Ok(()));
        let late = flights.join(&ada(), now + BOARDING).expect("a place");
        let departure = late.departure.expect("it leaves too");
        flights.departed(&departure, Ok(()));
        flights.replied(departure.number, done(), now);
        assert_eq!(*early.state.borrow(), *late.state.borrow());
    }

    #[test]
    fn what_could_not_be_stored_says_so_to_all_and_takes_nobody_along() {
        let (flights, now) = (Flights::default(), Instant::now());
        let first = flights.join(&ada(), now).expect("a place");
        let second = flights.join(&ada(), now).expect("a place");
        flights.departed(&first.departure.expect("it leaves"), Err(Unstored::NoStream));
        assert_eq!(*second.state.borrow(), State::Unstored(Unstored::NoStream));
        assert!(flights.join(&ada(), now).expect("a place").departure.is_some());
    }

    #[test]
    fn flights_that_nobody_answers_do_not_pile_up() {
        let (flights, now) = (Flights::default(), Instant::now());
        let object = |number: usize| ObjectRef::new(Kind::User, format!("user_{number}"));
        for number in 0..MOST {
            assert!(flights.join(&object(number), now).is_some());
        }
        assert!(flights.join(&ada(), now).is_none(), "all are out");
        assert!(flights.join(&object(0), now).is_some(), "who is out already takes others along");
        assert!(flights.join(&ada(), now + FORGOTTEN).is_some());
        assert_eq!(flights.lock().by_object.len(), 1);
        assert_eq!(flights.lock().by_number.len(), 1);
    }
}
